//! The shape of what gvad shows of itself: `status.json`, and what `gvad status` prints.

mod text;

use std::collections::VecDeque;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::image::Image;
use crate::name::ScriptName;
use crate::outcome::RunResult;

/// What gvad is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It reads its configuration and cleans up after an earlier gvad.
    Starting,
    /// The application image is not there yet.
    WaitingForApplication,
    /// A data image that must be there is not.
    WaitingForData,
    /// No result could be recorded.
    WaitingForOutput,
    /// No script could be copied to `temp_dir`.
    WaitingForTempDir,
    /// No script waits.
    Idle,
    /// A script runs.
    Running,
    /// An image failed; it is mounted anew.
    Retrying,
    /// A medium is done, or was taken out: the images are being unmounted, and the next has its turn.
    Releasing,
    /// It was asked to stop.
    Stopping,
    /// It has unmounted everything.
    Stopped,
}

/// All that is known. The shape of `status.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// 1.
    pub schema: u32,
    /// What gvad is about.
    pub state: State,
    /// What keeps it from going on, for people.
    pub problem: Option<String>,
    /// Process id.
    pub pid: u32,
    /// This boot.
    pub boot_id: String,
    /// The gvad that says this.
    pub gvad_version: String,
    /// What is mounted.
    pub images: Vec<ImageStatus>,
    /// The script that runs.
    pub running: Option<RunningStatus>,
    /// How many scripts.
    pub counts: Counts,
    /// The newest last.
    pub last_failures: VecDeque<RunResult>,
    /// When this was written. RFC 3339, UTC.
    pub written_at: String,
    /// What is in script-bin and is not run.
    pub passed_over: Vec<PassedOver>,
    /// How many of these there are in all.
    pub passed_over_count: usize,
}

/// A mounted image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageStatus {
    /// `application`, `data` or `output`.
    pub role: String,
    /// As configured.
    pub source: String,
    /// What it is on.
    pub device: String,
    /// Where.
    pub mount_point: String,
    /// Type of the file system, or `directory`.
    pub fstype: String,
    /// It cannot be written.
    pub read_only: bool,
    /// The kernel's number of the disk, which no other disk of this boot has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diskseq: Option<u64>,
    /// The disk's serial number, where it has one. By it a host knows what it plugged in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
}

/// A running script.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunningStatus {
    /// Its name.
    #[serde(flatten)]
    pub name: ScriptName,
    /// Name of the run.
    pub run_id: String,
    /// 1 for the first.
    pub attempt: u32,
    /// Process id.
    pub pid: i32,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// How long it has been running, when this was written.
    pub duration_ms: u64,
    /// What it said last of how far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// When by the monotonic clock.
    #[serde(skip)]
    pub since: Option<Instant>,
}

/// How far a script is, as it said itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// From 0 to 1.
    pub fraction: f64,
    /// What it said beside the number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// Numbers of scripts since gvad was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Wait to be run, by the last look.
    pub waiting: usize,
    /// Exited with 0.
    pub succeeded: u64,
    /// Everything else.
    pub failed: u64,
}

/// Something in script-bin that is not run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PassedOver {
    /// Its name; what is not UTF-8 in it is replaced.
    pub name: String,
    /// All bytes of the name in hexadecimal, where `name` is not exact.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name_hex: Option<String>,
    /// Why.
    pub reason: String,
}

impl ImageStatus {
    /// Of an image in use.
    #[must_use]
    pub fn of(image: &Image) -> ImageStatus {
        ImageStatus {
            role: image.role.to_string(),
            source: image.source.clone(),
            device: image.device.display().to_string(),
            mount_point: image.path.display().to_string(),
            fstype: image.fstype.clone(),
            read_only: image.read_only,
            diskseq: image.diskseq(),
            serial: image.serial.clone(),
        }
    }
}
