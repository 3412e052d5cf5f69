//! The right to make one call, and what one gets instead.

use std::fmt;
use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};

use crate::deadline::later;
use crate::error::{Reason, Rejected};
use crate::rng::Rng;
use crate::verdict::{Hint, Verdict};

use super::report::Change;
use super::shared::Shared;
use super::ticket::{Ended, No, Ticket};

/// The right to make one call; see [`Breaker::try_acquire`](super::Breaker::try_acquire).
///
/// Dropped without a word it was abandoned: a probe gives its place back and decides nothing, and
/// any other call counts as [`cancelled`](super::Breaker::cancelled) says.
#[must_use = "dropping the permit abandons the call"]
pub struct Permit<'a> {
    shared: &'a Shared,
    ticket: Ticket,
    begun: Instant,
}

impl<'a> Permit<'a> {
    #[inline]
    pub(super) const fn new(shared: &'a Shared, ticket: Ticket, begun: Instant) -> Self {
        Self {
            shared,
            ticket,
            begun,
        }
    }

    /// The call ended at `now` with this verdict. Says if that changed the breaker's state.
    ///
    /// Its length, for the rule of slow calls, is the time since `try_acquire`. A hint counts if it
    /// is a length of time; one that names a date of the wall clock doesn't.
    #[inline]
    #[allow(clippy::must_use_candidate)] // it is told for its own sake
    pub fn record(self, verdict: Verdict, now: Instant, rng: &Rng) -> Option<Change> {
        // It isn't abandoned.
        let it = ManuallyDrop::new(self);
        if verdict.is_success() && it.shared.succeeded(&it.ticket, || now) {
            return None;
        }
        record_otherwise(it.shared, it.ticket, it.begun, &verdict, now, rng)
    }

    /// The change of state that acquiring made: the first probe makes the breaker half-open. See
    /// [`Refused::change`] too.
    #[must_use]
    pub fn change(&self) -> Option<Change> {
        self.ticket.change()
    }

    /// Whether this call helps to decide if the breaker closes.
    #[must_use]
    pub const fn is_probe(&self) -> bool {
        self.ticket.is_probe()
    }

    /// What the call would have got instead if the breaker did more than watch.
    #[must_use]
    pub fn would_refuse(&self) -> Option<Refused> {
        let base = self.shared.base(self.begun);
        let no = self.ticket.would_be_refused()?;
        Some(Refused { base, no })
    }

    /// How long it is out.
    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.begun)
    }
}

#[cold]
fn record_otherwise(
    shared: &Shared,
    ticket: Ticket,
    begun: Instant,
    verdict: &Verdict,
    now: Instant,
    rng: &Rng,
) -> Option<Change> {
    let hint = match verdict.server_hint() {
        Some(Hint::After(hint)) => Some(hint),
        _ => None,
    };
    let ended = Ended {
        kind: verdict.kind(),
        hint,
        latency: Some(now.saturating_duration_since(begun)),
    };
    shared.settle(ticket, ended, || now, rng)
}

impl Drop for Permit<'_> {
    #[inline]
    fn drop(&mut self) {
        self.shared.abandon(self.ticket);
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("is_probe", &self.is_probe())
            .finish_non_exhaustive()
    }
}

/// The breaker refused a call. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    pub(super) base: Instant,
    /// With nanoseconds from there.
    pub(super) no: No,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rejected: {}", Reason::BreakerOpen)
    }
}

impl std::error::Error for Refused {}

impl Refused {
    /// When asking again makes sense: while open, when it may half-open; on the way back to full
    /// traffic, when a call with this one's luck may go; while all probes are out, when the oldest
    /// of them is given up at the latest. `None` while it is forced open.
    #[must_use]
    pub fn retry_at(&self) -> Option<Instant> {
        let until = self.no.known().map(Duration::from_nanos);
        until.map(|until| later(self.base, until))
    }

    /// The change of state that asking made: it opens where probes had to be
    /// [given up](super::Breaker::probe_timeout), and where dropped calls
    /// [count as failures](super::Breaker::cancelled).
    #[must_use]
    pub fn change(&self) -> Option<Change> {
        self.no.change()
    }
}

impl From<Refused> for Rejected {
    fn from(refused: Refused) -> Self {
        Self::new(Reason::BreakerOpen, refused.retry_at())
    }
}
