//! A client of a few lines, whose runs are known: it shows that the world is the right one.

use std::sync::Arc;
use std::time::Duration;

use crate::sim::arrivals::Arrivals;
use crate::sim::draws::{Purpose, Stream, micros};
use crate::sim::report::Counts;
use crate::sim::scenario::Scenario;
use crate::sim::timeline::{Event, MS, SECOND, Time, Timeline};
use crate::sim::world::World;

struct Request {
    client: usize,
    deadline: Time,
    /// Attempts sent.
    sent: u32,
    running: Option<usize>,
    host: Option<usize>,
}

struct Model {
    world: World,
    timeline: Arc<Timeline>,
    requests: Vec<Request>,
    coins: Vec<Stream>,
    retries: u32,
}

/// Runs clients that retry so many times, with full jitter.
pub(super) fn run(scenario: &Scenario, seed: u64, retries: u32) -> Counts {
    let timeline = Timeline::new();
    let coin = |client| Stream::new(seed, Purpose::Policy, client);
    let mut model = Model {
        world: World::new(scenario, seed, &timeline),
        timeline: Arc::clone(&timeline),
        requests: Vec::new(),
        coins: (0..scenario.clients).map(coin).collect(),
        retries,
    };
    let mut arrivals = Arrivals::new(scenario, seed, &timeline);
    while let Some(event) = timeline.next_before(scenario.end()) {
        match event {
            Event::Arrival(client) => {
                arrivals.arrived(client);
                model.arrives(client);
            }
            Event::Answered(attempt) => {
                model.world.happens(event);
                model.answered(attempt);
            }
            Event::ModelRetry(request) => model.send(request),
            Event::ModelTimeout(attempt) => model.times_out(attempt),
            event => model.world.happens(event),
        }
    }
    model.world.counts
}

impl Model {
    fn arrives(&mut self, client: usize) {
        self.world.counts.arrived += 1;
        self.requests.push(Request {
            client,
            deadline: self.timeline.now() + self.world.scenario.deadline,
            sent: 0,
            running: None,
            host: None,
        });
        self.send(self.requests.len() - 1);
    }

    fn send(&mut self, number: usize) {
        let request = &mut self.requests[number];
        let attempt = self.world.send(request.client, number, None, request.host);
        request.host = Some(self.world.attempts[attempt].host as usize);
        request.sent += 1;
        request.running = Some(attempt);
        let end = self.timeline.now() + self.world.scenario.attempt_timeout;
        self.timeline
            .at(end.min(request.deadline), Event::ModelTimeout(attempt));
    }

    fn answered(&mut self, number: usize) {
        let request = self.world.attempts[number].request as usize;
        if self.requests[request].running != Some(number) {
            return;
        }
        match self.world.received(number).expect("it was answered") {
            Ok(()) => {
                self.world.counts.won += 1;
                self.requests[request].running = None;
            }
            Err(_) => self.fails(request),
        }
    }

    fn times_out(&mut self, number: usize) {
        let request = self.world.attempts[number].request as usize;
        if self.requests[request].running == Some(number) {
            self.world.give_up(number);
            self.fails(request);
        }
    }

    fn fails(&mut self, number: usize) {
        let request = &mut self.requests[number];
        request.running = None;
        if request.sent > self.retries {
            return;
        }
        let longest = (FIRST << (request.sent - 1)).min(CAP);
        #[allow(clippy::cast_precision_loss)]
        let delay = micros(self.coins[request.client].uniform() * longest as f64);
        if self.timeline.now() + delay < request.deadline {
            self.timeline.after(delay, Event::ModelRetry(number));
        }
    }
}

/// The counts in the order of the reference.
pub(super) const fn counts(counts: [u64; 6]) -> Counts {
    let [arrived, won, attempts, rejected, dead, work] = counts;
    Counts {
        arrived,
        won,
        attempts,
        rejected,
        dead: Duration::from_micros(dead),
        work: Duration::from_micros(work),
    }
}

const FIRST: Time = 100 * MS;
const CAP: Time = 2 * SECOND;
