//! Mounting what was found: directories in place, shares, devices, and image files by way of a loop device.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use tracing::info;

use super::register::thaw;
use super::{Attachment, Image, Role, Wanted};
use crate::config::{DEV, SYS_CLASS_BLOCK};
use crate::ledger::line::Medium;
use crate::sys::blockdev;
use crate::sys::dir::Dir;
use crate::sys::errno::{EBUSY, EINVAL, ENODEV};
use crate::sys::file::{file_system_id, room};
use crate::sys::lock::{Lock, Mode, by_whom, try_lock};
use crate::sys::superblock::{self, Content};
use crate::sys::{loopdev, mount, mountinfo};

pub(super) fn directory(wanted: &Wanted, path: PathBuf) -> anyhow::Result<Image> {
    let dir = Dir::open(&path)?;
    let id = file_system_id(&dir)?;
    Ok(Image {
        role: wanted.role,
        source: wanted.source.clone(),
        device: path.clone(),
        fstype: "directory".to_owned(),
        read_only: wanted.read_only || room(&dir)?.read_only,
        medium: Medium {
            id,
            lasting_inodes: true,
            keeps_journal: false,
        },
        uuid: String::new(),
        attachment: None,
        serial: None,
        mounted_over: None,
        register: wanted.register.clone(),
        path,
    })
}

pub(super) fn share(wanted: &Wanted, tag: &str) -> anyhow::Result<Image> {
    let medium = Medium {
        id: format!("{}-{tag}", wanted.fstype),
        lasting_inodes: true,
        keeps_journal: false,
    };
    at_mount_point(wanted, tag, &wanted.fstype, medium, wanted.read_only)
}

pub(super) fn file(wanted: &Wanted, path: &Path) -> anyhow::Result<Image> {
    let (file, read_only) = match OpenOptions::new()
        .read(true)
        .write(!wanted.read_only)
        .open(path)
    {
        Err(err)
            if matches!(
                err.kind(),
                io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
            ) =>
        {
            (
                File::open(path).with_context(|| format!("opening {}", path.display()))?,
                true,
            )
        }
        other => (
            other.with_context(|| format!("opening {}", path.display()))?,
            wanted.read_only,
        ),
    };
    let loops = blockdev::list(Path::new(SYS_CLASS_BLOCK), Path::new(DEV))?;
    let loops = loops
        .into_iter()
        .map(|device| device.path)
        .filter(|path| path.as_os_str().as_bytes().starts_with(b"/dev/loop"));
    let attached = loopdev::attached_to(&file, loops)?;
    // By an earlier gvad that was killed, or whose script left a process on it, or by somebody else: one device is one file system, however often it
    // is mounted. Who else works on it is seen by the locks in it. A second device on the same file would destroy it.
    if let Some(device) = attached.first() {
        return self::device(wanted, &device.path, Some(path));
    }
    // The loop device holds the file open, and with it this lock, until it is detached.
    let shared = read_only && wanted.role == Role::Data;
    let mode = if shared {
        Mode::Shared
    } else {
        Mode::Exclusive
    };
    let _lock: Lock = try_lock(&file, mode)?.ok_or_else(|| {
        anyhow!(
            "another gvad{} works on {}: only one may at a time",
            by_whom(&file),
            path.display()
        )
    })?;
    let attached = loopdev::attach(&file, read_only)
        .with_context(|| format!("attaching {} as a loop device", path.display()))?;
    device(wanted, &attached.path, Some(path))
}

/// Whether what `target` shows is the file system on `source`.
fn mounted_at(target: &Path, source: &str) -> anyhow::Result<bool> {
    let mounts = mountinfo::list()?;
    let Some(there) = mounts.iter().rfind(|mount| mount.path == target) else {
        return Ok(false);
    };
    let device = fs::metadata(source).map(|meta| blockdev::numbers(meta.rdev()));
    Ok(there.source == *source || device.is_ok_and(|device| device == (there.major, there.minor)))
}

