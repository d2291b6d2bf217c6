//! What goes into a package: the images, looked at before any work is done.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use gvad::sys::superblock::{self, Content};
use nix::sys::statvfs::statvfs;
use serde::Deserialize;

use super::pack::PackArgs;
use super::tools;
use crate::machine::disk::stands_alone;
use crate::results::extract::Image;
use crate::say;

/// One disk of the package to be.
pub(super) struct Input {
    pub(super) role: &'static str,
    pub(super) source: Source,
    /// About what it takes on the host's disk, in bytes.
    bytes: u64,
}

/// Where a disk comes from.
pub(super) enum Source {
    Image { path: PathBuf, format: &'static str },
    Empty { size: u64 },
}

/// What of base.json is of interest here.
#[derive(Deserialize)]
struct Base {
    flavour: String,
}

/// An ext4 with a journal, and what a disk's size can be on every hypervisor.
const OUTPUT_SIZES: std::ops::RangeInclusive<u64> = (16 << 20)..=(2 << 40) - 1;

/// Looks at the images: each must be there, and be what it is given for.
pub(super) fn look(args: &PackArgs, private: &Path) -> Result<Vec<Input>> {
    let mut inputs = vec![base(&args.base, private)?];
    inputs.push(labelled("application", &args.application, "gva-app")?);
    if let Some(data) = &args.data {
        inputs.push(labelled("data", data, "gva-data")?);
    }
    if let Some(output) = &args.output {
        inputs.push(labelled("output", output, "gva-output")?);
    } else {
        let size = args.output_size.0;
        if !OUTPUT_SIZES.contains(&size) {
            bail!(
                "--output-size {}: it must be from 16MiB to less than 2TiB",
                args.output_size
            );
        }
        inputs.push(Input {
            role: "output",
            source: Source::Empty {
                size: size.next_multiple_of(1 << 20),
            },
            bytes: 1 << 20,
        });
    }
    Ok(inputs)
}

/// An image whose scripts have run has none any more, and nobody means to pack that. What is no ext4 cannot be looked into.
pub(super) fn warn_without_scripts(application: &Path) {
    let looked = Image::open(application).and_then(|image| image.has_a_script());
    if let Ok(false) = looked {
        say::warn(&format!(
            "warning: there is no executable file in script-bin on {}, so nothing will run; scripts that have run are gone from it",
            application.display()
        ));
    }
}

/// Refuses if the disk would surely be full in the middle: what is packed is at worst as long as what is allocated.
pub(super) fn room(inputs: &[Input], place: &Path) -> Result<()> {
    let needed: u64 = inputs.iter().map(|input| input.bytes).sum();
    let largest = inputs
        .iter()
        .map(|input| input.bytes)
        .max()
        .unwrap_or_default();
    let needed = needed.saturating_add(largest);
    let found = statvfs(place).with_context(|| format!("looking at {}", place.display()))?;
    let free = found
        .blocks_available()
        .saturating_mul(found.fragment_size());
    if free < needed {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        bail!(
            "no room: packing needs up to {} MiB there, and {} MiB are free",
            mib(needed),
            mib(free)
        );
    }
    Ok(())
}

fn opened(path: &Path, what: &str) -> Result<(File, u64, u64)> {
    let opening = || format!("opening the {what} {}", path.display());
    let about = path.metadata().with_context(opening)?;
    if !about.is_file() {
        bail!("{}: it is no file", opening());
    }
    let file = File::open(path).with_context(opening)?;
    Ok((file, about.len(), about.blocks().saturating_mul(512)))
}

fn base(given: &Path, private: &Path) -> Result<Input> {
    let path = if given.is_dir() {
        in_directory(given)?
    } else {
        given.to_owned()
    };
    // Else qemu-img takes what stands before a colon for a protocol.
    let path = path
        .canonicalize()
        .with_context(|| format!("opening the base image {}", path.display()))?;
    let (file, _, bytes) = opened(&path, "base image")?;
    let format = tools::format(&path)?;
    if format == "qcow2" {
        stands_alone(&file, &format!("the base image {}", path.display()))?;
    }
    let head = private.join("head.img");
    tools::head(&path, format, &head)?;
    let head = File::open(head)?;
    let content = superblock::probe(&head, head.metadata()?.len())?;
    if !matches!(content, Content::Other(what) if what.contains("partition table")) {
        bail!(
            "{} is no bootable disk: there is no partition table on it; an OVA needs the base of the disk flavour",
            path.display()
        );
    }
    Ok(Input {
        role: "base",
        source: Source::Image { path, format },
        bytes,
    })
}

fn in_directory(directory: &Path) -> Result<PathBuf> {
    let file = directory.join("base.json");
    let reading = || format!("reading {}", file.display());
    let text = std::fs::read_to_string(&file).with_context(reading)?;
    let base: Base = serde_json::from_str(&text).with_context(reading)?;
    match base.flavour.as_str() {
        "disk" => Ok(directory.join("disk.qcow2")),
        "direct" => bail!(
            "the base {} is of the direct flavour, which has no boot loader; an OVA needs the disk flavour",
            directory.display()
        ),
        other => bail!("{}: the flavour {other:?} is not known", file.display()),
    }
}

fn labelled(role: &'static str, path: &Path, label: &str) -> Result<Input> {
    let (file, size, bytes) = opened(path, &format!("{role} image"))?;
    let content =
        superblock::probe(&file, size).with_context(|| format!("reading {}", path.display()))?;
    let found = match content {
        Content::FileSystem(found) => String::from_utf8_lossy(&found.label).into_owned(),
        Content::Other(what) => bail!(
            "the {role} image {} holds {what}, and no file system",
            path.display()
        ),
        Content::Unknown => bail!(
            "the {role} image {} holds no file system that is known",
            path.display()
        ),
    };
    // Application images are a queue, and their labels may go on.
    let right = found == label || (role == "application" && found.starts_with(label));
    if !right {
        bail!(
            "the {role} image {} has the label {found:?}, and the appliance looks for {label}",
            path.display()
        );
    }
    Ok(Input {
        role,
        source: Source::Image {
            path: path
                .canonicalize()
                .with_context(|| format!("opening the {role} image {}", path.display()))?,
            format: "raw",
        },
        bytes,
    })
}
