//! Application media are a queue: several at once, further ones while gvad runs, those that cannot be used, and those that are taken out.
//! A disk is "taken out" by hiding it in a copy of /sys/class/block that only this test's mount namespace sees.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Daemon, Fs, Guest, Image, Place, sh, wait_until, write_script};

const TELL: &str = "#!/bin/sh\nprintf '%s\\n' \"${0##*/}\" >> \"$WITNESS\"\n";

/// A guest with results on an image of their own, whose media have labels that begin alike.
fn guest() -> Option<Guest> {
    let guest = Guest::with_output_image()?;
    fs::remove_file(guest.path("app.img")).unwrap();
    guest.set("application.source", format!("LABEL={}", guest.label("q*")));
    guest.set("application.wait", "2s");
    Some(guest)
}

/// An image whose label ends in that name, with scripts.
fn medium(guest: &Guest, name: &str, scripts: &[(&str, &str)]) -> PathBuf {
    let content = guest.path(&format!("content-{name}"));
    fs::create_dir_all(content.join("script-bin")).unwrap();
    for (script, body) in scripts {
        write_script(&content.join("script-bin").join(script), body);
    }
    let path = guest.path(&format!("{name}.img"));
    let label = guest.label(&format!("q{name}"));
    Image::of(Fs::Ext4, path.clone(), &label, &content);
    path
}

fn attach(guest: &Guest, name: &str, scripts: &[(&str, &str)]) -> String {
    let path = medium(guest, name, scripts);
    guest.attach(&path, &[])
}

/// What is mounted as `gvad status` has it: roles and devices.
fn images(status: &Value) -> Vec<String> {
    let images = status["images"].as_array().unwrap().iter();
    let shown = images.map(|image| image["role"].as_str().unwrap().to_owned());
    shown.collect()
}

/// Waits until everything is released, and nothing waits.
#[track_caller]
fn wait_released(daemon: &Daemon, guest: &Guest) {
    wait_until("everything is released", || {
        let status = daemon.status();
        status["state"] == "idle" && images(&status).is_empty()
    });
    assert_eq!(guest.mounts(), Vec::<String>::new());
}

/// From here on this namespace has a /sys/class/block of its own, in which disks can be hidden.
fn own_sysfs() {
    sh(
        "mkdir /run/block; cp -a /sys/class/block/. /run/block/; mount --bind /run/block /sys/class/block",
    );
}

fn link(device: &str) -> PathBuf {
    Path::new("/sys/class/block").join(device.trim_start_matches("/dev/"))
}

fn take_out(device: &str) {
    fs::rename(
        link(device),
        Path::new("/run").join(link(device).file_name().unwrap()),
    )
    .unwrap_or_else(|_| fs::remove_file(link(device)).unwrap());
}

/// The same disk is there again; what the kernel says of it can be changed.
fn put_in(device: &str, diskseq: Option<u64>) {
    let name = link(device).file_name().unwrap().to_owned();
    let real = Path::new("/sys/devices/virtual/block").join(&name);
    let Some(diskseq) = diskseq else {
        let target = Path::new("../../devices/virtual/block").join(&name);
        return std::os::unix::fs::symlink(target, link(device)).unwrap();
    };
    // A directory beside, renamed into place: whole or not at all.
    let made = Path::new("/run").join("made");
    fs::create_dir(&made).unwrap();
    for file in ["size", "ro", "stat"] {
        fs::copy(real.join(file), made.join(file)).unwrap();
    }
    let uevent = fs::read_to_string(real.join("uevent")).unwrap();
    let (kept, _) = uevent.split_once("DISKSEQ=").unwrap();
    fs::write(made.join("uevent"), format!("{kept}DISKSEQ={diskseq}\n")).unwrap();
    let _ = fs::remove_file(link(device));
    sh(&format!("mv -T /run/made {}", link(device).display()));
}

