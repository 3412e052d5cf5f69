//! What each door lets the caller say of one request.

use std::time::Instant;

use bytes::Bytes;
use evenkeel::client::reqwest::SendWith;
use evenkeel::error::Limit;
use evenkeel::http::{ATTEMPT_COUNT, CallerAttempt, Http, Idempotent};
use evenkeel::testing::{Reply, Server};
use evenkeel::{Cause, Deadline, Error, Report, Retry};
use http::{Request, Version};
use http_body_util::Full;
use tower::{ServiceBuilder, ServiceExt};

use crate::support::{Clients, VERSIONS, ms, ok, pipeline, reqwest_builder, status};

#[tokio::test]
async fn promise_2_the_callers_own_deadline_replaces_the_pipelines() {
    for version in VERSIONS {
        let server = Server::scripted([Reply::stall()]).await.unwrap();
        let url = server.url("/");
        let Clients { hyper, reqwest } = Clients::new(version);
        let soon = || Deadline::after(Instant::now(), ms(50));

        let mut request = Request::get(&url).body(Full::<Bytes>::default()).unwrap();
        request.extensions_mut().insert(soon());
        let service = ServiceBuilder::new().layer(pipeline()).service(hyper);
        ended_by_deadline(&service.oneshot(request).await.unwrap_err());

        let sending = reqwest.get(&url).send_with(&pipeline()).until(soon()).await;
        ended_by_deadline(&sending.unwrap_err());

        let pipeline = pipeline().idempotent(true);
        let run = pipeline
            .run(|_| reqwest.get(&url).send())
            .until(soon())
            .await;
        ended_by_deadline(&run.unwrap_err());

        let client = reqwest_middleware::ClientBuilder::new(reqwest).with(pipeline);
        let request = client.build().get(&url).with_extension(soon()).send().await;
        let Err(reqwest_middleware::Error::Middleware(error)) = request else {
            panic!("not the pipeline's error: {request:?}");
        };
        let error = error.downcast_ref::<Error<reqwest_middleware::Error>>();
        ended_by_deadline(error.expect("the pipeline's error"));
    }
}

#[tokio::test]
async fn promise_7_the_caller_can_say_that_a_post_may_be_repeated() {
    for version in VERSIONS {
        let server = Server::with(|request| match request.number() {
            // The first attempt of each call below.
            1 | 3 | 5 => status(503),
            _ => ok(),
        });
        let server = server.await.unwrap();
        let url = server.url("/");
        let Clients { hyper, reqwest } = Clients::new(version);

        let mut request = Request::post(&url).body(Full::from("search")).unwrap();
        request.extensions_mut().insert(Idempotent(true));
        let service = ServiceBuilder::new().layer(pipeline()).service(hyper);
        assert_eq!(service.oneshot(request).await.unwrap().status(), 200);

        let pipeline = pipeline();
        let sending = reqwest.post(&url).send_with(&pipeline).idempotent(true);
        assert_eq!(sending.await.unwrap().status(), 200);

        let client = reqwest_middleware::ClientBuilder::new(reqwest).with(pipeline);
        let request = client.build().post(&url).with_extension(Idempotent(true));
        assert_eq!(request.send().await.unwrap().status(), 200);

        assert_eq!(server.received().len(), 6);
    }
}

