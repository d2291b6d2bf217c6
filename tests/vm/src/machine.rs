//! A virtual machine: QEMU with a base image, whose every write is thrown away.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::monitor::Monitor;
use crate::port::Port;
use crate::{PATIENCE, place, wait_for};

/// What it boots from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// The direct flavour.
    Direct,
    /// The disk flavour, by BIOS.
    Bios,
    /// The disk flavour, by UEFI.
    Uefi,
}

/// A machine that has not been started.
#[derive(Debug)]
pub struct Plan {
    dir: tempfile::TempDir,
    arguments: Vec<OsString>,
    reboots: bool,
    silent: bool,
}

/// A machine that runs; it is ended with this value.
#[derive(Debug)]
pub struct Machine {
    dir: tempfile::TempDir,
    child: Child,
    /// QEMU's monitor.
    pub monitor: Monitor,
    /// The events port.
    pub port: Port,
}

/// So many free ports for hot-plug: `hot0`, `hot1`, …
const HOT_PORTS: usize = 4;

impl Plan {
    /// A machine with 256 MiB of memory, one processor, no network, free ports for hot-plug.
    #[must_use]
    pub fn new(base: Base) -> Plan {
        let mut plan = Plan {
            dir: tempfile::tempdir().unwrap(),
            arguments: Vec::new(),
            reboots: false,
            silent: false,
        };
        plan.args(&[
            "-machine",
            "q35",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "qemu64",
        ]);
        plan.args(&[
            "-display",
            "none",
            "-nodefaults",
            "-device",
            "virtio-rng-pci",
        ]);
        let dir = plan.dir.path().display().to_string();
        plan.args(&["-serial", &format!("file:{dir}/console.log")]);
        plan.args(&["-qmp", &format!("unix:{dir}/monitor,server=on,wait=off")]);
        plan.args(&["-device", "virtio-serial-pci,id=serial"]);
        plan.args(&[
            "-chardev",
            &format!("socket,id=events,path={dir}/port,server=on,wait=off"),
        ]);
        plan.args(&[
            "-device",
            "virtserialport,chardev=events,name=org.gva.events",
        ]);
        for port in 0..HOT_PORTS {
            let chassis = port + 1;
            plan.args(&[
                "-device",
                &format!("pcie-root-port,id=hot{port},chassis={chassis}"),
            ]);
        }
        plan.boots_from(base);
        plan
    }

    fn boots_from(&mut self, base: Base) {
        if base == Base::Direct {
            let base = place("GVA_BASE_DIRECT");
            let json = fs::read(base.join("base.json")).unwrap();
            let json: Value = serde_json::from_slice(&json).unwrap();
            let root = base.join("root.img").display().to_string();
            let kernel = base.join("vmlinuz").display().to_string();
            self.args(&[
                "-kernel",
                &kernel,
                "-append",
                json["cmdline"].as_str().unwrap(),
            ]);
            self.args(&[
                "-drive",
                &format!("file={root},format=raw,if=none,id=root,snapshot=on"),
            ]);
            self.args(&["-device", "nvme,drive=root,serial=root"]);
            return;
        }
        let disk = place("GVA_BASE_DISK")
            .join("disk.qcow2")
            .display()
            .to_string();
        self.args(&[
            "-drive",
            &format!("file={disk},format=qcow2,if=none,id=root,snapshot=on"),
        ]);
        self.args(&[
            "-device",
            "virtio-blk-pci,drive=root,serial=root,bootindex=0",
        ]);
        if base == Base::Uefi {
            let pflash = "if=pflash,format=raw,file=/usr/share/OVMF";
            self.args(&["-drive", &format!("{pflash}/OVMF_CODE.fd,readonly=on")]);
            self.args(&["-drive", &format!("{pflash}/OVMF_VARS.fd,snapshot=on")]);
        }
    }

    fn args(&mut self, arguments: &[&str]) {
        self.arguments.extend(arguments.iter().map(OsString::from));
    }

    /// More arguments for QEMU.
    #[must_use]
    pub fn with(mut self, arguments: &[&str]) -> Plan {
        self.args(arguments);
        self
    }

    /// A directory that lives as long as the machine.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A virtio disk; its serial is what events name.
    #[must_use]
    pub fn disk(self, serial: &str, image: &Path) -> Plan {
        self.attach(serial, image, "")
    }

    /// A virtio disk that the guest cannot write to.
    #[must_use]
    pub fn read_only_disk(self, serial: &str, image: &Path) -> Plan {
        self.attach(serial, image, ",readonly=on")
    }

