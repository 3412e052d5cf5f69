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
//! Which stage it is in is a local of the poll, and noted in the call only where that has to wait.
//! A call goes straight to its first attempt if nothing stands in front of that but a deadline, a window and a
//! breaker that let it go at once, and if nobody is told of its success. It has little to remember before
//! something else comes of it, and then goes on through the stages. Time is read at most once between two events
//! of the outside world, and not at all where nothing needs it. Dropping the call at any stage drops
//! what it holds: the running attempt, the withdrawal of an attempt that never began, places in line
//! and permits, the timer.

use std::fmt;
use std::future::Future;
use std::mem;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use pin_project_lite::pin_project;
use tracing::Span;

use crate::attempt::Attempt;
use crate::chaos::Fault;
use crate::clock::{Sleep, Why};
use crate::deadline::Deadline;
use crate::endpoints;
use crate::error::{Cause, Error};
use crate::event::Change;
use crate::keyed::Key;
use crate::pipeline::operation::{Closure, Operation};
use crate::pipeline::state::{Basics, Entry, Held, Moment, Outcome, State, TIMED_OUT};
use crate::pipeline::{Policies, Way};
use crate::report::WaitReason;
use crate::span;
use crate::throttle::Priority;
use crate::verdict::Verdict;

pin_project! {
    /// A call under a pipeline's policies; made by [`Pipeline::run`](crate::Pipeline::run) and
    /// the other doors.
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops the running attempt. What was withdrawn from the budget for an attempt
    /// that never began goes back.
    #[must_use = "futures do nothing unless you .await or poll them"]
    #[project = Projection]
    pub struct Call<P, O: Operation> {
        policies: P,
        operation: O,
        stage: Stage,
        // Dropped before the state: an attempt that is given up is gone before its permits are.
        #[pin]
        work: Work<O::Attempt, O::Discard>,
        #[pin]
        progress: Progress,
    }
}

pin_project! {
    /// What a call remembers and holds.
    #[project = ProgressProjection]
    enum Progress {
        /// It began a moment ago. Most calls never need more.
        None,
        /// It goes straight to its first attempt, or did.
        Straight {
            basics: Basics,
            #[pin]
            timer: Option<Sleep>,
        },
        /// All there is to any other call.
        Whole {
            state: State,
            #[pin]
            timer: Option<Sleep>,
        },
    }
}

/// A call's own, lent for one stage.
struct Parts<'a, O: Operation> {
    policies: &'a Policies,
    operation: &'a mut O,
    work: Pin<&'a mut Work<O::Attempt, O::Discard>>,
    state: &'a mut State,
    timer: Pin<&'a mut Option<Sleep>>,
}

/// How far a call is.
#[derive(Clone, Copy)]
enum Stage {
    /// Nothing has happened yet.
    Start,
    /// Asks the policies in front of an attempt, and waits in their lines.
    Entering,
    /// Waits until the operation can begin an attempt, and asks the breaker.
    Ready,
    /// Something was injected into the attempt, and it has not begun.
    Injecting,
    /// An attempt runs.
    Running,
    /// A rejected value is being cleared away. Counts towards the wait.
    Draining,
    /// The wait before the next attempt.
    Waiting,
    /// The caller has its answer, or a poll that panicked.
    Done,
}

