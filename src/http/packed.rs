//! Headers and URI in one piece, for another attempt that most calls don't make.

use std::fmt;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Uri, uri};

/// Headers, and for most requests their URI, packed into one allocation; see
/// [`SavedRequest`](super::SavedRequest).
pub(crate) struct Packed(Box<[u8]>);

impl Packed {
    /// Packs all of them, with what is said of each value being sensitive.
    #[cfg(any(feature = "reqwest", test))]
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        Self::parts(None, headers)
    }

    /// Packs the URI too, if it is of the usual kind: not to be cloned, for that is four times as dear.
    #[inline]
    pub(crate) fn of_request(uri: &Uri, headers: &HeaderMap) -> Self {
        Self::parts(Address::of(uri), headers)
    }

    fn parts(address: Option<Address<'_>>, headers: &HeaderMap) -> Self {
        let size = |(name, value): (&HeaderName, &HeaderValue)| {
            size_of::<u64>() + name.as_str().len() + value.len()
        };
        let (lead_of_all, authority, path) = match address {
            Some(it) => (it.lead(), it.authority, it.path),
            None => (0, "", ""),
        };
        let front = size_of::<u64>() + authority.len() + path.len();
        let size = front + headers.iter().map(size).sum::<usize>();
        // Two steps: glibc's calloc passes by the cache that its malloc has.
        #[allow(clippy::slow_vector_initialization)]
        let mut bytes = Vec::with_capacity(size);
        bytes.resize(size, 0);
        let mut bytes = bytes.into_boxed_slice();
        let mut rest = put(&mut bytes, &lead_of_all.to_le_bytes());
        rest = put(rest, authority.as_bytes());
        rest = put(rest, path.as_bytes());
        for (name, value) in headers {
            let name = name.as_str().as_bytes();
            rest = put(rest, &lead(name, value).to_le_bytes());
            rest = put(rest, name);
            rest = put(rest, value.as_bytes());
        }
        Self(bytes)
    }

    /// Adds them to others, in the order in which they were. Panics if there are then more than a [`HeaderMap`]
    /// takes: 32,768 names. What it was made of held no more.
    pub(crate) fn unpack(&self, headers: &mut HeaderMap) {
        let (_, mut rest) = self.split();
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

    #[inline]
    pub(crate) fn has_uri(&self) -> bool {
        !self.0.starts_with(&[0; size_of::<u64>()])
    }

    /// The URI, if it was packed.
    pub(crate) fn uri(&self) -> Option<Uri> {
        let address = self.split().0?;
        let mut parts = uri::Parts::default();
        parts.scheme = Some(if address.is_https {
            Scheme::HTTPS
        } else {
            Scheme::HTTP
        });
        parts.authority = Some(Authority::try_from(address.authority).expect("it was one"));
        parts.path_and_query = Some(PathAndQuery::try_from(address.path).expect("it was one"));
        Some(Uri::from_parts(parts).expect("a scheme, an authority and a path are a URI"))
    }

    /// What there is of a URI, and the headers.
    fn split(&self) -> (Option<Address<'_>>, &[u8]) {
        let (lead, rest) = self.0.split_first_chunk().expect("it is always there");
        let lead = u64::from_le_bytes(*lead);
        if lead == 0 {
            return (None, rest);
        }
        let (authority, path, is_https) = lengths(lead);
        let (authority, rest) = rest.split_at(authority);
        let (path, rest) = rest.split_at(path);
        let text = |bytes| std::str::from_utf8(bytes).expect("it was text");
        let address = Address {
            is_https,
            authority: text(authority),
            path: text(path),
        };
        (Some(address), rest)
    }
}

/// A URI of the usual kind: no other is sure to be the same when it has been taken apart.
struct Address<'a> {
    is_https: bool,
    authority: &'a str,
    /// And query; neither is empty.
    path: &'a str,
}

impl<'a> Address<'a> {
    #[inline]
    fn of(uri: &'a Uri) -> Option<Self> {
        let is_https = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let (authority, path) = (uri.authority()?.as_str(), uri.path_and_query()?.as_str());
        let is_usual = authority.len() >> NAME == 0 && path.starts_with('/');
        is_usual.then_some(Self {
            is_https,
            authority,
            path,
        })
    }

    /// As [`lead`]. Not zero, for there is a path.
    const fn lead(&self) -> u64 {
        let lengths = (self.path.len() as u64) << NAME | self.authority.len() as u64;
        lengths << 1 | self.is_https as u64
    }
}

/// Copies to the front, and gives what is behind it.
///
/// Most names and values are short: two windows that overlap take less time than a call for any length.
#[allow(clippy::inline_always)] // the call is what is spared
#[inline(always)]
fn put<'a>(to: &'a mut [u8], from: &[u8]) -> &'a mut [u8] {
    let (place, rest) = to.split_at_mut(from.len());
    match from.len() {
        4..8 => put_ends::<4>(place, from),
        8..16 => put_ends::<8>(place, from),
        16..=32 => put_ends::<16>(place, from),
        _ => place.copy_from_slice(from),
    }
    rest
}

/// Both of the same length, from `N` to twice as much.
#[allow(clippy::inline_always)]
#[inline(always)]
fn put_ends<const N: usize>(to: &mut [u8], from: &[u8]) {
    let last = from.len() - N;
    to[..N].copy_from_slice(&from[..N]);
    to[last..].copy_from_slice(&from[last..]);
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
                ("[a-z-]{1,40}|accept|cookie", "[\t -~\u{80}-\u{ff}]{0,40}", any::<bool>()), 0..20,
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

    proptest! {
        #[test]
        fn a_uri_is_packed_whole_or_not_at_all(
            scheme in "(https?|HTTP|ftp)",
            authority in "[a-zA-Z0-9@:.%\\[\\]-]{0,9}",
            path in "[/*?#a-z0-9%{}é.-]{0,9}",
            form in 0..4,
        ) {
            let text = match form {
                0 => format!("{scheme}://{authority}{path}"),
                1 => format!("{scheme}://{authority}/{path}"),
                2 => path,
                _ => authority,
            };
            if let Ok(uri) = text.parse::<Uri>() {
                let value = HeaderValue::from_static("value");
                let headers = HeaderMap::from_iter([(http::header::ACCEPT, value)]);
                let packed = Packed::of_request(&uri, &headers);
                prop_assert_eq!(packed.has_uri(), packed.uri().is_some());
                if let Some(again) = packed.uri() {
                    prop_assert_eq!(&again, &uri);
                    prop_assert_eq!(again.to_string(), uri.to_string());
                    prop_assert_eq!(again.path(), uri.path());
                    prop_assert_eq!(again.query(), uri.query());
                }
                let mut fields = HeaderMap::new();
                packed.unpack(&mut fields);
                prop_assert_eq!(fields, headers);
            }
        }
    }

    #[test]
    fn what_goes_to_a_service_is_packed_and_other_uris_are_left_to_be_cloned() {
        for (uri, is_packed) in [
            ("http://a/", true),
            ("https://me:pw@[::1]:81/?b", true),
            ("http://a?b", false),
            ("http://a", true),
            ("ftp://a/", false),
            ("/a", false),
            ("a:80", false),
            ("*", false),
        ] {
            let packed = Packed::of_request(&Uri::from_static(uri), &HeaderMap::new());
            assert_eq!(packed.has_uri(), is_packed, "{uri}");
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
