//! Retries, their budget and their delays.

use std::future::ready;
use std::hint::black_box;
use std::time::Duration;

use evenkeel::backoff::Backoff;
use evenkeel::budget::Ratio;
use evenkeel::{Budget, Pipeline, Retry};

use super::{Case, Run, case, done, each};

pub const CASES: &[Case] = &[
    case("retry", "with budget, first try succeeds", first_try),
    case(
        "retry",
        "with budget, two failures, zero delay",
        two_failures,
    ),
    case("retry", "one backoff delay with full jitter", one_delay),
];

pub fn first_try() -> Run {
    let pipeline = Pipeline::new().retry(at_once());
    each(move || {
        done(pipeline.run(|_| ready(Ok::<_, ()>(black_box(7)))));
    })
}

pub fn two_failures() -> Run {
    let pipeline = Pipeline::new().retry(at_once());
    each(move || {
        let call = pipeline.run(|it| ready(if it.number() < 3 { Err(()) } else { Ok(7) }));
        done(call);
    })
}

pub fn one_delay() -> Run {
    let mut delays = Backoff::exponential(Duration::from_millis(100)).delays();
    each(move || {
        black_box(delays.next());
    })
}

/// A budget that never runs dry.
pub fn plenty() -> Budget {
    Budget::new(Ratio::percent(1000)).capacity(1_000_000)
}

fn at_once() -> Retry {
    Retry::constant(Duration::ZERO).budget(plenty())
}
