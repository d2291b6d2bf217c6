//! What recovery makes of the files in script-bin and among the claims, once every start mark has come to an end.

use std::ffi::OsStr;
use std::io;

use anyhow::Context;
use tracing::{info, warn};

use super::{Recovery, Resumed};
use crate::ledger::line::{Identity, Start};
use crate::name::{ScriptName, run_id, shown};
use crate::outcome::{Outcome, RunResult, timestamp};
use crate::stage;
use crate::sys::dir::{Dir, Kind, Look};

/// Why a script that was claimed for another ledger is not run.
const FOREIGN: &str = "it was claimed by a gvad that wrote to another output image or lost its ledger: \
                       it may have been started; it is not run again";

impl Recovery<'_> {
    /// Claims that have come to a result are deleted; the others are resumed. Also tells whether one could not be deleted.
    pub(super) async fn sort_claims(&mut self) -> anyhow::Result<(Vec<Resumed>, bool)> {
        let Some(claims) = &self.script_bin.claims else {
            return Ok((Vec::new(), false));
        };
        let mut names = claims.names().context("listing the claims")?;
        names.sort_unstable();
        let (mut resumed, mut undeleted) = (Vec::new(), false);
        for name in names {
            let look = claims
                .look(&name)
                .with_context(|| format!("looking at the claim {}", shown(&name)))?;
            if look.kind != Kind::Regular {
                warn!(
                    name = shown(&name),
                    "stands among the claims and is none: it is left"
                );
                continue;
            }
            undeleted |= !self.remove_old_name(&name, &look);
            let identity = Identity::of(&self.script_bin.medium, &name, &look);
            let mut starts = self.ledger.unsettled.iter().rev();
            let last = starts.find(|(start, _)| start.identity.same_file(&identity));
            match last {
                Some((start, true)) => {
                    let attempt = start.attempt + u32::from(!start.unstarted);
                    resumed.push(Resumed { name, attempt });
                }
                // One that can be told from every other file is the one that was started, whatever was written to it since.
                Some((start, false))
                    if start.identity.is_unmistakable()
                        || same_bytes(claims, &name, start).await =>
                {
                    undeleted |= !self.delete(&name);
                }
                Some((_, false)) | None => resumed.push(Resumed { name, attempt: 1 }),
            }
        }
        Ok((resumed, undeleted))
    }

    /// Without a journal a claim may have reached the disk while its old name is still there too. False if that could not be removed.
    fn remove_old_name(&self, name: &OsStr, claim: &Look) -> bool {
        let dir = &self.script_bin.dir;
        let both = self.script_bin.sync_claims
            && self.script_bin.medium.lasting_inodes
            && dir.look(name).is_ok_and(|look| look.inode == claim.inode);
        !both || dir.remove_protected(name).is_ok()
    }

    /// Deletes a claim that has its result. One that cannot be deleted keeps nothing else from going on.
    fn delete(&self, name: &OsStr) -> bool {
        let deleted = self.script_bin.delete(name);
        if let Err(err) = &deleted {
            warn!(
                script = shown(name),
                "deleting a script that has its result: {err}; the next start tries again"
            );
        }
        deleted.is_ok()
    }

    /// Records that nobody knows whether a claimed script was started. With a start mark of its own, so that it is recorded once, however often
    /// recovery is cut short.
    fn report(
        &mut self,
        name: &OsStr,
        identity: Identity,
        reason: &str,
        results: &mut Vec<RunResult>,
    ) -> anyhow::Result<()> {
        let run = self.ledger.next_run();
        let start = Start {
            run,
            run_id: run_id(run, name),
            identity,
            sha256: String::new(),
            attempt: 1,
            boot_id: self.boot_id.to_owned(),
            started_at: timestamp(std::time::SystemTime::now()),
            cgroup: None,
            in_place: false,
            unstarted: false,
        };
        let mut result = RunResult {
            boot_id: self.boot_id.to_owned(),
            ..RunResult::unseen(
                start.run_id.clone(),
                ScriptName::of(name),
                Outcome::Interrupted,
                reason.to_owned(),
            )
        };
        self.ledger.start(start).context("writing the ledger")?;
        self.output
            .record_unseen(&mut result)
            .with_context(|| format!("recording {}", result.run_id))?;
        self.ledger.end(run, false).context("writing the ledger")?;
        self.ledger.sync().context("syncing the ledger")?;
        results.push(result);
        Ok(())
    }

    /// A claim whose rename did not reach the disk: the file stands under its old name, as it was before the claim. Also tells whether one
    /// could not be deleted.
    pub(super) async fn move_unmoved(&mut self) -> anyhow::Result<bool> {
        let Some(claims) = self
            .script_bin
            .claims
            .as_ref()
            .filter(|_| !self.script_bin.sync_claims)
        else {
            return Ok(false); // a claim that was synced is on the disk
        };
        let mut undeleted = false;
        for (start, again) in &self.ledger.unsettled {
            let Some(name) = start.identity.name.file_name().filter(|_| !start.in_place) else {
                continue;
            };
            let script_bin = &self.script_bin.dir;
            let look = match script_bin.look(&name) {
                Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
                other => other.with_context(|| format!("looking at {}", shown(&name)))?,
            };
            let identity = Identity::of(&self.script_bin.medium, &name, &look);
            if !start.identity.same(&identity) || !same_bytes(script_bin, &name, start).await {
                continue;
            }
            info!(
                script = shown(&name),
                run = start.run_id,
                "was started already; its claim did not reach the disk"
            );
            if *again {
                let moved = script_bin.rename_noreplace(&name, claims, &name);
                moved.with_context(|| format!("claiming {}", shown(&name)))?;
            } else if let Err(err) = script_bin.remove_protected(&name) {
                warn!(
                    script = shown(&name),
                    "deleting a script that has its result: {err}"
                );
                undeleted = true;
            }
        }
        Ok(undeleted)
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
            let here = start.identity.same_medium(&self.script_bin.medium.id);
            let Some(name) = start.identity.name.file_name().filter(|_| here) else {
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
    pub(super) fn report_foreign(&mut self, results: &mut Vec<RunResult>) -> anyhow::Result<bool> {
        if self.script_bin.shared {
            return Ok(false); // another machine's, and alive for all we know
        }
        let Some(all) = self.script_bin.all_claims().context("opening the claims")? else {
            return Ok(false);
        };
        let others = self
            .script_bin
            .other_ledgers(self.ledger.id())
            .context("listing the claims of other ledgers")?;
        let mut undeleted = false;
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
                let look = dir
                    .look(&name)
                    .with_context(|| format!("looking at the claim {}", shown(&name)))?;
                if look.kind != Kind::Regular {
                    continue;
                }
                let identity = Identity::of(&self.script_bin.medium, &name, &look);
                let mut starts = self.ledger.unsettled.iter();
                if !starts.any(|(start, _)| start.identity.same_file(&identity)) {
                    warn!(
                        script = shown(&name),
                        ledger = shown(&other),
                        "was claimed by a gvad with another output image"
                    );
                    self.report(&name, identity, FOREIGN, results)?;
                }
                if let Err(err) = dir.remove_protected(&name) {
                    warn!(
                        script = shown(&name),
                        "deleting a claim of another ledger: {err}"
                    );
                    undeleted = true;
                }
            }
            dir.sync().context("syncing the claims of another ledger")?;
            // Something that is no claim may be left in it; then it stays.
            let _ = all.remove_dir(&other);
        }
        Ok(undeleted)
    }
}

/// Whether the file has the bytes that were run. One whose bytes are not known, or that cannot be read, counts as the same: what may have been
/// started is not started again.
async fn same_bytes(dir: &Dir, name: &OsStr, start: &Start) -> bool {
    let Ok(file) = dir.open_file(name) else {
        return true;
    };
    let hash = stage::hash(&file).await;
    start.sha256.is_empty() || hash.map_or(true, |hash| hash == start.sha256)
}
