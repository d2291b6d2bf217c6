//! `application.verify`: only what was signed for this very image is run; all else stays where it is, and the reason is told.

use std::fs::{self, File};
use std::io::Cursor;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use minisign::KeyPair;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::harness::{
    Daemon, Fs, Guest, Host, Image, Place, names, run, sh, tool, wait_until, write_script,
};

const TELL: &str = "#!/bin/sh\nprintf '%s\\n' \"${0##*/}\" >> \"$WITNESS\"\n";

/// A guest on one ext4 image that runs only what this key signs.
fn verifying() -> Option<(Guest, KeyPair)> {
    let guest = Guest::on_image()?;
    let key = key();
    guest.set("application.verify", key.pk.to_base64());
    Some((guest, key))
}

fn key() -> KeyPair {
    KeyPair::generate_unencrypted_keypair().unwrap()
}

/// What the manifest of an image must name.
fn name_of(image: &Path) -> String {
    let mut blkid = Command::new("blkid");
    blkid.args(["-o", "value", "-s", "UUID"]).arg(image);
    format!("UUID={}", tool(&mut blkid).trim())
}

/// The manifest of all that is in script-bin.
fn manifest(root: &Path, image: &str) -> String {
    let sums = sh(&format!(
        "cd '{}/script-bin' && sha256sum -- *",
        root.display()
    ));
    format!("# image: {image}\n{sums}")
}

fn signature(key: &KeyPair, text: &str) -> String {
    let text = Cursor::new(text);
    let signed = minisign::sign(Some(&key.pk), &key.sk, text, None, None);
    signed.unwrap().into_string()
}

/// Signs what is in script-bin, as somebody outside does.
fn sign(root: &Path, key: &KeyPair, image: &str) {
    let text = manifest(root, image);
    for path in [MANIFEST, SIGNATURE] {
        let _ = fs::remove_file(root.join(path));
    }
    fs::write(root.join(MANIFEST), &text).unwrap();
    fs::write(root.join(SIGNATURE), signature(key, &text)).unwrap();
}

const MANIFEST: &str = "script-bin.manifest";
const SIGNATURE: &str = "script-bin.manifest.minisig";

#[test]
fn signed_scripts_run_whatever_their_names() {
    let Some((guest, key)) = verifying() else {
        return;
    };
    let odd = "b \\ \n*#";
    guest.script("a", TELL);
    guest.script(odd, TELL);
    let image = name_of(&guest.path("app.img"));
    guest.inside(|root| sign(root, &key, &image));
    guest.drain_ok();
    assert_eq!(guest.results().len(), 2);
    guest.assert_clean();
}

type Change = fn(&Path);

/// What is done to a signed image with the scripts `a` and `b`, and why `b` is refused then.
const CHANGES: [(&str, Change, &str); 14] = [
    (
        "unsigned",
        unsigned,
        "it is not signed: there is no script-bin.manifest",
    ),
    (
        "no signature",
        no_signature,
        "it is not signed: there is no script-bin.manifest.minisig",
    ),
    (
        "altered",
        altered,
        "its SHA-256 is not the one in script-bin.manifest",
    ),
    ("foreign", foreign, "it is not in script-bin.manifest"),
    (
        "manifest altered",
        manifest_altered,
        "is no signature of script-bin.manifest as it is now",
    ),
    (
        "comment altered",
        comment_altered,
        "is no signature of script-bin.manifest as it is now",
    ),
    (
        "signature damaged",
        damaged,
        "script-bin.manifest.minisig is no signature of minisign",
    ),
    (
        "signature empty",
        empty,
        "script-bin.manifest.minisig is no signature of minisign",
    ),
    (
        "symbolic link",
        link,
        "script-bin.manifest is or lies behind a symbolic link",
    ),
    (
        "FIFO",
        fifo,
        "opening script-bin.manifest: it is not a regular file",
    ),
    (
        "directory",
        directory,
        "opening script-bin.manifest: it is not a regular file",
    ),
    ("huge", huge, "script-bin.manifest is larger than 4096 KiB"),
    (
        "huge signature",
        huge_signature,
        "script-bin.manifest.minisig is larger than 16 KiB",
    ),
    (
        "signature a link",
        signature_link,
        "script-bin.manifest.minisig is or lies behind a symbolic link",
    ),
];

