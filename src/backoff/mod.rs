//! Schedules of delays.
//!
//! A client that repeats at once, or in step with all others, keeps an overloaded server down. A
//! schedule spaces attempts out; jitter spreads clients over that space. Schedules are pure: they
//! are given the number of the delay and a random draw, and say how long to wait.
//!
//! # Example
//!
//! ```
//! use evenkeel::backoff::{Backoff, Jitter};
//! use std::time::Duration;
//!
//! let backoff = Backoff::exponential(Duration::from_millis(100))
//!     .max_delay(Duration::from_secs(1))
//!     .jitter(Jitter::None);
//! let delays: Vec<u128> = backoff.delays().take(5).map(|delay| delay.as_millis()).collect();
//! assert_eq!(delays, [100, 200, 400, 800, 1000]);
//! ```
//!
//! # Defaults
//!
//! | setting | default | why |
//! |---|---|---|
//! | factor | 2 | what servers are tuned for |
//! | `max_delay` | 2 s (or the first delay, if that is longer) | past it, recovery is missed for no gain |
//! | jitter | full | does the least work in a fleet (Brooker, "Exponential Backoff And Jitter", 2015) |

mod jitter;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::ConfigError;
use crate::rng::{Draws, Rng};

pub use jitter::Jitter;

/// A schedule of delays between attempts.
///
/// No delay exceeds [`max_delay`](Self::max_delay), jitter included; no setting and no number of
/// attempts overflows or panics. Delays are whole nanoseconds up to 584 years.
#[derive(Clone)]
#[must_use = "a schedule does nothing until something waits by it"]
pub struct Backoff {
    shape: Shape,
    max_delay: Option<u64>,
    jitter: Jitter,
}

/// All delays in nanoseconds: each way to a [`Duration`] and back is a division and a multiplication.
#[derive(Clone)]
enum Shape {
    Constant(u64),
    Custom(Custom),
    Exponential { first: u64, factor: f64 },
    Fibonacci(u64),
}

type Custom = Arc<dyn Fn() -> Box<dyn Iterator<Item = Duration> + Send + Sync> + Send + Sync>;

impl Backoff {
    /// The same delay every time, without jitter unless [`jitter`](Self::jitter) asks for it.
    pub const fn constant(delay: Duration) -> Self {
        Self {
            shape: Shape::Constant(count(delay)),
            max_delay: None,
            jitter: Jitter::None,
        }
    }

    /// `first`, then twice as long each time, with full jitter.
    pub const fn exponential(first: Duration) -> Self {
        let shape = Shape::Exponential {
            first: count(first),
            factor: 2.0,
        };
        Self {
            shape,
            max_delay: None,
            jitter: Jitter::Full,
        }
    }

    /// `first` times 1, 1, 2, 3, 5, 8, .., with full jitter.
    pub const fn fibonacci(first: Duration) -> Self {
        Self {
            shape: Shape::Fibonacci(count(first)),
            max_delay: None,
            jitter: Jitter::Full,
        }
    }

    /// Any iterator of delays, made anew for each call. When it ends, so does the call.
    ///
    /// Without jitter unless [`jitter`](Self::jitter) asks for it.
    ///
    /// # Examples
    ///
    /// ```
    /// use evenkeel::backoff::Backoff;
    /// use std::time::Duration;
    ///
    /// let backoff = Backoff::custom(|| [1, 5, 30].into_iter().map(Duration::from_secs));
    /// assert_eq!(backoff.delays().count(), 3);
    /// ```
    pub fn custom<F, I>(delays: F) -> Self
    where
        F: Fn() -> I + Send + Sync + 'static,
        I: IntoIterator<Item = Duration>,
        I::IntoIter: Send + Sync + 'static,
    {
        let custom: Custom = Arc::new(move || Box::new(delays().into_iter()));
        Self {
            shape: Shape::Custom(custom),
            max_delay: None,
            jitter: Jitter::None,
        }
    }

    /// What each exponential delay is multiplied by to give the next: finite and at least 1.
    /// Other shapes ignore it. Default: 2.
    pub const fn factor(mut self, by: f64) -> Self {
        if let Shape::Exponential { factor, .. } = &mut self.shape {
            *factor = by;
        }
        self
    }

    /// The longest delay, inclusive, jitter included. Zero means no wait at all.
    /// Default: 2 s, or the first delay if that is longer; none for custom schedules.
    pub const fn max_delay(mut self, cap: Duration) -> Self {
        self.max_delay = Some(count(cap));
        self
    }

