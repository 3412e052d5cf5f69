//! One thing that goes wrong behind or in a proxy, and how it has to be read.

use std::fmt::Debug;
use std::time::Duration;

use bytes::Bytes;
use evenkeel::backoff::Backoff;
use evenkeel::client::reqwest::SendWith;
use evenkeel::diagnosis::{Cause, Diagnosis, Origin, Persistence, Symptoms};
use evenkeel::http::Http;
use evenkeel::report::Stop;
use evenkeel::verdict::Processed;
use evenkeel::{Error, Pipeline, Report, Retry};
use http::{HeaderMap, Method, Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tower::{ServiceBuilder, ServiceExt};

use crate::program::{Page, Proxy, Running, soon};
use crate::upstream::Upstream;

/// What is done, and what has to come of it.
pub(crate) struct Row {
    path: &'static str,
    /// `None` where what comes is no HTTP.
    status: Option<u16>,
    fair: Vec<Cause>,
    same: Vec<Cause>,
    unread: Vec<Cause>,
    origin: Origin,
    processed: Processed,
    log: &'static str,
    arrivals: usize,
    attempts: [u32; 2],
    stops: [Stop; 2],
    announced: Option<Duration>,
    before: &'static [&'static str],
    beside: Option<&'static str>,
    until: Option<Page<'static>>,
    port: usize,
}

/// A request to this path is answered with this status, for this cause. By default the application
/// answers it, so it arrives once in every attempt, and may have been processed.
pub(crate) fn row(path: &'static str, status: impl Into<Option<u16>>, cause: Cause) -> Row {
    Row {
        path,
        status: status.into(),
        fair: vec![cause],
        same: Vec::new(),
        unread: Vec::new(),
        origin: Origin::Application,
        processed: Processed::Maybe,
        log: "",
        arrivals: 1,
        attempts: [2, 1],
        stops: [Stop::AttemptsExhausted, Stop::NotSafe(Processed::Maybe)],
        announced: None,
        before: &[],
        beside: None,
        until: None,
        port: 0,
    }
}

/// The application's own answers: how the proxy's log says that it passed them on, and who is said to
/// have made one without a mark.
pub(crate) fn passed_on(log: &'static str, unmarked: Origin) -> Vec<Row> {
    let both = "it points both ways";
    let rows = vec![
        row("/app/429", 429, Cause::RateLimit),
        row("/app/500", 500, Cause::ApplicationError),
        row("/app/503", 503, Cause::ApplicationError),
        row("/app/503-empty", 503, Cause::ApplicationError)
            .same_as(Cause::Unknown, "nothing tells who made it")
            .by(unmarked),
        row("/app/503-soon", 503, Cause::ApplicationError)
            .or(Cause::Overload, "who says when says that it is full")
            .back_in(1),
        row("/app/503-later", 503, Cause::ApplicationError)
            .or(Cause::Maintenance, "a quarter of an hour is no overload")
            .same_as(Cause::Unknown, both)
            .later(900),
        row("/app/504", 504, Cause::GatewayTimeout)
            .or(Cause::ApplicationError, "it is a gateway itself")
            .same_as(Cause::Unknown, both),
    ];
    rows.into_iter().map(|row| row.log(log)).collect()
}

impl Row {
    /// Another cause that is as true of it.
    pub(crate) fn or(mut self, cause: Cause, _why: &'static str) -> Self {
        self.fair.push(cause);
        self
    }

    /// Another cause that the very same answer has. It may be named, but not surely.
    pub(crate) fn same_as(mut self, cause: Cause, _why: &'static str) -> Self {
        self.same.push(cause);
        self
    }

    /// What may be named, but not surely, where the body isn't read.
    pub(crate) fn unread(mut self, cause: Cause, _why: &'static str) -> Self {
        self.unread.push(cause);
        self
    }

    /// The proxy answers it, or, for all others, who does. Without the body this may be unknown.
    pub(crate) fn by(mut self, origin: Origin) -> Self {
        self.origin = origin;
        self
    }

