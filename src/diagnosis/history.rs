//! What many outcomes of one service say together. *Pure.*
//!
//! A minute in ten buckets, the last sixteen failures' times, eight hosts: constant memory, constant
//! time per outcome.

use std::time::{Duration, Instant};

use super::cause::Cause::{
    Configuration, GatewayTimeout, Maintenance, Overload, RateLimit, UpstreamUnavailable,
};
use super::signature::is_about;
use super::signatures::TIDY;
use super::{Cause, Diagnosis, Persistence, Signature};
use crate::deadline::later;
use crate::keyed::Key;

/// One outcome, as far as health is concerned.
///
/// # Examples
///
/// See [`Health`](super::Health).
#[derive(Clone, Copy, Debug)]
#[must_use = "an observation does nothing until it is recorded"]
pub struct Observation {
    failed: Option<Cause>,
    latency: Option<Duration>,
    hint: Option<Duration>,
    host: Option<Key>,
}

impl Observation {
    /// The service answered well.
    pub const fn success() -> Self {
        Self {
            failed: None,
            latency: None,
            hint: None,
            host: None,
        }
    }

    /// It failed, as far as one outcome tells of this.
    pub const fn failure(cause: Cause) -> Self {
        Self {
            failed: Some(cause),
            ..Self::success()
        }
    }

    /// How long it took.
    pub const fn latency(mut self, latency: Duration) -> Self {
        self.latency = Some(latency);
        self
    }

    /// What the server asked for, as a length of time from now.
    pub const fn retry_after(mut self, hint: Duration) -> Self {
        self.hint = Some(hint);
        self
    }

    /// Which of the service's hosts it was. One that failed three times and never answered counts as
    /// failing; others are judged from five outcomes on.
    pub const fn host(mut self, host: Key) -> Self {
        self.host = Some(host);
        self
    }
}

/// How a service does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[allow(clippy::exhaustive_enums)] // there is nothing between
pub enum Condition {
    /// A tenth of the attempts fails, or more.
    Degraded,
    /// Half of the attempts fails, or more.
    Failing,
    /// Less than a tenth fails, or too few were seen to say.
    #[default]
    Healthy,
}

/// A service's change of condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// How it did until now.
    pub from: Condition,
    /// How it does from now on.
    pub to: Condition,
    /// The commonest cause of the last minute's failures.
    pub cause: Cause,
}

/// How the waits that a server asks for behave from answer to answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Hints {
    /// Always the same: a template, which knows nothing of when it ends.
    Constant,
    /// They count down to one moment: a window or a timer with a known end.
    CountingDown,
    /// None, too few, or neither.
    #[default]
    Unknown,
}

/// Which of a service's hosts fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Spread {
    /// All that were seen.
    All,
    /// One, while others answer.
    One,
    /// Some, while others answer.
    Some,
    /// There is one host, or nobody said which it was.
    #[default]
    Unknown,
}

/// What became of failures when fewer requests were sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Slowing {
    /// Fewer requests, a smaller share of failures.
    Helps,
    /// The share stays whatever is sent.
    MakesNoDifference,
    /// The rate changed too little to tell.
    #[default]
    Unknown,
}

/// What is known of a service: the last minute, and since when it fails.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Snapshot {
    /// How it does, as of the last outcomes that were enough to say: it stays so while nothing comes.
    pub condition: Condition,
    /// Attempts that ended in the last minute.
    pub attempts: u64,
    /// Those that failed.
    pub failed: u64,
    /// The commonest cause among them. Unknown if there is none.
    pub cause: Cause,
    /// The mean time of good answers, if any were timed.
    pub latency: Option<Duration>,
    /// For how long nothing but failures came. `None`: the last outcome was good.
    pub failing_for: Option<Duration>,
    /// The one time after which most failures come, as a time limit of somebody's would make them.
    pub cluster: Option<Duration>,
    /// How the waits that it asks for behave.
    pub hints: Hints,
    /// Which of its hosts fail.
    pub spread: Spread,
    /// Whether sending less helps.
    pub slowing: Slowing,
}

