//! Finding what a source names among what is attached. Nothing is mounted here.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};

use super::Wanted;
use crate::config::{DEV, SYS_CLASS_BLOCK};
use crate::source::Source;
use crate::sys::blockdev::{self, BlockDevice};
use crate::sys::mountinfo;
use crate::sys::superblock::{self, Content, Superblock};

/// An image that is there.
#[derive(Debug, Clone)]
pub(super) enum Found {
    Device(PathBuf),
    ImageFile(PathBuf),
    Directory(PathBuf),
    Share(String),
}

/// Looks for the image; `None` if it is not there (yet).
///
/// # Errors
/// Two devices match, or the devices cannot be listed.
pub(super) fn find(wanted: &Wanted) -> anyhow::Result<Option<Found>> {
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
    let file = blockdev::open(&device.path).ok()?;
    match superblock::probe(&file, device.size).ok()? {
        Content::FileSystem(superblock) => Some(superblock),
        Content::Other(_) | Content::Unknown => None,
    }
}

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
