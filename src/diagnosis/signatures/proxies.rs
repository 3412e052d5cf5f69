//! Proxies, gateways and meshes, by the pages and headers they make.

use super::{TIDY, row};
use crate::diagnosis::Signature;
use crate::diagnosis::cause::Cause::{
    ApplicationError, BadUpstreamAnswer, Configuration, ConnectionFailure, GatewayTimeout,
    Maintenance, Overload, RateLimit, UpstreamUnavailable,
};
use crate::diagnosis::cause::Origin::{Application, Edge, Proxy};
use crate::diagnosis::cause::Persistence::{Momentary, Persistent};
use crate::diagnosis::signature::Test::{
    Body, BodyBegins, BodyHas, Header, HeaderAny, HeaderHas, HeaderHasNone, HeaderIs, NoBody,
    NoBodyHas, NoHeader, Reason, RetryAfter, Waited, WaitedAtLeast,
};
use crate::verdict::Processed::{Maybe, No};

/// Also Istio, Contour, Emissary, App Mesh, Gateway API and Google's regional load balancers.
pub(super) const ENVOY: &[Signature] = &[
    row(
        "envoy: no connection to the upstream",
        "envoy: router.cc, http/utility.cc",
    )
    .by(Proxy("envoy"))
    .on(&[503, 504])
    .when(&[
        BodyHas(&["before headers. reset reason: "]),
        BodyHas(&[
            "reset reason: connection failure",
            "reset reason: local connection failure",
            "reset reason: remote connection failure",
            "reset reason: connection timeout",
        ]),
    ])
    .says(&[(UpstreamUnavailable, 25)])
    .processed(No)
    .lasts(Persistent),
    row(
        "envoy: no connection, after retries of its own",
        "envoy: router.cc",
    )
    .by(Proxy("envoy"))
    .on(&[503, 504])
    .when(&[BodyHas(&["retried and the latest reset reason: "])])
    .says(&[(UpstreamUnavailable, 20)])
    .processed(Maybe),
    row(
        "envoy: TLS to the upstream",
        "envoy: transport failure reason",
    )
    .by(Proxy("envoy"))
    .on(&[503])
    .when(&[
        BodyHas(&["transport failure reason: "]),
        BodyHas(&[
            "tls error",
            "tls_error",
            "certificate_verify_failed",
            "ssl routines",
        ]),
    ])
    .says(&[(Configuration, 35), (UpstreamUnavailable, -15)])
    .processed(No)
    .lasts(Persistent),
    row(
        "envoy: circuit breaker full",
        "envoy: router.cc, response flag UO",
    )
    .by(Proxy("envoy"))
    .on(&[503])
    .when(&[BodyHas(&["reset reason: overflow"])])
    .says(&[(Overload, 25)])
    .processed(No),
    row(
        "envoy: the upstream broke the connection",
        "envoy: router.cc",
    )
    .by(Proxy("envoy"))
    .on(&[502, 503])
    .when(&[BodyHas(&[
        "reset reason: connection termination",
        "reset reason: remote reset",
        "reset reason: local reset",
    ])])
    .says(&[(UpstreamUnavailable, 25), (Overload, 8)])
    .processed(Maybe)
    .lasts(Momentary),
    row(
        "envoy: the upstream refused the stream",
        "envoy: router.cc; RFC 9113, 8.7",
    )
    .by(Proxy("envoy"))
    .on(&[503])
    .when(&[BodyHas(&["refused stream reset"])])
    .says(&[(UpstreamUnavailable, 20), (Overload, 14)])
    .processed(No)
    .lasts(Momentary),
    row(
        "envoy: the upstream's answer is no HTTP",
        "envoy: router.cc",
    )
    .by(Proxy("envoy"))
    .on(&[502, 503])
    .when(&[BodyHas(&["reset reason: protocol error"])])
    .says(&[(BadUpstreamAnswer, 28), (UpstreamUnavailable, 14)])
    .processed(Maybe),
    row("envoy: no healthy upstream", "envoy: response flag UH")
        .by(Proxy("envoy"))
        .on(&[503, 504])
        .when(&[BodyHas(&["no healthy upstream", "no_healthy_upstream"])])
        .says(&[(UpstreamUnavailable, 28)])
        .processed(No)
        .lasts(Persistent),
    row(
        "envoy: maintenance mode",
        "envoy: router.cc, runtime upstream.maintenance_mode",
    )
    .by(Proxy("envoy"))
    .on(&[503])
    .when(&[BodyBegins("maintenance mode")])
    .says(&[(Maintenance, 22)])
    .processed(No)
    .lasts(Persistent),
    row(
        "envoy: overloaded",
        "envoy: x-envoy-overloaded; also sent in maintenance mode",
    )
    .by(Proxy("envoy"))
    .when(&[
        HeaderIs("x-envoy-overloaded", "true"),
        NoHeader("x-envoy-upstream-service-time"),
        NoBodyHas("maintenance mode"),
    ])
    .says(&[(Overload, 22), (Maintenance, 18)])
    .processed(No),
    row(
        "envoy: itself overloaded",
        "envoy: x-envoy-local-overloaded, overload manager",
    )
    .by(Proxy("envoy"))
    .when(&[HeaderIs("x-envoy-local-overloaded", "true")])
    .says(&[(Overload, 25)])
    .processed(No),
    row("envoy: overload manager", "envoy: conn_manager_impl.cc")
        .by(Proxy("envoy"))
        .on(&[503])
        .when(&[BodyBegins("envoy overloaded")])
        .says(&[(Overload, 22)])
        .processed(No),
    row(
        "envoy: shed by its overload manager",
        "recorded: load shed point of its HTTP/1 codec",
    )
    .by(Proxy("envoy"))
    .on(&[500])
    .when(&[
        HeaderHas("server", "envoy"),
        NoHeader("x-envoy-upstream-service-time"),
        BodyBegins("internal server error"),
    ])
    .says(&[(Overload, 18)]),
    row(
        "envoy: dropped for the whole service",
        "envoy: stream_info.h, drop_overload",
    )
    .by(Proxy("envoy"))
    .on(&[503])
    .when(&[BodyHas(&["unconditional drop overload", "drop_overload"])])
    .says(&[(Overload, 25)])
    .processed(No),
    row(
        "envoy: adaptive concurrency",
        "envoy: adaptive_concurrency filter",
    )
    .by(Proxy("envoy"))
    .when(&[BodyHas(&["reached concurrency limit"])])
    .says(&[(Overload, 22)])
    .processed(No),
    row(
        "envoy: the upstream was too slow",
        "envoy: router.cc onUpstreamTimeoutAbort",
    )
    .by(Proxy("envoy"))
    .on(&[504, 503, 408])
    .when(&[BodyHas(&[
        "upstream request timeout",
        "stream timeout",
        "upstream max stream duration reached",
    ])])
    .says(&[(GatewayTimeout, 22)])
    .processed(Maybe),
    row("envoy: the client was too slow", "envoy: request timeout")
        .by(Proxy("envoy"))
        .on(&[408])
        .when(&[BodyBegins("request timeout")])
        .says(&[(ConnectionFailure, 15)]),
    row("envoy: rate limit service", "envoy: x-envoy-ratelimited")
        .by(Proxy("envoy"))
        .when(&[
            Header("x-envoy-ratelimited"),
            NoHeader("x-envoy-upstream-service-time"),
        ])
        .says(&[(RateLimit, 30)])
        .processed(No),
    row("envoy: local rate limit", "envoy: local_ratelimit filter")
        .by(Proxy("envoy"))
        .when(&[BodyHas(&["local_rate_limited"])])
        .says(&[(RateLimit, 25)])
        .processed(No),
    row(
        "envoy: names do not resolve",
        "envoy: dynamic forward proxy",
    )
    .by(Proxy("envoy"))
    .on(&[503])
    .when(&[BodyHas(&["dns resolution failure"])])
    .says(&[(Configuration, 30), (UpstreamUnavailable, 12)])
    .processed(No),
    row("envoy: no route", "envoy: router.cc, response flag NR")
        .by(Proxy("envoy"))
        .on(&[404])
        .when(&[
            HeaderHas("server", "envoy"),
            NoHeader("x-envoy-upstream-service-time"),
            NoBody,
        ])
        .says(&[(Configuration, 22)])
        .processed(No)
        .lasts(Persistent),
    row(
        "envoy: no such cluster",
        "recorded: to Proxy-Status it is a destination that is unavailable",
    )
    .by(Proxy("envoy"))
    .when(&[HeaderHas("proxy-status", "cluster_not_found")])
    .says(&[(Configuration, 35), (UpstreamUnavailable, -20)])
    .processed(No),
    row(
        "envoy: an empty 503",
        "envoy: unknown cluster, admission control, or an operator's reply",
    )
    .by(Proxy("envoy"))
    .on(&[503])
    .when(&[
        HeaderHas("server", "envoy"),
        NoHeader("x-envoy-upstream-service-time"),
        NoBody,
    ])
    .says(&[
        (UpstreamUnavailable, 14),
        (Configuration, 12),
        (Overload, 10),
        (Maintenance, 10),
    ]),
    row(
        "envoy: made by itself",
        "envoy: router.cc; what it sheds or limits has markers of its own",
    )
    .by(Proxy("envoy"))
    .on(&[503])
    .when(&[
        HeaderHas("server", "envoy"),
        NoHeader("x-envoy-upstream-service-time"),
        NoHeader("x-envoy-overloaded"),
        NoHeader("retry-after"),
        Body,
    ])
    .says(&[(UpstreamUnavailable, 8)]),
    row(
        "envoy: an operator's reply",
        "recorded: what it says by itself has no Retry-After",
    )
    .by(Proxy("envoy"))
    .on(&[503])
    .when(&[
        HeaderHas("server", "envoy"),
        NoHeader("x-envoy-upstream-service-time"),
        Header("retry-after"),
    ])
    .says(&[(Maintenance, 8), (Overload, 3)]),
    row("envoy: passed on", "envoy: router.cc onUpstreamHeaders")
        .by(Application)
        .when(&[Header("x-envoy-upstream-service-time")])
        .says(&[(ApplicationError, 8)]),
];

