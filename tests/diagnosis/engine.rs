//! What a pipeline makes of a diagnosis: reports and events say it, and retries hardly follow it.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use evenkeel::diagnosis::{
    Cause, Condition, Diagnosis, Health, Origin, Persistence, Signature, Signatures, Spread,
    Symptoms, Test,
};
use evenkeel::event::Change;
use evenkeel::http::Http;
use evenkeel::report::Stop;
use evenkeel::testing::{ManualClock, Reply, ScriptedService, block_on};
use evenkeel::verdict::{Circumstances, Classify, Kind, Processed, Verdict};
use evenkeel::{Budget, Endpoints, Error, Event, Key, Keyed, Pipeline, Report, Retry, Rng, Window};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use proptest::prelude::*;
use tower::{Layer, ServiceExt};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_report_has_the_diagnosis_of_the_last_failure() {
    let answers = [
        Reply::status(502).header("proxy-status", "edge; error=connection_refused"),
        Reply::status(503)
            .header("x-envoy-overloaded", "true")
            .header("x-envoy-attempt-count", "1"),
        Reply::status(200),
    ];
    let (response, _) = send(&pipeline(), Method::GET, answers);
    let report = report_of(&response);
    let diagnosis = report.diagnosis().expect("two failures");
    assert_eq!(diagnosis.cause(), Cause::Overload);
    assert_eq!(diagnosis.origin(), Origin::Proxy("envoy"));
    assert_eq!(diagnosis.processed(), Processed::No);
    let causes: Vec<_> = report
        .failures()
        .iter()
        .map(evenkeel::report::Failure::cause)
        .collect();
    assert_eq!(causes, [Cause::UpstreamUnavailable, Cause::Overload]);
}

#[test]
fn events_name_the_cause() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let log = told.clone();
    let pipeline = pipeline().observer(move |event: &Event| {
        log.lock().unwrap().extend(event.cause());
    });
    let answers = [Reply::status(429), Reply::status(404)];
    send(&pipeline, Method::GET, answers);
    let told = told.lock().unwrap();
    assert_eq!(*told, [Cause::RateLimit, Cause::ApplicationError]);
}

#[test]
fn events_say_in_few_words_what_the_report_says() {
    let told = Arc::new(Mutex::new(None));
    let log = told.clone();
    let pipeline = pipeline().observer(move |event: &Event| {
        if let Some(brief) = event.diagnosis() {
            *log.lock().unwrap() = Some(*brief);
        }
    });
    let overloaded = Reply::status(503)
        .header("x-envoy-overloaded", "true")
        .header("server", "envoy")
        .header("retry-after", "1");
    let (response, _) = send(&pipeline, Method::GET, [overloaded]);
    let diagnosis = report_of(&response).diagnosis().expect("a failure");
    let brief = told.lock().unwrap().take().expect("told");
    assert_eq!(brief, diagnosis.brief());
    assert_eq!(
        (brief.cause(), brief.origin()),
        (Cause::Overload, Origin::Proxy("envoy"))
    );
    assert_eq!(brief.persistence(), Persistence::Announced(SECOND));
    assert_eq!(brief.confidence(), diagnosis.confidence());
    let kept = brief.evidence().len();
    assert!((1..=3).contains(&kept));
    assert_eq!(brief.evidence(), &diagnosis.evidence()[..kept]);
}

#[test]
fn an_error_is_diagnosed_through_a_closure_as_well() {
    let clock = ManualClock::new();
    let pipeline = pipeline()
        .clock(clock.clock())
        .classify(Http::new().errors_only());
    let call =
        pipeline.run(|_| async { Err::<(), _>(io::Error::from(io::ErrorKind::ConnectionRefused)) });
    let error = block_on(&clock, call).unwrap_err();
    let diagnosis = error.report().diagnosis().expect("a failure");
    assert_eq!(diagnosis.cause(), Cause::ConnectionFailure);
    assert_eq!(diagnosis.origin(), Origin::Network);
    assert_eq!(diagnosis.processed(), Processed::No);
}

