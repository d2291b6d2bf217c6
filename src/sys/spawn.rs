//! Starting a program with nothing of this process in it: own session, own control group, clean signals, three descriptors.
//!
//! By clone3(2) and execve(2) themselves: `CLONE_INTO_CGROUP` (Linux 5.7) puts the child into its group before it runs, where moving it later
//! leaves a moment to escape; `CLONE_PIDFD` gives a handle that cannot come to mean another process; and unlike execvp(3), execve(2) never
//! hands a file that it does not know to /bin/sh.

use std::ffi::{CStr, CString};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use nix::unistd::pipe2;

/// What to start, and in which surroundings.
#[derive(Debug)]
pub struct Program<'a> {
    /// The file to execute; also its `$0`.
    pub path: &'a CStr,
    /// Environment, `NAME=value`.
    pub environment: &'a [CString],
    /// Working directory.
    pub directory: &'a CStr,
    /// Standard input.
    pub stdin: BorrowedFd<'a>,
    /// Standard output.
    pub stdout: BorrowedFd<'a>,
    /// Standard error.
    pub stderr: BorrowedFd<'a>,
    /// The control group to be born in.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// A started program.
#[derive(Debug)]
pub struct Child {
    /// Its process id, which is also that of its session and process group.
    pub pid: i32,
    /// Readable when it has ended.
    pub pidfd: OwnedFd,
}

/// The step at which starting failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// clone3(2).
    Clone,
    /// chdir(2) to the working directory.
    Directory,
    /// Session, descriptors or the OOM score.
    Surroundings,
    /// execve(2).
    Execute,
}

/// A program that was not started.
#[derive(Debug)]
pub struct NotStarted {
    /// Where it failed.
    pub step: Step,
    /// What the kernel said.
    pub error: io::Error,
}

/// `struct clone_args` of `linux/sched.h`, to `CLONE_ARGS_SIZE_VER2`.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Everything the child needs, made before it is: between clone and exec it must not allocate.
struct Prepared<'a> {
    path: &'a CStr,
    argv: [*const libc::c_char; 2],
    envp: Vec<*const libc::c_char>,
    directory: &'a CStr,
    descriptors: [RawFd; 3],
    report: RawFd,
}

/// Starts `program`. Returns when it has been executed or could not be.
///
/// # Errors
/// [`NotStarted`]: nothing of it runs then, and nothing is left to reap.
pub fn spawn(program: &Program<'_>) -> Result<Child, NotStarted> {
    let before = |error: Errno| NotStarted {
        step: Step::Clone,
        error: error.into(),
    };
    let (report, report_write) = pipe2(OFlag::O_CLOEXEC).map_err(before)?;
    let mut envp: Vec<_> = program
        .environment
        .iter()
        .map(|variable| variable.as_ptr())
        .collect();
    envp.push(std::ptr::null());
    let prepared = Prepared {
        path: program.path,
        argv: [program.path.as_ptr(), std::ptr::null()],
        envp,
        directory: program.directory,
        descriptors: [
            program.stdin.as_raw_fd(),
            program.stdout.as_raw_fd(),
            program.stderr.as_raw_fd(),
        ],
        report: report_write.as_raw_fd(),
    };
    // No handler of ours may run in the child before its dispositions are its own.
    let mut mask = SigSet::empty();
    pthread_sigmask(
        SigmaskHow::SIG_SETMASK,
        Some(&SigSet::all()),
        Some(&mut mask),
    )
    .map_err(before)?;
    let cloned = clone(program.cgroup, &prepared);
    let restored = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&mask), None);
    let child = cloned.map_err(before)?;
    restored.map_err(before)?;
    drop(report_write);
    let mut answer = [0_u8; 5];
    match std::fs::File::from(report).read_exact(&mut answer) {
        Ok(()) => {
            let [step, errno @ ..] = answer;
            let _ = super::process::reap_blocking(&child.pidfd);
            let error = io::Error::from_raw_os_error(i32::from_ne_bytes(errno));
            Err(NotStarted {
                step: step_of(step),
                error,
            })
        }
        _ => Ok(child),
    }
}

fn step_of(code: u8) -> Step {
    match code {
        1 => Step::Directory,
        2 => Step::Execute,
        _ => Step::Surroundings,
    }
}

