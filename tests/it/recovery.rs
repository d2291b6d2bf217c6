//! What the next start makes of what a killed gvad left behind, on media that can be written and on those that cannot.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::harness::{Fs, Guest, Image, Place, names, sh, wait_until, write_script};

/// A script that tells that it ran.
const TELL: &str = "#!/bin/sh\nprintf '%s\\n' \"${0##*/}\" >> \"$WITNESS\"\n";
/// A script that tells that it ran and does not end.
const STAY: &str = "#!/bin/sh\nprintf '%s\\n' \"${0##*/}\" >> \"$WITNESS\"\nexec sleep 1000\n";

fn outcomes(guest: &Guest) -> Vec<(String, String)> {
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let results = guest.results();
    results
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
fn run_directory_without_a_result_is_explained_by_the_next_start() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.script("a", STAY);
    killed_while_running(&guest, 1);
    // A run that was prepared but has no mark: it never started.
    let gvad = guest.live_output().join("gvad");
    fs::create_dir(gvad.join("000002-ghost")).unwrap();
    fs::write(gvad.join("000002-ghost/stdout"), "").unwrap();
    guest.drain();
    guest.inside_output(|out| {
        for run in names(&out.join("gvad"))
            .iter()
            .filter(|n| n.starts_with("000"))
        {
            assert!(
                out.join("gvad").join(run).join("result.json").exists(),
                "{run} is not explained"
            );
        }
    });
    assert_eq!(outcomes(&guest), owned(&[("a", "interrupted")]));
}

#[test]
fn damaged_ledger_is_set_aside_and_nothing_runs_twice() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.script("a", STAY);
    guest.script("b", TELL);
    killed_while_running(&guest, 1);
    let ledger = guest.live_output().join("gvad/ledger");
    let mut bytes = fs::read(&ledger).unwrap();
    bytes[..64].fill(b'#');
    fs::write(&ledger, bytes).unwrap();
    let ended = guest.drain();
    assert_ne!(ended.code, Some(2), "{ended}");
    assert_eq!(guest.witness(), ["a", "b"]);
    let found = outcomes(&guest);
    assert!(
        found.contains(&("a".to_owned(), "interrupted".to_owned())),
        "{found:?}"
    );
    assert!(
        found.contains(&("b".to_owned(), "exited".to_owned())),
        "{found:?}"
    );
    let aside = guest.inside_output(|out| names(&out.join("gvad")));
    assert!(
        aside.iter().any(|n| n.starts_with("ledger.bad")),
        "{aside:?}"
    );
    guest.assert_clean();
}

#[test]
fn claims_made_for_another_output_image_are_interrupted() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.script("a", STAY);
    guest.script("b", TELL);
    killed_while_running(&guest, 1);
    sh(&format!("umount '{}'", guest.text("mnt/output")));
    let fresh = Image::empty(Fs::Ext4, guest.path("fresh.img"), &guest.label("new"));
    guest.set_output(Place::Image(fresh));
    guest.drain();
    assert_eq!(guest.witness(), ["a", "b"]);
    assert_eq!(
        outcomes(&guest),
        owned(&[("a", "interrupted"), ("b", "exited")])
    );
    guest.assert_clean();
}

fn squashed(guest: &Guest, scripts: &[(&str, &str)]) {
    let content = guest.path("content");
    let _ = fs::remove_dir_all(&content);
    for (name, body) in scripts {
        let path = content.join("script-bin").join(name);
        write_script(&path, body);
        sh(&format!("touch -d '2026-01-01 UTC' '{}'", path.display()));
    }
    let image = Image::of(Fs::Squashfs, guest.path("app.sqfs"), "", &content);
    guest.set_application(Place::Image(image));
}

#[test]
fn scripts_on_a_medium_that_cannot_be_written_run_once_per_content() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    squashed(&guest, &[("a", TELL), ("b", TELL)]);
    for _ in 0..3 {
        guest.drain_ok();
        assert_eq!(guest.witness(), ["a", "b"]);
    }
    // The daemon's many passes run them once, too.
    let daemon = guest.daemon();
    daemon.wait_state("idle");
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(guest.witness(), ["a", "b"]);
    // Another content under the same name, of the same size and time, is another script.
    let other = TELL.replace("'%s", "'%S");
    squashed(&guest, &[("a", TELL), ("b", &other)]);
    guest.drain();
    let of_b = || {
        guest
            .results()
            .iter()
            .filter(|r| r["script"] == "b")
            .count()
    };
    assert_eq!(of_b(), 2, "{:?}", guest.witness());
    guest.drain();
    assert_eq!(of_b(), 2);
    // The same image with a fresh output image runs again.
    let told = guest.witness().iter().filter(|l| *l == "a").count();
    guest.add_output_image(Fs::Ext4);
    guest.drain();
    assert_eq!(guest.results().len(), 2);
    assert_eq!(
        guest.witness().iter().filter(|l| *l == "a").count(),
        told + 1
    );
    guest.assert_clean();
}

