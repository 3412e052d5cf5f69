//! Bodies that can't be cloned, and answers that break off inside a closure.

use std::convert::Infallible;

use bytes::Bytes;
use evenkeel::client::reqwest::SendWith;
use evenkeel::http::Http;
use evenkeel::report::Stop;
use evenkeel::testing::{Reply, Server};
use evenkeel::tower::ReplayLayer;
use evenkeel::verdict::{self, Kind, Label, Processed, Verdict};
use evenkeel::{Pipeline, Report};
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use http::{Request, Version};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tower::{ServiceBuilder, ServiceExt};

use crate::support::{VERSIONS, bodies, ms, ok, pipeline, reqwest_builder, status};

#[tokio::test]
async fn promise_7_a_reqwest_stream_is_sent_once_and_does_not_fail_for_that() {
    for version in VERSIONS {
        let client = || reqwest_builder(version).build().unwrap();
        let request = |server: &Server| {
            let body = reqwest::Body::wrap_stream(chunks());
            client().put(server.url("/")).body(body)
        };

        let server = busy_then_ok().await;
        let sent = request(&server).send_with(&pipeline()).await.unwrap();
        sent_once(&server, &sent);

        let server = busy_then_ok().await;
        let service = ServiceBuilder::new().layer(pipeline()).service(client());
        let sent = service.oneshot(request(&server).build().unwrap()).await;
        sent_once(&server, &sent.unwrap());

        let server = busy_then_ok().await;
        let client = reqwest_middleware::ClientBuilder::new(client()).with(pipeline());
        let sent = client
            .build()
            .execute(request(&server).build().unwrap())
            .await;
        sent_once(&server, &sent.unwrap());
    }
}

#[tokio::test]
async fn promise_7_a_stream_that_is_kept_is_replayed_whole() {
    for version in VERSIONS {
        let server = Server::scripted([status(503), Reply::reset(), ok()])
            .await
            .unwrap();
        let (status, report) = put_stream(version, &server, ReplayLayer::new()).await;
        assert_eq!(status, 200);
        assert_eq!(report.unwrap().attempts(), 3);
        assert_eq!(bodies(&server), [whole(), whole(), whole()]);
    }
}

#[tokio::test]
async fn promise_7_a_stream_as_long_as_the_cap_is_replayed() {
    for version in VERSIONS {
        let server = busy_then_ok().await;
        let cap = ReplayLayer::new().limit(3 * CHUNK);
        let (status, _) = put_stream(version, &server, cap).await;
        assert_eq!(status, 200);
        assert_eq!(bodies(&server), [whole(), whole()]);
    }
}

#[tokio::test]
async fn promise_7_a_stream_over_the_cap_is_sent_once_and_does_not_fail_for_that() {
    for version in VERSIONS {
        let server = busy_then_ok().await;
        let cap = ReplayLayer::new().limit(3 * CHUNK - 1);
        let (status, report) = put_stream(version, &server, cap).await;
        assert_eq!(status, 503);
        assert_eq!(report.unwrap().stop(), Some(Stop::NotReplayable));
        assert_eq!(bodies(&server), [whole()]);
    }
}

