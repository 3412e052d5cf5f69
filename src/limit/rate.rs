//! So many per second.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::Change;
use super::gcra::{Gcra, LAST};
use super::room::{Line, Machine, Next, Order, Room};
use super::turn::Turn;
use crate::clock::Clock;
use crate::deadline::later;
use crate::error::{ConfigError, Reason, Rejected};
use crate::event;
use crate::gate::{Answer, Ask, Gate, Outcome};
use crate::keyed::{PerKey, sealed::Sealed};
use crate::rng::{Draws, Rng, scale};
use crate::sync::{Arc, AtomicU64, Ordering, lock_plain};
use crate::verdict::Kind;

/// Bounds how many attempts begin per second. Clones share one bound.
///
/// Over any stretch of time, `begun ≤ burst + rate × time` holds exactly, on any number of threads
/// (the generic cell rate algorithm). While nobody waits, one atomic exchange is all it costs.
///
/// The setters start a fresh one: set it up before it is cloned or used.
///
/// # Examples
///
/// ```
/// use evenkeel::limit::RateLimit;
/// use std::time::{Duration, Instant};
///
/// let limit = RateLimit::per_second(10).burst(2);
/// let now = Instant::now();
/// assert!(limit.try_acquire(now).is_ok() && limit.try_acquire(now).is_ok());
/// let refused = limit.try_acquire(now).unwrap_err();
/// assert_eq!(refused.retry_at(), Some(now + Duration::from_millis(100)));
///
/// // The service says that 3 are left for the next minute: they are spread over it.
/// limit.observe(3, Duration::from_secs(60), now);
/// let now = now + Duration::from_secs(5);
/// assert!(limit.try_acquire(now).is_ok());
/// assert!(limit.try_acquire(now + Duration::from_secs(18)).is_err());
/// assert!(limit.try_acquire(now + Duration::from_secs(19)).is_ok());
/// ```
#[derive(Clone)]
pub struct RateLimit {
    shared: Arc<Shared>,
}

struct Shared {
    /// std's under loom too: its models don't look at settings.
    settings: std::sync::Mutex<Settings>,
    gauge: Arc<Gauge>,
    room: Room<Meter>,
}

#[derive(Clone, Copy)]
struct Settings {
    count: u32,
    per: Duration,
    burst: u32,
    line: Line,
    max_pause: Duration,
}

impl RateLimit {
    /// So many a second.
    #[must_use]
    pub fn per_second(count: u32) -> Self {
        Self::new(count, Duration::from_secs(1))
    }

    /// So many in each stretch of this length.
    #[must_use]
    pub fn new(count: u32, per: Duration) -> Self {
        Self::with(Settings {
            count,
            per,
            burst: (count / BURST_SHARE).max(1),
            line: Line {
                capacity: QUEUE,
                order: Order::FirstIn,
                max_wait: None,
            },
            max_pause: MAX_PAUSE,
        })
    }

    /// How many may begin at once after a quiet time. One: they are evenly spaced. Default: a tenth
    /// of what is allowed, at least one.
    #[must_use]
    pub fn burst(self, burst: u32) -> Self {
        self.change(|it| it.burst = burst)
    }

    /// How many may wait; the next one is refused. Zero: nobody waits. Default: 1000.
    #[must_use]
    pub fn queue(self, capacity: usize) -> Self {
        self.change(|it| it.line.capacity = capacity)
    }

    /// Who goes next. Default: first come, first served.
    #[must_use]
    pub fn order(self, order: Order) -> Self {
        self.change(|it| it.line.order = order)
    }

    /// How far ahead a service is believed, that tells it to pause or how much is left for how long:
    /// of a longer time this much. Default: 5 minutes.
    #[must_use]
    pub fn max_pause(self, max_pause: Duration) -> Self {
        self.change(|it| it.max_pause = max_pause)
    }

    fn change(self, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = self.shared.settings();
        change(&mut settings);
        Self::with(settings)
    }

