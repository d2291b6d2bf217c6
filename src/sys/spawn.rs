//! Starting a program with nothing of this process in it: own session, own control group, clean signals, three descriptors.
//!
//! By clone3(2) and execve(2) themselves: `CLONE_INTO_CGROUP` (Linux 5.7) puts the child into its group before it runs, where moving it later
//! leaves a moment to escape; `CLONE_PIDFD` gives a handle that cannot come to mean another process; and unlike execvp(3), execve(2) never
//! hands a file that it does not know to /bin/sh.
//!
//! As posix_spawn(3) does it: until it executes the program, the child shares this process's memory (`CLONE_VM`) while the thread that started it
//! waits (`CLONE_VFORK`), so that no page table is copied, however much memory there is; and it has a stack of its own.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};

use nix::errno::Errno;

use super::namespace::Namespaces;

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
    /// Namespaces to enter, before the working directory is entered and the file executed: both are looked for there.
    pub namespaces: &'a Namespaces,
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
    /// Session, descriptors, namespaces or the OOM score.
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

/// Linux 5.5.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// The child calls nothing but the wrappers of system calls, with signals that run no code; each takes some hundred bytes.
const STACK: usize = 64 * 1024;
/// What every processor wants of a stack.
const ALIGN: usize = 16;

/// Everything the child needs, made before it is: it must not allocate, because another thread may hold the allocator's lock just then.
struct Prepared<'a> {
    path: &'a CStr,
    argv: [*const libc::c_char; 2],
    envp: Vec<*const libc::c_char>,
    directory: &'a CStr,
    descriptors: [RawFd; 3],
    /// Namespaces to enter; -1 is none.
    namespaces: [RawFd; 2],
    /// Signals to be set to their defaults.
    ignored: &'static [libc::c_int],
    /// Where the child failed, and how; written by the child.
    failed: AtomicU8,
    errno: AtomicI32,
}

/// Starts `program`. Returns when it has been executed or could not be.
///
/// # Errors
/// [`NotStarted`]: nothing of it runs then, and nothing is left to reap.
pub fn spawn(program: &Program<'_>) -> Result<Child, NotStarted> {
    let mut envp: Vec<_> = program
        .environment
        .iter()
        .map(|variable| variable.as_ptr())
        .collect();
    envp.push(std::ptr::null());
    let spaces = program.namespaces;
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
        namespaces: [&spaces.network, &spaces.mounts]
            .map(|space| space.as_ref().map_or(-1, AsRawFd::as_raw_fd)),
        ignored: ignored(),
        failed: AtomicU8::new(0),
        errno: AtomicI32::new(0),
    };
    let child = clone(program.cgroup, &prepared).map_err(|error| NotStarted {
        step: Step::Clone,
        error: error.into(),
    })?;
    let step = match prepared.failed.load(Ordering::Relaxed) {
        0 => return Ok(child),
        DIRECTORY => Step::Directory,
        EXECUTE => Step::Execute,
        _ => Step::Surroundings,
    };
    let _ = super::process::reap_blocking(&child.pidfd);
    let error = io::Error::from_raw_os_error(prepared.errno.load(Ordering::Relaxed));
    Err(NotStarted { step, error })
}

const SURROUNDINGS: u8 = 1;
const DIRECTORY: u8 = 2;
const EXECUTE: u8 = 3;

/// The signals that this process ignores: a program would inherit that. Those that are handled go back to their defaults by themselves. Asked once:
/// what is ignored was so from the start, or from before the first script.
fn ignored() -> &'static [libc::c_int] {
    static IGNORED: OnceLock<Vec<libc::c_int>> = OnceLock::new();
    IGNORED.get_or_init(|| {
        let set = super::process::ignored_signals().unwrap_or(u64::MAX);
        (1..=64)
            .filter(|signal| set & (1 << (signal - 1)) != 0)
            .collect()
    })
}

