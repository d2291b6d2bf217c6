//! The log: everything that reached the disks, and what scripts told meanwhile, in one order.

use crate::disk::Disk;

/// What happened to the disks.
#[derive(Debug, Clone)]
pub(crate) enum Entry {
    Write {
        disk: usize,
        offset: u64,
        data: Vec<u8>,
    },
    /// Zeroes were written, or the range was discarded.
    Zero {
        disk: usize,
        offset: u64,
        length: u64,
    },
    /// Everything that was written to this disk before is durable from here on.
    Flush { disk: usize },
    /// Told by a script, or by whoever started gvad.
    Mark(String),
}

/// The disks as they were at the beginning, and what happened to them.
#[derive(Debug, Default, Clone)]
pub(crate) struct Log {
    pub(crate) names: Vec<String>,
    pub(crate) disks: Vec<Disk>,
    pub(crate) entries: Vec<Entry>,
}

impl Entry {
    /// The disk that it changes.
    fn changes(&self) -> Option<usize> {
        match self {
            Self::Write { disk, .. } | Self::Zero { disk, .. } => Some(*disk),
            Self::Flush { .. } | Self::Mark(_) => None,
        }
    }

    pub(crate) fn apply(&self, to: &mut Disk) {
        match self {
            Self::Write { offset, data, .. } => to.write(*offset, data),
            Self::Zero { offset, length, .. } => to.zero(*offset, *length),
            Self::Flush { .. } | Self::Mark(_) => {}
        }
    }

    /// Only some sectors of it; `keep` says which.
    fn apply_torn(&self, to: &mut Disk, sector: usize, mut keep: impl FnMut() -> bool) {
        let Self::Write { offset, data, .. } = self else {
            return self.apply(to);
        };
        // The superblock of ext4 lies in two sectors of 512 bytes under one checksum, which the kernel looks at before it replays the journal: where
        // such a disk tears it, no mount helps, only e2fsck. That is ext4's own, and nothing that gvad could do better.
        // xfs takes a block whose first sector arrived for one that arrived as a whole, and does not replay it: it relies on sectors as large as its blocks.
        let sector = if to.get(0, 4) == *b"XFSB" {
            4096
        } else {
            sector
        };
        let ext4 = to.get(1024 + 56, 2) == [0x53, 0xef];
        let mut at = 0;
        while at < data.len() {
            // Sectors are those of the disk.
            let from = usize::try_from(*offset).unwrap_or(0) + at;
            let sector_end = match from {
                1024..2048 if ext4 && sector < 1024 => 2048,
                _ => from - from % sector + sector,
            };
            let end = data.len().min(at + sector_end - from);
            if keep() {
                to.write(*offset + at as u64, &data[at..end]);
            }
            at = end;
        }
    }
}

/// What of the writes that were not flushed reaches the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Luck {
    Nothing,
    Everything,
    /// Some, by this seed; some of these torn.
    Some(u64),
}

impl std::fmt::Display for Luck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nothing => write!(f, "nothing"),
            Self::Everything => write!(f, "everything"),
            Self::Some(seed) => write!(f, "{seed}"),
        }
    }
}

impl Log {
    /// Where the power is cut: before each flush, when most is at stake, and after each mark. Each stands for the entries before it.
    pub(crate) fn points(&self) -> Vec<usize> {
        let points = self
            .entries
            .iter()
            .enumerate()
            .filter_map(|(at, entry)| match entry {
                Entry::Flush { .. } => Some(at),
                Entry::Mark(_) => Some(at + 1),
                Entry::Write { .. } | Entry::Zero { .. } => None,
            });
        let mut points: Vec<_> = points.chain([self.entries.len()]).collect();
        points.dedup();
        points
    }

    /// What scripts had told by then.
    pub(crate) fn marks(&self, point: usize) -> String {
        let entries = self.entries.iter().take(point);
        let marks = entries.filter_map(|entry| match entry {
            Entry::Mark(text) => Some(text.as_str()),
            _ => None,
        });
        marks.collect()
    }

    /// How many writes a cut at `point` leaves to luck.
    pub(crate) fn at_stake(&self, point: usize) -> usize {
        (0..self.disks.len())
            .map(|disk| self.unflushed(disk, point).count())
            .sum()
    }

    fn flushed(&self, disk: usize, point: usize) -> usize {
        let mut before = self.entries.iter().take(point);
        before
            .rposition(|entry| matches!(entry, Entry::Flush { disk: this } if *this == disk))
            .unwrap_or(0)
    }

    fn unflushed(&self, disk: usize, point: usize) -> impl Iterator<Item = &Entry> {
        let from = self.flushed(disk, point);
        let rest = self.entries.iter().take(point).skip(from);
        rest.filter(move |entry| entry.changes() == Some(disk))
    }

