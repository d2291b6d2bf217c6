//! Images: finding the device, file, directory or share that a source names, mounting it, and unmounting it again.

mod attachment;
mod find;
mod mounting;
mod presence;
mod probed;
mod register;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use serde::Serialize;
use tracing::{info, warn};

use crate::blocking::blocking;
use crate::ledger::line::Medium;
use crate::source::is_share;
use crate::sys::errno::EBUSY;
use crate::sys::mount;
pub use attachment::Attachment;
use find::Found;
pub use find::{Candidate, Sight};
pub use presence::Presence;
pub use probed::Probed;
pub use register::Register;

/// Mounting replays journals, which takes time; a device that answers nothing at all must still come to an end.
const MOUNT_BOUND: Duration = Duration::from_secs(300);
/// How long whoever uses an image may take to let it go before it is detached from under him.
const UNMOUNT_BOUND: Duration = Duration::from_secs(5);

/// What an image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The scripts.
    Application,
    /// The data.
    Data,
    /// The results.
    Output,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Role::Application => "application",
            Role::Data => "data",
            Role::Output => "output",
        })
    }
}

/// How an image is to be mounted.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What for.
    pub role: Role,
    /// As the configuration has it.
    pub source: String,
    /// `auto`, or a type.
    pub fstype: String,
    /// More mount options.
    pub options: String,
    /// Where.
    pub mount_point: PathBuf,
    /// Not even if it could be written.
    pub read_only: bool,
    /// What gvad has mounted.
    pub register: Register,
    /// What is known of the devices.
    pub probed: Probed,
    /// What the other images are on.
    pub taken: Vec<(Role, Attachment)>,
}

/// An image in use.
#[derive(Debug)]
pub struct Image {
    /// What for.
    pub role: Role,
    /// As the configuration has it.
    pub source: String,
    /// The device, or what else it is on.
    pub device: PathBuf,
    /// Where it can be reached.
    pub path: PathBuf,
    /// Type of the file system.
    pub fstype: String,
    /// It cannot be written.
    pub read_only: bool,
    /// Which file system it is.
    pub medium: Medium,
    /// Of its file system, as `blkid` prints it; empty if there is none.
    pub uuid: String,
    /// The block device that it is on.
    pub attachment: Option<Attachment>,
    /// The serial number of its disk.
    pub serial: Option<String>,
    /// gvad mounted it; so many mounts were at its place before.
    mounted_over: Option<usize>,
    register: Register,
}

impl Wanted {
    /// The complaint that its source names what is the image with the role `other` too: one file system cannot be both.
    #[must_use]
    pub fn is_taken(&self, other: Role) -> anyhow::Error {
        let Wanted { role, source, .. } = self;
        anyhow!(
            "{role}.source {source} is the {other} image already: leave it out, and the directory {role}/ on the application image is used"
        )
    }
}

fn naming(wanted: &Wanted) -> String {
    format!("{} image {}", wanted.role, wanted.source)
}

/// Finds and mounts the image; `None` if it is not there.
///
/// # Errors
/// It is there but cannot be used: one line that names source, device, type and the kernel's answer.
pub async fn attach(wanted: &Wanted) -> anyhow::Result<Option<Image>> {
    let own = wanted.clone();
    bounded(wanted, move || {
        let found = find::find(&own)?;
        found.map(|found| use_image(&own, found)).transpose()
    })
    .await
}

/// Mounts one of the media that a look gave; `None` if it is there no longer.
///
/// # Errors
/// As [`attach`].
pub async fn attach_medium(wanted: &Wanted, candidate: Candidate) -> anyhow::Result<Option<Image>> {
    let own = wanted.clone();
    bounded(wanted, move || {
        let mounted = mounting::device(&own, &candidate.path, None);
        if mounted.is_err() && !candidate.attachment.is_there() {
            return Ok(None);
        }
        mounted.map(Some)
    })
    .await
}

