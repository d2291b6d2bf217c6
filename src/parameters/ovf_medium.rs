//! Discs that may carry an OVF environment: every attached iso9660, whatever its label. Each is mounted for a moment, where nobody else looks, to read
//! that one file; no disc has its turn by this.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::DirBuilder;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tracing::warn;

use super::{Found, ovf_env};
use crate::sys::blockdev::{self, BlockDevice};
use crate::sys::dir::Dir;
use crate::sys::mount;
use crate::sys::superblock::{self, Content};

/// The directory in `temp_dir` on which a disc is mounted.
const PLACE: &str = "ovf-env";
const FSTYPE: &str = "iso9660";

/// A device with what is in it now; another disc in the same drive has another `diskseq`.
pub type Key = (OsString, u64);

/// Where to look, and what was looked at before.
#[derive(Debug)]
pub struct Devices {
    /// `/sys/class/block`
    pub sys_class_block: PathBuf,
    /// `/dev`
    pub dev: PathBuf,
    /// To be passed by.
    pub known: HashSet<Key>,
}

/// A disc that carries an OVF environment, and what that says.
pub struct Carried {
    /// Its device.
    pub device: PathBuf,
    /// What it says.
    pub found: Found,
}

/// What a look came to.
#[derive(Default)]
pub struct Looked {
    /// In the order in which the discs were attached.
    pub carried: Vec<Carried>,
    /// What need not be looked at again.
    pub keys: Vec<Key>,
    /// What went wrong, a line each.
    pub problems: Vec<String>,
}

/// Looks at every disc that is not known. Waits for drives.
#[must_use]
pub fn look(devices: &Devices, temp_dir: &Path) -> Looked {
    let mut looked = Looked::default();
    if let Err(err) = look_at_all(devices, temp_dir, &mut looked) {
        let problem = format!("looking for the OVF environment: {err:#}");
        looked.problems.push(problem);
    }
    looked
}

fn look_at_all(devices: &Devices, temp_dir: &Path, looked: &mut Looked) -> anyhow::Result<()> {
    let place = Place::of(temp_dir)?;
    let mut discs: Vec<PathBuf> = Vec::new();
    let listed = blockdev::list(&devices.sys_class_block, &devices.dev);
    for device in listed.context("listing block devices")? {
        let key = device.diskseq.map(|seq| (device.name.clone(), seq));
        let known = key.as_ref().is_some_and(|key| devices.known.contains(key));
        if known || !may_be_a_disc(&device, &discs) || !is_iso9660(&device) {
            looked.keys.extend(key);
            continue;
        }
        discs.push(device.path.clone());
        let read = place.read(&device.path);
        match read.and_then(|bytes| bytes.as_deref().map(ovf_env::parse).transpose()) {
            Ok(None) => {}
            Ok(Some(found)) => looked.carried.push(Carried {
                device: device.path,
                found,
            }),
            Err(err) => looked.problems.push(format!(
                "the OVF environment, {} on {}: {err:#}",
                ovf_env::FILE,
                device.path.display()
            )),
        }
        looked.keys.extend(key);
    }
    Ok(())
}

/// What the guest made itself (a loop device on a file) the host has not attached. The first partition of a disc made for USB sticks too shows the disc again.
fn may_be_a_disc(device: &BlockDevice, discs: &[PathBuf]) -> bool {
    let made_here = device.name.as_bytes().starts_with(b"loop");
    let within = device.partition.as_ref();
    !made_here && within.is_none_or(|partition| !discs.contains(&partition.disk))
}

/// A device that cannot be read (an empty drive) is none.
fn is_iso9660(device: &BlockDevice) -> bool {
    let probe = || superblock::probe(&blockdev::open(&device.path)?, device.size);
    matches!(probe(), Ok(Content::FileSystem(found)) if found.fstype == FSTYPE)
}

/// Where discs are mounted; nobody but root can go there.
struct Place(PathBuf);

impl Place {
    /// What a gvad that was killed has left mounted there is unmounted.
    fn of(temp_dir: &Path) -> anyhow::Result<Place> {
        let temp_dir = temp_dir.canonicalize();
        let path = temp_dir.context("looking at run.temp_dir")?.join(PLACE);
        let place = Place(path);
        // If that cannot be, mounting tells why, should there be a disc.
        let _ = place.clear();
        Ok(place)
    }

    fn clear(&self) -> anyhow::Result<()> {
        let cleared = mount::unmount_tree(&self.0, 0, false)
            .or_else(|_| mount::unmount_tree(&self.0, 0, true))
            .and_then(|()| match std::fs::remove_dir(&self.0) {
                Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other,
            });
        cleared.with_context(|| format!("unmounting {}", self.0.display()))
    }

    /// The file on a disc; `None` if it has none.
    fn read(&self, device: &Path) -> anyhow::Result<Option<Vec<u8>>> {
        let made = DirBuilder::new().mode(0o700).create(&self.0);
        made.with_context(|| format!("making {}", self.0.display()))?;
        let read = self.mount_and_read(device);
        if let Err(err) = self.clear() {
            warn!("{err:#}");
        }
        read
    }

    fn mount_and_read(&self, device: &Path) -> anyhow::Result<Option<Vec<u8>>> {
        let source = OsStr::to_str(device.as_os_str()).context("a name that is no text")?;
        let request = mount::Request {
            source,
            fstype: FSTYPE,
            data: "",
            flags: &["noexec"],
            read_only: true,
        };
        mount::mount(&request, &self.0).context("mounting it")?;
        ovf_env::read(&Dir::open(&self.0)?)
    }
}
