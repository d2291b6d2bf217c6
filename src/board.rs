//! The board: what gvad is doing, kept in one place; shown to systemd, to `gvad status`, in `status.json` on the output image, and told to the
//! host as events.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tracing::{info, warn};

use crate::image::Image;
use crate::ledger::line::Start;
use crate::outcome::{RunResult, timestamp};
use crate::report::event::Event;
use crate::report::queue::Outbox;
use crate::run::supervise::Running;
use crate::status::{Counts, ImageStatus, PassedOver, Progress, RunningStatus, State, Status};
use crate::sys::dir::Dir;
use crate::{record, systemd};

/// So many failures are remembered.
const LAST_FAILURES: usize = 10;
/// So many passed-over files are listed.
const LISTED: usize = 100;
/// Changes that follow one another more closely than this are written together.
const WRITE_PAUSE: Duration = Duration::from_millis(200);
/// A problem that is over sooner is not told to the host.
const LASTING: Duration = Duration::from_secs(5);

/// The one place. Cheap to clone; all clones are the same board.
#[derive(Debug, Clone)]
pub struct Board(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    status: RefCell<Status>,
    line: RefCell<String>,
    output: RefCell<Option<Dir>>,
    changed: Notify,
    outbox: Outbox,
    told: RefCell<Told>,
    problem: Notify,
}

/// What the host knows.
#[derive(Debug, Default)]
struct Told {
    /// The last error; it is not told again before a script has run.
    error: Option<String>,
    /// That no script waits.
    drained: bool,
    /// That gvad was asked to stop.
    stopping: bool,
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
            outbox: Outbox::default(),
            told: RefCell::default(),
            problem: Notify::new(),
        }))
    }

    /// Where the events wait for the port.
    #[must_use]
    pub fn outbox(&self) -> &Outbox {
        &self.0.outbox
    }

    /// Changes what is on it, and lets everybody see.
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.0.status.borrow_mut());
        // Scripts may follow one another quickly: that is told no more often than it is written.
        if self.state_now() != State::Running {
            self.tell_systemd();
        }
        self.0.changed.notify_one();
    }

    fn tell_systemd(&self) {
        let line = self.0.status.borrow().line();
        if *self.0.line.borrow() != line {
            systemd::status(&line);
            self.0.line.replace(line);
        }
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
            if let (State::Retrying | State::Running, Some(problem)) = (state, &problem) {
                self.error(problem);
            }
            self.update(|status| (status.state, status.problem) = (state, problem));
            self.0.problem.notify_one();
        }
        if state == State::Idle {
            // Should it come back, it is news.
            self.0.told.borrow_mut().error = None;
        }
        if state == State::Idle && self.0.status.borrow().counts.waiting == 0 {
            self.drained();
        }
    }

    /// gvad works.
    pub fn ready(&self) {
        let event = {
            let status = self.0.status.borrow();
            Event::Ready {
                gvad_version: status.gvad_version.clone(),
                boot_id: status.boot_id.clone(),
                pid: status.pid,
            }
        };
        self.0.outbox.tell(event);
    }

    /// Every script that waited has been run. Told once, until another comes.
    pub fn drained(&self) {
        if !std::mem::replace(&mut self.0.told.borrow_mut().drained, true) {
            let Counts {
                succeeded, failed, ..
            } = self.0.status.borrow().counts;
            self.0.outbox.tell(Event::Drained { succeeded, failed });
        }
    }

    /// gvad was asked to stop.
    pub fn stopping(&self) {
        if !std::mem::replace(&mut self.0.told.borrow_mut().stopping, true) {
            let waiting = self.0.status.borrow().counts.waiting;
            self.0.outbox.tell(Event::Stopping { waiting });
        }
    }

    /// Something is wrong that somebody outside should know of. The same is not told twice in a row.
    pub fn error(&self, message: &str) {
        let mut told = self.0.told.borrow_mut();
        if told.error.as_deref() != Some(message) {
            told.error = Some(message.to_owned());
            let message = message.to_owned();
            self.0.outbox.tell(Event::Error { message });
        }
    }

    /// Tells each problem that lasts: while a machine boots, an image that is not there yet is none.
    pub async fn tell_problems(self) {
        loop {
            self.0.problem.notified().await;
            while let Some(problem) = self.problem() {
                // A change begins the time anew, also where it comes back to the same problem.
                let changed = tokio::time::timeout(LASTING, self.0.problem.notified()).await;
                if changed.is_ok() {
                    continue;
                }
                if self.problem().as_ref() == Some(&problem) {
                    self.error(&problem);
                }
                break;
            }
        }
    }

    /// What gvad is about.
    #[must_use]
    pub fn state_now(&self) -> State {
        self.0.status.borrow().state
    }

    fn problem(&self) -> Option<String> {
        self.0.status.borrow().problem.clone()
    }

    /// A script runs.
    pub fn started(&self, start: &Start, running: &Running) {
        self.0.told.borrow_mut().drained = false;
        self.0.outbox.tell(Event::Started {
            run_id: start.run_id.clone(),
            name: start.identity.name.clone(),
            attempt: start.attempt,
            pid: running.pid(),
        });
        self.0.problem.notify_one();
        self.update(|status| {
            (status.state, status.problem) = (State::Running, None);
            status.running = Some(RunningStatus {
                name: start.identity.name.clone(),
                run_id: start.run_id.clone(),
                attempt: start.attempt,
                pid: running.pid(),
                started_at: timestamp(running.started_at()),
                duration_ms: 0,
                progress: None,
                since: Some(Instant::now()),
            });
        });
    }

    /// The running script said how far it is.
    pub fn progress(&self, progress: Progress) {
        let mut run_id = None;
        self.update(|status| {
            if let Some(running) = &mut status.running {
                run_id = Some(running.run_id.clone());
                running.progress = Some(progress.clone());
            }
        });
        if let Some(run_id) = run_id {
            let Progress { fraction, text } = progress;
            self.0.outbox.tell(Event::Progress {
                run_id,
                fraction,
                text,
            });
        }
    }

    /// A script has its durable result.
    pub fn finished(&self, result: &RunResult) {
        let mut told = self.0.told.borrow_mut();
        (told.drained, told.error) = (false, None);
        drop(told);
        self.0.outbox.tell(Event::Finished {
            result: Box::new(result.clone()),
        });
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
        let image = ImageStatus::of(image);
        self.0.outbox.tell(Event::Mounted {
            image: image.clone(),
        });
        self.update(|status| status.images.push(image));
    }

    /// An image is not in use any more: it was unmounted, or has gone. Why, if not because everything on it was done.
    pub fn released(&self, image: &ImageStatus, reason: Option<&str>) {
        self.0.outbox.tell(Event::Released {
            image: image.clone(),
            reason: reason.map(str::to_owned),
        });
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

    /// Writes `status.json` at each change, and tells systemd what runs.
    pub async fn keep_written(self) {
        loop {
            self.0.changed.notified().await;
            self.tell_systemd();
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
