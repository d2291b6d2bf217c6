//! Running: a staged script is started, supervised, and its whole tree of processes ended. What its surroundings are and when it must end
//! comes from the configuration; what it did goes to `record`.

pub mod leftovers;
pub mod supervise;

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use tracing::warn;

use crate::capture::Capture;
use crate::explain::explain;
use crate::sys::cgroup::{Cgroup, Parent};
use crate::sys::dir::{Dir, Look};
use crate::sys::namespace::Namespaces;
use crate::sys::process::{self, OomKills};
use crate::sys::ready;
use crate::sys::spawn::{self, Child, NotStarted, Program, Step};
use supervise::Running;

/// The control group of gvad itself, beside those of the scripts, where they are limited.
const SUPERVISOR: &str = "supervisor";

/// What every run needs and none changes.
#[derive(Debug)]
pub struct Runner {
    parent: Option<Parent>,
    nowhere: Rc<File>,
    nothing: File,
    prefix: String,
    /// The machine's counter, where the groups of scripts have none of their own.
    ooms: Option<Rc<OomKills>>,
}

/// Limits and manners of one run.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// None: no limit.
    pub timeout: Option<Duration>,
    /// Between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// Bytes of each stream that are kept.
    pub output: u64,
    /// Processes that outlive the script are ended.
    pub end_tree: bool,
    /// Bytes of memory of the whole tree; 0: no limit.
    pub memory: u64,
    /// Processes and threads of the whole tree; 0: no limit.
    pub tasks: u64,
    /// Share of processor time; 0: the kernel's default.
    pub cpu_weight: u64,
}

impl Limits {
    /// What has to be written where in the control group, and the controllers that this takes.
    fn settings(self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        [
            ("memory", "memory.max", self.memory),
            ("pids", "pids.max", self.tasks),
            ("cpu", "cpu.weight", self.cpu_weight),
        ]
        .into_iter()
        .filter(|(_, _, limit)| *limit > 0)
    }
}

/// Everything that can fail has been made; nothing has been started.
#[derive(Debug)]
pub struct Ready {
    stdout: Capture,
    stderr: Capture,
    cgroup: Option<Cgroup>,
    program: CString,
    directory: CString,
    environment: Vec<CString>,
    namespaces: Namespaces,
}

impl Runner {
    /// Finds what there is of control groups. The groups of this gvad are named after its `temp_dir`, which no other gvad has.
    ///
    /// # Errors
    /// `/proc` or `/dev/null` is not there; a limit of `limits` cannot be set on this machine.
    pub fn new(temp_dir: &Dir, limits: Limits) -> anyhow::Result<Runner> {
        let own = Look::at(temp_dir)?;
        let parent = crate::sys::cgroup::own()?;
        let controllers: Vec<_> = limits.settings().map(|(name, _, _)| name).collect();
        if !controllers.is_empty() {
            enable(parent.as_ref(), &controllers)
                .context("preparing run.memory_max, run.tasks_max or run.cpu_weight")?;
        }
        if parent.is_none() {
            warn!(
                "no cgroup v2 is mounted: processes that leave a script's tree are found by their parent instead"
            );
        }
        let own_counters = match &parent {
            Some(parent) => parent.enabled("memory").unwrap_or(false),
            None => false,
        };
        Ok(Runner {
            parent,
            ooms: OomKills::open().filter(|_| !own_counters).map(Rc::new),
            nowhere: Rc::new(File::options().write(true).open("/dev/null")?),
            nothing: File::open("/dev/null")?,
            prefix: format!("gvad-{:x}-{:x}-", own.device, own.inode),
        })
    }

    /// A group that nobody is in: run numbers begin anew with a new output image, and processes of an earlier run may have been kept.
    fn make_group(&self, parent: &Parent, run: u64) -> io::Result<Cgroup> {
        for serial in 0..64 {
            if let Some(group) = parent.make(&format!("{}{run}.{serial}", self.prefix))? {
                return Ok(group);
            }
        }
        Err(io::Error::from(io::ErrorKind::ResourceBusy))
    }

    /// Removes the groups of earlier runs in which nobody is any more.
    pub fn remove_empty_groups(&self) {
        let groups = self
            .parent
            .as_ref()
            .and_then(|parent| parent.groups(&self.prefix).ok());
        for group in groups.into_iter().flatten() {
            if !group.populated().unwrap_or(true) {
                remove_group(Some(group));
            }
        }
    }

    /// Makes what a run needs: pipes and control group.
    ///
    /// # Errors
    /// Descriptors or memory are short; a name with a NUL byte.
    pub fn ready(
        &self,
        run: u64,
        files: (Rc<File>, Rc<File>),
        limits: Limits,
        script: &Path,
        directory: &Path,
        environment: &[(OsString, OsString)],
    ) -> io::Result<Ready> {
        let mut cgroup = self.parent.as_ref().and_then(|parent| {
            let made = self.make_group(parent, run);
            made.map_err(|err| {
                warn!("making a control group for run {run}: {err}; the script runs without")
            })
            .ok()
        });
        if let Err(err) = limit(cgroup.as_ref(), limits) {
            remove_group(cgroup.take());
            return Err(err);
        }
        let environment = environment.iter().map(|(name, value)| {
            let mut variable = name.as_bytes().to_vec();
            variable.push(b'=');
            variable.extend_from_slice(value.as_bytes());
            CString::new(variable)
        });
        let ready = || -> io::Result<_> {
            let (stdout, stderr) = files;
            Ok((
                Capture::new(stdout, Rc::clone(&self.nowhere), limits.output)?,
                Capture::new(stderr, Rc::clone(&self.nowhere), limits.output)?,
                CString::new(script.as_os_str().as_bytes())?,
                CString::new(directory.as_os_str().as_bytes())?,
                environment.collect::<Result<Vec<_>, _>>()?,
            ))
        };
        match ready() {
            Ok((stdout, stderr, program, directory, environment)) => Ok(Ready {
                stdout,
                stderr,
                cgroup,
                program,
                directory,
                environment,
                namespaces: Namespaces::default(),
            }),
            Err(err) => {
                remove_group(cgroup);
                Err(err)
            }
        }
    }
}

