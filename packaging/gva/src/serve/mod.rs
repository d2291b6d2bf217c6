//! `gva run --serve`, `gva submit`, `gva eject`: a running appliance is given further application images. [`desk`] listens for clients, [`media`] keeps
//! what is attached, [`client`] is the other end. This file has the shapes of what goes between them, one JSON object a line.

pub(crate) mod client;
pub(crate) mod desk;
pub(crate) mod media;

use std::path::{Path, PathBuf};

use anyhow::bail;
use gvad::outcome::RunResult;
use serde::{Deserialize, Serialize};

/// From a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(crate) enum Request {
    /// Attach this image.
    Submit {
        /// Absolute.
        image: PathBuf,
    },
    /// Take this medium out.
    Eject {
        /// As it was told.
        id: String,
    },
}

/// To a client.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub(crate) enum Reply {
    /// The image is attached; more follows.
    Attached {
        /// By it the medium can be ejected.
        id: String,
    },
    /// A script of this medium is done.
    Finished {
        /// How.
        result: Box<RunResult>,
    },
    /// The medium is out; nothing follows.
    Out {
        /// Why, if not because it is done.
        problem: Option<String>,
    },
    /// It cannot be done; nothing follows.
    Failed {
        /// Why.
        message: String,
    },
}

/// Where the socket is if nobody says so.
pub(crate) fn socket(told: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(path) = told {
        return Ok(path.to_owned());
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if Path::new(&dir).is_absolute() => Ok(Path::new(&dir).join("gva.sock")),
        _ => bail!(
            "XDG_RUNTIME_DIR is not set: name a socket, with --serve=SOCKET and --socket SOCKET"
        ),
    }
}
