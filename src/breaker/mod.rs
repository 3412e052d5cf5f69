//! Stops calling a service that fails, and finds out gently when it works again.
//!
//! A service that is down answers every call late or not at all. Callers that go on asking hold
//! connections, threads and their own callers up, and give the service no room to come back. A
//! breaker looks at how calls end. If too many fail it opens: calls fail at once, and nothing is
//! sent. After a while it lets a probe through, and what comes of that decides.
//!
//! It is one of the cruder tools. It turns a service that fails in part into one that fails
//! altogether, and each moment it is open after the service is well again is lost. So the defaults
//! are slow to open, short when open, and gentle on the way back.
//!
//! # Example
//!
//! ```
//! use evenkeel::breaker::{Breaker, State};
//! use evenkeel::{Rng, Verdict};
//! use std::time::{Duration, Instant};
//!
//! let (breaker, rng) = (Breaker::new(), Rng::seeded(1));
//! let mut now = Instant::now();
//! for _ in 0..5 {
//!     let permit = breaker.try_acquire(now, &rng).unwrap();
//!     permit.record(Verdict::transient(), now, &rng);
//! }
//! let refused = breaker.try_acquire(now, &rng).unwrap_err();
//!
//! now = refused.retry_at().unwrap();
//! let probe = breaker.try_acquire(now, &rng).unwrap();
//! let change = probe.record(Verdict::success(), now, &rng).unwrap();
//! assert_eq!((change.from, change.to), (State::HalfOpen, State::Closed));
//! ```
//!
//! # Defaults
//!
//! | setting | default | why |
//! |---|---|---|
//! | [`failure_ratio`](Breaker::failure_ratio) | 50 % | a service that answers half of all calls is better than none |
//! | [`min_calls`](Breaker::min_calls) | 20 | half of a handful is chance |
//! | [`window`](Breaker::window) | 10 s | long enough to count, short enough to forget |
//! | [`consecutive_failures`](Breaker::consecutive_failures) | 5 | a quiet client never sees 20 calls; where half of all calls fail, five in a row still come once in 32 |
//! | [`slow_calls`](Breaker::slow_calls) | off | only the caller knows what is slow |
//! | [`cooldown`](Breaker::cooldown) | 1 s, then twice as long each time, ± 50 %, at most 5 s | what is lost by being open after the end of an outage is at most this; a fleet that opened together must not probe together |
//! | [`forget_after`](Breaker::forget_after) | 60 s closed | the next outage is another one |
//! | [`max_hint`](Breaker::max_hint) | 5 min | a server may be believed, not obeyed for ever |
//! | [`probes`](Breaker::probes), [`close_after`](Breaker::close_after), [`reopen_after`](Breaker::reopen_after) | 1 | one call says enough; the ramp is the second opinion |
//! | [`probe_timeout`](Breaker::probe_timeout) | 10 s | the attempt timeout of the presets: what takes longer may give its place to another |
//! | [`ramp`](Breaker::ramp) | 5 s | a fleet that comes back as one takes a cold service down again |
//! | [`request_faults`](Breaker::request_faults), [`cancelled`](Breaker::cancelled) | nothing | a wrong request says nothing about the service, and who gave up says nothing at all |
//!
//! # What counts
//!
//! [`Overloaded`](Kind::Overloaded), [`TargetFault`](Kind::TargetFault) and
//! [`Transient`](Kind::Transient) are failures. [`RateLimited`](Kind::RateLimited) never opens a
//! breaker, since the service is well and only this client asks too much, but it fails a probe.
//! With slow calls on, a slow call is a bad one whatever it returned, a slow probe has failed, and
//! one that counts as nothing isn't slow either.
//!
//! Rules are looked at when a bad outcome is told: a success never opens a breaker. What a call
//! says counts only in the state, and in the very spell of it, in which it was let through; but a
//! late failure's `Retry-After` is heard while it is open.
//!
//! The window of time is kept in ten buckets. It counts every outcome younger than nine tenths of
//! it and none as old as all of it; in between they leave by the bucket. A window of calls is exact.
//!
//! # Changes
//!
//! Each change of state is returned as a [`Change`] to exactly one caller: to the one whose record
//! made it, to the one whose probe opened it halfway ([`Permit::change`]), or to the one who asked
//! and found probes lost or dropped calls too many ([`Refused::change`]). Setting the mode is told
//! even where the state stays what it was.
//!
//! # What it composes with
//!
//! One breaker guards one thing that fails as a whole: a host, not an endpoint of it or a fleet of
//! them. It belongs inside the retries, so that it sees every attempt, and outside the attempt
//! timeout, so that it sees those that time out. [`Budget`](crate::Budget) and
//! [`Window`](crate::Window) go well with it.
//!
//! # What it costs
//!
//! Closed, it takes no lock: one atomic read to ask, and to record a success one exchange for the
//! window of time, or reads only for a full window of calls without a failure and for failures in a
//! row. It reads the clock only for a window of time. Open, refusing takes no lock either: it reads
//! the state and the moment of the end. Changes of state, probes, and failures with a hint do. Each
//! thread remembers the last millisecond that it saw, in 80 bytes, so that most calls compare two
//! moments and compute nothing.
//!
//! A breaker with the defaults is one allocation of under 256 bytes. What only trips and probes need
//! takes 100 more once it first trips or is set by hand. Once threads get into each other's way it
//! takes 128 bytes more for each processor (2 to 16 of them). Settings other than the defaults take
//! 360 bytes, shared by all breakers made from one: by those of a registry, and
//! [so changed](crate::Pipeline::reload) for all of them that are in it. A window of calls takes under
//! 700 bytes for its first 64 calls, then 4 bytes a call as they come, 256 KiB at most; the window of
//! slow calls takes 80.
//!
//! # What it does not do
//!
//! It doesn't wait, and it sends no probes of its own: a call has to come. It does not tell one
//! replica behind a host from another.

