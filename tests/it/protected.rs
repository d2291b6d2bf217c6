//! `run.protect_base` and `run.network`: what a script does to the base system is gone when it ends, and what it does to the images stays.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::thread;

use crate::harness::{Ended, Fs, Guest, Host, Image, names, run, sh};

/// A guest with three images, whose base system is protected.
fn protecting() -> Option<Guest> {
    let guest = Guest::with_output_image()?;
    guest.set("run.protect_base", true);
    let data = guest.path("data.img");
    Image::empty(Fs::Ext4, data.clone(), &guest.label("data"));
    guest.set("data.source", data.to_str().unwrap());
    // Its place is on the base system, and so must not be where a script tells anything.
    guest.unset("environment.WITNESS");
    Some(guest)
}

/// Runs one script, which must succeed, and gives what it printed.
#[track_caller]
fn printed(guest: &Guest, name: &str, body: &str) -> String {
    let (result, stdout) = guest.outcome_of(name, &format!("#!/bin/sh -eu\n{body}\n"));
    let stderr = String::from_utf8_lossy(&guest.run_file(&result, "stderr")).into_owned();
    assert_eq!(result["success"], true, "{result}\n{stdout}{stderr}");
    stdout
}

/// The same without overlays, as in a kernel that has none: the third mount of a thread that makes namespaces is that of the root.
fn drain_without_overlays(guest: &Guest) -> Ended {
    let gvad = guest.gvad(&["drain"]);
    let mut strace = Command::new("strace");
    let inject = "inject=mount:error=ENODEV:when=3";
    strace.args(["-f", "--seccomp-bpf", "-o", "/dev/null", "-e", inject, "--"]);
    run(strace.arg(gvad.get_program()).args(gvad.get_args()))
}

#[test]
fn what_a_script_writes_to_the_base_system_is_gone_with_it() {
    let Some(guest) = protecting() else { return };
    // Nothing but the test's own files: where this fails, it is this machine's base system.
    let base = guest.path("base");
    fs::create_dir_all(base.join("dir")).unwrap();
    fs::write(base.join("file"), "before").unwrap();
    let body = format!(
        "cd '{}'; [ \"$(cat file)\" = before ]; echo after > file; cat file; echo x > new; rmdir dir; mkfifo fifo; ln -s x link; chmod 600 .",
        base.display()
    );
    for name in ["a", "b"] {
        assert_eq!(printed(&guest, name, &body), "after\n");
    }
    assert_eq!(fs::read_to_string(base.join("file")).unwrap(), "before");
    assert_eq!(names(&base), ["dir", "file"]);
    guest.assert_clean();
}

#[test]
fn images_and_the_private_directory_are_the_real_ones() {
    let Some(guest) = protecting() else { return };
    let host = Host::new(&guest);
    let body = "echo kept > $GVA_OUTPUT/kept; echo kept > $GVA_APPLICATION/kept; if touch $GVA_DATA/x 2> /dev/null; then exit 7; fi\n\
                pwd; [ -x $TMPDIR/a ]; echo x > $TMPDIR/x\n\
                printf '#!/bin/sh\\necho from a script\\n' > $TMPDIR/later; chmod +x $TMPDIR/later; cp $TMPDIR/later $GVA_APPLICATION/script-bin/later\n\
                echo 0.5 half > $GVA_PROGRESS; while [ ! -e $GVA_APPLICATION/on ]; do sleep 0.1; done\n\
                echo x > /dev/null; [ -d /proc/$$ ]; [ -d /sys/class ]; [ -e /proc/self/cgroup ]";
    guest.script("a", &format!("#!/bin/sh -eu\n{body}\n"));
    let daemon = guest.daemon();
    let progress = host.wait_event("progress");
    assert_eq!(progress["text"], "half", "{progress}");
    fs::write(guest.live().join("on"), "").unwrap();
    let a = daemon.wait_result("a");
    let told = String::from_utf8_lossy(&guest.run_file(&a, "stderr")).into_owned();
    assert_eq!(a["success"], true, "{a} {told}");
    let later = daemon.wait_result("later");
    assert_eq!(guest.run_file(&later, "stdout"), b"from a script\n");
    let pwd = format!("{}\n", guest.text("mnt/application"));
    assert_eq!(guest.run_file(&a, "stdout"), pwd.as_bytes());
    assert_eq!(daemon.stop(), Some(0));
    guest.inside(|root| assert_eq!(fs::read(root.join("kept")).unwrap(), b"kept\n"));
    guest.inside_output(|out| assert_eq!(fs::read(out.join("kept")).unwrap(), b"kept\n"));
    guest.assert_clean();
}

#[test]
fn private_directory_in_a_place_that_is_real_anyway_is_found_there() {
    let Some(guest) = protecting() else { return };
    guest.set("run.temp_dir", "/run/temp");
    let body =
        "cd $TMPDIR; [ -x a ]; ls /run/temp; echo x > /run/seen; echo x > /etc/gvad-not-seen";
    let stdout = printed(&guest, "a", body);
    // Not the place in which its writes to the base system lie.
    assert!(
        stdout.contains("run-") && !stdout.contains("upper"),
        "{stdout}"
    );
    assert!(fs::exists("/run/seen").unwrap());
    assert!(!fs::exists("/etc/gvad-not-seen").unwrap());
    guest.assert_clean();
}

