//! What is a script, what is not, and in which order they run.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use crate::harness::{Fs, Guest, Image, Place, run, sh, write_script};

/// A script that tells its name and that it ran.
const TELL: &str =
    "#!/bin/sh\nprintf '%s\\n' \"${0##*/}\"\nprintf '%s\\n' \"${0##*/}\" >> \"$WITNESS\"\n";

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn executable_file_runs_once_and_is_gone() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let (result, stdout) = guest.outcome_of("hello.sh", TELL);
    assert_eq!(result["outcome"], "exited");
    assert_eq!(result["success"], true);
    assert_eq!(stdout, "hello.sh\n");
    assert_eq!(guest.waiting(), Vec::<String>::new());
    guest.drain_ok();
    assert_eq!(guest.witness(), ["hello.sh"]);
    guest.assert_clean();
}

#[test]
fn any_execute_bit_makes_a_script_and_none_makes_none() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.inside(|root| {
        for bits in [0o100, 0o010, 0o001, 0o755, 0o775, 0o600, 0o644] {
            let path = root.join(format!("script-bin/mode-{bits:03o}"));
            write_script(&path, TELL);
            mode(&path, bits);
        }
    });
    guest.drain_ok();
    assert_eq!(
        guest.witness(),
        ["mode-001", "mode-010", "mode-100", "mode-755", "mode-775"]
    );
    assert_eq!(guest.waiting(), ["mode-600", "mode-644"]);
}

#[test]
fn run_id_has_only_tame_bytes_of_the_name_and_at_most_64() {
    let Some(guest) = Guest::in_directory() else {
        return;
    };
    guest.script(
        OsStr::from_bytes(b"A b\n\xff\xc3\xa9/x".split(|b| *b == b'/').next().unwrap()),
        TELL,
    );
    guest.script("B".repeat(255), TELL);
    guest.script("C._-9.sh", TELL);
    guest.script("D..", TELL);
    guest.drain_ok();
    let ids: Vec<_> = guest
        .results()
        .iter()
        .map(|r| r["run_id"].as_str().unwrap().to_owned())
        .collect();
    let long = format!("000002-{}", "B".repeat(64));
    assert_eq!(
        ids,
        ["000001-A_b____", &long, "000003-C._-9.sh", "000004-D.."]
    );
}

#[test]
fn scripts_run_in_bytewise_order_one_at_a_time() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let body = "#!/bin/sh\necho \"+${0##*/}\" >> \"$WITNESS\"\nsleep 0.05\necho \"-${0##*/}\" >> \"$WITNESS\"\n";
    let mut names: Vec<OsString> = ["b", "a", "B", "10", "9", "_", "a.sh", "a-", "é", "-x", "Z"]
        .map(OsString::from)
        .into();
    names.push(OsString::from_vec(b"\xfe".to_vec()));
    for name in &names {
        guest.script(name, body);
    }
    guest.drain_ok();
    names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    let told: Vec<_> = names
        .iter()
        .map(|n| n.to_string_lossy())
        .flat_map(|n| [format!("+{n}"), format!("-{n}")])
        .collect();
    assert_eq!(guest.witness(), told);
    let numbered: Vec<_> = guest
        .results()
        .iter()
        .map(|r| r["script"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        numbered,
        names
            .iter()
            .map(|n| n.to_string_lossy().into_owned())
            .collect::<Vec<_>>()
    );
}

#[test]
fn later_arrivals_join_with_the_next_scan() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let dropper = format!(
        "{TELL}printf '#!/bin/sh\\necho a >> \"$WITNESS\"\\n' > \"$GVA_APPLICATION/script-bin/.a\"\n\
         chmod 755 \"$GVA_APPLICATION/script-bin/.a\"\nmv \"$GVA_APPLICATION/script-bin/.a\" \"$GVA_APPLICATION/script-bin/a\"\n"
    );
    guest.script("b", &dropper);
    guest.script("c", TELL);
    guest.script("d", TELL);
    guest.drain_ok();
    assert_eq!(guest.witness(), ["b", "c", "d", "a"]);
}

