//! Running: a staged script is started, supervised, and its whole tree of processes ended. What its surroundings are and when it must end
//! comes from the configuration; what it did goes to `record`.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use tokio::io::unix::AsyncFd;
use tracing::warn;

use crate::capture::{Capture, Captured};
use crate::explain::explain;
use crate::outcome::{Outcome, RunResult, timestamp};
use crate::stop::Stop;
use crate::sys::cgroup::{Cgroup, Parent};
use crate::sys::process::{self, End, Reaped};
use crate::sys::ready;
use crate::sys::spawn::{self, Child, Program, Step};

/// How long the end of a killed tree is waited for. A process in the kernel's hands (a dead disk) may never end.
const TREE_END: Duration = Duration::from_secs(10);

/// What every run needs and none changes.
#[derive(Debug)]
pub struct Runner {
    parent: Option<Parent>,
    nowhere: Rc<File>,
    nothing: File,
    /// The id of this boot.
    pub boot_id: String,
}

/// Limits and manners of one run.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// None: no limit.
    pub timeout: Option<Duration>,
    /// Between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// Bytes of each stream that are kept.
    pub output: u64,
    /// Processes that outlive the script are ended.
    pub end_tree: bool,
}

/// Everything that can fail has been made; nothing has been started.
#[derive(Debug)]
pub struct Ready {
    stdout: Capture,
    stderr: Capture,
    cgroup: Option<Cgroup>,
    program: CString,
    directory: CString,
    environment: Vec<CString>,
}

/// A script that runs.
#[derive(Debug)]
pub struct Running {
    child: Child,
    exit: AsyncFd<OwnedFd>,
    stdout: Capture,
    stderr: Capture,
    cgroup: Option<Cgroup>,
    started: Instant,
    started_at: SystemTime,
    ooms: Option<u64>,
}

/// Why a running script is being ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Timeout,
    Stop,
}

impl Runner {
    /// Finds what there is of control groups.
    ///
    /// # Errors
    /// `/proc` or `/dev/null` is not there.
    pub fn new() -> io::Result<Runner> {
        let parent = crate::sys::cgroup::own()?;
        if parent.is_none() {
            warn!(
                "no cgroup v2 is mounted: processes that leave a script's tree are found by their parent instead"
            );
        }
        Ok(Runner {
            parent,
            nowhere: Rc::new(File::options().write(true).open("/dev/null")?),
            nothing: File::open("/dev/null")?,
            boot_id: process::boot_id()?,
        })
    }

    /// Makes what a run needs: pipes and control group.
    ///
    /// # Errors
    /// Descriptors or memory are short; a name with a NUL byte.
    pub fn ready(
        &self,
        group: &str,
        files: (File, File),
        limits: Limits,
        script: &Path,
        directory: &Path,
        environment: &[(OsString, OsString)],
    ) -> io::Result<Ready> {
        let cgroup = match self.parent.as_ref().map(|parent| parent.make(group)) {
            Some(Ok(cgroup)) => Some(cgroup),
            Some(Err(err)) => {
                warn!("making the control group {group}: {err}; the script runs without");
                None
            }
            None => None,
        };
        let environment = environment.iter().map(|(name, value)| {
            let mut variable = name.as_bytes().to_vec();
            variable.push(b'=');
            variable.extend_from_slice(value.as_bytes());
            CString::new(variable)
        });
        let ready = || -> io::Result<_> {
            let (stdout, stderr) = files;
            Ok((
                Capture::new(stdout, Rc::clone(&self.nowhere), limits.output)?,
                Capture::new(stderr, Rc::clone(&self.nowhere), limits.output)?,
                CString::new(script.as_os_str().as_bytes())?,
                CString::new(directory.as_os_str().as_bytes())?,
                environment.collect::<Result<Vec<_>, _>>()?,
            ))
        };
        match ready() {
            Ok((stdout, stderr, program, directory, environment)) => Ok(Ready {
                stdout,
                stderr,
                cgroup,
                program,
                directory,
                environment,
            }),
            Err(err) => {
                remove_group(cgroup);
                Err(err)
            }
        }
    }
}

fn remove_group(cgroup: Option<Cgroup>) {
    if let Some(cgroup) = cgroup {
        let path = cgroup.path().to_owned();
        if let Err(err) = cgroup.remove() {
            warn!("removing the control group {}: {err}", path.display());
        }
    }
}

impl Ready {
    /// Path of the control group, for the start mark.
    #[must_use]
    pub fn cgroup(&self) -> Option<String> {
        self.cgroup
            .as_ref()
            .and_then(|cgroup| cgroup.path().to_str().map(str::to_owned))
    }

    /// Lets everything go; the script is not started.
    pub fn abandon(self) {
        remove_group(self.cgroup);
    }

