//! The breaker's states and what leads from one to the next. Pure.
//!
//! Moments are nanoseconds since the breaker's beginning.
//!
//! | | closed | ramp | open | half-open |
//! |---|---|---|---|---|
//! | asked | go | a share goes | half-open once its time is over | go while fewer than N probes are out |
//! | a rule is broken | open | open | - (1) | - (1) |
//! | probe succeeded | - (2) | - (2) | - (2) | closed, or ramp, once enough did |
//! | probe failed | - (2) | - (2) | - (2) | open once enough did |
//! | probe dropped or too late | - (3) | - (3) | - (3) | its place is free |
//!
//! 1. Only results of calls let through while closed count towards the rules, and these are of an
//!    earlier generation by now.
//! 2. A probe of an earlier generation. The state it was to decide about has been left. But until
//!    it is back, or given up, it has its place: it is a call that is out.
//! 3. Its place is free all the same.

use std::time::Duration;

use crate::backoff::{Progress, count};
use crate::rng::Draws;

use super::phase::{Phase, Stage};
use super::ramp::Ramp;
use super::report::{Change, Mode, State, Why};
use super::settings::Settings;

/// What changes seldom: what only trips and probes need.
#[derive(Debug, Default)]
pub(super) struct Rare {
    trips: u32,
    in_row: u32,
    /// When it closed last.
    closed_at: u64,
    /// How long it was open last, without what a server asked for.
    length: u64,
    progress: Option<Box<Progress>>,
    /// The next probe's number. They go on over spells.
    next_probe: u32,
    probing: Option<Box<Probing>>,
}

/// The probes: those of the half-open spell, and earlier ones that are still out.
#[derive(Debug, Default)]
struct Probing {
    /// Number and latest return of each that is out.
    out: Vec<(u32, u64)>,
    /// Of this spell.
    succeeded: u32,
    failed: u32,
}

/// The machine: the phase, its moment, and the rest.
#[derive(Debug)]
pub(super) struct Machine<'a> {
    pub(super) phase: Phase,
    /// Open: when it may half-open. Half-open: until when every place is taken, as far as is
    /// known. Ramp: when it began.
    pub(super) moment: u64,
    pub(super) rare: &'a mut Rare,
    pub(super) settings: &'a Settings,
}

/// An answer to somebody who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Let through while closed: its outcome is counted.
    Counted,
    /// One of the probes, and whether it is the one that made the breaker half-open.
    Probe { number: u32, first: bool },
    /// Not now, but at this moment if it is known.
    Refused(Option<u64>),
}

/// Why and how a breaker is to open.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opening {
    pub(super) why: Why,
    pub(super) now: u64,
    pub(super) hint: Option<Duration>,
}

