//! Processes that a gvad left behind when it was killed: they are ended before anything else is done.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::Runner;
use crate::sys::cgroup::Cgroup;

/// How long they may take to end after SIGKILL.
const BOUND: Duration = Duration::from_secs(10);

impl Runner {
    /// Ends what is left of any run of an earlier gvad with the same `temp_dir`, which cannot be running any more.
    pub async fn end_stale(&self) {
        let Some(parent) = &self.parent else { return };
        match parent.groups(&self.prefix) {
            Ok(groups) => {
                for group in groups {
                    end_group(group).await;
                }
            }
            Err(err) => warn!("looking for what an earlier gvad left running: {err}"),
        }
    }
}

/// Ends all processes in a group of an earlier gvad, and removes it.
pub async fn end_group(group: Cgroup) {
    let path = group.path().to_owned();
    let until = Instant::now() + BOUND;
    if group.populated().unwrap_or(false) {
        info!(cgroup = %path.display(), "ending the processes of an interrupted run");
    }
    while group.populated().unwrap_or(false) && Instant::now() < until {
        if let Err(err) = group.kill() {
            return warn!("ending the processes in {}: {err}", path.display());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    if let Err(err) = group.remove() {
        warn!("removing the control group {}: {err}", path.display());
    }
}
