//! Chance: the only place that draws random numbers.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng};

/// A cheap-to-clone source of randomness.
///
/// By default each thread draws from its own generator, seeded by the operating system. A seeded
/// source gives every call its own stream, so that what one call draws does not depend on how
/// others interleave with it: same seed and same order of calls, same draws.
///
/// It serves jitter, not cryptography.
///
/// # Examples
///
/// ```
/// use evenkeel::Rng;
///
/// let (a, b) = (Rng::seeded(7), Rng::seeded(7));
/// assert_eq!(a.draws().next_u64(), b.draws().next_u64());
/// assert_ne!(a.draws().next_u64(), Rng::seeded(7).draws().next_u64()); // a's second stream
/// ```
#[derive(Clone, Debug, Default)]
pub struct Rng {
    seeded: Option<Arc<Seeded>>,
}

#[derive(Debug)]
struct Seeded {
    seed: u64,
    streams: AtomicU64,
}

impl Rng {
    /// Thread-local generators seeded by the operating system. The default.
    #[must_use]
    pub const fn thread_local() -> Self {
        Self { seeded: None }
    }

    /// The same draws for the same seed. Clones share the sequence of streams.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        let streams = AtomicU64::new(0);
        Self {
            seeded: Some(Arc::new(Seeded { seed, streams })),
        }
    }

    /// Whether [`draws`](Self::draws) are others than [`Draws::THREAD`].
    pub(crate) const fn is_seeded(&self) -> bool {
        self.seeded.is_some()
    }

    /// The draws of one call.
    #[must_use]
    pub fn draws(&self) -> Draws {
        let Some(seeded) = &self.seeded else {
            return Draws::THREAD;
        };
        let stream = seeded.streams.fetch_add(1, Ordering::Relaxed);
        // `seed_from_u64` mixes its argument; the odd factor, another than its own, keeps neighbours'
        // streams apart.
        let seed = seeded.seed ^ stream.wrapping_mul(0xD1B5_4A32_D192_ED03);
        Draws {
            stream: Some(SmallRng::seed_from_u64(seed)),
        }
    }
}

/// A stream of random draws; see [`Rng::draws`].
#[derive(Clone, Debug)]
pub struct Draws {
    stream: Option<SmallRng>,
}

impl Draws {
    /// From the thread's own generator.
    pub(crate) const THREAD: Self = Self { stream: None };

    /// 64 uniform bits.
    #[inline]
    #[must_use]
    pub fn next_u64(&mut self) -> u64 {
        match &mut self.stream {
            Some(stream) => stream.next_u64(),
            None => THREAD.with_borrow_mut(rand::Rng::next_u64),
        }
    }

    /// A uniform integer in `0..=max`. Off by less than one part in 2^64 / `max` from exact
    /// uniformity, which no jitter can notice.
    #[inline]
    #[must_use]
    pub fn up_to(&mut self, max: u64) -> u64 {
        scale(self.next_u64(), max)
    }
}

/// Maps a uniform `draw` onto `0..=max`.
#[allow(clippy::cast_possible_truncation)] // the high half of the product fits
pub(crate) const fn scale(draw: u64, max: u64) -> u64 {
    ((draw as u128 * (max as u128 + 1)) >> 64) as u64
}

thread_local! {
    static THREAD: RefCell<SmallRng> = RefCell::new(rand::make_rng());
}
