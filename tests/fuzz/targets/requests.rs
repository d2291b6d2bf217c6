//! What comes in from the port, in pieces of any length: the same requests as in one piece, and no more memory than one line has.
#![no_main]

use gvad::report::request::Input;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((size, bytes)) = input.split_first() else {
        return;
    };
    let whole = Input::default().take(bytes);
    let mut by_piece = Input::default();
    let pieces: Vec<_> = bytes
        .chunks(usize::from(*size).max(1))
        .flat_map(|piece| by_piece.take(piece))
        .collect();
    assert_eq!(whole, pieces);
    for request in whole.into_iter().flatten() {
        // What was understood means the same when it is written as gva writes it.
        let mut line = serde_json::to_vec(&request).expect("a request can be written");
        line.push(b'\n');
        assert_eq!(Input::default().take(&line), [Ok(request)]);
    }
});
