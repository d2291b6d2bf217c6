//! gvad under ptrace(2): its calls are counted, and at one of them something is done. Its threads are followed, its scripts are not.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use nix::libc::user_regs_struct;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::calls::{self, Call, Class};
use crate::watchdog::Watchdog;

/// What is done at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// gvad is killed, and the call is not made.
    KillBefore,
    /// gvad is killed when the call has been made.
    KillAfter,
    /// Half of what was to be written is written, and gvad is killed.
    CutAndKill,
    /// Half of what was to be written is written, and gvad goes on.
    Cut,
    /// The call is not made and fails.
    Fail(i32),
    /// And so does every later one that goes to a disk.
    FailForEver(i32),
}

/// Where something is done, and what: at the `nth` counted call of that name.
#[derive(Debug, Clone)]
pub struct Plan {
    pub call: &'static str,
    pub nth: u32,
    pub deed: Deed,
}

/// In place of a call's name: any that changes something; `nth` counts all of these together.
pub const ANY: &str = "any";

/// One counted call.
#[derive(Debug, Clone, Copy)]
pub struct Counted {
    pub call: &'static Call,
    /// It only looks.
    pub looks: bool,
    /// Bytes to be written, by calls that can be cut.
    pub length: u64,
    pub nth: u32,
    /// The image file systems were frozen before it.
    pub at_rest: bool,
}

/// How it went.
#[derive(Debug, Default)]
pub struct Traced {
    pub calls: Vec<Counted>,
    pub hit: bool,
    pub code: Option<i32>,
    pub timed_out: bool,
}

const FIFREEZE: u64 = 0xc004_5877;
const FITHAW: u64 = 0xc004_5878;

struct Tracer<'a> {
    plan: Option<&'a Plan>,
    /// The guest's. What gvad looks at elsewhere does not count.
    dir: &'a Path,
    main: Pid,
    memory: File,
    traced: Traced,
    seen: HashMap<&'static str, u32>,
    /// Threads in a call, and what is to be done when it ends.
    inside: HashMap<Pid, AtExit>,
    changes: u64,
    begun: bool,
    failing: Option<i32>,
    frozen: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AtExit {
    Nothing,
    Kill,
    Return(i32),
    Stop,
}

/// Runs `command` to its end. A daemon is asked to stop when it has come to rest.
pub fn run(
    mut command: Command,
    dir: &Path,
    plan: Option<&Plan>,
    watchdog: &Watchdog,
) -> anyhow::Result<Traced> {
    #[expect(unsafe_code, reason = "the child asks to be traced")]
    // SAFETY: between fork and exec only ptrace(2) is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| Ok(ptrace::traceme()?))
    };
    let child = command.spawn().context("starting gvad")?;
    let main = Pid::from_raw(i32::try_from(child.id())?);
    let started = waitpid(main, None)?;
    if !matches!(started, WaitStatus::Stopped(_, Signal::SIGTRAP)) {
        bail!("gvad did not start: {started:?}");
    }
    let options =
        Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL;
    ptrace::setoptions(main, options)?;
    let watched = watchdog.watch(main);
    let mut tracer = Tracer {
        plan,
        dir,
        main,
        memory: File::open(format!("/proc/{main}/mem"))?,
        traced: Traced::default(),
        seen: HashMap::new(),
        inside: HashMap::new(),
        changes: 0,
        begun: false,
        failing: None,
        frozen: false,
    };
    go_on(main, None);
    tracer.follow()?;
    let mut traced = tracer.traced;
    traced.timed_out = watched.timed_out();
    Ok(traced)
}

/// A thread that is being killed cannot go on, and its end is told soon.
fn go_on(thread: Pid, signal: Option<Signal>) {
    let _ = ptrace::syscall(thread, signal);
}

