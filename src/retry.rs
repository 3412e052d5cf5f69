//! When to try again, and after how long.
//!
//! A retry helps where a failure is brief and the server has room; everywhere else it is load
//! without use. [`Retry`] asks, in this order: may this failure pass; did the server forbid it; is
//! repeating safe; can the request be sent again; are attempts left; can another attempt be
//! answered in time; and is there budget. The first "no" ends the call, and
//! [`Report::stop`](crate::Report::stop) says which it was.
//!
//! # Defaults
//!
//! | setting | default | why |
//! |---|---|---|
//! | `max_attempts` | 3; 4 in [`Pipeline::http`](crate::Pipeline::http) | the field's bound where nothing else limits load; behind a window more do no harm |
//! | backoff | exponential from 100 ms, × 2, at most 2 s, full jitter | see [`backoff`](crate::backoff) |
//! | after a rate limit | the same from 1 s | a limiter's window is seconds long |
//! | budget | none; [`Pipeline::http`](crate::Pipeline::http) has one of 50 % | a job that must get through isn't traffic |
//! | server's hints | believed up to 5 min | longer ones are for the caller to schedule |
//! | spread after a hint | as long again as the hint, at most 30 s | a fleet that is told one moment must not come back as one |
//!
//! Where a [`window`](crate::window) takes a hint for the whole service there is no spread: the calls
//! wait in its line, and go at its pace. A retry that finds a [`breaker`](crate::breaker) open waits
//! for it; if that would pass the deadline the call ends.
//!
//! # Events
//!
//! [`Event::Retry`](crate::Event::Retry) before each wait, [`Event::Stop`](crate::Event::Stop)
//! where a failed call ends.

use std::time::{Duration, Instant};

use crate::backoff::{Backoff, Progress, count};
use crate::budget::{Budget, Withdrawal};
use crate::deadline::Deadline;
use crate::error::ConfigError;
use crate::pipeline::Scope;
use crate::report::{Stop, Wait, WaitReason};
use crate::rng::{Draws, Rng};
use crate::verdict::{Hint, Kind, Processed, Verdict};

/// A policy for trying again.
///
/// # Examples
///
/// ```
/// use evenkeel::Retry;
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let policy = Retry::constant(Duration::ZERO).max_attempts(2);
/// let got = policy.run(|n| async move { if n.is_retry() { Ok(7) } else { Err("busy") } }).await;
/// assert_eq!(got, Ok(7));
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a policy does nothing until a call runs under it"]
pub struct Retry {
    max_attempts: u32,
    backoff: Backoff,
    rate_limited: Option<Backoff>,
    /// `rate_limited` was asked for, and is no default.
    own_rate_limited: bool,
    budget: Option<Scope<Budget>>,
    max_hint: Duration,
    hint_spread: Duration,
}

impl Retry {
    /// Waits by this schedule, also after a rate limit.
    pub const fn new(backoff: Backoff) -> Self {
        Self {
            max_attempts: MAX_ATTEMPTS,
            backoff,
            rate_limited: None,
            own_rate_limited: false,
            budget: None,
            max_hint: MAX_HINT,
            hint_spread: HINT_SPREAD,
        }
    }

    /// Waits `first`, then twice as long each time, with full jitter, at most 2 s; after a rate
    /// limit from 1 s.
    pub fn exponential(first: Duration) -> Self {
        let rate_limited = Backoff::exponential(first.max(RATE_LIMITED_FIRST));
        Self {
            rate_limited: Some(rate_limited),
            ..Self::new(Backoff::exponential(first))
        }
    }

    /// Waits the same each time, without jitter, also after a rate limit.
    pub const fn constant(delay: Duration) -> Self {
        Self::new(Backoff::constant(delay))
    }

