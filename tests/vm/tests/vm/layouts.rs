//! Separate images, and everything on one.

use gvad::outcome::Outcome;
use gvad_vm_tests::image::{self, application, output};
use gvad_vm_tests::machine::{Base, Plan};

const TELL: &str = "#!/bin/sh\necho \"$GVA_SCRIPT ran\"; cat \"$GVA_DATA/word\"; echo kept > \"$GVA_OUTPUT/kept\"\n";

#[test]
fn separate_images_give_results_on_the_output_and_the_machine_ends() {
    let dir = tempfile::tempdir().unwrap();
    let app = application(
        dir.path(),
        "app",
        &[("10-tell", TELL), ("20-fail", "#!/bin/sh\nexit 3\n")],
    );
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("word"), "xyzzy\n").unwrap();
    let data_image = dir.path().join("data.img");
    image::run(
        image::gva()
            .args(["image", "--role", "data", "-o"])
            .arg(&data_image)
            .arg(&data),
    );
    let out = output(dir.path(), "out.img");
    let mut machine = Plan::new(Base::Direct)
        .disk("gva-a0", &app)
        .read_only_disk("gva-d", &data_image)
        .disk("gva-o", &out)
        .start();
    assert!(machine.wait_end().success());
    let results = image::results(&out, "/gvad");
    assert_eq!(results.len(), 2, "{results:#?}");
    assert_eq!(
        (results[0].outcome, results[0].exit_code),
        (Outcome::Exited, Some(0))
    );
    assert_eq!(
        (results[1].outcome, results[1].exit_code),
        (Outcome::Exited, Some(3))
    );
    assert_eq!(
        image::cat(&out, "/gvad/000001-10-tell/stdout"),
        "10-tell ran\nxyzzy\n"
    );
    assert_eq!(image::cat(&out, "/kept"), "kept\n");
    assert_eq!(image::names(&app, "/script-bin"), Vec::<String>::new());
    assert!(image::is_clean(&app) && image::is_clean(&out));
}
