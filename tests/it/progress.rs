//! Progress: what a script writes to the file named by `GVA_PROGRESS` is shown; nothing else that it makes of that file does harm.

use crate::harness::{Guest, Host};

#[test]
fn progress_is_an_event_and_part_of_the_status() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let host = Host::new(&guest);
    guest.script(
        "a",
        "#!/bin/sh\nprintf '0.25 first\\tpart\\n0.3' > \"$GVA_PROGRESS\"\nwhile ! [ -e \"$WITNESS\" ]; do sleep 0.1; done\necho '1 done' > \"$GVA_PROGRESS\"\n",
    );
    let daemon = guest.daemon();
    let progress = host.wait_event("progress");
    assert_eq!(progress["run_id"], "000001-a");
    assert_eq!(progress["fraction"], 0.25);
    assert_eq!(progress["text"], "first part");
    let status = daemon.status();
    assert_eq!(status["running"]["progress"]["fraction"], 0.25);
    let shown = crate::harness::run(&mut guest.gvad(&["status"])).stdout;
    assert!(shown.contains("25 % first part"), "{shown}");
    std::fs::write(guest.path("witness"), "").unwrap();
    let last = host.wait_event("progress");
    assert_eq!(last["fraction"], 1.0, "also what is said at the very end");
    assert_eq!(last["text"], "done");
    host.wait_event("finished");
    host.wait_event("drained");
    assert_eq!(
        daemon.wait_state("idle")["running"],
        serde_json::Value::Null
    );
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn a_hostile_progress_file_is_passed_over() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let host = Host::new(&guest);
    // Each stays long enough to be looked at; the last makes a true one of it.
    let bodies = [
        ("a-fifo", "mkfifo \"$GVA_PROGRESS\""),
        ("b-link", "echo 0.5 > x; ln -s \"$PWD/x\" \"$GVA_PROGRESS\""),
        ("c-zeros", "truncate -s 10M \"$GVA_PROGRESS\""),
        ("d-nan", "echo NaN > \"$GVA_PROGRESS\""),
        (
            "e-binary",
            "head -c 10000 /dev/urandom | tr '\\060-\\071' x > \"$GVA_PROGRESS\"",
        ),
        ("f-directory", "mkdir \"$GVA_PROGRESS\""),
        ("g-device", "mknod \"$GVA_PROGRESS\" c 1 5"),
        (
            "h-large",
            "yes 2 | head -c 10000000 > \"$GVA_PROGRESS\"; echo >> \"$GVA_PROGRESS\"; echo 0.75 >> \"$GVA_PROGRESS\"",
        ),
        ("i-gone", "rm -rf \"${GVA_PROGRESS%/*}\""),
    ];
    for (name, body) in bodies {
        guest.script(
            name,
            &format!("#!/bin/bash\ncd \"$TMPDIR\"\n{body}\nsleep 1.3\n"),
        );
    }
    let daemon = guest.daemon();
    host.wait_event("drained");
    let lines = host.lines.borrow();
    let told: Vec<_> = lines.iter().filter(|l| l["event"] == "progress").collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["fraction"], 0.75);
    assert_eq!(told[0]["run_id"], "000008-h-large");
    for result in guest.results() {
        assert_eq!(result["success"], true, "{result}");
    }
    drop(lines);
    assert_eq!(daemon.stop(), Some(0));
    guest.assert_clean();
}
