//! Commands and the running daemon, each with a bound on how long it may take.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::Guest;

/// How a command ended.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            code,
            signal,
            stdout,
            stderr,
        } = self;
        write!(
            f,
            "exit {code:?} signal {signal:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}"
        )
    }
}

/// Runs a command to its end.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> Ended {
    let dir = tempfile::tempdir().unwrap();
    let (out, err) = (dir.path().join("out"), dir.path().join("err"));
    let (stdout, stderr) = (File::create(&out).unwrap(), File::create(&err).unwrap());
    let mut child = spawn(command.stdin(Stdio::null()).stdout(stdout).stderr(stderr)).unwrap();
    let status = wait(&mut child, &format!("the end of {command:?}"));
    let text = |path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
    Ended {
        code: status.code(),
        signal: status.signal(),
        stdout: text(out),
        stderr: text(err),
    }
}

#[track_caller]
fn wait(child: &mut Child, what: &str) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > super::DEADLINE {
            let _ = child.kill();
            let _ = child.wait();
            panic!("waited in vain for: {what}");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a tool that must succeed and gives what it printed.
#[track_caller]
pub(crate) fn tool(command: &mut Command) -> String {
    let output = spawn(
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped()),
    )
    .and_then(Child::wait_with_output)
    .unwrap_or_else(|err| panic!("{command:?}: {err} (tests/run installs what is missing)"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// One at a time forks, or has a script open for writing: a child has a copy of each descriptor until it executes its program,
/// and gvad rightly takes no script that somebody has open for writing.
static FORKING: Mutex<()> = Mutex::new(());

/// Does something while no test forks.
pub(crate) fn unforked<T>(act: impl FnOnce() -> T) -> T {
    let _alone = FORKING.lock().unwrap_or_else(PoisonError::into_inner);
    act()
}

fn spawn(command: &mut Command) -> io::Result<Child> {
    unforked(|| command.spawn())
}

/// Runs a line of shell that must succeed.
#[track_caller]
pub(crate) fn sh(line: &str) -> String {
    tool(Command::new("sh").args(["-euc", line]))
}

/// The running daemon; dropped, it is killed.
pub(crate) struct Daemon<'g> {
    guest: &'g Guest,
    child: Child,
    log: PathBuf,
}

impl<'g> Daemon<'g> {
    /// Starts the daemon, its log in a file.
    pub(crate) fn start(guest: &'g Guest, mut command: Command) -> Self {
        let log = guest.path("log");
        let err = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let out = err.try_clone().unwrap();
        let child = spawn(command.stdin(Stdio::null()).stdout(out).stderr(err)).unwrap();
        Self { guest, child, log }
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Whether it runs.
    pub(crate) fn is_alive(&self) -> bool {
        fs::read(format!("/proc/{}/cmdline", self.pid())).is_ok_and(|line| !line.is_empty())
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned()
    }

    /// Waits until `look` finds something; the log is shown if it never does.
    #[track_caller]
    fn wait_for<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            let alive = if self.is_alive() { "runs" } else { "has ended" };
            let waited = start.elapsed();
            assert!(
                waited < super::DEADLINE,
                "waited in vain for {what}, gvad {alive}:\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[track_caller]
    pub(crate) fn wait_log(&self, text: &str) {
        self.wait_for(&format!("{text:?} in the log"), || {
            self.log().contains(text).then_some(())
        });
    }

    /// What `gvad status --json` tells, once it answers.
    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        self.wait_for("an answer to gvad status", || {
            let ended = run(&mut self.guest.gvad(&["status", "--json"]));
            assert!(matches!(ended.code, Some(0 | 3)), "{ended}");
            (ended.code == Some(0)).then(|| serde_json::from_str(&ended.stdout).unwrap())
        })
    }

    /// Waits until its status says that.
    #[track_caller]
    pub(crate) fn wait_state(&self, state: &str) -> Value {
        self.wait_for(&format!("the state {state}"), || {
            Some(self.status()).filter(|status| status["state"] == state)
        })
    }

    /// Waits for the result of a script.
    #[track_caller]
    pub(crate) fn wait_result(&self, script: &str) -> Value {
        let output = self.guest.live_output();
        self.wait_for(&format!("the result of {script}"), || {
            super::results_in(&output)
                .into_iter()
                .find(|r| r["script"] == script)
        })
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// SIGKILL, and gone.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and its exit status.
    #[track_caller]
    pub(crate) fn stop(self) -> Option<i32> {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    /// Its exit status, when it ends by itself.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Option<i32> {
        let what = format!("the end of gvad, the log says {}", self.log());
        wait(&mut self.child, &what).code()
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
