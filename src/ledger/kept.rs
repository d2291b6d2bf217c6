//! Results that the ledger keeps until they are durable as files.

use serde::{Deserialize, Serialize};

use super::line::{self, Line};
use crate::name::{hex, unhex};
use crate::outcome::RunResult;

/// gvad keeps half as many at a time. Of more, which only a damaged or forged ledger has, those before the last have become files long ago.
const MOST: usize = 64;

/// A run's result with what its script printed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// Number of the run.
    pub run: u64,
    /// As in `result.json`.
    pub result: RunResult,
    /// The file `stdout`.
    #[serde(default, skip_serializing_if = "Printed::is_empty")]
    pub stdout: Printed,
    /// The file `stderr`.
    #[serde(default, skip_serializing_if = "Printed::is_empty")]
    pub stderr: Printed,
}

/// The results that a ledger file keeps, whatever its bytes are.
#[must_use]
pub fn kept_in(ledger: &[u8]) -> Vec<Kept> {
    let mut kept = Vec::new();
    for line in line::read(ledger).lines {
        remember(&mut kept, line);
    }
    kept
}

/// What a line means for the results that are kept.
pub(super) fn remember(kept: &mut Vec<Kept>, line: Line) {
    match line {
        Line::Result(result) => {
            kept.retain(|other| other.run != result.run);
            if kept.len() >= MOST {
                kept.remove(0);
            }
            kept.push(result);
        }
        Line::Filed { run } | Line::Settled { run } => kept.retain(|kept| kept.run > run),
        Line::Ledger { .. }
        | Line::Start(_)
        | Line::End { .. }
        | Line::Ran { .. }
        | Line::Lost { .. } => {}
    }
}

/// Bytes as JSON can carry them: text where they are UTF-8, else in hexadecimal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Form", try_from = "Form")]
pub struct Printed(pub Vec<u8>);

impl Printed {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Form {
    Text(String),
    Bytes { hex: String },
}

impl From<Printed> for Form {
    fn from(printed: Printed) -> Form {
        String::from_utf8(printed.0).map_or_else(
            |err| Form::Bytes {
                hex: hex(err.as_bytes()),
            },
            Form::Text,
        )
    }
}

impl TryFrom<Form> for Printed {
    type Error = &'static str;

    fn try_from(form: Form) -> Result<Printed, &'static str> {
        match form {
            Form::Text(text) => Ok(Printed(text.into_bytes())),
            Form::Bytes { hex } => unhex(&hex).map(Printed).ok_or("no hexadecimal digits"),
        }
    }
}
