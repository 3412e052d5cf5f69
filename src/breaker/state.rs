//! The breaker's states and what leads from one to the next. Pure.
//!
//! Moments are nanoseconds since the breaker's beginning.
//!
//! | | closed | ramp | open | half-open |
//! |---|---|---|---|---|
//! | asked | go | a share goes | half-open once its time is over (5) | go while fewer than N probes are out (5) |
//! | a rule is broken | open | open | - (1) | - (1) |
//! | probe succeeded | - (2) | - (2) | - (2) | closed, or ramp, once enough did |
//! | probe failed | - (2) | - (2) | - (2) | open once enough did |
//! | probe dropped | - (3) | - (3) | - (3) | its place is free |
//! | probe given up (4) | - (3) | - (3) | - (3) | as if it had failed |
//!
//! 1. Only results of calls let through while closed count towards the rules, and these are of an
//!    earlier generation by now.
//! 2. A probe of an earlier generation. The state it was to decide about has been left. But until
//!    it is back, or given up, it has its place: it is a call that is out.
//! 3. Its place is free all the same.
//! 4. It is out for too long, and another call needs its place.
//! 5. While an active check has reserved the probes, nobody else is let through.

use std::time::Duration;

use crate::backoff::{Progress, count};
use crate::rng::Draws;

use super::phase::{Phase, Stage};
use super::ramp::Ramp;
use super::report::{Change, Mode, State, Why};
use super::settings::Settings;
use super::ticket::No;

/// What changes seldom: what only trips and probes need.
#[derive(Debug, Default)]
pub(super) struct Rare {
    trips: u32,
    in_row: u32,
    /// When it left open or half-open last.
    left_at: u64,
    /// How long it was open last, without what a server asked for.
    length: u64,
    progress: Option<Progress>,
    /// The next probe's number. They go on over spells.
    next_probe: u32,
    /// Until when probes are for an active check alone: it says so again from time to time. In units of
    /// [`RESERVED_UNIT`], for which there is room.
    reserved: u32,
    probing: Option<Box<Probing>>,
}

/// The probes: those of the half-open spell, and earlier ones that are still out.
#[derive(Debug, Default)]
struct Probing {
    out: Vec<Out>,
    /// Of this spell.
    succeeded: u32,
    failed: u32,
}

/// A probe that is out.
#[derive(Clone, Copy, Debug)]
struct Out {
    number: u32,
    generation: u64,
    /// From when on it may be given up.
    until: u64,
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
    Probe {
        number: u32,
        first: bool,
    },
    Refused(No),
}

/// Why and how a breaker is to open.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opening {
    pub(super) why: Why,
    pub(super) now: u64,
    pub(super) hint: Option<Duration>,
}

impl Opening {
    pub(super) const fn of_lost_probe(now: u64) -> Self {
        Self {
            why: Why::ProbeFailed,
            now,
            hint: None,
        }
    }
}

