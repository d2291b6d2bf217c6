//! What stands on the output image when a script has ended: each field and each outcome.

use std::fs;
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::harness::{Ended, Guest, names, run, sh, wait_until};

const FIELDS: [&str; 22] = [
    "schema",
    "run_id",
    "script",
    "sha256",
    "attempt",
    "outcome",
    "success",
    "exit_code",
    "signal",
    "reason",
    "started_at",
    "finished_at",
    "duration_ms",
    "stdout_bytes",
    "stderr_bytes",
    "stdout_truncated",
    "stderr_truncated",
    "user_cpu_ms",
    "system_cpu_ms",
    "max_rss_kib",
    "boot_id",
    "gvad_version",
];

/// `2026-01-02T03:04:05.678Z` as milliseconds since 1970, by the system's own `date`.
fn instant(value: &Value) -> u128 {
    let text = value.as_str().unwrap_or_else(|| panic!("a time: {value}"));
    let shape: String = text
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000Z");
    sh(&format!("date -u -d '{text}' +%s%3N"))
        .trim()
        .parse()
        .unwrap()
}

#[test]
fn result_has_every_field_and_they_are_true() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    let body = "#!/bin/sh\nprintf 'out\\000put\\377'\nprintf 'err' >&2\nsleep 0.3\nexit 0\n";
    let before = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis();
    let (result, _) = guest.outcome_of("fields.sh", body);
    let after = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis();
    for field in FIELDS
        .iter()
        .filter(|f| !["exit_code", "signal", "reason"].contains(f))
    {
        assert!(!result[field].is_null(), "{field} in {result:#}");
    }
    let known: Vec<_> = result
        .as_object()
        .unwrap()
        .keys()
        .filter(|k| !FIELDS.contains(&k.as_str()))
        .collect();
    assert!(known.is_empty(), "fields that no contract names: {known:?}");
    fs::write(guest.path("copy"), body).unwrap();
    let sum = sh(&format!("sha256sum < '{}'", guest.text("copy")));
    assert_eq!(result["schema"], 1);
    assert_eq!(result["run_id"], "000001-fields.sh");
    assert_eq!(result["script"], "fields.sh");
    assert_eq!(result["sha256"], sum.split(' ').next().unwrap());
    assert_eq!(result["attempt"], 1);
    assert_eq!(result["outcome"], "exited");
    assert_eq!(result["success"], true);
    assert_eq!(result["exit_code"], 0);
    assert!(result["signal"].is_null() && result["reason"].is_null());
    let (start, end) = (
        instant(&result["started_at"]),
        instant(&result["finished_at"]),
    );
    assert!(
        before <= start + 1 && start + 290 <= end && end <= after + 1,
        "{before} {start} {end} {after}"
    );
    let duration = result["duration_ms"].as_u64().unwrap();
    assert!((300..10_000).contains(&duration), "{duration}");
    assert_eq!(
        (&result["stdout_bytes"], &result["stderr_bytes"]),
        (&8.into(), &3.into())
    );
    assert_eq!(
        (&result["stdout_truncated"], &result["stderr_truncated"]),
        (&false.into(), &false.into())
    );
    assert!(result["max_rss_kib"].as_u64().unwrap() > 100);
    assert!(result["user_cpu_ms"].is_u64() && result["system_cpu_ms"].is_u64());
    assert_eq!(
        result["boot_id"],
        fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .unwrap()
            .trim()
    );
    assert_eq!(result["gvad_version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(guest.run_file(&result, "stdout"), b"out\0put\xff");
    assert_eq!(guest.run_file(&result, "stderr"), b"err");
    guest.inside_output(|out| {
        assert_eq!(
            names(&out.join("gvad/000001-fields.sh")),
            ["result.json", "stderr", "stdout"]
        );
        let hidden = fs::read_dir(out.join("gvad/000001-fields.sh"))
            .unwrap()
            .count();
        assert_eq!(hidden, 3, "no draft is left");
    });
}

#[test]
fn exit_code_other_than_zero_is_no_success() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.script("a", "#!/bin/sh\nexit 3\n");
    guest.script("b", "#!/bin/sh\nexit 0\n");
    guest.script("c", "#!/bin/sh\nexit 255\n");
    assert_eq!(guest.drain().code, Some(1));
    let told = |r: &Value| {
        (
            r["outcome"].clone(),
            r["exit_code"].clone(),
            r["success"].clone(),
        )
    };
    let told: Vec<_> = guest.results().iter().map(told).collect();
    let want = [(3, false), (0, true), (255, false)]
        .map(|(code, good)| ("exited".into(), code.into(), good.into()));
    assert_eq!(told, want);
}