#[tokio::test]
async fn a_stream_answered_early_goes_on_in_the_retry_and_no_longer_on_the_old_connection() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (feed, taken) = mpsc::unbounded_channel();
    let body = stream::unfold(taken, async |mut taken| Some((taken.recv().await?, taken)));
    let call = tokio::spawn(put_raw(&server, body));

    feed.send(Bytes::from("one ")).unwrap();
    let mut old = accept(&server).await;
    read_until(&mut old, "one \r\n").await;
    old.write_all(BUSY.as_bytes()).await.unwrap();
    let mut new = accept(&server).await;
    read_until(&mut new, "one \r\n").await;

    // It is closed before the next chunk comes.
    soon(old.read_to_end(&mut Vec::new())).await.ok();
    feed.send(Bytes::from("two ")).unwrap();
    read_until(&mut new, "two \r\n").await;
    feed.send(Bytes::from("three")).unwrap();
    drop(feed);
    let rest = read_until(&mut new, LAST_CHUNK).await;
    assert_eq!(without_framing(&rest), "three");
    new.write_all(OK).await.unwrap();
    assert_eq!(soon(call).await.unwrap(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stream_answered_early_is_replayed_whole_while_the_old_connection_still_sends() {
    let chunks: Vec<String> = (0..400).map(|n| format!("{n:0>100} ")).collect();
    for _ in 0..20 {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let body = stream::iter(chunks.clone()).then(async |chunk| {
            tokio::task::yield_now().await;
            Bytes::from(chunk)
        });
        let call = tokio::spawn(put_raw(&server, body));

        let mut old = accept(&server).await;
        read_until(&mut old, "\r\n\r\n").await;
        // The retry has to come over another connection, even if the whole body was sent by now.
        let busy = BUSY.replace("content-length", "connection: close\r\ncontent-length");
        old.write_all(busy.as_bytes()).await.unwrap();
        tokio::spawn(async move { old.read_to_end(&mut Vec::new()).await });

        let mut new = accept(&server).await;
        let request = read_until(&mut new, LAST_CHUNK).await;
        let (_, body) = request.split_once("\r\n\r\n").expect("a head");
        assert_eq!(without_framing(body), chunks.concat());
        new.write_all(OK).await.unwrap();
        assert_eq!(soon(call).await.unwrap(), 200);
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_inside_a_closure_is_fetched_again() {
    for version in VERSIONS {
        let server = cut_then_ok().await;
        let client = reqwest_builder(version).build().unwrap();
        let pipeline = reading().idempotent(true);
        let text = pipeline.run(async |_| {
            let response = client.get(server.url("/")).send().await?;
            response.text().await
        });
        assert_eq!(text.await.unwrap(), "here you are");
        assert_eq!(server.received().len(), 2);
    }
}

#[tokio::test]
async fn promise_7_what_is_not_idempotent_is_not_repeated_because_its_answer_broke_off() {
    for version in VERSIONS {
        let server = cut_then_ok().await;
        let client = reqwest_builder(version).build().unwrap();
        let pipeline = reading().idempotent(false);
        let error = pipeline.run(async |_| {
            let response = client.post(server.url("/")).send().await?;
            response.text().await
        });
        let error = error.await.unwrap_err();
        assert_eq!(error.report().stop(), Some(Stop::NotSafe(Processed::Yes)));
        let verdict = Http::new().error(error.operation().expect("reqwest's own"));
        assert_eq!(verdict.error_type(), Label::Name("body"));
        assert_eq!(server.received().len(), 1);
    }
}

#[tokio::test]
async fn a_status_made_an_error_inside_a_closure_means_what_the_status_means() {
    for version in VERSIONS {
        for (code, kind, requests) in [(503, Kind::Overloaded, 2), (404, Kind::RequestFault, 1)] {
            let server = Server::scripted([status(code), ok()]).await.unwrap();
            let client = reqwest_builder(version).build().unwrap();
            let seen = std::sync::Mutex::new(None);
            let pipeline = reading().idempotent(true);
            let result = pipeline.run(async |_| {
                let response = client.get(server.url("/")).send().await?;
                let response = response.error_for_status();
                if let Err(error) = &response {
                    *seen.lock().unwrap() = Some(Http::new().error(error));
                }
                response?.text().await
            });
            assert_eq!(result.await.is_ok(), requests == 2);
            assert_eq!(server.received().len(), requests);
            let verdict: Verdict = seen.into_inner().unwrap().expect("it failed once");
            assert_eq!(
                (verdict.kind(), verdict.error_type()),
                (kind, Label::Status(code))
            );
        }
    }
}

/// A pipeline for closures that read the response themselves, and fail like reqwest.
fn reading() -> Pipeline<impl verdict::Classify<String, reqwest::Error>> {
    let classify = verdict::by(|outcome: Result<&String, &reqwest::Error>| match outcome {
        Ok(_) => Verdict::success(),
        Err(error) => Http::new().error(error),
    });
    pipeline().classify(classify)
}

#[track_caller]
fn sent_once(server: &Server, response: &reqwest::Response) {
    assert_eq!(response.status(), 503);
    let report: &Report = response.extensions().get().expect("it is a failure");
    assert_eq!(report.stop(), Some(Stop::NotReplayable));
    assert_eq!(bodies(server), [whole()]);
}

async fn put_stream(
    version: Version,
    server: &Server,
    replay: ReplayLayer,
) -> (u16, Option<Report>) {
    let client = Client::builder(TokioExecutor::new())
        .http2_only(version == Version::HTTP_2)
        .build_http();
    let service = ServiceBuilder::new()
        .layer(replay)
        .layer(pipeline())
        .service(client);
    let frames = StreamBody::new(chunks().map_ok(Frame::data));
    let request = Request::put(server.url("/"))
        .body(frames.boxed_unsync())
        .unwrap();
    let mut response = service.oneshot(request).await.unwrap();
    let report = response.extensions_mut().remove();
    (response.status().as_u16(), report)
}

/// A body of unknown length.
fn chunks() -> impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
    stream::iter(["a", "b", "c"]).map(|letter| Ok(letter.repeat(CHUNK).into()))
}

async fn busy_then_ok() -> Server {
    Server::scripted([status(503), ok()]).await.unwrap()
}

async fn cut_then_ok() -> Server {
    let cut = status(200).body(vec![b'x'; 10_000]).cut_body_after(100);
    Server::scripted([cut, ok()]).await.unwrap()
}

/// Sends a kept stream over HTTP/1.1 to a server that the test plays itself.
fn put_raw<S>(server: &TcpListener, body: S) -> impl Future<Output = u16> + use<S>
where
    S: Stream<Item = Bytes> + Send + 'static,
{
    let frames = StreamBody::new(body.map(|chunk| Ok::<_, Infallible>(Frame::data(chunk))));
    let url = format!("http://{}/", server.local_addr().unwrap());
    let request = Request::put(url).body(frames.boxed_unsync()).unwrap();
    let service = ServiceBuilder::new()
        .layer(ReplayLayer::new())
        .layer(pipeline())
        .service(Client::builder(TokioExecutor::new()).build_http());
    async move { service.oneshot(request).await.unwrap().status().as_u16() }
}

async fn accept(server: &TcpListener) -> TcpStream {
    soon(server.accept()).await.unwrap().0
}

/// Everything up to what is awaited.
async fn read_until(socket: &mut TcpStream, end: &str) -> String {
    let mut read = String::new();
    while !read.ends_with(end) {
        let mut buffer = [0; 1024];
        let length = soon(socket.read(&mut buffer)).await.unwrap();
        assert_ne!(length, 0, "ended after {read}");
        read.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
    }
    read
}

/// The data of a chunked body without line breaks.
fn without_framing(body: &str) -> String {
    let lines = body.split("\r\n");
    lines.skip(1).step_by(2).collect()
}

/// Fails rather than hangs.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    let patience = tokio::time::timeout(ms(10_000), future);
    patience.await.expect("it happens soon")
}

const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const LAST_CHUNK: &str = "\r\n0\r\n\r\n";

/// What `chunks` come to.
fn whole() -> String {
    ["a", "b", "c"].map(|letter| letter.repeat(CHUNK)).concat()
}

/// Shorter chunks cost more to keep than their bytes, and the cap sees to that.
const CHUNK: usize = 100;
