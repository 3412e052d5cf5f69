//! What a call did: its attempts, its waits, and why it stopped.

use std::fmt;
use std::time::{Duration, Instant};

use crate::diagnosis::{Cause, Diagnosis};
use crate::verdict::{Processed, Verdict};

/// What was done for one call.
///
/// Found in [`Error::report`](crate::Error::report), and in the `extensions` of a response that
/// took more than one attempt, was parked, or was given back though it is a failure. A first attempt
/// that succeeds at once leaves no report: it would be the only allocation of the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub(crate) call: u64,
    pub(crate) attempts: u32,
    pub(crate) elapsed: Duration,
    pub(crate) failures: Vec<Failure>,
    pub(crate) parked: Duration,
    pub(crate) stop: Option<Stop>,
    pub(crate) retry_at: Option<Instant>,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) diagnosis: Option<Box<Diagnosis>>,
}

impl Report {
    pub(crate) const fn new() -> Self {
        Self {
            call: 0,
            attempts: 0,
            elapsed: Duration::ZERO,
            failures: Vec::new(),
            parked: Duration::ZERO,
            stop: None,
            retry_at: None,
            retry_after: None,
            diagnosis: None,
        }
    }

    /// The number that [events](crate::Event) know this call by. Zero if nobody was told of it.
    #[must_use]
    pub const fn call(&self) -> u64 {
        self.call
    }

    /// How many attempts were begun.
    #[must_use]
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// From the beginning of the call to its end.
    #[must_use]
    pub const fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// The failed attempts in order. Of a long call only the last 32 are kept.
    #[must_use]
    pub fn failures(&self) -> &[Failure] {
        &self.failures
    }

    /// Why no further attempt was made. `None` if the last one succeeded.
    #[must_use]
    pub const fn stop(&self) -> Option<Stop> {
        self.stop
    }

    /// The earliest moment at which trying again makes sense, if that is known.
    #[must_use]
    pub const fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// The same, counted from the end of the call.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// What was the matter with the last attempt that failed, as far as its outcome tells. `None` if
    /// none failed, or if the classifier knows nothing of causes.
    #[must_use]
    pub fn diagnosis(&self) -> Option<&Diagnosis> {
        self.diagnosis.as_deref()
    }

    /// How long attempts waited in line for a window, a limit or a rate, or for a breaker to let them
    /// try.
    #[must_use]
    pub const fn parked(&self) -> Duration {
        self.parked
    }

    /// The sum of all waits: between attempts, and while parked.
    #[must_use]
    pub fn waited(&self) -> Duration {
        let waits = self.failures.iter().filter_map(|failure| failure.wait);
        waits.fold(self.parked, |sum, wait| sum.saturating_add(wait.length))
    }

    pub(crate) fn push(&mut self, failure: Failure) {
        if self.failures.len() == KEPT_FAILURES {
            self.failures.remove(0);
        }
        self.failures.push(failure);
    }
}

/// One failed attempt, and the wait that followed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    pub(crate) number: u32,
    pub(crate) verdict: Verdict,
    pub(crate) cause: Cause,
    pub(crate) at: Duration,
    pub(crate) wait: Option<Wait>,
}

impl Failure {
    /// The attempt's number, from 1.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// What its outcome meant.
    pub const fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// What was the matter, as far as its outcome tells.
    #[must_use]
    pub const fn cause(&self) -> Cause {
        self.cause
    }

    /// When it failed, counted from the beginning of the call.
    #[must_use]
    pub const fn at(&self) -> Duration {
        self.at
    }

    /// The wait that followed. `None` if no attempt followed.
    #[must_use]
    pub const fn wait(&self) -> Option<Wait> {
        self.wait
    }
}

/// A wait between two attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    pub(crate) length: Duration,
    pub(crate) reason: WaitReason,
}

impl Wait {
    /// How long the wait was planned to be.
    #[must_use]
    pub const fn length(&self) -> Duration {
        self.length
    }

    /// Who set its length.
    #[must_use]
    pub const fn reason(&self) -> WaitReason {
        self.reason
    }
}

/// Who set the length of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WaitReason {
    /// The client's own backoff.
    Backoff,
    /// The breaker is open until then.
    Breaker,
    /// The bulkhead is full.
    Bulkhead,
    /// The rate limit.
    RateLimit,
    /// The server's hint, such as `Retry-After`, was longer.
    ServerHint,
    /// The congestion window, or a hint that holds for the whole service.
    Window,
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Backoff => "backoff",
            Self::Breaker => "breaker",
            Self::Bulkhead => "bulkhead",
            Self::RateLimit => "rate limit",
            Self::ServerHint => "server hint",
            Self::Window => "window",
        })
    }
}

/// Why no further attempt was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stop {
    /// `max_attempts` were made.
    AttemptsExhausted,
    /// The schedule of delays came to its end.
    BackoffExhausted,
    /// The shared budget for extra load had nothing left.
    BudgetExhausted,
    /// Another attempt could not have been answered in time.
    DeadlineTooClose,
    /// The server asked for a longer wait than the policy believes.
    HintTooFar,
    /// The pipeline has no retry policy.
    NoRetryPolicy,
    /// The request's body can't be sent a second time.
    NotReplayable,
    /// The failure is permanent.
    NotRetryable,
    /// The server may have acted on the request, and it isn't idempotent.
    NotSafe(Processed),
    /// The server said never to repeat it.
    ServerForbade,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AttemptsExhausted => "attempts exhausted",
            Self::BackoffExhausted => "backoff exhausted",
            Self::BudgetExhausted => "budget exhausted",
            Self::DeadlineTooClose => "deadline too close",
            Self::HintTooFar => "server's hint too far",
            Self::NoRetryPolicy => "no retry policy",
            Self::NotReplayable => "body not replayable",
            Self::NotRetryable => "not retryable",
            Self::NotSafe(_) => "not safe to repeat",
            Self::ServerForbade => "server forbade",
        })
    }
}

/// More would only serve a call with an absurd number of attempts, and grow with it.
const KEPT_FAILURES: usize = 32;
