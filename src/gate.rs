//! What stands in front of every attempt: the one shape that window, breaker, limits and throttle
//! have for the engine.

use std::fmt;
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::error::{Reason, Rejected};
use crate::event::Change;
use crate::http::Quota;
use crate::rng::Rng;
use crate::verdict::Verdict;

/// A shared policy that is asked before an attempt begins and told how it ended.
///
/// Clones are one policy. Whatever an ask gave is given back exactly once: a ticket by `settle` or
/// `abandon`, a place in line by the next `Go` or by `leave`.
pub(crate) trait Gate: Clone {
    /// What was given to an attempt that may go.
    type Ticket;

    /// Whether an attempt may go now. `place` is the caller's place in line: none at first, kept
    /// by the caller while it is told to wait, and taken by the gate when it may go.
    fn ask(&self, place: &mut Option<u64>, ask: &mut Ask<'_>) -> Answer<Self::Ticket>;

    /// The same at once, without anything to wait by, tell or measure, for a gate that lets nearly all go.
    /// Others than a breaker are asked so of the first attempts of calls alone, and not of checks. `None` says
    /// nothing: it is to be asked.
    #[inline]
    fn ask_plainly(&self) -> Option<Self::Ticket> {
        None
    }

    /// Gives up a place in line.
    fn leave(&self, place: u64);

    /// The attempt begins: from here on it was sent.
    fn begin(&self, ticket: &mut Self::Ticket) {
        let _ = ticket;
    }

    /// The attempt ended, and its outcome is one of those that are only counted, as most are. `false`
    /// says nothing: it is to be settled. If a clock panics in it the ticket is abandoned.
    #[inline]
    fn settle_plainly(&self, ticket: &mut Self::Ticket, outcome: &mut Outcome<'_>) -> bool {
        let _ = (ticket, outcome);
        false
    }

    /// The attempt ended. Its outcome counts.
    fn settle(&self, ticket: Self::Ticket, outcome: &mut Outcome<'_>) -> Option<Change>;

    /// The same, but what the ticket gives a right to goes on: see
    /// [`Bulkhead::until_body_ends`](crate::Bulkhead::until_body_ends).
    fn note(&self, ticket: &Self::Ticket, outcome: &mut Outcome<'_>) -> Option<Change> {
        let _ = (ticket, outcome);
        None
    }

    /// The attempt never began, or was dropped: it says nothing.
    fn abandon(&self, ticket: Self::Ticket);

    /// What the ask that gave this ticket changed, if it changed anything.
    fn news(ticket: &Self::Ticket) -> Option<Change> {
        let _ = ticket;
        None
    }

    /// Why the attempt would have been refused by a gate that only watches.
    fn would_refuse(ticket: &Self::Ticket) -> Option<Reason> {
        let _ = ticket;
        None
    }

    /// Whether what this ticket stands for holds no more, so that one that has not begun has to ask
    /// again.
    fn is_stale(&self, ticket: &Self::Ticket) -> bool {
        let _ = ticket;
        false
    }

    /// Before which moment asking again is of no use, as far as is known: the end of an open
    /// breaker or of a quiet that the server asked for.
    fn closed_until(&self, now: Instant) -> Option<Instant> {
        let _ = now;
        None
    }
}

/// An ask, and what the gate may need to answer it.
pub(crate) struct Ask<'a> {
    pub(crate) clock: &'a Clock,
    /// Read at most once; see [`now`](Self::now).
    pub(crate) moment: Option<Instant>,
    pub(crate) rng: &'a Rng,
    /// Whom to wake when asking again may be of use.
    pub(crate) waker: &'a Waker,
    /// An attempt that begins after this moment can't be answered in time.
    pub(crate) latest: Option<Instant>,
    /// The attempt's number, from 1.
    pub(crate) attempt: u32,
    /// How long an attempt may take.
    pub(crate) timeout: Option<Duration>,
    pub(crate) priority: crate::throttle::Priority,
    pub(crate) purpose: Purpose,
    /// What the ask itself changed, for a gate that refuses.
    pub(crate) news: Option<Change>,
}

impl Ask<'_> {
    #[inline]
    pub(crate) fn now(&mut self) -> Instant {
        *self.moment.get_or_insert_with(|| self.clock.now())
    }
}

/// What attempts are made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Somebody's call.
    #[default]
    Call,
    /// An active [`check`](crate::check), which goes before calls or not.
    Check { first: bool },
}

impl Purpose {
    pub(crate) const fn is_check(self) -> bool {
        matches!(self, Self::Check { .. })
    }

    /// Whether it stands before all others in line.
    pub(crate) const fn goes_first(self) -> bool {
        matches!(self, Self::Check { first: true })
    }
}

/// A gate's answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer<T> {
    /// The attempt may go.
    Go(T),
    /// Ask again when woken, and at this moment if there is one.
    Wait(Option<Instant>),
    /// It may not go, and waiting here is of no use.
    Refuse(Rejected),
}

