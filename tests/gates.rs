//! What stands in front of every attempt, driven by the engine.
#![cfg(feature = "testing")]

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use evenkeel::backoff::Backoff;
use evenkeel::breaker::State::{Closed, HalfOpen, Open};
use evenkeel::budget::Ratio;
use evenkeel::error::{Reason, Rejected};
use evenkeel::event::Change;
use evenkeel::limit::Order;
use evenkeel::report::{Stop, WaitReason};
use evenkeel::testing::{Executor, ManualClock, Script, Task, block_on};
use evenkeel::verdict::{By, Hint, Kind, Verdict, by};
use evenkeel::{
    Breaker, Budget, Bulkhead, Cause, Clock, Deadline, Error, Event, Key, Keyed, Pipeline,
    Priority, RateLimit, Retry, Rng, Throttle, Window, window,
};

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// All that was told, in order.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Event>>>);

impl Told {
    fn observer(&self) -> impl Fn(&Event) + Send + Sync + 'static {
        let told = Arc::clone(&self.0);
        move |event: &Event| told.lock().unwrap().push(*event)
    }

    fn all(&self) -> Vec<Event> {
        self.0.lock().unwrap().clone()
    }

    /// Number of the attempt, what it waits for, and how long at most.
    fn parked(&self) -> Vec<(u32, WaitReason, Option<Duration>)> {
        let parked = |event| match event {
            Event::Parked {
                attempt,
                reason,
                wait,
                ..
            } => Some((attempt, reason, wait)),
            _ => None,
        };
        self.all().into_iter().filter_map(parked).collect()
    }

    fn rejected(&self) -> Vec<(u32, Reason, Option<Duration>)> {
        let rejected = |event| match event {
            Event::Reject {
                attempt,
                reason,
                retry_after,
                ..
            } => Some((attempt, reason, retry_after)),
            _ => None,
        };
        self.all().into_iter().filter_map(rejected).collect()
    }

    fn changed(&self) -> Vec<(u32, Change)> {
        let changed = |event| match event {
            Event::Changed {
                attempt, change, ..
            } => Some((attempt, change)),
            _ => None,
        };
        self.all().into_iter().filter_map(changed).collect()
    }
}

/// One that a failure opens for a second.
fn touchy() -> Breaker {
    Breaker::new()
        .consecutive_failures(1)
        .cooldown(Backoff::constant(ms(1000)))
        .ramp(Duration::ZERO)
}

fn trip(breaker: &Breaker, now: Instant) {
    let rng = Rng::seeded(1);
    let permit = breaker.try_acquire(now, &rng).expect("it is closed");
    permit
        .record(Verdict::transient(), now, &rng)
        .expect("it trips");
}

/// Tells the window that the service asked for quiet.
fn hush(window: &Window, length: Duration, now: Instant) {
    let permit = window.try_acquire(now).expect("it is open");
    let verdict = Verdict::new(Kind::Overloaded).hint(Hint::After(length));
    let change = permit.record(verdict, ms(1), now).expect("it is told");
    assert_eq!(change.state, window::State::Quiet);
}

fn rejected<E: std::fmt::Debug>(error: &Error<E>) -> &Rejected {
    match error.cause() {
        Cause::Rejected(rejected) => rejected,
        cause => panic!("{cause:?}"),
    }
}

type Statuses = fn(Result<&u16, &()>) -> Verdict;

/// Numbers are statuses; 429 and 503 ask for two seconds.
fn statuses() -> By<Statuses> {
    by(|outcome| {
        let hint = Hint::After(Duration::from_secs(2));
        match outcome {
            Ok(200) => Verdict::success(),
            Ok(429) => Verdict::new(Kind::RateLimited).hint(hint),
            Ok(503) => Verdict::new(Kind::Overloaded).hint(hint),
            _ => Verdict::transient(),
        }
    })
}

async fn nap(clock: Clock, length: Duration) {
    let end = clock.now() + length;
    clock.sleep_until(end, evenkeel::clock::Why::Other).await;
}

/// Tasks that note when they began and whether they went.
struct Crowd {
    executor: Executor,
    clock: ManualClock,
    log: Rc<RefCell<Vec<(u32, Duration)>>>,
}

impl Crowd {
    fn new(clock: &ManualClock) -> Self {
        Self {
            executor: Executor::new(clock),
            clock: clock.clone(),
            log: Rc::default(),
        }
    }

    /// A call that takes so long.
    fn call(&self, id: u32, pipeline: &Pipeline, takes: Duration) -> Task<Result<u32, Error<()>>> {
        self.call_until(id, pipeline, takes, None)
    }

    fn call_until(
        &self,
        id: u32,
        pipeline: &Pipeline,
        takes: Duration,
        deadline: Option<Deadline>,
    ) -> Task<Result<u32, Error<()>>> {
        let (pipeline, clock) = (pipeline.clone(), self.clock.clone());
        let log = Rc::clone(&self.log);
        self.executor.spawn(async move {
            let call = pipeline.run(|_| {
                log.borrow_mut().push((id, clock.elapsed()));
                let nap = nap(clock.clock(), takes);
                async move {
                    nap.await;
                    Ok(id)
                }
            });
            match deadline {
                Some(deadline) => call.until(deadline).await,
                None => call.await,
            }
        })
    }

    fn order(&self) -> Vec<u32> {
        self.log.borrow().iter().map(|it| it.0).collect()
    }

    fn begun(&self) -> Vec<Duration> {
        self.log.borrow().iter().map(|it| it.1).collect()
    }
}

// --- breaker -------------------------------------------------------------------------------------

#[test]
fn a_first_attempt_that_finds_the_breaker_open_is_refused_at_once_and_nothing_begins() {
    let (clock, told, breaker) = (ManualClock::new(), Told::default(), touchy());
    trip(&breaker, clock.now());
    clock.advance(ms(300));
    let bulkhead = Bulkhead::new(1);
    let budget = Budget::default();
    let pipeline = Pipeline::new()
        .deadline(ms(60_000))
        .retry(Retry::default().budget(budget.clone()))
        .bulkhead(bulkhead.clone())
        .breaker(breaker)
        .observer(told.observer())
        .clock(clock.clock());
    let script = Script::<(), ()>::new(&clock);
    let error = block_on(&clock, pipeline.run(|it| script.play(it))).unwrap_err();
    assert_eq!(rejected(&error).reason(), Reason::BreakerOpen);
    assert_eq!(rejected(&error).retry_at(), Some(clock.now() + ms(700)));
    assert_eq!(error.retry_at(), rejected(&error).retry_at());
    assert_eq!((error.attempts(), error.retry_after()), (0, Some(ms(700))));
    assert_eq!((clock.elapsed(), script.begun()), (ms(300), vec![]));
    let refused = [(1, Reason::BreakerOpen, Some(ms(700)))];
    // And nothing more but the end.
    assert_eq!((told.rejected(), told.all().len()), (refused.to_vec(), 2));
    assert_eq!(bulkhead.snapshot().in_flight, 0);
    assert_eq!(budget.snapshot().first_attempts, 0);
}

