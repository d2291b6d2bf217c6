//! `gva results`: what an output image tells, read from its file by debugfs. [`extract`] takes the files out; gvad's own code reads and shows them.

pub(crate) mod extract;

use std::io::{self, Read};
use std::process::{ExitCode, Stdio};

use anyhow::{Context, bail};
use gvad::results::{self, Entry};

use crate::cli::ResultsArgs;
use crate::say::{self, one_line};
use extract::Image;

/// Shows results, or what one run wrote.
pub(crate) fn show(args: &ResultsArgs) -> anyhow::Result<ExitCode> {
    if args.image.is_dir() {
        // A share, or an image that somebody mounted.
        if args.stdout.is_some() || args.stderr.is_some() {
            let shown = args.image.display();
            bail!("{shown} is a directory: what a run wrote stands there in a file");
        }
        return print(results::read(&args.image)?, args.json);
    }
    let image = Image::open(&args.image)?;
    match (&args.stdout, &args.stderr) {
        (Some(run), _) => stream(&image, run, "stdout"),
        (None, Some(run)) => stream(&image, run, "stderr"),
        (None, None) => print(image.results()?, args.json),
    }
}

/// Prints results: a table for people, else one a line as JSON.
pub(crate) fn print(mut entries: Vec<Entry>, json: bool) -> anyhow::Result<ExitCode> {
    say::print(|mut out| {
        if json {
            return results::write_json(&entries, &mut out);
        }
        entries.iter_mut().for_each(make_harmless);
        results::write_table(&entries, &mut out)
    })
}

/// The image is a guest's, which may have written anything: what goes to a terminal must not command it.
fn make_harmless(entry: &mut Entry) {
    entry.run_id = one_line(&entry.run_id);
    if let Some(result) = &mut entry.result {
        for text in [
            &mut result.reason,
            &mut result.signal,
            &mut result.started_at,
        ] {
            *text = text.as_deref().map(one_line);
        }
    }
}

fn stream(image: &Image, run: &str, name: &str) -> anyhow::Result<ExitCode> {
    let kept = image.kept()?;
    if let Some(kept) = kept.iter().find(|kept| kept.result.run_id == run) {
        let printed = match name {
            "stdout" => &kept.stdout,
            _ => &kept.stderr,
        };
        return say::print(|out| Ok(out.write_all(&printed.0)?));
    }
    let (mut command, long) = image.cat(run, name)?;
    let doing = || format!("reading {name} of {run}");
    let mut debugfs = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("{}: starting debugfs", doing()))?;
    let Some(pipe) = debugfs.stdout.take() else {
        bail!("{}: debugfs says nothing", doing());
    };
    let mut read = long;
    let printed = say::print(|out| {
        read = io::copy(&mut pipe.take(long), out)?;
        Ok(())
    });
    // It may have ended by itself.
    let _ = debugfs.kill();
    let _ = debugfs.wait();
    // debugfs itself always ends with 0.
    if printed.is_ok() && read < long {
        bail!(
            "{}: only {read} of {long} bytes can be read: the file system is damaged",
            doing()
        );
    }
    printed
}
