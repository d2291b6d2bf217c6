//! Control groups, version 2: a group for a tree of processes, and the end of all of them by one write.
//!
//! Relies on the kernel's Documentation/admin-guide/cgroup-v2.rst; `cgroup.kill` came with Linux 5.14.

use std::cell::Cell;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::dir::Dir;
use super::mountinfo;

/// The place in the hierarchy where this process may make groups: its own group.
#[derive(Debug, Clone)]
pub struct Parent {
    path: PathBuf,
    /// A group here was seen to have `cgroup.kill`.
    kills: Cell<bool>,
}

/// A group.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    dir: Dir,
}

/// Finds this process's own group, wherever version 2 is mounted; `None` if it is not to be had.
///
/// # Errors
/// `/proc` is not there.
pub fn own() -> io::Result<Option<Parent>> {
    let text = fs::read("/proc/self/cgroup")?;
    let own = text
        .split(|&byte| byte == b'\n')
        .find_map(|line| line.strip_prefix(b"0::"));
    let mount = mountinfo::list()?
        .into_iter()
        .rev()
        .find(|mount| mount.fstype == "cgroup2");
    let (Some(own), Some(mount)) = (own, mount) else {
        return Ok(None);
    };
    let own = Path::new(OsStr::from_bytes(own));
    let relative = own.strip_prefix(&mount.root).unwrap_or(own);
    let path = mount
        .path
        .join(relative.strip_prefix("/").unwrap_or(relative));
    let kills = Cell::new(false);
    Ok(path.is_dir().then_some(Parent { path, kills }))
}

impl Parent {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The controllers that can be enabled here.
    ///
    /// # Errors
    /// Those of reading `cgroup.controllers`.
    pub fn controllers(&self) -> io::Result<HashSet<String>> {
        let text = fs::read_to_string(self.path.join("cgroup.controllers"))?;
        Ok(text.split_ascii_whitespace().map(str::to_owned).collect())
    }

    /// Moves this process into the group `name` here, which is made if need be.
    ///
    /// # Errors
    /// Those of mkdir(2), and of writing `cgroup.procs`.
    pub fn move_into(&self, name: &str) -> io::Result<()> {
        let path = self.path.join(name);
        match fs::create_dir(&path) {
            Err(err) if err.kind() != io::ErrorKind::AlreadyExists => return Err(err),
            _ => {}
        }
        fs::write(path.join("cgroup.procs"), "0")
    }

    /// Lets the groups here have these controllers.
    ///
    /// # Errors
    /// `EBUSY`: a process is in this group itself ("no internal processes").
    pub fn enable(&self, controllers: &[&str]) -> io::Result<()> {
        let words: Vec<_> = controllers.iter().map(|name| format!("+{name}")).collect();
        fs::write(self.path.join("cgroup.subtree_control"), words.join(" "))
    }

    /// The groups here whose names begin with `prefix`.
    ///
    /// # Errors
    /// Those of reading a directory.
    pub fn groups(&self, prefix: &str) -> io::Result<Vec<Cgroup>> {
        let ours = |name: &std::ffi::OsString| name.as_bytes().starts_with(prefix.as_bytes());
        let names = Dir::open(&self.path)?.names()?;
        let paths = names
            .iter()
            .filter(|name| ours(name))
            .map(|name| self.path.join(name));
        paths.map(Cgroup::open).collect()
    }

    /// Whether the groups here have this controller.
    ///
    /// # Errors
    /// Those of reading `cgroup.subtree_control`.
    pub fn enabled(&self, controller: &str) -> io::Result<bool> {
        let text = fs::read_to_string(self.path.join("cgroup.subtree_control"))?;
        Ok(text.split_ascii_whitespace().any(|name| name == controller))
    }

    /// Makes the group `name`, in which nobody is and whose counters begin at 0; `None` if one of that name is there, and somebody is in it.
    ///
    /// # Errors
    /// Those of mkdir(2); `EOPNOTSUPP` where the kernel has no `cgroup.kill`.
    pub fn make(&self, name: &str) -> io::Result<Option<Cgroup>> {
        let path = self.path.join(name);
        match fs::create_dir(&path) {
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {
                let left = Cgroup::open(path.clone())?;
                if left.populated()? {
                    return Ok(None);
                }
                left.remove()?;
                fs::create_dir(&path)?;
            }
            other => other?,
        }
        let group = Cgroup::open(path)?;
        if !self.kills.get() && !group.path.join("cgroup.kill").exists() {
            fs::remove_dir(&group.path)?;
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        self.kills.set(true);
        Ok(Some(group))
    }
}

impl Cgroup {
    fn open(path: PathBuf) -> io::Result<Cgroup> {
        let dir = Dir::open(&path)?;
        Ok(Cgroup { path, dir })
    }