    /// How many attempts at most, the first included: at least 1, which is no retry.
    /// Default: 3, and 4 in [`Pipeline::http`](crate::Pipeline::http).
    pub const fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// The schedule of delays, also after a rate limit unless
    /// [`after_rate_limit`](Self::after_rate_limit) gives another. Default: exponential from 100 ms.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self.rate_limited = self.rate_limited.filter(|_| self.own_rate_limited);
        self
    }

    /// The schedule of delays after [`Kind::RateLimited`]. Default: exponential from 1 s, or the
    /// ordinary schedule where that was given by hand.
    pub fn after_rate_limit(mut self, backoff: Backoff) -> Self {
        self.rate_limited = Some(backoff);
        self.own_rate_limited = true;
        self
    }

    /// The shared budget for extra load. Default: none.
    ///
    /// A [`Keyed`](crate::Keyed) one is one budget per service; calls without a key then have none.
    pub fn budget(mut self, budget: impl Into<Scope<Budget>>) -> Self {
        self.budget = Some(budget.into());
        self
    }

    /// No budget.
    #[cfg(feature = "serde")]
    pub(crate) fn no_budget(mut self) -> Self {
        self.budget = None;
        self
    }

    /// The longest wait a server may ask for, inclusive. A longer one ends the call at once, with
    /// `retry_at` set. Zero ends it for every hint but zero. Default: 5 min.
    pub const fn max_hint(mut self, longest: Duration) -> Self {
        self.max_hint = longest;
        self
    }

    /// How far apart a fleet is spread that was told to wait: up to the hint's own length again,
    /// but no more than this, and no more than half of what the deadline leaves. Zero: not at all.
    /// It is for a call that was told alone; a [`window`](crate::window) has its own pace.
    /// Default: 30 s.
    pub const fn hint_spread(mut self, widest: Duration) -> Self {
        self.hint_spread = widest;
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// Zero attempts, or a backoff or budget that makes no sense.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.max_attempts == 0 {
            let problem = "must be at least 1: the first attempt counts";
            return Err(ConfigError::new("retry.max_attempts", problem));
        }
        self.backoff.check()?;
        self.rate_limited.as_ref().map_or(Ok(()), Backoff::check)?;
        self.budget.as_ref().map_or(Ok(()), Scope::check)
    }

    /// These settings with the budget of `old`, as far as there is one.
    pub(crate) fn after(&self, old: Option<&Self>, now: Instant, rng: &Rng) -> Self {
        let old = old.and_then(Self::budgets);
        Self {
            budget: self.budgets().map(|it| it.after(old, now, rng)),
            ..self.clone()
        }
    }

    pub(crate) const fn budgets(&self) -> Option<&Scope<Budget>> {
        self.budget.as_ref()
    }

    /// Whether a retry could follow this attempt at all.
    pub(crate) const fn may_follow(&self, number: u32) -> bool {
        number < self.max_attempts
    }

    /// What to do after a failure. What another attempt costs is left in `withdrawal`, where it lies
    /// until that begins.
    #[inline] // it has one caller
    pub(crate) fn decide(
        &self,
        failed: &Failed<'_>,
        budget: Option<&Budget>,
        courses: &mut Courses,
        draws: &mut Draws,
        withdrawal: &mut Option<Withdrawal>,
    ) -> Decision {
        let verdict = failed.verdict;
        let hint = failed.hint;
        let stop = |stop| Decision::Stop { stop, wait: hint };

        if let Some(reason) = self.refusal(failed) {
            return stop(reason);
        }
        if let Some(hint) = hint.filter(|hint| *hint > self.max_hint) {
            let (stop, wait) = (Stop::HintTooFar, Some(hint));
            return Decision::Stop { stop, wait };
        }
        let (backoff, progress) = match (&self.rate_limited, verdict.kind()) {
            (Some(backoff), Kind::RateLimited) => (backoff, &mut courses.rate_limited),
            _ => (&self.backoff, &mut courses.own),
        };
        let Some(delay) = backoff.next(progress, draws) else {
            return stop(Stop::BackoffExhausted);
        };
        let room = failed.room();
        let wait = self.wait(delay, hint, failed.closed, room, draws);
        let closed = failed.closed.map(|(length, _)| length);
        if room.is_some_and(|room| wait.length.max(closed.unwrap_or_default()) >= room) {
            // Without the spread: that is for the fleet, not what the server asked for.
            let earliest = delay.max(hint.or(closed).unwrap_or_default());
            let (stop, wait) = (Stop::DeadlineTooClose, Some(earliest));
            return Decision::Stop { stop, wait };
        }
        if let Some(budget) = budget {
            *withdrawal = budget.withdraw(verdict.kind(), failed.now);
            if withdrawal.is_none() {
                return stop(Stop::BudgetExhausted);
            }
        }
        Decision::Again { wait }
    }

    /// Why this failure is not to be repeated, whatever time and budget are left.
    fn refusal(&self, failed: &Failed<'_>) -> Option<Stop> {
        let verdict = failed.verdict;
        let processed = verdict.was_processed();
        if verdict.server_hint() == Some(Hint::Never) {
            Some(Stop::ServerForbade)
        } else if !verdict.is_retryable() {
            Some(Stop::NotRetryable)
        } else if !failed.idempotent && processed != Processed::No {
            Some(Stop::NotSafe(processed))
        } else if !self.may_follow(failed.spent) {
            Some(Stop::AttemptsExhausted)
        } else if !failed.replayable {
            Some(Stop::NotReplayable)
        } else {
            None
        }
    }

    /// The longer of the client's own delay and the server's hint with its spread.
    #[inline]
    fn wait(
        &self,
        delay: Duration,
        hint: Option<Duration>,
        closed: Option<(Duration, WaitReason)>,
        room: Option<Duration>,
        draws: &mut Draws,
    ) -> Wait {
        let mut wait = Wait {
            length: delay,
            reason: WaitReason::Backoff,
        };
        if let Some(hint) = hint.filter(|hint| !hint.is_zero()) {
            // Where the whole service is held, its window spreads the way back.
            let length = match closed {
                Some((length, WaitReason::Window)) if length >= hint => hint,
                _ => self.spread(hint, room, draws),
            };
            if length >= delay {
                let reason = WaitReason::ServerHint;
                wait = Wait { length, reason };
            }
        }
        // Whoever waits for a window waits in its line, not here.
        match closed {
            Some((length, reason @ WaitReason::Breaker)) if length > wait.length => {
                Wait { length, reason }
            }
            _ => wait,
        }
    }

    /// Bends a hint that many were given.
    #[cold]
    fn spread(&self, hint: Duration, room: Option<Duration>, draws: &mut Draws) -> Duration {
        // A spread up to the deadline would leave no time for the answer.
        let free = room.map_or(Duration::MAX, |room| room.saturating_sub(hint));
        let widest = hint.min(self.hint_spread).min(free / 2);
        hint.saturating_add(Duration::from_nanos(draws.up_to(count(widest))))
    }
}

