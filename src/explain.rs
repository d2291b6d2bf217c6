//! Why a script could not be executed: found by looking at the file, after the kernel has refused it. Only ever explains; what was not
//! started is known already.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::sys::errno::{EACCES, ELIBBAD, ELOOP, ENOENT, ENOEXEC, ENOTDIR};
use crate::sys::file;
use object::Endianness;
use object::elf::{self, FileHeader32, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader};

/// The kernel looks at so many bytes of a `#!` line (`BINPRM_BUF_SIZE`, Linux 5.1 and later).
const LONGEST_SHEBANG: usize = 256;
/// Interpreters may themselves be scripts, to this depth; then the kernel says `ELOOP`.
const DEEPEST: usize = 8;
/// ELF program headers are looked for in so much of the file, in bytes.
const ELF_PART: usize = 64 * 1024;

/// Why `script` was refused with `error`.
#[must_use]
pub fn explain(script: &Path, error: &io::Error) -> String {
    let found = match error.raw_os_error() {
        Some(code) if code == ENOEXEC => not_executable_format(script),
        Some(code) if code == ENOENT || code == EACCES || code == ENOTDIR || code == ELIBBAD => {
            no_interpreter(script).or_else(|| interpreter(script, 0))
        }
        Some(code) if code == ELOOP => Some(
            "its interpreter is a script whose interpreter is a script, and so on without end"
                .to_owned(),
        ),
        _ => None,
    };
    match found {
        Some(reason) => format!("{reason} (execve: {error})"),
        None => format!("the kernel refused to execute it (execve: {error})"),
    }
}

fn beginning(path: &Path, length: usize) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// `ENOEXEC`: no format that the kernel knows.
fn not_executable_format(script: &Path) -> Option<String> {
    let bytes = beginning(script, ELF_PART).ok()?;
    if bytes.is_empty() {
        return Some("the file is empty".to_owned());
    }
    if bytes.starts_with(b"\x7fELF") {
        return Some(
            elf_problem(&bytes).unwrap_or_else(|| "a damaged or truncated ELF program".to_owned()),
        );
    }
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Some("a text in UTF-16: save the file as UTF-8 without BOM".to_owned());
    }
    if bytes.starts_with(b"\xef\xbb\xbf#!") {
        return Some(
            "a byte order mark stands before #!: save the file as UTF-8 without BOM".to_owned(),
        );
    }
    if bytes.starts_with(b"#!") {
        let line = bytes
            .split(|&byte| byte == b'\n')
            .next()
            .unwrap_or_default();
        return Some(if line.len() >= LONGEST_SHEBANG {
            format!(
                "its #! line is longer than the {} bytes that the kernel reads",
                LONGEST_SHEBANG - 1
            )
        } else if let Some(reason) = no_interpreter(script) {
            reason
        } else {
            interpreter(script, 0).unwrap_or_else(|| unusable_interpreter(&bytes))
        });
    }
    let text = !bytes.iter().take(512).any(|&byte| byte == 0);
    Some(if text {
        "a text file without #!: make its first line name the interpreter, such as #!/bin/sh"
            .to_owned()
    } else {
        "neither a script with #! nor a program in a format that this machine knows".to_owned()
    })
}

/// The kernel's answer to this depends on what is behind it: `ENOEXEC` if a line end, `EACCES` if nothing.
fn no_interpreter(script: &Path) -> Option<String> {
    let bytes = beginning(script, LONGEST_SHEBANG).ok()?;
    (bytes.starts_with(b"#!") && shebang(&bytes).is_none()).then(|| {
        "no interpreter is named behind #!: the first line must be such as #!/bin/sh".to_owned()
    })
}

/// The interpreter in a `#!` line, as the kernel reads it (fs/binfmt_script.c).
fn shebang(bytes: &[u8]) -> Option<&[u8]> {
    let line = bytes
        .strip_prefix(b"#!")?
        .split(|&byte| byte == b'\n')
        .next()?;
    let line = line.get(..LONGEST_SHEBANG - 2).unwrap_or(line);
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = line.iter().position(|byte| !blank(byte))?;
    line.get(start..)?
        .split(|byte| blank(byte) || *byte == 0)
        .next()
        .filter(|word| !word.is_empty())
}

fn unusable_interpreter(bytes: &[u8]) -> String {
    let word = shebang(bytes).unwrap_or_default();
    let shown = crate::name::shown(OsStr::from_bytes(word));
    format!("its interpreter \"{shown}\" is no program that this machine can execute")
}

