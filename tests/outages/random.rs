//! `SplitMix64`: one stream of draws per purpose, so that all policies meet the same world.

/// What a stream is for.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    Arrivals = 1,
    Service = 2,
    Policy = 3,
    Balancer = 4,
}

pub(crate) struct Stream(u64);

impl Stream {
    pub(crate) fn new(seed: u64, purpose: Purpose, index: usize) -> Self {
        let purpose = mix(seed) ^ (purpose as u64).wrapping_mul(GOLDEN);
        Self(mix(mix(purpose) ^ (index as u64 + 1).wrapping_mul(GOLDEN)))
    }

    pub(crate) fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// Uniform in `[0, 1)`.
    #[allow(clippy::cast_precision_loss)] // 53 bits fit
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Mean 1.
    pub(crate) fn exponential(&mut self) -> f64 {
        -(1.0 - self.uniform()).ln()
    }

    /// Erlang-2, mean 1.
    pub(crate) fn erlang(&mut self) -> f64 {
        let (a, b) = (self.uniform(), self.uniform());
        -((1.0 - a) * (1.0 - b)).ln() / 2.0
    }

    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
    #[allow(clippy::cast_sign_loss)]
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.uniform() * n as f64) as usize
    }
}

/// `SplitMix64`'s finaliser.
pub(crate) const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Microseconds; what is behind the point is cut off.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(crate) fn micros(length: f64) -> u64 {
    length as u64
}

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
