//! Namespaces for a program that is to be started: a view of the file systems in which nothing that it writes stays, and a network with nothing in it.
//! What is to stay is for others to say.
//!
//! Made by a thread of their own, because unshare(2) parts a thread from the others; handed over as descriptors, which the new process enters by
//! setns(2). What is written lies in a tmpfs that goes away with the last process. Relies on overlayfs, or where the kernel has none on mount_setattr(2) (Linux 5.12).

use std::ffi::CString;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::{chdir, pivot_root};

use super::mountinfo;

const NONE: Option<&Path> = None;
/// What the kernel and the running system show of themselves: not kept on any disk, and needed as it is.
const LIVE: [&str; 4] = ["/proc", "/sys", "/dev", "/run"];

/// What the new process is to be in.
#[derive(Debug, Default)]
pub struct Namespaces {
    /// Of mounts; `None`: this process's.
    pub mounts: Option<OwnedFd>,
    /// Of the network; `None`: this process's.
    pub network: Option<OwnedFd>,
}

/// A view of the mounts in which writes are lost, but for some directories.
#[derive(Debug)]
pub struct View<'a> {
    /// Directories whose contents are the real ones.
    pub shared: &'a [&'a Path],
    /// A directory that is there and that nobody in the view needs; something is mounted on it while the view is being made, in the view only.
    pub scratch: &'a Path,
}

/// Makes what is asked for.
///
/// # Errors
/// What was tried, and what the kernel said.
pub fn make(view: Option<&View<'_>>, no_network: bool) -> io::Result<Namespaces> {
    std::thread::scope(|scope| {
        let work = || -> io::Result<Namespaces> {
            let mounts = view.map(make_view).transpose()?;
            let network = no_network.then(make_network).transpose()?;
            Ok(Namespaces { mounts, network })
        };
        let thread = std::thread::Builder::new().spawn_scoped(scope, work)?;
        let died = || io::Error::other("the thread that makes namespaces died");
        thread.join().map_err(|_| died())?
    })
}

/// Says what was being done.
fn doing<T>(what: &str, done: nix::Result<T>) -> io::Result<T> {
    done.map_err(|errno| {
        let err = io::Error::from(errno);
        io::Error::new(err.kind(), format!("{what}: {err}"))
    })
}

fn make_view(view: &View<'_>) -> io::Result<OwnedFd> {
    doing("making a mount namespace", unshare(CloneFlags::CLONE_NEWNS))?;
    let namespace = File::open("/proc/thread-self/ns/mnt")?;
    // What is unmounted outside goes away in here too, but nothing that is done in here is seen outside.
    let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    doing("parting the mounts", mount(NONE, "/", NONE, slave, NONE))?;
    let plan = Plan::new(view)?;
    let tmpfs = Some(Path::new("tmpfs"));
    let options = Some("mode=0755");
    let mounted = mount(tmpfs, view.scratch, tmpfs, MsFlags::empty(), options);
    doing("mounting a tmpfs for what is written", mounted)?;
    let scratch = Place::open(view.scratch)?;
    let root = scratch.path().join("root");
    fs::create_dir(&root)?;
    for (serial, (place, base)) in plan.based.iter().enumerate() {
        let target = beneath(&root, base);
        let written = lay_over(place, &target, &scratch, serial)
            .map_err(|err| naming("protecting", base, &err))?;
        if serial == 0 && !written {
            temporary(&root)?;
        }
    }
    for (place, path) in &plan.kept {
        share(place, path, &root, &plan.scratch).map_err(|err| naming("sharing", path, &err))?;
    }
    doing("entering the new root", chdir(&root))?;
    doing("changing the root", pivot_root(".", "."))?;
    doing("leaving the old root", umount2(".", MntFlags::MNT_DETACH))?;
    Ok(namespace.into())
}

/// Shows `place` as it is, with all that is mounted below it but the place for what is written.
fn share(place: &Place, path: &Path, root: &Path, scratch: &Path) -> io::Result<()> {
    let target = beneath(root, path);
    if !target.exists() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&target)?;
    }
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    let bound = mount(Some(&place.path()), &target, NONE, bind, NONE);
    doing("binding", bound)?;
    if scratch.starts_with(path) {
        let hidden = umount2(&beneath(root, scratch), MntFlags::MNT_DETACH);
        doing("hiding the place for what is written", hidden)?;
    }
    Ok(())
}

fn naming(what: &str, path: &Path, err: &io::Error) -> io::Error {
    io::Error::new(err.kind(), format!("{what} {}: {err}", path.display()))
}

