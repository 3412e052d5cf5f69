//! What else stands in front of an attempt, by itself. The moment is given.

use std::hint::black_box;
use std::time::{Duration, Instant};

use evenkeel::verdict::{Kind, Verdict};
use evenkeel::{Bulkhead, Endpoints, Priority, RateLimit, Rng, Throttle, Window};

use super::{Case, Run, case, each};

pub const CASES: &[Case] = &[
    case("gates", "bulkhead, free", bulkhead),
    case("gates", "rate limit, allowed", rate_limit),
    case(
        "gates",
        "rate limit, allowed, reads the clock",
        rate_limit_by_the_clock,
    ),
    case("gates", "window, open", window),
    case("gates", "throttle, healthy", throttle),
    case("gates", "endpoints, one of ten, healthy", endpoints),
];

const LATENCY: Duration = Duration::from_millis(1);

pub fn bulkhead() -> Run {
    let bulkhead = Bulkhead::new(10);
    each(move || drop(black_box(bulkhead.try_acquire())))
}

pub fn rate_limit() -> Run {
    let (limit, moment) = (unreached(), Instant::now());
    each(move || {
        let _ = black_box(limit.try_acquire(moment));
    })
}

pub fn rate_limit_by_the_clock() -> Run {
    let limit = unreached();
    each(move || {
        let _ = black_box(limit.try_acquire(Instant::now()));
    })
}

pub fn window() -> Run {
    let (window, moment) = (Window::new(), Instant::now());
    each(move || {
        if let Ok(permit) = window.try_acquire(moment) {
            let _ = black_box(permit.record(Verdict::success(), LATENCY, moment));
        }
    })
}

pub fn throttle() -> Run {
    let (throttle, moment) = (Throttle::new(), Instant::now());
    each(move || {
        if let Ok(permit) = throttle.try_acquire(Priority::Normal, moment, || 0) {
            let _ = black_box(permit.record(Kind::Success, moment));
        }
    })
}

pub fn endpoints() -> Run {
    let (endpoints, rng, moment) = (Endpoints::numbered(10), Rng::default(), Instant::now());
    each(move || {
        if let Some(pick) = endpoints.pick(&[], moment, &rng) {
            let _ = black_box(pick.record(Verdict::success(), LATENCY, moment, &rng));
        }
    })
}

/// A quota that no loop reaches.
fn unreached() -> RateLimit {
    RateLimit::new(u32::MAX, Duration::from_secs(1))
}
