//! The window's rules. Pure.

use std::time::{Duration, Instant};

use crate::deadline::later;
use crate::rng::Draws;
use crate::window::Why;

/// Decides how much may be under way to one service.
///
/// It keeps the window as a rate, in attempts per second. The window itself, what may be under way at
/// once, is the rate times the usual latency; a window below one is a pace.
#[derive(Debug)]
pub(super) struct Controller {
    mode: Mode,
    /// Counts decreases. Only answers to attempts that were sent since the last one are evidence.
    epoch: u64,
    rate: f64,
    /// Up to here the rate grows fast: a little below where it was last too high.
    threshold: f64,
    /// Good answers since the rate last grew.
    grown: f64,
    /// There was a good answer since the last decrease.
    any_good: bool,
    answers: Ring,
    usual: Option<f64>,
    /// How many answers taught that.
    lessons: u32,
    /// How long attempts take of late.
    recent: Option<f64>,
    /// The last failure cost the server little.
    cheap: bool,
    demand: Demand,
    /// The demand when it was last limited from open.
    wanted: f64,
    /// Somebody may wait in line.
    parked: bool,
    /// Attempts sent while limited that have not ended.
    in_flight: u32,
    last_sent: Option<Instant>,
    /// When it was last limited more, or at all.
    limited_at: Option<Instant>,
    /// When the pause before the next attempt began, and how many gaps it is long.
    pause: Option<(Instant, f64)>,
    quiet_until: Option<Instant>,
    last_good: Option<Instant>,
    /// The same at the latest: of those that were only counted the moment isn't known.
    perhaps_good: Option<Instant>,
    /// When latency was learned last.
    learned: Option<Instant>,
    why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Open,
    Limited,
}

/// A right to send one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) epoch: u64,
    /// It counts as under way. While the window is open nothing does.
    pub(super) counted: bool,
}

/// What an answer says of the service.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Answer {
    pub(super) failed: bool,
    pub(super) late: bool,
    /// In seconds, of any.
    pub(super) took: Option<f64>,
    /// In seconds, of a good answer.
    pub(super) latency: Option<f64>,
    /// In seconds: the longest latency that may be usual.
    pub(super) believable: f64,
    /// What the server asked for.
    pub(super) quiet: Option<Duration>,
}

/// What the controller did about an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Limited,
    Opened,
    Quiet,
    Shrunk,
}

impl Controller {
    pub(super) const fn new() -> Self {
        Self {
            mode: Mode::Open,
            epoch: 0,
            rate: 0.0,
            threshold: 0.0,
            grown: 0.0,
            any_good: false,
            answers: Ring::new(),
            usual: None,
            lessons: 0,
            recent: None,
            cheap: false,
            demand: Demand::new(),
            wanted: 0.0,
            parked: false,
            in_flight: 0,
            last_sent: None,
            limited_at: None,
            pause: None,
            quiet_until: None,
            last_good: None,
            perhaps_good: None,
            learned: None,
            why: Why::Failures,
        }
    }

    pub(super) const fn is_open(&self) -> bool {
        matches!(self.mode, Mode::Open)
    }