    /// Words in the line of the proxy's own log that has this path: that it was this which happened.
    pub(crate) fn log(mut self, words: &'static str) -> Self {
        self.log = words;
        self
    }

    /// It never arrives, and the page says so; but a page is no proof.
    pub(crate) fn not_sent(mut self) -> Self {
        self.processed = Processed::No;
        self.never_arrives()
    }

    /// It never arrives, though nothing tells.
    pub(crate) fn never_arrives(self) -> Self {
        self.arrives(0)
    }

    /// How often each attempt arrives.
    pub(crate) fn arrives(mut self, times: usize) -> Self {
        self.arrivals = times;
        self
    }

    /// It never arrives, and a header proves it: so what isn't idempotent goes again too.
    pub(crate) fn proven(mut self) -> Self {
        self.attempts[1] = self.attempts[0];
        self.stops[1] = self.stops[0];
        self.not_sent()
    }

    /// What only somebody's hand can mend isn't sent again, whatever it is.
    pub(crate) fn permanent(mut self) -> Self {
        self.attempts = [1, 1];
        self.stops = [Stop::NotRetryable; 2];
        self
    }

    /// The caller is told to come back after so many seconds.
    pub(crate) fn back_in(mut self, seconds: u64) -> Self {
        self.announced = Some(Duration::from_secs(seconds));
        self
    }

    /// The same, and it is too far away to wait for it.
    pub(crate) fn later(mut self, seconds: u64) -> Self {
        self.attempts[0] = 1;
        self.stops[0] = Stop::HintTooFar;
        self.back_in(seconds)
    }

    /// Requests that are answered before, whatever the answer.
    pub(crate) fn after(mut self, paths: &'static [&'static str]) -> Self {
        self.before = paths;
        self
    }

    /// A request that is at the application meanwhile.
    pub(crate) fn beside(mut self, path: &'static str) -> Self {
        self.beside = Some(path);
        self
    }

    /// It isn't begun before this stands on a page of the proxy's.
    pub(crate) fn until(mut self, page: Page<'static>) -> Self {
        self.until = Some(page);
        self
    }

    /// Which of the proxy's ports.
    pub(crate) fn at(mut self, port: usize) -> Self {
        self.port = port;
        self
    }

    async fn check(&self, clients: &Clients, proxy: &Running, upstream: &Upstream) -> Vec<String> {
        for path in self.before {
            let _ = clients.reqwest.get(proxy.url(self.port, path)).send().await;
        }
        let held = match self.beside {
            Some(path) => Some(hold(clients, path, self.port, proxy, upstream).await),
            None => None,
        };
        if let Some(page) = &self.until {
            proxy.wait_for(page).await;
        }
        let mut wrong = Vec::new();
        for (which, method) in [Method::GET, Method::POST].into_iter().enumerate() {
            let already = upstream.arrived(&method, self.path);
            let url = proxy.url(self.port, self.path);
            let seen = if which == 0 {
                clients.get(&url).await
            } else {
                clients.post(&url).await
            };
            println!("{method} {}: {seen}", self.path);
            let problems = self.judge(which, &seen);
            if !problems.is_empty() {
                let problems = problems.join(", ");
                wrong.push(format!(
                    "{method} {}: wrong {problems}: {seen:#?}",
                    self.path
                ));
            }
            let expected = self.arrivals * self.attempts[which] as usize;
            let arrived = || upstream.arrived(&method, self.path) - already;
            // A proxy's time limit may be over sooner than a starved application hears of it.
            soon(|| arrived() >= expected).await;
            let arrived = arrived();
            if arrived != expected {
                wrong.push(format!("{method} {}: arrived {arrived} times", self.path));
            }
        }
        if let Some(held) = held {
            held.abort();
        }
        if !self.is_logged(proxy).await {
            let log = proxy.log();
            let lines: Vec<_> = log.lines().filter(|line| self.is_of(line)).collect();
            wrong.push(format!("{}: no {:?} in {lines:#?}", self.path, self.log));
        }
        wrong
    }

    fn judge(&self, which: usize, seen: &Seen) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut check = |holds: bool, what: &str| {
            if !holds {
                wrong.push(what.to_owned());
            }
        };
        let (report, whole) = (&seen.report, &seen.whole);
        check(seen.status == self.status, "status");
        check(report.attempts() == self.attempts[which], "attempts");
        check(report.stop() == Some(self.stops[which]), "stop");

        let quick = report.diagnosis().expect("it failed");
        let fair = |it: &Diagnosis| self.fair.contains(&it.cause());
        let unsure =
            |it: &Diagnosis, of: &[Cause]| of.contains(&it.cause()) && it.confidence() < CONFIDENT;
        let same = |it: &Diagnosis| fair(it) || unsure(it, &self.same);
        check(same(whole), "cause");
        check(
            same(quick) || unsure(quick, &self.unread),
            "cause without the body",
        );
        check(whole.origin() == self.origin, "origin");
        let by = [self.origin, Origin::Unknown];
        check(by.contains(&quick.origin()), "origin without the body");
        check(whole.processed() == self.processed, "processed");
        let known = quick.processed() == self.processed;
        let careful = quick.processed() == Processed::Maybe;
        check(known || careful, "processed without the body");
        if let Some(announced) = self.announced {
            let persistence = Persistence::Announced(announced);
            check(whole.persistence() == persistence, "end");
            check(quick.persistence() == persistence, "end without the body");
            let back = report.retry_after().unwrap_or_default();
            check(back + SLACK >= announced, "when to come back");
            let has_waited = report.attempts() == 1 || report.waited() >= announced;
            check(has_waited, "wait");
        }
        wrong
    }

    /// Logs are written when an answer has gone.
    async fn is_logged(&self, proxy: &Running) -> bool {
        let is_it = |line: &str| self.is_of(line) && line.contains(self.log);
        soon(|| proxy.log().lines().any(is_it)).await
    }

    fn is_of(&self, line: &str) -> bool {
        line.split([' ', '=']).any(|word| word == self.path)
    }
}

