//! The command line of QEMU.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::Path;

use anyhow::{Context, bail};

use super::base::Kind;
use super::{Appliance, Base, Disk};
use crate::cli::{Firmware, Network};

/// The port by which gvad tells what happens.
const PORT: &str = "org.gva.events";
/// So many further media can be attached at once.
pub(crate) const SLOTS: usize = 12;

/// How it computes, decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accelerator {
    Kvm,
    Tcg,
}

impl Accelerator {
    /// For people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg",
        }
    }
}

/// QEMU's ends of the connections to it, which it inherits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) qmp: RawFd,
    pub(crate) port: RawFd,
}

/// All arguments. The serial console is QEMU's standard output.
pub(crate) fn arguments(
    appliance: &Appliance,
    accelerator: Accelerator,
    ends: Ends,
) -> anyhow::Result<Vec<OsString>> {
    let mut all = Arguments::default();
    let machine = &appliance.machine;
    all.words("-name gva -nodefaults -no-user-config -display none -no-reboot -machine q35");
    match accelerator {
        Accelerator::Kvm => all.words("-accel kvm -cpu host"),
        // The default processor has features that the emulation lacks.
        Accelerator::Tcg => all.words("-accel tcg,thread=multi -cpu qemu64"),
    }
    all.pair("-m", format!("{}M", machine.memory().0 >> 20));
    all.pair("-smp", machine.cpus().to_string());
    all.words(
        "-device virtio-rng-pci -chardev stdio,id=console,signal=off -serial chardev:console",
    );
    all.pair("-chardev", format!("socket,id=qmp,fd={}", ends.qmp));
    all.words("-mon chardev=qmp,mode=control");
    all.pair("-chardev", format!("socket,id=port,fd={}", ends.port));
    all.words("-device virtio-serial-pci");
    all.pair(
        "-device",
        format!("virtserialport,chardev=port,name={PORT}"),
    );
    root(&mut all, &appliance.base, machine.firmware)?;
    for disk in &appliance.disks {
        all.pair("-blockdev", disk.blockdev()?.to_string());
        all.pair(
            "-device",
            format!("virtio-blk-pci,id={0},drive={0},serial={0}", disk.id),
        );
    }
    cds(&mut all, &appliance.base, &appliance.cds)?;
    for credential in &appliance.credentials {
        all.pair("-smbios", format!("type=11,value={credential}"));
    }
    if machine.network == Network::User {
        all.words("-netdev user,id=net -device virtio-net-pci,netdev=net");
    }
    if appliance.serves {
        for slot in 0..SLOTS {
            let number = slot + 1;
            all.pair(
                "-device",
                format!("pcie-root-port,id=slot{slot},chassis={number},slot={number}"),
            );
        }
    }
    Ok(all.0)
}

#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn words(&mut self, words: &str) {
        self.0.extend(words.split(' ').map(OsString::from));
    }

    fn pair(&mut self, option: &str, value: impl Into<OsString>) {
        self.0.extend([option.into(), value.into()]);
    }
}

/// In the value of an option a comma stands for the next key, but two for one.
fn escaped(path: &Path) -> anyhow::Result<String> {
    let text = path
        .to_str()
        .with_context(|| format!("the name {} is not UTF-8", path.display()))?;
    Ok(text.replace(',', ",,"))
}

/// The base, under an overlay of which QEMU removes the name as soon as it has opened it: nothing is left behind, however QEMU ends.
fn root(all: &mut Arguments, base: &Base, firmware: Firmware) -> anyhow::Result<()> {
    all.pair(
        "-drive",
        format!(
            "id=root,if=none,snapshot=on,cache=unsafe,discard=unmap,format={},file={}",
            base.format.driver(),
            escaped(&base.root)?
        ),
    );
    match &base.kind {
        Kind::Direct { kernel, cmdline } => {
            all.pair("-kernel", kernel);
            all.pair("-append", cmdline);
            all.words("-device nvme,drive=root,serial=gva-root");
        }
        Kind::Disk => {
            all.words("-device virtio-blk-pci,drive=root,serial=gva-root,bootindex=0");
            if firmware == Firmware::Uefi {
                uefi(all)?;
            }
        }
    }
    Ok(())
}

/// Where distributions put OVMF: its code, and the variables that belong to it.
const OVMF: [(&str, &str); 5] = [
    (
        "/usr/share/OVMF/OVMF_CODE_4M.fd",
        "/usr/share/OVMF/OVMF_VARS_4M.fd",
    ),
    (
        "/usr/share/OVMF/OVMF_CODE.fd",
        "/usr/share/OVMF/OVMF_VARS.fd",
    ),
    (
        "/usr/share/edk2/ovmf/OVMF_CODE.fd",
        "/usr/share/edk2/ovmf/OVMF_VARS.fd",
    ),
    (
        "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
        "/usr/share/edk2/x64/OVMF_VARS.4m.fd",
    ),
    (
        "/usr/share/qemu/ovmf-x86_64-code.bin",
        "/usr/share/qemu/ovmf-x86_64-vars.bin",
    ),
];

fn uefi(all: &mut Arguments) -> anyhow::Result<()> {
    let there = |pair: &&(&str, &str)| Path::new(pair.0).exists() && Path::new(pair.1).exists();
    let Some((code, variables)) = OVMF.iter().find(there) else {
        bail!("there is no UEFI firmware; install the package ovmf");
    };
    let flash = "if=pflash,format=raw";
    all.pair("-drive", format!("{flash},unit=0,readonly=on,file={code}"));
    all.pair(
        "-drive",
        format!("{flash},unit=1,snapshot=on,file={variables}"),
    );
    Ok(())
}

/// The cloud kernel has no AHCI, so CDs are on virtio's SCSI there.
fn cds(all: &mut Arguments, base: &Base, cds: &[Disk]) -> anyhow::Result<()> {
    let direct = matches!(base.kind, Kind::Direct { .. });
    if direct && !cds.is_empty() {
        all.words("-device virtio-scsi-pci,id=scsi");
    }
    for (number, cd) in cds.iter().enumerate() {
        all.pair("-blockdev", cd.blockdev()?.to_string());
        all.pair(
            "-device",
            if direct {
                format!("scsi-cd,bus=scsi.0,drive={0},id={0},serial={0}", cd.id)
            } else {
                format!("ide-cd,bus=ide.{number},drive={0},id={0},serial={0}", cd.id)
            },
        );
    }
    Ok(())
}
