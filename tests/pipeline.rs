//! The engine, run from closures.
#![cfg(feature = "testing")]

use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use evenkeel::backoff::Backoff;
use evenkeel::budget::Ratio;
use evenkeel::clock::{BoxSleep, Clock, Runtime, Why};
use evenkeel::error::{Cause, Limit};
use evenkeel::event::{End, Observer};
use evenkeel::report::{Stop, WaitReason};
use evenkeel::testing::{ManualClock, Script, block_on};
use evenkeel::verdict::{Hint, Kind, Label, Processed, Verdict, by};
use evenkeel::{
    Breaker, Budget, Bulkhead, Deadline, Error, Event, Key, Keyed, Pipeline, Retry, Rng, Window,
};
use proptest::prelude::*;

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

#[test]
fn the_callers_own_error_comes_back_unchanged_with_a_report() {
    #[derive(Debug, PartialEq)]
    struct Own(Vec<u8>);

    let clock = ManualClock::new();
    let pipeline = Pipeline::new()
        .retry(Retry::constant(ms(100)).max_attempts(2))
        .clock(clock.clock());
    let script = Script::<(), _>::new(&clock)
        .err(Own(vec![1]))
        .after(ms(7))
        .err(Own(vec![2, 3]));
    let error = block_on(&clock, pipeline.run(|attempt| script.play(attempt))).unwrap_err();

    assert_eq!(error.operation(), Some(&Own(vec![2, 3])));
    let report = error.report().clone();
    assert_eq!((report.attempts(), report.elapsed()), (2, ms(107)));
    assert_eq!(report.stop(), Some(Stop::AttemptsExhausted));
    assert_eq!(report.waited(), ms(100));
    let [first, last] = report.failures() else {
        panic!("{report:?}")
    };
    assert_eq!((first.number(), first.at()), (1, ms(7)));
    let wait = first.wait().expect("it waited");
    assert_eq!(
        (wait.length(), wait.reason()),
        (ms(100), WaitReason::Backoff)
    );
    assert_eq!((last.number(), last.at(), last.wait()), (2, ms(107), None));
    assert_eq!(error.into_operation(), Ok(Own(vec![2, 3])));
}

#[test]
fn a_rejected_value_comes_back_unchanged_when_attempts_end() {
    let clock = ManualClock::new();
    let pipeline = Pipeline::new()
        .retry(Retry::constant(ms(1)).max_attempts(3))
        .clock(clock.clock())
        .classify(by(|outcome: Result<&u32, &&str>| match outcome {
            Ok(503) => Verdict::new(Kind::Overloaded).label(Label::Status(503)),
            Ok(_) => Verdict::success(),
            Err(_) => Verdict::transient(),
        }));
    let script = Script::new(&clock).err("reset").ok(503).ok(503);
    let got = block_on(&clock, pipeline.run(|attempt| script.play(attempt)));
    assert_eq!(got, Ok(503));
    assert_eq!(script.begun().len(), 3);
}

#[test]
fn each_attempt_is_told_what_happened_before() {
    let clock = ManualClock::new();
    let pipeline = Pipeline::new()
        .retry(Retry::constant(ms(100)))
        .clock(clock.clock());
    let script = Script::new(&clock).err("a").after(ms(10)).ok(());
    block_on(&clock, pipeline.run(|attempt| script.play(attempt))).expect("the second succeeds");
    let [first, second] = script.attempts()[..] else {
        panic!("two attempts")
    };
    assert!(!first.is_retry() && first.previous().is_none() && first.delay().is_zero());
    assert!(second.is_retry());
    assert_eq!(
        (second.number(), second.delay(), second.elapsed()),
        (2, ms(100), ms(110))
    );
    assert_eq!(second.previous(), Some(Verdict::transient()));
    assert_eq!((second.deadline(), second.time_left()), (None, None));
}

#[test]
fn an_unsafe_call_is_repeated_only_if_provably_unprocessed() {
    let clock = ManualClock::new();
    let pipeline = Pipeline::new()
        .idempotent(false)
        .retry(Retry::constant(ms(1)).max_attempts(9))
        .clock(clock.clock())
        .classify(by(|outcome: Result<&(), &Processed>| match outcome {
            Ok(()) => Verdict::success(),
            Err(processed) => Verdict::transient().processed(*processed),
        }));
    let script = Script::new(&clock)
        .err(Processed::No)
        .err(Processed::No)
        .err(Processed::Maybe);
    let error = block_on(&clock, pipeline.run(|attempt| script.play(attempt))).unwrap_err();
    assert_eq!(error.attempts(), 3);
    let stop = error.report().stop();
    assert_eq!(stop, Some(Stop::NotSafe(Processed::Maybe)));
}

#[test]
fn without_a_retry_policy_a_call_is_made_once() {
    let clock = ManualClock::new();
    let pipeline = Pipeline::new().clock(clock.clock());
    let script = Script::<(), _>::new(&clock).err("a");
    let error = block_on(&clock, pipeline.run(|attempt| script.play(attempt))).unwrap_err();
    assert_eq!(
        (error.attempts(), error.report().stop()),
        (1, Some(Stop::NoRetryPolicy))
    );
    assert_eq!(error.into_cause(), Cause::Operation("a"));
}

