//! What each part costs when nothing goes wrong, and on the short ways when something does.
//!
//! `cargo bench --bench cost` prints nanoseconds per operation (median of 31 rounds) beside the
//! floor: the bare clock reads, atomics and copies that the case can't do without.
//! `benches/instructions` counts instructions instead, which don't wobble.

use std::future::{Future, Ready, ready};
use std::hint::black_box;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use evenkeel::backoff::Backoff;
use evenkeel::budget::Ratio;
use evenkeel::diagnosis::{Health, Symptoms};
use evenkeel::http::{Http, retry_after};
use evenkeel::verdict::{Kind, Verdict};
use evenkeel::{
    Breaker, Budget, Bulkhead, Endpoints, Key, Keyed, Pipeline, Priority, RateLimit, Retry, Rng,
    Throttle, Window,
};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use tower::{Layer, Service, service_fn};

fn main() {
    // cargo passes `--bench`; `benches/instructions` passes a case's number and a count.
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|it| it != "--bench")
        .collect();
    let mut cases = cases();
    if let [number, count] = &arguments[..] {
        let case = &mut cases[number.parse::<usize>().expect("a case's number")];
        (case.run)(count.parse().expect("a count"));
        return;
    }
    if arguments.first().is_some_and(|it| it == "--list") {
        for case in &cases {
            println!("{}", case.name);
        }
        return;
    }
    println!("{:<58} {:>8}", "case", "ns");
    for case in &mut cases {
        let nanoseconds = median(case);
        println!("{:<58} {nanoseconds:>8.1}", case.name);
    }
    sizes();
}

struct Case {
    name: &'static str,
    run: Box<dyn FnMut(u64)>,
}

fn median(case: &mut Case) -> f64 {
    const ROUNDS: usize = 31;
    const COUNT: u32 = 20_000;
    (case.run)(COUNT.into());
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let begun = Instant::now();
            (case.run)(COUNT.into());
            begun.elapsed().as_secs_f64() * 1e9 / f64::from(COUNT)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

fn case(name: &'static str, mut once: impl FnMut() + 'static) -> Case {
    let run = Box::new(move |count| (0..count).for_each(|_| once()));
    Case { name, run }
}

#[allow(clippy::too_many_lines)] // one entry for each
fn cases() -> Vec<Case> {
    let counter: &'static AtomicU64 = Box::leak(Box::default());
    let retry = || Retry::constant(Duration::ZERO).budget(plenty());
    let retrying: &'static Pipeline = leak(Pipeline::new().retry(retry()));
    let timing: &'static Pipeline = leak(Pipeline::new().timeout(Duration::from_secs(2)));
    let whole: &'static Pipeline = leak(
        Pipeline::new()
            .deadline(Duration::from_secs(10))
            .retry(Retry::default().budget(plenty()))
            .timeout(Duration::from_secs(2)),
    );
    let mut guarded = Pipeline::http().layer(service_fn(answer));
    let mut bare = service_fn(answer);
    let seconds = headers(&[("retry-after", "120")]);
    let date = headers(&[("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")]);
    let dated = headers(&[
        ("date", "Sun, 06 Nov 1994 08:49:07 GMT"),
        ("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT"),
    ]);
    let mut delays = Backoff::exponential(Duration::from_millis(100)).delays();
    let with_window: &'static Pipeline = leak(Pipeline::new().window(Window::new()));
    let with_endpoints: &'static Pipeline =
        leak(Pipeline::new().endpoints(Endpoints::numbered(10)));
    let bare_pipeline: &'static Pipeline = leak(Pipeline::new());
    let all: &'static Pipeline = leak(
        Pipeline::new()
            .deadline(Duration::from_secs(10))
            .retry(Retry::default().budget(plenty()))
            .breaker(Breaker::new())
            .timeout(Duration::from_secs(2)),
    );

    let recorder = evenkeel::incident::Recorder::new();
    let with_recorder: &'static Pipeline = leak(Pipeline::new().observer(recorder));
    let mut cases = vec![
        case("floor: one atomic addition", || {
            black_box(counter.fetch_add(1, Ordering::Relaxed));
        }),
        case("floor: one clock read", || {
            black_box(Instant::now());
        }),
        case("floor: one request clone", {
            let request = request();
            move || drop(black_box(request.clone()))
        }),
        case("retry with budget, first try succeeds", || {
            let _ = black_box(now(retrying.run(|_| ready(Ok::<_, ()>(black_box(7))))));
        }),
        case("retry with budget, two failures, zero delay", || {
            let call = retrying.run(|it| ready(if it.number() < 3 { Err(()) } else { Ok(7) }));
            let _ = black_box(now(call));
        }),
        case("timeout, inner ready at once", || {
            let _ = black_box(now(timing.run(|_| ready(Ok::<_, ()>(black_box(7))))));
        }),
        case(
            "deadline, retry with budget, timeout; ready plain future",
            || {
                let _ = black_box(now(whole.run(|_| ready(Ok::<_, ()>(black_box(7))))));
            },
        ),
        case("bare service, ready http service", move || {
            let _ = black_box(now(bare.call(request())));
        }),
        case("Pipeline::http(), ready http service", move || {
            let _ = black_box(now(guarded.call(request())));
        }),
        case("Retry-After in seconds", move || {
            black_box(retry_after(black_box(&seconds)));
        }),
        case("Retry-After as a date", move || {
            black_box(retry_after(black_box(&date)));
        }),
        case("Retry-After as a date, measured by Date", move || {
            black_box(retry_after(black_box(&dated)));
        }),
        case("one backoff delay with full jitter", move || {
            black_box(delays.next());
        }),
        case("no policy, ready plain future", || {
            let _ = black_box(now(bare_pipeline.run(|_| ready(Ok::<_, ()>(black_box(7))))));
        }),
        case("window in a pipeline, ready plain future", || {
            let _ = black_box(now(with_window.run(|_| ready(Ok::<_, ()>(black_box(7))))));
        }),
        case("endpoints in a pipeline, ready plain future", || {
            let _ = black_box(now(with_endpoints.run(|_| ready(Ok::<_, ()>(black_box(7))))));
        }),
        case("told to an incident recorder, ready plain future", || {
            let _ = black_box(now(with_recorder.run(|_| ready(Ok::<_, ()>(black_box(7))))));
        }),
        case("told to an incident recorder, a failure", || {
            let _ = black_box(now(with_recorder.run(|_| ready(Err::<(), _>(black_box(7))))));
        }),
        case(
            "deadline, retry with budget, breaker, timeout; ready plain future",
            || {
                let _ = black_box(now(all.run(|_| ready(Ok::<_, ()>(black_box(7))))));
            },
        ),
    ];
    cases.extend(gates());
    cases.extend(failures());
    cases
}

