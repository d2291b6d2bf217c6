//! What this instance alone was told: credentials become variables of every script, and say what happens at the end.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::{Ended, Guest, Host, run};

/// The system's credentials, in the guest's own `/run`.
fn credentials(pairs: &[(&str, &str)]) -> PathBuf {
    let dir = Path::new("/run/credentials/@system");
    fs::create_dir_all(dir).unwrap();
    for (name, value) in pairs {
        fs::write(dir.join(name), value).unwrap();
    }
    dir.to_owned()
}

const SHOW: &str = "#!/bin/sh\nenv | grep ^GVA_PARAM_ | sort; printf '%s' \"$GVA_PARAM_TEXT\" | od -An -c | head -n 1\n";

#[track_caller]
fn check(guest: &Guest) -> Ended {
    run(&mut guest.gvad(&["check"]))
}

#[test]
fn every_script_has_the_parameters_of_the_credentials_and_no_log_has_a_value() {
    let Some(guest) = Guest::in_directory() else {
        return;
    };
    credentials(&[
        ("gva.param.run-id", "$(id); x"),
        ("gva.param.TEXT", "a\n"),
        ("gva.param.token", "sesame"),
        ("other.param.x", "no"),
    ]);
    for name in ["a", "b"] {
        guest.script(name, SHOW);
    }
    let ended = guest.drain();
    assert_eq!(ended.code, Some(0), "{ended}");
    for name in ["a", "b"] {
        let shown = guest.run_file(&guest.result(name), "stdout");
        assert_eq!(
            String::from_utf8(shown).unwrap(),
            "GVA_PARAM_RUN_ID=$(id); x\nGVA_PARAM_TEXT=a\nGVA_PARAM_TOKEN=sesame\n   a  \\n\n"
        );
    }
    assert!(ended.stderr.contains("GVA_PARAM_TOKEN"), "{ended}");
    assert!(!ended.stderr.contains("sesame"), "{ended}");
}

#[test]
fn credentials_of_the_service_stand_before_those_of_the_system() {
    let Some(guest) = Guest::in_directory() else {
        return;
    };
    credentials(&[("gva.param.a", "system"), ("gva.param.b", "system")]);
    let own = guest.path("own");
    fs::create_dir(&own).unwrap();
    fs::write(own.join("gva.param.a"), "service").unwrap();
    guest.script("a", "#!/bin/sh\necho $GVA_PARAM_A $GVA_PARAM_B\n");
    let ended = run(guest.gvad(&["drain"]).env("CREDENTIALS_DIRECTORY", &own));
    assert_eq!(ended.code, Some(0), "{ended}");
    assert_eq!(
        guest.run_file(&guest.result("a"), "stdout"),
        b"service system\n"
    );
}

#[test]
fn as_many_parameters_as_are_passed_start_a_script() {
    let Some(guest) = Guest::in_directory() else {
        return;
    };
    let value = "v".repeat(64 << 10);
    let names = ["a", "b", "c", "d", "e"].map(|name| format!("gva.param.{name}"));
    credentials(&names.each_ref().map(|name| (name.as_str(), value.as_str())));
    let small: Vec<_> = (0..6000).map(|n| format!("gva.param.z{n}")).collect();
    let small: Vec<_> = small.iter().map(|name| (name.as_str(), "")).collect();
    credentials(&small);
    guest.script("a", "#!/bin/sh\nenv | grep -c ^GVA_PARAM_\n");
    let ended = guest.drain();
    assert_eq!(ended.code, Some(0), "{ended}");
    let count = String::from_utf8(guest.run_file(&guest.result("a"), "stdout")).unwrap();
    let count: usize = count.trim().parse().unwrap();
    assert!((2500..3000).contains(&count), "{count}");
    let told = ended
        .stderr
        .matches("together are larger than 256 KiB")
        .count();
    assert_eq!(told, 5 + 6000 - count, "each that is not passed is told");
}

