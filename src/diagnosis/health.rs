//! The shared handle around a service's [`History`].

use std::fmt;
use std::time::Instant;

use super::Diagnosis;
use super::history::{Change, History, Observation, Snapshot};
use crate::error::ConfigError;
use crate::keyed::{PerKey, sealed};
use crate::sync::{Arc, Mutex, lock};

/// What many outcomes of one service say together. Clones share it.
///
/// One answer can't tell a dead server from a full queue; a hundred can. Health keeps the last
/// minute: the share of failures, their causes and times, how `Retry-After` behaves, which hosts
/// fail, and whether sending less helps. With that it [refines](Self::refine) the diagnosis of the
/// next failure, and says how long it may last. It decides nothing.
///
/// Given to a [`Pipeline`](crate::Pipeline::health), or for each service as
/// [`Keyed`](crate::Keyed), it is fed by the engine, with the one of its
/// [`Endpoints`](crate::Endpoints) that each attempt went to: reports and events then carry refined
/// diagnoses, and [`Event::Changed`](crate::Event::Changed) tells when a service begins or ends to
/// fail. Constant time per outcome, and about 1 KiB of memory.
///
/// # Examples
///
/// ```
/// use evenkeel::diagnosis::{Cause, Health, Observation, Symptoms};
/// use http::{HeaderMap, StatusCode};
/// use std::time::{Duration, Instant};
///
/// let (health, now) = (Health::new(), Instant::now());
/// let headers = HeaderMap::new();
/// // A bare 503, ten times, always after five seconds.
/// let seen = Symptoms::response(StatusCode::SERVICE_UNAVAILABLE, &headers);
/// for second in 0..10 {
///     let failure = Observation::failure(seen.diagnose().cause());
///     health.record(&failure.latency(Duration::from_millis(5_003)), now + Duration::from_secs(second));
/// }
/// let mut diagnosis = seen.elapsed(Duration::from_millis(5_003)).diagnose();
/// assert_eq!(diagnosis.cause(), Cause::Unknown);
/// health.refine(&mut diagnosis, now + Duration::from_secs(10));
/// assert_eq!(diagnosis.cause(), Cause::GatewayTimeout);
/// ```
#[derive(Clone)]
pub struct Health {
    shared: Arc<Mutex<History>>,
}

impl Health {
    /// Nothing is known yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Mutex::new(History::new())),
        }
    }

    /// Takes note of an outcome. Says whether the service's condition changed by it.
    #[allow(clippy::must_use_candidate)] // most only feed it
    pub fn record(&self, seen: &Observation, now: Instant) -> Option<Change> {
        lock(&self.shared).record(seen, now)
    }

    /// Adds what is known of the service to what one outcome said.
    pub fn refine(&self, diagnosis: &mut Diagnosis, now: Instant) {
        lock(&self.shared).refine(diagnosis, now);
    }

    /// While the service is not well: when an attempt ended last, and until when it asked for quiet.
    pub(crate) fn unwell(&self) -> Option<(Option<Instant>, Option<Instant>)> {
        lock(&self.shared).unwell()
    }

    /// What is known.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        lock(&self.shared).snapshot(now)
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").finish_non_exhaustive()
    }
}

impl sealed::Sealed for Health {}

impl PerKey for Health {
    fn fresh(&self) -> Self {
        Self::new()
    }

    fn is_idle(&self, now: Instant) -> bool {
        Arc::strong_count(&self.shared) == 1 && lock(&self.shared).is_idle(now)
    }

    fn check(&self) -> Result<(), ConfigError> {
        Ok(())
    }
}
