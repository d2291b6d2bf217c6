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
use nix::mount::{MntFlags, umount2};
use nix::unistd::Pid;

use crate::scripts::Script;
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
    /// The same, the output an image as well.
    ReadOnlyImages,
    /// One image for everything.
    Combined,
}

impl Layout {
    /// Whether the application is an image, and whether the output is one of its own.
    pub(crate) fn images(self) -> (bool, bool) {
        match self {
            Self::Tree => (false, false),
            Self::ReadOnly | Self::Combined => (true, false),
            Self::Images | Self::ReadOnlyImages => (true, true),
        }
    }

    /// The image files.
    pub fn files(self) -> impl Iterator<Item = &'static str> {
        let (app, out) = self.images();
        let app = app.then_some("app.img");
        app.into_iter().chain(out.then_some("out.img"))
    }

    /// Whether scripts stay where they are.
    pub fn read_only(self) -> bool {
        matches!(self, Self::ReadOnly | Self::ReadOnlyImages)
    }
}

/// The file system of the images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fs {
    Ext4,
    Xfs,
}

impl Fs {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// How it is mounted beside others that were made from the same template.
    pub fn options(self) -> &'static str {
        match self {
            Self::Ext4 => "",
            Self::Xfs => "nouuid",
        }
    }
}

/// What a guest is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    pub layout: Layout,
    pub fs: Fs,
    /// `on_interrupted = "rerun"`.
    pub rerun: bool,
    /// The daemon, which comes to rest; else a drain.
    pub daemon: bool,
}

impl Kind {
    /// Only scripts that may run twice, or lie where nothing can be handed over.
    pub(crate) fn repeatable(self) -> bool {
        self.rerun || self.layout.read_only()
    }
}

/// One guest; it is gone when this is.
#[derive(Debug)]
pub struct Guest {
    pub kind: Kind,
    pub scripts: Vec<Script>,
    pub dir: PathBuf,
    pub(crate) gvad: PathBuf,
    pub(crate) keep: bool,
}

/// How a gvad ended that was not traced.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub timed_out: bool,
    pub log: String,
}

impl Guest {
    pub(crate) fn configuration(&self) -> String {
        let dir = self.dir.display();
        let ending = |is_image| if is_image { ".img" } else { "" };
        let (app, out) = self.kind.layout.images();
        let (app, out) = (ending(app), ending(out));
        let output = match self.kind.layout {
            Layout::Combined => "wait = \"0s\"\n".to_owned(),
            _ => format!("source = \"{dir}/out{out}\"\nwait = \"1s\"\n"),
        };
        let options = |image: &str| {
            if image.is_empty() {
                ""
            } else {
                self.kind.fs.options()
            }
        };
        let (app_options, out_options) = (options(app), options(out));
        let read_only = self.kind.layout.read_only();
        let interrupted = if self.kind.rerun { "rerun" } else { "report" };
        format!(
            r#"[application]
source = "{dir}/app{app}"
mount_point = "{dir}/mnt/application"
read_only = {read_only}
options = "{app_options}"
wait = "1s"
[data]
source = "{dir}/data"
mount_point = "{dir}/mnt/data"
[output]
{output}options = "{out_options}"
mount_point = "{dir}/mnt/output"
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
        let images = self.kind.layout.images();
        let app = self.shown("app", "application", images.0)?;
        let out = if self.kind.layout == Layout::Combined {
            app.join("output")
        } else {
            self.shown("out", "output", images.1)?
        };
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
        let options = match self.kind.fs {
            Fs::Ext4 => "loop,ro,noload",
            Fs::Xfs => "loop,ro,norecovery,nouuid",
        };
        mount.args(["-o", options]).arg(image).arg(&place);
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
pub fn unmount(place: &Path) -> anyhow::Result<()> {
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