#[test]
fn nonsense_is_refused_by_name_and_nothing_is_sent() {
    let zero = Duration::ZERO;
    let cases: [(Pipeline, &str); 6] = [
        (Pipeline::new().deadline(zero), "pipeline.deadline"),
        (Pipeline::new().timeout(zero), "pipeline.timeout"),
        (
            Retry::default().max_attempts(0).into(),
            "retry.max_attempts",
        ),
        (
            Retry::default()
                .backoff(evenkeel::backoff::Backoff::exponential(ms(2)).max_delay(ms(1)))
                .into(),
            "backoff.max_delay",
        ),
        (
            Retry::default()
                .budget(Budget::default().cost(Kind::Transient, 0))
                .into(),
            "budget.cost",
        ),
        (
            Retry::default()
                .budget(Budget::default().capacity_of(zero, 1))
                .into(),
            "budget.capacity_of",
        ),
    ];
    for (pipeline, field) in cases {
        assert_eq!(pipeline.check().unwrap_err().field(), field);
        let clock = ManualClock::new();
        let script = Script::<(), ()>::new(&clock);
        let pipeline = pipeline.clock(clock.clock());
        let error = block_on(&clock, pipeline.run(|attempt| script.play(attempt))).unwrap_err();
        assert!(matches!(error.cause(), Cause::Config(it) if it.field() == field));
        assert!(script.begun().is_empty());
    }
    assert_eq!(Ratio::try_from(f64::NAN).unwrap_err().field(), "ratio");
    // What makes sense again is no longer refused.
    let mended = Pipeline::new().deadline(zero).deadline(ms(1));
    assert!(mended.check().is_ok());
}

#[test]
fn the_budget_bounds_retries_over_many_calls() {
    let clock = ManualClock::new();
    let budget = Budget::new(Ratio::percent(10)).capacity(3);
    let pipeline = Pipeline::new()
        .retry(
            Retry::constant(ms(1))
                .max_attempts(4)
                .budget(budget.clone()),
        )
        .clock(clock.clock());
    let mut attempts = 0;
    for _ in 0..1000 {
        let error = block_on(&clock, pipeline.run(|_| async { Err::<(), _>("down") }));
        attempts += error.unwrap_err().attempts();
    }
    // 3 to begin with, and a tenth of all but the first, which found the bucket full.
    assert_eq!(attempts, 1000 + 3 + 99);
    assert_eq!(budget.snapshot().extra_attempts, 102);
}

#[test]
fn every_retry_and_every_stop_is_one_event_with_its_numbers() {
    let clock = ManualClock::new();
    let events = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&events);
    let pipeline = Pipeline::new()
        .retry(
            Retry::constant(ms(5))
                .max_attempts(2)
                .budget(Budget::default().capacity(2)),
        )
        .clock(clock.clock())
        .observer(move |event: &Event| log.lock().unwrap().push(*event));
    let _ = block_on(&clock, pipeline.run(|_| async { Err::<(), _>("down") }));
    let events = events.lock().unwrap();
    let [
        Event::Retry {
            attempt: 1,
            wait,
            budget: Some(after),
            ..
        },
        Event::Stop {
            attempt: 2,
            stop: Stop::AttemptsExhausted,
            ..
        },
        Event::Done {
            attempts: 2,
            end: End::Failed(_),
            elapsed,
            ..
        },
    ] = events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!((wait.length(), elapsed), (ms(5), ms(5)));
    assert!((after.available - 1.0).abs() < 1e-9, "{after:?}");
}

#[test]
fn a_panic_in_an_observer_poisons_nothing() {
    let clock = ManualClock::new();
    let budget = Budget::default().capacity(5);
    let retry = || Retry::constant(ms(1)).budget(budget.clone());
    let broken = Pipeline::new()
        .retry(retry())
        .clock(clock.clock())
        .observer(|_: &Event| panic!("observer"));
    let call = || block_on(&clock, broken.run(|_| async { Err::<(), _>("down") }));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).is_err());
    // What was withdrawn came back while the panic passed through, and the lock still works.
    assert!((budget.snapshot().available - 5.0).abs() < 1e-9);
    let sound = Pipeline::new().retry(retry()).clock(clock.clock());
    let got = block_on(
        &clock,
        sound.run(|it| async move { it.is_retry().then_some(()).ok_or(()) }),
    );
    assert_eq!(got, Ok(()));
}

#[test]
fn an_observer_may_use_the_budget_it_is_told_about() {
    // Would deadlock if a lock were held across the callback.
    let clock = ManualClock::new();
    let budget = Budget::default();
    let watched = budget.clone();
    let pipeline = Pipeline::new()
        .retry(Retry::constant(ms(1)).budget(budget))
        .clock(clock.clock())
        .observer(move |_: &Event| {
            drop(watched.withdraw(Kind::Transient, std::time::Instant::now()));
        });
    let _ = block_on(&clock, pipeline.run(|_| async { Err::<(), _>("down") }));
}

