//! One outage, met in three ways: without evenkeel, with its defaults, and with settings that
//! bridge it.
//!
//! A server on this machine is well for 0.8 s. Then it is slow (stalls and 504s), crashes (resets,
//! and a port that refuses), comes back with too much to do (503 and `Retry-After: 1`), and after
//! 2.5 s is well again. Two clients, reqwest's and hyper-util's, send it a request each every
//! 30 ms all the while. One request in four is a POST without an idempotency key. It is played
//! three times at once, each time with a server of its own.
//!
//! It prints what was done for some of the calls, and a comparison. What is promised is checked
//! with `assert!`, by what arrived at the servers.
//!
//! `cargo run --example quickstart --all-features`

use std::collections::{BTreeMap, HashMap, HashSet};
use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use evenkeel::client::reqwest::SendWith;
use evenkeel::http::Http;
use evenkeel::report::Stop;
use evenkeel::testing::{Received, Reply, Server};
use evenkeel::{Budget, Event, Pipeline, Retry, budget::Ratio};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use tokio::time::{sleep, sleep_until, timeout};
use tower::{Layer, ServiceExt};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    // Adds a tenth to the load at most. While everything fails that isn't enough for all calls.
    let default = Pipeline::http().timeout(PATIENCE);

    // Spends what it takes to get through: several attempts for each call of the outage. That is
    // for work that has to be done, by a client that is a small part of the server's load. If all
    // clients did it, they would keep the server down.
    let budget = Budget::new(Ratio::percent(100)).capacity(RESERVE);
    let retry = Retry::default().max_attempts(12).budget(budget);
    let bridging = Pipeline::http().timeout(PATIENCE).retry(retry);

    println!("An outage of 2.5 s. What the defaults did for some of the calls:\n");
    let (without, default, bridging) =
        tokio::try_join!(play(None), play(Some(default)), play(Some(bridging)))?;
    tell(&default.events);

    let runs = [&without, &default, &bridging];
    println!(
        "{:24}{:>12}{:>12}{:>12}",
        "", "without", "default", "bridging"
    );
    let row = |name: &str, of: fn(&Run) -> String| {
        let [without, default, bridging] = runs.map(of);
        println!("{name:24}{without:>12}{default:>12}{bridging:>12}");
    };
    row("requests", |_| CALLS.to_string());
    row("succeeded", |it| percent(it.succeeded(|_| true), CALLS));
    row("  of the GETs", |it| percent(it.succeeded(is_get), gets()));
    row("extra load", |it| percent(it.extra, CALLS));
    row("connections used", |it| it.connections.to_string());
    row("POSTs handled twice", |it| it.repeated_posts.to_string());
    row("soonest after a 503", |it| {
        it.soonest.map_or("-".into(), |it| format!("{it:.2?}"))
    });

    // 1. What could succeed within its deadline, and may be repeated, did: all GETs, by both
    //    clients. No call ended for want of anything, but for what isn't safe to repeat.
    assert_eq!(bridging.succeeded(is_get), gets());
    assert!(bridging.stops().all(|it| matches!(it, Stop::NotSafe(_))));
    // Under the defaults the reserve for the outage is all that was wanting.
    assert!(default.stops().all(|it| matches!(
        it,
        Stop::AttemptsExhausted | Stop::BudgetExhausted | Stop::NotSafe(_)
    )));

    // 3. A capacity to begin with, and a share of what was asked for: never more.
    assert_eq!(without.extra, 0);
    assert!(default.extra <= 3 + CALLS / 10);
    assert!(bridging.extra <= RESERVE as usize + CALLS);

    for run in runs {
        // 2. Nothing this server does proves that it left a request alone, but for a closed port,
        //    and there nothing arrives. So no POST may arrive twice.
        assert_eq!(run.repeated_posts, 0);
        // 3. The server saw no more either. It saw less: some found the port closed.
        assert!(run.repetitions <= run.extra);
        // 4. No retry came before it was asked to.
        assert!(run.soonest.is_none_or(|it| it >= RETRY_AFTER));
    }

    // 5. Rejected responses don't cost their connections.
    let [dropped, reqwest, hyper] = rejections().await?;
    println!("\nconnections for {REJECTIONS} rejections in a row, with bodies of 8 kB:");
    println!("dropped unread {dropped}, send_with {reqwest}, layer {hyper}");
    assert_eq!((reqwest, hyper), (1, 1));
    Ok(())
}

