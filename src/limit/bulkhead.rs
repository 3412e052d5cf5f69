//! So many at once.

use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::Change;
use super::adaptive::{Fixed, Limit, Model, Sample};
use super::room::{Line, Machine, Next, Order, Room};
use super::turn::Turn;
use crate::clock::Clock;
use crate::deadline::later;
use crate::error::{ConfigError, Rejected};
use crate::event;
use crate::gate::{Answer, Ask, Gate, Outcome};
use crate::keyed::{PerKey, sealed::Sealed};
use crate::rng::Draws;
use crate::sync::{Arc, AtomicU64, Mutex, Ordering, lock};
use crate::verdict::Kind;

/// Bounds how many attempts run at once. Clones share one bound.
///
/// The setters start a fresh one: set it up before it is cloned or used.
///
/// # Examples
///
/// ```
/// use evenkeel::Clock;
/// use evenkeel::limit::Bulkhead;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let bulkhead = Bulkhead::new(10).queue(100);
/// let permit = bulkhead.acquire(&Clock::default()).await.unwrap();
/// assert_eq!(bulkhead.snapshot().in_flight, 1);
/// drop(permit);
/// assert_eq!(bulkhead.snapshot().in_flight, 0);
/// # }
/// ```
#[derive(Clone)]
pub struct Bulkhead {
    shared: Arc<Shared>,
}

struct Shared {
    word: Arc<Word>,
    room: Room<Places>,
    /// Settings: std's under loom too, for its models don't look at them.
    learns: AtomicBool,
    until_body_ends: AtomicBool,
    /// Behind a lock of its own, since it may be the user's code.
    limit: Mutex<Learned>,
}

struct Learned {
    limit: Box<dyn Limit>,
    model: Model,
    /// What it said last.
    said: u32,
    line: Line,
}

/// All but the state.
struct Settings {
    limit: Box<dyn Limit>,
    model: Model,
    line: Line,
    until_body_ends: bool,
}

impl Bulkhead {
    /// At most so many at once, and as many in line.
    #[must_use]
    pub fn new(max_concurrent: u32) -> Self {
        Self::adaptive(Fixed::new(max_concurrent))
    }

    /// As many at once as `limit` finds good, and at first as many in line.
    #[must_use]
    pub fn adaptive(limit: impl Limit + 'static) -> Self {
        let line = Line {
            capacity: usize::try_from(limit.limit()).unwrap_or(usize::MAX),
            order: Order::FirstIn,
            max_wait: None,
        };
        Self::with(Settings {
            model: Model::of(&limit),
            limit: Box::new(limit),
            line,
            until_body_ends: false,
        })
    }

    /// How many may wait; the next one is refused. Zero: nobody waits. Default: as many as the
    /// limit begins with.
    #[must_use]
    pub fn queue(self, capacity: usize) -> Self {
        self.change(|line| line.capacity = capacity)
    }

    /// Who goes next. Default: first come, first served.
    #[must_use]
    pub fn order(self, order: Order) -> Self {
        self.change(|line| line.order = order)
    }

    /// How long one waits at most; the deadline may end the wait sooner. Default: no bound but the
    /// deadline.
    #[must_use]
    pub fn max_wait(self, max_wait: Duration) -> Self {
        self.change(|line| line.max_wait = Some(max_wait))
    }

    fn change(self, change: impl FnOnce(&mut Line)) -> Self {
        let mut settings = self.shared.settings();
        change(&mut settings.line);
        Self::with(settings)
    }

    fn with(settings: Settings) -> Self {
        let Settings {
            limit,
            model,
            line,
            until_body_ends,
        } = settings;
        let said = said(&*limit);
        let word = Arc::new(Word {
            state: AtomicU64::new(said.into()),
            hold: AtomicU64::new(0),
        });
        let places = Places(Arc::clone(&word));
        Self {
            shared: Arc::new(Shared {
                word,
                room: Room::new(places, line),
                learns: AtomicBool::new(learns(model)),
                until_body_ends: AtomicBool::new(until_body_ends),
                limit: Mutex::new(Learned {
                    limit,
                    model,
                    said,
                    line,
                }),
            }),
        }
    }

