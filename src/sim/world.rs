//! The service at work: hosts with workers and queues, the network, and the faults. It knows nothing of
//! clients but that they send, and may give up, of which it only hears if the scenario says so.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use http::StatusCode;

use crate::budget::Ratio;
use crate::sim::draws::{Purpose, Stream, micros};
use crate::sim::fault::Kind;
use crate::sim::report::Counts;
use crate::sim::scenario::{Balancer, Scenario};
use crate::sim::service::{Arrival, Backend, Handling};
use crate::sim::timeline::{Event, SECOND, Time, Timeline, length, second, time};
use crate::sim::{Answer, Failure, Fault};

pub(super) struct World {
    pub(super) scenario: Scenario,
    pub(super) timeline: Arc<Timeline>,
    pub(super) attempts: Vec<Attempt>,
    pub(super) counts: Counts,
    /// What happened in each second.
    pub(super) seconds: Vec<Tick>,
    hosts: Vec<Host>,
    balancers: Vec<Stream>,
    /// Attempts in flight per client and host.
    in_flight: Vec<u32>,
    errors: Stream,
    /// Which faults are on.
    active: Vec<bool>,
    /// The second in which the quota counts, and its count.
    quota: (Time, u64),
    backend: Option<Box<dyn Backend>>,
}

/// What the service saw in a second.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tick {
    pub(super) sent: u32,
    pub(super) rejected: u32,
    pub(super) queued: u32,
}

pub(super) struct Attempt {
    pub(super) host: u32,
    pub(super) client: u32,
    /// Whose it is: the number of the request.
    #[cfg_attr(not(test), allow(dead_code))] // for the model
    pub(super) request: u32,
    place: Place,
    pub(super) given_up: bool,
    /// The answer that is on its way, and once it is received the client's.
    answer: Option<Answer>,
    pub(super) waker: Option<Waker>,
    /// When it came into the queue, or its worker began.
    since: Time,
    /// What its host spends on it.
    work: Time,
}

