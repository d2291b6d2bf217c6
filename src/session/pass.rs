//! A pass: one look at script-bin, and a job for each script that is there.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;

use anyhow::Context as _;
use tracing::warn;

use super::{SETTLE_EVERY, Session};
use crate::claim::{CLAIMS, open_claims, open_script_bin};
use crate::job::JobEnd;
use crate::name::ScriptName;
use crate::scan::{Listing, scan};
use crate::status::{PassedOver, State};
use crate::sys::dir::Look;
use crate::sys::errno::{ELOOP, ENOTDIR, EXDEV};
use crate::sys::{file, mount};
use crate::watch::Watcher;

/// So many scripts are worked off without watching for more.
const MANY: usize = 16;

impl Session<'_> {
    /// Looks once and runs what is there.
    pub(super) async fn pass(&mut self) -> anyhow::Result<Pass> {
        let pass = self.pass_over_all().await;
        self.work.concluded(self.ctx, pass)
    }

    async fn pass_over_all(&mut self) -> anyhow::Result<Pass> {
        let ctx = self.ctx;
        let mut pass = Pass::default();
        if self.unchanging && self.seen_all {
            return Ok(pass);
        }
        if !self.resume_claims(&mut pass).await? {
            return Ok(pass);
        }
        let path = &ctx.config().application.script_bin;
        // While nobody watches, nothing is sure.
        if self.watched.is_some() && self.untouched.is_sure(&self.root, path) {
            return Ok(pass);
        }
        let listing = match self.look()? {
            Ok(listing) => listing,
            Err(blocked) => {
                (pass.blocked, pass.state) = (Some(blocked), State::WaitingForApplication);
                return Ok(pass);
            }
        };
        self.settling.keep(&listing.scripts);
        let passed_over = listing.passed_over.into_iter();
        pass.passed_over
            .extend(passed_over.map(|(name, reason)| (name, reason.to_owned())));
        if let Some(manifest) = &mut self.work.manifest {
            manifest.begin(&listing.scripts);
        }
        let total = listing.scripts.len();
        self.show(&pass, total);
        for (index, name) in listing.scripts.iter().enumerate() {
            if ctx.stop.wanted() {
                break;
            }
            // What is read of a disc that was changed is still the old one's: nothing is run from it any more.
            let just_seen = index == 0 || self.work.presence.just_seen();
            if !just_seen && self.work.presence.missing().await.is_some() {
                return Ok(Pass { ran: true, ..pass });
            }
            ctx.board.waiting(total - index - 1);
            // Asking a drive takes time, for which no result is to wait.
            let more = index + 1 < total && self.work.presence.is_quick();
            let end = self.work.take(ctx, name, &mut self.settling, more);
            let end = end.await?;
            if !self.note(&mut pass, name, end)? {
                break;
            }
            if pass.ran && total - index > MANY {
                // A listing behind them is sure to come, and each claim would wake the watcher.
                self.watched = None;
            }
        }
        let waiting = match pass.blocked {
            Some(_) => total.saturating_sub(pass.done),
            None => pass.unfinished,
        };
        self.show(&pass, waiting);
        self.seen_all =
            !pass.ran && !pass.troubled && pass.unfinished == 0 && pass.blocked.is_none();
        Ok(pass)
    }

    /// Runs what was claimed before, but not started. False if no further script can be run now.
    async fn resume_claims(&mut self, pass: &mut Pass) -> anyhow::Result<bool> {
        let ctx = self.ctx;
        while let Some(resumed) = self.first.front().cloned() {
            if ctx.stop.wanted() {
                return Ok(false);
            }
            if self.work.presence.missing().await.is_some() {
                pass.ran = true; // so that this is no end
                return Ok(false);
            }
            let end = self.work.resume(ctx, &resumed.name, resumed.attempt);
            let end = end.await?;
            if !self.note(pass, &resumed.name, end)? {
                return Ok(false);
            }
            self.first.pop_front();
        }
        Ok(true)
    }

    /// Tells what is not run, and how many scripts wait.
    fn show(&mut self, pass: &Pass, waiting: usize) {
        let passed_over = pass.passed_over.iter();
        self.told
            .tell(passed_over.map(|(name, reason)| (name.as_os_str(), reason.as_str())));
        let listed = pass.passed_over.iter().map(|(name, reason)| {
            let ScriptName { script, script_hex } = ScriptName::of(name);
            PassedOver {
                name: script,
                name_hex: script_hex,
                reason: reason.clone(),
            }
        });
        self.ctx.board.listing(waiting, &listed.collect::<Vec<_>>());
    }

    /// Notes what became of a job. False if no further one can be run now.
    fn note(&mut self, pass: &mut Pass, name: &OsStr, end: JobEnd) -> anyhow::Result<bool> {
        match end {
            JobEnd::Done => {
                pass.ran = true;
                self.restless = true;
                pass.done += 1;
                self.since_settled += 1;
                if self.since_settled >= SETTLE_EVERY {
                    self.settle()?;
                }
            }
            JobEnd::NotYet(reason) => {
                pass.unfinished += 1;
                pass.passed_over.push((name.to_owned(), reason.to_owned()));
            }
            JobEnd::PassedOver(reason) => {
                pass.troubled = true;
                pass.passed_over.push((name.to_owned(), reason));
            }
            JobEnd::Refused { reason, awaited } => {
                pass.troubled = true;
                pass.unfinished += usize::from(awaited);
                pass.passed_over.push((name.to_owned(), reason));
            }
            JobEnd::Nothing => {}
            JobEnd::Again => {
                pass.ran = true;
                return Ok(false);
            }
            JobEnd::Blocked(state, reason) => {
                (pass.blocked, pass.state) = (Some(reason), state);
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Opens script-bin anew, since a script may have replaced it, and lists it.
    fn look(&mut self) -> anyhow::Result<Result<Listing, String>> {
        let config = self.ctx.config();
        let script_bin = &config.application.script_bin;
        let writable =
            self.writable && !self.work.went_read_only && !file::room(&self.root)?.read_only;
        let opened = open_script_bin(&self.root, script_bin, writable)
            .map_err(|err| (err, script_bin.clone()))
            .and_then(|dir| {
                let claims = open_claims(&dir, self.work.ledger.id(), writable)
                    .map_err(|err| (err, script_bin.join(CLAIMS)))?;
                Ok((dir, claims))
            });
        let (dir, claims) = match opened {
            Ok(opened) => opened,
            Err((err, at)) => {
                if err.raw_os_error() == Some(EXDEV) && !self.own_images.is_empty() {
                    let path = self.work.places.application.join(script_bin);
                    warn!(
                        "something is mounted over {}: unmounting it",
                        path.display()
                    );
                    mount::unmount_below(&path).context("unmounting what hides script-bin")?;
                }
                return Ok(Err(refusal(&err, &at)));
            }
        };
        let before = Look::at(&dir)?;
        let inode = before.inode;
        if self
            .watched
            .as_ref()
            .is_none_or(|(watched, _)| *watched != inode)
        {
            let path = self.work.places.application.join(script_bin);
            self.watched = Some((inode, Watcher::new(&path)));
        }
        (self.work.script_bin.dir, self.work.script_bin.claims) = (dir, claims);
        let listing = scan(&self.work.script_bin.dir)
            .with_context(|| format!("listing {}", script_bin.display()))?;
        self.untouched.listed(&before, &listing);
        Ok(Ok(listing))
    }
}

/// Why script-bin, or the directory for claims in it, is not used.
pub(super) fn refusal(err: &io::Error, script_bin: &Path) -> String {
    let shown = script_bin.display();
    match err.raw_os_error() {
        Some(ELOOP) => {
            format!("{shown} is or lies behind a symbolic link, which gvad does not follow")
        }
        Some(EXDEV) => format!("something is mounted over {shown}"),
        Some(ENOTDIR) => format!("{shown} is not a directory"),
        _ => format!("opening {shown}: {err}"),
    }
}

/// What one look came to.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) ran: bool,
    done: usize,
    /// Something could not be taken that perhaps can later.
    pub(super) troubled: bool,
    pub(super) unfinished: usize,
    pub(super) blocked: Option<String>,
    pub(super) state: State,
    passed_over: Vec<(OsString, String)>,
}

impl Default for Pass {
    fn default() -> Pass {
        Pass {
            ran: false,
            done: 0,
            troubled: false,
            unfinished: 0,
            blocked: None,
            state: State::Idle,
            passed_over: Vec::new(),
        }
    }
}
