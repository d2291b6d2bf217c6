//! The running machine: QEMU as a child, and the four ways to it: QMP, the port of the guest, the serial console, and what QEMU complains of.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::os::unix::process::CommandExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::timeout;

use crate::lines::Lines;
use crate::machine::Appliance;
use crate::machine::arguments::{Accelerator, Ends, arguments};
use crate::qmp::{Event, Qmp};
use crate::{say, tool};

/// So much of the console is kept to be shown.
const TAIL: usize = 16 << 10;
/// What is still in the connections when QEMU has ended comes at once.
const REST: Duration = Duration::from_secs(5);

/// A machine that runs. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Qemu {
    child: Child,
    pub(crate) qmp: Qmp,
    port: Lines<OwnedReadHalf>,
    port_open: bool,
    to_port: OwnedWriteHalf,
    console: Option<ChildStdout>,
    complaints: Option<ChildStderr>,
    console_file: Option<File>,
    console_tail: Vec<u8>,
    complaints_tail: Vec<u8>,
}

/// What the machine did.
#[derive(Debug)]
pub(crate) enum Did {
    /// The guest sent a line.
    Said(Vec<u8>),
    /// Something appeared on the console, or QEMU complained; it is kept.
    Printed,
    /// QEMU tells something.
    Event(Event),
    /// It has ended.
    Ended(ExitStatus),
}

impl Qemu {
    /// Starts the machine.
    pub(crate) async fn start(
        appliance: &Appliance,
        accelerator: Accelerator,
    ) -> anyhow::Result<Qemu> {
        let (qmp, its_qmp) = StdStream::pair().context("making a pair of sockets")?;
        let (port, its_port) = StdStream::pair().context("making a pair of sockets")?;
        let ends = Ends {
            qmp: its_qmp.as_raw_fd(),
            port: its_port.as_raw_fd(),
        };
        let mut command = tool::command(&appliance.qemu);
        command
            .args(arguments(appliance, accelerator, ends)?)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for gva, which has a better way to end the machine.
            .process_group(0);
        tool::inherits(&mut command, OwnedFd::from(its_qmp));
        tool::inherits(&mut command, OwnedFd::from(its_port));
        let mut command = Command::from(command);
        let mut child = command
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", appliance.qemu.display()))?;
        drop(command); // and with it our copies of QEMU's ends
        let console = child.stdout.take();
        let mut complaints = child.stderr.take();
        let (port, to_port) = connected(port)?.into_split();
        let qmp = match Qmp::new(connected(qmp)?).await {
            Ok(qmp) => qmp,
            Err(err) => return Err(complained(&mut child, &mut complaints).await.unwrap_or(err)),
        };
        Ok(Qemu {
            child,
            qmp,
            port: Lines::new(port),
            port_open: true,
            to_port,
            console,
            complaints,
            console_file: None,
            console_tail: Vec::new(),
            complaints_tail: Vec::new(),
        })
    }

    /// From here on the console is also written there.
    pub(crate) fn write_console_to(&mut self, file: Option<File>) {
        self.console_file = file;
    }

    /// The file is no longer written to, but given back.
    pub(crate) fn console_file(&mut self) -> Option<File> {
        self.console_file.take()
    }

    /// What it does next; the guest's lines only if they are `wanted`. May be dropped while it waits, nothing is lost.
    pub(crate) async fn next(&mut self, wanted: bool) -> anyhow::Result<Did> {
        let (mut console, mut complaints) = ([0; 4096], [0; 4096]);
        tokio::select! {
            biased;
            line = self.port.next(), if self.port_open && wanted => match line {
                Ok(Some(line)) => Ok(Did::Said(line)),
                // QEMU is ending, which is seen elsewhere.
                Ok(None) | Err(_) => {
                    self.port_open = false;
                    Ok(Did::Printed)
                }
            },
            event = self.qmp.event() => Ok(Did::Event(event)),
            read = read(&mut self.console, &mut console) => {
                self.keep_console(console.get(..read).unwrap_or_default());
                Ok(Did::Printed)
            }
            read = read(&mut self.complaints, &mut complaints) => {
                keep(&mut self.complaints_tail, complaints.get(..read).unwrap_or_default());
                Ok(Did::Printed)
            }
            ended = self.child.wait() => Ok(Did::Ended(ended.context("waiting for QEMU")?)),
        }
    }

