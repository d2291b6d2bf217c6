//! Whether the images in use are still attached. A disk that was taken out leaves a mount behind that looks as before until it is read.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Attachment, Image};
use crate::blocking::blocking;
use crate::sys::attached::Attached;

/// A device that takes longer to answer tells nothing.
const BOUND: Duration = Duration::from_secs(5);

/// What was seen so recently is seen still.
const RECENT: Duration = Duration::from_millis(1);

/// The images that are on block devices.
#[derive(Debug, Clone, Default)]
pub struct Presence {
    images: Vec<Arc<Known>>,
    /// When all of them were surely there.
    seen: Cell<Option<Instant>>,
}

/// One of them.
#[derive(Debug)]
struct Known {
    name: String,
    attachment: Attachment,
    watched: Option<Attached>,
}

impl Presence {
    /// Of these images.
    #[must_use]
    pub fn of(images: &[Image]) -> Presence {
        let known = |image: &Image| {
            let attachment = image.attachment.clone()?;
            let (role, source) = (image.role, &image.source);
            let name = format!("the {role} image {source} on {}", image.device.display());
            let watched = attachment.watched();
            Some(Arc::new(Known {
                name,
                attachment,
                watched,
            }))
        };
        Presence {
            images: images.iter().filter_map(known).collect(),
            seen: Cell::new(None),
        }
    }

    /// Looking takes no time.
    #[must_use]
    pub fn is_quick(&self) -> bool {
        self.images.iter().all(|known| known.watched.is_some())
    }

    /// It was looked just now, and all were there.
    #[must_use]
    pub fn just_seen(&self) -> bool {
        self.seen.get().is_some_and(|seen| seen.elapsed() < RECENT)
    }

    /// Which of them are gone, as a text for people; `None` if all are there.
    pub async fn missing(&self) -> Option<String> {
        let unsure = self.images.iter().filter(|known| !known.is_sure());
        let unsure: Vec<_> = unsure.cloned().collect();
        if unsure.is_empty() {
            self.seen.set(Some(Instant::now()));
            return None;
        }
        // A drive takes its time to answer.
        let look = blocking(move || {
            let gone = unsure
                .iter()
                .filter(|known| !known.attachment.is_there())
                .map(|known| known.name.clone());
            gone.collect::<Vec<_>>()
        });
        let gone = tokio::time::timeout(BOUND, look).await.ok()?.ok()?;
        (!gone.is_empty()).then(|| gone.join(" and "))
    }
}

impl Known {
    fn is_sure(&self) -> bool {
        self.watched.as_ref().is_some_and(Attached::is_sure)
    }
}
