//! The report: plain values, and the sentences that all its renderings share.

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::diagnosis::{Cause, Origin};
use crate::error::Reason;
use crate::event;
use crate::incident::advice::{self, Advice};
use crate::incident::cause::Lasts;
use crate::incident::dates;
use crate::incident::machine::{Ending, Incident, Stamped};
use crate::incident::timeline::{Step, Timeline};
use crate::incident::{NO_KEY, OTHERS, UNNAMED};
use crate::incident::{json, markdown, page};
use crate::report::{Stop, WaitReason};
use crate::verdict::Label;
use crate::{breaker, diagnosis, endpoints, keyed, limit, throttle, window};

/// The story of one incident.
///
/// What is counted is what happened from its begin to its end. Lists are in descending order of their counts
/// where nothing else is said.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The first is 1.
    pub number: u64,
    /// The first bad outcome, to a tenth of the recorder's window.
    pub begin: SystemTime,
    /// The last trouble. `None`: it goes on.
    pub end: Option<SystemTime>,
    /// How one knows that it is over. `None`: it goes on.
    pub ending: Option<Ending>,
    /// From its begin to its end, or to now.
    pub length: Duration,
    /// The first call that succeeded after the last trouble, if one did.
    pub well_again: Option<SystemTime>,
    /// Failed attempts by cause.
    pub causes: Vec<(Cause, u64)>,
    /// Failed attempts by cause and by what was seen: a status, a word.
    pub seen: Vec<(Cause, Label, u64)>,
    /// Those of which there was no room to say what they were.
    pub seen_otherwise: u64,
    /// What the diagnoses said, by cause.
    pub findings: Vec<Finding>,
    /// The diagnosis that led, as it changed, in order of time.
    pub phases: Vec<Phase>,
    /// What became of the calls, by service.
    pub affected: Vec<Affected>,
    /// Attempts that were their call's first.
    pub first_attempts: u64,
    /// Attempts that came after the first one of their call.
    pub retries: u64,
    /// Retries that failed as well.
    pub retries_failed: u64,
    /// Calls that gave up after a failure, by reason.
    pub stops: Vec<(Stop, u64)>,
    /// Calls whose deadline passed while an attempt ran.
    pub out_of_time: u64,
    /// Calls that a policy refused, by reason.
    pub refusals: Vec<(Reason, u64)>,
    /// Waits by who set their length, and their sum as it was planned, where it is known.
    pub waits: Vec<(WaitReason, u64, Duration)>,
    /// How long calls that ended had waited in line, or for a breaker, in all.
    pub parked: Duration,
    /// Faults that were injected: if there are any, it was a drill at least in part.
    pub injected: u64,
    /// Attempts that a policy would have refused that only watches.
    pub would_refuse: u64,
    /// Failures with which the server said when to come back.
    pub hints: u64,
    /// The longest wait that it asked for.
    pub longest_hint: Duration,
    /// The latest moment that it named.
    pub back_at: Option<SystemTime>,
    /// The least that was left in a budget, from 0 to 1.
    pub least_budget: Option<f64>,
    /// Changes of state of shared policies, in order of time. Those in the middle of many are left out.
    pub changes: Vec<Change>,
    /// How many are left out.
    pub changes_left_out: u64,
    /// What happened over time, from some seconds before the begin until it was known to be over.
    pub timeline: Vec<Moment>,
    /// How long each moment of the timeline lasts.
    pub step: Duration,
    /// What to change, each with its reason.
    pub advice: Vec<Advice>,
}

/// What the diagnoses of one cause's failures said.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The cause.
    pub cause: Cause,
    /// Failed attempts by it.
    pub failures: u64,
    /// How sure, in percent, in the mean. `None`: it is unknown, or there was no diagnosis, only a verdict.
    pub confidence: Option<u8>,
    /// Who said so, as far as it is known.
    pub said_by: Vec<(Origin, u64)>,
    /// How long it would last, as most of them said.
    pub outlook: Outlook,
    /// What spoke for it, the heaviest in all first, at most four pieces. Of what is unknown: what
    /// there was.
    pub evidence: Vec<Clue>,
}

/// A piece of evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Clue {
    /// The name of a row of the table of [signatures](crate::diagnosis::Signatures).
    pub name: &'static str,
    /// What it speaks for most, or against.
    pub cause: Cause,
    /// How much, in decibans; negative speaks against.
    pub weight: i8,
    /// With how many failures it was seen.
    pub times: u64,
}

