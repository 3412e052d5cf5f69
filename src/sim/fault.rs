//! What goes wrong, where, and from when to when. Values only.

use std::ops::Range;
use std::time::Duration;

use crate::budget::Ratio;
use crate::sim::timeline::{SECOND, Time, time};

/// Something that goes wrong for a stretch of time: on all hosts, or the first few.
///
/// A scenario has any number of them, and they may overlap; where two say the speed of a host, the
/// slower one holds.
///
/// # Examples
///
/// ```
/// use evenkeel::budget::Ratio;
/// use evenkeel::sim::Fault;
/// use std::time::Duration;
///
/// let seconds = Duration::from_secs;
/// let half = Fault::speed(Ratio::percent(50)).between(seconds(30), seconds(60));
/// let sick = Fault::unavailable().hosts(1).retry_after(seconds(5));
/// # let _ = (half, sick);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Fault {
    pub(super) kind: Kind,
    pub(super) from: Time,
    pub(super) to: Time,
    /// The first so many.
    pub(super) hosts: usize,
    pub(super) retry_after: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    /// So many more attempts fail.
    Errors(Ratio),
    /// 503 until the end, and the answer says when that is. Work in progress goes on.
    Maintenance,
    /// 503; what was in progress is lost.
    Outage,
    /// 429 above so many attempts in a second.
    Quota(u64),
    /// Hosts work at this speed.
    Speed(Ratio),
    /// Attempts are taken and never answered.
    Stall,
    /// 503. Work in progress goes on.
    Unavailable,
    /// Connections are refused; what was in progress is lost.
    Unreachable,
}

impl Fault {
    /// Hosts answer 503 at once, and what they had in hand is answered 503 and lost.
    pub const fn outage() -> Self {
        Self::of(Kind::Outage)
    }

    /// Hosts refuse connections, and what they had in hand is lost.
    pub const fn unreachable() -> Self {
        Self::of(Kind::Unreachable)
    }

    /// Hosts answer 503 at once. What they have in hand they finish.
    pub const fn unavailable() -> Self {
        Self::of(Kind::Unavailable)
    }

    /// Hosts answer 503 with a `Retry-After` that names the end, in whole seconds. What they have in hand
    /// they finish.
    pub const fn maintenance() -> Self {
        Self::of(Kind::Maintenance)
    }

    /// Hosts take what comes and never answer it.
    pub const fn stall() -> Self {
        Self::of(Kind::Stall)
    }

    /// Hosts work at this share of their speed, for what begins from then on. 50 %: half the capacity.
    /// Zero makes no sense.
    pub const fn speed(share: Ratio) -> Self {
        Self::of(Kind::Speed(share))
    }

    /// So large a share of attempts fails with a 503 by chance, on top of other errors.
    pub const fn errors(share: Ratio) -> Self {
        Self::of(Kind::Errors(share))
    }

    /// What arrives above so many attempts in a second, of all clients, is answered 429, with a
    /// `Retry-After` of a second.
    pub const fn quota(per_second: u64) -> Self {
        Self {
            retry_after: Some(SECOND),
            ..Self::of(Kind::Quota(per_second))
        }
    }

    /// From when to when, since the beginning. Default: from 30 s to 60 s.
    pub const fn between(mut self, from: Duration, to: Duration) -> Self {
        (self.from, self.to) = (time(from), time(to));
        self
    }

    /// Only the first so many hosts. Default: all. A quota is for all of them together.
    pub const fn hosts(mut self, hosts: usize) -> Self {
        self.hosts = hosts;
        self
    }

    /// What its answers say in `Retry-After`. Default: nothing, but for maintenance and quotas.
    pub const fn retry_after(mut self, length: Duration) -> Self {
        self.retry_after = Some(time(length));
        self
    }

    /// From when to when.
    #[must_use]
    pub const fn stretch(&self) -> Range<Duration> {
        Duration::from_micros(self.from)..Duration::from_micros(self.to)
    }

    const fn of(kind: Kind) -> Self {
        Self {
            kind,
            from: 30 * SECOND,
            to: 60 * SECOND,
            hosts: usize::MAX,
            retry_after: None,
        }
    }

    /// Whether an omniscient client would send to a host that has this.
    pub(super) const fn is_down(&self) -> bool {
        match self.kind {
            Kind::Maintenance
            | Kind::Outage
            | Kind::Stall
            | Kind::Unavailable
            | Kind::Unreachable => true,
            Kind::Errors(_) | Kind::Quota(_) | Kind::Speed(_) => false,
        }
    }

    /// Whether what a host has in hand is lost when it begins.
    pub(super) const fn loses_work(&self) -> bool {
        matches!(self.kind, Kind::Outage | Kind::Unreachable)
    }
}
