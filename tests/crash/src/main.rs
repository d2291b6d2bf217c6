//! Strikes gvad at its system calls, one after the other, and looks for broken promises on the disk. See README.md beside this.

mod points;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, bail};
use clap::Parser;

use gvad_crash_tests::check::{self, Damage};
use gvad_crash_tests::ground::Ground;
use gvad_crash_tests::guest::{self, Fs};
use gvad_crash_tests::left;
use gvad_crash_tests::trace::{self, Counted, Deed, Plan};
use gvad_crash_tests::watchdog::Watchdog;
use points::{Base, Group, Point};

/// Strikes gvad at its system calls, one after the other.
#[derive(Debug, Parser)]
struct Arguments {
    /// Every so manieth point of each group.
    #[arg(long, value_name = "K", default_value_t = 25)]
    every: usize,
    /// Every point.
    #[arg(long)]
    all: bool,
    /// Only these groups.
    #[arg(long, value_name = "KIND")]
    kind: Vec<Group>,
    /// Only on this guest: tree, images, rest, rerun or read-only.
    #[arg(long, value_name = "GUEST")]
    guest: Option<Base>,
    /// Only this point; its directory is kept until Enter is pressed, and everything that gvad logged is shown.
    #[arg(long, value_name = "NAME")]
    point: Option<Point>,
    /// The gvad to strike.
    #[arg(long, value_name = "FILE", default_value = "target/debug/gvad")]
    gvad: PathBuf,
    /// End at the first failure.
    #[arg(long)]
    first: bool,
    /// So many at a time.
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
}

/// What came of one point.
enum Verdict {
    Passed,
    /// The call was not made this time.
    Missed,
    Failed(Vec<String>),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match work(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(err) => {
            eprintln!("crash points: {err:#}");
            ExitCode::from(2)
        }
    }
}

fn work(arguments: &Arguments) -> anyhow::Result<bool> {
    if !nix::unistd::Uid::effective().is_root() {
        bail!("it must be root, to mount");
    }
    let base = tempfile::Builder::new().prefix("gvad-crash-").tempdir()?;
    let ground = Ground::new(base.path(), &arguments.gvad)?;
    let tried = try_all(&ground, arguments);
    ground.end()?;
    tried
}

fn try_all(ground: &Ground, arguments: &Arguments) -> anyhow::Result<bool> {
    ground.make_templates(Fs::Ext4)?;
    if left::group_parent().is_none() {
        println!("no cgroup v2: what a killed gvad's scripts leave running is not looked at");
    }
    if let Some(point) = &arguments.point {
        return one(ground, point);
    }
    let groups = if arguments.kind.is_empty() {
        Group::ALL.to_vec()
    } else {
        arguments.kind.clone()
    };
    let mut calls = BTreeMap::new();
    let watchdog = Watchdog::start();
    for base in groups.iter().flat_map(|group| group.bases()) {
        if !calls.contains_key(base) {
            let guest = ground.guest("count", base.kind(), false)?;
            let traced = guest.traced("log-0", None, &watchdog)?;
            if traced.calls.is_empty() {
                bail!("gvad made no calls: {}", guest.log("log-0"));
            }
            calls.insert(*base, traced.calls);
        }
    }
    let (mut passed, mut failed, mut missed) = (0, 0, 0);
    for group in groups {
        let counts = try_group(ground, group, &calls, arguments)?;
        passed += counts.0;
        failed += counts.1;
        missed += counts.2;
        if arguments.first && failed > 0 {
            break;
        }
    }
    println!("\ncrash points: {passed} passed, {failed} failed, {missed} skipped");
    Ok(failed == 0)
}

