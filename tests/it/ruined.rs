//! What a script, a full disk or a wrong bit has ruined never keeps the scripts behind from running, and never makes one run twice.

use std::fs;

use crate::harness::{Fs, Guest, run, sh, wait_until};

const TELL: &str = "#!/bin/sh\nprintf '%s\\n' \"${0##*/}\" >> \"$WITNESS\"\n";

#[test]
fn removed_temp_dir_is_made_again() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.script(
        "a",
        &format!("#!/bin/sh\nrm -rf '{}'\n", guest.text("state")),
    );
    guest.script("b", TELL);
    guest.drain_ok();
    assert_eq!(guest.witness(), ["b"]);
}

#[test]
fn full_temp_dir_is_waited_for_and_uses_up_no_script() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let state = guest.path("state");
    fs::create_dir_all(&state).unwrap();
    sh(&format!(
        "mount -t tmpfs -o size=1m tmpfs '{0}'; head -c 1000000 /dev/zero > '{0}/fill'",
        state.display()
    ));
    guest.script("a", TELL);
    let ended = guest.drain();
    assert_eq!(ended.code, Some(2), "{ended}");
    assert!(ended.stderr.contains("is full"), "{ended}");
    assert_eq!(guest.waiting(), ["a"]);
    let daemon = guest.daemon();
    daemon.wait_state("waiting_for_temp_dir");
    fs::remove_file(state.join("fill")).unwrap();
    daemon.wait_result("a");
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(guest.witness(), ["a"]);
    sh(&format!("umount '{}'", state.display()));
}

#[test]
fn session_that_cannot_write_the_application_forgets_nothing() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.script("a", "#!/bin/sh\necho a >> \"$WITNESS\"\nexec sleep 1000\n");
    let daemon = guest.daemon();
    wait_until("it runs", || guest.witness() == ["a"]);
    daemon.kill();
    guest.set("application.read_only", true);
    guest.drain();
    guest.set("application.read_only", false);
    guest.drain();
    guest.drain();
    assert_eq!(guest.witness(), ["a"], "it was started once");
    guest.assert_clean();
}

#[test]
fn script_that_cannot_be_staged_from_a_read_only_medium_is_reported_once() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    let state = guest.path("state");
    fs::create_dir_all(&state).unwrap();
    sh(&format!(
        "mount -t tmpfs -o size=1m tmpfs '{}'",
        state.display()
    ));
    guest.script("a", &format!("{TELL}#{}\n", "x".repeat(2_000_000)));
    guest.set("application.read_only", true);
    for _ in 0..2 {
        guest.drain();
        assert_eq!(guest.results().len(), 1);
    }
    assert_eq!(guest.result("a")["outcome"], "not_started");
    sh(&format!("umount '{}'", state.display()));
}

#[test]
fn mounts_that_a_script_bound_are_not_taken_from_the_machine() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    // As systemd has it: what is mounted or unmounted in one place is in its peers too.
    sh(
        "mkdir /run/original; mount -t tmpfs t /run/original; mount --make-shared /run/original; \
        mkdir /run/original/inner; mount -t tmpfs i /run/original/inner",
    );
    guest.script(
        "a",
        "#!/bin/sh\nmkdir \"$TMPDIR/copy\" \"$GVA_APPLICATION/copy\"\nmount --rbind /run/original \"$TMPDIR/copy\"\n\
         mount --rbind /run/original \"$GVA_APPLICATION/copy\"\n",
    );
    guest.drain_ok();
    sh("mountpoint -q /run/original/inner");
    guest.assert_clean();
    sh("umount -R /run/original");
}

#[test]
fn stopping_gives_every_process_of_the_script_the_grace() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.set("run.stop_grace", "30s");
    let child = "trap 'sleep 1; echo saved >> \"$WITNESS\"; exit' TERM; echo ready >> \"$WITNESS\"; while :; do sleep 0.1; done";
    guest.script(
        "a",
        &format!(
            "#!/bin/sh\nsetsid sh -c '{}' &\nsleep 1000\n",
            child.replace('\'', "'\\''")
        ),
    );
    let daemon = guest.daemon();
    wait_until("it runs", || guest.witness() == ["ready"]);
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(guest.witness(), ["ready", "saved"]);
    assert_eq!(guest.result("a")["outcome"], "stopped");
}

#[test]
fn log_that_cannot_be_written_does_not_stop_gvad() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.script("a", TELL);
    let mut gvad = guest.gvad(&["drain"]);
    gvad.stderr(
        fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap(),
    );
    assert_eq!(gvad.status().unwrap().code(), Some(0));
    assert_eq!(guest.witness(), ["a"]);
    guest.assert_clean();
}

#[test]
fn killed_gvad_and_another_image_between_forget_nothing_and_leave_nothing() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    // Two images of one directory, made in one second: only their UUIDs tell them apart.
    guest.script("a", STAY);
    fs::copy(guest.path("app.img"), guest.path("other.img")).unwrap();
    sh(&format!(
        "tune2fs -f -U random '{}' >&2",
        guest.text("other.img")
    ));
    let daemon = guest.daemon();
    wait_until("it runs", || guest.witness() == ["a"]);
    daemon.kill();
    let first = guest.text("app.img");
    guest.set("application.source", guest.text("other.img"));
    guest.set("run.timeout", "300ms");
    guest.drain();
    assert_eq!(
        guest.witness(),
        ["a", "a"],
        "the other image's script is another"
    );
    guest.assert_unmounted();
    guest.set("application.source", first);
    guest.drain();
    guest.drain();
    assert_eq!(guest.witness(), ["a", "a"], "the first was started already");
    assert_eq!(guest.results().len(), 2);
    guest.assert_unmounted();
}

