//! The queue of media: whose turn it is, which are done, and which could not be used. What a medium is, and when its turn is over, is decided
//! elsewhere; what is known here is forgotten with the process: a gvad that is started again looks at everything that is attached.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use tracing::{error, info};

use crate::blocking::{Blocking, blocking};
use crate::image::{Attachment, Candidate, Probed, Sight, Wanted, sight};
use crate::sys::blockdev;

/// A device that takes longer to answer is not waited for, but asked again.
const LOOK_BOUND: Duration = Duration::from_secs(5);
/// Where the kernel has told of no device, they are looked at so often all the same: a file system may have been made on one.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// After it failed, a medium is tried again so soon; the pauses double.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// And no later than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What has been seen of the application's media since this gvad was started.
#[derive(Debug, Default)]
pub struct Queue {
    /// What is known of the devices.
    pub probed: Probed,
    /// The one that has its turn.
    pub turn: Option<Attachment>,
    /// What keeps media from having been worked off, where they are not tried any more.
    pub failed: Vec<String>,
    /// An output image was in use: from then on there must be one, lest results go elsewhere behind everybody's back.
    pub had_output: bool,
    first: Option<Attachment>,
    several: bool,
    worked_off: bool,
    done: HashSet<Attachment>,
    trouble: Vec<Trouble>,
    search: Option<Blocking<anyhow::Result<Sight>>>,
    looked: Option<Instant>,
    /// When no other medium was found: the count of what the kernel tells of devices, from before the look.
    alone: Option<(u64, Instant)>,
}

/// A medium that could not be used.
#[derive(Debug)]
struct Trouble {
    which: Attachment,
    problem: String,
    pause: Duration,
    tries: u32,
    again: Instant,
}

/// What comes next.
#[derive(Debug)]
pub enum Next {
    /// It is no medium that is looked for.
    Place,
    /// This one's turn.
    Turn(Candidate),
    /// Only those that could not be used are left, and it is not time to try them again.
    Later(String),
    /// All that are attached are done.
    AllDone,
    /// None is attached.
    Nothing,
    /// A device takes its time to answer.
    Unknown,
}

impl Queue {
    /// Whether more than one medium has been seen: from then on each is released after its turn.
    #[must_use]
    pub fn several(&self) -> bool {
        self.several
    }

    /// Whether any medium has been worked off.
    #[must_use]
    pub fn worked_off(&self) -> bool {
        self.worked_off
    }

    /// Looks what is attached; `None` if a device does not answer now.
    async fn look(&mut self, wanted: &Wanted) -> anyhow::Result<Option<Sight>> {
        let known: Vec<_> = self.known().cloned().collect();
        let search = self.search.get_or_insert_with(|| {
            let wanted = wanted.clone();
            blocking(move || sight(&wanted, &known))
        });
        let Ok(done) = tokio::time::timeout(LOOK_BOUND, search).await else {
            return Ok(None);
        };
        self.search = None;
        self.looked = Some(Instant::now());
        let sight = done.context("looking for media").flatten()?;
        if let Sight::Media(media) = &sight {
            self.note(media);
        }
        Ok(Some(sight))
    }

    /// Those that were found to match, and are not opened again to see that they do.
    fn known(&self) -> impl Iterator<Item = &Attachment> {
        let troubled = self.trouble.iter().map(|trouble| &trouble.which);
        self.done.iter().chain(troubled).chain(&self.turn)
    }

    fn note(&mut self, media: &[Candidate]) {
        let there = |which: &Attachment| media.iter().any(|one| one.attachment == *which);
        self.done.retain(there);
        self.trouble.retain(|trouble| there(&trouble.which));
        for one in media {
            let first = self.first.get_or_insert_with(|| one.attachment.clone());
            if *first != one.attachment && !self.several {
                self.several = true;
                info!(device = %one.path.display(), "a further application medium: they have their turns one after the other");
            }
        }
    }

    fn is_fresh(&self, which: &Attachment) -> bool {
        !self.known().any(|known| known == which)
    }

