//! The tower door, over tower's own layers.
#![cfg(all(feature = "testing", feature = "tower"))]

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use evenkeel::clock::{BoxSleep, Runtime, Why};
use evenkeel::http::{Idempotent, Replay};
use evenkeel::pipeline::Protocol;
use evenkeel::report::Stop;
use evenkeel::testing::{ManualClock, Reply, ScriptedService, block_on};
use evenkeel::tower::ReplayLayer;
use evenkeel::verdict::{Classify, EveryError, Hint, Kind, Verdict};
use evenkeel::{
    Breaker, Bulkhead, Cause, Chaos, Clock, Deadline, Key, Keyed, Pipeline, Priority, RateLimit,
    Report, Retry, Rng, Throttle, Window,
};
use http::{Method, Request};
use http_body_util::BodyExt as _;
use tower::limit::{ConcurrencyLimit, GlobalConcurrencyLimitLayer};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn request(method: Method) -> Request<String> {
    let request = Request::builder().method(method).uri("http://service/path");
    request.body("body".to_owned()).expect("a valid request")
}

fn http(clock: &ManualClock) -> Pipeline<evenkeel::http::Http> {
    Pipeline::http().clock(clock.clock()).rng(Rng::seeded(1))
}

/// Panics if it is called without having been ready, as tower's `ConcurrencyLimit` does.
#[derive(Clone)]
struct Strict {
    ready: bool,
    calls: Arc<AtomicU32>,
}

impl Service<u32> for Strict {
    type Response = u32;
    type Error = &'static str;
    type Future = std::future::Ready<Result<u32, &'static str>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, fail: u32) -> Self::Future {
        assert!(
            std::mem::take(&mut self.ready),
            "called without being ready"
        );
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        std::future::ready(if call < fail { Err("busy") } else { Ok(call) })
    }
}

#[tokio::test]
async fn readiness_is_awaited_before_every_attempt() {
    let strict = Strict {
        ready: false,
        calls: Arc::default(),
    };
    let service = Retry::constant(Duration::ZERO).layer(strict);
    // Clones start unready; a call that was polled ready elsewhere must not count for them.
    let mut first = service.clone();
    first.ready().await.expect("always ready");
    let mut second = first.clone();
    assert_eq!(first.call(2).await, Ok(2));
    assert_eq!(second.ready().await.expect("ready").call(0).await, Ok(3));
}

#[tokio::test(start_paused = true)]
async fn over_a_concurrency_limit_every_attempt_takes_one_permit_and_waits_hold_none() {
    let running = Arc::new(AtomicUsize::new(0));
    let inner = {
        let running = Arc::clone(&running);
        service_fn(move |fails: bool| {
            let running = Arc::clone(&running);
            async move {
                assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "one at a time");
                tokio::time::sleep(ms(10)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                if fails { Err("busy") } else { Ok(()) }
            }
        })
    };
    let limit = ConcurrencyLimit::new(inner, 1);
    let service = Retry::constant(ms(1000)).max_attempts(3).layer(limit);
    // The failing call waits a second between attempts; the others get through meanwhile.
    let begun = tokio::time::Instant::now();
    let failing = tokio::spawn(service.clone().oneshot(true));
    tokio::time::sleep(ms(20)).await;
    for _ in 0..10 {
        service.clone().oneshot(false).await.expect("gets a permit");
    }
    assert!(begun.elapsed() < ms(500));
    let error = failing.await.expect("no panic").unwrap_err();
    assert_eq!(error.attempts(), 3);
}

#[test]
fn waiting_for_readiness_between_attempts_ends_at_the_deadline() {
    /// Fails once, and then is never ready again.
    #[derive(Clone)]
    struct Once(bool);

    impl Service<()> for Once {
        type Response = ();
        type Error = &'static str;
        type Future = std::future::Ready<Result<(), &'static str>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
            if self.0 {
                Poll::Pending
            } else {
                Poll::Ready(Ok(()))
            }
        }

        fn call(&mut self, (): ()) -> Self::Future {
            self.0 = true;
            std::future::ready(Err("busy"))
        }
    }

    let clock = ManualClock::new();
    let pipeline = Pipeline::new()
        .deadline(ms(100))
        .retry(Retry::constant(ms(1)))
        .clock(clock.clock());
    let error = block_on(&clock, pipeline.layer(Once(false)).oneshot(())).unwrap_err();
    assert!(error.is_timeout());
    assert_eq!((error.attempts(), clock.elapsed()), (1, ms(100)));
}

#[tokio::test(start_paused = true)]
async fn it_works_over_buffer_and_load_shed() {
    let strict = Strict {
        ready: false,
        calls: Arc::default(),
    };
    let service = ServiceBuilder::new()
        .layer(Retry::constant(ms(1)).max_attempts(3))
        .buffer(2)
        .load_shed()
        .concurrency_limit(1)
        .service(strict);
    assert_eq!(
        service
            .clone()
            .oneshot(2)
            .await
            .expect("the third succeeds"),
        2
    );
    let error = service.oneshot(99).await.unwrap_err();
    assert_eq!(error.attempts(), 3);
    assert!(matches!(error.into_cause(), Cause::Operation(boxed) if boxed.to_string() == "busy"));
}

#[tokio::test(start_paused = true)]
async fn over_load_shed_it_goes_under_a_buffer_with_its_error_whole() {
    let refused = || std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
    let calls = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&calls);
    let inner = service_fn(move |_: Request<String>| {
        count.fetch_add(1, Ordering::Relaxed);
        std::future::ready(Err::<http::Response<String>, _>(refused()))
    });
    let inner = ServiceBuilder::new()
        .buffer(8)
        .map_err(evenkeel::Error::boxed)
        .layer(Pipeline::new().retry(Retry::constant(ms(1)).max_attempts(1)))
        .load_shed()
        .service(inner);
    let error = inner.clone().oneshot(request(Method::POST)).await;
    let error = error.unwrap_err();
    let whole = error.downcast_ref::<evenkeel::Error<evenkeel::error::Boxed>>();
    let own = whole.expect("a pipeline's").operation().expect("its own");
    let own = own.get_ref().downcast_ref::<std::io::Error>();
    assert_eq!(own.expect("I/O").kind(), refused().kind());

    // A pipeline around that knows what a refused connection proves.
    calls.store(0, Ordering::Relaxed);
    let retry = Retry::constant(ms(1)).max_attempts(3);
    let outer = Pipeline::http().retry(retry).layer(inner);
    let error = outer.oneshot(request(Method::POST)).await.unwrap_err();
    assert_eq!((error.attempts(), calls.load(Ordering::Relaxed)), (3, 3));
}

