//! The way out for what is shown while the machine runs. A thread of its own writes: whoever stops reading holds up neither signals nor limits of time.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use tokio::time::sleep;

/// With more than this on its way the guest is not listened to, and so more does not come.
const FULL: usize = 1 << 20;

/// Where to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stream {
    Output,
    Error,
}

/// Writes, in order.
#[derive(Debug)]
pub(super) struct Out {
    to: Sender<(Stream, String)>,
    /// Bytes that are not written yet.
    waiting: Arc<AtomicUsize>,
}

impl Out {
    /// Starts the thread.
    pub(super) fn new() -> io::Result<Out> {
        let (to, from) = channel::<(Stream, String)>();
        let waiting = Arc::new(AtomicUsize::new(0));
        let left = Arc::clone(&waiting);
        let write = move || {
            for (stream, text) in from {
                // Nobody may be listening; the exit status says the rest.
                let _ = match stream {
                    Stream::Output => io::stdout().write_all(text.as_bytes()),
                    Stream::Error => io::stderr().write_all(text.as_bytes()),
                };
                left.fetch_sub(text.len(), Ordering::Relaxed);
            }
        };
        thread::Builder::new().name("output".into()).spawn(write)?;
        Ok(Out { to, waiting })
    }

    /// Some time soon.
    pub(super) fn write(&self, stream: Stream, text: String) {
        self.waiting.fetch_add(text.len(), Ordering::Relaxed);
        // The thread ends with us.
        let _ = self.to.send((stream, text));
    }

    /// Whether nobody reads, or not as quickly.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > FULL
    }

    /// When all is written.
    pub(super) async fn written(&self) {
        while self.waiting.load(Ordering::Relaxed) > 0 {
            sleep(Duration::from_millis(2)).await;
        }
    }
}
