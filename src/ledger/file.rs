//! The ledger as a file: reading it whole, putting a new one in its place, setting a damaged one aside.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use anyhow::Context;

use crate::sys::dir::{Dir, Kind};

pub(super) const NAME: &str = "ledger";
pub(super) const NEW_NAME: &str = ".ledger.new";
/// Blocks are set aside in steps of this, in bytes.
const STEP: u64 = 1 << 20;
/// So much is read or written at a time: a ledger of which most is zeros costs no memory.
const PIECE: usize = 64 << 10;
/// A ledger is never larger; one that claims to be is not read.
const LARGEST: u64 = 1 << 30;

/// Makes a file of `bytes` and as many zeros behind them or more, durable, and puts it in the place of the ledger. Returns it and its
/// length.
pub(super) fn replace(dir: &Dir, bytes: &[u8]) -> io::Result<(File, u64)> {
    // Zeros that are written, not merely reserved: only blocks that have been written can be overwritten without the journal.
    let length = (bytes.len() as u64 * 2).next_multiple_of(STEP);
    remove_unfinished(dir)?;
    let file = dir.create(OsStr::new(NEW_NAME), 0o600)?;
    let written = file
        .write_all_at(bytes, 0)
        .and_then(|()| write_zeros(&file, bytes.len() as u64, length))
        .and_then(|()| file.sync_all());
    if let Err(err) = written {
        // Nothing of the old file was touched; what is left of the new one is removed at the next start at the latest.
        let _ = dir.remove_file(OsStr::new(NEW_NAME));
        return Err(err);
    }
    dir.rename(OsStr::new(NEW_NAME), dir, OsStr::new(NAME))?;
    dir.sync()?;
    Ok((file, length))
}

fn write_zeros(file: &File, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; PIECE];
    for at in (from..to).step_by(PIECE) {
        let left = usize::try_from(to - at).unwrap_or(PIECE);
        file.write_all_at(zeros.get(..left).unwrap_or(&zeros), at)?;
    }
    Ok(())
}

/// Removes what a crash left of a new ledger. A directory in its place, which somebody else made, gets another name.
pub(super) fn remove_unfinished(dir: &Dir) -> io::Result<()> {
    let name = OsStr::new(NEW_NAME);
    match dir.remove_file(name) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(err) if err.kind() == io::ErrorKind::IsADirectory => {
            let free = (1_u32..).map(|number| format!("{NEW_NAME}.bad-{number}"));
            free.map(|other| dir.rename_noreplace(name, dir, OsStr::new(&other)))
                .find(
                    |done| !matches!(done, Err(err) if err.kind() == io::ErrorKind::AlreadyExists),
                )
                .unwrap_or(Ok(()))
        }
        other => other,
    }
}

/// What is in the file, without the zeros at its end, and its length.
pub(super) fn read_all(file: &File) -> io::Result<(Vec<u8>, u64)> {
    let size = file.metadata()?.len();
    if size > LARGEST {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it has {size} bytes, more than any ledger"),
        ));
    }
    let mut bytes = Vec::new();
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < size {
        let length = usize::try_from(size - at).map_or(PIECE, |left| left.min(PIECE));
        let piece = piece.get_mut(..length).unwrap_or_default();
        file.read_exact_at(piece, at)?;
        if let Some(last) = piece.iter().rposition(|&byte| byte != 0) {
            bytes.resize(usize::try_from(at).unwrap_or(usize::MAX), 0);
            bytes.extend_from_slice(piece.get(..=last).unwrap_or_default());
        }
        at += length as u64;
    }
    Ok((bytes, size))
}

/// Whether something stands in the ledger's place that is none: not a file, or larger than any ledger. What protects it from being
/// written (chattr(1)) is taken away.
pub(super) fn is_odd(dir: &Dir) -> io::Result<bool> {
    match dir.look(OsStr::new(NAME)) {
        Ok(look) if look.kind == Kind::Regular => {
            dir.unprotect(OsStr::new(NAME))?;
            Ok(look.size > LARGEST)
        }
        Ok(_) => Ok(true),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(err) => Err(err),
    }
}

/// Gives a ledger that cannot be relied on another name. It is kept: somebody may want to know. A file keeps its old name too, until the new
/// ledger takes it, so that a crash between the two finds it again.
pub(super) fn set_aside(dir: &Dir) -> anyhow::Result<String> {
    for number in 1_u32.. {
        let name = format!("ledger.bad-{number}");
        let aside = dir.link(OsStr::new(NAME), OsStr::new(&name));
        // No hard links on this file system, or of this kind of file.
        let aside = aside.or_else(|err| match err.kind() {
            io::ErrorKind::AlreadyExists => Err(err),
            _ => dir.rename_noreplace(OsStr::new(NAME), dir, OsStr::new(&name)),
        });
        match aside {
            Ok(()) => return Ok(name),
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
            Err(err) => return Err(err).context("setting a damaged ledger aside"),
        }
    }
    anyhow::bail!("no name is left for a damaged ledger")
}
