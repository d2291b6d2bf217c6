//! How a machine, gvad or a script ends.

use gvad::outcome::Outcome;
use gvad::report::event::Event;
use gvad_vm_tests::image::{self, application, names, output, results};
use gvad_vm_tests::machine::{Base, Plan};

const HELLO: &str = "#!/bin/sh\necho hello\n";

#[test]
fn a_script_that_powers_off_has_its_result_and_the_images_are_clean() {
    let dir = tempfile::tempdir().unwrap();
    let content = [
        ("10-off", "#!/bin/sh\necho going\nsystemctl poweroff\n"),
        ("20-waits", "#!/bin/sh\nsleep 600\n"),
    ];
    let app = application(dir.path(), "app", &content);
    let out = output(dir.path(), "out.img");
    let mut machine = Plan::new(Base::Direct)
        .disk("gva-a0", &app)
        .disk("gva-o", &out)
        .start();
    assert!(machine.wait_end().success());
    let all = results(&out, "/gvad");
    assert_eq!(
        (all[0].outcome, all[0].exit_code),
        (Outcome::Exited, Some(0)),
        "{all:#?}"
    );
    // systemd may be too slow to be asked whether the machine goes down; then the second was started, and stopped.
    match all.get(1) {
        None => assert_eq!(names(&app, "/script-bin"), ["20-waits"]),
        Some(second) => assert_eq!(second.outcome, Outcome::Stopped, "{all:#?}"),
    }
    assert!(image::is_clean(&app) && image::is_clean(&out));
}

#[test]
fn a_script_that_reboots_is_recorded_and_what_waits_runs_after_the_boot() {
    let dir = tempfile::tempdir().unwrap();
    let content = [
        ("10-reboot", "#!/bin/sh\nsystemctl reboot\nsleep 600\n"),
        ("20-after", HELLO),
    ];
    let app = application(dir.path(), "app", &content);
    let out = output(dir.path(), "out.img");
    let mut machine = Plan::new(Base::Direct)
        .rebooting()
        .disk("gva-a0", &app)
        .disk("gva-o", &out)
        .start();
    let rebooted = machine.port.result("10-reboot");
    assert_eq!(rebooted.outcome, Outcome::Stopped);
    let after = machine.port.result("20-after");
    assert!(after.success);
    assert_ne!(rebooted.boot_id, after.boot_id);
    assert!(machine.wait_end().success());
    assert_eq!(results(&out, "/gvad").len(), 2);
    assert!(image::is_clean(&app) && image::is_clean(&out));
}

#[test]
fn gvad_is_killed_stopped_and_comes_back_under_systemd() {
    let dir = tempfile::tempdir().unwrap();
    let kill = "#!/bin/sh\nkill -KILL \"$(systemctl show -p MainPID --value gvad)\"\nsleep 600\n";
    // `systemctl restart` from a script stops gvad, and the script with it.
    let restart = "#!/bin/sh\nsystemctl show -p NRestarts --value gvad\nsystemctl --no-block restart gvad\nsleep 600\n";
    // The last one looks back at what was left of the others.
    let look = "#!/bin/sh\ngrep -lx sleep /proc/[0-9]*/comm | wc -l\n";
    let content = [
        ("10-kill", kill),
        ("20-restart", restart),
        ("30-look", look),
    ];
    let app = application(dir.path(), "app", &content);
    let out = output(dir.path(), "out.img");
    let mut machine = Plan::new(Base::Direct)
        .disk("gva-a0", &app)
        .disk("gva-o", &out)
        .start();
    assert_eq!(machine.port.result("10-kill").outcome, Outcome::Interrupted);
    assert_eq!(machine.port.result("20-restart").outcome, Outcome::Stopped);
    assert!(machine.wait_end().success());
    let all = results(&out, "/gvad");
    assert_eq!(all.len(), 3, "{all:#?}");
    assert_eq!(
        image::cat(&out, "/gvad/000002-20-restart/stdout"),
        "1\n",
        "systemd started it again, once"
    );
    assert_eq!(
        image::cat(&out, "/gvad/000003-30-look/stdout"),
        "0\n",
        "nothing of the others is left"
    );
}

#[test]
fn limits_of_memory_and_tasks_are_named_in_the_result() {
    let dir = tempfile::tempdir().unwrap();
    let hog = "#!/bin/sh\nexec awk 'BEGIN { s = \"xxxxxxxxxxxxxxxx\"; while (1) s = s s }'\n";
    let storm = "#!/bin/sh\nfor i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 5 & done\nwait\n";
    let content = [("10-hog", hog), ("20-storm", storm), ("30-hello", HELLO)];
    let app = application(dir.path(), "app", &content);
    let out = output(dir.path(), "out.img");
    let config = "[run]\nmemory_max = '32MiB'\ntasks_max = 10\n";
    let mut machine = Plan::new(Base::Direct)
        .config(config)
        .disk("gva-a0", &app)
        .disk("gva-o", &out)
        .start();
    assert!(machine.wait_end().success());
    let all = results(&out, "/gvad");
    let reason = |at: usize| all[at].reason.clone().unwrap_or_default();
    assert_eq!(
        (all[0].outcome, all[0].signal.as_deref()),
        (Outcome::Signaled, Some("SIGKILL"))
    );
    assert!(reason(0).contains("run.memory_max, 32MiB"), "{all:#?}");
    assert!(reason(1).contains("run.tasks_max, 10"), "{all:#?}");
    assert!(all[2].success && all[2].reason.is_none(), "{all:#?}");
}

#[test]
fn the_machines_own_oom_killer_is_named_too() {
    let dir = tempfile::tempdir().unwrap();
    let hog = "#!/bin/sh\nexec awk 'BEGIN { s = \"xxxxxxxxxxxxxxxx\"; while (1) s = s s }'\n";
    let app = application(dir.path(), "app", &[("10-hog", hog), ("20-hello", HELLO)]);
    let mut machine = Plan::new(Base::Direct).disk("gva-a0", &app).start();
    assert!(machine.wait_end().success());
    let all = results(&app, "/output/gvad");
    assert_eq!(all[0].signal.as_deref(), Some("SIGKILL"), "{all:#?}");
    assert!(
        all[0]
            .reason
            .clone()
            .unwrap_or_default()
            .contains("OOM killer"),
        "{all:#?}"
    );
    assert!(all[1].success, "{all:#?}");
}

#[test]
fn a_power_cut_is_explained_by_the_next_machine() {
    let dir = tempfile::tempdir().unwrap();
    let app = application(
        dir.path(),
        "app",
        &[("10-long", "#!/bin/sh\nsleep 600\n"), ("20-hello", HELLO)],
    );
    let out = output(dir.path(), "out.img");
    let mut machine = Plan::new(Base::Direct)
        .disk("gva-a0", &app)
        .disk("gva-o", &out)
        .start();
    machine
        .port
        .wait("the start", |event| matches!(event, Event::Started { .. }));
    machine.cut_power();
    let mut machine = Plan::new(Base::Direct)
        .disk("gva-a0", &app)
        .disk("gva-o", &out)
        .start();
    assert!(machine.wait_end().success());
    let all = results(&out, "/gvad");
    assert_eq!(all[0].outcome, Outcome::Interrupted, "{all:#?}");
    assert!(all[1].success && all.len() == 2, "{all:#?}");
}
