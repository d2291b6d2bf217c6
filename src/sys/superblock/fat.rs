//! FAT12, FAT16 and FAT32, all of which are mounted as `vfat`.
//!
//! Layout: "Microsoft FAT Specification" (2005), sections 3 and 6. Owns the walk through the root directory for the volume label.

use super::{Content, Disk, Superblock, hex, label, le16, le32};
use std::io;

/// No root directory is longer: 65536 entries of 32 bytes. Also what bounds a circular chain of clusters.
const MOST_ENTRIES: u32 = 65536;
const ENTRIES_PER_READ: u32 = 16;
const NO_NAME: &[u8] = b"NO NAME    ";

/// Where things stand, computed in `u64`: no field is wider than 32 bits, so no sum or product can overflow.
struct Layout {
    /// Bytes per sector.
    sector: u64,
    /// Sectors per cluster.
    cluster: u64,
    /// Sectors before the first FAT.
    reserved: u64,
    /// First sector behind the FATs: the root directory of FAT12 and FAT16, the first cluster of FAT32.
    after_fats: u64,
    /// Number of clusters.
    clusters: u64,
    root: Root,
}

enum Root {
    /// FAT12 and FAT16: so many entries in a place of their own.
    Fixed(u32),
    /// FAT32: a chain that begins with this cluster.
    Chain(u32),
}

pub(super) fn probe(disk: &Disk) -> io::Result<Option<Content>> {
    let Some(boot) = disk.bytes::<512>(0)? else {
        return Ok(None);
    };
    let Some(layout) = layout(&boot) else {
        return Ok(None);
    };
    // Serial number and label stand behind the part that differs, after a byte that says which of them are there: 0x28 the
    // serial number, 0x29 both. Like blkid, FAT32 is taken to have both. The byte before that, "dirty", is written by mounting.
    let (signature, serial, name) = match layout.root {
        Root::Fixed(_) => (boot[0x26], le32(&boot, 0x27), &boot[0x2b..0x36]),
        Root::Chain(_) => (0x29, le32(&boot, 0x43), &boot[0x47..0x52]),
    };
    let in_root = volume_label(disk, &layout)?;
    let label = match in_root.as_ref().filter(|name| *name != NO_NAME) {
        Some(name) => label(name),
        // blkid shows this as LABEL_FATBOOT only; some tools that make images write no other.
        None if signature == 0x29 && name != NO_NAME => label(name),
        None => Vec::new(),
    };
    let uuid = match (signature, serial) {
        (0x28 | 0x29, 1..) => format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff),
        _ => String::new(),
    };
    let made = hex(&[&boot[0x0b..0x24], &label]); // geometry
    Ok(Some(Content::FileSystem(Superblock {
        fstype: "vfat",
        medium: format!("vfat:{uuid}:{made}"),
        label,
        uuid,
        needs_recovery: false,
        keeps_journal: false,
    })))
}

/// `None` if these are not the first bytes of a FAT file system, by the rules that blkid and the kernel's `fat_read_bpb` have.
fn layout(boot: &[u8; 512]) -> Option<Layout> {
    let named = [&boot[0x36..], &boot[0x52..]].iter().any(|name| {
        [&b"FAT"[..], b"MSDOS", b"MSWIN"]
            .iter()
            .any(|magic| name.starts_with(magic))
    });
    let jumps = matches!(boot[0], 0xeb | 0xe9) && boot[510..] == [0x55, 0xaa];
    let (sector, cluster, fats) = (le16(boot, 0x0b), boot[0x0d], boot[0x10]);
    let reserved = u64::from(le16(boot, 0x0e));
    let sane = (512..=4096).contains(&sector)
        && sector.is_power_of_two()
        && cluster.is_power_of_two()
        && fats != 0
        && reserved != 0
        && matches!(boot[0x15], 0xf0 | 0xf8..); // kind of medium
    if !(named || jumps) || !sane {
        return None;
    }
    let either = |short: usize, long: usize| match le16(boot, short) {
        0 => u64::from(le32(boot, long)),
        number => u64::from(number),
    };
    let (sectors, fat_length) = (either(0x13, 0x20), either(0x16, 0x24));
    let root_entries = u32::from(le16(boot, 0x11));
    let sector = u64::from(sector);
    let after_fats = reserved + u64::from(fats) * fat_length;
    let root_sectors = (u64::from(root_entries) * 32).div_ceil(sector);
    let clusters = sectors.checked_sub(after_fats + root_sectors)? / u64::from(cluster);
    let (root, most) = if le16(boot, 0x16) == 0 {
        (Root::Chain(le32(boot, 0x2c)), 0x0fff_fff6)
    } else {
        (Root::Fixed(root_entries), 0xfff4)
    };
    (fat_length != 0 && clusters != 0 && clusters <= most).then_some(Layout {
        sector,
        cluster: u64::from(cluster),
        reserved,
        after_fats,
        clusters,
        root,
    })
}

/// The volume label in the root directory, which is the one that other systems show and change.
fn volume_label(disk: &Disk, layout: &Layout) -> io::Result<Option<[u8; 11]>> {
    let mut next = match layout.root {
        Root::Fixed(entries) => {
            let start = layout.after_fats * layout.sector;
            return Ok(search(disk, start, entries)?.label());
        }
        Root::Chain(first) => u64::from(first),
    };
    // At most 128 sectors of 4096 bytes: 16384 entries. At least 16, so the chain ends by the budget even if it is a circle.
    let entries = u32::try_from(layout.cluster * layout.sector / 32).unwrap_or(MOST_ENTRIES);
    let mut budget = MOST_ENTRIES;
    while budget > 0 && (2..layout.clusters + 2).contains(&next) {
        let start = (layout.after_fats + (next - 2) * layout.cluster) * layout.sector;
        match search(disk, start, entries.min(budget))? {
            Search::More => budget = budget.saturating_sub(entries.max(1)),
            ended => return Ok(ended.label()),
        }
        let Some(link) = disk.bytes(layout.reserved * layout.sector + next * 4)? else {
            break;
        };
        next = u64::from(u32::from_le_bytes(link) & 0x0fff_ffff);
    }
    Ok(None)
}

enum Search {
    Found([u8; 11]),
    /// The directory goes on.
    More,
    End,
}

impl Search {
    fn label(self) -> Option<[u8; 11]> {
        match self {
            Self::Found(label) => Some(label),
            Self::More | Self::End => None,
        }
    }
}

/// Looks through the `entries` directory entries at byte `start`.
fn search(disk: &Disk, start: u64, entries: u32) -> io::Result<Search> {
    const VOLUME: u8 = 0x08;
    const DIRECTORY: u8 = 0x10;
    const LONG_NAME: u8 = 0x0f;
    for first in (0..entries).step_by(ENTRIES_PER_READ as usize) {
        let Some(block) = disk.bytes::<512>(start + u64::from(first) * 32)? else {
            return Ok(Search::End);
        };
        let count = (entries - first).min(ENTRIES_PER_READ);
        for entry in block.chunks_exact(32).take(count as usize) {
            let (attributes, first_cluster) = (entry[11], (le16(entry, 20), le16(entry, 26)));
            match entry[0] {
                0x00 => return Ok(Search::End),
                0xe5 => continue, // deleted
                _ if attributes & 0x3f == LONG_NAME || first_cluster != (0, 0) => continue,
                _ => {}
            }
            if attributes & (VOLUME | DIRECTORY) == VOLUME {
                return Ok(Search::Found(super::field(entry, 0)));
            }
        }
    }
    Ok(Search::More)
}