#[test]
fn nested_pipelines_flatten_to_one_error() {
    let clock = ManualClock::new();
    let inner = Pipeline::new().timeout(ms(50)).clock(clock.clock());
    let outer = Pipeline::new()
        .retry(Retry::constant(ms(1)).max_attempts(2))
        .clock(clock.clock());
    let call = outer.run(|_| inner.run(|_| std::future::pending::<Result<(), &str>>()));
    let error: Error<Error<&str>> = block_on(&clock, call).unwrap_err();
    let flat: Error<&str> = error.flatten();
    assert_eq!(flat.attempts(), 2);
    assert!(matches!(flat.cause(), Cause::Elapsed(it) if it.limit() == Limit::Attempt));
}

#[test]
fn errors_say_what_happened_in_one_line() {
    let clock = ManualClock::new();
    let pipeline = Pipeline::new()
        .deadline(ms(150))
        .retry(Retry::constant(ms(100)))
        .clock(clock.clock());
    let script = Script::<(), _>::new(&clock).err("a").err("b");
    let error = block_on(&clock, pipeline.run(|attempt| script.play(attempt))).unwrap_err();
    let said = error.to_string();
    assert_eq!(
        said,
        "operation failed (2 attempts in 100.0ms, deadline too close)"
    );
}

/// Everything below: a service that asks for quiet.
fn quiet(hint: Duration) -> Verdict {
    Verdict::new(Kind::Overloaded).hint(Hint::After(hint))
}

fn holding(
    clock: &ManualClock,
) -> Pipeline<impl evenkeel::verdict::Classify<&'static str, u64> + Clone + use<>> {
    Pipeline::new()
        .window(Keyed::new(Window::new()))
        .retry(Retry::constant(ms(1)).max_attempts(1))
        .clock(clock.clock())
        .rng(Rng::seeded(5))
        .classify(by(|outcome: Result<&&'static str, &u64>| match outcome {
            Ok(_) => Verdict::success(),
            Err(hint) => quiet(ms(*hint)),
        }))
}

#[test]
fn what_one_response_said_holds_for_other_calls_to_that_key_alone() {
    let clock = ManualClock::new();
    let pipeline = holding(&clock);
    let (held, free) = (Key::of("held"), Key::of("free"));
    let told = pipeline.run(|_| async { Err(2000) }).keyed(held);
    let error = block_on(&clock, told).unwrap_err();
    assert_eq!(error.retry_after(), Some(ms(2000)));

    // Another key goes at once; the held one waits, and not only until the moment itself.
    let other = pipeline.run(|_| async { Ok("free") }).keyed(free);
    assert_eq!(block_on(&clock, other), Ok("free"));
    assert_eq!(clock.elapsed(), ms(0));
    let same = pipeline.run(|_| async { Ok("held") }).keyed(held);
    assert_eq!(block_on(&clock, same), Ok("held"));
    assert!(clock.elapsed() >= ms(2000) && clock.elapsed() <= ms(4000));
}

#[test]
fn a_held_call_whose_deadline_is_too_close_fails_at_once_and_says_when_to_come_back() {
    // The moment of its own that the client chose for its first attempt after the quiet.
    let first = ms(2000)..=ms(3250);
    for (deadline, goes) in [(ms(1000), false), (ms(2000), false), (ms(4000), true)] {
        let clock = ManualClock::new();
        let pipeline = holding(&clock);
        let key = Key::of("held");
        let _ = block_on(&clock, pipeline.run(|_| async { Err(2000) }).keyed(key));
        let script = Script::new(&clock).ok("x");
        let pipeline = pipeline.deadline(deadline);
        let run = pipeline.run(|attempt| script.play(attempt)).keyed(key);
        match block_on(&clock, run) {
            Ok(_) => assert!(goes && first.contains(&script.begun()[0])),
            Err(error) => {
                assert!(!goes && script.begun().is_empty());
                assert!(matches!(error.cause(), Cause::Rejected(_)));
                let retry_after = error.retry_after().expect("it is known");
                assert!(first.contains(&retry_after), "{retry_after:?}");
                assert_eq!(clock.elapsed(), ms(0));
            }
        }
    }
}

#[test]
fn the_way_back_from_a_hold_is_spread_and_no_stampede() {
    let clock = ManualClock::new();
    let pipeline = holding(&clock);
    let key = Key::of("held");
    let _ = block_on(&clock, pipeline.run(|_| async { Err(10_000) }).keyed(key));
    let executor = evenkeel::testing::Executor::new(&clock);
    let script = (0..100).fold(Script::new(&clock), |script, _| script.ok("back"));
    for _ in 0..100 {
        let (pipeline, script) = (pipeline.clone(), script.clone());
        let _ = executor.spawn(async move { pipeline.run(|it| script.play(it)).keyed(key).await });
    }
    assert_eq!(executor.run(), 0);
    let begun = script.begun();
    let until = |end| begun.iter().filter(|at| **at < end).count();
    // From less than one a second, by what the answers allow, to all of a hundred in ten seconds.
    assert_eq!(until(ms(10_000)), 0);
    assert!(until(ms(11_250)) <= 2, "{begun:?}");
    assert!(until(ms(12_500)) <= 8, "{begun:?}");
    assert_eq!(until(ms(20_000)), 100, "{begun:?}");
}

