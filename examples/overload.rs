//! A fleet of clients and one service that is slow for two seconds: why retries keep it down, and
//! what a congestion window does instead.
//!
//! The service can do 200 requests per second and is asked for 130, by twenty clients that know
//! nothing of each other. For two seconds it has a third of its workers. It takes requests in the
//! order of their arrival, doesn't notice that a client has given up, and answers 503 when its line
//! is full: like most services.
//!
//! That happens twice at the same time, each time with a server of its own: once the clients make
//! up to three plain retries, with full jitter; once they have a window and a budget besides. The
//! calls are the same. The chart shows what becomes of them, and what it shows is checked with
//! `assert!`.
//!
//! `cargo run --release --example overload --all-features`

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use evenkeel::budget::Ratio;
use evenkeel::client::reqwest::SendWith;
use evenkeel::http::Http;
use evenkeel::testing::{Reply, Server};
use evenkeel::{Budget, Keyed, Pipeline, Retry, Rng, Window};
use reqwest::Client;
use tokio::time::sleep;

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let plain = |_| policies().no_window();
    let budget = || Budget::new(Ratio::percent(50));
    let careful = |windows| policies().retry(retry().budget(budget())).window(windows);
    let (plain, careful) = tokio::try_join!(play(plain), play(careful))?;

    println!("capacity 200/s, calls 130/s; from 1.5 s to 3.5 s a third of the capacity");
    println!("# two calls answered in time, in this quarter of a second\n");
    println!("{:17}{:39}with a congestion window", "", "plain retries");
    let columns = format!("{:>6} {:18}{:>5}", "sent", "answered", "line");
    println!(
        "{:>7}{columns:38}{columns}{:>9}{:>8}",
        "time", "limited", "parked"
    );
    for (one, two) in plain.rows.iter().zip(&careful.rows) {
        let (at, chart) = (one.at.as_secs_f64(), one.to_string());
        let (limited, parked) = (two.limited, two.parked);
        println!("{at:>5.2} s{chart:38}{two}{limited:>9}{parked:>8}");
    }

    println!("\n{:>38}{:>12}", "plain", "window");
    let row = |name: &str, of: fn(&Run) -> String| {
        println!("{name:26}{:>12}{:>12}", of(&plain), of(&careful));
    };
    row("calls", |_| CALLS.to_string());
    row("answered in time", |it| percent(it.answered(ALWAYS), CALLS));
    row("  of the last two seconds", |it| {
        percent(it.answered(LATE), it.asked(LATE))
    });
    row("attempts sent", |it| it.arrived.to_string());
    row("work for nobody", |it| percent(it.wasted(), it.worked));

    let late = plain.late + careful.late;
    if late * 50 > 2 * CALLS {
        println!("\n{late} calls began late: this machine is too busy for a fair game");
        return Ok(());
    }
    // The cause was gone after 3.5 s. Plain retries keep the service as busy as it was, with
    // requests whose clients don't wait for the answer any more; the window lets it recover.
    assert!(careful.answered(ALWAYS) > plain.answered(ALWAYS));
    assert!(careful.answered(LATE) > 2 * plain.answered(LATE));
    assert!(2 * careful.answered(LATE) > careful.asked(LATE));
    assert!(careful.arrived < plain.arrived);
    assert!(careful.wasted() * plain.worked < plain.wasted() * careful.worked);
    Ok(())
}

/// What both fleets have in common.
fn policies() -> Pipeline<Http> {
    let pipeline = Pipeline::http().deadline(DEADLINE).timeout(PATIENCE);
    pipeline.retry(retry())
}

fn retry() -> Retry {
    Retry::exponential(Duration::from_millis(50)).max_attempts(4)
}

/// The service: a line, and workers that take from its front.
struct Service {
    start: Instant,
    /// When each worker is free again.
    free: [Duration; WORKERS],
    /// When work on each request that was taken in began, or will. Never earlier than on the one
    /// before.
    begun: Vec<Duration>,
    rejected: usize,
}

impl Service {
    /// The answer to a request is known when it arrives: it will be worked on, come what may.
    fn take(&mut self, arrived: Instant) -> Reply {
        let at = arrived.saturating_duration_since(self.start);
        if self.line(at) >= LINE {
            self.rejected += 1;
            return Reply::status(503);
        }
        let turns = (0..WORKERS).map(|worker| (self.turn(worker, at), worker));
        let (begin, worker) = turns.min().expect("there are workers");
        self.begun.push(begin);
        self.free[worker] = begin + WORK;
        Reply::status(200).after((begin + WORK).saturating_sub(at))
    }

    /// When this worker can begin. Most of them are away for a while.
    fn turn(&self, worker: usize, at: Duration) -> Duration {
        let turn = self.free[worker].max(at);
        if worker >= WORKERS / 3 && AWAY.contains(&turn) {
            return AWAY.end;
        }
        turn
    }

    /// How many stand in line.
    fn line(&self, at: Duration) -> usize {
        let from_the_end = self.begun.iter().rev();
        from_the_end.take_while(|begin| **begin > at).count()
    }

    fn arrived(&self) -> usize {
        self.begun.len() + self.rejected
    }
}

