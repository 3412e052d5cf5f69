//! Clouds, content networks and platforms, by the pages and headers they make.

use super::row;
use crate::diagnosis::Signature;
use crate::diagnosis::cause::Cause::{
    ApplicationError, BadUpstreamAnswer, Configuration, GatewayTimeout, Maintenance, Overload,
    RateLimit, UpstreamUnavailable,
};
use crate::diagnosis::cause::Origin::{Edge, Proxy};
use crate::diagnosis::cause::Persistence::{Momentary, Persistent};
use crate::diagnosis::signature::Test::{BodyBegins, BodyHas, Header, HeaderHas, HeaderIs, Waited};
use crate::verdict::Processed::{Maybe, No};

pub(super) const AWS: &[Signature] = &[
    row("alb: no targets", "AWS: load-balancer-troubleshooting")
        .by(Edge("aws elb"))
        .on(&[503])
        .when(&[HeaderHas("server", "awselb")])
        .says(&[(UpstreamUnavailable, 20), (Configuration, 14)])
        .processed(No)
        .lasts(Persistent),
    row(
        "alb: the target was too slow",
        "AWS: load-balancer-troubleshooting",
    )
    .by(Edge("aws elb"))
    .on(&[504])
    .when(&[HeaderHas("server", "awselb")])
    .says(&[(GatewayTimeout, 20)])
    .processed(Maybe),
    row(
        "alb: the target broke the connection",
        "AWS: load-balancer-troubleshooting",
    )
    .by(Edge("aws elb"))
    .on(&[502])
    .when(&[HeaderHas("server", "awselb")])
    .says(&[(UpstreamUnavailable, 20), (BadUpstreamAnswer, 14)])
    .processed(Maybe),
    row(
        "cloudfront: the origin's name",
        "AWS: CloudFront guide, 502 with NonS3OriginDnsError",
    )
    .by(Edge("cloudfront"))
    .on(&[502])
    .when(&[
        HeaderHas("x-cache", "error from cloudfront"),
        BodyHas(&["nons3origindnserror"]),
    ])
    .says(&[(Configuration, 30), (UpstreamUnavailable, -14)])
    .processed(No)
    .lasts(Persistent),
    row("cloudfront: capacity", "AWS: CloudFront guide, 503")
        .by(Edge("cloudfront"))
        .on(&[503])
        .when(&[HeaderHas("x-cache", "error from cloudfront")])
        .says(&[(Overload, 12), (UpstreamUnavailable, 6)]),
    row(
        "cloudfront: the origin was too slow",
        "AWS: CloudFront guide, 504",
    )
    .by(Edge("cloudfront"))
    .on(&[504])
    .when(&[HeaderHas("x-cache", "error from cloudfront")])
    .says(&[(GatewayTimeout, 16)])
    .processed(Maybe),
    row("cloudfront: no origin", "AWS: CloudFront guide, 502")
        .by(Edge("cloudfront"))
        .on(&[502])
        .when(&[HeaderHas("x-cache", "error from cloudfront")])
        .says(&[(UpstreamUnavailable, 14)])
        .processed(Maybe),
    row(
        "api gateway: too slow",
        "AWS: supported-gateway-response-types, 29 s",
    )
    .by(Edge("aws api gateway"))
    .on(&[504])
    .when(&[BodyHas(&["endpoint request timed out"])])
    .says(&[(GatewayTimeout, 25)])
    .processed(Maybe),
    row(
        "api gateway: throttled",
        "AWS: supported-gateway-response-types",
    )
    .by(Edge("aws api gateway"))
    .on(&[429])
    .when(&[Header("x-amz-apigw-id")])
    .says(&[(RateLimit, 15)])
    .processed(No),
    row(
        "aws: slow down",
        "botocore: retries/standard.py; S3 says 503 of it",
    )
    .by(Edge("aws"))
    .when(&[BodyHas(&[
        "<code>slowdown</code>",
        "throttlingexception",
        "provisionedthroughputexceededexception",
        "requestlimitexceeded",
        "toomanyrequestsexception",
        "transactioninprogressexception",
    ])])
    .says(&[(RateLimit, 28)])
    .processed(No),
    row("aws: service unavailable", "botocore: retries/standard.py")
        .by(Edge("aws"))
        .on(&[503])
        .when(&[BodyHas(&["<code>serviceunavailable</code>"])])
        .says(&[(Overload, 15)]),
    row("aws: throttled, in a header", "AWS: x-amzn-ErrorType")
        .by(Edge("aws"))
        .when(&[HeaderHas("x-amzn-errortype", "throttl")])
        .says(&[(RateLimit, 28)])
        .processed(No),
];

