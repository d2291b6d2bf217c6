//! A packed appliance: booted by BIOS as a hypervisor does that knows only what the descriptor says, and by UEFI as `gva run` does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use gvad_vm_tests::image::{application, cat, gva, run};
use gvad_vm_tests::place;

const TOLD: &str = "/gvad/000001-10-tell/stdout";

#[test]
fn a_packed_appliance_runs_its_scripts_by_bios_and_by_uefi() {
    let dir = tempfile::tempdir().unwrap();
    let tell = "#!/bin/sh\nenv | grep ^GVA_PARAM_\n[ ! -d /sys/firmware/efi ] || echo uefi\n";
    let app = application(dir.path(), "app", &[("10-tell", tell)]);
    let ova = dir.path().join("job.ova");
    run(gva()
        .args(["pack", "--param", "index=1", "--base"])
        .arg(place("GVA_BASE_DISK"))
        .arg("--application")
        .arg(&app)
        .arg("-o")
        .arg(&ova));
    run(gva().arg("check").arg(&ova));

    let output = elsewhere(&ova, dir.path());
    assert_eq!(cat(&output, TOLD), "GVA_PARAM_INDEX=5\n");

    let output = dir.path().join("kept.img");
    run(gva()
        .args([
            "run",
            "--accel",
            "tcg",
            "--firmware",
            "uefi",
            "--param",
            "index=18",
            "--output",
        ])
        .arg(&output)
        .arg(&ova));
    assert_eq!(cat(&output, TOLD), "GVA_PARAM_INDEX=18\nuefi\n");
}

/// Boots the disks on the controllers that the descriptor names, and returns the output disk.
fn elsewhere(ova: &Path, dir: &Path) -> PathBuf {
    run(Command::new("tar").arg("-C").arg(dir).arg("-xf").arg(ova));
    // As an import does: a VMDK of this kind cannot be written.
    let output = dir.join("output.img");
    run(Command::new("qemu-img")
        .args(["convert", "-f", "vmdk", "-O", "raw"])
        .arg(dir.join("job-output.vmdk"))
        .arg(&output));
    let drive = |id: &str, format: &str, file: &Path, more: &str| {
        let file = file.display();
        format!("id={id},if=none,format={format},file={file}{more}")
    };
    let mut machine = Command::new("timeout");
    machine.args([
        "300",
        "qemu-system-x86_64",
        "-machine",
        "pc",
        "-accel",
        "tcg,thread=multi",
    ]);
    machine.args([
        "-cpu",
        "qemu64",
        "-m",
        "512M",
        "-nodefaults",
        "-no-reboot",
        "-display",
        "none",
    ]);
    machine.args(["-serial", "stdio", "-device", "ahci,id=sata"]);
    let packed = |role: &str| dir.join(format!("job-{role}.vmdk"));
    let drives = [
        (
            drive("base", "vmdk", &packed("base"), ",snapshot=on"),
            "ide-hd,bus=sata.0,drive=base,bootindex=0",
        ),
        (
            drive(
                "application",
                "vmdk",
                &packed("application"),
                ",snapshot=on",
            ),
            "ide-hd,bus=sata.1,drive=application",
        ),
        (
            drive("output", "raw", &output, ""),
            "ide-hd,bus=sata.2,drive=output",
        ),
        (
            drive("cd", "raw", &environment(dir), ",media=cdrom"),
            "ide-cd,bus=ide.0,drive=cd",
        ),
    ];
    for (drive, device) in &drives {
        machine.args(["-drive", drive, "-device", device]);
    }
    run(&mut machine);
    output
}

fn environment(dir: &Path) -> PathBuf {
    let tree = dir.join("environment");
    fs::create_dir(&tree).unwrap();
    let namespace = "http://schemas.dmtf.org/ovf/environment/1";
    let property = "<PropertySection><Property oe:key='index' oe:value='5'/></PropertySection>";
    let text =
        format!("<Environment xmlns='{namespace}' xmlns:oe='{namespace}'>{property}</Environment>");
    fs::write(tree.join("ovf-env.xml"), text).unwrap();
    let disc = dir.join("environment.iso");
    run(Command::new("xorrisofs")
        .args(["-quiet", "-r", "-o"])
        .arg(&disc)
        .arg(&tree));
    disc
}