#[test]
fn read_only_by_configuration_runs_once_and_writes_nothing() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.script("a", TELL);
    guest.set("application.read_only", true);
    let sum = || sh(&format!("sha256sum < '{}'", guest.text("app.img")));
    let before = sum();
    guest.drain_ok();
    guest.drain_ok();
    assert_eq!(guest.witness(), ["a"]);
    assert_eq!(sum(), before, "the image was written to");
    // Changed in place, it is another script.
    guest.script("a", &format!("{TELL}# changed\n"));
    guest.drain_ok();
    assert_eq!(guest.witness(), ["a", "a"]);
}

#[test]
fn killed_on_a_medium_that_cannot_be_written_it_never_runs_again() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    squashed(&guest, &[("a", STAY), ("b", TELL)]);
    killed_while_running(&guest, 1);
    for _ in 0..2 {
        guest.drain();
        assert_eq!(guest.witness(), ["a", "b"]);
        assert_eq!(
            outcomes(&guest),
            owned(&[("a", "interrupted"), ("b", "exited")])
        );
    }
    guest.assert_clean();
}

#[test]
fn stopped_script_is_not_tried_again_with_rerun() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.set("run.on_interrupted", "rerun");
    guest.script("a", STAY);
    let daemon = guest.daemon();
    wait_until("the script runs", || guest.witness().len() == 1);
    assert_eq!(daemon.stop(), Some(0));
    guest.drain_ok();
    assert_eq!(guest.witness(), ["a"]);
    assert_eq!(outcomes(&guest), owned(&[("a", "stopped")]));
}

#[test]
fn ledger_that_a_script_deletes_is_made_anew_before_the_next_start() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.script("a", &format!("{TELL}rm \"$GVA_OUTPUT/gvad/ledger\"\n"));
    guest.script("b", STAY);
    killed_while_running(&guest, 2);
    guest.drain();
    assert_eq!(guest.witness(), ["a", "b"]);
    let found = outcomes(&guest);
    assert_eq!(found, owned(&[("a", "exited"), ("b", "interrupted")]));
    guest.assert_clean();
}

#[test]
fn other_bytes_behind_the_same_inode_and_times_of_a_read_only_medium_are_another_script() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.set("application.read_only", true);
    guest.script("a", "#!/bin/sh\necho first >> \"$WITNESS\"\n");
    guest.drain_ok();
    // Written into the image below the file system: nothing that stat tells has changed.
    let path = guest.path("app.img");
    let mut bytes = fs::read(&path).unwrap();
    let old = b"echo first >>";
    let places = bytes.windows(old.len()).enumerate();
    let places: Vec<_> = places.filter(|(_, w)| w == old).map(|(i, _)| i).collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at + 5..at + 10].copy_from_slice(b"other");
    }
    fs::write(&path, bytes).unwrap();
    guest.drain_ok();
    guest.drain_ok();
    assert_eq!(guest.witness(), ["first", "other"]);
}

/// A script that tells its process id and does not end.
const PID: &str = "#!/bin/sh\necho $$ >> \"$WITNESS\"\nexec sleep 1000\n";

/// Whether the process whose id was told first still runs; the command line of a zombie is empty.
fn first_lives(guest: &Guest) -> bool {
    let line = fs::read(format!("/proc/{}/cmdline", guest.witness()[0]));
    line.is_ok_and(|line| !line.is_empty())
}

