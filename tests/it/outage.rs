//! An output that is full, read-only, or fails under the daemon: nothing starts whose result could not be recorded.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use crate::harness::{Daemon, Guest, sh, wait_until, write_script};
use crate::layouts::assert_waits;

const TELL: &str = "#!/bin/sh\nprintf '%s\\n' \"${0##*/}\" >> \"$WITNESS\"\n";

fn fill(dir: &Path) {
    let mut file = File::create(dir.join("fill")).unwrap();
    for size in [1 << 20, 4096, 1] {
        let chunk = vec![b'x'; size];
        while file
            .write_all(&chunk)
            .and_then(|()| file.sync_data())
            .is_ok()
        {}
    }
    // Small files and directories must not fit either.
    for n in 0..1000 {
        if fs::create_dir(dir.join(format!("fill-{n}"))).is_err() {
            break;
        }
    }
}

#[test]
fn full_output_lets_nothing_start_and_goes_on_when_there_is_room() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.script("0", "#!/bin/sh\n");
    guest.drain_ok();
    guest.script("a", TELL);
    guest.script("b", TELL);
    guest.inside_output(fill);
    assert_waits(&guest, &["a", "b"]);
    let daemon = guest.daemon();
    let status = daemon.wait_state("waiting_for_output");
    assert!(!status["problem"].as_str().unwrap().is_empty(), "{status}");
    assert_eq!(status["counts"]["waiting"], 2, "{status}");
    assert_eq!(guest.witness(), Vec::<String>::new());
    goes_on(&guest, daemon);
}

#[test]
fn output_that_is_full_from_the_beginning_is_waited_for_too() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.script("a", TELL);
    guest.script("b", TELL);
    guest.inside_output(fill);
    assert_waits(&guest, &["a", "b"]);
    let daemon = guest.daemon();
    let status = daemon.wait_state("waiting_for_output");
    assert!(!status["problem"].as_str().unwrap().is_empty(), "{status}");
    assert_eq!(guest.witness(), Vec::<String>::new());
    goes_on(&guest, daemon);
}

#[test]
fn result_that_was_recorded_before_the_output_was_found_full_is_told() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.script("a", "#!/bin/sh\necho a >> \"$WITNESS\"\nexec sleep 1000\n");
    let daemon = guest.daemon();
    wait_until("it runs", || guest.witness() == ["a"]);
    daemon.kill();
    // There is room for the result of a, but not for those of all the scripts that somebody else claimed.
    fill(&guest.live_output());
    let claims = guest.live().join("script-bin/.gvad/other");
    fs::create_dir(&claims).unwrap();
    for n in 0..40 {
        write_script(&claims.join(format!("b{n}")), TELL);
    }
    let daemon = guest.daemon();
    daemon.wait_state("waiting_for_output");
    fs::remove_file(guest.live_output().join("fill")).unwrap();
    let status = daemon.wait_state("idle");
    assert_eq!(status["counts"]["failed"], 41, "{status:#}");
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(guest.results().len(), 41);
}

/// Makes room, and the scripts run.
#[track_caller]
fn goes_on(guest: &Guest, daemon: Daemon<'_>) {
    fs::remove_file(guest.live_output().join("fill")).unwrap();
    daemon.wait_result("b");
    assert_eq!(guest.witness(), ["a", "b"]);
    let status = daemon.wait_state("idle");
    assert!(status["problem"].is_null(), "{status}");
    assert_eq!(daemon.stop(), Some(0));
    guest.assert_clean();
}

#[test]
fn output_that_fails_under_the_daemon_is_mounted_again() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    let daemon = guest.daemon();
    guest.hand_over("a", TELL);
    daemon.wait_result("a");
    daemon.wait_state("idle");
    // Every write fails from here on, until the next mount.
    sh(&format!(
        "xfs_io -x -c shutdown '{}'",
        guest.live_output().display()
    ));
    guest.hand_over("b", TELL);
    daemon.wait_result("b");
    assert_eq!(guest.witness(), ["a", "b"]);
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(guest.results().len(), 2);
    guest.assert_clean();
}

#[test]
fn output_that_fails_while_a_script_runs_costs_no_second_start() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.script(
        "a",
        "#!/bin/sh\necho a >> \"$WITNESS\"\nxfs_io -x -c shutdown \"$GVA_OUTPUT\"\nexit 7\n",
    );
    guest.script("b", TELL);
    let daemon = guest.daemon();
    daemon.wait_result("b");
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(guest.witness(), ["a", "b"]);
    // What could not be recorded was kept, and recorded on the next mount.
    let result = guest.result("a");
    assert_eq!(
        (&result["outcome"], &result["exit_code"]),
        (&"exited".into(), &7.into()),
        "{result}"
    );
    guest.assert_clean();
}

#[test]
fn read_only_output_is_waited_for_by_the_daemon() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.script("a", TELL);
    // A name that leads to another device later. (No `blockdev --setro`: the kernel would keep it for whoever gets the loop device next.)
    let name = guest.text("by-id");
    let lead = |device: &str| sh(&format!("ln -sfn '{device}' '{name}'"));
    let locked = guest.attach(&guest.path("output.img"), &["--read-only"]);
    lead(&locked);
    guest.set("output.source", name.as_str());
    let daemon = guest.daemon();
    let status = daemon.wait_state("waiting_for_output");
    assert!(!status["problem"].as_str().unwrap().is_empty(), "{status}");
    assert_eq!(guest.witness(), Vec::<String>::new());
    fs::copy(guest.path("output.img"), guest.path("unlocked.img")).unwrap();
    lead(&guest.attach(&guest.path("unlocked.img"), &[]));
    daemon.wait_result("a");
    assert_eq!(guest.witness(), ["a"]);
    assert_eq!(daemon.stop(), Some(0));
}
