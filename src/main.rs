//! gvad: parses the command line, calls, prints, sets the exit status.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tracing::level_filters::LevelFilter;

use gvad::cli::{Cli, Command, Common, one_line};
use gvad::config::{self, Config, Overrides};
use gvad::context::Mode;
use gvad::daemon::{self, Origin};
use gvad::parameters::{self, credentials};
use gvad::{control, results};

/// Some script did not succeed.
const SCRIPT_FAILED: u8 = 1;
/// gvad itself failed.
const FAILED: u8 = 2;
/// No gvad runs.
const NOT_RUNNING: u8 = 3;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(err) if err.use_stderr() => return complain(&one_line(&err)),
        Err(help) => return print(|out| Ok(write!(out, "{help}")?)),
    };
    match dispatch(&cli) {
        Ok(code) => code,
        Err(err) => complain(&format!("{err:#}")),
    }
}

/// A complaint is cut off here, in characters: a configuration may quote a megabyte.
const LONGEST_COMPLAINT: usize = 2000;

fn complain(text: &str) -> ExitCode {
    // One line, whatever names the text quotes.
    let mut line: String = text
        .chars()
        .take(LONGEST_COMPLAINT)
        .map(|c| if gvad::name::deceives(c) { ' ' } else { c })
        .collect();
    if text.chars().nth(LONGEST_COMPLAINT).is_some() {
        line.push('…');
    }
    // Nobody may be listening; the exit status says it too.
    let _ = writeln!(io::stderr(), "gvad: {line}");
    ExitCode::from(FAILED)
}

/// Whoever read our output has read enough.
fn is_closed_pipe(err: &anyhow::Error) -> bool {
    err.downcast_ref::<io::Error>()
        .is_some_and(|err| err.kind() == io::ErrorKind::BrokenPipe)
}

fn print(write: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>) -> ExitCode {
    let mut out = io::stdout().lock();
    match write(&mut out).and_then(|()| Ok(out.flush()?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) if is_closed_pipe(&err) => ExitCode::SUCCESS,
        Err(err) => complain(&format!("{err:#}")),
    }
}

fn dispatch(cli: &Cli) -> anyhow::Result<ExitCode> {
    let common = &cli.common;
    match &cli.command {
        None => work(common, Mode::Daemon),
        Some(Command::Drain) => work(common, Mode::Drain),
        Some(Command::Check) => {
            let config = load(common)?;
            let mut text = toml::to_string(&config).context("printing the configuration")?;
            text += &told(common)?;
            Ok(print(|out| Ok(out.write_all(text.as_bytes())?)))
        }
        Some(Command::Status { json }) => status(common, *json),
        Some(Command::Results { dir, json }) => {
            let entries = results::read(dir)?;
            Ok(print(|mut out| {
                if *json {
                    results::write_json(&entries, &mut out)
                } else {
                    results::write_table(&entries, &mut out)
                }
            }))
        }
    }
}

/// What stands over the configuration file: options, and what this instance was told.
fn overrides(common: &Common) -> anyhow::Result<Overrides> {
    Ok(Overrides {
        drop_in: credentials::drop_in(&credentials::directories())?,
        ..common.overrides()
    })
}

fn load(common: &Common) -> anyhow::Result<Config> {
    config::load(common.config.as_deref(), &overrides(common)?)
}

/// What credentials say, as comments.
fn told(common: &Common) -> anyhow::Result<String> {
    let parameters = parameters::describe(&credentials::directories());
    Ok(match overrides(common)?.drop_in {
        Some(_) => format!(
            "# the credential {} is laid over the file\n{parameters}",
            config::DROP_IN
        ),
        None => parameters,
    })
}

fn work(common: &Common, mode: Mode) -> anyhow::Result<ExitCode> {
    let config = load(common)?;
    log(common.log_level.into());
    let origin = Origin {
        file: common.config.clone(),
        overrides: overrides(common)?,
    };
    let all_succeeded = daemon::run(origin, config, mode)?;
    Ok(match mode {
        Mode::Drain if !all_succeeded => ExitCode::from(SCRIPT_FAILED),
        Mode::Drain | Mode::Daemon => ExitCode::SUCCESS,
    })
}

fn status(common: &Common, json: bool) -> anyhow::Result<ExitCode> {
    let config = load(common)?;
    let Some(status) = control::ask(&config.run.temp_dir)? else {
        let temp_dir = config.run.temp_dir.display();
        let line = if json {
            "null\n".to_owned()
        } else {
            format!("no gvad is running with run.temp_dir {temp_dir}\n")
        };
        let _ = print(|out| Ok(out.write_all(line.as_bytes())?));
        return Ok(ExitCode::from(NOT_RUNNING));
    };
    Ok(print(|out| {
        if json {
            Ok(writeln!(out, "{}", serde_json::to_string_pretty(&status)?)?)
        } else {
            Ok(write!(out, "{status}")?)
        }
    }))
}

/// Logs to standard error; where that is the journal, it has the time already.
fn log(level: LevelFilter) {
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        // A log that cannot be written is no reason to end: the default would print about it, and panic on that.
        .log_internal_errors(false);
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        builder.without_time().init();
    } else {
        builder.init();
    }
}
