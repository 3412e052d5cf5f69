//! Races of the breaker, all of them: `RUSTFLAGS="--cfg evenkeel_loom" cargo test --release
//! --no-default-features --test loom_breaker`.
#![cfg(evenkeel_loom)]

use std::time::{Duration, Instant};

use evenkeel::backoff::Backoff;
use evenkeel::breaker::{Breaker, Change, State};
use evenkeel::budget::Ratio;
use evenkeel::{Rng, Verdict};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

#[test]
fn a_success_and_failures_leave_it_as_one_order_of_them_would() {
    loom::model(|| {
        let now = Instant::now();
        let breaker = quick().consecutive_failures(2);
        assert!(tell(&breaker, false, now).is_none());
        let other = breaker.clone();
        let racing = thread::spawn(move || tell(&other, true, now));
        let tripped = tell(&breaker, false, now);
        assert!(racing.join().unwrap().is_none());
        let end = breaker.snapshot(now);
        match tripped {
            // Failure, failure, success.
            Some(change) => {
                assert_eq!(
                    (change.to, end.state, end.trips),
                    (State::Open, State::Open, 1)
                );
            }
            // The success came between the failures, or before the second was counted.
            None => {
                assert_eq!((end.state, end.trips), (State::Closed, 0));
                assert_eq!(end.consecutive_failures, 1);
            }
        }
    });
}

#[test]
fn two_failures_at_once_open_it_and_one_of_them_is_told() {
    loom::model(|| {
        let now = Instant::now();
        let breaker = quick()
            .failure_ratio(Ratio::percent(100))
            .consecutive_failures(None)
            .min_calls(2);
        let _ = breaker.snapshot(now);
        let other = breaker.clone();
        let racing = thread::spawn(move || tell(&other, false, now).is_some());
        let mine = tell(&breaker, false, now).is_some();
        assert_eq!(u32::from(mine) + u32::from(racing.join().unwrap()), 1);
        assert_eq!(breaker.snapshot(now).state, State::Open);
    });
}

#[test]
fn two_failures_at_once_fill_a_window_of_calls_and_one_is_told() {
    loom::model(|| {
        let now = Instant::now();
        let breaker = quick()
            .failure_ratio(Ratio::percent(100))
            .consecutive_failures(None)
            .window_of_calls(2)
            .min_calls(2);
        let other = breaker.clone();
        let racing = thread::spawn(move || tell(&other, false, now).is_some());
        let mine = tell(&breaker, false, now).is_some();
        assert_eq!(u32::from(mine) + u32::from(racing.join().unwrap()), 1);
        assert_eq!(breaker.snapshot(now).state, State::Open);
    });
}

#[test]
fn probes_out_never_exceed_n_and_no_place_leaks() {
    loom::model(|| {
        let now = Instant::now();
        let breaker = quick().consecutive_failures(1);
        let now = now + tell(&breaker, false, now).unwrap().retry_after.unwrap();
        let out = Arc::new(AtomicUsize::new(0));
        let (other, others) = (breaker.clone(), Arc::clone(&out));
        let racing = thread::spawn(move || probe_and_drop(&other, &others, now));
        probe_and_drop(&breaker, &out, now);
        racing.join().unwrap();
        // Both are back: the place can be had, once.
        let rng = Rng::seeded(1);
        let probe = breaker.try_acquire(now, &rng).expect("its place");
        assert!(breaker.try_acquire(now, &rng).is_err());
        drop(probe);
        assert_eq!(breaker.snapshot(now).probes, 0);
    });
}

#[test]
fn one_of_two_probes_that_end_at_once_decides() {
    loom::model(|| {
        let now = Instant::now();
        let rng = Rng::seeded(1);
        let breaker = quick().consecutive_failures(1).probes(2);
        let now = now + tell(&breaker, false, now).unwrap().retry_after.unwrap();
        let one = breaker.try_acquire(now, &rng).unwrap();
        std::mem::forget(one); // never comes back
        let other = breaker.clone();
        let racing = thread::spawn(move || tell(&other, true, now));
        let mine = tell(&breaker, false, now);
        let theirs = racing.join().unwrap();
        let end = breaker.snapshot(now).state;
        match (mine.map(|it| it.to), theirs.map(|it| it.to)) {
            (Some(State::Open), None) => assert_eq!(end, State::Open),
            // Mine may have come after the end, and be an ordinary failure that opens it anew; or
            // have been refused.
            (Some(State::Open), Some(State::Closed)) => assert_eq!(end, State::Open),
            (None, Some(State::Closed)) => assert_eq!(end, State::Closed),
            changes => panic!("{changes:?}"),
        }
    });
}

