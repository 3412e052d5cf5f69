//! What could be had at best: one queue for all clients, served by those who must be answered first, and
//! nobody is sent who can't be answered in time.

use std::cmp::Reverse;
use std::collections::VecDeque;

use crate::error::ConfigError;
use crate::sim::arrivals::Arrivals;
use crate::sim::draws::{Purpose, Stream, micros};
use crate::sim::scenario::{Arrivals as Load, Scenario};
use crate::sim::timeline::{Event, SECOND, Time, Timeline};
use crate::sim::world::{least_quota, speed};

/// What an omniscient client comes to; see [`Scenario::oracle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attainable {
    /// How many succeed of those that the fault may have touched.
    pub won: u64,
    /// How many these are.
    pub offered: u64,
}

/// It knows faults and free workers at once; its requests travel as all do, so a worker is known
/// to be free a round trip after its work is done.
pub(super) fn run(scenario: &Scenario, seed: u64) -> Result<Option<Attainable>, ConfigError> {
    scenario.check()?;
    if scenario.service.backend.is_some() || matches!(scenario.load.0, Load::Closed { .. }) {
        // Nobody can foresee what is written in code, or what users do who wait for answers.
        return Ok(None);
    }
    let timeline = Timeline::new();
    let mut oracle = Oracle::new(scenario, seed);
    for (index, fault) in scenario.faults.iter().enumerate() {
        timeline.at(fault.from, Event::FaultBegins(index));
        timeline.at(fault.to, Event::FaultEnds(index));
    }
    let mut arrivals = Arrivals::new(scenario, seed, &timeline);
    while let Some(event) = timeline.next_before(scenario.end()) {
        let now = timeline.now();
        match event {
            Event::Arrival(client) => {
                arrivals.arrived(client);
                oracle.offered += u64::from(scenario.touched().contains(&now));
                oracle.queue.push_back(now);
            }
            Event::Served { attempt, epoch } => oracle.served(attempt, epoch, now),
            Event::FaultBegins(index) => oracle.fault(index, true),
            Event::FaultEnds(index) => oracle.fault(index, false),
            _ => {}
        }
        oracle.hand_out(&timeline);
    }
    let Oracle { won, offered, .. } = oracle;
    Ok(Some(Attainable { won, offered }))
}

struct Oracle<'a> {
    scenario: &'a Scenario,
    hosts: Vec<Host>,
    /// Arrivals. All have the same time, so the first to arrive is the first to be late.
    queue: VecDeque<Time>,
    /// What was ever handed out: arrival and host.
    sent: Vec<(Time, usize)>,
    active: Vec<bool>,
    won: u64,
    offered: u64,
    /// Of the running second: which, and what was let in.
    quota: (Time, u64),
}

struct Host {
    service: Stream,
    /// Free workers.
    free: usize,
    /// Counts the times that all work was lost.
    epoch: u32,
    speed: f64,
    is_live: bool,
}

impl<'a> Oracle<'a> {
    fn new(scenario: &'a Scenario, seed: u64) -> Self {
        let host = |index| Host {
            service: Stream::new(seed, Purpose::Service, index),
            free: scenario.service.workers,
            epoch: 0,
            speed: 1.0,
            is_live: true,
        };
        Self {
            scenario,
            hosts: (0..scenario.service.hosts).map(host).collect(),
            queue: VecDeque::new(),
            sent: Vec::new(),
            active: vec![false; scenario.faults.len()],
            won: 0,
            offered: 0,
            quota: (0, 0),
        }
    }

    fn served(&mut self, attempt: usize, epoch: u32, now: Time) {
        let (arrived, host) = self.sent[attempt];
        if epoch != self.hosts[host].epoch {
            return;
        }
        self.hosts[host].free += 1;
        let in_time = now < arrived + self.scenario.deadline;
        self.won += u64::from(in_time && self.scenario.touched().contains(&arrived));
    }

    fn fault(&mut self, index: usize, begins: bool) {
        self.active[index] = begins;
        let fault = &self.scenario.faults[index];
        let loses = begins && fault.loses_work();
        for (number, host) in self.hosts.iter_mut().enumerate() {
            if loses && number < fault.hosts {
                host.epoch += 1;
                host.free = self.scenario.service.workers;
            }
            let faults = self.scenario.faults.iter().zip(&self.active);
            let here = faults.filter(|(fault, on)| **on && number < fault.hosts);
            host.speed = speed(here.clone().map(|(fault, _)| fault), number);
            host.is_live = !here.clone().any(|(fault, _)| fault.is_down());
        }
    }

    #[allow(clippy::cast_precision_loss)]
    fn hand_out(&mut self, timeline: &Timeline) {
        let (scenario, now) = (self.scenario, timeline.now());
        let trip = scenario.network.saturating_mul(2);
        while let Some(host) = self.host(now) {
            let Some(arrived) = self.queue.pop_front() else {
                return;
            };
            let at = &mut self.hosts[host];
            let service = scenario.service.time;
            let mean = service.micros() as f64 / at.speed;
            let needed = micros(3.0 * mean).saturating_add(trip);
            if arrived + scenario.deadline < now.saturating_add(needed) {
                continue;
            }
            let work = micros(service.draw(&mut at.service) * mean);
            at.free -= 1;
            self.quota.1 += 1;
            let (attempt, epoch) = (self.sent.len(), at.epoch);
            self.sent.push((arrived, host));
            timeline.after(work.saturating_add(trip), Event::Served { attempt, epoch });
        }
    }

    /// The live host with the most free workers, if there is any.
    fn host(&mut self, now: Time) -> Option<usize> {
        if self.quota.0 != now / SECOND {
            self.quota = (now / SECOND, 0);
        }
        let faults = self.scenario.faults.iter().zip(&self.active);
        let active = faults.filter(|(_, on)| **on).map(|(fault, _)| fault);
        if least_quota(active).is_some_and(|(most, _)| self.quota.1 >= most) {
            return None;
        }
        let live = |host: &usize| self.hosts[*host].free > 0 && self.hosts[*host].is_live;
        let live = (0..self.hosts.len()).filter(live);
        live.max_by_key(|host| (self.hosts[*host].free, Reverse(*host)))
    }
}
