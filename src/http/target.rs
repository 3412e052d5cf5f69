//! Which service a request goes to. Pure.

use std::cell::RefCell;
use std::hash::{Hash, Hasher};

use http::uri::Authority;
use http::{Method, Uri};

use crate::keyed::Key;

/// Where a request goes; see [`Http::key_by`](super::Http::key_by). A part that isn't in the request is empty.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    pub(crate) method: &'a Method,
    pub(crate) scheme: &'a str,
    pub(crate) host: &'a str,
    pub(crate) port: Option<u16>,
    pub(crate) path: &'a str,
}

impl<'a> Target<'a> {
    #[inline]
    pub(super) fn of(method: &'a Method, uri: &'a Uri) -> Self {
        let (host, port) = host_and_port(uri.authority().map_or("", Authority::as_str));
        Self {
            method,
            scheme: uri.scheme_str().unwrap_or_default(),
            host,
            port,
            path: uri.path(),
        }
    }

    /// The method.
    #[must_use]
    pub const fn method(&self) -> &'a Method {
        self.method
    }

    /// `http` or `https`.
    #[must_use]
    pub const fn scheme(&self) -> &'a str {
        self.scheme
    }

    /// The host, in the case in which it was written.
    #[must_use]
    pub const fn host(&self) -> &'a str {
        self.host
    }

    /// The port, written out or not.
    #[must_use]
    pub fn port(&self) -> u16 {
        let usual = if self.scheme == "https" { 443 } else { 80 };
        self.port.unwrap_or(usual)
    }

    /// The path, without the query.
    #[must_use]
    pub const fn path(&self) -> &'a str {
        self.path
    }

    /// One service: a host, in whatever case, and a port.
    pub(crate) fn key(&self) -> Option<Key> {
        let known = !self.scheme.is_empty() && !self.host.is_empty();
        known.then(|| service_key(self.host, self.port()))
    }
}

/// The key that an HTTP request to this host, in whatever case, and port has by default: for what is
/// [kept per key](crate::keyed), and to give a service a name in `metrics`.
///
/// # Examples
///
/// ```
/// use evenkeel::http::service_key;
///
/// assert_eq!(service_key("Billing.internal", 443), service_key("billing.internal", 443));
/// assert_ne!(service_key("billing.internal", 443), service_key("billing.internal", 80));
/// ```
#[must_use]
pub fn service_key(host: &str, port: u16) -> Key {
    let hash = || Key::of(Service { host, port });
    remembered(host, u32::from(port), || Some(hash())).unwrap_or_else(hash)
}

/// The key that a request to this URI has by default.
pub(super) fn key_of(uri: &Uri) -> Option<Key> {
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?.as_str());
    let usual = if scheme == "https" { 443 } else { 80 };
    remembered(authority, WHOLE | u32::from(usual), || {
        let (host, port) = host_and_port(authority);
        let port = port.unwrap_or(usual);
        (!host.is_empty()).then(|| Key::of(Service { host, port }))
    })
}

/// Marks an authority as such, beside the port that it has if it names none.
const WHOLE: u32 = 1 << 16;

thread_local! {
    static LAST: RefCell<[Last; PLACES]> = const { RefCell::new([const { Last::NONE }; PLACES]) };
}

/// What a thread asked for lately: one call is often followed by another to the same service or one of a few,
/// and to compare a name takes a fifth of the time of hashing it. It is compared whole, as it was written, so
/// this changes no key, and what others send can't make it say another.
struct Last {
    name: [u8; LONGEST_KEPT],
    length: usize,
    port: u32,
    key: Option<Key>,
}

impl Last {
    const NONE: Self = Self {
        name: [0; LONGEST_KEPT],
        length: 0,
        port: 0,
        key: None,
    };

    #[cold]
    fn keep(&mut self, name: &str, port: u32, key: Option<Key>) {
        // Who calls, and perhaps a password: not to lie about.
        if name.contains('@') {
            return;
        }
        let Some(place) = self.name.get_mut(..name.len()) else {
            return;
        };
        place.copy_from_slice(name.as_bytes());
        (self.length, self.port, self.key) = (name.len(), port, key);
    }
}

/// The key of this name and port, as `make` makes it.
#[inline]
fn remembered(name: &str, port: u32, make: impl FnOnce() -> Option<Key>) -> Option<Key> {
    // A thread's own is gone only while the thread ends; then nothing is remembered.
    let place = place(name.as_bytes());
    let known = LAST.try_with(|last| {
        let last = &last.borrow()[place];
        let is_it = last.port == port && last.name[..last.length] == *name.as_bytes();
        last.key.filter(|_| is_it)
    });
    if let Ok(Some(key)) = known {
        return Some(key);
    }
    let key = make();
    let _ = LAST.try_with(|last| last.borrow_mut()[place].keep(name, port, key));
    key
}

/// Where a name is remembered, if it is: names of a few services are mostly in places of their own.
#[inline]
fn place(name: &[u8]) -> usize {
    let byte = |at: usize| name.get(at).map_or(0, |it| usize::from(*it));
    (name.len() + byte(0) + byte(name.len() / 2)) % PLACES
}

const PLACES: usize = 8;

/// Most names of hosts are shorter.
const LONGEST_KEPT: usize = 64;

/// A host, hashed as if it were in lower case without a copy of it, and a port.
struct Service<'a> {
    host: &'a str,
    port: u16,
}

