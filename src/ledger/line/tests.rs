//! The lines of the ledger, and what a crash may make of them.

use proptest::prelude::*;

use super::*;
use crate::ledger::kept::Printed;
use crate::outcome::{Outcome, RunResult};

fn file(lines: &[Line]) -> Vec<u8> {
    lines
        .iter()
        .flat_map(|line| encode(line).unwrap())
        .collect()
}

fn start(run: u64, name: &[u8]) -> Line {
    use std::os::unix::ffi::OsStrExt;
    let stamp = Stamp {
        secs: i64::MIN,
        nanos: i64::MIN,
    };
    let look = Look {
        kind: crate::sys::dir::Kind::Regular,
        mode: 0o755,
        device: u64::MAX,
        inode: u64::MAX,
        size: u64::MAX,
        mtime: stamp,
        ctime: stamp,
        birth: Some(stamp),
    };
    let medium = Medium {
        id: "x".repeat(1000),
        lasting_inodes: true,
        keeps_journal: true,
    };
    Line::Start(Start {
        run,
        run_id: "x".repeat(90),
        identity: Identity::of(&medium, std::ffi::OsStr::from_bytes(name), &look),
        sha256: "0".repeat(64),
        attempt: u32::MAX,
        boot_id: "0".repeat(36),
        started_at: "0".repeat(24),
        cgroup: Some("x".repeat(4096)),
        in_place: true,
        unstarted: true,
    })
}

fn sample() -> Vec<Line> {
    let mut lines = vec![Line::Ledger {
        id: "x".into(),
        schema: 1,
    }];
    lines.extend((1..39).map(|run| Line::End {
        run,
        again: run % 2 == 0,
    }));
    lines.push(start(39, b"x"));
    lines.push(Line::End {
        run: 39,
        again: false,
    });
    lines
}

#[test]
fn a_file_cut_or_torn_in_its_last_line_is_read_up_to_there() {
    let whole = file(&sample());
    let last = whole.len()
        - encode(&Line::End {
            run: 39,
            again: false,
        })
        .unwrap()
        .len();
    for cut in last + 1..whole.len() {
        let mut bytes = whole[..cut].to_vec();
        bytes.resize(1 << 16, 0);
        let contents = read(&bytes);
        assert_eq!(
            (contents.end, contents.damaged),
            (last as u64, false),
            "cut at {cut}"
        );
        assert_eq!(contents.lines, sample()[..40]);
    }
    // The second half of the last line arrived, the first did not.
    let mut bytes = whole.clone();
    bytes[last..last + 10].fill(0);
    bytes.resize(1 << 16, 0);
    let contents = read(&bytes);
    assert_eq!((contents.end, contents.damaged), (last as u64, false));
}

#[test]
fn a_broken_line_that_was_whole_once_is_damage() {
    let mut lines = sample();
    lines.extend([start(40, b"y"), start(41, b"z")]);
    let whole = file(&lines);
    assert!(!read(&whole).damaged);
    let mut bytes = whole.clone();
    bytes[200] ^= 1;
    assert!(read(&bytes).damaged);
    let mut bytes = file(&sample());
    let last = bytes.len() - 10;
    bytes[last] ^= 1;
    assert!(read(&bytes).damaged, "one wrong bit in the last line");
    let mut bytes = file(&sample());
    bytes.resize(1 << 16, 0);
    bytes[60_000] = 1;
    assert!(read(&bytes).damaged);
    for bytes in [&b""[..], &[0; 4096], b"garbage", b"00000000 {}\n"] {
        assert!(read(bytes).damaged);
    }
}

#[test]
fn a_start_mark_behind_a_torn_line_was_never_acted_upon() {
    let mut lines = sample();
    lines.push(start(40, b"y"));
    let mut bytes = file(&lines);
    let torn = file(&sample()).len() - 5;
    bytes[torn] = 0;
    bytes.resize(1 << 16, 0);
    let contents = read(&bytes);
    assert!(!contents.damaged);
    assert_eq!(contents.lines, sample()[..40]);
}

#[test]
fn the_longest_name_fits_a_line() {
    let line = start(u64::MAX, &[0xff; 255]);
    assert_eq!(
        read(&file(&[
            Line::Ledger {
                id: "x".into(),
                schema: 1
            },
            line
        ]))
        .lines
        .len(),
        2
    );
}

#[test]
fn long_runs_of_zeros_between_bytes_are_read_in_no_time() {
    let mut bytes = vec![0; 4 << 20];
    bytes[4_000_000] = b'x';
    assert!(read(&bytes).damaged);
}

fn names() -> impl Strategy<Value = Vec<u8>> {
    let byte = (1_u8..=255).prop_filter("no name has it", |&byte| byte != b'/');
    let name = proptest::collection::vec(byte, 1..=255);
    name.prop_filter("no file", |name| name != b"." && name != b"..")
}

