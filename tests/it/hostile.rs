//! Scripts are root and may do anything: none of it stops the daemon, loses a result or reaches what it should not.

use std::fs;

use serde_json::Value;

use crate::harness::{Guest, wait_until};

const TELL: &str = "#!/bin/sh\nprintf '%s\\n' \"${0##*/}\" >> \"$WITNESS\"\n";

#[test]
fn script_that_deletes_script_bin_gets_its_result_and_the_daemon_goes_on() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let daemon = guest.daemon();
    guest.hand_over("a", "#!/bin/sh\nrm -rf \"$GVA_APPLICATION/script-bin\"\n");
    assert_eq!(daemon.wait_result("a")["success"], true);
    // gvad makes it again; who hands over work need not know that it was gone.
    guest.hand_over("b", TELL);
    daemon.wait_result("b");
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(guest.witness(), ["b"]);
    guest.assert_clean();
}

#[test]
fn script_that_fills_the_output_gets_its_result_and_the_rest_waits() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.script(
        "a",
        "#!/bin/sh\nfor s in 1000000 1000 1; do\nwhile head -c $s /dev/zero >> \"$GVA_OUTPUT/fill\"; do :; done 2> /dev/null\nsync\ndone\necho told\nexit 5\n",
    );
    guest.script("b", TELL);
    let ended = guest.drain();
    assert_eq!(ended.code, Some(2), "{ended}");
    let result = guest.result("a");
    assert_eq!(
        (&result["outcome"], &result["exit_code"]),
        (&"exited".into(), &5.into())
    );
    assert_eq!(guest.witness(), Vec::<String>::new());
    assert_eq!(guest.waiting(), ["b"]);
    // What could not be kept of its output is said.
    let kept = guest.run_file(&result, "stdout");
    assert!(
        kept == b"told\n" || result["stdout_truncated"] == true,
        "{result}"
    );
    guest.inside_output(|out| fs::remove_file(out.join("fill")).unwrap());
    guest.drain_ok();
    assert_eq!(guest.witness(), ["b"]);
    guest.assert_clean();
}

#[test]
fn script_whose_own_output_fills_the_disk_gets_its_result() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.script("a", "#!/bin/sh\nhead -c 40000000 /dev/zero\nexit 5\n");
    guest.drain();
    let result = guest.result("a");
    assert_eq!(
        (&result["exit_code"], &result["stdout_bytes"]),
        (&5.into(), &40_000_000.into()),
        "{result}"
    );
    assert_eq!(result["stdout_truncated"], true);
    guest.assert_clean();
}

#[test]
fn endless_output_costs_neither_memory_nor_disk() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.set("run.output_limit", "1MiB");
    guest.script(
        "a",
        "#!/bin/sh\nhead -c 300000000 /dev/zero\nhead -c 3000000 /dev/zero >&2\n",
    );
    let daemon = guest.daemon();
    let result = daemon.wait_result("a");
    assert_eq!(result["stdout_bytes"], 300_000_000);
    assert_eq!(result["stderr_bytes"], 3_000_000);
    assert_eq!(guest.run_file(&result, "stdout").len(), 1 << 20);
    assert_eq!(guest.run_file(&result, "stderr").len(), 1 << 20);
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let peak = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
    let peak: u64 = peak.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(peak < 64 << 10, "{peak} KiB");
}

#[test]
fn junk_in_script_bin_does_not_stop_the_rest() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let body = "#!/bin/bash\ncd \"$GVA_APPLICATION/script-bin\"\nmkdir -p -- dir/deep -p $'new\\nline' .hidden\n\
                ln -s / root; ln -s loop loop; mkfifo fifo; mknod null c 1 3; touch plain $'\\xff\\xfe' \"$(printf %0255d 0)\"\n\
                for i in $(seq 500); do : > junk-$i; done\nprintf '#!/bin/sh\\necho late >> \"$WITNESS\"\\n' > .l; chmod 755 .l; mv .l zz-late\n";
    guest.script("a", body);
    guest.script("b", TELL);
    guest.drain_ok();
    assert_eq!(guest.witness(), ["b", "late"]);
    assert_eq!(guest.results().len(), 3);
    assert!(guest.waiting().len() > 500);
    guest.assert_clean();
}

