//! Images of each file system that gvad must know, made with the system's own tools.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::process::{run, tool, unforked};
use super::wait_until;

/// A file system that gvad mounts in these tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fs {
    Ext2,
    Ext3,
    Ext4,
    Ext4WithoutJournal,
    Xfs,
    Btrfs,
    Squashfs,
    Erofs,
}

/// An image file.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) fs: Fs,
    pub(crate) path: PathBuf,
}

impl Fs {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ext2 => "ext2",
            Self::Ext3 => "ext3",
            Self::Ext4 | Self::Ext4WithoutJournal => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Squashfs => "squashfs",
            Self::Erofs => "erofs",
        }
    }
}

impl Image {
    /// An image with an empty `script-bin`.
    pub(crate) fn empty(fs: Fs, path: PathBuf, label: &str) -> Self {
        let content = tempfile::tempdir().unwrap();
        fs::set_permissions(content.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(content.path().join("script-bin")).unwrap();
        Self::of(fs, path, label, content.path())
    }

    /// An image with what is in a directory.
    pub(crate) fn of(fs: Fs, path: PathBuf, label: &str, content: &Path) -> Self {
        let image = Self { fs, path };
        image.make(label, content);
        image
    }

    fn make(&self, label: &str, content: &Path) {
        let size = match self.fs {
            Fs::Ext2 | Fs::Ext3 | Fs::Ext4 | Fs::Ext4WithoutJournal => 32 << 20,
            Fs::Xfs => 320 << 20,
            Fs::Btrfs => 128 << 20,
            Fs::Squashfs | Fs::Erofs => 0,
        };
        let _ = fs::remove_file(&self.path);
        fs::File::create(&self.path).unwrap().set_len(size).unwrap();
        match self.fs {
            Fs::Ext2 | Fs::Ext3 | Fs::Ext4 | Fs::Ext4WithoutJournal => {
                let mut mkfs = Command::new("mke2fs");
                mkfs.args(["-q", "-F", "-t", self.fs.name(), "-L", label, "-d"])
                    .arg(content);
                if self.fs == Fs::Ext4WithoutJournal {
                    mkfs.args(["-O", "^has_journal"]);
                }
                tool(mkfs.arg(&self.path));
            }
            Fs::Xfs | Fs::Btrfs => {
                let mut mkfs = Command::new(format!("mkfs.{}", self.fs.name()));
                tool(mkfs.args(["-q", "-f", "-L", label]).arg(&self.path));
                let mut copy = Command::new("cp");
                let point = tempfile::tempdir().unwrap();
                self.inside(point.path(), |root| {
                    tool(copy.arg("-a").arg(content.join(".")).arg(root))
                });
            }
            Fs::Squashfs => {
                let mut mkfs = Command::new("mksquashfs");
                mkfs.arg(content).arg(&self.path);
                tool(mkfs.args(["-noappend", "-quiet", "-no-progress"]));
            }
            Fs::Erofs => {
                let mut mkfs = Command::new("mkfs.erofs");
                // One file system, one identity: the UUID is drawn from the label.
                let uuid = format!("00000000-0000-4000-8000-{:012x}", fingerprint(label));
                tool(
                    mkfs.args(["--quiet", "-U", &uuid])
                        .arg(&self.path)
                        .arg(content),
                );
            }
        }
    }

    /// Mounts the image at a directory, lets `act` look, and unmounts it.
    pub(crate) fn inside<T>(&self, point: &Path, act: impl FnOnce(&Path) -> T) -> T {
        fs::create_dir_all(point).unwrap();
        let options = if matches!(self.fs, Fs::Squashfs | Fs::Erofs) {
            "loop,ro"
        } else {
            "loop"
        };
        let mut mount = Command::new("mount");
        mount
            .args(["-t", self.fs.name(), "-o", options])
            .arg(&self.path)
            .arg(point);
        tool(&mut mount);
        let result = act(point);
        // A child that another test has just forked may have a file open here, until it executes its program.
        let mut umount = Command::new("umount");
        umount.arg(point);
        wait_until("the image is unmounted", || {
            run(&mut umount).code == Some(0)
        });
        // The kernel detaches the loop device in its own time; gvad would find the image in use.
        let mut losetup = Command::new("losetup");
        losetup
            .args(["-n", "-O", "AUTOCLEAR", "-j"])
            .arg(&self.path);
        wait_until("the image is detached", || {
            !tool(&mut losetup).contains('1')
        });
        result
    }
}

fn fingerprint(label: &str) -> u64 {
    label.bytes().fold(5381_u64, |sum, byte| {
        (sum * 33 + u64::from(byte)) & 0xffff_ffff_ffff
    })
}

/// Writes an executable file, whose directory is made if need be.
pub(crate) fn write_script(path: &Path, body: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o755);
    unforked(|| {
        let mut file = options.open(path).unwrap();
        file.write_all(body.as_bytes()).unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o755))
            .unwrap();
    });
}
