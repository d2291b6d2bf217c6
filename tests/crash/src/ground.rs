//! Where guests stand: a mount namespace with a tmpfs, and the images of which they get copies.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::guest::{Fs, Guest, Kind, Layout, tool, unmount};
use crate::scripts;

/// What all guests have in common.
#[derive(Debug)]
pub struct Ground {
    /// A tmpfs.
    pub base: PathBuf,
    pub gvad: PathBuf,
    /// The mount namespace with that tmpfs.
    namespace: File,
}

impl Ground {
    /// Makes a mount namespace with a tmpfs at `base` in it.
    pub fn new(base: &Path, gvad: &Path) -> anyhow::Result<Self> {
        unshare(CloneFlags::CLONE_NEWNS).context("making a mount namespace")?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        for (at, options) in [(base, "mode=755,size=4g"), (Path::new("/run"), "mode=755")] {
            mount(
                Some("tmpfs"),
                at,
                Some("tmpfs"),
                MsFlags::empty(),
                Some(options),
            )?;
        }
        Ok(Self {
            base: base.to_owned(),
            gvad: gvad.canonicalize().context("looking for gvad")?,
            namespace: File::open("/proc/thread-self/ns/mnt")?,
        })
    }

    /// Takes the tmpfs away with everything in it.
    pub fn end(self) -> anyhow::Result<()> {
        unshare(CloneFlags::CLONE_FS)?;
        setns(&self.namespace, CloneFlags::CLONE_NEWNS)?;
        umount2(&self.base, MntFlags::MNT_DETACH).context("unmounting the tmpfs")
    }

    /// Leaves the namespace of this thread's last guest, for a new one.
    fn fresh_namespace(&self) -> anyhow::Result<()> {
        // The first: a thread that shares its working directory with others may not enter a namespace.
        unshare(CloneFlags::CLONE_FS)?;
        setns(&self.namespace, CloneFlags::CLONE_NEWNS).context("entering the mount namespace")?;
        unshare(CloneFlags::CLONE_NEWNS).context("making a mount namespace")
    }

    /// Makes the images that guests get copies of.
    pub fn make_templates(&self, fs: Fs) -> anyhow::Result<()> {
        for (image, repeatable) in [
            ("app.img", Some(false)),
            ("app-repeatable.img", Some(true)),
            ("out.img", None),
        ] {
            let content = self.base.join(format!("{image}.content"));
            if !content.exists() {
                fs::create_dir(&content)?;
                if let Some(repeatable) = repeatable {
                    scripts::hand_over(&scripts::all(repeatable), &content.join("script-bin"))?;
                }
            }
            let file = self.template(fs, image);
            match fs {
                Fs::Ext4 => {
                    let mut mke2fs = Command::new("mke2fs");
                    mke2fs.args(["-q", "-t", "ext4", "-J", "size=1", "-d"]);
                    tool(mke2fs.arg(&content).arg(&file).arg("16M"))?;
                }
                Fs::Xfs => make_xfs(&file, &content, &self.base.join("made"))?,
            }
        }
        Ok(())
    }

    fn template(&self, fs: Fs, image: &str) -> PathBuf {
        self.base.join(format!("{}-{image}", fs.name()))
    }

    /// The image from which a guest's is copied.
    pub fn template_of(&self, kind: Kind, image: &str) -> PathBuf {
        match (image, kind.repeatable()) {
            ("app.img", true) => self.template(kind.fs, "app-repeatable.img"),
            _ => self.template(kind.fs, image),
        }
    }

    /// A new guest, in a new namespace of the calling thread.
    pub fn guest(&self, name: &str, kind: Kind, keep: bool) -> anyhow::Result<Guest> {
        let guest = self.empty_guest(name, kind, keep)?;
        for image in kind.layout.files() {
            fs::copy(self.template_of(kind, image), guest.dir.join(image))?;
        }
        Ok(guest)
    }

    /// The same, with no images yet.
    pub fn empty_guest(&self, name: &str, kind: Kind, keep: bool) -> anyhow::Result<Guest> {
        self.fresh_namespace()?;
        let guest = Guest {
            kind,
            scripts: scripts::all(kind.repeatable()),
            dir: self.base.join(name),
            gvad: self.gvad.clone(),
            keep,
        };
        let _ = fs::remove_dir_all(&guest.dir);
        for directory in ["state", "mnt", "look", "data"] {
            fs::create_dir_all(guest.dir.join(directory))?;
        }
        let (app, out) = kind.layout.images();
        if !app {
            scripts::hand_over(&guest.scripts, &guest.dir.join("app/script-bin"))?;
        }
        if !out {
            fs::create_dir(guest.dir.join("out"))?;
        }
        if kind.layout == Layout::Combined {
            hide_devices()?;
        }
        fs::write(guest.dir.join("gvad.toml"), guest.configuration())?;
        Ok(guest)
    }
}

/// An output image is looked for by its label where none is named; the machine's own devices are nothing to a guest.
fn hide_devices() -> anyhow::Result<()> {
    let (none, tmpfs) = (None::<&str>, Some("tmpfs"));
    mount(tmpfs, "/sys/class/block", tmpfs, MsFlags::empty(), none).context("hiding the devices")
}

fn make_xfs(file: &Path, content: &Path, place: &Path) -> anyhow::Result<()> {
    // The least that mkfs.xfs makes; most of it stays a hole.
    File::create(file)?.set_len(300 << 20)?;
    tool(Command::new("mkfs.xfs").arg("-q").arg(file))?;
    fs::create_dir_all(place)?;
    tool(
        Command::new("mount")
            .args(["-o", "loop,nouuid"])
            .arg(file)
            .arg(place),
    )?;
    // With a FIFO and names that are no UTF-8.
    let copied = tool(
        Command::new("cp")
            .arg("-a")
            .arg(content.join("."))
            .arg(place),
    );
    unmount(place)?;
    copied
}
