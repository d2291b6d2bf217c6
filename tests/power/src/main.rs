//! Cuts gvad's power at every flush, and looks for broken promises on what the disks would have. See README.md beside this.

mod case;
mod disk;
mod judge;
mod log;
mod record;
mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, bail};
use clap::{Parser, ValueEnum as _};
use gvad_crash_tests::ground::Ground;
use gvad_crash_tests::guest::Fs;
use gvad_crash_tests::watchdog::Watchdog;

use case::Case;
use disk::Disk;
use judge::{Cut, judge};
use log::Luck;
use record::{Recording, first_disks, prove_flush, record};

/// Cuts gvad's power at every flush, and looks for broken promises on what the disks would have.
#[derive(Debug, Parser)]
struct Arguments {
    /// Every so manieth power cut of each case; without this fewer of some than of others.
    #[arg(long, value_name = "K")]
    every: Option<usize>,
    /// Every power cut.
    #[arg(long)]
    all: bool,
    /// Only these cases.
    #[arg(long, value_name = "CASE")]
    case: Vec<Case>,
    /// The first of the seeds that say which writes reach the disk.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
    /// So many seeds at each point.
    #[arg(long, value_name = "N", default_value_t = 3)]
    seeds: u64,
    /// So many recoveries are cut.
    #[arg(long, value_name = "N", default_value_t = 3)]
    recoveries: usize,
    /// Only what is left in this directory of a power cut that failed.
    #[arg(long, value_name = "DIR")]
    again: Option<PathBuf>,
    /// Where to leave what failed.
    #[arg(long, value_name = "DIR", default_value = "target/power-failed")]
    failed: PathBuf,
    /// The gvad to try.
    #[arg(long, value_name = "FILE", default_value = "target/debug/gvad")]
    gvad: PathBuf,
    /// End a case at its first failure.
    #[arg(long)]
    first: bool,
    /// So many at a time.
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
}

/// How many passed, and how many failed.
#[derive(Debug, Default, Clone, Copy)]
struct Counts(usize, usize);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match work(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(err) => {
            eprintln!("power cuts: {err:#}");
            ExitCode::from(2)
        }
    }
}

fn work(arguments: &Arguments) -> anyhow::Result<bool> {
    if !nix::unistd::Uid::effective().is_root() {
        bail!("it must be root, to mount");
    }
    let failed = std::path::absolute(&arguments.failed)?;
    let base = tempfile::Builder::new().prefix("gvad-power-").tempdir()?;
    let ground = Ground::new(base.path(), &arguments.gvad)?;
    let tried = match &arguments.again {
        Some(dir) => again(&ground, &std::path::absolute(dir)?),
        None => try_all(&ground, arguments, &failed),
    };
    ground.end()?;
    tried
}

fn try_all(ground: &Ground, arguments: &Arguments, failed: &Path) -> anyhow::Result<bool> {
    let cases = if arguments.case.is_empty() {
        Case::value_variants()
    } else {
        &arguments.case
    };
    ground.make_templates(Fs::Ext4)?;
    if cases.iter().any(|case| case.kind().fs == Fs::Xfs) {
        ground.make_templates(Fs::Xfs)?;
    }
    let mut all = Counts::default();
    for direct in [false, true] {
        let with = if direct { "with" } else { "without" };
        prove_flush(ground, Case::Two.kind(), direct)
            .with_context(|| format!("fsync does not lead to a flush, {with} direct I/O"))?;
        all.0 += 1;
    }
    println!("fsync on a file leads to a flush of its disk, in order, with direct I/O and without");
    for case in cases {
        let counts = try_case(ground, *case, arguments, failed)?;
        all.0 += counts.0;
        all.1 += counts.1;
    }
    println!(
        "\npower cuts: {} passed, {} failed, 0 skipped",
        all.0, all.1
    );
    Ok(all.1 == 0)
}

