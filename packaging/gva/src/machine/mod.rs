//! The machine before it runs: what it is made of, looked at and locked, and the arguments for QEMU.

pub(crate) mod arguments;
pub(crate) mod base;
pub(crate) mod disk;
pub(crate) mod parameter;

use std::path::PathBuf;

use anyhow::{Context, bail};

use crate::cli::{Firmware, MachineArgs, Role, RunArgs};
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
        let credentials = parameter::credentials(&parameters?, serves)?;
        let appliance = Appliance {
            qemu,
            base: Base::open(base)?,
            disks: disks(args)?,
            cds: cds(args)?,
            credentials,
            machine,
            serves,
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
        disks.push(Disk::open(path, role, id)?);
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
