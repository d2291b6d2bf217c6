//! Start marks, what ends them, and results until they are durable as files.

use std::io;

use super::Ledger;
use super::kept::Kept;
use super::line::{LONGEST_LINE, Line, Start, encode};

impl Ledger {
    /// Says durably that a run may start; with it, what was noted before is durable.
    ///
    /// # Errors
    /// It is not known whether the mark is on the disk: the run must not start, and the ledger must not be used further.
    pub fn start(&mut self, start: Start) -> io::Result<()> {
        self.append(&Line::Start(start.clone()))?;
        self.sync()?;
        self.note(Line::Start(start));
        Ok(())
    }

    /// Says that a run's result is durable. The next start mark's sync carries it.
    ///
    /// # Errors
    /// As [`Ledger::start`].
    pub fn end(&mut self, run: u64, again: bool) -> io::Result<()> {
        self.say(Line::End { run, again })
    }

    /// Keeps a run's result until it is durable as files: [`Ledger::filed`]. The next start mark's sync makes it durable here, and ends the run.
    ///
    /// # Errors
    /// As [`Ledger::start`]; it must fit ([`fits`]).
    pub fn keep(&mut self, kept: Kept) -> io::Result<()> {
        self.say(Line::Result(kept))
    }

    /// Says that the results of all runs up to this one are durable as files. The next start mark's sync carries it.
    ///
    /// # Errors
    /// As [`Ledger::start`].
    pub fn filed(&mut self, run: u64) -> io::Result<()> {
        self.say(Line::Filed { run })
    }

    fn say(&mut self, line: Line) -> io::Result<()> {
        self.append(&line)?;
        self.note(line);
        Ok(())
    }
}

/// Whether the ledger can keep it, with some room for what its `reason` may come to say.
#[must_use]
pub fn fits(kept: &Kept) -> bool {
    const MORE: usize = 256;
    encode(&Line::Result(kept.clone())).is_ok_and(|line| line.len() + MORE <= LONGEST_LINE)
}
