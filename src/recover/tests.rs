//! Recovery on directories in any state, reached by a crash or not, killed between any two of its actions, once and again: no script is lost, and none
//! is started that may have been started.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::*;
use crate::claim::{CLAIMS, open_claims};
use crate::config::OnInterrupted;
use crate::ledger::kept::{Kept, Printed};
use crate::ledger::line::{Identity, Line, Medium, Start, encode};
use crate::name::{ScriptName, hex, run_id};
use crate::outcome::Outcome;
use crate::record::last_directory;
use crate::sys::dir::Dir;

use disk::Disk;
use states::{At, Directory, Script, State};

const ID: &str = "0000-ours";
const BOOT: &str = "this-boot";
/// Runs up to this one are settled.
const SETTLED: u64 = 3;

/// What stands on the disks.
struct World {
    state: State,
    root: tempfile::TempDir,
    pending: Vec<(String, RunResult)>,
    /// Of each script the identity that it had at its last start, and the number of that run.
    known: Vec<(Identity, u64)>,
    told: Vec<RunResult>,
}

fn name(index: usize) -> OsString {
    // One of them is no UTF-8.
    [&b"a.sh"[..], b"b\xff", b"-c", b"d d"].map(|name| OsStr::from_bytes(name).to_owned())[index]
        .clone()
}

fn bytes(index: usize) -> String {
    format!("#!/bin/sh\n# script {index}\n")
}

fn hash(text: &str) -> String {
    use sha2::{Digest, Sha256};
    hex(&Sha256::digest(text))
}

fn exited(run_id: &str, index: usize) -> RunResult {
    let name = ScriptName::of(&name(index));
    RunResult::unseen(
        run_id.to_owned(),
        name,
        Outcome::Exited,
        "as it was".to_owned(),
    )
}

impl World {
    fn medium(&self) -> Medium {
        let lasting_inodes = self.state.lasting_inodes;
        Medium {
            id: "ext4:1".to_owned(),
            lasting_inodes,
            keeps_journal: true,
        }
    }

    fn path(&self, at: At) -> PathBuf {
        let root = self.root.path();
        match at {
            At::ScriptBin => root.join("bin"),
            At::Claims => root.join("bin").join(CLAIMS).join(ID),
            At::OtherLedger => root.join("bin").join(CLAIMS).join("9999-other"),
            At::Nowhere => root.join("nowhere"),
        }
    }

    fn gvad(&self) -> PathBuf {
        self.root.path().join("output/gvad")
    }

    /// Whether a script of the state can be where it says.
    fn at(&self, script: &Script) -> At {
        match script.at {
            At::Claims | At::OtherLedger if !self.state.writable => At::ScriptBin,
            at => at,
        }
    }

    fn new(state: State) -> World {
        let place = Path::new("/dev/shm");
        let root = tempfile::tempdir_in(if place.is_dir() {
            place
        } else {
            Path::new("/tmp")
        })
        .unwrap();
        let mut world = World {
            state,
            root,
            pending: Vec::new(),
            known: Vec::new(),
            told: Vec::new(),
        };
        for at in [At::ScriptBin, At::Claims, At::OtherLedger, At::Nowhere] {
            fs::create_dir_all(world.path(at)).unwrap();
        }
        fs::create_dir_all(world.gvad()).unwrap();
        let mut lines = vec![
            Line::Ledger {
                id: ID.to_owned(),
                schema: 1,
            },
            Line::Settled { run: SETTLED },
        ];
        let mut run = SETTLED;
        for (index, script) in world.state.scripts.clone().iter().enumerate() {
            world.place(index, script, &mut run, &mut lines);
        }
        for _ in 0..world.state.strays {
            run += 1;
            world.run_directory(&run_id(run, OsStr::new("stray")), Directory::Empty, 0);
        }
        let mut ledger: Vec<u8> = lines
            .iter()
            .flat_map(|line| encode(line).unwrap())
            .collect();
        if world.state.ledger_lost {
            ledger[20] ^= 1;
        }
        // Little room, so that it is written anew now and then.
        ledger.resize(ledger.len().next_multiple_of(4096), 0);
        fs::write(world.gvad().join("ledger"), ledger).unwrap();
        world
    }

    fn run_directory(&self, run_id: &str, directory: Directory, index: usize) {
        let path = self.gvad().join(run_id);
        if directory == Directory::Missing {
            return;
        }
        fs::create_dir(&path).unwrap();
        for file in ["stdout", "stderr"] {
            fs::write(path.join(file), "").unwrap();
        }
        if directory == Directory::Result {
            let result = serde_json::to_vec(&exited(run_id, index)).unwrap();
            fs::write(path.join("result.json"), result).unwrap();
        } else {
            fs::write(path.join(".result.json.tmp"), [0; 100]).unwrap();
        }
    }

    fn identity(&self, at: At, index: usize) -> Identity {
        let look = Dir::open(&self.path(at))
            .unwrap()
            .look(&name(index))
            .unwrap();
        Identity::of(&self.medium(), &name(index), &look)
    }

