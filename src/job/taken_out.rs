//! A script whose images may be taken out while it runs. It runs from a private copy, and goes on; but its result tells.

use tracing::error;

use super::Workplace;
use crate::context::Context;
use crate::outcome::RunResult;
use crate::progress;
use crate::run::Limits;
use crate::run::supervise::Running;
use crate::status::State;
use crate::sys::dir::Dir;

impl Workplace {
    /// Waits for the script's end, and looks meanwhile and then whether its images are still attached.
    pub(super) async fn see_through(
        &mut self,
        ctx: &Context,
        running: Running,
        limits: Limits,
        stage: &Dir,
        result: &mut RunResult,
    ) {
        let run_id = result.run_id.clone();
        let Workplace {
            presence,
            output,
            ledger,
            unfiled,
            ..
        } = self;
        let watch = async {
            let gone = loop {
                tokio::time::sleep(ctx.config().watch.poll_interval.0).await;
                if let Some(gone) = presence.missing().await {
                    break gone;
                }
            };
            let told = while_it_runs(&gone, &run_id);
            error!("{told}");
            ctx.board.state(State::Running, Some(told));
            std::future::pending().await
        };
        // The results before it are files soon, however long it runs.
        let file = async {
            if let Some(due) = unfiled.due() {
                tokio::time::sleep_until(due).await;
                unfiled.file(output, ledger);
            }
            std::future::pending().await
        };
        let ended = running.finish(limits, &ctx.stop, &ctx.cancel, result);
        tokio::select! {
            () = progress::follow(stage, &ctx.board, ended) => {}
            () = watch => {}
            () = file => {}
        }
        if let Some(gone) = self.presence.missing().await {
            ctx.board.error(&while_it_runs(&gone, &run_id));
            let told = format!("{gone} was taken out while it ran");
            error!(run = result.run_id, "{told}");
            result.add_reason(&told);
        }
    }
}

fn while_it_runs(gone: &str, run_id: &str) -> String {
    format!("{gone} was taken out while {run_id} runs")
}
