//! Other settings for a pipeline that calls go through.
#![cfg(feature = "testing")]

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use evenkeel::breaker::State;
use evenkeel::budget::Ratio;
use evenkeel::endpoints;
use evenkeel::error::{Reason, Rejected};
use evenkeel::limit::{Aimd, Order};
use evenkeel::testing::{Executor, ManualClock, Script, block_on};
use evenkeel::verdict::{Hint, Kind};
use evenkeel::{
    Breaker, Budget, Bulkhead, Cause, Endpoints, Error, Key, Keyed, Pipeline, Priority, RateLimit,
    Retry, Rng, Throttle, Verdict, Window,
};
use proptest::prelude::*;

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn attempts(most: u32) -> Retry {
    Retry::constant(Duration::ZERO).max_attempts(most)
}

// --- which settings a call goes by -----------------------------------------------------------------

#[test]
fn clones_go_by_the_new_settings_and_a_call_under_way_by_its_own() {
    let clock = ManualClock::new();
    let executor = Executor::new(&clock);
    let pipeline = Pipeline::new()
        .retry(attempts(2))
        .clock(clock.clock())
        .reloadable();
    let clone = pipeline.clone();
    let count = Rc::new(Cell::new(0));
    let made = Rc::clone(&count);
    let under_way = {
        let (pipeline, clock) = (pipeline.clone(), clock.clock());
        executor.spawn(async move {
            let call = pipeline.run(|_| {
                made.set(made.get() + 1);
                let until = clock.now() + ms(10);
                let sleep = clock.sleep_until(until, evenkeel::clock::Why::Backoff);
                async move {
                    sleep.await;
                    Err::<(), _>("no")
                }
            });
            call.await.unwrap_err().attempts()
        })
    };
    executor.run_until_idle();
    assert_eq!(count.get(), 1);

    pipeline
        .reload(&Pipeline::new().retry(attempts(4)))
        .unwrap();
    executor.run();
    assert_eq!(under_way.take(), Some(2));
    for it in [&pipeline, &clone] {
        let failed = block_on(&clock, it.run(|_| async { Err::<(), _>("no") }));
        assert_eq!(failed.unwrap_err().attempts(), 4);
    }
    // One that was begun before goes by what was then, polled or not.
    let early = clone.run(|_| async { Err::<(), _>("no") });
    pipeline.reload(&Pipeline::new()).unwrap();
    assert_eq!(block_on(&clock, early).unwrap_err().attempts(), 4);
    assert_eq!(
        block_on(&clock, clone.run(|_| async { Err::<(), _>("no") }))
            .unwrap_err()
            .attempts(),
        1
    );
}

#[cfg(feature = "tower")]
#[test]
fn services_made_before_go_by_the_new_settings() {
    use tower::{Layer, Service, service_fn};

    let clock = ManualClock::new();
    let pipeline = Pipeline::new().clock(clock.clock()).reloadable();
    let mut service = pipeline.layer(service_fn(|(): ()| async { Err::<(), _>("no") }));
    let mut older = service.clone();
    for most in [3, 1, 5] {
        pipeline
            .reload(&Pipeline::new().retry(attempts(most)))
            .unwrap();
        for service in [&mut service, &mut older] {
            let failed = block_on(&clock, service.call(()));
            assert_eq!(failed.unwrap_err().attempts(), most);
        }
    }
}

#[test]
fn what_is_refused_changes_nothing() {
    let clock = ManualClock::new();
    let breaker = Breaker::new();
    let given = Pipeline::new().retry(attempts(2)).breaker(breaker.clone());
    let pipeline = given.clock(clock.clock()).reloadable();
    let before = format!("{pipeline:?}");
    for bad in [
        Pipeline::new().retry(attempts(0)),
        Pipeline::new().deadline(Duration::ZERO),
        Pipeline::new().breaker(Breaker::new().min_calls(0)),
    ] {
        let error = pipeline.reload(&bad).unwrap_err();
        assert_eq!(Err(error), bad.check());
        assert_eq!(format!("{pipeline:?}"), before);
    }
    let fixed = Pipeline::new();
    assert!(!fixed.is_reloadable() && pipeline.is_reloadable());
    assert_eq!(
        fixed.reload(&Pipeline::new()).unwrap_err().field(),
        "pipeline"
    );
}

#[test]
fn the_setters_of_a_live_pipeline_give_a_fixed_one() {
    let clock = ManualClock::new();
    let live = Pipeline::new()
        .retry(attempts(2))
        .clock(clock.clock())
        .reloadable();
    let fixed = live.clone().timeout(secs(1));
    assert!(!fixed.is_reloadable());
    live.reload(&Pipeline::new().retry(attempts(5))).unwrap();
    let failed = block_on(&clock, fixed.run(|_| async { Err::<(), _>("no") }));
    assert_eq!(failed.unwrap_err().attempts(), 2);
    // And one that is taken from it later begins with what holds then.
    let later = live.timeout(secs(1));
    let failed = block_on(&clock, later.run(|_| async { Err::<(), _>("no") }));
    assert_eq!(failed.unwrap_err().attempts(), 5);
}

#[test]
fn a_pipeline_may_be_given_its_own_settings() {
    let clock = ManualClock::new();
    let pipeline = every_policy(&clock).reloadable();
    let before = format!("{pipeline:?}");
    pipeline.reload(&pipeline.clone()).unwrap();
    assert_eq!(format!("{pipeline:?}"), before);
}

