//! Which system calls of gvad count, and as what. The numbers are those of the machine that the driver is built for.

/// What an error in a call stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Changes a file or a directory, or makes it durable: the disk may refuse.
    Change,
    /// Opens for writing only if its flags say so; else it only looks.
    Open,
    /// Reads: the disk may fail.
    Look,
    /// Mounts, loop devices, freezing, locks, processes.
    Machine,
}

/// One kind of call.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub number: i64,
    pub name: &'static str,
    pub class: Class,
    /// Which argument is a descriptor that must stand for a file (not a pipe, an event, a socket) for the call to count.
    pub file: Option<usize>,
}

const fn call(number: i64, name: &'static str, class: Class, file: Option<usize>) -> Call {
    Call {
        number,
        name,
        class,
        file,
    }
}

use Class::{Change, Look, Machine, Open};

/// Every call that counts.
const CALLS: &[Call] = &[
    call(libc::SYS_open, "open", Open, None),
    call(libc::SYS_openat, "openat", Open, None),
    call(libc::SYS_openat2, "openat2", Open, None),
    call(libc::SYS_creat, "creat", Change, None),
    call(libc::SYS_rename, "rename", Change, None),
    call(libc::SYS_renameat, "renameat", Change, None),
    call(libc::SYS_renameat2, "renameat2", Change, None),
    call(libc::SYS_link, "link", Change, None),
    call(libc::SYS_linkat, "linkat", Change, None),
    call(libc::SYS_symlinkat, "symlinkat", Change, None),
    call(libc::SYS_mkdir, "mkdir", Change, None),
    call(libc::SYS_mkdirat, "mkdirat", Change, None),
    call(libc::SYS_rmdir, "rmdir", Change, None),
    call(libc::SYS_unlink, "unlink", Change, None),
    call(libc::SYS_unlinkat, "unlinkat", Change, None),
    call(libc::SYS_write, "write", Change, Some(0)),
    call(libc::SYS_writev, "writev", Change, Some(0)),
    call(libc::SYS_pwrite64, "pwrite64", Change, Some(0)),
    call(libc::SYS_pwritev, "pwritev", Change, Some(0)),
    call(libc::SYS_splice, "splice", Change, Some(2)),
    call(libc::SYS_sendfile, "sendfile", Change, Some(0)),
    call(libc::SYS_copy_file_range, "copy_file_range", Change, None),
    call(libc::SYS_fsync, "fsync", Change, None),
    call(libc::SYS_fdatasync, "fdatasync", Change, None),
    call(libc::SYS_syncfs, "syncfs", Change, None),
    call(libc::SYS_sync_file_range, "sync_file_range", Change, None),
    call(libc::SYS_fallocate, "fallocate", Change, None),
    call(libc::SYS_ftruncate, "ftruncate", Change, None),
    call(libc::SYS_truncate, "truncate", Change, None),
    call(libc::SYS_chmod, "chmod", Change, None),
    call(libc::SYS_fchmod, "fchmod", Change, None),
    call(libc::SYS_fchmodat, "fchmodat", Change, None),
    call(libc::SYS_fchown, "fchown", Change, None),
    call(libc::SYS_fchownat, "fchownat", Change, None),
    call(libc::SYS_utimensat, "utimensat", Change, None),
    call(libc::SYS_read, "read", Look, Some(0)),
    call(libc::SYS_pread64, "pread64", Look, Some(0)),
    call(libc::SYS_getdents64, "getdents64", Look, None),
    call(libc::SYS_statx, "statx", Look, None),
    call(libc::SYS_newfstatat, "newfstatat", Look, None),
    call(libc::SYS_fstatfs, "fstatfs", Look, None),
    call(libc::SYS_statfs, "statfs", Look, None),
    call(libc::SYS_readlinkat, "readlinkat", Look, None),
    call(libc::SYS_mount, "mount", Machine, None),
    call(libc::SYS_umount2, "umount2", Machine, None),
    call(libc::SYS_move_mount, "move_mount", Machine, None),
    call(libc::SYS_fsmount, "fsmount", Machine, None),
    call(libc::SYS_ioctl, "ioctl", Machine, Some(0)),
    call(libc::SYS_flock, "flock", Machine, None),
    call(libc::SYS_clone, "clone", Machine, None),
    call(libc::SYS_clone3, "clone3", Machine, None),
    call(libc::SYS_fork, "fork", Machine, None),
    call(libc::SYS_vfork, "vfork", Machine, None),
    call(libc::SYS_wait4, "wait4", Machine, None),
    call(libc::SYS_waitid, "waitid", Machine, None),
    call(libc::SYS_pidfd_open, "pidfd_open", Machine, None),
    call(
        libc::SYS_pidfd_send_signal,
        "pidfd_send_signal",
        Machine,
        None,
    ),
    call(libc::SYS_kill, "kill", Machine, None),
];

/// The call with this number, if it counts.
pub fn by_number(number: i64) -> Option<&'static Call> {
    CALLS.iter().find(|call| call.number == number)
}

/// The call with this name.
pub fn by_name(name: &str) -> Option<&'static Call> {
    CALLS.iter().find(|call| call.name == name)
}
