//! When what is looked at again and again is looked at next: for everybody at the same moments, so that an idle gvad is woken once for all. The runtime's own
//! timers wake it up to three times for each of them, since they are sorted coarsely first.

use std::time::Duration;

use crate::sys::{alarm, ready};

/// Waits for the next of the moments that are `every` apart.
pub async fn next(every: Duration) {
    let alarm = alarm::at_next(every).and_then(|timer| ready::readable(timer).map_err(|err| err.1));
    let rung = match &alarm {
        Ok(alarm) => alarm.readable().await.is_ok(),
        Err(_) => false,
    };
    if !rung {
        tokio::time::sleep(every).await;
    }
}
