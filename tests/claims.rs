//! Claiming against somebody who changes script-bin between two system calls: what is claimed is what was looked at, and nothing is written over.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use gvad::claim::{Claiming, Opened, Opening, ScriptBin, Settling, open_claims};
use gvad::ledger::line::Medium;
use gvad::sys::dir::Dir;

const LEDGER: &str = "a-ledger";

fn script_bin(path: &Path) -> io::Result<ScriptBin> {
    let dir = Dir::open(path)?;
    let claims = open_claims(&dir, LEDGER, true)?;
    Ok(ScriptBin {
        dir,
        claims,
        medium: Medium {
            id: "a-medium".to_owned(),
            lasting_inodes: true,
            keeps_journal: true,
        },
        sync_claims: false,
        shared: false,
    })
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

fn opened(bin: &ScriptBin) -> io::Result<Opened> {
    // Another test that forks may hold a copy of the descriptor through which the script was written.
    for _ in 0..500 {
        match bin.look_into(OsStr::new("a"), &mut Settling::default(), Duration::ZERO)? {
            Opening::Ready(opened) => return Ok(opened),
            Opening::Gone => return Err(ErrorKind::NotFound.into()),
            Opening::NotYet(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    Err(ErrorKind::TimedOut.into())
}

#[test]
fn script_that_was_replaced_since_the_look_is_put_back() -> io::Result<()> {
    let place = tempfile::tempdir()?;
    let path = place.path().join("a");
    let bin = script_bin(place.path())?;
    write(&path, "looked at")?;
    let looked_at = opened(&bin)?;
    let other = place.path().join(".other");
    write(&other, "replaced")?;
    fs::rename(&other, &path)?;
    assert!(matches!(bin.claim(looked_at)?, Claiming::Lost));
    assert_eq!(fs::read_to_string(&path)?, "replaced");
    assert!(!place.path().join(".gvad").join(LEDGER).join("a").exists());
    Ok(())
}

#[test]
fn script_that_is_gone_since_the_look_is_lost() -> io::Result<()> {
    let place = tempfile::tempdir()?;
    let path = place.path().join("a");
    let bin = script_bin(place.path())?;
    write(&path, "looked at")?;
    let looked_at = opened(&bin)?;
    fs::remove_file(&path)?;
    assert!(matches!(bin.claim(looked_at)?, Claiming::Lost));
    Ok(())
}

#[test]
fn claim_that_could_not_be_deleted_is_not_written_over() -> io::Result<()> {
    let place = tempfile::tempdir()?;
    let path = place.path().join("a");
    let bin = script_bin(place.path())?;
    let claim = place.path().join(".gvad").join(LEDGER).join("a");
    write(&claim, "earlier")?;
    write(&path, "later")?;
    let claiming = bin.claim(opened(&bin)?)?;
    let exists = |err: &io::Error| err.kind() == ErrorKind::AlreadyExists;
    assert!(matches!(&claiming, Claiming::Refused(err) if exists(err)));
    assert_eq!(fs::read_to_string(&claim)?, "earlier");
    assert_eq!(fs::read_to_string(&path)?, "later");
    Ok(())
}
