//! A directory of its own for each test, and gva run in it by somebody who is not root.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::TempDir;

/// Whoever owns nothing.
const NOBODY: u32 = 65534;

pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Place {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let place = Place(dir);
        // The build directory may be closed to others.
        let built = Path::new(env!("CARGO_BIN_EXE_gva"));
        if fs::hard_link(built, place.at("gva")).is_err() {
            let _alone = lock();
            fs::copy(built, place.at("gva")).unwrap();
        }
        place.dir("tmp");
        place.give_away(place.0.path());
        fs::set_permissions(place.0.path(), Permissions::from_mode(0o755)).unwrap();
        place
    }

    fn give_away(&self, path: &Path) {
        if is_root() {
            chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        let path = self.at(name);
        let mut missing = Vec::new();
        let mut above = path.as_path();
        while !above.is_dir() {
            missing.push(above.to_owned());
            above = above.parent().unwrap();
        }
        fs::create_dir_all(&path).unwrap();
        missing.iter().for_each(|dir| self.give_away(dir));
        path
    }

    pub(crate) fn file(&self, name: &str, mode: u32, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.at(name);
        self.dir(path.parent().unwrap().to_str().unwrap());
        let alone = lock();
        fs::write(&path, content).unwrap();
        drop(alone);
        self.give_away(&path); // first: it takes set-user-ID away
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    /// A directory `job` with one script.
    pub(crate) fn job(&self) {
        self.file("job/script-bin/a.sh", 0o755, "#!/bin/sh\n");
    }

    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command
            .current_dir(self.0.path())
            .env("TMPDIR", self.at("tmp"));
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    pub(crate) fn gva(&self, args: &[&str]) -> Said {
        Said::of(&output(self.command(self.at("gva")).args(args)))
    }

    /// What it prints, byte for byte.
    pub(crate) fn gva_bytes(&self, args: &[&str]) -> Vec<u8> {
        output(self.command(self.at("gva")).args(args)).stdout
    }

    /// A qcow2 file of 1 MiB.
    pub(crate) fn qcow2(&self, name: &str, options: &[&str]) {
        let mut command = self.command("qemu-img");
        command.args(["create", "-q", "-f", "qcow2"]).args(options);
        assert!(output(command.args([name, "1M"])).status.success());
    }

    /// What debugfs says to one request.
    pub(crate) fn debugfs(&self, args: &[&str]) -> String {
        let output = output(self.command("/sbin/debugfs").args(args));
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The names in the directory, and in that for temporary files.
    pub(crate) fn names(&self) -> Vec<String> {
        let list = |dir: PathBuf| -> Vec<String> {
            fs::read_dir(dir)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect()
        };
        let mut names = [list(self.at(".")), list(self.at("tmp"))].concat();
        names.retain(|name| name != "gva" && name != "tmp");
        names.sort();
        names
    }
}

/// A child that was forked while a file is being written has it open too, until it executes; and what is open for writing cannot be executed.
static FORKS: Mutex<()> = Mutex::new(());

fn lock() -> MutexGuard<'static, ()> {
    FORKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts it.
pub(crate) fn spawn(command: &mut Command) -> Child {
    let _alone = lock();
    command.spawn().unwrap()
}

/// Runs it to its end.
pub(crate) fn output(command: &mut Command) -> Output {
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    spawn(piped).wait_with_output().unwrap()
}

fn is_root() -> bool {
    // /proc/self belongs to the effective user.
    std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self").unwrap()) == 0
}

pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    fn of(output: &Output) -> Said {
        Said {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    #[track_caller]
    pub(crate) fn succeeded(&self) {
        assert_eq!(
            (self.code, self.err.as_str()),
            (Some(0), ""),
            "{}",
            self.out
        );
    }

    /// Exit status 2 and one line that has `text` in it.
    #[track_caller]
    pub(crate) fn failed(&self, text: &str) {
        assert_eq!(self.code, Some(2), "{}", self.err);
        assert_eq!(self.err.lines().count(), 1, "{}", self.err);
        assert!(self.err.starts_with("gva: "), "{}", self.err);
        assert!(
            self.err.contains(text),
            "{:?} is not in: {}",
            text,
            self.err
        );
    }
}
