//! A result that the ledger keeps: taken from the run directory, and brought back to it.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use super::{MODE, OutputDir, Prepared, STDERR, STDOUT, is_ruined, not_synced};
use crate::ledger::kept::{Kept, Printed};
use crate::ledger::line::LONGEST_LINE;
use crate::outcome::RunResult;
use crate::sys::dir::Dir;

impl Prepared {
    /// The result with what was printed; `None` if that is more than a line of the ledger has room for.
    ///
    /// # Errors
    /// What was printed cannot be read.
    pub fn keep(&self, run: u64, result: &RunResult) -> io::Result<Option<Kept>> {
        let stdout = printed(&self.stdout, result.stdout_bytes)?;
        let stderr = printed(&self.stderr, result.stderr_bytes)?;
        let both = stdout.zip(stderr);
        Ok(both.map(|(stdout, stderr)| Kept {
            run,
            result: result.clone(),
            stdout,
            stderr,
        }))
    }
}

fn printed(file: &File, seen: u64) -> io::Result<Option<Printed>> {
    if seen == 0 {
        return Ok(Some(Printed::default()));
    }
    let size = file.metadata()?.len();
    if size > LONGEST_LINE as u64 {
        return Ok(None);
    }
    let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(Some(Printed(bytes)))
}

impl OutputDir {
    /// Makes files, and those durable, of a result that the ledger kept, whatever stands in its run directory. If that is the result already, it stays
    /// whole at every instant.
    ///
    /// # Errors
    /// As [`OutputDir::record`].
    pub fn record_kept(&mut self, kept: &Kept) -> io::Result<()> {
        let mut result = kept.result.clone();
        let printed = [&kept.stdout, &kept.stderr];
        let in_place = self.reopen(OsStr::new(&result.run_id));
        let in_place = in_place.and_then(|mut prepared| {
            let files = [
                (STDOUT, &mut prepared.stdout),
                (STDERR, &mut prepared.stderr),
            ];
            for ((name, file), printed) in files.into_iter().zip(printed) {
                *file = replaced(&prepared.dir, name, file, &printed.0)?;
            }
            Ok(prepared)
        });
        let mut prepared = match in_place {
            Err(err) if is_ruined(&err) => {
                let prepared = self.prepare_beside(&mut result)?;
                prepared.stdout.write_all_at(&kept.stdout.0, 0)?;
                prepared.stderr.write_all_at(&kept.stderr.0, 0)?;
                prepared
            }
            other => other?,
        };
        self.record(&mut prepared, &mut result)
    }
}

/// Puts a file of these bytes in the place of `file`, which has this name. An empty one may stay.
fn replaced(dir: &Dir, name: &str, file: &Rc<File>, bytes: &[u8]) -> io::Result<Rc<File>> {
    if bytes.is_empty() && file.metadata()?.len() == 0 {
        return Ok(Rc::clone(file));
    }
    let unfinished = format!(".{name}.tmp");
    match dir.remove_file(OsStr::new(&unfinished)) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
        _ => {}
    }
    let anew = dir.create(OsStr::new(&unfinished), MODE)?;
    anew.write_all_at(bytes, 0)?;
    anew.sync_all().map_err(not_synced)?;
    dir.rename(OsStr::new(&unfinished), dir, OsStr::new(name))?;
    Ok(Rc::new(anew))
}
