//! Labels of images, and images of which more than one answers to what the configuration names.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::process::Command;

use crate::frame::{Expect, TELL, exits, neighbour_waits, on_the_page, ran, that};
use crate::harness::{Fs, Guest, Image, Place, sh, tool, write_script};
use crate::images::complains;

/// Six characters that no other test's labels have.
fn unique(guest: &Guest) -> String {
    guest.label("").trim_start_matches('-').to_owned()
}

/// The application's label becomes `label`, its device is attached, and the source is this; `$U` in both is what no other test has.
fn labelled(label: &'static [u8], source: &'static str) -> impl FnOnce(&Guest) {
    move |guest| {
        let unique = unique(guest);
        let mut bytes = Vec::new();
        for part in label.split_inclusive(|&byte| byte == b'$') {
            bytes.extend_from_slice(part.strip_suffix(b"$").unwrap_or(part));
            if part.ends_with(b"$") {
                bytes.extend_from_slice(unique.as_bytes());
            }
        }
        let mut tune2fs = Command::new("tune2fs");
        tool(
            tune2fs
                .arg("-L")
                .arg(OsString::from_vec(bytes))
                .arg(guest.path("app.img")),
        );
        attached(guest, &source.replace('$', &unique));
    }
}

fn attached(guest: &Guest, source: &str) {
    guest.attach(&guest.path("app.img"), &[]);
    guest.set("application.source", source);
    guest.set("application.wait", "500ms");
}

fn by_path(guest: &Guest) {
    let device = sh(&format!(
        "losetup -n -O NAME -j '{}'",
        guest.text("app.img")
    ));
    guest.detach(device.trim());
    guest.set("application.source", guest.text("app.img"));
}

rows! { Guest::with_output_image();
    label_as_long_as_can_be: labelled(b"0123456789$", "LABEL=0123456789$") => [], cure: by_path;
    label_with_a_line_feed: labelled(b"a\n$", "LABEL=a\n$") => [on_the_page(", from LABEL=a\\n")], cure: by_path;
    label_that_leads_out: labelled(b"../$/..", "LABEL=../$/..") => [], cure: by_path;
    label_that_is_absolute: labelled(b"/dev/$", "LABEL=/dev/$") => [], cure: by_path;
    label_with_blanks: labelled(b"a b  $", "LABEL=a b  $") => [], cure: by_path;
    label_with_blanks_at_its_beginning: labelled(b"  $", "LABEL=  $") => [], cure: by_path;
    label_with_blanks_at_its_end: labelled(b"$  \t", "LABEL=$") => [], cure: by_path;
    label_in_quotes: labelled(b"a $", "LABEL=\"a $\"") => [], cure: by_path;
    label_with_quotes_in_it: labelled(b"a\"'$", "LABEL=a\"'$") => [], cure: by_path;
    label_that_a_shell_would_run: labelled(b"`id`;$", "LABEL=`id`;$") => [], cure: by_path;
    label_that_looks_like_a_source: labelled(b"UUID=$", "LABEL=UUID=$") => [], cure: by_path;
    label_with_terminal_escapes: labelled(b"\x1b[2J\x07$", "LABEL=\u{1b}[2J\u{7}$") => [on_the_page(", from LABEL=\\u{1b}[2J\\u{7}")], cure: by_path;
    label_that_is_no_text: labelled(b"\xff\xfe$", "LABEL=??$") => [], cure: by_path;
    label_in_another_script: labelled("äö日$".as_bytes(), "LABEL=äö日$") => [], cure: by_path;
    label_of_other_case: labelled(b"abc$", "LABEL=ABC$") => [exits(2), neighbour_waits(), complains(&["no application image LABEL=ABC", "after waiting 500ms"])], cure: by_path;
    label_that_only_begins_so: labelled(b"abc$", "LABEL=abc") => [exits(2), neighbour_waits(), complains(&["no application image LABEL=abc after waiting 500ms"])], cure: by_path;
    label_that_is_a_uuid: labelled(b"$", "UUID=$") => [exits(2), neighbour_waits(), complains(&["no application image UUID="])], cure: by_path;
    identity_in_capitals: |guest: &Guest| {
        let uuid = sh(&format!("blkid -p -o value -s UUID '{}'", guest.text("app.img")));
        attached(guest, &format!("UUID={}", uuid.trim().to_uppercase()));
    } => [], cure: by_path;
    output_label_that_two_devices_have: |guest: &Guest| two(guest, "output") => [exits(2), neighbour_waits(), both_named(), complains(&["output image LABEL=two-", " match: which of them is meant?"])],
        cure: |guest| guest.set("output.source", guest.text("output.img"));
    data_label_that_two_devices_have: |guest: &Guest| two(guest, "data") => [exits(2), neighbour_waits(), both_named(), complains(&["data image LABEL=two-", " match: which of them is meant?"])],
        cure: |guest| guest.unset("data.source");
    application_label_that_two_devices_have: |guest: &Guest| {
        write_script(&guest.path("content/script-bin/second"), TELL);
        let second = Image::of(Fs::Ext4, guest.path("second.img"), &guest.label("app"), &guest.path("content"));
        attached(guest, &format!("LABEL={}", guest.label("app")));
        guest.attach(&second.path, &[]);
    } => [ran(["second"])], cure: by_path;
}

/// Two devices with one label, which is the source of that image.
fn two(guest: &Guest, role: &str) {
    let image = Image::empty(Fs::Ext4, guest.path("one.img"), &guest.label("two"));
    fs::copy(&image.path, guest.path("two.img")).unwrap();
    for image in ["one.img", "two.img"] {
        let device = guest.attach(&guest.path(image), &[]);
        fs::write(guest.path(&format!("{image}.device")), device).unwrap();
    }
    guest.set(
        &format!("{role}.source"),
        format!("LABEL={}", guest.label("two")),
    );
}

fn both_named() -> Expect {
    that(|seen| {
        let last = seen.ended.stderr.lines().last().unwrap();
        for image in ["one.img", "two.img"] {
            let device = fs::read_to_string(seen.guest.path(&format!("{image}.device"))).unwrap();
            assert!(last.contains(&device), "{device} in {last}");
        }
    })
}

/// Other types' longest labels.
#[track_caller]
fn longest(fs: Fs, length: usize) {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    let label = format!("{}{}", "L".repeat(length - 6), unique(&guest));
    let image = Image::empty(fs, guest.path("long.img"), &label);
    guest.attach(&image.path, &[]);
    guest.set_application(Place::Image(image));
    guest.script("a", TELL);
    guest.set("application.source", format!("LABEL={label}"));
    guest.drain_ok();
    assert_eq!(guest.witness(), ["a"]);
    guest.assert_clean();
    guest.set("application.source", format!("LABEL={}", &label[1..]));
    guest.set("application.wait", "300ms");
    let ended = guest.drain();
    assert_eq!(ended.code, Some(2), "a part of it is another: {ended}");
}

cases! { longest {
    longest_label_of_xfs: (Fs::Xfs, 12),
    longest_label_of_btrfs: (Fs::Btrfs, 254),
} }