/// Where an attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// On its way to the host, or with a service of the user's own.
    Away,
    Queued,
    Serving,
    /// Its answer is on its way.
    Answered,
    Received,
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
    pub(super) fn new(scenario: &Scenario, seed: u64, timeline: &Arc<Timeline>) -> Self {
        let service = &scenario.service;
        let host = |index| Host {
            service: Stream::new(seed, Purpose::Service, index),
            speed: 1.0,
            serving: Vec::with_capacity(service.workers.min(1024)),
            queue: VecDeque::with_capacity(service.queue.capacity.min(1024)),
            debt: 0,
            epoch: 0,
        };
        let balancer = |client| {
            let mut draws = Stream::new(seed, Purpose::Balancer, client);
            // The reference runs use the first draw of each client for something else.
            draws.next_u64();
            draws
        };
        for (index, fault) in scenario.faults.iter().enumerate() {
            timeline.at(fault.from, Event::FaultBegins(index));
            timeline.at(fault.to, Event::FaultEnds(index));
        }
        Self {
            timeline: Arc::clone(timeline),
            attempts: Vec::new(),
            counts: Counts::default(),
            seconds: vec![Tick::default(); second(scenario.end()) + 1],
            hosts: (0..service.hosts).map(host).collect(),
            balancers: (0..scenario.clients).map(balancer).collect(),
            in_flight: vec![0; service.hosts * scenario.clients],
            errors: Stream::new(seed, Purpose::Service, ERRORS),
            active: vec![false; scenario.faults.len()],
            quota: (0, 0),
            backend: service.backend.as_ref().map(|it| it.make(seed)),
            scenario: scenario.clone(),
        }
    }

    /// Sends an attempt to the host that the client chose, or to any but the one `before`.
    pub(super) fn send(
        &mut self,
        client: usize,
        request: usize,
        chosen: Option<usize>,
        before: Option<usize>,
    ) -> usize {
        let chosen = chosen.filter(|host| *host < self.hosts.len());
        let host = chosen.unwrap_or_else(|| self.pick(client, before));
        let number = self.attempts.len();
        self.attempts.push(Attempt {
            host: compact(host),
            client: compact(client),
            request: compact(request),
            place: Place::Away,
            given_up: false,
            answer: None,
            waker: None,
            since: 0,
            work: 0,
        });
        *self.load(client, host) += 1;
        self.counts.attempts += 1;
        self.tick().sent += 1;
        self.timeline
            .after(self.scenario.network, Event::Reaches(number));
        number
    }

    /// The answer, once the client has it.
    pub(super) fn received(&self, attempt: usize) -> Option<Answer> {
        let attempt = &self.attempts[attempt];
        attempt.answer.filter(|_| attempt.place == Place::Received)
    }

    /// The client no longer waits for this attempt, if it did.
    pub(super) fn give_up(&mut self, number: usize) {
        let attempt = &mut self.attempts[number];
        attempt.waker = None;
        if attempt.place == Place::Received {
            return;
        }
        attempt.given_up = true;
        let (client, host) = (attempt.client as usize, attempt.host as usize);
        *self.load(client, host) -= 1;
        if self.scenario.cancels {
            self.timeline
                .after(self.scenario.network, Event::Cancelled(number));
        }
    }

    /// Everything but what clients do.
    pub(super) fn happens(&mut self, event: Event) {
        match event {
            Event::Answered(attempt) => self.answered(attempt),
            Event::Cancelled(attempt) => self.cancelled(attempt),
            Event::Decided(attempt) => self.decided(attempt),
            Event::FaultBegins(index) => self.fault_begins(index),
            Event::FaultEnds(index) => self.fault_ends(index),
            Event::Reaches(attempt) => self.reaches(attempt),
            Event::Served { attempt, epoch } => self.served(attempt, epoch),
            _ => {}
        }
    }

    /// Notes how many wait at the hosts.
    pub(super) fn sample(&mut self, second: usize) {
        let queued = self.hosts.iter().map(|host| host.queue.len()).sum();
        if let Some(tick) = self.seconds.get_mut(second) {
            tick.queued = compact(queued);
        }
    }

    fn answered(&mut self, number: usize) {
        let attempt = &mut self.attempts[number];
        if attempt.given_up {
            return;
        }
        attempt.place = Place::Received;
        let (client, host) = (attempt.client as usize, attempt.host as usize);
        if let Some(waker) = attempt.waker.take() {
            waker.wake();
        }
        *self.load(client, host) -= 1;
    }

    /// A host hears that nobody waits for this any more.
    fn cancelled(&mut self, number: usize) {
        let now = self.timeline.now();
        let attempt = &mut self.attempts[number];
        let host = attempt.host as usize;
        match attempt.place {
            Place::Queued => {
                attempt.place = Place::Answered;
                self.hosts[host].queue.retain(|it| *it != number);
            }
            Place::Serving => {
                attempt.place = Place::Answered;
                let spent = now - attempt.since;
                self.counts.work += length(spent);
                self.counts.dead += length(spent);
                self.hosts[host].serving.retain(|it| *it != number);
                self.serve_next(host);
            }
            Place::Away | Place::Answered | Place::Received => {}
        }
    }

    fn reaches(&mut self, number: usize) {
        let host = self.attempts[number].host as usize;
        let stalls = match self.refusal(host) {
            Verdict::Fails(failure) => {
                self.reject(number, failure);
                return;
            }
            Verdict::Stalls => true,
            Verdict::Fine => false,
        };
        if stalls {
            return;
        }
        let arrival = self.arrival(number);
        match self.backend.as_mut().map(|it| it.arrives(&arrival)) {
            Some(Handling::Never) => return,
            Some(Handling::After(wait)) => {
                self.timeline.after(time(wait), Event::Decided(number));
                return;
            }
            Some(Handling::Hosts) | None => {}
        }
        if self.hosts[host].serving.len() < self.scenario.service.workers {
            self.serve(number);
        } else if self.hosts[host].queue.len() < self.scenario.service.queue.capacity {
            self.hosts[host].queue.push_back(number);
            self.attempts[number].place = Place::Queued;
            self.attempts[number].since = self.timeline.now();
        } else {
            self.owe(host);
            self.reject(number, UNAVAILABLE);
        }
    }

    fn decided(&mut self, number: usize) {
        let arrival = self.arrival(number);
        let answer = self.backend.as_mut().map(|it| it.answers(&arrival));
        match answer.unwrap_or(Ok(())) {
            Err(failure) => self.reject(number, failure),
            success => self.answer(number, success),
        }
    }

    fn served(&mut self, number: usize, epoch: u32) {
        let attempt = &self.attempts[number];
        let host = attempt.host as usize;
        if self.hosts[host].epoch != epoch || attempt.place != Place::Serving {
            return;
        }
        self.hosts[host].serving.retain(|it| *it != number);
        self.counts.work = self.counts.work.saturating_add(length(attempt.work));
        if attempt.given_up {
            self.counts.dead = self.counts.dead.saturating_add(length(attempt.work));
        }
        self.answer(number, Ok(()));
        self.serve_next(host);
    }

    fn fault_begins(&mut self, index: usize) {
        self.active[index] = true;
        let fault = &self.scenario.faults[index];
        if fault.loses_work() {
            let (hosts, kind) = (fault.hosts, fault.kind);
            let failure = match kind {
                Kind::Unreachable => Failure::Reset,
                _ => unavailable(fault.retry_after),
            };
            self.lose_work(hosts, failure);
        }
        self.set_speeds();
    }

    fn fault_ends(&mut self, index: usize) {
        self.active[index] = false;
        self.set_speeds();
    }

    fn set_speeds(&mut self) {
        for index in 0..self.hosts.len() {
            self.hosts[index].speed = speed(self.faults(), index);
        }
    }

    /// The faults that are on.
    fn faults(&self) -> impl Iterator<Item = &Fault> {
        let active = self.scenario.faults.iter().zip(&self.active);
        active.filter(|(_, is_on)| **is_on).map(|(fault, _)| fault)
    }

    /// Any host but the one `before`, or one of those with the fewest attempts of this client in
    /// flight.
    fn pick(&mut self, client: usize, before: Option<usize>) -> usize {
        let hosts = self.hosts.len();
        let before = before.filter(|_| hosts > 1);
        let loads = &self.in_flight[client * hosts..(client + 1) * hosts];
        let others = || (0..hosts).filter(|host| Some(*host) != before);
        let least = match self.scenario.balancer {
            Balancer::LeastLoaded => others().map(|host| loads[host]).min().unwrap_or(0),
            Balancer::Random => u32::MAX,
        };
        let fit = || others().filter(|host| loads[*host] <= least);
        let chosen = self.balancers[client].below(fit().count());
        let host = fit().nth(chosen);
        host.expect("the draw is below the count")
    }

    /// What an attempt meets before a worker or the queue is asked for.
    fn refusal(&mut self, host: usize) -> Verdict {
        let now = self.timeline.now();
        let mut errors = as_f64(self.scenario.service.errors);
        for fault in self.faults().filter(|fault| host < fault.hosts) {
            match fault.kind {
                Kind::Outage | Kind::Unavailable => {
                    return Verdict::Fails(unavailable(fault.retry_after));
                }
                Kind::Unreachable => return Verdict::Fails(Failure::Connection),
                Kind::Maintenance => {
                    let left = fault.to.saturating_sub(now).div_ceil(SECOND) * SECOND;
                    let asked = fault.retry_after.unwrap_or(left);
                    return Verdict::Fails(unavailable(Some(asked)));
                }
                Kind::Stall => return Verdict::Stalls,
                Kind::Errors(share) => errors += as_f64(share),
                Kind::Quota(_) | Kind::Speed(_) => {}
            }
        }
        if errors > 0.0 && self.errors.uniform() < errors {
            return Verdict::Fails(UNAVAILABLE);
        }
        if self.quota.0 != now / SECOND {
            self.quota = (now / SECOND, 0);
        }
        self.quota.1 += 1;
        let quota = least_quota(self.faults());
        if let Some((_, retry_after)) = quota.filter(|(most, _)| self.quota.1 > *most) {
            let code = StatusCode::TOO_MANY_REQUESTS;
            let retry_after = retry_after.map(length);
            return Verdict::Fails(Failure::Status { code, retry_after });
        }
        Verdict::Fine
    }

    #[allow(clippy::cast_precision_loss)]
    fn serve(&mut self, number: usize) {
        let host = &mut self.hosts[self.attempts[number].host as usize];
        let service = self.scenario.service.time;
        let drawn = service.draw(&mut host.service) * service.micros() as f64 / host.speed;
        let work = micros(drawn).saturating_add(std::mem::take(&mut host.debt));
        host.serving.push(number);
        let attempt = &mut self.attempts[number];
        attempt.work = work;
        attempt.since = self.timeline.now();
        attempt.place = Place::Serving;
        let served = Event::Served {
            attempt: number,
            epoch: host.epoch,
        };
        self.timeline.after(work, served);
    }

    /// A worker is free.
    fn serve_next(&mut self, host: usize) {
        let queue = self.scenario.service.queue;
        loop {
            let waiting = &mut self.hosts[host].queue;
            let next = if queue.newest_first {
                waiting.pop_back()
            } else {
                waiting.pop_front()
            };
            let Some(next) = next else { return };
            let waited = self.timeline.now() - self.attempts[next].since;
            if queue.shed_after.is_some_and(|longest| waited > longest) {
                self.owe(host);
                self.reject(next, UNAVAILABLE);
                continue;
            }
            self.serve(next);
            return;
        }
    }

    /// A refusal costs worker time.
    fn owe(&mut self, host: usize) {
        let debt = &mut self.hosts[host].debt;
        *debt = debt.saturating_add(self.scenario.service.refusal_cost);
    }

    fn reject(&mut self, number: usize, failure: Failure) {
        self.counts.rejected += 1;
        self.tick().rejected += 1;
        self.answer(number, Err(failure));
    }

    fn answer(&mut self, number: usize, answer: Answer) {
        let attempt = &mut self.attempts[number];
        attempt.answer = Some(answer);
        attempt.place = Place::Answered;
        self.timeline
            .after(self.scenario.network, Event::Answered(number));
    }

    fn lose_work(&mut self, hosts: usize, failure: Failure) {
        for index in 0..self.hosts.len().min(hosts) {
            let host = &mut self.hosts[index];
            host.epoch += 1;
            let mut lost = std::mem::take(&mut host.serving);
            lost.extend(host.queue.drain(..));
            for attempt in lost {
                self.answer(attempt, Err(failure));
            }
        }
    }

    fn arrival(&self, number: usize) -> Arrival {
        let attempt = &self.attempts[number];
        Arrival {
            now: self.timeline.now(),
            number,
            client: attempt.client as usize,
            host: attempt.host as usize,
        }
    }

    fn load(&mut self, client: usize, host: usize) -> &mut u32 {
        &mut self.in_flight[client * self.hosts.len() + host]
    }

    fn tick(&mut self) -> &mut Tick {
        let second = second(self.timeline.now()).min(self.seconds.len() - 1);
        &mut self.seconds[second]
    }
}

