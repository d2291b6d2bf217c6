//! Waiting for what must happen, within a bound.

use std::io::Write as _;
use std::thread;
use std::time::{Duration, Instant};

/// The longest that anything may take to happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Says why a test does not run; in CI that is a failure.
pub(crate) fn skipped(why: &str) {
    // Not `println!`: the test harness would swallow it.
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
    assert!(std::env::var_os("CI").is_none(), "skipped in CI: {why}");
}

/// Waits until something is so, at most as long as anything may take.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < DEADLINE, "waited in vain for: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
