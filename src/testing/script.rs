//! A scripted operation.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;

use crate::attempt::Attempt;
use crate::clock::{Sleep, Why};
use crate::deadline::later;
use crate::testing::ManualClock;

/// An operation that does what it was told, attempt by attempt. Clones play one script.
///
/// # Examples
///
/// ```
/// use evenkeel::testing::{ManualClock, Script, block_on};
/// use evenkeel::{Pipeline, Retry};
/// use std::time::Duration;
///
/// let clock = ManualClock::new();
/// let script = Script::new(&clock).hang().ok("late").after(Duration::from_millis(300));
/// let pipeline = Pipeline::new()
///     .retry(Retry::constant(Duration::from_secs(1)))
///     .timeout(Duration::from_secs(2))
///     .clock(clock.clock());
///
/// let got = block_on(&clock, pipeline.run(|attempt| script.play(attempt)));
/// assert_eq!(got, Ok::<_, evenkeel::Error<()>>("late"));
/// assert_eq!(script.begun(), [0, 3000].map(Duration::from_millis));
/// ```
pub struct Script<T, E> {
    clock: ManualClock,
    shared: Arc<Mutex<Shared<T, E>>>,
}

struct Shared<T, E> {
    steps: VecDeque<Step<T, E>>,
    begun: Vec<Duration>,
    attempts: Vec<Attempt>,
}

struct Step<T, E> {
    after: Duration,
    /// `None`: never ready.
    result: Option<Result<T, E>>,
}

impl<T, E> Script<T, E> {
    /// An empty script, whose steps are timed by `clock`.
    #[must_use]
    pub fn new(clock: &ManualClock) -> Self {
        let shared = Shared {
            steps: VecDeque::new(),
            begun: Vec::new(),
            attempts: Vec::new(),
        };
        Self {
            clock: clock.clone(),
            shared: Arc::new(Mutex::new(shared)),
        }
    }

    /// The next attempt returns `Ok(value)`.
    #[must_use]
    pub fn ok(self, value: T) -> Self {
        self.step(Some(Ok(value)))
    }

    /// The next attempt returns `Err(error)`.
    #[must_use]
    pub fn err(self, error: E) -> Self {
        self.step(Some(Err(error)))
    }

    /// The next attempt never returns.
    #[must_use]
    pub fn hang(self) -> Self {
        self.step(None)
    }

    /// The step before takes this long. Default: no time at all.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        if let Some(step) = self.shared().steps.back_mut() {
            step.after = delay;
        }
        self
    }

    /// Plays the next step.
    ///
    /// # Panics
    ///
    /// When polled, if the script is over.
    pub fn play(&self, attempt: Attempt) -> Play<T, E> {
        let elapsed = self.clock.elapsed();
        let mut shared = self.shared();
        shared.begun.push(elapsed);
        shared.attempts.push(attempt);
        let step = shared.steps.pop_front();
        drop(shared);
        let delay = step.as_ref().map_or(Duration::ZERO, |step| step.after);
        let end = later(self.clock.now(), delay);
        Play {
            number: attempt.number(),
            delay: (!delay.is_zero()).then(|| self.clock.clock().sleep_until(end, Why::Other)),
            step,
        }
    }

    /// When each attempt began, counted from the making of the clock.
    #[must_use]
    pub fn begun(&self) -> Vec<Duration> {
        self.shared().begun.clone()
    }

    /// What each attempt was told.
    #[must_use]
    pub fn attempts(&self) -> Vec<Attempt> {
        self.shared().attempts.clone()
    }

    fn step(self, result: Option<Result<T, E>>) -> Self {
        let after = Duration::ZERO;
        self.shared().steps.push_back(Step { after, result });
        self
    }

    fn shared(&self) -> MutexGuard<'_, Shared<T, E>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T, E> Clone for Script<T, E> {
    fn clone(&self) -> Self {
        Self {
            clock: self.clock.clone(),
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<T, E> fmt::Debug for Script<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = self.shared();
        f.debug_struct("Script")
            .field("steps_left", &shared.steps.len())
            .field("begun", &shared.begun)
            .finish_non_exhaustive()
    }
}

pin_project! {
    /// One attempt of a [`Script`].
    #[must_use = "futures do nothing unless you .await or poll them"]
    pub struct Play<T, E> {
        number: u32,
        #[pin]
        delay: Option<Sleep>,
        step: Option<Step<T, E>>,
    }
}

impl<T, E> Future for Play<T, E> {
    type Output = Result<T, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T, E>> {
        let mut this = self.project();
        if let Some(delay) = this.delay.as_mut().as_pin_mut() {
            ready!(delay.poll(cx));
            this.delay.set(None);
        }
        let step = this.step.as_mut();
        let step = step.unwrap_or_else(|| panic!("no step for attempt {}", this.number));
        if step.result.is_none() {
            return Poll::Pending;
        }
        Poll::Ready(step.result.take().expect("checked above"))
    }
}

impl<T, E> fmt::Debug for Play<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Play")
            .field("attempt", &self.number)
            .finish_non_exhaustive()
    }
}
