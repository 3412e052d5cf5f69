//! The breaker against a slow and obviously right one, and on real threads.
#![cfg(not(evenkeel_loom))]

use std::collections::VecDeque;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use evenkeel::Rng;
use evenkeel::backoff::{Backoff, Jitter};
use evenkeel::breaker::{Breaker, CountAs, Mode, Permit, Snapshot, State, Why};
use evenkeel::budget::Ratio;
use evenkeel::keyed::PerKey;
use evenkeel::verdict::{Hint, Kind, Verdict};
use proptest::prelude::*;

// ---- The reference: plain, slow, one thread. ----

#[derive(Clone, Copy, Debug)]
enum Window {
    Calls(usize),
    /// A tenth of it, in milliseconds.
    Bucket(u64),
}

#[derive(Clone, Copy, Debug)]
struct Rules {
    window: Window,
    min_calls: usize,
    percent: Option<u16>,
    in_row: Option<u32>,
    slow: Option<(u64, u16)>,
    probes: usize,
    close_after: u32,
    reopen_after: u32,
    ramp: u64,
    faults: CountAs,
    cancelled: CountAs,
}

const FIRST: u64 = 200;
const LONGEST: u64 = 700;
const PROBE_TIMEOUT: u64 = 500;
const FORGET: u64 = 3_000;
const MAX_HINT: u64 = 1_000;
/// What is counted begins a day before the first moment.
const DAY: u64 = 86_400_000;

impl Rules {
    fn breaker(&self) -> Breaker {
        let breaker = Breaker::new()
            .min_calls(u32::try_from(self.min_calls).unwrap())
            .failure_ratio(self.percent.map(Ratio::percent))
            .consecutive_failures(self.in_row)
            .cooldown(
                Backoff::exponential(ms(FIRST))
                    .max_delay(ms(LONGEST))
                    .jitter(Jitter::None),
            )
            .forget_after(ms(FORGET))
            .max_hint(ms(MAX_HINT))
            .probes(u32::try_from(self.probes).unwrap())
            .close_after(self.close_after)
            .reopen_after(self.reopen_after)
            .probe_timeout(ms(PROBE_TIMEOUT))
            .ramp(ms(self.ramp))
            .request_faults(self.faults)
            .cancelled(self.cancelled);
        let breaker = match self.window {
            Window::Calls(calls) => breaker.window_of_calls(u32::try_from(calls).unwrap()),
            Window::Bucket(bucket) => breaker.window(ms(10 * bucket)),
        };
        match self.slow {
            Some((over, percent)) => breaker.slow_calls(ms(over), Ratio::percent(percent)),
            None => breaker,
        }
    }
}

#[derive(Debug)]
enum Now {
    Closed { ramp_since: Option<u64> },
    HalfOpen { good: u32, bad: u32 },
    Open { until: u64 },
}

struct Model {
    rules: Rules,
    mode: Mode,
    now: Now,
    spell: u32,
    outcomes: VecDeque<(u64, bool, bool)>,
    in_row: u32,
    /// Number, spell and latest return of every probe that is out, whichever spell it is of.
    out: Vec<(u32, u32, u64)>,
    probe_numbers: u32,
    trips: u32,
    trips_in_row: u32,
    closed_at: u64,
    /// Until when failures asked for quiet since the last success.
    hinted: u64,
    /// A dropped call failed, and nobody has looked since.
    dropped: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Right {
    Counted,
    Ghost,
    Idle,
    Probe(u32),
}

/// What the model allows the machine to answer.
enum Allowed {
    Go(Right),
    Refuse(Option<u64>),
    /// It opens, for so long by itself.
    Open(Why, u64),
    /// Luck decides; refused at most until then.
    Either {
        latest: u64,
    },
}

impl Model {
    fn new(rules: Rules) -> Self {
        Self {
            rules,
            mode: Mode::Automatic,
            now: Now::Closed { ramp_since: None },
            spell: 0,
            outcomes: VecDeque::new(),
            in_row: 0,
            out: Vec::new(),
            probe_numbers: 0,
            trips: 0,
            trips_in_row: 0,
            closed_at: 0,
            hinted: 0,
            dropped: false,
        }
    }

    fn enter(&mut self, now: Now) {
        self.now = now;
        self.spell += 1;
        self.outcomes.clear();
        self.in_row = 0;
        self.hinted = 0;
        self.dropped = false;
    }

    fn ask(&mut self, at: u64) -> Allowed {
        match self.mode {
            Mode::Disabled => return Allowed::Go(Right::Idle),
            Mode::ForcedClosed => return Allowed::Go(Right::Counted),
            Mode::ForcedOpen => return Allowed::Refuse(None),
            _ => {}
        }
        if std::mem::take(&mut self.dropped) {
            if let Some(why) = self.broken(at) {
                let own = self.trip(at);
                return Allowed::Open(why, own);
            }
        }
        if matches!(self.now, Now::Open { until } if at >= until) {
            if self.is_full() && self.give_up(at).is_none() {
                return Allowed::Refuse(self.oldest().map(|it| it.2));
            }
            self.enter(Now::HalfOpen { good: 0, bad: 0 });
        }
        match &mut self.now {
            Now::Closed {
                ramp_since: Some(since),
            } if at < *since + self.rules.ramp => Allowed::Either {
                latest: *since + self.rules.ramp,
            },
            Now::Closed { .. } => Allowed::Go(Right::Counted),
            Now::Open { until } => Allowed::Refuse(Some(*until)),
            Now::HalfOpen { .. } => {
                if self.is_full() {
                    let lost = self.give_up(at);
                    if lost.is_some_and(|it| it.1 == self.spell) && self.probe_failed() {
                        return Allowed::Open(Why::ProbeFailed, self.open(at));
                    }
                }
                if self.is_full() {
                    return Allowed::Refuse(self.oldest().map(|it| it.2));
                }
                self.probe_numbers += 1;
                let until = at + PROBE_TIMEOUT;
                self.out.push((self.probe_numbers, self.spell, until));
                Allowed::Go(Right::Probe(self.probe_numbers))
            }
        }
    }

    fn is_full(&self) -> bool {
        self.out.len() == self.rules.probes
    }

