//! The kernel's error numbers that gvad tells apart; errno(3).

pub use libc::{EACCES, EBUSY, EINVAL, ELIBBAD, ELOOP, ENODEV, ENOENT, ENOEXEC, ENOTDIR, EXDEV};
