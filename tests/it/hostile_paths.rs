//! Scripts and images that lead gvad elsewhere: through mounts, links and swapped files.

use std::fs;
use std::path::Path;

use crate::harness::{Guest, names, sh, write_script};

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

#[test]
fn waiting_script_that_is_swapped_for_a_link_does_not_run() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let dir = precious(&guest);
    write_script(&guest.path("evil"), TELL);
    guest.set("environment.EVIL", guest.text("evil"));
    let body = "#!/bin/sh\ncd \"$GVA_APPLICATION/script-bin\"\nrm b c d\nln -s \"$EVIL\" b\nmkdir c\nmkfifo d\n\
                ln -s \"$PRECIOUS\" .gvad-link\n";
    guest.script("a", body);
    for name in ["b", "c", "d", "e"] {
        guest.script(name, TELL);
    }
    guest.drain_ok();
    assert_eq!(guest.witness(), ["e"]);
    assert_eq!(guest.waiting(), [".gvad-link", "b", "c", "d"]);
    assert_intact(&dir);
}

#[test]
fn script_bin_that_something_is_mounted_over_is_not_used() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let body = "#!/bin/sh\ncd \"$GVA_APPLICATION\"\nmount -t tmpfs -o mode=755 t script-bin\n\
                printf '#!/bin/sh\\necho evil >> \"$WITNESS\"\\n' > script-bin/evil\nchmod 755 script-bin/evil\n";
    guest.script("a", body);
    let ended = guest.drain();
    assert_eq!(guest.witness(), Vec::<String>::new(), "{ended}");
    assert_eq!(ended.code, Some(2), "{ended}");
    assert!(ended.stderr.contains("mounted over"), "{ended}");
    assert_eq!(guest.result("a")["success"], true);
    guest.assert_clean();
}
