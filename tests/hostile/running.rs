//! What a running script may do. It is root: it may ruin its own work and the appliance's, but the next script still has its turn.

use std::fs;

use crate::frame::{
    Expect, exits, field, killed, later, logged, neighbour_waits, passed_over, printed, result,
    stays, succeeded, that,
};
use crate::harness::{Guest, sh};

/// The script `a`: it tells that it ran, and does this.
fn does(what: &str) -> impl FnOnce(&Guest) + use<> {
    let body = format!(
        "#!/bin/bash\necho a >> \"$WITNESS\"\nR=\"$GVA_OUTPUT/gvad/$GVA_RUN_ID\"\n{what}\n"
    );
    move |guest| guest.script("a", &body)
}

/// The same with a time limit.
fn does_for_a_second(what: &str) -> impl FnOnce(&Guest) + use<> {
    let more = does(what);
    move |guest| {
        guest.set("run.timeout", "600ms");
        guest.set("run.stop_grace", "300ms");
        more(guest);
    }
}

/// The same where one MiB is kept of what it prints.
fn prints(what: &str) -> impl FnOnce(&Guest) + use<> {
    let more = does(what);
    move |guest| {
        guest.set("run.output_limit", "1MiB");
        more(guest);
    }
}

/// It was started once, and has one result.
fn once() -> Expect {
    later(that(|seen| {
        assert_eq!(seen.guest.witness(), ["a"], "{}", seen.ended);
        let of = seen.results.iter().filter(|one| one["script"] == "a");
        assert_eq!(of.count(), 1, "{:#?}", seen.results);
    }))
}

/// So many bytes of the script's output are kept.
fn keeps(bytes: usize) -> Expect {
    that(move |seen| {
        let kept = seen.guest.run_file(&seen.guest.result("a"), "stdout");
        assert_eq!(kept.len(), bytes);
        assert!(seen.ended.stderr.len() < 10_000, "the log has none of it");
    })
}

