//! Active checks: sent where they are needed, and nowhere else.
#![cfg(feature = "testing")]

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use evenkeel::backoff::{Backoff, Jitter};
use evenkeel::breaker::State;
use evenkeel::budget::Ratio;
use evenkeel::check::{Check, Checks};
use evenkeel::clock::Why;
use evenkeel::diagnosis::{Condition, Health};
use evenkeel::event::{Change, End};
use evenkeel::incident::Recorder;
use evenkeel::limit::Order;
use evenkeel::pipeline::Closure;
use evenkeel::testing::{Executor, ManualClock, Task};
use evenkeel::verdict::{By, Hint, Kind, Verdict, by};
use evenkeel::{
    Attempt, Breaker, Budget, Bulkhead, Endpoints, Event, Key, Keyed, Pipeline, RateLimit, Retry,
    Rng, Throttle, Window,
};
use proptest::prelude::*;

const KEY: &str = "a";

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

// When it goes.

#[test]
fn a_service_that_is_well_is_not_checked_and_hardly_looked_at() {
    let world = World::new();
    let pipeline = world.guarded(Breaker::new());
    let _checks = world.check(&pipeline, Check::every(ms(1000)).jitter(Ratio::percent(10)));
    for _ in 0..600 {
        world.call(&pipeline);
        world.run_for(ms(100));
    }
    world.run_for(ms(3_600_000));
    assert_eq!(world.sent(Who::Check), []);
    // Each look after an interval, which is never shorter than it was said to be.
    let looks = world.clock.looks();
    assert!((3_300..=3_660).contains(&looks), "{looks}");
}

#[test]
fn a_service_that_nobody_calls_gets_a_breaker_and_no_more() {
    let world = World::new();
    let breakers = Keyed::new(touchy());
    let windows = Keyed::new(Window::new());
    let pipeline = world
        .pipeline()
        .breaker(breakers.clone())
        .window(windows.clone());
    let _checks = world.check(&pipeline, Check::every(ms(3000)));
    world.run_for(ms(3_600_000));
    assert_eq!((breakers.len(), windows.len()), (1, 0));
    assert_eq!(world.sent(Who::Check), []);
    // So that from the first call on its probes are the check's.
    let pipeline = world.pipeline().breaker(breakers);
    world.trip(&pipeline);
    for _ in 0..110 {
        world.call(&pipeline);
        world.run_for(ms(10));
    }
    assert_eq!(world.sent(Who::Call).len(), 1);
}

#[test]
fn bad_health_is_checked_an_interval_after_the_last_attempt_by_anybody() {
    for seed in 0..40 {
        let world = World::new();
        let health = Health::new();
        let pipeline = world
            .pipeline()
            .rng(Rng::seeded(seed))
            .health(health.clone());
        let check = Check::every(ms(1000)).jitter(Ratio::percent(50));
        let _checks = world.check(&pipeline, check);
        world.run_for(ms(10 + 97 * seed));
        world.fails(Verdict::transient());
        for _ in 0..30 {
            world.call(&pipeline);
            world.run_for(ms(500));
        }
        // Whatever calls say, they say it sooner.
        assert_eq!(world.sent(Who::Check), []);
        let last = *world.sent(Who::Call).last().expect("some were sent");
        world.run_for(ms(6000));
        let checks = world.sent(Who::Check);
        let ended = |sent: Duration| sent + TAKES;
        assert!(checks.len() >= 3, "{checks:?}");
        let mut before = ended(last);
        for at in checks {
            let after = at.checked_sub(before).expect("later");
            assert!(
                after >= ms(1000) && after <= ms(1500),
                "seed {seed}: {after:?}"
            );
            before = ended(at);
        }
        // It ends when the checks have made it well.
        world.answers_well();
        world.run_for(ms(300_000));
        let count = world.sent(Who::Check).len();
        let now = world.clock.now();
        assert_eq!(health.snapshot(now).condition, Condition::Healthy);
        world.run_for(ms(300_000));
        assert_eq!(world.sent(Who::Check).len(), count);
    }
}

#[test]
fn bad_health_that_is_checked_seldom_ends_as_well() {
    let world = World::new();
    let health = Health::new();
    let pipeline = world.pipeline().health(health.clone());
    let _checks = world.check(&pipeline, Check::every(ms(20_000)));
    world.fails(Verdict::transient());
    for _ in 0..20 {
        world.call(&pipeline);
        world.run_for(ms(10));
    }
    world.run_for(ms(200_000));
    let condition = || health.snapshot(world.clock.now()).condition;
    assert_eq!(condition(), Condition::Failing);
    world.answers_well();
    let before = world.sent(Who::Check).len();
    world.run_for(ms(600_000));
    assert_eq!(condition(), Condition::Healthy);
    // The last failure is forgotten after a minute.
    let more = world.sent(Who::Check).len() - before;
    assert!((1..=5).contains(&more), "{more}");
}

#[test]
fn no_wild_hint_keeps_checks_of_bad_health_away_for_longer_than_a_day() {
    let world = World::new();
    let health = Health::new();
    let pipeline = world.pipeline().health(health.clone());
    let _checks = world.check(&pipeline, Check::every(ms(1000)));
    let century = Duration::from_secs(100 * 31_557_600);
    world.fails(Verdict::transient().hint(Hint::After(century)));
    for _ in 0..20 {
        world.call(&pipeline);
        world.run_for(ms(10));
    }
    world.run_for(ms(24 * 3_600_000 - 1000));
    assert_eq!(world.sent(Who::Check), []);
    world.answers_well();
    world.run_for(ms(5000));
    assert!(!world.sent(Who::Check).is_empty());
}

