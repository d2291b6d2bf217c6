//! What a script prints: from a pipe to a file, up to a limit, without a copy through this process; all of it is counted.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use tokio::io::unix::AsyncFd;

use crate::sys::pipe::{self, Moved, Relay};
use crate::sys::ready;

/// So much is moved at once, in bytes.
const CHUNK: usize = 1 << 20;
/// So much is taken at most once the script has ended, from whoever still holds the pipe, in bytes.
const LAST: u64 = 64 << 20;

/// Who prints so much at once gets a larger pipe, and a second one behind it, in bytes.
const MUCH: u64 = 32 << 10;

/// One stream of one run.
#[derive(Debug)]
pub struct Capture {
    pipe: AsyncFd<OwnedFd>,
    write_end: Option<OwnedFd>,
    sink: Sink,
    /// Nobody can print any more, and all is taken.
    ended: bool,
    /// The pipe has been made large.
    large: bool,
}

/// Where the bytes go.
#[derive(Debug)]
struct Sink {
    file: Rc<File>,
    /// Takes what is over the limit.
    nowhere: Rc<File>,
    limit: u64,
    seen: u64,
    kept: u64,
    error: Option<io::Error>,
    /// For who prints much. Empty between any two steps.
    relay: Option<Relay>,
}

/// What became of a stream.
#[derive(Debug, Default)]
pub struct Captured {
    /// Bytes printed.
    pub seen: u64,
    /// Not all of them are in the file.
    pub truncated: bool,
    /// Why, if it was not the limit.
    pub error: Option<String>,
}

impl Capture {
    /// A new pipe whose contents go to `file`, of which `limit` bytes are kept.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(file: Rc<File>, nowhere: Rc<File>, limit: u64) -> io::Result<Capture> {
        let (read, write) = pipe::make()?;
        let pipe = ready::readable(read).map_err(|(_, err)| err)?;
        let sink = Sink {
            file,
            nowhere,
            limit,
            seen: 0,
            kept: 0,
            error: None,
            relay: None,
        };
        Ok(Capture {
            pipe,
            write_end: Some(write),
            sink,
            ended: false,
            large: false,
        })
    }

    /// The end for the script; `None` once it has been let go.
    #[must_use]
    pub fn write_end(&self) -> Option<BorrowedFd<'_>> {
        self.write_end.as_ref().map(AsFd::as_fd)
    }

    /// Closes this process's copy of the script's end: from now on the stream ends when the script's tree has.
    pub fn started(&mut self) {
        self.write_end = None;
    }

    /// Moves what comes until the stream ends. May be dropped at any await; nothing is lost by it.
    pub async fn pump(&mut self) {
        while !self.ended {
            let Ok(mut ready) = self.pipe.readable().await else {
                return;
            };
            loop {
                match self.sink.step(self.pipe.get_ref()) {
                    Moved::Bytes(count) => {
                        if count >= MUCH && !std::mem::replace(&mut self.large, true) {
                            pipe::enlarge(self.pipe.get_ref());
                            // Without one it only takes longer.
                            self.sink.relay = Relay::new().ok();
                        }
                        tokio::task::yield_now().await;
                    }
                    Moved::Nothing => break,
                    Moved::End => {
                        self.ended = true;
                        return;
                    }
                }
            }
            ready.clear_ready();
        }
    }

    /// Takes what is in the pipe now, but only a bounded part of what somebody goes on printing, and closes it.
    #[must_use]
    pub fn finish(self) -> Captured {
        let mut sink = self.sink;
        let until = sink.seen.saturating_add(LAST);
        while !self.ended
            && sink.seen < until
            && matches!(sink.step(self.pipe.get_ref()), Moved::Bytes(_))
        {}
        Captured {
            seen: sink.seen,
            truncated: sink.kept < sink.seen,
            error: sink.error.map(|err| err.to_string()),
        }
    }
}

