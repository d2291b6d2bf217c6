//! The real tools: where they are, running one to its end, and what it said when it failed.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::fcntl::{self, FcntlArg, FdFlag};
use nix::sys::prctl;
use nix::sys::resource::{self, Resource};
use nix::sys::signal::Signal;

use crate::say::one_line;

/// Where a package's programs for root stand; not in everybody's `$PATH`.
const ALSO: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Where the program `name` is; `package` is what to install if it is not.
pub(crate) fn find(name: &str, package: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(ALSO.iter().map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| is_program(file))
        .with_context(|| format!("there is no program {name}; install the package {package}"))
}

/// Whether it is a file that can be executed.
pub(crate) fn is_program(file: &Path) -> bool {
    file.metadata()
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// A command for `program` that says what it says in English, asks nothing, and dies with gva.
pub(crate) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("LC_ALL", "C").stdin(Stdio::null());
    dies_with_gva(&mut command);
    command
}

/// The child is killed when the thread that started it ends, whatever ends it.
pub(crate) fn dies_with_gva(command: &mut Command) {
    let bind = || prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from);
    #[expect(
        unsafe_code,
        reason = "there is no safe way to act between fork and exec"
    )]
    // SAFETY: prctl(2) is async-signal-safe, and the closure neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(bind);
    }
}

/// The child gets `end` under the same number, and nothing else beside its standard streams.
pub(crate) fn inherits(command: &mut Command, end: OwnedFd) {
    let share = move || fcntl::fcntl(&end, FcntlArg::F_SETFD(FdFlag::empty())).map(drop);
    let share = move || share().map_err(io::Error::from);
    #[expect(
        unsafe_code,
        reason = "there is no safe way to act between fork and exec"
    )]
    // SAFETY: fcntl(2) is async-signal-safe, and the closure neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(share);
    }
}

/// The child is ended if it makes a file longer than this.
pub(crate) fn writes_at_most(command: &mut Command, bytes: u64) {
    let limit =
        move || resource::setrlimit(Resource::RLIMIT_FSIZE, bytes, bytes).map_err(io::Error::from);
    #[expect(
        unsafe_code,
        reason = "there is no safe way to act between fork and exec"
    )]
    // SAFETY: setrlimit(2) is async-signal-safe, and the closure neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(limit);
    }
}

/// Runs `command` to its end and returns what it wrote to standard output. `doing` begins the message if it fails, such as `making app.img`.
pub(crate) fn run(command: &mut Command, doing: &str) -> anyhow::Result<Vec<u8>> {
    let name = name(command);
    let output = command
        .output()
        .with_context(|| format!("{doing}: starting {name}"))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = last_line(&output.stderr)
        .or_else(|| last_line(&output.stdout))
        .unwrap_or_else(|| "it said nothing".into());
    // The tool names itself at times.
    let said = said.strip_prefix(&format!("{name}: ")).unwrap_or(&said);
    bail!("{doing}: {name} failed ({}): {said}", output.status)
}

/// Runs `command`, whose standard output the caller has seen to, for at most `limit`, and returns how it ended.
pub(crate) fn status_within(
    command: &mut Command,
    limit: Duration,
    doing: &str,
) -> anyhow::Result<ExitStatus> {
    let name = name(command);
    let mut child = command
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("{doing}: starting {name}"))?;
    let end = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child
            .try_wait()
            .with_context(|| format!("{doing}: waiting for {name}"))?
        {
            return Ok(status);
        }
        if Instant::now() > end {
            // It may have ended by itself just now.
            let _ = child.kill();
            let _ = child.wait();
            bail!("{doing}: {name} did not end within {} s", limit.as_secs());
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

fn name(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(OsStr::new("?"));
    name.to_string_lossy().into_owned()
}

/// The last line that is not blank, as one that can be printed.
pub(crate) fn last_line(text: &[u8]) -> Option<String> {
    let line = text
        .split(|byte| *byte == b'\n')
        .rev()
        .map(<[u8]>::trim_ascii)
        .find(|line| !line.is_empty())?;
    Some(one_line(&OsStr::from_bytes(line).to_string_lossy()))
}
