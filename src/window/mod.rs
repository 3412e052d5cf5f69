//! A congestion window per service, in front of every attempt.
//!
//! Retries, budgets and breakers all act after something has failed, and all but the breaker act on
//! the call that failed. In an overload that is too late and too little: clients go on sending what
//! the service can't answer in time, the service works on what nobody waits for any more, and it
//! stays down after the cause has gone. A network has the same trouble, and TCP's answer to it is a
//! window: how much may be under way is found from what comes back, and what may not go yet waits at
//! the sender, where it costs nothing. A [`Window`] does that for calls.
//!
//! It is *open* while all goes well, and then costs next to nothing. When answers to what it sent
//! fail, or take much longer than usual, it is *limited*: attempts under way are bounded by the
//! window, further ones are parked in order, and the window shrinks or grows with the answers. A
//! window below one is a pace: one attempt every so often. However bad it gets, it goes on probing;
//! and when the service answers again the window grows until nothing is parked, and is open.
//!
//! # Example
//!
//! ```
//! use evenkeel::{Pipeline, Retry, Window};
//! use std::time::Duration;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let window = Window::new();
//! let pipeline = Pipeline::new()
//!     .deadline(Duration::from_secs(5))
//!     .retry(Retry::default())
//!     .window(window.clone())
//!     .timeout(Duration::from_secs(1));
//! assert_eq!(pipeline.run(|_| async { Ok::<_, ()>(7) }).await, Ok(7));
//! assert!(window.snapshot().window.is_none()); // open
//! # }
//! ```
//!
//! # The rules
//!
//! - **Evidence** is only what became of attempts that were sent after the last decrease; the last 15
//!   answers count, and of those older than two seconds only the last three. An answer is *late* if its
//!   attempt timed out, or took longer than five times the usual (at least 20 ms) or a quarter of the
//!   attempt timeout, whichever is less, but at least twice the usual.
//! - **Decrease:** after three answers (two while limited) of which more than 60 % failed; or when five
//!   more were late than in time (while limited what the pace gives in a second, two to four); or after one
//!   timeout, where nothing good came for twice as long. Then to 55-65 % of what it was; the first time, of
//!   the demand, and no more than that while nothing is parked. The least is a fifth of the demand: the
//!   probes. One goes at least every twenty seconds. Where failures cost the server little (they came in
//!   less than a quarter of the usual time) a small client probes as often as it calls, up to 0.8 times
//!   per second, and at least every five.
//! - **Increase** with each window of good answers: four times up to where it was last known to be
//!   well, then by 30 %, and always by 0.4 attempts per second at least. A pause that has begun becomes
//!   shorter with it. At three times the demand it grows no more, and with nothing parked is open.
//! - **The usual** latency is learned while open; what is late then counts as one of all that ever came.
//!   While limited it is learned fast from probes, and slowly, up to a bound, from others.
//! - **`Retry-After`:** nothing goes before it ends; then it begins with the pace of its demand, at a moment of its
//!   own for each client, and grows. While other answers of the last half second are good, one such
//!   answer speaks for one replica and holds only the call that was told.
//! - **Parked** attempts go in order, and are refused when they could no longer be answered in time.
//!
//! # Defaults
//!
//! | setting | default | why |
//! |---|---|---|
//! | [`order`](Window::order) | first come first served | the fair one; newest first answers more calls quickly and lets more wait in vain |
//! | [`max_parked`](Window::max_parked) | 10,000 | a bound for memory; time bounds the line long before |
//! | longest time parked | 5 min | for calls without a deadline |
//! | [`longest_quiet`](Window::longest_quiet) | 5 min | a longer hint is for the call that was told |
//!
//! # Events
//!
//! [`Event::Changed`](crate::Event::Changed) when it is limited, shrinks, is told to be quiet and opens;
//! [`Event::Parked`](crate::Event::Parked) for a call that has to wait.
//!
//! # How it composes
//!
//! A pipeline asks it before every attempt, before rate limit, bulkhead and breaker; it
//! is what makes more attempts harmless, so with it a call may make four and a budget give 50 %. One
//! window belongs to one service: where a pipeline calls many, give it a [`Keyed`](crate::Keyed)
//! one. It wants an attempt timeout, without which a service that hangs gives no evidence.
//!
//! # What it does not do
//!
//! It knows nothing of other clients but by their effect, and it doesn't choose between replicas: one
//! bad host of ten behind one name is within what it tolerates. Failures that are the request's own
//! fault are good answers to it.

