//! A sysfs made by hand, and a real loop device with a partition. Needs, for the latter, Debian package util-linux.

use super::super::partition::tests::{gpt, mbr};
use super::{BlockDevice, list, read_only, size};
use std::fs::{self, File};
use std::io::{self, Error, ErrorKind, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::{NamedTempFile, TempDir};

/// A sysfs with devices/DISK and devices/DISK/PARTITION, and the links of class/block to them.
struct Sysfs(TempDir);

impl Sysfs {
    fn new() -> io::Result<Self> {
        let sysfs = Self(tempfile::tempdir()?);
        fs::create_dir_all(sysfs.class())?;
        Ok(sysfs)
    }

    fn class(&self) -> PathBuf {
        self.0.path().join("class/block")
    }

    /// Adds a device; `place` is its path under devices/.
    fn add(&self, place: &str, uevent: &[u8], attributes: &[(&str, &str)]) -> io::Result<()> {
        let directory = self.0.path().join("devices").join(place);
        fs::create_dir_all(directory.join("queue"))?;
        fs::write(directory.join("uevent"), uevent)?;
        for (name, value) in attributes {
            fs::write(directory.join(name), format!("{value}\n"))?;
        }
        let name = directory.file_name().unwrap_or_default();
        symlink(
            Path::new("../../devices").join(place),
            self.class().join(name),
        )
    }

    fn list(&self) -> io::Result<Vec<BlockDevice>> {
        list(&self.class(), Path::new("/dev"))
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let names = self.list()?.into_iter().map(|device| device.name);
        Ok(names
            .map(|name| name.to_string_lossy().into_owned())
            .collect())
    }
}

const DISK: &[(&str, &str)] = &[
    ("size", "8192"),
    ("ro", "0"),
    ("queue/logical_block_size", "4096"),
];

#[test]
fn disk_and_partition_are_told_whole() -> io::Result<()> {
    let sysfs = Sysfs::new()?;
    sysfs.add(
        "vda",
        b"MAJOR=254\nMINOR=0\nDEVNAME=vda\nDEVTYPE=disk\nDISKSEQ=9\n",
        DISK,
    )?;
    sysfs.add(
        "vda/vda1",
        b"MAJOR=254\nMINOR=1\nDEVNAME=vda1\nDEVTYPE=partition\nPARTN=1\nPARTNAME=Gr\xf6\xdfe\nPARTUUID=AB-CD\n",
        &[("size", "2048"), ("start", "64"), ("ro", "1")],
    )?;
    let devices = sysfs.list()?;
    let [disk, first] = &devices[..] else {
        return Err(Error::other(format!("{devices:?}")));
    };
    assert_eq!((disk.major, disk.minor, disk.size), (254, 0, 4 << 20));
    assert_eq!(
        (disk.read_only, disk.diskseq, &disk.partition),
        (false, Some(9), &None)
    );
    assert_eq!(
        (first.path.to_str(), first.minor, first.size),
        (Some("/dev/vda1"), 1, 1 << 20)
    );
    assert_eq!((first.read_only, first.diskseq), (true, Some(9)));
    let partition = first.partition.as_ref().ok_or(ErrorKind::NotFound)?;
    assert_eq!((partition.number, partition.place.number), (1, 1));
    assert_eq!(partition.label.as_deref(), Some("Größe"));
    assert_eq!(first.partition_uuid()?.as_deref(), Some("ab-cd"));
    assert_eq!(partition.disk, Path::new("/dev/vda"));
    assert_eq!(partition.place.start, 64 * 512);
    assert_eq!(
        (partition.place.disk_size, partition.place.block_size),
        (4 << 20, 4096)
    );
    Ok(())
}

#[test]
fn devices_are_in_the_order_in_which_they_appeared() -> io::Result<()> {
    let sysfs = Sysfs::new()?;
    for (name, diskseq) in [("sda", 7), ("vdb", 5), ("vda", 5), ("zram0", 2)] {
        let uevent = format!("MAJOR=1\nMINOR=1\nDEVNAME={name}\nDISKSEQ={diskseq}\n");
        sysfs.add(name, uevent.as_bytes(), DISK)?;
    }
    assert_eq!(sysfs.names()?, ["zram0", "vda", "vdb", "sda"]);
    Ok(())
}

#[test]
fn empty_hidden_and_vanished_devices_and_floppies_are_left_out() -> io::Result<()> {
    let sysfs = Sysfs::new()?;
    let uevent = b"MAJOR=1\nMINOR=1\nDEVNAME=x\n";
    sysfs.add("loop0", uevent, &[("size", "0"), ("ro", "0")])?;
    sysfs.add("fd0", uevent, DISK)?;
    sysfs.add("nvme0c0n1", b"DEVTYPE=disk\n", DISK)?;
    sysfs.add("half", uevent, &[("size", "1")])?;
    symlink("../../devices/gone", sysfs.class().join("gone"))?;
    sysfs.add(
        "cciss!c0d0",
        b"MAJOR=1\nMINOR=1\nDEVNAME=cciss/c0d0\n",
        DISK,
    )?;
    sysfs.add("fdisk", b"MAJOR=1\nMINOR=1\nDEVNAME=fdisk\n", DISK)?;
    assert_eq!(sysfs.names()?, ["cciss!c0d0", "fdisk"]);
    let paths: Vec<_> = sysfs
        .list()?
        .into_iter()
        .map(|device| device.path)
        .collect();
    assert_eq!(paths[0], Path::new("/dev/cciss/c0d0"));
    Ok(())
}

#[test]
fn missing_sysfs_and_bad_attribute_are_errors_that_name_the_path() -> io::Result<()> {
    let sysfs = Sysfs::new()?;
    let absent = list(&sysfs.class().join("absent"), Path::new("/dev"));
    let told = absent.map_err(|error| (error.kind(), error.to_string().contains("block/absent: ")));
    assert_eq!(told, Err((ErrorKind::NotFound, true)));
    sysfs.add(
        "vda",
        b"MAJOR=1\nMINOR=1\nDEVNAME=vda\n",
        &[("size", "many"), ("ro", "0")],
    )?;
    let bad = sysfs.list().map_err(|error| error.to_string());
    assert!(bad.is_err_and(|text| text.contains("block/vda: size: \"many\\n\"")));
    Ok(())
}

#[test]
fn questions_to_something_else_than_a_block_device_are_errors() -> io::Result<()> {
    let file = tempfile::tempfile()?;
    let code = |error: Error| error.raw_os_error();
    assert_eq!(size(&file).map_err(code), Err(Some(libc::ENOTTY)));
    assert_eq!(read_only(&file).map_err(code), Err(Some(libc::ENOTTY)));
    Ok(())
}

/// A loop device with one partition, number 2, which the kernel was told of but did not read from a table.
struct Loop {
    device: String,
    _backing: NamedTempFile,
}

fn run(program: &str, arguments: &[&str]) -> io::Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Error::new(error.kind(), format!("{program}: {error}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::other(format!(
        "{program} {arguments:?}: {} {said}",
        output.status
    )))
}

