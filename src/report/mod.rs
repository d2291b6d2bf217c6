//! Reporting: what gvad tells the outside as it happens, and what the outside may ask for, over a virtio-serial port. [`event`] has the shapes,
//! [`queue`] what waits to be told, [`port`] the way out and in, [`desk`] what is done with requests.

pub mod desk;
pub mod event;
pub mod port;
pub mod queue;
pub mod request;

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use self::event::Event;
use crate::board::Board;
use crate::config::Config;

/// Says that gvad is alive, for ever. Only what is heard at once is worth saying.
pub async fn beat(mut config: watch::Receiver<Rc<Config>>, board: Board) {
    let mut count = 0;
    loop {
        let every = config.borrow_and_update().report.heartbeat.0;
        let pause = async {
            if every.is_zero() {
                std::future::pending().await
            }
            sleep(every.max(SHORTEST_BEAT)).await;
        };
        tokio::select! {
            changed = config.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            () = pause => {}
        }
        count += 1;
        if board.outbox().is_heard() {
            let state = board.state_now();
            board.outbox().tell(Event::Heartbeat { count, state });
        }
    }
}

/// Less would only burn the processor.
const SHORTEST_BEAT: Duration = Duration::from_millis(10);