#[test]
fn an_attempt_that_trips_the_breaker_waits_until_it_half_opens_and_then_probes() {
    let (clock, told, breaker) = (ManualClock::new(), Told::default(), touchy());
    let pipeline = Pipeline::new()
        .deadline(ms(10_000))
        .retry(Retry::constant(ms(100)))
        .breaker(breaker.clone())
        .observer(told.observer())
        .clock(clock.clock());
    let script = Script::new(&clock).err(()).ok(7);
    let got = block_on(&clock, pipeline.run(|it| script.play(it)));
    assert_eq!(got, Ok(7));
    assert_eq!(script.begun(), [ms(0), ms(1000)]);
    let states: Vec<_> = told
        .changed()
        .into_iter()
        .map(|(attempt, change)| match change {
            Change::Breaker(change) => (attempt, change.from, change.to),
            change => panic!("{change:?}"),
        })
        .collect();
    // Each number is that of the attempt that asked or ended.
    assert_eq!(
        states,
        [
            (1, Closed, Open),
            (2, Open, HalfOpen),
            (2, HalfOpen, Closed)
        ]
    );
    let calls: Vec<_> = told.all().iter().map(Event::call).collect();
    assert!(calls.iter().all(|call| *call == calls[0]), "{calls:?}");
}

#[test]
fn all_that_is_told_of_one_call_has_its_number() {
    let (clock, told) = (ManualClock::new(), Told::default());
    // Told at once that there are too many keys, and then of a failure.
    let keyed = Keyed::new(Bulkhead::new(5)).capacity(1);
    let pipeline = Pipeline::new()
        .retry(Retry::constant(ms(1)).max_attempts(2))
        .bulkhead(keyed.clone())
        .observer(told.observer())
        .clock(clock.clock());
    let _held = keyed.get(Key::of("a"), Instant::now);
    let call = pipeline.run(|_| async { Err::<(), _>(()) });
    let error = block_on(&clock, call.keyed(Key::of("b"))).unwrap_err();
    let told = told.all();
    assert!(
        matches!(
            told[..],
            [
                Event::Changed {
                    attempt: 1,
                    change: Change::Keyed(_),
                    ..
                },
                Event::Retry { .. },
                Event::Stop { .. },
                Event::Done { .. }
            ]
        ),
        "{told:?}"
    );
    for event in told {
        assert_eq!(event.call(), error.report().call(), "{event:?}");
    }
}

#[test]
fn a_retry_that_cannot_wait_for_the_breaker_ends_at_once_with_the_last_outcome() {
    // It may half-open at 1000 ms: one that must be over by then can't wait for it.
    for (deadline, ended) in [(1000, true), (1001, false)] {
        let clock = ManualClock::new();
        let pipeline = Pipeline::new()
            .deadline(ms(deadline))
            .retry(Retry::constant(ms(100)))
            .breaker(touchy())
            .clock(clock.clock());
        let script = Script::new(&clock).err("own").ok(7);
        let got = block_on(&clock, pipeline.run(|it| script.play(it)));
        if !ended {
            assert_eq!(got, Ok(7));
            continue;
        }
        let error = got.unwrap_err();
        assert_eq!(error.operation(), Some(&"own"));
        assert_eq!(error.report().stop(), Some(Stop::DeadlineTooClose));
        assert_eq!(error.retry_at(), Some(clock.now() + ms(1000)));
        assert_eq!(clock.elapsed(), Duration::ZERO);
    }
}

/// A retry that waits 100 ms finds a breaker open that tripped at 50 ms.
fn finds_it_open(deadline: Option<Duration>) -> (ManualClock, Told, Result<u32, Error<()>>) {
    let (clock, told, breaker) = (ManualClock::new(), Told::default(), touchy());
    let mut pipeline = Pipeline::new()
        .retry(Retry::constant(ms(100)))
        .breaker(breaker.clone())
        .observer(told.observer())
        .classify(by(|outcome: Result<&u32, &()>| match outcome {
            Ok(_) => Verdict::success(),
            // Counts as nothing for the breaker.
            Err(()) => Verdict::new(Kind::RateLimited),
        }))
        .clock(clock.clock());
    if let Some(deadline) = deadline {
        pipeline = pipeline.deadline(deadline);
    }
    let executor = Executor::new(&clock);
    let now = clock.clone();
    let _ = executor.spawn(async move {
        nap(now.clock(), ms(50)).await;
        trip(&breaker, now.now());
    });
    let script = Script::new(&clock).err(()).ok(7);
    let got = executor.block_on(pipeline.run(|it| script.play(it)));
    (clock, told, got)
}

#[test]
fn a_retry_that_finds_the_breaker_open_waits_for_it() {
    let (clock, told, got) = finds_it_open(Some(ms(10_000)));
    assert_eq!((got, clock.elapsed()), (Ok(7), ms(1050)));
    assert_eq!(told.parked(), [(2, WaitReason::Breaker, Some(ms(950)))]);
    assert_eq!(told.rejected(), []);
}

#[test]
fn a_retry_that_waits_for_the_breaker_holds_no_place_and_no_token() {
    let (clock, breaker) = (ManualClock::new(), touchy());
    let bulkhead = Bulkhead::new(1);
    let rate = RateLimit::new(1, ms(1_000_000)).burst(5);
    let pipeline = Pipeline::new()
        .deadline(ms(10_000))
        .retry(Retry::constant(ms(100)))
        .bulkhead(bulkhead.clone())
        .rate_limit(rate.clone())
        .breaker(breaker.clone())
        .classify(by(|outcome: Result<&u32, &()>| match outcome {
            Ok(_) => Verdict::success(),
            Err(()) => Verdict::new(Kind::RateLimited),
        }))
        .clock(clock.clock());
    let executor = Executor::new(&clock);
    let script = Script::new(&clock).err(()).ok(7);
    let task = executor.spawn(async move { pipeline.run(|it| script.play(it)).await });
    executor.run_until_idle();
    trip(&breaker, clock.now());
    clock.advance(ms(100));
    executor.run_until_idle();
    assert_eq!(clock.pending()[0].why, evenkeel::clock::Why::Breaker);
    assert_eq!(bulkhead.snapshot().in_flight, 0);
    assert_eq!(rate.snapshot(clock.now()).available, 4);
    assert_eq!(executor.run(), 0);
    assert_eq!(task.take(), Some(Ok(7)));
    assert_eq!(rate.snapshot(clock.now()).available, 3);
}

#[test]
fn without_a_deadline_a_retry_waits_for_the_breaker_within_bounds() {
    let (clock, _, got) = finds_it_open(None);
    assert_eq!((got, clock.elapsed()), (Ok(7), ms(1050)));
}

#[test]
fn a_retry_that_finds_the_breaker_open_for_too_long_ends_at_once_and_says_until_when() {
    let (clock, told, got) = finds_it_open(Some(ms(1050)));
    let error = got.unwrap_err();
    assert_eq!(clock.elapsed(), ms(100));
    assert_eq!(rejected(&error).reason(), Reason::BreakerOpen);
    assert_eq!(error.retry_at(), Some(clock.now() + ms(950)));
    assert_eq!(told.rejected(), [(2, Reason::BreakerOpen, Some(ms(950)))]);
    assert_eq!(told.parked(), []);
}