    /// Looks, and chooses: the one that was attached first and is not done. Those that could not be used come last.
    ///
    /// # Errors
    /// The devices cannot be listed.
    pub async fn next(&mut self, wanted: &Wanted) -> anyhow::Result<Next> {
        self.turn = None;
        let media = match self.look(wanted).await? {
            None => return Ok(Next::Unknown),
            Some(Sight::Place) => return Ok(Next::Place),
            Some(Sight::Media(media)) => media,
        };
        if let Some(fresh) = media.iter().find(|one| self.is_fresh(&one.attachment)) {
            self.turn = Some(fresh.attachment.clone());
            return Ok(Next::Turn(fresh.clone()));
        }
        let Some(trouble) = self.trouble.iter().min_by_key(|trouble| trouble.again) else {
            return Ok(if media.is_empty() {
                Next::Nothing
            } else {
                Next::AllDone
            });
        };
        let due = trouble.again <= Instant::now();
        let candidate = media.iter().find(|one| one.attachment == trouble.which);
        Ok(match candidate.filter(|_| due) {
            Some(candidate) => {
                self.turn = Some(candidate.attachment.clone());
                Next::Turn(candidate.clone())
            }
            None => Next::Later(trouble.problem.clone()),
        })
    }

    /// Looks whether a medium waits that has not had its turn; not sooner than `pause` after the last look, and seldom where no device came,
    /// went or changed.
    ///
    /// # Errors
    /// The devices cannot be listed.
    pub async fn others_wait(&mut self, wanted: &Wanted, pause: Duration) -> anyhow::Result<bool> {
        if self.looked.is_some_and(|looked| looked.elapsed() < pause) {
            return Ok(false);
        }
        let told = blockdev::uevents();
        if let Some((before, since)) = self.alone
            && Some(before) == told
            && since.elapsed() < LOOK_AGAIN
        {
            return Ok(false);
        }
        self.alone = None;
        let Some(Sight::Media(media)) = self.look(wanted).await? else {
            return Ok(false);
        };
        let fresh = media.iter().any(|one| self.is_fresh(&one.attachment));
        self.alone = told.filter(|_| !fresh).map(|told| (told, Instant::now()));
        Ok(fresh)
    }

    /// The turn is over: everything on the medium is done. False if no medium has a turn.
    pub fn turn_over(&mut self) -> bool {
        let Some(which) = self.turn.take() else {
            return false;
        };
        self.trouble.retain(|trouble| trouble.which != which);
        self.worked_off = true;
        self.done.insert(which);
        true
    }

    /// The medium could not be used. It is put behind the others, and tried again when none of them waits, after the pause that is returned.
    pub fn put_behind(&mut self, which: Attachment, problem: String, worked: Duration) -> Duration {
        let at = self.trouble.iter().position(|one| one.which == which);
        let before = at.map(|at| self.trouble.remove(at));
        let before = before.filter(|_| worked <= LONGEST_PAUSE);
        let pause = before
            .as_ref()
            .map_or(FIRST_PAUSE, |before| (before.pause * 2).min(LONGEST_PAUSE));
        self.trouble.push(Trouble {
            which,
            problem,
            pause,
            tries: before.map_or(1, |before| before.tries + 1),
            again: Instant::now() + pause,
        });
        pause
    }

    /// How often in a row the medium could not be used.
    #[must_use]
    pub fn tries(&self, which: &Attachment) -> u32 {
        let mut trouble = self.trouble.iter();
        trouble
            .find(|one| one.which == *which)
            .map_or(0, |one| one.tries)
    }

    /// The medium is not tried any more.
    pub fn give_up(&mut self, which: Attachment, problem: String) {
        self.trouble.retain(|one| one.which != which);
        self.done.insert(which);
        self.failed.push(problem);
    }

    /// The end, when no medium is left.
    ///
    /// # Errors
    /// Some could not be worked off.
    pub fn verdict(&self) -> anyhow::Result<()> {
        if self.failed.is_empty() {
            return Ok(());
        }
        Err(anyhow!(self.failed.join("; ")))
    }
}

/// Says that a medium is put behind the others.
pub fn tell(problem: &str, others: bool, pause: Duration) {
    if others {
        error!("{problem}; the other media have their turn first");
    } else {
        error!(
            "{problem}; trying again in {}",
            humantime::format_duration(pause)
        );
    }
}
