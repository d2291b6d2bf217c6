//! Which block devices are attached, as sysfs tells it: with or without udev, without opening any of them.
//!
//! Owns: the list, and the questions to an open device (size, read-only). Leaves to others: what is on a device
//! (`superblock`), what a partition table says (`partition`), and which device a source in the configuration means.
//!
//! Source: kernel documentation, ABI/stable/sysfs-block; `part_uevent` and `block_uevent` in the kernel's block/.

use super::partition::{self, Entry, Place};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A longer serial number is cut.
const LONGEST_SERIAL: usize = 128;

/// A block device that is attached and not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockDevice {
    /// The kernel's name, "vda1".
    pub name: OsString,
    /// Where devtmpfs has it, "/dev/vda1": the uevent's DEVNAME under the directory that was given.
    pub path: PathBuf,
    /// Major device number.
    pub major: u32,
    /// Minor device number.
    pub minor: u32,
    /// Bytes.
    pub size: u64,
    /// Whether the kernel refuses to write to it.
    pub read_only: bool,
    /// Counts the disks since boot, and never names two: it tells a device from the next one of the same name. That of the
    /// disk for a partition. `None` before Linux 5.15.
    pub diskseq: Option<u64>,
    /// `None` for a whole disk.
    pub partition: Option<Partition>,
}

/// What makes a block device a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Counted from 1.
    pub number: u32,
    /// PARTLABEL as the kernel tells it, right for characters up to U+00FF only; see [`BlockDevice::partition_label`].
    pub label: Option<String>,
    /// PARTUUID in lower case, if the kernel tells it; see [`BlockDevice::partition_uuid`].
    pub uuid: Option<String>,
    /// The device of the whole disk, "/dev/vda".
    pub disk: PathBuf,
    /// Where on the disk it is.
    pub place: Place,
}

impl BlockDevice {
    /// PARTUUID in lower case, from the kernel or else (Debian 12's does not tell it) from the disk's partition table.
    /// `None` for a whole disk, and where the table tells none.
    ///
    /// # Errors
    /// What opening and reading the disk answers.
    pub fn partition_uuid(&self) -> io::Result<Option<String>> {
        match &self.partition {
            Some(Partition {
                uuid: Some(uuid), ..
            }) => Ok(Some(uuid.clone())),
            Some(partition) => Ok(partition.entry()?.and_then(|entry| entry.uuid)),
            None => Ok(None),
        }
    }

    /// PARTLABEL from the disk's partition table, because the kernel cuts each character to 8 bits; the kernel's where the
    /// table is of another kind than GPT. `None` for a whole disk, and for a partition without a label.
    ///
    /// # Errors
    /// What opening and reading the disk answers.
    pub fn partition_label(&self) -> io::Result<Option<String>> {
        let Some(partition) = &self.partition else {
            return Ok(None);
        };
        let told = partition.entry()?.and_then(|entry| entry.label);
        Ok(told.or_else(|| partition.label.clone()))
    }
}

impl Partition {
    fn entry(&self) -> io::Result<Option<Entry>> {
        let read = || partition::read(&File::open(&self.disk)?, self.place);
        read().map_err(|error| with_path(&self.disk, &error))
    }
}

/// Lists the block devices under `sys_class_block` (/sys/class/block), by `diskseq`, then name; `dev` is /dev.
///
/// Left out are devices of size 0 (loop devices without a file, drives without a disc), floppies (asking an absent drive takes
/// seconds), and devices that vanish while they are looked at.
///
/// # Errors
/// What reading sysfs answers, with the path; above all `NotFound` where it is not mounted.
pub fn list(sys_class_block: &Path, dev: &Path) -> io::Result<Vec<BlockDevice>> {
    let mut devices = Vec::new();
    let entries = fs::read_dir(sys_class_block);
    for entry in entries.map_err(|error| with_path(sys_class_block, &error))? {
        let name = entry
            .map_err(|error| with_path(sys_class_block, &error))?
            .file_name();
        if is_floppy(&name) {
            continue;
        }
        let directory = sys_class_block.join(&name);
        match device(name, &directory, dev) {
            Ok(found) => devices.extend(found),
            Err(error) if vanished(&error) => {}
            Err(error) => return Err(with_path(&directory, &error)),
        }
    }
    devices.sort_by(|one, other| (one.diskseq, &one.name).cmp(&(other.diskseq, &other.name)));
    Ok(devices)
}