#[test]
fn a_classifier_without_causes_gives_none_but_for_its_own_timeout() {
    let clock = ManualClock::new();
    let pipeline = Pipeline::new().clock(clock.clock());
    let error = block_on(&clock, pipeline.run(|_| async { Err::<(), _>("busy") })).unwrap_err();
    assert_eq!(error.report().diagnosis(), None);
    assert_eq!(error.report().failures()[0].cause(), Cause::Unknown);

    let pipeline = pipeline.timeout(SECOND);
    let hang = || std::future::pending::<Result<(), &str>>();
    let error = block_on(&clock, pipeline.run(|_| hang())).unwrap_err();
    let diagnosis = error.report().diagnosis().expect("a timeout");
    assert_eq!(diagnosis.cause(), Cause::OwnTimeout);
    assert_eq!(diagnosis.origin(), Origin::Client);
}

#[test]
fn what_the_deadline_cuts_short_is_diagnosed_and_health_hears_of_it() {
    let (clock, health) = (ManualClock::new(), Health::new());
    let pipeline = Pipeline::new()
        .clock(clock.clock())
        .health(health.clone())
        .timeout(10 * SECOND)
        .deadline(6 * SECOND);
    let hang = || std::future::pending::<Result<(), &str>>();
    for _ in 0..10 {
        let error = block_on(&clock, pipeline.run(|_| hang())).unwrap_err();
        assert!(error.is_timeout(), "{error}");
        let diagnosis = error.report().diagnosis().expect("it was cut short");
        assert_eq!(diagnosis.cause(), Cause::OwnTimeout);
        assert_eq!(diagnosis.origin(), Origin::Client);
    }
    let known = health.snapshot(clock.now());
    assert_eq!((known.condition, known.failed), (Condition::Failing, 10));
    assert_eq!(known.cause, Cause::OwnTimeout);
    assert_eq!(known.cluster, None);

    // One that had little time left says little: what was before it says more.
    let health = Health::new();
    let short = pipeline
        .health(health.clone())
        .retry(Retry::constant(3 * SECOND))
        .min_time_left(Duration::ZERO)
        .classify(Http::new());
    let service = ScriptedService::new(
        &clock,
        [
            Reply::status(502)
                .header("proxy-status", "edge; error=connection_refused")
                .after(SECOND),
            Reply::status(200).after(60 * SECOND),
        ],
    );
    let error = block_on(&clock, short.layer(service).oneshot(get())).unwrap_err();
    assert_eq!(error.attempts(), 2);
    let diagnosis = error.report().diagnosis().expect("a failure");
    assert_eq!(diagnosis.cause(), Cause::UpstreamUnavailable);
    assert_eq!(health.snapshot(clock.now()).failed, 1);
}

#[test]
fn a_slow_gateway_is_told_by_its_time() {
    // Apache says 502 of a time limit; only the time tells it from a crash.
    for (delay, cause) in [
        (60_010, Cause::GatewayTimeout),
        (7_310, Cause::UpstreamUnavailable),
    ] {
        let answer = Reply::status(502).after(Duration::from_millis(delay));
        let table = Signatures::new().with(
            Signature::new("a gateway with time limits", "a test")
                .on(&[502])
                .when(&[Test::Waited(&[60_000])])
                .says(&[(Cause::GatewayTimeout, 12)]),
        );
        let pipeline = Pipeline::new().classify(Http::new().signatures(table));
        let (response, _) = send(&pipeline, Method::GET, [answer]);
        let report = report_of(&response);
        assert_eq!(
            report.diagnosis().expect("a failure").cause(),
            cause,
            "{delay}"
        );
    }
}

#[test]
fn only_failures_are_diagnosed_and_each_once() {
    #[derive(Clone, Default)]
    struct Counting(Arc<Mutex<Vec<bool>>>);
    impl Classify<u32, u32> for Counting {
        fn classify(&self, outcome: Result<&u32, &u32>) -> Verdict {
            match outcome {
                Ok(_) => Verdict::success(),
                Err(_) => Verdict::transient(),
            }
        }
        fn diagnose(&self, outcome: Result<&u32, &u32>, _: Circumstances) -> Option<Diagnosis> {
            self.0.lock().unwrap().push(outcome.is_ok());
            None
        }
    }
    let (clock, counting) = (ManualClock::new(), Counting::default());
    let pipeline = Pipeline::new()
        .classify(counting.clone())
        .clock(clock.clock())
        .retry(Retry::constant(SECOND).max_attempts(3));
    let call =
        pipeline.run(|attempt| async move { if attempt.number() < 3 { Err(0) } else { Ok(7) } });
    assert_eq!(block_on(&clock, call), Ok(7));
    assert_eq!(*counting.0.lock().unwrap(), [false, false]);
}

