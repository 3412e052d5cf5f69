//! Requests to one service with two hosts, of which one is bad.

use std::sync::Arc;

use evenkeel::endpoints::{Endpoint, Endpoints};
use evenkeel::http::Http;
use evenkeel::testing::Server;
use evenkeel::{Key, Keyed, Window};
use http::{Request, Version};

use crate::support::{Clients, DOORS, Door, Scene, VERSIONS, Way, ok, pipeline, status};

/// What requests are for. Nobody is there.
const SERVICE: &str = "http://shop.invalid/x?y=z";

fn request() -> Request<bytes::Bytes> {
    Request::get(SERVICE)
        .body("".into())
        .expect("a valid request")
}

fn at(server: &Server) -> Endpoint {
    Endpoint::from(format!("http://{}", server.addr()))
}

/// A scene whose pipeline knows these hosts.
async fn with(way: Way, list: Vec<Endpoint>) -> (Scene, Endpoints) {
    let endpoints = Endpoints::new(list);
    let set = endpoints.clone();
    let scene = way.against([ok()]).await.with(|it| it.endpoints(set));
    (scene, endpoints)
}

/// A closure builds its own requests, and is told where to.
fn doors() -> impl Iterator<Item = Door> {
    DOORS
        .into_iter()
        .filter(|door| *door != Door::ReqwestInClosure)
}

#[tokio::test]
async fn a_host_that_refuses_connections_costs_a_few_retries_and_no_call() {
    for door in doors() {
        let way = Way {
            door,
            version: Version::HTTP_11,
        };
        let good = Server::with(|_| ok()).await.expect("a free port");
        let bad = Server::with(|_| ok()).await.expect("a free port");
        bad.refuse();
        let (scene, endpoints) = with(way, vec![at(&bad), at(&good)]).await;
        for _ in 0..30 {
            assert_eq!(scene.send(request()).await.status(), 200, "{way:?}");
        }
        assert_eq!(good.received().len(), 30, "{way:?}");
        assert!(bad.received().is_empty() && scene.received().is_empty());
        let all = endpoints.snapshot(std::time::Instant::now());
        assert!(all.iter().all(|it| it.in_flight == 0), "{all:?}");
        assert!(all[0].failures > 0.0 || all[0].ejections > 0, "{all:?}");
    }
}

#[tokio::test]
async fn requests_arrive_as_they_were_and_host_is_the_services() {
    for door in doors() {
        let way = Way {
            door,
            version: Version::HTTP_11,
        };
        let server = Server::with(|_| ok()).await.expect("a free port");
        let (scene, _) = with(way, vec![at(&server)]).await;
        assert_eq!(scene.send(request()).await.status(), 200);
        let received = server.received();
        assert_eq!(
            (received[0].path(), received[0].query()),
            ("/x", Some("y=z"))
        );
        assert_eq!(received[0].headers()["host"], "shop.invalid", "{way:?}");

        let follows = scene.with(|it| it.classify(Http::new().endpoint_host(true)));
        assert_eq!(follows.send(request()).await.status(), 200);
        let received = server.received();
        assert_eq!(
            received[1].headers()["host"],
            server.addr().to_string(),
            "{way:?}"
        );
    }
}

#[tokio::test]
async fn over_http_2_the_uri_alone_says_where_if_it_is_asked_to() {
    for door in doors() {
        let way = Way {
            door,
            version: Version::HTTP_2,
        };
        let server = Server::with(|_| ok()).await.expect("a free port");
        let (scene, _) = with(way, vec![at(&server)]).await;
        let scene = scene.with(|it| it.classify(Http::new().endpoint_host(true)));
        assert_eq!(scene.send(request()).await.status(), 200);
        let received = server.received();
        assert!(received[0].headers().get("host").is_none(), "{way:?}");
    }
}

#[tokio::test]
async fn a_host_that_answers_503_fails_for_the_service_and_is_no_redirect() {
    for door in doors() {
        for version in VERSIONS {
            let way = Way { door, version };
            let bad = Server::with(|_| status(503)).await.expect("a free port");
            let (scene, endpoints) = with(way, vec![at(&bad)]).await;
            let windows = Keyed::new(Window::new());
            let breakers = Keyed::new(evenkeel::Breaker::new().consecutive_failures(3));
            let (of_window, of_breaker) = (windows.clone(), breakers.clone());
            let scene = scene.with(|it| it.window(of_window).breaker(of_breaker));
            assert_eq!(scene.send(request()).await.status(), 503, "{way:?}");
            assert_eq!(bad.received().len(), 3);
            let all = endpoints.snapshot(std::time::Instant::now());
            assert!(all[0].failures > 0.5, "{all:?}");
            // One service, and its breaker saw three failures.
            assert_eq!((windows.len(), breakers.len()), (1, 1), "{way:?}");
            let mut opened = 0;
            breakers.for_each(|_: Key, breaker| {
                opened += breaker.snapshot(std::time::Instant::now()).trips;
            });
            assert_eq!(opened, 1, "{way:?}");
        }
    }
}

#[tokio::test]
async fn what_a_redirect_leads_to_is_no_failure_of_the_host_that_sent_there() {
    for door in [
        Door::Reqwest,
        Door::ReqwestSendWith,
        Door::ReqwestMiddleware,
    ] {
        let way = Way {
            door,
            version: Version::HTTP_11,
        };
        let target = Arc::new(Server::with(|_| status(503)).await.expect("a free port"));
        let to = target.url("/");
        let origin = Server::with(move |_| status(302).header("location", to.as_str()));
        let origin = origin.await.expect("a free port");
        let (scene, endpoints) = with(way, vec![at(&origin)]).await;
        assert_eq!(scene.send(request()).await.status(), 503, "{way:?}");
        let all = endpoints.snapshot(std::time::Instant::now());
        assert!(all[0].failures.abs() < 1e-9, "{way:?}: {all:?}");
    }
}

#[tokio::test]
async fn a_closure_is_told_which_one_and_builds_its_own_request() {
    let good = Server::with(|_| ok()).await.expect("a free port");
    let bad = Server::with(|_| ok()).await.expect("a free port");
    bad.refuse();
    let urls = [bad.url("/"), good.url("/")];
    let client = Clients::new(Version::HTTP_11).reqwest;
    let pipeline = pipeline()
        .idempotent(true)
        .endpoints(Endpoints::numbered(2));
    for _ in 0..20 {
        let got = pipeline.run(|attempt| {
            let chosen = attempt.endpoint().expect("one of two");
            client.get(&urls[chosen.index()]).send()
        });
        assert_eq!(got.await.expect("an answer").status(), 200);
    }
    assert_eq!(good.received().len(), 20);
}