/// Also ingress-nginx, `OpenResty` and Tengine.
pub(super) const NGINX: &[Signature] = &[
    row(
        "nginx: its own 503",
        "nginx: limit_req, limit_conn or return 503; a dead upstream is a 502",
    )
    .by(Proxy("nginx"))
    .on(&[503])
    .when(&[
        BodyHas(&["<h1>503 service temporarily unavailable</h1>"]),
        BodyHas(&["<center>nginx", "<center>openresty", "<center>tengine"]),
    ])
    .says(&[(RateLimit, 22), (Overload, 15), (Maintenance, 14)])
    .processed(No),
    row(
        "nginx: the phrase of its own 503",
        "nginx: ngx_http_header_filter_module.c",
    )
    .by(Proxy("nginx"))
    .on(&[503])
    .when(&[
        HeaderHas("server", "nginx"),
        Reason("service temporarily unavailable"),
        NoBodyHas("<center>nginx"),
    ])
    .says(&[(RateLimit, 18), (Overload, 12), (Maintenance, 12)]),
    row(
        "nginx: its own 503, but late",
        "nginx: limit_req, limit_conn and return answer at once",
    )
    .on(&[503])
    .when(&[
        HeaderHas("server", "nginx"),
        Reason("service temporarily unavailable"),
        WaitedAtLeast(300),
    ])
    .says(&[(RateLimit, -10), (Overload, -6), (Maintenance, -8)]),
    row(
        "nginx: passed on a 503",
        "recorded: its own phrase would be another",
    )
    .by(Application)
    .on(&[503])
    .when(&[HeaderHas("server", "nginx"), Reason("service unavailable")])
    .says(&[(ApplicationError, 8)]),
    row(
        "nginx: passed on a 504",
        "recorded: its own phrase would be another",
    )
    .by(Application)
    .on(&[504])
    .when(&[HeaderHas("server", "nginx"), Reason("gateway timeout")])
    .says(&[(ApplicationError, 3)]),
    row("nginx: no upstream", "nginx: ngx_http_upstream.c")
        .by(Proxy("nginx"))
        .on(&[502])
        .when(&[
            BodyHas(&["<h1>502 bad gateway</h1>"]),
            BodyHas(&["<center>nginx", "<center>openresty", "<center>tengine"]),
        ])
        .says(&[(UpstreamUnavailable, 22)])
        .processed(Maybe),
    row(
        "nginx: the upstream was too slow",
        "nginx: connect and read time limits alike",
    )
    .by(Proxy("nginx"))
    .on(&[504])
    .when(&[
        BodyHas(&["<h1>504 gateway time-out</h1>"]),
        BodyHas(&["<center>nginx", "<center>openresty", "<center>tengine"]),
    ])
    .says(&[(GatewayTimeout, 22)])
    .processed(Maybe),
    row("nginx: too many requests", "nginx: limit_req_status 429")
        .by(Proxy("nginx"))
        .on(&[429])
        .when(&[
            BodyHas(&["<h1>429 too many requests</h1>"]),
            BodyHas(&["<center>nginx", "<center>openresty", "<center>tengine"]),
        ])
        .says(&[(RateLimit, 20)])
        .processed(No),
    row(
        "nginx: plain HTTP to a TLS port",
        "nginx: ngx_http_request.c, status 497",
    )
    .by(Proxy("nginx"))
    .on(&[400])
    .when(&[BodyHas(&["plain http request was sent to https port"])])
    .says(&[(Configuration, 28)])
    .processed(No)
    .lasts(Persistent),
    row(
        "nginx: no client certificate",
        "nginx: statuses 495 and 496",
    )
    .by(Proxy("nginx"))
    .on(&[400])
    .when(&[BodyHas(&[
        "no required ssl certificate was sent",
        "ssl certificate error",
    ])])
    .says(&[(Configuration, 28)])
    .processed(No)
    .lasts(Persistent),
];

