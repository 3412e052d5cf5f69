//! What is injected when. Pure.

use std::ops::Range;
use std::time::Duration;

use super::fault::Fault;
use crate::budget::Ratio;
use crate::error::ConfigError;
use crate::rng::{Draws, scale};

/// A delay, a fault, or a fault after a delay.
///
/// Made of a [`Fault`] by `into()`, so that a fault alone will do where an effect is wanted.
///
/// # Examples
///
/// ```
/// use evenkeel::chaos::{Effect, Fault};
/// use std::time::Duration;
///
/// // Takes 50 to 80 ms longer than it would.
/// let slow = Effect::delay_between(Duration::from_millis(50), Duration::from_millis(80));
/// // Breaks off after 50 to 80 ms.
/// let broken = slow.then(Fault::Reset);
/// # let _ = broken;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an effect does nothing until it is given to a `Chaos`"]
pub struct Effect {
    least: Duration,
    most: Duration,
    fault: Option<Fault>,
}

impl Effect {
    /// None: in a script, an attempt that is left alone.
    pub const fn none() -> Self {
        Self::delay(Duration::ZERO)
    }

    /// The attempt begins so much later. Zero is no delay. It runs within the attempt's timeout and
    /// the deadline.
    pub const fn delay(length: Duration) -> Self {
        Self::delay_between(length, length)
    }

    /// A delay drawn uniformly between two bounds, both inclusive. The least must not be more than the
    /// most.
    pub const fn delay_between(least: Duration, most: Duration) -> Self {
        Self {
            least,
            most,
            fault: None,
        }
    }

    /// What becomes of the attempt after the delay. Default: it is made.
    pub const fn then(mut self, fault: Fault) -> Self {
        self.fault = Some(fault);
        self
    }

    /// `draw`: 64 uniform bits.
    pub(super) fn draw(&self, draw: u64) -> Injection {
        let span = self.most.saturating_sub(self.least);
        let span = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let more = Duration::from_nanos(scale(draw, span));
        Injection {
            delay: self.least.saturating_add(more),
            fault: self.fault,
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.least > self.most {
            let problem = "must not have a least above its most";
            return Err(ConfigError::new("chaos.delay", problem));
        }
        self.fault.map_or(Ok(()), |fault| fault.check())
    }
}

impl From<Fault> for Effect {
    fn from(fault: Fault) -> Self {
        Self::none().then(fault)
    }
}

/// What one attempt gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Injection {
    /// Before the attempt begins, or the fault comes. Zero: none.
    pub delay: Duration,
    /// What becomes of the attempt. `None`: it is made.
    pub fault: Option<Fault>,
}

impl Injection {
    /// Whether the attempt is left alone.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.delay.is_zero() && self.fault.is_none()
    }
}

/// An effect, and which attempts it strikes.
///
/// # Examples
///
/// ```
/// use evenkeel::chaos::{Chaos, Fault, Rule};
/// use evenkeel::budget::Ratio;
/// use std::time::Duration;
///
/// // Half of all first attempts, from the tenth second to the twentieth.
/// let outage = Rule::new(Fault::Connect)
///     .share(Ratio::percent(50))
///     .up_to_attempt(1)
///     .during(Duration::from_secs(10)..Duration::from_secs(20));
/// assert_eq!(Chaos::new().rule(outage).check(), Ok(()));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a rule does nothing until it is given to a `Chaos`"]
pub struct Rule {
    effect: Effect,
    share: u64,
    last_attempt: u32,
    during: Option<Range<Duration>>,
}

impl Rule {
    /// Strikes every attempt.
    pub fn new(effect: impl Into<Effect>) -> Self {
        Self {
            effect: effect.into(),
            share: WHOLE,
            last_attempt: u32::MAX,
            during: None,
        }
    }

    /// Strikes each attempt with this probability, exact to a millionth: at 0 none, at 100 % every
    /// one. At most 1. Default: 1.
    pub const fn share(mut self, share: Ratio) -> Self {
        self.share = share.in_millionths();
        self
    }

    /// Strikes a call's attempts up to this number only, inclusive: with 1, first attempts. Zero is
    /// none. Default: all.
    pub const fn up_to_attempt(mut self, number: u32) -> Self {
        self.last_attempt = number;
        self
    }

    /// Strikes within this stretch only, counted from when the `Chaos` was switched on: its start
    /// inclusive, its end not. The start must be before the end. Default: always.
    pub const fn during(mut self, stretch: Range<Duration>) -> Self {
        self.during = Some(stretch);
        self
    }

