//! The words of a diagnosis: what was the matter, who says so, and for how long.

use std::fmt;
use std::time::Duration;

/// What was the matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Cause {
    /// The application's own failure, or its refusal of this request.
    ApplicationError,
    /// What came back is no valid answer: a gateway says so of its upstream, or the client saw it.
    BadUpstreamAnswer,
    /// A mistake in a configuration, a name or a certificate: it stays until somebody mends it.
    Configuration,
    /// The client's own connection failed: refused, reset, closed, unreachable.
    ConnectionFailure,
    /// A gateway passed the request on and gave up waiting for the answer.
    GatewayTimeout,
    /// Switched off on purpose, for a while.
    Maintenance,
    /// A capacity that all share is used up.
    Overload,
    /// The client's own time limit ended the attempt. It blames nobody.
    OwnTimeout,
    /// This client, or its key, went over what it is allowed.
    RateLimit,
    /// The evidence doesn't tell, or points both ways.
    #[default]
    Unknown,
    /// A gateway has no working upstream, or the upstream broke the connection.
    UpstreamUnavailable,
}

impl Cause {
    /// All of them, in the order of their names.
    pub const ALL: [Self; 11] = [
        Self::ApplicationError,
        Self::BadUpstreamAnswer,
        Self::Configuration,
        Self::ConnectionFailure,
        Self::GatewayTimeout,
        Self::Maintenance,
        Self::Overload,
        Self::OwnTimeout,
        Self::RateLimit,
        Self::Unknown,
        Self::UpstreamUnavailable,
    ];

    /// The cause in snake case, for labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ApplicationError => "application_error",
            Self::BadUpstreamAnswer => "bad_upstream_answer",
            Self::Configuration => "configuration",
            Self::ConnectionFailure => "connection_failure",
            Self::GatewayTimeout => "gateway_timeout",
            Self::Maintenance => "maintenance",
            Self::Overload => "overload",
            Self::OwnTimeout => "own_timeout",
            Self::RateLimit => "rate_limit",
            Self::Unknown => "unknown",
            Self::UpstreamUnavailable => "upstream_unavailable",
        }
    }

    /// What to look at next, the likeliest first.
    #[must_use]
    pub const fn checks(self) -> &'static [&'static str] {
        match self {
            Self::ApplicationError => &[
                "the application's own log at the time of the first failure: it saw the request and failed it",
                "what was deployed or configured just before",
                "the database and whatever else the service calls",
            ],
            Self::BadUpstreamAnswer => &[
                "the proxy's own log: it names what it got from upstream",
                "that both ends speak the same protocol on that port: TLS or not, HTTP/1 or HTTP/2",
                "whether the service's processes crash while they answer: out of memory, failed probes",
            ],
            Self::Configuration => &[
                "what was changed last: names, routes, ports, methods",
                "the certificate: its date, its name, its chain",
                "that the service's name resolves, from where this client runs",
            ],
            Self::ConnectionFailure => &[
                "whether the service's port listens, and how many hosts are behind its name",
                "firewalls, security groups and network policies that changed",
                "that the client keeps idle connections for a shorter time than the server does",
            ],
            Self::GatewayTimeout => &[
                "the slowest thing that the service itself waits for: a database, a lock, another service",
                "the gateway's time limit, against the time the service needs when all is well",
                "requests in the service's queue: it may work on what nobody waits for any more",
            ],
            Self::Maintenance => &[
                "the service's status page and its planned work: until when",
                "whether the page is meant: some load balancers show it when no server is left",
            ],
            Self::Overload => &[
                "the service's load, queue and number of hosts, against the number of its calls",
                "which caller's traffic grew just before",
                "limits in front of it that are lower than what it can do",
            ],
            Self::OwnTimeout => &[
                "whether the service got slow for all, or this client's timeout is too short for it",
                "the network between them: packets may be dropped without an answer",
                "this client's own host: a busy processor or a blocked runtime looks the same",
            ],
            Self::RateLimit => &[
                "the quota of this client, and who else uses the same credentials or address",
                "which of this client's jobs calls more often than it used to",
            ],
            Self::Unknown => &[
                "the error itself, and the service's log at the time of the first failure",
                "the body of an answer: a diagnosis that sees it tells more",
            ],
            Self::UpstreamUnavailable => &[
                "the servers behind the gateway: are they up, do they pass its checks",
                "that they accept connections from it: ports, firewalls, limits",
                "whether a deployment took them away, or they crash and restart",
                "that they keep idle connections open for longer than the gateway does",
            ],
        }
    }

    /// What the client, or who runs it, can do about it meanwhile, in a sentence or two.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::ApplicationError => {
                "repeat only what is idempotent, and a few times at most: the application has to \
                 be mended"
            }
            Self::BadUpstreamAnswer => {
                "repeat what is idempotent, for another server may answer well; the work may have \
                 been done"
            }
            Self::Configuration => {
                "stop retrying: it stays as it is until somebody mends it, and nothing the client \
                 does can"
            }
            Self::ConnectionFailure => {
                "repeat within the budget: where there was no connection nothing was sent, so any \
                 request may go again"
            }
            Self::GatewayTimeout => {
                "repeat only what is idempotent, for the work may have been done, and send less: \
                 whoever is late has too much to do"
            }
            Self::Maintenance => {
                "wait for the announced end, and tell callers of it; trying sooner brings nothing"
            }
            Self::Overload => {
                "send less: leave the congestion window on, lower concurrency, and put off what \
                 can wait"
            }
            Self::OwnTimeout => {
                "compare the timeout with the service's usual latency: if that has grown send \
                 less, else the limit is too tight"
            }
            Self::RateLimit => {
                "slow down to what the service allows (a rate limit learns it), share one client \
                 per key, or ask for a higher quota"
            }
            Self::Unknown => {
                "collect more answers: health per service tells apart what one answer can't, and \
                 a signature of your own names what your proxies say"
            }
            Self::UpstreamUnavailable => {
                "repeat within the budget, for servers come back; a window or a breaker keeps the \
                 rest away meanwhile"
            }
        }
    }

    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ApplicationError => "application error",
            Self::BadUpstreamAnswer => "bad upstream answer",
            Self::Configuration => "configuration",
            Self::ConnectionFailure => "connection failure",
            Self::GatewayTimeout => "gateway timeout",
            Self::Maintenance => "maintenance",
            Self::Overload => "overload",
            Self::OwnTimeout => "own timeout",
            Self::RateLimit => "rate limit",
            Self::Unknown => "unknown cause",
            Self::UpstreamUnavailable => "upstream unavailable",
        })
    }
}

