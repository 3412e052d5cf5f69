//! What happened, for whoever listens. The one place that emits `tracing`.
//!
//! Every denial, retry, wait in line and change of a shared policy is one [`Event`], with its reason
//! and its numbers, and so is the end of every call that did not simply succeed. Whoever wants to
//! know is an [`Observer`].
//!
//! # Example
//!
//! ```
//! use evenkeel::event::End;
//! use evenkeel::{Event, Pipeline, Retry};
//! use std::sync::{Arc, Mutex};
//! use std::time::Duration;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let told = Arc::new(Mutex::new(Vec::new()));
//! let log = Arc::clone(&told);
//! let pipeline = Pipeline::new()
//!     .retry(Retry::constant(Duration::ZERO))
//!     .observer(move |event: &Event| log.lock().unwrap().push(*event));
//!
//! let call = pipeline.run(|n| async move { if n.is_retry() { Ok(7) } else { Err("busy") } });
//! assert_eq!(call.await, Ok(7));
//! let told = told.lock().unwrap();
//! assert!(matches!(
//!     told[..],
//!     [Event::Retry { attempt: 1, .. }, Event::Done { attempts: 2, end: End::Success, .. }],
//! ));
//! # }
//! ```
//!
//! # `tracing`
//!
//! | what | target | level | fields |
//! |---|---|---|---|
//! | an event | `evenkeel` | DEBUG | `call`, `http.request.resend_count`, `error.type`, `reason`, `wait`, `retry_after`, `budget`, .. |
//! | a span around each active [`check`](crate::check), named `check` | `evenkeel` | DEBUG | |
//! | a span around each attempt | `evenkeel::attempt` | DEBUG | `otel.name`, `otel.kind`, `otel.status_code`, `http.request.method`, `server.address`, `server.port`, `http.request.resend_count`, `http.response.status_code`, `error.type`, `call` |
//!
//! A span is what OpenTelemetry's conventions call an HTTP client span: one for each request sent, a
//! child of the span the call is made in. It is entered whenever the attempt is begun or polled, so
//! whatever propagates the current span in headers propagates this one. Its name is the method, or
//! `attempt` where there is none; it ends when the attempt's outcome is known, not when the body was
//! read. An attempt that was refused has none. `url.full`, which the conventions want as well, is
//! left out: paths and queries hold secrets. Other protocols than HTTP say what they are in
//! [`Protocol::describe`](crate::pipeline::Protocol::describe).
//!
//! All that one call says has the same number, `call`.
//!
//! # What it costs
//!
//! Where nobody listens, a comparison. No event or span is made, and nothing allocated. A span that
//! somebody wants is boxed, once for each attempt.
//!
//! # What is not told
//!
//! A call that was dropped has no end that is told. What is changed by hand, such as a breaker's mode
//! or a pipeline's settings, is told to whoever did it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::breaker;
use crate::budget::Snapshot;
use crate::chaos::Fault;
use crate::diagnosis::{self, Brief};
use crate::endpoints;
use crate::error::{Cause, Limit, Reason};
use crate::keyed::{self, Key};
use crate::limit;
use crate::report::{Stop, Wait, WaitReason};
use crate::throttle;
use crate::verdict::Verdict;
use crate::window;

pub use crate::span::Described;

/// A change of state of a policy that many calls share.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Change {
    /// Of a breaker.
    Breaker(breaker::Change),
    /// Of one of several endpoints.
    Endpoint(endpoints::Change),
    /// Of a service's health.
    Health(diagnosis::Change),
    /// Of a registry of policies per key.
    Keyed(keyed::Change),
    /// Of a bulkhead's or a rate's limit.
    Limit(limit::Change),
    /// Of a throttle.
    Throttle(throttle::Change),
    /// Of a congestion window.
    Window(window::Change),
}