/// Starts the proxy, does all that its rows say, one after the other, and fails with all that is
/// wrong.
pub(crate) async fn every_row(proxy: &Proxy) {
    let Some(path) = proxy.find() else {
        return;
    };
    let upstream = Upstream::new().await;
    let running = proxy.start(&path, &upstream).await;
    let clients = Clients::new(proxy.version);
    let mut wrong = Vec::new();
    for row in (proxy.rows)() {
        wrong.extend(row.check(&clients, &running, &upstream).await);
    }
    wrong.extend(cut_off(clients, running, &upstream).await);
    assert!(wrong.is_empty(), "{}: {}", proxy.name, wrong.join("\n"));
}

/// The proxy ends while it works on a request, which may have been processed.
async fn cut_off(clients: Clients, proxy: Running, upstream: &Upstream) -> Vec<String> {
    let row = row("/app/stall", None, Cause::ConnectionFailure).by(Origin::Network);
    let url = proxy.url(row.port, row.path);
    let call = tokio::spawn(async move { clients.post(&url).await });
    let arrived = || upstream.arrived(&Method::POST, row.path);
    assert!(soon(|| arrived() > 0).await, "it doesn't arrive");
    drop(proxy);
    let seen = call.await.expect("no panic");
    let problems = row.judge(1, &seen).into_iter();
    let mut wrong: Vec<_> = problems
        .map(|problem| format!("cut off: wrong {problem}: {seen:#?}"))
        .collect();
    if arrived() != 1 {
        wrong.push("cut off: sent again".to_owned());
    }
    wrong
}

/// What came of one call.
#[derive(Debug)]
struct Seen {
    status: Option<u16>,
    #[allow(dead_code, reason = "shown where something is wrong")]
    headers: HeaderMap,
    #[allow(dead_code, reason = "shown where something is wrong")]
    body: Bytes,
    report: Report,
    /// With the body.
    whole: Diagnosis,
}

