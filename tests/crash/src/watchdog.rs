//! Ends what takes too long, so that a gvad that hangs is a finding and not the end of the search.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// No drain takes longer unless it hangs.
const BOUND: Duration = Duration::from_secs(40);

type Watch = (Pid, Instant, Arc<AtomicBool>);

/// Watches one process at a time.
#[derive(Debug, Default, Clone)]
pub struct Watchdog(Arc<Mutex<Option<Watch>>>);

/// While this is there, the process is watched.
pub struct Watched<'a>(&'a Watchdog, Arc<AtomicBool>);

impl Watchdog {
    /// With a thread of its own.
    pub fn start() -> Self {
        let watchdog = Self::default();
        let watch = watchdog.clone();
        thread::spawn(move || {
            loop {
                thread::sleep(Duration::from_millis(200));
                let held = watch.0.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some((pid, since, timed_out)) = &*held
                    && since.elapsed() > BOUND
                {
                    timed_out.store(true, Ordering::Relaxed);
                    let _ = kill(*pid, Signal::SIGKILL);
                }
            }
        });
        watchdog
    }

    pub fn watch(&self, pid: Pid) -> Watched<'_> {
        let timed_out = Arc::new(AtomicBool::new(false));
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *held = Some((pid, Instant::now(), Arc::clone(&timed_out)));
        Watched(self, timed_out)
    }
}

impl Watched<'_> {
    pub fn timed_out(&self) -> bool {
        self.1.load(Ordering::Relaxed)
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        let mut held = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        *held = None;
    }
}
