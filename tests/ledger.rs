//! A ledger that is written anew, because it is full, goes on knowing what was run on media that cannot be written.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt as _;

use gvad::ledger::Ledger;
use gvad::ledger::line::{Identity, Medium, Start};
use gvad::sys::dir::{Dir, Kind, Look, Stamp};

fn start(run: u64, in_place: bool) -> Start {
    let stamp = Stamp { secs: 1, nanos: 0 };
    let look = Look {
        kind: Kind::Regular,
        mode: 0o755,
        device: 1,
        inode: run,
        size: 1,
        mtime: stamp,
        ctime: stamp,
        birth: None,
    };
    let medium = Medium {
        id: "a-medium".to_owned(),
        lasting_inodes: true,
        keeps_journal: true,
    };
    Start {
        run,
        run_id: format!("{run:06}-a"),
        identity: Identity::of(&medium, OsStr::new(&"a".repeat(200)), &look),
        sha256: "0".repeat(64),
        attempt: 1,
        boot_id: "a-boot".to_owned(),
        started_at: String::new(),
        cgroup: None,
        in_place,
        unstarted: false,
    }
}

#[test]
fn what_was_run_in_place_is_known_after_the_ledger_was_written_anew() -> anyhow::Result<()> {
    let place = tempfile::tempdir()?;
    let open = || anyhow::Ok(Ledger::open(Dir::open(place.path())?, 0)?.ledger);
    let inode = || anyhow::Ok(std::fs::metadata(place.path().join("ledger"))?.ino());
    let mut ledger = open()?;
    let (mut before, mut anew) = (inode()?, 0);
    let mut run = 0;
    while anew < 2 {
        run += 1;
        assert!(run < 20_000, "it is never full");
        ledger.make_room()?;
        ledger.start(start(run, run == 1))?;
        ledger.end(run, false)?;
        ledger.settle("ext4-x")?;
        if inode()? != before {
            (before, anew) = (inode()?, anew + 1);
        }
    }
    ledger.sync()?;
    drop(ledger);
    let ledger = open()?;
    assert!(ledger.ran(&start(1, true).identity).is_some());
    assert!(ledger.ran(&start(2, true).identity).is_none());
    assert_eq!(ledger.next_run(), run + 1);
    Ok(())
}
