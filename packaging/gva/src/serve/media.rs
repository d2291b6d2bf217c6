//! The media that were attached to a running appliance: from `submit` until they are out. What the guest tells moves them on: `mounted` begins a turn,
//! `released` ends it; then the disk is unplugged, and when the guest has let go of it, the image is free.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use gvad::report::event::{Event, Line};
use gvad::status::ImageStatus;
use serde_json::json;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use super::Reply;
use crate::cli::Role;
use crate::machine::FIRST;
use crate::machine::arguments::SLOTS;
use crate::machine::disk::Disk;
use crate::qmp::Qmp;

/// While nothing else happens, a medium has its turn within this, or the guest knows no queue.
const PATIENCE: Duration = Duration::from_secs(120);
/// The guest lets go of a disk at once, unless it is loaded; then it is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// Media, by their slots.
#[derive(Debug)]
pub(crate) struct Media {
    slots: [Option<Medium>; SLOTS],
    given: u64,
    /// The serial number of the application image that is mounted.
    turn: Option<String>,
    /// A script runs.
    running: bool,
    /// When the guest last did something.
    moved: Instant,
    /// What it complained of last, since a medium was attached.
    complaint: Option<String>,
}

#[derive(Debug)]
struct Medium {
    disk: Disk,
    client: UnboundedSender<Reply>,
    state: State,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// It has not had its turn.
    Waits,
    /// It is mounted.
    HasTurn,
    /// The guest is to let go of it. Since when; and what the client is told.
    Leaves(Instant, Option<String>),
}

impl Medium {
    fn tell(&self, reply: Reply) {
        // The client may be gone; the medium goes its way.
        let _ = self.client.send(reply);
    }
}

impl Media {
    /// None yet.
    pub(crate) fn new() -> Media {
        Media {
            slots: [const { None }; SLOTS],
            given: 0,
            turn: None,
            running: false,
            moved: Instant::now(),
            complaint: None,
        }
    }

    /// Attaches an image.
    pub(crate) async fn submit(
        &mut self,
        qmp: &mut Qmp,
        image: &Path,
        client: UnboundedSender<Reply>,
    ) {
        match self.attach(qmp, image, &client).await {
            Ok(id) => drop(client.send(Reply::Attached { id })),
            Err(err) => {
                let message = format!("{err:#}");
                drop(client.send(Reply::Failed { message }));
            }
        }
    }

    async fn attach(
        &mut self,
        qmp: &mut Qmp,
        image: &Path,
        client: &UnboundedSender<Reply>,
    ) -> anyhow::Result<String> {
        let slot = self
            .slots
            .iter()
            .position(Option::is_none)
            .with_context(|| format!("{SLOTS} media are attached already; try again later"))?;
        let number = self.given + 1;
        let id = format!("{}{number}", FIRST.trim_end_matches('0'));
        let disk = Disk::open(image, Role::Application, &id, false)?;
        anyhow::ensure!(
            !disk.unlabelled,
            "{} does not have the label {}, by which gvad finds it; squashfs has none",
            image.display(),
            Role::Application.label()
        );
        self.given = number;
        qmp.execute("blockdev-add", disk.blockdev()?).await?;
        let device = json!({
            "driver": "virtio-blk-pci", "id": id, "drive": id, "serial": id, "bus": format!("slot{slot}"),
        });
        if let Err(err) = qmp.execute("device_add", device).await {
            // The first failure counts.
            let _ = qmp
                .execute("blockdev-del", json!({ "node-name": id }))
                .await;
            return Err(err);
        }
        self.moved = Instant::now();
        self.complaint = None;
        self.slots[slot] = Some(Medium {
            disk,
            client: client.clone(),
            state: State::Waits,
        });
        Ok(id)
    }

    /// Takes a medium out, whatever it is doing.
    pub(crate) async fn eject(&mut self, qmp: &mut Qmp, id: &str, client: UnboundedSender<Reply>) {
        let Some(medium) = self.medium(id) else {
            let message = format!("there is no medium {id:?} in the appliance, or no longer");
            drop(client.send(Reply::Failed { message }));
            return;
        };
        medium.tell(Reply::Out {
            problem: Some(format!("{id} was ejected")),
        });
        medium.client = client;
        unplug(medium, qmp, None).await;
    }

