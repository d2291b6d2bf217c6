//! Takes results out of an image file. The file is only read: where its journal must be replayed, that is done on a private copy. The image is a
//! guest's and is not trusted: only names that gvad gives are looked at, files are named by their inode, and sizes are bounded.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Seek, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use gvad::ledger::kept::{Kept, kept_in};
use gvad::name::run_number;
use gvad::results::{self, Entry};
use gvad::sys::lock::{Lock, Mode, try_lock};
use gvad::sys::superblock::{Content, probe};

use crate::image::ext4::PACKAGE;
use crate::say;
use crate::scratch::Dir;
use crate::tool;

/// Longer results are none; gvad thinks the same.
const LARGEST_RESULT: u64 = 1 << 20;
/// All of them are no more than this, which is a million of the usual ones.
const LARGEST_SUM: u64 = 1 << 30;
/// So many runs are taken out at once: names in an image can lie about lengths, so what debugfs writes here is bounded.
const BATCH: usize = 1000;
/// A longer listing of directories is none.
const LARGEST_LISTING: u64 = 64 << 20;
/// A longer ledger is none of a guest's that went well.
const LARGEST_LEDGER: u64 = 64 << 20;
/// A damaged file system may lead debugfs in a circle.
const PATIENCE: Duration = Duration::from_secs(600);
/// Where results are: on an output image, and on an application image that took them.
const PLACES: [&str; 2] = ["/gvad", "/output/gvad"];

/// An image, ready to be read.
#[derive(Debug)]
pub(crate) struct Image {
    /// As named by the user.
    name: String,
    /// What debugfs reads: the file, or a copy of it.
    file: PathBuf,
    size: u64,
    debugfs: PathBuf,
    scratch: Dir,
    /// No run begins to write on it in the meantime.
    _lock: Option<Lock>,
}

/// A file in the image, named as `ls -p` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    inode: u64,
    mode: u32,
    name: String,
    size: u64,
}

const FILE_TYPE: u32 = 0o170_000;

impl Found {
    fn is_dir(&self) -> bool {
        self.mode & FILE_TYPE == 0o040_000
    }

    fn is_file(&self) -> bool {
        self.mode & FILE_TYPE == 0o100_000
    }
}

