//! What a call remembers from poll to poll, and what it does with it.
//!
//! A call that succeeds at once needs no more than its [`Basics`]. All else is a [`Story`], which begins
//! with the first failure or wait.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use tracing::Span;

use crate::attempt::{Attempt, History};
use crate::breaker::{self, Mode};
use crate::budget::{Budget, Withdrawal};
use crate::chaos::{Fault, Imitation, Injected, Injection};
use crate::clock::{Why, until};
use crate::deadline::{Deadline, later};
use crate::diagnosis::{self, Diagnosis, Observation, Symptoms};
use crate::endpoints::{self, Ended, Endpoint, Hold, Tried};
use crate::error::{Cause, Elapsed, Error, Limit, Reason, Rejected};
use crate::event::{Change, End, Event, is_heard, number, tell};
use crate::gate::{self, Answer, Ask, Gate, Pass};
use crate::keyed::Key;
use crate::pipeline::gates::Passes;
use crate::pipeline::operation::Operation;
use crate::pipeline::{Policies, Scope};
use crate::report::{Failure, Report, Stop, Wait, WaitReason};
use crate::retry::{Courses, Decision, Failed};
use crate::rng::Draws;
use crate::span;
use crate::verdict::{Circumstances, Hint, Kind, Label, Verdict};

/// What a call remembers from poll to poll.
#[derive(Debug)]
pub(super) struct State {
    /// The number events know the call by; zero while there was none.
    call: u64,
    /// Attempts begun.
    pub(super) number: u32,
    /// Attempts that others made for this call: they count as if they were its own.
    pub(super) earlier: u32,
    pub(super) basics: Basics,
    /// What the running attempt holds of its endpoint.
    endpoint: Rare<Hold>,
    /// The budget of its service, where each has its own.
    budget: Rare<Budget>,
    story: Rare<Box<Story>>,
    /// What was injected into the running attempt.
    injected: Rare<Box<Injecting>>,
    pub(super) span: Rare<Box<Span>>,
}

/// What a call remembers and holds whose first attempt simply succeeds.
#[derive(Debug)]
pub(super) struct Basics {
    /// When the call began; unread while nothing needed it.
    began: Option<Instant>,
    /// When the running attempt was first seen to be pending.
    sent: Option<Instant>,
    pub(super) deadline: Option<Deadline>,
    /// What it holds of the gates in front of its attempts.
    passes: Option<Passes>,
}

/// What most calls don't have. To let go of nothing costs a comparison: what the rest costs is out of the
/// way.
#[derive(Debug)]
pub(super) struct Rare<T>(Option<T>);

impl<T> Drop for Rare<T> {
    #[inline]
    fn drop(&mut self) {
        #[cold]
        #[inline(never)]
        fn let_go<T>(it: T) {
            drop(it);
        }
        if self.0.is_some() {
            let_go(self.0.take());
        }
    }
}

impl<T> Deref for Rare<T> {
    type Target = Option<T>;

    #[inline]
    fn deref(&self) -> &Option<T> {
        &self.0
    }
}

impl<T> DerefMut for Rare<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Option<T> {
        &mut self.0
    }
}

/// What a call remembers once it did not simply succeed.
#[derive(Debug)]
struct Story {
    /// The wait before the next attempt, and its end.
    wait: Option<(Wait, Instant)>,
    /// Since when it waits in line, if it does.
    parked: Option<Instant>,
    /// When its turn is to come, by what it was told last.
    turn: Option<Instant>,
    /// How long it waited for the breaker.
    breaker_waits: Duration,
    withdrawal: Option<Withdrawal>,
    /// What the running attempt was told of what was before it.
    history: History,
    /// The endpoints that it failed on.
    tried: Tried,
    courses: Courses,
    draws: Draws,
    report: Report,
}

/// An attempt into which something was injected.
#[derive(Debug)]
struct Injecting {
    /// As it was when it began: a slow network doesn't change what is on its way either.
    attempt: Attempt,
    /// The end of the delay, if there is one.
    until: Option<Instant>,
    fault: Option<Fault>,
    /// What the fault means, where no real outcome could be made of it.
    verdict: Option<Verdict>,
}

/// How an attempt stands into which something was injected.
pub(super) enum Held {
    /// The delay is over: it is really made.
    Begin(Attempt),
    /// The delay is over: this comes of it.
    Fault(Fault),
    /// Nothing before this moment, and nothing ever without one.
    Until(Option<(Instant, Why)>),
    /// A limit passed, of the attempt or of the call.
    TimedOut,
}

/// What one attempt came to.
pub(super) enum Outcome<T, E> {
    /// A fault of which no real outcome could be made; see [`State::injected`].
    Injected,
    Returned(Result<T, E>),
    TimedOut(Duration),
}

impl<T, E> Outcome<T, E> {
    pub(super) const fn value(&self) -> Option<&T> {
        match self {
            Self::Returned(Ok(value)) => Some(value),
            _ => None,
        }
    }

    fn came<'a>(&'a self, verdict: &'a Verdict, hint: Option<Duration>) -> Came<'a, T> {
        Came {
            verdict,
            hint,
            value: self.value(),
            timed_out: matches!(self, Self::TimedOut(_)),
        }
    }
}

/// Whether an attempt may begin.
pub(super) enum Entry<E> {
    Go,
    /// It waits in line; asking again may be of use at this moment.
    Wait(Option<Instant>, WaitReason),
    /// It waits for the breaker; see [`State::wait`].
    Back,
    Refused(Cause<E>),
}

/// What the gates and the endpoint of an attempt are told of its end.
struct Came<'a, T> {
    verdict: &'a Verdict,
    hint: Option<Duration>,
    value: Option<&'a T>,
    timed_out: bool,
}

/// One moment, read at most once until something may have taken time.
pub(super) struct Moment(pub(super) Option<Instant>);

impl State {
    /// Of a call for which others made attempts before it.
    pub(super) const fn new(earlier: u32, basics: Basics) -> Self {
        Self {
            call: 0,
            number: 0,
            earlier,
            basics,
            endpoint: Rare(None),
            budget: Rare(None),
            story: Rare(None),
            injected: Rare(None),
            span: Rare(None),
        }
    }

    /// Before the first attempt: its keys were too many.
    pub(super) fn tell_first(&mut self, change: Option<Change>, policies: &Policies) {
        self.tell_change(change, 1, policies);
    }

