//! How busy one endpoint is, and how long it takes to answer. Pure.

use std::time::{Duration, Instant};

/// What is under way at one endpoint, and what its answers took.
#[derive(Clone, Debug)]
pub(super) struct Load {
    in_flight: u32,
    /// Of answers, in seconds, smoothed. `None` before the first.
    latency: Option<f64>,
    /// The share of failures of late, smoothed: each outcome weighs a quarter.
    trouble: f64,
    /// When it last began or ended something.
    seen: Option<Instant>,
    /// When the latency was last learned.
    sampled: Option<Instant>,
}

impl Load {
    pub(super) const fn new() -> Self {
        Self {
            in_flight: 0,
            latency: None,
            trouble: 0.0,
            seen: None,
            sampled: None,
        }
    }

    pub(super) const fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// What it is expected to take, and the share of failures, as far as that still holds.
    pub(super) fn expected(&self, typical: Option<f64>, now: Instant) -> (Option<f64>, f64) {
        if self.in_flight > 0 {
            return (self.latency.or(typical), self.trouble);
        }
        // Whoever isn't asked can't show that it is better now, so what it was is forgotten.
        let idle = since(self.seen, now);
        let left = FORGETS / (FORGETS + idle);
        let left = left * left;
        let latency = match (self.latency, typical) {
            (Some(latency), Some(typical)) => Some(typical + (latency - typical) * left),
            (latency, typical) => latency.or(typical),
        };
        (latency, self.trouble * left)
    }

    /// What one more attempt here is likely to cost: the less the better.
    pub(super) fn score(&self, typical: Option<f64>, now: Instant) -> f64 {
        let (latency, trouble) = self.expected(typical, now);
        let busy = f64::from(self.in_flight) + 1.0;
        busy * latency.unwrap_or(1.0).max(LEAST) * (1.0 + PENALTY * trouble)
    }

    pub(super) fn begin(&mut self, typical: Option<f64>, now: Instant) {
        let (latency, trouble) = self.expected(typical, now);
        // What is typical is not what it took itself.
        self.latency = self.latency.and(latency);
        self.trouble = trouble;
        self.in_flight = self.in_flight.saturating_add(1);
        self.seen = self.seen.max(Some(now));
    }

    /// Something that was under way is no more.
    pub(super) const fn end(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// It answered. `latency`: if the answer was a good one and took time.
    pub(super) fn answered(&mut self, latency: Option<Duration>, now: Instant) {
        self.trouble -= self.trouble / 4.0;
        if let Some(latency) = latency {
            self.sample(latency.as_secs_f64(), now);
        }
        self.seen = self.seen.max(Some(now));
    }

    /// It failed. However quick it was about it, that makes it no better.
    pub(super) fn failed(&mut self, latency: Option<Duration>, now: Instant) {
        self.trouble += (1.0 - self.trouble) / 4.0;
        let took = latency.map_or(0.0, |it| it.as_secs_f64());
        if self.latency.is_some_and(|known| took > known) {
            self.sample(took, now);
        }
        self.seen = self.seen.max(Some(now));
    }

    /// It is well again.
    pub(super) const fn forgive(&mut self) {
        self.trouble = 0.0;
    }

    fn sample(&mut self, took: f64, now: Instant) {
        // Many samples in little time are averaged, few in much replace each other.
        let passed = since(self.sampled, now);
        let weight = (passed / (passed + SMOOTHS)).max(LEAST_WEIGHT);
        self.sampled = self.sampled.max(Some(now));
        self.latency = Some(match self.latency {
            Some(latency) => latency + (took - latency) * weight,
            None => took,
        });
    }
}

/// Seconds.
fn since(then: Option<Instant>, now: Instant) -> f64 {
    then.map_or(0.0, |then| {
        now.saturating_duration_since(then).as_secs_f64()
    })
}

/// Adds a sample to what is typical of the whole set.
pub(super) fn learn(typical: &mut Option<f64>, latency: Duration) {
    let took = latency.as_secs_f64();
    match typical {
        Some(typical) => *typical += (took - *typical) * LEAST_WEIGHT,
        None => *typical = Some(took),
    }
}

/// Which of two to choose by a uniform `luck` in 0..1: the first if true.
///
/// The better one is likelier by the fourth power: of two that differ by a hundredth both get their
/// half, and one that costs twice as much gets a seventeenth.
pub(super) fn prefers_first(first: f64, second: f64, luck: f64) -> bool {
    let odds = (second / first).powi(4);
    luck < 1.0 - 1.0 / (1.0 + odds)
}

/// Seconds. Of what was known of an idle endpoint a quarter is left after this time, a ninth after
/// twice as long.
const FORGETS: f64 = 10.0;

/// Seconds: over how much time samples are averaged.
const SMOOTHS: f64 = 1.0;

const LEAST_WEIGHT: f64 = 1.0 / 32.0;

/// Seconds: below it all are equally quick.
const LEAST: f64 = 1e-6;

/// One that always fails costs ten times as much: the attempt, a wait, and another attempt.
const PENALTY: f64 = 9.0;

#[cfg(test)]
mod tests {
    use super::*;

