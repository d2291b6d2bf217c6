//! Locks between processes: flock(2), which the kernel lets go when the holder dies.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::{Duration, Instant};

use super::blockdev::numbers;

/// How a thing is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// By one holder.
    Exclusive,
    /// By any number of readers.
    Shared,
}

/// A lock. It belongs to the open file, so it is held until this and every other descriptor of that file are closed.
#[derive(Debug)]
#[must_use]
pub struct Lock(#[expect(dead_code, reason = "held, not used")] File);

/// Locks what the descriptor stands for, without waiting; `None` if somebody else holds it.
///
/// # Errors
/// Those of flock(2).
pub fn try_lock(file: impl AsFd, mode: Mode) -> io::Result<Option<Lock>> {
    let file = File::from(file.as_fd().try_clone_to_owned()?);
    let answer = match mode {
        Mode::Exclusive => file.try_lock(),
        Mode::Shared => file.try_lock_shared(),
    };
    match answer {
        Ok(()) => Ok(Some(Lock(file))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(err)) => Err(err),
    }
}

/// Who holds the lock on what the descriptor stands for: the process that took it; proc_locks(5). `None` where the kernel does not tell, as from another
/// PID namespace, or on btrfs, which shows files under another device there.
fn holder(file: impl AsFd) -> Option<u32> {
    let file = File::from(file.as_fd().try_clone_to_owned().ok()?);
    let meta = file.metadata().ok()?;
    let (major, minor) = numbers(meta.dev());
    let place = format!("{major:02x}:{minor:02x}:{}", meta.ino());
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        // A line with "->" behind its number is of one who waits.
        let [_, "FLOCK", _, _, pid, at, ..] = line.split_whitespace().collect::<Vec<_>>()[..]
        else {
            return None;
        };
        let pid = pid.parse().ok().filter(|pid| *pid > 0);
        pid.filter(|_| at == place)
    })
}

/// The same for a message, behind a noun: ` (process 17)`, or nothing.
#[must_use]
pub fn by_whom(file: impl AsFd) -> String {
    holder(file).map_or_else(String::new, |pid| format!(" (process {pid})"))
}

/// As [`try_lock`], but a holder that lets go within `patience` is waited for: a child that a killed process had just made has all of its files open,
/// and so its locks, until it executes its program or ends.
///
/// # Errors
/// As [`try_lock`].
pub fn lock_within(file: impl AsFd, mode: Mode, patience: Duration) -> io::Result<Option<Lock>> {
    const STEP: Duration = Duration::from_millis(5);
    let until = Instant::now() + patience;
    loop {
        match try_lock(&file, mode)? {
            None if Instant::now() < until => thread::sleep(STEP),
            answer => return Ok(answer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_a_lock_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let open = || File::open(dir.path()).unwrap();
        assert_eq!(holder(open()), None);
        let lock = try_lock(open(), Mode::Exclusive).unwrap();
        assert_eq!(holder(open()), Some(std::process::id()));
        drop(lock);
        assert_eq!(holder(open()), None);
    }
}
