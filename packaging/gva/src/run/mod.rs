//! `gva run`: boots one appliance and stays with it to its end. [`qemu`] is the machine, [`follow`] what its guest tells, [`attend`] what gva does
//! about it, [`verdict`] what comes of it, [`show`] what is seen of it.

mod attend;
pub(crate) mod follow;
mod out;
pub(crate) mod qemu;
pub(crate) mod show;
mod verdict;

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::process::ExitCode;

use anyhow::{Context, bail};
use gvad::results::Entry;
use tokio::runtime::Builder;

use crate::cli::{Accel, RunArgs};
use crate::machine::Appliance;
use crate::machine::arguments::Accelerator;
use crate::results;
use crate::scratch;
use attend::{Attempt, End, Wishes};
use follow::Follow;
use qemu::Qemu;
use show::Show;

/// Runs an appliance whose images are at hand.
pub(crate) fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let appliance = Appliance::assemble(args)?;
    let console = match &args.machine.console {
        Some(path) => Some(
            File::create(path)
                .with_context(|| format!("writing the console to {}", path.display()))?,
        ),
        None => None,
    };
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(work(args, appliance, console))
}

async fn work(
    args: &RunArgs,
    appliance: Appliance,
    console: Option<File>,
) -> anyhow::Result<ExitCode> {
    let mut show = Show::new(args.json, args.quiet).context("starting a thread")?;
    let mut wishes = Wishes::new(args, console).await?;
    let ended = stay(args, appliance, &mut wishes, &mut show).await;
    written(&show, &mut wishes).await;
    let (accelerator, end) = ended?;
    let code = finish(args, &show, accelerator, end)?;
    written(&show, &mut wishes).await;
    Ok(code)
}

/// Waits for whoever reads what is shown, unless a signal says that it was enough.
async fn written(show: &Show, wishes: &mut Wishes) {
    tokio::select! {
        () = show.written() => {}
        () = wishes.stop() => {}
    }
}

/// From the start of the machine to its end.
async fn stay(
    args: &RunArgs,
    appliance: Appliance,
    wishes: &mut Wishes,
    show: &mut Show,
) -> anyhow::Result<(Accelerator, End)> {
    scratch::let_signals_through()?;
    if let Some(socket) = wishes.socket() {
        show.say(&format!("serving    at {socket}"));
    }
    let accelerators = accelerators(args.machine.accel, show);
    let mut left = accelerators.len();
    for accelerator in accelerators {
        left -= 1;
        show.say(&format!(
            "starting   {}",
            described(&appliance, accelerator)
        ));
        let started = tokio::select! {
            started = Qemu::start(&appliance, accelerator) => started,
            () = wishes.stop() => bail!("stopped by a signal while QEMU was started"),
        };
        let end = match started {
            Ok(qemu) => {
                let attempt = Attempt::new(qemu, wishes, show, left > 0);
                attempt.attend().await?
            }
            Err(err) if left > 0 => {
                show.warn(&format!("warning: {err:#}; starting again under emulation"));
                continue;
            }
            Err(err) => return Err(err),
        };
        show.clear();
        if let Some(why) = &end.lifeless {
            show.warn(&format!(
                "warning: KVM did not bring the appliance up: {why}; starting again under emulation, which is slow; --accel tcg saves the attempt"
            ));
            continue;
        }
        // What is attached may be read and used by others from here on.
        drop(appliance);
        return Ok((accelerator, end));
    }
    bail!("no way to start the machine")
}

fn described(appliance: &Appliance, accelerator: Accelerator) -> String {
    let machine = &appliance.machine;
    format!(
        "{}, {} and {} processor{}",
        accelerator.name(),
        machine.memory(),
        machine.cpus(),
        if machine.cpus() == 1 { "" } else { "s" }
    )
}

/// What is tried, in this order.
fn accelerators(wanted: Accel, show: &mut Show) -> Vec<Accelerator> {
    match wanted {
        Accel::Kvm => vec![Accelerator::Kvm],
        Accel::Tcg => vec![Accelerator::Tcg],
        Accel::Auto => {
            let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm");
            match kvm {
                Ok(_) => vec![Accelerator::Kvm, Accelerator::Tcg],
                Err(err) => {
                    let cure = match err.kind() {
                        ErrorKind::PermissionDenied => "; who is in the group kvm may use it",
                        _ => "",
                    };
                    show.say(&format!(
                        "no KVM     /dev/kvm: {err}; emulation is slow{cure}"
                    ));
                    vec![Accelerator::Tcg]
                }
            }
        }
    }
}

/// Prints what came of it.
fn finish(
    args: &RunArgs,
    show: &Show,
    accelerator: Accelerator,
    mut end: End,
) -> anyhow::Result<ExitCode> {
    if end.follow.lost > 0 {
        complete(args, &mut end.follow);
    }
    let verdict = verdict::verdict(&end);
    if !args.json {
        let entries = end.follow.results.values().map(|result| Entry {
            run_id: result.run_id.clone(),
            result: Some(result.clone()),
        });
        results::print(entries.collect(), false)?;
    }
    if let Some(problem) = &verdict.problem {
        if verdict.appliance_failed {
            for line in &end.console {
                crate::say::line(&format!("  | {line}"));
            }
        }
        crate::say::warn(problem);
    }
    let problem = verdict.problem.as_deref();
    show.summary(&end.follow, verdict.code, accelerator.name(), problem);
    Ok(ExitCode::from(verdict.code))
}

/// Events were lost; the image has all results of this boot.
fn complete(args: &RunArgs, follow: &mut Follow) {
    let Some(image) = args.output.as_ref().or(args.application.as_ref()) else {
        return;
    };
    let read = results::extract::Image::open(image).and_then(|image| image.results());
    match read {
        Ok(entries) => {
            let of_this_boot = entries
                .into_iter()
                .filter_map(|entry| entry.result)
                .filter(|result| Some(&result.boot_id) == follow.boot_id.as_ref());
            for result in of_this_boot {
                follow.results.insert(result.run_id.clone(), result);
            }
        }
        Err(err) => crate::say::warn(&format!(
            "warning: {} events were lost, and with them perhaps results: {err:#}",
            follow.lost
        )),
    }
}
