//! Each file system that gvad must know, on real loop devices; for those that this kernel lacks, the probing.

use std::fs;
use std::process::Command;

use crate::harness::{Fs, Guest, Image, Place, skipped, tool, write_script};
use crate::sources::assert_refused;

const TELL: &str = "#!/bin/sh\nprintf '%s\\n' \"${0##*/}\" >> \"$WITNESS\"\n";

/// A writable file system: the script runs from it, is removed, and its result is on it.
#[track_caller]
fn works_read_write(fs: Fs) {
    let Some(guest) = Guest::on(fs) else { return };
    guest.script("a", TELL);
    guest.script("b", TELL);
    let daemon = guest.daemon();
    daemon.wait_result("b");
    let line = guest.mount_line(&guest.path("mnt/application")).unwrap();
    assert!(
        line.contains(&format!(" - {} /dev/loop", fs.name())),
        "{line}"
    );
    guest.hand_over("c", TELL);
    daemon.wait_result("c");
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(guest.witness(), ["a", "b", "c"]);
    assert_eq!(guest.waiting(), Vec::<String>::new());
    assert_eq!(guest.results().len(), 3);
    guest.assert_clean();
}

#[test]
fn ext2_works() {
    works_read_write(Fs::Ext2);
}

#[test]
fn ext3_works() {
    works_read_write(Fs::Ext3);
}

#[test]
fn ext4_works() {
    works_read_write(Fs::Ext4);
}

#[test]
fn xfs_works() {
    works_read_write(Fs::Xfs);
}

#[test]
fn btrfs_works() {
    works_read_write(Fs::Btrfs);
}

/// A file system that is only read: the script runs once, its result is on the output image.
#[track_caller]
fn works_read_only(fs: Fs) {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    write_script(&guest.path("content/script-bin/a"), TELL);
    let image = Image::of(fs, guest.path("app.ro"), "ro", &guest.path("content"));
    guest.set_application(Place::Image(image));
    guest.drain_ok();
    assert_eq!(guest.witness(), ["a"]);
    assert_eq!(guest.result("a")["success"], true);
    guest.assert_clean();
}

#[test]
fn squashfs_works() {
    works_read_only(Fs::Squashfs);
}

#[test]
fn erofs_works() {
    works_read_only(Fs::Erofs);
}

#[test]
fn output_on_each_writable_file_system_works() {
    for fs in [Fs::Ext2, Fs::Ext3, Fs::Xfs, Fs::Btrfs] {
        let Some(guest) = Guest::on_image() else {
            return;
        };
        guest.add_output_image(fs);
        guest.script("a", TELL);
        guest.drain_ok();
        assert_eq!(guest.result("a")["success"], true, "{fs:?}");
        guest.assert_clean();
    }
}

/// A type that this kernel may lack: it works, or the error has the source, the type and the kernel's answer.
#[track_caller]
fn works_or_says_what_is_missing(guest: &Guest, fs: &str, source: &str) {
    let known = fs::read_to_string("/proc/filesystems").unwrap();
    if known.lines().any(|l| l.trim() == fs) {
        guest.set("application.source", source);
        guest.drain_ok();
        assert_eq!(guest.witness(), ["a"]);
    } else {
        assert_refused(guest, source, &[source, fs, "o such device"]);
    }
}

#[test]
fn vfat_is_recognised_by_its_label() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    let image = guest.path("app.vfat");
    fs::File::create(&image).unwrap().set_len(40 << 20).unwrap();
    let label: String = guest.label("V").to_uppercase().chars().take(11).collect();
    for bits in ["16", "32"] {
        tool(
            Command::new("mkfs.vfat")
                .args(["-F", bits, "-n", &label])
                .arg(&image),
        );
        if fs::read_to_string("/proc/filesystems")
            .unwrap()
            .contains("vfat")
        {
            return skipped("this kernel has vfat: the appliance's own test runs it");
        }
        let device = guest.attach(&image, &[]);
        let mut blkid = Command::new("blkid");
        let uuid = tool(blkid.args(["-p", "-o", "value", "-s", "UUID", &device]));
        for source in [format!("LABEL={label}"), format!("UUID={}", uuid.trim())] {
            works_or_says_what_is_missing(&guest, "vfat", &source);
        }
        tool(Command::new("losetup").args(["--detach", &device]));
    }
}

#[test]
fn iso9660_is_recognised_by_its_label() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    write_script(&guest.path("content/script-bin/a"), TELL);
    let image = guest.path("app.iso");
    let label = guest.label("ISO").to_uppercase().replace('-', "_");
    let mut mkisofs = Command::new("xorriso");
    mkisofs
        .args(["-as", "mkisofs", "-quiet", "-R", "-V", &label, "-o"])
        .arg(&image)
        .arg(guest.path("content"));
    tool(&mut mkisofs);
    guest.attach(&image, &["--read-only"]);
    works_or_says_what_is_missing(&guest, "iso9660", &format!("LABEL={label}"));
}
