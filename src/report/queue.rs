//! The queue: events that wait for the port, bounded; the oldest are dropped first. Whoever tells an event never waits.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use super::event::{Event, Line};
use crate::outcome::timestamp;

/// So many lines wait at most.
const MOST_LINES: usize = 1000;
/// And so many bytes.
const MOST_BYTES: usize = 1 << 20;
/// No line is longer, in bytes.
pub const LONGEST_LINE: usize = 64 * 1024;
/// Lines that are written together, in bytes: Linux's driver takes no more at once, so that what is shorter arrives whole or not at all.
const TOGETHER: usize = 32 * 1024;

/// Where events are told. Cheap to clone; all clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Outbox(Rc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    queue: RefCell<Queue>,
    /// Somebody outside can hear.
    connected: Cell<bool>,
    more: Notify,
    written: Notify,
}

impl Outbox {
    /// Tells an event to whoever listens, now or later.
    pub fn tell(&self, event: Event) {
        self.0.queue.borrow_mut().push(event, SystemTime::now());
        self.0.more.notify_one();
    }

    /// Waits until there may be something to send.
    pub async fn more(&self) {
        self.0.more.notified().await;
    }

    /// The next lines to send; the batch before is done.
    #[must_use]
    pub fn next(&self) -> Option<Batch> {
        let batch = self.0.queue.borrow_mut().take();
        if batch.is_none() {
            self.0.written.notify_one();
        }
        batch
    }

    /// What of a batch was not sent comes first again.
    pub fn give_back(&self, batch: Batch) {
        self.0.queue.borrow_mut().give_back(batch);
    }

    /// Whether somebody outside can hear now.
    pub fn set_connected(&self, connected: bool) {
        self.0.connected.set(connected);
        self.0.written.notify_one();
    }

    /// Whether what is told now is heard at once.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.0.connected.get() && self.0.queue.borrow().is_done()
    }

    /// Waits until everything is sent, but not for a host that is not there, and not for long.
    pub async fn flush(&self, bound: Duration) {
        let done = async {
            while self.0.connected.get() && !self.0.queue.borrow().is_done() {
                self.0.written.notified().await;
            }
        };
        // A host that does not read has been given its time.
        let _ = tokio::time::timeout(bound, done).await;
    }
}

/// The lines that wait, the oldest first.
#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(Line, usize)>,
    bytes: usize,
    last_seq: u64,
    dropped: u64,
    /// A batch was taken and is not sent yet.
    sending: bool,
}

/// Lines on their way.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    sent: usize,
    /// Each with the place where it begins.
    lines: Vec<(Line, usize)>,
}

impl Queue {
    fn is_done(&self) -> bool {
        self.waiting.is_empty() && !self.sending
    }

    fn push(&mut self, event: Event, at: SystemTime) {
        let seq = self.supersede(&event).unwrap_or_else(|| {
            self.last_seq += 1;
            self.last_seq
        });
        let mut line = Line {
            seq,
            at: timestamp(at),
            dropped: 0,
            event,
        };
        let length = bound(&mut line);
        self.bytes += length;
        self.waiting.push_back((line, length));
        while self.waiting.len() > MOST_LINES || self.bytes > MOST_BYTES {
            let Some((_, length)) = self.waiting.pop_front() else {
                break;
            };
            self.bytes -= length;
            self.dropped += 1;
        }
    }

    /// Progress that waits is out of date when the same script tells more; the new one takes its number.
    fn supersede(&mut self, event: &Event) -> Option<u64> {
        let Event::Progress { run_id: new, .. } = event else {
            return None;
        };
        let (last, length) = self.waiting.back()?;
        let Event::Progress { run_id: old, .. } = &last.event else {
            return None;
        };
        if old != new {
            return None;
        }
        let seq = last.seq;
        self.bytes -= length;
        self.waiting.pop_back();
        Some(seq)
    }

    fn take(&mut self) -> Option<Batch> {
        let mut batch = Batch::default();
        while let Some((mut line, length)) = self.waiting.pop_front() {
            let begin = batch.bytes.len();
            if begin > 0 && begin + length > TOGETHER {
                self.waiting.push_front((line, length));
                break;
            }
            self.bytes -= length;
            line.dropped = std::mem::take(&mut self.dropped);
            batch.bytes.append(&mut json(&line));
            batch.bytes.push(b'\n');
            batch.lines.push((line, begin));
        }
        self.sending = !batch.lines.is_empty();
        self.sending.then_some(batch)
    }

    fn give_back(&mut self, batch: Batch) {
        self.sending = false;
        let mut end = batch.bytes.len();
        for (mut line, begin) in batch.lines.into_iter().rev() {
            if end <= batch.sent {
                break;
            }
            end = begin;
            self.dropped += std::mem::take(&mut line.dropped);
            if begin < batch.sent {
                // Its rest would say nothing to a new reader.
                self.dropped += 1;
            } else {
                let length = bound(&mut line);
                self.bytes += length;
                self.waiting.push_front((line, length));
            }
        }
    }
}

impl Batch {
    /// What a new reader gets first: it may have the beginning of a line that was meant for the one before, and this ends it.
    #[must_use]
    pub fn line_feed() -> Batch {
        Batch {
            bytes: vec![b'\n'],
            ..Batch::default()
        }
    }

