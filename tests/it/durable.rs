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
        let calls = "trace=/^(fsync|fdatasync|syncfs|sync_file_range|fchmod|rename.*|unlink.*|execve|pwrite64)$";
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

    fn started(&self, script: &str) -> usize {
        self.find(0, "start", |l| {
            l.contains("execve(") && l.contains(&format!("/{script}\""))
        })
    }

    fn marked(&self, from: usize, script: &str) -> usize {
        self.find(from, "start mark", |l| {
            l.contains("/gvad/ledger>") && l.contains("start") && l.contains(&format!("-{script}"))
        })
    }

    /// Where the result gets its name.
    fn named(&self, from: usize) -> usize {
        self.find(from, "result", |l| {
            l.contains("rename") && l.contains("\"result.json\"")
        })
    }

    fn committed(&self, from: usize, script: &str) -> usize {
        self.find(from, "commit", |l| {
            l.contains("fsync(") && l.contains(&format!("-{script}/result.json>"))
        })
    }

    fn deleted(&self, script: &str) -> usize {
        self.find(0, "delete of the claim", |l| {
            l.contains("unlink") && l.contains(script) && l.contains("script-bin")
        })
    }
}

fn syncs(line: &str) -> bool {
    ["fsync(", "fdatasync(", "syncfs("]
        .iter()
        .any(|call| line.contains(call))
}

/// What was printed, and the result, are on the disk before the result has its name.
#[test]
fn marks_and_results_are_durable_before_what_depends_on_them() {
    for fs in [Fs::Xfs, Fs::Ext4] {
        let Some(guest) = Guest::on_image() else {
            return;
        };
        guest.add_output_image(fs);
        guest.script("only.sh", TELL);
        let trace = Trace::of(&guest);
        let exec = trace.started("only.sh");
        let mark = trace.marked(0, "only.sh");
        let sync = trace.find(mark, "sync of the mark", |l| {
            syncs(l) && l.contains("/gvad/ledger>")
        });
        assert!(mark < sync && sync < exec, "{:#?}", trace.0);
        let result = trace.named(exec);
        let written = |name: &str| {
            trace.find(exec, name, |l| {
                (syncs(l) || l.contains("sync_file_range(")) && l.contains(name)
            })
        };
        for name in ["/stdout>", "/stderr>", "/.result.json.tmp>"] {
            assert!(written(name) < result, "{name}: {:#?}", trace.0);
        }
        let durable = match fs {
            // One commit of the journal carries everything. It is a file's: see `file::commit_by`.
            Fs::Ext4 => {
                let changed = trace.find(result, "change of the result", |l| {
                    l.contains("fchmod(") && l.contains("-only.sh/result.json>")
                });
                trace.committed(changed, "only.sh")
            }
            _ => {
                let of = |what: &str| trace.find(result, what, |l| syncs(l) && l.contains(what));
                of("-only.sh>").max(of("/gvad>"))
            }
        };
        assert!(durable < trace.deleted("only.sh"), "{:#?}", trace.0);
    }
}

#[test]
fn result_and_next_start_mark_share_a_sync_of_the_ledger() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    for name in ["a.sh", "b.sh", "c.sh"] {
        guest.script(name, TELL);
    }
    let trace = Trace::of(&guest);
    for (before, next) in [("a.sh", "b.sh"), ("b.sh", "c.sh")] {
        let exec = trace.started(before);
        let named = trace.named(exec);
        let noted = trace.find(exec, "result in the ledger", |l| {
            l.contains("/gvad/ledger>") && l.contains("result") && l.contains(&format!("-{before}"))
        });
        let mark = trace.marked(noted, next);
        let sync = trace.find(mark, "sync of the ledger", |l| {
            l.contains("fdatasync(") && l.contains("/gvad/ledger>")
        });
        for file in ["stdout", "stderr", ".result.json.tmp"] {
            let name = format!("-{before}/{file}>");
            let waits = |l: &str| {
                l.contains("sync_file_range(") && l.contains(&name) && l.contains("WAIT_AFTER")
            };
            let written = trace.find(exec, &name, waits);
            assert!(written < named, "{file}: {:#?}", trace.0);
        }
        assert!(named < mark && noted < mark, "{:#?}", trace.0);
        assert!(sync < trace.deleted(before) && sync < trace.started(next));
        let between = &trace.0[exec..trace.started(next)];
        let number = between.iter().filter(|line| syncs(line)).count();
        assert_eq!(number, 1, "{between:#?}");
    }
    // Nothing waits behind the last: its commit makes files of all.
    let committed = trace.committed(trace.named(trace.started("c.sh")), "c.sh");
    let filed = trace.find(committed, "line of the ledger", |l| {
        l.contains("/gvad/ledger>") && l.contains("filed")
    });
    let forgotten = trace.find(committed, "line of the ledger", |l| {
        l.contains("/gvad/ledger>") && l.contains("settled")
    });
    assert!(committed < trace.deleted("c.sh") && filed < forgotten);
}

