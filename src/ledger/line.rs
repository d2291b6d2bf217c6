//! The lines of the ledger, and the file as bytes: pure, so that any bytes whatever can be tried on it.

use std::ffi::OsStr;

use serde::{Deserialize, Serialize};

use super::kept::Kept;
use crate::name::{ScriptName, run_number};
use crate::sys::dir::{Look, Stamp};
use crate::sys::file::FILE_SYSTEM_ID;

/// No line is longer, in bytes, and no more is ever written without a sync.
pub const LONGEST_LINE: usize = 16 << 10;
/// A crash in the middle of a write leaves its traces within so much of the end.
pub const TORN: usize = 2 * LONGEST_LINE;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// Always the first.
    Ledger {
        /// Random; names the directory of the claims.
        id: String,
        /// 1.
        schema: u32,
    },
    /// A run may have started from here on.
    Start(Start),
    /// A run's result is durable.
    End {
        /// Its number.
        run: u64,
        /// The script is to be started again.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        again: bool,
    },
    /// A run's result: durable with this line, as files later.
    Result(Kept),
    /// The results of all runs up to this one are durable as files.
    Filed {
        /// Its number.
        run: u64,
    },
    /// A script on a medium that cannot be written was run.
    Ran {
        /// [`Identity::key`].
        key: String,
        /// Of its bytes.
        sha256: String,
    },
    /// An older ledger is lost, and what it said of all runs up to this one; until a `settled` says that they have been explained.
    Lost {
        /// Its number.
        run: u64,
    },
    /// The claims of all runs up to this one are durably gone.
    Settled {
        /// Its number.
        run: u64,
    },
}

/// A start mark.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// Number of the run.
    pub run: u64,
    /// Name of the run.
    pub run_id: String,
    /// Which file it was.
    pub identity: Identity,
    /// Of its bytes.
    pub sha256: String,
    /// 1 for the first.
    pub attempt: u32,
    /// The boot in which it was started.
    pub boot_id: String,
    /// When.
    pub started_at: String,
    /// Its control group, to be ended if gvad dies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// It was run where it lay, on a medium that cannot be written.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_place: bool,
    /// It will not be started: only its result `not_started` is to be recorded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unstarted: bool,
}

/// Which file a script was when it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The file system.
    pub medium: String,
    /// Its name in script-bin.
    #[serde(flatten)]
    pub name: ScriptName,
    /// Inode number; 0 on file systems that make them up anew at each mount.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// Seconds and nanoseconds.
    pub ctime: (i64, i64),
    /// Seconds and nanoseconds, where the file system keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub birth: Option<(i64, i64)>,
}

/// Whether two times are the same, given that one may have been cut to seconds on its way to the disk.
#[must_use]
pub fn same_time(a: (i64, i64), b: (i64, i64)) -> bool {
    a.0 == b.0 && (a.1 == b.1 || a.1 == 0 || b.1 == 0)
}

fn pair(stamp: Stamp) -> (i64, i64) {
    (stamp.secs, stamp.nanos)
}

impl Identity {
    /// Of a file that was looked at.
    #[must_use]
    pub fn of(medium: &Medium, name: &std::ffi::OsStr, look: &Look) -> Identity {
        Identity {
            medium: medium.id.clone(),
            name: ScriptName::of(name),
            inode: if medium.lasting_inodes { look.inode } else { 0 },
            size: look.size,
            mtime: pair(look.mtime),
            ctime: pair(look.ctime),
            birth: look.birth.map(pair),
        }
    }

    /// Whether both are the same file under the same name, untouched since.
    #[must_use]
    pub fn same(&self, other: &Identity) -> bool {
        self.same_file(other) && same_time(self.ctime, other.ctime)
    }

    /// Whether both are the same file under the same name, whatever was done to it since. Inode numbers are used again; the time of birth tells a
    /// later file from an earlier one, and where there is none, what it looks like.
    #[must_use]
    pub fn same_file(&self, other: &Identity) -> bool {
        let known = match (self.birth, other.birth) {
            (Some(one), Some(other)) if self.inode != 0 => one == other,
            _ => self.size == other.size && same_time(self.mtime, other.mtime),
        };
        self.same_medium(&other.medium)
            && self.name == other.name
            && self.inode == other.inode
            && known
    }

    /// Whether it may be on this file system. The numbers by which directories in place go may change from one boot to the next, and tell nothing.
    #[must_use]
    pub fn same_medium(&self, medium: &str) -> bool {
        let uncertain = |medium: &str| medium.starts_with(FILE_SYSTEM_ID);
        self.medium == medium || uncertain(&self.medium) || uncertain(medium)
    }

    /// Whether the file can be told from every other, earlier or later, that has its name.
    #[must_use]
    pub fn is_unmistakable(&self) -> bool {
        self.inode != 0 && self.birth.is_some()
    }

