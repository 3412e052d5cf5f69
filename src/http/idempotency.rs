//! Whether sending a request twice does the same as sending it once.

use http::{HeaderMap, HeaderName, Method};

/// Headers whose value lets the server recognise a repeated request.
static KEYS: [HeaderName; 2] = [
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("x-idempotency-key"),
];

/// Says whether a request is idempotent, whatever its method says.
///
/// Insert it into `request.extensions_mut()`. `Idempotent(true)` lets a POST that is known to be
/// harmless go again; `Idempotent(false)` keeps a GET with side effects from doing so. It has no
/// say over requests that were provably not processed: those may always go again.
///
/// # Examples
///
/// ```
/// use evenkeel::http::Idempotent;
/// use http::Request;
///
/// let mut search = Request::post("https://example.org/search").body(())?;
/// search.extensions_mut().insert(Idempotent(true));
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idempotent(pub bool);

/// Whether repeating a request is harmless, going by its method and headers.
///
/// It is for the methods that RFC 9110, 9.2.2, calls idempotent (`GET`, `HEAD`, `OPTIONS`,
/// `TRACE`, `PUT`, `DELETE`) and `QUERY`, the safe method with a body. Any other method is if it
/// carries an `Idempotency-Key` or `X-Idempotency-Key` that isn't empty. Methods are
/// case-sensitive: `get` is none of them.
///
/// [`Idempotent`] in the request's extensions overrules this answer.
///
/// # Examples
///
/// ```
/// use evenkeel::http::is_idempotent;
/// use http::{HeaderMap, HeaderValue, Method};
///
/// let mut headers = HeaderMap::new();
/// assert!(is_idempotent(&Method::PUT, &headers));
/// assert!(!is_idempotent(&Method::POST, &headers));
///
/// headers.insert("idempotency-key", HeaderValue::from_static("8e03978e"));
/// assert!(is_idempotent(&Method::POST, &headers));
/// ```
#[inline]
#[must_use]
pub fn is_idempotent(method: &Method, headers: &HeaderMap) -> bool {
    method.is_idempotent() || method.as_str() == "QUERY" || has_key(headers)
}

fn has_key(headers: &HeaderMap) -> bool {
    KEYS.iter()
        .flat_map(|name| headers.get_all(name))
        .any(|key| !matches!(key.as_bytes().trim_ascii(), b"" | b"\"\"")) // it's a quoted string
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn idempotent_methods_need_no_key() {
        for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "QUERY"] {
            assert!(is_idempotent(&named(method), &HeaderMap::new()), "{method}");
        }
    }

    #[test]
    fn other_methods_need_a_key() {
        for method in ["POST", "PATCH", "CONNECT", "LOCK", "get", "query"] {
            let method = named(method);
            assert!(!is_idempotent(&method, &HeaderMap::new()), "{method}");
            for key in ["idempotency-key", "x-idempotency-key"] {
                assert!(is_idempotent(&method, &with(key, b"k")), "{method} {key}");
            }
        }
    }

    #[test]
    fn an_empty_key_is_no_key() {
        for empty in [&b""[..], b"  ", b"\t", b"\"\"", b" \"\" "] {
            assert!(!is_idempotent(
                &Method::POST,
                &with("idempotency-key", empty)
            ));
        }
        for key in [&b"0"[..], b"\"a\"", b"\xff"] {
            assert!(is_idempotent(&Method::POST, &with("idempotency-key", key)));
        }
    }

    #[test]
    fn one_key_that_is_not_empty_is_enough() {
        let mut headers = with("idempotency-key", b"");
        headers.append("idempotency-key", HeaderValue::from_static("a"));
        assert!(is_idempotent(&Method::POST, &headers));
    }

    fn named(method: &str) -> Method {
        Method::from_bytes(method.as_bytes()).expect("a method name")
    }

    fn with(name: &'static str, value: &[u8]) -> HeaderMap {
        let value = HeaderValue::from_bytes(value).expect("a header value");
        HeaderMap::from_iter([(HeaderName::from_static(name), value)])
    }
}
