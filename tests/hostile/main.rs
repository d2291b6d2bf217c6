//! Hostile and unlucky input, by tables: one row is one test. What every row asserts beside its own is in `frame`.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::let_underscore_must_use,
    reason = "a test ends at the first surprise, and its cleaning up goes on past every surprise"
)]

#[path = "../it/harness/mod.rs"]
#[expect(
    dead_code,
    unused_imports,
    reason = "shared with the other integration tests, which need more of it"
)]
mod harness;

#[macro_use]
mod frame;

mod configuration;
mod content;
mod failing;
mod files;
mod fuzzed;
mod images;
mod labels;
mod mounts;
mod names;
mod running;
mod storage;
mod twice;
