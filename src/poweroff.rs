//! Powering the machine off, when everything is unmounted: each way has a bound, and the next is tried when it passes. Whether to, and when, is for
//! `daemon`.

use std::ffi::OsStr;
use std::io;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tracing::{error, info};

use crate::sys::power;

/// systemctl answers at once; it does not where PID 1 hangs, and that must not keep the machine. All of them together stay below
/// `TimeoutStopSec` of the unit.
const BOUND: Duration = Duration::from_secs(30);
/// How often a command is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// With PID 1's help, with less of it, without any.
const WAYS: [&[&str]; 3] = [
    &["poweroff"],
    &["poweroff", "--force"],
    &["poweroff", "--force", "--force"],
];

/// Powers the machine off: asks systemd, so that the other services end in order; if it cannot be asked, the hard way, which is safe now, and last
/// the kernel itself. Returns when it is under way; the signal to end that systemd then sends finds gvad ended, or ending.
///
/// # Errors
/// No way worked.
pub fn power_off() -> anyhow::Result<()> {
    info!("powering off");
    by(OsStr::new("systemctl"), BOUND, power::off)
}

fn by(
    systemctl: &OsStr,
    bound: Duration,
    last: impl FnOnce() -> io::Result<()>,
) -> anyhow::Result<()> {
    for arguments in WAYS {
        let shown = arguments.join(" ");
        match run(Command::new(systemctl).args(arguments), bound) {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => error!("systemctl {shown}: {status}"),
            Ok(None) => error!(
                "systemctl {shown} did not end within {}",
                humantime::format_duration(bound)
            ),
            Err(err) => error!("starting systemctl {shown}: {err}"),
        }
    }
    // No more than a precaution, and a dead disk may keep it for ever.
    if !within(bound, power::sync) {
        error!("syncing all disks did not end: powering off without");
    }
    last().context("powering the machine off by reboot(2)")?;
    bail!("the kernel was asked to power the machine off, and did not")
}

/// Runs `command`; `None` if it had to be ended because it took too long.
fn run(command: &mut Command, bound: Duration) -> io::Result<Option<ExitStatus>> {
    let until = Instant::now() + bound;
    let mut child = command.stdin(Stdio::null()).spawn()?;
    while Instant::now() < until {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        thread::sleep(LOOK);
    }
    // One that hangs in the kernel is not waited for either.
    let _ = child.kill();
    Ok(None)
}

/// Whether `work` was done in time; it goes on in a thread of its own if not.
fn within(bound: Duration, work: impl FnOnce() + Send + 'static) -> bool {
    let (done, wait) = mpsc::channel();
    let started = thread::Builder::new().spawn(move || {
        work();
        let _ = done.send(());
    });
    started.is_ok() && wait.recv_timeout(bound).is_ok()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Runs `by` with a systemctl that notes what it is asked, then does `body`. What was asked, whether reboot(2) was, and how it ended.
    fn asked(body: &str, bound: Duration) -> (Vec<String>, bool, anyhow::Result<()>) {
        let dir = tempfile::tempdir().unwrap();
        let notes = dir.path().join("notes");
        let program = script(
            dir.path(),
            &format!("echo \"$@\" >> '{}'\n{body}\n", notes.display()),
        );
        let last = Cell::new(false);
        let ended = by(&program, bound, || {
            last.set(true);
            Err(io::Error::from(io::ErrorKind::PermissionDenied))
        });
        let notes = fs::read_to_string(notes).unwrap();
        (
            notes.lines().map(str::to_owned).collect(),
            last.get(),
            ended,
        )
    }

    /// Executed by its interpreter: another test of this process that forks may hold a new file open for writing for a moment.
    fn script(dir: &Path, body: &str) -> std::ffi::OsString {
        let path = dir.join("systemctl");
        let line = "#!/bin/sh\n".to_owned() + body;
        let made = Command::new("sh")
            .args([
                "-c",
                "printf %s \"$1\" > \"$2\" && chmod 755 \"$2\"",
                "sh",
                &line,
            ])
            .arg(&path)
            .status();
        assert!(made.unwrap().success());
        path.into()
    }

    #[test]
    fn one_answer_of_systemctl_is_enough() {
        let (notes, last, ended) = asked("exit 0", BOUND);
        assert_eq!(notes, ["poweroff"]);
        assert!(ended.is_ok() && !last);
    }

    #[test]
    fn each_way_that_fails_is_followed_by_a_harder_one() {
        let (notes, last, ended) = asked("[ \"$3\" = --force ]", BOUND);
        assert_eq!(
            notes,
            ["poweroff", "poweroff --force", "poweroff --force --force"]
        );
        assert!(ended.is_ok() && !last);
        let (notes, last, ended) = asked("exit 1", BOUND);
        assert_eq!(notes.len(), 3);
        assert!(last);
        let err = format!("{:#}", ended.unwrap_err());
        assert!(
            err.starts_with("powering the machine off by reboot(2): "),
            "{err}"
        );
    }

    #[test]
    fn systemctl_that_hangs_does_not_keep_the_machine() {
        let (notes, last, ended) = asked("exec sleep 1000", Duration::from_millis(300));
        assert_eq!(notes.len(), 3);
        assert!(last && ended.is_err());
    }

    #[test]
    fn without_systemctl_the_kernel_is_asked() {
        let last = Cell::new(false);
        let ended = by(OsStr::new("/nonexistent/systemctl"), BOUND, || {
            last.set(true);
            Ok(())
        });
        assert!(
            last.get() && ended.is_err(),
            "it returned, so the machine is still on"
        );
    }
}