    const TYPICAL: Option<f64> = Some(0.1);

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn what_fails_at_once_is_not_attractive() {
        let t0 = Instant::now();
        let (mut well, mut ill) = (Load::new(), Load::new());
        well.answered(Some(ms(100)), t0);
        ill.answered(Some(ms(100)), t0);
        ill.failed(Some(ms(1)), t0);
        assert!(ill.score(TYPICAL, t0) > 3.0 * well.score(TYPICAL, t0));
        for _ in 0..100 {
            ill.failed(None, t0);
        }
        assert!(ill.score(TYPICAL, t0) > 9.9 * well.score(TYPICAL, t0));
        // Even one that never did anything but fail.
        let mut new = Load::new();
        new.failed(Some(ms(1)), t0);
        assert!(new.score(TYPICAL, t0) > 3.0 * well.score(TYPICAL, t0));
    }

    #[test]
    fn a_failure_that_took_long_makes_it_slower_as_well() {
        let t0 = Instant::now();
        let mut load = Load::new();
        load.answered(Some(ms(100)), t0);
        load.failed(Some(ms(10_000)), t0 + ms(10_000));
        assert!(load.expected(TYPICAL, t0 + ms(10_000)).0 > Some(5.0));
    }

    #[test]
    fn what_is_idle_is_as_good_as_any_before_long() {
        let t0 = Instant::now();
        let mut slow = Load::new();
        slow.answered(Some(ms(1000)), t0);
        let at = |seconds| slow.score(TYPICAL, t0 + Duration::from_secs(seconds));
        assert!((at(0) - 1.0).abs() < 1e-9);
        assert!((at(10) - (0.1 + 0.9 / 4.0)).abs() < 1e-9);
        assert!(at(60) < 0.12);
        // Not while something is under way, which may hang.
        let mut busy = slow.clone();
        busy.begin(TYPICAL, t0);
        let later = t0 + Duration::from_secs(600);
        assert!((busy.score(TYPICAL, later) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn the_better_of_two_is_likelier_and_equals_are_equal() {
        assert!(prefers_first(1.0, 1.0, 0.499) && !prefers_first(1.0, 1.0, 0.501));
        assert!(prefers_first(1.0, 2.0, 16.0 / 17.0 - 1e-9));
        assert!(!prefers_first(1.0, 2.0, 16.0 / 17.0 + 1e-9));
        assert!(prefers_first(1e-300, 1e300, 0.999) && !prefers_first(1e300, 1e-300, 0.0));
    }

    #[test]
    fn time_that_runs_backwards_does_no_harm() {
        let t0 = Instant::now();
        let at = |after| t0 + ms(after);
        let mut load = Load::new();
        load.answered(Some(ms(5)), at(10));
        load.begin(TYPICAL, at(5));
        load.end();
        load.answered(Some(ms(7)), at(7));
        assert!((load.score(TYPICAL, at(1)) - 0.005).abs() < 0.001);
    }
}
