//! One breaker's state, shared: atomics for what every call does, a lock for what few do.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::backoff::count;
use crate::deadline::later;
use crate::rng::Rng;
use crate::sync::{Arc, AtomicU64, Mutex, Ordering, lock};
use crate::verdict::Kind;

use super::counts::Counts;
use super::report::{Change, Mode, Snapshot, State, Why};
use super::settings::{CountAs, Settings};
use super::state::{Admission, GENERATION_SHIFT, Machine, Opening, Phase, Ramp, Rare, Stage};

/// What a breaker has in common with those made from it: one set of settings for all keys.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) settings: Settings,
    /// The moment that all others are counted from: the first that one of them was told.
    base: OnceLock<Instant>,
}

#[derive(Debug)]
pub(super) struct Shared {
    /// The machine's phase, packed. Written under the lock only.
    phase: AtomicU64,
    /// The machine's moment. Written under the lock only, before the phase.
    moment: AtomicU64,
    pub(super) common: Arc<Common>,
    counts: Counts,
    rare: Mutex<Rare>,
}

/// The right to make one call, as plain data.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    generation: u64,
    /// When the call began, where that will matter.
    begun: u64,
    role: Role,
}

#[derive(Clone, Copy, Debug)]
enum Role {
    /// Its outcome is counted.
    Counted,
    /// It would have been refused if the breaker did more than watch.
    Ghost { until: Option<u64> },
    /// Nobody cares.
    Idle,
    /// It decides.
    Probe { number: u32, first: bool },
}

/// What is known of a call that ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) kind: Kind,
    pub(super) hint: Option<Duration>,
    pub(super) latency: Option<Duration>,
}