#[expect(unsafe_code, reason = "clone3 has no wrapper")]
fn clone(cgroup: Option<BorrowedFd<'_>>, prepared: &Prepared<'_>) -> nix::Result<Child> {
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        // CLONE_VFORK without CLONE_VM: the child has a copy of the memory, and this process goes on when it has executed.
        flags: (libc::CLONE_PIDFD | libc::CLONE_VFORK) as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `args` has the kernel's layout and lives through the call; memory is not shared, so the child may use its copy of everything
    // here; it calls only async-signal-safe functions and never returns.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    if pid == 0 {
        in_child(prepared);
    }
    let pid = Errno::result(pid)?;
    // SAFETY: clone3 succeeded, so the kernel has put a new descriptor there that nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child {
        pid: i32::try_from(pid).unwrap_or(-1),
        pidfd,
    })
}

/// The child, from its birth to the program. Only system calls; no allocation, no panic.
#[expect(unsafe_code, reason = "raw system calls in the child")]
fn in_child(prepared: &Prepared<'_>) -> ! {
    // SAFETY: takes no pointer.
    unsafe { libc::setsid() };
    for signal in 1..=64 {
        default_disposition(signal);
    }
    // SAFETY: takes no pointer.
    unsafe { libc::umask(0o022) };
    for (target, source) in (0..).zip(prepared.descriptors) {
        // SAFETY: takes no pointer. The sources are above 2: the first three are open in every Rust program from its start.
        if unsafe { libc::dup2(source, target) } < 0 {
            give_up(prepared, 0);
        }
    }
    // SAFETY: takes no pointer. Marks everything from 3 on to be closed by exec, the report included.
    unsafe {
        libc::close_range(
            3,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC as libc::c_int,
        )
    };
    usual_oom_score();
    // SAFETY: a string that ends in NUL.
    if unsafe { libc::chdir(prepared.directory.as_ptr()) } < 0 {
        give_up(prepared, 1);
    }
    let mut none = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: points to a sigset_t of our own.
    unsafe { libc::sigemptyset(none.as_mut_ptr()) };
    // SAFETY: as above, filled by sigemptyset.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) };
    // SAFETY: the strings and the two lists end in NUL and null, and were made before the clone.
    unsafe {
        libc::execve(
            prepared.path.as_ptr(),
            prepared.argv.as_ptr(),
            prepared.envp.as_ptr(),
        )
    };
    give_up(prepared, 2)
}

/// By the system call itself: the C library refuses the two signals that it uses among its threads, which an ignorant parent may have left
/// ignored.
#[expect(unsafe_code, reason = "raw system calls in the child")]
fn default_disposition(signal: libc::c_int) {
    /// The kernel's signal set has 64 bits.
    const SET_SIZE: usize = 8;
    // All zeros is SIG_DFL without flags; the kernel's structure is shorter than this on every architecture.
    let action = [0_u64; 16];
    let none = std::ptr::null_mut::<u64>();
    // SAFETY: reads within `action`, writes nothing. SIGKILL and SIGSTOP are refused, which is fine.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            signal,
            action.as_ptr(),
            none,
            SET_SIZE,
        )
    };
}

/// A daemon is protected from the OOM killer; its scripts are not. Without `/proc` there is nothing to do.
#[expect(unsafe_code, reason = "raw system calls in the child")]
fn usual_oom_score() {
    // SAFETY: a string that ends in NUL.
    let file = unsafe {
        libc::open(
            c"/proc/self/oom_score_adj".as_ptr(),
            libc::O_WRONLY | libc::O_CLOEXEC,
        )
    };
    if file >= 0 {
        // SAFETY: one byte of a constant.
        unsafe { libc::write(file, c"0".as_ptr().cast(), 1) };
        // SAFETY: opened above.
        unsafe { libc::close(file) };
    }
}

/// Tells the parent the step and the error, and ends.
#[expect(unsafe_code, reason = "raw system calls in the child")]
fn give_up(prepared: &Prepared<'_>, step: u8) -> ! {
    let [a, b, c, d] = (Errno::last_raw()).to_ne_bytes();
    let answer = [step, a, b, c, d];
    // SAFETY: five bytes of our own; shorter than PIPE_BUF, so they arrive whole.
    unsafe { libc::write(prepared.report, answer.as_ptr().cast(), answer.len()) };
    // SAFETY: ends this process without running anything of the parent's.
    unsafe { libc::_exit(127) }
}