impl Default for Retry {
    /// Exponential from 100 ms.
    fn default() -> Self {
        Self::exponential(FIRST_DELAY)
    }
}

/// A failed attempt, and what has to be known to decide what follows it.
#[derive(Debug)]
pub(crate) struct Failed<'a> {
    pub(crate) verdict: &'a Verdict,
    /// Its number, and the attempts that others made for this call.
    pub(crate) spent: u32,
    pub(crate) now: Instant,
    /// The server's hint as a length of time from now.
    pub(crate) hint: Option<Duration>,
    pub(crate) deadline: Option<Deadline>,
    /// An attempt with less time than this to its deadline isn't worth beginning.
    pub(crate) least_time: Duration,
    pub(crate) idempotent: bool,
    pub(crate) replayable: bool,
    /// For how long a shared policy will let nothing go, and which.
    pub(crate) closed: Option<(Duration, WaitReason)>,
}

impl Failed<'_> {
    /// A wait has to be shorter than this. `None` without a deadline.
    fn room(&self) -> Option<Duration> {
        let left = self.deadline?.left(self.now);
        Some(left.saturating_sub(self.least_time))
    }
}

/// How far a call has come in each schedule.
#[derive(Debug)]
pub(crate) struct Courses {
    own: Progress,
    rate_limited: Progress,
}

impl Courses {
    pub(crate) const fn new() -> Self {
        Self {
            own: Progress::new(),
            rate_limited: Progress::new(),
        }
    }
}

/// What to do after a failure.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Try again after this wait.
    Again { wait: Wait },
    /// Give up. `wait` is the earliest useful time for another call, if known.
    Stop { stop: Stop, wait: Option<Duration> },
}

const MAX_ATTEMPTS: u32 = 3;

const FIRST_DELAY: Duration = Duration::from_millis(100);

const RATE_LIMITED_FIRST: Duration = Duration::from_secs(1);

/// A maintenance page's 300 s is still believed; a daily quota's 53,578 s is not slept through.
const MAX_HINT: Duration = Duration::from_secs(300);

