//! Waiting for something new in script-bin with inotify, where it works; a look every `poll_interval` stands behind it. Yields hints, never facts.

use std::path::Path;
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tracing::warn;

/// Watches one directory.
#[derive(Debug)]
pub struct Watcher {
    hint: Arc<Notify>,
    _inotify: Option<RecommendedWatcher>,
}

impl Watcher {
    /// Watches `directory`. Where inotify cannot be had, polling alone remains.
    #[must_use]
    pub fn new(directory: &Path) -> Watcher {
        let hint = Arc::new(Notify::new());
        let wake = Arc::clone(&hint);
        let watching = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // An error or a lost event is a reason to look, like any other.
            if event.map_or(true, |event| {
                event.need_rescan() || may_bring_a_script(event.kind)
            }) {
                wake.notify_one();
            }
        })
        .and_then(|inotify| has_thread(inotify, &hint))
        .and_then(|mut inotify| {
            inotify
                .watch(directory, RecursiveMode::NonRecursive)
                .map(|()| inotify)
        });
        let inotify = watching
            .map_err(|err| {
                warn!(
                    "watching {} with inotify: {err}; polling alone remains",
                    directory.display()
                )
            })
            .ok();
        Watcher {
            hint,
            _inotify: inotify,
        }
    }

    /// Waits for a hint.
    pub async fn hint(&self) {
        self.hint.notified().await;
    }
}

/// The crate does not tell that its thread could not be started, and panics whenever it speaks to it, even when it is dropped. Without the thread
/// nobody holds the closure that wakes.
fn has_thread(
    inotify: RecommendedWatcher,
    hint: &Arc<Notify>,
) -> notify::Result<RecommendedWatcher> {
    if Arc::strong_count(hint) > 1 {
        return Ok(inotify);
    }
    let _kept = std::mem::ManuallyDrop::new(inotify);
    Err(notify::Error::generic("its thread could not be started"))
}

/// gvad's own opening, listing and moving out of the directory are events too; answering those would wake it for ever.
fn may_bring_a_script(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => matches!(access, AccessKind::Close(AccessMode::Write)),
        EventKind::Modify(ModifyKind::Name(rename)) => !matches!(rename, RenameMode::From),
        EventKind::Create(_) | EventKind::Modify(_) | EventKind::Any | EventKind::Other => true,
        EventKind::Remove(_) => false,
    }
}
