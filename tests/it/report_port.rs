//! The port itself: it may come late, go, come again as another, or be no port at all.

use std::fs;
use std::os::unix::fs::symlink;
use std::thread;
use std::time::Duration;

use crate::harness::{Daemon, Guest, Host, sh, wait_until};

const TELL: &str = "#!/bin/sh\nprintf '%s\\n' \"${0##*/}\" >> \"$WITNESS\"\n";

#[test]
fn a_port_that_comes_late_brings_what_was_told_before() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let host = Host::new(&guest);
    fs::remove_file(guest.path("port")).unwrap();
    guest.script("a", TELL);
    let daemon = guest.daemon();
    daemon.wait_state("idle");
    host.plug();
    assert_eq!(host.wait_event("ready")["seq"], 1);
    host.wait_event("finished");
    host.wait_event("drained");
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn a_port_that_goes_is_looked_for_again() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let host = Host::new(&guest);
    let daemon = guest.daemon();
    let last = host.wait_event("drained")["seq"].as_u64().unwrap();
    drop(host);
    daemon.wait_log("is closed");
    guest.hand_over("a", TELL);
    daemon.wait_result("a");
    let host = Host::new(&guest);
    assert_eq!(host.wait_event("started")["seq"], last + 1);
    host.wait_event("drained");
    // Another device under the same name, while the old one is still good.
    let other = Host::new(&guest);
    daemon.wait_log("another device has its name");
    guest.hand_over("b", TELL);
    other.wait_event("finished");
    other.wait_event("drained");
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn what_is_no_port_is_told_once_and_left_alone() {
    let Some(guest) = Guest::in_directory() else {
        return;
    };
    guest.set("report.port", guest.text("port"));
    guest.set("watch.poll_interval", "10ms");
    fs::write(guest.path("file"), "").unwrap();
    sh(&format!("mkfifo '{}'", guest.text("fifo")));
    let port = guest.path("port");
    symlink(guest.path("file"), &port).unwrap();
    let daemon = guest.daemon();
    daemon.wait_state("idle");
    let wrong = "it is not a character device; trying again";
    daemon.wait_log(wrong);
    for (target, said) in [
        (guest.path("fifo"), None),
        (guest.path("."), None),
        ("/dev/null".into(), Some("Operation not permitted")),
        ("/dev/tty".into(), Some("No such device or address")),
    ] {
        let new = guest.path("new");
        symlink(&target, &new).unwrap();
        fs::rename(&new, &port).unwrap();
        if let Some(said) = said {
            daemon.wait_log(said);
        }
    }
    assert_eq!(daemon.log().matches(wrong).count(), 1, "{}", daemon.log());
    let host = Host::new(&guest);
    host.wait_event("ready");
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn a_port_that_hangs_up_or_is_full_burns_no_processor_time() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let host = Host::new(&guest);
    let daemon = Daemon::start(&guest, guest.gvad(&["--log-level", "debug"]));
    host.wait_event("drained");
    let ticks = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let times = fields.split(' ').skip(11).take(2);
        times.map(|n| n.parse::<u64>().unwrap()).sum::<u64>()
    };
    let burnt = || {
        let before = ticks();
        // Nothing happens meanwhile that could be waited for.
        thread::sleep(Duration::from_secs(1));
        ticks() - before
    };
    host.say(&"{\"do\":\"status\"}\n".repeat(100));
    daemon.wait_log("requested over the port");
    wait_until("all is taken", || burnt() < 10);
    drop(host);
    daemon.wait_log("is closed");
    assert!(burnt() < 10, "hundredths of a second");
    assert_eq!(daemon.stop(), Some(0));
}
