//! Dropping a call at any await loses nothing.
#![cfg(feature = "testing")]

use std::cell::{Cell, RefCell};
use std::future::{Future, pending};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use evenkeel::backoff::Backoff;
use evenkeel::budget::Ratio;
use evenkeel::chaos::{Chaos, Effect, Fault};
use evenkeel::clock::Why;
use evenkeel::endpoints::{Id, State};
use evenkeel::report::WaitReason;
use evenkeel::testing::{Executor, ManualClock, Script, Task};
use evenkeel::verdict::{Hint, Kind, Verdict};
use evenkeel::{
    Breaker, Budget, Bulkhead, Endpoints, Error, Event, Pipeline, RateLimit, Retry, Rng, Throttle,
    Window,
};

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Counts the attempts that live.
struct Alive<'a>(&'a AtomicUsize);

impl<'a> Alive<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Alive<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Polls `future` `polls` times, moving the clock between; says whether it is done.
fn drive(clock: &ManualClock, future: impl Future, polls: usize) -> bool {
    let mut future = pin!(future);
    for _ in 0..polls {
        let polled = future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        if polled.is_ready() {
            return true;
        }
        clock.advance_to_next();
    }
    false
}

#[test]
fn a_call_dropped_after_any_poll_gives_back_all_it_held() {
    let mut stages = 0;
    for polls in 0.. {
        let clock = ManualClock::new();
        let budget = Budget::default().capacity(10);
        let alive = AtomicUsize::new(0);
        let pipeline = Pipeline::new()
            .deadline(ms(60_000))
            .timeout(ms(1000))
            .retry(
                Retry::constant(ms(100))
                    .max_attempts(4)
                    .budget(budget.clone()),
            )
            .clock(clock.clock());
        // Slow to fail, stuck, slow to fail, slow to succeed.
        let script = Script::new(&clock)
            .err("a")
            .after(ms(10))
            .hang()
            .err("c")
            .after(ms(10))
            .ok(7)
            .after(ms(10));
        let call = pipeline.run(|attempt| {
            let guard = Alive::new(&alive);
            let attempt = script.play(attempt);
            async move {
                let got = attempt.await;
                drop(guard);
                got
            }
        });
        let done = drive(&clock, call, polls);

        let begun = u32::try_from(script.begun().len()).expect("four at most");
        let extra = begun.saturating_sub(1);
        assert_eq!(alive.load(Ordering::Relaxed), 0, "an attempt lives on");
        assert!(clock.pending().is_empty(), "a timer lives on");
        let snapshot = budget.snapshot();
        assert_eq!(
            snapshot.extra_attempts,
            u64::from(extra),
            "after {polls} polls"
        );
        // Full to begin with, so the one first attempt earned nothing.
        let left = 10.0 - f64::from(extra);
        assert!(
            (snapshot.available - left).abs() < 1e-9,
            "after {polls} polls: {snapshot:?}"
        );
        stages += 1;
        if done {
            break;
        }
    }
    assert_eq!(
        stages, 9,
        "dropped unpolled, in four attempts and three waits, and at the end"
    );
}

#[test]
fn a_call_that_was_never_polled_did_nothing() {
    let budget = Budget::default();
    let pipeline = Pipeline::new().retry(Retry::default().budget(budget.clone()));
    drop(pipeline.run(|_| async { Ok::<_, ()>(()) }));
    assert_eq!(budget.snapshot().first_attempts, 0);
}

#[test]
fn a_panicking_attempt_gives_back_all_the_call_held() {
    let clock = ManualClock::new();
    let budget = Budget::default().capacity(2);
    let pipeline = Pipeline::new()
        .retry(Retry::constant(ms(1)).budget(budget.clone()))
        .clock(clock.clock());
    let call = || {
        let run = pipeline.run(|attempt| async move {
            assert!(!attempt.is_retry(), "the second attempt panics");
            Err::<(), _>("busy")
        });
        evenkeel::testing::block_on(&clock, run)
    };
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).is_err());
    // The second attempt had begun, so its token is spent; nothing is left reserved.
    assert_eq!(budget.snapshot().extra_attempts, 1);
    assert!((budget.snapshot().available - 1.0).abs() < 1e-9);
}