#[test]
fn the_wait_for_a_breaker_never_passes_the_deadline() {
    // Found open at 100 ms, for 950 ms, or less and less: the least wait is longer than that.
    for deadline in [1051, 1055, 1059, 1060, 1061, 1100] {
        let (clock, _, got) = finds_it_open(Some(ms(deadline)));
        assert!(clock.elapsed() <= ms(deadline), "{deadline}: {got:?}");
    }
    for (left, deadline) in [(1, 102), (1, 105), (5, 107), (9, 112)] {
        let (clock, breaker) = (ManualClock::new(), touchy());
        let breaker = breaker.cooldown(Backoff::constant(ms(50 + left)));
        let pipeline = Pipeline::new()
            .deadline(ms(deadline))
            .retry(Retry::constant(ms(100)))
            .breaker(breaker.clone())
            .classify(by(|_: Result<&(), &()>| Verdict::new(Kind::RateLimited)))
            .clock(clock.clock());
        let executor = Executor::new(&clock);
        let now = clock.clone();
        let _ = executor.spawn(async move {
            nap(now.clock(), ms(50)).await;
            trip(&breaker, now.now());
        });
        let _ = executor.block_on(pipeline.run(|_| async { Err(()) }));
        assert!(
            clock.elapsed() <= ms(deadline),
            "ended at {:?}, to be over at {deadline} ms",
            clock.elapsed()
        );
    }
}

#[test]
fn a_retry_that_finds_a_probe_out_waits_for_what_comes_of_it() {
    let (clock, breaker) = (ManualClock::new(), touchy());
    let pipeline = Pipeline::new()
        .deadline(ms(10_000))
        .retry(Retry::constant(ms(100)))
        .breaker(breaker)
        .clock(clock.clock());
    // Both fail at once, so both wait for the same moment. The first of them probes, which takes a
    // while.
    let script = Script::new(&clock)
        .err("a")
        .after(ms(10))
        .err("b")
        .after(ms(10))
        .ok(1)
        .after(ms(50))
        .ok(2);
    let executor = Executor::new(&clock);
    let tasks: Vec<_> = (0..2)
        .map(|_| {
            let (pipeline, script) = (pipeline.clone(), script.clone());
            executor.spawn(async move { pipeline.run(|it| script.play(it)).await })
        })
        .collect();
    assert_eq!(executor.run(), 0);
    assert_eq!(tasks[0].take(), Some(Ok(1)));
    assert_eq!(tasks[1].take(), Some(Ok(2)));
}

#[test]
fn a_breaker_forced_open_ends_retries_at_once() {
    let (clock, breaker) = (ManualClock::new(), Breaker::new());
    let pipeline = Pipeline::new()
        .deadline(ms(10_000))
        .retry(Retry::constant(ms(100)))
        .breaker(breaker.clone())
        .clock(clock.clock());
    let now = clock.now();
    let call = pipeline.run(|_| {
        breaker.force_open(now);
        async { Err::<(), _>("own") }
    });
    let error = block_on(&clock, call).unwrap_err();
    assert_eq!(rejected(&error).reason(), Reason::BreakerOpen);
    assert_eq!((error.retry_at(), clock.elapsed()), (None, ms(100)));
}

#[test]
fn one_breaker_is_shared_by_two_pipelines() {
    let (clock, breaker) = (ManualClock::new(), touchy());
    let one = Pipeline::new()
        .breaker(breaker.clone())
        .clock(clock.clock());
    let other = Pipeline::new().breaker(breaker).clock(clock.clock());
    let failed = block_on(&clock, one.run(|_| async { Err::<(), _>("own") }));
    assert_eq!(failed.unwrap_err().operation(), Some(&"own"));
    let refused = block_on(&clock, other.run(|_| async { Ok::<_, ()>(()) })).unwrap_err();
    assert_eq!(rejected(&refused).reason(), Reason::BreakerOpen);
}

#[test]
fn an_open_breaker_refuses_a_call_before_it_stands_in_line() {
    let (clock, breaker, told) = (ManualClock::new(), touchy(), Told::default());
    let bulkhead = Bulkhead::new(1);
    let _held = bulkhead.try_acquire().expect("free");
    let pipeline = Pipeline::new()
        .bulkhead(bulkhead.clone())
        .breaker(breaker.clone())
        .observer(told.observer())
        .clock(clock.clock());
    trip(&breaker, clock.now());
    let error = block_on(&clock, pipeline.run(|_| async { Ok::<_, ()>(()) })).unwrap_err();
    assert_eq!(rejected(&error).reason(), Reason::BreakerOpen);
    assert_eq!(bulkhead.snapshot().waiting, 0);
    assert_eq!((told.parked(), told.rejected().len()), (vec![], 1));
}

#[test]
fn a_breaker_that_opens_while_calls_stand_in_line_refuses_them_at_their_turn() {
    let (clock, breaker, told) = (ManualClock::new(), touchy(), Told::default());
    let bulkhead = Bulkhead::new(1).queue(9);
    let pipeline = Pipeline::new()
        .bulkhead(bulkhead.clone())
        .breaker(breaker)
        .observer(told.observer())
        .clock(clock.clock());
    let executor = Executor::new(&clock);
    let script = Script::<(), _>::new(&clock).err("own").after(ms(10));
    let tasks: Vec<_> = (0..3)
        .map(|_| {
            let (pipeline, script) = (pipeline.clone(), script.clone());
            executor.spawn(async move { pipeline.run(|it| script.play(it)).await })
        })
        .collect();
    assert_eq!(executor.run(), 0);
    assert_eq!(clock.elapsed(), ms(10));
    for task in &tasks[1..] {
        let error = task.take().expect("done").unwrap_err();
        assert_eq!(rejected(&error).reason(), Reason::BreakerOpen);
        assert_eq!(error.report().parked(), ms(10));
    }
    assert_eq!(
        told.parked(),
        [(1, WaitReason::Bulkhead, None); 2],
        "each once"
    );
    let snapshot = bulkhead.snapshot();
    assert_eq!((snapshot.in_flight, snapshot.waiting), (0, 0));
}

// --- per key -------------------------------------------------------------------------------------

#[test]
fn one_keys_trouble_is_no_others_and_calls_without_a_key_pass_by() {
    let clock = ManualClock::new();
    let (breakers, windows) = (Keyed::new(touchy()), Keyed::new(Window::new().fail_fast()));
    let bulkheads = Keyed::new(Bulkhead::new(1).queue(0));
    let limits = Keyed::new(RateLimit::per_second(1).burst(1).queue(0));
    let (a, b) = (Key::of("a"), Key::of("b"));
    let ask = |pipeline: &Pipeline, key: Option<Key>| {
        let call = pipeline.run(|_| async { Ok::<_, ()>(()) });
        let call = match key {
            Some(key) => call.keyed(key),
            None => call,
        };
        match block_on(&clock, call) {
            Ok(()) => None,
            Err(error) => Some(rejected(&error).reason()),
        }
    };
    let now = clock.now();
    trip(breakers.get(a, || now).policy(), now);
    hush(windows.get(a, || now).policy(), ms(5000), now);
    limits
        .get(a, || now)
        .policy()
        .try_acquire(now)
        .expect("free");
    let of_a = bulkheads.get(a, || now).into_inner();
    let _held = of_a.try_acquire().expect("free");
    let new = || Pipeline::new().clock(clock.clock());
    for (pipeline, reason) in [
        (new().breaker(breakers), Reason::BreakerOpen),
        (new().window(windows), Reason::WindowFull),
        (new().bulkhead(bulkheads), Reason::QueueFull),
    ] {
        assert_eq!(ask(&pipeline, Some(a)), Some(reason));
        assert_eq!(ask(&pipeline, Some(b)), None);
        assert_eq!(ask(&pipeline, None), None);
    }
    let pipeline = new().rate_limit(limits);
    assert!(ask(&pipeline, Some(a)).is_some());
    assert_eq!(ask(&pipeline, Some(b)), None);
    for _ in 0..3 {
        assert_eq!(ask(&pipeline, None), None);
    }
}

