//! The service: hosts with workers and queues, the network, and the fault. It knows nothing of
//! clients but that they send, and may give up, of which it never hears.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use crate::random::{Purpose, Stream, micros};
use crate::scenarios::{Balancer, Fault, Scenario};
use crate::timeline::{Event, SECOND, Time, Timeline};

pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) timeline: Arc<Timeline>,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) counts: Counts,
    /// Attempts sent in each second.
    pub(crate) sent: Vec<u32>,
    hosts: Vec<Host>,
    balancers: Vec<Stream>,
    /// Attempts in flight per client and host.
    in_flight: Vec<Vec<u32>>,
    errors: Stream,
    broken: bool,
    /// The second in which the quota counts, and its count.
    quota: (Time, u64),
}

pub(crate) struct Attempt {
    pub(crate) host: usize,
    client: usize,
    /// Who to tell: the number of the request, for the model.
    pub(crate) request: usize,
    /// The answer on its way to the client.
    sent_back: Option<Answer>,
    /// The answer that the client has.
    pub(crate) received: Option<Answer>,
    pub(crate) given_up: bool,
    pub(crate) waker: Option<Waker>,
    /// What its host spends on it.
    work: Time,
}

pub(crate) type Answer = Result<(), Failure>;

/// What a client may get instead of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The connection was refused: nothing was sent.
    Connection,
    /// A 429.
    Quota { retry_after: Time },
    /// A 503.
    Unavailable { retry_after: Option<Time> },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) arrived: u64,
    pub(crate) won: u64,
    pub(crate) attempts: u64,
    pub(crate) rejected: u64,
    pub(crate) dead_us: u64,
    pub(crate) work_us: u64,
}

struct Host {
    service: Stream,
    speed: f64,
    /// Attempts in service.
    serving: Vec<usize>,
    queue: VecDeque<usize>,
    /// Worker time that refusals cost.
    debt: Time,
    /// Counts the times that all work was lost.
    epoch: u32,
}

impl World {
    pub(crate) fn new(scenario: &Scenario, seed: u64, timeline: &Arc<Timeline>) -> Self {
        let host = |index| Host {
            service: Stream::new(seed, Purpose::Service, index),
            speed: 1.0,
            serving: Vec::with_capacity(scenario.workers),
            queue: VecDeque::with_capacity(scenario.queue),
            debt: 0,
            epoch: 0,
        };
        let balancer = |client| {
            let mut draws = Stream::new(seed, Purpose::Balancer, client);
            // The reference runs use the first draw of each client for something else.
            draws.next_u64();
            draws
        };
        if scenario.fault != Fault::None {
            timeline.at(scenario.from, Event::FaultBegins);
            timeline.at(scenario.to, Event::FaultEnds);
        }
        Self {
            scenario: scenario.clone(),
            timeline: Arc::clone(timeline),
            attempts: Vec::new(),
            counts: Counts::default(),
            sent: vec![0; usize::try_from(scenario.end() / SECOND).expect("fits") + 1],
            hosts: (0..scenario.hosts).map(host).collect(),
            balancers: (0..scenario.clients).map(balancer).collect(),
            in_flight: vec![vec![0; scenario.hosts]; scenario.clients],
            errors: Stream::new(seed, Purpose::Service, ERRORS),
            broken: false,
            quota: (0, 0),
        }
    }

    /// Sends an attempt to any host but the one `before`.
    pub(crate) fn send(&mut self, client: usize, request: usize, before: Option<usize>) -> usize {
        let host = self.pick(client, before);
        let number = self.attempts.len();
        self.attempts.push(Attempt {
            host,
            client,
            request,
            sent_back: None,
            received: None,
            given_up: false,
            waker: None,
            work: 0,
        });
        self.in_flight[client][host] += 1;
        self.counts.attempts += 1;
        let second = self.timeline.now() / SECOND;
        self.sent[usize::try_from(second).expect("fits")] += 1;
        self.timeline
            .after(self.scenario.network, Event::Reaches(number));
        number
    }

    /// The client no longer waits for this attempt, if it did.
    pub(crate) fn give_up(&mut self, attempt: usize) {
        let attempt = &mut self.attempts[attempt];
        attempt.waker = None;
        if attempt.received.is_none() {
            attempt.given_up = true;
            self.in_flight[attempt.client][attempt.host] -= 1;
        }
    }

    /// Everything but what clients do.
    pub(crate) fn happens(&mut self, event: Event) {
        match event {
            Event::FaultBegins => self.fault_begins(),
            Event::FaultEnds => self.fault_ends(),
            Event::Answered(attempt) => self.answered(attempt),
            Event::Reaches(attempt) => self.reaches(attempt),
            Event::Served { attempt, epoch } => self.served(attempt, epoch),
            _ => {}
        }
    }

    fn answered(&mut self, attempt: usize) {
        let attempt = &mut self.attempts[attempt];
        if attempt.given_up {
            return;
        }
        self.in_flight[attempt.client][attempt.host] -= 1;
        attempt.received = attempt.sent_back;
        if let Some(waker) = attempt.waker.take() {
            waker.wake();
        }
    }

