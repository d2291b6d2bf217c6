//! `gva image`.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use crate::harness::{Place, output};

/// Mode, owner and group of a file in an ext4 image.
fn look(place: &Place, image: &str, path: &str) -> (String, String) {
    let text = place.debugfs(&["-R", &format!("stat {path}"), image]);
    let words: Vec<&str> = text.split_whitespace().collect();
    let after = |name: &str| {
        let at = words.iter().position(|word| *word == name).unwrap();
        words[at + 1].to_owned()
    };
    let owner = format!("{}:{}", after("User:"), after("Group:"));
    (after("Mode:"), owner)
}

fn label(place: &Place, image: &str) -> String {
    let said = place.debugfs(&["-R", "stats", image]);
    let line = said.lines().find(|line| line.contains("volume name"));
    line.unwrap().split_whitespace().last().unwrap().to_owned()
}

#[test]
fn files_belong_to_root_and_keep_their_modes() {
    let place = Place::new();
    place.job();
    place.file("job/data/plain", 0o640, "x");
    place.file("job/data/own", 0o4711, "x");
    for number in 0..2000 {
        place.file(&format!("job/many/{number}"), 0o644, "");
    }
    symlink("/nowhere", place.at("job/link")).unwrap();
    place.gva(&["image", "job", "-o", "app.img"]).succeeded();
    let root = "0:0".to_owned();
    for (path, mode) in [
        ("/", "0755"),
        ("/script-bin", "0755"),
        ("/script-bin/a.sh", "0755"),
        ("/data/plain", "0640"),
        ("/data/own", "04711"),
        ("/many/0", "0644"),
        ("/many/1999", "0644"),
        ("/link", "0777"),
    ] {
        assert_eq!(
            look(&place, "app.img", path),
            (mode.into(), root.clone()),
            "{path}"
        );
    }
    assert_eq!(label(&place, "app.img"), "gva-app");
    let checked = output(place.command("/sbin/e2fsck").args(["-fn", "app.img"]));
    assert!(checked.status.success());
    assert_eq!(place.names(), ["app.img", "job"]);
}

#[test]
fn an_empty_image_takes_hardly_any_room_on_the_host() {
    let place = Place::new();
    place
        .gva(&["image", "--role", "output", "-o", "out.img"])
        .succeeded();
    let found = fs::metadata(place.at("out.img")).unwrap();
    assert!(found.len() >= 1 << 30);
    assert!(found.blocks() * 512 < 4 << 20, "{}", found.blocks() * 512);
    let checked = output(place.command("/sbin/e2fsck").args(["-fn", "out.img"]));
    assert!(checked.status.success());
}

#[test]
fn the_label_follows_the_role_and_an_output_image_may_be_empty() {
    let place = Place::new();
    place.file("things/x", 0o644, "x");
    place
        .gva(&["image", "--role", "output", "-o", "out.img"])
        .succeeded();
    assert_eq!(label(&place, "out.img"), "gva-output");
    place
        .gva(&["image", "things", "--role", "data", "-o", "data.img"])
        .succeeded();
    assert_eq!(label(&place, "data.img"), "gva-data");
    place
        .gva(&[
            "image", "things", "--role", "data", "-o", "own.img", "--label", "mine", "--size",
            "64MiB",
        ])
        .succeeded();
    assert_eq!(label(&place, "own.img"), "mine");
    assert_eq!(fs::metadata(place.at("own.img")).unwrap().len(), 64 << 20);
}

#[test]
fn read_only_media_keep_names_and_execute_bits() {
    let place = Place::new();
    place.job();
    let name = "a name with spaces, and Capitals.and.dots";
    place.file(&format!("job/script-bin/{name}"), 0o755, "#!/bin/sh\n");
    place.file("job/plain", 0o644, "x");
    place
        .gva(&["image", "job", "-o", "app.iso", "--iso"])
        .succeeded();
    let output = output(
        place
            .command("xorriso")
            .args(["-indev", "app.iso", "-find", "/", "-exec", "lsdl"]),
    );
    let listing = String::from_utf8_lossy(&output.stdout);
    let line = |name: &str| listing.lines().find(|line| line.contains(name)).unwrap();
    assert!(line(name).starts_with("-r-xr-xr-x"), "{listing}");
    assert!(line("/plain").starts_with("-r--r--r--"), "{listing}");
    assert!(
        line("/plain").split_whitespace().nth(2) == Some("0"),
        "{listing}"
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("'gva-app'"), "{said}");

    place
        .gva(&["image", "job", "-o", "app.sqsh", "--squashfs"])
        .succeeded();
    let output = crate::harness::output(place.command("unsquashfs").args(["-ll", "app.sqsh"]));
    let listing = String::from_utf8_lossy(&output.stdout);
    let script = listing.lines().find(|line| line.contains("a.sh")).unwrap();
    assert!(script.starts_with("-rwxr-xr-x root/root"), "{listing}");
}

