//! Why a guarded call gave no value.

use std::fmt;
use std::time::{Duration, Instant};

use crate::chaos::Injected;
use crate::report::{Report, Stop};
use crate::verdict::Processed;

/// Why a guarded call gave no value: the operation's own error, whole, or the policy that spoke.
///
/// # Examples
///
/// ```
/// use evenkeel::{Cause, Pipeline, Retry};
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let pipeline = Pipeline::new().retry(Retry::constant(Duration::ZERO).max_attempts(2));
/// let error = pipeline.run(|_| async { Err::<(), _>("busy") }).await.unwrap_err();
/// assert_eq!(error.attempts(), 2);
/// assert!(matches!(error.into_cause(), Cause::Operation("busy")));
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Error<E> {
    // One word, so that the results of calls that succeed are small.
    inner: Box<Inner<E>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Inner<E> {
    cause: Cause<E>,
    report: Report,
}

impl<E> Error<E> {
    pub(crate) fn new(cause: Cause<E>, report: Report) -> Self {
        let inner = Box::new(Inner { cause, report });
        Self { inner }
    }

    /// What ended the call.
    #[must_use]
    pub const fn cause(&self) -> &Cause<E> {
        &self.inner.cause
    }

    /// What ended the call, by value: match on it to get the operation's own error back.
    #[must_use]
    pub fn into_cause(self) -> Cause<E> {
        self.inner.cause
    }

    /// The operation's own error, unchanged, if that is what ended the call.
    #[must_use]
    pub const fn operation(&self) -> Option<&E> {
        match &self.inner.cause {
            Cause::Operation(error) => Some(error),
            _ => None,
        }
    }

    /// The operation's own error, unchanged.
    ///
    /// # Errors
    ///
    /// This very error, if a policy ended the call.
    pub fn into_operation(self) -> Result<E, Self> {
        if self.operation().is_none() {
            return Err(self);
        }
        match self.inner.cause {
            Cause::Operation(error) => Ok(error),
            _ => unreachable!("it has just been looked at"),
        }
    }

    /// Whether time ran out: one attempt's or the whole call's.
    #[must_use]
    pub const fn is_timeout(&self) -> bool {
        matches!(self.inner.cause, Cause::Elapsed(_))
    }

    /// How many attempts were begun.
    #[must_use]
    pub const fn attempts(&self) -> u32 {
        self.inner.report.attempts
    }

    /// From the beginning of the call to its end.
    #[must_use]
    pub const fn elapsed(&self) -> Duration {
        self.inner.report.elapsed
    }

    /// The earliest moment at which trying again makes sense, if that is known.
    #[must_use]
    pub const fn retry_at(&self) -> Option<Instant> {
        self.inner.report.retry_at
    }

    /// The same, counted from the end of the call.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.inner.report.retry_after
    }

    /// Attempts, waits and the reason for stopping.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.inner.report
    }

    /// Applies `f` to the operation's own error.
    #[must_use]
    pub fn map<F>(self, f: impl FnOnce(E) -> F) -> Error<F> {
        let Inner { cause, report } = *self.inner;
        let cause = match cause {
            Cause::Config(error) => Cause::Config(error),
            Cause::Elapsed(elapsed) => Cause::Elapsed(elapsed),
            Cause::Injected(injected) => Cause::Injected(injected),
            Cause::Operation(error) => Cause::Operation(f(error)),
            Cause::Rejected(rejected) => Cause::Rejected(rejected),
        };
        Error::new(cause, report)
    }

    /// Whether the attempts before the one whose error this is may have been processed.
    pub(crate) fn processed_earlier(&self) -> Processed {
        let failures = self.inner.report.failures();
        if self.attempts() as usize > failures.len() {
            // The report keeps the latest ones only, and none of an attempt that was cut off.
            return Processed::Maybe;
        }
        let earlier = match &self.inner.cause {
            // Its own error says more of it than the verdict of a classifier that may not know it.
            Cause::Operation(_) => &failures[..failures.len().saturating_sub(1)],
            _ => failures,
        };
        let processed = earlier.iter().map(|it| it.verdict.was_processed());
        processed.max().unwrap_or(Processed::No)
    }
}

