//! The layers of ARCHITECTURE.md, by looking at the text: what may name what, and how long a file is.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::path::{Path, PathBuf};

/// Every source file with its text.
fn sources() -> Vec<(PathBuf, String)> {
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut found = Vec::new();
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(found.len() > 10, "the sources are found");
    found
}

fn is_sys(path: &Path) -> bool {
    let sys = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sys");
    path.starts_with(&sys) || path == sys.with_extension("rs")
}

/// The lines of code, with their numbers: no comments.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(n, line)| (n + 1, line));
    lines.map(|(n, line)| (n, line.split("//").next().unwrap_or_default()))
}

/// Whether a line has the word as a word.
fn has(line: &str, word: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(inside) && !line[at + word.len()..].starts_with(inside)
    })
}

#[test]
fn system_calls_stand_under_sys_only() {
    for (path, text) in sources().iter().filter(|(path, _)| !is_sys(path)) {
        for (number, line) in code(text) {
            for word in ["nix", "libc", "sys_mount", "unsafe"] {
                let named = has(line, word) && !line.contains('"');
                assert!(!named, "{}:{number}: {word}: {line}", path.display());
            }
        }
    }
}

#[test]
fn sys_knows_nothing_of_gvad() {
    for (path, text) in sources().iter().filter(|(path, _)| is_sys(path)) {
        for (number, line) in code(text) {
            let above =
                line.replace("crate::sys", "").contains("crate::") || line.contains("gvad::");
            assert!(!above, "{}:{number}: {line}", path.display());
        }
        let depth = path
            .strip_prefix(env!("CARGO_MANIFEST_DIR"))
            .unwrap()
            .components()
            .count();
        let up = "super::".repeat(depth - 1);
        assert!(!text.contains(&up), "{}: {up}", path.display());
    }
}

#[test]
fn no_file_is_longer_than_400_lines() {
    let long: Vec<_> = sources()
        .into_iter()
        .map(|(p, t)| (t.lines().count(), p))
        .filter(|(n, _)| *n > 400)
        .collect();
    assert!(long.is_empty(), "probably two: {long:?}");
}

#[test]
fn every_file_says_what_it_owns() {
    for (path, text) in sources() {
        assert!(text.starts_with("//!"), "{}", path.display());
    }
}
