//! Descriptors that the runtime waits on.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Lets the runtime wait until `fd` can be read. Must be called within the runtime.
///
/// # Errors
/// The kind of file cannot be waited on, or no memory; the descriptor comes back.
#[expect(
    unsafe_code,
    reason = "tokio cannot know that the descriptor stays open"
)]
pub fn readable(fd: OwnedFd) -> Result<AsyncFd<OwnedFd>, (OwnedFd, io::Error)> {
    // SAFETY: the AsyncFd owns the descriptor, which therefore stays open until it is deregistered.
    let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    registered.map_err(tokio::io::unix::AsyncFdRegisterError::into_parts)
}
