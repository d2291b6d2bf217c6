//! The ledger: the file on the output image that is the only witness of what was started. Here it is opened, written and made anew;
//! what its lines look like is [`line`]'s, what they mean for a script is `recover`'s.

mod file;
pub mod kept;
pub mod line;
mod marks;
mod memory;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use anyhow::Context;

use crate::sys::dir::Dir;
use crate::sys::process::random_uuid;
use kept::Kept;
use line::{Identity, LONGEST_LINE, Line, Start, TORN};

use file::{NAME, NEW_NAME};
pub use marks::fits;

/// Who only reads takes a longer one for none, in bytes.
const LONGEST_READ: u64 = 64 << 20;

/// An open ledger.
#[derive(Debug)]
pub struct Ledger {
    dir: Dir,
    file: File,
    id: String,
    end: u64,
    capacity: u64,
    unsynced: usize,
    next_run: u64,
    settled: u64,
    /// An older ledger is lost with what it said of the runs up to this one.
    lost: u64,
    /// Started, and no result is known to be durable.
    pub unfinished: Vec<Start>,
    /// With a durable result, but the script may still be there; and whether it is to be started again.
    pub unsettled: Vec<(Start, bool)>,
    /// Results that are not known to be durable as files.
    pub kept: Vec<Kept>,
    /// What was run on media that cannot be written: SHA-256 by identity.
    ran: HashMap<String, String>,
}

/// What opening found.
#[derive(Debug)]
pub struct Opened {
    /// The ledger, ready for use.
    pub ledger: Ledger,
    /// The old one could not be relied on and stands beside it under this name; claims made for it are another ledger's now.
    pub set_aside: Option<String>,
}

