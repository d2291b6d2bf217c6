//! A script's whole process tree ends with it, and none of it delays the next script.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{Guest, sh, skipped, wait_until};

/// Leaves children of every kind behind: in the background, in a session of its own, double-forked, deaf to signals, and one
/// that hides its parent's death. Each writes its pid to `$WITNESS.pids`.
const BROOD: &str = "#!/bin/sh\n\
    tell='echo $$ >> \"$WITNESS.pids\"; while :; do sleep 1000; done'\n\
    sh -c \"$tell\" &\n\
    setsid sh -c \"$tell\" &\n\
    ( ( setsid sh -c \"$tell\" > /dev/null 2>&1 < /dev/null & ) & )\n\
    ( setsid sh -c \"trap '' TERM HUP INT; $tell\" & )\n\
    ( cd /; env -i WITNESS=\"$WITNESS\" PATH=\"$PATH\" setsid sh -c \"$tell\" > /dev/null 2>&1 & )\n\
    while [ \"$(wc -l < \"$WITNESS.pids\" 2> /dev/null || echo 0)\" -lt 5 ]; do sleep 0.02; done\n";

fn pids(guest: &Guest) -> Vec<i32> {
    let text = fs::read_to_string(guest.path("witness.pids")).unwrap_or_default();
    text.lines().map(|l| l.parse().unwrap()).collect()
}

fn alive(pid: i32) -> bool {
    // The command line of a zombie is empty.
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

#[track_caller]
fn assert_brood_ended(guest: &Guest, of: usize) {
    let pids = pids(guest);
    assert_eq!(pids.len(), of);
    let left: Vec<_> = pids.into_iter().filter(|pid| alive(*pid)).collect();
    assert!(left.is_empty(), "still alive: {left:?}");
}

/// Hides every cgroup hierarchy in the guest's namespace.
fn without_cgroups(_guest: &Guest) {
    sh("umount -R -l /sys/fs/cgroup 2> /dev/null || umount -l /sys/fs/cgroup");
    let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
    assert!(!mounts.contains("cgroup2"), "{mounts}");
}

fn has_cgroups() -> bool {
    let found = fs::read_to_string("/proc/mounts")
        .unwrap()
        .lines()
        .any(|l| l.split(' ').nth(2) == Some("cgroup2"));
    if !found {
        skipped("no cgroup v2 is mounted");
    }
    found
}

#[test]
fn children_of_every_kind_end_with_their_script() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    if !has_cgroups() {
        return;
    }
    guest.script("a", &format!("{BROOD}exit 0\n"));
    guest.script("b", "#!/bin/sh\nfor p in $(cat \"$WITNESS.pids\"); do test ! -e /proc/$p/exe || echo $p lives; done\n");
    guest.drain_ok();
    assert_brood_ended(&guest, 5);
    let next = guest.result("b");
    assert_eq!(
        guest.run_file(&next, "stdout"),
        b"",
        "they ended before the next script began"
    );
    assert_eq!(guest.result("a")["outcome"], "exited");
    guest.assert_clean();
}

#[test]
fn children_of_every_kind_end_without_cgroups_too() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    without_cgroups(&guest);
    guest.script("a", &format!("{BROOD}exit 0\n"));
    guest.drain_ok();
    assert_brood_ended(&guest, 5);
    guest.assert_clean();
}

#[test]
fn time_limit_ends_the_whole_tree() {
    for cgroups in [true, false] {
        let Some(guest) = Guest::on_image() else {
            return;
        };
        if !cgroups {
            without_cgroups(&guest);
        }
        guest.set("run.timeout", "2s");
        guest.set("run.stop_grace", "300ms");
        guest.script("a", &format!("{BROOD}wait\nsleep 1000\n"));
        assert_eq!(guest.drain().code, Some(1));
        assert_eq!(guest.result("a")["outcome"], "timed_out");
        assert_brood_ended(&guest, 5);
        guest.assert_clean();
    }
}

