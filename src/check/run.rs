//! Checks on their way: looks, waits, and sends one through the engine.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use pin_project_lite::pin_project;
use tracing::Span;

use crate::attempt::Attempt;
use crate::clock::{Sleep, Why};
use crate::deadline::later;
use crate::diagnosis::Brief;
use crate::error::{ConfigError, Reason};
use crate::event::{Change, End, Event, Observer, tell};
use crate::gate::Purpose;
use crate::keyed::Key;
use crate::pipeline::{Call, Closure, Operation, Pipeline, Policies, Source};
use crate::rng::Draws;
use crate::sync::lock_plain;
use crate::throttle::Priority;
use crate::verdict::Classify;

use super::Check;
use super::plan::{Ended, Plan, Seen, Step};

/// Makes what each check does.
///
/// Doors implement it; there is nothing in it for users to call.
pub trait Make {
    /// One check.
    type Operation: Operation;

    /// Makes one.
    fn make(&mut self) -> Self::Operation;
}

impl<C, F> Make for Closure<C, F>
where
    Self: Operation + Clone,
{
    type Operation = Self;

    fn make(&mut self) -> Self {
        self.clone()
    }
}

impl<C> Pipeline<C> {
    /// Checks the service with this key for as long as the future is polled, whenever that is of use; see
    /// [`check`](crate::check).
    ///
    /// The key is the one that [`Call::keyed`] says of calls, or for HTTP
    /// [`service_key`](crate::http::service_key); `None`, and what is kept per key isn't looked at. The
    /// operation is cloned for each check, and told about its one attempt. Dropping the future ends the
    /// checks.
    ///
    /// # Errors
    ///
    /// An interval or a timeout that makes no sense.
    ///
    /// # Panics
    ///
    /// When polled outside a tokio runtime with time enabled, if the default clock is used.
    ///
    /// # Cancel safety
    ///
    /// Dropping it at any time gives back whatever a check holds, and leaves a breaker's probes to calls.
    ///
    /// # Examples
    ///
    /// ```
    /// use evenkeel::breaker::State;
    /// use evenkeel::check::Check;
    /// use evenkeel::{Breaker, Pipeline};
    /// use std::time::{Duration, Instant};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
    /// let breaker = Breaker::new().consecutive_failures(1);
    /// let pipeline = Pipeline::new().breaker(breaker.clone());
    /// let check = Check::every(Duration::from_secs(1));
    /// let checks = pipeline.checks(None, check, |_| async { Ok::<_, ()>("well") }).unwrap();
    /// let task = tokio::spawn(checks);
    ///
    /// let _ = pipeline.run(|_| async { Err::<(), _>("down") }).await;
    /// # let now = || tokio::time::Instant::now().into_std();
    /// assert_eq!(breaker.snapshot(now()).state, State::Open);
    /// tokio::time::sleep(Duration::from_secs(3)).await;
    /// assert_eq!(breaker.snapshot(now()).state, State::Closed); // and nobody has called meanwhile
    /// # task.abort();
    /// # }
    /// ```
    pub fn checks<F, Fut, T, E>(
        &self,
        key: impl Into<Option<Key>>,
        check: Check,
        operation: F,
    ) -> Result<Checks<Closure<C, F>>, ConfigError>
    where
        F: FnMut(Attempt) -> Fut + Clone,
        Fut: Future<Output = Result<T, E>>,
        C: Classify<T, E> + Clone,
    {
        let key = key.into();
        let make = Closure {
            classify: self.classify.clone(),
            attempt: operation,
            deadline: None,
            key,
            priority: Priority::Normal,
            earlier: 0,
        };
        Checks::new(self.source.clone(), key, check, make)
    }
}

pin_project! {
    /// Checks of one service, one after the other and without end; see [`Pipeline::checks`].
    ///
    /// # Cancel safety
    ///
    /// Dropping it at any time gives back whatever a check holds, and leaves a breaker's probes to calls.
    #[must_use = "futures do nothing unless you .await or poll them"]
    pub struct Checks<M: Make> {
        source: Source,
        key: Option<Key>,
        check: Check,
        make: M,
        plan: Option<Plan>,
        draws: Draws,
        // Dropped before the reservation: a probe that is given up is back before others may probe.
        #[pin]
        stage: Stage<M::Operation>,
        reservation: Reservation,
    }
}