#[test]
fn never_two_at_once_and_the_interval_is_from_end_to_beginning() {
    let world = World::new();
    let breaker = touchy();
    let pipeline = world.guarded(breaker.clone());
    let check = Check::every(ms(300)).jitter(Ratio::percent(0));
    let _checks = world.check(&pipeline, check.timeout(ms(2000)));
    world.trip(&pipeline);
    world.takes(ms(60_000)); // each runs into its timeout
    world.run_for(ms(20_000));
    let checks = world.sent(Who::Check);
    assert!(checks.len() >= 6, "{checks:?}");
    for pair in checks.windows(2) {
        let apart = pair[1].checked_sub(pair[0]).expect("later");
        // The timeout, and the cooldown that begins with it: longer than the interval.
        assert_eq!(apart, ms(2000) + COOLDOWN);
    }
    assert_eq!(world.most_checks.get(), 1);
}

#[test]
fn a_check_ends_by_its_own_timeout_or_the_pipelines_if_that_is_less() {
    for (own, pipelines, expected) in [
        (Some(700), Some(900), 700),
        (Some(900), Some(700), 700),
        (None, Some(700), 700),
        (Some(700), None, 700),
        (None, None, 10_000),
    ] {
        let world = World::new();
        let mut pipeline = world.guarded(touchy());
        if let Some(length) = pipelines {
            pipeline = pipeline.timeout(ms(length));
        }
        let mut check = Check::every(ms(100)).jitter(Ratio::percent(0));
        if let Some(length) = own {
            check = check.timeout(ms(length));
        }
        let _checks = world.check(&pipeline, check);
        world.trip(&pipeline);
        world.takes(ms(60_000));
        world.run_for(ms(100_000));
        let checks = world.sent(Who::Check);
        let apart = checks[1].checked_sub(checks[0]).expect("later");
        assert_eq!(apart, ms(expected) + COOLDOWN, "{own:?}, {pipelines:?}");
    }
}

#[test]
fn settings_that_make_no_sense_are_refused_by_their_name() {
    let pipeline = Pipeline::new();
    let refused = |check| {
        let checks = pipeline.checks(None, check, |_| async { Ok::<_, ()>(()) });
        checks.expect_err("it makes no sense").field()
    };
    assert_eq!(refused(Check::every(Duration::ZERO)), "check.every");
    assert_eq!(
        refused(Check::every(ms(1)).timeout(Duration::ZERO)),
        "check.timeout"
    );
    let least = Check::every(Duration::from_nanos(1)).timeout(Duration::from_nanos(1));
    assert!(least.check().is_ok());
    assert!(Check::every(Duration::MAX).check().is_ok());
}

#[test]
fn the_shortest_interval_keeps_no_thread() {
    let world = World::new();
    let health = Health::new();
    let pipeline = world.pipeline().health(health);
    world.takes(Duration::ZERO);
    world.fails(Verdict::transient());
    for _ in 0..20 {
        world.call(&pipeline);
    }
    world.executor.run_until_idle();
    // A clock that goes on by itself, so that each interval is over when it is looked at.
    let clock = evenkeel::Clock::custom(Hasty(world.clock.clock.clone()));
    let pipeline = pipeline.clock(clock);
    let check = Check::every(Duration::from_nanos(1));
    let mut checks = pin!(world.checks(&pipeline, check));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(checks.as_mut().poll(&mut cx).is_pending());
    let count = world.sent(Who::Check).len();
    assert!((1..=32).contains(&count), "{count} in one poll");
}

// The breaker.

#[test]
fn a_breaker_closes_with_no_users_call_at_risk() {
    for seed in 0..20 {
        let world = World::new();
        let breaker = Breaker::new(); // as it is by default, with its jitter and its ramp
        let pipeline = world
            .guarded(breaker.clone())
            .rng(Rng::seeded(seed))
            .timeout(ms(500));
        let _checks = world.check(&pipeline, Check::every(ms(1000)));
        world.run_for(ms(37 * seed));
        world.fails(Verdict::transient());
        for _ in 0..5 {
            world.call(&pipeline);
            world.run_for(ms(20));
        }
        assert_eq!(breaker.snapshot(world.clock.now()).state, State::Open);
        let before = world.sent(Who::Call).len();
        // Users go on at a hundred a second. The service comes back after a while.
        let mut closed_at = None;
        for step in 0..3_000 {
            if step == 1_000 {
                world.answers_well();
            }
            world.call(&pipeline);
            world.run_for(ms(10));
            let state = breaker.snapshot(world.clock.now()).state;
            if state == State::Closed && closed_at.is_none() {
                closed_at = Some(step);
                assert_eq!(world.sent(Who::Call).len(), before, "seed {seed}: at risk");
                let left = breaker.snapshot(world.clock.now()).ramp_left;
                assert!(left.is_some(), "the ramp stays");
            }
        }
        let closed_at = closed_at.expect("it closes");
        // The longest cooldown and the longest interval, and the check itself.
        assert!(
            closed_at <= 1_000 + 750 + 120 + 3,
            "seed {seed}: {closed_at}"
        );
        let sent = world.sent(Who::Call).len() - before;
        assert!(sent > 300, "and calls go again: {sent}");
    }
}

#[test]
fn where_probes_are_shared_a_call_may_be_first() {
    let world = World::new();
    let breaker = touchy();
    let pipeline = world.guarded(breaker.clone());
    let _checks = world.check(&pipeline, Check::every(ms(60_000)).share_probes());
    world.trip(&pipeline);
    let before = world.sent(Who::Call).len();
    for _ in 0..110 {
        world.call(&pipeline);
        world.run_for(ms(10));
    }
    assert!(world.sent(Who::Call).len() > before);
}

#[test]
fn one_good_check_is_not_enough_where_the_breaker_wants_three() {
    let world = World::new();
    let breaker = touchy().close_after(3).ramp(ms(4000));
    let pipeline = world.guarded(breaker.clone());
    let check = Check::every(ms(1000)).jitter(Ratio::percent(0));
    let _checks = world.check(&pipeline, check);
    world.trip(&pipeline);
    world.answers_well();
    let before = world.sent(Who::Call).len();
    while breaker.snapshot(world.clock.now()).state != State::Closed {
        world.call(&pipeline);
        world.run_for(ms(10));
    }
    assert_eq!(world.sent(Who::Check).len(), 3);
    assert_eq!(world.sent(Who::Call).len(), before);
    assert!(breaker.snapshot(world.clock.now()).ramp_left.is_some());
}

