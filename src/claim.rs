//! Claiming: a script is taken out of script-bin by one rename, so that nobody else runs it and everybody sees that it is taken.
//! On a medium that cannot be written it is taken where it lies, and the ledger alone remembers.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::ledger::Ledger;
use crate::ledger::line::{Identity, Medium};
use crate::scan::{Names, objection};
use crate::sys::dir::{Dir, Look};
use crate::sys::file::{self, Lease};

/// The directory in script-bin in which claims stand, a directory for each ledger.
pub const CLAIMS: &str = ".gvad";
/// So many names are tried for a script that is given back and whose own is taken.
const BESIDE: u32 = 1000;

/// script-bin, and beside the scripts the claims.
#[derive(Debug)]
pub struct ScriptBin {
    /// The directory.
    pub dir: Dir,
    /// This ledger's claims; `None` on a medium that cannot be written.
    pub claims: Option<Dir>,
    /// The file system.
    pub medium: Medium,
    /// A claim's rename must be synced before it is relied on: the file system keeps no journal.
    pub sync_claims: bool,
    /// Another machine may write here: nothing tells of open files, only that they settle.
    pub shared: bool,
}

/// A script that was opened and may be claimed.
#[derive(Debug)]
pub struct Opened {
    /// Its name.
    pub name: OsString,
    /// Its contents.
    pub file: File,
    /// Which file it was.
    pub identity: Identity,
    inode: (u64, u64),
}

/// What opening a script came to.
#[derive(Debug)]
pub enum Opening {
    /// It may be claimed.
    Ready(Opened),
    /// It is being written, or has not settled yet.
    NotYet(&'static str),
    /// It is gone, or no script any more.
    Gone,
}

/// A script that is ours.
#[derive(Debug)]
pub struct Claim {
    /// Its name.
    pub name: OsString,
    /// Its contents.
    pub file: File,
    /// Which file it was before.
    pub identity: Identity,
    /// It lies where it lay.
    pub in_place: bool,
}

/// What claiming came to.
#[derive(Debug)]
pub enum Claiming {
    /// It is ours.
    Claimed(Claim),
    /// Somebody else was quicker, or it was replaced: the next scan sees what is there.
    Lost,
    /// It could not be moved (an immutable file, a full disk), and is where it was.
    Refused(io::Error),
}

impl ScriptBin {
    /// The claims of other ledgers: names of their directories.
    ///
    /// # Errors
    /// They cannot be listed.
    pub fn other_ledgers(&self, ours: &str) -> io::Result<Vec<OsString>> {
        let Some(all) = self.all_claims()? else {
            return Ok(Vec::new());
        };
        Ok(all
            .names()?
            .into_iter()
            .filter(|name| name != ours)
            .collect())
    }

    /// The directory that holds all ledgers' claims, if there is one.
    ///
    /// # Errors
    /// It is there but cannot be opened.
    pub fn all_claims(&self) -> io::Result<Option<Dir>> {
        match self.dir.open_dir(CLAIMS) {
            Ok(dir) => Ok(Some(dir)),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// Opens the script `name` in script-bin and looks whether it is whole.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn look_into(
        &self,
        name: &OsStr,
        settling: &mut Settling,
        settle: Duration,
    ) -> io::Result<Opening> {
        let gone = |err: io::Error| {
            if err.kind() == io::ErrorKind::NotFound {
                Ok(Opening::Gone)
            } else {
                Err(err)
            }
        };
        let file = match self.dir.open_file(name) {
            Ok(file) => file,
            Err(err) => return gone(err),
        };
        // Held from here until the copy is made and the file closed; and only now nobody changes what is looked at.
        let lease = file::read_lease(&file)?;
        let look = Look::at(&file)?;
        // Between the listing and now somebody may have put something else there, or opened the directory to all.
        let open_to_all = Look::at(&self.dir)?.world_writable();
        if objection(name, &look, open_to_all).is_some() {
            return Ok(Opening::Gone);
        }
        if self.shared && !settling.settled(name, &look, settle) {
            return Ok(Opening::NotYet(
                "it changed a moment ago: waiting until it settles",
            ));
        }
        if lease == Lease::Writer {
            return Ok(Opening::NotYet("a process has it open for writing"));
        }
        let identity = Identity::of(&self.medium, name, &look);
        Ok(Opening::Ready(Opened {
            name: name.to_owned(),
            file,
            identity,
            inode: (look.device, look.inode),
        }))
    }

    /// Takes the script out of script-bin.
    ///
    /// # Errors
    /// It was moved, but then the image failed: recovery must look at what is there.
    pub fn claim(&self, opened: Opened) -> io::Result<Claiming> {
        let Opened {
            name,
            file,
            identity,
            inode,
        } = opened;
        let Some(claims) = &self.claims else {
            return Ok(Claiming::Claimed(Claim {
                name,
                file,
                identity,
                in_place: true,
            }));
        };
        match self.dir.rename_noreplace(&name, claims, &name) {
            Ok(()) => {}
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Claiming::Lost),
            Err(err) => return Ok(Claiming::Refused(err)),
        }
        let look = claims.look(&name)?;
        if (look.device, look.inode) != inode {
            // Swapped between look and claim. What was moved is not what was looked at: put it back and look anew.
            claims.rename_noreplace(&name, &self.dir, &name)?;
            return Ok(Claiming::Lost);
        }
        if self.sync_claims {
            claims.sync()?;
            self.dir.sync()?;
        }
        Ok(Claiming::Claimed(Claim {
            name,
            file,
            identity,
            in_place: false,
        }))
    }

