//! What a server says on purpose, and what the client met itself.

use super::{TIDY, row};
use crate::diagnosis::Signature;
use crate::diagnosis::cause::Cause::{
    ApplicationError, BadUpstreamAnswer, Configuration, ConnectionFailure, GatewayTimeout,
    Maintenance, Overload, OwnTimeout, RateLimit, UpstreamUnavailable,
};
use crate::diagnosis::cause::Origin::{Application, Client, Network, Proxy};
use crate::diagnosis::cause::Persistence::{Momentary, Persistent};
use crate::diagnosis::signature::Test::{
    BodyHas, BrokenOff, Failed, Header, HeaderAny, HeaderHas, LimitUsedUp, ProxyError, RetryAfter,
    RetryAfterDate, Waited,
};
use crate::verdict::Processed::{Maybe, No};

/// What a server says on purpose.
pub(super) const EXPLICIT: &[Signature] = &[
    row(
        "problem type: temporary reduced capacity",
        "draft-ietf-httpapi-ratelimit-headers",
    )
    .when(&[
        HeaderHas("content-type", "problem+json"),
        BodyHas(&["#temporary-reduced-capacity"]),
    ])
    .says(&[(Overload, 30)])
    .lasts(Momentary),
    row(
        "problem type: quota exceeded",
        "draft-ietf-httpapi-ratelimit-headers",
    )
    .when(&[
        HeaderHas("content-type", "problem+json"),
        BodyHas(&["#quota-exceeded"]),
    ])
    .says(&[(RateLimit, 30)]),
    row(
        "problem type: abnormal usage",
        "draft-ietf-httpapi-ratelimit-headers",
    )
    .when(&[
        HeaderHas("content-type", "problem+json"),
        BodyHas(&["#abnormal-usage-detected"]),
    ])
    .says(&[(RateLimit, 30)])
    .lasts(Persistent),
    row(
        "quota headers: nothing left",
        "draft-ietf-httpapi-ratelimit-headers, and X-RateLimit-*",
    )
    .on(&[429, 503])
    .when(&[LimitUsedUp])
    .says(&[(RateLimit, 30)]),
    row("retry-after: a daily quota", "seen at OpenAlex: 53578 s")
        .on(&[429])
        .when(&[RetryAfter(3600, u64::MAX)])
        .says(&[(RateLimit, 10)]),
    row(
        "retry-after: soon",
        "limiters and breakers name small numbers",
    )
    .on(&[503])
    .when(&[RetryAfter(1, 10)])
    .says(&[(Overload, 5)]),
    row(
        "retry-after: minutes",
        "deploy and maintenance pages name minutes",
    )
    .on(&[503])
    .when(&[RetryAfter(60, 599)])
    .says(&[(Maintenance, 5)]),
    row(
        "retry-after: ten minutes or more",
        "planned maintenance, as in RFC 9110's examples",
    )
    .on(&[503])
    .when(&[RetryAfter(600, u64::MAX)])
    .says(&[(Maintenance, 18)]),
    row(
        "retry-after: a date",
        "planned maintenance, as in RFC 9110's examples",
    )
    .on(&[503])
    .when(&[RetryAfterDate])
    .says(&[(Maintenance, 9)]),
    row("finagle: nack", "twitter/finagle: HttpNackFilter")
        .by(Proxy("finagle"))
        .on(&[503])
        .when(&[Header("finagle-http-nack")])
        .says(&[(Overload, 30)])
        .processed(No),
    row(
        "finagle: nack, not retryable",
        "twitter/finagle: HttpNackFilter",
    )
    .by(Proxy("finagle"))
    .on(&[503])
    .when(&[Header("finagle-http-nonretryable-nack")])
    .says(&[(Overload, 25)]),
    row("quality of service: throttled", "palantir: QosReasons")
        .on(&[429, 503])
        .when(&[HeaderAny(&["qos-retry-hint", "qos-due-to"])])
        .says(&[(Overload, 10), (RateLimit, 6)]),
];

