//! How a random draw bends a delay. Pure.
//!
//! The definitions are those of Marc Brooker's "Exponential Backoff And Jitter" (AWS Architecture
//! Blog, 2015).

use crate::rng::Draws;

/// How chance bends a delay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Jitter {
    /// Uniform from half the delay to one and a half times as long, and never above the cap: near it
    /// the draw is uniform up to the cap.
    Around,
    /// Uniform between the first delay and three times the delay before, and never above the
    /// cap. Where three times the delay before is above the cap the draw is uniform up to the
    /// cap: the published form cuts it off there, which puts most delays exactly on the cap.
    Decorrelated,
    /// Half the delay, and a uniform share of the other half.
    Equal,
    /// Uniform between zero and the delay.
    #[default]
    Full,
    /// The delay itself. A fleet that failed together comes back together.
    None,
}

// All in whole nanoseconds: to make a `Duration` of them takes a division.

pub(super) fn around(delay: u64, cap: u64, draws: &mut Draws) -> u64 {
    let low = delay / 2;
    let high = delay.saturating_add(low).min(cap).max(low);
    low + draws.up_to(high - low)
}

#[inline]
pub(super) fn full(delay: u64, draws: &mut Draws) -> u64 {
    draws.up_to(delay)
}

pub(super) fn equal(delay: u64, draws: &mut Draws) -> u64 {
    let half = delay / 2;
    half + draws.up_to(delay - half)
}

pub(super) fn decorrelated(first: u64, last: Option<u64>, cap: u64, draws: &mut Draws) -> u64 {
    let last = last.unwrap_or(first);
    let high = last.saturating_mul(3).min(cap).max(first);
    first + draws.up_to(high - first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    const N: u32 = 20_000;

    const fn ms(count: u64) -> u64 {
        count * 1_000_000
    }

    /// Least, mean and greatest of many draws, in milliseconds.
    fn spread(mut one: impl FnMut(&mut Draws) -> u64) -> (f64, f64, f64) {
        let mut draws = Rng::seeded(11).draws();
        let (mut low, mut sum, mut high) = (f64::MAX, 0.0, 0.0_f64);
        for _ in 0..N {
            #[allow(clippy::cast_precision_loss)] // all below 53 bits
            let delay = one(&mut draws) as f64 / 1e6;
            (low, sum, high) = (low.min(delay), sum + delay, high.max(delay));
        }
        (low, sum / f64::from(N), high)
    }

    fn near(got: f64, wanted: f64) -> bool {
        (got - wanted).abs() < 10.0
    }

    #[test]
    fn full_jitter_is_uniform_from_zero_to_the_delay() {
        let (low, mean, high) = spread(|draws| full(ms(1000), draws));
        assert!(near(low, 0.0) && near(mean, 500.0) && near(high, 1000.0));
    }

    #[test]
    fn equal_jitter_keeps_half_and_spreads_the_other() {
        let (low, mean, high) = spread(|draws| equal(ms(1000), draws));
        assert!(low >= 500.0 && near(low, 500.0) && near(mean, 750.0) && near(high, 1000.0));
    }

    #[test]
    fn jitter_around_is_uniform_from_half_to_one_and_a_half_and_up_to_the_cap() {
        let (low, mean, high) = spread(|draws| around(ms(1000), ms(5000), draws));
        assert!(low >= 500.0 && near(low, 500.0) && near(mean, 1000.0) && near(high, 1500.0));
        let (low, mean, high) = spread(|draws| around(ms(1000), ms(1100), draws));
        assert!(near(low, 500.0) && near(mean, 800.0) && high <= 1100.0 && near(high, 1100.0));
    }

    #[test]
    fn decorrelated_jitter_is_uniform_from_the_first_delay_to_thrice_the_last() {
        let one = |draws: &mut Draws| decorrelated(ms(100), Some(ms(300)), ms(2000), draws);
        let (low, mean, high) = spread(one);
        assert!(low >= 100.0 && near(low, 100.0) && near(mean, 500.0) && near(high, 900.0));
        let one = |draws: &mut Draws| decorrelated(ms(100), None, ms(2000), draws);
        let (low, mean, high) = spread(one);
        assert!(near(low, 100.0) && near(mean, 200.0) && near(high, 300.0));
    }

    #[test]
    fn the_greatest_delay_fits() {
        let mut draws = Rng::seeded(1).draws();
        for jitter in [full, equal] {
            let _ = jitter(u64::MAX, &mut draws);
        }
        let _ = around(u64::MAX, u64::MAX, &mut draws);
        let _ = decorrelated(u64::MAX, Some(u64::MAX), u64::MAX, &mut draws);
    }
}