/// How long it would last, as far as the diagnoses told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outlook {
    /// The same request would soon get through with nobody doing anything.
    Momentary,
    /// Until somebody or something changes it.
    Persistent,
    /// Nothing told.
    #[default]
    Unknown,
    /// The server said that it would be back then.
    Until(SystemTime),
}

/// A stretch of time in which one diagnosis led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Phase {
    /// When it began to lead, to a [`step`](Report::step).
    pub from: SystemTime,
    /// Which.
    pub cause: Cause,
    /// Failed attempts by this cause in that stretch.
    pub failures: u64,
    /// All failed attempts in it.
    pub of: u64,
    /// Who said so of most of them.
    pub origin: Origin,
    /// How long it would last.
    pub outlook: Outlook,
}

/// What became of the calls to one service.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Affected {
    /// The name that it was given; `others` for all that have none, `no key` for calls without a key.
    pub name: String,
    /// Attempts that failed.
    pub failures: u64,
    /// Calls that gave up after a failure, or ran out of time.
    pub gave_up: u64,
    /// Calls that a policy refused.
    pub refused: u64,
    /// Calls that failed by the request's own fault.
    pub request_faults: u64,
    /// Calls that succeeded.
    pub succeeded: u64,
    /// Those of them that took more than one attempt.
    pub succeeded_later: u64,
    /// Those of them that were slow.
    pub slow: u64,
}

/// A change of a shared policy's state.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Change {
    /// When.
    pub at: SystemTime,
    /// The service's name, as in [`Affected`].
    pub name: String,
    /// What changed, and why.
    pub change: event::Change,
}

/// What happened in one step of the time.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Moment {
    /// When it began.
    pub from: SystemTime,
    /// Failed attempts by cause.
    pub failures: Vec<(Cause, u64)>,
    /// Failed attempts by further causes.
    pub failed_otherwise: u64,
    /// Calls that succeeded, or failed by the request's own fault.
    pub answered: u64,
    /// Calls that a policy refused.
    pub refused: u64,
    /// Failures after which another attempt was planned.
    pub retries: u64,
    /// Attempts that began to wait in line.
    pub parked: u64,
    /// The least that was left in a budget, from 0 to 1.
    pub budget: Option<f64>,
}

impl Report {
    pub(super) fn new(it: &Incident, names: &[String], now: Duration, wall: SystemTime) -> Self {
        let (at, anchor) = it.anchor.unwrap_or((now, wall));
        let exactly = |moment: Duration| {
            let ahead = anchor.checked_add(moment.saturating_sub(at))?;
            ahead.checked_sub(at.saturating_sub(moment))
        };
        let date = |moment| exactly(moment).unwrap_or(anchor);
        let end = it.ended.map(|_| it.trouble);
        let tally = &it.tally;
        let mut causes = super::table::Table::<Cause, 16>::new();
        let seen = tally.failures.sorted();
        for ((cause, _), times) in &seen {
            causes.add(*cause, *times);
        }
        let waited = |reason| {
            let found = tally.waited.iter().find(|(it, _)| *it == reason);
            Duration::from_nanos(found.map_or(0, |(_, nanos)| nanos))
        };
        let waits = tally.waits.sorted().into_iter();
        let changes = it.changes.first.iter().chain(&it.changes.last);
        let moments = it.timeline.steps.iter().enumerate();
        let least_budget = within(&it.timeline, it.began, it.trouble)
            .filter_map(|(_, step)| step.budget)
            .reduce(f32::min);
        let mut report = Self {
            number: it.number,
            begin: date(it.began),
            end: end.map(date),
            ending: it.ended,
            length: end.unwrap_or(now).saturating_sub(it.began),
            well_again: it.well.map(date),
            causes: causes.sorted(),
            seen: seen
                .into_iter()
                .map(|((cause, label), times)| (cause, label, times))
                .collect(),
            seen_otherwise: tally.failures.others(),
            findings: findings(it, &causes.sorted(), exactly),
            phases: phases(it, date, exactly),
            affected: affected(it, names),
            first_attempts: tally.first_attempts,
            retries: tally.retries,
            retries_failed: tally.retries_failed,
            stops: tally.stops.sorted(),
            out_of_time: tally.out_of_time,
            parked: tally.parked,
            refusals: tally.refusals.sorted(),
            waits: waits
                .map(|(reason, times)| (reason, times, waited(reason)))
                .collect(),
            injected: tally.injected,
            would_refuse: tally.would_refuse,
            hints: tally.hints,
            longest_hint: tally.longest_hint,
            back_at: it.back_at.and_then(exactly),
            least_budget: least_budget.map(f64::from),
            changes: changes.map(|change| told(change, names, date)).collect(),
            changes_left_out: it.changes.left_out,
            timeline: moments
                .map(|(index, step)| moment(step, date(start(&it.timeline, index))))
                .collect(),
            step: it.timeline.width,
            advice: Vec::new(),
        };
        report.advice = advice::of(&report);
        report
    }

