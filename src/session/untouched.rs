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
        Untouched::new(application.own() && KEEPS_TIMES.contains(&&*application.fstype))
    }

    fn new(possible: bool) -> Untouched {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    const PATH: &str = "script-bin";

    fn list(untouched: &mut Untouched, root: &Dir) {
        let dir = root.open_dir(PATH).unwrap();
        let before = Look::at(&dir).unwrap();
        untouched.listed(&before, &crate::scan::scan(&dir).unwrap());
    }

    #[test]
    fn only_a_directory_that_was_seen_empty_long_enough_and_is_the_same_still_is_sure() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join(PATH);
        fs::create_dir(&path).unwrap();
        let root = Dir::open(base.path()).unwrap();
        let sure = |untouched: &Untouched| untouched.is_sure(&root, Path::new(PATH));
        let fresh = |possible| {
            let mut untouched = Untouched::new(possible);
            list(&mut untouched, &root);
            untouched
        };
        let (mut untouched, mut impossible) = (fresh(true), fresh(false));
        list(&mut untouched, &root);
        assert!(!sure(&untouched), "a change may have had the same time");
        std::thread::sleep(GRAIN);
        assert!(!sure(&untouched), "nobody has listed it since");
        for one in [&mut untouched, &mut impossible] {
            list(one, &root);
        }
        assert!(sure(&untouched) && !sure(&impossible));

        type Change<'a> = &'a dyn Fn();
        let aside = base.path().join("aside");
        let changes: [Change; 4] = [
            &|| fs::write(path.join("a.sh"), "").unwrap(),
            &|| fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap(),
            &|| fs::rename(&path, &aside).unwrap(),
            &|| fs::create_dir(&path).unwrap(),
        ];
        for change in changes {
            change();
            assert!(!sure(&untouched));
        }
        fs::remove_dir(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
        list(&mut untouched, &root);
        assert!(untouched.empty.is_none(), "a.sh is in it");
    }
}