mod counts;
mod permit;
mod phase;
mod ramp;
mod recent;
mod report;
mod settings;
mod shared;
mod sliding;
mod state;
mod ticket;
mod time;

use std::fmt;
use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::budget::Ratio;
use crate::error::{ConfigError, Reason, Rejected};
use crate::event;
use crate::gate::{Answer, Ask, Gate, Outcome};
use crate::keyed::{PerKey, sealed::Sealed};
use crate::rng::Rng;
use crate::sync::Arc;
#[cfg(doc)]
use crate::verdict::Kind;

pub use permit::{Permit, Refused};
pub use report::{Change, Mode, Snapshot, State, Why};
pub use settings::CountAs;

use settings::{Settings, Window};
use shared::{Common, Shared};
use ticket::{Ended, Ticket};

/// A shared circuit breaker. Clones are one breaker.
///
/// The setters start a fresh, closed one: set it up before it is cloned or used.
#[derive(Clone)]
pub struct Breaker {
    shared: Arc<Shared>,
}

/// Setting it up.
impl Breaker {
    /// A closed breaker with the defaults.
    #[must_use]
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared::new(Common::of_defaults())),
        }
    }

    /// Opens if at least this share of the calls in the window failed; `None`: never for that
    /// reason. Default: 50 %.
    #[must_use]
    pub fn failure_ratio(self, ratio: impl Into<Option<Ratio>>) -> Self {
        let ratio = ratio.into().map(Ratio::in_millionths);
        self.set(|it| it.rules.failure_ratio = ratio)
    }

    /// Opens if at least this share of the calls in the window took `over` or longer, however they
    /// ended. Default: off.
    #[must_use]
    pub fn slow_calls(self, over: Duration, ratio: Ratio) -> Self {
        self.set(|it| it.rules.slow = Some((over, ratio.in_millionths())))
    }

    /// So many calls have to be in the window before a share of them says anything: at least 1.
    /// Default: 20.
    #[must_use]
    pub fn min_calls(self, calls: u32) -> Self {
        self.set(|it| it.rules.min_calls = calls)
    }

    /// Shares are those of the calls of this stretch of time: at least 1 ms, exact to a tenth.
    /// Default: 10 s.
    #[must_use]
    pub fn window(self, length: Duration) -> Self {
        self.set(|it| it.rules.window = Window::Time(length))
    }

    /// Shares are those of the last so many calls, exactly: from 1 to 65,536. Default: a
    /// [`window`](Self::window) of time.
    #[must_use]
    pub fn window_of_calls(self, calls: u32) -> Self {
        self.set(|it| it.rules.window = Window::Calls(calls))
    }

    /// Opens after so many failures in a row, however long that took; `None`: never for that
    /// reason. At least 1. Default: 5.
    #[must_use]
    pub fn consecutive_failures(self, failures: impl Into<Option<u32>>) -> Self {
        let failures = failures.into();
        self.set(|it| it.rules.in_row = failures)
    }

    /// How long it stays open: the first delay, and the next ones each time it opens again before
    /// it is [forgotten](Self::forget_after). Where a schedule ends, its last delay goes on.
    /// Default: 1 s × 2, at most 5 s, with [`Jitter::Around`](crate::backoff::Jitter::Around).
    ///
    /// A [custom](Backoff::custom) schedule is run while the breaker is locked: it must not use this
    /// breaker.
    #[must_use]
    pub fn cooldown(self, cooldown: Backoff) -> Self {
        self.set(|it| it.cooldown = cooldown)
    }

    /// Closed for so long, it opens for the first delay again. Default: 60 s.
    #[must_use]
    pub fn forget_after(self, health: Duration) -> Self {
        self.set(|it| it.forget_after = health)
    }

    /// How far a server's `Retry-After` is believed that comes with a failure. A longer one is cut
    /// to this. What counts is the latest moment that the failures since the last success asked
    /// for, and those that come late, while it is open, put its end off. It never shortens the cooldown; where it is longer than that,
    /// up to one cooldown is added by chance, so that not all who were told come back as one.
    /// Zero: not at all. Default: 5 min.
    #[must_use]
    pub fn max_hint(self, longest: Duration) -> Self {
        self.set(|it| it.max_hint = longest)
    }

    /// How many probes may be out at once while half-open: at least 1. Default: 1.
    #[must_use]
    pub fn probes(self, probes: u32) -> Self {
        self.set(|it| it.probes = probes)
    }

    /// So many probes have to succeed for it to close: at least 1. Default: 1.
    #[must_use]
    pub fn close_after(self, successes: u32) -> Self {
        self.set(|it| it.close_after = successes)
    }

    /// So many probes have to fail for it to open again: at least 1. Default: 1.
    #[must_use]
    pub fn reopen_after(self, failures: u32) -> Self {
        self.set(|it| it.reopen_after = failures)
    }

    /// A probe that is out for so long is given up as soon as another call needs its place: that
    /// counts as a failed probe, and what it says later doesn't count. Until then its answer
    /// counts, however late. Longer than good answers take; not zero. Default: 10 s.
    #[must_use]
    pub fn probe_timeout(self, length: Duration) -> Self {
        self.set(|it| it.probe_timeout = length)
    }

    /// After half-open, the share of calls let through grows from a tenth to all over this time.
    /// Zero: all at once. Default: 5 s.
    #[must_use]
    pub fn ramp(self, length: Duration) -> Self {
        self.set(|it| it.ramp = length)
    }

    /// What failures count as that are the request's own fault, most 4xx. Default: nothing.
    #[must_use]
    pub fn request_faults(self, count_as: CountAs) -> Self {
        self.set(|it| it.request_faults = count_as)
    }

    /// What calls count as that were dropped before they ended. They count at the time they began.
    /// Where that breaks a rule, the next call that asks finds the breaker open, and is told. A
    /// dropped probe says nothing in any case. Default: nothing.
    #[must_use]
    pub fn cancelled(self, count_as: CountAs) -> Self {
        self.set(|it| it.cancelled = count_as)
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// A zero where at least one is needed, a share of none or more than all, more
    /// [`min_calls`](Self::min_calls) than a window of calls holds, or a cooldown that
    /// [is none](Backoff::check) or [custom](Backoff::custom): the breaker draws it under its lock,
    /// and runs no code of others there.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.shared.live().all().check()
    }
}