    fn with(settings: Settings) -> Self {
        let gcra = Gcra::new(settings.count, settings.per, settings.burst);
        let gauge = Arc::new(Gauge {
            epoch: OnceLock::new(),
            state: AtomicU64::new(0),
            interval: AtomicU64::new(gcra.interval),
            tolerance: AtomicU64::new(gcra.tolerance),
            returned: AtomicU64::new(0),
        });
        let meter = Meter {
            gauge: Arc::clone(&gauge),
            is_queued: false,
            not_before: 0,
            told: 0,
            pace: None,
        };
        Self {
            shared: Arc::new(Shared {
                settings: std::sync::Mutex::new(settings),
                gauge,
                room: Room::new(meter, settings.line),
            }),
        }
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// A count, a length or a burst of zero.
    pub fn check(&self) -> Result<(), ConfigError> {
        let settings = self.shared.settings();
        check(settings.count, settings.per, settings.burst)
    }

    /// Lets one begin now, if it may and nobody waits. Never waits.
    ///
    /// # Errors
    ///
    /// Not now. It says when, exactly, as long as nobody else comes first.
    #[inline]
    pub fn try_acquire(&self, now: Instant) -> Result<(), Rejected> {
        if self.shared.gauge.try_take(now).is_some() {
            return Ok(());
        }
        let mut draws = Rng::thread_local().draws();
        self.shared.room.try_go(now, &mut draws)?;
        Ok(())
    }

    /// Waits until one may begin.
    pub fn acquire(&self, clock: &Clock) -> AcquireRate<'_> {
        AcquireRate {
            turn: Turn::new(self, clock.clone()),
        }
    }

    /// Allows so many per so long from now on. What was used so far counts as used, and those that
    /// wait go on waiting for what is new, unless it leaves them too little time. What the service said
    /// was left is forgotten; a pause goes on.
    ///
    /// # Errors
    ///
    /// A count, a length or a burst of zero, which changes nothing.
    pub fn set_quota(
        &self,
        count: u32,
        per: Duration,
        burst: u32,
        now: Instant,
    ) -> Result<(), ConfigError> {
        check(count, per, burst)?;
        let quota = Gcra::new(count, per, burst);
        self.shared
            .room
            .replan(now, |meter| meter.set_quota(quota, now));
        Ok(())
    }

    /// Lets nothing begin for so long: the service said that its quota is used up. After that it
    /// goes on at its pace, without a burst. `None` if it pauses for about as long already: many that
    /// were refused at the same time are one pause.
    #[allow(clippy::must_use_candidate)] // the change is told, not asked for
    pub fn pause(&self, length: Duration, now: Instant) -> Option<Change> {
        self.pause_spread(length, now, || 0)
    }

    /// The same, and on top of it up to one interval (but no more than as long again), of which
    /// `draw` gives the share: clients that were told the same moment don't come back as one.
    fn pause_spread(
        &self,
        length: Duration,
        now: Instant,
        draw: impl FnOnce() -> u64,
    ) -> Option<Change> {
        let length = length.min(self.shared.settings().max_pause);
        let pause = |meter: &mut Meter| meter.pause(length, draw, now);
        let is_news = self.shared.room.replan_if(now, pause, |is_news| *is_news);
        is_news.then_some(Change::Paused { length })
    }

    /// The service said how much of its own quota is left, and in how long that is whole again.
    ///
    /// If that is less than this limit would use by then, what is left is spread over that time.
    /// Answers that come in disorder do no harm: within one period, what is left only shrinks. Of a
    /// time longer than [`max_pause`](Self::max_pause) only that much is believed, and its share of
    /// what is left. If nothing is left it is a pause, and told as one.
    #[allow(clippy::must_use_candidate)] // the change is told, not asked for
    pub fn observe(&self, remaining: u64, reset: Duration, now: Instant) -> Option<Change> {
        let longest = self.shared.settings().max_pause;
        let is_pause = self
            .shared
            .room
            .replan(now, |meter| meter.observe(remaining, reset, longest, now));
        let length = reset.min(longest);
        is_pause.then_some(Change::Paused { length })
    }

    /// The limit at this moment.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> RateSnapshot {
        let room = &self.shared.room;
        let (available, retry_at) = room.look(|meter| (meter.available(now), meter.next(now)));
        RateSnapshot {
            available,
            waiting: room.waiting(),
            next_at: match retry_at {
                Next::At(at) => at,
                Next::Now | Next::Later => now,
            },
        }
    }
}

impl Shared {
    fn settings(&self) -> Settings {
        *lock_plain(&self.settings)
    }
}

impl Sealed for RateLimit {
    /// As [`set_quota`](RateLimit::set_quota), where the quota is another one: what was used counts
    /// as used, and a pause goes on. One that was set by hand stays if it isn't.
    fn reconfigure(&self, to: &Self, now: Instant) -> bool {
        let new = to.shared.settings();
        let old = std::mem::replace(&mut *lock_plain(&self.shared.settings), new);
        let quota = |it: &Settings| (it.count, it.per, it.burst);
        let room = &self.shared.room;
        if quota(&new) != quota(&old) {
            let quota = Gcra::new(new.count, new.per, new.burst);
            room.replan(now, |meter| meter.set_quota(quota, now));
        }
        room.set_line(new.line, now);
        true
    }
}

