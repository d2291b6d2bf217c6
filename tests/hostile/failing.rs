//! Disks that fail, vanish or change while a script runs: by what the script itself does to the files that they are.

use std::path::PathBuf;

use crate::frame::{TELL, exits, logged, neighbour_waits, ran, result};
use crate::harness::{Fs, Guest, Image, Place, sh};
use crate::images::complains;

/// Script `a` tells that it ran, does `line`, and ends with 7.
fn does(line: &'static str) -> impl FnOnce(&Guest) {
    move |guest| {
        for image in ["app", "output"] {
            let variable = format!("environment.{}", image.to_uppercase());
            guest.set(&variable, guest.text(&format!("{image}.img")));
        }
        let body = format!("echo a >> \"$WITNESS\"\n{{ {line}; }} > /dev/null 2>&1\nexit 7\n");
        guest.script("a", &format!("#!/bin/bash\n{body}"));
    }
}

/// Another, empty application image.
fn fresh_application(guest: &Guest) {
    let image = Image::empty(Fs::Ext4, guest.path("fresh.img"), &guest.label("fresh"));
    guest.set_application(Place::Image(image));
}

rows! { Guest::with_output_image();
    output_that_a_script_makes_read_only:
        does("mount -o remount,ro \"$GVA_OUTPUT\"") => [ran(["a"]), result("a", "exited", "")];
    output_that_fails_at_once:
        does("xfs_io -x -c shutdown \"$GVA_OUTPUT\"") => [ran(["a"]), result("a", "exited", "")];
    output_whose_device_a_script_detaches:
        does("losetup -d $(losetup -n -O NAME -j \"$OUTPUT\")") => [ran(["a"]), result("a", "exited", "")];
    application_that_a_script_makes_read_only:
        does("mount -o remount,ro \"$GVA_APPLICATION\"") => [ran(["a"]), result("a", "exited", "")];
    application_that_fails_at_once:
        does("xfs_io -x -c shutdown \"$GVA_APPLICATION\"") => [
            exits(2), neighbour_waits(), ran(["a"]), result("a", "exited", ""),
            logged("removing the claim of a script that has its result: Input/output error"),
            logged("passed over script=\"zz-good\" reason=\"opening it: Input/output error")];
    application_whose_file_is_removed:
        does("rm \"$APP\"") => [ran(["a"]), result("a", "exited", "")], cure: fresh_application;
    application_whose_superblock_is_overwritten:
        does("dd if=/dev/zero of=\"$APP\" bs=4k count=16 conv=notrunc") => [ran(["a"]), result("a", "exited", "")], cure: fresh_application;
}

/// Puts an image on a disk that is as good as full: what is new on it cannot be written, and the kernel answers with errors.
fn on_a_disk_without_room(guest: &Guest, image: &str) {
    sh(&format!(
        "cd '{}'; mkdir /run/small; mount -t tmpfs -o size=64m tmpfs /run/small; cp --sparse=always {image} /run/small/; head -c 100M /dev/zero > /run/small/fill 2> /dev/null || :",
        guest.path("").display()
    ));
}

fn room_again(_: &Guest) {
    sh("rm /run/small/fill");
}

fn small_output(guest: &Guest) {
    on_a_disk_without_room(guest, "output.img");
    guest.set_output(Place::Image(Image {
        fs: Fs::Ext4,
        path: PathBuf::from("/run/small/output.img"),
    }));
}

fn small_application(guest: &Guest) {
    on_a_disk_without_room(guest, "app.img");
    guest.set_application(Place::Image(Image {
        fs: Fs::Ext4,
        path: PathBuf::from("/run/small/app.img"),
    }));
}

rows! { Guest::with_output_image();
    output_whose_disk_takes_no_more: small_output => [exits(2), neighbour_waits(), complains(&["Input/output error"])], cure: room_again;
    application_whose_disk_takes_no_more: small_application => [exits(2), neighbour_waits(), complains(&["Input/output error"])], cure: room_again;
}

