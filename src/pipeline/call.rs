//! The one engine that drives attempts and waits.
//!
//! Each poll runs the stages below until one of them has to wait:
//!
//! ```text
//! Start ─▶ Admit ─▶ Ready ─▶ Running ─▶ settle ─▶ (the caller)
//!          ▲   │                          │
//!          └─ Waiting ◀──── Draining ◀────┘
//! ```
//!
//! Time is read at most once between two events of the outside world, and not at all where nothing
//! needs it. Dropping the call at any stage drops what it holds: the running attempt, the
//! withdrawal of an attempt that never began, the timer.

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use pin_project_lite::pin_project;

use crate::attempt::Attempt;
use crate::backoff::Progress;
use crate::budget::Withdrawal;
use crate::clock::{Sleep, Why, until};
use crate::deadline::{Deadline, later};
use crate::error::{Cause, Elapsed, Error, Limit, Reason, Rejected};
use crate::event::{Event, tell};
use crate::hold::Key;
use crate::pipeline::Policies;
use crate::pipeline::operation::{Closure, Operation};
use crate::report::{Failure, Report, Stop, Wait, WaitReason};
use crate::retry::{Decision, Failed};
use crate::rng::Draws;
use crate::verdict::{Hint, Label, Verdict};

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
        state: State,
        #[pin]
        stage: Stage<O::Attempt, O::Discard>,
        #[pin]
        timer: Option<Sleep>,
    }
}

pin_project! {
    #[project = StageProjection]
    enum Stage<A, D> {
        /// Nothing has happened yet.
        Start,
        /// Asks the policies whether an attempt may go now. Never waits itself.
        Admit,
        /// Waits until the operation can begin an attempt.
        Ready,
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

/// What a call remembers from poll to poll.
#[derive(Debug)]
struct State {
    /// The number events know the call by; zero while there was none.
    call: u64,
    /// Attempts begun.
    number: u32,
    /// When the call began; unread while nothing needed it.
    began: Option<Instant>,
    deadline: Option<Deadline>,
    /// The pipeline's own length of the deadline, to tell the caller.
    limit: Duration,
    /// The wait before the next attempt, and its end.
    wait: Option<(Wait, Instant)>,
    withdrawal: Option<Withdrawal>,
    previous: Option<Verdict>,
    progress: Progress,
    draws: Option<Draws>,
    report: Report,
}

/// What one attempt came to.
enum Outcome<T, E> {
    Returned(Result<T, E>),
    TimedOut(Duration),
}

/// One moment, read at most once until something may have taken time.
struct Moment(Option<Instant>);

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
        }
    }
}

impl<P, O: Operation> Call<P, O> {
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