/// RFC 9209: what a proxy says of itself, for machines.
pub(super) const PROXY_STATUS: &[Signature] = &[
    row("proxy-status: timeout", "RFC 9209, 2.3")
        .by(Proxy("a proxy"))
        .when(&[ProxyError(&[
            "connection_read_timeout",
            "connection_write_timeout",
            "http_response_timeout",
        ])])
        .says(&[(GatewayTimeout, 30)])
        .processed(Maybe),
    row("proxy-status: no connection in time", "RFC 9209, 2.3")
        .by(Proxy("a proxy"))
        .when(&[ProxyError(&["connection_timeout", "dns_timeout"])])
        .says(&[(UpstreamUnavailable, 34), (GatewayTimeout, 12)])
        .processed(No),
    row("proxy-status: no upstream", "RFC 9209, 2.3")
        .by(Proxy("a proxy"))
        .when(&[ProxyError(&[
            "connection_refused",
            "destination_ip_unroutable",
            "destination_unavailable",
        ])])
        .says(&[(UpstreamUnavailable, 30)])
        .processed(No),
    row("proxy-status: broken off", "RFC 9209, 2.3")
        .by(Proxy("a proxy"))
        .when(&[ProxyError(&[
            "connection_terminated",
            "http_response_incomplete",
        ])])
        .says(&[(UpstreamUnavailable, 30)])
        .processed(Maybe)
        .lasts(Momentary),
    row(
        "proxy-status: connection limit",
        "RFC 9209, 2.3; Envoy says it of rate limits as well",
    )
    .by(Proxy("a proxy"))
    .when(&[ProxyError(&["connection_limit_reached"])])
    .says(&[(Overload, 30), (RateLimit, 20)])
    .processed(No),
    row("proxy-status: name not found", "RFC 9209, 2.3")
        .by(Proxy("a proxy"))
        .when(&[ProxyError(&["dns_error"])])
        .says(&[(Configuration, 34), (UpstreamUnavailable, 12)])
        .processed(No),
    row("proxy-status: configuration", "RFC 9209, 2.3")
        .by(Proxy("a proxy"))
        .when(&[ProxyError(&[
            "destination_ip_prohibited",
            "destination_not_found",
            "proxy_configuration_error",
            "proxy_loop_detected",
            "tls_certificate_error",
        ])])
        .says(&[(Configuration, 30)])
        .lasts(Persistent),
    row(
        "proxy-status: TLS broke",
        "RFC 9209, 2.3: it can come after the request went",
    )
    .by(Proxy("a proxy"))
    .when(&[ProxyError(&["tls_alert_received", "tls_protocol_error"])])
    .says(&[(Configuration, 32), (UpstreamUnavailable, 10)])
    .processed(Maybe),
    row("proxy-status: bad answer", "RFC 9209, 2.3")
        .by(Proxy("a proxy"))
        .when(&[ProxyError(&[
            "http_protocol_error",
            "http_response_body_size",
            "http_response_content_coding",
            "http_response_header_section_size",
            "http_response_header_size",
            "http_response_trailer_section_size",
            "http_response_trailer_size",
            "http_response_transfer_coding",
            "http_upgrade_failed",
        ])])
        .says(&[(BadUpstreamAnswer, 30)])
        .processed(Maybe),
    row("proxy-status: its own failure", "RFC 9209, 2.3")
        .by(Proxy("a proxy"))
        .when(&[ProxyError(&[
            "proxy_internal_error",
            "proxy_internal_response",
        ])])
        .says(&[(UpstreamUnavailable, 14), (Overload, 10)]),
];