    /// Always takes two draws, so that one rule's settings don't shift another's chance. `elapsed`:
    /// since it was switched on.
    pub(super) fn strike(&self, attempt: u32, elapsed: Duration, draws: &mut Draws) -> Injection {
        let (odds, delay) = (draws.next_u64(), draws.next_u64());
        let strikes = attempt <= self.last_attempt
            && self.during.as_ref().is_none_or(|it| it.contains(&elapsed))
            && scale(odds, WHOLE - 1) < self.share;
        if strikes {
            self.effect.draw(delay)
        } else {
            Injection::default()
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.share > WHOLE {
            return Err(ConfigError::new("chaos.share", "must be at most 1"));
        }
        if self.during.as_ref().is_some_and(Range::is_empty) {
            let problem = "must start before it ends";
            return Err(ConfigError::new("chaos.during", problem));
        }
        self.effect.check()
    }
}

/// A [`Ratio`] counts in millionths.
const WHOLE: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rng::Rng;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn strikes(rule: &Rule, attempt: u32, elapsed: Duration) -> bool {
        let mut draws = Rng::seeded(1).draws();
        !rule.strike(attempt, elapsed, &mut draws).is_none()
    }

    #[test]
    fn a_stretch_includes_its_start_and_not_its_end() {
        let rule = Rule::new(Fault::Reset).during(ms(10)..ms(20));
        let at = |nanos| strikes(&rule, 1, Duration::from_nanos(nanos));
        assert!(!at(9_999_999));
        assert!(at(10_000_000));
        assert!(at(19_999_999));
        assert!(!at(20_000_000));
    }

    #[test]
    fn a_rule_for_some_attempts_includes_the_last_of_them() {
        let rule = Rule::new(Fault::Reset).up_to_attempt(2);
        let struck: Vec<_> = (1..=4).filter(|n| strikes(&rule, *n, ms(0))).collect();
        assert_eq!(struck, [1, 2]);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let field = |rule: Rule| rule.check().map_err(|error| error.field());
        let rule = || Rule::new(Fault::Reset);
        assert_eq!(field(rule().share(Ratio::percent(100))), Ok(()));
        let over = rule().share(Ratio::millionths(1_000_001));
        assert_eq!(field(over), Err("chaos.share"));
        assert_eq!(field(rule().during(ms(1)..ms(2))), Ok(()));
        assert_eq!(field(rule().during(ms(2)..ms(2))), Err("chaos.during"));
        let delay = |least, most| Rule::new(Effect::delay_between(ms(least), ms(most)));
        assert_eq!(field(delay(2, 2)), Ok(()));
        assert_eq!(field(delay(3, 2)), Err("chaos.delay"));
    }

    #[test]
    fn odds_are_what_they_say_over_many_attempts() {
        // Each attempt has a stream of its own, so it is their first draws that must be even.
        for (seed, percent) in [(0, 1), (1, 20), (u64::MAX, 50), (7, 99)] {
            let (rng, rule) = (Rng::seeded(seed), Rule::new(Fault::Reset));
            let rule = rule.share(Ratio::percent(percent));
            let struck = (0..100_000)
                .filter(|_| {
                    let got = rule.strike(1, Duration::ZERO, &mut rng.draws());
                    !got.is_none()
                })
                .count();
            let (n, p) = (100_000_f64, f64::from(percent) / 100.0);
            let off = (f64::from(u32::try_from(struck).expect("few")) - n * p).abs();
            assert!(
                off < 4.0 * (n * p * (1.0 - p)).sqrt(),
                "{percent}: {struck}"
            );
        }
    }

    proptest! {
        #[test]
        fn odds_of_0_and_100_percent_are_exact(seed: u64) {
            let mut draws = Rng::seeded(seed).draws();
            for (percent, all) in [(0, false), (100, true)] {
                let rule = Rule::new(Fault::Reset).share(Ratio::percent(percent));
                for _ in 0..200 {
                    let struck = rule.strike(1, Duration::ZERO, &mut draws);
                    prop_assert_eq!(!struck.is_none(), all);
                }
            }
            // The draws that no luck makes.
            prop_assert!(scale(u64::MAX, WHOLE - 1) < WHOLE);
            prop_assert_eq!(scale(0, WHOLE - 1), 0);
        }

        #[test]
        fn a_delay_is_within_its_bounds_whatever_is_drawn(a: u64, b: u64, draw: u64) {
            let (least, most) = (a.min(b), a.max(b));
            let (least, most) = (Duration::from_nanos(least), Duration::from_nanos(most));
            let effect = Effect::delay_between(least, most);
            let drawn = effect.draw(draw).delay;
            prop_assert!((least..=most).contains(&drawn));
            prop_assert_eq!(effect.draw(0).delay, least);
            prop_assert_eq!(effect.draw(u64::MAX).delay, most);
            let far = Effect::delay_between(least, Duration::MAX).draw(draw).delay;
            prop_assert!(far >= least);
            prop_assert_eq!(Effect::delay(Duration::MAX).draw(draw).delay, Duration::MAX);
        }
    }
}
