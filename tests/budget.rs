//! The budget on real threads.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use evenkeel::Budget;
use evenkeel::budget::Ratio;
use evenkeel::verdict::Kind;

const THREADS: usize = 4;

#[test]
fn extra_attempts_never_exceed_capacity_and_share_under_real_threads() {
    for (percent, capacity) in [(10, 3), (50, 0), (0, 7), (100, 1)] {
        let budget = Budget::new(Ratio::percent(percent)).capacity(capacity);
        let spent = AtomicU64::new(0);
        let start = Barrier::new(THREADS);
        thread::scope(|scope| {
            for worker in 0..THREADS {
                let (budget, spent, start) = (budget.clone(), &spent, &start);
                scope.spawn(move || {
                    start.wait();
                    for round in 0..5_000 {
                        let _ = budget.deposit();
                        let withdrawal = budget.withdraw(Kind::Transient, Instant::now());
                        // Every third one is cancelled before its attempt begins.
                        match withdrawal {
                            Some(it) if (round + worker) % 3 > 0 => {
                                it.spend();
                                spent.fetch_add(1, Ordering::Relaxed);
                            }
                            other => drop(other),
                        }
                        let spent = spent.load(Ordering::Relaxed);
                        // `spent` was read first, so deposits can only have grown since.
                        let firsts = budget.snapshot().first_attempts;
                        assert!(
                            spent * 100 <= u64::from(capacity) * 100 + firsts * u64::from(percent)
                        );
                    }
                });
            }
        });
        let end = budget.snapshot();
        assert_eq!(end.extra_attempts, spent.into_inner());
        assert_eq!(end.first_attempts, (THREADS * 5_000) as u64);
    }
}