pub(super) const HAPROXY: &[Signature] = &[
    row(
        "haproxy: no server available",
        "haproxy: http.c; one page for dead, full and switched off",
    )
    .by(Proxy("haproxy"))
    .on(&[503])
    .when(&[BodyHas(&["no server is available to handle this request"])])
    .says(&[
        (UpstreamUnavailable, 20),
        (Overload, 15),
        (Maintenance, 13),
        (RateLimit, 10),
        (GatewayTimeout, -8),
    ])
    .processed(No),
    row(
        "haproxy: the headers of its pages",
        "haproxy: http.c; it has no Server header",
    )
    .by(Proxy("haproxy"))
    .on(&[503])
    .when(&[
        NoHeader("server"),
        NoHeader("via"),
        NoHeader("retry-after"),
        HeaderIs("cache-control", "no-cache"),
        HeaderIs("content-type", "text/html"),
        NoBodyHas("no server is available to handle this request"),
    ])
    .says(&[(UpstreamUnavailable, 8), (Overload, 3)]),
    row(
        "haproxy: its queue was full for so long",
        "haproxy: timeout queue, by default timeout connect",
    )
    .by(Proxy("haproxy"))
    .on(&[503])
    .when(&[
        BodyHas(&["no server is available to handle this request"]),
        Waited(&[500, 1_000, 5_000, 10_000, 30_000, 60_000]),
    ])
    .says(&[(Overload, 9)]),
    row(
        "haproxy: three waits before its retries",
        "haproxy: retries 3, 1 s between them",
    )
    .by(Proxy("haproxy"))
    .on(&[503])
    .when(&[
        BodyHas(&["no server is available to handle this request"]),
        Waited(&[3_000]),
    ])
    .says(&[(UpstreamUnavailable, 3)]),
    row("haproxy: the server was too slow", "haproxy: http.c")
        .by(Proxy("haproxy"))
        .on(&[504])
        .when(&[BodyHas(&["the server didn't respond in time"])])
        .says(&[(GatewayTimeout, 22)])
        .processed(Maybe),
    row("haproxy: a broken answer", "haproxy: http.c")
        .by(Proxy("haproxy"))
        .on(&[502])
        .when(&[BodyHas(&[
            "the server returned an invalid or incomplete response",
        ])])
        .says(&[(UpstreamUnavailable, 22), (BadUpstreamAnswer, 14)])
        .processed(Maybe),
    row("haproxy: too many requests", "haproxy: http.c")
        .by(Proxy("haproxy"))
        .on(&[429])
        .when(&[BodyHas(&[
            "you have sent too many requests in a given amount of time",
        ])])
        .says(&[(RateLimit, 20)])
        .processed(No),
    row(
        "haproxy: its own 500",
        "haproxy: http.c; also the end of a tarpit",
    )
    .by(Proxy("haproxy"))
    .on(&[500])
    .when(&[BodyHas(&["an internal server error occurred."])])
    .says(&[(ApplicationError, 8), (RateLimit, 6)]),
    row(
        "haproxy: on another connection, please",
        "haproxy: http.c, 408, 421 and 425",
    )
    .by(Proxy("haproxy"))
    .on(&[408, 421, 425])
    .when(&[BodyHas(&[
        "your browser didn't send a complete request in time",
        "your browser sent early data",
        "request sent to a non-authoritative server",
    ])])
    .says(&[(ConnectionFailure, 20)])
    .processed(No)
    .lasts(Momentary),
];