/// Makes the controllers available to the groups of scripts. No process may then be in the group above them, so this one goes into a group of its own.
fn enable(parent: Option<&Parent>, controllers: &[&str]) -> anyhow::Result<()> {
    let Some(parent) = parent else {
        bail!("there is no cgroup v2, which sets these limits");
    };
    let path = parent.path().display();
    let there = parent
        .controllers()
        .with_context(|| format!("looking at {path}"))?;
    if let Some(missing) = controllers.iter().find(|name| !there.contains(**name)) {
        bail!(
            "the control group {path} has no {missing} controller: a unit needs Delegate=yes, and the kernel cgroup v2 alone"
        );
    }
    parent
        .move_into(SUPERVISOR)
        .with_context(|| format!("moving gvad into {path}/{SUPERVISOR}"))?;
    parent.enable(controllers).with_context(|| {
        format!(
            "enabling {} in {path}: is gvad alone in it, as its unit makes it?",
            controllers.join(", ")
        )
    })
}

fn limit(cgroup: Option<&Cgroup>, limits: Limits) -> io::Result<()> {
    for (_, file, value) in limits.settings() {
        let Some(cgroup) = cgroup else {
            return Err(io::Error::other(
                "it cannot be limited without a control group",
            ));
        };
        cgroup.set(file, value).map_err(|err| {
            io::Error::new(err.kind(), format!("setting {file} to {value}: {err}"))
        })?;
    }
    Ok(())
}

fn remove_group(cgroup: Option<Cgroup>) {
    if let Some(cgroup) = cgroup {
        let path = cgroup.path().to_owned();
        if let Err(err) = cgroup.remove() {
            warn!("removing the control group {}: {err}", path.display());
        }
    }
}

impl Ready {
    /// Path of the control group, for the start mark.
    #[must_use]
    pub fn cgroup(&self) -> Option<String> {
        self.cgroup
            .as_ref()
            .and_then(|cgroup| cgroup.path().to_str().map(str::to_owned))
    }

    /// The script will run in these.
    #[must_use]
    pub fn within(mut self, namespaces: Namespaces) -> Ready {
        self.namespaces = namespaces;
        self
    }

    /// Lets everything go; the script is not started.
    pub fn abandon(self) {
        remove_group(self.cgroup);
    }

    /// Starts the script. The start mark must be durable.
    ///
    /// # Errors
    /// It was not started; a text that says why.
    pub fn start(mut self, runner: &Runner, limits: Limits) -> Result<Running, String> {
        if self.cgroup.is_none()
            && let Err(err) = process::set_subreaper(limits.end_tree)
        {
            warn!("becoming the parent of orphans: {err}");
        }
        // What was killed before it started is not this script.
        let ooms = runner.ooms.as_ref();
        let ooms = ooms.and_then(|ooms| Some((Rc::clone(ooms), ooms.lately()?)));
        let started = Instant::now();
        let started_at = SystemTime::now();
        let child = match self.spawn(runner) {
            Ok(child) => child,
            Err(refused) => {
                let reason = self.reason(&refused);
                remove_group(self.cgroup);
                return Err(reason);
            }
        };
        let Child { pid, pidfd } = child;
        let exit = match ready::readable(pidfd) {
            Ok(exit) => exit,
            Err((pidfd, err)) => {
                // It runs but cannot be waited for: the only safe thing is to end it and say so.
                if let Some(cgroup) = &self.cgroup {
                    let _ = cgroup.kill();
                }
                let _ = process::kill_group(pid);
                let _ = process::reap_blocking(&pidfd);
                remove_group(self.cgroup);
                return Err(format!("watching the process: {err}; it was ended at once"));
            }
        };
        self.stdout.started();
        self.stderr.started();
        Ok(Running {
            pid,
            exit,
            stdout: self.stdout,
            stderr: self.stderr,
            cgroup: self.cgroup,
            started,
            started_at,
            ooms,
        })
    }

    fn spawn(&self, runner: &Runner) -> Result<Child, NotStarted> {
        let (Some(stdout), Some(stderr)) = (self.stdout.write_end(), self.stderr.write_end())
        else {
            let error = io::Error::from(io::ErrorKind::BrokenPipe);
            let step = Step::Surroundings;
            return Err(NotStarted { step, error });
        };
        spawn::spawn(&Program {
            path: &self.program,
            environment: &self.environment,
            directory: &self.directory,
            stdin: runner.nothing.as_fd(),
            stdout,
            stderr,
            cgroup: self.cgroup.as_ref().map(Cgroup::as_fd),
            namespaces: &self.namespaces,
        })
    }

    /// Why it was not started, for people.
    fn reason(&self, refused: &NotStarted) -> String {
        let error = &refused.error;
        match refused.step {
            Step::Clone => format!("making a process: {error}"),
            Step::Directory => format!("entering {}: {error}", self.directory.to_string_lossy()),
            Step::Surroundings => format!("making the script's surroundings: {error}"),
            Step::Execute => explain(Path::new(OsStr::from_bytes(self.program.as_bytes())), error),
        }
    }
}
