//! Loop devices: an image file as a block device.
//!
//! Attached by `LOOP_CONFIGURE` (Linux 5.8), one atomic call, with `LO_FLAGS_AUTOCLEAR`: the kernel detaches the device when its last
//! user (the mount) is gone, even if this process was killed. loop(4).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// `struct loop_info64` of `linux/loop.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of `linux/loop.h`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

const EMPTY: LoopInfo64 = LoopInfo64 {
    device: 0,
    inode: 0,
    rdevice: 0,
    offset: 0,
    size_limit: 0,
    number: 0,
    encrypt_type: 0,
    encrypt_key_size: 0,
    flags: 0,
    file_name: [0; 64],
    crypt_name: [0; 64],
    encrypt_key: [0; 32],
    init: [0; 2],
};

mod ioctls {
    nix::ioctl_none_bad!(loop_ctl_get_free, 0x4C82);
    nix::ioctl_write_ptr_bad!(loop_configure, 0x4C0A, super::LoopConfig);
    nix::ioctl_write_ptr_bad!(blkroset, nix::request_code_none!(0x12, 93), libc::c_int);
    nix::ioctl_read_bad!(loop_get_status64, 0x4C05, super::LoopInfo64);
}

/// An attached loop device. It stays until nobody uses it; hold this until it is mounted.
#[derive(Debug)]
pub struct LoopDevice {
    /// Its node, such as `/dev/loop3`.
    pub path: PathBuf,
    /// The open device.
    pub file: File,
}

/// Attaches `backing` to the first free loop device. The device holds `backing` open, and with it any flock(2) on it.
///
/// # Errors
/// No loop device (`/dev/loop-control` missing, or none free), and those of loop(4).
pub fn attach(backing: &File, read_only: bool) -> io::Result<LoopDevice> {
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/loop-control")
        .map_err(|err| {
            io::Error::new(
                err.kind(),
                format!("opening /dev/loop-control: {err}; is the loop module there?"),
            )
        })?;
    // Between asking for a free device and taking it somebody else may be quicker.
    for _ in 0..64 {
        let number = free_device(control.as_raw_fd())?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let file = OpenOptions::new()
            .read(true)
            .write(!read_only)
            .custom_flags(libc::O_CLOEXEC)
            .open(&path)
            .map_err(|err| {
                io::Error::new(err.kind(), format!("opening {}: {err}", path.display()))
            })?;
        let flags = LO_FLAGS_AUTOCLEAR | if read_only { LO_FLAGS_READ_ONLY } else { 0 };
        let config = LoopConfig {
            fd: u32::try_from(backing.as_raw_fd()).unwrap_or(u32::MAX),
            block_size: 0,
            info: LoopInfo64 { flags, ..EMPTY },
            reserved: [0; 8],
        };
        match configure(file.as_raw_fd(), &config) {
            Ok(()) => {
                if !read_only {
                    set_writable(file.as_raw_fd())?;
                }
                return Ok(LoopDevice { path, file });
            }
            Err(Errno::EBUSY) => {}
            Err(err) => return Err(err.into()),
        }
    }
    Err(io::Error::from_raw_os_error(libc::EBUSY))
}

#[expect(unsafe_code, reason = "ioctl")]
fn free_device(control: RawFd) -> nix::Result<i32> {
    // SAFETY: the descriptor is open; LOOP_CTL_GET_FREE takes no argument.
    unsafe { ioctls::loop_ctl_get_free(control) }
}

#[expect(unsafe_code, reason = "ioctl")]
fn configure(device: RawFd, config: &LoopConfig) -> nix::Result<()> {
    // SAFETY: the descriptor is open, and `config` has the layout of the kernel's struct loop_config for the time of the call.
    unsafe { ioctls::loop_configure(device, config) }.map(drop)
}

/// A device number keeps what `blockdev --setro` once said of it, whatever file it is attached to later.
#[expect(unsafe_code, reason = "ioctl")]
fn set_writable(device: RawFd) -> nix::Result<()> {
    let read_only: libc::c_int = 0;
    // SAFETY: the descriptor is open, and the kernel reads one int.
    unsafe { ioctls::blkroset(device, &raw const read_only) }.map(drop)
}

/// A loop device that somebody already attached to a file.
#[derive(Debug)]
pub struct Attached {
    /// Its node.
    pub path: PathBuf,
    /// It cannot be written through.
    pub read_only: bool,
}

/// The loop devices among `nodes` (such as `/dev/loop0`) that are attached to the same file as `backing`.
///
/// # Errors
/// Those of fstat(2) on `backing`; a loop device that cannot be asked is passed over.
pub fn attached_to(
    backing: &File,
    nodes: impl IntoIterator<Item = PathBuf>,
) -> io::Result<Vec<Attached>> {
    let wanted = backing.metadata()?;
    Ok(nodes
        .into_iter()
        .filter_map(|path| {
            let info = status(&path).ok()?;
            let same = info.inode == wanted.ino() && info.device == wanted.dev();
            same.then_some(Attached {
                path,
                read_only: info.flags & LO_FLAGS_READ_ONLY != 0,
            })
        })
        .collect())
}

#[expect(unsafe_code, reason = "ioctl")]
fn status(path: &Path) -> io::Result<LoopInfo64> {
    let device = File::open(path)?;
    let mut info = EMPTY;
    // SAFETY: the descriptor is open, and `info` is a struct loop_info64 that the kernel fills.
    unsafe { ioctls::loop_get_status64(device.as_raw_fd(), &raw mut info) }?;
    Ok(info)
}