mod controller;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::error::{ConfigError, Reason, Rejected};
use crate::event;
use crate::gate::{Answer, Ask, Gate, Outcome};
use crate::keyed::{PerKey, sealed::Sealed};
use crate::limit::Order;
use crate::limit::room::{Line, Machine, Next, Room};
use crate::rng::{Draws, Rng};
use crate::sync::{Arc, AtomicU64, Ordering, lock_plain};
use crate::verdict::{Hint, Kind, Verdict};

use controller::{Controller, Step, late_after};

/// A congestion window. Clones share one.
///
/// The setters start a fresh, open window: set it up before it is cloned or used.
#[derive(Clone)]
pub struct Window {
    shared: Arc<Shared>,
}

struct Shared {
    /// std's under loom too: its models don't look at settings.
    settings: std::sync::Mutex<Settings>,
    /// The epoch, and in the lowest bit whether it is limited. All that an ask reads while open.
    word: AtomicU64,
    /// Good answers while open. All that an answer touches while open.
    good: AtomicU64,
    /// In nanoseconds; zero while unknown.
    usual: AtomicU64,
    /// With less to its deadline an attempt is too late while limited. In nanoseconds; zero: unknown.
    least: AtomicU64,
    /// Every so many good answers, a power of two, one is looked at.
    stride: AtomicU64,
    /// First attempts that arrived, but for those counted in `good`.
    arrived: AtomicU64,
    room: Room<Limiter>,
}

#[derive(Clone, Copy, Debug)]
struct Settings {
    order: Order,
    max_parked: usize,
    longest_quiet: Duration,
}

/// The controller behind its waiting room, and how far it has read the counters.
#[derive(Debug)]
struct Limiter {
    controller: Controller,
    good: u64,
    arrived: u64,
    /// How long an attempt may take: one that took longer is lost.
    patience: Duration,
    /// Somebody may be in line.
    parked: bool,
    /// When a good answer was looked at last.
    sampled: Option<Instant>,
}

