//! Disk images: made by the host command, read by debugfs(8), never mounted here.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use gvad::outcome::RunResult;

use crate::place;

/// Runs a program to its end, which must be a good one; what it printed.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{command:?}: {}\n{out}{err}",
        output.status
    );
    out.into_owned()
}

/// The host command.
#[must_use]
pub fn gva() -> Command {
    Command::new(place("GVA"))
}

/// A directory with scripts in its `script-bin`.
pub fn scripts(directory: &Path, scripts: &[(&str, &str)]) {
    let script_bin = directory.join("script-bin");
    fs::create_dir_all(&script_bin).unwrap();
    for (name, text) in scripts {
        let path = script_bin.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// An application image `NAME.img` with these scripts.
#[must_use]
pub fn application(at: &Path, name: &str, content: &[(&str, &str)]) -> PathBuf {
    let directory = at.join(name);
    scripts(&directory, content);
    let image = at.join(format!("{name}.img"));
    run(gva().arg("image").arg(&directory).arg("-o").arg(&image));
    image
}

/// An empty output image.
#[must_use]
pub fn output(at: &Path, name: &str) -> PathBuf {
    let image = at.join(name);
    let size = ["--role", "output", "--size", "64MiB", "-o"];
    run(gva().arg("image").args(size).arg(&image));
    image
}

/// A file on an ext image, where it must be; `path` is absolute.
#[must_use]
pub fn cat(image: &Path, path: &str) -> String {
    let request = format!("cat \"{path}\"");
    run(debugfs(image).args(["-R", &request]))
}

/// The names in a directory on an ext image.
#[must_use]
pub fn names(image: &Path, path: &str) -> Vec<String> {
    let listing = run(debugfs(image).args(["-R", &format!("ls -p \"{path}\"")]));
    let names = listing.lines().filter_map(|line| line.split('/').nth(5));
    let mut names: Vec<String> = names
        .filter(|name| !matches!(*name, "." | ".." | ""))
        .map(str::to_owned)
        .collect();
    names.sort();
    names
}

fn debugfs(image: &Path) -> Command {
    let mut command = Command::new("/usr/sbin/debugfs");
    // In catastrophic mode it would not look at the bitmaps, and not replay; as it is it only reads.
    command.arg(image);
    command
}

/// The results on an ext image, by run number; `gvad` is the directory, such as `/gvad` or `/output/gvad`.
#[must_use]
pub fn results(image: &Path, gvad: &str) -> Vec<RunResult> {
    let runs = names(image, gvad).into_iter();
    let runs = runs.filter(|name| name.starts_with(|first: char| first.is_ascii_digit()));
    runs.map(|run| {
        let text = cat(image, &format!("{gvad}/{run}/result.json"));
        serde_json::from_str(&text).unwrap_or_else(|err| panic!("{run}: {err}: {text}"))
    })
    .collect()
}

/// Whether an ext image was unmounted, or frozen: its journal is empty.
#[must_use]
pub fn is_clean(image: &Path) -> bool {
    let header = run(Command::new("/usr/sbin/dumpe2fs").arg("-h").arg(image));
    !header.contains("needs_recovery")
}
