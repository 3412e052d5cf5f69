//! Sends a request to another host than its URI says. Pure.

use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, header};

use crate::endpoints::Endpoint;

/// Gives the request's URI the endpoint's scheme, if it has one, and authority. `follows`: whether
/// `Host` follows, if somebody asked for the one or the other.
pub(super) fn direct<B>(request: &mut Request<B>, endpoint: &Endpoint, follows: Option<bool>) {
    let Some(authority) = endpoint.authority() else {
        return;
    };
    // Its target isn't where it is sent.
    if request.method() == Method::CONNECT {
        return;
    }
    let version = request.version();
    let mut parts = request.uri().clone().into_parts();
    let host = parts.authority.take().and_then(|logical| {
        let scheme = parts.scheme.as_ref().unwrap_or(&Scheme::HTTP);
        host_of(scheme, logical.host(), logical.port_u16())
    });
    parts.authority = Some(authority.clone());
    parts.scheme = endpoint.scheme().cloned().or(parts.scheme);
    // Without a scheme there is nothing to follow but this.
    let is_https = *parts.scheme.get_or_insert(Scheme::HTTP) == Scheme::HTTPS;
    let root = PathAndQuery::from_static("/");
    parts.path_and_query.get_or_insert(root);
    let uri = Uri::from_parts(parts).expect("a scheme, an authority and a path are a URI");
    *request.uri_mut() = uri;
    name(request.headers_mut(), host, version, is_https, follows);
}

/// Sees to the `Host` header of a request that goes elsewhere. `host`: what it was to be.
pub(crate) fn name(
    headers: &mut HeaderMap,
    host: Option<HeaderValue>,
    version: Version,
    is_https: bool,
    follows: Option<bool>,
) {
    if follows == Some(true) {
        // The client makes one of the URI.
        headers.remove(header::HOST);
        return;
    }
    let stays = follows == Some(false) || !is_https;
    if let Some(host) = host.filter(|_| stays && version < Version::HTTP_2) {
        headers.entry(header::HOST).or_insert(host);
    }
}

/// A `Host` header: without the port that is usual.
pub(crate) fn host_of(scheme: &Scheme, host: &str, port: Option<u16>) -> Option<HeaderValue> {
    let usual = if *scheme == Scheme::HTTPS { 443 } else { 80 };
    let text = match port.filter(|port| *port != usual) {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    HeaderValue::try_from(text).ok().filter(|it| !it.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(uri: &str, endpoint: &str, follows: Option<bool>) -> (String, Option<String>) {
        let mut request = Request::get(uri).body(()).expect("a request");
        direct(&mut request, &Endpoint::from(endpoint), follows);
        seen(&request)
    }

    fn seen(request: &Request<()>) -> (String, Option<String>) {
        let host = request.headers().get(header::HOST);
        let host = host.map(|host| host.to_str().expect("text").to_owned());
        (request.uri().to_string(), host)
    }

    fn goes(uri: &str, host: Option<&str>) -> (String, Option<String>) {
        (uri.to_owned(), host.map(str::to_owned))
    }

    #[test]
    fn path_and_query_stay_and_host_is_what_the_uri_said() {
        for (uri, endpoint, to, host) in [
            (
                "http://shop/a?b=c",
                "http://10.0.0.1:8080",
                "http://10.0.0.1:8080/a?b=c",
                Some("shop"),
            ),
            (
                "http://shop:80",
                "10.0.0.1",
                "http://10.0.0.1/",
                Some("shop"),
            ),
            (
                "http://me:pw@shop:81/",
                "10.0.0.1",
                "http://10.0.0.1/",
                Some("shop:81"),
            ),
            (
                "http://[::1]:81/",
                "10.0.0.1",
                "http://10.0.0.1/",
                Some("[::1]:81"),
            ),
            (
                "https://shop/",
                "http://10.0.0.1",
                "http://10.0.0.1/",
                Some("shop"),
            ),
            ("/a", "10.0.0.1", "http://10.0.0.1/a", None),
            ("http://shop/a", "only a name", "http://shop/a", None),
        ] {
            assert_eq!(sent(uri, endpoint, None), goes(to, host), "{uri}");
        }
    }

    #[test]
    fn over_tls_the_names_agree_unless_asked_otherwise() {
        let to = "https://one.shop/a";
        let sent = |follows| sent("https://shop/a", "https://one.shop", follows);
        assert_eq!(sent(None), goes(to, None));
        assert_eq!(sent(Some(true)), goes(to, None));
        assert_eq!(sent(Some(false)), goes(to, Some("shop")));
    }

    #[test]
    fn a_host_of_the_requests_own_stays_unless_it_is_to_follow() {
        for scheme in ["http", "https"] {
            let own = Some("own");
            for (follows, host) in [(None, own), (Some(false), own), (Some(true), None)] {
                let uri = format!("{scheme}://shop/");
                let request = Request::get(uri).header("host", "own");
                let mut request = request.body(()).expect("a request");
                direct(&mut request, &Endpoint::from("a"), follows);
                assert_eq!(seen(&request), goes(&format!("{scheme}://a/"), host));
            }
        }
    }

    #[test]
    fn http_2_says_it_in_the_uri_alone_and_connect_is_left_alone() {
        let request = Request::get("http://shop/").version(Version::HTTP_2);
        let mut request = request.body(()).expect("a request");
        direct(&mut request, &Endpoint::from("a"), None);
        assert_eq!(seen(&request), goes("http://a/", None));

        let mut request = Request::connect("shop:443").body(()).expect("a request");
        direct(&mut request, &Endpoint::from("a"), None);
        assert_eq!(seen(&request), goes("shop:443", None));
    }
}
