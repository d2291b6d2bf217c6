//! `gvad results`: the results under an output directory, for people as a table, for programs as JSON lines.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, bail};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use crate::ledger::Ledger;
use crate::ledger::kept::Kept;
use crate::name::shown;
use crate::outcome::RunResult;
use crate::owner::OWNER;
use crate::record::{self, DIRECTORY, run_directories};
use crate::sys::dir::Dir;

/// One run directory.
#[derive(Debug)]
pub struct Entry {
    /// Name of the run; behind the name of its directory, if that is another guest's on a share.
    pub run_id: String,
    /// Its result; `None` while it runs, or if it was cut off and no gvad has been started since.
    pub result: Option<RunResult>,
}

/// Reads the results under `directory`, which is an output directory or the `gvad` directory in it, by run number.
///
/// # Errors
/// It is neither, or cannot be read.
pub fn read(directory: &Path) -> anyhow::Result<Vec<Entry>> {
    let top = Dir::open(directory).with_context(|| format!("opening {}", directory.display()))?;
    // On a share each guest has a directory of its own.
    let others = format!("{DIRECTORY}-");
    let mut names = top.names().context("listing the output directory")?;
    names.retain(|name| name == DIRECTORY || name.as_bytes().starts_with(others.as_bytes()));
    names.sort_unstable();
    let (mut entries, mut found) = (Vec::new(), false);
    for name in &names {
        let path = directory.join(name);
        let gvad = match top.open_dir(name) {
            Ok(gvad) => gvad,
            // A file, or a link: none of gvad's.
            Err(err) if name != DIRECTORY && record::is_ruined(&err) => continue,
            Err(err) => return Err(err).with_context(|| format!("opening {}", path.display())),
        };
        let before = (name != DIRECTORY).then(|| format!("{}/", shown(name)));
        match runs_in(&gvad, &path, before.as_deref().unwrap_or_default()) {
            Err(_) if name != DIRECTORY => {}
            other => {
                entries.extend(other?);
                found = true;
            }
        }
    }
    if found {
        Ok(entries)
    } else {
        runs_in(&top, directory, "")
    }
}

/// The runs in a `gvad` directory; `before` is put before their names.
fn runs_in(gvad: &Dir, directory: &Path, before: &str) -> anyhow::Result<Vec<Entry>> {
    let mut runs: Vec<(u64, OsString)> =
        run_directories(gvad).context("listing the run directories")?;
    let known = |name: &str| gvad.look(name.as_ref()).is_ok();
    if runs.is_empty() && !known("ledger") && !known("status.json") && !known(OWNER) {
        bail!(
            "{} is no output directory of gvad: there is neither gvad/ in it nor a run directory",
            directory.display()
        );
    }
    runs.sort_unstable();
    let entries = runs.into_iter().map(|(_, name)| {
        let run_id = format!("{before}{}", shown(&name));
        let result = record::result_of(gvad, &name)
            .with_context(|| format!("reading the result of {run_id}"))?;
        Ok(Entry { run_id, result })
    });
    let mut entries = entries.collect::<anyhow::Result<Vec<Entry>>>()?;
    add_kept(&mut entries, Ledger::kept_in(gvad), before);
    Ok(entries)
}

/// Adds what a ledger keeps: results that have not become files since the machine died. `before` is put before their names.
pub fn add_kept(entries: &mut Vec<Entry>, kept: Vec<Kept>, before: &str) {
    let names = entries.iter().enumerate();
    let places: HashMap<String, usize> = names
        .map(|(place, entry)| (entry.run_id.clone(), place))
        .collect();
    for Kept { result, .. } in kept {
        let run_id = format!("{before}{}", shown(result.run_id.as_ref()));
        match places
            .get(&run_id)
            .and_then(|&place| entries.get_mut(place))
        {
            Some(entry) => {
                entry.result.get_or_insert(result);
            }
            None => entries.push(Entry {
                run_id,
                result: Some(result),
            }),
        }
    }
}