    /// Starts the script. The start mark must be durable.
    ///
    /// # Errors
    /// It was not started; a text that says why.
    pub fn start(mut self, runner: &Runner, limits: Limits) -> Result<Running, String> {
        if self.cgroup.is_none()
            && let Err(err) = process::set_subreaper(limits.end_tree)
        {
            warn!("becoming the parent of orphans: {err}");
        }
        let ooms = self.oom_kills();
        let started = Instant::now();
        let started_at = SystemTime::now();
        let spawned = match (self.stdout.write_end(), self.stderr.write_end()) {
            (Some(stdout), Some(stderr)) => spawn::spawn(&Program {
                path: &self.program,
                environment: &self.environment,
                directory: &self.directory,
                stdin: runner.nothing.as_fd(),
                stdout,
                stderr,
                cgroup: self.cgroup.as_ref().map(Cgroup::as_fd),
            }),
            _ => unreachable_pipe(),
        };
        let reason = match spawned {
            Ok(child) => match child.pidfd.try_clone().and_then(ready::readable) {
                Ok(exit) => {
                    self.stdout.started();
                    self.stderr.started();
                    let Ready {
                        stdout,
                        stderr,
                        cgroup,
                        ..
                    } = self;
                    return Ok(Running {
                        child,
                        exit,
                        stdout,
                        stderr,
                        cgroup,
                        started,
                        started_at,
                        ooms,
                    });
                }
                Err(err) => {
                    // It runs but cannot be waited for: the only safe thing is to end it and say so.
                    let _ = process::kill_group(child.pid);
                    let _ = process::reap_blocking(&child.pidfd);
                    format!("watching the process: {err}; it was ended at once")
                }
            },
            Err(refused) => match refused.step {
                Step::Clone => format!("making a process: {}", refused.error),
                Step::Directory => format!(
                    "entering {}: {}",
                    self.directory.to_string_lossy(),
                    refused.error
                ),
                Step::Surroundings => {
                    format!("making the script's surroundings: {}", refused.error)
                }
                Step::Execute => explain(
                    Path::new(OsStr::from_bytes(self.program.as_bytes())),
                    &refused.error,
                ),
            },
        };
        remove_group(self.cgroup);
        Err(reason)
    }

    fn oom_kills(&self) -> Option<u64> {
        self.cgroup
            .as_ref()
            .and_then(Cgroup::oom_kills)
            .or_else(process::oom_kills)
    }
}

fn unreachable_pipe() -> Result<Child, spawn::NotStarted> {
    let error = io::Error::from(io::ErrorKind::BrokenPipe);
    Err(spawn::NotStarted {
        step: Step::Surroundings,
        error,
    })
}

impl Running {
    /// Process id of the script.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.pid
    }

    /// When it was started.
    #[must_use]
    pub fn started_at(&self) -> SystemTime {
        self.started_at
    }

    /// Waits for the script's end, brings it about where it must be, and puts what it did into `result`.
    pub async fn finish(mut self, limits: Limits, stop: &Stop, result: &mut RunResult) {
        let (reaped, why) = self.supervise(limits, stop).await;
        let duration = self.started.elapsed();
        let finished_at = SystemTime::now();
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
        let ooms = self
            .cgroup
            .as_ref()
            .and_then(Cgroup::oom_kills)
            .or_else(process::oom_kills);
        let oom = matches!((self.ooms, ooms), (Some(before), Some(after)) if after > before);
        let (user, system) = self.cpu_time(&reaped);
        result.started_at = Some(timestamp(self.started_at));
        result.finished_at = Some(timestamp(finished_at));
        result.duration_ms = Some(millis(duration));
        result.user_cpu_ms = Some(millis(user));
        result.system_cpu_ms = Some(millis(system));
        result.max_rss_kib = Some(reaped.max_rss_kib);
        judge(result, reaped.end, why, oom, limits);
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

    /// Until the script itself has ended.
    async fn supervise(&mut self, limits: Limits, stop: &Stop) -> (Reaped, Option<Why>) {
        let Running {
            child,
            exit,
            stdout,
            stderr,
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
                    Ok(Some(reaped)) => return (reaped, why),
                    Ok(None) => {}
                    Err(err) => {
                        warn!("waiting for process {}: {err}", child.pid);
                        return (Reaped::unknown(), why);
                    }
                },
                () = stop.asked(), if why.is_none() => {
                    why = Some(Why::Stop);
                    deadline = ask_to_end(child.pid, limits.grace);
                }
                () = alarm => {
                    if why.is_none() {
                        why = Some(Why::Timeout);
                        deadline = ask_to_end(child.pid, limits.grace);
                    } else if !killed {
                        killed = true;
                        deadline = None;
                        let _ = process::kill_group(child.pid); // gone is fine, and nothing else can go wrong
                        let _ = process::kill_one(exit.get_ref().as_fd()); // it may have made a group of its own
                    }
                }
                _ = &mut output, if output_open => output_open = false,
            }
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
                    return warn!("processes of the script do not end after SIGKILL; they are left");
                }
                Err(err) => return warn!("ending the script's processes: {err}"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    fn cpu_time(&self, reaped: &Reaped) -> (Duration, Duration) {
        let whole_tree = self
            .cgroup
            .as_ref()
            .and_then(|cgroup| cgroup.cpu_time().ok());
        whole_tree.unwrap_or((reaped.user, reaped.system))
    }
}

/// SIGTERM to the script's process group; when to follow with SIGKILL.
fn ask_to_end(pid: i32, grace: Duration) -> Option<tokio::time::Instant> {
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
            let more = format!("{name} could not be kept whole: {error}");
            result.reason = Some(match result.reason.take() {
                Some(reason) => format!("{reason}; {more}"),
                None => more,
            });
        }
    }
}