/// Of this case every recording, and every cut of it that is to be tried.
fn try_case(
    ground: &Ground,
    case: Case,
    arguments: &Arguments,
    failed: &Path,
) -> anyhow::Result<Counts> {
    let started = Instant::now();
    let kind = case.kind();
    let first = record(ground, kind, first_disks(ground, kind)?, String::new(), 0)
        .with_context(|| format!("recording {case}"))?;
    let recordings = if case.is_double() {
        recoveries(ground, &first, arguments)?
    } else {
        vec![first]
    };
    let step = match arguments.every {
        _ if arguments.all => 1,
        Some(every) => every.max(1),
        None => case.step(),
    };
    let mut cuts = Vec::new();
    let (mut entries, mut points) = (0, 0);
    for (index, recording) in recordings.iter().enumerate() {
        entries += recording.log.entries.len();
        points += recording.log.points().len();
        cuts.extend(
            cuts_of(recording, arguments)
                .into_iter()
                .map(|(point, luck)| (index, point, luck)),
        );
    }
    let chosen: Vec<_> = cuts.iter().skip(step / 2).step_by(step).collect();
    let next = AtomicUsize::new(0);
    let counts = Mutex::new(Counts::default());
    let broken = Mutex::new(None);
    let jobs = arguments
        .jobs
        .unwrap_or_else(|| thread::available_parallelism().map_or(4, |count| 2 * count.get()));
    thread::scope(|scope| {
        for job in 0..jobs {
            let (next, chosen, counts, broken, recordings) =
                (&next, &chosen, &counts, &broken, &recordings);
            scope.spawn(move || {
                let watchdog = Watchdog::start();
                while let Some((index, point, luck)) =
                    chosen.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    if arguments.first && lock(counts).1 > 0 {
                        return;
                    }
                    let cut = cut_of(&recordings[*index], *point, *luck);
                    let name = format!("{case}-{index}-{point}-{luck}");
                    match judge(ground, &cut, &format!("guest-{job}"), &watchdog) {
                        Ok(wrong) => tell(&name, case, &cut, &wrong, counts, failed),
                        Err(err) => {
                            *lock(broken) = Some(err.context(format!("trying {name}")));
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
        "{case}: {entries} entries, {points} points; {} of {} images tried in {} s: {} passed, {} failed",
        chosen.len(),
        cuts.len(),
        started.elapsed().as_secs(),
        counts.0,
        counts.1
    );
    Ok(counts)
}

/// Where there is nothing to be lost, luck has no part in it.
fn cuts_of(recording: &Recording, arguments: &Arguments) -> Vec<(usize, Luck)> {
    let seeds = (arguments.seed..).take(usize::try_from(arguments.seeds).unwrap_or(0));
    let seeds: Vec<_> = seeds.map(Luck::Some).collect();
    let points = recording.log.points().into_iter();
    let cuts = points.flat_map(|point| {
        let more = match recording.log.at_stake(point) {
            0 => &[][..],
            1 => &seeds[..seeds.len().min(1)],
            _ => &seeds[..],
        };
        let everything = (recording.log.at_stake(point) > 0).then_some(Luck::Everything);
        let lucks = [Luck::Nothing].into_iter().chain(everything);
        lucks
            .chain(more.iter().copied())
            .map(move |luck| (point, luck))
    });
    cuts.collect()
}

fn cut_of(recording: &Recording, point: usize, luck: Luck) -> Cut {
    Cut {
        kind: recording.kind,
        disks: recording.log.cut(point, luck),
        told: format!("{}{}", recording.told, recording.log.marks(point)),
        crashes: recording.crashes + 1,
    }
}

/// Recoveries from cuts all over the first drain, logged as well.
fn recoveries(
    ground: &Ground,
    first: &Recording,
    arguments: &Arguments,
) -> anyhow::Result<Vec<Recording>> {
    let cuts = cuts_of(first, arguments);
    let number = arguments.recoveries.max(1);
    let chosen =
        (0..number).filter_map(|index| cuts.get((2 * index + 1) * cuts.len() / (2 * number)));
    let recorded = chosen.map(|(point, luck)| {
        let Cut {
            kind,
            disks,
            told,
            crashes,
        } = cut_of(first, *point, *luck);
        record(ground, kind, disks, told, crashes)
            .with_context(|| format!("recording the recovery of {point}-{luck}"))
    });
    recorded.collect()
}

fn tell(
    name: &str,
    case: Case,
    cut: &Cut,
    wrong: &[String],
    counts: &Mutex<Counts>,
    failed: &Path,
) {
    let mut counts = lock(counts);
    if wrong.is_empty() {
        counts.0 += 1;
        return;
    }
    counts.1 += 1;
    println!("FAILED {name}");
    wrong.iter().for_each(|why| println!("    {why}"));
    // A whole row of them need not all be kept.
    if counts.1 <= 5 {
        match keep(&failed.join(name), case, cut) {
            Ok(()) => println!(
                "    to try it again: --again {}",
                failed.join(name).display()
            ),
            Err(err) => println!("    it cannot be kept: {err:#}"),
        }
    }
}

fn keep(dir: &Path, case: Case, cut: &Cut) -> anyhow::Result<()> {
    fs::create_dir_all(dir)?;
    for (disk, image) in cut.disks.iter().zip(cut.kind.layout.files()) {
        disk.save(&dir.join(image))?;
    }
    fs::write(dir.join("told"), &cut.told)?;
    Ok(fs::write(
        dir.join("case"),
        format!("{case} {}", cut.crashes),
    )?)
}

fn again(ground: &Ground, dir: &Path) -> anyhow::Result<bool> {
    let text = fs::read_to_string(dir.join("case"))?;
    let (case, crashes) = text.split_once(' ').context("no case")?;
    let kind = Case::from_str(case, false)
        .map_err(anyhow::Error::msg)?
        .kind();
    let disks = kind
        .layout
        .files()
        .map(|image| Disk::read(&dir.join(image)));
    let cut = Cut {
        kind,
        disks: disks.collect::<Result<_, _>>()?,
        told: fs::read_to_string(dir.join("told"))?,
        crashes: crashes.parse()?,
    };
    let wrong = judge(ground, &cut, "again", &Watchdog::start())?;
    wrong.iter().for_each(|why| println!("{why}"));
    println!(
        "\npower cuts: {} passed, {} failed, 0 skipped",
        usize::from(wrong.is_empty()),
        usize::from(!wrong.is_empty())
    );
    Ok(wrong.is_empty())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