    /// Names the service that the call goes to, so that its hints hold for all calls with that
    /// key; see [`hold`](crate::hold).
    pub const fn keyed(mut self, key: Key) -> Self {
        self.operation.key = Some(key);
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
        loop {
            let outcome = match this.stage.as_mut().project() {
                StageProjection::Start => {
                    let deadline = this.operation.deadline();
                    if let Err(cause) = state.start(policies, deadline, &mut now) {
                        this.stage.set(Stage::Done);
                        return Poll::Ready(Err(state.fail(cause, policies, &mut now)));
                    }
                    this.stage.set(Stage::Admit);
                    continue;
                }
                StageProjection::Admit => {
                    let admitted = state.admit(this.operation, policies, &mut now);
                    match admitted {
                        Ok(true) => this.stage.set(Stage::Ready),
                        Ok(false) => {
                            this.operation.stand_down();
                            this.stage.set(Stage::Waiting);
                        }
                        Err(cause) => {
                            this.stage.set(Stage::Done);
                            return Poll::Ready(Err(state.fail(cause, policies, &mut now)));
                        }
                    }
                    continue;
                }
                StageProjection::Ready => match this.operation.poll_ready(cx) {
                    Poll::Pending => {
                        now.forget();
                        let Some(deadline) = state.deadline else {
                            return Poll::Pending;
                        };
                        if this.timer.is_none() {
                            let end = deadline.instant();
                            let sleep = policies.clock.sleep_until(end, Why::Deadline);
                            this.timer.set(Some(sleep));
                        }
                        ready!(poll_timer(this.timer.as_mut(), cx));
                        this.timer.set(None);
                        this.stage.set(Stage::Done);
                        let cause = state.past_deadline();
                        return Poll::Ready(Err(state.fail(cause, policies, &mut now)));
                    }
                    Poll::Ready(ready) => {
                        clear(this.timer.as_mut());
                        let attempt = state.begin(policies, &mut now);
                        match ready {
                            Ok(()) => {
                                let last = policies.is_last(attempt.number);
                                let attempt = this.operation.begin(attempt, last);
                                this.stage.set(Stage::Running { attempt });
                                continue;
                            }
                            Err(error) => Outcome::Returned(Err(error)),
                        }
                    }
                },
                StageProjection::Running { attempt } => match attempt.poll(cx) {
                    Poll::Ready(result) => {
                        now.forget();
                        Outcome::Returned(result)
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
                        if state.is_past_deadline(policies, &mut now) {
                            this.timer.set(None);
                            this.stage.set(Stage::Done);
                            let cause = state.past_deadline();
                            return Poll::Ready(Err(state.fail(cause, policies, &mut now)));
                        }
                        Outcome::TimedOut(policies.timeout.unwrap_or_default())
                    }
                },
                StageProjection::Draining { discard } => {
                    if discard.poll(cx).is_pending() {
                        if this.timer.is_none() {
                            let end = later(now.read(policies), DRAIN_TIME);
                            let sleep = policies.clock.sleep_until(end, Why::Drain);
                            this.timer.set(Some(sleep));
                        }
                        ready!(poll_timer(this.timer.as_mut(), cx));
                        now.forget();
                    }
                    clear(this.timer.as_mut());
                    this.stage.set(Stage::Waiting);
                    continue;
                }
                StageProjection::Waiting => {
                    let (wait, end) = state.wait.expect("a wait was set with the stage");
                    if !wait.length().is_zero() {
                        if this.timer.is_none() {
                            let sleep = policies.clock.sleep_until(end, why(wait));
                            this.timer.set(Some(sleep));
                        }
                        ready!(poll_timer(this.timer.as_mut(), cx));
                        this.timer.set(None);
                        now.forget();
                    }
                    if state.is_past_deadline(policies, &mut now) {
                        this.stage.set(Stage::Done);
                        let cause = state.past_deadline();
                        return Poll::Ready(Err(state.fail(cause, policies, &mut now)));
                    }
                    this.stage.set(Stage::Admit);
                    continue;
                }
                StageProjection::Done => unreachable!("a future isn't polled after it is ready"),
            };

            // The attempt and its timer are over, whatever comes next.
            this.stage.set(Stage::Done);
            clear(this.timer.as_mut());
            let verdict = match &outcome {
                Outcome::Returned(result) => this.operation.classify(result.as_ref()),
                Outcome::TimedOut(_) => Verdict::transient().label(Label::Name("timeout")),
            };
            if verdict.is_success() {
                return Poll::Ready(state.finish(outcome, this.operation, policies, &mut now));
            }
            if !state.fails(verdict, this.operation, policies, &mut now) {
                return Poll::Ready(state.finish(outcome, this.operation, policies, &mut now));
            }
            match outcome {
                Outcome::Returned(Ok(value)) => {
                    let discard = this.operation.discard(value);
                    this.stage.set(Stage::Draining { discard });
                }
                _ => this.stage.set(Stage::Waiting),
            }
        }
    }
}

impl State {
    const fn new() -> Self {
        Self {
            call: 0,
            number: 0,
            began: None,
            deadline: None,
            limit: Duration::ZERO,
            wait: None,
            withdrawal: None,
            previous: None,
            progress: Progress::new(),
            draws: None,
            report: Report::new(),
        }
    }

    /// Begins the call, unless there is nothing to begin.
    fn start<E>(
        &mut self,
        policies: &Policies,
        deadline: Option<Deadline>,
        now: &mut Moment,
    ) -> Result<(), Cause<E>> {
        if let Some(error) = policies.invalid {
            return Err(Cause::Config(error));
        }
        if deadline.is_some() || policies.deadline.is_some() {
            let began = now.read(policies);
            self.began = Some(began);
            let own = policies
                .deadline
                .map(|length| Deadline::after(began, length));
            self.deadline = deadline.or(own);
            self.limit = self.deadline.map_or(Duration::ZERO, |end| end.left(began));
            if self.limit.is_zero() {
                return Err(self.past_deadline());
            }
        }
        if let Some(budget) = policies.budget() {
            if budget.deposit() {
                budget.tick(now.read(policies));
            }
        }
        Ok(())
    }

