//! "Exactly what is promised", one by one; the crash points in `crashes.rs`.

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{Guest, Place, sh, tool, wait_until, write_script};

/// A script that tells that it ran.
const TELL: &str = "#!/bin/sh\nprintf '%s\\n' \"${0##*/}\" >> \"$WITNESS\"\n";
/// A script that tells that it ran and does not end.
const STAY: &str = "#!/bin/sh\nprintf '%s\\n' \"${0##*/}\" >> \"$WITNESS\"\nexec sleep 1000\n";

fn outcomes(guest: &Guest) -> Vec<(String, String)> {
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    guest
        .results()
        .iter()
        .map(|r| (text(&r["script"]), text(&r["outcome"])))
        .collect()
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
        .collect()
}

/// Starts the daemon, waits until a script has told, and kills gvad.
#[track_caller]
fn killed_while_running(guest: &Guest, told: usize) {
    let daemon = guest.daemon();
    wait_until("the script runs", || guest.witness().len() == told);
    daemon.kill();
}

#[test]
fn script_that_ran_when_gvad_was_killed_is_interrupted_and_never_runs_again() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.script("a", STAY);
    guest.script("b", TELL);
    killed_while_running(&guest, 1);
    let ended = guest.drain();
    assert_eq!(
        ended.code,
        Some(1),
        "an interrupted script did not succeed: {ended}"
    );
    assert_eq!(guest.witness(), ["a", "b"]);
    assert_eq!(
        outcomes(&guest),
        owned(&[("a", "interrupted"), ("b", "exited")])
    );
    let result = guest.result("a");
    assert_eq!(result["success"], false);
    assert_eq!(result["sha256"].as_str().map(str::len), Some(64));
    assert!(
        result["exit_code"].is_null() && !result["reason"].as_str().unwrap().is_empty(),
        "{result}"
    );
    assert_eq!(guest.waiting(), Vec::<String>::new());
    // Its process was ended, the mounts of the dead gvad are gone too.
    guest.assert_clean();
    guest.drain_ok();
    assert_eq!(guest.witness(), ["a", "b"]);
    assert_eq!(guest.results().len(), 2);
}

#[test]
fn processes_of_the_killed_gvad_end_before_anything_else_starts() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let loud = "#!/bin/sh\necho a >> \"$WITNESS\"\nsetsid sh -c 'trap \"\" TERM; echo $$ > \"$WITNESS.pid\"; sleep 1000; :' &\nwait\n";
    guest.script("a", loud);
    let check =
        "#!/bin/sh\necho b >> \"$WITNESS\"\n! test -e \"/proc/$(cat \"$WITNESS.pid\")/exe\"\n";
    guest.script("b", check);
    let daemon = guest.daemon();
    wait_until("the child runs", || {
        fs::read_to_string(guest.path("witness.pid")).is_ok_and(|t| t.ends_with('\n'))
    });
    daemon.kill();
    guest.drain();
    let result = guest.result("b");
    assert_eq!(
        result["success"], true,
        "the old process still ran: {result}"
    );
    guest.assert_clean();
}

#[test]
fn with_rerun_it_is_tried_again_up_to_the_limit() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.set("run.on_interrupted", "rerun");
    guest.set("run.max_attempts", 2);
    guest.script(
        "a",
        "#!/bin/sh\necho \"a$GVA_ATTEMPT\" >> \"$WITNESS\"\nexec sleep 1000\n",
    );
    guest.script("b", TELL);
    killed_while_running(&guest, 1);
    killed_while_running(&guest, 2);
    guest.drain();
    assert_eq!(guest.witness(), ["a1", "a2", "b"]);
    assert_eq!(
        outcomes(&guest),
        owned(&[("a", "interrupted"), ("a", "interrupted"), ("b", "exited")])
    );
    let attempts: Vec<_> = guest
        .results()
        .iter()
        .map(|r| r["attempt"].clone())
        .collect();
    assert_eq!(attempts, [1, 2, 1]);
    guest.assert_clean();
}

#[test]
fn with_rerun_a_second_attempt_may_succeed() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.set("run.on_interrupted", "rerun");
    let body = "#!/bin/sh\necho \"a$GVA_ATTEMPT\" >> \"$WITNESS\"\n[ $GVA_ATTEMPT = 2 ] || exec sleep 1000\n";
    guest.script("a", body);
    killed_while_running(&guest, 1);
    guest.drain();
    assert_eq!(guest.witness(), ["a1", "a2"]);
    let results = guest.results();
    assert_eq!(
        (&results[0]["outcome"], &results[0]["attempt"]),
        (&"interrupted".into(), &1.into())
    );
    assert_eq!(
        (&results[1]["success"], &results[1]["attempt"]),
        (&true.into(), &2.into())
    );
    guest.drain_ok();
    assert_eq!(guest.witness().len(), 2);
    guest.assert_clean();
}

