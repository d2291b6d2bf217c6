//! Lines from somebody who is not trusted: a longer one than allowed is passed over, not kept.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Longer lines are passed over. A result has at most 1 MiB.
const LONGEST: usize = 4 << 20;

/// Reads lines.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    from: R,
    kept: Vec<u8>,
    /// So much of `kept` was looked through.
    searched: usize,
    /// What comes up to the next end of a line belongs to one that was too long.
    skipping: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// From the start.
    pub(crate) fn new(from: R) -> Lines<R> {
        Lines {
            from,
            kept: Vec::new(),
            searched: 0,
            skipping: false,
        }
    }

    /// The next line without its end; `None` when there is no more. May be dropped while it waits, nothing is lost.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(at) = self.kept[self.searched..].iter().position(|b| *b == b'\n') {
                let end = self.searched + at;
                let mut line: Vec<u8> = self.kept.drain(..=end).collect();
                line.pop();
                self.searched = 0;
                if std::mem::take(&mut self.skipping) {
                    continue;
                }
                return Ok(Some(line));
            }
            self.searched = self.kept.len();
            if self.kept.len() > LONGEST {
                self.kept.clear();
                self.searched = 0;
                self.skipping = true;
            }
            if self.from.read_buf(&mut self.kept).await? == 0 {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_too_long_is_passed_over() {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let read = async {
            let long = vec![b'x'; 3 * LONGEST];
            let bytes = [b"one\n", &long[..], b"\ntwo\n\nrest"].concat();
            let mut lines = Lines::new(&bytes[..]);
            let mut found = Vec::new();
            while let Some(line) = lines.next().await.unwrap() {
                found.push(String::from_utf8(line).unwrap());
            }
            found
        };
        let found = { runtime }.build().unwrap().block_on(read);
        assert_eq!(found, ["one", "two", ""]);
    }
}
