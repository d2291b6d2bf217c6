//! `gva run job.ova`, up to the point where a machine would start: in QEMU's place stands a program that keeps what it is given.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::fixture::{Parts, Workshop, said, succeeded};

/// A workshop with a packed appliance, and `./qemu`.
fn packed() -> Workshop {
    let shop = Workshop::new();
    let parameters = [
        "--param", "index=1", "--param", "text=a", "--memory", "300MiB", "--cpus", "2",
    ];
    succeeded(&shop.pack(&[&parameters[..], &["-o", "job.ova"]].concat()));
    fs::create_dir(shop.path("tmp")).unwrap();
    let program = "#!/bin/sh\nprintf '%s\\n' \"$@\" > arguments\ncp -r tmp/gva-* given\n";
    fs::write(shop.path("qemu"), program).unwrap();
    fs::set_permissions(shop.path("qemu"), fs::Permissions::from_mode(0o755)).unwrap();
    shop
}

fn run(shop: &Workshop, further: &[&str]) -> Output {
    let always = ["run", "job.ova", "--accel", "tcg", "--qemu", "./qemu"];
    let mut command = shop.command(&[&always, further].concat());
    let output = command.env("TMPDIR", shop.path("tmp")).output().unwrap();
    let left = fs::read_dir(shop.path("tmp")).unwrap().count();
    assert_eq!(left, 0, "something was left behind: {}", said(&output).1);
    output
}

fn same(shop: &Workshop, raw: &str, overlay: &str) {
    let mut command = Command::new("qemu-img");
    command.args(["compare", "-f", "raw", "-F", "qcow2"]);
    command
        .arg(shop.path(raw))
        .arg(shop.path("given").join(overlay));
    succeeded(&command.output().unwrap());
}

fn environment(disc: &Path) -> String {
    let target = disc.with_extension("xml");
    let mut command = Command::new("xorriso");
    command
        .args(["-osirrox", "on", "-indev"])
        .arg(disc)
        .args(["-extract", "/ovf-env.xml"])
        .arg(&target);
    succeeded(&command.output().unwrap());
    fs::read_to_string(target).unwrap()
}

#[test]
fn the_disks_are_read_inside_the_ova_which_stays_as_it_is() {
    let shop = packed();
    let before = fs::read(shop.path("job.ova")).unwrap();
    // No machine ever reports.
    assert_eq!(said(&run(&shop, &[])).0, 2);
    same(&shop, "base.img", "base.qcow2");
    same(&shop, "app.img", "application.qcow2");
    let overlay = shop.path("given/base.qcow2").metadata().unwrap().len();
    assert!(overlay < 1 << 20, "{overlay} bytes were unpacked");
    assert!(
        fs::read(shop.path("job.ova")).unwrap() == before,
        "the OVA was changed"
    );
    let arguments = fs::read_to_string(shop.path("arguments")).unwrap();
    assert!(arguments.contains("\n-m\n300M\n-smp\n2\n"), "{arguments}");
}

#[test]
fn what_is_asked_for_goes_over_what_the_ova_says() {
    let shop = packed();
    let asked = [
        "--memory",
        "200MiB",
        "--cpus",
        "1",
        "--param",
        "text=<&\"> '\n",
    ];
    assert_eq!(said(&run(&shop, &asked)).0, 2);
    let arguments = fs::read_to_string(shop.path("arguments")).unwrap();
    assert!(arguments.contains("\n-m\n200M\n-smp\n1\n"), "{arguments}");
    let text = environment(&shop.path("given/environment.iso"));
    assert!(
        text.contains("xmlns=\"http://schemas.dmtf.org/ovf/environment/1\""),
        "{text}"
    );
    for property in [
        "<Property oe:key=\"index\" oe:value=\"1\"/>",
        "<Property oe:key=\"text\" oe:value=\"&lt;&amp;&quot;&gt; &apos;&#10;\"/>",
    ] {
        assert!(text.contains(property), "{property} is not in {text}");
    }
}

