//! The configuration files that ship are accepted, and the commented one tells the true defaults.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn check(config: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gvad"))
        .args(["check", "--config"])
        .arg(config)
        .output()
        .unwrap()
}

/// Whether a commented line is one that sets a key, and not prose.
fn sets_a_key(line: &str) -> bool {
    let Some((key, value)) = line.split_once(" = ") else {
        return false;
    };
    let key_is_one = !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    key_is_one
        && value.starts_with([
            '"', '\'', '[', 't', 'f', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9',
        ])
}

#[test]
fn shipped_file_with_every_line_uncommented_is_the_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let (plain, empty) = (dir.path().join("plain.toml"), dir.path().join("empty.toml"));
    let shipped = fs::read_to_string(format!("{ROOT}/packaging/gvad.toml")).unwrap();
    let mut keys = 0;
    let lines = shipped
        .lines()
        .map(|line| match line.trim_start().strip_prefix("# ") {
            Some(rest) if sets_a_key(rest) => {
                keys += 1;
                rest
            }
            _ => line,
        });
    let lines: Vec<_> = lines.collect();
    fs::write(&plain, lines.join("\n") + "\n").unwrap();
    fs::write(&empty, "").unwrap();
    let (plain, empty) = (check(&plain), check(&empty));
    assert!(
        plain.status.success(),
        "{}",
        String::from_utf8_lossy(&plain.stderr)
    );
    assert_eq!(
        String::from_utf8_lossy(&plain.stdout),
        String::from_utf8_lossy(&empty.stdout)
    );
    // Every key of the contract stands in the file.
    let printed: toml::Table = String::from_utf8(empty.stdout).unwrap().parse().unwrap();
    let of_contract: usize = printed.values().map(|s| s.as_table().unwrap().len()).sum();
    assert_eq!(keys, of_contract, "each key once");
    let section = |line: &&str| line.starts_with('[') || line.starts_with("# [");
    assert_eq!(
        shipped.lines().filter(section).count(),
        9,
        "each section once"
    );
}

#[test]
fn shipped_file_as_it_is_is_the_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty.toml");
    fs::write(&empty, "").unwrap();
    let shipped = check(&Path::new(ROOT).join("packaging/gvad.toml"));
    assert!(
        shipped.status.success(),
        "{}",
        String::from_utf8_lossy(&shipped.stderr)
    );
    assert_eq!(shipped.stdout, check(&empty).stdout);
}

#[test]
fn configuration_of_every_example_is_accepted() {
    let mut seen = 0;
    for entry in fs::read_dir(format!("{ROOT}/examples")).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_dir() {
            continue;
        }
        let config = path.join("gvad.toml");
        assert!(config.is_file(), "{} has its configuration", path.display());
        let checked = check(&config);
        let said = String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success(), "{}: {said}", config.display());
        seen += 1;
    }
    assert!(seen >= 4, "compute, ordered, failing, timing out: {seen}");
}
