//! Shares, where another machine may be writing: nothing here tells of its open files. No kernel under test need have 9p: mount(2) is made to
//! succeed without doing anything, so that the directory at the mount point is what gvad takes for the share.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Daemon, Ended, Guest, Place, run, sh, wait_until, write_script};

const TELL: &str = "#!/bin/sh\nprintf '%s\\n' \"${0##*/}\" >> \"$WITNESS\"\n";

/// A guest whose application is a share, with results in a directory of this machine.
fn on_a_share() -> Option<Guest> {
    let guest = Guest::in_directory()?;
    fs::create_dir(guest.path("results")).unwrap();
    guest.set_output(Place::Directory(guest.path("results")));
    fs::create_dir_all(guest.path("mnt/application/script-bin")).unwrap();
    guest.set_application(Place::Directory(guest.path("mnt/application")));
    guest.set("application.source", "tag");
    guest.set("application.fstype", "9p");
    Some(guest)
}

/// A gvad for which the share is mounted as soon as it asks.
fn sharing(gvad: &Command) -> Command {
    let mut strace = Command::new("strace");
    let inject = "inject=mount:retval=0";
    strace.args(["-f", "--seccomp-bpf", "-o", "/dev/null", "-e", inject, "--"]);
    strace.arg(gvad.get_program()).args(gvad.get_args());
    strace
}

fn drain(guest: &Guest) -> Ended {
    run(&mut sharing(&guest.gvad(&["drain"])))
}

#[test]
fn script_on_a_share_is_not_taken_until_it_has_settled() {
    let Some(guest) = on_a_share() else { return };
    guest.set("watch.poll_interval", "20ms");
    guest.set("watch.settle", "2s");
    let daemon = Daemon::start(&guest, sharing(&guest.gvad(&[])));
    daemon.wait_state("idle");
    let path = guest.path("mnt/application/script-bin/half");
    // Opened and closed for each line: no lease shows that more is to come.
    let mut last = Instant::now();
    for n in 0..8 {
        let mut half = OpenOptions::new();
        let mut half = half
            .append(true)
            .create(true)
            .mode(0o755)
            .open(&path)
            .unwrap();
        let line = format!("echo {n} >> \"$WITNESS\"\n");
        let start = if n == 0 { "#!/bin/sh\n" } else { "" };
        half.write_all(format!("{start}{line}").as_bytes()).unwrap();
        drop(half);
        last = Instant::now();
        thread::sleep(Duration::from_millis(500));
        assert!(path.exists(), "taken after line {n}");
        assert_eq!(guest.witness(), Vec::<String>::new());
    }
    wait_until("it ran", || guest.witness().len() == 8);
    assert!(
        last.elapsed() >= Duration::from_millis(1900),
        "{:?}",
        last.elapsed()
    );
    assert_eq!(daemon.wait_result("half")["success"], true);
    wait_until("it is gone", || !path.exists());
}

#[test]
fn drain_waits_until_a_script_on_a_share_has_settled() {
    let Some(guest) = on_a_share() else { return };
    guest.set("watch.settle", "1s");
    write_script(&guest.path("mnt/application/script-bin/a"), TELL);
    let ended = drain(&guest);
    assert_eq!(ended.code, Some(0), "{ended}");
    assert_eq!(guest.witness(), ["a"]);
}

#[test]
fn claims_of_another_guest_on_a_share_are_left_alone() {
    let Some(guest) = on_a_share() else { return };
    write_script(&guest.path("mnt/application/script-bin/a"), TELL);
    let other = guest.path("mnt/application/script-bin/.gvad/another-ledger/b");
    write_script(&other, TELL);
    let ended = drain(&guest);
    assert_eq!(ended.code, Some(0), "{ended}");
    assert_eq!(guest.witness(), ["a"]);
    assert_eq!(guest.results().len(), 1);
    assert_eq!(fs::read_to_string(&other).unwrap(), TELL);
}

/// Two guests that have the application on one share, and no output of their own.
fn two_on_a_share() -> Option<Guest> {
    let guest = on_a_share()?;
    guest.unset("output.source");
    guest.set("watch.poll_interval", "20ms");
    Some(guest)
}

fn live_witness(guest: &Guest) -> Vec<String> {
    let mut told = guest.witness();
    told.sort();
    told
}

#[test]
fn two_guests_on_one_share_run_each_script_once_and_write_beside_one_another() {
    let Some(guest) = two_on_a_share() else {
        return;
    };
    let share = guest.path("mnt/application");
    let one = Daemon::start(&guest, sharing(&guest.gvad(&[])));
    let first = one.wait_state("idle");
    guest.set("run.temp_dir", guest.text("state-2"));
    let two = Daemon::start(&guest, sharing(&guest.gvad(&[])));
    let second = two.wait_state("idle");
    for number in 0..30 {
        write_script(&share.join(format!("script-bin/s{number:02}")), TELL);
    }
    wait_until("all have run", || guest.witness().len() >= 30);
    let name = |number| format!("s{number:02}");
    assert_eq!(live_witness(&guest), (0..30).map(name).collect::<Vec<_>>());
    let results = || {
        let output = guest.text("mnt/application/output");
        run(&mut guest.gvad(&["results", &output, "--json"]))
    };
    wait_until("all is on record", || {
        results().stdout.lines().count() == 30
    });
    let beside = std::fs::read_dir(share.join("output")).unwrap();
    let names: Vec<_> = beside.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    let table = run(&mut guest.gvad(&["results", &guest.text("mnt/application/output")]));
    assert!(table.stdout.contains("30 runs: 30 succeeded"), "{table}");
    assert!(table.stdout.contains("\ngvad-"), "{table}");
    assert!(table.stdout.contains("\n000001-"), "{table}");
    // strace keeps a SIGTERM to itself.
    for (status, daemon) in [(first, one), (second, two)] {
        sh(&format!("kill {}", status["pid"]));
        assert_eq!(daemon.wait(), Some(0));
    }
    assert!(!share.join("output/gvad/owner").exists());
}

#[test]
fn guest_that_comes_after_another_has_its_output_directory() {
    let Some(guest) = two_on_a_share() else {
        return;
    };
    let share = guest.path("mnt/application");
    for (name, state) in [("a", "state"), ("b", "state-2")] {
        guest.set("run.temp_dir", guest.text(state));
        write_script(&share.join("script-bin").join(name), TELL);
        let ended = drain(&guest);
        assert_eq!(ended.code, Some(0), "{ended}");
    }
    assert_eq!(fs::read_dir(share.join("output")).unwrap().count(), 1);
    assert!(share.join("output/gvad/000002-b/result.json").exists());
}

#[test]
fn claim_needs_no_rename_that_the_share_lacks() {
    let Some(guest) = on_a_share() else { return };
    write_script(&guest.path("mnt/application/script-bin/a"), TELL);
    let mut gvad = sharing(&guest.gvad(&["drain"]));
    // What 9p answers to RENAME_NOREPLACE, and to a request for a lease.
    let mut strace = Command::new("strace");
    strace.args(["-f", "--seccomp-bpf", "-o", "/dev/null", "-e"]);
    strace.args([
        "inject=mount:retval=0",
        "-e",
        "inject=renameat2:error=EINVAL",
    ]);
    strace
        .arg("--")
        .args(gvad.get_args().skip_while(|arg| *arg != "--").skip(1));
    gvad = strace;
    let ended = run(&mut gvad);
    assert_eq!(ended.code, Some(0), "{ended}");
    assert_eq!(guest.witness(), ["a"]);
    assert_eq!(guest.results().len(), 1);
}