#[test]
fn probes_are_calls_again_at_once_when_the_checks_are_dropped() {
    let world = World::new();
    let breaker = touchy();
    let pipeline = world.guarded(breaker.clone());
    let checks = world.check(&pipeline, Check::every(ms(60_000)));
    world.run_for(ms(1));
    world.trip(&pipeline);
    let before = world.sent(Who::Call).len();
    world.run_for(COOLDOWN);
    world.call(&pipeline);
    world.run_for(ms(1));
    assert_eq!(world.sent(Who::Call).len(), before, "left to the check");
    checks.cancel(&world.executor);
    world.call(&pipeline);
    world.run_for(ms(1));
    assert_eq!(world.sent(Who::Call).len(), before + 1);
}

#[test]
fn checks_that_nobody_polls_any_more_keep_no_breaker_open() {
    let world = World::new();
    let breaker = touchy();
    let pipeline = world.guarded(breaker.clone());
    let check = Check::every(ms(2000)).jitter(Ratio::percent(0));
    let mut checks = pin!(world.checks(&pipeline, check));
    // It looks once, and never again.
    let mut cx = Context::from_waker(Waker::noop());
    assert!(checks.as_mut().poll(&mut cx).is_pending());
    world.trip(&pipeline);
    let before = world.sent(Who::Call).len();
    let tripped = world.clock.elapsed();
    while world.sent(Who::Call).len() == before {
        world.call(&pipeline);
        world.run_for(ms(10));
    }
    let kept = world.clock.elapsed().checked_sub(tripped).expect("later");
    // The next look, and an interval more, which is counted in quarters of a second.
    assert!(kept <= ms(4000 + 300), "{kept:?}");
    assert!(kept > COOLDOWN + ms(1000), "it was kept: {kept:?}");
}

#[test]
fn a_check_that_never_comes_to_the_breaker_leaves_probes_to_calls() {
    let world = World::new();
    let breaker = touchy();
    // A bulkhead that another service fills.
    let bulkhead = Bulkhead::new(1).max_wait(ms(10));
    let held = bulkhead.try_acquire().expect("it is free");
    let pipeline = world.guarded(breaker.clone());
    let check = Check::every(ms(500)).jitter(Ratio::percent(0));
    let _checks = world.check(&pipeline.clone().bulkhead(bulkhead.clone()), check);
    world.trip(&pipeline);
    let before = world.sent(Who::Call).len();
    for _ in 0..400 {
        world.call(&pipeline);
        world.run_for(ms(10));
    }
    assert_eq!(world.sent(Who::Check), []);
    assert!(world.sent(Who::Call).len() > before, "calls are kept out");
    drop(held);
}

#[test]
fn what_keys_beyond_the_capacity_share_is_nobodys_to_reserve() {
    let world = World::new();
    let breakers = Keyed::new(touchy()).capacity(1);
    let _held = breakers.get(Key::of("another"), || world.clock.now());
    let events = Arc::new(Mutex::new(Vec::new()));
    let pipeline = world
        .pipeline()
        .breaker(breakers.clone())
        .observer(listener(&events));
    let _checks = world.check(&pipeline, Check::every(ms(500)));
    world.run_for(ms(10_000));
    let overflows = events.lock().unwrap().len();
    assert_eq!(overflows, 1, "it is told once: {events:?}");
    world.trip(&pipeline);
    let before = world.sent(Who::Call).len();
    for _ in 0..110 {
        world.call(&pipeline);
        world.run_for(ms(10));
    }
    assert!(world.sent(Who::Call).len() > before, "calls are kept out");
}

#[test]
fn what_a_reload_brings_is_looked_at() {
    let world = World::new();
    let pipeline = world.pipeline().reloadable();
    let _checks = world.check(&pipeline, Check::every(ms(1000)));
    world.run_for(ms(5000));
    pipeline
        .reload(&Pipeline::new().breaker(touchy()))
        .expect("it makes sense");
    world.trip(&pipeline);
    world.answers_well();
    world.run_for(ms(2000));
    assert_eq!(world.sent(Who::Check).len(), 1);
}

// The window.

#[test]
fn a_parked_key_wakes_by_a_check_and_not_by_a_call() {
    for order in [Order::FirstIn, Order::NewestFirst] {
        for seed in 0..20 {
            let world = World::new();
            let window = Window::new().order(order);
            let pipeline = world
                .pipeline()
                .rng(Rng::seeded(seed))
                .window(window.clone())
                .timeout(ms(1000));
            let _checks = world.check(&pipeline, Check::every(ms(1000)));
            for _ in 0..50 {
                world.call(&pipeline);
                world.run_for(ms(100));
            }
            // Nothing good of late: the service speaks, not a replica.
            world.run_for(ms(600));
            world.asks_for_quiet(ms(10_000));
            world.call(&pipeline);
            world.run_for(ms(20));
            let quiet = window.snapshot().quiet_until.expect("it is quiet");
            let left = quiet.duration_since(world.clock.now());
            let end = world.clock.elapsed() + left;
            let before = world.sent(Who::Call).len();
            world.answers_well();
            // They stand in line when it ends.
            let calls: Vec<_> = (0..60)
                .map(|_| {
                    let call = world.call(&pipeline);
                    world.run_for(ms(100));
                    call
                })
                .collect();
            assert!(calls.iter().all(|it| !it.is_finished()));
            while world.sent(Who::Check).is_empty() {
                world.run_for(ms(10));
            }
            let sent = world.sent(Who::Check)[0];
            assert!(sent >= end, "sooner than it was asked for");
            assert_eq!(
                world.sent(Who::Call).len(),
                before,
                "{order:?} {seed}: a call was first"
            );
            world.run_for(ms(60_000));
            assert!(calls.iter().all(Task::is_finished), "all woke");
            assert!(window.snapshot().window.is_none(), "it is open");
            let checks = world.sent(Who::Check).len();
            assert!(checks <= 2, "calls tell as much from there on: {checks}");
        }
    }
}