    /// Failed attempts, but for those that were the request's own fault.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.affected.iter().map(|it| it.failures).sum()
    }

    /// Calls that gave up after a failure, or ran out of time.
    #[must_use]
    pub fn gave_up(&self) -> u64 {
        self.affected.iter().map(|it| it.gave_up).sum()
    }

    /// Calls that a policy refused.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.affected.iter().map(|it| it.refused).sum()
    }

    /// Calls that ended.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.affected.iter().map(Affected::calls).sum()
    }

    /// How many attempts there were for each first one: what the client's retries multiplied its load by.
    /// `None` without attempts.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // for people to read
    pub fn extra_load(&self) -> Option<f64> {
        let all = self.first_attempts + self.retries;
        (self.first_attempts > 0).then(|| all as f64 / self.first_attempts as f64)
    }

    /// A screen of Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        markdown::write(self)
    }

    /// All of it as JSON: one object, with times as in RFC 3339 and lengths in seconds.
    #[must_use]
    pub fn json(&self) -> String {
        json::write(self)
    }

    /// An HTML page that needs nothing else, with a timeline.
    #[must_use]
    pub fn page(&self) -> String {
        page::write(self)
    }

    /// `Incident 1: overload at billing`, with names as `escape` makes them.
    pub(super) fn headline(&self, escape: fn(&str) -> String) -> String {
        let what = match self.causes.first() {
            Some((cause, _)) => cause.to_string(),
            None => "refused by the client's own policies".to_owned(),
        };
        let mut hit = self.affected.iter().filter(|it| it.is_hit());
        let at = match (hit.next(), hit.count()) {
            (Some(one), _) if one.is_unnamed() => String::new(),
            (Some(one), 0) => format!(" at {}", escape(&one.name)),
            (Some(one), more) => format!(" at {} and {more} more", escape(&one.name)),
            (None, _) => String::new(),
        };
        format!("Incident {}: {what}{at}", self.number)
    }

    /// From when to when, and how it ended.
    pub(super) fn when(&self) -> String {
        let (begin, length) = (dates::in_words(self.begin), dates::length(self.length));
        match (self.end, self.ending) {
            (Some(end), Some(ending)) => {
                let end = dates::in_words(end);
                format!("{begin} to {end} ({length}); {ending}.")
            }
            _ => format!("Since {begin} ({length}); it goes on."),
        }
    }

    /// What it came to, in a sentence or two, with names as `escape` makes them.
    pub(super) fn summary(&self, escape: fn(&str) -> String) -> String {
        let (gave_up, refused) = (self.gave_up(), self.refused());
        let mut said = vec![format!(
            "Of {} that ended, {} got no answer to use: {gave_up} gave up, {refused} refused before they were sent.",
            count(self.calls(), "call"),
            gave_up + refused,
        )];
        if let Some((cause, times)) = self.causes.first() {
            let found = self.findings.first();
            let by = found.and_then(|it| it.said_by.first());
            let by = by.map(|(origin, _)| escape(&origin.to_string()));
            let by = by.map_or_else(String::new, |it| format!(", said by {it}"));
            let lasts = found.and_then(|it| self.lasts(it.outlook));
            let lasts = lasts.map_or_else(String::new, |it| format!(", {it}"));
            said.push(format!(
                "{} failed, {} of them by {cause}{by}{lasts}.",
                count(self.failures(), "attempt"),
                percent(*times, self.failures()),
            ));
        }
        if self.injected > 0 {
            said.push(format!(
                "It was a drill, at least in part: {} injected.",
                count(self.injected, "fault"),
            ));
        }
        said.join(" ")
    }

    /// What the client did, a line each.
    pub(super) fn did(&self) -> Vec<String> {
        let mut said = Vec::new();
        if let Some(load) = self.extra_load() {
            said.push(format!(
                "Attempts: {} first, {} ({} failed as well): {load:.2} per call.",
                self.first_attempts,
                plural(self.retries, "retry", "retries"),
                self.retries_failed,
            ));
        }
        let list = |rows: Vec<String>| rows.join(", ");
        if !self.waits.is_empty() {
            let rows = self
                .waits
                .iter()
                .map(|(reason, times, sum)| match dates::length(*sum) {
                    _ if sum.is_zero() => format!("{reason} {times}"),
                    sum => format!("{reason} {times} ({sum} in all)"),
                });
            let parked = match self.parked {
                parked if parked.is_zero() => String::new(),
                parked => format!("; {} in line in all", dates::length(parked)),
            };
            said.push(format!("Waits: {}{parked}.", list(rows.collect())));
        }
        if !self.refusals.is_empty() {
            let rows = self.refusals.iter();
            let rows = rows.map(|(reason, times)| format!("{reason} {times}"));
            said.push(format!("Refused: {}.", list(rows.collect())));
        }
        let stops = self.stops.iter();
        let mut stops: Vec<_> = stops
            .map(|(stop, times)| format!("{stop} {times}"))
            .collect();
        if self.out_of_time > 0 {
            stops.push(format!("deadline passed {}", self.out_of_time));
        }
        if !stops.is_empty() {
            said.push(format!("Gave up: {}.", list(stops)));
        }
        if let Some(least) = self.least_budget {
            said.push(format!("Budget: {:.0} % left at the least.", 100.0 * least));
        }
        if self.hints > 0 {
            let back = self.back_at.map(|at| dates::near(at, self.begin));
            let back = back.map_or_else(String::new, |at| format!("; back at {at}"));
            let (hints, longest) = (self.hints, dates::length(self.longest_hint));
            said.push(format!(
                "Server's hints: {hints}, {longest} at the longest{back}."
            ));
        }
        said
    }

    /// How long it would last, in a word or two. `None`: nothing told.
    pub(super) fn lasts(&self, outlook: Outlook) -> Option<String> {
        Some(match outlook {
            Outlook::Momentary => "momentary".to_owned(),
            Outlook::Persistent => "persistent".to_owned(),
            Outlook::Unknown => return None,
            Outlook::Until(at) => format!("back at {}", dates::near(at, self.begin)),
        })
    }

    /// A phase, in a line, with names as `escape` makes them.
    pub(super) fn phase(&self, phase: &Phase, escape: fn(&str) -> String) -> String {
        let Phase {
            cause,
            failures,
            of,
            origin,
            ..
        } = phase;
        let from = dates::near(phase.from, self.begin);
        let by = match origin {
            Origin::Unknown => String::new(),
            origin => format!(", said by {}", escape(&origin.to_string())),
        };
        let lasts = self.lasts(phase.outlook);
        let lasts = lasts.map_or_else(String::new, |it| format!(", {it}"));
        format!("from {from}: {cause}{by}{lasts}; {failures} of {of} failures")
    }

    /// The causes that matter: a tenth of the failures or more, three at most.
    pub(super) fn leading(&self) -> impl Iterator<Item = Cause> + '_ {
        let all = self.failures();
        let matter = self
            .causes
            .iter()
            .filter(move |(_, times)| times * 10 >= all);
        matter.map(|(cause, _)| *cause).take(3)
    }
}