impl Window {
    /// An open window.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Settings {
            order: Order::FirstIn,
            max_parked: MAX_PARKED,
            longest_quiet: LONGEST_QUIET,
        })
    }

    /// Who goes first of those that are parked. Default: [`Order::FirstIn`].
    #[must_use]
    pub fn order(self, order: Order) -> Self {
        self.change(|it| it.order = order)
    }

    /// How many attempts can be parked at once, inclusive. Zero: what may not go at once is refused.
    /// Default: 10,000.
    #[must_use]
    pub fn max_parked(self, attempts: usize) -> Self {
        self.change(|it| it.max_parked = attempts)
    }

    /// What may not go at once is refused at once: [`max_parked(0)`](Self::max_parked).
    #[must_use]
    pub fn fail_fast(self) -> Self {
        self.max_parked(0)
    }

    /// The longest `Retry-After` that holds for all calls, inclusive. Zero: none does. Default: 5 min.
    #[must_use]
    pub fn longest_quiet(self, longest: Duration) -> Self {
        self.change(|it| it.longest_quiet = longest)
    }

    /// Asks for one attempt. Never waits: where others are parked, or the window is full, it refuses.
    /// Inside a pipeline, attempts wait instead.
    ///
    /// # Errors
    ///
    /// The window leaves no room now.
    ///
    /// # Examples
    ///
    /// ```
    /// use evenkeel::{Verdict, Window};
    /// use std::time::{Duration, Instant};
    ///
    /// let (window, now, latency) = (Window::new(), Instant::now(), Duration::from_millis(80));
    /// for _ in 0..3 {
    ///     let permit = window.try_acquire(now).unwrap();
    ///     let _ = permit.record(Verdict::transient(), latency, now);
    /// }
    /// let rejected = window.try_acquire(now).unwrap_err(); // three of three failed
    /// assert!(rejected.retry_at().unwrap() > now);
    /// ```
    #[inline]
    pub fn try_acquire(&self, now: Instant) -> Result<Permit<'_>, Rejected> {
        let word = self.shared.word.load(Ordering::Acquire);
        let ticket = if word & LIMITED == 0 {
            Ticket::open(word, true)
        } else {
            self.shared.try_acquire(now)?
        };
        Ok(Permit {
            window: self,
            ticket: Some(ticket),
        })
    }

    /// The window at one moment.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let parked = self.shared.room.waiting();
        self.shared.room.with(None, |limiter| {
            let it = &limiter.controller;
            Snapshot {
                window: it.window(),
                why: (!it.is_open()).then_some(it.why()),
                in_flight: it.in_flight(),
                parked,
                quiet_until: it.quiet_end(),
                demand: it.demand(),
                usual: Duration::try_from_secs_f64(it.usual()).unwrap_or_default(),
            }
        })
    }

    fn with(settings: Settings) -> Self {
        let limiter = Limiter {
            controller: Controller::new(),
            good: 0,
            arrived: 0,
            patience: PATIENCE,
            parked: false,
            sampled: None,
        };
        Self {
            shared: Arc::new(Shared {
                word: AtomicU64::new(0),
                good: AtomicU64::new(0),
                usual: AtomicU64::new(0),
                least: AtomicU64::new(0),
                stride: AtomicU64::new(1),
                arrived: AtomicU64::new(0),
                room: Room::new(limiter, settings.line()),
                settings: std::sync::Mutex::new(settings),
            }),
        }
    }

    fn change(self, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = self.shared.settings();
        change(&mut settings);
        Self::with(settings)
    }

    /// What another service than the one that was asked said of itself, as after a redirect.
    pub(crate) fn hear(&self, outcome: &mut Outcome<'_>) -> Option<event::Change> {
        let word = self.shared.word.load(Ordering::Acquire);
        self.shared.settle(Ticket::open(word, false), outcome)
    }

    /// While it is limited: when the next attempt may go, and what an active check has to know of those
    /// before.
    pub(crate) fn turn(&self, now: Instant) -> Option<Turn> {
        if self.shared.word.load(Ordering::Relaxed) & LIMITED == 0 {
            return None;
        }
        let has_line = self.shared.settings().max_parked > 0;
        self.shared.room.look(|limiter| {
            let it = &limiter.controller;
            (!it.is_open()).then(|| Turn {
                at: it.next_send(now).unwrap_or(now),
                last: it.last_seen(),
                has_line,
            })
        })
    }

    /// With less than this to its deadline an attempt won't be answered in time. Zero while open.
    pub(crate) fn least_time(&self, timeout: Option<Duration>) -> Duration {
        match self.shared.word.load(Ordering::Relaxed) & LIMITED {
            0 => Duration::ZERO,
            _ => self.shared.least_time(timeout),
        }
    }

    /// Whether an attempt that took so long took too long.
    pub(crate) fn is_late(&self, latency: Duration, timeout: Option<Duration>) -> bool {
        let usual = self.shared.usual.load(Ordering::Relaxed);
        nanos(latency) > late_after(usual, timeout.map(nanos))
    }
}

impl Settings {
    const fn line(self) -> Line {
        Line {
            capacity: self.max_parked,
            order: self.order,
            max_wait: Some(LONGEST_WAIT),
        }
    }
}

impl Default for Window {
    /// [`Window::new`].
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window")
            .field("settings", &self.shared.settings())
            .field("snapshot", &self.snapshot())
            .finish()
    }
}

impl Sealed for Window {
    fn reconfigure(&self, to: &Self, now: Instant) -> bool {
        let new = to.shared.settings();
        *lock_plain(&self.shared.settings) = new;
        self.shared.room.set_line(new.line(), now);
        true
    }
}

impl PerKey for Window {
    fn fresh(&self) -> Self {
        Self::with(self.shared.settings())
    }

    fn is_idle(&self, _: Instant) -> bool {
        // After so long without a call nothing it knew holds any more.
        Arc::strong_count(&self.shared) == 1
    }

    fn check(&self) -> Result<(), ConfigError> {
        Ok(())
    }
}