#[test]
fn a_window_that_nobody_waits_for_opens_by_checks() {
    let world = World::new();
    let window = Window::new();
    let pipeline = world.pipeline().window(window.clone()).timeout(ms(1000));
    let _checks = world.check(&pipeline, Check::every(ms(1000)));
    for _ in 0..50 {
        world.call(&pipeline);
        world.run_for(ms(100));
    }
    world.run_for(ms(600));
    world.asks_for_quiet(ms(5000));
    world.call(&pipeline);
    world.run_for(ms(100));
    world.answers_well();
    world.run_for(ms(20_000));
    assert!(!world.sent(Who::Check).is_empty());
    assert!(window.snapshot().window.is_none(), "{window:?}");
}

#[test]
fn a_window_without_a_line_is_checked_at_its_turn() {
    let world = World::new();
    let window = Window::new().fail_fast();
    let events = Arc::new(Mutex::new(Vec::new()));
    let pipeline = world
        .pipeline()
        .window(window.clone())
        .observer(listener(&events))
        .timeout(ms(1000));
    let _checks = world.check(&pipeline, Check::every(ms(1000)));
    world.run_for(ms(10));
    world.asks_for_quiet(ms(5000));
    world.call(&pipeline);
    world.run_for(ms(1000));
    world.answers_well();
    world.run_for(ms(30_000));
    assert!(window.snapshot().window.is_none());
    let refused = |event: &&Event| {
        matches!(
            event,
            Event::Checked {
                end: End::Rejected(_),
                ..
            }
        )
    };
    assert_eq!(events.lock().unwrap().iter().filter(refused).count(), 0);
}

#[test]
fn calls_that_go_through_a_limited_window_are_as_good_as_checks() {
    let world = World::new();
    let window = Window::new();
    let pipeline = world.pipeline().window(window.clone()).timeout(ms(1000));
    let _checks = world.check(&pipeline, Check::every(ms(2000)).jitter(Ratio::percent(0)));
    for _ in 0..100 {
        world.call(&pipeline);
        world.run_for(ms(20));
    }
    world.fails(Verdict::new(Kind::Overloaded));
    for _ in 0..500 {
        world.call(&pipeline);
        world.run_for(ms(20));
    }
    assert!(window.snapshot().window.is_some());
    // Ten times a second something goes.
    assert_eq!(world.sent(Who::Check), []);
}

#[test]
fn what_a_check_takes_is_no_measure_of_what_calls_take() {
    let world = World::new();
    let (window, health) = (Window::new(), Health::new());
    let pipeline = world
        .guarded(touchy())
        .window(window.clone())
        .health(health.clone())
        .timeout(ms(2000));
    let _checks = world.check(&pipeline, Check::every(ms(500)));
    world.takes(ms(200));
    for _ in 0..100 {
        world.call(&pipeline);
        world.run_for(ms(250));
    }
    let usual = window.snapshot().usual;
    assert!(usual >= ms(199), "{usual:?}");
    // The checks are ten times as fast.
    world.service.check_takes.set(Some(ms(20)));
    for _ in 0..5 {
        world.fails(Verdict::new(Kind::Overloaded));
        for _ in 0..5 {
            world.call(&pipeline);
            world.run_for(ms(1500));
        }
        world.run_for(ms(20_000));
        world.answers_well();
        world.run_for(ms(40_000));
    }
    assert!(world.sent(Who::Check).len() > 10);
    assert!(window.snapshot().usual >= ms(199), "{window:?}");
    let latency = health.snapshot(world.clock.now()).latency;
    assert!(latency.is_none_or(|it| it >= ms(199)), "{latency:?}");
}

// Hints, keys, endpoints.

#[test]
fn a_retry_after_holds_checks_as_well() {
    for asked in [ms(8000), ms(400_000)] {
        let world = World::new();
        let pipeline = world.pipeline().health(Health::new());
        let check = Check::every(ms(1000)).jitter(Ratio::percent(50));
        let _checks = world.check(&pipeline, check);
        world.fails(Verdict::transient());
        for _ in 0..20 {
            world.call(&pipeline);
            world.run_for(ms(10));
        }
        // Told to a call.
        world.asks_for_quiet(asked);
        let told = world.clock.elapsed() + TAKES;
        world.call(&pipeline);
        world.run_for(ms(900_000));
        let checks = world.sent(Who::Check);
        assert!(checks[0] >= told + asked, "{checks:?}");
        assert!(checks[0] <= told + asked + ms(1500), "{checks:?}");
        // Told to a check, and believed for five minutes.
        let believed = asked.min(ms(300_000));
        let apart = checks[1].checked_sub(checks[0] + TAKES).expect("later");
        assert!(apart >= believed, "{apart:?}");
        // Of health's account of it a day is believed.
        assert!(apart <= asked + ms(1500), "{apart:?}");
    }
}

#[test]
fn a_breaker_that_was_told_when_to_come_back_is_not_checked_before() {
    let world = World::new();
    let breaker = touchy();
    let pipeline = world.guarded(breaker.clone());
    let _checks = world.check(&pipeline, Check::every(ms(500)));
    world.asks_for_quiet(ms(9000));
    let told = world.clock.elapsed() + TAKES;
    world.call(&pipeline);
    world.run_for(ms(60_000));
    let checks = world.sent(Who::Check);
    assert!(checks[0] >= told + ms(9000), "{checks:?}");
    for pair in checks.windows(2) {
        assert!(pair[1] >= pair[0] + TAKES + ms(9000), "{checks:?}");
    }
}

