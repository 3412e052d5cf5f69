//! Adaptive throttling: the book's law, its floor, and the way back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use evenkeel::Rng;
use evenkeel::budget::Ratio;
use evenkeel::keyed::PerKey;
use evenkeel::rng::Draws;
use evenkeel::throttle::{Change, Priority, Throttle};
use evenkeel::verdict::Kind;

const WINDOW: Duration = Duration::from_secs(10);
/// The draws that are shed first and last.
const FIRST: u64 = 0;
const LAST: u64 = u64::MAX;

#[test]
fn a_service_that_accepts_half_gets_everything_and_below_that_is_shed_in_proportion() {
    for (accepted, refused, shed) in [(50, 50, 0.0), (25, 75, 50.0 / 101.0), (0, 100, 0.9)] {
        let now = Instant::now();
        let throttle = Throttle::new();
        told(&throttle, accepted, Kind::Success, now);
        told(&throttle, refused, Kind::Overloaded, now);
        let snapshot = throttle.snapshot(now);
        assert_eq!((snapshot.requests, snapshot.accepts), (100, accepted));
        assert!((snapshot.shed.normal - shed).abs() < 1e-12, "{snapshot:?}");
        assert_eq!(goes(&throttle, Priority::Normal, now, FIRST), shed == 0.0);
    }
}

#[test]
fn sheddable_calls_are_shed_from_a_third_refused_and_critical_ones_from_two_thirds() {
    use Priority::{Critical, Normal, Sheddable};
    for (refused, going) in [
        (100, vec![Sheddable, Normal, Critical]),
        (101, vec![Normal, Critical]),
        (200, vec![Normal, Critical]),
        (201, vec![Critical]),
        (400, vec![Critical]),
        (401, vec![]),
    ] {
        let now = Instant::now();
        for priority in [Sheddable, Normal, Critical] {
            let throttle = Throttle::new();
            told(&throttle, 200, Kind::Success, now);
            told(&throttle, refused, Kind::RateLimited, now);
            let goes = goes(&throttle, priority, now, FIRST);
            assert_eq!(goes, going.contains(&priority), "{priority:?} at {refused}");
        }
    }
}

#[test]
fn only_what_the_service_took_counts_as_accepted() {
    let now = Instant::now();
    for (kind, accepted) in [
        (Kind::Success, 1),
        (Kind::RequestFault, 1),
        (Kind::TargetFault, 1),
        (Kind::Overloaded, 0),
        (Kind::RateLimited, 0),
        (Kind::Transient, 0),
    ] {
        let throttle = Throttle::new();
        told(&throttle, 1, kind, now);
        let snapshot = throttle.snapshot(now);
        assert_eq!((snapshot.requests, snapshot.accepts), (1, accepted));
    }
}

#[test]
fn what_is_shed_counts_as_a_request_and_what_is_dropped_as_nothing() {
    let (throttle, now) = (Throttle::new(), Instant::now());
    told(&throttle, 5, Kind::Overloaded, now);
    for _ in 0..7 {
        assert!(!goes(&throttle, Priority::Normal, now, FIRST));
        let permit = throttle.try_acquire(Priority::Normal, now, || LAST);
        drop(permit.expect("the last draw is in the floor"));
    }
    let snapshot = throttle.snapshot(now);
    assert_eq!((snapshot.requests, snapshot.accepts), (12, 0));
}

#[test]
fn a_healthy_service_costs_no_draw() {
    let (throttle, now) = (Throttle::new(), Instant::now());
    told(&throttle, 1_000, Kind::Success, now);
    told(&throttle, 200, Kind::Transient, now);
    let permit = throttle.try_acquire(Priority::Normal, now, || unreachable!("nothing to decide"));
    assert!(permit.is_ok());
}

#[test]
fn one_failed_call_and_its_retries_are_never_shed() {
    let (throttle, now) = (Throttle::new(), Instant::now());
    for attempt in 1..=4 {
        let goes = throttle.try_acquire(Priority::Sheddable, now, || FIRST);
        assert_eq!(goes.is_ok(), attempt <= 3, "attempt {attempt}");
        if let Ok(permit) = goes {
            permit.record(Kind::Transient, now);
        }
    }
}

