//! What was found on which device, so that a look opens only what is new: looking again and again would keep disks from resting.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Attachment;
use crate::config::SYS_CLASS_BLOCK;
use crate::source::Source;
use crate::sys::blockdev::{self, BlockDevice};
use crate::sys::glob;
use crate::sys::superblock::{self, Content, Superblock};

/// A device that cannot be read (a dead disk) is tried again no sooner.
const AGAIN: Duration = Duration::from_secs(30);

/// What is known. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Probed(Arc<Mutex<HashMap<(Attachment, Source), Found>>>);

/// What one look gave.
#[derive(Debug, Clone, Copy)]
struct Found {
    matches: bool,
    /// How much had been written to the disk, and how large it was: another file system is not made without writing.
    state: (Option<u64>, u64),
    again: Option<Instant>,
}

impl Probed {
    /// Whether the device is what the source names. Opens it only if that is not known.
    pub(super) fn matches(&self, device: &BlockDevice, source: &Source) -> bool {
        let key = (Attachment::of(device), source.clone());
        let written = blockdev::sectors_written(Path::new(SYS_CLASS_BLOCK), &device.name);
        let state = (written, device.size);
        let known = self.lock().get(&key).copied();
        if let Some(found) = known
            && found.state == state
            && found.again.is_none_or(|again| Instant::now() < again)
        {
            return found.matches;
        }
        // Not locked: a device may take its time to answer.
        let answer = look(device, source);
        let found = Found {
            matches: answer.unwrap_or(false),
            state,
            again: answer.is_none().then(|| Instant::now() + AGAIN),
        };
        self.lock().insert(key, found);
        found.matches
    }

    /// Forgets what is attached no longer.
    pub(super) fn keep(&self, devices: &[BlockDevice]) {
        let there: Vec<_> = devices.iter().map(Attachment::of).collect();
        self.lock()
            .retain(|(attachment, _), _| there.contains(attachment));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(Attachment, Source), Found>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `None`: it cannot be read (an empty drive, a dead disk), and so matches nothing.
fn look(device: &BlockDevice, source: &Source) -> Option<bool> {
    Some(match source {
        Source::PartLabel(label) => {
            let found = device.partition_label().ok()?;
            found.is_some_and(|found| named(label, found.as_bytes()))
        }
        Source::PartUuid(uuid) => device.partition_uuid().ok()?.as_ref() == Some(uuid),
        Source::Label(label) => {
            superblock_of(device)?.is_some_and(|found| named(label, &found.label))
        }
        Source::Uuid(uuid) => {
            superblock_of(device)?.is_some_and(|found| found.uuid.eq_ignore_ascii_case(uuid))
        }
        Source::Path(_) | Source::Tag(_) => false,
    })
}

fn named(wanted: &str, label: &[u8]) -> bool {
    wanted.as_bytes() == label
        || (glob::is_pattern(wanted) && glob::matches(wanted.as_bytes(), label))
}

fn superblock_of(device: &BlockDevice) -> Option<Option<Superblock>> {
    let file = blockdev::open(&device.path).ok()?;
    match superblock::probe(&file, device.size).ok()? {
        Content::FileSystem(superblock) => Some(Some(superblock)),
        Content::Other(_) | Content::Unknown => Some(None),
    }
}
