//! Events: what the host hears over the port, in which order, and that nothing waits for it.

use std::time::Instant;

use serde_json::Value;

use crate::harness::{Daemon, Guest, Host, wait_until};

const TELL: &str = "#!/bin/sh\nprintf '%s\\n' \"${0##*/}\" >> \"$WITNESS\"\n";

fn names(lines: &[Value]) -> Vec<&str> {
    let names = lines.iter().map(|line| line["event"].as_str().unwrap());
    names.filter(|name| *name != "heartbeat").collect()
}

#[test]
fn the_host_hears_everything_in_order() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    let host = Host::new(&guest);
    guest.script("a", TELL);
    guest.script("b", "#!/bin/sh\nexit 3\n");
    let daemon = guest.daemon();
    let pid = daemon.pid();
    host.wait_event("drained");
    guest.hand_over("c", TELL);
    host.wait_event("drained");
    assert_eq!(daemon.stop(), Some(0));
    host.rest();
    let lines = host.lines.borrow();
    let expected = "ready mounted mounted started finished started finished drained \
        started finished drained stopping released released";
    assert_eq!(names(&lines).join(" "), expected);
    for (index, line) in lines.iter().enumerate() {
        assert_eq!(line["seq"], index + 1, "{line}");
        assert!(line.get("dropped").is_none(), "{line}");
        let at = line["at"].as_str().unwrap();
        assert!(at.len() == 24 && at.ends_with('Z'), "{line}");
    }
    assert_eq!(lines[0]["pid"], pid);
    assert_eq!(lines[1]["image"]["role"], "application");
    assert_eq!(lines[2]["image"]["role"], "output");
    assert_eq!(lines[3]["run_id"], "000001-a");
    assert_eq!(lines[3]["script"], "a");
    assert_eq!(lines[6]["result"], guest.result("b"), "all of result.json");
    assert_eq!(lines[7]["succeeded"], 1);
    assert_eq!(lines[7]["failed"], 1);
    assert_eq!(lines[10]["succeeded"], 2);
}

#[test]
fn the_end_of_a_drain_and_what_recovery_records_are_told() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.set("report.port", "");
    guest.script("a", "#!/bin/sh\necho a >> \"$WITNESS\"\nexec sleep 1000\n");
    let daemon = guest.daemon();
    wait_until("it runs", || guest.witness() == ["a"]);
    daemon.kill();
    let host = Host::new(&guest);
    guest.set("lifecycle.when_drained", "exit");
    assert_eq!(guest.daemon().wait(), Some(0));
    let lines = host.rest();
    assert_eq!(
        names(&lines).join(" "),
        "ready mounted finished released drained"
    );
    assert_eq!(lines[2]["result"]["outcome"], "interrupted");
    assert!(lines[3].get("reason").is_none(), "{}", lines[3]);
}

#[test]
fn a_heartbeat_counts_and_tells_the_state() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let host = Host::new(&guest);
    guest.set("report.heartbeat", "50ms");
    let daemon = guest.daemon();
    host.wait_event("drained");
    let first = host.wait_event("heartbeat");
    let second = host.wait_event("heartbeat");
    assert_eq!(first["state"], "idle");
    let count = |line: &Value| line["count"].as_u64().unwrap();
    assert_eq!(count(&second), count(&first) + 1);
    guest.set("report.heartbeat", "0s");
    guest.write_config();
    daemon.signal(nix::sys::signal::Signal::SIGHUP);
    daemon.wait_log("read again");
    host.rest();
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(host.rest(), Vec::<Value>::new(), "none any more");
    assert_eq!(daemon.stop(), Some(0));
}

/// Asks for more than the queue holds, and reads nothing of it.
fn ask_for_too_much(host: &Host, daemon: &Daemon<'_>) {
    const REQUESTS: usize = 700;
    host.say(&"{\"do\":\"status\"}\n".repeat(REQUESTS));
    wait_until("all were taken", || {
        daemon.log().matches("requested over the port").count() == REQUESTS
    });
}

#[test]
fn a_host_that_does_not_read_keeps_nobody_waiting() {
    let Some(guest) = Guest::in_directory() else {
        return;
    };
    let host = Host::new(&guest);
    let daemon = Daemon::start(&guest, guest.gvad(&["--log-level", "debug"]));
    ask_for_too_much(&host, &daemon);
    for name in ["a", "b", "c"] {
        guest.hand_over(name, TELL);
        daemon.wait_result(name);
    }
    assert_eq!(daemon.wait_state("idle")["counts"]["succeeded"], 3);
    let asked = Instant::now();
    assert_eq!(daemon.stop(), Some(0));
    assert!(asked.elapsed().as_secs() < 5, "{:?}", asked.elapsed());
    assert_eq!(guest.witness(), ["a", "b", "c"]);
}

#[test]
fn a_host_that_reads_late_hears_how_much_it_missed() {
    let Some(guest) = Guest::in_directory() else {
        return;
    };
    let host = Host::new(&guest);
    let daemon = Daemon::start(&guest, guest.gvad(&["--log-level", "debug"]));
    ask_for_too_much(&host, &daemon);
    guest.hand_over("a", TELL);
    daemon.wait_result("a");
    daemon.wait_state("idle");
    host.wait_event("finished");
    let lines = host.lines.borrow().clone();
    let (mut last, mut dropped) = (0, 0);
    for line in &lines {
        let missed = line.get("dropped").map_or(0, |n| n.as_u64().unwrap());
        dropped += missed;
        assert_eq!(line["seq"], last + missed + 1, "{line}");
        last = line["seq"].as_u64().unwrap();
    }
    assert_eq!(lines[0]["event"], "ready", "what was sent first");
    assert!(dropped > 100, "{dropped}");
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn a_problem_is_told_once() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let host = Host::new(&guest);
    guest.set("output.source", guest.text("missing.img"));
    let daemon = guest.daemon();
    let error = host.wait_event("error");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("missing.img"), "{message}");
    // It is looked for again and again meanwhile.
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert!(!names(&host.rest()).contains(&"error"));
    assert_eq!(daemon.stop(), Some(0));
}
