//! The awkward scripts, and what is expected of each. Every script tells that it runs, first of all, in a file outside of
//! every image.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::Path;

use nix::sys::stat::Mode;

/// One script that is handed over.
#[derive(Debug, Clone)]
pub struct Script {
    pub name: OsString,
    /// What it tells when it starts.
    pub id: &'static str,
    body: Vec<u8>,
    /// How it ends; `None`: it cannot be started.
    pub exit_code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// The script that hands it over; `None`: it is there from the beginning.
    pub dropped_by: Option<&'static str>,
}

/// The name of the script that hands over another of its own name.
pub const AGAIN: &str = "04-again";
/// Files in script-bin that are nobody's scripts and must stay as they are.
pub const FOREIGN: [&str; 4] = ["00-fifo", "00-link", "00-dir", "notes.txt"];

fn script(name: impl Into<OsString>, id: &'static str, rest: &str) -> Script {
    Script {
        name: name.into(),
        id,
        body: format!("#!/bin/sh\necho {id} >> \"$WITNESS\"\n{rest}").into_bytes(),
        exit_code: Some(0),
        stdout: Vec::new(),
        stderr: Vec::new(),
        dropped_by: None,
    }
}

/// Hands over `name` with `body` the documented way, durably, and tells before and after that it does.
fn drop_script(id: &str, name: &str, body: &str) -> String {
    format!(
        "cd \"$GVA_APPLICATION/script-bin\" || exit 1\ncat > .draft-{id} <<'END' || exit 1\n{body}END\nchmod +x .draft-{id}\n\
         sync .draft-{id}\necho dropping {id} >> \"$WITNESS\"\nmv -f .draft-{id} {name} && sync . && echo dropped {id} >> \"$WITNESS\"\n"
    )
}

/// All of them. With `repeatable` only those that may run twice and still mean the same.
pub fn all(repeatable: bool) -> Vec<Script> {
    let mut scripts = vec![
        printing(),
        Script {
            exit_code: Some(3),
            stderr: b"no\n".to_vec(),
            ..script("02-fail", "fail", "echo no >&2\nexit 3\n")
        },
        Script {
            stdout: b"forked\n".to_vec(),
            // It holds the pipes, too.
            ..script(
                "03-fork",
                "fork",
                "echo forked\n(setsid sleep 1000 &)\nexit 0\n",
            )
        },
        Script {
            body: b"#!/bin/sh\r\necho never\r\n".to_vec(),
            exit_code: None,
            ..script("06-crlf", "crlf", "")
        },
        large(),
        Script {
            stdout: b"long\n".to_vec(),
            ..script(
                format!("08-{}", "n".repeat(252)),
                "long-name",
                "echo long\n",
            )
        },
        Script {
            stdout: b"bytes\n".to_vec(),
            ..script(
                OsString::from_vec(b"09-\xff\xfe not UTF-8".to_vec()),
                "not-utf-8",
                "echo bytes\n",
            )
        },
        Script {
            stdout: b"ruin\n".to_vec(),
            ..script(
                "10-ruin",
                "ruin",
                "echo ruin\nrm -rf \"$GVA_OUTPUT/gvad/$GVA_RUN_ID\"\n",
            )
        },
    ];
    if !repeatable {
        scripts.extend(dropping());
    }
    scripts.sort_by(|a, b| a.name.cmp(&b.name));
    scripts
}

fn printing() -> Script {
    Script {
        stdout: "0123456789abcdef\n".repeat(9000).into_bytes(),
        stderr: b"err\n".to_vec(),
        ..script(
            "01-print",
            "print",
            "echo err >&2\nyes 0123456789abcdef | head -n 9000\n",
        )
    }
}

/// What it does stands at its end, so that a copy that was cut off does not do it.
fn large() -> Script {
    let large = Script {
        stdout: b"large\n".to_vec(),
        ..script("07-large", "large", "")
    };
    let line = format!("# {}\n", "x".repeat(997)).repeat(600);
    Script {
        body: format!("#!/bin/sh\n{line}echo large >> \"$WITNESS\"\necho large\n").into_bytes(),
        ..large
    }
}

fn dropping() -> Vec<Script> {
    let (second, dropped) = ("again-2", "dropped");
    let body = |id: &str| format!("#!/bin/sh\necho {id} >> \"$WITNESS\"\necho {id}\n");
    vec![
        Script {
            stdout: b"again-1\n".to_vec(),
            ..script(
                AGAIN,
                "again-1",
                &format!(
                    "echo again-1\n{}",
                    drop_script(second, AGAIN, &body(second))
                ),
            )
        },
        Script {
            dropped_by: Some("again-1"),
            stdout: b"again-2\n".to_vec(),
            ..script(AGAIN, second, "echo again-2\n")
        },
        Script {
            stdout: b"drop\n".to_vec(),
            ..script(
                "05-drop",
                "drop",
                &format!(
                    "echo drop\n{}",
                    drop_script(dropped, "90-dropped", &body(dropped))
                ),
            )
        },
        Script {
            dropped_by: Some("drop"),
            stdout: b"dropped\n".to_vec(),
            ..script("90-dropped", dropped, "echo dropped\n")
        },
    ]
}

/// Puts the scripts that are there from the beginning into `script_bin`, and what is none beside them.
pub fn hand_over(scripts: &[Script], script_bin: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(script_bin)?;
    for script in scripts.iter().filter(|one| one.dropped_by.is_none()) {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o755);
        let mut file: File = options.open(script_bin.join(&script.name))?;
        file.write_all(&script.body)?;
    }
    nix::unistd::mkfifo(&script_bin.join("00-fifo"), Mode::from_bits_truncate(0o700))?;
    symlink("01-print", script_bin.join("00-link"))?;
    fs::create_dir(script_bin.join("00-dir"))?;
    fs::write(script_bin.join("notes.txt"), "no script\n")?;
    Ok(())
}