#[test]
fn a_failed_retry_loop_waits_on_the_monotonic_clock_alone() {
    // A wall clock that jumps between reading the hint and the end of the wait.
    struct Jumping(ManualClock);

    impl Runtime for Jumping {
        fn now(&self) -> Instant {
            self.0.now()
        }
        fn wall(&self) -> SystemTime {
            // An hour back for each second that passes.
            let back = u32::try_from(self.0.elapsed().as_secs()).unwrap_or(u32::MAX);
            SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40) - ms(3_600_000) * back
        }
        fn sleep_until(&self, at: Instant, why: Why) -> BoxSleep {
            self.0.sleep_until(at, why)
        }
    }

    let clock = ManualClock::new();
    let jumping = Clock::custom(Jumping(clock.clone()));
    let at = jumping.wall() + ms(7000);
    let pipeline = Pipeline::new()
        .retry(Retry::constant(ms(1)).hint_spread(Duration::ZERO))
        .clock(jumping)
        .classify(by(move |outcome: Result<&(), &&str>| match outcome {
            Ok(()) => Verdict::success(),
            Err(_) => Verdict::new(Kind::Overloaded).hint(Hint::At(at)),
        }));
    let script = Script::new(&clock).err("maintenance").ok(());
    block_on(&clock, pipeline.run(|attempt| script.play(attempt))).expect("it comes back");
    assert_eq!(clock.waits(), [ms(7000)]);
}

#[tokio::test]
async fn retries_without_a_wait_let_other_tasks_have_their_turn() {
    let pipeline = Pipeline::new().retry(Retry::constant(Duration::ZERO).max_attempts(u32::MAX));
    let endless = pipeline.run(|_| async { Err::<(), _>("down") });
    tokio::select! {
        biased;
        _ = endless => unreachable!("it would take minutes"),
        () = async { tokio::task::yield_now().await } => {}
    }
}

#[tokio::test]
async fn a_call_may_borrow_and_may_be_spawned() {
    let pipeline = Pipeline::new().retry(Retry::constant(Duration::ZERO));
    let words = vec!["busy".to_owned(), "fine".to_owned()];
    let borrowed = pipeline.run(|attempt| {
        let word = &words[attempt.number() as usize - 1];
        async move {
            if word == "fine" {
                Ok(word.len())
            } else {
                Err(word)
            }
        }
    });
    assert_eq!(borrowed.await.map_err(|_| ()), Ok(4));

    let spawned = tokio::spawn(async move {
        let mut tries = 0;
        let call = pipeline.run(|_| {
            tries += 1;
            let (enough, words) = (tries == 3, &words);
            async move {
                tokio::task::yield_now().await;
                if enough { Ok(words.len()) } else { Err(()) }
            }
        });
        call.await
    });
    assert_eq!(spawned.await.expect("no panic"), Ok(2));
}

/// A clock that counts how often it is read.
#[derive(Clone, Default)]
struct Counting(Arc<[AtomicU32; 2]>);

impl Counting {
    /// Readings of the monotonic and of the wall clock since the last time.
    fn readings(&self) -> (u32, u32) {
        let [now, wall] = &*self.0;
        (now.swap(0, Relaxed), wall.swap(0, Relaxed))
    }

    fn clock(&self) -> Clock {
        Clock::custom(self.clone())
    }
}

impl Runtime for Counting {
    fn now(&self) -> Instant {
        self.0[0].fetch_add(1, Relaxed);
        Instant::now()
    }

    fn wall(&self) -> SystemTime {
        self.0[1].fetch_add(1, Relaxed);
        SystemTime::now()
    }

    fn sleep_until(&self, _: Instant, _: Why) -> BoxSleep {
        unreachable!("nothing waits here")
    }
}

#[test]
fn a_call_that_succeeds_at_once_reads_the_clock_once_at_most() {
    let clock = Counting::default();
    let bare = Pipeline::new()
        .retry(Retry::constant(ms(0)))
        .timeout(ms(100))
        .clock(clock.clock());
    let whole = bare
        .clone()
        .deadline(ms(1000))
        .retry(Retry::constant(ms(0)).budget(Budget::default()))
        .breaker(Breaker::new());
    let call = |pipeline: &Pipeline| {
        let mut call = pin!(pipeline.run(|_| async { Ok::<_, ()>(7) }));
        assert!(call.as_mut().poll(&mut cx()).is_ready());
        clock.readings()
    };
    for _ in 0..100 {
        assert_eq!(call(&bare), (0, 0));
        assert_eq!(call(&whole), (1, 0));
    }
}

