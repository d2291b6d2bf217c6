//! Directories by descriptor: look, open, rename and remove names in them without ever following a symbolic link or leaving the
//! directory. What the names mean is for others.
//!
//! Relies on openat2(2) (Linux 5.6), renameat2(2), statx(2).

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::look::statx;
pub use super::look::{Kind, Look, Stamp};
use nix::dir::Dir as Listing;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, RenameFlags, ResolveFlag, openat, openat2, renameat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, fsync, unlinkat};

/// An open directory.
#[derive(Debug)]
pub struct Dir(OwnedFd);

impl Dir {
    /// Opens the directory at `path`; symbolic links in `path` are followed.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open(path: &Path) -> io::Result<Dir> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Dir(nix::fcntl::open(path, flags, Mode::empty())?))
    }

    /// Opens the directory `relative` beneath this one, through no symbolic link, `..` or other mount.
    ///
    /// # Errors
    /// `ELOOP`: a symbolic link; `EXDEV`: something is mounted there, or it leads out; else those of openat2(2).
    pub fn open_dir(&self, relative: impl AsRef<Path>) -> io::Result<Dir> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        Ok(Dir(self.open_beneath(relative.as_ref(), flags)?))
    }

    /// Opens the regular file `name` for reading, without ever waiting for a writer of a FIFO.
    ///
    /// # Errors
    /// As [`Dir::open_dir`].
    pub fn open_file(&self, name: impl AsRef<Path>) -> io::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        Ok(File::from(self.open_beneath(name.as_ref(), flags)?))
    }

    /// Opens `name` for reading if it is a regular file; anything else is not even opened, since opening a FIFO or a device has effects.
    ///
    /// # Errors
    /// As [`Dir::open_dir`]; also if it is no regular file.
    pub fn open_if_file(&self, name: impl AsRef<Path>) -> io::Result<File> {
        let no_file = || io::Error::other("it is not a regular file");
        let place = self.open_beneath(name.as_ref(), OFlag::O_PATH)?;
        let look = Look::at(&place)?;
        if look.kind != Kind::Regular {
            return Err(no_file());
        }
        let file = self.open_file(name)?;
        if Look::at(&file)?.inode != look.inode {
            return Err(no_file());
        }
        Ok(file)
    }

    fn open_beneath(&self, relative: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_XDEV,
        );
        // EAGAIN: a rename raced with the look-up and the kernel could not tell; openat2(2) says to try again.
        for _ in 0..16 {
            match openat2(&self.0, relative, how) {
                Err(Errno::EAGAIN) => {}
                other => return other,
            }
        }
        Err(Errno::EAGAIN)
    }

    /// Makes the file `name`, which must not exist, open for reading and writing.
    ///
    /// # Errors
    /// Those of openat(2), `EEXIST` among them.
    pub fn create(&self, name: &OsStr, mode: u32) -> io::Result<File> {
        let flags =
            OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(File::from(openat(
            &self.0,
            name,
            flags,
            Mode::from_bits_truncate(mode),
        )?))
    }

    /// Opens the file `name` for reading and writing, without following a symbolic link.
    ///
    /// # Errors
    /// Those of openat(2).
    pub fn open_write(&self, name: &OsStr) -> io::Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        Ok(File::from(openat(&self.0, name, flags, Mode::empty())?))
    }

    /// What `name` stands for; a symbolic link is not followed.
    ///
    /// # Errors
    /// Those of statx(2).
    pub fn look(&self, name: &OsStr) -> io::Result<Look> {
        statx(self.0.as_fd(), &CString::new(name.as_bytes())?, 0)
    }

    /// The names in the directory, without `.` and `..`, in no order.
    ///
    /// # Errors
    /// Those of openat(2) and readdir(3).
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        self.each_name(|name| names.push(name.to_owned()))?;
        Ok(names)
    }

    /// Hands over one after the other what [`Dir::names`] returns.
    ///
    /// # Errors
    /// As [`Dir::names`].
    pub fn each_name(&self, mut each: impl FnMut(&OsStr)) -> io::Result<()> {
        // A descriptor of its own: the position of a directory belongs to the open file, not to the number.
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut listing = Listing::openat(&self.0, ".", flags, Mode::empty())?;
        for entry in listing.iter() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                each(OsStr::from_bytes(name));
            }
        }
        Ok(())
    }

    /// Makes the directory `name`; one that is there already is fine.
    ///
    /// # Errors
    /// Those of mkdirat(2).
    pub fn ensure_dir(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        match self.make_dir(name, mode) {
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    /// Makes the directory `name`, which must not exist.
    ///
    /// # Errors
    /// Those of mkdirat(2), `EEXIST` among them.
    pub fn make_dir(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        Ok(mkdirat(&self.0, name, Mode::from_bits_truncate(mode))?)
    }

    /// Moves `name` to `to`/`to_name`, replacing what is there.
    ///
    /// # Errors
    /// Those of renameat(2).
    pub fn rename(&self, name: &OsStr, to: &Dir, to_name: &OsStr) -> io::Result<()> {
        Ok(nix::fcntl::renameat(&self.0, name, &to.0, to_name)?)
    }

    /// Moves `name` to `to`/`to_name`, where nothing may stand.
    ///
    /// # Errors
    /// `EEXIST`, and those of renameat2(2). A file system without `RENAME_NOREPLACE` (9p) gets a look and a plain rename: the
    /// directory that is moved into must be one that nobody else writes to.
    pub fn rename_noreplace(&self, name: &OsStr, to: &Dir, to_name: &OsStr) -> io::Result<()> {
        match renameat2(&self.0, name, &to.0, to_name, RenameFlags::RENAME_NOREPLACE) {
            Err(Errno::EINVAL | Errno::ENOSYS) => match to.look(to_name) {
                Ok(_) => Err(io::Error::from_raw_os_error(Errno::EEXIST as i32)),
                Err(err) if err.kind() == io::ErrorKind::NotFound => self.rename(name, to, to_name),
                Err(err) => Err(err),
            },
            other => Ok(other?),
        }
    }

    /// Gives the file `name` a second name, which nothing may have.
    ///
    /// # Errors
    /// `EEXIST`; `EPERM`: a directory, or a file system without hard links; others of linkat(2).
    pub fn link(&self, name: &OsStr, second: &OsStr) -> io::Result<()> {
        Ok(nix::unistd::linkat(
            &self.0,
            name,
            &self.0,
            second,
            AtFlags::empty(),
        )?)
    }

    /// Takes the attributes `i` and `a` of chattr(1) from `name`, a file or directory, if it has them: they keep even root from writing to it.
    ///
    /// # Errors
    /// It cannot be opened, or the attributes not be changed. A file system without attributes is no error.
    pub fn unprotect(&self, name: &OsStr) -> io::Result<()> {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = self.open_beneath(Path::new(name), flags)?;
        Ok(super::file::unprotect(&file)?)
    }

    /// Removes the file `name`, even if it was made immutable.
    ///
    /// # Errors
    /// Those of unlinkat(2).
    pub fn remove_protected(&self, name: &OsStr) -> io::Result<()> {
        match self.remove_file(name) {
            Err(err) if err.kind() == io::ErrorKind::PermissionDenied => {
                self.unprotect(name)?;
                super::file::unprotect(&self.0)?;
                self.remove_file(name)
            }
            other => other,
        }
    }

    /// Removes the file `name`.
    ///
    /// # Errors
    /// Those of unlinkat(2).
    pub fn remove_file(&self, name: &OsStr) -> io::Result<()> {
        Ok(unlinkat(&self.0, name, UnlinkatFlags::NoRemoveDir)?)
    }

    /// Removes the empty directory `name`.
    ///
    /// # Errors
    /// Those of unlinkat(2).
    pub fn remove_dir(&self, name: &OsStr) -> io::Result<()> {
        Ok(unlinkat(&self.0, name, UnlinkatFlags::RemoveDir)?)
    }

    /// Removes everything in this directory, but nothing beyond a mount: a script may have mounted a whole disk in its own
    /// directory. Needs no stack and few descriptors, however deep the tree.
    ///
    /// # Errors
    /// The first thing that could not be removed; the rest is tried all the same.
    pub fn remove_contents(&self) -> io::Result<()> {
        let mut first_error = None;
        let mut serial = 0_u64;
        loop {
            let mut progress = false;
            for name in self.names()? {
                match self.remove_entry(&name, &mut serial) {
                    Ok(()) => progress = true,
                    Err(err) => {
                        first_error.get_or_insert(err);
                    }
                }
            }
            if !progress {
                break;
            }
            first_error = first_error.filter(|_| false);
        }
        match self.names()?.is_empty() {
            true => Ok(()),
            false => Err(first_error
                .unwrap_or_else(|| io::Error::from_raw_os_error(Errno::ENOTEMPTY as i32))),
        }
    }

    /// Removes one entry; directories within a directory are first moved up to this level, so that no recursion is needed.
    fn remove_entry(&self, name: &OsStr, serial: &mut u64) -> io::Result<()> {
        if self.look(name)?.kind != Kind::Directory {
            return self.remove_file(name);
        }
        let inner = self.open_dir(name)?;
        for child in inner.names()? {
            if inner.look(&child)?.kind == Kind::Directory {
                *serial += 1;
                inner.rename(
                    &child,
                    self,
                    OsStr::from_bytes(format!(".removing-{serial}").as_bytes()),
                )?;
            } else {
                inner.remove_file(&child)?;
            }
        }
        self.remove_dir(name)
    }

    /// Makes what changed in this directory durable.
    ///
    /// # Errors
    /// Those of fsync(2). After one, what is on disk is not known; do not try again (the kernel may have dropped the data).
    pub fn sync(&self) -> io::Result<()> {
        match fsync(&self.0) {
            // Some file systems (9p, old FUSE) cannot sync a directory, and say so in this way.
            Err(Errno::EINVAL) => Ok(()),
            other => Ok(other?),
        }
    }

    /// A second descriptor of the same directory.
    ///
    /// # Errors
    /// Those of fcntl(2).
    pub fn try_clone(&self) -> io::Result<Dir> {
        Ok(Dir(self.0.try_clone()?))
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_deeper_than_the_descriptor_limit_is_removed() {
        let base = tempfile::tempdir().unwrap();
        let top = Dir::open(base.path()).unwrap();
        let mut at = top.try_clone().unwrap();
        for _ in 0..3000 {
            at.make_dir(OsStr::new("d"), 0o755).unwrap();
            at.create(OsStr::new("f"), 0o644).unwrap();
            at = at.open_dir("d").unwrap();
        }
        top.remove_contents().unwrap();
        assert!(top.names().unwrap().is_empty());
    }

    #[test]
    fn a_symbolic_link_is_neither_opened_nor_followed() {
        let base = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", base.path().join("link")).unwrap();
        let top = Dir::open(base.path()).unwrap();
        assert_eq!(
            top.open_dir("link").unwrap_err().raw_os_error(),
            Some(Errno::ELOOP as i32)
        );
        assert!(top.open_dir("..").is_err());
        assert_eq!(
            top.look(OsStr::new("link")).unwrap().kind,
            Kind::SymbolicLink
        );
    }
}
