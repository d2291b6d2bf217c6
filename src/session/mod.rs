//! A session: the images are mounted, what an earlier gvad left is recovered, scripts are run as they come, the images are unmounted.

mod open;
mod pass;
pub mod turns;
mod untouched;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tracing::{debug, error, info, warn};

use open::Opening;
use pass::refusal;
use untouched::Untouched;

use crate::claim::Settling;
use crate::context::Context;
use crate::image::{Presence, Role};
use crate::job::Workplace;
use crate::layout::{self, Gathered, Layout};
use crate::outcome::RunResult;
use crate::owner;
use crate::queue::Queue;
use crate::recover::Resumed;
use crate::scan::Told;
use crate::status::{ImageStatus, State};
use crate::sys::code;
use crate::sys::dir::Dir;
use crate::sys::file;
use crate::sys::lock::Lock;
use crate::tick;
use crate::watch::Watcher;

/// The ledger forgets, and script-bin is synced, after so many runs at the latest.
const SETTLE_EVERY: u32 = 128;
/// A script that is being written is waited for so long before nothing is said to be left to do.
const UNFINISHED_PATIENCE: Duration = Duration::from_secs(10);

/// So long nothing must have happened before what was done is brought to rest.
const QUIET: Duration = Duration::from_millis(500);

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// gvad was asked to stop.
    Stopped,
    /// No script waits, and that is when gvad ends.
    Drained,
    /// Everything on the medium that had its turn is done.
    Released,
    /// An image was taken out, and which.
    Gone(String),
}

/// What outlives a session.
#[derive(Debug, Default)]
pub struct Carried {
    /// Results that could not be made durable, each to be recorded by the recovery of the next session with that ledger.
    pub pending: Vec<(String, RunResult)>,
    /// A session got as far as looking for scripts.
    pub worked: bool,
    /// The application's media.
    pub queue: Queue,
}

/// Runs one session.
///
/// # Errors
/// An image cannot be used, or failed. Everything that was mounted has been unmounted, as far as that was possible.
pub async fn run(ctx: &Context, carried: &mut Carried) -> anyhow::Result<Ended> {
    let mut layout = Layout::default();
    let ended = match layout.gather(ctx, &mut carried.queue).await {
        Ok(Gathered::All) => {
            let config = ctx.config();
            let wait = config.parameters.wait.0;
            ctx.parameters
                .look_for_ovf(&ctx.stop, &ctx.board, &config.run.temp_dir, wait)
                .await;
            work(ctx, &layout, carried).await
        }
        Ok(Gathered::Stopped) => Ok(Ended::Stopped),
        Ok(Gathered::Drained) => Ok(Ended::Drained),
        Ok(Gathered::Gone(which)) => gone(ctx, which),
        Err(err) => Err(err),
    };
    match &ended {
        Ok(Ended::Released | Ended::Gone(_)) => ctx.board.state(State::Releasing, None),
        Ok(Ended::Stopped | Ended::Drained) => ctx.board.state(State::Stopped, None),
        Err(err) => ctx.board.state(State::Retrying, Some(format!("{err:#}"))),
    }
    ctx.board.set_output(None);
    let images: Vec<_> = layout.images.iter().map(ImageStatus::of).collect();
    ctx.flush.end().await;
    let released = layout.release().await;
    ctx.board.update(|status| status.running = None);
    let reason = match (&ended, &released) {
        (Ok(Ended::Drained | Ended::Released), Ok(())) => None,
        (Ok(Ended::Gone(which)), Ok(())) => Some(format!("{which} was taken out")),
        (Ok(Ended::Stopped), Ok(())) => Some("gvad was asked to stop".to_owned()),
        (Err(err), _) | (Ok(_), Err(err)) => Some(format!("{err:#}")),
    };
    for image in images.iter().rev() {
        ctx.board.released(image, reason.as_deref());
    }
    if matches!((&ended, &released), (Ok(Ended::Released), Ok(()))) {
        carried.queue.turn_over();
    }
    match (ended, released) {
        (Ok(ended), released) => released.map(|()| ended),
        (Err(err), Ok(())) => Err(err),
        (Err(err), Err(more)) => Err(err.context(format!("{more:#}"))),
    }
}

