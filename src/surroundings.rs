//! What a script finds around itself: its environment, and the limits it runs under.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::config::{Config, DEFAULT_PATH, Leftovers, Run};
use crate::ledger::line::Start;
use crate::progress;
use crate::run::Limits;
use crate::stage::Stage;
use crate::sys::namespace::{self, Namespaces, View};

/// The directories that scripts are told of.
#[derive(Debug, Clone)]
pub struct Places {
    /// `GVA_APPLICATION`
    pub application: PathBuf,
    /// `GVA_DATA`
    pub data: PathBuf,
    /// `GVA_OUTPUT`
    pub output: PathBuf,
}

/// The limits of the configuration.
#[must_use]
pub fn limits(config: &Config) -> Limits {
    let timeout = config.run.timeout.0;
    Limits {
        timeout: (!timeout.is_zero()).then_some(timeout),
        grace: config.run.stop_grace.0,
        output: config.run.output_limit.0,
        end_tree: config.run.leftovers == Leftovers::Kill,
        memory: config.run.memory_max.0,
        tasks: config.run.tasks_max,
        cpu_weight: config.run.cpu_weight,
    }
}

/// The namespaces that the configuration wants a script to be in: what it shares with the machine is the three images and its private directory.
///
/// # Errors
/// What the kernel refuses.
pub fn namespaces(
    config: &Config,
    places: &Places,
    private: Option<&Path>,
) -> io::Result<Namespaces> {
    let Run {
        protect_base,
        network,
        temp_dir,
        ..
    } = &config.run;
    if !protect_base && *network {
        return Ok(Namespaces::default());
    }
    let Places {
        application,
        data,
        output,
    } = places;
    let images = [application, data, output].map(PathBuf::as_path);
    let shared: Vec<_> = images.into_iter().chain(private).collect();
    let view = View {
        shared: &shared,
        scratch: temp_dir,
    };
    namespace::make(protect_base.then_some(&view), !network)
}

/// Whether scripts can have such surroundings, asked before any script is touched.
///
/// # Errors
/// They cannot: what the kernel refuses.
pub fn can_be_made(config: &Config) -> anyhow::Result<()> {
    let none = Places {
        application: PathBuf::new(),
        data: PathBuf::new(),
        output: PathBuf::new(),
    };
    namespaces(config, &none, None)
        .map(drop)
        .context("trying run.protect_base and run.network")
}

/// The whole environment of a script; nothing of this process's own is in it.
#[must_use]
pub fn environment(
    config: &Config,
    places: &Places,
    stage: &Stage,
    name: &OsStr,
    start: &Start,
    parameters: Vec<(OsString, OsString)>,
) -> Vec<(OsString, OsString)> {
    let usual = [
        ("PATH", DEFAULT_PATH),
        ("HOME", "/root"),
        ("USER", "root"),
        ("LOGNAME", "root"),
        ("SHELL", "/bin/sh"),
        ("LANG", "C.UTF-8"),
    ];
    let attempt = start.attempt.to_string();
    let progress = stage.path.join(progress::NAME);
    let own: [(&str, &OsStr); 8] = [
        ("TMPDIR", stage.path.as_os_str()),
        ("GVA_APPLICATION", places.application.as_os_str()),
        ("GVA_DATA", places.data.as_os_str()),
        ("GVA_OUTPUT", places.output.as_os_str()),
        ("GVA_SCRIPT", name),
        ("GVA_RUN_ID", OsStr::new(&start.run_id)),
        ("GVA_ATTEMPT", OsStr::new(&attempt)),
        ("GVA_PROGRESS", progress.as_os_str()),
    ];
    // Its root is another than PID 1's; systemctl would take that for a chroot, and do nothing.
    let rooted = config
        .run
        .protect_base
        .then_some(("SYSTEMD_IGNORE_CHROOT", "1"));
    let mut all: Vec<(OsString, OsString)> = usual
        .iter()
        .chain(&rooted)
        .filter(|(name, _)| !config.environment.contains_key(*name))
        .map(|(name, value)| ((*name).into(), (*value).into()))
        .collect();
    all.extend(
        own.iter()
            .map(|(name, value)| ((*name).into(), (*value).to_owned())),
    );
    all.extend(
        config
            .environment
            .iter()
            .map(|(name, value)| (name.into(), value.into())),
    );
    all.extend(parameters);
    all
}
