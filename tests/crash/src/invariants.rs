//! The invariants, each looked for by itself. A complaint begins with the number of the one that does not hold; the README lists them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::process::Command;

use crate::check::{Damage, count};
use crate::disk::{self, Found};
use crate::guest::{Fs, Guest};
use crate::left;
use crate::scripts::{FOREIGN, Script};

/// I4, of one result.
pub fn about_result(
    guest: &Guest,
    witness: &[String],
    found: &Found,
    damage: Damage,
    wrong: &mut Vec<String>,
) {
    let name = found.script.to_string_lossy().into_owned();
    let read = |file: &str| fs::read(found.dir.join(file)).unwrap_or_default();
    let (stdout, stderr) = (read("stdout"), read("stderr"));
    let mut candidates = guest.scripts.iter().filter(|one| one.name == found.script);
    match found.outcome() {
        "interrupted" => {}
        "not_started" => {
            let expected = candidates.clone().any(|script| script.exit_code.is_none());
            let untold = candidates.any(|script| count(witness, script.id) == 0);
            if !expected && (!damage.errors || !untold) {
                wrong.push(format!(
                    "I4: {name} is not_started: {}",
                    found.json["reason"]
                ));
            }
        }
        "exited" => {
            let flagged = |stream: &str| found.json[format!("{stream}_truncated")] == true;
            // With EROFS the application is used read-only, and nothing can be handed over there.
            let refused = |script: &Script| {
                let mut drops = guest.scripts.iter();
                damage.errors
                    && found.json["exit_code"] == 1
                    && drops.any(|drop| {
                        drop.dropped_by == Some(script.id)
                            && count(witness, &format!("dropping {}", drop.id)) == 0
                    })
            };
            let right = candidates.find(|script| {
                if refused(script) {
                    return count(witness, script.id) > 0 && stdout == script.stdout;
                }
                let whole = |stream: &str, have: &[u8], want: &[u8]| {
                    flagged(stream)
                        || (have == want && found.json[format!("{stream}_bytes")] == want.len())
                };
                script.exit_code == found.json["exit_code"].as_i64().map(|code| code as i32)
                    && script.exit_code.is_some()
                    && count(witness, script.id) > 0
                    && whole("stdout", &stdout, &script.stdout)
                    && whole("stderr", &stderr, &script.stderr)
            });
            if right.is_none() {
                wrong.push(format!(
                    "I4: the result of {name} is not what happened: {} ({} and {} bytes there)",
                    found.json,
                    stdout.len(),
                    stderr.len()
                ));
            }
        }
        other => wrong.push(format!("I4: {name} is {other}: {}", found.json["reason"])),
    }
}

/// I1, I2, I5: how often each was started, and how many results it has.
pub fn about_numbers(
    guest: &Guest,
    witness: &[String],
    results: &[Found],
    damage: Damage,
    wrong: &mut Vec<String>,
) {
    for script in &guest.scripts {
        let starts = count(witness, script.id);
        let most = if guest.kind.rerun {
            (1 + damage.crashes).min(3)
        } else {
            1
        };
        if starts > most {
            wrong.push(format!("I1: {} was started {starts} times", script.id));
        }
    }
    let mut by_name: BTreeMap<&OsString, Vec<&Found>> = BTreeMap::new();
    for script in &guest.scripts {
        by_name.entry(&script.name).or_default();
    }
    for found in results {
        by_name.entry(&found.script).or_default().push(found);
    }
    for (name, mut found) in by_name {
        if guest.kind.rerun {
            found.sort_by_key(|result| result.attempt());
            let twice = found
                .windows(2)
                .any(|two| two[0].attempt() == two[1].attempt());
            let last = found.pop();
            // Nothing is struck so often that no attempt is left.
            if last.is_some_and(|result| result.outcome() == "interrupted") {
                wrong.push(format!(
                    "I2: {} was interrupted and is not started again",
                    name.to_string_lossy()
                ));
            }
            if twice || found.iter().any(|result| result.outcome() != "interrupted") {
                wrong.push(format!(
                    "I1: too many results of {}",
                    name.to_string_lossy()
                ));
            }
            found = last.into_iter().collect();
        }
        let of_name = guest.scripts.iter().filter(|script| script.name == *name);
        let (mut least, mut most) = (0, 0);
        for script in of_name {
            let told = |verb: &str| count(witness, &format!("{verb} {}", script.id));
            least += if script.dropped_by.is_none() {
                1
            } else {
                told("dropped")
            };
            most += if script.dropped_by.is_none() {
                1
            } else {
                told("dropping")
            };
        }
        if found.len() < least || found.len() > most {
            wrong.push(format!(
                "I2: {} has {} results, not {least} to {most}",
                name.to_string_lossy(),
                found.len()
            ));
        }
    }
    let interrupted = results
        .iter()
        .filter(|found| found.outcome() == "interrupted");
    let interrupted: Vec<_> = interrupted.map(|found| &found.script).collect();
    if interrupted.len() > damage.crashes {
        wrong.push(format!(
            "I5: {interrupted:?} are interrupted by {} crashes",
            damage.crashes
        ));
    }
}

