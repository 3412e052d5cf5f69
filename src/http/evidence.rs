//! Replies that prove that the request never reached the server's application.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::hints::{key_value, list, split};

/// One kind of reply that is known to mean "not sent".
struct Row {
    /// The header by which the sender says that the reply is its own.
    header: HeaderName,
    /// What has to stand in it.
    marker: Marker,
    /// The only status it comes with, if there is only one.
    status: Option<StatusCode>,
    /// A header that shows that somebody further on did answer.
    unless: Option<HeaderName>,
    /// Whether it is said of the last try alone, whatever became of those before.
    of_last_try: bool,
    #[allow(dead_code, reason = "for whoever reads or extends the table")]
    source: &'static str,
}

enum Marker {
    /// The header's presence is enough.
    Any,
    /// The first word is one of these.
    FirstWord(&'static [&'static str]),
    /// One of these stands somewhere in the value.
    Mention(&'static [&'static str]),
    /// A list of proxies; the first with an `error` gives one of these.
    ProxyError(&'static [&'static str]),
}

static ROWS: [Row; 7] = [
    Row {
        header: HeaderName::from_static("proxy-status"),
        // Left out, as they can come after the request went: `tls_protocol_error` ("or
        // afterwards"), `tls_alert_received`, and all about terminated connections and answers.
        marker: Marker::ProxyError(&[
            "connection_limit_reached",
            "connection_refused",
            "connection_timeout",
            "destination_ip_prohibited",
            "destination_ip_unroutable",
            "destination_not_found",
            "destination_unavailable",
            "dns_error",
            "dns_timeout",
            "tls_certificate_error",
        ]),
        status: None,
        unless: None,
        of_last_try: true,
        source: "RFC 9209, 2.3: errors met before there is a connection to send on",
    },
    Row {
        header: HeaderName::from_static("finagle-http-nack"),
        marker: Marker::Any,
        status: Some(StatusCode::SERVICE_UNAVAILABLE),
        unless: None,
        of_last_try: false,
        source: "Finagle, HttpNackFilter: the server refused before its service saw the request",
    },
    Row {
        header: HeaderName::from_static("x-envoy-overloaded"),
        marker: Marker::FirstWord(&["true"]),
        status: None,
        unless: Some(HeaderName::from_static("x-envoy-upstream-service-time")),
        of_last_try: true,
        source: "Envoy, router filter: circuit breaker full, or maintenance mode",
    },
    Row {
        header: HeaderName::from_static("x-envoy-local-overloaded"),
        marker: Marker::FirstWord(&["true"]),
        status: None,
        unless: Some(HeaderName::from_static("x-envoy-upstream-service-time")),
        of_last_try: false,
        source: "Envoy, HTTP connection manager headers: dropped by the overload manager",
    },
    Row {
        header: HeaderName::from_static("x-envoy-ratelimited"),
        marker: Marker::Any,
        status: Some(StatusCode::TOO_MANY_REQUESTS),
        unless: Some(HeaderName::from_static("x-envoy-upstream-service-time")),
        of_last_try: false,
        source: "Envoy, rate limit filter: it stands before the router",
    },
    Row {
        header: HeaderName::from_static("x-squid-error"),
        marker: Marker::FirstWord(&["ERR_CANNOT_FORWARD", "ERR_CONNECT_FAIL", "ERR_DNS_FAIL"]),
        status: None,
        unless: None,
        of_last_try: false,
        source: "Squid, errorpage.cc: the error's name, then the errno",
    },
    Row {
        header: HeaderName::from_static("l5d-proxy-error"),
        marker: Marker::Mention(&[
            "client error (Connect)",
            "fail-fast",
            "load shed",
            "service unavailable",
        ]),
        status: None,
        unless: None,
        of_last_try: false,
        source: "linkerd2-proxy: FailFastError, LoadShedError, and hyper's error on connecting",
    },
];

/// Envoy's count of its own attempts.
static ATTEMPTS: HeaderName = HeaderName::from_static("x-envoy-attempt-count");

static OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");

static PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Whether a failure's headers prove that the application never saw the request.
///
/// Such a request can go again whatever its method. A 503 alone is no proof; these are:
///
/// | header | says | from |
/// |---|---|---|
/// | `Proxy-Status` | as the first `error` in the list, one of those below | RFC 9209 |
/// | `Finagle-Http-Nack` | anything, with a 503 | Finagle |
/// | `X-Envoy-Overloaded`, `X-Envoy-Local-Overloaded` | `true` | Envoy |
/// | `X-Envoy-Ratelimited` | anything, with a 429 | Envoy |
/// | `X-Squid-Error` | `ERR_CONNECT_FAIL`, `ERR_CANNOT_FORWARD`, `ERR_DNS_FAIL` | Squid |
/// | `L5d-Proxy-Error` | mentions `fail-fast` or `load shed` | Linkerd |
/// | | mentions `service unavailable` or `client error (Connect)` | Linkerd |
///
/// The errors of `Proxy-Status` that come before there is a connection to send on: `dns_error`,
/// `dns_timeout`, `connection_refused`, `connection_timeout`, `connection_limit_reached`,
/// `tls_certificate_error`, and those that begin with `destination_`. Envoy's headers count only
/// without `X-Envoy-Upstream-Service-Time`, with which it marks what an upstream answered.
///
/// A proxy names only how its last attempt ended. So nothing counts as proof if
/// `X-Envoy-Attempt-Count` tells of more than one, or, in `Proxy-Status`, if a proxy nearer to
/// the server got an answer (`received-status`). Nor does anything prove it on a status below
/// 400, in a header that is there twice with only one of them fitting, or in one over 1 KiB.
///
/// An Envoy that was told to repeat requests repeats POSTs as well, and doesn't say so by itself. Its
/// `X-Envoy-Overloaded` and `Proxy-Status` count only with an `X-Envoy-Attempt-Count` of 1, which takes
/// `include_attempt_count_in_response` there. It is known by its name, in `Proxy-Status` or `Server`.
///
/// A header is as honest as whoever sent it. A server that lies here can make its clients repeat
/// requests to itself, within attempts, budget and deadline, and nothing more.
///
/// # Examples
///
/// ```
/// use evenkeel::http::provably_not_sent;
/// use http::{HeaderMap, HeaderValue, StatusCode};
///
/// let mut headers = HeaderMap::new();
/// let status = StatusCode::BAD_GATEWAY;
/// headers.insert("proxy-status", HeaderValue::from_static("edge; error=connection_refused"));
/// assert!(provably_not_sent(status, &headers));
///
/// headers.insert("proxy-status", HeaderValue::from_static("edge; error=connection_terminated"));
/// assert!(!provably_not_sent(status, &headers));
/// ```
#[must_use]
pub fn provably_not_sent(status: StatusCode, headers: &HeaderMap) -> bool {
    status.as_u16() >= 400
        && ROWS.iter().any(|row| row.matches(status, headers))
        && is_only_attempt(headers)
}

/// Whether nothing says that the proxy tried more than once.
pub(crate) fn is_only_attempt(headers: &HeaderMap) -> bool {
    headers.get_all(&ATTEMPTS).iter().all(|count| count == "1")
}

/// Whether an Envoy says how its last try ended, and not how many there were.
pub(crate) fn may_hide_attempts(headers: &HeaderMap) -> bool {
    let names_it = |name: &HeaderName| {
        let mut values = headers.get_all(name).iter();
        values.any(|value| list(value).is_some_and(|text| contains(text, "envoy")))
    };
    !headers.contains_key(&ATTEMPTS)
        && (headers.contains_key(&OVERLOADED)
            || headers.contains_key(&PROXY_STATUS)
                && (names_it(&header::SERVER) || names_it(&PROXY_STATUS)))
}

impl Row {
    fn matches(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        headers.contains_key(&self.header)
            && self.status.is_none_or(|only| only == status)
            && !self
                .unless
                .as_ref()
                .is_some_and(|name| headers.contains_key(name))
            && !(self.of_last_try && may_hide_attempts(headers))
            && self.marker.is_in(headers.get_all(&self.header).iter())
    }
}

impl Marker {
    fn is_in<'a>(&self, mut values: impl Iterator<Item = &'a HeaderValue>) -> bool {
        match self {
            Self::Any => true,
            Self::FirstWord(words) => values.all(|value| {
                let first = list(value).map(<[u8]>::trim_ascii).and_then(first_word);
                words.iter().any(|word| first == Some(word.as_bytes()))
            }),
            Self::Mention(words) => values.all(|value| {
                list(value).is_some_and(|text| words.iter().any(|word| contains(text, word)))
            }),
            Self::ProxyError(errors) => {
                let error = proxy_error(values);
                errors.iter().any(|known| error == Some(known.as_bytes()))
            }
        }
    }
}

/// The error that decides, out of the `Proxy-Status` fields of one response.
///
/// The proxy nearest to the server stands first. Whatever those behind it say is about *its*
/// answer. A field that is too long to be read may hide an earlier error, so reading stops there.
pub(crate) fn proxy_error<'a>(fields: impl Iterator<Item = &'a HeaderValue>) -> Option<&'a [u8]> {
    for field in fields {
        for member in split(list(field)?, b',') {
            let mut error = None;
            for parameter in split(member, b';').skip(1) {
                match key_value(parameter) {
                    (b"received-status", _) => return None,
                    (b"error", token) => error = Some(token), // of two, the last (RFC 9651, 4.2.3.2)
                    _ => {}
                }
            }
            if error.is_some() {
                return error;
            }
        }
    }
    None
}

