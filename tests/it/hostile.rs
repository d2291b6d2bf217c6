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
