//! Start marks and what ends them.

use std::io;

use super::Ledger;
use super::line::{Line, Start};
use crate::sys::file;

impl Ledger {
    /// Says durably that a run may start.
    ///
    /// # Errors
    /// It is not known whether the mark is on the disk: the run must not start, and the ledger must not be used further.
    pub fn start(&mut self, start: Start) -> io::Result<()> {
        self.append(&Line::Start(start.clone()))?;
        self.sync()?;
        self.note(Line::Start(start));
        Ok(())
    }

    /// As [`Ledger::start`], but what makes the mark durable is `commit`, which commits the journal of the ledger's file system.
    ///
    /// # Errors
    /// As [`Ledger::start`].
    pub fn start_by(
        &mut self,
        start: Start,
        commit: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        self.append(&Line::Start(start.clone()))?;
        file::write_out(&self.file)?;
        commit()?;
        self.unsynced = 0;
        self.note(Line::Start(start));
        Ok(())
    }

    /// Says that a run's result is durable. The next start mark's sync carries it.
    ///
    /// # Errors
    /// As [`Ledger::start`].
    pub fn end(&mut self, run: u64, again: bool) -> io::Result<()> {
        self.close(Line::End {
            run,
            again,
            unstarted: false,
        })
    }

    /// Says that a run was not started, whatever its start mark says: its script is to be started still.
    ///
    /// # Errors
    /// As [`Ledger::start`].
    pub fn take_back(&mut self, run: u64) -> io::Result<()> {
        self.close(Line::End {
            run,
            again: true,
            unstarted: true,
        })
    }

    fn close(&mut self, end: Line) -> io::Result<()> {
        self.append(&end)?;
        self.note(end);
        Ok(())
    }

    /// The run whose result had to be durable before this one could be started, if the ledger does not say that it was.
    #[must_use]
    pub fn waited_for(&self, start: &Start) -> Option<&Start> {
        let before = start.after?;
        self.unfinished.iter().find(|start| start.run == before)
    }
}