#[test]
fn a_nested_pipelines_wrong_settings_end_the_call() {
    let clock = ManualClock::new();
    let service = ScriptedService::new(&clock, [Reply::status(200)]);
    let wrong = Retry::constant(ms(1)).max_attempts(0);
    let inner = Pipeline::new().retry(wrong).clock(clock.clock());
    let client = http(&clock).layer(inner.layer(service));
    let error = block_on(&clock, client.oneshot(request(Method::GET))).unwrap_err();
    assert_eq!(error.attempts(), 1);
    assert_eq!(error.report().stop(), Some(Stop::NotRetryable));
}

#[tokio::test]
async fn a_boxed_classifier_works_in_a_pipeline() {
    use evenkeel::verdict::{self, Classify, Kind, Verdict};

    let all = |outcome: Result<&u32, &&str>| match outcome {
        Ok(_) => Verdict::success(),
        Err(&"no such row") => Verdict::new(Kind::RequestFault),
        Err(_) => Verdict::transient(),
    };
    let boxed: Box<dyn Classify<u32, &'static str> + Send + Sync> = Box::new(verdict::by(all));
    let shared: Arc<dyn Classify<u32, &'static str> + Send + Sync> = Arc::new(verdict::by(all));
    let retry = || Retry::constant(Duration::ZERO).max_attempts(2);
    let boxed = Pipeline::new().classify(boxed).retry(retry());
    let shared = Pipeline::new().classify(shared).retry(retry());
    for (text, attempts) in [("no such row", 1), ("busy", 2)] {
        let error = boxed.run(|_| async move { Err(text) }).await.unwrap_err();
        assert_eq!(error.attempts(), attempts);
        let error = shared.run(|_| async move { Err(text) }).await.unwrap_err();
        assert_eq!(error.attempts(), attempts);
    }
}

#[tokio::test]
async fn errors_alone_are_a_classifier_for_any_cloneable_request() {
    let refuse = service_fn(|_: String| async {
        Err::<(), _>(std::io::Error::from(std::io::ErrorKind::ConnectionRefused))
    });
    let retry = Retry::constant(Duration::ZERO).max_attempts(2);
    let pipeline = Pipeline::new().classify(evenkeel::http::Http::new().errors_only());
    let error = pipeline.idempotent(false).retry(retry).layer(refuse);
    let error = error.oneshot("hello".to_owned()).await.unwrap_err();
    assert_eq!(error.attempts(), 2);
}

#[test]
fn an_idle_service_and_its_clones_hold_no_permit() {
    let clock = ManualClock::new();
    let limit = ConcurrencyLimit::new(service_fn(|()| async { Ok::<_, Infallible>(()) }), 1);
    let service = Pipeline::new().clock(clock.clock()).layer(limit);
    let idle: Vec<_> = (0..5).map(|_| service.clone()).collect();
    for _ in 0..5 {
        assert_eq!(block_on(&clock, service.clone().oneshot(())), Ok(()));
    }
    drop(idle);
}

#[test]
fn a_readiness_error_comes_back_whole() {
    #[derive(Clone)]
    struct Closed;

    impl Service<()> for Closed {
        type Response = ();
        type Error = &'static str;
        type Future = std::future::Ready<Result<(), &'static str>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
            Poll::Ready(Err("closed"))
        }

        fn call(&mut self, (): ()) -> Self::Future {
            unreachable!("never ready")
        }
    }

    let clock = ManualClock::new();
    let error = block_on(&clock, Pipeline::new().layer(Closed).oneshot(())).unwrap_err();
    assert_eq!(error.into_cause(), Cause::Operation("closed"));
}

#[test]
fn a_request_that_can_be_sent_once_and_was_not_sent_is_still_there() {
    /// Fails to become ready once, and then answers with what it was sent.
    #[derive(Clone)]
    struct Late(Arc<AtomicU32>);

    impl Service<Request<Replay<String>>> for Late {
        type Response = http::Response<String>;
        type Error = std::io::Error;
        type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>>>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            if self.0.fetch_add(1, Ordering::Relaxed) == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::ConnectionRefused.into()));
            }
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<Replay<String>>) -> Self::Future {
            Box::pin(async move {
                let body = request.into_body().collect().await.expect("it is there");
                Ok(http::Response::new(
                    String::from_utf8(body.to_bytes().to_vec()).expect("text"),
                ))
            })
        }
    }

    let clock = ManualClock::new();
    let asked = Arc::new(AtomicU32::new(0));
    let bulkhead = Bulkhead::new(1).queue(1);
    let pipeline = http(&clock).retry(Retry::constant(ms(0)));
    let mut service = ServiceBuilder::new()
        .layer(ReplayLayer::new().limit(0))
        .layer(pipeline.bulkhead(bulkhead.clone()))
        .service(Late(Arc::clone(&asked)));
    // It waits in line, and so is asked for readiness by the call.
    let permit = bulkhead.try_acquire().expect("it is free");
    let mut call = Box::pin(service.call(request(Method::POST)));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(call.as_mut().poll(&mut cx).is_pending());
    drop(permit);
    let response = block_on(&clock, call).expect("sent in the end");
    assert_eq!(response.body(), "body");
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[test]
fn the_last_response_comes_back_unchanged_with_its_report() {
    let clock = ManualClock::new();
    let service = ScriptedService::new(&clock, [Reply::status(503).header("x-a", "b").body("why")]);
    let client = http(&clock).layer(service);
    let response = block_on(&clock, client.oneshot(request(Method::GET))).expect("a response");
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["x-a"], "b");
    let report = response.extensions().get::<Report>().expect("a report");
    assert_eq!(
        (report.attempts(), report.stop()),
        (4, Some(Stop::AttemptsExhausted))
    );
    assert_eq!(report.failures().len(), 4);
    assert_eq!(report.waited(), clock.elapsed());
}

