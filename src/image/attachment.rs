//! A block device from when it was attached until it is taken out: the same disk attached again, or another disc in the same drive, is another
//! attachment.

use std::ffi::OsString;
use std::path::Path;

use crate::config::{DEV, SYS_CLASS_BLOCK};
use crate::sys::attached::Attached;
use crate::sys::blockdev::{self, BlockDevice};

/// Major number of SCSI, SATA and USB drives for discs; the kernel's admin-guide/devices.txt.
const OPTICAL: u32 = 11;

/// Which device, and which attachment of it. In the order in which they were attached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attachment {
    /// The kernel's number of the disk; `None` before Linux 5.15, where a disk that is exchanged between two looks is not noticed.
    pub diskseq: Option<u64>,
    /// 0 for a whole disk.
    pub partition: u32,
    /// Device number.
    pub numbers: (u32, u32),
    name: OsString,
}

impl Attachment {
    /// Of a device in the list.
    #[must_use]
    pub fn of(device: &BlockDevice) -> Attachment {
        Attachment {
            diskseq: device.diskseq,
            partition: device.partition.as_ref().map_or(0, |part| part.number),
            numbers: (device.major, device.minor),
            name: device.name.clone(),
        }
    }

    /// Of the device with these numbers, if it is there.
    #[must_use]
    pub fn numbered(numbers: (u32, u32)) -> Option<Attachment> {
        let found = blockdev::numbered(Path::new(SYS_CLASS_BLOCK), Path::new(DEV), numbers);
        found.ok()?.as_ref().map(Attachment::of)
    }

    /// Whether it is still attached. The kernel learns of a disc that was changed only when the drive is asked, and opening it asks.
    #[must_use]
    pub fn is_there(&self) -> bool {
        let (sys, dev) = (Path::new(SYS_CLASS_BLOCK), Path::new(DEV));
        if self.numbers.0 == OPTICAL {
            // A drive that answers nothing tells nothing; what counts is what sysfs says then.
            let _ = blockdev::open(&dev.join(&self.name));
        }
        match blockdev::named(sys, dev, &self.name) {
            Ok(Some(device)) => Attachment::of(&device) == *self,
            // Without sysfs nothing is known.
            Ok(None) => !sys.is_dir(),
            Err(_) => true,
        }
    }

    /// What tells without a wait whether it is still attached; `None` where that cannot be had: of a drive for discs, which must be asked, and
    /// before Linux 5.15.
    #[must_use]
    pub fn watched(&self) -> Option<Attached> {
        let numbered = self.diskseq.filter(|_| self.numbers.0 != OPTICAL)?;
        Attached::open(Path::new(SYS_CLASS_BLOCK), &self.name, numbered)
    }

    /// The disk's serial number.
    #[must_use]
    pub fn serial(&self) -> Option<String> {
        blockdev::serial(Path::new(SYS_CLASS_BLOCK), &self.name)
    }
}
