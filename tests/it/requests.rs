//! Requests: what the host may ask for over the port, and what becomes of what is no request.

use std::fs;
use std::process::Command;

use crate::harness::{Guest, Host, tool, wait_until};

const TELL: &str = "#!/bin/sh\nprintf '%s\\n' \"${0##*/}\" >> \"$WITNESS\"\n";
const STAY: &str = "#!/bin/sh\nprintf '%s\\n' \"${0##*/}\" >> \"$WITNESS\"\nexec sleep 1000\n";

#[test]
fn cancel_ends_the_running_script_alone() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let host = Host::new(&guest);
    guest.script("a", STAY);
    guest.script("b", TELL);
    let daemon = guest.daemon();
    let started = host.wait_event("started");
    wait_until("it runs", || guest.witness() == ["a"]);
    let other = host.ask(r#"{"do":"cancel","run_id":"000009-x","id":"1"}"#);
    assert_eq!(other["ok"], false);
    let message = other["message"].as_str().unwrap();
    assert_eq!(message, "000001-a runs, not 000009-x");
    let run_id = started["run_id"].as_str().unwrap();
    let request = format!(r#"{{"do":"cancel","run_id":"{run_id}","id":"2"}}"#);
    assert_eq!(host.ask(&request)["ok"], true);
    let result = host.wait_event("finished")["result"].clone();
    assert_eq!(result["outcome"], "stopped");
    assert_eq!(
        result["reason"],
        "it was cancelled from outside, by a request"
    );
    host.wait_event("drained");
    assert_eq!(guest.witness(), ["a", "b"]);
    let nothing = host.ask(r#"{"do":"cancel","id":"3"}"#);
    assert_eq!(nothing["message"], "no script runs");
    assert_eq!(daemon.stop(), Some(0));
    guest.assert_clean();
}

#[test]
fn stop_over_the_port_is_a_stop() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let host = Host::new(&guest);
    guest.script("a", STAY);
    guest.script("b", TELL);
    let daemon = guest.daemon();
    host.wait_event("started");
    assert_eq!(host.ask(r#"{"do":"stop"}"#)["ok"], true);
    assert_eq!(daemon.wait(), Some(0));
    let rest = host.rest();
    let names: Vec<_> = rest.iter().map(|l| l["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["stopping", "finished", "released"]);
    assert_eq!(rest[1]["result"]["outcome"], "stopped");
    assert_eq!(guest.waiting(), ["b"]);
}

#[test]
fn poweroff_over_the_port_stops_everything_first() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let host = Host::new(&guest);
    guest.script("a", STAY);
    crate::harness::write_script(
        &guest.path("bin/systemctl"),
        "#!/bin/sh\necho \"systemctl $*\" >> \"${0%/*}/../asked\"\ngrep -c mnt/application /proc/self/mounts >> \"${0%/*}/../asked\"\nexit 0\n",
    );
    let mut gvad = guest.gvad(&[]);
    gvad.env("PATH", format!("{}:/usr/bin:/bin", guest.text("bin")));
    let daemon = crate::harness::Daemon::start(&guest, gvad);
    host.wait_event("started");
    assert_eq!(host.ask(r#"{"do":"poweroff","id":"p"}"#)["ok"], true);
    assert_eq!(daemon.wait(), Some(0));
    let asked = fs::read_to_string(guest.path("asked")).unwrap();
    assert_eq!(asked, "systemctl poweroff\n0\n", "unmounted before");
    assert_eq!(guest.result("a")["outcome"], "stopped");
}

#[test]
fn status_is_told_and_then_answered() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let host = Host::new(&guest);
    let daemon = guest.daemon();
    host.wait_event("drained");
    host.say("{\"do\":\"status\",\"id\":\"x\"}\n");
    let status = host.wait_event("status")["status"].clone();
    assert_eq!(status["state"], "idle");
    assert_eq!(status["pid"], daemon.pid());
    let answer = host.wait_event("answer");
    assert_eq!((&answer["id"], &answer["ok"]), (&"x".into(), &true.into()));
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn what_is_no_request_is_told_and_spoils_nothing() {
    let Some(guest) = Guest::in_directory() else {
        return;
    };
    let host = Host::new(&guest);
    let daemon = guest.daemon();
    host.wait_event("drained");
    let deep = "[".repeat(10_000);
    let long = format!("{{\"do\":\"status\",\"x\":\"{}\"}}", "y".repeat(70_000));
    for (line, expected) in [
        ("hello", "not a request"),
        ("{\"do\":\"status\"", "not a request"),
        ("[]", "not a request"),
        ("null", "not a request"),
        ("{}", "not a request"),
        ("{\"do\":5}", "not a request"),
        ("{\"do\":\"status\",\"id\":5}", "not a request"),
        ("\u{0}\u{1}\u{fffd}", "not a request"),
        (deep.as_str(), "not a request"),
        (long.as_str(), "65536 bytes at most"),
    ] {
        host.say(&format!("{line}\n"));
        let error = host.wait_event("error");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(expected), "{line:.50}: {message}");
    }
    let answer = host.ask(r#"{"do":"dance","id":"d"}"#);
    assert_eq!(answer["ok"], false);
    let message = answer["message"].as_str().unwrap();
    assert!(message.contains("unknown variant `dance`"), "{message}");
    host.say("\n\r\n   \n");
    assert_eq!(
        host.ask(r#"{"do":"status","id":"s","new":[1]}"#)["ok"],
        true
    );
    assert_eq!(daemon.stop(), Some(0));
}

/// A terminal in between may send back what it gets; an answer to that would be sent back too, for ever.
#[test]
fn what_comes_back_from_gvad_itself_is_not_answered() {
    let Some(guest) = Guest::in_directory() else {
        return;
    };
    let host = Host::new(&guest);
    let daemon = guest.daemon();
    host.wait_event("drained");
    host.ask(r#"{"do":"status","id":"s"}"#);
    let lines = host.lines.borrow().clone();
    for line in lines.iter().chain(&lines) {
        host.say(&format!("{line}\n"));
    }
    host.ask(r#"{"do":"status","id":"end"}"#);
    let told = |event: &str| {
        let lines = host.lines.borrow();
        lines.iter().filter(|line| line["event"] == event).count()
    };
    assert_eq!(told("answer"), 2);
    // One, or one more where gvad was idle meanwhile.
    assert!(told("error") <= 2, "{:#?}", host.lines.borrow());
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn sync_makes_the_output_readable_from_outside_while_a_script_runs() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    let host = Host::new(&guest);
    guest.script(
        "a",
        "#!/bin/sh\necho there > \"$GVA_OUTPUT/produced\"\necho a >> \"$WITNESS\"\nexec sleep 1000\n",
    );
    let daemon = guest.daemon();
    wait_until("it runs", || guest.witness() == ["a"]);
    for id in ["1", "2", "3"] {
        host.say(&format!("{{\"do\":\"sync\",\"id\":\"{id}\"}}\n"));
    }
    for id in ["1", "2", "3"] {
        let answer = host.wait_event("answer");
        assert_eq!((&answer["id"], &answer["ok"]), (&id.into(), &true.into()));
    }
    // From a copy, without the journal: debugfs does not replay it.
    let copy = guest.path("copy.img");
    fs::copy(guest.path("output.img"), &copy).unwrap();
    let read = tool(
        Command::new("debugfs")
            .args(["-R", "cat /produced"])
            .arg(&copy),
    );
    assert_eq!(read, "there\n");
    assert_eq!(host.ask(r#"{"do":"cancel","id":"c"}"#)["ok"], true);
    assert_eq!(daemon.stop(), Some(0));
    guest.assert_clean();
}
