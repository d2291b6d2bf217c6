//! Whether script-bin is as it was when nothing was in it: then it need not be listed. A listing wakes the thread that reads inotify, since gvad's own
//! opening of the directory is an event too; a look at the directory's times wakes nobody.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::image::Image;
use crate::scan::Listing;
use crate::sys::dir::{Dir, Look};

/// Two changes that are further apart than this have different times on every file system of [`KEEPS_TIMES`]: ext3 with small inodes has
/// whole seconds, the kernel's clock for files goes by its tick, of at most 10 ms.
const GRAIN: Duration = Duration::from_secs(2);
/// It is listed so often all the same: a clock that was set back could bring the same time again.
const RELIST: Duration = Duration::from_secs(30);
/// File systems that are on a disk of this machine alone, and change a directory's times whenever an entry comes or goes.
const KEEPS_TIMES: [&str; 5] = ["ext2", "ext3", "ext4", "xfs", "btrfs"];

/// What is known of an empty script-bin.
#[derive(Debug)]
pub(super) struct Untouched {
    possible: bool,
    empty: Option<Empty>,
}

#[derive(Debug)]
struct Empty {
    look: Look,
    /// When it was first seen like this.
    since: Instant,
    /// When it was last listed.
    listed: Instant,
}

impl Untouched {
    pub(super) fn of(application: &Image) -> Untouched {
        let possible = application.own() && KEEPS_TIMES.contains(&&*application.fstype);
        Untouched {
            possible,
            empty: None,
        }
    }

    /// Takes note of a listing, and of how the directory looked just before.
    pub(super) fn listed(&mut self, before: &Look, listing: &Listing) {
        let now = Instant::now();
        let since = match &self.empty {
            Some(empty) if empty.look == *before => empty.since,
            _ => now,
        };
        let is_empty = listing.scripts.is_empty() && listing.passed_over.is_empty();
        self.empty = (self.possible && is_empty).then_some(Empty {
            look: *before,
            since,
            listed: now,
        });
    }

    /// Nothing has come into the directory at `path` since it was found empty. In doubt: no.
    pub(super) fn is_sure(&self, root: &Dir, path: &Path) -> bool {
        self.empty.as_ref().is_some_and(|empty| {
            empty.listed.duration_since(empty.since) >= GRAIN
                && empty.listed.elapsed() < RELIST
                && root
                    .look(path.as_os_str())
                    .is_ok_and(|look| look == empty.look)
        })
    }
}
