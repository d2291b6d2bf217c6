//! How the images are mounted.

use std::fs;

use serde_json::Value;

use crate::harness::{Fs, Guest, Image, sh};

/// Copies the data and tries to write to it.
const WORK: &str = "#!/bin/sh\ncp \"$GVA_DATA/input\" \"$GVA_OUTPUT/answer\"\n\
                    touch \"$GVA_DATA/mine\" 2> /dev/null && echo 'data can be written'\n";

#[test]
fn data_image_is_mounted_read_only_unless_it_is_said() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    fs::create_dir(guest.path("content")).unwrap();
    fs::write(guest.path("content/input"), "42\n").unwrap();
    let image = Image::of(
        Fs::Ext4,
        guest.path("data.img"),
        &guest.label("dat"),
        &guest.path("content"),
    );
    guest.set("data.source", image.path.to_str().unwrap().to_owned());
    let (_, stdout) = guest.outcome_of("a", WORK);
    assert!(!stdout.contains("can be written"), "{stdout}");
    guest.set("data.read_only", false);
    let (_, stdout) = guest.outcome_of("b", WORK);
    assert!(stdout.contains("can be written"), "{stdout}");
    guest.assert_clean();
}

#[test]
fn every_mount_has_the_options_that_always_hold_and_those_asked_for() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.add_output_image(Fs::Xfs);
    fs::create_dir(guest.path("content")).unwrap();
    let data = Image::of(
        Fs::Squashfs,
        guest.path("data.sqfs"),
        "",
        &guest.path("content"),
    );
    guest.set("data.source", data.path.to_str().unwrap().to_owned());
    sh(&format!("tune2fs -e panic '{}'", guest.text("app.img")));
    guest.set("application.options", "noatime,data=journal");
    let daemon = guest.daemon();
    daemon.wait_state("idle");
    let mounts = guest.mounts();
    assert_eq!(mounts.len(), 3, "{mounts:#?}");
    for line in &mounts {
        let options = line.split(' ').nth(5).unwrap();
        assert!(
            options.contains("nosuid") && options.contains("nodev"),
            "{line}"
        );
    }
    let application = guest.mount_line(&guest.path("mnt/application")).unwrap();
    assert!(
        application.contains("noatime") && application.contains("data=journal"),
        "{application}"
    );
    // errors=remount-ro is either shown, or not because it is the image's default; panic would be shown.
    let shown = fs::read_to_string("/proc/thread-self/mounts").unwrap();
    let shown = shown
        .lines()
        .find(|l| l.contains(&guest.text("mnt/application")))
        .unwrap();
    assert!(shown.contains("errors=remount-ro"), "{shown}");
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn status_lists_the_images() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    let daemon = guest.daemon();
    let status = daemon.wait_state("idle");
    let images = status["images"].as_array().unwrap();
    let of = |role: &str| {
        images
            .iter()
            .find(|i| i["role"] == role)
            .unwrap_or(&Value::Null)
            .clone()
    };
    for role in ["application", "output"] {
        let image = of(role);
        assert_eq!(
            image["mount_point"],
            guest.text(&format!("mnt/{role}")),
            "{status:#}"
        );
        assert_eq!(
            (&image["fstype"], &image["read_only"]),
            (&"ext4".into(), &false.into())
        );
        let device = image["device"].as_str().unwrap();
        assert!(device.starts_with("/dev/loop"));
        let sysfs = device.replace("/dev/", "/sys/class/block/") + "/diskseq";
        let diskseq = fs::read_to_string(sysfs).unwrap();
        assert_eq!(image["diskseq"].to_string(), diskseq.trim());
    }
    assert_eq!(of("application")["source"], guest.text("app.img"));
}

#[test]
fn images_are_unmounted_though_a_kept_process_uses_them() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.set("run.leftovers", "keep");
    guest.script(
        "a",
        "#!/bin/sh\ncd \"$GVA_APPLICATION\"\nsetsid sleep 1000 > \"$GVA_OUTPUT/open\" 2>&1 &\nsleep 0.2\n",
    );
    guest.drain_ok();
    assert_eq!(guest.mounts(), Vec::<String>::new());
    assert_eq!(guest.processes().len(), 1, "it is kept");
}

#[test]
fn images_are_unmounted_though_a_script_has_mounted_something_on_them() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    let body = "#!/bin/sh\nmkdir -p \"$GVA_APPLICATION/m\" \"$GVA_OUTPUT/m\"\n\
                mount -t tmpfs t \"$GVA_APPLICATION/m\"\nmount -t tmpfs t \"$GVA_OUTPUT/m\"\n";
    let (result, _) = guest.outcome_of("a", body);
    assert_eq!(result["success"], true);
    guest.assert_clean();
}
