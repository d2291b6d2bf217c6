//! Flushing: bringing everything that was written to its place on the disks, so that the images can be read from outside while they are mounted.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::Mutex;

use crate::blocking::blocking;
use crate::sys::dir::Dir;
use crate::sys::file;

/// So long the end of a session waits for a flush that is under way.
const PATIENCE: Duration = Duration::from_secs(10);

/// The images that gvad mounted and writes to, whoever asks. Cheap to clone; all clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Flush(Rc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    roots: RefCell<Vec<Dir>>,
    /// One at a time.
    turn: Mutex<()>,
}

impl Flush {
    /// These images are in use from now on.
    pub fn begin(&self, roots: Vec<Dir>) {
        self.0.roots.replace(roots);
    }

    /// None is any more. Waits for a flush that is under way: it would keep the image busy.
    pub async fn end(&self) {
        self.0.roots.borrow_mut().clear();
        // A disk that does not answer keeps the unmounting waiting too, and that says so.
        let _ = tokio::time::timeout(PATIENCE, self.0.turn.lock()).await;
    }

    /// Flushes them all, on another thread: a large one takes its time.
    ///
    /// # Errors
    /// The kernel's answer.
    pub async fn all(&self) -> anyhow::Result<()> {
        let _turn = self.0.turn.lock().await;
        let roots: io::Result<Vec<Dir>> = {
            let roots = self.0.roots.borrow();
            roots.iter().map(Dir::try_clone).collect()
        };
        let roots = roots.context("opening an image")?;
        let work = blocking(move || {
            roots.iter().try_for_each(|root| {
                // While it is frozen whoever writes to it waits: most of the work is done before.
                file::sync_all(root)?;
                file::flush_journal(root)
            })
        });
        work.await
            .context("flushing the images")?
            .context("flushing an image")
    }
}
