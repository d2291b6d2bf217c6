//! gvad killed at its system calls, one after the other, and a start after each: nothing runs twice, nothing is lost.
//! (That the syncs are there cannot be seen this way, the page cache survives: see `durable.rs`.)

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::harness::{Ended, Fs, Guest, Image, Place, run, wait_until, write_script};

const TELL: &str =
    "#!/bin/sh\nprintf '%s\\n' \"${0##*/}\" >> \"$WITNESS\"\necho out; echo err >&2\n";

/// `gvad drain` under strace, which does `inject` to one of its system calls. The scripts are not traced.
fn drain_with(guest: &Guest, inject: &str) -> Ended {
    let gvad = guest.gvad(&["drain"]);
    let mut strace = Command::new("strace");
    strace.args(["-o", "/dev/null", "-e", inject, "--"]);
    run(strace.arg(gvad.get_program()).args(gvad.get_args()))
}

/// What must hold after a crash and one more drain, whatever was hit: scripts `a`, `b` and `c` once each, or interrupted.
#[track_caller]
fn assert_kept(guest: &Guest, names: &[&str], at: &str) {
    let first = guest.drain();
    assert!(matches!(first.code, Some(0 | 1)), "{at}: {first}");
    let told = guest.witness();
    let once: BTreeSet<_> = told.iter().cloned().collect();
    assert_eq!(once.len(), told.len(), "{at}: ran twice: {told:?}");
    let results = guest.results();
    let mut have: Vec<_> = results
        .iter()
        .map(|r| r["script"].as_str().unwrap())
        .collect();
    have.sort_unstable();
    assert_eq!(have, names, "{at}: each has one result\n{first}");
    let interrupted = results
        .iter()
        .filter(|r| r["outcome"] == "interrupted")
        .count();
    assert!(interrupted <= 1, "{at}: at most one a crash: {results:?}");
    for result in results.iter().filter(|r| r["outcome"] != "interrupted") {
        assert_eq!(result["outcome"], "exited", "{at}: {result}");
        assert!(
            once.contains(result["script"].as_str().unwrap()),
            "{at}: it says that it ran: {result}"
        );
        assert_eq!(guest.run_file(result, "stdout"), b"out\n", "{at}");
        assert_eq!(guest.run_file(result, "stderr"), b"err\n", "{at}");
    }
    let second = guest.drain();
    assert_eq!(second.code, Some(0), "{at}: {second}");
    assert_eq!(
        (guest.witness(), guest.results()),
        (told, results),
        "{at}: a further start changes nothing"
    );
    guest.assert_clean();
}

/// Kills a drain at the first, second, … use of a system call, until a drain gets through.
#[track_caller]
fn killed_at_each(call: &str, at_most: usize, twice: bool) {
    for when in 1..=at_most {
        // Recovery is tried on the combined image, where both sides fail together.
        let made = if twice {
            Guest::on_image()
        } else {
            Guest::with_output_image()
        };
        let Some(guest) = made else { return };
        for name in ["a", "b"] {
            guest.script(name, TELL);
        }
        let at = format!("{call} {when}");
        let inject = format!("inject={call}:signal=SIGKILL:when={when}");
        let ended = drain_with(&guest, &inject);
        if ended.code == Some(0) {
            assert!(when > 1, "{call} is never used: {ended}");
            return;
        }
        assert_eq!(ended.signal, Some(libc::SIGKILL), "{at}: {ended}");
        if twice {
            // Recovery may be killed at any point, too.
            drain_with(
                &guest,
                &format!("inject={call}:signal=SIGKILL:when={}", 1 + when % 5),
            );
        }
        assert_kept(&guest, &["a", "b"], &at);
    }
}

#[test]
fn killed_at_each_rename() {
    killed_at_each("/^rename", 40, false);
}

#[test]
fn killed_at_each_fdatasync() {
    killed_at_each("fdatasync", 40, false);
}

#[test]
fn killed_at_each_fsync() {
    killed_at_each("fsync", 40, false);
}

#[test]
fn killed_at_each_clone() {
    killed_at_each("/^(clone|clone3|vfork|fork)$", 40, false);
}

#[test]
fn killed_at_each_unlink() {
    killed_at_each("/^(unlink|unlinkat|rmdir)$", 40, false);
}

#[test]
fn killed_at_each_mkdir() {
    killed_at_each("/^mkdir", 40, false);
}