#[test]
fn keys_are_checked_apart() {
    let world = World::new();
    let breakers = Keyed::new(touchy());
    let pipeline = world.pipeline().breaker(breakers.clone());
    let check = Check::every(ms(500));
    let [bad, good] = ["bad", "good"].map(|name| {
        let seen = Rc::new(Cell::new(0));
        let (count, service) = (Rc::clone(&seen), world.service.clone());
        let checks = pipeline
            .checks(Key::of(name), check, move |_| {
                count.set(count.get() + 1);
                service.attempt(Who::Check)
            })
            .expect("it makes sense");
        world.executor.spawn(async move { match checks.await {} });
        seen
    });
    let call = |name: &'static str| {
        let (pipeline, service) = (pipeline.clone(), world.service.clone());
        world.executor.spawn(async move {
            let call = pipeline.run(|_| service.attempt(Who::Call));
            call.keyed(Key::of(name)).await.is_ok()
        })
    };
    world.run_for(ms(10));
    call("good");
    world.run_for(ms(10));
    world.fails(Verdict::transient());
    call("bad");
    world.run_for(ms(30_000));
    assert!(bad.get() > 5, "{}", bad.get());
    assert_eq!(good.get(), 0);
    world.answers_well();
    let through = call("good");
    world.run_for(ms(10));
    assert_eq!(through.take(), Some(true), "nothing is kept from it");
}

#[test]
fn an_ejected_endpoint_is_probed_by_a_check() {
    let world = World::new();
    let endpoints = Endpoints::numbered(2).cooldown(Backoff::constant(ms(3000)));
    let rng = Rng::seeded(1);
    let state = || endpoints.snapshot(world.clock.now())[0].state;
    while !matches!(state(), evenkeel::endpoints::State::Ejected { .. }) {
        let pick = endpoints
            .pick(&[], world.clock.now(), &rng)
            .expect("two of them");
        let verdict = match pick.id().index() {
            0 => Verdict::transient(),
            _ => Verdict::success(),
        };
        pick.record(verdict, ms(1), world.clock.now(), &rng);
    }
    let pipeline = world.pipeline().endpoints(endpoints.clone());
    let _checks = world.check(&pipeline, Check::every(ms(500)));
    world.run_for(ms(2990));
    assert_eq!(world.sent(Who::Check), [], "its ejection isn't over");
    world.run_for(ms(1000));
    assert_eq!(world.sent(Who::Check).len(), 1);
    assert!(matches!(
        state(),
        evenkeel::endpoints::State::Returning { .. } | evenkeel::endpoints::State::Healthy
    ));
    world.run_for(ms(60_000));
    assert_eq!(world.sent(Who::Check).len(), 1);
}

// What it costs others.

#[test]
fn a_check_earns_and_spends_no_budget_and_is_not_repeated() {
    let world = World::new();
    let budget = Budget::new(Ratio::percent(50)).capacity(10);
    let retry = Retry::constant(ms(1))
        .max_attempts(4)
        .budget(budget.clone());
    let once = world.guarded(touchy());
    let pipeline = once.clone().retry(retry);
    let check = Check::every(ms(700)).jitter(Ratio::percent(0));
    let _checks = world.check(&pipeline, check);
    world.call(&pipeline);
    world.run_for(ms(10));
    world.trip(&once);
    let before = budget.snapshot();
    world.run_for(ms(30_000));
    let checks = world.sent(Who::Check);
    assert!(checks.len() > 10, "{checks:?}");
    for pair in checks.windows(2) {
        let apart = pair[1].checked_sub(pair[0]).expect("later");
        assert!(apart >= ms(700), "it was repeated: {apart:?}");
    }
    let after = budget.snapshot();
    assert_eq!(after.first_attempts, before.first_attempts);
    assert_eq!(after.extra_attempts, before.extra_attempts);
    assert!((after.available - before.available).abs() < 1e-9);
}

#[test]
fn a_throttle_neither_sheds_nor_counts_it() {
    let world = World::new();
    let throttle = Throttle::new();
    let pipeline = world.guarded(touchy()).throttle(throttle.clone());
    let _checks = world.check(&pipeline, Check::every(ms(700)));
    world.trip(&pipeline);
    let before = throttle.snapshot(world.clock.now());
    world.run_for(ms(5000));
    assert!(world.sent(Who::Check).len() > 3);
    let after = throttle.snapshot(world.clock.now());
    assert!(after.requests <= before.requests);
}

#[test]
fn a_check_is_told_as_one_and_as_nobodys_call() {
    let world = World::new();
    let events = Arc::new(Mutex::new(Vec::new()));
    let pipeline = world
        .guarded(touchy())
        .window(Window::new())
        .observer(listener(&events));
    let _checks = world.check(&pipeline, Check::every(ms(700)));
    world.trip(&pipeline);
    world.run_for(ms(10));
    let of_calls = events.lock().unwrap().len();
    // The window has a pace of its own, and little to do.
    world.run_for(ms(100_000));
    world.answers_well();
    world.run_for(ms(100_000));
    let events = events.lock().unwrap();
    let (mut good, mut bad, mut changed) = (0, 0, 0);
    for event in &events[of_calls..] {
        match *event {
            Event::Checked {
                end,
                attempts,
                call,
                key,
                diagnosis,
                elapsed,
                ..
            } => {
                assert_eq!((attempts, key), (1, Some(Key::of(KEY))));
                assert!(call > 0 && elapsed >= TAKES, "{event:?}");
                match end {
                    End::Success => good += 1,
                    End::Failed(verdict) => {
                        assert_eq!(verdict.kind(), Kind::Transient);
                        assert!(diagnosis.is_none(), "{event:?}"); // nobody knows of causes
                        bad += 1;
                    }
                    _ => panic!("{event:?}"),
                }
            }
            Event::Changed { change, .. } => {
                assert!(matches!(change, Change::Breaker(_) | Change::Window(_)));
                changed += 1;
            }
            _ => panic!("told of a call: {event:?}"),
        }
        assert!(event.verdict().is_none());
    }
    assert_eq!(good + bad, world.sent(Who::Check).len());
    assert!(
        good >= 1 && bad > 3 && changed > 3,
        "{good} {bad} {changed}"
    );
}

