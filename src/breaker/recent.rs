//! The last so many outcomes, exactly, without a lock.

use std::sync::OnceLock;

use crate::sync::{AtomicU32, AtomicU64, Ordering};

use super::sliding::Sum;

/// A ring with a slot per outcome, and a tally of what is in it.
///
/// An outcome claims the next position, puts itself into that slot in exchange for the one that
/// leaves, and adds the difference to the tally. Whoever is overtaken by a whole lap finds a later
/// outcome in its slot: its own has left the window already.
#[derive(Debug)]
pub(super) struct Recent {
    /// Generation and next position. Positions go on over generations.
    cursor: AtomicU64,
    /// Generation, failures and slow calls in the window, and whether it is [`FULL`].
    tally: AtomicU64,
    /// The position at which this generation began.
    start: AtomicU64,
    calls: u32,
    /// Lap, slow and failed of each slot, the first 64 of them.
    first: Box<[AtomicU32]>,
    /// As many again as there are before, each time: made when a call comes that needs them.
    more: Box<[OnceLock<Box<[AtomicU32]>>]>,
}

impl Recent {
    pub(super) fn new(calls: u32) -> Self {
        let calls = calls.clamp(1, MOST);
        Self {
            cursor: AtomicU64::new(u64::from(calls)),
            tally: AtomicU64::new(EMPTY),
            start: AtomicU64::new(u64::from(calls)),
            calls,
            first: empty(calls.min(FIRST)),
            more: (0..doublings(calls.div_ceil(FIRST)))
                .map(|_| OnceLock::new())
                .collect(),
        }
    }

    /// Counts an outcome, unless it is another generation's.
    pub(super) fn add(&self, generation: u64, failed: bool, slow: bool) {
        if failed || slow {
            self.push(generation, u32::from(failed) | u32::from(slow) << 1);
        } else {
            self.add_good(generation);
        }
    }

    /// The same for one that is neither.
    #[inline]
    pub(super) fn add_good(&self, generation: u64) {
        // A full window of good outcomes is the same with one more of them.
        if self.tally.load(Ordering::Relaxed) != tally_of(generation) | FULL {
            self.push(generation, 0);
        }
    }

    /// What the window holds, and how many of its calls were slow.
    pub(super) fn sum(&self) -> (Sum, u64) {
        let tally = self.tally.load(Ordering::Relaxed);
        let cursor = self.cursor.load(Ordering::Relaxed);
        let calls = self.filled(cursor);
        let tally = tally & !FULL;
        // Those still on their way to the tally can make it differ by as many.
        let least = |biased: u64| (biased & FIELD).saturating_sub(BIAS).min(calls);
        let sum = Sum {
            calls,
            failures: least(tally >> FAILED_SHIFT),
        };
        (sum, least(tally))
    }

    /// Begins a generation, empty. For one thread at a time.
    pub(super) fn begin(&self, generation: u64) {
        // From here on nothing of an earlier generation gets into the tally.
        self.tally.store(tally_of(generation), Ordering::Relaxed);
        let calls = u64::from(self.calls);
        let mut seen = self.cursor.load(Ordering::Relaxed);
        loop {
            // The next lap: whatever lies in a slot of an earlier one is an earlier generation's.
            let start = (((seen & POSITIONS) / calls + 1) * calls) & POSITIONS;
            self.start.store(start, Ordering::Relaxed);
            let next = (generation & CURSOR_GENERATIONS) << POSITION_BITS | start;
            let swapped =
                self.cursor
                    .compare_exchange(seen, next, Ordering::Release, Ordering::Relaxed);
            match swapped {
                Ok(_) => return,
                Err(other) => seen = other,
            }
        }
    }

