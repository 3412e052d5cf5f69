use std::cell::RefCell;
use std::convert::Infallible;
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bytes::Bytes;
use evenkeel::client::reqwest::SendWith as _;
use evenkeel::http::{SavedRequest, service_key};
use evenkeel::verdict::Verdict;
use evenkeel::{Budget, Key, Keyed, Pipeline, Window};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use reqwest_retry::RetryTransientMiddleware;
use reqwest_retry::policies::ExponentialBackoff;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tower::{BoxError, Layer as _, Service, ServiceBuilder};

use crate::cases;
use crate::measure::{Goal, Role, Row, Sampler, Unit};
use crate::rows::pipeline::{ATTEMPT, TOTAL, Thrice, plenty};

pub fn hyper_util() -> Row {
    let runtime = runtime();
    let client: Client<HttpConnector, Empty<Bytes>> =
        Client::builder(TokioExecutor::new()).build_http();
    let tower = ServiceBuilder::new()
        .timeout(TOTAL)
        .retry(Thrice(plenty()))
        .timeout(ATTEMPT)
        .service(client.clone());
    Row::new(
        "one GET over loopback, hyper-util",
        Unit::Microseconds,
        Goal::OfFloorInPairs(1.03),
        "`Pipeline::http()` around the client, against the client alone; the connection is kept, a server on the other processor answers two bytes. \
         tower: two timeouts, retry with budget, no breaker and no window.",
    )
    .with(Role::Floor, "the client alone", getting(&runtime, client.clone()))
    .with(Role::Aside, "by hand, what is promised and nothing else", {
        let uri: http::Uri = format!("http://{}/", server()).parse().expect("a URI");
        let (client, hand) = (client.clone(), Rc::new(Hand::new()));
        each(&runtime, move || {
            let mut request = Request::new(Empty::new());
            *request.uri_mut() = uri.clone();
            let (client, hand) = (client.clone(), Rc::clone(&hand));
            async move {
                let saved = black_box(SavedRequest::of(&request));
                let (host, port) = (request.uri().host(), request.uri().port_u16());
                let key = service_key(host.expect("a host"), port.expect("a port"));
                let response = hand.around(key, client.request(request)).await;
                drop(saved);
                response.into_body().collect().await.expect("a body").to_bytes()
            }
        })
    })
    .with(Role::Ours, "evenkeel", getting(&runtime, Pipeline::http().layer(client)))
    .with(Role::Peer, "tower", getting(&runtime, tower))
}

pub fn reqwest() -> Row {
    let runtime = runtime();
    let url = format!("http://{}/", server());
    let client = reqwest::Client::builder().no_proxy().build();
    let client = client.expect("a client");
    let policy = ExponentialBackoff::builder().build_with_max_retries(2);
    let retrying = reqwest_middleware::ClientBuilder::new(client.clone())
        .with(RetryTransientMiddleware::new_with_policy(policy))
        .build();
    Row::new(
        "one GET over loopback, reqwest",
        Unit::Microseconds,
        Goal::OfFloorInPairs(1.03),
        "`send_with(&Pipeline::http())` in place of `send()`. reqwest-retry retries and does nothing else. Whoever may send a \
         request again has to copy it first, and reqwest's own way to do that is part of what it costs.",
    )
    .with(Role::Floor, "the client alone", {
        let (client, url) = (client.clone(), url.clone());
        each(&runtime, move || {
            let (client, url) = (client.clone(), url.clone());
            async move {
                let response = client.get(&url).send().await.expect("an answer");
                response.bytes().await.expect("a body")
            }
        })
    })
    .with(Role::Aside, "by hand, what is promised and nothing else", {
        let (client, url, hand) = (client.clone(), url.clone(), Rc::new(Hand::new()));
        each(&runtime, move || {
            let (client, url, hand) = (client.clone(), url.clone(), Rc::clone(&hand));
            async move {
                let request = client.get(&url).build().expect("a request");
                let copy = black_box(request.try_clone());
                let (host, port) = (request.url().host_str(), request.url().port());
                let key = service_key(host.expect("a host"), port.expect("a port"));
                let response = hand.around(key, client.execute(request)).await;
                drop(copy);
                response.bytes().await.expect("a body")
            }
        })
    })
    .with(Role::Ours, "evenkeel", {
        let (client, url, pipeline) = (client.clone(), url.clone(), Pipeline::http());
        each(&runtime, move || {
            let (client, url, pipeline) = (client.clone(), url.clone(), pipeline.clone());
            async move {
                let response = client.get(&url).send_with(&pipeline).await;
                response.expect("an answer").bytes().await.expect("a body")
            }
        })
    })
    .with(Role::Peer, "reqwest-retry", {
        each(&runtime, move || {
            let (client, url) = (retrying.clone(), url.clone());
            async move {
                let response = client.get(&url).send().await.expect("an answer");
                response.bytes().await.expect("a body")
            }
        })
    })
}

