//! Races of the shared handles, all of them: `RUSTFLAGS="--cfg evenkeel_loom" cargo test --release
//! --test loom`.
#![cfg(evenkeel_loom)]

use std::time::Instant;

use evenkeel::Budget;
use evenkeel::budget::Ratio;
use evenkeel::verdict::Kind;
use loom::thread;

/// Withdraws once; says whether an extra attempt was made.
fn try_extra(budget: &Budget, now: Instant) -> u64 {
    let got = budget.withdraw(Kind::Transient, now);
    got.map(evenkeel::budget::Withdrawal::spend)
        .is_some()
        .into()
}

#[test]
fn two_threads_never_share_a_token() {
    loom::model(|| {
        let now = Instant::now();
        let budget = Budget::new(Ratio::percent(100)).capacity(1);
        let other = budget.clone();
        let racing = thread::spawn(move || try_extra(&other, now));
        let extra = try_extra(&budget, now) + racing.join().unwrap();
        assert_eq!(extra, 1);
    });
}

#[test]
fn a_token_given_back_is_there_for_the_other_and_only_once() {
    loom::model(|| {
        let now = Instant::now();
        let budget = Budget::new(Ratio::percent(0)).capacity(1);
        let held = budget.withdraw(Kind::Transient, now).unwrap();
        let other = budget.clone();
        let racing = thread::spawn(move || try_extra(&other, now));
        drop(held);
        let extra = racing.join().unwrap() + try_extra(&budget, now);
        assert_eq!(extra, 1);
    });
}

#[test]
fn deposits_while_a_token_is_reserved_never_overfill_the_bucket() {
    loom::model(|| {
        let now = Instant::now();
        let budget = Budget::new(Ratio::percent(100)).capacity(1);
        let held = budget.withdraw(Kind::Transient, now).unwrap();
        let other = budget.clone();
        let racing = thread::spawn(move || {
            let _ = other.deposit();
            try_extra(&other, now)
        });
        drop(held);
        let early = racing.join().unwrap();
        let late = try_extra(&budget, now) + try_extra(&budget, now);
        // One token of capacity, one deposit.
        assert!(early + late <= 2);
        assert!(budget.snapshot().available <= 1.0);
    });
}

#[test]
fn every_first_attempt_is_counted() {
    loom::model(|| {
        let budget = Budget::new(Ratio::percent(100)).capacity(3);
        let other = budget.clone();
        let racing = thread::spawn(move || {
            let _ = other.deposit();
        });
        let _ = budget.deposit();
        racing.join().unwrap();
        assert_eq!(budget.snapshot().first_attempts, 2);
    });
}
