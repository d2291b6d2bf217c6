//! A job: one script from script-bin to its result, step by step. Each step's work is another file's; their order, and what
//! happens when one fails, is here.

mod carry_out;
mod commit;
mod ran_before;
mod recording;
mod taken_out;
mod verified;

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;

use anyhow::{Context as _, bail};
use tracing::warn;

use crate::claim::{Claiming, Opening, ScriptBin};
use crate::context::Context;
use crate::image::Presence;
use crate::ledger::Ledger;
use crate::manifest::Manifest;
use crate::name::shown;
use crate::outcome::RunResult;
use crate::record::{OutputDir, Prepared, is_full};
use crate::stage::{self, Spare};
use crate::status::State;
use crate::surroundings::Places;
use crate::sys::errno::EXDEV;
use commit::SMALL;
pub use commit::{Unfiled, Unsynced};

/// What jobs work with.
#[derive(Debug)]
pub struct Workplace {
    /// Where the scripts are.
    pub script_bin: ScriptBin,
    /// Where the results go.
    pub output: OutputDir,
    /// What was started.
    pub ledger: Ledger,
    /// Which scripts may be run; `None`: all.
    pub manifest: Option<Manifest>,
    /// What was refused and has been told: the script and the reason.
    pub refusals: HashSet<(OsString, String)>,
    /// What scripts are told.
    pub places: Places,
    /// A result that could not be made durable, and the ledger that has its start mark.
    pub pending: Option<(String, RunResult)>,
    /// A result that the next script's start mark makes durable.
    pub unsynced: Option<Unsynced>,
    /// Results that the ledger keeps until they are durable as files.
    pub unfiled: Unfiled,
    /// Whether the images are still attached.
    pub presence: Presence,
    /// Scripts on a medium that cannot be written whose bytes were seen in this session to be those that were run.
    pub verified: HashSet<String>,
    /// The application image could be written when the session began, and cannot any more.
    pub went_read_only: bool,
    /// A claim could not be deleted: the ledger must go on remembering it.
    pub undeleted: bool,
    /// For the next script.
    pub spare: Option<Spare>,
}

/// What became of a job.
#[derive(Debug)]
pub enum JobEnd {
    /// It has a result.
    Done,
    /// It is not whole yet.
    NotYet(&'static str),
    /// It cannot be taken, and why.
    PassedOver(String),
    /// It is not signed as it must be.
    Refused {
        /// Why.
        reason: String,
        /// What it lacks may be on its way.
        awaited: bool,
    },
    /// It is gone, or was run before.
    Nothing,
    /// The image is not what it was: look at all of it anew.
    Again,
    /// It could not be run or its result not be recorded now, so it was not touched: what is waited for, and why.
    Blocked(State, String),
}

impl Workplace {
    /// A script in script-bin. `more` wait behind it: then its result may be made durable with the next one's start mark, or by
    /// [`Workplace::conclude`], which must follow.
    ///
    /// # Errors
    /// An image fails; the session must end and recovery look at what there is.
    pub async fn take(
        &mut self,
        ctx: &Context,
        name: &OsStr,
        settling: &mut crate::claim::Settling,
        more: bool,
    ) -> anyhow::Result<JobEnd> {
        let end = self.take_it(ctx, name, settling, more).await;
        match end {
            Ok(JobEnd::Done) => end,
            // What is not started makes nothing durable, and nothing is to wait for it.
            other => self.concluded(ctx, other),
        }
    }