fn unsigned(root: &Path) {
    fs::remove_file(root.join(MANIFEST)).unwrap();
}

fn no_signature(root: &Path) {
    fs::remove_file(root.join(SIGNATURE)).unwrap();
}

fn altered(root: &Path) {
    // As long as before.
    write_script(&root.join("script-bin/b"), &TELL.replace("%s", "%b"));
}

fn foreign(root: &Path) {
    fs::rename(root.join("script-bin/b"), root.join("script-bin/bb")).unwrap();
}

fn manifest_altered(root: &Path) {
    let text = fs::read_to_string(root.join(MANIFEST)).unwrap();
    fs::write(root.join(MANIFEST), format!("{text}# \n")).unwrap();
}

fn comment_altered(root: &Path) {
    let text = fs::read_to_string(root.join(SIGNATURE)).unwrap();
    let other = text.replace("trusted comment: ", "trusted comment: x");
    fs::write(root.join(SIGNATURE), other).unwrap();
}

fn damaged(root: &Path) {
    let text = fs::read(root.join(SIGNATURE)).unwrap();
    fs::write(root.join(SIGNATURE), &text[..text.len() / 2]).unwrap();
}

fn empty(root: &Path) {
    fs::write(root.join(SIGNATURE), "").unwrap();
}

fn link(root: &Path) {
    fs::rename(root.join(MANIFEST), root.join("elsewhere")).unwrap();
    symlink("elsewhere", root.join(MANIFEST)).unwrap();
}

fn fifo(root: &Path) {
    fs::remove_file(root.join(MANIFEST)).unwrap();
    mkfifo(&root.join(MANIFEST), Mode::from_bits_truncate(0o600)).unwrap();
}

fn directory(root: &Path) {
    fs::remove_file(root.join(MANIFEST)).unwrap();
    fs::create_dir(root.join(MANIFEST)).unwrap();
}

fn huge(root: &Path) {
    let file = File::options()
        .write(true)
        .open(root.join(MANIFEST))
        .unwrap();
    file.set_len(10 << 30).unwrap();
}

fn huge_signature(root: &Path) {
    let file = File::options()
        .write(true)
        .open(root.join(SIGNATURE))
        .unwrap();
    file.set_len(10 << 30).unwrap();
}

fn signature_link(root: &Path) {
    fs::rename(root.join(SIGNATURE), root.join("elsewhere")).unwrap();
    symlink("elsewhere", root.join(SIGNATURE)).unwrap();
}

#[test]
fn what_is_not_as_it_was_signed_is_refused_and_stays_where_it_is() {
    for (what, change, reason) in CHANGES {
        let Some((guest, key)) = verifying() else {
            return;
        };
        guest.script("b", TELL);
        let image = name_of(&guest.path("app.img"));
        guest.inside(|root| {
            sign(root, &key, &image);
            change(root);
        });
        let there = guest.waiting();
        let ended = guest.drain();
        assert_eq!(ended.code, Some(2), "{what}: {ended}");
        assert!(ended.stderr.contains(reason), "{what}: {ended}");
        assert_eq!(guest.witness(), Vec::<String>::new(), "{what}");
        assert_eq!(guest.waiting(), there, "{what}: it stays");
        assert!(guest.results().is_empty(), "{what}: it has no result");
        // Signed anew, it runs: nothing was remembered against it.
        guest.inside(|root| {
            let _ = fs::remove_dir(root.join(MANIFEST));
            sign(root, &key, &image);
        });
        guest.drain_ok();
        assert_eq!(guest.witness(), there, "{what}");
        guest.assert_clean();
    }
}

#[test]
fn one_altered_script_keeps_no_other_from_running() {
    let Some((guest, key)) = verifying() else {
        return;
    };
    for name in ["a", "b", "c"] {
        guest.script(name, TELL);
    }
    let image = name_of(&guest.path("app.img"));
    guest.inside(|root| {
        sign(root, &key, &image);
        altered(root);
    });
    let ended = guest.drain();
    assert_eq!(ended.code, Some(2), "{ended}");
    assert_eq!(guest.witness(), ["a", "c"]);
    assert_eq!(guest.waiting(), ["b"]);
    guest.assert_clean();
}

