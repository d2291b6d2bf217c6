//! The kinds of script: what each does, how often it comes, and how it must end.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

/// How a script of a kind ends where nobody kills gvad meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// By itself, with this status.
    Exits(i64),
    /// By this signal.
    Signal(&'static str),
    /// By the time limit.
    TimesOut,
    /// It depends on the machine: by itself, by a signal or by the time limit.
    Somehow,
    /// It is never started, and has a result that says so.
    NotStarted,
    /// It is no script, and has no result.
    PassedOver,
}

/// What is put into script-bin.
#[derive(Debug, Clone, Copy)]
enum Thing {
    /// A shell script that notes its name first.
    Shell(&'static str),
    /// A file with these bytes.
    Bytes(&'static [u8], u32),
    Directory,
    Link,
    Fifo,
}

/// A kind of script.
#[derive(Debug)]
pub(crate) struct Kind {
    /// A word, which is part of the name of each such script.
    pub(crate) name: &'static str,
    /// So many of ten thousand.
    weight: u32,
    /// How it ends.
    pub(crate) end: End,
    /// It hands over another one, whose name is its own and `.d`.
    pub(crate) drops: bool,
    thing: Thing,
}

const fn shell(name: &'static str, weight: u32, end: End, body: &'static str) -> Kind {
    Kind {
        name,
        weight,
        end,
        drops: false,
        thing: Thing::Shell(body),
    }
}

const fn file(name: &'static str, weight: u32, end: End, bytes: &'static [u8], mode: u32) -> Kind {
    Kind {
        name,
        weight,
        end,
        drops: false,
        thing: Thing::Bytes(bytes, mode),
    }
}

const fn other(name: &'static str, weight: u32, thing: Thing) -> Kind {
    Kind {
        name,
        weight,
        end: End::PassedOver,
        drops: false,
        thing,
    }
}

const OK: End = End::Exits(0);

/// All of them. The first takes the rest of the ten thousand.
pub(crate) const KINDS: &[Kind] = &[
    shell("good", 0, OK, "echo out; echo err >&2"),
    shell("status", 500, End::Exits(3), "exit 3"),
    shell("segv", 200, End::Signal("SIGSEGV"), "kill -SEGV $$"),
    shell("kills-itself", 200, End::Signal("SIGKILL"), "kill -KILL $$"),
    shell("prints-much", 100, OK, "head -c 300000 /dev/zero"),
    shell(
        "prints-often",
        50,
        OK,
        "i=0; while [ $i -lt 300 ]; do printf x; i=$((i+1)); done",
    ),
    shell("closes-output", 200, OK, "exec 0<&- 1>&- 2>&-; :"),
    shell("double-fork", 300, OK, "( ( sleep 1000 & ) & )"),
    shell(
        "new-session",
        300,
        OK,
        "setsid sleep 1000 > /dev/null 2>&1 < /dev/null &",
    ),
    shell("holds-pipe", 300, OK, "sleep 1000 & sleep 1000 &"),
    shell(
        "hears-nothing",
        1,
        End::TimesOut,
        "trap '' TERM INT HUP; while :; do sleep 1; done",
    ),
    shell(
        "forks",
        2,
        End::Somehow,
        "i=0; while [ $i -lt 400 ]; do sleep 1000 & i=$((i+1)); done",
    ),
    shell(
        "takes-memory",
        2,
        End::Somehow,
        "head -c 200000000 /dev/zero | tail -n 1 | wc -c",
    ),
    shell("removes-its-directory", 100, OK, "rm -rf \"$TMPDIR\""),
    shell(
        "removes-its-output",
        50,
        OK,
        "rm -rf \"$GVA_OUTPUT\"/gvad/*-\"$GVA_SCRIPT\"; echo told",
    ),
    shell(
        "swaps-its-directory",
        50,
        OK,
        "mv \"$TMPDIR\" \"$TMPDIR.old\"; ln -s / \"$TMPDIR\"",
    ),
    shell(
        "moves-script-bin",
        20,
        OK,
        "cd \"$GVA_APPLICATION\"; mv script-bin away; mv away script-bin",
    ),
    shell("stops-gvad", 20, OK, "kill -STOP $PPID; kill -CONT $PPID"),
    shell(
        "forges",
        20,
        OK,
        "echo '{}' > \"$GVA_OUTPUT/gvad/forged-$GVA_SCRIPT\"",
    ),
    shell(
        "leaves-a-loop",
        20,
        OK,
        "exec > /dev/full; echo lost; exit 0",
    ),
    shell(
        "sets-the-clock",
        2,
        OK,
        "now=$(date +%s); date -s @$((now + 300000000)) > /dev/null; date -s @$((now + 1)) > /dev/null",
    ),
    Kind {
        name: "drops",
        weight: 300,
        end: OK,
        drops: true,
        thing: Thing::Shell(
            "b=\"$GVA_APPLICATION/script-bin\"; n=\"$GVA_SCRIPT.d\"; \
             printf '#!/bin/sh\\necho %s >> \"$GVA_APPLICATION/witness\"\\n' \"$n\" > \"$b/.$n\"; chmod 755 \"$b/.$n\"; mv \"$b/.$n\" \"$b/$n\"",
        ),
    },
    file(
        "no-interpreter-line",
        300,
        End::NotStarted,
        b"echo hello\n",
        0o755,
    ),
    file(
        "other-line-ends",
        200,
        End::NotStarted,
        b"#!/bin/sh\r\necho hello\r\n",
        0o755,
    ),
    file(
        "missing-interpreter",
        200,
        End::NotStarted,
        b"#!/no/such/interpreter\n",
        0o755,
    ),
    file(
        "garbage",
        200,
        End::NotStarted,
        b"\x7fELF\x02\x01\x01garbage\0\xff\xfe",
        0o755,
    ),
    file("empty", 200, End::NotStarted, b"", 0o755),
    file(
        "not-executable",
        100,
        End::PassedOver,
        b"#!/bin/sh\n",
        0o644,
    ),
    file("open-to-all", 100, End::PassedOver, b"#!/bin/sh\n", 0o777),
    other("directory", 100, Thing::Directory),
    other("link", 100, Thing::Link),
    other("fifo", 100, Thing::Fifo),
];

/// The kind of this name.
pub(crate) fn by_name(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

/// One by chance.
pub(crate) fn any(random: &mut fastrand::Rng) -> &'static Kind {
    let mut at = random.u32(0..10_000);
    for kind in KINDS {
        if at < kind.weight {
            return kind;
        }
        at -= kind.weight;
    }
    &KINDS[0]
}

impl Kind {
    /// Puts one of this kind into `script_bin` under `name`, whole from the first moment on.
    pub(crate) fn put(&self, script_bin: &Path, name: &str) -> io::Result<()> {
        let hidden = script_bin.join(format!(".{name}"));
        match self.thing {
            Thing::Shell(body) => {
                let text =
                    format!("#!/bin/sh\necho {name} >> \"$GVA_APPLICATION/witness\"\n{body}\n");
                write(&hidden, text.as_bytes(), 0o755)?;
            }
            Thing::Bytes(bytes, mode) => write(&hidden, bytes, mode)?,
            Thing::Directory => fs::create_dir(&hidden)?,
            Thing::Link => symlink("/bin/true", &hidden)?,
            Thing::Fifo => mkfifo(&hidden, Mode::from_bits_truncate(0o755))?,
        }
        fs::rename(&hidden, script_bin.join(name))
    }

    /// Whether a script of this kind notes its name when it starts.
    pub(crate) fn notes(&self) -> bool {
        matches!(self.thing, Thing::Shell(_))
    }
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    fs::write(path, bytes)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// The kind in a name such as `0000123-good`, and whether it was handed over by a script of that kind.
pub(crate) fn of_name(name: &OsStr) -> Option<(&'static Kind, bool)> {
    let name = name.to_str()?;
    let (_, kind) = name.split_once('-')?;
    match kind.strip_suffix(".d") {
        Some(kind) => by_name(kind).map(|kind| (kind, true)),
        None => by_name(kind).map(|kind| (kind, false)),
    }
}