impl PerKey for RateLimit {
    /// Whether this is the only handle, nobody waits, and a fresh one would let go as many.
    fn is_idle(&self, now: Instant) -> bool {
        let (settings, room) = (self.shared.settings(), &self.shared.room);
        let quota = Gcra::new(settings.count, settings.per, settings.burst);
        Arc::strong_count(&self.shared) == 1
            && room.waiting() == 0
            && room.look(|meter| meter.is_as_made(quota, now))
    }

    /// One with the same settings and a full burst.
    fn fresh(&self) -> Self {
        Self::with(self.shared.settings())
    }

    fn check(&self) -> Result<(), ConfigError> {
        Self::check(self)
    }
}

impl Gate for RateLimit {
    type Ticket = Token;

    fn ask(&self, place: &mut Option<u64>, ask: &mut Ask<'_>) -> Answer<Token> {
        let clock = ask.clock;
        let token = |taken| Token {
            taken,
            clock: clock.clone(),
            is_used: false,
        };
        if place.is_none() {
            if let Some(it) = self.shared.gauge.try_take(ask.now()) {
                return Answer::Go(token(it));
            }
        }
        match self.shared.room.ask(place, ask) {
            Answer::Go(it) => Answer::Go(token(it)),
            Answer::Wait(at) => Answer::Wait(at),
            Answer::Refuse(refusal) => Answer::Refuse(refusal),
        }
    }

    fn leave(&self, place: u64) {
        self.shared.room.leave(place);
    }

    fn begin(&self, token: &mut Token) {
        token.is_used = true;
    }

    fn settle(&self, _: Token, outcome: &mut Outcome<'_>) -> Option<event::Change> {
        let observed = outcome
            .quota
            .and_then(|quota| self.observe(quota.remaining, quota.reset, outcome.now()));
        let hint = outcome
            .hint
            .filter(|hint| !hint.is_zero() && outcome.verdict.kind() == Kind::RateLimited);
        let paused = hint.and_then(|length| {
            let (now, rng) = (outcome.now(), outcome.rng);
            self.pause_spread(length, now, || rng.draws().next_u64())
        });
        paused.or(observed).map(event::Change::Limit)
    }

    /// What never began didn't use its token.
    fn abandon(&self, token: Token) {
        if token.is_used {
            return;
        }
        let now = token.clock.now();
        self.shared
            .room
            .with(Some(now), |meter| meter.give_back(&token.taken, now));
    }

    /// The end of a pause.
    fn closed_until(&self, now: Instant) -> Option<Instant> {
        self.shared.room.look(|meter| meter.closed_until(now))
    }
}

impl fmt::Debug for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = self.shared.settings();
        f.debug_struct("RateLimit")
            .field("count", &settings.count)
            .field("per", &settings.per)
            .field("burst", &settings.burst)
            .field("line", &settings.line)
            .field("max_pause", &settings.max_pause)
            .finish_non_exhaustive()
    }
}

/// Waits until one may begin; see [`RateLimit::acquire`].
///
/// # Errors
///
/// The line is full, or the turn will not come in time: that is known, and said, at once.
///
/// # Cancel safety
///
/// Dropping it before it is ready gives up its place in line, and uses nothing.
#[derive(Debug)]
#[must_use = "futures do nothing unless you .await or poll them"]
pub struct AcquireRate<'a> {
    turn: Turn<'a, RateLimit>,
}

impl AcquireRate<'_> {
    /// Waits no longer than until this moment of the clock. Default: as long as it takes.
    pub fn until(mut self, latest: Instant) -> Self {
        self.turn.latest = Some(latest);
        self
    }
}

impl Future for AcquireRate<'_> {
    type Output = Result<(), Rejected>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.turn.poll(context).map_ok(drop)
    }
}

/// A rate limit at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateSnapshot {
    /// How many could begin at once.
    pub available: u64,
    /// How many wait.
    pub waiting: usize,
    /// When the next may begin.
    pub next_at: Instant,
}

/// A token taken for an attempt.
pub(crate) struct Token {
    taken: Taken,
    /// Giving back needs to know how late it is.
    clock: Clock,
    is_used: bool,
}