/// The device with these numbers, as [`list`] tells it; `None` if it is not there or empty.
///
/// # Errors
/// As [`list`].
pub fn numbered(
    sys_class_block: &Path,
    dev: &Path,
    numbers: (u32, u32),
) -> io::Result<Option<BlockDevice>> {
    let mut all = list(sys_class_block, dev)?.into_iter();
    Ok(all.find(|device| (device.major, device.minor) == numbers))
}

/// The device with this name in sysfs, as [`list`] tells it; `None` if it is not there or empty.
///
/// # Errors
/// As [`list`].
pub fn named(sys_class_block: &Path, dev: &Path, name: &OsStr) -> io::Result<Option<BlockDevice>> {
    let directory = sys_class_block.join(name);
    match device(name.to_owned(), &directory, dev) {
        Err(error) if vanished(&error) => Ok(None),
        other => other.map_err(|error| with_path(&directory, &error)),
    }
}

/// Counts what the kernel has told of devices that came, went or changed: a disk that is attached, a loop device that gets a file and a disc that is found in a
/// drive all raise it (`uevent_seqnum` in the kernel's kernel/ksysfs.c and lib/kobject_uevent.c). `None` where that cannot be had.
#[must_use]
pub fn uevents() -> Option<u64> {
    let text = fs::read_to_string("/sys/kernel/uevent_seqnum").ok()?;
    text.trim_end().parse().ok()
}

/// Sectors of 512 bytes that were written to the disk `name`, or to that of the partition `name`, since it was attached.
#[must_use]
pub fn sectors_written(sys_class_block: &Path, name: &OsStr) -> Option<u64> {
    let text = fs::read_to_string(disk_of(sys_class_block, name).join("stat")).ok()?;
    text.split_ascii_whitespace().nth(6)?.parse().ok()
}

/// The directory of the disk `name`, or of the disk that the partition `name` is on.
pub(super) fn disk_of(sys_class_block: &Path, name: &OsStr) -> PathBuf {
    let mut directory = sys_class_block.join(name);
    if directory.join("partition").exists() {
        directory.push("..");
    }
    directory
}

/// The serial number of the disk `name`, or of the disk that the partition `name` is on; what is no printable ASCII in it becomes `_`. A host
/// that plugs a disk in chooses it.
#[must_use]
pub fn serial(sys_class_block: &Path, name: &OsStr) -> Option<String> {
    let directory = disk_of(sys_class_block, name);
    let read = |name: &str| fs::read(directory.join(name)).ok();
    // virtio; NVMe and MMC; SCSI, which has a header of four bytes.
    let found = read("serial").or_else(|| read("device/serial"));
    let found = found.or_else(|| Some(read("device/vpd_pg80")?.get(4..)?.to_vec()))?;
    let text = found.trim_ascii().iter().take(LONGEST_SERIAL);
    let plain = |byte: &u8| {
        if matches!(byte, b' '..=b'~') {
            char::from(*byte)
        } else {
            '_'
        }
    };
    let serial: String = text.map(plain).collect();
    (!serial.is_empty()).then_some(serial)
}

/// Whether the kernel refuses to write to the block device `file` (`BLKROGET`).
///
/// # Errors
/// `ENOTTY` if `file` is no block device.
pub fn read_only(file: &impl AsFd) -> io::Result<bool> {
    ioctl::read_only(file.as_fd().as_raw_fd())
}

/// The size of the block device `file` in bytes (`BLKGETSIZE64`).
///
/// # Errors
/// `ENOTTY` if `file` is no block device.
pub fn size(file: &impl AsFd) -> io::Result<u64> {
    ioctl::size(file.as_fd().as_raw_fd())
}

/// `None` if it is empty or has no device node (the hidden paths of a multipath NVMe disk).
fn device(name: OsString, directory: &Path, dev: &Path) -> io::Result<Option<BlockDevice>> {
    let size = sectors(directory, "size")?;
    let uevent = Uevent::read(directory)?;
    let numbers = (uevent.number("MAJOR"), uevent.number("MINOR"));
    let ((Some(major), Some(minor)), Some(path)) = (numbers, uevent.path(dev)) else {
        return Ok(None);
    };
    if size == 0 {
        return Ok(None);
    }
    let mut diskseq = uevent.number("DISKSEQ");
    let partition = match uevent.number("PARTN") {
        None => None,
        Some(number) => {
            // The directory is a symbolic link: what is above it is the disk's.
            let above = directory.join("..");
            let disk = Uevent::read(&above)?;
            diskseq = diskseq.or_else(|| disk.number("DISKSEQ"));
            disk.path(dev)
                .map(|path| uevent.partition(number, path, directory, &above))
                .transpose()?
        }
    };
    Ok(Some(BlockDevice {
        name,
        path,
        major,
        minor,
        size,
        read_only: attribute::<u8>(directory, "ro")? != 0,
        diskseq,
        partition,
    }))
}

