//! What an attempt is: the one thing the engine knows about doors.

use std::fmt;
use std::future::{Future, Ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::attempt::Attempt;
use crate::chaos::{Fault, Imitation};
use crate::clock::Clock;
use crate::deadline::Deadline;
use crate::diagnosis::Diagnosis;
use crate::endpoints::Endpoint;
use crate::event::Described;
use crate::http::Quota;
use crate::keyed::Key;
use crate::pipeline::Kept;
use crate::report::Report;
use crate::throttle::Priority;
use crate::verdict::{Circumstances, Classify, Verdict};

/// Something that can be attempted: a closure, or a service and its request.
///
/// Doors implement it, the engine drives it; there is nothing in it for users to call.
pub trait Operation {
    /// What a good outcome holds.
    type Value;
    /// What a bad outcome holds.
    type Error;
    /// One attempt.
    type Attempt: Future<Output = Result<Self::Value, Self::Error>>;
    /// The clearing away of a rejected value.
    type Discard: Future<Output = ()>;

    /// Whether an attempt can begin. Asked before every attempt.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>>;

    /// Gives up the readiness it holds, if it holds any: the attempt has to wait.
    fn stand_down(&mut self);

    /// Begins an attempt, at this endpoint if one was chosen. None follows a `last` one, so it may take
    /// what the others saved.
    fn begin(&mut self, attempt: Attempt, at: Option<Arc<Endpoint>>, last: bool) -> Self::Attempt;

    /// Whether [`begin`](Self::begin) wants to be told where the endpoint is.
    fn is_directed(&self) -> bool;

    /// The attempt ended without ever having been made: what it would have used up is gone. None
    /// follows a `last` one.
    fn forgo(&mut self, last: bool);

    /// What an injected fault is here.
    fn imitate(&self, fault: &Fault) -> Imitation<Self::Value, Self::Error>;

    /// What an outcome means.
    fn classify(&self, outcome: Result<&Self::Value, &Self::Error>) -> Verdict;

    /// What was the matter with a failed outcome.
    fn diagnose(
        &self,
        outcome: Result<&Self::Value, &Self::Error>,
        seen: Circumstances<'_>,
    ) -> Option<Diagnosis>;

    /// Whether the operation itself knows if it may be repeated.
    fn is_idempotent(&self) -> Option<bool>;

    /// Whether another attempt can send what the first one sent.
    fn is_replayable(&self) -> bool;

    /// The caller's own deadline for this call.
    fn deadline(&self) -> Option<Deadline>;

    /// How much the call matters when some have to be shed.
    fn priority(&self) -> Priority;

    /// How many attempts others made for this call before it began.
    fn earlier_attempts(&self) -> u32;

    /// How many attempts others made for one of this call's, beside the one that gave this value.
    fn other_attempts(&self, value: &Self::Value) -> u32;

    /// What the span of the attempt that is about to begin says of it.
    fn describe(&mut self) -> Described<'_>;

    /// The status of this value, if it has one.
    fn status(&self, value: &Self::Value) -> Option<u16>;

    /// Which service the call goes to.
    fn key(&self) -> Option<Key>;

    /// The same, kept for when it is asked again.
    fn learn_key(&mut self) -> Option<Key> {
        self.key()
    }

    /// Which service this value came from, if the value itself tells.
    fn answered_by(&self, value: &Self::Value) -> Option<Key>;

    /// What this value says is left of the service's quota.
    fn quota(&self, value: &Self::Value, clock: &Clock) -> Option<Quota>;

    /// Clears a rejected value away, such as by reading the rest of a response.
    fn discard(&mut self, value: Self::Value) -> Self::Discard;

    /// Leaves a permit with a value, if the value can hold it. Dropped, it is given back.
    fn keep(&self, value: &mut Self::Value, kept: Kept);

    /// Attaches the report to a value on its way to the caller, if the value can hold it.
    fn attach(&self, value: &mut Self::Value, report: impl FnOnce() -> Report);
}

/// A closure that makes attempts.
#[derive(Clone)]
pub struct Closure<C, F> {
    pub(crate) classify: C,
    pub(crate) attempt: F,
    pub(crate) deadline: Option<Deadline>,
    pub(crate) key: Option<Key>,
    pub(crate) priority: Priority,
    pub(crate) earlier: u32,
}

impl<C, F, Fut, T, E> Operation for Closure<C, F>
where
    C: Classify<T, E>,
    F: FnMut(Attempt) -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    type Value = T;
    type Error = E;
    type Attempt = Fut;
    type Discard = Ready<()>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), E>> {
        Poll::Ready(Ok(()))
    }

    fn stand_down(&mut self) {}

    fn begin(&mut self, attempt: Attempt, _: Option<Arc<Endpoint>>, _last: bool) -> Fut {
        (self.attempt)(attempt)
    }

    fn is_directed(&self) -> bool {
        false
    }

    fn forgo(&mut self, _last: bool) {}

    fn imitate(&self, fault: &Fault) -> Imitation<T, E> {
        self.classify.imitate(fault)
    }

    fn classify(&self, outcome: Result<&T, &E>) -> Verdict {
        self.classify.classify(outcome)
    }

    fn diagnose(&self, outcome: Result<&T, &E>, seen: Circumstances<'_>) -> Option<Diagnosis> {
        self.classify.diagnose(outcome, seen)
    }

    fn is_idempotent(&self) -> Option<bool> {
        None
    }

    fn is_replayable(&self) -> bool {
        true
    }

    fn deadline(&self) -> Option<Deadline> {
        self.deadline
    }

    fn priority(&self) -> Priority {
        self.priority
    }

    fn earlier_attempts(&self) -> u32 {
        self.earlier
    }

    fn other_attempts(&self, _: &T) -> u32 {
        0
    }

    fn describe(&mut self) -> Described<'_> {
        Described::new()
    }

    fn status(&self, _: &T) -> Option<u16> {
        None
    }

    fn key(&self) -> Option<Key> {
        self.key
    }

    fn answered_by(&self, _: &T) -> Option<Key> {
        None
    }

    fn quota(&self, _: &T, _: &Clock) -> Option<Quota> {
        None
    }

    fn discard(&mut self, _: T) -> Ready<()> {
        std::future::ready(())
    }

    fn keep(&self, _: &mut T, _: Kept) {}

    fn attach(&self, _: &mut T, _: impl FnOnce() -> Report) {}
}

impl<C, F> fmt::Debug for Closure<C, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Closure<{}>", std::any::type_name::<F>())
    }
}