#[test]
fn script_of_a_killed_gvad_ends_though_its_image_does_not_come_back() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.script("a", PID);
    killed_while_running(&guest, 1);
    assert!(first_lives(&guest));
    let never = format!("LABEL={}", guest.label("never"));
    guest.set("application.source", never);
    let daemon = guest.daemon();
    daemon.wait_state("waiting_for_application");
    wait_until("it is ended", || !first_lives(&guest));
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn script_of_a_killed_gvad_ends_before_the_next_though_leftovers_are_kept() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.set("run.leftovers", "keep");
    guest.script("a", PID);
    let check = "#!/bin/sh\n! test -e \"/proc/$(head -n 1 \"$WITNESS\")/exe\"\n";
    guest.script("b", check);
    killed_while_running(&guest, 1);
    assert!(first_lives(&guest));
    guest.drain();
    assert_eq!(guest.result("a")["outcome"], "interrupted");
    let result = guest.result("b");
    assert_eq!(
        result["success"], true,
        "the old process still ran: {result}"
    );
    assert!(!first_lives(&guest));
}

#[test]
fn lost_ledger_gives_no_number_and_no_output_of_an_old_run_away() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    let body = "#!/bin/sh\necho \"$GVA_RUN_ID\"\n";
    guest.script("a", body);
    guest.drain_ok();
    guest.inside_output(|out| fs::remove_file(out.join("gvad/ledger")).unwrap());
    guest.script("a", body);
    guest.drain_ok();
    let results = guest.results();
    let said = results.iter().map(|r| guest.run_file(r, "stdout"));
    assert_eq!(
        said.collect::<Vec<_>>(),
        [&b"000001-a\n"[..], b"000002-a\n"],
        "{results:?}"
    );
}

#[test]
fn claim_that_somebody_touched_is_still_the_script_that_was_started() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.script("a", STAY);
    killed_while_running(&guest, 1);
    let bin = guest.live().join("script-bin");
    sh(&format!(
        "cd '{}'; sleep 0.1; set -- .gvad/*/a; mv \"$1\" a; mv a \"$1\"; chmod 700 \"$1\"; touch \"$1\"",
        bin.display()
    ));
    for _ in 0..2 {
        guest.drain();
        assert_eq!(guest.witness(), ["a"]);
        assert_eq!(outcomes(&guest), owned(&[("a", "interrupted")]));
    }
    guest.assert_clean();
}

#[test]
fn same_file_handed_over_again_by_a_hard_link_is_a_new_run() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.script(
        "a",
        "#!/bin/sh\necho a >> \"$WITNESS\"\n[ $(wc -l < \"$WITNESS\") -ge 3 ] && exit\n\
         cd \"$GVA_APPLICATION\"; ln keep script-bin/a\n",
    );
    guest.inside(|root| fs::hard_link(root.join("script-bin/a"), root.join("keep")).unwrap());
    guest.drain_ok();
    assert_eq!(guest.witness(), ["a", "a", "a"]);
    assert_eq!(guest.results().len(), 3);
    guest.assert_clean();
}

#[test]
fn run_directory_that_no_ledger_tells_of_keeps_what_was_printed() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.script(
        "a",
        "#!/bin/sh\necho printed\necho a >> \"$WITNESS\"\nexec sleep 1000\n",
    );
    let daemon = guest.daemon();
    let run = guest.live_output().join("gvad/000001-a");
    wait_until("it printed", || {
        fs::read(run.join("stdout")).is_ok_and(|text| text == b"printed\n")
    });
    daemon.kill();
    fs::remove_file(guest.live_output().join("gvad/ledger")).unwrap();
    guest.drain();
    assert_eq!(guest.witness(), ["a"]);
    let results = guest.results();
    assert_eq!(results[0]["run_id"], "000001-a", "{results:?}");
    assert!(
        results.iter().all(|r| r["outcome"] == "interrupted"),
        "{results:?}"
    );
    assert_eq!(guest.run_file(&results[0], "stdout"), b"printed\n");
    guest.assert_clean();
}

#[test]
fn locks_that_a_child_of_a_killed_gvad_is_about_to_let_go_of_are_waited_for() {
    let Some(guest) = Guest::in_directory() else {
        return;
    };
    guest.script("a", TELL);
    fs::create_dir(guest.path("state")).unwrap();
    let lock = fs::File::open(guest.path("state")).unwrap();
    lock.lock().unwrap();
    // The child is what holds it from here on, for a moment.
    let mut child = Command::new("sleep")
        .arg("0.3")
        .stdin(lock)
        .spawn()
        .unwrap();
    guest.drain_ok();
    assert_eq!(guest.witness(), ["a"]);
    assert!(child.wait().unwrap().success());
}