/// The machine.
#[derive(Debug)]
pub(super) struct History {
    began: Option<Instant>,
    /// The number of the newest bucket.
    newest: u64,
    buckets: [Bucket; BUCKETS],
    attempts: u64,
    failed: u64,
    condition: Condition,
    failing_since: Option<Instant>,
    last_failed: Option<Instant>,
    last_seen: Option<Instant>,
    /// Until when the server asked for quiet, since it last answered well.
    quiet_until: Option<Instant>,
    waits: Waits,
    hints: Asked,
    hosts: [Host; HOSTS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    attempts: u32,
    failed: u32,
    timed: u32,
    /// Of good answers, in microseconds.
    latency: u64,
    causes: [u16; Cause::ALL.len()],
}

impl History {
    pub(super) const fn new() -> Self {
        Self {
            began: None,
            newest: 0,
            buckets: [Bucket::NONE; BUCKETS],
            attempts: 0,
            failed: 0,
            condition: Condition::Healthy,
            failing_since: None,
            last_failed: None,
            last_seen: None,
            quiet_until: None,
            waits: Waits::NONE,
            hints: Asked::NONE,
            hosts: [Host::NONE; HOSTS],
        }
    }

    pub(super) fn record(&mut self, seen: &Observation, now: Instant) -> Option<Change> {
        self.turn_to(now);
        self.last_seen = self.last_seen.max(Some(now));
        self.attempts += 1;
        let bucket = &mut self.buckets[place(self.newest)];
        bucket.attempts = bucket.attempts.saturating_add(1);
        if let Some(cause) = seen.failed {
            self.failed += 1;
            bucket.failed = bucket.failed.saturating_add(1);
            let count = &mut bucket.causes[cause.index()];
            *count = count.saturating_add(1);
            self.failing_since.get_or_insert(now);
            if self.is_long_over(now) {
                self.waits = Waits::NONE;
                self.hints = Asked::NONE;
            }
            self.last_failed = self.last_failed.max(Some(now));
            // The client's own limits make clusters that say nothing of the server.
            if let Some(latency) = seen.latency.filter(|_| cause != Cause::OwnTimeout) {
                self.waits.push(latency);
            }
            if let Some(hint) = seen.hint {
                self.hints.push(hint, now);
                let believed = hint.min(LONGEST_HINT);
                self.quiet_until = self.quiet_until.max(Some(later(now, believed)));
            }
        } else {
            if let Some(latency) = seen.latency {
                bucket.timed = bucket.timed.saturating_add(1);
                let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
                bucket.latency = bucket.latency.saturating_add(micros);
            }
            self.failing_since = None;
            self.quiet_until = None;
        }
        if let Some(host) = seen.host {
            self.count_host(host, seen.failed.is_some(), now);
        }
        self.judge()
    }

    pub(super) fn snapshot(&mut self, now: Instant) -> Snapshot {
        self.turn_to(now);
        let (mut latency, mut timed) = (0_u64, 0_u64);
        for bucket in &self.buckets {
            latency = latency.saturating_add(bucket.latency);
            timed += u64::from(bucket.timed);
        }
        let is_over = self.is_long_over(now);
        Snapshot {
            condition: self.condition,
            attempts: self.attempts,
            failed: self.failed,
            cause: self.commonest(),
            latency: latency.checked_div(timed).map(Duration::from_micros),
            failing_for: self
                .failing_since
                .map(|it| now.saturating_duration_since(it)),
            cluster: self.waits.cluster().filter(|_| !is_over),
            hints: if is_over {
                Hints::Unknown
            } else {
                self.hints.kind()
            },
            spread: self.spread(now),
            slowing: self.slowing(),
        }
    }

