//! The command line.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

use gvad::units::{Size, Span};

use crate::ova::{CheckArgs, PackArgs};

/// Makes, runs and packs Grid Virtual Appliances: a directory of scripts becomes an image, the image runs in a virtual machine, the results come back.
#[derive(Debug, Parser)]
#[command(name = "gva", version, disable_help_subcommand = true, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    /// What to do
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER_HELP: &str = "\
A first appliance, from nothing:
  mkdir -p job/script-bin
  printf '#!/bin/sh\\necho hello\\n' > job/script-bin/hello.sh
  chmod +x job/script-bin/hello.sh
  gva image job -o app.img
  gva run --base ./base --application app.img
  gva results app.img

Exit status: 0 all scripts succeeded; 1 some did not; 2 gva or the appliance itself
failed, and one line says why; 3 the time given was over.";

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make an image from a directory, or an empty one
    Image(ImageArgs),
    /// Boot an appliance, run its scripts, show what happens, print the results
    Run(Box<RunArgs>),
    /// Hand a further application image to a running appliance
    Submit(SubmitArgs),
    /// Take an application image out of a running appliance
    Eject(EjectArgs),
    /// Read the results out of an image file, without root and without mounting it
    Results(ResultsArgs),
    /// Write an appliance as one OVA file
    Pack(PackArgs),
    /// Look whether an OVA file is sound
    Check(CheckArgs),
}

/// What an image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// The scripts; label gva-app
    Application,
    /// What scripts read; label gva-data
    Data,
    /// Where results go; label gva-output
    Output,
}

impl Role {
    /// The label by which gvad finds an image of this role.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Role::Application => "gva-app",
            Role::Data => "gva-data",
            Role::Output => "gva-output",
        }
    }

    /// For people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Role::Application => "application",
            Role::Data => "data",
            Role::Output => "output",
        }
    }
}

const IMAGE_HELP: &str = "\
Files in the image belong to root; execute bits and names are kept. No root is needed.

Examples:
  gva image job -o app.img                        scripts in job/script-bin
  gva image --role output -o out.img              empty, for the results
  gva image /srv/genome -o genome.img --role data
  gva image job -o app.iso --iso                  read-only, as a CD";

/// `gva image`.
#[derive(Debug, Args)]
#[command(after_help = IMAGE_HELP)]
pub(crate) struct ImageArgs {
    /// What goes into the image; without it the image is empty
    #[arg(value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
    /// The file to make
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// What the image is for
    #[arg(long, value_enum, default_value = "application")]
    pub(crate) role: Role,
    /// Its label [default: gva-app, gva-data or gva-output, by the role]
    #[arg(long)]
    pub(crate) label: Option<String>,
    /// Its size, such as 1GiB [default: the content and room for results; 1GiB for an empty one]
    #[arg(long)]
    pub(crate) size: Option<Size>,
    /// An ISO 9660 image with Rock Ridge names, in place of ext4
    #[arg(long, conflicts_with_all = ["squashfs", "size"])]
    pub(crate) iso: bool,
    /// A squashfs image, in place of ext4; it has no label
    #[arg(long, conflicts_with_all = ["size", "label"])]
    pub(crate) squashfs: bool,
    /// Replace the file if it is there
    #[arg(long)]
    pub(crate) force: bool,
}

/// How the virtual machine computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Accel {
    /// KVM if it works, else emulation
    Auto,
    /// By the processor; needs /dev/kvm
    Kvm,
    /// By emulation; slow, works everywhere
    Tcg,
}

/// How the disk flavour boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Firmware {
    /// SeaBIOS, part of QEMU
    Bios,
    /// OVMF
    Uefi,
}

/// What the appliance is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Network {
    /// Nothing
    None,
    /// The outside by address translation; nothing reaches in
    User,
}

const RUN_HELP: &str = "\
Ctrl-C, SIGTERM and SIGHUP shut the appliance down cleanly; the second one kills it.
The base is never changed: the appliance writes on an overlay that is thrown away.

Examples:
  gva run --base ./base --application app.img
  gva run --base ./base --application app.img --data genome.img --output out.img \\
          --param index=17 --memory 2GiB --cpus 2 --timeout 1h
  gva run --base ./base --output out.img --serve=/tmp/gva.sock
  gva run job.ova --param index=18 --output out.img";

