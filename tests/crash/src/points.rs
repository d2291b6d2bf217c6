//! Points: where something is done to gvad, and what. Each has a name by which it can be tried again.

use std::str::FromStr;

use anyhow::{Context as _, anyhow};

use gvad_crash_tests::calls::{self, Class};
use gvad_crash_tests::guest::{Fs, Kind, Layout};
use gvad_crash_tests::trace::{Counted, Deed, Plan};

/// What is tried together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Group {
    /// Killed before and after each call; on directories, on images, and while coming to rest.
    Kill,
    /// Every write cut in half, and then killed or not.
    Cut,
    /// Each call fails once, or the disk fails from there on.
    Error,
    /// Killed, and the recovery killed too.
    Double,
    /// Killed, with `on_interrupted = "rerun"`.
    Rerun,
    /// Killed, on an application image that cannot be written.
    ReadOnly,
}

/// One point.
#[derive(Debug, Clone)]
pub(crate) struct Point {
    pub(crate) base: Base,
    pub(crate) plan: Plan,
    /// The recovery is killed before its so manieth call that changes something.
    pub(crate) second: Option<usize>,
}

/// The guests on which points are tried; each has calls of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Base {
    Tree,
    Images,
    Rest,
    Rerun,
    ReadOnly,
}

impl Base {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Tree, "tree"),
        (Self::Images, "images"),
        (Self::Rest, "rest"),
        (Self::Rerun, "rerun"),
        (Self::ReadOnly, "read-only"),
    ];

    pub(crate) fn kind(self) -> Kind {
        let layout = match self {
            Self::Tree | Self::Rerun => Layout::Tree,
            Self::Images | Self::Rest => Layout::Images,
            Self::ReadOnly => Layout::ReadOnly,
        };
        Kind {
            layout,
            fs: Fs::Ext4,
            rerun: self == Self::Rerun,
            daemon: self == Self::Rest,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        let found = Self::ALL.iter().find(|(base, _)| *base == self);
        found.map_or("", |(_, name)| name)
    }
}

impl FromStr for Base {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let found = Self::ALL.iter().find(|(_, name)| *name == text);
        found
            .map(|(base, _)| *base)
            .ok_or_else(|| anyhow!("no guest is called {text}"))
    }
}

impl Group {
    pub(crate) const ALL: [Self; 6] = [
        Self::Kill,
        Self::Cut,
        Self::Error,
        Self::Double,
        Self::Rerun,
        Self::ReadOnly,
    ];

    pub(crate) fn bases(self) -> &'static [Base] {
        match self {
            Self::Kill => &[Base::Tree, Base::Images, Base::Rest],
            Self::Cut => &[Base::Tree, Base::ReadOnly],
            Self::Error => &[Base::Tree, Base::Images],
            Self::Double => &[Base::Tree, Base::Images, Base::ReadOnly, Base::Rerun],
            Self::Rerun => &[Base::Rerun],
            Self::ReadOnly => &[Base::ReadOnly],
        }
    }

    /// Every point of this group, given the calls that its guests make.
    pub(crate) fn points(self, base: Base, calls: &[Counted]) -> Vec<Point> {
        let mut points = Vec::new();
        for (at, counted) in calls.iter().enumerate() {
            if base == Base::Rest && !counted.at_rest {
                continue; // before it rests, a daemon does what a drain does
            }
            let mut add = |deed, second| {
                points.push(Point {
                    base,
                    plan: Plan {
                        call: counted.call.name,
                        nth: counted.nth,
                        deed,
                    },
                    second,
                });
            };
            match self {
                Self::Kill | Self::Rerun | Self::ReadOnly if !counted.looks => {
                    add(Deed::KillBefore, None);
                    add(Deed::KillAfter, None);
                }
                Self::Cut if counted.length > 1 => {
                    add(Deed::CutAndKill, None);
                    add(Deed::Cut, None);
                }
                Self::Error => {
                    for deed in errors(counted) {
                        add(deed, None);
                    }
                }
                // Recovery makes some sixty calls; where it ends earlier there is no second crash.
                Self::Double if !counted.looks => {
                    for share in 0..2 {
                        add(Deed::KillBefore, Some(1 + (at * 7 + share * 31) % 67));
                    }
                }
                _ => {}
            }
        }
        points
    }
}

/// The errors that this call can have.
fn errors(counted: &Counted) -> Vec<Deed> {
    use Deed::{Fail, FailForEver};
    match counted.call.class {
        Class::Machine if matches!(counted.call.name, "clone" | "clone3" | "fork" | "vfork") => {
            vec![Fail(libc::EAGAIN)]
        }
        // A wait that fails would be a fault of the kernel's.
        Class::Machine if matches!(counted.call.name, "wait4" | "waitid") => vec![],
        Class::Machine => vec![Fail(libc::EIO)],
        _ if counted.looks => vec![Fail(libc::EIO), FailForEver(libc::EIO)],
        _ => [libc::EIO, libc::ENOSPC, libc::EROFS]
            .into_iter()
            .flat_map(|error| [Fail(error), FailForEver(error)])
            .collect(),
    }
}

const ERRORS: [(i32, &str); 4] = [
    (libc::EIO, "EIO"),
    (libc::ENOSPC, "ENOSPC"),
    (libc::EROFS, "EROFS"),
    (libc::EAGAIN, "EAGAIN"),
];

fn deed_name(deed: Deed) -> String {
    let error = |number: i32| {
        ERRORS
            .iter()
            .find(|(error, _)| *error == number)
            .map_or("?", |(_, name)| name)
    };
    match deed {
        Deed::KillBefore => "kill-before".to_owned(),
        Deed::KillAfter => "kill-after".to_owned(),
        Deed::CutAndKill => "cut-and-kill".to_owned(),
        Deed::Cut => "cut".to_owned(),
        Deed::Fail(number) => format!("{}-once", error(number)),
        Deed::FailForEver(number) => format!("{}-for-ever", error(number)),
    }
}

impl std::fmt::Display for Point {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Plan { call, nth, deed } = &self.plan;
        write!(f, "{}/{}/{call}/{nth}", self.base.name(), deed_name(*deed))?;
        match self.second {
            Some(second) => write!(f, "/{second}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Point {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let parts: Vec<_> = text.split('/').collect();
        let (&[base, deed, call, nth], rest) = parts
            .split_first_chunk()
            .context("a point is GUEST/DEED/CALL/NUMBER")?;
        let base = base.parse()?;
        let mut deeds = vec![
            Deed::KillBefore,
            Deed::KillAfter,
            Deed::CutAndKill,
            Deed::Cut,
        ];
        deeds.extend(
            ERRORS
                .iter()
                .flat_map(|(error, _)| [Deed::Fail(*error), Deed::FailForEver(*error)]),
        );
        let deed = deeds.into_iter().find(|one| deed_name(*one) == deed);
        Ok(Self {
            base,
            plan: Plan {
                call: calls::by_name(call)
                    .with_context(|| format!("{call} is no call that counts"))?
                    .name,
                nth: nth.parse()?,
                deed: deed.with_context(|| format!("nothing is called {deed:?}"))?,
            },
            second: rest.first().map(|second| second.parse()).transpose()?,
        })
    }
}