#[test]
fn under_load_each_call_sees_one_configuration() {
    let settings = |most: u32| {
        let deadline = secs(u64::from(most) * 1_000);
        Pipeline::new().retry(attempts(most)).deadline(deadline)
    };
    let pipeline = settings(2).reloadable();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let calls = [(); 2].map(|()| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_time()
                    .build()
                    .unwrap();
                let mut seen = [0_u32; 5];
                while !done.load(Ordering::Relaxed) || seen[2] + seen[4] < 2_000 {
                    let mut left = Duration::ZERO;
                    let call = pipeline.run(|attempt| {
                        if attempt.number() == 1 {
                            left = attempt.time_left().unwrap();
                        }
                        async { Err::<(), _>("no") }
                    });
                    let most = runtime.block_on(call).unwrap_err().attempts();
                    let whole = secs(u64::from(most) * 1_000);
                    assert!(
                        left <= whole && left + secs(900) > whole,
                        "{most}: {left:?}"
                    );
                    seen[most as usize] += 1;
                }
                seen
            })
        });
        for turn in 0..2_000 {
            pipeline.reload(&settings(2 + turn % 2 * 2)).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        for call in calls {
            let seen = call.join().unwrap();
            assert_eq!(seen[0] + seen[1] + seen[3], 0);
        }
    });
}

// --- what is kept ----------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug)]
enum BudgetOp {
    First,
    Extra,
    /// Set aside, and given back.
    Dropped,
    Reload {
        percent: u16,
        capacity: u32,
        of_traffic: bool,
    },
}

proptest! {
    #[test]
    fn extra_attempts_are_bounded_by_what_was_earned_at_the_ratio_of_its_time(
        ops in prop::collection::vec(prop_oneof![
            6 => Just(BudgetOp::First),
            6 => Just(BudgetOp::Extra),
            1 => Just(BudgetOp::Dropped),
            1 => (0..300_u16, 0..20_u32, any::<bool>()).prop_map(|(percent, capacity, of_traffic)|
                BudgetOp::Reload { percent, capacity, of_traffic }),
        ], 1..300),
        capacity in 0..20_u32,
    ) {
        let clock = ManualClock::new();
        let budget = Budget::new(Ratio::percent(50)).capacity(capacity);
        let with = |budget| Pipeline::new().retry(attempts(3).budget(budget));
        let pipeline = with(budget.clone()).clock(clock.clock()).reloadable();
        let (mut ratio, mut earned, mut extra) = (50_u64, u64::from(capacity) * 100, 0_u64);
        for op in ops {
            clock.advance(ms(10));
            match op {
                BudgetOp::First => {
                    if budget.deposit() {
                        budget.tick(clock.now());
                    }
                    earned += ratio;
                }
                BudgetOp::Extra => if let Some(withdrawal) = budget.withdraw(Kind::Transient, clock.now()) {
                    withdrawal.spend();
                    extra += 1;
                },
                BudgetOp::Dropped => drop(budget.withdraw(Kind::Transient, clock.now())),
                BudgetOp::Reload { percent, capacity, of_traffic } => {
                    let new = Budget::new(Ratio::percent(percent));
                    let new = if of_traffic {
                        new.capacity_of(secs(1), capacity)
                    } else {
                        new.capacity(capacity)
                    };
                    pipeline.reload(&with(new)).unwrap();
                    ratio = u64::from(percent);
                }
            }
            prop_assert!(extra * 100 <= earned, "{} > {}", extra * 100, earned);
            // No look at the bucket here: that would fill it.
        }
        let now = budget.snapshot();
        prop_assert_eq!(now.extra_attempts, extra);
        prop_assert!(now.available <= now.capacity + 1e-9);
        // It is the pipeline's, still.
        let now = pipeline.budget().unwrap().snapshot();
        prop_assert_eq!(now, budget.snapshot());
    }

    #[test]
    fn no_rate_is_passed_by_changing_it(
        steps in prop::collection::vec((0..200_u64, 1..200_u32, 1..8_u32, any::<bool>()), 1..60),
    ) {
        let clock = ManualClock::new();
        let limit = RateLimit::per_second(10).burst(3);
        let pipeline = Pipeline::new().rate_limit(limit.clone()).clock(clock.clock()).reloadable();
        let began = clock.now();
        let (mut begun, mut most_rate, mut most_burst) = (0_u32, 10_u32, 3_u32);
        for (wait, count, burst, changes) in steps {
            clock.advance(ms(wait));
            while limit.try_acquire(clock.now()).is_ok() {
                begun += 1;
            }
            if changes {
                let was = limit.snapshot(clock.now());
                let to = RateLimit::per_second(count).burst(burst);
                pipeline.reload(&Pipeline::new().rate_limit(to)).unwrap();
                let is = limit.snapshot(clock.now());
                // What was used up stays used: more can go only where a larger burst allows more.
                let more = burst.saturating_sub(1);
                prop_assert!(is.available <= was.available + u64::from(more), "{was:?} {is:?}");
                (most_rate, most_burst) = (most_rate.max(count), most_burst.max(burst));
            }
            while limit.try_acquire(clock.now()).is_ok() {
                begun += 1;
            }
            let passed = clock.now().duration_since(began).as_secs_f64();
            let most = f64::from(most_burst) + f64::from(most_rate) * passed;
            prop_assert!(f64::from(begun) <= most + 1e-6, "{begun} > {most}");
        }
    }
}

