//! Reads a descriptor: an XML file that somebody else may have written, to harm. Bounded in length and in elements; no document
//! type and so no entities. What is wrong with it goes to the findings; what can be read is read all the same.

use anyhow::{Context, Result, bail};
use roxmltree::{Document, Node, ParsingOptions};

use super::{OVF, RASD};

const NODES_MAX: u32 = 20_000;

/// A descriptor, as far as an appliance needs it.
#[derive(Debug, Default)]
pub(super) struct Envelope {
    pub(super) name: String,
    pub(super) files: Vec<Reference>,
    pub(super) disks: Vec<Disk>,
    pub(super) items: Vec<Item>,
    pub(super) properties: Vec<Property>,
    /// How the OVF environment reaches the guest.
    pub(super) transport: String,
}

/// A file of the package.
#[derive(Debug)]
pub(super) struct Reference {
    pub(super) id: String,
    pub(super) href: String,
    pub(super) size: Option<u64>,
}

/// A disk of the machine.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) id: String,
    pub(super) file: Option<String>,
    /// In bytes.
    pub(super) capacity: Option<u64>,
    pub(super) populated: Option<u64>,
    pub(super) format: String,
}

/// A part of the machine.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) id: String,
    pub(super) kind: u16,
    pub(super) parent: Option<String>,
    pub(super) place: Option<String>,
    pub(super) resource: Option<String>,
    pub(super) units: Option<String>,
    pub(super) quantity: Option<u64>,
    pub(super) required: bool,
}

/// A parameter that the appliance takes.
#[derive(Debug)]
pub(super) struct Property {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) configurable: bool,
}

/// Reads the text of a descriptor.
pub(super) fn read(text: &str, findings: &mut Vec<String>) -> Result<Envelope> {
    let options = ParsingOptions {
        allow_dtd: false,
        nodes_limit: NODES_MAX,
        ..ParsingOptions::default()
    };
    let document = Document::parse_with_options(text, options)
        .context("the descriptor cannot be read as XML")?;
    let root = document.root_element();
    if root.tag_name().name() != "Envelope" {
        bail!("the descriptor is XML, but no OVF Envelope");
    }
    if root.tag_name().namespace() != Some(OVF) {
        findings.push(format!(
            "the descriptor's namespace is {:?}, not {OVF:?} of OVF 1",
            root.tag_name().namespace().unwrap_or_default()
        ));
    }
    let mut envelope = Envelope::default();
    for node in children(root, "References").flat_map(|references| children(references, "File")) {
        envelope.files.push(reference(node, findings));
    }
    for node in children(root, "DiskSection").flat_map(|section| children(section, "Disk")) {
        envelope.disks.push(disk(node, findings));
    }
    let systems: Vec<_> = children(root, "VirtualSystem").collect();
    match systems.as_slice() {
        [system] => self::system(*system, &mut envelope, findings),
        [] => findings.push("the descriptor has no VirtualSystem".to_owned()),
        _ => findings.push(format!(
            "the descriptor has {} VirtualSystems; gva takes one",
            systems.len()
        )),
    }
    Ok(envelope)
}

fn children<'a, 'b: 'a>(
    node: Node<'a, 'b>,
    name: &'static str,
) -> impl Iterator<Item = Node<'a, 'b>> {
    let ours = move |child: &Node| child.is_element() && child.tag_name().name() == name;
    node.children().filter(ours)
}

/// An attribute with OVF's prefix; the schema wants it, other writers leave it out, readers take both.
fn attribute<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    node.attribute((OVF, name)).or_else(|| node.attribute(name))
}

fn number(node: Node, name: &str, findings: &mut Vec<String>) -> Option<u64> {
    let text = attribute(node, name)?;
    let number = text.trim().parse().ok();
    if number.is_none() {
        findings.push(format!(
            "{}: {name}={text:?} is no number of bytes",
            node.tag_name().name()
        ));
    }
    number
}

