//! What is counted of an incident, or of a second of it: pure.

use std::time::Duration;

use crate::diagnosis::Cause;
use crate::error::Reason;
use crate::incident::cause::{Clue, Said};
use crate::incident::note::{Failed, Next, Note};
use crate::incident::table::Table;
use crate::report::{Stop, WaitReason};
use crate::verdict::Label;

/// Everything that is counted, of all services together. `LABELS` bounds the different failures.
#[derive(Clone, Debug)]
pub(super) struct Tally<const LABELS: usize> {
    /// Failed attempts, by cause and by what was seen.
    pub(super) failures: Table<(Cause, Label), LABELS>,
    /// The same by cause, and by who said so and for how long.
    pub(super) said: Table<Said, 16>,
    pub(super) clues: Table<Clue, 32>,
    pub(super) of_causes: [OfCause; Cause::ALL.len()],
    /// Calls that failed by the request's own fault.
    pub(super) request_faults: u64,
    /// Attempts that failed or succeeded and were a call's first.
    pub(super) first_attempts: u64,
    /// The same of those that came after it.
    pub(super) retries: u64,
    /// Retries that failed.
    pub(super) retries_failed: u64,
    /// Calls that gave up, by reason.
    pub(super) stops: Table<Stop, 12>,
    /// Calls that were refused, by reason.
    pub(super) refusals: Table<Reason, 8>,
    pub(super) succeeded: u64,
    pub(super) succeeded_later: u64,
    pub(super) slow: u64,
    pub(super) waits: Table<WaitReason, 8>,
    /// In nanoseconds, as planned.
    pub(super) waited: Table<WaitReason, 8>,
    /// How long calls that ended had waited in line.
    pub(super) parked: Duration,
    /// Calls whose deadline passed while an attempt ran.
    pub(super) out_of_time: u64,
    pub(super) injected: u64,
    pub(super) would_refuse: u64,
    pub(super) hints: u64,
    pub(super) longest_hint: Duration,
    pub(super) services: Vec<Service>,
}

/// What is counted of each cause.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OfCause {
    pub(super) diagnosed: u64,
    /// In percent, of all that were diagnosed.
    pub(super) confidence: u64,
    /// Until when the server asked for quiet, at the latest.
    pub(super) back_at: Option<Duration>,
}

/// What the server asked for with a failure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) length: Duration,
    pub(super) back_at: Duration,
}

/// What is counted of each service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) failures: u64,
    pub(super) gave_up: u64,
    pub(super) refused: u64,
    pub(super) request_faults: u64,
    pub(super) succeeded: u64,
    pub(super) succeeded_later: u64,
    pub(super) slow: u64,
}

impl<const LABELS: usize> Tally<LABELS> {
    pub(super) fn new(services: usize) -> Self {
        Self {
            failures: Table::new(),
            said: Table::new(),
            clues: Table::new(),
            of_causes: [OfCause::default(); Cause::ALL.len()],
            request_faults: 0,
            first_attempts: 0,
            retries: 0,
            retries_failed: 0,
            stops: Table::new(),
            refusals: Table::new(),
            succeeded: 0,
            succeeded_later: 0,
            slow: 0,
            waits: Table::new(),
            waited: Table::new(),
            parked: Duration::ZERO,
            out_of_time: 0,
            injected: 0,
            would_refuse: 0,
            hints: 0,
            longest_hint: Duration::ZERO,
            services: vec![Service::default(); services],
        }
    }

    /// Begins anew, in the memory it has.
    pub(super) fn clear(&mut self) {
        let mut services = std::mem::take(&mut self.services);
        services.fill(Service::default());
        *self = Self {
            services,
            ..Self::new(0)
        };
    }

