//! Moments as numbers, and how most calls do without computing them.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::backoff::count;
use crate::deadline::later;

use super::sliding::{Scale, Spot};

/// Counts nanoseconds from a day before the first moment that it was told: that one may lie ahead
/// of those to come.
#[derive(Debug)]
pub(super) struct Time {
    base: OnceLock<Instant>,
    scale: Scale,
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

impl Time {
    pub(super) const fn new(scale: Scale) -> Self {
        Self {
            base: OnceLock::new(),
            scale,
        }
    }

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
        self.tick(now).spot
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
        self.tick(now).end <= nanos
    }

    #[inline]
    fn tick(&self, now: Instant) -> Tick {
        self.known(now).unwrap_or_else(|| self.compute(now))
    }

    #[inline]
    fn known(&self, now: Instant) -> Option<Tick> {
        let (last, base) = (LAST.try_with(Cell::get).ok().flatten()?, self.base.get()?);
        let same = last.base == *base && last.bucket == self.scale.bucket();
        (same && last.from <= now && now < last.to).then_some(last)
    }

    #[cold]
    fn compute(&self, now: Instant) -> Tick {
        let base = self.base(now);
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
        tick
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
            let begun = Time::new(Scale::new(Duration::from_secs(1))).base(first);
            // The first two begin at the same moment, the outer two have the same window.
            let scales = [one, other, one].map(|it| Scale::new(Duration::from_nanos(it)));
            let times = scales.map(Time::new);
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
        let time = Time::new(scale);
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
