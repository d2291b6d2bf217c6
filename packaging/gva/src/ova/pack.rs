//! `gva pack`: writes an appliance as a package. All of it is made in a private directory beside the place where it will stand,
//! and gets its name at the end, whole.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use gvad::units::Size;

use super::descriptor::{self, Appliance, Disk};
use super::inputs::{self, Input, Source};
use super::{DESCRIPTOR_MAX, archive, manifest, parameters, tools, vmdk};
use crate::scratch::{self, HalfMade};

/// When nobody says otherwise by SOURCE_DATE_EPOCH, files are of 1980: tar warns about what is older.
const TIME: u64 = 315_532_800;

const HELP: &str = "\
The same images, name and parameters give the same bytes. The time in the OVA is
SOURCE_DATE_EPOCH, else the beginning of 1980.

Examples:
  gva pack --base ./base-disk --application app.img -o job.ova
  gva pack --base ./base-disk --application app.img --data genome.img \\
           --param index=1 --memory 2GiB --cpus 2 -o job.ova
  gva pack --base ./base-disk --application app.img --ovf ./job";

/// `gva pack`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct PackArgs {
    /// The base image, of the disk flavour: a directory with base.json, or a disk image
    #[arg(long, value_name = "BASE")]
    pub(crate) base: PathBuf,
    /// The image with the scripts
    #[arg(long, value_name = "IMAGE")]
    pub(crate) application: PathBuf,
    /// The image with the data
    #[arg(long, value_name = "IMAGE")]
    pub(crate) data: Option<PathBuf>,
    /// The image for the results [default: an empty one]
    #[arg(long, value_name = "IMAGE", conflicts_with = "output_size")]
    pub(crate) output: Option<PathBuf>,
    /// The size of the empty image for the results
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    pub(crate) output_size: Size,
    /// A parameter and its value, which whoever deploys the appliance can change; may be given again
    #[arg(long = "param", value_name = "NAME=VALUE")]
    pub(crate) params: Vec<String>,
    /// Memory
    #[arg(long, value_name = "SIZE", default_value = "512MiB")]
    pub(crate) memory: Size,
    /// Processors
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=255))]
    pub(crate) cpus: u32,
    /// What the appliance is called [default: the file's name]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// The OVA file to write
    #[arg(short = 'o', value_name = "JOB.OVA", required_unless_present = "ovf")]
    pub(crate) ova: Option<PathBuf>,
    /// Write the same files into a new directory, in place of an OVA file
    #[arg(long, value_name = "DIR", conflicts_with = "ova")]
    pub(crate) ovf: Option<PathBuf>,
    /// Replace the OVA file if it is there
    #[arg(long, conflicts_with = "ovf")]
    pub(crate) force: bool,
}

/// A file of the package that is made.
struct Made {
    name: String,
    hash: String,
}

