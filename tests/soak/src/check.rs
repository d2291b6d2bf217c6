//! Outside: each script that was handed over is accounted for exactly once.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde_json::Value;

use crate::drive::{ISSUED, Report, report};
use crate::kinds::{End, Kind, of_name};

/// What was found.
pub(crate) struct Found {
    /// What the driver said.
    pub(crate) report: Report,
    /// How often each outcome came.
    pub(crate) outcomes: BTreeMap<String, u64>,
    /// Scripts that were to be accounted for.
    pub(crate) scripts: u64,
    /// What is wrong, a line each.
    pub(crate) wrong: Vec<String>,
}

/// Looks at the two images' trees.
pub(crate) fn check(application: &Path, output: &Path) -> anyhow::Result<Found> {
    let report = report(output)?;
    let starts = lines(&application.join("witness"))?;
    let results = results(&output.join("gvad"))?;
    let mut found = Found {
        report,
        outcomes: BTreeMap::new(),
        scripts: 0,
        wrong: Vec::new(),
    };
    let mut interrupted = 0;
    let mut expected: HashMap<String, &'static Kind> = HashMap::new();
    for name in lines(&output.join(ISSUED))?.into_keys() {
        let (kind, _) =
            of_name(OsStr::new(&name)).with_context(|| format!("{name} is of no kind"))?;
        // A script that gvad's death cut short may not have come to handing over its own.
        if kind.drops && starts.contains_key(&name) {
            let dropped = format!("{name}.d");
            let cut_short = outcome(results.get(&name)) == Some("interrupted");
            if !cut_short || starts.contains_key(&dropped) || results.contains_key(&dropped) {
                expected.insert(dropped, kind);
            }
        }
        expected.insert(name, kind);
    }
    for (name, kind) in &expected {
        found.scripts += 1;
        let of = results.get(name).map_or(&[][..], Vec::as_slice);
        let started = starts.get(name).copied().unwrap_or(0);
        let told = outcome(results.get(name)).unwrap_or("no result");
        *found.outcomes.entry(told.to_owned()).or_default() += 1;
        let dropped = name.ends_with(".d");
        let ended = if dropped { End::Exits(0) } else { kind.end };
        let notes = dropped || kind.notes();
        let right = if told == "interrupted" {
            interrupted += 1;
            of.len() == 1 && started <= 1
        } else if ended == End::PassedOver {
            of.is_empty() && started == 0
        } else {
            of.len() == 1
                && started == u64::from(notes)
                && of.iter().all(|result| fits(result, ended))
        };
        if !right {
            found.wrong.push(format!(
                "{name}: started {started} times, {} results: {}",
                of.len(),
                short(of)
            ));
        }
    }
    for name in results.keys().filter(|name| !expected.contains_key(*name)) {
        // Who starts the driver is a script too.
        if name != crate::machine::STARTER {
            found
                .wrong
                .push(format!("{name}: has a result, and was not handed over"));
        }
    }
    if interrupted > found.report.kills {
        found.wrong.push(format!(
            "{interrupted} are interrupted, and gvad was killed {} times",
            found.report.kills
        ));
    }
    found
        .wrong
        .extend(found.report.before.leaked(&found.report.after));
    Ok(found)
}

fn fits(result: &Value, end: End) -> bool {
    let outcome = result["outcome"].as_str().unwrap_or_default();
    match end {
        End::Exits(status) => outcome == "exited" && result["exit_code"] == status,
        End::Signal(name) => outcome == "signaled" && result["signal"] == name,
        End::TimesOut => outcome == "timed_out",
        End::Somehow => matches!(outcome, "exited" | "signaled" | "timed_out"),
        End::NotStarted => outcome == "not_started" && result["reason"].is_string(),
        End::PassedOver => false,
    }
}

fn outcome(results: Option<&Vec<Value>>) -> Option<&str> {
    results?.first()?["outcome"].as_str()
}

fn short(results: &[Value]) -> String {
    let each = results.iter().map(|result| {
        format!(
            "{} {} {} {}",
            result["outcome"], result["exit_code"], result["signal"], result["reason"]
        )
    });
    each.collect::<Vec<_>>().join("; ")
}

/// How often each line is in a file.
fn lines(file: &Path) -> anyhow::Result<HashMap<String, u64>> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let mut lines = HashMap::new();
    text.lines()
        .for_each(|line| *lines.entry(line.to_owned()).or_default() += 1);
    Ok(lines)
}

/// The results by the name of their script.
fn results(gvad: &Path) -> anyhow::Result<HashMap<String, Vec<Value>>> {
    let mut results: HashMap<String, Vec<Value>> = HashMap::new();
    for entry in fs::read_dir(gvad).context("listing the results")? {
        let entry = entry.context("listing the results")?;
        let is_run = entry
            .file_name()
            .as_encoded_bytes()
            .first()
            .is_some_and(u8::is_ascii_digit);
        if !is_run || !entry.file_type().context("listing the results")?.is_dir() {
            continue;
        }
        let path = entry.path().join("result.json");
        // What a script left where its run directory had been has no result.
        let Ok(json) = fs::read(&path) else { continue };
        let result: Value = serde_json::from_slice(&json)
            .with_context(|| format!("{} is damaged", path.display()))?;
        let name = result["script"].as_str().unwrap_or_default().to_owned();
        results.entry(name).or_default().push(result);
    }
    Ok(results)
}