impl Affected {
    /// Calls that ended.
    #[must_use]
    pub const fn calls(&self) -> u64 {
        self.gave_up + self.refused + self.request_faults + self.succeeded
    }

    /// Whether any call to it was worse off.
    pub(super) const fn is_hit(&self) -> bool {
        self.failures + self.refused > 0
    }

    fn is_unnamed(&self) -> bool {
        self.name == NAMES[OTHERS] || self.name == NAMES[NO_KEY]
    }
}

impl Clue {
    /// `envoy: overloaded, 12 times (+22 overload)`, with the name as `escape` makes it.
    pub(super) fn words(&self, escape: fn(&str) -> String) -> String {
        let Self {
            name,
            cause,
            weight,
            times,
        } = self;
        let (name, times) = (escape(name), plural(*times, "time", "times"));
        format!("{name}, {times} ({weight:+} {cause})")
    }
}

impl Change {
    /// What changed, in a few words.
    #[must_use]
    pub fn words(&self) -> String {
        words(&self.change)
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Recovered => "calls succeed again",
            Self::Silent => "nobody calls any more",
            Self::Untold => "no more trouble was heard of",
        })
    }
}

fn affected(it: &Incident, names: &[String]) -> Vec<Affected> {
    let services = it.tally.services.iter().enumerate();
    let mut affected: Vec<_> = services
        .map(|(place, of)| Affected {
            name: name(place, names),
            failures: of.failures,
            gave_up: of.gave_up,
            refused: of.refused,
            request_faults: of.request_faults,
            succeeded: of.succeeded,
            succeeded_later: of.succeeded_later,
            slow: of.slow,
        })
        .filter(|it| it.calls() + it.failures > 0)
        .collect();
    affected
        .sort_by_key(|it| std::cmp::Reverse((it.gave_up + it.refused, it.failures, it.calls())));
    affected
}

