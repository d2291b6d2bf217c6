//! `gva pack`.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fixture::{Parts, Workshop, said, succeeded};

#[test]
fn the_same_inputs_give_the_same_bytes() {
    let shop = Workshop::new();
    let parameters = [
        "--name", "job", "--param", "index=1", "--memory", "1GiB", "-o",
    ];
    succeeded(&shop.pack(&[&parameters[..], &["one.ova"]].concat()));
    // Where the holes of a sparse file are, and when it was written, is nobody's business.
    for image in ["base.img", "app.img"] {
        let content = fs::read(shop.path(image)).unwrap();
        fs::remove_file(shop.path(image)).unwrap();
        fs::write(shop.path(image), content).unwrap();
    }
    succeeded(&shop.pack(&[&parameters[..], &["two.ova"]].concat()));
    let read = |name| fs::read(shop.path(name)).unwrap();
    assert!(read("one.ova") == read("two.ova"), "the packages differ");
}

#[test]
fn the_time_in_a_package_is_the_given_one_and_owner_and_mode_are_fixed() {
    let shop = Workshop::new();
    let arguments = [
        "pack",
        "--base",
        "base.img",
        "--application",
        "app.img",
        "-o",
        "job.ova",
    ];
    let mut command = shop.command(&arguments);
    succeeded(
        &command
            .env("SOURCE_DATE_EPOCH", "1234567890")
            .output()
            .unwrap(),
    );
    let mut archive = tar::Archive::new(File::open(shop.path("job.ova")).unwrap());
    for entry in archive.entries().unwrap() {
        let entry = entry.unwrap();
        let header = entry.header();
        assert!(header.as_ustar().is_some());
        assert_eq!(header.mtime().unwrap(), 1_234_567_890);
        assert_eq!(header.mode().unwrap(), 0o644);
        assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
    }
}

#[test]
fn a_package_holds_descriptor_manifest_and_disks_in_this_order_and_is_sound() {
    let shop = Workshop::new();
    shop.labelled("data.img", "gva-data");
    succeeded(&shop.pack(&["--data", "data.img", "--param", "a=1", "-o", "job.ova"]));
    let names = [
        "job.ovf",
        "job.mf",
        "job-base.vmdk",
        "job-application.vmdk",
        "job-data.vmdk",
        "job-output.vmdk",
    ];
    assert_eq!(Parts::read(&shop.path("job.ova")).names(), names);
    let checked = shop.gva(&["check", "job.ova"]);
    assert_eq!(
        said(&checked),
        (0, "job.ova: sound: job, 4 disks, 1 parameters\n".to_owned())
    );
    let mode = shop
        .path("job.ova")
        .metadata()
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o600, 0o600);
    assert_eq!(shop.names(), ["app.img", "base.img", "data.img", "job.ova"]);
}

#[test]
fn a_directory_holds_the_same_files() {
    let shop = Workshop::new();
    succeeded(&shop.pack(&["-o", "job.ova"]));
    succeeded(&shop.pack(&["--ovf", "job"]));
    for member in Parts::read(&shop.path("job.ova")).0 {
        let content = fs::read(shop.path("job").join(&member.name)).unwrap();
        assert!(content == member.content, "{} differs", member.name);
    }
    succeeded(&shop.gva(&["check", "job/job.ovf"]));
    fs::write(shop.path("job/job-output.vmdk"), "x").unwrap();
    assert_eq!(said(&shop.gva(&["check", "job/job.ovf"])).0, 1);
}

#[test]
fn the_disks_are_what_was_packed_and_end_with_a_marker() {
    let shop = Workshop::new();
    succeeded(&shop.pack(&["-o", "job.ova"]));
    let mut parts = Parts::read(&shop.path("job.ova"));
    let mut ids = Vec::new();
    for (role, image) in [("base", "base.img"), ("application", "app.img")] {
        let content = parts.member(&format!("-{role}.vmdk")).content.clone();
        // What qemu-img writes itself has no marker.
        let bare = shop.path("bare.vmdk");
        let mut command = Command::new("qemu-img");
        command.args(["convert", "-O", "vmdk", "-o", "subformat=streamOptimized"]);
        command.args(["-f", "raw"]).arg(shop.path(image)).arg(&bare);
        succeeded(&command.output().unwrap());
        let bare = usize::try_from(bare.metadata().unwrap().len()).unwrap();
        assert_eq!(content.len(), bare.next_multiple_of(512) + 512);
        assert!(content[content.len() - 512..].iter().all(|byte| *byte == 0));
        let text = String::from_utf8_lossy(&content[512..1024]).into_owned();
        let id = text.lines().find_map(|line| line.strip_prefix("CID="));
        ids.push(id.unwrap().to_owned());
        let disk = shop.path("disk.vmdk");
        fs::write(&disk, content).unwrap();
        let mut command = Command::new("qemu-img");
        command.args(["compare", "-f", "raw", "-F", "vmdk"]);
        succeeded(&command.arg(shop.path(image)).arg(&disk).output().unwrap());
    }
    assert!(
        ids.iter().all(|id| id.len() == 8) && ids[0] != ids[1],
        "{ids:?}"
    );
}

