//! Whether one endpoint fails notably more than the others. Pure.

use std::time::{Duration, Instant};

use crate::deadline::later;

use super::report::Why;
use super::settings::Settings;

/// Outcomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) answered: u64,
    pub(super) failed: u64,
}

/// What the outcomes of one endpoint say of it, held against those of the whole set in the same
/// time.
#[derive(Clone, Debug)]
pub(super) struct Health {
    /// Failures since the last answer.
    row: u32,
    /// The set's outcomes before the first of them.
    row_from: Tally,
    /// Its own outcomes of this span.
    own: Tally,
    /// The set's before them.
    own_from: Tally,
    span_ends: Option<Instant>,
}

impl Health {
    /// Nothing is known. `set`: the outcomes of the whole set so far.
    pub(super) const fn new(set: Tally) -> Self {
        Self {
            row: 0,
            row_from: set,
            own: NONE,
            own_from: set,
            span_ends: None,
        }
    }

    /// It answered, whatever it was. `set`: what the set came to before it.
    pub(super) fn answered(&mut self, set: Tally, now: Instant) {
        self.turn(set, now);
        self.row = 0;
        self.own.answered += 1;
    }

    /// It failed. Says why it should be asked no more, if it should not.
    pub(super) fn failed(&mut self, set: Tally, settings: &Settings, now: Instant) -> Option<Why> {
        self.turn(set, now);
        if self.row == 0 {
            self.row_from = set;
        }
        self.row = self.row.saturating_add(1);
        self.own.failed += 1;
        if settings.in_row.is_some_and(|least| self.row >= least) && self.is_no_chance(set) {
            return Some(Why::ConsecutiveFailures);
        }
        let excess = settings.excess?;
        self.is_notable(set, excess).then_some(Why::FailureShare)
    }

    /// Whether so many failures in a row are more than chance, at the rate at which the others
    /// failed in the same time.
    fn is_no_chance(&self, set: Tally) -> bool {
        // All of its own since then are this row's.
        let answered = set.answered - self.row_from.answered;
        let failed = set.failed + 1 - self.row_from.failed;
        let failed = failed.saturating_sub(u64::from(self.row));
        let rate = (real(failed) + PRIOR) / (real(answered + failed) + 2.0 * PRIOR);
        rate.powi(self.row.try_into().unwrap_or(i32::MAX)) <= CHANCE
    }

    /// Whether the share of failures is above the others' by so much, and by more than chance.
    fn is_notable(&self, set: Tally, excess: f64) -> bool {
        let calls = self.own.answered + self.own.failed;
        if calls < LEAST_CALLS {
            return false;
        }
        let answered = set.answered - self.own_from.answered;
        let failed = set.failed + 1 - self.own_from.failed;
        let answered = real(answered.saturating_sub(self.own.answered));
        let failed = real(failed.saturating_sub(self.own.failed));
        let others = (failed + 1.0) / (answered + failed + 2.0);
        let chance = SIGMAS * (others * (1.0 - others) / real(calls)).sqrt();
        real(self.own.failed) / real(calls) - others >= excess.max(chance)
    }

    /// Begins another span if this one is over.
    fn turn(&mut self, set: Tally, now: Instant) {
        if self.span_ends.is_none_or(|end| now >= end) {
            self.own = NONE;
            self.own_from = set;
            self.span_ends = Some(later(now, SPAN));
        }
    }
}

#[allow(clippy::cast_precision_loss)] // shares need no more than 53 bits
const fn real(count: u64) -> f64 {
    count as f64
}

const NONE: Tally = Tally {
    answered: 0,
    failed: 0,
};

/// What happens less often than once in ten thousand is no chance.
const CHANCE: f64 = 1e-4;

/// As if the others had answered a tenth of a time more, and failed as often: with two answers of
/// theirs three failures in a row are enough, and without any it takes fourteen.
const PRIOR: f64 = 0.1;

/// How many standard deviations a share has to be off.
const SIGMAS: f64 = 4.0;

/// A share of fewer is chance.
const LEAST_CALLS: u64 = 20;

/// Over which shares are counted.
const SPAN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    /// An endpoint and its set, told of outcomes one by one.
    struct Watched {
        health: Health,
        set: Tally,
        settings: Settings,
        now: Instant,
    }

    impl Watched {
        fn new() -> Self {
            let (now, set) = (Instant::now(), Tally::default());
            Self {
                health: Health::new(set),
                set,
                settings: Settings::default(),
                now,
            }
        }

        fn fails(&mut self) -> Option<Why> {
            let why = self.health.failed(self.set, &self.settings, self.now);
            self.set.failed += 1;
            why
        }

        fn answers(&mut self) {
            self.health.answered(self.set, self.now);
            self.set.answered += 1;
        }

        /// How many failures in a row it takes while after each the others do this.
        fn takes(mut self, others: Tally) -> Option<u32> {
            (1..1000).find(|_| {
                let why = self.fails();
                self.set.answered += others.answered;
                self.set.failed += others.failed;
                why == Some(Why::ConsecutiveFailures)
            })
        }
    }

    const fn others(answered: u64, failed: u64) -> Tally {
        Tally { answered, failed }
    }

    #[test]
    fn three_in_a_row_are_enough_only_if_the_others_answer() {
        let takes = |it| Watched::new().takes(it);
        assert_eq!(takes(others(1, 0)), Some(3), "a retry elsewhere went well");
        assert_eq!(takes(others(9, 0)), Some(3));
        assert_eq!(takes(others(9, 1)), Some(5), "a tenth fails anyway");
        assert_eq!(takes(others(0, 9)), None, "all fail");
    }

    #[test]
    fn where_nobody_else_was_asked_it_takes_more() {
        let mut watched = Watched::new();
        watched.settings.excess = None;
        assert_eq!(watched.takes(others(0, 0)), Some(14));
    }

    #[test]
    fn an_answer_ends_the_row() {
        let mut watched = Watched::new();
        watched.set.answered = 100;
        for _ in 0..6 {
            assert_eq!(watched.fails(), None);
            watched.set.answered += 9;
            assert_eq!(watched.fails(), None);
            watched.set.answered += 9;
            watched.answers();
        }
    }

    #[test]
    fn every_other_failing_is_notable_where_the_others_answer_and_not_where_they_do_the_same() {
        let after = |answered, failed| {
            let mut watched = Watched::new();
            (1..200).find(|_| {
                watched.answers();
                let why = watched.fails();
                watched.set.answered += answered;
                watched.set.failed += failed;
                why == Some(Why::FailureShare)
            })
        };
        assert_eq!(after(9, 0), Some(10), "with the twentieth call");
        assert_eq!(after(9, 9), None);
    }

    #[test]
    fn a_span_that_is_over_counts_no_more() {
        let mut watched = Watched::new();
        for _ in 0..9 {
            watched.answers();
            assert_eq!(watched.fails(), None);
            watched.set.answered += 9;
        }
        let at_its_end = watched.now + SPAN;
        let mut over = Watched {
            health: watched.health.clone(),
            now: at_its_end,
            ..Watched::new()
        };
        over.set = watched.set;
        over.answers();
        assert_eq!(over.fails(), None);
        watched.now += SPAN.checked_sub(Duration::from_nanos(1)).expect("longer");
        watched.answers();
        assert_eq!(watched.fails(), Some(Why::FailureShare));
    }
}
