use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use evenkeel::Bulkhead;
use governor::clock::MonotonicClock;
use governor::{Quota, RateLimiter};
use layered::{Execute, Layer as _, Service as _};
use seatbelt::ResilienceContext;
use seatbelt::timeout::Timeout;
use tokio::sync::Semaphore;
use tower::{Service as _, ServiceExt as _};
use tower_resilience::bulkhead::BulkheadLayer;
use tower_resilience::ratelimiter::RateLimiterLayer;
use tower_resilience::timelimiter::TimeLimiterLayer;

use crate::cases::{self, PendingOnce, done, done_polling, each, now};
use crate::measure::{Goal, Row, Unit};
use crate::peers::{Busy, Plain, answer, precise, ready_service};

const LONG: Duration = Duration::from_secs(2);

pub fn timeout_ready() -> Row {
    Row::new(
        "timeout, inner ready at once",
        Unit::Nanoseconds,
        Goal::AtMost(8.0),
        "evenkeel makes a timer only when the attempt is really pending, and reads no clock before. tokio and tower \
         make one first.",
    )
    .floor("a poll of the ready future", each(|| done(answer(7))))
    .ours(cases::pipeline::timeout())
    .peer("tokio", each(|| done(tokio::time::timeout(LONG, answer(7)))))
    .peer("tower", {
        let mut service = tower::timeout::Timeout::new(ready_service(), LONG);
        each(move || done(service.call(7)))
    })
    .peer("seatbelt", {
        let service = seatbelt(answer);
        each(move || done(service.execute(7)))
    })
    .peer("tower-resilience", {
        let layer = TimeLimiterLayer::builder().timeout_duration(LONG).build();
        let mut service = layer.layer(ready_service());
        each(move || done(service.call(7)))
    })
}

pub fn timeout_pending() -> Row {
    Row::new(
        "timeout, inner pending once",
        Unit::Nanoseconds,
        Goal::Of("tokio", 1.1),
        "A timer is put into tokio's wheel and taken out again; with that all of them pay the same. tower-resilience \
         and seatbelt box theirs.",
    )
    .floor("two polls of the future", {
        each(|| done_polling(pending_once(7)))
    })
    .aside("by hand, what is promised and nothing else", cases::floor::pending_once())
    .ours(cases::pipeline::timeout_pending())
    .peer(
        "tokio",
        each(|| done_polling(tokio::time::timeout(LONG, pending_once(7)))),
    )
    .peer("tower", {
        let service = tower::service_fn(pending_once);
        let mut service = tower::timeout::Timeout::new(service, LONG);
        each(move || done_polling(service.call(7)))
    })
    .peer("seatbelt", {
        let service = seatbelt(pending_once);
        each(move || done_polling(service.execute(7)))
    })
    .peer("tower-resilience", {
        let layer = TimeLimiterLayer::builder().timeout_duration(LONG).build();
        let mut service = layer.layer(tower::service_fn(pending_once));
        each(move || done_polling(service.call(7)))
    })
}

pub fn bulkhead() -> Row {
    Row::new(
        "bulkhead, free",
        Unit::Nanoseconds,
        Goal::AtMost(10.0),
        "A permit is taken and given back. tower's holds its permit from `poll_ready` on, \
         and drives the service; evenkeel as a layer is beside it for that.",
    )
    .floor("two additions", cases::floor::two_atomics())
    .ours(cases::gates::bulkhead())
    .aside("evenkeel, its layer around a ready service", {
        let mut service = tower::Layer::layer(&Bulkhead::new(10), ready_service());
        each(move || done(service.call(7)))
    })
    .peer("tokio's semaphore", {
        let permits = Semaphore::new(10);
        each(move || drop(black_box(permits.try_acquire())))
    })
    .peer("tower", {
        let mut service = tower::limit::ConcurrencyLimit::new(ready_service(), 10);
        each(move || {
            let ready = now(service.ready()).expect("free");
            done(ready.call(7));
        })
    })
    .peer("tower-resilience", {
        let builder = BulkheadLayer::builder().max_concurrent_calls(10);
        let layer = builder.reject_when_full().build().expect("valid");
        let mut service = tower::Layer::layer(&layer, ready_service());
        each(move || done(service.call(7)))
    })
}

pub fn rate_limit() -> Row {
    let often = NonZeroU32::new(u32::MAX).expect("not zero");
    Row::new(
        "rate limiter, allowed",
        Unit::Nanoseconds,
        Goal::OfFloor(1.25),
        "One number by the generic cell rate algorithm, and a clock read. governor reads the processor's tick counter through \
         `quanta` by default, which is quicker than `Instant::now`; the line above has the same clock as evenkeel.",
    )
    .floor("clock read, one exchange", {
        let state = AtomicU64::new(0);
        each(move || {
            black_box(Instant::now());
            let seen = state.load(Ordering::Relaxed);
            let _ = black_box(state.compare_exchange(
                seen,
                seen + 1,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ));
        })
    })
    .ours(cases::gates::rate_limit_by_the_clock())
    .aside("evenkeel, moment given", cases::gates::rate_limit())
    .aside("governor, by the tick counter", {
        let limit = RateLimiter::direct(Quota::per_second(often));
        each(move || { black_box(limit.check().is_ok()); })
    })
    .peer("governor", {
        let limit = RateLimiter::direct_with_clock(Quota::per_second(often), MonotonicClock);
        each(move || { black_box(limit.check().is_ok()); })
    })
    .peer("tower-resilience", {
        let layer = RateLimiterLayer::builder().limit_for_period(1 << 40).build();
        let mut service = tower::Layer::layer(&layer.expect("valid"), ready_service());
        each(move || done(service.call(7)))
    })
}

fn pending_once(input: u32) -> PendingOnce<Plain> {
    PendingOnce::new(Ok(input))
}

fn seatbelt<F>(operation: fn(u32) -> F) -> impl layered::Service<u32, Out = Plain> + 'static
where
    F: Future<Output = Plain> + Send + 'static,
{
    let context = ResilienceContext::<u32, Plain>::new(precise());
    Timeout::layer("timeout", &context)
        .timeout(LONG)
        .timeout_error(|_| Busy)
        .layer(Execute::new(operation))
}
