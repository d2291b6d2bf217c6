//! The ledger as bytes. With a first byte of 1 each line gets the checksum that fits it, so that what is behind the checksums is reached too.
#![no_main]

use gvad::ledger::line::{LONGEST_LINE, Line, encode, read};
use libfuzzer_sys::fuzz_target;

fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    for json in bytes.split_inclusive(|&byte| byte == b'\n') {
        match json.strip_suffix(b"\n") {
            Some(json) => {
                whole.extend(format!("{:08x} ", crc32fast::hash(json)).into_bytes());
                whole.extend(json);
                whole.push(b'\n');
            }
            // The last one was cut off.
            None => whole.extend(json),
        }
    }
    whole
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else {
        return;
    };
    let bytes = if *kind == 1 {
        with_checksums(bytes)
    } else {
        bytes.to_vec()
    };
    let contents = read(&bytes);
    let end = usize::try_from(contents.end).expect("an end within the file");
    assert!(end <= bytes.len());
    if !contents.damaged {
        assert!(matches!(
            contents.lines.first(),
            Some(Line::Ledger { schema: 1, .. })
        ));
        // What lies behind the end is never acted upon.
        let before = read(&bytes[..end]);
        assert_eq!(before.lines, contents.lines);
        assert_eq!(before.end, contents.end);
    }
    for line in &contents.lines {
        if let Line::Start(start) = line {
            let _ = (start.identity.key(), start.identity.name.file_name());
            assert!(start.identity.same(&start.identity));
        }
        if let Line::Result(kept) = line {
            let run_id = &kept.result.run_id;
            assert!(!run_id.contains('/') && run_id.contains('-'));
        }
    }
    // Written anew it says the same.
    let written: Result<Vec<Vec<u8>>, _> = contents.lines.iter().map(encode).collect();
    let Ok(written) = written else {
        return;
    };
    assert!(written.iter().all(|line| line.len() <= LONGEST_LINE));
    let mut anew = written.concat();
    let length = anew.len();
    anew.resize(length + 100, 0);
    let again = read(&anew);
    assert_eq!(again.lines, contents.lines);
    assert_eq!(again.end, length as u64);
});
