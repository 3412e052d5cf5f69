//! Which policies, in which order.
//!
//! Policies composed in the wrong order do harm quietly: a retry inside a total timeout that each
//! attempt renews, a budget per attempt, a breaker that sees one failure where three happened. A
//! [`Pipeline`] holds each policy at most once and has one fixed order, so there is none to get
//! wrong:
//!
//! ```text
//! total deadline ─▶ retry (backoff, hints, budget) ─▶ per attempt:
//!   throttle ─▶ window ─▶ rate limit ─▶ bulkhead ─▶ readiness ─▶ breaker ─▶ endpoint ─▶ timeout ─▶
//!   (chaos) ─▶ the call
//! ```
//!
//! - The throttle comes first: nothing that will be shed is to wait in a line.
//! - The bulkhead comes after the other lines: what waits for one service doesn't hold permits that
//!   others share.
//! - The rate limit is the last of those that can take time but for readiness: its tokens are for now.
//!   Readiness comes after the lines, so that what waits in them holds no place of the service below.
//! - The breaker is asked when nothing can delay the attempt any more; but nobody joins a line while
//!   it is open.
//! - The endpoint is chosen when the attempt begins: a choice made before a wait is out of date.
//!   All that stands before it is for the service, not for one of its hosts.
//! - Chaos is innermost: all others see its faults as they would see the real ones.
//! - All of them are asked again for each attempt, and told how it ended. Between attempts a call
//!   holds none of their permits.
//!
//! A policy is one for all calls of the pipeline, or a [`Keyed`] one: one for each service. HTTP
//! requests tell their key by themselves ([`Http::key_by`] bends that), closures by [`Call::keyed`],
//! and calls without a key pass by what is kept per key.
//!
//! Whether a service is well again is found out by calls, or by [active checks](crate::check) before them.
//!
//! The settings of a [reloadable](Pipeline::reloadable) pipeline can be exchanged while calls go
//! through it; the state of its policies [stays](Pipeline::reload).
//!
//! Where another order is really wanted, pipelines nest; [`Error::flatten`](crate::Error::flatten)
//! makes one error of two.

mod alone;
mod call;
mod gates;
mod live;
mod operation;
mod protocol;
mod state;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::attempt::Attempt;
use crate::breaker::Breaker;
use crate::budget::{Budget, Ratio};
use crate::chaos::Chaos;
use crate::clock::Clock;
use crate::diagnosis::Health;
use crate::endpoints::Endpoints;
use crate::error::ConfigError;
use crate::event::{Both, Observer};
use crate::gate::Purpose;
use crate::http::Http;
use crate::keyed::{Key, Keyed};
use crate::limit::{Bulkhead, RateLimit};
use crate::retry::Retry;
use crate::rng::Rng;
use crate::throttle::{Priority, Throttle};
use crate::verdict::{Classify, EveryError};
use crate::window::Window;

use gates::Gates;
pub(crate) use live::Source;

pub use call::Call;
pub use gates::{Kept, Scope};
pub use live::Held;
pub use operation::{Closure, Operation};
pub use protocol::Protocol;

/// Policies in their right order, and what outcomes mean.
///
/// Clones are cheap and share all state: budget, windows, limits, breakers. What a pipeline does can
/// be changed under way if it was made [`reloadable`](Self::reloadable). Settings that make no
/// sense don't panic and don't pass silently: [`check`](Self::check) names the first one, and every
/// call under such a pipeline fails with [`Cause::Config`](crate::Cause::Config) before anything is
/// sent.
///
/// # Examples
///
/// ```
/// use evenkeel::{Budget, Pipeline, Retry};
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let pipeline = Pipeline::new()
///     .deadline(Duration::from_secs(10))
///     .retry(Retry::exponential(Duration::from_millis(1)).budget(Budget::default()))
///     .timeout(Duration::from_secs(2));
///
/// let query = |id: u32| async move { if id == 0 { Err("timed out") } else { Ok(id) } };
/// let rows = pipeline.run(|attempt| query(attempt.number() - 1)).await;
/// assert_eq!(rows, Ok(1));
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a pipeline does nothing until a call runs in it"]
pub struct Pipeline<C = EveryError> {
    pub(crate) source: Source,
    pub(crate) classify: C,
}

