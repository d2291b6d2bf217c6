//! One power cut: what it left, what recovery makes of it, and whether a promise was broken.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use gvad_crash_tests::check::{self, Damage};
use gvad_crash_tests::disk as found;
use gvad_crash_tests::ground::Ground;
use gvad_crash_tests::guest::{Fs, Guest, Kind, Layout, tool, unmount};
use gvad_crash_tests::invariants::about_file_system;
use gvad_crash_tests::watchdog::Watchdog;

use crate::disk::Disk;
use crate::record::ENDED;

/// What a power cut left.
#[derive(Debug)]
pub(crate) struct Cut {
    pub(crate) kind: Kind,
    pub(crate) disks: Vec<Disk>,
    /// What scripts had told, line by line.
    pub(crate) told: String,
    /// This one counted.
    pub(crate) crashes: usize,
}

/// The bytes of every result and of the output beside it, by run and file; and whether they are JSON from the ledger, of which the order of fields does not count.
type Results = BTreeMap<PathBuf, (Vec<u8>, bool)>;

/// Looks at it as it is, recovers it, starts gvad once more; gives what is wrong.
pub(crate) fn judge(
    ground: &Ground,
    cut: &Cut,
    name: &str,
    watchdog: &Watchdog,
) -> anyhow::Result<Vec<String>> {
    let guest = ground.empty_guest(name, cut.kind, false)?;
    fs::write(guest.dir.join("witness"), &cut.told)?;
    let told = guest.witness();
    let damage = Damage {
        crashes: cut.crashes,
        errors: false,
    };
    let mut wrong = Vec::new();
    let durable = before_recovery(&guest, cut, &told, damage, &mut wrong)?;
    for (disk, image) in cut.disks.iter().zip(cut.kind.layout.files()) {
        disk.save(&guest.dir.join(image))?;
    }
    let ended = guest.drain("log-1", watchdog)?;
    let (more, kept) = check::recovered(&guest, &ended, damage);
    wrong.extend(more);
    let looked = guest.look(|_, out| {
        about_durable(&guest, out, &durable, &told, &mut wrong);
        Ok(())
    });
    if let Err(err) = looked {
        wrong.push(format!("I9: the images cannot be looked at: {err:#}"));
    }
    if let Some((kept, told)) = kept {
        let ended = guest.drain("log-2", watchdog)?;
        wrong.extend(check::unchanged(&guest, &ended, &kept, &told));
    }
    if !wrong.is_empty() {
        let log = guest.log("log-1");
        wrong.push(format!(
            "told before the cut: {told:?}; recovery logged:\n{log}"
        ));
    }
    Ok(wrong)
}

/// Looks at copies of the disks whose journal the kernel has replayed, before any gvad sees them.
fn before_recovery(
    guest: &Guest,
    cut: &Cut,
    told: &[String],
    damage: Damage,
    wrong: &mut Vec<String>,
) -> anyhow::Result<Results> {
    let dir = guest.dir.join("before");
    fs::create_dir(&dir)?;
    let mut places: Vec<PathBuf> = Vec::new();
    for (disk, image) in cut.disks.iter().zip(cut.kind.layout.files()) {
        let (file, place) = (dir.join(image), dir.join(format!("{image}.mnt")));
        disk.save(&file)?;
        fs::create_dir(&place)?;
        if let Err(err) = mount(cut.kind.fs, &file, &place) {
            wrong.push(format!("I9: {image} cannot be mounted: {err:#}"));
            for place in &places {
                unmount(place)?;
            }
            return Ok(Results::new());
        }
        places.push(place);
    }
    let app = places.first().context("no disk")?;
    let out = match cut.kind.layout {
        Layout::Combined => app.join("output"),
        _ => places.last().context("no disk")?.clone(),
    };
    check::lying(guest, (app, &out), told, damage, wrong);
    if told.last().is_some_and(|line| line == ENDED) {
        check::about_all_done(guest, &out, wrong);
    }
    let mut results = Results::new();
    for result in found::results(&out, wrong) {
        let run = PathBuf::from(result.dir.file_name().unwrap_or_default());
        for file in ["result.json", "stdout", "stderr"] {
            let bytes = fs::read(result.dir.join(file)).unwrap_or_default();
            results.insert(run.join(file), (bytes, false));
        }
    }
    let lines = found::ledger(&out, &mut Vec::new());
    for kept in found::kept(&lines) {
        let run = PathBuf::from(kept["result"]["run_id"].as_str().unwrap_or(""));
        for file in ["stdout", "stderr"] {
            results.insert(run.join(file), (found::printed(&kept[file]), false));
        }
        let json = kept["result"].to_string().into_bytes();
        let file = results.entry(run.join("result.json"));
        file.or_insert((json, true));
    }
    for place in &places {
        unmount(place)?;
    }
    guest.wait_for_detached()?;
    for image in cut.kind.layout.files() {
        about_file_system(cut.kind.fs, &dir.join(image), wrong);
    }
    fs::remove_dir_all(&dir)?;
    Ok(results)
}

