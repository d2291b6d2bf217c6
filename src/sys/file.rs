//! Open files: read leases, room on the file system, preallocation. Names are for `dir`.
//!
//! Relies on fcntl(2) (`F_SETLEASE`), fallocate(2), statvfs(3), statfs(2).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::stat::{Mode, fchmod};
use nix::sys::statvfs::{FsFlags, fstatvfs};

/// What came of asking for a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// Nobody in this machine has the file open for writing, and whoever tries now waits until the file is closed here
    /// (or `/proc/sys/fs/lease-break-time` has passed).
    Held,
    /// Somebody has it open for writing.
    Writer,
    /// The file system has no leases.
    Unsupported,
}

/// Asks for a read lease on `file`, which must be open for reading only. Closing the file ends it. The signal of a lease that is to be
/// broken is SIGIO: [`super::process::ignore_sigio`] must have been called.
///
/// # Errors
/// Those of fcntl(2) that are no answer to the question.
pub fn read_lease(file: &File) -> io::Result<Lease> {
    match set_lease(file, libc::F_RDLCK) {
        Ok(()) => Ok(Lease::Held),
        Err(Errno::EAGAIN) => Ok(Lease::Writer),
        Err(Errno::EINVAL | Errno::ENOLCK | Errno::EOPNOTSUPP | Errno::ENOSYS) => {
            Ok(Lease::Unsupported)
        }
        Err(err) => Err(err.into()),
    }
}

#[expect(unsafe_code, reason = "nix has no F_SETLEASE")]
fn set_lease(file: &File, kind: libc::c_int) -> nix::Result<()> {
    // SAFETY: the descriptor is open for the time of the call; F_SETLEASE takes an int and touches no memory of ours.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) };
    Errno::result(answer).map(drop)
}

/// Sets blocks aside for the first `len` bytes, so that writing them later cannot fail for want of room.
///
/// # Errors
/// `ENOSPC` and others of fallocate(2); a file system that cannot preallocate is no error.
pub fn reserve(file: &File, len: u64) -> io::Result<()> {
    let len = libc::off_t::try_from(len).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    match fallocate(file, FallocateFlags::empty(), 0, len) {
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(()),
        other => Ok(other?),
    }
}

/// Writes what `file` holds out to the disk and waits until it is there, without anything that describes it: sync_file_range(2). It is durable
/// only once the file system's journal has been committed, which empties the disk's own memory too.
///
/// # Errors
/// Those of sync_file_range(2). After one, what is on the disk is not known.
pub fn write_out(file: &File) -> io::Result<()> {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    sync_file_range(file, flags)
}

#[expect(unsafe_code, reason = "nix has no sync_file_range")]
fn sync_file_range(file: &File, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: the descriptor is open for the time of the call, which takes no pointer.
    let answer = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) };
    Ok(Errno::result(answer).map(drop)?)
}

/// Begins to write out what `file` holds, and does not wait for it; [`write_out`] does.
///
/// # Errors
/// As [`write_out`].
pub fn begin_to_write_out(file: &File) -> io::Result<()> {
    sync_file_range(file, libc::SYNC_FILE_RANGE_WRITE)
}

/// On ext3 and ext4 with a journal: makes durable whatever was done to the file system before, as far as its contents have been written out
/// ([`write_out`]), in one commit of the journal. fsync(2) of a file commits the last transaction that changed it, and all before that one; so the
/// file is changed first. (A directory will not do: where its transaction has been committed already, its fsync does not empty the disk's own memory.)
///
/// # Errors
/// Those of fchmod(2) and fsync(2). After one of fsync, what is on the disk is not known.
pub fn commit_by(file: &File, mode: u32) -> io::Result<()> {
    let change = || fchmod(file, Mode::from_bits_truncate(mode));
    match change() {
        // Somebody has made it immutable since.
        Err(Errno::EPERM) => {
            unprotect(file)?;
            change()?;
        }
        other => other?,
    }
    file.sync_all()
}

mod ioctls {
    // `FIFREEZE` and `FITHAW` of linux/fs.h: _IOWR('X', 119, int) and 120. The argument is not used.
    nix::ioctl_write_int_bad!(
        freeze,
        nix::request_code_readwrite!(b'X', 119, size_of::<i32>())
    );
    nix::ioctl_write_int_bad!(
        thaw,
        nix::request_code_readwrite!(b'X', 120, size_of::<i32>())
    );
}