pub(super) fn device(wanted: &Wanted, device: &Path, file: Option<&Path>) -> anyhow::Result<Image> {
    let shown = file.unwrap_or(device).display();
    let opened = blockdev::open(device).with_context(|| format!("opening {}", device.display()))?;
    let size = blockdev::size(&opened)?;
    let content = superblock::probe(&opened, size)
        .with_context(|| format!("reading the superblock of {shown}"))?;
    let superblock = match content {
        Content::FileSystem(superblock) => superblock,
        Content::Other(what) => bail!("{shown} holds {what}, not a file system"),
        Content::Unknown => bail!(
            "{shown} holds no file system that gvad knows ({size} bytes, no superblock found)"
        ),
    };
    let fstype = superblock.fstype;
    if wanted.fstype != "auto" && wanted.fstype != fstype {
        bail!(
            "{shown} holds {fstype}, and {}.fstype says {}",
            wanted.role,
            wanted.fstype
        );
    }
    let dirty = superblock.needs_recovery;
    let medium = Medium {
        id: superblock.medium,
        lasting_inodes: fstype != "vfat",
        keeps_journal: superblock.keeps_journal,
    };
    let device_read_only = blockdev::read_only(&opened)?;
    // Looked up before it is mounted: should it be exchanged meanwhile, this is no more what is attached.
    let attachment = Attachment::numbered(blockdev::numbers(opened.metadata()?.rdev()));
    drop(opened);
    let taken = |(_, other): &&(Role, Attachment)| attachment.as_ref() == Some(other);
    if let Some((other, _)) = wanted.taken.iter().find(taken) {
        return Err(wanted.is_taken(*other));
    }
    let source = device
        .to_str()
        .ok_or_else(|| anyhow!("{shown} has a name that is no text"))?;
    let read_only = wanted.read_only || device_read_only;
    let mounted = at_mount_point(wanted, source, fstype, medium, read_only).map_err(|err| {
        let hint = if dirty && device_read_only {
            "; its journal must be replayed, and the device is read-only: mount it writable once, or accept its old state with options = \"noload\""
        } else {
            ""
        };
        anyhow!("{shown} is {fstype}, but {err:#}{hint}")
    });
    Ok(Image {
        serial: attachment.as_ref().and_then(Attachment::serial),
        attachment,
        uuid: superblock.uuid,
        ..mounted?
    })
}

/// Mounts, writable if that can be.
fn at_mount_point(
    wanted: &Wanted,
    source: &str,
    fstype: &str,
    medium: Medium,
    read_only: bool,
) -> anyhow::Result<Image> {
    let target = &wanted.mount_point;
    fs::create_dir_all(target)
        .with_context(|| format!("making the mount point {}", target.display()))?;
    let target = target
        .canonicalize()
        .with_context(|| format!("looking at the mount point {}", target.display()))?;
    if let Some(image) = already_mounted(wanted, source, fstype, &medium, &target)? {
        return Ok(image);
    }
    let over = mount::count_at(&target)?;
    wanted.register.note(&target, source, over)?;
    let (fstype, read_only) =
        mount_best(wanted, source, fstype, read_only, &target).map_err(|err| {
            anyhow!(
                "mounting it at {} failed: {}",
                target.display(),
                explain_mount(fstype, &err)
            )
        })?;
    // A kernel may find that it can only be read (the feature "read-only" of ext4), and mount it so without a word.
    let room = Dir::open(&target).and_then(room);
    let read_only = read_only || room.is_ok_and(|room| room.read_only);
    info!(role = %wanted.role, source = wanted.source, device = source, fstype, read_only, at = %target.display(), "mounted");
    Ok(Image {
        role: wanted.role,
        source: wanted.source.clone(),
        device: source.into(),
        path: target,
        fstype: fstype.to_owned(),
        read_only,
        medium,
        uuid: String::new(),
        attachment: None,
        serial: None,
        mounted_over: Some(over),
        register: wanted.register.clone(),
    })
}

/// Mounts, and finds out by doing it whether the file system can be written. Returns the type it was mounted as and whether read-only.
fn mount_best<'a>(
    wanted: &Wanted,
    source: &str,
    fstype: &'a str,
    read_only: bool,
    target: &Path,
) -> io::Result<(&'a str, bool)> {
    let (flags, words) = split_options(&wanted.options);
    let data = file_system_options(fstype, &words);
    let attempt = |fstype, read_only| {
        let request = mount::Request {
            source,
            fstype,
            data: &data,
            flags: &flags,
            read_only,
        };
        mount::mount(&request, target)
    };
    // A kernel that has no driver of that name serves ext2 and ext3 by ext4's.
    let either = |read_only| match attempt(fstype, read_only) {
        Err(err) if err.raw_os_error() == Some(ENODEV) && matches!(fstype, "ext2" | "ext3") => {
            attempt("ext4", read_only).map(|()| "ext4")
        }
        other => other.map(|()| fstype),
    };
    let read_only = read_only || matches!(fstype, "iso9660" | "squashfs" | "erofs");
    match either(read_only) {
        Err(err) if !read_only && is_write_protected(&err) => {
            either(true).map(|fstype| (fstype, true))
        }
        other => other.map(|fstype| (fstype, read_only)),
    }
}

