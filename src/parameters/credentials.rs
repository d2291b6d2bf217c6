//! What systemd's credentials say to gvad: parameters, and a configuration. systemd.exec(5), "Credentials".
//!
//! The system's own directory is read, not only the service's. A unit for systemd 252 cannot ask for credentials by a pattern
//! (`ImportCredential=` is newer), and `LoadCredential=` with a directory makes the unit fail where the directory is missing.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};

use super::{Found, Given, LONGEST_VALUE};
use crate::config::{CREDENTIALS_DIRECTORY, DROP_IN, SYSTEM_CREDENTIALS};
use crate::sys::dir::{Dir, Kind, Look};

/// A credential whose name begins so is a parameter.
pub const PREFIX: &str = "gva.param.";

/// Where credentials are; what is found in the first counts.
#[must_use]
pub fn directories() -> Vec<PathBuf> {
    let own = std::env::var_os(CREDENTIALS_DIRECTORY).map(PathBuf::from);
    let own = own.filter(|path| path.is_absolute());
    own.into_iter().chain([SYSTEM_CREDENTIALS.into()]).collect()
}

/// The parameters among the credentials in `directories`, of which each may be missing.
#[must_use]
pub fn parameters(directories: &[PathBuf]) -> Found {
    let mut found = Found::default();
    for path in directories {
        if let Err(err) = read_all(path, &mut found) {
            let path = path.display();
            found
                .problems
                .push(format!("reading credentials in {path}: {err}"));
        }
    }
    found
}

fn read_all(path: &Path, found: &mut Found) -> io::Result<()> {
    let dir = match Dir::open(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let mut names = dir.names()?;
    names.sort();
    for file in names {
        let Some(name) = file.as_bytes().strip_prefix(PREFIX.as_bytes()) else {
            continue;
        };
        if found.given.iter().any(|given| given.name == name) {
            continue;
        }
        let name = name.to_owned();
        match read(&dir, &file) {
            Ok(value) => found.given.push(Given { name, value }),
            Err(err) => {
                let shown = file.to_string_lossy();
                let problem = format!("reading the credential {}: {err}", shown.escape_debug());
                found.problems.push(problem);
            }
        }
    }
    Ok(())
}

/// The whole credential, or a little more of it than a value may have.
fn read(dir: &Dir, name: &OsStr) -> io::Result<Vec<u8>> {
    let file: File = dir.open_file(name)?;
    if Look::at(&file)?.kind != Kind::Regular {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut value = Vec::new();
    file.take(LONGEST_VALUE as u64 + 1)
        .read_to_end(&mut value)?;
    Ok(value)
}

/// The configuration that this instance was given, if there is one.
///
/// # Errors
/// It cannot be read, is too long or no text.
pub fn drop_in(directories: &[PathBuf]) -> anyhow::Result<Option<String>> {
    let reading = || format!("credential {DROP_IN}");
    for path in directories {
        let read = Dir::open(path).and_then(|dir| read(&dir, OsStr::new(DROP_IN)));
        let value = match read {
            Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
            other => other.with_context(reading)?,
        };
        if value.len() > LONGEST_VALUE {
            bail!("credential {DROP_IN}: it is longer than 64 KiB");
        }
        let text = String::from_utf8(value).map_err(|_| anyhow!("it is not UTF-8"));
        return text.with_context(reading).map(Some);
    }
    Ok(None)
}
