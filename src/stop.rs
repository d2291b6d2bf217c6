//! The wish to stop, as a value that whoever waits looks at. Nobody's work is dropped to stop it.

use tokio::sync::watch;

/// Knows whether gvad has been asked to stop.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

/// Asks gvad to stop.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

/// A new pair.
#[must_use]
pub fn pair() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(false);
    (Stopper(sender), Stop(receiver))
}

impl Stopper {
    /// Says it; saying it again changes nothing.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Whether it has been said.
    #[must_use]
    pub fn wanted(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it has been said; for ever if nobody is left to say it.
    pub async fn asked(&self) {
        if self.0.clone().wait_for(|wanted| *wanted).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits for `time`, or less if asked to stop. True if the time passed.
    pub async fn sleep(&self, time: std::time::Duration) -> bool {
        tokio::time::timeout(time, self.asked()).await.is_err()
    }
}
