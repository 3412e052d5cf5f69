//! An outage before it happens: clients with real pipelines against simulated services.
//!
//! Retry policies are mostly tuned by guess, and the guess is found out in the outage. What goes wrong then
//! is seldom one client's doing: it is what a fleet of them does to a service that can't take it,
//! and no unit test of one client shows that. Here an outage takes milliseconds. A [`Scenario`]
//! says how many clients there are, how requests come, what serves them and what goes wrong; a
//! [`Policy`] makes the pipeline of each client, of the same parts that production uses, for they
//! are driven, not modelled; and a [`Report`] tells what came of it, second by second.
//!
//! Time is simulated, and chance is drawn from a seed: the same seed gives the same run, to the bit, on any
//! number of threads.
//!
//! # Example
//!
//! ```
//! use evenkeel::sim::{Policy, scenarios};
//! use std::time::Duration;
//!
//! let overload = scenarios::s2().until(Duration::from_secs(75));
//! let attainable = overload.oracle(1)?.unwrap();
//! let retries = overload.run(&Policy::full_jitter(), 1)?;
//! let window = overload.run(&Policy::evenkeel(), 1)?;
//!
//! assert!(retries.share_of(&attainable) < 0.5); // and it won't recover
//! assert_eq!(retries.recovery(), None);
//! assert!(window.share_of(&attainable) > 0.8);
//! assert!(window.recovery() <= Some(Duration::from_secs(3)));
//! # Ok::<(), evenkeel::ConfigError>(())
//! ```
//!
//! # What there is
//!
//! | to say | use |
//! |---|---|
//! | what is called | [`Service`]: hosts, workers, [`Queue`], [`ServiceTime`]; or a [`Backend`] of one's own |
//! | who calls | [`Scenario::clients`], [`Load`]: open or closed loop |
//! | what goes wrong | [`Fault`]: down, refusing, slow, half capacity, `Retry-After`, quota, one host of ten, maintenance |
//! | what clients do about it | [`Policy`]: the default, the classical ones, one's own |
//! | what could be had at best | [`Scenario::oracle`] |
//! | many runs at once | [`play`] |
//!
//! [`scenarios`] has outages by name. `examples/outage` plays them and draws what came of it;
//! `examples/tune` looks for better parameters.
//!
//! # What it is true to
//!
//! The world reproduces an independent implementation of the same scenarios in every count, and meets the
//! closed forms of queueing theory (M/M/1, M/M/c) and the published order of jitter strategies
//! among competing clients; tests hold it to both.
//!
//! # What it is not
//!
//! Requests are all alike, clients of one run have the same share of the load, the network has no limits,
//! and a host is a number of workers and a queue. On platforms of less than 64 bits chance in the
//! pipelines is drawn from another generator, and runs differ from those elsewhere.

mod arrivals;
mod draws;
mod fault;
mod fleet;
mod oracle;
mod play;
mod policies;
mod report;
mod scenario;
pub mod scenarios;
mod service;
#[cfg(test)]
mod tests;
mod timeline;
mod world;

use std::fmt;
use std::time::Duration;

use http::StatusCode;

use crate::error::ConfigError;
use crate::http::status_verdict;
use crate::pipeline::Pipeline;
use crate::verdict::{Classify, Hint, Label, Processed, Verdict};

pub use fault::Fault;
pub use oracle::Attainable;
pub use play::{Job, play};
pub use policies::Policy;
pub use report::{Cause, Cohort, Counts, Report, Request, Second};
pub use scenario::{Balancer, Load, Scenario};
pub use service::{Arrival, Backend, Handling, Queue, Service, ServiceTime};

/// The pipeline of one client.
pub type Client = Pipeline<Reading>;

/// What an attempt comes to.
type Answer = Result<(), Failure>;

/// What a client may get instead of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// The connection was refused: nothing was sent.
    Connection,
    /// The connection broke: nobody knows what became of the request.
    Reset,
    /// A status, and what the answer said in `Retry-After`.
    Status {
        /// The status.
        code: StatusCode,
        /// What the answer asked for, if it asked for anything.
        retry_after: Option<Duration>,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection => f.write_str("connection refused"),
            Self::Reset => f.write_str("connection reset"),
            Self::Status { code, .. } => write!(f, "status {code}"),
        }
    }
}

impl std::error::Error for Failure {}

/// What simulated outcomes mean: the same as those of HTTP.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Reading;

impl Classify<(), Failure> for Reading {
    fn classify(&self, outcome: Result<&(), &Failure>) -> Verdict {
        let named = |name| Verdict::transient().label(Label::Name(name));
        match outcome {
            Ok(()) => Verdict::success(),
            Err(Failure::Connection) => named("connect").processed(Processed::No),
            Err(Failure::Reset) => named("reset").processed(Processed::Maybe),
            Err(Failure::Status { code, retry_after }) => {
                let verdict = status_verdict(*code);
                retry_after.map_or(verdict, |length| verdict.hint(Hint::After(length)))
            }
        }
    }
}

impl Scenario {
    /// Plays the scenario with clients that follow this policy.
    ///
    /// Runs on the calling thread, and takes some 1.3 s for a million attempts.
    ///
    /// # Errors
    ///
    /// Settings of the scenario or of the policy that make no sense.
    ///
    /// # Examples
    ///
    /// See [`Scenario`].
    pub fn run(&self, policy: &Policy, seed: u64) -> Result<Report, ConfigError> {
        fleet::run(self, policy, seed)
    }

    /// What could be had at best, with the same arrivals: one queue for all clients; nothing is sent but
    /// to free workers of live hosts, and nothing that can't be answered in time. `None` where nobody
    /// could know that: for closed loops and for services of one's own.
    ///
    /// It knows nothing of errors by chance, and never loses by them. It is no bound in every world: it
    /// gives a worker the next request a round trip after the last, so where the network takes as long
    /// as the service real clients, whose requests queue at the host, get more; and it drops what
    /// has less than three mean service times left, which some would have survived.
    ///
    /// # Errors
    ///
    /// Settings of the scenario that make no sense.
    pub fn oracle(&self, seed: u64) -> Result<Option<Attainable>, ConfigError> {
        oracle::run(self, seed)
    }
}