#[test]
fn results_become_files_soon_however_long_the_next_script_runs() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.script("a", TELL);
    guest.script("b", "#!/bin/sh\nsleep 1\n");
    guest.script("c", TELL);
    let trace = Trace::of(&guest);
    let exec = trace.started("b");
    let committed = trace.committed(exec, "a");
    let filed = trace.find(committed, "line of the ledger", |l| {
        l.contains("/gvad/ledger>") && l.contains("filed")
    });
    assert!(filed < trace.named(committed), "{:#?}", trace.0);
}

/// Many short scripts. Nothing is forgotten that is in the ledger alone.
#[test]
fn results_become_files_before_they_are_many_and_before_the_ledger_forgets_them() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    for number in 100..400 {
        guest.script(format!("s{number}"), "#!/bin/sh\n");
    }
    let ended = guest.drain();
    assert_eq!(ended.code, Some(0), "{ended}");
    let ledger = guest.inside_output(|output| fs::read(output.join("gvad/ledger")).unwrap());
    let ledger = String::from_utf8_lossy(&ledger);
    let (mut open, mut most, mut forgot) = (0, 0, 0);
    for line in ledger.lines().filter_map(|line| line.get(9..)) {
        if line.starts_with("{\"result\"") {
            open += 1;
            most = most.max(open);
        } else if line.starts_with("{\"filed\"") {
            open = 0;
        } else if line.starts_with("{\"settled\"") {
            assert_eq!(open, 0, "{line}");
            forgot += 1;
        }
    }
    assert!((2..=32).contains(&most), "{most} at a time");
    assert!(forgot >= 2, "it forgot {forgot} times");
}

#[test]
fn what_is_too_much_for_the_ledger_is_committed_at_once() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.script("much.sh", "#!/bin/sh\nhead -c 20000 /dev/zero\n");
    guest.script("next.sh", "#!/bin/sh\n");
    let trace = Trace::of(&guest);
    let committed = trace.committed(trace.started("much.sh"), "much.sh");
    assert!(committed < trace.marked(0, "next.sh") && committed < trace.deleted("much.sh"));
}

/// The file that is to be committed by has become immutable.
#[test]
fn result_that_a_later_script_seals_is_one_result() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.script("a", TELL);
    guest.script(
        "b",
        "#!/bin/sh\nchattr +i \"$GVA_OUTPUT\"/gvad/000001-a/result.json && sleep 0.5\n",
    );
    guest.script("c", TELL);
    let ended = guest.drain();
    assert_eq!(ended.code, Some(0), "{ended}");
    let results = guest.results();
    let runs: Vec<_> = results
        .iter()
        .map(|r| r["run_id"].as_str().unwrap())
        .collect();
    assert_eq!(runs, ["000001-a", "000002-b", "000003-c"]);
}

/// What an earlier script came to can be read by a later one.
#[test]
fn result_is_there_when_the_next_script_starts() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.script("a", TELL);
    guest.script(
        "b",
        "#!/bin/sh\ncat \"$GVA_OUTPUT\"/gvad/000001-a/result.json \"$GVA_OUTPUT\"/gvad/000001-a/stdout\n",
    );
    let ended = guest.drain();
    assert_eq!(ended.code, Some(0), "{ended}");
    let stdout = guest.run_file(&guest.result("b"), "stdout");
    let stdout = String::from_utf8(stdout).unwrap();
    assert!(
        stdout.contains("\"outcome\": \"exited\"") && stdout.ends_with("out\n"),
        "{stdout}"
    );
}

#[test]
fn claim_is_durable_before_the_start_where_the_file_system_keeps_no_journal() {
    // ext4 may have been made without one.
    for fs in [Fs::Ext2, Fs::Ext4WithoutJournal] {
        let Some(guest) = Guest::on(fs) else {
            return;
        };
        claim_is_durable_before_the_start(&guest);
    }
}

fn claim_is_durable_before_the_start(guest: &Guest) {
    guest.add_output_image(Fs::Ext4);
    guest.script("only.sh", TELL);
    let trace = Trace::of(guest);
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
