//! Which images there are, and which directories they come to: separate images, or directories on the application image.

use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use tracing::{info, warn};

use crate::config::{Config, Wait};
use crate::context::Context;
use crate::image::{Image, Presence, Probed, Register, Role, Wanted, attach, attach_medium};
use crate::queue::{Next, Queue};
use crate::status::State;
use crate::surroundings::Places;
use crate::sys::dir::Dir;

/// How long `gvad drain` waits for an application image that the configuration waits for without end.
const DRAIN_WAIT: Duration = Duration::from_secs(10);
/// The first look follows the one before so closely; the pauses grow to `poll_interval`.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The images in use, in the order in which they were mounted.
#[derive(Debug, Default)]
pub struct Layout {
    /// Application, then data, then output, as far as they are there.
    pub images: Vec<Image>,
}

/// So long a mount that is under way is still waited for when gvad is asked to stop.
const LAST_WAIT: Duration = Duration::from_secs(10);

/// What waiting for an image came to.
enum Waited {
    There(Box<Image>),
    Absent,
    Else(Gathered),
}

/// What gathering the images came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gathered {
    /// All are mounted that are needed.
    All,
    /// gvad was asked to stop meanwhile.
    Stopped,
    /// All media are done, and that is when gvad ends.
    Drained,
    /// An image was taken out meanwhile, and which.
    Gone(String),
}

impl Layout {
    /// Waits for the images and mounts them; where application media are a queue, the one whose turn it is. Images already in `self` stay there
    /// whatever happens, to be released.
    ///
    /// # Errors
    /// An image cannot be used, or one that `gvad drain` needs is not there.
    pub async fn gather(&mut self, ctx: &Context, queue: &mut Queue) -> anyhow::Result<Gathered> {
        let config = ctx.config();
        let mut since = Instant::now();
        let register = Register::new(&config.run.temp_dir, &ctx.boot_id);
        for role in [Role::Application, Role::Data, Role::Output] {
            let mut wanted = wanted(ctx, role, &queue.probed);
            // Data and output are waited for from the moment at which the application is there, side by side.
            if wanted.role == Role::Data {
                since = Instant::now();
            }
            if wanted.role != Role::Application && wanted.source == config.application.source {
                return Err(wanted.is_taken(Role::Application));
            }
            let on = |image: &Image| Some((image.role, image.attachment.clone()?));
            wanted.taken = self.images.iter().filter_map(on).collect();
            let waited = if wanted.role == Role::Application {
                wait_for_application(ctx, &wanted, queue).await?
            } else {
                let needed = needed(&config, wanted.role, queue);
                let others = Presence::of(&self.images);
                wait_for(ctx, &wanted, needed, since, &others).await?
            };
            match waited {
                Waited::There(image) => {
                    queue.had_output |= image.role == Role::Output;
                    ctx.board.mounted(&image);
                    self.images.push(*image);
                }
                Waited::Absent => {
                    info!(role = %wanted.role, source = wanted.source, "no such image: doing without");
                    // It is no problem any more.
                    ctx.board.state(State::Starting, None);
                }
                Waited::Else(gathered) => return Ok(gathered),
            }
        }
        let used: Vec<&Path> = self
            .images
            .iter()
            .map(|image| image.path.as_path())
            .collect();
        register.unmount_all_but(&used)?;
        Ok(Gathered::All)
    }

    /// The image with this role.
    #[must_use]
    pub fn image(&self, role: Role) -> Option<&Image> {
        self.images.iter().find(|image| image.role == role)
    }

    /// Other guests may write results to the same place.
    #[must_use]
    pub fn output_shared(&self) -> bool {
        let output = self.image(Role::Output);
        let application = self.image(Role::Application);
        let place = output.or(application.filter(|image| !image.read_only));
        place.is_some_and(Image::shared)
    }