#[test]
fn killed_at_each_write_to_a_place() {
    killed_at_each("/^(pwrite64|pwritev|ftruncate|fallocate)", 40, false);
}

#[test]
fn killed_at_each_wait() {
    killed_at_each("/^(waitid|wait4)$", 40, false);
}

#[test]
fn killed_in_recovery_too() {
    killed_at_each("/^(fdatasync|fsync|rename.*|unlinkat|mkdirat)$", 60, true);
}

#[test]
fn failed_sync_is_not_tried_again_and_nothing_runs_twice() {
    for when in 1..=12 {
        let Some(guest) = Guest::with_output_image() else {
            return;
        };
        for name in ["a", "b", "c"] {
            guest.script(name, TELL);
        }
        let at = format!("failed sync {when}");
        drain_with(
            &guest,
            &format!("inject=/^(fsync|fdatasync|syncfs)$:error=EIO:when={when}"),
        );
        assert_kept(&guest, &["a", "b", "c"], &at);
    }
}

/// What a failed sync has left in the page cache is not believed: only what is read from the disk again.
#[test]
fn result_that_could_not_be_synced_is_recorded_on_the_output_mounted_anew() {
    let mut hit = 0;
    for when in 1..=12 {
        let Some(guest) = Guest::with_output_image() else {
            return;
        };
        guest.script("a", TELL);
        let inject = format!("inject=/^(fsync|fdatasync|syncfs)$:error=EIO:when={when}");
        let ended = drain_with(&guest, &inject);
        if ended.stderr.contains("recording the result of 000001-a") {
            let mounted = ended.stderr.matches(" mounted role=output").count();
            assert!(mounted > 1, "{when}: {ended}");
            hit += 1;
        }
    }
    assert!(hit > 0, "no sync of a result was hit");
}

/// Each rename waits a while before it is done; meanwhile somebody puts another script in the place of the one that is about to be claimed.
#[test]
fn script_that_takes_the_place_of_one_that_is_being_claimed_runs_as_itself() {
    let Some(guest) = Guest::in_directory() else {
        return;
    };
    guest.script("a", "#!/bin/sh\necho old >> \"$WITNESS\"\n");
    let new = guest.path("new");
    write_script(&new, "#!/bin/sh\necho new >> \"$WITNESS\"\n");
    let output = guest.live_output().join("gvad/000001-a");
    let script = guest.live().join("script-bin/a");
    let swapped = std::thread::spawn(move || {
        wait_until("the run directory", || output.exists());
        std::fs::rename(new, script).is_ok()
    });
    let ended = drain_with(&guest, "inject=renameat2:delay_enter=700000");
    assert!(swapped.join().unwrap(), "{ended}");
    guest.drain();
    assert_eq!(guest.witness(), ["new"], "{ended}");
    guest.assert_clean();
}

#[test]
fn failed_fork_leaves_no_mark_of_a_start() {
    for when in 1..=8 {
        let Some(guest) = Guest::with_output_image() else {
            return;
        };
        guest.script("a", TELL);
        // Threads are made with the same call: some of these hit no script at all.
        let failed = drain_with(&guest, &format!("inject=clone3:error=EAGAIN:when={when}"));
        let ended = guest.drain();
        let result = guest.result("a");
        let outcome = if guest.witness().is_empty() {
            "not_started"
        } else {
            "exited"
        };
        assert_eq!(
            result["outcome"], outcome,
            "clone3 {when}: {failed}\n{ended}"
        );
        assert!(guest.witness().len() <= 1, "{:?}", guest.witness());
        guest.assert_clean();
    }
}

#[test]
fn killed_on_a_medium_that_cannot_be_written() {
    let calls = "/^(fdatasync|fsync|rename.*|clone3|mkdirat)$";
    for when in 1..=40 {
        let Some(guest) = Guest::with_output_image() else {
            return;
        };
        for name in ["a", "b"] {
            write_script(&guest.path("content/script-bin").join(name), TELL);
        }
        let image = Image::of(
            Fs::Squashfs,
            guest.path("app.sqfs"),
            "",
            &guest.path("content"),
        );
        guest.set_application(Place::Image(image));
        let ended = drain_with(
            &guest,
            &format!("inject={calls}:signal=SIGKILL:when={when}"),
        );
        if ended.code == Some(0) {
            return;
        }
        assert_kept(
            &guest,
            &["a", "b"],
            &format!("read-only medium, call {when}"),
        );
    }
}