#[test]
fn ever_forking_tree_ends_too() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    if !has_cgroups() {
        return;
    }
    // Each child makes its successor in a new session and ends: a list of processes is old before it is read.
    let chain = "#!/bin/sh\ncat > \"$WITNESS.sh\" <<'X'\n\
                 n=$1; echo $$ > \"$WITNESS.last\"; [ $n -gt 20000 ] || setsid sh \"$WITNESS.sh\" $((n+1)) & exit\nX\n\
                 setsid sh \"$WITNESS.sh\" 1 &\nsetsid sh \"$WITNESS.sh\" 1 &\nsleep 0.3\n";
    guest.script("a", chain);
    guest.drain_ok();
    let last = fs::read_to_string(guest.path("witness.last")).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(
        fs::read_to_string(guest.path("witness.last")).unwrap(),
        last,
        "it went on after the drain"
    );
    guest.assert_clean();
}

#[test]
fn deaf_script_is_killed_after_the_grace() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.set("run.timeout", "500ms");
    guest.set("run.stop_grace", "1s");
    let body = "#!/bin/sh\ntrap 'echo heard' TERM\nwhile :; do sleep 0.1; done\n";
    let (result, stdout) = guest.outcome_of("deaf", body);
    assert_eq!(result["outcome"], "timed_out");
    assert_eq!(stdout, "heard\n", "SIGTERM came first, once");
    let duration = result["duration_ms"].as_u64().unwrap();
    assert!((1500..6000).contains(&duration), "{duration}");
}

#[test]
fn script_that_hears_is_not_made_to_wait_for_the_grace() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.set("run.timeout", "500ms");
    guest.set("run.stop_grace", "25s");
    let start = Instant::now();
    let (result, stdout) = guest.outcome_of(
        "polite",
        "#!/bin/sh\ntrap 'echo heard; exit 0' TERM\nwhile :; do sleep 0.1; done\n",
    );
    assert_eq!(result["outcome"], "timed_out");
    assert_eq!(
        result["success"], false,
        "though it then exits with 0: {result}"
    );
    assert_eq!(stdout, "heard\n");
    assert!(
        start.elapsed() < Duration::from_secs(15),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn background_child_does_not_hang_us() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.set("run.stop_grace", "1s");
    guest.script(
        "a",
        "#!/bin/sh\necho before\nsetsid sh -c 'echo $$ >> \"$WITNESS.pids\"; exec sleep 1000' &\n\
                       while ! test -s \"$WITNESS.pids\"; do sleep 0.02; done\necho after\n",
    );
    guest.script("b", "#!/bin/sh\n");
    let start = Instant::now();
    guest.drain_ok();
    assert!(
        start.elapsed() < Duration::from_secs(15),
        "{:?}",
        start.elapsed()
    );
    let result = guest.result("a");
    assert_eq!(guest.run_file(&result, "stdout"), b"before\nafter\n");
    assert!(result["duration_ms"].as_u64().unwrap() < 10_000);
    assert_brood_ended(&guest, 1);
}

#[test]
fn kept_leftovers_live_on_and_do_not_delay_the_next() {
    for cgroups in [true, false] {
        let Some(guest) = Guest::on_image() else {
            return;
        };
        if !cgroups {
            without_cgroups(&guest);
        }
        guest.set("run.leftovers", "keep");
        // It holds the output pipe, and goes on writing to it until that fails; without the trap SIGPIPE would end it.
        let body = "#!/bin/sh\nsetsid sh -c 'trap \"\" PIPE; echo $$ >> \"$WITNESS.pids\"; cd /; while echo x; do sleep 0.2; done; sleep 1000' &\n\
                    while ! test -s \"$WITNESS.pids\"; do sleep 0.02; done\necho done\n";
        guest.script("a", body);
        guest.script("b", "#!/bin/sh\n");
        let start = Instant::now();
        guest.drain_ok();
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "{:?}",
            start.elapsed()
        );
        let result = guest.result("a");
        assert!(String::from_utf8_lossy(&guest.run_file(&result, "stdout")).contains("done\n"));
        let [pid] = pids(&guest)[..] else {
            panic!("one child")
        };
        assert!(alive(pid), "it is kept");
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        wait_until("it is gone", || !alive(pid));
    }
}

