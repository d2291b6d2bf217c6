//! Images: finding the device, file, directory or share that a source names, mounting it, and unmounting it again.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use serde::Serialize;
use tracing::{info, warn};

use crate::config::{DEV, SYS_CLASS_BLOCK};
use crate::ledger::line::Medium;
use crate::source::{Source, is_share};
use crate::sys::blockdev::{self, BlockDevice};
use crate::sys::lock::{Lock, Mode, try_lock};
use crate::sys::superblock::{self, Content, Superblock};
use crate::sys::{loopdev, mount, mountinfo};

/// Mounting replays journals, which takes time; a device that answers nothing at all must still come to an end.
const MOUNT_BOUND: Duration = Duration::from_secs(300);
/// How long whoever uses an image may take to let it go before it is detached from under him.
const UNMOUNT_BOUND: Duration = Duration::from_secs(5);

/// What an image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The scripts.
    Application,
    /// The data.
    Data,
    /// The results.
    Output,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Role::Application => "application",
            Role::Data => "data",
            Role::Output => "output",
        })
    }
}

/// How an image is to be mounted.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What for.
    pub role: Role,
    /// As the configuration has it.
    pub source: String,
    /// `auto`, or a type.
    pub fstype: String,
    /// More mount options.
    pub options: String,
    /// Where.
    pub mount_point: PathBuf,
    /// Not even if it could be written.
    pub read_only: bool,
}

/// An image that is there.
#[derive(Debug, Clone)]
enum Found {
    Device(PathBuf),
    ImageFile(PathBuf),
    Directory(PathBuf),
    Share(String),
}

/// An image in use.
#[derive(Debug)]
pub struct Image {
    /// What for.
    pub role: Role,
    /// As the configuration has it.
    pub source: String,
    /// The device, or what else it is on.
    pub device: PathBuf,
    /// Where it can be reached.
    pub path: PathBuf,
    /// Type of the file system.
    pub fstype: String,
    /// It cannot be written.
    pub read_only: bool,
    /// Which file system it is.
    pub medium: Medium,
    /// gvad mounted it; so many mounts were at its place before.
    mounted_over: Option<usize>,
}

/// Looks for the image; `None` if it is not there (yet).
///
/// # Errors
/// Two devices match, or the devices cannot be listed.
fn find(wanted: &Wanted) -> anyhow::Result<Option<Found>> {
    let source =
        Source::parse(&wanted.source, &wanted.fstype).map_err(|message| anyhow!(message))?;
    let path = match source {
        Source::Tag(tag) => return Ok(Some(Found::Share(tag))),
        Source::Path(path) => path,
        Source::Label(_) | Source::Uuid(_) | Source::PartLabel(_) | Source::PartUuid(_) => {
            return Ok(find_device(&source)?.map(Found::Device));
        }
    };
    let meta = match fs::metadata(&path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.with_context(|| format!("looking at {}", path.display()))?,
    };
    let kind = meta.file_type();
    Ok(Some(match () {
        () if kind.is_dir() => Found::Directory(path),
        () if kind.is_file() => Found::ImageFile(path),
        () if kind.is_block_device() => Found::Device(path),
        () => bail!(
            "{} is neither a block device, an image file nor a directory",
            path.display()
        ),
    }))
}

fn find_device(source: &Source) -> anyhow::Result<Option<PathBuf>> {
    let root = root_device();
    let mut matching = Vec::new();
    for device in blockdev::list(Path::new(SYS_CLASS_BLOCK), Path::new(DEV))
        .context("listing block devices")?
    {
        if Some((device.major, device.minor)) != root
            && !in_use_below(&device.name)
            && matches(&device, source)
        {
            matching.push(device.path);
        }
    }
    match matching.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        [one, two, ..] => bail!(
            "both {} and {} match: which of them is meant?",
            one.display(),
            two.display()
        ),
    }
}

