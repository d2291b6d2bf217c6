//! Whether the machine is being shut down: a script that says `reboot` may end before systemd's SIGTERM arrives here, and the script behind it must
//! not be started into that.
//!
//! systemd knows from the moment at which the job is queued. It is asked by its own socket, in the few bytes of D-Bus that this takes: `systemctl
//! is-system-running` would be one more process for each script.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::warn;

/// PID 1 answers at once, or hangs.
const BOUND: Duration = Duration::from_secs(1);
/// More than any answer has.
const LONGEST_ANSWER: usize = 64 << 10;
const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;

/// Asks systemd.
#[derive(Debug)]
pub struct Shutdown {
    socket: PathBuf,
    asked: Cell<bool>,
    silent: Cell<bool>,
}

impl Shutdown {
    /// With systemd at this socket.
    #[must_use]
    pub fn new(socket: PathBuf) -> Shutdown {
        Shutdown {
            socket,
            asked: Cell::new(false),
            silent: Cell::new(false),
        }
    }

    /// Why no script may be started, if the machine is going down.
    #[must_use]
    pub fn blocks(&self) -> Option<String> {
        let why = "the machine is being shut down";
        self.under_way().then(|| why.to_owned())
    }

    /// The first script is not delayed by the question: nothing has run that could have shut the machine down.
    fn under_way(&self) -> bool {
        if !self.asked.replace(true) || self.silent.get() {
            return false;
        }
        match system_state(&self.socket) {
            Ok(state) => state == b"stopping",
            // Not booted with systemd.
            Err(err) if err.kind() == io::ErrorKind::NotFound => false,
            Err(err) => {
                self.silent.set(true);
                warn!(
                    "asking systemd whether the machine is going down: {err}; it is not asked again"
                );
                false
            }
        }
    }
}

/// `SystemState` of org.freedesktop.systemd1(5): "running", "degraded", …, "stopping".
fn system_state(socket: &Path) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(BOUND))?;
    stream.set_write_timeout(Some(BOUND))?;
    // 30 is the user id 0, in hexadecimal ASCII. systemd forgets a message that comes together with this.
    stream.write_all(b"\0AUTH EXTERNAL 30\r\nBEGIN\r\n")?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n") {
        more(&mut stream, &mut answer)?;
    }
    if !answer.starts_with(b"OK ") {
        return Err(malformed());
    }
    stream.write_all(&question())?;
    answer.clear();
    loop {
        if let Some(state) = state_in(&answer)? {
            return Ok(state);
        }
        more(&mut stream, &mut answer)?;
    }
}

fn more(stream: &mut UnixStream, answer: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 1024];
    let length = stream.read(&mut buffer)?;
    if length == 0 || answer.len() > LONGEST_ANSWER {
        return Err(malformed());
    }
    answer.extend(buffer.iter().take(length));
    Ok(())
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "an answer of another form")
}

/// The call of `org.freedesktop.DBus.Properties.Get`; D-Bus specification, "Message Format".
fn question() -> Vec<u8> {
    let mut fields = Vec::new();
    field(&mut fields, 1, b'o', b"/org/freedesktop/systemd1");
    field(&mut fields, 2, b's', b"org.freedesktop.DBus.Properties");
    field(&mut fields, 3, b's', b"Get");
    field(&mut fields, 6, b's', b"org.freedesktop.systemd1");
    pad(&mut fields, 8);
    fields.extend(b"\x08\x01g\0\x02ss\0");
    let mut body = Vec::new();
    string(&mut body, b"org.freedesktop.systemd1.Manager");
    string(&mut body, b"SystemState");
    let mut message = vec![b'l', METHOD_CALL, 0, 1];
    message.extend(size(&body));
    message.extend(1_u32.to_le_bytes());
    message.extend(size(&fields));
    message.extend(fields);
    pad(&mut message, 8);
    message.extend(body);
    message
}

/// A field of the header, whose value is a string.
fn field(to: &mut Vec<u8>, code: u8, kind: u8, value: &[u8]) {
    pad(to, 8);
    to.extend([code, 1, kind, 0]);
    string(to, value);
}

fn string(to: &mut Vec<u8>, value: &[u8]) {
    pad(to, 4);
    to.extend(size(value));
    to.extend(value);
    to.push(0);
}

fn size(of: &[u8]) -> [u8; 4] {
    u32::try_from(of.len()).unwrap_or(u32::MAX).to_le_bytes()
}

