//! Time: the only place that reads a clock or sleeps.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use pin_project_lite::pin_project;

/// A cheap-to-clone source of time: the moment, the wall clock and sleep, all from one source.
///
/// The default follows tokio, and so `tokio::time::pause`. `evenkeel::testing::ManualClock` needs
/// no runtime at all, and another runtime plugs in through [`Runtime`].
#[derive(Clone, Default)]
pub struct Clock {
    custom: Option<Arc<dyn Runtime>>,
}

impl Clock {
    /// Tokio's time. The default.
    ///
    /// # Panics
    ///
    /// Sleeping panics outside a tokio runtime with its timer enabled.
    #[must_use]
    pub const fn tokio() -> Self {
        Self { custom: None }
    }

    /// Another runtime's time.
    #[must_use]
    pub fn custom(runtime: impl Runtime + 'static) -> Self {
        Self {
            custom: Some(Arc::new(runtime)),
        }
    }

    /// This moment, on the monotonic clock.
    #[inline]
    #[must_use]
    pub fn now(&self) -> Instant {
        match &self.custom {
            Some(runtime) => runtime.now(),
            None => tokio::time::Instant::now().into_std(),
        }
    }

    /// This moment, on the wall clock. Only for dates that come from outside.
    #[must_use]
    pub fn wall(&self) -> SystemTime {
        if let Some(runtime) = &self.custom {
            return runtime.wall();
        }
        // Where tokio's time is paused it runs apart from the system's, so the wall clock is
        // moved by as much.
        let system = Instant::now();
        let wall = SystemTime::now();
        let tokio = self.now();
        let moved = match tokio.checked_duration_since(system) {
            Some(ahead) => wall.checked_add(ahead),
            None => wall.checked_sub(system.saturating_duration_since(tokio)),
        };
        moved.unwrap_or(wall)
    }

    /// Sleeps until `at`. Ready at once if that has passed.
    ///
    /// # Panics
    ///
    /// With tokio's time, outside a tokio runtime with its timer enabled.
    ///
    /// # Cancel safety
    ///
    /// Dropping it cancels the timer.
    #[inline]
    pub fn sleep_until(&self, at: Instant, why: Why) -> Sleep {
        let timer = match &self.custom {
            Some(runtime) => Timer::Custom {
                sleep: runtime.sleep_until(at, why),
            },
            None => Timer::Tokio {
                sleep: tokio::time::sleep_until(tokio::time::Instant::from_std(at)),
            },
        };
        Sleep { timer }
    }

    /// Makes a timer where it is to lie: it is large, and waits for each move.
    #[inline]
    pub(crate) fn set_timer(&self, mut timer: Pin<&mut Option<Sleep>>, at: Instant, why: Why) {
        match &self.custom {
            Some(_) => timer.set(Some(self.sleep_until(at, why))),
            None => timer.set(Some(Sleep {
                timer: Timer::Tokio {
                    sleep: tokio::time::sleep_until(tokio::time::Instant::from_std(at)),
                },
            })),
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.custom {
            Some(_) => f.write_str("Clock(custom)"),
            None => f.write_str("Clock(tokio)"),
        }
    }
}

/// What a runtime has to offer to be a [`Clock`].
pub trait Runtime: Send + Sync {
    /// This moment, on the monotonic clock.
    fn now(&self) -> Instant;

    /// This moment, on the wall clock.
    fn wall(&self) -> SystemTime;

    /// A future that is ready at `at` and not before, by [`now`](Self::now).
    fn sleep_until(&self, at: Instant, why: Why) -> BoxSleep;
}

/// A runtime's sleep.
pub type BoxSleep = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// What a sleep is for. Clocks may ignore it; a manual clock lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Why {
    /// The time limit of one attempt.
    AttemptTimeout,
    /// The client's own delay before the next attempt.
    Backoff,
    /// The time until an open breaker lets a retry try.
    Breaker,
    /// The time of the next look at whether an active [`check`](crate::check) is needed.
    Check,
    /// The end of the whole call.
    Deadline,
    /// The time given to read the rest of a rejected response.
    Drain,
    /// A delay of an attempt that was [injected](crate::chaos).
    Injected,
    /// Somebody's own sleep, not a policy's.
    Other,
    /// The turn of an attempt that waits in line for a window, a limit or a rate.
    Parked,
    /// The server asked for this delay before the next attempt.
    ServerHint,
}

impl Why {
    /// Whether this is a wait before an attempt, not a limit on something that runs.
    #[must_use]
    pub const fn is_wait(self) -> bool {
        matches!(
            self,
            Self::Backoff | Self::Breaker | Self::Parked | Self::ServerHint
        )
    }
}

pin_project! {
    /// A sleep; see [`Clock::sleep_until`].
    #[must_use = "futures do nothing unless you .await or poll them"]
    pub struct Sleep {
        #[pin]
        timer: Timer,
    }
}

pin_project! {
    #[project = TimerProjection]
    enum Timer {
        Custom { sleep: BoxSleep },
        Tokio { #[pin] sleep: tokio::time::Sleep },
    }
}

impl Future for Sleep {
    type Output = ();

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.project().timer.project() {
            TimerProjection::Custom { sleep } => sleep.as_mut().poll(cx),
            TimerProjection::Tokio { sleep } => sleep.poll(cx),
        }
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").finish_non_exhaustive()
    }
}

/// How far `at` lies ahead on the wall clock; zero if it has passed.
pub(crate) fn until(at: SystemTime, wall: SystemTime) -> Duration {
    at.duration_since(wall).unwrap_or(Duration::ZERO)
}
