//! Stays with a machine from its start to its end: takes in what it does, and answers signals and limits of time.

use std::fs::File;
use std::future::poll_fn;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::task::Poll;
use std::time::Duration;

use anyhow::Context;
use gvad::units::Span;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, Interval, interval};

use super::follow::Follow;
use super::qemu::{Did, Qemu};
use super::show::Show;
use crate::cli::RunArgs;
use crate::qmp::Event;
use crate::scratch;
use crate::serve::desk::{Asked, Desk};
use crate::serve::media::Media;
use crate::serve::{Request, socket};

/// A guest that was told to stop ends its script and unmounts; what is not done then is not waited for.
const GRACE: Duration = Duration::from_secs(90);
/// Where KVM is but tried, gvad must report within this. On a sound host it takes a tenth of it.
const TRIAL: Duration = Duration::from_secs(30);
/// How often limits of time are looked at, and the progress line is drawn.
const TICK: Duration = Duration::from_millis(200);
/// So much of the console is shown when the appliance failed.
const CONSOLE_LINES: usize = 20;

/// What the caller wants, and how it makes itself heard.
#[derive(Debug)]
pub(crate) struct Wishes {
    timeout: Option<Span>,
    boot_timeout: Duration,
    desk: Option<Desk>,
    console: Option<File>,
    signals: Vec<Signal>,
}

impl Wishes {
    /// From the command line. From here on signals are ours.
    pub(crate) async fn new(args: &RunArgs, console: Option<File>) -> anyhow::Result<Wishes> {
        let signals = scratch::ending();
        let signals = { signals.iter() }.map(|wanted| signal(SignalKind::from_raw(wanted as i32)));
        let desk = match &args.serve {
            Some(path) => Some(Desk::open(&socket(path.as_deref())?).await?),
            None => None,
        };
        Ok(Wishes {
            timeout: args.timeout,
            boot_timeout: args.machine.boot_timeout.0,
            desk,
            console,
            signals: { signals }
                .collect::<Result<_, _>>()
                .context("listening for signals")?,
        })
    }

    /// Where clients find us, if they do.
    pub(crate) fn socket(&self) -> Option<String> {
        let desk = self.desk.as_ref()?;
        Some(desk.path().display().to_string())
    }

    /// What a person or, where they are `served`, a client wants next. May be dropped while it waits, nothing is lost.
    async fn next(&mut self, served: bool) -> Wish {
        let asked = async {
            match &mut self.desk {
                Some(desk) if served => desk.next().await,
                Some(_) | None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = signalled(&mut self.signals) => Wish::Stop,
            asked = asked => Wish::Media(asked),
        }
    }

    /// Somebody wants an end.
    pub(crate) async fn stop(&mut self) {
        signalled(&mut self.signals).await;
    }
}

async fn signalled(signals: &mut [Signal]) {
    poll_fn(|context| {
        let came = |signal: &mut Signal| signal.poll_recv(context).is_ready();
        // Each must be asked, to wake us.
        let count = signals.iter_mut().map(came).filter(|came| *came).count();
        if count > 0 {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

/// What a person or a client wants.
#[derive(Debug)]
enum Wish {
    Stop,
    Media(Asked),
}

/// Why the machine was told to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// `--timeout`, as it was given.
    TimedOut(String),
    /// Ctrl-C and the like.
    Signal,
    /// The same, where that is the way to end.
    Served,
    /// gvad did not report.
    NoReady(Duration),
}

/// The last that was seen of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Last {
    /// The guest powered off.
    PoweredOff,
    /// The guest reset the machine.
    Reset,
    /// QEMU ended without being told to; how.
    Died(String),
}

/// A machine that has ended.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) follow: Follow,
    pub(crate) last: Last,
    pub(crate) stopped: Option<Stopped>,
    pub(crate) killed: bool,
    /// The machine never worked, and there is another way to try; why.
    pub(crate) lifeless: Option<String>,
    /// The last lines of the console.
    pub(crate) console: Vec<String>,
    /// What the guest's kernel said when it gave up.
    pub(crate) panic: Option<String>,
}

/// A machine, attended.
#[derive(Debug)]
pub(crate) struct Attempt<'a> {
    qemu: Qemu,
    wishes: &'a mut Wishes,
    show: &'a mut Show,
    follow: Follow,
    media: Media,
    /// There is another way if this one does not work.
    trial: bool,
    started: Instant,
    stopped: Option<(Stopped, Instant)>,
    killed: bool,
    lifeless: Option<String>,
    /// As QEMU told it.
    shutdown: Option<String>,
}

impl<'a> Attempt<'a> {
    /// Of a machine that was started.
    pub(crate) fn new(
        mut qemu: Qemu,
        wishes: &'a mut Wishes,
        show: &'a mut Show,
        trial: bool,
    ) -> Attempt<'a> {
        qemu.write_console_to(wishes.console.take());
        Attempt {
            qemu,
            wishes,
            show,
            follow: Follow::default(),
            media: Media::new(),
            trial,
            started: Instant::now(),
            stopped: None,
            killed: false,
            lifeless: None,
            shutdown: None,
        }
    }

