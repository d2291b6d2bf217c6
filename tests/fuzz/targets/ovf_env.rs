//! The OVF environment, up to the variables that scripts get: bounded in number and length, with names of one form, and never two of one name.
#![no_main]

use std::collections::HashSet;

use gvad::parameters::{Origin, in_force, ovf_env};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let found = match ovf_env::parse(bytes) {
        Ok(found) => found,
        Err(err) => {
            let line = format!("{err:#}");
            assert!(
                !line.contains(char::is_control) && line.len() < 300,
                "{line:?}"
            );
            return;
        }
    };
    let (parameters, _) = in_force(&[(Origin::Ovf, &found.given)]);
    let mut seen = HashSet::new();
    for parameter in &parameters {
        let name = parameter
            .variable
            .strip_prefix("GVA_PARAM_")
            .expect("the prefix");
        assert!(
            name.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'),
            "{name:?}"
        );
        assert!(!parameter.value.as_encoded_bytes().contains(&0));
        assert!(seen.insert(&parameter.variable), "{name} is there twice");
    }
});