impl Loop {
    fn attach(content: &[u8], options: &[&str]) -> io::Result<Self> {
        let mut backing = NamedTempFile::new()?;
        backing.write_all(content)?;
        let path = backing.path().to_string_lossy().into_owned();
        let mut arguments = vec!["--find", "--show", &path];
        arguments.extend(options);
        let device = run("losetup", &arguments)?;
        let attached = Self {
            device,
            _backing: backing,
        };
        run("addpart", &[&attached.device, "2", "2048", "2048"])?;
        Ok(attached)
    }

    fn partition(&self) -> io::Result<BlockDevice> {
        let devices = list(Path::new("/sys/class/block"), Path::new("/dev"))?;
        let path = PathBuf::from(format!("{}p2", self.device));
        let found = devices.into_iter().find(|device| device.path == path);
        found.ok_or_else(|| Error::other(format!("{} is not listed", path.display())))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        for (program, arguments) in [
            ("delpart", &[&self.device, "2"][..]),
            ("losetup", &["-d", &self.device]),
        ] {
            if let Err(error) = run(program, arguments) {
                eprintln!("cleaning up: {error}");
            }
        }
    }
}

/// Why loop devices cannot be used here. In CI that is a failure.
fn cannot_loop() -> Option<&'static str> {
    let why = if !nix::unistd::geteuid().is_root() {
        "needs root"
    } else if !Path::new("/dev/loop-control").exists() {
        "needs loop devices"
    } else if run("addpart", &["--version"]).is_err() {
        "needs addpart (util-linux)"
    } else {
        return None;
    };
    assert!(std::env::var_os("CI").is_none(), "{why}");
    println!("skipped: {why}");
    Some(why)
}

