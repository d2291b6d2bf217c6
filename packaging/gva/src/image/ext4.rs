//! An ext4 image by mke2fs. Everything in it belongs to root, whoever made it: mke2fs of before 1.47.1 takes owners only from the directory, so
//! debugfs sets them afterwards.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, bail};

use super::Content;
use crate::tool;

/// The package with all of these tools.
pub(crate) const PACKAGE: &str = "e2fsprogs";
/// What the type of file system allows.
const LONGEST_LABEL: usize = 16;
/// Smaller ones get no journal.
const SMALLEST: u64 = 16 << 20;
const LARGEST: u64 = 15 << 40;

/// What is to be made.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    /// What goes into it.
    pub(crate) directory: Option<&'a Path>,
    /// What it is called.
    pub(crate) label: &'a str,
    /// Bytes.
    pub(crate) size: u64,
    /// What `directory` holds.
    pub(crate) content: &'a Content,
}

/// Makes the file system in `file`, which is there and empty.
pub(crate) fn make(wanted: &Wanted, file: &Path, doing: &str) -> anyhow::Result<()> {
    check(wanted).with_context(|| doing.to_owned())?;
    let mke2fs = tool::find("mke2fs", PACKAGE)?;
    OpenOptions::new()
        .write(true)
        .open(file)
        .and_then(|file| file.set_len(wanted.size))
        .with_context(|| format!("{doing}: making room for {} bytes", wanted.size))?;
    // One inode for each 16 KiB, as mke2fs has it, on top of those that are needed now.
    let inodes = wanted.content.inodes + 64 + wanted.size / (16 << 10);
    let mut command = tool::command(&mke2fs);
    command
        .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0"])
        // The file is new, so its journal's place is zeros already: written, they would be 32 MiB of the host's disk an image.
        .args(["-E", "root_owner=0:0,lazy_journal_init=1"])
        .args(["-L", wanted.label])
        .args(["-N", &inodes.min(u64::from(u32::MAX)).to_string()]);
    if let Some(directory) = wanted.directory {
        command.arg("-d").arg(directory);
    }
    tool::run(command.arg(file), doing).map_err(|err| {
        if format!("{err:#}").contains("allocate") {
            err.context("the image is too small for its content; see --size")
        } else {
            err
        }
    })?;
    if wanted.content.foreign {
        give_to_root(file, doing)?;
    }
    Ok(())
}

fn check(wanted: &Wanted) -> anyhow::Result<()> {
    let label = wanted.label;
    if label.is_empty() || label.len() > LONGEST_LABEL || label.contains(char::is_control) {
        bail!(
            "the label {label:?} must be 1 to {LONGEST_LABEL} bytes, none of them a control character"
        );
    }
    if wanted.size < SMALLEST || wanted.size > LARGEST {
        bail!("a size of {} bytes is not from 16MiB to 15TiB", wanted.size);
    }
    Ok(())
}

/// Sets owner and group of every inode that is in use to 0.
fn give_to_root(file: &Path, doing: &str) -> anyhow::Result<()> {
    let dumpe2fs = tool::find("dumpe2fs", PACKAGE)?;
    let debugfs = tool::find("debugfs", PACKAGE)?;
    let text = tool::run(tool::command(&dumpe2fs).arg(file), doing)?;
    let used = used_inodes(&String::from_utf8_lossy(&text))
        .with_context(|| format!("{doing}: dumpe2fs does not tell which inodes are free"))?;
    let mut requests = String::new();
    for inode in used {
        for field in ["uid", "gid"] {
            // Writing to a String cannot fail.
            let _ = writeln!(requests, "sif <{inode}> {field} 0");
        }
    }
    let mut list = tempfile::tempfile().context("making a temporary file")?;
    list.write_all(requests.as_bytes())
        .and_then(|()| std::io::Seek::rewind(&mut list))
        .with_context(|| format!("{doing}: writing a temporary file"))?;
    let mut command = tool::command(&debugfs);
    command
        .args(["-w", "-f", "-"])
        .arg(file)
        .stdin(Stdio::from(list));
    tool::run(&mut command, doing)?;
    Ok(())
}

/// From what dumpe2fs prints: the numbers of the root directory and of all files.
fn used_inodes(text: &str) -> Option<Vec<u32>> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse::<u32>().ok()
    };
    let (count, first) = (field("Inode count:")?, field("First inode:")?);
    let mut free = vec![false; usize::try_from(count).ok()? + 1];
    let ranges = text
        .lines()
        .filter_map(|line| line.strip_prefix("  Free inodes: "));
    for range in ranges.flat_map(|line| line.split(", ")).map(str::trim) {
        if range.is_empty() {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        let (from, to): (usize, usize) = (from.parse().ok()?, to.parse().ok()?);
        free.get_mut(from..=to)?.fill(true);
    }
    let used = (first..=count).filter(|inode| {
        let free = usize::try_from(*inode)
            .ok()
            .and_then(|inode| free.get(inode));
        free == Some(&false)
    });
    Some(std::iter::once(2).chain(used).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inodes_in_use_are_those_that_are_not_free() {
        let text = "Inode count:              20\nFree inodes:   6\nFirst inode:  11\n\
                    Group 0:\n  Free inodes: 13-15, 17\nGroup 1:\n  Free inodes: \n";
        assert_eq!(used_inodes(text), Some(vec![2, 11, 12, 16, 18, 19, 20]));
        assert_eq!(used_inodes("Inode count: 20\n"), None);
        let beyond = "Inode count: 20\nFirst inode: 11\n  Free inodes: 13-21\n";
        assert_eq!(used_inodes(beyond), None);
    }
}