    /// Makes a script, its start marks and its run directories.
    fn place(&mut self, index: usize, script: &Script, run: &mut u64, lines: &mut Vec<Line>) {
        let at = self.at(script);
        let first = self.path(if at == At::Nowhere {
            At::Nowhere
        } else {
            At::ScriptBin
        });
        let file = first.join(name(index));
        fs::write(&file, bytes(index)).unwrap();
        let mut identity = self.identity(if at == At::Nowhere { at } else { At::ScriptBin }, index);
        if !matches!(at, At::ScriptBin | At::Nowhere) {
            fs::rename(&file, self.path(at).join(name(index))).unwrap();
        }
        self.known.push((identity.clone(), 0));
        let Some(mark) = &script.mark else {
            return;
        };
        let mut sha256 = if mark.hash_known {
            hash(&bytes(index))
        } else {
            String::new()
        };
        // By its bytes alone another file can be told, where inodes do not last.
        let ended = mark.end == Some(false) && script.earlier == 0;
        let mistakable = ended
            && self.state.writable
            && !self.state.lasting_inodes
            && mark.hash_known
            && matches!(at, At::ScriptBin | At::Claims);
        if mark.other_file && mistakable {
            sha256 = hash("other bytes");
        } else if mark.other_file {
            identity.mtime.0 -= 100;
            identity.ctime.0 -= 100;
            identity.birth = identity.birth.map(|(secs, nanos)| (secs - 100, nanos));
        }
        for attempt in 1..=script.earlier + 1 {
            *run += 1;
            let last = attempt > script.earlier;
            let start = Start {
                run: *run,
                run_id: run_id(*run, &name(index)),
                identity: identity.clone(),
                sha256: sha256.clone(),
                attempt,
                boot_id: if mark.this_boot { BOOT } else { "another" }.to_owned(),
                started_at: "2026-01-01T00:00:00.000Z".to_owned(),
                cgroup: None,
                in_place: !self.state.writable,
                unstarted: last && mark.unstarted,
            };
            let directory = if last {
                mark.directory
            } else {
                Directory::Result
            };
            self.run_directory(&start.run_id, directory, index);
            if last && mark.pending && directory != Directory::Result && !mark.unstarted {
                let result = exited(&start.run_id, index);
                self.pending.push((ID.to_owned(), result));
            }
            let end = if last { mark.end } else { Some(true) };
            let run = *run;
            lines.extend([Line::Start(start.clone())]);
            lines.extend(end.map(|again| match mark.kept && last {
                true => Line::Result(Kept {
                    run,
                    result: exited(&start.run_id, index),
                    stdout: Printed(b"out".to_vec()),
                    stderr: Printed::default(),
                }),
                false => Line::End { run, again },
            }));
        }
        if let Some(known) = self.known.last_mut() {
            known.1 = *run;
        }
    }

    fn results(&self) -> BTreeMap<OsString, RunResult> {
        let gvad = Dir::open(&self.gvad()).unwrap();
        let runs = run_directories(&gvad).unwrap().into_iter();
        runs.filter_map(|(_, id)| {
            record::result_of(&gvad, &id)
                .unwrap()
                .map(|result| (id, result))
        })
        .collect()
    }

    /// Recovers, as a session does that begins; `kill`: after so many actions it is killed.
    fn recover(
        &mut self,
        kill: Option<usize>,
    ) -> anyhow::Result<(Vec<Resumed>, Vec<Action>, Ledger)> {
        let output = self.root.path().join("output");
        let mut output = OutputDir::open(Dir::open(&output)?, "gvad".into(), false)?;
        let last = last_directory(&output)?;
        let mut ledger = Ledger::open(output.gvad().try_clone()?, last)?.ledger;
        let dir = Dir::open(&self.path(At::ScriptBin))?;
        let script_bin = ScriptBin {
            claims: open_claims(&dir, ledger.id(), self.state.writable)?,
            dir,
            medium: self.medium(),
            sync_claims: false,
            shared: false,
        };
        let run = Run {
            on_interrupted: if self.state.rerun {
                OnInterrupted::Rerun
            } else {
                OnInterrupted::Report
            },
            max_attempts: self.state.max_attempts,
            ..Run::default()
        };
        let (mut actions, mut disk) = (Vec::new(), Disk::new(self));
        let mut before = |action: &Action| {
            disk.before(action, actions.last());
            actions.push(action.clone());
            if kill.is_some_and(|kill| actions.len() > kill) {
                anyhow::bail!("killed");
            }
            Ok(())
        };
        let recovery = Recovery {
            script_bin: &script_bin,
            output: &mut output,
            ledger: &mut ledger,
            run: &run,
            boot_id: BOOT,
            pending: &self.pending,
            results: &mut self.told,
            before: &mut before,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let done = runtime.block_on(recovery.recover());
        if done.is_err() && self.state.power {
            // script-bin is synced before the ledger, so that no delete is taken back then.
            disk.cut(actions.last() != Some(&Action::Sync));
        }
        done.map(|(resumed, _)| (resumed, actions, ledger))
    }
}

mod disk;
mod promises;
mod states;
