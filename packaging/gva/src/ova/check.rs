//! `gva check`: looks whether a package is what every hypervisor takes, and whether it arrived whole. A package is somebody else's:
//! nothing that it says about itself is believed, and nothing in it is unpacked.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use super::envelope::{self, Envelope};
use super::package::Package;
use super::{DESCRIPTOR_MAX, archive, hardware, manifest, tools, vmdk};
use crate::say;

const HELP: &str = "\
One line for each thing that is wrong. Nothing is unpacked.

Exit status: 0 the package is sound; 1 it is not; 2 it could not be read as one.

Examples:
  gva check job.ova
  gva check job/job.ovf                           a package that is a directory
  gva check job.ova --schema ./ovf-schema         DMTF's schema too, by xmllint";

/// `gva check`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct CheckArgs {
    /// The OVA file, or the .ovf file of a package that is a directory
    #[arg(value_name = "JOB.OVA")]
    pub(crate) file: PathBuf,
    /// Hold the descriptor against dsp8023_1.1.1.xsd in this directory too
    #[arg(long, value_name = "DIR")]
    pub(crate) schema: Option<PathBuf>,
}

/// Looks whether an OVA is sound.
pub(crate) fn check(args: &CheckArgs) -> Result<ExitCode> {
    let examined = examine(&args.file, args.schema.as_deref())?;
    let path = args.file.display();
    let envelope = &examined.envelope;
    let summary = format!(
        "sound: {}, {} disks, {} parameters",
        envelope.name,
        envelope.disks.len(),
        envelope.properties.len()
    );
    let sound = examined.findings.is_empty();
    let lines = if sound {
        &[summary][..]
    } else {
        &examined.findings
    };
    let printed = say::print(|out| {
        for line in lines {
            writeln!(out, "{}", say::one_line(&format!("{path}: {line}")))?;
        }
        Ok(())
    })?;
    Ok(if sound {
        printed
    } else {
        ExitCode::from(say::SCRIPT_FAILED)
    })
}

/// A package that was looked at.
pub(super) struct Examined {
    pub(super) package: Package,
    pub(super) envelope: Envelope,
    /// What is wrong, a line each.
    pub(super) findings: Vec<String>,
}

/// Looks at a package. The error is what makes it no package at all.
pub(super) fn examine(path: &Path, schema: Option<&Path>) -> Result<Examined> {
    let mut findings = Vec::new();
    let mut package = Package::open(path, &mut findings)?;
    let Some(descriptor) = package
        .members()
        .iter()
        .find(|member| member.name.ends_with(".ovf"))
        .cloned()
    else {
        bail!("{} is no OVA: it has no descriptor (.ovf)", path.display());
    };
    let reading = || format!("reading {}", path.display());
    let text = package
        .text(&descriptor, DESCRIPTOR_MAX)
        .with_context(reading)?;
    let envelope = envelope::read(&text, &mut findings).with_context(reading)?;
    let manifest = format!("{}.mf", descriptor.name.trim_end_matches(".ovf"));
    package.look_for(&manifest);
    for file in &envelope.files {
        package.look_for(&file.href);
    }
    order(
        &package,
        &envelope,
        &descriptor.name,
        &manifest,
        &mut findings,
    );
    references(&package, &envelope, &mut findings);
    disks(&package, &envelope, &mut findings);
    hardware::look(&envelope, &mut findings);
    if let Some(schema) = schema {
        tools::validate(schema, &text, &mut findings)?;
    }
    hashes(&package, &manifest, &mut findings)?;
    Ok(Examined {
        package,
        envelope,
        findings,
    })
}

/// Descriptor, manifest, then the files as the references name them; and nothing else, and nothing twice.
fn order(
    package: &Package,
    envelope: &Envelope,
    descriptor: &str,
    manifest: &str,
    findings: &mut Vec<String>,
) {
    let mut seen = HashSet::new();
    for member in package.members() {
        if !seen.insert(&member.name) {
            findings.push(format!("{}: it is there twice", member.name));
        }
    }
    if package.member(manifest).is_none() {
        findings.push(format!("{manifest}: there is no manifest of this name"));
    }
    if !package.is_tar() {
        return;
    }
    let certificate = format!("{}.cert", manifest.trim_end_matches(".mf"));
    let own = [descriptor, manifest, certificate.as_str()];
    let wanted = own
        .into_iter()
        .chain(envelope.files.iter().map(|file| file.href.as_str()));
    let wanted: Vec<&str> = wanted
        .filter(|name| seen.contains(&(*name).to_owned()))
        .collect();
    let listed: HashSet<&str> = wanted.iter().copied().collect();
    let mut found = Vec::new();
    for member in package.members() {
        if listed.contains(member.name.as_str()) {
            found.push(member.name.as_str());
        } else {
            findings.push(format!("{}: the descriptor does not name it", member.name));
        }
    }
    if let Some((found, wanted)) = found
        .iter()
        .zip(&wanted)
        .find(|(found, wanted)| found != wanted)
    {
        findings.push(format!(
            "{found}: it stands where {wanted} should be; the order is descriptor, manifest, files as the descriptor names them"
        ));
    }
}