/// Using it.
#[allow(clippy::must_use_candidate)] // changes are told for whoever listens
impl Breaker {
    /// Asks for one call. Never waits.
    ///
    /// `rng` decides on the [ramp](Self::ramp) only, and `now` is looked at only if it isn't closed.
    ///
    /// # Errors
    ///
    /// Refused: it is open, all probes are out, or it is on its way back to full traffic.
    #[inline]
    pub fn try_acquire(&self, now: Instant, rng: &Rng) -> Result<Permit<'_>, Refused> {
        match self.shared.admit_plainly() {
            Some(ticket) => Ok(Permit::new(&self.shared, ticket, now)),
            None => self.acquire_otherwise(now, rng),
        }
    }

    /// Lets nothing through until told otherwise.
    pub fn force_open(&self, now: Instant) -> Option<Change> {
        self.shared.set_mode(Mode::ForcedOpen, now)
    }

    /// Lets everything through until told otherwise, and goes on counting.
    pub fn force_closed(&self, now: Instant) -> Option<Change> {
        self.shared.set_mode(Mode::ForcedClosed, now)
    }

    /// Lets everything through until told otherwise, and counts nothing.
    pub fn disable(&self, now: Instant) -> Option<Change> {
        self.shared.set_mode(Mode::Disabled, now)
    }

    /// Goes through its states and tells of them, but refuses nothing: to see what it would do. See
    /// [`Permit::would_refuse`].
    ///
    /// Calls that would have been refused count as nothing.
    pub fn watch_only(&self, now: Instant) -> Option<Change> {
        self.shared.set_mode(Mode::WatchOnly, now)
    }

    /// Decides by itself again: closed, with nothing counted yet.
    pub fn automatic(&self, now: Instant) -> Option<Change> {
        self.shared.set_mode(Mode::Automatic, now)
    }

    /// Its state and its numbers.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        self.shared.snapshot(now)
    }

    /// Takes over mode, state, remaining open time and trips of a snapshot, its own or another
    /// process's. It stays open for an hour at most, or for [`max_hint`](Self::max_hint) if that is
    /// longer.
    ///
    /// Counts aren't taken over, a ramp is not resumed, and half-open becomes open with no time
    /// left, since its probes belong to somebody else. All that was let through before is forgotten.
    ///
    /// # Examples
    ///
    /// ```
    /// use evenkeel::Rng;
    /// use evenkeel::breaker::{Breaker, Snapshot, State};
    /// use std::time::{Duration, Instant};
    ///
    /// let (breaker, rng, now) = (Breaker::new(), Rng::default(), Instant::now());
    /// let mut saved = Snapshot::default();
    /// saved.state = State::Open;
    /// saved.retry_after = Some(Duration::from_secs(3));
    /// breaker.restore(&saved, now, &rng);
    /// let refused = breaker.try_acquire(now, &rng).unwrap_err();
    /// assert_eq!(refused.retry_at(), Some(now + Duration::from_secs(3)));
    /// ```
    pub fn restore(&self, from: &Snapshot, now: Instant, rng: &Rng) -> Option<Change> {
        self.shared.restore(from, now, rng)
    }

    /// While it isn't closed: when it may let a probe through.
    pub(crate) fn probe_at(&self, now: Instant) -> Option<Instant> {
        self.shared.probe_at(now)
    }

    /// Until then its probes are an active check's. `None`: they are everybody's.
    pub(crate) fn reserve(&self, until: Option<Instant>, now: Instant) {
        self.shared.reserve(until, now);
    }

    /// Not inlined, so that what is inlined into callers is short.
    #[inline(never)]
    fn acquire_otherwise(&self, now: Instant, rng: &Rng) -> Result<Permit<'_>, Refused> {
        match self.shared.refuse_plainly(|| now) {
            Some(no) => Err(Refused {
                base: self.shared.base(now),
                no,
            }),
            None => self.acquire_closely(now, rng),
        }
    }

    #[cold]
    #[inline(never)]
    fn acquire_closely(&self, now: Instant, rng: &Rng) -> Result<Permit<'_>, Refused> {
        match self.shared.admit_closely(false, &mut || now, rng) {
            Ok(ticket) => Ok(Permit::new(&self.shared, ticket, now)),
            Err(no) => Err(Refused {
                base: self.shared.base(now),
                no,
            }),
        }
    }

    fn with(settings: Settings) -> Self {
        Self {
            shared: Arc::new(Shared::new(std::sync::Arc::new(Common::new(settings)))),
        }
    }

    fn set(self, set: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = self.shared.live().all();
        set(&mut settings);
        settings.rules.prepare();
        Self::with(settings)
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breaker")
            .field("state", &self.shared.state())
            .field("settings", &self.shared.live().all())
            .finish_non_exhaustive()
    }
}

