//! Pipes, and moving what is in them to a file without a copy through this process: pipe(2), splice(2).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;

/// A new pipe: the end to read from, which [`transfer`] never waits for, and the end to write to. Neither is inherited.
///
/// # Errors
/// Those of pipe(2).
pub fn make() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe2(OFlag::O_CLOEXEC)?)
}

/// Makes room for more in a pipe: fewer turns for who prints much.
pub fn enlarge(pipe: &OwnedFd) {
    // The limit of an unprivileged user is no error.
    let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(256 * 1024));
}

/// What one turn at the pipe moved.
#[derive(Debug, PartialEq, Eq)]
pub enum Moved {
    /// So many bytes.
    Bytes(u64),
    /// Nothing is there now; the other end is still open.
    Nothing,
    /// The other end is closed and all is read.
    End,
}

/// Moves at most `limit` bytes from the pipe to `to`, at `offset` if that is given. An empty pipe is not waited for.
///
/// # Errors
/// What writing to `to` gave; the bytes are still in the pipe then.
pub fn transfer(
    from: &OwnedFd,
    to: &File,
    offset: Option<&mut i64>,
    limit: usize,
) -> io::Result<Moved> {
    let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
    match splice(from, None, to.as_fd(), offset, limit, flags) {
        Ok(0) => Ok(Moved::End),
        Ok(count) => Ok(Moved::Bytes(count as u64)),
        Err(Errno::EAGAIN) => Ok(Moved::Nothing),
        Err(err) => Err(err.into()),
    }
}
