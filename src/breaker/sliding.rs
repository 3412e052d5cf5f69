//! Outcomes of the last stretch of time, in ten buckets that take no lock.

use std::time::Duration;

use crate::backoff::count;
use crate::sync::{AtomicU64, Ordering};

/// How many buckets a window has. What a window counts is exact to one bucket: everything younger
/// than nine tenths of it, nothing as old as all of it.
pub(super) const BUCKETS: usize = 10;

/// A window's length.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    /// The nanoseconds of one bucket.
    bucket: u64,
}

/// A bucket: its slot in the ring, and which time round it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Spot {
    slot: usize,
    lap: u64,
}

/// A generation's bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    slot: usize,
    lap: u64,
}

/// What a window holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) calls: u64,
    pub(super) failures: u64,
}

impl Scale {
    pub(super) fn new(window: Duration) -> Self {
        let bucket = (count(window) / BUCKETS as u64).max(1);
        Self { bucket }
    }

    pub(super) const fn bucket(self) -> u64 {
        self.bucket
    }

    /// Where a moment belongs.
    #[allow(clippy::cast_possible_truncation)] // a remainder by ten
    pub(super) const fn spot(self, now: u64) -> Spot {
        let bucket = now / self.bucket;
        Spot {
            slot: (bucket % BUCKETS as u64) as usize,
            lap: bucket / BUCKETS as u64,
        }
    }

    /// When its bucket begins, and when the next one does.
    pub(super) const fn bounds(self, now: u64) -> (u64, u64) {
        let begin = now - now % self.bucket;
        (begin, begin.saturating_add(self.bucket))
    }
}

impl Spot {
    /// Where an outcome of this generation belongs.
    ///
    /// Each generation begins two laps ahead of the one before. So none of its buckets is ever one
    /// of the earlier ones', and a result that comes late lands outside the window.
    #[inline]
    pub(super) const fn of(self, generation: u64) -> Place {
        Place {
            slot: self.slot,
            lap: self.lap.wrapping_add(generation.wrapping_mul(2)) & LAPS,
        }
    }
}

impl Place {
    /// Tells it from the buckets before and after it, in 24 bits.
    #[allow(clippy::cast_possible_truncation)] // so is it meant
    pub(super) const fn tag(self) -> u32 {
        (self.lap << 4 | self.slot as u64) as u32 & ((1 << 24) - 1)
    }
}

/// The ring. A bucket is one word: lap, calls and failures, always changed together. That a bucket
/// is used anew and that an outcome is added to it is one exchange, so that no outcome is lost or
/// counted twice however many threads come round at once.
#[derive(Debug)]
pub(super) struct Buckets {
    words: [AtomicU64; BUCKETS],
}

