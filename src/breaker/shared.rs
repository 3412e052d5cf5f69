//! One breaker's state, shared: atomics for what every call does, a lock for what few do.

use std::time::{Duration, Instant};

use crate::backoff::count;
use crate::deadline::later;
use crate::rng::Rng;
use crate::sync::{Arc, AtomicU32, AtomicU64, Mutex, Ordering, lock};

use super::counts::Counts;
use super::phase::{GENERATION_SHIFT, Phase, Stage};
use super::ramp::Ramp;
use super::report::{Change, Mode, Snapshot, State, Why};
use super::settings::{CountAs, Live, Settings};
use super::sliding::Spot;
use super::state::{Admission, Machine, Opening, Rare};
use super::ticket::{Ended, No, Role, Ticket};
use super::time::Time;

/// What a breaker has in common with those made from it: one set of settings for all keys.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) live: Live,
    pub(super) time: Time,
}

#[derive(Debug)]
pub(super) struct Shared {
    /// The machine's phase, packed. Written under the lock only.
    phase: AtomicU64,
    /// The machine's moment. Written under the lock only, before the phase.
    moment: AtomicU64,
    pub(super) common: Arc<Common>,
    counts: Counts,
    /// The latest moment that failures of this spell asked for since its last success, or zero.
    /// Raised under the lock only.
    hinted: AtomicU64,
    /// Not zero if dropped calls may have broken a rule since it was last looked at.
    dropped: AtomicU32,
    rare: Mutex<Rare>,
}

