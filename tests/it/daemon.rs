//! The daemon in the foreground: late scripts, signals, status, the service manager, the end of the work.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{Daemon, Guest, run, sh, wait_until, write_script};

const TELL: &str = "#!/bin/sh\nprintf '%s\\n' \"${0##*/}\" >> \"$WITNESS\"\n";
const STAY: &str = "#!/bin/sh\nprintf '%s\\n' \"${0##*/}\" >> \"$WITNESS\"\nexec sleep 1000\n";

#[test]
fn inotify_makes_it_quicker_than_the_poll() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.set("watch.poll_interval", "10m");
    let daemon = guest.daemon();
    daemon.wait_state("idle");
    // No condition to wait for: for half a second after anything has happened gvad looks by itself.
    let rest = || thread::sleep(Duration::from_millis(1500));
    for name in ["renamed-in", "again"] {
        rest();
        guest.hand_over(name, TELL);
        daemon.wait_result(name);
    }
    rest();
    // Written and made executable where it is: the last event is a change of mode.
    let path = guest.live().join("script-bin/chmod");
    fs::write(&path, TELL).unwrap();
    sh(&format!("chmod 755 '{}'", path.display()));
    daemon.wait_result("chmod");
    rest();
    // Written with its execute bit: the last event is the close.
    write_script(&guest.live().join("script-bin/written"), TELL);
    daemon.wait_result("written");
    assert_eq!(daemon.stop(), Some(0));
}

/// While many are worked off nobody watches; behind them, and beside many that cannot be taken, somebody does.
#[test]
fn inotify_makes_it_quicker_behind_many_and_beside_many_that_cannot_be_taken() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.set("watch.poll_interval", "10m");
    for number in 0..40 {
        guest.script(format!("a{number:02}"), TELL);
    }
    let daemon = guest.daemon();
    daemon.wait_result("a39");
    thread::sleep(Duration::from_millis(1500));
    guest.hand_over("b", TELL);
    daemon.wait_result("b");
    assert_eq!(daemon.stop(), Some(0));
    let immutable = |sign: &str| {
        guest.inside(|app| {
            for number in 0..40 {
                let file = app.join(format!("script-bin/c{number:02}"));
                if !file.exists() {
                    write_script(&file, TELL);
                }
                sh(&format!("chattr {sign}i '{}'", file.display()));
            }
        });
    };
    immutable("+");
    let daemon = guest.daemon();
    daemon.wait_state("idle");
    thread::sleep(Duration::from_millis(1500));
    guest.hand_over("d", TELL);
    daemon.wait_result("d");
    daemon.stop();
    immutable("-");
}

#[test]
fn poll_finds_scripts_where_inotify_cannot_be_had() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let gvad = guest.gvad(&[]);
    let mut strace = Command::new("strace");
    strace.args([
        "-f",
        "--seccomp-bpf",
        "-o",
        "/dev/null",
        "-e",
        "inject=inotify_init,inotify_init1:error=EMFILE",
        "--",
    ]);
    strace.arg(gvad.get_program()).args(gvad.get_args());
    let daemon = Daemon::start(&guest, strace);
    let pid = daemon.wait_state("idle")["pid"].as_i64().unwrap();
    guest.hand_over("a", TELL);
    daemon.wait_result("a");
    guest.hand_over("b", TELL);
    daemon.wait_result("b");
    kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(daemon.wait(), Some(0));
    guest.assert_clean();
}

#[test]
fn many_scripts_at_once_run_once_each() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let daemon = guest.daemon();
    let names: Vec<_> = (0..60).map(|n| format!("s{n:02}")).collect();
    for name in &names {
        guest.hand_over(name, TELL);
    }
    wait_until("all ran", || guest.results().len() == names.len());
    assert_eq!(daemon.wait_state("idle")["counts"]["succeeded"], 60);
    assert_eq!(daemon.stop(), Some(0));
    let mut told = guest.witness();
    told.sort();
    assert_eq!(told, names);
}