pin_project! {
    /// What the call polls beside its timer.
    #[project = WorkProjection]
    enum Work<A, D> {
        Attempt { #[pin] attempt: A },
        Discard { #[pin] discard: D },
        None,
    }
}

impl<P, O> Call<P, O>
where
    P: Deref<Target = Policies>,
    O: Operation,
{
    #[inline]
    pub(crate) fn new(policies: P, operation: O) -> Self {
        Self {
            policies,
            operation,
            stage: Stage::Start,
            work: Work::None,
            progress: Progress::None,
        }
    }

    #[inline]
    fn parts(self: Pin<&mut Self>) -> Parts<'_, O> {
        let mut this = self.project();
        if !matches!(*this.progress, Progress::Whole { .. }) {
            let basics = match this.progress.as_mut().project() {
                ProgressProjection::Straight { basics, .. } => mem::replace(basics, Basics::new()),
                _ => Basics::new(),
            };
            let state = State::new(this.operation.earlier_attempts(), basics);
            this.progress.set(Progress::Whole { state, timer: None });
        }
        let ProgressProjection::Whole { state, timer } = this.progress.project() else {
            unreachable!("made above");
        };
        Parts {
            policies: this.policies,
            operation: this.operation,
            work: this.work,
            state,
            timer,
        }
    }

    /// The same of a call that went straight to its first attempt, which is over, or whose time is.
    #[cold]
    #[inline(never)]
    fn parts_of_first(self: Pin<&mut Self>) -> Parts<'_, O> {
        let parts = self.parts();
        parts.state.number = 1;
        parts
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

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.as_mut().project();
        // Left at that by the call's end, and by a panic of anything that it calls.
        let at = mem::replace(this.stage, Stage::Done);
        let policies: &Policies = this.policies;
        let mut now = Moment(None);
        let is_straight = match at {
            Stage::Start => policies.way != Way::Guarded && !span::may_be_wanted(),
            Stage::Running => matches!(*this.progress, Progress::Straight { .. }),
            _ => false,
        };
        if !is_straight {
            return self.drive(at, &mut now, cx);
        }
        match self.as_mut().go_straight(at, cx, &mut now) {
            Ok(value) => Poll::Ready(Ok(value)),
            Err(Turn::Goes(at)) => self.drive(at, &mut now, cx),
            Err(Turn::Waits(at)) => {
                *self.project().stage = at;
                Poll::Pending
            }
            Err(Turn::Ends(result)) => Poll::Ready(result),
        }
    }
}

