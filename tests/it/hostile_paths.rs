//! Scripts and images that lead gvad elsewhere: through mounts, links and swapped files.

use std::fs;
use std::path::Path;

use crate::harness::{Guest, names, sh};

const TELL: &str = "#!/bin/sh\nprintf '%s\\n' \"${0##*/}\" >> \"$WITNESS\"\n";

/// A directory outside of every image that must stay as it is.
fn precious(guest: &Guest) -> std::path::PathBuf {
    let dir = guest.path("precious");
    fs::create_dir_all(dir.join("sub")).unwrap();
    fs::write(dir.join("sub/file"), "precious").unwrap();
    guest.set("environment.PRECIOUS", guest.text("precious"));
    dir
}

#[track_caller]
fn assert_intact(dir: &Path) {
    assert_eq!(
        fs::read_to_string(dir.join("sub/file")).unwrap(),
        "precious"
    );
    assert_eq!(names(dir), ["sub"]);
}

#[test]
fn cleaning_up_does_not_delete_through_a_mount() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let dir = precious(&guest);
    guest.script(
        "a",
        "#!/bin/sh\nmkdir \"$TMPDIR/m\"\nmount --bind \"$PRECIOUS\" \"$TMPDIR/m\"\n",
    );
    guest.script("b", "#!/bin/sh\nmkdir -p \"$TMPDIR/x/m\" \"$TMPDIR/x/n\"\nmount -t tmpfs t \"$TMPDIR/x/n\"\n\
                       mount --bind \"$PRECIOUS\" \"$TMPDIR/x/m\"\nmount --bind \"$PRECIOUS\" \"$TMPDIR/x/m/sub\"\n");
    guest.script(
        "c",
        "#!/bin/sh\ncd /\nmount --bind \"$PRECIOUS\" \"$TMPDIR\"\n",
    );
    guest.script("d", TELL);
    guest.drain();
    assert_intact(&dir);
    assert_eq!(guest.witness(), ["d"]);
    assert_eq!(
        guest
            .results()
            .iter()
            .filter(|r| r["outcome"] == "exited")
            .count(),
        4
    );
    guest.assert_clean();
}

#[test]
fn cleaning_up_does_not_follow_links() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let dir = precious(&guest);
    guest.script("a", "#!/bin/sh\nln -s \"$PRECIOUS\" \"$TMPDIR/link\"\nln -s \"$PRECIOUS/sub/file\" \"$TMPDIR/file\"\n");
    guest.script(
        "b",
        "#!/bin/sh\ncd /\nrm -rf \"$TMPDIR\"\nln -s \"$PRECIOUS\" \"$TMPDIR\"\n",
    );
    guest.script("c", "#!/bin/sh\ncd /\nrm -rf \"$TMPDIR\"\n");
    guest.script("d", TELL);
    guest.drain();
    assert_intact(&dir);
    assert_eq!(guest.witness(), ["d"]);
    assert_eq!(guest.results().len(), 4);
}

#[test]
fn private_directory_that_cannot_be_removed_does_not_stop_the_rest() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.script("a", "#!/bin/sh\ntouch \"$TMPDIR/x\"; chattr +i \"$TMPDIR/x\" \"$TMPDIR\"\necho \"$TMPDIR\" > \"$WITNESS.dir\"\n");
    guest.script("b", TELL);
    guest.drain();
    assert_eq!(guest.witness(), ["b"]);
    let dir = fs::read_to_string(guest.path("witness.dir")).unwrap();
    sh(&format!(
        "chattr -R -i '{}' 2> /dev/null || true",
        dir.trim()
    ));
}