    /// Whether an attempt may go now (true), or has to wait first (false).
    fn admit<O: Operation>(
        &mut self,
        operation: &O,
        policies: &Policies,
        now: &mut Moment,
    ) -> Result<bool, Cause<O::Error>> {
        let Some(holds) = policies.holds.as_ref().filter(|holds| holds.any()) else {
            return Ok(true);
        };
        let Some(key) = operation.key() else {
            return Ok(true);
        };
        let at = now.read(policies);
        let Some(hold) = holds.get(key, at) else {
            return Ok(true);
        };
        let left = hold.until.saturating_duration_since(at);
        let room = self.deadline.map(|end| end.left(at));
        let room = room.map(|left| left.saturating_sub(policies.min_time_left));
        let attempt = self.number + 1;
        let observer = policies.observer.as_deref();
        if room.is_some_and(|room| left >= room) {
            self.report.retry_after = Some(left);
            self.report.retry_at = Some(hold.until);
            let reason = Reason::Held;
            tell(observer, &mut self.call, |call| Event::Reject {
                call,
                attempt,
                reason,
                retry_after: Some(left),
            });
            return Err(Cause::Rejected(Rejected::new(reason)));
        }
        let draws = self.draws.get_or_insert_with(|| policies.rng.draws());
        let wait = Wait {
            length: match &policies.retry {
                Some(retry) => retry.spread(hold.length, left, room, draws),
                None => left,
            },
            reason: WaitReason::Held,
        };
        self.began.get_or_insert(at);
        self.report.held = self.report.held.saturating_add(wait.length());
        self.wait = Some((wait, later(at, wait.length())));
        tell(observer, &mut self.call, |call| Event::Held {
            call,
            attempt,
            wait,
        });
        Ok(false)
    }

    /// Begins an attempt: from here on it counts, and what it cost is spent.
    fn begin(&mut self, policies: &Policies, now: &mut Moment) -> Attempt {
        self.number += 1;
        if let Some(withdrawal) = self.withdrawal.take() {
            withdrawal.spend();
        }
        let wait = self.wait.take();
        let elapsed = match self.began {
            Some(began) if self.number > 1 => now.read(policies).saturating_duration_since(began),
            _ => Duration::ZERO,
        };
        Attempt {
            number: self.number,
            elapsed,
            deadline: self.deadline.map(Deadline::instant),
            time_left: self.deadline.map(|end| end.left(now.read(policies))),
            delay: wait.map_or(Duration::ZERO, |(wait, _)| wait.length()),
            previous: self.previous,
        }
    }

    /// When the running attempt has to be over, and by which limit.
    fn attempt_ends(&mut self, policies: &Policies, now: &mut Moment) -> Option<(Instant, Why)> {
        // Asked when the attempt has been polled once: unless something had to be known before,
        // this is the first reading of the clock, and the attempt began just now.
        let at = now.read(policies);
        self.began.get_or_insert(at);
        let timeout = policies.timeout.map(|length| later(at, length));
        let deadline = self.deadline.map(Deadline::instant);
        match (timeout, deadline) {
            (None, None) => None,
            (Some(timeout), Some(deadline)) if timeout < deadline => {
                Some((timeout, Why::AttemptTimeout))
            }
            (Some(timeout), None) => Some((timeout, Why::AttemptTimeout)),
            (_, Some(deadline)) => Some((deadline, Why::Deadline)),
        }
    }

