//! What kind of file stands in script-bin, and with which attributes; and what script-bin itself is.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;

use crate::frame::{
    TELL, exits, in_script_bin, later, logged, neighbour_waits, not_taken, passed_over, printed,
    ran, result, stays, succeeded, that,
};
use crate::harness::{Guest, sh};

/// Makes the script `a`, which tells that it ran.
fn tell(and: &str) -> impl FnOnce(&Guest) + use<> {
    let more = in_script_bin(and);
    move |guest| {
        guest.script("a", TELL);
        more(guest);
    }
}

/// Another shell line in script-bin, to mend.
fn mend(guest: &Guest, line: &str) {
    in_script_bin(line)(guest);
}

/// temp_dir is a file system of its own, of two MiB.
fn small_temp_dir(guest: &Guest) {
    let state = guest.text("state");
    fs::create_dir_all(&state).unwrap();
    sh(&format!(
        "mount -t tmpfs -o size=2m,mode=700 tmpfs '{state}'"
    ));
}

fn no_temp_dir(guest: &Guest) {
    sh(&format!("umount '{}'", guest.text("state")));
}

/// `a` does this to the waiting script `b`, which was listed already.
fn swaps(what: &str) -> impl FnOnce(&Guest) + use<> {
    let body =
        format!("#!/bin/sh\necho a >> \"$WITNESS\"\ncd \"$GVA_APPLICATION/script-bin\"\n{what}\n");
    move |guest| {
        guest.script("a", &body);
        guest.script("b", TELL);
    }
}

/// No bits and no capabilities of the original stand on the copy that is run.
const OWN_MODE: &str = "#!/bin/sh\nstat -c %a \"$0\"\ngetcap \"$0\"\n";