pub(super) const APACHE: &[Signature] = &[
    row(
        "apache: its 503 page",
        "apache/httpd: http_protocol.c; says maintenance whatever it is",
    )
    .by(Proxy("apache"))
    .on(&[503])
    .when(&[
        BodyHas(&["maintenance downtime or capacity problems"]),
        BodyHas(&["<html><head>"]),
    ])
    .says(&[
        (UpstreamUnavailable, 15),
        (Overload, 8),
        (Maintenance, 7),
        (GatewayTimeout, -8),
    ])
    .processed(No),
    row(
        "apache: the headers of its 503",
        "recorded: its pages are in iso-8859-1",
    )
    .by(Proxy("apache"))
    .on(&[503])
    .when(&[
        HeaderHas("server", "apache"),
        HeaderHas("content-type", "charset=iso-8859-1"),
        NoBodyHas("maintenance downtime or capacity problems"),
    ])
    .says(&[(UpstreamUnavailable, 9), (Overload, 3), (Maintenance, 3)]),
    row(
        "apache: error reading from the upstream",
        "apache/httpd: mod_proxy_http.c; timeouts too",
    )
    .by(Proxy("apache"))
    .on(&[502])
    .when(&[BodyHas(&["error reading from remote server"])])
    .says(&[(UpstreamUnavailable, 20), (GatewayTimeout, 14)])
    .processed(Maybe),
    row(
        "apache: the upstream took too long",
        "apache/httpd: a read timeout is a 502",
    )
    .by(Proxy("apache"))
    .on(&[502])
    .when(&[BodyHas(&["error reading from remote server"]), Waited(TIDY)])
    .says(&[(GatewayTimeout, 18)]),
    row(
        "apache: the upstream took long",
        "apache/httpd: a read timeout is a 502",
    )
    .by(Proxy("apache"))
    .on(&[502])
    .when(&[
        BodyHas(&["error reading from remote server"]),
        WaitedAtLeast(900),
    ])
    .says(&[(GatewayTimeout, 14)]),
    row(
        "apache: a broken answer",
        "recorded; apache/httpd: http_protocol.c",
    )
    .by(Proxy("apache"))
    .on(&[502])
    .when(&[
        BodyHas(&["the proxy server received an invalid response from an upstream server"]),
        NoBodyHas("error reading from remote server"),
    ])
    .says(&[(UpstreamUnavailable, 14), (BadUpstreamAnswer, 10)])
    .processed(Maybe),
    row(
        "apache: the phrase of its proxy",
        "apache/httpd: mod_proxy_http.c",
    )
    .by(Proxy("apache"))
    .on(&[502])
    .when(&[
        Reason("proxy error"),
        NoBodyHas("error reading from remote server"),
    ])
    .says(&[(UpstreamUnavailable, 12), (GatewayTimeout, 8)]),
    row(
        "apache: the phrase of its proxy, late",
        "apache/httpd: a read timeout is a 502",
    )
    .by(Proxy("apache"))
    .on(&[502])
    .when(&[
        Reason("proxy error"),
        NoBodyHas("error reading from remote server"),
        WaitedAtLeast(900),
    ])
    .says(&[(GatewayTimeout, 10)]),
    row(
        "apache: the name does not resolve",
        "apache/httpd: proxy_util.c; recorded as a 500",
    )
    .by(Proxy("apache"))
    .on(&[500, 502])
    .when(&[BodyHas(&["dns lookup failure for:"])])
    .says(&[(Configuration, 28), (UpstreamUnavailable, -12)])
    .processed(No),
    row(
        "apache: the phrase of its proxy's 500",
        "recorded: a name or TLS; apache/httpd: proxy_util.c",
    )
    .by(Proxy("apache"))
    .on(&[500])
    .when(&[Reason("proxy error")])
    .says(&[(Configuration, 20), (UpstreamUnavailable, 12)])
    .processed(No),
    row(
        "apache: no TLS to the upstream",
        "apache/httpd: proxy_util.c",
    )
    .by(Proxy("apache"))
    .on(&[500, 502])
    .when(&[BodyHas(&["error during ssl handshake with remote server"])])
    .says(&[(Configuration, 28)])
    .processed(No)
    .lasts(Persistent),
    row(
        "apache: the upstream was too slow",
        "apache/httpd: 504 of FCGI and AJP",
    )
    .by(Proxy("apache"))
    .on(&[504])
    .when(&[BodyHas(&[
        "the gateway did not receive a timely response from the upstream server",
    ])])
    .says(&[(GatewayTimeout, 22)])
    .processed(Maybe),
];