    /// Takes note of a failed attempt. Says whether another follows.
    fn fails<O: Operation>(
        &mut self,
        verdict: Verdict,
        operation: &O,
        policies: &Policies,
        now: &mut Moment,
    ) -> bool {
        let at = now.read(policies);
        let began = *self.began.get_or_insert(at);
        self.previous = Some(verdict);
        let hint = match verdict.server_hint() {
            Some(Hint::After(length)) => Some(length),
            Some(Hint::At(moment)) => Some(until(moment, policies.clock.wall())),
            Some(Hint::Never) | None => None,
        };
        if let (Some(holds), Some(hint), true) = (&policies.holds, hint, verdict.is_retryable()) {
            if let Some(key) = operation.key().filter(|_| !hint.is_zero()) {
                holds.set(key, at, hint);
            }
        }
        let decision = policies.retry.as_ref().map(|retry| {
            let failed = Failed {
                verdict,
                number: self.number,
                now: at,
                hint,
                deadline: self.deadline,
                least_time: policies.min_time_left,
                idempotent: operation.is_idempotent().unwrap_or(policies.idempotent),
                replayable: operation.is_replayable(),
            };
            let draws = self.draws.get_or_insert_with(|| policies.rng.draws());
            retry.decide(&failed, &mut self.progress, draws)
        });
        let decision = decision.unwrap_or(Decision::Stop {
            stop: Stop::NoRetryPolicy,
            wait: hint,
        });
        let attempt = self.number;
        let observer = policies.observer.as_deref();
        let budget = || policies.budget().map(crate::Budget::snapshot);
        let (wait, follows) = match decision {
            Decision::Again { wait, withdrawal } => {
                self.withdrawal = withdrawal;
                self.wait = Some((wait, later(at, wait.length())));
                tell(observer, &mut self.call, |call| Event::Retry {
                    call,
                    attempt,
                    verdict,
                    wait,
                    budget: budget(),
                });
                (Some(wait), true)
            }
            Decision::Stop { stop, wait } => {
                self.report.stop = Some(stop);
                self.report.retry_after = wait;
                self.report.retry_at = wait.and_then(|wait| at.checked_add(wait));
                tell(observer, &mut self.call, |call| Event::Stop {
                    call,
                    attempt,
                    verdict,
                    stop,
                    retry_after: wait,
                    budget: budget(),
                });
                (None, false)
            }
        };
        self.report.push(Failure {
            number: self.number,
            verdict,
            at: at.saturating_duration_since(began),
            wait,
        });
        follows
    }

    /// Gives the caller the last outcome, unchanged.
    fn finish<O: Operation>(
        &mut self,
        outcome: Outcome<O::Value, O::Error>,
        operation: &O,
        policies: &Policies,
        now: &mut Moment,
    ) -> Result<O::Value, Error<O::Error>> {
        match outcome {
            Outcome::Returned(Ok(mut value)) => {
                if self.report.is_worth_telling() {
                    operation.attach(&mut value, || self.report(policies, now));
                }
                Ok(value)
            }
            Outcome::Returned(Err(error)) => Err(self.fail(Cause::Operation(error), policies, now)),
            Outcome::TimedOut(length) => {
                let elapsed = Elapsed::new(Limit::Attempt, length);
                Err(self.fail(Cause::Elapsed(elapsed), policies, now))
            }
        }
    }

    fn fail<E>(&mut self, cause: Cause<E>, policies: &Policies, now: &mut Moment) -> Error<E> {
        Error::new(cause, self.report(policies, now))
    }

    fn report(&mut self, policies: &Policies, now: &mut Moment) -> Report {
        let mut report = std::mem::replace(&mut self.report, Report::new());
        report.attempts = self.number;
        report.elapsed = match self.began {
            Some(began) => now.read(policies).saturating_duration_since(began),
            None => Duration::ZERO,
        };
        report
    }

    fn is_past_deadline(&self, policies: &Policies, now: &mut Moment) -> bool {
        self.deadline
            .is_some_and(|end| end.left(now.read(policies)).is_zero())
    }

    const fn past_deadline<E>(&self) -> Cause<E> {
        Cause::Elapsed(Elapsed::new(Limit::Deadline, self.limit))
    }
}

impl Moment {
    fn read(&mut self, policies: &Policies) -> Instant {
        *self.0.get_or_insert_with(|| policies.clock.now())
    }

    /// Something may have taken time.
    const fn forget(&mut self) {
        self.0 = None;
    }
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

const fn why(wait: Wait) -> Why {
    match wait.reason() {
        WaitReason::Backoff => Why::Backoff,
        WaitReason::Held => Why::Held,
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