rows! { Guest::in_directory();
    directory_is_passed_over_with_what_is_in_it:
        in_script_bin("mkdir a; printf '#!/bin/sh\\necho inner >> \"$WITNESS\"\\n' > a/b; chmod 755 a/b") => [passed_over("a", "a directory"), ran([])];
    fifo_is_passed_over: in_script_bin("mkfifo -m 755 a") => [passed_over("a", "a FIFO, a socket or a device")];
    socket_is_passed_over:
        |guest| {
            let path = guest.path("app/script-bin/a");
            drop(UnixListener::bind(&path).unwrap());
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        } => [passed_over("a", "a FIFO, a socket or a device")];
    character_device_is_passed_over: in_script_bin("mknod -m 755 a c 1 3") => [passed_over("a", "a FIFO, a socket or a device")];
    block_device_is_passed_over: in_script_bin("mknod -m 755 a b 7 0") => [passed_over("a", "a FIFO, a socket or a device")];
    link_to_a_script_beside_it_is_passed_over: tell("ln -s a b") => [passed_over("b", "put the script itself there"), ran(["a"])];
    link_to_a_program_outside_is_passed_over: in_script_bin("ln -s /bin/true a") => [passed_over("a", "a symbolic link")];
    link_to_nothing_is_passed_over: in_script_bin("ln -s nothing a") => [passed_over("a", "a symbolic link")];
    link_to_itself_is_passed_over: in_script_bin("ln -s a a") => [passed_over("a", "a symbolic link")];
    hard_links_are_scripts_of_their_own: tell("ln a b; ln a c") => [succeeded("a"), succeeded("b"), succeeded("c"), ran(["a", "b", "c"])];
    hard_link_outside_of_script_bin_is_left_as_it_is:
        tell("ln a \"$ROOT/kept\"") => [ran(["a"]), that(|seen| {
            assert_eq!(fs::read_to_string(seen.guest.path("app/kept")).unwrap(), TELL);
            let mode = fs::metadata(seen.guest.path("app/kept")).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o755);
        })];
    immutable_script_is_told_and_taken_when_it_can_be:
        tell("chattr +i a") => [exits(2), not_taken("a", "claiming it: Operation not permitted"), ran([]), later(ran(["a"]))],
        cure: |guest| mend(guest, "chattr -i a");
    append_only_script_is_told_and_taken_when_it_can_be:
        tell("chattr +a a") => [exits(2), not_taken("a", "claiming it: Operation not permitted"), ran([]), later(ran(["a"]))],
        cure: |guest| mend(guest, "chattr -a a");
    script_with_setuid_and_setgid_runs_without_them:
        |guest| { guest.script("a", OWN_MODE); mend(guest, "chmod 6755 a"); } => [succeeded("a"), printed("a", "700\n")];
    script_with_the_sticky_bit_runs: tell("chmod 1755 a") => [succeeded("a"), ran(["a"])];
    script_with_capabilities_runs_without_them:
        |guest| { guest.script("a", OWN_MODE); mend(guest, "setcap cap_sys_admin+ep a"); } => [succeeded("a"), printed("a", "700\n")];
    script_with_attributes_of_users_runs: tell("setfattr -n user.note -v \"$(printf %02000d 0)\" a") => [succeeded("a"), ran(["a"])];
    access_list_for_some_user_is_no_access_for_all: tell("setfacl -m u:1000:rwx,g:1000:rwx a") => [succeeded("a"), ran(["a"])];
    access_list_that_lets_all_write_is_passed_over: tell("setfacl -m o::rwx a") => [passed_over("a", "anybody may write to it"), ran([])];
    script_that_may_be_executed_and_not_read_runs: tell("chmod 0111 a") => [succeeded("a"), ran(["a"])];
    script_that_may_be_executed_by_others_alone_runs: tell("chmod 0001 a") => [succeeded("a"), ran(["a"])];
    file_without_an_execute_bit_is_passed_over: tell("chmod 0666 a") => [passed_over("a", "no execute bit: chmod +x it"), ran([])];
    world_writable_script_is_passed_over_with_the_cure: tell("chmod 757 a") => [passed_over("a", "chmod o-w it"), ran([])];
    script_that_others_may_write_and_not_read_is_passed_over: tell("chmod 702 a") => [passed_over("a", "anybody may write to it"), ran([])];
    script_that_its_group_may_write_runs: tell("chmod 775 a; chown 1000:1000 a; chmod 775 .; chown 1000:1000 .") => [succeeded("a"), ran(["a"])];
    script_of_nobody_runs: tell("chown 65534:65534 a") => [succeeded("a"), ran(["a"])];
    script_from_the_year_2100_runs: tell("touch -d 2100-01-01 a") => [succeeded("a"), ran(["a"])];
    script_from_before_1970_runs: tell("touch -d 1930-01-01 a") => [succeeded("a"), ran(["a"])];
    script_of_10_gib_of_holes_is_too_large_and_not_started:
        |guest| { small_temp_dir(guest); tell("truncate -s 10G a")(guest); } => [
            ran([]), result("a", "not_started", "too large: the script has 10737418240 bytes")],
        cure: no_temp_dir;
    script_of_holes_alone_takes_no_room_and_runs:
        tell("printf 'du -k \"$0\" | cut -f 1\\nexit\\n' >> a; truncate -s 64M a") => [ran(["a"]), that(|seen| {
            let said = seen.guest.run_file(&seen.guest.result("a"), "stdout");
            let kept: u64 = String::from_utf8(said).unwrap().trim().parse().unwrap();
            assert!(kept <= 1024, "{kept} KiB");
        })];
    script_that_grows_all_the_while_is_run_whole_and_once:
        tell("(for i in {1..150}; do echo '#' >> a; sleep 0.005; done) > /dev/null 2>&1 &") => [
            ran(["a"]), that(|seen| assert_eq!(seen.results.iter().filter(|one| one["script"] == "a").count(), 1))],
        cure: |guest| mend(guest, "rm -f a");
    script_swapped_for_a_link_behind_the_look_is_not_run:
        swaps("rm b; ln -s /bin/true b") => [ran(["a"]), stays("b"), later(passed_over("b", "a symbolic link"))];
    script_swapped_for_a_directory_behind_the_look_is_not_run:
        swaps("rm b; mkdir b") => [ran(["a"]), stays("b"), later(passed_over("b", "a directory"))];
    script_swapped_for_a_fifo_behind_the_look_is_not_run:
        swaps("rm b; mkfifo -m 755 b") => [ran(["a"]), stays("b"), later(passed_over("b", "a FIFO"))];
    script_that_lost_its_execute_bit_behind_the_look_is_not_run:
        swaps("chmod 644 b") => [ran(["a"]), stays("b"), later(passed_over("b", "no execute bit"))];
    script_that_all_may_write_since_the_look_is_not_run:
        swaps("chmod 757 b") => [ran(["a"]), stays("b"), later(passed_over("b", "anybody may write to it"))];
    script_removed_behind_the_look_is_no_error:
        swaps("rm b") => [ran(["a"]), that(|seen| assert_eq!(seen.results.len(), 2, "{}", seen.ended))];
    script_with_other_bytes_behind_the_look_runs_as_it_is_now:
        swaps("printf '#!/bin/sh\\necho other >> \"$WITNESS\"\\n' > .b; chmod 755 .b; mv .b b") => [ran(["a", "other"]), succeeded("b")];
    file_that_something_is_mounted_on_is_told_and_not_run:
        tell("mount --bind /bin/true a") => [exits(2), ran([]), not_taken("a", "something is mounted over it"), later(ran(["a"]))],
        cure: |guest| mend(guest, "umount a");
}

