//! What is only there while gva works: half-made files and private directories. They are removed at every end: by their owner's drop, and when a
//! signal ends gva, here.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, bail};
use gvad::sys::lock::{Mode, try_lock};
use nix::sys::signal::{SigSet, Signal, raise};
use tempfile::{NamedTempFile, TempDir, TempPath};

/// What a signal removes.
static LEFT: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn remember(path: &Path) {
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    left.push(path.to_owned());
}

fn forget(path: &Path) {
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    left.retain(|known| known != path);
}

/// From here on SIGINT, SIGTERM and SIGHUP remove what is left, and then end gva as they would have. For commands that have no better answer to
/// a signal. Called before any other thread is there.
pub(crate) fn removed_on_signals() -> anyhow::Result<()> {
    let signals = ending();
    // Children start with an empty mask: the standard library sees to it.
    signals.thread_block().context("blocking signals")?;
    let wait = move || {
        let Ok(signal) = signals.wait() else { return };
        let left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
        for path in left.iter() {
            // It may be gone already; there is nobody left to tell.
            let _ = fs::remove_dir_all(path).or_else(|_| fs::remove_file(path));
        }
        // The lock is kept: nothing new is made in between.
        let _ = signals.thread_unblock();
        let _ = raise(signal);
    };
    thread::Builder::new()
        .name("signals".into())
        .spawn(wait)
        .context("starting a thread")?;
    Ok(())
}

/// From here on the same signals wait, until somebody is there who answers them; what is made in between is removed by its owner.
pub(crate) fn hold_signals_back() -> anyhow::Result<()> {
    ending().thread_block().context("blocking signals")
}

/// They need not wait any more.
pub(crate) fn let_signals_through() -> anyhow::Result<()> {
    ending().thread_unblock().context("unblocking signals")
}

/// The signals by which people and service managers end a program. Those that it was started to ignore, as by nohup(1), stay ignored.
pub(crate) fn ending() -> SigSet {
    let ignored = ignored().unwrap_or(0);
    let heeded = |signal: &Signal| ignored & 1 << (*signal as i32 - 1) == 0;
    let all = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
    all.into_iter().filter(heeded).collect()
}

/// The signals that are ignored, a bit each from the lowest.
fn ignored() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn parent(target: &Path) -> &Path {
    match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A private directory.
#[derive(Debug)]
pub(crate) struct Dir(TempDir);

impl Dir {
    /// Under `$TMPDIR`, else in /var/tmp: images are large, and /tmp is often memory.
    pub(crate) fn new() -> anyhow::Result<Dir> {
        let told = std::env::var_os("TMPDIR").filter(|dir| !dir.is_empty());
        let parent = told.map_or_else(|| "/var/tmp".into(), PathBuf::from);
        // Tools are started in other directories.
        let whole = parent
            .canonicalize()
            .with_context(|| format!("looking at TMPDIR, {}", parent.display()))?;
        Dir::inside(&whole, "gva-")
    }

    /// Where `target` will stand: what is made in there can be renamed to it.
    pub(crate) fn beside(target: &Path) -> anyhow::Result<Dir> {
        Dir::inside(parent(target), ".gva-")
    }

    fn inside(parent: &Path, prefix: &str) -> anyhow::Result<Dir> {
        let dir = tempfile::Builder::new()
            .prefix(prefix)
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(parent)
            .with_context(|| format!("making a directory in {}", parent.display()))?;
        remember(dir.path());
        Ok(Dir(dir))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        forget(self.0.path());
    }
}

/// A file on its way to a name: it stands beside it, under a name of its own, until it is whole.
#[derive(Debug)]
pub(crate) struct HalfMade {
    temporary: Option<TempPath>,
    target: PathBuf,
    replace: bool,
}

impl HalfMade {
    /// Makes an empty file for `target`. What stands there already is an error, but with `replace`.
    pub(crate) fn new(target: &Path, replace: bool) -> anyhow::Result<HalfMade> {
        match target.symlink_metadata() {
            Ok(_) if !replace => {
                bail!("{} is there already; --force replaces it", target.display())
            }
            Ok(found) if !found.is_file() => {
                bail!("{} is no regular file", target.display())
            }
            Ok(_) => {
                let file = File::open(target);
                let file = file.with_context(|| format!("opening {}", target.display()))?;
                let lock = try_lock(&file, Mode::Exclusive)
                    .with_context(|| format!("locking {}", target.display()))?;
                if lock.is_none() {
                    bail!("{} is in use by a run", target.display());
                }
            }
            Err(_) => {}
        }
        let parent = parent(target);
        let file: NamedTempFile = tempfile::Builder::new()
            .prefix(".gva-")
            .suffix(".tmp")
            .permissions(Permissions::from_mode(0o666)) // less the umask
            .tempfile_in(parent)
            .with_context(|| format!("making a file in {}", parent.display()))?;
        let temporary = file.into_temp_path();
        remember(&temporary);
        Ok(HalfMade {
            temporary: Some(temporary),
            target: target.to_owned(),
            replace,
        })
    }

    /// Where it stands while it is made.
    pub(crate) fn path(&self) -> &Path {
        self.temporary.as_deref().unwrap_or(&self.target)
    }

    /// It is whole: gives it its name.
    pub(crate) fn finish(mut self) -> anyhow::Result<()> {
        let Some(temporary) = self.temporary.take() else {
            return Ok(());
        };
        forget(&temporary);
        let named = if self.replace {
            temporary.persist(&self.target)
        } else {
            temporary.persist_noclobber(&self.target)
        };
        named
            .map_err(|err| err.error)
            .with_context(|| format!("giving {} its name", self.target.display()))
    }
}

impl Drop for HalfMade {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            forget(temporary);
        }
    }
}
