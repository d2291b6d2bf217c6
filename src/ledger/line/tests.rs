//! The lines of the ledger, and what a crash may make of them.

use super::*;

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
