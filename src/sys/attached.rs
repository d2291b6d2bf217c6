//! Whether a disk is still the one that it was: by files of sysfs that stay open.
//!
//! Such a file belongs to one device and to no later one of the same name: when the device goes, reading it fails (`ENODEV`), and its entry in sysfs
//! goes too. Where another disk takes the place of the first in the same device (loop devices), `diskseq` changes. None of this takes a lock of the
//! device, and so it never waits for it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::blockdev::disk_of;

/// Enough for a number and its line feed.
const NUMBER: usize = 32;

/// The open files of one device.
#[derive(Debug)]
pub struct Attached {
    entry: PathBuf,
    /// Device and inode number of the entry.
    place: (u64, u64),
    diskseq: File,
    size: File,
    expected: u64,
}

impl Attached {
    /// Of the device `name`, on the disk with this number; `None` if it is not there, or the kernel (before Linux 5.15) does not number disks.
    #[must_use]
    pub fn open(sys_class_block: &Path, name: &OsStr, diskseq: u64) -> Option<Attached> {
        let disk = disk_of(sys_class_block, name);
        let entry = sys_class_block.join(name);
        let attached = Attached {
            place: place(&entry)?,
            diskseq: File::open(disk.join("diskseq")).ok()?,
            size: File::open(entry.join("size")).ok()?,
            expected: diskseq,
            entry,
        };
        attached.is_sure().then_some(attached)
    }

    /// True only if it is surely there.
    #[must_use]
    pub fn is_sure(&self) -> bool {
        place(&self.entry) == Some(self.place)
            && number(&self.diskseq) == Some(self.expected)
            && number(&self.size).is_some_and(|size| size > 0)
    }
}

fn place(entry: &Path) -> Option<(u64, u64)> {
    let entry = fs::symlink_metadata(entry).ok()?;
    Some((entry.dev(), entry.ino()))
}

fn number(file: &File) -> Option<u64> {
    let mut digits = [0; NUMBER];
    let count = file.read_at(&mut digits, 0).ok()?;
    str::from_utf8(digits.get(..count)?)
        .ok()?
        .trim_end()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_is_there_while_its_number_and_a_size_are() {
        let sys = tempfile::tempdir().unwrap();
        let disk = sys.path().join("disk");
        fs::create_dir(&disk).unwrap();
        fs::write(disk.join("diskseq"), "7\n").unwrap();
        fs::write(disk.join("size"), "2048\n").unwrap();
        let open = |diskseq| Attached::open(sys.path(), OsStr::new("disk"), diskseq);
        assert!(open(8).is_none());
        let attached = open(7).unwrap();
        assert!(attached.is_sure());
        fs::write(disk.join("size"), "0\n").unwrap();
        assert!(!attached.is_sure());
        fs::write(disk.join("size"), "2048\n").unwrap();
        fs::write(disk.join("diskseq"), "9\n").unwrap();
        assert!(!attached.is_sure());
        let attached = open(9).unwrap();
        fs::rename(&disk, sys.path().join("gone")).unwrap();
        assert!(!attached.is_sure());
        assert!(Attached::open(sys.path(), OsStr::new("none"), 9).is_none());
    }
}