/// What was said of each cause.
fn findings(
    it: &Incident,
    causes: &[(Cause, u64)],
    date: impl Fn(Duration) -> Option<SystemTime>,
) -> Vec<Finding> {
    let tally = &it.tally;
    let said_of = |cause| {
        tally
            .said
            .iter()
            .filter(move |(said, _)| said.cause == cause)
    };
    let causes = causes.iter().map(|&(cause, failures)| {
        let mut said_by = Vec::new();
        let mut lasts = Vec::new();
        for (said, times) in said_of(cause) {
            if said.origin != Origin::Unknown {
                count_in(&mut said_by, said.origin, times);
            }
            count_in(&mut lasts, said.lasts, times);
        }
        said_by.sort_by_key(|row| std::cmp::Reverse(row.1));
        let of = &tally.of_causes[cause.index()];
        let back_at = of.back_at.and_then(&date);
        let mean = of.confidence.checked_div(of.diagnosed);
        let mean = mean.filter(|_| cause != Cause::Unknown);
        Finding {
            cause,
            failures,
            confidence: mean.map(|it| u8::try_from(it).unwrap_or(u8::MAX)),
            said_by,
            outlook: outlook(most(&lasts), back_at),
            evidence: evidence(it, cause),
        }
    });
    causes.collect()
}

/// What weighed most in all.
fn evidence(it: &Incident, cause: Cause) -> Vec<Clue> {
    let clues = it.tally.clues.iter();
    let clues = clues.filter(|(clue, _)| {
        // What speaks against others is no answer to why it is this one.
        let speaks_for = clue.of == cause && clue.weight > 0;
        clue.found == cause && (speaks_for || cause == Cause::Unknown)
    });
    let mut clues: Vec<_> = clues
        .map(|(clue, times)| Clue {
            name: clue.name,
            cause: clue.of,
            weight: clue.weight,
            times,
        })
        .collect();
    let weight = |it: &Clue| it.times.saturating_mul(u64::from(it.weight.unsigned_abs()));
    clues.sort_by_key(|it| std::cmp::Reverse(weight(it)));
    clues.truncate(SHOWN);
    clues
}