    #[inline(never)]
    fn push(&self, generation: u64, bits: u32) {
        let Some(position) = self.claim(generation) else {
            return;
        };
        let calls = u64::from(self.calls);
        #[allow(clippy::cast_possible_truncation)] // fewer than `MOST` slots; laps wrap
        let (slot, lap) = ((position % calls) as u32, (position / calls) as u32 & LAPS);
        let start = self.start.load(Ordering::Relaxed);
        #[allow(clippy::cast_possible_truncation)]
        let first_lap = (start / calls) as u32 & LAPS;
        if position.wrapping_sub(start) & POSITIONS >= calls - 1 {
            self.fill(generation);
        }
        let slot = self.slot(slot);
        let mut old = slot.load(Ordering::Relaxed);
        loop {
            if is_later(old >> 2, lap) {
                return;
            }
            let new = lap << 2 | bits;
            match slot.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => break,
                Err(other) => old = other,
            }
        }
        let left = if is_later(first_lap, old >> 2) {
            0
        } else {
            old & 3
        };
        if left != bits {
            self.exchange(generation, left, bits);
        }
    }

    fn slot(&self, slot: u32) -> &AtomicU32 {
        let Some(doubling) = doublings(slot / FIRST + 1).checked_sub(1) else {
            return &self.first[slot as usize];
        };
        let begin = FIRST << doubling;
        let length = begin.min(self.calls - begin);
        let slots = self.more[doubling as usize].get_or_init(|| empty(length));
        &slots[(slot - begin) as usize]
    }

    fn claim(&self, generation: u64) -> Option<u64> {
        let mut seen = self.cursor.load(Ordering::Relaxed);
        while seen >> POSITION_BITS == generation & CURSOR_GENERATIONS {
            let position = seen & POSITIONS;
            let next = seen & !POSITIONS | (position + 1) & POSITIONS;
            let swapped =
                self.cursor
                    .compare_exchange(seen, next, Ordering::Acquire, Ordering::Relaxed);
            match swapped {
                Ok(_) => return Some(position),
                Err(other) => seen = other,
            }
        }
        None
    }

    /// As many calls have come as the window holds.
    fn fill(&self, generation: u64) {
        let generation = tally_of(generation) >> GENERATION_SHIFT;
        let mut seen = self.tally.load(Ordering::Relaxed);
        while seen >> GENERATION_SHIFT == generation && seen & FULL == 0 {
            let swapped = self.tally.compare_exchange(
                seen,
                seen | FULL,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            match swapped {
                Ok(_) => return,
                Err(other) => seen = other,
            }
        }
    }

    /// One outcome left the window and one came.
    fn exchange(&self, generation: u64, left: u32, came: u32) {
        let weight = |bits: u32| u64::from(bits & 1) << FAILED_SHIFT | u64::from(bits >> 1);
        let generation = tally_of(generation) >> GENERATION_SHIFT;
        let mut seen = self.tally.load(Ordering::Relaxed);
        while seen >> GENERATION_SHIFT == generation {
            // The bias keeps the fields apart where one leaves before it was seen to come.
            let next = seen + weight(came) - weight(left);
            let swapped =
                self.tally
                    .compare_exchange(seen, next, Ordering::Relaxed, Ordering::Relaxed);
            match swapped {
                Ok(_) => return,
                Err(other) => seen = other,
            }
        }
    }

    #[inline]
    fn filled(&self, cursor: u64) -> u64 {
        let begun = self.start.load(Ordering::Relaxed);
        let since = (cursor & POSITIONS).wrapping_sub(begun) & POSITIONS;
        since.min(u64::from(self.calls))
    }
}

fn empty(slots: u32) -> Box<[AtomicU32]> {
    (0..slots).map(|_| AtomicU32::new(0)).collect()
}

/// How often one is doubled until it is at least this.
const fn doublings(until: u32) -> u32 {
    until.next_power_of_two().trailing_zeros()
}

/// Whether lap `a` comes after lap `b`, a few laps apart and round the end.
const fn is_later(a: u32, b: u32) -> bool {
    let ahead = a.wrapping_sub(b) & LAPS;
    ahead != 0 && ahead <= LAPS / 2
}

