//! What the closed breaker counts, and when it is too much. Takes no lock.

use std::sync::OnceLock;

use crate::sync::{AtomicU32, AtomicU64, Ordering, fence, thread_index};

use super::recent::Recent;
use super::report::Why;
use super::settings::{Rules, Window};
use super::sliding::{BUCKETS, Buckets, Scale, Sum};

/// The counters of one breaker.
///
/// Threads that get into each other's way get counters of their own, each on its own cache line;
/// until then there is one set of them, inside the breaker.
#[derive(Debug)]
pub(super) struct Counts {
    /// Generation and failures in a row.
    streak: AtomicU64,
    buckets: Buckets,
    clashes: AtomicU32,
    stripes: OnceLock<Box<[Stripe]>>,
    /// Slow calls, if they count and the window is one of time.
    slow: Option<Box<Buckets>>,
    /// The window, if it is one of calls.
    recent: Option<Box<Recent>>,
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

    /// Counts an outcome. `now` is called only if the window is one of time.
    #[inline]
    pub(super) fn add(
        &self,
        rules: &Rules,
        generation: u64,
        failed: bool,
        slow: bool,
        now: impl FnOnce() -> u64,
    ) {
        if let Some(limit) = rules.in_row {
            self.add_to_streak(generation, failed, limit);
        }
        if let Some(recent) = &self.recent {
            recent.add(generation, failed, slow);
        } else if let Some(scale) = rules.scale {
            let place = scale.place(generation, now());
            match self.stripes.get() {
                Some(stripes) => {
                    let mine = &stripes[thread_index() & (stripes.len() - 1)];
                    mine.0.add(place, failed);
                }
                None if self.buckets.add(place, failed) => self.clashed(),
                None => {}
            }
            if let Some(buckets) = self.slow.as_ref().filter(|_| slow) {
                buckets.add(place, false);
            }
        }
    }

    /// Which rule is broken. To be asked after every bad outcome: good ones break none.
    pub(super) fn broken(&self, rules: &Rules, generation: u64, now: u64) -> Option<Why> {
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

    pub(super) fn tally(&self, rules: &Rules, generation: u64, now: u64) -> Tally {
        let (sum, slow) = match (&self.recent, rules.scale) {
            (Some(recent), _) => recent.sum(),
            (None, Some(scale)) => self.within(scale, generation, now),
            (None, None) => (Sum::default(), 0),
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

    fn within(&self, scale: Scale, generation: u64, now: u64) -> (Sum, u64) {
        let (end, mut sum, mut slow) = (scale.place(generation, now), Sum::default(), 0);
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

    /// A success after successes writes nothing.
    #[inline]
    fn add_to_streak(&self, generation: u64, failed: bool, limit: u32) {
        let mut seen = self.streak.load(Ordering::Relaxed);
        loop {
            let in_row = seen & STREAK;
            // A streak that broke the rule stands, so that no success undoes a trip under way.
            let over = in_row >= u64::from(limit);
            if (!failed && in_row == 0) || over || seen & !STREAK != streak_of(generation) {
                return;
            }
            let next = if failed { seen + 1 } else { seen - in_row };
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
    fn clashed(&self) {
        if self.clashes.fetch_add(1, Ordering::Relaxed) + 1 >= CLASHES {
            let all = || (0..stripe_count()).map(|_| Stripe(Buckets::new()));
            self.stripes.get_or_init(|| all().collect());
        }
    }
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

/// So many times threads may get into each other's way before they are given counters of their
/// own: a busy breaker is there in microseconds, and a thousand quiet ones stay small.
/// Never under loom, which doesn't see that `OnceLock` publishes them.
const CLASHES: u32 = if cfg!(evenkeel_loom) { u32::MAX } else { 16 };

const STREAK: u64 = u32::MAX as u64;
const MILLION: u64 = 1_000_000;

const _: () = assert!(BUCKETS * size_of::<u64>() <= size_of::<Stripe>());
