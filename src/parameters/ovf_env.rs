//! The OVF environment: `ovf-env.xml` in a directory, and the properties in it. DMTF DSP0243, section 11; schema DSP8027.
//!
//! Of the document the properties of this very machine are taken: `Environment/PropertySection/Property`, each with `key` and `value`. What `Entity`
//! elements hold belongs to other machines of the same system. The file is not trusted: its size, depth and number of elements and
//! attributes are bounded, there is no DTD, and there are no entities but the five of XML.

use std::fs::File;
use std::io::{self, Read};

use anyhow::{Context, anyhow, bail};
use quick_xml::events::{BytesDecl, BytesStart, Event};
use quick_xml::name::{Namespace, ResolveResult};
use quick_xml::{NsReader, XmlVersion};

use super::{Found, Given};
use crate::sys::dir::{Dir, Kind, Look};

/// Its name, in the root of the disc.
pub const FILE: &str = "ovf-env.xml";

/// The largest file that is read, in bytes.
const LARGEST_FILE: u64 = 1 << 20;
const NAMESPACE: &str = "http://schemas.dmtf.org/ovf/environment/1";
/// An environment needs 3, and 4 where it names other machines.
const DEEPEST: usize = 32;
/// More than there are parameters that could be passed on.
const MOST_ELEMENTS: usize = 16384;
/// Of one element.
const MOST_ATTRIBUTES: usize = 32;
/// Declared in all elements that are open at one time.
const MOST_NAMESPACES: usize = 64;

/// Reads the file in `root`; `None` if there is none.
///
/// # Errors
/// It cannot be read, is no regular file, or too large.
pub fn read(root: &Dir) -> anyhow::Result<Option<Vec<u8>>> {
    let file: File = match root.open_file(FILE) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    if Look::at(&file)?.kind != Kind::Regular {
        bail!("it is not a regular file");
    }
    let mut bytes = Vec::new();
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_FILE {
        bail!("it is larger than 1 MiB");
    }
    Ok(Some(bytes))
}

/// The properties in the document.
///
/// # Errors
/// It is no OVF environment, or beyond the bounds: nothing of it counts then.
pub fn parse(bytes: &[u8]) -> anyhow::Result<Found> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        bail!("it is in UTF-16, and only UTF-8 is read");
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|err| anyhow!("it is not UTF-8: {err}"))?;
    let mut reader = NsReader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    reader
        .resolver_mut()
        .set_max_namespace_bindings(MOST_NAMESPACES);
    let mut document = Document::default();
    loop {
        let event = reader.read_event();
        let done = event
            .map_err(anyhow::Error::from)
            .and_then(|event| document.take(&reader, &event))
            .map_err(without_quotes);
        let line = || {
            let read = usize::try_from(reader.buffer_position()).unwrap_or(0);
            let before = text.as_bytes().iter().take(read);
            let line = 1 + before.filter(|&&byte| byte == b'\n').count();
            format!("line {line}")
        };
        if done.with_context(line)? {
            return Ok(document.found);
        }
    }
}

/// What the library says may quote elements, and where one was cut off, what follows it: lines, and values that are secrets.
fn without_quotes(err: anyhow::Error) -> anyhow::Error {
    match err.downcast_ref::<quick_xml::Error>() {
        Some(quick_xml::Error::Syntax(err)) => anyhow!("{err}"),
        Some(quick_xml::Error::IllFormed(_)) => anyhow!("an element or a reference is not closed"),
        Some(quick_xml::Error::Namespace(_)) => anyhow!("a namespace is declared wrongly"),
        Some(_) => anyhow!("it is no well-formed XML"),
        None => err,
    }
}

/// What was read so far.
#[derive(Default)]
struct Document {
    found: Found,
    version: Option<XmlVersion>,
    depth: usize,
    elements: usize,
    /// In a section of properties of the environment itself.
    in_section: bool,
}