#[test]
fn success_only_drain_exits_zero_and_so_does_an_empty_one() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    assert_eq!(guest.drain().code, Some(0));
    guest.script("a", "#!/bin/sh\n");
    assert_eq!(guest.drain().code, Some(0));
    // The failures of a former drain are not this one's.
    guest.script("b", "#!/bin/sh\nexit 1\n");
    assert_eq!(guest.drain().code, Some(1));
    assert_eq!(guest.drain().code, Some(0));
}

#[test]
fn signal_that_ended_it_is_named() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    for (script, signal) in [
        ("kill", "SIGKILL"),
        ("segv", "SIGSEGV"),
        ("term", "SIGTERM"),
        ("usr1", "SIGUSR1"),
    ] {
        let (result, _) =
            guest.outcome_of(script, &format!("#!/bin/sh\nkill -{} $$\n", &signal[3..]));
        assert_eq!(result["outcome"], "signaled", "{result}");
        assert_eq!(result["signal"], signal);
        assert!(result["exit_code"].is_null());
        assert!(
            result["reason"].is_null(),
            "nobody ran out of memory: {result}"
        );
        assert_eq!(result["success"], false);
    }
}

/// A drain of 50 MiB; `None` where that cannot be had.
fn drain_in_little_memory(guest: &Guest) -> Option<Ended> {
    let group = format!("/sys/fs/cgroup/memory/{}", guest.label("oom"));
    if fs::create_dir(&group).is_err() {
        crate::harness::skipped("no memory controller to set a limit with");
        return None;
    }
    fs::write(format!("{group}/memory.limit_in_bytes"), "50M").unwrap();
    let gvad = guest.gvad(&["drain"]);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "echo $$ > \"$0/cgroup.procs\"; exec \"$@\"", &group])
        .arg(gvad.get_program())
        .args(gvad.get_args());
    let ended = run(&mut shell);
    // What was killed may still be on its way out.
    wait_until("the control group is empty", || {
        fs::remove_dir(&group).is_ok()
    });
    Some(ended)
}

#[test]
fn out_of_memory_killer_is_named() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.script("a-greedy", "#!/usr/bin/tail /dev/zero\n");
    guest.script("b-next", "#!/bin/sh\n");
    let Some(ended) = drain_in_little_memory(&guest) else {
        return;
    };
    let result = guest.result("a-greedy");
    let next = guest.result("b-next");
    assert_eq!(ended.code, Some(1), "{ended}");
    assert_eq!(
        (&result["outcome"], &result["signal"]),
        (&"signaled".into(), &"SIGKILL".into()),
        "{result}"
    );
    let reason = result["reason"].as_str().unwrap_or_default().to_lowercase();
    assert!(
        reason.contains("memory") || reason.contains("oom"),
        "{result}"
    );
    assert_eq!(next["success"], true, "{next}");
}

#[test]
fn what_the_out_of_memory_killer_did_before_is_no_scripts_reason() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    // It lives on, and nobody asks; the next one is ended by something else.
    guest.script("a-parent", "#!/bin/sh\ntail /dev/zero\necho $?\nexit 0\n");
    guest.script("b-next", "#!/bin/sh\nkill -KILL $$\n");
    if drain_in_little_memory(&guest).is_none() {
        return;
    }
    let parent = guest.result("a-parent");
    assert_eq!(guest.run_file(&parent, "stdout"), b"137\n", "{parent}");
    let next = guest.result("b-next");
    assert_eq!(next["signal"], "SIGKILL", "{next}");
    assert!(next["reason"].is_null(), "{next}");
}

