//! The outages: a base system, and what each changes of it.

use crate::timeline::{MS, SECOND, Time};

#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) clients: usize,
    /// Requests per second, of all clients together.
    pub(crate) rate: f64,
    pub(crate) deadline: Time,
    pub(crate) attempt_timeout: Time,
    pub(crate) hosts: usize,
    /// Per host.
    pub(crate) workers: usize,
    /// The mean of Erlang-2.
    pub(crate) service: Time,
    /// May wait per host.
    pub(crate) queue: usize,
    /// What an answer of a full queue costs the host in worker time.
    pub(crate) refusal_cost: Time,
    /// One way.
    pub(crate) network: Time,
    /// The share of attempts that fail for no reason, all the time.
    pub(crate) random_errors: f64,
    pub(crate) balancer: Balancer,
    pub(crate) fault: Fault,
    pub(crate) from: Time,
    pub(crate) to: Time,
    pub(crate) arrivals_until: Time,
}

/// How a client chooses the host of an attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Balancer {
    LeastLoaded,
    Random,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    None,
    /// Host 0 answers 503, with this `Retry-After`.
    BadHost {
        retry_after: Option<Time>,
    },
    /// No host takes connections.
    ConnectionRefused,
    /// 503 with `Retry-After` up to the end; work in progress goes on.
    Maintenance,
    /// 429 with `Retry-After` of a second above so many attempts in a second.
    Quota {
        per_second: u64,
    },
    /// 503 from every host; what they worked on is lost.
    Refuse,
    /// The first so many hosts work at this speed.
    Speed {
        hosts: usize,
        speed: f64,
    },
}

impl Scenario {
    /// The base system.
    pub(crate) const fn base(name: &'static str) -> Self {
        Self {
            name,
            clients: 100,
            rate: 700.0,
            deadline: 5 * SECOND,
            attempt_timeout: SECOND,
            hosts: 10,
            workers: 10,
            service: 100 * MS,
            queue: 200,
            refusal_cost: 5 * MS,
            network: MS,
            random_errors: 0.0,
            balancer: Balancer::Random,
            fault: Fault::None,
            from: 30 * SECOND,
            to: 60 * SECOND,
            arrivals_until: 150 * SECOND,
        }
    }

    pub(crate) const fn calm(name: &'static str, random_errors: f64) -> Self {
        Self {
            random_errors,
            arrivals_until: 125 * SECOND,
            ..Self::base(name)
        }
    }

    pub(crate) const fn faulty(name: &'static str, fault: Fault) -> Self {
        Self {
            fault,
            ..Self::base(name)
        }
    }

    pub(crate) const fn maintenance(name: &'static str) -> Self {
        Self {
            clients: 1000,
            rate: 200.0,
            deadline: 120 * SECOND,
            to: 90 * SECOND,
            arrivals_until: 215 * SECOND,
            ..Self::faulty(name, Fault::Maintenance)
        }
    }

    pub(crate) const fn clients(self, clients: usize) -> Self {
        Self { clients, ..self }
    }

    /// The same capacity with more or fewer workers.
    pub(crate) const fn service(self, service: Time) -> Self {
        Self {
            workers: (service / (10 * MS)) as usize,
            service,
            ..self
        }
    }

    pub(crate) const fn limits(self, deadline: Time, attempt_timeout: Time) -> Self {
        Self {
            deadline,
            attempt_timeout,
            ..self
        }
    }

    pub(crate) const fn fault_at(self, from: Time, to: Time) -> Self {
        Self { from, to, ..self }
    }

    /// By then every request is over.
    pub(crate) const fn end(&self) -> Time {
        self.arrivals_until + self.deadline
    }

    /// Requests that arrive in this range are those that a fault may have touched.
    pub(crate) const fn measured(&self) -> std::ops::Range<Time> {
        self.from..self.to + 30 * SECOND
    }
}

