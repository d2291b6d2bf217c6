//! A descriptor that becomes readable at a moment: timerfd_create(2).

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::clock_gettime;

/// Becomes readable at the next of the moments that are `every` apart, the same for all who ask: the multiples of `every` since boot, by a clock that nobody sets.
///
/// # Errors
/// `EMFILE`, `ENFILE`, `ENOMEM`.
pub fn at_next(every: Duration) -> io::Result<OwnedFd> {
    let now = Duration::from(clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?);
    let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
    let at = Expiration::OneShot(TimeSpec::from_duration(next(now, every)));
    timer.set(at, TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
    Ok(timer.into())
}

fn next(now: Duration, every: Duration) -> Duration {
    let since = now.as_nanos().checked_rem(every.as_nanos()).unwrap_or(0);
    let since = Duration::from_nanos(u64::try_from(since).unwrap_or(0));
    now.saturating_sub(since).saturating_add(every)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_moment_is_the_same_for_all_and_no_further_than_asked() {
        const EVERY: Duration = Duration::from_secs(2);
        for now in [4_000_000_000, 4_000_000_001, 5_999_999_999] {
            assert_eq!(
                next(Duration::from_nanos(now), EVERY),
                Duration::from_secs(6)
            );
        }
        let now = Duration::from_secs(7);
        assert_eq!(next(now, Duration::ZERO), now);
        assert_eq!(next(now, Duration::MAX), Duration::MAX);
    }
}