impl Sink {
    fn step(&mut self, pipe: &OwnedFd) -> Moved {
        let room = usize::try_from(self.limit.saturating_sub(self.kept)).unwrap_or(usize::MAX);
        if room > 0 && self.error.is_none() {
            let most = room.min(CHUNK);
            let moved = match &self.relay {
                Some(relay) => relay.take(pipe, most),
                None => pipe::transfer(pipe, &self.file, Some(&mut offset(self.kept)), most),
            };
            match moved {
                Ok(Moved::Bytes(count)) => {
                    self.seen += count;
                    match self.relay.take() {
                        Some(relay) => self.relay = self.pass_on(relay, count),
                        None => self.kept += count,
                    }
                    return Moved::Bytes(count);
                }
                Ok(other) => return other,
                // The rest is only counted, so that the script does not wait for ever.
                Err(err) => self.error = Some(err),
            }
        }
        match pipe::transfer(pipe, &self.nowhere, None, CHUNK) {
            Ok(Moved::Bytes(count)) => {
                self.seen += count;
                Moved::Bytes(count)
            }
            Ok(other) => other,
            Err(_) => Moved::End,
        }
    }

    /// Moves the `count` bytes that are in `relay` to the file. Gives it back, empty, unless the file did not take them all: then what is left is
    /// dropped with it.
    fn pass_on(&mut self, relay: Relay, count: u64) -> Option<Relay> {
        let until = self.kept + count;
        while self.kept < until {
            let left = usize::try_from(until - self.kept).unwrap_or(CHUNK);
            match relay.give(&self.file, Some(&mut offset(self.kept)), left) {
                Ok(Moved::Bytes(moved)) => self.kept += moved,
                Ok(Moved::Nothing | Moved::End) => {
                    self.error = Some(io::ErrorKind::WriteZero.into());
                    return None;
                }
                Err(err) => {
                    self.error = Some(err);
                    return None;
                }
            }
        }
        Some(relay)
    }
}

fn offset(at: u64) -> i64 {
    i64::try_from(at).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn capture(limit: u64, print: &[&[u8]]) -> (Captured, Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _guard = runtime.enter();
        let file = tempfile::NamedTempFile::new().unwrap();
        let nowhere = Rc::new(File::options().write(true).open("/dev/null").unwrap());
        let mut capture = Capture::new(Rc::new(file.reopen().unwrap()), nowhere, limit).unwrap();
        let mut script = File::from(capture.write_end().unwrap().try_clone_to_owned().unwrap());
        capture.started();
        let parts: Vec<Vec<u8>> = print.iter().map(|part| part.to_vec()).collect();
        let writer = std::thread::spawn(move || {
            parts
                .iter()
                .for_each(|part| script.write_all(part).unwrap())
        });
        runtime.block_on(capture.pump());
        writer.join().unwrap();
        (capture.finish(), std::fs::read(file.path()).unwrap())
    }

    #[test]
    fn all_is_counted_and_the_limit_is_exact() {
        let big = vec![b'x'; 3_000_000];
        for (limit, expected) in [
            (0, 0),
            (1, 1),
            (2_999_999, 2_999_999),
            (3_000_003, 3_000_003),
            (9_000_000, 3_000_003),
        ] {
            let (captured, kept) = capture(limit, &[b"abc", &big]);
            assert_eq!(captured.seen, 3_000_003);
            assert_eq!(kept.len() as u64, expected, "limit {limit}");
            assert_eq!(captured.truncated, expected < 3_000_003);
            assert!(captured.error.is_none());
        }
    }

    #[test]
    fn a_script_that_prints_nothing_leaves_nothing() {
        let (captured, kept) = capture(10, &[]);
        assert_eq!(
            (captured.seen, captured.truncated, kept.len()),
            (0, false, 0)
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_is_printed_in_whatever_pieces_is_counted_and_kept_up_to_the_limit(
            sizes in proptest::collection::vec(prop_oneof![0..20_usize, 0..200_000_usize], 0..12),
            part in 0..=150_u64,
        ) {
            let total: usize = sizes.iter().sum();
            // From nothing to more than is printed, and often just about all.
            let limit = if part > 140 { (total as u64 + part).saturating_sub(145) } else { total as u64 * part / 100 };
            let whole: Vec<u8> = (0..total).map(|at| (at % 251) as u8).collect();
            let mut rest = &whole[..];
            let mut pieces = Vec::new();
            for size in sizes {
                let (piece, behind) = rest.split_at(size);
                pieces.push(piece);
                rest = behind;
            }
            let (captured, kept) = capture(limit, &pieces);
            prop_assert_eq!(captured.seen, total as u64);
            prop_assert_eq!(captured.truncated, total as u64 > limit);
            prop_assert!(captured.error.is_none());
            prop_assert!(kept == whole[..whole.len().min(limit as usize)], "{} bytes kept of {}, limit {}", kept.len(), total, limit);
        }
    }
}