/// What the server does with a request.
#[derive(PartialEq)]
enum Mood {
    /// 503, and the client is asked to stay away for [`RETRY_AFTER`].
    Busy,
    /// 504: nobody knows what became of the request.
    GaveUp,
    /// The connection is reset.
    Reset,
    /// No answer.
    Stall,
    Well,
}

/// The script, by the time since the start. That the server is [`GONE`] is up to [`play`].
fn mood(start: Instant, request: &Received) -> Mood {
    let at = request.at().saturating_duration_since(start);
    match (at.as_millis(), request.number() % 7) {
        (800..1600, 1) => Mood::Stall,
        (800..1600, 4) => Mood::GaveUp,
        (1600..1800, _) => Mood::Reset,
        (2200..3300, 0..5) => Mood::Busy,
        _ => Mood::Well,
    }
}

/// When nobody listens on the server's port.
const GONE: [Duration; 2] = [Duration::from_millis(1800), Duration::from_millis(2200)];

/// What came of one run.
struct Run {
    answers: Vec<Option<StatusCode>>,
    events: Vec<(Duration, Event)>,
    /// Attempts beside the first ones, as the budget counts them.
    extra: usize,
    /// The same, as far as they arrived.
    repetitions: usize,
    connections: usize,
    repeated_posts: usize,
    /// The shortest time from a 503 to the next attempt of the same call.
    soonest: Option<Duration>,
}

impl Run {
    fn succeeded(&self, which: fn(usize) -> bool) -> usize {
        let calls = (0..CALLS).filter(|&id| which(id));
        calls
            .filter(|&id| self.answers[id] == Some(StatusCode::OK))
            .count()
    }

    /// Why calls were given up.
    fn stops(&self) -> impl Iterator<Item = Stop> {
        self.events.iter().filter_map(|(_, event)| stop(event))
    }
}

/// Sends all requests, bare or through the pipeline.
async fn play(pipeline: Option<Pipeline<Http>>) -> io::Result<Run> {
    let start = Instant::now();
    let server = Server::with(move |request| match mood(start, request) {
        Mood::Busy => Reply::status(503).header("retry-after", RETRY_AFTER.as_secs()),
        Mood::GaveUp => Reply::status(504),
        Mood::Reset => Reply::reset(),
        Mood::Stall => Reply::stall(),
        Mood::Well => Reply::status(200),
    })
    .await?;
    let events = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&events);
    let pipeline = pipeline.map(|it| {
        it.observer(move |event: &Event| log.lock().unwrap().push((start.elapsed(), *event)))
    });

    let clients = Clients::new();
    let calls: Vec<_> = (0..CALLS)
        .map(|id| {
            let call = send(id, server.url("/orders"), clients.clone(), pipeline.clone());
            let turn = start + PACE * u32::try_from(id / 2).expect("a small number");
            tokio::spawn(async move {
                sleep_until(turn.into()).await;
                call.await
            })
        })
        .collect();
    sleep_until((start + GONE[0]).into()).await;
    server.refuse();
    sleep_until((start + GONE[1]).into()).await;
    server.accept().await?;
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await?);
    }

    // Every attempt carries its call's id, so the server can tell which requests are repetitions.
    let received = server.received();
    let mut attempts: HashMap<_, Vec<_>> = HashMap::new();
    for request in &received {
        let id = &request.headers()[CALL_ID];
        attempts.entry(id).or_default().push(request);
    }
    let repeated = attempts.values().filter(|it| it.len() > 1);
    let pairs = attempts.values().flat_map(|it| it.windows(2));
    let told = pairs.filter(|pair| mood(start, pair[0]) == Mood::Busy);
    let budget = pipeline.as_ref().and_then(Pipeline::budget);
    let extra = budget.map_or(0, |it| it.snapshot().extra_attempts);
    let events = events.lock().unwrap().clone();
    Ok(Run {
        answers,
        events,
        extra: usize::try_from(extra).expect("a small number"),
        repetitions: received.len() - attempts.len(),
        connections: server.connections(),
        repeated_posts: repeated.filter(|it| it[0].method() == Method::POST).count(),
        soonest: told.map(|pair| pair[1].at() - pair[0].at()).min(),
    })
}

