//! Headers made by hand, hostile and damaged ones. Real images are compared with blkid in tests/superblock.rs.

use super::{Content, Superblock, hex, probe};
use std::io;
use std::os::unix::fs::FileExt;

/// A device in memory.
struct Bytes(Vec<u8>);

impl FileExt for Bytes {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let start = usize::try_from(offset).map_or(self.0.len(), |start| start.min(self.0.len()));
        let count = buffer.len().min(self.0.len() - start);
        buffer[..count].copy_from_slice(&self.0[start..start + count]);
        Ok(count)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

/// A device on which nothing can be read.
struct Broken;

impl FileExt for Broken {
    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(libc::EIO))
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(libc::EIO))
    }
}

const SIZE: usize = 256 * 1024;

/// Zeros with `parts` laid over them.
fn image(parts: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    for (at, part) in parts {
        bytes[*at..at + part.len()].copy_from_slice(part);
    }
    bytes
}

fn look(bytes: Vec<u8>) -> io::Result<Content> {
    let size = bytes.len() as u64;
    probe(&Bytes(bytes), size)
}

fn found(bytes: Vec<u8>) -> io::Result<Superblock> {
    match look(bytes)? {
        Content::FileSystem(found) => Ok(found),
        other => Err(io::Error::other(format!("{other:?}"))),
    }
}

fn ext4() -> Vec<u8> {
    image(&[
        (1024 + 0x20, &[0, 32, 0, 0, 0, 0, 0, 0, 16]),
        (1024 + 0x38, &[0x53, 0xef]),
        (1024 + 0x5c, &[4, 0, 0, 0, 0x42]),
        (1024 + 0x68, &[0x11; 16]),
        (1024 + 0x78, b"a label\t \0rest"),
    ])
}

fn squashfs() -> Vec<u8> {
    image(&[
        (0, b"hsqs"),
        (12, &[0, 0, 2]),
        (22, &[17]),
        (28, &[4, 0, 0, 0]),
    ])
}

/// FAT16 with 4 sectors a cluster, 1 FAT of 8 sectors, 16 root entries; the root directory is at sector 9.
fn fat16() -> Vec<u8> {
    image(&[
        (0, &[0xeb, 0x3c, 0x90]),
        (0x0b, &[0, 2, 4, 1, 0, 1, 16, 0, 0, 2, 0xf8, 8, 0]),
        (0x26, b"\x29\x78\x56\x34\x12BOOTLABEL  FAT16   "),
        (510, &[0x55, 0xaa]),
    ])
}

/// FAT32 whose first cluster of the root directory is full and links to itself.
fn circular_fat32() -> Vec<u8> {
    let mut bytes = image(&[
        (0, &[0xeb, 0x58, 0x90]),
        (0x0b, &[0, 2, 1, 1, 0, 1, 0, 0, 0, 2, 0xf8, 0, 0]),
        (0x24, &[8, 0, 0, 0]),
        (0x2c, &[2, 0, 0, 0]),
        (0x42, b"\x29\0\0\0\0NO NAME    FAT32   "),
        (510, &[0x55, 0xaa]),
        (512 + 8, &[2, 0, 0, 0]),
    ]);
    bytes[9 * 512..10 * 512].fill(b'x');
    bytes
}

fn iso9660() -> Vec<u8> {
    let mut bytes = image(&[(0x8000, b"\x01CD001\x01"), (0x8800, b"\xffCD001\x01")]);
    bytes[0x8000 + 40..0x8000 + 72].fill(b' ');
    bytes[0x8000 + 40..0x8000 + 43].copy_from_slice(b"ISO");
    bytes[0x8000 + 813..0x8000 + 829].copy_from_slice(b"2001020304050607");
    bytes[0x8000 + 830..0x8000 + 846].fill(b'0');
    bytes
}

fn raid_1(at: usize) -> Vec<u8> {
    let sector = (at as u64 / 512).to_le_bytes();
    image(&[
        (at, &[0xfc, 0x4e, 0x2b, 0xa9, 1, 0, 0, 0]),
        (at + 144, &sector),
    ])
}

#[test]
fn label_and_uuid_are_written_as_blkid_does() -> io::Result<()> {
    let ext = found(ext4())?;
    assert_eq!((ext.fstype, &ext.label[..]), ("ext4", &b"a label"[..]));
    assert_eq!(ext.uuid, "11111111-1111-1111-1111-111111111111");
    assert_eq!(ext.medium, format!("ext:{}", ext.uuid));
    assert!(!ext.needs_recovery);
    Ok(())
}

#[test]
fn journal_that_must_be_replayed_is_told() -> io::Result<()> {
    let mut bytes = ext4();
    bytes[1024 + 0x60] |= 4;
    assert!(found(bytes)?.needs_recovery);
    Ok(())
}