rows! { Guest::in_directory();
    // Signals and exit codes.
    every_kind_of_exit_code_is_kept_as_it_is:
        |guest| for code in [1, 2, 125, 126, 127, 128, 137, 143, 254, 255] {
            guest.script(format!("e{code}"), &format!("#!/bin/sh\nexit {code}\n"));
        } => [that(|seen| for code in [1, 2, 125, 126, 127, 128, 137, 143, 254, 255] {
            let one = seen.guest.result(&format!("e{code}"));
            assert_eq!((&one["outcome"], &one["exit_code"]), (&"exited".into(), &code.into()), "{one:#}");
        })];
    exit_code_over_255_is_what_the_kernel_makes_of_it: does("perl -e 'exit 256+3'") => [once(), field("a", "exit_code", 3)];
    script_that_kills_itself_is_signaled: does("kill -KILL $$") => [once(), result("a", "signaled", ""), field("a", "signal", "SIGKILL")];
    script_that_ends_by_sigterm_was_not_stopped_by_gvad: does("kill -TERM $$") => [once(), result("a", "signaled", ""), field("a", "signal", "SIGTERM")];
    script_that_dumps_core_is_signaled:
        does("cd \"$TMPDIR\"; ulimit -c unlimited; kill -SEGV $$") => [once(), result("a", "signaled", ""), field("a", "signal", "SIGSEGV")];
    script_ended_by_a_real_time_signal_names_it: does("kill -37 $$") => [once(), result("a", "signaled", ""), field("a", "signal", "SIGRTMIN+3")];
    script_that_stops_itself_is_ended_by_the_time_limit: does_for_a_second("kill -STOP $$") => [once(), result("a", "timed_out", "longer than run.timeout, 600ms")];
    script_that_is_deaf_to_every_signal_is_ended_by_the_time_limit:
        does_for_a_second("for s in {1..64}; do trap '' $s; done 2> /dev/null; while :; do sleep 10; done") => [once(), result("a", "timed_out", "run.timeout")];
    script_that_answers_every_sigterm_by_another_child_is_ended:
        does_for_a_second("trap 'setsid sleep 1000 &' TERM; while :; do sleep 0.05; done") => [once(), result("a", "timed_out", "run.timeout")];
    // gvad itself.
    script_that_kills_gvad_is_interrupted:
        does("kill -9 $PPID\nsleep 1000") => [killed(libc::SIGKILL), neighbour_waits(), once(), later(result("a", "interrupted", "gvad died"))];
    script_that_makes_gvad_abort_is_interrupted:
        does("prlimit --core=0 --pid $PPID; kill -ABRT $PPID\nsleep 1000") => [killed(libc::SIGABRT), neighbour_waits(), once(), later(result("a", "interrupted", "gvad died"))];
    script_that_ends_gvad_is_stopped:
        does("kill -TERM $PPID\nsleep 1000") => [neighbour_waits(), once(), result("a", "stopped", "gvad was asked to stop")];
    script_that_halts_gvad_for_a_while_has_its_result:
        does("(sleep 0.3; kill -CONT $PPID) &\nkill -STOP $PPID\nexit 5") => [once(), field("a", "exit_code", 5)];
    script_that_sends_gvad_the_signals_of_a_terminal_changes_nothing:
        does("for s in CHLD WINCH CONT URG PIPE IO; do kill -$s $PPID; done") => [once(), succeeded("a")];
    script_that_makes_gvad_read_its_configuration_again_changes_nothing: does("kill -HUP $PPID; sleep 0.1") => [once(), succeeded("a")];
    script_that_traces_gvad_is_ended_with_its_tracer:
        does("strace -o /dev/null -p $PPID 2> \"$TMPDIR/s\" & while ! grep -q attached \"$TMPDIR/s\"; do sleep 0.02; done") => [once(), succeeded("a")];
    script_that_has_gvads_name_is_no_gvad: does("exec -a gvad sleep 0.05") => [once(), succeeded("a")];
    script_that_asks_for_everything_at_the_control_socket_stops_nothing:
        does("for i in {1..100}; do (exec 3<> /dev/null; head -c 100000 /dev/urandom | timeout 5 socat - \"UNIX-CONNECT:$TMPDIR/../control\") > /dev/null 2>&1 & done\nsleep 0.3") => [once(), succeeded("a")];
    script_that_opens_the_control_socket_and_says_nothing_stops_nothing:
        does("for i in {1..50}; do socat -u \"UNIX-CONNECT:$TMPDIR/../control\" FD:1 & done\nsleep 0.2") => [once(), succeeded("a")];
    script_that_removes_the_control_socket_stops_nothing: does("rm \"$TMPDIR/../control\"") => [once(), succeeded("a")];
    script_that_leaves_what_looks_like_a_private_directory_leaves_nothing: does("mkdir -p \"$TMPDIR/../run-junk/a/b\"") => [once(), succeeded("a")];
    script_that_fills_temp_dirs_list_of_mounts_with_junk_stops_nothing: does("head -c 10000 /dev/urandom > \"$TMPDIR/../mounts.json\"") => [once(), succeeded("a")];
    // Its own processes.
    script_with_three_hundred_children_ends_them_all: does("for i in {1..300}; do sleep 1000 & done") => [once(), succeeded("a")];
    script_whose_children_have_sessions_of_their_own_ends_them_all:
        does("for i in {1..20}; do setsid bash -c 'trap \"\" TERM HUP; (setsid sleep 1000 &) ; sleep 1000' & done\nsleep 0.1") => [once(), succeeded("a")];
    script_whose_child_holds_the_pipes_is_not_waited_for: does("setsid sleep 1000 &\necho said") => [once(), printed("a", "said\n"), that(|seen| {
        assert!(seen.guest.result("a")["duration_ms"].as_u64().unwrap() < 5000);
    })];
    // What it moved out of its tree of processes is its own affair, as what it has systemd start is.
    script_that_leaves_its_control_group_has_its_result:
        does("C=$(grep -l . /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/unified/cgroup.procs 2> /dev/null | head -n 1)\nsetsid sleep 1000 &\necho $! | tee \"$C\" > \"$WITNESS.pid\"") => [
            once(), succeeded("a"), that(|seen| drop(sh(&format!("kill -9 $(cat '{}')", seen.guest.text("witness.pid")))))];
    script_that_makes_control_groups_below_its_own_leaves_none:
        does("for C in /sys/fs/cgroup /sys/fs/cgroup/unified; do D=$C$(grep ^0:: /proc/self/cgroup | cut -c 4-); [ -e $D/cgroup.kill ] || continue; mkdir -p $D/x/y; sleep 1000 & echo $! > $D/x/y/cgroup.procs; done") => [once(), succeeded("a")];
    script_with_an_environment_of_many_variables_runs_children:
        does("for i in {1..2000}; do printf -v V$i %0200d $i; export V$i; done\nsh -c 'echo $V2000' | wc -c") => [once(), printed("a", "201\n")];
    script_that_gives_a_child_too_long_an_argument_fails_by_itself:
        does("X=$(printf %0200000d 0)\n/bin/true $X 2> /dev/null || exit 9") => [once(), field("a", "exit_code", 9)];
    // What it prints.
    script_that_closes_its_descriptors_runs_to_its_end: does("exec 0<&- 1>&- 2>&-\nsleep 0.1\nexit 4") => [once(), field("a", "exit_code", 4), keeps(0)];
    script_that_prints_a_gib_costs_a_mib: prints("dd if=/dev/zero bs=1M count=1024 status=none") => [
        once(), field("a", "stdout_bytes", 1_u64 << 30), field("a", "stdout_truncated", true), keeps(1 << 20)];
    script_that_prints_byte_by_byte_loses_none: prints("dd if=/dev/zero bs=1 count=300000 status=none") => [
        once(), field("a", "stdout_bytes", 300_000), field("a", "stdout_truncated", false), keeps(300_000)];
    script_that_prints_one_endless_line_is_cut: prints("head -c 20000000 /dev/zero | tr '\\0' x") => [
        once(), field("a", "stdout_bytes", 20_000_000), field("a", "stdout_truncated", true), keeps(1 << 20)];
    script_that_prints_both_ways_at_once_is_cut_both_ways: prints("head -c 3000000 /dev/zero & head -c 3000000 /dev/zero >&2; wait") => [
        once(), field("a", "stdout_bytes", 3_000_000), field("a", "stderr_bytes", 3_000_000), field("a", "stderr_truncated", true), keeps(1 << 20)];
    script_that_prints_a_program_has_it_kept_byte_by_byte: prints("cat /bin/true") => [once(), that(|seen| {
        let kept = seen.guest.run_file(&seen.guest.result("a"), "stdout");
        assert!(kept == fs::read("/bin/true").unwrap(), "{} bytes", kept.len());
    })];
    script_that_prints_terminal_escapes_has_none_in_the_log: does("printf '\\033[2J\\033]0;x\\007\\n'; printf '\\033[31m' >&2; exit 3") => [
        once(), field("a", "exit_code", 3), printed("a", "\u{1b}[2J\u{1b}]0;x\u{7}\n")];
    script_that_writes_to_its_own_output_file_stops_nothing: does("echo forged > \"$R/stdout\"; echo said") => [once(), succeeded("a")];
    script_that_says_nonsense_of_how_far_it_is_stops_nothing: does("printf 'NaN \\033[2J\\n1e999\\n-1\\n0.5 \\342\\200\\256x\\n' > \"$GVA_PROGRESS\"; sleep 0.1") => [once(), succeeded("a")];
    script_that_makes_a_directory_of_its_progress_stops_nothing: does("mkdir \"$GVA_PROGRESS\"; sleep 1.1") => [once(), succeeded("a")];
    script_that_makes_a_fifo_of_its_progress_stops_nothing: does("mkfifo \"$GVA_PROGRESS\"; sleep 1.1") => [once(), succeeded("a")];
    // What waits behind it.
    script_that_hands_over_a_hundred_has_them_run_once_each:
        does("cd \"$GVA_APPLICATION/script-bin\"; for i in {100..199}; do printf '#!/bin/sh\\necho $GVA_SCRIPT >> \"$WITNESS.more\"\\n' > .x; chmod 755 .x; mv .x n$i; done") => [
            that(|seen| {
                let told = fs::read_to_string(seen.guest.path("witness.more")).unwrap();
                let all: Vec<_> = (100..200).map(|n| format!("n{n}")).collect();
                assert_eq!(told.lines().collect::<Vec<_>>(), all);
            })];
    script_that_opens_the_next_for_writing_and_leaves_a_child_with_it_keeps_nothing:
        does("exec 9>> \"$GVA_APPLICATION/script-bin/zz-good\"\nsetsid sleep 1000 &") => [once(), succeeded("a")];
    script_that_locks_everything_keeps_nothing:
        does("for f in \"$GVA_APPLICATION\" \"$GVA_APPLICATION/script-bin\" \"$GVA_APPLICATION/script-bin/zz-good\" \"$R/..\" \"$R/../ledger\"; do setsid flock \"$f\" sleep 1000 & done\nsleep 0.2") => [once(), succeeded("a")];
    script_that_takes_the_execute_bit_from_the_next_is_heard:
        does("chmod -x \"$GVA_APPLICATION/script-bin/zz-good\"") => [neighbour_waits(), stays("zz-good"), once()],
        cure: |guest| drop(sh(&format!("chmod 755 '{}'", guest.text("app/script-bin/zz-good"))));
    script_that_opens_script_bin_to_all_ends_the_running_of_scripts:
        does("chmod 777 \"$GVA_APPLICATION/script-bin\"") => [
            neighbour_waits(), once(), that(|seen| assert_eq!(seen.page, "")), passed_over("zz-good", "anybody may write to script-bin")],
        cure: |guest| drop(sh(&format!("chmod 755 '{}'", guest.text("app/script-bin"))));
    script_that_puts_a_file_in_the_place_of_its_claim_stops_nothing:
        does("cd \"$GVA_APPLICATION\"/script-bin/.gvad/*/; rm a; echo > a") => [once(), succeeded("a")];
    script_that_puts_a_directory_in_the_place_of_its_claim_is_run_once:
        does("cd \"$GVA_APPLICATION\"/script-bin/.gvad/*/; rm a; mkdir -p a/b") => [once(), logged("removing the claim")],
        cure: |guest| drop(sh(&format!("rm -rf '{}'/.gvad/*/a", guest.text("app/script-bin"))));
    script_that_removes_the_claims_is_run_once: does("rm -r \"$GVA_APPLICATION/script-bin/.gvad\"") => [once(), succeeded("a")];
    script_that_removes_its_private_directory_is_run_once: does("rm -r \"$TMPDIR\"") => [once(), succeeded("a")];
}

