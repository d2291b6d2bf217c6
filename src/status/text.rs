//! The status as text: one line for systemd, a page for people.

use std::fmt;
use std::time::Duration;

use super::{Counts, Progress, State, Status};
use crate::name::shown;

impl Status {
    /// In one line, for systemd.
    #[must_use]
    pub fn line(&self) -> String {
        let counts = format!(
            "{} succeeded, {} failed",
            self.counts.succeeded, self.counts.failed
        );
        match (&self.problem, &self.running) {
            (Some(problem), _) => format!("{}: {problem}; {counts}", self.state),
            (None, Some(running)) => format!("running {}; {counts}", running.name),
            (None, None) => format!("{}; {counts}", self.state),
        }
    }
}

/// For people.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "gvad {} (pid {}) is {}",
            self.gvad_version, self.pid, self.state
        )?;
        if let Some(problem) = &self.problem {
            writeln!(f, "  problem: {}", shown(problem.as_ref()))?;
        }
        for image in &self.images {
            let mode = if image.read_only {
                "read-only"
            } else {
                "writable"
            };
            writeln!(
                f,
                "  {:<12} {} ({}, {mode}) at {}, from {}",
                image.role,
                image.device,
                image.fstype,
                image.mount_point,
                shown(image.source.as_ref())
            )?;
        }
        if let Some(running) = &self.running {
            let time = humantime::format_duration(Duration::from_secs(running.duration_ms / 1000));
            writeln!(
                f,
                "  running      {} for {time} (run {}, pid {})",
                running.name, running.run_id, running.pid
            )?;
            if let Some(Progress { fraction, text }) = &running.progress {
                let text = text.as_deref().unwrap_or_default();
                writeln!(f, "  progress     {:.0} % {text}", fraction * 100.0)?;
            }
        }
        let Counts {
            waiting,
            succeeded,
            failed,
        } = self.counts;
        writeln!(
            f,
            "  scripts      {waiting} waiting, {succeeded} succeeded, {failed} failed"
        )?;
        for failure in &self.last_failures {
            let reason = failure.reason.as_deref().unwrap_or_default();
            let detail = [failure.detail(), reason.to_owned()]
                .into_iter()
                .filter(|text| !text.is_empty());
            let detail = detail.collect::<Vec<_>>().join(", ");
            writeln!(
                f,
                "  failed       {}: {} ({detail})",
                failure.run_id, failure.outcome
            )?;
        }
        for passed in &self.passed_over {
            let name = shown(passed.name.as_ref());
            writeln!(f, "  passed over  {name}: {}", passed.reason)?;
        }
        let more = self
            .passed_over_count
            .saturating_sub(self.passed_over.len());
        if more > 0 {
            writeln!(f, "  passed over  {more} more")?;
        }
        Ok(())
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            State::Starting => "starting",
            State::WaitingForApplication => "waiting for the application image",
            State::WaitingForData => "waiting for the data image",
            State::WaitingForOutput => "waiting for the output image",
            State::WaitingForTempDir => "waiting for room in temp_dir",
            State::Idle => "idle",
            State::Running => "running",
            State::Retrying => "trying again after an error",
            State::Releasing => "releasing the images",
            State::Stopping => "stopping",
            State::Stopped => "stopped",
        })
    }
}
