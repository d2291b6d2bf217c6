//! The kernel, one facility a file. Everything `unsafe`, and every use of `nix`, `libc` and `sys_mount`, stands here; nothing
//! here knows what a script, a run or a configuration is.

pub mod alarm;
pub mod attached;
pub mod blockdev;
pub mod cgroup;
pub mod code;
pub mod dir;
pub mod errno;
pub mod file;
pub mod glob;
pub mod lock;
pub mod look;
pub mod loopdev;
pub mod mount;
pub mod mountinfo;
pub mod namespace;
pub mod partition;
pub mod pipe;
pub mod port;
pub mod power;
pub mod process;
pub mod ready;
pub mod spawn;
pub mod superblock;
