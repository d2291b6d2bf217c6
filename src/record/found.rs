//! What is found in an output directory: run directories and results.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::FileExt;

use super::{OutputDir, RESULT, is_ruined};
use crate::name;
use crate::outcome::RunResult;
use crate::sys::dir::{Dir, Kind};

/// A larger `result.json` is none of ours.
const LARGEST_RESULT: u64 = 1 << 20;

/// The result in the run directory `run_id` of `gvad`; `None` if there is none, or what is there is not one.
///
/// # Errors
/// It cannot be read.
pub fn result_of(gvad: &Dir, run_id: &OsStr) -> io::Result<Option<RunResult>> {
    let missing = |err: io::Error| if is_ruined(&err) { Ok(None) } else { Err(err) };
    let dir = match gvad.open_dir(run_id) {
        Ok(dir) => dir,
        Err(err) => return missing(err),
    };
    let file = match dir.look(OsStr::new(RESULT)) {
        Ok(look) if look.kind == Kind::Regular => dir.open_file(RESULT)?,
        Ok(_) => return Ok(None),
        Err(err) => return missing(err),
    };
    let size = file.metadata()?.len();
    if size > LARGEST_RESULT {
        return Ok(None);
    }
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(serde_json::from_slice(&bytes).ok())
}

/// The names in an output image's `gvad` directory that are run directories, with their numbers.
///
/// # Errors
/// Those of reading a directory.
pub fn run_directories(dir: &Dir) -> io::Result<Vec<(u64, OsString)>> {
    let names = dir.names()?.into_iter();
    Ok(names
        .filter_map(|name| name::run_number(&name).map(|run| (run, name)))
        .collect())
}

/// The highest run number of which there is a directory; 0 if there is none.
///
/// # Errors
/// The directory cannot be read.
pub fn last_directory(output: &OutputDir) -> io::Result<u64> {
    let names = output.gvad().names()?;
    Ok(names
        .iter()
        .filter_map(|name| name::run_number(name))
        .max()
        .unwrap_or(0))
}
