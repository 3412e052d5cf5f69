//! Why an attempt failed, as far as its verdict tells: the one place where a cause comes in.
//!
//! Whoever knows better gives [`of`] another body, or [`Cause`] another definition; all else here only
//! compares causes, prints them, and asks for their [`checks`].

use std::fmt;

use crate::verdict::{Kind, Label, Verdict};

/// Why an attempt failed, as far as its verdict tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// The service's own code failed: a 500.
    ApplicationError,
    /// A proxy got no answer it could use from the service: a 502, a 520.
    BadUpstreamAnswer,
    /// Names, certificates or routes: DNS, TLS, a 501, a 526.
    Configuration,
    /// There was no connection, or it broke.
    ConnectionFailure,
    /// A proxy waited for the service in vain: a 504, a 524.
    GatewayTimeout,
    /// The service has too much to do, or says so: a 503, a 529.
    Overload,
    /// This client is over what it is allowed: a 429.
    RateLimit,
    /// The client's own timeout ended it.
    OwnTimeout,
    /// Nothing is known but that it failed.
    Unknown,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ApplicationError => "application error",
            Self::BadUpstreamAnswer => "bad upstream answer",
            Self::Configuration => "configuration",
            Self::ConnectionFailure => "connection failure",
            Self::GatewayTimeout => "gateway timeout",
            Self::Overload => "overload",
            Self::RateLimit => "rate limit",
            Self::OwnTimeout => "own timeout",
            Self::Unknown => "unknown cause",
        })
    }
}

/// What to look at next, the likeliest first.
#[must_use]
pub const fn checks(cause: Cause) -> &'static [&'static str] {
    match cause {
        Cause::ApplicationError => &[
            "the service's own log of errors at the time of the first failure",
            "what was deployed or configured just before",
            "the database and whatever else the service calls",
        ],
        Cause::BadUpstreamAnswer => &[
            "whether the service's processes crash or restart: out of memory, failed probes",
            "the proxy's own log: it names what it got from upstream",
            "that the service keeps idle connections open for longer than the proxy does",
        ],
        Cause::Configuration => &[
            "the certificate: its date, its name, its chain",
            "that the service's name resolves, from where this client runs",
            "routes and methods that changed with the last deployment",
        ],
        Cause::ConnectionFailure => &[
            "whether the service's port listens, and how many hosts are behind its name",
            "firewalls, security groups and network policies that changed",
            "whether hosts were taken away while connections to them were still open",
        ],
        Cause::GatewayTimeout => &[
            "the slowest thing that the service itself waits for: a database, a lock, another service",
            "the proxy's timeout, against the time the service needs when all is well",
            "requests in the service's queue: it may work on what nobody waits for any more",
        ],
        Cause::Overload => &[
            "the service's load, queue and number of hosts, against the number of its calls",
            "which caller's traffic grew just before",
            "whether it is maintenance: a service's status page, its planned work",
        ],
        Cause::RateLimit => &[
            "the quota of this client, and who else uses the same credentials",
            "which of this client's jobs calls more often than it used to",
        ],
        Cause::OwnTimeout => &[
            "whether the service got slow for all, or this client's timeout is too short for it",
            "the network between them: packets may be dropped without an answer",
            "this client's own host: a busy processor or a blocked runtime looks the same",
        ],
        Cause::Unknown => &[
            "the error itself: a classifier that knows it gives a better cause",
            "the service's log at the time of the first failure",
        ],
    }
}

/// The cause of a failed attempt. `None`: the request's own fault, of which the service has no part.
pub(super) fn of(verdict: Verdict) -> Option<Cause> {
    let by_name = match verdict.error_type() {
        Label::Status(status) => match status {
            429 => Some(Cause::RateLimit),
            500 => Some(Cause::ApplicationError),
            502 | 520 => Some(Cause::BadUpstreamAnswer),
            503 | 529 => Some(Cause::Overload),
            504 | 524 => Some(Cause::GatewayTimeout),
            521..=523 => Some(Cause::ConnectionFailure),
            _ => None,
        },
        Label::Name(name) => match name.strip_prefix("injected_").unwrap_or(name) {
            "connect" | "lost" | "reset" | "unreachable" => Some(Cause::ConnectionFailure),
            "dns" | "tls" => Some(Cause::Configuration),
            "hang" | "timeout" => Some(Cause::OwnTimeout),
            _ => None,
        },
        Label::None => None,
    };
    let by_kind = match verdict.kind() {
        Kind::RequestFault | Kind::Success => return None,
        Kind::Overloaded => Cause::Overload,
        Kind::RateLimited => Cause::RateLimit,
        Kind::TargetFault => Cause::Configuration,
        Kind::Transient => Cause::Unknown,
    };
    Some(by_name.unwrap_or(by_kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_more_than_a_kind_and_a_requests_own_fault_has_no_cause() {
        let transient = |label| of(Verdict::transient().label(label));
        assert_eq!(transient(Label::Status(504)), Some(Cause::GatewayTimeout));
        assert_eq!(transient(Label::Name("dns")), Some(Cause::Configuration));
        assert_eq!(
            transient(Label::Name("injected_hang")),
            Some(Cause::OwnTimeout)
        );
        assert_eq!(transient(Label::Name("novel")), Some(Cause::Unknown));
        assert_eq!(of(Verdict::new(Kind::Overloaded)), Some(Cause::Overload));
        assert_eq!(
            of(Verdict::new(Kind::TargetFault)),
            Some(Cause::Configuration)
        );
        let request = Verdict::new(Kind::RequestFault).label(Label::Status(429));
        assert_eq!(of(request), None);
    }
}
