//! A request of one's own, to find out whether a service is well again.
//!
//! A breaker that was open, and a window that was told to be quiet, have to find out when that is
//! over, and what they send to find out is somebody's call: it may fail or take its whole timeout, and
//! the less a service is called the longer nobody knows. A [`Check`] sends something cheaper that nobody
//! waits for, a health endpoint's request perhaps, where and when it is of use. It is an attempt like
//! any other: it goes through the pipeline's gates, and breaker, window, limits, health and endpoints
//! are told what came of it, by the same verdict as ever.
//!
//! # Example
//!
//! ```
//! use evenkeel::check::Check;
//! use evenkeel::{Breaker, Key, Keyed, Pipeline};
//! use std::time::Duration;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! # async fn ping() -> Result<(), std::io::Error> { Ok(()) }
//! let pipeline = Pipeline::new().breaker(Keyed::new(Breaker::new()));
//! let check = Check::every(Duration::from_secs(2)).timeout(Duration::from_millis(500));
//! let checks = pipeline.checks(Key::of("ledger"), check, |_attempt| ping()).unwrap();
//! let task = tokio::spawn(checks); // it checks for as long as it runs
//! # task.abort();
//! # }
//! ```
//!
//! A tower service under a pipeline has checks of its own, `Guarded::checks`: they send what a
//! closure makes. For reqwest the operation is `|_| client.get(url).send()`, and the key
//! [`service_key`](crate::http::service_key); it should read the body, if there is one.
//!
//! # When it goes
//!
//! Only when it is needed: the key's breaker is not closed, its window is limited, its
//! [`Health`](crate::diagnosis::Health) is not good, or one of its endpoints is ejected. And then only if
//! calls don't tell as much:
//!
//! | because of | it goes |
//! |---|---|
//! | a breaker | when the cooldown is over |
//! | a window | when nothing else went for an interval, before those that are parked; in a quiet, as the first when it ends |
//! | health | when no attempt ended for an interval |
//! | an endpoint | when its ejection is over, unless a call was there first |
//!
//! Never sooner than an interval after the last check ended, or than its answer asked for by a
//! `Retry-After`; never two of one key at once. While it isn't needed it looks once in an interval
//! whether it is.
//!
//! # Whose call is at risk
//!
//! Nobody's, as far as the breaker goes: while a check runs, half-open probes are left to it, and calls
//! are refused until it has closed the breaker. So an interval that is much longer than the cooldown
//! keeps calls out for longer than without a check. The same goes for a check that fails though the
//! service is well: choose one that doesn't. [`share_probes`](Check::share_probes) lets calls probe as well.
//! If nobody polls the check any more, or it is refused by something other than the breaker, calls
//! probe as ever. (A key that isn't called yet gets its breaker from the check, so that this holds from
//! its first call on.)
//!
//! A window that is limited but not quiet goes on probing with calls where that is more often than
//! the interval: then they know sooner.
//!
//! A health endpoint may be well while the service behind it is not. So a check that passes does no
//! more than any other good answer: the breaker wants as many good probes as
//! [`close_after`](crate::Breaker::close_after) says, and then comes back over its ramp; the window grows by
//! one answer. The calls that go then have their say. Nobody learns from a check how long answers take,
//! and so a slow one isn't slow to a breaker: that is what [`timeout`](Check::timeout) is for. An answer that
//! calls the request wrong, such as a 404, is a good one here as elsewhere: see that the endpoint exists.
//!
//! # What it doesn't do
//!
//! It isn't repeated when it fails, and neither earns nor spends [budget](crate::budget). The
//! [throttle](crate::throttle) doesn't shed or count it, and a limited window doesn't take it for
//! demand. It goes no faster than the window's pace, which for seldom called services is slow. It spawns
//! nothing: a [`Checks`] is a future, and whoever polls it lets it run.
//!
//! # Defaults
//!
//! | setting | default | why |
//! |---|---|---|
//! | [`every`](Check::every) | none | it depends on what a check costs the service; a breaker's cooldown is a good value |
//! | [`jitter`](Check::jitter) | 20 % | clients that began together drift apart |
//! | [`timeout`](Check::timeout) | the pipeline's attempt timeout, or 10 s | what answers later is of no use to calls either |
//!
//! # Events
//!
//! [`Event::Checked`](crate::Event::Checked) for each, and [`Event::Changed`](crate::Event::Changed) for what it
//! changed. None of those that are told of calls, so nobody counts it as one. In `tracing` it is a span
//! named `check` around whatever it does.
//!
//! # How it composes
//!
//! Each key has its own, and one only: two would take each other's reservation. Each client has its own
//! too: a fleet of a hundred clients checks a hundred times. It looks
//! at the pipeline's policies as they are, so a [reload](crate::Pipeline::reload) changes what it looks at.
//! Waiting in line for a rate limit or a bulkhead it stands where it comes; what it waits for in a
//! window's line, it waits for at the head.

