//! When requests arrive.

use std::sync::Arc;

use crate::sim::draws::{Purpose, Stream, micros};
use crate::sim::scenario::{Arrivals as Kind, Scenario};
use crate::sim::timeline::{Event, MS, Time, Timeline};

/// Who is refused at once doesn't ask again in the same moment, or time would stand still.
const LEAST_THOUGHT: Time = MS;

/// Arrivals, of each client on its own.
pub(super) struct Arrivals {
    timeline: Arc<Timeline>,
    streams: Vec<Stream>,
    kind: Kind,
    /// The mean gap of one client, or the mean time that its users think, in microseconds.
    gap: f64,
    until: Time,
}

impl Arrivals {
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn new(scenario: &Scenario, seed: u64, timeline: &Arc<Timeline>) -> Self {
        let stream = |client| Stream::new(seed, Purpose::Arrivals, client);
        let kind = scenario.load.0;
        let mut arrivals = Self {
            timeline: Arc::clone(timeline),
            streams: (0..scenario.clients).map(stream).collect(),
            gap: match kind {
                Kind::Open { per_second } => 1e6 * scenario.clients as f64 / per_second,
                Kind::Closed { think, .. } => think as f64,
                Kind::Once { .. } => 0.0,
            },
            kind,
            until: scenario.until,
        };
        for client in 0..scenario.clients {
            match kind {
                Kind::Open { .. } => arrivals.plan(client),
                Kind::Closed { users, .. } => (0..users).for_each(|_| arrivals.plan(client)),
                Kind::Once { requests } => {
                    (0..requests).for_each(|_| timeline.at(0, Event::Arrival(client)));
                }
            }
        }
        arrivals
    }

    /// One arrived.
    pub(super) fn arrived(&mut self, client: usize) {
        if let Kind::Open { .. } = self.kind {
            self.plan(client);
        }
    }

    /// What became of one is known.
    pub(super) fn over(&mut self, client: usize) {
        if let Kind::Closed { .. } = self.kind {
            self.plan(client);
        }
    }

    fn plan(&mut self, client: usize) {
        let thought = micros(self.streams[client].exponential() * self.gap);
        let again = matches!(self.kind, Kind::Closed { .. }) && self.timeline.now() > 0;
        let least = if again { LEAST_THOUGHT } else { 0 };
        let at = self.timeline.now().saturating_add(thought.max(least));
        if at < self.until {
            self.timeline.at(at, Event::Arrival(client));
        }
    }
}
