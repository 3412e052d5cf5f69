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
    BodyBegins, BodyHas, Header, HeaderAny, HeaderHas, HeaderHasNone, HeaderHasOne, HeaderIs,
    NoBodyHas, NoHeader, Waited, WaitedAtLeast,
};

const DOWN_ON_PURPOSE: &[&str] = &[
    "maintenance",
    "be back soon",
    "be back shortly",
    "be right back",
    "upgrading our systems",
    "under construction",
    "planned downtime",
    "planned outage",
    "planned update",
    "scheduled downtime",
    "scheduled outage",
];

const AT_ITS_LIMIT: &[&str] = &[
    "overload",
    "requests in flight",
    "handling too many requests",
    "too many concurrent",
    "too many connections",
    "at capacity",
    "over capacity",
    "capacity constraints",
    "too busy",
    "server busy",
    "server_busy",
    "serverbusy",
    "server is busy",
    "workers are busy",
    "queue is full",
    "queue_full",
    "load shed",
    "high load",
    "heavy load",
    "capacity exceeded",
    "pool exhausted",
];

const OVER_ITS_RATE: &[&str] = &[
    "rate limit",
    "rate_limit",
    "rate-limit",
    "ratelimit",
    "rate exceeded",
    "throttl",
    "quota",
    "slow down",
];

const NO_DEPENDENCY: &[&str] = &[
    "connection refused",
    "unreachable",
    "unable to connect",
    "could not connect",
    "cannot connect",
    "failed to connect",
    "connection failure",
    "connection timeout",
    "connection timed out",
    "no route to host",
    "dependency_unavailable",
    "dependency unavailable",
    "upstream connect error",
    "upstream unavailable",
    "upstream_unavailable",
    "backend unavailable",
    "econnrefused",
    "connection reset",
];

const BREAKER: &[&str] = &["circuit breaker", "circuitbreaker", "circuit_breaker"];

const TOO_SLOW: &[&str] = &[
    "timed out",
    "did not answer within",
    "did not respond within",
    "a timely response",
    "took too long",
    "deadline exceeded",
    "gateway_timeout",
    "inactivity timeout",
    "i/o timeout",
    "read timeout",
    "etimedout",
];

const NO_SUCH_NAME: &[&str] = &[
    "no such host",
    "enotfound",
    "could not resolve",
    "dns lookup failure",
    "failure in name resolution",
    "name or service not known",
    "unknown host",
];

