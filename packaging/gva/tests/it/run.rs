//! `gva run`, as far as it comes without a virtual machine: what is refused before one is started, and what becomes of a QEMU that fails.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

use crate::harness::{Place, spawn};

/// A base that looks like one, and images.
fn place() -> Place {
    let place = Place::new();
    place.job();
    place.file(
        "base/base.json",
        0o644,
        r#"{"schema":1,"flavour":"direct","cmdline":"quiet"}"#,
    );
    place.file("base/vmlinuz", 0o644, "");
    place.file("base/root.img", 0o644, "");
    place.gva(&["image", "job", "-o", "app.img"]).succeeded();
    let output = [
        "image", "--role", "output", "-o", "out.img", "--size", "16MiB",
    ];
    place.gva(&output).succeeded();
    place
}

/// A QEMU that does what the shell script says.
fn qemu(place: &Place, script: &str) {
    place.file("qemu", 0o755, format!("#!/bin/sh\n{script}\n"));
}

const RUN: [&str; 7] = [
    "run", "--base", "base", "--qemu", "./qemu", "--accel", "tcg",
];

#[test]
fn bad_input_is_one_line_and_starts_nothing() {
    let place = place();
    qemu(&place, "touch started");
    place.file("text", 0o644, "text");
    place.file("empty/x", 0o644, "");
    place.file("odd/base.json", 0o644, r#"{"schema":1,"flavour":"sour"}"#);
    place.file("new/base.json", 0o644, r#"{"schema":2,"flavour":"direct"}"#);
    place.file("both/direct/base.json", 0o644, "{}");
    place
        .gva(&["image", "job", "-o", "other.img", "--label", "mine"])
        .succeeded();
    mkfifo(&place.at("fifo"), Mode::from_bits_retain(0o666)).unwrap();
    let other = ["image", "job", "-o", "second.img", "--label", "gva-app2"];
    place.gva(&other).succeeded();
    place.qcow2("evil.qcow2", &["-b", "app.img", "-F", "raw"]);
    place.qcow2("data.qcow2", &["-o", "data_file=secret"]);
    let before = place.names();
    let app = ["--application", "app.img"];
    for (args, text) in [
        (
            &["--application", "nowhere.img"][..],
            "opening the application image nowhere.img: No such file",
        ),
        (
            &["--application", "other.img"],
            "label \"mine\", and gvad looks for gva-app",
        ),
        (&["--application", "text"], "no file system"),
        (&["--application", "evil.qcow2"], "needs another file"),
        (&["--application", "data.qcow2"], "needs another file"),
        (
            &[&app[..], &["--base", "evil.qcow2"]].concat(),
            "needs another file",
        ),
        (&[&app[..], &["--base", "fifo"]].concat(), "fifo"),
        (&[&app[..], &["--cdrom", "fifo"]].concat(), "neither a file"),
        (&[&app[..], &["--cdrom", "job"]].concat(), "neither a file"),
        (&["--application", "job"], "job"),
        (&["--application", "out.img"], "gva-app"),
        (&[], "no application image"),
        (
            &[&app[..], &["--output", "app.img"]].concat(),
            "given twice",
        ),
        (&[&app[..], &["--base", "empty"]].concat(), "base.json"),
        (&[&app[..], &["--base", "odd"]].concat(), "flavour \"sour\""),
        (&[&app[..], &["--base", "new"]].concat(), "another gva"),
        (&[&app[..], &["--base", "both"]].concat(), "try both/direct"),
        (
            &[&app[..], &["--base", "nowhere"]].concat(),
            "looking at the base nowhere",
        ),
        (&[&app[..], &["--param", "x"]].concat(), "NAME=VALUE"),
        (&[&app[..], &["--memory", "1MiB"]].concat(), "64MiB"),
        (&[&app[..], &["--cpus", "0"]].concat(), "0"),
        (
            &[&app[..], &["--timeout", "soon"]].concat(),
            "not a duration",
        ),
        (&[&app[..], &["--firmware", "uefi"]].concat(), "disk images"),
        (
            &[&app[..], &["--console", "nowhere/log"]].concat(),
            "nowhere/log",
        ),
        (&[&app[..], &["--qemu", "./text"]].concat(), "no program"),
        (
            &[&app[..], &["--qemu", "no-such-qemu"]].concat(),
            "install the package qemu-system-x86",
        ),
        (&["--serve=job/gva.sock/x"], "listening at"),
        (&["--serve=text"], "no socket"),
        (
            &["--serve=s", "--application", "second.img"],
            "finds media by the label gva-app",
        ),
    ] {
        // The last of two counts.
        let given = |option: &str| args.contains(&option);
        let defaults = RUN[1..].chunks(2).filter(|pair| !given(pair[0])).flatten();
        let all: Vec<&str> = ["run"]
            .iter()
            .chain(defaults)
            .chain(args)
            .copied()
            .collect();
        place.gva(&all).failed(text);
        assert_eq!(place.names(), before, "{args:?}");
    }
}

#[test]
fn a_qemu_that_fails_is_told_with_what_it_said() {
    let place = place();
    let all = [
        &RUN[..],
        &["--application", "app.img", "--output", "out.img"],
    ]
    .concat();
    let before = [place.names(), vec!["qemu".into()]].concat();
    for (script, text) in [
        (
            "echo 'qemu: cannot do that' >&2; exit 1",
            "QEMU did not start (exit status: 1): qemu: cannot do that",
        ),
        ("kill -9 $$", "signal: 9"),
        ("exit 0", "QEMU did not start"),
    ] {
        qemu(&place, script);
        let said = place.gva(&all);
        assert_eq!(said.code, Some(2));
        assert!(said.err.contains(text), "{text}: {}", said.err);
        let mut names = before.clone();
        names.sort();
        assert_eq!(place.names(), names);
    }
}

/// A gva whose QEMU waits, once it does.
fn started(place: &Place, args: &[&str]) -> Child {
    qemu(place, "echo $$ > pid.new; mv pid.new pid; exec sleep 1000");
    let mut command = place.command(place.at("gva"));
    let mut gva = spawn(command.args(RUN).args(args).stderr(Stdio::piped()));
    let line = BufReader::new(gva.stderr.take().unwrap()).lines().next();
    assert!(line.unwrap().unwrap().contains("starting"));
    gva
}

fn pid(place: &Place) -> String {
    let end = Instant::now() + Duration::from_secs(30);
    while !place.at("pid").exists() {
        assert!(Instant::now() < end, "QEMU was not started");
        std::thread::yield_now();
    }
    fs::read_to_string(place.at("pid"))
        .unwrap()
        .trim()
        .to_owned()
}

#[test]
fn an_image_in_use_by_another_run_is_refused_and_a_read_one_is_shared() {
    let place = place();
    place.file("things/x", 0o644, "x");
    place
        .gva(&["image", "things", "--role", "data", "-o", "data.img"])
        .succeeded();
    place
        .gva(&["image", "job", "-o", "app.iso", "--iso"])
        .succeeded();
    place.gva(&["image", "job", "-o", "app2.img"]).succeeded();
    let mut gva = started(
        &place,
        &[
            "--application",
            "app.img",
            "--data",
            "data.img",
            "--output",
            "out.img",
        ],
    );
    pid(&place);
    qemu(&place, "exit 1");
    for (args, text) in [
        (
            ["--application", "app.img", "--data", "data.img"],
            "application image app.img is in use by another run",
        ),
        (
            ["--application", "app2.img", "--output", "out.img"],
            "output image out.img is in use by another run",
        ),
        (
            ["--application", "app2.img", "--data", "data.img"],
            "QEMU did not start",
        ),
        (
            ["--application", "app.iso", "--data", "data.img"],
            "QEMU did not start",
        ),
    ] {
        let said = place.gva(&[&RUN[..], &args[..]].concat());
        assert_eq!(said.code, Some(2));
        assert!(said.err.contains(text), "{text}: {}", said.err);
    }
    gva.kill().unwrap();
    gva.wait().unwrap();
}

#[test]
fn qemu_does_not_outlive_a_gva_that_is_killed() {
    let place = place();
    let mut gva = started(&place, &["--application", "app.img"]);
    let qemu = pid(&place);
    gva.kill().unwrap();
    gva.wait().unwrap();
    let end = Instant::now() + Duration::from_secs(30);
    let lives = || {
        let state = fs::read_to_string(format!("/proc/{qemu}/stat")).unwrap_or_default();
        state.contains("(sleep)") && !state.contains(") Z ")
    };
    while lives() {
        assert!(Instant::now() < end, "QEMU lives on");
        std::thread::yield_now();
    }
}

#[test]
fn a_signal_ends_a_run_though_qemu_does_not_answer_unless_it_is_ignored() {
    let place = place();
    let before = [place.names(), vec!["pid".into(), "qemu".into()]].concat();
    qemu(&place, "echo $$ > pid.new; mv pid.new pid; exec sleep 1000");
    let mut command = place.command("env");
    command.arg("--ignore-signal=HUP").arg(place.at("gva"));
    let mut gva = spawn(command.args(RUN).args(["--application", "app.img"]));
    pid(&place);
    let id = Pid::from_raw(gva.id().try_into().unwrap());
    kill(id, Signal::SIGHUP).unwrap();
    assert!(gva.try_wait().unwrap().is_none());
    kill(id, Signal::SIGTERM).unwrap();
    assert_eq!(gva.wait().unwrap().code(), Some(2));
    let mut names = before;
    names.sort();
    assert_eq!(place.names(), names);
}

/// What answers QMP and then floods the port.
const FLOOD: &str = r#"#!/bin/bash
for word; do case $word in *id=qmp,fd=*) qmp=${word#*fd=};; *id=port,fd=*) port=${word#*fd=};; esac; done
exec 8<&$qmp 7>&$qmp 9>&$port
echo $$ > pid.new; mv pid.new pid
read -r line <&8; echo '{"return":{},"id":1}' >&7
exec yes '{"seq":1,"at":"2026-01-01T00:00:00Z","event":"drained","succeeded":0,"failed":0}' >&9"#;

#[test]
fn a_reader_who_stops_reading_holds_up_no_signal() {
    let place = place();
    place.file("qemu", 0o755, FLOOD);
    let mut command = place.command(place.at("gva"));
    command
        .args(RUN)
        .args(["--application", "app.img", "--json"]);
    let mut gva = spawn(command.stdout(Stdio::piped()));
    pid(&place);
    // More than a pipe holds; then nothing more is read.
    let mut head = [0; 1 << 17];
    gva.stdout.as_mut().unwrap().read_exact(&mut head).unwrap();
    let id = Pid::from_raw(gva.id().try_into().unwrap());
    let end = Instant::now() + Duration::from_secs(30);
    while gva.try_wait().unwrap().is_none() {
        assert!(Instant::now() < end, "it cannot be ended");
        kill(id, Signal::SIGTERM).unwrap();
        std::thread::sleep(Duration::from_millis(20)); // between signals, else they are one
    }
    assert_eq!(gva.wait().unwrap().code(), Some(2));
}

#[test]
fn programs_are_told_too_that_nothing_was_run() {
    let place = place();
    qemu(&place, "exit 1");
    let said = place.gva(&[&RUN[..], &["--application", "nowhere.img", "--json"]].concat());
    assert_eq!(said.code, Some(2));
    let summary: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(summary["exit"], 2);
    let problem = summary["problem"].as_str().unwrap();
    assert!(problem.contains("nowhere.img"), "{problem}");
}

#[test]
fn nobody_serves_where_nobody_listens() {
    let place = place();
    place
        .gva(&["submit", "--socket", "s", "app.img"])
        .failed("no gva run --serve answers at s");
    place
        .gva(&["eject", "--socket", "s", "gva-a1"])
        .failed("no gva run --serve answers at s");
    place
        .gva(&["submit", "--socket", "s", "nowhere.img"])
        .failed("nowhere.img");
}