    /// A short form, for the memory of what was run on a medium that cannot be written.
    #[must_use]
    pub fn key(&self) -> String {
        use sha2::{Digest, Sha256};
        // Without the birth: a kernel that begins to tell it must not make every script a new one.
        let lasting = Identity {
            birth: None,
            ..self.clone()
        };
        let text = serde_json::to_vec(&lasting).unwrap_or_default();
        let digest = Sha256::digest(&text);
        crate::name::hex(digest.get(..16).unwrap_or_default())
    }
}

/// The file system on which the scripts are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Medium {
    /// Type and UUID, or what else names it.
    pub id: String,
    /// A file keeps its inode number from one mount to the next.
    pub lasting_inodes: bool,
    /// What is done to it reaches the disk in the order in which it was done.
    pub keeps_journal: bool,
}

/// `CRC32 JSON\n`
///
/// # Errors
/// Longer than [`LONGEST_LINE`], which no file name can bring about.
pub fn encode(line: &Line) -> std::io::Result<Vec<u8>> {
    let json = serde_json::to_vec(line)?;
    let mut bytes = format!("{:08x} ", crc32fast::hash(&json)).into_bytes();
    bytes.extend_from_slice(&json);
    bytes.push(b'\n');
    if bytes.len() > LONGEST_LINE {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            "a line too long for the ledger",
        ));
    }
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Option<Line> {
    let (sum, json) = (bytes.get(..8)?, bytes.get(9..)?);
    let sum = u32::from_str_radix(std::str::from_utf8(sum).ok()?, 16).ok()?;
    (crc32fast::hash(json) == sum)
        .then(|| serde_json::from_slice(json).ok())
        .flatten()
        .filter(is_sound)
}

/// Whether the names in it are such as gvad gives: an image comes from elsewhere, and with `/` in a name its ledger would lead out of it.
fn is_sound(line: &Line) -> bool {
    match line {
        Line::Ledger { id, .. } => {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            (1..=64).contains(&id.len()) && id.bytes().all(plain)
        }
        Line::Start(start) => {
            let name = start.identity.name.file_name();
            is_run_id(start.run_id.as_ref()) && name.is_some_and(|name| is_name(&name))
        }
        Line::Result(kept) => {
            let run_id = OsStr::new(&kept.result.run_id);
            is_run_id(run_id) && run_number(run_id) == Some(kept.run)
        }
        Line::End { .. }
        | Line::Filed { .. }
        | Line::Ran { .. }
        | Line::Lost { .. }
        | Line::Settled { .. } => true,
    }
}

/// Such a name may get a number behind it, and be a file's still.
fn is_run_id(name: &OsStr) -> bool {
    is_name(name) && name.len() <= 240
}

fn is_name(name: &OsStr) -> bool {
    let bytes = name.as_encoded_bytes();
    !matches!(bytes, b"" | b"." | b"..") && !bytes.contains(&b'/') && !bytes.contains(&0)
}

/// What a ledger file says.
#[derive(Debug)]
pub struct Contents {
    /// The whole lines up to `end`; of a damaged file, every line that is whole.
    pub lines: Vec<Line>,
    /// Behind the last whole line of the beginning; the next goes here.
    pub end: u64,
    /// Something is wrong that no torn write explains.
    pub damaged: bool,
}

/// Reads a ledger file. Whatever the bytes are, this gives an answer.
#[must_use]
pub fn read(bytes: &[u8]) -> Contents {
    let mut lines = Vec::new();
    let mut starts_behind = 0;
    let mut corrupt = false;
    let mut end = None;
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let zeros = rest.iter().take_while(|&&byte| byte == 0).count();
        if zeros > 0 {
            end.get_or_insert(at);
            at += zeros;
            continue;
        }
        let length = rest
            .iter()
            .position(|&byte| byte == b'\n' || byte == 0)
            .unwrap_or(rest.len());
        let whole = rest.get(length) == Some(&b'\n');
        match rest.get(..length).filter(|_| whole).and_then(decode) {
            Some(line) => {
                starts_behind += usize::from(end.is_some() && matches!(line, Line::Start(_)));
                lines.push((at, line));
            }
            None => {
                // A write that was cut off leaves zeros where it did not arrive. All there, and wrong all the same: that is no crash.
                corrupt |= whole && end.is_none();
                end.get_or_insert(at);
            }
        }
        at += length + 1;
    }
    let end = end.unwrap_or(at.min(bytes.len()));
    let begins = matches!(lines.first(), Some((0, Line::Ledger { schema: 1, .. })));
    let beyond = bytes.get(end.saturating_add(TORN)..).unwrap_or_default();
    // Only the last start mark can be unsynced: with two behind a broken line, the line was whole once.
    let damaged = !begins || corrupt || starts_behind > 1 || beyond.iter().any(|&byte| byte != 0);
    let trusted = lines
        .into_iter()
        .filter(|(at, _)| damaged || *at < end)
        .map(|(_, line)| line)
        .collect();
    Contents {
        lines: trusted,
        end: end as u64,
        damaged,
    }
}

#[cfg(test)]
mod tests;