impl Hash for Service<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [one, other] = self.port.to_ne_bytes();
        // Keeps the end of the name apart from what follows it.
        let end = [0xff, one, other];
        let mut name = self.host.as_bytes();
        // Not byte by byte, and the usual name in one piece: each costs as much as hashing it.
        let mut piece = [0; 48];
        loop {
            let (part, rest) = name.split_at(name.len().min(piece.len() - end.len()));
            piece[..part.len()].copy_from_slice(part);
            piece.make_ascii_lowercase();
            if rest.is_empty() {
                piece[part.len()..][..end.len()].copy_from_slice(&end);
                state.write(&piece[..part.len() + end.len()]);
                return;
            }
            state.write(&piece[..part.len()]);
            name = rest;
        }
    }
}

/// Host and port of an authority, as [`Authority::host`] and [`Authority::port_u16`] read them, who
/// search it from the end three times over.
fn host_and_port(authority: &str) -> (&str, Option<u16>) {
    let bytes = authority.as_bytes();
    // Colons stand in users and in addresses of IPv6 too.
    let last = bytes
        .iter()
        .rposition(|it| matches!(it, b':' | b'@' | b']'));
    let (named, port) = match last {
        Some(at) if bytes[at] == b':' => (&authority[..at], authority[at + 1..].parse().ok()),
        _ => (authority, None),
    };
    let user = named.bytes().rposition(|it| it == b'@');
    (&named[user.map_or(0, |at| at + 1)..], port)
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use proptest::prelude::*;

    use super::*;
    use crate::http::Http;
    use crate::pipeline::Protocol;

    #[test]
    fn a_service_is_a_host_in_any_case_and_a_port_written_out_or_not() {
        let key = |uri: &'static str| {
            let request = Request::get(uri).body(()).expect("a URI");
            Protocol::<_, Response<String>>::key(&Http::new(), &request)
        };
        assert_eq!(key("http://Api.test/a"), key("http://api.test:80/b?c"));
        assert_eq!(key("https://api.test/"), key("https://api.test:443/"));
        assert_ne!(key("https://api.test/"), key("http://api.test/"));
        assert_ne!(key("http://api.test/"), key("http://api.test:81/"));
        assert_eq!(key("/relative"), None);
    }

    #[test]
    fn an_authority_and_a_host_of_the_same_text_keep_their_own_keys() {
        let uri = Uri::from_static("http://a:81/");
        for _ in 0..2 {
            assert_eq!(
                key_of(&uri),
                Some(Key::of(Service {
                    host: "a",
                    port: 81
                }))
            );
            let host = "a:81";
            assert_eq!(service_key(host, 80), Key::of(Service { host, port: 80 }));
        }
        for (uri, key) in [
            ("http://a/", Some(("a", 80))),
            ("https://a/", Some(("a", 443))),
            ("https://me@a:/", Some(("a", 443))),
            ("ftp://a/", Some(("a", 80))),
            ("/a", None),
            ("a:80", None),
        ] {
            let uri = Uri::from_static(uri);
            let key = key.map(|(host, port)| Key::of(Service { host, port }));
            assert_eq!(key_of(&uri), key, "{uri}");
            assert_eq!(Target::of(&Method::GET, &uri).key(), key, "{uri}");
        }
    }

    #[test]
    fn no_password_is_remembered() {
        let _ = key_of(&Uri::from_static("http://kept/"));
        let _ = key_of(&Uri::from_static("http://me:secret@a/"));
        let all = LAST.with_borrow(|all| all.each_ref().map(|it| it.name));
        let all: Vec<u8> = all.concat();
        let has = |name: &[u8]| all.windows(name.len()).any(|it| it == name);
        assert!(has(b"kept") && !has(b"secret"));
    }

    #[test]
    fn a_key_is_the_same_whatever_was_asked_for_before() {
        let names = ["a", "A", "b", "aa", "", &"a".repeat(64), &"a".repeat(65)];
        let all: Vec<_> = names
            .iter()
            .flat_map(|host| [(*host, 80), (*host, 443)])
            .collect();
        for &(host, port) in &all {
            for &(before, its_port) in &all {
                let _ = service_key(before, its_port);
                let expected = Key::of(Service { host, port });
                assert_eq!(service_key(host, port), expected, "{host} after {before}");
                assert_eq!(service_key(host, port), expected, "{host} again");
            }
        }
    }

    #[test]
    fn a_long_name_is_hashed_to_its_end_in_any_case() {
        for length in 0..=200 {
            let name = "a".repeat(length);
            let key = service_key(&name, 1);
            assert_eq!(key, service_key(&name.to_uppercase(), 1));
            assert_ne!(key, service_key(&name, 2));
            assert_ne!(key, service_key(&format!("{name}a"), 1));
            for at in 0..length {
                let other: String = (0..length)
                    .map(|it| if it == at { 'b' } else { 'a' })
                    .collect();
                assert_ne!(key, service_key(&other, 1), "{length} {at}");
            }
        }
    }

    proptest! {
        #[test]
        fn host_and_port_are_those_that_the_authority_itself_tells(
            user in "([a-z1:%2]{0,5}@)?",
            host in "[a-zA-Z0-9.-]{0,9}|\\[[0-9a-f:.]{0,9}\\]|[a1:@.+-]{0,9}",
            port in "(:[0-9]{0,6})?",
        ) {
            if let Ok(authority) = format!("{user}{host}{port}").parse::<Authority>() {
                let (host, port) = host_and_port(authority.as_str());
                prop_assert_eq!(host, authority.host());
                prop_assert_eq!(port, authority.port_u16());
            }
        }

        #[test]
        fn no_authority_makes_it_panic(text in "[a1:@é\\[\\]+-]{0,9}") {
            let _ = host_and_port(&text);
        }
    }
}