/// And Fastly, whose pages come from Varnish's.
pub(super) const VARNISH: &[Signature] = &[
    row(
        "varnish: fetch failed",
        "varnish-cache: cache_fetch.c; refused, reset and slow alike",
    )
    .by(Proxy("varnish"))
    .on(&[503])
    .when(&[
        HeaderHas("server", "varnish"),
        Reason("backend fetch failed"),
    ])
    .says(&[(UpstreamUnavailable, 8), (GatewayTimeout, 4)]),
    row(
        "varnish: the phrase of a failed fetch",
        "varnish-cache: cache_fetch.c",
    )
    .by(Proxy("varnish"))
    .on(&[503])
    .when(&[Reason("backend fetch failed")])
    .says(&[(UpstreamUnavailable, 18), (GatewayTimeout, 12)])
    .processed(Maybe),
    row(
        "varnish: the page of a failed fetch",
        "varnish-cache: builtin.vcl",
    )
    .by(Proxy("varnish"))
    .on(&[503])
    .when(&[BodyHas(&["error 503 backend fetch failed"])])
    .says(&[(UpstreamUnavailable, 10), (GatewayTimeout, 6)])
    .processed(Maybe),
    row(
        "varnish: a fetch that took too long",
        "varnish-cache: it has no 504",
    )
    .by(Proxy("varnish"))
    .on(&[503])
    .when(&[Reason("backend fetch failed"), Waited(TIDY)])
    .says(&[(GatewayTimeout, 12)]),
    row(
        "varnish: a page that took too long",
        "varnish-cache: it has no 504",
    )
    .by(Proxy("varnish"))
    .on(&[503])
    .when(&[BodyHas(&["error 503 backend fetch failed"]), Waited(TIDY)])
    .says(&[(GatewayTimeout, 6)]),
    row(
        "varnish: a fetch that took long",
        "varnish-cache: it has no 504",
    )
    .by(Proxy("varnish"))
    .on(&[503])
    .when(&[Reason("backend fetch failed"), WaitedAtLeast(900)])
    .says(&[(GatewayTimeout, 19)]),
    row(
        "varnish: a page that took long",
        "varnish-cache: it has no 504",
    )
    .by(Proxy("varnish"))
    .on(&[503])
    .when(&[
        BodyHas(&["error 503 backend fetch failed"]),
        WaitedAtLeast(900),
    ])
    .says(&[(GatewayTimeout, 8)]),
    row(
        "varnish: its constant retry-after",
        "varnish-cache: builtin.vcl always says 5",
    )
    .by(Proxy("varnish"))
    .on(&[503])
    .when(&[HeaderHas("server", "varnish"), RetryAfter(5, 5)])
    .says(&[(Overload, -5)])
    .constant_hint(),
    row(
        "varnish: its constant retry-after, passed on",
        "varnish-cache: builtin.vcl always says 5",
    )
    .by(Proxy("varnish"))
    .on(&[503])
    .when(&[
        BodyHas(&["guru meditation"]),
        HeaderHasNone("server", &["varnish"]),
        RetryAfter(5, 5),
    ])
    .says(&[(Overload, -5)])
    .constant_hint(),
    row(
        "varnish: made by its operator",
        "varnish-cache: synth() has no Via",
    )
    .by(Proxy("varnish"))
    .on(&[503])
    .when(&[
        BodyHas(&["guru meditation"]),
        NoBodyHas("backend fetch failed"),
        NoBodyHas("vcl failed"),
        NoBodyHas("too many restarts"),
        NoHeader("via"),
    ])
    .says(&[(Maintenance, 18), (RateLimit, 8), (Overload, 8)])
    .processed(No),
    row(
        "varnish: the headers of its operator",
        "varnish-cache: synth() has no Via",
    )
    .by(Proxy("varnish"))
    .on(&[503])
    .when(&[
        HeaderIs("server", "varnish"),
        NoHeader("via"),
        NoBodyHas("guru meditation"),
    ])
    .says(&[(Maintenance, 12), (RateLimit, 5), (Overload, 2)])
    .processed(No),
    row(
        "varnish: the phrase of a mistake in its VCL",
        "varnish-cache: cache_req_fsm.c",
    )
    .by(Proxy("varnish"))
    .on(&[503])
    .when(&[Reason("vcl failed")])
    .says(&[(Configuration, 25), (Maintenance, -12)])
    .processed(No)
    .lasts(Persistent),
    row(
        "varnish: a mistake in its VCL",
        "varnish-cache: cache_req_fsm.c",
    )
    .by(Proxy("varnish"))
    .on(&[503])
    .when(&[BodyHas(&[
        "error 503 vcl failed",
        "error 503 too many restarts",
    ])])
    .says(&[(Configuration, 25)])
    .processed(No)
    .lasts(Persistent),
    row("fastly: no answer in time", "Fastly: guides/vcl/errors")
        .by(Edge("fastly"))
        .on(&[503])
        .when(&[
            BodyHas(&["guru mediation"]),
            BodyHas(&[
                "first byte timeout",
                "between bytes timeout",
                "connection timed out",
                "fetch timeout",
            ]),
        ])
        .says(&[(GatewayTimeout, 25)])
        .processed(Maybe),
    row("fastly: no backend", "Fastly: guides/vcl/errors")
        .by(Edge("fastly"))
        .on(&[503])
        .when(&[
            BodyHas(&["guru mediation"]),
            BodyHas(&[
                "backend read error",
                "backend write error",
                "connection refused",
                "backend is unhealthy",
                "all backends failed or unhealthy",
            ]),
        ])
        .says(&[(UpstreamUnavailable, 25)])
        .processed(Maybe),
    row("fastly: configuration", "Fastly: guides/vcl/errors")
        .by(Edge("fastly"))
        .when(&[BodyHas(&[
            "fastly error: unknown domain",
            "hostname doesn't match against certificate",
            "certificate has expired",
            "ssl handshake error",
            "loop detected",
        ])])
        .says(&[(Configuration, 25)])
        .processed(No)
        .lasts(Persistent),
    row("fastly: too many connections", "Fastly: guides/vcl/errors")
        .by(Edge("fastly"))
        .on(&[503])
        .when(&[BodyHas(&["backend.max_conn reached"])])
        .says(&[(Overload, 25)])
        .processed(No),
];