/// What a session holds while it looks for scripts.
struct Session<'a> {
    ctx: &'a Context,
    root: Dir,
    /// The application image can be written, or could be when it was mounted.
    writable: bool,
    /// Nothing can come to the application image: gvad mounted it, read-only.
    unchanging: bool,
    /// And everything on it has been looked at.
    seen_all: bool,
    work: Workplace,
    first: VecDeque<Resumed>,
    settling: Settling,
    told: Told,
    watched: Option<(u64, Watcher)>,
    untouched: Untouched,
    since_settled: u32,
    unfinished_since: Option<Instant>,
    /// Something was done since the last rest.
    restless: bool,
    /// Roots of the images that gvad mounted and writes to.
    own_images: Vec<Dir>,
    /// No image but the application's holds the results.
    combined: bool,
    /// Other guests may write results to the same place.
    output_shared: bool,
    _locks: Vec<Lock>,
}

async fn work(ctx: &Context, layout: &Layout, carried: &mut Carried) -> anyhow::Result<Ended> {
    let presence = Presence::of(&layout.images);
    let combined = layout.image(Role::Output).is_none();
    loop {
        let mut waiting = 0;
        let (state, reason) = match open::open(ctx, layout, carried).await? {
            Opening::Ready(session) => return look_after(*session, carried).await,
            Opening::NoScriptBin(reason) if ctx.ends_when_drained() => {
                warn!("{reason}: there is no script to run");
                return Ok(over(&carried.queue));
            }
            Opening::Refused(reason) | Opening::Full(reason, _) if ctx.draining() => {
                bail!("nothing can be run: {reason}")
            }
            Opening::NoScriptBin(reason) | Opening::Refused(reason) => {
                (State::WaitingForApplication, reason)
            }
            Opening::Full(reason, scripts) => {
                waiting = scripts;
                (State::WaitingForOutput, reason)
            }
        };
        carried.worked = true;
        if let Some(which) = presence.missing().await {
            return gone(ctx, which);
        }
        let own = state == State::WaitingForApplication || combined;
        if own && others_wait(ctx, &mut carried.queue).await? {
            bail!("nothing on this medium can be run: {reason}");
        }
        ctx.board.waiting(waiting);
        ctx.board.state(state, Some(reason));
        let again = ctx.stop.sleep(ctx.config().watch.poll_interval.0).await;
        if !again {
            return Ok(Ended::Stopped);
        }
    }
}

async fn look_after(mut session: Session<'_>, carried: &mut Carried) -> anyhow::Result<Ended> {
    carried.worked = true;
    let ctx = session.ctx;
    let mut ended = session.until_the_end(&mut carried.queue).await;
    let Session {
        mut work,
        output_shared,
        ..
    } = session;
    work.tidy();
    let unrecorded = work.pending.is_some();
    carried.pending.extend(work.pending);
    if let Err(err) = &ended
        && let Some(which) = work.presence.missing().await
    {
        let err = format!("{err:#}");
        if unrecorded {
            error!(
                "{which} was taken out: {err}; the result is kept, and recorded when it is back"
            );
        } else {
            debug!("after {which} was taken out: {err}");
        }
        ended = gone(ctx, which);
    }
    if ended.is_ok() {
        let id = work.ledger.id().to_owned();
        work.script_bin.tidy(&id);
        let temp_dir = &ctx.config().run.temp_dir;
        if output_shared && let Err(err) = owner::let_go(work.output.gvad(), temp_dir) {
            warn!("{err:#}; another guest will write its results beside it");
        }
    }
    ended
}

/// An image was taken out while no script ran: for the daemon that is nothing special.
fn gone(ctx: &Context, which: String) -> anyhow::Result<Ended> {
    if ctx.draining() {
        bail!("{which} was taken out before everything was done");
    }
    info!("{which} was taken out");
    Ok(Ended::Gone(which))
}

/// What it means that no script waits.
fn over(queue: &Queue) -> Ended {
    if queue.turn.is_some() {
        Ended::Released
    } else {
        Ended::Drained
    }
}