    fn medium(&mut self, id: &str) -> Option<&mut Medium> {
        self.slots
            .iter_mut()
            .flatten()
            .find(|medium| medium.disk.id == id)
    }

    /// The medium that has its turn.
    fn current(&mut self) -> Option<&mut Medium> {
        let turn = self.turn.clone()?;
        self.medium(&turn)
    }

    /// The guest tells something.
    pub(crate) async fn told(&mut self, qmp: &mut Qmp, line: &Line) {
        if !matches!(line.event, Event::Heartbeat { .. } | Event::Answer { .. }) {
            self.moved = Instant::now();
        }
        match &line.event {
            Event::Mounted { image } if is_application(image) => {
                self.turn.clone_from(&image.serial);
                if let Some(medium) = self.current()
                    && medium.state == State::Waits
                {
                    medium.state = State::HasTurn;
                }
            }
            Event::Started { .. } => self.running = true,
            Event::Finished { result } => {
                self.running = false;
                let result = result.clone();
                if let Some(medium) = self.current() {
                    medium.tell(Reply::Finished { result });
                }
            }
            Event::Released { image, reason } if is_application(image) => {
                if let Some(medium) = image.serial.as_deref().and_then(|id| self.medium(id)) {
                    unplug(medium, qmp, reason.clone()).await;
                }
                self.turn = None;
            }
            Event::Error { message } => self.complaint = Some(message.clone()),
            // gvad was started again, and looks at everything anew.
            Event::Ready { .. } => {
                self.turn = None;
                self.running = false;
            }
            _ => {}
        }
    }

    /// The guest has let go of a device.
    pub(crate) async fn let_go(&mut self, qmp: &mut Qmp, id: &str) {
        let Some(slot) = self
            .slots
            .iter_mut()
            .find(|slot| slot.as_ref().is_some_and(|medium| medium.disk.id == id))
        else {
            return;
        };
        let Some(medium) = slot.take() else { return };
        let freed = qmp
            .execute("blockdev-del", json!({ "node-name": id }))
            .await;
        let problem = match (freed, &medium.state) {
            (Err(err), _) => Some(format!("{err:#}")),
            (Ok(_), State::Leaves(_, problem)) => problem.clone(),
            (Ok(_), State::Waits | State::HasTurn) => Some("the guest let go of it".into()),
        };
        medium.tell(Reply::Out { problem });
    }

    /// Time passes.
    pub(crate) async fn tick(&mut self, qmp: &mut Qmp) {
        let idle = !self.running && self.moved.elapsed() > PATIENCE;
        let complaint = self.complaint.as_deref();
        let complaint = complaint.unwrap_or("is the gvad of the base too old for further media?");
        let problem = format!("gvad did not take it: {complaint}");
        for medium in self.slots.iter_mut().flatten() {
            match &mut medium.state {
                State::Leaves(since, _) if since.elapsed() > ASK_AGAIN => {
                    *since = Instant::now();
                    ask_to_let_go(&medium.disk.id, qmp).await;
                }
                State::Waits if idle => {
                    unplug(medium, qmp, Some(problem.clone())).await;
                }
                State::Waits | State::HasTurn | State::Leaves(..) => {}
            }
        }
    }

    /// The machine has ended.
    pub(crate) fn end(&mut self) {
        for medium in self.slots.iter_mut().filter_map(Option::take) {
            medium.tell(Reply::Failed {
                message: format!(
                    "the appliance ended before {} was done",
                    medium.disk.shown()
                ),
            });
        }
    }
}

fn is_application(image: &ImageStatus) -> bool {
    image.role == Role::Application.name()
}

async fn unplug(medium: &mut Medium, qmp: &mut Qmp, problem: Option<String>) {
    if matches!(medium.state, State::Leaves(..)) {
        return;
    }
    medium.state = State::Leaves(Instant::now(), problem);
    ask_to_let_go(&medium.disk.id, qmp).await;
}

async fn ask_to_let_go(id: &str, qmp: &mut Qmp) {
    // QEMU refuses while an earlier request is pending; it is asked again.
    let _ = qmp.execute("device_del", json!({ "id": id })).await;
}