#[test]
fn a_mistake_in_a_configuration_ends_retries_and_a_name_that_does_not_resolve_does_not() {
    for (error, attempts) in [
        ("tls_certificate_error", 1),
        ("destination_not_found", 1),
        ("proxy_configuration_error", 1),
        ("proxy_loop_detected", 1),
        ("dns_error", 3),
        ("connection_refused", 3),
        ("http_response_timeout", 3),
    ] {
        let answer = Reply::status(502).header("proxy-status", format!("edge; error={error}"));
        let (response, seen) = send(&pipeline(), Method::GET, [answer]);
        assert_eq!(seen, attempts, "{error}");
        let report = report_of(&response);
        if attempts == 1 {
            assert_eq!(report.stop(), Some(Stop::NotRetryable), "{error}");
            let diagnosis = report.diagnosis().expect("a failure");
            assert_eq!(diagnosis.cause(), Cause::Configuration, "{error}");
            assert_eq!(diagnosis.persistence(), Persistence::Persistent, "{error}");
        }
    }
}

#[test]
fn what_a_user_says_of_a_status_goes_before_what_a_marker_says() {
    let answer = || Reply::status(502).header("proxy-status", "edge; error=tls_certificate_error");
    let http = Http::new().treat(StatusCode::BAD_GATEWAY, Kind::Transient);
    let (_, seen) = send(&pipeline().classify(http), Method::GET, [answer()]);
    assert_eq!(seen, 3);
}

#[test]
fn a_row_of_ones_own_can_end_retries_by_headers_alone() {
    const ROW: Signature = Signature::new("acme: no such tenant", "a test")
        .on(&[503])
        .when(&[Test::HeaderIs("x-acme", "no tenant")])
        .says(&[(Cause::Configuration, 30)]);
    let attempts = |row| {
        let http = Http::new().signatures(Signatures::new().with(row));
        let answer = Reply::status(503)
            .header("x-acme", "no tenant")
            .body("no tenant");
        send(&pipeline().classify(http), Method::GET, [answer]).1
    };
    assert_eq!(attempts(ROW.lasts(Persistence::Persistent)), 1);
    assert_eq!(attempts(ROW), 3, "it may pass");
    let weak = ROW
        .lasts(Persistence::Persistent)
        .says(&[(Cause::Configuration, 29)]);
    assert_eq!(attempts(weak), 3);
    let other = ROW
        .lasts(Persistence::Persistent)
        .says(&[(Cause::Overload, 30)]);
    assert_eq!(attempts(other), 3);
    let by_time = ROW
        .lasts(Persistence::Persistent)
        .when(&[Test::Waited(&[1_000])]);
    assert_eq!(attempts(by_time), 3);
}

#[test]
fn what_was_provably_not_sent_goes_again_whatever_the_method() {
    let refused = || Reply::status(502).header("proxy-status", "edge; error=connection_refused");
    let (response, seen) = send(&pipeline(), Method::POST, [refused(), Reply::status(200)]);
    assert_eq!((response.status(), seen), (StatusCode::OK, 2));
    // Envoy's page says the same, but a page is no proof, and nobody has read it yet.
    let page = || {
        Reply::status(503)
            .header("server", "envoy")
            .body("no healthy upstream")
    };
    let (response, seen) = send(&pipeline(), Method::POST, [page(), Reply::status(200)]);
    assert_eq!(
        (response.status(), seen),
        (StatusCode::SERVICE_UNAVAILABLE, 1)
    );
    let report = report_of(&response);
    assert_eq!(report.stop(), Some(Stop::NotSafe(Processed::Maybe)));
}

