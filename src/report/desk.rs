//! The desk: carries requests out, and answers each.

use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinSet;
use tracing::{debug, info};

use super::event::{Command, Event, Request};
use super::queue::Outbox;
use super::request::Refused;
use crate::board::Board;
use crate::flush::Flush;
use crate::stop::{Cancel, Stopper};

/// So long a `sync` may take before it is answered with no.
const SYNC_BOUND: Duration = Duration::from_secs(60);
/// So many of them wait at most.
const SYNCS: usize = 16;

/// What requests may do.
#[derive(Debug)]
pub struct Desk {
    board: Board,
    stopper: Rc<Stopper>,
    cancel: Cancel,
    flush: Flush,
    syncs: JoinSet<()>,
}

impl Desk {
    /// A desk for this process.
    #[must_use]
    pub fn new(board: Board, stopper: Rc<Stopper>, cancel: Cancel, flush: Flush) -> Desk {
        Desk {
            board,
            stopper,
            cancel,
            flush,
            syncs: JoinSet::new(),
        }
    }

    /// Carries a request out, or says why not. Never waits.
    pub(super) fn take(&mut self, request: Result<Request, Refused>) {
        let Request { id, command } = match request {
            Ok(request) => request,
            Err(Refused { id, message }) => {
                debug!("{message}");
                return match id {
                    Some(_) => answer(self.board.outbox(), id, Err(message)),
                    None => self.board.error(&message),
                };
            }
        };
        // One that only asks is no change of state, and may come often.
        match command {
            Command::Status | Command::Sync => debug!(?command, "requested over the port"),
            Command::Stop | Command::Poweroff | Command::Cancel { .. } => {
                info!(?command, "requested over the port");
            }
        }
        let ends = matches!(command, Command::Stop | Command::Poweroff);
        let done = match command {
            Command::Stop => {
                self.stopper.stop();
                Ok(())
            }
            Command::Poweroff => {
                self.stopper.power_off();
                Ok(())
            }
            Command::Cancel { run_id } => self.cancel(run_id.as_deref()),
            Command::Status => {
                let status = Box::new(self.board.read());
                self.board.outbox().tell(Event::Status { status });
                Ok(())
            }
            Command::Sync => return self.sync(id),
        };
        answer(self.board.outbox(), id, done);
        if ends {
            self.board.stopping();
        }
    }

    fn cancel(&self, run_id: Option<&str>) -> Result<(), String> {
        let running = self.board.read().running.map(|running| running.run_id);
        match (running, run_id) {
            (None, _) => Err("no script runs".to_owned()),
            (Some(running), Some(wanted)) if running != wanted => {
                Err(format!("{running} runs, not {wanted}"))
            }
            (Some(_), _) if self.cancel.now() => Ok(()),
            (Some(running), _) => Err(format!("{running} has ended")),
        }
    }

    fn sync(&mut self, id: Option<String>) {
        while self.syncs.try_join_next().is_some() {}
        let outbox = self.board.outbox().clone();
        if self.syncs.len() >= SYNCS {
            return answer(&outbox, id, Err("too many wait already".to_owned()));
        }
        self.board.write();
        let flush = self.flush.clone();
        self.syncs.spawn_local(async move {
            let mut work = std::pin::pin!(flush.all());
            match tokio::time::timeout(SYNC_BOUND, &mut work).await {
                Ok(done) => answer(&outbox, id, done.map_err(|err| format!("{err:#}"))),
                Err(_) => {
                    let bound = humantime::format_duration(SYNC_BOUND);
                    answer(&outbox, id, Err(format!("not done within {bound}")));
                    // Nobody waits for it any more, but the next must not begin before it has ended.
                    let _ = work.await;
                }
            }
        });
    }
}

fn answer(outbox: &Outbox, id: Option<String>, done: Result<(), String>) {
    outbox.tell(Event::Answer {
        id,
        ok: done.is_ok(),
        message: done.err(),
    });
}