#[test]
fn sigterm_stops_the_running_script_and_leaves_the_waiting_ones() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.script("a", STAY);
    guest.script("b", TELL);
    let daemon = guest.daemon();
    wait_until("it runs", || guest.witness() == ["a"]);
    assert_eq!(daemon.stop(), Some(0));
    let result = guest.result("a");
    assert_eq!(result["outcome"], "stopped", "{result}");
    assert_eq!(result["success"], false);
    assert_eq!(guest.witness(), ["a"]);
    assert_eq!(guest.waiting(), ["b"]);
    guest.assert_clean();
    guest.drain_ok();
    assert_eq!(guest.witness(), ["a", "b"]);
}

#[test]
fn stop_of_a_deaf_script_takes_no_longer_than_the_grace() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.set("run.stop_grace", "1s");
    guest.script(
        "a",
        "#!/bin/sh\ntrap '' TERM\necho a >> \"$WITNESS\"\nwhile :; do sleep 0.1; done\n",
    );
    let daemon = guest.daemon();
    wait_until("it runs", || guest.witness() == ["a"]);
    let start = Instant::now();
    assert_eq!(daemon.stop(), Some(0));
    assert!(
        (1..8).contains(&start.elapsed().as_secs()),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(guest.result("a")["outcome"], "stopped");
    guest.assert_clean();
}

#[test]
fn sigterm_stops_a_drain_too() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.script("a", STAY);
    guest.script("b", TELL);
    let drain = Daemon::start(&guest, guest.gvad(&["drain"]));
    wait_until("it runs", || guest.witness() == ["a"]);
    assert_eq!(drain.stop(), Some(1), "a script did not succeed");
    assert_eq!(guest.result("a")["outcome"], "stopped");
    assert_eq!(guest.waiting(), ["b"]);
    guest.assert_clean();
}

#[test]
fn stop_while_waiting_for_the_application_is_quick_and_clean() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.set(
        "application.source",
        format!("LABEL={}", guest.label("none")),
    );
    let daemon = guest.daemon();
    daemon.wait_state("waiting_for_application");
    let start = Instant::now();
    assert_eq!(daemon.stop(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn sighup_reads_the_configuration_again_and_an_error_keeps_the_old() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let say = "#!/bin/sh\necho \"$SITE\"\n";
    guest.set("environment.SITE", "one");
    let daemon = guest.daemon();
    let said = |name: &str| {
        let run = daemon.wait_result(name)["run_id"]
            .as_str()
            .unwrap()
            .to_owned();
        fs::read_to_string(guest.live_output().join("gvad").join(run).join("stdout")).unwrap()
    };
    guest.hand_over("a", say);
    assert_eq!(said("a"), "one\n");
    let good = fs::read_to_string(guest.path("gvad.toml")).unwrap();
    fs::write(guest.path("gvad.toml"), good.replace("one", "two")).unwrap();
    daemon.signal(Signal::SIGHUP);
    wait_until("the new configuration holds", || {
        let name = format!("b{}", guest.results().len());
        guest.hand_over(&name, say);
        said(&name) == "two\n"
    });
    fs::write(
        guest.path("gvad.toml"),
        good.replace("one", "three") + "\n[nonsense]\n",
    )
    .unwrap();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_log("nonsense");
    guest.hand_over("c", say);
    assert_eq!(said("c"), "two\n");
    assert_eq!(daemon.stop(), Some(0));
    guest.assert_clean();
}

#[test]
fn sighup_does_not_disturb_the_running_script() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.script(
        "a",
        "#!/bin/sh\necho a >> \"$WITNESS\"\nwhile ! test -e \"$WITNESS.go\"; do sleep 0.02; done\n",
    );
    let daemon = guest.daemon();
    wait_until("it runs", || guest.witness() == ["a"]);
    daemon.signal(Signal::SIGHUP);
    assert_eq!(daemon.wait_state("running")["running"]["script"], "a");
    fs::write(guest.path("witness.go"), "").unwrap();
    assert_eq!(daemon.wait_result("a")["success"], true);
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn status_tells_what_runs_what_is_mounted_and_what_failed() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let ended = run(&mut guest.gvad(&["status"]));
    assert_eq!(ended.code, Some(3), "{ended}");
    guest.script("a-bad", "#!/bin/sh\nexit 9\n");
    guest.script("b-good", TELL);
    guest.script("c-long", STAY);
    guest.script("d-waits", TELL);
    let daemon = guest.daemon();
    wait_until("it runs", || guest.witness().len() == 2);
    let status = daemon.wait_state("running");
    assert_eq!(status["schema"], 1);
    assert_eq!(status["pid"], daemon.pid());
    assert_eq!(
        status["boot_id"],
        fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .unwrap()
            .trim()
    );
    assert_eq!(status["running"]["script"], "c-long");
    assert_eq!(status["running"]["run_id"], "000003-c-long");
    assert_eq!(status["running"]["attempt"], 1);
    assert!(status["running"]["started_at"].is_string());
    let counts = &status["counts"];
    assert_eq!(
        (&counts["succeeded"], &counts["failed"], &counts["waiting"]),
        (&1.into(), &1.into(), &1.into()),
        "{status:#}"
    );
    assert_eq!(status["last_failures"][0]["script"], "a-bad");
    assert!(status["problem"].is_null());
    let first = status["running"]["duration_ms"].as_u64().unwrap();
    wait_until("the time grows", || {
        daemon.status()["running"]["duration_ms"].as_u64().unwrap() > first
    });
    let text = run(&mut guest.gvad(&["status"]));
    assert_eq!(text.code, Some(0));
    for word in ["c-long", "a-bad", &guest.text("mnt/application")] {
        assert!(text.stdout.contains(word), "{word} in {text}");
    }
    daemon.kill();
    // The socket of a dead gvad answers nobody.
    for form in [&["status"][..], &["status", "--json"]] {
        let ended = run(&mut guest.gvad(form));
        assert_eq!(ended.code, Some(3), "{ended}");
    }
}