fn clone(cgroup: Option<BorrowedFd<'_>>, prepared: &Prepared<'_>) -> nix::Result<Child> {
    let mut pidfd: RawFd = -1;
    let mut stack = Vec::<MaybeUninit<u8>>::with_capacity(STACK);
    let space = stack.spare_capacity_mut();
    // Down to a multiple of what the stack pointer must be: the stack begins at its upper end.
    let odd = (space.as_ptr().addr() + space.len()) % ALIGN;
    let mut args = CloneArgs {
        // No handler of this process may run in the child, on its memory: from its birth it has none.
        flags: (libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD) as u64
            | CLONE_CLEAR_SIGHAND,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        stack: space.as_mut_ptr() as u64,
        stack_size: (space.len() - odd) as u64,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    let pid = clone3(&args, prepared)?;
    drop(stack); // the child has let go of it
    Ok(Child {
        pid,
        pidfd: own(pidfd),
    })
}

#[expect(unsafe_code, reason = "a descriptor that the kernel has just made")]
fn own(pidfd: RawFd) -> OwnedFd {
    // SAFETY: clone3 succeeded, so the kernel has put a new descriptor there that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(pidfd) }
}

/// clone3(2) with `CLONE_VM`, which the C library does not offer: the child comes back from the system call on an empty stack, where nothing
/// can be returned to, and so must go on in [`in_child`] at once.
#[expect(unsafe_code, reason = "clone3 with a stack of the child's own")]
fn clone3(args: &CloneArgs, prepared: &Prepared<'_>) -> nix::Result<i32> {
    let answer: isize;
    // SAFETY: `args` has the kernel's layout; it, the stack that it names (aligned, and used by nobody else) and `prepared` live until the child
    // has executed or ended, since with CLONE_VFORK this thread does not go on before. The kernel keeps all registers but those named as changed.
    // The child never leaves `in_child`, writes to nothing of this process but its stack, the two atomics in `prepared` and this thread's errno,
    // allocates nothing and takes no lock; descriptors, directory, umask and dispositions are its own copies, for CLONE_FILES, CLONE_FS and
    // CLONE_SIGHAND are not set. The memory that it changes is memory that the compiler takes to be changed by this block.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r8",
            "call rdx",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 as isize => answer,
            in("rdi") std::ptr::from_ref(args),
            in("rsi") size_of::<CloneArgs>(),
            in("rdx") in_child as extern "C" fn(*const Prepared<'_>) -> !,
            in("r8") std::ptr::from_ref(prepared),
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x3",
            "blr x2",
            "brk 1",
            "2:",
            in("x8") libc::SYS_clone3,
            inlateout("x0") std::ptr::from_ref(args) => answer,
            in("x1") size_of::<CloneArgs>(),
            in("x2") in_child as extern "C" fn(*const Prepared<'_>) -> !,
            in("x3") std::ptr::from_ref(prepared),
        );
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    compile_error!(
        "src/sys/spawn.rs: clone3 for this architecture is missing, some ten instructions"
    );
    if answer < 0 {
        return Err(Errno::from_raw(i32::try_from(-answer).unwrap_or(0)));
    }
    Ok(i32::try_from(answer).unwrap_or(-1))
}

/// The child, from its birth to the program. Only system calls; no allocation, no panic.
#[expect(unsafe_code, reason = "raw system calls in the child")]
extern "C" fn in_child(prepared: *const Prepared<'_>) -> ! {
    // SAFETY: it lives in the frame of the thread that waits for this.
    let prepared = unsafe { &*prepared };
    // SAFETY: takes no pointer.
    unsafe { libc::setsid() };
    for signal in prepared.ignored {
        default_disposition(*signal);
    }
    // SAFETY: takes no pointer.
    unsafe { libc::umask(0o022) };
    for (target, source) in (0..).zip(prepared.descriptors) {
        // SAFETY: takes no pointer. The sources are above 2: the first three are open in every Rust program from its start.
        if unsafe { libc::dup2(source, target) } < 0 {
            give_up(prepared, SURROUNDINGS);
        }
    }
    for namespace in prepared.namespaces {
        // SAFETY: takes no pointer. The child has root and working directory for itself (no CLONE_FS), so entering a mount namespace changes nobody's.
        if namespace >= 0 && unsafe { libc::setns(namespace, 0) } < 0 {
            give_up(prepared, SURROUNDINGS);
        }
    }
    // SAFETY: takes no pointer. Marks everything from 3 on to be closed by exec.
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
        give_up(prepared, DIRECTORY);
    }
    let mut none = MaybeUninit::<libc::sigset_t>::zeroed();
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
    give_up(prepared, EXECUTE)
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

/// A daemon is protected from the OOM killer; its scripts are not. Without `/proc` there is nothing to do. The score belongs to all who share a memory,
/// but for a child of `CLONE_VFORK`, which has its own.
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

/// Leaves word of the step and the error, and ends.
#[expect(unsafe_code, reason = "raw system calls in the child")]
fn give_up(prepared: &Prepared<'_>, step: u8) -> ! {
    prepared.errno.store(Errno::last_raw(), Ordering::Relaxed);
    prepared.failed.store(step, Ordering::Relaxed);
    // SAFETY: ends this process without running anything of the parent's.
    unsafe { libc::_exit(127) }
}

#[cfg(test)]
mod tests;