#[test]
fn too_many_keys_are_told_once() {
    let (clock, told) = (ManualClock::new(), Told::default());
    let keyed = Keyed::new(Window::new()).capacity(2);
    let pipeline = Pipeline::new()
        .window(keyed.clone())
        .observer(told.observer())
        .clock(clock.clock());
    let held: Vec<_> = (0..2)
        .map(|key| keyed.get(Key::of(key), Instant::now))
        .collect();
    for key in 0..10 {
        let call = pipeline.run(|_| async { Ok::<_, ()>(()) });
        block_on(&clock, call.keyed(Key::of(key))).expect("goes");
    }
    drop(held);
    let told = told.all();
    let [
        Event::Changed {
            attempt: 1,
            change: Change::Keyed(change),
            ..
        },
    ] = told[..]
    else {
        panic!("{told:?}")
    };
    assert_eq!(change, evenkeel::keyed::Change::Overflow { keys: 2 });
}

// --- lines ---------------------------------------------------------------------------------------

#[test]
fn calls_in_line_go_in_their_order() {
    for (order, went) in [
        (Order::FirstIn, [0, 1, 2, 3]),
        (Order::NewestFirst, [0, 3, 2, 1]),
    ] {
        let clock = ManualClock::new();
        let crowd = Crowd::new(&clock);
        let new = || Pipeline::new().clock(clock.clock());
        let bulkhead = new().bulkhead(Bulkhead::new(1).queue(9).order(order));
        let tasks: Vec<_> = (0..4).map(|id| crowd.call(id, &bulkhead, ms(10))).collect();
        assert_eq!(crowd.executor.run(), 0);
        assert!(
            tasks
                .iter()
                .all(|task| task.take().is_some_and(|it| it.is_ok()))
        );
        assert_eq!(crowd.order(), went);

        crowd.log.borrow_mut().clear();
        let rate = new().rate_limit(RateLimit::per_second(10).burst(1).order(order));
        let _tasks: Vec<_> = (0..4).map(|id| crowd.call(id, &rate, ms(10))).collect();
        assert_eq!(crowd.executor.run(), 0);
        assert_eq!(crowd.order(), went);

        crowd.log.borrow_mut().clear();
        let limiting = Window::new().order(order);
        hush(&limiting, ms(1000), clock.now());
        let window = new().window(limiting.clone());
        let _tasks: Vec<_> = (0..4).map(|id| crowd.call(id, &window, ms(10))).collect();
        assert_eq!(crowd.executor.run(), 0);
        let in_line = match order {
            Order::NewestFirst => [3, 2, 1, 0],
            _ => [0, 1, 2, 3],
        };
        assert_eq!(crowd.order(), in_line);
        let snapshot = limiting.snapshot();
        assert_eq!((snapshot.parked, snapshot.in_flight), (0, 0));
    }
}

#[test]
fn a_full_line_refuses_the_newcomer_or_the_oldest() {
    for (order, refused) in [(Order::FirstIn, 2), (Order::NewestFirst, 1)] {
        let (clock, told) = (ManualClock::new(), Told::default());
        let crowd = Crowd::new(&clock);
        let bulkhead = Bulkhead::new(1).queue(1).order(order);
        let pipeline = Pipeline::new()
            .bulkhead(bulkhead)
            .observer(told.observer())
            .clock(clock.clock());
        let tasks: Vec<_> = (0..3).map(|id| crowd.call(id, &pipeline, ms(10))).collect();
        assert_eq!(crowd.executor.run(), 0);
        for (id, task) in tasks.iter().enumerate() {
            let got = task.take().expect("done");
            if id == refused {
                assert_eq!(rejected(&got.unwrap_err()).reason(), Reason::QueueFull);
            } else {
                assert!(got.is_ok(), "{got:?}");
            }
        }
        assert_eq!(told.rejected().len(), 1);
    }
}

#[test]
fn a_deadline_bounds_the_wait_in_every_line() {
    type Made = fn(&ManualClock) -> Pipeline;
    let lines: [(&str, Made); 5] = [
        ("bulkhead", |clock| {
            let bulkhead = Bulkhead::new(1).queue(9);
            let taken = Pipeline::new()
                .bulkhead(bulkhead.clone())
                .clock(clock.clock());
            let mut stuck = Box::pin(async move {
                taken
                    .run(|_| std::future::pending::<Result<(), ()>>())
                    .await
            });
            let waker = std::task::Waker::noop();
            let mut cx = std::task::Context::from_waker(waker);
            assert!(stuck.as_mut().poll(&mut cx).is_pending());
            std::mem::forget(stuck);
            Pipeline::new().bulkhead(bulkhead)
        }),
        ("newest of a bulkhead", |clock| {
            let bulkhead = Bulkhead::new(1).queue(9).order(Order::NewestFirst);
            let taken = Pipeline::new()
                .bulkhead(bulkhead.clone())
                .clock(clock.clock());
            let mut stuck = Box::pin(async move {
                taken
                    .run(|_| std::future::pending::<Result<(), ()>>())
                    .await
            });
            let waker = std::task::Waker::noop();
            let mut cx = std::task::Context::from_waker(waker);
            assert!(stuck.as_mut().poll(&mut cx).is_pending());
            std::mem::forget(stuck);
            Pipeline::new().bulkhead(bulkhead)
        }),
        ("rate", |clock| {
            let rate = RateLimit::new(1, ms(3_600_000)).burst(1);
            rate.try_acquire(clock.now()).expect("free");
            Pipeline::new().rate_limit(rate)
        }),
        ("newest of a rate", |clock| {
            let rate = RateLimit::new(1, ms(3_600_000))
                .burst(1)
                .order(Order::NewestFirst);
            rate.try_acquire(clock.now()).expect("free");
            Pipeline::new().rate_limit(rate)
        }),
        ("window", |clock| {
            let window = Window::new();
            hush(&window, ms(250_000), clock.now());
            Pipeline::new().window(window)
        }),
    ];
    for (name, made) in lines {
        for least in [0, 300] {
            let clock = ManualClock::new();
            let pipeline = made(&clock)
                .deadline(ms(1000))
                .min_time_left(ms(least))
                .clock(clock.clock());
            let crowd = Crowd::new(&clock);
            let tasks: Vec<_> = (0..3).map(|id| crowd.call(id, &pipeline, ms(1))).collect();
            assert_eq!(crowd.executor.run(), 0, "{name}: waits for ever");
            assert!(clock.elapsed() <= ms(1000 - least), "{name}");
            for task in tasks {
                let error = task.take().expect("done").unwrap_err();
                assert!(
                    error.is_timeout() || matches!(error.cause(), Cause::Rejected(_)),
                    "{name}: {error:?}"
                );
                assert_eq!(error.attempts(), 0);
                assert_eq!(error.report().parked(), error.elapsed(), "{name}");
            }
        }
    }
}

