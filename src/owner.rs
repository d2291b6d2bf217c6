//! Whose an output directory on a share is. Several guests may write to one, and no lock reaches from one to the other, so each has a directory
//! of its own in it: the first `gvad`, every other one `gvad-ID`. Within it the guest is alone, as on an image.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use anyhow::Context as _;
use tracing::warn;

use crate::record::DIRECTORY;
use crate::sys::dir::Dir;
use crate::sys::process::random_uuid;

/// In `temp_dir`: this guest's id, which lasts as long as its system disk.
const ID: &str = "guest-id";
/// In `gvad`: the id of the guest that it belongs to.
pub const OWNER: &str = "owner";

/// The name of this guest's own directory in the output directory `root`, which then belongs to it.
///
/// # Errors
/// The share or `temp_dir` cannot be written.
pub fn own_directory(root: &Dir, temp_dir: &Path) -> anyhow::Result<OsString> {
    let id = guest_id(temp_dir)?;
    let beside = OsString::from(format!("{DIRECTORY}-{id}"));
    // What this guest once began there it must be able to finish there.
    if root.look(&beside).is_ok() {
        return Ok(beside);
    }
    let taken = take(root, &id).context("taking the output directory on the share")?;
    let Err(other) = taken else {
        return Ok(DIRECTORY.into());
    };
    warn!(
        "the output directory on the share is in use by guest {other:?}: results go to {} beside it; \
         if that guest is gone for good, remove {DIRECTORY}/{OWNER} there",
        beside.display()
    );
    Ok(beside)
}

/// Makes the owner's file, which only one can; or who was quicker.
fn take(root: &Dir, id: &str) -> io::Result<Result<(), String>> {
    root.ensure_dir(OsStr::new(DIRECTORY), 0o755)?;
    let gvad = root.open_dir(DIRECTORY)?;
    match gvad.create(OsStr::new(OWNER), 0o644) {
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {
            let owner = owner(&gvad)?;
            Ok(if owner == id { Ok(()) } else { Err(owner) })
        }
        Err(err) => Err(err),
        Ok(mut file) => {
            file.write_all(id.as_bytes())?;
            file.sync_all()?;
            gvad.sync()?;
            Ok(Ok(()))
        }
    }
}

fn owner(gvad: &Dir) -> io::Result<String> {
    let mut text = Vec::new();
    gvad.open_file(OWNER)?.take(64).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).trim().to_owned())
}

/// Nothing is left to do in this guest's directory: another guest may have it.
///
/// # Errors
/// The share cannot be written.
pub fn let_go(gvad: &Dir, temp_dir: &Path) -> anyhow::Result<()> {
    let owner = match owner(gvad) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.context("reading whose the output directory is")?,
    };
    if owner == guest_id(temp_dir)? {
        gvad.remove_file(OsStr::new(OWNER))
            .context("letting go of the output directory")?;
    }
    Ok(())
}

fn guest_id(temp_dir: &Path) -> anyhow::Result<String> {
    let path = temp_dir.join(ID);
    let known = fs::read_to_string(&path).unwrap_or_default();
    if known.len() == 8 && known.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(known);
    }
    let id: String = random_uuid()
        .context("asking the kernel for a random id")?
        .chars()
        .take(8)
        .collect();
    let new = temp_dir.join(format!("{ID}.tmp"));
    let write = || -> io::Result<()> {
        let mut file = fs::File::create(&new)?;
        file.write_all(id.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        fs::File::open(temp_dir)?.sync_all()
    };
    write().with_context(|| format!("writing {}", path.display()))?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_guest_has_a_directory_of_its_own_and_keeps_it() {
        let base = tempfile::tempdir().unwrap();
        let made = |name: &str| {
            let path = base.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let (one, two, share) = (made("one"), made("two"), made("share"));
        let root = Dir::open(&share).unwrap();
        let name = |guest: &Path| own_directory(&root, guest).unwrap();
        assert_eq!(name(&one), "gvad");
        let beside = name(&two);
        assert!(beside.to_string_lossy().starts_with("gvad-"), "{beside:?}");
        assert_eq!(name(&one), "gvad", "the same at the next start");
        fs::create_dir(share.join(&beside)).unwrap();
        assert_eq!(name(&two), beside);
        // Of another guest's nothing is let go.
        let gvad = root.open_dir("gvad").unwrap();
        let_go(&gvad, &two).unwrap();
        assert_eq!(name(&one), "gvad");
        let_go(&gvad, &one).unwrap();
        let three = made("three");
        assert_eq!(name(&three), "gvad", "whoever comes next may have it");
        assert_eq!(name(&two), beside, "but what was begun elsewhere stays");
        assert_ne!(name(&one), "gvad");
        // A file that was cut off with its guest belongs to nobody that is known.
        fs::write(share.join("gvad/owner"), "").unwrap();
        assert_ne!(name(&three), "gvad");
    }
}
