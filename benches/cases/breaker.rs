//! Breakers by themselves: a permit is taken and given back with a success. The moment is given, but
//! where a case says that it reads the clock.

use std::hint::black_box;
use std::time::Instant;

use evenkeel::verdict::Verdict;
use evenkeel::{Breaker, Key, Keyed, Rng};

use super::{Case, Run, case, each};

pub const CASES: &[Case] = &[
    case("breaker", "closed, window of time", closed_by_time),
    case(
        "breaker",
        "closed, window of time, reads the clock",
        closed_by_the_clock,
    ),
    case("breaker", "closed, failures in a row", closed_in_a_row),
    case("breaker", "closed, the last 100 calls", closed_by_calls),
    case("breaker", "open, refuses", open),
    case(
        "breaker",
        "open, refuses, reads the clock",
        open_by_the_clock,
    ),
    case(
        "breaker",
        "closed, one of 10,000, scattered",
        one_of_ten_thousand,
    ),
    case(
        "breaker",
        "closed, one of 10,000 keys",
        one_of_ten_thousand_keys,
    ),
];

pub fn closed_by_time() -> Run {
    given_the_moment(Breaker::new())
}

pub fn closed_by_the_clock() -> Run {
    let (breaker, rng) = (Breaker::new(), Rng::default());
    each(move || call(&breaker, Instant::now(), &rng))
}

pub fn closed_in_a_row() -> Run {
    given_the_moment(in_a_row())
}

pub fn closed_by_calls() -> Run {
    given_the_moment(by_calls())
}

pub fn open() -> Run {
    let (breaker, rng, moment) = (Breaker::new(), Rng::default(), Instant::now());
    breaker.force_open(moment);
    each(move || {
        let _ = black_box(breaker.try_acquire(moment, &rng).is_ok());
    })
}

pub fn open_by_the_clock() -> Run {
    let (breaker, rng) = (Breaker::new(), Rng::default());
    breaker.force_open(Instant::now());
    each(move || {
        let _ = black_box(breaker.try_acquire(Instant::now(), &rng).is_ok());
    })
}

pub fn one_of_ten_thousand() -> Run {
    let breakers: Vec<Breaker> = (0..10_000).map(|_| Breaker::new()).collect();
    let (rng, moment) = (Rng::default(), Instant::now());
    let mut next = 0;
    each(move || {
        next = (next + 7_919) % breakers.len();
        call(&breakers[next], moment, &rng);
    })
}

pub fn one_of_ten_thousand_keys() -> Run {
    let breakers = Keyed::new(Breaker::new());
    let keys: Vec<Key> = (0..10_000).map(Key::of).collect();
    let (rng, moment) = (Rng::default(), Instant::now());
    for key in &keys {
        let _ = breakers.get(*key, || moment);
    }
    let mut next = 0;
    each(move || {
        next = (next + 7_919) % keys.len();
        let entry = breakers.get(keys[next], || moment);
        call(&entry.into_inner(), moment, &rng);
    })
}

pub fn in_a_row() -> Breaker {
    Breaker::new().failure_ratio(None)
}

pub fn by_calls() -> Breaker {
    Breaker::new()
        .consecutive_failures(None)
        .window_of_calls(100)
}

/// A permit, and a success.
pub fn call(breaker: &Breaker, now: Instant, rng: &Rng) {
    if let Ok(permit) = breaker.try_acquire(now, rng) {
        black_box(&permit.record(Verdict::success(), now, rng));
    }
}

fn given_the_moment(breaker: Breaker) -> Run {
    let (rng, moment) = (Rng::default(), Instant::now());
    each(move || call(&breaker, moment, &rng))
}