/// The policies of a pipeline. Opaque: it only shows in the types of futures.
#[derive(Clone)]
pub struct Policies {
    pub(crate) clock: Clock,
    pub(crate) rng: Rng,
    pub(crate) deadline: Option<Duration>,
    pub(crate) retry: Option<Retry>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) min_time_left: Duration,
    pub(crate) idempotent: bool,
    /// A configuration's word on it, which goes before the code's.
    pub(crate) configured_idempotent: Option<bool>,
    pub(crate) gates: Gates,
    pub(crate) way: Way,
    /// There is at least one gate.
    pub(crate) is_gated: bool,
    pub(crate) chaos: Option<Scope<Chaos>>,
    pub(crate) endpoints: Option<Scope<Endpoints>>,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    /// Some observer wants to be told of plain successes.
    pub(crate) wants_all: bool,
    pub(crate) purpose: Purpose,
    pub(crate) invalid: Option<ConfigError>,
}

/// What is in front of a call's first attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Nothing, and nobody is told of its success.
    Straight,
    /// No more than a deadline, a window and a breaker.
    Plain,
    /// More than that.
    Guarded,
}

/// The future of [`Pipeline::run`].
pub type Run<'a, C, F> = Call<Held<'a>, Closure<&'a C, F>>;

impl Pipeline {
    /// No policies: each call is made once and may take as long as it likes.
    ///
    /// Every `Err` counts as a transient failure, and calls as idempotent: a retry policy given to
    /// this pipeline repeats any failed call. See [`classify`](Self::classify) and
    /// [`idempotent`](Self::idempotent).
    pub fn new() -> Self {
        Self::with(EveryError, true)
    }
}

impl Pipeline<Http> {
    /// What an HTTP client should do by default.
    ///
    /// | policy | setting |
    /// |---|---|
    /// | total deadline | 30 s |
    /// | window | one per host and port |
    /// | attempts | 4, each at most 10 s |
    /// | backoff | exponential from 100 ms, × 2, at most 2 s, full jitter; after a 429 from 1 s |
    /// | budget | 50 % of first attempts, one for all clones of this pipeline |
    /// | `Retry-After` and its relatives | a lower bound, believed up to 5 min; without a good answer in the last half second they hold for all calls to that host and port, and the way back is paced |
    /// | throttle, bulkhead, rate limit, breaker, chaos, health | none |
    /// | what is repeated | see [`http`](crate::http) |
    ///
    /// It is the window that makes four attempts and half as many again harmless. Without it
    /// ([`no_window`](Self::no_window)) take `Retry::default().budget(Budget::default())`: three
    /// attempts and a tenth.
    ///
    /// Through [`run`](Self::run) the method is unknown, so a call is repeated only if it was
    /// provably not processed; say [`idempotent(true)`](Self::idempotent) for calls that may be.
    pub fn http() -> Self {
        let budget = Budget::new(Ratio::percent(50));
        Self::with(Http::default(), false)
            .deadline(Duration::from_secs(30))
            .retry(Retry::default().max_attempts(4).budget(budget))
            .timeout(Duration::from_secs(10))
            .window(Keyed::new(Window::new()))
    }
}

impl<C> Pipeline<C> {
    /// The whole call, waits included, ends within this time. At least 1 ns. Default: no limit.
    ///
    /// The caller's own [`Deadline`](crate::Deadline) replaces it.
    pub fn deadline(self, length: Duration) -> Self {
        self.change(|it| it.deadline = Some(length))
    }

    /// When to try again. Default: never.
    pub fn retry(self, retry: Retry) -> Self {
        self.change(|it| it.retry = Some(retry))
    }

    /// Each attempt ends within this time, or at the deadline if that is sooner. At least 1 ns.
    /// Default: no limit.
    ///
    /// It runs from the first time the attempt is not ready at once; waiting in lines and for a
    /// tower service's readiness doesn't count. A [`window`](crate::window) wants one: without it a
    /// service that hangs gives no evidence.
    pub fn timeout(self, length: Duration) -> Self {
        self.change(|it| it.timeout = Some(length))
    }