    pub(super) fn add(
        &mut self,
        service: usize,
        note: &Note,
        asked: Option<Asked>,
        slow_after: Duration,
    ) {
        let mut nobody = Service::default();
        let of = self.services.get_mut(service).unwrap_or(&mut nobody);
        match *note {
            // Listed, not counted.
            Note::Changed(_) => {}
            Note::Failed(Failed {
                attempt,
                found,
                label,
                next,
                ..
            }) => {
                let later = u64::from(attempt > 1);
                self.first_attempts += 1 - later;
                self.retries += later;
                let Some(found) = found else {
                    // An answer, if not the one that was hoped for. Nothing follows it.
                    self.request_faults += 1;
                    of.request_faults += 1;
                    return;
                };
                let cause = found.said.cause;
                self.failures.add((cause, label), 1);
                self.said.add(found.said, 1);
                for clue in found.clues.into_iter().flatten() {
                    self.clues.add(clue, 1);
                }
                let of_cause = &mut self.of_causes[cause.index()];
                if let Some(confidence) = found.confidence {
                    of_cause.diagnosed += 1;
                    of_cause.confidence += u64::from(confidence);
                }
                of_cause.back_at = of_cause.back_at.max(asked.map(|it| it.back_at));
                of.failures += 1;
                self.retries_failed += later;
                match next {
                    Next::Deadline => {
                        self.out_of_time += 1;
                        of.gave_up += 1;
                    }
                    Next::Retry(wait) => self.waits(wait.reason(), Some(wait.length())),
                    Next::Stop(stop) => {
                        self.stops.add(stop, 1);
                        of.gave_up += 1;
                    }
                }
                if let Some(asked) = asked {
                    self.hints += 1;
                    self.longest_hint = self.longest_hint.max(asked.length);
                }
            }
            Note::Injected => self.injected += 1,
            // How long it will be until it is woken is not known.
            Note::Parked(reason, wait) => {
                self.waits(reason, wait.filter(|_| reason == WaitReason::Breaker));
            }
            Note::Refused(reason) => {
                self.refusals.add(reason, 1);
                of.refused += 1;
            }
            Note::Succeeded {
                attempts,
                elapsed,
                parked,
            } => {
                self.parked = self.parked.saturating_add(parked);
                let (later, slow) = (u64::from(attempts > 1), u64::from(elapsed >= slow_after));
                self.first_attempts += 1 - later;
                self.retries += later;
                self.succeeded += 1;
                self.succeeded_later += later;
                self.slow += slow;
                of.succeeded += 1;
                of.succeeded_later += later;
                of.slow += slow;
            }
            Note::Waited(parked) => self.parked = self.parked.saturating_add(parked),
            Note::WouldRefuse => self.would_refuse += 1,
        }
    }

    pub(super) fn merge<const M: usize>(&mut self, other: &Tally<M>) {
        self.failures.merge(&other.failures);
        self.said.merge(&other.said);
        self.clues.merge(&other.clues);
        for (mine, its) in self.of_causes.iter_mut().zip(&other.of_causes) {
            mine.diagnosed += its.diagnosed;
            mine.confidence += its.confidence;
            mine.back_at = mine.back_at.max(its.back_at);
        }
        self.request_faults += other.request_faults;
        self.first_attempts += other.first_attempts;
        self.retries += other.retries;
        self.retries_failed += other.retries_failed;
        self.stops.merge(&other.stops);
        self.refusals.merge(&other.refusals);
        self.succeeded += other.succeeded;
        self.succeeded_later += other.succeeded_later;
        self.slow += other.slow;
        self.waits.merge(&other.waits);
        self.waited.merge(&other.waited);
        self.parked = self.parked.saturating_add(other.parked);
        self.out_of_time += other.out_of_time;
        self.injected += other.injected;
        self.would_refuse += other.would_refuse;
        self.hints += other.hints;
        self.longest_hint = self.longest_hint.max(other.longest_hint);
        for (mine, its) in self.services.iter_mut().zip(&other.services) {
            mine.merge(its);
        }
    }

    fn waits(&mut self, reason: WaitReason, length: Option<Duration>) {
        let nanos = length.map_or(0, |it| u64::try_from(it.as_nanos()).unwrap_or(u64::MAX));
        self.waits.add(reason, 1);
        self.waited.add(reason, nanos);
    }
}

impl Service {
    fn merge(&mut self, other: &Self) {
        self.failures += other.failures;
        self.gave_up += other.gave_up;
        self.refused += other.refused;
        self.request_faults += other.request_faults;
        self.succeeded += other.succeeded;
        self.succeeded_later += other.succeeded_later;
        self.slow += other.slow;
    }
}
