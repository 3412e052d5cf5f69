//! How many may run at once: fixed, or learned from the answers. Pure.

use std::any::Any;
use std::fmt;
use std::time::{Duration, Instant};

use crate::error::ConfigError;

/// How many may run at once, as a [`Bulkhead`](super::Bulkhead) asks for it.
///
/// It is told how each attempt ended, and may change its mind. It is called with a lock of its own
/// held, so it should be quick.
///
/// # Examples
///
/// ```
/// use evenkeel::limit::{Aimd, Limit, Sample};
/// use std::time::{Duration, Instant};
///
/// let mut limit = Aimd::new().initial(10);
/// let latency = Duration::from_millis(20);
/// limit.sample(&Sample::new(latency, 10, Instant::now()).dropped(true));
/// assert_eq!(limit.limit(), 7);
/// ```
pub trait Limit: fmt::Debug + Send {
    /// How many may run at once now. Zero is read as one, so that there is something to learn from.
    fn limit(&self) -> u32;

    /// An attempt ended.
    fn sample(&mut self, sample: &Sample);

    /// One with the same settings that has learned nothing yet.
    fn fresh(&self) -> Box<dyn Limit>;

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// A setting that makes no sense.
    fn check(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    /// Other bounds for one of this crate's own that learn, which keep what they learned.
    #[doc(hidden)]
    fn rebind(&mut self, bounds: Bounds) {
        let _ = bounds;
    }
}

/// Which of this crate's own limits it is, and how it is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Model {
    Aimd(Bounds),
    Fixed(u32),
    Gradient(Bounds),
    /// The user's own.
    Own,
}

impl Model {
    pub(super) fn of(limit: &dyn Any) -> Self {
        if let Some(it) = limit.downcast_ref::<Aimd>() {
            Self::Aimd(it.bounds)
        } else if let Some(it) = limit.downcast_ref::<Fixed>() {
            Self::Fixed(it.0)
        } else if let Some(it) = limit.downcast_ref::<Gradient>() {
            Self::Gradient(it.bounds)
        } else {
            Self::Own
        }
    }
}

/// How one attempt went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sample {
    /// From its beginning to its end.
    pub latency: Duration,
    /// How many were running when it began, itself included.
    pub in_flight: u32,
    /// It timed out, or was refused because of overload.
    pub dropped: bool,
    /// Its end.
    pub now: Instant,
}

impl Sample {
    /// An attempt that was answered.
    #[must_use]
    pub const fn new(latency: Duration, in_flight: u32, now: Instant) -> Self {
        Self {
            latency,
            in_flight,
            dropped: false,
            now,
        }
    }

    /// Whether it timed out, or was refused because of overload. Default: no.
    #[must_use]
    pub const fn dropped(self, dropped: bool) -> Self {
        Self { dropped, ..self }
    }

    /// Whether it began after `moment`, and so can tell what a change made then has done.
    fn began_after(&self, moment: Option<Instant>) -> bool {
        let begun = self.now.checked_sub(self.latency);
        // Begun before the clock's own beginning: before anything.
        moment.is_none_or(|moment| begun.is_some_and(|begun| begun > moment))
    }
}

/// A limit that stays what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixed(u32);

impl Fixed {
    /// So many.
    #[must_use]
    pub const fn new(limit: u32) -> Self {
        Self(limit)
    }
}

impl Limit for Fixed {
    fn limit(&self) -> u32 {
        self.0
    }

    fn sample(&mut self, _: &Sample) {}

    fn fresh(&self) -> Box<dyn Limit> {
        Box::new(*self)
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.0 == 0 {
            return Err(ConfigError::new("bulkhead.limit", "must be at least 1"));
        }
        Ok(())
    }
}

/// Where a learning limit begins, and between what it stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(unreachable_pub)] // it shows in a hidden method, and can't be named
pub struct Bounds {
    initial: u32,
    min: u32,
    max: u32,
}

impl Bounds {
    const DEFAULT: Self = Self {
        initial: 20,
        min: 1,
        max: 1_000,
    };

    fn start(self) -> f64 {
        self.keep(f64::from(self.initial))
    }

    fn keep(self, limit: f64) -> f64 {
        let min = f64::from(self.min.max(1));
        // Written so that NaN becomes the least.
        limit.max(min).min(f64::from(self.max).max(min))
    }