fn mount(fs: Fs, image: &Path, place: &Path) -> anyhow::Result<()> {
    let options = format!("loop,{}", fs.options());
    let mut mount = Command::new("mount");
    mount
        .args(["-o", options.trim_end_matches(',')])
        .arg(image)
        .arg(place);
    // The free loop device that mount(8) was told of may be another's by now.
    let mut tries = (0..10).map(|_| tool(&mut mount));
    match tries.find(Result::is_ok) {
        Some(_) => Ok(()),
        None => tool(&mut mount),
    }
}

/// What was durable stays, and only the last that ran can have been interrupted.
fn about_durable(
    guest: &Guest,
    out: &Path,
    durable: &Results,
    told: &[String],
    wrong: &mut Vec<String>,
) {
    let gvad = out.join("gvad");
    for (path, (bytes, json)) in durable {
        let now = fs::read(gvad.join(path)).ok();
        let same = now.is_some_and(|now| match json {
            true => found::same_json(&now, bytes),
            false => now == *bytes,
        });
        if !same {
            wrong.push(format!(
                "I4: {} was there before recovery, and is another now",
                path.display()
            ));
        }
    }
    let ran = |id: &str| told.iter().any(|line| line == id);
    let last = told
        .iter()
        .rfind(|line| guest.scripts.iter().any(|script| script.id == **line));
    let last = last.filter(|_| told.last().is_none_or(|line| line != ENDED));
    for result in found::results(out, &mut Vec::new()) {
        let mut scripts = guest
            .scripts
            .iter()
            .filter(|script| script.name == result.script);
        let over =
            scripts.all(|script| ran(script.id) && last.is_none_or(|last| last != script.id));
        // Of what the power cut before this one had interrupted nothing is known here.
        if result.outcome() == "interrupted"
            && over
            && !guest.kind.rerun
            && !durable_has(durable, &result)
        {
            wrong.push(format!(
                "I5: {} was over before another began, and is interrupted",
                result.script.to_string_lossy()
            ));
        }
    }
    if guest.kind.rerun {
        about_reruns(guest, told, last, wrong);
    }
}

fn durable_has(durable: &Results, result: &found::Found) -> bool {
    let run = PathBuf::from(result.dir.file_name().unwrap_or_default());
    durable.contains_key(&run.join("result.json"))
}

/// Only the last that ran may begin again.
fn about_reruns(guest: &Guest, told: &[String], last: Option<&String>, wrong: &mut Vec<String>) {
    let now = guest.witness();
    for script in &guest.scripts {
        let before = check::count(told, script.id);
        if before > 0
            && last.is_none_or(|last| last != script.id)
            && check::count(&now, script.id) > before
        {
            wrong.push(format!(
                "I1: {} was over before another began, and began again",
                script.id
            ));
        }
    }
}
