//! Images that hold no file system, a damaged one, an unusual one, or one that something else stands in the way of.

use std::fs;

use crate::frame::{Expect, exits, neighbour_waits, that};
use crate::harness::{Guest, sh};

/// A line of shell that makes the image `$IMAGE`, which becomes the application.
fn image(line: &'static str) -> impl FnOnce(&Guest) {
    move |guest| {
        let bad = guest.text("bad.img");
        sh(&format!(
            "IMAGE='{bad}'; APP='{}'; {line}",
            guest.text("app.img")
        ));
        guest.set("application.source", bad);
        guest.set("application.wait", "1s");
    }
}

/// The image that the scripts are on is the application again.
pub(crate) fn back(guest: &Guest) {
    guest.set("application.source", guest.text("app.img"));
    guest.unset("application.fstype");
    guest.unset("application.options");
}

/// gvad's last word is one line with all of these; `$TEST` is the test's directory.
pub(crate) fn complains(words: &'static [&'static str]) -> Expect {
    that(move |seen| {
        let last = seen.ended.stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("gvad: "), "{}", seen.ended);
        for word in words {
            let word = word.replace(
                "$TEST",
                seen.guest.path("").to_str().unwrap().trim_end_matches('/'),
            );
            assert!(last.contains(&word), "{word:?} in {last:?}");
        }
    })
}

/// Bytes without any order, the same ones in every run.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..length).map(|_| next().to_le_bytes()[3]).collect()
}

