//! What a script did: the outcome, and the result that tells of it. The shape of `result.json` is this file's.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::name::ScriptName;

/// The version of `result.json`'s shape.
pub const SCHEMA: u32 = 1;

/// How a run came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The script ended by itself.
    Exited,
    /// A signal ended it.
    Signaled,
    /// `run.timeout` passed; the whole tree was ended.
    TimedOut,
    /// gvad was asked to stop and ended it.
    Stopped,
    /// It could not be started.
    NotStarted,
    /// gvad or the machine died while it may have been running.
    Interrupted,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Outcome::Exited => "exited",
            Outcome::Signaled => "signaled",
            Outcome::TimedOut => "timed_out",
            Outcome::Stopped => "stopped",
            Outcome::NotStarted => "not_started",
            Outcome::Interrupted => "interrupted",
        })
    }
}

/// `result.json`. Times are RFC 3339 in UTC with milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The run's name, and that of its directory.
    pub run_id: String,
    /// The script's name.
    #[serde(flatten)]
    pub name: ScriptName,
    /// Of the script's bytes; null where they could not be read.
    pub sha256: Option<String>,
    /// 1, or more where `on_interrupted = "rerun"` started it again.
    pub attempt: u32,
    /// How it came out.
    pub outcome: Outcome,
    /// It exited with 0.
    pub success: bool,
    /// Where it exited.
    pub exit_code: Option<i32>,
    /// Where a signal ended it; such as `SIGKILL`.
    pub signal: Option<String>,
    /// More, for people.
    pub reason: Option<String>,
    /// Null where it did not start.
    pub started_at: Option<String>,
    /// Null where it did not start, or where nobody saw it end.
    pub finished_at: Option<String>,
    /// By the monotonic clock.
    pub duration_ms: Option<u64>,
    /// As printed, kept or not.
    pub stdout_bytes: u64,
    /// As printed, kept or not.
    pub stderr_bytes: u64,
    /// Not all of it was kept.
    pub stdout_truncated: bool,
    /// Not all of it was kept.
    pub stderr_truncated: bool,
    /// Of the whole tree where there is a control group; else of the script and what it waited for.
    pub user_cpu_ms: Option<u64>,
    /// As `user_cpu_ms`.
    pub system_cpu_ms: Option<u64>,
    /// The largest resident set of any process that was waited for.
    pub max_rss_kib: Option<u64>,
    /// The boot in which it was started.
    pub boot_id: String,
    /// The gvad that wrote this.
    pub gvad_version: String,
}

impl RunResult {
    /// A result of a run that was not seen to its end; the caller fills in what is known.
    #[must_use]
    pub fn unseen(run_id: String, name: ScriptName, outcome: Outcome, reason: String) -> RunResult {
        RunResult {
            schema: SCHEMA,
            run_id,
            name,
            sha256: None,
            attempt: 1,
            outcome,
            success: false,
            exit_code: None,
            signal: None,
            reason: Some(reason),
            started_at: None,
            finished_at: None,
            duration_ms: None,
            stdout_bytes: 0,
            stderr_bytes: 0,
            stdout_truncated: false,
            stderr_truncated: false,
            user_cpu_ms: None,
            system_cpu_ms: None,
            max_rss_kib: None,
            boot_id: String::new(),
            gvad_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Whether it is of this run. Its own name goes on where the run directory had become unusable, `000007-NAME.2`.
    #[must_use]
    pub fn is_of(&self, run_id: &str) -> bool {
        let more = self.run_id.strip_prefix(run_id);
        more.is_some_and(|more| more.is_empty() || more.starts_with('.'))
    }

    /// Says something more of it.
    pub fn add_reason(&mut self, more: &str) {
        self.reason = Some(match self.reason.take() {
            Some(reason) => format!("{reason}; {more}"),
            None => more.to_owned(),
        });
    }

    /// Tells it in one line of the log.
    pub fn log(&self) {
        let reason = self.reason.as_deref().unwrap_or_default();
        let (run, outcome, detail) = (&self.run_id, self.outcome, self.detail());
        let duration =
            humantime::format_duration(Duration::from_millis(self.duration_ms.unwrap_or(0)));
        if self.success {
            info!(run, %outcome, %duration, "succeeded");
        } else {
            warn!(run, %outcome, detail, reason, %duration, "failed");
        }
    }

    /// In few words: `exit code 3`, `SIGKILL`, or nothing.
    #[must_use]
    pub fn detail(&self) -> String {
        match (self.exit_code, &self.signal) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => signal.clone(),
            (None, None) => String::new(),
        }
    }
}

/// A time as results carry it.
#[must_use]
pub fn timestamp(time: std::time::SystemTime) -> String {
    // Times before 1970 or after 9999 cannot be written; a clock that far off tells nothing anyway.
    let since = time
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let bounded = since.min(std::time::Duration::from_secs(253_402_300_799));
    humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + bounded).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn a_clock_far_off_is_no_panic() {
        assert_eq!(
            timestamp(UNIX_EPOCH + Duration::from_millis(1_500)),
            "1970-01-01T00:00:01.500Z"
        );
        assert_eq!(
            timestamp(UNIX_EPOCH - Duration::from_secs(5)),
            "1970-01-01T00:00:00.000Z"
        );
        assert_eq!(
            timestamp(UNIX_EPOCH + Duration::from_secs(1 << 40)),
            "9999-12-31T23:59:59.000Z"
        );
    }
}
