//! gva: makes, runs and packs Grid Virtual Appliances. Parses the command line, calls, prints, sets the exit status.

mod cli;
mod say;

mod image;
mod machine;
mod ova;
mod results;
mod run;
mod serve;

mod lines;
mod qmp;
mod scratch;
mod tool;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(err) if err.use_stderr() => return say::failed(&cli::one_line(&err)),
        Err(help) => return say::help(&help),
    };
    match dispatch(&cli.command) {
        Ok(code) => code,
        Err(err) => say::failed(&format!("{err:#}")),
    }
}

fn dispatch(command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Pack(args) => ova::pack(args),
        Command::Check(args) => ova::check(args),
        Command::Image(args) => {
            scratch::removed_on_signals()?;
            image::make(args)
        }
        Command::Results(args) => {
            scratch::removed_on_signals()?;
            results::show(args)
        }
        Command::Run(args) => {
            let ended = match &args.job {
                Some(job) => ova::open(args, job).and_then(|opened| run::run(&opened.args)),
                None => run::run(args),
            };
            if let (true, Err(err)) = (args.json, &ended) {
                run::show::refused(&format!("{err:#}"));
            }
            ended
        }
        Command::Submit(args) => serve::client::submit(args),
        Command::Eject(args) => serve::client::eject(args),
    }
}
