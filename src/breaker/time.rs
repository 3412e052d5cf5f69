//! Moments as numbers, and how most calls do without computing them.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::backoff::count;
use crate::deadline::later;

use super::sliding::{Scale, Spot};

/// What moments are counted from: a day before the first one that was told, for that one may lie
/// ahead of those to come.
pub(super) type Base = OnceLock<Instant>;

/// Counts nanoseconds, and buckets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time<'a> {
    pub(super) base: &'a Base,
    pub(super) scale: Scale,
}

/// A stretch of time, at most a millisecond and in one bucket: all that most calls have to know of
/// a moment.
#[derive(Clone, Copy, Debug)]
struct Tick {
    /// Of whom it is a tick.
    base: Instant,
    bucket: u64,
    from: Instant,
    to: Instant,
    /// The nanoseconds at `to`.
    end: u64,
    spot: Spot,
}

impl Time<'_> {
    pub(super) fn nanos(&self, now: Instant) -> u64 {
        count(now.saturating_duration_since(self.base(now)))
    }

    /// `now` is as good a base as any if there has been none.
    #[inline]
    pub(super) fn base(&self, now: Instant) -> Instant {
        match self.base.get() {
            Some(base) => *base,
            None => self.begin(now),
        }
    }

    #[cold]
    fn begin(&self, now: Instant) -> Instant {
        *self.base.get_or_init(|| {
            let earlier = MARGINS.iter().find_map(|it| now.checked_sub(*it));
            earlier.unwrap_or(now)
        })
    }

    /// The bucket that `now` is in.
    pub(super) fn spot(&self, now: Instant) -> Spot {
        match self.tick(now) {
            Some(tick) => tick.spot,
            None => self.scale.spot(self.nanos(now)),
        }
    }

    /// The same, if this thread knows it already.
    ///
    /// To subtract moments and to number buckets costs more than all else that a call does here.
    /// So each thread keeps its last tick: most calls only compare.
    #[inline]
    pub(super) fn known_spot(&self, now: Instant) -> Option<Spot> {
        self.known(now).map(|tick| tick.spot)
    }

    /// Whether `now` is before this moment, beyond doubt. Within a millisecond of it, perhaps not.
    #[inline]
    pub(super) fn is_well_before(&self, now: Instant, nanos: u64) -> bool {
        match self.tick(now) {
            Some(tick) => tick.end <= nanos,
            None => self.nanos(now) < nanos,
        }
    }

    /// The tick, if the thread has it, or was here the last time that it had not: it is worth more
    /// than one moment only where more moments come.
    #[inline]
    fn tick(&self, now: Instant) -> Option<Tick> {
        self.known(now).or_else(|| self.compute(now))
    }

    #[inline]
    fn known(&self, now: Instant) -> Option<Tick> {
        let (last, base) = (LAST.try_with(Cell::get).ok().flatten()?, self.base.get()?);
        let same = last.base == *base && last.bucket == self.scale.bucket();
        (same && last.from <= now && now < last.to).then_some(last)
    }

    #[cold]
    fn compute(&self, now: Instant) -> Option<Tick> {
        let base = self.base(now);
        let before = MISSED.try_with(|it| it.replace(Some(base))).ok()?;
        if before != Some(base) {
            return None;
        }
        let nanos = self.nanos(now);
        let (begin, end) = self.scale.bounds(nanos);
        let coarse = nanos - nanos % MOST;
        let (begin, end) = (begin.max(coarse), end.min(coarse.saturating_add(MOST)));
        let at = |nanos| later(base, Duration::from_nanos(nanos));
        let tick = Tick {
            base,
            bucket: self.scale.bucket(),
            from: at(begin),
            to: at(end),
            end,
            spot: self.scale.spot(nanos),
        };
        // Where the thread is ending, nothing is kept.
        let _ = LAST.try_with(|last| last.set(Some(tick)));
        Some(tick)
    }
}

/// The first that the clock has room for.
const MARGINS: [Duration; 3] = [
    Duration::from_secs(86_400),
    Duration::from_secs(3_600),
    Duration::from_secs(60),
];

thread_local! {
    static LAST: Cell<Option<Tick>> = const { Cell::new(None) };
    /// Whose tick it was that the thread had not, the last time.
    static MISSED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// In nanoseconds. So late, at most, a call learns that a cooldown is nearly over, and has to look
/// closely.
const MOST: u64 = 1_000_000;

#[cfg(all(test, not(evenkeel_loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_a_thread_remembers_is_what_it_would_compute(
            (one, other) in (1_000_000..3_000_000_000_u64, 1_000_000..3_000_000_000_u64),
            moments in prop::collection::vec(
                (0..3_usize, prop_oneof![0..3_000_000_u64, 0..9_000_000_000_u64]),
                1..300,
            ),
        ) {
            let first = Instant::now();
            let (base, scale) = (Base::new(), Scale::new(Duration::from_secs(1)));
            let begun = Time { base: &base, scale }.base(first);
            // The first two begin at the same moment, the outer two have the same window.
            let scales = [one, other, one].map(|it| Scale::new(Duration::from_nanos(it)));
            let bases = [(); 3].map(|()| Base::new());
            let times = [0, 1, 2].map(|it| Time { base: &bases[it], scale: scales[it] });
            for (index, time) in times.iter().enumerate() {
                time.base(first + Duration::from_nanos(index as u64 / 2 * 777_777));
            }
            for (which, nanos) in moments {
                let (time, now) = (&times[which], begun + Duration::from_nanos(nanos));
                let exact = nanos.saturating_sub(which as u64 / 2 * 777_777);
                for _ in 0..2 {
                    prop_assert_eq!(time.spot(now), scales[which].spot(exact));
                }
                // Never wrong, and in doubt for a millisecond at most.
                prop_assert!(!time.is_well_before(now, exact));
                prop_assert!(time.is_well_before(now, exact + MOST));
                prop_assert_eq!(time.nanos(now), exact);
            }
        }
    }

    #[test]
    fn the_end_of_a_tick_is_the_next_one() {
        let scale = Scale::new(Duration::from_millis(15));
        let base = Base::new();
        let time = Time { base: &base, scale };
        let begun = time.base(Instant::now());
        let at = |nanos| time.spot(begun + Duration::from_nanos(nanos));
        // A bucket of a millisecond and a half.
        assert_eq!(at(0), scale.spot(0));
        assert_eq!(at(999_999), scale.spot(0));
        assert_eq!(at(1_499_999), scale.spot(0));
        assert_ne!(at(1_500_000), scale.spot(0));
        assert_eq!(at(1_499_999), scale.spot(0));
        // Earlier than all is the first.
        assert_eq!(at(2_000_000), scale.spot(1_500_000));
        let earlier = begun.checked_sub(Duration::from_millis(1)).unwrap_or(begun);
        assert_eq!(time.spot(earlier), scale.spot(0));
    }
}
