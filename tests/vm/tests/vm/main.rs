//! gvad in real virtual machines. A file is a subject; a test boots one machine, and groups what can share a boot.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod endings;
mod events;
mod host;
mod layouts;
mod media;
mod ova;
mod parameters;
mod power;
mod shares;