#[test]
fn passed_over_files_are_listed_while_a_script_runs() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.script("a", "#!/bin/sh\necho a >> \"$WITNESS\"\nexec sleep 1000\n");
    guest.inside(|root| std::os::unix::fs::symlink("a", root.join("script-bin/link")).unwrap());
    let daemon = guest.daemon();
    wait_until("it runs", || guest.witness() == ["a"]);
    let status = daemon.wait_state("running");
    assert_eq!(status["passed_over"][0]["name"], "link", "{status:#}");
    assert_eq!(daemon.stop(), Some(0));
}

const STAY: &str = "#!/bin/sh\necho a >> \"$WITNESS\"\nexec sleep 1000\n";

/// gvad is killed while `a` runs.
fn killed(guest: &Guest) {
    guest.script("a", STAY);
    let daemon = guest.daemon();
    wait_until("it runs", || guest.witness().contains(&"a".to_owned()));
    daemon.kill();
}

#[test]
fn lost_ledger_stays_lost_until_everything_is_explained() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    killed(&guest);
    fs::remove_file(guest.live_output().join("gvad/ledger")).unwrap();
    // The next gvad makes a new ledger and is killed before it has explained anything.
    let gvad = guest.gvad(&["drain"]);
    let mut strace = std::process::Command::new("strace");
    strace.args([
        "-f",
        "-o",
        "/dev/null",
        "-e",
        "inject=ftruncate:signal=SIGKILL:when=1",
        "--",
    ]);
    strace.arg(gvad.get_program()).args(gvad.get_args());
    assert_ne!(run(&mut strace).code, Some(0));
    guest.drain();
    let explained = guest
        .results()
        .into_iter()
        .find(|result| result["run_id"] == "000001-a");
    assert_eq!(explained.unwrap()["outcome"], "interrupted");
    assert_eq!(guest.witness(), ["a"]);
}

#[test]
fn one_wrong_bit_in_the_ledger_makes_nothing_run_twice() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.script("0-first", TELL);
    killed(&guest);
    let path = guest.live_output().join("gvad/ledger");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes
        .windows(10)
        .position(|window| window == b"{\"result\":")
        .unwrap();
    bytes[end + 2] ^= 1;
    fs::write(&path, bytes).unwrap();
    guest.drain();
    guest.drain();
    assert_eq!(guest.witness(), ["0-first", "a"]);
}

#[test]
fn claim_whose_old_name_came_back_without_a_journal_runs_once() {
    let Some(guest) = Guest::on(Fs::Ext2) else {
        return;
    };
    killed(&guest);
    sh(&format!(
        "cd '{}'; ln .gvad/*/a a",
        guest.live().join("script-bin").display()
    ));
    guest.drain();
    guest.drain();
    assert_eq!(guest.witness(), ["a"]);
    guest.assert_clean();
}

#[test]
fn application_that_turned_read_only_is_run_in_place_and_once() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    let daemon = guest.daemon();
    daemon.wait_state("idle");
    let live = guest.live();
    for name in ["a", "b"] {
        guest.hand_over(format!(".{name}"), TELL);
        fs::rename(
            live.join(format!("script-bin/.{name}")),
            live.join(format!("script-bin/.{name}.x")),
        )
        .unwrap();
    }
    sh(&format!(
        "cd '{0}/script-bin'; mv .a.x a; mv .b.x b; mount -o remount,ro '{0}' || true",
        live.display()
    ));
    daemon.wait_result("a");
    daemon.wait_result("b");
    assert_eq!(daemon.stop(), Some(0));
    guest.drain();
    assert_eq!(guest.witness(), ["a", "b"]);
    assert_eq!(guest.results().len(), 2);
}

#[test]
fn claim_whose_bytes_were_changed_while_it_ran_is_not_started_again() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    killed(&guest);
    sh(&format!(
        "set -- '{}'/.gvad/*/a; echo '# more' >> \"$1\"",
        guest.live().join("script-bin").display()
    ));
    guest.drain();
    guest.drain();
    assert_eq!(guest.witness(), ["a"]);
    guest.assert_clean();
}

#[test]
fn full_temp_dir_uses_up_no_script_that_was_claimed_before() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.set("run.on_interrupted", "rerun");
    guest.set("run.timeout", "300ms");
    killed(&guest);
    let state = guest.text("state");
    sh(&format!(
        "mount -t tmpfs -o size=1m tmpfs '{state}'; head -c 1000000 /dev/zero > '{state}/fill'"
    ));
    let ended = guest.drain();
    assert_eq!(ended.code, Some(2), "{ended}");
    assert!(ended.stderr.contains("is full"), "{ended}");
    assert_eq!(guest.results().len(), 1, "the interrupted attempt only");
    sh(&format!("rm '{state}/fill'"));
    guest.drain();
    assert_eq!(guest.witness(), ["a", "a"]);
    sh(&format!("umount '{state}'"));
}