    fn attach(mut self, serial: &str, image: &Path, more: &str) -> Plan {
        let image = image.display();
        self.args(&[
            "-drive",
            &format!("file={image},format=raw,if=none,id={serial}{more}"),
        ]);
        self.args(&[
            "-device",
            &format!("virtio-blk-pci,drive={serial},serial={serial}"),
        ]);
        self
    }

    /// A CD drive with this medium; its device is called `cd`.
    #[must_use]
    pub fn cd(mut self, image: &Path) -> Plan {
        let image = image.display();
        self.args(&[
            "-drive",
            &format!("file={image},format=raw,if=none,id=cdrom,media=cdrom,readonly=on"),
        ]);
        self.args(&[
            "-device",
            "virtio-scsi-pci,id=scsi",
            "-device",
            "scsi-cd,drive=cdrom,id=cd,bus=scsi.0",
        ]);
        self
    }

    /// A credential of systemd.
    #[must_use]
    pub fn credential(self, name: &str, value: &str) -> Plan {
        let credential = format!("type=11,value=io.systemd.credential:{name}={value}");
        self.with(&["-smbios", &credential])
    }

    /// A configuration that is laid over the one of the base.
    #[must_use]
    pub fn config(self, toml: &str) -> Plan {
        // In base64, because QEMU ends a value at a comma.
        self.binary_credential("gva.config", toml.as_bytes())
    }

    fn binary_credential(self, name: &str, value: &[u8]) -> Plan {
        let credential = format!(
            "type=11,value=io.systemd.credential.binary:{name}={}",
            base64(value)
        );
        self.with(&["-smbios", &credential])
    }

    /// The appliance goes on when nothing is left to do.
    #[must_use]
    pub fn serving(self) -> Plan {
        self.serving_with("")
    }

    /// The same, with more of a configuration.
    #[must_use]
    pub fn serving_with(self, toml: &str) -> Plan {
        self.config(&format!("lifecycle.when_drained = 'wait'\n{toml}"))
    }

    /// Nobody reads the events port.
    #[must_use]
    pub fn silent(mut self) -> Plan {
        self.silent = true;
        self
    }

    /// A reboot boots again; without this it ends the machine.
    #[must_use]
    pub fn rebooting(mut self) -> Plan {
        self.reboots = true;
        self
    }

    /// Starts it.
    #[must_use]
    pub fn start(mut self) -> Machine {
        if !self.reboots {
            self.args(&["-no-reboot"]);
        }
        if !self.arguments.iter().any(|argument| argument == "-m") {
            self.args(&["-m", "256"]);
        }
        let log = fs::File::create(self.dir.path().join("qemu.log")).unwrap();
        let mut command = Command::new("qemu-system-x86_64");
        command.args(&self.arguments).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(log).process_group(0);
        let child = command.spawn().unwrap();
        let monitor = Monitor::connect(&self.dir.path().join("monitor"));
        let socket = self.dir.path().join("port");
        let port = if self.silent {
            Port::connect_unread(&socket)
        } else {
            Port::connect(&socket)
        };
        Machine {
            dir: self.dir,
            child,
            monitor,
            port,
        }
    }
}

impl Machine {
    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What appeared on the console.
    #[must_use]
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.path().join("console.log")).unwrap_or_default())
            .into_owned()
    }

    /// Waits until it has ended by itself.
    pub fn wait_end(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            // Events are read on, so that the guest is not kept by them.
            let _ = self.port.next(std::time::Duration::from_millis(50));
            if let Some(status) = self.child.try_wait().unwrap() {
                while self
                    .port
                    .next(std::time::Duration::from_millis(50))
                    .is_some()
                {}
                return status;
            }
            assert!(
                Instant::now() < until,
                "the machine does not end:\n{}",
                self.console()
            );
        }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// The same, and nobody reads the port.
    pub fn wait_end_unread(&mut self) -> ExitStatus {
        wait_for("the machine's end", || self.child.try_wait().unwrap())
    }

    /// Whether it has ended by itself.
    #[must_use]
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Ends it as a power cut does.
    pub fn cut_power(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            let qemu = fs::read_to_string(self.dir.path().join("qemu.log")).unwrap_or_default();
            let console = self.console();
            let lines: Vec<&str> = console.lines().collect();
            let tail = lines.iter().skip(lines.len().saturating_sub(40));
            eprintln!("QEMU said: {qemu}\nthe console's end:");
            tail.for_each(|line| eprintln!("{line}"));
        }
    }
}

/// RFC 4648.
fn base64(bytes: &[u8]) -> String {
    let mut command = Command::new("base64")
        .arg("-w0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut command.stdin.take().unwrap(), bytes).unwrap();
    String::from_utf8(command.wait_with_output().unwrap().stdout).unwrap()
}
