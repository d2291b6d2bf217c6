//! Opening a session: the locks, the ledger, script-bin, and what an earlier gvad left.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use tracing::warn;

use super::untouched::Untouched;
use super::{Carried, Session, refusal};
use crate::claim::{CLAIMS, ScriptBin, Settling, open_claims, open_script_bin};
use crate::config::Application;
use crate::context::Context;
use crate::image::{Image, Presence, Role};
use crate::job::{Unfiled, Workplace};
use crate::layout::Layout;
use crate::ledger::Ledger;
use crate::manifest::{Key, Manifest};
use crate::owner;
use crate::record::{DIRECTORY, OutputDir, is_full, last_directory};
use crate::recover::{Recovery, Resumed};
use crate::scan::{Told, scan};
use crate::stage;
use crate::sys::code;
use crate::sys::dir::Dir;
use crate::sys::lock::{Lock, Mode as LockMode, by_whom, lock_within};

/// A killed gvad's child lets go of all locks at once, and that of run.temp_dir has been waited for.
const LOCK_PATIENCE: Duration = Duration::from_millis(100);

/// What opening came to.
pub(super) enum Opening<'a> {
    /// Scripts can be run.
    Ready(Box<Session<'a>>),
    /// There is no script-bin, and none can be made.
    NoScriptBin(String),
    /// script-bin is there but may not be used.
    Refused(String),
    /// There is no room for the ledger or for what recovery has to record; and so many scripts wait.
    Full(String, usize),
}

/// Opens a session, if that can be done now.
pub(super) async fn open<'a>(
    ctx: &'a Context,
    layout: &Layout,
    carried: &mut Carried,
) -> anyhow::Result<Opening<'a>> {
    match open_all(ctx, layout, carried).await {
        Err(err) if err.downcast_ref().is_some_and(is_full) => {
            let waiting = count_scripts(ctx, layout).unwrap_or(0);
            Ok(Opening::Full(
                format!("the output image is full: {err:#}"),
                waiting,
            ))
        }
        other => other,
    }
}

fn count_scripts(ctx: &Context, layout: &Layout) -> io::Result<usize> {
    let Some(application) = layout.image(Role::Application) else {
        return Ok(0);
    };
    let root = Dir::open(&application.path)?;
    let dir = open_script_bin(&root, &ctx.config().application.script_bin, false)?;
    Ok(scan(&dir)?.scripts.len())
}

async fn open_all<'a>(
    ctx: &'a Context,
    layout: &Layout,
    carried: &mut Carried,
) -> anyhow::Result<Opening<'a>> {
    let config = ctx.config();
    let Some(application) = layout.image(Role::Application) else {
        bail!("no application image")
    };
    let root = Dir::open(&application.path).context("opening the application image")?;
    let mut locks = Vec::new();
    if !application.shared() {
        locks.push(lock(
            &root,
            &format!("the application image {}", application.source),
        )?);
    }
    let writable = !application.read_only;
    let path = &config.application.script_bin;
    let dir = match open_script_bin(&root, path, writable) {
        Ok(dir) => dir,
        Err(err) if err.kind() == io::ErrorKind::NotFound && !writable => {
            return Ok(Opening::NoScriptBin(format!(
                "{} is missing on an application image that cannot be written",
                path.display()
            )));
        }
        Err(err) => return Ok(Opening::Refused(refusal(&err, path))),
    };
    let places = layout.places(&config.run.temp_dir)?;
    let output = open_output(layout, &places.output, &config.run.temp_dir)?;
    locks.push(lock(
        output.gvad(),
        &format!("the output directory {}", places.output.display()),
    )?);
    let ledger = open_ledger(&output)?;
    let claims = match open_claims(&dir, ledger.id(), writable) {
        Ok(claims) => claims,
        Err(err) => return Ok(Opening::Refused(refusal(&err, &path.join(CLAIMS)))),
    };
    let mut work = Workplace {
        script_bin: script_bin(application, dir, claims),
        manifest: manifest(&config.application, application, &root)?,
        refusals: HashSet::new(),
        output,
        ledger,
        places,
        pending: None,
        unsynced: None,
        unfiled: Unfiled::default(),
        presence: Presence::of(&layout.images),
        verified: HashSet::new(),
        went_read_only: false,
        undeleted: false,
        spare: None,
    };
    let first = recover(ctx, &mut work, carried).await?;
    let gvad = work.output.gvad().try_clone()?;
    ctx.board.set_output(Some(gvad));
    ctx.flush.begin(own_images(layout)?);
    // What looked for images and recovered is not needed soon.
    code::give_back();
    Ok(Opening::Ready(Box::new(Session {
        ctx,
        root,
        writable,
        unchanging: application.own() && application.read_only && !application.shared(),
        seen_all: false,
        work,
        first: first.into(),
        settling: Settling::default(),
        told: Told::default(),
        watched: None,
        untouched: Untouched::of(application),
        since_settled: 0,
        unfinished_since: None,
        restless: true,
        own_images: own_images(layout)?,
        output_shared: layout.output_shared(),
        combined: layout.image(Role::Output).is_none(),
        _locks: locks,
    })))
}