#[test]
fn nobody_is_affected_by_a_check_that_fails() {
    let world = World::new();
    let recorder = Recorder::new().clock(world.clock.clock());
    let pipeline = world.guarded(Breaker::new()).observer(recorder.clone());
    let _checks = world.check(&pipeline, Check::every(ms(500)));
    world.fails(Verdict::transient());
    for _ in 0..5 {
        world.call(&pipeline);
        world.run_for(ms(10));
    }
    world.run_for(ms(20_000));
    assert!(world.sent(Who::Check).len() > 3);
    let report = recorder.latest().expect("five failed");
    assert_eq!((report.failures(), report.gave_up()), (5, 5));
    assert_eq!((report.calls(), report.refused()), (5, 0));
}

// Through tower.

#[cfg(feature = "tower")]
mod through_tower {
    use std::convert::Infallible;
    use std::pin::Pin;

    use bytes::Bytes;
    use evenkeel::http::{Http, service_key};
    use http::{Request, Response, StatusCode};
    use http_body::{Body, Frame};
    use tower::limit::GlobalConcurrencyLimitLayer;
    use tower::{Layer, ServiceExt, service_fn};

    use super::*;

    /// One frame, and whether it was read.
    struct Once(Option<Bytes>, Rc<Cell<u32>>);

    impl Body for Once {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let data = self.0.take();
            if data.is_none() {
                self.1.set(self.1.get() + 1);
            }
            Poll::Ready(data.map(|it| Ok(Frame::data(it))))
        }
    }

    #[test]
    fn a_request_of_ones_own_closes_the_breaker_of_its_host_and_is_read() {
        let clock = ManualClock::new();
        let executor = Executor::new(&clock);
        let log = Rc::new(RefCell::new(Vec::new()));
        let down = Rc::new(Cell::new(true));
        let read = Rc::new(Cell::new(0));
        let server = {
            let (log, down, read) = (Rc::clone(&log), Rc::clone(&down), Rc::clone(&read));
            service_fn(move |request: Request<String>| {
                log.borrow_mut().push(request.uri().path().to_owned());
                let is_down = down.get() && request.uri().host() == Some("down");
                let body = Once(Some(Bytes::from_static(b"status")), Rc::clone(&read));
                let mut response = Response::new(body);
                if is_down {
                    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                }
                async move { Ok::<_, Infallible>(response) }
            })
        };
        // It panics if it is called without having been ready.
        let server = GlobalConcurrencyLimitLayer::new(1).layer(server);
        let breakers = Keyed::new(touchy());
        let pipeline = Pipeline::new()
            .classify(Http::default())
            .breaker(breakers.clone())
            .clock(clock.clock());
        let service = pipeline.layer(server);
        let get = |uri: &str| Request::get(uri).body(String::new()).expect("it is valid");
        let made = Rc::new(Cell::new(0));
        let count = Rc::clone(&made);
        let healthz = move || {
            count.set(count.get() + 1);
            get("http://down/healthz")
        };
        let check = Check::every(ms(700)).jitter(Ratio::percent(0));
        let checks = service.checks(check, healthz).expect("it makes sense");
        let _task = executor.spawn(async move { match checks.await {} });
        let call = |uri| {
            let (service, request) = (service.clone(), get(uri));
            executor.spawn(async move { service.oneshot(request).await.is_ok() })
        };
        let run_for = |length| {
            let end = clock.elapsed() + length;
            while clock.elapsed() < end {
                executor.run_until_idle();
                clock.advance(ms(10));
            }
            executor.run_until_idle();
        };
        let refused = call("http://down/orders");
        run_for(ms(20));
        assert_eq!(refused.take(), Some(true), "the 503 itself");
        let key = service_key("down", 80);
        let state = || breakers.peek(key).map(|it| it.snapshot(clock.now()).state);
        assert_eq!(state(), Some(State::Open));
        // While calls to another host go by, none is at risk at this one.
        for _ in 0..300 {
            let (other, refused) = (call("http://up/orders"), call("http://down/orders"));
            run_for(ms(10));
            assert_eq!((other.take(), refused.take()), (Some(true), Some(false)));
        }
        let sent = |path: &str| log.borrow().iter().filter(|it| *it == path).count();
        assert_eq!(sent("/orders"), 1 + 300);
        let checks = sent("/healthz");
        assert!(checks >= 2, "{checks}");
        assert_eq!(
            read.get(),
            u32::try_from(checks).unwrap(),
            "the rest is read"
        );
        down.set(false);
        run_for(ms(2000));
        assert_eq!(state(), Some(State::Closed));
        // One more than was sent told its key.
        assert_eq!(made.get(), 1 + sent("/healthz"));
    }

    #[test]
    fn a_retry_after_of_a_health_endpoint_is_waited_for() {
        let clock = ManualClock::new();
        let executor = Executor::new(&clock);
        let log = Rc::new(RefCell::new(Vec::new()));
        let server = {
            let (log, clock) = (Rc::clone(&log), clock.clone());
            service_fn(move |request: Request<String>| {
                let is_check = request.uri().path() == "/healthz";
                if is_check {
                    log.borrow_mut().push(clock.elapsed());
                }
                let mut response = Response::new(String::new());
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                if is_check {
                    let headers = response.headers_mut();
                    headers.insert("retry-after", "20".parse().expect("it is valid"));
                }
                async move { Ok::<_, Infallible>(response) }
            })
        };
        let pipeline = Pipeline::new()
            .classify(Http::default())
            .health(Keyed::new(Health::new()))
            .clock(clock.clock());
        let service = pipeline.layer(server);
        let get = |uri: &str| Request::get(uri).body(String::new()).expect("it is valid");
        let checks = service.checks(Check::every(ms(1000)), move || get("http://a/healthz"));
        let checks = checks.expect("it makes sense");
        let _task = executor.spawn(async move { match checks.await {} });
        for _ in 0..20 {
            let (service, request) = (service.clone(), get("http://a/"));
            executor.spawn(async move { service.oneshot(request).await.is_ok() });
        }
        while clock.elapsed() < ms(100_000) {
            executor.run_until_idle();
            clock.advance(ms(10));
        }
        let log = log.borrow();
        assert!(log.len() >= 4, "{log:?}");
        for pair in log.windows(2) {
            let apart = pair[1].checked_sub(pair[0]).expect("later");
            assert!(apart >= ms(20_000) && apart <= ms(21_210), "{apart:?}");
        }
    }
}