fn reference(node: Node, findings: &mut Vec<String>) -> Reference {
    let href = attribute(node, "href").unwrap_or_default().to_owned();
    for unknown in ["compression", "chunkSize"] {
        if attribute(node, unknown).is_some_and(|value| value != "identity") {
            findings.push(format!(
                "{href}: the descriptor gives it a {unknown}, which gva does not know"
            ));
        }
    }
    Reference {
        id: attribute(node, "id").unwrap_or_default().to_owned(),
        href,
        size: number(node, "size", findings),
    }
}

fn disk(node: Node, findings: &mut Vec<String>) -> Disk {
    let id = attribute(node, "diskId").unwrap_or_default().to_owned();
    let units = attribute(node, "capacityAllocationUnits").unwrap_or("byte");
    let capacity = number(node, "capacity", findings);
    let factor = factor(units);
    if factor.is_none() {
        findings.push(format!(
            "disk {id}: its capacity is in the unknown unit {units:?}"
        ));
    } else if factor != Some(1) {
        findings.push(format!(
            "disk {id}: its capacity is in {units:?}, which VirtualBox takes for bytes"
        ));
    }
    Disk {
        file: attribute(node, "fileRef").map(str::to_owned),
        capacity: capacity.and_then(|number| number.checked_mul(factor?)),
        populated: number(node, "populatedSize", findings),
        format: attribute(node, "format").unwrap_or_default().to_owned(),
        id,
    }
}

/// `byte`, `byte * 2^30` and the like.
fn factor(units: &str) -> Option<u64> {
    let rest = units.trim().strip_prefix("byte")?.trim();
    if rest.is_empty() {
        return Some(1);
    }
    let power: u32 = rest
        .strip_prefix('*')?
        .trim()
        .strip_prefix("2^")?
        .trim()
        .parse()
        .ok()?;
    1_u64.checked_shl(power)
}

fn system(node: Node, envelope: &mut Envelope, findings: &mut Vec<String>) {
    let name = children(node, "Name").find_map(|name| name.text());
    envelope.name = name
        .or_else(|| attribute(node, "id"))
        .unwrap_or_default()
        .to_owned();
    match children(node, "OperatingSystemSection").next() {
        None => findings.push("the descriptor has no OperatingSystemSection".to_owned()),
        Some(section) if attribute(section, "id").is_none() => {
            findings.push("the descriptor's OperatingSystemSection has no ovf:id".to_owned());
        }
        Some(_) => {}
    }
    for product in children(node, "ProductSection") {
        envelope
            .properties
            .extend(children(product, "Property").map(property));
    }
    let mut sections = children(node, "VirtualHardwareSection");
    match (sections.next(), sections.next()) {
        (Some(hardware), None) => {
            envelope.transport = attribute(hardware, "transport")
                .unwrap_or_default()
                .to_owned();
            for node in children(hardware, "Item") {
                envelope.items.extend(item(node, findings));
            }
        }
        (None, _) => findings.push("the descriptor has no VirtualHardwareSection".to_owned()),
        _ => findings.push("the descriptor has more than one VirtualHardwareSection".to_owned()),
    }
}

fn property(node: Node) -> Property {
    Property {
        key: attribute(node, "key").unwrap_or_default().to_owned(),
        value: attribute(node, "value").unwrap_or_default().to_owned(),
        configurable: matches!(attribute(node, "userConfigurable"), Some("true" | "1")),
    }
}

fn item(node: Node, findings: &mut Vec<String>) -> Option<Item> {
    let content = |name: &str| {
        let element = node.children().find(|child| {
            child.tag_name().name() == name && child.tag_name().namespace() == Some(RASD)
        })?;
        Some(element.text().unwrap_or_default().trim().to_owned())
    };
    let id = content("InstanceID").unwrap_or_default();
    let kind = content("ResourceType").unwrap_or_default();
    let Ok(kind) = kind.parse() else {
        findings.push(format!("item {id}: its ResourceType {kind:?} is no number"));
        return None;
    };
    Some(Item {
        kind,
        parent: content("Parent"),
        place: content("AddressOnParent"),
        resource: content("HostResource"),
        units: content("AllocationUnits"),
        quantity: content("VirtualQuantity").and_then(|number| number.parse().ok()),
        required: !matches!(attribute(node, "required"), Some("false" | "0")),
        id,
    })
}
