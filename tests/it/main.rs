//! The integration tests: each drives the built gvad on real images, as root, in a mount namespace of its own.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::let_underscore_must_use,
    reason = "a test ends at the first surprise, and its cleaning up goes on past every surprise"
)]

mod harness;

mod config;
mod crashes;
mod daemon;
mod durable;
mod file_systems;
mod hostile;
mod hostile_paths;
mod layouts;
mod mounts;
mod outage;
mod parameters;
mod progress;
mod promises;
mod protected;
mod queue;
mod recovery;
mod report;
mod report_port;
mod requests;
mod results;
mod ruined;
mod scripts;
mod service;
mod shares;
mod signed;
mod sources;
mod starting;
mod surroundings;
mod tree;