    async fn take_it(
        &mut self,
        ctx: &Context,
        name: &OsStr,
        settling: &mut crate::claim::Settling,
        more: bool,
    ) -> anyhow::Result<JobEnd> {
        let settle = ctx.config().watch.settle.0;
        let opened = match self.script_bin.look_into(name, settling, settle) {
            Ok(Opening::Ready(opened)) => opened,
            Ok(Opening::NotYet(reason)) => return Ok(JobEnd::NotYet(reason)),
            Ok(Opening::Gone) => return Ok(JobEnd::Nothing),
            Err(err) if err.raw_os_error() == Some(EXDEV) => {
                let reason = "something is mounted over it: unmount that";
                return Ok(JobEnd::PassedOver(reason.to_owned()));
            }
            Err(err) => return Ok(JobEnd::PassedOver(format!("opening it: {err}"))),
        };
        let waits = self.unsynced.as_ref();
        let in_the_way = waits.is_some_and(|before| before.is_named(name));
        if in_the_way || opened.identity.size > SMALL || self.unfiled.is_due() {
            self.conclude(ctx)?;
        }
        match self.ran_before(&opened).await {
            Ok(false) => {}
            Ok(true) => return Ok(JobEnd::Nothing),
            Err(err) => return Ok(JobEnd::PassedOver(format!("it was run already: {err}"))),
        }
        let refused = self.refused(ctx, name, &opened.file, &opened.identity);
        if let Some(refused) = refused.await {
            return Ok(refused);
        }
        let mut marks = self.ledger.unsettled.iter();
        if marks.any(|(start, _)| start.identity.same_file(&opened.identity)) {
            // The same file was run and is handed over again: the old mark must not be taken for one of the new claim.
            self.settle(ctx)?;
        }
        let attempt = self.ledger.next_attempt(&opened.identity);
        let prepared = match self.prepare(ctx, name, opened.identity.size)? {
            Ok(prepared) => prepared,
            Err(blocked) => return Ok(blocked),
        };
        let claiming = self.script_bin.claim(opened);
        let end = match claiming.with_context(|| format!("claiming {}", shown(name)))? {
            Claiming::Claimed(claim) => {
                return self.carry_out(ctx, claim, prepared, attempt, more).await;
            }
            Claiming::Lost => JobEnd::Nothing,
            Claiming::Refused(err) if err.kind() == io::ErrorKind::AlreadyExists => {
                JobEnd::PassedOver("an earlier script of this name could not be removed".to_owned())
            }
            Claiming::Refused(err) if err.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                // An error made it read-only under us (errors=remount-ro). What is on it can still be run where it lies.
                warn!("the application image cannot be written any more: {err}");
                self.went_read_only = true;
                JobEnd::Again
            }
            Claiming::Refused(err) => JobEnd::PassedOver(format!("claiming it: {err}")),
        };
        let discarded = self.output.discard(&prepared);
        discarded.context("removing an unused run directory")?;
        Ok(end)
    }

    /// A script that was claimed before, but not started.
    ///
    /// # Errors
    /// As [`Workplace::take`].
    pub async fn resume(
        &mut self,
        ctx: &Context,
        name: &OsStr,
        attempt: u32,
    ) -> anyhow::Result<JobEnd> {
        let claim = match self.script_bin.resume(name) {
            Ok(Some(claim)) => claim,
            Ok(None) => return Ok(JobEnd::Nothing),
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(JobEnd::Nothing),
            Err(err) => return Ok(JobEnd::PassedOver(format!("opening its claim: {err}"))),
        };
        match self.prepare(ctx, name, claim.identity.size)? {
            Ok(prepared) => self.carry_out(ctx, claim, prepared, attempt, false).await,
            Err(blocked) => Ok(blocked),
        }
    }

    /// Nothing is left in `run.temp_dir`.
    pub fn tidy(&mut self) {
        if let Some(spare) = self.spare.take() {
            spare.remove();
        }
    }

    /// Lets the ledger forget what is durably over.
    ///
    /// # Errors
    /// An image failed.
    pub fn settle(&mut self, ctx: &Context) -> anyhow::Result<()> {
        self.conclude(ctx)?;
        if self.undeleted || self.went_read_only || !self.script_bin.settles(&self.ledger) {
            return Ok(());
        }
        if !self.script_bin.sync().context("syncing script-bin")? {
            self.went_read_only = true;
            return Ok(());
        }
        self.ledger
            .settle(&self.script_bin.medium.id)
            .context("writing the ledger")?;
        self.ledger.sync().context("syncing the ledger")
    }

    /// Makes the run directory, if there is room for the run in temp_dir and on the output image; what blocks it, if not.
    fn prepare(
        &mut self,
        ctx: &Context,
        name: &OsStr,
        size: u64,
    ) -> anyhow::Result<Result<Prepared, JobEnd>> {
        if let Some(why) = ctx.shutdown.blocks() {
            return Ok(Err(JobEnd::Blocked(State::Stopping, why)));
        }
        if let Some(blocked) = stage::no_room(&ctx.config().run.temp_dir, size) {
            return Ok(Err(JobEnd::Blocked(State::WaitingForTempDir, blocked)));
        }
        if !self.ledger.in_place().context("looking at the ledger")? {
            bail!("the ledger on the output image was removed or replaced by somebody else");
        }
        let prepared = self
            .ledger
            .make_room()
            .and_then(|()| self.output.prepare(self.ledger.next_run(), name));
        match prepared {
            Ok(prepared) => Ok(Ok(prepared)),
            Err(err) if is_full(&err) => {
                let full = format!("the output image is full: {err}");
                Ok(Err(JobEnd::Blocked(State::WaitingForOutput, full)))
            }
            Err(err) => Err(err).context("preparing a run directory on the output image"),
        }
    }
}
