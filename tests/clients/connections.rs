//! Connections that are refused, reset, closed or told to go away.

use std::sync::Arc;

use evenkeel::report::Stop;
use evenkeel::testing::Reply;
use evenkeel::verdict::{Kind, Label, Processed};
use futures_util::FutureExt;
use http::Version;

use crate::support::{every_way, every_way_over, ok, status};

#[tokio::test]
async fn promise_7_a_post_goes_again_if_the_connection_was_refused() {
    every_way(async |way| {
        let scene = way.against([ok()]).await;
        let server = Arc::clone(&scene.server);
        server.refuse();
        let scene = scene.on_retry(move || {
            let accepting = server.accept().now_or_never();
            accepting.expect("the port was held").expect("and is free");
        });

        let outcome = scene.post().await;
        assert_eq!(outcome.status(), 200);
        assert_eq!(outcome.retries(), 1);
        assert_eq!(outcome.first_verdict().error_type(), Label::Name("connect"));
        assert_eq!(scene.requests(), 1);
        assert_eq!(scene.received()[0].body(), b"an order");
    })
    .await;
}

#[tokio::test]
async fn promise_9_a_port_that_stays_closed_gives_the_clients_own_error_back() {
    every_way(async |way| {
        let scene = way.against([ok()]).await;
        scene.server.refuse();
        let outcome = scene.post().await;
        assert_eq!(outcome.own_error().error_type(), Label::Name("connect"));
        assert_eq!(outcome.own_error().was_processed(), Processed::No);
        assert_eq!(outcome.retries(), 2);
        assert_eq!(outcome.stop(), Some(Stop::AttemptsExhausted));
    })
    .await;
}

#[tokio::test]
async fn promise_7_a_get_goes_again_after_a_connection_that_broke_before_the_answer() {
    every_way(async |way| {
        for broken in [Reply::reset(), Reply::close()] {
            let scene = way.against([broken.clone(), broken, ok()]).await;
            let outcome = scene.get().await;
            assert_eq!(outcome.status(), 200);
            assert_eq!(outcome.first_verdict().error_type(), Label::Name("reset"));
            assert_eq!(scene.requests(), 3);
        }
    })
    .await;
}

#[tokio::test]
async fn promise_7_a_post_does_not_go_again_after_a_connection_that_broke_before_the_answer() {
    every_way(async |way| {
        for broken in [Reply::reset(), Reply::close()] {
            let scene = way.against([broken, ok()]).await;
            let outcome = scene.post().await;
            assert_eq!(outcome.own_error().error_type(), Label::Name("reset"));
            assert_eq!(outcome.stop(), Some(Stop::NotSafe(Processed::Maybe)));
            assert_eq!(scene.requests(), 1);
        }
    })
    .await;
}

#[tokio::test]
async fn promise_7_a_refused_stream_goes_again_whatever_it_is() {
    // HTTP/1.1 has no streams to refuse.
    every_way_over(Version::HTTP_2, async |way| {
        let scene = way.against([Reply::refuse_stream(), ok()]).await;
        let outcome = scene.post().await;
        assert_eq!(outcome.status(), 200);
        assert_eq!(
            outcome.first_verdict().error_type(),
            Label::Name("refused_stream")
        );
        assert_eq!(scene.requests(), 2);
        assert_eq!(scene.server.connections(), 1);
        assert_eq!(scene.received()[1].body(), b"an order");
    })
    .await;
}

#[tokio::test]
async fn promise_7_what_a_goaway_left_out_goes_again_whatever_it_is() {
    // HTTP/1.1 has no such frame.
    every_way_over(Version::HTTP_2, async |way| {
        let scene = way.against([Reply::go_away(), ok()]).await;
        let outcome = scene.post().await;
        assert_eq!(outcome.status(), 200);
        assert_eq!(outcome.first_verdict().error_type(), Label::Name("goaway"));
        assert_eq!(scene.requests(), 2);
        assert_eq!(scene.server.connections(), 2);
        assert_eq!(scene.received()[1].body(), b"an order");
    })
    .await;
}

#[tokio::test]
async fn a_get_survives_that_its_idle_connection_was_closed() {
    every_way(async |way| {
        let scene = way.against([ok().then_close(), ok(), ok(), ok()]).await;
        assert_eq!(scene.get().await.status(), 200);
        assert_eq!(scene.get().await.status(), 200);
        scene.server.close_idle();
        assert_eq!(scene.get().await.status(), 200);
    })
    .await;
}

#[tokio::test]
async fn a_response_that_breaks_off_is_the_callers_who_reads_it() {
    every_way(async |way| {
        let cut = status(200).body(vec![b'x'; 10_000]).cut_body_after(100);
        let scene = way.against([cut, ok()]).await;
        let outcome = scene.get().await;
        assert_eq!(outcome.status(), 200);
        assert!(outcome.response().body.is_none());
        assert_eq!(scene.requests(), 1);
    })
    .await;
}

#[tokio::test]
async fn what_is_no_answer_at_all_is_repeated_for_a_get() {
    every_way(async |way| {
        let scene = way.against([Reply::reset()]).await;
        let outcome = scene.get().await;
        assert_eq!(outcome.own_error().kind(), Kind::Transient);
        assert_eq!(outcome.own_error().was_processed(), Processed::Maybe);
        assert_eq!(outcome.stop(), Some(Stop::AttemptsExhausted));
        assert_eq!(scene.requests(), 3);
    })
    .await;
}
