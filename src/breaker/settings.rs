//! How a breaker is set up, and what is the default.

use std::time::Duration;

use crate::backoff::{Backoff, Jitter};
use crate::error::ConfigError;
use crate::verdict::Kind;

use super::recent;
use super::sliding::Scale;

/// What an outcome counts as that says little about the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[allow(clippy::exhaustive_enums)] // these three are all there can be
pub enum CountAs {
    /// It failed.
    Failure,
    /// As if it had not been.
    #[default]
    Nothing,
    /// It succeeded.
    Success,
}

#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) rules: Rules,
    pub(super) cooldown: Backoff,
    pub(super) max_hint: Duration,
    pub(super) forget_after: Duration,
    pub(super) probes: u32,
    pub(super) close_after: u32,
    pub(super) reopen_after: u32,
    pub(super) probe_timeout: Duration,
    pub(super) ramp: Duration,
    pub(super) request_faults: CountAs,
    pub(super) cancelled: CountAs,
}

/// What the closed breaker looks at.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) in_row: Option<u32>,
    pub(super) min_calls: u32,
    /// In millionths.
    pub(super) failure_ratio: Option<u64>,
    /// From which length a call is slow, and the share in millionths.
    pub(super) slow: Option<(Duration, u64)>,
    pub(super) window: Window,
    /// Some rule looks at a window of time.
    pub(super) counts_by_time: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Window {
    Calls(u32),
    Time(Duration),
}

impl Settings {
    /// What an outcome of this kind counts as while closed.
    #[inline]
    pub(super) const fn count_as(&self, kind: Kind) -> CountAs {
        match kind {
            Kind::Success => CountAs::Success,
            Kind::Overloaded | Kind::TargetFault | Kind::Transient => CountAs::Failure,
            Kind::RateLimited => CountAs::Nothing,
            Kind::RequestFault => self.request_faults,
        }
    }

    #[inline]
    pub(super) const fn counts_cancelled(&self) -> bool {
        !matches!(self.cancelled, CountAs::Nothing)
    }

    /// The same while half-open, where a refusal for quota is no proof of health.
    pub(super) const fn probe_counts_as(&self, kind: Kind) -> CountAs {
        match kind {
            Kind::RateLimited => CountAs::Failure,
            _ => self.count_as(kind),
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let rules = &self.rules;
        let ratios = [rules.failure_ratio, rules.slow.map(|it| it.1)];
        for (ratio, field) in ratios.into_iter().zip(["failure_ratio", "slow_calls"]) {
            if ratio.is_some_and(|ratio| ratio == 0 || ratio > 1_000_000) {
                let field = match field {
                    "failure_ratio" => "breaker.failure_ratio",
                    _ => "breaker.slow_calls",
                };
                return Err(ConfigError::new(field, "must be above 0 and at most 100 %"));
            }
        }
        let at_least_one = [
            (rules.in_row.unwrap_or(1), "breaker.consecutive_failures"),
            (rules.min_calls, "breaker.min_calls"),
            (self.probes, "breaker.probes"),
            (self.close_after, "breaker.close_after"),
            (self.reopen_after, "breaker.reopen_after"),
        ];
        for (number, field) in at_least_one {
            if number == 0 {
                return Err(ConfigError::new(field, "must be at least 1"));
            }
        }
        match rules.window {
            Window::Calls(calls) if calls == 0 || calls > recent::MOST => {
                let problem = "must be from 1 to 65536";
                return Err(ConfigError::new("breaker.window_of_calls", problem));
            }
            Window::Calls(calls) if rules.uses_window() && rules.min_calls > calls => {
                let problem = "must be at most the calls in the window";
                return Err(ConfigError::new("breaker.min_calls", problem));
            }
            Window::Time(length) if length < LEAST_WINDOW => {
                return Err(ConfigError::new("breaker.window", "must be at least 1 ms"));
            }
            _ => {}
        }
        if self.probe_timeout.is_zero() {
            return Err(ConfigError::new(
                "breaker.probe_timeout",
                "must not be zero",
            ));
        }
        if self.cooldown.is_custom() {
            // It would run under the breaker's lock.
            return Err(ConfigError::new("breaker.cooldown", "must not be custom"));
        }
        self.cooldown.check()
    }
}

impl Rules {
    pub(super) const fn uses_window(&self) -> bool {
        self.failure_ratio.is_some() || self.slow.is_some()
    }

    /// To be called after every change.
    pub(super) fn prepare(&mut self) {
        self.counts_by_time = self.uses_window() && matches!(self.window, Window::Time(_));
    }

    /// Without a window of time, anything goes.
    pub(super) fn scale(&self) -> Scale {
        Scale::new(match self.window {
            Window::Time(length) => length,
            Window::Calls(_) => Duration::MAX,
        })
    }
}

impl Default for Settings {
    fn default() -> Self {
        let mut rules = Rules {
            in_row: Some(5),
            min_calls: 20,
            failure_ratio: Some(500_000),
            slow: None,
            window: Window::Time(Duration::from_secs(10)),
            counts_by_time: false,
        };
        rules.prepare();
        Self {
            rules,
            cooldown: Backoff::exponential(Duration::from_secs(1))
                .max_delay(Duration::from_secs(5))
                .jitter(Jitter::Around),
            max_hint: Duration::from_secs(5 * 60),
            forget_after: Duration::from_secs(60),
            probes: 1,
            close_after: 1,
            reopen_after: 1,
            probe_timeout: Duration::from_secs(10),
            ramp: Duration::from_secs(5),
            request_faults: CountAs::Nothing,
            cancelled: CountAs::Nothing,
        }
    }
}

/// A bucket is a tenth of it, and clocks tell no less than microseconds apart.
const LEAST_WINDOW: Duration = Duration::from_millis(1);