    /// A permit is held until the response's body has been read to its end or dropped, not only until
    /// its head has come. Takes [`PermitLayer`](crate::tower::PermitLayer) outside the pipeline; without
    /// it, and with reqwest, the permit goes when the response's `extensions` do. Default: until the
    /// attempt ends.
    #[must_use]
    pub fn until_body_ends(self) -> Self {
        Self::with(Settings {
            until_body_ends: true,
            ..self.shared.settings()
        })
    }

    pub(crate) fn holds_bodies(&self) -> bool {
        self.shared.until_body_ends.load(Ordering::Relaxed)
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// A limit of zero, bounds of a learned limit that make no sense, or a longest wait of zero
    /// where there is a line.
    pub fn check(&self) -> Result<(), ConfigError> {
        let learned = lock(&self.shared.limit);
        learned.limit.check()?;
        let line = learned.line;
        if line.capacity > 0 && line.max_wait.is_some_and(|wait| wait.is_zero()) {
            let problem = "must not be zero; a queue of zero fails at once";
            return Err(ConfigError::new("bulkhead.max_wait", problem));
        }
        Ok(())
    }

    /// A permit, if one is free and nobody waits for it. Never waits.
    #[must_use = "dropping the permit gives it back"]
    #[inline]
    pub fn try_acquire(&self) -> Option<Permit<'_>> {
        let in_flight = self.shared.word.enter(WAITS)?;
        Some(Permit {
            shared: &self.shared,
            in_flight,
            held: None,
        })
    }

    /// Waits for a permit.
    pub fn acquire(&self, clock: &Clock) -> Acquire<'_> {
        Acquire {
            turn: Turn::new(self, clock.clone()),
        }
    }

    /// Lets so many run at once from now on. Those that run already are not touched. Zero lets
    /// nobody go until it is raised again. A learned limit keeps this until it learns more.
    pub fn set_limit(&self, limit: u32) {
        self.shared.told(self.shared.word.set_limit(limit));
    }

    /// The bulkhead at this moment.
    #[must_use]
    pub fn snapshot(&self) -> BulkheadSnapshot {
        let waiting = self.shared.room.waiting();
        let state = self.shared.word.state.load(Ordering::Relaxed);
        BulkheadSnapshot {
            limit: limit_of(state),
            in_flight: in_flight_of(state),
            waiting,
        }
    }
}

impl Shared {
    fn settings(&self) -> Settings {
        let learned = lock(&self.limit);
        Settings {
            limit: learned.limit.fresh(),
            model: learned.model,
            line: learned.line,
            until_body_ends: self.until_body_ends.load(Ordering::Relaxed),
        }
    }

    fn reconfigure(&self, mut settings: Settings, now: Instant) {
        let mut learned = lock(&self.limit);
        let somebody_waits = match (learned.model, settings.model) {
            // One that learned goes on from there, and one that was set by hand stays.
            (old, new) if old == new && new != Model::Own => false,
            (old, new) => {
                match (old, new) {
                    (Model::Aimd(_), Model::Aimd(bounds))
                    | (Model::Gradient(_), Model::Gradient(bounds)) => {
                        learned.limit.rebind(bounds);
                    }
                    // The old one may be the user's code, and is dropped without the lock.
                    _ => mem::swap(&mut learned.limit, &mut settings.limit),
                }
                learned.said = said(&*learned.limit);
                self.word.set_limit(learned.said)
            }
        };
        learned.model = settings.model;
        learned.line = settings.line;
        self.learns.store(learns(settings.model), Ordering::Relaxed);
        let until_body_ends = settings.until_body_ends;
        self.until_body_ends
            .store(until_body_ends, Ordering::Relaxed);
        drop(learned);
        self.told(somebody_waits);
        self.room.set_line(settings.line, now);
    }