#[test]
fn a_used_up_rate_has_no_burst_for_the_change() {
    let clock = ManualClock::new();
    let limit = RateLimit::per_second(10).burst(5);
    let pipeline = Pipeline::new()
        .rate_limit(limit.clone())
        .clock(clock.clock())
        .reloadable();
    for _ in 0..5 {
        limit.try_acquire(clock.now()).unwrap();
    }
    let to = |count, burst| Pipeline::new().rate_limit(RateLimit::per_second(count).burst(burst));
    pipeline.reload(&to(20, 5)).unwrap();
    assert!(limit.try_acquire(clock.now()).is_err());
    clock.advance(ms(50));
    assert!(limit.try_acquire(clock.now()).is_ok());
    assert!(limit.try_acquire(clock.now()).is_err());
    // A pause goes on.
    limit.pause(secs(3), clock.now());
    pipeline.reload(&to(1_000, 100)).unwrap();
    clock.advance(ms(2_999));
    assert!(limit.try_acquire(clock.now()).is_err());
    clock.advance(ms(1));
    assert!(limit.try_acquire(clock.now()).is_ok());
    // What was set by hand stays if the setting does.
    clock.advance(secs(1));
    limit.set_quota(1, secs(10), 1, clock.now()).unwrap();
    pipeline.reload(&to(1_000, 100)).unwrap();
    clock.advance(secs(10));
    assert!(limit.try_acquire(clock.now()).is_ok());
    assert!(limit.try_acquire(clock.now()).is_err());
}

#[test]
fn an_open_breaker_stays_open_for_as_long_and_counts_stay() {
    let (clock, rng) = (ManualClock::new(), Rng::seeded(1));
    let breaker = Breaker::new();
    let pipeline = Pipeline::new()
        .breaker(breaker.clone())
        .clock(clock.clock())
        .reloadable();
    let fail = |times| {
        for _ in 0..times {
            let permit = breaker.try_acquire(clock.now(), &rng).unwrap();
            permit.record(Verdict::transient(), clock.now(), &rng);
        }
    };
    fail(3);
    // With four in a row it takes one more.
    let to = |breaker| Pipeline::new().breaker(breaker);
    pipeline
        .reload(&to(Breaker::new().consecutive_failures(4)))
        .unwrap();
    assert_eq!(breaker.snapshot(clock.now()).calls, 3);
    assert_eq!(breaker.snapshot(clock.now()).state, State::Closed);
    fail(1);
    let open = breaker.snapshot(clock.now());
    assert_eq!(open.state, State::Open);
    let left = open.retry_after.unwrap();

    pipeline
        .reload(&to(Breaker::new().probes(2).consecutive_failures(None)))
        .unwrap();
    clock.advance(left.saturating_sub(ms(1)));
    assert!(breaker.try_acquire(clock.now(), &rng).is_err());
    let call = block_on(&clock, pipeline.run(|_| async { Ok::<_, ()>(()) }));
    assert_eq!(rejected(&call.unwrap_err()).reason(), Reason::BreakerOpen);
    clock.advance(ms(1));
    let first = breaker.try_acquire(clock.now(), &rng).unwrap();
    let second = breaker.try_acquire(clock.now(), &rng).unwrap();
    assert!(first.is_probe() && second.is_probe());
    assert!(breaker.try_acquire(clock.now(), &rng).is_err());
    // Half-open, and one place more from now on.
    pipeline.reload(&to(Breaker::new().probes(3))).unwrap();
    assert!(breaker.try_acquire(clock.now(), &rng).is_ok());
}

#[test]
fn settings_of_a_breaker_hold_at_once_for_calls_that_are_out() {
    let (clock, rng) = (ManualClock::new(), Rng::seeded(1));
    let breaker = Breaker::new().window(secs(10));
    let pipeline = Pipeline::new()
        .breaker(breaker.clone())
        .clock(clock.clock())
        .reloadable();
    let permits: Vec<_> = (0..3)
        .map(|_| breaker.try_acquire(clock.now(), &rng).unwrap())
        .collect();
    let to = Breaker::new()
        .consecutive_failures(3)
        .request_faults(evenkeel::breaker::CountAs::Failure);
    pipeline.reload(&Pipeline::new().breaker(to)).unwrap();
    let fault = Verdict::new(Kind::RequestFault);
    let changes: Vec<_> = permits
        .into_iter()
        .filter_map(|it| it.record(fault, clock.now(), &rng))
        .collect();
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].to, State::Open);
}

#[test]
fn failures_of_old_rules_are_not_in_a_row_with_those_of_new_ones_for_ever() {
    let (clock, rng) = (ManualClock::new(), Rng::seeded(1));
    for between in [None, Some(2)] {
        let rules = |in_row| {
            let breaker = Breaker::new().failure_ratio(None);
            breaker.consecutive_failures(in_row)
        };
        let breaker = rules(Some(5));
        let pipeline = Pipeline::new().breaker(breaker.clone()).reloadable();
        let tell = |verdict| {
            let permit = breaker.try_acquire(clock.now(), &rng).unwrap();
            permit.record(verdict, clock.now(), &rng)
        };
        for _ in 0..4 {
            assert!(tell(Verdict::transient()).is_none());
        }
        let reload = |in_row| {
            let to = Pipeline::new().breaker(rules(in_row));
            pipeline.reload(&to).unwrap();
        };
        reload(between);
        assert!(tell(Verdict::success()).is_none());
        reload(Some(2));
        assert!(tell(Verdict::transient()).is_none(), "{between:?}");
        assert!(tell(Verdict::transient()).is_some(), "{between:?}");
    }
}

