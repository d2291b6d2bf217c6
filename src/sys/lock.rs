//! Locks between processes: flock(2), which the kernel lets go when the holder dies.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// How a thing is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// By one holder.
    Exclusive,
    /// By any number of readers.
    Shared,
}

/// A lock that is held until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Lock {
    _held: Flock<OwnedFd>,
}

/// Locks what the descriptor stands for, without waiting; `None` if somebody else holds it.
///
/// # Errors
/// Those of flock(2).
pub fn try_lock(file: impl AsFd, mode: Mode) -> io::Result<Option<Lock>> {
    let arg = match mode {
        Mode::Exclusive => FlockArg::LockExclusiveNonblock,
        Mode::Shared => FlockArg::LockSharedNonblock,
    };
    // A duplicate shares the lock with the original: both must be closed before it goes, so nobody else may hold the original.
    let own = file.as_fd().try_clone_to_owned()?;
    match Flock::lock(own, arg) {
        Ok(held) => Ok(Some(Lock { _held: held })),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, err)) => Err(err.into()),
    }
}
