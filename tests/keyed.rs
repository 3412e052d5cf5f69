//! The registry: bounded, and the same policy for the same key.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use evenkeel::budget::Ratio;
use evenkeel::keyed::{Change, Entry, Keyed};
use evenkeel::{Budget, Key};
use proptest::prelude::*;

const IDLE: Duration = Duration::from_secs(600);
const KEYS: u32 = 12;

#[derive(Clone, Copy, Debug)]
enum Op {
    Get(u32),
    Hold(u32),
    Pass(u64),
    Release(usize),
    Remove(u32),
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..KEYS).prop_map(Op::Get),
        1 => (0..KEYS).prop_map(Op::Hold),
        2 => (0..1_300_u64).prop_map(Op::Pass),
        1 => (0..4_usize).prop_map(Op::Release),
        1 => (0..KEYS).prop_map(Op::Remove),
    ]
}

proptest! {
    #[test]
    fn a_key_keeps_its_policy_until_it_was_unused_for_long_and_is_not_held(
        capacity in 1..10_usize,
        ops in prop::collection::vec(any_op(), 1..200),
    ) {
        let keyed = numbered(capacity);
        let mut now = Instant::now();
        let mut model: HashMap<u32, (u32, Instant)> = HashMap::new();
        let (mut held, mut seen): (Vec<Budget>, _) = (Vec::new(), HashSet::new());
        for op in ops {
            match op {
                Op::Get(name) | Op::Hold(name) => {
                    let before = model.get(&name).map(|it| it.0);
                    let entry = keyed.get(Key::of(name), || now);
                    let id = number(entry.policy());
                    if entry.is_shared() {
                        prop_assert_eq!(id, 0);
                        prop_assert!(keyed.len() == capacity && keyed.peek(Key::of(name)).is_none());
                    } else if before == Some(id) {
                        model.insert(name, (id, now));
                    } else {
                        // Found missing, or evicted by this very lookup, which only a new key does.
                        prop_assert!(before.is_none() && seen.insert(id), "key {name}");
                        model.insert(name, (id, now));
                    }
                    if matches!(op, Op::Hold(_)) {
                        held.push(entry.into_inner());
                    }
                }
                Op::Pass(seconds) => now += Duration::from_secs(seconds),
                Op::Release(at) if at < held.len() => drop(held.swap_remove(at)),
                Op::Release(_) => {}
                Op::Remove(name) => {
                    let removed = keyed.remove(Key::of(name)).as_ref().map(number);
                    prop_assert_eq!(removed, model.remove(&name).map(|it| it.0));
                }
            }
            let holds = |id| held.iter().any(|it| number(it) == id);
            for name in 0..KEYS {
                let there = keyed.peek(Key::of(name)).as_ref().map(number);
                let Some((id, used)) = model.get(&name).copied() else {
                    prop_assert_eq!(there, None);
                    continue;
                };
                if there.is_none() {
                    prop_assert!(now - used >= IDLE && !holds(id), "key {name}");
                    model.remove(&name);
                } else {
                    prop_assert_eq!(there, Some(id));
                }
            }
            prop_assert_eq!(keyed.len(), model.len());
            prop_assert!(model.len() <= capacity);
            let mut shown = 0;
            keyed.for_each(|_, _| shown += 1);
            prop_assert_eq!(shown, model.len());
        }
    }
}

#[test]
fn a_hostile_number_of_keys_shares_one_policy_and_throws_out_none_in_use() {
    let (keyed, now) = (numbered(100), Instant::now());
    let first: Vec<u32> = (0..100).map(|key| number(&get(&keyed, key, now))).collect();
    for key in 100..100_000 {
        let entry = keyed.get(Key::of(key), || now);
        assert!(entry.is_shared() && number(entry.policy()) == 0);
    }
    assert_eq!(keyed.len(), 100);
    let again: Vec<u32> = (0..100).map(|key| number(&get(&keyed, key, now))).collect();
    assert_eq!(first, again);
    assert_eq!(number(keyed.shared_entry()), 0);
}