#[test]
fn a_failure_reads_the_clock_once_and_the_wall_not_at_all() {
    let clock = Counting::default();
    let pipeline = Pipeline::new()
        .retry(Retry::constant(ms(0)).budget(Budget::default().capacity(1000)))
        .clock(clock.clock());
    let mut call =
        pin!(pipeline.run(|it| async move { if it.number() < 3 { Err("down") } else { Ok(7) } }));
    assert!(call.as_mut().poll(&mut cx()).is_ready());
    // And once for the budget, which counts the traffic by time.
    let (now, wall) = clock.readings();
    assert!((2..=3).contains(&now), "{now}");
    assert_eq!(wall, 0);
}

#[test]
fn time_that_an_attempt_took_at_once_counts_where_it_is_seen() {
    // It blocks: for the engine it is over when it is first looked at.
    let clock = ManualClock::new();
    let pipeline = Pipeline::new()
        .deadline(ms(100))
        .retry(Retry::constant(ms(0)))
        .clock(clock.clock())
        .classify(by(|outcome: Result<&u32, &&str>| match outcome {
            Ok(0) | Err(_) => Verdict::transient(),
            Ok(_) => Verdict::success(),
        }));
    let run = |pipeline: &Pipeline<_>, takes: u64, outcome: Result<u32, &'static str>| {
        let clock = clock.clone();
        block_on(
            &clock.clone(),
            pipeline.run(move |_| {
                clock.advance(ms(takes));
                std::future::ready(outcome)
            }),
        )
    };
    for failure in [Ok(0), Err("down")] {
        // No attempt begins past the deadline, and one does just before.
        let attempts = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&attempts);
        let observed = pipeline.clone().observer(move |event: &Event| {
            if let Event::Done { attempts, .. } = event {
                told.lock().unwrap().push(*attempts);
            }
        });
        let _ = run(&observed, 100, failure);
        let _ = run(&observed, 99, failure);
        assert_eq!(*attempts.lock().unwrap(), [1, 2]);
    }
    // And who wants to know of all calls is told how long they took.
    let all = All(Arc::default());
    let observed = pipeline.observer(all.clone());
    assert_eq!(run(&observed, 7, Ok(1)), Ok(1));
    assert_eq!(*all.0.lock().unwrap(), [ms(7)]);
}

#[derive(Clone)]
struct All(Arc<Mutex<Vec<Duration>>>);

impl Observer for All {
    fn observe(&self, event: &Event) {
        if let Event::Done { elapsed, .. } = event {
            self.0.lock().unwrap().push(*elapsed);
        }
    }

    fn wants_all(&self) -> bool {
        true
    }
}

#[test]
fn each_attempt_knows_how_long_the_call_runs_whether_it_follows_at_once_on_time_or_late() {
    for (delay, slept, seconds) in [(0, 0, [0, 3, 6]), (1, 1, [0, 4, 8]), (1, 5, [0, 8, 16])] {
        let clock = ManualClock::new();
        let pipeline = Pipeline::new()
            .deadline(ms(60_000)) // so that the clock is read at the beginning
            .retry(Retry::constant(ms(delay * 1000)))
            .clock(clock.clock());
        let told = Mutex::new(Vec::new());
        let mut call = pin!(pipeline.run(|it| {
            told.lock().unwrap().push((it.elapsed(), it.delay()));
            clock.advance(ms(3000));
            std::future::ready(Err::<(), _>("busy"))
        }));
        while call.as_mut().poll(&mut cx()).is_pending() {
            clock.advance(ms(slept * 1000));
        }
        let delays = [0, delay, delay];
        let wanted: Vec<_> = (0..3)
            .map(|n| (ms(seconds[n] * 1000), ms(delays[n] * 1000)))
            .collect();
        assert_eq!(*told.lock().unwrap(), wanted, "{delay} s, slept {slept} s");
    }
}

#[test]
fn a_wait_for_the_breaker_counts_from_the_refusal_and_not_from_the_failure() {
    let clock = ManualClock::new();
    let breaker = Breaker::new()
        .consecutive_failures(2)
        .cooldown(evenkeel::backoff::Backoff::constant(ms(5000)));
    let pipeline = Pipeline::new()
        .deadline(ms(60_000)) // so that the clock is read at the beginning
        .retry(Retry::constant(ms(1000)).max_attempts(2))
        .breaker(breaker.clone())
        .clock(clock.clock());
    let told = Mutex::new(Vec::new());
    let mut call = pin!(pipeline.run(|it| {
        told.lock().unwrap().push((it.elapsed(), it.delay()));
        clock.advance(ms(3000));
        std::future::ready(Err::<(), _>("busy"))
    }));
    assert!(call.as_mut().poll(&mut cx()).is_pending());
    clock.advance(ms(1000));
    let other = Pipeline::new().breaker(breaker).clock(clock.clock());
    let opens = block_on(&clock, other.run(|_| std::future::ready(Err::<(), _>(()))));
    assert!(opens.is_err());
    assert!(call.as_mut().poll(&mut cx()).is_pending());
    clock.advance(ms(5000));
    assert!(call.as_mut().poll(&mut cx()).is_ready());
    assert_eq!(
        *told.lock().unwrap(),
        [(ms(0), ms(0)), (ms(9000), ms(5000))]
    );
}

