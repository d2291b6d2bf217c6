//! The configuration and the command line: what is accepted, what is refused, and how it is said.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::{Ended, Guest, run, sh};

fn gvad(arguments: &[&str]) -> Ended {
    run(Command::new(env!("CARGO_BIN_EXE_gvad")).args(arguments))
}

/// Checks a configuration text.
fn check(guest: &Guest, text: &str) -> Ended {
    fs::write(guest.path("gvad.toml"), text).unwrap();
    gvad(&["check", "--config", &guest.text("gvad.toml")])
}

const DEFAULTS: &str = r#"
[application]
source = "LABEL=gva-app"
mount_point = "/run/gva/application"
fstype = "auto"
options = ""
read_only = false
script_bin = "script-bin"
verify = ""
wait = "forever"
[data]
source = "LABEL=gva-data"
mount_point = "/run/gva/data"
fstype = "auto"
options = ""
read_only = true
required = false
wait = "2s"
[output]
source = "LABEL=gva-output"
mount_point = "/run/gva/output"
fstype = "auto"
options = ""
required = false
wait = "2s"
[watch]
poll_interval = "2s"
settle = "1s"
[run]
timeout = "0s"
stop_grace = "10s"
output_limit = "64MiB"
leftovers = "kill"
on_interrupted = "report"
max_attempts = 3
memory_max = "0B"
tasks_max = 0
cpu_weight = 0
protect_base = false
network = true
temp_dir = "/var/lib/gvad"
working_directory = "application"
[environment]
[lifecycle]
when_drained = "wait"
[report]
port = "/dev/virtio-ports/org.gva.events"
heartbeat = "10s"
[parameters]
wait = "10s"
"#;

#[test]
fn check_prints_every_key_with_its_default() {
    let Some(guest) = Guest::in_directory() else {
        return;
    };
    let ended = check(&guest, "");
    assert_eq!(ended.code, Some(0), "{ended}");
    let printed: toml::Table = ended.stdout.parse().unwrap();
    let mut promised: toml::Table = DEFAULTS.parse().unwrap();
    if !printed.contains_key("environment") {
        promised.remove("environment");
    }
    assert_eq!(printed, promised);
    assert_eq!(ended.stderr, "");
}

#[test]
fn what_check_prints_is_a_configuration_that_says_the_same() {
    let Some(guest) = Guest::in_directory() else {
        return;
    };
    let text = "[environment]\nB = \"two\\nlines\"\nA = 'x\"y'\n[run]\ntimeout = \"1h 30m\"\noutput_limit = \"1GiB\"\n\
                leftovers = \"keep\"\non_interrupted = \"rerun\"\nworking_directory = \"private\"\n[application]\nwait = \"90s\"\n\
                source = \"/srv/a b.img\"\n[lifecycle]\nwhen_drained = \"poweroff\"\n";
    let first = check(&guest, text);
    assert_eq!(first.code, Some(0), "{first}");
    let second = check(&guest, &first.stdout);
    assert_eq!((second.code, &second.stdout), (Some(0), &first.stdout));
    let printed: toml::Table = first.stdout.parse().unwrap();
    assert_eq!(printed["environment"]["B"].as_str(), Some("two\nlines"));
    assert_eq!(printed["run"]["leftovers"].as_str(), Some("keep"));
    assert_eq!(
        printed["application"]["source"].as_str(),
        Some("/srv/a b.img")
    );
}

#[test]
fn with_an_error_nothing_is_mounted_and_nothing_runs() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.script("a", "#!/bin/sh\necho a >> \"$WITNESS\"\n");
    let mut text = fs::read_to_string(guest.write_config()).unwrap();
    text.push_str("\n[lifecycle]\nwhen_drained = \"later\"\n");
    fs::write(guest.path("bad.toml"), text).unwrap();
    for command in [&["drain"][..], &[]] {
        let ended = gvad(&[command, &["--config", &guest.text("bad.toml")]].concat());
        assert_eq!(ended.code, Some(2), "{ended}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended}");
    }
    for option in [
        &["--data", "LABEL="][..],
        &["--no-such-option"],
        &["--log-level", "chatty"],
        &["--output"],
        &["extra"],
    ] {
        let config = guest.write_config();
        let ended = gvad(&[&["drain", "--config", config.to_str().unwrap()], option].concat());
        assert_eq!(ended.code, Some(2), "{option:?}: {ended}");
        let said: Vec<_> = ended
            .stderr
            .lines()
            .filter(|l| !l.trim().is_empty())
            .collect();
        assert!(said[0].contains(option[0]), "{ended}");
    }
    assert_eq!(guest.witness(), Vec::<String>::new());
    assert!(!guest.path("state").exists());
    assert_eq!(guest.waiting(), ["a"]);
}

#[test]
fn check_touches_nothing() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let ended = run(&mut guest.gvad(&["check"]));
    assert_eq!(ended.code, Some(0), "{ended}");
    assert!(!guest.path("state").exists());
    assert!(!guest.path("mnt").exists());
    guest.assert_unmounted();
}

