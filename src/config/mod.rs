//! The configuration: its keys, their types and defaults. [`load`] reads and checks it, once.
//!
//! Every path that gvad uses without being told stands in this file.

mod drop_in;
mod load;
mod place;
#[cfg(test)]
mod properties;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::units::{Size, Span};

pub use load::{effective, load};

/// Where the configuration is, unless an option says otherwise.
pub const DEFAULT_FILE: &str = "/etc/gvad.toml";
/// `PATH` of every script, unless `[environment]` says otherwise.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where the kernel lists block devices.
pub const SYS_CLASS_BLOCK: &str = "/sys/class/block";
/// Where their nodes are.
pub const DEV: &str = "/dev";
/// Is there while udev works on what the kernel has found.
pub const UDEV_QUEUE: &str = "/run/udev/queue";
/// The credential with a configuration for this instance.
pub const DROP_IN: &str = "gva.config";
/// Where systemd puts the credentials that the machine was given.
pub const SYSTEM_CREDENTIALS: &str = "/run/credentials/@system";
/// Where systemd, which is PID 1, is asked.
pub const SYSTEMD_SOCKET: &str = "/run/systemd/private";
/// The variable that names where it puts those that the unit asks for.
pub const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// What is in force. Serialized, it is a configuration file that says the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The image with the scripts.
    pub application: Application,
    /// The image with the data.
    pub data: Data,
    /// The image for the results.
    pub output: Output,
    /// How script-bin is watched.
    pub watch: Watch,
    /// How scripts are run.
    pub run: Run,
    /// More variables for every script.
    pub environment: BTreeMap<String, String>,
    /// What happens when nothing is left to do.
    pub lifecycle: Lifecycle,
    /// What the host is told.
    pub report: Report,
    /// What this instance was told.
    pub parameters: Parameters,
}

/// `[application]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Application {
    /// See [`Source`].
    pub source: String,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// `auto`, or one type.
    pub fstype: String,
    /// More mount options.
    pub options: String,
    /// Mount it read-only even where it could be written.
    pub read_only: bool,
    /// The directory with the scripts, relative to the image's root.
    pub script_bin: PathBuf,
    /// The public key with which its scripts must be signed; empty: they need not be.
    pub verify: String,
    /// How long to wait for it.
    pub wait: Wait,
}

/// `[data]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Data {
    /// See [`Source`].
    pub source: String,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// `auto`, or one type.
    pub fstype: String,
    /// More mount options.
    pub options: String,
    /// Mount it read-only.
    pub read_only: bool,
    /// Nothing runs until it is there.
    pub required: bool,
    /// How long to wait for it once the application is there.
    pub wait: Span,
}

/// `[output]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Output {
    /// See [`Source`].
    pub source: String,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// `auto`, or one type.
    pub fstype: String,
    /// More mount options.
    pub options: String,
    /// Nothing runs until it is there and writable.
    pub required: bool,
    /// How long to wait for it once the application is there.
    pub wait: Span,
}

/// `[watch]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Watch {
    /// How often to look without being told.
    pub poll_interval: Span,
    /// How long a script on a share must have been left alone.
    pub settle: Span,
}

/// `[run]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Run {
    /// How long a script may run; 0 is without limit.
    pub timeout: Span,
    /// Between SIGTERM and SIGKILL.
    pub stop_grace: Span,
    /// Of stdout and of stderr, each.
    pub output_limit: Size,
    /// What becomes of processes that outlive their script.
    pub leftovers: Leftovers,
    /// What becomes of a script that may have been running when gvad or the machine died.
    pub on_interrupted: OnInterrupted,
    /// How often a script is started at most, with `rerun`.
    pub max_attempts: u32,
    /// Bytes of memory that the processes of a script may use together; 0 is without limit.
    pub memory_max: Size,
    /// How many processes and threads a script may have; 0 is without limit.
    pub tasks_max: u64,
    /// The share of processor time, from 1 to 10000, where others want some too; 0 leaves it as the kernel has it.
    pub cpu_weight: u64,
    /// Nothing that a script writes to the base system stays.
    pub protect_base: bool,
    /// Scripts have the machine's network.
    pub network: bool,
    /// Where private temporary directories are made.
    pub temp_dir: PathBuf,
    /// Where a script starts.
    pub working_directory: WorkingDirectory,
}

/// `[lifecycle]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lifecycle {
    /// What the daemon does when no script waits.
    pub when_drained: WhenDrained,
}