/// The stages.
impl<P, O> Call<P, O>
where
    P: Deref<Target = Policies>,
    O: Operation,
{
    /// The first attempt of a call that nothing holds up, and of whose success nobody is told: as all of them in
    /// [`drive`](Self::drive), less what can't be.
    #[allow(clippy::inline_always)] // or what comes of it goes through memory
    #[inline(always)]
    fn go_straight(
        mut self: Pin<&mut Self>,
        at: Stage,
        cx: &mut Context<'_>,
        now: &mut Moment,
    ) -> Result<O::Value, Turn<O>> {
        let mut this = self.as_mut().project();
        if let Stage::Start = at {
            let policies: &Policies = this.policies;
            let mut deadline = None;
            if policies.way == Way::Plain || this.operation.deadline().is_some() {
                let basics = Basics::new();
                this.progress.set(Progress::Straight {
                    basics,
                    timer: None,
                });
                let ProgressProjection::Straight { basics, .. } = this.progress.as_mut().project()
                else {
                    unreachable!("made above");
                };
                if let Err(change) = basics.start_plainly(this.operation, policies, now) {
                    return Err(self.enter(change));
                }
                deadline = basics.told_deadline(policies, now);
            }
            let Poll::Ready(ready) = this.operation.poll_ready(cx) else {
                return Err(self.await_readiness(cx, now));
            };
            if let Err(error) = ready {
                return Err(self.fail_first(error, cx, now));
            }
            if let ProgressProjection::Straight { basics, .. } = this.progress.as_mut().project() {
                if !basics.may_begin_plainly() {
                    return Err(Turn::Goes(Stage::Ready));
                }
            }
            policies.deposit(policies.budget(), now.0);
            let attempt = Attempt::first(this.operation.earlier_attempts(), deadline);
            let last = policies.is_last(attempt.total());
            let attempt = this.operation.begin(attempt, None, last);
            this.work.set(Work::Attempt { attempt });
        }
        let Poll::Ready(result) = poll_attempt(this.work.as_mut(), None, cx) else {
            if self.as_mut().is_first_over(cx, now) {
                now.forget();
                return Err(self.parts_of_first().time_out(now));
            }
            return Err(Turn::Waits(Stage::Running));
        };
        this.work.set(Work::None);
        if let ProgressProjection::Straight { timer, .. } = this.progress.as_mut().project() {
            clear(timer);
        }
        let verdict = this.operation.classify(result.as_ref());
        let mut is_all = result.is_ok() && verdict.is_success();
        if let ProgressProjection::Straight { basics, .. } = this.progress.project() {
            is_all = is_all && basics.succeeds_plainly(this.policies, now);
        }
        match result {
            Ok(value) if is_all => Ok(value),
            result => {
                if result.is_err() {
                    now.forget();
                }
                let outcome = Outcome::Returned(result);
                Err(self.parts_of_first().judge(outcome, verdict, now))
            }
        }
    }

    /// Whether the time of a pending first attempt is over.
    #[inline(never)]
    fn is_first_over(self: Pin<&mut Self>, cx: &mut Context<'_>, now: &mut Moment) -> bool {
        let mut this = self.project();
        let policies: &Policies = this.policies;
        if let Progress::None = *this.progress {
            let basics = Basics::new();
            this.progress.set(Progress::Straight {
                basics,
                timer: None,
            });
        }
        let ProgressProjection::Straight { basics, timer } = this.progress.project() else {
            unreachable!("made above");
        };
        let end = || basics.attempt_ends(policies, now);
        is_over(timer, end, policies, cx)
    }

    /// All of them, from any one on.
    fn drive(
        mut self: Pin<&mut Self>,
        mut at: Stage,
        now: &mut Moment,
        cx: &mut Context<'_>,
    ) -> Poll<Result<O::Value, Error<O::Error>>> {
        let mut turns = 0;
        loop {
            let mut this = self.as_mut().parts();
            let policies = this.policies;
            let state = &mut *this.state;
            let turn = 'turn: {
                if let Stage::Start = at {
                    if let Some(error) = policies.invalid {
                        break 'turn this.fail(Cause::Config(error), now);
                    }
                    state.basics.start(policies, this.operation.deadline(), now);
                    at = Stage::Entering;
                }
                if let Stage::Entering = at {
                    match state.enter(this.operation, policies, cx.waker(), now) {
                        Entry::Go => clear(this.timer.as_mut()),
                        entry => {
                            break 'turn self.as_mut().stand_in_line(entry, cx, now, &mut turns);
                        }
                    }
                    at = Stage::Ready;
                }
                if let Stage::Ready = at {
                    let Poll::Ready(ready) = this.operation.poll_ready(cx) else {
                        break 'turn self.as_mut().await_readiness(cx, now);
                    };
                    clear(this.timer.as_mut());
                    // Asked last of all: waiting for readiness may have taken long.
                    match state.pass_breaker(this.operation, policies, cx.waker(), now) {
                        Entry::Go => {}
                        entry => break 'turn self.as_mut().step_back(entry, now),
                    }
                    state.begin(policies, now);
                    if let Err(error) = ready {
                        break 'turn this.end(Outcome::Returned(Err(error)), now);
                    }
                    let mut endpoint = None;
                    if policies.endpoints.is_some() {
                        endpoint = state.choose(this.operation, policies, now);
                    }
                    // After the choice: the endpoint is to see what is injected.
                    if policies.chaos.is_some() {
                        let attempt = state.attempt(endpoint, policies, now);
                        if state.inject(attempt, this.operation, policies, now) {
                            if span::may_be_wanted() {
                                state.open_span(this.operation);
                            }
                            break 'turn Turn::Goes(Stage::Injecting);
                        }
                    }
                    this.launch(endpoint, now);
                    at = Stage::Running;
                }
                match at {
                    Stage::Running => match this.run(cx, now) {
                        Ok(value) => return Poll::Ready(Ok(value)),
                        Err(turn) => turn,
                    },
                    Stage::Injecting => self.as_mut().hold(cx, now),
                    Stage::Draining => self.as_mut().drain(cx, now),
                    Stage::Waiting => self.as_mut().wait(cx, now, &mut turns),
                    _ => unreachable!("a future isn't polled after it is ready"),
                }
            };
            match turn {
                Turn::Goes(next) => at = next,
                Turn::Waits(next) => {
                    *self.project().stage = next;
                    return Poll::Pending;
                }
                Turn::Ends(result) => return Poll::Ready(result),
            }
        }
    }
}

