//! The port: sends what waits in the queue and takes requests, whatever the other side does. A port that is not there, or not any more, is looked
//! for again.

use std::path::Path;
use std::rc::Rc;

use anyhow::{Context as _, bail};
use tokio::sync::watch;
use tracing::{info, warn};

use super::desk::Desk;
use super::queue::{Batch, Outbox};
use super::request::Input;
use crate::config::Config;
use crate::sys::port::{Port, Standing};
use crate::tick;

/// So much is read at once, in bytes.
const CHUNK: usize = 16 * 1024;

/// Reports over the port of the configuration, for ever.
pub async fn serve(config: watch::Receiver<Rc<Config>>, outbox: Outbox, mut desk: Desk) {
    let mut told = String::new();
    loop {
        let now = Rc::clone(&config.borrow());
        let path = &now.report.port;
        if !path.as_os_str().is_empty() {
            match Port::open(path) {
                Ok(port) => {
                    info!(port = %path.display(), "reporting");
                    told.clear();
                    let mut talk = Talk::new(port, &outbox, &mut desk);
                    let end = talk.go_on(&config, path).await;
                    talk.disconnect();
                    if let Err(err) = end {
                        info!("the port {} is closed: {err:#}", path.display());
                    }
                }
                // Most machines have none.
                Err(err) if err.kind() == std::io::ErrorKind::NotFound => told.clear(),
                Err(err) => {
                    let problem = format!("opening the port {}: {err}", path.display());
                    if told != problem {
                        warn!("{problem}; trying again");
                        told = problem;
                    }
                }
            }
        }
        tick::next(now.watch.poll_interval.0).await;
    }
}

/// What is said over one open port.
struct Talk<'a> {
    port: Port,
    outbox: &'a Outbox,
    desk: &'a mut Desk,
    input: Input,
    batch: Batch,
    connected: bool,
    /// There may be room to write.
    writable: bool,
}

impl<'a> Talk<'a> {
    fn new(port: Port, outbox: &'a Outbox, desk: &'a mut Desk) -> Talk<'a> {
        Talk {
            port,
            outbox,
            desk,
            input: Input::default(),
            batch: Batch::default(),
            connected: false,
            writable: false,
        }
    }

    /// Until the port is no good any more, or another is wanted.
    async fn go_on(
        &mut self,
        config: &watch::Receiver<Rc<Config>>,
        path: &Path,
    ) -> anyhow::Result<()> {
        let every = || config.borrow().watch.poll_interval.0;
        let mut look = std::pin::pin!(tick::next(every()));
        loop {
            tokio::select! {
                standing = self.port.changed() => self.turn(standing.context("waiting for it")?).await?,
                () = self.outbox.more(), if self.writable => self.write()?,
                () = &mut look => {
                    let now = Rc::clone(&config.borrow());
                    if now.report.port != path {
                        return Ok(());
                    }
                    if !self.port.is_at(path) {
                        bail!("it is gone, or another device has its name");
                    }
                    look.set(tick::next(every()));
                }
            }
        }
    }

    async fn turn(&mut self, standing: Standing) -> anyhow::Result<()> {
        if standing.failed {
            bail!("the device failed");
        }
        if standing.hung_up {
            // What was sent before that is there still.
            self.writable = false;
            self.read().await?;
            self.disconnect();
            return Ok(());
        }
        if !self.connected {
            self.connected = true;
            self.batch = Batch::line_feed();
            self.outbox.set_connected(true);
        }
        self.writable |= standing.writable;
        if self.writable {
            self.write()?;
        }
        if standing.readable {
            self.read().await?;
        }
        Ok(())
    }

    async fn read(&mut self) -> anyhow::Result<()> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = self.port.read(&mut buffer).context("reading")?;
            let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else {
                return Ok(());
            };
            for request in self.input.take(bytes) {
                self.desk.take(request);
            }
            // A host that never stops must not keep everything else waiting.
            tokio::task::yield_now().await;
            if self.writable {
                self.write()?;
            }
        }
    }

    fn write(&mut self) -> anyhow::Result<()> {
        loop {
            if self.batch.rest().is_empty() {
                match self.outbox.next() {
                    Some(batch) => self.batch = batch,
                    None => return Ok(()),
                }
            }
            let sent = self.port.write(self.batch.rest()).context("writing")?;
            if sent == 0 {
                // The next change of the port tells when there is room.
                self.writable = false;
                return Ok(());
            }
            self.batch.sent(sent);
        }
    }

    /// Nobody hears: what was not sent waits for the next.
    fn disconnect(&mut self) {
        (self.connected, self.writable) = (false, false);
        self.input.clear();
        self.outbox.give_back(std::mem::take(&mut self.batch));
        self.outbox.set_connected(false);
    }
}
