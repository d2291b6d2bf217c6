//! `gva check`: every way in which a package can be wrong is told by its own line.

use crate::fixture::{Parts, file, packed, said};

type Change = fn(&mut Parts);

/// What is done to a sound package, and the one line that tells it.
const CHANGES: &[(Change, &str)] = &[
    // Files.
    (
        |p| p.member("-base.vmdk").content[70_000] ^= 1,
        "job-base.vmdk: it is damaged, or was changed",
    ),
    (
        |p| p.swap(".ovf", ".mf"),
        "job.mf: it stands where job.ovf should be",
    ),
    (
        |p| p.swap("-base.vmdk", "-output.vmdk"),
        "job-output.vmdk: it stands where job-base.vmdk should be",
    ),
    (
        |p| p.swap(".mf", "-output.vmdk"),
        "job-output.vmdk: it stands where job.mf should be",
    ),
    (
        |p| {
            p.0.push(file("README"));
            p.list();
        },
        "README: the descriptor does not name it",
    ),
    (
        |p| p.0.retain(|member| !member.name.ends_with(".mf")),
        "job.mf: there is no manifest of this name",
    ),
    (
        |p| p.member(".mf").name = "other.mf".into(),
        "job.mf: there is no manifest of this name",
    ),
    // The manifest.
    (|p| manifest(p, "= ", "="), "a line is not of the form"),
    (
        |p| manifest(p, "SHA256(", "SHA256 ("),
        "a line is not of the form",
    ),
    (
        |p| manifest(p, "SHA256", "SHA1"),
        "a line is not of the form",
    ),
    (
        |p| manifest(p, "SHA256(job.ovf", "SHA256(job.mf"),
        "job.mf: it lists itself",
    ),
    (
        |p| manifest(p, "(job-base", "(job-other"),
        "it lists job-other.vmdk, which is not there",
    ),
    (
        |p| manifest(p, "(job-base", "(job-output"),
        "it lists job-output.vmdk twice",
    ),
    (
        |p| manifest(p, "(job-base", "(job-output"),
        "job-base.vmdk is not in it",
    ),
    // Names and kinds.
    (
        |p| p.0.push(file("../evil")),
        "\"../evil\": a name must not have a directory in it",
    ),
    (
        |p| p.0.push(file("/etc/evil")),
        "\"/etc/evil\": a name must not have a directory in it",
    ),
    (
        |p| p.0.push(file(".evil")),
        "\".evil\": a name must not begin with a dot",
    ),
    (
        |p| p.0.push(file("e\u{1b}[2J")),
        "a name must be of letters",
    ),
    (
        |p| p.member("-base.vmdk").kind = b'2',
        "job-base.vmdk: it is not a plain file, but of tar's type '2'",
    ),
    (
        |p| p.member("-base.vmdk").kind = b'1',
        "job-base.vmdk: it is not a plain file, but of tar's type '1'",
    ),
    (
        |p| p.member("-base.vmdk").kind = b'S',
        "job-base.vmdk: it is not a plain file, but of tar's type 'S'",
    ),
    (
        |p| p.member("-base.vmdk").kind = b'x',
        "job-base.vmdk: it is not a plain file, but of tar's type 'x'",
    ),
    (
        |p| p.0.push(file("job-base.vmdk")),
        "job-base.vmdk: it is there twice",
    ),
    (
        |p| {
            p.0.extend((0..70).map(|number| file(&format!("f{number}"))))
        },
        "it has more than 64 files",
    ),
    // References and disks.
    (
        |p| p.0.retain(|member| !member.name.ends_with("-output.vmdk")),
        "job-output.vmdk: the descriptor names it, and it is not there",
    ),
    (
        |p| p.edit("ovf:href=\"job-base", "ovf:href=\"../base"),
        "\"../base.vmdk\": the descriptor names this file; a name must not",
    ),
    (
        |p| p.edit("ovf:href=\"job-base", "ovf:href=\"job-output"),
        "job-output.vmdk: its id or its name is missing in the descriptor, or there twice",
    ),
    (
        |p| {
            p.edit(
                "ovf:id=\"file-base\" ovf:size=\"",
                "ovf:id=\"file-base\" ovf:size=\"1",
            )
        },
        "by the descriptor",
    ),
    (
        |p| p.edit("ovf:size=\"", "ovf:size=\"x"),
        "is no number of bytes",
    ),
    (
        |p| {
            p.edit(
                "ovf:id=\"file-base\" ",
                "ovf:id=\"file-base\" ovf:compression=\"gzip\" ",
            )
        },
        "gives it a compression",
    ),
    (
        |p| p.edit("ovf:fileRef=\"file-base\"", "ovf:fileRef=\"file-x\""),
        "disk disk-base: its fileRef \"file-x\" is not in the References",
    ),
    (
        |p| p.edit("ovf:fileRef=\"file-output\" ", ""),
        "disk disk-output: it has no file",
    ),
    (
        |p| p.edit("ovf:capacity=\"8388608\"", "ovf:capacity=\"8388609\""),
        "disk disk-base: its capacity is 8388609, and 8388608 by the file",
    ),
    (
        |p| p.edit("ovf:capacity=\"8388608\"", "ovf:capacity=\"0\""),
        "disk disk-base: it has no usable capacity",
    ),
    (
        |p| {
            p.edit(
                "\"8388608\" ovf:capacityAllocationUnits=\"byte\"",
                "\"8\" ovf:capacityAllocationUnits=\"byte * 2^20\"",
            )
        },
        "which VirtualBox takes for bytes",
    ),
    (
        |p| {
            p.edit(
                "ovf:diskId=\"disk-base\"",
                "ovf:diskId=\"disk-base\" ovf:populatedSize=\"8388609\"",
            )
        },
        "its populatedSize is larger",
    ),
    (|p| p.edit("#streamOptimized", "#sparse"), "its format is"),
    (
        |p| {
            p.member("-base.vmdk").content[0] = b'X';
            p.list();
        },
        "job-base.vmdk: it does not begin as a VMDK file does",
    ),
    (
        |p| {
            p.member("-base.vmdk").content[10] = 0;
            p.list();
        },
        "job-base.vmdk: it is a VMDK file, but not a streamOptimized one",
    ),
    // QEMU would take the other file from the host.
    (
        |p| vmdk(p, "parentCID=ffffffff", "parentCID=00000001"),
        "job-base.vmdk: it is a VMDK file that needs other files",
    ),
    (
        |p| {
            vmdk(
                p,
                "createType=\"streamOptimized\"",
                "createType=\"monolithicFlat\" ",
            )
        },
        "job-base.vmdk: it is a VMDK file that needs other files",
    ),
    (
        |p| vmdk(p, "# The Disk Data Base", "parentFileNameHint=\""),
        "job-base.vmdk: it is a VMDK file that needs other files",
    ),
    // The machine.
    (
        |p| p.edit("ovf:/disk/disk-base", "ovf:/disk/disk-x"),
        "its HostResource \"ovf:/disk/disk-x\" is not in the descriptor",
    ),
    (
        |p| p.edit("ovf:/disk/disk-base", "ovf:/disk/disk-output"),
        "disk disk-base: the machine does not use it",
    ),
    (
        |p| p.edit("<rasd:Parent>3<", "<rasd:Parent>1<"),
        "its Parent 1 is no controller",
    ),
    (
        |p| p.edit("<rasd:Parent>4</rasd:Parent>", ""),
        "a disk or CD drive without a Parent",
    ),
    (
        |p| p.edit("<rasd:InstanceID>7<", "<rasd:InstanceID>6<"),
        "item \"6\": its InstanceID is missing, or there twice",
    ),
    (
        |p| p.edit("<rasd:AddressOnParent>1<", "<rasd:AddressOnParent>0<"),
        "place 0 on controller 3 is taken twice",
    ),
    (
        |p| p.edit("<rasd:ResourceType>5<", "<rasd:ResourceType>33<"),
        "the unknown ResourceType 33 needs ovf:required",
    ),
    (
        |p| p.edit("<rasd:ResourceType>5<", "<rasd:ResourceType>five<"),
        "its ResourceType \"five\" is no number",
    ),
    (
        |p| p.edit("byte * 2^20", "MegaBytes"),
        "the memory's unit must be exactly",
    ),
    (
        |p| p.edit("<rasd:VirtualQuantity>512<", "<rasd:VirtualQuantity>0<"),
        "no usable amount of memory",
    ),
    (
        |p| p.edit("<rasd:VirtualQuantity>1<", "<rasd:VirtualQuantity>-1<"),
        "no usable number of processors",
    ),
    (
        |p| p.edit("com.vmware.guestInfo iso", "com.vmware.guestInfo"),
        "ovf:transport does not name iso",
    ),
    (
        |p| p.edit("ovf:key=\"a\"", "ovf:key=\"a.b\""),
        "property \"a.b\": its key",
    ),
    (
        |p| p.edit(" ovf:id=\"96\"", ""),
        "OperatingSystemSection has no ovf:id",
    ),
    (
        |p| p.edit("ovf/envelope/1\"", "ovf/envelope/2\""),
        "not \"http://schemas.dmtf.org/ovf/envelope/1\" of OVF 1",
    ),
    (
        |p| p.edit("VirtualHardwareSection", "OtherSection"),
        "no VirtualHardwareSection",
    ),
];

