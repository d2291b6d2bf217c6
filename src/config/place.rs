//! Where in a configuration file something stands, for messages.

use std::path::Path;

use toml::de::{DeTable, DeValue};

/// The line, from 1, of a byte of `text`.
pub(super) fn line_at(text: &str, offset: usize) -> usize {
    text.as_bytes()
        .iter()
        .take(offset)
        .filter(|&&byte| byte == b'\n')
        .count()
        + 1
}

/// `FILE:LINE` of the key, such as `run.timeout`; only `FILE` if the file does not have it.
pub(super) fn place_of(text: &str, path: &Path, key: &str) -> String {
    match line_of(text, key) {
        Some(line) => format!("{}:{line}", path.display()),
        None => path.display().to_string(),
    }
}

/// On which line the key stands.
pub(super) fn line_of(text: &str, key: &str) -> Option<usize> {
    let table = DeTable::parse(text).ok()?;
    let (section, name) = key.split_once('.')?;
    let DeValue::Table(inner) = table.get_ref().get(section)?.get_ref() else {
        return None;
    };
    let (found, _) = inner.iter().find(|(found, _)| found.get_ref() == name)?;
    Some(line_at(text, found.span().start))
}

/// The first key at the top whose value is a list, and its line.
pub(super) fn list_in_place_of_a_section(text: &str) -> Option<(String, usize)> {
    let table = DeTable::parse(text).ok()?;
    let mut lists = table
        .get_ref()
        .iter()
        .filter(|(_, value)| matches!(value.get_ref(), DeValue::Array(_)))
        .map(|(key, _)| (key.get_ref().to_string(), line_at(text, key.span().start)));
    lists.next()
}