/// What giving a token back needs to know.
#[derive(Clone, Copy, Debug)]
struct Taken {
    /// The bucket's moment after it was taken.
    full: u64,
    /// What had been given back before.
    returned: u64,
    /// The end of the service's period, if its quota was counted.
    period: Option<u64>,
}

/// All that those need who may begin at once.
struct Gauge {
    /// A moment before the first one that was told.
    epoch: OnceLock<Instant>,
    /// When the bucket is full, in nanoseconds since the epoch; the highest bit if all have to go
    /// through the room.
    state: AtomicU64,
    interval: AtomicU64,
    tolerance: AtomicU64,
    /// Nanoseconds given back, ever. Changed after the state and read before it, so that nobody
    /// takes for earlier what came later.
    returned: AtomicU64,
}

impl Gauge {
    #[inline]
    fn try_take(&self, now: Instant) -> Option<Taken> {
        self.take(self.nanos(now), CLOSED).ok()
    }

    /// Takes a token, unless one of the bits in `unless` is set; else when the next one comes.
    #[inline]
    fn take(&self, now: u64, unless: u64) -> Result<Taken, u64> {
        let returned = self.returned.load(Ordering::Acquire);
        let mut state = self.state.load(Ordering::Acquire);
        loop {
            if state & unless != 0 {
                return Err(0);
            }
            let full = self.quota().take(state & !CLOSED, now)?;
            let closed = state & CLOSED;
            match self.state.compare_exchange_weak(
                state,
                full | closed,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => {
                    return Ok(Taken {
                        full,
                        returned,
                        period: None,
                    });
                }
                Err(now) => state = now,
            }
        }
    }

    fn quota(&self) -> Gcra {
        Gcra {
            interval: self.interval.load(Ordering::Relaxed),
            tolerance: self.tolerance.load(Ordering::Relaxed),
        }
    }

    fn full(&self) -> u64 {
        self.state.load(Ordering::Acquire) & !CLOSED
    }

    fn move_full(&self, change: impl Fn(u64) -> u64) {
        let moved = |state: u64| Some(change(state & !CLOSED).min(LAST) | state & CLOSED);
        let (Ok(_) | Err(_)) = self
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, moved);
    }

    fn nanos(&self, now: Instant) -> u64 {
        let epoch = self.epoch.get_or_init(|| epoch_before(now));
        nanos_since(*epoch, now)
    }

    /// The same for one that only looks, and so begins no epoch.
    fn looked_at(&self, now: Instant) -> u64 {
        let epoch = self.epoch.get().copied();
        nanos_since(epoch.unwrap_or_else(|| epoch_before(now)), now)
    }

    fn instant(&self, nanos: u64, now: Instant) -> Instant {
        let wait = nanos.saturating_sub(self.looked_at(now));
        later(now, Duration::from_nanos(wait))
    }
}

/// The machine behind the room.
struct Meter {
    gauge: Arc<Gauge>,
    is_queued: bool,
    /// The end of the last pause.
    not_before: u64,
    /// The same, as it was told as news, without its spread.
    told: u64,
    pace: Option<Pace>,
}

/// What the service said is left until its period ends.
#[derive(Clone, Copy, Debug)]
struct Pace {
    until: u64,
    left: u64,
    /// When the next of them is due.
    next: u64,
}

impl Pace {
    const fn earliest(self, now: u64) -> u64 {
        if now >= self.until {
            return 0;
        }
        if self.left == 0 || self.next > self.until {
            return self.until;
        }
        self.next
    }

    /// One of those left goes, and the others share the rest of the time.
    fn go(&mut self, now: u64) {
        let step = self.step(now);
        self.left = self.left.saturating_sub(1);
        self.next = now.saturating_add(step);
    }

    const fn step(self, now: u64) -> u64 {
        match self.left {
            0 => self.until.saturating_sub(now),
            left => self.until.saturating_sub(now) / left,
        }
    }

    fn turn(self, ahead: usize, now: u64) -> u64 {
        let ahead = ahead as u64;
        if now >= self.until || ahead >= self.left {
            return self.until;
        }
        let first = self.next.max(now).min(self.until);
        // Each of them shares what is left with fewer; while all go when they are due, the steps
        // are alike.
        first
            .saturating_add(self.step(first).saturating_mul(ahead))
            .min(self.until)
    }
}

