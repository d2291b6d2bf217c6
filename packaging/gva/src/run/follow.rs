//! What the guest has told, added up. It is a guest: what it says is bounded, and may be wrong.

use std::collections::BTreeMap;

use gvad::outcome::RunResult;
use gvad::report::event::{Event, Line};

/// So many bytes of results are kept; usual ones have a thousand each. Further ones count as lost on the way: they are in the output image.
const MOST: usize = 256 << 20;

/// What is known of the guest.
#[derive(Debug, Default)]
pub(crate) struct Follow {
    /// The boot of the guest, once its gvad is there.
    pub(crate) boot_id: Option<String>,
    /// The script that runs: name of the run, and how far it says it is.
    pub(crate) running: Option<(String, Option<String>)>,
    /// By name of the run.
    pub(crate) results: BTreeMap<String, RunResult>,
    /// No script waits: so many have not succeeded.
    pub(crate) drained: Option<u64>,
    /// gvad was asked to stop, or the machine to power off, and so many scripts waited.
    pub(crate) stopping: Option<usize>,
    /// The last thing that gvad complained of.
    pub(crate) error: Option<String>,
    /// Events that did not arrive.
    pub(crate) lost: u64,
    /// Lines that were no event.
    pub(crate) unknown: u64,
    last_seq: u64,
    /// Bytes of results that were taken in.
    kept: usize,
}

impl Follow {
    /// Takes in a line; returns it if it is an event.
    pub(crate) fn line(&mut self, bytes: &[u8]) -> Option<Line> {
        if bytes.trim_ascii().is_empty() {
            return None;
        }
        let Ok(line) = serde_json::from_slice::<Line>(bytes) else {
            self.unknown += 1;
            return None;
        };
        // A gvad that was started again counts from 1 again.
        if line.seq > self.last_seq.saturating_add(1) {
            self.lost = self.lost.saturating_add(line.seq - self.last_seq - 1);
        }
        self.last_seq = line.seq;
        self.event(&line.event, bytes.len());
        Some(line)
    }

    fn event(&mut self, event: &Event, length: usize) {
        match event {
            Event::Ready { boot_id, .. } => {
                self.boot_id = Some(boot_id.clone());
                self.running = None;
                self.drained = None;
                self.stopping = None;
            }
            Event::Mounted { .. } => self.drained = None,
            Event::Started { run_id, .. } => {
                self.running = Some((run_id.clone(), None));
                self.drained = None;
            }
            Event::Progress {
                run_id,
                fraction,
                text,
            } => {
                let percent = format!("{:.0} %", fraction.clamp(0.0, 1.0) * 100.0);
                let told = match text {
                    Some(text) => format!("{percent}, {text}"),
                    None => percent,
                };
                self.running = Some((run_id.clone(), Some(told)));
            }
            Event::Finished { result } => {
                self.running = None;
                if self.kept + length > MOST {
                    self.lost = self.lost.saturating_add(1);
                    return;
                }
                self.kept += length;
                self.results
                    .insert(result.run_id.clone(), (**result).clone());
            }
            Event::Drained { failed, .. } => self.drained = Some(*failed),
            Event::Stopping { waiting } => self.stopping = Some(*waiting),
            Event::Error { message } => self.error = Some(message.clone()),
            Event::Released { .. }
            | Event::Heartbeat { .. }
            | Event::Status { .. }
            | Event::Answer { .. } => {}
        }
    }

    /// Every script that is known of succeeded.
    pub(crate) fn all_succeeded(&self) -> bool {
        self.results.values().all(|result| result.success) && self.drained.unwrap_or(0) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(run: &str, success: bool) -> String {
        format!(
            r#"{{"schema":1,"run_id":"{run}","script":"a","sha256":null,"attempt":1,"outcome":"exited","success":{success},"exit_code":0,"signal":null,"reason":null,"started_at":null,"finished_at":null,"duration_ms":1,"stdout_bytes":0,"stderr_bytes":0,"stdout_truncated":false,"stderr_truncated":false,"user_cpu_ms":null,"system_cpu_ms":null,"max_rss_kib":null,"boot_id":"b","gvad_version":"1"}}"#
        )
    }

    fn tell(follow: &mut Follow, seq: u64, rest: &str) -> bool {
        let line = format!(r#"{{"seq":{seq},"at":"2026-01-01T00:00:00Z",{rest}}}"#);
        follow.line(line.as_bytes()).is_some()
    }

    const READY: &str = r#""event":"ready","gvad_version":"1","boot_id":"b","pid":1"#;
    const DRAINED: &str = r#""event":"drained","succeeded":1,"failed":0"#;

    #[test]
    fn results_are_gathered_and_lost_events_counted() {
        let mut follow = Follow::default();
        assert!(tell(&mut follow, 1, READY));
        let started = r#""event":"started","run_id":"000001-a","script":"a","attempt":1,"pid":7"#;
        assert!(tell(&mut follow, 2, started));
        assert!(follow.running.is_some());
        let finished = format!(
            r#""event":"finished","result":{}"#,
            result("000001-a", true)
        );
        assert!(tell(&mut follow, 3, &finished));
        assert!(follow.running.is_none() && follow.all_succeeded());
        assert_eq!(follow.lost, 0);
        let finished = format!(
            r#""event":"finished","result":{}"#,
            result("000005-a", false)
        );
        assert!(tell(&mut follow, 9, &finished));
        assert_eq!((follow.lost, follow.results.len()), (5, 2));
        assert!(!follow.all_succeeded());
    }

    #[test]
    fn drained_holds_until_something_comes_and_failures_count_though_their_events_are_lost() {
        let mut follow = Follow::default();
        assert!(tell(&mut follow, 1, READY) && tell(&mut follow, 2, DRAINED));
        assert_eq!(follow.drained, Some(0));
        let started = r#""event":"started","run_id":"000001-a","script":"a","attempt":1,"pid":7"#;
        assert!(tell(&mut follow, 3, started));
        assert_eq!(follow.drained, None);
        tell(
            &mut follow,
            9,
            r#""event":"drained","succeeded":1,"failed":3"#,
        );
        assert!(!follow.all_succeeded());
        // gvad was started again.
        assert!(tell(&mut follow, 1, READY));
        assert_eq!((follow.drained, follow.lost), (None, 5));
    }

    #[test]
    fn a_flood_of_results_is_bounded() {
        let mut follow = Follow::default();
        let long = result(&format!("000001-{}", "x".repeat(1 << 20)), true);
        let finished = format!(r#""event":"finished","result":{long}"#);
        for seq in 1..=300 {
            tell(&mut follow, seq, &finished);
        }
        assert!(follow.lost > 0 && follow.kept <= MOST);
    }

    #[test]
    fn noise_is_counted_and_harms_nothing() {
        let mut follow = Follow::default();
        for line in [&b"\xff\xfe"[..], b"{}", b"[1,2]", b"{\"seq\":1}", b"", b" "] {
            assert!(follow.line(line).is_none());
        }
        assert_eq!(follow.unknown, 4);
        assert!(!tell(&mut follow, 1, r#""event":"sung","song":"x""#));
        tell(&mut follow, u64::MAX, DRAINED);
        tell(&mut follow, u64::MAX, DRAINED);
    }
}
