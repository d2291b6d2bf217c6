//! Reads what a partition table says about one partition: its PARTUUID and PARTLABEL.
//!
//! Older kernels (Debian 12's 6.1) do not tell the PARTUUID, so it is read from the disk. Owns the formats GPT and MBR. Leaves to
//! others which partitions there are: that is the kernel's word, see `blockdev`.

use super::superblock::{Disk, le32, le64};
use std::io;
use std::os::unix::fs::FileExt;

/// What a partition table says about one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// PARTUUID in lower case: a GUID, or for MBR `xxxxxxxx-NN` of the disk's signature and the partition's number, both in
    /// hexadecimal. `None` for an MBR without a signature.
    pub uuid: Option<String>,
    /// PARTLABEL; `None` if it is empty, and for MBR.
    pub label: Option<String>,
}

/// Which partition of which disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Counted from 1.
    pub number: u32,
    /// First byte, from the start of the disk.
    pub start: u64,
    /// Size of the disk in bytes.
    pub disk_size: u64,
    /// The disk's logical block size in bytes; the unit of its partition table.
    pub block_size: u32,
}

/// Reads the entry of the partition at `place` from the whole disk `disk`.
///
/// `None` if there is no table that has a partition of that number beginning at that byte: the table was changed after the
/// kernel read it, or is of another kind. The bytes are not trusted: two headers and one entry are read, whatever they say.
///
/// Formats: UEFI specification, section 5. PARTUUID of MBR: kernel, block/partitions/msdos.c.
///
/// # Errors
/// Only what reading `disk` answers.
pub fn read(disk: &impl FileExt, place: Place) -> io::Result<Option<Entry>> {
    let disk = Disk {
        device: disk,
        size: place.disk_size,
    };
    let Some(mbr) = disk.bytes::<512>(0)? else {
        return Ok(None);
    };
    if mbr[510..] != [0x55, 0xaa] {
        return Ok(None);
    }
    let mut entries = mbr[446..510].chunks_exact(16);
    if !entries.any(|entry| entry[4] == 0xee) {
        return Ok(mbr_entry(&mbr, place));
    }
    let block_size = u64::from(place.block_size);
    if !(512..=65536).contains(&block_size) {
        return Ok(None);
    }
    let last = (place.disk_size / block_size).saturating_sub(1);
    for header in [1, last] {
        if let Some(entry) = gpt_entry(&disk, header, place)? {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

fn mbr_entry(mbr: &[u8; 512], place: Place) -> Option<Entry> {
    // Logical partitions, from 5 on, stand elsewhere, but their PARTUUID does not depend on where.
    if let Some(number @ 0..4) = place.number.checked_sub(1) {
        let entry = mbr[446..510].chunks_exact(16).nth(number as usize)?;
        let start = u64::from(le32(entry, 8)) * u64::from(place.block_size);
        if entry[4] == 0 || start != place.start {
            return None;
        }
    }
    let signature = le32(mbr, 440);
    Some(Entry {
        uuid: (signature != 0).then(|| format!("{signature:08x}-{:02x}", place.number)),
        label: None,
    })
}

/// The entry as the header in block `header` has it.
fn gpt_entry(disk: &Disk, header: u64, place: Place) -> io::Result<Option<Entry>> {
    let block_size = u64::from(place.block_size);
    let at = |block: u64| block.checked_mul(block_size);
    let Some(header) = at(header) else {
        return Ok(None);
    };
    let Some(header) = disk.bytes::<92>(header)? else {
        return Ok(None);
    };
    let (count, entry_size) = (le32(&header, 80), le32(&header, 84));
    let index = place.number.wrapping_sub(1);
    if !header.starts_with(b"EFI PART") || index >= count || !(128..=4096).contains(&entry_size) {
        return Ok(None);
    }
    let distance = u64::from(index) * u64::from(entry_size);
    let Some(start) = at(le64(&header, 72)).and_then(|start| start.checked_add(distance)) else {
        return Ok(None);
    };
    let Some(entry) = disk.bytes::<128>(start)? else {
        return Ok(None);
    };
    if entry[..16] == [0; 16] || at(le64(&entry, 32)) != Some(place.start) {
        return Ok(None);
    }
    let name: Vec<u16> = entry[56..]
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .take_while(|&unit| unit != 0)
        .collect();
    Ok(Some(Entry {
        uuid: Some(guid(&entry[16..32])),
        label: (!name.is_empty()).then(|| String::from_utf16_lossy(&name)),
    }))
}

/// A GUID as it is written; the first three of its numbers are little-endian on disk.
fn guid(bytes: &[u8]) -> String {
    const ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut text = String::with_capacity(36);
    for (position, byte) in ORDER.into_iter().enumerate() {
        if matches!(position, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text += &format!("{:02x}", bytes[byte]);
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use super::{Entry, Place, read};
    use std::fs::File;
    use std::io::{self, Write};
    use std::os::unix::fs::FileExt;

    const BLOCK: usize = 512;
    const SIZE: usize = 4 << 20;

    /// A disk of 4 MiB with a GPT, primary and backup, and one partition: number 2, from block 2048, 2048 blocks long.
    pub(in super::super) fn gpt() -> Vec<u8> {
        let mut disk = vec![0; SIZE];
        disk[450] = 0xee;
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        let last = SIZE / BLOCK - 1;
        for (header, table) in [(1, 2), (last, last - 32)] {
            let header = &mut disk[header * BLOCK..][..BLOCK];
            header[..8].copy_from_slice(b"EFI PART");
            header[72..80].copy_from_slice(&(table as u64).to_le_bytes());
            header[80] = 128; // entries
            header[84] = 128; // bytes per entry
            let entry = &mut disk[table * BLOCK + 128..][..128];
            entry[..16].fill(7); // type
            for (value, byte) in (0x10..).zip(&mut entry[16..32]) {
                *byte = value;
            }
            entry[32..40].copy_from_slice(&2048_u64.to_le_bytes());
            entry[40..48].copy_from_slice(&4095_u64.to_le_bytes());
            let name = "gva Größe 日本".encode_utf16().flat_map(u16::to_le_bytes);
            for (value, byte) in name.zip(&mut entry[56..]) {
                *byte = value;
            }
        }
        disk
    }

    /// The partition's place in [`gpt`] and [`mbr`].
    const PLACE: Place = Place {
        number: 2,
        start: 1 << 20,
        disk_size: SIZE as u64,
        block_size: 512,
    };

    /// The same with an MBR.
    pub(in super::super) fn mbr() -> Vec<u8> {
        let mut disk = vec![0; SIZE];
        disk[440..444].copy_from_slice(&[0xef, 0xcd, 0xab, 0x0c]);
        disk[462..478].copy_from_slice(&[0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0]);
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        disk
    }

    fn look(disk: &[u8], place: Place) -> io::Result<Option<Entry>> {
        let mut file: File = tempfile::tempfile()?;
        file.write_all(disk)?;
        read(&file, place)
    }

    fn expected() -> Option<Entry> {
        Some(Entry {
            uuid: Some("13121110-1514-1716-1819-1a1b1c1d1e1f".into()),
            label: Some("gva Größe 日本".into()),
        })
    }

    #[test]
    fn gpt_entry_is_read() -> io::Result<()> {
        assert_eq!(look(&gpt(), PLACE)?, expected());
        let absent = Place { number: 1, ..PLACE };
        assert_eq!(look(&gpt(), absent)?, None);
        let elsewhere = Place {
            start: 512,
            ..PLACE
        };
        assert_eq!(look(&gpt(), elsewhere)?, None);
        for number in [0, 129, u32::MAX] {
            assert_eq!(look(&gpt(), Place { number, ..PLACE })?, None);
        }
        Ok(())
    }

    #[test]
    fn backup_serves_where_the_primary_header_is_gone() -> io::Result<()> {
        let mut disk = gpt();
        disk[512..1024].fill(0);
        assert_eq!(look(&disk, PLACE)?, expected());
        Ok(())
    }

    #[test]
    fn mbr_partition_is_named_by_signature_and_number() -> io::Result<()> {
        let uuid = |entry: Option<Entry>| entry.and_then(|entry| entry.uuid);
        assert_eq!(uuid(look(&mbr(), PLACE)?).as_deref(), Some("0cabcdef-02"));
        let logical = Place {
            number: 10,
            ..PLACE
        };
        assert_eq!(uuid(look(&mbr(), logical)?).as_deref(), Some("0cabcdef-0a"));
        let absent = Place { number: 1, ..PLACE };
        assert_eq!(look(&mbr(), absent)?, None);
        let mut unsigned = mbr();
        unsigned[440..444].fill(0);
        assert_eq!(uuid(look(&unsigned, PLACE)?), None);
        Ok(())
    }

    #[test]
    fn hostile_tables_end_in_none() -> io::Result<()> {
        let file = tempfile::tempfile()?;
        file.write_all_at(&gpt(), 0)?;
        file.write_all_at(&[0xff; 20], 512 + 72)?; // table, count and size of entries
        file.write_all_at(&[0; 512], SIZE as u64 - 512)?;
        assert_eq!(read(&file, PLACE)?, None);
        file.write_all_at(&[128, 0, 0, 0], 512 + 84)?; // only the place of the table
        assert_eq!(read(&file, PLACE)?, None);
        for block_size in [0, 1, 4096, u32::MAX] {
            assert_eq!(
                read(
                    &file,
                    Place {
                        block_size,
                        ..PLACE
                    }
                )?,
                None
            );
        }
        let edge = Place {
            disk_size: u64::MAX,
            number: u32::MAX,
            start: u64::MAX,
            ..PLACE
        };
        assert_eq!(read(&file, edge)?, None);
        file.set_len(700)?;
        assert_eq!(read(&file, PLACE)?, None);
        file.set_len(0)?;
        assert_eq!(read(&file, PLACE)?, None);
        Ok(())
    }
}
