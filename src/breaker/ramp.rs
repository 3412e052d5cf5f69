//! The way back to full traffic. Pure.

use std::time::Duration;

use crate::backoff::count;
use crate::rng::scale;

/// Grows from a tenth of all calls to all of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ramp {
    begun: u64,
    length: u64,
}

impl Ramp {
    pub(super) fn new(begun: u64, length: Duration) -> Self {
        Self {
            begun,
            length: count(length),
        }
    }

    pub(super) const fn is_over(self, now: u64) -> bool {
        now.saturating_sub(self.begun) >= self.length
    }

    pub(super) const fn left(self, now: u64) -> Duration {
        let passed = now.saturating_sub(self.begun);
        Duration::from_nanos(self.length.saturating_sub(passed))
    }

    /// Whether a call with this draw may go; if not, when it could have: at the moment at which the
    /// share reaches its draw. So those refused come back spread over what is left of the ramp.
    pub(super) fn admit(self, now: u64, draw: u64) -> Result<(), u64> {
        // A tenth goes from the beginning; the moment of the others grows with their draw.
        let tenth = u64::MAX / 10;
        let Some(above) = draw.checked_sub(tenth) else {
            return Ok(());
        };
        let part = scale(above, self.length);
        // `above` goes up to nine tenths only.
        let after = u128::from(part) * 10 / 9;
        let after = u64::try_from(after).unwrap_or(u64::MAX).min(self.length);
        if now.saturating_sub(self.begun) >= after {
            Ok(())
        } else {
            Err(self.begun.saturating_add(after))
        }
    }
}

#[cfg(all(test, not(evenkeel_loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_from_a_tenth_to_all_at_the_very_end() {
        const LENGTH: u64 = 1_000_000_000;
        let ramp = Ramp::new(7, Duration::from_nanos(LENGTH));
        let share = |now: u64| {
            let gone =
                (0..1000_u64).filter(|it| ramp.admit(7 + now, it * (u64::MAX / 1000)).is_ok());
            gone.count()
        };
        assert_eq!(share(0), 101);
        assert!((549..=552).contains(&share(LENGTH / 2)));
        assert_eq!(share(LENGTH), 1000);
        let latest = ramp.admit(7, u64::MAX).unwrap_err();
        assert!((LENGTH - 10..=LENGTH).contains(&(latest - 7)));
        // Refused ones may go when they were told, and not before.
        assert_eq!(ramp.admit(latest, u64::MAX), Ok(()));
        assert_eq!(ramp.admit(latest - 1, u64::MAX), Err(latest));
        assert!(!ramp.is_over(6 + LENGTH) && ramp.is_over(7 + LENGTH));
    }
}