/// Something a policy did, with its reason and its numbers.
///
/// Events hold numbers and static words only: no header values, bodies, paths or queries.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event {
    /// What became of an attempt changed the state of a policy that many calls share.
    Changed {
        /// The call: the same number for all events of one call, unique in this process.
        call: u64,
        /// The number of the attempt, from 1.
        attempt: u32,
        /// The service that the call goes to, where policies are kept per key.
        key: Option<Key>,
        /// What changed, and why.
        change: Change,
    },
    /// An active check is over; see [`check`](crate::check). It is nobody's call: beside this, only what
    /// it [changed](Self::Changed) and what was [injected](Self::Injected) into it is told.
    Checked {
        /// The check: a number as calls have.
        call: u64,
        /// How many attempts were begun: one, or zero if it was refused.
        attempts: u32,
        /// The service that it went to, where it is known.
        key: Option<Key>,
        /// How it ended.
        end: End,
        /// What was the matter, if it failed and the classifier knows of causes.
        diagnosis: Option<Brief>,
        /// How long the server asked for quiet, if it did.
        retry_after: Option<Duration>,
        /// From its beginning to its end, with the time it waited in line.
        elapsed: Duration,
    },
    /// A call is over. Told of every call but those whose first attempt succeeded without a wait; of
    /// them too if an observer [wants all](Observer::wants_all).
    Done {
        /// The call: the same number for all events of one call, unique in this process.
        call: u64,
        /// How many attempts were begun. Zero if the first was refused.
        attempts: u32,
        /// The service that the call goes to, where it is known.
        key: Option<Key>,
        /// How it ended.
        end: End,
        /// From the beginning of the call to its end. Zero if the call had no reason to look at the
        /// clock.
        elapsed: Duration,
        /// How long attempts waited in line, or for a breaker.
        parked: Duration,
    },
    /// A fault made to order was injected into an attempt; see [`chaos`](crate::chaos).
    Injected {
        /// The call: the same number for all events of one call, unique in this process.
        call: u64,
        /// The number of the attempt, from 1.
        attempt: u32,
        /// The service that the call goes to, where it is known.
        key: Option<Key>,
        /// The delay before the attempt or the fault. Zero: none.
        delay: Duration,
        /// What becomes of the attempt. `None`: it is made.
        fault: Option<Fault>,
    },
    /// An attempt waits in line for a window, a limit or a rate, or for a breaker to let it try.
    Parked {
        /// The call: the same number for all events of one call, unique in this process.
        call: u64,
        /// The number of the attempt that waits, from 1.
        attempt: u32,
        /// The service that the call goes to, where policies are kept per key.
        key: Option<Key>,
        /// What it waits for.
        reason: WaitReason,
        /// For how long at most until it asks again, from now. `None`: until it is woken.
        wait: Option<Duration>,
    },
    /// A policy refused to begin an attempt.
    Reject {
        /// The call: the same number for all events of one call, unique in this process.
        call: u64,
        /// The number of the attempt that was refused, from 1.
        attempt: u32,
        /// The service that the call goes to, where policies are kept per key.
        key: Option<Key>,
        /// Why.
        reason: Reason,
        /// The earliest useful time for another call, from now, if it is known.
        retry_after: Option<Duration>,
    },
    /// An attempt failed and another follows.
    Retry {
        /// The call: the same number for all events of one call, unique in this process.
        call: u64,
        /// The number of the attempt that failed, from 1.
        attempt: u32,
        /// The service that the call goes to, where it is known.
        key: Option<Key>,
        /// What its outcome meant.
        verdict: Verdict,
        /// What was the matter, if the classifier knows of causes.
        diagnosis: Option<Brief>,
        /// The wait that begins now.
        wait: Wait,
        /// The budget after this attempt's withdrawal, if there is a budget.
        budget: Option<Snapshot>,
    },
    /// An attempt failed and none follows.
    Stop {
        /// The call: the same number for all events of one call, unique in this process.
        call: u64,
        /// The number of the attempt that failed, from 1.
        attempt: u32,
        /// The service that the call goes to, where it is known.
        key: Option<Key>,
        /// What its outcome meant.
        verdict: Verdict,
        /// What was the matter, if the classifier knows of causes.
        diagnosis: Option<Brief>,
        /// Why no attempt follows.
        stop: Stop,
        /// The earliest useful time for another call, from now, if it is known.
        retry_after: Option<Duration>,
        /// The budget, if there is one.
        budget: Option<Snapshot>,
    },
    /// A policy that only watches would have refused an attempt, which goes nevertheless.
    WouldReject {
        /// The call: the same number for all events of one call, unique in this process.
        call: u64,
        /// The number of the attempt, from 1.
        attempt: u32,
        /// The service that the call goes to, where policies are kept per key.
        key: Option<Key>,
        /// Why it would have been refused.
        reason: Reason,
    },
}