/// `[report]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Report {
    /// The character device that leads to the host; empty: none.
    pub port: PathBuf,
    /// How often to say that gvad is alive; 0: never.
    pub heartbeat: Span,
}

/// `[parameters]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Parameters {
    /// How long to wait for udev to have found everything, before an OVF environment is looked for.
    pub wait: Span,
}

/// A duration, or `forever`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Wait {
    /// Until it is there.
    Forever,
    /// So long.
    For(Span),
}

/// `leftovers`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Leftovers {
    /// They are ended.
    Kill,
    /// They are left alone.
    Keep,
}

/// `on_interrupted`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnInterrupted {
    /// It gets the result `interrupted` and is not run again.
    Report,
    /// It is run again, up to `max_attempts` times.
    Rerun,
}

/// `working_directory`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkingDirectory {
    /// The application image.
    Application,
    /// The private temporary directory.
    Private,
}

/// `when_drained`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenDrained {
    /// It waits for more.
    Wait,
    /// It ends.
    Exit,
    /// It powers the machine off.
    Poweroff,
}

/// What the command line says over the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--application`
    pub application: Option<String>,
    /// `--data`
    pub data: Option<String>,
    /// `--output`
    pub output: Option<String>,
    /// The credential [`DROP_IN`]: a configuration whose keys take the place of the file's
    pub drop_in: Option<String>,
}

impl Default for Application {
    fn default() -> Self {
        Application {
            source: "LABEL=gva-app".to_owned(),
            mount_point: "/run/gva/application".into(),
            fstype: "auto".to_owned(),
            options: String::new(),
            read_only: false,
            script_bin: "script-bin".into(),
            verify: String::new(),
            wait: Wait::Forever,
        }
    }
}

const DEFAULT_DATA: &str = "LABEL=gva-data";
const DEFAULT_OUTPUT: &str = "LABEL=gva-output";

impl Default for Data {
    fn default() -> Self {
        Data {
            source: DEFAULT_DATA.to_owned(),
            mount_point: "/run/gva/data".into(),
            fstype: "auto".to_owned(),
            options: String::new(),
            read_only: true,
            required: false,
            wait: Span(std::time::Duration::from_secs(2)),
        }
    }
}

impl Default for Output {
    fn default() -> Self {
        Output {
            source: DEFAULT_OUTPUT.to_owned(),
            mount_point: "/run/gva/output".into(),
            fstype: "auto".to_owned(),
            options: String::new(),
            required: false,
            wait: Span(std::time::Duration::from_secs(2)),
        }
    }
}

impl Default for Watch {
    fn default() -> Self {
        Watch {
            poll_interval: Span(std::time::Duration::from_secs(2)),
            settle: Span(std::time::Duration::from_secs(1)),
        }
    }
}

impl Default for Run {
    fn default() -> Self {
        Run {
            timeout: Span(std::time::Duration::ZERO),
            stop_grace: Span(std::time::Duration::from_secs(10)),
            output_limit: Size(64 << 20),
            leftovers: Leftovers::Kill,
            on_interrupted: OnInterrupted::Report,
            max_attempts: 3,
            memory_max: Size(0),
            tasks_max: 0,
            cpu_weight: 0,
            protect_base: false,
            network: true,
            temp_dir: "/var/lib/gvad".into(),
            working_directory: WorkingDirectory::Application,
        }
    }
}

impl Default for Lifecycle {
    fn default() -> Self {
        Lifecycle {
            when_drained: WhenDrained::Wait,
        }
    }
}

impl Default for Report {
    fn default() -> Self {
        Report {
            port: "/dev/virtio-ports/org.gva.events".into(),
            heartbeat: Span(std::time::Duration::from_secs(10)),
        }
    }
}

impl Default for Parameters {
    fn default() -> Self {
        Parameters {
            wait: Span(std::time::Duration::from_secs(10)),
        }
    }
}

impl TryFrom<String> for Wait {
    type Error = String;

    fn try_from(text: String) -> Result<Wait, String> {
        match text.as_str() {
            "forever" => Ok(Wait::Forever),
            span => span.parse().map(Wait::For),
        }
    }
}

impl From<Wait> for String {
    fn from(wait: Wait) -> String {
        match wait {
            Wait::Forever => "forever".to_owned(),
            Wait::For(span) => span.to_string(),
        }
    }
}
