//! Names: of a script (any bytes that a file name may have) and of a run (`000007-hello.sh`).

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde::{Deserialize, Serialize};

/// The longest part of a script's name that a run's name takes, in bytes.
const LONGEST_IN_ID: usize = 64;

/// A script's name as JSON can carry it: readable, and exact where that is not the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptName {
    /// The name; what is not UTF-8 in it is replaced.
    pub script: String,
    /// All bytes in hexadecimal, where `script` is not exact.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub script_hex: Option<String>,
}

impl ScriptName {
    /// Of a file name.
    #[must_use]
    pub fn of(name: &OsStr) -> ScriptName {
        match name.to_str() {
            Some(text) => ScriptName {
                script: text.to_owned(),
                script_hex: None,
            },
            None => ScriptName {
                script: name.to_string_lossy().into_owned(),
                script_hex: Some(hex(name.as_bytes())),
            },
        }
    }

    /// The file name again; `None` if the hexadecimal form is none.
    #[must_use]
    pub fn file_name(&self) -> Option<OsString> {
        match &self.script_hex {
            None => Some(OsString::from(&self.script)),
            Some(digits) => unhex(digits).map(OsString::from_vec),
        }
    }
}

/// Whether a character does something else than to be seen: it moves a terminal's cursor, makes a line, turns the direction of
/// reading, or is not visible at all.
#[must_use]
pub fn deceives(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}')
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
}

/// For people: what deceives is escaped, so that a name cannot write lines of its own into a log or a table, or look like another.
impl fmt::Display for ScriptName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.script.chars() {
            if deceives(c) {
                write!(f, "{}", c.escape_default())?
            } else {
                f.write_char(c)?
            }
        }
        Ok(())
    }
}

/// A file name for people; see [`ScriptName`].
#[must_use]
pub fn shown(name: &OsStr) -> String {
    ScriptName::of(name).to_string()
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}"); // writing to a String cannot fail
            text
        })
}

/// The bytes of [`hex`]; `None` if it is none.
#[must_use]
pub fn unhex(digits: &str) -> Option<Vec<u8>> {
    let (pairs, []) = digits.as_bytes().as_chunks::<2>() else {
        return None;
    };
    pairs
        .iter()
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

/// The name of the run with this number, and of its directory.
#[must_use]
pub fn run_id(run: u64, script: &OsStr) -> String {
    let kept = script
        .as_bytes()
        .iter()
        .take(LONGEST_IN_ID)
        .map(|&byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' => char::from(byte),
            _ => '_',
        });
    format!("{run:06}-{}", kept.collect::<String>())
}

/// The number in a run's name; `None` if it is not the name of a run.
#[must_use]
pub fn run_number(id: &OsStr) -> Option<u64> {
    let (digits, rest) = id.to_str()?.split_once('-')?;
    let well_formed =
        digits.len() >= 6 && digits.bytes().all(|byte| byte.is_ascii_digit()) && !rest.is_empty();
    well_formed.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn any_name_survives_the_way_through_json() {
        for bytes in [
            &b"hello.sh"[..],
            b"-rf",
            b"a\nb",
            b"\xff\xfe",
            b" ",
            "ü".as_bytes(),
        ] {
            let name = OsStr::from_bytes(bytes);
            let text = serde_json::to_string(&ScriptName::of(name)).unwrap();
            let back: ScriptName = serde_json::from_str(&text).unwrap();
            assert_eq!(back.file_name().as_deref(), Some(name), "{text}");
        }
    }

    #[test]
    fn a_run_is_named_by_number_and_harmless_bytes() {
        assert_eq!(run_id(1, OsStr::new("hello.sh")), "000001-hello.sh");
        assert_eq!(
            run_id(1_234_567, OsStr::from_bytes(b"../a b\n\xff")),
            "1234567-.._a_b__"
        );
        assert_eq!(run_id(7, OsStr::new(&"x".repeat(255))).len(), 7 + 64);
        assert_eq!(run_number(OsStr::new("000007-x")), Some(7));
        for other in [
            "7-x",
            "ledger",
            "status.json",
            "000007",
            "00000a-x",
            "000007-",
            "+00007-x",
        ] {
            assert_eq!(run_number(OsStr::new(other)), None, "{other}");
        }
    }

    #[test]
    fn a_name_cannot_break_a_line() {
        assert_eq!(
            shown(OsStr::from_bytes(b"a\n\x1b[31mb")),
            "a\\n\\u{1b}[31mb"
        );
        assert_eq!(
            shown("ü\u{202e}hs.\u{2028}".as_ref()),
            "ü\\u{202e}hs.\\u{2028}"
        );
    }

    /// Any name that a file may have.
    fn names() -> impl Strategy<Value = OsString> {
        let byte = prop_oneof![1_u8..=255, Just(b'\n'), Just(0xc3), b'a'..=b'z'];
        let byte = byte.prop_filter("no name has it", |&byte| byte != b'/');
        proptest::collection::vec(byte, 1..=255).prop_map(OsString::from_vec)
    }

    proptest! {
        #[test]
        fn every_name_comes_back_from_json_and_breaks_no_line(name in names(), run in any::<u64>()) {
            let script = ScriptName::of(&name);
            let text = serde_json::to_string(&script).unwrap();
            let back: ScriptName = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(back.file_name(), Some(name.clone()));
            prop_assert_eq!(&back, &script);
            prop_assert!(!shown(&name).contains(char::is_control));
            let id = run_id(run, &name);
            prop_assert_eq!(run_number(OsStr::new(&id)), Some(run));
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            prop_assert!(id.bytes().all(plain) && id.len() <= 20 + 1 + LONGEST_IN_ID, "{}", id);
        }

        #[test]
        fn two_names_are_never_one(one in names(), other in names()) {
            prop_assert_eq!(one == other, ScriptName::of(&one) == ScriptName::of(&other));
        }
    }
}
