//! Writes the descriptor of a package, the `.ovf`: which files there are, the machine that they belong to, and the properties that
//! whoever deploys it can set. What stands here and why it has this form: OVF 1.1 (DSP0243), and what VMware, VirtualBox and
//! virt-v2v were seen to take.

use std::io::Write;

use anyhow::Result;
use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};

use super::hardware::{MIB, kind};
use super::{OVF, RASD, VSSD, vmdk};

/// Debian, 64 bits, in CIM's list of operating systems.
const DEBIAN_64: &str = "96";

/// A whole appliance, as it is described.
pub(super) struct Appliance<'a> {
    pub(super) name: &'a str,
    /// In MiB.
    pub(super) memory: u64,
    pub(super) cpus: u32,
    pub(super) parameters: &'a [(String, String)],
    pub(super) disks: &'a [Disk],
}

/// A disk in the package.
pub(super) struct Disk {
    /// `base`, `application`, `data` or `output`.
    pub(super) role: &'static str,
    /// The file's name.
    pub(super) file: String,
    /// The file's size in bytes.
    pub(super) size: u64,
    /// The disk's size in bytes.
    pub(super) capacity: u64,
}

type Xml = Writer<Vec<u8>>;

/// The descriptor's text.
pub(super) fn write(appliance: &Appliance) -> Result<Vec<u8>> {
    let mut xml = Writer::new_with_indent(Vec::new(), b' ', 2);
    xml.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    xml.create_element("Envelope")
        .with_attributes([
            ("xmlns", OVF),
            ("xmlns:ovf", OVF),
            ("xmlns:rasd", RASD),
            ("xmlns:vssd", VSSD),
        ])
        .write_inner_content(|xml| {
            references(xml, appliance.disks)?;
            disks(xml, appliance.disks)?;
            system(xml, appliance)
        })?;
    let mut text = xml.into_inner();
    text.write_all(b"\n")?;
    Ok(text)
}

fn text(xml: &mut Xml, name: &str, content: &str) -> std::io::Result<()> {
    xml.create_element(name)
        .write_text_content(BytesText::new(content))?;
    Ok(())
}

fn references(xml: &mut Xml, disks: &[Disk]) -> std::io::Result<()> {
    xml.create_element("References")
        .write_inner_content(|xml| {
            for disk in disks {
                xml.create_element("File")
                    .with_attribute(("ovf:href", disk.file.as_str()))
                    .with_attribute(("ovf:id", format!("file-{}", disk.role).as_str()))
                    .with_attribute(("ovf:size", disk.size.to_string().as_str()))
                    .write_empty()?;
            }
            Ok(())
        })?;
    Ok(())
}

/// The capacity is in bytes, because VirtualBox takes it for that whatever unit is named.
fn disks(xml: &mut Xml, disks: &[Disk]) -> std::io::Result<()> {
    xml.create_element("DiskSection")
        .write_inner_content(|xml| {
            text(xml, "Info", "The appliance's disks")?;
            for disk in disks {
                xml.create_element("Disk")
                    .with_attribute(("ovf:capacity", disk.capacity.to_string().as_str()))
                    .with_attribute(("ovf:capacityAllocationUnits", "byte"))
                    .with_attribute(("ovf:diskId", format!("disk-{}", disk.role).as_str()))
                    .with_attribute(("ovf:fileRef", format!("file-{}", disk.role).as_str()))
                    .with_attribute(("ovf:format", vmdk::FORMAT))
                    .write_empty()?;
            }
            Ok(())
        })?;
    Ok(())
}

fn system(xml: &mut Xml, appliance: &Appliance) -> std::io::Result<()> {
    xml.create_element("VirtualSystem")
        .with_attribute(("ovf:id", appliance.name))
        .write_inner_content(|xml| {
            text(xml, "Info", "A Grid Virtual Appliance: runs the scripts of its application disk, then powers off")?;
            text(xml, "Name", appliance.name)?;
            xml.create_element("OperatingSystemSection")
                .with_attribute(("ovf:id", DEBIAN_64))
                .write_inner_content(|xml| {
                    text(xml, "Info", "The operating system in the appliance")?;
                    text(xml, "Description", "Debian GNU/Linux (64-bit)")
                })?;
            if !appliance.parameters.is_empty() {
                product(xml, appliance)?;
            }
            hardware(xml, appliance)
        })?;
    Ok(())
}

