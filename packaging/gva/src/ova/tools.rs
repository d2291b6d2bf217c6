//! The tools that do the work on packages, and the line on a terminal that tells how far it is.

use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::vmdk;
use crate::tool;

/// How far a long piece of work is; one line on standard error, and only if that is a terminal.
pub(super) struct Progress {
    doing: &'static str,
    total: u64,
    done: u64,
    shown: Option<u64>,
}

impl Progress {
    pub(super) fn new(doing: &'static str, total: u64) -> Self {
        let shown = std::io::stderr().is_terminal().then_some(u64::MAX);
        Self {
            doing,
            total,
            done: 0,
            shown,
        }
    }

    /// So much more is done.
    pub(super) fn add(&mut self, count: u64) {
        self.set(self.done.saturating_add(count));
    }

    /// So much is done by now.
    pub(super) fn set(&mut self, done: u64) {
        self.done = done;
        let share = u128::from(done.min(self.total)) * 100 / u128::from(self.total.max(1));
        let share = u64::try_from(share).unwrap_or(100);
        if self.shown.is_some_and(|shown| shown != share) {
            self.shown = Some(share);
            // Nobody is hurt if the terminal has gone.
            let _ = write!(std::io::stderr(), "\r\x1b[K{} {share}%", self.doing);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some_and(|shown| shown != u64::MAX) {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// How qemu-img is to read a file of the user's: told, never guessed, because a guess at a raw image is up to whoever wrote into it.
pub(super) fn format(path: &Path) -> Result<&'static str> {
    let mut magic = Vec::new();
    File::open(path)?.take(4).read_to_end(&mut magic)?;
    Ok(if magic == b"QFI\xfb" { "qcow2" } else { "raw" })
}

fn qemu_img() -> Result<Command> {
    Ok(tool::command(&tool::find("qemu-img", "qemu-utils")?))
}

/// The first MiB of the disk in an image, as a raw file.
pub(super) fn head(image: &Path, format: &str, target: &Path) -> Result<()> {
    let mut command = qemu_img()?;
    command.args(["dd", "-f", format, "-O", "raw", "bs=1M", "count=1"]);
    for (word, path) in [("if", image), ("of", target)] {
        let mut argument = std::ffi::OsString::from(word);
        argument.push("=");
        argument.push(path);
        command.arg(argument);
    }
    tool::run(&mut command, &format!("reading {}", image.display())).map(drop)
}

/// Turns an image into a VMDK file. `told` hears of each hundredth that is done.
pub(super) fn convert(
    image: &Path,
    format: &str,
    target: &Path,
    told: impl FnMut(f64),
) -> Result<()> {
    let mut command = qemu_img()?;
    command
        .args([
            "convert",
            "-p",
            // One thing after the other: of several that are written at a time, any may have its place first.
            "-m",
            "1",
            "-f",
            format,
            "-O",
            "vmdk",
            "-o",
            vmdk::OPTIONS,
        ])
        .arg(image)
        .arg(target)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let doing = || format!("converting {}", image.display());
    let mut child = command
        .spawn()
        .context("starting qemu-img")
        .with_context(doing)?;
    if let Some(progress) = child.stdout.take() {
        follow(progress, told);
    }
    let output = child.wait_with_output().with_context(doing)?;
    if !output.status.success() {
        let said = tool::last_line(&output.stderr).unwrap_or_else(|| "it said nothing".to_owned());
        bail!("{}: qemu-img failed ({}): {said}", doing(), output.status);
    }
    Ok(())
}

/// An overlay over a disk inside an OVA: what is written goes there, the OVA is only read.
pub(super) fn overlay(source: &str, target: &Path) -> Result<()> {
    let mut command = qemu_img()?;
    command
        .args(["create", "-q", "-f", "qcow2", "-F", "vmdk", "-b", source])
        .arg(target);
    tool::run(&mut command, "making an overlay over a disk in the OVA").map(drop)
}

/// A disk inside an OVA as a raw image, sparse.
pub(super) fn unpack(source: &str, target: &Path) -> Result<()> {
    let mut command = qemu_img()?;
    command.args(["convert", "-O", "raw", source]).arg(target);
    tool::run(&mut command, &format!("making {}", target.display())).map(drop)
}

/// Reads what `qemu-img -p` prints, `(12.00/100%)` and a carriage return again and again, until it ends.
fn follow(mut progress: impl Read, mut told: impl FnMut(f64)) {
    let mut buffer = [0; 256];
    while let Ok(count @ 1..) = progress.read(&mut buffer) {
        let text = String::from_utf8_lossy(&buffer[..count]);
        let share = text
            .rsplit_once('(')
            .and_then(|(_, rest)| rest.split_once('/'));
        if let Some(share) = share.and_then(|(share, _)| share.parse().ok()) {
            told(share);
        }
    }
}

/// An empty output image, the same for the same size whenever it is made: time, UUID and seed of its hashes are fixed. A guest
/// tells output images by the ledger that it puts there, not by the UUID.
pub(super) fn empty_output(path: &Path, label: &str, size: u64, time: u64) -> Result<()> {
    const ID: &str = "6776612d-6f75-4470-9574-000000000000";
    const EXT4: &str = "has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,\
                        huge_file,dir_nlink,extra_isize,metadata_csum";
    let doing = "making the output disk";
    let file = File::create(path).context(doing)?;
    file.set_len(size).context(doing)?;
    let mut command = tool::command(&tool::find("mke2fs", "e2fsprogs")?);
    command
        .env("E2FSPROGS_FAKE_TIME", time.max(1).to_string())
        // Not what this host's mke2fs.conf calls ext4: that differs from one distribution to the next.
        .env("MKE2FS_CONFIG", "/dev/null")
        .args(["-O", EXT4, "-I", "256"])
        .args([
            "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-L", label, "-U", ID,
        ])
        .arg("-E")
        .arg(format!("hash_seed={ID},root_owner=0:0"))
        .arg(path);
    tool::run(&mut command, doing).map(drop)
}

/// Holds a descriptor against DMTF's schema; each complaint is a finding.
pub(super) fn validate(directory: &Path, text: &str, findings: &mut Vec<String>) -> Result<()> {
    let schema = directory.join("dsp8023_1.1.1.xsd");
    if !schema.is_file() {
        bail!("there is no schema {}", schema.display());
    }
    let mut input = tempfile::tempfile().context("making a temporary file")?;
    input.write_all(text.as_bytes())?;
    std::io::Seek::rewind(&mut input)?;
    let output = tool::command(&tool::find("xmllint", "libxml2-utils")?)
        .args(["--nonet", "--noout", "--schema"])
        .arg(&schema)
        .arg("-")
        .stdin(input)
        .output()
        .context("starting xmllint")?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let complaints = said.lines().filter_map(|line| line.strip_prefix("-:"));
    let before = findings.len();
    findings.extend(
        complaints
            .take(20)
            .map(|line| format!("schema: the descriptor's line {line}")),
    );
    if findings.len() == before {
        let last = tool::last_line(&output.stderr).unwrap_or_else(|| "it said nothing".to_owned());
        bail!("xmllint failed ({}): {last}", output.status);
    }
    Ok(())
}