#[test]
fn what_is_there_is_only_replaced_when_told_to() {
    let place = Place::new();
    place.job();
    place.file("app.img", 0o644, "precious");
    place
        .gva(&["image", "job", "-o", "app.img"])
        .failed("--force");
    assert_eq!(fs::read(place.at("app.img")).unwrap(), b"precious");
    place
        .gva(&["image", "job", "-o", "app.img", "--force"])
        .succeeded();
    assert_eq!(label(&place, "app.img"), "gva-app");
    place.dir("taken");
    place
        .gva(&["image", "job", "-o", "taken", "--force"])
        .failed("no regular file");
}

#[test]
fn wrong_input_is_one_line_and_leaves_nothing() {
    let place = Place::new();
    place.job();
    place.dir("empty");
    place.file("big/script-bin/a.sh", 0o755, vec![b'x'; 30 << 20]);
    for (args, text) in [
        (&["image", "nowhere", "-o", "x"][..], "nowhere"),
        (&["image", "empty", "-o", "x"], "script-bin"),
        (&["image", "-o", "x"], "needs a directory"),
        (&["image", "job/script-bin/a.sh", "-o", "x"], "no directory"),
        (&["image", "job", "-o", "job/x"], "in itself"),
        (&["image", "job", "-o", "nowhere/x"], "nowhere"),
        (
            &["image", "job", "-o", "x", "--label", "longer-than-sixteen"],
            "16 bytes",
        ),
        (&["image", "job", "-o", "x", "--label", ""], "16 bytes"),
        (&["image", "job", "-o", "x", "--size", "1MiB"], "16MiB"),
        (&["image", "job", "-o", "x", "--size", "many"], "not a size"),
        (&["image", "big", "-o", "x", "--size", "20MiB"], "too small"),
        (
            &["image", "job", "-o", "x", "--iso", "--label", "no space"],
            "letters",
        ),
        (
            &["image", "--role", "output", "-o", "x", "--iso"],
            "name a directory",
        ),
        (&["image", "job"], "--output"),
        (&["picture"], "gva --help"),
    ] {
        place.gva(args).failed(text);
        assert_eq!(place.names(), ["big", "empty", "job"], "{args:?}");
    }
}

#[test]
fn a_missing_tool_is_named_with_its_package() {
    let place = Place::new();
    place.job();
    let mut command = place.command(place.at("gva"));
    command
        .args(["image", "job", "-o", "x", "--squashfs"])
        .env("PATH", place.at("job"));
    let output = output(&mut command);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("no program mksquashfs; install the package squashfs-tools"),
        "{said}"
    );
    assert_eq!(place.names(), ["job"]);
}

#[test]
fn an_image_without_an_executable_script_is_warned_of() {
    let place = Place::new();
    place.file("job/script-bin/a.sh", 0o644, "#!/bin/sh\n");
    let said = place.gva(&["image", "job", "-o", "app.img"]);
    assert_eq!(said.code, Some(0));
    assert!(said.err.contains("chmod +x"), "{}", said.err);
}

#[test]
fn a_signal_that_is_ignored_changes_nothing() {
    let place = Place::new();
    place.job();
    let mke2fs = "#!/bin/sh\nkill -HUP $PPID\n$WAIT\nexec /sbin/mke2fs \"$@\"\n";
    place.file("bin/mke2fs", 0o755, mke2fs);
    for (ignores, code, made) in [
        (&[][..], None, false),
        (&["--ignore-signal=HUP"], Some(0), true),
    ] {
        let mut command = place.command("env");
        let path = format!("PATH={}:/usr/bin:/bin", place.at("bin").display());
        let wait = if made { "true" } else { "exec sleep 1000" };
        command.env("WAIT", wait);
        command
            .arg("--default-signal=HUP")
            .args(ignores)
            .arg(path)
            .arg(place.at("gva"));
        let ended = output(command.args(["image", "job", "-o", "app.img"]));
        assert_eq!(ended.status.code(), code);
        assert_eq!(place.at("app.img").exists(), made);
        assert!(place.names().iter().all(|name| !name.starts_with(".gva")));
    }
}

#[test]
fn an_image_in_use_is_not_replaced() {
    let place = Place::new();
    place.job();
    place.gva(&["image", "job", "-o", "app.img"]).succeeded();
    let file = fs::File::open(place.at("app.img")).unwrap();
    file.lock().unwrap();
    place
        .gva(&["image", "job", "-o", "app.img", "--force"])
        .failed("app.img is in use by a run");
}