    fn reaches(&mut self, attempt: usize) {
        let host = self.attempts[attempt].host;
        if let Some(failure) = self.refusal(host) {
            self.counts.rejected += 1;
            self.answer(attempt, Err(failure));
            return;
        }
        if self.hosts[host].serving.len() < self.scenario.workers {
            self.serve(attempt);
        } else if self.hosts[host].queue.len() < self.scenario.queue {
            self.hosts[host].queue.push_back(attempt);
        } else {
            self.hosts[host].debt += self.scenario.refusal_cost;
            self.counts.rejected += 1;
            self.answer(attempt, Err(UNAVAILABLE));
        }
    }

    fn served(&mut self, attempt: usize, epoch: u32) {
        let host = &mut self.hosts[self.attempts[attempt].host];
        if host.epoch != epoch {
            return;
        }
        host.serving.retain(|it| *it != attempt);
        let next = host.queue.pop_front();
        self.counts.work_us += self.attempts[attempt].work;
        if self.attempts[attempt].given_up {
            self.counts.dead_us += self.attempts[attempt].work;
        }
        self.answer(attempt, Ok(()));
        if let Some(next) = next {
            self.serve(next);
        }
    }

    fn fault_begins(&mut self) {
        self.broken = true;
        match self.scenario.fault {
            Fault::ConnectionRefused => self.lose_all(Failure::Connection),
            Fault::Refuse => self.lose_all(UNAVAILABLE),
            Fault::Speed { hosts, speed } => {
                for host in self.hosts.iter_mut().take(hosts) {
                    host.speed = speed;
                }
            }
            _ => {}
        }
    }

    fn fault_ends(&mut self) {
        self.broken = false;
        for host in &mut self.hosts {
            host.speed = 1.0;
        }
    }

    /// Any host but the one `before`, or one of those with the fewest attempts of this client in
    /// flight.
    fn pick(&mut self, client: usize, before: Option<usize>) -> usize {
        let before = before.filter(|_| self.scenario.hosts > 1);
        let loads = &self.in_flight[client];
        let others = || (0..loads.len()).filter(|host| Some(*host) != before);
        let least = match self.scenario.balancer {
            Balancer::LeastLoaded => others().map(|host| loads[host]).min().unwrap_or(0),
            Balancer::Random => u32::MAX,
        };
        let fit = || others().filter(|host| loads[*host] <= least);
        let chosen = self.balancers[client].below(fit().count());
        fit().nth(chosen).expect("fewer than there are")
    }

    /// Why an attempt fails before a worker or the queue is asked for.
    fn refusal(&mut self, host: usize) -> Option<Failure> {
        let now = self.timeline.now();
        let fault = self.scenario.fault;
        match fault {
            Fault::ConnectionRefused if self.broken => return Some(Failure::Connection),
            Fault::Refuse if self.broken => return Some(UNAVAILABLE),
            Fault::Maintenance if self.broken => {
                let left = (self.scenario.to - now).div_ceil(SECOND) * SECOND;
                let retry_after = Some(left);
                return Some(Failure::Unavailable { retry_after });
            }
            Fault::BadHost { retry_after } if self.broken && host == 0 => {
                return Some(Failure::Unavailable { retry_after });
            }
            _ => {}
        }
        let share = self.scenario.random_errors;
        if share > 0.0 && self.errors.uniform() < share {
            return Some(UNAVAILABLE);
        }
        if let Fault::Quota { per_second } = fault {
            if self.quota.0 != now / SECOND {
                self.quota = (now / SECOND, 0);
            }
            self.quota.1 += 1;
            if self.broken && self.quota.1 > per_second {
                let retry_after = SECOND;
                return Some(Failure::Quota { retry_after });
            }
        }
        None
    }

    #[allow(clippy::cast_precision_loss)]
    fn serve(&mut self, attempt: usize) {
        let host = &mut self.hosts[self.attempts[attempt].host];
        let service = host.service.erlang() * self.scenario.service as f64 / host.speed;
        let work = micros(service) + std::mem::take(&mut host.debt);
        host.serving.push(attempt);
        self.attempts[attempt].work = work;
        let epoch = host.epoch;
        self.timeline.after(work, Event::Served { attempt, epoch });
    }

    fn answer(&mut self, attempt: usize, answer: Answer) {
        self.attempts[attempt].sent_back = Some(answer);
        self.timeline
            .after(self.scenario.network, Event::Answered(attempt));
    }

    fn lose_all(&mut self, failure: Failure) {
        for index in 0..self.hosts.len() {
            let host = &mut self.hosts[index];
            host.epoch += 1;
            let mut lost = std::mem::take(&mut host.serving);
            lost.extend(host.queue.drain(..));
            for attempt in lost {
                self.answer(attempt, Err(failure));
            }
        }
    }
}

const UNAVAILABLE: Failure = Failure::Unavailable { retry_after: None };

/// The stream of random errors, beside those of the hosts.
const ERRORS: usize = 1_000_000;
