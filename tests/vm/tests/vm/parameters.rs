//! What one instance is told: by credentials, and by the OVF environment on a CD.

use std::fs;
use std::process::Command;

use gvad_vm_tests::image::{application, cat, output, run};
use gvad_vm_tests::machine::{Base, Plan};

const ENVIRONMENT: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<Environment xmlns="http://schemas.dmtf.org/ovf/environment/1" xmlns:oe="http://schemas.dmtf.org/ovf/environment/1" oe:id="job">
  <PropertySection>
    <Property oe:key="site.name" oe:value="node &amp; rack; $(reboot)"/>
    <Property oe:key="index" oe:value="99"/>
  </PropertySection>
</Environment>
"#;

#[test]
fn parameters_come_by_credential_and_by_the_ovf_environment() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("ovf");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("ovf-env.xml"), ENVIRONMENT).unwrap();
    let iso = dir.path().join("ovf.iso");
    run(Command::new("xorrisofs")
        .args(["-quiet", "-r", "-V", "ANYTHING", "-o"])
        .arg(&iso)
        .arg(&tree));
    let app = application(
        dir.path(),
        "app",
        &[("10-tell", "#!/bin/sh\nenv | grep ^GVA_PARAM_ | sort\n")],
    );
    let out = output(dir.path(), "out.img");
    let mut machine = Plan::new(Base::Direct)
        .disk("gva-a0", &app)
        .disk("gva-o", &out)
        .cd(&iso)
        .credential("gva.param.index", "17")
        .credential("gva.param.other-name", "a b")
        .start();
    assert!(machine.wait_end().success());
    let told = cat(&out, "/gvad/000001-10-tell/stdout");
    // A credential is nearer than the OVF environment.
    let expected = "GVA_PARAM_INDEX=17\nGVA_PARAM_OTHER_NAME=a b\nGVA_PARAM_SITE_NAME=node & rack; $(reboot)\n";
    assert_eq!(told, expected);
}
