//! Superblocks with some bytes changed at random, always the same ones: gvad mounts what the kernel takes, and says clearly what it does not.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use crate::frame::TELL;
use crate::harness::{Fs, Guest, Image, sh};
use crate::images::noise;

/// So many images of each type.
const IMAGES: usize = 12;

#[track_caller]
fn superblocks(fs: Fs, at: usize, length: usize) {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    let good = Image::empty(fs, guest.path("good.img"), &guest.label("fuz"));
    let mut superblock = vec![0; length];
    let opened = File::open(&good.path).unwrap();
    opened.read_exact_at(&mut superblock, at as u64).unwrap();
    let mut random = noise(IMAGES * 64).into_iter().map(usize::from);
    let mut next = || random.next().unwrap();
    let fuzzed = guest.path("fuzzed.img");
    guest.set("application.source", fuzzed.to_str().unwrap().to_owned());
    guest.set("application.wait", "100ms");
    for image in 0..IMAGES {
        let mut bytes = superblock.clone();
        for _ in 0..1 + next() % 6 {
            let place = (next() * 256 + next()) % length;
            bytes[place] = u8::try_from(next()).unwrap();
        }
        let good = good.path.display();
        sh(&format!(
            "cp --sparse=always '{good}' '{}'",
            fuzzed.display()
        ));
        let file = File::options().write(true).open(&fuzzed).unwrap();
        file.write_all_at(&bytes, at as u64).unwrap();
        drop(file);
        let ended = guest.drain();
        let last = ended.stderr.lines().last().unwrap_or_default();
        let clear = last.starts_with("gvad: ")
            && (last.contains("application image") || last.contains("nothing can be run"));
        assert!(
            ended.code == Some(0) || (ended.code == Some(2) && clear),
            "{fs:?} {image}: {ended}"
        );
        assert!(
            !ended.stderr.contains("panicked"),
            "{fs:?} {image}: {ended}"
        );
        guest.assert_unmounted();
    }
    guest.set("application.source", guest.text("app.img"));
    guest.script("a", TELL);
    guest.drain_ok();
    assert_eq!(guest.witness(), ["a"]);
    guest.assert_clean();
}

cases! { superblocks {
    superblocks_of_ext2: (Fs::Ext2, 1024, 0x180),
    superblocks_of_ext3: (Fs::Ext3, 1024, 0x180),
    superblocks_of_ext4: (Fs::Ext4, 1024, 0x400),
    superblocks_of_xfs: (Fs::Xfs, 0, 0x110),
    superblocks_of_btrfs: (Fs::Btrfs, 65536, 0x240),
    superblocks_of_squashfs: (Fs::Squashfs, 0, 96),
    superblocks_of_erofs: (Fs::Erofs, 1024, 128),
} }
