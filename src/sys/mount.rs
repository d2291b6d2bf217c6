//! Mounting and unmounting, mount(2) and umount2(2), by the sys-mount crate. What to mount where is decided elsewhere.

use std::io;
use std::path::Path;

use nix::errno::Errno;
use sys_mount::{Mount, MountFlags, UnmountFlags, unmount};

use super::mountinfo;

/// A file system to mount.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The device, or a share's tag.
    pub source: &'a str,
    /// Type as mount(2) takes it.
    pub fstype: &'a str,
    /// Options for the file system itself, separated by commas.
    pub data: &'a str,
    /// Options of every file system, such as `noatime`; see [`flag`].
    pub flags: &'a [&'a str],
    /// Mount it read-only.
    pub read_only: bool,
}

/// The options that are flags of mount(2) rather than words for the file system.
fn flag(option: &str) -> Option<MountFlags> {
    Some(match option {
        "nosuid" => MountFlags::NOSUID,
        "nodev" => MountFlags::NODEV,
        "noexec" => MountFlags::NOEXEC,
        "noatime" => MountFlags::NOATIME,
        "nodiratime" => MountFlags::NODIRATIME,
        "relatime" => MountFlags::RELATIME,
        "strictatime" => MountFlags::STRICTATIME,
        "sync" => MountFlags::SYNCHRONOUS,
        "dirsync" => MountFlags::DIRSYNC,
        "silent" => MountFlags::SILENT,
        _ => return None,
    })
}

/// Whether `option` is a flag of mount(2) that may be asked for.
#[must_use]
pub fn is_flag(option: &str) -> bool {
    flag(option).is_some()
}

/// Mounts `request` at `target`, always `nosuid,nodev`.
///
/// # Errors
/// The kernel's answer to mount(2).
pub fn mount(request: &Request<'_>, target: &Path) -> io::Result<()> {
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    for option in request.flags {
        flags |= flag(option).unwrap_or(MountFlags::empty());
    }
    if request.read_only {
        flags |= MountFlags::RDONLY;
    }
    Mount::builder()
        .fstype(request.fstype)
        .flags(flags)
        .data(request.data)
        .mount(request.source, target)
        .map(drop)
}

/// Unmounts what `target` shows, and before it whatever is mounted below, until only `keep` mounts stand at `target`.
/// With `detach`, what is still in use goes away as soon as it no longer is (`MNT_DETACH`).
///
/// # Errors
/// `EBUSY`: somebody uses it; others of umount2(2).
pub fn unmount_tree(target: &Path, keep: usize, detach: bool) -> io::Result<()> {
    let flags = if detach {
        UnmountFlags::DETACH
    } else {
        UnmountFlags::empty()
    };
    isolate_below(target)?;
    loop {
        let mounts = mountinfo::list()?;
        let here = mounts.iter().filter(|mount| mount.path == target).count();
        let below = mounts
            .iter()
            .rev()
            .find(|mount| mount.path != target && mount.path.starts_with(target));
        match below {
            Some(mount) if here > keep => unmount_here(&mount.path, flags)?,
            _ if here > keep => unmount_here(target, flags)?,
            _ => return Ok(()),
        }
    }
}

/// Unmounts everything below `directory`, which itself is no mount.
///
/// # Errors
/// As [`unmount_tree`].
pub fn unmount_below(directory: &Path) -> io::Result<()> {
    isolate_below(directory)?;
    loop {
        let mounts = mountinfo::list()?;
        let Some(mount) = mounts
            .iter()
            .rev()
            .find(|mount| mount.path.starts_with(directory))
        else {
            return Ok(());
        };
        unmount_here(&mount.path, UnmountFlags::DETACH)?;
    }
}

/// Cuts all mounts below `directory` off from their peers. A bind mount of a shared tree (`mount --rbind /dev …`) is the peer of the
/// original, and what is unmounted from the one goes from the other too; mount_namespaces(7).
fn isolate_below(directory: &Path) -> io::Result<()> {
    let flags = nix::mount::MsFlags::MS_PRIVATE | nix::mount::MsFlags::MS_REC;
    let none = None::<&str>;
    let below = |path: &Path| path != directory && path.starts_with(directory);
    for mount in mountinfo::list()?.iter().filter(|mount| below(&mount.path)) {
        match nix::mount::mount(none, &mount.path, none, flags, none) {
            // Hidden below another mount; it is cut off when that one is gone and it is seen.
            Err(Errno::EINVAL | Errno::ENOENT) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Never follows a symbolic link at `path`. The crate's own `NOFOLLOW` has the value of another flag (`O_NOFOLLOW`), which the kernel refuses.
fn unmount_here(path: &Path, flags: UnmountFlags) -> io::Result<()> {
    unmount(
        path,
        flags | UnmountFlags::from_bits_retain(libc::UMOUNT_NOFOLLOW),
    )
}

/// How many mounts stand at exactly `target`, one upon the other.
///
/// # Errors
/// `/proc` is not there.
pub fn count_at(target: &Path) -> io::Result<usize> {
    Ok(mountinfo::list()?
        .iter()
        .filter(|mount| mount.path == target)
        .count())
}