impl<O: Operation> Parts<'_, O> {
    /// The attempt that has begun is made.
    #[allow(clippy::inline_always)] // what the attempt is told is written only where it looks
    #[inline(always)]
    fn launch(&mut self, endpoint: Option<endpoints::Id>, now: &mut Moment) {
        if span::may_be_wanted() {
            self.state.open_span(self.operation);
        }
        let attempt = self.state.attempt(endpoint, self.policies, now);
        let attempt = begin(self.state, self.operation, attempt, self.policies);
        self.work.set(Work::Attempt { attempt });
    }

    /// Polls the attempt.
    #[allow(clippy::inline_always)] // or what comes of it goes through memory
    #[inline(always)]
    fn run(mut self, cx: &mut Context<'_>, now: &mut Moment) -> Result<O::Value, Turn<O>> {
        let span = self.state.span.as_deref();
        let mut polled = poll_attempt(self.work.as_mut(), span, cx);
        // What came is looked at where it lies: it may be large.
        let Poll::Ready(result) = &mut polled else {
            return Err(self.await_attempt(cx, now));
        };
        self.work.set(Work::None);
        clear(self.timer.as_mut());
        let (state, policies) = (&mut *self.state, self.policies);
        if result.is_err() || state.is_measured(policies) {
            now.forget();
        }
        // An answer can be lost, a failure of its own can't.
        if result.is_ok() && state.loses_answer() {
            let outcome = state.imitate(Fault::Lost, self.operation);
            return Err(self.end(outcome, now));
        }
        let verdict = self.operation.classify(result.as_ref());
        if let (Ok(value), true) = (result, verdict.is_success()) {
            let operation = &*self.operation;
            state.succeeds(Some(&*value), operation, policies, now);
            state.hand_over(value, operation, policies, now);
        }
        match polled {
            Poll::Ready(Ok(value)) if verdict.is_success() => Ok(value),
            Poll::Ready(result) => Err(self.judge(Outcome::Returned(result), verdict, now)),
            Poll::Pending => unreachable!("it was looked at"),
        }
    }

    /// The attempt isn't over: perhaps its time is.
    #[allow(clippy::inline_always)] // or what comes of it goes through memory
    #[inline(always)]
    fn await_attempt(mut self, cx: &mut Context<'_>, now: &mut Moment) -> Turn<O> {
        let (state, policies) = (&mut *self.state, self.policies);
        if is_time_over(state, self.timer.as_mut(), policies, cx, now) {
            now.forget();
            return self.time_out(now);
        }
        Turn::Waits(Stage::Running)
    }
}

