//! What a machine in a descriptor is made of: CIM's numbers, and the rules that every reader of an OVA asks for.

use std::collections::HashSet;

use super::envelope::{Envelope, Item};

/// CIM's numbers for the parts of a machine.
pub(super) mod kind {
    pub(in super::super) const CPU: u16 = 3;
    pub(in super::super) const MEMORY: u16 = 4;
    pub(in super::super) const IDE: u16 = 5;
    pub(in super::super) const SCSI: u16 = 6;
    pub(in super::super) const CD: u16 = 15;
    pub(in super::super) const DISK: u16 = 17;
    pub(in super::super) const SATA: u16 = 20;
}

/// The one unit of memory that every reader knows.
pub(super) const MIB: &str = "byte * 2^20";

/// Looks at the items and at what they name.
pub(super) fn look(envelope: &Envelope, findings: &mut Vec<String>) {
    let mut ids = HashSet::new();
    let mut places = HashSet::new();
    for item in &envelope.items {
        let id = &item.id;
        if id.is_empty() || !ids.insert(id) {
            findings.push(format!(
                "item {id:?}: its InstanceID is missing, or there twice"
            ));
        }
        if let (Some(parent), Some(place)) = (&item.parent, &item.place)
            && !places.insert((parent, place))
        {
            findings.push(format!(
                "item {id}: place {place} on controller {parent} is taken twice"
            ));
        }
        match item.kind {
            kind::CPU if !matches!(item.quantity, Some(1..=1024)) => {
                findings.push(format!("item {id}: no usable number of processors"));
            }
            kind::MEMORY => memory(item, findings),
            kind::DISK | kind::CD => {
                parent(item, envelope, findings);
                resource(item, envelope, findings);
            }
            kind::CPU | kind::IDE | kind::SCSI | kind::SATA => {}
            other if item.required => {
                findings.push(format!(
                    "item {id}: the unknown ResourceType {other} needs ovf:required=\"false\""
                ));
            }
            _ => {}
        }
    }
    for (needed, name) in [
        (kind::CPU, "processors"),
        (kind::MEMORY, "memory"),
        (kind::DISK, "a disk"),
    ] {
        if !envelope.items.iter().any(|item| item.kind == needed) {
            findings.push(format!("the machine has no item for {name}"));
        }
    }
    if !envelope.properties.is_empty() {
        environment(envelope, findings);
    }
}

fn memory(item: &Item, findings: &mut Vec<String>) {
    if item.units.as_deref() != Some(MIB) {
        findings.push(format!(
            "item {}: the memory's unit must be exactly {MIB:?}",
            item.id
        ));
    }
    if !matches!(item.quantity, Some(1..=0xff_ffff)) {
        findings.push(format!("item {}: no usable amount of memory", item.id));
    }
}

fn parent(item: &Item, envelope: &Envelope, findings: &mut Vec<String>) {
    let Some(parent) = &item.parent else {
        findings.push(format!(
            "item {}: a disk or CD drive without a Parent",
            item.id
        ));
        return;
    };
    let controller = |other: &&Item| {
        other.id == *parent && matches!(other.kind, kind::IDE | kind::SCSI | kind::SATA)
    };
    if envelope.items.iter().find(controller).is_none() {
        findings.push(format!(
            "item {}: its Parent {parent} is no controller",
            item.id
        ));
    }
}

fn resource(item: &Item, envelope: &Envelope, findings: &mut Vec<String>) {
    let Some(resource) = &item.resource else {
        if item.kind == kind::DISK {
            findings.push(format!("item {}: a disk without a HostResource", item.id));
        }
        return;
    };
    let known = match (
        resource.strip_prefix("ovf:/disk/"),
        resource.strip_prefix("ovf:/file/"),
    ) {
        (Some(disk), _) => envelope.disks.iter().any(|other| other.id == disk),
        (_, Some(file)) => envelope.files.iter().any(|other| other.id == file),
        _ => false,
    };
    if !known {
        findings.push(format!(
            "item {}: its HostResource {resource:?} is not in the descriptor",
            item.id
        ));
    }
}

/// Properties reach the guest on a CD.
fn environment(envelope: &Envelope, findings: &mut Vec<String>) {
    if !envelope
        .transport
        .split_whitespace()
        .any(|transport| transport == "iso")
    {
        findings.push("there are properties, but ovf:transport does not name iso".to_owned());
    }
    if !envelope.items.iter().any(|item| item.kind == kind::CD) {
        findings.push(
            "there are properties, but no CD drive through which they reach the guest".to_owned(),
        );
    }
    let mut keys = HashSet::new();
    for property in &envelope.properties {
        let key = &property.key;
        if key.is_empty() || key.contains(['.', ':']) || !keys.insert(key) {
            findings.push(format!(
                "property {key:?}: its key is empty, has a dot or colon in it, or is there twice"
            ));
        }
    }
}
