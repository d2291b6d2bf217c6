//! The OVF environment: what whoever deploys an appliance tells it, as the file `ovf-env.xml` on a CD. VMware makes this CD itself;
//! for QEMU, gva does.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};

use super::envelope::Envelope;
use super::parameters;
use crate::image::read_only;

const NAMESPACE: &str = "http://schemas.dmtf.org/ovf/environment/1";
/// The one that vSphere uses, as far as an ISO's label can carry it. Guests go by the file, not by the label.
const LABEL: &str = "OVF-ENV";

/// The values of a package's properties: those that were packed, changed by `NAME=VALUE`.
pub(super) fn values(envelope: &Envelope, given: &[String]) -> Result<Vec<(String, String)>> {
    let packed = envelope.properties.iter();
    let mut values: Vec<_> = packed
        .map(|found| (found.key.clone(), found.value.clone()))
        .collect();
    for (name, value) in parameters::parse(given)? {
        let Some(place) = envelope
            .properties
            .iter()
            .position(|found| found.key == name)
        else {
            let known: Vec<&str> = envelope
                .properties
                .iter()
                .map(|found| found.key.as_str())
                .collect();
            bail!(
                "--param {name}: the OVA has no parameter of this name{}{}",
                if known.is_empty() { "" } else { "; it has " },
                known.join(", ")
            );
        };
        if !envelope.properties[place].configurable {
            bail!("--param {name}: the OVA does not let this parameter be changed");
        }
        values[place].1 = value;
    }
    Ok(values)
}

/// Makes the CD in a private directory, and returns where it is.
pub(super) fn disc(name: &str, values: &[(String, String)], private: &Path) -> Result<PathBuf> {
    let doing = "making the CD with the parameters";
    let content = private.join("environment");
    fs::create_dir(&content).context(doing)?;
    fs::write(content.join("ovf-env.xml"), xml(name, values)?).context(doing)?;
    let disc = private.join("environment.iso");
    read_only::iso(&content, LABEL, &disc, doing)?;
    Ok(disc)
}

fn xml(name: &str, values: &[(String, String)]) -> Result<Vec<u8>> {
    let mut xml = Writer::new_with_indent(Vec::new(), b' ', 2);
    xml.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let root = [
        ("xmlns", NAMESPACE),
        ("xmlns:oe", NAMESPACE),
        ("oe:id", name),
    ];
    xml.create_element("Environment")
        .with_attributes(root)
        .write_inner_content(|xml| {
            xml.create_element("PlatformSection")
                .write_inner_content(|xml| {
                    for (element, text) in [("Kind", "gva"), ("Version", env!("CARGO_PKG_VERSION"))]
                    {
                        xml.create_element(element)
                            .write_text_content(BytesText::new(text))?;
                    }
                    Ok(())
                })?;
            xml.create_element("PropertySection")
                .write_inner_content(|xml| {
                    for (key, value) in values {
                        xml.create_element("Property")
                            .with_attribute(("oe:key", key.as_str()))
                            .with_attribute(("oe:value", value.as_str()))
                            .write_empty()?;
                    }
                    Ok(())
                })?;
            Ok(())
        })?;
    Ok(xml.into_inner())
}
