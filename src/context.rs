//! What lasts as long as the process: the configuration in force, the wish to stop, the status, and whether this is the daemon or a drain.

use std::rc::Rc;

use tokio::sync::watch;

use crate::board::Board;
use crate::config::{Config, WhenDrained};
use crate::flush::Flush;
use crate::parameters::Parameters;
use crate::run::Runner;
use crate::shutdown::Shutdown;
use crate::stop::{Cancel, Stop};

/// How gvad was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Until it is told to stop.
    Daemon,
    /// Until no script waits.
    Drain,
}

/// Handed down to every step.
#[derive(Debug)]
pub struct Context {
    /// The configuration in force; SIGHUP may replace it.
    pub config: watch::Receiver<Rc<Config>>,
    /// Whether to stop.
    pub stop: Stop,
    /// Ends the script that runs.
    pub cancel: Cancel,
    /// Brings what was written to its place.
    pub flush: Flush,
    /// What is shown to the outside.
    pub board: Board,
    /// How gvad was called.
    pub mode: Mode,
    /// This boot.
    pub boot_id: String,
    /// What this instance was told.
    pub parameters: Parameters,
    /// Whether the machine is going down.
    pub shutdown: Shutdown,
    /// Starts scripts.
    pub runner: Runner,
}

impl Context {
    /// The configuration in force now.
    #[must_use]
    pub fn config(&self) -> Rc<Config> {
        Rc::clone(&self.config.borrow())
    }

    /// Whether this is `gvad drain`, which does not wait for things to become better.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.mode == Mode::Drain
    }

    /// Whether gvad ends when no script waits.
    #[must_use]
    pub fn ends_when_drained(&self) -> bool {
        self.draining() || self.config().lifecycle.when_drained != WhenDrained::Wait
    }

    /// Whether the machine is powered off when no script waits.
    #[must_use]
    pub fn powers_off(&self) -> bool {
        !self.draining() && self.config().lifecycle.when_drained == WhenDrained::Poweroff
    }
}