#[test]
fn media_have_their_turns_in_the_order_in_which_they_were_attached() {
    let Some(guest) = guest() else { return };
    fs::write(guest.path("holder"), vec![0; 4096]).unwrap();
    // The first gets a later name than the last, which takes a holder's. Other tests may be quicker to take some.
    let holders: Vec<_> = (0..12)
        .map(|_| guest.attach(&guest.path("holder"), &[]))
        .collect();
    let b = attach(&guest, "b", &[("b", TELL)]);
    attach(&guest, "c", &[("c", TELL), ("d", TELL)]);
    holders.iter().for_each(|holder| guest.detach(holder));
    let mut a = attach(&guest, "a", &[("a", TELL)]);
    wait_until("a has an earlier name", || {
        if a > b {
            guest.detach(&a);
            a = guest.attach(&guest.path("a.img"), &[]);
        }
        a < b
    });
    guest.drain_ok();
    assert_eq!(guest.witness(), ["b", "c", "d", "a"]);
    assert_eq!(guest.results().len(), 4);
    guest.assert_unmounted();
    for name in ["a", "b", "c"] {
        let told = sh(&format!(
            "dumpe2fs -h '{}' 2>/dev/null",
            guest.text(&format!("{name}.img"))
        ));
        assert!(
            !told.contains("needs_recovery"),
            "{name} was unmounted: {told}"
        );
    }
}

#[test]
fn label_without_a_pattern_names_several_media_too() {
    let Some(guest) = guest() else { return };
    attach(&guest, "a", &[("a", TELL)]);
    fs::copy(guest.path("a.img"), guest.path("copy.img")).unwrap();
    guest.attach(&guest.path("copy.img"), &[]);
    guest.set("application.source", format!("LABEL={}", guest.label("qa")));
    guest.drain_ok();
    assert_eq!(
        guest.witness(),
        ["a", "a"],
        "each medium has a script of its own"
    );
}

#[test]
fn status_of_a_drain_is_that_of_all_media() {
    let Some(guest) = guest() else { return };
    attach(&guest, "a", &[("a", "#!/bin/sh\nexit 3\n")]);
    attach(&guest, "b", &[("b", TELL)]);
    let ended = guest.drain();
    assert_eq!(ended.code, Some(1), "{ended}");
    assert_eq!(guest.witness(), ["b"]);
}

#[test]
fn damaged_medium_does_not_keep_those_behind_it_waiting() {
    let Some(guest) = guest() else { return };
    attach(&guest, "a", &[("a", TELL)]);
    let path = medium(&guest, "b", &[("b", TELL)]);
    // The superblock is whole, what it points to is gone.
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(64 << 10)
        .unwrap();
    let damaged = guest.attach(&path, &[]);
    attach(&guest, "c", &[("c", TELL)]);
    let ended = guest.drain();
    assert_eq!(ended.code, Some(2), "{ended}");
    assert_eq!(guest.witness(), ["a", "c"]);
    let last = ended.stderr.lines().last().unwrap_or_default();
    assert!(last.contains(&damaged) && last.contains("ext4"), "{ended}");
    guest.assert_unmounted();
}