/// What a call that succeeds at once doesn't come to: out of its way, so that its way is short.
impl<P, O> Call<P, O>
where
    P: Deref<Target = Policies>,
    O: Operation,
{
    /// What stands in front of an attempt didn't let it go.
    #[cold]
    fn stand_in_line(
        self: Pin<&mut Self>,
        entry: Entry<O::Error>,
        cx: &mut Context<'_>,
        now: &mut Moment,
        turns: &mut u32,
    ) -> Turn<O> {
        let mut this = self.parts();
        match entry {
            Entry::Go => Turn::Goes(Stage::Ready),
            Entry::Wait(until, reason) => {
                this.operation.stand_down();
                let Some(until) = until else {
                    clear(this.timer);
                    return Turn::Waits(Stage::Entering);
                };
                // Its turn may have come nearer since the timer was made.
                if this.state.moves_turn(until) {
                    this.timer.set(None);
                }
                let end = || Some((until, why(reason)));
                if !is_over(this.timer.as_mut(), end, this.policies, cx) {
                    return Turn::Waits(Stage::Entering);
                }
                this.timer.set(None);
                now.forget();
                again(cx, turns)
            }
            Entry::Back => {
                this.operation.stand_down();
                clear(this.timer);
                Turn::Goes(Stage::Waiting)
            }
            Entry::Refused(cause) => this.fail(cause, now),
        }
    }

    /// Something in front of the first attempt didn't let it go at once, or has to be told.
    #[cold]
    fn enter(self: Pin<&mut Self>, change: Option<Change>) -> Turn<O> {
        let parts = self.parts();
        parts.state.tell_first(change, parts.policies);
        Turn::Goes(Stage::Entering)
    }

    /// The operation can't begin a first attempt, and never will.
    #[cold]
    fn fail_first(
        mut self: Pin<&mut Self>,
        error: O::Error,
        cx: &mut Context<'_>,
        now: &mut Moment,
    ) -> Turn<O> {
        let parts = self.as_mut().parts();
        let (state, policies) = (parts.state, parts.policies);
        match state.pass_breaker(parts.operation, policies, cx.waker(), now) {
            Entry::Go => {
                state.begin(policies, now);
                self.parts().end(Outcome::Returned(Err(error)), now)
            }
            entry => self.step_back(entry, now),
        }
    }

    /// The operation can't begin an attempt yet.
    #[cold]
    fn await_readiness(self: Pin<&mut Self>, cx: &mut Context<'_>, now: &mut Moment) -> Turn<O> {
        let mut this = self.parts();
        let deadline = this.state.basics.deadline;
        let end = || deadline.map(|end| (end.instant(), Why::Deadline));
        if !is_over(this.timer.as_mut(), end, this.policies, cx) {
            return Turn::Waits(Stage::Ready);
        }
        let cause = this.state.past_deadline();
        this.fail(cause, now)
    }

    /// The breaker didn't let an attempt go that was ready.
    #[cold]
    fn step_back(self: Pin<&mut Self>, entry: Entry<O::Error>, now: &mut Moment) -> Turn<O> {
        let this = self.parts();
        let stage = match entry {
            Entry::Go => return Turn::Goes(Stage::Ready),
            Entry::Refused(cause) => return this.fail(cause, now),
            Entry::Wait(..) => Stage::Entering,
            Entry::Back => Stage::Waiting,
        };
        this.operation.stand_down();
        Turn::Goes(stage)
    }

    /// Something was injected into the attempt.
    #[cold]
    fn hold(self: Pin<&mut Self>, cx: &mut Context<'_>, now: &mut Moment) -> Turn<O> {
        let mut this = self.parts();
        match this.state.held(this.policies, now) {
            Held::Begin(attempt) => {
                clear(this.timer);
                let attempt = begin(this.state, this.operation, attempt, this.policies);
                this.work.set(Work::Attempt { attempt });
                Turn::Goes(Stage::Running)
            }
            Held::Fault(fault) => {
                let outcome = this.state.imitate(fault, this.operation);
                this.operation
                    .forgo(this.policies.is_last(this.state.spent()));
                this.end(outcome, now)
            }
            Held::Until(None) => {
                clear(this.timer);
                Turn::Waits(Stage::Injecting)
            }
            // The end of the delay and of the attempt share the one timer.
            Held::Until(next) => {
                if !is_over(this.timer.as_mut(), || next, this.policies, cx) {
                    return Turn::Waits(Stage::Injecting);
                }
                this.timer.set(None);
                now.forget();
                Turn::Goes(Stage::Injecting)
            }
            Held::TimedOut => {
                this.operation
                    .forgo(this.policies.is_last(this.state.spent()));
                this.time_out(now)
            }
        }
    }

    /// A rejected value is being cleared away.
    #[cold]
    fn drain(self: Pin<&mut Self>, cx: &mut Context<'_>, now: &mut Moment) -> Turn<O> {
        let mut this = self.parts();
        let policies = this.policies;
        if let WorkProjection::Discard { discard } = this.work.as_mut().project() {
            if discard.poll(cx).is_pending() {
                let end = || {
                    let end = this.state.drain_ends(DRAIN_TIME, policies, now);
                    Some((end, Why::Drain))
                };
                if !is_over(this.timer.as_mut(), end, policies, cx) {
                    return Turn::Waits(Stage::Draining);
                }
            }
        }
        now.forget();
        clear(this.timer);
        this.work.set(Work::None);
        Turn::Goes(Stage::Waiting)
    }

    /// The wait before the next attempt.
    #[cold]
    fn wait(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        now: &mut Moment,
        turns: &mut u32,
    ) -> Turn<O> {
        let mut this = self.parts();
        let (wait, end) = this.state.wait().expect("a wait was set with the stage");
        if wait.length().is_zero() {
            // Attempts that are ready at once must not keep the thread for ever.
            return again(cx, turns);
        }
        let end = || Some((end, why(wait.reason())));
        if !is_over(this.timer.as_mut(), end, this.policies, cx) {
            return Turn::Waits(Stage::Waiting);
        }
        this.timer.set(None);
        now.forget();
        Turn::Goes(Stage::Entering)
    }
}