    fn check(self) -> Result<(), ConfigError> {
        if self.min == 0 {
            return Err(ConfigError::new("limit.bounds", "must be at least 1"));
        }
        if self.min > self.max {
            return Err(ConfigError::new("limit.bounds", "must not be swapped"));
        }
        if !(self.min..=self.max).contains(&self.initial) {
            return Err(ConfigError::new(
                "limit.initial",
                "must be within the bounds",
            ));
        }
        Ok(())
    }
}

/// Grows by one for each limit's worth of good answers, and shrinks by three tenths (by more
/// while it is far from being reached) when attempts are dropped: additive increase, multiplicative decrease (Chiu and Jain, 1989).
///
/// It looks at drops only: timeouts, and refusals because of overload. So it finds the point where
/// the service begins to fail, which is later than where it begins to queue; [`Gradient`] looks at
/// that.
///
/// - It grows only while the limit is what binds. A limit that nobody reaches would grow on good
///   answers that say nothing about it.
/// - What was sent before the last decrease says nothing about the limit since then, so one burst
///   of failures is one decrease.
#[derive(Clone, Debug)]
pub struct Aimd {
    bounds: Bounds,
    limit: f64,
    decreased: Option<Instant>,
}

impl Aimd {
    /// Begins with 20, and stays between 1 and 1000.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Bounds::DEFAULT)
    }

    /// Where it begins. Default: 20.
    #[must_use]
    pub fn initial(self, initial: u32) -> Self {
        Self::with(Bounds {
            initial,
            ..self.bounds
        })
    }

    /// The least and the most, inclusive. Default: 1 and 1000.
    #[must_use]
    pub fn bounds(self, min: u32, max: u32) -> Self {
        Self::with(Bounds {
            min,
            max,
            ..self.bounds
        })
    }

    fn with(bounds: Bounds) -> Self {
        Self {
            bounds,
            limit: bounds.start(),
            decreased: None,
        }
    }
}

impl Default for Aimd {
    fn default() -> Self {
        Self::new()
    }
}

impl Limit for Aimd {
    fn limit(&self) -> u32 {
        whole(self.limit)
    }

    fn sample(&mut self, sample: &Sample) {
        if !sample.dropped {
            if binds(sample.in_flight, self.limit) {
                self.limit = self.bounds.keep(self.limit + 1.0 / self.limit);
            }
            return;
        }
        if sample.began_after(self.decreased) {
            self.limit = self.bounds.keep(after_drop(self.limit, sample.in_flight));
            self.decreased = Some(sample.now);
        }
    }

    fn fresh(&self) -> Box<dyn Limit> {
        Box::new(Self::with(self.bounds))
    }

    fn rebind(&mut self, bounds: Bounds) {
        self.limit = bounds.keep(self.limit);
        self.bounds = bounds;
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.bounds.check()
    }
}

/// Follows the latency: grows while answers take about as long as they did on a quiet service, and
/// shrinks when they take longer, which is before they fail.
///
/// Once per round (a limit's worth of answers to what was sent in that round) it compares their
/// average latency with the quiet one, as Netflix's `concurrency-limits` and TCP Vegas do:
///
/// ```text
/// limit ← half way to  limit × clamp(1.5 × quiet / latency, ½, 1) + √limit
/// ```
///
/// The root is the queue it allows, so that it goes on looking for more. A drop ends the round at
/// once with three tenths less.
///
/// The quiet latency is the least average of a round. Left alone it would never learn that the way
/// to the service has become longer; averaged over time, it would take a standing queue for the
/// way. So when it is older than ten seconds, the limit is halved for a short round, which drains
/// such a queue, and that round's average becomes the quiet latency. Where few are running anyway
/// nothing needs to be halved.
#[derive(Clone, Debug)]
pub struct Gradient {
    bounds: Bounds,
    limit: f64,
    quiet: Option<Quiet>,
    round: Round,
    is_probing: bool,
}

/// The latency of a service without a queue, in seconds, and when that was learned.
#[derive(Clone, Copy, Debug)]
struct Quiet {
    latency: f64,
    at: Instant,
}

#[derive(Clone, Copy, Debug, Default)]
struct Round {
    /// Only what began after this counts.
    since: Option<Instant>,
    count: u32,
    seconds: f64,
    most_in_flight: u32,
}