impl Ledger {
    /// Opens the ledger in `dir` (`<output>/gvad`), or makes one. Run numbers go on from `last_run` at least.
    ///
    /// # Errors
    /// The output image cannot be read or written.
    pub fn open(dir: Dir, last_run: u64) -> anyhow::Result<Opened> {
        file::remove_unfinished(&dir).context("removing an unfinished ledger")?;
        if file::is_odd(&dir).context("looking at the ledger")? {
            let aside = file::set_aside(&dir)?;
            let ledger = Ledger::make(dir, last_run, Vec::new())?;
            return Ok(Opened {
                ledger,
                set_aside: Some(aside),
            });
        }
        let (bytes, capacity) = match dir.open_file(NAME) {
            Ok(file) => file::read_all(&file).context("reading the ledger")?,
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                let ledger = Ledger::make(dir, last_run, Vec::new())?;
                return Ok(Opened {
                    ledger,
                    set_aside: None,
                });
            }
            Err(err) => return Err(err).context("opening the ledger"),
        };
        let contents = line::read(&bytes);
        if contents.damaged {
            let aside = file::set_aside(&dir)?;
            let ledger = Ledger::make(dir, last_run, contents.lines)?;
            return Ok(Opened {
                ledger,
                set_aside: Some(aside),
            });
        }
        let file = dir
            .open_write(OsStr::new(NAME))
            .context("opening the ledger for writing")?;
        let mut ledger = Ledger {
            dir,
            file,
            id: String::new(),
            end: contents.end,
            capacity,
            unsynced: 0,
            next_run: last_run.saturating_add(1),
            settled: 0,
            lost: 0,
            unfinished: Vec::new(),
            unsettled: Vec::new(),
            kept: Vec::new(),
            ran: HashMap::new(),
        };
        contents
            .lines
            .into_iter()
            .for_each(|line| ledger.note(line));
        ledger
            .wipe_torn(&bytes)
            .context("cleaning the ledger's end")?;
        Ok(Opened {
            ledger,
            set_aside: None,
        })
    }

    /// The results that the ledger in `dir` keeps, for whoever reads them only; none if there is no ledger that can be read.
    #[must_use]
    pub fn kept_in(dir: &Dir) -> Vec<Kept> {
        let bounded = |file: &File| file.metadata().is_ok_and(|look| look.len() <= LONGEST_READ);
        let file = dir.open_file(NAME).ok().filter(bounded);
        let bytes = file.and_then(|file| file::read_all(&file).ok());
        bytes.map_or_else(Vec::new, |(bytes, _)| kept::kept_in(&bytes))
    }

    /// Makes a new one, which remembers what still counts of the `lines` of one that is damaged.
    fn make(dir: Dir, last_run: u64, lines: Vec<Line>) -> anyhow::Result<Ledger> {
        let id = random_uuid().context("asking the kernel for a random id")?;
        let file = dir
            .create(OsStr::new(NEW_NAME), 0o600)
            .context("making the ledger")?;
        let mut ledger = Ledger {
            dir,
            file,
            id,
            end: 0,
            capacity: 0,
            unsynced: 0,
            next_run: last_run.saturating_add(1),
            settled: 0,
            lost: last_run,
            unfinished: Vec::new(),
            unsettled: Vec::new(),
            kept: Vec::new(),
            ran: HashMap::new(),
        };
        lines.into_iter().for_each(|line| ledger.salvage(line));
        ledger.write_anew().context("making the ledger")?;
        Ok(ledger)
    }

    /// A torn last write may lie behind the end; a shorter line over it would leave its tail.
    fn wipe_torn(&mut self, bytes: &[u8]) -> io::Result<()> {
        let end = usize::try_from(self.end).unwrap_or(usize::MAX);
        let torn = bytes.get(end..).unwrap_or_default();
        let torn = torn.get(..TORN).unwrap_or(torn);
        if torn.iter().any(|&byte| byte != 0) {
            self.file.write_all_at(&vec![0; torn.len()], self.end)?;
            self.file.sync_data()?;
        }
        Ok(())
    }

    /// The random id, by which claims are kept apart.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The number of the next run.
    #[must_use]
    pub fn next_run(&self) -> u64 {
        self.next_run
    }

    /// What happened to the runs up to this one is not known, beyond the results that are there; 0 if no ledger was lost.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// All runs up to this one have their result, and their scripts are gone.
    #[must_use]
    pub fn settled(&self) -> u64 {
        self.settled
    }

    /// The SHA-256 of the script of this identity, if it was run on a medium that cannot be written.
    #[must_use]
    pub fn ran(&self, identity: &Identity) -> Option<&str> {
        self.ran.get(&identity.key()).map(String::as_str)
    }

    /// Which start of this script the next one is, where an interrupted one is owed a further attempt.
    #[must_use]
    pub fn next_attempt(&self, identity: &Identity) -> u32 {
        let owed = self
            .unsettled
            .iter()
            .find(|(start, again)| *again && start.identity.same_file(identity));
        owed.map_or(1, |(start, _)| {
            start.attempt.saturating_add(u32::from(!start.unstarted))
        })
    }

    /// Whether the file is still the one that the next gvad will open: a script may have deleted or replaced it.
    ///
    /// # Errors
    /// Those of fstatat(2).
    pub fn in_place(&self) -> io::Result<bool> {
        let ours = self.file.metadata()?;
        match self.dir.look(OsStr::new(NAME)) {
            Ok(look) => Ok(look.inode == ours.ino() && look.device == ours.dev()),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(err) => Err(err),
        }
    }

    /// Makes sure that the next start mark and its end fit, while nothing has been touched for it yet.
    ///
    /// # Errors
    /// `ENOSPC` and the like; the ledger is as it was.
    pub fn make_room(&mut self) -> io::Result<()> {
        if self.end + 4 * LONGEST_LINE as u64 > self.capacity {
            self.write_anew()
        } else {
            Ok(())
        }
    }

    /// Says that the scripts of all finished runs on this medium are durably gone. What was run on another, which is not attached now, is
    /// remembered: claims on it have not been looked at.
    ///
    /// # Errors
    /// As [`Ledger::start`].
    pub fn settle(&mut self, medium: &str) -> io::Result<()> {
        let (here, elsewhere): (Vec<_>, Vec<_>) = std::mem::take(&mut self.unsettled)
            .into_iter()
            .partition(|(start, _)| start.identity.same_medium(medium));
        let owed = here
            .iter()
            .filter(|(_, again)| *again)
            .map(|(start, _)| start);
        let open = self.unfinished.iter().chain(owed).map(|start| start.run);
        let run = open.min().unwrap_or(self.next_run).saturating_sub(1);
        self.unsettled = here;
        if run > self.settled {
            self.note(Line::Settled { run });
            if elsewhere.is_empty() {
                return self.append(&Line::Settled { run });
            }
            // All in one: a line that forgets must not reach the disk without those that remember.
            self.unsettled.splice(0..0, elsewhere);
            return self.write_anew();
        }
        self.unsettled.splice(0..0, elsewhere);
        Ok(())
    }

    /// Makes everything noted so far durable.
    ///
    /// # Errors
    /// As [`Ledger::start`].
    pub fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        self.unsynced = 0;
        Ok(())
    }

    fn append(&mut self, line: &Line) -> io::Result<()> {
        let bytes = line::encode(line)?;
        if self.end + bytes.len() as u64 > self.capacity {
            self.write_anew()?;
        }
        // What a crash can tear must stay within what reading takes for torn.
        if self.unsynced + bytes.len() > LONGEST_LINE {
            self.sync()?;
        }
        self.file.write_all_at(&bytes, self.end)?;
        self.end += bytes.len() as u64;
        self.unsynced += bytes.len();
        Ok(())
    }

    /// Writes the file anew with the lines that still matter, and puts it in the place of the old one.
    fn write_anew(&mut self) -> io::Result<()> {
        let mut bytes = Vec::new();
        for line in self.lines_that_matter() {
            bytes.extend(line::encode(&line)?);
        }
        let end = bytes.len() as u64;
        (self.file, self.capacity) = file::replace(&self.dir, &bytes)?;
        (self.end, self.unsynced) = (end, 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
