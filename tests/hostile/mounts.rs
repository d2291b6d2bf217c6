//! Images that can be mounted, and what is odd about them, their labels, their mount points, their directories.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::frame::{
    Expect, TELL, exits, in_script_bin, logged, neighbour_waits, ran, succeeded, that,
};
use crate::harness::{Fs, Guest, Image, sh, write_script};
use crate::images::complains;

/// A script that prints how the application is mounted.
const SHOW: &str = "#!/bin/sh\ngrep \" $GVA_APPLICATION \" /proc/self/mounts\n";

/// Something that tune2fs or debugfs does to the application image.
fn tuned(line: &'static str) -> impl FnOnce(&Guest) {
    move |guest| {
        guest.script("show", SHOW);
        sh(&format!(
            "IMAGE='{}'; TEST='{}'; {{ {line}; }} > /dev/null 2>&1",
            guest.text("app.img"),
            guest.path("").display()
        ));
    }
}

/// The application was mounted with these options, and without those behind a `!`.
fn mounted(options: &'static [&'static str]) -> Expect {
    that(move |seen| {
        let shown = seen.guest.run_file(&seen.guest.result("show"), "stdout");
        let shown = String::from_utf8_lossy(&shown).into_owned();
        let all: Vec<_> = shown.split(' ').nth(3).unwrap().split(',').collect();
        for option in options {
            match option.strip_prefix('!') {
                Some(not) => assert!(!all.contains(&not), "no {not} in {shown}"),
                None => assert!(all.contains(option), "{option} in {shown}"),
            }
        }
    })
}

const SAFE: &[&str] = &[
    "rw",
    "nosuid",
    "nodev",
    "errors=remount-ro",
    "!errors=panic",
];

rows! { Guest::on(Fs::Ext2);
    ext2_image_that_would_stop_the_guest: tuned("tune2fs -e panic $IMAGE") => [mounted(SAFE)];
    ext2_image_that_was_not_unmounted: tuned("debugfs -w -R 'ssv state 0' $IMAGE") => [mounted(SAFE)];
}

rows! { Guest::on(Fs::Ext3);
    ext3_image_that_would_stop_the_guest: tuned("tune2fs -e panic $IMAGE") => [mounted(SAFE)];
}