#[test]
fn results_are_kept_in_an_image_made_from_the_output_disk() {
    let shop = packed();
    assert_eq!(said(&run(&shop, &["--output", "out.img"])).0, 2);
    assert_eq!(shop.path("out.img").metadata().unwrap().len(), 16 << 20);
    assert!(!shop.path("given/output.qcow2").exists());
    let arguments = fs::read_to_string(shop.path("arguments")).unwrap();
    assert!(arguments.contains("/out.img\""), "{arguments}");
    // And is used again, as it is.
    fs::remove_dir_all(shop.path("given")).unwrap();
    fs::copy(
        shop.labelled("marked.img", "gva-output"),
        shop.path("out.img"),
    )
    .unwrap();
    assert_eq!(said(&run(&shop, &["--output", "out.img"])).0, 2);
    assert_eq!(shop.path("out.img").metadata().unwrap().len(), 4 << 20);
}

#[test]
fn a_package_that_is_a_directory_runs_too() {
    let shop = packed();
    succeeded(&shop.pack(&["--ovf", "job"]));
    let arguments = ["run", "job/job.ovf", "--accel", "tcg", "--qemu", "./qemu"];
    let output = shop
        .command(&arguments)
        .env("TMPDIR", shop.path("tmp"))
        .output()
        .unwrap();
    assert_eq!(said(&output).0, 2);
    same(&shop, "base.img", "base.qcow2");
}

#[test]
fn what_cannot_be_run_is_refused_in_one_line() {
    let shop = packed();
    let mut parts = Parts::read(&shop.path("job.ova"));
    let sound = parts.clone();
    parts.member("-base.vmdk").content[70_000] ^= 1;
    parts.write(&shop.path("damaged.ova"));
    parts = sound.clone();
    parts.edit("disk-base\"", "disk-other\"");
    parts.edit("ovf:/disk/disk-base<", "ovf:/disk/disk-other<");
    parts.write(&shop.path("foreign.ova"));
    parts = sound.clone();
    parts.edit(
        "ovf:key=\"index\" ovf:type=\"string\" ovf:userConfigurable=\"true\"",
        "ovf:key=\"index\" ovf:type=\"string\"",
    );
    parts.write(&shop.path("fixed.ova"));
    let before = shop.names();
    let table: &[(&[&str], &str)] = &[
        (
            &["damaged.ova"],
            "damaged.ova is not sound: job-base.vmdk: it is damaged",
        ),
        (
            &["foreign.ova"],
            "was not packed by gva: it has no disk disk-base",
        ),
        (&["nowhere.ova"], "opening nowhere.ova: No such file"),
        (&["base.img"], "reading base.img"),
        (
            &["job.ova", "--param", "other=1"],
            "the OVA has no parameter of this name; it has index, text",
        ),
        (
            &["fixed.ova", "--param", "index=2"],
            "the OVA does not let this parameter be changed",
        ),
        (
            &["job.ova", "--output", "app.img"],
            "gvad looks for gva-output",
        ),
        (&["job.ova", "--output", "no/where.img"], "No such file"),
        (&["job.ova", "--base", "base.img"], "cannot be used with"),
    ];
    for (arguments, line) in table {
        let all = [&["run", "--accel", "tcg", "--qemu", "./qemu"], *arguments].concat();
        let mut command = shop.command(&all);
        let (status, text) = said(&command.env("TMPDIR", shop.path("tmp")).output().unwrap());
        assert!(
            status == 2 && text.contains(line),
            "{arguments:?}: {status}, {text}"
        );
        assert_eq!(text.lines().count(), 1, "{text}");
        assert_eq!(shop.names(), before, "{arguments:?} left something");
        assert_eq!(fs::read_dir(shop.path("tmp")).unwrap().count(), 0);
    }
}
