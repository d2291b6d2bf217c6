//! Processes that run already: waiting by pidfd, signals, finding and ending orphans, what is set once for this process itself.
//!
//! Relies on pidfd_open(2), waitid(2) with `P_PIDFD` (Linux 5.4), prctl(2) `PR_SET_CHILD_SUBREAPER`.

use std::cell::Cell;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, Signal, kill, killpg, signal};
use nix::sys::stat::{Mode, umask};
use nix::unistd::Pid;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself, with this exit status.
    Exited(i32),
    /// By the signal of this number.
    Signaled(i32),
}

/// The end of a process, and what it used (getrusage(2): itself and those of its children that it waited for).
#[derive(Debug, Clone, Copy)]
pub struct Reaped {
    /// How it ended.
    pub end: End,
    /// Processor time in user mode.
    pub user: Duration,
    /// Processor time in the kernel.
    pub system: Duration,
    /// Largest resident set, in KiB.
    pub max_rss_kib: u64,
}

/// The number of SIGKILL.
pub const SIGKILL: i32 = libc::SIGKILL;

impl Reaped {
    /// Of a child that somebody else reaped, which should not be possible.
    #[must_use]
    pub fn unknown() -> Reaped {
        Reaped {
            end: End::Signaled(0),
            user: Duration::ZERO,
            system: Duration::ZERO,
            max_rss_kib: 0,
        }
    }
}

/// Reaps the child of `pidfd` if it has ended; `None` if it still runs.
///
/// # Errors
/// `ECHILD`: not our child.
pub fn reap(pidfd: BorrowedFd<'_>) -> io::Result<Option<Reaped>> {
    let (info, usage) = waitid(pidfd)?;
    let (pid, status) = child_fields(&info);
    if pid == 0 {
        return Ok(None);
    }
    let time = |value: libc::timeval| {
        Duration::new(
            u64::try_from(value.tv_sec).unwrap_or(0),
            u32::try_from(value.tv_usec).unwrap_or(0) * 1000,
        )
    };
    let end = match info.si_code {
        libc::CLD_EXITED => End::Exited(status),
        _ => End::Signaled(status),
    };
    Ok(Some(Reaped {
        end,
        user: time(usage.ru_utime),
        system: time(usage.ru_stime),
        max_rss_kib: u64::try_from(usage.ru_maxrss).unwrap_or(0),
    }))
}

#[expect(unsafe_code, reason = "nix's waitid gives no resource usage")]
fn waitid(pidfd: BorrowedFd<'_>) -> nix::Result<(libc::siginfo_t, libc::rusage)> {
    // SAFETY: both are plain C structures for which all zeros is a valid value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, and the kernel fills the two structures, which outlive the call. The fifth
    // argument is the raw system call's, waitid(2) "C library/kernel differences".
    let answer = unsafe {
        libc::syscall(
            libc::SYS_waitid,
            libc::P_PIDFD,
            pidfd.as_raw_fd(),
            &raw mut info,
            libc::WEXITED | libc::WNOHANG,
            &raw mut usage,
        )
    };
    Errno::result(answer)?;
    Ok((info, usage))
}

#[expect(unsafe_code, reason = "fields of a C union")]
fn child_fields(info: &libc::siginfo_t) -> (libc::pid_t, i32) {
    // SAFETY: waitid filled it, so the SIGCHLD part of the union is the valid one (all zeros if nothing has ended).
    let pid = unsafe { info.si_pid() };
    // SAFETY: as above.
    let status = unsafe { info.si_status() };
    (pid, status)
}

/// The name of a signal, such as `SIGKILL`; real-time signals are `SIGRTMIN+n`.
#[must_use]
pub fn signal_name(number: i32) -> String {
    match Signal::try_from(number) {
        Ok(signal) => signal.as_str().to_owned(),
        Err(_) => format!("SIGRTMIN+{}", number.saturating_sub(libc::SIGRTMIN())),
    }
}

/// Sends SIGTERM to the process group (and so the session) that `leader` leads. A group that is gone is no error.
///
/// # Errors
/// Those of killpg(3).
pub fn terminate_group(leader: i32) -> io::Result<()> {
    gone_is_fine(killpg(Pid::from_raw(leader), Signal::SIGTERM))
}

/// Sends SIGTERM to one process. One that is gone is no error.
///
/// # Errors
/// Those of kill(2).
pub fn terminate(pid: i32) -> io::Result<()> {
    gone_is_fine(kill(Pid::from_raw(pid), Signal::SIGTERM))
}

/// Sends SIGKILL to the process group that `leader` leads. A group that is gone is no error.
///
/// # Errors
/// Those of killpg(3).
pub fn kill_group(leader: i32) -> io::Result<()> {
    gone_is_fine(killpg(Pid::from_raw(leader), Signal::SIGKILL))
}

fn gone_is_fine(answer: nix::Result<()>) -> io::Result<()> {
    match answer {
        Err(Errno::ESRCH) => Ok(()),
        other => Ok(other?),
    }
}

/// Sends SIGKILL to the process of `pidfd`. One that is gone is no error.
///
/// # Errors
/// Those of pidfd_send_signal(2).
#[expect(unsafe_code, reason = "nix has no pidfd_send_signal")]
pub fn kill_one(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open; a null siginfo is allowed and means what kill(2) would send.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            libc::SIGKILL,
            none,
            0,
        )
    };
    gone_is_fine(Errno::result(answer).map(drop))
}

