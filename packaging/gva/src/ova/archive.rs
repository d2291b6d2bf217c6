//! The tar: written so that every reader takes it (ustar, owner 0, mode 0644, plain names), and read without believing it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail};
use tar::{EntryType, Header};

use super::MEMBER_MAX;

/// What is read of a package's members at most: an appliance has six.
pub(super) const MEMBERS_MAX: usize = 64;
const BLOCK: u64 = 512;
/// tar fills the last record with zeros; GNU tar's has 10 KiB, and nobody's is longer than this.
const PADDING_MAX: u64 = 1 << 20;

/// A file in a tar: where its bytes are.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// Appends one file.
pub(super) fn append(
    tar: &mut tar::Builder<File>,
    name: &str,
    content: impl Read,
    size: u64,
    mtime: u64,
) -> Result<()> {
    if size >= MEMBER_MAX {
        bail!(
            "{name} has {size} bytes, and a file in an OVA must have less than 8 GiB: use --ovf DIR, or a smaller disk"
        );
    }
    let mut header = Header::new_ustar();
    header
        .set_path(name)
        .with_context(|| format!("{name} cannot be a name in a tar"))?;
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(mtime);
    header.set_size(size);
    header.set_cksum();
    tar.append(&header, content)
        .with_context(|| format!("writing {name} into the OVA"))
}

/// Lists the members of a tar. What is wrong with it goes to `findings`; the error is what makes it no tar at all.
pub(super) fn list(file: &mut File, findings: &mut Vec<String>) -> Result<Vec<Member>> {
    let length = file.seek(SeekFrom::End(0))?;
    file.rewind()?;
    let mut members: Vec<Member> = Vec::new();
    let mut archive = tar::Archive::new(&*file);
    let mut end = 0;
    for entry in archive.entries_with_seek()?.raw(true) {
        let entry = match entry {
            Ok(entry) => entry,
            // The first header tells whether it is a tar at all.
            Err(err) if members.is_empty() => bail!("it is not a tar, and so not an OVA ({err})"),
            Err(err) => {
                findings.push(format!(
                    "after {} bytes it is not a tar any more ({err})",
                    end
                ));
                return Ok(members);
            }
        };
        if members.len() == MEMBERS_MAX {
            findings.push(format!("it has more than {MEMBERS_MAX} files"));
            return Ok(members);
        }
        let member = Member {
            name: String::from_utf8_lossy(&entry.path_bytes()).into_owned(),
            offset: entry.raw_file_position(),
            size: entry.size(),
        };
        look(&member, entry.header(), findings);
        end = match member.offset.checked_add(member.size) {
            Some(end) if end <= length => end.next_multiple_of(BLOCK),
            _ => {
                findings.push(format!(
                    "{} is cut off: the OVA ends before it does",
                    member.name
                ));
                return Ok(members);
            }
        };
        members.push(member);
    }
    if !members.is_empty() {
        look_at_end(file, end, length, findings)?;
    }
    Ok(members)
}

/// Names and kinds of members.
fn look(member: &Member, header: &Header, findings: &mut Vec<String>) {
    let name = &member.name;
    if let Err(why) = plain_name(name) {
        findings.push(format!("{name:?}: {why}"));
    }
    match header.entry_type() {
        EntryType::Regular => {}
        kind => findings.push(format!(
            "{name}: it is not a plain file, but of tar's type {:?}",
            char::from(kind.as_byte())
        )),
    }
    if header.as_ustar().is_none() {
        findings.push(format!("{name}: its tar header is not of the ustar form"));
    }
    if member.size >= MEMBER_MAX {
        findings.push(format!(
            "{name}: it has 8 GiB or more, which the ustar form cannot say"
        ));
    }
}

/// The name of a file in a package: one plain component.
pub(super) fn plain_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > 100 {
        return Err("a name must have 1 to 100 bytes");
    }
    if name.contains('/') || name.contains('\\') {
        return Err("a name must not have a directory in it");
    }
    if name.starts_with('.') || name.starts_with('-') {
        return Err("a name must not begin with a dot or a dash");
    }
    let allowed = |c: char| c.is_alphanumeric() || "._-+ ()".contains(c);
    if !name.chars().all(allowed) {
        return Err("a name must be of letters, digits, and . _ -");
    }
    Ok(())
}

/// Two blocks of zeros end a tar, and only zeros follow.
fn look_at_end(file: &File, end: u64, length: u64, findings: &mut Vec<String>) -> Result<()> {
    let rest = length.saturating_sub(end);
    if rest < 2 * BLOCK {
        findings.push("it is cut off: the two empty blocks that end a tar are missing".to_owned());
        return Ok(());
    }
    if rest > PADDING_MAX {
        findings.push(format!("{rest} bytes follow after its last file"));
        return Ok(());
    }
    let mut bytes = vec![0; usize::try_from(rest)?];
    file.read_exact_at(&mut bytes, end)?;
    if bytes.iter().any(|byte| *byte != 0) {
        findings.push("something follows after its last file".to_owned());
    }
    Ok(())
}