#[test]
fn overflow_is_told_at_once_and_then_once_a_minute() {
    let (keyed, now) = (numbered(1), Instant::now());
    let told = |key: u32, at| keyed.get(Key::of(key), || at).change();
    let overflow = Some(Change::Overflow { keys: 1 });
    let minute = Duration::from_secs(60);
    assert_eq!(told(0, now), None);
    assert_eq!(told(1, now), overflow);
    assert_eq!(told(2, now), None);
    assert_eq!(told(1, now + Duration::from_nanos(59_999_999_999)), None);
    assert_eq!(told(0, now + minute), None); // it has an entry
    assert_eq!(told(1, now + minute), overflow);
    assert_eq!(told(3, now + minute), None);
}

#[test]
fn idle_entries_make_room_for_new_keys() {
    for capacity in [1, 10, 1_000] {
        let (keyed, now) = (numbered(capacity), Instant::now());
        for round in 0..20_u32 {
            let now = now + IDLE * round;
            for key in 0..capacity {
                let entry = keyed.get(Key::of((round, key)), || now);
                assert!(!entry.is_shared(), "round {round}, key {key} of {capacity}");
            }
            assert!(keyed.len() <= capacity);
        }
    }
}

#[test]
fn what_is_held_stays_however_long_and_goes_when_it_is_let_go() {
    let (keyed, now) = (numbered(1), Instant::now());
    let held = get(&keyed, 0, now);
    for hours in 1..10 {
        let entry = keyed.get(Key::of(1), || now + 6 * hours * IDLE);
        assert!(entry.is_shared());
    }
    drop(held);
    let later = now + 60 * IDLE;
    assert!(!keyed.get(Key::of(1), || later).is_shared());
    assert!(keyed.peek(Key::of(0)).is_none());
}

#[test]
fn lookups_of_a_stable_set_of_keys_shed_the_old_ones() {
    let (keyed, now) = (numbered(10_000), Instant::now());
    for old in 0..1_000 {
        let _ = get(&keyed, old, now);
    }
    for _ in 0..64 * 1_000 {
        let _ = keyed.get(Key::of("new"), || now + IDLE);
    }
    assert_eq!(keyed.len(), 1);
}

#[test]
fn a_lookup_of_a_known_key_reads_no_clock() {
    let (keyed, now, reads) = (numbered(10), Instant::now(), AtomicU32::new(0));
    let read = || {
        reads.fetch_add(1, Ordering::Relaxed);
        now
    };
    for _ in 0..=63 {
        let _ = keyed.get(Key::of(0), read); // the first of them adds it
    }
    assert_eq!(reads.load(Ordering::Relaxed), 1);
    let _ = keyed.get(Key::of(0), read);
    assert_eq!(reads.load(Ordering::Relaxed), 2);
}

#[test]
fn the_callers_code_may_use_the_registry() {
    static KEYED: OnceLock<Keyed<Budget>> = OnceLock::new();
    let keyed = Keyed::new(Budget::default()).with(|key| {
        let keyed = KEYED.get().expect("set");
        let other = keyed.peek(key).is_some() || keyed.remove(key).is_some();
        assert!(!other && keyed.is_empty());
        keyed.for_each(|_, _| ());
        None
    });
    KEYED.set(keyed.clone()).expect("once");
    let now = Instant::now();
    let _ = get(&keyed, 0, now);
    keyed.for_each(|key, _| {
        assert!(keyed.remove(key).is_some());
    });
    assert!(keyed.is_empty());
}

#[test]
fn a_panic_in_the_callers_code_harms_nothing() {
    let panics = Arc::new(AtomicBool::new(true));
    let now = Instant::now();
    let keyed = Keyed::new(Budget::default()).capacity(1).with({
        let panics = Arc::clone(&panics);
        move |_| {
            assert!(!panics.load(Ordering::Relaxed), "foreseen");
            None
        }
    });
    let attempt = std::panic::AssertUnwindSafe(|| get(&keyed, 0, now));
    assert!(std::panic::catch_unwind(attempt).is_err());
    assert!(keyed.is_empty());
    panics.store(false, Ordering::Relaxed);
    assert!(!keyed.get(Key::of(0), || now).is_shared());
}