pin_project! {
    #[project = StageProjection]
    enum Stage<O: Operation> {
        /// Looks whether a check is needed.
        Looking,
        /// Waits for the next look.
        Resting { #[pin] sleep: Sleep },
        /// A check is in line, or under way.
        Checking {
            #[pin]
            call: Call<Arc<Policies>, O>,
            ears: Arc<Ears>,
            span: Span,
        },
        /// The rest of its answer is read.
        Draining { #[pin] discard: O::Discard, #[pin] sleep: Sleep },
    }
}

impl<M: Make> Checks<M> {
    pub(crate) fn new(
        source: Source,
        key: Option<Key>,
        check: Check,
        make: M,
    ) -> Result<Self, ConfigError> {
        check.check()?;
        let draws = source.hold().rng.draws();
        Ok(Self {
            reservation: Reservation {
                source: source.clone(),
                key,
                held: false,
            },
            source,
            key,
            check,
            make,
            plan: None,
            draws,
            stage: Stage::Looking,
        })
    }
}

impl<M: Make> Future for Checks<M> {
    type Output = Infallible;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Infallible> {
        let mut this = self.project();
        let mut turns = 0;
        loop {
            match this.stage.as_mut().project() {
                StageProjection::Looking => {
                    turns += 1;
                    if turns > MAX_TURNS {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    let policies = this.source.load();
                    let now = policies.clock.now();
                    let (check, draws) = (*this.check, &mut *this.draws);
                    let plan = this
                        .plan
                        .get_or_insert_with(|| Plan::new(check, now, draws));
                    let step = plan.step(&look(&policies, *this.key, now), now, draws);
                    let timeout = check.timeout_within(policies.timeout);
                    let until = plan.reserves(step, timeout);
                    this.reservation.renew(&policies, until, now);
                    match step {
                        Step::Check(_) => {
                            let ears = Arc::new(Ears::new(&policies));
                            let policies = for_check(&policies, &ears, check);
                            let call = Call::new(policies, this.make.make());
                            let span = tracing::debug_span!(target: "evenkeel", "check");
                            this.stage.set(Stage::Checking { call, ears, span });
                        }
                        Step::Sleep(until) => {
                            let sleep = policies.clock.sleep_until(until, Why::Check);
                            this.stage.set(Stage::Resting { sleep });
                        }
                    }
                }
                StageProjection::Resting { sleep } => {
                    ready!(sleep.poll(cx));
                    this.stage.set(Stage::Looking);
                }
                StageProjection::Checking {
                    mut call,
                    ears,
                    span,
                } => {
                    let entered = span.enter();
                    let result = ready!(call.as_mut().poll(cx));
                    let discard = result.ok().map(|value| call.operation().discard(value));
                    let policies = this.source.load();
                    let now = policies.clock.now();
                    let heard = ears.heard();
                    let plan = this.plan.as_mut().expect("made before the first check");
                    plan.ended(heard.ended(), now, this.draws);
                    heard.tell(&policies, *this.key);
                    drop(entered);
                    this.stage.set(match discard {
                        Some(discard) => {
                            let end = later(now, DRAIN_TIME);
                            let sleep = policies.clock.sleep_until(end, Why::Drain);
                            Stage::Draining { discard, sleep }
                        }
                        None => Stage::Looking,
                    });
                }
                StageProjection::Draining { discard, sleep } => {
                    if discard.poll(cx).is_pending() {
                        ready!(sleep.poll(cx));
                    }
                    this.stage.set(Stage::Looking);
                }
            }
        }
    }
}

impl<M: Make> fmt::Debug for Checks<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checks")
            .field("key", &self.key)
            .field("check", &self.check)
            .finish_non_exhaustive()
    }
}

/// What there is to see of a service.
fn look(policies: &Policies, key: Option<Key>, now: Instant) -> Seen {
    let gates = &policies.gates;
    let breaker = gates.breaker.as_ref().and_then(|it| it.peek(key));
    let endpoints = policies.endpoints.as_ref().and_then(|it| it.peek(key));
    let health = gates.health.as_ref().and_then(|it| it.peek(key));
    let window = gates.window.as_ref().and_then(|it| it.peek(key));
    Seen {
        breaker: breaker.and_then(|it| it.probe_at(now)),
        endpoint: endpoints.and_then(|it| it.probe_at()),
        health: health.and_then(|it| it.unwell()),
        window: window.and_then(|it| it.turn(now)),
    }
}

/// The same policies, for one attempt that is nobody's call.
fn for_check(policies: &Policies, ears: &Arc<Ears>, check: Check) -> Arc<Policies> {
    let mut policies = policies.clone();
    let timeout = check.timeout_within(policies.timeout);
    policies.retry = None;
    // What is without it bounded by lines alone, such as readiness, is bounded by this.
    policies.deadline = Some(LONGEST_WAIT.saturating_add(timeout));
    policies.min_time_left = Duration::ZERO;
    policies.timeout = Some(timeout);
    // It is there to find out, and not to be shed.
    policies.gates.throttle = None;
    policies.observer = Some(Arc::clone(ears) as Arc<dyn Observer>);
    policies.wants_all = true;
    policies.purpose = Purpose::Check { first: check.first };
    policies.note();
    Arc::new(policies)
}

/// Hears what is told of a check, and passes on what isn't told of a call.
struct Ears {
    observer: Option<Arc<dyn Observer>>,
    heard: Mutex<Heard>,
}

/// What was told of a check.
#[derive(Clone, Copy, Debug)]
struct Heard {
    call: u64,
    attempts: u32,
    end: End,
    diagnosis: Option<Brief>,
    retry_after: Option<Duration>,
    elapsed: Duration,
}

impl Ears {
    fn new(policies: &Policies) -> Self {
        Self {
            observer: policies.observer.clone(),
            heard: Mutex::new(Heard {
                call: 0,
                attempts: 0,
                end: End::Invalid,
                diagnosis: None,
                retry_after: None,
                elapsed: Duration::ZERO,
            }),
        }
    }

    fn heard(&self) -> Heard {
        *lock_plain(&self.heard)
    }
}

impl Observer for Ears {
    fn observe(&self, event: &Event) {
        let mut heard = self.heard();
        heard.call = event.call();
        match *event {
            Event::Done {
                attempts,
                end,
                elapsed,
                ..
            } => (heard.attempts, heard.end, heard.elapsed) = (attempts, end, elapsed),
            Event::Stop {
                diagnosis,
                retry_after,
                ..
            } => (heard.diagnosis, heard.retry_after) = (diagnosis, retry_after),
            _ => {}
        }
        *lock_plain(&self.heard) = heard;
        let is_no_calls = matches!(event, Event::Changed { .. } | Event::Injected { .. });
        if let Some(observer) = self.observer.as_ref().filter(|_| is_no_calls) {
            observer.observe(event);
        }
    }
}

impl Heard {
    fn ended(&self) -> Ended {
        let by_breaker = self.end == End::Rejected(Reason::BreakerOpen);
        Ended {
            hint: self.retry_after,
            turned_away: self.attempts == 0 && !by_breaker,
        }
    }

    fn tell(mut self, policies: &Policies, key: Option<Key>) {
        let observer = policies.observer.as_deref();
        tell(observer, &mut self.call, |call| Event::Checked {
            call,
            attempts: self.attempts,
            key,
            end: self.end,
            diagnosis: self.diagnosis,
            retry_after: self.retry_after,
            elapsed: self.elapsed,
        });
    }
}

/// What the check has of its key's breaker: that its probes are left to it.
struct Reservation {
    source: Source,
    key: Option<Key>,
    held: bool,
}

impl Reservation {
    /// Until then. `None`: probes are everybody's.
    fn renew(&mut self, policies: &Policies, until: Option<Instant>, now: Instant) {
        if until.is_none() && !self.held {
            return;
        }
        self.held = until.is_some();
        let Some(breakers) = &policies.gates.breaker else {
            return;
        };
        if self.held && breakers.peek(self.key).is_none() {
            // So that it is reserved before the first call. Keys beyond the capacity share one, which
            // is nobody's to reserve.
            let (_, overflow) = breakers.of(self.key, || now);
            if let Some(overflow) = overflow {
                let (observer, key) = (policies.observer.as_deref(), self.key);
                tell(observer, &mut 0, |call| Event::Changed {
                    call,
                    attempt: 1,
                    key,
                    change: Change::Keyed(overflow),
                });
            }
        }
        if let Some(breaker) = breakers.peek(self.key) {
            breaker.reserve(until, now);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.held {
            let policies = self.source.load();
            self.renew(&policies, None, policies.clock.now());
        }
    }
}

/// Checks in one poll before other tasks get their turn.
const MAX_TURNS: u32 = 32;

/// As in calls.
const DRAIN_TIME: Duration = Duration::from_millis(50);

/// A quiet that a window believes in is no longer.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
