//! What gvad has mounted in this boot, kept in `temp_dir`: a gvad that was killed leaves its mounts behind, and the next must
//! know them for its own, to use and to unmount them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::sys::dir::Dir;
use crate::sys::{file, mount, mountinfo};

const NAME: &str = "mounts.json";
const NEW_NAME: &str = "mounts.json.tmp";

/// Thaws what a process that was killed in flushing left frozen.
pub(super) fn thaw(path: &Path) -> anyhow::Result<()> {
    let thawed = Dir::open(path).and_then(|top| file::thaw(&top));
    thawed.with_context(|| format!("thawing {}", path.display()))
}

/// The register of one `temp_dir`.
#[derive(Debug, Clone)]
pub struct Register {
    temp_dir: PathBuf,
    boot_id: String,
}

/// A mount that gvad made, or was about to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Where.
    pub(super) path: PathBuf,
    /// The device, or the share's tag.
    pub(super) source: String,
    /// So many mounts were at its place before.
    pub(super) over: usize,
    boot_id: String,
}

impl Register {
    /// The register in `temp_dir`; entries of another boot than this count for nothing.
    #[must_use]
    pub fn new(temp_dir: &Path, boot_id: &str) -> Register {
        Register {
            temp_dir: temp_dir.to_owned(),
            boot_id: boot_id.to_owned(),
        }
    }

    fn read(&self) -> Vec<Entry> {
        // A register that cannot be read, or was cut off with the machine, tells nothing; its mounts are then somebody else's.
        let json = fs::read(self.temp_dir.join(NAME)).unwrap_or_default();
        let mut entries: Vec<Entry> = serde_json::from_slice(&json).unwrap_or_default();
        entries.retain(|entry| entry.boot_id == self.boot_id);
        entries
    }

    fn write(&self, entries: &[Entry]) -> anyhow::Result<()> {
        let (new, name) = (self.temp_dir.join(NEW_NAME), self.temp_dir.join(NAME));
        let json = serde_json::to_vec(entries)?;
        let written = fs::write(&new, json).and_then(|()| fs::rename(&new, &name));
        written.with_context(|| format!("writing {}", name.display()))
    }

    /// The mount that an earlier gvad of this boot made of `source` at `path`.
    pub(super) fn find(&self, path: &Path, source: &str) -> Option<Entry> {
        let entries = self.read();
        entries
            .into_iter()
            .find(|entry| entry.path == path && entry.source == source)
    }

    /// Unmounts what an earlier gvad of this boot left mounted at `path`. False if it left nothing there.
    pub(super) fn unmount(&self, path: &Path) -> anyhow::Result<bool> {
        let entries = self.read();
        let Some(entry) = entries.iter().find(|entry| entry.path == path) else {
            return Ok(false);
        };
        let mounts = mountinfo::list()?;
        let left = mounts
            .iter()
            .rfind(|mount| mount.path == path)
            .is_some_and(|mount| mount.source == *entry.source);
        if left {
            info!(at = %path.display(), device = entry.source, "unmounting what an earlier gvad left");
            // Unmounted and frozen it would live on, out of everybody's reach.
            if let Err(err) = thaw(path) {
                warn!("{err:#}");
            }
            let unmounted = mount::unmount_tree(path, entry.over, true);
            unmounted.with_context(|| format!("unmounting {}", path.display()))?;
        }
        self.forget(path)?;
        Ok(left)
    }

    /// Unmounts everything that an earlier gvad of this boot left mounted elsewhere than at these places.
    ///
    /// # Errors
    /// The first that could not be unmounted.
    pub fn unmount_all_but(&self, used: &[&Path]) -> anyhow::Result<()> {
        for entry in self.read() {
            if !used.contains(&entry.path.as_path()) {
                self.unmount(&entry.path)?;
            }
        }
        Ok(())
    }

    /// Notes a mount that is about to be made.
    pub(super) fn note(&self, path: &Path, source: &str, over: usize) -> anyhow::Result<()> {
        let mut entries = self.read();
        entries.retain(|entry| entry.path != path);
        entries.push(Entry {
            path: path.to_owned(),
            source: source.to_owned(),
            over,
            boot_id: self.boot_id.clone(),
        });
        self.write(&entries)
    }

    /// Forgets a mount that is gone.
    pub(super) fn forget(&self, path: &Path) -> anyhow::Result<()> {
        let mut entries = self.read();
        entries.retain(|entry| entry.path != path);
        if !entries.is_empty() {
            return self.write(&entries);
        }
        match fs::remove_file(self.temp_dir.join(NAME)) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => {
                Err(err).context("removing the register of mounts")
            }
            _ => Ok(()),
        }
    }
}
