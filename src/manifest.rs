//! The manifest: the names and SHA-256 of the scripts that an image may bring, signed for that image with the key of `application.verify`. Reads and
//! checks it, again when it changes, and compares scripts with it. What becomes of one that is refused is for `job`.

mod list;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use minisign_verify::{Error, PublicKey, Signature};

use list::{List, parse};

use crate::ledger::line::Identity;
use crate::name::shown;
use crate::scan::Names;
use crate::stage;
use crate::sys::dir::{Dir, Look};
use crate::sys::errno::ELOOP;

/// The largest manifest that is read, in bytes: some 50,000 scripts.
const LARGEST: u64 = 4 << 20;
/// The largest signature; minisign's comments have at most 8 KiB.
const LARGEST_SIGNATURE: u64 = 16 << 10;

/// The public key that manifests must be signed with.
#[derive(Clone)]
pub struct Key(PublicKey);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// Of a public key as minisign writes it: the whole file, or its second line alone.
    ///
    /// # Errors
    /// A text that says what is expected. It does not repeat what was given: that may be a secret key.
    pub fn parse(text: &str) -> Result<Key, String> {
        let key = text.lines().map(str::trim).rfind(|line| !line.is_empty());
        let parsed = PublicKey::from_base64(key.unwrap_or_default());
        parsed.map(Key).map_err(|_| {
            "not a public key of minisign: give the second line of its .pub file, 56 letters and digits that begin with RW"
                .to_owned()
        })
    }
}

/// What the two files look like.
type Pair = [Option<Look>; 2];

/// What an image's manifest says, as long as the files are as they were.
#[derive(Debug)]
pub struct Manifest {
    key: Key,
    image: String,
    root: Dir,
    paths: [PathBuf; 2],
    list: Result<List, String>,
    seen: Pair,
    /// What the files were like when the session began.
    first: Pair,
    /// It was read in this pass.
    fresh: bool,
    /// What was refused for its bytes, so that they are not read in every pass.
    hashed: HashMap<OsString, (Identity, String)>,
}

/// Why a script is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For people.
    pub reason: String,
    /// The manifest has changed and does not fit its signature: it may be on its way.
    pub awaited: bool,
}

impl Manifest {
    /// Of the image with this root, whose manifest must be for `image`, see [`crate::image::Image::bound_by`].
    #[must_use]
    pub fn new(key: Key, image: String, root: Dir, script_bin: &Path) -> Manifest {
        let beside = |end: &str| {
            let mut path = script_bin.as_os_str().to_owned();
            path.push(end);
            PathBuf::from(path)
        };
        let mut manifest = Manifest {
            key,
            image,
            root,
            paths: [beside(".manifest"), beside(".manifest.minisig")],
            list: Ok(List::new()),
            seen: [None; 2],
            first: [None; 2],
            fresh: false,
            hashed: HashMap::new(),
        };
        manifest.read();
        manifest.first = manifest.seen;
        manifest
    }

    /// A new look at script-bin begins, in which these scripts are.
    pub fn begin(&mut self, names: &Names) {
        self.fresh = false;
        self.hashed.retain(|name, _| names.contains(name));
    }

    /// Why the script must not be run; `None` if it is one of those that were signed.
    pub async fn refuses(
        &mut self,
        name: &OsStr,
        file: &File,
        identity: &Identity,
    ) -> Option<Refusal> {
        if self.look() != self.seen {
            self.read();
        }
        loop {
            let reason = self.objection(name, file, identity).await?;
            // A file that is written to twice in one tick of the clock looks the same: nothing is refused by what was read earlier.
            if self.fresh {
                let awaited = self.list.is_err() && self.seen != self.first;
                return Some(Refusal { reason, awaited });
            }
            self.read();
        }
    }

