use std::collections::HashMap;
use std::future::Future;
use std::hint::black_box;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use backon::Retryable as _;
use headers::HeaderMapExt as _;
use http::{HeaderMap, Method, Request, Response, header};
use layered::{Execute, Layer as _, Service as _};
use recloser::AsyncRecloser;
use seatbelt::breaker::{Breaker, BreakerId};
use seatbelt::retry::Retry;
use seatbelt::timeout::Timeout;
use seatbelt::{RecoveryInfo, ResilienceContext};
use tower::retry::budget::{Budget as _, TpsBudget};
use tower::{BoxError, Service, ServiceBuilder, service_fn};
use tower_resilience::circuitbreaker::{CircuitBreakerError, CircuitBreakerLayer};
use tower_resilience::retry::{RetryBudgetBuilder, RetryLayer};
use tower_resilience::timelimiter::{TimeLimiterError, TimeLimiterLayer};

use crate::cases::http::{Answer, answer as respond, request};
use crate::cases::{self, Run, done, each};
use crate::measure::{Goal, Row, Unit};
use crate::peers::{Busy, Plain, answer, precise, ready_service, recovery};
use crate::rows::breaker::recloser;

pub const TOTAL: Duration = Duration::from_secs(10);
pub const ATTEMPT: Duration = Duration::from_secs(2);

pub fn plain() -> Row {
    Row::new(
        "whole pipeline, ready plain future",
        Unit::Nanoseconds,
        Goal::AtMost(80.0),
        "Deadline, retry with budget, breaker, attempt timeout, around a future that is ready. By hand: two tokio timeouts, backon, \
         recloser (its last 100 calls, no budget). tower has no breaker, seatbelt no budget, tower-resilience counts the last 100 calls.",
    )
    .floor("two clock reads, four additions", {
        let counters = [const { AtomicU64::new(0) }; 4];
        each(move || {
            black_box(Instant::now());
            for counter in &counters {
                black_box(counter.fetch_add(1, Ordering::Relaxed));
            }
            black_box(Instant::now());
        })
    })
    .ours(cases::pipeline::whole())
    .peer("by hand, no budget", {
        let breaker = AsyncRecloser::from(recloser());
        each(move || {
            let attempt = || breaker.call(tokio::time::timeout(ATTEMPT, answer(7)));
            let call = attempt.retry(delays());
            done(tokio::time::timeout(TOTAL, call));
        })
    })
    .peer("tower, no breaker", {
        let mut service = ServiceBuilder::new()
            .timeout(TOTAL)
            .retry(Thrice(plenty()))
            .timeout(ATTEMPT)
            .service(ready_service());
        each(move || done(service.call(7)))
    })
    .peer("seatbelt, no budget", {
        let context = ResilienceContext::<u32, Plain>::new(precise());
        let timeout = |length| {
            let layer = Timeout::layer("timeout", &context).timeout(length);
            layer.timeout_error(|_| Busy)
        };
        let retry = Retry::layer("retry", &context).clone_input();
        let breaker = Breaker::layer("breaker", &context)
            .recovery_with(|it: &Plain, _| recovery(it))
            .rejected_input_error(|_, _| Busy);
        let inner = breaker.layer(timeout(ATTEMPT).layer(Execute::new(answer)));
        let retry = retry.recovery_with(|it: &Plain, _| recovery(it));
        let service = timeout(TOTAL).layer(retry.max_retry_attempts(2).layer(inner));
        each(move || done(service.execute(7)))
    })
    .peer("tower-resilience", {
        let mut service = tower_resilience(ready_service());
        each(move || done(service.call(7)))
    })
}

pub fn http() -> Row {
    Row::new(
        "whole pipeline, ready HTTP service, by host",
        Unit::Nanoseconds,
        Goal::OfFloor(340.0 / 290.0),
        "The same around a service of `http::Request` with four headers, with a breaker for each host. Everybody keeps what another attempt would send, and drops it: evenkeel packs headers and URI, the others copy the request. evenkeel looks at method, status, `Retry-After` and proof that nothing was processed as well; \
         the others at the status alone. tower has no breaker, seatbelt no budget, tower-resilience one breaker for all.",
    )
    .floor("the bare service and a copy of the request", cases::http::bare_and_copy())
    .aside("the bare service", cases::http::bare())
    .aside("by hand, what is promised and nothing else", cases::floor::by_host())
    .ours(cases::http::keyed_breaker())
    .aside("evenkeel, two hosts in turn", cases::http::two_hosts())
    .peer("by hand, no budget", {
        let (model, breakers) = (request(Method::GET), Breakers::default());
        each(move || done(by_hand(&breakers, model.clone(), respond)))
    })
    .peer("tower, no breaker", {
        cases::http::serving(tower_stack(respond as Respond), Method::GET)
    })
    .peer("seatbelt, no budget", {
        let (model, service) = (request(Method::GET), seatbelt_stack(respond as Respond));
        each(move || done(service.execute(model.clone())))
    })
    .peer("tower-resilience, one key", {
        let service = tower_resilience(service_fn(respond as Respond));
        cases::http::serving(service, Method::GET)
    })
}

