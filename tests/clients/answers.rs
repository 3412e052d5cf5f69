//! Responses: which are repeated, when, and how the last one comes back.

use std::time::Duration;

use evenkeel::http::Http;
use evenkeel::report::{Stop, WaitReason};
use evenkeel::testing::Received;
use evenkeel::verdict::{Label, Processed};
use http::{HeaderName, HeaderValue, Method, Version};

use crate::support::{Door, Scene, Way, bodies, every_way, ms, ok, status};

#[tokio::test]
async fn a_503_and_then_a_200_is_a_200() {
    every_way(async |way| {
        let scene = way.against([status(503), ok()]).await;
        let outcome = scene.get().await;
        assert_eq!((outcome.status(), outcome.body()), (200, OK));
        assert_eq!(scene.requests(), 2);
        assert_eq!(outcome.retries(), 1);
    })
    .await;
}

#[tokio::test]
async fn promise_5_no_retry_begins_before_what_the_server_asked_for() {
    every_way(async |way| {
        for (code, name, value, least) in [
            (503, "retry-after-ms", "30", ms(30)),
            (429, "retry-after-ms", "40", ms(40)),
            (429, "x-ratelimit-reset-after", "0.05", ms(50)),
        ] {
            let busy = status(code).header(name, value);
            let scene = way.against([busy.clone(), busy, ok()]).await;
            assert_eq!(scene.get().await.status(), 200);
            let waits = waits(&scene);
            assert_eq!(waits.len(), 2);
            assert!(waits.iter().all(|wait| *wait >= least), "{name}: {waits:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn promise_5_retry_after_counts_in_whole_seconds() {
    // One second is the shortest there is, so one way has to do.
    let (door, version) = (Door::Hyper, Version::HTTP_11);
    let way = Way { door, version };
    let busy = status(503).header("retry-after", "1");
    let scene = way.against([busy, ok()]).await;
    let outcome = scene.get().await;
    assert_eq!(outcome.status(), 200);
    assert!(waits(&scene)[0] >= Duration::from_secs(1));
    let report = outcome.report.expect("it took two attempts");
    let wait = report.failures()[0].wait().expect("another followed");
    assert_eq!(wait.reason(), WaitReason::ServerHint);
}

#[tokio::test]
async fn promise_5_a_hint_past_the_deadline_ends_the_call_at_once() {
    every_way(async |way| {
        let busy = status(503).header("retry-after", "60").body("closed");
        let scene = way.against([busy, ok()]).await;
        let outcome = scene.get().await;
        assert_eq!((outcome.status(), outcome.body()), (503, &b"closed"[..]));
        assert_eq!(scene.requests(), 1);
        assert_eq!(outcome.stop(), Some(Stop::DeadlineTooClose));
        assert_eq!(outcome.retry_after(), Some(Duration::from_secs(60)));
        if way.door != Door::ReqwestInClosure {
            let report = outcome.report.expect("the response is a failure");
            assert_eq!(report.retry_after(), Some(Duration::from_secs(60)));
            assert!(report.retry_at().is_some());
        }
    })
    .await;
}

#[tokio::test]
async fn promise_6_what_one_call_was_told_holds_for_the_next() {
    every_way(async |way| {
        if way.door == Door::ReqwestInClosure {
            // Where a closure sends its requests only the caller knows.
            return;
        }
        let busy = status(503).header("retry-after-ms", "50");
        let scene = way.against([busy, ok()]).await;
        let scene = scene.with(|pipeline| pipeline);
        assert_eq!(scene.post().await.status(), 503);
        assert_eq!(scene.get().await.status(), 200);
        let waits = waits(&scene);
        assert!(waits[0] >= ms(50), "{waits:?}");
    })
    .await;
}

#[tokio::test]
async fn promise_7_an_idempotent_request_goes_again_after_what_may_pass() {
    every_way(async |way| {
        for code in [408, 421, 425, 429, 500, 502, 503, 504, 529] {
            let scene = way.against([status(code), ok()]).await;
            assert_eq!(scene.get().await.status(), 200, "{code}");
            assert_eq!(scene.requests(), 2, "{code}");
        }
        for method in [Method::DELETE, Method::HEAD, Method::OPTIONS, Method::PUT] {
            let scene = way.against([status(503), ok()]).await;
            let outcome = scene.send(scene.request(method.clone(), "")).await;
            assert_eq!(outcome.status(), 200, "{method}");
            assert_eq!(scene.requests(), 2, "{method}");
        }
    })
    .await;
}

#[tokio::test]
async fn promise_7_what_may_have_been_processed_goes_again_only_if_idempotent() {
    every_way(async |way| {
        let posts = [408, 429, 500, 502, 503, 504, 529].map(|code| (Method::POST, code));
        for (method, code) in posts.into_iter().chain([(Method::PATCH, 503)]) {
            let scene = way.against([status(code).body("why"), ok()]).await;
            let outcome = scene.send(scene.request(method, "an order")).await;
            assert_eq!((outcome.status(), outcome.body()), (code, &b"why"[..]));
            assert_eq!(scene.requests(), 1);
            assert_eq!(outcome.stop(), Some(Stop::NotSafe(Processed::Maybe)));
        }
    })
    .await;
}

#[tokio::test]
async fn promise_7_what_was_provably_not_processed_goes_again_whatever_it_is() {
    every_way(async |way| {
        let refused = "edge; error=connection_refused";
        for proof in [
            status(421),
            status(425),
            status(503).header("proxy-status", refused),
            status(502).header("proxy-status", refused),
        ] {
            let scene = way.against([proof, ok()]).await;
            assert_eq!(scene.post().await.status(), 200);
            assert_eq!(bodies(&scene.server), ["an order", "an order"]);
        }
        let unsure = "edge; error=connection_terminated";
        let scene = way.against([status(502).header("proxy-status", unsure), ok()]);
        assert_eq!(scene.await.post().await.status(), 502);
    })
    .await;
}

#[tokio::test]
async fn promise_7_an_idempotency_key_lets_a_post_go_again_with_its_body_whole() {
    every_way(async |way| {
        let scene = way.against([status(503), status(504), ok()]).await;
        let mut request = scene.request(Method::POST, "an order");
        let key = HeaderValue::from_static("\"7\"");
        request.headers_mut().insert(KEY, key);
        assert_eq!(scene.send(request).await.status(), 200);
        assert_eq!(bodies(&scene.server), ["an order"; 3]);
        let keys = scene.received();
        assert!(keys.iter().all(|request| request.headers()[KEY] == "\"7\""));
    })
    .await;
}

#[tokio::test]
async fn what_will_not_pass_is_not_repeated() {
    every_way(async |way| {
        for code in [400, 401, 404, 409, 501, 505, 511] {
            let scene = way.against([status(code).body("no"), ok()]).await;
            let outcome = scene.get().await;
            assert_eq!((outcome.status(), outcome.body()), (code, &b"no"[..]));
            assert_eq!(scene.requests(), 1);
            assert_eq!(outcome.stop(), Some(Stop::NotRetryable));
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_that_forbids_it_is_not_asked_again() {
    every_way(async |way| {
        let never = status(503).header("x-should-retry", "false").body("no");
        let scene = way.against([never, ok()]).await;
        let outcome = scene.get().await;
        assert_eq!((outcome.status(), outcome.body()), (503, &b"no"[..]));
        assert_eq!(scene.requests(), 1);
        assert_eq!(outcome.stop(), Some(Stop::ServerForbade));
    })
    .await;
}

#[tokio::test]
async fn promise_9_the_last_response_comes_back_unchanged_with_a_report() {
    every_way(async |way| {
        let page = |text: &'static str| status(503).body(text);
        let scene = way.against([page("a"), page("b"), page("c"), ok()]).await;
        let outcome = scene.get().await;
        assert_eq!((outcome.status(), outcome.body()), (503, &b"c"[..]));
        assert_eq!(scene.requests(), 3);
        assert_eq!(outcome.stop(), Some(Stop::AttemptsExhausted));
        if way.door == Door::ReqwestInClosure {
            // What a closure returns is its own, and has no place for a report.
            assert!(outcome.report.is_none());
            return;
        }
        let report = outcome.report.expect("the response is a failure");
        assert_eq!(report.attempts(), 3);
        assert_eq!(report.stop(), Some(Stop::AttemptsExhausted));
        assert_eq!(report.failures().len(), 3);
        for failure in report.failures() {
            assert_eq!(failure.verdict().error_type(), Label::Status(503));
        }
    })
    .await;
}

#[tokio::test]
async fn promise_9_a_success_at_once_brings_no_report() {
    every_way(async |way| {
        let scene = way.against([ok()]).await;
        let outcome = scene.get().await;
        assert_eq!(outcome.status(), 200);
        assert!(outcome.report.is_none());
    })
    .await;
}

#[tokio::test]
async fn every_attempt_tells_the_server_how_much_time_is_left() {
    every_way(async |way| {
        if way.door == Door::ReqwestInClosure {
            // A closure makes its own request, and is told the time left for it.
            return;
        }
        let busy = status(503).header("retry-after-ms", "20");
        let scene = way.against([busy.clone(), busy, ok()]).await;
        let name = HeaderName::from_static("x-time-left");
        let http = Http::new().deadline_header(name.clone());
        let scene = scene.with(|pipeline| pipeline.classify(http).deadline(MINUTE));

        assert_eq!(scene.get().await.status(), 200);
        let left = |request: &Received| -> u64 {
            let value = &request.headers()[&name];
            value.to_str().unwrap().parse().unwrap()
        };
        let left: Vec<_> = scene.received().iter().map(left).collect();
        assert_eq!(left.len(), 3);
        assert!(left[0] <= 60_000, "{left:?}");
        assert!(
            left.windows(2).all(|pair| pair[1] + 20 <= pair[0]),
            "{left:?}"
        );
    })
    .await;
}

/// The times between requests.
fn waits(scene: &Scene) -> Vec<Duration> {
    let received = scene.received();
    let pairs = received.windows(2);
    pairs.map(|pair| pair[1].at() - pair[0].at()).collect()
}

const OK: &[u8] = b"here you are";

const KEY: &str = "idempotency-key";

const MINUTE: Duration = Duration::from_secs(60);
