//! The host's end of the events port.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use gvad::outcome::RunResult;
use gvad::report::event::{Command, Event, Line, Request};

use crate::{PATIENCE, wait_for};

/// A connection to the port. Events are read as they come.
#[derive(Debug)]
pub struct Port {
    stream: UnixStream,
    lines: Receiver<String>,
    /// All events that were read so far, in their order.
    pub seen: Vec<Line>,
    requests: u32,
}

impl Port {
    /// Connects to QEMU's socket.
    #[must_use]
    pub fn connect(socket: &Path) -> Port {
        let stream = wait_for("the port", || UnixStream::connect(socket).ok());
        let (sender, lines) = channel();
        let reader = BufReader::new(stream.try_clone().unwrap());
        std::thread::spawn(move || {
            for line in reader.lines() {
                let Ok(line) = line else { return };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Port {
            stream,
            lines,
            seen: Vec::new(),
            requests: 0,
        }
    }

    /// Connects, and never reads.
    #[must_use]
    pub fn connect_unread(socket: &Path) -> Port {
        let stream = wait_for("the port", || UnixStream::connect(socket).ok());
        Port {
            stream,
            lines: channel().1,
            seen: Vec::new(),
            requests: 0,
        }
    }

    /// The next event; `None` if there is none within `limit`, or the machine has ended.
    pub fn next(&mut self, limit: Duration) -> Option<Line> {
        let text = match self.lines.recv_timeout(limit) {
            Ok(text) => text,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
        };
        // Each connection begins with an empty line, which ends what was cut off.
        if text.is_empty() {
            return self.next(limit);
        }
        // What was sent before this side was there may begin in the middle.
        match serde_json::from_str::<Line>(&text) {
            Ok(line) => {
                self.seen.push(line.clone());
                Some(line)
            }
            Err(_) if self.seen.is_empty() => self.next(limit),
            Err(err) => panic!("not an event: {err}: {text}"),
        }
    }

    /// Waits for an event that `is` agrees to.
    pub fn wait(&mut self, what: &str, is: impl Fn(&Event) -> bool) -> Line {
        let until = Instant::now() + PATIENCE;
        while let Some(line) = self.next(until.saturating_duration_since(Instant::now())) {
            if is(&line.event) {
                return line;
            }
        }
        panic!("waited in vain for {what}; these came: {:#?}", self.seen);
    }

    /// Waits for the result of a script.
    pub fn result(&mut self, script: &str) -> RunResult {
        let line = self.wait(
            &format!("the result of {script}"),
            |event| matches!(event, Event::Finished { result } if result.name.script == script),
        );
        match line.event {
            Event::Finished { result } => *result,
            other => panic!("{other:?}"),
        }
    }

    /// The results of the events that were read so far.
    #[must_use]
    pub fn results(&self) -> Vec<&RunResult> {
        let results = self.seen.iter().filter_map(|line| match &line.event {
            Event::Finished { result } => Some(&**result),
            _ => None,
        });
        results.collect()
    }

    /// Asks for something, and waits for the answer: whether it was done, and why not.
    pub fn ask(&mut self, command: Command) -> (bool, Option<String>) {
        self.requests += 1;
        let id = format!("test-{}", self.requests);
        let request = Request {
            id: Some(id.clone()),
            command,
        };
        self.say(&serde_json::to_string(&request).unwrap());
        let line = self.wait(
            "the answer",
            |event| matches!(event, Event::Answer { id: Some(this), .. } if *this == id),
        );
        match line.event {
            Event::Answer { ok, message, .. } => (ok, message),
            other => panic!("{other:?}"),
        }
    }

    /// Sends a line as it is.
    pub fn say(&mut self, line: &str) {
        writeln!(self.stream, "{line}").unwrap();
    }
}
