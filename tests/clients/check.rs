//! Checks by real clients.

use std::sync::Arc;

use bytes::Bytes;
use evenkeel::backoff::{Backoff, Jitter};
use evenkeel::breaker::State;
use evenkeel::check::Check;
use evenkeel::event::Change;
use evenkeel::http::service_key;
use evenkeel::testing::Server;
use evenkeel::{Breaker, Event, Keyed, Retry};
use http::Request;
use http_body_util::Full;
use tokio::sync::Notify;
use tower::{Layer, ServiceExt};

use crate::support::{Clients, VERSIONS, ms, ok, pipeline, status};

#[tokio::test]
async fn checks_by_either_client_close_the_breaker_of_their_host() {
    for version in VERSIONS {
        for with_reqwest in [false, true] {
            let server = Server::with(|request| match request.path() {
                "/healthz" => ok(),
                _ => status(503),
            });
            let server = server.await.unwrap();
            let closed = Arc::new(Notify::new());
            let notify = Arc::clone(&closed);
            let cooldown = Backoff::constant(ms(20)).jitter(Jitter::None);
            let breaker = Breaker::new().consecutive_failures(1).cooldown(cooldown);
            let pipeline = pipeline()
                .retry(Retry::default().max_attempts(1))
                .no_window()
                .breaker(Keyed::new(breaker))
                .observer(move |event: &Event| match event {
                    Event::Changed {
                        change: Change::Breaker(change),
                        ..
                    } if change.to == State::Closed => notify.notify_one(),
                    _ => {}
                });
            let Clients { hyper, reqwest } = Clients::new(version);
            let service = pipeline.layer(hyper);
            let get = |path: &str| Request::get(server.url(path)).body(Full::<Bytes>::default());
            let request = get("/orders").unwrap();
            let refused = service.clone().oneshot(request).await.unwrap();
            assert_eq!(refused.status(), 503);

            let check = Check::every(ms(10));
            let url = server.url("/healthz");
            if with_reqwest {
                let uri: http::Uri = url.parse().unwrap();
                let key = service_key(uri.host().unwrap(), uri.port_u16().unwrap());
                let checks = pipeline.checks(key, check, move |_| reqwest.get(&url).send());
                tokio::select! {
                    never = checks.unwrap() => match never {},
                    () = closed.notified() => {}
                }
            } else {
                let checks = service.checks(check, || get("/healthz").unwrap());
                tokio::select! {
                    never = checks.unwrap() => match never {},
                    () = closed.notified() => {}
                }
            }
            let paths = server.received().into_iter();
            let paths: Vec<_> = paths.map(|it| it.path().to_owned()).collect();
            assert_eq!(paths, ["/orders", "/healthz"]);
        }
    }
}