#[test]
fn a_late_result_never_counts_in_another_spell() {
    for by_calls in [false, true] {
        loom::model(move || {
            let now = Instant::now();
            let breaker = quick()
                .consecutive_failures(2)
                .failure_ratio(Ratio::percent(100))
                .min_calls(2);
            let breaker = match by_calls {
                true => breaker.window_of_calls(2),
                false => breaker,
            };
            let _ = breaker.snapshot(now);
            let early = breaker.clone();
            let racing = thread::spawn(move || tell(&early, false, now));
            // A new spell begins while it is told.
            breaker.automatic(now);
            assert!(racing.join().unwrap().is_none());
            let end = breaker.snapshot(now);
            assert_eq!(end.state, State::Closed);
            assert_eq!(
                u64::from(end.consecutive_failures),
                end.failures,
                "all or nothing"
            );
            assert_eq!(end.calls, end.failures);
            // Told in the new spell it counts for one there, else for none.
            let second = tell(&breaker, false, now);
            assert_eq!(second.is_some(), end.failures == 1);
        });
    }
}

#[test]
fn threads_that_begin_a_bucket_at_once_lose_nothing() {
    loom::model(|| {
        let t0 = Instant::now();
        let breaker = quick()
            .consecutive_failures(None)
            .failure_ratio(Ratio::percent(100))
            .min_calls(100);
        tell(&breaker, false, t0);
        // The same slot, a lap later: both find it old.
        let now = t0 + Duration::from_secs(10);
        let other = breaker.clone();
        let racing = thread::spawn(move || tell(&other, false, now));
        tell(&breaker, true, now);
        racing.join().unwrap();
        let end = breaker.snapshot(now);
        assert_eq!((end.calls, end.failures), (2, 1));
    });
}

#[test]
fn a_slot_of_the_last_calls_taken_by_two_holds_the_later() {
    loom::model(|| {
        let now = Instant::now();
        let breaker = quick()
            .consecutive_failures(None)
            .failure_ratio(Ratio::percent(100))
            .slow_calls(Duration::from_secs(1), Ratio::percent(100))
            .window_of_calls(1)
            .min_calls(1);
        breaker.force_closed(now);
        let other = breaker.clone();
        let racing = thread::spawn(move || tell(&other, false, now));
        tell(&breaker, true, now);
        racing.join().unwrap();
        assert!(breaker.snapshot(now).failures <= 1);
        tell(&breaker, true, now);
        let end = breaker.snapshot(now);
        assert_eq!((end.calls, end.failures), (1, 0));
    });
}

/// Nothing left to chance, and no way back but all at once.
fn quick() -> Breaker {
    Breaker::new()
        .failure_ratio(None)
        .cooldown(Backoff::constant(Duration::from_secs(1)))
        .ramp(Duration::ZERO)
}

fn tell(breaker: &Breaker, good: bool, now: Instant) -> Option<Change> {
    let rng = Rng::seeded(1);
    let verdict = match good {
        true => Verdict::success(),
        false => Verdict::transient(),
    };
    let permit = breaker.try_acquire(now, &rng).ok()?;
    permit.record(verdict, now, &rng)
}

fn probe_and_drop(breaker: &Breaker, out: &AtomicUsize, now: Instant) {
    let rng = Rng::seeded(1);
    let got = breaker.try_acquire(now, &rng);
    if let Ok(permit) = got {
        assert!(permit.is_probe());
        assert_eq!(out.fetch_add(1, Ordering::SeqCst), 0, "two are out");
        out.fetch_sub(1, Ordering::SeqCst);
        drop(permit);
    }
}