    /// Asks what stands in front of an attempt, but for the breaker.
    #[inline]
    pub(super) fn enter<O: Operation>(
        &mut self,
        operation: &mut O,
        policies: &Policies,
        waker: &Waker,
        now: &mut Moment,
    ) -> Entry<O::Error> {
        if self.basics.is_past_deadline(policies, now) {
            return Entry::Refused(self.past_deadline());
        }
        if self.number == 0 && policies.has_keyed_budgets() {
            *self.budget = policies.budget_of(operation.learn_key(), || now.read(policies));
        }
        if self.basics.passes.is_none() {
            if !policies.is_gated {
                return Entry::Go;
            }
            let overflow = self.basics.fill(operation, policies, now);
            if overflow.is_some() {
                self.tell_change(overflow, self.number + 1, policies);
            }
        }
        let passes = self.basics.passes.as_mut().expect("made above");
        if !passes.are_many() {
            return Entry::Go;
        }
        let mut ask = ask(
            operation,
            policies,
            self.basics.deadline,
            self.number + 1,
            waker,
            now,
        );
        let denied = passes.enter(&mut ask);
        now.0 = ask.moment;
        let Some((reason, answer)) = denied else {
            if self.story.is_some() {
                self.unpark(policies, now);
            }
            return Entry::Go;
        };
        match answer {
            Answer::Go(()) => Entry::Go,
            Answer::Wait(until) => {
                // At the latest moment it has to be asked again, to be refused.
                let until = until.into_iter().chain(ask.latest).min();
                self.park(reason, until, policies, now)
            }
            Answer::Refuse(rejected) => self.refused(rejected, policies, now),
        }
    }

    /// Asks the breaker: last of all, for everything before may have taken long. `Wait`: so long that
    /// it has to stand in line again.
    #[inline]
    pub(super) fn pass_breaker<O: Operation>(
        &mut self,
        operation: &O,
        policies: &Policies,
        waker: &Waker,
        now: &mut Moment,
    ) -> Entry<O::Error> {
        if self.basics.is_past_deadline(policies, now) {
            return Entry::Refused(self.past_deadline());
        }
        let Some(passes) = &mut self.basics.passes else {
            return Entry::Go;
        };
        if passes.are_stale() {
            return Entry::Wait(None, WaitReason::Window);
        }
        let breaker = passes.breaker.as_mut();
        if breaker.is_none_or(Pass::ask_plainly) {
            return Entry::Go;
        }
        self.ask_breaker(operation, policies, waker, now)
    }

    /// It is open, or on its way back, or has news.
    #[cold]
    fn ask_breaker<O: Operation>(
        &mut self,
        operation: &O,
        policies: &Policies,
        waker: &Waker,
        now: &mut Moment,
    ) -> Entry<O::Error> {
        let passes = self.basics.passes.as_mut();
        let Some(breaker) = passes.and_then(|passes| passes.breaker.as_mut()) else {
            return Entry::Go;
        };
        let mut ask = ask(
            operation,
            policies,
            self.basics.deadline,
            self.number + 1,
            waker,
            now,
        );
        let denied = match breaker.ask(&mut ask) {
            Answer::Go(()) | Answer::Wait(_) => None,
            Answer::Refuse(rejected) => Some(rejected),
        };
        now.0 = ask.moment;
        let news = breaker.news().or(ask.news);
        let would_refuse = breaker.would_refuse();
        self.tell_change(news, self.number + 1, policies);
        if let Some(reason) = would_refuse {
            let (attempt, key) = (self.number + 1, self.key());
            let observer = policies.observer.as_deref();
            tell(observer, &mut self.call, |call| Event::WouldReject {
                call,
                attempt,
                key,
                reason,
            });
        }
        match denied {
            None => Entry::Go,
            Some(rejected) => self.refused(rejected, policies, now),
        }
    }

    /// An attempt waits in line.
    #[cold]
    fn park<E>(
        &mut self,
        reason: WaitReason,
        until: Option<Instant>,
        policies: &Policies,
        now: &mut Moment,
    ) -> Entry<E> {
        let at = now.read(policies);
        let passes = self.basics.passes.as_ref();
        if let Some(breaker) = passes.and_then(|passes| passes.breaker.as_ref()) {
            // No use in waiting for a turn that an open breaker will refuse.
            if let Some(until) = breaker.gate().closed_until(at) {
                let (reason, retry_at) = (Reason::BreakerOpen, Some(until));
                return self.refused(Rejected::new(reason, retry_at), policies, now);
            }
        }
        self.basics.began.get_or_insert(at);
        let (attempt, key) = (self.number + 1, self.key());
        let story = self.story.get_or_insert_with(|| Story::new(policies));
        if story.parked.is_none() {
            story.parked = Some(at);
            let wait = until.map(|until| until.saturating_duration_since(at));
            let observer = policies.observer.as_deref();
            tell(observer, &mut self.call, |call| Event::Parked {
                call,
                attempt,
                key,
                reason,
                wait,
            });
        }
        Entry::Wait(until, reason)
    }

    /// Its turn comes at that moment. Says whether that is news.
    pub(super) fn moves_turn(&mut self, until: Instant) -> bool {
        let story = self.story.as_mut().expect("made when it was parked");
        story.turn.replace(until) != Some(until)
    }

    /// It waits no more.
    fn unpark(&mut self, policies: &Policies, now: &mut Moment) {
        let Some(story) = self.story.as_mut() else {
            return;
        };
        if let Some(since) = story.parked.take() {
            let length = now.read(policies).saturating_duration_since(since);
            story.report.parked = story.report.parked.saturating_add(length);
        }
    }