impl<O: Operation> Parts<'_, O> {
    /// A limit ended the attempt: its own, or the call's.
    #[cold]
    fn time_out(self, now: &mut Moment) -> Turn<O> {
        let policies = self.policies;
        if self.state.basics.is_past_deadline(policies, now) {
            self.state.cut_short(self.operation, policies, now);
            let cause = self.state.past_deadline();
            return self.fail(cause, now);
        }
        let length = policies.timeout.unwrap_or_default();
        self.end(Outcome::TimedOut(length), now)
    }

    /// The attempt came to something else than what it returned.
    fn end(mut self, outcome: Outcome<O::Value, O::Error>, now: &mut Moment) -> Turn<O> {
        // Whatever ran is over, and so is its timer.
        self.work.set(Work::None);
        clear(self.timer.as_mut());
        let verdict = match &outcome {
            Outcome::Returned(result) => self.operation.classify(result.as_ref()),
            Outcome::Injected => self.state.injected().1,
            Outcome::TimedOut(_) => TIMED_OUT,
        };
        self.judge(outcome, verdict, now)
    }

    /// The attempt is over, and no plain success.
    #[cold]
    fn judge(
        mut self,
        outcome: Outcome<O::Value, O::Error>,
        verdict: Verdict,
        now: &mut Moment,
    ) -> Turn<O> {
        let (state, policies) = (self.state, self.policies);
        let follows = if verdict.is_success() {
            state.succeeds(outcome.value(), self.operation, policies, now);
            false
        } else {
            if outcome.value().is_some() {
                now.forget();
            }
            state.fails(&verdict, &outcome, self.operation, policies, now)
        };
        match outcome {
            outcome if !follows => Turn::Ends(state.finish(outcome, self.operation, policies, now)),
            Outcome::Returned(Ok(value)) => {
                let discard = self.operation.discard(value);
                self.work.set(Work::Discard { discard });
                Turn::Goes(Stage::Draining)
            }
            _ => Turn::Goes(Stage::Waiting),
        }
    }

    /// A policy ends the call.
    #[cold]
    fn fail(mut self, cause: Cause<O::Error>, now: &mut Moment) -> Turn<O> {
        self.work.set(Work::None);
        clear(self.timer);
        self.operation.stand_down();
        let error = self.state.fail(cause, self.operation, self.policies, now);
        Turn::Ends(Err(error))
    }
}

/// How a call goes on.
enum Turn<O: Operation> {
    /// At once.
    Goes(Stage),
    /// When it is polled again.
    Waits(Stage),
    /// It doesn't.
    Ends(Result<O::Value, Error<O::Error>>),
}

/// Asks for the next attempt without having waited.
fn again<O: Operation>(cx: &mut Context<'_>, turns: &mut u32) -> Turn<O> {
    *turns += 1;
    if *turns < MAX_TURNS {
        return Turn::Goes(Stage::Entering);
    }
    cx.waker().wake_by_ref();
    Turn::Waits(Stage::Entering)
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

#[inline]
fn poll_attempt<A: Future, D>(
    work: Pin<&mut Work<A, D>>,
    span: Option<&Span>,
    cx: &mut Context<'_>,
) -> Poll<A::Output> {
    let WorkProjection::Attempt { attempt } = work.project() else {
        unreachable!("an attempt was set with the stage");
    };
    match span {
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

/// Whether the timer is over. It is made only where there is none, to end at that moment; without a
/// moment it never is.
#[inline]
fn is_over(
    mut timer: Pin<&mut Option<Sleep>>,
    end: impl FnOnce() -> Option<(Instant, Why)>,
    policies: &Policies,
    cx: &mut Context<'_>,
) -> bool {
    if timer.is_none() {
        let Some((end, why)) = end() else {
            return false;
        };
        policies.clock.set_timer(timer.as_mut(), end, why);
    }
    let timer = timer.as_pin_mut();
    timer.is_none_or(|timer| timer.poll(cx).is_ready())
}

/// Whether the time of the running attempt is over.
#[inline(never)]
fn is_time_over(
    state: &mut State,
    timer: Pin<&mut Option<Sleep>>,
    policies: &Policies,
    cx: &mut Context<'_>,
    now: &mut Moment,
) -> bool {
    let end = || state.basics.attempt_ends(policies, now);
    is_over(timer, end, policies, cx)
}

/// Most attempts are over before they needed a timer.
#[inline]
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
        let attempts = match &self.progress {
            Progress::None => 0,
            Progress::Straight { .. } => u32::from(matches!(self.stage, Stage::Running)),
            Progress::Whole { state, .. } => state.number,
        };
        f.debug_struct("Call")
            .field("attempts", &attempts)
            .finish_non_exhaustive()
    }
}

/// A rejected body that hasn't arrived whole by then costs more than a new connection.
const DRAIN_TIME: Duration = Duration::from_millis(50);

/// Retries without a wait in one poll before other tasks get their turn.
const MAX_TURNS: u32 = 32;