/// A right to send one attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    ticket: controller::Ticket,
    /// The first attempt of its call.
    first: bool,
}

/// What an active check has to know of a limited window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// When the next attempt may go.
    pub(crate) at: Instant,
    /// When one went last, or came back well, or the window was limited.
    pub(crate) last: Option<Instant>,
    /// Attempts can wait for their turn.
    pub(crate) has_line: bool,
}

/// What became of a success.
enum Counted {
    /// It isn't one of those that are only counted.
    Not,
    Plainly,
    /// It is counted, and one of those that are looked at.
    ToBeLookedAt,
}

impl Ticket {
    const fn open(word: u64, first: bool) -> Self {
        let (epoch, counted) = (word >> 1, false);
        let ticket = controller::Ticket { epoch, counted };
        Self { ticket, first }
    }
}

/// A right to send one attempt; see [`Window::try_acquire`]. Dropped, it says nothing.
#[derive(Debug)]
#[must_use = "dropping the permit gives it back"]
pub struct Permit<'a> {
    window: &'a Window,
    ticket: Option<Ticket>,
}

impl Permit<'_> {
    /// The attempt took `latency` and ended `now` with this verdict. Of hints only
    /// [`Hint::After`] is read.
    #[inline]
    #[allow(clippy::must_use_candidate)] // the change is for those who tell it
    pub fn record(mut self, verdict: Verdict, latency: Duration, now: Instant) -> Option<Change> {
        let ticket = self.ticket.take()?;
        if verdict.is_success() {
            match self.window.shared.count(ticket, Some(latency), None) {
                Counted::Plainly => return None,
                Counted::ToBeLookedAt => {
                    self.window.shared.sample(now, Some(latency));
                    return None;
                }
                Counted::Not => {}
            }
        }
        self.window.record(ticket, verdict, latency, now)
    }
}

impl Window {
    #[cold]
    fn record(
        &self,
        ticket: Ticket,
        verdict: Verdict,
        latency: Duration,
        now: Instant,
    ) -> Option<Change> {
        let mut outcome = Outcome {
            verdict: &verdict,
            hint: match verdict.server_hint() {
                Some(Hint::After(length)) => Some(length),
                _ => None,
            },
            latency: Some(latency),
            quota: None,
            timed_out: false,
            timeout: None,
            clock: &Clock::tokio(),
            moment: Some(now),
            rng: &Rng::thread_local(),
        };
        match self.shared.settle(ticket, &mut outcome)? {
            event::Change::Window(change) => Some(change),
            _ => None,
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.window.abandon(ticket);
        }
    }
}

impl Gate for Window {
    type Ticket = Ticket;

    #[inline]
    fn ask_plainly(&self) -> Option<Ticket> {
        let word = self.shared.word.load(Ordering::Acquire);
        (word & LIMITED == 0).then(|| Ticket::open(word, true))
    }

    #[inline]
    fn ask(&self, place: &mut Option<u64>, ask: &mut Ask<'_>) -> Answer<Ticket> {
        let word = self.shared.word.load(Ordering::Acquire);
        let first = ask.attempt == 1 && !ask.purpose.is_check();
        if word & LIMITED == 0 && place.is_none() {
            return Answer::Go(Ticket::open(word, first));
        }
        match self.shared.ask_limited(place, ask) {
            Answer::Go(ticket) => Answer::Go(Ticket { ticket, first }),
            Answer::Wait(at) => Answer::Wait(at),
            Answer::Refuse(refusal) => Answer::Refuse(refusal),
        }
    }

    fn leave(&self, place: u64) {
        self.shared.room.leave(place);
    }

    #[inline]
    fn settle_plainly(&self, ticket: &mut Ticket, outcome: &mut Outcome<'_>) -> bool {
        let shared = &*self.shared;
        let kind = outcome.verdict.kind();
        if !matches!(kind, Kind::RequestFault | Kind::Success) {
            return false;
        }
        match shared.count(*ticket, outcome.latency, outcome.timeout) {
            Counted::Plainly => true,
            Counted::ToBeLookedAt => {
                // It has been counted: where the clock panics, abandoning it counts nothing more.
                ticket.first = false;
                // A refusal takes less time than the work.
                let latency = outcome.latency.filter(|_| kind == Kind::Success);
                shared.sample(outcome.now(), latency);
                true
            }
            Counted::Not => false,
        }
    }

