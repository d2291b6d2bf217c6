//! What gvad holds: memory, descriptors, threads, control groups, mounts, loop devices.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// So much more memory at the end than at the start is no leak, in KiB: the allocator keeps what the ledger was written anew from, 1 MiB, once that
/// has happened.
const SLACK_KIB: u64 = 1536;

/// What a gvad holds at a moment at which it has nothing to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// Process.
    pub(crate) pid: u32,
    /// Memory of its own, without what of its program has been read so far, KiB.
    pub(crate) anonymous_kib: u64,
    /// Proportional set size, KiB.
    pub(crate) pss_kib: u64,
    /// Its peak resident set size so far, KiB.
    pub(crate) peak_rss_kib: u64,
    /// Open descriptors.
    pub(crate) descriptors: usize,
    /// Threads.
    pub(crate) threads: usize,
    /// Mounts that it sees.
    pub(crate) mounts: usize,
    /// Control groups of the whole machine.
    pub(crate) cgroups: usize,
    /// Loop devices in use in the whole machine.
    pub(crate) loops: usize,
    /// Processes of the whole machine.
    pub(crate) processes: usize,
}

impl Figures {
    /// Those of the process that `command` names.
    pub(crate) fn take(command: &str) -> anyhow::Result<Figures> {
        let pid = pid(command)?;
        let proc = Path::new("/proc").join(pid.to_string());
        let names = |of: &Path| fs::read_dir(of).map_or(0, |entries| entries.flatten().count());
        let mounts = fs::read_to_string(proc.join("mountinfo")).context("reading mountinfo")?;
        let loops = fs::read_dir("/sys/block").context("reading /sys/block")?;
        let loops = loops
            .flatten()
            .filter(|entry| entry.path().join("loop/backing_file").exists());
        let processes = fs::read_dir("/proc").context("reading /proc")?.flatten();
        let processes = processes.filter(|entry| entry.path().join("exe").read_link().is_ok());
        Ok(Figures {
            pid,
            anonymous_kib: number(&proc.join("smaps_rollup"), "Anonymous:")?,
            pss_kib: number(&proc.join("smaps_rollup"), "Pss:")?,
            peak_rss_kib: number(&proc.join("status"), "VmHWM:")?,
            descriptors: names(&proc.join("fd")),
            threads: names(&proc.join("task")),
            mounts: mounts.lines().count(),
            cgroups: directories(Path::new("/sys/fs/cgroup")),
            loops: loops.count(),
            processes: processes.count(),
        })
    }

    /// What there is more of in `later`.
    pub(crate) fn leaked(&self, later: &Figures) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut same = |what: &str, before: usize, after: usize| {
            if before != after {
                wrong.push(format!("{what}: {before} at the start, {after} at the end"));
            }
        };
        same("descriptors", self.descriptors, later.descriptors);
        same("threads", self.threads, later.threads);
        same("mounts", self.mounts, later.mounts);
        same("control groups", self.cgroups, later.cgroups);
        same("loop devices", self.loops, later.loops);
        same("processes", self.processes, later.processes);
        if later.anonymous_kib > self.anonymous_kib + SLACK_KIB {
            wrong.push(format!(
                "memory: {} KiB at the start, {} KiB at the end",
                self.anonymous_kib, later.anonymous_kib
            ));
        }
        if self.pid != later.pid {
            wrong.push(format!(
                "gvad was process {}, and is {}: it died",
                self.pid, later.pid
            ));
        }
        wrong
    }
}

/// gvad's process, as `command` prints it.
pub(crate) fn pid(command: &str) -> anyhow::Result<u32> {
    let output = Command::new("/bin/sh")
        .args(["-c", command])
        .output()
        .context("running /bin/sh")?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim()
        .parse()
        .with_context(|| format!("{command} printed {text:?}, which is no process"))
}

fn number(file: &Path, key: &str) -> anyhow::Result<u64> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("{} has no {key}", file.display()))
}

fn directories(path: &Path) -> usize {
    let Ok(entries) = fs::read_dir(path) else {
        return 0;
    };
    let below = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    below.map(|entry| 1 + directories(&entry.path())).sum()
}