impl Gradient {
    /// Begins with 20, and stays between 1 and 1000.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Bounds::DEFAULT)
    }

    /// Where it begins. Default: 20.
    #[must_use]
    pub fn initial(self, initial: u32) -> Self {
        Self::with(Bounds {
            initial,
            ..self.bounds
        })
    }

    /// The least and the most, inclusive. Default: 1 and 1000.
    #[must_use]
    pub fn bounds(self, min: u32, max: u32) -> Self {
        Self::with(Bounds {
            min,
            max,
            ..self.bounds
        })
    }

    fn with(bounds: Bounds) -> Self {
        Self {
            bounds,
            limit: bounds.start(),
            quiet: None,
            round: Round::default(),
            is_probing: false,
        }
    }

    fn finish_round(&mut self, now: Instant) {
        let round = self.round;
        self.begin_round(now);
        let latency = round.seconds / f64::from(round.count);
        let is_quiet = f64::from(round.most_in_flight) <= self.limit / 2.0;
        if self.is_probing || is_quiet || self.quiet.is_none_or(|it| latency <= it.latency) {
            self.quiet = Some(Quiet { latency, at: now });
        }
        if self.is_probing {
            self.is_probing = false;
            return;
        }
        let Some(quiet) = self.quiet else { return };
        // More than zero, since every answer's was.
        let gradient = (TOLERANCE * quiet.latency / latency).clamp(0.5, 1.0);
        let goal = self.limit * gradient + self.limit.sqrt();
        let limit = f64::midpoint(self.limit, goal);
        if limit < self.limit || binds(round.most_in_flight, self.limit) {
            self.limit = self.bounds.keep(limit);
        }
        self.is_probing = now.saturating_duration_since(quiet.at) >= QUIET_FOR;
    }

    fn begin_round(&mut self, now: Instant) {
        self.round = Round {
            since: Some(now),
            ..Round::default()
        };
    }
}

impl Default for Gradient {
    fn default() -> Self {
        Self::new()
    }
}

impl Limit for Gradient {
    fn limit(&self) -> u32 {
        if self.is_probing {
            return whole(self.bounds.keep(self.limit / 2.0));
        }
        whole(self.limit)
    }

    fn sample(&mut self, sample: &Sample) {
        if !sample.began_after(self.round.since) {
            return;
        }
        if sample.dropped {
            self.limit = self.bounds.keep(after_drop(self.limit, sample.in_flight));
            return self.begin_round(sample.now);
        }
        // An answer in no time came from nowhere, and would make every other one slow.
        if sample.latency.is_zero() || (self.is_probing && sample.in_flight > self.limit()) {
            return;
        }
        self.round.count += 1;
        self.round.seconds += sample.latency.as_secs_f64();
        self.round.most_in_flight = self.round.most_in_flight.max(sample.in_flight);
        if self.round.count >= self.limit().clamp(SHORTEST_ROUND, LONGEST_ROUND) {
            self.finish_round(sample.now);
        }
    }

    fn fresh(&self) -> Box<dyn Limit> {
        Box::new(Self::with(self.bounds))
    }

    fn rebind(&mut self, bounds: Bounds) {
        self.limit = bounds.keep(self.limit);
        self.bounds = bounds;
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.bounds.check()
    }
}

/// Whether so many in flight are so near the limit that it may be what holds others back.
fn binds(in_flight: u32, limit: f64) -> bool {
    f64::from(in_flight) >= NEAR * limit.floor()
}

