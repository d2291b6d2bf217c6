//! `gva run job.ova`: an OVA as the images of a run. Nothing large is unpacked: QEMU reads the disks where they stand in the OVA, under
//! overlays that are thrown away. Only the output disk is copied out, if somebody wants to keep the results.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use gvad::units::Size;
use serde_json::json;

use super::check::{self, Examined};
use super::hardware::kind;
use super::{environment, tools};
use crate::cli::{MachineArgs, RunArgs};
use crate::scratch::{self, Dir, HalfMade};

/// An OVA that can be run; what it needs on the host's disk is gone with it.
pub(crate) struct Opened {
    /// As if the images had been given one by one.
    pub(crate) args: RunArgs,
    _private: Dir,
}

/// Checks an OVA, and makes of it what can be run. The parameters given go over those that were packed, by the OVF environment.
pub(crate) fn open(args: &RunArgs, job: &Path) -> Result<Opened> {
    let examined = check::examine(job, None)?;
    if let Some(finding) = examined.findings.first() {
        let more = examined.findings.len() - 1;
        let more = if more == 0 {
            String::new()
        } else {
            format!("; and {more} more: gva check {}", job.display())
        };
        bail!("{} is not sound: {finding}{more}", job.display());
    }
    let values = environment::values(&examined.envelope, &args.params)?;
    scratch::hold_signals_back()?;
    let private = Dir::new()?;
    let overlay = |role: &str| overlay(&examined, role, private.path());
    let base = overlay("base")?.with_context(|| {
        format!(
            "{} was not packed by gva: it has no disk disk-base",
            job.display()
        )
    })?;
    let application = overlay("application")?;
    let data = overlay("data")?;
    let output = match &args.output {
        Some(output) => Some(kept(&examined, output)?),
        None => overlay("output")?,
    };
    let mut cdrom = args.cdrom.clone();
    if !values.is_empty() {
        cdrom.push(environment::disc(
            &examined.envelope.name,
            &values,
            private.path(),
        )?);
    }
    Ok(Opened {
        args: RunArgs {
            job: None,
            base: Some(base),
            application,
            data,
            output,
            cdrom,
            params: Vec::new(),
            machine: machine(args, &examined),
            timeout: args.timeout,
            json: args.json,
            quiet: args.quiet,
            serve: args.serve.clone(),
            own: Some(private.path().to_owned()),
        },
        _private: private,
    })
}

/// How QEMU finds the disk of a role inside the OVA. It must never follow a VMDK file's own word on what stands under it: that could
/// be any file of the host.
fn source(examined: &Examined, role: &str) -> Result<Option<String>> {
    let id = format!("disk-{role}");
    let envelope = &examined.envelope;
    let Some(disk) = envelope.disks.iter().find(|disk| disk.id == id) else {
        return Ok(None);
    };
    let file = envelope
        .files
        .iter()
        .find(|file| Some(&file.id) == disk.file.as_ref());
    let Some(member) = file.and_then(|file| examined.package.member(&file.href)) else {
        return Ok(None);
    };
    let path = examined.package.host_file(member);
    let path = path
        .canonicalize()
        .with_context(|| format!("looking at {}", path.display()))?;
    let name = path
        .to_str()
        .with_context(|| format!("the name {} is not UTF-8", path.display()))?;
    let place = json!({
        "driver": "raw", "offset": member.offset, "size": member.size,
        "file": { "driver": "file", "filename": name },
    });
    Ok(Some(format!(
        "json:{}",
        json!({ "driver": "vmdk", "backing": null, "file": place })
    )))
}

fn overlay(examined: &Examined, role: &str, private: &Path) -> Result<Option<PathBuf>> {
    let Some(source) = source(examined, role)? else {
        return Ok(None);
    };
    let path = private.join(format!("{role}.qcow2"));
    tools::overlay(&source, &path)?;
    Ok(Some(path))
}

/// The image in which results are kept: made from the OVA's output disk, or one that is there already and goes on being used.
fn kept(examined: &Examined, output: &Path) -> Result<PathBuf> {
    if output.symlink_metadata().is_err() {
        let Some(source) = source(examined, "output")? else {
            bail!(
                "{} is not there, and there is no output disk in the OVA to make it from",
                output.display()
            );
        };
        let file = HalfMade::new(output, false)?;
        tools::unpack(&source, file.path())?;
        file.finish()?;
    }
    Ok(output.to_owned())
}

/// Memory and processors are the OVA's, unless others are asked for.
fn machine(args: &RunArgs, examined: &Examined) -> MachineArgs {
    let mut machine = args.machine.clone();
    let quantity = |kind: u16| {
        let item = examined
            .envelope
            .items
            .iter()
            .find(|item| item.kind == kind);
        item.and_then(|item| item.quantity)
    };
    // The check has seen that memory is in MiB, and that neither is too much.
    let memory = quantity(kind::MEMORY).map(|mib| Size(mib << 20));
    let cpus = quantity(kind::CPU).and_then(|cpus| u32::try_from(cpus).ok());
    machine.memory = machine.memory.or(memory);
    machine.cpus = machine.cpus.or(cpus);
    machine
}
