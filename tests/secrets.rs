//! Nothing secret leaks through what this crate says by itself: events, errors, `Debug`, `tracing`.
#![cfg(all(feature = "testing", feature = "tower"))]

use std::fmt::Write as _;
use std::io;
use std::sync::{Arc, Mutex};

use evenkeel::diagnosis::Symptoms;
use evenkeel::http::{ATTEMPT_COUNT, Http, Replay};
use evenkeel::incident::Recorder;
use evenkeel::testing::{ManualClock, Reply, ScriptedService, block_on};
use evenkeel::{Event, Pipeline, Report, Rng};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use tower::{Layer, Service, ServiceExt};
use tracing::field::{Field, Visit};

const SECRET: &str = "s3cr3t";

/// Everything a subscriber is told.
#[derive(Clone, Default)]
struct Everything(Arc<Mutex<String>>);

impl tracing::Subscriber for Everything {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        span.record(&mut self.clone());
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, values: &tracing::span::Record<'_>) {
        values.record(&mut self.clone());
    }
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut self.clone());
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

impl Visit for Everything {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        writeln!(self.0.lock().unwrap(), "{field}={value:?}").expect("a string");
    }
}

#[test]
fn secrets_in_headers_bodies_and_queries_are_never_told() {
    let _alone = alone();
    let clock = ManualClock::new();
    let told = Everything::default();
    let log = told.clone();
    let pipeline = Pipeline::http()
        .clock(clock.clock())
        .rng(Rng::seeded(1))
        .classify(
            Http::new()
                .deadline_header(HeaderName::from_static("x-left"))
                .attempt_header(ATTEMPT_COUNT.clone()),
        )
        .observer(move |event: &Event| {
            writeln!(log.0.lock().unwrap(), "{event:?}").expect("a string");
        });
    let replies = [
        Reply::status(503)
            .header("retry-after", SECRET)
            .header("set-cookie", SECRET)
            .header("proxy-status", SECRET)
            .header(ATTEMPT_COUNT.as_str(), SECRET)
            .body(SECRET),
        Reply::reset(),
        Reply::status(429)
            .header("x-ratelimit-reset", SECRET)
            .body(SECRET),
    ];
    let service = ScriptedService::new(&clock, replies);
    let client = pipeline.layer(service);
    let request = || {
        Request::put(format!(
            "http://user:{SECRET}@service/{SECRET}?token={SECRET}"
        ))
        .header("authorization", SECRET)
        .header("idempotency-key", SECRET)
        .body(SECRET.to_owned())
        .expect("valid")
    };
    let mut said = String::new();
    let replayed = Replay::wrap(request(), 100);
    write!(said, "{pipeline:?} {client:?} {:?}", replayed.body()).expect("a string");
    tracing::subscriber::with_default(told.clone(), || {
        let mut client = client.clone();
        block_on(&clock, ServiceExt::<Request<String>>::ready(&mut client)).expect("always ready");
        let call = client.call(request());
        write!(said, "{call:?}").expect("a string");
        let response = block_on(&clock, call).expect("a response");
        let report = response.extensions().get::<Report>().expect("a report");
        write!(said, "{report:?}").expect("a string");
    });

    let observed = told.0.lock().unwrap();
    assert!(
        observed.contains("http.request.resend_count"),
        "nobody listened: {observed}"
    );
    assert!(observed.contains("attempt failed, will retry"));
    assert!(observed.contains("call is over"));
    assert!(observed.contains("server.address=\"service\""), "no spans");
    assert!(!observed.contains(SECRET), "{observed}");
    assert!(!said.contains(SECRET), "{said}");
}