#[test]
fn a_breaker_with_another_window_takes_over_open_time_and_trips() {
    let (clock, rng) = (ManualClock::new(), Rng::seeded(1));
    let old = Breaker::new();
    let breakers = Keyed::new(old.clone());
    for per_key in [false, true] {
        let with = |breaker: Breaker| {
            if per_key {
                Pipeline::new().breaker(Keyed::new(breaker))
            } else {
                Pipeline::new().breaker(breaker)
            }
        };
        let given = if per_key {
            Pipeline::new().breaker(breakers.clone())
        } else {
            Pipeline::new().breaker(old.clone())
        };
        let pipeline = given.clock(clock.clock()).reloadable();
        let key = Key::of("a");
        let call = |ok: bool| {
            let call = pipeline.run(move |_| async move { if ok { Ok(()) } else { Err("no") } });
            block_on(&clock, call.keyed(key))
        };
        for _ in 0..5 {
            call(false).unwrap_err();
        }
        let retry_at = |error: Error<&str>| rejected(&error).retry_at();
        let before = retry_at(call(true).unwrap_err());
        assert!(before.is_some());
        pipeline
            .reload(&with(Breaker::new().window(secs(20))))
            .unwrap();
        assert_eq!(retry_at(call(true).unwrap_err()), before);
        pipeline
            .reload(&with(Breaker::new().window_of_calls(50)))
            .unwrap();
        assert_eq!(retry_at(call(true).unwrap_err()), before);
        clock.advance(before.unwrap().duration_since(clock.now()));
        call(true).unwrap();
        let _ = rng;
    }
}

#[test]
fn endpoints_that_stay_keep_their_health_and_those_that_go_end_what_is_under_way() {
    let (clock, rng) = (ManualClock::new(), Rng::seeded(1));
    let endpoints = Endpoints::new(["a:1", "b:1", "c:1"]);
    let pipeline = Pipeline::new()
        .endpoints(endpoints.clone())
        .clock(clock.clock())
        .reloadable();
    let state = |name: &str| {
        let all = endpoints.snapshot(clock.now());
        all.iter()
            .find(|it| it.endpoint.name() == name)
            .map(|it| it.state)
    };
    while state("a:1") == Some(endpoints::State::Healthy) {
        let pick = endpoints.pick(&[], clock.now(), &rng).unwrap();
        let verdict = match pick.endpoint().name() {
            "a:1" => Verdict::transient(),
            _ => Verdict::success(),
        };
        pick.record(verdict, ms(1), clock.now(), &rng);
    }
    let pick = || endpoints.pick(&[], clock.now(), &rng).unwrap();
    let leaves = std::iter::repeat_with(pick).find(|it| it.endpoint().name() == "b:1");

    // Where nothing is said of them they stay.
    pipeline.reload(&Pipeline::new()).unwrap();
    assert_eq!(endpoints.len(), 3);
    let to = Endpoints::new(["a:1", "c:1", "d:1"]).ramp(Duration::ZERO);
    pipeline
        .reload(&Pipeline::new().endpoints(to.clone()))
        .unwrap();
    assert!(matches!(
        state("a:1"),
        Some(endpoints::State::Ejected { .. })
    ));
    assert_eq!(state("b:1"), None);
    assert_eq!(state("d:1"), Some(endpoints::State::Healthy));
    leaves
        .unwrap()
        .record(Verdict::success(), ms(1), clock.now(), &rng);
    let asked = |attempt: evenkeel::Attempt| {
        let name = endpoints.get(attempt.endpoint().unwrap()).unwrap();
        let name = name.name().to_owned();
        async move { Ok::<_, ()>(name) }
    };
    for _ in 0..40 {
        let name = block_on(&clock, pipeline.run(asked)).unwrap();
        assert!(["c:1", "d:1"].contains(&name.as_str()), "{name}");
    }
    // Whose list it was is on its own.
    assert!(
        to.snapshot(clock.now())
            .iter()
            .all(|it| it.latency.is_none())
    );
}

#[test]
fn a_larger_capacity_is_no_fuller_bucket_and_a_smaller_one_holds_no_more() {
    let clock = ManualClock::new();
    let budget = Budget::new(Ratio::percent(10)).capacity(5);
    let with = |budget| Pipeline::new().retry(attempts(3).budget(budget));
    let pipeline = with(budget.clone()).clock(clock.clock()).reloadable();
    for (capacity, available) in [(50, 5.0), (2, 2.0), (9, 2.0), (0, 0.0), (4, 0.0)] {
        let to = Budget::new(Ratio::percent(10)).capacity(capacity);
        pipeline.reload(&with(to)).unwrap();
        let now = budget.snapshot();
        assert!((now.available - available).abs() < 1e-9, "{now:?}");
        assert!((now.capacity - f64::from(capacity)).abs() < 1e-9, "{now:?}");
    }
    // What follows the traffic begins with what it is told, not with all that ever was.
    for _ in 0..1_000 {
        let _ = budget.deposit();
    }
    let to = Budget::new(Ratio::percent(10)).capacity_of(secs(10), 6);
    pipeline.reload(&with(to)).unwrap();
    budget.tick(clock.now());
    let now = budget.snapshot();
    assert!((now.capacity - 6.0).abs() < 1e-9, "{now:?}");
    assert!((now.available - 4.0).abs() < 1e-9, "{now:?}");
}

