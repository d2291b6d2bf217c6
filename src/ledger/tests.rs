//! The ledger on a real directory.

use proptest::prelude::*;

use super::*;
use crate::name::ScriptName;
use crate::outcome::{Outcome, RunResult};

fn open(path: &std::path::Path) -> Opened {
    Ledger::open(Dir::open(path).unwrap(), 0).unwrap()
}

fn start(run: u64, in_place: bool) -> Start {
    Start {
        run,
        run_id: format!("{run:06}-a"),
        identity: Identity {
            medium: "ext4-x".into(),
            name: ScriptName::of(OsStr::new("a")),
            inode: run,
            size: 1,
            mtime: (1, 2),
            ctime: (3, 4),
            birth: Some((run as i64, 0)),
        },
        sha256: "00".into(),
        attempt: 1,
        boot_id: "b".into(),
        started_at: "t".into(),
        cgroup: None,
        in_place,
        unstarted: false,
    }
}

fn kept(run: u64) -> Kept {
    let (run_id, name) = (format!("{run:06}-a"), ScriptName::of(OsStr::new("a")));
    Kept {
        run,
        result: RunResult::unseen(run_id, name, Outcome::Exited, String::new()),
        stdout: kept::Printed(vec![0xff; 3]),
        stderr: kept::Printed(b"said".to_vec()),
    }
}

#[test]
fn results_of_a_damaged_ledger_are_kept_in_the_next() {
    let base = tempfile::tempdir().unwrap();
    let mut ledger = open(base.path()).ledger;
    for run in 1..=5 {
        ledger.start(start(run, false)).unwrap();
        ledger.keep(kept(run)).unwrap();
        if run == 3 {
            ledger.filed(2).unwrap();
        }
    }
    drop(ledger);
    let path = base.path().join(NAME);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    for _ in 0..2 {
        let ledger = open(base.path()).ledger;
        assert_eq!(ledger.kept, [kept(3), kept(4), kept(5)]);
        assert_eq!((ledger.next_run(), ledger.lost()), (6, 5));
    }
}

#[test]
fn what_is_too_long_for_a_line_does_not_fit() {
    let mut long = kept(1);
    assert!(fits(&long));
    long.stdout = kept::Printed(vec![b'x'; LONGEST_LINE]);
    assert!(!fits(&long));
    long.stdout = kept::Printed(vec![0xff; LONGEST_LINE / 2]);
    assert!(!fits(&long));
}

#[test]
fn nothing_of_a_torn_line_is_left_behind_the_end() {
    let base = tempfile::tempdir().unwrap();
    let end = open(base.path()).ledger.end;
    let file = File::options()
        .write(true)
        .open(base.path().join(NAME))
        .unwrap();
    file.write_all_at(&[b'x'; 1000], end).unwrap();
    drop(open(base.path()));
    let bytes = std::fs::read(base.path().join(NAME)).unwrap();
    assert!(bytes[end as usize..].iter().all(|&byte| byte == 0));
}

#[test]
fn what_was_noted_is_there_when_it_is_opened_again() {
    let base = tempfile::tempdir().unwrap();
    let mut ledger = open(base.path()).ledger;
    let id = ledger.id().to_owned();
    for run in 1..=4 {
        assert_eq!(ledger.next_run(), run);
        ledger.start(start(run, run == 3)).unwrap();
        if run != 2 {
            ledger.end(run, run == 4).unwrap();
        }
    }
    ledger.settle("ext4-x").unwrap();
    drop(ledger);
    let again = open(base.path());
    assert!(again.set_aside.is_none());
    let ledger = again.ledger;
    assert_eq!(
        (ledger.id(), ledger.next_run(), ledger.settled()),
        (id.as_str(), 5, 1)
    );
    assert_eq!(
        ledger
            .unfinished
            .iter()
            .map(|start| start.run)
            .collect::<Vec<_>>(),
        [2]
    );
    assert_eq!(
        ledger
            .unsettled
            .iter()
            .map(|(start, again)| (start.run, *again))
            .collect::<Vec<_>>(),
        [(3, false), (4, true)]
    );
    assert_eq!(ledger.ran(&start(3, true).identity), Some("00"));
    assert_eq!(ledger.ran(&start(1, true).identity), None);
}

#[test]
fn a_full_ledger_is_written_anew_and_loses_nothing_that_matters() {
    let base = tempfile::tempdir().unwrap();
    let mut ledger = open(base.path()).ledger;
    for run in 1..=3000 {
        ledger.make_room().unwrap();
        ledger.start(start(run, run % 2 == 0)).unwrap();
        if run != 17 {
            ledger.end(run, false).unwrap();
        }
        if run % 256 == 0 {
            ledger.settle("ext4-x").unwrap();
        }
    }
    drop(ledger);
    let ledger = open(base.path()).ledger;
    assert_eq!(ledger.next_run(), 3001);
    assert_eq!(
        ledger
            .unfinished
            .iter()
            .map(|start| start.run)
            .collect::<Vec<_>>(),
        [17]
    );
    assert!((1..=1500).all(|half| ledger.ran(&start(2 * half, true).identity).is_some()));
}

