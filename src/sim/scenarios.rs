//! Outages with names, and what is known of them.
//!
//! The base is [`Scenario::new`]: a hundred clients with 700 requests per second of a service that can
//! answer a thousand. What goes wrong begins after 30 s and ends after 60 s.
//!
//! | name | what happens |
//! |---|---|
//! | S0, S0e, S0p | nothing; 0, 1 or 10 % of attempts fail by chance |
//! | S1 | every host answers 503, and what it had in hand is lost |
//! | S2 | every host works at half its speed: room for 500 of 700 requests per second |
//! | S3 | ten clients; one host of ten answers 503 at once, and so looks idle |
//! | S6 | a thousand small clients, 200 requests per second; maintenance for a minute, announced by `Retry-After` |
//!
//! [`more`] are others that nothing was fitted to.

use std::time::Duration;

use crate::budget::Ratio;
use crate::sim::{Balancer, Fault, Load, Queue, Scenario, Service, ServiceTime};

/// Nothing goes wrong.
pub fn s0() -> Scenario {
    calm("S0", 0).about("nothing goes wrong")
}

/// One attempt in a hundred fails by chance.
pub fn s0e() -> Scenario {
    calm("S0e", 1).about("1 % fail by chance")
}

/// One attempt in ten fails by chance.
pub fn s0p() -> Scenario {
    calm("S0p", 10).about("10 % fail by chance")
}

/// An outage of 30 s: every host answers 503, and what it had in hand is lost.
pub fn s1() -> Scenario {
    Scenario::new("S1")
        .about("outage of 30 s")
        .fault(Fault::outage())
}

/// Half the capacity for 30 s.
pub fn s2() -> Scenario {
    Scenario::new("S2")
        .about("half the capacity for 30 s")
        .fault(slower(50))
}

/// One bad host of ten for 30 s, and clients that send to the host with the fewest attempts under way: one
/// that fails at once draws more than its share.
pub fn s3() -> Scenario {
    Scenario::new("S3")
        .about("one bad host of ten for 30 s")
        .clients(10)
        .balancer(Balancer::LeastLoaded)
        .fault(Fault::unavailable().hosts(1))
}

/// Maintenance for a minute, and a thousand clients that are told when it ends.
pub fn s6() -> Scenario {
    Scenario::new("S6")
        .about("maintenance for 60 s, announced")
        .clients(1000)
        .load(Load::open(200.0))
        .deadline(seconds(120))
        .until(seconds(215))
        .fault(Fault::maintenance().between(seconds(30), seconds(90)))
}

/// Those above, in this order.
#[must_use]
pub fn known() -> Vec<Scenario> {
    vec![s0(), s0e(), s0p(), s1(), s2(), s3(), s6()]
}

/// The scenario of this name, of [`known`] and [`more`].
#[must_use]
pub fn named(name: &str) -> Option<Scenario> {
    known()
        .into_iter()
        .chain(more())
        .find(|it| it.name() == name)
}

