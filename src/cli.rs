//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing::level_filters::LevelFilter;

use crate::config::Overrides;

/// Runs the scripts of an application image, once each, as root, with a record of what happened.
///
/// Without a command gvad is the daemon: it mounts the images, runs each script in the application image's script-bin, leaves its result on the
/// output image, and waits for more until SIGTERM or SIGINT.
#[derive(Debug, Parser)]
#[command(name = "gvad", version, disable_help_subcommand = true, after_help = AFTER_HELP)]
pub struct Cli {
    /// What to do; without one, be the daemon
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Options of all commands
    #[command(flatten)]
    pub common: Common,
}

const AFTER_HELP: &str = "\
SOURCE is LABEL=, UUID=, PARTLABEL= or PARTUUID= of an attached block device, or the
absolute path of a block device, an image file or a directory; or, with
fstype = \"virtiofs\" or \"9p\" in the configuration, the tag of a share.

Exit status: 0 after a clean stop; 1 from `drain` if a script did not succeed;
2 if gvad itself failed, or `drain` was stopped; 3 from `status` if no gvad runs.

Examples:
  gvad drain --application /srv/app.img --output /srv/out.img
  gvad results /run/gva/output
  gvad check --config ./gvad.toml";

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// One pass: mount, run every script that waits, unmount, exit
    ///
    /// Exit status: 0 if every script succeeded or there was none, 1 if some script did not, 2 if gvad itself failed, was stopped, or could not take a script that waits.
    Drain,
    /// Print the configuration in force, every key, and touch nothing
    Check,
    /// Tell what the running daemon is doing
    ///
    /// Exit status: 0 if it runs, 3 if it does not, 2 if it does not answer.
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the results under an output directory
    Results {
        /// The output directory: where the output image is mounted
        dir: PathBuf,
        /// As JSON, one result a line
        #[arg(long)]
        json: bool,
    },
}

/// Options of all commands.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// The configuration file [default: /etc/gvad.toml, if it is there]
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// The image with the scripts, in place of application.source
    #[arg(long, value_name = "SOURCE", global = true)]
    pub application: Option<String>,
    /// The image with the data, in place of data.source
    #[arg(long, value_name = "SOURCE", global = true)]
    pub data: Option<String>,
    /// The image for the results, in place of output.source
    #[arg(long, value_name = "SOURCE", global = true)]
    pub output: Option<String>,
    /// How much to log
    #[arg(long, value_name = "LEVEL", global = true, default_value = "info")]
    pub log_level: LogLevel,
}

/// How much to log.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum LogLevel {
    /// Only what a person must see to
    Error,
    /// And what went wrong with a script
    Warn,
    /// And each change of state
    Info,
    /// And what explains it
    Debug,
    /// Everything
    Trace,
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> LevelFilter {
        match level {
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Trace => LevelFilter::TRACE,
        }
    }
}

impl Common {
    /// What stands over the configuration file.
    #[must_use]
    pub fn overrides(&self) -> Overrides {
        Overrides {
            application: self.application.clone(),
            data: self.data.clone(),
            output: self.output.clone(),
            drop_in: None,
        }
    }
}

/// A complaint about the command line in one line.
#[must_use]
pub fn one_line(err: &clap::Error) -> String {
    let text = err.to_string();
    let lines = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let joined = lines
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    format!("{}; see gvad --help", joined.trim_start_matches("error: "))
}