#[test]
fn a_diagnosis_holds_static_words_alone() {
    let value = |text: &str| HeaderValue::from_str(text).expect("a header value");
    let planted = [
        ("server", format!("envoy {SECRET}")),
        ("via", format!("1.1 {SECRET}")),
        (
            "proxy-status",
            format!("{SECRET}; error=dns_error; details=\"{SECRET}\""),
        ),
        ("x-squid-error", format!("ERR_DNS_FAIL {SECRET}")),
        ("l5d-proxy-error", format!("fail-fast {SECRET}")),
        ("x-request-id", SECRET.to_owned()),
        ("content-type", format!("application/json; {SECRET}")),
        ("retry-after", SECRET.to_owned()),
        (SECRET, SECRET.to_owned()),
    ];
    let mut headers = HeaderMap::new();
    for (name, text) in &planted {
        let name: HeaderName = name.parse().expect("a header name");
        headers.insert(name, value(text));
    }
    let body = format!("no healthy upstream: {SECRET}, maintenance, rate limit");
    let seen = Symptoms::response(StatusCode::SERVICE_UNAVAILABLE, &headers)
        .reason(SECRET.as_bytes())
        .body(body.as_bytes());
    let diagnosis = seen.diagnose();
    assert!(diagnosis.evidence().len() > 5, "{diagnosis:?}");
    let mut said = format!("{seen:?} {diagnosis:?} {diagnosis}");
    for evidence in diagnosis.evidence() {
        write!(said, "{evidence} {evidence:?} {}", evidence.source()).expect("a string");
    }
    let error = io::Error::other(SECRET);
    write!(said, "{:?}", Symptoms::error(&error).diagnose()).expect("a string");
    #[cfg(feature = "serde")]
    write!(
        said,
        "{}",
        serde_json::to_string(&diagnosis).expect("plain")
    )
    .expect("a string");
    assert!(!said.contains(SECRET), "{said}");
}

#[test]
fn an_error_says_nothing_of_the_operations_own_but_as_its_source() {
    let _alone = alone();
    let clock = ManualClock::new();
    let pipeline = Pipeline::new().clock(clock.clock());
    let call = pipeline.run(|_| async { Err::<(), _>(io::Error::other(SECRET)) });
    let error = block_on(&clock, call).unwrap_err();
    assert!(!error.to_string().contains(SECRET));
    let source = std::error::Error::source(&error).expect("the operation's own");
    assert_eq!(source.to_string(), SECRET);
}

#[test]
fn a_report_of_an_incident_has_names_that_were_given_and_nothing_secret() {
    let _alone = alone();
    let clock = ManualClock::new();
    let host = format!("{SECRET}.service");
    let name = evenkeel::Key::of(&host);
    let recorder = Recorder::new().clock(clock.clock()).named(name, "billing");
    let pipeline = Pipeline::http()
        .clock(clock.clock())
        .rng(Rng::seeded(1))
        .classify(Http::new().key_by(|target| Some(evenkeel::Key::of(target.host()))))
        .observer(recorder.clone());
    let refusal = Reply::status(503)
        .header("retry-after", SECRET)
        .header("via", SECRET)
        .body(SECRET);
    let replies = (0..40).map(|_| refusal.clone());
    let mut client = pipeline.layer(ScriptedService::new(&clock, replies));
    for _ in 0..5 {
        let request = Request::put(format!("http://{host}/{SECRET}?token={SECRET}"))
            .header("authorization", SECRET)
            .body(SECRET.to_owned())
            .expect("valid");
        block_on(&clock, ServiceExt::<Request<String>>::ready(&mut client)).expect("ready");
        let _ = block_on(&clock, client.call(request));
    }
    let report = recorder.latest().expect("an incident");
    assert_eq!(report.affected[0].name, "billing");
    for said in [
        report.markdown(),
        report.json(),
        report.page(),
        format!("{report:?} {recorder:?}"),
    ] {
        assert!(said.len() > 100 && !said.contains(SECRET), "{said}");
    }
}

/// One test at a time: whether anybody listens at a place is remembered for the whole process, and a test
/// that runs beside one that listens can make it forget.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
