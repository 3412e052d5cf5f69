//! Headers in one piece, for another attempt that most calls don't make.

use std::fmt;
use std::mem;

use http::{HeaderMap, HeaderName, HeaderValue};

/// Headers, packed into one allocation; see
/// [`Protocol::first_copy`](crate::pipeline::Protocol::first_copy).
///
/// To clone a map of headers takes two allocations, and one more for each value that was made of text;
/// all that for a request that is hardly ever sent again. Packed it is a few copies of bytes, and
/// who pays for unpacking is a retry.
///
/// # Examples
///
/// ```
/// use evenkeel::http::Packed;
/// use http::{HeaderMap, HeaderValue, header};
///
/// let mut headers = HeaderMap::new();
/// headers.insert(header::ACCEPT, HeaderValue::from_static("text/plain"));
/// let packed = Packed::of(&headers);
/// let mut again = HeaderMap::new();
/// packed.unpack(&mut again);
/// assert_eq!(again, headers);
/// ```
#[must_use = "what is packed is to be unpacked"]
pub struct Packed(Vec<u8>);

impl Packed {
    /// A copy of a request whose headers go along with it, and are packed for the next one. `copy` copies
    /// all else, or says that it can't.
    #[inline]
    pub(crate) fn first_copy<Q>(
        request: &mut Q,
        packed: &mut Option<Self>,
        headers: impl Fn(&mut Q) -> &mut HeaderMap,
        copy: impl FnOnce(&Q) -> Option<Q>,
    ) -> Option<Q> {
        let moved = mem::take(headers(request));
        let mut copy = copy(request);
        match &mut copy {
            Some(copy) => {
                *packed = Some(Self::of(&moved));
                *headers(copy) = moved;
            }
            None => *headers(request) = moved,
        }
        copy
    }

    /// Packs all of them, with what is said of each value being sensitive.
    pub fn of(headers: &HeaderMap) -> Self {
        let size = |(name, value): (&HeaderName, &HeaderValue)| {
            size_of::<u64>() + name.as_str().len() + value.len()
        };
        let mut bytes = Vec::with_capacity(headers.iter().map(size).sum());
        for (name, value) in headers {
            let name = name.as_str().as_bytes();
            bytes.extend_from_slice(&lead(name, value).to_le_bytes());
            bytes.extend_from_slice(name);
            bytes.extend_from_slice(value.as_bytes());
        }
        Self(bytes)
    }

    /// Adds them to others, in the order in which they were.
    ///
    /// # Panics
    ///
    /// If there are then more than a [`HeaderMap`] takes: 32,768 names. What it was made of held no more.
    pub fn unpack(&self, headers: &mut HeaderMap) {
        let mut rest = &self.0[..];
        while let Some((lead, more)) = rest.split_first_chunk() {
            let (name, value, is_sensitive) = lengths(u64::from_le_bytes(*lead));
            let (name, more) = more.split_at(name);
            let (value, more) = more.split_at(value);
            let name = HeaderName::from_bytes(name).expect("it was one");
            let mut value = HeaderValue::from_bytes(value).expect("it was one");
            value.set_sensitive(is_sensitive);
            headers.append(name, value);
            rest = more;
        }
    }
}

/// What stands before each name and value: the length of each, and whether the value is sensitive.
fn lead(name: &[u8], value: &HeaderValue) -> u64 {
    // A name has less than 64 KiB by the rules of `http`, and a value less than memory has.
    let lengths = (value.len() as u64) << NAME | name.len() as u64;
    lengths << 1 | u64::from(value.is_sensitive())
}

#[allow(clippy::cast_possible_truncation)] // as they were
const fn lengths(lead: u64) -> (usize, usize, bool) {
    let lengths = lead >> 1;
    let name = lengths & ((1 << NAME) - 1);
    (name as usize, (lengths >> NAME) as usize, lead & 1 == 1)
}

/// Bits for the length of a name.
const NAME: u32 = 16;

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // There may be passwords in it.
        f.debug_struct("Packed").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn again(headers: &HeaderMap) -> HeaderMap {
        let mut again = HeaderMap::new();
        Packed::of(headers).unpack(&mut again);
        again
    }

    proptest! {
        #[test]
        fn what_is_unpacked_is_what_was_packed(
            fields in prop::collection::vec(
                ("[a-z-]{1,9}|accept|cookie", "[\t -~\u{80}-\u{ff}]{0,30}", any::<bool>()), 0..20,
            ),
            removed in prop::collection::vec("[a-z-]|accept", 0..3),
        ) {
            let mut headers = HeaderMap::new();
            for (name, value, is_sensitive) in &fields {
                let mut value = HeaderValue::from_bytes(value.as_bytes()).expect("valid");
                value.set_sensitive(*is_sensitive);
                headers.append(name.parse::<HeaderName>().expect("valid"), value);
            }
            for name in &removed {
                headers.remove(name);
            }
            let again = again(&headers);
            prop_assert!(headers.iter().eq(again.iter()));
            let are_sensitive = |it: &HeaderMap| {
                it.values().map(HeaderValue::is_sensitive).collect::<Vec<_>>()
            };
            prop_assert_eq!(are_sensitive(&headers), are_sensitive(&again));
        }
    }

    #[test]
    fn names_and_values_of_any_length_are_unpacked() {
        for (name, value) in [(1, 0), (1, 100_000), (65_535, 1)] {
            let name: HeaderName = "x".repeat(name).parse().expect("the longest there can be");
            let value: HeaderValue = "v".repeat(value).parse().expect("valid");
            let headers = HeaderMap::from_iter([(name, value)]);
            assert_eq!(again(&headers), headers);
        }
    }

    #[test]
    fn it_shows_nothing() {
        let value = HeaderValue::from_static("secret");
        let headers = HeaderMap::from_iter([(http::header::AUTHORIZATION, value)]);
        let packed = Packed::of(&headers);
        assert_eq!(format!("{packed:?}"), "Packed { .. }");
    }
}
