//! What stat tells of a file, and when it was made: statx(2).

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// What kind of file a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    SymbolicLink,
    /// A FIFO, socket or device.
    Special,
}

/// A point in time as a file system keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// Seconds since 1970.
    pub secs: i64,
    /// Nanoseconds; 0 where the file system keeps whole seconds only.
    pub nanos: i64,
}

/// What `stat` tells of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Its kind.
    pub kind: Kind,
    /// Permission bits (07777).
    pub mode: u32,
    /// Device of the file system.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Length in bytes.
    pub size: u64,
    /// Last change of the contents.
    pub mtime: Stamp,
    /// Last change of the inode.
    pub ctime: Stamp,
    /// When the inode was made, where the file system keeps that. Tells a file from a later one with the same inode number.
    pub birth: Option<Stamp>,
}

/// fstatat(2) does not tell the time of birth.
#[expect(unsafe_code, reason = "nix has no statx")]
pub(super) fn statx(dir: BorrowedFd<'_>, name: &CStr, flags: libc::c_int) -> io::Result<Look> {
    let flags = flags | libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT;
    let mask = libc::STATX_BASIC_STATS | libc::STATX_BTIME;
    let mut stat = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the descriptor is open, the name ends in NUL, and the kernel fills the structure, for which all zeros is valid too.
    let answer = unsafe {
        libc::statx(
            dir.as_raw_fd(),
            name.as_ptr(),
            flags,
            mask,
            stat.as_mut_ptr(),
        )
    };
    Errno::result(answer)?;
    // SAFETY: zeroed at first and then filled by the kernel.
    Ok(Look::of(&unsafe { stat.assume_init() }))
}

impl Look {
    fn of(stat: &libc::statx) -> Look {
        let mode = u32::from(stat.stx_mode);
        let kind = match mode & libc::S_IFMT {
            libc::S_IFREG => Kind::Regular,
            libc::S_IFDIR => Kind::Directory,
            libc::S_IFLNK => Kind::SymbolicLink,
            _ => Kind::Special,
        };
        let stamp = |time: &libc::statx_timestamp| Stamp {
            secs: time.tv_sec,
            nanos: i64::from(time.tv_nsec),
        };
        let has_birth = stat.stx_mask & libc::STATX_BTIME != 0;
        Look {
            kind,
            mode: mode & 0o7777,
            device: libc::makedev(stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            size: stat.stx_size,
            mtime: stamp(&stat.stx_mtime),
            ctime: stamp(&stat.stx_ctime),
            birth: has_birth.then(|| stamp(&stat.stx_btime)),
        }
    }

    /// What the descriptor stands for.
    ///
    /// # Errors
    /// Those of statx(2).
    pub fn at(file: impl AsFd) -> io::Result<Look> {
        statx(file.as_fd(), c"", libc::AT_EMPTY_PATH)
    }

    /// Whether anybody may write to it.
    #[must_use]
    pub fn world_writable(&self) -> bool {
        self.mode & 0o002 != 0
    }

    /// Whether any execute bit is set.
    #[must_use]
    pub fn executable(&self) -> bool {
        self.mode & 0o111 != 0
    }
}
