//! In the machine: hands over scripts, kills gvad now and then in the first third, and measures it before and after the rest.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::figures::{Figures, pid};
use crate::kinds::{self, End, KINDS};

/// Not more than so many wait at a time.
const WAITING: usize = 400;
/// gvad is killed so often.
const KILLS: u32 = 5;
/// What is no script is taken away again after this.
const PASSED_OVER: Duration = Duration::from_secs(4);
/// gvad counts as idle after this; tokio ends its idle threads after ten seconds.
const IDLE: Duration = Duration::from_secs(12);
/// What waits must be through after this.
const PATIENCE: Duration = Duration::from_secs(900);

/// What to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Drive {
    /// The application image's root.
    #[arg(long)]
    application: PathBuf,
    /// The output image's root; the report is written there.
    #[arg(long)]
    output: PathBuf,
    /// Not more scripts than this.
    #[arg(long)]
    scripts: u64,
    /// Not longer than this, in seconds; what waits then is still run.
    #[arg(long)]
    seconds: u64,
    /// Chooses the scripts.
    #[arg(long)]
    seed: u64,
    /// Prints gvad's process.
    #[arg(long)]
    pid_command: String,
    /// Where progress is told.
    #[arg(long, default_value = "/dev/stdout")]
    progress: PathBuf,
}

/// What was done.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Repeats it.
    pub(crate) seed: u64,
    /// Handed over by the driver.
    pub(crate) handed_over: u64,
    /// Seconds.
    pub(crate) took: u64,
    /// gvad was killed so often.
    pub(crate) kills: u32,
    /// After the last kill, with nothing to do.
    pub(crate) before: Figures,
    /// At the end, with nothing to do.
    pub(crate) after: Figures,
}

/// The name of the report on the output image.
pub(crate) const REPORT: &str = "soak-report.json";
/// The names that were handed over, on the output image.
pub(crate) const ISSUED: &str = "soak-issued";

struct Driver<'a> {
    plan: &'a Drive,
    script_bin: PathBuf,
    random: fastrand::Rng,
    issued: File,
    count: u64,
    passed_over: VecDeque<(Instant, PathBuf)>,
    began: Instant,
    told: Instant,
}

/// Does it.
pub(crate) fn drive(plan: &Drive) -> anyhow::Result<()> {
    let mut driver = Driver {
        plan,
        script_bin: plan.application.join("script-bin"),
        random: fastrand::Rng::with_seed(plan.seed),
        issued: File::create(plan.output.join(ISSUED)).context("making the list")?,
        count: 0,
        passed_over: VecDeque::new(),
        began: Instant::now(),
        told: Instant::now(),
    };
    let whole = Duration::from_secs(plan.seconds);
    let kills = driver.first_third(whole / 3)?;
    driver.wait_idle()?;
    let before = Figures::take(&plan.pid_command)?;
    while driver.began.elapsed() < whole && driver.count < plan.scripts {
        driver.step()?;
    }
    driver.wait_idle()?;
    let report = Report {
        seed: plan.seed,
        handed_over: driver.count,
        took: driver.began.elapsed().as_secs(),
        kills,
        before,
        after: Figures::take(&plan.pid_command)?,
    };
    fs::write(
        plan.output.join(REPORT),
        serde_json::to_vec_pretty(&report)?,
    )
    .context("writing the report")?;
    driver.issued.sync_all().context("syncing the list")?;
    driver.tell("done");
    Ok(())
}

