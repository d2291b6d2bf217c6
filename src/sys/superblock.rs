//! Tells which file system stands on a device by looking at its superblock, never by trying to mount it.
//!
//! Owns: where each superblock stands, which fields make it plausible, and how label and UUID are written (as `blkid` writes
//! them). Leaves to others: which devices there are (`blockdev`), what a source in the configuration means, and whether the
//! file system is sound: a damaged one is still named by its type, and the kernel's answer to the mount tells the rest.
//!
//! The bytes are not trusted. Every read has a fixed size at an offset that is computed without overflow, nothing is
//! allocated by a size that stands on the disk, and what does not fit is "no such file system", not an error.

mod fat;
mod iso9660;
mod other;

use std::io;
use std::os::unix::fs::FileExt;

/// What stands on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A file system that gvad knows how to mount.
    FileSystem(Superblock),
    /// Something recognised that gvad cannot mount, as a noun for a message: "a partition table (GPT)", "a LUKS container".
    Other(&'static str),
    /// No known signature: empty, too short, or foreign.
    Unknown,
}

/// What a superblock tells about its file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// The name that mount(2) takes: ext4, ext3, ext2, xfs, btrfs, vfat, iso9660, squashfs or erofs.
    pub fstype: &'static str,
    /// The label as bytes, without padding; empty if there is none. For iso9660 with Joliet it is UTF-8, and
    /// for vfat the label in the root directory or, where there is none, the one in the boot sector.
    pub label: Vec<u8>,
    /// As `blkid -o value -s UUID` prints it: lower-case hex for UUIDs, `1A2B-3C4D` for vfat, a date for iso9660.
    /// Empty if there is none, as always for squashfs.
    pub uuid: String,
    /// Identifies this very file system, to remember what was run from it. Letters, digits, `:` and `-`, at most 250 bytes.
    /// It is the family of the type and the UUID, and where the UUID is missing or weak also fields that are written when
    /// the file system is made. Mounting and writing the file system do not change it, nor (but for vfat) growing it and
    /// changing its label; a new image does.
    pub medium: String,
    /// ext3 and ext4: the journal must be replayed, so mounting writes even if it is asked for read-only.
    pub needs_recovery: bool,
    /// What is done to it reaches the disk in the order in which it was done, by a journal or in one tree.
    pub keeps_journal: bool,
}

/// Looks at the content of `device`, which is `size` bytes long.
///
/// Reads some 50 blocks of at most 2 KiB, for vfat also at most 2 MiB of its root directory, and writes nothing.
///
/// # Errors
/// Only what reading `device` answers, such as `EIO`. A device that is too short for a superblock is [`Content::Unknown`].
pub fn probe(device: &impl FileExt, size: u64) -> io::Result<Content> {
    let disk = Disk { device, size };
    let mut content = Content::Unknown;
    for look in PROBES {
        if let Some(found) = look(&disk)? {
            content = found;
            break;
        }
    }
    // A member of a RAID 1 with its metadata at the end looks like the file system on it; mounting one half would part the
    // two. Not asked of optical discs: the last sectors of a disc often cannot be read.
    let optical = matches!(&content, Content::FileSystem(found) if found.fstype == "iso9660");
    if !optical && other::raid_at_end(&disk)? {
        content = Content::Other(other::RAID);
    }
    Ok(content)
}

/// In the order in which they are asked; the first answer counts. Containers come first: what they hold may show through.
/// Then what stands at the very start, because making a file system clears the start and may leave older signatures further
/// back. A partition table comes last: boot sectors of file systems and of hybrid ISO images look like one.
const PROBES: [Look; 10] = [
    other::container,
    fat::probe,
    xfs,
    squashfs,
    ext,
    erofs,
    iso9660::probe,
    btrfs,
    other::unmountable,
    other::partition_table,
];

type Look = fn(&Disk) -> io::Result<Option<Content>>;

/// Positioned reads that never go beyond the end.
pub(super) struct Disk<'a> {
    pub(super) device: &'a dyn FileExt,
    /// Bytes.
    pub(super) size: u64,
}

