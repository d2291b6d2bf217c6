//! The wish to stop, as a value that whoever waits looks at. Nobody's work is dropped to stop it.

use std::rc::Rc;

use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Wish {
    GoOn,
    Stop,
    PowerOff,
}

/// Knows whether gvad has been asked to stop.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<Wish>);

/// Asks gvad to stop.
#[derive(Debug)]
pub struct Stopper(watch::Sender<Wish>);

/// A new pair.
#[must_use]
pub fn pair() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(Wish::GoOn);
    (Stopper(sender), Stop(receiver))
}

impl Stopper {
    /// Says it; saying it again changes nothing.
    pub fn stop(&self) {
        self.wish(Wish::Stop);
    }

    /// Says it, and that the machine is to be powered off then.
    pub fn power_off(&self) {
        self.wish(Wish::PowerOff);
    }

    fn wish(&self, new: Wish) {
        self.0.send_if_modified(|wish| {
            let more = new > *wish;
            *wish = new.max(*wish);
            more
        });
    }
}

impl Stop {
    /// Whether it has been said.
    #[must_use]
    pub fn wanted(&self) -> bool {
        *self.0.borrow() != Wish::GoOn
    }

    /// Whether the machine is to be powered off at the end.
    #[must_use]
    pub fn power_off_wanted(&self) -> bool {
        *self.0.borrow() == Wish::PowerOff
    }

    /// Waits until it has been said; for ever if nobody is left to say it.
    pub async fn asked(&self) {
        let mut wish = self.0.clone();
        if wish.wait_for(|wish| *wish != Wish::GoOn).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits for `time`, or less if asked to stop. True if the time passed.
    pub async fn sleep(&self, time: std::time::Duration) -> bool {
        tokio::time::timeout(time, self.asked()).await.is_err()
    }
}

/// Ends the one script that runs, and nothing else. Cheap to clone; all clones are the same.
#[derive(Debug, Clone)]
pub struct Cancel(Rc<watch::Sender<()>>);

/// Hears of it.
#[derive(Debug)]
pub struct Cancelled(watch::Receiver<()>);

impl Default for Cancel {
    fn default() -> Cancel {
        Cancel(Rc::new(watch::Sender::new(())))
    }
}

impl Cancel {
    /// Ends the script that runs. False if none does.
    #[must_use]
    pub fn now(&self) -> bool {
        self.0.send(()).is_ok()
    }

    /// From now on, and as long as the answer lives, a script runs.
    #[must_use]
    pub fn listen(&self) -> Cancelled {
        Cancelled(self.0.subscribe())
    }
}

impl Cancelled {
    /// Waits until the script is to end; for ever if nobody is left to say it.
    pub async fn asked(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
