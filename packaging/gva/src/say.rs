//! What gva says beside its results: complaints and warnings, each one line on standard error.

use std::io::{self, Write};
use std::process::ExitCode;

/// Some script did not succeed.
pub(crate) const SCRIPT_FAILED: u8 = 1;
/// gva or the appliance itself failed.
pub(crate) const FAILED: u8 = 2;
/// The time given was over.
pub(crate) const TIMED_OUT: u8 = 3;

/// A complaint, and the exit status that goes with it.
pub(crate) fn failed(text: &str) -> ExitCode {
    warn(text);
    ExitCode::from(FAILED)
}

/// What is wrong, as one line.
pub(crate) fn warn(text: &str) {
    line(&format!("gva: {text}"));
}

/// One line to standard error, whatever names the text quotes.
pub(crate) fn line(text: &str) {
    // Nobody may be listening; the exit status says the rest.
    let _ = writeln!(io::stderr(), "{}", one_line(text));
}

/// The text without what moves a terminal's cursor or deceives the eye.
pub(crate) fn one_line(text: &str) -> String {
    let clean = |c: char| if gvad::name::deceives(c) { ' ' } else { c };
    text.chars().map(clean).collect()
}

/// What was asked for, to standard output. That nobody reads on is no failure.
pub(crate) fn print(
    write: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    match write(&mut out).and_then(|()| Ok(out.flush()?)) {
        Err(err) if !is_closed_pipe(&err) => Err(err.context("writing to standard output")),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn is_closed_pipe(err: &anyhow::Error) -> bool {
    let kinds = err.chain().filter_map(|cause| {
        let io = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        io.or_else(|| cause.downcast_ref::<serde_json::Error>()?.io_error_kind())
    });
    kinds
        .into_iter()
        .any(|kind| kind == io::ErrorKind::BrokenPipe)
}

/// Help and version, on standard output.
pub(crate) fn help(text: &clap::Error) -> ExitCode {
    // Whoever closed the pipe has read enough.
    let _ = write!(io::stdout(), "{text}");
    ExitCode::SUCCESS
}
