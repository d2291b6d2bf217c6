//! What is durable when: the start mark before the start, the result before the claim is deleted. Where one commit of the output image's journal
//! carries everything, the result of one script and the start mark of the next share one.

use anyhow::Context as _;
use tracing::error;

use super::Workplace;
use crate::context::Context;
use crate::ledger::line::Start;
use crate::name::shown;
use crate::outcome::RunResult;
use crate::record::Prepared;

/// A larger script keeps no result waiting, in bytes: copying it takes its time.
pub(super) const SMALL: u64 = 1 << 20;

/// A run whose result is written, but not yet durable. Its claim is there still.
#[derive(Debug)]
pub struct Unsynced {
    start: Start,
    prepared: Prepared,
    result: RunResult,
}

impl Unsynced {
    /// Whether it is of a script with this name, whose claim is in the way of the next one's.
    pub(super) fn is_named(&self, name: &std::ffi::OsStr) -> bool {
        self.start.identity.name.file_name().as_deref() == Some(name)
    }
}

impl Workplace {
    /// Makes the start mark durable, and with it the result of the run before, if that waits for it. `more` scripts wait behind this one.
    pub(super) fn mark(
        &mut self,
        ctx: &Context,
        start: &mut Start,
        prepared: &mut Prepared,
        more: bool,
    ) -> anyhow::Result<()> {
        let (output, ledger) = (&self.output, &mut self.ledger);
        let mut tried = false;
        let mut commit = |prepared: &Prepared| {
            tried = true;
            output.commit(prepared)
        };
        let marked = match &self.unsynced {
            Some(before) => {
                start.after = Some(before.start.run);
                ledger.start_by(start.clone(), || commit(&before.prepared))
            }
            // Only if its run directory is on the disk can it be told later whether its result was: by a commit, not by a sync of the ledger alone.
            None if more && output.one_commit() => {
                ledger.start_by(start.clone(), || commit(prepared))
            }
            None => {
                let marked = ledger.start(start.clone());
                return marked.context("making the start mark durable");
            }
        };
        // A sync is never tried again; but what failed may have been the mark alone.
        let before = self.unsynced.take_if(|_| tried);
        if let Err(err) = marked {
            self.pending = before.map(|before| (self.ledger.id().to_owned(), before.result));
            return Err(err).context("making the start mark durable");
        }
        prepared.durable = true;
        before.map_or(Ok(()), |before| self.close(ctx, before))
    }

    /// Writes the result, and makes it durable unless the next script's start mark will do that.
    pub(super) async fn record(
        &mut self,
        ctx: &Context,
        start: Start,
        mut prepared: Prepared,
        mut result: RunResult,
        shared: bool,
    ) -> anyhow::Result<()> {
        self.write(ctx, &mut prepared, &mut result).await?;
        // One that was written elsewhere, since its directory was ruined, is nobody's proof.
        let shared = shared && prepared.durable && result.is_of(&start.run_id);
        self.unsynced = Some(Unsynced {
            start,
            prepared,
            result,
        });
        if shared { Ok(()) } else { self.conclude(ctx) }
    }

    /// Makes the result that waits for it durable, and deletes its claim.
    ///
    /// # Errors
    /// An image failed. The result is kept in memory then.
    pub fn conclude(&mut self, ctx: &Context) -> anyhow::Result<()> {
        let Some(unsynced) = self.unsynced.take() else {
            return Ok(());
        };
        if let Err(err) = self.output.commit(&unsynced.prepared) {
            let run_id = unsynced.result.run_id.clone();
            self.pending = Some((self.ledger.id().to_owned(), unsynced.result));
            return Err(err).with_context(|| format!("recording the result of {run_id}"));
        }
        self.close(ctx, unsynced)
    }

    /// Concludes, whatever came of something else: `end` comes first.
    ///
    /// # Errors
    /// That of `end`, or as [`Workplace::conclude`].
    pub fn concluded<T>(&mut self, ctx: &Context, end: anyhow::Result<T>) -> anyhow::Result<T> {
        match (end, self.conclude(ctx)) {
            (Err(err), Err(more)) => Err(err.context(format!("{more:#}"))),
            (Err(err), Ok(())) | (Ok(_), Err(err)) => Err(err),
            (Ok(end), Ok(())) => Ok(end),
        }
    }

    /// The result is durable: the script may go.
    fn close(&mut self, ctx: &Context, run: Unsynced) -> anyhow::Result<()> {
        let ended = self.ledger.end(run.start.run, false);
        ended.context("writing the ledger")?;
        let name = run.start.identity.name.file_name().unwrap_or_default();
        if let Err(err) = self.script_bin.delete(&name) {
            self.undeleted = true;
            error!(
                script = shown(&name),
                "removing the claim of a script that has its result: {err}; the next start tries again"
            );
        }
        run.result.log();
        ctx.board.finished(&run.result);
        Ok(())
    }
}