pub(super) const SQUID: &[Signature] = &[
    row("squid: no connection", "squid: FwdState.cc, errorpage.cc")
        .by(Proxy("squid"))
        .when(&[HeaderHas("x-squid-error", "err_connect_fail")])
        .says(&[(UpstreamUnavailable, 34)])
        .processed(No),
    row("squid: can't forward", "squid: FwdState.cc, errorpage.cc")
        .by(Proxy("squid"))
        .when(&[HeaderHas("x-squid-error", "err_cannot_forward")])
        .says(&[(UpstreamUnavailable, 28)])
        .processed(No),
    row("squid: the name does not resolve", "squid: errorpage.cc")
        .by(Proxy("squid"))
        .when(&[HeaderHas("x-squid-error", "err_dns_fail")])
        .says(&[(Configuration, 28), (UpstreamUnavailable, 20)])
        .processed(No),
    row("squid: the upstream was too slow", "squid: errorpage.cc")
        .by(Proxy("squid"))
        .when(&[HeaderHas("x-squid-error", "err_read_timeout")])
        .says(&[(GatewayTimeout, 28)])
        .processed(Maybe),
    row("squid: the upstream broke the connection", "squid: http.cc")
        .by(Proxy("squid"))
        .when(&[HeaderHas("x-squid-error", "err_zero_size_object")])
        .says(&[(UpstreamUnavailable, 28)])
        .processed(Maybe)
        .lasts(Momentary),
    row("squid: error reading", "squid: http.cc")
        .by(Proxy("squid"))
        .when(&[
            HeaderHas("x-squid-error", "err_read_error"),
            HeaderHasNone("x-squid-error", &["err_read_error 0"]),
        ])
        .says(&[(UpstreamUnavailable, 28)])
        .processed(Maybe)
        .lasts(Momentary),
    row(
        "squid: no peer left",
        "recorded: a read error without a number",
    )
    .by(Proxy("squid"))
    .when(&[HeaderIs("x-squid-error", "err_read_error 0")])
    .says(&[(UpstreamUnavailable, 28)]),
    row("squid: a broken answer", "squid: errorpage.cc")
        .by(Proxy("squid"))
        .when(&[HeaderHas("x-squid-error", "err_invalid_resp")])
        .says(&[(BadUpstreamAnswer, 28)])
        .processed(Maybe),
    row("squid: shutting down", "squid: errorpage.cc")
        .by(Proxy("squid"))
        .when(&[HeaderHas("x-squid-error", "err_shutting_down")])
        .says(&[(Maintenance, 28)])
        .processed(No),
];