    fn settle(&self, ticket: Ticket, outcome: &mut Outcome<'_>) -> Option<event::Change> {
        self.shared.settle(ticket, outcome)
    }

    fn abandon(&self, ticket: Ticket) {
        self.shared.abandon(ticket);
    }

    /// It was given before the window shrank or was told to be quiet.
    #[inline]
    fn is_stale(&self, ticket: &Ticket) -> bool {
        let word = self.shared.word.load(Ordering::Relaxed);
        word & LIMITED != 0 && word >> 1 != ticket.ticket.epoch
    }

    fn closed_until(&self, now: Instant) -> Option<Instant> {
        if self.shared.word.load(Ordering::Relaxed) & LIMITED == 0 {
            return None;
        }
        let room = &self.shared.room;
        room.with(None, |limiter| limiter.controller.next_send(now))
    }
}

impl Shared {
    fn settings(&self) -> Settings {
        *lock_plain(&self.settings)
    }

    /// Counts a success while open, if it was in time.
    #[inline]
    fn count(
        &self,
        ticket: Ticket,
        latency: Option<Duration>,
        timeout: Option<Duration>,
    ) -> Counted {
        let open = ticket.ticket.epoch << 1;
        if ticket.ticket.counted || self.word.load(Ordering::Relaxed) != open {
            return Counted::Not;
        }
        if let Some(latency) = latency {
            let usual = self.usual.load(Ordering::Relaxed);
            if nanos(latency) > late_after(usual, timeout.map(nanos)) {
                return Counted::Not;
            }
        }
        let count = self.good.fetch_add(1, Ordering::Relaxed);
        if count & (self.stride.load(Ordering::Relaxed) - 1) == 0 {
            return Counted::ToBeLookedAt;
        }
        Counted::Plainly
    }

    #[cold]
    fn ask_limited(
        &self,
        place: &mut Option<u64>,
        ask: &mut Ask<'_>,
    ) -> Answer<controller::Ticket> {
        let now = ask.now();
        if place.is_none() {
            if ask.attempt == 1 && !ask.purpose.is_check() {
                self.arrived.fetch_add(1, Ordering::Relaxed);
            }
            let patience = ask.timeout.unwrap_or(PATIENCE);
            self.change(now, |limiter| {
                limiter.controller.asked(now);
                // Several pipelines may have different ones.
                let least = match limiter.controller.in_flight() {
                    0 => Duration::ZERO,
                    _ => limiter.patience,
                };
                limiter.patience = patience.max(least);
            });
        }
        let least = self.least_time(ask.timeout);
        let latest = ask.latest;
        ask.latest = latest.map(|latest| latest.checked_sub(least).unwrap_or(now));
        let answer = self.room.ask(place, ask);
        let own = std::mem::replace(&mut ask.latest, latest);
        match (answer, own) {
            (Answer::Wait(at), Some(own)) => Answer::Wait(Some(at.map_or(own, |at| at.min(own)))),
            (answer, _) => answer,
        }
    }

    #[cold]
    fn try_acquire(&self, now: Instant) -> Result<Ticket, Rejected> {
        self.arrived.fetch_add(1, Ordering::Relaxed);
        self.change(now, |_| ());
        let mut draws = Rng::thread_local().draws();
        let ticket = self.room.try_go(now, &mut draws)?;
        let first = true;
        Ok(Ticket { ticket, first })
    }

    /// With less than this to its deadline an attempt won't be answered in time.
    fn least_time(&self, timeout: Option<Duration>) -> Duration {
        let by_timeout = timeout.map_or(Duration::MAX, |timeout| timeout / 10 * 7);
        let least = match self.least.load(Ordering::Relaxed) {
            0 => UNKNOWN_LEAST,
            nanos => Duration::from_nanos(nanos),
        };
        least.min(by_timeout)
    }

