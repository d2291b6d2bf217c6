//! gvad runs the scripts of an application image: once each, as root, with a record of what happened.
//!
//! The life of a job, and the file that makes each state:
//!
//! | state | made by | on disk |
//! |---|---|---|
//! | waits | whoever handed it over; found by [`scan`] | `script-bin/NAME` |
//! | prepared | [`record`] | an empty run directory on the output image |
//! | claimed | [`claim`] | `script-bin/.gvad/LEDGER-ID/NAME` |
//! | staged | [`stage`] | and a private copy in `temp_dir` |
//! | started | [`ledger`], [`run`] | and a durable start mark |
//! | kept | [`ledger`] | and a durable result in the ledger, while others wait |
//! | recorded | [`record`] | and a durable `result.json` |
//! | done | [`claim`] | only the run directory |
//!
//! What always holds: a script whose start mark may be on the disk is never started again; a script is deleted only behind its durable
//! result; [`recover`] brings every state above to an end, at every start, the same way. ARCHITECTURE.md has the whole table.

pub mod cli;

pub mod config;
pub mod source;
pub mod units;

pub mod context;
pub mod control;
pub mod daemon;
pub mod poweroff;
pub mod report;
pub mod shutdown;

pub mod board;
pub mod status;
pub mod stop;
pub mod systemd;
pub mod tick;

pub mod blocking;
pub mod flush;
pub mod image;
pub mod layout;
pub mod queue;
pub mod recover;
pub mod session;
pub mod watch;

pub mod job;
pub mod parameters;
pub mod progress;
pub mod surroundings;

pub mod scan;

pub mod claim;
pub mod manifest;

pub mod stage;

pub mod ledger;

pub mod capture;
pub mod explain;
pub mod run;

pub mod name;
pub mod outcome;
pub mod owner;
pub mod record;
pub mod results;

pub mod sys;
