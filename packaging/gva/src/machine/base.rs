//! The base image: what the appliance boots from. It is only read.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use gvad::sys::lock::{Lock, Mode, try_lock};
use serde::Deserialize;

use super::disk::{Format, neither_file_nor_device, open_to_read, stands_alone};

/// What `base.json` tells.
#[derive(Debug, Deserialize)]
struct Described {
    schema: u32,
    flavour: String,
    #[serde(default)]
    cmdline: String,
}

/// A base image, locked against being written.
#[derive(Debug)]
pub(crate) struct Base {
    pub(crate) kind: Kind,
    /// The disk that the appliance sees as its own.
    pub(crate) root: PathBuf,
    pub(crate) format: Format,
    _lock: Lock,
}

/// How it boots.
#[derive(Debug)]
pub(crate) enum Kind {
    /// QEMU loads the kernel from a file.
    Direct { kernel: PathBuf, cmdline: String },
    /// The firmware loads it from the disk.
    Disk,
}

impl Base {
    /// From a directory with `base.json`, or from a disk image. gva's `own` may name other files.
    pub(crate) fn open(path: &Path, own: bool) -> anyhow::Result<Base> {
        let shown = path.display();
        let found = path
            .metadata()
            .with_context(|| format!("looking at the base {shown}"))?;
        if !found.is_dir() {
            return Base::new(Kind::Disk, path, own);
        }
        let file = path.join("base.json");
        let text = match fs::read(&file) {
            Ok(text) => text,
            Err(_) if path.join("direct/base.json").is_file() => {
                bail!("the base {shown} has more than one flavour; try {shown}/direct")
            }
            Err(err) => {
                return Err(err).with_context(|| {
                    format!("the base {shown} is none: reading {}", file.display())
                });
            }
        };
        let base: Described =
            serde_json::from_slice(&text).with_context(|| format!("reading {}", file.display()))?;
        if base.schema != 1 {
            bail!(
                "the base {shown} was made for another gva: schema {}",
                base.schema
            );
        }
        match base.flavour.as_str() {
            "direct" => {
                let kernel = path.join("vmlinuz");
                open_to_read(&kernel)
                    .with_context(|| format!("the base {shown}: opening {}", kernel.display()))?;
                let cmdline = base.cmdline;
                Base::new(
                    Kind::Direct { kernel, cmdline },
                    &path.join("root.img"),
                    own,
                )
            }
            "disk" => Base::new(Kind::Disk, &path.join("disk.qcow2"), own),
            other => {
                bail!("the base {shown} has the flavour {other:?}, which this gva does not know")
            }
        }
    }

    fn new(kind: Kind, root: &Path, own: bool) -> anyhow::Result<Base> {
        let what = format!("the base {}", root.display());
        let file = open_to_read(root).with_context(|| format!("opening {what}"))?;
        let found = file
            .metadata()
            .with_context(|| format!("looking at {what}"))?;
        if neither_file_nor_device(&found) {
            bail!("{what} is neither a file nor a block device");
        }
        let format = Format::by_name(root);
        if format == Format::Qcow2 && !own {
            stands_alone(&file, &what)?;
        }
        let lock = try_lock(&file, Mode::Shared)
            .with_context(|| format!("locking {what}"))?
            .with_context(|| format!("{what} is being written"))?;
        Ok(Base {
            kind,
            format,
            // Else QEMU takes what stands before a colon for a protocol.
            root: root
                .canonicalize()
                .with_context(|| format!("looking at {what}"))?,
            _lock: lock,
        })
    }
}
