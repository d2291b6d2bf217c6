//! Reading and checking the configuration. Every complaint is one line that names the file, the line and the key.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Component, Path};

use anyhow::{Context, anyhow, bail};

use super::drop_in::laid_over;
use super::place::{line_at, line_of, list_in_place_of_a_section, place_of};
use super::{Config, DEFAULT_DATA, DEFAULT_FILE, DEFAULT_OUTPUT, Overrides};
use crate::manifest::Key;
use crate::name::shown;
use crate::source::{Source, is_share};

/// How messages name the drop-in.
const DROP_IN_NAME: &str = "credential gva.config";
/// The largest configuration file that is read, in bytes.
const LARGEST_FILE: u64 = 1 << 20;
/// The largest `cpu.weight`. cgroup-v2.rst
const HEAVIEST: u64 = 10_000;
/// The shortest time between two looks; less would only burn the processor.
const SHORTEST_POLL: std::time::Duration = std::time::Duration::from_millis(10);
/// One variable as a program is given it, `NAME=VALUE` with its NUL byte, in bytes; execve(2), `MAX_ARG_STRLEN`.
const LONGEST_VARIABLE: usize = 128 * 1024;
/// Options of a mount, in bytes. mount(2) takes a page and cuts off the rest without a word, and behind these stand gvad's own.
const LONGEST_OPTIONS: usize = 2000;

/// Reads the configuration from `file`, or the default file if that is `None`, and lays the options of the command line over it.
///
/// # Errors
/// A named file that is not there, a file that cannot be read, or a value that cannot be.
pub fn load(file: Option<&Path>, overrides: &Overrides) -> anyhow::Result<Config> {
    let path = file.unwrap_or(Path::new(DEFAULT_FILE));
    let text = match read(path) {
        Err(err) if file.is_none() && not_found(&err) => String::new(),
        other => other.with_context(|| format!("reading the configuration {}", path.display()))?,
    };
    effective(&text, path, overrides)
}

/// The configuration that `text`, from `path`, and the command line come to.
///
/// # Errors
/// As [`load`].
pub fn effective(text: &str, path: &Path, overrides: &Overrides) -> anyhow::Result<Config> {
    // A complaint quotes keys and values, and is one line whatever they are.
    put_together(text, path, overrides).map_err(|err| anyhow!(shown(format!("{err:#}").as_ref())))
}

fn put_together(text: &str, path: &Path, overrides: &Overrides) -> anyhow::Result<Config> {
    let mut config = parse(text, path)?;
    let drop_in = overrides.drop_in.as_deref();
    if let Some(drop_in) = drop_in {
        parse(drop_in, Path::new(DROP_IN_NAME))?;
        config = laid_over(text, drop_in)?;
    }
    let options = [
        (
            "--application",
            &overrides.application,
            &mut config.application.source,
        ),
        ("--data", &overrides.data, &mut config.data.source),
        ("--output", &overrides.output, &mut config.output.source),
    ];
    let mut from_option = Vec::new();
    for (option, value, place) in options {
        if let Some(value) = value {
            place.clone_from(value);
            from_option.push((format!("{}.source", option.trim_start_matches('-')), option));
        }
    }
    check(&mut config).map_err(|(key, message)| {
        match from_option.iter().find(|(from, _)| *from == key) {
            Some((_, option)) => anyhow!("option {option}: {message}"),
            None => {
                let over = drop_in.and_then(|drop_in| line_of(drop_in, &key));
                let place = match over {
                    Some(line) => format!("{DROP_IN_NAME}:{line}"),
                    None => place_of(text, path, &key),
                };
                anyhow!("{place}: {key}: {message}")
            }
        }
    })?;
    Ok(config)
}

fn not_found(err: &anyhow::Error) -> bool {
    err.downcast_ref::<std::io::Error>()
        .is_some_and(|err| err.kind() == std::io::ErrorKind::NotFound)
}

