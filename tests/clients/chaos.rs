//! Injected faults, through every door of real clients.

use evenkeel::Cause;
use evenkeel::chaos::{Chaos, Effect, Fault, Injected};
use evenkeel::client::reqwest::SendWith;
use evenkeel::error::Reason;
use evenkeel::report::{Report, Stop};
use evenkeel::testing::Server;
use evenkeel::verdict::Label;
use futures_util::stream;
use http::StatusCode;

use crate::outcome::Failed;
use crate::support::{Clients, VERSIONS, every_way, ms, ok, pipeline};

const BUSY: Fault = Fault::status(StatusCode::SERVICE_UNAVAILABLE);

#[tokio::test]
async fn a_fault_goes_again_through_every_door_as_the_real_one_would() {
    every_way(async |way| {
        for (fault, label, requests) in [
            (BUSY, Label::Status(503), 1),
            (Fault::Connect, Label::Name("injected_connect"), 1),
            (Fault::Reset, Label::Name("injected_reset"), 1),
            // The server did the work, twice.
            (Fault::Lost, Label::Name("injected_lost"), 2),
        ] {
            let chaos = Chaos::new().next(1, Effect::delay(ms(1)).then(fault));
            let scene = way.against([ok(), ok()]).await;
            let scene = scene.with(|pipeline| pipeline.chaos(chaos.clone()));
            let outcome = scene.get().await;
            assert_eq!(outcome.status(), 200, "{fault:?}");
            assert_eq!(outcome.retries(), 1, "{fault:?}");
            assert_eq!(outcome.first_verdict().error_type(), label);
            assert_eq!(scene.requests(), requests, "{fault:?}");
            assert_eq!(chaos.snapshot().injected, 1);
        }
    })
    .await;
}

#[tokio::test]
async fn a_fault_that_may_have_been_processed_ends_a_post_and_a_refused_connection_does_not() {
    every_way(async |way| {
        for (fault, requests) in [(Fault::Reset, 0), (Fault::Lost, 1)] {
            let scene = way.against([ok(), ok()]).await;
            let scene = scene.with(|pipeline| pipeline.chaos(Chaos::new().next(1, fault)));
            let outcome = scene.post().await;
            assert_eq!(outcome.answer.unwrap_err(), Failed::Injected(fault));
            assert_eq!(scene.requests(), requests, "{fault:?}");
        }
        let scene = way.against([ok()]).await;
        let scene = scene.with(|it| it.chaos(Chaos::new().next(1, Fault::Connect)));
        assert_eq!(scene.post().await.status(), 200);
    })
    .await;
}

#[tokio::test]
async fn a_status_comes_back_from_reqwest_as_a_response_and_holds_the_service_that_was_asked() {
    for version in VERSIONS {
        let server = Server::scripted([ok()]).await.unwrap();
        let client = Clients::new(version).reqwest;
        let fault = BUSY.retry_after(ms(60_000));
        let pipeline = pipeline().chaos(Chaos::new().next(1, fault));

        let response = client.get(server.url("/")).send_with(&pipeline).await;
        let response = response.expect("a status is no error");
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "60");
        let marker = response.extensions().get::<Injected>();
        assert_eq!(marker.expect("nobody mistakes it").fault(), fault);
        let report = response.extensions().get::<Report>().expect("it failed");
        assert_eq!(report.stop(), Some(Stop::DeadlineTooClose));
        assert_eq!(response.bytes().await.unwrap(), "");

        // As a real one would, it silences that host, and not the one that reqwest makes up.
        let error = client.get(server.url("/")).send_with(&pipeline).await;
        let error = error.expect_err("in a quiet");
        let Cause::Rejected(rejected) = error.cause() else {
            panic!("{error:?}");
        };
        assert_eq!(rejected.reason(), Reason::WindowFull);
        assert!(server.received().is_empty());
    }
}

#[tokio::test]
async fn a_stream_is_used_up_by_a_fault_as_by_an_attempt() {
    for version in VERSIONS {
        let server = Server::scripted([ok()]).await.unwrap();
        let client = Clients::new(version).reqwest;
        let pipeline = pipeline().chaos(Chaos::new().next(1, BUSY));
        let chunks = stream::iter([Ok::<_, std::io::Error>("an order")]);
        let put = client.put(server.url("/"));
        let put = put.body(reqwest::Body::wrap_stream(chunks));
        let response = put.send_with(&pipeline).await.unwrap();
        let report = response.extensions().get::<Report>().expect("it failed");
        assert_eq!(report.stop(), Some(Stop::NotReplayable));
        assert_eq!(response.status(), 503);
        assert!(server.received().is_empty());
    }
}