/// What becomes of the scripts where the image that they are on, or that has their results, is lost while `a` runs: every one is started
/// once at most, and what comes with the next images runs.
#[track_caller]
fn loses(line: &'static str, code: i32, started: &[&str], told: &[&str]) {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    does(line)(&guest);
    guest.script("b", TELL);
    let ended = guest.drain();
    assert_eq!(ended.code, Some(code), "{ended}");
    for text in told {
        assert!(ended.stderr.contains(text), "{text:?} in {ended}");
    }
    assert!(!ended.stderr.contains("panicked"), "{ended}");
    assert_eq!(guest.witness(), started, "{ended}");
    guest.assert_unmounted();
    fresh_application(&guest);
    let output = Image::empty(
        Fs::Ext4,
        guest.path("fresh-output.img"),
        &guest.label("fout"),
    );
    guest.set_output(Place::Image(output));
    guest.script("next", TELL);
    guest.drain_ok();
    guest.drain_ok();
    assert_eq!(guest.witness(), [started, &["next"]].concat());
    assert_eq!(guest.result("next")["success"], true);
    guest.assert_clean();
}

const A_FAILED: &str = "failed run=\"000001-a\" outcome=exited detail=\"exit code 7\"";

cases! { loses {
    output_whose_file_is_removed: ("rm \"$OUTPUT\"", 1, &["a", "b"], &[A_FAILED, "succeeded run=\"000002-b\" outcome=exited"]),
    output_that_is_swapped_for_another: ("cp \"$OUTPUT\" \"$OUTPUT.new\"; mv \"$OUTPUT.new\" \"$OUTPUT\"", 1, &["a", "b"], &[A_FAILED, "succeeded run=\"000002-b\" outcome=exited"]),
    output_whose_superblock_is_overwritten: ("dd if=/dev/zero of=\"$OUTPUT\" bs=4k count=16 conv=notrunc", 1, &["a", "b"], &[A_FAILED, "succeeded run=\"000002-b\" outcome=exited"]),
    output_whose_disk_shrinks_to_nothing: ("truncate -s 0 \"$OUTPUT\"", 1, &["a", "b"], &[A_FAILED, "succeeded run=\"000002-b\" outcome=exited"]),
    output_whose_disk_shrinks_and_is_read_again: ("truncate -s 0 \"$OUTPUT\"; blockdev --flushbufs $(losetup -n -O NAME -j \"$OUTPUT\")", 1, &["a", "b"], &[A_FAILED, "succeeded run=\"000002-b\" outcome=exited"]),
    output_whose_every_block_is_overwritten: ("dd if=/dev/zero of=\"$OUTPUT\" bs=1M count=32 conv=notrunc; blockdev --flushbufs $(losetup -n -O NAME -j \"$OUTPUT\")", 1, &["a", "b"], &[A_FAILED, "succeeded run=\"000002-b\" outcome=exited"]),
    application_whose_disk_shrinks_to_nothing: ("truncate -s 0 \"$APP\"; blockdev --flushbufs $(losetup -n -O NAME -j \"$APP\")", 1, &["a"], &[A_FAILED, "failed run=\"000002-b\" outcome=not_started"]),
    application_whose_every_block_is_overwritten: ("dd if=/dev/zero of=\"$APP\" bs=1M count=32 conv=notrunc; blockdev --flushbufs $(losetup -n -O NAME -j \"$APP\")", 1, &["a"], &[A_FAILED, "failed run=\"000002-b\" outcome=not_started"]),
    both_whose_disks_shrink_to_nothing: ("truncate -s 0 \"$APP\" \"$OUTPUT\"; blockdev --flushbufs $(losetup -n -O NAME -j \"$OUTPUT\")", 1, &["a"], &[A_FAILED, "failed run=\"000002-b\" outcome=not_started"]),
} }
