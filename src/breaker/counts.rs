//! What the closed breaker counts, and when it is too much. Takes no lock.

use std::sync::OnceLock;

use crate::sync::{AtomicU32, AtomicU64, Ordering, fence, thread_index};

use super::recent::Recent;
use super::report::Why;
use super::settings::{Rules, Window};
use super::sliding::{BUCKETS, Buckets, Place, Spot, Sum};

/// The counters of one breaker.
///
/// Threads that get into each other's way get counters of their own, each on its own cache line;
/// until then there is one set of them, inside the breaker.
#[derive(Debug)]
#[repr(C)] // those first that a success looks at
pub(super) struct Counts {
    /// Generation and failures in a row.
    streak: AtomicU64,
    /// The window, if it is one of calls.
    recent: Option<Box<Recent>>,
    stripes: OnceLock<Box<[Stripe]>>,
    buckets: Buckets,
    /// Slow calls, if they count and the window is one of time.
    slow: Option<Box<Buckets>>,
    /// Of which bucket, and how many.
    clashes: AtomicU32,
}

/// Two cache lines, for those are fetched in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Stripe(Buckets);

/// What the counters say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) calls: u64,
    pub(super) failures: u64,
    pub(super) slow: u64,
    pub(super) in_row: u32,
}

impl Counts {
    pub(super) fn new(rules: &Rules) -> Self {
        let by_calls = match rules.window {
            Window::Calls(calls) if rules.uses_window() => Some(Box::new(Recent::new(calls))),
            _ => None,
        };
        let slow = rules.slow.is_some() && by_calls.is_none();
        Self {
            streak: AtomicU64::new(0),
            buckets: Buckets::new(),
            clashes: AtomicU32::new(0),
            stripes: OnceLock::new(),
            slow: slow.then(|| Box::new(Buckets::new())),
            recent: by_calls,
        }
    }

    /// Begins a generation: nothing of earlier ones counts from here on.
    pub(super) fn begin(&self, generation: u64) {
        self.streak.store(streak_of(generation), Ordering::Relaxed);
        if let Some(recent) = &self.recent {
            recent.begin(generation);
        }
        // The buckets' places depend on the generation.
    }

    /// Counts an outcome. `spot` is called only if the window is one of time.
    pub(super) fn add(
        &self,
        rules: &Rules,
        generation: u64,
        failed: bool,
        slow: bool,
        spot: impl FnOnce() -> Spot,
    ) {
        if failed {
            self.change_streak(rules, generation, true);
        } else {
            self.end_streak(rules, generation);
        }
        if let Some(recent) = &self.recent {
            recent.add(generation, failed, slow);
        } else if rules.counts_by_time {
            let place = spot().of(generation);
            self.add_at(place, failed);
            if let Some(buckets) = self.slow.as_ref().filter(|_| slow) {
                buckets.add(place, false);
            }
        }
    }

    /// A success, where the window isn't one of time.
    #[inline]
    pub(super) fn add_good(&self, generation: u64) {
        if let Some(recent) = &self.recent {
            recent.add_good(generation);
        }
    }

    /// Counts an outcome in the window of time.
    #[inline]
    pub(super) fn add_at(&self, place: Place, failed: bool) {
        match self.stripes.get() {
            Some(stripes) => add_to_own(stripes, place, failed),
            None if self.buckets.add(place, failed) => self.clashed(place),
            None => {}
        }
    }

    /// Whether there are failures in a row.
    #[inline]
    pub(super) fn has_streak(&self) -> bool {
        // None too where no rule looks at them.
        self.streak.load(Ordering::Relaxed) & STREAK != 0
    }

    /// A success ends the failures in a row. After successes it writes nothing.
    pub(super) fn end_streak(&self, rules: &Rules, generation: u64) {
        if self.has_streak() {
            self.change_streak(rules, generation, false);
        }
    }

    /// The rules are others now. A streak that one of the old ones let grow, or forgot to end, is to
    /// break none of these by itself.
    pub(super) fn bound_streak(&self, rules: &Rules) {
        let most = u64::from(rules.in_row.unwrap_or(0)).saturating_sub(1);
        let bound = |seen: u64| (seen & STREAK > most).then_some(seen & !STREAK | most);
        let (Ok(_) | Err(_)) =
            (self.streak).fetch_update(Ordering::Relaxed, Ordering::Relaxed, bound);
    }