#[test]
fn configuration_in_a_credential_is_laid_over_the_file() {
    let Some(guest) = Guest::in_directory() else {
        return;
    };
    guest.set("lifecycle.when_drained", "wait");
    guest.set("environment.KEPT", "1");
    let over = "lifecycle.when_drained = 'exit'\n[environment]\nADDED = '2'\n";
    let dir = credentials(&[("gva.config", over), ("gva.param.site", "a")]);
    let ended = check(&guest);
    assert!(ended.stdout.contains("when_drained = \"exit\""), "{ended}");
    assert!(
        ended
            .stdout
            .contains("# the credential gva.config is laid over the file\n"),
        "{ended}"
    );
    assert!(
        ended
            .stdout
            .contains("# GVA_PARAM_SITE: from the credential gva.param.site\n"),
        "{ended}"
    );
    toml::from_str::<toml::Table>(&ended.stdout).unwrap();
    guest.script("a", "#!/bin/sh\ntest \"$KEPT$ADDED\" = 12\n");
    let daemon = guest.daemon();
    assert_eq!(daemon.wait_result("a")["success"], true);
    assert_eq!(daemon.wait(), Some(0));

    guest.script("b", "#!/bin/sh\n");
    for (over, complaint) in [
        (
            "\nlifecycle.when_drained = 'sleep'",
            "credential gva.config:2: lifecycle.when_drained: unknown variant `sleep`, expected one of `wait`, `exit`, `poweroff`",
        ),
        (
            "[watch]\npoll_interval = '1ms'",
            "credential gva.config:2: watch.poll_interval: must be at least 10ms",
        ),
        ("watch = 3", "credential gva.config:1: watch: "),
        ("[", "credential gva.config:1: "),
    ] {
        fs::write(dir.join("gva.config"), over).unwrap();
        for ended in [check(&guest), guest.drain(), run(&mut guest.gvad(&[]))] {
            assert_eq!(ended.code, Some(2), "{ended}");
            let start = format!("gvad: {complaint}");
            assert!(ended.stderr.starts_with(&start), "{ended}");
            assert_eq!(ended.stderr.lines().count(), 1, "{ended}");
        }
    }
    assert_eq!(guest.waiting(), ["b"]);
}

#[test]
fn credential_holds_when_the_configuration_is_read_again() {
    let Some(guest) = Guest::in_directory() else {
        return;
    };
    guest.set("lifecycle.when_drained", "exit");
    credentials(&[("gva.config", "lifecycle.when_drained = 'wait'")]);
    let daemon = guest.daemon();
    daemon.wait_state("idle");
    guest.set("environment.AGAIN", "1");
    guest.write_config();
    daemon.signal(nix::sys::signal::Signal::SIGHUP);
    daemon.wait_log("was read again");
    guest.hand_over("a", "#!/bin/sh\ntest \"$AGAIN\" = 1\n");
    daemon.wait_result("a");
    daemon.wait_state("idle");
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn host_hears_of_a_parameter_that_is_not_passed_on() {
    let Some(guest) = Guest::in_directory() else {
        return;
    };
    let host = Host::new(&guest);
    credentials(&[("gva.param.a_b", "sesame"), ("gva.param.a-b", "first")]);
    let daemon = guest.daemon();
    let error = host.wait_event("error");
    assert_eq!(
        error["message"],
        "credential gva.param.a_b is not passed on: GVA_PARAM_A_B is taken"
    );
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn udev_is_waited_for_before_the_first_script_alone() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    fs::create_dir_all("/run/udev").unwrap();
    fs::write("/run/udev/queue", "").unwrap();
    guest.set("parameters.wait", "300ms");
    fs::copy(guest.path("app.img"), guest.path("copy.img")).unwrap();
    for name in ["app.img", "copy.img"] {
        guest.attach(&guest.path(name), &[]);
    }
    guest.set(
        "application.source",
        format!("LABEL={}", guest.label("app")),
    );
    let ended = guest.drain();
    assert_eq!(ended.code, Some(0), "{ended}");
    let told = |text: &str| ended.stderr.matches(text).count();
    assert_eq!(
        told("role=application"),
        4,
        "mounted twice, unmounted twice: {ended}"
    );
    assert_eq!(told("udev is still at work"), 1, "{ended}");
}
