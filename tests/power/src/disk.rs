//! A disk's contents in memory: sparse, and cheap to copy, for every power cut has its own.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use nix::unistd::{Whence, lseek};

const CHUNK: usize = 4096;

/// What a disk holds.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    size: u64,
    /// `None`: zeroes.
    chunks: Vec<Option<Arc<[u8; CHUNK]>>>,
}

impl Disk {
    /// Reads an image file, all but its holes.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        let chunks = usize::try_from(size).unwrap_or(0).div_ceil(CHUNK);
        let mut disk = Self {
            size,
            chunks: vec![None; chunks],
        };
        let mut at = 0;
        let length = i64::try_from(size).unwrap_or(i64::MAX);
        while at < length {
            let Ok(data) = lseek(file.as_fd(), at, Whence::SeekData) else {
                break; // nothing but holes
            };
            let hole = lseek(file.as_fd(), data, Whence::SeekHole)?;
            let mut bytes = vec![0; usize::try_from(hole - data).unwrap_or(0)];
            file.read_exact_at(&mut bytes, data.unsigned_abs())?;
            disk.write(data.unsigned_abs(), &bytes);
            at = hole;
        }
        Ok(disk)
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// What is read at `offset`; shorter at the end.
    pub(crate) fn get(&self, offset: u64, length: usize) -> Vec<u8> {
        let end = self.size.min(offset.saturating_add(length as u64));
        let mut bytes = vec![0; usize::try_from(end.saturating_sub(offset)).unwrap_or(0)];
        for (index, from, to, at) in pieces(offset, bytes.len()) {
            if let Some(Some(chunk)) = self.chunks.get(index)
                && let Some(target) = bytes.get_mut(at..at + (to - from))
            {
                target.copy_from_slice(&chunk[from..to]);
            }
        }
        bytes
    }

    /// What lies behind the end is left out, as by a disk.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        for (index, from, to, at) in pieces(offset, data.len()) {
            let Some(chunk) = self.chunks.get_mut(index) else {
                return;
            };
            let piece = data.get(at..at + (to - from)).unwrap_or_default();
            if chunk.is_none() && piece.iter().all(|byte| *byte == 0) {
                continue;
            }
            let chunk = chunk.get_or_insert_with(|| Arc::new([0; CHUNK]));
            Arc::make_mut(chunk)[from..to].copy_from_slice(piece);
        }
    }

    /// Writes zeroes.
    pub(crate) fn zero(&mut self, offset: u64, length: u64) {
        for (index, from, to, _) in pieces(offset, usize::try_from(length).unwrap_or(0)) {
            match self.chunks.get_mut(index) {
                Some(chunk) if (from, to) == (0, CHUNK) => *chunk = None,
                Some(Some(chunk)) => Arc::make_mut(chunk)[from..to].fill(0),
                _ => {}
            }
        }
    }

    /// Makes an image file of it.
    pub(crate) fn save(&self, path: &Path) -> io::Result<()> {
        let file = File::create(path)?;
        file.set_len(self.size)?;
        for (index, chunk) in self.chunks.iter().enumerate() {
            if let Some(chunk) = chunk {
                file.write_all_at(&chunk[..], (index * CHUNK) as u64)?;
            }
        }
        // The last chunk may reach beyond the end.
        file.set_len(self.size)
    }
}

/// The chunks that a range touches: which, from, to, and where that is in the range.
fn pieces(offset: u64, length: usize) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX / 2);
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= length {
            return None;
        }
        let from = (start + at) % CHUNK;
        let to = CHUNK.min(from + length - at);
        let piece = ((start + at) / CHUNK, from, to, at);
        at += to - from;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_saved() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("image");
        File::create(&path)?.set_len(3 * CHUNK as u64 + 512)?;
        let mut disk = Disk::read(&path)?;
        let before = disk.clone();
        disk.write(4000, &[7; 5000]);
        disk.zero(4096, 4096);
        disk.write(3 * CHUNK as u64, &[9; 4096]);
        disk.save(&path)?;
        let bytes = std::fs::read(&path)?;
        assert_eq!(bytes, Disk::read(&path)?.get(0, 1 << 20));
        let expected = |at: usize| match at {
            4000..4096 | 8192..9000 => 7,
            12288.. => 9,
            _ => 0,
        };
        assert!(
            bytes
                .iter()
                .enumerate()
                .all(|(at, byte)| *byte == expected(at))
        );
        assert_eq!(bytes.len(), 12288 + 512);
        assert!(before.get(0, 1 << 20).iter().all(|byte| *byte == 0));
        Ok(())
    }
}