#[test]
fn in_a_total_outage_the_floor_goes_of_every_priority_and_no_more() {
    for percent in [0, 5, 10, 50] {
        for priority in [Priority::Sheddable, Priority::Normal, Priority::Critical] {
            let (throttle, mut now) = (
                Throttle::new().floor(Ratio::percent(percent)),
                Instant::now(),
            );
            let mut draws = Rng::seeded(u64::from(percent)).draws();
            let (mut sent, calls) = (0, 20_000_u32);
            for call in 0..calls {
                now += Duration::from_millis(10);
                let (low, high) = draw_around(100 - u64::from(percent));
                let settled = call > 1_000;
                if let Ok(permit) = throttle.try_acquire(priority, now, || draws.next_u64()) {
                    permit.record(Kind::Overloaded, now);
                    sent += u32::from(settled);
                }
                if settled && percent > 0 {
                    // The same on every call, to the last draw.
                    assert!(!goes(&throttle, priority, now, low));
                    assert!(goes(&throttle, priority, now, high));
                }
            }
            let share = f64::from(sent) / f64::from(calls - 1_000);
            let floor = f64::from(percent) / 100.0;
            // A window holds a thousand calls: by the book one of them goes.
            assert!(share > floor - 0.01 && share < floor + 0.012, "{share}");
        }
    }
}

#[test]
fn all_calls_go_again_twenty_seconds_after_an_outage_and_forty_for_a_quiet_client() {
    for (rate, recovery) in [(1, 40), (7, 20), (100, 20), (1_000, 20)] {
        for outage in [5, 30, 600] {
            let mut client = Client::new(Throttle::new(), rate);
            let before = client.run(20, true);
            assert_eq!(before.sent, before.calls);
            let during = client.run(outage, false);
            // Eight in ten at first, while the window remembers better times.
            let most = during.calls / 8 + 9 * u64::from(rate) + 20;
            assert!(during.sent >= during.calls / 20, "{during:?}");
            assert!(during.sent <= most, "{during:?} of {most}");
            let _ = client.run(recovery, true);
            let after = client.run(10, true);
            assert!(after.sent * 100 >= after.calls * 95, "{rate}/s: {after:?}");
        }
    }
}

#[test]
fn an_overloaded_service_gets_about_twice_what_it_accepts() {
    let (throttle, mut now) = (Throttle::new(), Instant::now());
    let mut draws = Rng::seeded(3).draws();
    let (mut sent, mut accepted) = (0_u32, 0_u32);
    // It takes ten a second and is asked for a hundred.
    for call in 0..10_000 {
        now += Duration::from_millis(10);
        if let Ok(permit) = throttle.try_acquire(Priority::Normal, now, || draws.next_u64()) {
            // Its answers are spread evenly over what it gets.
            let room = accepted < call / 10;
            sent += 1;
            accepted += u32::from(room);
            let kind = if room {
                Kind::Success
            } else {
                Kind::Overloaded
            };
            permit.record(kind, now);
        }
    }
    assert!(accepted >= 990, "{accepted}");
    let ratio = f64::from(sent) / f64::from(accepted);
    assert!((1.8..2.3).contains(&ratio), "{ratio}");
}

#[test]
fn a_shed_call_may_come_back_when_the_oldest_evidence_is_forgotten() {
    let (throttle, now) = (Throttle::new(), Instant::now());
    told(&throttle, 3, Kind::Overloaded, now);
    let refused = throttle.try_acquire(Priority::Normal, now, || FIRST);
    let retry_at = refused.expect_err("shed").retry_at().expect("known");
    assert_eq!(retry_at, now + WINDOW);
    let just_before = now + Duration::from_nanos(9_999_999_999);
    assert_eq!(throttle.snapshot(just_before).requests, 4);
    assert!(goes(&throttle, Priority::Normal, retry_at, FIRST));
}

#[test]
fn shedding_is_told_when_it_begins_and_when_it_has_ended() {
    let (throttle, now) = (Throttle::new(), Instant::now());
    told(&throttle, 10, Kind::Success, now);
    let tell = |kind| {
        let permit = throttle.try_acquire(Priority::Normal, now, || LAST);
        permit.expect("the floor").record(kind, now)
    };
    let mut changes = Vec::new();
    for _ in 0..20 {
        changes.extend(tell(Kind::Overloaded));
    }
    // (23 - 20) / 24 is the first to reach a tenth.
    let (requests, accepts) = (23, 10);
    assert_eq!(changes, [Change::Began { requests, accepts }]);
    for _ in 0..20 {
        changes.extend(tell(Kind::Success));
    }
    assert_eq!(changes[1..], [Change::Ended]);
}