    /// What is still to be sent.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }

    /// So many more bytes were sent.
    pub fn sent(&mut self, count: usize) {
        self.sent += count;
    }
}

fn json(line: &Line) -> Vec<u8> {
    serde_json::to_vec(line).unwrap_or_default()
}

/// Makes the line short enough, and tells how long it is then.
fn bound(line: &mut Line) -> usize {
    /// For `dropped`, and the line feed.
    const MORE: usize = 40;
    let mut length = json(line).len() + MORE;
    if length > LONGEST_LINE
        && let Event::Status { status } = &mut line.event
    {
        status.passed_over.clear();
        length = json(line).len() + MORE;
    }
    if length > LONGEST_LINE {
        line.event = Event::Error {
            message: format!("an event of {length} bytes is too long for the port"),
        };
        length = json(line).len() + MORE;
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    fn error(text: &str) -> Event {
        Event::Error {
            message: text.to_owned(),
        }
    }

    fn progress(run_id: &str, fraction: f64) -> Event {
        Event::Progress {
            run_id: run_id.to_owned(),
            fraction,
            text: None,
        }
    }

    fn filled(events: impl IntoIterator<Item = Event>) -> Queue {
        let mut queue = Queue::default();
        for event in events {
            queue.push(event, UNIX_EPOCH);
        }
        queue
    }

    /// The lines of the next batch: number, dropped before it, the text of an error.
    fn sent(queue: &mut Queue) -> Vec<(u64, u64, String)> {
        let batch = queue.take().unwrap();
        read(batch.rest())
    }

    fn read(bytes: &[u8]) -> Vec<(u64, u64, String)> {
        let lines = bytes.split_inclusive(|&byte| byte == b'\n');
        let read = lines.map(|line| {
            assert!(line.len() <= LONGEST_LINE && line.ends_with(b"\n"));
            let line: Line = serde_json::from_slice(line).unwrap();
            let text = match line.event {
                Event::Error { message } => message,
                other => format!("{other:?}"),
            };
            (line.seq, line.dropped, text)
        });
        read.collect()
    }

    #[test]
    fn the_oldest_are_dropped_and_the_next_line_tells_how_many() {
        let mut queue = filled((0..MOST_LINES + 3).map(|n| error(&n.to_string())));
        let lines = sent(&mut queue);
        assert_eq!(lines[0], (4, 3, "3".to_owned()));
        assert_eq!(lines[1], (5, 0, "4".to_owned()));
        let long = "x".repeat(LONGEST_LINE / 2);
        let mut queue = filled((0..40).map(|_| error(&long)));
        let lines = sent(&mut queue);
        assert_eq!(lines.len(), 1, "two would be too much at once");
        assert!(lines[0].1 >= 40 - 32, "{}", lines[0].1);
        assert_eq!(lines[0].0, lines[0].1 + 1);
    }

    #[test]
    fn the_bytes_of_all_that_wait_are_known() {
        let mut queue = filled((0..10).map(|n| error(&n.to_string())));
        let whole = queue.bytes;
        let batch = queue.take().unwrap();
        assert_eq!((queue.bytes, queue.is_done()), (0, false));
        queue.give_back(batch);
        assert_eq!((queue.bytes, queue.waiting.len()), (whole, 10));
        assert!(queue.take().is_some());
        assert!(queue.take().is_none());
        assert!(queue.is_done());
    }

    #[test]
    fn a_line_that_is_too_long_is_told_and_not_sent() {
        let mut queue = filled([error(&"\u{1}".repeat(LONGEST_LINE / 4))]);
        let lines = sent(&mut queue);
        assert!(lines[0].2.contains("too long"), "{lines:?}");
    }

    #[test]
    fn a_half_sent_line_is_dropped_and_those_behind_it_stay() {
        let mut queue = filled(["a", "b", "c", "d"].map(error));
        let mut batch = queue.take().unwrap();
        let first = batch.rest().iter().position(|&byte| byte == b'\n').unwrap() + 1;
        batch.sent(first);
        batch.sent(3);
        queue.give_back(batch);
        let lines = sent(&mut queue);
        assert_eq!(
            lines,
            [(3, 1, "c".to_owned()), (4, 0, "d".to_owned())],
            "b is lost, and that is told"
        );
        let mut queue = filled(["a", "b"].map(error));
        let mut batch = queue.take().unwrap();
        batch.sent(first);
        queue.give_back(batch);
        assert_eq!(sent(&mut queue), [(2, 0, "b".to_owned())]);
        // Nothing of the first line was sent, and what it told of earlier drops is told again.
        let mut queue = filled((0..MOST_LINES + 1).map(|_| error("x")));
        let batch = queue.take().unwrap();
        queue.give_back(batch);
        assert_eq!(sent(&mut queue)[0], (2, 1, "x".to_owned()));
    }

    #[test]
    fn progress_that_waits_gives_way_to_newer_of_the_same_run() {
        let mut queue = filled([progress("a", 0.1), progress("a", 0.2), progress("b", 0.1)]);
        let lines = sent(&mut queue);
        let numbers: Vec<_> = lines.iter().map(|line| (line.0, line.1)).collect();
        assert_eq!(numbers, [(1, 0), (2, 0)]);
        assert!(lines[0].2.contains("0.2"), "{lines:?}");
    }
}