impl Meter {
    fn earliest(&self, now: u64) -> u64 {
        let of_quota = self.gauge.quota().earliest(self.gauge.full());
        let of_service = self.pace.map_or(0, |pace| pace.earliest(now));
        of_quota.max(of_service)
    }

    fn available(&self, now: Instant) -> u64 {
        let now = self.gauge.looked_at(now);
        if self.earliest(now) > now {
            return 0;
        }
        let available = self.gauge.quota().available(self.gauge.full(), now);
        // What the service left is had one by one.
        match self.pace {
            Some(pace) if now < pace.until => available.min(1),
            _ => available,
        }
    }

    /// Whether a fresh one with this quota would do the same from now on.
    fn is_as_made(&self, quota: Gcra, now: Instant) -> bool {
        let now = self.gauge.looked_at(now);
        self.gauge.quota() == quota
            && self.gauge.full() <= now
            && self.not_before <= now
            && self.pace.is_none_or(|pace| pace.until <= now)
    }

    /// The end of what the service asked for, by a hint or by saying that nothing is left.
    fn closed_until(&self, now: Instant) -> Option<Instant> {
        let moment = self.gauge.looked_at(now);
        let used_up = self.pace.filter(|pace| pace.left == 0);
        let until = used_up.map_or(self.not_before, |pace| pace.until.max(self.not_before));
        (until > moment).then(|| self.gauge.instant(until, now))
    }

    fn set_quota(&mut self, quota: Gcra, now: Instant) {
        let now = self.gauge.nanos(now);
        self.pace = None;
        let old = self.gauge.quota();
        let paused = self.paused(now);
        // Nobody passes outside while the two numbers are not of one quota.
        self.gauge.state.fetch_or(CLOSED, Ordering::AcqRel);
        self.gauge.interval.store(quota.interval, Ordering::Relaxed);
        self.gauge
            .tolerance
            .store(quota.tolerance, Ordering::Relaxed);
        // A pause is as long as it was; only what is owed after it, or now, changes its size.
        let (from, to) = match paused {
            0 => (now, now),
            from => (from, self.paused(now)),
        };
        self.gauge.move_full(|full| {
            let owed = old.convert(full, quota, from).saturating_sub(from);
            to.saturating_add(owed)
        });
        // What was taken of the old quota is worth nothing in the new one.
        self.gauge.returned.fetch_add(LAST / 2, Ordering::AcqRel);
        self.close_or_open();
    }

    /// Whether it ends noticeably later than was known.
    fn pause(&mut self, length: Duration, draw: impl FnOnce() -> u64, now: Instant) -> bool {
        let now = self.gauge.nanos(now);
        let length = u64::try_from(length.as_nanos()).unwrap_or(LAST);
        let mut until = now.saturating_add(length).min(LAST);
        let is_news = until > now && (self.not_before <= now || is_later(until, self.told));
        if is_news {
            self.told = until;
            let spread = scale(draw(), self.gauge.quota().interval.min(length));
            until = until.saturating_add(spread).min(LAST);
        }
        if until > self.not_before.max(now) {
            self.not_before = until;
            let paused = self.paused(now);
            self.gauge.move_full(|full| full.max(paused));
        }
        is_news
    }

    /// Where the bucket has to be full at the earliest for nothing to go before the pause ends.
    fn paused(&self, now: u64) -> u64 {
        if now >= self.not_before {
            return 0;
        }
        let tolerance = self.gauge.quota().tolerance;
        self.not_before.saturating_add(tolerance).min(LAST)
    }

    fn give_back(&mut self, taken: &Taken, now: Instant) {
        let now = self.gauge.nanos(now);
        let others = self.gauge.returned.load(Ordering::Relaxed);
        let others = others.wrapping_sub(taken.returned);
        let worth = self.gauge.quota().worth(taken.full, others, now);
        if worth > 0 {
            let paused = self.paused(now);
            self.gauge
                .move_full(|full| full.saturating_sub(worth).max(paused.min(full)));
            self.gauge.returned.fetch_add(worth, Ordering::AcqRel);
        }
        if let Some(pace) = &mut self.pace {
            if taken.period == Some(pace.until) {
                // It had its time already.
                pace.left += 1;
                pace.next = pace.next.min(now);
            }
        }
    }

