//! What recovery has decided is done, one action at a time.

use std::ffi::OsStr;
use std::io;

use anyhow::Context;
use tracing::warn;

use super::Recovery;
use super::plan::Action;
use crate::name::shown;
use crate::record;

impl Recovery<'_> {
    /// Does it. False if a script that has its result could not be deleted, which keeps nothing else from going on.
    pub(super) fn act(&mut self, action: Action) -> anyhow::Result<bool> {
        (self.before)(&action)?;
        match action {
            Action::End { run, again } => {
                self.ledger.end(run, again).context("writing the ledger")?;
            }
            Action::File(kept) => {
                let recorded = self.output.record_kept(&kept);
                recorded.with_context(|| format!("recording {}", kept.result.run_id))?;
                let here = self.ledger.id();
                let mut pending = self.pending.iter();
                // It was on its way to the ledger when an error ended the session.
                if pending.any(|(id, result)| id == here && kept.result.is_of(&result.run_id)) {
                    self.tell(&kept.result);
                }
            }
            Action::Filed(run) => self.ledger.filed(run).context("writing the ledger")?,
            Action::Sync => self.ledger.sync().context("syncing the ledger")?,
            Action::Mark(start) => self.ledger.start(*start).context("writing the ledger")?,
            Action::Record(mut result) => {
                let recorded = self.output.record_unseen(&mut result);
                recorded.with_context(|| format!("recording {}", result.run_id))?;
                self.results.push(*result);
            }
            Action::RemoveDirectory(run_id) => self.remove_directory(&run_id)?,
            Action::Claim(name) => {
                if let Some(claims) = &self.script_bin.claims {
                    let moved = self.script_bin.dir.rename_noreplace(&name, claims, &name);
                    moved.with_context(|| format!("claiming {}", shown(&name)))?;
                }
            }
            Action::DeleteScript(name) => {
                return Ok(deleted(&name, self.script_bin.dir.remove_protected(&name)));
            }
            Action::DeleteClaim(name) => {
                return Ok(deleted(&name, self.script_bin.delete(&name)));
            }
            Action::DeleteForeign(ledger, name) => {
                let all = self.script_bin.all_claims();
                let all = all.and_then(|all| all.ok_or(io::ErrorKind::NotFound.into()));
                let dir = all.and_then(|all| all.open_dir(&ledger));
                return Ok(deleted(
                    &name,
                    dir.and_then(|dir| dir.remove_protected(&name)),
                ));
            }
        }
        Ok(true)
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

fn deleted(name: &OsStr, answer: io::Result<()>) -> bool {
    if let Err(err) = &answer {
        warn!(
            script = shown(name),
            "deleting a script that has its result: {err}; the next start tries again"
        );
    }
    answer.is_ok()
}
