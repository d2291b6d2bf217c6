//! The program's own code in memory.

use std::ffi::c_void;
use std::fs;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, madvise};

/// Unmaps the program's code, which stays in the page cache. What runs next is mapped again without being read, for about a microsecond each 64 KiB
/// (madvise(2), `MADV_DONTNEED`: a mapping of a file is filled from the file again); what ran only once, such as the
/// reading of the configuration, is from then on memory that the kernel can take whenever somebody needs it.
pub fn give_back() {
    let Some(code) = own_code() else { return };
    let start = std::ptr::with_exposed_provenance_mut::<c_void>(code.start);
    if let Some(start) = NonNull::new(start) {
        // SAFETY: the range is a private mapping of the executable that nobody can write to, so that every page of it is as in the
        // file; nothing is lost by dropping them.
        #[expect(unsafe_code, reason = "only the kernel can unmap pages")]
        let given = unsafe { madvise(start, code.len(), MmapAdvise::MADV_DONTNEED) };
        // It is a courtesy.
        given.unwrap_or_default();
    }
}

/// Where the executable's code is mapped, by proc_pid_maps(5).
fn own_code() -> Option<Range<usize>> {
    let program = fs::read_link("/proc/self/exe").ok()?;
    let maps = fs::read("/proc/self/maps").ok()?;
    let program = program.as_os_str().as_bytes();
    maps.split(|&byte| byte == b'\n')
        .find_map(|line| code_of(program, line))
}

/// `55d0c6a00000-55d0c6bd4000 r-xp 00059000 fe:00 1234  /usr/bin/gvad`
fn code_of(program: &[u8], line: &[u8]) -> Option<Range<usize>> {
    let line = str::from_utf8(line.strip_suffix(program)?).ok()?;
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    if fields.next()? != "r-xp" || fields.count() != 3 {
        return None;
    }
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_code_of_the_program_itself_is_found() {
        let code = |line: &str| code_of(b"/usr/bin/gvad", line.as_bytes());
        let found = code("55d0c6a00000-55d0c6bd4000 r-xp 00059000 fe:00 1234      /usr/bin/gvad");
        assert_eq!(found, Some(0x55d0_c6a0_0000..0x55d0_c6bd_4000));
        for other in [
            "55d0c6a00000-55d0c6bd4000 rw-p 00059000 fe:00 1234      /usr/bin/gvad",
            "55d0c6a00000-55d0c6bd4000 r--p 00059000 fe:00 1234      /usr/bin/gvad",
            "55d0c6a00000-55d0c6bd4000 r-xp 00059000 fe:00 1234      /opt/usr/bin/gvad",
            "55d0c6a00000-55d0c6bd4000 r-xp 00059000 fe:00 1234      /x y /usr/bin/gvad",
            "55d0c6a00000-55d0c6bd4000 rwxp 00059000 fe:00 1234      /usr/bin/gvad",
            "x-y r-xp 00059000 fe:00 1234 /usr/bin/gvad",
            "/usr/bin/gvad",
            "",
        ] {
            assert_eq!(code(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_given_back_still_runs() {
        let own = own_code().unwrap();
        assert!(own.contains(&(give_back as fn() as usize)));
        give_back();
        give_back();
    }
}
