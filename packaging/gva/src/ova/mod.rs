//! OVA: packs an appliance into one file, checks such a file, and takes one apart to be run.
//!
//! A package is a tar of exactly this, in this order: the descriptor (`.ovf`, XML), the manifest (`.mf`, hashes), the disks. As a
//! directory it is the same files side by side.

mod archive;
mod check;
mod descriptor;
mod envelope;
mod environment;
mod hardware;
mod inputs;
mod manifest;
mod pack;
mod package;
mod parameters;
mod run;
mod tools;
mod vmdk;

pub(crate) use check::{CheckArgs, check};
pub(crate) use pack::{PackArgs, pack};
pub(crate) use run::open;

/// The namespaces of a descriptor. With OVF 2's virt-v2v loses the name, and VirtualBox and VMware write 1.x themselves.
const OVF: &str = "http://schemas.dmtf.org/ovf/envelope/1";
const RASD: &str =
    "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData";
const VSSD: &str = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData";

/// What a tar of the ustar form can say about a member's size, in eleven octal digits.
const MEMBER_MAX: u64 = 8 << 30;

/// The longest descriptor that is read or written; one of ours has 5 KiB and its parameters.
const DESCRIPTOR_MAX: u64 = 256 << 10;
