//! One request through any door of any client.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use evenkeel::client::reqwest::SendWith;
use evenkeel::http::{Http, is_idempotent};
use evenkeel::testing::{Received, Reply, Server};
use evenkeel::{Error, Event, Pipeline, Retry, backoff::Backoff};
use http::{Method, Request, Version};
use http_body_util::Full;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use tower::{ServiceBuilder, ServiceExt};

use crate::outcome::{Failed, Outcome};

pub(crate) type HyperClient = Client<HttpConnector, Full<Bytes>>;

/// A client, and how its requests get into the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// hyper-util's client as a tower service.
    Hyper,
    /// reqwest's client as a tower service.
    Reqwest,
    /// reqwest, inside a closure.
    ReqwestInClosure,
    /// reqwest behind reqwest-middleware.
    ReqwestMiddleware,
    /// reqwest's request builder.
    ReqwestSendWith,
}

pub(crate) const DOORS: [Door; 5] = [
    Door::Hyper,
    Door::Reqwest,
    Door::ReqwestInClosure,
    Door::ReqwestMiddleware,
    Door::ReqwestSendWith,
];

pub(crate) const VERSIONS: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

/// A door, and the version of HTTP that is spoken behind it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    pub(crate) door: Door,
    pub(crate) version: Version,
}

/// Runs a row through every door over both versions.
pub(crate) async fn every_way(row: impl AsyncFn(Way)) {
    for version in VERSIONS {
        every_way_over(version, &row).await;
    }
}

/// Runs a row through every door over one version, where the other can't show it.
pub(crate) async fn every_way_over(version: Version, row: impl AsyncFn(Way)) {
    for door in DOORS {
        let way = Way { door, version };
        // Shown if the row fails.
        println!("{way:?}");
        row(way).await;
    }
}

impl Way {
    /// A server with this script, a new client, and a pipeline with short waits.
    pub(crate) async fn against(self, replies: impl IntoIterator<Item = Reply>) -> Scene {
        let server = Server::scripted(replies).await.expect("a free port");
        Scene {
            way: self,
            clients: Clients::new(self.version),
            pipeline: pipeline(),
            on_retry: Arc::new(|| {}),
            server: Arc::new(server),
        }
    }
}

/// Up to three attempts, a few milliseconds apart; nothing shared with other calls.
pub(crate) fn pipeline() -> Pipeline<Http> {
    let quick = Backoff::exponential(Duration::from_millis(2));
    let retry = Retry::new(quick).hint_spread(Duration::ZERO);
    Pipeline::http().retry(retry)
}

/// Both clients; only one is used.
#[derive(Clone)]
pub(crate) struct Clients {
    pub(crate) hyper: HyperClient,
    pub(crate) reqwest: reqwest::Client,
}

impl Clients {
    pub(crate) fn new(version: Version) -> Self {
        let hyper = Client::builder(TokioExecutor::new())
            .http2_only(version == Version::HTTP_2)
            .build_http();
        let reqwest = reqwest_builder(version)
            .build()
            .expect("nothing to go wrong");
        Self { hyper, reqwest }
    }
}

/// Without the repeats that reqwest makes by itself, which would hide the pipeline's.
pub(crate) fn reqwest_builder(version: Version) -> reqwest::ClientBuilder {
    let builder = reqwest::Client::builder()
        .no_proxy()
        .retry(reqwest::retry::never());
    match version {
        Version::HTTP_2 => builder.http2_prior_knowledge(),
        _ => builder.http1_only(),
    }
}

/// One row's server and client.
pub(crate) struct Scene {
    pub(crate) server: Arc<Server>,
    way: Way,
    pipeline: Pipeline<Http>,
    clients: Clients,
    on_retry: Arc<dyn Fn() + Send + Sync>,
}

impl Scene {
    /// Changes the pipeline.
    pub(crate) fn with(mut self, change: impl FnOnce(Pipeline<Http>) -> Pipeline<Http>) -> Self {
        self.pipeline = change(self.pipeline);
        self
    }

    /// Does something between a failed attempt and the next.
    pub(crate) fn on_retry(mut self, act: impl Fn() + Send + Sync + 'static) -> Self {
        self.on_retry = Arc::new(act);
        self
    }

    pub(crate) async fn get(&self) -> Outcome {
        self.send(self.request(Method::GET, "")).await
    }