pub(super) const CLOUDFLARE: &[Signature] = &[
    row("cloudflare: 520", "cloudflare-docs: error-520")
        .by(Edge("cloudflare"))
        .on(&[520])
        .says(&[(BadUpstreamAnswer, 18), (UpstreamUnavailable, 14)])
        .processed(Maybe),
    row("cloudflare: 521", "cloudflare-docs: error-521, refused")
        .by(Edge("cloudflare"))
        .on(&[521])
        .says(&[(UpstreamUnavailable, 25)])
        .processed(No)
        .lasts(Persistent),
    row(
        "cloudflare: 522",
        "cloudflare-docs: error-522; 19 s without a connection, 90 s without an ACK",
    )
    .by(Edge("cloudflare"))
    .on(&[522])
    .says(&[(UpstreamUnavailable, 20), (Overload, 14)])
    .processed(Maybe),
    row(
        "cloudflare: 523",
        "cloudflare-docs: error-523, no route or no name",
    )
    .by(Edge("cloudflare"))
    .on(&[523])
    .says(&[(Configuration, 20), (UpstreamUnavailable, 14)])
    .processed(No),
    row(
        "cloudflare: 524",
        "cloudflare-docs: error-524, 100 to 120 s without an answer",
    )
    .by(Edge("cloudflare"))
    .on(&[524])
    .says(&[(GatewayTimeout, 28)])
    .processed(Maybe),
    row(
        "cloudflare: TLS to the origin",
        "cloudflare-docs: error-525 and error-526",
    )
    .by(Edge("cloudflare"))
    .on(&[525, 526])
    .says(&[(Configuration, 30)])
    .processed(No)
    .lasts(Persistent),
    row(
        "cloudflare: the origin's name or tunnel",
        "cloudflare-docs: error 1016 and 1033",
    )
    .by(Edge("cloudflare"))
    .on(&[530])
    .says(&[(Configuration, 18), (UpstreamUnavailable, 12)])
    .processed(No),
    row("cloudflare: rate limited", "cloudflare-docs: error 1015")
        .by(Edge("cloudflare"))
        .on(&[429])
        .when(&[BodyHas(&["error code: 1015"])])
        .says(&[(RateLimit, 20)])
        .processed(No),
    row(
        "cloudflare: blocked",
        "cloudflare-docs: error 1020, cf-mitigated",
    )
    .by(Edge("cloudflare"))
    .on(&[403, 429, 503])
    .when(&[HeaderHas("cf-mitigated", "challenge")])
    .says(&[(Configuration, 28)])
    .processed(No)
    .lasts(Persistent),
    row(
        "cloudflare: its own 502",
        "cloudflare-docs: error-502-504; a bare page, centred like nginx's",
    )
    .by(Edge("cloudflare"))
    .on(&[502])
    .when(&[BodyHas(&["<center>cloudflare</center>"])])
    .says(&[(UpstreamUnavailable, 14)]),
    row("cloudflare: its own 503", "cloudflare-docs: error-503")
        .by(Edge("cloudflare"))
        .on(&[503])
        .when(&[BodyHas(&[
            "<center>cloudflare</center>",
            "cloudflare-nginx",
        ])])
        .says(&[(Overload, 14)])
        .processed(No),
    row("cloudflare: its own 504", "cloudflare-docs: error-502-504")
        .by(Edge("cloudflare"))
        .on(&[504])
        .when(&[BodyHas(&["<center>cloudflare</center>"])])
        .says(&[(GatewayTimeout, 12)]),
];

