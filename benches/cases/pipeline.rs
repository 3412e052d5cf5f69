//! Calls of a closure through a pipeline.

use std::future::{Ready, ready};
use std::hint::black_box;
use std::time::Duration;

use evenkeel::diagnosis::Health;
use evenkeel::incident::Recorder;
use evenkeel::{Breaker, Endpoints, Pipeline, Retry, Window};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};

use super::retry::plenty;
use super::{Case, PendingOnce, Run, case, done, done_polling, each, within_tokio};

pub const CASES: &[Case] = &[
    case("pipeline", "no policy, ready", bare),
    case("pipeline", "timeout, ready", timeout),
    case(
        "pipeline",
        "timeout, ready; others are heard at DEBUG",
        timeout_beside_others,
    ),
    case("pipeline", "timeout, pending once", timeout_pending),
    case(
        "pipeline",
        "deadline, retry, timeout; ready",
        without_breaker,
    ),
    case(
        "pipeline",
        "deadline, retry, breaker, timeout; ready",
        whole,
    ),
    case("pipeline", "window, ready", window),
    case("pipeline", "endpoints, ready", endpoints),
    case("pipeline", "health, ready", health),
    case("pipeline", "incident recorder, ready", recorder),
    case("pipeline", "incident recorder, a failure", recorder_failure),
];

pub fn bare() -> Run {
    succeeding(Pipeline::new())
}

pub fn timeout() -> Run {
    succeeding(timing())
}

/// As under `RUST_LOG=info,myapp=debug`: somebody listens at that level, and not to evenkeel.
pub fn timeout_beside_others() -> Run {
    let pipeline = timing();
    Box::new(move |count| {
        tracing::subscriber::with_default(Others, || {
            for _ in 0..count {
                done(pipeline.run(|_| answer()));
            }
        });
    })
}

struct Others;

impl Subscriber for Others {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::never()
    }

    fn enabled(&self, _: &Metadata<'_>) -> bool {
        false
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::DEBUG)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

pub fn timeout_pending() -> Run {
    let pipeline = timing();
    within_tokio(move || {
        done_polling(pipeline.run(|_| PendingOnce::new(Ok::<_, ()>(black_box(7)))));
    })
}

pub fn without_breaker() -> Run {
    succeeding(
        Pipeline::new()
            .deadline(Duration::from_secs(10))
            .retry(Retry::default().budget(plenty()))
            .timeout(Duration::from_secs(2)),
    )
}

pub fn whole() -> Run {
    succeeding(all_four())
}

pub fn window() -> Run {
    succeeding(Pipeline::new().window(Window::new()))
}

pub fn endpoints() -> Run {
    succeeding(Pipeline::new().endpoints(Endpoints::numbered(10)))
}

pub fn health() -> Run {
    succeeding(Pipeline::new().health(Health::new()))
}

pub fn recorder() -> Run {
    succeeding(Pipeline::new().observer(Recorder::new()))
}

pub fn recorder_failure() -> Run {
    let pipeline = Pipeline::new().observer(Recorder::new());
    each(move || {
        done(pipeline.run(|_| ready(Err::<(), _>(black_box(7)))));
    })
}

pub fn timing() -> Pipeline {
    Pipeline::new().timeout(Duration::from_secs(2))
}

/// Deadline, retry with budget, breaker and attempt timeout.
pub fn all_four() -> Pipeline {
    Pipeline::new()
        .deadline(Duration::from_secs(10))
        .retry(Retry::default().budget(plenty()))
        .breaker(Breaker::new())
        .timeout(Duration::from_secs(2))
}

/// The call, while nothing has polled it yet: for its size.
pub fn waiting(pipeline: &Pipeline) -> impl Future<Output = Result<u32, evenkeel::Error<()>>> + '_ {
    pipeline.run(|_| answer())
}

fn succeeding(pipeline: Pipeline) -> Run {
    each(move || {
        done(pipeline.run(|_| answer()));
    })
}

fn answer() -> Ready<Result<u32, ()>> {
    ready(Ok(black_box(7)))
}
