//! `gva results`.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Place, output, spawn};

fn result(run: &str, code: i32, reason: &str) -> String {
    json!({
        "schema": 1, "run_id": run, "script": "a.sh", "sha256": null, "attempt": 1, "outcome": "exited",
        "success": code == 0, "exit_code": code, "signal": null, "reason": reason, "started_at": null,
        "finished_at": null, "duration_ms": 5, "stdout_bytes": 3, "stderr_bytes": 0, "stdout_truncated": false,
        "stderr_truncated": false, "user_cpu_ms": null, "system_cpu_ms": null, "max_rss_kib": null, "boot_id": "",
        "gvad_version": "0.1.0",
    })
    .to_string()
}

/// An image with two results and a run that has none, made of the directory `from` in which they stand under `top`.
fn image(place: &Place, top: &str) {
    for (run, code) in [("000001-a.sh", 0), ("000002-a.sh", 3)] {
        let dir = format!("from/{top}/gvad/{run}");
        place.file(&format!("{dir}/result.json"), 0o644, result(run, code, ""));
        place.file(&format!("{dir}/stdout"), 0o644, format!("out of {run}\n"));
        place.file(&format!("{dir}/stderr"), 0o644, format!("err of {run}\n"));
    }
    place.dir(&format!("from/{top}/gvad/000003-b.sh"));
    let made = [
        "image", "from", "--role", "output", "-o", "out.img", "--size", "64MiB",
    ];
    place.gva(&made).succeeded();
}

#[test]
fn results_are_read_from_an_output_image_and_from_a_combined_one() {
    for top in [".", "output"] {
        let place = Place::new();
        image(&place, top);
        let said = place.gva(&["results", "out.img"]);
        said.succeeded();
        for text in [
            "000001-a.sh",
            "exit code 3",
            "no result yet",
            "3 runs: 1 succeeded, 1 failed, 1 without",
        ] {
            assert!(said.out.contains(text), "{}", said.out);
        }
        let said = place.gva(&["results", "out.img", "--json"]);
        said.succeeded();
        let lines: Vec<Value> = said
            .out
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1]["exit_code"], 3);
        assert_eq!(
            place
                .gva(&["results", "out.img", "--stdout", "000002-a.sh"])
                .out,
            "out of 000002-a.sh\n"
        );
        assert_eq!(
            place
                .gva(&["results", "out.img", "--stderr", "000001-a.sh"])
                .out,
            "err of 000001-a.sh\n"
        );
        place
            .gva(&["results", "out.img", "--stdout", "000009-x"])
            .failed("no run \"000009-x\"");
        place
            .gva(&["results", "out.img", "--stdout", "000003-b.sh"])
            .failed("has no stdout");
        assert_eq!(place.names(), ["from", "out.img"]);
    }
}

