//! A session: the images are mounted, what an earlier gvad left is recovered, scripts are run as they come, the images are unmounted.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tracing::{info, warn};

use crate::claim::{ScriptBin, Settling};
use crate::config::WhenDrained;
use crate::context::{Context, Mode};
use crate::image::Role;
use crate::job::{Workplace, tell};
use crate::layout::Layout;
use crate::ledger::Ledger;
use crate::outcome::RunResult;
use crate::record::{OutputDir, last_directory};
use crate::recover::{Recovery, Resumed};
use crate::run::Runner;
use crate::scan::Told;
use crate::stage;
use crate::status::State;
use crate::sys::dir::Dir;
use crate::sys::lock::{Lock, Mode as LockMode, try_lock};
use crate::watch::Watcher;

/// The ledger forgets, and script-bin is synced, after so many runs at the latest.
pub(crate) const SETTLE_EVERY: u32 = 256;
/// A script that is being written is waited for so long before nothing is said to be left to do.
const UNFINISHED_PATIENCE: Duration = Duration::from_secs(10);

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// gvad was asked to stop.
    Stopped,
    /// No script waits, and that is when gvad ends.
    Drained,
}

/// What outlives a session.
#[derive(Debug, Default)]
pub struct Carried {
    /// A result that could not be made durable, to be recorded by the next session's recovery.
    pub pending: Option<RunResult>,
    /// A session got as far as looking for scripts.
    pub worked: bool,
}

/// Runs one session.
///
/// # Errors
/// An image cannot be used, or failed. Everything that was mounted has been unmounted, as far as that was possible.
pub async fn run(ctx: &Context, carried: &mut Carried) -> anyhow::Result<Ended> {
    let mut layout = Layout::default();
    let ended = match layout.gather(ctx).await {
        Ok(true) => work(ctx, &layout, carried).await,
        Ok(false) => Ok(Ended::Stopped),
        Err(err) => Err(err),
    };
    match &ended {
        Ok(_) => ctx.board.state(State::Stopped, None),
        Err(err) => ctx.board.state(State::Starting, Some(format!("{err:#}"))),
    }
    ctx.board.set_output(None);
    let released = layout.release().await;
    ctx.board.update(|status| {
        status.images.clear();
        status.running = None;
    });
    match (ended, released) {
        (Ok(ended), released) => released.map(|()| ended),
        (Err(err), Ok(())) => Err(err),
        (Err(err), Err(more)) => Err(err.context(format!("{more:#}"))),
    }
}

/// What a session holds while it looks for scripts.
pub(crate) struct Session<'a> {
    pub(crate) ctx: &'a Context,
    pub(crate) root: Dir,
    pub(crate) work: Workplace,
    pub(crate) first: VecDeque<Resumed>,
    pub(crate) settling: Settling,
    pub(crate) told: Told,
    pub(crate) watched: Option<(u64, Watcher)>,
    pub(crate) since_settled: u32,
    unfinished_since: Option<Instant>,
    _locks: Vec<Lock>,
}

async fn work(ctx: &Context, layout: &Layout, carried: &mut Carried) -> anyhow::Result<Ended> {
    let mut session = Session::open(ctx, layout, carried).await?;
    carried.worked = true;
    let ended = session.until_the_end().await;
    let Session { work, .. } = session;
    carried.pending = work.pending;
    if ended.is_ok() {
        let id = work.ledger.id().to_owned();
        work.script_bin.tidy(&id);
    }
    ended
}

