//! Compares what `gvad::sys::superblock` finds on real images with what `blkid` prints.
//!
//! Needs, by Debian package: e2fsprogs, xfsprogs, btrfs-progs, dosfstools, xorriso, squashfs-tools, erofs-utils, util-linux.

use gvad::sys::superblock::{Content, Superblock, probe};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Error, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

const MIB: u64 = 1024 * 1024;

/// Runs `program` in `directory`; `NotFound` if it is not installed.
fn run(directory: &Path, program: &str, arguments: &[&str]) -> io::Result<Vec<u8>> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Error::new(error.kind(), format!("{program}: {error}")))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::other(format!(
        "{program} {arguments:?}: {} {said}",
        output.status
    )))
}

/// A missing tool is a skip, and in CI a failure.
fn or_skip(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound && std::env::var_os("CI").is_none() => {
            println!("skipped: {error}");
            Ok(())
        }
        other => other,
    }
}

/// `\x20` and the like, as in the values of `ID_FS_LABEL_ENC`.
fn decoded(encoded: &str) -> Vec<u8> {
    let mut parts = encoded.split("\\x");
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.split_at(2);
        bytes.extend(u8::from_str_radix(code, 16));
        bytes.extend(rest.as_bytes());
    }
    bytes
}

/// Type, label and UUID. (`-o export` prints what is not ASCII as cat -v does; `-o udev` can be decoded.)
fn blkid(image: &Path) -> io::Result<(String, Vec<u8>, String)> {
    let image = image.to_string_lossy();
    let told = run(Path::new("/"), "blkid", &["-p", "-o", "udev", &image])?;
    let told = String::from_utf8_lossy(&told).into_owned();
    let mut values: HashMap<_, _> = told
        .lines()
        .filter_map(|line| line.split_once('='))
        .collect();
    let mut value = |key| values.remove(key).unwrap_or_default();
    Ok((
        value("ID_FS_TYPE").to_owned(),
        decoded(value("ID_FS_LABEL_ENC")),
        value("ID_FS_UUID").to_owned(),
    ))
}

fn ours(image: &Path) -> io::Result<Superblock> {
    let file = File::open(image)?;
    match probe(&file, file.metadata()?.len())? {
        Content::FileSystem(found) => Ok(found),
        other => Err(Error::other(format!("{}: {other:?}", image.display()))),
    }
}

/// What blkid and we say must be the same, and it must be `fstype` and `label`.
fn check(image: &Path, fstype: &str, label: &str) -> io::Result<Superblock> {
    let found = ours(image)?;
    let same = (
        found.fstype.to_owned(),
        found.label.clone(),
        found.uuid.clone(),
    );
    assert_eq!(same, blkid(image)?, "{}", image.display());
    assert_eq!(
        (found.fstype, OsStr::new(label).as_encoded_bytes()),
        (fstype, &found.label[..])
    );
    let medium = found.medium.as_bytes();
    assert!(
        medium
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b":-".contains(byte))
    );
    assert!(medium.len() <= 250, "{}", found.medium);
    Ok(found)
}

/// An empty image of `size` bytes, made into a file system by `program`, whose last argument is the image.
fn made(directory: &TempDir, size: u64, program: &str, arguments: &[&str]) -> io::Result<PathBuf> {
    let image = directory.path().join("image");
    if let Err(error) = std::fs::remove_file(&image) {
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
    File::create(&image)?.set_len(size)?;
    let mut arguments = arguments.to_vec();
    arguments.push("image");
    run(directory.path(), program, &arguments)?;
    Ok(image)
}

/// A directory with a file in it, to be packed.
fn tree() -> io::Result<TempDir> {
    let directory = tempfile::tempdir()?;
    std::fs::create_dir(directory.path().join("tree"))?;
    std::fs::write(
        directory.path().join("tree/hello.sh"),
        "#!/bin/sh\necho hello\n",
    )?;
    Ok(directory)
}

fn set_byte(image: &Path, at: u64, change: impl FnOnce(u8) -> u8) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(image)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[change(byte[0])], at)
}

#[test]
fn ext_is_told_as_blkid_tells_it() -> io::Result<()> {
    or_skip((|| {
        let directory = tempfile::tempdir()?;
        for (fstype, block, label) in [
            ("ext2", "1024", "gva-application"),
            ("ext3", "4096", "16-bytes-of-name"),
            ("ext4", "1024", "with  spaces"),
            ("ext4", "4096", "Größe"),
            ("ext4", "4096", ""),
        ] {
            let arguments = ["-q", "-F", "-t", fstype, "-b", block, "-L", label];
            let image = made(&directory, 16 * MIB, "mke2fs", &arguments)?;
            let found = check(&image, fstype, label)?;
            assert_eq!(
                (found.needs_recovery, found.keeps_journal),
                (false, fstype != "ext2")
            );
        }
        let arguments = ["-q", "-F", "-t", "ext4", "-O", "^has_journal"];
        let image = made(&directory, 16 * MIB, "mke2fs", &arguments)?;
        assert!(!check(&image, "ext4", "")?.keeps_journal);
        let arguments = ["-q", "-F", "-O", "journal_dev"];
        let journal = made(&directory, 16 * MIB, "mke2fs", &arguments)?;
        assert!(ours(&journal).is_err_and(|error| error.to_string().contains("journal")));
        Ok(())
    })())
}