    /// The directories that scripts are told of. The output directory is made if need be.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn places(&self, temp_dir: &Path) -> anyhow::Result<Places> {
        let Some(application) = self.image(Role::Application) else {
            bail!("no application image")
        };
        let output = match self.image(Role::Output) {
            Some(image) => image.path.clone(),
            None if application.read_only => {
                let path = temp_dir.join("output");
                warn!(
                    "no output image, and the application image cannot be written: results go to {}, on the base image",
                    path.display()
                );
                make_directory(temp_dir, "output")
                    .with_context(|| format!("making {}", path.display()))?;
                path
            }
            None => {
                let path = application.path.join("output");
                make_directory(&application.path, "output")
                    .with_context(|| format!("making {}", path.display()))?;
                path
            }
        };
        let data = self
            .image(Role::Data)
            .map_or_else(|| application.path.join("data"), |image| image.path.clone());
        Ok(Places {
            application: application.path.clone(),
            data,
            output,
        })
    }

    /// Unmounts everything, the last first.
    ///
    /// # Errors
    /// What could not be unmounted, all in one line; the rest is.
    pub async fn release(self) -> anyhow::Result<()> {
        let mut problems = Vec::new();
        for image in self.images.into_iter().rev() {
            if let Err(err) = image.release().await {
                problems.push(format!("{err:#}"));
            }
        }
        if problems.is_empty() {
            Ok(())
        } else {
            bail!(problems.join("; "))
        }
    }
}

/// Made and opened without following a link that the image may carry.
fn make_directory(parent: &Path, name: &str) -> std::io::Result<()> {
    let parent = Dir::open(parent)?;
    parent.ensure_dir(OsStr::new(name), 0o755)?;
    parent.open_dir(name).map(drop)
}

/// Waits for what comes next in the queue of media, or for the one place that the source names.
async fn wait_for_application(
    ctx: &Context,
    wanted: &Wanted,
    queue: &mut Queue,
) -> anyhow::Result<Waited> {
    let config = ctx.config();
    let (limit, waiting) = patience(ctx, &config, Role::Application);
    let missing = || {
        let reason = format!("no application image {}", wanted.source);
        (waiting, Some(reason))
    };
    let (since, mut pause) = (Instant::now(), FIRST_PAUSE);
    loop {
        let next = tokio::select! {
            biased;
            next = queue.next(wanted) => next?,
            () = ctx.stop.asked() => return Ok(Waited::Else(Gathered::Stopped)),
        };
        let (state, reason) = match next {
            Next::Place => match attach_or_stop(ctx, attach(wanted)).await? {
                None => return Ok(Waited::Else(Gathered::Stopped)),
                Some(Some(image)) => return Ok(Waited::There(Box::new(image))),
                Some(None) => missing(),
            },
            Next::Turn(medium) => {
                let which = medium.attachment.clone();
                match attach_or_stop(ctx, attach_medium(wanted, medium)).await? {
                    None => return Ok(Waited::Else(Gathered::Stopped)),
                    Some(Some(image)) if image.attachment.as_ref() == Some(&which) => {
                        return Ok(Waited::There(Box::new(image)));
                    }
                    // Exchanged between the look and now.
                    Some(Some(image)) => image.release().await?,
                    Some(None) => {}
                }
                missing()
            }
            Next::AllDone if ctx.ends_when_drained() => {
                return Ok(Waited::Else(Gathered::Drained));
            }
            Next::Nothing if ctx.ends_when_drained() && queue.worked_off() => {
                return Ok(Waited::Else(Gathered::Drained));
            }
            Next::AllDone => (State::Idle, None),
            Next::Later(problem) => (State::Retrying, Some(problem)),
            Next::Nothing | Next::Unknown => missing(),
        };
        let over = limit.is_some_and(|limit| since.elapsed() >= limit);
        if let Some(reason) = reason.as_ref().filter(|_| over && state == waiting)
            && ctx.draining()
        {
            return Err(waited_in_vain(reason, limit));
        }
        ctx.board.state(state, reason);
        if !ctx.stop.sleep(rest(pause, limit, since)).await {
            return Ok(Waited::Else(Gathered::Stopped));
        }
        pause = (pause * 2).min(config.watch.poll_interval.0);
    }
}

fn waited_in_vain(missing: &str, limit: Option<Duration>) -> anyhow::Error {
    let limit = humantime::format_duration(limit.unwrap_or_default());
    anyhow!("{missing} after waiting {limit}")
}