/// The files that the descriptor names are there, and as long as it says.
fn references(package: &Package, envelope: &Envelope, findings: &mut Vec<String>) {
    let (mut ids, mut names) = (HashSet::new(), HashSet::new());
    for file in &envelope.files {
        let name = &file.href;
        if let Err(why) = archive::plain_name(name) {
            findings.push(format!("{name:?}: the descriptor names this file; {why}"));
            continue;
        }
        if file.id.is_empty() || !ids.insert(&file.id) || !names.insert(name) {
            findings.push(format!(
                "{name}: its id or its name is missing in the descriptor, or there twice"
            ));
        }
        match package.member(name) {
            None => findings.push(format!(
                "{name}: the descriptor names it, and it is not there"
            )),
            Some(member) if file.size.is_some_and(|size| size != member.size) => {
                findings.push(format!(
                    "{name}: it has {} bytes, and {} by the descriptor",
                    member.size,
                    file.size.unwrap_or_default()
                ))
            }
            Some(_) => {}
        }
    }
}

/// Every disk has a file, and the file is the disk that it is said to be.
fn disks(package: &Package, envelope: &Envelope, findings: &mut Vec<String>) {
    let mut ids = HashSet::new();
    for disk in &envelope.disks {
        let id = &disk.id;
        if id.is_empty() || !ids.insert(id) {
            findings.push(format!(
                "disk {id:?}: its diskId is missing, or there twice"
            ));
        }
        let resource = format!("ovf:/disk/{id}");
        if !envelope
            .items
            .iter()
            .any(|item| item.resource.as_ref() == Some(&resource))
        {
            findings.push(format!("disk {id}: the machine does not use it"));
        }
        let Some(capacity) = disk.capacity.filter(|capacity| *capacity > 0) else {
            findings.push(format!("disk {id}: it has no usable capacity"));
            continue;
        };
        if disk.populated.is_some_and(|populated| populated > capacity) {
            findings.push(format!(
                "disk {id}: its populatedSize is larger than its capacity"
            ));
        }
        let Some(file) = &disk.file else {
            findings.push(format!(
                "disk {id}: it has no file, which virt-v2v cannot read"
            ));
            continue;
        };
        let Some(file) = envelope.files.iter().find(|other| other.id == *file) else {
            findings.push(format!(
                "disk {id}: its fileRef {file:?} is not in the References"
            ));
            continue;
        };
        if disk.format != vmdk::FORMAT {
            findings.push(format!(
                "disk {id}: its format is {:?}, not streamOptimized",
                disk.format
            ));
        }
        if let Some(member) = package.member(&file.href) {
            let header = package
                .reader(member)
                .and_then(|mut reader| vmdk::header(&mut reader));
            match header {
                Err(err) => findings.push(format!("{}: {err:#}", file.href)),
                Ok(header) if header.capacity != capacity => findings.push(format!(
                    "disk {id}: its capacity is {capacity}, and {} by the file {}",
                    header.capacity, file.href
                )),
                Ok(_) => {}
            }
        }
    }
}

/// Every file is in the manifest, and is what the manifest says. Files are only read if all else is right: a package with a
/// wrong form needs no hours of reading to be refused.
fn hashes(package: &Package, manifest_name: &str, findings: &mut Vec<String>) -> Result<()> {
    let Some(member) = package.member(manifest_name) else {
        return Ok(());
    };
    let text = match package.text(member, manifest::SIZE_MAX) {
        Ok(text) => text,
        Err(err) => {
            findings.push(format!("{err:#}"));
            return Ok(());
        }
    };
    let mut listed = HashSet::new();
    let mut entries = Vec::new();
    for line in text.lines() {
        match manifest::parse(line) {
            None => findings.push(format!(
                "{manifest_name}: a line is not of the form \"SHA256(name)= hex\": {line:?}"
            )),
            Some(entry) if entry.name == manifest_name => {
                findings.push(format!("{manifest_name}: it lists itself"))
            }
            Some(entry) if !listed.insert(entry.name) => {
                findings.push(format!("{manifest_name}: it lists {} twice", entry.name));
            }
            Some(entry) => match package.member(entry.name) {
                None => findings.push(format!(
                    "{manifest_name}: it lists {}, which is not there",
                    entry.name
                )),
                Some(member) => entries.push((member, entry.hash)),
            },
        }
    }
    let unsigned = |name: &str| name == manifest_name || name.ends_with(".cert");
    for member in package.members() {
        if !unsigned(&member.name) && !listed.contains(member.name.as_str()) {
            findings.push(format!("{manifest_name}: {} is not in it", member.name));
        }
    }
    if !findings.is_empty() {
        return Ok(());
    }
    let total = entries.iter().map(|(member, _)| member.size).sum();
    let mut progress = tools::Progress::new("checking", total);
    for (member, hash) in entries {
        let found = manifest::hash(package.reader(member)?, |count| progress.add(count))?;
        if !found.eq_ignore_ascii_case(hash) {
            findings.push(format!(
                "{}: it is damaged, or was changed: its hash is not the manifest's",
                member.name
            ));
        }
    }
    Ok(())
}
