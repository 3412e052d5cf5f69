//! Requests through a pipeline, and what responses say. Each case of a request makes one first, as a copy of a model.

use std::future::{Ready, ready};
use std::hint::black_box;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use evenkeel::http::retry_after;
use evenkeel::{Breaker, Keyed, Pipeline, Retry};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
};
use tower::{Layer, Service, service_fn};

use super::retry::plenty;
use super::{Case, Run, case, done, each};

pub const CASES: &[Case] = &[
    case("http", "a request, copied and dropped", request_alone),
    case("http", "bare service", bare),
    case("http", "bare service, and another copy", bare_and_copy),
    case(
        "http",
        "deadline, retry, breaker per host, timeout",
        keyed_breaker,
    ),
    case(
        "http",
        "deadline, retry, breaker per host, timeout; two hosts in turn",
        two_hosts,
    ),
    case("http", "two failures, zero delay", two_failures),
    case("http", "Pipeline::http()", preset),
    case("http", "Pipeline::http(), a POST", preset_post),
    case("http", "Pipeline::http(), one attempt", preset_once),
    case("http", "Retry-After in seconds", in_seconds),
    case("http", "Retry-After as a date", as_a_date),
    case("http", "Retry-After as a date, by Date", as_a_date_by_date),
];

pub fn request_alone() -> Run {
    let model = request(Method::GET);
    each(move || drop(black_box(model.clone())))
}

pub fn bare() -> Run {
    serving(service_fn(answer), Method::GET)
}

/// What a call that may be repeated can't do without.
pub fn bare_and_copy() -> Run {
    let (model, mut service) = (request(Method::GET), service_fn(answer));
    each(move || {
        let request = model.clone();
        let copy = black_box(request.clone());
        done(service.call(request));
        drop(copy);
    })
}

pub fn keyed_breaker() -> Run {
    through(&by_host(), Method::GET)
}

/// To one service and another, as a client of several does.
pub fn two_hosts() -> Run {
    let mut service = by_host().layer(service_fn(answer));
    let mut models = [request(Method::GET), request(Method::GET)];
    *models[1].uri_mut() = Uri::from_static("http://another:8080/path?query");
    let mut next = 0;
    each(move || {
        next = 1 - next;
        done(service.call(models[next].clone()));
    })
}

/// The request is sent three times: a 503 twice, then an answer.
pub fn two_failures() -> Run {
    let retry = Retry::constant(Duration::ZERO).budget(plenty());
    let pipeline = Pipeline::http().no_window().retry(retry);
    let count = Arc::new(AtomicU32::new(0));
    let service = service_fn(move |request: Request<String>| {
        drop(black_box(request));
        let mut response = Response::new(String::new());
        if count.fetch_add(1, Ordering::Relaxed) % 3 < 2 {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        ready(Ok::<_, io::Error>(response))
    });
    serving(pipeline.layer(service), Method::GET)
}

pub fn preset() -> Run {
    through(&Pipeline::http(), Method::GET)
}

pub fn preset_post() -> Run {
    through(&Pipeline::http(), Method::POST)
}

/// Nothing could follow, so the request is not copied.
pub fn preset_once() -> Run {
    let pipeline = Pipeline::http().retry(Retry::default().max_attempts(1));
    through(&pipeline, Method::GET)
}

pub fn in_seconds() -> Run {
    reading(&[("retry-after", "120")])
}

pub fn as_a_date() -> Run {
    reading(&[("retry-after", DATE)])
}

pub fn as_a_date_by_date() -> Run {
    reading(&[
        ("date", "Sun, 06 Nov 1994 08:49:07 GMT"),
        ("retry-after", DATE),
    ])
}

pub const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

/// Deadline, retry with budget, a breaker for each host, attempt timeout; no window.
pub fn by_host() -> Pipeline<evenkeel::http::Http> {
    Pipeline::http()
        .no_window()
        .deadline(Duration::from_secs(10))
        .retry(Retry::default().budget(plenty()))
        .breaker(Keyed::new(Breaker::new()))
        .timeout(Duration::from_secs(2))
}

/// Four headers and a path with a query.
pub fn request(method: Method) -> Request<String> {
    let request = Request::builder()
        .method(method)
        .uri("http://service:8080/path?query")
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, "bench")
        .header(header::AUTHORIZATION, "Bearer token")
        .header("x-request-id", "0123456789");
    request.body(String::new()).expect("valid")
}

pub type Answer = Ready<Result<Response<String>, io::Error>>;

/// A service that answers at once, and keeps nothing of the request.
pub fn answer(request: Request<String>) -> Answer {
    drop(black_box(request));
    ready(Ok(Response::new(String::new())))
}

pub fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    let pairs = lines.iter().map(|(name, value)| {
        let name = HeaderName::from_static(name);
        (name, HeaderValue::from_static(value))
    });
    pairs.collect()
}

fn through(pipeline: &Pipeline<evenkeel::http::Http>, method: Method) -> Run {
    serving(pipeline.layer(service_fn(answer)), method)
}

/// Sends it the same request over and over.
pub fn serving<S>(mut service: S, method: Method) -> Run
where
    S: Service<Request<String>> + 'static,
{
    let model = request(method);
    each(move || done(service.call(model.clone())))
}

fn reading(lines: &[(&'static str, &'static str)]) -> Run {
    let headers = headers(lines);
    each(move || {
        black_box(retry_after(black_box(&headers)));
    })
}

/// A call that nothing has polled yet, in bytes; the request is part of it.
pub fn size_of_waiting(pipeline: &Pipeline<evenkeel::http::Http>) -> usize {
    let mut service = pipeline.layer(service_fn(answer));
    size_of_val(&service.call(request(Method::GET)))
}

pub fn size_of_request() -> usize {
    size_of_val(&request(Method::GET))
}