    pub(super) const fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) const fn in_flight(&self) -> u32 {
        self.in_flight
    }

    pub(super) const fn why(&self) -> Why {
        self.why
    }

    /// Attempts that may be under way at once. `None` while open.
    pub(super) fn window(&self) -> Option<f64> {
        (!self.is_open()).then(|| self.under_way())
    }

    /// In seconds; zero while unknown.
    pub(super) fn usual(&self) -> f64 {
        self.usual.unwrap_or(0.0)
    }

    /// The usual latency once so many answers taught it that others can be late by it; zero before.
    /// The first answers to come back are the fastest.
    pub(super) fn known_usual(&self) -> f64 {
        if self.lessons < LEAST_LESSONS {
            return 0.0;
        }
        self.usual()
    }

    /// An attempt needs so many seconds to be answered in all likelihood: twice what one takes now.
    pub(super) fn least_time(&self) -> f64 {
        2.0 * self.recent.unwrap_or(0.0).max(self.usual())
    }

    /// Calls per second. Callers that wait for their turn before they call again want no less than
    /// they did before they had to.
    pub(super) fn demand(&self) -> f64 {
        if self.parked && !self.is_open() {
            return self.demand.rate.max(self.wanted);
        }
        self.demand.rate
    }

    pub(super) const fn quiet_end(&self) -> Option<Instant> {
        self.quiet_until
    }

    /// When it will be the turn of the one with so many before it, if the pace stays what it is.
    pub(super) fn guess(&self, ahead: usize, now: Instant) -> Instant {
        if self.is_open() {
            return now;
        }
        let first = self.turn().unwrap_or(now).max(now);
        #[allow(clippy::cast_precision_loss)]
        later(first, self.gap(ahead as f64))
    }

    /// When something was last sent or heard, as far as is known.
    pub(super) fn last_seen(&self) -> Option<Instant> {
        self.last_sent.max(self.last_good).max(self.limited_at)
    }

    /// Nothing goes before this moment.
    pub(super) fn next_send(&self, now: Instant) -> Option<Instant> {
        let next = self.turn().max(self.quiet_until);
        next.filter(|next| !self.is_open() && now < *next)
    }

    pub(super) fn quiet_until(&self, now: Instant) -> Option<Instant> {
        self.quiet_until.filter(|until| now < *until)
    }

    /// When the next attempt may go; `Err(None)`: when one under way has ended.
    pub(super) fn next(&self, now: Instant, patience: Duration) -> Result<(), Option<Instant>> {
        if self.is_open() {
            return Ok(());
        }
        if let Some(until) = self.quiet_until(now) {
            return Err(Some(until.max(self.turn().unwrap_or(until))));
        }
        if let Some(next) = self.turn().filter(|next| now < *next) {
            return Err(Some(next));
        }
        if f64::from(self.in_flight) < self.under_way().floor().max(1.0) {
            return Ok(());
        }
        // An attempt that nobody ends must not end the probing.
        match self.last_sent.map(|sent| later(sent, patience)) {
            Some(lost) if now < lost => Err(Some(lost)),
            _ => Ok(()),
        }
    }

    /// Sends one; asked only when [`next`](Self::next) says that it may go.
    pub(super) fn send(&mut self, now: Instant, draws: &mut Draws) -> Ticket {
        let counted = !self.is_open();
        if counted {
            self.in_flight = self.in_flight.saturating_add(1);
            self.last_sent = Some(now);
            // Timers are late, and what they are late by isn't to make the pace slower.
            let due = self.turn().unwrap_or(now).min(now);
            let began = now
                .checked_sub(LATE_TIMER)
                .map_or(now, |then| due.max(then));
            self.pause = Some((began, 0.5 + fraction(draws)));
        }
        let epoch = self.epoch;
        Ticket { epoch, counted }
    }

    /// Somebody asks. After a long silence it begins anew.
    pub(super) fn asked(&mut self, now: Instant) {
        let last = self.last_sent.max(self.quiet_until);
        let is_old = last.is_none_or(|it| now.saturating_duration_since(it) > LONGEST_LIMITED);
        let limited = self.limited_at.map(|at| now.saturating_duration_since(at));
        if !self.is_open()
            && self.in_flight == 0
            && is_old
            && limited.is_some_and(|it| it > LONGEST_LIMITED)
        {
            self.mode = Mode::Open;
            self.renew();
        }
    }

    /// An attempt was dropped.
    pub(super) fn dropped(&mut self, ticket: Ticket) {
        if ticket.counted {
            self.in_flight = self.in_flight.saturating_sub(1);
        }
    }

    /// Calls arrived, and good answers came while open: `good` of them since the last time, no earlier
    /// than `good_at`.
    pub(super) fn tally(
        &mut self,
        arrived: u64,
        good: u64,
        good_at: Instant,
        parked: bool,
        now: Instant,
    ) {
        self.demand.tick(arrived, now);
        self.parked = parked;
        self.answers.push_good(good, good_at);
        if good > 0 {
            self.perhaps_good = self.perhaps_good.max(Some(now));
        }
    }

    /// A good answer came, perhaps without anyone looking at it but the clock.
    pub(super) fn saw_good(&mut self, at: Instant) {
        self.last_good = self.last_good.max(Some(at));
        self.perhaps_good = self.perhaps_good.max(Some(at));
    }

    /// Learns from a good answer that came while open.
    pub(super) fn learn(&mut self, latency: f64) {
        self.learn_by(LEARNING, latency);
    }

    fn learn_by(&mut self, weight: f64, latency: f64) {
        self.lessons = self.lessons.saturating_add(1);
        // Young estimates are means.
        let weight = weight.max(1.0 / f64::from(self.lessons));
        self.usual = Some(match self.usual {
            None => latency,
            Some(usual) => usual + weight * (latency - usual),
        });
    }

    /// An attempt was answered, or timed out.
    pub(super) fn answered(
        &mut self,
        ticket: Ticket,
        answer: Answer,
        parked: bool,
        now: Instant,
        draws: &mut Draws,
    ) -> Option<Step> {
        self.dropped(ticket);
        // While limited, a hint shorter than the pause there is anyway is a failure like others.
        let is_news = |quiet: &Duration| self.is_open() || *quiet > self.gap(1.0);
        if let Some(quiet) = answer.quiet.filter(is_news).filter(|_| self.believes(now)) {
            return self.be_quiet(quiet, now, draws);
        }
        if !answer.failed {
            self.saw_good(now);
        }
        if ticket.epoch != self.epoch {
            return None;
        }
        if let Some(took) = answer.took.filter(|_| !answer.failed || answer.late) {
            let was = self.recent.unwrap_or(self.usual());
            self.recent = Some(was + LEARNING_RECENT * (took - was));
        }
        if answer.failed {
            self.cheap = !answer.late && answer.took.is_some_and(|it| it < self.usual() / 4.0);
        }
        self.answers.push(answer.failed, answer.late, now);
        if let Some(latency) = answer.latency {
            self.learn_from(latency, answer.late, answer.believable, now);
        }
        let enough = if self.is_open() {
            MOST_LATE
        } else {
            // A second's worth of them, within bounds.
            self.rate.clamp(2.0, MOST_LATE_LIMITED)
        };
        let least = if self.is_open() { LEAST_EVIDENCE } else { 2 };
        let are_failures = self.answers.count() >= least && self.answers.failed() > MOST_FAILED;
        let failing = are_failures || self.is_lost(answer, now);
        let slow = f64::from(self.answers.late()) >= enough;
        if failing || slow {
            self.why = if failing { Why::Failures } else { Why::Latency };
            return Some(self.decrease(now, draws));
        }
        if answer.failed || answer.late || self.is_open() {
            return None;
        }
        self.grow(parked)
    }

    /// Whether it failed late, and nothing good came all the while nor for as long before. Whoever
    /// calls so seldom has no better evidence, and no time to wait for it: the retries of many such
    /// clients alone keep an overload alive.
    fn is_lost(&self, answer: Answer, now: Instant) -> bool {
        let Some(took) = answer.took.filter(|_| answer.failed && answer.late) else {
            return false;
        };
        let since = |good| now.saturating_duration_since(good).as_secs_f64();
        self.perhaps_good
            .is_none_or(|good| since(good) >= 2.0 * took)
    }

    /// Latency is learned where it isn't our own doing: while open, where it is as usual, and while
    /// little more than probes are sent. Elsewhere, where it may be, it is learned slowly, and while
    /// limited up to a bound, so that a service that became slower for good isn't limited for good.
    fn learn_from(&mut self, latency: f64, late: bool, believable: f64, now: Instant) {
        let last = self.learned.replace(now).unwrap_or(now);
        if self.is_open() {
            // Most that are late are so by a queue, which isn't usual: one of all that ever came.
            self.learn_by(if late { 0.0 } else { LEARNING }, latency);
        } else if self.usual.is_none() || self.rate <= 2.0 * self.floor() {
            self.learn_by(LEARNING_PROBING, latency);
        } else {
            let passed = now.saturating_duration_since(last).as_secs_f64().min(1.0);
            let weight = passed / (passed + LEARNING_LIMITED);
            self.learn_by(weight, latency.min(believable.max(self.usual())));
        }
    }

    /// Whether one server's word is taken for all. While others give good answers it speaks for
    /// itself alone.
    fn believes(&self, now: Instant) -> bool {
        self.last_good
            .is_none_or(|good| now.saturating_duration_since(good) >= GOOD_SPEAKS_FOR)
    }

    fn be_quiet(&mut self, quiet: Duration, now: Instant, draws: &mut Draws) -> Option<Step> {
        let until = later(now, quiet);
        if self.quiet_until(now).is_some_and(|known| until <= known) {
            return None;
        }
        if self.is_open() {
            self.wanted = self.demand.rate;
            self.rate = self.wanted.max(self.floor());
            self.threshold = 0.8 * self.rate;
        }
        self.mode = Mode::Limited;
        self.why = Why::Quiet;
        self.renew();
        self.quiet_until = Some(until);
        self.limited_at = Some(now);
        self.pause = Some((until, fraction(draws)));
        Some(Step::Quiet)
    }

    fn decrease(&mut self, now: Instant, draws: &mut Draws) -> Step {
        let failed = self.answers.failed();
        self.limited_at = Some(now);
        let step = match self.mode {
            Mode::Open => {
                self.mode = Mode::Limited;
                self.wanted = self.demand.rate;
                self.rate = self.wanted;
                self.any_good = true;
                self.pause = None;
                Step::Limited
            }
            Mode::Limited => {
                if !self.parked {
                    // More than was asked for was never tried.
                    self.rate = self.rate.min(self.demand());
                }
                Step::Shrunk
            }
        };
        if self.any_good {
            // What it served while open it will serve again; what failed while limited was too much.
            self.threshold = match step {
                Step::Limited => self.rate,
                _ => 0.8 * self.rate,
            };
        }
        self.rate = (self.rate * (0.65 - 0.1 * failed)).max(self.floor());
        self.any_good = false;
        self.renew();
        if step == Step::Limited {
            // A fleet that trips as one isn't to probe as one.
            self.pause = Some((now, 0.5 + fraction(draws)));
        }
        step
    }

    fn grow(&mut self, parked: bool) -> Option<Step> {
        self.any_good = true;
        self.grown += 1.0;
        if self.grown >= self.under_way().max(1.0) {
            self.grown = 0.0;
            self.rate = if self.rate < self.threshold {
                (self.rate * 4.0).min(self.threshold)
            } else {
                self.rate * 1.3
            }
            .max(self.rate + LEAST_STEP);
        }
        // A fleet that has much to catch up on isn't to come back as a flood.
        let most = (MOST_CATCH_UP * self.demand()).max(self.floor());
        self.rate = self.rate.min(most);
        if parked || self.rate < MOST_CATCH_UP * self.demand() {
            return None;
        }
        self.mode = Mode::Open;
        self.recent = None;
        self.answers.clear();
        Some(Step::Opened)
    }

    fn renew(&mut self) {
        self.epoch += 1;
        self.grown = 0.0;
        self.answers.clear();
    }

    /// The least rate: the probes, and all there is to send in an outage. Those of small clients may
    /// come as often as their calls, if that costs the server little.
    fn floor(&self) -> f64 {
        let demand = self.demand();
        let cheap = if self.cheap { MOST_PROBES } else { 0.0 };
        (0.2 * demand).max(demand.min(cheap))
    }

    /// When the pause before the next attempt ends, at the pace of now.
    fn turn(&self) -> Option<Instant> {
        self.pause
            .map(|(began, share)| later(began, self.gap(share)))
    }

    /// How many attempts the rate keeps under way.
    fn under_way(&self) -> f64 {
        self.rate * self.usual.unwrap_or(UNKNOWN)
    }

    /// So many times the pause between two attempts.
    fn gap(&self, share: f64) -> Duration {
        let seconds = share / self.rate;
        let longest = if self.cheap {
            LONGEST_GAP_CHEAP
        } else {
            LONGEST_GAP
        };
        if seconds.is_nan() || seconds > longest {
            return Duration::from_secs_f64(longest);
        }
        Duration::from_secs_f64(seconds.max(0.0))
    }
}