    /// Whether it is known only now that nothing is left, or for how long.
    fn observe(
        &mut self,
        remaining: u64,
        reset: Duration,
        longest: Duration,
        now: Instant,
    ) -> bool {
        let now = self.gauge.nanos(now);
        let [reset, longest] =
            [reset, longest].map(|it| u64::try_from(it.as_nanos()).unwrap_or(LAST));
        let until = now.saturating_add(reset.min(longest)).min(LAST);
        if until <= now {
            return false;
        }
        let known = self.pace.filter(|pace| now < pace.until);
        let used_up = known.filter(|pace| pace.left == 0);
        let left = share(remaining, longest, reset);
        if let Some(pace) = known.filter(|pace| until.abs_diff(pace.until) <= SAME_PERIOD) {
            let left = pace.left.min(left);
            self.pace = Some(Pace { left, ..pace });
            return left == 0 && used_up.is_none();
        }
        let quota = self.gauge.quota();
        let could_use = quota.tolerance.saturating_add(reset) / quota.interval + 1;
        // Where the end slides with each answer, an answer is no reason to let the next one go.
        let step = (until - now) / left.max(1);
        let next = known.map_or(now, |pace| pace.next.min(now.saturating_add(step)));
        self.pace = (remaining < could_use).then_some(Pace { until, left, next });
        self.close_or_open();
        self.pace.is_some_and(|pace| pace.left == 0)
            && used_up.is_none_or(|pace| is_later(until, pace.until))
    }

    fn close_or_open(&self) {
        let state = &self.gauge.state;
        if self.is_queued || self.pace.is_some() {
            state.fetch_or(CLOSED, Ordering::AcqRel);
        } else {
            state.fetch_and(!CLOSED, Ordering::AcqRel);
        }
    }
}

impl Machine for Meter {
    type Ticket = Taken;

    const LATE: Reason = Reason::RateLimited;
    const FULL: Reason = Reason::RateLimited;

    fn go(&mut self, now: Instant, _: &mut Draws) -> Result<Taken, Option<Instant>> {
        let moment = self.gauge.nanos(now);
        if self.pace.is_some_and(|pace| moment >= pace.until) {
            self.pace = None;
            self.close_or_open();
        }
        let earliest = self.earliest(moment);
        if moment < earliest {
            return Err(Some(self.gauge.instant(earliest, now)));
        }
        // Others may have been faster outside.
        let taken = self.gauge.take(moment, 0);
        let mut taken = taken.map_err(|at| Some(self.gauge.instant(at, now)))?;
        if let Some(pace) = &mut self.pace {
            pace.go(moment);
            taken.period = Some(pace.until);
        }
        Ok(taken)
    }

    fn next(&self, now: Instant) -> Next {
        let moment = self.gauge.looked_at(now);
        let earliest = self.earliest(moment);
        if moment < earliest {
            return Next::At(self.gauge.instant(earliest, now));
        }
        Next::Now
    }

    fn turn(&self, ahead: usize, now: Instant) -> Option<Instant> {
        let moment = self.gauge.nanos(now);
        let mut turn = self.gauge.quota().turn(self.gauge.full(), ahead, moment);
        if let Some(pace) = self.pace.filter(|pace| moment < pace.until) {
            turn = turn.max(pace.turn(ahead, moment));
        }
        Some(self.gauge.instant(turn, now))
    }

    fn queued(&mut self, any: bool) {
        self.is_queued = any;
        self.close_or_open();
    }
}

/// One that is told a moment a little earlier than the first one tells it apart too.
fn epoch_before(now: Instant) -> Instant {
    now.checked_sub(BEFORE).unwrap_or(now)
}

fn nanos_since(epoch: Instant, now: Instant) -> u64 {
    let nanos = now.saturating_duration_since(epoch).as_nanos();
    u64::try_from(nanos).unwrap_or(LAST).min(LAST)
}

/// Whether one moment is later than another by what anybody would notice.
const fn is_later(moment: u64, than: u64) -> bool {
    moment > than.saturating_add(NOTICEABLE)
}

/// What of so many falls to the first `part` of so long a time: at least one, if there is any.
fn share(left: u64, part: u64, whole: u64) -> u64 {
    if part >= whole {
        return left;
    }
    let share = u128::from(left) * u128::from(part) / u128::from(whole);
    u64::try_from(share).unwrap_or(left).max(left.min(1))
}

fn check(count: u32, per: Duration, burst: u32) -> Result<(), ConfigError> {
    if count == 0 {
        return Err(ConfigError::new("rate.count", "must be at least 1"));
    }
    if per.is_zero() {
        return Err(ConfigError::new("rate.per", "must not be zero"));
    }
    if burst == 0 {
        return Err(ConfigError::new("rate.burst", "must be at least 1"));
    }
    Ok(())
}

