//! The manifest: one line for each file of the package with its SHA-256. The form is VMware's, to the blank: `SHA256(name)= hex`.

use std::io::Read;

use anyhow::Result;
use sha2::{Digest, Sha256};

/// Longer than any manifest of a package whose number of files is bounded.
pub(super) const SIZE_MAX: u64 = 64 << 10;

/// The hash of all that the reader gives, as hexadecimal digits; each part read is told to `progress`.
pub(super) fn hash(mut reader: impl Read, mut progress: impl FnMut(u64)) -> Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = reader.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
        progress(count as u64);
    }
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// The manifest's line of one file.
pub(super) fn line(name: &str, hash: &str) -> String {
    format!("SHA256({name})= {hash}\n")
}

/// One line, read: the file's name and its hash.
pub(super) struct Entry<'a> {
    pub(super) name: &'a str,
    pub(super) hash: &'a str,
}

/// Reads a line without its end. `None` if it is not of the one form that every reader takes.
pub(super) fn parse(line: &str) -> Option<Entry<'_>> {
    let rest = line.strip_prefix("SHA256(")?;
    let (name, hash) = rest.rsplit_once(")= ")?;
    let whole = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    (whole && !name.is_empty()).then_some(Entry { name, hash })
}