pub fn preset() -> Row {
    Row::new(
        "`Pipeline::http()`, ready HTTP service",
        Unit::Nanoseconds,
        Goal::None,
        "What one gets without asking for anything: deadline, retry with budget, a congestion window for each host, attempt timeout. Beside it \
         a POST, which may be sent again if nothing was sent, and a call of one attempt, whose request is not copied.",
    )
    .floor("the bare service and a copy of the request", cases::http::bare_and_copy())
    .aside("the bare service", cases::http::bare())
    .ours(cases::http::preset())
    .aside("evenkeel, a POST", cases::http::preset_post())
    .aside("evenkeel, one attempt", cases::http::preset_once())
}

pub fn seconds() -> Row {
    let one = cases::http::headers(&[("retry-after", "120")]);
    let (bare, typed) = (one.clone(), one);
    Row::new(
        "`Retry-After` in seconds, from a header map",
        Unit::Nanoseconds,
        Goal::OfBest(1.0),
        "evenkeel reads its relatives (`retry-after-ms`, `x-ratelimit-reset`, `grpc-retry-pushback-ms` ..) only where asked; \
         this is `http::retry_after`.",
    )
    .aside("look it up, parse a number", {
        each(move || {
            let value = black_box(&bare).get(header::RETRY_AFTER);
            let seconds = value.and_then(|it| it.to_str().ok()?.parse::<u64>().ok());
            black_box(seconds.map(Duration::from_secs));
        })
    })
    .ours(cases::http::in_seconds())
    .peer("headers", reading_headers(typed))
}

pub fn date() -> Row {
    let one = cases::http::headers(&[("retry-after", cases::http::DATE)]);
    let (bare, typed) = (one.clone(), one);
    Row::new(
        "`Retry-After` as a date, from a header map",
        Unit::Nanoseconds,
        Goal::OfBest(1.0),
        "An IMF-fixdate, read to a point in time. evenkeel reads the usual form in one pass, and all others by the `httpdate` crate, as `headers` does all.",
    )
    .aside("look it up, parse a date by `httpdate`", {
        each(move || {
            let value = black_box(&bare).get(header::RETRY_AFTER);
            let value = value.and_then(|it| it.to_str().ok());
            black_box(value.and_then(|it| httpdate::parse_http_date(it).ok()));
        })
    })
    .ours(cases::http::as_a_date())
    .peer("headers", reading_headers(typed))
}

fn reading_headers(map: HeaderMap) -> Run {
    each(move || {
        black_box(black_box(&map).typed_get::<headers::RetryAfter>());
    })
}

pub fn plenty() -> Arc<TpsBudget> {
    Arc::new(TpsBudget::new(Duration::from_secs(10), 1_000_000, 10.0))
}

fn delays() -> backon::ExponentialBuilder {
    backon::ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(100))
        .with_jitter()
        .with_max_times(2)
}

/// tower's budget decides; nothing here fails.
#[derive(Clone)]
pub struct Thrice(pub Arc<TpsBudget>);

impl<T: Clone, R: Failing> tower::retry::Policy<T, R, BoxError> for Thrice {
    type Future = Pin<Box<dyn Future<Output = ()> + Send>>;

    fn retry(&mut self, _: &mut T, result: &mut Result<R, BoxError>) -> Option<Self::Future> {
        if result.as_ref().is_ok_and(|it| !it.failed()) {
            self.0.deposit();
            return None;
        }
        let wait = || Box::pin(tokio::time::sleep(Duration::from_millis(100))) as Self::Future;
        self.0.withdraw().then(wait)
    }

    fn clone_request(&mut self, request: &T) -> Option<T> {
        Some(request.clone())
    }
}

/// A value that may be a failure.
pub trait Failing {
    fn failed(&self) -> bool;
}

impl Failing for u32 {
    fn failed(&self) -> bool {
        false
    }
}