rows! { Guest::with_output_image();
    image_of_no_length:
        image(": > $IMAGE") => [exits(2), neighbour_waits(), complains(&["$TEST/bad.img", "no file system that gvad knows (0 bytes"])], cure: back;
    image_of_one_byte:
        image("printf x > $IMAGE") => [exits(2), neighbour_waits(), complains(&["$TEST/bad.img holds no file system that gvad knows (0 bytes"])], cure: back;
    image_of_one_sector:
        image("truncate -s 512 $IMAGE") => [exits(2), neighbour_waits(), complains(&["holds no file system that gvad knows (512 bytes, no superblock found)"])], cure: back;
    image_of_zeros:
        image("truncate -s 1M $IMAGE") => [exits(2), neighbour_waits(), complains(&["holds no file system that gvad knows (1048576 bytes, no superblock found)"])], cure: back;
    image_of_random_bytes:
        |guest: &Guest| {
            fs::write(guest.path("noise"), noise(1 << 20)).unwrap();
            image("mv ${IMAGE%/*}/noise $IMAGE")(guest);
        } => [exits(2), neighbour_waits(), complains(&["holds no file system that gvad knows (1048576 bytes"])], cure: back;
    image_of_gigabytes_of_nothing:
        image("truncate -s 100G $IMAGE") => [exits(2), neighbour_waits(), complains(&["holds no file system that gvad knows (107374182400 bytes"])], cure: back;
    image_cut_off_within_its_superblock:
        image("head -c 1200 $APP > $IMAGE") => [exits(2), neighbour_waits(), complains(&["holds no file system that gvad knows"])], cure: back;
    image_cut_off_behind_its_superblock:
        image("head -c 64K $APP > $IMAGE") => [exits(2), neighbour_waits(), complains(&["$TEST/bad.img is ext4, but mounting it at $TEST/mnt/application failed: ", "see the kernel's log"])], cure: back;
    xfs_image_cut_off_in_the_middle:
        image("truncate -s 320M $IMAGE; mkfs.xfs -q $IMAGE; truncate -s 100M $IMAGE") => [exits(2), neighbour_waits(), complains(&["bad.img is xfs, but mounting it at", "see the kernel's log"])], cure: back;
    xfs_image_with_a_wrong_superblock:
        image("truncate -s 320M $IMAGE; mkfs.xfs -q $IMAGE; printf xxxxxxxx | dd of=$IMAGE bs=1 seek=200 conv=notrunc 2> /dev/null") => [
            exits(2), neighbour_waits(), complains(&["bad.img is xfs, but mounting it at"])], cure: back;
    btrfs_image_cut_off_in_the_middle:
        image("truncate -s 128M $IMAGE; mkfs.btrfs -q $IMAGE; truncate -s 4M $IMAGE") => [exits(2), neighbour_waits(), complains(&["bad.img is btrfs, but mounting it at"])], cure: back;
    squashfs_image_cut_off_in_the_middle:
        image("d=$(mktemp -d); head -c 300K /dev/urandom > $d/x; mksquashfs $d $IMAGE -quiet -no-progress; rm -r $d; truncate -s 100K $IMAGE") => [
            exits(2), neighbour_waits(), complains(&["bad.img is squashfs, but mounting it at"])], cure: back;
    erofs_image_with_a_wrong_superblock:
        image("mkfs.erofs --quiet $IMAGE /etc/apt; printf 'xxxxxxxx' | dd of=$IMAGE bs=1 seek=1040 conv=notrunc 2> /dev/null") => [
            exits(2), neighbour_waits(), complains(&["bad.img is erofs, but mounting it at"])], cure: back;
    ext4_image_with_a_feature_of_the_future:
        image("cp $APP $IMAGE; printf '\\377\\377\\377\\177' | dd of=$IMAGE bs=1 seek=$((1024 + 0x60)) conv=notrunc 2> /dev/null") => [
            exits(2), neighbour_waits(), complains(&["bad.img"])], cure: back;
    image_with_a_partition_table_of_pcs:
        image("truncate -s 8M $IMAGE; printf ',,L\\n' | sfdisk -q $IMAGE") => [exits(2), neighbour_waits(), complains(&["bad.img holds a partition table (MBR), not a file system"])], cure: back;
    image_with_a_partition_table_of_today:
        image("truncate -s 8M $IMAGE; printf 'label: gpt\\n,,L\\n' | sfdisk -q $IMAGE") => [exits(2), neighbour_waits(), complains(&["bad.img holds a partition table (GPT), not a file system"])], cure: back;
    image_that_is_encrypted:
        image("truncate -s 8M $IMAGE; printf 'LUKS\\272\\276\\0\\2' | dd of=$IMAGE conv=notrunc 2> /dev/null") => [exits(2), neighbour_waits(), complains(&["bad.img holds a LUKS container, not a file system"])], cure: back;
    image_of_swap_space:
        image("truncate -s 8M $IMAGE; chmod 600 $IMAGE; mkswap -q $IMAGE") => [exits(2), neighbour_waits(), complains(&["bad.img holds swap space, not a file system"])], cure: back;
    image_of_a_volume_group:
        image("truncate -s 8M $IMAGE; printf 'LVM2 001' | dd of=$IMAGE bs=1 seek=536 conv=notrunc 2> /dev/null") => [exits(2), neighbour_waits(), complains(&["bad.img holds an LVM physical volume, not a file system"])], cure: back;
    image_in_the_format_of_qemu:
        image("qemu-img create -q -f qcow2 $IMAGE 8M") => [exits(2), neighbour_waits(), complains(&["holds a disk image in QCOW2 format (convert it with \"qemu-img convert -O raw\")"])], cure: back;
    image_that_is_compressed:
        image("gzip -c $APP > $IMAGE") => [exits(2), neighbour_waits(), complains(&["holds data compressed with gzip (unpack it first)"])], cure: back;
    image_of_a_kind_that_gvad_does_not_mount:
        image("truncate -s 8M $IMAGE; printf 'NTFS    ' | dd of=$IMAGE bs=1 seek=3 conv=notrunc 2> /dev/null") => [exits(2), neighbour_waits(), complains(&["holds an NTFS file system, which gvad does not mount"])], cure: back;
    image_that_is_missing:
        image(":") => [exits(2), neighbour_waits(), complains(&["no application image $TEST/bad.img after waiting 1s"])], cure: back;
    image_that_is_a_pipe:
        image("mkfifo $IMAGE") => [exits(2), neighbour_waits(), complains(&["$TEST/bad.img is neither a block device, an image file nor a directory"])], cure: back;
    image_that_is_a_device_of_characters:
        image("ln -s /dev/zero $IMAGE") => [exits(2), neighbour_waits(), complains(&["$TEST/bad.img is neither a block device, an image file nor a directory"])], cure: back;
    image_that_is_a_link_to_itself:
        image("ln -s $IMAGE $IMAGE") => [exits(2), neighbour_waits(), complains(&["looking at $TEST/bad.img: Too many levels of symbolic links"])], cure: back;
    image_that_is_below_a_file:
        |guest: &Guest| guest.set("application.source", guest.text("app.img/x")) => [exits(2), neighbour_waits(), complains(&["looking at $TEST/app.img/x: Not a directory"])], cure: back;
    device_that_is_not_there:
        image("mknod $IMAGE b 240 77") => [exits(2), neighbour_waits(), complains(&["no application image $TEST/bad.img after waiting 1s"])], cure: back;
    label_that_no_device_has:
        |guest: &Guest| {
            guest.set("application.source", format!("LABEL={}", guest.label("never")));
            guest.set("application.wait", "300ms");
        } => [exits(2), neighbour_waits(), complains(&["no application image LABEL=never-", "after waiting 300ms"])], cure: back;
    type_that_the_image_is:
        |guest: &Guest| guest.set("application.fstype", "ext4") => [];
    type_that_the_image_is_not:
        |guest: &Guest| guest.set("application.fstype", "xfs") => [exits(2), neighbour_waits(), complains(&["$TEST/app.img holds ext4, and application.fstype says xfs"])], cure: back;
    option_that_the_file_system_does_not_know:
        |guest: &Guest| guest.set("application.options", "no_such_option=1") => [exits(2), neighbour_waits(), complains(&["$TEST/app.img is ext4, but", "a wrong option, or a damaged image: see the kernel's log"])], cure: back;
}
