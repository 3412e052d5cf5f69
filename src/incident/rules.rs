//! When an incident begins and ends: pure.

use std::time::Duration;

use crate::budget::Ratio;
use crate::error::ConfigError;

#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) share: Ratio,
    pub(super) least: u32,
    pub(super) window: Duration,
    pub(super) quiet: Duration,
    pub(super) slow_after: Duration,
    pub(super) kept: usize,
}

impl Rules {
    pub(super) const DEFAULT: Self = Self {
        share: Ratio::percent(20),
        least: 5,
        window: Duration::from_secs(10),
        quiet: Duration::from_secs(30),
        slow_after: Duration::from_secs(1),
        kept: 8,
    };

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let problem = |field, problem| Err(ConfigError::new(field, problem));
        let share = self.share.in_millionths();
        if share == 0 || share > 1_000_000 {
            return problem("incident.share", "must be above 0 and at most 1");
        }
        if self.least == 0 {
            return problem("incident.least", "must be at least 1");
        }
        if self.window.is_zero() {
            return problem("incident.window", "must not be zero");
        }
        if self.quiet.as_nanos() < self.window.as_nanos() {
            return problem("incident.quiet_for", "must not be less than the window");
        }
        if self.kept == 0 {
            return problem("incident.kept", "must be at least 1");
        }
        Ok(())
    }

    /// Whether so many bad and good outcomes within the window are an incident.
    pub(super) fn begins(&self, bad: u64, good: u64) -> bool {
        bad >= u64::from(self.least) && self.reaches(bad, good, self.share.in_millionths())
    }

    /// Whether one goes on. Half of the share is enough, so that one at the edge is one and not many.
    pub(super) fn goes_on(&self, bad: u64, good: u64) -> bool {
        self.reaches(bad, good, self.share.in_millionths() / 2)
    }

    #[allow(clippy::unused_self)] // reads as a rule
    fn reaches(&self, bad: u64, good: u64, millionths: u64) -> bool {
        let all = u128::from(bad) + u128::from(good);
        bad > 0 && u128::from(bad) * 1_000_000 >= all * u128::from(millionths)
    }

    /// One of the steps that the window is counted in.
    pub(super) fn slice(&self) -> Duration {
        (self.window / SLICES).max(Duration::from_nanos(1))
    }

    /// Even where settings were not checked it is so long that nothing of the incident is in the window
    /// any more: the next one can't begin with it.
    pub(super) fn quiet(&self) -> Duration {
        let window = self.slice().saturating_mul(SLICES);
        self.quiet.max(self.window).max(window)
    }

    /// For how long an incident goes on of which nothing is heard any more.
    pub(super) fn silence(&self) -> Duration {
        self.quiet().saturating_mul(10)
    }
}

/// So that what is counted is within a tenth of the window.
pub(super) const SLICES: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_and_the_number_are_both_reached_or_it_is_none() {
        let rules = Rules::DEFAULT;
        assert!(rules.begins(5, 20));
        assert!(!rules.begins(5, 21));
        assert!(!rules.begins(4, 0));
        assert!(rules.begins(1000, 4000));
        assert!(!rules.begins(1000, 4001));
    }

    #[test]
    fn it_goes_on_with_half_the_share_and_any_number() {
        let rules = Rules::DEFAULT;
        assert!(rules.goes_on(1, 9));
        assert!(!rules.goes_on(1, 10));
        assert!(!rules.goes_on(0, 0));
    }

    #[test]
    fn settings_that_make_no_sense_name_their_field() {
        let field = |change: fn(&mut Rules)| {
            let mut rules = Rules::DEFAULT;
            change(&mut rules);
            rules.check().unwrap_err().field()
        };
        assert!(Rules::DEFAULT.check().is_ok());
        assert_eq!(field(|it| it.share = Ratio::percent(0)), "incident.share");
        assert_eq!(field(|it| it.share = Ratio::percent(101)), "incident.share");
        assert_eq!(field(|it| it.least = 0), "incident.least");
        assert_eq!(field(|it| it.window = Duration::ZERO), "incident.window");
        let short = Duration::from_secs(10) - Duration::from_nanos(1);
        let mut rules = Rules::DEFAULT;
        rules.quiet = short;
        assert_eq!(rules.check().unwrap_err().field(), "incident.quiet_for");
        rules.quiet = rules.window;
        assert!(rules.check().is_ok());
        assert_eq!(field(|it| it.kept = 0), "incident.kept");
    }
}