fn matches(device: &BlockDevice, source: &Source) -> bool {
    match source {
        Source::PartLabel(label) => device
            .partition_label()
            .is_ok_and(|found| found.as_ref() == Some(label)),
        Source::PartUuid(uuid) => device
            .partition_uuid()
            .is_ok_and(|found| found.as_ref() == Some(uuid)),
        Source::Label(label) => {
            superblock_of(device).is_some_and(|found| found.label == label.as_bytes())
        }
        Source::Uuid(uuid) => {
            superblock_of(device).is_some_and(|found| found.uuid.eq_ignore_ascii_case(uuid))
        }
        Source::Path(_) | Source::Tag(_) => false,
    }
}

/// A device that cannot be read (an empty drive, a dead disk) matches nothing.
fn superblock_of(device: &BlockDevice) -> Option<Superblock> {
    let file = open_device(&device.path).ok()?;
    match superblock::probe(&file, device.size).ok()? {
        Content::FileSystem(superblock) => Some(superblock),
        Content::Other(_) | Content::Unknown => None,
    }
}

fn open_device(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(O_NONBLOCK | O_CLOEXEC)
        .open(path)
}

const O_NONBLOCK: i32 = 0o4000;
const O_CLOEXEC: i32 = 0o2_000_000;

/// A device below another (multipath, device mapper) has the same superblock; the upper one is meant.
fn in_use_below(name: &OsStr) -> bool {
    let holders = Path::new(SYS_CLASS_BLOCK).join(name).join("holders");
    fs::read_dir(holders).is_ok_and(|mut entries| entries.next().is_some())
}

/// The device of the root file system, which no label may lead to.
fn root_device() -> Option<(u32, u32)> {
    let mounts = mountinfo::list().ok()?;
    let root = mounts
        .iter()
        .rev()
        .find(|mount| mount.path == Path::new("/"))?;
    // btrfs shows a number that is no device's; its source is the device.
    let device = fs::metadata(&root.source)
        .ok()
        .filter(|meta| meta.file_type().is_block_device());
    Some(device.map_or((root.major, root.minor), |meta| {
        crate::sys::blockdev::numbers(meta.rdev())
    }))
}

/// Whether the image is there now, without mounting it.
///
/// # Errors
/// As [`attach`].
pub fn present(wanted: &Wanted) -> anyhow::Result<bool> {
    find(wanted)
        .map(|found| found.is_some())
        .with_context(|| naming(wanted))
}

fn naming(wanted: &Wanted) -> String {
    format!("{} image {}", wanted.role, wanted.source)
}

/// Finds and mounts the image; `None` if it is not there.
///
/// # Errors
/// It is there but cannot be used: one line that names source, device, type and the kernel's answer.
pub async fn attach(wanted: &Wanted) -> anyhow::Result<Option<Image>> {
    let own = wanted.clone();
    let work = tokio::task::spawn_blocking(move || {
        find(&own)?.map(|found| use_image(&own, found)).transpose()
    });
    match tokio::time::timeout(MOUNT_BOUND, work).await {
        Ok(done) => done
            .context("mounting")
            .flatten()
            .with_context(|| naming(wanted)),
        Err(_) => Err(anyhow!("the device did not answer within 5 minutes"))
            .with_context(|| naming(wanted)),
    }
}

fn use_image(wanted: &Wanted, found: Found) -> anyhow::Result<Image> {
    match found {
        Found::Directory(path) => use_directory(wanted, path),
        Found::Share(tag) => mount_share(wanted, &tag),
        Found::Device(path) => {
            let size = blockdev::size(
                &open_device(&path).with_context(|| format!("opening {}", path.display()))?,
            )?;
            mount_device(wanted, &path, size, None)
        }
        Found::ImageFile(path) => mount_file(wanted, &path),
    }
}

fn use_directory(wanted: &Wanted, path: PathBuf) -> anyhow::Result<Image> {
    let dir = crate::sys::dir::Dir::open(&path)?;
    let id = crate::sys::file::file_system_id(&dir)?;
    Ok(Image {
        role: wanted.role,
        source: wanted.source.clone(),
        device: path.clone(),
        fstype: "directory".to_owned(),
        read_only: wanted.read_only || crate::sys::file::room(&dir)?.read_only,
        medium: Medium {
            id,
            lasting_inodes: true,
        },
        mounted_over: None,
        path,
    })
}