    /// Which rule is broken. To be asked after every bad outcome: good ones break none.
    pub(super) fn broken(&self, rules: &Rules, generation: u64, now: Spot) -> Option<Why> {
        // Two that fail at once must not both miss the other.
        fence(Ordering::SeqCst);
        let tally = self.tally(rules, generation, now);
        if rules.in_row.is_some_and(|limit| tally.in_row >= limit) {
            return Some(Why::ConsecutiveFailures);
        }
        if tally.calls < u64::from(rules.min_calls) {
            return None;
        }
        let reached = |count: u64, ratio: Option<u64>| {
            let reached = |ratio: u64| count > 0 && count * MILLION >= tally.calls * ratio;
            ratio.is_some_and(reached)
        };
        if reached(tally.failures, rules.failure_ratio) {
            Some(Why::FailureRatio)
        } else if reached(tally.slow, rules.slow.map(|(_, ratio)| ratio)) {
            Some(Why::SlowRatio)
        } else {
            None
        }
    }

    pub(super) fn tally(&self, rules: &Rules, generation: u64, now: Spot) -> Tally {
        let (sum, slow) = match &self.recent {
            Some(recent) => recent.sum(),
            None if rules.counts_by_time => self.within(generation, now),
            None => (Sum::default(), 0),
        };
        let streak = self.streak.load(Ordering::Relaxed);
        let current = streak & !STREAK == streak_of(generation);
        #[allow(clippy::cast_possible_truncation)] // the low half
        let in_row = if current { streak as u32 } else { 0 };
        Tally {
            calls: sum.calls,
            failures: sum.failures,
            slow: slow.min(sum.calls),
            in_row,
        }
    }

    fn within(&self, generation: u64, now: Spot) -> (Sum, u64) {
        let (end, mut sum, mut slow) = (now.of(generation), Sum::default(), 0);
        self.buckets.sum(end, &mut sum);
        for stripe in self.stripes.get().into_iter().flatten() {
            stripe.0.sum(end, &mut sum);
        }
        if let Some(buckets) = &self.slow {
            let mut of_slow = Sum::default();
            buckets.sum(end, &mut of_slow);
            slow = of_slow.calls;
        }
        (sum, slow)
    }

    /// A streak that broke the rule stands, so that no success undoes a trip under way.
    fn change_streak(&self, rules: &Rules, generation: u64, failed: bool) {
        let limit = u64::from(rules.in_row.unwrap_or(0));
        let mut seen = self.streak.load(Ordering::Relaxed);
        while seen & STREAK < limit && seen & !STREAK == streak_of(generation) {
            let next = if failed { seen + 1 } else { seen & !STREAK };
            let swapped =
                self.streak
                    .compare_exchange(seen, next, Ordering::Relaxed, Ordering::Relaxed);
            match swapped {
                Ok(_) => return,
                Err(other) => seen = other,
            }
        }
    }

    #[cold]
    fn clashed(&self, place: Place) {
        let (tag, seen) = (place.tag() << 8, self.clashes.load(Ordering::Relaxed));
        let next = if seen & !0xFF == tag {
            seen + 1
        } else {
            tag + 1
        };
        // One that is lost to another's store is one of many.
        self.clashes.store(next, Ordering::Relaxed);
        if next & 0xFF >= CLASHES {
            let all = || (0..stripe_count()).map(|_| Stripe(Buckets::new()));
            self.stripes.get_or_init(|| all().collect());
        }
    }
}

/// Not inlined, so that what is inlined is short.
#[inline(never)]
fn add_to_own(stripes: &[Stripe], place: Place, failed: bool) {
    stripes[thread_index() & (stripes.len() - 1)]
        .0
        .add(place, failed);
}

/// An empty streak.
const fn streak_of(generation: u64) -> u64 {
    generation << 32
}

/// A power of two, about as many as threads can run at once.
fn stripe_count() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| {
        let cores = std::thread::available_parallelism().map_or(4, usize::from);
        cores.clamp(2, 16).next_power_of_two()
    })
}

