//! How the configuration names an image: a label or identifier of a block device, a path, or a share's tag.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::sys::glob;

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// A file system's label, or a pattern for labels.
    Label(String),
    /// A file system's UUID, in the form that blkid(8) prints.
    Uuid(String),
    /// A partition's name (GPT), or a pattern for names.
    PartLabel(String),
    /// A partition's identifier.
    PartUuid(String),
    /// A block device, an image file or a directory; which of them is seen when it is there.
    Path(PathBuf),
    /// A share's tag, with the type of its file system: `9p` or `virtiofs`.
    Tag(String),
}

impl Source {
    /// Reads `text`; `fstype` decides whether a bare word is a share's tag.
    ///
    /// # Errors
    /// What is wrong with it, as a text for people.
    pub fn parse(text: &str, fstype: &str) -> Result<Source, String> {
        if text.contains('\0') {
            return Err("a source cannot contain a NUL byte".to_owned());
        }
        if is_share(fstype) {
            return match text {
                "" => Err(format!(
                    "an empty source; with fstype = \"{fstype}\" it is the share's tag"
                )),
                tag => Ok(Source::Tag(tag.to_owned())),
            };
        }
        type Make = fn(String) -> Source;
        let kinds: [(&str, Make); 4] = [
            ("LABEL=", Source::Label),
            ("UUID=", |uuid| Source::Uuid(uuid.to_ascii_lowercase())),
            ("PARTLABEL=", Source::PartLabel),
            ("PARTUUID=", |uuid| {
                Source::PartUuid(uuid.to_ascii_lowercase())
            }),
        ];
        for (prefix, make) in kinds {
            if let Some(value) = text.strip_prefix(prefix) {
                let value = unquote(value);
                return if value.is_empty() {
                    Err(format!("nothing stands behind {prefix}"))
                } else {
                    Ok(make(value.to_owned()))
                };
            }
        }
        if Path::new(text).is_absolute() {
            return Ok(Source::Path(PathBuf::from(text)));
        }
        Err(format!(
            "{text:?} is not a source: LABEL=, UUID=, PARTLABEL=, PARTUUID=, the absolute path of a block device, image file or \
             directory, or with fstype = \"virtiofs\" or \"9p\" a share's tag"
        ))
    }
}

impl Source {
    /// It is a pattern, and may name several images.
    #[must_use]
    pub fn is_pattern(&self) -> bool {
        matches!(self, Source::Label(label) | Source::PartLabel(label) if glob::is_pattern(label))
    }

    /// Whether this can be the source of the data or the output image beside that application.
    ///
    /// # Errors
    /// Why not, as a text for people.
    pub fn fits_beside(&self, application: &Source) -> Result<(), String> {
        if self.is_pattern() {
            return Err(format!(
                "{self} is a pattern: only application.source may name several images"
            ));
        }
        let both = match (application, self) {
            (Source::Label(pattern), Source::Label(label))
            | (Source::PartLabel(pattern), Source::PartLabel(label)) => Some((pattern, label)),
            _ => None,
        };
        let taken = |(pattern, label): (&String, &String)| {
            application.is_pattern() && glob::matches(pattern.as_bytes(), label.as_bytes())
        };
        if both.is_some_and(taken) {
            return Err(format!(
                "application.source {application} stands for {self} too: take labels that can be told apart"
            ));
        }
        Ok(())
    }
}

/// fstab(5) allows quotes around the value.
fn unquote(value: &str) -> &str {
    value
        .strip_prefix('"')
        .and_then(|inner| inner.strip_suffix('"'))
        .unwrap_or(value)
}

/// Whether file systems of this type are shared with another machine.
#[must_use]
pub fn is_share(fstype: &str) -> bool {
    matches!(fstype, "9p" | "virtiofs")
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Label(label) => write!(f, "LABEL={label}"),
            Source::Uuid(uuid) => write!(f, "UUID={uuid}"),
            Source::PartLabel(label) => write!(f, "PARTLABEL={label}"),
            Source::PartUuid(uuid) => write!(f, "PARTUUID={uuid}"),
            Source::Path(path) => path.display().fmt(f),
            Source::Tag(tag) => f.write_str(tag),
        }
    }
}