#[test]
fn every_key_has_a_policy_of_its_own_even_if_the_same_one_is_given_for_all() {
    let (one, now) = (Budget::default(), Instant::now());
    let given = one.clone();
    let keyed = Keyed::new(one.clone()).with(move |_| Some(given.clone()));
    let _ = (
        get(&keyed, 0, now).deposit(),
        keyed.shared_entry().deposit(),
    );
    assert_eq!(get(&keyed, 1, now).snapshot().first_attempts, 0);
    assert_eq!(one.snapshot().first_attempts, 0);
}

#[test]
fn settings_that_make_no_sense_are_named() {
    let field = |keyed: Keyed<Budget>| keyed.check().map_err(|error| error.field());
    let keyed = || Keyed::new(Budget::default());
    assert_eq!(field(keyed()), Ok(()));
    assert_eq!(field(keyed().capacity(0)), Err("keyed.capacity"));
    let zero = Duration::ZERO;
    assert_eq!(field(keyed().idle_after(zero)), Err("keyed.idle_after"));
    let bad = Budget::default().capacity_of(zero, 1);
    assert_eq!(field(Keyed::new(bad)), Err("budget.capacity_of"));
    // They don't panic either.
    let none = keyed().capacity(0).idle_after(Duration::MAX);
    assert!(none.get(Key::of(0), Instant::now).is_shared());
}

/// Eviction at every chance, far fewer places than keys, and everybody at once.
#[test]
fn a_key_has_one_policy_while_anybody_holds_it_on_real_threads() {
    const THREADS: u32 = 4;
    let keyed = numbered(4).idle_after(Duration::from_nanos(1));
    let most = AtomicUsize::new(0);
    let own = AtomicUsize::new(0);
    // Whom somebody holds, and how often.
    let holds: Vec<Mutex<(u32, u32)>> = (0..KEYS).map(|_| Mutex::default()).collect();
    thread::scope(|scope| {
        for worker in 0..THREADS {
            let (keyed, most, own, holds) = (&keyed, &most, &own, &holds);
            scope.spawn(move || {
                for round in 0..20_000_u32 {
                    let name = (round.wrapping_mul(worker * 2 + 7) >> 2) % KEYS;
                    let lookup = || keyed.get(Key::of(name), Instant::now);
                    // Racing for the same key, and checked against what all others hold of it.
                    let first = lookup();
                    let mut hold = holds[name as usize].lock().expect("whole");
                    let entry = lookup();
                    most.fetch_max(keyed.len(), Ordering::Relaxed);
                    if !first.is_shared() {
                        assert_eq!(number(first.policy()), number(entry.policy()));
                    }
                    if entry.is_shared() {
                        assert_eq!(hold.1, 0, "a held key keeps its own");
                        continue;
                    }
                    own.fetch_add(1, Ordering::Relaxed);
                    let id = number(entry.policy());
                    assert!(hold.1 == 0 || hold.0 == id);
                    *hold = (id, hold.1 + 1);
                    drop(hold);
                    if round % 3 == 0 {
                        thread::yield_now();
                    }
                    assert_eq!(number(lookup().policy()), id);
                    let mut hold = holds[name as usize].lock().expect("whole");
                    hold.1 -= 1;
                    // Let go before anybody may think that nobody holds it.
                    drop((entry, first));
                }
            });
        }
    });
    assert!(most.into_inner() <= 4);
    assert!(own.into_inner() > 1_000);
    assert!(keyed.len() <= 4);
}

/// Budgets that can be told apart: every new one has a capacity of its own. Zero is the shared one.
fn numbered(capacity: usize) -> Keyed<Budget> {
    let made = AtomicU32::new(0);
    Keyed::new(Budget::new(Ratio::percent(0)).capacity(0))
        .with(move |_| {
            let id = made.fetch_add(1, Ordering::Relaxed) + 1;
            Some(Budget::new(Ratio::percent(0)).capacity(id))
        })
        .capacity(capacity)
        .idle_after(IDLE)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a small whole number
fn number(budget: &Budget) -> u32 {
    budget.snapshot().capacity as u32
}

fn get(keyed: &Keyed<Budget>, key: u32, now: Instant) -> Budget {
    Entry::into_inner(keyed.get(Key::of(key), || now))
}
