//! Staging: the private copy of a script that is run, in a directory of its own. What is copied and what becomes of it is for others.

mod spare;

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tracing::warn;

use crate::name::hex;
use crate::sys::dir::{Dir, Kind, Look, Stamp};
use crate::sys::{file, mount};
pub use spare::Spare;

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
    /// The private directory, wherever the script has moved it.
    pub dir: Dir,
    /// When that was changed last before the script ran.
    made: Stamp,
}

/// Copies the script that `source` stands for under the name `name` into a private directory in `temp_dir`: `spare`, or a new one.
///
/// # Errors
/// A text that says why it could not be: it is too large, it changes all the time, or what the kernel said.
pub async fn stage(
    source: &File,
    name: &OsStr,
    temp_dir: &Path,
    spare: Option<Spare>,
) -> Result<Stage, String> {
    let failed = |what: &str, err: &io::Error| format!("{what}: {err}");
    let look = Look::at(source).map_err(|err| failed("looking at the script", &err))?;
    let spare = spare.and_then(|spare| spare.in_order(temp_dir));
    let room = match &spare {
        Some((_, dir)) => file::room(dir).map_err(|err| failed("looking at run.temp_dir", &err))?,
        None => enter(temp_dir)?,
    };
    if look.size > room.free {
        return Err(format!(
            "too large: the script has {} bytes, and {} has room for {}",
            look.size,
            temp_dir.display(),
            room.free
        ));
    }
    let (path, dir) = match spare {
        Some(spare) => spare,
        None => make(temp_dir).map_err(|err| failed("making the private directory", &err))?,
    };
    match fill(source, look, name, &dir).await {
        Ok((sha256, made)) => Ok(Stage {
            script: path.join(name),
            path,
            sha256,
            dir,
            made,
        }),
        Err(reason) => {
            remove(&path);
            Err(reason)
        }
    }
}

fn make(temp_dir: &Path) -> io::Result<(PathBuf, Dir)> {
    let made = tempfile::Builder::new()
        .prefix(PREFIX)
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(temp_dir)?;
    let dir = Dir::open(made.path())?;
    Ok((made.keep(), dir))
}

/// How `temp_dir` stands. A script may have removed it: then it is made anew.
fn enter(temp_dir: &Path) -> Result<file::Room, String> {
    let opened = match Dir::open(temp_dir) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            let made = DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(temp_dir);
            made.map_err(|err| format!("making run.temp_dir anew: {err}"))?;
            Dir::open(temp_dir)
        }
        other => other,
    };
    let room = opened.and_then(file::room);
    room.map_err(|err| format!("looking at run.temp_dir: {err}"))
}

async fn fill(
    source: &File,
    mut look: Look,
    name: &OsStr,
    dir: &Dir,
) -> Result<(String, Stamp), String> {
    let copy = dir
        .create(name, 0o700)
        .map_err(|err| format!("making the private copy: {err}"))?;
    for _ in 0..TRIES {
        let sha256 = copy_and_hash(source, &copy, look.size)
            .await
            .map_err(|err| match err.kind() {
                io::ErrorKind::StorageFull => format!("too large for run.temp_dir: {err}"),
                _ => format!("copying the script: {err}"),
            })?;
        let after = Look::at(source).map_err(|err| format!("looking at the script: {err}"))?;
        if (after.size, after.mtime) == (look.size, look.mtime) {
            let made = Look::at(dir);
            let made = made.map_err(|err| format!("looking at the private directory: {err}"))?;
            return Ok((sha256, made.ctime));
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
    let size = source.metadata()?.len();
    let (sha256, _) = read_through(source, size, |_, _| Ok(())).await?;
    Ok(sha256)
}

/// Copies all of `source`, of `size` bytes or so; what is only zeros takes no room in the copy.
async fn copy_and_hash(source: &File, copy: &File, size: u64) -> io::Result<String> {
    let written = Cell::new(0);
    let write = |bytes: &[u8], at| {
        if bytes.iter().any(|&byte| byte != 0) {
            written.set(at + bytes.len() as u64);
            copy.write_all_at(bytes, at)
        } else {
            Ok(())
        }
    };
    let (sha256, length) = read_through(source, size, write).await?;
    if written.get() < length {
        copy.set_len(length)?;
    }
    Ok(sha256)
}

async fn read_through(
    source: &File,
    size: u64,
    each: impl Fn(&[u8], u64) -> io::Result<()>,
) -> io::Result<(String, u64)> {
    let mut hash = Sha256::new();
    // No more than it takes, and it is read to its end even if it has grown.
    let chunk = usize::try_from(size).map_or(CHUNK, |size| size.clamp(4096, CHUNK));
    let mut buffer = vec![0; chunk];
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
    /// Removes the private directory if nothing but the script is in it, which takes no time; false if there is more. Whatever is in the way, a mount
    /// above all, is an error here.
    fn remove_bare(&self) -> bool {
        let script = self.script.file_name().unwrap_or_default();
        let alone = self.dir.remove_file(script);
        alone.and_then(|()| fs::remove_dir(&self.path)).is_ok()
    }

    /// Removes the private directory, whatever the script has left or mounted there, or put in its place.
    pub fn remove(self) {
        // Most scripts leave nothing.
        if !self.remove_bare() {
            remove(&self.path);
        }
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