#[test]
fn numbers_grow_for_as_long_as_the_output_image_lives() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    for name in ["a", "b"] {
        guest.script(name, "#!/bin/sh\n");
    }
    guest.drain_ok();
    guest.script("a", "#!/bin/sh\n");
    guest.drain_ok();
    let ids: Vec<_> = guest
        .results()
        .iter()
        .map(|r| r["run_id"].clone())
        .collect();
    assert_eq!(ids, ["000001-a", "000002-b", "000003-a"]);
    // Results that the owner of the image took away do not give their numbers back.
    guest.inside_output(|out| {
        sh(&format!(
            "rm -r '{0}'/000002-b '{0}'/000003-a",
            out.join("gvad").display()
        ))
    });
    guest.script("a", "#!/bin/sh\n");
    guest.drain_ok();
    let ids: Vec<_> = guest
        .results()
        .iter()
        .map(|r| r["run_id"].clone())
        .collect();
    assert_eq!(ids, ["000001-a", "000004-a"]);
}

#[test]
fn output_beyond_the_limit_is_counted_and_cut() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.set("run.output_limit", "4KiB");
    let body = "#!/bin/sh\nseq 1 20000\nprintf %4096s x >&2\n";
    let (result, _) = guest.outcome_of("loud", body);
    let whole = sh("seq 1 20000");
    assert_eq!(
        result["exit_code"], 0,
        "the script does not notice: {result}"
    );
    assert_eq!(result["stdout_bytes"], whole.len());
    assert_eq!(
        (&result["stdout_truncated"], &result["stderr_truncated"]),
        (&true.into(), &false.into())
    );
    assert_eq!(guest.run_file(&result, "stdout"), &whole.as_bytes()[..4096]);
    assert_eq!(guest.run_file(&result, "stderr").len(), 4096);
}

#[test]
fn processor_time_and_memory_of_the_whole_tree_are_told() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let body = "#!/bin/sh\nsh -c 'i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done'\n\
                head -c 30000000 /dev/zero | tail -c 30000000 > /dev/null\n";
    let (result, _) = guest.outcome_of("busy", body);
    assert!(result["user_cpu_ms"].as_u64().unwrap() >= 50, "{result}");
    assert!(
        result["max_rss_kib"].as_u64().unwrap() >= 29_000,
        "{result}"
    );
}

#[test]
fn time_limit_ends_it_with_the_outcome_timed_out() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.set("run.timeout", "500ms");
    guest.script("a-long", "#!/bin/sh\necho begun\nsleep 1000\n");
    guest.script("b-short", "#!/bin/sh\n");
    assert_eq!(guest.drain().code, Some(1));
    let result = guest.result("a-long");
    assert_eq!(result["outcome"], "timed_out");
    assert_eq!(result["success"], false);
    let duration = result["duration_ms"].as_u64().unwrap();
    assert!((500..8000).contains(&duration), "{duration}");
    assert_eq!(guest.run_file(&result, "stdout"), b"begun\n");
    assert_eq!(guest.result("b-short")["outcome"], "exited");
    guest.assert_clean();
}

#[test]
fn no_time_limit_unless_it_is_asked_for() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.set("run.timeout", "0s");
    let (result, _) = guest.outcome_of("calm", "#!/bin/sh\nsleep 1\n");
    assert_eq!(result["success"], true);
}

