//! When a check goes. Pure.

use std::time::{Duration, Instant};

use crate::backoff::count;
use crate::deadline::later;
use crate::rng::Draws;
use crate::window::Turn;

use super::Check;

/// What there is to see of a service.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// Its breaker is not closed: when it may let a probe through.
    pub(super) breaker: Option<Instant>,
    /// An endpoint is ejected: when it may be probed.
    pub(super) endpoint: Option<Instant>,
    /// It is not well: when an attempt ended last, and until when it asked for quiet.
    pub(super) health: Option<(Option<Instant>, Option<Instant>)>,
    /// Its window is limited.
    pub(super) window: Option<Turn>,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A check goes: at once, or in line, where its turn comes at this moment or later.
    Check(Instant),
    /// Look again at this moment.
    Sleep(Instant),
}

/// How a check ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    /// What the server asked for.
    pub(super) hint: Option<Duration>,
    /// It never came to be sent, and not because of a breaker.
    pub(super) turned_away: bool,
}

/// Decides when the next check goes.
///
/// | because of | not before |
/// |---|---|
/// | every reason | an interval after the last check ended, and what its answer asked for; a breaker that is not closed lets a probe through |
/// | a breaker that is not closed | that alone: nothing else goes there |
/// | an ejected endpoint | it may be probed |
/// | a limited window | an interval after anything went or came back well; its turn, which it waits for in line if there is one |
/// | bad health | an interval after any attempt ended, and what the server asked for |
#[derive(Debug)]
pub(super) struct Plan {
    check: Check,
    /// The interval of now: bent by chance.
    interval: Duration,
    /// No check begins before this moment.
    next: Instant,
    /// Until when the answer to the last one asked for quiet.
    quiet_until: Option<Instant>,
    turned_away: bool,
}

impl Plan {
    pub(super) fn new(check: Check, now: Instant, draws: &mut Draws) -> Self {
        let interval = check.interval(draws);
        Self {
            check,
            interval,
            next: later(now, interval),
            quiet_until: None,
            turned_away: false,
        }
    }

    /// Somebody looks. What comes of `Check` is to be told by [`ended`](Self::ended).
    pub(super) fn step(&mut self, seen: &Seen, now: Instant, draws: &mut Draws) -> Step {
        let rested = |last: Option<Instant>| last.map_or(now, |it| later(it, self.interval));
        let wanted = [
            seen.breaker,
            seen.endpoint,
            seen.health
                .map(|(last, quiet)| rested(last).max(quiet.unwrap_or(now))),
            seen.window.map(|turn| rested(turn.last)),
        ];
        let Some(wanted) = wanted.into_iter().flatten().min() else {
            // Not needed. The next look is at another distance.
            self.interval = self.check.interval(draws);
            return Step::Sleep(later(now, self.interval));
        };
        let mut at = wanted.max(self.next).max(seen.breaker.unwrap_or(wanted));
        at = at.max(self.quiet(seen).unwrap_or(at));
        if let Some(turn) = seen.window {
            if turn.has_line && at <= turn.at {
                return Step::Check(turn.at.max(now));
            }
            at = at.max(turn.at);
        }
        if at <= now {
            Step::Check(now)
        } else {
            Step::Sleep(at)
        }
    }

    /// The check ended.
    pub(super) fn ended(&mut self, ended: Ended, now: Instant, draws: &mut Draws) {
        self.interval = self.check.interval(draws);
        self.next = later(now, self.interval);
        let quiet = ended.hint.map(|hint| hint.min(LONGEST_HINT));
        self.quiet_until = quiet.map(|quiet| later(now, quiet));
        self.turned_away = ended.turned_away;
    }

    /// Until when the server asked for quiet.
    fn quiet(&self, seen: &Seen) -> Option<Instant> {
        let quiet = self.quiet_until?;
        match (seen.window, seen.breaker) {
            // It was told the same, a little before the plan. Who comes later than its turn comes after others.
            (Some(turn), _) if quiet <= later(turn.at, TOLD) => None,
            // They come back at a moment of their own.
            (Some(_), _) | (_, Some(_)) => Some(quiet),
            (None, None) => {
                let spread = self.interval.saturating_sub(self.check.every);
                Some(later(quiet, spread))
            }
        }
    }

    /// Until when a breaker is to leave its probes to the check, if it is to. It outlasts the next look,
    /// and not by much: somebody has to probe if nobody polls the check any more, or what it needs
    /// beside the breaker is not to be had.
    pub(super) fn reserves(&self, step: Step, timeout: Duration) -> Option<Instant> {
        if !self.check.first || self.turned_away {
            return None;
        }
        Some(match step {
            Step::Check(at) => later(later(at, timeout), self.check.longest()),
            Step::Sleep(until) => later(until, self.check.longest()),
        })
    }
}

impl Check {
    /// An interval, bent by chance.
    fn interval(&self, draws: &mut Draws) -> Duration {
        let spread = count(self.longest().saturating_sub(self.every));
        let more = Duration::from_nanos(draws.up_to(spread));
        self.every.saturating_add(more)
    }

    /// The longest interval there can be.
    fn longest(&self) -> Duration {
        let share = u128::from(self.jitter.in_millionths());
        let nanos = self.every.as_nanos().saturating_mul(share) / 1_000_000;
        let spread = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.every.saturating_add(spread)
    }
}

/// How much later than a window the plan may have been told.
const TOLD: Duration = Duration::from_millis(100);

/// What is believed of a server that asks for more.
const LONGEST_HINT: Duration = Duration::from_secs(300);