impl Event {
    /// The call: the same number for all events of one call, unique in this process.
    #[must_use]
    pub const fn call(&self) -> u64 {
        match self {
            Self::Changed { call, .. }
            | Self::Checked { call, .. }
            | Self::Done { call, .. }
            | Self::Injected { call, .. }
            | Self::Parked { call, .. }
            | Self::Reject { call, .. }
            | Self::Retry { call, .. }
            | Self::Stop { call, .. }
            | Self::WouldReject { call, .. } => *call,
        }
    }

    /// The number of the attempt, from 1. That of the last one at the call's end: zero if there was none.
    #[must_use]
    pub const fn attempt(&self) -> u32 {
        match self {
            Self::Checked { attempts, .. } | Self::Done { attempts, .. } => *attempts,
            Self::Changed { attempt, .. }
            | Self::Injected { attempt, .. }
            | Self::Parked { attempt, .. }
            | Self::Reject { attempt, .. }
            | Self::Retry { attempt, .. }
            | Self::Stop { attempt, .. }
            | Self::WouldReject { attempt, .. } => *attempt,
        }
    }

    /// The service that the call goes to, where it is known.
    #[must_use]
    pub const fn key(&self) -> Option<Key> {
        match self {
            Self::Changed { key, .. }
            | Self::Checked { key, .. }
            | Self::Done { key, .. }
            | Self::Injected { key, .. }
            | Self::Parked { key, .. }
            | Self::Reject { key, .. }
            | Self::Retry { key, .. }
            | Self::Stop { key, .. }
            | Self::WouldReject { key, .. } => *key,
        }
    }

    /// What the attempt's outcome meant. `None` where there was no outcome, or it was no call's.
    #[must_use]
    pub const fn verdict(&self) -> Option<Verdict> {
        match self {
            Self::Changed { .. }
            | Self::Checked { .. }
            | Self::Done { .. }
            | Self::Injected { .. }
            | Self::Parked { .. }
            | Self::Reject { .. }
            | Self::WouldReject { .. } => None,
            Self::Retry { verdict, .. } | Self::Stop { verdict, .. } => Some(*verdict),
        }
    }

    /// The likeliest cause of the attempt's failure; [unknown](diagnosis::Cause::Unknown) too if the
    /// classifier knows nothing of causes. `None` where there was no outcome.
    #[must_use]
    pub fn cause(&self) -> Option<diagnosis::Cause> {
        match self {
            Self::Retry { diagnosis, .. } | Self::Stop { diagnosis, .. } => {
                Some(named(diagnosis.as_ref()))
            }
            _ => None,
        }
    }

    /// What was the matter with the attempt, who says so, for how long, and by which evidence. `None`
    /// where there was no outcome, and if the classifier knows nothing of causes.
    #[must_use]
    pub const fn diagnosis(&self) -> Option<&Brief> {
        match self {
            Self::Retry { diagnosis, .. } | Self::Stop { diagnosis, .. } => diagnosis.as_ref(),
            _ => None,
        }
    }
}

fn named(diagnosis: Option<&Brief>) -> diagnosis::Cause {
    diagnosis.map_or(diagnosis::Cause::Unknown, Brief::cause)
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// Its deadline passed.
    Deadline,
    /// Its last attempt failed, and this is what that meant.
    Failed(Verdict),
    /// The pipeline's settings make no sense, and nothing was begun.
    Invalid,
    /// A policy refused an attempt.
    Rejected(Reason),
    /// Its last attempt succeeded: its outcome, an error even, was what the classifier calls a success.
    Success,
}