impl Disk<'_> {
    /// The `N` bytes at `offset`, or `None` if the device ends before they do.
    pub(super) fn bytes<const N: usize>(&self, offset: u64) -> io::Result<Option<[u8; N]>> {
        let mut buffer = [0; N];
        let end = offset.checked_add(N as u64);
        // Offsets are signed for the kernel, and beyond the end of every device from there on.
        if end.is_none_or(|end| end > self.size || i64::try_from(end).is_err()) {
            return Ok(None);
        }
        match self.device.read_exact_at(&mut buffer, offset) {
            Ok(()) => Ok(Some(buffer)),
            // The file shrank, or `size` was told wrong.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether `magic` stands at `offset`.
    fn has(&self, offset: u64, magic: &[u8]) -> io::Result<bool> {
        let Some(found) = self.bytes::<8>(offset)? else {
            return Ok(false);
        };
        Ok(found.starts_with(magic))
    }
}

/// ext2, ext3 and ext4. Layout: kernel documentation, filesystems/ext4/super.rst.
fn ext(disk: &Disk) -> io::Result<Option<Content>> {
    const HAS_JOURNAL: u32 = 0x4; // compatible
    const RECOVER: u32 = 0x4; // incompatible, as the next
    const JOURNAL_DEVICE: u32 = 0x8;
    const EXT2_INCOMPAT: u32 = 0x2 | 0x10; // filetype, meta_bg
    const EXT2_RO_COMPAT: u32 = 0x1 | 0x2 | 0x4; // sparse_super, large_file, btree_dir

    let Some(block) = disk.bytes::<0x200>(1024)? else {
        return Ok(None);
    };
    // Magic number, and block size shift: 1 to 64 KiB.
    if le16(&block, 0x38) != 0xef53 || le32(&block, 0x18) > 6 {
        return Ok(None);
    }
    let (compat, incompat) = (le32(&block, 0x5c), le32(&block, 0x60));
    if incompat & JOURNAL_DEVICE != 0 {
        return Ok(Some(Content::Other("an external journal of ext4")));
    }
    // Blocks per group, inodes per group.
    if le32(&block, 0x20) == 0 || le32(&block, 0x28) == 0 {
        return Ok(None);
    }
    let ext2_ro = le32(&block, 0x64) & !EXT2_RO_COMPAT == 0;
    let fstype = if compat & HAS_JOURNAL == 0 && ext2_ro && incompat & !EXT2_INCOMPAT == 0 {
        "ext2"
    } else if compat & HAS_JOURNAL != 0 && ext2_ro && incompat & !(EXT2_INCOMPAT | RECOVER) == 0 {
        "ext3"
    } else {
        "ext4"
    };
    let uuid = uuid(&field(&block, 0x68));
    // The family, not the type: a feature that is switched on later makes an ext4 of an ext2.
    let mut medium = format!("ext:{uuid}");
    if uuid.is_empty() {
        medium += &hex(&[&block[0x108..0x10c], &block[..4]]); // when it was made, number of inodes
    }
    Ok(Some(Content::FileSystem(Superblock {
        fstype,
        label: label(&block[0x78..0x88]),
        uuid,
        medium,
        needs_recovery: incompat & RECOVER != 0,
        keeps_journal: compat & HAS_JOURNAL != 0,
    })))
}

/// XFS. Layout: `struct xfs_dsb` in the kernel's fs/xfs/libxfs/xfs_format.h. Numbers are big-endian.
fn xfs(disk: &Disk) -> io::Result<Option<Content>> {
    let Some(block) = disk.bytes::<0x200>(0)? else {
        return Ok(None);
    };
    let block_size = u32::from_be_bytes(field(&block, 4));
    let sector_size = u32::from(u16::from_be_bytes(field(&block, 102)));
    let sane = power_of_two(block_size, 512, 65536)
        && power_of_two(sector_size, 512, 32768)
        && block_size.trailing_zeros() == u32::from(block[120])
        && sector_size.trailing_zeros() == u32::from(block[121])
        && field::<8>(&block, 8) != [0; 8] // number of blocks
        && field::<4>(&block, 88) != [0; 4]; // number of allocation groups
    if !block.starts_with(b"XFSB") || !sane {
        return Ok(None);
    }
    let uuid = uuid(&field(&block, 32));
    Ok(file_system("xfs", label(&block[108..120]), uuid, ""))
}

/// btrfs. Layout: `struct btrfs_super_block` in the kernel's include/uapi/linux/btrfs_tree.h.
fn btrfs(disk: &Disk) -> io::Result<Option<Content>> {
    const START: u64 = 64 * 1024;
    let Some(block) = disk.bytes::<0x400>(START)? else {
        return Ok(None);
    };
    let sane = le64(&block, 48) == START // its own place
        && le64(&block, 136) != 0 // number of devices
        && power_of_two(le32(&block, 144), 512, 65536) // sector size
        && power_of_two(le32(&block, 148), 512, 65536); // node size
    if field(&block, 64) != *b"_BHRfS_M" || !sane {
        return Ok(None);
    }
    let uuid = uuid(&field(&block, 32));
    Ok(file_system("btrfs", label(&block[299..555]), uuid, ""))
}

/// squashfs 4.0. Layout: `struct squashfs_super_block` in the kernel's fs/squashfs/squashfs_fs.h.
fn squashfs(disk: &Disk) -> io::Result<Option<Content>> {
    let Some(block) = disk.bytes::<96>(0)? else {
        return Ok(None);
    };
    if !block.starts_with(b"hsqs") {
        return Ok(None);
    }
    let (major, minor, block_size) = (le16(&block, 28), le16(&block, 30), le32(&block, 12));
    if (1..4).contains(&major) {
        return Ok(Some(Content::Other("a squashfs older than 4.0")));
    }
    let sane = power_of_two(block_size, 4096, 1 << 20)
        && block_size.trailing_zeros() == u32::from(le16(&block, 22));
    if (major, minor) != (4, 0) || !sane {
        return Ok(None);
    }
    // No UUID, so all that depends on the content: number of inodes, when it was made, fragments and ids; root inode, bytes
    // used, and where each table begins.
    let content = hex(&[&block[4..12], &block[16..20], &block[26..28], &block[32..]]);
    Ok(file_system("squashfs", Vec::new(), String::new(), &content))
}

/// erofs. Layout: `struct erofs_super_block` in the kernel's fs/erofs/erofs_fs.h.
fn erofs(disk: &Disk) -> io::Result<Option<Content>> {
    let Some(block) = disk.bytes::<128>(1024)? else {
        return Ok(None);
    };
    let sane = (9..=16).contains(&block[12]); // block size shift
    if field(&block, 0) != [0xe2, 0xe1, 0xf5, 0xe0] || !sane {
        return Ok(None);
    }
    // A reproducible build gives the UUID itself, so further: checksum of the superblock, number of inodes and when it was
    // made, number of blocks and where the tables are.
    let content = hex(&[&block[4..8], &block[16..48]]);
    let uuid = uuid(&field(&block, 48));
    Ok(file_system("erofs", label(&block[64..80]), uuid, &content))
}

fn file_system(fstype: &'static str, label: Vec<u8>, uuid: String, made: &str) -> Option<Content> {
    let mut medium = format!("{fstype}:{uuid}");
    if !made.is_empty() {
        medium = format!("{medium}:{made}");
    } else if uuid.is_empty() {
        medium = format!("{medium}:{}", hex(&[&label[..label.len().min(32)]]));
    }
    Some(Content::FileSystem(Superblock {
        fstype,
        label,
        uuid,
        medium,
        needs_recovery: false,
        keeps_journal: matches!(fstype, "xfs" | "btrfs"),
    }))
}

/// A label as blkid prints it: up to the first NUL, without white space at its end.
fn label(padded: &[u8]) -> Vec<u8> {
    let text = padded.split(|&byte| byte == 0).next().unwrap_or_default();
    let blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b; // C's isspace
    let end = text
        .iter()
        .rposition(|byte| !blank(byte))
        .map_or(0, |last| last + 1);
    text[..end].to_vec()
}

/// A UUID in its usual form; empty if all bytes are zero, which stands for "none".
fn uuid(bytes: &[u8; 16]) -> String {
    if bytes == &[0; 16] {
        return String::new();
    }
    let hex = hex(&[bytes]);
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    parts.join("-")
}

fn hex(parts: &[&[u8]]) -> String {
    let bytes = parts.iter().copied().flatten();
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

fn power_of_two(number: u32, least: u32, most: u32) -> bool {
    number.is_power_of_two() && (least..=most).contains(&number)
}

/// The `N` bytes at `offset`; zeros where `block` is too short, so that a wrong offset here cannot become a panic.
fn field<const N: usize>(block: &[u8], offset: usize) -> [u8; N] {
    let rest = block.get(offset..).unwrap_or_default();
    rest.first_chunk().copied().unwrap_or([0; N])
}

fn le16(block: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(field(block, offset))
}

pub(super) fn le32(block: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(field(block, offset))
}

pub(super) fn le64(block: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(field(block, offset))
}

#[cfg(test)]
mod tests;