    /// The group at `path`, if it is there.
    ///
    /// # Errors
    /// Those of open(2) but `ENOENT`; a path outside of any version 2 hierarchy is `EINVAL`.
    pub fn find(path: &Path) -> io::Result<Option<Cgroup>> {
        let inside = mountinfo::list()?
            .iter()
            .any(|mount| mount.fstype == "cgroup2" && path.starts_with(&mount.path));
        let plain = path
            .components()
            .all(|part| !matches!(part, std::path::Component::ParentDir));
        if !inside || !plain {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        match Cgroup::open(path.to_owned()) {
            Ok(group) => Ok(Some(group)),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory, for `CLONE_INTO_CGROUP`.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Whether any process is in it or in a group below it.
    ///
    /// # Errors
    /// Those of reading `cgroup.events`.
    pub fn populated(&self) -> io::Result<bool> {
        let [populated] = self.numbers("cgroup.events", ["populated"])?;
        Ok(populated != Some(0))
    }

    /// Sends SIGKILL to every process in it and below, those that are just being forked included.
    ///
    /// # Errors
    /// Those of writing `cgroup.kill`.
    pub fn kill(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.kill"), "1")
    }

    /// Sends SIGTERM to every process that is in it now, and in the groups below it.
    ///
    /// # Errors
    /// Those of reading `cgroup.procs`.
    pub fn terminate(&self) -> io::Result<()> {
        terminate_all(&self.path, 0)
    }

    /// Processor time of all that ever ran in it: in user mode, and in the kernel.
    ///
    /// # Errors
    /// Those of reading `cpu.stat`.
    pub fn cpu_time(&self) -> io::Result<(Duration, Duration)> {
        let [user, system] = self
            .numbers("cpu.stat", ["user_usec", "system_usec"])?
            .map(|micros| Duration::from_micros(micros.unwrap_or(0)));
        Ok((user, system))
    }

    /// How many of its processes the OOM killer ended; `None` without the memory controller.
    #[must_use]
    pub fn oom_kills(&self) -> Option<u64> {
        let [kills] = self.numbers("memory.events", ["oom_kill"]).ok()?;
        kills
    }

    /// How often one of its processes was refused another process, for `pids.max`; `None` without that controller.
    #[must_use]
    pub fn refused_forks(&self) -> Option<u64> {
        let [refused] = self.numbers("pids.events", ["max"]).ok()?;
        refused
    }

    /// Sets a limit, such as `memory.max`.
    ///
    /// # Errors
    /// `ENOENT`: its controller is not enabled; `EINVAL`, `ERANGE`: the value.
    pub fn set(&self, file: &str, value: u64) -> io::Result<()> {
        fs::write(self.path.join(file), value.to_string())
    }

    /// The numbers behind these keys, in a file of lines of `key number`. One read gives all of such a file, of which the kernel makes less than a page.
    fn numbers<const N: usize>(&self, file: &str, keys: [&str; N]) -> io::Result<[Option<u64>; N]> {
        let mut page = [0; 4096];
        let count = self.dir.open_file(file)?.read_at(&mut page, 0)?;
        let text = str::from_utf8(page.get(..count).unwrap_or_default()).unwrap_or_default();
        Ok(keys.map(|key| {
            let mut values = text.lines();
            values
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
                .and_then(|digits| digits.trim().parse().ok())
        }))
    }

    /// Removes it and the groups that its processes made in it.
    ///
    /// # Errors
    /// `EBUSY`: a process is in it.
    pub fn remove(self) -> io::Result<()> {
        remove_groups(&self.path, 0)
    }
}

fn terminate_all(path: &Path, depth: usize) -> io::Result<()> {
    let text = fs::read_to_string(path.join("cgroup.procs"))?;
    for pid in text
        .split_ascii_whitespace()
        .filter_map(|pid| pid.parse().ok())
    {
        // One that has ended meanwhile needs no signal. Its number is not used again so soon.
        super::process::terminate(pid)?;
    }
    if depth < DEEPEST {
        for entry in fs::read_dir(path)?.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                terminate_all(&entry.path(), depth + 1)?;
            }
        }
    }
    Ok(())
}

/// Groups nest to a depth that the kernel and the path length bound; a script gains nothing by going deeper than this.
const DEEPEST: usize = 64;

fn remove_groups(path: &Path, depth: usize) -> io::Result<()> {
    if fs::remove_dir(path).is_ok() {
        return Ok(());
    }
    if depth < DEEPEST {
        for entry in fs::read_dir(path)?.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove_groups(&entry.path(), depth + 1)?;
            }
        }
    }
    fs::remove_dir(path)
}
