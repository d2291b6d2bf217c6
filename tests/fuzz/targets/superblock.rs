//! A device: which file system stands on it, and what its partition table says. The input is where the device differs from zeros: how long it
//! is, then each time a place, a length and so many bytes. So what stands far apart is near in the input.
#![no_main]

use std::cell::Cell;
use std::io;
use std::os::unix::fs::FileExt;

use gvad::sys::partition::{Place, read};
use gvad::sys::superblock::{Content, probe};
use libfuzzer_sys::fuzz_target;

/// Where superblocks and what belongs to them stand.
const PLACES: [u64; 16] = [
    0, 0x200, 0x400, 0x438, 0x1000, 0x4000, 0x8000, 0x8800, 0x9000, 0x1_0000, 0x1_0040, 0x2_0000,
    0x10_0000, 0x3f_fe00, 0x3f_f000, 0x3f_0000,
];
const SIZES: [u64; 8] = [
    0,
    511,
    4096,
    0x1_0000,
    0x10_0000,
    0x40_0000,
    1 << 40,
    u64::MAX,
];

struct Device<'a> {
    size: u64,
    parts: Vec<(u64, &'a [u8])>,
    reads: Cell<usize>,
}

impl<'a> Device<'a> {
    fn new(input: &'a [u8]) -> Option<Device<'a>> {
        let (size, mut rest) = input.split_first()?;
        let mut parts = Vec::new();
        while let [place, low, high, more @ ..] = rest {
            let length = usize::from(u16::from_le_bytes([*low, *high])).min(more.len());
            let (bytes, behind) = more.split_at(length);
            parts.push((PLACES[usize::from(place % 16)], bytes));
            rest = behind;
        }
        Some(Device {
            size: SIZES[usize::from(size % 8)],
            parts,
            reads: Cell::new(0),
        })
    }
}

impl FileExt for Device<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.reads.set(self.reads.get() + 1);
        assert!(self.reads.get() < 2000, "too many reads");
        assert!(buffer.len() <= 2 << 20, "a read of {} bytes", buffer.len());
        let room = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let count = buffer.len().min(room);
        let buffer = &mut buffer[..count];
        buffer.fill(0);
        for &(start, bytes) in &self.parts {
            // What this part has in common with what is read.
            let (ahead, skipped) = (start.saturating_sub(offset), offset.saturating_sub(start));
            let ahead = usize::try_from(ahead).unwrap_or(usize::MAX);
            let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
            let to = buffer.get_mut(ahead..).unwrap_or_default();
            let from = bytes.get(skipped..).unwrap_or_default();
            let common = to.len().min(from.len());
            to[..common].copy_from_slice(&from[..common]);
        }
        Ok(count)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
        panic!("a prober writes nothing");
    }
}

fuzz_target!(|input: &[u8]| {
    let Some(device) = Device::new(input) else {
        return;
    };
    if let Content::FileSystem(found) = probe(&device, device.size).expect("only reading can fail")
    {
        let medium = found.medium.as_bytes();
        assert!(
            medium
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || b":-".contains(byte)),
            "{found:?}"
        );
        assert!(medium.len() <= 250, "{found:?}");
        assert!(
            found
                .uuid
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'),
            "{found:?}"
        );
        assert!(found.label.len() <= 256, "{found:?}");
    }
    for (number, block_size) in [(1, 512), (2, 4096), (128, 512), (u32::MAX, 65536), (0, 0)] {
        let place = Place {
            number,
            start: 0x10_0000,
            disk_size: device.size,
            block_size,
        };
        read(&device, place).expect("only reading can fail");
    }
});