/// The diagnosis that led, from step to step; neighbours are one phase. Few failures change nothing, until
/// there are enough of them in a row, or they are the last and said when it will be back.
fn phases(
    it: &Incident,
    date: impl Fn(Duration) -> SystemTime,
    exactly: impl Fn(Duration) -> Option<SystemTime>,
) -> Vec<Phase> {
    let steps: Vec<_> = within(&it.timeline, it.began, it.trouble)
        .filter(|(_, step)| step.failures.iter().next().is_some())
        .collect();
    let mut phases: Vec<Lead> = Vec::new();
    let mut next: Option<Lead> = None;
    for (place, (_, step)) in steps.iter().enumerate() {
        let Some(lead) = Lead::of(step, place, phases.last()) else {
            continue;
        };
        let Some(now) = phases.last() else {
            phases.push(lead);
            continue;
        };
        if (lead.cause, lead.lasts) == (now.cause, now.lasts) {
            next = None;
            continue;
        }
        let candidate = match next.take().filter(|it| it.cause == lead.cause) {
            Some(before) => Lead {
                first: before.first,
                failures: before.failures + lead.failures,
                ..lead
            },
            None => lead,
        };
        if candidate.failures >= FEW {
            phases.push(candidate);
        } else {
            next = Some(candidate);
        }
    }
    // Who says when it is back is not asked again before then, and so says it once.
    phases.extend(next.filter(|it| it.lasts == Lasts::Announced));
    let ends = phases.iter().skip(1).map(|it| it.first);
    let ends = ends.chain([steps.len()]);
    let phases = phases.iter().zip(ends);
    let phases = phases.map(|(lead, end)| {
        let steps = &steps[lead.first..end];
        let (mut failures, mut of, mut back_at) = (0, 0, None);
        let mut origins = Vec::new();
        for (_, step) in steps {
            of += step.failures.total();
            back_at = step.back_at.max(back_at);
            for (said, times) in step.said.iter().filter(|row| row.0.cause == lead.cause) {
                count_in(&mut origins, said.origin, times);
            }
            let by_cause = step.failures.iter().filter(|row| row.0 == lead.cause);
            failures += by_cause.map(|row| row.1).sum::<u64>();
        }
        let from = steps[0].0.max(it.began);
        Phase {
            from: date(from),
            cause: lead.cause,
            failures,
            of,
            origin: most(&origins).unwrap_or_default(),
            outlook: outlook(Some(lead.lasts), back_at.and_then(&exactly)),
        }
    });
    phases.collect()
}

/// The diagnosis that leads from a step on.
#[derive(Clone, Copy)]
struct Lead {
    cause: Cause,
    lasts: Lasts,
    /// By this diagnosis.
    failures: u64,
    /// The place of its first step.
    first: usize,
}

impl Lead {
    /// Of a step at this place. What leads already, leads still if no other has more.
    fn of(step: &Step, place: usize, now: Option<&Self>) -> Option<Self> {
        let rows = step.failures.sorted();
        let &(mut cause, failures) = rows.first()?;
        if let Some(now) = now {
            if rows.contains(&(now.cause, failures)) {
                cause = now.cause;
            }
        }
        let now = now.filter(|it| it.cause == cause);
        let mut rows = Vec::new();
        for (said, times) in step.said.iter().filter(|row| row.0.cause == cause) {
            count_in(&mut rows, said.lasts, times);
        }
        // Who says nothing takes nothing back.
        rows.retain(|row| row.0 != Lasts::Unknown);
        let leads = most(&rows).unwrap_or(now.map_or(Lasts::Unknown, |it| it.lasts));
        let times = |lasts| {
            rows.iter()
                .find(|row| row.0 == lasts)
                .map_or(0, |row| row.1)
        };
        let (lasts, failures) = match now {
            None => (leads, failures),
            Some(now) if times(now.lasts) == times(leads) => (now.lasts, failures),
            Some(_) => (leads, times(leads)),
        };
        Some(Self {
            cause,
            lasts,
            failures,
            first: place,
        })
    }
}

fn count_in<T: PartialEq>(rows: &mut Vec<(T, u64)>, what: T, times: u64) {
    match rows.iter_mut().find(|row| row.0 == what) {
        Some(row) => row.1 += times,
        None => rows.push((what, times)),
    }
}

/// The first of the most frequent.
fn most<T: Copy>(rows: &[(T, u64)]) -> Option<T> {
    let rows = rows.iter().rev();
    rows.max_by_key(|row| row.1).map(|row| row.0)
}

fn outlook(lasts: Option<Lasts>, back_at: Option<SystemTime>) -> Outlook {
    match lasts {
        // So far away that no calendar has it.
        Some(Lasts::Announced) => back_at.map_or(Outlook::Persistent, Outlook::Until),
        Some(Lasts::Momentary) => Outlook::Momentary,
        Some(Lasts::Persistent) => Outlook::Persistent,
        Some(Lasts::Unknown) | None => Outlook::Unknown,
    }
}

fn within(
    timeline: &Timeline,
    from: Duration,
    to: Duration,
) -> impl Iterator<Item = (Duration, &Step)> {
    let steps = timeline.steps.iter().enumerate();
    let steps = steps.map(|(index, step)| (start(timeline, index), step));
    let width = timeline.width;
    steps.filter(move |(at, _)| at.saturating_add(width) > from && *at <= to)
}

