//! Media that come and go: hot-plug, taking out, changing a CD.

use std::fs;
use std::path::{Path, PathBuf};

use gvad::outcome::{Outcome, RunResult};
use gvad::report::event::Event;
use gvad_vm_tests::image::{application, gva, names, output, results, run, scripts};
use gvad_vm_tests::machine::{Base, Machine, Plan};
use serde_json::json;

const HELLO: &str = "#!/bin/sh\necho hello\n";

/// Waits until the disk with this serial has had its turn. Returns the reason, if it was not for being done.
fn released(machine: &mut Machine, serial: &str) -> Option<String> {
    let line = machine.port.wait(&format!("{serial} released"), |event| {
        matches!(event, Event::Released { image, .. } if image.role == "application" && image.serial.as_deref() == Some(serial))
    });
    match line.event {
        Event::Released { reason, .. } => reason,
        _ => None,
    }
}

fn scripts_of(results: &[&RunResult]) -> Vec<String> {
    let names = results.iter().map(|result| result.name.script.clone());
    names.collect()
}

#[test]
fn three_disks_in_a_row_then_one_taken_out_while_its_script_runs() {
    let dir = tempfile::tempdir().unwrap();
    let made = |name: &str, script: &str| application(dir.path(), name, &[(name, script)]);
    let first = made("first", HELLO);
    let out = output(dir.path(), "out.img");
    let mut machine = Plan::new(Base::Direct)
        .serving()
        .disk("gva-a0", &first)
        .disk("gva-o", &out)
        .start();
    assert!(machine.port.result("first").success);
    for (index, name) in ["second", "third", "fourth"].into_iter().enumerate() {
        let serial = format!("gva-a{}", index + 1);
        let image = made(name, HELLO);
        // The same port each time: it must be free again.
        machine.monitor.plug("hot0", &serial, &image);
        assert!(machine.port.result(name).success);
        assert_eq!(released(&mut machine, &serial), None);
        machine.monitor.unplug(&serial);
        assert_eq!(names(&image, "/script-bin"), Vec::<String>::new());
    }
    assert_eq!(
        scripts_of(&machine.port.results()),
        ["first", "second", "third", "fourth"]
    );

    let long = made("long", "#!/bin/sh\nsleep 8; echo through\n");
    machine.monitor.plug("hot0", "gva-long", &long);
    machine.port.wait(
        "the start",
        |event| matches!(event, Event::Started { name, .. } if name.script == "long"),
    );
    machine.monitor.unplug("gva-long");
    let result = machine.port.result("long");
    assert_eq!(
        result.outcome,
        Outcome::Exited,
        "it runs from a private copy"
    );
    let reason = result.reason.unwrap_or_default();
    assert!(
        reason.contains("application") && reason.contains("taken out"),
        "{reason:?}"
    );

    // And the next is as if nothing had been.
    let last = made("last", HELLO);
    machine.monitor.plug("hot1", "gva-last", &last);
    assert!(machine.port.result("last").success);
    machine.port.ask(gvad::report::event::Command::Poweroff);
    assert!(machine.wait_end().success());
    assert_eq!(results(&out, "/gvad").len(), 6);
}

#[test]
fn a_disk_taken_out_while_nothing_runs_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let out = output(dir.path(), "out.img");
    let mut machine = Plan::new(Base::Direct)
        .serving()
        .disk("gva-o", &out)
        .start();
    let one = application(dir.path(), "one", &[("one", HELLO)]);
    machine.monitor.plug("hot0", "gva-one", &one);
    assert!(machine.port.result("one").success);
    machine
        .port
        .wait("rest", |event| matches!(event, Event::Drained { .. }));
    // It is the only one that this gvad has seen, so it is still mounted and watched.
    machine.monitor.unplug("gva-one");
    released(&mut machine, "gva-one");
    let two = application(dir.path(), "two", &[("two", HELLO)]);
    machine.monitor.plug("hot0", "gva-two", &two);
    assert!(machine.port.result("two").success);
    let errors: Vec<_> = machine
        .port
        .seen
        .iter()
        .filter(|line| matches!(line.event, Event::Error { .. }))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

fn cd(at: &Path, name: &str) -> PathBuf {
    let tree = at.join(name);
    scripts(&tree, &[(name, HELLO)]);
    let image = at.join(format!("{name}.iso"));
    run(gva().args(["image", "--iso", "-o"]).arg(&image).arg(&tree));
    fs::remove_dir_all(tree).unwrap();
    image
}

#[test]
fn a_cd_is_changed_and_the_new_one_is_run_once() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (cd(dir.path(), "one"), cd(dir.path(), "two"));
    let out = output(dir.path(), "out.img");
    let mut machine = Plan::new(Base::Direct)
        .serving()
        .cd(&one)
        .disk("gva-o", &out)
        .start();
    assert!(machine.port.result("one").success);
    for (medium, script) in [(&two, "two"), (&one, "")] {
        machine.monitor.execute(
            "blockdev-change-medium",
            json!({ "id": "cd", "filename": medium, "format": "raw", "force": true }),
        );
        if !script.is_empty() {
            assert!(machine.port.result(script).success);
        }
    }
    // The first again: it was run, and the ledger knows. Its turn comes and goes.
    machine.port.wait(
        "the last turn",
        |event| matches!(event, Event::Released { image, .. } if image.role == "application"),
    );
    machine.port.ask(gvad::report::event::Command::Poweroff);
    assert!(machine.wait_end().success());
    let names: Vec<_> = results(&out, "/gvad")
        .into_iter()
        .map(|result| result.name.script)
        .collect();
    assert_eq!(names, ["one", "two"]);
}
