//! What an endpoint is called, and where it is.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::str::FromStr;

use http::Uri;
use http::uri::{Authority, Scheme};

use crate::error::ConfigError;
use crate::http::Target;
use crate::keyed::Key;

/// One of those that can answer: a host and port, or only a name.
///
/// Made of text, a URI or a socket address by `into()`. Text with `://` is a scheme and an
/// authority, such as `https://10.0.0.1:8443`; any other is an authority, such as `10.0.0.1:8080`,
/// whose scheme is that of each request. Schemes are `http` and `https`. Text that has no slash and can't be
/// an authority is only a name.
///
/// # Examples
///
/// ```
/// use evenkeel::endpoints::Endpoint;
///
/// let endpoint = Endpoint::from("http://Replica-1:8080/");
/// assert_eq!(endpoint.name(), "http://replica-1:8080");
/// assert_eq!(endpoint.authority().unwrap().port_u16(), Some(8080));
/// assert!(Endpoint::named("replica 1").authority().is_none());
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    name: Box<str>,
    place: Place,
}

#[derive(Clone, PartialEq, Eq)]
enum Place {
    At {
        scheme: Option<Scheme>,
        authority: Authority,
    },
    /// What is wrong with it.
    Malformed(&'static str),
    Nowhere,
}

impl Endpoint {
    /// An endpoint that has only a name: requests aren't rewritten, and closures know what it means.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into().into(),
            place: Place::Nowhere,
        }
    }

    /// What it is called, an address in lower case. Endpoints of the same name are the same.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The scheme, if it was given with one.
    #[must_use]
    pub const fn scheme(&self) -> Option<&Scheme> {
        match &self.place {
            Place::At { scheme, .. } => scheme.as_ref(),
            Place::Malformed(_) | Place::Nowhere => None,
        }
    }

    /// Host and port, if it is more than a name.
    #[must_use]
    pub const fn authority(&self) -> Option<&Authority> {
        match &self.place {
            Place::At { authority, .. } => Some(authority),
            Place::Malformed(_) | Place::Nowhere => None,
        }
    }

    /// Whether a response from the service of this key came from here.
    pub(crate) fn is_at(&self, key: Key) -> bool {
        let Some(authority) = self.authority() else {
            return false;
        };
        let of = |scheme| {
            let target = Target {
                method: &http::Method::GET,
                scheme,
                host: authority.host(),
                port: authority.port_u16(),
                path: "/",
            };
            target.key() == Some(key)
        };
        match self.scheme() {
            Some(scheme) => of(scheme.as_str()),
            None => of("http") || of("https"),
        }
    }

    pub(super) const fn check(&self) -> Result<(), ConfigError> {
        match self.place {
            Place::Malformed(problem) => Err(ConfigError::new("endpoints.list", problem)),
            Place::At { .. } | Place::Nowhere => Ok(()),
        }
    }

    fn at(scheme: Option<Scheme>, authority: Authority) -> Self {
        if authority.as_str().contains('@') {
            return Self::malformed("must not hold credentials");
        }
        if authority.host().is_empty() {
            return Self::malformed("must have a host");
        }
        if authority.as_str().len() > authority.host().len() && authority.port_u16().is_none() {
            return Self::malformed("must have a port from 0 to 65535, or none");
        }
        let of_the_web = |it: &Scheme| *it == Scheme::HTTP || *it == Scheme::HTTPS;
        if scheme.as_ref().is_some_and(|it| !of_the_web(it)) {
            return Self::malformed("must be of http or https");
        }
        let mut name = authority.as_str().to_ascii_lowercase();
        if let Some(scheme) = &scheme {
            name = format!("{scheme}://{name}");
        }
        Self {
            name: name.into(),
            place: Place::At { scheme, authority },
        }
    }

    /// Its name is left out: it may hold a password.
    fn malformed(problem: &'static str) -> Self {
        Self {
            name: "malformed".into(),
            place: Place::Malformed(problem),
        }
    }

    fn read(text: &str) -> Self {
        if !text.contains("://") {
            return match Authority::from_str(text) {
                Ok(authority) => Self::at(None, authority),
                Err(_) if text.contains('@') => Self::malformed("must not hold credentials"),
                Err(_) if text.contains('/') => {
                    Self::malformed("must be a host and perhaps a port, with no path")
                }
                Err(_) => Self::named(text),
            };
        }
        match Uri::from_str(text) {
            Ok(uri) if uri.scheme_str().is_some_and(|it| !it.is_empty()) => Self::from(uri),
            _ => Self::malformed("must be a scheme, a host and perhaps a port"),
        }
    }
}