    /// A retry that would leave less time than this to the deadline isn't begun. Default: zero,
    /// which still means that there has to be time left.
    ///
    /// Three times the usual latency is a good value: sending what can't be answered in time is
    /// what keeps an overload alive. A [`window`](crate::window) that is limited sees to that by
    /// itself.
    pub fn min_time_left(self, length: Duration) -> Self {
        self.change(|it| it.min_time_left = length)
    }

    /// Whether calls may be repeated though the first may have been acted on. HTTP requests tell
    /// by their method; this is for everything else. Default: true, and false for
    /// [`Pipeline::http`].
    pub fn idempotent(self, idempotent: bool) -> Self {
        self.change(|it| {
            it.idempotent = idempotent;
            it.configured_idempotent = None;
        })
    }

    /// Sheds calls in proportion to what the service refuses; see [`throttle`](crate::throttle).
    /// How much a call matters is said by [`Call::priority`], or for requests by a [`Priority`] in
    /// their extensions. Default: none.
    pub fn throttle(self, throttle: impl Into<Scope<Throttle>>) -> Self {
        self.change(|it| it.gates.throttle = Some(throttle.into()))
    }

    /// Bounds how many attempts are under way at once; see [`limit`](crate::limit). Default: none.
    pub fn bulkhead(self, bulkhead: impl Into<Scope<Bulkhead>>) -> Self {
        self.change(|it| it.gates.bulkhead = Some(bulkhead.into()))
    }

    /// The congestion window in front of every attempt; see [`window`](crate::window). One window is
    /// for one service: for many give a [`Keyed`] one. Default: none, and one per host and port for
    /// [`Pipeline::http`].
    pub fn window(self, window: impl Into<Scope<Window>>) -> Self {
        self.change(|it| it.gates.window = Some(window.into()))
    }

    /// No congestion window. A hint then holds only the call that was told, with a spread.
    pub fn no_window(self) -> Self {
        self.change(|it| it.gates.window = None)
    }

    /// Bounds how many attempts begin per time; see [`limit`](crate::limit). Default: none.
    pub fn rate_limit(self, rate_limit: impl Into<Scope<RateLimit>>) -> Self {
        self.change(|it| it.gates.rate_limit = Some(rate_limit.into()))
    }

    /// Refuses attempts while the service fails; see [`breaker`](crate::breaker). Default: none.
    ///
    /// A plain one is one for all calls of the pipeline: where these go to several services give it
    /// `Keyed::new(Breaker::new())`, or one bad service closes the others off.
    ///
    /// A first attempt that finds it open fails at once. A retry waits for it, if the deadline allows.
    pub fn breaker(self, breaker: impl Into<Scope<Breaker>>) -> Self {
        self.change(|it| it.gates.breaker = Some(breaker.into()))
    }

    /// Injects faults, for tests and staging; see [`chaos`](crate::chaos). Default: none.
    pub fn chaos(self, chaos: impl Into<Scope<Chaos>>) -> Self {
        self.change(|it| it.chaos = Some(chaos.into()))
    }

    /// Chooses an endpoint for every attempt, and a retry's among those that the call did not fail on;
    /// see [`endpoints`](crate::endpoints). Default: none, and attempts go where they go.
    ///
    /// [`Http`] sends its requests there. A closure is told which by [`Attempt::endpoint`], and a
    /// classifier of one's own does it in [`Protocol::direct`]; no other classifier knows how.
    ///
    /// A plain set is one service's: where the calls of the pipeline go to several give it a [`Keyed`]
    /// one that is [`with`](Keyed::with) each service's own, and
    /// [`none`](crate::Endpoints::none) for the others.
    pub fn endpoints(self, endpoints: impl Into<Scope<Endpoints>>) -> Self {
        self.change(|it| it.endpoints = Some(endpoints.into()))
    }

    /// Who keeps what many outcomes say together, and refines the diagnosis of the next failure with
    /// it; see [`Health`]. For HTTP give `Keyed::new(Health::new())`: it is about one service.
    /// Default: nobody, and each failure is diagnosed by itself.
    pub fn health(self, health: impl Into<Scope<Health>>) -> Self {
        self.change(|it| it.gates.health = Some(health.into()))
    }