#[test]
fn what_is_no_regular_file_is_never_opened_and_stays() {
    let Some(guest) = Guest::in_directory() else {
        return;
    };
    let bin = guest.path("app/script-bin");
    write_script(&guest.path("elsewhere/target"), TELL);
    std::os::unix::fs::symlink(guest.path("elsewhere/target"), bin.join("sp-link")).unwrap();
    std::os::unix::fs::symlink(guest.path("elsewhere"), bin.join("sp-dirlink")).unwrap();
    fs::create_dir(bin.join("sp-dir")).unwrap();
    write_script(&bin.join("sp-dir/inner"), TELL);
    let _socket = UnixListener::bind(bin.join("sp-socket")).unwrap();
    mode(&bin.join("sp-socket"), 0o755);
    sh(&format!(
        "cd '{}'; mkfifo -m 755 sp-fifo; mknod -m 755 sp-dev c 1 3; mknod -m 755 sp-block b 7 0",
        bin.display()
    ));
    guest.script("real", TELL);
    let before = guest.waiting();
    let gvad = guest.gvad(&["drain"]);
    let trace = guest.path("trace");
    let mut strace = Command::new("strace");
    strace
        .args([
            "-f",
            "-e",
            "trace=open,openat,openat2,execve,connect,rename,renameat,renameat2,unlinkat",
            "-o",
        ])
        .arg(&trace);
    let ended = run(strace
        .arg("--")
        .arg(gvad.get_program())
        .args(gvad.get_args()));
    assert_eq!(ended.code, Some(0), "{ended}");
    assert_eq!(guest.witness(), ["real"]);
    assert_eq!(
        guest.waiting(),
        before
            .into_iter()
            .filter(|n| n != "real")
            .collect::<Vec<_>>()
    );
    let trace = fs::read_to_string(trace).unwrap();
    let touched: Vec<_> = trace.lines().filter(|l| l.contains("sp-")).collect();
    assert!(touched.is_empty(), "{touched:#?}");
    assert!(trace.contains("real"), "the trace sees opens");
}

#[test]
fn what_is_passed_over_is_logged_once_and_listed_with_its_reason() {
    let Some(guest) = Guest::in_directory() else {
        return;
    };
    let bin = guest.path("app/script-bin");
    std::os::unix::fs::symlink("/bin/true", bin.join("po-link")).unwrap();
    sh(&format!("mkfifo -m 755 '{}/po-fifo'", bin.display()));
    guest.script("po-world", TELL);
    mode(&bin.join("po-world"), 0o777);
    let daemon = guest.daemon();
    for name in ["first", "second", "third"] {
        guest.hand_over(name, TELL);
        daemon.wait_result(name);
    }
    let status = daemon.wait_state("idle");
    let listed = status["passed_over"].as_array().unwrap();
    for name in ["po-link", "po-fifo", "po-world"] {
        let entry = listed
            .iter()
            .find(|e| e["name"] == name)
            .unwrap_or_else(|| panic!("{name} in {listed:?}"));
        assert!(!entry["reason"].as_str().unwrap().is_empty());
        assert_eq!(
            daemon.log().lines().filter(|l| l.contains(name)).count(),
            1,
            "{}",
            daemon.log()
        );
    }
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(guest.waiting(), ["po-fifo", "po-link", "po-world"]);
}

#[test]
fn script_bin_is_made_where_it_is_missing() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.set("application.script_bin", "work/in");
    guest.drain_ok();
    guest.inside(|root| {
        let bits = fs::metadata(root.join("work/in"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(bits & 0o002, 0, "{bits:o}");
        write_script(&root.join("work/in/hello"), TELL);
    });
    guest.drain_ok();
    assert_eq!(guest.witness(), ["hello"]);
}

#[test]
fn missing_script_bin_on_a_read_only_image_is_no_work() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    fs::create_dir(guest.path("empty")).unwrap();
    let image = Image::of(
        Fs::Squashfs,
        guest.path("app.sqfs"),
        "",
        &guest.path("empty"),
    );
    guest.set_application(Place::Image(image));
    // To end well, or to say what is missing: both help.
    let ended = guest.drain();
    let said = ended.code == Some(2) && ended.stderr.contains("script-bin");
    assert!(ended.code == Some(0) || said, "{ended}");
    guest.assert_clean();
}