/// Brings what an earlier gvad left to its end. Returns the claims that are to be run first.
async fn recover(
    ctx: &Context,
    work: &mut Workplace,
    carried: &mut Carried,
) -> anyhow::Result<Vec<Resumed>> {
    let config = ctx.config();
    let mut results = Vec::new();
    let recovery = Recovery {
        script_bin: &work.script_bin,
        output: &mut work.output,
        ledger: &mut work.ledger,
        run: &config.run,
        boot_id: &ctx.boot_id,
        pending: &carried.pending,
        results: &mut results,
        before: &mut |_| Ok(()),
    };
    let recovered = recovery.recover().await;
    for result in &results {
        result.log();
        ctx.board.finished(result);
    }
    let id = work.ledger.id();
    carried.pending.retain(|(ledger, result)| {
        ledger != id || !results.iter().any(|one| one.is_of(&result.run_id))
    });
    let (resumed, undeleted) = recovered.context("recovering what an earlier gvad left")?;
    // What this ledger still lacked it has now, or it had become durable after all.
    carried.pending.retain(|(ledger, _)| ledger != id);
    work.undeleted = undeleted;
    for (_, result) in &carried.pending {
        warn!(run = result.run_id, outcome = %result.outcome, "its result could not be recorded, and the output image is another one now: it is kept");
    }
    stage::remove_stale(&config.run.temp_dir).context("removing old private directories")?;
    Ok(resumed)
}

fn manifest(config: &Application, image: &Image, root: &Dir) -> anyhow::Result<Option<Manifest>> {
    if config.verify.is_empty() {
        return Ok(None);
    }
    let key = Key::parse(&config.verify).map_err(|wrong| anyhow!("application.verify: {wrong}"))?;
    let root = root.try_clone()?;
    let image = image.bound_by();
    Ok(Some(Manifest::new(key, image, root, &config.script_bin)))
}

fn own_images(layout: &Layout) -> anyhow::Result<Vec<Dir>> {
    let images = layout.images.iter();
    let written = images.filter(|image| image.own() && !image.read_only && !image.shared());
    let roots = written.map(|image| Dir::open(&image.path));
    roots.collect::<io::Result<_>>().context("opening an image")
}

fn open_output(layout: &Layout, path: &Path, temp_dir: &Path) -> anyhow::Result<OutputDir> {
    let root = Dir::open(path).context("opening the output directory")?;
    let name = if layout.output_shared() {
        owner::own_directory(&root, temp_dir)?
    } else {
        DIRECTORY.into()
    };
    OutputDir::open(root, name, one_commit(layout)).context("opening the output directory")
}

/// Whether the results are on a file system of which gvad knows that one commit of its journal carries everything.
fn one_commit(layout: &Layout) -> bool {
    let application = || {
        layout
            .image(Role::Application)
            .filter(|image| !image.read_only)
    };
    let output = layout.image(Role::Output).or_else(application);
    output.is_some_and(|image| {
        image.own() && image.medium.keeps_journal && matches!(&*image.fstype, "ext3" | "ext4")
    })
}

fn open_ledger(output: &OutputDir) -> anyhow::Result<Ledger> {
    let gvad = output.gvad().try_clone()?;
    let last = last_directory(output).context("listing the run directories")?;
    let opened = Ledger::open(gvad, last)?;
    if let Some(aside) = &opened.set_aside {
        warn!("the ledger on the output image is damaged; it is kept as {aside}");
    }
    Ok(opened.ledger)
}

fn script_bin(application: &Image, dir: Dir, claims: Option<Dir>) -> ScriptBin {
    ScriptBin {
        dir,
        claims,
        medium: application.medium.clone(),
        sync_claims: !application.medium.keeps_journal,
        shared: application.shared(),
    }
}

fn lock(dir: &Dir, what: &str) -> anyhow::Result<Lock> {
    match lock_within(dir, LockMode::Exclusive, LOCK_PATIENCE)
        .with_context(|| format!("locking {what}"))?
    {
        Some(lock) => Ok(lock),
        None => bail!(
            "another gvad{} works on {what}: only one may at a time",
            by_whom(dir)
        ),
    }
}