/// Sends SIGKILL to every child of this process, and reaps those that have ended. As a subreaper this process inherits the orphans of its
/// children, so that calling it until it gives 0 ends a whole tree. Returns how many children there still were.
///
/// # Errors
/// `/proc` is not there.
pub fn kill_children() -> io::Result<usize> {
    let mut count = 0;
    for task in fs::read_dir("/proc/self/task")?.flatten() {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for pid in children
            .split_ascii_whitespace()
            .filter_map(|pid| pid.parse().ok())
        {
            count += 1;
            // Our own unreaped child: its number cannot have gone to somebody else.
            gone_is_fine(kill(Pid::from_raw(pid), Signal::SIGKILL))?;
            let _ = nix::sys::wait::waitpid(
                Pid::from_raw(pid),
                Some(nix::sys::wait::WaitPidFlag::WNOHANG),
            );
        }
    }
    Ok(count)
}

/// Whether this process has children, ended ones that nobody has reaped included.
///
/// # Errors
/// `/proc` is not there.
pub fn has_children() -> io::Result<bool> {
    let tasks = fs::read_dir("/proc/self/task")?.flatten();
    let mut children = tasks.map(|task| fs::read_to_string(task.path().join("children")));
    Ok(children.any(|list| list.is_ok_and(|list| !list.trim().is_empty())))
}

/// Whether this process inherits the orphans of its descendants.
///
/// # Errors
/// Those of prctl(2).
pub fn set_subreaper(wanted: bool) -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(wanted)?)
}

/// Ignores SIGIO, which the kernel sends when a read lease is to be broken and which would end this process.
///
/// # Errors
/// Those of sigaction(2).
#[expect(unsafe_code, reason = "signal dispositions")]
pub fn ignore_sigio() -> io::Result<()> {
    // SAFETY: SIG_IGN runs no code of ours.
    unsafe { signal(Signal::SIGIO, SigHandler::SigIgn) }?;
    Ok(())
}

/// The signals that this process ignores, signal 1 in the lowest bit: proc_pid_status(5), `SigIgn`.
///
/// # Errors
/// `/proc` is not there.
pub fn ignored_signals() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/self/status")?;
    let set = text
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    set.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// Sets this process's umask to 022.
pub fn usual_umask() {
    umask(Mode::from_bits_truncate(0o022));
}

/// Whether this process is root.
#[must_use]
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The kernel's random id of this boot.
///
/// # Errors
/// `/proc` is not there.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

/// A random UUID, by the kernel.
///
/// # Errors
/// `/proc` is not there.
pub fn random_uuid() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/uuid")?
        .trim()
        .to_owned())
}

/// How many processes the OOM killer ended since boot, in the whole machine.
#[derive(Debug)]
pub struct OomKills {
    vmstat: fs::File,
    /// When it was read last, and what it said.
    last: Cell<Option<(Instant, u64)>>,
}

impl OomKills {
    /// Opens the counter; `None` where the kernel does not count them.
    #[must_use]
    pub fn open() -> Option<OomKills> {
        let kills = OomKills {
            vmstat: fs::File::open("/proc/vmstat").ok()?,
            last: Cell::new(None),
        };
        kills.count().map(|_| kills)
    }

    /// What it said within the last 10 ms: the kernel sums up hundreds of numbers for each look.
    #[must_use]
    pub fn lately(&self) -> Option<u64> {
        match self.last.get() {
            Some((at, kills)) if at.elapsed() < Duration::from_millis(10) => Some(kills),
            _ => self.count(),
        }
    }

    /// What it says now.
    #[must_use]
    pub fn count(&self) -> Option<u64> {
        let mut buffer = [0; 16 * 1024];
        let mut have = 0;
        loop {
            let count = self
                .vmstat
                .read_at(buffer.get_mut(have..)?, have as u64)
                .ok()?;
            have += count;
            let whole = buffer.get(..have)?;
            if let Some(kills) = oom_kills(whole) {
                self.last.set(Some((Instant::now(), kills)));
                return Some(kills);
            }
            if count == 0 {
                return None;
            }
        }
    }
}

/// The number in a line that is there to its end.
fn oom_kills(vmstat: &[u8]) -> Option<u64> {
    let mut lines = vmstat.split_inclusive(|&byte| byte == b'\n');
    let digits = lines.find_map(|line| line.strip_prefix(b"oom_kill ")?.strip_suffix(b"\n"))?;
    str::from_utf8(digits).ok()?.parse().ok()
}

/// Waits until the child of `pidfd` has ended, and reaps it. For a child that is known to be ending.
///
/// # Errors
/// `ECHILD`: not our child.
pub fn reap_blocking(pidfd: &std::os::fd::OwnedFd) -> io::Result<()> {
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    use std::os::fd::AsFd;
    waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_of_a_line_that_is_cut_off_is_not_taken() {
        assert_eq!(oom_kills(b"drop_slab 5\noom_kill 12\nnuma 1\n"), Some(12));
        assert_eq!(oom_kills(b"drop_slab 5\noom_kill 12"), None);
        assert_eq!(oom_kills(b"no_oom_kill 7\n"), None);
    }

    #[test]
    fn kernel_counts_what_the_oom_killer_ends() {
        let kills = OomKills::open().unwrap();
        assert!(kills.count() <= kills.count());
    }
}
