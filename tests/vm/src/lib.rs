//! What the tests in virtual machines share: an emulated machine that boots a base image, the monitor and the port of it, and disk images.
//!
//! Where things are comes from the environment; `tests/vm/run` sets it: `GVA_BASE_DIRECT`, `GVA_BASE_DISK` (directories that
//! `packaging/base/build` made), `GVA` (the host command).
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at the first surprise"
)]

pub mod image;
pub mod machine;
pub mod monitor;
pub mod port;

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Emulated, on a busy machine: everything takes its time. Nothing waits longer than this for one thing.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// What `tests/vm/run` has set.
#[must_use]
pub fn place(variable: &str) -> PathBuf {
    match std::env::var_os(variable) {
        Some(value) => value.into(),
        None => panic!("{variable} is not set: start the tests with tests/vm/run"),
    }
}

/// Waits until `look` finds something.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
