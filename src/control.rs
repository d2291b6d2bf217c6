//! The way from `gvad status` to the running daemon: a socket in `temp_dir`. Whoever connects gets the status as one JSON document.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tracing::debug;

use crate::board::Board;
use crate::status::Status;
use crate::sys::dir::Dir;

const NAME: &str = "control";
/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);
/// No status is larger, in bytes.
const LARGEST: u64 = 16 << 20;

/// The name of a socket may have 107 bytes; that of a directory may be longer. By way of its descriptor every directory has a short name.
fn short_path(dir: &Dir) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{NAME}", dir.as_fd().as_raw_fd()))
}

/// Makes the socket in `temp_dir`, which this process has locked.
///
/// # Errors
/// Those of bind(2).
pub fn listen(temp_dir: &Dir) -> io::Result<UnixListener> {
    match temp_dir.remove_file(NAME.as_ref()) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
        _ => {}
    }
    let path = short_path(temp_dir);
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers whoever asks, one at a time.
pub async fn serve(listener: UnixListener, board: Board) {
    loop {
        let mut stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(err) => {
                debug!("accepting on the control socket: {err}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let json = serde_json::to_vec(&board.read()).unwrap_or_default();
        if let Ok(Err(err)) = tokio::time::timeout(PATIENCE, stream.write_all(&json)).await {
            debug!("answering on the control socket: {err}");
        }
    }
}

/// Asks the daemon that works with `temp_dir`; `None` if there is none.
///
/// # Errors
/// It is there but does not answer, or not in a way that can be understood.
pub fn ask(temp_dir: &Path) -> anyhow::Result<Option<Status>> {
    let dir = match Dir::open(temp_dir) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.with_context(|| format!("opening {}", temp_dir.display()))?,
    };
    let stream = match BlockingStream::connect(short_path(&dir)) {
        Err(err)
            if matches!(
                err.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        other => other.with_context(|| format!("asking the gvad of {}", temp_dir.display()))?,
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut json = Vec::new();
    match stream.take(LARGEST).read_to_end(&mut json) {
        Err(err)
            if matches!(
                err.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
            ) =>
        {
            bail!(
                "the gvad of {} does not answer: it may be waiting for a disk",
                temp_dir.display()
            );
        }
        other => other.context("reading its answer")?,
    };
    Ok(Some(
        serde_json::from_slice(&json).context("understanding its answer")?,
    ))
}

/// Removes the socket: nobody answers any more.
pub fn remove(temp_dir: &Dir) {
    if let Err(err) = temp_dir.remove_file(NAME.as_ref()) {
        debug!("removing the control socket: {err}");
    }
}
