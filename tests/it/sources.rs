//! How an image is named, and each file system.

use std::fs;
use std::process::Command;

use crate::harness::{Fs, Guest, Image, run, sh, tool, wait_until, write_script};

const TELL: &str = "#!/bin/sh\nprintf '%s\\n' \"${0##*/}\" >> \"$WITNESS\"\n";

/// One tag of an image, as `blkid` reads it.
fn tag(image: &Image, tag: &str) -> String {
    tool(
        Command::new("blkid")
            .args(["-p", "-o", "value", "-s", tag])
            .arg(&image.path),
    )
    .trim()
    .to_owned()
}

/// Drains with that source, and the one script runs; the error otherwise.
#[track_caller]
fn assert_found(guest: &Guest, source: &str) {
    guest.set("application.source", source);
    guest.drain_ok();
    assert_eq!(guest.witness(), ["a"], "{source}");
    guest.assert_unmounted();
}

/// Drains with that source, which must fail with one line that has all the words.
#[track_caller]
pub(crate) fn assert_refused(guest: &Guest, source: &str, words: &[&str]) {
    guest.set("application.source", source);
    guest.set("application.wait", "1s");
    let ended = guest.drain();
    assert_eq!(ended.code, Some(2), "{ended}");
    let line = ended
        .stderr
        .lines()
        .find(|l| words.iter().all(|word| l.contains(word)));
    assert!(line.is_some(), "no line with {words:?}: {ended}");
    assert_eq!(guest.witness(), Vec::<String>::new());
    guest.assert_unmounted();
}

#[test]
fn label_and_uuid_find_an_attached_device() {
    for fs in [Fs::Ext2, Fs::Ext4, Fs::Xfs, Fs::Btrfs] {
        for tagged in ["LABEL", "UUID"] {
            let Some(guest) = Guest::on(fs) else { return };
            guest.script("a", TELL);
            let image = Image {
                fs,
                path: guest.path("app.img"),
            };
            guest.attach(&image.path, &[]);
            let value = tag(&image, tagged);
            assert!(!value.is_empty());
            assert_found(&guest, &format!("{tagged}={value}"));
        }
    }
}

#[test]
fn uuid_finds_an_image_that_has_no_label() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    write_script(&guest.path("content/script-bin/a"), TELL);
    let label = guest.label("erofs");
    let image = Image::of(
        Fs::Erofs,
        guest.path("app.ro"),
        &label,
        &guest.path("content"),
    );
    guest.attach(&image.path, &["--read-only"]);
    let value = tag(&image, "UUID");
    assert_found(&guest, &format!("UUID={value}"));
}

#[test]
fn label_with_spaces_and_signs_is_found() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let label = format!("a b/{}", guest.label("é"));
    sh(&format!("tune2fs -L '{label}' '{}'", guest.text("app.img")));
    guest.script("a", TELL);
    guest.attach(&guest.path("app.img"), &[]);
    assert_found(&guest, &format!("LABEL={label}"));
}

#[test]
fn device_path_and_a_link_to_it_are_sources() {
    for linked in [false, true] {
        let Some(guest) = Guest::on_image() else {
            return;
        };
        guest.script("a", TELL);
        let mut device = guest.attach(&guest.path("app.img"), &[]);
        if linked {
            std::os::unix::fs::symlink(&device, guest.path("by-id")).unwrap();
            device = guest.text("by-id");
        }
        assert_found(&guest, &device);
    }
}

#[test]
fn directory_is_used_in_place() {
    let Some(guest) = Guest::in_directory() else {
        return;
    };
    let (_, stdout) = guest.outcome_of(
        "a",
        "#!/bin/sh\necho \"$GVA_APPLICATION\"; cat /proc/self/mountinfo\n",
    );
    let (application, mounts) = stdout.split_once('\n').unwrap();
    assert_eq!(application, guest.text("app"));
    assert!(
        !mounts.contains(&guest.text("")),
        "nothing is mounted for it: {mounts}"
    );
}

#[test]
fn image_file_is_attached_so_that_the_kernel_detaches_it() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let daemon = guest.daemon();
    daemon.wait_state("idle");
    let device = guest.loops().remove(0);
    let clear = fs::read_to_string(format!("/sys/block/{device}/loop/autoclear")).unwrap();
    assert_eq!(clear.trim(), "1");
    daemon.kill();
    sh(&format!("umount '{}'", guest.text("mnt/application")));
    wait_until("it is detached", || guest.loops().is_empty());
}