/// The empty tally of a generation.
const fn tally_of(generation: u64) -> u64 {
    generation << GENERATION_SHIFT | EMPTY
}

/// Slots that are there from the beginning.
const FIRST: u32 = 64;

/// As many outcomes as a window can hold.
pub(super) const MOST: u32 = 1 << 16;

/// Positions last for 14 years of ten million outcomes a second. The generation here need only tell
/// apart those that meet within one claim: tickets carry all of it.
const POSITION_BITS: u32 = 52;
const POSITIONS: u64 = (1 << POSITION_BITS) - 1;
const CURSOR_GENERATIONS: u64 = (1 << 12) - 1;

const GENERATION_SHIFT: u32 = 48;
const FAILED_SHIFT: u32 = 24;
const FIELD: u64 = (1 << FAILED_SHIFT) - 1;
const BIAS: u64 = 1 << 20;
const EMPTY: u64 = BIAS << FAILED_SHIFT | BIAS;

/// As many outcomes are in the window as it holds. The count of slow calls, which is the lowest, is
/// far from having this bit.
const FULL: u64 = 1 << (FAILED_SHIFT - 1);

const LAPS: u32 = (1 << 30) - 1;

#[cfg(all(test, not(evenkeel_loom)))]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_window_is_the_last_n_outcomes_of_its_generation(
            calls in 1..12_u32,
            steps in prop::collection::vec((0..40_u8, any::<bool>(), any::<bool>()), 0..400),
            bias: bool,
        ) {
            let recent = Recent::new(calls);
            let mut brute: VecDeque<(bool, bool)> = VecDeque::new();
            let mut generation = 0;
            for (what, failed, slow) in steps {
                match what {
                    0 => {
                        generation += 1;
                        recent.begin(generation);
                        brute.clear();
                    }
                    1 => recent.add(generation.wrapping_sub(1), failed, slow),
                    _ => {
                        // Long runs of good ones take the short way.
                        let (failed, slow) = (failed && !(bias && what < 38), slow && what > 30);
                        recent.add(generation, failed, slow);
                        brute.push_back((failed, slow));
                        if brute.len() > calls as usize {
                            brute.pop_front();
                        }
                    }
                }
                let sum = Sum {
                    calls: brute.len() as u64,
                    failures: brute.iter().filter(|it| it.0).count() as u64,
                };
                let slow = brute.iter().filter(|it| it.1).count() as u64;
                prop_assert_eq!(recent.sum(), (sum, slow));
            }
        }
    }

    #[test]
    fn a_long_window_takes_memory_as_calls_come() {
        let recent = Recent::new(MOST);
        let bytes = || {
            4 * (recent.first.len()
                + recent
                    .more
                    .iter()
                    .filter_map(|it| it.get())
                    .map(|it| it.len())
                    .sum::<usize>())
        };
        for (calls, most) in [
            (64_u64, 256),
            (65, 512),
            (1_000, 4_096),
            (1 << 16, 1 << 18),
            (1 << 20, 1 << 18),
        ] {
            while recent.cursor.load(Ordering::Relaxed) - u64::from(MOST) < calls {
                recent.add(0, true, false);
            }
            assert_eq!(bytes(), most);
            assert_eq!(recent.sum().0.failures, calls.min(u64::from(MOST)));
        }
        assert!(size_of_val(&*recent.more) + size_of::<Recent>() + 256 < 700);
        // Sizes that are no power of two.
        for calls in [1, 63, 64, 65, 127, 128, 129, 60_000] {
            let recent = Recent::new(calls);
            (0..calls + 7).for_each(|_| recent.add(0, true, false));
            assert_eq!(recent.sum().0.failures, u64::from(calls));
        }
    }

    #[test]
    fn laps_are_compared_round_their_end() {
        assert!(is_later(0, LAPS) && !is_later(LAPS, 0));
        assert!(is_later(8, 7) && !is_later(7, 7) && !is_later(7, 8));
    }
}
