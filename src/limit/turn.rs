//! Waiting for one's turn at a gate: the engine's way in, for those without the engine.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use crate::clock::{Clock, Sleep, Why};
use crate::error::Rejected;
use crate::gate::{Answer, Ask, Gate, Purpose};
use crate::rng::Rng;
use crate::throttle::Priority;

/// One that waits at a gate. Dropping it gives up its place.
pub(super) struct Turn<'a, G: Gate> {
    gate: &'a G,
    clock: Clock,
    place: Option<u64>,
    /// Boxed, since most never wait, and few of those that do need a timer.
    timer: Option<(Instant, Pin<Box<Sleep>>)>,
    pub(super) latest: Option<Instant>,
}

impl<'a, G: Gate> Turn<'a, G> {
    pub(super) const fn new(gate: &'a G, clock: Clock) -> Self {
        Self {
            gate,
            clock,
            place: None,
            timer: None,
            latest: None,
        }
    }

    pub(super) const fn gate(&self) -> &'a G {
        self.gate
    }

    pub(super) const fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<G::Ticket, Rejected>> {
        loop {
            let mut ask = Ask {
                clock: &self.clock,
                moment: None,
                rng: &Rng::thread_local(),
                waker: context.waker(),
                latest: self.latest,
                attempt: 1,
                timeout: None,
                priority: Priority::default(),
                purpose: Purpose::Call,
                news: None,
            };
            let at = match self.gate.ask(&mut self.place, &mut ask) {
                Answer::Go(ticket) => return Poll::Ready(Ok(ticket)),
                Answer::Refuse(rejected) => return Poll::Ready(Err(rejected)),
                Answer::Wait(at) => at,
            };
            let Some(at) = at.into_iter().chain(self.latest).min() else {
                self.timer = None;
                return Poll::Pending;
            };
            if self.timer.as_ref().is_none_or(|(set, _)| *set != at) {
                let sleep = self.clock.sleep_until(at, Why::Other);
                self.timer = Some((at, Box::pin(sleep)));
            }
            if let Some((_, sleep)) = &mut self.timer {
                ready!(sleep.as_mut().poll(context));
                self.timer = None;
            }
        }
    }
}

impl<G: Gate> Drop for Turn<'_, G> {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            self.gate.leave(place);
        }
    }
}

impl<G: Gate> fmt::Debug for Turn<'_, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn")
            .field("waits", &self.place.is_some())
            .field("latest", &self.latest)
            .finish_non_exhaustive()
    }
}