// Cancellation.

#[test]
fn checks_dropped_after_any_poll_give_back_all_they_held() {
    let mut stages = 0;
    for polls in 0..40 {
        let world = World::new();
        let bulkhead = Bulkhead::new(3);
        let (breaker, window) = (touchy(), Window::new());
        let pipeline = world
            .guarded(breaker.clone())
            .window(window.clone())
            .bulkhead(bulkhead.clone())
            .rate_limit(RateLimit::per_second(100))
            .timeout(ms(300));
        world.asks_for_quiet(ms(2000));
        world.call(&pipeline);
        world.run_for(ms(20));
        world.fails(Verdict::transient());
        let check = Check::every(ms(700)).jitter(Ratio::percent(0));
        let mut done = 0;
        {
            let mut checks = pin!(world.checks(&pipeline, check));
            for _ in 0..polls {
                let mut cx = Context::from_waker(Waker::noop());
                assert!(checks.as_mut().poll(&mut cx).is_pending());
                world.clock.advance_to_next();
                done += 1;
            }
        }
        assert_eq!(done, polls);
        assert!(world.clock.pending().is_empty(), "a timer lives on");
        let now = world.clock.now();
        assert_eq!(bulkhead.snapshot().in_flight, 0);
        assert_eq!(bulkhead.snapshot().waiting, 0);
        assert_eq!(window.snapshot().in_flight, 0);
        assert_eq!(window.snapshot().parked, 0);
        assert_eq!(breaker.snapshot(now).probes, 0);
        assert_eq!(world.service.under_way.get(), 0);
        // And whoever comes next may probe, when its time has come.
        world.answers_well();
        world.run_for(ms(30_000));
        let call = world.call(&pipeline);
        world.run_for(ms(30_000));
        assert_eq!(call.take(), Some(true), "after {polls} polls");
        stages = stages.max(world.sent(Who::Check).len());
    }
    assert!(stages > 3, "{stages}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a service does, and whoever calls it.
    #[test]
    fn no_two_checks_are_nearer_than_the_interval_and_none_is_sent_where_all_is_well(
        every in 50_u64..3000,
        jitter in 0_u16..200,
        seed: u64,
        steps in proptest::collection::vec((0_u8..5, 1_u64..4000, any::<bool>()), 1..40),
    ) {
        let world = World::new();
        let breaker = touchy();
        let window = Window::new();
        let health = Health::new();
        let pipeline = world
            .guarded(breaker.clone())
            .window(window.clone())
            .health(health.clone())
            .timeout(ms(400))
            .rng(Rng::seeded(seed));
        let check = Check::every(ms(every)).jitter(Ratio::percent(jitter));
        let _checks = world.check(&pipeline, check);
        for (what, length, calls) in steps {
            match what {
                0 => world.fails(Verdict::transient()),
                1 => world.asks_for_quiet(ms(length)),
                2 => world.takes(ms(length / 4)),
                _ => { world.answers_well(); world.takes(TAKES); }
            }
            if calls {
                world.call(&pipeline);
            }
            world.run_for(ms(length));
        }
        world.answers_well();
        world.takes(TAKES);
        // Long enough for every quiet, cooldown and pause.
        world.run_for(ms(400_000));
        let now = world.clock.now();
        prop_assert_eq!(breaker.snapshot(now).state, State::Closed);
        prop_assert!(window.snapshot().window.is_none());
        prop_assert_eq!(health.snapshot(now).condition, Condition::Healthy);
        let checks = world.sent(Who::Check);
        world.run_for(ms(100_000));
        prop_assert_eq!(world.sent(Who::Check).len(), checks.len());
        let ends = world.service.ends.borrow();
        for (end, next) in ends.iter().zip(checks.iter().skip(1)) {
            prop_assert!(*next >= *end + ms(every), "{:?} {:?}", ends, checks);
        }
        prop_assert!(world.most_checks.get() <= 1);
    }
}

// The scene.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Call,
    Check,
}

type Meaning = fn(Result<&(), &Verdict>) -> Verdict;

/// Its errors are what they mean.
fn meaning(outcome: Result<&(), &Verdict>) -> Verdict {
    outcome.err().copied().unwrap_or(Verdict::success())
}

#[derive(Clone)]
struct Service {
    clock: ManualClock,
    sent: Rc<RefCell<Vec<(Who, Duration)>>>,
    /// When checks ended.
    ends: Rc<RefCell<Vec<Duration>>>,
    answer: Rc<Cell<Verdict>>,
    takes: Rc<Cell<Duration>>,
    /// The same of checks, where it isn't the same.
    check_takes: Rc<Cell<Option<Duration>>>,
    under_way: Rc<Cell<u32>>,
    checks: Rc<Cell<u32>>,
    most_checks: Rc<Cell<u32>>,
}

/// An attempt that is under way.
struct Under {
    service: Service,
    who: Who,
}

impl Drop for Under {
    fn drop(&mut self) {
        let count = |cell: &Cell<u32>| cell.set(cell.get() - 1);
        count(&self.service.under_way);
        if self.who == Who::Check {
            count(&self.service.checks);
            let now = self.service.clock.elapsed();
            self.service.ends.borrow_mut().push(now);
        }
    }
}

impl Service {
    fn attempt(&self, who: Who) -> impl Future<Output = Result<(), Verdict>> + use<> {
        self.sent.borrow_mut().push((who, self.clock.elapsed()));
        self.under_way.set(self.under_way.get() + 1);
        if who == Who::Check {
            self.checks.set(self.checks.get() + 1);
            self.most_checks
                .set(self.most_checks.get().max(self.checks.get()));
        }
        let under = Under {
            service: self.clone(),
            who,
        };
        let answer = self.answer.get();
        let takes = self.check_takes.get().filter(|_| who == Who::Check);
        let end = self.clock.now() + takes.unwrap_or(self.takes.get());
        let sleep = self.clock.clock().sleep_until(end, Why::Other);
        async move {
            sleep.await;
            drop(under);
            if answer.is_success() {
                Ok(())
            } else {
                Err(answer)
            }
        }
    }
}

