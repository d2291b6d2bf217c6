//! One session after the other: an image that fails ends a session, not the daemon; and a medium that is done makes way for the next.

use std::time::{Duration, Instant};

use tracing::error;

use super::{Carried, Ended};
use crate::context::Context;
use crate::image::Role;
use crate::layout;
use crate::queue;
use crate::status::State;

/// After a session that failed, the next is tried so soon; the pauses double.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// And no later than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// When gvad is to end at last, a medium that could not be used is tried again so often while no other waits; then it does not keep gvad any longer.
const MOST_TRIES: u32 = 3;

/// Runs sessions until gvad is to end.
///
/// # Errors
/// gvad cannot work, or `gvad drain` could not run everything.
pub async fn run(ctx: &Context) -> anyhow::Result<Ended> {
    let mut carried = Carried::default();
    let ended = until_the_end(ctx, &mut carried).await;
    for pending in &carried.pending {
        error!(run = pending.1.run_id, outcome = %pending.1.outcome, "its result could not be recorded: the output image that knows of it did not come back");
    }
    ended
}

async fn until_the_end(ctx: &Context, carried: &mut Carried) -> anyhow::Result<Ended> {
    let (mut pause, mut tried, mut failures) = (FIRST_PAUSE, false, 0);
    loop {
        let begun = Instant::now();
        let err = match super::run(ctx, carried).await {
            Ok(Ended::Released | Ended::Gone(_)) => continue,
            Ok(Ended::Drained) => return carried.queue.verdict().map(|()| Ended::Drained),
            Ok(Ended::Stopped) => return Ok(Ended::Stopped),
            Err(err) => err,
        };
        // A drain tries once more only to record what it knows already.
        let owed = !carried.pending.is_empty() && !std::mem::replace(&mut tried, true);
        let hopeless = ctx.draining() && !owed;
        failures += 1;
        // Nothing has ever worked. Whoever starts gvad again tries again; but no machine is started again that powers itself off.
        let never = !carried.worked && (!ctx.powers_off() || failures >= MOST_TRIES);
        if ctx.stop.wanted() {
            return Err(err);
        }
        if carried.queue.turn.is_some() {
            after_failed_turn(ctx, carried, err, begun.elapsed(), hopeless, never).await?;
            continue;
        }
        if never || hopeless {
            return Err(err);
        }
        if begun.elapsed() > LONGEST_PAUSE {
            pause = FIRST_PAUSE;
        }
        queue::tell(&format!("{err:#}"), false, pause);
        ctx.board.state(State::Retrying, Some(format!("{err:#}")));
        if !ctx.stop.sleep(pause).await {
            return Ok(Ended::Stopped);
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// A medium could not be used, or failed: the others have their turn first.
async fn after_failed_turn(
    ctx: &Context,
    carried: &mut Carried,
    err: anyhow::Error,
    worked: Duration,
    hopeless: bool,
    never: bool,
) -> anyhow::Result<()> {
    let queue = &mut carried.queue;
    let wanted = layout::wanted(ctx, Role::Application, &queue.probed);
    let others = queue
        .others_wait(&wanted, Duration::ZERO)
        .await
        .unwrap_or(false);
    let alone = !others && queue.failed.is_empty();
    let Some(which) = queue.turn.take() else {
        return Err(err);
    };
    if alone && (hopeless || never) {
        return Err(err);
    }
    let problem = format!("{err:#}");
    let tired = !others
        && queue.several()
        && ctx.ends_when_drained()
        && !ctx.draining()
        && queue.tries(&which) >= MOST_TRIES;
    if hopeless || tired {
        error!("{problem}; it is not tried again");
        queue.give_up(which, problem);
        return Ok(());
    }
    ctx.board.state(State::Retrying, Some(problem.clone()));
    let pause = queue.put_behind(which, problem.clone(), worked);
    queue::tell(&problem, others, pause);
    Ok(())
}