impl Machine<'_> {
    /// Somebody asks. `draw` is their luck on the ramp.
    pub(super) fn admit(&mut self, now: u64, draw: impl FnOnce() -> u64) -> Admission {
        match self.phase.stage {
            Stage::Closed => Admission::Counted,
            Stage::HalfOpen => self.admit_probe(now, false),
            Stage::Open if now < self.moment => Admission::Refused(Some(self.moment)),
            Stage::Open => self.half_open(now),
            Stage::Ramp => {
                let ramp = Ramp::new(self.moment, self.settings.ramp);
                if ramp.is_over(now) {
                    // No change of generation: what was counted on the way goes on counting.
                    self.phase.stage = Stage::Closed;
                    return Admission::Counted;
                }
                match ramp.admit(now, draw()) {
                    Ok(()) => Admission::Counted,
                    Err(at) => Admission::Refused(Some(at)),
                }
            }
        }
    }

    /// A call of this generation broke a rule.
    pub(super) fn trip(
        &mut self,
        generation: u64,
        opening: Opening,
        draws: &mut Draws,
    ) -> Option<Change> {
        let closed = matches!(self.phase.stage, Stage::Closed | Stage::Ramp);
        let automatic = matches!(self.phase.mode, Mode::Automatic | Mode::WatchOnly);
        if generation != self.phase.generation || !closed || !automatic {
            return None;
        }
        let healthy = opening.now.saturating_sub(self.rare.closed_at);
        if healthy >= count(self.settings.forget_after) {
            self.rare.progress = None;
            self.rare.in_row = 0;
        }
        Some(self.open(opening, draws))
    }

    /// A probe came back and has something to say.
    pub(super) fn settle_probe(
        &mut self,
        generation: u64,
        number: u32,
        succeeded: bool,
        opening: Opening,
        draws: &mut Draws,
    ) -> Option<Change> {
        let in_time = self
            .release(number)
            .is_some_and(|until| opening.now < until);
        if !in_time || generation != self.phase.generation {
            return None;
        }
        let probing = self.rare.probing.as_mut()?;
        if succeeded {
            probing.succeeded += 1;
            if probing.succeeded < self.settings.close_after {
                return None;
            }
            Some(self.close(opening.now, Why::ProbeSucceeded))
        } else {
            probing.failed += 1;
            if probing.failed < self.settings.reopen_after {
                return None;
            }
            Some(self.open(opening, draws))
        }
    }

    /// A probe gives its place back. Says until when it had it.
    pub(super) fn release(&mut self, number: u32) -> Option<u64> {
        let probing = self.rare.probing.as_mut()?;
        let place = probing.out.iter().position(|it| it.0 == number)?;
        let (_, until) = probing.out.swap_remove(place);
        if self.phase.stage == Stage::HalfOpen {
            self.moment = 0;
        }
        self.tidy();
        Some(until)
    }

    /// Somebody sets the mode: closed, and nothing counted yet.
    pub(super) fn set_mode(&mut self, mode: Mode, now: u64) -> Option<Change> {
        let from = self.state();
        self.rare.closed_at = now;
        self.moment = 0;
        self.enter(Stage::Closed);
        self.phase.mode = mode;
        self.changed(from, Why::Manual, None)
    }

    /// Somebody restores it. `left`: how long it stays open; `None`: closed.
    pub(super) fn restore(
        &mut self,
        mode: Mode,
        left: Option<Duration>,
        (trips, in_row): (u32, u32),
        now: u64,
        draws: &mut Draws,
    ) -> Option<Change> {
        let from = self.state();
        let _ = self.set_mode(mode, now);
        self.rare.trips = trips;
        self.rare.in_row = 0;
        self.rare.progress = None;
        for _ in 0..in_row.min(MOST_IN_ROW) {
            let _ = self.next_length(draws);
        }
        let automatic = matches!(mode, Mode::Automatic | Mode::WatchOnly);
        let left = left.filter(|_| automatic);
        if let Some(left) = left {
            self.enter(Stage::Open);
            self.moment = now.saturating_add(count(left));
        }
        self.changed(from, Why::Restored, left)
    }

    pub(super) const fn state(&self) -> State {
        self.phase.state()
    }

    /// Trips ever, and of late.
    pub(super) const fn trips(&self) -> (u32, u32) {
        (self.rare.trips, self.rare.in_row)
    }

    /// Probes that are out and not given up.
    pub(super) fn probes(&self, now: u64) -> usize {
        let out = self.rare.probing.iter().flat_map(|it| &it.out);
        out.filter(|(_, until)| now < *until).count()
    }

    fn half_open(&mut self, now: u64) -> Admission {
        self.give_up(now);
        if self.places() == 0 {
            // Earlier probes are all still out. Half-open would make no difference.
            return Admission::Refused(None);
        }
        self.enter(Stage::HalfOpen);
        let probing = self.rare.probing.get_or_insert_default();
        (probing.succeeded, probing.failed) = (0, 0);
        self.admit_probe(now, true)
    }

    fn admit_probe(&mut self, now: u64, first: bool) -> Admission {
        self.give_up(now);
        let places = self.places();
        let number = self.rare.next_probe;
        let probing = self.rare.probing.get_or_insert_default();
        if places > 0 {
            self.rare.next_probe = number.wrapping_add(1);
            let until = now.saturating_add(count(self.settings.probe_timeout).max(1));
            probing.out.push((number, until));
        }
        let earliest = probing.out.iter().map(|it| it.1).min();
        self.moment = earliest.filter(|_| places <= 1).unwrap_or(0);
        if places > 0 {
            Admission::Probe { number, first }
        } else {
            // When one will come back nobody knows.
            Admission::Refused(None)
        }
    }

    /// How many probes more may be out.
    fn places(&self) -> usize {
        let out = self.rare.probing.as_ref().map_or(0, |it| it.out.len());
        (self.settings.probes.max(1) as usize).saturating_sub(out)
    }

    /// Gives up the probes that are out for too long.
    fn give_up(&mut self, now: u64) {
        if let Some(probing) = &mut self.rare.probing {
            probing.out.retain(|(_, until)| now < *until);
        }
    }

    /// Keeps nothing for probes while there are none.
    fn tidy(&mut self) {
        let idle = self.phase.stage != Stage::HalfOpen;
        if idle
            && self
                .rare
                .probing
                .as_ref()
                .is_some_and(|it| it.out.is_empty())
        {
            self.rare.probing = None;
        }
    }

    fn open(&mut self, opening: Opening, draws: &mut Draws) -> Change {
        let from = self.state();
        let own = self.next_length(draws);
        let hint = opening
            .hint
            .map(|hint| count(hint.min(self.settings.max_hint)));
        let length = match hint {
            // A lower bound, and a fleet that was told the same must not come back as one.
            Some(hint) if hint > own => hint.saturating_add(draws.up_to(own)),
            _ => own,
        };
        self.rare.trips = self.rare.trips.saturating_add(1);
        self.moment = opening.now.saturating_add(length);
        self.enter(Stage::Open);
        Change {
            from,
            to: State::Open,
            why: opening.why,
            retry_after: Some(Duration::from_nanos(length)),
        }
    }

    fn close(&mut self, now: u64, why: Why) -> Change {
        let from = self.state();
        self.rare.closed_at = now;
        self.moment = now;
        self.enter(if self.settings.ramp.is_zero() {
            Stage::Closed
        } else {
            Stage::Ramp
        });
        Change {
            from,
            to: State::Closed,
            why,
            retry_after: None,
        }
    }

    /// The next cooldown; the last one over again where the schedule ends.
    fn next_length(&mut self, draws: &mut Draws) -> u64 {
        let new = || Box::new(Progress::new());
        let progress = self.rare.progress.get_or_insert_with(new);
        if let Some(delay) = self.settings.cooldown.next(progress, draws) {
            self.rare.length = count(delay);
        }
        self.rare.in_row = self.rare.in_row.saturating_add(1);
        self.rare.length
    }

    fn enter(&mut self, stage: Stage) {
        self.phase.stage = stage;
        self.phase.generation += 1;
        self.tidy();
    }

    fn changed(&self, from: State, why: Why, retry_after: Option<Duration>) -> Option<Change> {
        let to = self.state();
        (from != to).then_some(Change {
            from,
            to,
            why,
            retry_after,
        })
    }
}

/// Enough for every schedule to reach its cap.
const MOST_IN_ROW: u32 = 64;