impl Image {
    /// Looks at the file, and says what is unusual about it.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Image> {
        let name = path.display().to_string();
        let reading = || format!("reading {name}");
        let file = File::open(path).with_context(reading)?;
        let size = (&file)
            .seek(std::io::SeekFrom::End(0))
            .with_context(reading)?;
        let needs_recovery = match probe(&file, size).with_context(reading)? {
            Content::FileSystem(found) if found.fstype.starts_with("ext") => found.needs_recovery,
            Content::FileSystem(found) => bail!(
                "{name} is {}, and only ext2, ext3 and ext4 can be read without mounting; mount it and ask gvad results",
                found.fstype
            ),
            Content::Other(what) => bail!("{name} is {what}, not an image with results"),
            Content::Unknown => bail!("{name} holds no file system that gva knows"),
        };
        let lock = try_lock(&file, Mode::Shared).with_context(|| format!("locking {name}"))?;
        let mut image = Image {
            file: path.canonicalize().with_context(reading)?,
            name,
            size,
            debugfs: tool::find("debugfs", PACKAGE)?,
            scratch: Dir::new()?,
            _lock: lock,
        };
        let name = &image.name;
        if image._lock.is_none() {
            say::warn(&format!(
                "warning: {name} is in use by a run; this is what is there now"
            ));
        } else if needs_recovery {
            say::warn(&format!(
                "warning: {name} was not cleanly unmounted; this is what is there"
            ));
        }
        if needs_recovery {
            match image.recovered() {
                Ok(copy) => image.file = copy,
                Err(err) => say::warn(&format!(
                    "warning: {err:#}; the newest results may be missing"
                )),
            }
        }
        Ok(image)
    }

    /// A copy with its journal replayed.
    fn recovered(&self) -> anyhow::Result<PathBuf> {
        let doing = format!("replaying the journal of {} on a copy", self.name);
        let copy = self.scratch.path().join("copy.img");
        let mut cp = tool::command(&tool::find("cp", "coreutils")?);
        cp.args(["--reflink=auto", "--sparse=always", "--"])
            .args([&self.file, &copy]);
        tool::run(&mut cp, &doing)?;
        let e2fsck = tool::find("e2fsck", PACKAGE)?;
        let mut e2fsck = tool::command(&e2fsck);
        e2fsck.args(["-y", "-E", "journal_only"]).arg(&copy);
        e2fsck.stdout(Stdio::null()); // ours is for results
        let ended = tool::status_within(&mut e2fsck, PATIENCE, &doing)?;
        // 1: it had something to do.
        if !matches!(ended.code(), Some(0 | 1)) {
            bail!("{doing}: e2fsck failed ({ended})");
        }
        Ok(copy)
    }

    /// All results in the image, in the order of the runs.
    pub(crate) fn results(&self) -> anyhow::Result<Vec<Entry>> {
        let runs: Vec<Found> = self.runs()?.into_values().collect();
        let (mut entries, mut sum) = (Vec::new(), 0);
        for batch in runs.chunks(BATCH) {
            let top = self.scratch.path().join("gvad");
            fs::create_dir(&top).context("making a directory")?;
            sum += self.take_out(batch, &top)?;
            if sum > LARGEST_SUM {
                bail!(
                    "the results in {} are longer than 1 GiB, which is damaged",
                    self.name
                );
            }
            entries.extend(results::read(&top)?);
            fs::remove_dir_all(&top).context("removing a directory")?;
        }
        results::add_kept(&mut entries, self.kept()?, "");
        entries.sort_by_key(|entry| run_number(entry.run_id.as_ref()));
        Ok(entries)
    }

    /// Results that the guest's ledger keeps: when the machine died they had not become files.
    pub(crate) fn kept(&self) -> anyhow::Result<Vec<Kept>> {
        let listings = self.list(PLACES.iter().map(ToString::to_string))?;
        let mut found = listings.into_iter().flatten();
        let Some(ledger) = found.find(|file| file.name == "ledger" && file.is_file()) else {
            return Ok(Vec::new());
        };
        if ledger.size > LARGEST_LEDGER {
            return Ok(Vec::new());
        }
        self.ask(&format!("dump <{}> ledger\n", ledger.inode), LARGEST_LEDGER)?;
        let file = self.scratch.path().join("ledger");
        // What could not be dumped is not there.
        let bytes = fs::read(&file).unwrap_or_default();
        let _ = fs::remove_file(&file);
        Ok(kept_in(&bytes))
    }

    /// Puts the results of `runs` into the directory `top`; returns how long they are.
    fn take_out(&self, runs: &[Found], top: &Path) -> anyhow::Result<u64> {
        let listings = self.list(runs.iter().map(|run| format!("<{}>", run.inode)))?;
        let mut requests = String::new();
        let mut files = Vec::new();
        for (Found { name, .. }, listing) in runs.iter().zip(listings) {
            fs::create_dir(top.join(name)).context("making a directory")?;
            let result = listing.iter().find(|file| file.name == "result.json");
            if let Some(file) = result
                && file.is_file()
                && file.size <= LARGEST_RESULT
            {
                // Writing to a String cannot fail.
                let _ = writeln!(requests, "dump <{}> gvad/{name}/result.json", file.inode);
                files.push(top.join(name).join("result.json"));
            }
        }
        self.ask(&requests, LARGEST_RESULT)?;
        // What could not be dumped is not there.
        let long = files.iter().flat_map(fs::metadata).map(|file| file.len());
        Ok(long.sum())
    }

    /// Whether there is a file in script-bin that gvad would run.
    pub(crate) fn has_a_script(&self) -> anyhow::Result<bool> {
        let listings = self.list(std::iter::once("/script-bin".to_owned()))?;
        let mut files = listings.into_iter().flatten().filter(Found::is_file);
        Ok(files.any(|file| file.mode & 0o111 != 0 && !file.name.starts_with('.')))
    }

    /// The command that prints a file of a run, and how long that is.
    pub(crate) fn cat(&self, run: &str, name: &str) -> anyhow::Result<(Command, u64)> {
        let runs = self.runs()?;
        let found = runs.get(run).with_context(|| {
            format!("there is no run {run:?} in {}; see gva results", self.name)
        })?;
        let files = self.list(std::iter::once(format!("<{}>", found.inode)))?;
        let file = files.into_iter().flatten().find(|file| file.name == name);
        let file = file
            .filter(Found::is_file)
            .with_context(|| format!("the run {run} in {} has no {name}", self.name))?;
        if file.size > self.size {
            bail!(
                "{name} of {run} claims to be longer than {}, which is damaged",
                self.name
            );
        }
        let mut command = self.debugfs();
        command
            .arg("-R")
            .arg(format!("cat <{}>", file.inode))
            .arg(&self.file);
        Ok((command, file.size))
    }

    /// The run directories, by name.
    fn runs(&self) -> anyhow::Result<BTreeMap<String, Found>> {
        let listings = self.list(PLACES.iter().map(ToString::to_string))?;
        let Some(listing) = listings.into_iter().find(|listing| !listing.is_empty()) else {
            bail!(
                "{} is no image with results of gvad: there is neither gvad/ nor output/gvad/ in it",
                self.name
            );
        };
        let ours = |found: &Found| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            found.is_dir()
                && found.name.bytes().all(plain)
                && run_number(found.name.as_ref()).is_some()
        };
        Ok(listing
            .into_iter()
            .filter(ours)
            .map(|found| (found.name.clone(), found))
            .collect())
    }

    /// What is in each of these directories; nothing in one that is none.
    fn list(&self, directories: impl Iterator<Item = String>) -> anyhow::Result<Vec<Vec<Found>>> {
        let mut requests = String::new();
        let mut asked = 0;
        for directory in directories {
            let _ = writeln!(requests, "ls -p {directory}");
            asked += 1;
        }
        let mut listings = listings(&self.ask(&requests, LARGEST_LISTING)?);
        listings.resize(asked, Vec::new());
        Ok(listings)
    }

    fn debugfs(&self) -> Command {
        let mut command = tool::command(&self.debugfs);
        command.current_dir(self.scratch.path());
        command
    }

    /// Lets debugfs work off `requests`, one a line, and returns what it said. It ends with 0 whatever becomes of them. A file
    /// longer than `limit` ends it.
    fn ask(&self, requests: &str, limit: u64) -> anyhow::Result<String> {
        let doing = format!("reading {}", self.name);
        let temporary = || format!("{doing}: writing a temporary file");
        let mut asked = tempfile::tempfile_in(self.scratch.path()).with_context(temporary)?;
        asked
            .write_all(requests.as_bytes())
            .and_then(|()| asked.rewind())
            .with_context(temporary)?;
        let mut answer = tempfile::tempfile_in(self.scratch.path()).with_context(temporary)?;
        let to = answer.try_clone().with_context(temporary)?;
        let mut command = self.debugfs();
        command.args(["-f", "-"]).arg(&self.file);
        command.stdin(Stdio::from(asked)).stdout(Stdio::from(to));
        tool::writes_at_most(&mut command, limit);
        let ended = tool::status_within(&mut command, PATIENCE, &doing)?;
        if !ended.success() {
            bail!("{doing}: debugfs failed ({ended}): the file system is damaged");
        }
        answer.rewind().with_context(temporary)?;
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut answer, &mut bytes).with_context(temporary)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// debugfs repeats each request behind its prompt, and then answers.
fn listings(text: &str) -> Vec<Vec<Found>> {
    let mut listings: Vec<Vec<Found>> = Vec::new();
    for line in text.lines() {
        if line.starts_with("debugfs: ls -p ") {
            listings.push(Vec::new());
        } else if let (Some(listing), Some(found)) = (listings.last_mut(), found(line)) {
            listing.push(found);
        }
    }
    listings
}