fn pad(to: &mut Vec<u8>, align: usize) {
    to.resize(to.len().next_multiple_of(align), 0);
}

/// The state in what has arrived; `None` if more must come.
fn state_in(answer: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut messages = answer;
    while let (Some(&[order, kind, ..]), Some(body), Some(fields)) = (
        messages.first_chunk::<4>(),
        number(messages, 4),
        number(messages, 12),
    ) {
        if order != b'l' || body > LONGEST_ANSWER || fields > LONGEST_ANSWER {
            return Err(malformed());
        }
        let start = 16 + fields.next_multiple_of(8);
        let (Some(whole), Some(rest)) = (
            messages.get(start..start + body),
            messages.get(start + body..),
        ) else {
            return Ok(None);
        };
        match kind {
            METHOD_RETURN => return variant(whole).map(Some).ok_or_else(malformed),
            ERROR => return Err(malformed()),
            _ => messages = rest,
        }
    }
    Ok(None)
}

/// The string in a variant.
fn variant(body: &[u8]) -> Option<Vec<u8>> {
    let length = number(body.strip_prefix(b"\x01s\0\0")?, 0)?;
    body.get(8..8 + length).map(<[u8]>::to_vec)
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let four = bytes.get(at..)?.first_chunk::<4>()?;
    usize::try_from(u32::from_le_bytes(*four)).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;
    use std::time::Instant;

    use super::*;

    /// What systemd 252 answered.
    fn answer(state: &[u8]) -> Vec<u8> {
        let mut body = b"\x01s\0\0".to_vec();
        body.extend(size(state));
        body.extend(state);
        body.push(0);
        let fields = b"\x05\x01u\0\x01\0\0\0\x08\x01g\0\x01v\0";
        let mut message = vec![b'l', METHOD_RETURN, 1, 1];
        message.extend(size(&body));
        message.extend(7_u32.to_le_bytes());
        message.extend(size(fields));
        message.extend(fields);
        pad(&mut message, 8);
        message.extend(body);
        message
    }

    /// The second question, to a systemd that answers so, in two pieces.
    fn asked(welcome: &'static [u8], answer: Vec<u8>) -> bool {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("private");
        let listener = UnixListener::bind(&path).unwrap();
        let systemd = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut greeting = [0; 26];
            stream.read_exact(&mut greeting).unwrap();
            assert!(greeting.ends_with(b"\r\nBEGIN\r\n"));
            stream.write_all(welcome).unwrap();
            let mut asked = vec![0; question().len()];
            // Who was not welcomed does not ask.
            if stream.read_exact(&mut asked).is_ok() {
                assert_eq!(asked, question());
                let (one, two) = answer.split_at(answer.len() / 2);
                let _ = stream.write_all(one);
                let _ = stream.write_all(two);
            }
        });
        let shutdown = Shutdown::new(path);
        assert!(!shutdown.under_way(), "the first is not asked");
        let under_way = shutdown.under_way();
        systemd.join().unwrap();
        under_way
    }

    #[test]
    fn machine_that_is_going_down_is_known() {
        assert!(asked(b"OK 12\r\n", answer(b"stopping")));
        for state in ["running", "degraded", "starting", ""] {
            assert!(!asked(b"OK 12\r\n", answer(state.as_bytes())), "{state}");
        }
    }

    #[test]
    fn answers_of_any_other_form_are_no_reason_to_wait() {
        let whole = answer(b"stopping");
        for length in 0..whole.len() - 1 {
            assert!(!asked(b"OK 1\r\n", whole[..length].to_vec()), "{length}");
        }
        assert!(!asked(b"REJECTED\r\n", whole.clone()));
        assert!(!asked(b"OK 1\r\n", vec![0xff; 100]));
        assert!(!asked(
            b"OK 1\r\n",
            [b"l\x02\0\x01".as_slice(), &[0xff; 12]].concat()
        ));
    }

    #[test]
    fn systemd_that_hangs_is_asked_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("private");
        let _listener = UnixListener::bind(&path).unwrap();
        let shutdown = Shutdown::new(path);
        assert!(!shutdown.under_way());
        assert!(!shutdown.under_way());
        let begun = Instant::now();
        assert!(!shutdown.under_way());
        assert!(begun.elapsed() < BOUND / 2);
        let none = Shutdown::new(dir.path().join("none"));
        assert!(!none.under_way() && !none.under_way() && !none.silent.get());
    }
}