#[test]
fn a_bulkheads_longest_wait_is_an_edge() {
    for (takes, went) in [(99, true), (101, false)] {
        let clock = ManualClock::new();
        let crowd = Crowd::new(&clock);
        let bulkhead = Bulkhead::new(1).max_wait(ms(100));
        let pipeline = Pipeline::new()
            .bulkhead(bulkhead.clone())
            .clock(clock.clock());
        let first = crowd.call(0, &pipeline, ms(takes));
        let second = crowd.call(1, &pipeline, ms(1));
        crowd.executor.run_until_idle();
        let whys: Vec<_> = clock.pending().iter().map(|it| it.left).collect();
        assert!(whys.contains(&ms(100)), "{whys:?}");
        assert_eq!(crowd.executor.run(), 0);
        assert!(first.take().expect("done").is_ok());
        let second = second.take().expect("done");
        assert_eq!(second.is_ok(), went, "{second:?}");
        if let Err(error) = second {
            assert_eq!(rejected(&error).reason(), Reason::QueueTimeout);
            assert_eq!(
                (error.elapsed(), error.report().parked()),
                (ms(100), ms(100))
            );
        }
        let snapshot = bulkhead.snapshot();
        assert_eq!((snapshot.in_flight, snapshot.waiting), (0, 0));
    }
}

// --- rate limit ----------------------------------------------------------------------------------

#[test]
fn a_rate_limit_paces_attempts_and_refuses_at_once_what_comes_too_late() {
    let (clock, told) = (ManualClock::new(), Told::default());
    let crowd = Crowd::new(&clock);
    let pipeline = Pipeline::new()
        .rate_limit(RateLimit::per_second(10).burst(1))
        .observer(told.observer())
        .clock(clock.clock());
    let now = clock.now();
    let tasks: Vec<_> = (0..3).map(|id| crowd.call(id, &pipeline, ms(1))).collect();
    let soon = Some(Deadline::at(now + ms(250)));
    let late = crowd.call_until(9, &pipeline, ms(1), soon);
    crowd.executor.run_until_idle();
    // Its turn would be the fourth.
    let error = late.take().expect("refused at once").unwrap_err();
    assert_eq!(rejected(&error).retry_at(), Some(now + ms(300)));
    assert_eq!(error.retry_after(), Some(ms(300)));
    assert_eq!(crowd.executor.run(), 0);
    assert!(
        tasks
            .iter()
            .all(|it| it.take().is_some_and(|it| it.is_ok()))
    );
    assert_eq!(crowd.begun(), [ms(0), ms(100), ms(200)]);
    assert_eq!(told.rejected().len(), 1);
    let parked = told.parked();
    assert_eq!(parked.len(), 2);
    assert_eq!(parked[0], (1, WaitReason::RateLimit, Some(ms(100))));
}

#[test]
fn a_hint_after_a_rate_limit_makes_other_calls_wait() {
    let clock = ManualClock::new();
    let rate = RateLimit::per_second(100).burst(10);
    let pipeline = Pipeline::new()
        .rate_limit(rate)
        .classify(statuses())
        .clock(clock.clock());
    let script = Script::new(&clock).ok(429).ok(200).ok(200);
    assert_eq!(
        block_on(&clock, pipeline.run(|it| script.play(it))),
        Ok(429)
    );
    let soon = Deadline::after(clock.now(), ms(1999));
    let refused = block_on(&clock, pipeline.run(|it| script.play(it)).until(soon));
    let error = refused.unwrap_err();
    // Up to one interval later, so that not all clients come back at once.
    let (retry_at, begun) = (error.retry_at().unwrap(), clock.now());
    assert!((ms(2000)..=ms(2010)).contains(&(retry_at - begun)));
    assert_eq!(clock.elapsed(), ms(0));
    assert_eq!(
        block_on(&clock, pipeline.run(|it| script.play(it))),
        Ok(200)
    );
    assert_eq!(script.begun(), [ms(0), retry_at - begun]);
}

// --- window --------------------------------------------------------------------------------------

#[test]
fn a_hint_in_one_response_holds_for_other_calls_to_that_key() {
    let (clock, told) = (ManualClock::new(), Told::default());
    let windows = Keyed::new(Window::new());
    let pipeline = Pipeline::new()
        .window(windows.clone())
        .observer(told.observer())
        .rng(Rng::seeded(1))
        .classify(statuses())
        .clock(clock.clock());
    let (a, b) = (Key::of("a"), Key::of("b"));
    let script = Script::new(&clock).ok(503).ok(200).ok(200);
    let ask = |key| pipeline.run(|it| script.play(it)).keyed(key);
    assert_eq!(block_on(&clock, ask(a)), Ok(503));
    let [(1, Change::Window(change))] = told.changed()[..] else {
        panic!("{:?}", told.all())
    };
    assert_eq!(
        (change.state, change.why, change.quiet),
        (window::State::Quiet, window::Why::Quiet, Some(ms(2000)))
    );
    assert_eq!(block_on(&clock, ask(b)), Ok(200));
    assert_eq!(clock.elapsed(), ms(0));
    // What can't be sent in time is refused at once.
    let soon = Deadline::after(clock.now(), ms(2000));
    let error = block_on(&clock, ask(a).until(soon)).unwrap_err();
    assert_eq!(rejected(&error).reason(), Reason::WindowFull);
    assert_eq!(clock.elapsed(), ms(0));
    assert!(error.retry_at() >= Some(clock.now() + ms(2000)));
    // And what can, waits.
    assert_eq!(block_on(&clock, ask(a)), Ok(200));
    let begun = script.begun()[2];
    assert!((ms(2000)..ms(3300)).contains(&begun), "{begun:?}");
    let [(1, WaitReason::Window, Some(wait))] = told.parked()[..] else {
        panic!("{:?}", told.parked())
    };
    assert_eq!(wait, begun);
    let end = windows.peek(a).expect("it is known").snapshot();
    assert_eq!((end.parked, end.in_flight), (0, 0));
}

#[test]
fn a_closed_window_ends_a_call_at_once_that_cannot_be_in_time() {
    let clock = ManualClock::new();
    let window = Window::new();
    let budget = Budget::default().capacity(3);
    let pipeline = Pipeline::new()
        .deadline(ms(2000))
        .retry(Retry::constant(ms(100)).budget(budget.clone()))
        .window(window.clone())
        .clock(clock.clock());
    let now = clock.now();
    let call = pipeline.run(|_| {
        // While it runs another call is told to keep quiet.
        hush(&window, ms(5000), now);
        async { Err::<(), _>("own") }
    });
    let error = block_on(&clock, call).unwrap_err();
    assert_eq!((error.operation(), clock.elapsed()), (Some(&"own"), ms(0)));
    assert_eq!(error.report().stop(), Some(Stop::DeadlineTooClose));
    assert!(error.retry_at() >= Some(now + ms(5000)), "{error:?}");
    assert!((budget.snapshot().available - 3.0).abs() < 1e-9);
}

