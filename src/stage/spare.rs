//! A private directory that a script left as it was made: the next script gets it. On ext4 that is much less work than a new one.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{Stage, remove};
use crate::sys::dir::{Dir, Look, Stamp};

/// An empty private directory.
#[derive(Debug)]
pub struct Spare {
    path: PathBuf,
    dir: Dir,
    /// When it was changed last.
    changed: Stamp,
}

impl Stage {
    /// Removes the script, if the private directory is otherwise as it was made: neither its contents nor its inode were changed, and nothing is mounted
    /// over it. Returns when it was changed last.
    fn leave_bare(&self) -> Option<Stamp> {
        if !is_unchanged(&self.path, &self.dir, self.made) {
            return None;
        }
        let script = self.script.file_name().unwrap_or_default();
        self.dir.remove_file(script).ok()?;
        // Two changes may fall into one tick of the clock.
        let empty = self.dir.names().is_ok_and(|names| names.is_empty());
        let look = Look::at(&self.dir).ok().filter(|_| empty)?;
        Some(look.ctime)
    }

    /// Removes the script, and keeps the private directory for the next one if it is as it was made; else removes that too.
    ///
    /// # Errors
    /// The stage: more than the script is in it, so that removing it takes time.
    pub fn give_back(self) -> Result<Option<Spare>, Stage> {
        match self.leave_bare() {
            Some(changed) => {
                let Stage { path, dir, .. } = self;
                Ok(Some(Spare { path, dir, changed }))
            }
            None if self.remove_bare() => Ok(None),
            None => Err(self),
        }
    }
}

impl Spare {
    /// The directory, if it is in `temp_dir`, and as it was; else it is removed.
    pub(super) fn in_order(self, temp_dir: &Path) -> Option<(PathBuf, Dir)> {
        if self.path.parent() == Some(temp_dir) && is_unchanged(&self.path, &self.dir, self.changed)
        {
            return Some((self.path, self.dir));
        }
        self.remove();
        None
    }

    /// Removes it.
    pub fn remove(self) {
        if std::fs::remove_dir(&self.path).is_err() {
            remove(&self.path);
        }
    }
}

/// Whether `path` leads to `dir`, which has not been changed since and is root's alone.
fn is_unchanged(path: &Path, dir: &Dir, since: Stamp) -> bool {
    let (Ok(ours), Ok(there)) = (Look::at(dir), std::fs::symlink_metadata(path)) else {
        return false;
    };
    let mode = there.permissions().mode() & 0o7777;
    (there.dev(), there.ino()) == (ours.device, ours.inode)
        && (mode, there.uid()) == (0o700, 0)
        && ours.ctime == since
}
