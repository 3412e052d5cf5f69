//! The one engine that drives attempts and waits.
//!
//! Each poll runs the stages below until one of them has to wait:
//!
//! ```text
//!                         ┌─▶ Injecting ─┐
//! Start ─▶ Entering ─▶ Ready ─▶ Running ─▶ settle ─▶ (the caller)
//!              ▲          │                  │
//!              └────── Waiting ◀──── Draining
//! ```
//!
//! Time is read at most once between two events of the outside world, and not at all where nothing
//! needs it. Dropping the call at any stage drops what it holds: the running attempt, the
//! withdrawal of an attempt that never began, places in line and permits, the timer.

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use pin_project_lite::pin_project;
use tracing::Span;

use crate::attempt::Attempt;
use crate::chaos::Fault;
use crate::clock::{Sleep, Why};
use crate::deadline::Deadline;
use crate::error::{Cause, Error};
use crate::keyed::Key;
use crate::pipeline::Policies;
use crate::pipeline::operation::{Closure, Operation};
use crate::pipeline::state::{Entry, Held, Moment, Outcome, State, TIMED_OUT};
use crate::report::WaitReason;
use crate::span;
use crate::throttle::Priority;

pin_project! {
    /// A call under a pipeline's policies; made by [`Pipeline::run`](crate::Pipeline::run) and
    /// the other doors.
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops the running attempt. What was withdrawn from the budget for an attempt
    /// that never began goes back.
    #[must_use = "futures do nothing unless you .await or poll them"]
    pub struct Call<P, O: Operation> {
        policies: P,
        operation: O,
        // Dropped before the state: an attempt that is given up is gone before its permits are.
        #[pin]
        stage: Stage<O::Attempt, O::Discard>,
        state: State,
        #[pin]
        timer: Option<Sleep>,
        // When the timer of a place in line ends.
        timer_ends: Option<Instant>,
    }
}

