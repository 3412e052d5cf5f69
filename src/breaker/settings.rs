//! How a breaker is set up, and what is the default.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::backoff::{Backoff, Jitter, count};
use crate::error::ConfigError;
use crate::verdict::Kind;

use super::phase::{COUNTS_BY_TIME, COUNTS_CANCELLED, COUNTS_SLOW};
use super::recent;
use super::sliding::Scale;

/// What an outcome counts as that says little about the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Window {
    Calls(u32),
    Time(Duration),
}

impl Settings {
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

/// The settings of breakers that may be given others while calls go by.
///
/// What a call looks at without a lock is kept in atomics. Each is looked at for itself: a call
/// that meets a change of settings half-way goes by one of the old and one of the new, and each of
/// them was asked for. They are std's under loom too: what its models look at is not settings.
#[derive(Debug)]
pub(super) struct Live {
    flags: AtomicU32,
    /// [`NONE`] where there is none, as below.
    in_row: AtomicU64,
    min_calls: AtomicU32,
    failure_ratio: AtomicU64,
    /// In nanoseconds.
    slow_over: AtomicU64,
    slow_ratio: AtomicU64,
    max_hint: AtomicU64,
    ramp: AtomicU64,
    /// What the counters were made for, so it never changes.
    window: Window,
    all: Mutex<Settings>,
}

/// Yes and no, and what outcomes count as, in one word.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flags(u32);

impl Live {
    pub(super) fn new(settings: Settings) -> Self {
        let live = Self {
            flags: AtomicU32::new(0),
            in_row: AtomicU64::new(NONE),
            min_calls: AtomicU32::new(0),
            failure_ratio: AtomicU64::new(NONE),
            slow_over: AtomicU64::new(NONE),
            slow_ratio: AtomicU64::new(NONE),
            max_hint: AtomicU64::new(0),
            ramp: AtomicU64::new(0),
            window: settings.rules.window,
            all: Mutex::new(settings.clone()),
        };
        live.set(settings);
        live
    }

    /// Gives others, which must be for the [same counters](Rules::counts_like).
    pub(super) fn set(&self, settings: Settings) {
        let mut all = crate::sync::lock_plain(&self.all);
        let rules = &settings.rules;
        let (over, ratio) = rules
            .slow
            .map_or((NONE, NONE), |(over, ratio)| (count(over), ratio));
        for (place, value) in [
            (&self.in_row, rules.in_row.map_or(NONE, u64::from)),
            (&self.failure_ratio, rules.failure_ratio.unwrap_or(NONE)),
            (&self.slow_over, over),
            (&self.slow_ratio, ratio),
            (&self.max_hint, count(settings.max_hint)),
            (&self.ramp, count(settings.ramp)),
        ] {
            place.store(value, Ordering::Relaxed);
        }
        self.min_calls.store(rules.min_calls, Ordering::Relaxed);
        self.flags.store(Flags::of(&settings).0, Ordering::Relaxed);
        *all = settings;
    }

    /// All of them. Takes a lock.
    pub(super) fn all(&self) -> Settings {
        crate::sync::lock_plain(&self.all).clone()
    }

    #[inline]
    pub(super) fn flags(&self) -> Flags {
        Flags(self.flags.load(Ordering::Relaxed))
    }

    pub(super) fn rules(&self) -> Rules {
        let some = |value: &AtomicU64| {
            let value = value.load(Ordering::Relaxed);
            (value != NONE).then_some(value)
        };
        let over = Duration::from_nanos(self.slow_over.load(Ordering::Relaxed));
        let flags = self.flags();
        let slow = some(&self.slow_ratio).filter(|_| flags.has_slow());
        Rules {
            in_row: some(&self.in_row).and_then(|it| it.try_into().ok()),
            min_calls: self.min_calls.load(Ordering::Relaxed),
            failure_ratio: some(&self.failure_ratio),
            slow: slow.map(|ratio| (over, ratio)),
            window: self.window,
            counts_by_time: flags.counts_by_time(),
        }
    }