pub(crate) const S0: Scenario = Scenario::calm("S0", 0.0);
pub(crate) const S0E: Scenario = Scenario::calm("S0e", 0.01);
pub(crate) const S0P: Scenario = Scenario::calm("S0p", 0.1);
pub(crate) const S1: Scenario = Scenario::faulty("S1", Fault::Refuse);
pub(crate) const S2: Scenario = Scenario::faulty("S2", slower(0.5));
pub(crate) const S3: Scenario = Scenario {
    // With it the numbers of the reference runs come out, and a host that fails at once draws
    // more than its share: the harder case.
    balancer: Balancer::LeastLoaded,
    ..Scenario::faulty("S3", BAD_HOST).clients(10)
};
pub(crate) const S6: Scenario = Scenario::maintenance("S6");

/// The ones with numbers to reach.
pub(crate) const KNOWN: [Scenario; 7] = [S0, S0E, S0P, S1, S2, S3, S6];

/// The ones that nothing was fitted to.
pub(crate) fn others() -> Vec<Scenario> {
    let named = |name, scenario| Scenario { name, ..scenario };
    let faulty = Scenario::faulty;
    vec![
        named("S0p 1000 clients", S0P).clients(1000),
        named("S0p 10 clients", S0P).clients(10),
        Scenario {
            workers: 60,
            ..faulty("6 x slower for good", slower(1.0 / 6.0)).fault_at(30 * SECOND, 120 * SECOND)
        },
        Scenario {
            workers: 60,
            ..faulty("6 x slower, 1000 clients", slower(1.0 / 6.0))
                .fault_at(30 * SECOND, 120 * SECOND)
                .clients(1000)
        },
        Scenario {
            workers: 1,
            service: 2 * MS,
            rate: 3500.0,
            refusal_cost: 100,
            ..named("S1 2 ms", S1)
        },
        Scenario {
            workers: 1,
            service: 2 * MS,
            rate: 3500.0,
            refusal_cost: 100,
            ..named("S2 2 ms", S2)
        },
        Scenario {
            workers: 1,
            queue: 20,
            rate: 70.0,
            ..named("S1 a call a minute", S1).clients(4200)
        },
        Scenario {
            workers: 1,
            queue: 20,
            rate: 70.0,
            ..named("S2 a call a minute", S2).clients(4200)
        },
        named("S1 1000 clients", S1).clients(1000),
        named("S1 10 clients", S1).clients(10),
        named("S1 deadline 2 s", S1).limits(2 * SECOND, SECOND),
        faulty("S1 connections refused", Fault::ConnectionRefused),
        faulty("S1 refused, 1000 clients", Fault::ConnectionRefused).clients(1000),
        named("blip of 2 s", S1).fault_at(30 * SECOND, 32 * SECOND),
        named("S2 1000 clients", S2).clients(1000),
        named("S2 10 clients", S2).clients(10),
        named("S2 deadline 2 s", S2).limits(2 * SECOND, SECOND),
        named("S2 service 20 ms", S2).service(20 * MS),
        named("S2 service 500 ms", S2).service(500 * MS),
        named("S2 500 ms, timeout 3 s", S2)
            .service(500 * MS)
            .limits(10 * SECOND, 3 * SECOND),
        named("cold start", S2).fault_at(0, 30 * SECOND),
        faulty("deep overload", slower(0.2)),
        faulty("3 slow hosts", slow_hosts(3, 0.25)),
        faulty("quota 500/s", Fault::Quota { per_second: 500 }),
        named("S3 1 client", S3).clients(1),
        named("S3 100 clients", S3).clients(100),
        faulty("bad host, Retry-After 1 s", hinting_host(SECOND)),
        faulty("bad host, Retry-After 5 s", hinting_host(5 * SECOND)),
        Scenario {
            rate: 700.0,
            ..Scenario::maintenance("S6 10 clients, 700/s").clients(10)
        },
    ]
}

const fn slower(speed: f64) -> Fault {
    slow_hosts(usize::MAX, speed)
}

const fn slow_hosts(hosts: usize, speed: f64) -> Fault {
    Fault::Speed { hosts, speed }
}

const BAD_HOST: Fault = Fault::BadHost { retry_after: None };

const fn hinting_host(length: Time) -> Fault {
    let retry_after = Some(length);
    Fault::BadHost { retry_after }
}