/// Changes a text in the disk itself; what is left of the old one is blanked.
fn vmdk(parts: &mut Parts, from: &str, to: &str) {
    let content = &mut parts.member("-base.vmdk").content;
    let mut windows = content.windows(from.len());
    let place = windows
        .position(|window| window == from.as_bytes())
        .unwrap();
    let padded = format!("{to:width$}", width = from.len());
    content[place..place + from.len()].copy_from_slice(padded.as_bytes());
    parts.list();
}

fn manifest(parts: &mut Parts, from: &str, to: &str) {
    let text = parts.text(".mf");
    assert!(text.contains(from));
    parts.member(".mf").content = text.replace(from, to).into_bytes();
}

#[test]
fn each_fault_of_a_package_is_told_in_a_line_of_its_own() {
    let (shop, sound) = packed();
    for (number, (change, line)) in CHANGES.iter().enumerate() {
        let mut parts = sound.clone();
        change(&mut parts);
        let name = format!("wrong-{number}.ova");
        parts.write(&shop.path(&name));
        let (status, text) = said(&shop.gva(&["check", &name]));
        assert_eq!(status, 1, "{line}: {text}");
        assert!(
            text.lines().any(|found| found.contains(line)),
            "{line:?} is not in {text}"
        );
        assert!(text.lines().all(|found| found.starts_with(&name)), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }
}
