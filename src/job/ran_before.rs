//! A medium that cannot be written keeps its scripts: what was run from it is known by the ledger alone.

use std::io;

use tracing::info;

use super::Workplace;
use crate::claim::Opened;
use crate::name::shown;
use crate::stage;

impl Workplace {
    /// Whether this very file was run on a medium that cannot be written. On one that can be now, it is removed: it has its result.
    pub(super) async fn ran_before(&mut self, opened: &Opened) -> io::Result<bool> {
        let mut marks = self.ledger.unsettled.iter();
        // The image could be written when this was claimed, but the claim did not reach the disk; and now it cannot be removed.
        let marked = marks.any(|(start, again)| !again && start.identity.same(&opened.identity));
        if marked && self.script_bin.claims.is_none() {
            return Ok(true);
        }
        let Some(sha256) = self.ledger.ran(&opened.identity) else {
            return Ok(false);
        };
        let key = opened.identity.key();
        if self.verified.contains(&key) {
            return Ok(true);
        }
        // Bytes that could not be read when it was recorded are no other bytes now.
        let same = sha256.is_empty() || stage::hash(&opened.file).await? == sha256;
        if same {
            info!(
                script = shown(&opened.name),
                "was run already, from a medium that cannot be written"
            );
            self.verified.insert(key);
        }
        if same && self.script_bin.claims.is_some() {
            self.script_bin.dir.remove_protected(&opened.name)?;
        }
        Ok(same)
    }
}
