//! The machine that it all happens in, and its images.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use gvad_vm_tests::machine::{Base, Plan};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::check::{Found, check};

/// The script that starts the driver.
pub(crate) const STARTER: &str = "00-soak";
/// What the guest may take for booting and for what waits at the end.
const MORE: Duration = Duration::from_secs(1200);

/// What to do.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct Soak {
    /// Not more scripts than this.
    #[arg(long, default_value_t = 100_000)]
    scripts: u64,
    /// Not longer than this, in seconds; what waits then is still run.
    #[arg(long, default_value_t = 1800)]
    seconds: u64,
    /// Repeats the choice of scripts; by default it is another one each time.
    #[arg(long)]
    seed: Option<u64>,
    /// Keeps the images here.
    #[arg(long)]
    keep: Option<PathBuf>,
}

const CONFIG: &str = "lifecycle.when_drained = 'wait'\n\
    [run]\ntimeout = '10s'\nstop_grace = '1s'\noutput_limit = '64KiB'\nmemory_max = '96MiB'\ntasks_max = 200\n";

/// Boots it, waits, and looks.
pub(crate) fn soak(plan: &Soak) -> anyhow::Result<Found> {
    let seed = plan.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}");
    let dir = tempfile::tempdir().context("making a directory")?;
    let images = plan.keep.clone().unwrap_or_else(|| dir.path().to_owned());
    let (application, output) = images_in(&images, dir.path(), plan, seed)?;
    let mut machine = Plan::new(Base::Direct)
        .with(&["-m", "512", "-smp", "2"])
        .config(CONFIG)
        .disk("gva-a0", &application)
        .disk("gva-o", &output)
        .start();
    let until = Instant::now() + Duration::from_secs(plan.seconds) + MORE;
    let mut shown = 0;
    while machine.ended().is_none() {
        // Whoever does not read the port is left behind by gvad, but this one looks on.
        let _ = machine.port.next(Duration::from_millis(500));
        let console = machine.console();
        let told: Vec<&str> = console
            .lines()
            .filter_map(|line| line.find("soak:").map(|at| &line[at..]))
            .collect();
        told.iter().skip(shown).for_each(|line| println!("{line}"));
        shown = told.len();
        if Instant::now() > until {
            bail!("the machine does not come to its end:\n{console}");
        }
    }
    let (application, output) = (
        mounted(dir.path(), "a", &application)?,
        mounted(dir.path(), "o", &output)?,
    );
    check(&application, &output)
}

fn images_in(
    images: &Path,
    dir: &Path,
    plan: &Soak,
    seed: u64,
) -> anyhow::Result<(PathBuf, PathBuf)> {
    let tree = dir.join("tree");
    fs::create_dir_all(tree.join("script-bin"))?;
    let own = std::env::current_exe().context("finding this program")?;
    fs::copy(own, tree.join("gvad-soak")).context("copying this program")?;
    let drive = format!(
        "/run/gva/application/gvad-soak drive --application /run/gva/application --output /run/gva/output --scripts {} \
         --seconds {} --seed {seed} --progress /dev/console --pid-command 'systemctl show -P MainPID gvad'",
        plan.scripts, plan.seconds
    );
    // A unit of its own: what a script leaves behind would end with it.
    let text = format!(
        "#!/bin/sh\nexec systemd-run --quiet --unit soak /bin/sh -c \"{} > /dev/console 2>&1; systemctl poweroff\"\n",
        drive.replace('"', "\\\"")
    );
    let script = tree.join("script-bin").join(STARTER);
    fs::write(&script, text)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let (application, output) = (images.join("application.img"), images.join("output.img"));
    let inodes = (plan.scripts * 7).max(20_000).to_string();
    let size = format!("{}M", (plan.scripts * 40 / 1024).max(256));
    let tree: &OsStr = tree.as_os_str();
    let root = ["-E", "root_owner=0:0", "-d"].map(OsStr::new);
    make(
        "gva-app",
        &application,
        "256M",
        "20000",
        &[&root[..], &[tree]].concat(),
    )?;
    make("gva-output", &output, &size, &inodes, &[])?;
    Ok((application, output))
}

fn make(
    label: &str,
    image: &Path,
    size: &str,
    inodes: &str,
    more: &[&OsStr],
) -> anyhow::Result<()> {
    let mut command = Command::new("/usr/sbin/mke2fs");
    command
        .args(["-q", "-F", "-t", "ext4", "-L", label, "-N", inodes])
        .args(more)
        .arg(image)
        .arg(size);
    let made = command.status().context("running mke2fs")?;
    if made.success() {
        Ok(())
    } else {
        bail!("{command:?}: {made}")
    }
}

/// Mounts an image to read it, in a namespace of this process's own.
fn mounted(dir: &Path, name: &str, image: &Path) -> anyhow::Result<PathBuf> {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).context("making a mount namespace")?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("making the mounts private")?;
    let at = dir.join(name);
    fs::create_dir(&at)?;
    let mut command = Command::new("mount");
    let mounted = command
        .args(["-o", "loop,ro"])
        .arg(image)
        .arg(&at)
        .status()
        .context("running mount")?;
    if mounted.success() {
        Ok(at)
    } else {
        bail!("{command:?}: {mounted}")
    }
}
