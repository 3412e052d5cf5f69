//! Races of the limits, all of them: `RUSTFLAGS="--cfg evenkeel_loom" cargo test --release
//! --no-default-features --test loom_limits`.
#![cfg(evenkeel_loom)]

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use evenkeel::Clock;
use evenkeel::limit::{Aimd, Bulkhead, RateLimit};
use loom::sync::Notify;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;

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

#[test]
fn a_permit_given_back_while_another_joins_the_line_wakes_it() {
    loom::model(|| {
        let bulkhead = Bulkhead::new(1).queue(1);
        let other = bulkhead.clone();
        let held = bulkhead.try_acquire().unwrap();
        let racing =
            thread::spawn(move || drop(block_on(other.acquire(&Clock::default())).unwrap()));
        drop(held);
        racing.join().unwrap();
        let end = bulkhead.snapshot();
        assert_eq!((end.in_flight, end.waiting), (0, 0));
        assert!(bulkhead.try_acquire().is_some());
    });
}

#[test]
fn a_waiter_that_is_dropped_just_when_it_is_woken_hands_its_turn_on() {
    loom::model(|| {
        let bulkhead = Bulkhead::new(1).queue(2);
        let (dropping, waiting) = (bulkhead.clone(), bulkhead.clone());
        let held = bulkhead.try_acquire().unwrap();
        let clock = Clock::default();
        let mut first = Box::pin(bulkhead.acquire(&clock));
        assert!(!poll_once(first.as_mut()));
        let racing =
            thread::spawn(move || drop(block_on(waiting.acquire(&Clock::default())).unwrap()));
        drop(held);
        drop(first);
        racing.join().unwrap();
        assert_eq!(dropping.snapshot().in_flight, 0);
    });
}

#[test]
fn the_quick_way_and_the_line_together_never_let_too_many_in() {
    // Three threads are too many to try every order; with up to three switches it is all of them
    // that are known to matter.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let bulkhead = Bulkhead::new(1).queue(1);
        let (other, third) = (bulkhead.clone(), bulkhead.clone());
        let inside = Arc::new(AtomicU32::new(0));
        let (inside_2, inside_3) = (Arc::clone(&inside), Arc::clone(&inside));
        let waiting = thread::spawn(move || {
            let permit = block_on(other.acquire(&Clock::default()));
            enter(&inside_2);
            drop(permit.unwrap());
        });
        let trying = thread::spawn(move || {
            if let Some(_permit) = third.try_acquire() {
                enter(&inside_3);
            }
        });
        if let Some(_permit) = bulkhead.try_acquire() {
            enter(&inside);
        }
        waiting.join().unwrap();
        trying.join().unwrap();
        assert_eq!(bulkhead.snapshot().in_flight, 0);
    });
}

/// Stands for what only one may do at a time.
fn enter(inside: &AtomicU32) {
    assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0);
    inside.fetch_sub(1, Ordering::Relaxed);
}

#[test]
fn a_raised_limit_wakes_one_that_joins_the_line() {
    loom::model(|| {
        let bulkhead = Bulkhead::new(1).queue(1);
        let other = bulkhead.clone();
        let _held = bulkhead.try_acquire().unwrap();
        let racing =
            thread::spawn(move || drop(block_on(other.acquire(&Clock::default())).unwrap()));
        bulkhead.set_limit(2);
        racing.join().unwrap();
        assert_eq!(bulkhead.snapshot().in_flight, 1);
    });
}

#[test]
fn the_last_to_learn_has_the_last_word() {
    loom::model(|| {
        let now = Instant::now();
        let bulkhead = Bulkhead::adaptive(Aimd::new().initial(2).bounds(1, 3));
        let other = bulkhead.clone();
        let racing = thread::spawn(move || {
            let permit = other.try_acquire().unwrap();
            let _ = permit.answered(Duration::from_millis(1), now);
        });
        let permit = bulkhead.try_acquire().unwrap();
        let _ = permit.failed(Duration::from_millis(1), now);
        racing.join().unwrap();
        assert_eq!(bulkhead.snapshot().in_flight, 0);
        // From 2: a tenth less is 1 (1.8); an answer near the limit may have added half a one before
        // (2.5, then 2.25) or after (2.3).
        assert!((1..=2).contains(&bulkhead.snapshot().limit));
    });
}

#[test]
fn two_threads_never_share_a_token() {
    loom::model(|| {
        let now = Instant::now();
        let limit = RateLimit::per_second(1).burst(2);
        let (other, third) = (limit.clone(), limit.clone());
        let threads =
            [other, third].map(|it| thread::spawn(move || u32::from(it.try_acquire(now).is_ok())));
        let mut went = u32::from(limit.try_acquire(now).is_ok());
        went += threads.map(|it| it.join().unwrap()).iter().sum::<u32>();
        assert_eq!(went, 2);
    });
}

#[test]
fn nothing_begins_after_a_pause_was_told() {
    loom::model(|| {
        let now = Instant::now();
        let limit = RateLimit::per_second(1).burst(2);
        let other = limit.clone();
        let racing = thread::spawn(move || {
            let _ = other.try_acquire(now);
        });
        let _ = limit.pause(Duration::from_secs(9), now);
        assert!(limit.try_acquire(now + Duration::from_secs(8)).is_err());
        racing.join().unwrap();
        assert!(limit.try_acquire(now + Duration::from_secs(8)).is_err());
        assert!(limit.try_acquire(now + Duration::from_secs(11)).is_ok());
    });
}
