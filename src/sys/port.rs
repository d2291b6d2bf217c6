//! Ports to the host: character devices such as those of virtio-serial, read and written without ever waiting in the kernel. What is said over
//! them is for others.
//!
//! Relies on open(2), epoll(7), termios(3), and on these manners of Linux's `virtio_console`: it opens for one process alone (`EBUSY`); while
//! the host is not connected, poll(2) tells `POLLHUP`, read(2) gives 0 and write(2) `EAGAIN`; each change of that wakes who waits.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use tokio::io::unix::AsyncFd;

use super::ready;

/// An open port.
#[derive(Debug)]
pub struct Port {
    file: File,
    /// An epoll of its own: the runtime never forgets that a descriptor was hung up, but a host comes again.
    epoll: Epoll,
    changes: AsyncFd<OwnedFd>,
}

/// How a port stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// There is something to read.
    pub readable: bool,
    /// There is room to write.
    pub writable: bool,
    /// The other side is not connected.
    pub hung_up: bool,
    /// The device is no good any more.
    pub failed: bool,
}

impl Port {
    /// Opens the character device that `path` names; symbolic links are followed, udev makes them. Must be called within the runtime.
    ///
    /// # Errors
    /// It is no character device, or one that cannot be waited on (`EPERM`); `EBUSY`: another process has it; else those of open(2).
    pub fn open(path: &Path) -> io::Result<Port> {
        // Looked at first: opening some other things has effects.
        let is_device = |meta: fs::Metadata| meta.file_type().is_char_device();
        let wrong = || io::Error::other("it is not a character device");
        if !is_device(fs::metadata(path)?) {
            return Err(wrong());
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)?;
        if !is_device(file.metadata()?) {
            return Err(wrong());
        }
        // A serial line would echo what comes in and change what goes out.
        if let Ok(mut settings) = tcgetattr(&file) {
            cfmakeraw(&mut settings);
            tcsetattr(&file, SetArg::TCSANOW, &settings)?;
        }
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let wanted = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        epoll.add(&file, EpollEvent::new(wanted, 0))?;
        let changes = ready::readable(epoll.0.try_clone()?).map_err(|(_, err)| err)?;
        Ok(Port {
            file,
            epoll,
            changes,
        })
    }

    /// Waits until something about the port changes; the first time, until it is of any use. How it stands then.
    ///
    /// # Errors
    /// Those of epoll(7).
    pub async fn changed(&self) -> io::Result<Standing> {
        loop {
            let mut guard = self.changes.readable().await?;
            let mut events = [EpollEvent::empty()];
            let count = self.epoll.wait(&mut events, EpollTimeout::ZERO)?;
            guard.clear_ready();
            if count > 0 {
                let has = |flag| events.iter().any(|event| event.events().contains(flag));
                return Ok(Standing {
                    readable: has(EpollFlags::EPOLLIN),
                    writable: has(EpollFlags::EPOLLOUT),
                    hung_up: has(EpollFlags::EPOLLHUP),
                    failed: has(EpollFlags::EPOLLERR),
                });
            }
        }
    }

    /// Reads what is there; 0 if there is nothing now, or nobody.
    ///
    /// # Errors
    /// Those of read(2); the port is no good any more.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        or_nothing(|| (&self.file).read(buffer))
    }

    /// Writes what there is room for; 0 if there is none now.
    ///
    /// # Errors
    /// Those of write(2); the port is no good any more.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        or_nothing(|| (&self.file).write(bytes))
    }

    /// Whether `path` still names this device.
    #[must_use]
    pub fn is_at(&self, path: &Path) -> bool {
        let who = |meta: fs::Metadata| (meta.dev(), meta.ino(), meta.rdev());
        match (self.file.metadata(), fs::metadata(path)) {
            (Ok(own), Ok(there)) => who(own) == who(there),
            _ => false,
        }
    }
}

fn or_nothing(mut act: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match act() {
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            other => return other,
        }
    }
}
