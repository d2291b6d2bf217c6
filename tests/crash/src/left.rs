//! What a gvad can leave behind outside of its images: processes and control groups.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Processes of the scripts of the guest in `dir`: they carry its witness in their environment.
pub fn processes(dir: &Path) -> Vec<Pid> {
    let mut mark = b"WITNESS=".to_vec();
    mark.extend_from_slice(dir.as_os_str().as_bytes());
    mark.push(b'/');
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let marked = pids.filter(|pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|variable| variable.starts_with(&mark))
    });
    marked.map(Pid::from_raw).collect()
}

/// Ends them, so that one failed point does not disturb the next.
pub fn end_processes(dir: &Path) {
    for pid in processes(dir) {
        let _ = kill(pid, Signal::SIGKILL);
    }
}

/// Where gvad makes its control groups: in the group that this process is in.
pub fn group_parent() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mut mounts = mounts.lines().map(|line| line.split(' '));
    let point = mounts.find_map(|mut fields| {
        let point = fields.nth(1)?.to_owned();
        (fields.next()? == "cgroup2").then_some(point)
    })?;
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let parent = PathBuf::from(format!("{point}{own}"));
    parent.join("cgroup.procs").exists().then_some(parent)
}

/// The control groups whose names begin with `prefix`.
pub fn groups(prefix: &str) -> Vec<String> {
    let Some(parent) = group_parent() else {
        return Vec::new();
    };
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(prefix)).collect()
}