/// Others that nothing was fitted to: other sizes of fleets, service times and deadlines, short and long
/// faults, cold starts, quotas, slow hosts.
#[must_use]
#[allow(clippy::too_many_lines)] // a table
pub fn more() -> Vec<Scenario> {
    let many_workers = |service: Service| service.workers(60);
    let tiny = |service: Service| {
        service
            .workers(1)
            .time(ServiceTime::erlang(2, millis(2)))
            .refusal_cost(Duration::from_micros(100))
    };
    let of_time = |workers, mean| {
        move |service: Service| service.workers(workers).time(ServiceTime::erlang(2, mean))
    };
    let long_queue = |service: Service| service.queue(Queue::first_come(1000));
    let errors = |percent| move |service: Service| service.errors(Ratio::percent(percent));
    let preset = |scenario: Scenario| scenario.deadline(seconds(30)).attempt_timeout(seconds(10));
    let small = |service: Service| service.workers(1).queue(Queue::first_come(20));
    let slow_for_good = || {
        let slow = Fault::speed(Ratio::millionths(166_667)).between(seconds(30), seconds(120));
        Scenario::new("6 x slower for good")
            .with_service(many_workers)
            .fault(slow)
    };
    vec![
        s0p().named("S0p 1000 clients").clients(1000),
        s0p().named("S0p 10 clients").clients(10),
        slow_for_good(),
        slow_for_good()
            .named("6 x slower, 1000 clients")
            .clients(1000),
        s1().named("S1 2 ms")
            .with_service(tiny)
            .load(Load::open(3500.0)),
        s2().named("S2 2 ms")
            .with_service(tiny)
            .load(Load::open(3500.0)),
        s1().named("S1 a call a minute")
            .with_service(small)
            .load(Load::open(70.0))
            .clients(4200),
        s2().named("S2 a call a minute")
            .with_service(small)
            .load(Load::open(70.0))
            .clients(4200),
        s1().named("S1 1000 clients").clients(1000),
        s1().named("S1 10 clients").clients(10),
        s1().named("S1 deadline 2 s").deadline(seconds(2)),
        Scenario::new("S1 connections refused").fault(Fault::unreachable()),
        Scenario::new("S1 refused, 1000 clients")
            .clients(1000)
            .fault(Fault::unreachable()),
        Scenario::new("S1 no answers").fault(Fault::stall()),
        Scenario::new("blip of 2 s").fault(Fault::outage().between(seconds(30), seconds(32))),
        s2().named("S2 1000 clients").clients(1000),
        s2().named("S2 10 clients").clients(10),
        s2().named("S2 deadline 2 s").deadline(seconds(2)),
        s2().named("S2 service 20 ms")
            .with_service(of_time(2, millis(20))),
        s2().named("S2 service 500 ms")
            .with_service(of_time(50, millis(500))),
        s2().named("S2 500 ms, timeout 3 s")
            .with_service(of_time(50, millis(500)))
            .deadline(seconds(10))
            .attempt_timeout(seconds(3)),
        s2().named("S2 heavy tail")
            .with_service(|it| it.time(ServiceTime::pareto(2.5, millis(100)))),
        s2().named("S2 newest first")
            .with_service(|it| it.queue(Queue::newest_first(200))),
        s2().named("S2 no queue")
            .with_service(|it| it.queue(Queue::first_come(0))),
        s2().named("S2 sheds")
            .with_service(|it| it.queue(Queue::first_come(200).shed_after(millis(300)))),
        s2().named("S2 cancels").cancels(true),
        s2().named("S2 closed loop")
            .load(Load::closed(10, millis(1300))),
        Scenario::new("cold start").fault(slower(50).between(Duration::ZERO, seconds(30))),
        Scenario::new("deep overload").fault(slower(20)),
        Scenario::new("3 slow hosts").fault(slower(25).hosts(3)),
        Scenario::new("brownout")
            .fault(slower(80).between(seconds(30), seconds(40)))
            .fault(slower(40).between(seconds(40), seconds(50)))
            .fault(slower(80).between(seconds(50), seconds(60))),
        Scenario::new("quota 500/s").fault(Fault::quota(500)),
        Scenario::new("half of all fail").fault(Fault::errors(Ratio::percent(50))),
        s3().named("S3 1 client").clients(1),
        s3().named("S3 100 clients").clients(100),
        Scenario::new("bad host, Retry-After 1 s").fault(hinting_host(seconds(1))),
        Scenario::new("bad host, Retry-After 5 s").fault(hinting_host(seconds(5))),
        s6().named("S6 10 clients, 700/s")
            .clients(10)
            .load(Load::open(700.0)),
        // One axis after the other, to its ends.
        s1().named("S1 1 client").clients(1),
        s2().named("S2 1 client").clients(1),
        s1().named("S1 5000 clients").clients(5000),
        s2().named("S2 5000 clients").clients(5000),
        Scenario::new("overload by a tenth").fault(slower(63)),
        Scenario::new("overload, ten times").fault(slower(7)),
        Scenario::new("overload of 1 s").fault(slower(10).between(seconds(30), seconds(31))),
        Scenario::new("S1 5 minutes")
            .fault(Fault::outage().between(seconds(30), seconds(330)))
            .until(seconds(420)),
        Scenario::new("S2 5 minutes")
            .fault(slower(50).between(seconds(30), seconds(330)))
            .until(seconds(420)),
        s2().named("S2 1 host")
            .with_service(|it| it.hosts(1).workers(100).queue(Queue::first_come(1000))),
        s2().named("S2 50 hosts")
            .with_service(|it| it.hosts(50).workers(2).queue(Queue::first_come(40))),
        s2().named("S2 no queue, 1000 clients")
            .with_service(|it| it.queue(Queue::first_come(0)))
            .clients(1000),
        s2().named("S2 queue 1000").with_service(long_queue),
        s2().named("S2 deadline 1 s, 300 ms")
            .deadline(seconds(1))
            .attempt_timeout(millis(300)),
        s2().named("S2 deadline 60 s, 10 s")
            .deadline(seconds(60))
            .attempt_timeout(seconds(10)),
        s2().named("S2 2 s, timeout 10 s")
            .with_service(of_time(200, seconds(2)))
            .deadline(seconds(60))
            .attempt_timeout(seconds(10)),
        s1().named("S1 and 10 % errors").with_service(errors(10)),
        s2().named("S2 and 10 % errors").with_service(errors(10)),
        s0().named("S0 40 % errors").with_service(errors(40)),
        s0().named("S0 95 % busy").load(Load::open(950.0)),
        s0().named("S0 95 % busy, 1000 clients")
            .load(Load::open(950.0))
            .clients(1000),
        s0().named("S0 5000 clients").clients(5000),
        s0().named("S0 service 500 ms")
            .with_service(of_time(50, millis(500))),
        s0().named("S0 service 800 ms")
            .with_service(of_time(80, millis(800))),
        Scenario::new("3 x slower, room enough")
            .with_service(|it| it.workers(40))
            .fault(slower(33)),
        Scenario::new("10 x slower, room enough")
            .with_service(|it| it.workers(200))
            .fault(slower(10)),
        Scenario::new("8 slow hosts").fault(slower(10).hosts(8)),
        Scenario::new("5 slow hosts, 1000 clients")
            .fault(slower(10).hosts(5))
            .clients(1000),
        Scenario::new("quota 100/s").fault(Fault::quota(100)),
        Scenario::new("quota 500/s, 1000 clients")
            .fault(Fault::quota(500))
            .clients(1000),
        Scenario::new("maintenance, deadline 5 s").fault(Fault::maintenance()),
        Scenario::new("maintenance of 3 s")
            .fault(Fault::maintenance().between(seconds(30), seconds(33))),
        s6().named("S6 5000 clients, 900/s")
            .clients(5000)
            .load(Load::open(900.0)),
        s0().named("S0 a call a minute")
            .with_service(small)
            .load(Load::open(70.0))
            .clients(4200),
        Scenario::new("cold start, 1000 clients")
            .fault(slower(50).between(Duration::ZERO, seconds(30)))
            .clients(1000),
        Scenario::new("cold start in an outage")
            .fault(Fault::outage().between(Duration::ZERO, seconds(30))),
        // With the limits of the preset.
        preset(s1().named("preset S1")),
        preset(s2().named("preset S2").with_service(long_queue)),
        preset(Scenario::new("preset S2 3 minutes").with_service(long_queue))
            .fault(slower(50).between(seconds(30), seconds(210)))
            .until(seconds(300)),
        preset(
            s2().named("preset S2, 1000 clients")
                .with_service(long_queue),
        )
        .clients(1000),
        preset(slow_for_good().named("preset, 6 x slower for good")),
    ]
}