/// Attaches a disk with two GPT partitions; the second holds the application's file system.
fn partitioned(guest: &Guest, label: &str) -> String {
    guest.script("a", TELL);
    let device = guest.attach(&crate::harness::gpt(guest, label), &["--partscan"]);
    // A kernel built without partition tables is told of them by hand; the table is on the disk all the same.
    sh(&format!("test -e {device}p2 || partx --add {device}"));
    assert!(fs::exists(format!("{device}p2")).unwrap());
    device
}

#[test]
fn partition_label_and_partition_uuid_find_a_partition() {
    for tag in ["PARTLABEL", "PARTUUID", "LABEL"] {
        let Some(guest) = Guest::on_image() else {
            return;
        };
        let label = guest.label("part");
        let device = partitioned(&guest, &label);
        let value = match tag {
            "PARTLABEL" => label,
            "LABEL" => guest.label("app"),
            _ => tool(Command::new("partx").args(["-g", "-o", "UUID", "-n", "2", &device]))
                .trim()
                .to_owned(),
        };
        assert!(!value.is_empty());
        assert_found(&guest, &format!("{tag}={value}"));
        // Any gvad on this machine may be looking at the partition just now.
        sh(&format!(
            "for i in $(seq 200); do partx --delete {device} && break; sleep 0.05; done; test ! -e {device}p2"
        ));
    }
}

#[test]
fn device_that_appears_late_is_found_without_a_restart() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.script("a", TELL);
    guest.set(
        "application.source",
        format!("LABEL={}", guest.label("app")),
    );
    let daemon = guest.daemon();
    let status = daemon.wait_state("waiting_for_application");
    assert!(
        status["problem"]
            .as_str()
            .unwrap()
            .contains(&guest.label("app")),
        "{status}"
    );
    guest.attach(&guest.path("app.img"), &[]);
    daemon.wait_result("a");
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(guest.witness(), ["a"]);
}

#[test]
fn image_file_that_appears_late_is_found_without_a_restart() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.script("a", TELL);
    fs::rename(guest.path("app.img"), guest.path("later.img")).unwrap();
    let daemon = guest.daemon();
    daemon.wait_state("waiting_for_application");
    fs::rename(guest.path("later.img"), guest.path("app.img")).unwrap();
    daemon.wait_result("a");
}

#[test]
fn attached_junk_does_not_disturb_the_search() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.script("a", TELL);
    for (name, size) in [("tiny", 512), ("zero", 1 << 20), ("large", 70_000)] {
        fs::File::create(guest.path(name))
            .unwrap()
            .set_len(size)
            .unwrap();
        guest.attach(&guest.path(name), &[]);
    }
    fs::write(
        guest.path("noise"),
        sh("head -c 300000 /dev/urandom | base64 -w 0"),
    )
    .unwrap();
    guest.attach(&guest.path("noise"), &[]);
    guest.attach(&guest.path("app.img"), &[]);
    let source = format!("LABEL={}", guest.label("app"));
    assert_found(&guest, &source);
}

#[test]
fn root_file_system_is_never_mounted_by_label() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    // The application image becomes the root of one more namespace, with the system's directories bound into it.
    guest.script("a", TELL);
    guest.set(
        "application.source",
        format!("LABEL={}", guest.label("app")),
    );
    guest.set("application.wait", "1s");
    let device = guest.attach(&guest.path("app.img"), &[]);
    let root = guest.text("root");
    let gvad = guest.gvad(&["drain"]);
    let line = format!(
        "set -eu; mkdir '{root}'; mount {device} '{root}'; cd '{root}'; mkdir -p old\n\
         for d in /*; do d=${{d#/}}; case $d in old|lost+found|script-bin) continue;; esac\n\
         if [ -L /$d ]; then cp -a /$d $d; elif [ -d /$d ]; then mkdir -p $d; mount --rbind /$d $d; fi; done\n\
         pivot_root . old; cd /; umount -l /old; exec \"$@\""
    );
    let mut shell = Command::new("unshare");
    shell
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            &line,
            "sh",
        ])
        .arg(gvad.get_program())
        .args(gvad.get_args());
    let ended = run(&mut shell);
    assert_eq!(ended.code, Some(2), "{ended}");
    assert!(ended.stderr.contains(&guest.label("app")), "{ended}");
    assert_eq!(guest.witness(), Vec::<String>::new());
}