    /// Adds what is known of the service to what one outcome said.
    pub(super) fn refine(&mut self, diagnosis: &mut Diagnosis, now: Instant) {
        let known = self.snapshot(now);
        let fails_for = known.failing_for.unwrap_or_default();
        let all_fail = known.failed >= LEAST && fails_for >= LONG;
        let mixed = known.attempts >= 2 * LEAST
            && known.failed * 10 >= known.attempts
            && known.failed * 10 <= known.attempts * 9;
        // What came at another time wasn't ended by that limit.
        let in_cluster = known.cluster.is_some_and(|limit| {
            let elapsed = diagnosis.elapsed;
            elapsed.is_none_or(|it| is_about(it.as_millis(), limit.as_millis()))
        });
        for (holds, row) in [
            (in_cluster, &CLUSTER),
            (known.hints == Hints::CountingDown, &COUNTS_DOWN),
            (known.slowing == Slowing::Helps, &SLOWING_HELPS),
            (known.spread == Spread::One, &ONE_HOST),
            (all_fail, &ALL_FAIL),
            (mixed, &SOME_FAIL),
        ] {
            if holds {
                diagnosis.add(row);
            }
        }
        diagnosis.conclude();
        let by_time = match diagnosis.persistence() {
            Persistence::Announced(_) => return,
            _ if all_fail => Persistence::Persistent,
            Persistence::Unknown | Persistence::Persistent if mixed => Persistence::Momentary,
            as_it_is => as_it_is,
        };
        diagnosis.set_persistence(by_time);
    }

    /// While the service is not well: when an attempt ended last, and until when it asked for quiet.
    pub(super) fn unwell(&self) -> Option<(Option<Instant>, Option<Instant>)> {
        let unwell = self.condition != Condition::Healthy;
        unwell.then_some((self.last_seen, self.quiet_until))
    }

    /// Whether what it remembers says nothing any more.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        self.last_seen
            .is_none_or(|it| now.saturating_duration_since(it) > WINDOW)
    }

    /// Whether no failure came for as long as is remembered, and none was to be had: what the last ones
    /// taught says nothing of the next.
    fn is_long_over(&self, now: Instant) -> bool {
        let last = self.last_failed.max(self.quiet_until);
        last.is_some_and(|it| now.saturating_duration_since(it) > WINDOW)
    }

    /// Empties the buckets that are over. A clock that went back counts as no time passed.
    fn turn_to(&mut self, now: Instant) {
        let began = *self.began.get_or_insert(now);
        let passed = now.saturating_duration_since(began).as_millis() / BUCKET.as_millis();
        let number = u64::try_from(passed).unwrap_or(u64::MAX);
        let steps = number.saturating_sub(self.newest).min(BUCKETS as u64);
        for step in 0..steps {
            let bucket = &mut self.buckets[place(number - step)];
            self.attempts -= u64::from(bucket.attempts);
            self.failed -= u64::from(bucket.failed);
            *bucket = Bucket::NONE;
        }
        self.newest = self.newest.max(number);
    }

    fn judge(&mut self) -> Option<Change> {
        if self.attempts < LEAST && self.failed > 0 {
            return None;
        }
        let at_least = |hundredths: u64| self.failed * 100 >= self.attempts * hundredths;
        // Leaving a condition takes a little more than entering it did.
        let to = match self.condition {
            // Few, but all were good for as long as it remembers.
            _ if self.failed == 0 => Condition::Healthy,
            _ if at_least(50) => Condition::Failing,
            Condition::Failing if at_least(40) => Condition::Failing,
            _ if at_least(10) => Condition::Degraded,
            Condition::Degraded | Condition::Failing if at_least(5) => Condition::Degraded,
            _ => Condition::Healthy,
        };
        let from = std::mem::replace(&mut self.condition, to);
        let cause = self.commonest();
        (from != to).then_some(Change { from, to, cause })
    }

    fn commonest(&self) -> Cause {
        let count = |cause: &Cause| -> u64 {
            let of = |bucket: &Bucket| u64::from(bucket.causes[cause.index()]);
            self.buckets.iter().map(of).sum()
        };
        let most = Cause::ALL.into_iter().max_by_key(count);
        most.filter(|it| count(it) > 0).unwrap_or_default()
    }