    /// The disks as a power cut at `point` leaves them.
    pub(crate) fn cut(&self, point: usize, luck: Luck) -> Vec<Disk> {
        let mut dice = Dice(match luck {
            Luck::Some(seed) => seed ^ ((point as u64) << 32),
            Luck::Nothing | Luck::Everything => 0,
        });
        let disks = self.disks.iter().enumerate().map(|(disk, start)| {
            let mut cut = start.clone();
            let flushed = self.entries.iter().take(self.flushed(disk, point));
            flushed
                .filter(|entry| entry.changes() == Some(disk))
                .for_each(|entry| entry.apply(&mut cut));
            // Few reach it, or half of them, or most.
            let share = [16, 128, 240][dice.below(3)];
            let sector = [512, 4096][dice.below(2)];
            for entry in self.unflushed(disk, point) {
                match luck {
                    Luck::Nothing => {}
                    Luck::Everything => entry.apply(&mut cut),
                    Luck::Some(_) if dice.below(256) >= share => {}
                    Luck::Some(_) if dice.below(4) == 0 => {
                        entry.apply_torn(&mut cut, sector, || dice.below(2) == 0);
                    }
                    Luck::Some(_) => entry.apply(&mut cut),
                }
            }
            cut
        });
        disks.collect()
    }
}

/// SplitMix64, so that a seed means the same everywhere and for ever.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        usize::try_from(mixed % bound as u64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of a write of ones over the first 4096, of which every other unit is kept.
    fn torn(magic: Option<(u64, &[u8])>) -> anyhow::Result<Vec<u8>> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("image");
        std::fs::File::create(&path)?.set_len(8192)?;
        let mut disk = Disk::read(&path)?;
        if let Some((at, magic)) = magic {
            disk.write(at, magic);
        }
        let entry = Entry::Write {
            disk: 0,
            offset: 0,
            data: vec![1; 4096],
        };
        let mut keep = false;
        entry.apply_torn(&mut disk, 512, || {
            keep = !keep;
            keep
        });
        Ok(disk.get(0, 4096))
    }

    #[test]
    fn a_write_is_torn_at_sectors() -> anyhow::Result<()> {
        let ones = |sector: usize| sector.is_multiple_of(2);
        let bytes = torn(None)?;
        assert!(
            bytes
                .chunks(512)
                .enumerate()
                .all(|(at, piece)| piece.iter().all(|byte| *byte == u8::from(ones(at))))
        );
        Ok(())
    }

    #[test]
    fn the_superblock_of_ext4_is_torn_nowhere() -> anyhow::Result<()> {
        let bytes = torn(Some((1080, &[0x53, 0xef])))?;
        assert!(bytes[1024..2048].iter().all(|byte| *byte == 1));
        assert!(bytes[512..1024].iter().all(|byte| *byte == 0));
        assert!(bytes[2048..2560].iter().all(|byte| *byte == 0));
        Ok(())
    }

    #[test]
    fn a_block_of_xfs_is_torn_nowhere() -> anyhow::Result<()> {
        let bytes = torn(Some((0, b"XFSB")))?;
        assert!(bytes.iter().all(|byte| *byte == 1));
        Ok(())
    }

    #[test]
    fn what_was_flushed_stays_and_the_same_seed_means_the_same() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("image");
        std::fs::File::create(&path)?.set_len(1 << 20)?;
        let write = |at: u64| Entry::Write {
            disk: 0,
            offset: at * 4096,
            data: vec![1; 4096],
        };
        let mut entries: Vec<_> = (0..10).map(write).collect();
        entries.push(Entry::Flush { disk: 0 });
        entries.extend((10..60).map(write));
        let log = Log {
            names: vec!["one".to_owned()],
            disks: vec![Disk::read(&path)?],
            entries,
        };
        let cut = |luck| log.cut(61, luck)[0].get(0, 1 << 20);
        let ones = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == 1).count();
        assert_eq!(ones(&cut(Luck::Nothing)), 10 * 4096);
        assert_eq!(ones(&cut(Luck::Everything)), 60 * 4096);
        let some: Vec<_> = (1..20).map(|seed| cut(Luck::Some(seed))).collect();
        assert!(
            some.iter()
                .all(|bytes| ones(&bytes[..10 * 4096]) == 10 * 4096)
        );
        assert!(
            some.iter().any(|bytes| ones(bytes) > 40 * 4096)
                && some.iter().any(|bytes| ones(bytes) < 20 * 4096)
        );
        assert_eq!(cut(Luck::Some(3)), cut(Luck::Some(3)));
        Ok(())
    }
}