#[test]
fn options_override_the_file() {
    let Some(guest) = Guest::in_directory() else {
        return;
    };
    let config = guest.write_config();
    let config = config.to_str().unwrap();
    let ended = gvad(&[
        "check",
        "--config",
        config,
        "--application",
        "LABEL=one",
        "--data",
        "/two.img",
        "--output",
        "UUID=three",
        "--log-level",
        "debug",
    ]);
    assert_eq!(ended.code, Some(0), "{ended}");
    let printed: toml::Table = ended.stdout.parse().unwrap();
    let sources =
        ["application", "data", "output"].map(|role| printed[role]["source"].as_str().unwrap());
    assert_eq!(sources, ["LABEL=one", "/two.img", "UUID=three"]);
    // Named on the command line, the output is required: there is no falling back to the application.
    guest.script("a", "#!/bin/sh\necho a >> \"$WITNESS\"\n");
    let missing = guest.text("missing.img");
    let ended = gvad(&["drain", "--config", config, "--output", &missing]);
    assert_eq!(ended.code, Some(2), "{ended}");
    assert!(ended.stderr.contains(&missing));
    assert_eq!(guest.witness(), Vec::<String>::new());
    fs::create_dir(guest.path("results")).unwrap();
    let ended = gvad(&[
        "drain",
        "--config",
        config,
        "--output",
        &guest.text("results"),
    ]);
    assert_eq!(ended.code, Some(0), "{ended}");
    assert!(guest.path("results/gvad/000001-a/result.json").exists());
    // Options may stand before the command, too.
    let ended = gvad(&["--config", config, "check"]);
    assert_eq!(ended.code, Some(0), "{ended}");
}

#[test]
fn absent_default_file_means_the_defaults_and_an_absent_named_one_is_an_error() {
    let Some(guest) = Guest::in_directory() else {
        return;
    };
    let empty = check(&guest, "");
    // A private /etc, in the guest's namespace.
    sh("mount -t tmpfs tmpfs /etc");
    assert!(!Path::new("/etc/gvad.toml").exists());
    let absent = gvad(&["check"]);
    assert_eq!(
        (absent.code, absent.stdout),
        (Some(0), empty.stdout),
        "{}",
        absent.stderr
    );
    fs::write("/etc/gvad.toml", "[run]\nmax_attempts = 7\n").unwrap();
    let present = gvad(&["check"]);
    assert!(present.stdout.contains("max_attempts = 7"), "{present}");
    fs::write("/etc/gvad.toml", "[run]\nmax_attempt = 7\n").unwrap();
    let wrong = gvad(&["check"]);
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.stderr.contains("/etc/gvad.toml"), "{wrong}");
    let named = gvad(&["check", "--config", &guest.text("absent.toml")]);
    assert_eq!(named.code, Some(2));
    assert!(named.stderr.contains("absent.toml"), "{named}");
    assert_eq!(named.stderr.lines().count(), 1);
}

#[test]
fn help_and_version_are_there() {
    let help = gvad(&["--help"]);
    assert_eq!(help.code, Some(0));
    for word in [
        "drain",
        "check",
        "status",
        "results",
        "--config",
        "--application",
        "--data",
        "--output",
        "--log-level",
    ] {
        assert!(help.stdout.contains(word), "{word} in {help}");
    }
    let version = gvad(&["--version"]);
    assert_eq!(version.code, Some(0));
    assert_eq!(
        version.stdout.trim(),
        format!("gvad {}", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(gvad(&["drian"]).code, Some(2));
}

#[test]
fn log_level_decides_what_is_logged() {
    let Some(guest) = Guest::in_directory() else {
        return;
    };
    let mut lines = Vec::new();
    for level in ["error", "info", "debug"] {
        guest.script("a", "#!/bin/sh\necho not for the log\n");
        let ended = run(guest.gvad(&["drain"]).args(["--log-level", level]));
        assert_eq!(ended.code, Some(0), "{ended}");
        assert!(
            !ended.stderr.contains("not for the log"),
            "no output of scripts in the log: {ended}"
        );
        lines.push(ended.stderr.lines().count());
    }
    assert!(
        lines[0] == 0 && lines[0] < lines[1] && lines[1] <= lines[2],
        "{lines:?}"
    );
}

#[test]
fn limits_that_the_machine_cannot_set_are_said_before_anything_is_run() {
    let Some(guest) = Guest::in_directory() else {
        return;
    };
    // The hybrid hierarchy of a development machine has these controllers in version 1; the tests in virtual machines set them.
    let controllers = fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers");
    if !controllers.is_ok_and(|names| !names.contains("memory") && !names.contains("pids")) {
        return println!("skipped: this machine's cgroup v2 has the memory and pids controllers");
    }
    guest.script("a", "#!/bin/sh\n");
    for (key, value, controller) in [
        ("run.memory_max", "64MiB".into(), "memory"),
        ("run.tasks_max", toml::Value::Integer(10), "pids"),
    ] as [(&str, toml::Value, &str); 2]
    {
        guest.set(key, value);
        let ended = guest.drain();
        assert_eq!(ended.code, Some(2), "{ended}");
        assert!(
            ended
                .stderr
                .contains(&format!("has no {controller} controller")),
            "{ended}"
        );
        assert_eq!(guest.waiting(), ["a"]);
        guest.unset(key);
    }
}