    async fn objection(
        &mut self,
        name: &OsStr,
        file: &File,
        identity: &Identity,
    ) -> Option<String> {
        let list = match &self.list {
            Ok(list) => list,
            Err(reason) => return Some(reason.clone()),
        };
        let Some(expected) = list.get(name) else {
            return Some(format!("it is not in {}", self.name(0)));
        };
        let known = self.hashed.get(name).filter(|(seen, _)| seen == identity);
        let sha256 = match known {
            Some((_, sha256)) => sha256.clone(),
            None => match stage::hash(file).await {
                Ok(sha256) => sha256,
                Err(err) => {
                    return Some(format!(
                        "reading it, to compare it with its manifest: {err}"
                    ));
                }
            },
        };
        if sha256 == *expected {
            return None;
        }
        let reason = format!("its SHA-256 is not the one in {}", self.name(0));
        self.hashed
            .insert(name.to_owned(), (identity.clone(), sha256));
        Some(reason)
    }

    /// Whether bytes with this SHA-256 are those that were signed under this name, as the manifest was when it was last read.
    #[must_use]
    pub fn has(&self, name: &OsStr, sha256: &str) -> bool {
        let list = self.list.as_ref().ok();
        list.and_then(|list| list.get(name))
            .is_some_and(|one| one == sha256)
    }

    fn name(&self, which: usize) -> String {
        let path = self.paths.get(which).map(|path| path.as_os_str());
        shown(path.unwrap_or_default())
    }

    fn look(&self) -> Pair {
        self.paths
            .each_ref()
            .map(|path| self.root.look(path.as_os_str()).ok())
    }

    fn read(&mut self) {
        // Looked at before it is read: what changes meanwhile is read once more.
        self.seen = self.look();
        self.fresh = true;
        self.list = self.signed_list();
    }

    fn signed_list(&self) -> Result<List, String> {
        let manifest = self.contents(0, LARGEST)?;
        let signature = self.contents(1, LARGEST_SIGNATURE)?;
        let signature = std::str::from_utf8(&signature).map_err(|_| Error::InvalidEncoding);
        let verified = signature
            .and_then(Signature::decode)
            // Signatures of the form that minisign made before 0.11 are as good.
            .and_then(|signature| self.key.0.verify(&manifest, &signature, true));
        match verified {
            Ok(()) => {}
            Err(Error::UnexpectedKeyId) => {
                return Err(format!(
                    "{} was made with another key than that of application.verify",
                    self.name(1)
                ));
            }
            Err(Error::InvalidSignature) => {
                return Err(format!(
                    "{} is no signature of {} as it is now",
                    self.name(1),
                    self.name(0)
                ));
            }
            Err(_) => return Err(format!("{} is no signature of minisign", self.name(1))),
        }
        parse(&manifest, &self.image).map_err(|wrong| format!("{}: {wrong}", self.name(0)))
    }

    fn contents(&self, which: usize, most: u64) -> Result<Vec<u8>, String> {
        let name = self.name(which);
        let Some(path) = self.paths.get(which) else {
            return Ok(Vec::new());
        };
        let file =
            self.root
                .open_if_file(path)
                .map_err(|err| match (err.kind(), err.raw_os_error()) {
                    (io::ErrorKind::NotFound, _) => format!("it is not signed: there is no {name}"),
                    (_, Some(ELOOP)) => format!("{name} is or lies behind a symbolic link"),
                    _ => format!("opening {name}: {err}"),
                })?;
        let mut bytes = Vec::new();
        file.take(most + 1)
            .read_to_end(&mut bytes)
            .map_err(|err| format!("reading {name}: {err}"))?;
        if bytes.len() as u64 > most {
            return Err(format!("{name} is larger than {} KiB", most >> 10));
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_what_minisign_wrote() {
        let key = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
        for text in [key.to_owned(), format!("untrusted comment: x\n{key}\n")] {
            Key::parse(&text).unwrap();
        }
        let longer = format!("{key}A");
        for text in ["", "x", &key[1..], &longer, "untrusted comment: x\n"] {
            let wrong = Key::parse(text).unwrap_err();
            assert!(text.is_empty() || !wrong.contains(&key[10..]), "{wrong}");
        }
    }
}