/// I6: nothing is left in the machine.
pub fn about_machine(guest: &Guest, wrong: &mut Vec<String>) {
    if left::group_parent().is_some() {
        let groups = left::groups(&guest.group_prefix());
        if !groups.is_empty() {
            wrong.push(format!("I6: control groups are left: {groups:?}"));
        }
        let processes = left::processes(&guest.dir);
        if !processes.is_empty() {
            wrong.push(format!("I6: processes are left: {processes:?}"));
        }
    }
    let copies: Vec<_> = disk::names(&guest.dir.join("state"))
        .into_iter()
        .filter(|name| name.to_string_lossy().starts_with("run-"))
        .collect();
    if !copies.is_empty() {
        wrong.push(format!("I6: private directories are left: {copies:?}"));
    }
    let mounts = guest.mounts();
    if !mounts.is_empty() {
        wrong.push(format!("I6: mounts are left: {mounts:?}"));
    }
    if let Err(err) = guest.wait_for_detached() {
        wrong.push(format!("I6: {err:#}"));
    }
}

/// I6, I9: in the output there is nothing but whole runs, the ledger and the status.
pub fn about_output(out: &Path, wrong: &mut Vec<String>) {
    let gvad = out.join("gvad");
    for name in disk::names(&gvad) {
        if disk::is_run(&name) {
            let run = gvad.join(&name);
            if !run.join("result.json").exists() {
                wrong.push(format!("I2: {} has no result", name.to_string_lossy()));
            }
            if run.join(".result.json.tmp").exists() {
                wrong.push(format!(
                    "I6: {} has an unfinished result",
                    name.to_string_lossy()
                ));
            }
        } else if name != "ledger" && name != "status.json" {
            wrong.push(format!("I9: the output has {}", name.to_string_lossy()));
        }
    }
}

/// I6, I10: no claims, and what is no script is as it was.
pub fn about_script_bin(guest: &Guest, app: &Path, wrong: &mut Vec<String>) {
    let bin = app.join("script-bin");
    let claims = bin.join(".gvad");
    let claimed: Vec<_> = disk::names(&claims)
        .iter()
        .flat_map(|ledger| disk::names(&claims.join(ledger)))
        .collect();
    if !claimed.is_empty() {
        wrong.push(format!("I6: claims are left: {claimed:?}"));
    }
    let read_only = guest.kind.layout.read_only();
    for script in &guest.scripts {
        if bin.join(&script.name).exists() != (read_only && script.dropped_by.is_none()) {
            let said = if read_only { "is gone" } else { "still waits" };
            wrong.push(format!("I2: {} {said}", script.id));
        }
    }
    let kinds = FOREIGN.map(|name| {
        bin.join(name)
            .symlink_metadata()
            .is_ok_and(|look| match name {
                "00-fifo" => look.file_type().is_fifo(),
                "00-link" => look.is_symlink(),
                "00-dir" => look.is_dir(),
                _ => look.is_file() && look.len() == 10,
            })
    });
    if kinds.contains(&false) {
        wrong.push("I10: what is no script was touched".to_owned());
    }
}

/// I8: the scripts that lay there from the beginning start in the order of their names.
pub fn about_order(guest: &Guest, witness: &[String], wrong: &mut Vec<String>) {
    let first = guest
        .scripts
        .iter()
        .filter(|script| script.dropped_by.is_none());
    let places = first.filter_map(|script| witness.iter().position(|line| line == script.id));
    if !places.is_sorted() {
        wrong.push(format!("I8: started in another order: {witness:?}"));
    }
}

/// I9: file systems are whole.
pub fn about_file_systems(guest: &Guest, wrong: &mut Vec<String>) {
    for image in guest.kind.layout.files() {
        about_file_system(guest.kind.fs, &guest.dir.join(image), wrong);
    }
}

/// I9, of one image that is not mounted and has no journal to replay.
pub fn about_file_system(fs: Fs, image: &Path, wrong: &mut Vec<String>) {
    let mut fsck = match fs {
        Fs::Ext4 => Command::new("e2fsck"),
        Fs::Xfs => Command::new("xfs_repair"),
    };
    if fs == Fs::Ext4 {
        fsck.arg("-f");
    }
    match fsck.arg("-n").arg(image).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => wrong.push(format!(
            "I9: {}: {}{}",
            image.display(),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )),
        Err(err) => wrong.push(format!("fsck: {err}")),
    }
}
