//! A pretend guest for one point: a directory with the scripts, the output, gvad's own state and configuration, in a mount
//! namespace that ends with the point, and so takes along whatever was left mounted.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::Pid;

use crate::scripts::{self, Script};
use crate::trace::{self, Plan, Traced};
use crate::watchdog::Watchdog;

/// What the application and the output are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Directories, used in place.
    Tree,
    /// Two ext4 images.
    Images,
    /// An ext4 image that is mounted read-only; the output is a directory.
    ReadOnly,
}

/// What all guests have in common.
#[derive(Debug)]
pub struct Ground {
    /// A tmpfs.
    pub base: PathBuf,
    pub gvad: PathBuf,
    /// The mount namespace with that tmpfs.
    namespace: File,
}

/// What a guest is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    pub layout: Layout,
    /// `on_interrupted = "rerun"`.
    pub rerun: bool,
    /// The daemon, which comes to rest; else a drain.
    pub daemon: bool,
}

impl Kind {
    /// Only scripts that may run twice, or lie where nothing can be handed over.
    fn repeatable(self) -> bool {
        self.rerun || self.layout == Layout::ReadOnly
    }
}

/// One guest; it is gone when this is.
#[derive(Debug)]
pub struct Guest {
    pub kind: Kind,
    pub scripts: Vec<Script>,
    pub dir: PathBuf,
    gvad: PathBuf,
    keep: bool,
}

/// How a gvad ended that was not traced.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub timed_out: bool,
    pub log: String,
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
    pub fn make_templates(&self) -> anyhow::Result<()> {
        for (image, size, scripts) in [
            ("app.img", "8M", Some(scripts::all(false))),
            ("app-repeatable.img", "8M", Some(scripts::all(true))),
            ("out.img", "16M", None),
        ] {
            let content = self.base.join(format!("{image}.content"));
            fs::create_dir(&content)?;
            if let Some(scripts) = scripts {
                scripts::hand_over(&scripts, &content.join("script-bin"))?;
            }
            let mut mke2fs = Command::new("mke2fs");
            mke2fs.args(["-q", "-t", "ext4", "-J", "size=1", "-d"]);
            tool(mke2fs.arg(&content).arg(self.base.join(image)).arg(size))?;
        }
        Ok(())
    }

    /// A new guest, in a new namespace of the calling thread.
    pub fn guest(&self, name: &str, kind: Kind, keep: bool) -> anyhow::Result<Guest> {
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
        if kind.layout == Layout::Tree {
            scripts::hand_over(&guest.scripts, &guest.dir.join("app/script-bin"))?;
        } else {
            let template = if kind.repeatable() {
                "app-repeatable.img"
            } else {
                "app.img"
            };
            fs::copy(self.base.join(template), guest.dir.join("app.img"))?;
        }
        if kind.layout == Layout::Images {
            fs::copy(self.base.join("out.img"), guest.dir.join("out.img"))?;
        } else {
            fs::create_dir(guest.dir.join("out"))?;
        }
        fs::write(guest.dir.join("gvad.toml"), guest.configuration())?;
        Ok(guest)
    }
}

impl Guest {
    fn configuration(&self) -> String {
        let dir = self.dir.display();
        let ending = |is_image| if is_image { ".img" } else { "" };
        let app = ending(self.kind.layout != Layout::Tree);
        let out = ending(self.kind.layout == Layout::Images);
        let read_only = self.kind.layout == Layout::ReadOnly;
        let interrupted = if self.kind.rerun { "rerun" } else { "report" };
        format!(
            r#"[application]
source = "{dir}/app{app}"
mount_point = "{dir}/mnt/application"
read_only = {read_only}
wait = "1s"
[data]
source = "{dir}/data"
mount_point = "{dir}/mnt/data"
[output]
source = "{dir}/out{out}"
mount_point = "{dir}/mnt/output"
wait = "1s"
[watch]
poll_interval = "100ms"
settle = "50ms"
[run]
temp_dir = "{dir}/state"
stop_grace = "1s"
on_interrupted = "{interrupted}"
[environment]
WITNESS = "{dir}/witness"
[report]
port = ""
[parameters]
wait = "0s"
"#
        )
    }

