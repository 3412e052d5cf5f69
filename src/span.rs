//! The span around an attempt, with the names of OpenTelemetry's conventions.

use tracing::callsite::{DefaultCallsite, Identifier};
use tracing::field::{Empty, FieldSet, display};
use tracing::level_filters::{LevelFilter, STATIC_MAX_LEVEL};
use tracing::metadata::Kind;
use tracing::{Level, Metadata, Span, dispatcher};

use crate::endpoints::Endpoint;
use crate::verdict::Verdict;

/// What the span of an attempt says of its request. Few different words in each field, and nothing
/// secret: no path, no query, no user name.
///
/// # Examples
///
/// ```
/// use evenkeel::event::Described;
///
/// let query = Described::new().method("SELECT").address("orders.internal").port(5432);
/// assert_eq!(query, query.clone());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "it says nothing until a span is made of it"]
pub struct Described<'a> {
    method: Option<&'a str>,
    scheme: Option<&'a str>,
    address: Option<&'a str>,
    port: Option<u16>,
}

impl<'a> Described<'a> {
    /// Nothing is known.
    pub const fn new() -> Self {
        Self {
            method: None,
            scheme: None,
            address: None,
            port: None,
        }
    }

    /// What is asked: `http.request.method`, and the name of the span. Default: none, and the span is
    /// called `attempt`.
    pub const fn method(mut self, method: &'a str) -> Self {
        self.method = Some(method);
        self
    }

    /// `url.scheme`. Default: none.
    pub const fn scheme(mut self, scheme: &'a str) -> Self {
        self.scheme = Some(scheme);
        self
    }

    /// The host: `server.address`. Default: none.
    pub const fn address(mut self, address: &'a str) -> Self {
        self.address = Some(address);
        self
    }

    /// Its port: `server.port`. Default: none.
    pub const fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// The same request, sent to this endpoint.
    fn at(mut self, endpoint: &'a Endpoint) -> Self {
        let Some(authority) = endpoint.authority() else {
            return self;
        };
        if let Some(scheme) = endpoint.scheme() {
            self.scheme = Some(scheme.as_str());
        }
        let usual = self.scheme.and_then(usual_port);
        self.address = Some(authority.host());
        self.port = authority.port_u16().or(usual);
        self
    }
}

/// The port that a scheme has where none is written.
pub(crate) fn usual_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// The span of an attempt under way, if anybody wants one: one word, for most calls none.
pub(crate) type AttemptSpan = Option<Box<Span>>;

/// Whether a span may be wanted: a comparison. Where somebody listens at that level it may be to others: then
/// these spans are asked for by name, target and fields, and what that says is remembered.
#[inline]
pub(crate) fn may_be_wanted() -> bool {
    Level::DEBUG <= STATIC_MAX_LEVEL && Level::DEBUG <= LevelFilter::current() && is_wanted()
}

#[cold]
fn is_wanted() -> bool {
    let interest = PLACE.interest();
    interest.is_always() || !interest.is_never() && dispatcher::get_default(|it| it.enabled(&KIND))
}

/// Where a span would be opened, as those see it who may want it.
static PLACE: DefaultCallsite = DefaultCallsite::new(&KIND);

static KIND: Metadata<'static> = Metadata::new(
    "attempt",
    TARGET,
    Level::DEBUG,
    None,
    None,
    None,
    FieldSet::new(&FIELDS, Identifier(&PLACE)),
    Kind::SPAN,
);

/// What [`open`] says.
const FIELDS: [&str; 11] = [
    "otel.name",
    "otel.kind",
    "otel.status_code",
    "http.request.method",
    "url.scheme",
    "server.address",
    "server.port",
    "http.request.resend_count",
    "http.response.status_code",
    "error.type",
    "call",
];

/// The span of an attempt that begins, if it is wanted.
#[cold]
pub(crate) fn open(
    call: u64,
    number: u32,
    described: Described<'_>,
    endpoint: Option<&Endpoint>,
) -> AttemptSpan {
    let described = match endpoint {
        Some(endpoint) => described.at(endpoint),
        None => described,
    };
    let span = tracing::span!(
        target: TARGET,
        Level::DEBUG,
        "attempt",
        "otel.name" = described.method.unwrap_or("attempt"),
        "otel.kind" = "client",
        "otel.status_code" = Empty,
        "http.request.method" = described.method,
        "url.scheme" = described.scheme,
        "server.address" = described.address,
        "server.port" = described.port,
        "http.request.resend_count" = number.checked_sub(1).filter(|count| *count > 0),
        "http.response.status_code" = Empty,
        "error.type" = Empty,
        "call" = call,
    );
    (!span.is_disabled()).then(|| Box::new(span))
}

/// The attempt's outcome is known, and the span is over.
#[cold]
pub(crate) fn close(span: &Span, verdict: Verdict, status: Option<u16>) {
    if let Some(status) = status {
        span.record("http.response.status_code", status);
    }
    if !verdict.is_success() {
        span.record("error.type", display(verdict.error_type()));
        span.record("otel.status_code", "ERROR");
    }
}

const TARGET: &str = "evenkeel::attempt";