/// From when on an answer is late, given the usual latency (zero: unknown) and the attempt's
/// timeout. In nanoseconds.
#[inline]
pub(super) fn late_after(usual: u64, timeout: Option<u64>) -> u64 {
    let by_usual = match usual {
        0 => u64::MAX,
        usual => usual.saturating_mul(5).max(LATE_LEAST),
    };
    let by_timeout = timeout.map_or(u64::MAX, |timeout| timeout / 4);
    // A service whose usual answers take a large part of the timeout isn't late.
    by_usual.min(by_timeout).max(usual.saturating_mul(2))
}

/// The last answers.
#[derive(Debug)]
struct Ring {
    /// One bit each, the latest lowest.
    failed: u16,
    count: u32,
    /// So many more were late than in time, since they last were as many.
    late: u32,
    /// Where the latest one's time is.
    last: u32,
    /// In milliseconds since the first one ever; they wrap.
    times: [u32; 16],
    first: Option<Instant>,
}

impl Ring {
    const fn new() -> Self {
        Self {
            failed: 0,
            count: 0,
            late: 0,
            last: 0,
            times: [0; 16],
            first: None,
        }
    }

    fn push(&mut self, failed: bool, late: bool, now: Instant) {
        let first = *self.first.get_or_insert(now);
        #[allow(clippy::cast_possible_truncation)] // it wraps
        let time = now.saturating_duration_since(first).as_millis() as u32;
        self.last = (self.last + 1) % 16;
        self.times[self.last as usize] = time;
        self.failed = self.failed << 1 | u16::from(failed);
        self.count = (self.count + 1).min(KEPT);
        self.forget(time);
        if self.count == 1 {
            self.late = 0;
        }
        self.late = if late {
            self.late.saturating_add(1)
        } else {
            self.late.saturating_sub(1)
        };
    }