    fn release(&self) {
        self.told(self.word.leave());
    }

    /// The word changed; if somebody may wait, the room looks whether the next may go.
    #[inline]
    fn told(&self, somebody_waits: bool) {
        if somebody_waits {
            self.room.with(None, |_| ());
        }
    }

    /// How an attempt went, once its place is free again.
    fn learn(&self, sample: &Sample) -> Option<Change> {
        self.word.held_for(sample.latency);
        if !self.learns.load(Ordering::Relaxed) {
            return None;
        }
        let mut learned = lock(&self.limit);
        learned.limit.sample(sample);
        // Not with what it said just before the sample: it may have changed its mind by itself.
        let (from, to) = (learned.said, said(&*learned.limit));
        if from == to {
            return None;
        }
        learned.said = to;
        // Within the lock, so that the last one to change its mind has the last word.
        let somebody_waits = self.word.set_limit(to);
        drop(learned);
        self.told(somebody_waits);
        Some(Change::Moved { from, to })
    }
}

impl Sealed for Bulkhead {
    /// Those that run and wait keep their places. A limit that learned goes on from where it is,
    /// within its new bounds; one of another kind begins anew.
    fn reconfigure(&self, to: &Self, now: Instant) -> bool {
        self.shared.reconfigure(to.shared.settings(), now);
        true
    }
}

impl PerKey for Bulkhead {
    /// Whether this is the only handle, nobody is in it, nobody waits, and its limit wasn't set by
    /// hand.
    fn is_idle(&self, _: Instant) -> bool {
        let now = self.snapshot();
        Arc::strong_count(&self.shared) == 1
            && now.in_flight == 0
            && now.waiting == 0
            && now.limit == lock(&self.shared.limit).said
    }

    /// One with the same settings and nobody in it.
    fn fresh(&self) -> Self {
        self.clone().change(|_| {})
    }

    fn check(&self) -> Result<(), ConfigError> {
        Self::check(self)
    }
}

impl Gate for Bulkhead {
    type Ticket = Place;

    #[inline]
    fn ask(&self, place: &mut Option<u64>, ask: &mut Ask<'_>) -> Answer<Place> {
        if place.is_none() {
            if let Some(in_flight) = self.shared.word.enter(WAITS) {
                return Answer::Go(Place { in_flight });
            }
        }
        self.shared.room.ask(place, ask)
    }

    fn leave(&self, place: u64) {
        self.shared.room.leave(place);
    }

    fn settle(&self, place: Place, outcome: &mut Outcome<'_>) -> Option<event::Change> {
        self.shared.release();
        self.note(&place, outcome)
    }

    fn note(&self, place: &Place, outcome: &mut Outcome<'_>) -> Option<event::Change> {
        let latency = outcome.latency?;
        let kind = outcome.verdict.kind();
        let dropped = outcome.timed_out || kind == Kind::Overloaded;
        // Other failures are fast or slow for reasons that have nothing to do with how many run.
        if !dropped && kind != Kind::Success {
            self.shared.word.held_for(latency);
            return None;
        }
        let now = outcome.now();
        let sample = Sample::new(latency, place.in_flight, now).dropped(dropped);
        self.shared.learn(&sample).map(event::Change::Limit)
    }

    fn abandon(&self, _: Place) {
        self.shared.release();
    }
}

impl fmt::Debug for Bulkhead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let learned = lock(&self.shared.limit);
        let (model, line) = (learned.model, learned.line);
        drop(learned);
        f.debug_struct("Bulkhead")
            .field("model", &model)
            .field("line", &line)
            .field("until_body_ends", &self.holds_bodies())
            .field("snapshot", &self.snapshot())
            .finish_non_exhaustive()
    }
}

/// A held right to run. Dropping it gives it back, and says nothing about how it went.
#[must_use = "dropping the permit gives it back"]
pub struct Permit<'a> {
    shared: &'a Shared,
    in_flight: u32,
    /// Since when, if anybody told.
    held: Option<(Clock, Instant)>,
}

