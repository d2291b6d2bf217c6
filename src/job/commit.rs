//! What is durable when: the start mark before the start, the result before the claim is deleted. Where one commit of the output image's journal
//! carries everything, and while further scripts wait, a result is durable as a line of the ledger first, by the sync of the next start mark; its
//! files follow, those of many runs by one commit.

use std::io;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::Instant;
use tracing::error;

use super::Workplace;
use crate::context::Context;
use crate::ledger::Ledger;
use crate::ledger::fits;
use crate::ledger::kept::Kept;
use crate::ledger::line::Start;
use crate::name::shown;
use crate::outcome::RunResult;
use crate::record::{OutputDir, Prepared};

/// A larger script keeps no result waiting, in bytes: copying it takes its time.
pub(super) const SMALL: u64 = 1 << 20;
/// The ledger keeps no more results than this.
const MOST: usize = 32;
/// And none for longer.
const LONGEST: Duration = Duration::from_millis(100);

/// A run whose result is written, but not yet durable. Its claim is there still.
#[derive(Debug)]
pub struct Unsynced {
    start: Start,
    prepared: Prepared,
    result: RunResult,
    /// For the ledger, where that is to make it durable. Then it has yet to be named.
    kept: Option<Kept>,
}

impl Unsynced {
    /// Whether it is of a script with this name, whose claim is in the way of the next one's.
    pub(super) fn is_named(&self, name: &std::ffi::OsStr) -> bool {
        self.start.identity.name.file_name().as_deref() == Some(name)
    }

    /// Names the result, if that has been left until now. Returns it as the ledger is to keep it.
    fn name(&mut self, output: &mut OutputDir) -> io::Result<Option<Kept>> {
        let Some(mut kept) = self.kept.take() else {
            return Ok(None);
        };
        output.name(&mut self.prepared, &mut self.result)?;
        // Where its directory had been ruined it says so now.
        kept.result.clone_from(&self.result);
        Ok(Some(kept))
    }
}

/// Runs whose results are durable in the ledger, and not yet as files.
#[derive(Debug, Default)]
pub struct Unfiled {
    /// The last of them: its commit is one of all.
    last: Option<(u64, Prepared)>,
    count: usize,
    since: Option<Instant>,
    /// Why they could not be made durable while a script ran.
    failed: Option<anyhow::Error>,
}

impl Unfiled {
    fn add(&mut self, run: u64, prepared: Prepared) {
        self.last = Some((run, prepared));
        self.count += 1;
        self.since.get_or_insert_with(Instant::now);
    }

    /// When they are to be durable as files at the latest.
    pub(super) fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + LONGEST)
    }

    pub(super) fn is_due(&self) -> bool {
        self.due().is_some_and(|due| due <= Instant::now())
    }

    /// Makes them durable as files. What fails is kept for [`Workplace::record`]: a script runs now.
    pub(super) fn file(&mut self, output: &OutputDir, ledger: &mut Ledger) {
        let Some((run, last)) = self.last.take() else {
            return;
        };
        *self = Unfiled::default();
        let filed = output.commit(&last).and_then(|()| ledger.filed(run));
        self.failed = filed.context("recording results").err();
    }
}

impl Workplace {
    /// Makes the start mark durable, and with it the result of the run before, if that waits for it.
    pub(super) fn mark(&mut self, ctx: &Context, start: &Start) -> anyhow::Result<()> {
        let marked = self.keep().and_then(|()| {
            let marked = self.ledger.start(start.clone());
            marked.context("making the start mark durable")
        });
        let before = self.unsynced.take();
        if let Err(err) = marked {
            self.pending = before.map(|before| (self.ledger.id().to_owned(), before.result));
            // Nothing more is written to the ledger: that would bring to the disk what a failed sync has left off. Recovery makes files of what it keeps.
            self.unfiled = Unfiled::default();
            return Err(err);
        }
        let Some(before) = before else {
            return Ok(());
        };
        let run = before.start.run;
        let prepared = self.close(ctx, before);
        self.unfiled.add(run, prepared);
        Ok(())
    }

    /// Names the result that waits, and notes it in the ledger.
    fn keep(&mut self) -> anyhow::Result<()> {
        let Some(unsynced) = &mut self.unsynced else {
            return Ok(());
        };
        let named = unsynced.name(&mut self.output);
        let noted = named.and_then(|kept| kept.map_or(Ok(()), |kept| self.ledger.keep(kept)));
        noted.with_context(|| format!("recording the result of {}", unsynced.result.run_id))
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
        if let Some(err) = self.unfiled.failed.take() {
            self.pending = Some((self.ledger.id().to_owned(), result));
            return Err(err);
        }
        let shared = shared
            && self.output.one_commit()
            && self.unfiled.count < MOST
            && !self.unfiled.is_due();
        let kept = match shared {
            true => prepared.keep(start.run, &result).unwrap_or_default(),
            false => None,
        };
        let kept = kept.filter(fits);
        let shared = kept.is_some();
        self.write(ctx, &mut prepared, &mut result, !shared).await?;
        self.unsynced = Some(Unsynced {
            start,
            prepared,
            result,
            kept,
        });
        if shared { Ok(()) } else { self.conclude(ctx) }
    }

    /// Makes all results durable as files, and deletes the claim of the one that waits for that.
    ///
    /// # Errors
    /// An image failed. The result that waited is kept in memory then.
    pub fn conclude(&mut self, ctx: &Context) -> anyhow::Result<()> {
        let Some(mut unsynced) = self.unsynced.take() else {
            self.unfiled.file(&self.output, &mut self.ledger);
            return self.unfiled.failed.take().map_or(Ok(()), Err);
        };
        let others = std::mem::take(&mut self.unfiled).count > 0;
        let named = unsynced.name(&mut self.output);
        if let Err(err) = named.and_then(|_| self.output.commit(&unsynced.prepared)) {
            let run_id = unsynced.result.run_id.clone();
            self.pending = Some((self.ledger.id().to_owned(), unsynced.result));
            return Err(err).with_context(|| format!("recording the result of {run_id}"));
        }
        let run = unsynced.start.run;
        let noted = self.ledger.end(run, false);
        let noted = noted.and_then(|()| match others {
            true => self.ledger.filed(run),
            false => Ok(()),
        });
        noted.context("writing the ledger")?;
        self.close(ctx, unsynced);
        Ok(())
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
    fn close(&mut self, ctx: &Context, run: Unsynced) -> Prepared {
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
        run.prepared
    }
}
