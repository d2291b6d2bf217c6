//! Recording: the run directory on the output image, made before anything is touched and closed with a durable `result.json`.
//! When to record what is decided elsewhere.

mod found;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use crate::name;
use crate::outcome::{Outcome, RunResult};
use crate::sys::dir::{Dir, Kind, Look};
use crate::sys::errno::ELOOP;
use crate::sys::file;

pub use found::{lacks_result, last_directory, result_of, run_directories};

/// Everything that is gvad's in an output directory is in this one; on shares see [`crate::owner`].
pub const DIRECTORY: &str = "gvad";
const STDOUT: &str = "stdout";
const STDERR: &str = "stderr";
const RESULT: &str = "result.json";
const UNFINISHED: &str = ".result.json.tmp";
/// Set aside for a result before its script starts, in bytes; more than any result needs.
const RESERVED: u64 = 16 * 1024;

/// Mode of the files in a run directory.
const MODE: u32 = 0o644;

/// The directory in which results are left.
#[derive(Debug)]
pub struct OutputDir {
    root: Dir,
    name: OsString,
    gvad: Dir,
    one_commit: bool,
}

/// A run directory in which everything is ready for a script's output and result.
#[derive(Debug)]
pub struct Prepared {
    /// Name of the run.
    pub run_id: String,
    /// Takes what the script prints.
    pub stdout: Rc<File>,
    /// Takes what the script prints.
    pub stderr: Rc<File>,
    /// It is known to be on the disk.
    pub durable: bool,
    dir: Dir,
    result: File,
}

impl OutputDir {
    /// Opens `<root>/gvad`, or what stands in its place on a share, and makes it if need be. `one_commit`: see [`OutputDir::one_commit`].
    ///
    /// # Errors
    /// It cannot be made or opened; `ELOOP`: it is a symbolic link.
    pub fn open(root: Dir, name: OsString, one_commit: bool) -> io::Result<OutputDir> {
        let gvad = open_own(&root, &name)?;
        root.sync()?;
        Ok(OutputDir {
            root,
            name,
            gvad,
            one_commit,
        })
    }

    /// One commit of the file system's journal makes durable whatever was done before ([`file::commit_by`]).
    #[must_use]
    pub fn one_commit(&self) -> bool {
        self.one_commit
    }

    /// `<output>/gvad`.
    #[must_use]
    pub fn gvad(&self) -> &Dir {
        &self.gvad
    }

    /// Makes a run directory, with room for the result.
    ///
    /// # Errors
    /// The output image is full, read-only or gone; nothing is left behind where that can be helped.
    pub fn prepare(&self, run: u64, script: &OsStr) -> io::Result<Prepared> {
        let run_id = name::run_id(run, script);
        match self.gvad.make_dir(OsStr::new(&run_id), 0o755) {
            // Left by a gvad that died before its ledger could say anything of it.
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {
                remove_unstarted(&self.gvad, OsStr::new(&run_id))?;
                self.gvad.make_dir(OsStr::new(&run_id), 0o755)?;
            }
            other => other?,
        }
        let dir = self.gvad.open_dir(&run_id)?;
        let files = || -> io::Result<(File, File, File)> {
            let result = dir.create(OsStr::new(UNFINISHED), MODE)?;
            file::reserve(&result, RESERVED)?;
            Ok((
                dir.create(OsStr::new(STDOUT), MODE)?,
                dir.create(OsStr::new(STDERR), MODE)?,
                result,
            ))
        };
        match files() {
            Ok((stdout, stderr, result)) => Ok(Prepared {
                run_id,
                stdout: Rc::new(stdout),
                stderr: Rc::new(stderr),
                durable: false,
                dir,
                result,
            }),
            Err(err) => {
                // The error at hand says more than one from cleaning up would; the next start cleans up too.
                let _ = remove_unstarted(&self.gvad, OsStr::new(&run_id));
                Err(err)
            }
        }
    }

    /// Takes a prepared run directory away again: its script is not started.
    ///
    /// # Errors
    /// Those of unlinkat(2).
    pub fn discard(&self, prepared: &Prepared) -> io::Result<()> {
        remove_unstarted(&self.gvad, OsStr::new(&prepared.run_id))
    }

    /// Makes the result durable: [`OutputDir::write`], then [`OutputDir::commit`].
    ///
    /// # Errors
    /// It is not known to be durable. The script must stay where it is.
    pub fn record(&mut self, prepared: &mut Prepared, result: &mut RunResult) -> io::Result<()> {
        self.write(prepared, result)?;
        self.commit(prepared)
    }

    /// Writes the result: output first, then the result under its own name. Only [`OutputDir::commit`] makes it durable; until then there is the
    /// whole result or none, whatever happens.
    ///
    /// A script is root, and may have removed or ruined its run directory. Then there is a new one, under another name if it must be, which `result` has
    /// afterwards; what the script printed is still in our hands.
    ///
    /// # Errors
    /// The script must stay where it is.
    pub fn write(&mut self, prepared: &mut Prepared, result: &mut RunResult) -> io::Result<()> {
        match self.try_to_write(prepared, result) {
            Err(err) if is_ruined(&err) => {
                self.restore(prepared, result)?;
                self.try_to_write(prepared, result)
            }
            other => other,
        }
    }