rows! { Guest::on_image();
    ext4_image_that_would_stop_the_guest: tuned("tune2fs -e panic $IMAGE") => [mounted(SAFE)];
    ext4_image_that_had_errors: tuned("tune2fs -e panic $IMAGE; debugfs -w -R 'ssv state 2' $IMAGE") => [mounted(SAFE)];
    ext4_image_that_should_have_been_checked_long_ago: tuned("tune2fs -c 1 -C 30 -i 1d -T 19990101 $IMAGE") => [mounted(SAFE)];
    ext4_image_with_options_of_its_own: tuned("tune2fs -E mount_opts=errors=panic $IMAGE") => [mounted(SAFE)];
    option_that_would_stop_the_guest:
        |guest: &Guest| {
            tuned("tune2fs -e panic $IMAGE")(guest);
            guest.set("application.options", "noatime,errors=panic");
        } => [mounted(SAFE), mounted(&["noatime"])];
    image_without_a_label: tuned("tune2fs -L '' $IMAGE") => [mounted(SAFE)];
    image_without_an_identity: tuned("e2fsck -fy $IMAGE; tune2fs -f -U clear $IMAGE") => [mounted(SAFE)];
    image_without_script_bin:
        |guest: &Guest| guest.inside(|root| fs::rename(root.join("script-bin"), root.join("other")).unwrap()) => [neighbour_waits(), that(|seen| {
            seen.guest.inside(|root| assert!(root.join("script-bin").is_dir(), "it is made"));
        })], cure: |guest| guest.inside(|root| { sh(&format!("cd '{}'; mv other/* script-bin", root.display())); });
    script_bin_that_is_a_file:
        in_script_bin("cd $ROOT; mv script-bin other; echo x > script-bin") => [exits(2), neighbour_waits(), complains(&["nothing can be run: script-bin is not a directory"])],
        cure: |guest| guest.inside(put_back);
    script_bin_that_is_a_pipe:
        in_script_bin("cd $ROOT; mv script-bin other; mkfifo script-bin") => [exits(2), neighbour_waits(), complains(&["nothing can be run: script-bin is not a directory"])],
        cure: |guest| guest.inside(put_back);
    script_bin_that_is_a_link:
        in_script_bin("cd $ROOT; mv script-bin other; ln -s other script-bin") => [exits(2), neighbour_waits(), complains(&["script-bin", "symbolic link"])],
        cure: |guest| guest.inside(put_back);
    script_bin_that_is_a_link_out_of_the_image:
        in_script_bin("cd $ROOT; mv script-bin other; ln -s /etc script-bin") => [exits(2), neighbour_waits(), complains(&["script-bin", "symbolic link"])],
        cure: |guest| guest.inside(put_back);
    script_bin_below_a_link:
        |guest: &Guest| {
            in_script_bin("cd $ROOT; mkdir real; mv script-bin real/; ln -s real link")(guest);
            guest.set("application.script_bin", "link/script-bin");
        } => [exits(2), neighbour_waits(), complains(&["link/script-bin", "symbolic link"])],
        cure: |guest| { guest.unset("application.script_bin"); guest.inside(|root| { sh(&format!("cd '{}'; mv real/script-bin .", root.display())); }); };
    script_bin_that_everybody_may_write:
        in_script_bin("chmod 777 .") => [neighbour_waits(), logged("anybody may write to script-bin, so anybody could become root by it: chmod o-w the directory")],
        cure: |guest| guest.inside(|root| { sh(&format!("chmod 755 '{}/script-bin'", root.display())); });
    output_directory_that_is_a_file:
        in_script_bin("echo x > $ROOT/output") => [exits(2), neighbour_waits(), complains(&["making $TEST/mnt/application/output: "])],
        cure: |guest| guest.inside(|root| fs::remove_file(root.join("output")).unwrap());
    output_directory_that_leads_out_of_the_image:
        in_script_bin("mkdir $TEST/precious; ln -s $TEST/precious $ROOT/output") => [exits(2), neighbour_waits(), complains(&["making $TEST/mnt/application/output: "]),
            that(|seen| assert_eq!(fs::read_dir(seen.guest.path("precious")).unwrap().count(), 0))],
        cure: |guest| guest.inside(|root| fs::remove_file(root.join("output")).unwrap());
    mount_point_that_is_a_file:
        |guest: &Guest| { fs::create_dir(guest.path("mnt")).unwrap(); fs::write(guest.path("mnt/application"), "x").unwrap(); } => [
            exits(2), neighbour_waits(), complains(&["making the mount point $TEST/mnt/application: "])],
        cure: |guest| fs::remove_file(guest.path("mnt/application")).unwrap();
    mount_point_below_a_file:
        |guest: &Guest| fs::write(guest.path("mnt"), "x").unwrap() => [exits(2), neighbour_waits(), complains(&["making the mount point $TEST/mnt/application: Not a directory"])],
        cure: |guest| fs::remove_file(guest.path("mnt")).unwrap();
    mount_point_that_is_a_link_to_nothing:
        |guest: &Guest| { fs::create_dir(guest.path("mnt")).unwrap(); symlink("/nothing/at/all", guest.path("mnt/application")).unwrap(); } => [
            exits(2), neighbour_waits(), complains(&["making the mount point $TEST/mnt/application: "])],
        cure: |guest| fs::remove_file(guest.path("mnt/application")).unwrap();
    mount_point_that_is_a_link_to_a_directory:
        |guest: &Guest| {
            for dir in ["mnt", "elsewhere"] { fs::create_dir(guest.path(dir)).unwrap(); }
            symlink(guest.path("elsewhere"), guest.path("mnt/application")).unwrap();
            guest.script("where", "#!/bin/sh\necho \"$GVA_APPLICATION\"\n");
        } => [succeeded("where"), that(|seen| {
            let said = seen.guest.run_file(&seen.guest.result("where"), "stdout");
            assert_eq!(String::from_utf8_lossy(&said).trim(), seen.guest.text("elsewhere"));
        })];
    mount_point_with_something_in_it:
        |guest: &Guest| write_script(&guest.path("mnt/application/script-bin/foreign"), TELL) => [ran([]), that(|seen| {
            assert!(seen.guest.path("mnt/application/script-bin/foreign").exists(), "it is covered, not touched");
        })], cure: |guest| assert_eq!(guest.witness(), Vec::<String>::new());
    mount_point_that_something_else_is_mounted_on:
        |guest: &Guest| { fs::create_dir_all(guest.path("mnt/application")).unwrap(); sh(&format!("mount -t tmpfs other '{}'", guest.text("mnt/application"))); } => [
            exits(2), neighbour_waits(), complains(&["$TEST/mnt/application is already a mount, of other"])],
        cure: |guest| { sh(&format!("umount '{}'", guest.text("mnt/application"))); };
    no_free_loop_device:
        |_: &Guest| { sh("mount --bind /dev/null /dev/loop-control"); } => [exits(2), neighbour_waits(), complains(&["attaching $TEST/app.img as a loop device: "])],
        cure: |_| { sh("umount /dev/loop-control"); };
}

