//! What a run came to.

use std::ops::Range;
use std::time::Duration;

use crate::error::Reason;
use crate::event::Event;
use crate::report::{Stop, WaitReason};
use crate::sim::draws::{micros, mix};
use crate::sim::oracle::Attainable;
use crate::sim::scenario::Scenario;
use crate::sim::timeline::{self, SECOND, Time, length, second};
use crate::sim::world::{Tick, compact};
use crate::verdict::Label;
use crate::window;

/// What a run came to.
///
/// *Watched* is the stretch of the fault ([`Scenario::watched`]); *touched* by it are the requests that
/// arrive in it and in the 30 s after it.
#[derive(Clone, Debug)]
pub struct Report {
    scenario: Scenario,
    policy: String,
    seed: u64,
    requests: Vec<Request>,
    counts: Counts,
    seconds: Vec<Second>,
    causes: Vec<(Cause, Vec<u32>)>,
}

/// All of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Requests.
    pub arrived: u64,
    /// Of these, those that succeeded.
    pub won: u64,
    /// Attempts sent.
    pub attempts: u64,
    /// Attempts that the service refused.
    pub rejected: u64,
    /// Worker time that was spent.
    pub work: Duration,
    /// Of this, what was spent for clients that had given up.
    pub dead: Duration,
}

/// One second of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Second {
    /// Requests that arrived in it.
    pub arrived: u32,
    /// Of these, those that succeeded, sooner or later.
    pub won: u32,
    /// Requests that succeeded in it: the goodput.
    pub answered: u32,
    /// Requests that failed in it.
    pub failed: u32,
    /// Attempts sent in it.
    pub attempts: u32,
    /// Attempts that the service refused in it.
    pub rejected: u32,
    /// Attempts that wait at the hosts at its end.
    pub queued: u32,
    /// Attempts that wait for a window at its end.
    pub parked: u32,
    /// Clients whose window is limited at its end.
    pub limited: u32,
    /// How many attempts these windows let be under way at its end, all together.
    pub window: f64,
}

impl Second {
    /// Attempts beyond the first of each request that arrived in it. Less than zero where first attempts
    /// are held back.
    #[must_use]
    pub fn extra(&self) -> i64 {
        i64::from(self.attempts) - i64::from(self.arrived)
    }
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    arrived: Time,
    /// `Time::MAX`: never.
    over: Time,
    won: bool,
}

impl Request {
    pub(super) const fn new(arrived: Time) -> Self {
        Self {
            arrived,
            over: Time::MAX,
            won: false,
        }
    }

    pub(super) const fn ends(&mut self, now: Time, won: bool) {
        (self.over, self.won) = (now, won);
    }

    /// When it arrived, since the beginning.
    #[must_use]
    pub const fn arrived(&self) -> Duration {
        length(self.arrived)
    }

    /// How long it took until its caller was told, of success or failure. `None`: it never was.
    #[must_use]
    pub const fn latency(&self) -> Option<Duration> {
        match self.over {
            Time::MAX => None,
            over => Some(length(over - self.arrived)),
        }
    }

    /// Whether it succeeded.
    #[must_use]
    pub const fn won(&self) -> bool {
        self.won
    }
}

/// Requests that arrived in a stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cohort {
    /// How many there were.
    pub arrived: u64,
    /// How many of them succeeded.
    pub won: u64,
}

impl Cohort {
    /// The share that succeeded. Of nothing: 0.
    #[must_use]
    pub fn share(&self) -> f64 {
        ratio(self.won, self.arrived)
    }
}

/// Why something happened that no service in good health would see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// An attempt failed in this way.
    Failed(Label),
    /// An attempt began to wait for this.
    Parked(WaitReason),
    /// A policy refused to begin an attempt.
    Refused(Reason),
    /// Another attempt follows after such a wait.
    Retried(WaitReason),
    /// No attempt followed a failed one.
    Stopped(Stop),
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failed(label) => write!(f, "failed: {label}"),
            Self::Parked(reason) => write!(f, "parked: {reason}"),
            Self::Refused(reason) => write!(f, "refused: {reason}"),
            Self::Retried(reason) => write!(f, "retried after: {reason}"),
            Self::Stopped(stop) => write!(f, "gave up: {stop}"),
        }
    }
}

impl Report {
    pub(super) fn new(raw: Raw) -> Self {
        let mut seconds: Vec<_> = raw.ticks.iter().map(of_tick).collect();
        for request in &raw.requests {
            let arrived = &mut seconds[second(request.arrived)];
            arrived.arrived += 1;
            arrived.won += u32::from(request.won);
            if let Some(over) = seconds.get_mut(second(request.over)) {
                over.answered += u32::from(request.won);
                over.failed += u32::from(!request.won);
            }
        }
        for (second, sample) in seconds.iter_mut().zip(&raw.samples) {
            second.parked = sample.parked;
            second.limited = sample.limited;
            second.window = sample.window;
        }
        let won = raw.requests.iter().filter(|it| it.won).count() as u64;
        let counts = Counts {
            arrived: raw.requests.len() as u64,
            won,
            ..raw.counts
        };
        Self {
            scenario: raw.scenario,
            policy: raw.policy,
            seed: raw.seed,
            requests: raw.requests,
            counts,
            seconds,
            causes: raw.causes,
        }
    }

