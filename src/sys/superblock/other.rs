//! What gvad recognises but cannot mount, so that the message can name it: containers, foreign file systems, disk images in a
//! format of their own, partition tables.
//!
//! Layouts: `struct mdp_superblock_1` and `mdp_superblock_s` in the kernel's include/uapi/linux/raid/; UEFI specification,
//! section 5; magic numbers as in file(1) and libblkid.

use super::{Content, Disk, field, le32, le64};
use std::io;

pub(super) const RAID: &str = "a member of a RAID";
const LVM: &str = "an LVM physical volume";
const SWAP: &str = "swap space";
const UDF: &str = "a UDF file system, which gvad does not mount";
const HFS: &str = "an HFS+ file system, which gvad does not mount";

type Signature = (u64, &'static [u8], &'static str);

/// Asked before all file systems.
const CONTAINERS: [Signature; 11] = [
    (0, b"LUKS\xba\xbe", "a LUKS container"),
    (0, b"verity\0\0", "dm-verity hashes"),
    (0, b"integrt\0", "a dm-integrity container"),
    (3, b"-FVE-FS-", "a BitLocker container"),
    (24, b"LVM2 001", LVM),
    (512 + 24, b"LVM2 001", LVM),
    (1024 + 24, b"LVM2 001", LVM),
    (1536 + 24, b"LVM2 001", LVM),
    (
        4096 + 24,
        b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca",
        "a bcache device",
    ),
    (
        4096 + 24,
        b"\xc6\x85\x73\xf6\x66\xce\x90\xa9",
        "a bcachefs file system, which gvad does not mount",
    ),
    (
        0,
        b"QFI\xfb",
        "a disk image in QCOW2 format (convert it with \"qemu-img convert -O raw\")",
    ),
];

/// Asked after all file systems that gvad mounts.
const UNMOUNTABLE: [Signature; 25] = [
    (
        3,
        b"NTFS    ",
        "an NTFS file system, which gvad does not mount",
    ),
    (
        3,
        b"EXFAT   ",
        "an exFAT file system, which gvad does not mount",
    ),
    (
        3,
        b"ReFS\0\0\0\0",
        "a ReFS file system, which gvad does not mount",
    ),
    (
        1024,
        b"\x10\x20\xf5\xf2",
        "an F2FS file system, which gvad does not mount",
    ),
    (1024, b"H+\0\x04", HFS),
    (1024, b"HX\0\x05", HFS),
    (32, b"NXSB", "an APFS container, which gvad does not mount"),
    (34 * 1024 + 1, b"NSR02", UDF),
    (34 * 1024 + 1, b"NSR03", UDF),
    (
        32 * 1024,
        b"JFS1",
        "a JFS file system, which gvad does not mount",
    ),
    (
        64 * 1024 + 52,
        b"ReIsEr",
        "a ReiserFS file system, which gvad does not mount",
    ),
    (
        0,
        b"\x45\x3d\xcd\x28",
        "a cramfs file system, which gvad does not mount",
    ),
    (
        0,
        b"-rom1fs-",
        "a romfs file system, which gvad does not mount",
    ),
    (0, b"sqsh", "a squashfs older than 4.0"),
    (4096 - 10, b"SWAPSPAC", SWAP),
    (8192 - 10, b"SWAPSPAC", SWAP),
    (16384 - 10, b"SWAPSPAC", SWAP),
    (65536 - 10, b"SWAPSPAC", SWAP),
    (4096 - 10, b"S1SUSPEN", "a hibernated system"),
    (
        0,
        b"KDMV",
        "a disk image in VMDK format (convert it to a raw image)",
    ),
    (
        0,
        b"vhdxfile",
        "a disk image in VHDX format (convert it to a raw image)",
    ),
    (
        64,
        b"\x7f\x10\xda\xbe",
        "a disk image in VDI format (convert it to a raw image)",
    ),
    (
        0,
        b"\x1f\x8b\x08",
        "data compressed with gzip (unpack it first)",
    ),
    (
        0,
        b"\xfd7zXZ\0",
        "data compressed with xz (unpack it first)",
    ),
    (
        0,
        b"\x28\xb5\x2f\xfd",
        "data compressed with zstd (unpack it first)",
    ),
];

pub(super) fn container(disk: &Disk) -> io::Result<Option<Content>> {
    for at in [0, 4096] {
        if raid_1(disk, at)? {
            return Ok(Some(Content::Other(RAID)));
        }
    }
    first(disk, &CONTAINERS)
}

pub(super) fn unmountable(disk: &Disk) -> io::Result<Option<Content>> {
    first(disk, &UNMOUNTABLE)
}

fn first(disk: &Disk, signatures: &[Signature]) -> io::Result<Option<Content>> {
    for &(offset, magic, what) in signatures {
        if disk.has(offset, magic)? {
            return Ok(Some(Content::Other(what)));
        }
    }
    Ok(None)
}

/// Linux RAID with metadata 1.x at byte `at`, which it must itself name as its place.
fn raid_1(disk: &Disk, at: u64) -> io::Result<bool> {
    let Some(block) = disk.bytes::<256>(at)? else {
        return Ok(false);
    };
    Ok(le32(&block, 0) == 0xa92b_4efc && le32(&block, 4) == 1 && le64(&block, 144) == at / 512)
}

/// Linux RAID with metadata 1.0 or 0.90, which stand at the end and leave the start to the file system.
pub(super) fn raid_at_end(disk: &Disk) -> io::Result<bool> {
    if let Some(sector) = (disk.size / 512).checked_sub(16)
        && raid_1(disk, (sector & !7) * 512)?
    {
        return Ok(true);
    }
    let Some(at) = (disk.size & !0xffff).checked_sub(0x1_0000) else {
        return Ok(false);
    };
    let Some(block) = disk.bytes::<12>(at)? else {
        return Ok(false);
    };
    // In the byte order of the machine that made it.
    let little = le32(&block, 0) == 0xa92b_4efc && field(&block, 4) == [0, 0, 0, 0, 90, 0, 0, 0];
    let big = field(&block, 0) == 0xa92b_4efc_u32.to_be_bytes()
        && field(&block, 4) == [0, 0, 0, 0, 0, 0, 0, 90];
    Ok(little || big)
}

/// GPT (with sectors of 512 or 4096 bytes) or MBR.
pub(super) fn partition_table(disk: &Disk) -> io::Result<Option<Content>> {
    for sector in [512, 4096] {
        if disk.has(sector, b"EFI PART")? {
            return Ok(Some(Content::Other("a partition table (GPT)")));
        }
    }
    let Some(block) = disk.bytes::<512>(0)? else {
        return Ok(None);
    };
    let mut used = 0;
    for entry in block[446..510].chunks_exact(16) {
        let (flag, kind, sectors) = (entry[0], entry[4], le32(entry, 12));
        if flag & 0x7f != 0 {
            return Ok(None); // code of a boot sector
        }
        used += u32::from(kind != 0 && sectors != 0);
    }
    let table = block[510..] == [0x55, 0xaa] && used != 0;
    Ok(table.then_some(Content::Other("a partition table (MBR)")))
}