/// Writes a package.
pub(crate) fn pack(args: &PackArgs) -> Result<ExitCode> {
    scratch::removed_on_signals()?;
    let time = time()?;
    let (Some(target), as_directory) =
        (args.ovf.as_ref().or(args.ova.as_ref()), args.ovf.is_some())
    else {
        bail!("name the file to write with -o, or a directory with --ovf");
    };
    let name = name(args, target, as_directory)?;
    let parameters = parameters::parse(&args.params)?;
    let memory = args.memory.0 >> 20;
    if memory == 0 || memory << 20 != args.memory.0 {
        bail!("--memory {}: it must be a whole number of MiB", args.memory);
    }
    if as_directory && target.symlink_metadata().is_ok() {
        bail!("{} is there already", target.display());
    }
    // Refuses a file that is there, before the work.
    let file = (!as_directory)
        .then(|| HalfMade::new(target, args.force))
        .transpose()?;
    let private = scratch::Dir::beside(target)?;
    let inputs = inputs::look(args, private.path())?;
    inputs::room(&inputs, private.path())?;
    inputs::warn_without_scripts(&args.application);

    let package = private.path().join("package");
    fs::create_dir(&package).with_context(|| format!("making {}", package.display()))?;
    let doing = || format!("writing {}", target.display());
    let (disks, mut made) = convert(&inputs, &name, &package, time)?;
    let appliance = Appliance {
        name: &name,
        memory,
        cpus: args.cpus,
        parameters: &parameters,
        disks: &disks,
    };
    made.insert(0, describe(&appliance, &package).with_context(doing)?);
    list(&name, &mut made, &package).with_context(doing)?;
    match file {
        None => name_directory(&package, target).with_context(doing)?,
        Some(file) => {
            archive(&made, &package, &file, time).with_context(doing)?;
            file.finish()?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn time() -> Result<u64> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => match text.trim().parse() {
            // What eleven octal digits can say.
            Ok(time) if time < 1 << 33 => Ok(time),
            _ => bail!("SOURCE_DATE_EPOCH={text:?} is no time in seconds"),
        },
        Err(_) => Ok(TIME),
    }
}

/// The name of the appliance, with which the names of all its files begin.
fn name(args: &PackArgs, target: &Path, as_directory: bool) -> Result<String> {
    let from_target = if as_directory {
        target.file_name()
    } else {
        target.file_stem()
    };
    let name = match (&args.name, from_target) {
        (Some(name), _) => name.clone(),
        (None, Some(name)) => name.to_string_lossy().into_owned(),
        (None, None) => bail!("{} has no name; see --name", target.display()),
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty()
        || name.len() > 64
        || name.starts_with(['.', '-'])
        || !name.chars().all(allowed)
    {
        bail!(
            "the name {name:?} must be 1 to 64 letters, digits and . _ -, and begin with a letter or digit; see --name"
        );
    }
    Ok(name)
}

/// Makes the disks.
fn convert(
    inputs: &[Input],
    name: &str,
    package: &Path,
    time: u64,
) -> Result<(Vec<Disk>, Vec<Made>)> {
    let (mut disks, mut made) = (Vec::new(), Vec::new());
    let mut progress = tools::Progress::new("packing", inputs.len() as u64 * 1000);
    for (input, number) in inputs.iter().zip(0..) {
        let file = format!("{name}-{}.vmdk", input.role);
        let target = package.join(&file);
        let mut told = |share: f64| progress.set(number * 1000 + (share * 9.0) as u64);
        match &input.source {
            Source::Image { path, format } => tools::convert(path, format, &target, &mut told)?,
            Source::Empty { size } => {
                let empty = package.with_file_name("empty.img");
                tools::empty_output(&empty, "gva-output", *size, time)?;
                tools::convert(&empty, "raw", &target, &mut told)?;
            }
        }
        let capacity = vmdk::finish(&target).with_context(|| format!("finishing {file}"))?;
        let content = File::open(&target)?;
        let size = content.metadata()?.len();
        if size >= super::MEMBER_MAX {
            bail!("{file} has {size} bytes, and a file in an OVA must have less than 8 GiB");
        }
        let hash = manifest::hash(content, |_| ()).with_context(|| format!("reading {file}"))?;
        disks.push(Disk {
            role: input.role,
            file: file.clone(),
            size,
            capacity,
        });
        made.push(Made { name: file, hash });
    }
    Ok((disks, made))
}

fn describe(appliance: &Appliance, package: &Path) -> Result<Made> {
    let text = descriptor::write(appliance)?;
    if text.len() as u64 > DESCRIPTOR_MAX {
        bail!(
            "the parameters are too long: the descriptor would have {} bytes",
            text.len()
        );
    }
    let name = format!("{}.ovf", appliance.name);
    let hash = manifest::hash(text.as_slice(), |_| ())?;
    fs::write(package.join(&name), text)?;
    Ok(Made { name, hash })
}

/// Writes the manifest, and puts it behind the descriptor.
fn list(name: &str, made: &mut Vec<Made>, package: &Path) -> Result<()> {
    let text: String = made
        .iter()
        .map(|made| manifest::line(&made.name, &made.hash))
        .collect();
    let name = format!("{name}.mf");
    fs::write(package.join(&name), text)?;
    let hash = String::new();
    made.insert(1, Made { name, hash });
    Ok(())
}

/// Moves the files into the tar; each is removed once it is in, so that no more room is needed than for the largest twice.
fn archive(made: &[Made], package: &Path, target: &HalfMade, time: u64) -> Result<()> {
    let mut tar = tar::Builder::new(File::create(target.path())?);
    for made in made {
        let path = package.join(&made.name);
        let content = File::open(&path)?;
        let size = content.metadata()?.size();
        archive::append(&mut tar, &made.name, content, size, time)?;
        fs::remove_file(&path)?;
    }
    let file = tar.into_inner()?;
    file.sync_all()?;
    Ok(())
}

fn name_directory(package: &Path, target: &Path) -> Result<()> {
    for entry in fs::read_dir(package)? {
        File::open(entry?.path())?.sync_all()?;
    }
    fs::rename(package, target)?;
    Ok(())
}