impl<'a> Session<'a> {
    async fn open(
        ctx: &'a Context,
        layout: &Layout,
        carried: &mut Carried,
    ) -> anyhow::Result<Session<'a>> {
        let config = ctx.config();
        let Some(application) = layout.image(Role::Application) else {
            bail!("no application image")
        };
        let root = Dir::open(&application.path).context("opening the application image")?;
        let mut locks = Vec::new();
        if !application.shared() {
            locks.push(lock(
                &root,
                &format!("the application image {}", application.source),
            )?);
        }
        let places = layout.places(&config.run.temp_dir)?;
        let output = Dir::open(&places.output)
            .and_then(OutputDir::open)
            .context("opening the output directory")?;
        locks.push(lock(
            output.gvad(),
            &format!("the output directory {}", places.output.display()),
        )?);
        let gvad = output.gvad().try_clone()?;
        let last = last_directory(&output).context("listing the run directories")?;
        let opened = Ledger::open(gvad, last)?;
        if let Some(aside) = &opened.set_aside {
            warn!("the ledger on the output image is damaged; it is kept as {aside}");
        }
        let ledger_lost = opened.set_aside.is_some() || (last > 0 && opened.fresh);
        let mut ledger = opened.ledger;
        let id = ledger.id().to_owned();
        let (dir, claims) = ScriptBin::open(
            &root,
            &config.application.script_bin,
            &id,
            !application.read_only,
        )?;
        let script_bin = ScriptBin {
            dir,
            claims,
            medium: application.medium.clone(),
            sync_claims: !application.orders_renames(),
            shared: application.shared(),
        };
        let recovery = Recovery {
            script_bin: &script_bin,
            output: &output,
            ledger: &mut ledger,
            ledger_lost,
            run: &config.run,
            boot_id: &ctx.boot_id,
            pending: carried.pending.clone(),
        };
        let (resumed, results) = recovery
            .recover()
            .await
            .context("recovering what an earlier gvad left")?;
        carried.pending = None;
        stage::remove_stale(&config.run.temp_dir).context("removing old private directories")?;
        for result in &results {
            tell(result);
            ctx.board.finished(result);
        }
        ctx.board.set_output(Some(output.gvad().try_clone()?));
        let runner = Runner::new().context("preparing to run scripts")?;
        let work = Workplace {
            script_bin,
            output,
            ledger,
            places,
            runner,
            pending: None,
            undeleted: false,
        };
        Ok(Session {
            ctx,
            root,
            work,
            first: resumed.into(),
            settling: Settling::default(),
            told: Told::default(),
            watched: None,
            since_settled: 0,
            unfinished_since: None,
            _locks: locks,
        })
    }

    async fn until_the_end(&mut self) -> anyhow::Result<Ended> {
        let ctx = self.ctx;
        loop {
            if ctx.stop.wanted() {
                ctx.board.state(State::Stopping, None);
                self.settle()?;
                return Ok(Ended::Stopped);
            }
            let pass = self.pass().await?;
            if let Some(reason) = pass.blocked {
                if ctx.draining() {
                    bail!("nothing can be run: {reason}");
                }
                ctx.board.state(pass.state, Some(reason));
                ctx.stop.sleep(ctx.config().watch.poll_interval.0).await;
                continue;
            }
            if pass.ran || ctx.stop.wanted() {
                continue;
            }
            self.settle()?;
            if pass.unfinished == 0 {
                self.unfinished_since = None;
            } else {
                self.unfinished_since.get_or_insert_with(Instant::now);
            }
            let patient = self
                .unfinished_since
                .is_some_and(|since| since.elapsed() < UNFINISHED_PATIENCE);
            if self.ends_when_drained() && !patient {
                return Ok(Ended::Drained);
            }
            ctx.board.state(State::Idle, None);
            self.wait(pass.unfinished > 0).await;
        }
    }

    fn ends_when_drained(&self) -> bool {
        match self.ctx.mode {
            Mode::Drain => true,
            Mode::Daemon => match self.ctx.config().lifecycle.when_drained {
                WhenDrained::Wait => false,
                WhenDrained::Exit | WhenDrained::Poweroff => true,
            },
        }
    }

    /// Waits for a hint that something is there, or for the time to look again.
    async fn wait(&mut self, soon: bool) {
        let config = self.ctx.config();
        let mut pause = config.watch.poll_interval.0;
        if soon {
            pause = pause
                .min(config.watch.settle.0)
                .max(Duration::from_millis(10));
        }
        match &self.watched {
            Some((_, watcher)) => tokio::select! {
                () = watcher.hint(pause) => {}
                () = self.ctx.stop.asked() => {}
            },
            None => {
                self.ctx.stop.sleep(pause).await;
            }
        }
    }

    /// Lets the ledger forget what is durably over.
    pub(crate) fn settle(&mut self) -> anyhow::Result<()> {
        self.since_settled = 0;
        if self.work.undeleted {
            return Ok(());
        }
        self.work.script_bin.sync().context("syncing script-bin")?;
        self.work.ledger.settle().context("writing the ledger")?;
        self.work.ledger.sync().context("syncing the ledger")
    }
}

fn lock(dir: &Dir, what: &str) -> anyhow::Result<Lock> {
    match try_lock(dir, LockMode::Exclusive).with_context(|| format!("locking {what}"))? {
        Some(lock) => Ok(lock),
        None => bail!("another gvad works on {what}: only one may at a time"),
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