#[tokio::test]
async fn attempts_of_the_caller_and_of_a_proxy_count_through_every_door() {
    for version in VERSIONS {
        // Each call's first attempt is answered by a proxy that tried twice.
        let server = Server::with(|request| {
            let counts = request.headers().get(&ATTEMPT_COUNT);
            let first = counts.is_some_and(|it| it == "2");
            status(503).header(ATTEMPT_COUNT.as_str(), if first { "2" } else { "1" })
        });
        let server = server.await.unwrap();
        let url = server.url("/");
        let Clients { hyper, reqwest } = Clients::new(version);
        let pipeline = pipeline()
            .classify(Http::new().attempt_header(ATTEMPT_COUNT.clone()))
            .no_window()
            .retry(Retry::constant(ms(1)).max_attempts(5));

        let mut request = Request::get(&url).body(Full::<Bytes>::default()).unwrap();
        request.extensions_mut().insert(CallerAttempt(2));
        let service = ServiceBuilder::new().layer(pipeline.clone()).service(hyper);
        let response = service.oneshot(request).await.unwrap();
        let attempts = |report: Option<&Report>| report.expect("a report").attempts();
        assert_eq!(attempts(response.extensions().get()), 3);

        let sending = reqwest.get(&url).send_with(&pipeline).caller_attempt(2);
        let response = sending.await.unwrap();
        assert_eq!(attempts(response.extensions().get()), 3);

        let client = reqwest_middleware::ClientBuilder::new(reqwest).with(pipeline);
        let request = client.build().get(&url).with_extension(CallerAttempt(2));
        let response = request.send().await.unwrap();
        assert_eq!(attempts(response.extensions().get()), 3);

        // Of five the caller spent one, and the proxy one more.
        let received = server.received();
        let counts = received
            .iter()
            .map(|it| it.headers()[&ATTEMPT_COUNT].to_str().unwrap());
        let counts: Vec<_> = counts.collect();
        assert_eq!(counts, ["2", "4", "5"].repeat(3));
    }
}

#[tokio::test]
async fn promise_7_the_caller_can_say_that_a_get_may_not_be_repeated() {
    for version in VERSIONS {
        let server = Server::scripted([status(503)]).await.unwrap();
        let url = server.url("/");
        let Clients { hyper, reqwest } = Clients::new(version);

        let mut request = Request::get(&url).body(Full::<Bytes>::default()).unwrap();
        request.extensions_mut().insert(Idempotent(false));
        let service = ServiceBuilder::new().layer(pipeline()).service(hyper);
        assert_eq!(service.oneshot(request).await.unwrap().status(), 503);

        let pipeline = pipeline();
        let sending = reqwest.get(&url).send_with(&pipeline).idempotent(false);
        assert_eq!(sending.await.unwrap().status(), 503);

        let client = reqwest_middleware::ClientBuilder::new(reqwest).with(pipeline);
        let request = client.build().get(&url).with_extension(Idempotent(false));
        assert_eq!(request.send().await.unwrap().status(), 503);

        assert_eq!(server.received().len(), 3);
    }
}

#[tokio::test]
async fn promise_9_a_request_that_can_not_be_built_is_reqwests_own_error() {
    let client = Clients::new(http::Version::HTTP_11).reqwest;
    let error = client
        .get("no address")
        .send_with(&pipeline())
        .await
        .unwrap_err();
    assert!(error.operation().expect("reqwest's own").is_builder());
    assert_eq!(error.attempts(), 0);
}

#[track_caller]
fn ended_by_deadline<E>(error: &Error<E>) {
    let Cause::Elapsed(elapsed) = error.cause() else {
        panic!("not out of time");
    };
    assert_eq!(elapsed.limit(), Limit::Deadline);
    assert!(elapsed.length() <= ms(50));
}

#[tokio::test]
async fn promise_6_after_a_redirect_the_service_that_answered_is_held() {
    let busy = status(503).header("retry-after", "60");
    let target = Server::scripted([busy]).await.expect("a loopback port");
    let away = status(302).header("location", target.url("/moved"));
    let origin = Server::scripted([away, ok()])
        .await
        .expect("a loopback port");
    let client = reqwest_builder(Version::HTTP_11).build().expect("a client");
    let pipeline = pipeline();

    let told = client.get(origin.url("/")).send_with(&pipeline).await;
    assert_eq!(told.expect("a response").status(), 503);
    let well = client.get(origin.url("/")).send_with(&pipeline).await;
    assert_eq!(well.expect("not held").status(), 200);
    let held = client.get(target.url("/")).send_with(&pipeline).await;
    let error = held.expect_err("held past the deadline");
    assert!(matches!(error.cause(), Cause::Rejected(_)), "{error}");
}