#[test]
fn manifest_that_another_key_signed_is_refused() {
    let Some((guest, _)) = verifying() else {
        return;
    };
    guest.script("a", TELL);
    let image = name_of(&guest.path("app.img"));
    guest.inside(|root| sign(root, &key(), &image));
    let ended = guest.drain();
    assert_eq!(ended.code, Some(2), "{ended}");
    let reason = "was made with another key than that of application.verify";
    assert!(ended.stderr.contains(reason), "{ended}");
    assert_eq!(guest.waiting(), ["a"]);
    assert_eq!(guest.witness(), Vec::<String>::new());
}

#[test]
fn manifest_of_another_image_is_refused_with_all_its_scripts() {
    let Some((guest, key)) = verifying() else {
        return;
    };
    let other = Image::empty(Fs::Ext4, guest.path("other.img"), "other");
    let scripts = guest.path("scripts");
    other.inside(&guest.path("edit"), |root| {
        write_script(&root.join("script-bin/a"), TELL);
        sign(root, &key, &name_of(&other.path));
        sh(&format!(
            "cp -a '{}' '{}'",
            root.display(),
            scripts.display()
        ));
    });
    // Everything but the file system itself is the other image's.
    guest.inside(|root| {
        sh(&format!(
            "cp -a '{}'/script* '{}'",
            scripts.display(),
            root.display()
        ))
    });
    let ended = guest.drain();
    assert_eq!(ended.code, Some(2), "{ended}");
    let (there, here) = (name_of(&other.path), name_of(&guest.path("app.img")));
    let reason = format!("it is for the image {there}, and this is {here}");
    assert!(ended.stderr.contains(&reason), "{reason}: {ended}");
    assert_eq!(guest.witness(), Vec::<String>::new());
}

#[test]
fn image_without_uuid_is_bound_by_its_source() {
    let Some((guest, key)) = verifying() else {
        return;
    };
    let tree = guest.path("tree");
    write_script(&tree.join("script-bin/a"), TELL);
    guest.add_output_image(Fs::Ext4);
    let place = guest.path("app.sqfs");
    for (source, code) in [("/elsewhere", Some(2)), (place.to_str().unwrap(), Some(0))] {
        sign(&tree, &key, &format!("SOURCE={source}"));
        let image = Image::of(Fs::Squashfs, place.clone(), "none", &tree);
        guest.set_application(Place::Image(image));
        let ended = guest.drain();
        assert_eq!(ended.code, code, "{source}: {ended}");
    }
    assert_eq!(guest.witness(), ["a"]);
}

#[test]
fn refused_script_is_told_and_runs_when_its_manifest_comes() {
    let Some((guest, key)) = verifying() else {
        return;
    };
    let host = Host::new(&guest);
    guest.script("a", TELL);
    let image = name_of(&guest.path("app.img"));
    guest.inside(|root| sign(root, &key, &image));
    let daemon = guest.daemon();
    daemon.wait_result("a");
    guest.hand_over("b", TELL);
    let told = host.wait("the refusal", |line| line["event"] == "error");
    assert_eq!(
        told["message"],
        "b: refused: it is not in script-bin.manifest"
    );
    let passed = |reason: &str| {
        let status = daemon.status();
        let one = &status["passed_over"][0];
        one["name"] == "b" && one["reason"].as_str().unwrap().contains(reason)
    };
    wait_until("the status has it", || {
        passed("it is not in script-bin.manifest")
    });
    // Half of the pair: nothing runs, and nothing is given up.
    let root = guest.live();
    let text = manifest(&root, &image);
    fs::write(root.join(MANIFEST), &text).unwrap();
    wait_until("the new manifest was read", || passed("as it is now"));
    fs::write(root.join(SIGNATURE), signature(&key, &text)).unwrap();
    assert_eq!(daemon.wait_result("b")["success"], true);
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(guest.witness(), ["a", "b"]);
    guest.assert_clean();
}

