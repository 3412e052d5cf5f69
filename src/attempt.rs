//! What an operation is told about the attempt it makes.

use std::time::{Duration, Instant};

use crate::endpoints;
use crate::verdict::Verdict;

/// One run of the operation, as the operation sees it.
///
/// Without a deadline the clock is not read before the first attempt, which is what keeps a call
/// that succeeds at once cheap.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    pub(crate) number: u32,
    /// With what others made before.
    pub(crate) total: u32,
    /// And when the attempt began.
    pub(crate) deadline: Option<(Instant, Instant)>,
    pub(crate) history: History,
    pub(crate) endpoint: Option<endpoints::Id>,
}

/// What was before an attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct History {
    pub(crate) elapsed: Duration,
    pub(crate) delay: Duration,
    pub(crate) previous: Option<Verdict>,
}

impl History {
    pub(crate) const NONE: Self = Self {
        elapsed: Duration::ZERO,
        delay: Duration::ZERO,
        previous: None,
    };
}

impl Attempt {
    /// The first of a call, at no endpoint.
    #[inline]
    pub(crate) const fn first(earlier: u32, deadline: Option<(Instant, Instant)>) -> Self {
        Self {
            number: 1,
            total: earlier.saturating_add(1),
            deadline,
            history: History::NONE,
            endpoint: None,
        }
    }

    /// The attempt's number: 1 is the first.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// Its number, and with it the attempts that others made on this call's behalf before: its
    /// [caller's](crate::http::CallerAttempt) and proxies'. The same as [`number`](Self::number) where
    /// none are known.
    #[must_use]
    pub const fn total(&self) -> u32 {
        self.total
    }

    /// Whether this is attempt 2 or later.
    #[must_use]
    pub const fn is_retry(&self) -> bool {
        self.number > 1
    }

    /// How long the call had been running when this attempt began. Zero for the first.
    #[must_use]
    pub const fn elapsed(&self) -> Duration {
        self.history.elapsed
    }

    /// When the whole call has to be over, if it has to.
    #[must_use]
    pub const fn deadline(&self) -> Option<Instant> {
        match self.deadline {
            Some((end, _)) => Some(end),
            None => None,
        }
    }

    /// What was left to the deadline when this attempt began. `None` without a deadline.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        let (end, began) = self.deadline?;
        Some(end.saturating_duration_since(began))
    }

    /// The wait before this attempt. Zero for the first.
    #[must_use]
    pub const fn delay(&self) -> Duration {
        self.history.delay
    }

    /// What became of the attempt before. `None` for the first.
    #[must_use]
    pub const fn previous(&self) -> Option<Verdict> {
        self.history.previous
    }

    /// Which endpoint was chosen for it. `None` without [`endpoints`].
    #[must_use]
    pub const fn endpoint(&self) -> Option<endpoints::Id> {
        self.endpoint
    }
}