    pub(crate) async fn post(&self) -> Outcome {
        self.send(self.request(Method::POST, "an order")).await
    }

    pub(crate) fn request(&self, method: Method, body: &'static str) -> Request<Bytes> {
        let request = Request::builder().method(method).uri(self.server.url("/"));
        request.body(body.into()).expect("a valid request")
    }

    pub(crate) async fn send(&self, request: Request<Bytes>) -> Outcome {
        let events = Arc::new(Mutex::new(Vec::new()));
        let (told, on_retry) = (Arc::clone(&events), Arc::clone(&self.on_retry));
        let pipeline = self.pipeline.clone().observer(move |event: &Event| {
            told.lock().unwrap().push(*event);
            if let Event::Retry { .. } = event {
                on_retry();
            }
        });
        let mut outcome = self.through_the_door(pipeline, request).await;
        outcome.events = std::mem::take(&mut *events.lock().unwrap());
        let version = self.way.version;
        let received = self.received();
        assert!(received.iter().all(|request| request.version() == version));
        // What a closure returns is its own, and has no place for a report.
        if self.way.door != Door::ReqwestInClosure || outcome.answer.is_err() {
            outcome.check_report();
        }
        outcome
    }

    async fn through_the_door(&self, pipeline: Pipeline<Http>, request: Request<Bytes>) -> Outcome {
        if self.way.door == Door::Hyper {
            let service = ServiceBuilder::new()
                .layer(pipeline)
                .service(self.clients.hyper.clone());
            let result = service.oneshot(request.map(Full::new)).await;
            return match result {
                Ok(response) => Outcome::answered(response).await,
                Err(error) => Outcome::failed(&error),
            };
        }
        let client = self.clients.reqwest.clone();
        let is_idempotent = is_idempotent(request.method(), request.headers());
        let request = reqwest::Request::try_from(request).expect("the same in reqwest's words");
        let result = match self.way.door {
            Door::Hyper => unreachable!("done above"),
            Door::Reqwest => {
                let service = ServiceBuilder::new().layer(pipeline).service(client);
                service.oneshot(request).await
            }
            Door::ReqwestInClosure => {
                // Inside a closure nobody but the caller knows the method.
                let pipeline = pipeline.idempotent(is_idempotent);
                let attempt = |_| client.execute(request.try_clone().expect("a body of bytes"));
                pipeline.run(attempt).await
            }
            Door::ReqwestMiddleware => {
                return through_middleware(pipeline, client, request).await;
            }
            Door::ReqwestSendWith => {
                let builder = reqwest::RequestBuilder::from_parts(client, request);
                builder.send_with(&pipeline).await
            }
        };
        match result {
            Ok(response) => Outcome::answered(response.into()).await,
            Err(error) => Outcome::failed(&error),
        }
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.server.received()
    }

    /// How many requests arrived.
    pub(crate) fn requests(&self) -> usize {
        self.received().len()
    }
}

async fn through_middleware(
    pipeline: Pipeline<Http>,
    client: reqwest::Client,
    request: reqwest::Request,
) -> Outcome {
    let client = reqwest_middleware::ClientBuilder::new(client)
        .with(pipeline)
        .build();
    let mut extensions = http::Extensions::new();
    match client
        .execute_with_extensions(request, &mut extensions)
        .await
    {
        Ok(response) => Outcome::answered(response.into()).await,
        Err(reqwest_middleware::Error::Middleware(error)) => {
            let error = error.downcast::<Error<reqwest_middleware::Error>>();
            Outcome::failed(&error.expect("the pipeline's own"))
        }
        Err(own @ reqwest_middleware::Error::Reqwest(_)) => Outcome {
            answer: Err(Failed::Own(Http::new().error(&own))),
            report: Some(extensions.remove().expect("left by the pipeline")),
            events: Vec::new(),
        },
    }
}

/// The bodies that arrived.
pub(crate) fn bodies(server: &Server) -> Vec<String> {
    let text = |body: &[u8]| String::from_utf8_lossy(body).into_owned();
    let received = server.received();
    received
        .iter()
        .map(|request| text(request.body()))
        .collect()
}

pub(crate) fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub(crate) fn status(code: u16) -> Reply {
    Reply::status(code)
}

/// The answer that all calls hope for.
pub(crate) fn ok() -> Reply {
    status(200).body("here you are")
}