    fn oldest(&self) -> Option<(u32, u32, u64)> {
        self.out.iter().copied().min_by_key(|it| (it.2, it.0))
    }

    fn give_up(&mut self, at: u64) -> Option<(u32, u32, u64)> {
        let lost = self.oldest().filter(|it| it.2 <= at)?;
        self.out.retain(|it| it.0 != lost.0);
        Some(lost)
    }

    fn probe_failed(&mut self) -> bool {
        let Now::HalfOpen { bad, .. } = &mut self.now else {
            return false;
        };
        *bad += 1;
        *bad >= self.rules.reopen_after
    }

    fn held(&self, at: u64) -> (usize, usize, usize) {
        let last = self.outcomes.len();
        let inside = |index: usize, time: u64| match self.rules.window {
            Window::Calls(calls) => index + calls >= last,
            Window::Bucket(bucket) => (DAY + time) / bucket + 10 > (DAY + at) / bucket,
        };
        let held = self.outcomes.iter().enumerate();
        let held: Vec<_> = held.filter(|(i, it)| inside(*i, it.0)).collect();
        let failed = held.iter().filter(|it| it.1.1).count();
        let slow = held.iter().filter(|it| it.1.2).count();
        (held.len(), failed, slow)
    }

    fn uses_window(&self) -> bool {
        self.rules.percent.is_some() || self.rules.slow.is_some()
    }

    fn count(&mut self, at: u64, failed: bool, slow: bool) {
        if self.uses_window() {
            self.outcomes.push_back((at, failed, slow));
        }
        if self.rules.in_row.is_some_and(|limit| self.in_row < limit) {
            self.in_row = if failed { self.in_row + 1 } else { 0 };
        }
    }

    fn broken(&self, at: u64) -> Option<Why> {
        if self.rules.in_row.is_some_and(|limit| self.in_row >= limit) {
            return Some(Why::ConsecutiveFailures);
        }
        let (calls, failed, slow) = self.held(at);
        let over = |part: usize, percent: u16| part > 0 && part * 100 >= calls * percent as usize;
        if calls < self.rules.min_calls {
            None
        } else if self.rules.percent.is_some_and(|it| over(failed, it)) {
            Some(Why::FailureRatio)
        } else if self.rules.slow.is_some_and(|it| over(slow, it.1)) {
            Some(Why::SlowRatio)
        } else {
            None
        }
    }

    /// Says how long it opens by itself.
    fn open(&mut self, at: u64) -> u64 {
        let length = (FIRST << self.trips_in_row.min(20)).min(LONGEST);
        self.trips += 1;
        self.trips_in_row += 1;
        self.enter(Now::Open { until: at + length });
        length
    }

    fn trip(&mut self, at: u64) -> u64 {
        if at - self.closed_at >= FORGET {
            self.trips_in_row = 0;
        }
        self.open(at)
    }

    /// The change, and how long it opened by itself.
    fn settle(
        &mut self,
        (right, spell): (Right, u32),
        kind: Kind,
        took: u64,
        at: u64,
    ) -> Option<(State, State, Why, u64)> {
        if let Right::Probe(number) = right {
            let place = self.out.iter().position(|it| it.0 == number)?;
            self.out.remove(place);
        }
        if spell != self.spell {
            return None;
        }
        let slow = self.rules.slow.is_some_and(|it| took >= it.0);
        let mut count_as = match kind {
            Kind::Success => CountAs::Success,
            Kind::RequestFault => self.rules.faults,
            Kind::RateLimited => CountAs::Nothing,
            _ => CountAs::Failure,
        };
        if right == Right::Counted {
            if count_as == CountAs::Nothing {
                return None;
            }
            let failed = count_as == CountAs::Failure;
            self.count(at, failed, slow);
            if !failed {
                self.hinted = 0;
            }
            if !(failed || slow) || self.mode == Mode::ForcedClosed {
                return None;
            }
            let why = self.broken(at)?;
            return Some((State::Closed, State::Open, why, self.trip(at)));
        }
        let (Right::Probe(_), Now::HalfOpen { good, bad }) = (right, &mut self.now) else {
            return None;
        };
        if kind == Kind::RateLimited || (count_as == CountAs::Success && slow) {
            count_as = CountAs::Failure;
        }
        match count_as {
            CountAs::Nothing => None,
            CountAs::Success => {
                *good += 1;
                if *good < self.rules.close_after {
                    return None;
                }
                self.closed_at = at;
                let ramp_since = (self.rules.ramp > 0).then_some(at);
                self.enter(Now::Closed { ramp_since });
                Some((State::HalfOpen, State::Closed, Why::ProbeSucceeded, 0))
            }
            CountAs::Failure => {
                *bad += 1;
                if *bad < self.rules.reopen_after {
                    return None;
                }
                let length = self.open(at);
                Some((State::HalfOpen, State::Open, Why::ProbeFailed, length))
            }
        }
    }

    fn abandon(&mut self, (right, spell): (Right, u32), begun: u64) {
        match right {
            Right::Counted if spell == self.spell && self.rules.cancelled != CountAs::Nothing => {
                let failed = self.rules.cancelled == CountAs::Failure;
                self.count(begun, failed, false);
                if failed {
                    self.dropped = true;
                } else {
                    self.hinted = 0;
                }
            }
            Right::Probe(number) => self.out.retain(|it| it.0 != number),
            _ => {}
        }
    }

    fn set_mode(&mut self, mode: Mode, at: u64) {
        self.mode = mode;
        self.closed_at = at;
        self.enter(Now::Closed { ramp_since: None });
    }

    fn state(&self) -> State {
        match (&self.now, self.mode) {
            (_, Mode::ForcedOpen) | (Now::Open { .. }, _) => State::Open,
            (Now::Closed { .. }, _) => State::Closed,
            (Now::HalfOpen { .. }, _) => State::HalfOpen,
        }
    }

    /// It opened by itself for `own`, and was asked for quiet until `asked`.
    fn opened_for(
        &mut self,
        breaker: &Breaker,
        asked: u64,
        own: u64,
        length: Duration,
        (now, at): (Instant, u64),
        rng: &Rng,
    ) -> Result<(), TestCaseError> {
        let hint = asked.saturating_sub(at);
        if hint <= own {
            prop_assert_eq!(length, ms(own));
            return Ok(());
        }
        prop_assert!(ms(hint) <= length && length <= ms(hint + own));
        prop_assert_eq!(breaker.snapshot(now).retry_after, Some(length));
        self.rounded(breaker, length, (now, at), rng)
    }