/// How an attempt ended.
pub(crate) struct Outcome<'a> {
    pub(crate) verdict: &'a Verdict,
    /// What the server asked for, as a length of time from now.
    pub(crate) hint: Option<Duration>,
    /// From its beginning to its end. `None`: it was over when first looked at.
    pub(crate) latency: Option<Duration>,
    /// What the response says is left of the service's quota.
    pub(crate) quota: Option<Quota>,
    /// It was ended by the attempt timeout, not cut short by the deadline.
    pub(crate) timed_out: bool,
    /// How long the attempt was allowed to take.
    pub(crate) timeout: Option<Duration>,
    pub(crate) clock: &'a Clock,
    pub(crate) moment: Option<Instant>,
    pub(crate) rng: &'a Rng,
}

impl Outcome<'_> {
    #[inline]
    pub(crate) fn now(&mut self) -> Instant {
        *self.moment.get_or_insert_with(|| self.clock.now())
    }
}

/// A gate and what one call holds of it: a place in line, or a ticket. Dropping it gives back
/// either.
pub(crate) struct Pass<G: Gate> {
    gate: G,
    place: Option<u64>,
    ticket: Option<G::Ticket>,
}

impl<G: Gate> Pass<G> {
    pub(crate) const fn new(gate: G) -> Self {
        Self {
            gate,
            place: None,
            ticket: None,
        }
    }

    pub(crate) const fn gate(&self) -> &G {
        &self.gate
    }

    /// Asks, unless it has a ticket already. `Go(())` means that it has one now.
    #[inline]
    pub(crate) fn ask(&mut self, ask: &mut Ask<'_>) -> Answer<()> {
        if self.ticket.is_some() {
            if !self.is_stale() {
                return Answer::Go(());
            }
            self.give_back();
        }
        match self.gate.ask(&mut self.place, ask) {
            Answer::Go(ticket) => {
                self.ticket = Some(ticket);
                Answer::Go(())
            }
            Answer::Wait(at) => Answer::Wait(at),
            Answer::Refuse(rejected) => {
                self.give_back();
                Answer::Refuse(rejected)
            }
        }
    }

    /// Gets a ticket if that is to be had at once. Then there is nothing to tell of it either.
    #[inline]
    pub(crate) fn ask_plainly(&mut self) -> bool {
        if self.ticket.is_none() {
            self.ticket = self.gate.ask_plainly();
            return self.ticket.is_some();
        }
        false
    }

    /// Whether it has a ticket that holds no more.
    #[inline]
    pub(crate) fn is_stale(&self) -> bool {
        let ticket = self.ticket.as_ref();
        ticket.is_some_and(|ticket| self.gate.is_stale(ticket))
    }

    /// The attempt begins.
    pub(crate) fn begin(&mut self) {
        if let Some(ticket) = &mut self.ticket {
            self.gate.begin(ticket);
        }
    }

    /// What the ask that gave it its ticket changed.
    pub(crate) fn news(&self) -> Option<Change> {
        self.ticket.as_ref().and_then(G::news)
    }

    /// Why it would have no ticket, if the gate did more than watch.
    pub(crate) fn would_refuse(&self) -> Option<Reason> {
        self.ticket.as_ref().and_then(G::would_refuse)
    }

    /// The attempt that held the ticket ended. Says whether it was only counted, or there is no ticket.
    #[inline]
    pub(crate) fn settle_plainly(&mut self, outcome: &mut Outcome<'_>) -> bool {
        let Some(ticket) = &mut self.ticket else {
            return true;
        };
        let is_plain = self.gate.settle_plainly(ticket, outcome);
        if is_plain {
            self.ticket = None;
        }
        is_plain
    }

    /// The same, whatever it takes.
    #[inline]
    pub(crate) fn settle(&mut self, outcome: &mut Outcome<'_>) -> Option<Change> {
        if self.settle_plainly(outcome) {
            return None;
        }
        let ticket = self.ticket.take()?;
        self.gate.settle(ticket, outcome)
    }

    /// The attempt ended, and what it gave a right to goes on.
    pub(crate) fn note(&mut self, outcome: &mut Outcome<'_>) -> Option<Change> {
        self.gate.note(self.ticket.as_ref()?, outcome)
    }

    pub(crate) const fn has_ticket(&self) -> bool {
        self.ticket.is_some()
    }

    /// Gives back what it holds, if it holds anything.
    #[inline(never)]
    pub(crate) fn give_back(&mut self) {
        if let Some(place) = self.place.take() {
            self.gate.leave(place);
        }
        if let Some(ticket) = self.ticket.take() {
            self.gate.abandon(ticket);
        }
    }
}

impl<G: Gate> Drop for Pass<G> {
    #[inline]
    fn drop(&mut self) {
        if self.place.is_some() || self.ticket.is_some() {
            self.give_back();
        }
    }
}

impl<G: Gate> fmt::Debug for Pass<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pass")
            .field("waits", &self.place.is_some())
            .field("has_ticket", &self.has_ticket())
            .finish_non_exhaustive()
    }
}