/// The disks.
mod disks {
    use super::*;

    /// Fills the file system of a directory to the last byte.
    const FILL: &str = "fill() { for s in 1000000 1000 1; do while head -c $s /dev/zero >> \"$1/fill\"; do :; done 2> /dev/null; sync; done; }\n";

    fn fills(what: &str) -> impl FnOnce(&Guest) + use<> {
        does(&format!("{FILL}{what}"))
    }

    fn in_output(guest: &Guest, line: &str) {
        guest.inside_output(|out| sh(&format!("cd '{}'; {line}", out.display())));
    }

    rows! { Guest::with_output_image();
        script_that_fills_the_output_has_its_result_and_the_rest_waits:
            fills("fill \"$GVA_OUTPUT\"; echo told; exit 5") => [
                exits(2), neighbour_waits(), stays("zz-good"), logged("the output image is full"), once(), field("a", "exit_code", 5), that(|seen| {
                    let one = seen.guest.result("a");
                    let kept = seen.guest.run_file(&one, "stdout");
                    assert!(kept == b"told\n" || one["stdout_truncated"] == true, "{one:#}");
                })],
            cure: |guest| in_output(guest, "rm fill");
        script_that_takes_every_inode_of_the_output_has_its_result_and_the_rest_waits:
            does("mkdir \"$GVA_OUTPUT/i\"; cd \"$GVA_OUTPUT/i\"; seq 100000 | xargs touch 2> /dev/null; exit 5") => [
                exits(2), neighbour_waits(), logged("the output image is full"), once(), field("a", "exit_code", 5)],
            cure: |guest| in_output(guest, "rm -r i");
        script_that_fills_the_application_does_not_stop_the_rest:
            fills("fill \"$GVA_APPLICATION\"; exit 5") => [once(), field("a", "exit_code", 5)],
            cure: |guest| guest.inside(|root| fs::remove_file(root.join("fill")).unwrap());
        script_whose_own_output_fills_the_disk_has_its_result:
            fills("head -c 40000000 /dev/zero; fill \"$GVA_OUTPUT\"; exit 5") => [
                exits(2), neighbour_waits(), once(), field("a", "exit_code", 5), field("a", "stdout_bytes", 40_000_000), field("a", "stdout_truncated", true)],
            cure: |guest| in_output(guest, "rm fill gvad/000001-a/stdout");
        script_that_fills_temp_dir_leaves_room_for_the_next:
            |guest| {
                let state = guest.text("state");
                fs::create_dir_all(&state).unwrap();
                sh(&format!("mount -t tmpfs -o size=2m,mode=700 tmpfs '{state}'"));
                fills("fill \"$TMPDIR\"; exit 5")(guest);
            } => [once(), field("a", "exit_code", 5)],
            cure: |guest| drop(sh(&format!("umount '{}'", guest.text("state"))));
        script_that_makes_the_application_read_only_makes_nothing_run_twice:
            does("mount -o remount,ro \"$GVA_APPLICATION\"") => [once(), succeeded("a")];
        script_that_would_make_the_output_read_only_cannot_while_gvad_writes_there:
            does("mount -o remount,ro \"$GVA_OUTPUT\"") => [once(), field("a", "exit_code", 32)];
        script_that_unmounts_the_output_has_its_result:
            does("cd /; umount -l \"$GVA_OUTPUT\"") => [once(), that(|seen| {
                assert_eq!(fs::read_dir(seen.guest.path("mnt/output")).map_or(0, Iterator::count), 0, "nothing is written below the mount point");
            })];
        script_that_unmounts_the_application_has_its_result: does("cd /; umount -l \"$GVA_APPLICATION\"") => [once()];
        script_that_unmounts_everything_has_its_result: does("cd /; umount -l \"$GVA_APPLICATION\" \"$GVA_OUTPUT\"") => [once()];
        script_that_mounts_over_script_bin_is_told:
            does("cd \"$GVA_APPLICATION\"; mount -t tmpfs -o mode=755 t script-bin; printf '#!/bin/sh\\necho evil >> \"$WITNESS\"\\n' > script-bin/evil; chmod 755 script-bin/evil") => [
                exits(2), logged("something is mounted over script-bin"), once(), succeeded("a")];
        script_that_mounts_over_the_application_stops_nothing: does("cd /; mount -t tmpfs t \"$GVA_APPLICATION\"") => [once()];
        script_that_mounts_over_the_output_has_its_result: does("cd /; mount -t tmpfs t \"$GVA_OUTPUT\"") => [once()];
        script_that_removes_script_bin_has_its_result:
            does("cp -a \"$GVA_APPLICATION/script-bin/zz-good\" \"$GVA_APPLICATION\"; rm -r \"$GVA_APPLICATION/script-bin\"") => [neighbour_waits(), once(), succeeded("a")],
            cure: |guest| guest.inside(|root| fs::rename(root.join("zz-good"), root.join("script-bin/zz-good")).unwrap());
        script_that_moves_script_bin_away_has_its_result:
            does("mv \"$GVA_APPLICATION/script-bin\" \"$GVA_APPLICATION/moved\"") => [once(), succeeded("a")];
        script_that_removes_the_records_has_its_result_all_the_same:
            does("rm -rf \"$GVA_OUTPUT/gvad\"") => [exits(2), neighbour_waits(), once()];
        script_that_removes_the_ledger_stops_nothing: does("rm \"$R/../ledger\"") => [exits(2), neighbour_waits(), once()];
        script_that_makes_a_directory_of_the_ledger_stops_nothing: does("rm \"$R/../ledger\"; mkdir \"$R/../ledger\"") => [exits(2), neighbour_waits(), once()];
        script_that_makes_a_link_of_the_ledger_harms_nothing: does("rm \"$R/../ledger\"; ln -s /etc/passwd \"$R/../ledger\"") => [
            exits(2), neighbour_waits(), once(), later(that(|_| assert!(fs::exists("/etc/passwd").unwrap())))];
        script_that_makes_the_ledger_10_gib_long_stops_nothing: does("truncate -s 10G \"$R/../ledger\"") => [once()];
        script_that_makes_the_ledger_empty_stops_nothing: does("truncate -s 0 \"$R/../ledger\"") => [once()];
        script_that_makes_the_ledger_unchangeable_stops_nothing: does("chattr +i \"$R/../ledger\"") => [once(), succeeded("a")];
        script_that_makes_its_claim_immutable_stops_nothing: does("chattr +i \"$GVA_APPLICATION\"/script-bin/.gvad/*/a") => [once(), succeeded("a")];
        script_that_forges_its_own_result_is_told_truly:
            does("echo '{\"outcome\":\"exited\",\"success\":true}' | tee \"$R/result.json\" > \"$R/.result.json.tmp\"; exit 5") => [once(), field("a", "exit_code", 5)];
        script_that_forges_the_next_result_is_found_out:
            does("mkdir -p \"$R/../000002-zz-good\"; cd \"$R/../000002-zz-good\"; ln -s /etc/passwd stdout; echo '{\"forged\":1}' > result.json") => [
                exits(2), neighbour_waits(), logged("preparing a run directory on the output image: directory not empty"), once(),
                later(that(|seen| assert_eq!(seen.guest.result("zz-good")["run_id"], "000003-zz-good")))];
        script_that_puts_a_link_in_the_place_of_its_run_directory_stops_nothing:
            does("mv \"$R\" \"$GVA_OUTPUT/moved\"; ln -s \"$GVA_OUTPUT/moved\" \"$R\"") => [once()];
        script_that_puts_a_file_in_the_place_of_its_run_directory_stops_nothing: does("rm -r \"$R\"; echo x > \"$R\"") => [once()];
        script_that_makes_its_run_directory_immutable_stops_nothing: does("chattr +i \"$R\"") => [once()];
        script_that_makes_its_output_immutable_stops_nothing: does("chattr +i \"$R/stdout\"; echo said") => [once()];
        script_that_puts_a_directory_in_the_place_of_its_result_stops_nothing: does("mkdir \"$R/result.json\"") => [once()];
        script_that_puts_a_directory_in_the_place_of_its_results_draft_stops_nothing: does("rm \"$R/.result.json.tmp\"; mkdir \"$R/.result.json.tmp\"") => [once()];
        script_that_removes_its_run_directory_loses_nothing:
            does("echo out; echo err >&2; rm -r \"$R\"; exit 5") => [once(), field("a", "exit_code", 5), printed("a", "out\n"), that(|seen| {
                assert_eq!(seen.guest.run_file(&seen.guest.result("a"), "stderr"), b"err\n");
            })];
        script_that_makes_a_directory_of_the_status_stops_nothing: does("rm -f \"$R/../status.json\"; mkdir \"$R/../status.json\"") => [once(), succeeded("a")],
            cure: |guest| in_output(guest, "rmdir gvad/status.json");
    }
}
