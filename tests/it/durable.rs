//! The syncs are there, and in the promised order: a trace of the system calls shows it. That a process was killed does not, because
//! the page cache survives it.

use std::fs;
use std::process::Command;

use crate::harness::{Fs, Guest, run};

const TELL: &str =
    "#!/bin/sh\nprintf '%s\\n' \"${0##*/}\" >> \"$WITNESS\"\necho out; echo err >&2\n";

/// The trace of a drain with the paths of descriptors, and where in it a line is that has all the words.
struct Trace(Vec<String>);

impl Trace {
    fn of(guest: &Guest) -> Self {
        let gvad = guest.gvad(&["drain"]);
        let file = guest.path("trace");
        let calls =
            "trace=/^(fsync|fdatasync|syncfs|rename.*|unlink.*|execve|pwrite64|write|mkdir.*)$";
        let mut strace = Command::new("strace");
        strace
            .args(["-f", "-y", "-s", "300", "-e", calls, "-o"])
            .arg(&file)
            .arg("--");
        let ended = run(strace.arg(gvad.get_program()).args(gvad.get_args()));
        assert_eq!(ended.code, Some(0), "{ended}");
        Self(
            fs::read_to_string(file)
                .unwrap()
                .lines()
                .map(str::to_owned)
                .collect(),
        )
    }

    /// The first such line from `from` on.
    #[track_caller]
    fn find(&self, from: usize, what: &str, fits: impl Fn(&str) -> bool) -> usize {
        let found = self
            .0
            .iter()
            .enumerate()
            .skip(from)
            .find(|(_, line)| fits(line));
        found
            .unwrap_or_else(|| panic!("no {what} after line {from}:\n{}", self.0.join("\n")))
            .0
    }
}

#[test]
fn marks_and_results_are_durable_before_what_depends_on_them() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.script("only.sh", TELL);
    let trace = Trace::of(&guest);
    let is_sync =
        |l: &str| l.contains("fsync(") || l.contains("fdatasync(") || l.contains("syncfs(");
    let exec = trace.find(0, "start", |l| {
        l.contains("execve(") && l.contains("only.sh")
    });
    let mark = trace.find(0, "start mark", |l| {
        l.contains("write") && l.contains("/gvad/ledger>") && l.contains("start")
    });
    let sync = trace.find(mark, "sync of the mark", |l| {
        is_sync(l) && (l.contains("/gvad/ledger>") || l.contains("syncfs("))
    });
    assert!(mark < sync && sync < exec, "{:#?}", trace.0);
    let rename = trace.find(exec, "result", |l| {
        l.contains("rename") && l.contains("\"result.json\"") || l.contains("/result.json\"")
    });
    let within = |name: &str| {
        trace.find(exec, name, |l| {
            is_sync(l) && (l.contains(name) || l.contains("syncfs("))
        })
    };
    assert!(
        within("/stdout>") < rename
            && within("/stderr>") < rename
            && within("result.json") < rename
    );
    let dir = trace.find(rename, "sync of the run directory", |l| {
        is_sync(l) && (l.contains("-only.sh>") || l.contains("syncfs("))
    });
    let parent = trace.find(0, "sync of the parent", |l| {
        is_sync(l) && (l.contains("/gvad>") || l.contains("syncfs("))
    });
    let made = trace.find(0, "run directory", |l| {
        l.contains("mkdir") && l.contains("-only.sh")
    });
    let parent = if parent > made {
        parent
    } else {
        trace.find(made, "sync of the parent", |l| {
            is_sync(l) && (l.contains("/gvad>") || l.contains("syncfs("))
        })
    };
    let delete = trace.find(rename, "delete of the claim", |l| {
        l.contains("unlink") && l.contains("only.sh") && l.contains("script-bin")
    });
    assert!(dir < delete && parent < delete, "{:#?}", trace.0);
    assert!(
        !trace.0[..rename]
            .iter()
            .any(|l| l.contains("unlink") && l.contains("script-bin") && l.contains("only.sh"))
    );
}

#[test]
fn claim_is_durable_before_the_start_where_the_file_system_keeps_no_journal() {
    let Some(guest) = Guest::on(Fs::Ext2) else {
        return;
    };
    guest.add_output_image(Fs::Ext4);
    guest.script("only.sh", TELL);
    let trace = Trace::of(&guest);
    let claim = trace.find(0, "claim", |l| {
        l.contains("rename") && l.contains("/script-bin>, \"only.sh\"")
    });
    let exec = trace.find(claim, "start", |l| {
        l.contains("execve(") && l.contains("only.sh")
    });
    let synced = |what: &str, fits: &dyn Fn(&str) -> bool| {
        trace.find(claim, what, |l| l.contains("fsync(") && fits(l))
    };
    let claims = synced("sync of the claims", &|l| l.contains("/script-bin/.gvad/"));
    let script_bin = synced("sync of script-bin", &|l| l.contains("/script-bin>"));
    assert!(claims < exec && script_bin < exec, "{:#?}", trace.0);
}