impl Permit<'_> {
    /// Gives it back after an attempt that was answered, which took `latency` and ended `now`.
    #[allow(clippy::must_use_candidate)] // the change is told, not asked for
    pub fn answered(self, latency: Duration, now: Instant) -> Option<Change> {
        self.end(&Sample::new(latency, 0, now))
    }

    /// Gives it back after an attempt that timed out or was refused because of overload.
    #[allow(clippy::must_use_candidate)] // the change is told, not asked for
    pub fn failed(self, latency: Duration, now: Instant) -> Option<Change> {
        self.end(&Sample::new(latency, 0, now).dropped(true))
    }

    fn end(mut self, sample: &Sample) -> Option<Change> {
        let (shared, in_flight) = (self.shared, self.in_flight);
        // The sample tells it.
        self.held = None;
        drop(self);
        shared.learn(&Sample {
            in_flight,
            ..*sample
        })
    }
}

impl Drop for Permit<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some((clock, since)) = self.held.take() {
            let length = clock.now().saturating_duration_since(since);
            self.shared.word.held_for(length);
        }
        self.shared.release();
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}

/// Waits for a permit; see [`Bulkhead::acquire`].
///
/// # Errors
///
/// The line is full, or the turn did not come in time.
///
/// # Cancel safety
///
/// Dropping it gives up its place in line, and what it was just about to get goes to the next.
#[derive(Debug)]
#[must_use = "futures do nothing unless you .await or poll them"]
pub struct Acquire<'a> {
    turn: Turn<'a, Bulkhead>,
}

impl Acquire<'_> {
    /// Waits no longer than until this moment of the clock. Default: as long as the bulkhead's
    /// [`max_wait`](Bulkhead::max_wait).
    pub fn until(mut self, latest: Instant) -> Self {
        self.turn.latest = Some(latest);
        self
    }
}

impl<'a> Future for Acquire<'a> {
    type Output = Result<Permit<'a>, Rejected>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let shared: &'a Shared = &self.turn.gate().shared;
        let place = self.turn.poll(context);
        place.map_ok(|Place { in_flight }| {
            let clock = self.turn.clock().clone();
            let now = clock.now();
            Permit {
                shared,
                in_flight,
                held: Some((clock, now)),
            }
        })
    }
}

/// A bulkhead at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BulkheadSnapshot {
    /// How many may run at once.
    pub limit: u32,
    /// How many run.
    pub in_flight: u32,
    /// How many wait.
    pub waiting: usize,
}

/// A place in a bulkhead.
#[derive(Debug)]
pub(crate) struct Place {
    /// How many ran when it was taken, itself included.
    in_flight: u32,
}

/// The machine behind the room. It has the line closed while somebody may wait in it: the bit in
/// the word keeps newcomers out, and makes those that leave come through the room.
struct Places(Arc<Word>);

impl Machine for Places {
    type Ticket = Place;

    fn go(&mut self, _: Instant, _: &mut Draws) -> Result<Place, Option<Instant>> {
        let in_flight = self.0.enter(0).ok_or(None)?;
        Ok(Place { in_flight })
    }

    fn next(&self, _: Instant) -> Next {
        let state = self.0.state.load(Ordering::Relaxed);
        if in_flight_of(state) < limit_of(state) {
            return Next::Now;
        }
        Next::Later
    }

    fn guess(&self, ahead: usize, now: Instant) -> Option<Instant> {
        let limit = limit_of(self.0.state.load(Ordering::Relaxed));
        let hold = self.0.hold.load(Ordering::Relaxed);
        if hold == 0 || limit == 0 {
            return None;
        }
        // One place comes free each `hold / limit`.
        let wait = u128::from(hold) * (ahead as u128 + 1) / u128::from(limit);
        let wait = Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX));
        Some(later(now, wait))
    }

    fn queued(&mut self, any: bool) {
        let state = &self.0.state;
        if any {
            state.fetch_or(WAITS, Ordering::AcqRel);
        } else {
            state.fetch_and(!WAITS, Ordering::AcqRel);
        }
    }
}