impl End {
    /// Whether the caller got what it wanted.
    #[must_use]
    pub const fn is_success(&self) -> bool {
        matches!(self, Self::Success)
    }

    /// How a call ends for this cause. `None`: as its last attempt did.
    pub(crate) const fn of<E>(cause: &Cause<E>) -> Option<Self> {
        match cause {
            Cause::Config(_) => Some(Self::Invalid),
            Cause::Elapsed(elapsed) => match elapsed.limit() {
                Limit::Deadline => Some(Self::Deadline),
                Limit::Attempt => None,
            },
            Cause::Rejected(rejected) => Some(Self::Rejected(rejected.reason)),
            Cause::Injected(_) | Cause::Operation(_) => None,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deadline => "deadline",
            Self::Failed(_) => "failed",
            Self::Invalid => "invalid settings",
            Self::Rejected(_) => "rejected",
            Self::Success => "success",
        })
    }
}

/// Somebody who wants to know. Closures qualify.
///
/// A pipeline may have several: all of them are told of each event, in the order in which they were
/// given.
///
/// Called on the task that runs the call, with no lock held: be quick. A panic in it passes to
/// the caller and poisons nothing.
pub trait Observer: Send + Sync {
    /// Takes note of an event.
    fn observe(&self, event: &Event);

    /// Whether it wants to be told of the end of those calls too whose first attempt succeeded
    /// without a wait. Asked once, when it is given to a pipeline; if one of several wants it, all are
    /// told. Each call then reads the clock at its beginning and its end. Default: no.
    fn wants_all(&self) -> bool {
        false
    }
}

impl<F: Fn(&Event) + Send + Sync> Observer for F {
    fn observe(&self, event: &Event) {
        self(event);
    }
}

/// One more observer beside those that there are.
pub(crate) struct Both<O> {
    pub(crate) first: Arc<dyn Observer>,
    pub(crate) second: O,
}

impl<O: Observer> Observer for Both<O> {
    fn observe(&self, event: &Event) {
        self.first.observe(event);
        self.second.observe(event);
    }

    fn wants_all(&self) -> bool {
        self.first.wants_all() || self.second.wants_all()
    }
}

/// Tells `tracing` and the observer. `event` is only made, of the call's number, if somebody
/// listens; a call that nobody was told of has the number zero until then.
pub(crate) fn tell(
    observer: Option<&dyn Observer>,
    call: &mut u64,
    event: impl FnOnce(u64) -> Event,
) {
    let traced = is_traced();
    if !traced && observer.is_none() {
        return;
    }
    let event = event(number(call));
    if traced {
        trace(&event);
    }
    if let Some(observer) = observer {
        observer.observe(&event);
    }
}

/// Whether anybody listens.
pub(crate) fn is_heard(observer: Option<&dyn Observer>) -> bool {
    observer.is_some() || is_traced()
}

fn is_traced() -> bool {
    tracing::enabled!(target: TARGET, tracing::Level::DEBUG)
}

/// The number of a call, from now on if it had none.
pub(crate) fn number(call: &mut u64) -> u64 {
    if *call == 0 {
        *call = CALLS.fetch_add(1, Ordering::Relaxed);
    }
    *call
}