#[test]
fn a_retry_refused_by_a_window_gives_its_withdrawal_back() {
    let (clock, told) = (ManualClock::new(), Told::default());
    let window = Window::new().fail_fast();
    let budget = Budget::default().capacity(3);
    let pipeline = Pipeline::new()
        .retry(Retry::constant(ms(100)).budget(budget.clone()))
        .window(window.clone())
        .observer(told.observer())
        .clock(clock.clock());
    let executor = Executor::new(&clock);
    let other = clock.clone();
    let _ = executor.spawn(async move {
        nap(other.clock(), ms(50)).await;
        hush(&window, ms(5000), other.now());
    });
    let error = executor
        .block_on(pipeline.run(|_| async { Err::<(), _>("own") }))
        .unwrap_err();
    assert_eq!(rejected(&error).reason(), Reason::WindowFull);
    assert_eq!((error.attempts(), clock.elapsed()), (1, ms(100)));
    let end = budget.snapshot();
    assert_eq!((end.first_attempts, end.extra_attempts), (1, 0));
    assert!((end.available - 3.0).abs() < 1e-9, "{end:?}");
    assert_eq!(told.rejected().len(), 1);
    assert_eq!(told.rejected()[0].0, 2);
}

#[test]
fn nothing_goes_in_a_quiet_that_began_while_it_waited_behind_the_window() {
    // One call waits for its rate when another is told to be quiet.
    let clock = ManualClock::new();
    let window = Window::new();
    let rate = RateLimit::per_second(1).burst(1);
    let pipeline = Pipeline::new()
        .window(window.clone())
        .rate_limit(rate)
        .clock(clock.clock());
    let crowd = Crowd::new(&clock);
    let first = crowd.call(0, &pipeline, ms(1));
    let second = crowd.call(1, &pipeline, ms(1));
    let (hushed, now) = (window.clone(), clock.clone());
    let _ = crowd.executor.spawn(async move {
        nap(now.clock(), ms(700)).await;
        hush(&hushed, ms(5000), now.now());
    });
    assert_eq!(crowd.executor.run(), 0);
    assert!(first.take().expect("done").is_ok());
    assert!(second.take().expect("done").is_ok());
    assert!(crowd.begun()[1] >= ms(5700), "{:?}", crowd.begun());
}

#[test]
fn one_that_has_to_go_back_to_its_window_is_in_nobodys_way_in_the_line_behind() {
    let clock = ManualClock::new();
    let windows = Keyed::new(Window::new());
    let rate = RateLimit::per_second(1).burst(1);
    rate.try_acquire(clock.now()).expect("free");
    let pipeline = Pipeline::new()
        .window(windows.clone())
        .rate_limit(rate)
        .clock(clock.clock());
    let executor = Executor::new(&clock);
    let call = |name: &'static str| {
        let (pipeline, clock) = (pipeline.clone(), clock.clone());
        executor.spawn(async move {
            let call = pipeline.run(|_| std::future::ready(Ok::<_, ()>(clock.elapsed())));
            call.keyed(Key::of(name)).await
        })
    };
    let (first, second) = (call("a"), call("b"));
    executor.run_until_idle();
    hush(
        &windows.peek(Key::of("a")).expect("known"),
        ms(60_000),
        clock.now(),
    );
    assert_eq!(executor.run(), 0);
    assert_eq!(second.take(), Some(Ok(ms(1000))));
    assert!(first.take().expect("done").expect("goes") >= ms(60_000));
}

#[test]
fn what_a_call_waited_in_line_is_in_its_report() {
    let clock = ManualClock::new();
    let crowd = Crowd::new(&clock);
    let bulkhead = Bulkhead::new(1);
    let rate = RateLimit::per_second(10).burst(1);
    let holding = Pipeline::new()
        .bulkhead(bulkhead.clone())
        .clock(clock.clock());
    let pipeline = Pipeline::new()
        .bulkhead(bulkhead)
        .rate_limit(rate.clone())
        .clock(clock.clock());
    rate.try_acquire(clock.now()).expect("free");
    let _first = crowd.call(0, &holding, ms(30));
    crowd.executor.run_until_idle();
    let task = crowd
        .executor
        .spawn(async move { pipeline.run(|_| async { Err::<(), _>("own") }).await });
    assert_eq!(crowd.executor.run(), 0);
    let error = task.take().expect("done").unwrap_err();
    // 30 ms for a place, and 70 ms more for its rate.
    assert_eq!(error.report().parked(), ms(100));
    assert_eq!(error.report().waited(), ms(100));
    assert_eq!(error.elapsed(), ms(100));
}

#[test]
fn those_in_line_that_a_new_quiet_makes_too_late_are_refused_at_once() {
    let clock = ManualClock::new();
    let start = clock.now();
    let window = Window::new();
    let mut sent = Some(window.try_acquire(start).expect("it is open"));
    let rate = RateLimit::per_second(1).burst(1);
    rate.try_acquire(start).expect("free");
    let new = || Pipeline::new().clock(clock.clock());
    for (name, pipeline) in [
        ("rate", new().rate_limit(rate.clone())),
        ("window", new().window(window.clone())),
    ] {
        let crowd = Crowd::new(&clock);
        let before = clock.now();
        if name == "window" {
            hush(&window, ms(1000), before);
        }
        let end = |length| Some(Deadline::at(before + length));
        let first = crowd.call_until(0, &pipeline, ms(1), end(ms(4000)));
        let second = crowd.call_until(1, &pipeline, ms(1), end(ms(8000)));
        let third = crowd.call_until(2, &pipeline, ms(1), end(ms(300_000)));
        crowd.executor.run_until_idle();
        assert!(!first.is_finished() && !second.is_finished(), "{name}");
        if name == "rate" {
            rate.pause(ms(20_000), before).expect("news");
        } else {
            let verdict = Verdict::new(Kind::Overloaded).hint(Hint::After(ms(20_000)));
            let _ = sent.take().expect("once").record(verdict, ms(1), before);
        }
        crowd.executor.run_until_idle();
        for task in [&first, &second] {
            let error = task.take().expect("refused at once").unwrap_err();
            assert!(error.retry_at() >= Some(before + ms(20_000)), "{name}");
        }
        assert!(!third.is_finished(), "{name}");
        assert_eq!(crowd.executor.run(), 0);
        assert!(third.take().expect("done").is_ok(), "{name}");
    }
}

// --- throttle ------------------------------------------------------------------------------------

#[test]
fn a_throttle_sheds_by_priority() {
    let (clock, told) = (ManualClock::new(), Told::default());
    let throttle = Throttle::new();
    // 45 % refused: sheddable ones are shed from a third on, normal ones from a half.
    for call in 0..1000 {
        let permit = throttle.try_acquire(Priority::Critical, clock.now(), || u64::MAX);
        let kind = if call % 20 < 9 {
            Kind::Overloaded
        } else {
            Kind::Success
        };
        let _ = permit.expect("not shed").record(kind, clock.now());
    }
    let pipeline = Pipeline::new()
        .throttle(throttle)
        .observer(told.observer())
        .rng(Rng::seeded(1))
        .clock(clock.clock());
    let shed = |priority| {
        let calls = (0..60).map(|_| {
            let call = pipeline
                .run(|_| async { Ok::<_, ()>(()) })
                .priority(priority);
            block_on(&clock, call)
        });
        let refused = calls.filter_map(Result::err).inspect(|error| {
            assert_eq!(rejected(error).reason(), Reason::Throttled);
            assert!(error.retry_at().is_some());
        });
        refused.count()
    };
    assert_eq!(shed(Priority::Critical), 0);
    assert_eq!(shed(Priority::Normal), 0);
    let sheddable = shed(Priority::Sheddable);
    assert!(sheddable > 0);
    assert_eq!(told.rejected().len(), sheddable);
}