#[test]
fn a_cancelled_wait_leaves_its_token_to_others() {
    let clock = ManualClock::new();
    let budget = Budget::default().capacity(1);
    let pipeline = Pipeline::new()
        .retry(Retry::constant(ms(100)).budget(budget))
        .clock(clock.clock());
    let failing = || pipeline.run(|_| async { Err::<(), _>("down") });
    let mut first = Box::pin(failing());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(
        first.as_mut().poll(&mut cx).is_pending(),
        "waits with the only token"
    );
    let Poll::Ready(Err(second)) = pin!(failing()).poll(&mut cx) else {
        panic!("nothing is left for the second")
    };
    assert_eq!(
        second.report().stop(),
        Some(evenkeel::report::Stop::BudgetExhausted)
    );
    drop(first);
    assert!(pin!(failing()).poll(&mut cx).is_pending(), "it is back");
}

/// Every kind of fault, at once and after a delay, and nothing left of any of them.
#[test]
fn a_call_dropped_in_an_injected_delay_hang_or_loss_gives_back_all_it_held() {
    let doors = [
        Door::Closure,
        #[cfg(feature = "tower")]
        Door::Tower,
    ];
    for door in doors {
        let mut stages = 0;
        for polls in 0.. {
            let context = format!("{door:?} after {polls} polls");
            let chaos = Chaos::new().script([
                Effect::delay(ms(5)).then(Fault::Reset),
                Effect::delay(ms(5)).then(Fault::Hang),
                Effect::delay(ms(5)).then(Fault::Lost),
                Fault::Connect.into(),
                Effect::delay(ms(5)),
            ]);
            let mut scene = Scene::new(Line::Bulkhead);
            let retry = Retry::constant(ms(30)).max_attempts(9);
            let pipeline = scene.pipeline.retry(retry.budget(scene.budget.clone()));
            scene.pipeline = pipeline.chaos(chaos.clone());
            // The one place of the bulkhead is wanted by another call.
            let done = Rc::new(Cell::new(false));
            let (inner, told) = (Some(scene.call(door, 2)), Rc::clone(&done));
            let cut = scene.executor.spawn(Cut {
                inner,
                polls,
                done: told,
            });
            let struck = scene.executor.spawn(scene.call(door, 2));
            assert_eq!(scene.executor.run(), 0, "{context}: waits for ever");
            assert!(cut.is_finished(), "{context}");
            assert_eq!(struck.take().expect("done"), Ok(()), "{context}");

            let pending = scene.clock.pending();
            assert!(pending.is_empty(), "{context}: {pending:?}");
            assert_eq!(scene.alive.get(), 0, "{context}: an attempt lives on");
            let places = scene.bulkhead.snapshot();
            assert_eq!((places.in_flight, places.waiting), (0, 0), "{context}");
            let window = scene.window.snapshot();
            assert_eq!((window.in_flight, window.parked), (0, 0), "{context}");
            // Each attempt that met a fault is paid for, and nothing else.
            let (budget, met) = (scene.budget.snapshot(), chaos.snapshot());
            let paid = budget.first_attempts + budget.extra_attempts;
            assert_eq!(paid, met.attempts, "{context}");
            #[allow(clippy::cast_precision_loss)]
            let left = 50.0 - budget.extra_attempts as f64;
            assert!((budget.available - left).abs() < 1e-3, "{context}");
            #[cfg(feature = "tower")]
            assert_eq!(scene.permits.available_permits(), 2, "{context}");
            scene.lets_others_on(&context);
            stages += 1;
            if done.get() {
                break;
            }
        }
        assert!(stages > 8, "{door:?}: {stages}");
    }
}