impl Document {
    /// True at the end.
    fn take(&mut self, reader: &NsReader<&[u8]>, event: &Event<'_>) -> anyhow::Result<bool> {
        match event {
            Event::Start(element) => self.enter(reader, element)?,
            Event::End(_) => {
                self.in_section &= self.depth != 2;
                self.depth = self.depth.saturating_sub(1);
            }
            Event::Decl(declaration) => self.version = Some(declared(declaration)?),
            Event::DocType(_) => {
                bail!("a DOCTYPE, which an OVF environment does not need, is refused")
            }
            Event::GeneralRef(reference) => {
                let usual = ["amp", "lt", "gt", "apos", "quot"].contains(&&**reference);
                if self.depth == 0 || !(usual || reference.is_char_ref()) {
                    bail!("an entity is refused");
                }
            }
            Event::Text(text) if self.depth == 0 && !text.trim().is_empty() => {
                bail!("text outside of the document");
            }
            Event::CData(_) if self.depth == 0 => bail!("text outside of the document"),
            // It would be misread as whole when it was cut off.
            Event::Eof if self.depth > 0 => bail!("it ends within an element"),
            Event::Eof if self.elements == 0 => bail!("it is empty"),
            Event::Eof => return Ok(true),
            Event::Empty(_)
            | Event::Text(_)
            | Event::CData(_)
            | Event::Comment(_)
            | Event::PI(_) => {}
        }
        Ok(false)
    }

    fn enter(&mut self, reader: &NsReader<&[u8]>, element: &BytesStart<'_>) -> anyhow::Result<()> {
        if self.depth == 0 && self.elements > 0 {
            bail!("a second document begins");
        }
        self.depth += 1;
        self.elements += 1;
        if self.depth > DEEPEST {
            bail!("elements are nested deeper than {DEEPEST}");
        }
        if self.elements > MOST_ELEMENTS {
            bail!("it has more than {MOST_ELEMENTS} elements");
        }
        let mut attributes = element.attributes();
        let attributes = attributes.with_checks(false);
        if attributes.take(MOST_ATTRIBUTES + 1).count() > MOST_ATTRIBUTES {
            bail!("an element has more than {MOST_ATTRIBUTES} attributes");
        }
        let (namespace, name) = reader.resolver().resolve_element(element.name());
        let is = |wanted: &str| is_ours(&namespace) && name.into_inner() == wanted;
        match self.depth {
            1 if !is("Environment") => bail!("it is no Environment of {NAMESPACE}"),
            2 => self.in_section = is("PropertySection"),
            3 if self.in_section && is("Property") => self.property(reader, element)?,
            _ => {}
        }
        Ok(())
    }

    fn property(
        &mut self,
        reader: &NsReader<&[u8]>,
        element: &BytesStart<'_>,
    ) -> anyhow::Result<()> {
        let (mut key, mut value) = (None, None);
        for attribute in element.attributes() {
            let attribute = attribute?;
            let (namespace, name) = reader.resolver().resolve_attribute(attribute.key);
            // Attributes are of the namespace by the schema; some platforms leave the prefix out.
            let exact = is_ours(&namespace);
            if !exact && namespace != ResolveResult::Unbound {
                continue;
            }
            let place = match name.into_inner() {
                "key" => &mut key,
                "value" => &mut value,
                _ => continue,
            };
            if exact || place.is_none() {
                let version = self.version.unwrap_or(XmlVersion::Implicit1_0);
                // What the library says quotes from the value.
                let text = attribute
                    .normalized_value(version)
                    .map_err(|_| anyhow!("a value has an entity or a character that is refused"))?;
                *place = Some(text.into_owned().into_bytes());
            }
        }
        match (key, value) {
            (Some(name), Some(value)) => self.found.given.push(Given { name, value }),
            _ => {
                let problem = "a property of the OVF environment without key or value";
                self.found.problems.push(problem.to_owned());
            }
        }
        Ok(())
    }
}

fn is_ours(namespace: &ResolveResult<'_>) -> bool {
    *namespace == ResolveResult::Bound(Namespace(NAMESPACE))
}

fn declared(declaration: &BytesDecl<'_>) -> anyhow::Result<XmlVersion> {
    if let Some(encoding) = declaration.encoding() {
        let encoding = encoding?.to_ascii_lowercase();
        if !["utf-8", "us-ascii"].contains(&encoding.as_str()) {
            bail!("it says that its encoding is not UTF-8");
        }
    }
    Ok(declaration.xml_version()?)
}

#[cfg(test)]
mod tests;