#[test]
fn what_is_shed_takes_no_place_and_what_waits_is_asked_once() {
    let clock = ManualClock::new();
    let (throttle, bulkhead) = (Throttle::new(), Bulkhead::new(1));
    let pipeline = Pipeline::new()
        .throttle(throttle.clone())
        .bulkhead(bulkhead)
        .clock(clock.clock());
    let crowd = Crowd::new(&clock);
    let _tasks: Vec<_> = (0..2).map(|id| crowd.call(id, &pipeline, ms(10))).collect();
    assert_eq!(crowd.executor.run(), 0);
    let counted = throttle.snapshot(clock.now());
    assert_eq!((counted.requests, counted.accepts), (2, 2));
}

// --- together ------------------------------------------------------------------------------------

#[test]
fn nested_pipelines_each_have_their_own_line() {
    let clock = ManualClock::new();
    let crowd = Crowd::new(&clock);
    let outer = Pipeline::new()
        .bulkhead(Bulkhead::new(2))
        .clock(clock.clock());
    let inner = Pipeline::new()
        .bulkhead(Bulkhead::new(1))
        .clock(clock.clock());
    let tasks: Vec<_> = (0..4)
        .map(|id| {
            let (outer, inner) = (outer.clone(), inner.clone());
            let (clock, log) = (clock.clone(), Rc::clone(&crowd.log));
            crowd.executor.spawn(async move {
                let call = outer.run(|_| {
                    inner.run(|_| {
                        log.borrow_mut().push((id, clock.elapsed()));
                        let nap = nap(clock.clock(), ms(10));
                        async move {
                            nap.await;
                            Ok::<_, ()>(id)
                        }
                    })
                });
                call.await.map_err(Error::flatten)
            })
        })
        .collect();
    // The fourth finds the outer line full: two inside and two waiting at most.
    assert_eq!(crowd.executor.run(), 0);
    assert_eq!(crowd.order(), [0, 1, 2, 3]);
    assert!(
        tasks
            .iter()
            .all(|it| it.take().is_some_and(|it| it.is_ok()))
    );
}

#[test]
fn each_policy_works_alone() {
    fn alone<F: Future<Output = Result<u32, Error<()>>>>(call: F) -> Result<u32, Error<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(call)
    }
    let ok = |_| async { Ok::<_, ()>(1) };
    let fail = |_| async { Err::<u32, _>(()) };

    let breaker = touchy();
    assert!(alone(breaker.run(fail)).unwrap_err().operation().is_some());
    let refused = alone(breaker.run(ok)).unwrap_err();
    assert_eq!(rejected(&refused).reason(), Reason::BreakerOpen);

    let bulkhead = Bulkhead::new(1).queue(0);
    let held = bulkhead.try_acquire();
    let refused = alone(bulkhead.run(ok)).unwrap_err();
    assert_eq!(rejected(&refused).reason(), Reason::QueueFull);
    drop(held);
    assert_eq!(alone(bulkhead.run(ok)), Ok(1));

    let rate = RateLimit::per_second(1).burst(1).queue(0);
    assert_eq!(alone(rate.run(ok)), Ok(1));
    let rate = RateLimit::new(1, ms(1_000_000)).burst(1).queue(0);
    assert_eq!(alone(rate.run(ok)), Ok(1));
    let refused = alone(rate.run(ok)).unwrap_err();
    assert!(refused.retry_at().is_some());

    let retry = Retry::constant(ms(1)).max_attempts(2);
    assert_eq!(alone(retry.run(fail)).unwrap_err().attempts(), 2);

    let throttle = Throttle::new()
        .multiplier(Ratio::percent(100))
        .floor(Ratio::percent(0));
    let mut shed = 0;
    for _ in 0..50 {
        if let Cause::Rejected(refused) = alone(throttle.run(fail)).unwrap_err().cause() {
            assert_eq!(refused.reason(), Reason::Throttled);
            shed += 1;
        }
    }
    assert!(shed > 10, "{shed}");

    let window = Window::new().fail_fast();
    assert_eq!(alone(window.run(ok)), Ok(1));
    let window = window.fail_fast();
    hush(&window, ms(100_000), Instant::now());
    let refused = alone(window.run(ok)).unwrap_err();
    assert_eq!(rejected(&refused).reason(), Reason::WindowFull);
}

#[test]
fn a_parked_call_tells_once_and_a_refused_one_once() {
    let (clock, told) = (ManualClock::new(), Told::default());
    let bulkhead = Bulkhead::new(1).queue(1);
    let pipeline = Pipeline::new()
        .bulkhead(bulkhead)
        .observer(told.observer())
        .clock(clock.clock());
    let crowd = Crowd::new(&clock);
    let _tasks: Vec<_> = (0..3).map(|id| crowd.call(id, &pipeline, ms(10))).collect();
    assert_eq!(crowd.executor.run(), 0);
    let all = told.all();
    let [
        Event::Parked { call: parked, .. },
        Event::Reject { call: refused, .. },
        Event::Done { call: first, .. },
        Event::Done { call: second, .. },
    ] = all[..]
    else {
        panic!("{all:?}")
    };
    assert_ne!(parked, refused);
    assert_eq!((first, second), (refused, parked));
}

// --- real threads --------------------------------------------------------------------------------

/// Polled so many times, and then dropped.
struct Cut<F> {
    inner: Option<std::pin::Pin<Box<F>>>,
    polls: u32,
}

impl<F: Future> Future for Cut<F> {
    type Output = Option<F::Output>;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<F::Output>> {
        use std::task::Poll;
        let this = &mut *self;
        let Some(inner) = this.inner.as_mut().filter(|_| this.polls > 0) else {
            this.inner = None;
            return Poll::Ready(None);
        };
        this.polls -= 1;
        match inner.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => {
                if this.polls == 0 {
                    this.inner = None;
                    return Poll::Ready(None);
                }
                Poll::Pending
            }
        }
    }
}

