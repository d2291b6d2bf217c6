//! The process: one gvad a `temp_dir`, signals, sessions one after the other until it is told to end, and how it ends.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};
use tracing::{error, info, warn};

use crate::board::Board;
use crate::config::{self, Config, Leftovers, Overrides};
use crate::context::{Context, Mode};
use crate::flush::Flush;
use crate::parameters::{Parameters, credentials};
use crate::report::{self, desk::Desk};
use crate::run::Runner;
use crate::session::{self, Ended, turns};
use crate::shutdown::Shutdown;
use crate::status::State;
use crate::stop::{self, Cancel, Stopper};
use crate::surroundings::{can_be_made, limits};
use crate::sys::code;
use crate::sys::dir::Dir;
use crate::sys::lock::{Lock, Mode as LockMode, by_whom, lock_within};
use crate::sys::{file, process};
use crate::{control, poweroff, systemd};

/// So long the host has to hear what was told last.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// So long a killed gvad's locks may still be held by the child that it had just made.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Where the configuration comes from, to read it again.
#[derive(Debug, Clone)]
pub struct Origin {
    /// `--config`
    pub file: Option<PathBuf>,
    /// The other options.
    pub overrides: Overrides,
}

/// Works until it is told to end. True if every script succeeded.
///
/// # Errors
/// gvad itself cannot work.
pub fn run(origin: Origin, config: Config, mode: Mode) -> anyhow::Result<bool> {
    if !process::is_root() {
        bail!("gvad mounts images and runs scripts as root: start it as root");
    }
    process::usual_umask();
    process::ignore_sigio().context("ignoring SIGIO")?;
    // What read the command line and the configuration is not needed again.
    code::give_back();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let done = LocalSet::new().block_on(&runtime, async {
        let signals = Signals::listen()?;
        let temp_dir = TempDir::open(&config.run.temp_dir)?;
        let process = Process::new(origin, config, mode, &temp_dir)?;
        let stop = process.ctx.stop.clone();
        let ended = process.run(signals, temp_dir.dir).await;
        systemd::stopping();
        let (ended, drained) = ended;
        anyhow::Ok((ended, drained || stop.power_off_wanted()))
    });
    let (ended, powers_off) = done?;
    if powers_off {
        poweroff::power_off()?;
    }
    ended
}

/// The directory that makes this gvad the only one.
struct TempDir {
    dir: Dir,
    _lock: Lock,
}

impl TempDir {
    fn open(path: &Path) -> anyhow::Result<TempDir> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.with_context(|| format!("making run.temp_dir {}", path.display()))?;
        let dir =
            Dir::open(path).with_context(|| format!("opening run.temp_dir {}", path.display()))?;
        let room = file::room(&dir)?;
        if room.noexec {
            bail!(
                "run.temp_dir {} is on a file system mounted noexec, so no script could run there: name another",
                path.display()
            );
        }
        if room.read_only {
            bail!(
                "run.temp_dir {} is on a file system that cannot be written: name another",
                path.display()
            );
        }
        match lock_within(&dir, LockMode::Exclusive, LOCK_PATIENCE)
            .with_context(|| format!("locking {}", path.display()))?
        {
            Some(lock) => Ok(TempDir { dir, _lock: lock }),
            None => bail!(
                "another gvad{} is running with run.temp_dir {}: only one may at a time",
                by_whom(&dir),
                path.display()
            ),
        }
    }
}

/// The signals that mean something.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Signals> {
        let listen = || -> io::Result<Signals> {
            Ok(Signals {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
                hangup: signal(SignalKind::hangup())?,
            })
        };
        listen().context("listening for signals")
    }

    /// Answers signals for ever.
    async fn answer(mut self, stopper: Rc<Stopper>, reload: Reload, board: Board) {
        let stop_by = |signal| {
            info!(signal, "stopping");
            board.stopping();
            stopper.stop();
        };
        loop {
            tokio::select! {
                _ = self.terminate.recv() => stop_by("SIGTERM"),
                _ = self.interrupt.recv() => stop_by("SIGINT"),
                _ = self.hangup.recv() => reload.again(),
            }
        }
    }
}

/// Reads the configuration again.
struct Reload {
    origin: Origin,
    sender: watch::Sender<Rc<Config>>,
}

