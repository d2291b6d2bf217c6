//! Staging: the private copy of a script that is run, in a directory of its own. What is copied and what becomes of it is for others.

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tracing::warn;

use crate::name::hex;
use crate::sys::dir::{Dir, Kind, Look};
use crate::sys::{file, mount};

const PREFIX: &str = "run-";
const CHUNK: usize = 256 * 1024;
/// A script that changes while it is copied is copied again so many times.
const TRIES: usize = 5;

/// A private directory with the script in it.
#[derive(Debug)]
pub struct Stage {
    /// The private directory.
    pub path: PathBuf,
    /// The copy of the script.
    pub script: PathBuf,
    /// Of its bytes, in hexadecimal.
    pub sha256: String,
}

/// Copies the script that `source` stands for under the name `name` into a new private directory in `temp_dir`.
///
/// # Errors
/// A text that says why it could not be: it is too large, it changes all the time, or what the kernel said.
pub async fn stage(source: &File, name: &OsStr, temp_dir: &Path) -> Result<Stage, String> {
    let failed = |what: &str, err: &io::Error| format!("{what}: {err}");
    let look = Look::at(source).map_err(|err| failed("looking at the script", &err))?;
    // A script may have removed it.
    let made = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(temp_dir);
    made.map_err(|err| failed("making run.temp_dir anew", &err))?;
    let room = Dir::open(temp_dir)
        .and_then(file::room)
        .map_err(|err| failed("looking at run.temp_dir", &err))?;
    if look.size > room.free {
        return Err(format!(
            "too large: the script has {} bytes, and {} has room for {}",
            look.size,
            temp_dir.display(),
            room.free
        ));
    }
    let path = tempfile::Builder::new()
        .prefix(PREFIX)
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(temp_dir)
        .map_err(|err| failed("making the private directory", &err))?
        .keep();
    match fill(source, look, name, &path).await {
        Ok(sha256) => Ok(Stage {
            script: path.join(name),
            path,
            sha256,
        }),
        Err(reason) => {
            remove(&path);
            Err(reason)
        }
    }
}

async fn fill(source: &File, mut look: Look, name: &OsStr, path: &Path) -> Result<String, String> {
    let dir = Dir::open(path).map_err(|err| format!("opening the private directory: {err}"))?;
    let copy = dir
        .create(name, 0o700)
        .map_err(|err| format!("making the private copy: {err}"))?;
    for _ in 0..TRIES {
        let sha256 = copy_and_hash(source, &copy)
            .await
            .map_err(|err| match err.kind() {
                io::ErrorKind::StorageFull => format!("too large for run.temp_dir: {err}"),
                _ => format!("copying the script: {err}"),
            })?;
        let after = Look::at(source).map_err(|err| format!("looking at the script: {err}"))?;
        if (after.size, after.mtime) == (look.size, look.mtime) {
            return Ok(sha256);
        }
        look = after;
        copy.set_len(0)
            .map_err(|err| format!("emptying the private copy: {err}"))?;
    }
    Err("it was being written all the time that it was copied".to_owned())
}

/// The SHA-256 of a file's bytes, in hexadecimal.
///
/// # Errors
/// It cannot be read.
pub async fn hash(source: &File) -> io::Result<String> {
    read_through(source, |_, _| Ok(()))
        .await
        .map(|(sha256, _)| sha256)
}

/// Copies all of `source`; what is only zeros takes no room in the copy.
async fn copy_and_hash(source: &File, copy: &File) -> io::Result<String> {
    let write = |bytes: &[u8], at| {
        if bytes.iter().any(|&byte| byte != 0) {
            copy.write_all_at(bytes, at)
        } else {
            Ok(())
        }
    };
    let (sha256, length) = read_through(source, write).await?;
    copy.set_len(length)?;
    Ok(sha256)
}

async fn read_through(
    source: &File,
    each: impl Fn(&[u8], u64) -> io::Result<()>,
) -> io::Result<(String, u64)> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    loop {
        let count = source.read_at(&mut buffer, at)?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        hash.update(bytes);
        each(bytes, at)?;
        at += count as u64;
        // A large one must not keep the watchdog and the signals waiting.
        if count == CHUNK {
            tokio::task::yield_now().await;
        }
    }
    Ok((hex(&hash.finalize()), at))
}

/// Why a script of this size cannot be staged now, though it could be at another time: temp_dir is full or cannot be written. One that is larger than all of
/// temp_dir's file system never can; that is said in its result.
#[must_use]
pub fn no_room(temp_dir: &Path, size: u64) -> Option<String> {
    /// For the private directory itself, in bytes.
    const MORE: u64 = 64 * 1024;
    let room = Dir::open(temp_dir).and_then(file::room).ok()?;
    let wanted = size.saturating_add(MORE);
    let full = wanted > room.free && wanted <= room.total;
    let shown = temp_dir.display();
    match (room.read_only, full) {
        (true, _) => Some(format!("run.temp_dir {shown} cannot be written")),
        (false, true) => Some(format!(
            "run.temp_dir {shown} is full: the script needs {wanted} bytes, and there is room for {}",
            room.free
        )),
        (false, false) => None,
    }
}

impl Stage {
    /// Removes the private directory, whatever the script has left or mounted there, or put in its place.
    pub fn remove(self) {
        remove(&self.path);
    }
}

/// Removes a private directory. What cannot be removed is told and left to the next start: no script is kept waiting for it.
fn remove(path: &Path) {
    let (Some(temp_dir), Some(name)) = (path.parent(), path.file_name()) else {
        return;
    };
    let removed = mount::unmount_below(path)
        .and_then(|()| Dir::open(temp_dir))
        .and_then(|temp_dir| remove_from(&temp_dir, name));
    match removed {
        Err(err) if err.kind() != io::ErrorKind::NotFound => {
            warn!(
                "removing the private directory {}: {err}; the next start tries again",
                path.display()
            );
        }
        _ => {}
    }
}

/// A script may have put a symbolic link where its directory was: what that leads to is not ours.
fn remove_from(temp_dir: &Dir, name: &OsStr) -> io::Result<()> {
    match temp_dir.look(name)?.kind {
        Kind::Directory => {
            temp_dir.open_dir(name)?.remove_contents()?;
            temp_dir.remove_dir(name)
        }
        Kind::Regular | Kind::SymbolicLink | Kind::Special => temp_dir.remove_file(name),
    }
}

/// Removes the private directories that an earlier gvad left in `temp_dir`.
///
/// # Errors
/// `temp_dir` cannot be read.
pub fn remove_stale(temp_dir: &Path) -> io::Result<()> {
    let ours = |name: &OsString| name.as_encoded_bytes().starts_with(PREFIX.as_bytes());
    for name in Dir::open(temp_dir)?.names()?.into_iter().filter(ours) {
        remove(&temp_dir.join(name));
    }
    Ok(())
}