    fn command(&self, log: &str, daemon: bool) -> anyhow::Result<Command> {
        let mut command = Command::new(&self.gvad);
        if !daemon {
            command.arg("drain");
        }
        command
            .arg("--config")
            .arg(self.dir.join("gvad.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(self.dir.join(log))?);
        Ok(command)
    }

    /// A gvad that is traced.
    pub fn traced(
        &self,
        log: &str,
        plan: Option<&Plan>,
        watchdog: &Watchdog,
    ) -> anyhow::Result<Traced> {
        trace::run(
            self.command(log, self.kind.daemon)?,
            &self.dir,
            plan,
            watchdog,
        )
    }

    /// A drain that nothing is done to.
    pub fn drain(&self, log: &str, watchdog: &Watchdog) -> anyhow::Result<Ended> {
        let mut child = self.command(log, false)?.spawn()?;
        let watched = watchdog.watch(Pid::from_raw(i32::try_from(child.id())?));
        let status = child.wait()?;
        Ok(Ended {
            code: status.code(),
            timed_out: watched.timed_out(),
            log: self.log(log),
        })
    }

    pub fn log(&self, log: &str) -> String {
        let bytes = fs::read(self.dir.join(log)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What scripts told, line by line.
    pub fn witness(&self) -> Vec<String> {
        let told = fs::read_to_string(self.dir.join("witness")).unwrap_or_default();
        told.lines().map(str::to_owned).collect()
    }

    /// The application and the output as they lie there, in use or not.
    pub fn look<T>(
        &self,
        act: impl FnOnce(&Path, &Path) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let app = self.shown("app", "application", self.kind.layout != Layout::Tree)?;
        let out = self.shown("out", "output", self.kind.layout == Layout::Images)?;
        let found = act(&app, &out);
        for place in ["look/app", "look/out"] {
            let place = self.dir.join(place);
            if self.is_mounted(&place) {
                unmount(&place)?;
            }
        }
        self.wait_for_detached()?;
        found
    }

    fn shown(&self, name: &str, point: &str, image: bool) -> anyhow::Result<PathBuf> {
        if !image {
            return Ok(self.dir.join(name));
        }
        let used = self.dir.join("mnt").join(point);
        if self.is_mounted(&used) {
            return Ok(used);
        }
        let place = self.dir.join("look").join(name);
        fs::create_dir_all(&place)?;
        let image = self.dir.join(format!("{name}.img"));
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop,ro,noload"]).arg(image).arg(&place);
        // The free loop device that mount(8) was told of may be another's by now.
        let mut tries = (0..20).map(|_| tool(&mut mount));
        match tries.find(Result::is_ok) {
            Some(_) => Ok(place),
            None => tool(&mut mount).map(|()| place),
        }
    }

    fn is_mounted(&self, place: &Path) -> bool {
        self.mounts().iter().any(|mounted| mounted == place)
    }

    /// What is mounted in this guest.
    pub fn mounts(&self) -> Vec<PathBuf> {
        let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap_or_default();
        let points = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1).map(PathBuf::from));
        points
            .filter(|point| point.starts_with(&self.dir))
            .collect()
    }

    /// The loop devices on this guest's images.
    pub fn loops(&self) -> Vec<PathBuf> {
        let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
        let ours = devices.filter(|device| {
            let backing = fs::read_to_string(device.path().join("loop/backing_file"));
            backing.is_ok_and(|file| Path::new(file.trim_end()).starts_with(&self.dir))
        });
        ours.map(|device| device.path()).collect()
    }

    /// The kernel detaches a loop device in its own time.
    pub fn wait_for_detached(&self) -> anyhow::Result<()> {
        for _ in 0..400 {
            if self.loops().is_empty() || !self.mounts().is_empty() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(5));
        }
        bail!("a loop device stays on an image: {:?}", self.loops())
    }

    /// The beginning of the names of this guest's control groups.
    pub fn group_prefix(&self) -> String {
        fs::metadata(self.dir.join("state")).map_or_else(
            |_| "gvad-".to_owned(),
            |state| format!("gvad-{:x}-{:x}-", state.dev(), state.ino()),
        )
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        for point in self.mounts().iter().rev() {
            let _ = umount2(point, MntFlags::MNT_DETACH);
        }
        crate::left::end_processes(&self.dir);
        if !self.keep {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// A child that another thread has just forked has this thread's files open, until it executes its program.
fn unmount(place: &Path) -> anyhow::Result<()> {
    for _ in 0..400 {
        match umount2(place, MntFlags::empty()) {
            Err(Errno::EBUSY) => thread::sleep(Duration::from_millis(5)),
            other => return other.context("unmounting an image"),
        }
    }
    bail!("{} stays busy", place.display())
}

/// Runs a tool that must succeed.
pub fn tool(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