/// All that those need who find a place free.
///
/// How many run, how many may, and whether somebody waits are one number, so there is no moment
/// between looking at one and changing another.
struct Word {
    /// From the top: one bit if somebody may wait, 31 for how many run, 32 for how many may.
    state: AtomicU64,
    /// About how many nanoseconds a place is held. Zero: not known yet.
    hold: AtomicU64,
}

impl Word {
    /// Takes a place, unless all are taken or one of the bits in `unless` is set. How many run now.
    #[inline]
    fn enter(&self, unless: u64) -> Option<u32> {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            if state & unless != 0 || in_flight_of(state) >= limit_of(state) {
                return None;
            }
            let entered = state + ONE;
            match self.state.compare_exchange_weak(
                state,
                entered,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(in_flight_of(entered)),
                Err(now) => state = now,
            }
        }
    }

    /// Gives a place back. Whether somebody may wait for it.
    #[inline]
    fn leave(&self) -> bool {
        self.state.fetch_sub(ONE, Ordering::Release) & WAITS != 0
    }

    /// Whether somebody may wait for what it brings.
    fn set_limit(&self, limit: u32) -> bool {
        let limit = u64::from(limit.min(MOST));
        let set = |state: u64| Some(state & !LIMIT | limit);
        let (Ok(before) | Err(before)) =
            self.state
                .fetch_update(Ordering::AcqRel, Ordering::Relaxed, set);
        before & WAITS != 0
    }

    /// A moving average. Two that write at once may lose one of both, which no guess can feel.
    fn held_for(&self, latency: Duration) {
        let new = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX).max(1);
        let old = self.hold.load(Ordering::Relaxed);
        let average = match old {
            0 => new,
            old => old - old / 8 + new / 8,
        };
        self.hold.store(average.max(1), Ordering::Relaxed);
    }
}

const fn in_flight_of(state: u64) -> u32 {
    ((state & !WAITS) >> 32) as u32
}

#[allow(clippy::cast_possible_truncation)] // the lower half
const fn limit_of(state: u64) -> u32 {
    state as u32
}

fn learns(model: Model) -> bool {
    !matches!(model, Model::Fixed(_))
}

fn said(limit: &dyn Limit) -> u32 {
    limit.limit().clamp(1, MOST)
}

const WAITS: u64 = 1 << 63;
const ONE: u64 = 1 << 32;
const LIMIT: u64 = ONE - 1;