impl Buckets {
    pub(super) fn new() -> Self {
        Self {
            words: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Adds an outcome. Says whether another thread got in the way.
    ///
    /// One whose bucket was taken over by a later lap is older than the window and isn't counted.
    #[inline]
    pub(super) fn add(&self, at: Place, failed: bool) -> bool {
        let word = &self.words[at.slot];
        let mut clashed = false;
        let mut seen = word.load(Ordering::Relaxed);
        while let Some(next) = with_one_more(seen, at.lap, failed) {
            let swapped = word.compare_exchange(seen, next, Ordering::Relaxed, Ordering::Relaxed);
            match swapped {
                Ok(_) => break,
                Err(other) => (seen, clashed) = (other, true),
            }
        }
        clashed
    }

    /// Adds what the window that ends with this bucket holds.
    pub(super) fn sum(&self, end: Place, sum: &mut Sum) {
        for (slot, word) in self.words.iter().enumerate() {
            let lap = if slot <= end.slot {
                end.lap
            } else {
                end.lap.wrapping_sub(1) & LAPS
            };
            let word = word.load(Ordering::Relaxed);
            if word >> LAP_SHIFT == lap {
                sum.calls += (word >> CALLS_SHIFT) & COUNT;
                sum.failures += word & COUNT;
            }
        }
    }
}

/// The word with an outcome more; `None` if the bucket is a later lap's by now.
#[inline]
fn with_one_more(word: u64, lap: u64, failed: bool) -> Option<u64> {
    let one = 1 << CALLS_SHIFT | u64::from(failed);
    let ahead = lap.wrapping_sub(word >> LAP_SHIFT) & LAPS;
    match ahead {
        0 if (word >> CALLS_SHIFT) & COUNT == COUNT => {
            // Full: a million calls in one bucket. Half of each keeps the ratio.
            let (calls, failures) = (COUNT / 2, (word & COUNT) / 2);
            Some((lap << LAP_SHIFT | calls << CALLS_SHIFT | failures) + one)
        }
        0 => Some(word + one),
        // Never used, it is of no lap at all.
        ahead if ahead <= LAPS - LATE || word == 0 => Some(lap << LAP_SHIFT | one),
        _ => None,
    }
}

const CALLS_SHIFT: u32 = 20;
const LAP_SHIFT: u32 = 40;
const COUNT: u64 = (1 << 20) - 1;

/// Laps are told apart over sixteen million windows: with ten seconds, a bucket would have to lie
/// untouched for five years, to the second, before what is in it was taken for fresh.
const LAPS: u64 = (1 << 24) - 1;

/// A bucket up to so many laps ahead is a later one's. Farther ahead it is an old one's, from the
/// other side: so an outcome that is told as of a moment 65,536 windows ago (with ten seconds, a
/// week) costs a bucket its counts.
const LATE: u64 = 1 << 16;

#[cfg(all(test, not(evenkeel_loom)))]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(1);
    const BUCKET: u64 = 100_000_000;

    fn held(buckets: &Buckets, generation: u64, now: u64) -> Sum {
        let mut sum = Sum::default();
        buckets.sum(Scale::new(WINDOW).spot(now).of(generation), &mut sum);
        sum
    }

    fn brute(outcomes: &VecDeque<(u64, bool)>, inside: impl Fn(u64) -> bool) -> Sum {
        let inside = outcomes.iter().filter(|(at, _)| inside(*at));
        inside.fold(Sum::default(), |sum, (_, failed)| Sum {
            calls: sum.calls + 1,
            failures: sum.failures + u64::from(*failed),
        })
    }

    proptest! {
        #[test]
        fn the_window_is_exact_to_its_buckets_and_brackets_the_true_one(
            steps in prop::collection::vec(
                (
                    prop_oneof![
                        3 => Just(0_u64),
                        9 => 0..300_000_000_u64,
                        3 => Just(BUCKET),
                        1 => 0..4_000_000_000_u64,
                        1 => 0..30_000_000_000_000_u64, // eight hours
                    ],
                    any::<bool>(),
                ),
                0..300,
            ),
            generation in 0..5_u64,
        ) {
            let (buckets, mut outcomes, mut now) = (Buckets::new(), VecDeque::new(), 0);
            for (step, failed) in steps {
                now += step;
                buckets.add(Scale::new(WINDOW).spot(now).of(generation), failed);
                outcomes.push_back((now, failed));
                let sum = held(&buckets, generation, now);
                let last = now / BUCKET;
                let exact = brute(&outcomes, |at| at / BUCKET + BUCKETS as u64 > last);
                let younger = brute(&outcomes, |at| now - at <= 9 * BUCKET);
                let older = brute(&outcomes, |at| now - at < 10 * BUCKET);
                prop_assert_eq!(sum, exact);
                prop_assert!(younger.calls <= sum.calls && sum.calls <= older.calls);
                prop_assert!(younger.failures <= sum.failures && sum.failures <= older.failures);
            }
        }
    }

    #[test]
    fn an_outcome_leaves_between_nine_tenths_of_the_window_and_all_of_it() {
        for offset in [0, 1, BUCKET / 2, BUCKET - 1] {
            let buckets = Buckets::new();
            buckets.add(Scale::new(WINDOW).spot(offset).of(0), true);
            assert_eq!(held(&buckets, 0, offset + 9 * BUCKET).failures, 1);
            assert_eq!(held(&buckets, 0, offset + 10 * BUCKET).failures, 0);
        }
    }

    #[test]
    fn a_later_generation_sees_nothing_of_an_earlier_one() {
        let buckets = Buckets::new();
        let scale = Scale::new(WINDOW);
        buckets.add(scale.spot(0).of(3), true);
        assert_eq!(held(&buckets, 4, 0), Sum::default());
        buckets.add(scale.spot(0).of(4), false);
        // Late, of the earlier one.
        buckets.add(scale.spot(0).of(3), true);
        buckets.add(scale.spot(BUCKET).of(3), true);
        let one = Sum {
            calls: 1,
            failures: 0,
        };
        assert_eq!(held(&buckets, 4, BUCKET), one);
    }

    #[test]
    fn a_full_bucket_keeps_its_ratio() {
        let full = (7 << LAP_SHIFT) | (COUNT << CALLS_SHIFT) | (COUNT / 4);
        let next = with_one_more(full, 7, true).expect("the same lap");
        assert_eq!(next >> LAP_SHIFT, 7);
        assert_eq!((next >> CALLS_SHIFT) & COUNT, COUNT / 2 + 1);
        assert_eq!(next & COUNT, COUNT / 4 / 2 + 1);
    }

    #[test]
    fn every_window_and_every_moment_has_a_place() {
        for window in [Duration::ZERO, WINDOW, Duration::MAX] {
            for now in [0, 1, u64::MAX] {
                let place = Scale::new(window).spot(now).of(u64::MAX);
                assert!(place.slot < BUCKETS && place.lap <= LAPS);
            }
        }
    }
}
