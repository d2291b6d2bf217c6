//! What lies on the disk: results and ledger, read without gvad's own code.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// One result.
#[derive(Debug)]
pub struct Found {
    pub script: OsString,
    pub json: Value,
    pub dir: PathBuf,
}

impl Found {
    pub fn outcome(&self) -> &str {
        self.json["outcome"].as_str().unwrap_or("")
    }

    pub fn attempt(&self) -> u64 {
        self.json["attempt"].as_u64().unwrap_or(0)
    }
}

/// The names in a directory, sorted; none if there is no such directory.
pub fn names(dir: &Path) -> Vec<OsString> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
    names.sort();
    names
}

/// Whether a name in the output's `gvad` is that of a run directory.
pub fn is_run(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    bytes.len() > 7 && bytes[..6].iter().all(u8::is_ascii_digit) && bytes[6] == b'-'
}

/// Every result, in the order of the runs. One that is torn is told in `wrong`.
pub fn results(output: &Path, wrong: &mut Vec<String>) -> Vec<Found> {
    let gvad = output.join("gvad");
    let mut found = Vec::new();
    for run in names(&gvad).into_iter().filter(|name| is_run(name)) {
        let dir = gvad.join(run);
        let Ok(text) = fs::read(dir.join("result.json")) else {
            continue;
        };
        match serde_json::from_slice::<Value>(&text) {
            Ok(json) => found.push(Found {
                script: script_name(&json),
                json,
                dir,
            }),
            Err(err) => wrong.push(format!("I4: {} is torn: {err}", dir.display())),
        }
    }
    found
}

/// The exact name of a script, in a result or in the identity of a start mark.
pub fn script_name(json: &Value) -> OsString {
    let Some(hex) = json["script_hex"].as_str() else {
        return json["script"].as_str().unwrap_or("").into();
    };
    OsString::from_vec(unhex(hex))
}

/// Whether both are JSON and say the same.
pub fn same_json(one: &[u8], other: &[u8]) -> bool {
    let parsed = |bytes| serde_json::from_slice::<Value>(bytes).ok();
    parsed(one).is_some_and(|one| parsed(other) == Some(one))
}

/// What a script printed, in a result that the ledger keeps.
pub fn printed(json: &Value) -> Vec<u8> {
    match json["hex"].as_str() {
        Some(hex) => unhex(hex),
        None => json.as_str().unwrap_or("").into(),
    }
}

fn unhex(hex: &str) -> Vec<u8> {
    let digit = |at: usize| {
        hex.get(at..at + 2)
            .and_then(|pair| u8::from_str_radix(pair, 16).ok())
    };
    (0..hex.len()).step_by(2).filter_map(digit).collect()
}

/// The whole lines of the ledger up to the first that is torn; the last may be, by a crash.
pub fn ledger(output: &Path, wrong: &mut Vec<String>) -> Vec<Value> {
    let Ok(bytes) = fs::read(output.join("gvad/ledger")) else {
        return Vec::new();
    };
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or(&[]);
    let mut lines = Vec::new();
    let mut torn = 0;
    for line in text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        match line_of(line) {
            Some(value) if torn == 0 => lines.push(value),
            _ => torn += 1,
        }
    }
    if torn > 1 {
        wrong.push(format!("I9: {torn} lines of the ledger cannot be read"));
    }
    lines
}

/// The results that the ledger keeps: they may not have become files yet.
pub fn kept(ledger: &[Value]) -> Vec<&Value> {
    let mut kept: Vec<&Value> = Vec::new();
    for line in ledger {
        if line["result"].is_object() {
            kept.push(&line["result"]);
        }
        for until in [&line["filed"], &line["settled"]] {
            let until = until["run"].as_u64().unwrap_or(0);
            kept.retain(|one| one["run"].as_u64() > Some(until));
        }
    }
    kept
}

fn line_of(line: &[u8]) -> Option<Value> {
    let (sum, json) = (line.get(..8)?, line.get(9..)?);
    let sum = u32::from_str_radix(std::str::from_utf8(sum).ok()?, 16).ok()?;
    (crc32fast::hash(json) == sum).then(|| serde_json::from_slice(json).ok())?
}

/// Everything under a directory that a further start must not change.
pub type Snapshot = BTreeMap<PathBuf, Look>;
/// Mode, inode, time of change and bytes.
pub type Look = (u32, u64, i64, Vec<u8>);

/// Of the run directories and script-bin.
pub fn snapshot(dir: &Path, into: &mut Snapshot) {
    for name in names(dir) {
        let path = dir.join(&name);
        let Ok(look) = path.symlink_metadata() else {
            continue;
        };
        let bytes = if look.is_file() {
            fs::read(&path).unwrap_or_default()
        } else {
            Vec::new()
        };
        let own = ["ledger", "status.json", ".gvad"].contains(&name.to_str().unwrap_or(""));
        if look.is_dir() && !own {
            snapshot(&path, into);
        }
        if !own {
            // The times of a directory change with what comes and goes in it, such as gvad's own directories of claims.
            let changed = if look.is_dir() { 0 } else { look.mtime_nsec() };
            into.insert(path, (look.mode(), look.ino(), changed, bytes));
        }
    }
}
