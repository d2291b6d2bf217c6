//! Parameters as they are given on the command line.

use std::collections::HashSet;

use anyhow::{Result, bail};

/// Reads `NAME=VALUE`, held against what OVF and XML can carry.
pub(super) fn parse(given: &[String]) -> Result<Vec<(String, String)>> {
    let mut names = HashSet::new();
    let mut parameters = Vec::new();
    for text in given {
        let Some((name, value)) = text.split_once('=') else {
            bail!("--param {text}: it must be NAME=VALUE");
        };
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
        if name.is_empty() || name.len() > 64 || !name.chars().all(allowed) {
            bail!("--param {text}: the name must be 1 to 64 letters, digits, _ and -");
        }
        if !names.insert(name) {
            bail!("--param {text}: {name} is given twice");
        }
        let unwritable =
            |c: char| (c.is_control() && !"\t\n\r".contains(c)) || "\u{fffe}\u{ffff}".contains(c);
        if value.contains(unwritable) {
            bail!("--param {name}: there is a character in the value that XML cannot carry");
        }
        parameters.push((name.to_owned(), value.to_owned()));
    }
    Ok(parameters)
}