/// The policies in front of every attempt, by themselves. The moment is given, but where it says so.
fn gates() -> Vec<Case> {
    let pair: &'static [AtomicU64; 2] = Box::leak(Box::default());
    let moment = Instant::now();
    let rng: &'static Rng = leak(Rng::default());
    let latency = Duration::from_millis(1);
    let window = Window::new();
    let by_time = Breaker::new();
    let clocked = Breaker::new();
    let in_row = Breaker::new().failure_ratio(None);
    let by_calls = Breaker::new()
        .consecutive_failures(None)
        .window_of_calls(100);
    let open = Breaker::new();
    open.force_open(moment);
    let scattered: Vec<Breaker> = (0..10_000).map(|_| Breaker::new()).collect();
    let keyed = Keyed::new(Breaker::new());
    let keys: Vec<Key> = (0..10_000).map(Key::of).collect();
    let (mut next, mut next_key) = (0, 0);
    let bulkhead = Bulkhead::new(10);
    let rate = RateLimit::new(u32::MAX, Duration::from_secs(1));
    let throttle = Throttle::new();
    let endpoints = Endpoints::numbered(10);
    vec![
        case("floor: a pair of shared counters", || {
            black_box(pair[0].fetch_add(1, Ordering::Relaxed));
            black_box(pair[1].fetch_add(1, Ordering::Relaxed));
        }),
        case("window, open", move || {
            if let Ok(permit) = window.try_acquire(moment) {
                let _ = black_box(permit.record(Verdict::success(), latency, moment));
            }
        }),
        case("breaker, closed, window of time", move || {
            call(&by_time, moment, rng);
        }),
        case("breaker, the same with its clock read", move || {
            call(&clocked, Instant::now(), rng);
        }),
        case("breaker, closed, failures in a row", move || {
            call(&in_row, moment, rng);
        }),
        case("breaker, closed, the last 100 calls", move || {
            call(&by_calls, moment, rng);
        }),
        case("breaker, open, refuses", move || {
            let _ = black_box(open.try_acquire(moment, rng).is_ok());
        }),
        case("breaker, closed, one of 10,000 scattered", move || {
            next = (next + 7_919) % scattered.len();
            call(&scattered[next], moment, rng);
        }),
        case("breaker of one of 10,000 keys", move || {
            next_key = (next_key + 7_919) % keys.len();
            let entry = keyed.get(keys[next_key], || moment);
            call(&entry.into_inner(), moment, rng);
        }),
        case("bulkhead, free", move || {
            drop(black_box(bulkhead.try_acquire()));
        }),
        case("rate limit, allowed", move || {
            let _ = black_box(rate.try_acquire(moment));
        }),
        case("endpoints, one of ten, healthy", move || {
            if let Some(pick) = endpoints.pick(&[], moment, rng) {
                let _ = black_box(pick.record(Verdict::success(), latency, moment, rng));
            }
        }),
        case("throttle, healthy", move || {
            if let Ok(permit) = throttle.try_acquire(Priority::Normal, moment, || 0) {
                let _ = black_box(permit.record(Kind::Success, moment));
            }
        }),
    ]
}