    /// Chance decides how much: whole milliseconds suit the model.
    fn rounded(
        &mut self,
        breaker: &Breaker,
        length: Duration,
        (now, at): (Instant, u64),
        rng: &Rng,
    ) -> Result<(), TestCaseError> {
        let until = u64::try_from(length.as_millis()).unwrap() + at;
        let mut rounded = breaker.snapshot(now);
        rounded.retry_after = Some(ms(until - at));
        prop_assert_eq!(breaker.restore(&rounded, now, rng), None);
        self.enter(Now::Open { until });
        self.spell += 1;
        self.closed_at = at;
        Ok(())
    }

    fn agrees(&self, real: &Snapshot, at: u64) -> Result<(), TestCaseError> {
        let (calls, failed, slow) = self.held(at);
        prop_assert_eq!(real.mode, self.mode);
        prop_assert_eq!(real.state, self.state());
        prop_assert_eq!(
            (real.calls, real.failures, real.slow_calls),
            (calls as u64, failed as u64, slow as u64)
        );
        prop_assert_eq!(real.consecutive_failures, self.in_row);
        prop_assert_eq!(
            (real.trips, real.trips_in_row),
            (self.trips, self.trips_in_row)
        );
        let left = match &self.now {
            Now::Open { until } => Some(ms(until.saturating_sub(at))),
            _ => None,
        };
        prop_assert_eq!(real.retry_after, left);
        prop_assert_eq!(real.probes as usize, self.out.len());
        prop_assert!(self.out.len() <= self.rules.probes);
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Ask,
    Drop(usize),
    Pass(u64),
    Settle(usize, Kind, Option<u64>),
    Set(Mode),
}

fn any_step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![
        4 => Just(Kind::Success),
        4 => Just(Kind::Transient),
        1 => Just(Kind::Overloaded),
        1 => Just(Kind::TargetFault),
        1 => Just(Kind::RateLimited),
        1 => Just(Kind::RequestFault),
    ];
    let hint = prop_oneof![9 => Just(None), 1 => (0..3_000_u64).prop_map(Some)];
    let pass = prop_oneof![
        4 => 0..40_u64,
        2 => 0..400_u64,
        2 => Just(100_u64),
        1 => 0..4_000_u64,
        1 => 0..300_000_u64, // thousands of the shortest windows
    ];
    let mode = prop_oneof![
        4 => Just(Mode::Automatic),
        1 => Just(Mode::Disabled),
        1 => Just(Mode::ForcedClosed),
        1 => Just(Mode::ForcedOpen),
        2 => Just(Mode::WatchOnly),
    ];
    prop_oneof![
        20 => Just(Step::Ask),
        20 => (any::<usize>(), kind, hint).prop_map(|(i, kind, hint)| Step::Settle(i, kind, hint)),
        3 => any::<usize>().prop_map(Step::Drop),
        8 => pass.prop_map(Step::Pass),
        1 => mode.prop_map(Step::Set),
    ]
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let window = prop_oneof![
        (1..9_usize).prop_map(Window::Calls),
        Just(Window::Bucket(100)),
        Just(Window::Bucket(7)),
    ];
    let count_as = || {
        prop_oneof![
            3 => Just(CountAs::Nothing),
            1 => Just(CountAs::Failure),
            1 => Just(CountAs::Success),
        ]
    };
    let rules = (
        window,
        1..6_usize,
        prop::option::of(prop_oneof![Just(50_u16), Just(100), Just(1)]),
        prop::option::of(1..5_u32),
        prop::option::of((1..60_u64, Just(60_u16))),
    );
    let probing = (
        1..4_usize,
        1..4_u32,
        1..4_u32,
        prop_oneof![Just(0), Just(300_u64)],
    );
    (rules, probing, count_as(), count_as()).prop_map(|(rules, probing, faults, cancelled)| {
        let (window, min_calls, percent, in_row, slow) = rules;
        let (probes, close_after, reopen_after, ramp) = probing;
        Rules {
            window,
            min_calls,
            percent,
            in_row,
            slow,
            probes,
            close_after,
            reopen_after,
            ramp,
            faults,
            cancelled,
        }
    })
}

struct Held<'a> {
    permit: Permit<'a>,
    right: (Right, u32),
    begun: u64,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]
    #[test]
    fn it_does_step_by_step_what_the_reference_does(
        rules in any_rules(),
        steps in prop::collection::vec(any_step(), 1..400),
        seed: u64,
    ) {
        let (t0, rng) = (Instant::now(), Rng::seeded(seed));
        let breaker = rules.breaker();
        let mut model = Model::new(rules);
        let mut held: Vec<Held> = Vec::new();
        let mut at = 0;
        model.agrees(&breaker.snapshot(t0), at)?;
        for step in steps {
            let now = t0 + ms(at);
            match step {
                Step::Pass(time) => at += time,
                Step::Ask => {
                    let (before, asked) = (model.state(), model.hinted);
                    let allowed = model.ask(at);
                    let watch = model.mode == Mode::WatchOnly;
                    let got = breaker.try_acquire(now, &rng);
                    let change = match &got {
                        Ok(permit) => permit.change(),
                        Err(refused) => refused.change(),
                    };
                    prop_assert_eq!(
                        change.map(|it| (it.from, it.to)),
                        (before != model.state()).then_some((before, model.state()))
                    );
                    // As if it did more than watch.
                    let refused = match &got {
                        Ok(permit) => permit.would_refuse(),
                        Err(refused) => Some(*refused),
                    };
                    prop_assert!(got.is_ok() || !watch);
                    let right = match (allowed, refused) {
                        (Allowed::Go(right), None) => right,
                        (Allowed::Either { .. }, None) => Right::Counted,
                        (Allowed::Refuse(until), Some(refused)) => {
                            prop_assert_eq!(refused.retry_at(), until.map(|it| t0 + ms(it)));
                            Right::Ghost
                        }
                        (Allowed::Open(why, own), Some(refused)) => {
                            prop_assert_eq!(change.map(|it| it.why), Some(why));
                            let length = change.and_then(|it| it.retry_after).expect("opened");
                            prop_assert_eq!(refused.retry_at(), Some(now + length));
                            model.opened_for(&breaker, asked, own, length, (now, at), &rng)?;
                            Right::Ghost
                        }
                        (Allowed::Either { latest }, Some(refused)) => {
                            let retry_at = refused.retry_at().expect("known");
                            prop_assert!(now < retry_at && retry_at <= t0 + ms(latest));
                            Right::Ghost
                        }
                        (_, refused) => {
                            return Err(TestCaseError::fail(format!("refused: {refused:?}")));
                        }
                    };
                    if let Ok(permit) = got {
                        prop_assert_eq!(permit.is_probe(), matches!(right, Right::Probe(_)));
                        let right = (right, model.spell);
                        held.push(Held { permit, right, begun: at });
                    }
                }
                Step::Settle(which, kind, hint) => {
                    if held.is_empty() {
                        continue;
                    }
                    let Held { permit, right, begun } = held.swap_remove(which % held.len());
                    let mut verdict = Verdict::new(kind);
                    if let Some(hint) = hint {
                        verdict = verdict.hint(Hint::After(ms(hint)));
                    }
                    let count_as = match kind {
                        Kind::Success | Kind::RateLimited => CountAs::Nothing,
                        Kind::RequestFault => rules.faults,
                        _ => CountAs::Failure,
                    };
                    let heard = hint.filter(|_| count_as == CountAs::Failure);
                    let heard = heard.filter(|_| right.0 == Right::Counted);
                    let wish = heard.map_or(0, |it| at + it.min(MAX_HINT));
                    let late = match model.now {
                        Now::Open { until } if right.1 + 1 == model.spell => until < wish,
                        _ => false,
                    };
                    if right.1 == model.spell {
                        model.hinted = model.hinted.max(wish);
                    }
                    let good = kind == Kind::Success
                        || (kind == Kind::RequestFault && rules.faults == CountAs::Success);
                    let asked = if good { 0 } else { model.hinted };
                    let wanted = model.settle(right, kind, at - begun, at);
                    let change = permit.record(verdict, now, &rng);
                    prop_assert_eq!(
                        change.map(|it| (it.from, it.to, it.why)),
                        wanted.map(|it| (it.0, it.1, it.2))
                    );
                    if let Some((_, State::Open, _, own)) = wanted {
                        let length = change.and_then(|it| it.retry_after).expect("opened");
                        let own_hint = at + hint.unwrap_or(0).min(MAX_HINT);
                        model.opened_for(&breaker, asked.max(own_hint), own, length, (now, at), &rng)?;
                    } else if late {
                        let left = breaker.snapshot(now).retry_after.expect("open");
                        let own = FIRST.max(LONGEST);
                        prop_assert!(t0 + ms(wish) <= now + left);
                        prop_assert!(now + left <= t0 + ms(wish + own));
                        model.rounded(&breaker, left, (now, at), &rng)?;
                    }
                }
                Step::Drop(which) => {
                    if !held.is_empty() {
                        let gone = held.swap_remove(which % held.len());
                        model.abandon(gone.right, gone.begun);
                    }
                }
                Step::Set(mode) => {
                    let before = (model.state(), model.mode);
                    model.set_mode(mode, at);
                    let change = match mode {
                        Mode::Disabled => breaker.disable(now),
                        Mode::ForcedClosed => breaker.force_closed(now),
                        Mode::ForcedOpen => breaker.force_open(now),
                        Mode::WatchOnly => breaker.watch_only(now),
                        _ => breaker.automatic(now),
                    };
                    let wanted = (before != (model.state(), mode))
                        .then_some((before.0, model.state(), Why::Manual(mode)));
                    prop_assert_eq!(change.map(|it| (it.from, it.to, it.why)), wanted);
                }
            }
            model.agrees(&breaker.snapshot(t0 + ms(at)), at)?;
        }
    }
}

