//! What can be set of a set of endpoints.

use std::time::Duration;

use crate::backoff::{Backoff, Jitter};
use crate::error::ConfigError;

#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) in_row: Option<u32>,
    /// By how much its share of failures has to be above the others'.
    pub(super) excess: Option<f64>,
    pub(super) cooldown: Backoff,
    pub(super) forget_after: Duration,
    pub(super) max_hint: Duration,
    /// How much of the set may be ejected, in millionths.
    pub(super) most_ejected: u64,
    pub(super) probe_timeout: Duration,
    pub(super) ramp: Duration,
}

impl Settings {
    /// How many of so many may be ejected: at least one of two, and never all.
    pub(super) fn most_ejected(&self, count: usize) -> usize {
        let most = u64::try_from(count).unwrap_or(u64::MAX);
        let share = most.saturating_mul(self.most_ejected) / 1_000_000;
        let share = usize::try_from(share).unwrap_or(count);
        share.max(1).min(count.saturating_sub(1))
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let error = |field, problem| Err(ConfigError::new(field, problem));
        if self.in_row == Some(0) {
            return error("endpoints.consecutive_failures", "must be at least 1");
        }
        if self.excess.is_some_and(|share| share <= 0.0 || share > 1.0) {
            return error("endpoints.failure_share", ABOVE_ZERO);
        }
        if self.most_ejected == 0 || self.most_ejected > 1_000_000 {
            return error("endpoints.most_ejected", ABOVE_ZERO);
        }
        if self.probe_timeout.is_zero() {
            return error("endpoints.probe_timeout", "must not be zero");
        }
        if self.cooldown.is_custom() {
            // It would run under the lock.
            return error("endpoints.cooldown", "must not be custom");
        }
        self.cooldown.check()
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            in_row: Some(3),
            excess: Some(0.25),
            cooldown: Backoff::exponential(Duration::from_secs(1))
                .max_delay(Duration::from_secs(30))
                .jitter(Jitter::Around),
            forget_after: Duration::from_secs(60),
            max_hint: Duration::from_secs(5 * 60),
            most_ejected: 500_000,
            probe_timeout: Duration::from_secs(10),
            ramp: Duration::from_secs(5),
        }
    }
}

const ABOVE_ZERO: &str = "must be above 0 and at most 100 %";