impl Machine<'_> {
    /// Somebody asks, an active check perhaps.
    pub(super) fn admit(&mut self, now: u64, is_check: bool, draws: &mut Draws) -> Admission {
        match self.phase.stage {
            Stage::Closed => Admission::Counted,
            Stage::Open if now < self.moment => Admission::Refused(No::until(Some(self.moment))),
            Stage::HalfOpen | Stage::Open if !is_check && self.is_reserved(now) => {
                // Its check is due or out, and nobody knows when it comes back.
                let soon = now.saturating_add(count(RESERVED_WAIT));
                Admission::Refused(No::until(Some(soon.max(self.moment))))
            }
            Stage::HalfOpen => self.admit_probe(now, false, draws),
            Stage::Open => self.half_open(now, draws),
            Stage::Ramp => {
                let ramp = Ramp::new(self.moment, self.settings.ramp);
                if ramp.is_over(now) {
                    // No change of generation: what was counted on the way goes on counting.
                    self.phase.stage = Stage::Closed;
                    return Admission::Counted;
                }
                match ramp.admit(now, draws.next_u64()) {
                    Ok(()) => Admission::Counted,
                    Err(at) => Admission::Refused(No::until(Some(at))),
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
        let healthy = opening.now.saturating_sub(self.rare.left_at);
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
        if !self.release(number) || generation != self.phase.generation {
            return None;
        }
        if succeeded {
            let probing = self.rare.probing.get_or_insert_default();
            probing.succeeded += 1;
            if probing.succeeded < self.settings.close_after {
                return None;
            }
            Some(self.close(opening.now, Why::ProbeSucceeded))
        } else {
            self.probe_failed(opening, draws)
        }
    }

    /// A late answer of the spell before it opened: the server asks for quiet until then.
    pub(super) fn put_off(&mut self, generation: u64, asked: u64, draws: &mut Draws) {
        let open = self.phase.stage == Stage::Open && generation + 1 == self.phase.generation;
        if open && asked > self.moment {
            self.moment = asked.saturating_add(draws.up_to(self.rare.length));
        }
    }

    /// Until then, or a little later, probes are for an active check alone.
    pub(super) fn reserve(&mut self, until: u64) {
        let units = until.div_ceil(RESERVED_UNIT);
        self.rare.reserved = u32::try_from(units).unwrap_or(u32::MAX);
    }

    fn is_reserved(&self, now: u64) -> bool {
        now < u64::from(self.rare.reserved) * RESERVED_UNIT
    }

    /// A probe gives its place back. Says whether it still had it.
    pub(super) fn release(&mut self, number: u32) -> bool {
        let Some(probing) = self.rare.probing.as_mut() else {
            return false;
        };
        let Some(place) = probing.out.iter().position(|it| it.number == number) else {
            return false;
        };
        probing.out.remove(place);
        if self.phase.stage == Stage::HalfOpen {
            self.moment = 0;
        }
        self.tidy();
        true
    }

    /// Somebody sets the mode: closed, and nothing counted yet.
    pub(super) fn set_mode(&mut self, mode: Mode, now: u64) -> Option<Change> {
        let from = (self.state(), self.phase.mode);
        self.rare.left_at = now;
        self.moment = 0;
        self.enter(Stage::Closed);
        self.phase.mode = mode;
        self.changed(from, Why::Manual(mode), None)
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
        let from = (self.state(), self.phase.mode);
        let _ = self.set_mode(mode, now);
        self.rare.trips = trips;
        self.rare.in_row = 0;
        self.rare.progress = None;
        for _ in 0..in_row.min(MOST_IN_ROW) {
            let _ = self.next_length(draws);
        }
        let automatic = matches!(mode, Mode::Automatic | Mode::WatchOnly);
        let longest = self.settings.max_hint.max(LONGEST_RESTORED);
        let left = left.filter(|_| automatic).map(|left| left.min(longest));
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
    pub(super) fn probes(&self) -> usize {
        self.rare.probing.as_ref().map_or(0, |it| it.out.len())
    }

    /// Whether a new one in its place would do as well.
    pub(super) fn is_forgotten(&self, now: u64) -> bool {
        let (closed, since) = match self.phase.stage {
            Stage::Closed => (true, self.rare.left_at),
            Stage::Ramp => {
                let ramp = Ramp::new(self.moment, self.settings.ramp);
                (ramp.is_over(now), self.rare.left_at)
            }
            Stage::Open => (false, self.moment),
            Stage::HalfOpen => (false, self.rare.left_at),
        };
        let healthy = now >= since.saturating_add(count(self.settings.forget_after));
        let ramping = self.phase.stage == Stage::Ramp && !closed;
        self.phase.mode == Mode::Automatic
            && !ramping
            && (healthy || (closed && self.rare.in_row == 0))
    }

    fn half_open(&mut self, now: u64, draws: &mut Draws) -> Admission {
        if self.places() == 0 && self.give_up(now).is_none() {
            // Earlier probes are all still out. Half-open would make no difference.
            return Admission::Refused(No::until(self.earliest()));
        }
        self.rare.left_at = now;
        self.enter(Stage::HalfOpen);
        let probing = self.rare.probing.get_or_insert_default();
        (probing.succeeded, probing.failed) = (0, 0);
        self.admit_probe(now, true, draws)
    }

    fn admit_probe(&mut self, now: u64, first: bool, draws: &mut Draws) -> Admission {
        if self.places() == 0 {
            let lost = self.give_up(now);
            if lost.is_some_and(|lost| lost.generation == self.phase.generation) {
                if let Some(change) = self.probe_failed(Opening::of_lost_probe(now), draws) {
                    return Admission::Refused(No::opened(change, self.moment));
                }
            }
        }
        let (places, number) = (self.places(), self.rare.next_probe);
        let generation = self.phase.generation;
        if places > 0 {
            self.rare.next_probe = number.wrapping_add(1);
            let until = now.saturating_add(count(self.settings.probe_timeout).max(1));
            let probing = self.rare.probing.get_or_insert_default();
            probing.out.push(Out {
                number,
                generation,
                until,
            });
        }
        let earliest = self.earliest();
        self.moment = earliest.filter(|_| places <= 1).unwrap_or(0);
        if places > 0 {
            Admission::Probe { number, first }
        } else {
            // One may come back before.
            Admission::Refused(No::until(earliest))
        }
    }

    fn probe_failed(&mut self, opening: Opening, draws: &mut Draws) -> Option<Change> {
        let probing = self.rare.probing.get_or_insert_default();
        probing.failed += 1;
        let enough = probing.failed >= self.settings.reopen_after;
        enough.then(|| self.open(opening, draws))
    }

    /// How many probes more may be out.
    fn places(&self) -> usize {
        (self.settings.probes.max(1) as usize).saturating_sub(self.probes())
    }

    /// When the first of those that are out may be given up.
    fn earliest(&self) -> Option<u64> {
        let out = self.rare.probing.iter().flat_map(|it| &it.out);
        out.map(|it| it.until).min()
    }

    /// Gives up the probe that is out for longest, if that is too long.
    fn give_up(&mut self, now: u64) -> Option<Out> {
        let out = &mut self.rare.probing.as_mut()?.out;
        let (oldest, _) = out.iter().enumerate().min_by_key(|it| it.1.until)?;
        (out[oldest].until <= now).then(|| out.remove(oldest))
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
        self.rare.left_at = now;
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
        let progress = self.rare.progress.get_or_insert_with(Progress::new);
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

    fn changed(
        &self,
        from: (State, Mode),
        why: Why,
        retry_after: Option<Duration>,
    ) -> Option<Change> {
        let to = self.state();
        (from != (to, self.phase.mode)).then_some(Change {
            from: from.0,
            to,
            why,
            retry_after,
        })
    }
}

/// About a quarter of a second: enough of them for 36 years, of which 8 may be over at the beginning.
const RESERVED_UNIT: u64 = 1 << 28;

/// When those ask again, at the earliest, that an active check is to probe for.
const RESERVED_WAIT: Duration = Duration::from_millis(100);

/// Enough for every schedule to reach its cap.
const MOST_IN_ROW: u32 = 64;

/// A snapshot may be wrong, or of a breaker that was set up otherwise.
const LONGEST_RESTORED: Duration = Duration::from_secs(3_600);