impl Common {
    pub(super) fn new(settings: Settings) -> Self {
        let live = Live::new(settings);
        Self {
            time: Time::new(live.scale()),
            live,
        }
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
            phase: AtomicU64::new(phase.pack()),
            moment: AtomicU64::new(0),
            counts: Counts::new(&common.live.rules()),
            hinted: AtomicU64::new(0),
            dropped: AtomicU32::new(0),
            rare: Mutex::new(Rare::default()),
            common,
        }
    }

    /// Somebody asks a breaker that is closed, as nearly always.
    #[inline]
    pub(super) fn admit_plainly(&self) -> Option<Ticket> {
        let word = self.phase.load(Ordering::Acquire);
        let plain = Phase::is_plain(word) && !self.common.live.flags().counts_cancelled();
        plain.then_some(Ticket {
            generation: word >> GENERATION_SHIFT,
            role: Role::Counted { begun: 0 },
        })
    }

    /// Somebody asks.
    #[inline]
    pub(super) fn admit(
        &self,
        is_check: bool,
        mut now: impl FnMut() -> Instant,
        rng: &Rng,
    ) -> Result<Ticket, No> {
        let word = self.phase.load(Ordering::Acquire);
        if Phase::is_open(word) {
            let until = self.moment.load(Ordering::Relaxed);
            if self.common.time.is_well_before(now(), until) {
                return Err(No::until(Some(until)));
            }
        }
        self.admit_closely(Phase::unpack(word), is_check, &mut now, rng)
    }

    /// A call succeeded. Says whether that is all there was to do, as nearly always.
    #[inline]
    pub(super) fn succeeded(&self, ticket: &Ticket, now: impl FnOnce() -> Instant) -> bool {
        let word = self.phase.load(Ordering::Acquire);
        let plain = word == ticket.generation << GENERATION_SHIFT;
        let flags = self.common.live.flags();
        // A slow one isn't all there is to it.
        if !plain || !matches!(ticket.role, Role::Counted { .. }) || flags.has_slow() {
            return false;
        }
        if self.counts.has_streak() {
            self.end_streak(ticket.generation);
        }
        self.end_hint();
        if flags.counts_by_time() {
            self.count_good(ticket.generation, now());
        } else {
            self.counts.add_good(ticket.generation);
        }
        true
    }

    #[cold]
    fn end_streak(&self, generation: u64) {
        let rules = self.common.live.rules();
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
        let longest = self.common.live.max_hint();
        if longest.is_zero() {
            return;
        }
        let now = self.common.time.nanos(now());
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
        match self.common.time.known_spot(now) {
            Some(spot) => self.counts.add_at(spot.of(generation), false),
            None => self.count_good_at(generation, now),
        }
    }

    #[cold]
    #[inline(never)]
    fn count_good_at(&self, generation: u64, now: Instant) {
        let place = self.common.time.spot(now).of(generation);
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
        let flags = self.common.live.flags();
        match ticket.role {
            Role::Counted { .. } => {}
            Role::Ghost(_) | Role::Idle => return None,
            Role::Probe { number, .. } => {
                return self.settle_probe(ticket.generation, number, ended, &mut now, rng);
            }
        }
        let word = self.phase.load(Ordering::Acquire);
        let count_as = flags.count_as(ended.kind);
        let failed = count_as == CountAs::Failure;
        if let Some(hint) = ended.hint.filter(|_| failed) {
            self.heed(ticket.generation, hint, &mut now, rng);
        }
        if word >> GENERATION_SHIFT != ticket.generation || count_as == CountAs::Nothing {
            return None;
        }
        if !failed {
            self.end_hint();
        }
        let slow = self.is_slow(ended);
        let generation = ticket.generation;
        let spot = || self.common.time.spot(now());
        let rules = self.common.live.rules();
        self.counts.add(&rules, generation, failed, slow, spot);
        let judged = Phase::unpack(word).mode != Mode::ForcedClosed;
        if judged && (failed || slow) {
            return self.judge(generation, ended.hint, &mut now, rng);
        }
        None
    }

    /// A call was dropped, or never began.
    pub(super) fn abandon(&self, ticket: Ticket) {
        match ticket.role {
            Role::Ghost(_) | Role::Idle => {}
            Role::Counted { begun } => {
                let count_as = self.common.live.flags().cancelled();
                if count_as == CountAs::Nothing
                    || self.phase.load(Ordering::Acquire) >> GENERATION_SHIFT != ticket.generation
                {
                    return;
                }
                let failed = count_as == CountAs::Failure;
                let (live, generation) = (&self.common.live, ticket.generation);
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
        (self.common.time.nanos(now) < until).then(|| self.instant(until, now))
    }

    /// While it isn't closed, and nobody has said that it is to be open: when it may let a probe through.
    /// `None` also while all the probes there may be are out.
    pub(super) fn probe_at(&self, now: Instant) -> Option<Instant> {
        let phase = Phase::unpack(self.phase.load(Ordering::Acquire));
        let moment = self.moment.load(Ordering::Relaxed);
        let is_over = self.common.time.nanos(now) >= moment;
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
        let until = until.map_or(0, |until| self.common.time.nanos(until));
        self.change(|machine| machine.reserve(until));
    }

    /// Whether a new one in its place would do as well.
    pub(super) fn is_forgotten(&self, now: Instant) -> bool {
        let now = self.common.time.nanos(now);
        let settings = self.common.live.all();
        let mut rare = lock(&self.rare);
        self.machine(&mut rare, &settings).is_forgotten(now)
    }

    pub(super) fn set_mode(&self, mode: Mode, now: Instant) -> Option<Change> {
        let now = self.common.time.nanos(now);
        self.change(|machine| machine.set_mode(mode, now))
    }

    pub(super) fn restore(&self, from: &Snapshot, now: Instant, rng: &Rng) -> Option<Change> {
        let now = self.common.time.nanos(now);
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
        let now = self.common.time.nanos(now);
        let settings = self.common.live.all();
        let mut rare = lock(&self.rare);
        let machine = self.machine(&mut rare, &settings);
        let (phase, moment) = (machine.phase, machine.moment);
        let (trips, trips_in_row) = machine.trips();
        let probes = machine.probes();
        drop(rare);
        let left = Duration::from_nanos(moment.saturating_sub(now));
        let ramp_left = Ramp::new(moment, self.common.live.ramp()).left(now);
        let spot = self.common.live.scale().spot(now);
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
        self.common.time.base(now)
    }

    #[cold]
    fn admit_closely(
        &self,
        phase: Phase,
        is_check: bool,
        now: &mut dyn FnMut() -> Instant,
        rng: &Rng,
    ) -> Result<Ticket, No> {
        let generation = phase.generation;
        match phase.mode {
            Mode::Disabled => {
                let role = Role::Idle;
                return Ok(Ticket { generation, role });
            }
            Mode::ForcedClosed => {
                let role = self.counted(now);
                return Ok(Ticket { generation, role });
            }
            Mode::ForcedOpen => return Err(No::until(None)),
            Mode::Automatic | Mode::WatchOnly => {}
        }
        let at = now();
        let nanos = self.common.time.nanos(at);
        let dropped = self.common.live.flags().counts_cancelled()
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
        Ok(Ticket { generation, role })
    }

    fn counted(&self, now: impl FnOnce() -> Instant) -> Role {
        let begun = if self.common.live.flags().counts_cancelled() {
            self.common.time.nanos(now())
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
                let ramp = Ramp::new(moment, self.common.live.ramp());
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
        let over = self.common.live.slow_over();
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
        let rules = &self.common.live.rules();
        // Without a window of time the clock is read only if there is something to tell.
        let mut at = rules.counts_by_time.then(&mut *now);
        let spot = at.map_or(Spot::default(), |at| self.common.time.spot(at));
        let why = self.counts.broken(rules, generation, spot)?;
        let now = self.common.time.nanos(*at.get_or_insert_with(now));
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
        let count_as = match self.common.live.flags().probe_counts_as(ended.kind) {
            CountAs::Success if self.is_slow(ended) => CountAs::Failure,
            other => other,
        };
        if count_as == CountAs::Nothing {
            self.change(|machine| machine.release(number));
            return None;
        }
        let opening = Opening {
            why: Why::ProbeFailed,
            now: self.common.time.nanos(now()),
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
        let (old, new) = (self.common.live.all(), to.common.live.all());
        if !old.rules.counts_like(&new.rules) {
            return false;
        }
        self.common.live.set(new);
        self.counts.bound_streak(&self.common.live.rules());
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
        let settings = self.common.live.all();
        let mut rare = lock(&self.rare);
        let mut machine = self.machine(&mut rare, &settings);
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
        self.phase.store(phase.pack(), Ordering::Release);
        drop(rare);
        answer
    }
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_breaker_takes_at_most_256_bytes_all_told() {
        // The counts of `Arc`, and the handle.
        let overhead = 2 * size_of::<usize>() + size_of::<Arc<Shared>>();
        let size = size_of::<Shared>() + overhead;
        assert!(size <= 256, "{size}");
    }
}