// ---- Both sides of each edge. ----

/// On a clock that is set by hand the same has to happen each time, whatever other breakers there are.
#[test]
fn it_makes_no_difference_when_a_breaker_begins() {
    let (rng, begun) = (Rng::seeded(1), Instant::now());
    let counts = |later: u64| -> Vec<u64> {
        let breaker = Breaker::new();
        let step = |number: u64| {
            let now = begun + ms(later + number * 100);
            let permit = breaker.try_acquire(now, &rng).expect("closed");
            let _ = permit.record(Verdict::success(), now, &rng);
            breaker.snapshot(now).calls
        };
        (0..250).map(step).collect()
    };
    let first = counts(0);
    assert!(first.iter().max() <= Some(&100));
    for later in [1, 137, 999, 5_500, 86_400_001] {
        assert_eq!(counts(later), first, "{later} ms later");
    }
}

#[test]
fn five_in_a_row_open_it_and_four_do_not() {
    let (breaker, rng, now) = (Breaker::new(), Rng::seeded(1), Instant::now());
    for _ in 0..4 {
        assert!(tell(&breaker, Kind::Transient, now).is_none());
    }
    tell(&breaker, Kind::Success, now);
    for _ in 0..4 {
        assert!(tell(&breaker, Kind::Transient, now).is_none());
    }
    assert!(breaker.try_acquire(now, &rng).is_ok());
    let change = tell(&breaker, Kind::Transient, now).expect("the fifth");
    assert_eq!(
        (change.to, change.why),
        (State::Open, Why::ConsecutiveFailures)
    );
    assert!(breaker.try_acquire(now, &rng).is_err());
}

#[test]
fn half_of_twenty_open_it_and_half_of_nineteen_do_not() {
    let now = Instant::now();
    let breaker = Breaker::new().consecutive_failures(None);
    for _ in 0..9 {
        tell(&breaker, Kind::Success, now);
        assert!(tell(&breaker, Kind::Overloaded, now).is_none());
    }
    assert!(tell(&breaker, Kind::Overloaded, now).is_none(), "nineteen");
    tell(&breaker, Kind::Success, now);
    tell(&breaker, Kind::Success, now);
    // 10 of 21, then 11 of 22.
    let change = tell(&breaker, Kind::TargetFault, now).expect("half");
    assert_eq!(change.why, Why::FailureRatio);
}

