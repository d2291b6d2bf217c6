//! One image that is attached: which format it has, whether it may be written, and the lock that keeps two runs from sharing what one of them writes.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use gvad::sys::lock::{Lock, Mode, try_lock};
use gvad::sys::superblock::{Content, Superblock, probe};
use nix::fcntl::OFlag;
use serde_json::{Value, json};

use crate::cli::Role;

/// How the bytes of a disk stand in its file. Told by the file's name alone: a guest can write what it likes at the start of a raw disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// As they are.
    Raw,
    /// QEMU's own.
    Qcow2,
}

impl Format {
    /// By the end of the name.
    pub(crate) fn by_name(path: &Path) -> Format {
        match path.extension().and_then(|end| end.to_str()) {
            Some("qcow2") => Format::Qcow2,
            _ => Format::Raw,
        }
    }

    /// As QEMU names it.
    pub(crate) fn driver(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
        }
    }
}

/// A qcow2 file can name others, as what stands under it or as the place of its data, and QEMU would show the guest whatever file of the host that is.
/// Whoever made the image is trusted with the guest, not with the host.
pub(crate) fn stands_alone(file: &File, what: &str) -> anyhow::Result<()> {
    const EXTERNAL_DATA: u64 = 1 << 2;
    let mut header = [0; 80];
    file.read_exact_at(&mut header, 0)
        .with_context(|| format!("reading {what}"))?;
    let number = |at: usize| -> u64 {
        let bytes = header.iter().skip(at).take(8);
        bytes.fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    };
    if !header.starts_with(b"QFI\xfb") {
        bail!("{what} is no qcow2 file, and its name says that it is one");
    }
    // Version 2 ends before it.
    let features = if number(0) & 0xffff_ffff >= 3 {
        number(72)
    } else {
        0
    };
    if number(8) != 0 || features & EXTERNAL_DATA != 0 {
        bail!(
            "{what} needs another file, which it names; make one of both: qemu-img convert -O qcow2"
        );
    }
    Ok(())
}

/// Opens a file that is only read. A FIFO is not waited for.
pub(crate) fn open_to_read(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
    options.open(path)
}

/// Nothing that QEMU could take for a disk.
pub(crate) fn neither_file_nor_device(found: &Metadata) -> bool {
    !found.is_file() && !found.file_type().is_block_device()
}

/// An image, locked.
#[derive(Debug)]
pub(crate) struct Disk {
    /// Names the disk for QEMU, and for the guest: its serial number.
    pub(crate) id: String,
    pub(crate) role: Role,
    /// gvad does not look for its label, or it is of a type that has none.
    pub(crate) unlabelled: bool,
    /// Absolute.
    path: PathBuf,
    format: Format,
    block_device: bool,
    pub(crate) read_only: bool,
    _lock: Lock,
}

impl Disk {
    /// Opens and locks an image for `role`. gva's `own` may name other files.
    pub(crate) fn open(path: &Path, role: Role, id: &str, own: bool) -> anyhow::Result<Disk> {
        let shown = path.display();
        let what = format!("the {} image {shown}", role.name());
        let format = Format::by_name(path);
        let written = OpenOptions::new().read(true).write(true).open(path);
        let (file, writable) = match written {
            Ok(file) => (file, true),
            Err(err) if role != Role::Output && cannot_be_written(&err) => {
                let file = open_to_read(path).with_context(|| format!("opening {what}"))?;
                (file, false)
            }
            Err(err) => return Err(err).with_context(|| format!("opening {what}")),
        };
        let found = file
            .metadata()
            .with_context(|| format!("looking at {what}"))?;
        if neither_file_nor_device(&found) {
            bail!("{what} is neither a file nor a block device");
        }
        let content = match format {
            Format::Raw => Some(look(&file, role, &what)?),
            Format::Qcow2 if own => None,
            Format::Qcow2 => {
                stands_alone(&file, &what)?;
                None
            }
        };
        let medium = |fstype: &str| ["iso9660", "squashfs", "erofs"].contains(&fstype);
        let content = content.flatten();
        let unlabelled = content
            .as_ref()
            .is_some_and(|found| found.label != role.label().as_bytes());
        let fstype = content.map(|found| found.fstype);
        let read_only = !writable || role == Role::Data || fstype.is_some_and(medium);
        if read_only && role == Role::Output {
            bail!("{what} cannot be written");
        }
        let mode = if read_only {
            Mode::Shared
        } else {
            Mode::Exclusive
        };
        let lock = try_lock(&file, mode)
            .with_context(|| format!("locking {what}"))?
            .with_context(|| format!("{what} is in use by another run"))?;
        Ok(Disk {
            id: id.to_owned(),
            role,
            unlabelled,
            path: path
                .canonicalize()
                .with_context(|| format!("looking at {what}"))?,
            format,
            block_device: found.file_type().is_block_device(),
            read_only,
            _lock: lock,
        })
    }

