//! The host command with real machines: running and serving.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use gvad_vm_tests::image::{application, gva, output, results, run};
use gvad_vm_tests::{place, wait_for};

const HELLO: &str = "#!/bin/sh\necho \"hello $GVA_PARAM_SITE\"\n";

/// `gva run` on the direct flavour, under emulation.
fn gva_run(arguments: &[&str]) -> Command {
    let mut command = gva();
    command
        .args(["run", "--accel", "tcg", "--base"])
        .arg(place("GVA_BASE_DIRECT"))
        .args(arguments);
    command
}

fn code(output: &Output) -> Option<i32> {
    println!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output.status.code()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn gva_run_shows_what_happens_and_says_how_it_came_out() {
    let dir = tempfile::tempdir().unwrap();
    let app = application(dir.path(), "app", &[("10-hello", HELLO)]);
    let out = output(dir.path(), "out.img");
    let ended = gva_run(&[
        "--param",
        "site=a, b",
        "--application",
        text(&app),
        "--output",
        text(&out),
    ])
    .output()
    .unwrap();
    assert_eq!(code(&ended), Some(0));
    let table = String::from_utf8_lossy(&ended.stdout);
    assert!(
        table.contains("000001-10-hello") && table.contains("1 succeeded, 0 failed"),
        "{table}"
    );
    let shown = gva()
        .args(["results", text(&out), "--stdout", "000001-10-hello"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&shown.stdout), "hello a, b\n");

    let fails = application(
        dir.path(),
        "fails",
        &[("10-fail", "#!/bin/sh\nexit 7\n"), ("20-hello", HELLO)],
    );
    let ended = gva_run(&["--json", "--application", text(&fails)])
        .output()
        .unwrap();
    assert_eq!(code(&ended), Some(1));
    let lines: Vec<serde_json::Value> = String::from_utf8_lossy(&ended.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let finished: Vec<_> = lines
        .iter()
        .filter(|line| line["event"] == "finished")
        .collect();
    assert_eq!(finished.len(), 2);
    assert_eq!(finished[0]["result"]["exit_code"], 7);
}

#[test]
fn gva_run_ends_what_takes_too_long_and_the_script_has_its_result() {
    let dir = tempfile::tempdir().unwrap();
    let app = application(dir.path(), "app", &[("10-long", "#!/bin/sh\nsleep 900\n")]);
    let ended = gva_run(&["--timeout", "60s", "--application", text(&app)])
        .output()
        .unwrap();
    assert_eq!(code(&ended), Some(3));
    let all = results(&app, "/output/gvad");
    assert_eq!(all[0].outcome, gvad::outcome::Outcome::Stopped);
}

#[test]
fn a_base_that_does_not_boot_is_told_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let app = application(dir.path(), "app", &[("10-hello", HELLO)]);
    let base = dir.path().join("base");
    fs::create_dir(&base).unwrap();
    let direct = place("GVA_BASE_DIRECT");
    for name in ["base.json", "vmlinuz"] {
        fs::copy(direct.join(name), base.join(name)).unwrap();
    }
    fs::File::create(base.join("root.img"))
        .unwrap()
        .set_len(64 << 20)
        .unwrap();
    let ended = gva()
        .args([
            "run",
            "--accel",
            "tcg",
            "--base",
            text(&base),
            "--application",
            text(&app),
        ])
        .output()
        .unwrap();
    assert_eq!(code(&ended), Some(2));
    assert_eq!(
        gvad_vm_tests::image::names(&app, "/script-bin"),
        ["10-hello"],
        "nothing was run"
    );
}

/// A serving `gva run`, which is ended with this value.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Serving {
    /// SIGTERM, which is as Ctrl-C but never ignored from the start, and how it ended.
    fn interrupt(mut self) -> Option<i32> {
        run(Command::new("kill").args(["-TERM", &self.0.id().to_string()]));
        wait_for("the end of gva run", || self.0.try_wait().unwrap()).code()
    }
}

#[test]
fn gva_serves_one_image_after_the_other_and_ends_cleanly_when_it_is_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let out = output(dir.path(), "out.img");
    let socket = dir.path().join("gva.sock");
    let serve = format!("--serve={}", socket.display());
    let child = gva_run(&[&serve, "--output", text(&out), "--json"])
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let mut serving = Serving(child);
    let events = BufReader::new(serving.0.stdout.take().unwrap());
    let (sender, ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // All of it is read, so that gva is not kept.
        for line in events.lines().map_while(Result::ok) {
            println!("{line}");
            if line.contains("\"ready\"") {
                let _ = sender.send(());
            }
        }
    });
    ready.recv_timeout(gvad_vm_tests::PATIENCE).unwrap();
    let submit = |name: &str, script: &str| {
        let image = application(dir.path(), name, &[(name, script)]);
        let ended = gva()
            .args(["submit", "--socket", text(&socket), text(&image)])
            .output()
            .unwrap();
        assert!(
            gvad_vm_tests::image::is_clean(&image),
            "{name} was released"
        );
        code(&ended)
    };
    assert_eq!(submit("one", HELLO), Some(0));
    assert_eq!(submit("two", "#!/bin/sh\nexit 1\n"), Some(1));
    assert_eq!(submit("three", HELLO), Some(0));
    let begun = Instant::now();
    assert_eq!(
        serving.interrupt(),
        Some(1),
        "one of the scripts did not succeed"
    );
    assert!(begun.elapsed() < Duration::from_secs(120));
    let names: Vec<_> = results(&out, "/gvad")
        .into_iter()
        .map(|result| result.name.script)
        .collect();
    assert_eq!(names, ["one", "two", "three"]);
    assert!(!socket.exists());
}