mod plan;
mod run;

use std::fmt;
use std::time::Duration;

use crate::budget::Ratio;
use crate::error::ConfigError;

pub use run::{Checks, Make};

/// How often a service is checked that may not be well; see the [module](self).
///
/// # Examples
///
/// ```
/// use evenkeel::check::Check;
/// use evenkeel::budget::Ratio;
/// use std::time::Duration;
///
/// let check = Check::every(Duration::from_secs(5)).jitter(Ratio::percent(50));
/// assert!(check.check().is_ok());
/// assert!(Check::every(Duration::ZERO).check().is_err());
/// ```
#[derive(Clone, Copy)]
#[must_use = "a check does nothing until a pipeline has it"]
pub struct Check {
    every: Duration,
    jitter: Ratio,
    timeout: Option<Duration>,
    /// Before calls.
    first: bool,
}

impl Check {
    /// At most one check in this time, from the end of one to the beginning of the next. At least 1 ns.
    pub const fn every(interval: Duration) -> Self {
        Self {
            every: interval,
            jitter: JITTER,
            timeout: None,
            first: true,
        }
    }

    /// By how much intervals are longer: each by a share of its own from nothing up to this, inclusive.
    /// Zero: all are the same. Default: 20 %.
    pub const fn jitter(mut self, share: Ratio) -> Self {
        self.jitter = share;
        self
    }

    /// A check ends within this time, or the pipeline's attempt timeout if that is less. At least 1 ns.
    /// Waiting in line doesn't count. Default: the pipeline's attempt timeout, or 10 s without one.
    pub const fn timeout(mut self, length: Duration) -> Self {
        self.timeout = Some(length);
        self
    }

    /// Calls probe as well, whoever comes first, and the check waits in line like them: for checks
    /// that may fail where calls don't. Default: while it runs, a breaker's probes are left to the check,
    /// and it goes before the calls that a window parks.
    pub const fn share_probes(mut self) -> Self {
        self.first = false;
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// An interval or a timeout of zero.
    pub const fn check(&self) -> Result<(), ConfigError> {
        if self.every.is_zero() {
            return Err(ConfigError::new("check.every", "must not be zero"));
        }
        match self.timeout {
            Some(Duration::ZERO) => Err(ConfigError::new("check.timeout", "must not be zero")),
            _ => Ok(()),
        }
    }

    /// How long one may take where attempts may take as long as this.
    fn timeout_within(&self, attempt: Option<Duration>) -> Duration {
        match (self.timeout, attempt) {
            (Some(own), Some(attempt)) => own.min(attempt),
            (own, attempt) => own.or(attempt).unwrap_or(TIMEOUT),
        }
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check")
            .field("every", &self.every)
            .field("jitter", &self.jitter)
            .field("timeout", &self.timeout)
            .field("shares_probes", &!self.first)
            .finish()
    }
}

/// Enough for clients to drift apart.
const JITTER: Ratio = Ratio::percent(20);

/// Where neither the check nor the pipeline says how long an attempt may take.
const TIMEOUT: Duration = Duration::from_secs(10);