#[test]
fn external_journal_is_no_file_system() -> io::Result<()> {
    let mut bytes = ext4();
    bytes[1024 + 0x60] |= 8;
    assert!(matches!(look(bytes)?, Content::Other(_)));
    Ok(())
}

#[test]
fn fat_label_of_the_root_directory_wins() -> io::Result<()> {
    let mut bytes = fat16();
    assert_eq!(found(bytes.clone())?.label, b"BOOTLABEL");
    let long_name = *b"A\0x\0y\0z\0.\0\0\x0f";
    let deleted = *b"\xe5LD LABEL  \x08";
    let directory = *b"DIRECTORY  \x10";
    for (index, entry) in [long_name, deleted, directory, *b"ROOTLABEL  \x28"]
        .iter()
        .enumerate()
    {
        bytes[9 * 512 + index * 32..][..12].copy_from_slice(entry);
    }
    let fat = found(bytes)?;
    assert_eq!((fat.fstype, &fat.label[..]), ("vfat", &b"ROOTLABEL"[..]));
    assert_eq!(fat.uuid, "1234-5678");
    Ok(())
}

#[test]
fn no_name_is_no_label() -> io::Result<()> {
    let mut bytes = fat16();
    bytes[0x2b..0x36].copy_from_slice(b"NO NAME    ");
    assert_eq!(found(bytes)?.label, b"");
    Ok(())
}

#[test]
fn mounting_a_vfat_does_not_change_its_medium() -> io::Result<()> {
    let mut bytes = fat16();
    let before = found(bytes.clone())?.medium;
    bytes[0x25] = 1; // dirty
    assert_eq!(found(bytes)?.medium, before);
    Ok(())
}

#[test]
fn circular_fat_chain_ends() -> io::Result<()> {
    let fat = found(circular_fat32())?;
    assert_eq!(
        (fat.fstype, &fat.label[..], &fat.uuid[..]),
        ("vfat", &b""[..], "")
    );
    Ok(())
}

#[test]
fn iso_without_time_of_change_takes_the_time_of_creation() -> io::Result<()> {
    let iso = found(iso9660())?;
    assert_eq!(
        (&iso.label[..], &iso.uuid[..]),
        (&b"ISO"[..], "2001-02-03-04-05-06-07")
    );
    let mut bytes = iso9660();
    bytes[0x8000 + 830..0x8000 + 846].copy_from_slice(b"\xff\x00201020304050\n0");
    assert_eq!(found(bytes)?.uuid, "");
    Ok(())
}

#[test]
fn joliet_label_is_completed_from_the_primary_one_as_blkid_does() {
    let label = |joliet: &str, primary: &[u8; 32]| {
        let mut units = [0; 32];
        let bytes = joliet.encode_utf16().flat_map(u16::to_be_bytes);
        units
            .iter_mut()
            .zip(bytes)
            .for_each(|(unit, byte)| *unit = byte);
        String::from_utf8(super::iso9660::joliet_label(&units, primary))
    };
    let long = b"A_LONGER_LABEL_THAN_SIXTEEN     ";
    assert_eq!(
        label("a longer label t", long),
        Ok("a longer label tHAN_SIXTEEN".into())
    );
    assert_eq!(label("a longer 🦀 x y", long), Ok("a longer 🦀 x y".into()));
    assert_eq!(
        label("🦀crab           ", b"_CRAB                           "),
        Ok("🦀crab".into())
    );
    assert_eq!(label("another", long), Ok("another".into()));
}

#[test]
fn hybrid_iso_is_an_iso() -> io::Result<()> {
    let mut bytes = iso9660();
    bytes[446..462].copy_from_slice(&[0x80, 0, 0, 0, 0xcd, 0, 0, 0, 0, 0, 0, 0, 9, 9, 0, 0]);
    bytes[510..520].copy_from_slice(b"\x55\xaaEFI PART");
    assert_eq!(found(bytes.clone())?.fstype, "iso9660");
    bytes[0x8000] = 9;
    assert_eq!(look(bytes)?, Content::Other("a partition table (GPT)"));
    Ok(())
}

#[test]
fn member_of_a_mirror_is_not_the_file_system_on_it() -> io::Result<()> {
    let mut expected = vec![];
    for at in [0, 4096, SIZE - 8192] {
        expected.push(look(raid_1(at))?);
    }
    let mut bytes = ext4();
    bytes[SIZE - 65536..][..12].copy_from_slice(b"\xfc\x4e\x2b\xa9\0\0\0\0\x5a\0\0\0");
    expected.push(look(bytes)?);
    assert_eq!(expected, vec![Content::Other("a member of a RAID"); 4]);
    // Elsewhere it is data.
    assert_eq!(look(raid_1(16384))?, Content::Unknown);
    Ok(())
}