/// What a failure costs, and who keeps health.
fn failures() -> Vec<Case> {
    let busy = || {
        let mut response = Response::new(());
        *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
        *response.headers_mut() = headers(&[
            ("server", "envoy"),
            ("content-type", "text/plain"),
            ("x-envoy-overloaded", "true"),
        ]);
        response
    };
    let (head, with_body) = (busy(), busy());
    let page = vec![b'x'; 4096];
    let failing = leak(Pipeline::new().classify(Http::new()));
    let failed = busy();
    let hearing = leak(Pipeline::new().health(Health::new()));
    vec![
        case("diagnosis of a 503, by its headers", move || {
            let _ = black_box(Symptoms::of_response(black_box(&head)).diagnose());
        }),
        case("diagnosis of a 503, with 4 KiB of body", move || {
            let seen = Symptoms::of_response(black_box(&with_body));
            let _ = black_box(seen.body(black_box(&page)).diagnose());
        }),
        case("a call that fails with a 503, diagnosed", move || {
            let answer = failed.clone();
            let answer = ready(Ok::<_, std::io::Error>(answer));
            let mut answer = Some(answer);
            let call = failing.run(|_| answer.take().expect("one attempt"));
            drop(black_box(now(call)));
        }),
        case("health in a pipeline, ready plain future", || {
            let _ = black_box(now(hearing.run(|_| ready(Ok::<_, ()>(black_box(7))))));
        }),
    ]
}

fn call(breaker: &Breaker, now: Instant, rng: &Rng) {
    if let Ok(permit) = breaker.try_acquire(now, rng) {
        let _ = black_box(permit.record(Verdict::success(), now, rng));
    }
}

/// What a waiting call takes in memory.
fn sizes() {
    let pipeline = Pipeline::http();
    let mut service = pipeline.clone().layer(service_fn(answer));
    let plain =
        pipeline.run(|_| ready(Ok::<Response<String>, std::io::Error>(Response::default())));
    println!("\n{:<58} {:>8}", "future", "bytes");
    println!("{:<58} {:>8}", "call of a closure", size_of_val(&plain));
    println!(
        "{:<58} {:>8}",
        "call of an http service",
        size_of_val(&service.call(request()))
    );
    println!(
        "{:<58} {:>8}",
        "the http request alone",
        size_of::<Request<String>>()
    );
}

fn plenty() -> Budget {
    Budget::new(Ratio::percent(1000)).capacity(1_000_000)
}

fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    let pairs = lines.iter().map(|(name, value)| {
        let name = header::HeaderName::from_static(name);
        (name, HeaderValue::from_static(value))
    });
    pairs.collect()
}

fn request() -> Request<String> {
    let request = Request::get("http://service:8080/path?query")
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, "bench")
        .header(header::AUTHORIZATION, "Bearer token")
        .header("x-request-id", "0123456789");
    request.body(String::new()).expect("valid")
}

type Answer = Ready<Result<Response<String>, std::io::Error>>;

fn answer(request: Request<String>) -> Answer {
    drop(black_box(request));
    ready(Ok(Response::new(String::new())))
}

fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

fn now<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("all of it is ready at once"),
    }
}