#[test]
fn ext4_that_needs_recovery_is_told() -> io::Result<()> {
    or_skip((|| {
        let directory = tempfile::tempdir()?;
        let image = made(&directory, 16 * MIB, "mke2fs", &["-q", "-F", "-t", "ext4"])?;
        let before = ours(&image)?;
        set_byte(&image, 1024 + 0x60, |incompat| incompat | 4)?;
        let dirty = ours(&image)?;
        assert!(dirty.needs_recovery);
        assert_eq!(dirty.medium, before.medium);
        Ok(())
    })())
}

#[test]
fn xfs_is_told_as_blkid_tells_it() -> io::Result<()> {
    or_skip((|| {
        let directory = tempfile::tempdir()?;
        for (sector, label) in [("512", "gva-output"), ("4096", "twelve-bytes"), ("512", "")] {
            let sector = format!("size={sector}");
            let arguments = ["-q", "-f", "-s", &sector, "-L", label];
            let image = made(&directory, 320 * MIB, "mkfs.xfs", &arguments)?;
            check(&image, "xfs", label)?;
        }
        Ok(())
    })())
}

#[test]
fn btrfs_is_told_as_blkid_tells_it() -> io::Result<()> {
    or_skip((|| {
        let directory = tempfile::tempdir()?;
        for label in ["gva-output", "", &"x".repeat(240)] {
            let arguments = ["-q", "-f", "-L", label];
            let image = made(&directory, 128 * MIB, "mkfs.btrfs", &arguments)?;
            check(&image, "btrfs", label.trim_end())?;
        }
        Ok(())
    })())
}

#[test]
fn vfat_is_told_as_blkid_tells_it() -> io::Result<()> {
    or_skip((|| {
        let directory = tempfile::tempdir()?;
        for (bits, size, sector) in [
            ("12", 2, "512"),
            ("16", 32, "512"),
            ("16", 32, "2048"),
            ("32", 64, "512"),
            ("32", 320, "4096"),
        ] {
            for label in ["GVA-DATA", "ELEVEN CHAR", ""] {
                let mut arguments = vec!["-F", bits, "-S", sector];
                if !label.is_empty() {
                    arguments.extend(["-n", label]);
                }
                let image = made(&directory, size * MIB, "mkfs.vfat", &arguments)?;
                check(&image, "vfat", label)?;
            }
        }
        Ok(())
    })())
}

#[test]
fn iso9660_is_told_as_blkid_tells_it() -> io::Result<()> {
    or_skip((|| {
        let directory = tree()?;
        let image = directory.path().join("image");
        let mut media = Vec::new();
        for (options, label) in [
            (&["-R"][..], "GVA-APPLICATION"),
            (&["-R", "-J"], "gva-application"),
            (&["-J"], "Longer Than Sixteen Characters"),
            (&["-J"], "Größe 日本 x"),
            (&["-J"], "under_score"),
            (&["-R", "-iso-level", "4"], "level-4"),
            (&["-J", "--protective-msdos-label"], "HYBRID"),
        ] {
            let mut arguments = vec!["-as", "mkisofs", "-quiet", "-V", label, "-o", "image"];
            arguments.extend(options);
            arguments.push("tree");
            if image.exists() {
                std::fs::remove_file(&image)?;
            }
            run(directory.path(), "xorriso", &arguments)?;
            media.push(check(&image, "iso9660", label)?.medium);
        }
        let count = media.len();
        media.sort();
        media.dedup();
        assert_eq!(media.len(), count, "two images have one medium");
        Ok(())
    })())
}

#[test]
fn squashfs_is_told_as_blkid_tells_it() -> io::Result<()> {
    or_skip((|| {
        let directory = tree()?;
        let arguments = [
            "tree",
            "image",
            "-quiet",
            "-no-progress",
            "-noappend",
            "-all-time",
            "0",
            "-mkfs-time",
            "0",
        ];
        let image = directory.path().join("image");
        run(directory.path(), "mksquashfs", &arguments)?;
        let first = check(&image, "squashfs", "")?.medium;
        run(directory.path(), "mksquashfs", &arguments)?;
        assert_eq!(
            check(&image, "squashfs", "")?.medium,
            first,
            "the same content, made again"
        );
        std::fs::write(directory.path().join("tree/second.sh"), "#!/bin/sh\n")?;
        run(directory.path(), "mksquashfs", &arguments)?;
        assert_ne!(check(&image, "squashfs", "")?.medium, first);
        Ok(())
    })())
}

#[test]
fn erofs_is_told_as_blkid_tells_it() -> io::Result<()> {
    or_skip((|| {
        let directory = tree()?;
        // mkfs.erofs of Debian 12 cannot set a label.
        run(
            directory.path(),
            "mkfs.erofs",
            &["--quiet", "image", "tree"],
        )?;
        let image = directory.path().join("image");
        check(&image, "erofs", "")?;
        Ok(())
    })())
}

#[test]
fn damaged_ext4_is_still_named() -> io::Result<()> {
    or_skip((|| {
        let directory = tempfile::tempdir()?;
        let image = made(
            &directory,
            16 * MIB,
            "mke2fs",
            &["-q", "-F", "-t", "ext4", "-L", "bad"],
        )?;
        set_byte(&image, 1024 + 0x3fc, |checksum| !checksum)?;
        let found = ours(&image)?;
        assert_eq!((found.fstype, &found.label[..]), ("ext4", &b"bad"[..]));
        Ok(())
    })())
}
