//! States of the images, those that a crash can reach and many more.

use proptest::prelude::*;

/// Where a script lies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum At {
    ScriptBin,
    Claims,
    OtherLedger,
    Nowhere,
}

/// What a run directory has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Directory {
    Missing,
    Empty,
    Result,
}

#[derive(Debug, Clone)]
pub(super) struct Mark {
    pub(super) directory: Directory,
    pub(super) end: Option<bool>,
    pub(super) unstarted: bool,
    /// It is of another file that had this name.
    pub(super) other_file: bool,
    pub(super) hash_known: bool,
    pub(super) this_boot: bool,
    /// Its result could not be recorded before.
    pub(super) pending: bool,
    /// Its end is its result, which the ledger keeps.
    pub(super) kept: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Script {
    pub(super) at: At,
    /// Starts before the last one, each with its result and owed a further attempt.
    pub(super) earlier: u32,
    pub(super) mark: Option<Mark>,
}

#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) scripts: Vec<Script>,
    /// Run directories that no start mark knows.
    pub(super) strays: usize,
    pub(super) rerun: bool,
    pub(super) max_attempts: u32,
    pub(super) writable: bool,
    pub(super) lasting_inodes: bool,
    pub(super) ledger_lost: bool,
    /// After so many actions recovery is killed, each time anew.
    pub(super) kills: Vec<usize>,
    /// And the power goes: what was not synced is as it was.
    pub(super) power: bool,
}

pub(super) fn any_state() -> impl Strategy<Value = State> {
    let directory = prop_oneof![
        Just(Directory::Missing),
        Just(Directory::Empty),
        Just(Directory::Result)
    ];
    let flags = || any::<[bool; 6]>();
    let mark = (directory, any::<Option<bool>>(), flags()).prop_map(|(directory, end, flags)| {
        let [unstarted, other_file, hash_known, this_boot, pending, kept] = flags;
        Mark {
            directory,
            end,
            unstarted,
            other_file,
            hash_known,
            this_boot,
            pending,
            kept: kept && end == Some(false) && !unstarted,
        }
    });
    let at = prop_oneof![
        2 => Just(At::ScriptBin),
        3 => Just(At::Claims),
        1 => Just(At::OtherLedger),
        1 => Just(At::Nowhere)
    ];
    let script = (at, 0..3_u32, proptest::option::weighted(0.8, mark));
    let script = script.prop_map(|(at, earlier, mark)| Script { at, earlier, mark });
    let scripts = proptest::collection::vec(script, 0..5);
    let kills = proptest::collection::vec(0..7_usize, 0..4);
    let rule = (
        1..4_u32,
        proptest::bool::weighted(0.2),
        proptest::bool::weighted(0.8),
    );
    (scripts, 0..3_usize, rule, any::<[bool; 3]>(), kills).prop_map(
        |(scripts, strays, (max_attempts, ledger_lost, writable), flags, kills)| {
            let [rerun, lasting_inodes, power] = flags;
            State {
                scripts,
                strays,
                rerun,
                max_attempts,
                writable,
                lasting_inodes,
                ledger_lost,
                kills,
                power,
            }
        },
    )
}