/// Which line the calls are to meet in.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Line {
    Breaker,
    Bulkhead,
    RateLimit,
    Window,
}

/// Through which door.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Door {
    Closure,
    #[cfg_attr(not(feature = "tower"), allow(dead_code))]
    Tower,
}

/// Every policy there is, and calls that use them.
struct Scene {
    clock: ManualClock,
    executor: Executor,
    budget: Budget,
    breaker: Breaker,
    bulkhead: Bulkhead,
    endpoints: Endpoints,
    rate: RateLimit,
    window: Window,
    pipeline: Pipeline,
    /// When each attempt began.
    begun: Rc<RefCell<Vec<Instant>>>,
    alive: Rc<Cell<usize>>,
    most: Rc<Cell<usize>>,
    /// What attempts waited for.
    parked: Arc<Mutex<Vec<WaitReason>>>,
    /// Of the service behind the tower door.
    #[cfg(feature = "tower")]
    permits: Arc<tokio::sync::Semaphore>,
}

struct Living(Rc<Cell<usize>>);

impl Drop for Living {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

type Made = Pin<Box<dyn Future<Output = Result<(), Error<&'static str>>>>>;

/// Polled so many times and then dropped.
struct Cut {
    inner: Option<Made>,
    polls: usize,
    done: Rc<Cell<bool>>,
}

impl Future for Cut {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.polls == 0 {
            self.inner = None;
        }
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(());
        };
        if inner.as_mut().poll(cx).is_ready() {
            self.done.set(true);
            self.inner = None;
            return Poll::Ready(());
        }
        self.polls -= 1;
        if self.polls == 0 {
            self.inner = None;
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

/// One in 20 ms, or 20 and no more for a long time.
fn rate_of(line: Line) -> RateLimit {
    match line {
        Line::RateLimit => RateLimit::per_second(50).burst(1),
        _ => RateLimit::new(1, ms(1_000_000)).burst(20),
    }
}

impl Scene {
    fn new(line: Line) -> Self {
        let clock = ManualClock::new();
        let budget = Budget::new(Ratio::millionths(1)).capacity(50);
        let places = if line == Line::Bulkhead { 1 } else { 9 };
        let bulkhead = Bulkhead::new(places).queue(20);
        let rate = rate_of(line);
        let (window, breaker) = (Window::new(), Breaker::new());
        let breaker = breaker.cooldown(Backoff::constant(ms(400))).ramp(ms(0));
        let breaker = match line {
            Line::Breaker => breaker.consecutive_failures(2).failure_ratio(None),
            _ => breaker.consecutive_failures(None).failure_ratio(None),
        };
        if line == Line::Window {
            let permit = window.try_acquire(clock.now()).expect("it is open");
            let quiet = Verdict::new(Kind::Overloaded).hint(Hint::After(ms(200)));
            let _ = permit.record(quiet, ms(1), clock.now());
        }
        let endpoints = Endpoints::numbered(2);
        let parked = Arc::<Mutex<Vec<_>>>::default();
        let told = Arc::clone(&parked);
        let pipeline = Pipeline::new()
            .observer(move |event: &Event| {
                if let Event::Parked { reason, .. } = event {
                    told.lock().expect("nobody panics").push(*reason);
                }
            })
            .deadline(ms(60_000))
            .timeout(ms(300))
            .retry(Retry::constant(ms(30)).budget(budget.clone()))
            .throttle(Throttle::new().least(1000))
            .bulkhead(bulkhead.clone())
            .window(window.clone())
            .rate_limit(rate.clone())
            .breaker(breaker.clone())
            .endpoints(endpoints.clone())
            .rng(Rng::seeded(1))
            .clock(clock.clock());
        let pipeline = match line {
            // It would pace after the timeout, for longer than a breaker lets wait.
            Line::Breaker => pipeline.no_window(),
            _ => pipeline,
        };
        Self {
            executor: Executor::new(&clock),
            clock,
            budget,
            breaker,
            bulkhead,
            endpoints,
            rate,
            window,
            pipeline,
            begun: Rc::default(),
            alive: Rc::default(),
            most: Rc::default(),
            parked,
            #[cfg(feature = "tower")]
            permits: Arc::new(tokio::sync::Semaphore::new(2)),
        }
    }

    /// A call that fails, hangs until its timeout, or succeeds at its first attempt, and then
    /// succeeds.
    fn call(&self, door: Door, first: u32) -> Made {
        let (clock, begun) = (self.clock.clone(), Rc::clone(&self.begun));
        let (alive, most) = (Rc::clone(&self.alive), Rc::clone(&self.most));
        let attempts = Rc::new(Cell::new(0));
        let attempt = move || {
            begun.borrow_mut().push(clock.now());
            alive.set(alive.get() + 1);
            most.set(most.get().max(alive.get()));
            let living = Living(Rc::clone(&alive));
            let number = attempts.replace(attempts.get() + 1);
            let end = clock.now() + ms(10);
            let sleep = clock.clock().sleep_until(end, Why::Other);
            async move {
                sleep.await;
                if number == 0 && first == 1 {
                    pending::<()>().await;
                }
                drop(living);
                match (number, first) {
                    (0, 0) => Err("busy"),
                    _ => Ok(()),
                }
            }
        };
        let pipeline = self.pipeline.clone();
        match door {
            Door::Closure => Box::pin(async move { pipeline.run(|_| attempt()).await }),
            #[cfg(not(feature = "tower"))]
            Door::Tower => unreachable!("there is none"),
            #[cfg(feature = "tower")]
            Door::Tower => {
                use tower::limit::GlobalConcurrencyLimitLayer;
                use tower::{Layer, ServiceExt};
                let attempt = Rc::new(attempt);
                let service = tower::service_fn(move |()| attempt());
                let limit = GlobalConcurrencyLimitLayer::with_semaphore(Arc::clone(&self.permits));
                Box::pin(pipeline.layer(limit.layer(service)).oneshot(()))
            }
        }
    }

    fn check(&self, door: Door, line: Line, context: &str) {
        assert_eq!(self.alive.get(), 0, "{context}: an attempt lives on");
        let pending = self.clock.pending();
        assert!(pending.is_empty(), "{context}: {pending:?}");
        let places = self.bulkhead.snapshot();
        assert_eq!((places.in_flight, places.waiting), (0, 0), "{context}");
        let window = self.window.snapshot();
        assert_eq!((window.in_flight, window.parked), (0, 0), "{context}");
        assert_eq!(
            self.breaker.snapshot(self.clock.now()).probes,
            0,
            "{context}"
        );

        let endpoints = self.endpoints.snapshot(self.clock.now());
        let in_flight: u32 = endpoints.iter().map(|it| it.in_flight).sum();
        assert_eq!(in_flight, 0, "{context}: {endpoints:?}");

        // Whatever began is paid for, and nothing else.
        let begun = self.begun.borrow();
        let budget = self.budget.snapshot();
        let all = u64::try_from(begun.len()).expect("few");
        assert_eq!(
            budget.first_attempts + budget.extra_attempts,
            all,
            "{context}"
        );
        #[allow(clippy::cast_precision_loss)]
        let left = 50.0 - budget.extra_attempts as f64;
        assert!(
            (budget.available - left).abs() < 1e-3,
            "{context}: {budget:?}"
        );

        // The rate is where it would be if only those had asked that began. (One that waits for the
        // service behind to be ready begins later than it took its token.)
        let now = self.clock.now();
        if (door, line) != (Door::Tower, Line::RateLimit) {
            let alone = rate_of(line);
            for at in begun.iter() {
                alone.try_acquire(*at).expect("none began too early");
            }
            let left = self.rate.snapshot(now);
            assert_eq!(left, alone.snapshot(now), "{context}");
        }
        #[cfg(feature = "tower")]
        assert_eq!(self.permits.available_permits(), 2, "{context}");
    }

    /// Asked last: it lets time pass.
    fn lets_others_on(&self, context: &str) {
        let now = self.clock.now() + ms(120_000);
        let places: Vec<_> = std::iter::from_fn(|| self.bulkhead.try_acquire()).collect();
        assert_eq!(places.len(), self.bulkhead.snapshot().limit as usize);
        assert!(self.window.try_acquire(now).is_ok(), "{context}");
        let now = now + ms(10_000_000);
        let probe = self.breaker.try_acquire(now, &Rng::seeded(1));
        assert!(probe.is_ok(), "{context}: {:?}", self.breaker.snapshot(now));
        assert!(self.rate.try_acquire(now).is_ok(), "{context}");
    }
}

#[test]
fn one_of_many_calls_dropped_after_any_poll_gives_back_all_it_held_and_its_turn() {
    let doors = [
        Door::Closure,
        #[cfg(feature = "tower")]
        Door::Tower,
    ];
    let mut scenes = 0;
    for door in doors {
        for line in [Line::Breaker, Line::Bulkhead, Line::RateLimit, Line::Window] {
            let (mut longest, mut met) = (0, Vec::new());
            for victim in 0..5 {
                for polls in 0.. {
                    let context = format!("{door:?}, {line:?}, call {victim} after {polls} polls");
                    let scene = Scene::new(line);
                    let done = Rc::new(Cell::new(false));
                    let mut others = Vec::new();
                    for id in 0..5 {
                        let call = scene.call(door, id % 3);
                        if id == victim {
                            let (inner, done) = (Some(call), Rc::clone(&done));
                            let _ = scene.executor.spawn(Cut { inner, polls, done });
                        } else {
                            others.push(scene.executor.spawn(call));
                        }
                    }
                    assert_eq!(
                        scene.executor.run(),
                        0,
                        "{context}: somebody waits for ever"
                    );
                    for other in others {
                        let got = other.take().expect("done");
                        // Only a first attempt that finds the breaker open is refused.
                        assert!(got.is_ok() || line == Line::Breaker, "{context}: {got:?}");
                    }
                    if line == Line::Bulkhead {
                        assert_eq!(scene.most.get(), 1, "{context}");
                    }
                    if line == Line::Breaker {
                        // Nobody had to wait until a probe was given up for lost.
                        assert!(scene.clock.elapsed() < ms(9000), "{context}");
                    }
                    scene.check(door, line, &context);
                    scene.lets_others_on(&context);
                    scenes += 1;
                    longest = longest.max(polls);
                    met.extend(scene.parked.lock().expect("nobody panics").iter().copied());
                    if done.get() {
                        break;
                    }
                }
            }
            assert!(longest >= 4, "{line:?}: nobody waited");
            let reason = match line {
                Line::Breaker => WaitReason::Breaker,
                Line::Bulkhead => WaitReason::Bulkhead,
                Line::RateLimit => WaitReason::RateLimit,
                Line::Window => WaitReason::Window,
            };
            assert!(met.contains(&reason), "{line:?}: nobody met in it");
        }
    }
    assert!(scenes > 100, "{scenes}");
}

#[test]
fn a_panic_in_the_attempt_the_classifier_or_the_observer_leaves_nothing_behind() {
    for line in [Line::Breaker, Line::Bulkhead, Line::RateLimit, Line::Window] {
        for place in ["attempt", "outcome", "classifier", "observer"] {
            // The n-th time that it is come by.
            for nth in 0..12 {
                let context = format!("{line:?}: {place} {nth}");
                let scene = Scene::new(line);
                let countdown = Arc::new(AtomicUsize::new(nth));
                let due = move |here: &str| {
                    here == place && {
                        let before = countdown.load(Ordering::Relaxed);
                        countdown.store(before.wrapping_sub(1), Ordering::Relaxed);
                        before == 0
                    }
                };
                let (in_observer, in_classifier) = (due.clone(), due.clone());
                let pipeline = scene
                    .pipeline
                    .clone()
                    .observer(move |_: &evenkeel::Event| assert!(!in_observer("observer")))
                    .classify(evenkeel::verdict::by(
                        move |outcome: Result<&(), &&'static str>| {
                            assert!(!in_classifier("classifier"));
                            match outcome {
                                Ok(()) => Verdict::success(),
                                Err(_) => Verdict::transient(),
                            }
                        },
                    ));
                let tasks: Vec<_> = (0..5_u32)
                    .map(|id| {
                        let (pipeline, clock) = (pipeline.clone(), scene.clock.clone());
                        let (begun, due) = (Rc::clone(&scene.begun), due.clone());
                        let call = async move {
                            let call = pipeline.run(|attempt| {
                                begun.borrow_mut().push(clock.now());
                                assert!(!due("attempt"));
                                let end = clock.now() + ms(10);
                                let sleep = clock.clock().sleep_until(end, Why::Other);
                                let due = due.clone();
                                async move {
                                    sleep.await;
                                    assert!(!due("outcome"));
                                    match (id % 2, attempt.number()) {
                                        (0, 1) => Err("busy"),
                                        _ => Ok(()),
                                    }
                                }
                            });
                            call.await
                        };
                        scene.executor.spawn(Caught(Box::pin(call)))
                    })
                    .collect();
                assert_eq!(
                    scene.executor.run(),
                    0,
                    "{context}: somebody waits for ever"
                );
                let panicked = tasks.iter().filter_map(Task::take).filter(Option::is_none);
                assert!(panicked.count() <= 1, "{context}: spread");
                scene.check(Door::Closure, line, &context);
                scene.lets_others_on(&context);
            }
        }
    }
}

/// `None`: it panicked.
struct Caught(Made);

impl Future for Caught {
    type Output = Option<Result<(), Error<&'static str>>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let poll = || self.0.as_mut().poll(cx);
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(poll)) {
            Ok(polled) => polled.map(Some),
            Err(_) => Poll::Ready(None),
        }
    }
}