fn read(path: &Path) -> anyhow::Result<String> {
    // Looked at first: opening a FIFO would wait for a writer.
    let look = fs::metadata(path)?;
    if !look.is_file() {
        bail!("it is not a regular file");
    }
    let mut bytes = Vec::new();
    File::open(path)?
        .take(LARGEST_FILE + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_FILE {
        bail!("it is larger than 1 MiB");
    }
    String::from_utf8(bytes).map_err(|err| {
        let line = err
            .as_bytes()
            .iter()
            .take(err.utf8_error().valid_up_to())
            .filter(|&&byte| byte == b'\n')
            .count()
            + 1;
        anyhow!("line {line} is not UTF-8")
    })
}

fn parse(text: &str, path: &Path) -> anyhow::Result<Config> {
    let complain = |err: &toml::de::Error, key: &str| {
        let line = err.span().map_or(1, |span| line_at(text, span.start));
        // The library's message may have several lines; an error of ours has one.
        let message = err
            .message()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        let file = path.display();
        if key.is_empty() || key == "." {
            let there = text.lines().nth(line - 1).unwrap_or_default().trim();
            let there: String = there.chars().take(60).filter(|c| !c.is_control()).collect();
            return anyhow!("{file}:{line}: {message}, in: {there}");
        }
        anyhow!("{file}:{line}: {key}: {message}")
    };
    let document = toml::de::Deserializer::parse(text).map_err(|err| complain(&err, ""))?;
    // A list would be taken for the values of the section's keys, in their order.
    if let Some((section, line)) = list_in_place_of_a_section(text) {
        bail!(
            "{}:{line}: {section}: a list stands where a section belongs, [{section}]",
            path.display()
        );
    }
    serde_path_to_error::deserialize(document).map_err(|err| {
        let key = err.path().to_string();
        complain(err.inner(), &key)
    })
}

type Complaint = (String, String);

fn complaint(key: &str, message: impl Into<String>) -> Complaint {
    (key.to_owned(), message.into())
}

/// What types alone cannot say.
fn check(config: &mut Config) -> Result<(), Complaint> {
    let Config {
        application,
        data,
        output,
        watch,
        run,
        environment,
        lifecycle: _,
        parameters: _,
        report,
    } = config;
    for (section, source, fstype, options) in [
        (
            "application",
            &application.source,
            &application.fstype,
            &application.options,
        ),
        ("data", &data.source, &data.fstype, &data.options),
        ("output", &output.source, &output.fstype, &output.options),
    ] {
        check_fstype(fstype).map_err(|message| complaint(&format!("{section}.fstype"), message))?;
        let parsed = Source::parse(source, fstype);
        let fits = parsed.and_then(|source| match section {
            "application" => Ok(()),
            _ => source.fits_beside(&Source::parse(&application.source, &application.fstype)?),
        });
        fits.map_err(|message| complaint(&format!("{section}.source"), message))?;
        check_options(options)
            .map_err(|message| complaint(&format!("{section}.options"), message))?;
    }
    data.required |= data.source != DEFAULT_DATA;
    output.required |= output.source != DEFAULT_OUTPUT;
    check_directories(&[
        ("application.mount_point", &application.mount_point),
        ("data.mount_point", &data.mount_point),
        ("output.mount_point", &output.mount_point),
        ("run.temp_dir", &run.temp_dir),
    ])?;
    let script_bin = &application.script_bin;
    if script_bin.as_os_str().is_empty()
        || has_nul(script_bin)
        || !script_bin
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
    {
        return Err(complaint(
            "application.script_bin",
            "must be a path within the image, relative and without \"..\"",
        ));
    }
    if !application.verify.is_empty() {
        Key::parse(&application.verify)
            .map_err(|message| complaint("application.verify", message))?;
    }
    if watch.poll_interval.0 < SHORTEST_POLL {
        return Err(complaint("watch.poll_interval", "must be at least 10ms"));
    }
    let port = &report.port;
    if has_nul(port) || !(port.is_absolute() || port.as_os_str().is_empty()) {
        let message = "must be an absolute path, or empty";
        return Err(complaint("report.port", message));
    }
    if run.max_attempts == 0 {
        return Err(complaint("run.max_attempts", "must be at least 1"));
    }
    if run.cpu_weight > HEAVIEST {
        return Err(complaint("run.cpu_weight", "must be from 1 to 10000, or 0"));
    }
    for (name, value) in environment {
        check_variable(name, value)
            .map_err(|message| complaint(&format!("environment.{name}"), message))?;
    }
    Ok(())
}

fn check_fstype(fstype: &str) -> Result<(), String> {
    let known = [
        "auto", "ext2", "ext3", "ext4", "xfs", "btrfs", "vfat", "iso9660", "squashfs", "erofs",
    ];
    if known.contains(&fstype) || is_share(fstype) {
        return Ok(());
    }
    Err(format!(
        "{fstype:?} is none of {}, 9p, virtiofs",
        known.join(", ")
    ))
}

fn check_options(options: &str) -> Result<(), String> {
    if options.len() > LONGEST_OPTIONS {
        return Err(format!("they are longer than {LONGEST_OPTIONS} bytes"));
    }
    for option in options.split(',').filter(|option| !option.is_empty()) {
        if option.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(format!(
                "{option:?} is not a mount option: options are separated by commas alone"
            ));
        }
        match option {
            "suid" | "dev" => {
                return Err(format!(
                    "{option:?} is refused: every image is mounted nosuid,nodev"
                ));
            }
            "ro" | "rw" => return Err(format!("{option:?} belongs in the key read_only")),
            "remount" | "bind" | "rbind" | "move" | "loop" | "defaults" | "auto" | "noauto"
            | "user" | "nofail" => {
                return Err(format!(
                    "{option:?} is a word of mount(8) or fstab(5) that no file system knows"
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// No system call takes such a path.
fn has_nul(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().contains(&0)
}

fn check_directories(directories: &[(&str, &std::path::PathBuf)]) -> Result<(), Complaint> {
    for (index, (key, path)) in directories.iter().enumerate() {
        let plain = path
            .components()
            .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        if !path.is_absolute() || !plain || has_nul(path) || path.parent().is_none() {
            return Err(complaint(
                key,
                format!("{} must be an absolute path without \"..\"", path.display()),
            ));
        }
        for (other_key, other) in directories.iter().take(index) {
            if path.starts_with(other) || other.starts_with(path) {
                // Complain of the one that somebody chose.
                let chosen = if is_default(key, path) {
                    (other_key, other, key)
                } else {
                    (key, path, other_key)
                };
                let (key, path, other_key) = chosen;
                let message = format!("{} lies within {other_key} or around it", path.display());
                return Err(complaint(key, message));
            }
        }
    }
    Ok(())
}

fn is_default(key: &str, path: &Path) -> bool {
    let default = Config::default();
    match key {
        "application.mount_point" => path == default.application.mount_point,
        "data.mount_point" => path == default.data.mount_point,
        "output.mount_point" => path == default.output.mount_point,
        _ => path == default.run.temp_dir,
    }
}

fn check_variable(name: &str, value: &str) -> Result<(), String> {
    if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
        return Err(
            "a variable has a name without \"=\", and neither it nor its value a NUL byte"
                .to_owned(),
        );
    }
    if name.len() + value.len() + "=\0".len() > LONGEST_VARIABLE {
        return Err(
            "it is longer than 128 KiB, the most that the kernel gives to a program".to_owned(),
        );
    }
    if name.starts_with("GVA_") || name == "TMPDIR" {
        return Err(format!("{name} is set by gvad"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_configuration_read_again_says_the_same() {
        let text = "[run]\ntimeout = \"1h 30m\"\noutput_limit = \"1GiB\"\n[environment]\nSITE = \"a b\"\n[data]\nsource = \"UUID=AB-1\"\n";
        let config = effective(text, Path::new("x"), &Overrides::default()).unwrap();
        assert!(config.data.required);
        let printed = toml::to_string(&config).unwrap();
        assert_eq!(
            effective(&printed, Path::new("x"), &Overrides::default()).unwrap(),
            config
        );
    }
}