    /// What was played.
    #[must_use = "it changes nothing"]
    pub const fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// The name of the policy.
    #[must_use]
    pub fn policy(&self) -> &str {
        &self.policy
    }

    /// What chance was drawn from.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// All of it.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Second by second, from the beginning.
    #[must_use]
    pub fn seconds(&self) -> &[Second] {
        &self.seconds
    }

    /// Every request, in the order of arrival.
    #[must_use]
    pub fn requests(&self) -> &[Request] {
        &self.requests
    }

    /// How often each cause was met, second by second; the first to appear comes first.
    #[must_use]
    pub fn causes(&self) -> &[(Cause, Vec<u32>)] {
        &self.causes
    }

    /// Those that arrived in the watched stretch.
    #[must_use]
    pub fn during(&self) -> Cohort {
        self.cohort(self.scenario.stretch())
    }

    /// Those that arrived in the minute after it.
    #[must_use]
    pub fn after(&self) -> Cohort {
        let end = self.scenario.stretch().end;
        self.cohort(end..(end + 60 * SECOND).min(self.scenario.until))
    }

    /// Those that the fault may have touched.
    #[must_use]
    pub fn touched(&self) -> Cohort {
        self.cohort(self.scenario.touched())
    }

    /// What part of what an omniscient client gets of those that the fault may have touched. Can be above
    /// 1, by chance.
    #[must_use]
    pub fn share_of(&self, attainable: &Attainable) -> f64 {
        ratio(self.touched().won, attainable.won)
    }

    /// From the end of the fault to the first second from which on, for five seconds, what arrives
    /// succeeds as it did before the fault, but for 5 %; seconds in which nothing arrives neither begin
    /// nor end a recovery. `None`: that was not seen.
    #[must_use]
    pub fn recovery(&self) -> Option<Duration> {
        let Range { start, end } = self.scenario.stretch();
        let before = self.cohort(0..start);
        let usual = match before.arrived {
            0 => 1.0,
            _ => before.share(),
        };
        let good = |it: &Second| f64::from(it.won) >= 0.95 * usual * f64::from(it.arrived);
        let cohorts = self.seconds.get(second(end)..second(self.scenario.until))?;
        let first = cohorts
            .windows(5)
            .position(|five| five[0].arrived > 0 && five.iter().all(good))?;
        Some(Duration::from_secs(first as u64))
    }

    /// Attempts per request in the seconds of the watched stretch, those that it only begins or ends in
    /// included.
    #[must_use]
    pub fn amplification(&self) -> f64 {
        let Range { start, end } = self.scenario.stretch();
        let whole = start..end.div_ceil(SECOND) * SECOND;
        let sum = |of: fn(&Second) -> u32| {
            self.in_range(whole.clone())
                .map(|it| u64::from(of(it)))
                .sum()
        };
        let (sent, arrived): (u64, u64) = (sum(|it| it.attempts), sum(|it| it.arrived));
        ratio(sent, arrived.max(1))
    }

    /// Attempts per request in the worst second, from the beginning of the fault on.
    #[must_use]
    pub fn worst_second(&self) -> f64 {
        let seconds = self.in_range(self.scenario.stretch().start..self.scenario.until);
        let worst = seconds.map(|it| f64::from(it.attempts) / f64::from(it.arrived.max(1)));
        worst.fold(0.0, f64::max)
    }

    /// Attempts in the busiest second, from the beginning of the fault on.
    #[must_use]
    pub fn busiest(&self) -> u32 {
        self.most_from(self.scenario.stretch().start)
    }

    /// Attempts in the busiest second after the fault.
    #[must_use]
    pub fn busiest_after(&self) -> u32 {
        self.most_from(self.scenario.stretch().end)
    }

    /// The share of worker time that was spent for clients that had given up.
    #[must_use]
    pub fn wasted(&self) -> f64 {
        let Counts { dead, work, .. } = self.counts;
        dead.as_secs_f64() / work.as_secs_f64().max(1e-9)
    }

    /// How long it took to succeed, of those that the fault may have touched: the time in which this
    /// share of them had, from 0 to 1. `None` if none had.
    #[must_use]
    pub fn latency(&self, share: f64) -> Option<Duration> {
        quantile(self.of(self.scenario.touched()).filter(|it| it.won), share)
    }

    /// How long it took until callers knew, of success or failure, of those that arrived in the watched
    /// stretch: the time in which this share of them did, from 0 to 1.
    #[must_use]
    pub fn told(&self, share: f64) -> Option<Duration> {
        quantile(self.of(self.scenario.stretch()), share)
    }