#[test]
fn a_first_attempt_that_succeeds_leaves_no_report() {
    let clock = ManualClock::new();
    let service = ScriptedService::new(&clock, [Reply::status(200)]);
    let client = http(&clock).layer(service);
    let response = block_on(&clock, client.oneshot(request(Method::GET))).expect("a response");
    assert!(response.extensions().get::<Report>().is_none());
}

#[test]
fn a_request_is_repeated_only_if_idempotent_or_provably_unprocessed() {
    let attempts = |request: Request<String>, reply: Reply| {
        let clock = ManualClock::new();
        let service = ScriptedService::new(&clock, [reply, Reply::status(200)]);
        let client = http(&clock).layer(service.clone());
        let _ = block_on(&clock, client.oneshot(request));
        service.seen().len()
    };
    let with = |name: &'static str, value: &'static str| {
        let mut request = request(Method::POST);
        request
            .headers_mut()
            .insert(name, value.parse().expect("a value"));
        request
    };
    let marked = |idempotent| {
        let mut request = request(if idempotent {
            Method::POST
        } else {
            Method::GET
        });
        request.extensions_mut().insert(Idempotent(idempotent));
        request
    };
    for reply in [Reply::status(503), Reply::status(504), Reply::reset()] {
        assert_eq!(attempts(request(Method::GET), reply.clone()), 2);
        assert_eq!(attempts(request(Method::POST), reply.clone()), 1);
        assert_eq!(attempts(request(Method::PATCH), reply.clone()), 1);
        assert_eq!(attempts(with("idempotency-key", "7"), reply.clone()), 2);
        assert_eq!(attempts(marked(true), reply.clone()), 2);
        assert_eq!(attempts(marked(false), reply), 1);
    }
    for reply in [
        Reply::status(421),
        Reply::status(425),
        Reply::refuse_stream(),
    ] {
        assert_eq!(attempts(request(Method::POST), reply), 2);
    }
    for status in [400, 404, 501, 505, 511, 525, 526] {
        assert_eq!(
            attempts(request(Method::GET), Reply::status(status)),
            1,
            "{status}"
        );
    }
    for status in [
        408, 421, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 527, 529,
    ] {
        assert_eq!(
            attempts(request(Method::GET), Reply::status(status)),
            2,
            "{status}"
        );
    }
}

#[test]
fn a_hint_past_the_cap_or_the_deadline_ends_the_call_at_once() {
    for (hint, stop, attempts) in [
        ("25", None, 2),
        ("30", Some(Stop::DeadlineTooClose), 1),
        ("300", Some(Stop::DeadlineTooClose), 1),
        ("301", Some(Stop::HintTooFar), 1),
    ] {
        let clock = ManualClock::new();
        let unavailable = Reply::status(503).header("retry-after", hint);
        let service = ScriptedService::new(&clock, [unavailable, Reply::status(200)]);
        let client = http(&clock).layer(service.clone());
        let response = block_on(&clock, client.oneshot(request(Method::GET))).expect("a response");
        assert_eq!(service.seen().len(), attempts, "{hint}");
        let report = response.extensions().get::<Report>().expect("a report");
        assert_eq!(report.stop(), stop, "{hint}");
        if stop.is_some() {
            assert_eq!(clock.elapsed(), Duration::ZERO);
            let seconds = hint.parse().expect("a number");
            assert!(report.retry_after() >= Some(Duration::from_secs(seconds)));
            assert_eq!(report.retry_at().map(|at| at >= clock.now()), Some(true));
        }
    }
}

#[test]
fn what_one_response_said_holds_for_other_requests_to_that_host() {
    let clock = ManualClock::new();
    let unavailable = Reply::status(503).header("retry-after", "7");
    let service = ScriptedService::new(&clock, [unavailable, Reply::status(200)]);
    let client = http(&clock).layer(service.clone());
    // A POST isn't repeated, but what it was told counts.
    let told = block_on(&clock, client.clone().oneshot(request(Method::POST)));
    assert_eq!(told.expect("a response").status(), 503);
    let elsewhere = Request::get("http://other/")
        .body(String::new())
        .expect("valid");
    let elsewhere = block_on(&clock, client.clone().oneshot(elsewhere));
    assert_eq!(elsewhere.expect("a response").status(), 200);
    assert_eq!(clock.elapsed(), Duration::ZERO);
    let here = block_on(&clock, client.oneshot(request(Method::POST)));
    assert_eq!(here.expect("a response").status(), 200);
    assert!(service.seen()[2].at >= Duration::from_secs(7));
}

#[test]
fn a_held_attempt_has_its_whole_timeout_and_its_hold_is_reported() {
    let clock = ManualClock::new();
    let unavailable = Reply::status(503).header("retry-after", "5");
    let slow = Reply::status(200).after(ms(900));
    let service = ScriptedService::new(&clock, [unavailable, slow]);
    let client = http(&clock).timeout(ms(1000)).layer(service);
    let told = block_on(&clock, client.clone().oneshot(request(Method::POST)));
    assert_eq!(told.expect("a response").status(), 503);
    let held = block_on(&clock, client.oneshot(request(Method::POST))).expect("in time");
    assert_eq!(held.status(), 200);
    let report = held.extensions().get::<Report>().expect("it was held");
    assert_eq!((report.attempts(), report.failures().len()), (1, 0));
    assert!(report.parked() >= ms(5000) && report.waited() == report.parked());
    assert_eq!(report.elapsed(), report.parked() + ms(900));
}

#[test]
fn a_held_call_holds_no_permit_of_the_service_below() {
    let clock = ManualClock::new();
    let unavailable = Reply::status(503).header("retry-after", "5");
    let service = ScriptedService::new(&clock, [unavailable, Reply::status(200)]);
    let client = http(&clock).layer(ConcurrencyLimit::new(service, 1));
    let _ = block_on(&clock, client.clone().oneshot(request(Method::POST)));
    let executor = evenkeel::testing::Executor::new(&clock);
    let elsewhere = Request::get("http://other/")
        .body(String::new())
        .expect("valid");
    let held = executor.spawn(client.clone().oneshot(request(Method::GET)));
    let free = executor.spawn(client.oneshot(elsewhere));
    executor.run_until_idle();
    assert!(!held.is_finished() && free.is_finished());
    assert_eq!(executor.run(), 0);
    assert_eq!(
        held.take().expect("done").expect("a response").status(),
        200
    );
}