    fn count_host(&mut self, host: Key, failed: bool, now: Instant) {
        let known = self.hosts.iter().position(|it| it.key == Some(host));
        let place = known.unwrap_or_else(|| {
            // A free place, or the one that wasn't heard of for longest.
            let order = |it: &usize| self.hosts[*it].last;
            let place = (0..HOSTS).min_by_key(order).expect("there are some");
            self.hosts[place] = Host::NONE;
            place
        });
        let entry = &mut self.hosts[place];
        // What was long ago counts half.
        let old = |last: Instant| now.saturating_duration_since(last) > WINDOW;
        if entry.last.is_some_and(old) || entry.seen == u32::MAX {
            entry.seen /= 2;
            entry.failed /= 2;
        }
        entry.key = Some(host);
        entry.last = entry.last.max(Some(now));
        entry.seen += 1;
        entry.failed += u32::from(failed);
    }

    fn spread(&self, now: Instant) -> Spread {
        let is_gone = |it: Instant| now.saturating_duration_since(it) > LONGEST_ABSENCE;
        // One that only fails is seldom asked again.
        let is_down = |it: &Host| it.failed >= LEAST_OF_DOWN && it.failed == it.seen;
        let is_known = |it: &&Host| {
            let is_there = it.last.is_some_and(|last| !is_gone(last));
            is_there && (it.seen >= LEAST_OF_HOST || is_down(it))
        };
        let known = || self.hosts.iter().filter(is_known);
        let bad = |it: &&Host| u64::from(it.failed) * 2 >= u64::from(it.seen);
        let (all, failing) = (known().count(), known().filter(bad).count());
        match (failing, all) {
            (0, _) | (_, 0 | 1) => Spread::Unknown,
            (failing, all) if failing == all => Spread::All,
            (1, _) => Spread::One,
            _ => Spread::Some,
        }
    }

    /// Compares every two buckets in which the rates differ: where more was sent, did more fail?
    fn slowing(&self) -> Slowing {
        let (mut pairs, mut more, mut same) = (0_u32, 0_u32, 0_u32);
        let known = |it: &&Bucket| u64::from(it.attempts) >= LEAST;
        for (at, one) in self.buckets.iter().enumerate() {
            for other in &self.buckets[at + 1..] {
                let (few, many) = if one.attempts <= other.attempts {
                    (one, other)
                } else {
                    (other, one)
                };
                let differ = u64::from(many.attempts) * 2 >= u64::from(few.attempts) * 3;
                if !known(&few) || !known(&many) || !differ {
                    continue;
                }
                pairs += 1;
                match many.hundredths() - few.hundredths() {
                    10.. => more += 1,
                    -9..10 if few.failed > 0 => same += 1,
                    _ => {}
                }
            }
        }
        if pairs < LEAST_PAIRS {
            Slowing::Unknown
        } else if more * 4 >= pairs * 3 {
            Slowing::Helps
        } else if same * 4 >= pairs * 3 {
            Slowing::MakesNoDifference
        } else {
            Slowing::Unknown
        }
    }
}

impl Bucket {
    const NONE: Self = Self {
        attempts: 0,
        failed: 0,
        timed: 0,
        latency: 0,
        causes: [0; Cause::ALL.len()],
    };

    /// The share that failed.
    fn hundredths(&self) -> i64 {
        i64::from(self.failed) * 100 / i64::from(self.attempts.max(1))
    }
}

/// The times of the last failures, in milliseconds.
#[derive(Debug)]
struct Waits {
    all: [u32; WAITS],
    len: usize,
    next: usize,
}

impl Waits {
    const NONE: Self = Self {
        all: [0; WAITS],
        len: 0,
        next: 0,
    };

    fn push(&mut self, latency: Duration) {
        let millis = u32::try_from(latency.as_millis()).unwrap_or(u32::MAX);
        self.all[self.next] = millis;
        self.next = (self.next + 1) % WAITS;
        self.len = (self.len + 1).min(WAITS);
    }

    /// The round time that three in five of at least five failures come after.
    fn cluster(&self) -> Option<Duration> {
        let known = &self.all[..self.len];
        let near = |limit: u32| {
            let near = |it: &&u32| is_about(u128::from(**it), u128::from(limit));
            known.iter().filter(near).count()
        };
        let best = TIDY.iter().copied().max_by_key(|limit| near(*limit))?;
        let enough = known.len() >= LEAST_WAITS && near(best) * 5 >= known.len() * 3;
        enough.then(|| Duration::from_millis(u64::from(best)))
    }
}