    /// A CD, with whatever is on it.
    pub(crate) fn open_cd(path: &Path, id: &str) -> anyhow::Result<Disk> {
        let what = format!("the CD image {}", path.display());
        let file = open_to_read(path).with_context(|| format!("opening {what}"))?;
        let found = file
            .metadata()
            .with_context(|| format!("looking at {what}"))?;
        if neither_file_nor_device(&found) {
            bail!("{what} is neither a file nor a block device");
        }
        let lock = try_lock(&file, Mode::Shared)
            .with_context(|| format!("locking {what}"))?
            .with_context(|| format!("{what} is in use by another run"))?;
        Ok(Disk {
            id: id.to_owned(),
            role: Role::Data,
            unlabelled: false,
            path: path
                .canonicalize()
                .with_context(|| format!("looking at {what}"))?,
            format: Format::Raw,
            block_device: found.file_type().is_block_device(),
            read_only: true,
            _lock: lock,
        })
    }

    /// For people.
    pub(crate) fn shown(&self) -> String {
        self.path.display().to_string()
    }

    /// For `-blockdev` and `blockdev-add`. A name that is no UTF-8 cannot be passed as JSON, and has no place elsewhere either.
    pub(crate) fn blockdev(&self) -> anyhow::Result<Value> {
        let path = self
            .path
            .to_str()
            .with_context(|| format!("the name {} is not UTF-8", self.path.display()))?;
        let driver = if self.block_device {
            "host_device"
        } else {
            "file"
        };
        Ok(json!({
            "driver": self.format.driver(), "node-name": self.id, "read-only": self.read_only, "discard": "unmap",
            "file": { "driver": driver, "filename": path, "discard": "unmap" },
        }))
    }
}

fn cannot_be_written(err: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    matches!(err.kind(), PermissionDenied | ReadOnlyFilesystem)
}

/// Looks whether gvad will find the image, so that a wrong one is told before anything boots.
fn look(mut file: &File, role: Role, what: &str) -> anyhow::Result<Option<Superblock>> {
    let reading = || format!("reading {what}");
    let size = file.seek(SeekFrom::End(0)).with_context(reading)?;
    let found = match probe(file, size).with_context(reading)? {
        Content::FileSystem(found) => found,
        // gvad looks into its partitions.
        Content::Other(table) if table.contains("partition table") => return Ok(None),
        Content::Other(other) => bail!("{what} is {other}"),
        Content::Unknown => bail!("{what} holds no file system; make one with gva image"),
    };
    let label = String::from_utf8_lossy(&found.label).into_owned();
    if found.fstype != "squashfs" && !label.starts_with(role.label()) {
        let wanted = role.label();
        bail!(
            "{what} has {}, and gvad looks for {wanted}; gva image sets it, or for ext4: e2label IMAGE {wanted}",
            if label.is_empty() {
                "no label".into()
            } else {
                format!("the label {label:?}")
            }
        );
    }
    Ok(Some(found))
}