    fn try_to_write(&self, prepared: &Prepared, result: &RunResult) -> io::Result<()> {
        let written = |file: &File| {
            let written = match self.one_commit {
                true => file::write_out(file),
                false => file.sync_all(),
            };
            written.map_err(not_synced)
        };
        let mut json = serde_json::to_vec_pretty(result)?;
        json.push(b'\n');
        if result.stdout_bytes > 0 {
            written(&prepared.stdout)?;
        }
        if result.stderr_bytes > 0 {
            written(&prepared.stderr)?;
        }
        prepared.result.write_all_at(&json, 0)?;
        prepared.result.set_len(json.len() as u64)?;
        written(&prepared.result)?;
        let (unfinished, name) = (OsStr::new(UNFINISHED), OsStr::new(RESULT));
        prepared.dir.rename(unfinished, &prepared.dir, name)?;
        // What was renamed must be what was written, and stand where everybody looks for it.
        let ours = Look::at(&prepared.result)?;
        let there = self.gvad.open_dir(&prepared.run_id)?.look(name)?;
        if (there.device, there.inode) != (ours.device, ours.inode) {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        Ok(())
    }

    /// Makes durable what was written, and with one commit whatever was done to the file system before.
    ///
    /// # Errors
    /// What is on the disk is not known.
    pub fn commit(&self, prepared: &Prepared) -> io::Result<()> {
        if self.one_commit {
            return file::commit_by(&prepared.result, MODE).map_err(not_synced);
        }
        prepared.dir.sync().map_err(not_synced)?;
        self.gvad.sync().map_err(not_synced)
    }

    /// Makes a run directory anew, with what the script printed. The ruined one is kept, if anything is left of it.
    fn restore(&mut self, prepared: &mut Prepared, result: &mut RunResult) -> io::Result<()> {
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

    fn reopen(&self, run_id: &OsStr) -> io::Result<Prepared> {
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
        Ok(Prepared {
            run_id: run_id.to_string_lossy().into_owned(),
            stdout: Rc::new(stdout),
            stderr: Rc::new(stderr),
            durable: false,
            dir,
            result,
        })
    }

    fn prepare_beside(&mut self, result: &mut RunResult) -> io::Result<Prepared> {
        let nothing = || File::open("/dev/null");
        let mut prepared = Prepared {
            run_id: result.run_id.clone(),
            stdout: Rc::new(nothing()?),
            stderr: Rc::new(nothing()?),
            durable: false,
            dir: self.gvad.try_clone()?,
            result: nothing()?,
        };
        self.restore(&mut prepared, result)?;
        Ok(prepared)
    }
}

/// Whether an error tells of something that stands in the way, not of a disk that fails or is full.
#[must_use]
pub fn is_ruined(err: &io::Error) -> bool {
    matches!(
        err.kind(),
        io::ErrorKind::NotFound
            | io::ErrorKind::AlreadyExists
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::DirectoryNotEmpty
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::CrossesDevices
            | io::ErrorKind::ResourceBusy
    ) || err.raw_os_error() == Some(ELOOP)
}

/// Whether an error passes when somebody makes room.
#[must_use]
pub fn is_full(err: &io::Error) -> bool {
    matches!(
        err.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// After a failed sync nobody knows what is on the disk, and a second one that succeeds proves nothing (fsync(2)): it must not look like an error that
/// passes when there is room again.
fn not_synced(err: io::Error) -> io::Error {
    io::Error::other(format!("syncing: {err}"))
}

fn open_own(root: &Dir, name: &OsStr) -> io::Result<Dir> {
    root.ensure_dir(name, 0o755)?;
    root.open_dir(name)
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

/// Removes a run directory whose script was never started.
///
/// # Errors
/// `ENOTEMPTY`: somebody put something of their own there.
pub fn remove_unstarted(gvad: &Dir, run_id: &OsStr) -> io::Result<()> {
    let dir = gvad.open_dir(run_id)?;
    if dir.look(OsStr::new(RESULT)).is_ok() {
        return Err(io::Error::from(io::ErrorKind::DirectoryNotEmpty));
    }
    for name in [UNFINISHED, STDOUT, STDERR] {
        match dir.remove_file(OsStr::new(name)) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
            _ => {}
        }
    }
    gvad.remove_dir(run_id)
}

/// Puts `json` into `<output>/gvad/status.json`, whole but not durably.
///
/// # Errors
/// The output image cannot be written.
pub fn write_status(gvad: &Dir, json: &[u8]) -> io::Result<()> {
    let (name, unfinished) = (OsStr::new("status.json"), OsStr::new(".status.json.tmp"));
    let file = match gvad.create(unfinished, MODE) {
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {
            gvad.remove_file(unfinished)?;
            gvad.create(unfinished, MODE)?
        }
        other => other?,
    };
    file.write_all_at(json, 0)?;
    gvad.rename(unfinished, gvad, name)
}