#[test]
fn results_command_shows_a_table_and_json_lines() {
    let Some(guest) = Guest::in_directory() else {
        return;
    };
    guest.script("good.sh", "#!/bin/sh\n");
    guest.script("bad.sh", "#!/bin/sh\nexit 7\n");
    guest.script("evil\x1b[2J\nname", "#!/bin/sh\n");
    assert_eq!(guest.drain().code, Some(1));
    let gvad = |args: &[&str]| run(Command::new(env!("CARGO_BIN_EXE_gvad")).args(args));
    let output = guest.text("app/output");
    let lines = gvad(&["results", &output, "--json"]);
    assert_eq!(lines.code, Some(0), "{lines}");
    let lines: Vec<Value> = lines
        .stdout
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines, guest.results());
    let table = gvad(&["results", &output]);
    assert_eq!(table.code, Some(0));
    for word in ["good.sh", "bad.sh", "exited", "7", "000001"] {
        assert!(table.stdout.contains(word), "{word} in {table}");
    }
    assert!(
        !table.stdout.contains('\x1b'),
        "a name must not speak to the terminal: {table}"
    );
    let absent = gvad(&["results", &guest.text("nowhere")]);
    assert_eq!(absent.code, Some(2));
    assert!(absent.stderr.contains("nowhere"));
}

#[test]
fn status_file_stands_beside_the_results() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.script("a", "#!/bin/sh\nexit 1\n");
    // It is written within moments, not before the script runs.
    let body = "#!/bin/sh\ncd \"$GVA_OUTPUT/gvad\"\n\
                for i in $(seq 100); do grep -q 000002-b status.json && break; sleep 0.1; done\n\
                cat status.json\n";
    guest.script("b", body);
    assert_eq!(guest.drain().code, Some(1));
    let during = guest.run_file(&guest.result("b"), "stdout");
    let during: Value = serde_json::from_slice(&during).unwrap();
    assert_eq!(during["schema"], 1);
    assert_eq!(during["state"], "running");
    assert_eq!(during["running"]["script"], "b");
    assert_eq!(during["running"]["run_id"], "000002-b");
    assert_eq!(during["counts"]["failed"], 1);
    assert_eq!(during["last_failures"][0]["script"], "a");
    let after = guest.inside_output(|out| fs::read(out.join("gvad/status.json")).unwrap());
    let after: Value = serde_json::from_slice(&after).unwrap();
    assert_eq!(
        (&after["counts"]["succeeded"], &after["counts"]["failed"]),
        (&1.into(), &1.into())
    );
    assert!(after["running"].is_null());
    assert_eq!(after["state"], "stopped");
}

#[test]
fn result_is_there_within_moments_of_the_end() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let daemon = guest.daemon();
    guest.hand_over("quick", "#!/bin/sh\n");
    let result = daemon.wait_result("quick");
    let late =
        SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() - instant(&result["finished_at"]);
    assert!(late < Duration::from_secs(5).as_millis(), "{late} ms");
}

#[test]
fn result_is_absent_until_it_is_whole() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    let body = "#!/bin/sh\ncd \"$GVA_OUTPUT/gvad/$GVA_RUN_ID\" && ls\n";
    let (result, stdout) = guest.outcome_of("a", body);
    assert_eq!(result["success"], true, "{result}");
    assert_eq!(stdout, "stderr\nstdout\n");
}

#[test]
fn whoever_reads_the_output_image_may_read_it_whatever_the_umask_of_gvad() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.script("a", "#!/bin/sh\n");
    let gvad = guest.gvad(&["drain"]);
    let mut shell = Command::new("sh");
    shell.args(["-c", "umask 077; exec \"$0\" \"$@\""]);
    let ended = run(shell.arg(gvad.get_program()).args(gvad.get_args()));
    assert_eq!(ended.code, Some(0), "{ended}");
    let modes = guest.inside_output(|out| {
        sh(&format!(
            "cd '{}'; stat -c '%a %n' . status.json 000001-a 000001-a/*",
            out.join("gvad").display()
        ))
    });
    assert_eq!(
        modes.lines().collect::<Vec<_>>(),
        [
            "755 .",
            "644 status.json",
            "755 000001-a",
            "644 000001-a/result.json",
            "644 000001-a/stderr",
            "644 000001-a/stdout",
        ]
    );
}