    /// Looks at one of many good answers.
    #[cold]
    fn sample(&self, now: Instant, latency: Option<Duration>) {
        self.change(now, |limiter| {
            let before = limiter.sampled.replace(now);
            let since = before.map(|before| now.saturating_duration_since(before));
            let every = self.stride.load(Ordering::Relaxed);
            self.stride.store(stride(every, since), Ordering::Relaxed);
            limiter.controller.saw_good(now);
            if let Some(latency) = latency {
                limiter.controller.learn(latency.as_secs_f64());
            }
        });
    }

    #[cold]
    fn settle(&self, ticket: Ticket, outcome: &mut Outcome<'_>) -> Option<event::Change> {
        let failed = match outcome.verdict.kind() {
            Kind::Overloaded | Kind::RateLimited | Kind::Transient => true,
            Kind::RequestFault | Kind::Success => false,
            // Says nothing of load, and nothing of better times.
            Kind::TargetFault => {
                self.abandon(ticket);
                return None;
            }
        };
        let now = outcome.now();
        let limit = late_after(
            self.usual.load(Ordering::Relaxed),
            outcome.timeout.map(nanos),
        );
        let late = outcome.timed_out || outcome.latency.is_some_and(|it| nanos(it) > limit);
        let is_success = outcome.verdict.is_success();
        let latency = outcome.latency.filter(|_| is_success);
        let timeout = outcome.timeout.filter(|_| outcome.timed_out);
        let took = outcome.latency.or(timeout);
        let longest = self.settings().longest_quiet;
        let answer = controller::Answer {
            failed,
            late,
            took: took.map(|it| it.as_secs_f64()),
            latency: latency.map(|it| it.as_secs_f64()),
            believable: longest_usual(outcome.timeout),
            quiet: outcome
                .hint
                .filter(|hint| failed && !hint.is_zero() && *hint <= longest),
        };
        let mut draws = outcome.rng.draws();
        if !ticket.ticket.counted && ticket.first {
            self.arrived.fetch_add(1, Ordering::Relaxed);
        }
        let step = self.change(now, |limiter| {
            let it = &mut limiter.controller;
            let step = it.answered(ticket.ticket, answer, limiter.parked, now, &mut draws)?;
            let until = it.quiet_until(now);
            Some((step, it.window(), it.why(), until))
        });
        let (step, window, why, quiet_until) = step?;
        let quiet = quiet_until.map(|until| until.saturating_duration_since(now));
        let state = match step {
            Step::Limited => State::Limited,
            Step::Opened => State::Open,
            Step::Quiet => State::Quiet,
            Step::Shrunk => State::Shrunk,
        };
        Some(event::Change::Window(Change {
            state,
            why,
            window,
            quiet,
        }))
    }