#[test]
fn drain_waits_for_the_other_half_of_a_changed_manifest() {
    let Some((guest, key)) = verifying() else {
        return;
    };
    let new = guest.path("new");
    write_script(&new.join("script-bin/b"), TELL);
    let image = name_of(&guest.path("app.img"));
    sign(&new, &key, &image);
    let body = format!(
        "#!/bin/sh\ncd '{}' && cp {MANIFEST} $GVA_APPLICATION && cp script-bin/b $GVA_APPLICATION/script-bin\n",
        new.display()
    );
    guest.script("a", &body);
    guest.inside(|root| sign(root, &key, &image));
    let drain = Daemon::start(&guest, guest.gvad(&["drain"]));
    drain.wait_log("no signature of script-bin.manifest as it is now");
    fs::copy(new.join(SIGNATURE), guest.live().join(SIGNATURE)).unwrap();
    assert_eq!(drain.wait(), Some(0));
    assert_eq!(guest.witness(), ["b"]);
    guest.assert_clean();
}

/// The signed script `b`, as a gvad leaves it that is killed between its claim and its start.
fn claimed(guest: &Guest, key: &KeyPair, image: &str) -> PathBuf {
    guest.script("b", TELL);
    guest.inside(|root| sign(root, key, image));
    // Killed when it is about to make a directory, again and again, until that is the private one of the claimed script.
    let claims = guest.live().join("script-bin/.gvad");
    let claim = (1..20).find_map(|when| {
        let gvad = guest.gvad(&["drain"]);
        let mut strace = Command::new("strace");
        let inject = format!("inject=mkdir:signal=SIGKILL:when={when}");
        strace.args(["-o", "/dev/null", "-e", &inject, "--"]);
        run(strace.arg(gvad.get_program()).args(gvad.get_args()));
        let ledger = names(&claims).into_iter().next()?;
        Some(claims.join(ledger).join("b")).filter(|claim| claim.exists())
    });
    claim.unwrap()
}

#[test]
fn claimed_script_that_was_altered_before_it_started_is_given_back() {
    let Some((guest, key)) = verifying() else {
        return;
    };
    let image = name_of(&guest.path("app.img"));
    let claim = claimed(&guest, &key, &image);
    write_script(&claim, &TELL.replace("%s", "%b"));
    let ended = guest.drain();
    assert_eq!(ended.code, Some(2), "{ended}");
    assert_eq!(guest.waiting(), ["b"]);
    assert_eq!(guest.witness(), Vec::<String>::new());
    guest.inside(|root| sign(root, &key, &image));
    guest.drain_ok();
    assert_eq!(guest.witness(), ["b"]);
    guest.assert_clean();
}

#[test]
fn claimed_script_is_given_back_beside_a_new_one_of_its_name() {
    let Some((guest, key)) = verifying() else {
        return;
    };
    let image = name_of(&guest.path("app.img"));
    claimed(&guest, &key, &image);
    // Handed over anew before it had its turn, with a manifest that knows the new one alone.
    let root = guest.live();
    let new = TELL.replace("%s", "new %s");
    write_script(&root.join("script-bin/b"), &new);
    sign(&root, &key, &image);
    let ended = guest.drain();
    assert_eq!(ended.code, Some(2), "{ended}");
    assert_eq!(guest.witness(), ["new b"], "{ended}");
    assert_eq!(guest.waiting(), ["b.refused-1"]);
    assert!(
        ended.stderr.contains("given back as b.refused-1"),
        "{ended}"
    );
    guest.inside(|root| sign(root, &key, &image));
    guest.drain_ok();
    assert_eq!(guest.witness(), ["new b", "b.refused-1"]);
    guest.assert_clean();
}

#[test]
fn without_a_key_nothing_is_looked_for() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.script("a", TELL);
    guest.inside(|root| {
        fs::write(root.join(MANIFEST), "junk").unwrap();
        fs::set_permissions(root.join(MANIFEST), fs::Permissions::from_mode(0o000)).unwrap();
    });
    guest.drain_ok();
    assert_eq!(guest.witness(), ["a"]);
}