fn put_back(root: &Path) {
    sh(&format!(
        "cd '{}'; rm script-bin; mv other script-bin",
        root.display()
    ));
}

rows! { Guest::with_output_image();
    ext4_image_that_says_it_is_only_read:
        tuned("tune2fs -O read-only $IMAGE") => [mounted(&["ro", "nosuid", "nodev"]), logged("read_only=true")], cure: |guest| {
            // It cannot be handed over to: writable again for the next script.
            sh(&format!("tune2fs -O ^read-only '{}' > /dev/null", guest.text("app.img")));
        };
    output_that_is_the_application:
        |guest: &Guest| guest.set("output.source", guest.text("app.img")) => [exits(2), neighbour_waits(), complains(&[
            "output.source $TEST/app.img is the application image already: leave it out, and the directory output/ on the application image is used"])],
        cure: output_back;
    output_that_is_the_application_by_a_link:
        |guest: &Guest| { symlink("app.img", guest.path("link.img")).unwrap(); guest.set("output.source", guest.text("link.img")); } => [
            exits(2), neighbour_waits(), complains(&["output", "$TEST/link.img", "is the application image already"])],
        cure: output_back;
    output_that_is_the_application_by_its_device:
        |guest: &Guest| {
            let device = guest.attach(&guest.path("app.img"), &[]);
            guest.set("output.source", device);
        } => [exits(2), neighbour_waits(), complains(&["output", "/dev/loop", "is the application image already"])],
        cure: output_back;
    data_that_is_the_application_by_a_link:
        |guest: &Guest| { symlink("app.img", guest.path("link.img")).unwrap(); guest.set("data.source", guest.text("link.img")); } => [
            exits(2), neighbour_waits(), complains(&["data", "$TEST/link.img", "is the application image already"])],
        cure: |guest| guest.unset("data.source");
    data_that_is_the_output:
        |guest: &Guest| guest.set("data.source", guest.text("output.img")) => [exits(2), neighbour_waits(), complains(&["output.source $TEST/output.img is the data image already"])],
        cure: |guest| guest.unset("data.source");
    data_with_scripts_of_its_own:
        |guest: &Guest| {
            write_script(&guest.path("content/script-bin/foreign"), TELL);
            let data = Image::of(Fs::Ext4, guest.path("data.img"), &guest.label("dat"), &guest.path("content"));
            guest.set("data.source", data.path.to_str().unwrap().to_owned());
        } => [ran([])], cure: |guest| assert_eq!(guest.witness(), Vec::<String>::new());
    output_with_scripts_of_its_own:
        |guest: &Guest| guest.inside_output(|out| write_script(&out.join("script-bin/foreign"), TELL)) => [ran([])],
        cure: |guest| assert_eq!(guest.witness(), Vec::<String>::new());
}

/// What a guest leaves behind whose power went, on a device that cannot be written.
fn dirty(guest: &Guest) {
    guest.inside(|root| {
        fs::write(root.join("dirt"), "dirt").unwrap();
        sh(&format!("sync -f '{}'", root.display()));
        fs::copy(guest.path("app.img"), guest.path("dirty.img")).unwrap();
    });
    let device = guest.attach(&guest.path("dirty.img"), &["--read-only"]);
    guest.set("application.source", device);
}

rows! { Guest::with_output_image();
    journal_that_must_be_replayed_on_a_device_that_cannot_be_written:
        dirty => [exits(2), neighbour_waits(), complains(&["/dev/loop", " is ext4, but mounting it at $TEST/mnt/application failed: ",
            "its journal must be replayed, and the device is read-only: mount it writable once, or accept its old state with options = \"noload\""])],
        cure: |guest| guest.set("application.source", guest.text("app.img"));
    journal_that_is_left_alone_because_somebody_says_so:
        |guest: &Guest| { dirty(guest); guest.set("application.options", "noload"); } => [],
        cure: |guest| { guest.unset("application.options"); guest.set("application.source", guest.text("app.img")); };
}

fn output_back(guest: &Guest) {
    guest.set("output.source", guest.text("output.img"));
}
