//! QMP, the way to talk to QEMU: JSON objects, one a line. The crate `qapi` has every command of one version of QEMU as a type; gva needs seven.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::lines::Lines;

/// QEMU answers at once; the machine may be loaded.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to QEMU.
#[derive(Debug)]
pub(crate) struct Qmp {
    from: Lines<OwnedReadHalf>,
    to: OwnedWriteHalf,
    /// Events that came while an answer was waited for.
    events: VecDeque<Event>,
    /// QEMU has closed the connection: it has ended.
    closed: bool,
    /// So many commands were given. Each has its number, because an answer may come when nobody waits for it any more.
    given: u64,
}

/// Something that QEMU tells unasked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    /// Such as `SHUTDOWN`.
    pub(crate) name: String,
    /// What belongs to it.
    pub(crate) data: Value,
}

impl Qmp {
    /// Greets QEMU.
    pub(crate) async fn new(stream: UnixStream) -> anyhow::Result<Qmp> {
        let (from, to) = stream.into_split();
        let mut qmp = Qmp {
            from: Lines::new(from),
            to,
            events: VecDeque::new(),
            closed: false,
            given: 0,
        };
        qmp.execute("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    /// Lets QEMU carry out a command, and returns its answer. May be dropped while it waits.
    pub(crate) async fn execute(
        &mut self,
        command: &str,
        arguments: Value,
    ) -> anyhow::Result<Value> {
        self.given += 1;
        let id = self.given;
        let mut line = json!({ "execute": command, "arguments": arguments, "id": id }).to_string();
        line.push('\n');
        let answer = async {
            self.to.write_all(line.as_bytes()).await?;
            loop {
                let Some(line) = self.from.next().await? else {
                    self.closed = true;
                    bail!("it has ended");
                };
                let mut said: Value = serde_json::from_slice(&line)?;
                if let Some(event) = event(&mut said) {
                    self.events.push_back(event);
                } else if said.get("id").and_then(Value::as_u64) != Some(id) {
                    // The greeting, or the answer to an earlier command.
                } else if let Some(answer) = said.get_mut("return") {
                    return Ok(answer.take());
                } else if let Some(error) = said.get("error") {
                    bail!("{}", error["desc"].as_str().unwrap_or("it said no"));
                }
            }
        };
        let answer = timeout(PATIENCE, answer);
        answer
            .await
            .unwrap_or_else(|_| bail!("no answer within {} s", PATIENCE.as_secs()))
            .with_context(|| format!("asking QEMU for {command}"))
    }

    /// What came before QEMU ended.
    pub(crate) async fn last_events(&mut self) -> Vec<Event> {
        if !self.closed {
            let rest = async {
                while let Ok(Some(line)) = self.from.next().await {
                    let mut said = serde_json::from_slice(&line).unwrap_or(Value::Null);
                    self.events.extend(event(&mut said));
                }
            };
            // The other end was QEMU's alone.
            let _ = timeout(Duration::from_secs(5), rest).await;
            self.closed = true;
        }
        self.events.drain(..).collect()
    }

    /// The next event; waits for ever once QEMU has ended. May be dropped while it waits.
    pub(crate) async fn event(&mut self) -> Event {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            if self.closed {
                std::future::pending::<()>().await;
            }
            match self.from.next().await {
                Ok(Some(line)) => {
                    let mut said = serde_json::from_slice(&line).unwrap_or(Value::Null);
                    self.events.extend(event(&mut said));
                }
                // Its end is seen where the process is waited for.
                Ok(None) | Err(_) => self.closed = true,
            }
        }
    }
}

fn event(said: &mut Value) -> Option<Event> {
    let name = said.get("event")?.as_str()?.to_owned();
    let data = said.get_mut("data").map(Value::take).unwrap_or_default();
    Some(Event { name, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_between_a_command_and_its_answer_are_kept() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let (from, mut to) = theirs.into_split();
            let qemu = async {
                let mut lines = Lines::new(from);
                to.write_all(b"{\"QMP\": {}}\n").await.unwrap();
                let asked = lines.next().await.unwrap().unwrap();
                assert!(asked.starts_with(b"{\"arguments\":{},\"execute\":\"qmp_capabilities\""));
                to.write_all(b"{\"return\": {}, \"id\": 1}\n").await.unwrap();
                lines.next().await.unwrap();
                to.write_all(b"{\"event\": \"STOP\"}\n{\"return\": 6, \"id\": 1}\n{\"return\": 7, \"id\": 2}\n")
                    .await
                    .unwrap();
                lines.next().await.unwrap();
                to.write_all(b"{\"error\": {\"desc\": \"no such thing\"}, \"id\": 3}\n")
                    .await
                    .unwrap();
            };
            let gva = async {
                let mut qmp = Qmp::new(ours).await.unwrap();
                assert_eq!(qmp.execute("a", json!({})).await.unwrap(), 7);
                let err = qmp.execute("b", json!({})).await.unwrap_err();
                assert_eq!(format!("{err:#}"), "asking QEMU for b: no such thing");
                assert_eq!(qmp.event().await.name, "STOP");
            };
            tokio::join!(qemu, gva);
        });
    }
}
