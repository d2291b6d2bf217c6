//! What recovery decides: from what a start mark says and what was found on the images to what is done, in this order. Pure, so that any state
//! whatever can be tried on it. Every list may be cut short behind any of its actions: the next recovery makes of the rest what is right.

use std::ffi::{OsStr, OsString};

use super::Resumed;
use crate::config::{OnInterrupted, Run};
use crate::ledger::kept::Kept;
use crate::ledger::line::{Identity, Start};
use crate::name::{ScriptName, run_id};
use crate::outcome::{Outcome, RunResult};

/// One thing that recovery does to the images.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Notes in the ledger that a run has come to its end.
    End {
        /// Its number.
        run: u64,
        /// The script is to be started again.
        again: bool,
    },
    /// Makes files, and those durable, of a result that the ledger kept.
    File(Box<Kept>),
    /// Notes in the ledger that the results of all runs up to this one are durable as files.
    Filed(u64),
    /// Makes what was noted durable.
    Sync,
    /// Writes a start mark, durably.
    Mark(Box<Start>),
    /// Makes a result durable.
    Record(Box<RunResult>),
    /// Removes the run directory of a script that was not started.
    RemoveDirectory(OsString),
    /// Moves a script from script-bin to the claims.
    Claim(OsString),
    /// Deletes a script in script-bin.
    DeleteScript(OsString),
    /// Deletes a claimed script.
    DeleteClaim(OsString),
    /// Deletes a script that was claimed for another ledger.
    DeleteForeign(OsString, OsString),
}

/// What is known of a file's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Bytes {
    /// Nothing hangs on them.
    NotRead,
    /// They cannot be read.
    Unreadable,
    /// Their hash.
    Sha256(String),
}

impl Bytes {
    /// Whether they are those that were run. What is not known, of the file or of the run, counts as the same: what may have been started is not
    /// started again.
    fn are_of(&self, start: &Start) -> bool {
        match self {
            Bytes::NotRead | Bytes::Unreadable => true,
            Bytes::Sha256(hash) => start.sha256.is_empty() || *hash == start.sha256,
        }
    }
}

/// A start mark, and whether its script is to be started again.
type Mark = (Start, bool);

const STARTED_AGAIN: &str =
    "gvad or the machine died while it may have been running; it is started again";
const LEDGER_LOST: &str = "the ledger was lost: it may have been running; it is not run again";
/// Why a script that was claimed for another ledger is not run.
const FOREIGN: &str = "it was claimed by a gvad that wrote to another output image or lost its ledger: \
                       it may have been started; it is not run again";

/// A start mark without an end comes to one. `recorded`: its result is there; `pending`: or is known, since it could not be recorded before.
pub(super) fn close_started(
    start: &Start,
    recorded: bool,
    pending: Option<&RunResult>,
    rule: &Run,
    boot_id: &str,
) -> Vec<Action> {
    let end = |again| Action::End {
        run: start.run,
        again,
    };
    if recorded {
        return vec![end(false)];
    }
    if start.unstarted {
        let directory = Action::RemoveDirectory(OsString::from(&start.run_id));
        return vec![directory, end(true)];
    }
    if let Some(result) = pending {
        return vec![Action::Record(Box::new(result.clone())), end(false)];
    }
    let again = rule.on_interrupted == OnInterrupted::Rerun && start.attempt < rule.max_attempts;
    let died = if start.boot_id == boot_id {
        "gvad died, or could not record a result,"
    } else {
        "the machine or gvad died"
    };
    let next = if again {
        let (attempt, most) = (start.attempt + 1, rule.max_attempts);
        format!("it is started again, attempt {attempt} of {most}")
    } else {
        "it is not run again".to_owned()
    };
    let reason = format!("{died} while it may have been running; {next}");
    let record = Action::Record(Box::new(interrupted(start, reason)));
    if again {
        // Said before the result is there: a crash between the two must not take the next attempt away.
        vec![end(true), Action::Sync, record]
    } else {
        vec![record, end(false)]
    }
}

fn interrupted(start: &Start, reason: String) -> RunResult {
    RunResult {
        sha256: Some(start.sha256.clone()),
        attempt: start.attempt,
        started_at: Some(start.started_at.clone()),
        boot_id: start.boot_id.clone(),
        ..RunResult::unseen(
            start.run_id.clone(),
            start.identity.name.clone(),
            Outcome::Interrupted,
            reason,
        )
    }
}

