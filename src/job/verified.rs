//! Only scripts that were signed are taken, where `application.verify` says so. One that was not stays where it is, and is looked at again.

use std::ffi::OsStr;
use std::fs::File;

use anyhow::Context as _;
use tracing::{error, warn};

use super::{JobEnd, Workplace};
use crate::claim::Claim;
use crate::context::Context;
use crate::ledger::line::Identity;
use crate::manifest::Refusal;
use crate::name::shown;
use crate::record::Prepared;
use crate::stage::Stage;

/// So many refusals of a session are told one by one; all of them are in the status.
const TOLD: usize = 100;

impl Workplace {
    /// Why the script must not be run; `None` if it may be, as far as can be seen before it is copied.
    pub(super) async fn refused(
        &mut self,
        ctx: &Context,
        name: &OsStr,
        file: &File,
        identity: &Identity,
    ) -> Option<JobEnd> {
        let manifest = self.manifest.as_mut()?;
        let Refusal { reason, awaited } = manifest.refuses(name, file, identity).await?;
        let reason = format!("refused: {reason}");
        if self.refusals.len() < TOLD && self.refusals.insert((name.to_owned(), reason.clone())) {
            error!(script = shown(name), "{reason}");
            ctx.board.error(&format!("{}: {reason}", shown(name)));
        }
        Some(JobEnd::Refused { reason, awaited })
    }

    /// Whether what was staged is what was signed: these bytes are run, whatever the file was like before it was copied.
    pub(super) fn may_run(&self, name: &OsStr, stage: &Stage) -> bool {
        let manifest = self.manifest.as_ref();
        manifest.is_none_or(|manifest| manifest.has(name, &stage.sha256))
    }

    /// It changed between the look and the copy, or since an earlier gvad claimed it. Nothing of it has been started; it stands in script-bin again, and
    /// the next look tells what it lacks.
    pub(super) fn undo(
        &mut self,
        claim: &Claim,
        prepared: &Prepared,
        stage: Stage,
    ) -> anyhow::Result<JobEnd> {
        stage.remove();
        let discarded = self.output.discard(prepared);
        discarded.context("removing an unused run directory")?;
        if !claim.in_place {
            let put_back = self.script_bin.put_back(&claim.name);
            let name = put_back.with_context(|| format!("giving {} back", shown(&claim.name)))?;
            if name != claim.name {
                let (script, name) = (shown(&claim.name), shown(&name));
                warn!(
                    "{script} was claimed and is not what was signed; another {script} is there by now, so it is given back as {name}"
                );
            }
        }
        Ok(JobEnd::NotYet("it changed while it was being taken"))
    }
}
