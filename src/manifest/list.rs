//! The text of a manifest: a line that names the image, and what sha256sum(1) writes.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::name::shown;

/// What the first line begins with.
const HEADER: &[u8] = b"# image: ";
/// What begins the name of an image that has one of its own.
const UUID: &[u8] = b"UUID=";
/// Of a SHA-256 in hexadecimal.
const DIGITS: usize = 64;

/// Scripts by name, each with the SHA-256 of its bytes.
pub(super) type List = HashMap<OsString, String>;

/// Reads what sha256sum(1) has written, below a line that names the image.
pub(super) fn parse(bytes: &[u8], image: &str) -> Result<List, String> {
    let mut lines = bytes.split(|&byte| byte == b'\n');
    let header = lines.next().and_then(|line| line.strip_prefix(HEADER));
    let Some(of) = header.map(<[u8]>::trim_ascii) else {
        return Err(format!(
            "its first line must name the image that it is for: # image: {image}"
        ));
    };
    // The digits of a UUID are written in either case; a path or a tag is another one then.
    let here = image.as_bytes();
    let same = of == here || (here.starts_with(UUID) && of.eq_ignore_ascii_case(here));
    if !same {
        let of = shown(OsStr::from_bytes(of));
        return Err(format!("it is for the image {of}, and this is {image}"));
    }
    let mut list = List::new();
    for (number, line) in lines.enumerate() {
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let Some((name, sha256)) = entry(line) else {
            return Err(format!(
                "line {} is not as sha256sum writes it in script-bin: a SHA-256, two blanks, a name without a directory",
                number + 2
            ));
        };
        let before = list.insert(name, sha256.clone());
        if before.is_some_and(|before| before != sha256) {
            return Err(format!("line {} names a script a second time", number + 2));
        }
    }
    Ok(list)
}

/// `SHA256  NAME`. A backslash in front says that the name has escapes in it.
fn entry(line: &[u8]) -> Option<(OsString, String)> {
    let (escaped, line) = match line.strip_prefix(b"\\") {
        Some(rest) => (true, rest),
        None => (false, line),
    };
    let (digits, rest) = line.split_at_checked(DIGITS)?;
    let name = rest
        .strip_prefix(b"  ")
        .or_else(|| rest.strip_prefix(b" *"))?;
    let name = if escaped {
        unescape(name)?
    } else {
        name.to_owned()
    };
    let digits = std::str::from_utf8(digits).ok()?.to_ascii_lowercase();
    let hexadecimal = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    (hexadecimal && !name.is_empty() && !name.contains(&b'/'))
        .then(|| (OsString::from_vec(name), digits))
}

fn unescape(name: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(name.len());
    let mut bytes = name.iter();
    while let Some(&byte) = bytes.next() {
        plain.push(match byte {
            b'\\' => match bytes.next()? {
                b'n' => b'\n',
                b'r' => b'\r',
                b'\\' => b'\\',
                _ => return None,
            },
            other => other,
        });
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUM: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn listed(lines: &str) -> Result<Vec<OsString>, String> {
        let text = format!("# image: UUID=ab\n{lines}");
        let mut names: Vec<_> = parse(text.as_bytes(), "UUID=AB")?.into_keys().collect();
        names.sort();
        Ok(names)
    }

    #[test]
    fn any_name_survives_the_way_through_sha256sum() {
        let dir = tempfile::tempdir().unwrap();
        let mut names: Vec<OsString> = [
            &b"a b"[..],
            b"a\nb",
            b"a\\nb",
            b"\\",
            b"-x",
            b"\xff",
            b"#",
            b" *x",
            b"r\rr",
            b"x\\",
        ]
        .map(|name| OsStr::from_bytes(name).to_owned())
        .to_vec();
        names.sort();
        for name in &names {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let mut sha256sum = std::process::Command::new("sha256sum");
        let sums = sha256sum
            .current_dir(dir.path())
            .arg("--")
            .args(&names)
            .output()
            .unwrap();
        assert!(sums.status.success());
        let mut text = b"# image: x\n".to_vec();
        text.extend(sums.stdout);
        let list = parse(&text, "x").unwrap();
        let mut found: Vec<_> = list.keys().cloned().collect();
        found.sort();
        assert_eq!(found, names);
        assert!(list.values().all(|sum| sum == SUM));
    }

    #[test]
    fn what_sha256sum_would_not_write_is_refused() {
        assert_eq!(
            listed(&format!("{SUM}  a\n\n# b\n{SUM} *c")).unwrap(),
            ["a", "c"]
        );
        let other = SUM.replace('e', "f");
        for lines in [
            format!("{SUM} a"),
            format!("{SUM}  "),
            format!("{SUM}  ./a"),
            format!("{}  a", &SUM[1..]),
            format!("g{}  a", &SUM[1..]),
            format!("\\{SUM}  a\\x"),
            format!("\\{SUM}  a\\"),
            format!("{SUM}  a\n{other}  a"),
            "SHA256 (a) = 00".to_owned(),
        ] {
            assert!(listed(&lines).is_err(), "{lines:?}");
        }
    }

    #[test]
    fn a_manifest_is_for_one_image() {
        for text in [
            "",
            "\n",
            "# image: UUID=cd\n",
            "# image:UUID=ab\n",
            " # image: UUID=ab\n",
        ] {
            assert!(parse(text.as_bytes(), "UUID=ab").is_err(), "{text:?}");
        }
        assert!(parse(b"# image: UUID=AB", "UUID=ab").unwrap().is_empty());
        let place = "SOURCE=/srv/App";
        parse(b"# image: SOURCE=/srv/App", place).unwrap();
        parse(b"# image: SOURCE=/srv/app", place).unwrap_err();
    }
}