impl Sealed for Breaker {
    fn reconfigure(&self, to: &Self, _: Instant) -> bool {
        self.shared.reconfigure(&to.shared)
    }

    fn apart(&self) -> Self {
        self.clone().set(|_| ())
    }

    /// Its mode, state, what is left of its open time, and its trips.
    fn successor(&self, to: &Self, now: Instant, rng: &Rng) -> Self {
        let successor = to.fresh();
        let _ = successor.restore(&self.snapshot(now), now, rng);
        successor
    }
}

impl PerKey for Breaker {
    fn fresh(&self) -> Self {
        Self {
            shared: Arc::new(self.shared.fresh()),
        }
    }

    /// Whether nobody else holds it, nobody told it what to do, and it is
    /// [forgotten](Breaker::forget_after) that it was ever open.
    fn is_idle(&self, now: Instant) -> bool {
        Arc::strong_count(&self.shared) == 1 && self.shared.is_forgotten(now)
    }

    fn check(&self) -> Result<(), ConfigError> {
        Self::check(self)
    }
}

impl Gate for Breaker {
    type Ticket = Ticket;

    #[inline]
    fn ask_plainly(&self) -> Option<Ticket> {
        self.shared.admit_plainly()
    }

    fn ask(&self, _place: &mut Option<u64>, ask: &mut Ask<'_>) -> Answer<Ticket> {
        let (rng, is_check) = (ask.rng, ask.purpose.is_check());
        match self.shared.admit(is_check, || ask.now(), rng) {
            Ok(ticket) => Answer::Go(ticket),
            Err(no) => {
                ask.news = no.change().map(event::Change::Breaker);
                let retry_at = no
                    .known()
                    .map(|until| self.shared.instant(until, ask.now()));
                Answer::Refuse(Rejected::new(Reason::BreakerOpen, retry_at))
            }
        }
    }

    fn leave(&self, _place: u64) {
        // Nobody waits in line for a breaker.
    }

    #[inline]
    fn settle_plainly(&self, ticket: &mut Ticket, outcome: &mut Outcome<'_>) -> bool {
        outcome.verdict.is_success() && self.shared.succeeded(ticket, || outcome.now())
    }

    fn settle(&self, ticket: Ticket, outcome: &mut Outcome<'_>) -> Option<event::Change> {
        let ended = Ended {
            kind: outcome.verdict.kind(),
            hint: outcome.hint,
            latency: outcome.latency,
        };
        let rng = outcome.rng;
        let change = self.shared.settle(ticket, ended, || outcome.now(), rng);
        change.map(event::Change::Breaker)
    }

    fn abandon(&self, ticket: Ticket) {
        self.shared.abandon(ticket);
    }

    fn would_refuse(ticket: &Ticket) -> Option<Reason> {
        let refused = ticket.would_be_refused();
        refused.map(|_| Reason::BreakerOpen)
    }

    #[inline]
    fn news(ticket: &Ticket) -> Option<event::Change> {
        ticket.change().map(event::Change::Breaker)
    }

    fn closed_until(&self, now: Instant) -> Option<Instant> {
        self.shared.closed_until(now)
    }
}