fn product(xml: &mut Xml, appliance: &Appliance) -> std::io::Result<()> {
    xml.create_element("ProductSection").write_inner_content(|xml| {
        text(xml, "Info", "The appliance's parameters; each is GVA_PARAM_NAME in the environment of every script")?;
        text(xml, "Product", appliance.name)?;
        for (key, value) in appliance.parameters {
            xml.create_element("Property")
                .with_attribute(("ovf:key", key.as_str()))
                .with_attribute(("ovf:type", "string"))
                .with_attribute(("ovf:userConfigurable", "true"))
                .with_attribute(("ovf:value", value.as_str()))
                .write_inner_content(|xml| text(xml, "Label", key))?;
        }
        Ok(())
    })?;
    Ok(())
}

/// One `Item`; its elements are written in the order of their names, which the schema asks for.
#[derive(Default)]
struct Item<'a> {
    address: Option<u32>,
    address_on_parent: Option<u32>,
    units: Option<&'a str>,
    name: &'a str,
    resource: Option<String>,
    id: u32,
    parent: Option<u32>,
    subtype: Option<&'a str>,
    kind: u16,
    quantity: Option<u64>,
}

impl Item<'_> {
    fn write(&self, xml: &mut Xml) -> std::io::Result<()> {
        let number = |number: Option<u32>| number.map(|number| number.to_string());
        let automatic = (self.kind == kind::CD).then(|| "true".to_owned());
        let elements = [
            ("rasd:Address", number(self.address)),
            ("rasd:AddressOnParent", number(self.address_on_parent)),
            ("rasd:AllocationUnits", self.units.map(str::to_owned)),
            ("rasd:AutomaticAllocation", automatic),
            ("rasd:ElementName", Some(self.name.to_owned())),
            ("rasd:HostResource", self.resource.clone()),
            ("rasd:InstanceID", Some(self.id.to_string())),
            ("rasd:Parent", number(self.parent)),
            ("rasd:ResourceSubType", self.subtype.map(str::to_owned)),
            ("rasd:ResourceType", Some(self.kind.to_string())),
            (
                "rasd:VirtualQuantity",
                self.quantity.map(|quantity| quantity.to_string()),
            ),
        ];
        xml.create_element("Item").write_inner_content(|xml| {
            for (name, content) in &elements {
                if let Some(content) = content {
                    text(xml, name, content)?;
                }
            }
            Ok(())
        })?;
        Ok(())
    }
}

const SATA_ID: u32 = 3;
const IDE_ID: u32 = 4;
const CD_ID: u32 = 5;

fn hardware(xml: &mut Xml, appliance: &Appliance) -> std::io::Result<()> {
    xml.create_element("VirtualHardwareSection")
        .with_attribute(("ovf:transport", "com.vmware.guestInfo iso"))
        .write_inner_content(|xml| {
            text(xml, "Info", "The machine")?;
            xml.create_element("System").write_inner_content(|xml| {
                text(xml, "vssd:ElementName", "Virtual Hardware Family")?;
                text(xml, "vssd:InstanceID", "0")?;
                text(xml, "vssd:VirtualSystemIdentifier", appliance.name)?;
                text(xml, "vssd:VirtualSystemType", "vmx-10")
            })?;
            for item in items(appliance) {
                item.write(xml)?;
            }
            Ok(())
        })?;
    Ok(())
}

/// Disks on a SATA controller, whose driver every kernel has; the CD drive on an IDE controller, where VMware and VirtualBox put it
/// by themselves.
fn items<'a>(appliance: &Appliance<'a>) -> Vec<Item<'a>> {
    let mut items = vec![
        Item {
            units: Some("hertz * 10^6"),
            name: "Virtual CPUs",
            id: 1,
            kind: kind::CPU,
            quantity: Some(appliance.cpus.into()),
            ..Item::default()
        },
        Item {
            units: Some(MIB),
            name: "Memory",
            id: 2,
            kind: kind::MEMORY,
            quantity: Some(appliance.memory),
            ..Item::default()
        },
        Item {
            address: Some(0),
            name: "SATA controller",
            id: SATA_ID,
            subtype: Some("vmware.sata.ahci"),
            kind: kind::SATA,
            ..Item::default()
        },
        Item {
            address: Some(0),
            name: "IDE controller",
            id: IDE_ID,
            kind: kind::IDE,
            ..Item::default()
        },
        Item {
            address_on_parent: Some(0),
            name: "CD drive for the OVF environment",
            id: CD_ID,
            parent: Some(IDE_ID),
            kind: kind::CD,
            ..Item::default()
        },
    ];
    items.extend(appliance.disks.iter().zip(0..).map(|(disk, place)| Item {
        address_on_parent: Some(place),
        name: disk.role,
        resource: Some(format!("ovf:/disk/disk-{}", disk.role)),
        id: CD_ID + 1 + place,
        parent: Some(SATA_ID),
        kind: kind::DISK,
        ..Item::default()
    }));
    items
}