#[test]
fn a_probe_of_an_endpoint_dropped_at_any_poll_leaves_its_place_to_the_next() {
    let probing = |endpoints: &Endpoints, now| {
        let all = endpoints.snapshot(now);
        assert!(all.iter().all(|it| it.in_flight == 0), "{all:?}");
        all[0].state
    };
    let mut stages = 0;
    for polls in 1.. {
        let clock = ManualClock::new();
        let endpoints = Endpoints::numbered(2).cooldown(Backoff::constant(ms(1000)));
        let rng = Rng::seeded(1);
        let ejected = |now| matches!(endpoints.snapshot(now)[0].state, State::Ejected { .. });
        while !ejected(clock.now()) {
            let pick = endpoints.pick(&[], clock.now(), &rng).expect("two");
            let verdict = match pick.id().index() {
                0 => Verdict::transient(),
                _ => Verdict::success(),
            };
            pick.record(verdict, ms(1), clock.now(), &rng);
        }
        clock.advance(ms(1000));
        let pipeline = Pipeline::new()
            .endpoints(endpoints.clone())
            .clock(clock.clock());
        let probe = || {
            pipeline.run(|attempt| {
                let sleep = clock.clock().sleep_until(clock.now() + ms(10), Why::Other);
                async move {
                    sleep.await;
                    Ok::<_, ()>(attempt.endpoint().map(Id::index))
                }
            })
        };
        let done = drive(&clock, probe(), polls);
        stages += 1;
        match probing(&endpoints, clock.now()) {
            State::Ejected { left } if !done => assert_eq!(left, Duration::ZERO),
            State::Returning { .. } if done => break,
            state => panic!("{state:?} after {polls} polls"),
        }
        let next = evenkeel::testing::block_on(&clock, probe());
        assert_eq!(next, Ok(Some(0)), "the next one probes");
    }
    assert_eq!(stages, 2, "dropped while it runs, and at the end");
}
