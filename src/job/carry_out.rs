//! From the claim to the result: the script is staged, marked, run and recorded.

use std::io;
use std::rc::Rc;

use anyhow::Context as _;
use tracing::info;

use super::{JobEnd, Workplace};
use crate::claim::Claim;
use crate::config::{Config, WorkingDirectory};
use crate::context::Context;
use crate::ledger::line::Start;
use crate::name::ScriptName;
use crate::outcome::{Outcome, RunResult, timestamp};
use crate::record::Prepared;
use crate::run::{Limits, Ready};
use crate::stage::{self, Stage};
use crate::surroundings::{environment, limits, namespaces};

impl Workplace {
    /// From the claim to the durable result. Only an image that fails is an error here.
    pub(super) async fn carry_out(
        &mut self,
        ctx: &Context,
        claim: Claim,
        mut prepared: Prepared,
        attempt: u32,
        more: bool,
    ) -> anyhow::Result<JobEnd> {
        let config = ctx.config();
        let name = claim.name.clone();
        let staged =
            stage::stage(&claim.file, &name, &config.run.temp_dir, self.spare.take()).await;
        if ctx.stop.wanted() {
            // Copying may have taken long. It stays claimed, and the next start runs it.
            if let Ok(stage) = staged {
                stage.remove();
            }
            let discarded = self.output.discard(&prepared);
            discarded.context("removing an unused run directory")?;
            return Ok(JobEnd::Nothing);
        }
        let staged = match staged {
            Ok(stage) if !self.may_run(&name, &stage) => {
                return self.undo(&claim, &prepared, stage);
            }
            other => other,
        };
        // The claim's file is closed here, and that ends the lease: whoever wanted to write to it may, and changes nothing that is run.
        let (mut start, mut result) = self.begin(ctx, claim, &prepared.run_id, attempt);
        let stage = match staged {
            Ok(stage) => {
                start.sha256.clone_from(&stage.sha256);
                result.sha256 = Some(stage.sha256.clone());
                let job = (&mut start, &mut prepared, &mut result);
                self.run_staged(ctx, &config, job, &stage).await?;
                Some(stage)
            }
            Err(reason) => {
                self.mark(ctx, &start)?;
                result.reason = Some(reason);
                None
            }
        };
        // A private directory that takes time to remove, and perhaps much room until then, keeps no result waiting.
        let given_back = stage.map_or(Ok(None), Stage::give_back);
        let stage = match given_back {
            Ok(spare) => {
                self.spare = spare;
                // Processes that are kept may go on using theirs.
                if !limits(&config).end_tree {
                    self.tidy();
                }
                None
            }
            Err(stage) => Some(stage),
        };
        let shared = more && stage.is_none();
        self.record(ctx, start, prepared, result, shared).await?;
        if let Some(stage) = stage {
            stage.remove();
        }
        Ok(JobEnd::Done)
    }

    /// The start mark and the result as they are if nothing comes of it.
    fn begin(&self, ctx: &Context, claim: Claim, run_id: &str, attempt: u32) -> (Start, RunResult) {
        let result = RunResult {
            attempt,
            boot_id: ctx.boot_id.clone(),
            reason: None,
            ..RunResult::unseen(
                run_id.to_owned(),
                ScriptName::of(&claim.name),
                Outcome::NotStarted,
                String::new(),
            )
        };
        let start = Start {
            run: self.ledger.next_run(),
            run_id: run_id.to_owned(),
            identity: claim.identity,
            sha256: String::new(),
            attempt,
            boot_id: ctx.boot_id.clone(),
            started_at: timestamp(std::time::SystemTime::now()),
            cgroup: None,
            in_place: claim.in_place,
            unstarted: true,
        };
        (start, result)
    }

    /// Starts what is staged and waits for its end. What comes of it is in `result`.
    async fn run_staged(
        &mut self,
        ctx: &Context,
        config: &Config,
        (start, prepared, result): (&mut Start, &mut Prepared, &mut RunResult),
        stage: &Stage,
    ) -> anyhow::Result<()> {
        let limits = limits(config);
        let ready = self.make_ready(ctx, config, start, prepared, stage, limits);
        start.unstarted = ready.is_err();
        start.cgroup = ready.as_ref().ok().and_then(Ready::cgroup);
        if let Err(err) = self.mark(ctx, start) {
            if let Ok(ready) = ready {
                ready.abandon();
            }
            return Err(err);
        }
        let running = match ready {
            Ok(ready) => ready.start(&ctx.runner, limits),
            Err(err) => Err(format!("making what a run needs: {err}")),
        };
        match running {
            Ok(running) => {
                ctx.board.started(start, &running);
                info!(
                    run = start.run_id,
                    pid = running.pid(),
                    attempt = start.attempt,
                    "started"
                );
                self.see_through(ctx, running, limits, &stage.dir, result)
                    .await;
            }
            Err(reason) => result.reason = Some(reason),
        }
        Ok(())
    }

    fn make_ready(
        &self,
        ctx: &Context,
        config: &Config,
        start: &Start,
        prepared: &Prepared,
        stage: &Stage,
        limits: Limits,
    ) -> io::Result<Ready> {
        let directory = match config.run.working_directory {
            WorkingDirectory::Application => self.places.application.as_path(),
            WorkingDirectory::Private => stage.path.as_path(),
        };
        let name = start.identity.name.file_name().unwrap_or_default();
        let told = ctx.parameters.variables();
        let environment = environment(config, &self.places, stage, &name, start, told);
        let files = (Rc::clone(&prepared.stdout), Rc::clone(&prepared.stderr));
        let namespaces = namespaces(config, &self.places, Some(&stage.path))?;
        let ready = ctx.runner.ready(
            start.run,
            files,
            limits,
            &stage.script,
            directory,
            &environment,
        );
        Ok(ready?.within(namespaces))
    }
}
