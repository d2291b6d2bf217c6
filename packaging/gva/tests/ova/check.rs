//! `gva check` and packages that are made to harm: refused, told, bounded.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::fixture::{file, packed, said, succeeded};

#[test]
fn one_fault_gives_one_line() {
    let (shop, mut parts) = packed();
    parts.member("-output.vmdk").content[70_000] ^= 1;
    parts.write(&shop.path("wrong.ova"));
    let (_, text) = said(&shop.gva(&["check", "wrong.ova"]));
    assert_eq!(text.lines().count(), 1, "{text}");
}

#[test]
fn a_certificate_behind_the_manifest_is_no_fault() {
    let (shop, mut parts) = packed();
    parts.0.insert(2, file("job.cert"));
    parts.write(&shop.path("signed.ova"));
    succeeded(&shop.gva(&["check", "signed.ova"]));
}

#[test]
fn a_package_that_was_cut_off_anywhere_is_refused() {
    let (shop, _) = packed();
    let whole = fs::read(shop.path("job.ova")).unwrap();
    for length in [
        whole.len() - 1024,
        whole.len() - 2000,
        whole.len() / 2,
        100_000,
        7000,
        5000,
        700,
    ] {
        fs::write(shop.path("cut.ova"), &whole[..length]).unwrap();
        let (status, text) = said(&shop.gva(&["check", "cut.ova"]));
        assert!(status == 1 || status == 2, "{length}: {text}");
        assert!(
            text.contains("cut off") || text.contains("not a tar"),
            "{length}: {text}"
        );
    }
}

#[test]
fn what_follows_the_end_is_told() {
    let (shop, _) = packed();
    let mut file = OpenOptions::new()
        .append(true)
        .open(shop.path("job.ova"))
        .unwrap();
    file.write_all(b"more").unwrap();
    let (status, text) = said(&shop.gva(&["check", "job.ova"]));
    assert!(
        status == 1 && text.contains("something follows after its last file"),
        "{text}"
    );
    file.set_len(1 << 40).unwrap();
    let (status, text) = said(&shop.gva(&["check", "job.ova"]));
    assert!(
        status == 1 && text.contains("bytes follow after its last file"),
        "{text}"
    );
}

#[test]
fn a_size_beyond_the_form_or_the_file_is_told() {
    let (shop, sound) = packed();
    sound.write(&shop.path("huge.ova"));
    let mut bytes = fs::read(shop.path("huge.ova")).unwrap();
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes().copy_from_slice(&bytes[..512]);
    for size in [u64::MAX >> 1, 8 << 30, 1 << 40, u64::MAX] {
        header.set_size(size);
        header.set_cksum();
        bytes[..512].copy_from_slice(header.as_bytes());
        fs::write(shop.path("huge.ova"), &bytes).unwrap();
        let (status, text) = said(&shop.gva(&["check", "huge.ova"]));
        assert!(status == 1 || status == 2, "{size}: {text}");
        assert!(!text.contains("panicked"), "{text}");
    }
}

#[test]
fn what_is_no_package_is_refused_in_one_line_and_at_once() {
    let (shop, sound) = packed();
    let with_descriptor = |name: &str, text: &str| -> PathBuf {
        let mut parts = sound.clone();
        parts.member(".ovf").content = text.as_bytes().to_vec();
        parts.list();
        parts.write(&shop.path(name));
        shop.path(name)
    };
    with_descriptor(
        "bomb.ova",
        "<!DOCTYPE a [<!ENTITY b \"bb\">]><Envelope>&b;</Envelope>",
    );
    with_descriptor("deep.ova", &"<a>".repeat(80_000));
    let wide: String = (0..30_000)
        .map(|number| format!(" a{number}=\"\""))
        .collect();
    with_descriptor("wide.ova", &format!("<Envelope{}", &wide[..250_000]));
    with_descriptor("long.ova", &" ".repeat(300_000));
    with_descriptor("html.ova", "<html/>");
    with_descriptor("binary.ova", "\0");
    let mut parts = sound.clone();
    parts.0.retain(|member| !member.name.ends_with(".ovf"));
    parts.write(&shop.path("headless.ova"));
    fs::write(shop.path("empty.ova"), "").unwrap();
    fs::write(shop.path("text.ova"), "x".repeat(10_000)).unwrap();
    fs::write(shop.path("zeros.ova"), [0; 10_240]).unwrap();
    fs::create_dir(shop.path("directory.ova")).unwrap();
    let made = Command::new("mkfifo").arg(shop.path("fifo.ova")).status();
    assert!(made.unwrap().success());
    let table = [
        ("bomb.ova", "DTD"),
        ("deep.ova", "nodes limit"),
        ("wide.ova", "XML"),
        ("long.ova", "no more than 262144 are read"),
        ("html.ova", "no OVF Envelope"),
        ("binary.ova", "XML"),
        ("headless.ova", "it has no descriptor"),
        ("empty.ova", "no file in it"),
        ("text.ova", "it is not a tar"),
        ("zeros.ova", "no file in it"),
        ("directory.ova", "it is not a plain file"),
        ("fifo.ova", "it is not a plain file"),
        ("nowhere.ova", "No such file"),
    ];
    for (name, line) in table {
        let begin = Instant::now();
        let (status, text) = said(&shop.gva(&["check", name]));
        assert!(
            status == 2 && text.contains(line),
            "{name}: {status}, {text}"
        );
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "{name}: {:?}",
            begin.elapsed()
        );
    }
}
