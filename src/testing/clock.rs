//! A clock that stands still until it is moved.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Bound;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::clock::{BoxSleep, Clock, Runtime, Why};
use crate::deadline::later;

/// A clock that stands still until it is moved. Clones are one clock.
///
/// Its wall clock begins at 2026-01-01 00:00:00 UTC.
///
/// # Examples
///
/// ```
/// use evenkeel::testing::ManualClock;
/// use evenkeel::clock::Why;
/// use std::time::Duration;
///
/// let clock = ManualClock::new();
/// let end = clock.now() + Duration::from_secs(3);
/// let sleep = clock.clock().sleep_until(end, Why::Other);
/// assert_eq!(clock.pending()[0].left, Duration::from_secs(3));
/// assert_eq!(clock.advance_to_next(), Some(Duration::from_secs(3)));
/// assert_eq!(clock.now(), end);
/// # drop(sleep);
/// ```
#[derive(Clone, Debug)]
pub struct ManualClock {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    start: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    elapsed: Duration,
    /// By end, then by age, so that equal ends come in the order in which they were asked for.
    sleeps: BTreeMap<(Duration, u64), Sleeper>,
    slept: u64,
    waits: Vec<Duration>,
}

#[derive(Debug)]
struct Sleeper {
    why: Why,
    waker: Option<Waker>,
}

/// A sleep that hasn't ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pending {
    /// How long it still takes.
    pub left: Duration,
    /// What it is for.
    pub why: Why,
}

impl ManualClock {
    /// A clock that stands still.
    #[must_use]
    pub fn new() -> Self {
        let shared = Shared {
            // Where it starts is of no account, but an `Instant` can't be made from nothing.
            start: Clock::tokio().now(),
            state: Mutex::new(State::default()),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// This clock for a pipeline.
    #[must_use]
    pub fn clock(&self) -> Clock {
        Clock::custom(self.clone())
    }

    /// This moment.
    #[must_use]
    pub fn now(&self) -> Instant {
        later(self.shared.start, self.elapsed())
    }

    /// How far the clock was moved since it was made.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.state().elapsed
    }

    /// Moves the clock on, and wakes whoever slept up to then.
    pub fn advance(&self, by: Duration) {
        let mut state = self.state();
        state.elapsed = state.elapsed.saturating_add(by);
        let now = state.elapsed;
        let due = state.sleeps.range_mut(..=(now, u64::MAX));
        let wakers: Vec<_> = due
            .filter_map(|(_, sleeper)| sleeper.waker.take())
            .collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Moves the clock to the end of the sleep that ends next, and says how far that was. `None`
    /// if nobody sleeps.
    ///
    /// A sleep that is due has ended, even if nobody has looked at it yet.
    #[allow(clippy::must_use_candidate)] // moving it is the point
    pub fn advance_to_next(&self) -> Option<Duration> {
        let state = self.state();
        let later = (Bound::Excluded((state.elapsed, u64::MAX)), Bound::Unbounded);
        let (&(end, _), _) = state.sleeps.range(later).next()?;
        let step = end.saturating_sub(state.elapsed);
        drop(state);
        self.advance(step);
        Some(step)
    }

    /// The sleeps that haven't ended, the first to end first.
    #[must_use]
    pub fn pending(&self) -> Vec<Pending> {
        let state = self.state();
        let sleeps = state.sleeps.iter().map(|(&(end, _), sleeper)| Pending {
            left: end.saturating_sub(state.elapsed),
            why: sleeper.why,
        });
        sleeps.collect()
    }

    /// The lengths of all waits before attempts that were begun so far, in order. Timeouts and
    /// other limits are not waits.
    #[must_use]
    pub fn waits(&self) -> Vec<Duration> {
        self.state().waits.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let state = &self.shared.state;
        state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Runtime for ManualClock {
    fn now(&self) -> Instant {
        self.now()
    }

    fn wall(&self) -> SystemTime {
        let start = UNIX_EPOCH + WALL_START;
        start.checked_add(self.elapsed()).unwrap_or(start)
    }

    fn sleep_until(&self, at: Instant, why: Why) -> BoxSleep {
        let end = at.saturating_duration_since(self.shared.start);
        let mut state = self.state();
        if why.is_wait() {
            let length = end.saturating_sub(state.elapsed);
            state.waits.push(length);
        }
        let key = (end, state.slept);
        state.slept += 1;
        state.sleeps.insert(key, Sleeper { why, waker: None });
        drop(state);
        let clock = self.clone();
        Box::pin(ManualSleep { clock, key })
    }
}

struct ManualSleep {
    clock: ManualClock,
    key: (Duration, u64),
}

impl Future for ManualSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.clock.state();
        if state.elapsed >= self.key.0 {
            state.sleeps.remove(&self.key);
            return Poll::Ready(());
        }
        if let Some(sleeper) = state.sleeps.get_mut(&self.key) {
            sleeper.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for ManualSleep {
    fn drop(&mut self) {
        self.clock.state().sleeps.remove(&self.key);
    }
}

/// 2026-01-01 00:00:00 UTC.
const WALL_START: Duration = Duration::from_secs(1_767_225_600);

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_sleep_ends_at_its_moment_and_not_before() {
        let clock = ManualClock::new();
        let mut sleep = Box::pin(clock.clock().sleep_until(clock.now() + SECOND, Why::Other));
        let mut poll = || sleep.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        clock.advance(Duration::from_nanos(999_999_999));
        assert!(poll().is_pending());
        clock.advance(Duration::from_nanos(1));
        assert!(poll().is_ready());
        assert!(clock.pending().is_empty());
    }

    #[test]
    fn a_dropped_sleep_is_gone() {
        let clock = ManualClock::new();
        drop(clock.clock().sleep_until(clock.now() + SECOND, Why::Other));
        assert_eq!(clock.advance_to_next(), None);
    }

    #[test]
    fn a_sleep_that_is_due_is_not_the_next_for_ever() {
        let clock = ManualClock::new();
        let sleep = |seconds| {
            let end = clock.now() + SECOND * seconds;
            clock.clock().sleep_until(end, Why::Other)
        };
        let sleeps = [sleep(0), sleep(1), sleep(1), sleep(3)];
        assert_eq!(clock.advance_to_next(), Some(SECOND));
        assert_eq!(clock.advance_to_next(), Some(2 * SECOND));
        assert_eq!(clock.advance_to_next(), None);
        drop(sleeps);
    }

    #[test]
    fn only_waits_between_attempts_are_listed_as_waits() {
        let clock = ManualClock::new();
        for why in [Why::Backoff, Why::AttemptTimeout, Why::ServerHint] {
            drop(clock.clock().sleep_until(clock.now() + SECOND, why));
        }
        assert_eq!(clock.waits(), [SECOND, SECOND]);
    }

    #[test]
    fn the_wall_clock_moves_with_it() {
        let clock = ManualClock::new();
        let wall = clock.clock().wall();
        clock.advance(SECOND);
        assert_eq!(clock.clock().wall(), wall + SECOND);
    }
}
