//! Pretend guests in which a gvad runs, and the search for broken promises on what it leaves; whoever strikes at gvad shares them.

#![expect(
    missing_docs,
    reason = "only the two test programs use it; what needs a word has one"
)]

pub mod calls;
pub mod check;
pub mod disk;
pub mod ground;
pub mod guest;
pub mod invariants;
pub mod left;
pub mod scripts;
pub mod trace;
pub mod watchdog;