    /// How chance bends each delay. Default: full; none for constant and custom schedules.
    pub const fn jitter(mut self, jitter: Jitter) -> Self {
        self.jitter = jitter;
        self
    }

    /// Whether delays come from the user's own code.
    pub(crate) const fn is_custom(&self) -> bool {
        matches!(self.shape, Shape::Custom(_))
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// `max_delay` below the first delay, or a factor that isn't finite and at least 1.
    pub fn check(&self) -> Result<(), ConfigError> {
        if let Shape::Exponential { factor, .. } = self.shape {
            // Written so that NaN fails too.
            if !(factor.is_finite() && factor >= 1.0) {
                return Err(ConfigError::new("backoff.factor", FACTOR_PROBLEM));
            }
        }
        match (self.max_delay, self.first()) {
            (Some(cap), Some(first)) if cap < first => Err(ConfigError::new(
                "backoff.max_delay",
                "must be at least the first delay",
            )),
            _ => Ok(()),
        }
    }

    /// The delays one call would wait, as an iterator, with the thread's own randomness.
    ///
    /// Endless, unless the schedule is [`custom`](Self::custom) and ends.
    pub fn delays(&self) -> Delays {
        self.delays_with(&Rng::thread_local())
    }

    /// The delays one call would wait, with randomness from `rng`.
    pub fn delays_with(&self, rng: &Rng) -> Delays {
        Delays {
            backoff: self.clone(),
            progress: Progress::new(),
            draws: rng.draws(),
        }
    }

    /// The next delay of a call that has come as far as `progress`.
    pub(crate) fn next(&self, progress: &mut Progress, draws: &mut Draws) -> Option<Duration> {
        let first = self.first();
        let bare = match &self.shape {
            Shape::Constant(delay) => *delay,
            Shape::Custom(make) => count(progress.next_of(make)?),
            Shape::Exponential { first, factor } => exponential(*first, *factor, progress.step),
            Shape::Fibonacci(first) => first.saturating_mul(fibonacci(progress.step)),
        };
        let cap = self.cap();
        let delay = match self.jitter {
            Jitter::Around => jitter::around(bare.min(cap), cap, draws),
            Jitter::Decorrelated => {
                let first = first.unwrap_or(bare).min(cap);
                let delay = jitter::decorrelated(first, progress.last, cap, draws);
                *progress.last.insert(delay)
            }
            Jitter::Equal => jitter::equal(bare.min(cap), draws),
            Jitter::Full => jitter::full(bare.min(cap), draws),
            Jitter::None => bare.min(cap),
        };
        progress.step = progress.step.saturating_add(1);
        Some(Duration::from_nanos(delay))
    }

    /// The first delay, if it is known.
    #[inline]
    const fn first(&self) -> Option<u64> {
        match self.shape {
            Shape::Constant(first) | Shape::Exponential { first, .. } | Shape::Fibonacci(first) => {
                Some(first)
            }
            Shape::Custom(_) => None,
        }
    }

    /// The longest delay.
    fn cap(&self) -> u64 {
        match (self.max_delay, self.first()) {
            (Some(cap), _) => cap,
            (None, Some(first)) => first.max(MAX_DELAY),
            (None, None) => u64::MAX,
        }
    }
}

impl fmt::Debug for Backoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Backoff");
        let first = self.first().map(Duration::from_nanos).unwrap_or_default();
        match &self.shape {
            Shape::Constant(_) => out.field("constant", &first),
            Shape::Custom(_) => out.field("custom", &format_args!("..")),
            Shape::Exponential { factor, .. } => {
                out.field("exponential", &first).field("factor", factor)
            }
            Shape::Fibonacci(_) => out.field("fibonacci", &first),
        };
        out.field("max_delay", &Duration::from_nanos(self.cap()))
            .field("jitter", &self.jitter)
            .finish()
    }
}

/// How far one call has come in its schedule.
pub(crate) struct Progress {
    step: u32,
    /// The last delay in nanoseconds, for the jitter that goes by it.
    last: Option<u64>,
    custom: Option<Box<dyn Iterator<Item = Duration> + Send + Sync>>,
}

impl Progress {
    pub(crate) const fn new() -> Self {
        Self {
            step: 0,
            last: None,
            custom: None,
        }
    }

    /// What the user's own schedule says.
    #[cold]
    fn next_of(&mut self, make: &Custom) -> Option<Duration> {
        self.custom.get_or_insert_with(|| make()).next()
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress")
            .field("step", &self.step)
            .field("last", &self.last.map(Duration::from_nanos))
            .finish_non_exhaustive()
    }
}