#[test]
fn on_real_threads_no_limit_is_passed_and_all_is_given_back() {
    use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

    const PLACES: u32 = 3;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_time()
        .build()
        .expect("a runtime");
    let (bulkhead, window) = (Bulkhead::new(PLACES).queue(50), Window::new());
    let rate = RateLimit::per_second(20_000).burst(100);
    let breaker = Breaker::new()
        .consecutive_failures(6)
        .cooldown(Backoff::constant(ms(1)))
        .ramp(Duration::ZERO);
    let budget = Budget::new(Ratio::percent(50)).capacity(10);
    let pipeline = Pipeline::new()
        .deadline(ms(30))
        .retry(Retry::constant(Duration::from_micros(50)).budget(budget.clone()))
        .bulkhead(bulkhead.clone())
        .window(window.clone())
        .rate_limit(rate)
        .breaker(breaker.clone())
        .timeout(ms(5));
    let inside = Arc::new(AtomicU32::new(0));
    let begun = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let tasks: Vec<_> = (0..1200_u32)
        .map(|id| {
            let (pipeline, inside) = (pipeline.clone(), Arc::clone(&inside));
            let begun = Arc::clone(&begun);
            runtime.spawn(async move {
                struct Inside(Arc<AtomicU32>);
                impl Drop for Inside {
                    fn drop(&mut self) {
                        self.0.fetch_sub(1, Ordering::SeqCst);
                    }
                }
                let call = pipeline.run(|attempt| {
                    let now = inside.fetch_add(1, Ordering::SeqCst);
                    let place = Inside(Arc::clone(&inside));
                    begun.fetch_add(1, Ordering::SeqCst);
                    let unlucky = (id + attempt.number()) % 4 == 0 || (400..440).contains(&id);
                    let failing = id > 300 && unlucky;
                    async move {
                        assert!(now < PLACES, "{now} others are inside");
                        for _ in 0..id % 3 {
                            tokio::task::yield_now().await;
                        }
                        // Leaves before it says so, as whoever counts places does.
                        drop(place);
                        if failing { Err(()) } else { Ok(()) }
                    }
                });
                let polls = if id % 5 == 0 { id % 7 } else { u32::MAX };
                let inner = Some(Box::pin(call));
                Cut { inner, polls }.await
            })
        })
        .collect();
    let mut ended = [0_u32; 3];
    for task in tasks {
        match runtime.block_on(task).expect("no panic") {
            None => ended[0] += 1,
            Some(Ok(())) => ended[1] += 1,
            Some(Err(_)) => ended[2] += 1,
        }
    }
    let took = started.elapsed();
    let (places, line) = (bulkhead.snapshot(), window.snapshot());
    assert_eq!((places.in_flight, places.waiting), (0, 0));
    assert_eq!((line.in_flight, line.parked), (0, 0));
    assert_eq!(breaker.snapshot(Instant::now()).probes, 0);
    assert_eq!(inside.load(Ordering::SeqCst), 0);
    let (spent, begun) = (budget.snapshot(), begun.load(Ordering::SeqCst));
    assert_eq!(spent.first_attempts + spent.extra_attempts, begun);
    #[allow(clippy::cast_precision_loss)]
    {
        let (first, extra) = (spent.first_attempts as f64, spent.extra_attempts as f64);
        assert!(extra <= 10.0 + 0.5 * first, "{spent:?}");
        assert!(spent.available <= 10.0 + 1e-9 && spent.available >= -1e-9);
        assert!(begun as f64 <= 100.0 + 20_000.0 * took.as_secs_f64() + 1.0);
    }
    assert!(ended[0] > 0 && ended[1] > 0, "{ended:?}");
    let later = Instant::now() + ms(120_000);
    assert!(window.try_acquire(later).is_ok());
    assert!(breaker.try_acquire(later, &Rng::seeded(1)).is_ok());
    let all: Vec<_> = std::iter::from_fn(|| bulkhead.try_acquire()).collect();
    assert_eq!(all.len(), PLACES as usize);
}

// --- odd ends ------------------------------------------------------------------------------------

#[test]
fn calls_that_hang_until_their_deadline_count_for_breaker_throttle_and_learned_limits() {
    let clock = ManualClock::new();
    let breaker = Breaker::new();
    let throttle = Throttle::new();
    let bulkhead = Bulkhead::adaptive(evenkeel::limit::Aimd::new());
    // The attempt timeout is longer than the deadline, so it never speaks.
    let pipeline = Pipeline::new()
        .deadline(ms(2000))
        .timeout(ms(10_000))
        .breaker(breaker.clone())
        .throttle(throttle.clone())
        .bulkhead(bulkhead.clone())
        .clock(clock.clock())
        .rng(Rng::seeded(1));
    let (mut begun, mut hung) = (0, 0);
    for _ in 0..40 {
        let call = pipeline.run(|_| {
            begun += 1;
            std::future::pending::<Result<(), ()>>()
        });
        if block_on(&clock, call).unwrap_err().is_timeout() {
            hung += 1;
        }
    }
    assert!(breaker.snapshot(clock.now()).trips > 0);
    assert!(hung < 20 && hung == begun, "{hung} of {begun}");
    assert!(throttle.snapshot(clock.now()).requests > 0);
    assert!(bulkhead.snapshot().limit < 20);
}

#[test]
fn an_attempt_that_the_deadline_cuts_off_at_once_says_nothing() {
    let clock = ManualClock::new();
    let breaker = Breaker::new().consecutive_failures(1);
    let pipeline = Pipeline::new()
        .deadline(ms(1000))
        .retry(Retry::constant(ms(900)))
        .breaker(breaker.clone())
        .classify(by(|outcome: Result<&(), &()>| match outcome {
            Ok(()) => Verdict::success(),
            // Says nothing to the breaker, and goes again.
            Err(()) => Verdict::new(Kind::RateLimited),
        }))
        .clock(clock.clock());
    let call = pipeline.run(|attempt| async move {
        if attempt.number() == 1 {
            return Err(());
        }
        std::future::pending().await
    });
    let error = block_on(&clock, call).unwrap_err();
    assert!(error.is_timeout() && error.attempts() == 2);
    assert_eq!(breaker.snapshot(clock.now()).trips, 0);
}

#[test]
fn a_retry_without_a_deadline_waits_for_a_breaker_thirty_seconds_at_most() {
    let clock = ManualClock::new();
    let breaker = Breaker::new().consecutive_failures(1);
    let pipeline = Pipeline::new()
        .retry(Retry::constant(ms(1)).max_attempts(3))
        .breaker(breaker)
        .clock(clock.clock())
        .rng(Rng::seeded(3));
    let executor = Executor::new(&clock);
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let pipeline = pipeline.clone();
            executor.spawn(async move { pipeline.run(|_| async { Err::<(), _>("down") }).await })
        })
        .collect();
    assert_eq!(executor.run(), 0);
    assert!(calls.iter().all(|call| call.take().expect("done").is_err()));
    assert!(clock.elapsed() < ms(40_000), "{:?}", clock.elapsed());
}

#[test]
fn what_waits_for_one_service_holds_no_permit_that_others_share() {
    let clock = ManualClock::new();
    let bulkhead = Bulkhead::new(3);
    let pipeline = Pipeline::new()
        .rate_limit(Keyed::new(RateLimit::per_second(1).burst(1)))
        .bulkhead(bulkhead.clone())
        .clock(clock.clock());
    let executor = Executor::new(&clock);
    for _ in 0..20 {
        let pipeline = pipeline.clone();
        let _ = executor.spawn(async move {
            let call = pipeline.run(|_| async { Ok::<_, ()>(()) });
            call.keyed(Key::of("busy")).await
        });
    }
    executor.run_until_idle();
    assert_eq!(bulkhead.snapshot().in_flight, 0);
    let call = pipeline.run(|_| async { Ok::<_, ()>(()) });
    assert!(block_on(&clock, call.keyed(Key::of("idle"))).is_ok());
    assert_eq!(clock.elapsed(), ms(0));
}
