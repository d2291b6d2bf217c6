//! When what is looked for: after the strike, after a start and a drain, after one more.

use std::ffi::OsStr;
use std::path::Path;

use crate::disk::{self, Look, Snapshot};
use crate::guest::{Ended, Guest};
use crate::invariants::{
    about_file_systems, about_machine, about_numbers, about_order, about_output, about_result,
    about_script_bin,
};
use crate::scripts::Script;
use crate::trace::Traced;

/// No log of one gvad is longer, in bytes (I11).
const LONGEST_LOG: usize = 64 * 1024;

/// What was done to gvad, and so how much may be wrong for a while.
#[derive(Debug, Clone, Copy)]
pub struct Damage {
    /// So many scripts may be `interrupted`.
    pub crashes: usize,
    /// System calls failed: a script may not have been started for it, or be passed over until the next start.
    pub errors: bool,
}

/// Looks at what gvad left when it was struck, before anybody recovers it.
pub fn struck(guest: &Guest, traced: &Traced, log: &str, damage: Damage) -> Vec<String> {
    let mut wrong = Vec::new();
    about_log(log, &mut wrong);
    if traced.timed_out {
        wrong.push("it hangs: it had to be killed".to_owned());
    }
    if traced.code == Some(2) && !(log.contains("gvad: ") || log.contains("ERROR")) {
        wrong.push("it failed and does not say why".to_owned());
    }
    let witness = guest.witness();
    let looked = guest.look(|app, out| {
        lying(guest, (app, out), &witness, damage, &mut wrong);
        if traced.code == Some(0) {
            about_all_done(guest, out, &mut wrong);
        }
        Ok(())
    });
    // What failed may have been the end of a script, which then keeps an image in use.
    if let Err(err) = looked
        && !damage.errors
    {
        wrong.push(format!("I9: the images cannot be looked at: {err:#}"));
    }
    wrong
}

/// Looks at application and output before anybody recovers them.
pub fn lying(
    guest: &Guest,
    (app, out): (&Path, &Path),
    witness: &[String],
    damage: Damage,
    wrong: &mut Vec<String>,
) {
    let ledger = disk::ledger(out, wrong);
    let results = disk::results(out, wrong);
    let marks: Vec<_> = ledger
        .iter()
        .filter(|line| line["start"].is_object())
        .map(|line| disk::script_name(&line["start"]["identity"]))
        .collect();
    let kept = disk::kept(&ledger).into_iter();
    let kept: Vec<_> = kept
        .map(|kept| disk::script_name(&kept["result"]))
        .collect();
    for script in &guest.scripts {
        if count(witness, script.id) > 0 && !marks.contains(&script.name) {
            wrong.push(format!("I3: {} was started without a mark", script.id));
        }
        let has_result =
            results.iter().any(|found| found.script == script.name) || kept.contains(&script.name);
        if script.dropped_by.is_none() && !has_result && !lies(app, script) {
            wrong.push(format!("I2: {} vanished", script.id));
        }
    }
    for found in &results {
        about_result(guest, witness, found, damage, wrong);
    }
}

/// Whoever says that all is done has a result of everything.
pub fn about_all_done(guest: &Guest, out: &Path, wrong: &mut Vec<String>) {
    let results = disk::results(out, wrong);
    let first = guest
        .scripts
        .iter()
        .filter(|script| script.dropped_by.is_none());
    for script in first {
        if !results.iter().any(|found| found.script == script.name) {
            wrong.push(format!("exit status 0, and {} has no result", script.id));
        }
    }
}

/// Looks at what a start and a drain made of it, and gives what a further one must not change.
pub fn recovered(
    guest: &Guest,
    ended: &Ended,
    damage: Damage,
) -> (Vec<String>, Option<(Snapshot, Vec<String>)>) {
    let mut wrong = Vec::new();
    about_log(&ended.log, &mut wrong);
    if ended.timed_out {
        wrong.push("recovery hangs: it had to be killed".to_owned());
    }
    if !matches!(ended.code, Some(0 | 1)) {
        wrong.push(format!(
            "recovery ends with {:?}: {}",
            ended.code,
            last_line(&ended.log)
        ));
    }
    about_machine(guest, &mut wrong);
    let witness = guest.witness();
    let kept = guest.look(|app, out| {
        let results = disk::results(out, &mut wrong);
        for found in &results {
            about_result(guest, &witness, found, damage, &mut wrong);
        }
        about_numbers(guest, &witness, &results, damage, &mut wrong);
        about_output(out, &mut wrong);
        about_script_bin(guest, app, &mut wrong);
        disk::ledger(out, &mut wrong);
        let mut kept = Snapshot::new();
        disk::snapshot(&out.join("gvad"), &mut kept);
        disk::snapshot(&app.join("script-bin"), &mut kept);
        Ok(kept)
    });
    if !damage.errors {
        about_order(guest, &witness, &mut wrong);
    }
    match kept {
        Ok(kept) => (wrong, Some((kept, witness))),
        Err(err) => {
            wrong.push(format!("I9: the images cannot be looked at: {err:#}"));
            (wrong, None)
        }
    }
}

/// Looks whether a further start changed anything.
pub fn unchanged(guest: &Guest, ended: &Ended, before: &Snapshot, told: &[String]) -> Vec<String> {
    let mut wrong = Vec::new();
    if ended.code != Some(0) {
        wrong.push(format!(
            "I7: a further start ends with {:?}: {}",
            ended.code,
            last_line(&ended.log)
        ));
    }
    if guest.witness() != told {
        wrong.push("I7: a further start starts a script".to_owned());
    }
    about_machine(guest, &mut wrong);
    let looked = guest.look(|app, out| {
        let mut now = Snapshot::new();
        disk::snapshot(&out.join("gvad"), &mut now);
        disk::snapshot(&app.join("script-bin"), &mut now);
        // An image may be looked at in another place.
        if files(&now) != files(before) {
            let changed = now
                .iter()
                .filter(|(path, _)| now.get(*path) != before.get(*path));
            let paths: Vec<_> = changed.map(|(path, _)| path).collect();
            wrong.push(format!("I7: a further start changes {paths:?}"));
        }
        Ok(())
    });
    if let Err(err) = looked {
        wrong.push(format!("I9: the images cannot be looked at: {err:#}"));
    }
    about_file_systems(guest, &mut wrong);
    wrong
}

fn files(snapshot: &Snapshot) -> Vec<(Option<&OsStr>, &Look)> {
    snapshot
        .iter()
        .map(|(path, look)| (path.file_name(), look))
        .collect()
}

fn last_line(log: &str) -> &str {
    log.trim_end().lines().last().unwrap_or("")
}

/// How often a script told that it runs.
pub fn count(witness: &[String], id: &str) -> usize {
    witness.iter().filter(|line| *line == id).count()
}

/// Whether a script waits in script-bin or is claimed.
fn lies(app: &Path, script: &Script) -> bool {
    let bin = app.join("script-bin");
    let claims = disk::names(&bin.join(".gvad"));
    let claimed = claims
        .iter()
        .any(|ledger| bin.join(".gvad").join(ledger).join(&script.name).exists());
    claimed || bin.join(&script.name).exists()
}

fn about_log(log: &str, wrong: &mut Vec<String>) {
    if log.contains("panicked") {
        wrong.push("it panicked".to_owned());
    }
    if log.len() > LONGEST_LOG {
        wrong.push(format!("I11: a log of {} bytes", log.len()));
    }
}