/// Any start mark that gvad may write.
fn starts() -> impl Strategy<Value = Line> {
    let text = || "[ -.0-~]{0,40}";
    let flags = any::<[bool; 2]>();
    let texts = (text(), text(), proptest::option::of(text()));
    let identity = (
        names(),
        any::<(u64, u64)>(),
        any::<[(i64, i64); 2]>(),
        any::<Option<(i64, i64)>>(),
    );
    (any::<(u64, u32)>(), identity, texts, flags).prop_map(
        |((run, attempt), (name, (inode, size), [mtime, ctime], birth), texts, flags)| {
            use std::os::unix::ffi::OsStrExt;
            let name = OsStr::from_bytes(&name);
            let (medium, boot_id, cgroup) = texts;
            let script = ScriptName::of(name);
            let identity = Identity {
                medium,
                name: script,
                inode,
                size,
                mtime,
                ctime,
                birth,
            };
            Line::Start(Start {
                run,
                run_id: crate::name::run_id(run, name),
                identity,
                sha256: "0".repeat(64),
                attempt,
                boot_id,
                started_at: String::new(),
                cgroup,
                in_place: flags[0],
                unstarted: flags[1],
            })
        },
    )
}

/// Any result that the ledger may keep, with whatever its script printed.
fn results() -> impl Strategy<Value = Line> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..100);
    let text = "[ -~é\u{0}\n]{0,40}";
    (0..u64::MAX, names(), text, bytes(), bytes()).prop_map(
        |(run, name, reason, stdout, stderr)| {
            use std::os::unix::ffi::OsStrExt;
            let name = OsStr::from_bytes(&name);
            let (run_id, name) = (crate::name::run_id(run, name), ScriptName::of(name));
            let result = RunResult::unseen(run_id, name, Outcome::Exited, reason);
            Line::Result(Kept {
                run,
                result,
                stdout: Printed(stdout),
                stderr: Printed(stderr),
            })
        },
    )
}

/// Any line but a start mark.
fn others() -> impl Strategy<Value = Line> {
    prop_oneof![
        any::<(u64, bool)>().prop_map(|(run, again)| Line::End { run, again }),
        results(),
        any::<u64>().prop_map(|run| Line::Filed { run }),
        any::<u64>().prop_map(|run| Line::Settled { run }),
        any::<u64>().prop_map(|run| Line::Lost { run }),
        ("[0-9a-f]{32}", "[0-9a-f]{64}").prop_map(|(key, sha256)| Line::Ran { key, sha256 }),
    ]
}

fn ledgers() -> impl Strategy<Value = Vec<Line>> {
    let lines = proptest::collection::vec(prop_oneof![starts(), others()], 0..12);
    lines.prop_map(|mut lines| {
        let id = "0-a".to_owned();
        lines.insert(0, Line::Ledger { id, schema: 1 });
        lines
    })
}

/// As a file is: filled up with zeros.
fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len() + 4096, 0);
    bytes
}

proptest! {
    #[test]
    fn whatever_is_written_is_read(lines in ledgers()) {
        let written = file(&lines);
        let length = written.len() as u64;
        let contents = read(&padded(written));
        prop_assert_eq!((contents.end, contents.damaged), (length, false));
        prop_assert_eq!(contents.lines, lines);
    }

    /// Behind the last sync there are ends, and at most one start mark; of each sector it may be that it did not arrive.
    #[test]
    fn a_crash_takes_nothing_that_was_synced_and_never_looks_like_damage(
        synced in ledgers(),
        ends in proptest::collection::vec(others(), 0..8),
        start in proptest::option::of(starts()),
        arrived in proptest::collection::vec(any::<bool>(), 64),
        shift in 0..512_usize,
    ) {
        let tail: Vec<Line> = ends.into_iter().chain(start).collect();
        let (before, tail) = (file(&synced), file(&tail));
        let mut bytes = before.clone();
        for (at, byte) in tail.iter().enumerate() {
            let sector = (at + shift) / 512;
            bytes.push(if arrived[sector % arrived.len()] { *byte } else { 0 });
        }
        let contents = read(&padded(bytes));
        prop_assert!(!contents.damaged);
        prop_assert!(contents.end >= before.len() as u64);
        prop_assert_eq!(contents.lines.get(..synced.len()), Some(&synced[..]));
    }

    #[test]
    fn one_wrong_byte_is_seen(lines in ledgers(), at in any::<prop::sample::Index>(), wrong in 1_u8..=255) {
        let mut bytes = file(&lines);
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != wrong && wrong != b'\n');
        // One blank between checksum and line is as good as another, and so are the checksum's capitals.
        let line = bytes[..at].iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        prop_assume!(at - line > 8);
        let last = at == bytes.len() - 1;
        bytes[at] = wrong;
        // Without its end the last line is one that a crash has cut off.
        prop_assert_eq!(read(&bytes).damaged, !last || lines.len() == 1);
    }

    #[test]
    fn whatever_the_bytes_are_there_is_an_answer(bytes in proptest::collection::vec(prop_oneof![Just(0), Just(b'\n'), any::<u8>()], 0..4096)) {
        let contents = read(&bytes);
        prop_assert!(contents.end <= bytes.len() as u64);
        prop_assert!(contents.damaged);
    }
}