    /// A policy refused the attempt. A retry that finds the breaker open waits for it, if the
    /// deadline allows.
    #[cold]
    fn refused<E>(
        &mut self,
        rejected: Rejected,
        policies: &Policies,
        now: &mut Moment,
    ) -> Entry<E> {
        let Rejected { reason, retry_at } = rejected;
        self.unpark(policies, now);
        if let Some(passes) = &mut self.basics.passes {
            passes.give_back();
        }
        let at = now.read(policies);
        let left = retry_at.map(|then| then.saturating_duration_since(at));
        // A probe is out, and when it comes back nobody knows.
        let probing = self.number > 0 && self.is_probed(at);
        let room = self.basics.deadline.map(|end| end.left(at));
        let room = room.map(|left| left.saturating_sub(policies.min_time_left));
        let (attempt, key) = (self.number + 1, self.key());
        let observer = policies.observer.as_deref();
        let story = self.story.get_or_insert_with(|| Story::new(policies));
        if reason == Reason::BreakerOpen && self.number > 0 {
            // Never at once, or a full half-open breaker would make a hot loop.
            let length = left.map(|left| left.max(LEAST_BREAKER_WAIT));
            let length = if probing { Some(PROBE_WAIT) } else { length };
            let patience = MAX_BREAKER_WAIT.saturating_sub(story.breaker_waits);
            let room = room.unwrap_or(patience);
            if let Some(length) = length.filter(|length| *length < room) {
                story.breaker_waits = story.breaker_waits.saturating_add(length);
                let reason = WaitReason::Breaker;
                story.wait = Some((Wait { length, reason }, later(at, length)));
                story.report.parked = story.report.parked.saturating_add(length);
                tell(observer, &mut self.call, |call| Event::Parked {
                    call,
                    attempt,
                    key,
                    reason,
                    wait: Some(length),
                });
                return Entry::Back;
            }
        }
        story.report.retry_after = left;
        story.report.retry_at = retry_at;
        tell(observer, &mut self.call, |call| Event::Reject {
            call,
            attempt,
            key,
            reason,
            retry_after: left,
        });
        Entry::Refused(Cause::Rejected(rejected))
    }

    /// Whether the breaker is half-open, and so will let something through again soon.
    fn is_probed(&self, at: Instant) -> bool {
        let breaker = self
            .basics
            .passes
            .as_ref()
            .and_then(|it| it.breaker.as_ref());
        let snapshot = breaker.map(|it| it.gate().snapshot(at));
        snapshot
            .is_some_and(|it| it.mode == Mode::Automatic && it.state == breaker::State::HalfOpen)
    }

    /// Begins an attempt: from here on it counts, and what it cost is spent.
    #[inline]
    pub(super) fn begin(&mut self, policies: &Policies, now: &mut Moment) {
        self.number += 1;
        self.basics.sent = None;
        if let Some(passes) = &mut self.basics.passes {
            passes.begin();
        }
        if self.number == 1 {
            let budget = self.budget.as_ref().or(policies.budget());
            policies.deposit(budget, now.0);
        }
        if self.story.is_some() {
            self.look_back(policies, now);
        }
    }

    /// What the operation is told of the attempt that begins.
    #[allow(clippy::inline_always)] // most look at little of it, and the rest need not be written
    #[inline(always)]
    pub(super) fn attempt(
        &self,
        endpoint: Option<endpoints::Id>,
        policies: &Policies,
        now: &mut Moment,
    ) -> Attempt {
        let story = self.story.as_ref();
        Attempt {
            number: self.number,
            total: self.spent(),
            deadline: self.basics.told_deadline(policies, now),
            history: story.map_or(History::NONE, |story| story.history),
            endpoint,
        }
    }

    /// What was withdrawn for the attempt that begins is spent, and what was before it is history.
    #[cold]
    fn look_back(&mut self, policies: &Policies, now: &mut Moment) {
        let Some(story) = self.story.as_mut() else {
            return;
        };
        if let Some(withdrawal) = story.withdrawal.take() {
            withdrawal.spend();
        }
        let at = now.read(policies);
        let last = story.report.failures.last();
        let (delay, elapsed) = match (&story.wait, last) {
            // It follows at once: the same without another subtraction. (A longer wait may be one for
            // the breaker, which didn't begin with the failure.)
            (Some((wait, end)), Some(last)) if wait.length.is_zero() && *end == at => {
                (Duration::ZERO, last.at)
            }
            (wait, _) => {
                let began = *self.basics.began.get_or_insert(at);
                let delay = wait.map_or(Duration::ZERO, |(wait, _)| wait.length);
                (delay, at.saturating_duration_since(began))
            }
        };
        story.history = History {
            elapsed,
            delay,
            previous: last.map(Failure::verdict),
        };
        story.wait = None;
    }

    /// Chooses the endpoint of an attempt that begins; see [`directed`](Self::directed).
    #[inline(never)]
    pub(super) fn choose<O: Operation>(
        &mut self,
        operation: &O,
        policies: &Policies,
        now: &mut Moment,
    ) -> Option<endpoints::Id> {
        let endpoints = policies.endpoints.as_ref()?;
        let key = self.key_of_endpoints(operation, policies);
        let (set, overflow) = endpoints.of(key, || now.read(policies));
        self.tell_of(key, overflow.map(Change::Keyed), self.number, policies);
        let tried = self.story.as_ref().map_or(&[][..], |it| it.tried.ids());
        let chosen = set.and_then(|set| set.hold(tried, now.read(policies), &policies.rng));
        let (hold, id, change) = chosen?;
        *self.endpoint = Some(hold);
        self.tell_of(key, change.map(Change::Endpoint), self.number, policies);
        Some(id)
    }

    /// Where the running attempt goes, for an operation that has to know it.
    #[inline]
    pub(super) fn directed<O: Operation>(&self, operation: &O) -> Option<Arc<Endpoint>> {
        let hold = self.endpoint.as_ref()?;
        operation.is_directed().then(|| hold.endpoint()).flatten()
    }

    /// Opens the span of the attempt that begins, if anybody wants it.
    #[cold]
    pub(super) fn open_span<O: Operation>(&mut self, operation: &mut O) {
        let endpoint = self.directed(operation);
        let call = number(&mut self.call);
        *self.span = span::open(call, self.number, operation.describe(), endpoint.as_deref());
    }

    /// Closes it, if there is one.
    #[cold]
    fn close_span<O: Operation>(
        &mut self,
        verdict: Verdict,
        value: Option<&O::Value>,
        operation: &O,
    ) {
        if let Some(span) = self.span.take() {
            let status = value.and_then(|value| operation.status(value));
            span::close(&span, verdict, status);
        }
    }

    /// The attempts of this call, and those that others made for it.
    #[inline]
    pub(super) const fn spent(&self) -> u32 {
        self.number.saturating_add(self.earlier)
    }

