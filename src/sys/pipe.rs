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

/// A large pipe holds so much, in bytes: what an unprivileged user may have as well (pipe(7), `pipe-max-size`).
const LARGE: i32 = 1 << 20;

/// Makes room for more in a pipe: fewer turns for who prints much.
pub fn enlarge(pipe: &OwnedFd) {
    // Where the kernel does not want to, the pipe is as large as it was.
    let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(LARGE));
}

/// A pipe of this process's own between a script's pipe and a file. Moving from pipe to pipe copies nothing; moving to a file does, and
/// keeps the pipe locked for so long. With this one between them the script can fill its own meanwhile.
#[derive(Debug)]
pub struct Relay {
    read: OwnedFd,
    write: OwnedFd,
}

impl Relay {
    /// A large one, empty.
    ///
    /// # Errors
    /// Those of pipe(2).
    pub fn new() -> io::Result<Relay> {
        let (read, write) = make()?;
        enlarge(&read);
        Ok(Relay { read, write })
    }

    /// Takes at most `limit` bytes from the pipe, and not more than fit. An empty pipe is not waited for; this one must be empty.
    ///
    /// # Errors
    /// Those of splice(2); the bytes are still in the pipe then.
    pub fn take(&self, from: &OwnedFd, limit: usize) -> io::Result<Moved> {
        transfer(from, &self.write, None, limit)
    }

    /// Moves at most `limit` bytes of what it holds to `to`, at `offset` if that is given.
    ///
    /// # Errors
    /// As [`transfer`].
    pub fn give(&self, to: &File, offset: Option<&mut i64>, limit: usize) -> io::Result<Moved> {
        transfer(&self.read, to, offset, limit)
    }
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
    to: &impl AsFd,
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