#[test]
fn the_output_disk_is_an_empty_labelled_file_system() {
    let shop = Workshop::new();
    succeeded(&shop.pack(&["-o", "job.ova"]));
    let disk = shop.path("output.vmdk");
    fs::write(
        &disk,
        &Parts::read(&shop.path("job.ova"))
            .member("-output.vmdk")
            .content,
    )
    .unwrap();
    let raw = shop.path("output.img");
    let mut command = Command::new("qemu-img");
    command
        .args(["convert", "-f", "vmdk", "-O", "raw"])
        .arg(&disk)
        .arg(&raw);
    succeeded(&command.output().unwrap());
    assert_eq!(raw.metadata().unwrap().len(), 16 << 20);
    let mut superblock = [0; 1024];
    let raw = File::open(&raw).unwrap();
    raw.read_exact_at(&mut superblock, 1024).unwrap();
    assert_eq!(&superblock[120..130], b"gva-output");
    assert!(superblock[92] & 0x04 != 0, "it has no journal");
    assert!(superblock[96] & 0x40 != 0, "it has no extents");
}

#[test]
fn virt_v2v_reads_a_package() {
    let shop = Workshop::new();
    let parameters = [
        "--param",
        "a=<&\"> \n",
        "--memory",
        "768MiB",
        "--cpus",
        "3",
        "-o",
        "job.ova",
    ];
    succeeded(&shop.pack(&parameters));
    let mut command = Command::new("virt-v2v");
    command
        .args(["-i", "ova", "--print-source"])
        .arg(shop.path("job.ova"));
    let Ok(output) = command.output() else {
        skipped("there is no virt-v2v");
        return assert!(
            std::env::var_os("CI").is_none(),
            "virt-v2v is missing in CI"
        );
    };
    succeeded(&output);
    let text = said(&output).1;
    for line in [
        "source name: job",
        "memory: 805306368 (bytes)",
        "nr vCPUs: 3",
        "0 [sata]",
        "2 [sata]",
        "CD-ROM [ide]",
    ] {
        assert!(text.contains(line), "{line:?} is not in {text}");
    }
}

#[test]
fn the_descriptor_is_valid_by_the_schema() {
    let Some(schema) = schema() else {
        return skipped("there is no schema; see GVA_OVF_SCHEMA");
    };
    let shop = Workshop::new();
    succeeded(&shop.pack(&["--param", "a=1", "-o", "job.ova"]));
    let schema = schema.to_str().unwrap();
    succeeded(&shop.gva(&["check", "job.ova", "--schema", schema]));
    let mut parts = Parts::read(&shop.path("job.ova"));
    parts.edit("<Info>The machine</Info>", "<Surprise/>");
    parts.write(&shop.path("wrong.ova"));
    let (status, text) = said(&shop.gva(&["check", "wrong.ova", "--schema", schema]));
    assert_eq!(status, 1);
    assert!(
        text.starts_with("wrong.ova: schema: ") && text.contains("Surprise"),
        "{text}"
    );
}

/// DMTF's schema stands beside the checkout, or where the environment says.
fn schema() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/ovf-schema");
    let directory = std::env::var_os("GVA_OVF_SCHEMA").map_or(beside, PathBuf::from);
    directory
        .join("dsp8023_1.1.1.xsd")
        .is_file()
        .then_some(directory)
}