    /// Whether anything is injected into the attempt that begins; see [`held`](Self::held) for what
    /// comes of it.
    #[cold]
    pub(super) fn inject<O: Operation>(
        &mut self,
        attempt: Attempt,
        operation: &O,
        policies: &Policies,
        now: &mut Moment,
    ) -> bool {
        *self.injected = None;
        let Some(chaos) = &policies.chaos else {
            return false;
        };
        let (key, number) = (operation.key(), attempt.number);
        let (chaos, overflow) = chaos.of(key, || now.read(policies));
        self.tell_change(overflow.map(Change::Keyed), number, policies);
        let injection = chaos.map(|chaos| chaos.decide(number, || now.read(policies)));
        let Some(injection) = injection.filter(|it| !it.is_none()) else {
            return false;
        };
        let Injection { delay, fault } = injection;
        let until = (!delay.is_zero()).then(|| later(now.read(policies), delay));
        *self.injected = Some(Box::new(Injecting {
            attempt,
            until,
            fault,
            verdict: None,
        }));
        let observer = policies.observer.as_deref();
        tell(observer, &mut self.call, |call| Event::Injected {
            call,
            attempt: number,
            key,
            delay,
            fault,
        });
        true
    }

    /// How the attempt stands into which something was injected.
    pub(super) fn held(&mut self, policies: &Policies, now: &mut Moment) -> Held {
        let Injecting {
            attempt,
            until,
            fault,
            ..
        } = **self.injected.as_ref().expect("set with the stage");
        // As with a real attempt, what is ready wins over a limit.
        let delayed = until.filter(|until| now.read(policies) < *until);
        if delayed.is_none() {
            match fault {
                None | Some(Fault::Lost) => return Held::Begin(attempt),
                Some(Fault::Hang) => {}
                Some(fault) => return Held::Fault(fault),
            }
        }
        let end = self.basics.attempt_ends(policies, now);
        if end.is_some_and(|(end, _)| end <= now.read(policies)) {
            return Held::TimedOut;
        }
        let delayed = delayed.map(|until| (until, Why::Injected));
        let next = delayed.into_iter().chain(end);
        Held::Until(next.min_by_key(|(at, _)| *at))
    }

    /// Whether a fault waits for the running attempt's answer.
    #[inline]
    pub(super) fn loses_answer(&self) -> bool {
        let injected = self.injected.as_ref();
        injected.is_some_and(|it| it.fault == Some(Fault::Lost))
    }

    /// What comes of an attempt that met this fault.
    #[allow(clippy::inline_always)] // or what every call comes to goes through memory
    #[inline(always)]
    pub(super) fn imitate<O: Operation>(
        &mut self,
        fault: Fault,
        operation: &O,
    ) -> Outcome<O::Value, O::Error> {
        match operation.imitate(&fault) {
            Imitation::Outcome(result) => Outcome::Returned(result),
            Imitation::Verdict(verdict) => {
                let injected = self.injected.as_mut().expect("set with the stage");
                injected.verdict = Some(verdict);
                Outcome::Injected
            }
        }
    }

    /// The fault of which no real outcome could be made, and what it means.
    #[cold]
    pub(super) fn injected(&self) -> (Fault, Verdict) {
        let injected = self.injected.as_ref();
        let met = injected.and_then(|it| it.fault.zip(it.verdict));
        met.expect("set with the outcome")
    }

    /// The wait before the next attempt, and its end.
    pub(super) fn wait(&self) -> Option<(Wait, Instant)> {
        self.story.as_ref()?.wait
    }

    /// When a rejected value has to be cleared away.
    pub(super) fn drain_ends(
        &self,
        length: Duration,
        policies: &Policies,
        now: &mut Moment,
    ) -> Instant {
        let end = later(now.read(policies), length);
        self.basics
            .deadline
            .map_or(end, |deadline| end.min(deadline.instant()))
    }

    /// Takes note of a failed attempt. Says whether another follows.
    pub(super) fn fails<O: Operation>(
        &mut self,
        verdict: &Verdict,
        outcome: &Outcome<O::Value, O::Error>,
        operation: &O,
        policies: &Policies,
        now: &mut Moment,
    ) -> bool {
        if self.span.is_some() {
            self.close_span(*verdict, outcome.value(), operation);
        }
        let at = now.read(policies);
        let began = *self.basics.began.get_or_insert(at);
        self.story.get_or_insert_with(|| Story::new(policies));
        let hint = match verdict.server_hint() {
            Some(Hint::After(length)) => Some(length),
            Some(Hint::At(moment)) => Some(until(moment, policies.clock.wall())),
            Some(Hint::Never) | None => None,
        };
        if let Some(id) = self.endpoint.as_ref().and_then(Hold::id) {
            let story = self.story.as_mut().expect("made above");
            story.tried.push(id);
        }
        if let Outcome::Returned(Ok(value)) = outcome {
            let others = operation.other_attempts(value);
            self.earlier = self.earlier.saturating_add(others);
        }
        // Before the endpoint is given back, which may speak for the service.
        let diagnosis = self.diagnose(outcome, operation, policies, at);
        let diagnosis = self.compare(diagnosis, verdict, hint, outcome, operation, policies, at);
        let came = outcome.came(verdict, hint);
        let is_own = self.settle(&came, operation, policies, now);
        // What one endpoint asks for is no reason to let another wait.
        let hint = hint.filter(|_| !is_own);
        let mut failed = Failed {
            verdict,
            spent: self.spent(),
            now: at,
            hint,
            deadline: self.basics.deadline,
            least_time: policies.min_time_left,
            idempotent: operation
                .is_idempotent()
                .unwrap_or(policies.is_idempotent()),
            replayable: operation.is_replayable(),
            closed: None,
        };
        if let Some(passes) = &self.basics.passes {
            failed.closed = passes.closed(at);
            failed.least_time = failed.least_time.max(passes.least_time(policies.timeout));
        }
        self.conclude(&failed, began, diagnosis, &|| operation.key(), policies)
    }