#[test]
fn a_damaged_ledger_is_kept_aside_and_what_was_run_in_place_is_remembered() {
    let base = tempfile::tempdir().unwrap();
    let mut ledger = open(base.path()).ledger;
    let id = ledger.id().to_owned();
    for run in 1..=5 {
        ledger.start(start(run, true)).unwrap();
        ledger.end(run, false).unwrap();
    }
    drop(ledger);
    let path = base.path().join(NAME);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[200] ^= 0x20;
    std::fs::write(&path, &bytes).unwrap();
    let opened = open(base.path());
    assert_eq!(opened.set_aside.as_deref(), Some("ledger.bad-1"));
    assert_eq!(
        std::fs::read(base.path().join("ledger.bad-1")).unwrap(),
        bytes
    );
    assert_ne!(opened.ledger.id(), id);
    assert!(opened.ledger.ran(&start(5, true).identity).is_some());
}

#[test]
fn a_deleted_or_replaced_ledger_is_noticed() {
    let base = tempfile::tempdir().unwrap();
    let ledger = open(base.path()).ledger;
    assert!(ledger.in_place().unwrap());
    std::fs::write(base.path().join("x"), "x").unwrap();
    std::fs::rename(base.path().join("x"), base.path().join(NAME)).unwrap();
    assert!(!ledger.in_place().unwrap());
    std::fs::remove_file(base.path().join(NAME)).unwrap();
    assert!(!ledger.in_place().unwrap());
}

/// What gvad does with a ledger.
#[derive(Debug, Clone)]
enum Step {
    Start(bool),
    /// Of the run that is so many behind the last.
    End(u64, bool),
    /// Likewise its result.
    Keep(u64),
    /// Of all runs up to that one.
    Filed(u64),
    Settle,
    /// The file is written anew.
    Compact,
    /// Another gvad opens it.
    Open,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => any::<bool>().prop_map(Step::Start),
        5 => (0..2_u64, proptest::bool::weighted(0.2)).prop_map(|(back, again)| Step::End(back, again)),
        3 => (0..2_u64).prop_map(Step::Keep),
        1 => (0..3_u64).prop_map(Step::Filed),
        3 => Just(Step::Settle),
        2 => Just(Step::Compact),
        2 => Just(Step::Open),
    ];
    proptest::collection::vec(step, 0..30)
}

type Memory = (
    u64,
    u64,
    u64,
    Vec<Start>,
    Vec<(Start, bool)>,
    Vec<Kept>,
    Vec<(String, String)>,
);

fn memory(ledger: &Ledger) -> Memory {
    let ran = ledger.ran.iter();
    let mut ran: Vec<_> = ran.map(|(key, hash)| (key.clone(), hash.clone())).collect();
    ran.sort_unstable();
    // In which order ended runs are remembered tells nothing, but for those of one script.
    let mut unsettled = ledger.unsettled.clone();
    unsettled.sort_by_key(|(start, _)| start.run);
    (
        ledger.next_run,
        ledger.settled,
        ledger.lost,
        ledger.unfinished.clone(),
        unsettled,
        ledger.kept.clone(),
        ran,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn who_opens_a_ledger_knows_what_its_writer_knew(steps in steps()) {
        let base = tempfile::tempdir().unwrap();
        let mut ledger = open(base.path()).ledger;
        let mut started = 0;
        for step in steps {
            match step {
                Step::Start(in_place) => {
                    started = ledger.next_run();
                    ledger.start(start(started, in_place)).unwrap();
                }
                Step::End(back, again) => ledger.end(started.saturating_sub(back), again).unwrap(),
                Step::Keep(back) => ledger.keep(kept(started.saturating_sub(back))).unwrap(),
                Step::Filed(back) => ledger.filed(started.saturating_sub(back)).unwrap(),
                Step::Settle => ledger.settle("ext4-x").unwrap(),
                Step::Compact => ledger.write_anew().unwrap(),
                Step::Open => {
                    let before = memory(&ledger);
                    let opened = open(base.path());
                    prop_assert!(opened.set_aside.is_none());
                    prop_assert_eq!(memory(&opened.ledger), before);
                    ledger = opened.ledger;
                }
            }
            let numbers = ledger.unfinished.iter().map(|start| start.run);
            prop_assert!(numbers.max().unwrap_or(0) < ledger.next_run());
        }
    }
}
