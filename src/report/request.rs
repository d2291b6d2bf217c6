//! Requests as they come in: bytes to lines, bounded; lines to requests.

use serde_json::Value;

use super::event::Request;
use super::queue::LONGEST_LINE;

/// What came in and is not a whole line yet.
#[derive(Debug, Default)]
pub struct Input {
    line: Vec<u8>,
    /// The line is too long; its rest is passed over.
    too_long: bool,
}

/// A line that is no request.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its `id`, if that could be seen.
    pub id: Option<String>,
    /// Why, for people.
    pub message: String,
}

impl Input {
    /// What these bytes bring to an end.
    pub fn take(&mut self, mut bytes: &[u8]) -> Vec<Result<Request, Refused>> {
        let mut found = Vec::new();
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            let (head, rest) = bytes.split_at(end);
            self.add(head);
            let line = std::mem::take(self);
            found.extend(line.end());
            bytes = rest.get(1..).unwrap_or_default();
        }
        self.add(bytes);
        found
    }

    /// The other side is gone, and the rest of its line with it.
    pub fn clear(&mut self) {
        *self = Input::default();
    }

    fn add(&mut self, bytes: &[u8]) {
        if self.line.len() + bytes.len() >= LONGEST_LINE {
            self.too_long = true;
            self.line = Vec::new();
        }
        if !self.too_long {
            self.line.extend_from_slice(bytes);
        }
    }

    fn end(self) -> Option<Result<Request, Refused>> {
        if self.too_long {
            let message = format!("a request has {LONGEST_LINE} bytes at most");
            return Some(Err(Refused { id: None, message }));
        }
        let line = self.line.trim_ascii();
        (!line.is_empty()).then(|| parse(line))
    }
}

fn parse(line: &[u8]) -> Result<Request, Refused> {
    let refused = |id: Option<&Value>, err: &serde_json::Error| Refused {
        id: id.and_then(Value::as_str).map(str::to_owned),
        message: format!("not a request: {err}"),
    };
    let value: Value = serde_json::from_slice(line).map_err(|err| refused(None, &err))?;
    // An event came back from a terminal in between: an answer to its `id` would come back too, and so on.
    let id = value.get("id").filter(|_| value.get("event").is_none());
    serde_json::from_value(value.clone()).map_err(|err| refused(id, &err))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::event::Command;

    fn status() -> Result<Request, Refused> {
        Ok(Request {
            id: None,
            command: Command::Status,
        })
    }

    #[test]
    fn lines_come_in_any_pieces() {
        let text = b"\n{\"do\":\"status\"}\r\n  \n{\"do\":\"status\",\"later\":1}\n{\"do\"";
        for size in 1..text.len() {
            let mut input = Input::default();
            let found: Vec<_> = text
                .chunks(size)
                .flat_map(|part| input.take(part))
                .collect();
            assert_eq!(found, [status(), status()], "{size}");
        }
    }

    #[test]
    fn a_line_without_end_takes_no_memory_and_spoils_no_other() {
        let mut input = Input::default();
        for _ in 0..100 {
            assert_eq!(input.take(&[b'x'; 4096]), []);
        }
        assert!(input.line.is_empty());
        let found = input.take(b"x\n{\"do\":\"status\"}\n");
        assert!(matches!(&found[0], Err(refused) if refused.message.contains("bytes at most")));
        assert_eq!(found[1], status());
    }
}