    pub(super) fn scale(&self) -> Scale {
        self.window.scale()
    }

    pub(super) fn slow_over(&self) -> Option<Duration> {
        let over = self.slow_over.load(Ordering::Relaxed);
        (self.flags().has_slow()).then_some(Duration::from_nanos(over))
    }

    pub(super) fn max_hint(&self) -> Duration {
        Duration::from_nanos(self.max_hint.load(Ordering::Relaxed))
    }

    pub(super) fn ramp(&self) -> Duration {
        Duration::from_nanos(self.ramp.load(Ordering::Relaxed))
    }
}

impl Flags {
    fn of(settings: &Settings) -> Self {
        let rules = &settings.rules;
        Self(
            u32::from(rules.slow.is_some())
                | u32::from(rules.counts_by_time) << 1
                | settings.cancelled.pack() << 2
                | settings.request_faults.pack() << 4,
        )
    }

    /// What of them stands in the word of the phase.
    pub(super) const fn marks(self) -> u64 {
        let mut marks = 0;
        if self.counts_cancelled() {
            marks |= COUNTS_CANCELLED;
        }
        if self.has_slow() {
            marks |= COUNTS_SLOW;
        }
        if self.counts_by_time() {
            marks |= COUNTS_BY_TIME;
        }
        marks
    }

    pub(super) const fn has_slow(self) -> bool {
        self.0 & 1 != 0
    }

    #[inline]
    pub(super) const fn counts_by_time(self) -> bool {
        self.0 & 2 != 0
    }

    pub(super) const fn cancelled(self) -> CountAs {
        CountAs::unpack(self.0 >> 2)
    }

    #[inline]
    pub(super) const fn counts_cancelled(self) -> bool {
        self.0 & (3 << 2) != 0
    }

    /// What an outcome of this kind counts as while closed.
    #[inline]
    pub(super) const fn count_as(self, kind: Kind) -> CountAs {
        match kind {
            Kind::Success => CountAs::Success,
            Kind::Overloaded | Kind::TargetFault | Kind::Transient => CountAs::Failure,
            Kind::RateLimited => CountAs::Nothing,
            Kind::RequestFault => CountAs::unpack(self.0 >> 4),
        }
    }

    /// The same while half-open, where a refusal for quota is no proof of health.
    pub(super) const fn probe_counts_as(self, kind: Kind) -> CountAs {
        match kind {
            Kind::RateLimited => CountAs::Failure,
            _ => self.count_as(kind),
        }
    }
}

impl CountAs {
    /// In two bits. Nothing is zero.
    const fn pack(self) -> u32 {
        match self {
            Self::Nothing => 0,
            Self::Failure => 1,
            Self::Success => 2,
        }
    }

    const fn unpack(bits: u32) -> Self {
        match bits & 3 {
            0 => Self::Nothing,
            1 => Self::Failure,
            _ => Self::Success,
        }
    }
}

impl Rules {
    /// Whether the counters made for these rules do for others too.
    pub(super) fn counts_like(&self, other: &Self) -> bool {
        let counters = |rules: &Self| (rules.window, rules.uses_window(), rules.slow.is_some());
        counters(self) == counters(other)
    }

    pub(super) const fn uses_window(&self) -> bool {
        self.failure_ratio.is_some() || self.slow.is_some()
    }

    /// To be called after every change.
    pub(super) fn prepare(&mut self) {
        self.counts_by_time = self.uses_window() && matches!(self.window, Window::Time(_));
    }

    /// Without a window of time, anything goes.
    #[cfg(test)]
    pub(super) fn scale(&self) -> Scale {
        self.window.scale()
    }
}

impl Window {
    fn scale(self) -> Scale {
        Scale::new(match self {
            Self::Time(length) => length,
            Self::Calls(_) => Duration::MAX,
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

/// No such setting.
const NONE: u64 = u64::MAX;

/// A bucket is a tenth of it, and clocks tell no less than microseconds apart.
const LEAST_WINDOW: Duration = Duration::from_millis(1);