#[test]
fn a_breaker_with_another_window_counts_in_it() {
    let clock = ManualClock::new();
    let rules = |breaker: Breaker| {
        let breaker = breaker.min_calls(10).consecutive_failures(None);
        Pipeline::new().breaker(breaker.failure_ratio(Ratio::percent(50)))
    };
    let windows = || {
        [
            Breaker::new().window(secs(10)),
            Breaker::new().window(secs(1_000)),
            Breaker::new().window_of_calls(10),
            Breaker::new().window_of_calls(30),
        ]
    };
    for from in windows() {
        for to in windows() {
            let pipeline = rules(from.clone()).clock(clock.clock()).reloadable();
            pipeline.reload(&rules(to)).unwrap();
            let call = |ok: bool| {
                let call =
                    pipeline.run(move |_| async move { if ok { Ok(()) } else { Err("no") } });
                block_on(&clock, call)
            };
            for turn in 0..10 {
                clock.advance(ms(10));
                let error = call(turn % 2 == 0).err();
                assert!(!matches!(
                    error.as_ref().map(Error::cause),
                    Some(Cause::Rejected(_))
                ));
            }
            assert_eq!(
                rejected(&call(true).unwrap_err()).reason(),
                Reason::BreakerOpen
            );
        }
    }
    // Slow calls begin to count.
    let pipeline = rules(Breaker::new()).clock(clock.clock()).reloadable();
    let slow = Breaker::new().slow_calls(ms(5), Ratio::percent(50));
    pipeline.reload(&rules(slow)).unwrap();
    for _ in 0..10 {
        let script: Script<(), ()> = Script::new(&clock).ok(()).after(ms(5));
        let call = pipeline.run(|it| script.play(it));
        block_on(&clock, call).unwrap();
    }
    let call = pipeline.run(|_| async { Ok::<_, ()>(()) });
    assert_eq!(
        rejected(&block_on(&clock, call).unwrap_err()).reason(),
        Reason::BreakerOpen
    );
}

#[test]
fn what_stays_is_checked_too_before_anything_changes() {
    let bad = Endpoints::new(["http://me:secret@a"]);
    let breaker = Breaker::new();
    let pipeline = Pipeline::new()
        .breaker(breaker.clone())
        .endpoints(bad)
        .reloadable();
    let to = Pipeline::new().breaker(Breaker::new().consecutive_failures(1));
    let error = pipeline.reload(&to).unwrap_err();
    assert_eq!(error.field(), "endpoints.list");
    assert_eq!(pipeline.check(), Err(error));
    let good = to.endpoints(Endpoints::numbered(2));
    pipeline.reload(&good).unwrap();
    assert_eq!(pipeline.check(), Ok(()));
}

#[test]
fn a_throttle_goes_on_from_what_it_counted() {
    let (clock, rng) = (ManualClock::new(), Rng::seeded(1));
    let throttle = Throttle::new();
    let pipeline = Pipeline::new()
        .throttle(throttle.clone())
        .clock(clock.clock())
        .reloadable();
    for _ in 0..50 {
        if let Ok(permit) = throttle.try_acquire(Priority::Normal, clock.now(), || u64::MAX) {
            permit.record(Kind::Overloaded, clock.now());
        }
    }
    let before = throttle.snapshot(clock.now());
    assert!(before.requests == 50 && before.shed.normal > 0.8);
    let to = Throttle::new().floor(Ratio::percent(50)).window(secs(100));
    pipeline.reload(&Pipeline::new().throttle(to)).unwrap();
    let after = throttle.snapshot(clock.now());
    assert_eq!(
        (after.requests, after.accepts),
        (before.requests, before.accepts)
    );
    assert!((after.shed.normal - 0.5).abs() < 1e-6);
    // It forgets by the new window.
    clock.advance(secs(89));
    assert_eq!(throttle.snapshot(clock.now()).requests, 50);
    clock.advance(secs(11));
    assert_eq!(throttle.snapshot(clock.now()).requests, 0);
    let _ = rng;
}

#[test]
fn a_smaller_bulkhead_waits_for_those_that_run_and_a_larger_one_wakes_the_line() {
    let clock = ManualClock::new();
    let executor = Executor::new(&clock);
    let bulkhead = Bulkhead::new(3).queue(10);
    let pipeline = Pipeline::new()
        .bulkhead(bulkhead.clone())
        .clock(clock.clock())
        .reloadable();
    let to = |bulkhead| Pipeline::new().bulkhead(bulkhead);
    let mut permits: Vec<_> = (0..3).map(|_| bulkhead.try_acquire().unwrap()).collect();
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let pipeline = pipeline.clone();
            executor.spawn(async move { pipeline.run(|_| async { Ok::<_, ()>(()) }).await.is_ok() })
        })
        .collect();
    executor.run_until_idle();
    assert_eq!(bulkhead.snapshot().waiting, 2);

    pipeline.reload(&to(Bulkhead::new(1).queue(1))).unwrap();
    let now = bulkhead.snapshot();
    assert_eq!((now.limit, now.in_flight, now.waiting), (1, 3, 2));
    // The line is longer than it may be: nobody new, nobody dropped.
    let refused = block_on(&clock, pipeline.run(|_| async { Ok::<_, ()>(()) }));
    assert_eq!(rejected(&refused.unwrap_err()).reason(), Reason::QueueFull);
    permits.pop();
    permits.pop();
    executor.run_until_idle();
    assert_eq!(bulkhead.snapshot().waiting, 2, "one runs, and one may");

    pipeline.reload(&to(Bulkhead::new(2))).unwrap();
    executor.run_until_idle();
    assert!(waiting.iter().all(|it| it.take() == Some(true)));
    assert_eq!(bulkhead.snapshot().in_flight, 1);
    drop(permits);
    // Set by hand it stays, where the setting stays.
    bulkhead.set_limit(9);
    pipeline.reload(&to(Bulkhead::new(2).queue(4))).unwrap();
    assert_eq!(bulkhead.snapshot().limit, 9);
    pipeline.reload(&to(Bulkhead::new(3))).unwrap();
    assert_eq!(bulkhead.snapshot().limit, 3);
}