fn try_group(
    ground: &Ground,
    group: Group,
    calls: &BTreeMap<Base, Vec<Counted>>,
    arguments: &Arguments,
) -> anyhow::Result<(usize, usize, usize)> {
    let started = Instant::now();
    let all: Vec<_> = group
        .bases()
        .iter()
        .filter(|base| arguments.guest.is_none_or(|only| only == **base))
        .flat_map(|base| group.points(*base, &calls[base]))
        .collect();
    let step = if arguments.all {
        1
    } else {
        arguments.every.max(1)
    };
    let chosen: Vec<_> = all.iter().skip(step / 2).step_by(step).collect();
    let next = AtomicUsize::new(0);
    let counts = Mutex::new((0, 0, 0));
    let broken = Mutex::new(None);
    let jobs = arguments
        .jobs
        .unwrap_or_else(|| thread::available_parallelism().map_or(4, |count| 2 * count.get()));
    thread::scope(|scope| {
        for job in 0..jobs {
            let (next, chosen, counts, broken) = (&next, &chosen, &counts, &broken);
            scope.spawn(move || {
                let watchdog = Watchdog::start();
                while let Some(point) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if arguments.first && lock(counts).1 > 0 {
                        return;
                    }
                    let verdict =
                        try_point(ground, point, &format!("guest-{job}"), &watchdog, false);
                    let mut counts = lock(counts);
                    match verdict {
                        Ok(Verdict::Passed) => counts.0 += 1,
                        Ok(Verdict::Missed) => counts.2 += 1,
                        Ok(Verdict::Failed(why)) => {
                            counts.1 += 1;
                            println!("FAILED {point}");
                            why.iter().for_each(|why| println!("    {why}"));
                        }
                        Err(err) => {
                            let err = err.context(format!("trying {point}"));
                            *lock(broken) = Some(err);
                            return;
                        }
                    }
                }
            });
        }
    });
    if let Some(err) = lock(&broken).take() {
        return Err(err);
    }
    let counts = *lock(&counts);
    println!(
        "{group:?}: {} of {} points tried in {} s: {} passed, {} failed, {} not reached",
        chosen.len(),
        all.len(),
        started.elapsed().as_secs(),
        counts.0,
        counts.1,
        counts.2
    );
    Ok(counts)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn one(ground: &Ground, point: &Point) -> anyhow::Result<bool> {
    let name = "one";
    let verdict = try_point(ground, point, name, &Watchdog::start(), true)?;
    let dir = ground.base.join(name);
    for log in ["log-0", "log-second", "log-1", "log-2"] {
        let text = std::fs::read_to_string(dir.join(log)).unwrap_or_default();
        println!("== {log}\n{text}");
    }
    println!(
        "== witness\n{}",
        std::fs::read_to_string(dir.join("witness")).unwrap_or_default()
    );
    match &verdict {
        Verdict::Passed => println!("{point}: passed"),
        Verdict::Missed => println!("{point}: not reached"),
        Verdict::Failed(why) => println!("FAILED {point}\n    {}", why.join("\n    ")),
    }
    println!(
        "everything lies in {} of process {}; Enter ends this",
        dir.display(),
        std::process::id()
    );
    std::io::stdin()
        .read_line(&mut String::new())
        .context("waiting for Enter")?;
    Ok(!matches!(verdict, Verdict::Failed(_)))
}

fn try_point(
    ground: &Ground,
    point: &Point,
    name: &str,
    watchdog: &Watchdog,
    keep: bool,
) -> anyhow::Result<Verdict> {
    let guest = ground.guest(name, point.base.kind(), keep)?;
    let errors = matches!(point.plan.deed, Deed::Fail(_) | Deed::FailForEver(_));
    let mut damage = Damage { crashes: 1, errors };
    let traced = guest.traced("log-0", Some(&point.plan), watchdog)?;
    let mut hit = traced.hit;
    let mut wrong = check::struck(&guest, &traced, &guest.log("log-0"), damage);
    if let Some(second) = point.second {
        let (again, reached) = strike_recovery(&guest, second, watchdog)?;
        damage.crashes += 1;
        hit &= reached;
        wrong.extend(again);
    }
    let ended = guest.drain("log-1", watchdog)?;
    let (found, kept) = check::recovered(&guest, &ended, damage);
    wrong.extend(found);
    if let Some((kept, told)) = kept {
        let ended = guest.drain("log-2", watchdog)?;
        wrong.extend(check::unchanged(&guest, &ended, &kept, &told));
    }
    Ok(match wrong.is_empty() {
        true if hit => Verdict::Passed,
        true => Verdict::Missed,
        false => Verdict::Failed(wrong),
    })
}

/// Kills the recovery, and what it goes on to run, before its so manieth call that changes something. Which call that is, a first
/// recovery of the same state would have to tell; counting all of them together needs none.
fn strike_recovery(
    guest: &guest::Guest,
    second: usize,
    watchdog: &Watchdog,
) -> anyhow::Result<(Vec<String>, bool)> {
    let plan = Plan {
        call: trace::ANY,
        nth: u32::try_from(second)?,
        deed: Deed::KillBefore,
    };
    let traced = guest.traced("log-second", Some(&plan), watchdog)?;
    let damage = Damage {
        crashes: 2,
        errors: false,
    };
    let wrong = check::struck(guest, &traced, &guest.log("log-second"), damage);
    Ok((wrong, traced.hit))
}
