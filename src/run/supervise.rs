//! Supervising: from a started script to the end of its whole tree of processes, and what it did.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use tokio::io::unix::AsyncFd;
use tracing::warn;

use super::{Limits, remove_group};
use crate::capture::{Capture, Captured};
use crate::outcome::{Outcome, RunResult, timestamp};
use crate::stop::{Cancel, Cancelled, Stop};
use crate::sys::cgroup::Cgroup;
use crate::sys::process::{self, End, OomKills, Reaped};

/// How long the end of a killed tree is waited for. A process in the kernel's hands (a dead disk) may never end.
const TREE_END: Duration = Duration::from_secs(10);

/// A script that runs.
#[derive(Debug)]
pub struct Running {
    pub(super) pid: i32,
    pub(super) exit: AsyncFd<OwnedFd>,
    pub(super) stdout: Capture,
    pub(super) stderr: Capture,
    pub(super) cgroup: Option<Cgroup>,
    pub(super) started: Instant,
    pub(super) started_at: SystemTime,
    /// The machine's counter of what the OOM killer ended, and what it said before.
    pub(super) ooms: Option<(Rc<OomKills>, u64)>,
}

/// Why a running script is being ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Timeout,
    Stop,
    Cancel,
}

impl Running {
    /// Process id of the script.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// When it was started.
    #[must_use]
    pub fn started_at(&self) -> SystemTime {
        self.started_at
    }

    /// Waits for the script's end, brings it about where it must be, and puts what it did into `result`.
    pub async fn finish(
        mut self,
        limits: Limits,
        stop: &Stop,
        cancel: &Cancel,
        result: &mut RunResult,
    ) {
        let (reaped, why, grace_ends) = self.supervise(limits, stop, cancel.listen()).await;
        let duration = self.started.elapsed();
        let finished_at = SystemTime::now();
        if let Some(until) = grace_ends {
            self.wait_for_tree(until).await;
        }
        if limits.end_tree || why.is_some() {
            self.end_tree().await;
        }
        // The pipes end with the tree; who escaped it does not keep us.
        let both = async { tokio::join!(self.stdout.pump(), self.stderr.pump()) };
        let _ = tokio::time::timeout(
            Duration::from_millis(if limits.end_tree { 100 } else { 0 }),
            both,
        )
        .await;
        let killed = why.is_none() && reaped.end == End::Signaled(process::SIGKILL);
        let oom = killed && self.oom_killed();
        let limited = limited(self.cgroup.as_ref(), limits);
        let (user, system) = self.cpu_time(&reaped);
        result.started_at = Some(timestamp(self.started_at));
        result.finished_at = Some(timestamp(finished_at));
        result.duration_ms = Some(millis(duration));
        result.user_cpu_ms = Some(millis(user));
        result.system_cpu_ms = Some(millis(system));
        result.max_rss_kib = Some(reaped.max_rss_kib);
        judge(result, reaped.end, why, oom && limited.is_none(), limits);
        if let Some(reason) = limited {
            result.add_reason(&reason);
        }
        let (stdout, stderr) = (self.stdout.finish(), self.stderr.finish());
        note_output(result, &stdout, &stderr);
        let kept = self
            .cgroup
            .as_ref()
            .is_some_and(|cgroup| !limits.end_tree && cgroup.populated().unwrap_or(true));
        if !kept {
            remove_group(self.cgroup);
        }
    }