/// All have to go through the room: somebody waits there, or the service's own quota is counted.
const CLOSED: u64 = 1 << 63;

/// A service that counts per period may see a tenth of a period's worth too many.
const BURST_SHARE: u32 = 10;

/// Bounds memory. Deadlines bound the waits.
const QUEUE: usize = 1_000;

/// A longer hint is for the call that was told.
const MAX_PAUSE: Duration = Duration::from_secs(5 * 60);

/// Those that were refused at the same time tell ends of the same pause that differ by less.
const NOTICEABLE: u64 = 100_000_000;

/// A reset is told in whole seconds and takes its time to come.
const SAME_PERIOD: u64 = 1_500_000_000;

/// Moments a little earlier than the first one that was told are told apart too.
const BEFORE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::clock::{BoxSleep, Runtime, Why};
    use crate::gate::Purpose;
    use crate::throttle::Priority;
    use crate::verdict::Verdict;

    const MS: Duration = Duration::from_millis(1);

    /// A clock that stands where it is.
    struct Standing(Instant);

    impl Runtime for Standing {
        fn now(&self) -> Instant {
            self.0
        }

        fn wall(&self) -> std::time::SystemTime {
            std::time::UNIX_EPOCH
        }

        fn sleep_until(&self, _: Instant, _: Why) -> BoxSleep {
            Box::pin(std::future::pending())
        }
    }

    fn ask(limit: &RateLimit, place: &mut Option<u64>, now: Instant) -> Answer<Token> {
        let clock = Clock::custom(Standing(now));
        limit.ask(
            place,
            &mut Ask {
                clock: &clock,
                moment: None,
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

    fn token(limit: &RateLimit, now: Instant) -> Token {
        match ask(limit, &mut None, now) {
            Answer::Go(token) => token,
            _ => panic!("none is left"),
        }
    }

    fn settle(
        limit: &RateLimit,
        kind: Kind,
        hint: Duration,
        now: Instant,
    ) -> Option<event::Change> {
        let mut outcome = Outcome {
            verdict: &Verdict::new(kind),
            quota: None,
            hint: Some(hint),
            latency: None,
            timed_out: false,
            timeout: None,
            clock: &Clock::default(),
            moment: Some(now),
            rng: &Rng::default(),
        };
        limit.settle(token(limit, now), &mut outcome)
    }

    #[test]
    fn an_attempt_that_never_began_gives_its_token_back_and_one_that_did_does_not() {
        let (limit, now) = (RateLimit::per_second(1).burst(1), Instant::now());
        let unused = token(&limit, now);
        assert!(limit.try_acquire(now).is_err());
        limit.abandon(unused);
        let mut used = token(&limit, now);
        limit.begin(&mut used);
        limit.abandon(used);
        assert!(limit.try_acquire(now).is_err());
    }

    #[test]
    fn a_token_given_back_goes_to_the_first_in_line() {
        let (limit, now) = (RateLimit::per_second(1).burst(1), Instant::now());
        let unused = token(&limit, now);
        let mut place = None;
        let wait = now + 1000 * MS;
        assert!(matches!(ask(&limit, &mut place, now), Answer::Wait(Some(at)) if at == wait));
        limit.abandon(unused);
        assert!(limit.try_acquire(now).is_err(), "nobody passes");
        assert!(matches!(ask(&limit, &mut place, now), Answer::Go(_)));
    }

    #[test]
    fn a_token_of_an_old_quota_is_worth_nothing_in_the_new_one() {
        let (limit, now) = (RateLimit::per_second(1).burst(1), Instant::now());
        let unused = token(&limit, now);
        let second = Duration::from_secs(1);
        limit.set_quota(2, second, 1, now).unwrap();
        limit.abandon(unused);
        assert!(limit.try_acquire(now + 499 * MS).is_err());
        assert!(limit.try_acquire(now + 500 * MS).is_ok());
    }

    #[test]
    fn a_token_given_back_ends_no_pause() {
        let (limit, now) = (RateLimit::per_second(10).burst(3), Instant::now());
        let unused = [token(&limit, now), token(&limit, now), token(&limit, now)];
        let _ = limit.pause(1000 * MS, now);
        for token in unused {
            limit.abandon(token);
        }
        assert!(limit.try_acquire(now + 999 * MS).is_err());
        assert!(limit.try_acquire(now + 1000 * MS).is_ok());
    }

    #[test]
    fn a_token_of_the_services_quota_is_counted_again() {
        let (limit, now) = (RateLimit::per_second(100).burst(9), Instant::now());
        limit.observe(2, 10_000 * MS, now);
        let unused = token(&limit, now);
        let _used = token(&limit, now + 5000 * MS);
        assert!(limit.try_acquire(now + 9999 * MS).is_err());
        limit.abandon(unused);
        assert!(limit.try_acquire(now + 9999 * MS).is_ok());
    }

    #[test]
    fn only_a_rate_limited_answer_with_a_hint_pauses_and_no_longer_than_is_believed() {
        let limit = RateLimit::per_second(100).max_pause(2000 * MS);
        let now = Instant::now();
        assert_eq!(settle(&limit, Kind::Overloaded, 1000 * MS, now), None);
        assert_eq!(settle(&limit, Kind::RateLimited, Duration::ZERO, now), None);
        let length = 2000 * MS;
        let expected = event::Change::Limit(Change::Paused { length });
        let change = settle(&limit, Kind::RateLimited, 9000 * MS, now);
        assert_eq!(change, Some(expected));
        let refused = limit.try_acquire(now).unwrap_err();
        // Up to one interval later, so that not all come back at once.
        let spread = refused.retry_at().unwrap() - (now + length);
        assert!(spread <= 10 * MS, "{spread:?}");
        let closed = Gate::closed_until(&limit, now);
        assert_eq!(closed, refused.retry_at());
        assert_eq!(Gate::closed_until(&limit, now + 2 * length), None);
    }

    #[test]
    fn clients_that_are_told_the_same_moment_come_back_apart() {
        let now = Instant::now();
        let ends: std::collections::BTreeSet<_> = (0..100)
            .map(|_| {
                let limit = RateLimit::per_second(1);
                let _ = settle(&limit, Kind::RateLimited, 5000 * MS, now);
                Gate::closed_until(&limit, now).unwrap()
            })
            .collect();
        assert!(ends.len() > 90);
        let bounds = now + 5000 * MS..=now + 6000 * MS;
        assert!(ends.iter().all(|end| bounds.contains(end)));
    }

    #[test]
    fn a_service_that_says_nothing_is_left_closes_it_and_that_is_told() {
        let (limit, now) = (RateLimit::per_second(100), Instant::now());
        assert_eq!(Gate::closed_until(&limit, now), None);
        let mut outcome = Outcome {
            verdict: &Verdict::new(Kind::Success),
            quota: Some(crate::http::Quota {
                remaining: 0,
                reset: 9000 * MS,
            }),
            hint: None,
            latency: None,
            timed_out: false,
            timeout: None,
            clock: &Clock::default(),
            moment: Some(now),
            rng: &Rng::default(),
        };
        let length = 9000 * MS;
        let expected = event::Change::Limit(Change::Paused { length });
        let change = limit.settle(token(&limit, now), &mut outcome);
        assert_eq!(change, Some(expected));
        assert_eq!(Gate::closed_until(&limit, now), Some(now + length));
    }

    #[test]
    fn a_limit_is_idle_once_a_fresh_one_would_do_as_well() {
        let now = Instant::now();
        let limit = RateLimit::per_second(1).burst(2);
        let is_idle = |seconds| limit.is_idle(now + Duration::from_secs(seconds));
        assert!(is_idle(0));
        limit.try_acquire(now).unwrap();
        assert!(!is_idle(0) && is_idle(1));
        let _ = limit.pause(9000 * MS, now);
        assert!(!is_idle(8) && is_idle(10));
        let _ = limit.observe(3, 60_000 * MS, now);
        assert!(!is_idle(59) && is_idle(60));
        limit.set_quota(2, 1000 * MS, 2, now).unwrap();
        assert!(!is_idle(99));
    }

    #[test]
    fn settings_that_make_no_sense_are_named() {
        let problem = |limit: RateLimit| limit.check().map_err(|it| it.field()).err();
        assert_eq!(problem(RateLimit::per_second(1)), None);
        assert_eq!(problem(RateLimit::per_second(0)), Some("rate.count"));
        assert_eq!(problem(RateLimit::new(1, Duration::ZERO)), Some("rate.per"));
        assert_eq!(
            problem(RateLimit::per_second(1).burst(0)),
            Some("rate.burst")
        );
        let (limit, now) = (RateLimit::per_second(1).fresh(), Instant::now());
        assert!(limit.try_acquire(now).is_ok() && limit.fresh().try_acquire(now).is_ok());
    }
}
