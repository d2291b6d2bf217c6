//! Looking: one listing of script-bin, sorted into what is a script and what is passed over, with the reason. Nothing is opened here.

mod names;

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;

use tracing::info;

use crate::claim::CLAIMS;
use crate::name::shown;
use crate::sys::dir::{Dir, Kind, Look};
pub use names::Names;

/// So many reasons are remembered, so that each is told once.
const REMEMBERED: usize = 10_000;

/// What one listing gave.
#[derive(Debug, Default)]
pub struct Listing {
    /// The scripts, in bytewise order of their names.
    pub scripts: Names,
    /// What is no script, or may not be run, and why.
    pub passed_over: Vec<(OsString, &'static str)>,
}

/// Lists `script_bin`.
///
/// # Errors
/// It cannot be read.
pub fn scan(script_bin: &Dir) -> io::Result<Listing> {
    let open_to_all = Look::at(script_bin)?.world_writable();
    let mut listing = Listing::default();
    script_bin.each_name(|name| {
        if name == CLAIMS {
            return;
        }
        let objection = match script_bin.look(name) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return,
            Err(_) => Some("it cannot be looked at: see the kernel's log"),
            Ok(look) => objection(name, &look, open_to_all),
        };
        match objection {
            None => listing.scripts.push(name),
            Some(reason) => listing.passed_over.push((name.to_owned(), reason)),
        }
    })?;
    listing.scripts.sort();
    listing.passed_over.sort_unstable();
    Ok(listing)
}

/// Why this is no script that may be run; `None` if it is one.
#[must_use]
pub fn objection(name: &OsStr, look: &Look, open_to_all: bool) -> Option<&'static str> {
    let bytes = name.as_bytes();
    match look.kind {
        Kind::Directory => Some("a directory"),
        Kind::SymbolicLink => Some("a symbolic link: put the script itself there"),
        Kind::Special => Some("a FIFO, a socket or a device"),
        Kind::Regular if bytes.starts_with(b".") => {
            Some("its name begins with a dot: not handed over yet")
        }
        Kind::Regular
            if [&b".part"[..], b".tmp", b"~"]
                .iter()
                .any(|end| bytes.ends_with(end)) =>
        {
            Some("its name ends in .part, .tmp or ~: not handed over yet")
        }
        Kind::Regular if !look.executable() => Some("it has no execute bit: chmod +x it"),
        Kind::Regular if look.world_writable() => {
            Some("anybody may write to it, so anybody could become root by it: chmod o-w it")
        }
        Kind::Regular if open_to_all => Some(
            "anybody may write to script-bin, so anybody could become root by it: chmod o-w the directory",
        ),
        Kind::Regular => None,
    }
}

/// Remembers what has been told, so that the log has it once and the status has it always.
#[derive(Debug, Default)]
pub struct Told {
    told: HashSet<(OsString, String)>,
}

impl Told {
    /// Logs what is passed over and was not told before; forgets what is there no longer.
    pub fn tell<'a>(&mut self, passed_over: impl Iterator<Item = (&'a OsStr, &'a str)>) {
        let mut now = HashSet::new();
        for (name, reason) in passed_over.take(REMEMBERED) {
            let entry = (name.to_owned(), reason.to_owned());
            if !self.told.contains(&entry) {
                info!(script = shown(name), reason, "passed over");
            }
            now.insert(entry);
        }
        self.told = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn scripts_come_in_bytewise_order_and_everything_else_with_its_reason() {
        let base = tempfile::tempdir().unwrap();
        let put = |name: &[u8], mode| {
            let path = base.path().join(OsStr::from_bytes(name));
            std::fs::write(&path, "x").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        for name in [&b"b"[..], b"B", b"\xff", b"-a", b"a\nb", b"10", b"9"] {
            put(name, 0o755);
        }
        put(b"group", 0o070);
        put(b"open", 0o757);
        put(b"plain", 0o644);
        put(b".hidden", 0o755);
        put(b"x.part", 0o755);
        put(b"x.tmp", 0o755);
        put(b"x~", 0o755);
        symlink("b", base.path().join("link")).unwrap();
        std::fs::create_dir(base.path().join("dir")).unwrap();
        std::fs::create_dir(base.path().join(".gvad")).unwrap();
        let dir = Dir::open(base.path()).unwrap();
        let listing = scan(&dir).unwrap();
        let names: Vec<_> = listing.scripts.iter().map(|name| name.as_bytes()).collect();
        assert_eq!(
            names,
            [
                &b"-a"[..],
                b"10",
                b"9",
                b"B",
                b"a\nb",
                b"b",
                b"group",
                b"\xff"
            ]
        );
        let passed: Vec<_> = listing
            .passed_over
            .iter()
            .map(|(name, _)| name.to_str().unwrap())
            .collect();
        assert_eq!(
            passed,
            [
                ".hidden", "dir", "link", "open", "plain", "x.part", "x.tmp", "x~"
            ]
        );
        std::fs::set_permissions(base.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(scan(&dir).unwrap().scripts.is_empty());
    }
}