impl Seen {
    async fn answer<B>(response: Response<B>) -> Self
    where
        B: http_body::Body<Error: Debug>,
    {
        let report: Option<&Report> = response.extensions().get();
        let status = response.status();
        let report = report.unwrap_or_else(|| panic!("answered at once: {status}"));
        let report = report.clone();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        let response = Response::from_parts(parts, ());
        let whole = Symptoms::of_response(&response)
            .body(&body)
            .elapsed(last(&report))
            .diagnose();
        Self {
            status: Some(status.as_u16()),
            headers: response.headers().clone(),
            body,
            report,
            whole,
        }
    }

    fn failure<E>(error: &Error<E>) -> Self {
        let report = error.report().clone();
        Self {
            status: None,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            whole: report.diagnosis().expect("a failure").clone(),
            report,
        }
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let quick = self.report.diagnosis().expect("a failure");
        let attempts = self.report.attempts();
        let status = self.status.unwrap_or_default();
        write!(
            f,
            "{status}: {attempts} of 2; {quick}; with the body {}",
            self.whole
        )
    }
}

/// How long the last attempt took.
fn last(report: &Report) -> Duration {
    let mut begun = Duration::ZERO;
    let mut took = Duration::ZERO;
    for failure in report.failures() {
        took = failure.at().saturating_sub(begun);
        let wait = failure.wait().map_or(Duration::ZERO, |it| it.length());
        begun = failure.at() + wait;
    }
    took
}

/// GETs go by one client, in HTTP/1.1, and POSTs by the other.
struct Clients {
    reqwest: reqwest::Client,
    hyper: Client<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>>,
}

impl Clients {
    /// Connections aren't kept: whether an old one is still open is another matter.
    fn new(of_posts: Version) -> Self {
        let reqwest = reqwest::Client::builder()
            .no_proxy()
            .pool_max_idle_per_host(0)
            .retry(reqwest::retry::never())
            .build();
        Self {
            reqwest: reqwest.expect("nothing to go wrong"),
            hyper: Client::builder(TokioExecutor::new())
                .pool_max_idle_per_host(0)
                .http2_only(of_posts == Version::HTTP_2)
                .build_http(),
        }
    }

    async fn get(&self, url: &str) -> Seen {
        match self.reqwest.get(url).send_with(&pipeline()).await {
            Ok(response) => Seen::answer(Response::from(response)).await,
            Err(error) => Seen::failure(&error),
        }
    }

    async fn post(&self, url: &str) -> Seen {
        let request = Request::post(url).body(Full::from("an order"));
        let request = request.expect("a valid request");
        let service = ServiceBuilder::new()
            .layer(pipeline())
            .service(self.hyper.clone());
        match service.oneshot(request).await {
            Ok(response) => Seen::answer(response).await,
            Err(error) => Seen::failure(&error),
        }
    }
}

/// As everybody has it, with two attempts and hardly a wait between them.
fn pipeline() -> Pipeline<Http> {
    let quick = Backoff::exponential(Duration::from_millis(2));
    let retry = Retry::new(quick)
        .max_attempts(2)
        .hint_spread(Duration::ZERO);
    Pipeline::http().retry(retry)
}

/// Sends a request that isn't answered, and waits until it is at the application.
async fn hold(
    clients: &Clients,
    path: &'static str,
    port: usize,
    proxy: &Running,
    upstream: &Upstream,
) -> tokio::task::AbortHandle {
    let sent = clients.reqwest.get(proxy.url(port, path)).send();
    let held = tokio::spawn(sent);
    let is_there = soon(|| upstream.arrived(&Method::GET, path) > 0).await;
    assert!(is_there && !held.is_finished(), "{path} is answered");
    held.abort_handle()
}

/// In percent. What is named with less says itself that it may be wrong.
const CONFIDENT: u8 = 80;

/// Between the answer and the end of the call.
const SLACK: Duration = Duration::from_secs(5);
