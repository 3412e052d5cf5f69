//! The peers, set up alike: everything they and evenkeel offer is as near as it gets.

use std::future::{Ready, ready};
use std::hint::black_box;
use std::time::Duration;

use layered::{Execute, Layer as _, Service};
use seatbelt::breaker::Breaker;
use seatbelt::{RecoveryInfo, ResilienceContext};
use tick::Clock;
use tower::util::ServiceFn;

/// What a plain operation gives.
pub type Plain = Result<u32, Busy>;

/// The error of a plain operation.
#[derive(Clone, Copy, Debug)]
pub struct Busy;

impl std::fmt::Display for Busy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("busy")
    }
}

impl std::error::Error for Busy {}

/// An input that fails.
pub const FAIL: u32 = u32::MAX;

pub fn answer(input: u32) -> Ready<Plain> {
    ready(if input == FAIL {
        Err(Busy)
    } else {
        Ok(black_box(input))
    })
}

/// A tower service that is ready, and answers, at once.
pub fn ready_service() -> ServiceFn<fn(u32) -> Ready<Plain>> {
    tower::service_fn(answer)
}

/// seatbelt's clock as it is by default, on `Instant::now`.
pub fn precise() -> Clock {
    Clock::new_tokio()
}

/// On the kernel's coarse clock.
pub fn fast() -> Clock {
    Clock::new_tokio().with_fast_instant(true)
}

pub type BreakerLayer = seatbelt::breaker::BreakerLayer<u32, Plain>;

pub fn seatbelt_breaker(
    clock: &Clock,
    bend: impl FnOnce(BreakerLayer) -> BreakerLayer,
) -> impl Service<u32, Out = Plain> + 'static {
    let context = ResilienceContext::new(clock);
    let layer = Breaker::layer("breaker", &context)
        .recovery_with(|it: &Plain, _| recovery(it))
        .rejected_input_error(|_, _| Busy)
        .failure_threshold(0.5)
        .min_throughput(20)
        .sampling_duration(Duration::from_secs(10));
    bend(layer).layer(Execute::new(answer))
}

pub fn recovery<T, E>(result: &Result<T, E>) -> RecoveryInfo {
    match result {
        Ok(_) => RecoveryInfo::never(),
        Err(_) => RecoveryInfo::retry(),
    }
}
