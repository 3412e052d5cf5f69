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
    pub(crate) failures: Failures,
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
            failures: Failures::NONE,
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
        self.failures.all()
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
        let waits = self.failures().iter().filter_map(|failure| failure.wait);
        waits.fold(self.parked, |sum, wait| sum.saturating_add(wait.length))
    }
}

/// The failed attempts of a call. The first of them need no memory but the report's own.
#[derive(Clone)]
pub(crate) struct Failures {
    /// Of these the first `few`, unless there are many.
    first: [Failure; FEW],
    few: usize,
    /// All of them, as soon as they are more than that.
    many: Vec<Failure>,
}

impl Failures {
    pub(crate) const NONE: Self = Self {
        first: [Failure::NONE; FEW],
        few: 0,
        many: Vec::new(),
    };

    pub(crate) fn all(&self) -> &[Failure] {
        if self.many.is_empty() {
            &self.first[..self.few]
        } else {
            &self.many
        }
    }

    pub(crate) fn last(&self) -> Option<&Failure> {
        self.all().last()
    }

    /// A place for the next one, to be filled there.
    #[inline]
    pub(crate) fn place(&mut self) -> &mut Failure {
        if self.few < FEW {
            self.few += 1;
            &mut self.first[self.few - 1]
        } else {
            self.place_of_many()
        }
    }

    #[cold]
    fn place_of_many(&mut self) -> &mut Failure {
        if self.many.is_empty() {
            self.many.extend_from_slice(&self.first);
        }
        if self.many.len() == KEPT_FAILURES {
            self.many.remove(0);
        }
        self.many.push(Failure::NONE);
        self.many.last_mut().expect("just pushed")
    }
}

impl PartialEq for Failures {
    fn eq(&self, other: &Self) -> bool {
        self.all() == other.all()
    }
}

impl Eq for Failures {}

impl fmt::Debug for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.all().fmt(f)
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
    /// In a place that nothing has filled yet.
    const NONE: Self = Self {
        number: 0,
        verdict: Verdict::success(),
        cause: Cause::Unknown,
        at: Duration::ZERO,
        wait: None,
    };

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

/// As many as a call has that succeeds at the last of the usual three attempts.
const FEW: usize = 2;

/// More would only serve a call with an absurd number of attempts, and grow with it.
const KEPT_FAILURES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_failures_are_kept_in_order_however_many_there_were() {
        let mut failures = Failures::NONE;
        assert_eq!((failures.all(), failures.last()), (&[][..], None));
        for number in 1..=100 {
            let place = failures.place();
            assert_eq!(*place, Failure::NONE);
            place.number = number;
            let numbers: Vec<u32> = failures.all().iter().map(|it| it.number).collect();
            let kept = u32::try_from(KEPT_FAILURES).unwrap();
            let first = number.saturating_sub(kept) + 1;
            assert_eq!(numbers, (first..=number).collect::<Vec<_>>());
            assert_eq!(failures.last().map(|it| it.number), Some(number));
        }
    }
}
