//! Durations and sizes as people write them in the configuration: `"1h 30m"`, `"64MiB"`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A length of time, such as `"90s"` or `"1h 30m"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

/// Longer than any machine runs; keeps sums of times within what clocks can add.
const LONGEST: Duration = Duration::from_secs(1000 * 365 * 24 * 3600);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        let span = humantime::parse_duration(text.trim()).map_err(|err| {
            format!("{text:?} is not a duration such as \"90s\" or \"1h 30m\": {err}")
        })?;
        if span > LONGEST {
            return Err(format!("{text:?} is longer than 1000 years"));
        }
        Ok(Span(span))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// A number of bytes, such as `"64MiB"` or `"1000"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(pub u64);

const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let trimmed = text.trim();
        let (digits, factor) = UNITS
            .iter()
            .find_map(|(unit, factor)| Some((trimmed.strip_suffix(unit)?.trim_end(), *factor)))
            .unwrap_or((trimmed, 1));
        let number: u64 = digits.parse().map_err(|_| {
            format!("{text:?} is not a size: a whole number and one of B, kB, KiB, MB, MiB, GB, GiB, TB, TiB")
        })?;
        // 2^62: offsets in files are signed.
        number
            .checked_mul(factor)
            .filter(|bytes| *bytes <= 1 << 62)
            .map(Size)
            .ok_or_else(|| format!("{text:?} is too large"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = UNITS
            .iter()
            .find(|(unit, factor)| {
                unit.ends_with("iB") && self.0 >= *factor && self.0.is_multiple_of(*factor)
            })
            .unwrap_or(&("B", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Span, String> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> String {
        span.to_string()
    }
}

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Size, String> {
        text.parse()
    }
}

impl From<Size> for String {
    fn from(size: Size) -> String {
        size.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written_back_as_they_were() {
        for text in ["64MiB", "1GiB", "0B", "1000B", "1536KiB"] {
            assert_eq!(
                text.parse::<Size>().map(|size| size.to_string()),
                Ok(text.to_owned())
            );
        }
        assert_eq!("10 kB".parse(), Ok(Size(10_000)));
        for text in [
            "",
            "MiB",
            "-1",
            "1.5GiB",
            "99999999999TiB",
            "1 QB",
            "64mib ",
        ] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_read_and_written_back() {
        for text in ["90s", "1h 30m", "0s", "500ms"] {
            let span: Result<Span, _> = text.parse();
            assert!(
                span.clone()
                    .is_ok_and(|span| span.to_string().parse() == Ok(span)),
                "{text}"
            );
        }
        for text in ["", "90", "-1s", "1 fortnight", "99999999999999y"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}
