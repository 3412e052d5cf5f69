//! Which service a request goes to. Pure.

use std::hash::{Hash, Hasher};

use http::Method;

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
    Key::of((AnyCase(host), port))
}

/// Hashes a name as if it were in lower case, without a copy of it.
struct AnyCase<'a>(&'a str);

impl Hash for AnyCase<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Not byte by byte, which costs more than all the rest of the key.
        let mut lower = [0; 32];
        for part in self.0.as_bytes().chunks(lower.len()) {
            let lower = &mut lower[..part.len()];
            lower.copy_from_slice(part);
            lower.make_ascii_lowercase();
            state.write(lower);
        }
        // Keeps the end of the name apart from what follows it.
        state.write_u8(0xff);
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};

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
}