    /// The same, where the operation has nothing to say any more: decides what follows, and notes it.
    fn conclude(
        &mut self,
        failed: &Failed<'_>,
        began: Instant,
        diagnosis: Option<Box<Diagnosis>>,
        key: &dyn Fn() -> Option<Key>,
        policies: &Policies,
    ) -> bool {
        let (verdict, at) = (failed.verdict, failed.now);
        let cause = diagnosis
            .as_ref()
            .map_or(diagnosis::Cause::Unknown, |it| it.cause());
        let story = self.story.as_mut().expect("made before");
        story.report.diagnosis = diagnosis;
        let budget = self.budget.as_ref().or(policies.budget());
        let decision = match &policies.retry {
            Some(retry) => {
                let (courses, draws) = (&mut story.courses, &mut story.draws);
                retry.decide(failed, budget, courses, draws, &mut story.withdrawal)
            }
            None => Decision::Stop {
                stop: Stop::NoRetryPolicy,
                wait: failed.hint,
            },
        };
        let (attempt, observer) = (self.number, policies.observer.as_deref());
        let own_key = || self.basics.passes.as_ref().and_then(|passes| passes.key);
        let key = || own_key().or_else(key);
        let budget = || budget.map(Budget::snapshot);
        let wait = match decision {
            Decision::Again { wait } => {
                story.wait = Some((wait, later(at, wait.length())));
                // A copy, so that the wait itself needs no place in memory.
                let told = wait;
                tell(observer, &mut self.call, |call| Event::Retry {
                    call,
                    attempt,
                    key: key(),
                    verdict: *verdict,
                    diagnosis: story.report.diagnosis().map(Diagnosis::brief),
                    wait: told,
                    budget: budget(),
                });
                Some(wait)
            }
            Decision::Stop { stop, wait } => {
                story.report.stop = Some(stop);
                story.report.retry_after = wait;
                story.report.retry_at = wait.and_then(|wait| at.checked_add(wait));
                tell(observer, &mut self.call, |call| Event::Stop {
                    call,
                    attempt,
                    key: key(),
                    verdict: *verdict,
                    diagnosis: story.report.diagnosis().map(Diagnosis::brief),
                    stop,
                    retry_after: wait,
                    budget: budget(),
                });
                None
            }
        };
        let follows = wait.is_some();
        if let Some(passes) = self.basics.passes.as_mut().filter(|_| follows) {
            // A body that nobody will read needs no permit.
            passes.give_back();
        }
        // Filled where it lies: to move what has just been written takes longer than to write it.
        *story.report.failures.place() = Failure {
            number: attempt,
            verdict: *verdict,
            cause,
            at: at.saturating_duration_since(began),
            wait,
        };
        follows
    }

    /// What was the matter with a failed attempt. Only failures pay for it.
    fn diagnose<O: Operation>(
        &self,
        outcome: &Outcome<O::Value, O::Error>,
        operation: &O,
        policies: &Policies,
        at: Instant,
    ) -> Option<Box<Diagnosis>> {
        let diagnosis = match outcome {
            Outcome::Returned(result) => {
                let elapsed = self
                    .basics
                    .sent
                    .map(|sent| at.saturating_duration_since(sent));
                let seen = Circumstances::by(elapsed, &policies.clock);
                operation.diagnose(result.as_ref(), seen)
            }
            Outcome::TimedOut(length) => Some(Symptoms::timeout(*length).diagnose()),
            // It was made up: nothing was the matter.
            Outcome::Injected => None,
        };
        diagnosis.map(Box::new)
    }

    /// Sees a failure in the light of others, if somebody keeps them.
    #[allow(clippy::too_many_arguments)] // all that is known of it
    fn compare<O: Operation>(
        &mut self,
        mut diagnosis: Option<Box<Diagnosis>>,
        verdict: &Verdict,
        hint: Option<Duration>,
        outcome: &Outcome<O::Value, O::Error>,
        operation: &O,
        policies: &Policies,
        at: Instant,
    ) -> Option<Box<Diagnosis>> {
        let Some(passes) = &self.basics.passes else {
            return diagnosis;
        };
        let Some(health) = &passes.health else {
            return diagnosis;
        };
        // What was made up came from nowhere.
        let injected = self.injected.as_ref().is_some_and(|it| it.fault.is_some());
        let from = match outcome {
            Outcome::Returned(Ok(value)) if !injected => operation.answered_by(value),
            _ => None,
        };
        let endpoint = self.endpoint.as_ref().and_then(Hold::endpoint);
        let elsewhere = from.filter(|from| {
            passes.key.is_some_and(|key| key != *from)
                && !endpoint.is_some_and(|it| it.is_at(*from))
        });
        if elsewhere.is_some() {
            return diagnosis; // after a redirect: it says nothing of this service
        }
        let cause = diagnosis
            .as_ref()
            .map_or(diagnosis::Cause::Unknown, |it| it.cause());
        // A request's own fault is none of the service's.
        let answered = verdict.kind() == Kind::RequestFault;
        let seen = if answered {
            Observation::success()
        } else {
            Observation::failure(cause)
        };
        let change = health.record(&self.seen(seen, hint, self.host(), policies, at), at);
        if let Some(diagnosis) = diagnosis.as_mut().filter(|_| !answered) {
            health.refine(diagnosis, at);
        }
        self.tell_change(change.map(Change::Health), self.number, policies);
        diagnosis
    }

    /// What the engine knows of an outcome.
    fn seen(
        &self,
        mut seen: Observation,
        hint: Option<Duration>,
        host: Option<Key>,
        policies: &Policies,
        at: Instant,
    ) -> Observation {
        if let Some(latency) = self.basics.latency(policies, || at) {
            seen = seen.latency(latency);
        }
        if let Some(hint) = hint {
            seen = seen.retry_after(hint);
        }
        if let Some(host) = host {
            seen = seen.host(host);
        }
        seen
    }

    /// Which of the service's hosts the running attempt goes to, where it has endpoints.
    fn host(&self) -> Option<Key> {
        let id = self.endpoint.as_ref().and_then(Hold::id);
        id.map(Key::of)
    }

    /// Takes note of a success.
    #[allow(clippy::inline_always)] // most calls have nobody to tell
    #[inline(always)]
    pub(super) fn succeeds<O: Operation>(
        &mut self,
        value: Option<&O::Value>,
        operation: &O,
        policies: &Policies,
        now: &mut Moment,
    ) {
        if self.span.is_some() {
            self.close_span(Verdict::success(), value, operation);
        }
        if self.basics.passes.is_some() || self.endpoint.is_some() {
            self.settle_success(value, operation, policies, now);
        }
    }

    fn settle_success<O: Operation>(
        &mut self,
        value: Option<&O::Value>,
        operation: &O,
        policies: &Policies,
        now: &mut Moment,
    ) {
        let came = Came {
            verdict: &SUCCESS,
            hint: None,
            value,
            timed_out: false,
        };
        let has_health = self
            .basics
            .passes
            .as_ref()
            .is_some_and(|it| it.health.is_some());
        // Before the endpoint is given back.
        let host = if has_health { self.host() } else { None };
        let _ = self.settle(&came, operation, policies, now);
        let health = self
            .basics
            .passes
            .as_ref()
            .and_then(|it| it.health.as_ref());
        if let Some(health) = health {
            let at = now.read(policies);
            let seen = self.seen(Observation::success(), None, host, policies, at);
            let change = health.record(&seen, at);
            self.tell_change(change.map(Change::Health), self.number, policies);
        }
    }

