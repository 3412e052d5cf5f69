use std::cell::Cell;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder as _, ConstantBuilder, ExponentialBuilder, Retryable as _};
use layered::{Execute, Layer as _, Service as _};
use seatbelt::ResilienceContext;
use seatbelt::retry::{Backoff, Retry};
use tower::Service as _;
use tower::retry::budget::{Budget as _, TpsBudget};
use tower_resilience::retry::{RetryBudgetBuilder, RetryLayer};

use crate::cases::{self, done, each};
use crate::measure::{Goal, Row, Unit};
use crate::peers::{Busy, Plain, answer, precise, ready_service, recovery};

pub fn first_try() -> Row {
    Row::new(
        "retry with budget, first try succeeds",
        Unit::Nanoseconds,
        Goal::AtMost(12.0),
        "A success pays into the budget: one atomic addition in evenkeel, a mutex and a clock read in tower. seatbelt and backon have no \
         budget, so they do less. tower-resilience's bucket fills by time alone and is not touched by a success.",
    )
    .floor("one addition", addition())
    .ours(cases::retry::first_try())
    .peer("tower", tower(ready_service()))
    .peer("seatbelt, no budget", seatbelt(answer))
    .peer("backon, no budget", {
        each(move || {
            let call = (|| answer(7)).retry(delays()).sleep(no_sleep);
            done(call);
        })
    })
    .peer("tower-resilience", {
        let budget = RetryBudgetBuilder::new().token_bucket().build();
        let layer = RetryLayer::<u32, u32, Busy>::builder()
            .max_attempts(3)
            .fixed_backoff(Duration::ZERO)
            .budget(budget.expect("valid"))
            .build();
        let mut service = tower::Layer::layer(&layer, ready_service());
        each(move || done(service.call(7)))
    })
}

pub fn two_failures() -> Row {
    Row::new(
        "retry with budget, two failures, zero delay",
        Unit::Nanoseconds,
        Goal::AtMost(30.0),
        "Three attempts with nothing between. evenkeel tells each failure to a report, whose story is one allocation, and takes \
         back what it reserved if an attempt never begins: by hand that alone is the line below the floor. seatbelt and backon have no \
         budget. tower-resilience is not here: it sleeps by tokio's timer for no delay at all, which ticks each millisecond.",
    )
    .floor("three additions", {
        let counter = AtomicU64::new(0);
        each(move || {
            for _ in 0..3 {
                black_box(counter.fetch_add(1, Ordering::Relaxed));
            }
        })
    })
    .aside("by hand, what is promised and nothing else", cases::floor::two_failures())
    .ours(cases::retry::two_failures())
    .peer("tower", tower(tower::service_fn(third_time)))
    .peer("seatbelt, no budget", seatbelt(third_time))
    .peer("backon, no budget", {
        each(move || {
            let call = (|| third_time(7)).retry(delays()).sleep(no_sleep);
            done(call);
        })
    })
}

pub fn one_delay() -> Row {
    Row::new(
        "one backoff delay with full jitter",
        Unit::Nanoseconds,
        Goal::AtMost(6.0),
        "A random number, a multiplication, a cap. evenkeel draws from a generator of the thread's own, \
         backon and the floor from `fastrand`'s.",
    )
    .floor("one draw, one multiplication", {
        let mut rng = fastrand::Rng::new();
        let longest = 100_000_000_u64;
        each(move || {
            let nanoseconds = u128::from(rng.u64(..)) * u128::from(black_box(longest));
            black_box(Duration::from_nanos((nanoseconds >> 64) as u64));
        })
    })
    .ours(cases::retry::one_delay())
    .peer("backon", {
        let builder = ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(Duration::from_secs(2))
            .with_jitter()
            .without_max_times();
        let mut delays = builder.build();
        each(move || {
            black_box(delays.next());
        })
    })
}

fn addition() -> cases::Run {
    cases::floor::one_atomic()
}

/// Fails twice, then succeeds.
fn third_time(input: u32) -> Ready<Plain> {
    thread_local!(static CALLS: Cell<u32> = const { Cell::new(0) });
    let call = CALLS.get();
    CALLS.set(if call == 2 { 0 } else { call + 1 });
    ready(if call == 2 { Ok(input) } else { Err(Busy) })
}

fn delays() -> ConstantBuilder {
    ConstantBuilder::new()
        .with_delay(Duration::ZERO)
        .with_max_times(2)
}

fn no_sleep(_: Duration) -> Ready<()> {
    ready(())
}

fn tower<S>(service: S) -> cases::Run
where
    S: tower::Service<u32, Response = u32, Error = Busy, Future = Ready<Plain>> + Clone + 'static,
{
    let budget = Arc::new(TpsBudget::new(Duration::from_secs(10), 1_000_000, 10.0));
    let mut service = tower::retry::Retry::new(Thrice(budget), service);
    each(move || {
        done(service.call(7));
    })
}

/// tower's budget decides. What is measured never fails more than twice.
#[derive(Clone)]
struct Thrice(Arc<TpsBudget>);

impl tower::retry::Policy<u32, u32, Busy> for Thrice {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut u32, result: &mut Plain) -> Option<Ready<()>> {
        if result.is_ok() {
            self.0.deposit();
            return None;
        }
        self.0.withdraw().then(|| ready(()))
    }

    fn clone_request(&mut self, request: &u32) -> Option<u32> {
        Some(*request)
    }
}

fn seatbelt(operation: fn(u32) -> Ready<Plain>) -> cases::Run {
    let context = ResilienceContext::<u32, Plain>::new(precise());
    let service = Retry::layer("retry", &context)
        .clone_input()
        .recovery_with(|it: &Plain, _| recovery(it))
        .max_retry_attempts(2)
        .backoff(Backoff::Constant)
        .base_delay(Duration::ZERO)
        .use_jitter(false)
        .layer(Execute::new(operation));
    each(move || done(service.execute(7)))
}
