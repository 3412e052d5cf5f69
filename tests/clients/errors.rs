//! What the clients' real errors mean, read from their types and not from their text.

use std::error::Error as StdError;
use std::future::{Pending, pending, ready};
use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;
use evenkeel::Error;
use evenkeel::http::Http;
use evenkeel::report::Stop;
use evenkeel::testing::{Reply, Server};
use evenkeel::verdict::{Kind, Label, Processed, Verdict};
use futures_util::{TryStreamExt, stream};
use http::{Request, Uri, Version};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

use crate::support::{VERSIONS, every_way, ms, ok, pipeline, reqwest_builder, status};

#[tokio::test]
async fn a_refused_connection_was_provably_not_processed() {
    every_way(async |way| {
        let scene = way.against([ok()]).await;
        scene.server.refuse();
        let verdict = scene.get().await.own_error();
        assert_eq!(verdict, not_sent("connect"));
    })
    .await;
}

#[tokio::test]
async fn a_name_that_does_not_resolve_was_provably_not_processed() {
    // No label of a name may be longer than 63 bytes (RFC 1035, 2.3.4), so the system's own
    // resolver fails here without asking anybody.
    let url = format!("http://{}.invalid/", "a".repeat(64));
    for version in VERSIONS {
        let client = reqwest_builder(version).build().unwrap();
        let error = client.get(&url).send().await.unwrap_err();
        assert_eq!(Http::new().error(&error), not_sent("dns"));

        let client = Client::builder(TokioExecutor::new())
            .http2_only(version == Version::HTTP_2)
            .build_http::<Empty<Bytes>>();
        let error = client.get(url.parse().unwrap()).await.unwrap_err();
        assert_eq!(Http::new().error(&error), not_sent("dns"));
    }
}

#[tokio::test]
async fn a_resolver_of_ones_own_fails_like_the_systems() {
    struct Broken;

    impl reqwest::dns::Resolve for Broken {
        fn resolve(&self, _: reqwest::dns::Name) -> reqwest::dns::Resolving {
            // A kind that means something else after the name is resolved.
            Box::pin(async { Err(io::Error::from(io::ErrorKind::ConnectionReset).into()) })
        }
    }

    for version in VERSIONS {
        let client = reqwest_builder(version).dns_resolver(std::sync::Arc::new(Broken));
        let client = client.build().unwrap();
        let error = client.get("http://name.invalid/").send().await.unwrap_err();
        assert_eq!(Http::new().error(&error), not_sent("dns"));
    }
}

#[tokio::test]
async fn tls_that_can_not_be_agreed_on_is_the_targets_fault_and_not_repeated() {
    let bad_certificate = || io::Error::new(io::ErrorKind::InvalidData, "bad certificate");
    let error = through_connector(bad_certificate).await;
    let verdict = Http::new().error(error.operation().expect("hyper-util's own"));
    assert_eq!(verdict.error_type(), Label::Name("tls"));
    assert_eq!(verdict.kind(), Kind::TargetFault);
    assert_eq!(verdict.was_processed(), Processed::No);
    assert_eq!(error.report().stop(), Some(Stop::NotRetryable));
    assert_eq!(error.attempts(), 1);
}

#[tokio::test]
async fn a_connector_that_timed_out_sent_nothing() {
    let error = through_connector(|| io::ErrorKind::TimedOut.into()).await;
    let own = error.operation().expect("hyper-util's own");
    assert_eq!(Http::new().error(own), not_sent("connect"));
    assert_eq!(error.attempts(), 3);
}

#[tokio::test]
async fn reqwests_connect_timeout_sent_nothing() {
    for version in VERSIONS {
        let client = reqwest_builder(version)
            .connector_layer(tower::layer::layer_fn(Never))
            .connect_timeout(ms(10))
            .build()
            .unwrap();
        let error = client.post("http://127.0.0.1:9/").send().await.unwrap_err();
        assert!(error.is_timeout() && error.is_connect(), "{error:?}");
        assert_eq!(Http::new().error(&error), not_sent("connect"));
    }
}

#[tokio::test]
async fn reqwests_own_timeout_may_have_been_processed() {
    for version in VERSIONS {
        let server = Server::scripted([Reply::stall()]).await.unwrap();
        let client = reqwest_builder(version).build().unwrap();
        let request = client.get(server.url("/")).timeout(ms(50));
        let error = request.send().await.unwrap_err();
        let verdict = Http::new().error(&error);
        assert_eq!(verdict, Verdict::transient().label(Label::Name("timeout")));
    }
}