#[test]
fn the_first_cooldown_is_a_second_give_or_take_a_half_and_later_ones_at_most_five() {
    let rng = Rng::seeded(5);
    for _ in 0..200 {
        let (breaker, mut now) = (Breaker::new(), Instant::now());
        let mut change = trip(&breaker, now, &rng);
        for (low, high) in [
            (500, 1500),
            (1000, 3000),
            (2000, 5000),
            (2500, 5000),
            (2500, 5000),
        ] {
            let length = change.retry_after.expect("opened");
            assert!(ms(low) <= length && length <= ms(high), "{length:?}");
            now += length;
            assert!(
                breaker
                    .try_acquire(
                        now.checked_sub(Duration::from_nanos(1))
                            .expect("a moment before"),
                        &rng
                    )
                    .is_err()
            );
            let probe = breaker.try_acquire(now, &rng).expect("its time is over");
            change = probe
                .record(Verdict::transient(), now, &rng)
                .expect("reopened");
        }
    }
}

#[test]
fn the_cooldown_begins_anew_after_just_so_much_health() {
    const NANO: Duration = Duration::from_nanos(1);
    for (health, cooldown) in [
        (ms(60_000).saturating_sub(NANO), ms(2_000)),
        (ms(60_000), ms(1_000)),
    ] {
        let (rng, begun) = (Rng::seeded(1), Instant::now());
        let breaker = Breaker::new()
            .cooldown(
                Backoff::exponential(ms(1_000))
                    .max_delay(ms(8_000))
                    .jitter(Jitter::None),
            )
            .forget_after(ms(60_000))
            .ramp(Duration::ZERO);
        trip(&breaker, begun, &rng);
        let closed = begun + ms(1_000);
        let probe = breaker.try_acquire(closed, &rng).unwrap();
        assert_eq!(
            probe.record(Verdict::success(), closed, &rng).unwrap().to,
            State::Closed
        );
        let change = trip(&breaker, closed + health, &rng);
        assert_eq!(change.retry_after, Some(cooldown));
    }
}

#[test]
fn a_probe_that_never_returns_reopens_it_when_another_needs_its_place() {
    let breaker = Breaker::new().probe_timeout(ms(300)).cooldown(
        Backoff::exponential(ms(100))
            .max_delay(ms(1_000))
            .jitter(Jitter::None),
    );
    let (rng, now) = (Rng::seeded(1), Instant::now());
    let mut now = now + trip(&breaker, now, &rng).retry_after.unwrap();
    for length in [200, 400, 800, 1_000] {
        let lost = breaker.try_acquire(now, &rng).expect("a probe");
        let refused = breaker.try_acquire(now + ms(299), &rng).unwrap_err();
        assert_eq!(refused.retry_at(), Some(now + ms(300)), "at the latest");
        assert_eq!(refused.change(), None);
        now += ms(300);
        let refused = breaker.try_acquire(now, &rng).unwrap_err();
        let change = refused.change().expect("reopened");
        assert_eq!((change.from, change.to), (State::HalfOpen, State::Open));
        assert_eq!(
            (change.why, change.retry_after),
            (Why::ProbeFailed, Some(ms(length)))
        );
        assert_eq!(refused.retry_at(), Some(now + ms(length)));
        assert!(
            lost.record(Verdict::success(), now, &rng).is_none(),
            "too late"
        );
        now += ms(length);
    }
}

#[test]
fn an_answer_however_late_counts_while_nobody_has_its_place() {
    for (verdict, state) in [
        (Verdict::success(), State::Closed),
        (Verdict::transient(), State::Open),
    ] {
        let (breaker, rng, now) = (Breaker::new(), Rng::seeded(1), Instant::now());
        let now = now + trip(&breaker, now, &rng).retry_after.unwrap();
        let probe = breaker.try_acquire(now, &rng).expect("a probe");
        let change = probe.record(verdict, now + ms(12_000), &rng);
        assert_eq!(change.map(|it| it.to), Some(state));
    }
}

#[test]
fn what_any_of_the_failures_asked_for_is_heeded_unless_a_success_came_since() {
    for (success, most) in [(false, 61_500), (true, 1_500)] {
        let (breaker, rng, now) = (Breaker::new(), Rng::seeded(1), Instant::now());
        let slow_down = Verdict::new(Kind::Overloaded).hint(Hint::After(ms(60_000)));
        let permit = breaker.try_acquire(now, &rng).unwrap();
        permit.record(slow_down, now, &rng);
        if success {
            tell(&breaker, Kind::Success, now);
        }
        let length = trip(&breaker, now, &rng).retry_after.unwrap();
        assert_eq!(length >= ms(60_000), !success);
        assert!(length <= ms(most));
    }
}

#[test]
fn a_late_answer_that_asks_for_more_quiet_puts_the_end_off() {
    let (rng, now) = (Rng::seeded(1), Instant::now());
    let breaker = Breaker::new().max_hint(ms(60_000));
    let late = breaker.try_acquire(now, &rng).unwrap();
    trip(&breaker, now, &rng);
    let slow_down = Verdict::new(Kind::Overloaded).hint(Hint::After(ms(90_000)));
    assert_eq!(late.record(slow_down, now, &rng), None);
    let left = breaker.snapshot(now).retry_after.unwrap();
    assert!(ms(60_000) <= left && left <= ms(61_500), "{left:?}");
}

#[test]
fn every_change_of_the_mode_is_told() {
    let (breaker, now) = (Breaker::new(), Instant::now());
    assert_eq!(breaker.automatic(now), None, "it was that before");
    let told =
        |change: Option<evenkeel::breaker::Change>| change.map(|it| (it.from, it.to, it.why));
    let closed = |mode| Some((State::Closed, State::Closed, Why::Manual(mode)));
    assert_eq!(told(breaker.disable(now)), closed(Mode::Disabled));
    assert_eq!(told(breaker.watch_only(now)), closed(Mode::WatchOnly));
    assert_eq!(told(breaker.automatic(now)), closed(Mode::Automatic));
}

