//! What could be had at best: one queue for all clients, served by those who must be answered
//! first, and nobody is sent who can't be answered in time.

use std::cmp::Reverse;
use std::collections::VecDeque;

use crate::arrivals::Arrivals;
use crate::random::{Purpose, Stream, micros};
use crate::scenarios::{Fault, Scenario};
use crate::timeline::{Event, Time, Timeline};

/// Successes of those that the fault may have touched, and how many these are.
///
/// It knows faults and free workers at once; its requests travel as all do, so a worker is known
/// to be free a round trip after its work is done.
pub(crate) fn run(scenario: &Scenario, seed: u64) -> (u64, u64) {
    let timeline = Timeline::new();
    let mut arrivals = Arrivals::new(scenario, seed, &timeline);
    let mut oracle = Oracle::new(scenario, seed);
    if scenario.fault != Fault::None {
        timeline.at(scenario.from, Event::FaultBegins);
        timeline.at(scenario.to, Event::FaultEnds);
    }
    while let Some(event) = timeline.next(scenario.end()) {
        let now = timeline.now();
        match event {
            Event::Arrival(client) => {
                arrivals.next(client);
                oracle.offered += u64::from(scenario.measured().contains(&now));
                oracle.queue.push_back(now);
            }
            Event::Served { attempt, epoch } => oracle.served(attempt, epoch, now),
            Event::FaultBegins => oracle.fault_begins(),
            Event::FaultEnds => oracle.broken = false,
            _ => {}
        }
        oracle.hand_out(&timeline);
    }
    (oracle.won, oracle.offered)
}

struct Oracle<'a> {
    scenario: &'a Scenario,
    services: Vec<Stream>,
    /// Free workers per host.
    free: Vec<usize>,
    /// Arrivals. All have the same time, so the first to arrive is the first to be late.
    queue: VecDeque<Time>,
    /// What was ever handed out: arrival and host.
    sent: Vec<(Time, usize)>,
    broken: bool,
    epoch: u32,
    won: u64,
    offered: u64,
    /// Of the running second: which, and what was let in.
    quota: (Time, u64),
}

impl<'a> Oracle<'a> {
    fn new(scenario: &'a Scenario, seed: u64) -> Self {
        let service = |host| Stream::new(seed, Purpose::Service, host);
        Self {
            scenario,
            services: (0..scenario.hosts).map(service).collect(),
            free: vec![scenario.workers; scenario.hosts],
            queue: VecDeque::new(),
            sent: Vec::new(),
            broken: false,
            epoch: 0,
            won: 0,
            offered: 0,
            quota: (0, 0),
        }
    }

    fn served(&mut self, attempt: usize, epoch: u32, now: Time) {
        if epoch != self.epoch {
            return;
        }
        let (arrived, host) = self.sent[attempt];
        self.free[host] += 1;
        let in_time = now < arrived + self.scenario.deadline;
        self.won += u64::from(in_time && self.scenario.measured().contains(&arrived));
    }

    fn fault_begins(&mut self) {
        self.broken = true;
        if let Fault::Refuse | Fault::ConnectionRefused = self.scenario.fault {
            self.epoch += 1;
            self.free.fill(self.scenario.workers);
        }
    }

    #[allow(clippy::cast_precision_loss)]
    fn hand_out(&mut self, timeline: &Timeline) {
        let (scenario, now) = (self.scenario, timeline.now());
        let trip = 2 * scenario.network;
        while let Some(host) = self.host(now) {
            let Some(arrived) = self.queue.pop_front() else {
                return;
            };
            let mean = scenario.service as f64 / self.speed(host);
            if arrived + scenario.deadline < now + micros(3.0 * mean) + trip {
                continue;
            }
            let work = micros(self.services[host].erlang() * mean);
            self.free[host] -= 1;
            self.quota.1 += 1;
            let (attempt, epoch) = (self.sent.len(), self.epoch);
            self.sent.push((arrived, host));
            timeline.after(work + trip, Event::Served { attempt, epoch });
        }
    }

    /// The live host with the most free workers, if there is any.
    fn host(&mut self, now: Time) -> Option<usize> {
        if let Fault::Quota { per_second } = self.scenario.fault {
            let second = now / crate::timeline::SECOND;
            if self.quota.0 != second {
                self.quota = (second, 0);
            }
            if self.broken && self.quota.1 >= per_second {
                return None;
            }
        }
        let live = (0..self.free.len()).filter(|host| self.free[*host] > 0 && self.is_live(*host));
        live.max_by_key(|host| (self.free[*host], Reverse(*host)))
    }

    const fn is_live(&self, host: usize) -> bool {
        match self.scenario.fault {
            _ if !self.broken => true,
            Fault::BadHost { .. } => host != 0,
            Fault::ConnectionRefused | Fault::Maintenance | Fault::Refuse => false,
            Fault::None | Fault::Quota { .. } | Fault::Speed { .. } => true,
        }
    }

    const fn speed(&self, host: usize) -> f64 {
        match self.scenario.fault {
            Fault::Speed { hosts, speed } if self.broken && host < hosts => speed,
            _ => 1.0,
        }
    }
}