/// The pause before the next look, which is no longer than what is left of the limit.
fn rest(pause: Duration, limit: Option<Duration>, since: Instant) -> Duration {
    let rest = limit.map_or(Duration::MAX, |limit| {
        limit.saturating_sub(since.elapsed()).max(FIRST_PAUSE)
    });
    pause.min(rest)
}

/// Waits for the data or the output image.
async fn wait_for(
    ctx: &Context,
    wanted: &Wanted,
    needed: bool,
    since: Instant,
    others: &Presence,
) -> anyhow::Result<Waited> {
    let (limit, state) = patience(ctx, &ctx.config(), wanted.role);
    let mut pause = FIRST_PAUSE;
    loop {
        let Some(found) = attach_or_stop(ctx, attach(wanted)).await? else {
            return Ok(Waited::Else(Gathered::Stopped));
        };
        let (missing, unwritable) = match found {
            Some(image) if wanted.role == Role::Output && image.read_only => {
                image.release().await?;
                (
                    format!("the output image {} cannot be written", wanted.source),
                    true,
                )
            }
            Some(image) => return Ok(Waited::There(Box::new(image))),
            None => (format!("no {} image {}", wanted.role, wanted.source), false),
        };
        let over = limit.is_some_and(|limit| since.elapsed() >= limit);
        if over && (needed || unwritable) && ctx.draining() {
            return Err(waited_in_vain(&missing, limit));
        }
        if over && !needed && !unwritable {
            return Ok(Waited::Absent);
        }
        if let Some(gone) = others.missing().await {
            return Ok(Waited::Else(Gathered::Gone(gone)));
        }
        ctx.board.state(state, Some(missing));
        if !ctx.stop.sleep(rest(pause, limit, since)).await {
            return Ok(Waited::Else(Gathered::Stopped));
        }
        pause = (pause * 2).min(ctx.config().watch.poll_interval.0);
    }
}

/// Attaches the image, but does not wait for a device that hangs once gvad is asked to stop. `None` then.
async fn attach_or_stop(
    ctx: &Context,
    attaching: impl Future<Output = anyhow::Result<Option<Image>>>,
) -> anyhow::Result<Option<Option<Image>>> {
    let mut work = std::pin::pin!(attaching);
    tokio::select! {
        biased;
        found = &mut work => found.map(Some),
        // What is nearly mounted is better waited for, so that it can be unmounted.
        () = ctx.stop.asked() => match tokio::time::timeout(LAST_WAIT, work).await {
            Ok(found) => found.map(Some),
            Err(_) => Ok(None),
        },
    }
}

fn patience(ctx: &Context, config: &Config, role: Role) -> (Option<Duration>, State) {
    match role {
        Role::Application => {
            let limit = match config.application.wait {
                Wait::For(span) => Some(span.0),
                Wait::Forever if ctx.draining() => Some(DRAIN_WAIT),
                Wait::Forever => None,
            };
            (limit, State::WaitingForApplication)
        }
        Role::Data => (Some(config.data.wait.0), State::WaitingForData),
        Role::Output => (Some(config.output.wait.0), State::WaitingForOutput),
    }
}

fn needed(config: &Config, role: Role, queue: &Queue) -> bool {
    match role {
        Role::Application => true,
        Role::Data => config.data.required,
        Role::Output => config.output.required || queue.had_output,
    }
}

/// What the configuration says of the image with this role.
#[must_use]
pub fn wanted(ctx: &Context, role: Role, probed: &Probed) -> Wanted {
    let config = &*ctx.config();
    let Config {
        application,
        data,
        output,
        ..
    } = config;
    let (source, fstype, options, mount_point, read_only) = match role {
        Role::Application => (
            &application.source,
            &application.fstype,
            &application.options,
            &application.mount_point,
            application.read_only,
        ),
        Role::Data => (
            &data.source,
            &data.fstype,
            &data.options,
            &data.mount_point,
            data.read_only,
        ),
        Role::Output => (
            &output.source,
            &output.fstype,
            &output.options,
            &output.mount_point,
            false,
        ),
    };
    Wanted {
        role,
        source: source.clone(),
        fstype: fstype.clone(),
        options: options.clone(),
        mount_point: mount_point.clone(),
        read_only,
        register: Register::new(&config.run.temp_dir, &ctx.boot_id),
        probed: probed.clone(),
        taken: Vec::new(),
    }
}
