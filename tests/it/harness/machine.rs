//! What else is on this machine: other people's images, which a test must neither use nor keep busy.

use std::fs;
use std::process::Command;

use nix::mount::{MntFlags, umount2};

use super::{run, wait_until};

/// Waits until nobody else has a device with one of the default labels: gvad would take it, and tests would write to it.
#[track_caller]
pub(super) fn wait_for_no_default_label() {
    for label in ["gva-app", "gva-data", "gva-output"] {
        let mut blkid = Command::new("blkid");
        blkid.args([
            "-c",
            "/dev/null",
            "-o",
            "device",
            "-t",
            &format!("LABEL={label}"),
        ]);
        wait_until(&format!("no foreign device has the label {label}"), || {
            run(&mut blkid).stdout.trim().is_empty()
        });
    }
}

/// The new mount namespace has a copy of each mount of the old one; those of images would keep their devices busy.
pub(super) fn let_go_of_foreign_images() {
    let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
    for line in mounts.lines().filter(|line| line.starts_with("/dev/loop")) {
        let point = line.split(' ').nth(1).unwrap_or_default();
        if point != "/" {
            // Its owner may be unmounting it at this very moment.
            let _ = umount2(point, MntFlags::MNT_DETACH);
        }
    }
}