impl Tracer<'_> {
    fn follow(&mut self) -> anyhow::Result<()> {
        loop {
            let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
            match waitpid(None, Some(flags)).context("waiting for gvad")? {
                WaitStatus::PtraceSyscall(thread) => {
                    self.at_call(thread);
                    go_on(thread, None);
                }
                // The first stop of a new thread.
                WaitStatus::Stopped(thread, Signal::SIGSTOP) => go_on(thread, None),
                WaitStatus::Stopped(thread, signal) => go_on(thread, Some(signal)),
                WaitStatus::Exited(pid, code) if pid == self.main => {
                    self.traced.code = Some(code);
                    return Ok(());
                }
                WaitStatus::Signaled(pid, ..) if pid == self.main => return Ok(()),
                other => {
                    if let Some(thread) = other.pid() {
                        go_on(thread, None);
                    }
                }
            }
        }
    }

    fn at_call(&mut self, thread: Pid) {
        let Ok(mut registers) = ptrace::getregs(thread) else {
            return; // killed meanwhile
        };
        match self.inside.remove(&thread) {
            None => {
                let then = self.entering(thread, &mut registers);
                self.inside.insert(thread, then);
            }
            Some(AtExit::Nothing) => {}
            Some(AtExit::Kill) => self.kill(),
            Some(AtExit::Return(error)) => {
                registers.rax = i64::from(-error).cast_unsigned();
                let _ = ptrace::setregs(thread, registers);
            }
            Some(AtExit::Stop) => {
                let _ = kill(self.main, Signal::SIGTERM);
            }
        }
    }

    fn kill(&mut self) {
        let _ = kill(self.main, Signal::SIGKILL);
    }

    fn entering(&mut self, thread: Pid, registers: &mut user_regs_struct) -> AtExit {
        let Some(call) = calls::by_number(registers.orig_rax.cast_signed()) else {
            return AtExit::Nothing;
        };
        let Some(looks) = self.counts(call, registers) else {
            return AtExit::Nothing;
        };
        let nth = self.seen.entry(call.name).or_insert(0);
        *nth += 1;
        let nth = *nth;
        self.changes += u64::from(!looks);
        let length = if matches!(call.name, "write" | "pwrite64") {
            registers.rdx
        } else {
            0
        };
        self.traced.calls.push(Counted {
            call,
            looks,
            length,
            nth,
            at_rest: self.frozen,
        });
        let request = (call.name == "ioctl").then_some(registers.rsi);
        self.frozen |= request == Some(FIFREEZE);
        let deed = self
            .plan
            .filter(|plan| {
                plan.call == call.name && plan.nth == nth
                    || plan.call == ANY && !looks && u64::from(plan.nth) == self.changes
            })
            .map(|plan| plan.deed);
        self.traced.hit |= deed.is_some();
        match deed {
            Some(deed) => self.strike(deed, thread, registers),
            None => match self.failing {
                Some(error)
                    if fails_too(call, looks, error) && self.is_on_disk(call, registers) =>
                {
                    refuse(thread, registers, error)
                }
                _ if request == Some(FITHAW) => AtExit::Stop,
                _ => AtExit::Nothing,
            },
        }
    }

    fn strike(&mut self, deed: Deed, thread: Pid, registers: &mut user_regs_struct) -> AtExit {
        match deed {
            Deed::KillBefore => {
                refuse(thread, registers, libc::EINTR);
                self.kill();
                AtExit::Nothing
            }
            Deed::KillAfter => AtExit::Kill,
            Deed::CutAndKill | Deed::Cut => {
                registers.rdx /= 2;
                let _ = ptrace::setregs(thread, *registers);
                if deed == Deed::Cut {
                    AtExit::Nothing
                } else {
                    AtExit::Kill
                }
            }
            Deed::Fail(error) => refuse(thread, registers, error),
            Deed::FailForEver(error) => {
                self.failing = Some(error);
                refuse(thread, registers, error)
            }
        }
    }

    /// Whether this call counts, and whether it only looks. What the dynamic linker does, before the configuration is read, does not.
    fn counts(&mut self, call: &Call, registers: &user_regs_struct) -> Option<bool> {
        let arguments = [registers.rdi, registers.rsi, registers.rdx, registers.r10];
        if !self.begun {
            let path = if call.name == "open" {
                arguments[0]
            } else {
                arguments[1]
            };
            self.begun = call.class == Class::Open && self.text(path).ends_with(b"gvad.toml");
            return None;
        }
        if let Some(argument) = call.file
            && !self.is_file(arguments[argument])
        {
            return None;
        }
        match call.class {
            Class::Change | Class::Machine => Some(false),
            Class::Look => self.is_ours(call, arguments).then_some(true),
            Class::Open => {
                let flags = match call.name {
                    "open" => arguments[1],
                    "openat" => arguments[2],
                    _ => self.word(arguments[2]),
                };
                let writes = libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC;
                let looks = i32::try_from(flags).is_ok_and(|flags| flags & writes == 0);
                (!looks || self.is_ours(call, arguments)).then_some(looks)
            }
        }
    }

    fn is_file(&self, descriptor: u64) -> bool {
        descriptor > 2
            && self
                .file(descriptor)
                .is_some_and(|to| to.starts_with("/") && to != Path::new("/dev/null"))
    }

    fn file(&self, descriptor: u64) -> Option<PathBuf> {
        fs::read_link(format!("/proc/{}/fd/{descriptor}", self.main)).ok()
    }

    /// Whether a call looks at something of the guest's: by its descriptor, or by a path from there.
    fn is_ours(&self, call: &Call, arguments: [u64; 4]) -> bool {
        let by_path = match call.name {
            "open" | "statfs" => Some(self.text(arguments[0])),
            "openat" | "openat2" | "statx" | "newfstatat" | "readlinkat" => {
                Some(self.text(arguments[1]))
            }
            _ => None,
        };
        match by_path {
            Some(path) if path.starts_with(b"/") => {
                Path::new(OsStr::from_bytes(&path)).starts_with(self.dir)
            }
            _ => self
                .file(arguments[0])
                .is_some_and(|file| file.starts_with(self.dir)),
        }
    }

    /// Control groups do not fail with the disk.
    fn is_on_disk(&self, call: &Call, registers: &user_regs_struct) -> bool {
        let file = (call.name == "write").then(|| self.file(registers.rdi));
        !file.flatten().is_some_and(|file| file.starts_with("/sys"))
    }

    fn word(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        let _ = self.memory.read_exact_at(&mut bytes, at);
        u64::from_ne_bytes(bytes)
    }

    fn text(&self, at: u64) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        let count = self.memory.read_at(&mut bytes, at).unwrap_or(0);
        bytes.truncate(count);
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(0);
        bytes.truncate(end);
        bytes
    }
}

/// Makes the kernel skip the call.
fn refuse(thread: Pid, registers: &mut user_regs_struct, error: i32) -> AtExit {
    registers.orig_rax = u64::MAX;
    let _ = ptrace::setregs(thread, *registers);
    AtExit::Return(error)
}

/// Whether a disk that has begun to fail with `error` fails in this call, too.
fn fails_too(call: &Call, looks: bool, error: i32) -> bool {
    call.class != Class::Machine
        && match error {
            libc::EIO => true,
            // Removing and reading need no room.
            libc::ENOSPC => !looks && !matches!(call.name, "unlink" | "unlinkat" | "rmdir"),
            _ => !looks,
        }
}