impl Reload {
    fn again(&self) {
        systemd::reloading();
        match config::load(self.origin.file.as_deref(), &self.origin.overrides) {
            Ok(mut new) => {
                let old = Rc::clone(&self.sender.borrow());
                let fixed = new.application != old.application
                    || new.data != old.data
                    || new.output != old.output
                    || new.run.temp_dir != old.run.temp_dir
                    || fixed_limits(&new) != fixed_limits(&old);
                if fixed {
                    warn!(
                        "changes to [application], [data], [output], run.temp_dir, run.memory_max, run.tasks_max, run.cpu_weight, run.protect_base and run.network take effect when gvad is started again"
                    );
                    (new.application, new.data) = (old.application.clone(), old.data.clone());
                    (new.output, new.run.temp_dir) = (old.output.clone(), old.run.temp_dir.clone());
                    (new.run.memory_max, new.run.tasks_max) =
                        (old.run.memory_max, old.run.tasks_max);
                    new.run.cpu_weight = old.run.cpu_weight;
                    (new.run.protect_base, new.run.network) =
                        (old.run.protect_base, old.run.network);
                }
                info!("the configuration was read again");
                self.sender.send_replace(Rc::new(new));
            }
            Err(err) => error!("the configuration stays as it was: {err:#}"),
        }
        systemd::ready();
    }
}

/// What was tried when gvad was started, and holds until it is started again.
fn fixed_limits(config: &Config) -> ([u64; 3], [bool; 2]) {
    let limits = limits(config);
    let run = &config.run;
    (
        [limits.memory, limits.tasks, limits.cpu_weight],
        [run.protect_base, run.network],
    )
}

struct Process {
    ctx: Context,
    stopper: Rc<Stopper>,
    reload: Reload,
    listener: Option<tokio::net::UnixListener>,
}

impl Process {
    fn new(
        origin: Origin,
        config: Config,
        mode: Mode,
        temp_dir: &TempDir,
    ) -> anyhow::Result<Process> {
        let boot_id = process::boot_id().context("reading the boot id")?;
        let runner =
            Runner::new(&temp_dir.dir, limits(&config)).context("preparing to run scripts")?;
        can_be_made(&config)?;
        let (sender, receiver) = watch::channel(Rc::new(config));
        let (stopper, stop) = stop::pair();
        // Without the socket only `gvad status` is missing.
        let listener = control::listen(&temp_dir.dir)
            .map_err(|err| warn!("making the control socket: {err}"))
            .ok();
        let board = Board::new(boot_id.clone());
        let parameters = Parameters::new(&credentials::directories(), &board);
        Ok(Process {
            ctx: Context {
                config: receiver,
                stop,
                cancel: Cancel::default(),
                flush: Flush::default(),
                board,
                mode,
                boot_id,
                shutdown: Shutdown::new(config::SYSTEMD_SOCKET.into()),
                parameters,
                runner,
            },
            stopper: Rc::new(stopper),
            reload: Reload { origin, sender },
            listener,
        })
    }

    /// Whether all scripts succeeded; and whether the machine is to be powered off, which nobody outside does for one that failed.
    async fn run(self, signals: Signals, temp_dir: Dir) -> (anyhow::Result<bool>, bool) {
        let Process {
            ctx,
            stopper,
            reload,
            listener,
        } = self;
        // Ended, and waited for, when this function returns.
        let mut helpers = JoinSet::new();
        let board = &ctx.board;
        let (config, outbox) = (ctx.config.clone(), board.outbox().clone());
        let desk = Desk::new(
            board.clone(),
            Rc::clone(&stopper),
            ctx.cancel.clone(),
            ctx.flush.clone(),
        );
        helpers.spawn_local(report::port::serve(config.clone(), outbox, desk));
        helpers.spawn_local(report::beat(config, board.clone()));
        helpers.spawn_local(board.clone().tell_problems());
        helpers.spawn_local(signals.answer(stopper, reload, board.clone()));
        helpers.spawn_local(board.clone().keep_written());
        helpers.spawn_local(systemd::feed_watchdog());
        if let Some(listener) = listener {
            helpers.spawn_local(control::serve(listener, ctx.board.clone()));
        }
        if ctx.config().run.leftovers == Leftovers::Kill {
            ctx.runner.end_stale().await;
        }
        systemd::ready();
        ctx.board.ready();
        session::announce(&ctx);
        let ended = turns::run(&ctx).await;
        match &ended {
            Ok(Ended::Drained) => ctx.board.drained(),
            Ok(_) => {}
            Err(err) => ctx.board.error(&format!("{err:#}")),
        }
        ctx.board.state(State::Stopped, None);
        ctx.board.outbox().flush(LAST_WORDS).await;
        helpers.shutdown().await;
        control::remove(&temp_dir);
        let over = match &ended {
            Ok(ended) => *ended == Ended::Drained,
            Err(_) => !ctx.stop.wanted(),
        };
        (verdict(&ctx, ended), over && ctx.powers_off())
    }
}

/// Whether all scripts succeeded.
fn verdict(ctx: &Context, ended: anyhow::Result<Ended>) -> anyhow::Result<bool> {
    let ended = ended?;
    let counts = ctx.board.read().counts;
    info!(
        succeeded = counts.succeeded,
        failed = counts.failed,
        "ended"
    );
    if ctx.draining() && ended == Ended::Stopped && counts.failed == 0 {
        bail!("stopped before every script had run");
    }
    Ok(counts.failed == 0)
}