/// A manual clock that counts looks.
#[derive(Clone)]
struct Looks {
    clock: ManualClock,
    count: Arc<Mutex<u64>>,
}

impl Looks {
    fn looks(&self) -> u64 {
        *self.count.lock().unwrap()
    }
}

impl std::ops::Deref for Looks {
    type Target = ManualClock;

    fn deref(&self) -> &ManualClock {
        &self.clock
    }
}

impl evenkeel::clock::Runtime for Looks {
    fn now(&self) -> std::time::Instant {
        self.clock.now()
    }

    fn wall(&self) -> std::time::SystemTime {
        self.clock.clock().wall()
    }

    fn sleep_until(&self, at: std::time::Instant, why: Why) -> evenkeel::clock::BoxSleep {
        if why == Why::Check {
            *self.count.lock().unwrap() += 1;
        }
        Box::pin(self.clock.clock().sleep_until(at, why))
    }
}

/// Goes on by a millisecond whenever it is looked at, and never lets anybody sleep.
struct Hasty(ManualClock);

impl evenkeel::clock::Runtime for Hasty {
    fn now(&self) -> std::time::Instant {
        self.0.advance(ms(1));
        self.0.now()
    }

    fn wall(&self) -> std::time::SystemTime {
        self.0.clock().wall()
    }

    fn sleep_until(&self, _: std::time::Instant, _: Why) -> evenkeel::clock::BoxSleep {
        Box::pin(poll_fn(|_| Poll::Ready(())))
    }
}

struct World {
    clock: Looks,
    executor: Executor,
    service: Service,
    most_checks: Rc<Cell<u32>>,
}

impl World {
    fn new() -> Self {
        let clock = ManualClock::new();
        let most_checks = Rc::new(Cell::new(0));
        Self {
            executor: Executor::new(&clock),
            service: Service {
                clock: clock.clone(),
                sent: Rc::default(),
                ends: Rc::default(),
                answer: Rc::new(Cell::new(Verdict::success())),
                takes: Rc::new(Cell::new(TAKES)),
                check_takes: Rc::default(),
                under_way: Rc::default(),
                checks: Rc::default(),
                most_checks: Rc::clone(&most_checks),
            },
            clock: Looks {
                clock,
                count: Arc::default(),
            },
            most_checks,
        }
    }

    fn pipeline(&self) -> Pipeline<By<Meaning>> {
        Pipeline::new()
            .classify(by::<(), Verdict, Meaning>(meaning))
            .rng(Rng::seeded(7))
            .clock(evenkeel::Clock::custom(self.clock.clone()))
    }

    fn guarded(&self, breaker: Breaker) -> Pipeline<By<Meaning>> {
        self.pipeline().breaker(breaker)
    }

    fn answers_well(&self) {
        self.service.answer.set(Verdict::success());
    }

    fn fails(&self, verdict: Verdict) {
        self.service.answer.set(verdict);
    }

    fn asks_for_quiet(&self, length: Duration) {
        self.fails(Verdict::new(Kind::Overloaded).hint(Hint::After(length)));
    }

    fn takes(&self, length: Duration) {
        self.service.takes.set(length);
    }

    /// When what this one sent was sent.
    fn sent(&self, who: Who) -> Vec<Duration> {
        let sent = self.service.sent.borrow();
        let of = |it: &&(Who, Duration)| it.0 == who;
        sent.iter().filter(of).map(|it| it.1).collect()
    }

    fn checks(
        &self,
        pipeline: &Pipeline<By<Meaning>>,
        check: Check,
    ) -> Checks<Closure<By<Meaning>, impl FnMut(Attempt) -> Attempted + Clone + use<>>> {
        let service = self.service.clone();
        let probe = move |_: Attempt| -> Attempted { Box::pin(service.attempt(Who::Check)) };
        pipeline
            .checks(Key::of(KEY), check, probe)
            .expect("it makes sense")
    }

    fn check(&self, pipeline: &Pipeline<By<Meaning>>, check: Check) -> Task<()> {
        let checks = self.checks(pipeline, check);
        self.executor.spawn(async move { match checks.await {} })
    }

    fn call(&self, pipeline: &Pipeline<By<Meaning>>) -> Task<bool> {
        let (pipeline, service) = (pipeline.clone(), self.service.clone());
        self.executor.spawn(async move {
            let call = pipeline.run(|_| service.attempt(Who::Call));
            call.keyed(Key::of(KEY)).await.is_ok()
        })
    }

    /// Opens a touchy breaker.
    fn trip(&self, pipeline: &Pipeline<By<Meaning>>) {
        self.fails(Verdict::transient());
        self.call(pipeline);
        self.run_for(TAKES);
    }

    fn run_for(&self, length: Duration) {
        let end = self.clock.elapsed() + length;
        loop {
            self.executor.run_until_idle();
            let left = end.saturating_sub(self.clock.elapsed());
            let mut sleeps = self.clock.pending().into_iter().map(|it| it.left);
            match sleeps.find(|it| !it.is_zero()) {
                Some(next) if next <= left => self.clock.advance(next),
                _ => {
                    self.clock.advance(left);
                    return self.executor.run_until_idle();
                }
            }
        }
    }
}

type Attempted = std::pin::Pin<Box<dyn Future<Output = Result<(), Verdict>>>>;

/// Opens with the first failure, for a second.
fn touchy() -> Breaker {
    let cooldown = Backoff::constant(COOLDOWN).jitter(Jitter::None);
    Breaker::new().consecutive_failures(1).cooldown(cooldown)
}

fn listener(events: &Arc<Mutex<Vec<Event>>>) -> impl Fn(&Event) + Send + Sync + 'static {
    let events = Arc::clone(events);
    move |event| events.lock().unwrap().push(*event)
}

const TAKES: Duration = Duration::from_millis(5);

const COOLDOWN: Duration = Duration::from_secs(1);
