//! One breaker's state, shared: atomics for what every call does, a lock for what few do.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::backoff::count;
use crate::deadline::later;
use crate::rng::Rng;
use crate::sync::{AtomicU32, AtomicU64, Mutex, Ordering, lock};

use super::counts::Counts;
use super::phase::{COUNTS_BY_TIME, GENERATION_SHIFT, Phase, Stage};
use super::ramp::Ramp;
use super::report::{Change, Mode, Snapshot, State, Why};
use super::settings::{CountAs, Live, Settings};
use super::sliding::{Scale, Spot};
use super::state::{Admission, Machine, Opening, Rare};
use super::ticket::{Ended, No, Role, Ticket};
use super::time::{Base, Time};

/// What a breaker has in common with those made from it: one set of settings for all keys.
#[derive(Debug)]
pub(super) struct Common {
    live: Live,
    scale: Scale,
    /// The keys of a registry have one base: a thread that knows what time it is for one of them
    /// knows it for all. `None`: this is what all breakers with the defaults have in common, and stays
    /// what it is; each of them has a base of its own, or none would do the same twice on a clock that
    /// is set by hand.
    base: Option<Base>,
}

/// In the order of use: a call that is let through and succeeds looks at the words up to the
/// buckets and at one of these, on two or three cache lines in a row.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Shared {
    /// The machine's phase, packed, and marks of the settings. Written under the lock only.
    phase: AtomicU64,
    /// The machine's moment. Written under the lock only, before the phase.
    moment: AtomicU64,
    common: Arc<Common>,
    /// What moments are counted from, if that isn't in common.
    base: Base,
    /// The latest moment that failures of this spell asked for since its last success, or zero.
    /// Raised under the lock only.
    hinted: AtomicU64,
    counts: Counts,
    /// Not zero if dropped calls may have broken a rule since it was last looked at.
    dropped: AtomicU32,
    /// There once it is needed.
    rare: Mutex<Option<Box<Rare>>>,
    /// The settings of one that had the defaults and was given others.
    own: OnceLock<Box<Live>>,
}

impl Common {
    pub(super) fn new(settings: Settings) -> Self {
        let live = Live::new(settings);
        Self {
            scale: live.scale(),
            live,
            base: Some(Base::new()),
        }
    }

    /// One for all that have the defaults.
    pub(super) fn of_defaults() -> Arc<Self> {
        static DEFAULTS: OnceLock<Arc<Common>> = OnceLock::new();
        let new = || {
            let live = Live::new(Settings::default());
            Arc::new(Self {
                scale: live.scale(),
                live,
                base: None,
            })
        };
        Arc::clone(DEFAULTS.get_or_init(new))
    }
}

impl Shared {
    pub(super) fn new(common: Arc<Common>) -> Self {
        let phase = Phase {
            stage: Stage::Closed,
            mode: Mode::Automatic,
            generation: 0,
        };
        Self {
            phase: AtomicU64::new(phase.pack() | common.live.flags().marks()),
            moment: AtomicU64::new(0),
            counts: Counts::new(&common.live.rules()),
            hinted: AtomicU64::new(0),
            dropped: AtomicU32::new(0),
            rare: Mutex::new(None),
            own: OnceLock::new(),
            base: Base::new(),
            common,
        }
    }

    /// A new one with these settings.
    pub(super) fn fresh(&self) -> Self {
        Self::new(match self.own.get() {
            Some(live) => Arc::new(Common::new(live.all())),
            None => Arc::clone(&self.common),
        })
    }

    pub(super) fn live(&self) -> &Live {
        self.own.get().map_or(&self.common.live, |own| own)
    }