/// `ENOENT`, `EACCES`: the file itself is there and executable, so it is what it needs.
fn interpreter(script: &Path, depth: usize) -> Option<String> {
    let bytes = beginning(script, ELF_PART).ok()?;
    let (wanted, kind) = match shebang(&bytes) {
        Some(word) => (PathBuf::from(OsStr::from_bytes(word)), "interpreter"),
        None => (elf_interpreter(&bytes)?, "dynamic loader"),
    };
    let shown = crate::name::shown(wanted.as_os_str());
    if wanted.as_os_str().as_bytes().ends_with(b"\r") {
        let clean = shown.trim_end_matches("\\r");
        return Some(format!(
            "the #! line ends in CRLF, so the kernel looks for \"{shown}\", a name with a carriage return, in place of \"{clean}\": save the file with LF line ends",
        ));
    }
    if wanted.is_relative() && kind == "interpreter" {
        return Some(format!(
            "its {kind} \"{shown}\" is not an absolute path: write such as #!/bin/sh"
        ));
    }
    match fs::metadata(&wanted) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            Some(format!("its {kind} \"{shown}\" does not exist"))
        }
        Err(err) => Some(format!("its {kind} \"{shown}\" cannot be reached: {err}")),
        Ok(meta) if !meta.is_file() => Some(format!("its {kind} \"{shown}\" is not a file")),
        Ok(meta) if meta.permissions().mode() & 0o111 == 0 => {
            Some(format!("its {kind} \"{shown}\" is not executable"))
        }
        Ok(_) if is_noexec(&wanted) => Some(format!(
            "its {kind} \"{shown}\" lies on a file system that is mounted noexec"
        )),
        Ok(_) if depth < DEEPEST => interpreter(&wanted, depth + 1),
        Ok(_) => None,
    }
}

fn is_noexec(path: &Path) -> bool {
    let room = File::open(path).and_then(file::room);
    room.is_ok_and(|room| room.noexec)
}

/// What an ELF header says that this machine cannot serve.
fn elf_problem(bytes: &[u8]) -> Option<String> {
    let machine = match bytes.get(4)? {
        1 => header_machine::<FileHeader32<Endianness>>(bytes)?,
        2 => header_machine::<FileHeader64<Endianness>>(bytes)?,
        _ => return None,
    };
    let ours = match std::env::consts::ARCH {
        "x86_64" => elf::EM_X86_64,
        "aarch64" => elf::EM_AARCH64,
        "riscv64" => elf::EM_RISCV,
        "powerpc64" => elf::EM_PPC64,
        "s390x" => elf::EM_S390,
        _ => return None,
    };
    let named = match machine {
        elf::EM_X86_64 => "x86-64".to_owned(),
        elf::EM_386 => "32-bit x86".to_owned(),
        elf::EM_AARCH64 => "AArch64".to_owned(),
        elf::EM_ARM => "32-bit ARM".to_owned(),
        elf::EM_RISCV => "RISC-V".to_owned(),
        elf::EM_PPC64 => "64-bit PowerPC".to_owned(),
        elf::EM_S390 => "s390".to_owned(),
        other => format!("ELF machine {other:?}"),
    };
    (machine != ours).then(|| {
        format!(
            "wrong architecture: a program for {named} on a machine that is {}",
            std::env::consts::ARCH
        )
    })
}

fn header_machine<H: FileHeader<Endian = Endianness>>(bytes: &[u8]) -> Option<elf::Machine> {
    let header = H::parse(bytes).ok()?;
    Some(header.e_machine(header.endian().ok()?))
}

fn elf_interpreter(bytes: &[u8]) -> Option<PathBuf> {
    match bytes.get(4)? {
        1 => header_interpreter::<FileHeader32<Endianness>>(bytes),
        2 => header_interpreter::<FileHeader64<Endianness>>(bytes),
        _ => None,
    }
}

fn header_interpreter<H: FileHeader<Endian = Endianness>>(bytes: &[u8]) -> Option<PathBuf> {
    let header = H::parse(bytes).ok()?;
    let endian = header.endian().ok()?;
    let headers = header.program_headers(endian, bytes).ok()?;
    let word = headers
        .iter()
        .find_map(|program| program.interpreter(endian, bytes).ok().flatten())?;
    Some(PathBuf::from(OsString::from(OsStr::from_bytes(word))))
}