impl From<&str> for Endpoint {
    fn from(text: &str) -> Self {
        Self::read(text)
    }
}

impl From<String> for Endpoint {
    fn from(text: String) -> Self {
        Self::read(&text)
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::read(&address.to_string())
    }
}

impl From<Uri> for Endpoint {
    fn from(uri: Uri) -> Self {
        let parts = uri.into_parts();
        let path = parts.path_and_query;
        if path.is_some_and(|path| !matches!(path.as_str(), "" | "/")) {
            return Self::malformed("must have no path and no query");
        }
        match parts.authority {
            Some(authority) => Self::at(parts.scheme, authority),
            None => Self::malformed("must have a host"),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({})", self.name)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Which endpoint of its set: cheap to copy, and of no other endpoint, even when that one takes its
/// place in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id {
    pub(super) slot: u32,
    /// Tells apart those that were in this place one after another.
    pub(super) serial: NonZeroU32,
}

impl Id {
    /// A small number of its own among the endpoints that are in the set now: at first its place in
    /// the list, from 0. After an [`update`](super::Endpoints::update) those that stay keep theirs,
    /// and new ones take the least that are free.
    #[must_use]
    pub const fn index(self) -> usize {
        self.slot as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> Option<&'static str> {
        Endpoint::from(text).check().err().map(|it| it.problem())
    }

    #[test]
    fn an_address_is_a_scheme_and_an_authority_or_an_authority_alone() {
        for (text, name, scheme) in [
            ("http://a:80", "http://a:80", Some("http")),
            ("HTTPS://A/", "https://a", Some("https")),
            ("a:8080", "a:8080", None),
            ("[::1]:8080", "[::1]:8080", None),
        ] {
            let endpoint = Endpoint::from(text);
            assert_eq!(endpoint.name(), name);
            assert_eq!(endpoint.scheme().map(Scheme::as_str), scheme);
            assert!(endpoint.authority().is_some());
            assert_eq!(endpoint.check(), Ok(()));
        }
        let socket: SocketAddr = "[::1]:80".parse().expect("an address");
        assert_eq!(Endpoint::from(socket).name(), "[::1]:80");
        assert_eq!(Endpoint::from("replica 1"), Endpoint::named("replica 1"));
    }

    #[test]
    fn what_would_be_lost_or_leak_is_refused() {
        assert_eq!(
            problem("http://a/b"),
            Some("must have no path and no query")
        );
        assert_eq!(
            problem("http://a/?b"),
            Some("must have no path and no query")
        );
        assert_eq!(problem("http://a:80/"), None);
        for text in ["http://me:secret@a", "me:secret@a", "me:secret@a b"] {
            assert_eq!(problem(text), Some("must not hold credentials"));
            let shown = format!("{:?}", Endpoint::from(text));
            assert!(!shown.contains("secret"), "{shown}");
        }
        let problems = ["http://", "://a", "http://a b"].map(problem);
        assert!(problems.iter().all(Option::is_some), "{problems:?}");
    }

    #[test]
    fn a_response_is_from_here_if_host_and_port_are_these() {
        let key = |host, port| {
            let target = Target {
                method: &http::Method::GET,
                scheme: "http",
                host,
                port: Some(port),
                path: "/",
            };
            target.key().expect("a host")
        };
        let with = Endpoint::from("http://A");
        assert!(with.is_at(key("a", 80)) && !with.is_at(key("a", 443)));
        let without = Endpoint::from("a");
        assert!(without.is_at(key("a", 80)) && without.is_at(key("a", 443)));
        assert!(!without.is_at(key("b", 80)));
        assert!(!Endpoint::named("a").is_at(key("a", 80)));
    }
}
