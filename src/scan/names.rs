//! Many names in little memory: ten thousand of ten bytes take some 200 KiB, where strings of their own take a megabyte.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// A list of names.
#[derive(Debug, Default)]
pub struct Names {
    /// All of them, one behind the other.
    bytes: Vec<u8>,
    /// Of each one where it begins, and in the last [`LENGTH`] bits how long it is.
    spans: Vec<u64>,
}

/// No name is longer than 255 bytes.
const LENGTH: u32 = 16;

impl Names {
    /// Puts one behind the others.
    pub fn push(&mut self, name: &OsStr) {
        let name = name.as_bytes();
        let length = name.len().min((1 << LENGTH) - 1);
        self.spans
            .push((self.bytes.len() as u64) << LENGTH | length as u64);
        self.bytes.extend(name.iter().take(length));
    }

    /// Sorts them by their bytes; needless memory is given back.
    pub fn sort(&mut self) {
        let Names { bytes, spans } = self;
        spans.sort_unstable_by_key(|&span| name_at(bytes, span));
        spans.shrink_to_fit();
        bytes.shrink_to_fit();
    }

    /// How many they are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &OsStr> {
        let names = self.spans.iter();
        names.map(|&span| OsStr::from_bytes(name_at(&self.bytes, span)))
    }

    /// Whether it is one of them, which must be sorted.
    #[must_use]
    pub fn contains(&self, name: &OsStr) -> bool {
        let found = self
            .spans
            .binary_search_by_key(&name.as_bytes(), |&span| name_at(&self.bytes, span));
        found.is_ok()
    }
}

fn name_at(bytes: &[u8], span: u64) -> &[u8] {
    let start = usize::try_from(span >> LENGTH).unwrap_or(usize::MAX);
    let length = usize::try_from(span & ((1 << LENGTH) - 1)).unwrap_or_default();
    let end = start.saturating_add(length);
    bytes.get(start..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn they_are_as_a_sorted_list_of_strings(names in proptest::collection::vec(proptest::collection::vec(1_u8..=255, 1..=255), 0..40), other: Vec<u8>) {
            let mut list = Names::default();
            names.iter().for_each(|name| list.push(OsStr::from_bytes(name)));
            list.sort();
            let mut sorted = names.clone();
            sorted.sort_unstable();
            let there: Vec<_> = list.iter().map(|name| name.as_bytes().to_vec()).collect();
            prop_assert_eq!(&there, &sorted);
            prop_assert_eq!((list.len(), list.is_empty()), (names.len(), names.is_empty()));
            prop_assert!(names.iter().all(|name| list.contains(OsStr::from_bytes(name))));
            prop_assert_eq!(list.contains(OsStr::from_bytes(&other)), names.contains(&other));
        }
    }
}
