//! Whether the images in use are still attached. A disk that was taken out leaves a mount behind that looks as before until it is read.

use std::time::Duration;

use super::{Attachment, Image};

/// A device that takes longer to answer tells nothing.
const BOUND: Duration = Duration::from_secs(5);

/// The images that are on block devices.
#[derive(Debug, Clone, Default)]
pub struct Presence(Vec<(String, Attachment)>);

impl Presence {
    /// Of these images.
    #[must_use]
    pub fn of(images: &[Image]) -> Presence {
        let named = |image: &Image| {
            let attachment = image.attachment.clone()?;
            let (role, source) = (image.role, &image.source);
            let name = format!("the {role} image {source} on {}", image.device.display());
            Some((name, attachment))
        };
        Presence(images.iter().filter_map(named).collect())
    }

    /// Which of them are gone, as a text for people; `None` if all are there.
    pub async fn missing(&self) -> Option<String> {
        let all = self.0.clone();
        let look = tokio::task::spawn_blocking(move || {
            let gone = all
                .into_iter()
                .filter(|(_, attachment)| !attachment.is_there());
            gone.map(|(name, _)| name).collect::<Vec<_>>()
        });
        let gone = tokio::time::timeout(BOUND, look).await.ok()?.ok()?;
        (!gone.is_empty()).then(|| gone.join(" and "))
    }
}
