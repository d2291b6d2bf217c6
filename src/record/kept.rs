//! A result that the ledger keeps: taken from the run directory, and brought back to it.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::{OutputDir, Prepared, is_ruined};
use crate::ledger::kept::{Kept, Printed};
use crate::ledger::line::LONGEST_LINE;
use crate::outcome::RunResult;

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
    /// Makes files, and those durable, of a result that the ledger kept, whatever stands in its run directory.
    ///
    /// # Errors
    /// As [`OutputDir::record`].
    pub fn record_kept(&mut self, kept: &Kept) -> io::Result<()> {
        let mut result = kept.result.clone();
        let mut prepared = match self.reopen(OsStr::new(&result.run_id)) {
            Err(err) if is_ruined(&err) => self.prepare_beside(&mut result)?,
            other => other?,
        };
        let files = [
            (&prepared.stdout, &kept.stdout),
            (&prepared.stderr, &kept.stderr),
        ];
        for (file, printed) in files {
            file.set_len(0)?;
            file.write_all_at(&printed.0, 0)?;
        }
        self.record(&mut prepared, &mut result)
    }
}
