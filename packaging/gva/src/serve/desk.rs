//! The socket of a serving `gva run`: takes one request of each client, and passes on the replies to it.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::sys::stat::{Mode, umask};
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::{Reply, Request};
use crate::lines::Lines;

/// A request, and the way back.
pub(crate) type Asked = (Request, UnboundedSender<Reply>);

/// Listens. Dropped, the socket is gone.
#[derive(Debug)]
pub(crate) struct Desk {
    path: PathBuf,
    listener: UnixListener,
    to_us: UnboundedSender<Asked>,
    asked: UnboundedReceiver<Asked>,
}

impl Desk {
    /// Opens the socket, for its owner alone.
    pub(crate) async fn open(path: &Path) -> anyhow::Result<Desk> {
        let shown = path.display();
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => bail!("{shown} is there and no socket"),
            Ok(_) if UnixStream::connect(path).await.is_ok() => {
                bail!("another gva serves at {shown}; name another socket with --serve=SOCKET")
            }
            // Left by a gva that was killed.
            Ok(_) => fs::remove_file(path).with_context(|| format!("removing {shown}"))?,
            Err(_) => {}
        }
        let before = umask(Mode::from_bits_truncate(0o177));
        let listener = UnixListener::bind(path).with_context(|| format!("listening at {shown}"));
        umask(before);
        let (to_us, asked) = mpsc::unbounded_channel();
        Ok(Desk {
            path: path.to_owned(),
            listener: listener?,
            to_us,
            asked,
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The next request. May be dropped while it waits, nothing is lost.
    pub(crate) async fn next(&mut self) -> Asked {
        loop {
            tokio::select! {
                Some(asked) = self.asked.recv() => return asked,
                accepted = self.listener.accept() => if let Ok((stream, _)) = accepted {
                    // It ends with its client, or with us.
                    tokio::spawn(attend(stream, self.to_us.clone()));
                },
            }
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        // It may have been removed by somebody else.
        let _ = fs::remove_file(&self.path);
    }
}

/// One client, who may be gone at any time: what was begun for it goes on.
async fn attend(stream: UnixStream, to_us: UnboundedSender<Asked>) -> io::Result<()> {
    let (from, mut to) = stream.into_split();
    let mut lines = Lines::new(from);
    let Some(line) = lines.next().await? else {
        return Ok(());
    };
    let (reply, mut replies) = mpsc::unbounded_channel();
    match serde_json::from_slice(&line) {
        // We are ending if nobody takes it.
        Ok(request) => drop(to_us.send((request, reply))),
        Err(err) => {
            let message = format!("not a request: {err}");
            drop(reply.send(Reply::Failed { message }));
            drop(reply);
        }
    }
    while let Some(reply) = replies.recv().await {
        let mut line = serde_json::to_vec(&reply)?;
        line.push(b'\n');
        to.write_all(&line).await?;
    }
    Ok(())
}
