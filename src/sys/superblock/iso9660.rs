//! ISO 9660 with or without the Joliet extension.
//!
//! Layout: ECMA-119, section 8; "Joliet Specification" (Microsoft, 1995). Rock Ridge has no label of its own.

use super::{Content, Disk, field, file_system, hex, label};
use std::io;

const SECTOR: u64 = 2048;
const FIRST_DESCRIPTOR: u64 = 16 * SECTOR;
const MOST_DESCRIPTORS: u64 = 16;

type Descriptor = [u8; 2048];

pub(super) fn probe(disk: &Disk) -> io::Result<Option<Content>> {
    let (mut primary, mut joliet): (Option<Descriptor>, Option<Descriptor>) = (None, None);
    for number in 0..MOST_DESCRIPTORS {
        let Some(block) = disk.bytes(FIRST_DESCRIPTOR + number * SECTOR)? else {
            break;
        };
        if field(&block, 1) != *b"CD001" {
            break;
        }
        match block[0] {
            1 if primary.is_none() => primary = Some(block),
            2 if joliet.is_none() && is_joliet(&block) => joliet = Some(block),
            255 => break,
            _ => {} // a boot record, a partition, an ISO 9660:1999 descriptor
        }
    }
    let Some(primary) = primary else {
        return Ok(None);
    };
    let label = match joliet {
        Some(joliet) => joliet_label(&field(&joliet, 40), &field(&primary, 40)),
        None => label(&primary[40..72]),
    };
    let (created, modified) = (&primary[813..830], &primary[830..847]);
    // The UUID is only a time, to the second in most tools: also number of blocks, and both times with their time zone.
    let made = hex(&[&primary[80..84], created, modified, &primary[40..72]]);
    let uuid = match date(modified) {
        Date::Unset => date(created).text(),
        set => set.text(),
    };
    Ok(file_system("iso9660", label, uuid, &made))
}

fn is_joliet(descriptor: &Descriptor) -> bool {
    matches!(&descriptor[88..91], b"%/@" | b"%/C" | b"%/E")
}

enum Date {
    /// The value that ECMA-119 8.4.26.1 has for "not specified".
    Unset,
    /// Not digits: no date at all.
    Bad,
    Set(String),
}

impl Date {
    fn text(self) -> String {
        match self {
            Self::Unset | Self::Bad => String::new(),
            Self::Set(text) => text,
        }
    }
}

/// `YYYYMMDDhhmmsscc` and the offset from UTC, as blkid makes a UUID of it: `YYYY-MM-DD-hh-mm-ss-cc`.
fn date(stamp: &[u8]) -> Date {
    let digits: [u8; 16] = field(stamp, 0);
    if digits == [b'0'; 16] && stamp.get(16) == Some(&0) {
        return Date::Unset;
    }
    if !digits.iter().all(u8::is_ascii_digit) {
        return Date::Bad;
    }
    let mut text = String::with_capacity(22);
    for (index, &digit) in digits.iter().enumerate() {
        if index >= 4 && index % 2 == 0 {
            text.push('-');
        }
        text.push(char::from(digit));
    }
    Date::Set(text)
}

/// Joliet has 16 characters of Unicode, the primary descriptor 32 of a subset of ASCII, with `_` for what it cannot show. If
/// one continues the other, the label is taken from both, as blkid does; otherwise it is Joliet's.
pub(super) fn joliet_label(joliet: &[u8; 32], primary: &[u8; 32]) -> Vec<u8> {
    let own: Vec<u16> = joliet
        .chunks_exact(2)
        .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
        .collect();
    let units = merged(&own, primary).unwrap_or(own);
    let end = units.iter().position(|&unit| unit == 0);
    let text = String::from_utf16_lossy(&units[..end.unwrap_or(units.len())]);
    label(text.as_bytes())
}

/// `None` if `joliet` is not the beginning of `primary`.
fn merged(joliet: &[u16], primary: &[u8; 32]) -> Option<Vec<u16>> {
    let (mut units, mut rest) = (Vec::with_capacity(64), primary.iter().copied());
    let mut unicode = joliet.iter().copied().peekable();
    while let Some(mut unit) = unicode.next() {
        if (0xd800..0xdc00).contains(&unit)
            && let Some(low) = unicode.next_if(|low| (0xdc00..0xe000).contains(low))
        {
            units.push(unit); // one character, one `_`, two units
            unit = low;
        }
        let Some(ascii) = rest.next() else {
            return Some(units);
        };
        let shown = u8::try_from(unit).ok();
        units.push(match (ascii, shown) {
            (b'_', _) => unit,
            (_, Some(b'_')) => ascii.into(),
            (_, Some(byte)) if byte.eq_ignore_ascii_case(&ascii) => {
                if ascii.is_ascii_uppercase() {
                    unit
                } else {
                    ascii.into()
                }
            }
            _ => return None,
        });
    }
    units.extend(rest.map(u16::from));
    Some(units)
}