pub(super) const GOOGLE: &[Signature] = &[
    row(
        "google: its classic page",
        "Google Cloud: troubleshooting-ext-https-lbs; 502 whatever it is",
    )
    .by(Edge("google"))
    .on(&[502, 503])
    .when(&[BodyHas(&[
        "the server encountered a temporary error and could not complete your request",
    ])])
    .says(&[(UpstreamUnavailable, 20), (GatewayTimeout, 10)])
    .processed(Maybe),
    row("cloud run: no instance", "seen: it scales out")
        .by(Edge("google"))
        .when(&[BodyHas(&[
            "the request was aborted because there was no available instance",
        ])])
        .says(&[(Overload, 25)])
        .processed(No)
        .lasts(Momentary),
    row("cloud run: the instance crashed", "seen")
        .by(Edge("google"))
        .on(&[503])
        .when(&[BodyHas(&[
            "malformed or connection to the instance had an error",
        ])])
        .says(&[(UpstreamUnavailable, 25)])
        .processed(Maybe),
    row("cloud run: rate exceeded", "seen")
        .by(Edge("google"))
        .on(&[429])
        .when(&[BodyBegins("rate exceeded")])
        .says(&[(RateLimit, 15)]),
];

pub(super) const MICROSOFT: &[Signature] = &[
    row(
        "azure front door: too slow",
        "Microsoft: frontdoor/troubleshoot-issues",
    )
    .by(Edge("azure front door"))
    .when(&[BodyHas(&["origintimeout"])])
    .says(&[(GatewayTimeout, 25)])
    .processed(Maybe),
    row(
        "azure front door: a broken answer",
        "Microsoft: frontdoor/troubleshoot-issues",
    )
    .by(Edge("azure front door"))
    .when(&[BodyHas(&["origininvalidresponse"])])
    .says(&[(BadUpstreamAnswer, 25)])
    .processed(Maybe),
    row(
        "azure front door: its own failure",
        "Microsoft: X-Azure-InternalError",
    )
    .by(Edge("azure front door"))
    .when(&[Header("x-azure-internalerror")])
    .says(&[(Overload, 14)]),
    row(
        "azure application gateway: no pool",
        "seen: nginx's page with its name",
    )
    .by(Edge("azure application gateway"))
    .on(&[502])
    .when(&[BodyHas(&["microsoft-azure-application-gateway"])])
    .says(&[(UpstreamUnavailable, 22), (GatewayTimeout, 12)])
    .processed(Maybe),
    row(
        "azure application gateway: too slow",
        "seen: nginx's page with its name",
    )
    .by(Edge("azure application gateway"))
    .on(&[504])
    .when(&[BodyHas(&["microsoft-azure-application-gateway"])])
    .says(&[(GatewayTimeout, 22)])
    .processed(Maybe),
    row("azure: server busy", "Azure services: x-ms-error-code")
        .by(Edge("azure"))
        .when(&[HeaderIs("x-ms-error-code", "serverbusy")])
        .says(&[(Overload, 28)]),
    row(
        "azure: operation timed out",
        "Azure services: x-ms-error-code",
    )
    .by(Edge("azure"))
    .when(&[HeaderIs("x-ms-error-code", "operationtimedout")])
    .says(&[(GatewayTimeout, 25)])
    .processed(Maybe),
    row(
        "iis: its 503",
        "http.sys: pool stopped or queue full; only its log says which",
    )
    .by(Proxy("iis"))
    .on(&[503])
    .when(&[HeaderHas("server", "microsoft-httpapi")])
    .says(&[(UpstreamUnavailable, 14), (Overload, 9)])
    .processed(No),
];

pub(super) const AKAMAI: &[Signature] = &[
    row("akamai: too slow", "seen: ibm-cloud-docs/CDN")
        .by(Edge("akamai"))
        .on(&[504])
        .when(&[HeaderHas("server", "akamaighost")])
        .says(&[(GatewayTimeout, 18)])
        .processed(Maybe),
    row(
        "akamai: TLS to the origin",
        "seen: ibm-cloud-docs/CDN, reference class 30",
    )
    .by(Edge("akamai"))
    .on(&[503])
    .when(&[
        HeaderHas("server", "akamaighost"),
        BodyHas(&["reference&#32;&#35;30&#46;", "reference #30."]),
    ])
    .says(&[(Configuration, 25)])
    .processed(No)
    .lasts(Persistent),
    row("akamai: no origin", "seen: ip-info.xyz")
        .by(Edge("akamai"))
        .on(&[502, 503])
        .when(&[HeaderHas("server", "akamaighost")])
        .says(&[(UpstreamUnavailable, 14)]),
];