impl Error<Box<dyn std::error::Error + Send + Sync>> {
    /// Boxes the error of a service whose own errors are boxed already, such as tower's `Buffer`
    /// and `LoadShed`.
    ///
    /// A `Box<dyn Error>` is no `Error` itself, and so neither is an `Error` of one: without this
    /// it goes neither through `?` nor through a layer above that boxes. The box holds an
    /// `Error<Boxed>`, which can be had back by `downcast_ref`.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "tower")] {
    /// use evenkeel::error::Boxed;
    /// use evenkeel::{Error, Pipeline, Retry};
    /// use std::time::Duration;
    /// use tower::{ServiceBuilder, ServiceExt, service_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let busy = service_fn(|()| async { Err::<(), _>(std::io::Error::other("busy")) });
    /// let service = ServiceBuilder::new()
    ///     .buffer(8)
    ///     .map_err(Error::boxed)
    ///     .layer(Pipeline::new().retry(Retry::constant(Duration::ZERO)))
    ///     .load_shed()
    ///     .service(busy);
    /// let error = service.oneshot(()).await.unwrap_err();
    /// let error = error.downcast_ref::<Error<Boxed>>().unwrap();
    /// assert_eq!(error.attempts(), 3);
    /// assert!(error.operation().unwrap().get_ref().is::<std::io::Error>());
    /// # } main(); }
    /// ```
    #[must_use]
    pub fn boxed(self) -> Box<dyn std::error::Error + Send + Sync> {
        self.map(Boxed).into()
    }
}

impl<E> Error<Error<E>> {
    /// One error out of two nested pipelines'.
    ///
    /// If the inner pipeline ended the call, its cause is kept, and its `retry_at` where the
    /// outer one has none. Attempts, waits and elapsed time are the outer pipeline's.
    #[must_use]
    pub fn flatten(self) -> Error<E> {
        let Inner { cause, mut report } = *self.inner;
        let cause = match cause {
            Cause::Config(error) => Cause::Config(error),
            Cause::Elapsed(elapsed) => Cause::Elapsed(elapsed),
            Cause::Injected(injected) => Cause::Injected(injected),
            Cause::Operation(inner) => {
                let inner = *inner.inner;
                report.retry_at = report.retry_at.or(inner.report.retry_at);
                report.retry_after = report.retry_after.or(inner.report.retry_after);
                inner.cause
            }
            Cause::Rejected(rejected) => Cause::Rejected(rejected),
        };
        Error::new(cause, report)
    }
}

impl<E> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.inner.cause {
            Cause::Config(error) => return error.fmt(f),
            Cause::Elapsed(elapsed) => elapsed.fmt(f)?,
            Cause::Injected(injected) => injected.fmt(f)?,
            Cause::Operation(_) => f.write_str("operation failed")?,
            Cause::Rejected(rejected) => rejected.fmt(f)?,
        }
        let count = self.attempts();
        if count == 0 && self.elapsed().is_zero() {
            return Ok(());
        }
        let attempts = if count == 1 { "attempt" } else { "attempts" };
        write!(f, " ({count} {attempts} in {:.1?}", self.elapsed())?;
        if let Some(stop) = self.inner.report.stop {
            // What is obvious from the count needs no words.
            if stop != Stop::AttemptsExhausted && stop != Stop::NoRetryPolicy {
                write!(f, ", {stop}")?;
            }
        }
        f.write_str(")")
    }
}

impl<E: std::error::Error + 'static> std::error::Error for Error<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.inner.cause {
            Cause::Config(error) => Some(error),
            Cause::Elapsed(elapsed) => Some(elapsed),
            Cause::Injected(injected) => Some(injected),
            Cause::Operation(error) => Some(error),
            Cause::Rejected(rejected) => Some(rejected),
        }
    }
}

