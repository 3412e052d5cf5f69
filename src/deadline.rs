//! The end that all attempts of one call share, and the arithmetic of what is left. Pure.

use std::time::{Duration, Instant};

/// The end of a call.
///
/// Put one into an HTTP request's `extensions`, or give it to
/// [`Run::until`](crate::pipeline::Run::until), and it replaces the pipeline's own
/// [`deadline`](crate::Pipeline::deadline) for that call.
///
/// # Examples
///
/// ```
/// use evenkeel::Deadline;
/// use std::time::{Duration, Instant};
///
/// let now = Instant::now();
/// let deadline = Deadline::after(now, Duration::from_secs(5));
/// assert_eq!(deadline.left(now + Duration::from_secs(2)), Duration::from_secs(3));
/// assert_eq!(deadline.left(now + Duration::from_secs(9)), Duration::ZERO);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deadline(Instant);

impl Deadline {
    /// The call has to be over at this moment of the pipeline's clock.
    #[must_use]
    pub const fn at(end: Instant) -> Self {
        Self(end)
    }

    /// The call has to be over this long after `now`. More than the clock can count to becomes
    /// thirty years.
    #[inline]
    #[must_use]
    pub fn after(now: Instant, length: Duration) -> Self {
        Self(later(now, length))
    }

    /// The moment itself.
    #[must_use]
    pub const fn instant(self) -> Instant {
        self.0
    }

    /// Whether nothing is left of it.
    #[inline]
    pub(crate) fn is_over(self, now: Instant) -> bool {
        self.0 <= now
    }

    /// What is left of it; zero at the deadline and past it.
    #[must_use]
    pub fn left(self, now: Instant) -> Duration {
        self.0.saturating_duration_since(now)
    }
}

/// `now` and `length` added, up to what a clock can count to.
#[inline]
pub(crate) fn later(now: Instant, length: Duration) -> Instant {
    now.checked_add(length)
        .or_else(|| now.checked_add(FAR))
        .unwrap_or(now)
}

/// Long enough to be never, short enough for every clock and timer.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_length_overflows() {
        let now = Instant::now();
        assert!(Deadline::after(now, Duration::MAX).left(now) >= FAR);
        assert_eq!(
            Deadline::after(now, Duration::ZERO).left(now),
            Duration::ZERO
        );
    }
}
