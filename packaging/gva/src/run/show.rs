//! What a person or a program sees while the machine runs: lines as things happen on standard error, or with `--json` on standard output.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use gvad::name::ScriptName;
use gvad::outcome::RunResult;
use gvad::report::event::{Event, Line};
use serde_json::json;

use super::follow::Follow;
use super::out::{Out, Stream};
use crate::say::{FAILED, one_line};

/// The progress line is no longer than a narrow terminal.
const COLUMNS: usize = 78;

/// Shows.
#[derive(Debug)]
pub(crate) struct Show {
    since: Instant,
    json: bool,
    quiet: bool,
    terminal: bool,
    colours: bool,
    /// The progress line is on the screen.
    progress: bool,
    out: Out,
}

#[derive(Debug, Clone, Copy)]
enum Colour {
    Plain,
    Good,
    Bad,
}

impl Show {
    /// Time begins here.
    pub(crate) fn new(json: bool, quiet: bool) -> io::Result<Show> {
        let terminal = io::stderr().is_terminal();
        Ok(Show {
            since: Instant::now(),
            json,
            quiet: quiet || json,
            terminal,
            colours: terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            progress: false,
            out: Out::new()?,
        })
    }

    /// Whether nobody reads what is shown.
    pub(crate) fn is_held_up(&self) -> bool {
        self.out.is_full()
    }

    /// When all that was said is written.
    pub(crate) async fn written(&self) {
        self.out.written().await;
    }

    /// How long it has been.
    pub(crate) fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// Something that gva did.
    pub(crate) fn say(&mut self, text: &str) {
        self.line(Colour::Plain, text);
    }

    /// Something that is wrong, whoever asked for quiet.
    pub(crate) fn warn(&mut self, text: &str) {
        self.clear();
        self.write(format!("gva: {}\n", one_line(text)));
    }

    /// Something that the guest told.
    pub(crate) fn event(&mut self, line: &Line) {
        if self.json {
            if let Ok(value) = serde_json::to_value(line) {
                self.out.write(Stream::Output, format!("{value}\n"));
            }
            return;
        }
        match &line.event {
            Event::Ready { gvad_version, .. } => {
                self.line(Colour::Plain, &format!("ready      gvad {gvad_version}"));
            }
            Event::Mounted { image } => {
                let (role, fstype, device) = (&image.role, &image.fstype, &image.device);
                self.line(
                    Colour::Plain,
                    &format!("mounted    {role}, {fstype} on {device}"),
                );
            }
            Event::Started { run_id, name, .. } => {
                self.line(
                    Colour::Plain,
                    &format!("started    {}", named(run_id, name)),
                );
            }
            Event::Finished { result } => self.finished(result),
            Event::Released { image, reason } => {
                let why = reason.as_deref().map(|why| format!(": {why}"));
                let why = why.unwrap_or_default();
                self.line(Colour::Plain, &format!("released   {}{why}", image.role));
            }
            Event::Drained { succeeded, failed } => {
                let text = format!("drained    {succeeded} succeeded, {failed} failed");
                self.line(Colour::Plain, &text);
            }
            Event::Stopping { .. } => self.line(Colour::Plain, "stopping"),
            Event::Error { message } => self.warn(&format!("the appliance says: {message}")),
            Event::Answer {
                ok: false, message, ..
            } => {
                let message = message.as_deref().unwrap_or("it did not say why");
                self.warn(&format!("the appliance refused: {message}"));
            }
            Event::Progress { .. }
            | Event::Heartbeat { .. }
            | Event::Status { .. }
            | Event::Answer { .. } => {}
        }
    }

    fn finished(&mut self, result: &RunResult) {
        let run = named(&result.run_id, &result.name);
        let time = result
            .duration_ms
            .map(|ms| format!("{}.{:03} s", ms / 1000, ms % 1000))
            .unwrap_or_default();
        if result.success {
            self.line(Colour::Good, &format!("succeeded  {run}  {time}"));
            return;
        }
        let reason = result.reason.as_deref().unwrap_or_default();
        let text = format!(
            "failed     {run}  {time}  {} {}  {reason}",
            result.outcome,
            result.detail()
        );
        self.line(Colour::Bad, text.trim_end());
    }

    /// The line that moves.
    pub(crate) fn progress(&mut self, follow: &Follow) {
        if self.quiet || !self.terminal {
            return;
        }
        let seconds = self.elapsed().as_secs();
        let what = match (&follow.running, &follow.boot_id) {
            (Some((run, Some(told))), _) => format!("{run}: {told}"),
            (Some((run, None)), _) => run.clone(),
            (None, None) => "booting".into(),
            (None, Some(_)) => "waiting".into(),
        };
        let text: String = one_line(&format!("{seconds:5} s  {what}"));
        let text: String = text.chars().take(COLUMNS).collect();
        self.write(format!("\r\u{1b}[K{text}"));
        self.progress = true;
    }

    /// Takes the progress line away.
    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.progress) {
            self.write("\r\u{1b}[K".into());
        }
    }

    fn write(&self, text: String) {
        self.out.write(Stream::Error, text);
    }

    fn line(&mut self, colour: Colour, text: &str) {
        if self.quiet {
            return;
        }
        self.clear();
        let (on, off) = match colour {
            Colour::Good if self.colours => ("\u{1b}[32m", "\u{1b}[0m"),
            Colour::Bad if self.colours => ("\u{1b}[31m", "\u{1b}[0m"),
            _ => ("", ""),
        };
        let seconds = self.elapsed().as_secs_f64();
        let text = one_line(text);
        self.write(format!("{seconds:8.2} s  {on}{text}{off}\n"));
    }

    /// The last line for programs.
    pub(crate) fn summary(
        &self,
        follow: &Follow,
        code: u8,
        accelerator: &str,
        problem: Option<&str>,
    ) {
        if self.json {
            let succeeded = follow
                .results
                .values()
                .filter(|result| result.success)
                .count();
            let millis = self.elapsed().as_millis();
            let summary = json!({
                "event": "summary", "exit": code, "succeeded": succeeded, "failed": follow.results.len() - succeeded,
                "events_lost": follow.lost, "duration_ms": u64::try_from(millis).unwrap_or(u64::MAX),
                "accelerator": accelerator, "problem": problem,
            });
            self.out.write(Stream::Output, format!("{summary}\n"));
        }
    }
}

/// The last line for programs where nothing was run.
pub(crate) fn refused(problem: &str) {
    let summary = json!({
        "event": "summary", "exit": FAILED, "succeeded": 0, "failed": 0, "events_lost": 0, "duration_ms": 0,
        "accelerator": null, "problem": one_line(problem),
    });
    // Whoever closed the pipe has read enough; the exit status says the rest.
    let _ = writeln!(io::stdout(), "{summary}");
}

/// The name of the run; and that of the script where it is another.
fn named(run_id: &str, name: &ScriptName) -> String {
    if run_id
        .split_once('-')
        .is_some_and(|(_, rest)| rest == name.script)
    {
        run_id.to_owned()
    } else {
        format!("{run_id} ({name})")
    }
}