/// Writes the results as JSON, one a line. A run without a result has no line.
///
/// # Errors
/// `out` cannot be written.
pub fn write_json(entries: &[Entry], out: &mut impl Write) -> anyhow::Result<()> {
    for result in entries.iter().filter_map(|entry| entry.result.as_ref()) {
        serde_json::to_writer(&mut *out, result)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// Writes the results as a table, with a last line that counts them.
///
/// # Errors
/// `out` cannot be written.
pub fn write_table(entries: &[Entry], out: &mut impl Write) -> anyhow::Result<()> {
    if entries.is_empty() {
        writeln!(out, "no results yet")?;
        return Ok(());
    }
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header([
        "RUN", "OUTCOME", "DETAIL", "STARTED", "DURATION", "STDOUT", "STDERR", "REASON",
    ]);
    for entry in entries {
        table.add_row(match &entry.result {
            Some(result) => row(&entry.run_id, result),
            None => [entry.run_id.clone(), "no result yet".to_owned()]
                .into_iter()
                .chain(vec![String::new(); 6])
                .collect(),
        });
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for column in [4, 5, 6] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    let succeeded = entries
        .iter()
        .filter(|entry| entry.result.as_ref().is_some_and(|result| result.success))
        .count();
    let open = entries
        .iter()
        .filter(|entry| entry.result.is_none())
        .count();
    let failed = entries.len() - succeeded - open;
    write!(
        out,
        "\n{} run{}: {succeeded} succeeded, {failed} failed",
        entries.len(),
        if entries.len() == 1 { "" } else { "s" }
    )?;
    if open > 0 {
        write!(out, ", {open} without a result")?;
    }
    writeln!(out)?;
    Ok(())
}

/// A script is root and may have written its result itself: nothing in it reaches a terminal as it is.
fn row(run_id: &str, result: &RunResult) -> Vec<String> {
    let plain = |text: &str| shown(text.as_ref());
    let truncated =
        |bytes: u64, cut: bool| format!("{}{}", size(bytes), if cut { " (cut)" } else { "" });
    vec![
        run_id.to_owned(),
        result.outcome.to_string(),
        plain(&result.detail()),
        plain(result.started_at.as_deref().unwrap_or_default()),
        result.duration_ms.map(duration).unwrap_or_default(),
        truncated(result.stdout_bytes, result.stdout_truncated),
        truncated(result.stderr_bytes, result.stderr_truncated),
        plain(result.reason.as_deref().unwrap_or_default()),
    ]
}

fn duration(millis: u64) -> String {
    match millis {
        0..60_000 => format!("{}.{:03} s", millis / 1000, millis % 1000),
        _ => humantime::format_duration(std::time::Duration::from_secs(millis / 1000)).to_string(),
    }
}

fn size(bytes: u64) -> String {
    let units = [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.iter().find(|(_, factor)| bytes >= *factor) {
        Some((unit, factor)) => {
            format!("{}.{} {unit}", bytes / factor, bytes % factor * 10 / factor)
        }
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::ScriptName;
    use crate::outcome::Outcome;

    #[test]
    fn what_the_ledger_alone_has_is_shown_too() {
        use crate::ledger::kept::{Kept, Printed};
        use crate::ledger::line::{Line, encode};
        let output = tempfile::tempdir().unwrap();
        let gvad = output.path().join("gvad");
        std::fs::create_dir_all(gvad.join("000001-a")).unwrap();
        let result = |run_id: &str| {
            let name = ScriptName::of("a".as_ref());
            RunResult::unseen(run_id.to_owned(), name, Outcome::Exited, String::new())
        };
        let kept = |run, run_id| {
            let (result, stdout) = (result(run_id), Printed::default());
            let stderr = stdout.clone();
            Line::Result(Kept {
                run,
                result,
                stdout,
                stderr,
            })
        };
        let head = Line::Ledger {
            id: "x".to_owned(),
            schema: 1,
        };
        let lines = [head, kept(1, "000001-a"), kept(2, "000002-a")];
        let bytes: Vec<u8> = lines
            .iter()
            .flat_map(|line| encode(line).unwrap())
            .collect();
        std::fs::write(gvad.join("ledger"), bytes).unwrap();
        let entries = read(output.path()).unwrap();
        let there: Vec<_> = entries.iter().map(|entry| entry.result.clone()).collect();
        assert_eq!(there, [Some(result("000001-a")), Some(result("000002-a"))]);
    }

    #[test]
    fn no_result_can_break_a_line_of_the_table_or_speak_to_the_terminal() {
        let evil = "a\n000002-b  exited\x1b[2J\r";
        let result = RunResult {
            signal: Some(evil.to_owned()),
            started_at: Some(evil.to_owned()),
            ..RunResult::unseen(
                evil.to_owned(),
                ScriptName::of("a".as_ref()),
                Outcome::Signaled,
                evil.to_owned(),
            )
        };
        let output = tempfile::tempdir().unwrap();
        let run = output.path().join("gvad").join("000001-a\n\x1b[2J");
        std::fs::create_dir_all(&run).unwrap();
        let json = serde_json::to_vec(&result).unwrap();
        std::fs::write(run.join("result.json"), json).unwrap();
        let mut table = Vec::new();
        write_table(&read(output.path()).unwrap(), &mut table).unwrap();
        let table = String::from_utf8(table).unwrap();
        assert_eq!(table.lines().count(), 4, "{table}");
        assert!(
            !table.replace('\n', "").contains(char::is_control),
            "{table:?}"
        );
        assert!(
            table.contains("a\\n000002-b  exited\\u{1b}[2J\\r"),
            "{table}"
        );
    }
}