#[test]
fn daemon_killed_at_odd_moments_loses_nothing() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    let names: Vec<_> = (0..24).map(|n| format!("s{n:02}")).collect();
    for name in &names {
        guest.script(name, TELL);
    }
    let mut kills = 0_usize;
    for step in 0_u64..60 {
        let daemon = guest.daemon();
        // No condition to wait for: the point is to be early, late, or in the middle.
        thread::sleep(Duration::from_millis(20 + step * 37 % 200));
        daemon.kill();
        kills += 1;
        if guest.results().len() == names.len() {
            break;
        }
    }
    guest.drain();
    let told = guest.witness();
    let once: BTreeSet<_> = told.iter().collect();
    assert_eq!(once.len(), told.len(), "ran twice: {told:?}");
    let results = guest.results();
    let have: Vec<_> = results
        .iter()
        .map(|r| r["script"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(have, names, "each once, in order");
    let interrupted = results
        .iter()
        .filter(|r| r["outcome"] == "interrupted")
        .count();
    assert!(interrupted <= kills, "{interrupted} of {kills}");
    assert_eq!(guest.waiting(), Vec::<String>::new());
    guest.assert_clean();
}

#[test]
fn hundreds_of_scripts_and_a_kill_among_them_run_once_each() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    // More than gvad lets pile up before it forgets those that are done.
    let names: Vec<_> = (0..300).map(|n| format!("s{n:03}")).collect();
    guest.inside(|root| {
        for name in &names {
            write_script(&root.join("script-bin").join(name), TELL);
        }
    });
    let daemon = guest.daemon();
    wait_until("most have run", || guest.witness().len() >= 270);
    daemon.kill();
    let ended = guest.drain();
    assert!(matches!(ended.code, Some(0 | 1)), "{ended}");
    let told = guest.witness();
    let once: BTreeSet<_> = told.iter().collect();
    assert_eq!(once.len(), told.len(), "ran twice: {told:?}");
    let results = guest.results();
    let have: Vec<_> = results
        .iter()
        .map(|r| r["script"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(have, names, "each once, in order");
    let interrupted = results
        .iter()
        .filter(|r| r["outcome"] == "interrupted")
        .count();
    assert!(interrupted <= 1, "{interrupted}");
    guest.assert_clean();
}

#[test]
fn scripts_handed_over_between_two_gvads_run_once() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    let daemon = guest.daemon();
    daemon.wait_state("idle");
    daemon.kill();
    guest.hand_over("a", TELL);
    guest.hand_over("b", TELL);
    let daemon = guest.daemon();
    daemon.wait_result("b");
    wait_until("both told", || guest.witness().len() == 2);
    daemon.kill();
    assert_kept(&guest, &["a", "b"], "between");
}

type Ruin = fn(&Path);

/// What a power cut may leave of the files of a result that the ledger has.
const RUINS: [(&str, Ruin); 6] = [
    ("nothing", |_| {}),
    ("no directory", |run| fs::remove_dir_all(run).unwrap()),
    ("an empty result", |run| {
        fs::write(run.join("result.json"), "").unwrap();
        fs::write(run.join("stdout"), "").unwrap();
    }),
    ("no result yet", |run| {
        fs::rename(run.join("result.json"), run.join(".result.json.tmp")).unwrap();
    }),
    ("half of the output, and more", |run| {
        fs::write(run.join("stdout"), "o").unwrap();
        fs::write(run.join("stderr"), "err\nerr\n").unwrap();
    }),
    ("no output", |run| {
        fs::remove_file(run.join("stdout")).unwrap();
        fs::remove_file(run.join("stderr")).unwrap();
    }),
];

/// gvad is killed when it is about to make the files of all results durable. Those of `a` and `b` are durable in the ledger alone, that of `c` is not durable.
fn killed_before_results_are_files() -> Option<Guest> {
    let guest = Guest::with_output_image()?;
    for name in ["a", "b", "c"] {
        guest.script(name, TELL);
    }
    let ended = drain_with(&guest, "inject=fchmod:signal=SIGKILL:when=1");
    assert_eq!(ended.signal, Some(libc::SIGKILL), "{ended}");
    assert_eq!(guest.witness(), ["a", "b", "c"]);
    Some(guest)
}

#[test]
fn results_that_the_ledger_alone_has_become_files_wherever_recovery_is_killed() {
    for (what, ruin) in RUINS {
        for recovery_killed_at in 0.. {
            let Some(guest) = killed_before_results_are_files() else {
                return;
            };
            guest.inside_output(|output| {
                ruin(&output.join("gvad/000001-a"));
                ruin(&output.join("gvad/000002-b"));
            });
            let at = format!("{what} is left, recovery killed at {recovery_killed_at}");
            if recovery_killed_at > 0 {
                let calls = "/^(fdatasync|fsync|rename.*|unlinkat|pwrite64)$";
                let inject = format!("inject={calls}:signal=SIGKILL:when={recovery_killed_at}");
                if drain_with(&guest, &inject).signal.is_none() {
                    assert!(recovery_killed_at > 8, "{what} is left");
                    break;
                }
            }
            if what == "nothing" {
                // What is whole stays whole at every instant.
                guest.inside_output(|output| {
                    for run in ["gvad/000001-a", "gvad/000002-b"] {
                        let file = |name| fs::read(output.join(run).join(name)).unwrap();
                        assert_eq!(file("stdout"), b"out\n", "{at}");
                        assert_eq!(file("stderr"), b"err\n", "{at}");
                        assert!(file("result.json").ends_with(b"}\n"), "{at}");
                    }
                });
            }
            assert_kept(&guest, &["a", "b", "c"], &at);
            assert_eq!(guest.witness(), ["a", "b", "c"], "{at}");
            for name in ["a", "b"] {
                assert_eq!(guest.result(name)["outcome"], "exited", "{at}");
            }
        }
    }
}

#[test]
fn results_that_the_ledger_alone_has_survive_its_damage() {
    let Some(guest) = killed_before_results_are_files() else {
        return;
    };
    guest.inside_output(|output| {
        for run in ["000001-a", "000002-b"] {
            fs::remove_dir_all(output.join("gvad").join(run)).unwrap();
        }
        let ledger = output.join("gvad/ledger");
        let mut bytes = fs::read(&ledger).unwrap();
        bytes[20] ^= 1;
        fs::write(ledger, bytes).unwrap();
    });
    guest.drain();
    for name in ["a", "b"] {
        let result = guest.result(name);
        assert_eq!(result["outcome"], "exited");
        assert_eq!(guest.run_file(&result, "stdout"), b"out\n");
    }
    assert_eq!(guest.witness(), ["a", "b", "c"]);
}

/// Something else stands where the run directory was.
#[test]
fn result_that_the_ledger_alone_has_goes_beside_a_ruined_directory() {
    let Some(guest) = killed_before_results_are_files() else {
        return;
    };
    guest.inside_output(|output| {
        let run = output.join("gvad/000001-a");
        fs::remove_dir_all(&run).unwrap();
        fs::write(&run, "mine").unwrap();
    });
    assert_kept(&guest, &["a", "b", "c"], "a file in its place");
    assert_eq!(guest.result("a")["run_id"], "000001-a.2");
    guest.inside_output(|output| {
        assert_eq!(fs::read(output.join("gvad/000001-a")).unwrap(), b"mine");
    });
}

/// Bytes that are no text, and just as much as the ledger takes, or more.
#[test]
fn output_comes_back_from_the_ledger_byte_for_byte() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    let all: Vec<u8> = (0..=255).collect();
    let printed = [
        all.clone(),
        all.repeat(28),
        all.repeat(40),
        vec![b'x'; 15_000],
    ];
    for (index, bytes) in printed.iter().enumerate() {
        let file = guest.path(&format!("printed-{index}"));
        fs::write(&file, bytes).unwrap();
        guest.script(
            format!("s{index}"),
            &format!("#!/bin/sh\ncat '{}'\n", file.display()),
        );
    }
    guest.script("z", "#!/bin/sh\n");
    // One of them is too long for the ledger, and committed at once; this is the last commit.
    let ended = drain_with(&guest, "inject=fchmod:signal=SIGKILL:when=2");
    assert_eq!(ended.signal, Some(libc::SIGKILL), "{ended}");
    guest.inside_output(|output| {
        fs::remove_dir_all(output.join("gvad/000004-s3")).unwrap();
    });
    guest.drain();
    for (index, bytes) in printed.iter().enumerate() {
        let result = guest.result(&format!("s{index}"));
        assert_eq!(result["outcome"], "exited", "{result}");
        assert!(guest.run_file(&result, "stdout") == *bytes, "s{index}");
    }
}
