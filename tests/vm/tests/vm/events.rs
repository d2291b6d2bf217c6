//! The events port, both ways, by a real virtio-serial port.

use std::time::Duration;

use gvad::outcome::Outcome;
use gvad::report::event::{Command, Event};
use gvad::status::State;
use gvad_vm_tests::image::{self, application, output, results};
use gvad_vm_tests::machine::{Base, Plan};

#[test]
fn events_come_in_order_and_requests_are_answered() {
    let dir = tempfile::tempdir().unwrap();
    let steps = "#!/bin/sh\nfor i in 0.25 0.5 0.75; do echo \"$i step $i\" > \"$GVA_PROGRESS\"; sleep 3; done\n";
    let content = [
        ("10-steps", steps),
        ("20-endless", "#!/bin/sh\nwhile :; do sleep 1; done\n"),
        ("30-last", "#!/bin/sh\n"),
    ];
    let app = application(dir.path(), "app", &content);
    let out = output(dir.path(), "out.img");
    let mut machine = Plan::new(Base::Direct)
        .serving()
        .disk("gva-a0", &app)
        .disk("gva-o", &out)
        .start();
    let port = &mut machine.port;
    port.wait(
        "the running script",
        |event| matches!(event, Event::Started { name, .. } if name.script == "20-endless"),
    );
    // What the first script left can be read from outside now, while the second runs.
    assert_eq!(port.ask(Command::Sync), (true, None));
    let first = image::cat(&out, "/gvad/000001-10-steps/result.json");
    assert!(first.contains("\"success\": true"), "{first}");
    assert!(port.ask(Command::Status).0);
    let status = port.seen.iter().rev().find_map(|line| match &line.event {
        Event::Status { status } => Some(status.clone()),
        _ => None,
    });
    let status = status.unwrap();
    assert_eq!(status.state, State::Running);
    assert_eq!(status.running.unwrap().name.script, "20-endless");
    let wrong = Command::Cancel {
        run_id: Some("000009-no".to_owned()),
    };
    assert!(!port.ask(wrong).0);
    let right = Command::Cancel {
        run_id: Some("000002-20-endless".to_owned()),
    };
    assert!(port.ask(right).0);
    let cancelled = port.result("20-endless");
    assert_eq!(cancelled.outcome, Outcome::Stopped);
    assert!(port.result("30-last").success);
    port.wait("drained", |event| matches!(event, Event::Drained { .. }));
    assert!(port.ask(Command::Poweroff).0);
    assert!(machine.wait_end().success());

    let kinds: Vec<&str> = machine
        .port
        .seen
        .iter()
        .filter_map(|line| match &line.event {
            Event::Ready { .. } => Some("ready"),
            Event::Mounted { .. } => Some("mounted"),
            Event::Started { .. } => Some("started"),
            Event::Progress { .. } => Some("progress"),
            Event::Finished { .. } => Some("finished"),
            Event::Drained { .. } => Some("drained"),
            Event::Stopping { .. } => Some("stopping"),
            Event::Released { .. } => Some("released"),
            Event::Error { .. } => Some("error"),
            Event::Heartbeat { .. } | Event::Status { .. } | Event::Answer { .. } => None,
        })
        .collect();
    let expected = [
        "ready", "mounted", "mounted", "started", "progress", "progress", "progress", "finished",
        "started", "finished", "started", "finished", "drained", "stopping", "released",
        "released",
    ];
    assert_eq!(kinds, expected, "{:#?}", machine.port.seen);
    let numbers: Vec<u64> = machine.port.seen.iter().map(|line| line.seq).collect();
    assert!(
        numbers.windows(2).all(|pair| pair[0] < pair[1]),
        "{numbers:?}"
    );
    let beats = machine
        .port
        .seen
        .iter()
        .filter(|line| matches!(line.event, Event::Heartbeat { .. }));
    assert!(beats.count() >= 1);
}

#[test]
fn a_reader_that_stops_reading_keeps_nobody() {
    let dir = tempfile::tempdir().unwrap();
    // So many that their events are more than the socket and the port hold.
    let names: Vec<String> = (0..400).map(|number| format!("{number:03}-one")).collect();
    let content: Vec<(&str, &str)> = names
        .iter()
        .map(|name| (name.as_str(), "#!/bin/sh\n"))
        .collect();
    let app = application(dir.path(), "app", &content);
    let out = output(dir.path(), "out.img");
    let mut machine = Plan::new(Base::Direct)
        .disk("gva-a0", &app)
        .disk("gva-o", &out)
        .silent()
        .start();
    // Nobody reads the port at all.
    let ended = machine.wait_end_unread();
    assert!(ended.success());
    let all = results(&out, "/gvad");
    assert_eq!(all.len(), 400);
    assert!(all.iter().all(|result| result.success));
    assert!(image::is_clean(&out));
    assert!(machine.port.next(Duration::from_millis(1)).is_none());
}