#[test]
fn a_maintenance_with_a_known_end_parks_the_service_spends_no_budget_and_says_when() {
    let ends = 240 * SECOND;
    let clock = ManualClock::new();
    let budget = Budget::default();
    let pipeline = Pipeline::http()
        .retry(Retry::default().max_attempts(4).budget(budget.clone()))
        .clock(clock.clock())
        .rng(Rng::seeded(1));
    let answer = Reply::status(503).header("retry-after", "240");
    let service = ScriptedService::new(&clock, [answer, Reply::status(200)]);
    let client = pipeline.layer(service.clone());
    let began = clock.now();
    let full = budget.snapshot().available;

    let response = block_on(&clock, client.clone().oneshot(get())).expect("an answer");
    let report = report_of(&response);
    assert_eq!(report.retry_at(), Some(began + ends));
    let diagnosis = report.diagnosis().expect("a failure");
    assert_eq!(diagnosis.persistence(), Persistence::Announced(ends));

    // All others are told the same without a request; the moment is the window's own, a little later.
    for _ in 0..20 {
        let error = block_on(&clock, client.clone().oneshot(get())).unwrap_err();
        assert_eq!(error.attempts(), 0);
        let back = error.retry_at().expect("a known end");
        assert!(
            (ends..ends + 60 * SECOND).contains(&back.duration_since(began)),
            "{back:?}"
        );
        clock.advance(SECOND);
    }
    assert_eq!(service.seen().len(), 1);
    assert!(budget.snapshot().available >= full);

    // The first to come back goes by itself.
    clock.advance(ends);
    let response = block_on(&clock, client.oneshot(get())).expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(service.seen().len(), 2);
    assert!(service.seen()[1].at >= ends);
}

#[test]
fn an_hour_of_maintenance_parks_the_service_if_the_window_believes_it_and_retries_nothing_anyway() {
    let hour = 3600 * SECOND;
    for (window, requests) in [(Window::new(), 2), (Window::new().longest_quiet(hour), 1)] {
        let clock = ManualClock::new();
        let pipeline = Pipeline::http()
            .window(Keyed::new(window))
            .clock(clock.clock())
            .rng(Rng::seeded(1));
        let answer = Reply::status(503).header("retry-after", "3600");
        let service = ScriptedService::new(&clock, [answer]);
        let client = pipeline.layer(service.clone());
        let began = clock.now();
        let response = block_on(&clock, client.clone().oneshot(get())).expect("an answer");
        let report = report_of(&response);
        assert_eq!(report.retry_at(), Some(began + hour));
        assert_eq!(
            report.diagnosis().expect("a failure").cause(),
            Cause::Maintenance
        );
        let _ = block_on(&clock, client.oneshot(get()));
        assert_eq!(service.seen().len(), requests);
    }
}

#[test]
fn health_refines_what_one_answer_can_not_tell_and_tells_when_a_service_fails() {
    let clock = ManualClock::new();
    let told = Arc::new(Mutex::new(Vec::new()));
    let log = told.clone();
    let health = Keyed::new(Health::new());
    let pipeline = Pipeline::new()
        .classify(Http::new())
        .health(health.clone())
        .clock(clock.clock())
        .observer(move |event: &Event| {
            if let Event::Changed {
                change: Change::Health(change),
                key,
                ..
            } = event
            {
                log.lock()
                    .unwrap()
                    .push((change.from, change.to, key.is_some()));
            }
        });
    let slow = || Reply::status(503).after(Duration::from_millis(5_004));
    let service = ScriptedService::new(&clock, [slow()]);
    let client = pipeline.layer(service);
    let mut causes = Vec::new();
    for _ in 0..10 {
        let response = block_on(&clock, client.clone().oneshot(get())).expect("an answer");
        causes.push(report_of(&response).diagnosis().expect("a failure").cause());
    }
    assert_eq!(causes[..4], [Cause::Unknown; 4]);
    assert_eq!(causes[9], Cause::GatewayTimeout);
    let failing = (Condition::Healthy, Condition::Failing, true);
    assert_eq!(*told.lock().unwrap(), [failing]);
    let one = health.get(key(), || clock.now()).into_inner();
    assert_eq!(one.snapshot(clock.now()).cluster, Some(5 * SECOND));
}

#[test]
fn health_hears_of_successes_too() {
    let clock = ManualClock::new();
    let health = Health::new();
    let pipeline = Pipeline::new().health(health.clone()).clock(clock.clock());
    for number in 0..20_u32 {
        let call =
            pipeline.run(|_| async move { if number % 4 == 0 { Err("busy") } else { Ok(()) } });
        let _ = block_on(&clock, call);
    }
    let known = health.snapshot(clock.now());
    assert_eq!((known.attempts, known.failed), (20, 5));
    assert_eq!(known.condition, Condition::Degraded);
}

