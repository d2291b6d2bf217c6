//! Which file a script is: what tells one from another when a later file has the inode number of an earlier one.

use std::ffi::OsStr;

use gvad::ledger::line::{Identity, Medium};
use gvad::sys::dir::{Kind, Look, Stamp};

fn stamp(secs: i64) -> Stamp {
    Stamp { secs, nanos: 5 }
}

fn look() -> Look {
    Look {
        kind: Kind::Regular,
        mode: 0o755,
        device: 1,
        inode: 12,
        size: 100,
        mtime: stamp(1),
        ctime: stamp(2),
        birth: Some(stamp(3)),
    }
}

fn identity(look: &Look, lasting_inodes: bool) -> Identity {
    let medium = Medium {
        id: "a-medium".to_owned(),
        lasting_inodes,
        keeps_journal: true,
    };
    Identity::of(&medium, OsStr::new("a"), look)
}

#[test]
fn later_file_with_the_inode_number_of_an_earlier_one_is_another() {
    let one = identity(&look(), true);
    let later = Look {
        birth: Some(stamp(4)),
        ..look()
    };
    assert!(!one.same_file(&identity(&later, true)));
    let unborn = |size| Look {
        birth: None,
        size,
        ..look()
    };
    assert!(!identity(&unborn(100), true).same_file(&identity(&unborn(101), true)));
    assert!(identity(&unborn(100), true).same_file(&identity(&unborn(100), true)));
}

#[test]
fn claimed_file_is_the_same_file_but_not_untouched() {
    let claimed = Look {
        ctime: stamp(9),
        ..look()
    };
    let (before, after) = (identity(&look(), true), identity(&claimed, true));
    assert!(before.same_file(&after));
    assert!(!before.same(&after));
    assert!(before.same(&before));
}

#[test]
fn inode_numbers_that_do_not_last_tell_nothing() {
    let other = Look {
        inode: 13,
        ..look()
    };
    assert!(identity(&look(), false).same_file(&identity(&other, false)));
    assert!(!identity(&look(), true).same_file(&identity(&other, true)));
    let longer = Look {
        size: 101,
        ..look()
    };
    assert!(!identity(&look(), false).same_file(&identity(&longer, false)));
}