#[test]
fn a_restored_breaker_is_open_for_an_hour_at_most() {
    let (breaker, rng, now) = (Breaker::new(), Rng::seeded(1), Instant::now());
    let mut saved = Snapshot::default();
    saved.state = State::Open;
    saved.retry_after = Some(Duration::MAX);
    let change = breaker.restore(&saved, now, &rng).expect("opened");
    assert_eq!(change.retry_after, Some(ms(3_600_000)));
    assert!(breaker.try_acquire(now + ms(3_600_000), &rng).is_ok());
}

#[test]
fn a_first_moment_that_lies_ahead_does_not_stop_its_time() {
    let (breaker, rng, now) = (Breaker::new(), Rng::seeded(1), Instant::now());
    let _ = breaker.snapshot(now + ms(DAY));
    let open = trip(&breaker, now, &rng).retry_after.unwrap();
    assert!(breaker.try_acquire(now + open, &rng).is_ok());
}

#[test]
fn a_breaker_is_idle_only_when_it_is_forgotten_that_it_was_open() {
    let (rng, now) = (Rng::seeded(1), Instant::now());
    let breaker = Breaker::new();
    assert!(breaker.is_idle(now));
    let other = breaker.clone();
    assert!(!breaker.is_idle(now), "somebody holds it");
    drop(other);
    breaker.watch_only(now);
    assert!(!breaker.is_idle(now + ms(DAY)), "somebody set its mode");
    breaker.automatic(now);
    let until = now + trip(&breaker, now, &rng).retry_after.unwrap();
    assert!(!breaker.is_idle(now) && !breaker.is_idle(until + ms(59_999)));
    // One that nobody asks any more must not stay for ever.
    assert!(breaker.is_idle(until + ms(60_000)));
    let probe = breaker.try_acquire(until, &rng).unwrap();
    assert!(!breaker.is_idle(until), "half-open");
    probe
        .record(Verdict::success(), until, &rng)
        .expect("closed");
    assert!(!breaker.is_idle(until + ms(59_999)));
    assert!(breaker.is_idle(until + ms(60_000)));
}

#[test]
fn results_of_an_earlier_cycle_never_decide() {
    let (breaker, rng, now) = (
        Breaker::new().ramp(Duration::ZERO),
        Rng::seeded(1),
        Instant::now(),
    );
    let early: Vec<_> = (0..20)
        .map(|_| breaker.try_acquire(now, &rng).unwrap())
        .collect();
    let now = now + trip(&breaker, now, &rng).retry_after.unwrap();
    let probe = breaker.try_acquire(now, &rng).unwrap();
    probe.record(Verdict::success(), now, &rng).expect("closed");
    for late in early {
        assert!(late.record(Verdict::transient(), now, &rng).is_none());
    }
    let snapshot = breaker.snapshot(now);
    assert_eq!((snapshot.state, snapshot.calls), (State::Closed, 0));
    assert_eq!(snapshot.consecutive_failures, 0);
}

#[test]
fn rate_limits_never_open_it_and_fail_a_probe() {
    let (breaker, rng, now) = (Breaker::new(), Rng::seeded(1), Instant::now());
    for _ in 0..100 {
        assert!(tell(&breaker, Kind::RateLimited, now).is_none());
    }
    let now = now + trip(&breaker, now, &rng).retry_after.unwrap();
    let probe = breaker.try_acquire(now, &rng).unwrap();
    let change = probe.record(Verdict::new(Kind::RateLimited), now, &rng);
    assert_eq!(change.unwrap().to, State::Open);
}

#[test]
fn a_servers_hint_is_a_lower_bound_spread_and_capped() {
    let (rng, now) = (Rng::seeded(3), Instant::now());
    let opened = |hint| {
        let breaker = Breaker::new().consecutive_failures(1).max_hint(ms(60_000));
        let permit = breaker.try_acquire(now, &rng).unwrap();
        let verdict = Verdict::new(Kind::Overloaded).hint(Hint::After(hint));
        permit
            .record(verdict, now, &rng)
            .unwrap()
            .retry_after
            .unwrap()
    };
    let mut lengths: Vec<_> = (0..100).map(|_| opened(ms(30_000))).collect();
    assert!(
        lengths
            .iter()
            .all(|it| (ms(30_000)..=ms(31_500)).contains(it))
    );
    lengths.sort();
    lengths.dedup();
    assert!(lengths.len() > 90, "not all at once");
    assert!(opened(Duration::MAX) <= ms(61_500) && opened(Duration::MAX) >= ms(60_000));
    assert!(opened(Duration::ZERO) >= ms(500));
}

#[test]
fn the_ramp_lets_a_growing_share_through_and_says_when_the_others_may_come() {
    let (breaker, rng, now) = (
        Breaker::new().ramp(ms(1000)),
        Rng::seeded(1),
        Instant::now(),
    );
    let now = now + trip(&breaker, now, &rng).retry_after.unwrap();
    let probe = breaker.try_acquire(now, &rng).unwrap();
    probe.record(Verdict::success(), now, &rng).expect("closed");
    for (after, wanted) in [(0, 10), (250, 32), (500, 55), (999, 100), (1000, 100)] {
        let at = now + ms(after);
        let mut through = 0;
        for _ in 0..2000 {
            match breaker.try_acquire(at, &rng) {
                Ok(_) => through += 1,
                Err(refused) => {
                    let retry_at = refused.retry_at().unwrap();
                    assert!(at < retry_at && retry_at <= now + ms(1000));
                }
            }
        }
        let percent = through * 100 / 2000;
        assert!(
            (wanted - 4..=wanted + 4).contains(&percent),
            "{percent} % after {after} ms"
        );
    }
    assert_eq!(breaker.snapshot(now + ms(1000)).ramp_left, None);
}

