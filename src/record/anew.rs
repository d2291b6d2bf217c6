//! Run directories that are not as they were prepared: one whose script ruined it, one of a run that nobody saw to its end.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use super::{
    MODE, OutputDir, Prepared, RESULT, STDERR, STDOUT, UNFINISHED, is_ruined, not_synced, open_own,
};
use crate::outcome::{Outcome, RunResult};
use crate::sys::dir::Kind;

impl OutputDir {
    /// Makes a run directory anew, with what the script printed. The ruined one is kept, if anything is left of it.
    pub(super) fn restore(
        &mut self,
        prepared: &mut Prepared,
        result: &mut RunResult,
    ) -> io::Result<()> {
        self.gvad = open_own(&self.root, &self.name)?;
        let own = OsString::from(&prepared.run_id);
        let second = (2..100).map(|number| OsString::from(format!("{}.{number}", prepared.run_id)));
        for run_id in std::iter::once(own).chain(second) {
            match self.gvad.make_dir(&run_id, 0o755) {
                Err(err) if err.kind() == io::ErrorKind::AlreadyExists => continue,
                other => other?,
            }
            if run_id != *prepared.run_id {
                result.run_id = run_id.to_string_lossy().into_owned();
                result.reason = Some(match result.reason.take() {
                    Some(reason) => format!("{reason}; its run directory had become unusable"),
                    None => "its run directory had become unusable while it ran".to_owned(),
                });
                prepared.run_id.clone_from(&result.run_id);
            }
            let files = [
                (STDOUT, &mut prepared.stdout),
                (STDERR, &mut prepared.stderr),
            ];
            prepared.dir = self.gvad.open_dir(&run_id)?;
            for (name, file) in files {
                let anew = prepared.dir.create(OsStr::new(name), MODE)?;
                io::copy(&mut ReadFrom { file, at: 0 }, &mut &anew)?;
                *file = Rc::new(anew);
            }
            prepared.result = prepared.dir.create(OsStr::new(UNFINISHED), MODE)?;
            return self.root.sync().map_err(not_synced);
        }
        Err(io::Error::from(io::ErrorKind::AlreadyExists))
    }

    /// Records a result of a run that nobody saw to its end, in its run directory if that is there. What it printed is kept.
    ///
    /// # Errors
    /// As [`OutputDir::record`].
    pub fn record_unseen(&mut self, result: &mut RunResult) -> io::Result<()> {
        let run_id = OsString::from(&result.run_id);
        let mut prepared = match self.reopen(&run_id) {
            // Whatever stands there, it is no run directory of ours: the next best name will do.
            Err(err) if is_ruined(&err) => self.prepare_beside(result)?,
            other => other?,
        };
        let (stdout, stderr) = (
            prepared.stdout.metadata()?.len(),
            prepared.stderr.metadata()?.len(),
        );
        if result.outcome == Outcome::Interrupted {
            (result.stdout_bytes, result.stderr_bytes) = (stdout, stderr);
        }
        // Of a result that could not be recorded before, some of the output may have been lost with the disk.
        result.stdout_truncated |= stdout < result.stdout_bytes;
        result.stderr_truncated |= stderr < result.stderr_bytes;
        self.record(&mut prepared, result)
    }

    pub(super) fn reopen(&self, run_id: &OsStr) -> io::Result<Prepared> {
        self.gvad.ensure_dir(run_id, 0o755)?;
        self.gvad.unprotect(run_id)?;
        let dir = self.gvad.open_dir(run_id)?;
        let open = |name: &str| match dir.look(OsStr::new(name)) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => dir.create(OsStr::new(name), MODE),
            Ok(look) if look.kind == Kind::Regular => {
                dir.unprotect(OsStr::new(name))?;
                dir.open_write(OsStr::new(name))
            }
            Ok(_) => Err(io::Error::from(io::ErrorKind::IsADirectory)),
            Err(err) => Err(err),
        };
        let (stdout, stderr, result) = (open(STDOUT)?, open(STDERR)?, open(UNFINISHED)?);
        // It will take the place of this, which somebody may have sealed.
        if dir
            .look(OsStr::new(RESULT))
            .is_ok_and(|look| look.kind == Kind::Regular)
        {
            dir.unprotect(OsStr::new(RESULT))?;
        }
        Ok(Prepared {
            run_id: run_id.to_string_lossy().into_owned(),
            stdout: Rc::new(stdout),
            stderr: Rc::new(stderr),
            dir,
            result,
        })
    }

    pub(super) fn prepare_beside(&mut self, result: &mut RunResult) -> io::Result<Prepared> {
        let nothing = || File::open("/dev/null");
        let mut prepared = Prepared {
            run_id: result.run_id.clone(),
            stdout: Rc::new(nothing()?),
            stderr: Rc::new(nothing()?),
            dir: self.gvad.try_clone()?,
            result: nothing()?,
        };
        self.restore(&mut prepared, result)?;
        Ok(prepared)
    }
}

/// Reads at positions of its own, so that nobody's file offset matters.
struct ReadFrom<'a> {
    file: &'a File,
    at: u64,
}

impl io::Read for ReadFrom<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}