#[test]
fn every_token_can_be_had_and_not_one_more() {
    let budget = Budget::new(Ratio::percent(0)).capacity(1_000);
    let got = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..1_000 {
                    if let Some(it) = budget.withdraw(Kind::Transient, Instant::now()) {
                        it.spend();
                        got.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(got.into_inner(), 1_000);
}

#[test]
fn fractional_ratios_are_exact() {
    let third = Budget::new(Ratio::millionths(333_333)).capacity(0);
    let large = third.clone(); // shares the bucket
    for _ in 0..3 {
        let _ = third.deposit();
    }
    // 999,999 millionths are no token; capacity zero holds none either.
    assert!(large.withdraw(Kind::Transient, Instant::now()).is_none());

    let tenth = Budget::new(Ratio::percent(10)).capacity(5);
    drain(&tenth);
    for earned in 1..=30 {
        let _ = tenth.deposit();
        assert_eq!(drain(&tenth), u64::from(earned % 10 == 0), "after {earned}");
    }
}

#[test]
fn different_failures_can_cost_differently() {
    let now = Instant::now();
    let budget = Budget::default().capacity(5).cost(Kind::Overloaded, 3);
    let dear = budget.withdraw(Kind::Overloaded, now).expect("5 are there");
    assert!(budget.withdraw(Kind::Overloaded, now).is_none());
    let cheap = budget.withdraw(Kind::Transient, now).expect("2 are left");
    drop((dear, cheap));
    assert!((budget.snapshot().available - 5.0).abs() < 1e-9);
}

#[test]
fn a_floor_is_a_share_of_the_clients_own_traffic() {
    let now = Instant::now();
    let shared = Budget::new(Ratio::percent(0)).capacity(0);
    let (quiet, busy) = (
        shared.floor(Ratio::percent(10)),
        shared.floor(Ratio::percent(10)),
    );
    // One token each to begin with.
    assert_eq!((drain(&quiet), drain(&busy)), (1, 1));
    let mut spent = 0;
    for _ in 0..100 {
        let _ = busy.deposit();
        if let Some(it) = busy.withdraw(Kind::Transient, now) {
            it.spend();
            spent += 1;
        }
    }
    assert_eq!((spent, drain(&quiet)), (10, 0));
    assert!(shared.withdraw(Kind::Transient, now).is_none());
}

#[test]
fn a_floor_pays_for_the_dearest_failure_too() {
    let now = Instant::now();
    let shared = Budget::new(Ratio::percent(0)).capacity(0);
    let own = shared.cost(Kind::Overloaded, 3).floor(Ratio::percent(50));
    let dear = own
        .withdraw(Kind::Overloaded, now)
        .expect("3 to begin with");
    dear.spend();
    for earned in 1..=6 {
        let _ = own.deposit();
        let got = own.withdraw(Kind::Overloaded, now);
        assert_eq!(got.is_some(), earned == 6, "after {earned}");
    }
}

#[test]
fn the_snapshot_of_a_floored_handle_includes_its_own_bucket() {
    let shared = Budget::new(Ratio::percent(0)).capacity(2);
    let own = shared.floor(Ratio::percent(10));
    assert_eq!(available(&own), (3.0, 3.0));
    assert_eq!(available(&shared), (2.0, 2.0));
    assert_eq!(drain(&own), 3);
    assert_eq!(available(&own), (0.0, 3.0));
    assert_eq!(own.snapshot().extra_attempts, 3);
    assert_eq!(shared.snapshot().extra_attempts, 2);
}

#[test]
fn a_setter_keeps_the_floor() {
    let own = Budget::new(Ratio::percent(0)).floor(Ratio::percent(50));
    let own = own.cost(Kind::Overloaded, 2).capacity(0);
    assert_eq!(available(&own), (2.0, 2.0));
    assert_eq!(drain(&own), 2);
    let _ = (own.deposit(), own.deposit());
    assert_eq!(drain(&own), 1);
}

#[test]
fn a_capacity_that_never_holds_the_dearest_cost_is_refused() {
    let of = |capacity| {
        Budget::default()
            .cost(Kind::Overloaded, 3)
            .capacity(capacity)
    };
    for capacity in [1, 2] {
        let error = of(capacity).check().unwrap_err();
        assert_eq!(error.field(), "budget.capacity");
    }
    // Zero is no retries at all, and said on purpose.
    for capacity in [0, 3] {
        assert_eq!(of(capacity).check(), Ok(()));
    }
}

/// Tokens to be had, and room for them.
fn available(budget: &Budget) -> (f64, f64) {
    let snapshot = budget.snapshot();
    (snapshot.available, snapshot.capacity)
}

/// Spends all there is, and says how many attempts that was.
fn drain(budget: &Budget) -> u64 {
    let all = std::iter::from_fn(|| budget.withdraw(Kind::Transient, Instant::now()));
    all.map(evenkeel::budget::Withdrawal::spend).count() as u64
}

#[cfg(feature = "testing")]
#[test]
fn a_budget_per_key_leaves_the_others_theirs() {
    use evenkeel::testing::{ManualClock, block_on};
    use evenkeel::{Key, Keyed, Pipeline, Retry};

    let clock = ManualClock::new();
    let budgets = Keyed::new(Budget::new(Ratio::percent(0)).capacity(1));
    let retry = Retry::constant(std::time::Duration::ZERO).budget(budgets.clone());
    let pipeline = Pipeline::new().retry(retry).clock(clock.clock());
    let attempts = |key: &str| {
        let call = pipeline.run(|_| async { Err::<(), _>("down") });
        block_on(&clock, call.keyed(Key::of(key)))
            .unwrap_err()
            .attempts()
    };
    assert_eq!((attempts("a"), attempts("a"), attempts("b")), (2, 1, 2));
    let budget = budgets.peek(Key::of("a")).expect("it was used");
    assert_eq!(budget.snapshot().first_attempts, 2);
    // A call that goes nowhere in particular has no budget.
    let call = pipeline.run(|_| async { Err::<(), _>("down") });
    assert_eq!(block_on(&clock, call).unwrap_err().attempts(), 3);
}