    /// Drops what is too old; the last three have more time.
    fn forget(&mut self, time: u32) {
        while self.count > 0 {
            let oldest = self.times[((self.last + 17 - self.count) % 16) as usize];
            let longest = if self.count > LEAST_EVIDENCE {
                MEMORY
            } else {
                LONGEST_MEMORY
            };
            // One that seems to be of the future came while another was told.
            let age = time.wrapping_sub(oldest);
            if age <= longest || age > u32::MAX - LONGEST_MEMORY {
                break;
            }
            self.count -= 1;
        }
        self.failed &= (1_u16 << self.count) - 1;
    }

    fn push_good(&mut self, count: u64, now: Instant) {
        if count < KEPT.into() {
            (0..count).for_each(|_| self.push(false, false, now));
            return;
        }
        // All that is kept is good.
        self.push(false, false, now);
        self.times = [self.times[self.last as usize]; 16];
        self.late = (count - 1)
            .try_into()
            .map_or(0, |others| self.late.saturating_sub(others));
        (self.failed, self.count) = (0, KEPT);
    }

    fn clear(&mut self) {
        (self.failed, self.count, self.late) = (0, 0, 0);
    }

    const fn count(&self) -> u32 {
        self.count
    }

    /// The share.
    fn failed(&self) -> f64 {
        f64::from(self.failed.count_ones()) / f64::from(self.count.max(1))
    }

