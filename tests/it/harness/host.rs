//! The host's side of the port: a pseudo terminal, whose other end gvad has as its port.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Instant;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use serde_json::Value;

use super::{DEADLINE, Guest};

/// The host; dropped, it is gone.
pub(crate) struct Host {
    master: File,
    /// What came and is not a whole line yet.
    rest: RefCell<Vec<u8>>,
    /// Every line that came.
    pub(crate) lines: RefCell<Vec<Value>>,
    /// How many of them were asked for.
    seen: RefCell<usize>,
    name: PathBuf,
    link: PathBuf,
}

impl Host {
    /// A host that is there; the port's name is a symbolic link, as udev makes it.
    pub(crate) fn new(guest: &Guest) -> Self {
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        // What is said before gvad has the port open would come back as an echo.
        let mut settings = tcgetattr(&master).unwrap();
        cfmakeraw(&mut settings);
        tcsetattr(&master, SetArg::TCSANOW, &settings).unwrap();
        let name = PathBuf::from(ptsname_r(&master).unwrap());
        let master = File::from(std::os::fd::OwnedFd::from(master));
        guest.set("report.port", guest.text("port"));
        let host = Self {
            master,
            rest: RefCell::default(),
            lines: RefCell::default(),
            seen: RefCell::default(),
            name,
            link: guest.path("port"),
        };
        host.plug();
        host
    }

    /// The port gets its name.
    pub(crate) fn plug(&self) {
        let _ = fs::remove_file(&self.link);
        symlink(&self.name, &self.link).unwrap();
    }

    /// Says something, as it is.
    pub(crate) fn say(&self, text: &str) {
        (&self.master).write_all(text.as_bytes()).unwrap();
    }

    /// Sends a request, and gives the answer to it.
    #[track_caller]
    pub(crate) fn ask(&self, request: &str) -> Value {
        self.say(&format!("{request}\n"));
        let id = serde_json::from_str::<Value>(request).unwrap()["id"].clone();
        self.wait(&format!("the answer to {request}"), |line| {
            line["event"] == "answer" && line["id"] == id
        })
    }

    /// Waits for a line, and gives it; those before it are passed over.
    #[track_caller]
    pub(crate) fn wait(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + DEADLINE;
        loop {
            while let Some(line) = self.next() {
                if is_it(&line) {
                    return line;
                }
            }
            assert!(
                Instant::now() < until,
                "waited in vain for {what}; heard {:#?}",
                self.lines.borrow()
            );
            self.read(100);
        }
    }

    /// Waits for an event of that name.
    #[track_caller]
    pub(crate) fn wait_event(&self, event: &str) -> Value {
        self.wait(event, |line| line["event"] == event)
    }

    /// Everything that came up to now and was not asked for yet; for when gvad has ended.
    pub(crate) fn rest(&self) -> Vec<Value> {
        while self.read(0) {}
        std::iter::from_fn(|| self.next()).collect()
    }

    fn next(&self) -> Option<Value> {
        let mut seen = self.seen.borrow_mut();
        let line = self.lines.borrow().get(*seen).cloned()?;
        *seen += 1;
        Some(line)
    }

    /// Reads once; a line that is not JSON fails the test. False if nothing came.
    #[track_caller]
    fn read(&self, timeout: u16) -> bool {
        let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, PollTimeout::from(timeout)).unwrap();
        if ready == 0 {
            return false;
        }
        let mut buffer = [0; 64 * 1024];
        // EIO: nobody has the other end open.
        let count = match (&self.master).read(&mut buffer) {
            Ok(count) => count,
            Err(_) => {
                std::thread::sleep(std::time::Duration::from_millis(5));
                return false;
            }
        };
        let mut rest = self.rest.borrow_mut();
        rest.extend_from_slice(&buffer[..count]);
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            if !line.trim_ascii().is_empty() {
                let parsed = serde_json::from_slice(&line);
                let text = String::from_utf8_lossy(&line);
                let value = parsed.unwrap_or_else(|err| panic!("{text:?}: {err}"));
                self.lines.borrow_mut().push(value);
            }
        }
        true
    }
}

impl Drop for Host {
    /// Another test's host gets the same name next, and is not this gvad's.
    fn drop(&mut self) {
        if fs::read_link(&self.link).is_ok_and(|name| name == self.name) {
            let _ = fs::remove_file(&self.link);
        }
    }
}