    /// To its end.
    pub(crate) async fn attend(mut self) -> anyhow::Result<End> {
        let mut ticks: Interval = interval(TICK);
        let status = loop {
            // A trial may end, and with it all that was attached.
            let served = !self.trial || self.follow.boot_id.is_some();
            tokio::select! {
                did = self.qemu.next(!self.show.is_held_up()) => match did? {
                    Did::Said(line) => self.said(&line).await,
                    Did::Printed => {}
                    Did::Event(event) => self.event(&event).await?,
                    Did::Ended(status) => break status,
                },
                wish = self.wishes.next(served) => match wish {
                    Wish::Stop => self.signalled().await?,
                    Wish::Media((Request::Submit { image }, client)) => {
                        self.media.submit(&mut self.qemu.qmp, &image, client).await;
                    }
                    Wish::Media((Request::Eject { id }, client)) => {
                        self.media.eject(&mut self.qemu.qmp, &id, client).await;
                    }
                },
                _ = ticks.tick() => self.tick().await?,
            }
        };
        self.end(status).await
    }

    async fn end(mut self, status: ExitStatus) -> anyhow::Result<End> {
        for line in self.qemu.last_lines().await {
            self.said(&line).await;
        }
        for event in self.qemu.qmp.last_events().await {
            self.event(&event).await?;
        }
        self.media.end();
        self.wishes.console = self.qemu.console_file();
        let last = match self.shutdown.as_deref() {
            Some("guest-shutdown") => Last::PoweredOff,
            Some("guest-reset") => Last::Reset,
            _ => Last::Died(died(status, self.qemu.complaint())),
        };
        let lifeless = self.lifeless.filter(|_| self.follow.boot_id.is_none());
        Ok(End {
            follow: self.follow,
            last,
            stopped: self.stopped.map(|(why, _)| why),
            killed: self.killed,
            lifeless,
            console: self.qemu.console(CONSOLE_LINES),
            panic: self
                .qemu
                .console(usize::MAX)
                .into_iter()
                .find(|line| line.contains("Kernel panic")),
        })
    }

    async fn said(&mut self, line: &[u8]) {
        if let Some(line) = self.follow.line(line) {
            self.show.event(&line);
            self.media.told(&mut self.qemu.qmp, &line).await;
        }
    }

    async fn event(&mut self, event: &Event) -> anyhow::Result<()> {
        match event.name.as_str() {
            "DEVICE_DELETED" => {
                let id = event.data["device"].as_str().unwrap_or_default();
                self.media.let_go(&mut self.qemu.qmp, id).await;
            }
            "SHUTDOWN" => self.shutdown = event.data["reason"].as_str().map(str::to_owned),
            // Nobody here stops the machine: it cannot go on, as by an error of KVM, or a full disk.
            "STOP" => {
                let status = self.qemu.qmp.execute("query-status", serde_json::json!({}));
                let status = status.await.unwrap_or_default();
                let state = status["status"].as_str().unwrap_or("paused").to_owned();
                if self.trial && self.follow.boot_id.is_none() {
                    self.lifeless = Some(format!("QEMU says {state}"));
                }
                if state != "running" && state != "shutdown" {
                    self.show.warn(&format!("QEMU cannot go on: {state}"));
                    self.kill().await?;
                }
            }
            "BLOCK_IO_ERROR" => {
                let data = &event.data;
                let text = |key: &str| data[key].as_str().unwrap_or("?").to_owned();
                let (disk, how, why) = (text("node-name"), text("operation"), text("reason"));
                self.show
                    .warn(&format!("the host failed at a {how} of {disk}: {why}"));
            }
            _ => {}
        }
        Ok(())
    }

    async fn signalled(&mut self) -> anyhow::Result<()> {
        if self.stopped.is_some() {
            self.show.say("killing    the appliance");
            return self.kill().await;
        }
        let why = if self.wishes.desk.is_some() {
            Stopped::Served
        } else {
            Stopped::Signal
        };
        self.show
            .say("stopping   the appliance; once more kills it");
        self.stop(why).await;
        Ok(())
    }

    async fn tick(&mut self) -> anyhow::Result<()> {
        let passed = self.started.elapsed();
        if let Some((_, since)) = &self.stopped {
            if since.elapsed() > GRACE && !self.killed {
                self.kill().await?;
            }
        } else if let Some(limit) = self.wishes.timeout.filter(|limit| passed > limit.0) {
            self.show.say("stopping   the time given is over");
            self.stop(Stopped::TimedOut(limit.to_string())).await;
        } else if self.follow.boot_id.is_none() {
            if self.trial && passed > TRIAL {
                let seconds = TRIAL.as_secs();
                self.lifeless = Some(format!("gvad did not report within {seconds} s"));
                self.kill().await?;
            } else if passed > self.wishes.boot_timeout {
                let limit = self.wishes.boot_timeout;
                self.stopped = Some((Stopped::NoReady(limit), Instant::now()));
                self.kill().await?;
            }
        }
        self.media.tick(&mut self.qemu.qmp).await;
        self.show.progress(&self.follow);
        Ok(())
    }

    /// Asks the guest to end; gvad first, then the power button, for where there is no gvad.
    async fn stop(&mut self, why: Stopped) {
        self.stopped = Some((why, Instant::now()));
        self.qemu.tell_guest(r#"{"do":"poweroff"}"#).await;
        self.qemu.press_power_button().await;
    }

    async fn kill(&mut self) -> anyhow::Result<()> {
        self.killed = true;
        self.qemu.kill().await
    }
}

fn died(status: ExitStatus, complaint: Option<String>) -> String {
    let how = match (status.signal(), status.code()) {
        (Some(signal), _) => format!("was killed by signal {signal}"),
        (None, Some(code)) => format!("ended with {code}"),
        (None, None) => "ended".into(),
    };
    match complaint {
        Some(said) => format!("{how}: {said}"),
        None => how,
    }
}
