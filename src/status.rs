//! What gvad is doing: kept here in one place, shown to systemd, to `gvad status`, and in `status.json` on the output image.

mod text;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::image::Image;
use crate::ledger::line::Start;
use crate::name::ScriptName;
use crate::outcome::{RunResult, timestamp};
use crate::run::supervise::Running;
use crate::sys::dir::Dir;
use crate::{record, systemd};

/// So many failures are remembered.
const LAST_FAILURES: usize = 10;
/// So many passed-over files are listed.
const LISTED: usize = 100;
/// Changes that follow one another more closely than this are written together.
const WRITE_PAUSE: Duration = Duration::from_millis(200);

/// What gvad is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It reads its configuration and cleans up after an earlier gvad.
    Starting,
    /// The application image is not there yet.
    WaitingForApplication,
    /// A data image that must be there is not.
    WaitingForData,
    /// No result could be recorded.
    WaitingForOutput,
    /// No script could be copied to `temp_dir`.
    WaitingForTempDir,
    /// No script waits.
    Idle,
    /// A script runs.
    Running,
    /// An image failed; it is mounted anew.
    Retrying,
    /// A medium is done, or was taken out: the images are being unmounted, and the next has its turn.
    Releasing,
    /// It was asked to stop.
    Stopping,
    /// It has unmounted everything.
    Stopped,
}

/// All that is known. The shape of `status.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// 1.
    pub schema: u32,
    /// What gvad is about.
    pub state: State,
    /// What keeps it from going on, for people.
    pub problem: Option<String>,
    /// Process id.
    pub pid: u32,
    /// This boot.
    pub boot_id: String,
    /// The gvad that says this.
    pub gvad_version: String,
    /// What is mounted.
    pub images: Vec<ImageStatus>,
    /// The script that runs.
    pub running: Option<RunningStatus>,
    /// How many scripts.
    pub counts: Counts,
    /// The newest last.
    pub last_failures: VecDeque<RunResult>,
    /// When this was written. RFC 3339, UTC.
    pub written_at: String,
    /// What is in script-bin and is not run.
    pub passed_over: Vec<PassedOver>,
    /// How many of these there are in all.
    pub passed_over_count: usize,
}

/// A mounted image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageStatus {
    /// `application`, `data` or `output`.
    pub role: String,
    /// As configured.
    pub source: String,
    /// What it is on.
    pub device: String,
    /// Where.
    pub mount_point: String,
    /// Type of the file system, or `directory`.
    pub fstype: String,
    /// It cannot be written.
    pub read_only: bool,
    /// The kernel's number of the disk, which no other disk of this boot has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diskseq: Option<u64>,
    /// The disk's serial number, where it has one. By it a host knows what it plugged in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
}

/// A running script.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunningStatus {
    /// Its name.
    #[serde(flatten)]
    pub name: ScriptName,
    /// Name of the run.
    pub run_id: String,
    /// 1 for the first.
    pub attempt: u32,
    /// Process id.
    pub pid: i32,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// How long it has been running, when this was written.
    pub duration_ms: u64,
    /// When by the monotonic clock.
    #[serde(skip)]
    pub since: Option<Instant>,
}

/// Numbers of scripts since gvad was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Wait to be run, by the last look.
    pub waiting: usize,
    /// Exited with 0.
    pub succeeded: u64,
    /// Everything else.
    pub failed: u64,
}

/// Something in script-bin that is not run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PassedOver {
    /// Its name; what is not UTF-8 in it is replaced.
    pub name: String,
    /// All bytes of the name in hexadecimal, where `name` is not exact.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name_hex: Option<String>,
    /// Why.
    pub reason: String,
}

impl ImageStatus {
    /// Of an image in use.
    #[must_use]
    pub fn of(image: &Image) -> ImageStatus {
        ImageStatus {
            role: image.role.to_string(),
            source: image.source.clone(),
            device: image.device.display().to_string(),
            mount_point: image.path.display().to_string(),
            fstype: image.fstype.clone(),
            read_only: image.read_only,
            diskseq: image.diskseq(),
            serial: image.serial.clone(),
        }
    }
}

/// The one place. Cheap to clone; all clones are the same board.
#[derive(Debug, Clone)]
pub struct Board(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    status: RefCell<Status>,
    line: RefCell<String>,
    output: RefCell<Option<Dir>>,
    changed: Notify,
}

impl Board {
    /// A board for this process.
    #[must_use]
    pub fn new(boot_id: String) -> Board {
        let status = Status {
            schema: 1,
            state: State::Starting,
            problem: None,
            pid: std::process::id(),
            boot_id,
            gvad_version: env!("CARGO_PKG_VERSION").to_owned(),
            images: Vec::new(),
            running: None,
            counts: Counts::default(),
            last_failures: VecDeque::new(),
            written_at: String::new(),
            passed_over: Vec::new(),
            passed_over_count: 0,
        };
        Board(Rc::new(Inner {
            status: RefCell::new(status),
            line: RefCell::default(),
            output: RefCell::default(),
            changed: Notify::new(),
        }))
    }