/// Plain words in an error page or an error object. What stands in an object was chosen for this
/// failure; what stands in a page may be there whatever it is.
pub(super) const WORDS: &[Signature] = &[
    row(
        "words: maintenance",
        "an operator's page, an application's message",
    )
    .when(&[
        BodyHas(DOWN_ON_PURPOSE),
        NoBodyHas("maintenance downtime or capacity problems"),
    ])
    .says(&[(Maintenance, 20)]),
    row(
        "words: maintenance, in an object",
        "an application's message",
    )
    .when(&[
        HeaderHas("content-type", "json"),
        BodyHas(DOWN_ON_PURPOSE),
        NoBodyHas("maintenance downtime or capacity problems"),
    ])
    .says(&[(Maintenance, 8)]),
    row(
        "words: overloaded",
        "an operator's page, an application's message",
    )
    .when(&[
        BodyHas(AT_ITS_LIMIT),
        NoBodyHas("either the server is overloaded or"),
    ])
    .says(&[(Overload, 20)]),
    row(
        "words: overloaded, in an object",
        "an application's message",
    )
    .when(&[
        HeaderHas("content-type", "json"),
        BodyHas(AT_ITS_LIMIT),
        NoBodyHas("either the server is overloaded or"),
    ])
    .says(&[(Overload, 5)]),
    row(
        "words: rate limited",
        "an operator's page, an application's message",
    )
    .when(&[BodyHas(OVER_ITS_RATE), NoBodyHas("requests in flight")])
    .says(&[(RateLimit, 18)]),
    row(
        "words: rate limited, in an object",
        "an application's message",
    )
    .when(&[
        HeaderHas("content-type", "json"),
        BodyHas(OVER_ITS_RATE),
        NoBodyHas("requests in flight"),
    ])
    .says(&[(RateLimit, 8)]),
    row(
        "words: too many requests",
        "a limit of one client's, or of all that a server can do",
    )
    .when(&[
        BodyHas(&["too many requests", "too_many_requests"]),
        NoBodyHas("requests in flight"),
        NoBodyHas("handling too many requests"),
    ])
    .says(&[(RateLimit, 14), (Overload, 6)]),
    row("words: a dependency is down", "an application's message")
        .when(&[BodyHas(NO_DEPENDENCY), NoBodyHas("reset reason: ")])
        .says(&[(UpstreamUnavailable, 18)]),
    row(
        "words: a dependency is down, in an object",
        "an application's message",
    )
    .when(&[HeaderHas("content-type", "json"), BodyHas(NO_DEPENDENCY)])
    .says(&[(UpstreamUnavailable, 8)]),
    row(
        "words: a breaker is open",
        "an application's message: a dependency failed or was slow",
    )
    .when(&[BodyHas(BREAKER)])
    .says(&[(UpstreamUnavailable, 16), (Overload, 10)])
    .lasts(Momentary),
    row(
        "words: a breaker is open, in an object",
        "an application's message",
    )
    .when(&[HeaderHas("content-type", "json"), BodyHas(BREAKER)])
    .says(&[(UpstreamUnavailable, 8)]),
    row(
        "words: a check says down",
        "Spring Boot: Actuator; MicroProfile Health",
    )
    .on(&[503])
    .when(&[
        HeaderHas("content-type", "json"),
        BodyHas(&["\"status\":\"down\"", "\"status\": \"down\""]),
    ])
    .says(&[(UpstreamUnavailable, 16), (ApplicationError, 5)]),
    row("words: timed out", "an application's message")
        .on(&[500, 502, 503, 504])
        .when(&[BodyHas(TOO_SLOW)])
        .says(&[(GatewayTimeout, 14)]),
    row("words: timed out, in an object", "an application's message")
        .on(&[500, 502, 503, 504])
        .when(&[HeaderHas("content-type", "json"), BodyHas(TOO_SLOW)])
        .says(&[(GatewayTimeout, 8)]),
    row("words: a broken answer", "a gateway's page")
        .on(&[500, 502, 503])
        .when(&[
            BodyHas(&[
                "an invalid response",
                "failed to parse the response",
                "malformed response",
            ]),
            NoBodyHas("error reading from remote server"),
        ])
        .says(&[(UpstreamUnavailable, 8), (BadUpstreamAnswer, 8)]),
    row("words: a name does not resolve", "an application's message")
        .on(&[500, 502, 503, 504])
        .when(&[BodyHas(NO_SUCH_NAME)])
        .says(&[(Configuration, 18), (UpstreamUnavailable, 8)]),
    row(
        "words: a name does not resolve, in an object",
        "an application's message",
    )
    .on(&[500, 502, 503, 504])
    .when(&[HeaderHas("content-type", "json"), BodyHas(NO_SUCH_NAME)])
    .says(&[(Configuration, 8)]),
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
    .says(&[(ApplicationError, 3)]),
    row(
        "an error object",
        "applications answer in JSON far more often than proxies",
    )
    .by(Application)
    .when(&[HeaderHas("content-type", "json")])
    .says(&[(ApplicationError, 8)]),
    row("an error in XML", "services answer in it, proxies don't")
        .by(Application)
        .when(&[HeaderHas("content-type", "application/xml")])
        .says(&[(ApplicationError, 5)]),
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
                "h2o",
                "linkerd",
                "litespeed",
                "cowboy",
                "heroku",
                "nghttpx",
                "privoxy",
                "tinyproxy",
                "vercel",
                "railway",
            ],
        ),
    ])
    .says(&[(ApplicationError, 4)]),
    row(
        "an application server by name",
        "it answers itself, whoever passes it on",
    )
    .by(Application)
    .when(&[HeaderHasOne(
        "server",
        &[
            "cheroot",
            "coyote",
            "daphne",
            "gunicorn",
            "hypercorn",
            "jetty",
            "kestrel",
            "passenger",
            "puma",
            "thin",
            "tomcat",
            "tornado",
            "twisted",
            "undertow",
            "uvicorn",
            "waitress",
            "webrick",
            "werkzeug",
            "wildfly",
        ],
    )])
    .says(&[(ApplicationError, 5)]),
    row(
        "passed on by a proxy that signs its own",
        "recorded: what Varnish, Squid, tinyproxy and Traffic Server make has other headers",
    )
    .by(Application)
    .when(&[
        HeaderHasOne("via", &["varnish", "squid", "tinyproxy", "trafficserver"]),
        HeaderHasNone("server", &["varnish"]),
        NoHeader("x-squid-error"),
        NoHeader("content-language"),
    ])
    .says(&[(ApplicationError, 8)]),
    row("werkzeug: its page", "pallets/werkzeug: exceptions.py")
        .by(Application)
        .on(&[500, 503])
        .when(&[
            BodyHas(&[
                "maintenance downtime or capacity problems",
                "either the server is overloaded or there is an error in the application",
            ]),
            NoBodyHas("<html><head>"),
        ])
        .says(&[(ApplicationError, 14)]),
    row(
        "uvicorn: its limit of concurrency",
        "recorded; encode/uvicorn: --limit-concurrency",
    )
    .by(Application)
    .on(&[503])
    .when(&[
        HeaderIs("server", "uvicorn"),
        BodyBegins("service unavailable"),
    ])
    .says(&[(Overload, 14)]),
];

/// What a status says by itself.
pub(super) const STATUS: &[Signature] = &[
    row("status 429", "RFC 6585: whoever made it")
        .on(&[429])
        .says(&[(RateLimit, 22), (ApplicationError, -12)]),
    row("status 500", "RFC 9110")
        .on(&[500])
        .says(&[(ApplicationError, 12)]),
    row("status 502", "RFC 9110").on(&[502]).says(&[
        (UpstreamUnavailable, 14),
        (BadUpstreamAnswer, 8),
        (ApplicationError, -4),
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
    row("status 504", "RFC 9110").on(&[504]).says(&[
        (GatewayTimeout, 18),
        (UpstreamUnavailable, 5),
        (ApplicationError, -8),
    ]),
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
pub(super) const TIMES: &[Signature] = &[
    row("a tidy time", "people set time limits in round numbers")
        .on(&[502, 503, 504])
        .when(&[Waited(TIDY)])
        .says(&[(GatewayTimeout, 8)]),
    row(
        "a long wait",
        "recorded: what breaks off does it at once; a 503 may have stood in line",
    )
    .on(&[502])
    .when(&[WaitedAtLeast(900)])
    .says(&[(GatewayTimeout, 9)]),
];
