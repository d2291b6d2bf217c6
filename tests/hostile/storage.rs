//! The output, the ledger, the private directory, and disks that fail while a script runs.

use std::fs;
use std::path::Path;

use crate::frame::{Expect, exits, logged, neighbour_waits, printed, result, that};
use crate::harness::{Fs, Guest, Image, Place, sh};
use crate::images::complains;

/// A line of shell in the output's root, before the first drain.
fn output(line: &'static str) -> impl FnOnce(&Guest) {
    move |guest| in_output(guest, line)
}

fn in_output(guest: &Guest, line: &str) {
    let test = guest.path("");
    guest.inside_output(|out| {
        sh(&format!(
            "TEST='{}'; TEST=${{TEST%/}}; cd '{}'; {line}",
            test.display(),
            out.display()
        ))
    });
}

/// The same, of the private directory's place.
fn temp_dir(line: &'static str) -> impl FnOnce(&Guest) {
    move |guest| {
        at_temp_dir(guest, line);
    }
}

fn at_temp_dir(guest: &Guest, line: &str) {
    sh(&format!(
        "STATE='{}'; cd '{}'; {line}",
        guest.text("state"),
        guest.path("").display()
    ));
}

/// Fills what is free, to the last byte and the last inode.
const FILL: &str = "dd if=/dev/zero of=fill bs=64k 2> /dev/null || :; for n in $(seq 2000); do mkdir fill-$n 2> /dev/null || break; done; dd if=/dev/zero of=fill2 bs=1 2> /dev/null || :; sync -f .";
const EMPTY: &str = "rm -rf fill*";

/// The ledger was set aside under its other name, and says so.
fn set_aside(kept: fn(&Path)) -> Expect {
    that(move |seen| {
        let told = "the ledger on the output image is damaged; it is kept as ledger.bad-1";
        assert!(seen.ended.stderr.contains(told), "{}", seen.ended);
        seen.guest
            .inside_output(|out| kept(&out.join("gvad/ledger.bad-1")));
    })
}

fn precious(seen_text: &'static str) -> Expect {
    that(move |seen| {
        assert_eq!(
            fs::read_to_string(seen.guest.path("precious")).unwrap(),
            seen_text
        )
    })
}

const LEDGER: &str = r#"{"ledger":{"id":"0-1","schema":1}}"#;
/// A run that was going on when the gvad of this boot died.
const START: &str = r#"{"start":{"run":1,"run_id":"$RUN","identity":{"medium":"ext:x","script":"$NAME","inode":12,"size":1,"mtime":[0,0],
    "ctime":[0,0]},"sha256":"","attempt":1,"boot_id":"$BOOT","started_at":"2026-01-01T00:00:00Z","cgroup":"/sys/fs/cgroup"}}"#;

/// A ledger with these lines, their checksums right.
fn forged(lines: &[&str]) -> impl FnOnce(&Guest) + use<> {
    let lines = lines.join("\0").replace('\n', "");
    move |guest| {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let lines = lines.replace("$BOOT", boot.trim());
        let lines = lines.replace("$TEST", guest.path("").to_str().unwrap());
        let summed = lines
            .split('\0')
            .map(|line| format!("{:08x} {line}\n", crc32fast::hash(line.as_bytes())));
        let text: String = summed.collect();
        guest.inside_output(|out| {
            fs::create_dir(out.join("gvad")).unwrap();
            fs::write(out.join("gvad/ledger"), text).unwrap();
        });
    }
}

/// Neither on the images nor beside them was anything made by a name that leads out.
fn nothing_is_outside() -> Expect {
    that(|seen| {
        let found = sh(&format!(
            "find '{}' -name 'evil*'",
            seen.guest.path("").display()
        ));
        assert_eq!(found, "");
        let is_there = |root: &Path| fs::exists(root.join("evil")).unwrap();
        assert!(!seen.guest.inside(is_there) && !seen.guest.inside_output(is_there));
    })
}