fn first_word(text: &[u8]) -> Option<&[u8]> {
    text.split(|&byte| byte == b' ').next()
}

pub(crate) fn contains(text: &[u8], words: &str) -> bool {
    words.is_empty()
        || text
            .windows(words.len())
            .any(|window| window.eq_ignore_ascii_case(words.as_bytes()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::hints::MAX_LIST;

    #[test]
    fn a_bare_status_proves_nothing() {
        for code in 100..=999 {
            assert!(!not_sent(code, &[]), "{code}");
            assert!(!not_sent(
                code,
                &[("retry-after", "0"), ("server", "envoy")]
            ));
        }
    }

    #[test]
    fn every_row_proves_a_failure_and_no_success() {
        for (code, name, value) in [
            (502, "proxy-status", "edge; error=connection_refused"),
            (503, "finagle-http-nack", ""),
            (503, "x-envoy-local-overloaded", "true"),
            (429, "x-envoy-ratelimited", "true"),
            (502, "x-squid-error", "ERR_CONNECT_FAIL 111"),
            (504, "l5d-proxy-error", "service in fail-fast"),
        ] {
            assert!(
                ROWS.iter()
                    .any(|row| row.header == name && !row.source.is_empty())
            );
            assert!(not_sent(code, &[(name, value)]), "{name}");
            for success in [100, 200, 304, 399] {
                assert!(!not_sent(success, &[(name, value)]), "{name}");
            }
        }
    }

    #[test]
    fn a_proxy_that_had_no_connection_did_not_send() {
        for error in [
            "connection_limit_reached",
            "connection_refused",
            "connection_timeout",
            "destination_ip_prohibited",
            "destination_ip_unroutable",
            "destination_not_found",
            "destination_unavailable",
            "dns_error",
            "dns_timeout",
            "tls_certificate_error",
        ] {
            assert!(proxy(&format!("edge; error={error}")), "{error}");
        }
    }

    #[test]
    fn a_proxy_that_may_have_sent_proves_nothing() {
        for error in [
            "connection_read_timeout",
            "connection_terminated",
            "connection_write_timeout",
            "http_protocol_error",
            "http_request_denied",
            "http_request_error",
            "http_response_incomplete",
            "http_response_timeout",
            "http_upgrade_failed",
            "proxy_configuration_error",
            "proxy_internal_error",
            "proxy_internal_response",
            "proxy_loop_detected",
            "tls_alert_received",
            "tls_protocol_error",
            "Connection_Refused",
            "connection_refused2",
            "connection",
            "\"connection_refused\"",
            "",
        ] {
            assert!(!proxy(&format!("edge; error={error}")), "{error}");
        }
    }

    #[test]
    fn the_first_proxy_with_an_error_decides() {
        assert!(proxy("origin-side, edge; error=dns_error"));
        assert!(proxy("a; error=dns_error, b; error=http_response_timeout"));
        assert!(!proxy("a; error=http_response_timeout, b; error=dns_error"));
        assert!(!proxy("a; error, b; error=dns_error"));
        assert!(!proxy("edge"));
        let lines = [
            ("proxy-status", "a; error=http_response_timeout"),
            ("proxy-status", "b; error=dns_error"),
        ];
        assert!(!not_sent(502, &lines));
        assert!(not_sent(502, &[lines[1], lines[0]]));
    }

    #[test]
    fn an_answer_nearer_to_the_server_is_proof_of_the_contrary() {
        assert!(!proxy("a; received-status=500, b; error=dns_error"));
        assert!(!proxy("a; error=dns_error; received-status=500"));
        assert!(proxy("a; error=dns_error, b; received-status=502"));
    }

    #[test]
    fn what_is_quoted_is_only_text() {
        assert!(proxy(
            r#""a, b;c"; details="x; error=\"no\", y"; error=dns_error"#
        ));
        assert!(!proxy(r#"a; details="; error=dns_error"#));
        assert!(!proxy(r#"a; details="x, b; error=dns_error""#));
        assert!(!proxy("error=dns_error")); // a proxy's name, not a parameter
    }

    #[test]
    fn of_an_error_given_twice_the_last_counts() {
        assert!(proxy("a; error=http_response_timeout; error=dns_error"));
        assert!(!proxy("a; error=dns_error; error=http_response_timeout"));
    }

    #[test]
    fn a_field_over_1024_bytes_ends_the_reading() {
        let of_length = |length| format!("{:<length$}", "edge; error=dns_error");
        assert!(proxy(&of_length(MAX_LIST)));
        assert!(!proxy(&of_length(MAX_LIST + 1)));
        let second = ("proxy-status", "edge; error=dns_error");
        let too_long = "a".repeat(MAX_LIST + 1);
        assert!(!not_sent(502, &[("proxy-status", &too_long), second]));
    }

    #[test]
    fn envoys_word_on_its_last_try_counts_only_if_it_says_that_there_was_one() {
        let plain = ("proxy-status", "edge; error=connection_refused");
        let named = ("proxy-status", "envoy; error=connection_refused");
        let full = ("x-envoy-overloaded", "true");
        let ours = ("server", "istio-envoy");
        let once = ("x-envoy-attempt-count", "1");
        for (fields, proof) in [
            (&[plain][..], true),
            (&[plain, ("server", "nginx")], true),
            (&[named], false),
            (&[plain, ours], false),
            (&[plain, full], false),
            (&[full], false),
            (&[named, once], true),
            (&[plain, ours, once], true),
            (&[full, ours, once], true),
            (&[full, ours, ("x-envoy-attempt-count", "2")], false),
            // These stand before the first try.
            (&[ours, ("x-envoy-local-overloaded", "true")], true),
        ] {
            assert_eq!(not_sent(503, fields), proof, "{fields:?}");
        }
    }

    #[test]
    fn a_finagle_nack_comes_with_a_503() {
        assert!(not_sent(503, &[("finagle-http-nack", "true")]));
        assert!(!not_sent(500, &[("finagle-http-nack", "true")]));
        assert!(!not_sent(
            503,
            &[("finagle-http-nonretryable-nack", "true")]
        ));
    }

    #[test]
    fn envoys_word_counts_only_if_no_upstream_answered() {
        for (code, name) in [
            (503, "x-envoy-overloaded"),
            (503, "x-envoy-local-overloaded"),
            (429, "x-envoy-ratelimited"),
        ] {
            let mut fields = vec![(name, "true"), ("x-envoy-attempt-count", "1")];
            assert!(not_sent(code, &fields), "{name}");
            fields.push(("x-envoy-upstream-service-time", "16"));
            assert!(!not_sent(code, &fields), "{name}");
        }
        assert!(!not_sent(503, &[("x-envoy-overloaded", "false")]));
        assert!(!not_sent(503, &[("x-envoy-ratelimited", "true")]));
    }

    #[test]
    fn nothing_is_proof_after_more_than_one_attempt_of_the_proxy() {
        let overloaded = ("x-envoy-overloaded", "true");
        let refused = ("proxy-status", "envoy; error=connection_refused");
        for evidence in [overloaded, refused] {
            assert!(not_sent(503, &[evidence, ("x-envoy-attempt-count", "1")]));
            for count in ["2", "0", "", "one"] {
                assert!(!not_sent(
                    503,
                    &[evidence, ("x-envoy-attempt-count", count)]
                ));
            }
        }
    }

    #[test]
    fn squid_names_its_error_first() {
        for (value, proof) in [
            ("ERR_CONNECT_FAIL 111", true),
            (" ERR_CANNOT_FORWARD 0", true),
            ("ERR_DNS_FAIL", true),
            ("ERR_READ_TIMEOUT 0", false),
            ("ERR_ZERO_SIZE_OBJECT 0", false),
            ("ERR_CONNECT_FAILED 0", false),
            ("0 ERR_DNS_FAIL", false),
            ("", false),
        ] {
            assert_eq!(not_sent(503, &[("x-squid-error", value)]), proof, "{value}");
        }
        let differing = [
            ("x-squid-error", "ERR_DNS_FAIL 0"),
            ("x-squid-error", "ERR_READ_TIMEOUT 0"),
        ];
        assert!(!not_sent(503, &differing));
    }

    #[test]
    fn linkerd_says_why_in_words() {
        for (value, proof) in [
            (
                "logical service 10.0.0.1:80: route default: service in fail-fast",
                true,
            ),
            ("Fail-Fast", true),
            ("load shed", true),
            ("service unavailable", true),
            (
                "client error (Connect): Connection refused (os error 111)",
                true,
            ),
            ("HTTP response timeout", false),
            ("connection closed before message completed", false),
            ("", false),
        ] {
            assert_eq!(
                not_sent(503, &[("l5d-proxy-error", value)]),
                proof,
                "{value}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_header_panics(
            code in 100..1000_u16,
            row in 0..ROWS.len(),
            value in r#"([a-z;,="\\ ]|error=|dns_error|; received-status=){0,30}"#,
        ) {
            let proven = not_sent(code, &[(ROWS[row].header.as_str(), &value)]);
            prop_assert!(code >= 400 || !proven);
        }
    }

    fn proxy(status: &str) -> bool {
        not_sent(502, &[("proxy-status", status)])
    }

    fn not_sent(code: u16, fields: &[(&'static str, &str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).expect("a header value"));
        }
        let status = StatusCode::from_u16(code).expect("a status code");
        provably_not_sent(status, &headers)
    }
}