const HINT_SPREAD: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rng::Rng;

    fn secs(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn failed(verdict: &Verdict) -> Failed<'_> {
        Failed {
            verdict,
            spent: 1,
            now: Instant::now(),
            hint: match verdict.server_hint() {
                Some(Hint::After(length)) => Some(length),
                _ => None,
            },
            deadline: None,
            least_time: Duration::ZERO,
            idempotent: true,
            replayable: true,
            closed: None,
        }
    }

    fn decide(policy: &Retry, failed: &Failed<'_>) -> Decision {
        let mut draws = Rng::seeded(1).draws();
        let budget = match policy.budgets() {
            Some(Scope::One(budget)) => Some(budget),
            _ => None,
        };
        policy.decide(failed, budget, &mut Courses::new(), &mut draws, &mut None)
    }

    fn stop_of(policy: &Retry, failed: &Failed<'_>) -> Option<Stop> {
        match decide(policy, failed) {
            Decision::Again { .. } => None,
            Decision::Stop { stop, .. } => Some(stop),
        }
    }

    fn overloaded(hint: Duration) -> Verdict {
        Verdict::new(Kind::Overloaded).hint(Hint::After(hint))
    }

    proptest! {
        #[test]
        fn a_hint_is_a_lower_bound_and_no_wait_passes_the_deadline(
            hint in 0..400_000_u64,
            left in 0..600_000_u64,
            least in 0..5_000_u64,
            spread in 0..60_000_u64,
            seed: u64,
        ) {
            let ms = Duration::from_millis;
            let policy = Retry::default().hint_spread(ms(spread));
            let verdict = overloaded(ms(hint));
            let mut failed = failed(&verdict);
            failed.deadline = Some(Deadline::at(failed.now + ms(left)));
            failed.least_time = ms(least);
            let mut draws = Rng::seeded(seed).draws();
            match policy.decide(&failed, None, &mut Courses::new(), &mut draws, &mut None) {
                Decision::Again { wait } => {
                    prop_assert!(wait.length >= ms(hint));
                    prop_assert!(wait.length + ms(least) < ms(left));
                    prop_assert!(wait.length <= ms(100).max(ms(hint) + ms(spread.min(hint))));
                }
                Decision::Stop { stop: Stop::HintTooFar, wait } => {
                    prop_assert!(hint > 300_000);
                    prop_assert_eq!(wait, Some(ms(hint)));
                }
                Decision::Stop { stop, wait } => {
                    prop_assert_eq!(stop, Stop::DeadlineTooClose);
                    prop_assert!(ms(hint).max(ms(100)) + ms(least) >= ms(left));
                    prop_assert!(wait >= Some(ms(hint)));
                }
            }
        }
    }

    #[test]
    fn a_hint_past_its_cap_ends_the_call_and_one_at_it_does_not() {
        let policy = Retry::default();
        let verdict = overloaded(secs(300));
        let at_cap = failed(&verdict);
        assert_eq!(stop_of(&policy, &at_cap), None);
        let verdict = overloaded(secs(300) + Duration::from_nanos(1));
        let past = failed(&verdict);
        assert_eq!(stop_of(&policy, &past), Some(Stop::HintTooFar));
    }

    #[test]
    fn a_fleet_told_the_same_moment_is_spread() {
        let policy = Retry::default();
        let verdict = overloaded(secs(10));
        let failed = failed(&verdict);
        let mut waits: Vec<_> = (0..100)
            .filter_map(|seed| {
                let mut draws = Rng::seeded(seed).draws();
                match policy.decide(&failed, None, &mut Courses::new(), &mut draws, &mut None) {
                    Decision::Again { wait } => Some(wait.length),
                    Decision::Stop { .. } => None,
                }
            })
            .collect();
        waits.sort();
        assert_eq!(waits.len(), 100);
        assert!(waits[0] >= secs(10) && waits[99] <= secs(20));
        assert!(waits[90] > waits[10] + secs(7), "too close: {waits:?}");
    }

    #[test]
    fn a_zero_hint_leaves_the_clients_own_backoff() {
        let policy = Retry::constant(secs(1));
        let Decision::Again { wait } = decide(&policy, &failed(&overloaded(Duration::ZERO))) else {
            panic!("stopped")
        };
        assert_eq!((wait.length, wait.reason), (secs(1), WaitReason::Backoff));
    }

    #[test]
    fn a_request_that_is_not_idempotent_is_repeated_only_if_provably_unprocessed() {
        let policy = Retry::default();
        for (processed, stop) in [
            (Processed::No, None),
            (Processed::Maybe, Some(Stop::NotSafe(Processed::Maybe))),
            (Processed::Yes, Some(Stop::NotSafe(Processed::Yes))),
        ] {
            let verdict = Verdict::transient().processed(processed);
            let mut failed = failed(&verdict);
            assert_eq!(stop_of(&policy, &failed), None, "idempotent");
            failed.idempotent = false;
            assert_eq!(stop_of(&policy, &failed), stop);
        }
    }

    #[test]
    fn a_body_that_can_not_be_sent_again_ends_the_call() {
        let verdict = Verdict::transient();
        let mut failed = failed(&verdict);
        failed.replayable = false;
        assert_eq!(
            stop_of(&Retry::default(), &failed),
            Some(Stop::NotReplayable)
        );
    }

    #[test]
    fn permanent_failures_and_vetoes_are_final() {
        let policy = Retry::default();
        for kind in [Kind::RequestFault, Kind::TargetFault] {
            assert_eq!(
                stop_of(&policy, &failed(&Verdict::new(kind))),
                Some(Stop::NotRetryable)
            );
        }
        let vetoed = Verdict::transient().hint(Hint::Never);
        assert_eq!(
            stop_of(&policy, &failed(&vetoed)),
            Some(Stop::ServerForbade)
        );
    }

    #[test]
    fn the_first_attempt_counts() {
        let policy = Retry::default().max_attempts(2);
        let verdict = Verdict::transient();
        let mut failed = failed(&verdict);
        assert_eq!(stop_of(&policy, &failed), None);
        failed.spent = 2;
        assert_eq!(stop_of(&policy, &failed), Some(Stop::AttemptsExhausted));
    }

    #[test]
    fn an_empty_budget_ends_the_call() {
        let budget = Budget::default().capacity(0);
        let policy = Retry::default().budget(budget);
        let verdict = Verdict::transient();
        let failed = failed(&verdict);
        assert_eq!(stop_of(&policy, &failed), Some(Stop::BudgetExhausted));
    }

    #[test]
    fn a_rate_limit_has_its_own_slower_schedule() {
        let first = |verdict| {
            let sum: Duration = (0..200)
                .filter_map(|seed| {
                    let mut draws = Rng::seeded(seed).draws();
                    match Retry::default().decide(
                        &failed(&verdict),
                        None,
                        &mut Courses::new(),
                        &mut draws,
                        &mut None,
                    ) {
                        Decision::Again { wait } => Some(wait.length),
                        Decision::Stop { .. } => None,
                    }
                })
                .sum();
            sum / 200
        };
        assert!(first(Verdict::transient()) < Duration::from_millis(60));
        assert!(first(Verdict::new(Kind::RateLimited)) > Duration::from_millis(440));
    }

    #[test]
    fn each_schedule_goes_its_own_course() {
        let seconds = |list: [u64; 3]| Backoff::custom(move || list.map(secs));
        let policy = Retry::new(seconds([1, 2, 3]))
            .after_rate_limit(seconds([10, 20, 30]))
            .max_attempts(9);
        let (mut courses, mut draws) = (Courses::new(), Rng::seeded(1).draws());
        let (transient, limited) = (Verdict::transient(), Verdict::new(Kind::RateLimited));
        let waits = [transient, limited, limited, transient].map(|verdict| {
            match policy.decide(&failed(&verdict), None, &mut courses, &mut draws, &mut None) {
                Decision::Again { wait } => wait.length.as_secs(),
                Decision::Stop { stop, .. } => panic!("{stop}"),
            }
        });
        assert_eq!(waits, [1, 10, 20, 2]);
    }

    #[test]
    fn a_schedule_given_by_hand_counts_after_a_rate_limit_too() {
        let verdict = Verdict::new(Kind::RateLimited);
        let limited = failed(&verdict);
        let by_hand = Retry::default().backoff(Backoff::constant(secs(7)));
        let Decision::Again { wait } = decide(&by_hand, &limited) else {
            panic!("stopped")
        };
        assert_eq!(wait.length, secs(7));
        let both = Retry::default()
            .after_rate_limit(Backoff::constant(secs(9)))
            .backoff(Backoff::constant(secs(7)));
        let Decision::Again { wait } = decide(&both, &limited) else {
            panic!("stopped")
        };
        assert_eq!(wait.length, secs(9));
    }

    #[test]
    fn zero_attempts_are_refused_by_name() {
        assert!(Retry::default().max_attempts(1).check().is_ok());
        let error = Retry::default().max_attempts(0).check().unwrap_err();
        assert_eq!(error.field(), "retry.max_attempts");
    }
}