    /// The lines of the guest that were under way when QEMU ended.
    pub(crate) async fn last_lines(&mut self) -> Vec<Vec<u8>> {
        let mut last = Vec::new();
        let all = async {
            while let Ok(Some(line)) = self.port.next().await {
                last.push(line);
            }
        };
        // Whoever holds the other end open longer is not QEMU.
        let _ = timeout(REST, all).await;
        let rest = async {
            let mut buffer = [0; 4096];
            while self.console.is_some() {
                let read = read(&mut self.console, &mut buffer).await;
                self.keep_console(buffer.get(..read).unwrap_or_default());
            }
            while self.complaints.is_some() {
                let read = read(&mut self.complaints, &mut buffer).await;
                keep(
                    &mut self.complaints_tail,
                    buffer.get(..read).unwrap_or_default(),
                );
            }
        };
        let _ = timeout(REST, rest).await;
        last
    }

    fn keep_console(&mut self, bytes: &[u8]) {
        keep(&mut self.console_tail, bytes);
        if let Some(file) = &mut self.console_file
            && let Err(err) = file.write_all(bytes)
        {
            say::warn(&format!(
                "warning: the console is no longer written to its file: {err}"
            ));
            self.console_file = None;
        }
    }

    /// Sends a line to the guest. It may not be read, which is not waited for.
    pub(crate) async fn tell_guest(&mut self, line: &str) {
        let line = format!("{line}\n");
        let written = self.to_port.write_all(line.as_bytes());
        let _ = timeout(Duration::from_secs(1), written).await;
    }

    /// The power button.
    pub(crate) async fn press_power_button(&mut self) {
        // Where QEMU does not answer, the bound of time ends it; and until then somebody may want it killed.
        let pressed = self.qmp.execute("system_powerdown", serde_json::json!({}));
        let _ = timeout(Duration::from_secs(1), pressed).await;
    }

    /// Ends it at once.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("killing QEMU")
    }

    /// The last lines of the console.
    pub(crate) fn console(&self, lines: usize) -> Vec<String> {
        last_lines(&self.console_tail, lines)
    }

    /// The last thing that QEMU complained of.
    pub(crate) fn complaint(&self) -> Option<String> {
        tool::last_line(&self.complaints_tail)
    }
}

fn connected(stream: StdStream) -> anyhow::Result<UnixStream> {
    stream
        .set_nonblocking(true)
        .and_then(|()| UnixStream::from_std(stream))
        .context("preparing a socket")
}

/// QEMU has refused: why, if it has ended.
async fn complained(
    child: &mut Child,
    complaints: &mut Option<ChildStderr>,
) -> Option<anyhow::Error> {
    let status = timeout(REST, child.wait()).await.ok()?.ok()?;
    let mut text = Vec::new();
    if let Some(pipe) = complaints {
        let _ = timeout(REST, pipe.take(64 << 10).read_to_end(&mut text)).await;
    }
    let said = tool::last_line(&text).unwrap_or_else(|| "it said nothing".into());
    let refused = || -> anyhow::Result<()> { bail!("QEMU did not start ({status}): {said}") };
    refused().err()
}

/// Reads what is there; waits for ever at the end.
async fn read<R: AsyncReadExt + Unpin>(from: &mut Option<R>, buffer: &mut [u8]) -> usize {
    let Some(pipe) = from else {
        return std::future::pending().await;
    };
    match pipe.read(buffer).await {
        Ok(read) if read > 0 => read,
        Ok(_) | Err(_) => {
            *from = None;
            0
        }
    }
}

fn keep(tail: &mut Vec<u8>, bytes: &[u8]) {
    tail.extend_from_slice(bytes);
    if tail.len() > 2 * TAIL {
        tail.drain(..tail.len() - TAIL);
    }
}

fn last_lines(text: &[u8], most: usize) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    let clean = |line: &str| without_colours(line).trim_end().to_owned();
    let lines: Vec<String> = text
        .lines()
        .map(clean)
        .filter(|line| !line.is_empty())
        .collect();
    let from = lines.len().saturating_sub(most);
    lines.get(from..).unwrap_or_default().to_vec()
}

/// A console's line without what commands a terminal.
fn without_colours(line: &str) -> String {
    let mut clean = String::new();
    let mut rest = line.chars().peekable();
    while let Some(c) = rest.next() {
        if c == '\u{1b}' && rest.next_if_eq(&'[').is_some() {
            // Up to the letter that ends the sequence.
            let _ = rest.by_ref().find(|c| ('\u{40}'..='\u{7e}').contains(c));
        } else if !c.is_control() {
            clean.push(c);
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_console_is_shown_without_what_commands_a_terminal() {
        let text = b"one\r\n\x1b[0;1;31mFAILED\x1b[0m to\tstart\n\n\x1b[2J\x07three\r\n";
        assert_eq!(last_lines(text, 2), ["FAILED tostart", "three"]);
        assert_eq!(last_lines(text, 9).len(), 3);
    }
}
