//! hyper-util's client under a pipeline, with bodies that can be cloned and one that can't.
//!
//! `cargo run --example hyper --all-features`

use std::convert::Infallible;
use std::error::Error;

use bytes::Bytes;
use evenkeel::report::Stop;
use evenkeel::testing::{Received, Reply, Server};
use evenkeel::tower::ReplayLayer;
use evenkeel::{Pipeline, Report};
use http::Request;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tower::{Service, ServiceBuilder, ServiceExt};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    // Keep one pipeline for all calls to a service: its clones share one budget.
    let pipeline = Pipeline::http();

    // `Full<Bytes>` is `Clone`, so a request can be copied before it is sent.
    let server = Server::scripted([
        Reply::status(502).body("a page that nobody wants"),
        Reply::reset(),
        Reply::status(200).body("three lamps"),
    ])
    .await?;
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let mut client = ServiceBuilder::new()
        .layer(pipeline.clone())
        .service(client);
    let request = Request::get(server.url("/stock")).body(Full::default())?;
    let response = client.ready().await?.call(request).await?;
    println!("GET /stock: {}, {}", response.status(), attempts(&response));
    assert_eq!(
        response.into_body().collect().await?.to_bytes(),
        "three lamps"
    );
    // The page was read and thrown away, so that its connection could be used again.
    let connections = server.received();
    let connections: Vec<_> = connections.iter().map(Received::connection).collect();
    println!("    on connections {connections:?}");

    // A stream can't be cloned. `ReplayLayer` keeps what was sent of it, up to 64 KiB.
    let server = Server::scripted([Reply::status(503), Reply::status(204)]).await?;
    let client = Client::builder(TokioExecutor::new()).build_http();
    let mut client = ServiceBuilder::new()
        .layer(ReplayLayer::new())
        .layer(pipeline.clone())
        .service(client);
    let request = Request::put(server.url("/stock")).body(streamed())?;
    let response = client.ready().await?.call(request).await?;
    println!("PUT /stock: {}, {}", response.status(), attempts(&response));
    for received in server.received() {
        assert_eq!(received.body(), b"two lamps, one rug");
    }
    assert_eq!(server.received().len(), 2);

    // A longer body than the layer keeps is sent once. That is no failure by itself.
    let server = Server::scripted([Reply::status(503), Reply::status(204)]).await?;
    let client = Client::builder(TokioExecutor::new()).build_http();
    let mut client = ServiceBuilder::new()
        .layer(ReplayLayer::new().limit(10))
        .layer(pipeline)
        .service(client);
    let request = Request::put(server.url("/stock")).body(streamed())?;
    let response = client.ready().await?.call(request).await?;
    println!("PUT /stock: {}, {}", response.status(), attempts(&response));
    let report = response.extensions().get::<Report>();
    let stop = report.and_then(Report::stop);
    assert_eq!(stop, Some(Stop::NotReplayable));
    assert_eq!(server.received().len(), 1);

    Ok(())
}

/// A body that comes in pieces, as from a file or another response.
fn streamed() -> BoxBody<Bytes, Infallible> {
    let pieces = ["two lamps, ", "one rug"].map(|it| Ok(Frame::data(Bytes::from(it))));
    StreamBody::new(futures_util::stream::iter(pieces)).boxed()
}

/// What the report says; a first attempt that succeeds leaves none.
fn attempts<B>(response: &http::Response<B>) -> String {
    match response.extensions().get::<Report>() {
        None => "at once".to_owned(),
        Some(report) => match report.stop() {
            None => format!("attempt {}", report.attempts()),
            Some(stop) => format!("attempt {}, then {stop}", report.attempts()),
        },
    }
}
