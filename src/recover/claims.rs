//! What recovery makes of the files in script-bin and among the claims, once every start mark has come to an end.

use std::ffi::OsStr;
use std::io;

use anyhow::Context;
use tracing::{info, warn};

use super::plan::{self, Bytes, Fate};
use super::{Action, Recovery, Resumed};
use crate::ledger::line::{Identity, Start};
use crate::name::shown;
use crate::outcome::timestamp;
use crate::stage;
use crate::sys::dir::{Dir, Kind, Look};

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
            if self.has_old_name(&name, &look) {
                undeleted |= !self.act(Action::DeleteScript(name.clone()))?;
            }
            let identity = Identity::of(&self.script_bin.medium, &name, &look);
            let marks = &self.ledger.unsettled;
            let bytes = if plan::is_in_question(marks, &identity) {
                read(claims, &name).await
            } else {
                Bytes::NotRead
            };
            match plan::close_claim(marks, &name, &identity, &bytes) {
                Fate::Resume(one) => resumed.push(one),
                Fate::Delete => undeleted |= !self.act(Action::DeleteClaim(name))?,
            }
        }
        Ok((resumed, undeleted))
    }

    /// Without a journal a claim may have reached the disk while its old name is still there too.
    fn has_old_name(&self, name: &OsStr, claim: &Look) -> bool {
        let there = self.script_bin.dir.look(name);
        self.script_bin.sync_claims
            && self.script_bin.medium.lasting_inodes
            && there.is_ok_and(|look| look.inode == claim.inode)
    }

    /// A claim whose rename did not reach the disk: the file stands under its old name, as it was before the claim. Also tells whether one
    /// could not be deleted.
    pub(super) async fn move_unmoved(&mut self) -> anyhow::Result<bool> {
        if self.script_bin.claims.is_none() || self.script_bin.sync_claims {
            return Ok(false); // a claim that was synced is on the disk
        }
        let mut undeleted = false;
        for mark in self.ledger.unsettled.clone() {
            let start = &mark.0;
            let Some(name) = start.identity.name.file_name().filter(|_| !start.in_place) else {
                continue;
            };
            let script_bin = &self.script_bin.dir;
            let look = match script_bin.look(&name) {
                Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
                other => other.with_context(|| format!("looking at {}", shown(&name)))?,
            };
            let there = Identity::of(&self.script_bin.medium, &name, &look);
            if !start.identity.same(&there) {
                continue;
            }
            let bytes = read(script_bin, &name).await;
            let Some(action) = plan::close_unmoved(&mark, &there, &bytes) else {
                continue;
            };
            info!(
                script = shown(&name),
                run = start.run_id,
                "was started already; its claim did not reach the disk"
            );
            undeleted |= !self.act(action)?;
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
                let (run, again) = (start.run, false);
                self.act(Action::End { run, again })?;
            }
        }
        Ok(())
    }

    /// Claims that were made for another ledger: its output image is not here, so nobody knows whether they were started.
    pub(super) fn report_foreign(&mut self) -> anyhow::Result<bool> {
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
                let now = timestamp(std::time::SystemTime::now());
                let run = (self.ledger.next_run(), self.boot_id, now);
                let marks = &self.ledger.unsettled;
                for action in plan::close_foreign(marks, &other, &name, identity, run) {
                    if matches!(action, Action::Mark(_)) {
                        warn!(
                            script = shown(&name),
                            ledger = shown(&other),
                            "was claimed by a gvad with another output image"
                        );
                    }
                    undeleted |= !self.act(action)?;
                }
            }
            dir.sync().context("syncing the claims of another ledger")?;
            // Something that is no claim may be left in it; then it stays.
            let _ = all.remove_dir(&other);
        }
        Ok(undeleted)
    }
}

async fn read(dir: &Dir, name: &OsStr) -> Bytes {
    let Ok(file) = dir.open_file(name) else {
        return Bytes::Unreadable;
    };
    let hash = stage::hash(&file).await;
    hash.map_or(Bytes::Unreadable, Bytes::Sha256)
}
