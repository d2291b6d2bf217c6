//! VMDK files of the kind that travels in an OVA, streamOptimized: how they are made so that every hypervisor takes them and two of
//! the same content are the same bytes, and how their header is read.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::manifest;

/// What `qemu-img convert` is told to write.
pub(super) const OPTIONS: &str = "subformat=streamOptimized,adapter_type=lsilogic,hwversion=10";

/// The format's name in a descriptor.
pub(super) const FORMAT: &str =
    "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized";

const SECTOR: u64 = 512;
const MAGIC: &[u8; 4] = b"KDMV";
const COMPRESSED: u32 = 1 << 16;
const MARKERS: u32 = 1 << 17;
/// No descriptor that is written anywhere is longer; qemu-img writes 10 KiB.
const DESCRIPTOR_MAX: u64 = 64 << 10;

/// What the header of a VMDK file tells.
pub(super) struct Header {
    /// The size of the disk in it, in bytes.
    pub(super) capacity: u64,
    descriptor: std::ops::Range<u64>,
}

/// Reads the header. The error is what is wrong with it.
pub(super) fn header(reader: &mut impl Read) -> Result<Header> {
    let mut block = [0_u8; SECTOR as usize];
    reader
        .read_exact(&mut block)
        .context("it is too short for a VMDK file")?;
    if &block[..4] != MAGIC {
        bail!("it does not begin as a VMDK file does");
    }
    let number = |at: usize| {
        let bytes: [u8; 4] = [block[at], block[at + 1], block[at + 2], block[at + 3]];
        u32::from_le_bytes(bytes)
    };
    let sectors = |at: usize| u64::from(number(at)) | (u64::from(number(at + 4)) << 32);
    if !(1..=3).contains(&number(4)) {
        bail!("it is a VMDK file of the unknown version {}", number(4));
    }
    if number(8) & (COMPRESSED | MARKERS) != COMPRESSED | MARKERS {
        bail!("it is a VMDK file, but not a streamOptimized one");
    }
    let bytes = |at: usize| {
        sectors(at)
            .checked_mul(SECTOR)
            .context("a size in its VMDK header is impossible")
    };
    let (capacity, start, length) = (bytes(12)?, bytes(28)?, bytes(36)?);
    let end = start
        .checked_add(length)
        .context("its VMDK header is impossible")?;
    if capacity == 0 {
        bail!("it is a VMDK file without a disk in it");
    }
    if !(SECTOR..1 << 20).contains(&start) || !(1..=DESCRIPTOR_MAX).contains(&length) {
        bail!("it is a VMDK file with its descriptor in an unlikely place");
    }
    stands_alone(reader, start - SECTOR, length)?;
    Ok(Header {
        capacity,
        descriptor: start..end,
    })
}

/// The descriptor in a VMDK file can name other files, as parts or as what stands under it. Whoever follows such a name gives a file
/// of the host to the guest.
fn stands_alone(reader: &mut impl Read, skipped: u64, length: u64) -> Result<()> {
    std::io::copy(&mut reader.by_ref().take(skipped), &mut std::io::sink())?;
    let mut descriptor = Vec::new();
    reader.take(length).read_to_end(&mut descriptor)?;
    let text = String::from_utf8_lossy(&descriptor);
    let has = |wanted: &str| {
        text.lines()
            .any(|line| line.trim_end_matches(['\0', '\r', ' ']) == wanted)
    };
    if !has("createType=\"streamOptimized\"")
        || !has("parentCID=ffffffff")
        || text.contains("parentFileName")
    {
        bail!("it is a VMDK file that needs other files");
    }
    Ok(())
}

/// Makes what qemu-img wrote fit for travel: the end-of-stream marker that it leaves out, without which VMware's tools refuse the
/// file, and a content id (CID) that comes from the content, where qemu-img draws one by lot. Returns the size of the disk.
pub(super) fn finish(path: &Path) -> Result<u64> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let header = header(&mut file)?;
    let length = header.descriptor.end - header.descriptor.start;
    let mut descriptor = vec![0; usize::try_from(length)?];
    file.read_exact_at(&mut descriptor, header.descriptor.start)?;
    let text = String::from_utf8(descriptor)?;
    let text = up_to_nul(&text);

    write_descriptor(&file, &header, &with_cid(text, 0)?)?;
    append_marker(&mut file)?;
    let cid = content_id(&mut file)?;
    write_descriptor(&file, &header, &with_cid(text, cid)?)?;
    Ok(header.capacity)
}

/// The descriptor's text. qemu-img writes it again when it draws another content id, and where that has fewer digits, the end of
/// the first text still stands after the NUL.
fn up_to_nul(text: &str) -> &str {
    text.split('\0').next().unwrap_or_default()
}

/// The descriptor's text with another content id, always of eight digits: qemu-img leaves out leading zeros, and all that follows
/// would move.
fn with_cid(text: &str, cid: u32) -> Result<String> {
    let mut found = false;
    let mut changed = String::with_capacity(text.len() + 8);
    for line in text.split_inclusive('\n') {
        if line.starts_with("CID=") {
            found = true;
            changed.push_str(&format!("CID={cid:08x}\n"));
        } else {
            changed.push_str(line);
        }
    }
    if !found {
        bail!("qemu-img wrote a VMDK file without a content id");
    }
    Ok(changed)
}

fn write_descriptor(file: &File, header: &Header, text: &str) -> Result<()> {
    let length = usize::try_from(header.descriptor.end - header.descriptor.start)?;
    let mut bytes = text.as_bytes().to_vec();
    if bytes.len() > length {
        bail!("no room for the content id in the VMDK file's descriptor");
    }
    bytes.resize(length, 0);
    file.write_all_at(&bytes, header.descriptor.start)?;
    Ok(())
}

fn append_marker(file: &mut File) -> Result<()> {
    let end = file.seek(SeekFrom::End(0))?;
    let padding = end.next_multiple_of(SECTOR) - end;
    file.write_all(&vec![0; usize::try_from(padding + SECTOR)?])?;
    Ok(())
}

/// From the hash of everything else in the file. All ones mean "no parent" and are kept away from.
fn content_id(file: &mut File) -> Result<u32> {
    file.rewind()?;
    let hash = manifest::hash(file, |_| ())?;
    Ok(u32::from_str_radix(&hash[..8], 16)? & 0x7fff_ffff)
}

#[cfg(test)]
mod tests {
    use super::up_to_nul;

    #[test]
    fn what_a_longer_descriptor_leaves_behind_is_dropped() {
        assert_eq!(up_to_nul("CID=1\n\0\"\n\0\0"), "CID=1\n");
        assert_eq!(up_to_nul("CID=1\n"), "CID=1\n");
    }
}