    /// What outcomes mean. Default: every `Err` is transient.
    ///
    /// For HTTP requests keep to [`Http`], which knows them as well as outcomes, and bend it with
    /// [`Http::treat`] and [`Http::adjust`]. Any other classifier, [`by`](crate::verdict::by) and
    /// [`EveryError`] among them, **doesn't read the method**: then
    /// [`idempotent`](Self::idempotent) alone decides whether a POST goes again.
    pub fn classify<D>(self, classify: D) -> Pipeline<D> {
        Pipeline {
            source: Source::Fixed(self.source.load()),
            classify,
        }
    }

    /// Where time comes from. Default: tokio.
    pub fn clock(self, clock: Clock) -> Self {
        self.change(|it| it.clock = clock)
    }

    /// Where chance comes from. Default: thread-local generators.
    pub fn rng(self, rng: Rng) -> Self {
        self.change(|it| it.rng = rng)
    }

    /// Who is told what happens; see [`event`](crate::event). Given again it is one more: all are told,
    /// in the order in which they were given. Default: nobody but `tracing`.
    pub fn observer(self, observer: impl Observer + 'static) -> Self {
        self.change(|it| {
            it.wants_all |= observer.wants_all();
            it.observer = Some(match it.observer.take() {
                Some(first) => Arc::new(Both {
                    first,
                    second: observer,
                }),
                None => Arc::new(observer),
            });
        })
    }

    /// Checks the settings, for those who want to know before the first call.
    ///
    /// # Errors
    ///
    /// The first setting that makes no sense.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.source.hold().invalid.map_or(Ok(()), Err)
    }

    /// The budget of the retry policy, if there is one for all calls.
    #[must_use]
    pub fn budget(&self) -> Option<Budget> {
        self.source.hold().budget().cloned()
    }

    /// Runs `operation` until it succeeds or a policy ends the call.
    ///
    /// Attempts run one after another; `operation` is told about each. It may borrow, and runs in
    /// the caller's task: nothing is spawned.
    ///
    /// To the engine a closure is opaque. Whether it may be repeated is said by
    /// [`idempotent`](Self::idempotent), which service it calls by [`Call::keyed`]; a rejected value
    /// is dropped, not drained, and a success brings no report. For HTTP the other doors know more.
    ///
    /// # Errors
    ///
    /// The last outcome's own error, whole, or which policy ended the call and when to come back.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with time enabled, if the default clock is used and something has
    /// to wait.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the running attempt. What it withdrew for an attempt that never
    /// began goes back to the budget.
    ///
    /// # Examples
    ///
    /// See [`Pipeline`].
    pub fn run<F, Fut, T, E>(&self, operation: F) -> Run<'_, C, F>
    where
        F: FnMut(Attempt) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        C: Classify<T, E>,
    {
        let closure = Closure {
            classify: &self.classify,
            attempt: operation,
            deadline: None,
            key: None,
            priority: Priority::Normal,
            earlier: 0,
        };
        Call::new(self.source.hold(), closure)
    }

    /// The time limits of another pipeline.
    #[cfg(feature = "sim")]
    pub(crate) fn with_limits_of<D>(self, other: &Pipeline<D>) -> Self {
        let other = other.source.load();
        let (deadline, timeout) = (other.deadline, other.timeout);
        self.change(|it| (it.deadline, it.timeout) = (deadline, timeout))
    }

    /// The window of this service, if there is one already.
    #[cfg(feature = "sim")]
    pub(crate) fn window_of(&self, key: Key) -> Option<Window> {
        self.source.hold().gates.peek_window(key)
    }

    fn with(classify: C, idempotent: bool) -> Self {
        let policies = Policies {
            clock: Clock::default(),
            rng: Rng::default(),
            deadline: None,
            retry: None,
            timeout: None,
            min_time_left: Duration::ZERO,
            idempotent,
            configured_idempotent: None,
            gates: Gates::default(),
            way: Way::Straight,
            is_gated: false,
            chaos: None,
            endpoints: None,
            observer: None,
            wants_all: false,
            purpose: Purpose::Call,
            invalid: None,
        };
        Self {
            source: Source::Fixed(Arc::new(policies)),
            classify,
        }
    }

    pub(crate) fn change(self, change: impl FnOnce(&mut Policies)) -> Self {
        let mut policies = match self.source {
            Source::Fixed(policies) => policies,
            Source::Live(live) => live.load(),
        };
        let it = Arc::make_mut(&mut policies);
        change(it);
        it.invalid = it.check().err();
        it.note();
        Self {
            source: Source::Fixed(policies),
            classify: self.classify,
        }
    }
}