#[test]
fn a_call_that_panicked_is_over_and_gives_back_what_it_held() {
    let bulkhead = Bulkhead::new(1);
    let straight = Pipeline::new().retry(Retry::constant(ms(0)));
    let gated = straight.clone().bulkhead(bulkhead.clone());
    let all = [(gated, true), (straight, false)];
    for ((pipeline, is_gated), pending) in all.iter().flat_map(|it| [(it, 0), (it, 1)]) {
        let (begun, polled) = (AtomicU32::new(0), AtomicU32::new(0));
        let mut call = Box::pin(pipeline.run(|_| {
            begun.fetch_add(1, Relaxed);
            std::future::poll_fn(|_| -> Poll<Result<(), ()>> {
                if polled.fetch_add(1, Relaxed) < pending {
                    return Poll::Pending;
                }
                panic!("a bug of the caller's")
            })
        }));
        let mut poll = || {
            let poll = std::panic::AssertUnwindSafe(|| call.as_mut().poll(&mut cx()));
            std::panic::catch_unwind(poll).is_err()
        };
        for _ in 0..pending {
            assert!(!poll());
        }
        assert!(poll());
        assert!(poll());
        assert_eq!(begun.load(Relaxed), 1);
        assert_eq!(polled.load(Relaxed), pending + 1);
        assert_eq!(bulkhead.try_acquire().is_none(), *is_gated);
        drop(call);
        assert!(bulkhead.try_acquire().is_some());
    }
}