/// `/12/100755/0/0/a.sh/18/`; a directory has no size.
fn found(line: &str) -> Option<Found> {
    let mut parts = line.strip_prefix('/')?.strip_suffix('/')?.split('/');
    let mut next = || parts.next();
    let (inode, mode, _uid, _gid) = (next()?, next()?, next()?, next()?);
    let (name, size) = (next()?, next()?);
    if next().is_some() {
        return None; // a name with a slash in it, which only a forger can make
    }
    Some(Found {
        inode: inode.parse().ok().filter(|inode| *inode > 0)?,
        mode: u32::from_str_radix(mode, 8).ok()?,
        name: name.to_owned(),
        size: if size.is_empty() {
            0
        } else {
            size.parse().ok()?
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_read_whatever_names_are_in_it() {
        let text = "debugfs: ls -p <2>\n/12/100755/0/0/a.sh/18/\n/15/040755/0/0/000001-x//\n\
                    debugfs: ls -p <99>\n\
                    debugfs: ls -p <3>\n/7/100644/0/0/a b/1/\n/8/100644/0/0/a/1/9/\nbro\nken\n/x/100644/0/0/a/1/\n/0/0/0/0//0/\n";
        let read = listings(text);
        assert_eq!(read.iter().map(Vec::len).collect::<Vec<_>>(), [2, 0, 1]);
        assert!(read[0][0].is_file() && read[0][1].is_dir());
        assert_eq!((read[0][0].inode, read[0][0].size), (12, 18));
        assert_eq!(read[2][0].name, "a b");
    }
}