    const fn late(&self) -> u32 {
        self.late
    }
}

/// Calls per second, of the last twenty seconds or so.
#[derive(Debug)]
struct Demand {
    rate: f64,
    began: Option<Instant>,
    last: Option<Instant>,
    fresh: u64,
}

impl Demand {
    const fn new() -> Self {
        Self {
            rate: 0.0,
            began: None,
            last: None,
            fresh: 0,
        }
    }

    fn tick(&mut self, arrived: u64, now: Instant) {
        self.fresh = self.fresh.saturating_add(arrived);
        let began = *self.began.get_or_insert(now);
        let last = *self.last.get_or_insert(now);
        let now = now.max(last);
        let age = now.saturating_duration_since(began).as_secs_f64();
        let passed = now.saturating_duration_since(last).as_secs_f64();
        if passed < 0.1 && self.rate > 0.0 {
            return;
        }
        #[allow(clippy::cast_precision_loss)]
        let fresh = self.fresh as f64;
        // Young estimates are means; a first moment counts as a second.
        let weight = (passed / (passed + DEMAND_MEMORY)).max(passed / age.max(1.0));
        if passed > 0.0 {
            self.rate += weight * (fresh / passed - self.rate);
        } else {
            self.rate = fresh;
        }
        if passed > DEMAND_MEMORY {
            // After a long silence it is young again.
            self.began = Some(now);
        }
        self.last = Some(now);
        self.fresh = 0;
    }
}