/// Traffic Server, Traefik, Caddy, Kong, lighttpd, h2o, tinyproxy, Linkerd.
pub(super) const OTHERS: &[Signature] = &[
    row(
        "traffic server: congested",
        "apache/trafficserver: HttpTransact.cc",
    )
    .by(Proxy("traffic server"))
    .on(&[503])
    .when(&[Reason("origin server congested")])
    .says(&[(Overload, 25)]),
    row(
        "traffic server: next hop congested",
        "apache/trafficserver: HttpTransact.cc",
    )
    .by(Proxy("traffic server"))
    .on(&[503])
    .when(&[Reason("next hop congested")])
    .says(&[(Overload, 25)]),
    row(
        "traffic server: hung up",
        "apache/trafficserver: HttpTransact.cc",
    )
    .by(Proxy("traffic server"))
    .on(&[502])
    .when(&[Reason("server hangup")])
    .says(&[(UpstreamUnavailable, 25)])
    .processed(Maybe),
    row(
        "traffic server: a broken answer",
        "recorded; apache/trafficserver: body_factory",
    )
    .by(Proxy("traffic server"))
    .on(&[502])
    .when(&[BodyHas(&[
        "the host requested did not return the document correctly",
    ])])
    .says(&[(UpstreamUnavailable, 20), (BadUpstreamAnswer, 18)])
    .processed(Maybe),
    row(
        "traffic server: no answer in time",
        "recorded; apache/trafficserver: body_factory",
    )
    .by(Proxy("traffic server"))
    .on(&[504])
    .when(&[BodyHas(&[
        "too much time has passed without sending any data",
    ])])
    .says(&[(GatewayTimeout, 22)])
    .processed(Maybe),
    row(
        "traffic server: the name does not resolve",
        "recorded; apache/trafficserver: body_factory",
    )
    .by(Proxy("traffic server"))
    .on(&[500, 502])
    .when(&[BodyHas(&["the server does not have a dns entry"])])
    .says(&[(Configuration, 24), (UpstreamUnavailable, 8)])
    .processed(No),
    row(
        "traffic server: the phrase of a name that does not resolve",
        "recorded; apache/trafficserver: HttpTransact.cc",
    )
    .by(Proxy("traffic server"))
    .on(&[500, 502])
    .when(&[Reason("cannot find server.")])
    .says(&[(Configuration, 24), (UpstreamUnavailable, 8)])
    .processed(No),
    row(
        "traffic server: no such mapping",
        "recorded; apache/trafficserver: body_factory",
    )
    .by(Proxy("traffic server"))
    .on(&[404])
    .when(&[BodyHas(&["not found on accelerator"])])
    .says(&[(Configuration, 24)])
    .processed(No)
    .lasts(Persistent),
    row(
        "traffic server: no connection",
        "apache/trafficserver: HttpTransact.cc",
    )
    .by(Proxy("traffic server"))
    .on(&[502])
    .when(&[BodyHas(&[
        "could not connect",
        "next hop connection failed",
    ])])
    .says(&[(UpstreamUnavailable, 20)]),
    row(
        "traffic server: too slow",
        "apache/trafficserver: HttpTransact.cc",
    )
    .by(Proxy("traffic server"))
    .on(&[504])
    .when(&[Reason("maximum transaction time exceeded")])
    .says(&[(GatewayTimeout, 25)])
    .processed(Maybe),
    row("traefik: no server", "traefik: server/service/loadbalancer")
        .by(Proxy("traefik"))
        .on(&[503])
        .when(&[BodyBegins("no available server")])
        .says(&[(UpstreamUnavailable, 25)])
        .processed(No)
        .lasts(Persistent),
    row("traefik: rate limit", "traefik: middlewares/ratelimiter")
        .by(Proxy("traefik"))
        .on(&[429])
        .when(&[Header("x-retry-in")])
        .says(&[(RateLimit, 25)])
        .processed(No),
    row("traefik: no bursts", "traefik: middlewares/ratelimiter")
        .by(Proxy("traefik"))
        .on(&[429])
        .when(&[BodyBegins("no bursty traffic allowed")])
        .says(&[(RateLimit, 25)])
        .processed(No),
    row(
        "go proxy: bad gateway",
        "traefik: proxy/httputil/proxy.go writes the status' own words",
    )
    .by(Proxy("traefik"))
    .on(&[502])
    .when(&[BodyBegins("bad gateway"), NoHeader("x-request-id")])
    .says(&[(UpstreamUnavailable, 14)])
    .processed(Maybe),
    row(
        "go proxy: gateway timeout",
        "traefik: proxy/httputil/proxy.go writes the status' own words",
    )
    .by(Proxy("traefik"))
    .on(&[504])
    .when(&[BodyBegins("gateway timeout"), NoHeader("x-request-id")])
    .says(&[(GatewayTimeout, 14)])
    .processed(Maybe),
    row(
        "traefik: breaker open",
        "traefik: middlewares/circuitbreaker writes the status' own words",
    )
    .by(Proxy("traefik"))
    .on(&[503])
    .when(&[
        BodyBegins("service unavailable"),
        NoHeader("server"),
        NoHeader("x-request-id"),
    ])
    .says(&[(Overload, 10), (UpstreamUnavailable, 6)]),
    row("caddy: no upstream", "caddy: reverseproxy.go")
        .by(Proxy("caddy"))
        .on(&[502])
        .when(&[HeaderIs("server", "caddy"), NoBody, NoHeader("via")])
        .says(&[(UpstreamUnavailable, 20)])
        .processed(Maybe),
    row(
        "caddy: an empty 503",
        "recorded: none healthy, all full, an operator's reply, or passed on",
    )
    .by(Proxy("caddy"))
    .on(&[503])
    .when(&[HeaderIs("server", "caddy"), NoBody, NoHeader("via")])
    .says(&[
        (UpstreamUnavailable, 16),
        (Overload, 9),
        (Maintenance, 9),
        (ApplicationError, 9),
    ])
    .processed(Maybe),
    row("caddy: too slow", "caddy: reverseproxy.go")
        .by(Proxy("caddy"))
        .on(&[504])
        .when(&[HeaderIs("server", "caddy"), NoBody, NoHeader("via")])
        .says(&[(GatewayTimeout, 20)])
        .processed(Maybe),
    row("caddy: passed on", "caddy: reverseproxy.go")
        .by(Application)
        .when(&[HeaderHas("via", "caddy")])
        .says(&[(ApplicationError, 8)]),
    row("kong: no peer", "Kong: runloop/balancer")
        .by(Proxy("kong"))
        .on(&[503])
        .when(&[BodyHas(&["failure to get a peer from the ring-balancer"])])
        .says(&[(UpstreamUnavailable, 28)])
        .processed(No)
        .lasts(Persistent),
    row(
        "kong: the name does not resolve",
        "Kong: error_handlers.lua",
    )
    .by(Proxy("kong"))
    .on(&[503])
    .when(&[BodyHas(&["name resolution failed"])])
    .says(&[(Configuration, 24), (UpstreamUnavailable, 16)])
    .processed(No),
    row("kong: upstream unavailable", "Kong: error_handlers.lua")
        .by(Proxy("kong"))
        .on(&[503])
        .when(&[BodyHas(&["the upstream server is currently unavailable"])])
        .says(&[(UpstreamUnavailable, 25)])
        .processed(Maybe),
    row("kong: a broken answer", "Kong: error_handlers.lua")
        .by(Proxy("kong"))
        .on(&[502])
        .when(&[BodyHas(&[
            "an invalid response was received from the upstream server",
        ])])
        .says(&[(UpstreamUnavailable, 22), (BadUpstreamAnswer, 16)])
        .processed(Maybe),
    row("kong: too slow", "Kong: error_handlers.lua")
        .by(Proxy("kong"))
        .on(&[504])
        .when(&[BodyHas(&["the upstream server is timing out"])])
        .says(&[(GatewayTimeout, 25)])
        .processed(Maybe),
    row("kong: rate limit", "Kong: rate-limiting plugin")
        .by(Proxy("kong"))
        .on(&[429])
        .when(&[
            BodyHas(&["api rate limit exceeded"]),
            Header("ratelimit-reset"),
        ])
        .says(&[(RateLimit, 20)])
        .processed(No),
    row("kong: made by itself", "Kong: constants.lua")
        .by(Proxy("kong"))
        .when(&[
            Header("x-kong-response-latency"),
            NoHeader("x-kong-upstream-latency"),
        ])
        .says(&[(ApplicationError, -4)]),
    row("kong: passed on", "Kong: constants.lua")
        .by(Application)
        .when(&[Header("x-kong-upstream-latency")])
        .says(&[(ApplicationError, 8)]),
    row(
        "lighttpd: no upstream",
        "recorded: connections that fail are a 503",
    )
    .by(Proxy("lighttpd"))
    .on(&[503])
    .when(&[HeaderHas("server", "lighttpd"), BodyHas(&["<title>503 "])])
    .says(&[(UpstreamUnavailable, 18), (Overload, 8)]),
    row(
        "lighttpd: the headers of its 503",
        "recorded: connections that fail are a 503",
    )
    .by(Proxy("lighttpd"))
    .on(&[503])
    .when(&[
        HeaderHas("server", "lighttpd"),
        HeaderIs("content-type", "text/html"),
        NoBodyHas("<title>503 "),
    ])
    .says(&[(UpstreamUnavailable, 9), (Overload, 3)]),
    row(
        "lighttpd: a broken upstream",
        "recorded: it says 500 where others say 502",
    )
    .by(Proxy("lighttpd"))
    .on(&[500])
    .when(&[HeaderHas("server", "lighttpd"), BodyHas(&["<title>500 "])])
    .says(&[(UpstreamUnavailable, 20)])
    .processed(Maybe),
    row(
        "lighttpd: the headers of its 500",
        "recorded: it says 500 where others say 502",
    )
    .by(Proxy("lighttpd"))
    .on(&[500])
    .when(&[
        HeaderHas("server", "lighttpd"),
        HeaderIs("content-type", "text/html"),
        NoBodyHas("<title>500 "),
    ])
    .says(&[(UpstreamUnavailable, 16)]),
    row("lighttpd: too slow", "recorded")
        .by(Proxy("lighttpd"))
        .on(&[504])
        .when(&[HeaderHas("server", "lighttpd"), BodyHas(&["<title>504 "])])
        .says(&[(GatewayTimeout, 18)])
        .processed(Maybe),
    row("h2o: no connection", "recorded; h2o: lib/core/proxy.c")
        .by(Proxy("h2o"))
        .on(&[502])
        .when(&[
            HeaderHas("server", "h2o"),
            BodyHas(&["connection failure", "connection timeout"]),
        ])
        .says(&[(UpstreamUnavailable, 16)])
        .processed(No),
    row("h2o: too slow", "recorded; h2o: lib/core/proxy.c")
        .by(Proxy("h2o"))
        .on(&[502, 504])
        .when(&[HeaderHas("server", "h2o"), BodyBegins("i/o timeout")])
        .says(&[(GatewayTimeout, 16)])
        .processed(Maybe),
    row(
        "tinyproxy: no connection",
        "recorded; tinyproxy: src/reqs.c, a 500 where others say 502",
    )
    .by(Proxy("tinyproxy"))
    .on(&[500, 502])
    .when(&[BodyHas(&[
        "tinyproxy was unable to connect to the remote web server",
    ])])
    .says(&[(UpstreamUnavailable, 16)])
    .processed(No),
    row(
        "tinyproxy: the phrase of no connection",
        "recorded; tinyproxy: src/reqs.c",
    )
    .by(Proxy("tinyproxy"))
    .on(&[500])
    .when(&[Reason("unable to connect")])
    .says(&[(UpstreamUnavailable, 20)])
    .processed(No),
    row(
        "tinyproxy: the phrase of a broken answer",
        "recorded; tinyproxy: src/reqs.c",
    )
    .by(Proxy("tinyproxy"))
    .on(&[503])
    .when(&[Reason("could not retrieve all the headers")])
    .says(&[(UpstreamUnavailable, 14), (BadUpstreamAnswer, 8)])
    .processed(Maybe),
    row(
        "tinyproxy: a broken answer",
        "recorded; tinyproxy: src/reqs.c",
    )
    .by(Proxy("tinyproxy"))
    .on(&[503])
    .when(&[BodyHas(&[
        "unable to retrieve and process headers from the remote web server",
    ])])
    .says(&[(UpstreamUnavailable, 20), (BadUpstreamAnswer, 14)])
    .processed(Maybe),
    row(
        "linkerd: fails fast",
        "linkerd2-proxy: ServerRescue; a 504 though nothing was sent",
    )
    .by(Proxy("linkerd"))
    .when(&[HeaderHas("l5d-proxy-error", "fail-fast")])
    .says(&[(UpstreamUnavailable, 35)])
    .processed(No),
    row("linkerd: sheds load", "linkerd2-proxy: LoadShedError")
        .by(Proxy("linkerd"))
        .when(&[HeaderHas("l5d-proxy-error", "load shed")])
        .says(&[(Overload, 30)])
        .processed(No),
    row(
        "linkerd: no connection",
        "linkerd2-proxy: errors/respond.rs",
    )
    .by(Proxy("linkerd"))
    .when(&[HeaderHas("l5d-proxy-error", "connect")])
    .says(&[(UpstreamUnavailable, 28)]),
    row("linkerd: too slow", "linkerd2-proxy: errors/respond.rs")
        .by(Proxy("linkerd"))
        .when(&[HeaderHas("l5d-proxy-error", "timeout")])
        .says(&[(GatewayTimeout, 28)])
        .processed(Maybe),
    row(
        "linkerd: made by itself",
        "linkerd2-proxy: errors/respond.rs",
    )
    .by(Proxy("linkerd"))
    .when(&[Header("l5d-proxy-error")])
    .says(&[(UpstreamUnavailable, 8)]),
];

pub(super) const KUBERNETES: &[Signature] = &[
    row(
        "kubernetes: API priority and fairness",
        "kubernetes: flow control",
    )
    .by(Proxy("kube-apiserver"))
    .on(&[429])
    .when(&[HeaderAny(&[
        "x-kubernetes-pf-flowschema-uid",
        "x-kubernetes-pf-prioritylevel-uid",
    ])])
    .says(&[(Overload, 30), (RateLimit, -16)])
    .processed(No),
    row("kubernetes: no endpoints", "kubernetes: service proxy")
        .by(Proxy("kube-apiserver"))
        .on(&[503])
        .when(&[BodyHas(&["no endpoints available for service"])])
        .says(&[(UpstreamUnavailable, 28)])
        .processed(No)
        .lasts(Persistent),
    row("kubernetes: timeout", "kubernetes: 504 of the API server")
        .by(Proxy("kube-apiserver"))
        .on(&[504])
        .when(&[BodyHas(&["request did not complete within"])])
        .says(&[(GatewayTimeout, 22)])
        .processed(Maybe),
];
