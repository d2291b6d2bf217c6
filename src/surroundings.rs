//! What a script finds around itself: its environment, and the limits it runs under.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use crate::config::{Config, DEFAULT_PATH, Leftovers};
use crate::ledger::line::Start;
use crate::progress;
use crate::run::Limits;
use crate::stage::Stage;

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
    let mut all: Vec<(OsString, OsString)> = usual
        .iter()
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
