//! Races of the window, and of the engine that waits in its line: `RUSTFLAGS="--cfg evenkeel_loom"
//! cargo test --release --no-default-features --test loom_window`.
#![cfg(evenkeel_loom)]

use std::future::{Future, pending};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use evenkeel::clock::{BoxSleep, Runtime, Why};
use evenkeel::window::Permit;
use evenkeel::{Clock, Pipeline, Verdict, Window};
use loom::sync::Notify;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

const SECOND: Duration = Duration::from_secs(1);

struct Notifier(Notify);

impl Wake for Notifier {
    fn wake(self: Arc<Self>) {
        self.0.notify();
    }
}

/// Runs a future to its end; loom reports a wakeup that never comes as a deadlock.
fn block_on<F: Future>(future: F) -> F::Output {
    let notifier = Arc::new(Notifier(Notify::new()));
    let waker = Waker::from(Arc::clone(&notifier));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        notifier.0.wait();
    }
}

fn poll_once<F: Future>(future: Pin<&mut F>) -> bool {
    let waker = Waker::noop();
    future.poll(&mut Context::from_waker(waker)).is_ready()
}

/// Time that others move, and whose timers wake nobody: whoever gets on was woken by the window.
struct Still {
    start: Instant,
    seconds: AtomicU64,
}

struct Time(Arc<Still>);

impl Runtime for Time {
    fn now(&self) -> Instant {
        self.0.now()
    }

    fn wall(&self) -> SystemTime {
        UNIX_EPOCH
    }

    fn sleep_until(&self, at: Instant, _: Why) -> BoxSleep {
        if at <= self.now() {
            return Box::pin(std::future::ready(()));
        }
        Box::pin(pending())
    }
}

impl Still {
    fn now(&self) -> Instant {
        self.start + SECOND * u32::try_from(self.seconds.load(Ordering::SeqCst)).unwrap()
    }

    fn advance(&self, seconds: u64) -> Instant {
        self.seconds.fetch_add(seconds, Ordering::SeqCst);
        self.now()
    }
}

/// A window that lets one go at a time, a pipeline in front of it, and the time.
fn limited() -> (Window, Pipeline, Arc<Still>) {
    let start = Instant::now();
    let window = Window::new();
    for _ in 0..3 {
        let permit = window.try_acquire(start).unwrap();
        let _ = permit.record(Verdict::transient(), SECOND, start);
    }
    assert!(window.snapshot().window.unwrap() < 1.0);
    let time = Arc::new(Still {
        start,
        seconds: AtomicU64::new(100),
    });
    let clock = Clock::custom(Time(Arc::clone(&time)));
    (
        window.clone(),
        Pipeline::new().window(window).clock(clock),
        time,
    )
}

fn succeed(permit: Permit<'_>, time: &Still) {
    // The next one's time has come; only an answer is missing.
    let now = time.advance(5);
    let _ = permit.record(Verdict::success(), SECOND, now);
}

async fn call(pipeline: Pipeline) {
    let got = pipeline.run(|_| async { Ok::<_, ()>(()) }).await;
    got.unwrap();
}

fn is_left_as_new(window: &Window, now: Instant) {
    let end = window.snapshot();
    assert_eq!((end.parked, end.in_flight), (0, 0));
    assert!(window.try_acquire(now + 60 * SECOND).is_ok());
}

fn bounded(preemptions: usize) -> loom::model::Builder {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model
}

#[test]
fn an_answer_that_comes_while_another_parks_wakes_it() {
    bounded(3).check(|| {
        let (window, pipeline, time) = limited();
        let permit = window.try_acquire(time.now()).unwrap();
        let racing = thread::spawn(move || block_on(call(pipeline)));
        succeed(permit, &time);
        racing.join().unwrap();
        is_left_as_new(&window, time.now());
    });
}

#[test]
fn an_attempt_dropped_while_another_parks_wakes_it() {
    bounded(3).check(|| {
        let (window, pipeline, time) = limited();
        let permit = window.try_acquire(time.now()).unwrap();
        let racing = thread::spawn(move || block_on(call(pipeline)));
        // A drop tells no time, so it is told before.
        assert!(window.try_acquire(time.advance(5)).is_err());
        drop(permit);
        racing.join().unwrap();
        is_left_as_new(&window, time.now());
    });
}

#[test]
fn a_waiter_that_is_dropped_just_when_it_is_woken_hands_its_turn_on() {
    bounded(2).check(|| {
        let (window, pipeline, time) = limited();
        let permit = window.try_acquire(time.now()).unwrap();
        let mut first = Box::pin(call(pipeline.clone()));
        assert!(!poll_once(first.as_mut()));
        let waiting = thread::spawn(move || block_on(call(pipeline)));
        let dropping = thread::spawn(move || drop(first));
        succeed(permit, &time);
        dropping.join().unwrap();
        waiting.join().unwrap();
        is_left_as_new(&window, time.now());
    });
}

#[test]
fn a_waiter_dropped_while_its_turn_comes_leaves_no_hole() {
    bounded(3).check(|| {
        let (window, pipeline, time) = limited();
        let permit = window.try_acquire(time.now()).unwrap();
        let racing = thread::spawn(move || {
            let mut call = Box::pin(call(pipeline));
            let _ = poll_once(call.as_mut());
        });
        succeed(permit, &time);
        racing.join().unwrap();
        is_left_as_new(&window, time.now());
    });
}

#[test]
fn a_success_that_races_a_trip_loses_neither() {
    bounded(4).check(|| {
        let now = Instant::now();
        let window = Window::new();
        let good = window.try_acquire(now).unwrap();
        for _ in 0..2 {
            let permit = window.try_acquire(now).unwrap();
            let _ = permit.record(Verdict::transient(), SECOND, now);
        }
        drop(good);
        let (other, last) = (window.clone(), window.try_acquire(now).unwrap());
        let racing = thread::spawn(move || {
            // Whether it is asked for before the trip or after is up to chance.
            let permit = other.try_acquire(now).ok()?;
            permit.record(Verdict::success(), SECOND / 1000, now)
        });
        // Three failures of three answers or of four.
        let tripped = last.record(Verdict::transient(), SECOND, now);
        let opened = racing.join().unwrap();
        assert!(tripped.is_some() && opened.is_none());
        assert!(window.snapshot().window.is_some());
        assert!(window.try_acquire(now).is_err(), "the word says so, too");
        assert_eq!(window.snapshot().in_flight, 0);
    });
}

#[test]
fn a_trip_on_two_threads_is_told_once() {
    bounded(4).check(|| {
        let now = Instant::now();
        let window = Window::new();
        for _ in 0..2 {
            let permit = window.try_acquire(now).unwrap();
            let _ = permit.record(Verdict::transient(), SECOND, now);
        }
        let other = window.clone();
        let fail = move |window: &Window| {
            let permit = window.try_acquire(now).ok()?;
            permit.record(Verdict::transient(), SECOND, now)
        };
        let racing = thread::spawn(move || fail(&other).is_some());
        let told = [fail(&window).is_some(), racing.join().unwrap()];
        assert_eq!(told.into_iter().filter(|told| *told).count(), 1);
        assert!(window.try_acquire(now).is_err());
    });
}