fn mount_share(wanted: &Wanted, tag: &str) -> anyhow::Result<Image> {
    let medium = Medium {
        id: format!("{}-{tag}", wanted.fstype),
        lasting_inodes: true,
    };
    mount_as(wanted, tag, &wanted.fstype, medium, wanted.read_only, false)
}

fn mount_file(wanted: &Wanted, path: &Path) -> anyhow::Result<Image> {
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
    // The loop device holds the file open, and with it this lock, until it is detached.
    let _lock: Lock = try_lock(
        &file,
        if read_only && wanted.role == Role::Data {
            Mode::Shared
        } else {
            Mode::Exclusive
        },
    )?
    .ok_or_else(|| anyhow!("{} is in use by another gvad", path.display()))?;
    let loops = blockdev::list(Path::new(SYS_CLASS_BLOCK), Path::new(DEV))?;
    let loops = loops
        .into_iter()
        .map(|device| device.path)
        .filter(|path| path.as_os_str().as_bytes().starts_with(b"/dev/loop"));
    for other in loopdev::attached_to(&file, loops)? {
        if !(read_only && other.read_only) {
            bail!(
                "{} is already attached as {}: two devices on one file destroy it; detach that, or name the device as the source",
                path.display(),
                other.path.display()
            );
        }
    }
    let device = loopdev::attach(&file, read_only)
        .with_context(|| format!("attaching {} as a loop device", path.display()))?;
    mount_device(
        wanted,
        &device.path,
        blockdev::size(&device.file)?,
        Some(path),
    )
}

fn mount_device(
    wanted: &Wanted,
    device: &Path,
    size: u64,
    file: Option<&Path>,
) -> anyhow::Result<Image> {
    let shown = file.unwrap_or(device).display();
    let opened = open_device(device).with_context(|| format!("opening {}", device.display()))?;
    let content = superblock::probe(&opened, size)
        .with_context(|| format!("reading the superblock of {shown}"))?;
    let superblock = match content {
        Content::FileSystem(superblock) => superblock,
        Content::Other(what) => bail!("{shown} holds {what}, not a file system"),
        Content::Unknown => bail!(
            "{shown} holds no file system that gvad knows ({size} bytes, no superblock found)"
        ),
    };
    let fstype = if wanted.fstype == "auto" {
        superblock.fstype
    } else {
        wanted.fstype.as_str()
    };
    let dirty = superblock.needs_recovery;
    let medium = Medium {
        id: superblock.medium,
        lasting_inodes: fstype != "vfat",
    };
    let device_read_only = blockdev::read_only(&opened)?;
    drop(opened);
    let source = device
        .to_str()
        .ok_or_else(|| anyhow!("{shown} has a name that is no text"))?;
    let read_only = wanted.read_only || device_read_only;
    let mounted = mount_as(wanted, source, fstype, medium, read_only, true);
    mounted.map(|image| Image { device: file.unwrap_or(device).to_owned(), ..image }).map_err(|err| {
        let hint = if dirty && device_read_only {
            "; its journal must be replayed, and the device is read-only: mount it writable once, or accept its old state with options = \"noload\""
        } else {
            ""
        };
        anyhow!("{shown} is {fstype}, but {err:#}{hint}")
    })
}