#[test]
fn one_bad_answer_among_good_ones_silences_nobody() {
    // One answer in three asks for quiet, as when one replica of three is ill.
    for pipeline in [Pipeline::http(), Pipeline::http().no_window()] {
        let clock = ManualClock::new();
        let pipeline = pipeline.clock(clock.clock()).rng(Rng::seeded(1));
        let answers = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&answers);
        let service = service_fn(move |_: Request<String>| {
            let ill = count.fetch_add(1, Ordering::Relaxed) % 3 == 1;
            async move {
                let answer = http::Response::builder();
                let answer = if ill {
                    answer.status(503).header("retry-after", "5")
                } else {
                    answer
                };
                Ok::<_, std::io::Error>(answer.body(String::new()).expect("valid"))
            }
        });
        let client = pipeline.layer(service);
        let executor = evenkeel::testing::Executor::new(&clock);
        let calls: Vec<_> = (0..600_u32)
            .map(|call| {
                let (clock, client) = (clock.clone(), client.clone());
                executor.spawn(async move {
                    let begin = clock.now() + ms(20) * call;
                    let why = evenkeel::clock::Why::Other;
                    clock.clock().sleep_until(begin, why).await;
                    let request = request(Method::POST);
                    client.oneshot(request).await.map(|it| it.status().as_u16())
                })
            })
            .collect();
        assert_eq!(executor.run(), 0);
        let good = calls
            .iter()
            .filter(|call| matches!(call.take(), Some(Ok(200))))
            .count();
        assert_eq!(good, 400);
        assert_eq!(clock.elapsed(), ms(20) * 599, "nobody waited");
    }
}

#[test]
fn a_call_that_sends_nothing_earns_nothing() {
    let clock = ManualClock::new();
    let unavailable = Reply::status(503).header("retry-after", "200");
    let service = ScriptedService::new(&clock, [unavailable]);
    let pipeline = http(&clock);
    let client = pipeline.clone().layer(service.clone());
    for _ in 0..100 {
        let _ = block_on(&clock, client.clone().oneshot(request(Method::POST)));
    }
    assert_eq!(service.seen().len(), 1);
    let budget = pipeline.budget().expect("it has one").snapshot();
    assert_eq!(budget.first_attempts, 1);
}

#[test]
fn a_hint_past_what_is_believed_holds_nobody() {
    let clock = ManualClock::new();
    let unavailable = Reply::status(503).header("retry-after", "301");
    let service = ScriptedService::new(&clock, [unavailable, Reply::status(200)]);
    let client = http(&clock).layer(service);
    let told = block_on(&clock, client.clone().oneshot(request(Method::GET)));
    assert_eq!(told.expect("a response").status(), 503);
    let next = block_on(&clock, client.oneshot(request(Method::GET)));
    assert_eq!(next.expect("a response").status(), 200);
    assert_eq!(clock.elapsed(), Duration::ZERO);
}

/// Asks for more than it has: its body never ends.
#[derive(Clone)]
struct Stalling(ManualClock);

impl Service<Request<String>> for Stalling {
    type Response = http::Response<Never>;
    type Error = std::io::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<String>) -> Self::Future {
        let clock = self.0.clone();
        Box::pin(async move {
            let end = clock.now() + ms(95);
            clock
                .clock()
                .sleep_until(end, evenkeel::clock::Why::Other)
                .await;
            let answer = http::Response::builder().status(503).body(Never);
            Ok(answer.expect("valid"))
        })
    }
}

struct Never;

impl http_body::Body for Never {
    type Data = &'static [u8];
    type Error = std::io::Error;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
        Poll::Pending
    }
}

#[test]
fn reading_a_rejected_body_ends_at_its_limit_and_at_the_deadline() {
    for (deadline, ended) in [(100, 100), (1000, 145 + 95)] {
        let clock = ManualClock::new();
        let pipeline = Pipeline::http()
            .deadline(ms(deadline))
            .retry(Retry::constant(Duration::from_nanos(1)).max_attempts(2))
            .clock(clock.clock());
        let client = pipeline.layer(Stalling(clock.clone()));
        let _ = block_on(&clock, client.oneshot(request(Method::GET)));
        assert_eq!(clock.elapsed(), ms(ended));
    }
}

#[test]
fn a_call_dropped_while_held_draining_or_unready_gives_back_all_it_held() {
    let clock = ManualClock::new();
    let pipeline = Pipeline::http()
        .retry(
            Retry::constant(ms(1))
                .max_attempts(2)
                .budget(evenkeel::Budget::default().capacity(5)),
        )
        .clock(clock.clock());
    let budget = pipeline.budget().expect("it has one").clone();
    let limit = ConcurrencyLimit::new(Stalling(clock.clone()), 1);
    let client = pipeline.layer(limit.clone());
    for polls in 0..8 {
        let mut call = Box::pin(client.clone().oneshot(request(Method::GET)));
        for _ in 0..polls {
            let waker = std::task::Waker::noop();
            if call
                .as_mut()
                .poll(&mut Context::from_waker(waker))
                .is_ready()
            {
                break;
            }
            clock.advance_to_next();
        }
        drop(call);
        assert!(
            clock.pending().is_empty(),
            "a timer lives on after {polls} polls"
        );
        let snapshot = budget.snapshot();
        let spent = snapshot.extra_attempts;
        let left = snapshot.available + f64::from(u32::try_from(spent).expect("few"));
        assert!(
            (5.0..6.0).contains(&left),
            "after {polls} polls: {snapshot:?}"
        );
        // The permit is back: the next call can have it at once.
        let mut free = limit.clone();
        let ready = free.poll_ready(&mut Context::from_waker(std::task::Waker::noop()));
        assert!(ready.is_ready(), "a permit is lost after {polls} polls");
    }
}