    fn abandon(&self, ticket: Ticket) {
        if ticket.ticket.counted {
            self.room
                .with(None, |limiter| limiter.controller.dropped(ticket.ticket));
        } else if ticket.first {
            self.arrived.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Reads the counters, changes the controller, and tells those who don't take the lock, and
    /// those whom a new quiet makes too late.
    fn change<R>(&self, now: Instant, change: impl FnOnce(&mut Limiter) -> R) -> R {
        self.room.replan(now, |limiter| {
            let (good, arrived) = (
                self.good.load(Ordering::Relaxed),
                self.arrived.load(Ordering::Relaxed),
            );
            let (fresh, others) = (
                good.wrapping_sub(limiter.good),
                arrived.wrapping_sub(limiter.arrived),
            );
            (limiter.good, limiter.arrived) = (good, arrived);
            let it = &mut limiter.controller;
            let good_at = limiter.sampled.map_or(now, |at| at.min(now));
            it.tally(
                fresh.wrapping_add(others),
                fresh,
                good_at,
                limiter.parked,
                now,
            );
            let result = change(limiter);
            let it = &limiter.controller;
            let usual = Duration::try_from_secs_f64(it.known_usual()).unwrap_or_default();
            self.usual.store(nanos(usual), Ordering::Relaxed);
            let least = Duration::try_from_secs_f64(it.least_time()).unwrap_or_default();
            self.least.store(nanos(least), Ordering::Relaxed);
            let word = it.epoch() << 1 | u64::from(!it.is_open());
            self.word.store(word, Ordering::Release);
            result
        })
    }
}

impl Machine for Limiter {
    type Ticket = controller::Ticket;

    const LATE: Reason = Reason::WindowFull;
    const FULL: Reason = Reason::WindowFull;
    const CHECKS_FIRST: bool = true;

    fn go(
        &mut self,
        now: Instant,
        draws: &mut Draws,
    ) -> Result<controller::Ticket, Option<Instant>> {
        self.controller.next(now, self.patience)?;
        Ok(self.controller.send(now, draws))
    }

    fn next(&self, now: Instant) -> Next {
        match self.controller.next(now, self.patience) {
            Ok(()) => Next::Now,
            Err(Some(at)) => Next::At(at),
            Err(None) => Next::Later,
        }
    }

    fn turn(&self, _: usize, now: Instant) -> Option<Instant> {
        // The window may grow at any time, but nobody goes before a quiet ends.
        self.controller.quiet_until(now)
    }

    fn guess(&self, ahead: usize, now: Instant) -> Option<Instant> {
        Some(self.controller.guess(ahead, now))
    }

    fn queued(&mut self, any: bool) {
        self.parked = any;
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// A window at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// How many attempts may be under way at once; below one it is a pace. `None`: it is open, and
    /// as many as will.
    pub window: Option<f64>,
    /// Why it is limited.
    pub why: Option<Why>,
    /// Attempts under way that were sent while it was limited.
    pub in_flight: u32,
    /// Attempts that wait in line.
    pub parked: usize,
    /// The end of the quiet that the server asked for last, if it asked for one.
    pub quiet_until: Option<Instant>,
    /// Calls per second, of the last twenty seconds or so.
    pub demand: f64,
    /// How long an attempt takes when all is well. Zero while unknown.
    pub usual: Duration,
}

/// What happened to a window.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Change {
    /// What it came to.
    pub state: State,
    /// Why.
    pub why: Why,
    /// How many attempts may be under way from now on. `None`: as many as will.
    pub window: Option<f64>,
    /// For how long nothing is sent.
    pub quiet: Option<Duration>,
}

/// What a window came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// It was open and is limited.
    Limited,
    /// It was limited and is open.
    Open,
    /// Nothing goes for a while.
    Quiet,
    /// It was limited and is more so.
    Shrunk,
}

/// Why a window is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Why {
    /// Most answers were failures.
    Failures,
    /// Most answers came late.
    Latency,
    /// The server asked for quiet.
    Quiet,
}

/// How often to look at a good answer: some times in a tenth of a second, and at every one in quiet
/// times.
fn stride(every: u64, since: Option<Duration>) -> u64 {
    match since {
        Some(since) if since < OFTEN => (every * 2).min(LONGEST_STRIDE),
        Some(since) if since < SELDOM => every,
        _ => 1,
    }
}

/// A service that usually takes longer than this, in seconds, leaves no room for being late.
fn longest_usual(timeout: Option<Duration>) -> f64 {
    timeout.map_or(f64::INFINITY, |timeout| 0.35 * timeout.as_secs_f64())
}

#[inline]
fn nanos(length: Duration) -> u64 {
    let seconds = length.as_secs().saturating_mul(1_000_000_000);
    seconds.saturating_add(length.subsec_nanos().into())
}

/// The lowest bit of the word.
const LIMITED: u64 = 1;

/// A bound for memory: a parked call takes about a kilobyte.
const MAX_PARKED: usize = 10_000;

/// For calls without a deadline.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// A longer hint is for the call that was told.
const LONGEST_QUIET: Duration = Duration::from_secs(300);

/// Two looks at good answers nearer to each other than this are more than are needed.
const OFTEN: Duration = Duration::from_millis(30);

/// Two looks at good answers further from each other than this are too few.
const SELDOM: Duration = Duration::from_millis(200);

/// Looking takes a lock. A power of two.
const LONGEST_STRIDE: u64 = 64;

/// What an attempt is given that goes to a service of which nothing is known yet.
const UNKNOWN_LEAST: Duration = Duration::from_millis(300);

/// Where attempts have no timeout, one that takes longer than this no longer counts as under way.
const PATIENCE: Duration = Duration::from_secs(10);
