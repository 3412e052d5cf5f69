//! The world against closed forms and a published comparison.
//!
//! Errors are stated as shares of the exact value. Runs are seeded, so they hold or don't, always.

use std::collections::HashMap;
use std::time::Duration;

use http::StatusCode;

use crate::backoff::{Backoff, Jitter};
use crate::retry::Retry;
use crate::sim::draws::{Purpose, Stream};
use crate::sim::{
    Arrival, Backend, Failure, Handling, Load, Policy, Queue, Report, Request, Scenario, Service,
    ServiceTime,
};

/// M/M/1: mean time in the system 1 / (μ - λ), and its distribution is exponential.
#[test]
fn one_worker_with_memoryless_times_is_an_m_m_1() {
    let (mu, lambda) = (100.0, 70.0);
    let time = ServiceTime::exponential(MEAN);
    let runs = [1, 2, 3].map(|seed| run(service(1, time), Load::open(lambda), lambda, seed));
    let over_runs = |of: &dyn Fn(&Report) -> f64| runs.iter().map(of).sum::<f64>() / 3.0;
    let mean = 1.0 / (mu - lambda);
    assert_near(over_runs(&mean_latency), mean, 0.03);
    for share in [0.5_f64, 0.9, 0.99] {
        let exact = -(1.0 - share).ln() * mean;
        let got = over_runs(&|run| run.latency(share).unwrap().as_secs_f64());
        assert_near(got, exact, 0.05);
    }
}

/// M/M/c: mean wait C(c, a) / (c μ - λ), Erlang's C.
#[test]
fn many_workers_with_memoryless_times_are_an_m_m_c() {
    let (workers, mu, lambda) = (5, 100.0, 400.0);
    let time = ServiceTime::exponential(MEAN);
    let of = |seed| run(service(workers, time), Load::open(lambda), lambda, seed);
    let mean = [1, 2, 3].map(|seed| mean_latency(&of(seed)) / 3.0);
    let wait = erlang_c(5.0, lambda / mu) / (5.0 * mu - lambda);
    assert_near(mean.iter().sum::<f64>() - 1.0 / mu, wait, 0.04);
}

/// M/G/1, Pollaczek and Khinchine: mean wait λ E[S²] / 2 (1 - ρ).
#[test]
fn other_service_times_wait_as_pollaczek_and_khinchine_say() {
    let (mean, lambda) = (0.01, 70.0);
    for (time, squares) in [
        (ServiceTime::constant(MEAN), 1.0),
        (ServiceTime::erlang(2, MEAN), 1.5),
        (ServiceTime::pareto(4.0, MEAN), 9.0 / 8.0),
    ] {
        let run = queue(1, time, lambda);
        let wait = lambda * squares * mean * mean / (2.0 * (1.0 - lambda * mean));
        assert_near(mean_latency(&run) - mean, wait, 0.03);
    }
}

/// M/M/c/c: the share refused is Erlang's B.
#[test]
fn without_a_queue_the_share_refused_is_erlangs_b() {
    let (lambda, load) = (400.0, 4.0);
    let service = service(5, ServiceTime::exponential(MEAN))
        .queue(Queue::first_come(0))
        .refusal_cost(Duration::ZERO);
    let run = run(service, Load::open(lambda), lambda, 1);
    let counts = run.counts();
    #[allow(clippy::cast_precision_loss)]
    let refused = counts.rejected as f64 / counts.arrived as f64;
    assert_near(refused, erlang_b(5.0, load), 0.02);
}

/// A closed loop with one worker: throughput by mean value analysis, which is exact here.
#[test]
fn a_closed_loop_has_the_throughput_of_mean_value_analysis() {
    let (users, think, service_time) = (20, 0.3, 0.01);
    let service = service(1, ServiceTime::exponential(MEAN));
    let load = Load::closed(users, Duration::from_millis(300));
    let run = run(service, load, 65.0, 1);
    let mut waiting = 0.0;
    let mut throughput = 0.0;
    for users in 1..=users {
        let response = service_time * (1.0 + waiting);
        throughput = f64::from(u32::try_from(users).unwrap()) / (think + response);
        waiting = throughput * response;
    }
    #[allow(clippy::cast_precision_loss)]
    let got = run.counts().won as f64 / (250_000.0 / 65.0);
    assert_near(got, throughput, 0.01);
}

/// Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015: clients that compete by
/// optimistic concurrency control. Without jitter they do by far the most work, and take the longest;
/// equal jitter does more work than full jitter and takes longer; full jitter does the least work, and
/// decorrelated jitter a little more in a little less time.
#[test]
fn jitter_strategies_compare_as_published() {
    let mean = |jitter| {
        let runs: Vec<_> = (1..=20).map(|seed| compete(jitter, seed)).collect();
        let count = 20.0;
        let calls = runs.iter().map(|it| it.0).sum::<f64>() / count;
        (calls, runs.iter().map(|it| it.1).sum::<f64>() / count)
    };
    let [none, full, equal, decorrelated] = [
        Jitter::None,
        Jitter::Full,
        Jitter::Equal,
        Jitter::Decorrelated,
    ]
    .map(mean);
    assert!(full.0 < 0.5 * none.0, "less than half the calls");
    assert!(full.0 < equal.0 && full.0 < decorrelated.0);
    assert!(equal.0 < none.0 && decorrelated.0 < none.0);
    assert!(full.1 < equal.1 && equal.1 < none.1);
    assert!(decorrelated.1 < full.1);
}

/// A row that all clients want to change: each reads its version, and may write if it is still the same.
struct Row {
    version: u64,
    read: HashMap<usize, u64>,
    network: Stream,
}

impl Backend for Row {
    fn arrives(&mut self, attempt: &Arrival) -> Handling {
        self.read.insert(attempt.number(), self.version);
        // The answer to the read, and the write: 10 ms each, give or take 2 ms.
        let drawn: f64 = (0..12).map(|_| self.network.uniform()).sum();
        let trip = 0.02 + 0.002 * std::f64::consts::SQRT_2 * (drawn - 6.0);
        Handling::After(Duration::from_secs_f64(trip.max(0.0)))
    }

    fn answers(&mut self, attempt: &Arrival) -> Result<(), Failure> {
        if self.read.remove(&attempt.number()) != Some(self.version) {
            return Err(Failure::Status {
                code: StatusCode::SERVICE_UNAVAILABLE,
                retry_after: None,
            });
        }
        self.version += 1;
        Ok(())
    }
}

/// How many calls a hundred clients make until each has had its way, and how long that takes.
fn compete(jitter: Jitter, seed: u64) -> (f64, f64) {
    let row = |seed| Row {
        version: 0,
        read: HashMap::new(),
        network: Stream::new(seed, Purpose::Service, 0),
    };
    let scenario = Scenario::new("competition")
        .clients(100)
        .load(Load::once(1))
        .service(Service::new().backend(row))
        .network(Duration::from_millis(10))
        .deadline(Duration::from_secs(3600))
        .attempt_timeout(Duration::from_secs(60))
        .until(Duration::from_secs(1));
    let policy = Policy::new("competitor", move |client| {
        let backoff = Backoff::exponential(Duration::from_millis(5))
            .max_delay(Duration::from_secs(2))
            .jitter(jitter);
        client.retry(Retry::new(backoff).max_attempts(100_000))
    });
    let report = scenario.run(&policy, seed).unwrap();
    assert_eq!(report.counts().won, 100);
    let last = report.requests().iter().filter_map(Request::latency).max();
    #[allow(clippy::cast_precision_loss)]
    let calls = report.counts().attempts as f64;
    (calls, last.unwrap().as_secs_f64())
}

fn queue(workers: usize, time: ServiceTime, per_second: f64) -> Report {
    let service = service(workers, time);
    run(service, Load::open(per_second), per_second, 1)
}

fn service(workers: usize, time: ServiceTime) -> Service {
    Service::new()
        .hosts(1)
        .workers(workers)
        .time(time)
        .queue(Queue::first_come(usize::MAX))
}

/// A run of some 250,000 requests.
fn run(service: Service, load: Load, per_second: f64, seed: u64) -> Report {
    let scenario = Scenario::new("queue")
        .clients(1)
        .load(load)
        .service(service)
        .network(Duration::ZERO)
        .deadline(Duration::from_secs(1000))
        .attempt_timeout(Duration::from_secs(1000))
        .until(Duration::from_secs_f64(250_000.0 / per_second));
    scenario.run(&Policy::none(), seed).unwrap()
}

fn mean_latency(report: &Report) -> f64 {
    let latencies = report.requests().iter().filter_map(Request::latency);
    let count = report.requests().len();
    #[allow(clippy::cast_precision_loss)]
    let mean = latencies.map(|it| it.as_secs_f64()).sum::<f64>() / count as f64;
    mean
}

/// Erlang's B by its recursion: the share that finds `servers` busy.
fn erlang_b(servers: f64, load: f64) -> f64 {
    let (mut blocked, mut count) = (1.0, 0.0);
    while count < servers {
        count += 1.0;
        blocked = load * blocked / (count + load * blocked);
    }
    blocked
}

/// Erlang's C: the share that has to wait.
fn erlang_c(servers: f64, load: f64) -> f64 {
    let blocked = erlang_b(servers, load);
    servers * blocked / (servers - load * (1.0 - blocked))
}

#[track_caller]
fn assert_near(got: f64, exact: f64, error: f64) {
    let off = (got / exact - 1.0).abs();
    assert!(off <= error, "{got} is {off:.4} from {exact}");
}

const MEAN: Duration = Duration::from_millis(10);