/// The delays of one call; see [`Backoff::delays`].
#[derive(Debug)]
#[must_use = "iterators are lazy"]
pub struct Delays {
    backoff: Backoff,
    progress: Progress,
    draws: Draws,
}

impl Iterator for Delays {
    type Item = Duration;

    #[inline]
    fn next(&mut self) -> Option<Duration> {
        self.backoff.next(&mut self.progress, &mut self.draws)
    }
}

/// `first` × `factor`^`step` in nanoseconds, up to what fits.
fn exponential(first: u64, factor: f64, step: u32) -> u64 {
    if factor.to_bits() == 2.0_f64.to_bits() {
        return first.saturating_mul(1_u64.checked_shl(step).unwrap_or(u64::MAX));
    }
    power(first, factor, step)
}

#[cold]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // `as` saturates
fn power(first: u64, factor: f64, step: u32) -> u64 {
    // A factor that isn't valid is reported by `check`; here it must only do no harm.
    let factor = if factor.is_finite() {
        factor.max(1.0)
    } else {
        1.0
    };
    let step = step.min(MAX_STEP);
    #[allow(clippy::cast_precision_loss)] // a delay needs no more than 53 bits
    let delay = first as f64 * factor.powi(step.try_into().unwrap_or(i32::MAX));
    delay as u64
}

fn fibonacci(step: u32) -> u64 {
    // The 94th no longer fits.
    let (mut this, mut next) = (1_u64, 1_u64);
    for _ in 0..step.min(93) {
        (this, next) = (next, this.saturating_add(next));
    }
    this
}

/// Nanoseconds, up to what fits in 64 bits: 584 years.
#[inline]
pub(crate) const fn count(delay: Duration) -> u64 {
    // Not by `as_nanos`, whose 128 bits cost more.
    let whole = delay.as_secs().saturating_mul(1_000_000_000);
    whole.saturating_add(delay.subsec_nanos() as u64)
}

/// In nanoseconds: long enough to spread a fleet, short enough that recovery is not missed.
const MAX_DELAY: u64 = 2_000_000_000;

/// 2^1024 is beyond `f64`; anything above saturates anyway.
const MAX_STEP: u32 = 1024;

