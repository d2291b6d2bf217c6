//! Locks between processes: flock(2), which the kernel lets go when the holder dies.

use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

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
