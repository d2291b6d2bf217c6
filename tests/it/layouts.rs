//! Which images there are, and what happens when one is missing, full or read-only.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::{
    Fs, Guest, Image, Place, names, results_in, run, sh, wait_until, write_script,
};

const TELL: &str = "#!/bin/sh\nprintf '%s\\n' \"${0##*/}\" >> \"$WITNESS\"\n";
/// Copies the data, tries to write to it, and prints the three directories.
const WORK: &str = "#!/bin/sh\ncp \"$GVA_DATA/input\" \"$GVA_OUTPUT/answer\"\n\
                    touch \"$GVA_DATA/mine\" 2> /dev/null && echo 'data can be written'\n\
                    echo \"$GVA_APPLICATION\" \"$GVA_DATA\" \"$GVA_OUTPUT\"\n";

/// Makes an image with the default label of a role, holding those files, and attaches it.
fn attach_default(guest: &Guest, role: &str, files: &[(&str, &str)]) -> Place {
    let content = guest.path(&format!("content-{role}"));
    fs::create_dir_all(&content).unwrap();
    for (name, body) in files {
        write_script(&content.join(name), body);
    }
    let label = if role == "application" {
        "gva-app".to_owned()
    } else {
        format!("gva-{role}")
    };
    let image = Image::of(
        Fs::Ext4,
        guest.path(&format!("{role}.img")),
        &label,
        &content,
    );
    guest.attach(&image.path, &[]);
    Place::Image(image)
}

fn look<T>(place: &Place, guest: &Guest, act: impl FnOnce(&Path) -> T) -> T {
    let Place::Image(image) = place else {
        panic!("an image")
    };
    image.inside(&guest.path("look"), act)
}

#[test]
fn default_labels_find_separate_images() {
    let Some(guest) = Guest::alone() else { return };
    for role in ["data", "output"] {
        guest.unset(&format!("{role}.wait"));
    }
    let application = attach_default(
        &guest,
        "application",
        &[("script-bin/work", WORK), ("data/input", "wrong\n")],
    );
    attach_default(&guest, "data", &[("input", "42\n")]);
    let output = attach_default(&guest, "output", &[]);
    guest.drain_ok();
    look(&output, &guest, |root| {
        assert_eq!(fs::read_to_string(root.join("answer")).unwrap(), "42\n");
        let results = results_in(root);
        assert_eq!(results.len(), 1);
        let stdout = fs::read_to_string(root.join("gvad/000001-work/stdout")).unwrap();
        let points =
            ["application", "data", "output"].map(|role| guest.text(&format!("mnt/{role}")));
        assert_eq!(stdout.trim(), points.join(" "));
    });
    look(&application, &guest, |root| {
        assert!(!root.join("output/gvad").exists())
    });
    guest.assert_unmounted();
}

#[test]
fn combined_appliance_has_everything_on_one_image() {
    let Some(guest) = Guest::alone() else { return };
    for role in ["data", "output"] {
        guest.unset(&format!("{role}.wait"));
    }
    let application = attach_default(
        &guest,
        "application",
        &[("script-bin/work", WORK), ("data/input", "42\n")],
    );
    guest.drain_ok();
    look(&application, &guest, |root| {
        assert_eq!(
            fs::read_to_string(root.join("output/answer")).unwrap(),
            "42\n"
        );
        assert_eq!(results_in(&root.join("output")).len(), 1);
        assert_eq!(names(&root.join("script-bin")), Vec::<String>::new());
    });
    guest.assert_unmounted();
}

#[test]
fn one_image_for_application_and_data_and_one_for_the_output() {
    let Some(guest) = Guest::alone() else { return };
    attach_default(
        &guest,
        "application",
        &[("script-bin/work", WORK), ("data/input", "42\n")],
    );
    let output = attach_default(&guest, "output", &[]);
    guest.drain_ok();
    look(&output, &guest, |root| {
        assert_eq!(fs::read_to_string(root.join("answer")).unwrap(), "42\n");
        assert_eq!(results_in(root).len(), 1);
    });
}

#[test]
fn one_image_for_application_and_output_and_one_for_the_data() {
    let Some(guest) = Guest::alone() else { return };
    let application = attach_default(&guest, "application", &[("script-bin/work", WORK)]);
    attach_default(&guest, "data", &[("input", "42\n")]);
    guest.drain_ok();
    look(&application, &guest, |root| {
        assert_eq!(
            fs::read_to_string(root.join("output/answer")).unwrap(),
            "42\n"
        );
        let stdout = fs::read_to_string(root.join("output/gvad/000001-work/stdout")).unwrap();
        assert!(!stdout.contains("can be written"), "{stdout}");
    });
}

#[test]
fn required_output_with_the_default_label_is_waited_for() {
    let Some(guest) = Guest::alone() else { return };
    guest.set("output.required", true);
    let application = attach_default(&guest, "application", &[("script-bin/a", TELL)]);
    let ended = guest.drain();
    assert_eq!(ended.code, Some(2), "{ended}");
    assert_eq!(guest.witness(), Vec::<String>::new());
    look(&application, &guest, |root| {
        assert_eq!(names(&root.join("script-bin")), ["a"])
    });
    let daemon = guest.daemon();
    daemon.wait_state("waiting_for_output");
    let output = attach_default(&guest, "output", &[]);
    wait_until("it ran", || guest.witness() == ["a"]);
    daemon.wait_state("idle");
    assert_eq!(daemon.stop(), Some(0));
    look(&output, &guest, |root| {
        assert_eq!(results_in(root).len(), 1)
    });
}

