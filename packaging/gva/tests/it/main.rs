//! gva as a user meets it: the real program with the real tools, never as root.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod harness;

mod image;
mod results;
mod run;
