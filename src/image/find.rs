//! Finding what a source names among what is attached. Nothing is mounted here.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};

use super::{Attachment, Wanted};
use crate::config::{DEV, SYS_CLASS_BLOCK};
use crate::source::Source;
use crate::sys::{blockdev, mountinfo};

/// An image that is there.
#[derive(Debug, Clone)]
pub(super) enum Found {
    Device(PathBuf),
    ImageFile(PathBuf),
    Directory(PathBuf),
    Share(String),
}

/// What may be taken as the application image.
#[derive(Debug)]
pub enum Sight {
    /// A directory, an image file or a share: one place, there or not.
    Place,
    /// Block devices, in the order in which they were attached.
    Media(Vec<Candidate>),
}

/// A block device that the source names.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Which.
    pub attachment: Attachment,
    /// Its node.
    pub path: PathBuf,
}

/// Looks for the image; `None` if it is not there (yet).
///
/// # Errors
/// Two devices match, or the devices cannot be listed.
pub(super) fn find(wanted: &Wanted) -> anyhow::Result<Option<Found>> {
    let source = parse(wanted)?;
    match &source {
        Source::Tag(tag) => Ok(Some(Found::Share(tag.clone()))),
        Source::Path(path) => at_path(path),
        _ => match list(wanted, &source, &[])?.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(Found::Device(one.path.clone()))),
            [one, two, ..] => bail!(
                "both {} and {} match: which of them is meant?",
                one.path.display(),
                two.path.display()
            ),
        },
    }
}

/// Looks for everything that the source names. Devices among `known` are not opened: they were found to match before.
///
/// # Errors
/// The devices cannot be listed.
pub(super) fn sight(wanted: &Wanted, known: &[Attachment]) -> anyhow::Result<Sight> {
    let source = parse(wanted)?;
    let path = match &source {
        Source::Tag(_) => return Ok(Sight::Place),
        Source::Path(path) => path,
        _ => return Ok(Sight::Media(list(wanted, &source, known)?)),
    };
    match at_path(path)? {
        None => Ok(Sight::Media(Vec::new())),
        Some(Found::Device(path)) => {
            let numbers = blockdev::numbers(fs::metadata(&path)?.rdev());
            let attachment = Attachment::numbered(numbers).into_iter();
            Ok(Sight::Media(
                attachment
                    .map(|attachment| Candidate {
                        attachment,
                        path: path.clone(),
                    })
                    .collect(),
            ))
        }
        Some(Found::ImageFile(_) | Found::Directory(_) | Found::Share(_)) => Ok(Sight::Place),
    }
}

fn parse(wanted: &Wanted) -> anyhow::Result<Source> {
    Source::parse(&wanted.source, &wanted.fstype).map_err(|message| anyhow!(message))
}

fn at_path(path: &Path) -> anyhow::Result<Option<Found>> {
    let meta = match fs::metadata(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.with_context(|| format!("looking at {}", path.display()))?,
    };
    let kind = meta.file_type();
    let path = path.to_owned();
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

/// Every device that the source names, in the order in which they were attached.
fn list(wanted: &Wanted, source: &Source, known: &[Attachment]) -> anyhow::Result<Vec<Candidate>> {
    let root = root_device();
    let devices = blockdev::list(Path::new(SYS_CLASS_BLOCK), Path::new(DEV))
        .context("listing block devices")?;
    wanted.probed.keep(&devices);
    let mut matching = Vec::new();
    for device in &devices {
        let attachment = Attachment::of(device);
        if Some((device.major, device.minor)) != root
            && !in_use_below(&device.name)
            && (known.contains(&attachment) || wanted.probed.matches(device, source))
        {
            matching.push(Candidate {
                attachment,
                path: device.path.clone(),
            });
        }
    }
    matching.sort_by(|one, other| one.attachment.cmp(&other.attachment));
    Ok(matching)
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
        blockdev::numbers(meta.rdev())
    }))
}