/// `path` in the tree that will be the root. No part of it is a symbolic link.
fn beneath(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// A directory or file by descriptor, so that it can be named whatever is mounted over it, and without any character that options cannot hold.
struct Place(File);

impl Place {
    fn open(path: &Path) -> io::Result<Place> {
        let mut options = File::options();
        let options = options.read(true).custom_flags(libc::O_PATH);
        Ok(Place(options.open(path)?))
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

/// What is to be seen where.
struct Plan {
    /// Protected, the root first.
    based: Vec<(Place, PathBuf)>,
    /// As it is.
    kept: Vec<(Place, PathBuf)>,
    /// The place for what is written, without symbolic links.
    scratch: PathBuf,
}

impl Plan {
    fn new(view: &View<'_>) -> io::Result<Plan> {
        let mounts = mountinfo::list()?;
        let mounted = |path: &Path| mounts.iter().any(|mount| mount.path == path);
        let live = LIVE.iter().map(PathBuf::from).filter(|path| mounted(path));
        let mut wanted: Vec<_> = live.collect();
        for path in view.shared {
            match path.canonicalize() {
                Ok(path) => wanted.push(path),
                // What is not there needs no sharing.
                Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                Err(err) => return Err(naming("sharing", path, &err)),
            }
        }
        wanted.sort();
        wanted.dedup();
        let mut kept: Vec<(Place, PathBuf)> = Vec::new();
        for path in wanted {
            if !kept.iter().any(|(_, above)| path.starts_with(above)) {
                kept.push((Place::open(&path)?, path));
            }
        }
        let mut based = vec![(Place::open(Path::new("/"))?, PathBuf::from("/"))];
        let mut below: Vec<_> = mounts.into_iter().map(|mount| mount.path).collect();
        below.sort();
        below.dedup();
        for path in below {
            let known =
                path == Path::new("/") || kept.iter().any(|(_, above)| path.starts_with(above));
            // One that cannot be reached, such as one that lies under another, cannot be written either.
            if !known && let Ok(place) = Place::open(&path) {
                based.push((place, path));
            }
        }
        let scratch = view.scratch.canonicalize()?;
        Ok(Plan {
            based,
            kept,
            scratch,
        })
    }
}

/// Shows `lower` at `target`, so that nothing that is written there stays: by an overlay, or else read-only. True if it can be written.
fn lay_over(lower: &Place, target: &Path, scratch: &Place, serial: usize) -> io::Result<bool> {
    let flags = flags(lower)?;
    if lower.0.metadata()?.is_dir() && !flags.contains(MsFlags::MS_RDONLY) {
        let (upper, work) = (format!("{serial}-upper"), format!("{serial}-work"));
        let [upper, work] = [upper, work].map(|name| scratch.path().join(name));
        fs::create_dir(&upper)?;
        fs::create_dir(&work)?;
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.path().display(),
            upper.display(),
            work.display()
        );
        let overlay = Some(Path::new("overlay"));
        if mount(overlay, target, overlay, flags, Some(options.as_str())).is_ok() {
            return Ok(true);
        }
    }
    let bind = mount(Some(&lower.path()), target, NONE, MsFlags::MS_BIND, NONE);
    doing("binding", bind)?;
    doing("making it read-only", read_only(target))?;
    Ok(false)
}

/// Where the base system is read-only, hardly a program works without a place for its temporary files.
fn temporary(root: &Path) -> io::Result<()> {
    for path in ["tmp", "var/tmp"].map(|path| root.join(path)) {
        if path.is_dir() {
            let tmpfs = Some(Path::new("tmpfs"));
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
            let mounted = mount(tmpfs, &path, tmpfs, flags, Some("mode=1777"));
            doing("mounting a tmpfs for temporary files", mounted)?;
        }
    }
    Ok(())
}

/// The flags of a mount that must hold for what is laid over it as well.
fn flags(place: &Place) -> io::Result<MsFlags> {
    let stat = fstatvfs(&place.0)?;
    let kept = [
        (FsFlags::ST_RDONLY, MsFlags::MS_RDONLY),
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
    ];
    let there = kept
        .into_iter()
        .filter(|(flag, _)| stat.flags().contains(*flag));
    Ok(there.map(|(_, flag)| flag).collect())
}

/// Only the one flag is changed: a remount would take away nosuid and the like.
#[expect(unsafe_code, reason = "mount_setattr has no wrapper")]
fn read_only(target: &Path) -> nix::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let target = CString::new(target.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: a string that ends in NUL, and a structure of the size that is told; the kernel only reads them.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            target.as_ptr(),
            0,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(answer).map(drop)
}

/// A network with nothing but the loopback interface, which is up.
fn make_network() -> io::Result<OwnedFd> {
    doing(
        "making a network namespace",
        unshare(CloneFlags::CLONE_NEWNET),
    )?;
    let namespace = File::open("/proc/thread-self/ns/net")?;
    doing("bringing the loopback interface up", loopback_up())?;
    Ok(namespace.into())
}

/// netdevice(7)
#[expect(unsafe_code, reason = "ioctl")]
fn loopback_up() -> nix::Result<()> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    // SAFETY: takes no pointer.
    let socket: RawFd = Errno::result(unsafe { libc::socket(libc::AF_INET, kind, 0) })?;
    // SAFETY: just made, and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let flags = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or(0);
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags },
    };
    for (place, byte) in request.ifr_name.iter_mut().zip(*b"lo") {
        *place = byte.cast_signed();
    }
    // SAFETY: the kernel reads one ifreq, with a name that ends in NUL.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    Errno::result(answer).map(drop)
}