/// `gva run`.
#[derive(Debug, Clone, Args)]
#[command(after_help = RUN_HELP)]
pub(crate) struct RunArgs {
    /// An OVA file; it brings its own base and disks
    #[arg(value_name = "JOB.OVA", required_unless_present = "base", conflicts_with_all = ["base", "application", "data"])]
    pub(crate) job: Option<PathBuf>,
    /// The base image: a directory with base.json, or a disk image
    #[arg(long, value_name = "BASE")]
    pub(crate) base: Option<PathBuf>,
    /// The image with the scripts; not needed with --serve
    #[arg(long, value_name = "IMAGE")]
    pub(crate) application: Option<PathBuf>,
    /// The image with the data; read only
    #[arg(long, value_name = "IMAGE")]
    pub(crate) data: Option<PathBuf>,
    /// The image for the results [default: they go onto the application image]; with an OVA file it is made from
    /// the OVA's output disk if it is not there, and without it nothing is kept but the table
    #[arg(long, value_name = "IMAGE")]
    pub(crate) output: Option<PathBuf>,
    /// Attach this image as a CD; may be given again
    #[arg(long, value_name = "ISO")]
    pub(crate) cdrom: Vec<PathBuf>,
    /// A parameter: scripts see it as GVA_PARAM_NAME; may be given again
    #[arg(long = "param", value_name = "NAME=VALUE")]
    pub(crate) params: Vec<String>,
    /// How the machine is made
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    /// End the appliance after this time, such as 90s or 1h
    #[arg(long, value_name = "TIME")]
    pub(crate) timeout: Option<Span>,
    /// One JSON object a line on standard output: the events, and last a summary
    #[arg(long)]
    pub(crate) json: bool,
    /// Only the table of results
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Stay up and take further images from `gva submit`, over this socket [default: gva.sock in $XDG_RUNTIME_DIR]
    #[arg(long, value_name = "SOCKET", num_args = 0..=1, require_equals = true)]
    pub(crate) serve: Option<Option<PathBuf>>,
    /// Images in this directory were made by gva itself.
    #[arg(skip)]
    pub(crate) own: Option<PathBuf>,
}

impl RunArgs {
    /// Whether gva made this image itself.
    pub(crate) fn made(&self, image: &Path) -> bool {
        self.own.as_ref().is_some_and(|own| image.starts_with(own))
    }
}

/// How the machine is made.
#[derive(Debug, Clone, Args)]
pub(crate) struct MachineArgs {
    /// Memory [default: 512MiB, or what the OVA file says]
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<Size>,
    /// Processors [default: 1, or what the OVA file says]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=255))]
    pub(crate) cpus: Option<u32>,
    /// How it computes
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) accel: Accel,
    /// What it is connected to
    #[arg(long, value_enum, default_value = "none")]
    pub(crate) network: Network,
    /// How a disk image boots
    #[arg(long, value_enum, default_value = "bios")]
    pub(crate) firmware: Firmware,
    /// How long booting may take, until gvad reports
    #[arg(long, value_name = "TIME", default_value = "5m")]
    pub(crate) boot_timeout: Span,
    /// Write what appears on the serial console into this file
    #[arg(long, value_name = "FILE")]
    pub(crate) console: Option<PathBuf>,
    /// The QEMU to use [default: qemu-system-x86_64 in $PATH]
    #[arg(long, value_name = "PROGRAM", env = "GVA_QEMU")]
    pub(crate) qemu: Option<PathBuf>,
}

impl MachineArgs {
    /// How much memory the machine has.
    pub(crate) fn memory(&self) -> Size {
        self.memory.unwrap_or(Size(512 << 20))
    }

    /// How many processors it has.
    pub(crate) fn cpus(&self) -> u32 {
        self.cpus.unwrap_or(1)
    }
}

/// Where a serving `gva run` listens.
#[derive(Debug, Args)]
pub(crate) struct SocketArgs {
    /// The socket of `gva run --serve` [default: gva.sock in $XDG_RUNTIME_DIR]
    #[arg(long, value_name = "SOCKET")]
    pub(crate) socket: Option<PathBuf>,
}

const SUBMIT_HELP: &str = "\
Exit status: as `gva run`; 3 if the time given was over.

Examples:
  gva submit app2.img
  for image in job-*.img; do gva submit \"$image\" || echo \"$image failed\"; done";

/// `gva submit`.
#[derive(Debug, Args)]
#[command(after_help = SUBMIT_HELP)]
pub(crate) struct SubmitArgs {
    /// The application image
    pub(crate) image: PathBuf,
    /// Where the appliance is
    #[command(flatten)]
    pub(crate) socket: SocketArgs,
    /// Only attach it, print its id, and do not wait for its results
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Wait at most this long; the image stays attached
    #[arg(long, value_name = "TIME", conflicts_with = "no_wait")]
    pub(crate) timeout: Option<Span>,
    /// Results as JSON, one a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// `gva eject`.
#[derive(Debug, Args)]
pub(crate) struct EjectArgs {
    /// The id that `gva submit --no-wait` printed
    pub(crate) id: String,
    /// Where the appliance is
    #[command(flatten)]
    pub(crate) socket: SocketArgs,
}

const RESULTS_HELP: &str = "\
The image is only read. If it was not cleanly unmounted, a warning says so, and what is
there is shown all the same.

Exit status: 0 if the image could be read, whatever the results say; 2 if not.

Examples:
  gva results out.img
  gva results out.img --json | jq .outcome
  gva results out.img --stdout 000003-fit.sh";

/// `gva results`.
#[derive(Debug, Args)]
#[command(after_help = RESULTS_HELP)]
pub(crate) struct ResultsArgs {
    /// The output image, or the application image if the results went there
    pub(crate) image: PathBuf,
    /// As JSON, one result a line
    #[arg(long, conflicts_with_all = ["stdout", "stderr"])]
    pub(crate) json: bool,
    /// What this run wrote to standard output
    #[arg(long, value_name = "RUN", conflicts_with = "stderr")]
    pub(crate) stdout: Option<String>,
    /// What this run wrote to standard error
    #[arg(long, value_name = "RUN")]
    pub(crate) stderr: Option<String>,
}

/// A complaint about the command line in one line.
pub(crate) fn one_line(err: &clap::Error) -> String {
    gvad::cli::one_line(err).replace("see gvad --help", "see gva --help")
}