/// Uniform in 0 to 1.
#[allow(clippy::cast_precision_loss)] // 53 bits fit
fn fraction(draws: &mut Draws) -> f64 {
    (draws.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// How many answers are looked at.
const KEPT: u32 = 15;

/// More failures than this are no accident.
const MOST_FAILED: f64 = 0.6;

/// Failures of fewer answers than this are no evidence that an open window has to be limited.
const LEAST_EVIDENCE: u32 = 3;

/// Answers older than this, in milliseconds, no longer count, but for the last three.
const MEMORY: u32 = 2000;

/// The same for the last three.
const LONGEST_MEMORY: u32 = 600_000;

/// Limited, with nothing under way and nobody asking for so long, it knows nothing any more.
const LONGEST_LIMITED: Duration = Duration::from_secs(600);

/// So many more late answers than others are a queue. As they come and go this is a random walk: it
/// gets nowhere while fewer than half are late, and takes no longer than it must when all are.
const MOST_LATE: f64 = 5.0;

/// The same while limited, at most.
const MOST_LATE_LIMITED: f64 = 4.0;

/// A good answer speaks against a server that asks for quiet for this long.
const GOOD_SPEAKS_FOR: Duration = Duration::from_millis(500);

/// The rate is at most so many times the demand; there, with nobody in line, it opens.
const MOST_CATCH_UP: f64 = 3.0;

/// Timers of a millisecond come as late as this on a busy machine.
const LATE_TIMER: Duration = Duration::from_millis(5);

/// A window of good answers adds at least this, in attempts per second: a third of a small rate is
/// nothing.
const LEAST_STEP: f64 = 0.4;

/// The weight of a new latency.
const LEARNING: f64 = 0.02;

/// Of so many answers at least.
const LEAST_LESSONS: u32 = 16;

/// The same while probing, where a service that became slower for good is to be recognised.
const LEARNING_PROBING: f64 = 0.1;

/// Seconds of memory of latencies while limited.
const LEARNING_LIMITED: f64 = 20.0;

/// The same for the latency of the moment.
const LEARNING_RECENT: f64 = 0.2;

/// Seconds that a service is taken to need before it has answered once.
const UNKNOWN: f64 = 0.1;

/// Seconds of memory of the demand. Short ones make a client of few calls forget that it has any.
const DEMAND_MEMORY: f64 = 20.0;

/// A probe at least this often, in seconds. Thousands of clients that call every ten seconds are a
/// load, and their probes are not to be as much.
const LONGEST_GAP: f64 = 20.0;

/// The same where failures cost the server little.
const LONGEST_GAP_CHEAP: f64 = 5.0;

/// Probes per second that a small client may send where they cost the server little.
const MOST_PROBES: f64 = 0.8;

/// Nanoseconds below which no answer is late: a stalled scheduler is no overload.
const LATE_LEAST: u64 = 20_000_000;
