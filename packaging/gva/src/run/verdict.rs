//! What comes of a run: the exit status, and in one line why.

use super::attend::{End, Last, Stopped};
use crate::say::{FAILED, SCRIPT_FAILED, TIMED_OUT};

/// What gva tells its caller.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) code: u8,
    pub(crate) problem: Option<String>,
    /// The console may tell more.
    pub(crate) appliance_failed: bool,
}

/// Weighs what was seen.
pub(crate) fn verdict(end: &End) -> Verdict {
    let by_results = |problem: Option<String>| Verdict {
        code: if end.follow.all_succeeded() {
            0
        } else {
            SCRIPT_FAILED
        },
        problem,
        appliance_failed: false,
    };
    let of_us = |code, problem: String| Verdict {
        code,
        problem: Some(problem),
        appliance_failed: false,
    };
    let killed = if end.killed {
        ", and had to be killed"
    } else {
        ""
    };
    match &end.stopped {
        Some(Stopped::TimedOut(limit)) => {
            return of_us(
                TIMED_OUT,
                format!("the time given, {limit}, was over{killed}"),
            );
        }
        Some(Stopped::Signal) => {
            return of_us(
                FAILED,
                format!("the appliance was stopped by a signal{killed}"),
            );
        }
        Some(Stopped::Served) if end.killed => {
            return of_us(FAILED, format!("the appliance was told to stop{killed}"));
        }
        Some(Stopped::Served) => return by_results(None),
        Some(Stopped::NoReady(limit)) => {
            let problem = format!(
                "the appliance failed: gvad did not report within {} s{killed}",
                limit.as_secs()
            );
            return failed(end, problem);
        }
        None => {}
    }
    let ready = end.follow.boot_id.is_some();
    match &end.last {
        Last::Died(how) => failed(end, format!("the appliance failed: QEMU {how}")),
        Last::Reset => {
            let how = end.panic.as_deref().unwrap_or("by a reboot or a fault");
            failed(
                end,
                format!("the appliance failed: the guest reset itself: {how}"),
            )
        }
        Last::PoweredOff if !ready => failed(
            end,
            "the appliance failed: it powered off before gvad reported".into(),
        ),
        // A script has said `poweroff`, and gvad came to a clean end.
        Last::PoweredOff if end.follow.drained.is_none() && end.follow.stopping.is_some() => {
            let mut verdict = by_results(None);
            let waiting = end.follow.stopping.unwrap_or(0);
            if waiting > 0 {
                verdict.code = SCRIPT_FAILED;
                verdict.problem = Some(format!(
                    "the appliance was powered off from within while {waiting} more waited"
                ));
            }
            verdict
        }
        Last::PoweredOff if end.follow.drained.is_none() => failed(
            end,
            "the appliance failed: it powered off before every script was done".into(),
        ),
        Last::PoweredOff if end.follow.results.is_empty() => {
            by_results(Some("warning: there was no script to run".into()))
        }
        Last::PoweredOff => by_results(None),
    }
}

fn failed(end: &End, mut problem: String) -> Verdict {
    if let Some(error) = &end.follow.error {
        problem = format!("{problem}; the last thing it said: {error}");
    }
    Verdict {
        code: FAILED,
        problem: Some(problem),
        appliance_failed: true,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::follow::Follow;
    use super::*;

    fn end(ready: bool, drained: Option<u64>, last: Last, stopped: Option<Stopped>) -> u8 {
        let mut follow = Follow::default();
        follow.boot_id = ready.then(|| "b".into());
        follow.drained = drained;
        let end = End {
            follow,
            last,
            stopped,
            killed: false,
            lifeless: None,
            console: Vec::new(),
            panic: None,
        };
        verdict(&end).code
    }

    #[test]
    fn a_script_that_powers_off_is_no_failure_unless_others_waited() {
        let end = |waiting| {
            let mut follow = Follow::default();
            follow.boot_id = Some("b".into());
            follow.stopping = Some(waiting);
            let end = End {
                follow,
                last: Last::PoweredOff,
                stopped: None,
                killed: false,
                lifeless: None,
                console: Vec::new(),
                panic: None,
            };
            verdict(&end)
        };
        assert_eq!(end(0).code, 0);
        assert_eq!(end(2).code, 1);
        let problem = end(2).problem.unwrap();
        assert!(problem.contains("while 2 more waited"), "{problem}");
    }

    #[test]
    fn the_exit_status_tells_who_failed() {
        use Last::{Died, PoweredOff, Reset};
        assert_eq!(end(true, Some(0), PoweredOff, None), 0);
        assert_eq!(end(true, Some(2), PoweredOff, None), 1);
        assert_eq!(end(true, None, PoweredOff, None), 2);
        assert_eq!(end(false, None, PoweredOff, None), 2);
        assert_eq!(end(true, Some(0), Reset, None), 2);
        assert_eq!(end(true, Some(0), Died("was killed".into()), None), 2);
        let timed_out = || Some(Stopped::TimedOut("1s".into()));
        assert_eq!(end(true, Some(0), PoweredOff, timed_out()), 3);
        assert_eq!(end(false, None, Died(String::new()), timed_out()), 3);
        assert_eq!(end(true, Some(0), PoweredOff, Some(Stopped::Signal)), 2);
        assert_eq!(end(true, Some(0), PoweredOff, Some(Stopped::Served)), 0);
        assert_eq!(end(true, Some(1), PoweredOff, Some(Stopped::Served)), 1);
        let no_ready = Some(Stopped::NoReady(Duration::from_secs(1)));
        assert_eq!(end(false, None, Died(String::new()), no_ready), 2);
    }
}