impl Driver<'_> {
    /// One of each kind, then what comes, and gvad is killed at times nobody chose.
    fn first_third(&mut self, third: Duration) -> anyhow::Result<u32> {
        for kind in KINDS {
            self.put(kind)?;
        }
        let mut at: Vec<Duration> = (0..KILLS)
            .map(|_| third.mul_f64(0.1 + 0.9 * self.random.f64()))
            .collect();
        at.sort();
        let mut kills = 0;
        while self.began.elapsed() < third && self.count < self.plan.scripts / 2 {
            self.step()?;
            // systemd starts it again after a while; one that is not there cannot be killed.
            if at.first().is_some_and(|at| *at < self.began.elapsed())
                && let Ok(gvad @ 2..) = pid(&self.plan.pid_command)
            {
                at.remove(0);
                kill(Pid::from_raw(i32::try_from(gvad)?), Signal::SIGKILL)
                    .context("killing gvad")?;
                kills += 1;
            }
        }
        Ok(kills)
    }

    /// Hands over a burst, if not too many wait.
    fn step(&mut self) -> anyhow::Result<()> {
        self.take_away()?;
        if self.waiting()? < WAITING {
            for _ in 0..self.random.u32(1..=60) {
                let kind = kinds::any(&mut self.random);
                self.put(kind)?;
            }
        } else {
            thread::sleep(Duration::from_millis(100));
        }
        thread::sleep(Duration::from_millis(self.random.u64(0..40)));
        if self.told.elapsed() > Duration::from_secs(30) {
            self.tell("");
        }
        Ok(())
    }

    fn put(&mut self, kind: &'static kinds::Kind) -> anyhow::Result<()> {
        self.count += 1;
        let name = format!("{:07}-{}", self.count, kind.name);
        writeln!(self.issued, "{name}").context("noting a script")?;
        // A script may be moving script-bin away and back at this moment.
        for _ in 0..200 {
            match kind.put(&self.script_bin, &name) {
                Err(err) if err.kind() == io::ErrorKind::NotFound => {
                    thread::sleep(Duration::from_millis(20))
                }
                other => {
                    other.with_context(|| format!("handing over {name}"))?;
                    if kind.end == End::PassedOver {
                        self.passed_over
                            .push_back((Instant::now(), self.script_bin.join(name)));
                    }
                    return Ok(());
                }
            }
        }
        bail!("{} does not come back", self.script_bin.display())
    }

    fn waiting(&self) -> anyhow::Result<usize> {
        let names = match fs::read_dir(&self.script_bin) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(WAITING),
            other => other.context("listing script-bin")?,
        };
        Ok(names
            .flatten()
            .filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."))
            .count())
    }

    fn claimed(&self) -> usize {
        let ledgers = fs::read_dir(self.script_bin.join(".gvad"));
        let ledgers = ledgers.into_iter().flatten().flatten();
        ledgers
            .map(|ledger| fs::read_dir(ledger.path()).map_or(0, |claims| claims.flatten().count()))
            .sum()
    }

    fn take_away(&mut self) -> anyhow::Result<()> {
        while let Some((since, path)) = self.passed_over.front() {
            if since.elapsed() < PASSED_OVER {
                return Ok(());
            }
            let removed = if path.is_dir() && !path.is_symlink() {
                fs::remove_dir(path)
            } else {
                fs::remove_file(path)
            };
            match removed {
                // script-bin is away for a moment: the next time.
                Err(_) if !self.script_bin.exists() => return Ok(()),
                other => other.with_context(|| format!("{} was not left alone", path.display()))?,
            }
            self.passed_over.pop_front();
        }
        Ok(())
    }

    /// Until nothing has been waiting or claimed for a while.
    fn wait_idle(&mut self) -> anyhow::Result<()> {
        let (until, mut since) = (Instant::now() + PATIENCE, Instant::now());
        while since.elapsed() < IDLE {
            if Instant::now() > until {
                bail!(
                    "{} wait and {} are claimed, and nothing happens",
                    self.waiting()?,
                    self.claimed()
                );
            }
            thread::sleep(Duration::from_millis(200));
            self.take_away()?;
            if self.waiting()? > 0 || self.claimed() > 0 {
                since = Instant::now();
            }
            if self.told.elapsed() > Duration::from_secs(30) {
                self.tell("waiting until it is idle");
            }
        }
        Ok(())
    }

    fn tell(&mut self, what: &str) {
        self.told = Instant::now();
        let line = format!(
            "soak: {} s: {} handed over {what}\n",
            self.began.elapsed().as_secs(),
            self.count
        );
        let told = File::options().append(true).open(&self.plan.progress);
        // Progress is only for whoever looks on.
        let _ = told.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}

/// Reads a report.
pub(crate) fn report(output: &Path) -> anyhow::Result<Report> {
    let path = output.join(REPORT);
    let json = fs::read(&path).with_context(|| {
        format!(
            "reading {}: the driver did not come to its end",
            path.display()
        )
    })?;
    serde_json::from_slice(&json).context("reading the driver's report")
}
