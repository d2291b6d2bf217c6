//! The machine's power, by reboot(2).

use std::convert::Infallible;
use std::io;

use nix::sys::reboot::{RebootMode, reboot};

/// Writes what every file system has not yet written; sync(2). It waits for each disk, however long that takes.
pub fn sync() {
    nix::unistd::sync();
}

/// Powers the machine off at once: nothing is asked, ended or synced.
///
/// # Errors
/// `EPERM`: this process may not.
pub fn off() -> io::Result<()> {
    match reboot(RebootMode::RB_POWER_OFF) {
        Ok(never) => {
            let _: Infallible = never;
            Ok(())
        }
        Err(err) => Err(err.into()),
    }
}