#[test]
fn one_bad_host_is_told_from_all_by_the_endpoints_of_a_closure() {
    for (bad, spread) in [
        (0, Spread::Unknown),
        (1, Spread::One),
        (2, Spread::Some),
        (4, Spread::All),
    ] {
        let clock = ManualClock::new();
        let health = Health::new();
        let pipeline = Pipeline::new()
            .endpoints(patient(Endpoints::numbered(4)))
            .health(health.clone())
            .clock(clock.clock())
            .rng(Rng::seeded(1));
        for _ in 0..200 {
            let call = pipeline.run(|attempt| async move {
                let host = attempt.endpoint().expect("chosen").index();
                if host < bad { Err("down") } else { Ok(()) }
            });
            let _ = block_on(&clock, call);
            clock.advance(SECOND / 10);
        }
        assert_eq!(health.snapshot(clock.now()).spread, spread, "{bad}");
    }
}

#[test]
fn one_bad_host_is_told_from_all_by_the_endpoints_of_requests() {
    let clock = ManualClock::new();
    let health = Health::new();
    let pipeline = Pipeline::new()
        .classify(Http::new())
        .endpoints(patient(Endpoints::new([
            "http://a", "http://b", "http://c",
        ])))
        .health(health.clone())
        .clock(clock.clock())
        .rng(Rng::seeded(1));
    let client = pipeline.layer(tower::service_fn(|request: Request<String>| async move {
        let status = match request.uri().host() {
            Some("b") => 502,
            _ => 200,
        };
        let answer = Response::builder().status(status);
        Ok::<_, std::convert::Infallible>(answer.body(String::new()).expect("valid"))
    }));
    for _ in 0..200 {
        let _ = block_on(&clock, client.clone().oneshot(get()));
        clock.advance(SECOND / 10);
    }
    let known = health.snapshot(clock.now());
    assert_eq!(known.spread, Spread::One);
    // The next failure is seen in that light.
    let mut diagnosis = Symptoms::response(StatusCode::BAD_GATEWAY, &HeaderMap::new()).diagnose();
    let before = diagnosis.score(Cause::UpstreamUnavailable);
    health.refine(&mut diagnosis, clock.now());
    assert!(diagnosis.score(Cause::UpstreamUnavailable) > before);
}

/// Nobody is ejected: each is asked as often as the others.
fn patient(endpoints: Endpoints) -> Endpoints {
    endpoints.consecutive_failures(None).failure_share(None)
}

#[test]
fn a_requests_own_fault_is_none_of_the_service() {
    let clock = ManualClock::new();
    let health = Health::new();
    let http = Pipeline::new().classify(Http::new()).health(health.clone());
    let service = ScriptedService::new(&clock, [Reply::status(404)]);
    let client = http.clock(clock.clock()).layer(service);
    for _ in 0..20 {
        let response = block_on(&clock, client.clone().oneshot(get())).expect("an answer");
        let diagnosis = report_of(&response).diagnosis().expect("a failure");
        assert_eq!(diagnosis.cause(), Cause::ApplicationError);
    }
    let known = health.snapshot(clock.now());
    assert_eq!((known.attempts, known.failed), (20, 0));
    assert_eq!(known.condition, Condition::Healthy);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever a server says, signatures add no attempt, and none goes sooner than without them.
    #[test]
    fn what_a_server_says_never_makes_a_client_bolder(
        answers in prop::collection::vec(answer(), 1..5),
        post: bool,
        tokens in 0..4_u32,
    ) {
        let method = if post { Method::POST } else { Method::GET };
        let blind = Http::new().signatures(Signatures::new().keep(|_| false));
        let run = |http: Http| {
            let clock = ManualClock::new();
            let budget = Budget::default().capacity(tokens);
            let retry = Retry::constant(SECOND).max_attempts(4).budget(budget.clone());
            let pipeline = pipeline()
                .classify(http)
                .retry(retry)
                .deadline(60 * SECOND)
                .health(Health::new())
                .clock(clock.clock());
            let service = ScriptedService::new(&clock, answers.clone());
            let client = pipeline.layer(service.clone());
            let request = Request::builder().method(method.clone()).uri("http://service/");
            let outcome = block_on(&clock, client.oneshot(request.body(String::new()).unwrap()));
            let seen: Vec<_> = service.seen().iter().map(|it| it.at).collect();
            (seen, outcome.is_ok(), clock.elapsed())
        };
        let (with, _, took) = run(Http::new());
        let (without, _, _) = run(blind);
        prop_assert!(with.len() <= without.len());
        prop_assert_eq!(&with[..], &without[..with.len()], "not earlier, not later");
        prop_assert!(with.len() <= 4 && with.len() <= 1 + tokens as usize);
        prop_assert!(took <= 61 * SECOND);
    }
}

