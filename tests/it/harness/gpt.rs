//! A disk with a GUID partition table, written by hand: `sfdisk` is not everywhere.

use std::fs;
use std::path::PathBuf;

use super::Guest;

const SECTOR: usize = 512;
/// Where the partitions begin, in sectors.
const FIRST: u64 = 2048;
const ENTRIES: usize = 128 * 128;

/// Wraps the guest's application image into a disk: an empty partition, then one of that name with the image.
pub(crate) fn gpt(guest: &Guest, name: &str) -> PathBuf {
    let content = fs::read(guest.path("app.img")).unwrap();
    let length = (content.len() / SECTOR) as u64;
    let sectors = FIRST * 3 + length;
    let mut disk = vec![0; usize::try_from(sectors).unwrap() * SECTOR];
    let at = usize::try_from(FIRST * 2).unwrap() * SECTOR;
    disk[at..at + content.len()].copy_from_slice(&content);

    let seed = name.bytes().fold(7_u64, |sum, b| {
        sum.wrapping_mul(31).wrapping_add(u64::from(b))
    });
    let mut table = vec![0; ENTRIES];
    entry(&mut table[..128], seed, "empty", FIRST, 2 * FIRST - 1);
    entry(
        &mut table[128..256],
        seed + 1,
        name,
        2 * FIRST,
        2 * FIRST + length - 1,
    );

    // The protective partition record that old tools see.
    disk[446..462].copy_from_slice(&[
        0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f,
    ]);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let last = sectors - 1;
    for (here, other, entries) in [(1, last, 2), (last, 1, last - 32)] {
        let header = header(here, other, entries, sectors, seed, &table);
        let at = usize::try_from(here).unwrap() * SECTOR;
        disk[at..at + header.len()].copy_from_slice(&header);
        let at = usize::try_from(entries).unwrap() * SECTOR;
        disk[at..at + ENTRIES].copy_from_slice(&table);
    }
    let path = guest.path("disk.img");
    fs::write(&path, disk).unwrap();
    path
}

fn entry(slot: &mut [u8], seed: u64, name: &str, first: u64, last: u64) {
    let linux = [
        0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d,
        0xe4,
    ];
    slot[..16].copy_from_slice(&linux);
    slot[16..24].copy_from_slice(&seed.to_le_bytes());
    slot[24..32].copy_from_slice(&(!seed).to_le_bytes());
    slot[32..40].copy_from_slice(&first.to_le_bytes());
    slot[40..48].copy_from_slice(&last.to_le_bytes());
    for (i, unit) in name.encode_utf16().enumerate() {
        slot[56 + 2 * i..58 + 2 * i].copy_from_slice(&unit.to_le_bytes());
    }
}

fn header(here: u64, other: u64, entries: u64, sectors: u64, seed: u64, table: &[u8]) -> Vec<u8> {
    let mut header = b"EFI PART\0\0\x01\0\x5c\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    for number in [here, other, 34, sectors - 34] {
        header.extend(number.to_le_bytes());
    }
    header.extend([seed.to_le_bytes(), seed.to_be_bytes()].concat());
    header.extend(entries.to_le_bytes());
    header.extend(
        [
            128_u32.to_le_bytes(),
            128_u32.to_le_bytes(),
            crc32(table).to_le_bytes(),
        ]
        .concat(),
    );
    let sum = crc32(&header);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
    header
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| {
        if crc & 1 == 1 {
            (crc >> 1) ^ 0xedb8_8320
        } else {
            crc >> 1
        }
    };
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc))
    })
}