/// More don't fit beside the bit.
const MOST: u32 = u32::MAX >> 1;

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use proptest::prelude::*;

    use super::*;
    use crate::gate::Purpose;
    use crate::limit::Aimd;
    use crate::rng::Rng;
    use crate::throttle::Priority;
    use crate::verdict::Verdict;

    const MS: Duration = Duration::from_millis(1);

    fn ask(bulkhead: &Bulkhead, place: &mut Option<u64>, now: Instant) -> Answer<Place> {
        bulkhead.ask(
            place,
            &mut Ask {
                clock: &Clock::default(),
                moment: Some(now),
                rng: &Rng::default(),
                waker: Waker::noop(),
                latest: None,
                attempt: 1,
                timeout: None,
                priority: Priority::default(),
                purpose: Purpose::Call,
                news: None,
            },
        )
    }

    fn outcome<'a>(
        verdict: &'a Verdict,
        timed_out: bool,
        clock: &'a Clock,
        rng: &'a Rng,
    ) -> Outcome<'a> {
        Outcome {
            verdict,
            quota: None,
            hint: None,
            latency: Some(MS),
            timed_out,
            timeout: None,
            clock,
            moment: Some(Instant::now()),
            rng,
        }
    }

    proptest! {
        /// Places, line and limit, step by step, against counting.
        #[test]
        fn a_bulkhead_is_a_count_and_a_list(
            limit in 1..5_u32,
            queue in 0..4_usize,
            ops in prop::collection::vec((0..5_u8, any::<prop::sample::Index>(), 0..6_u32), 1..150),
        ) {
            let now = Instant::now();
            let bulkhead = Bulkhead::new(limit).queue(queue);
            let (mut limit, mut held, mut line) = (limit, Vec::new(), Vec::<Option<u64>>::new());
            for (op, index, number) in ops {
                match op {
                    0 => {
                        let mut place = None;
                        let is_free = line.is_empty() && held.len() < limit as usize;
                        match ask(&bulkhead, &mut place, now) {
                            Answer::Go(it) => {
                                prop_assert!(is_free);
                                held.push(it);
                                prop_assert_eq!(held.last().unwrap().in_flight as usize, held.len());
                            }
                            Answer::Wait(at) => {
                                prop_assert!(!is_free && line.len() < queue && at.is_none());
                                line.push(place);
                            }
                            Answer::Refuse(_) => prop_assert!(!is_free && line.len() == queue),
                        }
                    }
                    1 if !held.is_empty() => bulkhead.abandon(held.swap_remove(index.index(held.len()))),
                    2 if !line.is_empty() => {
                        let next = index.index(line.len());
                        let may_go = next == 0 && held.len() < limit as usize;
                        match ask(&bulkhead, &mut line[next], now) {
                            Answer::Go(it) => {
                                prop_assert!(may_go);
                                held.push(it);
                                line.remove(next);
                            }
                            answer => prop_assert!(!may_go && matches!(answer, Answer::Wait(None))),
                        }
                    }
                    3 if !line.is_empty() => {
                        let place = line.remove(index.index(line.len()));
                        bulkhead.leave(place.unwrap());
                    }
                    4 => {
                        limit = number;
                        bulkhead.set_limit(number);
                    }
                    _ => {}
                }
                let expected = BulkheadSnapshot {
                    limit,
                    in_flight: u32::try_from(held.len()).unwrap(),
                    waiting: line.len(),
                };
                prop_assert_eq!(bulkhead.snapshot(), expected);
                let is_free = line.is_empty() && held.len() < limit as usize;
                prop_assert_eq!(bulkhead.try_acquire().is_some(), is_free);
            }
        }
    }

    #[test]
    fn timeouts_and_overload_shrink_a_learned_limit_and_nothing_else_does() {
        let (clock, rng) = (Clock::default(), Rng::default());
        for (kind, timed_out, limit) in [
            (Kind::Overloaded, false, 3),
            (Kind::Transient, true, 3),
            (Kind::Transient, false, 10),
            (Kind::RateLimited, false, 10),
            (Kind::RequestFault, false, 10),
            (Kind::TargetFault, false, 10),
            (Kind::Success, false, 10),
        ] {
            let bulkhead = Bulkhead::adaptive(Aimd::new().initial(10));
            let Answer::Go(place) = ask(&bulkhead, &mut None, Instant::now()) else {
                panic!("it is empty");
            };
            let verdict = Verdict::new(kind);
            let mut outcome = outcome(&verdict, timed_out, &clock, &rng);
            let _ = bulkhead.settle(place, &mut outcome);
            let end = bulkhead.snapshot();
            assert_eq!((end.limit, end.in_flight), (limit, 0), "{kind:?}");
        }
    }

    #[test]
    fn settings_that_make_no_sense_are_named() {
        let problem = |bulkhead: Bulkhead| bulkhead.check().map_err(|it| it.field()).err();
        assert_eq!(problem(Bulkhead::new(1)), None);
        assert_eq!(problem(Bulkhead::new(0)), Some("bulkhead.limit"));
        let no_wait = Bulkhead::new(1).max_wait(Duration::ZERO);
        assert_eq!(problem(no_wait.clone()), Some("bulkhead.max_wait"));
        assert_eq!(problem(no_wait.queue(0)), None);
        let bulkhead = Bulkhead::new(1);
        let _held = bulkhead.try_acquire();
        assert!(bulkhead.fresh().try_acquire().is_some());
    }
}