/// Writes everything on the file system of `dir` to the disk: syncfs(2).
///
/// # Errors
/// Those of syncfs(2).
pub fn sync_all(dir: &impl AsFd) -> io::Result<()> {
    Ok(nix::unistd::syncfs(dir.as_fd())?)
}

/// Writes everything on the file system of `dir` to its place, the journal's contents included, so that a reader that knows no journal sees
/// it. By freezing and thawing it: ioctl_fs(2), `FIFREEZE`. A file system that cannot be frozen is no error.
///
/// # Errors
/// Those of the ioctl. It is thawed in any case.
#[expect(unsafe_code, reason = "ioctl")]
pub fn flush_journal(dir: &impl AsFd) -> io::Result<()> {
    let fd = dir.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open; the argument is not used.
    let frozen = unsafe { ioctls::freeze(fd, 0) };
    match frozen {
        Ok(_) => thaw(dir),
        Err(Errno::EOPNOTSUPP | Errno::ENOTTY | Errno::EBUSY | Errno::EINVAL | Errno::EROFS) => {
            Ok(())
        }
        Err(err) => Err(err.into()),
    }
}

/// Thaws the file system of `dir`, if it is frozen: a process that was killed in [`flush_journal`] leaves it so, and every write to it waits.
///
/// # Errors
/// Those of the ioctl.
#[expect(unsafe_code, reason = "ioctl")]
pub fn thaw(dir: &impl AsFd) -> io::Result<()> {
    // SAFETY: the descriptor is open; the argument is not used.
    match unsafe { ioctls::thaw(dir.as_fd().as_raw_fd(), 0) } {
        Err(Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOTTY) | Ok(_) => Ok(()),
        Err(err) => Err(err.into()),
    }
}

mod attributes {
    // `FS_IOC_GETFLAGS` and `FS_IOC_SETFLAGS` of linux/fs.h. Defined with long in their numbers, but they carry an int; ioctl_iflags(2).
    nix::ioctl_read_bad!(
        get,
        nix::request_code_read!(b'f', 1, size_of::<libc::c_long>()),
        libc::c_int
    );
    nix::ioctl_write_ptr_bad!(
        set,
        nix::request_code_write!(b'f', 2, size_of::<libc::c_long>()),
        libc::c_int
    );
    /// `FS_IMMUTABLE_FL` and `FS_APPEND_FL`.
    pub(super) const PROTECTING: libc::c_int = 0x10 | 0x20;
}

/// Takes the attributes away that keep even root from writing to what `file` stands for.
#[expect(unsafe_code, reason = "ioctl")]
pub(super) fn unprotect(file: &impl AsFd) -> nix::Result<()> {
    let fd = file.as_fd().as_raw_fd();
    let mut flags = 0;
    // SAFETY: the descriptor is open; the kernel writes one int.
    match unsafe { attributes::get(fd, &raw mut flags) } {
        Err(Errno::ENOTTY | Errno::EOPNOTSUPP | Errno::ENOSYS) => return Ok(()),
        other => other?,
    };
    if flags & attributes::PROTECTING != 0 {
        flags &= !attributes::PROTECTING;
        // SAFETY: the descriptor is open; the kernel reads one int.
        unsafe { attributes::set(fd, &raw const flags) }?;
    }
    Ok(())
}

/// How a file system stands.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Bytes that may still be written.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
    /// It is mounted (or was made by an error) read-only.
    pub read_only: bool,
    /// Programs on it cannot be executed.
    pub noexec: bool,
}

/// How the file system of `file` stands.
///
/// # Errors
/// Those of fstatvfs(3).
pub fn room(file: impl AsFd) -> io::Result<Room> {
    let stat = fstatvfs(file)?;
    let fragment = stat.fragment_size();
    Ok(Room {
        free: stat.blocks_free().saturating_mul(fragment),
        total: stat.blocks().saturating_mul(fragment),
        read_only: stat.flags().contains(FsFlags::ST_RDONLY),
        noexec: stat.flags().contains(FsFlags::ST_NOEXEC),
    })
}

/// Every [`file_system_id`] begins so.
pub const FILE_SYSTEM_ID: &str = "fsid-";

/// The file system's own identifier, for those whose superblock nobody has read (directories used in place).
///
/// # Errors
/// Those of fstatvfs(3).
pub fn file_system_id(file: impl AsFd) -> io::Result<String> {
    Ok(format!(
        "{FILE_SYSTEM_ID}{:x}",
        fstatvfs(file)?.filesystem_id()
    ))
}