fn skipped(why: &str) {
    // Not `println!`: the test harness would swallow it.
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

#[test]
fn what_cannot_be_packed_is_refused_in_one_line_and_leaves_nothing() {
    let shop = Workshop::new();
    shop.labelled("other.img", "other");
    fs::write(shop.path("text"), "no image").unwrap();
    fs::create_dir(shop.path("direct")).unwrap();
    fs::write(
        shop.path("direct/base.json"),
        r#"{"schema":1,"flavour":"direct"}"#,
    )
    .unwrap();
    fs::write(shop.path("there.ova"), "there").unwrap();
    let before = shop.names();
    let table: &[(&[&str], &str)] = &[
        (
            &["--base", "direct"],
            "of the direct flavour, which has no boot loader",
        ),
        (&["--base", "app.img"], "app.img is no bootable disk"),
        (
            &["--base", "nowhere"],
            "opening the base image nowhere: No such file",
        ),
        (
            &["--application", "nowhere"],
            "opening the application image nowhere: No such file",
        ),
        (
            &["--application", "other.img"],
            "has the label \"other\", and the appliance looks for gva-app",
        ),
        (
            &["--application", "text"],
            "holds no file system that is known",
        ),
        (&["--application", "direct"], "it is no file"),
        (&["--data", "app.img"], "the appliance looks for gva-data"),
        (
            &["--output", "app.img"],
            "the appliance looks for gva-output",
        ),
        (&["--output-size", "1MiB"], "it must be from 16MiB"),
        (&["--param", "novalue"], "it must be NAME=VALUE"),
        (&["--param", "a.b=1"], "the name must be"),
        (&["--param", "a=1", "--param", "a=2"], "a is given twice"),
        (
            &["--param", "a=\u{1}"],
            "a character in the value that XML cannot carry",
        ),
        (&["--memory", "100kB"], "it must be a whole number of MiB"),
        (&["--name", "../x"], "the name \"../x\" must be"),
        (&["-o", "there.ova"], "there.ova is there already"),
        (&["-o", "no/where.ova"], "No such file"),
        (&["--ovf", "direct"], "direct is there already"),
    ];
    for (arguments, line) in table {
        let mut all = vec!["pack"];
        for (option, default) in [("--base", "base.img"), ("--application", "app.img")] {
            if !arguments.contains(&option) {
                all.extend([option, default]);
            }
        }
        if !arguments.contains(&"-o") && !arguments.contains(&"--ovf") {
            all.extend(["-o", "job.ova"]);
        }
        all.extend(*arguments);
        let (status, text) = said(&shop.gva(&all));
        assert!(
            status == 2 && text.contains(line),
            "{arguments:?}: {status}, {text}"
        );
        assert_eq!(text.lines().count(), 1, "{text}");
        assert_eq!(shop.names(), before, "{arguments:?} left something");
    }
}

#[test]
fn a_parameter_too_long_for_a_descriptor_is_refused() {
    let shop = Workshop::new();
    let long = |name: &str| format!("{name}={}", "x".repeat(100_000));
    let given = [long("a"), long("b"), long("c")];
    let mut arguments = vec!["-o", "job.ova"];
    for parameter in &given {
        arguments.extend(["--param", parameter]);
    }
    let (status, text) = said(&shop.pack(&arguments));
    assert!(
        status == 2 && text.contains("the parameters are too long"),
        "{text}"
    );
    assert_eq!(shop.names(), ["app.img", "base.img"]);
}

#[test]
fn an_application_without_a_script_is_packed_with_a_warning() {
    let shop = Workshop::new();
    let packed = shop.pack(&["-o", "one.ova"]);
    succeeded(&packed);
    let warning = "there is no executable file in script-bin on app.img, so nothing will run";
    assert!(said(&packed).1.contains(warning), "{:?}", said(&packed));
    fs::write(shop.path("a.sh"), "#!/bin/sh\n").unwrap();
    let mut request = File::create(shop.path("requests")).unwrap();
    request
        .write_all(b"mkdir script-bin\ncd script-bin\nwrite a.sh a.sh\nset_inode_field a.sh mode 0100755\n")
        .unwrap();
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let mut debugfs = Command::new("debugfs");
    let debugfs = debugfs.env("PATH", path).current_dir(shop.path("."));
    let written = debugfs.args(["-w", "-f", "requests", "app.img"]).status();
    assert!(written.unwrap().success());
    let packed = shop.pack(&["-o", "two.ova"]);
    succeeded(&packed);
    assert!(!said(&packed).1.contains("warning"), "{:?}", said(&packed));
}