/// What becomes of an attempt on arrival.
enum Verdict {
    Fails(Failure),
    Fine,
    Stalls,
}

/// At which share of its speed a host works under these faults.
pub(super) fn speed<'a>(faults: impl Iterator<Item = &'a Fault>, host: usize) -> f64 {
    let speeds = faults.filter_map(|fault| match fault.kind {
        Kind::Speed(share) if host < fault.hosts => Some(as_f64(share)),
        _ => None,
    });
    speeds.reduce(f64::min).unwrap_or(1.0)
}

/// How many attempts a second all hosts together let in under these faults, and what those above are
/// told in `Retry-After`.
pub(super) fn least_quota<'a>(
    faults: impl Iterator<Item = &'a Fault>,
) -> Option<(u64, Option<Time>)> {
    let quotas = faults.filter_map(|fault| match fault.kind {
        Kind::Quota(most) => Some((most, fault.retry_after)),
        _ => None,
    });
    quotas.min_by_key(|(most, _)| *most)
}

fn unavailable(retry_after: Option<Time>) -> Failure {
    Failure::Status {
        code: StatusCode::SERVICE_UNAVAILABLE,
        retry_after: retry_after.map(length),
    }
}

const UNAVAILABLE: Failure = Failure::Status {
    code: StatusCode::SERVICE_UNAVAILABLE,
    retry_after: None,
};

#[allow(clippy::cast_precision_loss)] // at most 1000 million
pub(super) fn as_f64(share: Ratio) -> f64 {
    share.in_millionths() as f64 / 1e6
}

/// A run of four thousand million attempts would need a terabyte.
pub(super) fn compact(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The stream of random errors, beside those of the hosts.
const ERRORS: usize = 1_000_000;