const FACTOR_PROBLEM: &str = "must be finite and at least 1";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rng::Rng;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn any_backoff() -> impl Strategy<Value = Backoff> {
        let delay = prop_oneof![
            Just(Duration::ZERO),
            Just(Duration::MAX),
            (0..u64::MAX).prop_map(Duration::from_nanos),
            (0..10_000_u64).prop_map(ms),
        ];
        let factor = prop_oneof![Just(2.0), Just(f64::NAN), Just(f64::INFINITY), any::<f64>()];
        let jitter = prop_oneof![
            Just(Jitter::Around),
            Just(Jitter::Decorrelated),
            Just(Jitter::Equal),
            Just(Jitter::Full),
            Just(Jitter::None)
        ];
        (0..4, delay.clone(), delay, factor, jitter).prop_map(|(shape, first, cap, by, jitter)| {
            let backoff = match shape {
                0 => Backoff::constant(first),
                1 => Backoff::exponential(first).factor(by),
                2 => Backoff::fibonacci(first),
                _ => Backoff::custom(move || std::iter::repeat(first)),
            };
            backoff.max_delay(cap).jitter(jitter)
        })
    }

    proptest! {
        #[test]
        fn no_delay_exceeds_its_cap_and_no_setting_panics(
            backoff in any_backoff(),
            step in prop_oneof![0..200_u32, Just(u32::MAX)],
            seed: u64,
        ) {
            let mut draws = Rng::seeded(seed).draws();
            let mut progress = Progress { step, ..Progress::new() };
            let cap = Duration::from_nanos(backoff.cap());
            for _ in 0..20 {
                let delay = backoff.next(&mut progress, &mut draws).expect("endless");
                prop_assert!(delay <= cap, "{delay:?} > {cap:?}");
            }
        }
    }

    #[test]
    fn lengths_are_counted_up_to_what_fits() {
        let most = Duration::from_nanos(u64::MAX);
        let nanosecond = Duration::from_nanos(1);
        assert_eq!(count(most), u64::MAX);
        assert_eq!(count(Duration::from_nanos(u64::MAX - 1)), u64::MAX - 1);
        assert_eq!(count(most + nanosecond), u64::MAX);
        assert_eq!(count(Duration::MAX), u64::MAX);
        assert_eq!(count(Duration::new(3, 999_999_999)), 3_999_999_999);
    }

    #[test]
    fn jitter_never_vanishes_at_the_cap() {
        for jitter in [
            Jitter::Around,
            Jitter::Full,
            Jitter::Equal,
            Jitter::Decorrelated,
        ] {
            let backoff = Backoff::exponential(ms(100))
                .max_delay(ms(800))
                .jitter(jitter);
            let late: Vec<_> = backoff
                .delays_with(&Rng::seeded(1))
                .skip(30)
                .take(100)
                .collect();
            let at_cap = late.iter().filter(|delay| **delay == ms(800)).count();
            assert!(
                at_cap <= 1,
                "{jitter:?}: {at_cap} of 100 sit exactly at the cap"
            );
        }
    }

    #[test]
    fn draws_are_independent_between_calls() {
        let rng = Rng::seeded(1);
        let backoff = Backoff::exponential(ms(100));
        let one: Vec<_> = backoff.delays_with(&rng).take(8).collect();
        let two: Vec<_> = backoff.delays_with(&rng).take(8).collect();
        assert_ne!(one, two);
    }

    #[test]
    fn the_same_seed_gives_the_same_delays() {
        let delays = |seed| {
            let backoff = Backoff::exponential(ms(100));
            backoff
                .delays_with(&Rng::seeded(seed))
                .take(8)
                .collect::<Vec<_>>()
        };
        assert_eq!(delays(3), delays(3));
        assert_ne!(delays(3), delays(4));
    }

    #[test]
    fn exponential_doubles_and_stops_at_its_cap() {
        let backoff = Backoff::exponential(ms(100)).jitter(Jitter::None);
        let delays: Vec<_> = backoff.delays().take(7).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600, 2000, 2000].map(ms));
    }

    #[test]
    fn any_factor_from_one_up_multiplies() {
        let thirds = Backoff::exponential(ms(100))
            .factor(3.0)
            .jitter(Jitter::None);
        let delays: Vec<_> = thirds.delays().take(4).collect();
        assert_eq!(delays, [100, 300, 900, 2000].map(ms));
        let flat = Backoff::exponential(ms(100))
            .factor(1.0)
            .jitter(Jitter::None);
        assert!(flat.delays().take(99).all(|delay| delay == ms(100)));
    }

    #[test]
    fn fibonacci_adds_the_last_two() {
        let backoff = Backoff::fibonacci(ms(100)).jitter(Jitter::None);
        let delays: Vec<_> = backoff.delays().take(8).collect();
        assert_eq!(delays, [100, 100, 200, 300, 500, 800, 1300, 2000].map(ms));
    }

    #[test]
    fn doubling_is_a_multiplication_that_saturates() {
        for first in [
            0,
            1,
            2,
            3,
            1 << 31,
            (1 << 31) + 1,
            1 << 62,
            1 << 63,
            u64::MAX,
        ] {
            for step in (0..130).chain([1023, 1024, 1025, u32::MAX]) {
                let factor = 1_u128.checked_shl(step).unwrap_or(u128::MAX);
                let product = u128::from(first).saturating_mul(factor);
                let expected = u64::try_from(product).unwrap_or(u64::MAX);
                assert_eq!(exponential(first, 2.0, step), expected, "{first} {step}");
            }
        }
    }

    #[test]
    fn decorrelated_delays_grow_by_the_last_one() {
        let backoff = Backoff::exponential(ms(1)).jitter(Jitter::Decorrelated);
        let delays = backoff.delays_with(&Rng::seeded(5)).take(100);
        let longest = delays.max().expect("there are some");
        // From the first delay alone they would never be longer than three of it.
        assert!(longest > ms(100), "{longest:?}");
    }

    #[test]
    fn a_first_delay_above_the_default_cap_raises_it() {
        let backoff = Backoff::constant(Duration::from_secs(7));
        assert_eq!(backoff.delays().next(), Some(Duration::from_secs(7)));
    }

    #[test]
    fn a_cap_below_the_first_delay_is_refused_by_name() {
        let backoff = Backoff::exponential(ms(100));
        assert!(backoff.clone().max_delay(ms(100)).check().is_ok());
        let error = backoff.max_delay(ms(99)).check().unwrap_err();
        assert_eq!(error.field(), "backoff.max_delay");
    }

    #[test]
    fn a_factor_below_one_is_refused_by_name() {
        for factor in [0.999, 0.0, -1.0, f64::NAN, f64::INFINITY] {
            let error = Backoff::exponential(ms(1))
                .factor(factor)
                .check()
                .unwrap_err();
            assert_eq!(error.field(), "backoff.factor");
        }
        assert!(Backoff::exponential(ms(1)).factor(1.0).check().is_ok());
    }
}
