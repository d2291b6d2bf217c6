//! The program's own code in memory, and that of its libraries.
//!
//! Relies on madvise(2) and proc_pid_smaps(5).

use std::ffi::c_void;
use std::fs;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::OnceLock;

use nix::sys::mman::{MmapAdvise, madvise};

/// Unmaps the code and the constants of the program and its libraries, which stay in the page cache. What runs next is mapped again without being read, for
/// about a microsecond each 64 KiB (madvise(2), `MADV_DONTNEED`: a private mapping of a file is filled from the file again); what ran only once,
/// such as the reading of the configuration, is from then on memory that the kernel can take whenever somebody needs it.
///
/// To be called for the first time before anything is loaded that may be unloaded again: what is mapped then is what is given back, always.
pub fn give_back() {
    static MAPPED: OnceLock<Vec<Range<usize>>> = OnceLock::new();
    for range in MAPPED.get_or_init(|| mapped().unwrap_or_default()) {
        let start = std::ptr::with_exposed_provenance_mut::<c_void>(range.start);
        let Some(start) = NonNull::new(start) else {
            continue;
        };
        // SAFETY: the range is a private mapping of a file that cannot be written to and of which no page was ever written to (as long as nobody makes
        // it writable, which only the loader does, before main), so that every page of it is as in the file; nothing is lost by dropping them. The
        // program and what it is linked with are never unmapped.
        #[expect(unsafe_code, reason = "only the kernel can unmap pages")]
        let given = unsafe { madvise(start, range.len(), MmapAdvise::MADV_DONTNEED) };
        // It is a courtesy.
        given.unwrap_or_default();
    }
}

/// Where files are mapped of which every page is as in the file.
fn mapped() -> Option<Vec<Range<usize>>> {
    let smaps = fs::read("/proc/self/smaps").ok()?;
    let mut found = Vec::new();
    let mut last = None;
    for line in smaps.split(|&byte| byte == b'\n') {
        if let Some(mapping) = mapping(line) {
            last = mapping;
        } else if line.strip_prefix(b"Anonymous:").is_some_and(is_something) {
            last = None;
        } else if let Some(swapped) = line.strip_prefix(b"Swap:") {
            found.extend(last.take().filter(|_| !is_something(swapped)));
        }
    }
    Some(found)
}

fn is_something(size: &[u8]) -> bool {
    size.trim_ascii() != b"0 kB"
}

/// `55d0c6a00000-55d0c6bd4000 r-xp 00059000 fe:00 1234  /usr/bin/gvad`. Inside: `None` unless a file is mapped there privately and read-only.
fn mapping(line: &[u8]) -> Option<Option<Range<usize>>> {
    let text = String::from_utf8_lossy(line);
    let mut fields = text.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
    let (access, _offset, _device) = (fields.next()?, fields.next()?, fields.next()?);
    let inode = fields.next()?;
    let fits = matches!(access, "r-xp" | "r--p") && inode != "0";
    Some(fits.then_some(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_that_cannot_be_written_to_are_found() {
        let range = 0x55d0_c6a0_0000..0x55d0_c6bd_4000;
        for access in ["r-xp", "r--p"] {
            let line = format!("55d0c6a00000-55d0c6bd4000 {access} 00059000 fe:00 1234  /a b");
            assert_eq!(mapping(line.as_bytes()), Some(Some(range.clone())));
        }
        for other in [
            "55d0c6a00000-55d0c6bd4000 rw-p 00059000 fe:00 1234      /usr/bin/gvad",
            "55d0c6a00000-55d0c6bd4000 r--s 00059000 fe:00 1234      /usr/bin/gvad",
            "55d0c6a00000-55d0c6bd4000 rwxp 00059000 fe:00 1234      /usr/bin/gvad",
            "55d0c6a00000-55d0c6bd4000 r-xp 00000000 00:00 0         [vdso]",
        ] {
            assert_eq!(mapping(other.as_bytes()), Some(None), "{other}");
        }
        for none in ["Anonymous:             0 kB", "x-y r-xp 0 fe:00 1 /a", ""] {
            assert_eq!(mapping(none.as_bytes()), None, "{none}");
        }
    }

    #[test]
    fn what_is_given_back_still_runs() {
        let mapped = mapped().unwrap();
        let own = give_back as fn() as usize;
        assert!(mapped.iter().any(|range| range.contains(&own)));
        // What the loader has written to, and then protected, is not in the file.
        static TEXT: &str = "relocated";
        static POINTER: &&str = &TEXT;
        let pointer = std::ptr::from_ref(POINTER).addr();
        assert!(!mapped.iter().any(|range| range.contains(&pointer)));
        give_back();
        give_back();
        let text: &str = POINTER;
        assert_eq!(text, "relocated");
    }
}