#[test]
fn script_that_deletes_the_records_does_not_stop_the_rest_or_run_twice() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.script("a", TELL);
    guest.script(
        "b",
        "#!/bin/sh\necho b >> \"$WITNESS\"\nrm -rf \"$GVA_OUTPUT/gvad\"\n",
    );
    guest.script("c", TELL);
    let ended = guest.drain();
    assert!(matches!(ended.code, Some(0..=2)), "{ended}");
    guest.drain();
    assert_eq!(guest.witness(), ["a", "b", "c"]);
    let results = guest.results();
    let of = |name: &str| {
        results
            .iter()
            .filter(|r| r["script"] == name)
            .cloned()
            .collect::<Vec<Value>>()
    };
    assert_eq!(of("c").len(), 1, "{results:?}\n{ended}");
    assert_eq!(
        of("b").len(),
        1,
        "what could not be recorded is kept and tried again: {results:?}\n{ended}"
    );
    guest.assert_clean();
}

#[test]
fn script_that_unmounts_the_output_does_not_lose_its_result() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.script(
        "a",
        "#!/bin/sh\necho a >> \"$WITNESS\"\ncd /\numount -l \"$GVA_OUTPUT\"\n",
    );
    guest.script("b", TELL);
    let ended = guest.drain();
    assert!(matches!(ended.code, Some(0..=2)), "{ended}");
    guest.drain();
    assert_eq!(guest.witness(), ["a", "b"], "{ended}");
    assert!(
        fs::read_dir(guest.path("mnt/output")).map_or(0, Iterator::count) == 0,
        "nothing is written below the mount point"
    );
    let told: Vec<_> = guest
        .results()
        .iter()
        .map(|r| r["script"].clone())
        .collect();
    assert_eq!(told, ["a", "b"], "{ended}");
    guest.assert_clean();
}

#[test]
fn script_that_makes_the_application_read_only_does_not_make_anything_run_twice() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.script(
        "a",
        "#!/bin/sh\necho a >> \"$WITNESS\"\nmount -o remount,ro \"$GVA_APPLICATION\"\n",
    );
    guest.script("b", TELL);
    guest.drain();
    guest.drain();
    assert_eq!(guest.witness(), ["a", "b"]);
    guest.drain_ok();
    assert_eq!(guest.witness(), ["a", "b"]);
    let told: Vec<_> = guest
        .results()
        .iter()
        .map(|r| (r["script"].clone(), r["outcome"].clone()))
        .collect();
    assert_eq!(
        told,
        [("a".into(), "exited".into()), ("b".into(), "exited".into())]
    );
    guest.assert_clean();
}

#[test]
fn script_that_opens_script_bin_to_all_ends_the_running_of_scripts() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.script(
        "a",
        "#!/bin/sh\nchmod 777 \"$GVA_APPLICATION/script-bin\"\n",
    );
    guest.script("b", TELL);
    guest.drain();
    assert_eq!(guest.witness(), Vec::<String>::new());
    assert_eq!(guest.waiting(), ["b"]);
}

#[test]
fn script_may_ask_gvad_for_its_status_and_stop_it() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let config = guest.write_config();
    let status = format!(
        "{} status --json --config '{}'",
        env!("CARGO_BIN_EXE_gvad"),
        config.display()
    );
    let daemon = guest.daemon();
    guest.hand_over("a", &format!("#!/bin/sh\n{status}\n"));
    let result = daemon.wait_result("a");
    let said: Value = serde_json::from_slice(&guest.run_file(&result, "stdout")).unwrap();
    assert_eq!(said["running"]["script"], "a");
    guest.hand_over("b", "#!/bin/sh\nkill -TERM $PPID\nsleep 1000\n");
    assert_eq!(daemon.wait(), Some(0));
    assert_eq!(guest.result("b")["outcome"], "stopped");
    guest.assert_clean();
    wait_until("nothing is left", || guest.processes().is_empty());
}

#[test]
fn script_that_deletes_its_run_directory_loses_neither_its_result_nor_what_it_printed() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    let body =
        "#!/bin/sh\necho out; echo err >&2\nrm -r \"$GVA_OUTPUT/gvad/$GVA_RUN_ID\"\nexit 5\n";
    guest.script("a", body);
    guest.script("b", TELL);
    assert_eq!(guest.drain().code, Some(1));
    let result = guest.result("a");
    assert_eq!(result["exit_code"], 5, "{result}");
    assert_eq!(guest.run_file(&result, "stdout"), b"out\n");
    assert_eq!(guest.run_file(&result, "stderr"), b"err\n");
    assert_eq!(guest.witness(), ["b"]);
    guest.assert_clean();
}
