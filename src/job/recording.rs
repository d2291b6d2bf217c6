//! Writing the result of a job, however long that takes.

use anyhow::Context as _;
use tracing::warn;

use super::Workplace;
use crate::context::Context;
use crate::outcome::RunResult;
use crate::record::{Prepared, is_full};
use crate::status::State;

impl Workplace {
    /// Writes the result, and names it unless that is to wait (`named`), however long that takes: as long as the output image is full, it waits.
    pub(super) async fn write(
        &mut self,
        ctx: &Context,
        prepared: &mut Prepared,
        result: &mut RunResult,
        named: bool,
    ) -> anyhow::Result<()> {
        loop {
            let written = self
                .output
                .write(prepared, result)
                .and_then(|()| match named {
                    true => self.output.name(prepared, result),
                    false => Ok(()),
                });
            let err = match written {
                Ok(()) => {
                    self.pending = None;
                    return Ok(());
                }
                Err(err) => err,
            };
            self.pending = Some((self.ledger.id().to_owned(), result.clone()));
            let wait = is_full(&err) && !ctx.draining() && !ctx.stop.wanted();
            if !wait {
                return Err(err)
                    .with_context(|| format!("recording the result of {}", result.run_id));
            }
            warn!(
                run = result.run_id,
                "its result cannot be recorded: {err}; trying again"
            );
            ctx.board.state(
                State::WaitingForOutput,
                Some(format!("recording the result of {}: {err}", result.run_id)),
            );
            self.unfiled.file(&self.output, &mut self.ledger);
            ctx.stop.sleep(ctx.config().watch.poll_interval.0).await;
        }
    }
}