#[test]
fn same_name_dropped_while_the_first_runs_is_a_new_run() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let daemon = guest.daemon();
    guest.hand_over("a", "#!/bin/sh\necho one >> \"$WITNESS\"\nwhile ! test -e \"$WITNESS.go\"; do sleep 0.02; done\n");
    wait_until("the first runs", || guest.witness().len() == 1);
    guest.hand_over("a", "#!/bin/sh\necho two >> \"$WITNESS\"\n");
    fs::write(guest.path("witness.go"), "").unwrap();
    wait_until("both have results", || guest.results().len() == 2);
    guest.hand_over("a", "#!/bin/sh\necho two >> \"$WITNESS\"\n");
    wait_until("the third has a result", || guest.results().len() == 3);
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(guest.witness(), ["one", "two", "two"]);
    guest.assert_clean();
}

#[test]
fn same_name_dropped_after_a_crash_is_a_new_run_even_with_the_same_bytes() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let body = "#!/bin/sh\necho a >> \"$WITNESS\"\ntest -e \"$WITNESS.go\" || exec sleep 1000\n";
    guest.script("a", body);
    let daemon = guest.daemon();
    wait_until("it runs", || guest.witness().len() == 1);
    guest.hand_over("a", body);
    daemon.kill();
    fs::write(guest.path("witness.go"), "").unwrap();
    guest.drain();
    assert_eq!(guest.witness(), ["a", "a"]);
    assert_eq!(
        outcomes(&guest),
        owned(&[("a", "interrupted"), ("a", "exited")])
    );
    guest.assert_clean();
}

#[test]
fn clean_stop_leaves_what_was_mounted_before() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.script("a", TELL);
    let device = guest.attach(&guest.path("app.img"), &[]);
    let before = guest.path("before");
    fs::create_dir(&before).unwrap();
    sh(&format!("mount {device} '{}'", before.display()));
    guest.set("application.source", device.clone());
    let mounts = guest.mounts();
    guest.drain_ok();
    assert_eq!(guest.witness(), ["a"]);
    assert_eq!(guest.mounts(), mounts);
    assert!(before.join("output/gvad").exists());
    assert!(
        tool(Command::new("losetup").arg(&device)).contains("app.img"),
        "still attached"
    );
    // Somebody else's mount at gvad's own place: to refuse is as good as to mount over it.
    let point = guest.path("mnt/application");
    fs::create_dir_all(&point).unwrap();
    sh(&format!(
        "mount -t tmpfs tmpfs '{0}'; touch '{0}/mine'",
        point.display()
    ));
    let mounts = guest.mounts();
    let ended = guest.drain();
    let refused = ended.code == Some(2) && ended.stderr.contains(&guest.text("mnt/application"));
    assert!(ended.code == Some(0) || refused, "{ended}");
    assert_eq!(guest.mounts(), mounts);
    assert!(point.join("mine").exists());
}

#[test]
fn application_that_is_mounted_in_its_place_already_is_used_and_left() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.script("a", TELL);
    let device = guest.attach(&guest.path("app.img"), &[]);
    let point = guest.path("mnt/application");
    fs::create_dir_all(&point).unwrap();
    sh(&format!("mount {device} '{}'", point.display()));
    guest.set("application.source", device);
    let mounts = guest.mounts();
    guest.drain_ok();
    assert_eq!(guest.witness(), ["a"]);
    assert_eq!(guest.mounts(), mounts);
}

#[test]
fn interrupt_signal_is_a_clean_stop_too() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let daemon = guest.daemon();
        daemon.wait_state("idle");
        assert_eq!(guest.mounts().len(), 2, "{:?}", guest.mounts());
        assert_eq!(guest.loops().len(), 2);
        daemon.signal(signal);
        assert_eq!(daemon.wait(), Some(0));
        guest.assert_clean();
    }
}

#[test]
fn two_appliances_side_by_side_do_not_touch_each_others_scripts() {
    let Some(guest) = Guest::in_directory() else {
        return;
    };
    // Same names, same run numbers: only what tells the appliances apart may tell their cgroups apart.
    let body = "#!/bin/sh\necho $$ >> \"$WITNESS\"\nexec sleep 1000\n";
    guest.script("a", body);
    let first = guest.daemon();
    wait_until("the first runs", || guest.witness().len() == 1);
    guest.set("run.temp_dir", guest.text("state-2"));
    write_script(&guest.path("app-2/script-bin/a"), body);
    guest.set_application(Place::Directory(guest.path("app-2")));
    let second = guest.daemon();
    wait_until("the second runs", || guest.witness().len() == 2);
    second.kill();
    let ended = guest.drain();
    assert_eq!(guest.result("a")["outcome"], "interrupted", "{ended}");
    // The command line of a zombie is empty.
    let alive = |pid: &str| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|l| !l.is_empty());
    assert_eq!(
        guest
            .witness()
            .iter()
            .map(|pid| alive(pid))
            .collect::<Vec<_>>(),
        [true, false]
    );
    assert_eq!(first.stop(), Some(0));
}
