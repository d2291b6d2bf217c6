//! What recovery makes of the files in script-bin and among the claims, once every start mark has come to an end.

use std::ffi::OsStr;
use std::io;

use anyhow::Context;
use tracing::{info, warn};

use super::{Recovery, Resumed};
use crate::ledger::line::{Identity, Start, same_time};
use crate::name::{ScriptName, shown};
use crate::outcome::{Outcome, RunResult};
use crate::sys::dir::Kind;

impl Recovery<'_> {
    /// Claims that have come to a result are deleted; the others are resumed.
    pub(super) fn sort_claims(
        &mut self,
        results: &mut Vec<RunResult>,
    ) -> anyhow::Result<Vec<Resumed>> {
        let Some(claims) = &self.script_bin.claims else {
            return Ok(Vec::new());
        };
        let mut names = claims.names().context("listing the claims")?;
        names.sort_unstable();
        let mut resumed = Vec::new();
        for name in names {
            let look = claims
                .look(&name)
                .with_context(|| format!("looking at the claim {}", shown(&name)))?;
            let identity = Identity::of(&self.script_bin.medium, &name, &look);
            let last = self.ledger.unsettled.iter().rev().find(|(start, _)| {
                start.identity.name == identity.name && start.identity.inode == identity.inode
            });
            match last {
                None => resumed.push(Resumed { name, attempt: 1 }),
                Some((start, true)) => {
                    resumed.push(Resumed {
                        name,
                        attempt: start.attempt + u32::from(!start.unstarted),
                    });
                }
                Some((start, false)) => {
                    let fresh = identity.inode == 0 && !start.identity.same_file(&identity);
                    if fresh {
                        resumed.push(Resumed { name, attempt: 1 });
                        continue;
                    }
                    if !same_time(start.claimed, (look.ctime.secs, look.ctime.nanos)) {
                        self.report_ambiguous(&name, results)?;
                    }
                    self.script_bin
                        .delete(&name)
                        .with_context(|| format!("deleting the claim {}", shown(&name)))?;
                }
            }
        }
        Ok(resumed)
    }

    /// The file that was run stands there again, or still, with another ctime: a second hand-over of the same inode, or a trace of
    /// something else. It is not known, so it is not run.
    fn report_ambiguous(
        &mut self,
        name: &OsStr,
        results: &mut Vec<RunResult>,
    ) -> anyhow::Result<()> {
        let reason = "the same file was run before and then claimed again when gvad or the machine died: \
                      whether it was started again is not known; it is not run again";
        self.report(name, reason, results)
    }

    fn report(
        &mut self,
        name: &OsStr,
        reason: &str,
        results: &mut Vec<RunResult>,
    ) -> anyhow::Result<()> {
        let run = self.ledger.take_number();
        let run_id = crate::name::run_id(run, name);
        let mut result = RunResult {
            boot_id: self.boot_id.to_owned(),
            ..RunResult::unseen(
                run_id,
                ScriptName::of(name),
                Outcome::Interrupted,
                reason.to_owned(),
            )
        };
        self.output
            .record_unseen(&mut result)
            .with_context(|| format!("recording {}", result.run_id))?;
        results.push(result);
        Ok(())
    }

    /// A claim whose rename did not reach the disk: the file stands under its old name, as it was before the claim.
    pub(super) fn move_unmoved(&mut self) -> anyhow::Result<()> {
        let Some(claims) = &self.script_bin.claims else {
            return Ok(());
        };
        for (start, again) in self
            .ledger
            .unsettled
            .iter()
            .filter(|(start, _)| !start.in_place)
        {
            let Some(name) = start.identity.name.file_name() else {
                continue;
            };
            let look = match self.script_bin.dir.look(&name) {
                Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
                other => other.with_context(|| format!("looking at {}", shown(&name)))?,
            };
            if !start
                .identity
                .same(&Identity::of(&self.script_bin.medium, &name, &look))
            {
                continue;
            }
            info!(
                script = shown(&name),
                run = start.run_id,
                "was started already; its claim did not reach the disk"
            );
            self.script_bin
                .dir
                .rename(&name, claims, &name)
                .with_context(|| format!("claiming {}", shown(&name)))?;
            if !again {
                self.script_bin
                    .delete(&name)
                    .with_context(|| format!("deleting {}", shown(&name)))?;
            }
        }
        Ok(())
    }

    /// A further attempt that is owed to a script that is there no longer is owed no more.
    pub(super) fn forgive_absent(&mut self, resumed: &[Resumed]) -> anyhow::Result<()> {
        let owed: Vec<Start> = self
            .ledger
            .unsettled
            .iter()
            .filter(|(_, again)| *again)
            .map(|(start, _)| start.clone())
            .collect();
        for start in owed {
            let Some(name) = start.identity.name.file_name() else {
                continue;
            };
            let claimed = resumed.iter().any(|resumed| resumed.name == name);
            let lies = start.in_place
                && self.script_bin.dir.look(&name).is_ok_and(|look| {
                    start
                        .identity
                        .same(&Identity::of(&self.script_bin.medium, &name, &look))
                });
            if !claimed && !lies {
                self.ledger
                    .end(start.run, false)
                    .context("writing the ledger")?;
            }
        }
        Ok(())
    }

    /// Claims that were made for another ledger: its output image is not here, so nobody knows whether they were started.
    pub(super) fn report_foreign(&mut self, results: &mut Vec<RunResult>) -> anyhow::Result<()> {
        if self.script_bin.shared {
            return Ok(()); // another machine's, and alive for all we know
        }
        let Some(all) = self.script_bin.all_claims().context("opening the claims")? else {
            return Ok(());
        };
        let others = self
            .script_bin
            .other_ledgers(self.ledger.id())
            .context("listing the claims of other ledgers")?;
        for other in others {
            let dir = match all.open_dir(&other) {
                Ok(dir) => dir,
                Err(err) => {
                    warn!(
                        "looking at the claims in {}: {err}; they are left",
                        shown(&other)
                    );
                    continue;
                }
            };
            let mut names = dir
                .names()
                .context("listing the claims of another ledger")?;
            names.sort_unstable();
            for name in names {
                if dir.look(&name).is_ok_and(|look| look.kind != Kind::Regular) {
                    continue;
                }
                warn!(
                    script = shown(&name),
                    ledger = shown(&other),
                    "was claimed by a gvad with another output image"
                );
                let reason = "it was claimed by a gvad that wrote to another output image or lost its ledger: \
                              it may have been started; it is not run again";
                self.report(&name, reason, results)?;
                dir.remove_file(&name)
                    .with_context(|| format!("deleting the claim {}", shown(&name)))?;
            }
            // Something that is no claim may be left in it; then it stays.
            let _ = all.remove_dir(&other);
        }
        Ok(())
    }
}
