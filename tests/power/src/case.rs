//! The cases: on which images gvad works when the power is cut.

use std::fmt::{Display, Formatter};

use clap::ValueEnum;
use gvad_crash_tests::guest::{Fs, Kind, Layout};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Case {
    /// Two ext4 images.
    Two,
    /// One ext4 image for everything.
    Combined,
    /// Two xfs images.
    XfsTwo,
    /// One xfs image for everything.
    XfsCombined,
    /// Two ext4 images, the application mounted read-only.
    ReadOnly,
    /// The same with xfs.
    XfsReadOnly,
    /// Two ext4 images, `on_interrupted = "rerun"`.
    Rerun,
    /// The power is cut while two ext4 images are recovered.
    Double,
    /// The same with one xfs image.
    XfsDouble,
    /// The same with `on_interrupted = "rerun"`.
    RerunDouble,
}

impl Case {
    pub(crate) fn kind(self) -> Kind {
        let (layout, fs) = match self {
            Self::Two | Self::Rerun | Self::Double | Self::RerunDouble => {
                (Layout::Images, Fs::Ext4)
            }
            Self::Combined => (Layout::Combined, Fs::Ext4),
            Self::XfsTwo => (Layout::Images, Fs::Xfs),
            Self::XfsCombined | Self::XfsDouble => (Layout::Combined, Fs::Xfs),
            Self::ReadOnly => (Layout::ReadOnlyImages, Fs::Ext4),
            Self::XfsReadOnly => (Layout::ReadOnlyImages, Fs::Xfs),
        };
        Kind {
            layout,
            fs,
            rerun: matches!(self, Self::Rerun | Self::RerunDouble),
            daemon: false,
        }
    }

    /// Every so manieth image is in a sample.
    pub(crate) fn step(self) -> usize {
        match self {
            Self::Two | Self::XfsCombined => 6,
            _ => 24,
        }
    }

    /// Whether a recovery is what is cut.
    pub(crate) fn is_double(self) -> bool {
        matches!(self, Self::Double | Self::XfsDouble | Self::RerunDouble)
    }
}

impl Display for Case {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let value = self.to_possible_value();
        write!(f, "{}", value.as_ref().map_or("", |value| value.get_name()))
    }
}