#[test]
fn directories_in_place_are_the_real_ones_too() {
    let Some(guest) = Guest::in_directory() else {
        return;
    };
    guest.set("run.protect_base", true);
    printed(
        &guest,
        "a",
        "echo x > $GVA_OUTPUT/kept; echo x > $GVA_APPLICATION/kept; echo x > $GVA_APPLICATION/../lost",
    );
    assert!(guest.path("app/kept").exists() && guest.path("app/output/kept").exists());
    assert!(!guest.path("lost").exists());
    guest.assert_clean();
}

#[test]
fn what_a_script_mounts_and_unmounts_is_its_own() {
    // Shared is what systemd makes of all mounts.
    for propagation in ["private", "shared"] {
        let Some(guest) = protecting() else { return };
        sh(&format!("mount --make-r{propagation} /"));
        let body = "mount -t tmpfs none $GVA_APPLICATION/script-bin; mount -t tmpfs none $TMPDIR; mount -t tmpfs none /run; touch /run/x\n\
                    cd /; umount $GVA_APPLICATION/script-bin; umount $GVA_OUTPUT; umount $GVA_DATA; umount $GVA_APPLICATION\n\
                    if mountpoint -q $GVA_APPLICATION; then exit 7; fi";
        guest.script("b", "#!/bin/sh\nmountpoint $GVA_OUTPUT\n");
        printed(&guest, "a", body);
        assert_eq!(guest.result("b")["success"], true, "{propagation}");
        assert!(!fs::exists("/run/x").unwrap(), "{propagation}");
        guest.assert_clean();
    }
}

#[test]
fn whole_tree_is_ended_and_nothing_of_the_namespace_is_left() {
    let Some(guest) = protecting() else { return };
    let body = "setsid sh -c 'trap \"\" TERM; exec sleep 1000' > $GVA_OUTPUT/log 2>&1 & cd $GVA_APPLICATION; exec sleep 1000 &";
    printed(&guest, "a", body);
    guest.assert_clean();
}

#[test]
fn sockets_in_run_are_reached_so_that_systemctl_works() {
    let Some(guest) = protecting() else { return };
    let listener = UnixListener::bind("/run/service").unwrap();
    let server = thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        peer.write_all(b"well\n").unwrap();
        let mut said = String::new();
        peer.read_to_string(&mut said).unwrap();
        said
    });
    let perl = "perl -MIO::Socket::UNIX -e '$s = IO::Socket::UNIX->new(Peer => \"/run/service\") or die $!; print $s \"poweroff\\n\"; $s->shutdown(1); print <$s>'";
    // Else systemctl takes the other root for a chroot, and does nothing.
    let body = format!("[ $SYSTEMD_IGNORE_CHROOT = 1 ]; {perl}");
    assert_eq!(printed(&guest, "a", &body), "well\n");
    assert_eq!(server.join().unwrap(), "poweroff\n");
}

#[test]
fn without_overlays_the_base_system_is_read_only() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.set("run.protect_base", true);
    let here = guest.path("base");
    fs::write(&here, "before").unwrap();
    let body = format!(
        "#!/bin/sh -eu\nif [ -w /etc ]; then exit 7; fi; echo x > '{}'; echo x > /tmp/x; echo x > $TMPDIR/x; echo x > $GVA_OUTPUT/kept\n",
        here.display()
    );
    guest.script("a", &body);
    let ended = drain_without_overlays(&guest);
    assert_eq!(ended.code, Some(0), "{ended}");
    assert_eq!(fs::read_to_string(&here).unwrap(), "before");
    guest.inside_output(|out| assert!(out.join("kept").exists()));
    guest.assert_clean();
}

#[test]
fn script_without_network_has_the_loopback_interface_alone() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.set("run.network", false);
    let body = "sed 1,2d /proc/net/dev | cut -d: -f1; perl -MIO::Socket::INET -e '\
                $l = IO::Socket::INET->new(Listen => 1, LocalAddr => \"127.0.0.1\") or die $!; \
                IO::Socket::INET->new(PeerAddr => \"127.0.0.1\", PeerPort => $l->sockport) or die $!; \
                IO::Socket::INET->new(Proto => \"udp\", PeerAddr => \"192.0.2.1\", PeerPort => 9) and die \"it has a route\"'\n\
                echo x > \"$WITNESS\"";
    assert_eq!(printed(&guest, "a", body).trim(), "lo");
    // Nothing else is taken from it.
    assert_eq!(guest.witness(), ["x"]);
    guest.assert_clean();
}

#[test]
fn what_cannot_be_made_is_told_before_any_script_is_touched() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.set("run.network", false);
    guest.script("a", "#!/bin/sh\n");
    let gvad = guest.gvad(&["drain"]);
    let mut strace = Command::new("strace");
    let inject = "inject=unshare:error=EPERM";
    strace.args(["-f", "--seccomp-bpf", "-o", "/dev/null", "-e", inject, "--"]);
    let ended = run(strace.arg(gvad.get_program()).args(gvad.get_args()));
    assert_eq!(ended.code, Some(2), "{ended}");
    let reason = "trying run.protect_base and run.network: making a network namespace: ";
    assert!(ended.stderr.contains(reason), "{ended}");
    assert_eq!(guest.waiting(), ["a"]);
}
