//! What happened, for whoever listens. The one place that emits `tracing`.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::breaker;
use crate::budget::Snapshot;
use crate::chaos::Fault;
use crate::endpoints;
use crate::error::Reason;
use crate::keyed::{self, Key};
use crate::limit;
use crate::report::{Stop, Wait, WaitReason};
use crate::throttle;
use crate::verdict::Verdict;
use crate::window;

/// A change of state of a policy that many calls share.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Change {
    /// Of a breaker.
    Breaker(breaker::Change),
    /// Of one of several endpoints.
    Endpoint(endpoints::Change),
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
        /// What its outcome meant.
        verdict: Verdict,
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
        /// What its outcome meant.
        verdict: Verdict,
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
            | Self::Injected { call, .. }
            | Self::Parked { call, .. }
            | Self::Reject { call, .. }
            | Self::Retry { call, .. }
            | Self::Stop { call, .. }
            | Self::WouldReject { call, .. } => *call,
        }
    }

    /// The number of the attempt, from 1.
    #[must_use]
    pub const fn attempt(&self) -> u32 {
        match self {
            Self::Changed { attempt, .. }
            | Self::Injected { attempt, .. }
            | Self::Parked { attempt, .. }
            | Self::Reject { attempt, .. }
            | Self::Retry { attempt, .. }
            | Self::Stop { attempt, .. }
            | Self::WouldReject { attempt, .. } => *attempt,
        }
    }

    /// What the attempt's outcome meant. `None` where there was no outcome.
    #[must_use]
    pub const fn verdict(&self) -> Option<Verdict> {
        match self {
            Self::Changed { .. }
            | Self::Injected { .. }
            | Self::Parked { .. }
            | Self::Reject { .. }
            | Self::WouldReject { .. } => None,
            Self::Retry { verdict, .. } | Self::Stop { verdict, .. } => Some(*verdict),
        }
    }
}

/// Somebody who wants to know. Closures qualify.
///
/// Called on the task that runs the call, with no lock held: be quick. A panic in it passes to
/// the caller and poisons nothing.
pub trait Observer: Send + Sync {
    /// Takes note of an event.
    fn observe(&self, event: &Event);
}

impl<F: Fn(&Event) + Send + Sync> Observer for F {
    fn observe(&self, event: &Event) {
        self(event);
    }
}

/// Tells `tracing` and the observer. `event` is only made, of the call's number, if somebody
/// listens; a call that nobody was told of has the number zero until then.
pub(crate) fn tell(
    observer: Option<&dyn Observer>,
    call: &mut u64,
    event: impl FnOnce(u64) -> Event,
) {
    let traced = tracing::enabled!(target: TARGET, tracing::Level::DEBUG);
    if !traced && observer.is_none() {
        return;
    }
    if *call == 0 {
        *call = CALLS.fetch_add(1, Ordering::Relaxed);
    }
    let event = event(*call);
    if traced {
        trace(&event);
    }
    if let Some(observer) = observer {
        observer.observe(&event);
    }
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
            wait,
            budget,
        } => tracing::event!(
            target: TARGET,
            tracing::Level::DEBUG,
            {
                "call" = call,
                "http.request.resend_count" = attempt,
                "error.type" = %verdict.error_type(),
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
            stop,
            retry_after,
            budget,
        } => tracing::event!(
            target: TARGET,
            tracing::Level::DEBUG,
            {
                "call" = call,
                "http.request.resend_count" = attempt - 1,
                "error.type" = %verdict.error_type(),
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
