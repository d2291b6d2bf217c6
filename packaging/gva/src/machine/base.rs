//! The base image: what the appliance boots from. It is only read.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use gvad::sys::lock::{Lock, Mode, try_lock};
use serde::Deserialize;

use super::disk::Format;

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
    /// From a directory with `base.json`, or from a disk image.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Base> {
        let shown = path.display();
        let found = path
            .metadata()
            .with_context(|| format!("looking at the base {shown}"))?;
        if !found.is_dir() {
            return Base::new(Kind::Disk, path.to_owned());
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
                File::open(&kernel)
                    .with_context(|| format!("the base {shown}: opening {}", kernel.display()))?;
                let cmdline = base.cmdline;
                Base::new(Kind::Direct { kernel, cmdline }, path.join("root.img"))
            }
            "disk" => Base::new(Kind::Disk, path.join("disk.qcow2")),
            other => {
                bail!("the base {shown} has the flavour {other:?}, which this gva does not know")
            }
        }
    }

    fn new(kind: Kind, root: PathBuf) -> anyhow::Result<Base> {
        let shown = root.display();
        let file = File::open(&root).with_context(|| format!("opening the base {shown}"))?;
        let lock = try_lock(&file, Mode::Shared)
            .with_context(|| format!("locking {shown}"))?
            .with_context(|| format!("the base {shown} is being written"))?;
        Ok(Base {
            kind,
            format: Format::by_name(&root),
            root,
            _lock: lock,
        })
    }
}
