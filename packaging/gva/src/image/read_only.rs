//! Images that cannot be written: ISO 9660 by xorriso, squashfs by mksquashfs.

use std::path::Path;

use anyhow::bail;

use crate::tool;

/// What ISO 9660 has room for.
const LONGEST_LABEL: usize = 32;

/// An ISO image of `directory`, an absolute path. Rock Ridge keeps the names and execute bits; everything belongs to root.
pub(crate) fn iso(directory: &Path, label: &str, file: &Path, doing: &str) -> anyhow::Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if label.is_empty() || label.len() > LONGEST_LABEL || !label.bytes().all(plain) {
        bail!(
            "{doing}: the label {label:?} must be 1 to {LONGEST_LABEL} letters, digits, -, _ or . for an ISO"
        );
    }
    let xorriso = tool::find("xorriso", "xorriso")?;
    let mut command = tool::command(&xorriso);
    command
        // No configuration of the user's.
        .args(["-no_rc", "-as", "mkisofs", "-quiet"])
        .args(["-r", "-iso-level", "3", "-V", label, "-o"])
        .arg(file)
        .arg(directory);
    tool::run(&mut command, doing).map(drop)
}

/// A squashfs image; everything belongs to root.
pub(crate) fn squashfs(directory: &Path, file: &Path, doing: &str) -> anyhow::Result<()> {
    let mksquashfs = tool::find("mksquashfs", "squashfs-tools")?;
    let mut command = tool::command(&mksquashfs);
    command
        .arg(directory)
        .arg(file)
        .args(["-noappend", "-all-root", "-no-progress", "-quiet"]);
    tool::run(&mut command, doing).map(drop)
}
