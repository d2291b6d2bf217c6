//! Scripts that are not whole yet, and scripts that cannot be started.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use crate::harness::{Daemon, Fs, Guest, Image, Place, tool, wait_until};

/// A script that tells that it ran.
const TELL: &str = "#!/bin/sh\nprintf '%s\\n' \"${0##*/}\" >> \"$WITNESS\"\n";

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn script_held_open_for_writing_is_not_taken_until_it_is_whole() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let daemon = guest.daemon();
    daemon.wait_state("idle");
    let path = guest.live().join("script-bin/half");
    let mut half = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o755)
        .open(&path)
        .unwrap();
    half.write_all(b"#!/bin/sh\necho first >> \"$WITNESS\"\n")
        .unwrap();
    for name in ["i", "j", "k"] {
        guest.hand_over(name, "#!/bin/sh\n");
        daemon.wait_result(name);
    }
    assert_eq!(guest.witness(), Vec::<String>::new());
    assert!(path.exists());
    half.write_all(b"echo second >> \"$WITNESS\"\n").unwrap();
    drop(half);
    let result = daemon.wait_result("half");
    assert_eq!(result["outcome"], "exited");
    assert_eq!(guest.witness(), ["first", "second"]);
}

#[test]
fn drain_leaves_a_script_that_is_still_being_written() {
    let Some(guest) = Guest::in_directory() else {
        return;
    };
    guest.script("half", TELL);
    guest.script("whole", TELL);
    let writer = OpenOptions::new()
        .append(true)
        .open(guest.path("app/script-bin/half"))
        .unwrap();
    let ended = guest.drain();
    assert_eq!(guest.witness(), ["whole"], "{ended}");
    assert_eq!(guest.waiting(), ["half"]);
    drop(writer);
    guest.drain_ok();
    assert_eq!(guest.witness(), ["whole", "half"]);
}

#[test]
fn execute_bit_set_last_hands_over() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let daemon = guest.daemon();
    daemon.wait_state("idle");
    let path = guest.live().join("script-bin/slow");
    fs::write(&path, TELL).unwrap();
    guest.hand_over("other", TELL);
    daemon.wait_result("other");
    assert!(path.exists());
    mode(&path, 0o755);
    daemon.wait_result("slow");
    assert_eq!(guest.witness(), ["other", "slow"]);
    wait_until("it is gone", || !path.exists());
}

#[test]
fn script_that_cannot_be_read_is_on_record_and_does_not_stop_the_rest() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    let image = Image::empty(Fs::Btrfs, guest.path("app.btrfs"), &guest.label("rot"));
    guest.set_application(Place::Image(image));
    let marker = "# this very line will rot on the disk\n";
    guest.script(
        "a-rotten",
        &format!("{TELL}{}{marker}", "#\n".repeat(40_000)),
    );
    guest.script("b-good", TELL);
    let path = guest.path("app.btrfs");
    let mut bytes = fs::read(&path).unwrap();
    let at: Vec<_> = memory_find(&bytes, marker.as_bytes());
    assert!(!at.is_empty());
    at.into_iter().for_each(|i| bytes[i + 5] ^= 0xff);
    fs::write(&path, bytes).unwrap();
    tool(&mut Command::new("sync"));
    assert_eq!(guest.drain().code, Some(1));
    assert_eq!(guest.witness(), ["b-good"]);
    let result = guest.result("a-rotten");
    assert_eq!(result["outcome"], "not_started", "{result}");
    assert!(
        result["reason"]
            .as_str()
            .unwrap()
            .contains("nput/output error"),
        "{result}"
    );
}

fn memory_find(bytes: &[u8], what: &[u8]) -> Vec<usize> {
    let first = bytes.iter().enumerate().filter(|(_, b)| **b == what[0]);
    first
        .map(|(i, _)| i)
        .filter(|i| bytes[*i..].starts_with(what))
        .collect()
}

#[test]
fn drain_waits_a_while_for_a_script_that_is_being_written() {
    let Some(guest) = Guest::in_directory() else {
        return;
    };
    guest.script("a", "#!/bin/sh\necho a >> \"$WITNESS\"\n");
    let mut writer = OpenOptions::new()
        .append(true)
        .open(guest.path("app/script-bin/a"))
        .unwrap();
    let drain = Daemon::start(&guest, guest.gvad(&["drain"]));
    drain.wait_state("idle");
    assert_eq!(guest.witness(), Vec::<String>::new());
    writer.write_all(b"echo b >> \"$WITNESS\"\n").unwrap();
    drop(writer);
    assert_eq!(drain.wait(), Some(0));
    assert_eq!(guest.witness(), ["a", "b"]);
}