#[allow(clippy::too_many_lines)] // one arm for each event
fn trace(event: &Event) {
    match event {
        Event::Changed {
            call,
            attempt,
            change,
            ..
        } => tracing::event!(
            target: TARGET,
            tracing::Level::DEBUG,
            {
                "call" = call,
                "http.request.resend_count" = attempt.saturating_sub(1),
                "change" = ?change,
            },
            "policy changed its state"
        ),
        Event::Checked {
            call,
            end,
            diagnosis,
            retry_after,
            elapsed,
            ..
        } => tracing::event!(
            target: TARGET,
            tracing::Level::DEBUG,
            {
                "call" = call,
                "error.type" = match end {
                    End::Failed(verdict) => Some(tracing::field::display(verdict.error_type())),
                    _ => None,
                },
                "end" = %end,
                "cause" = named(diagnosis.as_ref()).as_str(),
                "retry_after" = retry_after.map(|wait| wait.as_secs_f64()),
                "elapsed" = elapsed.as_secs_f64(),
            },
            "check is over"
        ),
        Event::Done {
            call,
            attempts,
            end,
            elapsed,
            parked,
            ..
        } => tracing::event!(
            target: TARGET,
            tracing::Level::DEBUG,
            {
                "call" = call,
                "http.request.resend_count" = attempts.saturating_sub(1),
                "error.type" = match end {
                    End::Failed(verdict) => Some(tracing::field::display(verdict.error_type())),
                    _ => None,
                },
                "end" = %end,
                "elapsed" = elapsed.as_secs_f64(),
                "parked" = parked.as_secs_f64(),
            },
            "call is over"
        ),
        Event::Injected {
            call,
            attempt,
            delay,
            fault,
            ..
        } => tracing::event!(
            target: TARGET,
            tracing::Level::DEBUG,
            {
                "call" = call,
                "http.request.resend_count" = attempt - 1,
                "delay" = delay.as_secs_f64(),
                "fault" = fault.as_ref().map(tracing::field::display),
            },
            "fault injected"
        ),
        Event::Parked {
            call,
            attempt,
            reason,
            wait,
            ..
        } => tracing::event!(
            target: TARGET,
            tracing::Level::DEBUG,
            {
                "call" = call,
                "http.request.resend_count" = attempt - 1,
                "wait" = wait.map(|wait| wait.as_secs_f64()),
                "reason" = %reason,
            },
            "attempt waits"
        ),
        Event::Reject {
            call,
            attempt,
            reason,
            retry_after,
            ..
        } => tracing::event!(
            target: TARGET,
            tracing::Level::DEBUG,
            {
                "call" = call,
                "http.request.resend_count" = attempt - 1,
                "reason" = %reason,
                "retry_after" = retry_after.map(|wait| wait.as_secs_f64()),
            },
            "attempt refused"
        ),
        Event::Retry {
            call,
            attempt,
            verdict,
            diagnosis,
            wait,
            budget,
            ..
        } => tracing::event!(
            target: TARGET,
            tracing::Level::DEBUG,
            {
                "call" = call,
                "http.request.resend_count" = attempt,
                "error.type" = %verdict.error_type(),
                "cause" = named(diagnosis.as_ref()).as_str(),
                "wait" = ?wait.length(),
                "reason" = %wait.reason(),
                "budget" = budget.map(|budget| budget.available),
            },
            "attempt failed, will retry"
        ),
        Event::Stop {
            call,
            attempt,
            verdict,
            diagnosis,
            stop,
            retry_after,
            budget,
            ..
        } => tracing::event!(
            target: TARGET,
            tracing::Level::DEBUG,
            {
                "call" = call,
                "http.request.resend_count" = attempt - 1,
                "error.type" = %verdict.error_type(),
                "cause" = named(diagnosis.as_ref()).as_str(),
                "reason" = %stop,
                "retry_after" = retry_after.map(|wait| wait.as_secs_f64()),
                "budget" = budget.map(|budget| budget.available),
            },
            "attempt failed, giving up"
        ),
        Event::WouldReject {
            call,
            attempt,
            reason,
            ..
        } => tracing::event!(
            target: TARGET,
            tracing::Level::DEBUG,
            {
                "call" = call,
                "http.request.resend_count" = attempt - 1,
                "reason" = %reason,
            },
            "attempt would be refused"
        ),
    }
}

impl fmt::Debug for dyn Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer(..)")
    }
}

static CALLS: AtomicU64 = AtomicU64::new(1);

const TARGET: &str = "evenkeel";