/// Who made what the client saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Origin {
    /// The application, its answer passed on or direct.
    Application,
    /// The client itself.
    Client,
    /// A platform's or a network's edge, by name.
    Edge(&'static str),
    /// Nobody who speaks HTTP: the connection itself.
    Network,
    /// A proxy or a gateway, by name.
    Proxy(&'static str),
    /// Nothing tells.
    #[default]
    Unknown,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Application => "the application",
            Self::Client => "the client",
            Self::Edge(name) | Self::Proxy(name) => name,
            Self::Network => "the network",
            Self::Unknown => "nobody knows whom",
        })
    }
}

/// How long it is likely to last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Persistence {
    /// As long as this from the answer on: the server said so.
    Announced(Duration),
    /// The same request would soon get through with nobody doing anything.
    Momentary,
    /// Until somebody or something changes it.
    Persistent,
    /// Nothing tells.
    #[default]
    Unknown,
}

impl fmt::Display for Persistence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Announced(length) => write!(f, "for {} s", length.as_secs()),
            Self::Momentary => f.write_str("momentary"),
            Self::Persistent => f.write_str("persistent"),
            Self::Unknown => f.write_str("nobody knows how long"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_its_own_place_name_and_advice() {
        for (place, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(cause.index(), place);
            assert!(cause.advice().len() > 40);
            assert!(cause.checks().len() >= 2);
            let same = |other: &&Cause| {
                other.as_str() == cause.as_str()
                    || other.advice() == cause.advice()
                    || other.checks()[0] == cause.checks()[0]
            };
            assert_eq!(Cause::ALL.iter().filter(same).count(), 1);
        }
        assert!(Cause::ALL.is_sorted_by_key(|it| it.as_str()));
    }
}