    /// Until the script itself has ended. Also tells why it was ended, and until when the rest of its tree may take to end.
    async fn supervise(
        &mut self,
        limits: Limits,
        stop: &Stop,
        mut cancelled: Cancelled,
    ) -> (Reaped, Option<Why>, Option<tokio::time::Instant>) {
        let Running {
            pid,
            exit,
            stdout,
            stderr,
            cgroup,
            ..
        } = self;
        let mut output = std::pin::pin!(async { tokio::join!(stdout.pump(), stderr.pump()) });
        let mut output_open = true;
        let mut why = None;
        let mut deadline = limits
            .timeout
            .and_then(|timeout| tokio::time::Instant::now().checked_add(timeout));
        let mut killed = false;
        loop {
            let alarm = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = exit.readable() => match process::reap(exit.get_ref().as_fd()) {
                    Ok(Some(reaped)) => return (reaped, why, deadline.filter(|_| why.is_some())),
                    Ok(None) => {}
                    Err(err) => {
                        warn!("waiting for process {}: {err}", *pid);
                        return (Reaped::unknown(), why, None);
                    }
                },
                asked = asked_to_end(stop, &mut cancelled), if why.is_none() => {
                    why = Some(asked);
                    deadline = ask_to_end(*pid, cgroup.as_ref(), limits.grace);
                }
                () = alarm => {
                    if why.is_none() {
                        why = Some(Why::Timeout);
                        deadline = ask_to_end(*pid, cgroup.as_ref(), limits.grace);
                    } else if !killed {
                        killed = true;
                        deadline = None;
                        let _ = process::kill_group(*pid); // gone is fine, and nothing else can go wrong
                        let _ = process::kill_one(exit.get_ref().as_fd()); // it may have made a group of its own
                    }
                }
                _ = &mut output, if output_open => output_open = false,
            }
        }
    }

    /// The script has ended on SIGTERM; what it started has heard it too, and has the same time to end by itself.
    async fn wait_for_tree(&self, until: tokio::time::Instant) {
        let left = || match &self.cgroup {
            Some(cgroup) => cgroup.populated().unwrap_or(false),
            None => process::has_children().unwrap_or(false),
        };
        let mut pause = Duration::from_millis(1);
        while left() && tokio::time::Instant::now() < until {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Ends what is left of the script's tree, and waits until it is gone.
    async fn end_tree(&self) {
        let until = Instant::now() + TREE_END;
        let mut pause = Duration::from_micros(200);
        loop {
            let left = match &self.cgroup {
                Some(cgroup) => match cgroup.populated() {
                    Ok(true) => cgroup.kill().map(|()| true),
                    other => other,
                },
                None => process::kill_children().map(|count| count > 0),
            };
            match left {
                Ok(false) => return,
                Ok(true) if Instant::now() < until => {}
                Ok(true) => {
                    return warn!(
                        "processes of the script do not end after SIGKILL; they are left"
                    );
                }
                Err(err) => return warn!("ending the script's processes: {err}"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Whether the OOM killer ended a process since it was started: of its group, or where that is not counted, of the machine.
    fn oom_killed(&self) -> bool {
        if let Some(count) = self.cgroup.as_ref().and_then(Cgroup::oom_kills) {
            return count > 0;
        }
        let counter = self.ooms.as_ref();
        counter.is_some_and(|(kills, before)| kills.count().is_some_and(|now| now > *before))
    }

    fn cpu_time(&self, reaped: &Reaped) -> (Duration, Duration) {
        let whole_tree = self
            .cgroup
            .as_ref()
            .and_then(|cgroup| cgroup.cpu_time().ok());
        whole_tree.unwrap_or((reaped.user, reaped.system))
    }
}

/// Waits until somebody wants the script to end.
async fn asked_to_end(stop: &Stop, cancelled: &mut Cancelled) -> Why {
    tokio::select! {
        () = stop.asked() => Why::Stop,
        () = cancelled.asked() => Why::Cancel,
    }
}

/// SIGTERM to the script's whole tree, or where there is no control group to its process group; when to follow with SIGKILL.
fn ask_to_end(pid: i32, cgroup: Option<&Cgroup>, grace: Duration) -> Option<tokio::time::Instant> {
    let told = cgroup.is_some_and(|cgroup| cgroup.terminate().is_ok());
    if told {
        return tokio::time::Instant::now().checked_add(grace);
    }
    if let Err(err) = process::terminate_group(pid) {
        warn!("sending SIGTERM to process group {pid}: {err}");
    }
    tokio::time::Instant::now().checked_add(grace)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn judge(result: &mut RunResult, end: End, why: Option<Why>, oom: bool, limits: Limits) {
    match end {
        End::Exited(code) => result.exit_code = Some(code),
        End::Signaled(signal) => result.signal = Some(process::signal_name(signal)),
    }
    (result.outcome, result.reason) = match (why, end) {
        (Some(Why::Timeout), _) => {
            let timeout = crate::units::Span(limits.timeout.unwrap_or_default());
            (Outcome::TimedOut, Some(format!("it ran longer than run.timeout, {timeout}")))
        }
        (Some(Why::Stop), _) => (Outcome::Stopped, Some("gvad was asked to stop".to_owned())),
        (Some(Why::Cancel), _) => (Outcome::Stopped, Some("it was cancelled from outside, by a request".to_owned())),
        (None, End::Exited(_)) => (Outcome::Exited, None),
        (None, End::Signaled(process::SIGKILL)) if oom => (
            Outcome::Signaled,
            Some("the kernel's OOM killer ended a process while it ran, most likely this one: it needs more memory".to_owned()),
        ),
        (None, End::Signaled(_)) => (Outcome::Signaled, None),
    };
    result.success = result.outcome == Outcome::Exited && result.exit_code == Some(0);
}

fn note_output(result: &mut RunResult, stdout: &Captured, stderr: &Captured) {
    (result.stdout_bytes, result.stdout_truncated) = (stdout.seen, stdout.truncated);
    (result.stderr_bytes, result.stderr_truncated) = (stderr.seen, stderr.truncated);
    for (name, stream) in [("stdout", stdout), ("stderr", stderr)] {
        if let Some(error) = &stream.error {
            result.add_reason(&format!("{name} could not be kept whole: {error}"));
        }
    }
}

/// Which limits its processes came up against, by the counters of its own control group.
fn limited(cgroup: Option<&Cgroup>, limits: Limits) -> Option<String> {
    let killed = cgroup
        .filter(|_| limits.memory > 0)
        .and_then(Cgroup::oom_kills);
    let refused = cgroup
        .filter(|_| limits.tasks > 0)
        .and_then(Cgroup::refused_forks);
    let memory = killed.filter(|count| *count > 0).map(|count| {
        let limit = crate::units::Size(limits.memory);
        format!("the kernel's OOM killer ended {count} of its processes: they used more than run.memory_max, {limit}")
    });
    let tasks = refused.filter(|count| *count > 0).map(|count| {
        format!(
            "{count} times it was refused another process or thread: it had run.tasks_max, {}",
            limits.tasks
        )
    });
    match (memory, tasks) {
        (Some(memory), Some(tasks)) => Some(format!("{memory}; {tasks}")),
        (memory, tasks) => memory.or(tasks),
    }
}