    /// Changes what is on it, and lets everybody see.
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.0.status.borrow_mut());
        let line = self.0.status.borrow().line();
        if *self.0.line.borrow() != line {
            systemd::status(&line);
            self.0.line.replace(line);
        }
        self.0.changed.notify_one();
    }

    /// The state and what keeps gvad from going on.
    pub fn state(&self, state: State, problem: Option<String>) {
        let same = |status: &Status| status.state == state && status.problem == problem;
        if !same(&self.0.status.borrow()) {
            match (&problem, state) {
                (None, State::Idle) => info!("idle"),
                (None, _) | (Some(_), State::Retrying) => {}
                (Some(problem), State::WaitingForApplication | State::WaitingForData) => {
                    info!("{state}: {problem}");
                }
                (Some(problem), _) => warn!("{state}: {problem}"),
            }
            self.update(|status| (status.state, status.problem) = (state, problem));
        }
    }

    /// A script runs.
    pub fn started(&self, start: &Start, running: &Running) {
        self.update(|status| {
            (status.state, status.problem) = (State::Running, None);
            status.running = Some(RunningStatus {
                name: start.identity.name.clone(),
                run_id: start.run_id.clone(),
                attempt: start.attempt,
                pid: running.pid(),
                started_at: timestamp(running.started_at()),
                duration_ms: 0,
                since: Some(Instant::now()),
            });
        });
    }

    /// A script has come to its result.
    pub fn finished(&self, result: &RunResult) {
        self.update(|status| {
            status.running = None;
            if result.success {
                status.counts.succeeded += 1;
            } else {
                status.counts.failed += 1;
                status.last_failures.push_back(result.clone());
                if status.last_failures.len() > LAST_FAILURES {
                    status.last_failures.pop_front();
                }
            }
        });
    }

    /// An image is in use from now on.
    pub fn mounted(&self, image: &Image) {
        self.update(|status| status.images.push(ImageStatus::of(image)));
    }

    /// An image is not in use any more: it was unmounted, or has gone. Why, if not because everything on it was done.
    pub fn released(&self, image: &ImageStatus, reason: Option<&str>) {
        tracing::debug!(role = image.role, device = image.device, reason, "released");
        self.update(|status| {
            status
                .images
                .retain(|one| (&one.role, &one.device) != (&image.role, &image.device));
        });
    }

    /// So many more wait; told with the next change.
    pub fn waiting(&self, waiting: usize) {
        self.0.status.borrow_mut().counts.waiting = waiting;
    }

    /// What the last look at script-bin gave.
    pub fn listing(&self, waiting: usize, passed_over: &[PassedOver]) {
        let same = {
            let status = self.0.status.borrow();
            let names = status.passed_over.iter().zip(passed_over);
            status.counts.waiting == waiting
                && status.passed_over_count == passed_over.len()
                && names
                    .into_iter()
                    .all(|(old, new)| old.name == new.name && old.reason == new.reason)
        };
        if !same {
            self.update(|status| {
                status.counts.waiting = waiting;
                status.passed_over = passed_over.iter().take(LISTED).cloned().collect();
                status.passed_over_count = passed_over.len();
            });
        }
    }

    /// A copy of what is on it now.
    #[must_use]
    pub fn read(&self) -> Status {
        let mut status = self.0.status.borrow().clone();
        status.written_at = timestamp(std::time::SystemTime::now());
        if let Some(running) = &mut status.running {
            let since = running
                .since
                .map(|since| since.elapsed())
                .unwrap_or_default();
            running.duration_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        }
        status
    }

    /// From now on `status.json` is kept in this directory; or nowhere, and the last state is written.
    pub fn set_output(&self, gvad: Option<Dir>) {
        self.write();
        self.0.output.replace(gvad);
        self.0.changed.notify_one();
    }

    /// Writes `status.json` at each change.
    pub async fn keep_written(self) {
        loop {
            self.0.changed.notified().await;
            self.write();
            tokio::time::sleep(WRITE_PAUSE).await;
        }
    }

    /// Writes `status.json` now.
    pub fn write(&self) {
        let output = self.0.output.borrow();
        let Some(gvad) = output.as_ref() else { return };
        let mut json = serde_json::to_vec_pretty(&self.read()).unwrap_or_default();
        json.push(b'\n');
        if let Err(err) = record::write_status(gvad, &json) {
            // A full or dead output image is told where it matters; this is only a copy.
            tracing::debug!("writing status.json: {err}");
        }
    }
}