#[test]
fn the_callers_deadline_comes_with_the_request_and_goes_on_in_a_header() {
    let clock = ManualClock::new();
    let replies = [Reply::status(503).after(ms(1500)), Reply::status(200)];
    let service = ScriptedService::new(&clock, replies);
    let name = http::HeaderName::from_static("x-time-left-ms");
    let pipeline = http(&clock)
        .retry(Retry::constant(ms(500)))
        .classify(evenkeel::http::Http::new().deadline_header(name.clone()));
    let mut request = request(Method::GET);
    let deadline = Deadline::after(clock.now(), ms(4000));
    request.extensions_mut().insert(deadline);
    let response = block_on(&clock, pipeline.layer(service.clone()).oneshot(request));
    assert_eq!(response.expect("a response").status(), 200);
    let told: Vec<_> = service
        .seen()
        .iter()
        .map(|it| it.headers[&name].clone())
        .collect();
    assert_eq!(told, ["4000", "2000"]);
}

#[test]
fn any_cloneable_request_goes_through_a_plain_pipeline() {
    let clock = ManualClock::new();
    let calls = AtomicUsize::new(0);
    let echo = service_fn(|text: String| {
        let call = calls.fetch_add(1, Ordering::Relaxed);
        async move { if call == 0 { Err("busy") } else { Ok(text) } }
    });
    let pipeline: Pipeline<EveryError> = Pipeline::new()
        .retry(Retry::constant(ms(1)))
        .clock(clock.clock());
    let got = block_on(&clock, pipeline.layer(echo).oneshot("hello".to_owned()));
    assert_eq!(got, Ok("hello".to_owned()));
}

#[test]
fn a_request_is_not_copied_where_no_retry_could_follow() {
    static COPIES: AtomicUsize = AtomicUsize::new(0);

    struct Counted;

    impl Clone for Counted {
        fn clone(&self) -> Self {
            COPIES.fetch_add(1, Ordering::Relaxed);
            Self
        }
    }

    let clock = ManualClock::new();
    let refuse = || service_fn(|_: Counted| async { Err::<(), _>("down") });
    for (attempts, copies) in [(1, 0), (2, 1), (4, 3)] {
        COPIES.store(0, Ordering::Relaxed);
        let retry = Retry::constant(ms(1)).max_attempts(attempts);
        let pipeline = Pipeline::new().retry(retry).clock(clock.clock());
        let _ = block_on(&clock, pipeline.layer(refuse()).oneshot(Counted));
        assert_eq!(COPIES.load(Ordering::Relaxed), copies);
    }
}