/// What the client met itself. Labels are those of `classify_error`.
pub(super) const CLIENT: &[Signature] = &[
    row("client: could not connect", "the client's own error")
        .by(Network)
        .when(&[Failed("connect")])
        .says(&[(ConnectionFailure, 30)])
        .processed(No),
    row("client: unreachable", "the client's own error")
        .by(Network)
        .when(&[Failed("unreachable")])
        .says(&[(ConnectionFailure, 30)]),
    row(
        "client: the name does not resolve",
        "the client's own error",
    )
    .by(Network)
    .when(&[Failed("dns")])
    .says(&[(Configuration, 30), (ConnectionFailure, 22)])
    .processed(No),
    row("client: no TLS", "the client's own error")
        .by(Network)
        .when(&[Failed("tls")])
        .says(&[(Configuration, 30), (ConnectionFailure, 18)])
        .processed(No)
        .lasts(Persistent),
    row(
        "client: reset or closed without an answer",
        "the client's own error",
    )
    .by(Network)
    .when(&[Failed("reset")])
    .says(&[(ConnectionFailure, 25), (Overload, 10)])
    .lasts(Momentary),
    row("client: stream refused", "RFC 9113, 8.7")
        .by(Network)
        .when(&[Failed("refused_stream")])
        .says(&[(Overload, 20), (ConnectionFailure, 16)])
        .processed(No)
        .lasts(Momentary),
    row(
        "client: the server goes away",
        "RFC 9113, 6.8: it is being drained",
    )
    .by(Network)
    .when(&[Failed("goaway")])
    .says(&[(ConnectionFailure, 25)])
    .processed(No)
    .lasts(Momentary),
    row("client: cancelled before it was written", "hyper")
        .by(Client)
        .when(&[Failed("canceled")])
        .says(&[(ConnectionFailure, 25)])
        .processed(No)
        .lasts(Momentary),
    row("client: its own time limit", "the client's own error")
        .by(Client)
        .when(&[Failed("timeout")])
        .says(&[(OwnTimeout, 30)]),
    row("client: what came is no HTTP", "the client's own error")
        .by(Network)
        .when(&[Failed("protocol")])
        .says(&[(BadUpstreamAnswer, 22), (Configuration, 17)])
        .lasts(Persistent),
    row("client: the answer broke off", "the client's own error")
        .by(Network)
        .when(&[Failed("body")])
        .says(&[
            (ConnectionFailure, 20),
            (UpstreamUnavailable, 15),
            (GatewayTimeout, 10),
        ])
        .lasts(Momentary),
    row(
        "client: the body broke off",
        "seen by whoever read the body",
    )
    .by(Network)
    .when(&[BrokenOff])
    .says(&[
        (ConnectionFailure, 20),
        (UpstreamUnavailable, 15),
        (GatewayTimeout, 10),
    ])
    .lasts(Momentary),
    row(
        "client: broke off after a tidy time",
        "a gateway's time limit cuts answers off",
    )
    .by(Proxy("a proxy"))
    .when(&[BrokenOff, Waited(TIDY)])
    .says(&[(GatewayTimeout, 21)])
    .lasts(Persistent),
    row(
        "client: an error that nobody understands",
        "the client's own error",
    )
    .when(&[Failed("")])
    .says(&[(ConnectionFailure, 12)]),
    row("client: too many redirects", "the client's own error")
        .by(Application)
        .when(&[Failed("redirect")])
        .says(&[(Configuration, 20)])
        .lasts(Persistent),
    row("client: the request is malformed", "the client's own error")
        .by(Client)
        .when(&[Failed("request")])
        .says(&[(ApplicationError, 20)])
        .lasts(Persistent),
    row("client: its own settings", "evenkeel's ConfigError")
        .by(Client)
        .when(&[Failed("config")])
        .says(&[(Configuration, 30)])
        .processed(No)
        .lasts(Persistent),
    row(
        "client: refused by a policy of its own",
        "evenkeel's Rejected",
    )
    .by(Client)
    .when(&[Failed("rejected")])
    .says(&[(Overload, 12)])
    .processed(No),
];
