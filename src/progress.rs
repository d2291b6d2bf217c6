//! Progress: a running script writes to the file named by `GVA_PROGRESS` how far it is, and the board shows it. Whatever else a script makes of
//! that file is passed over.

use std::future::Future;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use crate::board::Board;
use crate::status::Progress;
use crate::sys::dir::{Dir, Look};

/// Name of the file in the private directory. No script's name begins with a dot.
pub const NAME: &str = ".progress";
/// How often to look.
const EVERY: Duration = Duration::from_secs(1);
/// So much is read, from the end, in bytes.
const MOST: usize = 4096;
/// So many characters of the text are kept.
const TEXT: usize = 200;

/// Shows how far the script in this private directory is, until it has ended.
pub async fn follow(stage: &Dir, board: &Board, ended: impl Future<Output = ()>) {
    let mut watch = Watch {
        dir: stage,
        seen: None,
        shown: None,
    };
    let mut ended = std::pin::pin!(ended);
    loop {
        let over = tokio::time::timeout(EVERY, &mut ended).await.is_ok();
        if let Some(progress) = watch.look() {
            board.progress(progress);
        }
        if over {
            return;
        }
    }
}

struct Watch<'a> {
    dir: &'a Dir,
    /// The file when it was read last.
    seen: Option<Look>,
    shown: Option<Progress>,
}

impl Watch<'_> {
    /// What is new.
    fn look(&mut self) -> Option<Progress> {
        let progress = self.read().ok().flatten()?;
        if self.shown.as_ref() == Some(&progress) {
            return None;
        }
        self.shown = Some(progress.clone());
        Some(progress)
    }

    fn read(&mut self) -> io::Result<Option<Progress>> {
        let file = self.dir.open_if_file(NAME)?;
        let look = Look::at(&file)?;
        if self.seen.replace(look) == Some(look) {
            return Ok(None);
        }
        let mut bytes = [0; MOST];
        let at = look.size.saturating_sub(MOST as u64);
        let count = file.read_at(&mut bytes, at)?;
        Ok(last_line(bytes.get(..count).unwrap_or_default(), at > 0).and_then(parse))
    }
}

/// The last line that is whole and not empty. A file without any line feed is one line. What was cut off at the front is none.
fn last_line(mut bytes: &[u8], cut: bool) -> Option<&[u8]> {
    let feed = |&byte: &u8| byte == b'\n';
    if cut {
        bytes = bytes.get(bytes.iter().position(feed)? + 1..)?;
    }
    if let Some(end) = bytes.iter().rposition(feed) {
        bytes = bytes.get(..end)?;
    } else if cut {
        return None;
    }
    let mut lines = bytes.rsplit(feed).map(<[u8]>::trim_ascii);
    lines.find(|line| !line.is_empty())
}

/// A number from 0 to 1, and perhaps text.
fn parse(line: &[u8]) -> Option<Progress> {
    let line = String::from_utf8_lossy(line);
    let (number, text) = line
        .split_once(char::is_whitespace)
        .unwrap_or((line.as_ref(), ""));
    let fraction: f64 = number.parse().ok()?;
    let text: String = text
        .trim()
        .chars()
        .take(TEXT)
        .map(|c| if crate::name::deceives(c) { ' ' } else { c })
        .collect();
    (0.0..=1.0).contains(&fraction).then(|| Progress {
        // No "-0".
        fraction: fraction.abs(),
        text: (!text.is_empty()).then_some(text),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(bytes: &[u8]) -> Option<(f64, String)> {
        let progress = last_line(bytes, false).and_then(parse)?;
        Some((progress.fraction, progress.text.unwrap_or_default()))
    }

    #[test]
    fn the_last_whole_line_counts() {
        let some = |fraction, text: &str| Some((fraction, text.to_owned()));
        assert_eq!(told(b"0.5"), some(0.5, ""));
        assert_eq!(told(b"0.5\n"), some(0.5, ""));
        assert_eq!(told(b"0.1 one\n0.2 two words \n\n"), some(0.2, "two words"));
        assert_eq!(told(b"0.1\n0.25 half a li"), some(0.1, ""));
        assert_eq!(told(b"1\t\x1b[31mred\x07\n"), some(1.0, " [31mred "));
        assert_eq!(told(b"0 \xff\xfe\n"), some(0.0, "\u{fffd}\u{fffd}"));
        assert_eq!(told(b"-0\n"), some(0.0, ""));
        let long = "ü".repeat(1000);
        assert_eq!(
            told(format!("0.5 {long}").as_bytes()).map(|t| t.1.chars().count()),
            Some(TEXT)
        );
        for none in [
            &b""[..],
            b"\n\n",
            b"x",
            b"NaN",
            b"inf",
            b"-0.1",
            b"1.01",
            b"50%",
            b"0,5",
            b"\0\0\0",
        ] {
            assert_eq!(told(none), None, "{none:?}");
        }
    }

    #[test]
    fn a_line_that_was_cut_off_at_the_front_is_none() {
        assert_eq!(last_line(b".5\n0.7\n", true), Some(&b"0.7"[..]));
        assert_eq!(last_line(b".5\n", true), None);
        assert_eq!(last_line(b".5", true), None);
        assert_eq!(last_line(b".5\n0.7", true), None);
    }
}
