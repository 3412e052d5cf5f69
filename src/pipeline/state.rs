//! What a call remembers from poll to poll, and what it does with it.
//!
//! A call that succeeds at once needs four words of it. All else is a [`Story`], which begins with
//! the first failure or hold.

use std::time::{Duration, Instant};

use crate::attempt::Attempt;
use crate::budget::Withdrawal;
use crate::clock::{Why, until};
use crate::deadline::{Deadline, later};
use crate::error::{Cause, Elapsed, Error, Limit, Reason, Rejected};
use crate::event::{Event, tell};
use crate::hold::Key;
use crate::pipeline::Policies;
use crate::pipeline::operation::Operation;
use crate::report::{Failure, Report, Stop, Wait, WaitReason};
use crate::retry::{Courses, Decision, Failed, Retry};
use crate::rng::Draws;
use crate::verdict::{Hint, Verdict};

/// What a call remembers from poll to poll.
#[derive(Debug)]
pub(super) struct State {
    /// Attempts begun.
    pub(super) number: u32,
    /// When the call began; unread while nothing needed it.
    began: Option<Instant>,
    pub(super) deadline: Option<Deadline>,
    story: Option<Box<Story>>,
}

/// What a call remembers once it did not simply succeed.
#[derive(Debug)]
struct Story {
    /// The number events know the call by; zero while there was none.
    call: u64,
    /// The wait before the next attempt, and its end.
    wait: Option<(Wait, Instant)>,
    withdrawal: Option<Withdrawal>,
    previous: Option<Verdict>,
    courses: Courses,
    draws: Draws,
    report: Report,
}

/// What one attempt came to.
pub(super) enum Outcome<T, E> {
    Returned(Result<T, E>),
    TimedOut(Duration),
}

/// One moment, read at most once until something may have taken time.
pub(super) struct Moment(pub(super) Option<Instant>);

impl State {
    pub(super) const fn new() -> Self {
        Self {
            number: 0,
            began: None,
            deadline: None,
            story: None,
        }
    }

