//! `gva submit` and `gva eject`: one request to a serving `gva run`, and its replies.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use gvad::outcome::RunResult;
use gvad::results::Entry;

use super::{Reply, Request, socket};
use crate::cli::{EjectArgs, SubmitArgs};
use crate::results;
use crate::say::{self, SCRIPT_FAILED, TIMED_OUT};

/// Hands an image over, and waits until it is out again.
pub(crate) fn submit(args: &SubmitArgs) -> anyhow::Result<ExitCode> {
    let image = args
        .image
        .canonicalize()
        .with_context(|| format!("looking at {}", args.image.display()))?;
    let mut server = Server::ask(args.socket.socket.as_deref(), &Request::Submit { image })?;
    let end = args.timeout.map(|limit| (Instant::now() + limit.0, limit));
    let mut done: Vec<RunResult> = Vec::new();
    loop {
        let limit = end.map(|(end, _)| end.saturating_duration_since(Instant::now()));
        match server.reply(limit)? {
            Some(Reply::Attached { id }) if args.no_wait => {
                return say::print(|out| Ok(writeln!(out, "{id}")?));
            }
            Some(Reply::Attached { .. }) => {}
            Some(Reply::Finished { result }) => done.push(*result),
            Some(Reply::Out { problem }) => return judge(done, problem, args.json),
            Some(Reply::Failed { message }) => bail!("{message}"),
            None => {
                let limit = end.map(|(_, limit)| limit.to_string()).unwrap_or_default();
                let _ = judge(done, None, args.json)?;
                say::warn(&format!(
                    "the time given, {limit}, was over; the image stays attached"
                ));
                return Ok(ExitCode::from(TIMED_OUT));
            }
        }
    }
}

fn judge(done: Vec<RunResult>, problem: Option<String>, json: bool) -> anyhow::Result<ExitCode> {
    let all_succeeded = done.iter().all(|result| result.success);
    let entries = done.into_iter().map(|result| Entry {
        run_id: result.run_id.clone(),
        result: Some(result),
    });
    results::print(entries.collect(), json)?;
    if let Some(problem) = problem {
        bail!("{problem}");
    }
    Ok(if all_succeeded {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(SCRIPT_FAILED)
    })
}

/// Takes a medium out.
pub(crate) fn eject(args: &EjectArgs) -> anyhow::Result<ExitCode> {
    let request = Request::Eject {
        id: args.id.clone(),
    };
    let mut server = Server::ask(args.socket.socket.as_deref(), &request)?;
    loop {
        match server.reply(None)? {
            Some(Reply::Out { problem: None }) => return Ok(ExitCode::SUCCESS),
            Some(Reply::Out { problem: Some(why) } | Reply::Failed { message: why }) => {
                bail!("{why}")
            }
            Some(Reply::Attached { .. } | Reply::Finished { .. }) | None => {}
        }
    }
}

struct Server {
    stream: BufReader<UnixStream>,
    shown: String,
    /// What of the next line has arrived.
    line: Vec<u8>,
}

impl Server {
    fn ask(told: Option<&Path>, request: &Request) -> anyhow::Result<Server> {
        let path = socket(told)?;
        let shown = path.display().to_string();
        let mut stream = UnixStream::connect(&path)
            .with_context(|| format!("no gva run --serve answers at {shown}"))?;
        let mut line = serde_json::to_vec(request).context("writing the request")?;
        line.push(b'\n');
        stream
            .write_all(&line)
            .with_context(|| format!("asking the gva at {shown}"))?;
        Ok(Server {
            stream: BufReader::new(stream),
            shown,
            line: Vec::new(),
        })
    }

    /// The next reply; `None` if there is none within `limit`.
    fn reply(&mut self, limit: Option<Duration>) -> anyhow::Result<Option<Reply>> {
        let reading = || format!("waiting for the gva at {}", self.shown);
        // Zero would be no limit.
        let limit = limit.map(|limit| limit.max(Duration::from_millis(1)));
        self.stream
            .get_ref()
            .set_read_timeout(limit)
            .with_context(reading)?;
        match self.stream.read_until(b'\n', &mut self.line) {
            Ok(_) if self.line.ends_with(b"\n") => {
                let line = std::mem::take(&mut self.line);
                Ok(Some(serde_json::from_slice(&line).with_context(reading)?))
            }
            Ok(_) => bail!("the gva at {} ended before the image was done", self.shown),
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(err) => Err(err).with_context(reading),
        }
    }
}
