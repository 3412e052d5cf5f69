//! Chance in the simulated world: `SplitMix64`, one stream of draws per purpose, so that all policies
//! meet the same arrivals and the same hosts. Pure.
//!
//! Logarithms and powers come from `libm`, not from the platform, so that draws are the same to the bit
//! everywhere.

/// What a stream is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    Arrivals = 1,
    Service = 2,
    #[cfg(test)]
    Policy = 3,
    Balancer = 4,
}

#[derive(Clone, Debug)]
pub(super) struct Stream(u64);

impl Stream {
    pub(super) fn new(seed: u64, purpose: Purpose, index: usize) -> Self {
        let purpose = mix(seed) ^ (purpose as u64).wrapping_mul(GOLDEN);
        Self(mix(mix(purpose) ^ (index as u64 + 1).wrapping_mul(GOLDEN)))
    }

    pub(super) const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// Uniform in `[0, 1)`.
    #[allow(clippy::cast_precision_loss)] // 53 bits fit
    pub(super) const fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Mean 1.
    pub(super) fn exponential(&mut self) -> f64 {
        -libm::log(1.0 - self.uniform())
    }

    /// The sum of so many exponential draws, at least one; mean 1.
    pub(super) fn erlang(&mut self, shape: u32) -> f64 {
        let (mut product, mut sum) = (1.0 - self.uniform(), 0.0);
        for _ in 1..shape {
            if product < 1e-200 {
                sum -= libm::log(product);
                product = 1.0;
            }
            product *= 1.0 - self.uniform();
        }
        (sum - libm::log(product)) / f64::from(shape.max(1))
    }

    /// Heavy-tailed, mean 1. `shape` is above 1.
    pub(super) fn pareto(&mut self, shape: f64) -> f64 {
        let least = (shape - 1.0) / shape;
        least * libm::pow(1.0 - self.uniform(), -1.0 / shape)
    }

    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
    #[allow(clippy::cast_sign_loss)]
    pub(super) const fn below(&mut self, n: usize) -> usize {
        (self.uniform() * n as f64) as usize
    }
}

/// `SplitMix64`'s finaliser.
pub(super) const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Microseconds; what is behind the point is cut off.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(super) const fn micros(length: f64) -> u64 {
    length as u64
}

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_distribution_has_the_mean_that_it_says() {
        let mut draws = Stream::new(7, Purpose::Service, 0);
        let mean = |draw: &mut dyn FnMut() -> f64| (0..400_000).map(|_| draw()).sum::<f64>() / 4e5;
        assert!((mean(&mut || draws.exponential()) - 1.0).abs() < 0.01);
        assert!((mean(&mut || draws.erlang(1)) - 1.0).abs() < 0.01);
        assert!((mean(&mut || draws.erlang(2)) - 1.0).abs() < 0.01);
        assert!((mean(&mut || draws.erlang(9)) - 1.0).abs() < 0.01);
        for _ in 0..1000 {
            assert!((0.8..1.2).contains(&draws.erlang(2000)));
        }
        assert!((mean(&mut || draws.pareto(3.0)) - 1.0).abs() < 0.02);
    }

    #[test]
    fn below_gives_each_number_and_nothing_else() {
        let mut draws = Stream::new(7, Purpose::Balancer, 0);
        let mut seen = [0; 5];
        for _ in 0..5000 {
            seen[draws.below(5)] += 1;
        }
        assert!(
            seen.iter().all(|count| (900..1100).contains(count)),
            "{seen:?}"
        );
    }
}