    /// Begins the call, unless there is nothing to begin.
    pub(super) fn start<E>(
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
        }
        Ok(())
    }

    /// Whether an attempt may go now (true), or has to wait first (false). Asked at the last moment,
    /// when the operation is ready.
    pub(super) fn admit<O: Operation>(
        &mut self,
        operation: &O,
        policies: &Policies,
        now: &mut Moment,
    ) -> Result<bool, Cause<O::Error>> {
        if self.is_past_deadline(policies, now) {
            return Err(self.past_deadline());
        }
        let Some(holds) = policies.holds.as_ref().filter(|holds| holds.any()) else {
            return Ok(true);
        };
        let Some(key) = operation.key().filter(|_| !self.was_held()) else {
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
        let story = self.story.get_or_insert_with(|| Story::new(policies));
        if room.is_some_and(|room| left >= room) {
            story.report.retry_after = Some(left);
            story.report.retry_at = Some(hold.until);
            let reason = Reason::Held;
            tell(observer, &mut story.call, |call| Event::Reject {
                call,
                attempt,
                reason,
                retry_after: Some(left),
            });
            return Err(Cause::Rejected(Rejected::new(reason)));
        }
        let wait = Wait {
            length: match &policies.retry {
                Some(retry) => retry.spread(hold.length, left, room, &mut story.draws),
                None => left,
            },
            reason: WaitReason::Held,
        };
        self.began.get_or_insert(at);
        story.report.held = story.report.held.saturating_add(wait.length());
        story.wait = Some((wait, later(at, wait.length())));
        tell(observer, &mut story.call, |call| Event::Held {
            call,
            attempt,
            wait,
        });
        Ok(false)
    }

    /// Once is enough: a call must not be held for ever.
    fn was_held(&self) -> bool {
        let story = self.story.as_ref();
        story.is_some_and(|story| !story.report.held.is_zero())
    }

    /// Begins an attempt: from here on it counts, and what it cost is spent.
    pub(super) fn begin(&mut self, policies: &Policies, now: &mut Moment) -> Attempt {
        self.number += 1;
        if let Some(budget) = policies.budget().filter(|_| self.number == 1) {
            if budget.deposit() {
                budget.tick(now.read(policies));
            }
        }
        let (mut delay, mut previous, mut elapsed) = (Duration::ZERO, None, Duration::ZERO);
        if let Some(story) = &mut self.story {
            if let Some(withdrawal) = story.withdrawal.take() {
                withdrawal.spend();
            }
            if let Some((wait, _)) = story.wait.take() {
                delay = wait.length();
            }
            previous = story.previous;
            let at = now.read(policies);
            elapsed = at.saturating_duration_since(*self.began.get_or_insert(at));
        }
        Attempt {
            number: self.number,
            elapsed,
            deadline: self.deadline.map(Deadline::instant),
            time_left: self.deadline.map(|end| end.left(now.read(policies))),
            delay,
            previous,
        }
    }

    /// The wait before the next attempt, and its end.
    pub(super) fn wait(&self) -> Option<(Wait, Instant)> {
        self.story.as_ref()?.wait
    }

    /// When the running attempt has to be over, and by which limit.
    pub(super) fn attempt_ends(
        &mut self,
        policies: &Policies,
        now: &mut Moment,
    ) -> Option<(Instant, Why)> {
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

    /// When a rejected value has to be cleared away.
    pub(super) fn drain_ends(
        &self,
        length: Duration,
        policies: &Policies,
        now: &mut Moment,
    ) -> Instant {
        let end = later(now.read(policies), length);
        self.deadline
            .map_or(end, |deadline| end.min(deadline.instant()))
    }

    /// Takes note of a failed attempt. Says whether another follows.
    pub(super) fn fails<O: Operation>(
        &mut self,
        verdict: Verdict,
        operation: &O,
        answered_by: Option<Key>,
        policies: &Policies,
        now: &mut Moment,
    ) -> bool {
        let at = now.read(policies);
        let began = *self.began.get_or_insert(at);
        let story = self.story.get_or_insert_with(|| Story::new(policies));
        story.previous = Some(verdict);
        let hint = match verdict.server_hint() {
            Some(Hint::After(length)) => Some(length),
            Some(Hint::At(moment)) => Some(until(moment, policies.clock.wall())),
            Some(Hint::Never) | None => None,
        };
        if let (Some(holds), Some(hint), Some(key)) = (&policies.holds, hint, answered_by) {
            let longest = policies
                .retry
                .as_ref()
                .map_or(MAX_HOLD, Retry::longest_hint);
            if verdict.is_retryable() && !hint.is_zero() && hint <= longest {
                holds.asked(key, at, hint);
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
            retry.decide(&failed, &mut story.courses, &mut story.draws)
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
                story.withdrawal = withdrawal;
                story.wait = Some((wait, later(at, wait.length())));
                tell(observer, &mut story.call, |call| Event::Retry {
                    call,
                    attempt,
                    verdict,
                    wait,
                    budget: budget(),
                });
                (Some(wait), true)
            }
            Decision::Stop { stop, wait } => {
                story.report.stop = Some(stop);
                story.report.retry_after = wait;
                story.report.retry_at = wait.and_then(|wait| at.checked_add(wait));
                tell(observer, &mut story.call, |call| Event::Stop {
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
        story.report.push(Failure {
            number: self.number,
            verdict,
            at: at.saturating_duration_since(began),
            wait,
        });
        follows
    }

    /// Takes note of a success, where a service had asked for quiet.
    pub(super) fn succeeds(answered_by: impl FnOnce() -> Option<Key>, policies: &Policies) {
        if let Some(holds) = policies.holds.as_ref().filter(|holds| holds.any()) {
            if let Some(key) = answered_by() {
                holds.succeeded(key);
            }
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
                if self.story.is_some() {
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

    pub(super) fn fail<E>(
        &mut self,
        cause: Cause<E>,
        policies: &Policies,
        now: &mut Moment,
    ) -> Error<E> {
        Error::new(cause, self.report(policies, now))
    }

    fn report(&mut self, policies: &Policies, now: &mut Moment) -> Report {
        let story = self.story.take();
        let mut report = story.map_or_else(Report::new, |mut story| {
            story.report.call = story.call;
            story.report
        });
        report.attempts = self.number;
        report.elapsed = match self.began {
            Some(began) => now.read(policies).saturating_duration_since(began),
            None => Duration::ZERO,
        };
        report
    }

    pub(super) fn is_past_deadline(&self, policies: &Policies, now: &mut Moment) -> bool {
        self.deadline
            .is_some_and(|end| end.left(now.read(policies)).is_zero())
    }

    pub(super) fn past_deadline<E>(&self) -> Cause<E> {
        let length = match (self.began, self.deadline) {
            (Some(began), Some(end)) => end.left(began),
            _ => Duration::ZERO,
        };
        Cause::Elapsed(Elapsed::new(Limit::Deadline, length))
    }
}

impl Story {
    fn new(policies: &Policies) -> Box<Self> {
        Box::new(Self {
            call: 0,
            wait: None,
            withdrawal: None,
            previous: None,
            courses: Courses::new(),
            draws: policies.rng.draws(),
            report: Report::new(),
        })
    }
}

impl Moment {
    pub(super) fn read(&mut self, policies: &Policies) -> Instant {
        *self.0.get_or_insert_with(|| policies.clock.now())
    }

    /// Something may have taken time.
    pub(super) const fn forget(&mut self) {
        self.0 = None;
    }
}

/// As long as a hint is believed by default.
const MAX_HOLD: Duration = Duration::from_secs(300);