/// What became of a call that was dropped after so many polls, if it wasn't over before.
fn course(
    pipeline: &Pipeline,
    clock: &ManualClock,
    steps: &[(u8, u64)],
    polls: usize,
    until: Option<u64>,
) -> String {
    let budget = Budget::new(Ratio::percent(60)).capacity(3);
    let retry = Retry::constant(ms(5)).max_attempts(4);
    let pipeline = pipeline
        .clone()
        .retry(retry.budget(budget.clone()))
        .rng(Rng::seeded(7))
        .clock(clock.clock());
    let script = steps.iter().fold(Script::new(clock), |script, &step| {
        let script = match step {
            (0, _) => return script.hang(),
            (1 | 2, number) => script.ok(number),
            (_, number) => script.err(number),
        };
        match step.1 {
            0 => script,
            delay => script.after(ms(delay)),
        }
    });
    let (mut told, mut timers) = (Vec::new(), Vec::new());
    let mut ended = None;
    for _ in 0..steps.len() / 4 {
        let call = pipeline.run(|attempt| {
            let (began, left) = (attempt.elapsed(), attempt.time_left());
            told.push((attempt.number(), attempt.total(), began, left));
            script.play(attempt)
        });
        let mut call = Box::pin(match until {
            Some(length) => call.until(Deadline::after(clock.now(), ms(length))),
            None => call,
        });
        for _ in 0..polls {
            if let Poll::Ready(result) = call.as_mut().poll(&mut cx()) {
                ended = Some(result.map_err(|error| {
                    let report = error.report();
                    let numbers = (report.attempts(), report.elapsed(), report.stop());
                    (
                        format!("{:?}", report.failures()),
                        numbers,
                        error.to_string(),
                    )
                }));
                break;
            }
            clock.advance_to_next();
        }
        // While the call itself is still there.
        timers.push(clock.pending().len());
    }
    format!(
        "{ended:?} {told:?} {timers:?} {:?} {:?}",
        script.begun(),
        budget.snapshot()
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// A call with nothing in front of it goes another way than one of whose success somebody is told.
    #[test]
    fn who_is_told_makes_no_difference(
        steps in proptest::collection::vec((0_u8..6, 0_u64..40), 12..13),
        timeout in proptest::option::of(10_u64..60),
        polls in 1_usize..12,
    ) {
        let pipeline = timeout.map_or_else(Pipeline::new, |it| Pipeline::new().timeout(ms(it)));
        let of = |pipeline: &Pipeline| course(pipeline, &ManualClock::new(), &steps, polls, None);
        let all = All(Arc::default());
        let watched = pipeline.clone().observer(all.clone());
        let reloaded = Pipeline::new().deadline(ms(9)).reloadable();
        prop_assert!(reloaded.reload(&pipeline).is_ok());
        let expected = of(&watched);
        // Or this is no test: somebody was told of whatever ended.
        prop_assert!(expected.starts_with("None") || !all.0.lock().unwrap().is_empty());
        prop_assert_eq!(&of(&pipeline), &expected);
        prop_assert_eq!(&of(&reloaded), &expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// The same where a deadline, a window and a breaker are in front of it, which most of the time let it go
    /// at once.
    #[test]
    fn who_is_told_makes_no_difference_to_gates(
        steps in proptest::collection::vec((0_u8..9, 0_u64..40), 24..25),
        timeout in proptest::option::of(10_u64..60),
        deadline in proptest::option::of(10_u64..90),
        until in proptest::option::of(0_u64..90),
        has_window in any::<bool>(),
        failures in proptest::option::of(1_u32..4),
        polls in 1_usize..12,
    ) {
        let of = |observer: Option<All>| {
            let clock = ManualClock::new();
            let (window, mut breaker) = (Window::new(), Breaker::new());
            let mut pipeline = timeout.map_or_else(Pipeline::new, |it| Pipeline::new().timeout(ms(it)));
            if let Some(length) = deadline {
                pipeline = pipeline.deadline(ms(length));
            }
            if has_window {
                pipeline = pipeline.window(window.clone());
            }
            if let Some(failures) = failures {
                breaker = breaker.consecutive_failures(failures).cooldown(Backoff::constant(ms(30)));
                pipeline = pipeline.breaker(breaker.clone());
            }
            if let Some(observer) = observer {
                pipeline = pipeline.observer(observer);
            }
            // Ends are compared as well as the way there.
            let course = course(&pipeline, &clock, &steps, polls, until);
            let (window, breaker) = (window.snapshot(), breaker.snapshot(clock.now()));
            format!("{course} {window:?} {breaker:?} {:?}", clock.elapsed())
        };
        let expected = of(Some(All(Arc::default())));
        prop_assert_eq!(of(None), expected);
    }
}

#[test]
fn what_is_told_of_a_first_attempt_is_told_on_either_way() {
    // There are more keys than the registry holds.
    for is_watched in [false, true] {
        let (clock, heard) = (ManualClock::new(), Arc::new(Mutex::new(Vec::new())));
        let told = Arc::clone(&heard);
        let hear = move |event: &Event| {
            if let Event::Changed { attempt, .. } = event {
                told.lock().unwrap().push(*attempt);
            }
        };
        let mut pipeline = Pipeline::new()
            .window(Keyed::new(Window::new()).capacity(1))
            .deadline(ms(1000))
            .clock(clock.clock())
            .observer(hear);
        if is_watched {
            pipeline = pipeline.observer(All(Arc::default()));
        }
        for key in ["a", "b", "c"] {
            let call = pipeline.run(|_| async { Ok::<_, ()>(()) });
            assert_eq!(block_on(&clock, call.keyed(Key::of(key))), Ok(()));
        }
        assert_eq!(*heard.lock().unwrap(), [1]);
    }
}

#[test]
fn a_success_on_the_plain_way_is_counted_by_window_and_breaker_with_its_time() {
    let clock = ManualClock::new();
    for is_watched in [false, true] {
        let (window, breaker) = (
            Window::new(),
            Breaker::new().window_of_calls(9).min_calls(9),
        );
        let mut pipeline = Pipeline::new()
            .window(window.clone())
            .breaker(breaker.clone())
            .clock(clock.clock());
        if is_watched {
            pipeline = pipeline.observer(All(Arc::default()));
        }
        for _ in 0..3 {
            let call = pipeline.run(|_| {
                let sleep = clock.clock().sleep_until(clock.now() + ms(20), Why::Other);
                async move {
                    sleep.await;
                    Ok::<_, ()>(())
                }
            });
            assert_eq!(block_on(&clock, call), Ok(()));
        }
        assert_eq!(breaker.snapshot(clock.now()).calls, 3);
        assert_eq!(window.snapshot().usual, ms(20));
    }
}

#[test]
fn a_ready_success_is_told_to_who_wants_all_and_counts_what_others_tried() {
    let all = All(Arc::default());
    let clock = ManualClock::new();
    let plain = Pipeline::new()
        .retry(Retry::constant(ms(0)).max_attempts(3))
        .clock(clock.clock());
    let watched = plain.clone().observer(all.clone());
    for (pipeline, told) in [(&plain, 0), (&watched, 1)] {
        let call = pipeline.run(|it| async move { Ok::<_, ()>((it.number(), it.total())) });
        assert_eq!(block_on(&clock, call.caller_attempt(2)), Ok((1, 2)));
        assert_eq!(all.0.lock().unwrap().len(), told);
    }
    // What the caller spent counts: two of three are left.
    let tries = AtomicU32::new(0);
    let call = plain.run(|_| {
        tries.fetch_add(1, Relaxed);
        async { Err::<(), _>("down") }
    });
    assert!(block_on(&clock, call.caller_attempt(2)).is_err());
    assert_eq!(tries.load(Relaxed), 2);
}

#[test]
fn an_attempt_has_its_whole_time_from_when_it_is_first_pending_on() {
    // The budget looks at the clock now and then: not for the attempt.
    let clock = ManualClock::new();
    let pipeline = Pipeline::new()
        .timeout(ms(2000))
        .retry(
            Retry::constant(ms(1))
                .max_attempts(1)
                .budget(Budget::default()),
        )
        .clock(clock.clock());
    // By whichever way it goes.
    let gated = pipeline.clone().window(Window::new());
    let held = pipeline.clone().bulkhead(Bulkhead::new(9));
    for (way, pipeline) in [pipeline, gated, held].iter().enumerate() {
        for number in 0..70 {
            let mut call = Box::pin(pipeline.run(|_| {
                clock.advance(ms(3000));
                std::future::pending::<Result<(), ()>>()
            }));
            assert!(
                call.as_mut().poll(&mut cx()).is_pending(),
                "{way}: call {number}"
            );
        }
    }
}

#[test]
fn what_was_before_an_attempt_is_the_last_failure_and_an_attempt_is_gone_when_it_is_judged() {
    /// Lives as long as its attempt.
    struct Alive<'a>(&'a AtomicU32);

    impl Drop for Alive<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Relaxed);
        }
    }

    let (clock, ends) = (ManualClock::new(), Arc::new(Mutex::new(Vec::new())));
    let (alive, told) = (AtomicU32::new(0), Arc::clone(&ends));
    let names = ["first", "second", "third"].map(Label::Name);
    let pipeline = Pipeline::new()
        .retry(Retry::constant(ms(0)).max_attempts(3))
        .observer(move |event: &Event| {
            if let Event::Done { end, .. } = event {
                told.lock().unwrap().push(*end);
            }
        })
        .clock(clock.clock())
        .classify(by(|outcome: Result<&(), &u32>| {
            assert_eq!(alive.load(Relaxed), 0, "it holds nothing any more");
            outcome.map_or_else(
                |number| Verdict::transient().label(names[*number as usize - 1]),
                |()| Verdict::success(),
            )
        }));
    let mut before = Vec::new();
    let call = pipeline.run(|it| {
        alive.fetch_add(1, Relaxed);
        before.push(it.previous().map(|it| it.error_type()));
        let (alive, number) = (Alive(&alive), it.number());
        // It is kept by the future, and not only while that is polled.
        let mut alive = Some(alive);
        std::future::poll_fn(move |_| {
            assert!(alive.as_mut().is_some());
            Poll::Ready(Err::<(), _>(number))
        })
    });
    let error = block_on(&clock, call).unwrap_err();
    assert_eq!(before, [None, Some(names[0]), Some(names[1])]);
    let [End::Failed(last)] = ends.lock().unwrap()[..] else {
        panic!("{ends:?}")
    };
    assert_eq!(last.error_type(), names[2]);
    assert_eq!(error.report().failures().len(), 3);
}