#[test]
fn settings_that_make_no_sense_are_named() {
    let field = |throttle: Throttle| throttle.check().map_err(|error| error.field());
    assert_eq!(field(Throttle::new()), Ok(()));
    for (k, checked) in [(99, Err("throttle.multiplier")), (100, Ok(()))] {
        assert_eq!(
            field(Throttle::new().multiplier(Ratio::percent(k))),
            checked
        );
    }
    for (share, checked) in [(101, Err("throttle.floor")), (100, Ok(()))] {
        assert_eq!(field(Throttle::new().floor(Ratio::percent(share))), checked);
    }
    assert_eq!(
        field(Throttle::new().window(Duration::ZERO)),
        Err("throttle.window")
    );
}

#[test]
fn a_fresh_one_has_the_settings_and_none_of_the_counts() {
    let (throttle, now) = (Throttle::new().least(5), Instant::now());
    told(&throttle, 9, Kind::Overloaded, now);
    let fresh = throttle.fresh();
    told(&fresh, 4, Kind::Overloaded, now);
    assert!(goes(&fresh, Priority::Normal, now, FIRST));
    told(&fresh, 1, Kind::Overloaded, now);
    assert!(!goes(&fresh, Priority::Normal, now, FIRST));
    assert_eq!(throttle.snapshot(now).requests, 9);
}

#[test]
fn no_call_is_lost_or_counted_twice_on_real_threads() {
    let (throttle, now) = (Throttle::new(), Instant::now());
    let (requests, accepts) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for worker in 0..4_u64 {
            let (throttle, requests, accepts) = (throttle.clone(), &requests, &accepts);
            scope.spawn(move || {
                let mut draws = Rng::seeded(worker).draws();
                for call in 0..20_000 {
                    let permit = throttle.try_acquire(Priority::Normal, now, || draws.next_u64());
                    let accepted = call % 4 == 0;
                    match permit {
                        Ok(permit) if call % 5 == 0 => {
                            drop(permit);
                            continue;
                        }
                        Ok(permit) if accepted => {
                            permit.record(Kind::Success, now);
                            accepts.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(permit) => {
                            permit.record(Kind::Overloaded, now);
                        }
                        Err(_) => {}
                    }
                    requests.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let snapshot = throttle.snapshot(now);
    assert_eq!(snapshot.requests, requests.into_inner());
    assert_eq!(snapshot.accepts, accepts.into_inner());
}

/// A client with evenly spaced calls.
struct Client {
    throttle: Throttle,
    gap: Duration,
    now: Instant,
    draws: Draws,
}

#[derive(Debug)]
struct Stretch {
    calls: u64,
    sent: u64,
}

impl Client {
    fn new(throttle: Throttle, rate: u32) -> Self {
        Self {
            throttle,
            gap: Duration::from_secs(1) / rate,
            now: Instant::now(),
            draws: Rng::seeded(u64::from(rate)).draws(),
        }
    }

    fn run(&mut self, seconds: u64, healthy: bool) -> Stretch {
        let end = self.now + Duration::from_secs(seconds);
        let kind = if healthy {
            Kind::Success
        } else {
            Kind::Overloaded
        };
        let (mut calls, mut sent) = (0, 0);
        while self.now < end {
            self.now += self.gap;
            calls += 1;
            let draw = || self.draws.next_u64();
            if let Ok(permit) = self.throttle.try_acquire(Priority::Normal, self.now, draw) {
                permit.record(kind, self.now);
                sent += 1;
            }
        }
        Stretch { calls, sent }
    }
}

/// Tells it of so many calls that ended like this.
fn told(throttle: &Throttle, calls: u64, kind: Kind, now: Instant) {
    let permits: Vec<_> = (0..calls)
        .map(|_| throttle.try_acquire(Priority::Critical, now, || LAST))
        .collect();
    for permit in permits {
        permit.expect("the last draw goes").record(kind, now);
    }
}

/// Whether a call with this draw goes. If so, it is dropped.
fn goes(throttle: &Throttle, priority: Priority, now: Instant, draw: u64) -> bool {
    throttle.try_acquire(priority, now, || draw).is_ok()
}

/// The last draw below so many hundredths, and the first at them.
fn draw_around(hundredths: u64) -> (u64, u64) {
    let edge = ((u128::from(hundredths) << 64).div_ceil(100)).min(u128::from(u64::MAX));
    let edge = u64::try_from(edge).expect("at most the last draw");
    (edge - 1, edge)
}