/// By three tenths. A limit far above what was in flight has nothing to say about where it failed, so
/// that goes half of the way there as well, as TCP does with a window it didn't use (RFC 7661).
fn after_drop(limit: f64, in_flight: u32) -> f64 {
    let used = f64::from(in_flight).min(limit);
    let used = if binds(in_flight, limit) { limit } else { used };
    AFTER_DROP * (limit + used) / 2.0
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // kept between 1 and u32::MAX
fn whole(limit: f64) -> u32 {
    limit as u32
}

/// As CUBIC's (RFC 9438): less would leave a queue of work that nobody waits for any more.
const AFTER_DROP: f64 = 0.7;

/// In flight that near to the limit counts as having reached it.
const NEAR: f64 = 0.9;

/// Latency varies by itself. Only what exceeds the quiet one by more than this is a queue.
const TOLERANCE: f64 = 1.5;

/// Fewer answers make no average.
const SHORTEST_ROUND: u32 = 10;

/// More make no better one.
const LONGEST_ROUND: u32 = 200;

/// How long the quiet latency is believed.
const QUIET_FOR: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn both(bounds: (u32, u32), initial: u32) -> [Box<dyn Limit>; 2] {
        let (min, max) = bounds;
        [
            Box::new(Aimd::new().bounds(min, max).initial(initial)),
            Box::new(Gradient::new().bounds(min, max).initial(initial)),
        ]
    }

    proptest! {
        #[test]
        fn no_sample_takes_a_limit_out_of_its_bounds(
            min in 0..50_u32,
            max: u32,
            initial: u32,
            samples in prop::collection::vec(
                (any::<Duration>(), any::<u32>(), any::<bool>(), any::<u32>(), any::<bool>()), 1..300,
            ),
        ) {
            for mut limit in both((min, max), initial) {
                let mut now = Instant::now();
                for &(latency, in_flight, dropped, step, is_usual) in &samples {
                    let latency = if is_usual { latency / u32::MAX } else { latency };
                    let in_flight = if is_usual { limit.limit() } else { in_flight };
                    now += Duration::from_micros(step.into());
                    limit.sample(&Sample::new(latency, in_flight, now).dropped(dropped));
                    let min = min.max(1);
                    prop_assert!((min..=max.max(min)).contains(&limit.limit()));
                }
            }
        }

        #[test]
        fn a_limit_that_nobody_reaches_never_grows(
            samples in prop::collection::vec((0..100_u64, 0..8_u32, any::<bool>()), 1..500),
        ) {
            for mut limit in both((1, 1000), 10) {
                let mut now = Instant::now();
                for &(latency, in_flight, dropped) in &samples {
                    now += 5 * MS;
                    let in_flight = in_flight * limit.limit() / 10;
                    let sample = Sample::new(u32::try_from(latency).unwrap() * MS, in_flight, now);
                    limit.sample(&sample.dropped(dropped));
                    prop_assert!(limit.limit() <= 10);
                }
            }
        }
    }

    #[test]
    fn a_limits_worth_of_good_answers_is_one_more() {
        let mut limit = Aimd::new().initial(10);
        let now = Instant::now();
        for answers in 1..=11 {
            assert_eq!(limit.limit(), 10, "after {answers}");
            limit.sample(&Sample::new(MS, 10, now));
        }
        assert_eq!(limit.limit(), 11);
    }

    #[test]
    fn a_burst_of_drops_is_one_decrease_until_something_sent_since_is_dropped() {
        for mut limit in both((1, 1000), 100) {
            let now = Instant::now();
            for _ in 0..50 {
                limit.sample(&Sample::new(20 * MS, 100, now).dropped(true));
            }
            assert_eq!(limit.limit(), 70);
            limit.sample(&Sample::new(20 * MS, 70, now + 20 * MS).dropped(true));
            assert_eq!(limit.limit(), 70);
            limit.sample(&Sample::new(20 * MS, 70, now + 21 * MS).dropped(true));
            assert_eq!(limit.limit(), 49);
        }
    }

    #[test]
    fn a_limit_far_above_what_failed_comes_down_to_it_in_a_few_drops() {
        for mut limit in both((1, 1000), 100) {
            let mut now = Instant::now();
            for left in [36, 14, 6] {
                now += 30 * MS;
                limit.sample(&Sample::new(20 * MS, 5, now).dropped(true));
                assert_eq!(limit.limit(), left);
            }
        }
    }

    /// A service with `workers` and a line, kept as busy as limit and demand allow.
    struct Service {
        workers: usize,
        each: Duration,
        now: Instant,
        /// Begun, how many in flight, and the end once it is known.
        running: Vec<(Instant, u32, Instant)>,
        line: VecDeque<(Instant, u32)>,
    }

    impl Service {
        fn new(workers: usize, each: Duration) -> Self {
            Self {
                workers,
                each,
                now: Instant::now(),
                running: Vec::new(),
                line: VecDeque::new(),
            }
        }

        /// The limit and the latency at each answer.
        fn run(
            &mut self,
            limit: &mut dyn Limit,
            demand: u32,
            patience: Duration,
            length: Duration,
        ) -> Vec<(u32, Duration)> {
            let end = self.now + length;
            let mut seen = Vec::new();
            while self.now < end {
                self.now += MS;
                let now = self.now;
                let (done, running) = self.running.drain(..).partition(|it| it.2 <= now);
                self.running = running;
                for (begun, in_flight, _) in done {
                    let latency = now - begun;
                    let sample = Sample::new(latency, in_flight, now).dropped(latency > patience);
                    limit.sample(&sample);
                    seen.push((limit.limit(), latency));
                }
                let in_flight = self.running.len() + self.line.len();
                for number in in_flight..limit.limit().min(demand) as usize {
                    self.line
                        .push_back((now, u32::try_from(number).unwrap() + 1));
                }
                while self.running.len() < self.workers {
                    let Some((begun, in_flight)) = self.line.pop_front() else {
                        break;
                    };
                    self.running.push((begun, in_flight, now + self.each));
                }
            }
            seen
        }
    }

    const NEVER: Duration = Duration::MAX;

    #[test]
    fn the_gradient_finds_what_a_service_can_do_from_below_and_from_above() {
        for initial in [1, 20, 400] {
            let mut limit = Gradient::new().initial(initial);
            let mut service = Service::new(50, 40 * MS);
            // Far too high, it takes some probes to see the service without a queue.
            service.run(&mut limit, 1000, NEVER, Duration::from_secs(60));
            let seen = service.run(&mut limit, 1000, NEVER, Duration::from_secs(60));
            let rate = seen.len() / 60;
            let most = seen.iter().map(|it| it.0).max().unwrap();
            let slowest = seen.iter().map(|it| it.1).max().unwrap();
            // 50 workers, 40 ms each: 1250 a second at best.
            assert!(rate > 1150, "from {initial}: {rate} a second");
            assert!(most < 110, "from {initial}: {most}");
            assert!(slowest < 90 * MS, "from {initial}: {slowest:?}");
        }
    }

    #[test]
    fn the_gradient_learns_a_longer_way_and_the_shorter_one_again() {
        let mut limit = Gradient::new();
        let mut service = Service::new(50, 20 * MS);
        for each in [20 * MS, 100 * MS, 20 * MS] {
            service.each = each;
            service.run(&mut limit, 1000, NEVER, Duration::from_secs(40));
            let seen = service.run(&mut limit, 1000, NEVER, Duration::from_secs(20));
            let rate = seen.len() / 20;
            let possible = 50_000 / usize::try_from(each.as_millis()).unwrap();
            assert!(
                rate * 10 > possible * 9,
                "{rate} of {possible} a second at {each:?}"
            );
            let slowest = seen.iter().map(|it| it.1).max().unwrap();
            assert!(slowest < each * 9 / 4, "{slowest:?} at {each:?}");
        }
    }

    #[test]
    fn aimd_stays_about_where_drops_begin() {
        let mut limit = Aimd::new().initial(400);
        let mut service = Service::new(50, 40 * MS);
        // A line of 100 makes 120 ms: drops begin at 150 in flight.
        service.run(&mut limit, 1000, 120 * MS, Duration::from_secs(60));
        let seen = service.run(&mut limit, 1000, 120 * MS, Duration::from_secs(60));
        let (least, most) = (
            seen.iter().map(|it| it.0).min(),
            seen.iter().map(|it| it.0).max(),
        );
        assert!(
            least > Some(100) && most < Some(180),
            "{least:?} to {most:?}"
        );
    }

    #[test]
    fn a_quiet_client_keeps_its_limit_and_its_idea_of_quiet() {
        let mut limit = Gradient::new().initial(40);
        let mut service = Service::new(50, 20 * MS);
        for each in [20 * MS, 60 * MS] {
            service.each = each;
            let seen = service.run(&mut limit, 10, NEVER, Duration::from_secs(30));
            assert!(seen.iter().all(|it| it.0 == 40));
        }
        assert!(
            limit
                .quiet
                .is_some_and(|it| (0.055..0.065).contains(&it.latency))
        );
    }

    #[test]
    fn settings_that_make_no_sense_are_named() {
        let problem = |limit: &dyn Limit| limit.check().map_err(|it| it.field()).err();
        assert_eq!(problem(&Aimd::new()), None);
        assert_eq!(problem(&Gradient::new().bounds(0, 9)), Some("limit.bounds"));
        assert_eq!(problem(&Aimd::new().bounds(9, 2)), Some("limit.bounds"));
        assert_eq!(problem(&Aimd::new().bounds(1, 9)), Some("limit.initial"));
        assert_eq!(problem(&Fixed::new(0)), Some("bulkhead.limit"));
    }
}