impl<B> Failing for Response<B> {
    fn failed(&self) -> bool {
        self.status().is_server_error()
    }
}

pub fn tower_stack<F>(
    operation: fn(Request<String>) -> F,
) -> impl Service<Request<String>, Response = Response<String>, Error = BoxError>
where
    F: Future<Output = Result<Response<String>, io::Error>>,
{
    ServiceBuilder::new()
        .timeout(TOTAL)
        .retry(Thrice(plenty()))
        .timeout(ATTEMPT)
        .service(service_fn(operation))
}

type Respond = fn(Request<String>) -> Answer;

type Http = Result<Response<String>, io::Error>;

pub fn seatbelt_stack<F>(
    operation: fn(Request<String>) -> F,
) -> impl layered::Service<Request<String>, Out = Http>
where
    F: Future<Output = Http> + Send + 'static,
{
    let context = ResilienceContext::<Request<String>, Http>::new(precise());
    let timeout = |length| {
        let layer = Timeout::layer("timeout", &context).timeout(length);
        layer.timeout_error(|_| io::ErrorKind::TimedOut.into())
    };
    let recovery = |it: &Http| match it {
        Ok(response) if !response.status().is_server_error() => RecoveryInfo::never(),
        _ => RecoveryInfo::retry(),
    };
    let breaker = Breaker::layer("breaker", &context)
        .recovery_with(move |it: &Http, _| recovery(it))
        .rejected_input_error(|_, _| io::ErrorKind::ConnectionRefused.into())
        .breaker_id(|it| BreakerId::from(host(it).to_owned()));
    let retry = Retry::layer("retry", &context)
        .clone_input()
        .recovery_with(move |it: &Http, _| recovery(it))
        .max_retry_attempts(2);
    let inner = breaker.layer(timeout(ATTEMPT).layer(Execute::new(operation)));
    timeout(TOTAL).layer(retry.layer(inner))
}

pub fn tower_resilience<S, T>(
    service: S,
) -> impl Service<T, Response = S::Response, Error: std::fmt::Debug>
where
    T: Clone + Send + 'static,
    S: Service<T> + Clone + Send + 'static,
    S::Response: Send + 'static,
    S::Error: std::fmt::Debug + Send + 'static,
    S::Future: Send + 'static,
{
    let timeout = |length| TimeLimiterLayer::builder().timeout_duration(length).build();
    let breaker = CircuitBreakerLayer::builder().sliding_window_size(100);
    let budget = RetryBudgetBuilder::new().token_bucket().build();
    let retry =
        RetryLayer::<T, S::Response, CircuitBreakerError<TimeLimiterError<S::Error>>>::builder()
            .max_attempts(3)
            .budget(budget.expect("valid"))
            .build();
    let inner = breaker
        .build()
        .expect("valid")
        .layer(timeout(ATTEMPT).layer(service));
    timeout(TOTAL).layer(retry.layer(inner))
}

/// A breaker for each host, in a map that nobody bounds.
#[derive(Default)]
pub struct Breakers(RwLock<HashMap<String, Arc<AsyncRecloser>>>);

impl Breakers {
    pub fn of(&self, host: &str) -> Arc<AsyncRecloser> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(breaker) = known.get(host) {
            return Arc::clone(breaker);
        }
        drop(known);
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let make = || Arc::new(AsyncRecloser::from(recloser()));
        Arc::clone(known.entry(host.to_owned()).or_insert_with(make))
    }
}

/// What one writes with backon, recloser and tokio.
pub async fn by_hand<F>(
    breakers: &Breakers,
    request: Request<String>,
    operation: fn(Request<String>) -> F,
) -> Result<Response<String>, BoxError>
where
    F: Future<Output = Http>,
{
    let attempt = || async {
        let breaker = breakers.of(host(&request));
        let call = operation(request.clone());
        let call = async {
            let response = tokio::time::timeout(ATTEMPT, call).await??;
            if response.status().is_server_error() {
                return Err(io::Error::other("server error"));
            }
            Ok(response)
        };
        breaker.call(call).await.map_err(|error| match error {
            recloser::Error::Inner(error) => error,
            recloser::Error::Rejected => io::ErrorKind::ConnectionRefused.into(),
        })
    };
    Ok(tokio::time::timeout(TOTAL, attempt.retry(delays())).await??)
}

pub fn host(request: &Request<String>) -> &str {
    request.uri().authority().map_or("", |it| it.as_str())
}
