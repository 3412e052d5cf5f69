//! Requests that arrive whether or not earlier ones were answered.

use std::sync::Arc;

use crate::random::{Purpose, Stream, micros};
use crate::scenarios::Scenario;
use crate::timeline::{Event, Time, Timeline};

/// Poisson arrivals, of each client on its own.
pub(crate) struct Arrivals {
    timeline: Arc<Timeline>,
    streams: Vec<Stream>,
    /// The mean gap of one client, in microseconds.
    gap: f64,
    until: Time,
}

impl Arrivals {
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn new(scenario: &Scenario, seed: u64, timeline: &Arc<Timeline>) -> Self {
        let stream = |client| Stream::new(seed, Purpose::Arrivals, client);
        let mut arrivals = Self {
            timeline: Arc::clone(timeline),
            streams: (0..scenario.clients).map(stream).collect(),
            gap: 1e6 * scenario.clients as f64 / scenario.rate,
            until: scenario.arrivals_until,
        };
        for client in 0..scenario.clients {
            arrivals.next(client);
        }
        arrivals
    }

    pub(crate) fn next(&mut self, client: usize) {
        let at = self.timeline.now() + micros(self.streams[client].exponential() * self.gap);
        if at < self.until {
            self.timeline.at(at, Event::Arrival(client));
        }
    }
}
