//! Recovery: what an earlier gvad left behind is brought to a result or made ready to run. The same every time, however often
//! it is cut short. ARCHITECTURE.md has the table that this file carries out.

mod claims;

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;

use anyhow::Context;
use tracing::warn;

use crate::claim::ScriptBin;
use crate::config::{OnInterrupted, Run};
use crate::ledger::Ledger;
use crate::ledger::line::Start;
use crate::name::{ScriptName, shown};
use crate::outcome::{Outcome, RunResult};
use crate::record::{self, OutputDir, run_directories};
use crate::run::leftovers::end_group;
use crate::sys::cgroup::Cgroup;
use crate::sys::dir::Kind;

/// A claimed script that is to be run before any other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resumed {
    /// Its name.
    pub name: OsString,
    /// Which start this will be.
    pub attempt: u32,
}

/// What recovery works on.
#[derive(Debug)]
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
}

const STARTED_AGAIN: &str =
    "gvad or the machine died while it may have been running; it is started again";
const LEDGER_LOST: &str = "the ledger was lost: it may have been running; it is not run again";

impl Recovery<'_> {
    /// Does it. Returns what is to be run first, and whether a script that has its result could not be deleted. The results that were recorded on
    /// the way are in `results`, also after an error: the next start does not record them again.
    ///
    /// # Errors
    /// An image cannot be read or written. Nothing is lost; the next start begins anew.
    pub async fn recover(
        mut self,
        results: &mut Vec<RunResult>,
    ) -> anyhow::Result<(Vec<Resumed>, bool)> {
        self.end_leftovers().await;
        self.close_started(results)?;
        self.close_directories(results)?;
        self.ledger.sync().context("syncing the ledger")?;
        let mut undeleted = self.move_unmoved().await?;
        let (resumed, left) = self.sort_claims().await?;
        undeleted |= left;
        if self.script_bin.claims.is_some() {
            self.forgive_absent(&resumed)?;
            undeleted |= self.report_foreign(results)?;
        }
        // Only what is durably claimed may be resumed: its next start mark names it as a claim.
        let synced = self.script_bin.sync().context("syncing script-bin")?;
        if synced && resumed.is_empty() && !undeleted && self.script_bin.settles(self.ledger) {
            self.ledger
                .settle(&self.script_bin.medium.id)
                .context("writing the ledger")?;
        }
        self.ledger.sync().context("syncing the ledger")?;
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

    /// Every start mark without an end comes to one.
    fn close_started(&mut self, results: &mut Vec<RunResult>) -> anyhow::Result<()> {
        for start in self.ledger.unfinished.clone() {
            let run_id = OsStr::new(&start.run_id);
            let again = if record::result_of(self.output.gvad(), run_id)
                .context("reading a result")?
                .is_some()
            {
                false
            } else if start.unstarted {
                self.remove_directory(run_id)?;
                true
            } else {
                self.interrupt(&start, results)?
            };
            self.ledger
                .end(start.run, again)
                .context("writing the ledger")?;
        }
        Ok(())
    }

    /// Records that a run was interrupted. True if its script is to be started again.
    fn interrupt(&mut self, start: &Start, results: &mut Vec<RunResult>) -> anyhow::Result<bool> {
        let id = self.ledger.id();
        let mut pending = self.pending.iter();
        let pending = pending
            .find(|(ledger, result)| ledger == id && result.is_of(&start.run_id))
            .map(|(_, result)| result.clone());
        let seen = pending.is_some();
        let again = !seen
            && self.run.on_interrupted == OnInterrupted::Rerun
            && start.attempt < self.run.max_attempts;
        let mut result = pending.unwrap_or_else(|| {
            let died = if start.boot_id == self.boot_id {
                "gvad died, or could not record a result,"
            } else {
                "the machine or gvad died"
            };
            let next = if again {
                format!(
                    "it is started again, attempt {} of {}",
                    start.attempt + 1,
                    self.run.max_attempts
                )
            } else {
                "it is not run again".to_owned()
            };
            let reason = format!("{died} while it may have been running; {next}");
            RunResult {
                sha256: Some(start.sha256.clone()),
                attempt: start.attempt,
                started_at: Some(start.started_at.clone()),
                boot_id: start.boot_id.clone(),
                ..RunResult::unseen(
                    start.run_id.clone(),
                    start.identity.name.clone(),
                    Outcome::Interrupted,
                    reason,
                )
            }
        });
        if again {
            // Said before the result is there: a crash between the two must not take the next attempt away.
            self.ledger
                .end(start.run, true)
                .context("writing the ledger")?;
            self.ledger.sync().context("syncing the ledger")?;
        }
        self.output
            .record_unseen(&mut result)
            .with_context(|| format!("recording {}", start.run_id))?;
        results.push(result);
        Ok(again)
    }

    /// Every run directory without a result is one whose script was not started, or one whose start mark was lost.
    fn close_directories(&mut self, results: &mut Vec<RunResult>) -> anyhow::Result<()> {
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
            let text = run_id.to_string_lossy().into_owned();
            let mut marked = self.ledger.unsettled.iter();
            match marked.find(|(start, _)| start.run_id == text && !start.unstarted) {
                // Its end was noted, so it was interrupted and is started again, but the result did not reach the disk.
                Some((_, true)) => self.record_lost(text, STARTED_AGAIN, results)?,
                // Its result stands elsewhere: the script had made this directory unusable.
                Some((_, false)) => {}
                None if run <= lost => self.record_lost(text, LEDGER_LOST, results)?,
                None => self.remove_directory(&run_id)?,
            }
        }
        Ok(())
    }

    fn record_lost(
        &mut self,
        run_id: String,
        reason: &str,
        results: &mut Vec<RunResult>,
    ) -> anyhow::Result<()> {
        let start = self
            .ledger
            .unsettled
            .iter()
            .map(|(start, _)| start)
            .find(|start| start.run_id == run_id);
        let script = run_id.split_once('-').map_or("", |(_, script)| script);
        let name = start.map_or_else(
            || ScriptName::of(OsStr::new(script)),
            |start| start.identity.name.clone(),
        );
        let mut result = RunResult {
            attempt: start.map_or(1, |start| start.attempt),
            sha256: start.map(|start| start.sha256.clone()),
            started_at: start.map(|start| start.started_at.clone()),
            boot_id: start.map_or_else(String::new, |start| start.boot_id.clone()),
            ..RunResult::unseen(
                run_id.clone(),
                name,
                Outcome::Interrupted,
                reason.to_owned(),
            )
        };
        self.output
            .record_unseen(&mut result)
            .with_context(|| format!("recording {run_id}"))?;
        results.push(result);
        Ok(())
    }

    fn remove_directory(&self, run_id: &OsStr) -> anyhow::Result<()> {
        match record::remove_unstarted(self.output.gvad(), run_id) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(err) if record::is_ruined(&err) => {
                warn!(
                    "{} belongs to no run that was started, and cannot be removed: {err}; it is left",
                    shown(run_id)
                );
                Ok(())
            }
            other => other
                .with_context(|| format!("removing the unused run directory {}", shown(run_id))),
        }
    }
}

fn is_group_of_a_run(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.as_encoded_bytes().starts_with(b"gvad-")
}