/// What came of one run.
struct Run {
    /// When each call was made, counted from the start, and whether it was answered in time.
    calls: Vec<(Duration, bool)>,
    /// Attempts that arrived at the service, and how many of them it worked on.
    arrived: usize,
    worked: usize,
    /// Calls that began late, because this machine had no time for them.
    late: usize,
    rows: Vec<Row>,
}

/// One line of the chart.
struct Row {
    at: Duration,
    sent: usize,
    answered: usize,
    line: usize,
    /// Clients whose window isn't open.
    limited: usize,
    parked: usize,
}

impl Run {
    fn asked(&self, when: Range<Duration>) -> usize {
        let calls = self.calls.iter();
        calls.filter(|(at, _)| when.contains(at)).count()
    }

    fn answered(&self, when: Range<Duration>) -> usize {
        let calls = self.calls.iter();
        calls.filter(|(at, ok)| *ok && when.contains(at)).count()
    }

    /// Requests that were worked on, but whose clients had given up.
    fn wasted(&self) -> usize {
        self.worked - self.answered(ALWAYS)
    }
}

/// Makes all calls, and looks at the service and at the windows now and then.
async fn play(policies: impl Fn(Keyed<Window>) -> Pipeline<Http>) -> io::Result<Run> {
    let start = Instant::now();
    let service = Arc::new(Mutex::new(Service {
        start,
        free: [Duration::ZERO; WORKERS],
        begun: Vec::new(),
        rejected: 0,
    }));
    let behind = Arc::clone(&service);
    let server = Server::with(move |request| behind.lock().unwrap().take(request.at())).await?;

    // Each client has its own pipeline, window and chance, and its own connections.
    let windows: Vec<_> = (0..CLIENTS).map(|_| Keyed::new(Window::new())).collect();
    let clients = windows.iter().zip(0..).map(|(windows, seed)| {
        let client = Client::builder().no_proxy().build();
        let client = client.expect("there is no TLS to set up");
        (client, policies(windows.clone()).rng(Rng::seeded(seed)))
    });
    let clients: Vec<_> = clients.collect();
    let ended = Arc::new(Mutex::new(Vec::new()));
    let calls = (0..CALLS).map(|call| {
        let (client, pipeline) = clients[call % CLIENTS].clone();
        let (url, ended) = (server.url("/"), Arc::clone(&ended));
        let at = PACE * u32::try_from(call).expect("a small number");
        tokio::spawn(async move {
            sleep(at.saturating_sub(start.elapsed())).await;
            let late = start.elapsed() > at + LATENESS;
            let answer = client.get(url).send_with(&pipeline).await;
            let ok = answer.is_ok_and(|answer| answer.status() == 200);
            ended.lock().unwrap().push(ok);
            (at, ok, late)
        })
    });
    let calls: Vec<_> = calls.collect();

    let (mut rows, mut sent, mut answered) = (Vec::new(), 0, 0);
    for tick in 1..=TICKS {
        sleep((TICK * tick).saturating_sub(start.elapsed())).await;
        let (mut limited, mut parked) = (0, 0);
        for windows in &windows {
            windows.for_each(|_, window| {
                let it = window.snapshot();
                limited += usize::from(it.window.is_some());
                parked += it.parked;
            });
        }
        let so_far = ended.lock().unwrap().iter().filter(|ok| **ok).count();
        let service = service.lock().unwrap();
        rows.push(Row {
            at: TICK * tick,
            sent: service.arrived() - sent,
            answered: so_far - answered,
            line: service.line(start.elapsed()),
            limited,
            parked,
        });
        (sent, answered) = (service.arrived(), so_far);
    }
    let (mut ends, mut late) = (Vec::new(), 0);
    for call in calls {
        let (at, ok, is_late) = call.await?;
        ends.push((at, ok));
        late += usize::from(is_late);
    }
    let service = service.lock().unwrap();
    Ok(Run {
        calls: ends,
        arrived: service.arrived(),
        worked: service.begun.len(),
        late,
        rows,
    })
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bar = "#".repeat(self.answered.div_ceil(2));
        write!(f, "{:>6} {bar:18}{:>5}", self.sent, self.line)
    }
}

fn percent(part: usize, whole: usize) -> String {
    let tenths = part * 1000 / whole.max(1);
    format!("{}.{} %", tenths / 10, tenths % 10)
}

const CLIENTS: usize = 20;

const CALLS: usize = 910;

/// Between one call and the next: 130 of them per second, for 7 s.
const PACE: Duration = Duration::from_micros(7692);

const WORKERS: usize = 6;

/// What a worker needs for a request.
const WORK: Duration = Duration::from_millis(30);

/// Most requests in line: half a second's work. Nobody waits that long.
const LINE: usize = 100;

/// When two of three workers are away.
const AWAY: Range<Duration> = Duration::from_millis(1500)..Duration::from_millis(3500);

/// How long an attempt may take, and a call.
const PATIENCE: Duration = Duration::from_millis(250);
const DEADLINE: Duration = Duration::from_secs(1);

const ALWAYS: Range<Duration> = Duration::ZERO..Duration::MAX;

/// The last calls, long after the cause of the trouble has gone.
const LATE: Range<Duration> = Duration::from_secs(5)..Duration::MAX;

/// A call that begins later than this after its time didn't get it from this machine.
const LATENESS: Duration = Duration::from_millis(50);

const TICK: Duration = Duration::from_millis(250);
const TICKS: u32 = 30;
