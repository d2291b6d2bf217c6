//! A drain whose disks remember every write.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use gvad_crash_tests::ground::Ground;
use gvad_crash_tests::guest::{Guest, Kind, tool, unmount};
use gvad_crash_tests::watchdog::Watchdog;

use crate::disk::Disk;
use crate::log::{Entry, Log};
use crate::server::{MARK, Server};

/// What a mark says when gvad has ended and all is done.
pub(crate) const ENDED: &str = "ended 0";

/// A drain that was logged.
#[derive(Debug)]
pub(crate) struct Recording {
    pub(crate) kind: Kind,
    pub(crate) log: Log,
    /// What scripts had told before.
    pub(crate) told: String,
    /// How often the power had been cut before.
    pub(crate) crashes: usize,
}

/// The disks with which a guest of this kind begins.
pub(crate) fn first_disks(ground: &Ground, kind: Kind) -> anyhow::Result<Vec<Disk>> {
    let images = kind.layout.files().map(|image| {
        Disk::read(&ground.template_of(kind, image)).with_context(|| format!("reading {image}"))
    });
    images.collect()
}

/// Runs a drain on these disks.
pub(crate) fn record(
    ground: &Ground,
    kind: Kind,
    disks: Vec<Disk>,
    told: String,
    crashes: usize,
) -> anyhow::Result<Recording> {
    let guest = ground.empty_guest("recorded", kind, false)?;
    let media = guest.dir.join("media");
    fs::create_dir(&media)?;
    let log = Log {
        names: kind.layout.files().map(str::to_owned).collect(),
        disks,
        entries: Vec::new(),
    };
    let server = Server::start(log, &media).context("serving the disks")?;
    for image in kind.layout.files() {
        symlink(media.join(image), guest.dir.join(image))?;
    }
    symlink(media.join(MARK), guest.dir.join("witness"))?;
    let ended = guest.drain("log-0", &Watchdog::start())?;
    if ended.timed_out || !matches!(ended.code, Some(0 | 1)) {
        bail!("gvad ends with {:?}: {}", ended.code, ended.log);
    }
    mark(&media, ENDED)?;
    wait_for_detached(&guest)?;
    Ok(Recording {
        kind,
        log: server.end()?,
        told,
        crashes,
    })
}

fn mark(media: &Path, text: &str) -> anyhow::Result<()> {
    let mut mark = fs::OpenOptions::new().append(true).open(media.join(MARK))?;
    Ok(mark.write_all(format!("{text}\n").as_bytes())?)
}

/// The kernel detaches a loop device in its own time, and writes to it until then.
fn wait_for_detached(guest: &Guest) -> anyhow::Result<()> {
    for _ in 0..2000 {
        if guest.loops().is_empty() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(5));
    }
    bail!("a loop device stays on an image: {:?}", guest.loops())
}

/// Proves that the log has what a power cut needs: the data of a file that was synced lie in it before a flush, and that before whatever came later;
/// the data of a file that nobody synced do not.
pub(crate) fn prove_flush(ground: &Ground, kind: Kind, direct: bool) -> anyhow::Result<()> {
    let guest = ground.empty_guest("proof", kind, false)?;
    let (media, place) = (guest.dir.join("media"), guest.dir.join("mnt/proof"));
    fs::create_dir(&media)?;
    fs::create_dir(&place)?;
    let image = kind.layout.files().next().context("no image")?;
    let log = Log {
        names: vec![image.to_owned()],
        disks: first_disks(ground, kind)?.into_iter().take(1).collect(),
        entries: Vec::new(),
    };
    let server = Server::start(log, &media).context("serving the disks")?;
    let device = attach(&media.join(image), direct)?;
    tool(Command::new("mount").arg(&device).arg(&place))?;
    mark(&media, "first")?;
    let mut synced = fs::File::create(place.join("synced"))?;
    synced.write_all(&[0xa5; 50_000])?;
    synced.sync_data()?;
    mark(&media, "second")?;
    fs::File::create(place.join("not-synced"))?.write_all(&[0x5a; 50_000])?;
    mark(&media, "third")?;
    drop(synced);
    unmount(&place)?;
    tool(Command::new("losetup").arg("-d").arg(&device))?;
    wait_for_detached(&guest)?;
    let log = server.end()?;
    let find = |is: &dyn Fn(&Entry) -> bool| log.entries.iter().position(is);
    let told =
        |what: &str| find(&|entry| matches!(entry, Entry::Mark(text) if text.trim() == what));
    let data = |byte: u8| {
        let sector = [byte; 512];
        let filled = move |data: &[u8]| data.chunks(512).any(|piece| *piece == sector);
        find(&move |entry| matches!(entry, Entry::Write { data, .. } if filled(data)))
    };
    let flush_after = |at: usize| {
        let later = log.entries.iter().skip(at);
        let mut flushes = later
            .enumerate()
            .filter(|(_, entry)| matches!(entry, Entry::Flush { .. }));
        flushes.next().map(|(further, _)| at + further)
    };
    let (first, second, third) = (told("first"), told("second"), told("third"));
    let written = data(0xa5);
    let flushed = written.and_then(flush_after);
    let in_order = first < written && written < flushed && flushed < second && second < third;
    // Before the image is unmounted nobody need write it; what was written later is no proof of anything.
    let early = data(0x5a).is_some_and(|at| Some(at) < third);
    if first.is_none() || written.is_none() || !in_order || early {
        bail!(
            "marks {first:?} {second:?} {third:?}, written {written:?}, flushed {flushed:?}, unsynced data early: {early}"
        );
    }
    Ok(())
}

fn attach(image: &Path, direct: bool) -> anyhow::Result<String> {
    let mut losetup = Command::new("losetup");
    let direct = if direct {
        "--direct-io=on"
    } else {
        "--direct-io=off"
    };
    let output = losetup.args(["--show", "-f", direct]).arg(image).output()?;
    if !output.status.success() {
        bail!("losetup: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