/// Makes one call: the even ones with reqwest, the odd ones with hyper-util.
async fn send(
    id: usize,
    url: String,
    clients: Clients,
    pipeline: Option<Pipeline<Http>>,
) -> Option<StatusCode> {
    let method = if is_get(id) {
        Method::GET
    } else {
        Method::POST
    };
    if id % 2 == 0 {
        let request = clients.reqwest.request(method, url).header(CALL_ID, id);
        let answer = match pipeline {
            Some(pipeline) => request.send_with(&pipeline).await.ok(),
            None => timeout(PATIENCE, request.send()).await.ok()?.ok(),
        };
        return answer.map(|it| it.status());
    }
    let request = Request::builder().method(method).uri(url);
    let request = request.header(CALL_ID, id).body(Full::default()).ok()?;
    let client = clients.hyper;
    let answer = match pipeline {
        Some(pipeline) => pipeline.layer(client).oneshot(request).await.ok(),
        None => timeout(PATIENCE, client.request(request)).await.ok()?.ok(),
    };
    answer.map(|it| it.status())
}

/// How many connections it takes to be rejected again and again: if the client drops the
/// responses, and if a pipeline repeats the call, through each of the two clients.
async fn rejections() -> Result<[usize; 3], Box<dyn Error>> {
    let busy = || Server::scripted([Reply::status(503).body(vec![b'x'; 8 * 1024])]);
    let servers = [busy().await?, busy().await?, busy().await?];
    let [dropped, reqwest, hyper] = servers.each_ref().map(|it| it.url("/orders"));
    let clients = Clients::new();
    let pause = Duration::from_millis(10);
    for _ in 0..REJECTIONS {
        drop(clients.reqwest.get(&dropped).send().await?);
        sleep(pause).await;
    }
    let pipeline = Pipeline::http().retry(Retry::constant(pause).max_attempts(REJECTIONS));
    clients.reqwest.get(reqwest).send_with(&pipeline).await?;
    let request = Request::get(hyper).body(Full::default())?;
    pipeline.layer(clients.hyper).oneshot(request).await?;
    for server in &servers {
        assert_eq!(server.received().len(), REJECTIONS as usize);
    }
    Ok(servers.map(|it| it.connections()))
}

type Hyper = legacy::Client<HttpConnector, Full<Bytes>>;

#[derive(Clone)]
struct Clients {
    reqwest: reqwest::Client,
    hyper: Hyper,
}

impl Clients {
    fn new() -> Self {
        // The server is on this machine; without a proxy it can be reached wherever this runs.
        let reqwest = reqwest::Client::builder().no_proxy().build();
        Self {
            reqwest: reqwest.expect("there is no TLS to set up"),
            hyper: legacy::Client::builder(TokioExecutor::new()).build_http(),
        }
    }
}

/// Prints the first call of each kind: what it met first, and why it was given up, if it was.
fn tell(events: &[(Duration, Event)]) {
    let mut calls: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (at, event) in events {
        calls.entry(event.call()).or_default().push((at, event));
    }
    let mut told = HashSet::new();
    for (call, story) in calls {
        let (first, last) = (story[0].1, story[story.len() - 1].1);
        let met = first.verdict().map(|it| it.error_type());
        if !told.insert((met, stop(last))) {
            continue;
        }
        println!("call {call}");
        for (at, event) in &story {
            println!("  {:.2} s  {}", at.as_secs_f64(), line(event));
        }
        let end = stop(last).map_or("succeeded", |_| "failed");
        println!("          {end}\n");
    }
}

/// What happened, and what is done about it.
fn line(event: &Event) -> String {
    let attempt = event.attempt();
    let met = event.verdict().map(|it| it.error_type().to_string());
    let met = met.unwrap_or("not sent".into());
    match event {
        Event::Held { wait, .. } | Event::Retry { wait, .. } => {
            let (length, reason) = (wait.length(), wait.reason());
            format!("attempt {attempt}: {met}; waits {length:.0?} ({reason})")
        }
        Event::Stop { stop, .. } => format!("attempt {attempt}: {met}; no more: {stop}"),
        other => format!("{other:?}"),
    }
}

fn stop(event: &Event) -> Option<Stop> {
    match event {
        Event::Stop { stop, .. } => Some(*stop),
        _ => None,
    }
}

fn is_get(id: usize) -> bool {
    !matches!(id % 8, 3 | 6)
}

fn gets() -> usize {
    (0..CALLS).filter(|&id| is_get(id)).count()
}

fn percent(part: usize, whole: usize) -> String {
    let tenths = part * 1000 / whole;
    format!("{}.{} %", tenths / 10, tenths % 10)
}

const CALLS: usize = 264;

/// Between one pair of calls and the next.
const PACE: Duration = Duration::from_millis(30);

/// How long an attempt may take, with evenkeel and without.
const PATIENCE: Duration = Duration::from_millis(500);

const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Extra attempts at hand when the outage begins.
const RESERVE: u32 = 400;

const REJECTIONS: u32 = 10;

const CALL_ID: &str = "x-call-id";