#[test]
fn what_cannot_be_mounted_is_named() -> io::Result<()> {
    let named = |parts: &[(usize, &[u8])]| look(image(parts));
    let other = Content::Other;
    assert_eq!(named(&[(0, b"LUKS\xba\xbe")])?, other("a LUKS container"));
    assert_eq!(
        named(&[(512, b"LABELONE"), (536, b"LVM2 001")])?,
        other("an LVM physical volume")
    );
    assert_eq!(named(&[(4086, b"SWAPSPACE2")])?, other("swap space"));
    let mbr: (usize, &[u8]) = (450, &[0x83, 0, 0, 0, 0, 8, 0, 0, 0, 1]);
    assert_eq!(
        named(&[mbr, (510, &[0x55, 0xaa])])?,
        other("a partition table (MBR)")
    );
    assert_eq!(named(&[(510, &[0x55, 0xaa])])?, Content::Unknown);
    Ok(())
}

#[test]
fn implausible_superblock_is_not_taken_for_a_file_system() -> io::Result<()> {
    let magics: [(usize, &[u8]); 7] = [
        (0, b"XFSB"),
        (0, b"hsqs"),
        (0x36, b"FAT16   "),
        (0x52, b"FAT32   "),
        (1024, b"\xe2\xe1\xf5\xe0"),
        (1024 + 0x38, b"\x53\xef"),
        (0x10040, b"_BHRfS_M"),
    ];
    for magic in magics {
        assert_eq!(look(image(&[magic]))?, Content::Unknown, "{magic:?}");
        let mut full = vec![0xff; SIZE];
        full[magic.0..][..magic.1.len()].copy_from_slice(magic.1);
        assert_eq!(look(full)?, Content::Unknown, "{magic:?} among 0xff");
    }
    assert_eq!(look(vec![0xff; SIZE])?, Content::Unknown);
    Ok(())
}

#[test]
fn truncated_device_is_no_error() -> io::Result<()> {
    let whole = [
        ext4(),
        squashfs(),
        fat16(),
        circular_fat32(),
        iso9660(),
        raid_1(4096),
    ];
    let lengths = (0..2048).step_by(7).chain((2048..=70 * 1024).step_by(509));
    for length in lengths {
        for bytes in &whole {
            // Cut, and cut behind our back.
            let cut = Bytes(bytes[..length].to_vec());
            probe(&cut, length as u64)?;
            probe(&cut, SIZE as u64)?;
            probe(&cut, u64::MAX)?;
        }
    }
    assert_eq!(look(Vec::new())?, Content::Unknown);
    assert_eq!(look(ext4()[..1024 + 0x1ff].to_vec())?, Content::Unknown);
    assert_eq!(found(ext4()[..2048].to_vec())?.fstype, "ext4");
    Ok(())
}

#[test]
fn read_error_is_told() {
    let told = probe(&Broken, SIZE as u64).map_err(|error| error.raw_os_error());
    assert_eq!(told, Err(Some(libc::EIO)));
}

#[test]
fn medium_differs_with_the_content_of_a_squashfs() -> io::Result<()> {
    let mut bytes = squashfs();
    let one = found(bytes.clone())?.medium;
    bytes[40] = 9; // bytes used
    let other = found(bytes)?.medium;
    assert_ne!(one, other);
    assert!(one.len() <= 250, "{one}");
    Ok(())
}

/// Numbers that look random and are the same in each run (Knuth's MMIX).
struct Lcg(u64);

impl Lcg {
    fn byte(&mut self) -> u8 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
        self.0.to_be_bytes()[0]
    }

    fn below(&mut self, end: usize) -> usize {
        let bytes = [self.byte(), self.byte(), self.byte()];
        (usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2])) % end
    }
}

#[test]
fn random_bytes_never_panic() -> io::Result<()> {
    let mut random = Lcg(1);
    let noise: Vec<u8> = (0..SIZE).map(|_| random.byte()).collect();
    assert_eq!(look(noise.clone())?, Content::Unknown);
    let whole = [
        ext4(),
        squashfs(),
        fat16(),
        circular_fat32(),
        iso9660(),
        raid_1(0),
        noise,
    ];
    for _ in 0..3000 {
        let mut bytes = whole[random.below(whole.len())].clone();
        for _ in 0..random.below(40) {
            let area = [64, 512, 4096, 0x9000, SIZE][random.below(5)];
            let start = if random.byte() < 128 { 0 } else { 1024 };
            bytes[start + random.below(area - start.min(area - 1)) % (SIZE - start)] =
                random.byte();
        }
        bytes.truncate(SIZE - random.below(2) * random.below(SIZE));
        if let Content::FileSystem(found) = look(bytes)? {
            assert!(found.medium.len() <= 250 && found.label.len() <= 256);
        }
    }
    Ok(())
}

#[test]
fn hex_keeps_leading_zeros() {
    assert_eq!(hex(&[&[0, 0x0a], &[0xff]]), "000aff");
}