    /// The deadline cut the attempt short. If it had taken too long anyway that is a timeout; else
    /// nobody can tell, and it says nothing.
    pub(super) fn cut_short<O: Operation>(
        &mut self,
        operation: &O,
        policies: &Policies,
        now: &mut Moment,
    ) {
        let host = self.host();
        let hold = self.endpoint.take();
        let Some(sent) = self.basics.sent else {
            return;
        };
        let latency = now.read(policies).saturating_duration_since(sent);
        let whole = match (self.basics.began, self.basics.deadline) {
            (Some(began), Some(end)) => end.left(began),
            _ => Duration::MAX,
        };
        // Half of what an attempt can have at most. One that had little time left says little.
        let long = latency >= policies.timeout.map_or(whole, |it| it.min(whole)) / 2;
        if let Some(hold) = hold.filter(|_| long) {
            let ended = Ended {
                kind: Kind::Transient,
                hint: None,
                latency: Some(latency),
            };
            let _ = self.record(hold, ended, operation, policies, now);
        }
        self.hear_of_cut(latency, long, host, policies, now);
        let Some(passes) = &mut self.basics.passes else {
            return;
        };
        let mut outcome = outcome(&TIMED_OUT, None, Some(latency), policies, now);
        outcome.timed_out = true;
        let mut changes = Vec::new();
        passes.cut_short(&mut outcome, long, &mut changes);
        self.tell_changes(changes, policies);
    }

    /// What was the matter with an attempt that was cut short. If it was short anyway, what was known of
    /// those before says more.
    fn hear_of_cut(
        &mut self,
        latency: Duration,
        long: bool,
        host: Option<Key>,
        policies: &Policies,
        now: &mut Moment,
    ) {
        let mut diagnosis = Symptoms::timeout(latency).diagnose();
        let health = self
            .basics
            .passes
            .as_ref()
            .and_then(|it| it.health.as_ref());
        if let Some(health) = health.filter(|_| long) {
            let at = now.read(policies);
            let seen = Observation::failure(diagnosis.cause());
            let seen = self.seen(seen, None, host, policies, at);
            let change = health.record(&seen, at);
            health.refine(&mut diagnosis, at);
            self.tell_change(change.map(Change::Health), self.number, policies);
        }
        let story = self.story.get_or_insert_with(|| Story::new(policies));
        if long || story.report.diagnosis.is_none() {
            story.report.diagnosis = Some(Box::new(diagnosis));
        }
    }

    /// Tells its endpoint and every gate how the attempt ended. Says whether a hint was the endpoint's
    /// own affair, and not the service's.
    #[allow(clippy::inline_always)] // a success asks little of it
    #[inline(always)]
    fn settle<O: Operation>(
        &mut self,
        came: &Came<'_, O::Value>,
        operation: &O,
        policies: &Policies,
        now: &mut Moment,
    ) -> bool {
        let Came {
            verdict,
            hint,
            value,
            timed_out,
        } = *came;
        if self.basics.passes.is_none() && self.endpoint.is_none() {
            return false;
        }
        // What was made up came from nowhere.
        let injected = self.injected.as_ref().is_some_and(|it| it.fault.is_some());
        // Whose success it is matters to few.
        let matters = !verdict.is_success()
            || self.endpoint.is_some()
            || self
                .basics
                .passes
                .as_ref()
                .is_some_and(Passes::learns_quota);
        let answering = value.filter(|_| matters && !injected);
        let answered_by = answering.and_then(|value| operation.answered_by(value));
        // An attempt that was never pending took no time worth knowing.
        let latency = self.basics.latency(policies, || now.read(policies));
        let hold = self.endpoint.take();
        let elsewhere = answered_by.filter(|from| {
            let asked = match &self.basics.passes {
                Some(passes) => passes.key,
                None => operation.key(),
            };
            // The endpoint speaks for the service.
            let endpoint = || hold.as_ref().and_then(Hold::endpoint);
            asked.is_some_and(|key| key != *from) && !endpoint().is_some_and(|it| it.is_at(*from))
        });
        let mut is_own = false;
        if let Some(hold) = hold {
            // Who sends elsewhere has answered, and what comes from there is not its doing.
            let is_at = |from| {
                let endpoint = hold.endpoint();
                endpoint.is_none_or(|it| it.authority().is_none() || it.is_at(from))
            };
            let is_its_doing = elsewhere.is_none() && answered_by.is_none_or(is_at);
            let ended = Ended {
                kind: if is_its_doing {
                    verdict.kind()
                } else {
                    Kind::RequestFault
                },
                hint,
                latency,
            };
            is_own = self.record(hold, ended, operation, policies, now);
        }
        let hint = hint.filter(|_| !is_own);
        let Some(passes) = &mut self.basics.passes else {
            return is_own;
        };
        let learning = value.filter(|_| passes.learns_quota());
        let quota = learning.and_then(|value| operation.quota(value, &policies.clock));
        let mut outcome = outcome(verdict, hint, latency, policies, now);
        outcome.timed_out = timed_out;
        outcome.quota = quota.filter(|_| elsewhere.is_none());
        let mut changes = Vec::new();
        match elsewhere {
            Some(key) if !verdict.is_success() => {
                passes.settle_elsewhere(&policies.gates, &mut outcome, &mut changes);
                let window = policies.gates.window_of(key, || now.read(policies));
                changes.extend(window.and_then(|it| it.hear(&mut outcome)));
            }
            _ => passes.settle(&mut outcome, &mut changes),
        }
        now.0 = now.0.or(outcome.moment);
        if !changes.is_empty() {
            self.tell_changes(changes, policies);
        }
        is_own
    }

    /// Tells an endpoint how its attempt ended.
    fn record<O: Operation>(
        &mut self,
        hold: Hold,
        ended: Ended,
        operation: &O,
        policies: &Policies,
        now: &mut Moment,
    ) -> bool {
        let (change, is_own) = hold.record(ended, now.read(policies), &policies.rng);
        if change.is_some() {
            let key = self.key_of_endpoints(operation, policies);
            self.tell_of(key, change.map(Change::Endpoint), self.number, policies);
        }
        is_own
    }