#[test]
fn dropped_calls_that_count_as_failures_open_it_for_the_next_who_asks() {
    let (rng, now) = (Rng::seeded(1), Instant::now());
    let breaker = Breaker::new().cancelled(CountAs::Failure);
    let held: Vec<_> = (0..5)
        .map(|_| breaker.try_acquire(now, &rng).unwrap())
        .collect();
    for (gone, permit) in held.into_iter().enumerate() {
        assert!(
            gone == 4
                || breaker.try_acquire(now, &rng).is_ok_and(|it| it
                    .record(Verdict::new(Kind::RateLimited), now, &rng)
                    .is_none())
        );
        drop(permit);
    }
    let refused = breaker.try_acquire(now, &rng).unwrap_err();
    let change = refused.change().expect("opened");
    assert_eq!(
        (change.from, change.to, change.why),
        (State::Closed, State::Open, Why::ConsecutiveFailures)
    );
    assert_eq!(refused.retry_at(), Some(now + change.retry_after.unwrap()));
    assert_eq!(
        breaker.try_acquire(now, &rng).unwrap_err().change(),
        None,
        "told once"
    );
}

#[test]
fn a_snapshot_carries_state_and_open_time_to_another_process() {
    let (breaker, rng, now) = (Breaker::new(), Rng::seeded(1), Instant::now());
    trip(&breaker, now, &rng);
    let saved = breaker.snapshot(now + ms(100));
    let elsewhere = now + ms(1_000_000);
    let other = Breaker::new();
    let change = other.restore(&saved, elsewhere, &rng).expect("opened");
    assert_eq!(
        (change.to, change.retry_after),
        (State::Open, saved.retry_after)
    );
    let back = other.snapshot(elsewhere);
    assert_eq!(
        (back.trips, back.trips_in_row, back.retry_after),
        (1, 1, saved.retry_after)
    );
    let until = elsewhere + saved.retry_after.unwrap();
    assert!(
        other
            .try_acquire(until.checked_sub(ms(1)).expect("a moment before"), &rng)
            .is_err()
    );
    let probe = other.try_acquire(until, &rng).expect("half-open");
    // The cooldown has grown by the trip before.
    let change = probe.record(Verdict::transient(), until, &rng).unwrap();
    assert!(change.retry_after.unwrap() >= ms(1000));
}

#[test]
fn every_wrong_setting_is_named() {
    let half = Ratio::percent(50);
    let wrong = [
        (Breaker::new().min_calls(0), "breaker.min_calls"),
        (
            Breaker::new().consecutive_failures(0),
            "breaker.consecutive_failures",
        ),
        (Breaker::new().probes(0), "breaker.probes"),
        (Breaker::new().close_after(0), "breaker.close_after"),
        (Breaker::new().reopen_after(0), "breaker.reopen_after"),
        (
            Breaker::new().probe_timeout(Duration::ZERO),
            "breaker.probe_timeout",
        ),
        (Breaker::new().window(Duration::ZERO), "breaker.window"),
        (Breaker::new().window_of_calls(0), "breaker.window_of_calls"),
        (
            Breaker::new().window_of_calls(65_537),
            "breaker.window_of_calls",
        ),
        (Breaker::new().window_of_calls(19), "breaker.min_calls"),
        (
            Breaker::new().failure_ratio(Ratio::percent(0)),
            "breaker.failure_ratio",
        ),
        (
            Breaker::new().failure_ratio(Ratio::percent(101)),
            "breaker.failure_ratio",
        ),
        (
            Breaker::new().slow_calls(ms(1), Ratio::percent(0)),
            "breaker.slow_calls",
        ),
        (
            Breaker::new().cooldown(Backoff::exponential(ms(2)).max_delay(ms(1))),
            "backoff.max_delay",
        ),
        (
            Breaker::new().cooldown(Backoff::custom(|| std::iter::repeat(ms(1)))),
            "breaker.cooldown",
        ),
    ];
    for (breaker, field) in wrong {
        assert_eq!(breaker.check().unwrap_err().field(), field);
        // Wrong ones do no harm either.
        for _ in 0..50 {
            tell(&breaker, Kind::Transient, Instant::now());
        }
    }
    assert!(Breaker::new().check().is_ok());
    let right = Breaker::new().window_of_calls(20).slow_calls(ms(1), half);
    assert!(right.check().is_ok());
}

#[test]
fn no_length_of_time_overflows() {
    let (rng, now) = (Rng::seeded(1), Instant::now());
    let breaker = Breaker::new()
        .window(Duration::MAX)
        .cooldown(Backoff::constant(Duration::MAX))
        .probe_timeout(Duration::MAX)
        .ramp(Duration::MAX)
        .max_hint(Duration::MAX)
        .forget_after(Duration::MAX);
    let change = trip(&breaker, now, &rng);
    assert!(change.retry_after.is_some());
    assert!(breaker.try_acquire(now, &rng).unwrap_err().retry_at() > Some(now));
    let mut saved = breaker.snapshot(now);
    saved.retry_after = Some(Duration::MAX);
    saved.trips_in_row = u32::MAX;
    saved.trips = u32::MAX;
    breaker.restore(&saved, now, &rng);
    assert!(breaker.try_acquire(now, &rng).is_err());
    saved.retry_after = Some(Duration::ZERO);
    breaker.restore(&saved, now, &rng);
    let probe = breaker.try_acquire(now, &rng).unwrap();
    probe.record(Verdict::success(), now, &rng).expect("closed");
    let _ = breaker.try_acquire(now, &rng);
}

// ---- Real threads. ----

const THREADS: usize = 4;

#[test]
fn no_outcome_is_lost_or_counted_twice_on_real_threads() {
    for by_calls in [false, true] {
        let (t0, rng) = (Instant::now(), Rng::default());
        let breaker = Breaker::new().consecutive_failures(None);
        let breaker = if by_calls {
            breaker.window_of_calls(60_000).min_calls(60_000)
        } else {
            breaker.min_calls(u32::MAX)
        };
        let _ = breaker.snapshot(t0);
        let start = Barrier::new(THREADS);
        thread::scope(|scope| {
            for worker in 0..THREADS {
                let (breaker, start, rng) = (&breaker, &start, &rng);
                scope.spawn(move || {
                    start.wait();
                    for round in 0..10_000_u64 {
                        // Through nine buckets together: all come round, none leaves.
                        let now = t0 + ms(round * 9 / 10);
                        let permit = breaker.try_acquire(now, rng).unwrap();
                        let failed = (round + worker as u64) % 10 == 0;
                        let kind = if failed {
                            Kind::Transient
                        } else {
                            Kind::Success
                        };
                        permit.record(Verdict::new(kind), now, rng);
                    }
                });
            }
        });
        let end = breaker.snapshot(t0 + ms(9_000));
        assert_eq!(end.calls, THREADS as u64 * 10_000, "by calls: {by_calls}");
        assert_eq!(end.failures, THREADS as u64 * 1_000);
    }
}