/// What policies reached when the scenarios were defined, in an independent implementation of the same
/// world: mean of three seeds, in percent of an omniscient client, in S1, S2 and S6. `None`: not
/// measured.
pub const REFERENCE: [(&str, [Option<f64>; 3]); 13] = [
    ("no retry", [Some(87.0), Some(52.0), Some(33.0)]),
    (
        "3 retries, exponential or full jitter",
        [Some(87.0), Some(4.0), Some(33.0)],
    ),
    ("and a budget of 10 %", [Some(87.0), Some(48.0), None]),
    ("and a budget of 20 %", [Some(87.0), Some(44.0), None]),
    (
        "and 20 % with a floor of 10/s per client",
        [Some(87.0), Some(4.0), None],
    ),
    (
        "and a token bucket as gRPC's and AWS's",
        [Some(87.0), Some(51.0), None],
    ),
    ("budget 10 % and a breaker", [Some(79.0), Some(61.0), None]),
    (
        "budget 10 % and throttling over 2 min",
        [Some(86.0), Some(49.0), None],
    ),
    (
        "budget 10 % and throttling over 10 s",
        [Some(24.0), Some(44.0), None],
    ),
    (
        "budget 10 % and a gradient limit",
        [Some(87.0), Some(51.0), None],
    ),
    (
        "budget 10 % and an AIMD limit",
        [Some(86.0), Some(88.0), None],
    ),
    ("exactly at Retry-After", [None, None, Some(3.0)]),
    ("congestion window", [Some(95.0), Some(95.0), Some(99.9)]),
];

fn calm(name: &'static str, errors: u16) -> Scenario {
    Scenario::new(name)
        .with_service(|it| it.errors(Ratio::percent(errors)))
        .until(seconds(125))
        .watch(seconds(30), seconds(60))
}

const fn slower(percent: u16) -> Fault {
    Fault::speed(Ratio::percent(percent))
}

const fn hinting_host(length: Duration) -> Fault {
    Fault::unavailable().hosts(1).retry_after(length)
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}