#[tokio::test]
async fn a_loop_of_redirects_is_not_walked_twice() {
    for version in VERSIONS {
        let server = Server::with(|_| status(302).header("location", "/again"));
        let server = server.await.unwrap();
        let client = reqwest_builder(version)
            .redirect(reqwest::redirect::Policy::limited(2))
            .build()
            .unwrap();
        let service = ServiceBuilder::new().layer(pipeline()).service(client);
        let request = reqwest::Request::new(http::Method::GET, server.url("/").parse().unwrap());
        let error = service.oneshot(request).await.unwrap_err();
        assert_eq!(error.report().stop(), Some(Stop::NotRetryable));
        let verdict = Http::new().error(error.operation().expect("reqwest's own"));
        assert_eq!(verdict.error_type(), Label::Name("redirect"));
        assert_eq!(verdict.kind(), Kind::TargetFault);
        assert_eq!(server.received().len(), 3);
    }
}

#[tokio::test]
async fn a_request_that_can_not_be_built_is_its_own_fault() {
    let client = reqwest_builder(Version::HTTP_11).build().unwrap();
    let error = client.get("no address").send().await.unwrap_err();
    let verdict = Http::new().error(&error);
    assert_eq!(verdict.kind(), Kind::RequestFault);
    assert_eq!(verdict.was_processed(), Processed::No);
}

#[tokio::test]
async fn a_request_that_hyper_util_refuses_is_its_own_fault_and_not_repeated() {
    let server = Server::scripted([ok()]).await.unwrap();
    let absolute = || Request::get(server.url("/"));
    let requests = [
        Request::get("/relative"),
        absolute().method("CONNECT").version(Version::HTTP_10),
        absolute().version(Version::HTTP_09),
        // The connection turns out to be HTTP/1.
        absolute().version(Version::HTTP_2),
    ];
    for request in requests {
        let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
        let service = ServiceBuilder::new().layer(pipeline()).service(client);
        let request = request.body(Empty::new()).unwrap();
        let error = service.oneshot(request).await.unwrap_err();
        let verdict = Http::new().error(error.operation().expect("hyper-util's own"));
        assert_eq!(verdict.kind(), Kind::RequestFault, "{error:?}");
        assert_eq!(verdict.error_type(), Label::Name("request"));
        assert_eq!(verdict.was_processed(), Processed::No);
        assert_eq!(error.attempts(), 1);
    }
    assert_eq!(server.received().len(), 0);
}

#[tokio::test]
async fn a_request_body_that_fails_is_the_requests_own_fault() {
    for version in VERSIONS {
        let server = Server::scripted([ok()]).await.unwrap();
        let client = reqwest_builder(version).build().unwrap();
        let body = reqwest::Body::wrap_stream(failing());
        let request = client.put(server.url("/")).body(body);
        own_fault(&request.send().await.unwrap_err());

        let client = Client::builder(TokioExecutor::new())
            .http2_only(version == Version::HTTP_2)
            .build_http();
        let body = StreamBody::new(failing().map_ok(Frame::data));
        let request = Request::put(server.url("/")).body(body.boxed_unsync());
        own_fault(&client.request(request.unwrap()).await.unwrap_err());
        assert_eq!(server.received().len(), 0);
    }
}

#[tokio::test]
async fn promise_7_a_reason_that_a_request_body_brings_proves_nothing() {
    // Such as when it is the body of another connection's response: hyper passes its reason on,
    // but the server that got half of the request refused nothing.
    let server = Server::scripted([ok()]).await.unwrap();
    let client = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http();
    let refused = || h2::Error::from(h2::Reason::REFUSED_STREAM);
    let frames = [Ok(Frame::data(Bytes::from("begun, and "))), Err(refused())];
    let body = StreamBody::new(stream::iter(frames)).boxed_unsync();
    let request = Request::post(server.url("/")).body(body).unwrap();
    own_fault(&client.request(request).await.unwrap_err());
}

#[track_caller]
fn own_fault<E: StdError + 'static>(error: &E) {
    let verdict = Http::new().error(error);
    assert_eq!(verdict.kind(), Kind::RequestFault, "{error:?}");
    assert_eq!(verdict.error_type(), Label::Name("request"));
    assert_eq!(verdict.was_processed(), Processed::Maybe);
}

/// What failed before there was anything to send on.
fn not_sent(label: &'static str) -> Verdict {
    let verdict = Verdict::transient().processed(Processed::No);
    verdict.label(Label::Name(label))
}

/// A POST by a client whose connector fails.
async fn through_connector(
    fail: impl Fn() -> io::Error + Clone + Send + Sync + 'static,
) -> Error<hyper_util::client::legacy::Error> {
    let connector = service_fn(move |_: Uri| ready(Err::<TokioIo<TcpStream>, _>(fail())));
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new().layer(pipeline()).service(client);
    let request = Request::post("https://name.invalid/").body(Empty::<Bytes>::new());
    service.oneshot(request.unwrap()).await.unwrap_err()
}

fn failing() -> impl stream::Stream<Item = io::Result<Bytes>> + Send + 'static {
    stream::iter([Ok("begun, and ".into()), Err(io::Error::other("no more"))])
}

/// A connector that never comes to an end.
#[derive(Clone)]
struct Never<S>(S);

impl<Q, S: Service<Q>> Service<Q> for Never<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pending<Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, _: Q) -> Self::Future {
        pending()
    }
}
