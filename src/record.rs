//! Recording: the run directory on the output image, made before anything is touched and closed with a durable `result.json`.
//! When to record what is decided elsewhere.

mod anew;
mod found;
mod kept;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use crate::name;
use crate::outcome::RunResult;
use crate::sys::dir::{Dir, Look};
use crate::sys::errno::ELOOP;
use crate::sys::file;

pub use found::{last_directory, result_of, run_directories};

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

    /// Makes the result durable: [`OutputDir::write`], [`OutputDir::name`], [`OutputDir::commit`].
    ///
    /// # Errors
    /// It is not known to be durable. The script must stay where it is.
    pub fn record(&mut self, prepared: &mut Prepared, result: &mut RunResult) -> io::Result<()> {
        self.write(prepared, result)?;
        self.name(prepared, result)?;
        self.commit(prepared)
    }

    /// Writes the result, not yet under its name, and where one commit carries everything begins to write it out with what the script printed.
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
        let mut json = serde_json::to_vec_pretty(result)?;
        json.push(b'\n');
        prepared.result.write_all_at(&json, 0)?;
        prepared.result.set_len(json.len() as u64)?;
        if self.one_commit {
            for file in what_to_write_out(prepared, result) {
                file::begin_to_write_out(file).map_err(not_synced)?;
            }
        }
        Ok(())
    }

    /// Gives the result its name once what was printed, and it, are written out. Only [`OutputDir::commit`] makes the name durable; until then there is
    /// the whole result or none, whatever happens. A run directory that was ruined is made anew, as by [`OutputDir::write`].
    ///
    /// # Errors
    /// The script must stay where it is.
    pub fn name(&mut self, prepared: &mut Prepared, result: &mut RunResult) -> io::Result<()> {
        match self.try_to_name(prepared, result) {
            Err(err) if is_ruined(&err) => {
                self.restore(prepared, result)?;
                self.try_to_write(prepared, result)?;
                self.try_to_name(prepared, result)
            }
            other => other,
        }
    }

    fn try_to_name(&self, prepared: &Prepared, result: &RunResult) -> io::Result<()> {
        for file in what_to_write_out(prepared, result) {
            let written = match self.one_commit {
                true => file::write_out(file),
                false => file.sync_all(),
            };
            written.map_err(not_synced)?;
        }
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
}

/// Output first, then the result.
fn what_to_write_out<'a>(
    prepared: &'a Prepared,
    result: &RunResult,
) -> impl Iterator<Item = &'a File> {
    let stdout = (result.stdout_bytes > 0).then_some(&*prepared.stdout);
    let stderr = (result.stderr_bytes > 0).then_some(&*prepared.stderr);
    let files = [stdout, stderr, Some(&prepared.result)];
    files.into_iter().flatten()
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