    /// Tells apart runs that differ in anything.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let of_request = |it: &Request| mix(it.arrived ^ mix(mix(it.over) ^ u64::from(it.won)));
        let requests = self.requests.iter().map(of_request);
        let of_second = |it: &Second| {
            let pair = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
            let counts = [
                pair(it.attempts, it.rejected),
                pair(it.queued, it.parked),
                pair(it.limited, it.failed),
            ];
            counts
                .into_iter()
                .fold(it.window.to_bits(), |digest, part| mix(digest ^ part))
        };
        let seconds = self.seconds.iter().map(of_second);
        let of_length = timeline::time;
        let counts = [of_length(self.counts.dead), of_length(self.counts.work)];
        let of_text = |digest, text: String| {
            text.bytes()
                .fold(digest, |digest, it| mix(digest ^ u64::from(it)))
        };
        let causes = self.causes.iter().flat_map(|(cause, counts)| {
            let name = of_text(1, cause.to_string());
            std::iter::once(name).chain(counts.iter().map(|it| u64::from(*it)))
        });
        let parts = requests.chain(seconds).chain(counts).chain(causes);
        parts.fold(0, |digest, part| mix(digest ^ part))
    }

    fn most_from(&self, start: Time) -> u32 {
        let seconds = self.in_range(start..self.scenario.until);
        seconds.map(|it| it.attempts).max().unwrap_or(0)
    }

    fn cohort(&self, range: Range<Time>) -> Cohort {
        self.of(range).fold(Cohort::default(), |mut cohort, it| {
            cohort.arrived += 1;
            cohort.won += u64::from(it.won);
            cohort
        })
    }

    fn of(&self, range: Range<Time>) -> impl Iterator<Item = &Request> {
        // They are in the order of arrival.
        let first = self.requests.partition_point(|it| it.arrived < range.start);
        self.requests[first..]
            .iter()
            .take_while(move |it| it.arrived < range.end)
    }

    fn in_range(&self, range: Range<Time>) -> impl Iterator<Item = &Second> {
        let (first, count) = (
            second(range.start),
            second(range.end).saturating_sub(second(range.start)),
        );
        self.seconds.iter().skip(first).take(count)
    }
}

/// What a run leaves behind.
pub(super) struct Raw {
    pub(super) scenario: Scenario,
    pub(super) policy: String,
    pub(super) seed: u64,
    pub(super) requests: Vec<Request>,
    pub(super) counts: Counts,
    pub(super) ticks: Vec<Tick>,
    pub(super) samples: Vec<Client>,
    pub(super) causes: Vec<(Cause, Vec<u32>)>,
}

/// What the clients' windows came to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Client {
    parked: u32,
    limited: u32,
    window: f64,
}

impl Client {
    pub(super) fn add(&mut self, snapshot: &window::Snapshot) {
        self.parked += compact(snapshot.parked);
        self.limited += u32::from(snapshot.window.is_some());
        self.window += snapshot.window.unwrap_or(0.0);
    }
}

/// What policies told of, second by second.
#[derive(Debug)]
pub(super) struct Tally {
    seconds: usize,
    causes: Vec<(Cause, Vec<u32>)>,
}

impl Tally {
    pub(super) fn new(scenario: &Scenario) -> Self {
        Self {
            seconds: second(scenario.end()) + 1,
            causes: Vec::new(),
        }
    }

    pub(super) fn note(&mut self, event: &Event, now: Time) {
        let [first, then] = match *event {
            Event::Parked { reason, .. } => [Some(Cause::Parked(reason)), None],
            Event::Reject { reason, .. } => [Some(Cause::Refused(reason)), None],
            Event::Retry { verdict, wait, .. } => [
                Some(Cause::Failed(verdict.error_type())),
                Some(Cause::Retried(wait.reason())),
            ],
            Event::Stop { verdict, stop, .. } => [
                Some(Cause::Failed(verdict.error_type())),
                Some(Cause::Stopped(stop)),
            ],
            _ => [None, None],
        };
        for cause in [first, then].into_iter().flatten() {
            self.count(cause, second(now));
        }
    }

    pub(super) fn take(&mut self) -> Vec<(Cause, Vec<u32>)> {
        std::mem::take(&mut self.causes)
    }

    fn count(&mut self, cause: Cause, second: usize) {
        let known = self.causes.iter().position(|(it, _)| *it == cause);
        let index = known.unwrap_or_else(|| {
            self.causes.push((cause, vec![0; self.seconds]));
            self.causes.len() - 1
        });
        if let Some(count) = self.causes[index].1.get_mut(second) {
            *count += 1;
        }
    }
}

fn of_tick(tick: &Tick) -> Second {
    Second {
        attempts: tick.sent,
        rejected: tick.rejected,
        queued: tick.queued,
        ..Second::default()
    }
}

#[allow(clippy::cast_precision_loss)]
fn ratio(part: u64, whole: u64) -> f64 {
    match whole {
        0 => 0.0,
        whole => part as f64 / whole as f64,
    }
}

#[allow(clippy::cast_precision_loss)]
fn quantile<'a>(requests: impl Iterator<Item = &'a Request>, share: f64) -> Option<Duration> {
    let told = requests.filter(|it| it.over != Time::MAX);
    let mut times: Vec<_> = told.map(|it| it.over - it.arrived).collect();
    times.sort_unstable();
    let rank = micros((times.len() as f64 * share).ceil()).max(1) - 1;
    times.get(usize::try_from(rank).ok()?).copied().map(length)
}