#[test]
fn a_learned_limit_goes_on_within_its_new_bounds() {
    let clock = ManualClock::new();
    let bulkhead = Bulkhead::adaptive(Aimd::new().initial(20));
    let pipeline = Pipeline::new()
        .bulkhead(bulkhead.clone())
        .clock(clock.clock())
        .reloadable();
    let permit = bulkhead.try_acquire().unwrap();
    permit.failed(ms(10), clock.now());
    let learned = bulkhead.snapshot().limit;
    assert!(learned < 20);
    let to = |limit| Pipeline::new().bulkhead(Bulkhead::adaptive(limit));
    pipeline
        .reload(&to(Aimd::new().initial(20).bounds(2, 900)))
        .unwrap();
    assert_eq!(bulkhead.snapshot().limit, learned);
    pipeline
        .reload(&to(Aimd::new().initial(3).bounds(2, 4)))
        .unwrap();
    assert_eq!(bulkhead.snapshot().limit, 4);
    // One of another kind begins anew.
    pipeline
        .reload(&Pipeline::new().bulkhead(Bulkhead::new(6)))
        .unwrap();
    assert_eq!(bulkhead.snapshot().limit, 6);
    pipeline.reload(&to(Aimd::new().initial(20))).unwrap();
    assert_eq!(bulkhead.snapshot().limit, 20);
}

#[test]
fn a_window_keeps_its_quiet_and_those_that_are_parked() {
    let clock = ManualClock::new();
    let executor = Executor::new(&clock);
    let window = Window::new();
    let pipeline = Pipeline::new()
        .window(window.clone())
        .clock(clock.clock())
        .reloadable();
    hush(&window, secs(2), clock.now());
    let before = window.snapshot();
    let order = Rc::new(std::cell::RefCell::new(Vec::new()));
    let parked: Vec<_> = (0..3)
        .map(|id| {
            let (pipeline, order) = (pipeline.clone(), Rc::clone(&order));
            executor.spawn(async move {
                let call = pipeline.run(|_| {
                    order.borrow_mut().push(id);
                    async { Ok::<_, ()>(()) }
                });
                call.await.is_ok()
            })
        })
        .collect();
    executor.run_until_idle();
    assert_eq!(window.snapshot().parked, 3);

    let to = Window::new().max_parked(1).order(Order::NewestFirst);
    pipeline.reload(&Pipeline::new().window(to)).unwrap();
    let after = window.snapshot();
    assert_eq!((after.parked, after.in_flight), (3, 0));
    assert_eq!(
        (after.window, after.quiet_until),
        (before.window, before.quiet_until)
    );
    pipeline
        .reload(&Pipeline::new().window(Window::new().max_parked(1)))
        .unwrap();
    let refused = block_on_no_time(pipeline.run(|_| async { Ok::<_, ()>(()) }));
    assert_eq!(rejected(&refused.unwrap_err()).reason(), Reason::WindowFull);

    clock.advance(ms(1_999));
    executor.run_until_idle();
    assert!(order.borrow().is_empty());
    executor.run();
    assert!(parked.iter().all(|it| it.take() == Some(true)));
    assert_eq!(*order.borrow(), [0, 1, 2]);
    // A hint that is too long for it now holds for no other call.
    let to = Window::new().longest_quiet(ms(5));
    pipeline.reload(&Pipeline::new().window(to)).unwrap();
    clock.advance(secs(30));
    let quiet = window.snapshot().quiet_until;
    hush(&window, secs(2), clock.now());
    assert_eq!(window.snapshot().quiet_until, quiet);
}

#[test]
fn never_more_run_than_a_limited_window_lets() {
    let clock = ManualClock::new();
    let executor = Executor::new(&clock);
    let window = Window::new();
    let pipeline = Pipeline::new()
        .window(window.clone())
        .clock(clock.clock())
        .reloadable();
    hush(&window, ms(10), clock.now());
    let tasks: Vec<_> = (0..30)
        .map(|_| {
            let (pipeline, clock) = (pipeline.clone(), clock.clock());
            executor.spawn(async move {
                let call = pipeline.run(|_| {
                    let until = clock.now() + ms(200);
                    let sleep = clock.sleep_until(until, evenkeel::clock::Why::Backoff);
                    async move {
                        sleep.await;
                        Ok::<_, ()>(())
                    }
                });
                call.await.is_ok()
            })
        })
        .collect();
    for turn in 0.. {
        executor.run_until_idle();
        let now = window.snapshot();
        if let Some(most) = now.window {
            let in_flight = f64::from(now.in_flight);
            assert!(in_flight <= most.floor().max(1.0), "{now:?}");
            let to = Window::new().max_parked(turn % 3 * 20);
            pipeline.reload(&Pipeline::new().window(to)).unwrap();
            executor.run_until_idle();
            assert_eq!(
                window.snapshot().in_flight,
                now.in_flight,
                "nothing goes for it"
            );
        }
        if clock.advance_to_next().is_none() {
            break;
        }
    }
    assert!(tasks.iter().all(|it| it.take() == Some(true)));
}

// --- registries ------------------------------------------------------------------------------------