#[test]
fn kept_leftovers_end_when_the_time_limit_passes() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.set("run.leftovers", "keep");
    guest.set("run.timeout", "2s");
    guest.set("run.stop_grace", "300ms");
    guest.script("a", &format!("{BROOD}sleep 1000\n"));
    assert_eq!(guest.drain().code, Some(1));
    assert_brood_ended(&guest, 5);
}

#[test]
fn stopping_gvad_ends_the_whole_tree() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.script(
        "a",
        &format!("{BROOD}echo ready >> \"$WITNESS\"\nsleep 1000\n"),
    );
    let daemon = guest.daemon();
    wait_until("it runs", || guest.witness() == ["ready"]);
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(guest.result("a")["outcome"], "stopped");
    assert_brood_ended(&guest, 5);
    guest.assert_clean();
}

#[test]
fn output_written_at_the_very_end_is_not_lost() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let (result, stdout) = guest.outcome_of("burst", "#!/bin/sh\nseq 1 100000\nseq 1 100000 >&2\n");
    assert!(stdout.ends_with("99999\n100000\n"));
    assert_eq!(result["stdout_bytes"], stdout.len());
    assert_eq!(result["stderr_bytes"], stdout.len());
    assert_eq!(result["stdout_truncated"], false);
}

#[test]
fn script_that_closes_its_output_runs_to_its_end() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let (result, _) = guest.outcome_of(
        "closed",
        "#!/bin/sh\nexec > /dev/null 2>&1\nsleep 0.5\nexit 4\n",
    );
    assert_eq!(result["exit_code"], 4);
    assert!(result["duration_ms"].as_u64().unwrap() >= 500);
}

#[test]
fn broken_pipe_ends_what_a_script_pipes_as_in_any_shell() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let (_, stdout) = guest.outcome_of(
        "pipe",
        "#!/bin/bash\nyes | head -n 1\necho ${PIPESTATUS[0]}\n",
    );
    assert_eq!(stdout, "y\n141\n");
}

#[test]
fn cgroups_are_found_where_they_are_mounted() {
    if !has_cgroups() {
        return;
    }
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let old = mounts
        .lines()
        .find(|l| l.split(' ').nth(2) == Some("cgroup2"))
        .unwrap()
        .split(' ')
        .nth(1)
        .unwrap()
        .to_owned();
    // The hierarchy at a place that nobody assumes.
    let point = guest.path("cg roups");
    fs::create_dir(&point).unwrap();
    sh(&format!(
        "mount --move '{old}' '{0}' || {{ mount --rbind '{old}' '{0}'; umount -l '{old}'; }}",
        point.display()
    ));
    let body = "#!/bin/sh\ngrep ^0:: /proc/self/cgroup\n";
    guest.script("a", body);
    let ended = guest.drain();
    assert_eq!(ended.code, Some(0), "{ended}");
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let said = String::from_utf8(guest.run_file(&guest.result("a"), "stdout")).unwrap();
    assert!(!own.contains(&said), "a group of its own: {said}");
    assert!(
        !Path::new(&point)
            .join(said.trim().trim_start_matches("0::/"))
            .exists()
    );
    sh(&format!("umount -l '{}'", point.display()));
}

#[test]
fn kept_leftovers_outlive_the_next_start_of_gvad() {
    let Some(guest) = Guest::in_directory() else {
        return;
    };
    guest.set("run.leftovers", "keep");
    guest.script("a", "#!/bin/sh\nsetsid sh -c 'echo $$ >> \"$WITNESS.pids\"; cd /; exec sleep 1000' > /dev/null 2>&1 &\n\
                       while ! test -s \"$WITNESS.pids\"; do sleep 0.02; done\n");
    guest.drain_ok();
    guest.script("b", "#!/bin/sh\n");
    guest.drain_ok();
    let [pid] = pids(&guest)[..] else {
        panic!("one child")
    };
    assert!(alive(pid), "it is kept");
}