rows! { Guest::with_output_image();
    output_that_is_full:
        output(FILL) => [exits(2), neighbour_waits(), complains(&["the output image is full: ", "No space left on device"])], cure: |guest| in_output(guest, EMPTY);
    output_without_a_free_inode:
        output("n=0; while mkdir fill-$n 2> /dev/null; do n=$((n + 1)); done") => [exits(2), neighbour_waits(), complains(&["the output image is full: ", "No space left on device"])], cure: |guest| in_output(guest, "find . -name 'fill-*' -delete");
    output_that_is_tiny:
        |guest: &Guest| {
            let image = guest.path("tiny.img");
            sh(&format!("truncate -s 256K '{0}'; mke2fs -q -F -t ext2 '{0}'", image.display()));
            guest.set_output(Place::Image(Image { fs: Fs::Ext2, path: image }));
        } => [exits(2), neighbour_waits(), complains(&["the output image is full: "])], cure: |guest| guest.add_output_image(Fs::Ext4);
    output_that_cannot_be_written:
        |guest: &Guest| {
            let device = guest.attach(&guest.path("output.img"), &["--read-only"]);
            guest.set("output.source", device);
        } => [exits(2), neighbour_waits(), complains(&["the output image /dev/loop", "cannot be written after waiting 0s"])],
        cure: |guest| {
            let device = sh(&format!("losetup -n -O NAME -j '{}'", guest.text("output.img")));
            guest.detach(device.trim());
            guest.set("output.source", guest.text("output.img"));
        };
    output_of_a_kind_that_is_only_read:
        |guest: &Guest| {
            fs::create_dir(guest.path("content")).unwrap();
            guest.set_output(Place::Image(Image::of(Fs::Squashfs, guest.path("out.sqfs"), "", &guest.path("content"))));
        } => [exits(2), neighbour_waits(), complains(&["the output image $TEST/out.sqfs cannot be written"])], cure: |guest| guest.add_output_image(Fs::Ext4);
    output_that_is_missing:
        |guest: &Guest| guest.set("output.source", guest.text("no-output.img")) => [exits(2), neighbour_waits(), complains(&["no output image $TEST/no-output.img after waiting 0s"])],
        cure: |guest| guest.set("output.source", guest.text("output.img"));
    data_that_is_missing:
        |guest: &Guest| guest.set("data.source", guest.text("no-data.img")) => [exits(2), neighbour_waits(), complains(&["no data image $TEST/no-data.img after waiting 0s"])],
        cure: |guest| guest.unset("data.source");
    results_directory_that_is_a_file:
        output("echo x > gvad") => [exits(2), neighbour_waits(), complains(&["opening the output directory: "])], cure: |guest| in_output(guest, "rm gvad");
    results_directory_that_leads_elsewhere:
        output("mkdir $TEST/elsewhere; ln -s $TEST/elsewhere gvad") => [exits(2), neighbour_waits(), complains(&["opening the output directory: "]),
            that(|seen| assert_eq!(fs::read_dir(seen.guest.path("elsewhere")).unwrap().count(), 0))], cure: |guest| in_output(guest, "rm gvad");
    results_directory_that_leads_nowhere:
        output("ln -s nowhere gvad") => [exits(2), neighbour_waits(), complains(&["opening the output directory: "])], cure: |guest| in_output(guest, "rm gvad");
    results_directory_that_is_a_pipe:
        output("mkfifo gvad") => [exits(2), neighbour_waits(), complains(&["opening the output directory: "])], cure: |guest| in_output(guest, "rm gvad");
    results_directory_that_cannot_be_changed:
        output("mkdir gvad; chattr +i gvad") => [exits(2), neighbour_waits(), complains(&["Operation not permitted"])], cure: |guest| in_output(guest, "chattr -i gvad");
    run_directory_that_no_ledger_knows:
        output("mkdir -p gvad/000007-other; echo kept > gvad/000007-other/stdout") => [
            result("other", "interrupted", "the ledger was lost: it may have been running; it is not run again"), printed("other", "kept\n"),
            that(|seen| assert_eq!(seen.guest.result("zz-good")["run_id"], "000008-zz-good"))];
    run_directory_that_is_a_link:
        output("mkdir -p gvad $TEST/elsewhere; ln -s $TEST/elsewhere gvad/000001-zz-good") => [that(|seen| {
            assert_eq!(fs::read_dir(seen.guest.path("elsewhere")).unwrap().count(), 0);
        })];
    status_file_that_is_a_link:
        output("mkdir gvad; echo mine > $TEST/precious; ln -s $TEST/precious gvad/status.json") => [precious("mine\n"), that(|seen| assert_eq!(seen.status["state"], "stopped"))];
    status_file_that_is_a_directory:
        output("mkdir -p gvad/status.json/x") => [], cure: |guest| in_output(guest, "rm -r gvad/status.json");
    temporary_status_file_that_is_a_directory:
        output("mkdir -p gvad/.status.json.tmp/x gvad/status.json.tmp/x") => [];
    ledger_that_is_a_directory:
        output("mkdir -p gvad/ledger/x") => [set_aside(|kept| assert!(kept.join("x").is_dir()))];
    ledger_that_leads_elsewhere:
        output("mkdir gvad; echo mine > $TEST/precious; ln -s $TEST/precious gvad/ledger") => [set_aside(|kept| assert!(kept.is_symlink())), precious("mine\n")];
    ledger_that_is_a_pipe:
        output("mkdir gvad; mkfifo gvad/ledger") => [set_aside(|_| {})];
    ledger_that_is_a_device:
        output("mkdir gvad; mknod gvad/ledger c 1 5") => [set_aside(|_| {})];
    ledger_of_ten_gibibytes:
        output("mkdir gvad; truncate -s 10G gvad/ledger") => [set_aside(|kept| assert_eq!(kept.metadata().unwrap().len(), 10 << 30))];
    ledger_that_is_no_ledger:
        output("mkdir gvad; echo 'to do: everything' > gvad/ledger") => [set_aside(|kept| assert_eq!(fs::read_to_string(kept).unwrap(), "to do: everything\n"))];
    ledger_of_no_length:
        output("mkdir gvad; : > gvad/ledger") => [set_aside(|kept| assert_eq!(kept.metadata().unwrap().len(), 0))];
    ledger_of_zeros:
        output("mkdir gvad; truncate -s 1M gvad/ledger") => [set_aside(|kept| assert_eq!(kept.metadata().unwrap().len(), 1 << 20))];
    ledger_of_one_endless_line:
        output("mkdir gvad; head -c 3M /dev/zero | tr '\\0' x > gvad/ledger") => [set_aside(|_| {})];
    ledger_of_a_version_to_come:
        forged(&[r#"{"ledger":{"id":"0-1","schema":2}}"#]) => [set_aside(|kept| assert!(fs::read_to_string(kept).unwrap().contains("\"schema\":2")))];
    ledger_with_a_name_that_leads_out:
        forged(&[r#"{"ledger":{"id":"../../evil","schema":1}}"#]) => [set_aside(|_| {}), nothing_is_outside()];
    ledger_with_a_name_that_is_absolute:
        forged(&[r#"{"ledger":{"id":"$TEST/evil","schema":1}}"#]) => [set_aside(|_| {}), nothing_is_outside()];
    ledger_with_a_run_that_leads_out:
        forged(&[LEDGER, &START.replace("$RUN", "../../evil").replace("$NAME", "a")]) => [set_aside(|_| {}), nothing_is_outside()];
    ledger_with_a_script_that_leads_out:
        forged(&[LEDGER, &START.replace("$RUN", "000001-a").replace("$NAME", "../../precious")]) => [set_aside(|_| {}), nothing_is_outside()];
    ledger_with_a_control_group_that_is_none_of_gvads:
        forged(&[LEDGER, &START.replace("$RUN", "000001-a").replace("$NAME", "a")]) => [
            logged("run 000001-a names \"/sys/fs/cgroup\" as its control group: left alone"),
            result("a", "interrupted", "it may have been running; it is not run again")];
    ledger_that_cannot_be_changed:
        output("mkdir gvad; echo x > gvad/ledger; chattr +i gvad/ledger") => [set_aside(|_| {})];
    ledger_that_is_another_file_too:
        output("mkdir gvad; echo mine > precious; ln precious gvad/ledger") => [set_aside(|_| {}), that(|seen| seen.guest.inside_output(|out| {
            assert_eq!(fs::read_to_string(out.join("precious")).unwrap(), "mine\n");
        }))];
    unfinished_ledger_that_is_a_directory:
        output("mkdir -p gvad/.ledger.new/x") => [];
    temp_dir_that_is_a_file:
        temp_dir("echo x > $STATE") => [exits(2), neighbour_waits(), complains(&["making run.temp_dir $TEST/state: "])], cure: |guest| at_temp_dir(guest, "rm $STATE");
    temp_dir_below_a_file:
        |guest: &Guest| guest.set("run.temp_dir", guest.text("app.img/state")) => [exits(2), neighbour_waits(), complains(&["making run.temp_dir $TEST/app.img/state: Not a directory"])],
        cure: |guest| guest.set("run.temp_dir", guest.text("state"));
    temp_dir_that_is_a_link_to_nothing:
        temp_dir("ln -s nothing/at/all $STATE") => [exits(2), neighbour_waits(), complains(&["run.temp_dir $TEST/state: "])], cure: |guest| at_temp_dir(guest, "rm $STATE");
    temp_dir_that_cannot_be_written:
        temp_dir("mkdir $STATE; mount -t tmpfs -o ro tmpfs $STATE") => [exits(2), neighbour_waits(), complains(&["run.temp_dir $TEST/state is on a file system that cannot be written: name another"])],
        cure: |guest| at_temp_dir(guest, "umount $STATE");
    temp_dir_from_which_nothing_runs:
        temp_dir("mkdir $STATE; mount -t tmpfs -o noexec tmpfs $STATE") => [exits(2), neighbour_waits(), complains(&["run.temp_dir $TEST/state is on a file system mounted noexec, so no script could run there: name another"])],
        cure: |guest| at_temp_dir(guest, "umount $STATE");
    temp_dir_that_is_full:
        temp_dir("mkdir $STATE; mount -t tmpfs -o size=1m tmpfs $STATE; head -c 2M /dev/zero > $STATE/fill 2> /dev/null || :") => [exits(2), neighbour_waits(), complains(&["No space left on device"])],
        cure: |guest| at_temp_dir(guest, "umount $STATE");
    temp_dir_without_a_free_inode:
        temp_dir("mkdir $STATE; mount -t tmpfs -o nr_inodes=4 tmpfs $STATE; touch $STATE/1 $STATE/2 $STATE/3") => [exits(2), neighbour_waits(), complains(&["No space left on device"])],
        cure: |guest| at_temp_dir(guest, "umount $STATE");
    temp_dir_on_proc:
        |guest: &Guest| guest.set("run.temp_dir", "/proc/gvad") => [exits(2), neighbour_waits(), complains(&["making run.temp_dir /proc/gvad: "])],
        cure: |guest| guest.set("run.temp_dir", guest.text("state"));
    control_socket_whose_place_is_taken:
        temp_dir("mkdir -p $STATE/control/x") => [exits(1), logged("making the control socket: Is a directory")],
        cure: |guest| at_temp_dir(guest, "rm -r $STATE/control");
    control_socket_that_leads_elsewhere:
        temp_dir("mkdir $STATE; echo mine > precious; ln -s ../precious $STATE/control") => [precious("mine\n")];
    register_of_mounts_that_is_no_register:
        temp_dir("mkdir $STATE; echo '{]' > $STATE/mounts.json") => [];
    register_of_mounts_that_is_made_up:
        |guest: &Guest| {
            fs::create_dir(guest.path("state")).unwrap();
            let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
            let entry = format!(r#"[{{"path":"/","source":"none","over":0,"boot_id":"{0}"}},{{"path":"/run","source":"tmpfs?","over":0,"boot_id":"{0}"}}]"#, boot.trim());
            fs::write(guest.path("state/mounts.json"), entry).unwrap();
        } => [that(|_| { sh("mountpoint -q /run"); })];
    register_of_mounts_that_is_a_directory:
        temp_dir("mkdir -p $STATE/mounts.json/x") => [exits(2), neighbour_waits(), complains(&["writing $TEST/state/mounts.json: "])],
        cure: |guest| at_temp_dir(guest, "rm -r $STATE/mounts.json");
    register_of_mounts_that_leads_elsewhere:
        temp_dir("mkdir $STATE; echo mine > precious; ln -s ../precious $STATE/mounts.json") => [precious("mine\n")];
    private_directory_of_somebody_else:
        temp_dir("mkdir -p $STATE precious.d; echo mine > precious; ln -s ../precious.d $STATE/run-aaaaaa; ln precious precious.d/x; echo x > $STATE/run-bbbbbb; mkdir $STATE/other") => [precious("mine\n"),
            that(|seen| assert!(seen.guest.path("precious.d/x").exists() && seen.guest.path("state/other").exists()))];
}
