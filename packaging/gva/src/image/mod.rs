//! `gva image`: an image file from a directory, without root and without mounting anything. This file looks at what is asked for; [`ext4`] and
//! [`read_only`] make the file systems.

pub(crate) mod ext4;
pub(crate) mod read_only;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use walkdir::WalkDir;

use crate::cli::{ImageArgs, Role};
use crate::say;
use crate::scratch::HalfMade;

/// What a directory holds, as far as an image must know it.
#[derive(Debug, Default)]
pub(crate) struct Content {
    /// Bytes of blocks of 4 KiB.
    pub(crate) bytes: u64,
    /// Files, directories and all else.
    pub(crate) inodes: u64,
    /// Something is not root's.
    pub(crate) foreign: bool,
}

/// Makes the image.
pub(crate) fn make(args: &ImageArgs) -> anyhow::Result<ExitCode> {
    let doing = format!("making {}", args.output.display());
    let source = source(args)?;
    let label = args.label.as_deref().unwrap_or(args.role.label());
    let content = match &source {
        Some(dir) => measure(dir)?,
        None => Content::default(),
    };
    let file = HalfMade::new(&args.output, args.force).context(doing.clone())?;
    match &source {
        Some(dir) if args.iso => read_only::iso(dir, label, file.path(), &doing)?,
        Some(dir) if args.squashfs => read_only::squashfs(dir, file.path(), &doing)?,
        None if args.iso || args.squashfs => {
            bail!("{doing}: an empty image that cannot be written is of no use; name a directory")
        }
        dir => ext4::make(
            &ext4::Wanted {
                directory: dir.as_deref(),
                label,
                size: args
                    .size
                    .map_or_else(|| default_size(args.role, &content), |size| size.0),
                content: &content,
            },
            file.path(),
            &doing,
        )?,
    }
    file.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// The directory, looked at: what can be said before anything is made.
fn source(args: &ImageArgs) -> anyhow::Result<Option<PathBuf>> {
    let Some(dir) = &args.directory else {
        if args.role != Role::Output {
            bail!(
                "{} image needs a directory; only --role output may be empty",
                match args.role {
                    Role::Application => "an application",
                    Role::Data | Role::Output => "a data",
                }
            );
        }
        return Ok(None);
    };
    let shown = dir.display();
    let whole = dir
        .canonicalize()
        .with_context(|| format!("looking at {shown}"))?;
    if !whole.is_dir() {
        bail!("{shown} is no directory");
    }
    let parent = args.output.parent().unwrap_or(Path::new(""));
    if let Ok(parent) = Path::new(".").join(parent).canonicalize()
        && parent.starts_with(&whole)
    {
        bail!(
            "{} would stand in {shown}, and so in itself; name a file elsewhere",
            args.output.display()
        );
    }
    if args.role == Role::Application {
        look_for_scripts(dir)?;
    }
    Ok(Some(whole))
}

fn look_for_scripts(dir: &Path) -> anyhow::Result<()> {
    let bin = dir.join("script-bin");
    let shown = bin.display();
    if !bin.symlink_metadata().is_ok_and(|found| found.is_dir()) {
        bail!(
            "{} has no directory script-bin with scripts; for other images see --role",
            dir.display()
        );
    }
    let scripts = bin
        .read_dir()
        .and_then(|entries| {
            entries
                .map(|entry| entry?.metadata())
                .collect::<Result<Vec<_>, _>>()
        })
        .with_context(|| format!("listing {shown}"))?;
    let runs =
        |found: &std::fs::Metadata| found.is_file() && found.permissions().mode() & 0o111 != 0;
    if !scripts.iter().any(runs) {
        say::warn(&format!(
            "warning: no file in {shown} is executable, so nothing will run; try: chmod +x {shown}/*"
        ));
    }
    Ok(())
}

/// Adds up what is in `dir`.
pub(crate) fn measure(dir: &Path) -> anyhow::Result<Content> {
    let mut content = Content::default();
    for entry in WalkDir::new(dir) {
        let found = entry.and_then(|entry| entry.metadata());
        let found = found.with_context(|| format!("looking at {}", dir.display()))?;
        content.inodes += 1;
        content.foreign |= found.uid() != 0 || found.gid() != 0;
        let longer = if found.is_dir() { 4096 } else { found.len() };
        content.bytes = content
            .bytes
            .saturating_add(longer.min(1 << 62).next_multiple_of(4096));
    }
    Ok(content)
}

const MIB: u64 = 1 << 20;

/// The content, what the file system needs for itself, and room for what comes. The file is sparse: room costs nothing until it is used.
fn default_size(role: Role, content: &Content) -> u64 {
    let used = content.bytes.saturating_add(content.inodes * 256);
    // Tables and extents, then the journal.
    let own = used / 20 + 16 * MIB;
    let room = match role {
        // Results go there where there is no output image: 64 MiB of each script's output are kept.
        Role::Application => used / 4 + 256 * MIB,
        Role::Data => 0,
        Role::Output => 1024 * MIB,
    };
    used.saturating_add(own)
        .saturating_add(room)
        .next_multiple_of(MIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_room_for_its_content_and_what_comes() {
        let content = Content {
            bytes: 100 * MIB,
            inodes: 10,
            foreign: false,
        };
        assert!(default_size(Role::Data, &content) >= 116 * MIB);
        assert!(default_size(Role::Application, &content) >= 356 * MIB);
        assert_eq!(default_size(Role::Output, &Content::default()), 1040 * MIB);
        for role in [Role::Application, Role::Data, Role::Output] {
            assert_eq!(default_size(role, &content) % MIB, 0);
        }
    }
}