pin_project! {
    #[project = StageProjection]
    enum Stage<A, D> {
        /// Nothing has happened yet.
        Start,
        /// Asks the policies in front of an attempt, and waits in their lines.
        Entering,
        /// Waits until the operation can begin an attempt, and asks the breaker.
        Ready,
        /// Something was injected into the attempt, and it has not begun.
        Injecting,
        /// An attempt runs.
        Running { #[pin] attempt: A },
        /// A rejected value is being cleared away. Counts towards the wait.
        Draining { #[pin] discard: D },
        /// The wait before the next attempt.
        Waiting,
        /// The caller has its answer.
        Done,
    }
}

impl<P, O> Call<P, O>
where
    P: Deref<Target = Policies>,
    O: Operation,
{
    pub(crate) fn new(policies: P, operation: O) -> Self {
        Self {
            policies,
            operation,
            state: State::new(),
            stage: Stage::Start,
            timer: None,
            timer_ends: None,
        }
    }
}

impl<P, O: Operation> Call<P, O> {
    /// What it makes attempts of.
    pub(crate) fn operation(self: Pin<&mut Self>) -> &mut O {
        self.project().operation
    }

    /// For doors that let the caller say more before the call begins.
    #[cfg_attr(not(feature = "reqwest"), allow(dead_code))]
    pub(crate) const fn operation_mut(&mut self) -> &mut O {
        &mut self.operation
    }
}

impl<P, C, F> Call<P, Closure<C, F>>
where
    Closure<C, F>: Operation,
{
    /// Replaces the pipeline's deadline for this call.
    pub fn until(mut self, deadline: Deadline) -> Self {
        self.operation.deadline = Some(deadline);
        self
    }

    /// Names the service that the call goes to: what is kept [per key](crate::keyed) is then that
    /// key's. Calls without a key pass by all that.
    pub const fn keyed(mut self, key: Key) -> Self {
        self.operation.key = Some(key);
        self
    }

    /// This call serves the `number`th attempt of its own caller, from 1: what the caller already
    /// spent counts against this call's attempts. Zero counts as 1. Default: 1. See
    /// [`http`](crate::http#retries-of-retries).
    pub const fn caller_attempt(mut self, number: u32) -> Self {
        self.operation.earlier = number.saturating_sub(1);
        self
    }

    /// How much the call matters when some have to be shed; see [`throttle`](crate::throttle).
    /// Default: [`Priority::Normal`].
    pub const fn priority(mut self, priority: Priority) -> Self {
        self.operation.priority = priority;
        self
    }
}

impl<P, O> Future for Call<P, O>
where
    P: Deref<Target = Policies>,
    O: Operation,
{
    type Output = Result<O::Value, Error<O::Error>>;

    #[allow(clippy::too_many_lines)] // one state machine, read from top to bottom
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let policies: &Policies = this.policies;
        let state = this.state;
        let mut now = Moment(None);
        let mut turns = 0;
        loop {
            let step = match this.stage.as_mut().project() {
                StageProjection::Start => {
                    let deadline = this.operation.deadline();
                    match state.start(policies, deadline, &mut now) {
                        Ok(()) => {
                            state.earlier = this.operation.earlier_attempts();
                            this.stage.set(Stage::Entering);
                            continue;
                        }
                        Err(cause) => Err(cause),
                    }
                }
                StageProjection::Entering => {
                    match state.enter(this.operation, policies, cx.waker(), &mut now) {
                        Entry::Go => {
                            clear(this.timer.as_mut());
                            this.stage.set(Stage::Ready);
                            continue;
                        }
                        Entry::Wait(until, reason) => {
                            this.operation.stand_down();
                            let Some(until) = until else {
                                clear(this.timer.as_mut());
                                return Poll::Pending;
                            };
                            // Its turn may have come nearer since the timer was made.
                            if this.timer.is_none() || *this.timer_ends != Some(until) {
                                *this.timer_ends = Some(until);
                                let sleep = policies.clock.sleep_until(until, why(reason));
                                this.timer.set(Some(sleep));
                            }
                            ready!(poll_timer(this.timer.as_mut(), cx));
                            this.timer.set(None);
                            now.forget();
                            turns += 1;
                            if turns == MAX_TURNS {
                                cx.waker().wake_by_ref();
                                return Poll::Pending;
                            }
                            continue;
                        }
                        Entry::Back => {
                            this.operation.stand_down();
                            clear(this.timer.as_mut());
                            this.stage.set(Stage::Waiting);
                            continue;
                        }
                        Entry::Refused(cause) => Err(cause),
                    }
                }
                StageProjection::Ready => match this.operation.poll_ready(cx) {
                    Poll::Pending => {
                        let Some(deadline) = state.deadline else {
                            return Poll::Pending;
                        };
                        if this.timer.is_none() {
                            let end = deadline.instant();
                            let sleep = policies.clock.sleep_until(end, Why::Deadline);
                            this.timer.set(Some(sleep));
                        }
                        ready!(poll_timer(this.timer.as_mut(), cx));
                        Err(state.past_deadline())
                    }
                    Poll::Ready(ready) => {
                        clear(this.timer.as_mut());
                        // Asked last of all: waiting for readiness may have taken long.
                        let waker = cx.waker();
                        match state.pass_breaker(this.operation, policies, waker, &mut now) {
                            Entry::Refused(cause) => Err(cause),
                            Entry::Back => {
                                this.operation.stand_down();
                                this.stage.set(Stage::Waiting);
                                continue;
                            }
                            Entry::Wait(..) => {
                                this.operation.stand_down();
                                this.stage.set(Stage::Entering);
                                continue;
                            }
                            Entry::Go => {
                                let mut attempt = state.begin(policies, &mut now);
                                match ready {
                                    Ok(()) => {
                                        if let Some(endpoints) = &policies.endpoints {
                                            state.choose(
                                                &mut attempt,
                                                endpoints,
                                                this.operation,
                                                policies,
                                                &mut now,
                                            );
                                        }
                                        if span::may_be_wanted() {
                                            state.open_span(this.operation);
                                        }
                                        // After the choice: the endpoint is to see what is injected.
                                        if policies.chaos.is_some()
                                            && state.inject(
                                                attempt,
                                                this.operation,
                                                policies,
                                                &mut now,
                                            )
                                        {
                                            this.stage.set(Stage::Injecting);
                                            continue;
                                        }
                                        let attempt =
                                            begin(state, this.operation, attempt, policies);
                                        this.stage.set(Stage::Running { attempt });
                                        continue;
                                    }
                                    Err(error) => Ok(Outcome::Returned(Err(error))),
                                }
                            }
                        }
                    }
                },
                StageProjection::Injecting => match state.held(policies, &mut now) {
                    Held::Begin(attempt) => {
                        clear(this.timer.as_mut());
                        let attempt = begin(state, this.operation, attempt, policies);
                        this.stage.set(Stage::Running { attempt });
                        continue;
                    }
                    Held::Fault(fault) => {
                        let outcome = state.imitate(fault, this.operation);
                        this.operation.forgo(policies.is_last(state.spent()));
                        Ok(outcome)
                    }
                    Held::Until(next) => {
                        // The end of the delay and of the attempt share the one timer.
                        let Some((end, why)) = next else {
                            clear(this.timer.as_mut());
                            return Poll::Pending;
                        };
                        if this.timer.is_none() {
                            let sleep = policies.clock.sleep_until(end, why);
                            this.timer.set(Some(sleep));
                        }
                        ready!(poll_timer(this.timer.as_mut(), cx));
                        this.timer.set(None);
                        now.forget();
                        continue;
                    }
                    Held::TimedOut => {
                        this.operation.forgo(policies.is_last(state.spent()));
                        ended(state, this.operation, policies, &mut now)
                    }
                },
                StageProjection::Running { attempt } => match poll_attempt(attempt, state, cx) {
                    Poll::Ready(result) => {
                        now.forget();
                        // An answer can be lost, a failure of its own can't.
                        if state.loses_answer() && result.is_ok() {
                            Ok(state.imitate(Fault::Lost, this.operation))
                        } else {
                            Ok(Outcome::Returned(result))
                        }
                    }
                    Poll::Pending => {
                        if this.timer.is_none() {
                            let Some((end, why)) = state.attempt_ends(policies, &mut now) else {
                                return Poll::Pending;
                            };
                            let sleep = policies.clock.sleep_until(end, why);
                            this.timer.set(Some(sleep));
                        }
                        ready!(poll_timer(this.timer.as_mut(), cx));
                        now.forget();
                        ended(state, this.operation, policies, &mut now)
                    }
                },
                StageProjection::Draining { discard } => {
                    if discard.poll(cx).is_pending() {
                        if this.timer.is_none() {
                            let end = state.drain_ends(DRAIN_TIME, policies, &mut now);
                            let sleep = policies.clock.sleep_until(end, Why::Drain);
                            this.timer.set(Some(sleep));
                        }
                        ready!(poll_timer(this.timer.as_mut(), cx));
                    }
                    now.forget();
                    clear(this.timer.as_mut());
                    this.stage.set(Stage::Waiting);
                    continue;
                }
                StageProjection::Waiting => {
                    let (wait, end) = state.wait().expect("a wait was set with the stage");
                    if wait.length().is_zero() {
                        // Attempts that are ready at once must not keep the thread for ever.
                        turns += 1;
                        if turns == MAX_TURNS {
                            cx.waker().wake_by_ref();
                            return Poll::Pending;
                        }
                    } else {
                        if this.timer.is_none() {
                            let sleep = policies.clock.sleep_until(end, why(wait.reason()));
                            this.timer.set(Some(sleep));
                        }
                        ready!(poll_timer(this.timer.as_mut(), cx));
                        this.timer.set(None);
                        now.forget();
                    }
                    this.stage.set(Stage::Entering);
                    continue;
                }
                StageProjection::Done => unreachable!("a future isn't polled after it is ready"),
            };

            // Whatever ran is over, and so is its timer.
            this.stage.set(Stage::Done);
            clear(this.timer.as_mut());
            let outcome = match step {
                Ok(outcome) => outcome,
                Err(cause) => {
                    this.operation.stand_down();
                    let error = state.fail(cause, this.operation, policies, &mut now);
                    return Poll::Ready(Err(error));
                }
            };
            let verdict = match &outcome {
                Outcome::Returned(result) => this.operation.classify(result.as_ref()),
                Outcome::Injected => state.injected().1,
                Outcome::TimedOut(_) => TIMED_OUT,
            };
            let follows = if verdict.is_success() {
                state.succeeds(&outcome, this.operation, policies, &mut now);
                false
            } else {
                state.fails(verdict, &outcome, this.operation, policies, &mut now)
            };
            match outcome {
                outcome if !follows => {
                    return Poll::Ready(state.finish(outcome, this.operation, policies, &mut now));
                }
                Outcome::Returned(Ok(value)) => {
                    let discard = this.operation.discard(value);
                    this.stage.set(Stage::Draining { discard });
                }
                _ => this.stage.set(Stage::Waiting),
            }
        }
    }
}

/// The attempt is really made.
#[inline]
fn begin<O: Operation>(
    state: &State,
    operation: &mut O,
    attempt: Attempt,
    policies: &Policies,
) -> O::Attempt {
    let (at, last) = (state.directed(operation), policies.is_last(attempt.total()));
    let _entered = state.span.as_deref().map(Span::enter);
    operation.begin(attempt, at, last)
}

/// What came of an attempt, or what ended the call instead.
type Step<O> = Result<
    Outcome<<O as Operation>::Value, <O as Operation>::Error>,
    Cause<<O as Operation>::Error>,
>;

#[inline]
fn poll_attempt<F: Future>(
    attempt: Pin<&mut F>,
    state: &State,
    cx: &mut Context<'_>,
) -> Poll<F::Output> {
    match &state.span {
        Some(span) => poll_in_span(span, attempt, cx),
        None => attempt.poll(cx),
    }
}

/// Out of the way of those who have none.
#[cold]
#[inline(never)]
fn poll_in_span<F: Future>(
    span: &Span,
    attempt: Pin<&mut F>,
    cx: &mut Context<'_>,
) -> Poll<F::Output> {
    let _entered = span.enter();
    attempt.poll(cx)
}

/// A limit ended the attempt: its own, or the call's.
#[allow(clippy::inline_always)] // or what every call comes to goes through memory
#[inline(always)]
fn ended<O: Operation>(
    state: &mut State,
    operation: &O,
    policies: &Policies,
    now: &mut Moment,
) -> Step<O> {
    if state.is_past_deadline(policies, now) {
        state.cut_short(operation, policies, now);
        return Err(state.past_deadline());
    }
    let length = policies.timeout.unwrap_or_default();
    Ok(Outcome::TimedOut(length))
}

fn poll_timer(timer: Pin<&mut Option<Sleep>>, cx: &mut Context<'_>) -> Poll<()> {
    match timer.as_pin_mut() {
        Some(sleep) => sleep.poll(cx),
        None => Poll::Ready(()),
    }
}

/// Most attempts are over before they needed a timer.
fn clear(mut timer: Pin<&mut Option<Sleep>>) {
    if timer.is_some() {
        timer.set(None);
    }
}

const fn why(reason: WaitReason) -> Why {
    match reason {
        WaitReason::Backoff => Why::Backoff,
        WaitReason::Breaker => Why::Breaker,
        WaitReason::Bulkhead | WaitReason::RateLimit | WaitReason::Window => Why::Parked,
        WaitReason::ServerHint => Why::ServerHint,
    }
}

impl<P, O: Operation> fmt::Debug for Call<P, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("attempts", &self.state.number)
            .finish_non_exhaustive()
    }
}

/// A rejected body that hasn't arrived whole by then costs more than a new connection.
const DRAIN_TIME: Duration = Duration::from_millis(50);

/// Retries without a wait in one poll before other tasks get their turn.
const MAX_TURNS: u32 = 32;
