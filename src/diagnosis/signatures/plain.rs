//! What no maker has to be known for: words, statuses, times.

use super::{TIDY, row};
use crate::diagnosis::Signature;
use crate::diagnosis::cause::Cause::{
    ApplicationError, BadUpstreamAnswer, Configuration, ConnectionFailure, GatewayTimeout,
    Maintenance, Overload, RateLimit, UpstreamUnavailable,
};
use crate::diagnosis::cause::Origin::{Application, Network};
use crate::diagnosis::cause::Persistence::{Momentary, Persistent};
use crate::diagnosis::signature::Test::{
    BodyHas, Header, HeaderAny, HeaderHas, HeaderHasNone, NoBodyHas, Waited,
};

/// Plain words in an error page or an error object.
pub(super) const WORDS: &[Signature] = &[
    row(
        "words: maintenance",
        "an operator's page, an application's message",
    )
    .when(&[
        BodyHas(&[
            "maintenance",
            "be back soon",
            "be back shortly",
            "upgrading our systems",
            "under construction",
        ]),
        NoBodyHas("maintenance downtime or capacity problems"),
    ])
    .says(&[(Maintenance, 20)]),
    row(
        "words: overloaded",
        "an operator's page, an application's message",
    )
    .when(&[BodyHas(&[
        "overload",
        "requests in flight",
        "at capacity",
        "over capacity",
        "too busy",
        "server busy",
        "server is busy",
        "queue is full",
        "load shed",
        "high load",
        "heavy load",
        "capacity exceeded",
        "pool exhausted",
    ])])
    .says(&[(Overload, 20)]),
    row(
        "words: rate limited",
        "an operator's page, an application's message",
    )
    .when(&[
        BodyHas(&[
            "rate limit",
            "rate_limit",
            "rate-limit",
            "ratelimit",
            "throttl",
            "quota",
            "too many requests",
            "too_many_requests",
            "slow down",
        ]),
        NoBodyHas("requests in flight"),
    ])
    .says(&[(RateLimit, 18)]),
    row("words: a dependency is down", "an application's message")
        .when(&[BodyHas(&[
            "connection refused",
            "unreachable",
            "dependency_unavailable",
            "dependency unavailable",
            "upstream unavailable",
            "upstream_unavailable",
            "backend unavailable",
            "econnrefused",
            "connection reset",
        ])])
        .says(&[(UpstreamUnavailable, 18)]),
    row("words: timed out", "an application's message")
        .on(&[500, 502, 503, 504])
        .when(&[BodyHas(&[
            "timed out",
            "did not answer within",
            "did not respond within",
            "deadline exceeded",
            "gateway_timeout",
            "read timeout",
            "etimedout",
        ])])
        .says(&[(GatewayTimeout, 14)]),
    row("words: a name does not resolve", "an application's message")
        .on(&[500, 502, 503, 504])
        .when(&[BodyHas(&[
            "no such host",
            "enotfound",
            "could not resolve",
            "name or service not known",
        ])])
        .says(&[(Configuration, 18), (UpstreamUnavailable, 8)]),
    row("words: a certificate", "an application's message")
        .on(&[500, 502, 503, 526])
        .when(&[BodyHas(&[
            "certificate verify failed",
            "certificate has expired",
            "self-signed certificate",
            "unable to get local issuer",
            "x509:",
        ])])
        .says(&[(Configuration, 18)]),
];

/// Who made it, where nothing better tells.
pub(super) const MAKERS: &[Signature] = &[
    row(
        "a request id",
        "applications add them far more often than proxies",
    )
    .by(Application)
    .when(&[HeaderAny(&[
        "x-request-id",
        "x-correlation-id",
        "x-trace-id",
        "traceparent",
        "x-runtime",
        "x-powered-by",
        "x-aspnet-version",
        "x-b3-traceid",
    ])])
    .says(&[(ApplicationError, 4)]),
    row(
        "an error object",
        "applications answer in JSON far more often than proxies",
    )
    .by(Application)
    .when(&[HeaderHas("content-type", "json")])
    .says(&[(ApplicationError, 3)]),
    row(
        "an application server's name",
        "HAProxy, Varnish, Apache, Squid and Caddy leave it be",
    )
    .by(Application)
    .when(&[
        Header("server"),
        HeaderHasNone(
            "server",
            &[
                "nginx",
                "openresty",
                "tengine",
                "envoy",
                "haproxy",
                "varnish",
                "apache",
                "squid",
                "caddy",
                "lighttpd",
                "awselb",
                "cloudflare",
                "cloudfront",
                "google",
                "gws",
                "akamai",
                "microsoft",
                "fastly",
                "kong",
                "traefik",
                "ats",
                "linkerd",
                "vercel",
                "railway",
            ],
        ),
    ])
    .says(&[(ApplicationError, 4)]),
];

/// What a status says by itself.
pub(super) const STATUS: &[Signature] = &[
    row("status 429", "RFC 6585")
        .on(&[429])
        .says(&[(RateLimit, 20)]),
    row("status 500", "RFC 9110")
        .on(&[500])
        .says(&[(ApplicationError, 14)]),
    row("status 502", "RFC 9110").on(&[502]).says(&[
        (UpstreamUnavailable, 14),
        (BadUpstreamAnswer, 8),
        (ApplicationError, 3),
    ]),
    row(
        "status 503",
        "RFC 9110; every proxy means something else by it",
    )
    .on(&[503])
    .says(&[
        (Overload, 5),
        (UpstreamUnavailable, 5),
        (Maintenance, 3),
        (ApplicationError, 3),
        (RateLimit, 2),
    ]),
    row("status 504", "RFC 9110")
        .on(&[504])
        .says(&[(GatewayTimeout, 16), (UpstreamUnavailable, 5)]),
    row("status 529", "several APIs")
        .on(&[529])
        .says(&[(Overload, 20)]),
    row("status 408, 421 or 425", "RFC 9110, RFC 8470")
        .on(&[408, 421, 425])
        .says(&[(ConnectionFailure, 12)])
        .lasts(Momentary),
    row("status 511", "RFC 6585: a network asks for a log-in")
        .by(Network)
        .on(&[511])
        .says(&[(Configuration, 25)])
        .lasts(Persistent),
    row("status 501 or 505", "RFC 9110")
        .on(&[501, 505])
        .says(&[(ApplicationError, 14), (Configuration, 8)])
        .lasts(Persistent),
    row("another 4xx", "RFC 9110: the request's own fault")
        .on(&[
            400, 401, 402, 403, 404, 405, 406, 407, 409, 410, 411, 412, 413, 414, 415, 416, 417,
            422, 423, 424, 426, 428, 431, 451,
        ])
        .says(&[(ApplicationError, 14)])
        .lasts(Persistent),
];

/// What the time of a failure says.
pub(super) const TIMES: &[Signature] =
    &[
        row("a tidy time", "people set time limits in round numbers")
            .on(&[502, 503, 504])
            .when(&[Waited(TIDY)])
            .says(&[(GatewayTimeout, 8)]),
    ];
