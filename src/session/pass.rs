//! A pass: one look at script-bin, and a job for each script that is there.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use anyhow::Context as _;

use super::{SETTLE_EVERY, Session};
use crate::claim::{open_claims, open_script_bin};
use crate::job::JobEnd;
use crate::name::ScriptName;
use crate::scan::{Listing, scan};
use crate::status::{PassedOver, State};
use crate::sys::dir::Look;
use crate::sys::errno::{ELOOP, ENOTDIR, EXDEV};
use crate::sys::file;
use crate::watch::Watcher;

impl Session<'_> {
    /// Looks once and runs what is there.
    pub(super) async fn pass(&mut self) -> anyhow::Result<Pass> {
        let ctx = self.ctx;
        let mut pass = Pass::default();
        if self.unchanging && self.seen_all {
            return Ok(pass);
        }
        while let Some(resumed) = self.first.front().cloned() {
            if ctx.stop.wanted() {
                return Ok(pass);
            }
            let end = self
                .work
                .resume(ctx, &resumed.name, resumed.attempt)
                .await?;
            if !self.note(&mut pass, &resumed.name, end)? {
                return Ok(pass);
            }
            self.first.pop_front();
        }
        let listing = match self.look()? {
            Ok(listing) => listing,
            Err(blocked) => {
                (pass.blocked, pass.state) = (Some(blocked), State::WaitingForApplication);
                return Ok(pass);
            }
        };
        self.settling.keep(&listing.scripts);
        pass.passed_over = listing
            .passed_over
            .into_iter()
            .map(|(name, reason)| (name, reason.to_owned()))
            .collect();
        let total = listing.scripts.len();
        for (index, name) in listing.scripts.iter().enumerate() {
            if ctx.stop.wanted() {
                break;
            }
            ctx.board.waiting(total - index - 1);
            let end = self.work.take(ctx, name, &mut self.settling).await?;
            if !self.note(&mut pass, name, end)? {
                break;
            }
        }
        self.told.tell(
            pass.passed_over
                .iter()
                .map(|(name, reason)| (name.as_os_str(), reason.as_str())),
        );
        let shown: Vec<PassedOver> = pass
            .passed_over
            .iter()
            .map(|(name, reason)| {
                let ScriptName { script, script_hex } = ScriptName::of(name);
                let reason = reason.clone();
                PassedOver {
                    name: script,
                    name_hex: script_hex,
                    reason,
                }
            })
            .collect();
        let waiting = if pass.blocked.is_some() {
            total.saturating_sub(pass.done)
        } else {
            pass.unfinished
        };
        ctx.board.listing(waiting, &shown);
        self.seen_all =
            !pass.ran && !pass.troubled && pass.unfinished == 0 && pass.blocked.is_none();
        Ok(pass)
    }

    /// Notes what became of a job. False if no further one can be run now.
    fn note(&mut self, pass: &mut Pass, name: &OsString, end: JobEnd) -> anyhow::Result<bool> {
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
                pass.passed_over.push((name.clone(), reason.to_owned()));
            }
            JobEnd::PassedOver(reason) => {
                pass.troubled = true;
                pass.passed_over.push((name.clone(), reason));
            }
            JobEnd::Nothing => {}
            JobEnd::Blocked(reason) => {
                (pass.blocked, pass.state) = (Some(reason), State::WaitingForOutput);
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Opens script-bin anew, since a script may have replaced it, and lists it.
    fn look(&mut self) -> anyhow::Result<Result<Listing, String>> {
        let config = self.ctx.config();
        let script_bin = &config.application.script_bin;
        let writable = self.writable && !file::room(&self.root)?.read_only;
        let opened = open_script_bin(&self.root, script_bin, writable).and_then(|dir| {
            let claims = open_claims(&dir, self.work.ledger.id(), writable)?;
            Ok((dir, claims))
        });
        let (dir, claims) = match opened {
            Ok(opened) => opened,
            Err(err) => return Ok(Err(refusal(&err, script_bin))),
        };
        let inode = Look::at(&dir)?.inode;
        if self
            .watched
            .as_ref()
            .is_none_or(|(watched, _)| *watched != inode)
        {
            let path = self.work.places.application.join(script_bin);
            self.watched = Some((inode, Watcher::new(&path)));
        }
        (self.work.script_bin.dir, self.work.script_bin.claims) = (dir, claims);
        Ok(Ok(scan(&self.work.script_bin.dir).with_context(|| {
            format!("listing {}", script_bin.display())
        })?))
    }
}

/// Why script-bin is not used.
pub(super) fn refusal(err: &io::Error, script_bin: &Path) -> String {
    let shown = script_bin.display();
    match err.raw_os_error() {
        Some(ELOOP) => {
            format!("{shown} is or lies behind a symbolic link, which gvad does not follow")
        }
        Some(EXDEV) => format!("something is mounted over {shown}"),
        Some(ENOTDIR) => format!("{shown} is not a directory"),
        _ => format!("opening {shown}, and the claims in it: {err}"),
    }
}

/// What one look came to.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) ran: bool,
    done: usize,
    /// Something could not be taken that perhaps can later.
    troubled: bool,
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