    #[cold]
    fn tell_changes(&mut self, changes: Vec<Change>, policies: &Policies) {
        for change in changes {
            self.tell_change(Some(change), self.number, policies);
        }
    }

    fn tell_change(&mut self, change: Option<Change>, attempt: u32, policies: &Policies) {
        self.tell_of(self.key(), change, attempt, policies);
    }

    fn tell_of(
        &mut self,
        key: Option<Key>,
        change: Option<Change>,
        attempt: u32,
        policies: &Policies,
    ) {
        let Some(change) = change else {
            return;
        };
        let observer = policies.observer.as_deref();
        tell(observer, &mut self.call, |call| Event::Changed {
            call,
            attempt,
            key,
            change,
        });
    }

    /// Which service the call goes to, where that was asked for.
    fn key(&self) -> Option<Key> {
        self.basics.passes.as_ref()?.key
    }

    /// The same where there may be nothing but endpoints, if they are kept per key.
    fn key_of_endpoints<O: Operation>(&self, operation: &O, policies: &Policies) -> Option<Key> {
        match (&self.basics.passes, &policies.endpoints) {
            (None, Some(Scope::PerKey(_))) => operation.key(),
            _ => self.key(),
        }
    }

    /// Whether anybody would see how long the attempt took. One that was never pending took no time
    /// worth knowing: a success of that kind is placed at its beginning, which spares a clock read.
    #[inline]
    pub(super) fn is_measured(&self, policies: &Policies) -> bool {
        self.basics.sent.is_some() || self.story.is_some() || policies.wants_all
    }

    /// The call ends in a value.
    #[inline]
    pub(super) fn hand_over<O: Operation>(
        &mut self,
        value: &mut O::Value,
        operation: &O,
        policies: &Policies,
        now: &mut Moment,
    ) {
        if let Some(kept) = self.basics.passes.as_mut().and_then(Passes::take_kept) {
            operation.keep(value, kept);
        }
        if self.story.is_some() || policies.wants_all {
            self.tell_end(self.last_end(), operation, policies, now);
        }
        if self.story.is_some() {
            operation.attach(value, || self.report(policies, now));
        }
    }

    /// Gives the caller the last outcome, unchanged.
    pub(super) fn finish<O: Operation>(
        &mut self,
        outcome: Outcome<O::Value, O::Error>,
        operation: &O,
        policies: &Policies,
        now: &mut Moment,
    ) -> Result<O::Value, Error<O::Error>> {
        match outcome {
            Outcome::Returned(Ok(mut value)) => {
                self.hand_over(&mut value, operation, policies, now);
                Ok(value)
            }
            Outcome::Returned(Err(error)) => {
                Err(self.fail(Cause::Operation(error), operation, policies, now))
            }
            Outcome::Injected => {
                let (fault, _) = self.injected();
                let cause = Cause::Injected(Injected::new(fault));
                Err(self.fail(cause, operation, policies, now))
            }
            Outcome::TimedOut(length) => {
                let elapsed = Elapsed::new(Limit::Attempt, length);
                Err(self.fail(Cause::Elapsed(elapsed), operation, policies, now))
            }
        }
    }

    pub(super) fn fail<O: Operation>(
        &mut self,
        cause: Cause<O::Error>,
        operation: &O,
        policies: &Policies,
        now: &mut Moment,
    ) -> Error<O::Error> {
        // Open still if the deadline cut the attempt short.
        if let Some(span) = self.span.take() {
            span::close(&span, TIMED_OUT, None);
        }
        let end = End::of(&cause).unwrap_or_else(|| self.last_end());
        if self.story.is_some() || policies.wants_all || !end.is_success() {
            self.tell_end(end, operation, policies, now);
        }
        Error::new(cause, self.report(policies, now))
    }

    /// How a call ends that gives the caller the outcome of its last attempt.
    fn last_end(&self) -> End {
        let story = self.story.as_ref();
        // A value may be a failure, and an error a success: it is the verdict that counts.
        let failed = story.filter(|story| story.report.stop.is_some());
        match failed.and_then(|story| story.report.failures.last()) {
            Some(failure) => End::Failed(failure.verdict),
            None => End::Success,
        }
    }

    /// The call is over.
    #[cold]
    fn tell_end<O: Operation>(
        &mut self,
        end: End,
        operation: &O,
        policies: &Policies,
        now: &mut Moment,
    ) {
        let observer = policies.observer.as_deref();
        if !is_heard(observer) {
            return;
        }
        self.unpark(policies, now);
        let (attempts, key) = (self.number, self.key().or_else(|| operation.key()));
        let elapsed = match self.basics.began {
            Some(began) => now.read(policies).saturating_duration_since(began),
            None => Duration::ZERO,
        };
        let story = self.story.as_ref();
        let parked = story.map_or(Duration::ZERO, |story| story.report.parked);
        tell(observer, &mut self.call, |call| Event::Done {
            call,
            attempts,
            key,
            end,
            elapsed,
            parked,
        });
    }

    fn report(&mut self, policies: &Policies, now: &mut Moment) -> Report {
        // The call is over: whatever it still holds goes back now, not when it is dropped.
        self.unpark(policies, now);
        self.basics.passes = None;
        let story = self.story.take();
        let mut report = story.map_or_else(Report::new, |story| story.report);
        report.call = self.call;
        report.attempts = self.number;
        report.elapsed = match self.basics.began {
            Some(began) => now.read(policies).saturating_duration_since(began),
            None => Duration::ZERO,
        };
        report
    }

    pub(super) fn past_deadline<E>(&self) -> Cause<E> {
        let length = match (self.basics.began, self.basics.deadline) {
            (Some(began), Some(end)) => end.left(began),
            _ => Duration::ZERO,
        };
        Cause::Elapsed(Elapsed::new(Limit::Deadline, length))
    }
}

impl Basics {
    #[inline]
    pub(super) const fn new() -> Self {
        Self {
            began: None,
            sent: None,
            deadline: None,
            passes: None,
        }
    }

    /// Begins the call.
    #[inline]
    pub(super) fn start(
        &mut self,
        policies: &Policies,
        deadline: Option<Deadline>,
        now: &mut Moment,
    ) {
        if deadline.is_some() || policies.deadline.is_some() || policies.wants_all {
            let began = now.read(policies);
            self.began = Some(began);
            let own = policies
                .deadline
                .map(|length| Deadline::after(began, length));
            self.deadline = deadline.or(own);
        }
    }

