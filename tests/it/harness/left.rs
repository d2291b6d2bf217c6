//! What gvad, or a failed test, has left in the guest: mounts, loop devices, processes, claims, private directories.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Guest, names, wait_until};

impl Guest {
    /// The mounts under the test's directory: `mountinfo` lines.
    pub(crate) fn mounts(&self) -> Vec<String> {
        let root = self.dir.path().to_str().unwrap();
        let all = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        all.lines()
            .filter(|l| l.split(' ').nth(4).is_some_and(|p| p.starts_with(root)))
            .map(str::to_owned)
            .collect()
    }

    /// The `mountinfo` line of a mount point, the topmost.
    pub(crate) fn mount_line(&self, point: &Path) -> Option<String> {
        self.mounts()
            .into_iter()
            .rev()
            .find(|l| l.split(' ').nth(4) == point.to_str())
    }

    pub(super) fn is_mounted(&self, point: &Path) -> bool {
        self.mount_line(point).is_some()
    }

    /// The loop devices on files of this test that the test did not attach itself.
    pub(crate) fn loops(&self) -> Vec<String> {
        let root = self.dir.path().as_os_str().as_bytes();
        let mut found = Vec::new();
        for entry in fs::read_dir("/sys/block").unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let file = fs::read(format!("/sys/block/{name}/loop/backing_file")).unwrap_or_default();
            if file.starts_with(root) && !self.attached.borrow().contains(&format!("/dev/{name}")) {
                found.push(name);
            }
        }
        found
    }

    /// The processes in the guest's mount namespace: all that the test started and what they started.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let ours = fs::read_link("/proc/thread-self/ns/mnt").unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        let pids = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(|pid| *pid != me)
            .filter(|pid| fs::read_link(format!("/proc/{pid}/ns/mnt")).is_ok_and(|ns| ns == ours))
            .filter(|pid| {
                // A zombie whose parent has not looked yet is no process any more.
                let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                stat.rsplit_once(") ")
                    .is_some_and(|(_, rest)| !rest.starts_with('Z'))
            })
            .collect()
    }

    /// The control groups of this guest's runs that are there.
    fn cgroups(&self) -> Vec<String> {
        let Ok(state) = fs::metadata(self.path("state")) else {
            return Vec::new();
        };
        let prefix = format!("gvad-{:x}-{:x}-", state.dev(), state.ino());
        let (mut open, mut found) = (vec![PathBuf::from("/sys/fs/cgroup")], Vec::new());
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                found.extend(Some(name.clone()).filter(|name| name.starts_with(&prefix)));
                open.extend(
                    entry
                        .file_type()
                        .is_ok_and(|t| t.is_dir())
                        .then(|| entry.path()),
                );
            }
        }
        found
    }

    /// No process, control group or loop device is left in the guest, and where gvad mounts is nothing that was not there before.
    #[track_caller]
    pub(crate) fn assert_over(&self, before: &[String]) {
        wait_until("gvad and every script has ended", || {
            self.processes().is_empty()
        });
        assert_eq!(
            self.cgroups(),
            Vec::<String>::new(),
            "control groups are left"
        );
        wait_until("every loop device is detached", || self.loops().is_empty());
        let places = self.text("mnt/");
        let mut mounts = self.mounts();
        mounts.retain(|line| line.contains(&places) && !before.contains(line));
        assert_eq!(mounts, Vec::<String>::new(), "mounts are left");
    }

    /// Nothing of gvad is left in the guest: no mount, loop device, process, claim, private directory.
    #[track_caller]
    pub(crate) fn assert_clean(&self) {
        self.assert_unmounted();
        assert_eq!(self.claims(), Vec::<PathBuf>::new(), "claims are left");
    }

    /// The same for what can be seen without looking into the application.
    #[track_caller]
    pub(crate) fn assert_unmounted(&self) {
        self.assert_over(&[]);
        assert_eq!(self.mounts(), Vec::<String>::new(), "mounts are left");
        let stages: Vec<_> = names(&self.path("state"))
            .into_iter()
            .filter(|n| n.starts_with("run-"))
            .collect();
        assert_eq!(stages, Vec::<String>::new(), "private directories are left");
    }

    /// The files under `script-bin/.gvad`.
    pub(crate) fn claims(&self) -> Vec<PathBuf> {
        self.inside(|root| {
            let mut files = Vec::new();
            let mut open = vec![root.join("script-bin/.gvad")];
            while let Some(dir) = open.pop() {
                for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                    let list = if entry.file_type().unwrap().is_dir() {
                        &mut open
                    } else {
                        &mut files
                    };
                    list.push(entry.path());
                }
            }
            files
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        for pid in self.processes() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let gone = Instant::now();
        while !self.processes().is_empty() && gone.elapsed() < Duration::from_secs(5) {
            thread::sleep(Duration::from_millis(10));
        }
        for line in self.mounts().iter().rev() {
            let point = line.split(' ').nth(4).unwrap_or_default();
            let _ = umount2(point, MntFlags::MNT_DETACH);
        }
        for device in self.attached.borrow().iter() {
            let _ = Command::new("losetup").args(["--detach", device]).status();
        }
        let _ = setns(&self.home, CloneFlags::CLONE_NEWNS);
    }
}