#[test]
fn a_retry_that_had_to_wait_in_line_knows_for_how_long_the_call_has_run() {
    let clock = ManualClock::new();
    let pipeline = Pipeline::new()
        .retry(Retry::constant(ms(0)).max_attempts(2))
        .rate_limit(evenkeel::RateLimit::per_second(1).burst(1))
        .clock(clock.clock());
    let mut elapsed = Vec::new();
    let call = pipeline.run(|it| {
        elapsed.push(it.elapsed());
        async { Err::<(), _>("down") }
    });
    assert!(block_on(&clock, call).is_err());
    assert_eq!(elapsed, [ms(0), ms(1000)]);
}

#[test]
fn settings_of_now_decide_what_is_in_front_of_a_call() {
    let clock = ManualClock::new();
    let pipeline = Pipeline::new().clock(clock.clock()).reloadable();
    let call = || {
        block_on(
            &clock,
            pipeline.run(|it| async move { Ok::<_, ()>(it.time_left()) }),
        )
    };
    assert_eq!(call(), Ok(None));
    let limited = Pipeline::new().deadline(ms(9));
    assert_eq!(pipeline.reload(&limited), Ok(()));
    assert_eq!(call(), Ok(Some(ms(9))));
    assert_eq!(pipeline.reload(&Pipeline::new()), Ok(()));
    assert_eq!(call(), Ok(None));
}

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

#[test]
fn a_classifier_that_panics_leaves_no_timer_behind_on_either_way() {
    for is_watched in [false, true] {
        let clock = ManualClock::new();
        let classify = by(|_: Result<&(), &()>| -> Verdict { panic!("a bug of the caller's") });
        let mut pipeline = Pipeline::new()
            .timeout(ms(50))
            .clock(clock.clock())
            .classify(classify);
        if is_watched {
            pipeline = pipeline.observer(All(Arc::default()));
        }
        let mut call = Box::pin(pipeline.run(|_| {
            let mut pending = true;
            std::future::poll_fn(move |_| {
                if std::mem::take(&mut pending) {
                    return Poll::Pending;
                }
                Poll::Ready(Ok::<_, ()>(()))
            })
        }));
        assert!(call.as_mut().poll(&mut cx()).is_pending());
        assert_eq!(clock.pending().len(), 1);
        let poll = std::panic::AssertUnwindSafe(|| call.as_mut().poll(&mut cx()));
        assert!(std::panic::catch_unwind(poll).is_err());
        assert_eq!(clock.pending().len(), 0, "watched: {is_watched}");
    }
}
