//! Patterns as the shell has them, byte by byte: fnmatch(3).

use std::ffi::CString;

/// Whether `text` as a whole matches `pattern`, in which `*`, `?` and `[…]` stand for other bytes and `\` takes that meaning away.
#[must_use]
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (Ok(pattern), Ok(text)) = (CString::new(pattern), CString::new(text)) else {
        return false; // no label has a NUL in it
    };
    #[expect(unsafe_code, reason = "fnmatch(3)")]
    // SAFETY: both are strings that end in NUL, and live until it returns.
    let answer = unsafe { libc::fnmatch(pattern.as_ptr(), text.as_ptr(), 0) };
    answer == 0
}

/// Whether `pattern` stands for more than one text.
#[must_use]
pub fn is_pattern(pattern: &str) -> bool {
    pattern.contains(['*', '?', '['])
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_are_those_of_the_shell_byte_by_byte() {
        for (pattern, text, expected) in [
            (&b"gva-app*"[..], &b"gva-app"[..], true),
            (b"gva-app*", b"gva-app-7", true),
            (b"gva-app*", b"xgva-app", false),
            (b"a?c", b"a\xffc", true),
            (b"a*c", b"a\xc3(/c", true),
            (b"job[0-9]", b"job7", true),
            (b"job[!0-9]", b"job7", false),
            (b"job\\*", b"job7", false),
            (b"job\\*", b"job*", true),
            (b"job[", b"job[", true),
            (b"*", b"a\0b", false),
            (b"*", b"", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern:?} {text:?}");
        }
    }
}
