//! OVA: packs an appliance into one file, checks such a file, and takes one apart to be run.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;

/// `gva pack`.
#[derive(Debug, clap::Args)]
pub(crate) struct PackArgs {
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

/// `gva check`.
#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    /// The OVA
    pub(crate) file: PathBuf,
}

/// Writes an OVA.
pub(crate) fn pack(args: &PackArgs) -> anyhow::Result<ExitCode> {
    bail!("writing {}: not there yet", args.output.display())
}

/// Looks whether an OVA is sound.
pub(crate) fn check(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    bail!("checking {}: not there yet", args.file.display())
}