impl Common {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            base: OnceLock::new(),
        }
    }

    #[inline]
    fn nanos(&self, now: Instant) -> u64 {
        let base = *self.base.get_or_init(|| now);
        count(now.saturating_duration_since(base))
    }

    fn instant(&self, nanos: u64, now: Instant) -> Instant {
        let base = *self.base.get_or_init(|| now);
        later(base, Duration::from_nanos(nanos))
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
            counts: Counts::new(&common.settings.rules),
            rare: Mutex::new(Rare::default()),
            common,
        }
    }

    /// Somebody asks. `Err`: refused, until then if that is known.
    #[inline]
    pub(super) fn admit(
        &self,
        mut now: impl FnMut() -> Instant,
        rng: &Rng,
    ) -> Result<Ticket, Option<Instant>> {
        let word = self.phase.load(Ordering::Acquire);
        if Phase::is_plain(word) {
            return Ok(self.ticket(word >> GENERATION_SHIFT, Role::Counted, now));
        }
        self.admit_otherwise(word, &mut now, rng)
    }

    /// Whether a rule looks at how long calls take.
    #[inline]
    pub(super) fn wants_latency(&self) -> bool {
        self.common.settings.rules.slow.is_some()
    }

    /// A call ended.
    #[inline]
    pub(super) fn settle(
        &self,
        ticket: &Ticket,
        ended: Ended,
        mut now: impl FnMut() -> Instant,
        rng: &Rng,
    ) -> Option<Change> {
        let settings = &self.common.settings;
        match ticket.role {
            Role::Counted => {}
            Role::Ghost { .. } | Role::Idle => return None,
            Role::Probe { number, .. } => {
                return self.settle_probe(ticket.generation, number, ended, &mut now, rng);
            }
        }
        let word = self.phase.load(Ordering::Acquire);
        let count_as = settings.count_as(ended.kind);
        if word >> GENERATION_SHIFT != ticket.generation || count_as == CountAs::Nothing {
            return None;
        }
        let failed = count_as == CountAs::Failure;
        let slow = settings.rules.slow.is_some() && self.is_slow(ended);
        let generation = ticket.generation;
        let nanos = || self.common.nanos(now());
        self.counts
            .add(&settings.rules, generation, failed, slow, nanos);
        let judged = Phase::unpack(word).mode != Mode::ForcedClosed;
        if judged && (failed || slow) {
            return self.judge(generation, ended.hint, &mut now, rng);
        }
        None
    }

    /// A call was dropped, or never began.
    pub(super) fn abandon(&self, ticket: &Ticket) {
        match ticket.role {
            Role::Ghost { .. } | Role::Idle => {}
            Role::Counted => {
                let settings = &self.common.settings;
                let count_as = settings.cancelled;
                if count_as == CountAs::Nothing
                    || self.phase.load(Ordering::Acquire) >> GENERATION_SHIFT != ticket.generation
                {
                    return;
                }
                let failed = count_as == CountAs::Failure;
                let (generation, begun) = (ticket.generation, || ticket.begun);
                self.counts
                    .add(&settings.rules, generation, failed, false, begun);
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
        (self.common.nanos(now) < until).then(|| self.common.instant(until, now))
    }

    /// Whether it decides by itself.
    pub(super) fn is_automatic(&self) -> bool {
        Phase::unpack(self.phase.load(Ordering::Relaxed)).mode == Mode::Automatic
    }

    pub(super) fn set_mode(&self, mode: Mode, now: Instant) -> Option<Change> {
        let now = self.common.nanos(now);
        self.change(|machine| machine.set_mode(mode, now))
    }

    pub(super) fn restore(&self, from: &Snapshot, now: Instant, rng: &Rng) -> Option<Change> {
        let now = self.common.nanos(now);
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
        let now = self.common.nanos(now);
        let mut rare = lock(&self.rare);
        let machine = self.machine(&mut rare);
        let (phase, moment) = (machine.phase, machine.moment);
        let (trips, trips_in_row) = machine.trips();
        let probes = machine.probes(now);
        drop(rare);
        let left = Duration::from_nanos(moment.saturating_sub(now));
        let ramp_left = Ramp::new(moment, self.common.settings.ramp).left(now);
        let rules = &self.common.settings.rules;
        let tally = self.counts.tally(rules, phase.generation, now);
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

    /// Until when a watched call would have been refused, if it would have been.
    #[allow(clippy::option_option)] // whether, and until when
    pub(super) fn would_refuse(&self, ticket: &Ticket, now: Instant) -> Option<Option<Instant>> {
        match ticket.role {
            Role::Ghost { until } => Some(until.map(|until| self.common.instant(until, now))),
            _ => None,
        }
    }

    #[cold]
    fn admit_otherwise(
        &self,
        word: u64,
        now: &mut dyn FnMut() -> Instant,
        rng: &Rng,
    ) -> Result<Ticket, Option<Instant>> {
        let phase = Phase::unpack(word);
        let generation = phase.generation;
        match phase.mode {
            Mode::Disabled => return Ok(self.ticket(generation, Role::Idle, now)),
            Mode::ForcedClosed => return Ok(self.ticket(generation, Role::Counted, now)),
            Mode::ForcedOpen => return Err(None),
            Mode::Automatic | Mode::WatchOnly => {}
        }
        let at = now();
        let nanos = self.common.nanos(at);
        let (generation, admission) = match self.admit_at_a_glance(phase, nanos, rng) {
            Some(admission) => (generation, admission),
            None => self.change(|machine| {
                let admission = machine.admit(nanos, || rng.draws().next_u64());
                (machine.phase.generation, admission)
            }),
        };
        let role = match admission {
            Admission::Counted => Role::Counted,
            Admission::Probe { number, first } => Role::Probe { number, first },
            Admission::Refused(until) if phase.mode == Mode::WatchOnly => Role::Ghost { until },
            Admission::Refused(until) => {
                return Err(until.map(|until| self.common.instant(until, at)));
            }
        };
        Ok(self.ticket(generation, role, || at))
    }

    /// The answers that need no lock: whatever changes nothing.
    fn admit_at_a_glance(&self, phase: Phase, now: u64, rng: &Rng) -> Option<Admission> {
        // It may be a later phase's moment already. Each is safe to take for another's: it only
        // refuses, or leads to the lock, behind which phase and moment belong together.
        let moment = self.moment.load(Ordering::Relaxed);
        match phase.stage {
            Stage::Closed => Some(Admission::Counted),
            Stage::HalfOpen if now < moment => Some(Admission::Refused(None)),
            Stage::Open if now < moment => Some(Admission::Refused(Some(moment))),
            Stage::HalfOpen | Stage::Open => None,
            Stage::Ramp => {
                let ramp = Ramp::new(moment, self.common.settings.ramp);
                if ramp.is_over(now) {
                    return None;
                }
                Some(match ramp.admit(now, rng.draws().next_u64()) {
                    Ok(()) => Admission::Counted,
                    Err(at) => Admission::Refused(Some(at)),
                })
            }
        }
    }

    #[inline]
    fn ticket(&self, generation: u64, role: Role, now: impl FnOnce() -> Instant) -> Ticket {
        let begun = match self.common.settings.cancelled {
            CountAs::Nothing => 0,
            CountAs::Failure | CountAs::Success => self.common.nanos(now()),
        };
        Ticket {
            generation,
            begun,
            role,
        }
    }

    fn is_slow(&self, ended: Ended) -> bool {
        let over = self.common.settings.rules.slow.map(|it| it.0);
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
        let rules = &self.common.settings.rules;
        // Without a window of time the clock is read only if there is something to tell.
        let mut at = rules.scale.map(|_| self.common.nanos(now()));
        let why = self.counts.broken(rules, generation, at.unwrap_or(0))?;
        let now = *at.get_or_insert_with(|| self.common.nanos(now()));
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
        let count_as = match self.common.settings.probe_counts_as(ended.kind) {
            CountAs::Success if self.is_slow(ended) => CountAs::Failure,
            other => other,
        };
        if count_as == CountAs::Nothing {
            self.change(|machine| machine.release(number));
            return None;
        }
        let opening = Opening {
            why: Why::ProbeFailed,
            now: self.common.nanos(now()),
            hint: ended.hint,
        };
        let succeeded = count_as == CountAs::Success;
        let mut draws = rng.draws();
        self.change(|machine| {
            machine.settle_probe(generation, number, succeeded, opening, &mut draws)
        })
    }

    fn machine<'a>(&'a self, rare: &'a mut Rare) -> Machine<'a> {
        Machine {
            phase: Phase::unpack(self.phase.load(Ordering::Relaxed)),
            moment: self.moment.load(Ordering::Relaxed),
            rare,
            settings: &self.common.settings,
        }
    }

    /// Lets the machine make a step, and shows everybody where it is now.
    fn change<T>(&self, step: impl FnOnce(&mut Machine<'_>) -> T) -> T {
        let mut rare = lock(&self.rare);
        let mut machine = self.machine(&mut rare);
        let before = machine.phase;
        let answer = step(&mut machine);
        let (phase, moment) = (machine.phase, machine.moment);
        if phase.generation != before.generation {
            self.counts.begin(phase.generation);
        }
        self.moment.store(moment, Ordering::Relaxed);
        // Released last: whoever sees the phase sees all that belongs to it.
        self.phase.store(phase.pack(), Ordering::Release);
        drop(rare);
        answer
    }
}

impl Ticket {
    /// The change that its asking made.
    pub(crate) fn change(&self) -> Option<Change> {
        let first = matches!(self.role, Role::Probe { first: true, .. });
        first.then_some(Change {
            from: State::Open,
            to: State::HalfOpen,
            why: Why::CooldownOver,
            retry_after: None,
        })
    }

    pub(super) const fn is_probe(&self) -> bool {
        matches!(self.role, Role::Probe { .. })
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
