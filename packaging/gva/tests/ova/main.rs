//! Packing an appliance, checking a package. The base is a disk with a partition table and nothing else: nothing boots here.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod check;
mod faults;
mod fixture;
mod pack;
mod run;