#[test]
fn read_only_application_without_output_records_in_the_state_directory_and_warns() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    write_script(&guest.path("content/script-bin/a"), TELL);
    let image = Image::of(
        Fs::Erofs,
        guest.path("app.erofs"),
        "e",
        &guest.path("content"),
    );
    guest.set_application(Place::Image(image));
    let ended = guest.drain();
    assert_eq!(ended.code, Some(0), "{ended}");
    assert!(
        ended.stderr.contains("WARN") && ended.stderr.contains("state/output"),
        "{ended}"
    );
    assert_eq!(results_in(&guest.path("state/output")).len(), 1);
    guest.drain_ok();
    assert_eq!(guest.witness(), ["a"]);
}

#[test]
fn medium_that_is_read_only_is_mounted_so_by_itself() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.script("a", TELL);
    let device = guest.attach(&guest.path("app.img"), &["--read-only"]);
    guest.set("application.source", device);
    guest.drain_ok();
    guest.drain_ok();
    assert_eq!(guest.witness(), ["a"]);
    assert_eq!(guest.waiting(), ["a"], "it cannot be removed");
    assert_eq!(guest.results().len(), 1);
}

/// Drains, which must fail with 2 and leave the script as it was.
#[track_caller]
pub(crate) fn assert_waits(guest: &Guest, names: &[&str]) {
    let ended = guest.drain();
    assert_eq!(ended.code, Some(2), "{ended}");
    assert!(!ended.stderr.trim().is_empty());
    assert_eq!(guest.witness(), Vec::<String>::new());
    guest.inside(|root| {
        for name in names {
            let text = fs::read_to_string(root.join("script-bin").join(name)).unwrap();
            assert_eq!(text, TELL);
        }
    });
    guest.assert_clean();
}

#[test]
fn named_output_that_is_missing_is_required() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.script("a", TELL);
    guest.set("output.source", format!("LABEL={}", guest.label("late")));
    assert_waits(&guest, &["a"]);
    let daemon = guest.daemon();
    daemon.wait_state("waiting_for_output");
    let image = Image::empty(Fs::Ext4, guest.path("late.img"), &guest.label("late"));
    guest.attach(&image.path, &[]);
    wait_until("it ran", || guest.witness() == ["a"]);
    daemon.wait_state("idle");
    assert_eq!(daemon.stop(), Some(0));
    image.inside(&guest.path("look"), |root| {
        assert_eq!(results_in(root).len(), 1)
    });
}

#[test]
fn drain_takes_forever_as_ten_seconds() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.set(
        "application.source",
        format!("LABEL={}", guest.label("never")),
    );
    let start = std::time::Instant::now();
    let ended = guest.drain();
    assert_eq!(ended.code, Some(2), "{ended}");
    assert!(
        (9..20).contains(&start.elapsed().as_secs()),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn optional_image_that_comes_within_its_wait_is_used() {
    let Some(guest) = Guest::alone() else { return };
    guest.set("output.wait", "25s");
    attach_default(&guest, "application", &[("script-bin/a", TELL)]);
    let daemon = guest.daemon();
    let point = guest.path("mnt/application");
    wait_until("the application is there", || {
        guest.mount_line(&point).is_some()
    });
    let output = attach_default(&guest, "output", &[]);
    wait_until("it ran", || guest.witness() == ["a"]);
    daemon.wait_state("idle");
    assert_eq!(daemon.stop(), Some(0));
    look(&output, &guest, |root| {
        assert_eq!(results_in(root).len(), 1)
    });
}

#[test]
fn results_of_an_idle_appliance_can_be_read_from_a_copy_of_the_image() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    let daemon = guest.daemon();
    guest.hand_over("a", TELL);
    daemon.wait_result("a");
    daemon.wait_state("idle");
    // A reader that does not replay the journal, as tools on the host are.
    wait_until("the result is in the image itself", || {
        sh(&format!(
            "cp --sparse=always '{0}' '{0}.copy'",
            guest.text("output.img")
        ));
        let look = "cat /gvad/000001-a/result.json";
        let copy = guest.text("output.img.copy");
        sh(&format!("debugfs -R '{look}' '{copy}' 2> /dev/null")).contains("\"exited\"")
    });
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn medium_that_turns_out_to_be_read_only_when_it_is_mounted_is_mounted_so() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    fs::create_dir(guest.path("out")).unwrap();
    guest.set_output(Place::Directory(guest.path("out")));
    guest.script("a", TELL);
    for kernel in ["EROFS", "EACCES"] {
        let gvad = guest.gvad(&["drain"]);
        let mut strace = Command::new("strace");
        let inject = format!("inject=mount:error={kernel}:when=1");
        strace.args(["-f", "-o", "/dev/null", "-e", &inject, "--"]);
        let ended = run(strace.arg(gvad.get_program()).args(gvad.get_args()));
        assert_eq!(ended.code, Some(0), "{kernel}: {ended}");
        assert_eq!(guest.witness(), ["a"]);
        assert_eq!(guest.waiting(), ["a"], "{kernel}: it cannot be removed");
    }
    assert_eq!(guest.results().len(), 1);
}