#[test]
fn sighup_does_not_move_what_needs_a_new_start() {
    let Some(guest) = Guest::in_directory() else {
        return;
    };
    let say = "#!/bin/sh\necho \"${TMPDIR%/*} $SITE\" >> \"$WITNESS\"\n";
    guest.set("environment.SITE", "old");
    let daemon = guest.daemon();
    daemon.wait_state("idle");
    guest.set("environment.SITE", "new");
    guest.set("application.script_bin", "elsewhere");
    guest.set("run.temp_dir", guest.text("state-2"));
    let config = fs::read_to_string(guest.write_config()).unwrap();
    daemon.signal(Signal::SIGHUP);
    daemon.wait_log("read again");
    daemon.wait_log("started again");
    guest.hand_over("a", say);
    wait_until("it told", || guest.witness().len() == 1);
    assert_eq!(
        guest.witness(),
        [format!("{} new", guest.text("state"))],
        "{config}"
    );
    assert!(!guest.path("app/elsewhere").exists());
    guest.set("run.temp_dir", guest.text("state"));
    daemon.wait_result("a");
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn what_gvad_keeps_for_itself_is_for_root_alone() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.script("a", STAY);
    let daemon = guest.daemon();
    wait_until("it runs", || guest.witness() == ["a"]);
    daemon.wait_state("running");
    let modes = sh(&format!(
        "stat -c %a '{0}' '{0}/control' '{1}/script-bin/.gvad' '{1}'/script-bin/.gvad/* '{1}/output/gvad/ledger'",
        guest.text("state"),
        guest.live().display()
    ));
    let modes: Vec<_> = modes.lines().collect();
    assert_eq!(modes, ["700", "600", "700", "700", "600"]);
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn status_remembers_the_last_ten_failures() {
    let Some(guest) = Guest::in_directory() else {
        return;
    };
    for n in 10..22 {
        guest.script(format!("s{n}"), "#!/bin/sh\nexit 1\n");
    }
    let daemon = guest.daemon();
    daemon.wait_result("s21");
    let status = daemon.wait_state("idle");
    assert_eq!(status["counts"]["failed"], 12);
    let last = status["last_failures"].as_array().unwrap();
    let last: Vec<_> = last.iter().map(|f| f["script"].as_str().unwrap()).collect();
    assert_eq!(last.len(), 10, "{last:?}");
    assert_eq!((last[0], last[9]), ("s12", "s21"));
    assert_eq!(daemon.stop(), Some(0));
}