impl Default for Pipeline {
    /// [`Pipeline::new`].
    fn default() -> Self {
        Self::new()
    }
}

impl<C: fmt::Debug> fmt::Debug for Pipeline<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline")
            .field("policies", &*self.source.hold())
            .field("classify", &self.classify)
            .finish()
    }
}

impl Policies {
    /// Whether calls may be repeated that don't tell by themselves.
    pub(crate) fn is_idempotent(&self) -> bool {
        self.configured_idempotent.unwrap_or(self.idempotent)
    }

    pub(crate) fn budget(&self) -> Option<&Budget> {
        match self.retry.as_ref()?.budgets()? {
            Scope::One(budget) => Some(budget),
            Scope::PerKey(_) => None,
        }
    }

    /// A first attempt pays for others.
    #[inline]
    fn deposit(&self, budget: Option<&Budget>, now: Option<Instant>) {
        if let Some(budget) = budget {
            if budget.deposit() {
                // Nobody else's moment: an attempt's time runs from its first poll.
                budget.tick(now.unwrap_or_else(|| self.clock.now()));
            }
        }
    }

    /// The budget of calls with this key, where each service has its own.
    pub(crate) fn budget_of(
        &self,
        key: Option<Key>,
        now: impl FnOnce() -> Instant,
    ) -> Option<Budget> {
        match self.retry.as_ref()?.budgets()? {
            Scope::One(_) => None,
            Scope::PerKey(budgets) => Some(budgets.get(key?, now).into_inner()),
        }
    }

    /// Whether each service has a budget of its own.
    pub(crate) fn has_keyed_budgets(&self) -> bool {
        let budgets = self.retry.as_ref().and_then(Retry::budgets);
        matches!(budgets, Some(Scope::PerKey(_)))
    }

    /// Whether no attempt can follow this one.
    pub(crate) fn is_last(&self, number: u32) -> bool {
        !self
            .retry
            .as_ref()
            .is_some_and(|retry| retry.may_follow(number))
    }

    /// Finds out once what every call would ask. To be said after each change.
    pub(crate) fn note(&mut self) {
        self.is_gated = !self.gates.is_empty();
        let is_plain = self.endpoints.is_none()
            && self.chaos.is_none()
            && self.invalid.is_none()
            && self.gates.are_plain()
            && !self.has_keyed_budgets()
            && !self.wants_all
            && !self.purpose.is_check();
        self.way = match is_plain {
            true if self.is_gated || self.deadline.is_some() => Way::Plain,
            true => Way::Straight,
            false => Way::Guarded,
        };
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.deadline.is_some_and(|length| length.is_zero()) {
            return Err(ConfigError::new("pipeline.deadline", "must not be zero"));
        }
        if self
            .deadline
            .is_some_and(|length| length <= self.min_time_left)
        {
            let problem = "must be less than the deadline";
            return Err(ConfigError::new("pipeline.min_time_left", problem));
        }
        if self.timeout.is_some_and(|length| length.is_zero()) {
            return Err(ConfigError::new("pipeline.timeout", "must not be zero"));
        }
        self.retry.as_ref().map_or(Ok(()), Retry::check)?;
        self.endpoints.as_ref().map_or(Ok(()), Scope::check)?;
        self.gates.check()?;
        self.chaos.as_ref().map_or(Ok(()), Scope::check)
    }
}

impl fmt::Debug for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Policies");
        out.field("deadline", &self.deadline)
            .field("retry", &self.retry)
            .field("timeout", &self.timeout)
            .field("min_time_left", &self.min_time_left)
            .field("idempotent", &self.is_idempotent())
            .field("gates", &self.gates);
        if let Some(endpoints) = &self.endpoints {
            out.field("endpoints", endpoints);
        }
        if let Some(chaos) = &self.chaos {
            // Nobody is to overlook it.
            out.field("chaos", chaos);
        }
        out.finish_non_exhaustive()
    }
}
