//! What is mounted in this process's mount namespace: `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
//!
//! Read here and not by a crate because the crates at hand take mount points for text; a script may name its mount
//! point as it likes.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    /// Device number of the file system.
    pub major: u32,
    /// Device number of the file system.
    pub minor: u32,
    /// The directory in the file system that is the root of this mount.
    pub root: PathBuf,
    /// Where it is mounted.
    pub path: PathBuf,
    /// Type of the file system.
    pub fstype: String,
    /// The device, as whoever mounted it named it.
    pub source: OsString,
}

/// Everything that is mounted, in the order in which it was mounted.
///
/// # Errors
/// `/proc` is not there.
pub fn list() -> io::Result<Vec<MountPoint>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

fn parse(text: &[u8]) -> Vec<MountPoint> {
    text.split(|&byte| byte == b'\n')
        .filter_map(parse_line)
        .collect()
}

/// `36 35 98:0 /root /mount/point options [optional…] - fstype source super-options`
fn parse_line(line: &[u8]) -> Option<MountPoint> {
    let mut fields = line.split(|&byte| byte == b' ');
    let device = std::str::from_utf8(fields.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let root = PathBuf::from(unescape(fields.next()?));
    let path = PathBuf::from(unescape(fields.next()?));
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    Some(MountPoint {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        root,
        path,
        fstype: String::from_utf8_lossy(rest.next()?).into_owned(),
        source: unescape(rest.next()?),
    })
}

/// Undoes the kernel's `\040` for a space and the like.
fn unescape(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(value) if byte == b'\\' => {
                plain.push(value);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                plain.push(byte);
                rest = tail;
            }
        }
    }
    OsString::from_vec(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_with_spaces_and_other_bytes_is_read() {
        let line = b"36 35 7:3 / /mnt/a\\040b\\134c\xff rw,noatime master:1 shared:2 - ext4 /dev/loop3 rw,errors=remount-ro\n";
        let mounts = parse(line);
        assert_eq!(mounts.len(), 1);
        assert_eq!(
            mounts[0].path,
            PathBuf::from(OsString::from_vec(b"/mnt/a b\\c\xff".to_vec()))
        );
        assert_eq!((mounts[0].major, mounts[0].minor), (7, 3));
        assert_eq!(mounts[0].fstype, "ext4");
        assert_eq!(mounts[0].source, "/dev/loop3");
    }

    #[test]
    fn garbage_is_passed_over() {
        assert!(parse(b"\n-\n36 35\n36 35 x:y / / - a b\n\\\\\\").is_empty());
    }
}
