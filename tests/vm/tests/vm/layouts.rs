//! Separate images, everything on one, and file systems of other kinds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use gvad::outcome::Outcome;
use gvad_vm_tests::image::{self, application, gva, names, output, results, run, scripts};
use gvad_vm_tests::machine::{Base, Plan};

const TELL: &str = "#!/bin/sh\necho \"$GVA_SCRIPT ran\"; cat \"$GVA_DATA/word\"; echo kept > \"$GVA_OUTPUT/kept\"\n";
const HELLO: &str = "#!/bin/sh\necho hello\n";

#[test]
fn separate_images_give_results_on_the_output_and_the_machine_ends() {
    let dir = tempfile::tempdir().unwrap();
    let fails = "#!/bin/sh\nexit 3\n";
    let app = application(dir.path(), "app", &[("10-tell", TELL), ("20-fail", fails)]);
    let data = dir.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("word"), "xyzzy\n").unwrap();
    let data_image = dir.path().join("data.img");
    run(gva()
        .args(["image", "--role", "data", "-o"])
        .arg(&data_image)
        .arg(&data));
    let out = output(dir.path(), "out.img");
    let mut machine = Plan::new(Base::Direct)
        .disk("gva-a0", &app)
        .read_only_disk("gva-d", &data_image)
        .disk("gva-o", &out)
        .start();
    assert!(machine.wait_end().success());
    let results = results(&out, "/gvad");
    let ends: Vec<_> = results
        .iter()
        .map(|result| (result.outcome, result.exit_code))
        .collect();
    assert_eq!(
        ends,
        [(Outcome::Exited, Some(0)), (Outcome::Exited, Some(3))]
    );
    assert_eq!(
        image::cat(&out, "/gvad/000001-10-tell/stdout"),
        "10-tell ran\nxyzzy\n"
    );
    assert_eq!(image::cat(&out, "/kept"), "kept\n");
    assert_eq!(names(&app, "/script-bin"), Vec::<String>::new());
    assert!(image::is_clean(&app) && image::is_clean(&out));
}

#[test]
fn everything_on_one_image() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("app");
    fs::create_dir_all(tree.join("data")).unwrap();
    fs::write(tree.join("data/word"), "plugh\n").unwrap();
    let app = application(dir.path(), "app", &[("10-tell", TELL)]);
    let mut machine = Plan::new(Base::Direct).disk("gva-a0", &app).start();
    assert!(machine.wait_end().success());
    assert!(results(&app, "/output/gvad")[0].success);
    assert_eq!(
        image::cat(&app, "/output/gvad/000001-10-tell/stdout"),
        "10-tell ran\nplugh\n"
    );
    assert_eq!(image::cat(&app, "/output/kept"), "kept\n");
    assert!(image::is_clean(&app));
}

/// A FAT image, by file tools alone; labels are in upper case there.
fn fat(at: &Path, tree: &Path) -> PathBuf {
    let image = at.join("app.vfat");
    fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    run(Command::new("/usr/sbin/mkfs.vfat")
        .args(["-n", "GVA-APP"])
        .arg(&image));
    run(Command::new("mcopy")
        .args(["-s", "-i"])
        .arg(&image)
        .arg(tree.join("script-bin"))
        .arg("::/"));
    image
}

#[test]
fn scripts_come_on_a_cd_a_squashfs_and_a_fat_disk() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    scripts(&tree, &[("hello", HELLO)]);
    let made = |kind: &str| {
        let image = dir.path().join(format!("app{kind}"));
        run(gva().args(["image", kind, "-o"]).arg(&image).arg(&tree));
        image
    };
    let out = |name: &str| output(dir.path(), name);
    // One after the other in a machine of their own: each is the only application image there.
    let (iso, squashfs) = (made("--iso"), made("--squashfs"));
    let cases = [
        ("iso9660", Plan::new(Base::Direct).cd(&iso), out("iso.img")),
        (
            "squashfs",
            Plan::new(Base::Direct)
                .config("application.source = '/dev/disk/by-id/virtio-gva-a0'")
                .read_only_disk("gva-a0", &squashfs),
            out("squashfs.img"),
        ),
        (
            "vfat",
            Plan::new(Base::Direct)
                .config("application.source = 'LABEL=GVA-APP'")
                .disk("gva-a0", &fat(dir.path(), &tree)),
            out("vfat.img"),
        ),
    ];
    for (fstype, plan, out) in cases {
        println!("{fstype}");
        let mut machine = plan.disk("gva-o", &out).start();
        assert!(machine.wait_end().success());
        let results = results(&out, "/gvad");
        assert_eq!(results.len(), 1, "{fstype}: {results:#?}");
        assert!(results[0].success, "{fstype}: {results:#?}");
        assert_eq!(image::cat(&out, "/gvad/000001-hello/stdout"), "hello\n");
        let status = image::cat(&out, "/gvad/status.json");
        assert!(
            status.contains(&format!("\"fstype\": \"{fstype}\"")),
            "{status}"
        );
    }
}
