//! A package that somebody hands over, as a tar or as a directory: its files, by name, and how to read them.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::OFlag;

use super::archive::{self, Member};

/// Where the files are.
#[derive(Debug)]
enum Place {
    Tar(File),
    Directory(PathBuf),
}

/// An opened package.
#[derive(Debug)]
pub(super) struct Package {
    path: PathBuf,
    place: Place,
    /// In a tar all its members; in a directory those that were asked for so far.
    members: Vec<Member>,
}

impl Package {
    /// Opens an OVA, or the descriptor of a package that is a directory. What is wrong with the tar goes to `findings`.
    pub(super) fn open(path: &Path, findings: &mut Vec<String>) -> Result<Self> {
        let opening = || format!("opening {}", path.display());
        let mut file = open_plain(path, OFlag::O_NONBLOCK).with_context(opening)?;
        let is_descriptor = path.extension().is_some_and(|extension| extension == "ovf");
        if is_descriptor {
            let directory = path.parent().unwrap_or(Path::new("")).to_owned();
            let name = path.file_name().and_then(|name| name.to_str());
            let member = Member {
                name: name
                    .with_context(|| format!("{} is no UTF-8", path.display()))?
                    .to_owned(),
                offset: 0,
                size: file.metadata()?.len(),
            };
            return Ok(Self {
                path: path.to_owned(),
                place: Place::Directory(directory),
                members: vec![member],
            });
        }
        let members = archive::list(&mut file, findings)
            .with_context(|| format!("reading {}", path.display()))?;
        if members.is_empty() {
            let why = findings
                .first()
                .map_or("there is no file in it", String::as_str);
            bail!("{} is no OVA: {why}", path.display());
        }
        Ok(Self {
            path: path.to_owned(),
            place: Place::Tar(file),
            members,
        })
    }

    pub(super) fn is_tar(&self) -> bool {
        matches!(self.place, Place::Tar(_))
    }

    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    pub(super) fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }

    /// In a directory: looks whether a file is there, and takes it for a member.
    pub(super) fn look_for(&mut self, name: &str) {
        let Place::Directory(directory) = &self.place else {
            return;
        };
        if self.members.iter().any(|member| member.name == name)
            || archive::plain_name(name).is_err()
        {
            return;
        }
        if let Ok(file) = open_plain(&directory.join(name), OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK)
            && let Ok(about) = file.metadata()
        {
            self.members.push(Member {
                name: name.to_owned(),
                offset: 0,
                size: about.len(),
            });
        }
    }

    /// The file on the host that holds a member, and where in it the member begins.
    pub(super) fn host_file(&self, member: &Member) -> PathBuf {
        match &self.place {
            Place::Tar(_) => self.path.clone(),
            Place::Directory(directory) => directory.join(&member.name),
        }
    }

    /// A member's bytes.
    pub(super) fn reader(&self, member: &Member) -> Result<impl Read> {
        let mut file = match &self.place {
            Place::Tar(file) => file.try_clone()?,
            Place::Directory(directory) => open_plain(
                &directory.join(&member.name),
                OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK,
            )
            .with_context(|| format!("opening {}", member.name))?,
        };
        file.seek(SeekFrom::Start(member.offset))?;
        Ok(file.take(member.size))
    }

    /// The whole of a short member, as text.
    pub(super) fn text(&self, member: &Member, limit: u64) -> Result<String> {
        if member.size > limit {
            bail!(
                "{} has {} bytes, and no more than {limit} are read",
                member.name,
                member.size
            );
        }
        let mut text = String::new();
        self.reader(member)?
            .read_to_string(&mut text)
            .with_context(|| format!("reading {}", member.name))?;
        Ok(text)
    }
}

fn open_plain(path: &Path, flags: OFlag) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)?;
    if !file.metadata()?.is_file() {
        bail!("it is not a plain file");
    }
    Ok(file)
}