/// The window of a host, a budget and a timer around a request, and nothing else.
struct Hand {
    windows: Keyed<Window>,
    budget: Budget,
}

impl Hand {
    fn new() -> Self {
        Self {
            windows: Keyed::new(Window::new()),
            budget: cases::retry::plenty(),
        }
    }

    async fn around<T, E: std::fmt::Debug>(
        &self,
        key: Key,
        request: impl Future<Output = Result<T, E>>,
    ) -> T {
        let began = Instant::now();
        let window = self.windows.get(key, || began).into_inner();
        let permit = window.try_acquire(began).expect("it is open");
        if self.budget.deposit() {
            self.budget.tick(began);
        }
        let end = tokio::time::Instant::from_std(began + ATTEMPT);
        let response = tokio::time::timeout_at(end, request).await;
        let now = Instant::now();
        permit.record(Verdict::success(), now - began, now);
        response.expect("in time").expect("an answer")
    }
}

fn getting<S>(runtime: &Rc<Runtime>, service: S) -> Sampler
where
    S: Service<Request<Empty<Bytes>>, Response = Response<Incoming>> + 'static,
    S::Error: Into<BoxError>,
    S::Future: 'static,
{
    let uri: http::Uri = format!("http://{}/", server()).parse().expect("a URI");
    let service = Rc::new(RefCell::new(service));
    each(runtime, move || {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = uri.clone();
        let service = Rc::clone(&service);
        async move {
            std::future::poll_fn(|cx| service.borrow_mut().poll_ready(cx))
                .await
                .map_err(Into::into)
                .expect("ready");
            let call = service.borrow_mut().call(request);
            let response = call.await.map_err(Into::into).expect("an answer");
            response
                .into_body()
                .collect()
                .await
                .expect("a body")
                .to_bytes()
        }
    })
}

/// Microseconds for one of `get`, out of some one after another.
fn each<F>(runtime: &Rc<Runtime>, get: impl Fn() -> F + 'static) -> Sampler
where
    F: Future<Output = Bytes>,
{
    const GETS: u32 = 20;
    let runtime = Rc::clone(runtime);
    Box::new(move || {
        runtime.block_on(async {
            for _ in 0..GETS {
                black_box(get().await);
            }
            let begun = Instant::now();
            for _ in 0..GETS {
                black_box(get().await);
            }
            begun.elapsed().as_secs_f64() * 1e6 / f64::from(GETS)
        })
    })
}

fn runtime() -> Rc<Runtime> {
    let runtime = Builder::new_current_thread().enable_all().build();
    Rc::new(runtime.expect("a runtime"))
}

/// A server of its own thread, for all rows.
fn server() -> SocketAddr {
    static SERVER: OnceLock<SocketAddr> = OnceLock::new();
    *SERVER.get_or_init(|| {
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
                let listener = listener.expect("a port");
                tell.send(listener.local_addr().expect("its address"))
                    .expect("asked");
                loop {
                    let Ok((stream, _)) = listener.accept().await else {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        continue;
                    };
                    let _ = stream.set_nodelay(true);
                    let answer = service_fn(|_| async {
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"ok"))))
                    });
                    let connection = hyper::server::conn::http1::Builder::new();
                    tokio::spawn(connection.serve_connection(TokioIo::new(stream), answer));
                }
            });
        });
        told.recv().expect("it runs")
    })
}