mod script_bin {
    use super::*;

    rows! { Guest::on_image();
        script_bin_that_all_may_write_runs_nothing:
            tell("chmod 777 .") => [neighbour_waits(), passed_over("a", "chmod o-w the directory"), later(ran(["a"]))],
            cure: |guest| mend(guest, "chmod 755 .");
        script_bin_that_all_may_write_with_the_sticky_bit_runs_nothing:
            tell("chmod 1777 .") => [neighbour_waits(), passed_over("a", "anybody may write to script-bin"), later(ran(["a"]))],
            cure: |guest| mend(guest, "chmod 755 .");
        script_bin_that_others_may_write_and_not_read_runs_nothing:
            tell("chmod 703 .") => [neighbour_waits(), passed_over("a", "anybody may write to script-bin"), later(ran(["a"]))],
            cure: |guest| mend(guest, "chmod 755 .");
        script_bin_that_nobody_may_enter_is_used_all_the_same: tell("chmod 000 .") => [succeeded("a"), ran(["a"])];
        script_bin_behind_a_link_within_the_image_is_refused:
            tell("cd ..; mv script-bin real; ln -s real script-bin") => [
                exits(2), neighbour_waits(), logged("script-bin is or lies behind a symbolic link"), later(ran(["a"]))],
            cure: |guest| mend(guest, "cd \"$ROOT\"; rm script-bin; mv real script-bin");
        script_bin_behind_a_link_out_of_the_image_is_refused_and_nothing_is_made_there:
            tell("cp -a . \"$TEST/else\"; cd ..; mv script-bin real; ln -s \"$TEST/else\" script-bin") => [
                exits(2), neighbour_waits(), logged("script-bin is or lies behind a symbolic link"), later(ran(["a"])), that(|seen| {
                    assert_eq!(crate::harness::tool(std::process::Command::new("ls").arg("-A").arg(seen.guest.path("else"))), "a\nzz-good\n");
                })],
            cure: |guest| guest.inside(|root| { fs::remove_file(root.join("script-bin")).unwrap(); fs::rename(root.join("real"), root.join("script-bin")).unwrap() });
        script_bin_that_is_a_file_is_refused:
            tell("cd ..; mv script-bin real; echo > script-bin") => [
                exits(2), neighbour_waits(), logged("script-bin is not a directory"), later(ran(["a"]))],
            cure: |guest| guest.inside(|root| { fs::remove_file(root.join("script-bin")).unwrap(); fs::rename(root.join("real"), root.join("script-bin")).unwrap() });
        script_bin_that_cannot_be_changed_is_told_and_runs_nothing:
            tell("chattr +i .") => [
                exits(2), neighbour_waits(), logged("opening script-bin/.gvad: Operation not permitted"), later(ran(["a"]))],
            cure: |guest| mend(guest, "chattr -i .");
        script_bin_that_nothing_may_be_taken_out_of_is_told_and_runs_nothing:
            tell("chattr +a .") => [exits(2), neighbour_waits(), logged("claiming it: Operation not permitted"), later(ran(["a"]))],
            cure: |guest| mend(guest, "chattr -a .");
        junk_of_every_kind_does_not_stop_the_rest:
            tell("mkdir -p dir/deep .hidden; ln -s / root; ln -s loop loop; mkfifo fifo; mknod null c 1 3; touch plain $'\\xff\\xfe' \"$(printf %0255d 0)\"; for i in $(seq 500); do : > junk-$i; done") => [
                succeeded("a"), ran(["a"]), that(|seen| assert!(seen.status["passed_over_count"].as_u64().unwrap() > 505, "{:#}", seen.status))];
    }
}
