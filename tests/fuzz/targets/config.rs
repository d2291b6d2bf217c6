//! The configuration file, and behind a NUL byte the credential `gva.config` that is laid over it: a configuration, or one line that says
//! what is wrong. What is in force, printed and read again, is the same.
#![no_main]

use std::path::Path;

use gvad::config::{Overrides, effective};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (text, drop_in) = match text.split_once('\0') {
        Some((text, drop_in)) => (text, Some(drop_in.to_owned())),
        None => (text, None),
    };
    let overrides = Overrides {
        drop_in,
        ..Overrides::default()
    };
    let path = Path::new("/etc/gvad.toml");
    match effective(text, path, &overrides) {
        Ok(config) => {
            let printed = toml::to_string(&config).expect("what is in force can be printed");
            let again = effective(&printed, path, &Overrides::default());
            assert_eq!(again.expect("what was printed can be read"), config);
        }
        Err(err) => {
            let line = format!("{err:#}");
            assert!(!line.contains(char::is_control), "{line:?}");
            assert!(line.len() < 4096 + 4 * text.len());
        }
    }
});