/// Tells the window that the service asked for quiet.
fn hush(window: &Window, length: Duration, now: Instant) {
    let permit = window.try_acquire(now).expect("it is open");
    let verdict = Verdict::new(Kind::Overloaded).hint(Hint::After(length));
    permit.record(verdict, ms(1), now).expect("it is told");
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

type Boxed = tower::util::BoxCloneServiceLayer<Limited, u32, u32, evenkeel::Error<&'static str>>;
type Plain = tower::util::BoxCloneService<u32, u32, evenkeel::Error<&'static str>>;

/// Each policy as a layer, whether a call that comes now has to wait, and all of them together.
fn layers(clogged: bool) -> Vec<(&'static str, Boxed)> {
    fn boxed<L>(layer: L) -> Boxed
    where
        L: Layer<Limited> + Send + Sync + 'static,
        L::Service: Service<u32, Response = u32, Error = evenkeel::Error<&'static str>>
            + Clone
            + Send
            + Sync
            + 'static,
        <L::Service as Service<u32>>::Future: Send + 'static,
    {
        tower::util::BoxCloneServiceLayer::new(layer)
    }
    let bulkhead = Bulkhead::new(2).queue(9);
    let rate = RateLimit::per_second(1).burst(20);
    let window = Window::new();
    if clogged {
        // For ever.
        for _ in 0..2 {
            std::mem::forget(bulkhead.try_acquire());
        }
        for _ in 0..20 {
            rate.try_acquire(now()).expect("the burst");
        }
        hush(&window, ms(5000), now());
    }
    let retry = Retry::constant(ms(1000)).max_attempts(2);
    let all = Pipeline::new()
        .retry(retry.clone())
        .throttle(Throttle::new())
        .bulkhead(Bulkhead::new(9))
        .window(window.clone())
        .rate_limit(rate.clone())
        .breaker(Breaker::new())
        .timeout(ms(10_000));
    let mut layers = vec![
        ("bulkhead", boxed(bulkhead)),
        ("rate", boxed(rate)),
        ("window", boxed(window)),
        ("all", boxed(all)),
        ("retry", boxed(retry)),
    ];
    if !clogged {
        layers.push(("breaker", boxed(Breaker::new())));
        layers.push(("throttle", boxed(Throttle::new())));
    }
    layers
}

type Limited = ConcurrencyLimit<Service1>;

/// Answers in 10 ms, and says no to zero.
#[derive(Clone)]
struct Service1;

impl Service<u32> for Service1 {
    type Response = u32;
    type Error = &'static str;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<u32, &'static str>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, number: u32) -> Self::Future {
        Box::pin(async move {
            tokio::time::sleep(ms(10)).await;
            if number == 0 { Err("zero") } else { Ok(number) }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_in_any_line_holds_no_readiness_of_the_service_behind() {
    for (name, layer) in layers(true) {
        let permits = Arc::new(tokio::sync::Semaphore::new(1));
        let limit = GlobalConcurrencyLimitLayer::with_semaphore(Arc::clone(&permits));
        let limited = limit.layer(Service1);
        let mut service: Plain = layer.layer(limited.clone());
        let waker = Waker::noop();
        let mut cx = Context::from_waker(waker);
        let mut waiting = Vec::new();
        for _ in 0..3 {
            let ready = service.ready().await.expect("the service behind is free");
            let mut call = Box::pin(ready.call(0));
            // A retry waits only after its first attempt.
            for _ in 0..20 {
                assert!(call.as_mut().poll(&mut cx).is_pending(), "{name}");
                tokio::time::advance(ms(1)).await;
            }
            assert_eq!(permits.available_permits(), 1, "{name}");
            waiting.push(call);
        }
        let direct = tokio::time::timeout(ms(20), limited.oneshot(7)).await;
        assert_eq!(direct.expect("nobody is in the way"), Ok(7), "{name}");
        drop(waiting);
        assert_eq!(permits.available_permits(), 1, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_layer_works_over_a_concurrency_limit_a_buffer_and_load_shed_with_clones() {
    for (name, layer) in layers(false) {
        let permits = Arc::new(tokio::sync::Semaphore::new(1));
        let limit = GlobalConcurrencyLimitLayer::with_semaphore(Arc::clone(&permits));
        let service: Plain = layer.layer(limit.layer(Service1));
        let _idle: Vec<_> = (0..5).map(|_| service.clone()).collect();
        let busy: Vec<_> = (1..9)
            .map(|number| tokio::spawn(service.clone().oneshot(number)))
            .collect();
        for (number, task) in (1..).zip(busy) {
            assert_eq!(task.await.expect("no panic"), Ok(number), "{name}");
        }
        assert!(service.clone().oneshot(0).await.is_err(), "{name}");
        assert_eq!(permits.available_permits(), 1, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn parked_calls_take_no_place_in_a_buffer_and_load_shed_sheds_only_what_runs() {
    let window = Window::new();
    hush(&window, ms(5000), now());
    let buffered = ServiceBuilder::new().buffer(1).service(Service1);
    let service = Pipeline::new()
        .window(window.clone())
        .layer(buffered.clone());
    let mut ready = service.clone();
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut call = Box::pin(ready.ready().await.expect("there is room").call(1));
        let waker = Waker::noop();
        let mut cx = Context::from_waker(waker);
        assert!(call.as_mut().poll(&mut cx).is_pending());
        waiting.push(call);
    }
    let direct = tokio::time::timeout(ms(100), buffered.oneshot(7)).await;
    assert_eq!(direct.expect("nobody is in the way").expect("goes"), 7);
    drop(waiting);

    let shedding = ServiceBuilder::new()
        .load_shed()
        .concurrency_limit(1)
        .service(Service1);
    let parked = Pipeline::new().window(window).layer(shedding.clone());
    let waiting = tokio::spawn(parked.oneshot(1));
    tokio::time::sleep(ms(1)).await;
    assert_eq!(shedding.oneshot(7).await.expect("not shed"), 7);
    assert_eq!(waiting.await.expect("no panic").expect("its turn comes"), 1);
}

#[test]
fn a_quota_told_by_a_good_answer_paces_what_follows() {
    let clock = ManualClock::new();
    let told = Reply::status(200).header("ratelimit", r#""default";r=2;t=10"#);
    let service = ScriptedService::new(&clock, [told, Reply::status(200)]);
    let limits = Keyed::new(RateLimit::per_second(1000).burst(100));
    let client = http(&clock).rate_limit(limits).layer(service.clone());
    for _ in 0..4 {
        let got = block_on(&clock, client.clone().oneshot(request(Method::GET)));
        assert_eq!(got.expect("a response").status(), 200);
    }
    let at: Vec<_> = service.seen().iter().map(|it| it.at).collect();
    // Two are left for ten seconds.
    assert_eq!(at, [ms(0), ms(0), ms(5000), ms(10_000)]);
    let elsewhere = Request::get("http://other/").body(String::new());
    let elsewhere = client.oneshot(elsewhere.expect("valid"));
    block_on(&clock, elsewhere).expect("a response");
    assert_eq!(clock.elapsed(), ms(10_000));
}

#[test]
fn the_wall_clock_is_read_for_a_quota_only_where_a_response_tells_a_moment() {
    for (headers, reads) in [
        (&[][..], 0),
        (&[("ratelimit", r#""default";r=2;t=10"#)][..], 0),
        // A moment is told, and the response has no `Date`.
        (
            &[
                ("x-ratelimit-remaining", "2"),
                ("x-ratelimit-reset", "4000000000"),
            ][..],
            1,
        ),
    ] {
        let (clock, walls) = (ManualClock::new(), Arc::default());
        let told = headers
            .iter()
            .fold(Reply::status(200), |reply, (name, value)| {
                reply.header(*name, *value)
            });
        let service = ScriptedService::new(&clock, [told]);
        let counted = Clock::custom(Walls(clock.clock(), Arc::clone(&walls)));
        let limit = RateLimit::per_second(1000);
        let client = http(&clock).clock(counted).rate_limit(limit).layer(service);
        block_on(&clock, client.oneshot(request(Method::GET))).expect("a response");
        assert_eq!(walls.load(Ordering::Relaxed), reads, "{headers:?}");
    }
}

/// Counts how often the wall clock is read.
struct Walls(Clock, Arc<AtomicU32>);

impl Runtime for Walls {
    fn now(&self) -> Instant {
        self.0.now()
    }

    fn wall(&self) -> SystemTime {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.wall()
    }

    fn sleep_until(&self, at: Instant, why: Why) -> BoxSleep {
        Box::pin(self.0.sleep_until(at, why))
    }
}

#[test]
fn a_429_with_retry_after_pauses_the_rate_of_that_host() {
    let clock = ManualClock::new();
    let told = Reply::status(429).header("retry-after", "3");
    let service = ScriptedService::new(&clock, [told, Reply::status(200)]);
    let limits = Keyed::new(RateLimit::per_second(1000).burst(100));
    let pipeline = http(&clock).no_window().rate_limit(limits);
    let client = pipeline.layer(service.clone());
    // A POST isn't repeated, but what it was told counts.
    let mut post = request(Method::POST);
    post.extensions_mut().insert(Idempotent(false));
    let got = block_on(&clock, client.clone().oneshot(post)).expect("a response");
    assert_eq!(got.status(), 429);
    let got = block_on(&clock, client.oneshot(request(Method::POST))).expect("a response");
    assert_eq!(got.status(), 200);
    // With a spread of an interval at most.
    assert!(
        (ms(3000)..=ms(3001)).contains(&clock.elapsed()),
        "{:?}",
        clock.elapsed()
    );
    let parked = got
        .extensions()
        .get::<Report>()
        .expect("it waited")
        .parked();
    assert_eq!(parked, clock.elapsed());
}

#[test]
fn the_priority_comes_with_the_request() {
    let clock = ManualClock::new();
    let throttle = Throttle::new();
    for call in 0..1000 {
        let permit = throttle.try_acquire(Priority::Critical, clock.now(), || u64::MAX);
        let kind = if call % 20 < 9 {
            Kind::Overloaded
        } else {
            Kind::Success
        };
        let _ = permit.expect("not shed").record(kind, clock.now());
    }
    let service = ScriptedService::new(&clock, [Reply::status(200)]);
    let client = http(&clock).throttle(throttle).layer(service);
    let shed = |priority: Option<Priority>| {
        let calls = (0..60).filter(|_| {
            let mut request = request(Method::GET);
            if let Some(priority) = priority {
                request.extensions_mut().insert(priority);
            }
            block_on(&clock, client.clone().oneshot(request)).is_err()
        });
        calls.count()
    };
    assert_eq!(shed(Some(Priority::Critical)), 0);
    assert_eq!(shed(None), 0);
    assert!(shed(Some(Priority::Sheddable)) > 0);
}

/// Requests name a service, and responses the one that answered.
#[derive(Clone)]
struct Redirecting;

#[derive(Clone, Copy)]
struct Answer {
    from: &'static str,
    overloaded: bool,
    /// It says that nothing is left of its service's quota.
    spent: bool,
}

impl Classify<Answer, Infallible> for Redirecting {
    fn classify(&self, outcome: Result<&Answer, &Infallible>) -> Verdict {
        match outcome {
            Ok(Answer { overloaded, .. }) if *overloaded => {
                Verdict::new(Kind::Overloaded).hint(Hint::After(ms(5000)))
            }
            _ => Verdict::success(),
        }
    }
}

impl Protocol<&'static str, Answer> for Redirecting {
    type Saved = &'static str;
    type Discard = Ready<()>;

    fn save(&self, request: &mut &'static str) -> Option<&'static str> {
        Some(request)
    }

    fn restore(&self, saved: &'static str) -> &'static str {
        saved
    }

    fn discard(&self, _: Answer) -> Ready<()> {
        ready(())
    }

    fn key(&self, request: &&'static str) -> Option<Key> {
        Some(Key::of(request))
    }

    fn answered_by(&self, answer: &Answer) -> Option<Key> {
        Some(Key::of(answer.from))
    }

    fn quota(&self, answer: &Answer, _: &Clock) -> Option<evenkeel::http::Quota> {
        let mut headers = http::HeaderMap::new();
        headers.insert("ratelimit", r#""default";r=0;t=60"#.parse().expect("valid"));
        evenkeel::http::quota(&headers, std::time::UNIX_EPOCH).filter(|_| answer.spent)
    }
}

#[test]
fn after_a_redirect_what_was_said_is_of_the_service_that_said_it() {
    let clock = ManualClock::new();
    let windows = Keyed::new(Window::new());
    let limits = Keyed::new(RateLimit::per_second(1000).burst(100));
    let breakers = Keyed::new(Breaker::new().consecutive_failures(1));
    let answer = Answer {
        from: "b",
        overloaded: true,
        spent: true,
    };
    let service = service_fn(move |_: &'static str| async move { Ok::<_, Infallible>(answer) });
    let client = Pipeline::new()
        .classify(Redirecting)
        .window(windows.clone())
        .rate_limit(limits.clone())
        .breaker(breakers.clone())
        .clock(clock.clock())
        .layer(service);
    let got = block_on(&clock, client.oneshot("a")).expect("the last answer");
    assert!(got.overloaded);
    let quiet = |name: &'static str| {
        let window = windows.peek(Key::of(name)).expect("known");
        window.snapshot().quiet_until
    };
    assert_eq!(quiet("a"), None);
    assert_eq!(quiet("b"), Some(clock.now() + ms(5000)));
    let rate = limits.peek(Key::of("a")).expect("known");
    assert!(
        rate.snapshot(clock.now()).available > 1,
        "that wasn't its quota"
    );
    let breaker = breakers.peek(Key::of("a")).expect("known");
    assert!(breaker.try_acquire(clock.now(), &Rng::seeded(1)).is_ok());
}

#[test]
fn a_quota_that_a_good_answer_tells_is_of_the_service_that_gave_it() {
    for (from, is_its_own) in [("a", true), ("b", false)] {
        let clock = ManualClock::new();
        let limit = RateLimit::per_second(1000).burst(100);
        let answer = Answer {
            from,
            overloaded: false,
            spent: true,
        };
        let service = service_fn(move |_: &'static str| async move { Ok::<_, Infallible>(answer) });
        let limits = Keyed::new(limit);
        let client = Pipeline::new()
            .classify(Redirecting)
            .rate_limit(limits.clone())
            .clock(clock.clock());
        let client = client.layer(service);
        assert!(block_on(&clock, client.oneshot("a")).is_ok());
        let rate = limits.peek(Key::of("a")).expect("known");
        let available = rate.snapshot(clock.now()).available;
        assert_eq!(available <= 1, is_its_own, "{from}: {available}");
    }
}

#[test]
fn a_refused_call_holds_no_readiness_though_nobody_dropped_it_yet() {
    let clock = ManualClock::new();
    let breaker = Breaker::new();
    breaker.force_open(clock.now());
    let permits = Arc::new(tokio::sync::Semaphore::new(1));
    let limit = GlobalConcurrencyLimitLayer::with_semaphore(Arc::clone(&permits));
    let limited = limit.layer(Service1);
    let pipeline = Pipeline::new().breaker(breaker).clock(clock.clock());
    let mut service = pipeline.layer(limited);
    let waker = Waker::noop();
    let mut cx = Context::from_waker(waker);
    let ready: Poll<Result<(), _>> = Service::<u32>::poll_ready(&mut service, &mut cx);
    assert!(ready.is_ready());
    let mut call = Box::pin(service.call(1));
    assert!(matches!(call.as_mut().poll(&mut cx), Poll::Ready(Err(_))));
    assert_eq!(permits.available_permits(), 1);
}

#[test]
fn promise_7_every_attempt_sends_the_whole_request() {
    let clock = ManualClock::new();
    let model = |uri: &str| {
        let request = Request::put(uri)
            .header("accept", "text/plain")
            .header("x-many", "one")
            .header("authorization", "secret")
            .header("x-many", "two")
            .extension(Idempotent(true))
            .version(http::Version::HTTP_2);
        let mut request = request.body("body".to_owned()).expect("valid");
        let secret = request.headers_mut().get_mut("authorization");
        secret.expect("put in").set_sensitive(true);
        request
    };
    let retry = || Retry::constant(Duration::ZERO).max_attempts(4);
    let uris = [
        "http://service:8080/path?query",
        "https://me@Service",
        "ftp://service/file",
        "/path",
    ];
    // The first may be withheld; the request itself is sent first, and then what was kept of it.
    for (uri, is_withheld) in uris.iter().flat_map(|uri| [(uri, false), (uri, true)]) {
        let reset_first = || Chaos::new().next(1, evenkeel::chaos::Fault::Reset);
        let chaos = is_withheld.then(reset_first);
        let sent = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&sent);
        let client = service_fn(move |request: Request<String>| {
            log.lock().unwrap().push(request);
            ready(Err::<http::Response<String>, _>(std::io::Error::from(
                std::io::ErrorKind::ConnectionReset,
            )))
        });
        let calls = if chaos.is_some() { 3 } else { 4 };
        let pipeline = http(&clock).no_window().retry(retry());
        let pipeline = match chaos {
            Some(chaos) => pipeline.chaos(chaos),
            None => pipeline,
        };
        let result = block_on(&clock, pipeline.layer(client).oneshot(model(uri)));
        assert_eq!(result.unwrap_err().attempts(), 4);
        let sent = sent.lock().unwrap();
        assert_eq!(sent.len(), calls);
        for request in &*sent {
            let model = model(uri);
            assert_eq!(request.method(), model.method());
            assert_eq!(request.uri(), model.uri());
            assert_eq!(request.version(), model.version());
            assert_eq!(request.body(), model.body());
            assert_eq!(request.extensions().get(), Some(&Idempotent(true)));
            assert!(request.headers().iter().eq(model.headers().iter()));
            assert!(request.headers()["authorization"].is_sensitive());
        }
    }
}

#[test]
fn a_request_that_a_later_attempt_changes_is_sent_unchanged_by_the_next() {
    let clock = ManualClock::new();
    let header = http::HeaderName::from_static("x-attempt");
    let sent = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&sent);
    let client = service_fn(move |request: Request<String>| {
        let all = request.headers().get_all("x-attempt").iter();
        let all: Vec<_> = all.map(|it| it.to_str().unwrap().to_owned()).collect();
        log.lock().unwrap().push((all, request.headers().len()));
        ready(Err::<http::Response<String>, _>(std::io::Error::from(
            std::io::ErrorKind::ConnectionReset,
        )))
    });
    let classify = evenkeel::http::Http::new().attempt_header(header);
    let pipeline = http(&clock)
        .classify(classify)
        .retry(Retry::constant(Duration::ZERO));
    let mut request = request(Method::GET);
    request
        .headers_mut()
        .insert("accept", "text/plain".parse().unwrap());
    let result = block_on(&clock, pipeline.layer(client).oneshot(request));
    assert_eq!(result.unwrap_err().attempts(), 3);
    let told = |number: &str| (vec![number.to_owned()], 2);
    assert_eq!(*sent.lock().unwrap(), [told("1"), told("2"), told("3")]);
}

#[test]
fn which_service_a_request_goes_to_is_asked_once() {
    let clock = ManualClock::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let classify = evenkeel::http::Http::new().key_by(move |target| {
        count.fetch_add(1, Ordering::Relaxed);
        Some(Key::of(target.host()))
    });
    let pipeline = http(&clock)
        .classify(classify)
        .breaker(Keyed::new(Breaker::new()))
        .retry(Retry::constant(Duration::ZERO).max_attempts(2));
    let client = ScriptedService::new(&clock, [Reply::status(503), Reply::status(503)]);
    let response = block_on(&clock, pipeline.layer(client).oneshot(request(Method::GET)));
    assert_eq!(response.unwrap().status(), 503);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[test]
fn a_body_that_was_lost_before_a_readiness_error_is_not_sent_again() {
    /// Of unknown length.
    struct Pieces(u8);

    impl http_body::Body for Pieces {
        type Data = bytes::Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, Infallible>>> {
            if self.0 == 0 {
                return Poll::Ready(None);
            }
            self.0 -= 1;
            Poll::Ready(Some(Ok(http_body::Frame::data(bytes::Bytes::from_static(
                b"piece",
            )))))
        }
    }

    /// The first attempt is refused before its body is read; its connection reads it all afterwards, and
    /// then there is none for the second attempt.
    #[derive(Clone, Default)]
    struct Slow {
        asked: Arc<AtomicU32>,
        held: Arc<std::sync::Mutex<Option<Replay<Pieces>>>>,
    }

    impl Service<Request<Replay<Pieces>>> for Slow {
        type Response = http::Response<String>;
        type Error = std::io::Error;
        type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>>>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            if self.asked.fetch_add(1, Ordering::Relaxed) == 0 {
                let held = self.held.lock().unwrap().take().expect("sent once");
                let mut read = Box::pin(held.collect());
                assert!(
                    read.as_mut()
                        .poll(&mut Context::from_waker(Waker::noop()))
                        .is_ready()
                );
                return Poll::Ready(Err(std::io::ErrorKind::ConnectionRefused.into()));
            }
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<Replay<Pieces>>) -> Self::Future {
            let held = Arc::clone(&self.held);
            let is_first = self.asked.load(Ordering::Relaxed) == 0;
            Box::pin(async move {
                let body = request.into_body();
                if is_first {
                    *held.lock().unwrap() = Some(body);
                    return Err(std::io::ErrorKind::ConnectionRefused.into());
                }
                match body.collect().await {
                    Ok(_) => Ok(http::Response::new(String::new())),
                    Err(error) => Err(std::io::Error::other(error)),
                }
            })
        }
    }

    let clock = ManualClock::new();
    let pipeline = http(&clock).retry(Retry::constant(ms(0)).max_attempts(3));
    let slow = Slow::default();
    let mut service = ServiceBuilder::new()
        .layer(ReplayLayer::new().limit(8))
        .layer(pipeline)
        .service(slow);
    let request = Request::put("http://a/").body(Pieces(4)).unwrap();
    let call = service.call(request);
    let error = block_on(&clock, call).expect_err("refused");
    assert_eq!(
        (error.attempts(), error.report().stop()),
        (2, Some(Stop::NotReplayable)),
        "{error:?}"
    );
}
