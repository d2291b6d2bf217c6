//! Recovery: what an earlier gvad left behind is brought to a result or made ready to run. The same every time, however often
//! it is cut short. ARCHITECTURE.md has the table: here and in [`claims`] it is looked what there is, [`plan`] decides what is done
//! about it, [`act`] does that.

mod act;
mod claims;
mod plan;

use std::ffi::{OsStr, OsString};
use std::path::Path;

use anyhow::Context;
use tracing::warn;

use crate::claim::ScriptBin;
use crate::config::Run;
use crate::ledger::Ledger;
use crate::name::shown;
use crate::outcome::RunResult;
use crate::record::{self, OutputDir, run_directories};
use crate::run::leftovers::end_group;
use crate::sys::cgroup::Cgroup;
use crate::sys::dir::Kind;

pub use plan::Action;

/// A claimed script that is to be run before any other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resumed {
    /// Its name.
    pub name: OsString,
    /// Which start this will be.
    pub attempt: u32,
}

/// What recovery works on.
pub struct Recovery<'a> {
    /// Where the scripts are.
    pub script_bin: &'a ScriptBin,
    /// Where the results are.
    pub output: &'a mut OutputDir,
    /// What was started.
    pub ledger: &'a mut Ledger,
    /// What the configuration says of interrupted scripts.
    pub run: &'a Run,
    /// This boot.
    pub boot_id: &'a str,
    /// Results that could not be recorded when an earlier session ended, each with the ledger that has its start mark.
    pub pending: &'a [(String, RunResult)],
    /// What was recorded on the way, also after an error: the next start does not record it again.
    pub results: &'a mut Vec<RunResult>,
    /// Hears of each action before it is done; its error ends recovery there, as a crash would.
    pub before: &'a mut dyn FnMut(&Action) -> anyhow::Result<()>,
}

impl Recovery<'_> {
    /// Does it. Returns what is to be run first, and whether a script that has its result could not be deleted.
    ///
    /// # Errors
    /// An image cannot be read or written. Nothing is lost; the next start begins anew.
    pub async fn recover(mut self) -> anyhow::Result<(Vec<Resumed>, bool)> {
        self.end_leftovers().await;
        self.file_kept()?;
        self.close_started()?;
        self.close_directories()?;
        self.act(Action::Sync)?;
        let mut undeleted = self.move_unmoved().await?;
        let (resumed, left) = self.sort_claims().await?;
        undeleted |= left;
        if self.script_bin.claims.is_some() {
            // First: a script may be among them that is owed a further attempt here.
            undeleted |= self.report_foreign()?;
            self.forgive_absent(&resumed)?;
        }
        // Only what is durably claimed may be resumed: its next start mark names it as a claim.
        let synced = self.script_bin.sync().context("syncing script-bin")?;
        if synced && resumed.is_empty() && !undeleted && self.script_bin.settles(self.ledger) {
            self.ledger
                .settle(&self.script_bin.medium.id)
                .context("writing the ledger")?;
        }
        self.act(Action::Sync)?;
        Ok((resumed, undeleted))
    }

    /// Ends the processes of runs that were going on when an earlier gvad of this boot died.
    async fn end_leftovers(&self) {
        let open = self.ledger.unfinished.iter();
        for start in open.filter(|start| start.boot_id == self.boot_id) {
            let Some(path) = &start.cgroup else { continue };
            // The image comes from elsewhere: what it names must be a group such as gvad makes.
            if !is_group_of_a_run(path.as_ref()) {
                warn!(
                    "run {} names {path:?} as its control group: left alone",
                    start.run_id
                );
                continue;
            }
            match Cgroup::find(path.as_ref()) {
                Ok(Some(group)) => end_group(group).await,
                Ok(None) => {}
                Err(err) => warn!(
                    "looking for what is left of run {}: {path}: {err}",
                    start.run_id
                ),
            }
        }
    }

    /// Results that the ledger kept become files, whatever of them has reached the disk.
    fn file_kept(&mut self) -> anyhow::Result<()> {
        let kept = self.ledger.kept.clone();
        let Some(last) = kept.iter().map(|kept| kept.run).max() else {
            return Ok(());
        };
        for kept in kept {
            self.act(Action::File(Box::new(kept)))?;
        }
        self.act(Action::Filed(last)).map(drop)
    }

    /// Every start mark without an end comes to one.
    fn close_started(&mut self) -> anyhow::Result<()> {
        let id = self.ledger.id().to_owned();
        for start in self.ledger.unfinished.clone() {
            let recorded = record::result_of(self.output.gvad(), OsStr::new(&start.run_id))
                .context("reading a result")?
                .is_some();
            let mut pending = self.pending.iter();
            let pending =
                pending.find(|(ledger, result)| *ledger == id && result.is_of(&start.run_id));
            let pending = pending.map(|(_, result)| result);
            if let Some(result) = pending.filter(|_| recorded) {
                self.tell(result); // it had become durable after all
            }
            for action in plan::close_started(&start, recorded, pending, self.run, self.boot_id) {
                self.act(action)?;
            }
        }
        Ok(())
    }

    /// Once, however often recovery is tried.
    fn tell(&mut self, result: &RunResult) {
        if !self.results.iter().any(|told| told.run_id == result.run_id) {
            self.results.push(result.clone());
        }
    }

    /// So does every run directory without a result.
    fn close_directories(&mut self) -> anyhow::Result<()> {
        let (settled, lost) = (self.ledger.settled(), self.ledger.lost());
        let directories =
            run_directories(self.output.gvad()).context("listing the run directories")?;
        for (run, run_id) in directories.into_iter().filter(|(run, _)| *run > settled) {
            let look = self.output.gvad().look(&run_id);
            if look.is_ok_and(|look| look.kind != Kind::Directory) {
                continue; // somebody else's, whatever its name
            }
            let result = record::result_of(self.output.gvad(), &run_id)
                .with_context(|| format!("reading the result of {}", shown(&run_id)))?;
            if result.is_some() {
                continue;
            }
            let close = plan::close_directory(&self.ledger.unsettled, lost, run, &run_id);
            if let Some(action) = close {
                self.act(action)?;
            }
        }
        Ok(())
    }
}

fn is_group_of_a_run(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.as_encoded_bytes().starts_with(b"gvad-")
}

#[cfg(test)]
mod tests;