/// A run directory without a result, of a run that is not settled: its script was not started, or its start mark was lost, or is one of `marks`.
pub(super) fn close_directory(
    marks: &[Mark],
    lost: u64,
    run: u64,
    directory: &OsStr,
) -> Option<Action> {
    let text = directory.to_string_lossy();
    let mark = marks.iter().find(|(start, _)| start.run_id == text);
    match mark.filter(|(start, _)| !start.unstarted) {
        // Its end was noted, so it was interrupted and is started again, but the result did not reach the disk.
        Some((start, true)) => {
            let result = interrupted(start, STARTED_AGAIN.to_owned());
            Some(Action::Record(Box::new(result)))
        }
        // Its result stands elsewhere: the script had made this directory unusable.
        Some((_, false)) => None,
        None if run <= lost => {
            let script = text.split_once('-').map_or("", |(_, script)| script);
            let result = RunResult::unseen(
                text.clone().into_owned(),
                ScriptName::of(OsStr::new(script)),
                Outcome::Interrupted,
                LEDGER_LOST.to_owned(),
            );
            Some(Action::Record(Box::new(result)))
        }
        None => Some(Action::RemoveDirectory(directory.to_owned())),
    }
}

/// A script that lies in script-bin under the name that a start mark has: is it the one that was started, whose claim did not reach the disk?
pub(super) fn close_unmoved(
    (start, again): &Mark,
    there: &Identity,
    bytes: &Bytes,
) -> Option<Action> {
    let name = start.identity.name.file_name()?;
    if start.in_place || !start.identity.same(there) || !bytes.are_of(start) {
        return None;
    }
    Some(if *again {
        Action::Claim(name)
    } else {
        Action::DeleteScript(name)
    })
}

/// What becomes of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// It has a result.
    Delete,
    /// It is to be run.
    Resume(Resumed),
}

fn mark_of<'a>(marks: &'a [Mark], claim: &Identity) -> Option<&'a Mark> {
    let mut latest = marks.iter().rev();
    latest.find(|(start, _)| start.identity.same_file(claim))
}

/// Whether what becomes of a claim hangs on its bytes.
pub(super) fn is_in_question(marks: &[Mark], claim: &Identity) -> bool {
    // One that can be told from every other file is the one that was started, whatever was written to it since.
    mark_of(marks, claim).is_some_and(|(start, again)| !again && !start.identity.is_unmistakable())
}

/// A claim that has come to a result is deleted; another is resumed.
pub(super) fn close_claim(marks: &[Mark], name: &OsStr, claim: &Identity, bytes: &Bytes) -> Fate {
    let attempt = match mark_of(marks, claim) {
        Some((start, true)) => start.attempt.saturating_add(u32::from(!start.unstarted)),
        Some((start, false)) if bytes.are_of(start) => return Fate::Delete,
        Some((_, false)) | None => 1,
    };
    Fate::Resume(Resumed {
        name: name.to_owned(),
        attempt,
    })
}

/// Nobody knows whether a script that was claimed for another ledger was started. That is told with a start mark of its own, so that it is told once,
/// however often recovery is cut short.
pub(super) fn close_foreign(
    marks: &[Mark],
    ledger: &OsStr,
    name: &OsStr,
    claim: Identity,
    (run, boot_id, now): (u64, &str, String),
) -> Vec<Action> {
    let delete = Action::DeleteForeign(ledger.to_owned(), name.to_owned());
    let mut marks = marks.iter();
    if marks.any(|(start, again)| !again && start.identity.same_file(&claim)) {
        return vec![delete];
    }
    let start = Start {
        run,
        run_id: run_id(run, name),
        identity: claim,
        sha256: String::new(),
        attempt: 1,
        boot_id: boot_id.to_owned(),
        started_at: now,
        cgroup: None,
        in_place: false,
        unstarted: false,
    };
    let result = RunResult {
        boot_id: boot_id.to_owned(),
        ..RunResult::unseen(
            start.run_id.clone(),
            ScriptName::of(name),
            Outcome::Interrupted,
            FOREIGN.to_owned(),
        )
    };
    vec![
        Action::Mark(Box::new(start)),
        Action::Record(Box::new(result)),
        Action::End { run, again: false },
        Action::Sync,
        delete,
    ]
}