    #[inline]
    fn time(&self) -> Time<'_> {
        Time {
            base: self.common.base.as_ref().unwrap_or(&self.base),
            scale: self.common.scale,
        }
    }

    /// Somebody asks a breaker that is closed, as nearly always.
    #[inline]
    pub(super) fn admit_plainly(&self) -> Option<Ticket> {
        let word = self.phase.load(Ordering::Acquire);
        Phase::is_plain(word).then_some(Ticket::plain(word))
    }

    /// Somebody asks.
    #[inline]
    pub(super) fn admit(
        &self,
        is_check: bool,
        mut now: impl FnMut() -> Instant,
        rng: &Rng,
    ) -> Result<Ticket, No> {
        match self.refuse_plainly(&mut now) {
            Some(no) => Err(no),
            None => self.admit_closely(is_check, &mut now, rng),
        }
    }

    /// Somebody asks a breaker that is open, and not for the first time.
    #[inline]
    pub(super) fn refuse_plainly(&self, now: impl FnOnce() -> Instant) -> Option<No> {
        let word = self.phase.load(Ordering::Acquire);
        if Phase::is_open(word) {
            let until = self.moment.load(Ordering::Relaxed);
            let refused = self.time().is_well_before(now(), until);
            refused.then(|| No::until(Some(until)))
        } else {
            Phase::is_forced_open(word).then(|| No::until(None))
        }
    }

    /// A call succeeded. Says whether that is all there was to do, as nearly always.
    #[inline]
    pub(super) fn succeeded(&self, ticket: &Ticket, now: impl FnOnce() -> Instant) -> bool {
        let word = self.phase.load(Ordering::Acquire);
        // A slow one isn't all there is to it.
        if !ticket.is_plain_in(word) {
            return false;
        }
        let generation = ticket.generation();
        if self.counts.has_streak() {
            self.end_streak(generation);
        }
        self.end_hint();
        if word & COUNTS_BY_TIME != 0 {
            self.count_good(generation, now());
        } else {
            self.counts.add_good(generation);
        }
        true
    }

    #[cold]
    fn end_streak(&self, generation: u64) {
        let rules = self.live().rules();
        self.counts.end_streak(&rules, generation);
    }

    /// A good answer came since: one replica spoke, not the service.
    #[inline]
    fn end_hint(&self) {
        if self.hinted.load(Ordering::Relaxed) != 0 {
            self.hinted.store(0, Ordering::Relaxed);
        }
    }

    /// A failed call was told when to come back.
    #[cold]
    fn heed(&self, generation: u64, hint: Duration, now: &mut dyn FnMut() -> Instant, rng: &Rng) {
        let longest = self.live().max_hint();
        if longest.is_zero() {
            return;
        }
        let now = self.time().nanos(now());
        let asked = now.saturating_add(count(hint.min(longest)));
        let mut draws = rng.draws();
        self.change(|machine| {
            if generation == machine.phase.generation {
                self.hinted.fetch_max(asked, Ordering::Relaxed);
            } else {
                machine.put_off(generation, asked, &mut draws);
            }
        });
    }

    /// How much longer the server asked for quiet.
    fn hint_left(&self, own: Option<Duration>, now: u64) -> Option<Duration> {
        let left = self.hinted.load(Ordering::Relaxed).saturating_sub(now);
        own.max((left > 0).then(|| Duration::from_nanos(left)))
    }

    /// Not inlined, so that what is inlined into callers is short; and nothing comes after what it
    /// calls, so that it has nothing to save.
    #[inline(never)]
    fn count_good(&self, generation: u64, now: Instant) {
        match self.time().known_spot(now) {
            Some(spot) => self.counts.add_at(spot.of(generation), false),
            None => self.count_good_at(generation, now),
        }
    }

    #[cold]
    #[inline(never)]
    fn count_good_at(&self, generation: u64, now: Instant) {
        let place = self.time().spot(now).of(generation);
        self.counts.add_at(place, false);
    }

    /// A call ended.
    #[cold]
    pub(super) fn settle(
        &self,
        ticket: Ticket,
        ended: Ended,
        mut now: impl FnMut() -> Instant,
        rng: &Rng,
    ) -> Option<Change> {
        let flags = self.live().flags();
        match ticket.role() {
            Role::Counted { .. } => {}
            Role::Ghost(_) | Role::Idle => return None,
            Role::Probe { number, .. } => {
                return self.settle_probe(ticket.generation(), number, ended, &mut now, rng);
            }
        }
        let word = self.phase.load(Ordering::Acquire);
        let count_as = flags.count_as(ended.kind);
        let failed = count_as == CountAs::Failure;
        if let Some(hint) = ended.hint.filter(|_| failed) {
            self.heed(ticket.generation(), hint, &mut now, rng);
        }
        if word >> GENERATION_SHIFT != ticket.generation() || count_as == CountAs::Nothing {
            return None;
        }
        if !failed {
            self.end_hint();
        }
        let slow = self.is_slow(ended);
        let generation = ticket.generation();
        let spot = || self.time().spot(now());
        let rules = self.live().rules();
        self.counts.add(&rules, generation, failed, slow, spot);
        let judged = Phase::unpack(word).mode != Mode::ForcedClosed;
        if judged && (failed || slow) {
            return self.judge(generation, ended.hint, &mut now, rng);
        }
        None
    }

    /// A call was dropped, or never began.
    pub(super) fn abandon(&self, ticket: Ticket) {
        match ticket.role() {
            Role::Ghost(_) | Role::Idle => {}
            Role::Counted { begun } => {
                let count_as = self.live().flags().cancelled();
                if count_as == CountAs::Nothing
                    || self.phase.load(Ordering::Acquire) >> GENERATION_SHIFT != ticket.generation()
                {
                    return;
                }
                let failed = count_as == CountAs::Failure;
                let (live, generation) = (self.live(), ticket.generation());
                let spot = || live.scale().spot(begun);
                self.counts
                    .add(&live.rules(), generation, failed, false, spot);
                if failed {
                    self.dropped.store(1, Ordering::Release);
                } else {
                    self.end_hint();
                }
            }
            Role::Probe { number, .. } => {
                self.change(|machine| machine.release(number));
            }
        }
    }

    /// While it is open by its own rules: when it may half-open.
    pub(super) fn closed_until(&self, now: Instant) -> Option<Instant> {
        let phase = Phase::unpack(self.phase.load(Ordering::Acquire));
        if phase.stage != Stage::Open || phase.mode != Mode::Automatic {
            return None;
        }
        let until = self.moment.load(Ordering::Relaxed);
        (self.time().nanos(now) < until).then(|| self.instant(until, now))
    }

    /// While it isn't closed, and nobody has said that it is to be open: when it may let a probe through.
    /// `None` also while all the probes there may be are out.
    pub(super) fn probe_at(&self, now: Instant) -> Option<Instant> {
        let phase = Phase::unpack(self.phase.load(Ordering::Acquire));
        let moment = self.moment.load(Ordering::Relaxed);
        let is_over = self.time().nanos(now) >= moment;
        match (phase.mode, phase.stage) {
            (Mode::Automatic | Mode::WatchOnly, Stage::Open | Stage::HalfOpen) if is_over => {
                Some(now)
            }
            (Mode::Automatic | Mode::WatchOnly, Stage::Open) => Some(self.instant(moment, now)),
            _ => None,
        }
    }

    /// Until then probes are for a check alone.
    pub(super) fn reserve(&self, until: Option<Instant>, now: Instant) {
        // What moments are counted from is never one to come.
        let _ = self.base(now);
        let until = until.map_or(0, |until| self.time().nanos(until));
        self.change(|machine| machine.reserve(until));
    }

    /// Whether a new one in its place would do as well.
    pub(super) fn is_forgotten(&self, now: Instant) -> bool {
        let now = self.time().nanos(now);
        let settings = self.live().all();
        let (mut none, mut rare) = (Rare::default(), lock(&self.rare));
        let rare = rare.as_deref_mut().unwrap_or(&mut none);
        self.machine(rare, &settings).is_forgotten(now)
    }

    pub(super) fn set_mode(&self, mode: Mode, now: Instant) -> Option<Change> {
        let now = self.time().nanos(now);
        self.change(|machine| machine.set_mode(mode, now))
    }

    pub(super) fn restore(&self, from: &Snapshot, now: Instant, rng: &Rng) -> Option<Change> {
        let now = self.time().nanos(now);
        let left = match from.state {
            State::Closed => None,
            // Its probes are gone.
            State::HalfOpen => Some(Duration::ZERO),
            State::Open => Some(from.retry_after.unwrap_or_default()),
        };
        let trips = (from.trips, from.trips_in_row);
        let mut draws = rng.draws();
        self.change(|machine| machine.restore(from.mode, left, trips, now, &mut draws))
    }

    pub(super) fn snapshot(&self, now: Instant) -> Snapshot {
        let now = self.time().nanos(now);
        let settings = self.live().all();
        let (mut none, mut guard) = (Rare::default(), lock(&self.rare));
        let rare = guard.as_deref_mut().unwrap_or(&mut none);
        let machine = self.machine(rare, &settings);
        let (phase, moment) = (machine.phase, machine.moment);
        let (trips, trips_in_row) = machine.trips();
        let probes = machine.probes();
        drop(guard);
        let left = Duration::from_nanos(moment.saturating_sub(now));
        let ramp_left = Ramp::new(moment, self.live().ramp()).left(now);
        let spot = self.live().scale().spot(now);
        let tally = self.counts.tally(&settings.rules, phase.generation, spot);
        Snapshot {
            mode: phase.mode,
            state: phase.state(),
            calls: tally.calls,
            failures: tally.failures,
            slow_calls: tally.slow,
            consecutive_failures: tally.in_row,
            probes: probes.try_into().unwrap_or(u32::MAX),
            retry_after: (phase.stage == Stage::Open).then_some(left),
            ramp_left: (phase.stage == Stage::Ramp && !ramp_left.is_zero()).then_some(ramp_left),
            trips,
            trips_in_row,
        }
    }

    pub(super) fn state(&self) -> State {
        Phase::unpack(self.phase.load(Ordering::Acquire)).state()
    }

    /// The moment of so many nanoseconds.
    pub(super) fn instant(&self, nanos: u64, now: Instant) -> Instant {
        later(self.base(now), Duration::from_nanos(nanos))
    }

    /// What nanoseconds are counted from.
    #[inline]
    pub(super) fn base(&self, now: Instant) -> Instant {
        self.time().base(now)
    }

    #[cold]
    pub(super) fn admit_closely(
        &self,
        is_check: bool,
        now: &mut dyn FnMut() -> Instant,
        rng: &Rng,
    ) -> Result<Ticket, No> {
        let phase = Phase::unpack(self.phase.load(Ordering::Acquire));
        let generation = phase.generation;
        match phase.mode {
            Mode::Disabled => {
                return Ok(Ticket::new(generation, Role::Idle));
            }
            Mode::ForcedClosed => {
                let role = self.counted(now);
                return Ok(Ticket::new(generation, role));
            }
            Mode::ForcedOpen => return Err(No::until(None)),
            Mode::Automatic | Mode::WatchOnly => {}
        }
        let at = now();
        let nanos = self.time().nanos(at);
        let dropped = self.live().flags().counts_cancelled()
            && self.dropped.load(Ordering::Relaxed) != 0
            && self.dropped.swap(0, Ordering::Acquire) != 0;
        let judged = dropped.then(|| self.judge(generation, None, &mut || at, rng));
        let opened = judged.flatten();
        let (generation, admission) = match opened {
            Some(change) => {
                let until = nanos.saturating_add(change.retry_after.map_or(0, count));
                (generation, Admission::Refused(No::opened(change, until)))
            }
            None => match self.admit_at_a_glance(phase, nanos, rng) {
                Some(admission) => (generation, admission),
                None => self.change(|machine| {
                    let admission = machine.admit(nanos, is_check, &mut rng.draws());
                    (machine.phase.generation, admission)
                }),
            },
        };
        let role = match admission {
            Admission::Counted => self.counted(|| at),
            Admission::Probe { number, first } => Role::Probe { number, first },
            Admission::Refused(no) if phase.mode == Mode::WatchOnly => Role::Ghost(no),
            Admission::Refused(no) => return Err(no),
        };
        Ok(Ticket::new(generation, role))
    }

    fn counted(&self, now: impl FnOnce() -> Instant) -> Role {
        let begun = if self.live().flags().counts_cancelled() {
            self.time().nanos(now())
        } else {
            0
        };
        Role::Counted { begun }
    }

    /// The answers that need no lock: whatever changes nothing.
    fn admit_at_a_glance(&self, phase: Phase, now: u64, rng: &Rng) -> Option<Admission> {
        // It may be a later phase's moment already. Each is safe to take for another's: it only
        // refuses, or leads to the lock, behind which phase and moment belong together.
        let moment = self.moment.load(Ordering::Relaxed);
        match phase.stage {
            Stage::Closed => Some(Admission::Counted),
            Stage::HalfOpen | Stage::Open => {
                (now < moment).then(|| Admission::Refused(No::until(Some(moment))))
            }
            Stage::Ramp => {
                let ramp = Ramp::new(moment, self.live().ramp());
                if ramp.is_over(now) {
                    return None;
                }
                Some(match ramp.admit(now, rng.draws().next_u64()) {
                    Ok(()) => Admission::Counted,
                    Err(at) => Admission::Refused(No::until(Some(at))),
                })
            }
        }
    }

    fn is_slow(&self, ended: Ended) -> bool {
        let over = self.live().slow_over();
        matches!((over, ended.latency), (Some(over), Some(took)) if took >= over)
    }

    /// After a bad outcome: is a rule broken?
    #[cold]
    fn judge(
        &self,
        generation: u64,
        hint: Option<Duration>,
        now: &mut dyn FnMut() -> Instant,
        rng: &Rng,
    ) -> Option<Change> {
        let rules = &self.live().rules();
        // Without a window of time the clock is read only if there is something to tell.
        let mut at = rules.counts_by_time.then(&mut *now);
        let spot = at.map_or(Spot::default(), |at| self.time().spot(at));
        let why = self.counts.broken(rules, generation, spot)?;
        let now = self.time().nanos(*at.get_or_insert_with(now));
        let hint = self.hint_left(hint, now);
        let opening = Opening { why, now, hint };
        let mut draws = rng.draws();
        self.change(|machine| machine.trip(generation, opening, &mut draws))
    }

    #[cold]
    fn settle_probe(
        &self,
        generation: u64,
        number: u32,
        ended: Ended,
        now: &mut dyn FnMut() -> Instant,
        rng: &Rng,
    ) -> Option<Change> {
        let count_as = match self.live().flags().probe_counts_as(ended.kind) {
            CountAs::Success if self.is_slow(ended) => CountAs::Failure,
            other => other,
        };
        if count_as == CountAs::Nothing {
            self.change(|machine| machine.release(number));
            return None;
        }
        let opening = Opening {
            why: Why::ProbeFailed,
            now: self.time().nanos(now()),
            hint: ended.hint,
        };
        let succeeded = count_as == CountAs::Success;
        let mut draws = rng.draws();
        self.change(|machine| {
            machine.settle_probe(generation, number, succeeded, opening, &mut draws)
        })
    }

    /// Whether the settings are another's from now on. `false`: its counters are made otherwise.
    pub(super) fn reconfigure(&self, to: &Self) -> bool {
        let (old, new) = (self.live().all(), to.live().all());
        if !old.rules.counts_like(&new.rules) {
            return false;
        }
        if self.common.base.is_none() {
            self.own.get_or_init(|| Box::new(Live::new(old)));
        }
        self.live().set(new);
        self.counts.bound_streak(&self.live().rules());
        self.change(|machine| {
            if machine.phase.stage == Stage::HalfOpen {
                // There may be more places now.
                machine.moment = 0;
            }
        });
        true
    }

    fn machine<'a>(&'a self, rare: &'a mut Rare, settings: &'a Settings) -> Machine<'a> {
        Machine {
            phase: Phase::unpack(self.phase.load(Ordering::Relaxed)),
            moment: self.moment.load(Ordering::Relaxed),
            rare,
            settings,
        }
    }

    /// Lets the machine make a step, and shows everybody where it is now.
    fn change<T>(&self, step: impl FnOnce(&mut Machine<'_>) -> T) -> T {
        let settings = self.live().all();
        let mut rare = lock(&self.rare);
        let mut machine = self.machine(rare.get_or_insert_default(), &settings);
        let before = machine.phase;
        let answer = step(&mut machine);
        let (phase, moment) = (machine.phase, machine.moment);
        if phase.generation != before.generation {
            self.counts.begin(phase.generation);
            self.hinted.store(0, Ordering::Relaxed);
            self.dropped.store(0, Ordering::Relaxed);
        }
        self.moment.store(moment, Ordering::Relaxed);
        // Released last: whoever sees the phase sees all that belongs to it.
        let marks = self.live().flags().marks();
        self.phase.store(phase.pack() | marks, Ordering::Release);
        drop(rare);
        answer
    }
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests {
    use super::*;

    #[test]
    fn settings_of_its_own_and_a_first_trip_take_what_is_said() {
        assert!(2 * size_of::<usize>() + size_of::<Common>() <= 360);
        assert!(size_of::<Rare>() <= 100, "{}", size_of::<Rare>());
        assert!(size_of::<Ticket>() <= 24);
    }

    #[test]
    fn a_breaker_takes_at_most_256_bytes_all_told() {
        // The counts of `Arc`, and the handle.
        let overhead = 2 * size_of::<usize>() + size_of::<Arc<Shared>>();
        let size = size_of::<Shared>() + overhead;
        assert!(size <= 256, "{size}");
        // Settings are shared by those that have the defaults.
        let (one, other) = (Common::of_defaults(), Common::of_defaults());
        assert!(Arc::ptr_eq(&one, &other));
    }

    #[test]
    fn one_that_is_given_other_settings_changes_no_others() {
        let settings = |min_calls| {
            let mut settings = Settings::default();
            settings.rules.min_calls = min_calls;
            settings.cancelled = CountAs::Failure;
            Shared::new(Arc::new(Common::new(settings)))
        };
        let min_calls = |it: &Shared| it.live().all().rules.min_calls;
        let defaults = || Shared::new(Common::of_defaults());
        let (one, other) = (defaults(), defaults());
        for calls in [7, 8] {
            assert!(one.reconfigure(&settings(calls)));
            assert_eq!((min_calls(&one), min_calls(&one.fresh())), (calls, calls));
            assert_eq!((min_calls(&other), min_calls(&defaults())), (20, 20));
        }
        // When its calls begin matters to the one and not to the other.
        assert!(one.admit_plainly().is_none() && one.fresh().admit_plainly().is_none());
        assert!(other.admit_plainly().is_some() && defaults().admit_plainly().is_some());
        // With the defaults again it goes on by itself.
        assert!(one.reconfigure(&other));
        assert_eq!(min_calls(&one), 20);
        assert!(one.admit_plainly().is_some());
    }
}