/// An answer made of what signatures look for, and of noise.
fn answer() -> impl Strategy<Value = Reply> {
    let status = prop::sample::select(vec![
        200, 400, 404, 408, 421, 425, 429, 500, 501, 502, 503, 504, 521, 523, 525, 529, 530,
    ]);
    let field = prop_oneof![
        prop::sample::select(vec![
            ("proxy-status", "edge; error=tls_certificate_error"),
            ("proxy-status", "edge; error=connection_refused"),
            ("proxy-status", "edge; error=dns_error"),
            ("server", "envoy"),
            ("server", "nginx"),
            ("x-envoy-overloaded", "true"),
            ("x-envoy-upstream-service-time", "3"),
            ("x-envoy-attempt-count", "1"),
            ("x-envoy-attempt-count", "2"),
            ("x-squid-error", "ERR_DNS_FAIL 0"),
            ("l5d-proxy-error", "service in fail-fast"),
            ("retry-after", "3"),
            ("retry-after", "0"),
            ("x-should-retry", "true"),
            ("cf-mitigated", "challenge"),
            ("content-length", "0"),
        ]),
        Just(("x-noise", "~")),
    ];
    let fields = prop::collection::vec(field, 0..4);
    (status, fields, 0..3_u64).prop_map(|(status, fields, seconds)| {
        let reply = Reply::status(status).after(Duration::from_secs(seconds));
        let add = |reply: Reply, (name, value): (&'static str, &'static str)| {
            if name == "content-length" {
                reply
            } else {
                reply.header(name, value)
            }
        };
        fields.into_iter().fold(reply, add)
    })
}

fn pipeline() -> Pipeline<Http> {
    let retry = Retry::constant(SECOND).max_attempts(3);
    Pipeline::http()
        .no_window()
        .retry(retry)
        .rng(Rng::seeded(1))
}

type Answered = Response<evenkeel::testing::ScriptedBody>;

/// The answer to one request, and how many were sent.
fn send(
    pipeline: &Pipeline<Http>,
    method: Method,
    answers: impl IntoIterator<Item = Reply>,
) -> (Answered, usize) {
    let clock = ManualClock::new();
    let service = ScriptedService::new(&clock, answers);
    let client = pipeline.clone().clock(clock.clock()).layer(service.clone());
    let request = Request::builder()
        .method(method)
        .uri("http://service/orders");
    let request = request.body(String::new()).unwrap();
    let response = block_on(&clock, client.oneshot(request));
    (
        response.map_err(Error::into_cause).unwrap(),
        service.seen().len(),
    )
}

fn get() -> Request<String> {
    Request::get("http://service/orders")
        .body(String::new())
        .unwrap()
}

fn key() -> Key {
    use evenkeel::pipeline::Protocol;
    let request = get();
    Protocol::<_, Answered>::key(&Http::new(), &request).expect("a host")
}

fn report_of(response: &Answered) -> &Report {
    response.extensions().get::<Report>().expect("a report")
}

#[test]
fn a_known_moment_is_measured_by_the_answers_own_clock() {
    let answer = Reply::status(503)
        .header("date", "Sun, 06 Nov 1994 08:49:37 GMT")
        .header("retry-after", "Sun, 06 Nov 1994 09:49:37 GMT");
    let (response, _) = send(&pipeline(), Method::GET, [answer]);
    let diagnosis = report_of(&response).diagnosis().expect("a failure");
    assert_eq!(
        diagnosis.persistence(),
        Persistence::Announced(3600 * SECOND)
    );
    let _: Instant = report_of(&response).retry_at().expect("a known end");
}