#[test]
fn entries_that_are_there_and_those_to_come_have_the_new_settings() {
    let clock = ManualClock::new();
    let (a, b, special) = (Key::of("a"), Key::of("b"), Key::of("special"));
    let limits = Keyed::new(RateLimit::per_second(1).burst(1))
        .with(move |key| (key == special).then(|| RateLimit::per_second(1).burst(7)));
    let pipeline = Pipeline::new()
        .rate_limit(limits.clone())
        .clock(clock.clock())
        .reloadable();
    let available = |key| {
        limits
            .get(key, || clock.now())
            .policy()
            .snapshot(clock.now())
            .available
    };
    assert_eq!((available(a), available(special)), (1, 7));
    limits
        .get(a, || clock.now())
        .policy()
        .try_acquire(clock.now())
        .unwrap();

    let to = Keyed::new(RateLimit::per_second(1).burst(3))
        .capacity(3)
        .idle_after(secs(1));
    pipeline.reload(&Pipeline::new().rate_limit(to)).unwrap();
    assert_eq!(available(a), 2, "what was used stays used");
    assert_eq!(available(b), 3);
    assert_eq!(available(special), 7, "its settings are its own");
    // The registry's own settings too.
    assert!(limits.get(Key::of("d"), || clock.now()).is_shared());
    assert_eq!(limits.shared_entry().snapshot(clock.now()).available, 3);
    clock.advance(secs(10));
    for _ in 0..200 {
        let _ = limits.get(Key::of("d"), || clock.now());
    }
    assert!(limits.len() < 3 || !limits.get(Key::of("d"), || clock.now()).is_shared());
}

#[test]
fn breakers_of_a_registry_stay_open_each() {
    let clock = ManualClock::new();
    let breakers = Keyed::new(Breaker::new().consecutive_failures(2));
    let pipeline = Pipeline::new()
        .breaker(breakers.clone())
        .clock(clock.clock())
        .reloadable();
    let (bad, good) = (Key::of("bad"), Key::of("good"));
    let call = |key: Key, ok: bool| {
        let call = pipeline.run(move |_| async move { if ok { Ok(()) } else { Err("no") } });
        block_on(&clock, call.keyed(key))
    };
    call(good, true).unwrap();
    for _ in 0..2 {
        call(bad, false).unwrap_err();
    }
    let to = Keyed::new(Breaker::new().consecutive_failures(3));
    pipeline.reload(&Pipeline::new().breaker(to)).unwrap();
    assert!(matches!(
        call(bad, true).unwrap_err().cause(),
        Cause::Rejected(_)
    ));
    for _ in 0..2 {
        call(good, false).unwrap_err();
    }
    call(good, true).unwrap();
    for _ in 0..3 {
        assert!(matches!(
            call(good, false).unwrap_err().cause(),
            Cause::Operation(_)
        ));
    }
    assert!(matches!(
        call(good, true).unwrap_err().cause(),
        Cause::Rejected(_)
    ));
}

#[test]
fn new_keys_that_come_while_settings_change_have_the_new_ones_in_the_end() {
    for round in 0..200_u32 {
        let limits = Keyed::new(Bulkhead::new(1));
        let pipeline = Pipeline::new().bulkhead(limits.clone()).reloadable();
        thread::scope(|scope| {
            scope.spawn(|| {
                for key in 0..20 {
                    let _ = limits.get(Key::of((round, key)), Instant::now);
                }
            });
            pipeline
                .reload(&Pipeline::new().bulkhead(Keyed::new(Bulkhead::new(5))))
                .unwrap();
        });
        let mut seen = 0;
        limits.for_each(|_, bulkhead| {
            assert_eq!(bulkhead.snapshot().limit, 5);
            seen += 1;
        });
        assert_eq!(seen, 20);
    }
}

// --- what begins anew ------------------------------------------------------------------------------

#[test]
fn what_was_off_and_what_changes_its_scope_begins_anew() {
    let clock = ManualClock::new();
    let first = Bulkhead::new(1).queue(0);
    let pipeline = Pipeline::new()
        .bulkhead(first.clone())
        .clock(clock.clock())
        .reloadable();
    let held = first.try_acquire().unwrap();
    let call = || {
        block_on_no_time(
            pipeline
                .run(|_| async { Ok::<_, ()>(()) })
                .keyed(Key::of("a")),
        )
    };
    assert!(call().is_err());
    pipeline.reload(&Pipeline::new()).unwrap();
    call().unwrap();
    let given = Bulkhead::new(1).queue(0);
    let of_given = given.try_acquire().unwrap();
    pipeline
        .reload(&Pipeline::new().bulkhead(given.clone()))
        .unwrap();
    call().expect("what it was given are settings");
    pipeline
        .reload(&Pipeline::new().bulkhead(Keyed::new(given.clone())))
        .unwrap();
    call().unwrap();
    drop((held, of_given));
}

#[test]
fn a_policy_that_settings_came_from_is_not_changed_with_them() {
    let clock = ManualClock::new();
    let pipeline = Pipeline::new().clock(clock.clock()).reloadable();
    let (model, other) = (Breaker::new(), Breaker::new().window(secs(77)).probes(9));
    let before = format!("{model:?}");
    let scopes = || {
        [
            Pipeline::new().breaker(model.clone()),
            Pipeline::new().breaker(Keyed::new(model.clone())),
            Pipeline::new().breaker(Breaker::new().probes(3)),
            Pipeline::new().breaker(Keyed::new(Breaker::new().probes(4))),
            Pipeline::new().breaker(other.clone()),
            Pipeline::new().breaker(Keyed::new(other.clone())),
            Pipeline::new(),
        ]
    };
    for from in scopes() {
        for to in scopes() {
            pipeline.reload(&from).unwrap();
            pipeline.reload(&to).unwrap();
            assert_eq!(format!("{model:?}"), before);
        }
    }
    // A registry made of it has settings of its own too.
    let live = Pipeline::new()
        .breaker(Keyed::new(model.clone()))
        .reloadable();
    live.reload(&Pipeline::new().breaker(Keyed::new(Breaker::new().probes(3))))
        .unwrap();
    assert_eq!(format!("{model:?}"), before);
}

