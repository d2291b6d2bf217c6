//! Telling systemd: ready, what is going on, still alive, stopping. sd_notify(3). Without systemd all of it is nothing.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::warn;

/// The daemon works.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// One line for `systemctl status`.
pub fn status(text: &str) {
    tell(&[NotifyState::Status(text)]);
}

/// The configuration is being read again.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(err) => warn!("reading the clock for systemd: {err}"),
    }
}

/// The daemon is ending.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(err) = sd_notify::notify(states) {
        warn!("telling systemd: {err}");
    }
}

/// Tells the watchdog that this thread still turns, as often as systemd.service(5) advises, for ever.
pub async fn feed_watchdog() {
    let Some(interval) = sd_notify::watchdog_enabled() else {
        return;
    };
    let pause = (interval / 2).max(Duration::from_millis(1));
    loop {
        tell(&[NotifyState::Watchdog]);
        tokio::time::sleep(pause).await;
    }
}