    #[inline]
    pub(super) fn is_past_deadline(&self, policies: &Policies, now: &mut Moment) -> bool {
        self.deadline
            .is_some_and(|end| end.is_over(now.read(policies)))
    }

    /// Finds out what stands in front of its attempts. There may be something to tell.
    #[inline]
    fn fill<O: Operation>(
        &mut self,
        operation: &mut O,
        policies: &Policies,
        now: &mut Moment,
    ) -> Option<Change> {
        // Filled where it is: it is large, and a move would wait for what was just written.
        self.passes = Some(Passes::none(operation.learn_key()));
        let passes = self.passes.as_mut().expect("made above");
        let overflow = passes.fill(&policies.gates, || now.read(policies));
        overflow.map(Change::Keyed)
    }

    /// Begins a call on the [plain way](crate::pipeline::Way::Plain). Says whether all that stands in front of
    /// its first attempt let it go at once, but for the breaker; if not it is to enter. There may be something to
    /// tell.
    #[inline]
    pub(super) fn start_plainly<O: Operation>(
        &mut self,
        operation: &mut O,
        policies: &Policies,
        now: &mut Moment,
    ) -> Result<(), Option<Change>> {
        self.start(policies, operation.deadline(), now);
        if self.is_past_deadline(policies, now) {
            return Err(None);
        }
        if !policies.is_gated {
            return Ok(());
        }
        let overflow = self.fill(operation, policies, now);
        let passes = self.passes.as_mut().filter(|_| overflow.is_none());
        if passes.is_some_and(Passes::enter_plainly) {
            return Ok(());
        }
        Err(overflow)
    }

    /// Whether the first attempt may begin, which was let go. Asked once it could.
    #[inline]
    pub(super) fn may_begin_plainly(&mut self) -> bool {
        let passes = self.passes.as_mut();
        passes.is_none_or(Passes::pass_breaker_plainly)
    }

    /// The first attempt succeeded. Says whether that is all there was to do, as nearly always.
    #[inline]
    pub(super) fn succeeds_plainly(&mut self, policies: &Policies, now: &mut Moment) -> bool {
        if self.passes.is_none() {
            return true;
        }
        let latency = self.latency(policies, || now.read(policies));
        let Some(passes) = &mut self.passes else {
            return true;
        };
        passes.settle_plainly(&mut outcome(&SUCCESS, None, latency, policies, now))
    }

    /// What others learn of how long the attempt took. What a check takes is no measure of what calls do.
    #[inline]
    fn latency(&self, policies: &Policies, now: impl FnOnce() -> Instant) -> Option<Duration> {
        let sent = self.sent.filter(|_| !policies.purpose.is_check())?;
        Some(now().saturating_duration_since(sent))
    }

    /// When the running attempt has to be over, and by which limit.
    #[allow(clippy::inline_always)] // or its answer goes through memory
    #[inline(always)]
    pub(super) fn attempt_ends(
        &mut self,
        policies: &Policies,
        now: &mut Moment,
    ) -> Option<(Instant, Why)> {
        // First asked when the attempt has been polled once: unless something had to be known before,
        // this is the first reading of the clock, and the attempt began just now.
        let at = now.read(policies);
        self.began.get_or_insert(at);
        let sent = *self.sent.get_or_insert(at);
        let timeout = policies.timeout.map(|length| later(sent, length));
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

    /// What an attempt is told of the deadline: when it is, and what time it is now.
    #[inline]
    pub(super) fn told_deadline(
        &self,
        policies: &Policies,
        now: &mut Moment,
    ) -> Option<(Instant, Instant)> {
        self.deadline.map(|end| (end.instant(), now.read(policies)))
    }
}

impl Story {
    /// Copied from where the compiler put it: to write it down here and move it to its box would take
    /// longer.
    const NEW: Self = Self {
        wait: None,
        parked: None,
        turn: None,
        breaker_waits: Duration::ZERO,
        withdrawal: None,
        history: History::NONE,
        tried: Tried::new(),
        courses: Courses::new(),
        draws: Draws::THREAD,
        report: Report::new(),
    };

    fn new(policies: &Policies) -> Box<Self> {
        let mut story = Box::new(Self::NEW);
        if policies.rng.is_seeded() {
            story.draws = policies.rng.draws();
        }
        story
    }
}

impl Moment {
    #[inline]
    pub(super) fn read(&mut self, policies: &Policies) -> Instant {
        *self.0.get_or_insert_with(|| policies.clock.now())
    }

    /// Something may have taken time.
    pub(super) const fn forget(&mut self) {
        self.0 = None;
    }
}

fn ask<'a, O: Operation>(
    operation: &O,
    policies: &'a Policies,
    deadline: Option<Deadline>,
    attempt: u32,
    waker: &'a Waker,
    now: &Moment,
) -> Ask<'a> {
    let latest = deadline.map(|end| {
        let end = end.instant();
        end.checked_sub(policies.min_time_left).unwrap_or(end)
    });
    Ask {
        clock: &policies.clock,
        moment: now.0,
        rng: &policies.rng,
        waker,
        latest,
        attempt,
        timeout: policies.timeout,
        priority: operation.priority(),
        purpose: policies.purpose,
        news: None,
    }
}

fn outcome<'a>(
    verdict: &'a Verdict,
    hint: Option<Duration>,
    latency: Option<Duration>,
    policies: &'a Policies,
    now: &Moment,
) -> gate::Outcome<'a> {
    gate::Outcome {
        verdict,
        hint,
        latency,
        quota: None,
        timed_out: false,
        timeout: policies.timeout,
        clock: &policies.clock,
        moment: now.0,
        rng: &policies.rng,
    }
}

/// In a place of its own, so that no call has to write it down.
const SUCCESS: Verdict = Verdict::success();

/// What an attempt came to that a limit ended.
pub(super) const TIMED_OUT: Verdict = Verdict::transient().label(Label::Name("timeout"));

/// Between a retry that an open breaker refused and its next try.
const LEAST_BREAKER_WAIT: Duration = Duration::from_millis(10);

/// A call without a deadline doesn't wait for a breaker for ever.
const MAX_BREAKER_WAIT: Duration = Duration::from_secs(30);

/// The same where a probe is out.
const PROBE_WAIT: Duration = Duration::from_millis(100);