#[test]
fn a_call_parked_in_what_is_off_since_goes_its_way_and_leaves_nothing() {
    let clock = ManualClock::new();
    let executor = Executor::new(&clock);
    let bulkhead = Bulkhead::new(1).queue(5);
    let pipeline = Pipeline::new()
        .bulkhead(bulkhead.clone())
        .clock(clock.clock())
        .reloadable();
    let held = bulkhead.try_acquire().unwrap();
    let spawn = || {
        let pipeline = pipeline.clone();
        executor.spawn(async move { pipeline.run(|_| async { Ok::<_, ()>(()) }).await.is_ok() })
    };
    let (stays, goes) = (spawn(), spawn());
    executor.run_until_idle();
    assert_eq!(bulkhead.snapshot().waiting, 2);
    pipeline.reload(&Pipeline::new()).unwrap();
    let newcomer = spawn();
    executor.run_until_idle();
    assert_eq!(newcomer.take(), Some(true));
    assert!(!stays.is_finished());
    goes.cancel(&executor);
    assert_eq!(bulkhead.snapshot().waiting, 1);
    drop(held);
    executor.run_until_idle();
    assert_eq!(stays.take(), Some(true));
    let now = bulkhead.snapshot();
    assert_eq!((now.in_flight, now.waiting), (0, 0));
}

#[test]
fn dropped_at_any_poll_with_a_change_in_between_nothing_is_lost() {
    for polls in 0..6 {
        let clock = ManualClock::new();
        let executor = Executor::new(&clock);
        let (bulkhead, budget) = (Bulkhead::new(1), Budget::new(Ratio::percent(0)).capacity(3));
        let retry = || Retry::constant(ms(10)).max_attempts(3);
        let given = Pipeline::new().bulkhead(bulkhead.clone());
        let given = given
            .retry(retry().budget(budget.clone()))
            .window(Window::new());
        let pipeline = given.clock(clock.clock()).reloadable();
        let script: Script<(), &str> = Script::new(&clock).err("no").after(ms(5)).err("no").hang();
        let task = {
            let (pipeline, script) = (pipeline.clone(), Rc::new(script));
            executor.spawn(async move { pipeline.run(|it| script.play(it)).await.is_ok() })
        };
        for turn in 0..polls {
            executor.run_until_idle();
            clock.advance_to_next();
            let to = Bulkhead::new(1 + turn % 2).queue(3);
            let to = Pipeline::new()
                .bulkhead(to)
                .window(Window::new().max_parked(1));
            let to =
                to.retry(retry().budget(Budget::new(Ratio::percent(0)).capacity(2 + turn % 2)));
            pipeline.reload(&to).unwrap();
        }
        task.cancel(&executor);
        drop(task);
        let now = bulkhead.snapshot();
        assert_eq!((now.in_flight, now.waiting), (0, 0), "{polls}");
        // What an attempt spent is spent; what was only set aside is there.
        let budget = budget.snapshot();
        #[allow(clippy::cast_precision_loss)]
        let spent = budget.extra_attempts as f64;
        assert!(budget.available <= 3.0 - spent + 1e-9);
        assert!(
            budget.available >= 2.0 - spent - 1e-9,
            "{polls}: {budget:?}"
        );
    }
}

#[test]
fn on_real_threads_no_limit_is_passed_by_changing_it() {
    const MOST: u32 = 4;
    let bulkhead = Bulkhead::new(MOST).queue(100);
    let pipeline = Pipeline::new().bulkhead(bulkhead.clone()).reloadable();
    let (running, done) = (AtomicU32::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let workers: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn(|| {
                    let mut went = 0;
                    while !done.load(Ordering::Relaxed) || went == 0 {
                        let Some(permit) = bulkhead.try_acquire() else {
                            thread::yield_now();
                            continue;
                        };
                        assert!(running.fetch_add(1, Ordering::Relaxed) < MOST);
                        went += 1;
                        running.fetch_sub(1, Ordering::Relaxed);
                        drop(permit);
                    }
                })
            })
            .collect();
        for turn in 0..3_000 {
            let to = Bulkhead::new(1 + turn % MOST).queue(turn as usize % 5);
            pipeline.reload(&Pipeline::new().bulkhead(to)).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        for worker in workers {
            worker.join().unwrap();
        }
    });
    let now = bulkhead.snapshot();
    assert_eq!((now.in_flight, now.waiting), (0, 0));
}

// --- helpers ---------------------------------------------------------------------------------------

fn every_policy(clock: &ManualClock) -> Pipeline {
    Pipeline::new()
        .deadline(secs(10))
        .timeout(secs(1))
        .retry(attempts(3).budget(Budget::default()))
        .throttle(Throttle::new())
        .window(Keyed::new(Window::new()))
        .rate_limit(RateLimit::per_second(9))
        .bulkhead(Bulkhead::adaptive(Aimd::new()))
        .breaker(Keyed::new(Breaker::new()))
        .clock(clock.clock())
}

/// The service asks for quiet.
fn hush(window: &Window, length: Duration, now: Instant) {
    let permit = window.try_acquire(now).unwrap();
    let verdict = Verdict::new(Kind::Overloaded).hint(Hint::After(length));
    let _ = permit.record(verdict, ms(1), now);
}

fn rejected<E: std::fmt::Debug>(error: &Error<E>) -> Rejected {
    match error.cause() {
        Cause::Rejected(rejected) => *rejected,
        other => panic!("{other:?}"),
    }
}

/// For calls that are over at once.
fn block_on_no_time<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let waker = std::task::Waker::noop();
    match future
        .as_mut()
        .poll(&mut std::task::Context::from_waker(waker))
    {
        std::task::Poll::Ready(it) => it,
        std::task::Poll::Pending => panic!("it waits"),
    }
}