/// The waits that the server asked for.
#[derive(Debug)]
struct Asked {
    last: Option<(Instant, Duration)>,
    same: u8,
    down: u8,
    other: u8,
}

impl Asked {
    const NONE: Self = Self {
        last: None,
        same: 0,
        down: 0,
        other: 0,
    };

    fn push(&mut self, hint: Duration, now: Instant) {
        let Some((at, before)) = self.last else {
            self.last = Some((now, hint));
            return;
        };
        let passed = now.saturating_duration_since(at);
        if passed < SECOND {
            return; // too soon for whole seconds to tell
        }
        self.last = Some((now, hint));
        let expected = before.saturating_sub(passed);
        if hint == before {
            self.same = self.same.saturating_add(1);
        } else if hint < before && hint.abs_diff(expected) <= SECOND {
            self.down = self.down.saturating_add(1);
        } else {
            self.other = self.other.saturating_add(1);
        }
        if self.same.max(self.down).max(self.other) >= 16 {
            // What was long ago counts half.
            (self.same, self.down, self.other) = (self.same / 2, self.down / 2, self.other / 2);
        }
    }

    fn kind(&self) -> Hints {
        let all = self.same + self.down + self.other;
        if all < 3 {
            Hints::Unknown
        } else if self.down * 4 >= all * 3 {
            Hints::CountingDown
        } else if self.same * 4 >= all * 3 {
            Hints::Constant
        } else {
            Hints::Unknown
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Host {
    key: Option<Key>,
    last: Option<Instant>,
    seen: u32,
    failed: u32,
}

impl Host {
    const NONE: Self = Self {
        key: None,
        last: None,
        seen: 0,
        failed: 0,
    };
}

#[allow(clippy::cast_possible_truncation)] // it is below ten
const fn place(number: u64) -> usize {
    (number % BUCKETS as u64) as usize
}

const CLUSTER: Signature = Signature::new("history: failures after one round time", "health")
    .says(&[(GatewayTimeout, 10)]);

const COUNTS_DOWN: Signature = Signature::new("history: retry-after counts down", "health")
    .says(&[(RateLimit, 8), (Overload, 5)]);

const SLOWING_HELPS: Signature = Signature::new("history: sending less helps", "health")
    .says(&[(Overload, 9), (RateLimit, 7)])
    .lasts(Persistence::Momentary);

const ONE_HOST: Signature = Signature::new("history: one host alone fails", "health").says(&[
    (UpstreamUnavailable, 8),
    (Overload, -4),
    (Maintenance, -8),
]);

const ALL_FAIL: Signature = Signature::new("history: everything fails", "health").says(&[
    (UpstreamUnavailable, 4),
    (Maintenance, 4),
    (Configuration, 2),
    (Overload, -3),
]);

const SOME_FAIL: Signature = Signature::new("history: some get through", "health").says(&[
    (Maintenance, -8),
    (Configuration, -8),
    (Overload, 4),
    (RateLimit, 4),
]);

const BUCKETS: usize = 10;

const BUCKET: Duration = Duration::from_secs(6);

/// Long enough for a rate, short enough to be about now.
pub(super) const WINDOW: Duration = Duration::from_secs(60);

/// Fewer attempts say nothing.
const LEAST: u64 = 10;

const LEAST_OF_HOST: u32 = 5;

/// After as many failures in a row an endpoint is ejected.
const LEAST_OF_DOWN: u32 = 3;

/// One that is ejected isn't asked for as long as a hint is believed; one that was taken away never.
const LONGEST_ABSENCE: Duration = Duration::from_secs(300);

const LEAST_WAITS: usize = 5;

const LEAST_PAIRS: u32 = 3;

const WAITS: usize = 16;

const HOSTS: usize = 8;

/// A burst of failures is over by then; an outage isn't.
const LONG: Duration = Duration::from_secs(30);

/// What is believed of a server that asks for more quiet: nobody plans further ahead.
const LONGEST_HINT: Duration = Duration::from_secs(24 * 3600);

const SECOND: Duration = Duration::from_secs(1);