async fn bounded<T: Send + 'static>(
    wanted: &Wanted,
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    match tokio::time::timeout(MOUNT_BOUND, blocking(work)).await {
        Ok(done) => done
            .context("mounting")
            .flatten()
            .with_context(|| naming(wanted)),
        Err(_) => Err(anyhow!("the device did not answer within 5 minutes"))
            .with_context(|| naming(wanted)),
    }
}

/// Looks for all that may be taken as the application image; see [`Sight`]. May take as long as a device takes to answer.
///
/// # Errors
/// The devices cannot be listed, or the source names something of another kind.
pub fn sight(wanted: &Wanted, known: &[Attachment]) -> anyhow::Result<Sight> {
    find::sight(wanted, known).with_context(|| naming(wanted))
}

fn use_image(wanted: &Wanted, found: Found) -> anyhow::Result<Image> {
    match found {
        Found::Directory(path) => mounting::directory(wanted, path),
        Found::Share(tag) => mounting::share(wanted, &tag),
        Found::Device(path) => mounting::device(wanted, &path, None),
        Found::ImageFile(path) => mounting::file(wanted, &path),
    }
}

impl Image {
    /// Another machine may write to it.
    #[must_use]
    pub fn shared(&self) -> bool {
        is_share(&self.fstype)
    }

    /// gvad mounted it, and may do with the whole file system as it needs.
    #[must_use]
    pub fn own(&self) -> bool {
        self.mounted_over.is_some()
    }

    /// What a manifest must name to be for this image. Where there is no UUID (squashfs, shares, directories) it is where the configuration has it
    /// from.
    #[must_use]
    pub fn bound_by(&self) -> String {
        if self.uuid.is_empty() {
            format!("SOURCE={}", self.source)
        } else {
            format!("UUID={}", self.uuid)
        }
    }

    /// The kernel's number of its disk.
    #[must_use]
    pub fn diskseq(&self) -> Option<u64> {
        self.attachment.as_ref()?.diskseq
    }

    /// Unmounts it, if gvad mounted it, and with it whatever was mounted below.
    ///
    /// # Errors
    /// The kernel's answer. One that is in use is detached, which is no error: it goes away when its users end.
    pub async fn release(self) -> anyhow::Result<()> {
        let Some(keep) = self.mounted_over else {
            return Ok(());
        };
        let path = self.path.clone();
        let work = blocking(move || unmount(&path, keep));
        let done = match tokio::time::timeout(MOUNT_BOUND, work).await {
            Ok(done) => done.context("unmounting").flatten(),
            Err(_) => Err(anyhow!("the device did not answer within 5 minutes")),
        };
        done.with_context(|| {
            format!(
                "unmounting the {} image from {}",
                self.role,
                self.path.display()
            )
        })?;
        self.register.forget(&self.path)?;
        self.wait_until_free().await;
        info!(role = %self.role, at = %self.path.display(), "unmounted");
        Ok(())
    }

    /// An unmounted file system lives on while another mount namespace, made while it was mounted, shows it too; then the device is still in
    /// use, and its journal may not have been emptied.
    async fn wait_until_free(&self) {
        let until = Instant::now() + UNMOUNT_BOUND;
        while mounting::in_use(Path::new(&self.source), &self.device) {
            if Instant::now() >= until {
                return warn!(
                    "{} is still in use after unmounting it, perhaps in another mount namespace: do not read it yet",
                    self.device.display()
                );
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn unmount(path: &Path, keep: usize) -> anyhow::Result<()> {
    let until = Instant::now() + UNMOUNT_BOUND;
    loop {
        match mount::unmount_tree(path, keep, false) {
            Err(err) if err.raw_os_error() == Some(EBUSY) && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(err) if err.raw_os_error() == Some(EBUSY) => {
                warn!(
                    "{} is still in use: detaching it; it goes away when its users end",
                    path.display()
                );
                return Ok(mount::unmount_tree(path, keep, true)?);
            }
            other => return Ok(other?),
        }
    }
}