/// The file `uevent` of a device: lines of `KEY=value`.
struct Uevent(Vec<u8>);

impl Uevent {
    fn read(directory: &Path) -> io::Result<Self> {
        fs::read(directory.join("uevent")).map(Self)
    }

    fn value(&self, key: &str) -> Option<&[u8]> {
        let mut lines = self.0.split(|&byte| byte == b'\n');
        lines.find_map(|line| line.strip_prefix(key.as_bytes())?.strip_prefix(b"="))
    }

    fn number<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        str::from_utf8(self.value(key)?).ok()?.parse().ok()
    }

    fn path(&self, dev: &Path) -> Option<PathBuf> {
        Some(dev.join(OsStr::from_bytes(self.value("DEVNAME")?)))
    }

    fn partition(
        &self,
        number: u32,
        disk: PathBuf,
        directory: &Path,
        above: &Path,
    ) -> io::Result<Partition> {
        let uuid = self.number::<String>("PARTUUID");
        // Of each UTF-16 unit the kernel keeps the low byte, which is Latin-1.
        let label = self.value("PARTNAME");
        let label = label.map(|label| label.iter().copied().map(char::from).collect());
        let place = Place {
            number,
            start: sectors(directory, "start")?,
            disk_size: sectors(above, "size")?,
            block_size: attribute(above, "queue/logical_block_size")?,
        };
        Ok(Partition {
            number,
            label,
            uuid: uuid.map(|uuid| uuid.to_ascii_lowercase()),
            disk,
            place,
        })
    }
}

/// An attribute that counts sectors, in bytes. Those sectors have 512 bytes whatever the disk has.
fn sectors(directory: &Path, name: &str) -> io::Result<u64> {
    attribute::<u64>(directory, name).map(|sectors| sectors.saturating_mul(512))
}

fn attribute<T: std::str::FromStr>(directory: &Path, name: &str) -> io::Result<T> {
    let text = fs::read_to_string(directory.join(name))?;
    let bad = || io::Error::new(io::ErrorKind::InvalidData, format!("{name}: {text:?}"));
    text.trim_end().parse().map_err(|_| bad())
}

fn is_floppy(name: &OsStr) -> bool {
    let rest = name.as_bytes().strip_prefix(b"fd");
    rest.is_some_and(|rest| rest.first().is_some_and(u8::is_ascii_digit))
}

fn vanished(error: &io::Error) -> bool {
    let gone = [libc::ENOENT, libc::ENODEV, libc::ENXIO];
    error
        .raw_os_error()
        .is_some_and(|code| gone.contains(&code))
}

fn with_path(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

mod ioctl {
    //! The two requests that nix and libc have no names for; see the kernel's include/uapi/linux/fs.h.
    #![expect(unsafe_code, reason = "ioctl(2)")]

    use nix::libc::c_int;
    use std::io;
    use std::os::fd::RawFd;

    nix::ioctl_read_bad!(blkroget, nix::request_code_none!(0x12, 94), c_int);
    // Defined with size_t in its number, but it writes 64 bits on every machine.
    nix::ioctl_read_bad!(
        blkgetsize64,
        nix::request_code_read!(0x12, 114, size_of::<usize>()),
        u64
    );

    pub(super) fn read_only(file: RawFd) -> io::Result<bool> {
        let mut answer = 0;
        // SAFETY: `file` is open while the caller's borrow lasts; BLKROGET writes one int, to which the pointer points.
        unsafe { blkroget(file, &raw mut answer) }?;
        Ok(answer != 0)
    }

    pub(super) fn size(file: RawFd) -> io::Result<u64> {
        let mut answer = 0;
        // SAFETY: `file` is open while the caller's borrow lasts; BLKGETSIZE64 writes one u64, to which the pointer points.
        unsafe { blkgetsize64(file, &raw mut answer) }?;
        Ok(answer)
    }
}

/// Opens a device for reading; a drive without a medium does not make this wait.
///
/// # Errors
/// Those of open(2), such as `ENOMEDIUM`.
pub fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
}

/// Opens a block device for reading and for this process alone.
///
/// # Errors
/// `EBUSY`: it is mounted, or somebody else has it so; others of open(2).
pub fn open_exclusively(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_EXCL)
        .open(path)
}

/// Major and minor number of a device number as stat(2) gives it.
#[must_use]
pub fn numbers(device: u64) -> (u32, u32) {
    (libc::major(device), libc::minor(device))
}

#[cfg(test)]
mod tests;
