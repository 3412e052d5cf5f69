//! Dropping a call at any await loses nothing.
#![cfg(feature = "testing")]

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use evenkeel::testing::{ManualClock, Script};
use evenkeel::{Budget, Pipeline, Retry};

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