    /// Opens a script that an earlier gvad claimed and did not start.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn resume(&self, name: &OsStr) -> io::Result<Option<Claim>> {
        let Some(claims) = &self.claims else {
            return Ok(None);
        };
        let file = claims.open_file(name)?;
        let look = Look::at(&file)?;
        let identity = Identity::of(&self.medium, name, &look);
        Ok(Some(Claim {
            name: name.to_owned(),
            file,
            identity,
            in_place: false,
        }))
    }

    /// Moves a claimed script that was not started back to where it was. Where another one of that name is there by now, it stands beside that.
    /// Tells under which name.
    ///
    /// # Errors
    /// It stays claimed.
    pub fn put_back(&self, name: &OsStr) -> io::Result<OsString> {
        let Some(claims) = &self.claims else {
            return Ok(name.to_owned());
        };
        let mut free = name.to_owned();
        let mut serial = 0;
        while let Err(err) = claims.rename_noreplace(name, &self.dir, &free) {
            if err.kind() != io::ErrorKind::AlreadyExists || serial == BESIDE {
                return Err(err);
            }
            serial += 1;
            free = beside(name, serial);
        }
        if self.sync_claims {
            self.dir.sync()?;
            claims.sync()?;
        }
        Ok(free)
    }

    /// Deletes a claimed script, whose result is durable.
    ///
    /// # Errors
    /// It stays, and the next start deletes it.
    pub fn delete(&self, name: &OsStr) -> io::Result<()> {
        match self
            .claims
            .as_ref()
            .map(|claims| claims.remove_protected(name))
        {
            Some(Err(err)) if err.kind() != io::ErrorKind::NotFound => Err(err),
            _ => Ok(()),
        }
    }

    /// Whether syncing script-bin lets the ledger forget: on an image that cannot be written now, claims that were made when it could be have not been
    /// looked at.
    #[must_use]
    pub fn settles(&self, ledger: &Ledger) -> bool {
        self.claims.is_some() || ledger.unsettled.iter().all(|(start, _)| start.in_place)
    }

    /// Makes the deletes durable. False if an error made the image read-only: nothing on it changes any more, and nothing may be forgotten.
    ///
    /// # Errors
    /// Others of fsync(2).
    pub fn sync(&self) -> io::Result<bool> {
        let Some(claims) = &self.claims else {
            return Ok(true);
        };
        match claims.sync().and_then(|()| self.dir.sync()) {
            Err(err) if err.kind() == io::ErrorKind::ReadOnlyFilesystem => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Removes the directories of claims if no claim is in them, so that the image looks as it did.
    pub fn tidy(self, ledger: &str) {
        if self.claims.is_some()
            && let Ok(Some(all)) = self.all_claims()
        {
            // Not empty is the expected reason to fail, and as good as any other.
            let _ = all.remove_dir(OsStr::new(ledger));
            let _ = self.dir.remove_dir(OsStr::new(CLAIMS));
        }
    }
}

/// A name for a script that is given back while another has its own; no longer than a file system allows.
fn beside(name: &OsStr, serial: u32) -> OsString {
    /// Of the 255 bytes, so many are left for what is added.
    const MOST: usize = 240;
    let name = name.as_bytes();
    let mut free = name.get(..MOST).unwrap_or(name).to_owned();
    free.extend(format!(".refused-{serial}").bytes());
    OsString::from_vec(free)
}

/// Opens script-bin in the image; it is made if the image can be written.
///
/// # Errors
/// `ELOOP`: a symbolic link leads there; `EXDEV`: something is mounted on it; `ENOENT`: it is missing, and the image cannot be written;
/// others of openat2(2).
pub fn open_script_bin(root: &Dir, script_bin: &Path, writable: bool) -> io::Result<Dir> {
    match root.open_dir(script_bin) {
        Err(err) if err.kind() == io::ErrorKind::NotFound && writable => {
            let mut at = root.try_clone()?;
            for part in script_bin.components() {
                at.ensure_dir(part.as_os_str(), 0o755)?;
                at = at.open_dir(part.as_os_str())?;
            }
            Ok(at)
        }
        other => other,
    }
}

/// Opens the directory of this ledger's claims in script-bin, and makes it if need be; `None` on an image that cannot be written.
///
/// # Errors
/// The image is full, or something else stands in its place.
pub fn open_claims(script_bin: &Dir, ledger: &str, writable: bool) -> io::Result<Option<Dir>> {
    if !writable {
        return Ok(None);
    }
    script_bin.ensure_dir(OsStr::new(CLAIMS), 0o700)?;
    let all = script_bin.open_dir(CLAIMS)?;
    all.ensure_dir(OsStr::new(ledger), 0o700)?;
    all.open_dir(ledger).map(Some)
}

/// Remembers since when each script on a share looks as it does.
#[derive(Debug, Default)]
pub struct Settling {
    seen: std::collections::HashMap<OsString, (Look, Instant)>,
}

impl Settling {
    fn settled(&mut self, name: &OsStr, look: &Look, settle: Duration) -> bool {
        match self.seen.get(name) {
            Some((before, since)) if before == look => since.elapsed() >= settle,
            _ => {
                self.seen.insert(name.to_owned(), (*look, Instant::now()));
                settle.is_zero()
            }
        }
    }

    /// Forgets all but these.
    pub fn keep(&mut self, names: &Names) {
        self.seen.retain(|name, _| names.contains(name));
    }
}
