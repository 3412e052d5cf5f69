//! An incident over time, in a fixed number of steps that get longer as it does: pure.

use std::time::Duration;

use crate::diagnosis::Cause;
use crate::incident::cause::Said;
use crate::incident::note::{Next, Note};
use crate::incident::table::Table;
use crate::incident::tally::Asked;

/// What happened in one step of the time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) failures: Table<Cause, 6>,
    /// The same, by who said so and for how long.
    pub(super) said: Table<Said, 3>,
    /// Until when the server asked for quiet, at the latest.
    pub(super) back_at: Option<Duration>,
    pub(super) succeeded: u64,
    pub(super) refused: u64,
    pub(super) retries: u64,
    pub(super) parked: u64,
    /// The least that was left of a budget, from 0 to 1.
    pub(super) budget: Option<f32>,
}

impl Step {
    pub(super) const EMPTY: Self = Self {
        failures: Table::new(),
        said: Table::new(),
        back_at: None,
        succeeded: 0,
        refused: 0,
        retries: 0,
        parked: 0,
        budget: None,
    };

    pub(super) fn add(&mut self, note: &Note, asked: Option<Asked>) {
        match note {
            Note::Failed(failed) => {
                match failed.found {
                    Some(found) => {
                        self.failures.add(found.said.cause, 1);
                        self.said.add(found.said, 1);
                        self.back_at = self.back_at.max(asked.map(|it| it.back_at));
                    }
                    // It was answered.
                    None => self.succeeded += 1,
                }
                self.retries += u64::from(matches!(failed.next, Next::Retry(_)));
                self.budget = least(self.budget, failed.budget);
            }
            Note::Parked(..) => self.parked += 1,
            Note::Refused(_) => self.refused += 1,
            Note::Succeeded { .. } => self.succeeded += 1,
            Note::Changed(_) | Note::Injected | Note::Waited(_) | Note::WouldRefuse => {}
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.failures.merge(&other.failures);
        self.said.merge(&other.said);
        self.back_at = self.back_at.max(other.back_at);
        self.succeeded += other.succeeded;
        self.refused += other.refused;
        self.retries += other.retries;
        self.parked += other.parked;
        self.budget = least(self.budget, other.budget);
    }
}

/// A fixed number of steps of one length.
#[derive(Clone, Debug)]
pub(super) struct Timeline {
    /// When the first step begins.
    pub(super) origin: Duration,
    pub(super) width: Duration,
    /// Up to [`STEPS`], the last one with something in it.
    pub(super) steps: Vec<Step>,
}

impl Timeline {
    pub(super) fn new(origin: Duration, width: Duration) -> Self {
        Self {
            origin,
            width: width.max(Duration::from_nanos(1)),
            steps: Vec::with_capacity(STEPS),
        }
    }

    /// The step of this moment. Before the origin that is the first one.
    pub(super) fn step(&mut self, at: Duration) -> &mut Step {
        let since = at.saturating_sub(self.origin);
        let index = loop {
            let index = since.as_nanos() / self.width.as_nanos();
            match usize::try_from(index) {
                Ok(index) if index < STEPS => break index,
                _ => self.coarsen(),
            }
        };
        if self.steps.len() <= index {
            self.steps.resize(index + 1, Step::EMPTY);
        }
        &mut self.steps[index]
    }

    fn coarsen(&mut self) {
        let half = self.steps.len().div_ceil(2);
        for index in 0..half {
            let mut step = self.steps[2 * index];
            if let Some(second) = self.steps.get(2 * index + 1) {
                step.merge(second);
            }
            self.steps[index] = step;
        }
        self.steps.truncate(half);
        self.width = self.width.saturating_mul(2);
    }
}

fn least(one: Option<f32>, other: Option<f32>) -> Option<f32> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// Wide enough a plot; an incident takes some 40 KB for it.
pub(super) const STEPS: usize = 120;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_last_moment_that_fits_changes_nothing_and_the_next_makes_steps_twice_as_long() {
        let mut timeline = Timeline::new(SECOND, SECOND);
        let last = (SECOND * 121).saturating_sub(Duration::from_nanos(1));
        timeline.step(last).refused += 1;
        assert_eq!((timeline.width, timeline.steps.len()), (SECOND, STEPS));
        timeline.step(SECOND * 121).refused += 1;
        assert_eq!(timeline.width, 2 * SECOND);
        assert_eq!(timeline.steps.len(), 61);
        assert_eq!(
            (timeline.steps[59].refused, timeline.steps[60].refused),
            (1, 1)
        );
    }

    proptest! {
        #[test]
        fn whatever_the_times_nothing_is_lost_and_it_stays_bounded(
            times in proptest::collection::vec(0_u64..u64::MAX, 1..60),
            order in proptest::collection::vec(0_u64..2000, 1..200),
        ) {
            let mut timeline = Timeline::new(SECOND, SECOND);
            for at in order.iter().chain(&times) {
                timeline.step(Duration::from_secs(*at)).refused += 1;
            }
            prop_assert!(timeline.steps.len() <= STEPS);
            prop_assert_eq!(timeline.steps.capacity(), STEPS);
            let sum: u64 = timeline.steps.iter().map(|step| step.refused).sum();
            prop_assert_eq!(sum, (times.len() + order.len()) as u64);
        }
    }
}