#[test]
fn a_window_of_calls_overtaken_many_times_still_adds_up() {
    let (now, rng) = (Instant::now(), Rng::default());
    let breaker = Breaker::new()
        .consecutive_failures(None)
        .window_of_calls(7)
        .min_calls(7)
        .failure_ratio(Ratio::percent(100))
        .slow_calls(ms(1), Ratio::percent(100));
    thread::scope(|scope| {
        for worker in 0..THREADS {
            let (breaker, rng) = (&breaker, &rng);
            scope.spawn(move || {
                for round in 0..20_000 {
                    let permit = breaker.try_acquire(now, rng);
                    let kind = match (round + worker) % 3 {
                        0 => Kind::Transient,
                        _ => Kind::Success,
                    };
                    if let Ok(permit) = permit {
                        permit.record(Verdict::new(kind), now, rng);
                    }
                }
            });
        }
    });
    if breaker.snapshot(now).state != State::Closed {
        return; // Seven failures at once: unlikely, and no business of this test.
    }
    for left in (0..7).rev() {
        tell(&breaker, Kind::Success, now);
        assert!(breaker.snapshot(now).failures <= left);
    }
    assert_eq!(breaker.snapshot(now).calls, 7);
    for there in 1..7 {
        tell(&breaker, Kind::Transient, now);
        assert_eq!(breaker.snapshot(now).failures, there);
    }
    assert!(tell(&breaker, Kind::Transient, now).is_some());
}

#[test]
fn at_most_n_probes_are_out_at_every_instant_on_real_threads() {
    const PROBES: u32 = 3;
    let (t0, rng) = (Instant::now(), Rng::default());
    let breaker = Breaker::new()
        .probes(PROBES)
        .close_after(2)
        .ramp(Duration::ZERO)
        .consecutive_failures(3)
        .cooldown(Backoff::constant(ms(1)))
        .probe_timeout(ms(1_000_000));
    let (clock, out) = (AtomicU64::new(0), AtomicU32::new(0));
    let (opened, half, closed) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
    let told = |change: Option<evenkeel::breaker::Change>| match change.map(|it| it.to) {
        Some(State::Open) => opened.fetch_add(1, Ordering::Relaxed),
        Some(State::HalfOpen) => half.fetch_add(1, Ordering::Relaxed),
        Some(State::Closed) => closed.fetch_add(1, Ordering::Relaxed),
        None => 0,
    };
    thread::scope(|scope| {
        for worker in 0..THREADS {
            let (breaker, rng, clock, out, told) = (&breaker, &rng, &clock, &out, &told);
            scope.spawn(move || {
                let mut chance = worker as u64 + 1;
                for _ in 0..20_000 {
                    chance = chance
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    let now = t0 + ms(clock.fetch_add(1, Ordering::Relaxed) / 8);
                    let Ok(permit) = breaker.try_acquire(now, rng) else {
                        continue;
                    };
                    told(permit.change());
                    let is_probe = permit.is_probe();
                    if is_probe {
                        let before = out.fetch_add(1, Ordering::SeqCst);
                        assert!(before < PROBES, "{} probes are out", before + 1);
                        thread::yield_now();
                        // It counts as out until it is told or dropped.
                        out.fetch_sub(1, Ordering::SeqCst);
                    }
                    match chance >> 62 {
                        0 => drop(permit),
                        1 => drop(told(permit.record(Verdict::success(), now, rng))),
                        _ => drop(told(permit.record(Verdict::transient(), now, rng))),
                    }
                }
            });
        }
    });
    let end = breaker.snapshot(t0 + ms(1_000_000_000));
    let (opened, half, closed) = (opened.into_inner(), half.into_inner(), closed.into_inner());
    // Each change was told once: every trip, and a half-open for each but perhaps the last.
    assert_eq!(opened, end.trips);
    assert!(
        opened > 100 && closed > 100,
        "{opened} trips, {closed} ends"
    );
    assert!(half == opened || half + 1 == opened);
    // No place leaked: all of them can be had.
    let at = t0 + ms(2_000_000_000);
    breaker.automatic(at);
    let change = (0..3).find_map(|_| tell(&breaker, Kind::Transient, at));
    let at = at + change.unwrap().retry_after.unwrap();
    let probes: Vec<_> = std::iter::from_fn(|| breaker.try_acquire(at, &rng).ok()).collect();
    assert_eq!(probes.len(), PROBES as usize);
}

#[test]
fn a_trip_is_told_once_however_many_fail_at_once() {
    let (now, rng) = (Instant::now(), Rng::default());
    for _ in 0..300 {
        let breaker = Breaker::new();
        let told = AtomicU32::new(0);
        let start = Barrier::new(THREADS);
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    let held: Vec<_> = (0..5)
                        .map(|_| breaker.try_acquire(now, &rng).unwrap())
                        .collect();
                    start.wait();
                    for permit in held {
                        if permit.record(Verdict::transient(), now, &rng).is_some() {
                            told.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(told.into_inner(), 1);
        assert_eq!(breaker.snapshot(now).trips, 1);
    }
}

#[test]
fn the_handle_is_shared_between_threads() {
    fn check<T: Send + Sync + Clone + 'static>(_: &T) {}
    check(&Breaker::new());
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn tell(breaker: &Breaker, kind: Kind, now: Instant) -> Option<evenkeel::breaker::Change> {
    let rng = Rng::default();
    let permit = breaker.try_acquire(now, &rng).ok()?;
    permit.record(Verdict::new(kind), now, &rng)
}

fn trip(breaker: &Breaker, now: Instant, rng: &Rng) -> evenkeel::breaker::Change {
    let all = std::iter::from_fn(|| Some(breaker.try_acquire(now, rng).expect("closed")));
    let mut ended = all.map(|permit| permit.record(Verdict::transient(), now, rng));
    ended.find_map(|change| change).expect("opened")
}