/// An error of any type, as tower's own layers give it.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A boxed error that is an error itself; see [`Error::boxed`].
///
/// It speaks as the error it holds, and has that one as its source.
#[derive(Debug)]
pub struct Boxed(BoxError);

impl fmt::Display for Boxed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for Boxed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0)
    }
}

impl Boxed {
    /// The error in the box.
    #[must_use]
    pub fn get_ref(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        &*self.0
    }

    /// The box.
    #[must_use]
    pub fn into_inner(self) -> Box<dyn std::error::Error + Send + Sync> {
        self.0
    }
}

/// What ended a call.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Cause<E> {
    /// The pipeline's configuration makes no sense. Nothing was sent.
    Config(ConfigError),
    /// Time ran out.
    Elapsed(Elapsed),
    /// The last attempt met a fault made to order; see [`chaos`](crate::chaos). Never without one.
    Injected(Injected),
    /// The operation ran, and this is what its last attempt returned.
    Operation(E),
    /// A policy refused to begin the attempt.
    Rejected(Rejected),
}

/// A policy refused the call, and what it refused was never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejected {
    pub(crate) reason: Reason,
    pub(crate) retry_at: Option<Instant>,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rejected: {}", self.reason)
    }
}

impl std::error::Error for Rejected {}

impl Rejected {
    pub(crate) const fn new(reason: Reason, retry_at: Option<Instant>) -> Self {
        Self { reason, retry_at }
    }

    /// The earliest moment at which asking again makes sense, if that is known: exactly for a rate
    /// limit, an open breaker and a quiet that the server asked for, a guess for a line.
    #[must_use]
    pub const fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Why.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        self.reason
    }
}

/// Why a policy refused a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The breaker is open, or half-open with all its probes out.
    BreakerOpen,
    /// The line in front of a limit is full.
    QueueFull,
    /// The turn did not, or will not, come in time.
    QueueTimeout,
    /// The rate limit leaves no room before the deadline.
    RateLimited,
    /// Shed, because the service refuses much of what it is sent.
    Throttled,
    /// The congestion window leaves no room in time for an answer.
    WindowFull,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BreakerOpen => "breaker open",
            Self::QueueFull => "queue full",
            Self::QueueTimeout => "queued for too long",
            Self::RateLimited => "rate limit reached",
            Self::Throttled => "shed by throttling",
            Self::WindowFull => "congestion window full",
        })
    }
}

/// Time ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed {
    limit: Limit,
    length: Duration,
}

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {:?} passed", self.limit, self.length)
    }
}

impl std::error::Error for Elapsed {}

impl Elapsed {
    pub(crate) const fn new(limit: Limit, length: Duration) -> Self {
        Self { limit, length }
    }

    /// Which limit it was.
    #[must_use]
    pub const fn limit(&self) -> Limit {
        self.limit
    }

    /// How long the limit was.
    #[must_use]
    pub const fn length(&self) -> Duration {
        self.length
    }
}

/// A limit in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::exhaustive_enums)] // an attempt and the whole call are all there is
pub enum Limit {
    /// The timeout of one attempt.
    Attempt,
    /// The deadline of the whole call.
    Deadline,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Attempt => "attempt timeout",
            Self::Deadline => "deadline",
        })
    }
}

/// A setting that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigError {
    field: &'static str,
    problem: &'static str,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.field, self.problem)
    }
}

impl std::error::Error for ConfigError {}

impl ConfigError {
    pub(crate) const fn new(field: &'static str, problem: &'static str) -> Self {
        Self { field, problem }
    }

    /// The setting's name, such as `retry.max_attempts`.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        self.field
    }

    /// What is wrong with it, such as `must be at least 1`.
    #[must_use]
    pub const fn problem(&self) -> &'static str {
        self.problem
    }
}
