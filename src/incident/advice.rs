//! What to change, as far as an incident tells: pure.

use crate::diagnosis::Cause;
use crate::error::Reason;
use crate::incident::Report;
use crate::incident::report::{count, percent};
use crate::report::Stop;
use crate::verdict::Processed;

/// Something to change, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Advice {
    /// What was seen, with its numbers.
    pub reason: String,
    /// What to do about it.
    pub advice: &'static str,
}

/// A rule: the reason, if it holds.
type Rule = (fn(&Report) -> Option<String>, &'static str);

pub(super) fn of(report: &Report) -> Vec<Advice> {
    let held = RULES.iter().filter_map(|(rule, advice)| {
        let reason = rule(report)?;
        Some(Advice { reason, advice })
    });
    held.collect()
}

const RULES: [Rule; 13] = [
    (
        |it| {
            let denied = stops(it, Stop::BudgetExhausted);
            let wanted = denied + it.retries;
            (denied >= SOME && denied * 5 >= wanted).then(|| {
                format!(
                    "{} of the retries were denied by the budget",
                    percent(denied, wanted)
                )
            })
        },
        "leave it if the service was overloaded: that is what the budget is for; raise its ratio only if most \
         retries succeed",
    ),
    (
        |it| {
            let wasted = it.retries_failed;
            (it.retries >= 20 && wasted * 10 >= it.retries * 9 && it.extra_load()? >= 1.3).then(
                || {
                    format!(
                        "{} of {} retries failed as well",
                        percent(wasted, it.retries),
                        it.retries
                    )
                },
            )
        },
        "let a window or a breaker see these failures, or lower the budget: the extra load bought nothing",
    ),
    (
        |it| {
            let without = stops(it, Stop::NoRetryPolicy);
            (without >= SOME)
                .then(|| format!("{} had no retry policy", count(without, "failed call")))
        },
        "give the pipeline a retry, with a budget",
    ),
    (
        |it| {
            let unsafe_ = stops(it, Stop::NotSafe(Processed::Maybe));
            mattered(it, unsafe_).then(|| {
                format!(
                    "{} could not be repeated safely",
                    count(unsafe_, "failed call")
                )
            })
        },
        "send an idempotency key where the service knows it, or say that the calls are idempotent",
    ),
    (
        |it| {
            let once = stops(it, Stop::NotReplayable);
            mattered(it, once).then(|| {
                format!(
                    "{} had a body that can be sent once",
                    count(once, "failed call")
                )
            })
        },
        "make bodies replayable, with a buffer or a body that can be cloned",
    ),
    (
        |it| {
            let late = stops(it, Stop::DeadlineTooClose);
            mattered(it, late).then(|| {
                format!(
                    "{} had no time left for another attempt",
                    count(late, "failed call")
                )
            })
        },
        "make the attempt's timeout a fraction of the deadline, so that a second attempt fits",
    ),
    (
        |it| {
            let far = stops(it, Stop::HintTooFar);
            (far >= SOME).then(|| {
                format!(
                    "{} ended because the server asked for a longer wait than they had",
                    count(far, "call")
                )
            })
        },
        "tell callers when to come back: the error's `retry_at` says it",
    ),
    (
        |it| {
            let late: u64 = it
                .causes
                .iter()
                .filter(|(cause, _)| *cause == Cause::OwnTimeout)
                .map(|it| it.1)
                .sum();
            (late >= SOME && late * 2 >= it.failures()).then(|| {
                format!(
                    "{} of the failures were the client's own timeout",
                    percent(late, it.failures())
                )
            })
        },
        "compare the attempt's timeout with what the service takes when all is well: five times that is plenty",
    ),
    (
        |it| {
            let asked = it
                .causes
                .iter()
                .filter(|(cause, _)| matches!(cause, Cause::Overload | Cause::RateLimit));
            let asked: u64 = asked.map(|it| it.1).sum();
            (asked >= SOME && it.hints == 0).then(|| {
                format!(
                    "{} said that it was too much, and none said until when",
                    count(asked, "answer")
                )
            })
        },
        "ask the service's people for `Retry-After`: clients then come back when it is of use",
    ),
    (
        |it| {
            (it.failures() >= 50 && it.changes.is_empty() && it.refused() == 0).then(|| {
                format!(
                    "{} and no policy that calls share took notice",
                    count(it.failures(), "failure")
                )
            })
        },
        "add a window, or a breaker, so that one call's failure spares the others",
    ),
    (
        |it| {
            let own = refusals(it, Reason::QueueFull)
                + refusals(it, Reason::QueueTimeout)
                + refusals(it, Reason::RateLimited);
            (own >= SOME && it.failures() * 10 < own).then(|| {
                format!(
                    "{} refused by this client's own limits, while few attempts failed",
                    count(own, "call")
                )
            })
        },
        "raise the limit or its line, or send less: the service was well",
    ),
    (
        |it| {
            (it.would_refuse >= SOME).then(|| {
                format!(
                    "{} went that a policy would have refused, were it not only watching",
                    count(it.would_refuse, "attempt")
                )
            })
        },
        "look at what became of them; if they failed, let it refuse",
    ),
    (
        |it| (it.injected > 0).then(|| format!("{} injected", count(it.injected, "fault"))),
        "if this was no drill, find out who gave the pipeline chaos, and switch it off",
    ),
];

fn stops(report: &Report, stop: Stop) -> u64 {
    let found = report.stops.iter().find(|(it, _)| *it == stop);
    found.map_or(0, |(_, times)| *times)
}

fn refusals(report: &Report, reason: Reason) -> u64 {
    let found = report.refusals.iter().find(|(it, _)| *it == reason);
    found.map_or(0, |(_, times)| *times)
}

/// Enough, and a fifth of all that gave up.
fn mattered(report: &Report, times: u64) -> bool {
    times >= SOME && times * 5 >= report.gave_up()
}

/// Fewer than this are chance.
const SOME: u64 = 5;