/// Mounts, writable if that can be.
fn mount_as(
    wanted: &Wanted,
    source: &str,
    fstype: &str,
    medium: Medium,
    read_only: bool,
    device: bool,
) -> anyhow::Result<Image> {
    let target = &wanted.mount_point;
    fs::create_dir_all(target)
        .with_context(|| format!("making the mount point {}", target.display()))?;
    let target = target
        .canonicalize()
        .with_context(|| format!("looking at the mount point {}", target.display()))?;
    if device && let Some(image) = already_mounted(wanted, source, fstype, &medium, &target)? {
        return Ok(image);
    }
    let over = mount::count_at(&target)?;
    let never_writable = matches!(fstype, "iso9660" | "squashfs" | "erofs");
    let (flags, words) = split_options(&wanted.options);
    let data = file_system_options(fstype, &words);
    let attempt = |fstype: &str, read_only| {
        let request = mount::Request {
            source,
            fstype,
            data: &data,
            flags: &flags,
            read_only,
        };
        mount::mount(&request, &target)
    };
    let mut read_only = read_only || never_writable;
    let mut answer = attempt(fstype, read_only);
    // A kernel that has no driver of that name serves ext2 and ext3 by ext4's.
    let fstype = match &answer {
        Err(err) if err.raw_os_error() == Some(ENODEV) && matches!(fstype, "ext2" | "ext3") => {
            answer = attempt("ext4", read_only);
            "ext4"
        }
        _ => fstype,
    };
    if let Err(err) = &answer
        && !read_only
        && matches!(
            err.kind(),
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
        )
    {
        read_only = true;
        answer = attempt(fstype, read_only);
    }
    answer.map_err(|err| {
        anyhow!(
            "mounting it at {} failed: {}",
            target.display(),
            explain_mount(fstype, &err)
        )
    })?;
    info!(role = %wanted.role, source = wanted.source, device = source, fstype, read_only, at = %target.display(), "mounted");
    Ok(Image {
        role: wanted.role,
        source: wanted.source.clone(),
        device: source.into(),
        path: target,
        fstype: fstype.to_owned(),
        read_only,
        medium,
        mounted_over: Some(over),
    })
}

const ENODEV: i32 = 19;
const EINVAL: i32 = 22;
const EBUSY: i32 = 16;

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

/// What was mounted at the place before gvad came is used, if it is the same device, and left alone at the end.
fn already_mounted(
    wanted: &Wanted,
    source: &str,
    fstype: &str,
    medium: &Medium,
    target: &Path,
) -> anyhow::Result<Option<Image>> {
    let Some(there) = mountinfo::list()?
        .into_iter()
        .rfind(|mount| mount.path == target)
    else {
        return Ok(None);
    };
    let device = blockdev::numbers(fs::metadata(source)?.rdev());
    if (there.major, there.minor) != device && there.source != OsString::from(source) {
        bail!(
            "{} is already a mount, of {}",
            target.display(),
            there.source.to_string_lossy()
        );
    }
    let room = crate::sys::file::room(&crate::sys::dir::Dir::open(target)?)?;
    Ok(Some(Image {
        role: wanted.role,
        source: wanted.source.clone(),
        device: source.into(),
        path: target.to_owned(),
        fstype: fstype.to_owned(),
        read_only: wanted.read_only || room.read_only,
        medium: medium.clone(),
        mounted_over: None,
    }))
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

impl Image {
    /// Another machine may write to it.
    #[must_use]
    pub fn shared(&self) -> bool {
        is_share(&self.fstype)
    }

    /// A rename is on the disk no later than anything that is done after it: the file system keeps a journal.
    #[must_use]
    pub fn orders_renames(&self) -> bool {
        matches!(self.fstype.as_str(), "ext3" | "ext4" | "xfs" | "btrfs")
    }

    /// Unmounts it, if gvad mounted it, and with it whatever was mounted below.
    ///
    /// # Errors
    /// It is still in use and was detached: it goes away when its users end.
    pub async fn release(self) -> anyhow::Result<()> {
        let Some(keep) = self.mounted_over else {
            return Ok(());
        };
        let path = self.path.clone();
        let work = tokio::task::spawn_blocking(move || unmount(&path, keep));
        let done = match tokio::time::timeout(MOUNT_BOUND, work).await {
            Ok(done) => done.context("unmounting").flatten(),
            Err(_) => Err(anyhow!("the device did not answer within 5 minutes")),
        };
        done.with_context(|| {
            format!(
                "unmounting the {} image from {}",
                self.role,
                self.path.display()
            )
        })?;
        info!(role = %self.role, at = %self.path.display(), "unmounted");
        Ok(())
    }
}

fn unmount(path: &Path, keep: usize) -> anyhow::Result<()> {
    let until = std::time::Instant::now() + UNMOUNT_BOUND;
    loop {
        match mount::unmount_tree(path, keep, false) {
            Err(err) if err.raw_os_error() == Some(EBUSY) && std::time::Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(err) if err.raw_os_error() == Some(EBUSY) => {
                warn!(
                    "{} is still in use: detaching it; it goes away when its users end",
                    path.display()
                );
                return Ok(mount::unmount_tree(path, keep, true)?);
            }
            other => return Ok(other?),
        }
    }
}
