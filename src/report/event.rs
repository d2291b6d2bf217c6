//! The shapes of what goes over the port, one JSON object a line: events to the outside, requests from it. Other programs rely on the names;
//! whoever reads must pass over what it does not know.

use serde::{Deserialize, Serialize};

use crate::name::ScriptName;
use crate::outcome::RunResult;
use crate::status::{ImageStatus, State, Status};

/// One line to the outside.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Line {
    /// Counts the events of this gvad from 1; an event that was dropped has taken its number with it.
    pub seq: u64,
    /// When. RFC 3339, UTC.
    pub at: String,
    /// So many events before this one were dropped, because nobody read.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it by reference"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What happened.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// gvad works; the first event.
    Ready {
        /// The gvad that says this.
        gvad_version: String,
        /// This boot.
        boot_id: String,
        /// Process id of gvad.
        pid: u32,
    },
    /// An image was mounted.
    Mounted {
        /// Which.
        image: ImageStatus,
    },
    /// A script was started.
    Started {
        /// Name of the run.
        run_id: String,
        /// The script's name.
        #[serde(flatten)]
        name: ScriptName,
        /// 1 for the first.
        attempt: u32,
        /// Process id of the script.
        pid: i32,
    },
    /// The running script told how far it is.
    Progress {
        /// Name of the run.
        run_id: String,
        /// From 0 to 1.
        fraction: f64,
        /// What it said beside the number.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
    },
    /// A script has its durable result.
    Finished {
        /// All of `result.json`.
        result: Box<RunResult>,
    },
    /// An image was unmounted, or has gone; it can be taken out.
    Released {
        /// Which.
        image: ImageStatus,
        /// Why, if not because everything on it was done.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// No script waits.
    Drained {
        /// Scripts that succeeded since gvad was started.
        succeeded: u64,
        /// Scripts that did not.
        failed: u64,
    },
    /// gvad was asked to stop.
    Stopping {
        /// So many scripts have not had their turn.
        #[serde(default)]
        waiting: usize,
    },
    /// Something is wrong that a person or a program outside should know of.
    Error {
        /// One line.
        message: String,
    },
    /// gvad is alive.
    Heartbeat {
        /// Counts from 1.
        count: u64,
        /// What it is about.
        state: State,
    },
    /// The answer to `status`.
    Status {
        /// All of `status.json`.
        status: Box<Status>,
    },
    /// What became of a request; each gets one.
    Answer {
        /// The request's `id`, if it had one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        /// Whether it was carried out.
        ok: bool,
        /// Why not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
}

/// One line from the outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Comes back in the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What to do.
    #[serde(flatten)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Command {
    /// End gvad, as SIGTERM does.
    Stop,
    /// End gvad, then power the machine off.
    Poweroff,
    /// End the running script: outcome `stopped`. The scripts behind it run.
    Cancel {
        /// Only if this run is the running one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        run_id: Option<String>,
    },
    /// Tell the status.
    Status,
    /// Bring everything that was written to its place on the disks, so that the images can be read from outside now.
    Sync,
}
