//! The machine before it runs: what it is made of, looked at and locked, and the arguments for QEMU.

pub(crate) mod arguments;
pub(crate) mod base;
pub(crate) mod disk;
pub(crate) mod parameter;

use std::fs::{self, File};
use std::path::PathBuf;

use anyhow::{Context, bail};

use crate::cli::{Firmware, MachineArgs, Role, RunArgs};
use crate::image::{self, ext4};
use crate::scratch::{self, Dir};
use crate::tool;
use base::Base;
use disk::Disk;
use parameter::Parameter;

/// The serial number of the application image that is there from the start.
pub(crate) const FIRST: &str = "gva-a0";

/// Everything that is needed to start the machine.
#[derive(Debug)]
pub(crate) struct Appliance {
    pub(crate) qemu: PathBuf,
    pub(crate) base: Base,
    pub(crate) disks: Vec<Disk>,
    pub(crate) cds: Vec<Disk>,
    /// Strings for the SMBIOS tables.
    pub(crate) credentials: Vec<String>,
    pub(crate) machine: MachineArgs,
    /// Free slots are there for what comes.
    pub(crate) serves: bool,
    /// Holds the placeholder.
    _scratch: Option<Dir>,
}

impl Appliance {
    /// Looks at everything, and locks it.
    pub(crate) fn assemble(args: &RunArgs) -> anyhow::Result<Appliance> {
        let machine = args.machine.clone();
        let qemu = match &machine.qemu {
            Some(program) if program.components().count() > 1 => program.clone(),
            Some(program) => tool::find(&program.to_string_lossy(), "qemu-system-x86")?,
            None => tool::find("qemu-system-x86_64", "qemu-system-x86")?,
        };
        if !tool::is_program(&qemu) {
            bail!("{} is no program", qemu.display());
        }
        if !(64 << 20..=1 << 44).contains(&machine.memory().0) {
            bail!(
                "a memory of {} is not from 64MiB to 16TiB",
                machine.memory()
            );
        }
        let serves = args.serve.is_some();
        if args.application.is_none() && args.cdrom.is_empty() && !serves {
            bail!("there is no application image; name one with --application, or see --serve");
        }
        let base = args
            .base
            .as_deref()
            .context("there is no base; see --base")?;
        let parameters: Result<Vec<_>, _> = args
            .params
            .iter()
            .map(|text| Parameter::parse(text))
            .collect();
        let mut disks = disks(args)?;
        let scratch = if serves && args.application.is_none() {
            scratch::hold_signals_back()?;
            let scratch = Dir::new()?;
            disks.push(placeholder(&scratch)?);
            Some(scratch)
        } else {
            None
        };
        if serves
            && disks
                .iter()
                .any(|disk| disk.role == Role::Application && disk.unlabelled)
        {
            bail!(
                "--serve finds media by the label {}, and the application image has another or none",
                Role::Application.label()
            );
        }
        let cds = cds(args)?;
        let config = config(&disks, &cds, serves);
        let credentials = parameter::credentials(&parameters?, &config)?;
        let appliance = Appliance {
            qemu,
            base: Base::open(base, args.made(base))?,
            disks,
            cds,
            credentials,
            machine,
            serves,
            _scratch: scratch,
        };
        if appliance.machine.firmware == Firmware::Uefi
            && matches!(appliance.base.kind, base::Kind::Direct { .. })
        {
            bail!(
                "--firmware uefi is for disk images; {} boots directly",
                base.display()
            );
        }
        Ok(appliance)
    }
}

/// An application image without scripts. gvad keeps its first medium mounted, for scripts that may come, until there is a second; with this as the
/// first, each that is submitted is released as soon as it is done, and cleanly unmounted.
fn placeholder(scratch: &Dir) -> anyhow::Result<Disk> {
    let doing = "making a placeholder";
    let (directory, file) = (
        scratch.path().join("empty"),
        scratch.path().join("first.img"),
    );
    fs::create_dir_all(directory.join("script-bin")).context(doing)?;
    File::create(&file).context(doing)?;
    let wanted = ext4::Wanted {
        directory: Some(&directory),
        label: Role::Application.label(),
        size: 16 << 20,
        content: &image::measure(&directory)?,
    };
    ext4::make(&wanted, &file, doing)?;
    Disk::open(&file, Role::Application, FIRST, true)
}

/// What gvad must know of this instance, beside the base's own configuration: what is attached and must be there, and what is not and need not be
/// waited for.
fn config(disks: &[Disk], cds: &[Disk], serves: bool) -> String {
    let mut config = String::new();
    for role in [Role::Application, Role::Data, Role::Output] {
        config += &format!("[{}]\n", role.name());
        let disk = disks.iter().find(|disk| disk.role == role);
        // The disk has a serial number, too.
        if let Some(disk) = disk.filter(|disk| disk.unlabelled) {
            config += &format!("source = \"/dev/disk/by-id/virtio-{}\"\n", disk.id);
        }
        config += match (role, disk) {
            (Role::Application, _) => "",
            (Role::Data | Role::Output, Some(_)) => "required = true\n",
            (Role::Data | Role::Output, None) => "wait = \"0s\"\n",
        };
    }
    if cds.is_empty() {
        config += "[parameters]\nwait = \"0s\"\n";
    }
    if serves {
        config += "[lifecycle]\nwhen_drained = \"wait\"\n";
    }
    config
}

fn disks(args: &RunArgs) -> anyhow::Result<Vec<Disk>> {
    let wanted = [
        (&args.application, Role::Application, FIRST),
        (&args.data, Role::Data, "gva-data"),
        (&args.output, Role::Output, "gva-output"),
    ];
    let mut seen: Vec<(PathBuf, Role)> = Vec::new();
    let mut disks: Vec<Disk> = Vec::new();
    for (path, role, id) in wanted {
        let Some(path) = path else { continue };
        // Else the lock would say that another run has it.
        if let Ok(whole) = path.canonicalize() {
            if let Some((_, other)) = seen.iter().find(|(seen, _)| *seen == whole) {
                let (shown, other, role) = (path.display(), other.name(), role.name());
                bail!("{shown} is given twice, as {other} and as {role} image");
            }
            seen.push((whole, role));
        }
        disks.push(Disk::open(path, role, id, args.made(path))?);
    }
    Ok(disks)
}

fn cds(args: &RunArgs) -> anyhow::Result<Vec<Disk>> {
    if args.cdrom.len() > 4 {
        bail!("more than four CDs cannot be attached");
    }
    let numbered = args.cdrom.iter().enumerate();
    numbered
        .map(|(number, path)| Disk::open_cd(path, &format!("gva-cd{number}")))
        .collect()
}