fn start(timeline: &Timeline, index: usize) -> Duration {
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    let since = timeline.width.saturating_mul(index);
    timeline.origin.saturating_add(since)
}

fn moment(step: &Step, from: SystemTime) -> Moment {
    Moment {
        from,
        failures: step.failures.iter().collect(),
        failed_otherwise: step.failures.others(),
        answered: step.succeeded,
        refused: step.refused,
        retries: step.retries,
        parked: step.parked,
        budget: step.budget.map(f64::from),
    }
}

fn told(it: &Stamped, names: &[String], date: impl Fn(Duration) -> SystemTime) -> Change {
    Change {
        at: date(it.at),
        name: name(it.service, names),
        change: it.change,
    }
}

fn name(place: usize, names: &[String]) -> String {
    match place.checked_sub(UNNAMED).and_then(|it| names.get(it)) {
        Some(name) => name.clone(),
        None => NAMES[place.min(NO_KEY)].to_owned(),
    }
}

fn words(change: &event::Change) -> String {
    let length = |it: Option<Duration>| match it {
        Some(it) => format!(" for {}", dates::length(it)),
        None => String::new(),
    };
    match *change {
        event::Change::Breaker(breaker::Change {
            from,
            to,
            why,
            retry_after,
            ..
        }) => format!("breaker {from} → {to}: {why}{}", length(retry_after)),
        event::Change::Endpoint(change) => {
            let number = change.endpoint().index();
            match change {
                endpoints::Change::Ejected { why, length, .. } => {
                    let length = dates::length(length);
                    format!("endpoint {number} ejected for {length}: {why}")
                }
                endpoints::Change::Probing { .. } => format!("endpoint {number} probed"),
                endpoints::Change::Returned { .. } => format!("endpoint {number} is back"),
            }
        }
        event::Change::Health(change) => match change.to {
            diagnosis::Condition::Degraded => format!("health degraded: {}", change.cause),
            diagnosis::Condition::Failing => format!("health failing: {}", change.cause),
            diagnosis::Condition::Healthy => "health is back".to_owned(),
        },
        event::Change::Keyed(keyed::Change::Overflow { keys }) => {
            format!("more than {keys} keys: those beyond share a policy")
        }
        event::Change::Limit(limit::Change::Moved { from, to }) => format!("limit {from} → {to}"),
        event::Change::Limit(limit::Change::Paused { length }) => {
            format!(
                "quota used up: nothing begins for {}",
                dates::length(length)
            )
        }
        event::Change::Throttle(throttle::Change::Began { requests, accepts }) => {
            format!("throttle sheds: {accepts} of {requests} accepted")
        }
        event::Change::Throttle(throttle::Change::Ended) => "throttle sheds no more".to_owned(),
        event::Change::Window(window::Change {
            state,
            why,
            window,
            quiet,
            ..
        }) => {
            let why = match why {
                window::Why::Failures => "failures",
                window::Why::Latency => "late answers",
                window::Why::Quiet => "the server asked for quiet",
            };
            let to = match window {
                Some(window) => format!(" to {window:.1}"),
                None => String::new(),
            };
            match state {
                window::State::Limited => format!("window limited{to}: {why}"),
                window::State::Open => "window open".to_owned(),
                window::State::Quiet => format!("window quiet{}: {why}", length(quiet)),
                window::State::Shrunk => format!("window shrunk{to}: {why}"),
            }
        }
    }
}

/// `1 call`, `2 calls`.
pub(super) fn count(number: u64, what: &str) -> String {
    plural(number, what, &format!("{what}s"))
}

fn plural(number: u64, one: &str, many: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        _ => format!("{number} {many}"),
    }
}

/// `37 %`; without a whole `–`.
#[allow(clippy::cast_precision_loss)] // for people to read
pub(super) fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "–".to_owned(),
        _ => format!("{:.0} %", 100.0 * part as f64 / whole as f64),
    }
}

/// What calls without a name are counted by.
const NAMES: [&str; UNNAMED] = ["others", "no key"];

/// Pieces of evidence of each cause.
const SHOWN: usize = 4;

/// Fewer failures than this in a step don't make another cause the leading one.
const FEW: u64 = 3;