#[test]
fn daemon_tries_a_damaged_medium_again_and_takes_what_comes_meanwhile() {
    let Some(guest) = guest() else { return };
    let path = medium(&guest, "a", &[("a", TELL)]);
    let whole = fs::read(&path).unwrap();
    fs::write(
        &path,
        [&whole[..64 << 10], &vec![0; whole.len() - (64 << 10)]].concat(),
    )
    .unwrap();
    let damaged = guest.attach(&path, &[]);
    attach(&guest, "b", &[("b", TELL)]);
    let daemon = guest.daemon();
    daemon.wait_log("the other media have their turn first");
    let status = daemon.wait_state("retrying");
    assert!(
        status["problem"].as_str().unwrap().contains(&damaged),
        "{status:#}"
    );
    attach(&guest, "c", &[("c", TELL)]);
    daemon.wait_log("\"000002-c\" outcome=exited");
    assert_eq!(guest.witness(), ["b", "c"]);
    // Mended where it is.
    sh(&format!(
        "dd if=/dev/zero of='{damaged}' bs=4096 count=0 2>&1"
    ));
    fs::write(guest.path("whole"), whole).unwrap();
    sh(&format!(
        "dd if='{}' of='{damaged}' bs=1M conv=fsync 2>&1",
        guest.text("whole")
    ));
    wait_released(&daemon, &guest);
    assert_eq!(guest.witness(), ["b", "c", "a"]);
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn medium_without_script_bin_that_cannot_be_written_makes_way() {
    let Some(guest) = guest() else { return };
    let content = guest.path("empty");
    fs::create_dir(&content).unwrap();
    Image::of(Fs::Ext4, guest.path("n.img"), &guest.label("qn"), &content);
    guest.attach(&guest.path("n.img"), &["--read-only"]);
    let daemon = guest.daemon();
    daemon.wait_state("waiting_for_application");
    attach(&guest, "b", &[("b", TELL)]);
    daemon.wait_log("run=\"000001-b\" outcome=exited");
    let status = daemon.wait_state("retrying");
    assert!(
        status["problem"].as_str().unwrap().contains("script-bin"),
        "{status:#}"
    );
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn only_medium_stays_mounted_and_further_ones_make_a_queue() {
    let Some(guest) = guest() else { return };
    let one = attach(&guest, "a", &[("a", TELL)]);
    let daemon = guest.daemon();
    daemon.wait_result("a");
    let status = daemon.wait_state("idle");
    assert_eq!(images(&status), ["application", "output"]);
    assert_eq!(status["images"][0]["device"], one);
    guest.hand_over("later", TELL);
    daemon.wait_result("later");

    // Nothing else comes: only what the kernel tells of the device makes gvad look.
    thread::sleep(Duration::from_secs(1));
    let attached = Instant::now();
    attach(&guest, "b", &[("b", TELL)]);
    daemon.wait_log("-b\" outcome=exited");
    assert!(attached.elapsed() < Duration::from_secs(20), "found late");
    wait_released(&daemon, &guest);
    attach(&guest, "c", &[("c", TELL), ("e", TELL)]);
    daemon.wait_log("-e\" outcome=exited");
    wait_released(&daemon, &guest);
    assert_eq!(guest.witness(), ["a", "later", "b", "c", "e"]);
    assert_eq!(
        daemon.log().matches("role=application source").count(),
        3,
        "each was mounted once: {}",
        daemon.log()
    );
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(guest.results().len(), 5);
}

#[test]
fn further_medium_waits_for_the_running_script_and_all_that_wait() {
    let Some(guest) = guest() else { return };
    let slow = format!("{TELL}until test -e \"$WITNESS.go\"; do sleep 0.05; done\n");
    attach(&guest, "a", &[("a", &slow), ("z", TELL)]);
    let daemon = guest.daemon();
    daemon.wait_state("running");
    attach(&guest, "b", &[("b", TELL)]);
    // Handed over while the other one waits already: it belongs to this turn.
    guest.hand_over("x", TELL);
    fs::write(guest.path("witness.go"), "").unwrap();
    daemon.wait_log("-b\" outcome=exited");
    wait_released(&daemon, &guest);
    assert_eq!(guest.witness(), ["a", "z", "x", "b"]);
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn same_disk_attached_again_is_a_new_turn() {
    let Some(guest) = guest() else { return };
    let device = attach(&guest, "a", &[("a", TELL)]);
    attach(&guest, "b", &[("b", TELL)]);
    let daemon = guest.daemon();
    daemon.wait_log("-b\" outcome=exited");
    wait_released(&daemon, &guest);
    guest.detach(&device);
    let image = Image {
        fs: Fs::Ext4,
        path: guest.path("a.img"),
    };
    image.inside(&guest.path("edit"), |root| {
        write_script(&root.join("script-bin/again"), TELL);
    });
    guest.attach(&guest.path("a.img"), &[]);
    daemon.wait_log("-again\" outcome=exited");
    wait_released(&daemon, &guest);
    assert_eq!(guest.witness(), ["a", "b", "again"]);
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn media_that_are_done_are_not_opened_again() {
    let Some(guest) = guest() else { return };
    let one = attach(&guest, "a", &[("a", TELL)]);
    let two = attach(&guest, "b", &[("b", TELL)]);
    guest.set("watch.poll_interval", "50ms");
    let daemon = guest.daemon();
    daemon.wait_log("-b\" outcome=exited");
    wait_released(&daemon, &guest);
    let trace = guest.text("trace");
    sh(&format!(
        "timeout -s INT 2 strace -f -qq -e trace=openat -p {} -o '{trace}' || test $? = 124",
        daemon.pid()
    ));
    let trace = fs::read_to_string(&trace).unwrap();
    let looks = trace.matches("/sys/class/block\"").count();
    assert!(looks > 5, "it looks what is attached");
    for device in [one, two] {
        let opened = trace.find(&format!("\"{device}\""));
        let around = opened.map(|at| &trace[at.saturating_sub(3000)..at + 200]);
        assert!(around.is_none(), "{around:?}\n{}", daemon.log());
    }
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn daemon_that_ends_when_drained_ends_after_the_last_medium() {
    let Some(guest) = guest() else { return };
    attach(&guest, "a", &[("a", TELL)]);
    attach(&guest, "b", &[("b", TELL)]);
    guest.set("lifecycle.when_drained", "exit");
    let daemon = guest.daemon();
    assert_eq!(daemon.wait(), Some(0));
    assert_eq!(guest.witness(), ["a", "b"]);
    guest.assert_unmounted();
}

#[test]
fn gvad_started_again_in_the_middle_goes_on_with_the_queue() {
    let Some(guest) = guest() else { return };
    attach(&guest, "a", &[("a", TELL)]);
    attach(&guest, "b", &[("b", &format!("{TELL}sleep 1000\n"))]);
    attach(&guest, "c", &[("c", TELL)]);
    let daemon = guest.daemon();
    wait_until("b runs", || guest.witness() == ["a", "b"]);
    daemon.kill();
    let daemon = guest.daemon();
    daemon.wait_log("-c\" outcome=exited");
    wait_released(&daemon, &guest);
    assert_eq!(guest.witness(), ["a", "b", "c"]);
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(guest.result("b")["outcome"], "interrupted");
    guest.assert_unmounted();
}

/// A gvad that is killed while it brings what was written to its place leaves images frozen: whoever writes to them waits for ever.
#[test]
fn images_that_a_killed_gvad_left_frozen_are_thawed() {
    let Some(guest) = guest() else { return };
    attach(&guest, "a", &[("a", TELL)]);
    attach(
        &guest,
        "b",
        &[("b", &format!("{TELL}sleep 1000\n")), ("c", TELL)],
    );
    let daemon = guest.daemon();
    wait_until("b runs", || guest.witness() == ["a", "b"]);
    daemon.kill();
    // The first medium has its turn again before the frozen one.
    for role in ["application", "output"] {
        sh(&format!(
            "fsfreeze -f '{}'",
            guest.text(&format!("mnt/{role}"))
        ));
    }
    let daemon = guest.daemon();
    daemon.wait_log("-c\" outcome=exited");
    wait_released(&daemon, &guest);
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(guest.result("b")["outcome"], "interrupted");
    guest.assert_unmounted();
}

#[test]
fn medium_that_is_taken_out_while_idle_is_waited_for_without_an_error() {
    let Some(guest) = guest() else { return };
    let device = attach(&guest, "a", &[("a", TELL)]);
    own_sysfs();
    let daemon = guest.daemon();
    daemon.wait_result("a");
    daemon.wait_state("idle");
    take_out(&device);
    let status = daemon.wait_state("waiting_for_application");
    assert_eq!(images(&status), Vec::<String>::new());
    let log = daemon.log();
    assert!(log.contains(&format!("on {device} was taken out")), "{log}");
    assert!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");
    assert_eq!(guest.mounts(), Vec::<String>::new());
    // Attached again it is another one, the second: it has its turn, and is released.
    put_in(&device, Some(u64::MAX));
    wait_released(&daemon, &guest);
    assert_eq!(daemon.log().matches("role=application source").count(), 2);
    assert_eq!(daemon.stop(), Some(0));
    guest.assert_unmounted();
}

#[test]
fn disc_that_is_changed_under_its_mount_is_mounted_anew() {
    let Some(guest) = guest() else { return };
    let device = attach(&guest, "a", &[("a", TELL)]);
    guest.set("watch.poll_interval", "1s");
    own_sysfs();
    let daemon = guest.daemon();
    daemon.wait_result("a");
    daemon.wait_state("idle");
    put_in(&device, Some(u64::MAX));
    // From the mount of before nothing is run any more.
    guest.hand_over("b", TELL);
    daemon.wait_log("-b\" outcome=exited");
    let log = daemon.log();
    let gone = log.find("was taken out").unwrap();
    assert!(
        gone < log.find("started run=\"000002-b\"").unwrap(),
        "{log}"
    );
    wait_released(&daemon, &guest);
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn script_goes_on_though_its_medium_is_taken_out_and_its_result_tells() {
    let Some(guest) = guest() else { return };
    let slow = format!("{TELL}until test -e \"$WITNESS.go\"; do sleep 0.05; done\nexit 4\n");
    let device = attach(&guest, "a", &[("a", &slow), ("never", TELL)]);
    own_sysfs();
    let daemon = guest.daemon();
    daemon.wait_state("running");
    take_out(&device);
    daemon.wait_log("was taken out while");
    fs::write(guest.path("witness.go"), "").unwrap();
    let status = daemon.wait_state("waiting_for_application");
    assert_eq!(images(&status), Vec::<String>::new());
    let log = daemon.log();
    assert!(log.contains("ERROR"), "{log}");
    assert_eq!(daemon.stop(), Some(0));
    let result = guest.result("a");
    assert_eq!(result["exit_code"], 4);
    let reason = result["reason"].as_str().unwrap();
    assert!(
        reason.contains(&device) && reason.contains("was taken out while it ran"),
        "{reason}"
    );
    assert_eq!(guest.witness(), ["a"], "nothing more is run from it");
}

#[test]
fn result_that_belongs_on_a_medium_that_was_taken_out_is_recorded_when_it_is_back() {
    let Some(guest) = guest() else { return };
    guest.unset("output.source");
    // What the kernel does to a file system whose disk is pulled.
    let body = format!(
        "{TELL}until test -e \"$WITNESS.go\"; do sleep 0.05; done\nxfs_io -x -c shutdown \"$GVA_APPLICATION\"\nexit 7\n"
    );
    let device = attach(&guest, "a", &[("a", &body)]);
    own_sysfs();
    let daemon = guest.daemon();
    daemon.wait_state("running");
    take_out(&device);
    fs::write(guest.path("witness.go"), "").unwrap();
    daemon.wait_state("waiting_for_application");
    // Another one meanwhile, with a ledger of its own.
    attach(&guest, "b", &[("b", TELL)]);
    sh(
        "for d in /sys/devices/virtual/block/loop*; do ln -sfn ../../devices/virtual/block/${d##*/} /sys/class/block/${d##*/}; done",
    );
    daemon.wait_log("-b\" outcome=exited");
    wait_released(&daemon, &guest);
    assert_eq!(guest.witness(), ["a", "b"]);
    assert_eq!(daemon.stop(), Some(0));
    guest.detach(&device);
    let image = Image {
        fs: Fs::Ext4,
        path: guest.path("a.img"),
    };
    let results = image.inside(&guest.path("edit"), |root| {
        crate::harness::results_in(&root.join("output"))
    });
    assert_eq!(results.len(), 1);
    let reason = results[0]["reason"].as_str().unwrap();
    assert_eq!(results[0]["exit_code"], 7, "{results:?}");
    assert!(reason.contains("was taken out while it ran"), "{reason}");
}

#[test]
fn output_that_was_in_use_is_waited_for_when_it_is_gone() {
    // With its default label it is optional, until it was there.
    let Some(guest) = Guest::alone() else { return };
    let image = Image::empty(Fs::Ext4, guest.path("app.img"), &guest.label("app"));
    guest.set_application(Place::Image(image));
    let image = Image::empty(Fs::Ext4, guest.path("output.img"), "gva-output");
    guest.set_output(Place::Image(image));
    guest.unset("output.source");
    guest.set("output.wait", "500ms");
    let output = guest.attach(&guest.path("output.img"), &[]);
    own_sysfs();
    let daemon = guest.daemon();
    guest.hand_over("a", TELL);
    daemon.wait_result("a");
    daemon.wait_state("idle");
    take_out(&output);
    let status = daemon.wait_state("waiting_for_output");
    assert_eq!(images(&status), ["application"]);
    guest.hand_over("b", TELL);
    thread::sleep(Duration::from_secs(1)); // longer than output.wait
    assert_eq!(guest.witness(), ["a"]);
    assert!(!guest.live().join("output").exists());
    put_in(&output, Some(u64::MAX));
    daemon.wait_result("b");
    assert_eq!(daemon.stop(), Some(0));
    guest.detach(&output);
    assert_eq!(guest.results().len(), 2);
}

#[test]
fn medium_that_cannot_be_used_does_not_keep_the_machine_up_for_ever() {
    let Some(guest) = guest() else { return };
    let path = medium(&guest, "a", &[]);
    let damaged = fs::File::options().write(true).open(&path).unwrap();
    damaged.set_len(64 << 10).unwrap();
    guest.attach(&path, &[]);
    attach(&guest, "b", &[("b", TELL)]);
    guest.set("lifecycle.when_drained", "exit");
    let daemon = guest.daemon();
    assert_eq!(daemon.wait(), Some(2));
    let log = fs::read_to_string(guest.path("log")).unwrap();
    assert_eq!(log.matches("trying again in").count(), 2, "{log}");
    assert!(log.contains("it is not tried again"), "{log}");
    assert_eq!(guest.witness(), ["b"]);
    guest.assert_unmounted();
}

#[test]
fn pattern_that_stands_for_the_data_or_output_image_too_is_refused() {
    let Some(guest) = guest() else { return };
    guest.unset("output.source");
    guest.set("application.source", "LABEL=gva-*");
    let ended = guest.drain();
    assert_eq!(ended.code, Some(2), "{ended}");
    let told = "application.source LABEL=gva-* stands for LABEL=gva-data too";
    assert!(ended.stderr.contains(told), "{ended}");
}
