//! Races of the registry, all of them: `RUSTFLAGS="--cfg evenkeel_loom" cargo test --release
//! --no-default-features --test loom_keyed`.
#![cfg(evenkeel_loom)]

use std::time::{Duration, Instant};

use evenkeel::keyed::Keyed;
use evenkeel::{Budget, Key, Pipeline, Retry};
use loom::thread;

const TICK: Duration = Duration::from_nanos(1);

#[test]
fn two_threads_that_meet_a_new_key_get_the_same_policy() {
    loom::model(|| {
        let (keyed, now, key) = (one_place(), Instant::now(), Key::of(0));
        let other = keyed.clone();
        let racing = thread::spawn(move || deposit(&other, key, now));
        let shared = deposit(&keyed, key, now);
        assert!(!racing.join().unwrap() && !shared);
        assert_eq!(keyed.len(), 1);
        let budget = keyed.peek(key).unwrap();
        assert_eq!(budget.snapshot().first_attempts, 2);
    });
}

#[test]
fn two_new_keys_never_exceed_the_capacity() {
    loom::model(|| {
        let (keyed, now) = (one_place(), Instant::now());
        let other = keyed.clone();
        let racing = thread::spawn(move || deposit(&other, Key::of(1), now));
        let shared = deposit(&keyed, Key::of(0), now);
        assert_ne!(racing.join().unwrap(), shared);
        assert_eq!(keyed.len(), 1);
        assert_eq!(keyed.shared_entry().snapshot().first_attempts, 1);
    });
}

#[test]
fn a_held_policy_is_not_evicted_by_another_key_that_finds_it_unused_for_long() {
    loom::model(|| {
        let (keyed, now, key) = (one_place(), Instant::now(), Key::of(0));
        let held = keyed.get(key, || now);
        let other = keyed.clone();
        let racing = thread::spawn(move || deposit(&other, Key::of(1), now + TICK));
        let _ = held.policy().deposit();
        assert!(!deposit(&keyed, key, now + TICK));
        assert!(racing.join().unwrap());
        assert_eq!(held.policy().snapshot().first_attempts, 2);
    });
}

#[test]
fn a_policy_looked_up_in_time_stays_while_another_key_wants_its_place() {
    loom::model(|| {
        let (keyed, now, key) = (one_place(), Instant::now(), Key::of(0));
        drop(keyed.get(key, || now));
        let other = keyed.clone();
        let racing = thread::spawn(move || deposit(&other, Key::of(1), now + TICK));
        let held = keyed.get(key, || now + TICK);
        let _ = held.policy().deposit();
        let again = keyed.get(key, || now + TICK);
        assert!(held.is_shared() || !again.is_shared());
        let lost = racing.join().unwrap();
        assert!(lost != held.is_shared() || (lost && keyed.len() == 1));
        if !held.is_shared() {
            let _ = again.policy().deposit();
            assert_eq!(held.policy().snapshot().first_attempts, 2);
            assert!(lost && keyed.peek(key).is_some());
        }
        assert_eq!(keyed.len(), 1);
    });
}

#[test]
fn a_key_that_is_removed_while_it_is_looked_up_is_counted_once() {
    loom::model(|| {
        let (keyed, now, key) = (one_place(), Instant::now(), Key::of(0));
        drop(keyed.get(key, || now));
        let other = keyed.clone();
        let racing = thread::spawn(move || other.remove(key).is_some());
        let removed = keyed.remove(key).is_some();
        assert_ne!(racing.join().unwrap(), removed);
        assert!(keyed.is_empty());
    });
}

#[test]
fn a_key_that_comes_while_settings_change_has_the_new_ones_in_the_end() {
    loom::model(|| {
        let (keyed, now, key) = (one_place(), Instant::now(), Key::of(0));
        let with = |budgets| Pipeline::new().retry(Retry::default().budget(budgets));
        let pipeline = with(keyed.clone()).reloadable();
        let to = Keyed::new(Budget::default().capacity(70)).capacity(1);
        let (to, other) = (with(to.idle_after(TICK)), keyed.clone());
        let racing = thread::spawn(move || drop(other.get(key, || now)));
        pipeline.reload(&to).unwrap();
        racing.join().unwrap();
        let capacity = keyed.peek(key).unwrap().snapshot().capacity;
        assert!(capacity > 69.0, "{capacity}");
    });
}

fn one_place() -> Keyed<Budget> {
    Keyed::new(Budget::default()).capacity(1).idle_after(TICK)
}

/// Looks up and deposits. Says whether it was in the shared one.
fn deposit(keyed: &Keyed<Budget>, key: Key, now: Instant) -> bool {
    let entry = keyed.get(key, || now);
    let _ = entry.policy().deposit();
    entry.is_shared()
}
