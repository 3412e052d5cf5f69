//! What a set of endpoints tells: states, changes, numbers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::endpoint::{Endpoint, Id};

/// The state an endpoint is in.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum State {
    /// It is asked no more, for so much longer.
    Ejected {
        /// In how long a call probes it. Zero: the next one does.
        left: Duration,
    },
    /// It gets its share.
    Healthy,
    /// One call is out to see whether it is well again.
    Probing,
    /// It came back, or is new, and gets only a part of its share.
    Returning {
        /// Which part, above 0 and below 1.
        share: f64,
    },
}

/// A change of an endpoint's state. Exactly one caller is told of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// It is asked no more for a while.
    Ejected {
        /// Which.
        endpoint: Id,
        /// Why.
        why: Why,
        /// For how long.
        length: Duration,
    },
    /// A call goes there to see whether it is well again.
    Probing {
        /// Which.
        endpoint: Id,
    },
    /// It is well again, and gets more by and by.
    Returned {
        /// Which.
        endpoint: Id,
    },
}

impl Change {
    /// Which endpoint it is about.
    #[must_use]
    pub const fn endpoint(&self) -> Id {
        match self {
            Self::Ejected { endpoint, .. }
            | Self::Probing { endpoint }
            | Self::Returned { endpoint } => *endpoint,
        }
    }
}

/// Why an endpoint is asked no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Why {
    /// Its answer asked for quiet, while others did well.
    Asked,
    /// So many failures in a row, while others answered.
    ConsecutiveFailures,
    /// A larger share of its calls failed than of the others'.
    FailureShare,
    /// The probe failed.
    ProbeFailed,
    /// The probe didn't come back in time.
    ProbeLost,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asked => "asked for quiet",
            Self::ConsecutiveFailures => "failures in a row",
            Self::FailureShare => "share of failures",
            Self::ProbeFailed => "probe failed",
            Self::ProbeLost => "probe lost",
        })
    }
}

/// An endpoint at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// Which.
    pub id: Id,
    /// What it is called and where it is.
    pub endpoint: Arc<Endpoint>,
    /// Whether it is asked.
    pub state: State,
    /// Attempts under way there.
    pub in_flight: u32,
    /// What an answer is expected to take. `None`: nothing is known yet.
    pub latency: Option<Duration>,
    /// The share of failures of late, from 0 to 1.
    pub failures: f64,
    /// How often it was ejected, failed probes not counted.
    pub ejections: u64,
}