fn is_write_protected(err: &io::Error) -> bool {
    matches!(
        err.kind(),
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
    )
}

fn explain_mount(fstype: &str, err: &io::Error) -> String {
    let hint = match err.raw_os_error() {
        Some(ENODEV) => format!("; this kernel has no {fstype}"),
        Some(EINVAL) if fstype == "xfs" => {
            "; a wrong option or a damaged image, or another file system with this UUID is mounted (options = \"nouuid\")".to_owned()
        }
        Some(EINVAL) => "; a wrong option, or a damaged image: see the kernel's log".to_owned(),
        Some(EBUSY) => "; it is mounted elsewhere in another way".to_owned(),
        _ => "; see the kernel's log".to_owned(),
    };
    format!("{err}{hint}")
}

/// What was mounted at the place before gvad came is used if it is the same device, and left alone at the end; unless it was an
/// earlier gvad, which was killed, that mounted it.
fn already_mounted(
    wanted: &Wanted,
    source: &str,
    fstype: &str,
    medium: &Medium,
    target: &Path,
) -> anyhow::Result<Option<Image>> {
    let mounts = mountinfo::list()?;
    let Some(there) = mounts.iter().rfind(|mount| mount.path == target) else {
        return Ok(None);
    };
    if !mounted_at(target, source)? {
        if wanted.register.unmount(target)? {
            return already_mounted(wanted, source, fstype, medium, target);
        }
        bail!(
            "{} is already a mount, of {}",
            target.display(),
            there.source.to_string_lossy()
        );
    }
    let mounted_over = wanted.register.find(target, source).map(|entry| entry.over);
    if mounted_over.is_some() {
        thaw(target)?;
    }
    let room = room(Dir::open(target)?)?;
    info!(role = %wanted.role, device = source, at = %target.display(), own = mounted_over.is_some(), "is mounted already");
    Ok(Some(Image {
        role: wanted.role,
        source: wanted.source.clone(),
        device: source.into(),
        path: target.to_owned(),
        fstype: fstype.to_owned(),
        read_only: wanted.read_only || room.read_only,
        medium: medium.clone(),
        uuid: String::new(),
        attachment: None,
        serial: None,
        mounted_over,
        register: wanted.register.clone(),
    }))
}

/// Whether the device of an unmounted image is still mounted somewhere. An image file is when it still is attached; a block device, when it
/// cannot be opened for oneself alone (open(2), `O_EXCL`).
pub(super) fn in_use(source: &Path, device: &Path) -> bool {
    if fs::metadata(source).is_ok_and(|meta| meta.is_file()) {
        let attached =
            File::open(source).and_then(|file| loopdev::attached_to(&file, [device.to_owned()]));
        return attached.is_ok_and(|devices| !devices.is_empty());
    }
    blockdev::open_exclusively(device).is_err_and(|err| err.raw_os_error() == Some(EBUSY))
}

fn split_options(options: &str) -> (Vec<&str>, Vec<&str>) {
    options
        .split(',')
        .filter(|option| !option.is_empty())
        .partition(|option| mount::is_flag(option))
}

/// The options that gvad always gives, behind the user's own, so that they hold.
fn file_system_options(fstype: &str, words: &[&str]) -> String {
    let always = match fstype {
        // An image can carry errors=panic, and would then stop the whole guest. ext4(5)
        "ext2" | "ext3" | "ext4" => "errors=remount-ro",
        // No showexec: it takes the execute bit from every name that does not end in .exe, .com or .bat.
        "vfat" => "uid=0,gid=0,fmask=0077,dmask=0077",
        "9p" => "trans=virtio,version=9p2000.L",
        _ => "",
    };
    words
        .iter()
        .copied()
        .chain(Some(always))
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(",")
}