/// So many times threads may get into each other's way in one bucket's time before they are given
/// counters of their own: a busy breaker is there in microseconds, and a thousand quiet ones stay small.
/// Never under loom, which doesn't see that `OnceLock` publishes them.
const CLASHES: u32 = if cfg!(evenkeel_loom) { u32::MAX } else { 16 };

const STREAK: u64 = u32::MAX as u64;
const MILLION: u64 = 1_000_000;

const _: () = assert!(BUCKETS * size_of::<u64>() <= size_of::<Stripe>());

#[cfg(all(test, not(evenkeel_loom)))]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;
    use crate::breaker::settings::Settings;

    #[test]
    fn threads_at_once_lose_nothing_with_counters_of_their_own_or_without() {
        const THREADS: usize = 4;
        const ROUNDS: u64 = 20_000;
        let rules = Settings::default().rules;
        let spot = rules.scale().spot(0);
        for clashed in [false, true] {
            let (counts, barrier) = (Counts::new(&rules), Barrier::new(THREADS));
            if clashed {
                (0..CLASHES).for_each(|_| counts.clashed(spot.of(0)));
                assert!(counts.stripes.get().is_some());
            }
            let run = |thread: usize| {
                barrier.wait();
                for round in 0..ROUNDS {
                    let failed = thread == 0 && round % 2 == 0;
                    counts.add(&rules, 0, failed, false, || spot);
                }
            };
            thread::scope(|scope| {
                for thread in 0..THREADS {
                    let run = &run;
                    scope.spawn(move || run(thread));
                }
            });
            let tally = counts.tally(&rules, 0, spot);
            assert_eq!(tally.calls, THREADS as u64 * ROUNDS);
            assert_eq!(tally.failures, ROUNDS / 2);
        }
    }

    #[test]
    fn two_threads_use_two_stripes() {
        let rules = Settings::default().rules;
        let (counts, spot) = (Counts::new(&rules), rules.scale().spot(0));
        (0..CLASHES).for_each(|_| counts.clashed(spot.of(0)));
        let stripes = counts.stripes.get().expect("clashes enough");
        let held = |stripe: &Stripe| {
            let mut sum = Sum::default();
            stripe.0.sum(spot.of(0), &mut sum);
            sum.calls
        };
        let used = || stripes.iter().filter(|it| held(it) > 0).count();
        // The numbers of threads are given by turns, to other tests' threads too.
        let mut calls = 0;
        while used() < 2 {
            calls += 1;
            assert!(calls < 1_000, "all threads use one");
            thread::scope(|scope| {
                scope.spawn(|| counts.add(&rules, 0, false, false, || spot));
            });
        }
        assert_eq!(counts.tally(&rules, 0, spot).calls, calls);
    }

    #[test]
    fn clashes_that_are_rare_for_ever_cost_nothing() {
        let rules = Settings::default().rules;
        let counts = Counts::new(&rules);
        for second in 0..1_000 {
            let place = rules.scale().spot(second * 1_000_000_000).of(0);
            (1..CLASHES).for_each(|_| counts.clashed(place));
        }
        assert!(counts.stripes.get().is_none());
    }

    #[test]
    fn counters_of_their_own_add_up_whichever_thread_counts() {
        let rules = Settings::default().rules;
        let counts = Counts::new(&rules);
        let (now, later) = (rules.scale().spot(0), rules.scale().spot(1_000_000_000));
        counts.add(&rules, 3, true, false, || now);
        for _ in 0..CLASHES {
            assert!(counts.stripes.get().is_none());
            counts.clashed(now.of(3));
        }
        let stripes = counts.stripes.get().expect("clashes enough");
        assert!(stripes.len() >= 2);
        for (at, stripe) in stripes.iter().enumerate() {
            stripe.0.add(later.of(3), at == 0);
        }
        let tally = counts.tally(&rules, 3, later);
        assert_eq!((tally.calls, tally.failures), (1 + stripes.len() as u64, 2));
        assert_eq!(counts.tally(&rules, 4, later).calls, 0);
    }
}