/// Whether another medium waits for its turn.
async fn others_wait(ctx: &Context, queue: &mut Queue) -> anyhow::Result<bool> {
    if queue.turn.is_none() {
        return Ok(false);
    }
    let wanted = layout::wanted(ctx, Role::Application, &queue.probed);
    let pause = ctx.config().watch.poll_interval.0;
    queue.others_wait(&wanted, pause).await
}

impl Session<'_> {
    async fn until_the_end(&mut self, queue: &mut Queue) -> anyhow::Result<Ended> {
        let ctx = self.ctx;
        loop {
            if ctx.stop.wanted() {
                ctx.board.state(State::Stopping, None);
                self.settle()?;
                return Ok(Ended::Stopped);
            }
            if let Some(which) = self.work.presence.missing().await {
                return gone(ctx, which);
            }
            let pass = self.pass().await?;
            if let Some(reason) = pass.blocked {
                let own = pass.state == State::WaitingForApplication || self.combined;
                if ctx.draining() || (own && others_wait(ctx, queue).await?) {
                    bail!("nothing can be run: {reason}");
                }
                ctx.board.state(pass.state, Some(reason));
                ctx.stop.sleep(ctx.config().watch.poll_interval.0).await;
                continue;
            }
            if pass.ran || ctx.stop.wanted() {
                continue;
            }
            if pass.unfinished == 0 {
                self.unfinished_since = None;
            } else {
                self.unfinished_since.get_or_insert_with(Instant::now);
            }
            let patient = self
                .unfinished_since
                .is_some_and(|since| since.elapsed() < UNFINISHED_PATIENCE);
            let ends = ctx.ends_when_drained() || (queue.turn.is_some() && queue.several());
            if ends && !patient {
                self.settle()?;
                if pass.unfinished > 0 {
                    warn!(
                        "{} scripts are still being written; they are not waited for any longer",
                        pass.unfinished
                    );
                }
                if ctx.draining() && pass.troubled {
                    bail!("not every script could be run: see what was passed over");
                }
                return Ok(over(queue));
            }
            if others_wait(ctx, queue).await? {
                continue;
            }
            ctx.board.state(State::Idle, None);
            let quiet = !self.wait(pass.unfinished > 0).await;
            let rest = quiet && self.restless && !ctx.stop.wanted();
            if rest && self.work.presence.missing().await.is_none() {
                self.rest()?;
            }
        }
    }

    /// Waits for a hint that something is there, or for the time to look again. True if there was a hint.
    async fn wait(&mut self, soon: bool) -> bool {
        let config = self.ctx.config();
        let every = config.watch.poll_interval.0;
        let mut pause = every;
        if soon {
            pause = pause
                .min(config.watch.settle.0)
                .max(Duration::from_millis(10));
        }
        if self.restless {
            pause = pause.min(QUIET);
        }
        let time = async {
            match pause == every {
                true => {
                    // What looked about has little to do again until the next tick.
                    code::give_back();
                    tick::next(every).await;
                }
                false => tokio::time::sleep(pause).await,
            }
        };
        let hint = async {
            match &self.watched {
                Some((_, watcher)) => watcher.hint().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = hint => true,
            () = time => false,
            () = self.ctx.stop.asked() => false,
        }
    }

    /// Nothing has happened for a while: what was done is brought to its place on the disks, so that the images can be read from outside.
    fn rest(&mut self) -> anyhow::Result<()> {
        self.restless = false;
        self.settle()?;
        self.work.tidy();
        self.ctx.runner.remove_empty_groups();
        self.ctx.board.write();
        for image in &self.own_images {
            file::flush_journal(image).context("flushing the journal of an image")?;
        }
        Ok(())
    }

    /// Lets the ledger forget what is durably over.
    fn settle(&mut self) -> anyhow::Result<()> {
        self.since_settled = 0;
        self.work.settle(self.ctx)
    }
}

/// Says once what a session found; for a reader of the log.
pub fn announce(ctx: &Context) {
    let config = ctx.config();
    info!(
        application = config.application.source,
        data = config.data.source,
        output = config.output.source,
        "looking for images"
    );
}
