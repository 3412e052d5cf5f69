//! What the other cases can't do without.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::{Case, Run, case, each};

pub const CASES: &[Case] = &[
    case("floor", "one atomic addition", one_atomic),
    case("floor", "two atomic additions", two_atomics),
    case("floor", "one clock read", one_clock_read),
];

pub fn one_atomic() -> Run {
    let counter = AtomicU64::new(0);
    each(move || {
        black_box(counter.fetch_add(1, Ordering::Relaxed));
    })
}

pub fn two_atomics() -> Run {
    let pair = [const { AtomicU64::new(0) }; 2];
    each(move || {
        black_box(pair[0].fetch_add(1, Ordering::Relaxed));
        black_box(pair[1].fetch_add(1, Ordering::Relaxed));
    })
}

pub fn one_clock_read() -> Run {
    each(|| {
        black_box(Instant::now());
    })
}