pub(super) const PLATFORMS: &[Signature] = &[
    row("heroku: maintenance", "Heroku: error pages")
        .by(Edge("heroku"))
        .on(&[503])
        .when(&[BodyHas(&["herokucdn.com/error-pages/maintenance-mode"])])
        .says(&[(Maintenance, 28)])
        .processed(No)
        .lasts(Persistent),
    row(
        "heroku: application error",
        "Heroku: error pages; H10 to H21 alike",
    )
    .by(Edge("heroku"))
    .on(&[503])
    .when(&[BodyHas(&["herokucdn.com/error-pages/application-error"])])
    .says(&[(UpstreamUnavailable, 20), (ApplicationError, 12)]),
    row("heroku: 30 s", "Heroku: H12, a 503 after exactly 30 s")
        .by(Edge("heroku"))
        .on(&[503])
        .when(&[
            BodyHas(&["herokucdn.com/error-pages/application-error"]),
            Waited(&[30_000]),
        ])
        .says(&[(GatewayTimeout, 22)])
        .processed(Maybe),
    row(
        "digitalocean: no upstream",
        "seen: x-do-failure-code holds Envoy's flag",
    )
    .by(Edge("digitalocean"))
    .when(&[HeaderHas("x-do-failure-msg", "no_healthy_upstream")])
    .says(&[(UpstreamUnavailable, 32)])
    .processed(No)
    .lasts(Persistent),
    row(
        "digitalocean: too slow",
        "seen: x-do-failure-code holds Envoy's flag",
    )
    .by(Edge("digitalocean"))
    .when(&[HeaderIs("x-do-failure-code", "ut")])
    .says(&[(GatewayTimeout, 28)])
    .processed(Maybe),
    row("render: no server", "seen: x-render-routing")
        .by(Edge("render"))
        .when(&[HeaderHas("x-render-routing", "no-server")])
        .says(&[(Configuration, 26)])
        .processed(No),
    row("render: no deploy", "seen: x-render-routing")
        .by(Edge("render"))
        .when(&[HeaderHas("x-render-routing", "no-deploy")])
        .says(&[(UpstreamUnavailable, 28)])
        .processed(No),
    row("render: suspended", "seen: x-render-routing")
        .by(Edge("render"))
        .when(&[HeaderHas("x-render-routing", "suspend")])
        .says(&[(Maintenance, 28)])
        .processed(No)
        .lasts(Persistent),
    row(
        "railway: the application does not answer",
        "seen: x-railway-fallback",
    )
    .by(Edge("railway"))
    .on(&[502])
    .when(&[HeaderIs("x-railway-fallback", "true")])
    .says(&[(UpstreamUnavailable, 25)])
    .processed(No),
    row("railway: no such application", "seen: x-railway-fallback")
        .by(Edge("railway"))
        .on(&[404])
        .when(&[HeaderIs("x-railway-fallback", "true")])
        .says(&[(Configuration, 28)])
        .processed(No)
        .lasts(Persistent),
    row("vercel: too slow", "seen: x-vercel-error")
        .by(Edge("vercel"))
        .when(&[HeaderIs("x-vercel-error", "function_invocation_timeout")])
        .says(&[(GatewayTimeout, 28)])
        .processed(Maybe),
    row("vercel: the function failed", "seen: x-vercel-error")
        .by(Edge("vercel"))
        .when(&[HeaderIs("x-vercel-error", "function_invocation_failed")])
        .says(&[(ApplicationError, 26)])
        .processed(Maybe),
    row("vercel: throttled", "Vercel's list of errors")
        .by(Edge("vercel"))
        .when(&[HeaderIs("x-vercel-error", "function_throttled")])
        .says(&[(Overload, 28), (RateLimit, -6)])
        .processed(No),
    row("vercel: paused", "Vercel's list of errors")
        .by(Edge("vercel"))
        .when(&[HeaderIs("x-vercel-error", "deployment_paused")])
        .says(&[(Maintenance, 28)])
        .processed(No)
        .lasts(Persistent),
];
