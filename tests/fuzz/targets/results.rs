//! A `result.json` that somebody else wrote: what `gvad results` makes of it is one line of a table that no name or reason can break, and JSON that says
//! the same.
#![no_main]

use gvad::outcome::RunResult;
use gvad::report::event::Line;
use gvad::results::{Entry, write_json, write_table};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // What gva reads from the port of a guest.
    if let Ok(line) = serde_json::from_slice::<Line>(bytes) {
        serde_json::to_vec(&line).expect("an event can be written");
    }
    let Ok(result) = serde_json::from_slice::<RunResult>(bytes) else {
        return;
    };
    let _ = result.name.file_name();
    let shown = result.name.to_string();
    assert!(!shown.contains(char::is_control), "{shown:?}");
    let entries = [Entry {
        run_id: "000001-x".to_owned(),
        result: Some(result.clone()),
    }];
    let mut table = Vec::new();
    write_table(&entries, &mut table).expect("memory can be written");
    let table = String::from_utf8(table).expect("a table is text");
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(
        !table.replace('\n', "").contains(char::is_control),
        "{table:?}"
    );
    let mut json = Vec::new();
    write_json(&entries, &mut json).expect("memory can be written");
    let again: RunResult =
        serde_json::from_slice(&json).expect("a result that was written can be read");
    assert_eq!(again, result);
});