#[test]
fn an_image_that_was_not_unmounted_is_told_and_read_and_not_written() {
    let place = Place::new();
    image(&place, ".");
    place.debugfs(&["-w", "-R", "feature needs_recovery", "out.img"]);
    let before = fs::read(place.at("out.img")).unwrap();
    let said = place.gva(&["results", "out.img"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.err.contains("not cleanly unmounted"), "{}", said.err);
    assert_eq!(said.err.lines().count(), 1, "{}", said.err);
    assert!(said.out.contains("1 succeeded"), "{}", said.out);
    assert!(said.out.starts_with("RUN "), "{}", said.out);
    assert!(fs::read(place.at("out.img")).unwrap() == before);
    assert_eq!(place.names(), ["from", "out.img"]);
}

/// The machine died before they had become files: one of them has a directory, the other has none.
#[test]
fn results_that_the_ledger_alone_has_are_shown() {
    use gvad::ledger::kept::{Kept, Printed};
    use gvad::ledger::line::{Line, encode};
    let kept = |run, id: &str, stdout: &[u8]| {
        Line::Result(Kept {
            run,
            result: serde_json::from_str(&result(id, 7, "")).unwrap(),
            stdout: Printed(stdout.to_vec()),
            stderr: Printed(b"kept\n".to_vec()),
        })
    };
    let lines = [
        Line::Ledger {
            id: "x".to_owned(),
            schema: 1,
        },
        kept(1, "000001-a.sh", b"not this"),
        Line::Filed { run: 2 },
        kept(3, "000003-b.sh", b"b\xff"),
        kept(4, "000004-c.sh", b""),
    ];
    let mut ledger: Vec<u8> = lines
        .iter()
        .flat_map(|line| encode(line).unwrap())
        .collect();
    ledger.resize(1 << 20, 0);
    for top in [".", "output"] {
        let place = Place::new();
        place.file(&format!("from/{top}/gvad/ledger"), 0o600, ledger.clone());
        image(&place, top);
        let said = place.gva(&["results", "out.img"]);
        said.succeeded();
        for text in ["000004-c.sh", "4 runs: 1 succeeded, 3 failed\n"] {
            assert!(said.out.contains(text), "{}", said.out);
        }
        let stdout = |run| {
            let args = ["results", "out.img", "--stdout", run];
            place.gva_bytes(&args)
        };
        assert_eq!(stdout("000001-a.sh"), b"out of 000001-a.sh\n");
        assert_eq!(stdout("000003-b.sh"), b"b\xff");
        assert_eq!(stdout("000004-c.sh"), b"");
        let said = place.gva(&["results", "out.img", "--stderr", "000004-c.sh"]);
        assert_eq!(said.out, "kept\n");
    }
}

#[test]
fn an_image_in_use_is_read_and_that_is_told() {
    let place = Place::new();
    image(&place, ".");
    let file = fs::File::open(place.at("out.img")).unwrap();
    file.lock().unwrap();
    let said = place.gva(&["results", "out.img"]);
    assert_eq!(said.code, Some(0));
    assert!(said.err.contains("in use by a run"), "{}", said.err);
    assert!(said.out.contains("1 succeeded"), "{}", said.out);
}

#[test]
fn a_hostile_image_commands_neither_the_terminal_nor_the_host() {
    let place = Place::new();
    place.file("secret", 0o644, result("000007-host", 0, "of the host"));
    let run = "from/gvad/000001-a.sh";
    place.file(
        &format!("{run}/result.json"),
        0o644,
        result("000001-a.sh", 0, "\u{1b}[2J\nsecond"),
    );
    for name in [
        "000002-a\u{1b}[31m",
        "000003-a\nb",
        "000004-$(id)",
        "000005-a b",
        "..x",
    ] {
        place.file(
            &format!("from/gvad/{name}/result.json"),
            0o644,
            result("x", 0, ""),
        );
    }
    for run in ["000006-link", "000008-self", "000010-dir"] {
        place.dir(&format!("from/gvad/{run}"));
    }
    let secret = place.at("secret");
    std::os::unix::fs::symlink(&secret, place.at("from/gvad/000006-link/result.json")).unwrap();
    std::os::unix::fs::symlink("..", place.at("from/gvad/000008-self/result.json")).unwrap();
    place.dir("from/gvad/000010-dir/result.json");
    place.file(
        "from/gvad/000011-large/result.json",
        0o644,
        vec![b' '; 2 << 20],
    );
    place.file("from/gvad/000012-none/result.json", 0o644, "[]");
    place
        .gva(&["image", "from", "--role", "output", "-o", "out.img"])
        .succeeded();
    let said = place.gva(&["results", "out.img"]);
    said.succeeded();
    assert!(
        !said.out.contains('\u{1b}') && !said.out.contains("\nsecond"),
        "{}",
        said.out
    );
    assert!(!said.out.contains("of the host"), "{}", said.out);
    assert!(
        said.out
            .contains("6 runs: 1 succeeded, 0 failed, 5 without"),
        "{}",
        said.out
    );
    place
        .gva(&["results", "out.img", "--stdout", "../../secret"])
        .failed("no run");
    // A length beyond the image.
    place.file("from/gvad/000001-a.sh/stdout", 0o644, "x");
    place
        .gva(&[
            "image", "from", "--role", "output", "-o", "out.img", "--force",
        ])
        .succeeded();
    place.debugfs(&[
        "-w",
        "-R",
        "sif /gvad/000001-a.sh/stdout size 99999999999999",
        "out.img",
    ]);
    place
        .gva(&["results", "out.img", "--stdout", "000001-a.sh"])
        .failed("damaged");
}

/// A name that stands in a listing as lines of their own.
const LINES: &str = "x\n/14/100644/0/0/result.json/5/\nzzzzzzzzzz";

#[test]
fn names_that_lie_about_a_length_fill_no_disk_of_the_host() {
    for (name, text) in [
        ("result.json/5", "1 run: 0 succeeded, 0 failed, 1 without"),
        (LINES, "the file system is damaged"),
    ] {
        let place = Place::new();
        let honest = name.replace(['/', '\n'], "#");
        let file = place.dir("from/gvad/000001-a").join(&honest);
        fs::File::create(file).unwrap().set_len(3 << 30).unwrap();
        // Without checksums anybody can write what he likes.
        let mut mke2fs = place.command("/sbin/mke2fs");
        mke2fs.args(["-q", "-F", "-t", "ext4", "-O", "^metadata_csum"]);
        assert!(
            output(mke2fs.args(["-d", "from", "out.img", "64M"]))
                .status
                .success()
        );
        let mut bytes = fs::read(place.at("out.img")).unwrap();
        let mut windows = bytes.windows(name.len());
        let at = windows
            .position(|found| found == honest.as_bytes())
            .unwrap();
        bytes[at..][..name.len()].copy_from_slice(name.as_bytes());
        place.file("out.img", 0o644, bytes);
        let said = place.gva(&["results", "out.img"]);
        assert!(
            said.out.contains(text) || said.err.contains(text),
            "{} {}",
            said.out,
            said.err
        );
        assert_eq!(place.names(), ["from", "out.img"]);
    }
}

#[test]
fn what_cannot_be_written_on_is_told() {
    let place = Place::new();
    place.file("from/gvad/000001-a/stdout", 0o644, vec![b'x'; 1 << 20]);
    let made = [
        "image", "from", "--role", "output", "-o", "out.img", "--size", "64MiB",
    ];
    place.gva(&made).succeeded();
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut gva = place.command(place.at("gva"));
    gva.args(["results", "out.img", "--stdout", "000001-a"])
        .stdout(full);
    assert_eq!(spawn(&mut gva).wait().unwrap().code(), Some(2));
}

#[test]
fn what_is_no_image_with_results_is_told_in_one_line() {
    let place = Place::new();
    place.job();
    place.file("text", 0o644, "text");
    place.gva(&["image", "job", "-o", "app.img"]).succeeded();
    place
        .gva(&["image", "job", "-o", "app.sqsh", "--squashfs"])
        .succeeded();
    for (image, text) in [
        ("nowhere", "No such file"),
        ("text", "no file system"),
        ("app.sqsh", "squashfs"),
        ("app.img", "neither gvad/"),
        ("job", "no output directory"),
    ] {
        place.gva(&["results", image]).failed(text);
    }
    // Broken in the middle.
    let whole = fs::read(place.at("app.img")).unwrap();
    let mut broken = whole.clone();
    broken[4096..2 << 20].fill(0xa5);
    place.file("broken.img", 0o644, &broken);
    assert_eq!(place.gva(&["results", "broken.img"]).code, Some(2));
    assert_eq!(
        place.names(),
        ["app.img", "app.sqsh", "broken.img", "job", "text"]
    );
}