#[test]
fn partition_of_a_loop_device_is_found_with_its_uuid_and_label() -> io::Result<()> {
    if cannot_loop().is_some() {
        return Ok(());
    }
    let attached = Loop::attach(&gpt(), &[])?;
    let second = attached.partition()?;
    assert_eq!((second.size, second.read_only), (1 << 20, false));
    assert!(second.diskseq.is_some());
    assert_eq!(
        second.partition_uuid()?.as_deref(),
        Some("13121110-1514-1716-1819-1a1b1c1d1e1f")
    );
    assert_eq!(second.partition_label()?.as_deref(), Some("gva Größe 日本"));
    let file = File::open(&second.path)?;
    assert_eq!((size(&file)?, read_only(&file)?), (1 << 20, false));
    Ok(())
}

#[test]
fn partition_of_a_read_only_mbr_disk_is_found_with_its_uuid() -> io::Result<()> {
    if cannot_loop().is_some() {
        return Ok(());
    }
    let attached = Loop::attach(&mbr(), &["--read-only"])?;
    let second = attached.partition()?;
    assert!(second.read_only);
    assert_eq!(second.partition_uuid()?.as_deref(), Some("0cabcdef-02"));
    assert_eq!(second.partition_label()?, None);
    let file = File::open(&second.path)?;
    assert!(read_only(&file)?);
    Ok(())
}

#[test]
fn serial_number_is_that_of_the_disk_whatever_the_bus() -> io::Result<()> {
    let sysfs = Sysfs::new()?;
    let disks = [
        ("vda", "serial", &b"job-1 a\n"[..]),
        ("nvme0n1", "device/serial", b"  N\xff\x01E   \n"),
        ("sda", "device/vpd_pg80", b"\0\x80\0\x04QM01"),
        ("vdb", "serial", b" \n"),
        ("sdb", "device/vpd_pg80", b"\0"),
        ("vdc", "serial", &[b'x'; 1000]),
    ];
    for (name, file, serial) in disks {
        sysfs.add(name, b"", DISK)?;
        let device = sysfs.0.path().join("devices").join(name);
        fs::create_dir_all(device.join("device"))?;
        fs::write(device.join(file), serial)?;
    }
    sysfs.add("vda/vda1", b"", &[("partition", "1")])?;
    let of = |name: &str| super::serial(&sysfs.class(), name.as_ref());
    assert_eq!(of("vda").as_deref(), Some("job-1 a"));
    assert_eq!(of("vda1").as_deref(), Some("job-1 a"));
    assert_eq!(of("nvme0n1").as_deref(), Some("N__E"));
    assert_eq!(of("sda").as_deref(), Some("QM01"));
    assert_eq!((of("vdb"), of("sdb"), of("vdz")), (None, None, None));
    assert_eq!(of("vdc").map(|serial| serial.len()), Some(128));
    Ok(())
}
