//! Hands a gvad in a virtual machine a hundred thousand scripts, good and bad, and counts. See README.md beside this.

mod check;
mod drive;
mod figures;
mod kinds;
mod machine;

use std::process::ExitCode;

use clap::Parser;

use check::Found;

/// Hands a gvad in a virtual machine scripts, good and bad, and counts.
#[derive(Debug, Parser)]
enum Command {
    /// Boots a machine, lets the driver run in it, and looks at what it left.
    Machine(machine::Soak),
    /// In the machine: hands over scripts.
    Drive(drive::Drive),
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Machine(plan) => machine::soak(&plan).map(|found| show(&found)),
        Command::Drive(plan) => drive::drive(&plan).map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(err) => {
            eprintln!("soak: {err:#}");
            ExitCode::from(2)
        }
    }
}

fn show(found: &Found) -> bool {
    let (report, failed) = (&found.report, found.wrong.len());
    println!(
        "{} scripts in {} s; {} handed over by the driver, gvad killed {} times, seed {}",
        found.scripts, report.took, report.handed_over, report.kills, report.seed
    );
    for (outcome, count) in &found.outcomes {
        println!("  {outcome:<12} {count:>8}");
    }
    let (before, after) = (&report.before, &report.after);
    println!("  {:<18} {:>8} {:>8}", "idle gvad", "before", "after");
    for (what, before, after) in [
        ("anonymous, KiB", before.anonymous_kib, after.anonymous_kib),
        ("PSS, KiB", before.pss_kib, after.pss_kib),
        ("peak RSS, KiB", before.peak_rss_kib, after.peak_rss_kib),
        (
            "descriptors",
            before.descriptors as u64,
            after.descriptors as u64,
        ),
        ("threads", before.threads as u64, after.threads as u64),
        ("mounts", before.mounts as u64, after.mounts as u64),
        (
            "control groups",
            before.cgroups as u64,
            after.cgroups as u64,
        ),
        ("loop devices", before.loops as u64, after.loops as u64),
        ("processes", before.processes as u64, after.processes as u64),
    ] {
        println!("  {what:<18} {before:>8} {after:>8}");
    }
    found
        .wrong
        .iter()
        .take(50)
        .for_each(|wrong| println!("WRONG: {wrong}"));
    let passed = found.scripts.saturating_sub(failed as u64);
    println!("\nsoak: {passed} scripts as they should be, {failed} faults");
    failed == 0
}
