//! Counters, gauges and histograms of what a pipeline does, through the
//! [`metrics`](https://docs.rs/metrics) facade.
//!
//! During an outage the questions are how much of what is sent are retries, how many of them were
//! for nothing, what calls wait for, and who refuses them. [`Metrics`] counts that from the stream of
//! [`Event`]s, and reads the state of budgets, breakers, windows and limits when it is asked to.
//!
//! # Example
//!
//! ```
//! use evenkeel::http::service_key;
//! use evenkeel::metrics::Metrics;
//! use evenkeel::Pipeline;
//!
//! // Once per process, after the exporter was installed.
//! evenkeel::metrics::describe();
//! let metrics = Metrics::new()
//!     .service(service_key("billing.internal", 443), "billing")
//!     .service(service_key("orders.internal", 443), "orders");
//! let pipeline = Pipeline::http().observer(metrics.clone());
//!
//! // Every few seconds, or when the exporter is read.
//! metrics.collect(&pipeline);
//! ```
//!
//! # What there is
//!
//! Counters and histograms, written as things happen; all have the label `service`:
//!
//! | name | further labels | |
//! |---|---|---|
//! | `evenkeel_calls_total` | `end` | calls that are over: `success`, `failed`, `rejected`, `deadline`, `invalid settings` |
//! | `evenkeel_attempts_total` | `attempt` | attempts of calls that are over: `first` or `retry`. All of them by the first ones is the amplification |
//! | `evenkeel_wasted_retries_total` | | retries of calls that came to nothing |
//! | `evenkeel_retries_total` | `error_type`, `wait` | retries decided on: what failed, and whose wait is kept: `backoff`, `server hint`, `breaker` |
//! | `evenkeel_stops_total` | `error_type`, `reason` | failed attempts that no other follows |
//! | `evenkeel_parks_total` | `reason` | attempts that began to wait in line, or for a breaker |
//! | `evenkeel_rejections_total` | `reason` | attempts that a policy refused |
//! | `evenkeel_would_rejections_total` | `reason` | the same by policies that only watch |
//! | `evenkeel_checks_total` | `end` | active [checks](crate::check) that are over. None of them is a call |
//! | `evenkeel_changes_total` | `policy`, `change` | changes of state |
//! | `evenkeel_injected_total` | `fault` | faults made to order |
//! | `evenkeel_call_seconds` | `end` | histogram: from a call's beginning to its end |
//! | `evenkeel_wait_seconds` | `wait` | histogram: waits before retries, as planned |
//! | `evenkeel_parked_seconds` | | histogram: how long a call was parked, if it was |
//!
//! Gauges, written by [`Metrics::collect`]; sums where several keys have one name:
//!
//! | name | further labels | |
//! |---|---|---|
//! | `evenkeel_budget_tokens`, `evenkeel_budget_capacity_tokens` | | what is left for extra attempts, and how much there can be |
//! | `evenkeel_breakers` | `state` | breakers that are `closed`, `half-open`, `open` |
//! | `evenkeel_windows` | `state` | congestion windows that are `open`, `limited` |
//! | `evenkeel_window_attempts` | | how many attempts limited windows let be under way |
//! | `evenkeel_window_parked` | | attempts that wait in line for a window |
//! | `evenkeel_bulkhead_limit`, `evenkeel_bulkhead_in_flight`, `evenkeel_bulkhead_waiting` | | how many can run, do, and wait to |
//! | `evenkeel_rate_limit_waiting` | | attempts that wait for their turn |
//! | `evenkeel_throttle_shed_ratio` | | the share of normal calls that is shed, from 0 to 1; the largest |
//! | `evenkeel_endpoints` | `state` | endpoints that are `ejected`, `healthy`, `probing`, `returning` |
//!
//! `docs/grafana-dashboard.json` shows them, and `docs/alerts.yml` has rules for Prometheus.
//!
//! # Labels are bounded
//!
//! A [`Key`] tells nothing, and hosts may come from outside, so `service` is a name that was
//! [given](Metrics::service), `other` for all other keys, `none` for calls without a key, and `all` for
//! a policy that all calls share. `error_type` is a status or one of the crate's own words; all else
//! are words of this page.
//!
//! # What it costs
//!
//! Each call reads the clock twice and looks up three metrics when it is over, and what goes wrong
//! some more. A pipeline that this isn't given to costs nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use ::metrics::{SharedString, Unit, counter, gauge, histogram};

use crate::breaker;
use crate::diagnosis;
use crate::endpoints;
use crate::event::{Change, End, Event, Observer};
use crate::keyed::{Key, PerKey};
use crate::limit;
use crate::pipeline::{Pipeline, Scope};
use crate::throttle;
use crate::window;
use crate::{chaos::Fault, retry::Retry};

/// Counts what pipelines do. Clones are one; give one to each pipeline as its
/// [observer](Pipeline::observer).
///
/// Where several pipelines share it they are added up; for numbers of each give each its own names.
/// The facade's recorder has to be installed first: what happens before is not counted.
#[derive(Clone, Debug, Default)]
#[must_use = "it counts nothing until a pipeline has it as its observer"]
pub struct Metrics {
    names: Arc<HashMap<Key, Arc<str>>>,
}

impl Metrics {
    /// No names: all services are `other`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls with this key have `name` as their `service`. Several keys may have one name. For HTTP see
    /// [`service_key`](crate::http::service_key). Default: `other`.
    pub fn service(mut self, key: Key, name: impl Into<Arc<str>>) -> Self {
        Arc::make_mut(&mut self.names).insert(key, name.into());
        self
    }

    /// Reads the state of this pipeline's policies into the gauges.
    ///
    /// It looks at every key there is: some microseconds for ten, a millisecond for thousands. Of
    /// several pipelines with the same names the last one read is seen.
    pub fn collect<C>(&self, pipeline: &Pipeline<C>) {
        let policies = pipeline.source.hold();
        let (now, gates) = (policies.clock.now(), &policies.gates);
        let budgets = policies.retry.as_ref().and_then(Retry::budgets);
        let set = |name, service: &SharedString, value: f64| {
            gauge!(name, "service" => service.clone()).set(value);
        };
        self.gather(budgets, |[available, capacity]: &mut [f64; 2], it| {
            let snapshot = it.snapshot();
            *available += snapshot.available;
            *capacity += snapshot.capacity;
        })
        .for_each(|(service, [available, capacity])| {
            set("evenkeel_budget_tokens", &service, available);
            set("evenkeel_budget_capacity_tokens", &service, capacity);
        });
        self.gather(gates.breaker.as_ref(), |states: &mut [u32; 3], it| {
            states[breaker_state(it.snapshot(now).state)] += 1;
        })
        .for_each(|(service, counts)| {
            set_states(
                "evenkeel_breakers",
                &service,
                &["closed", "half-open", "open"],
                &counts,
            );
        });
        self.gather(gates.window.as_ref(), Windows::add)
            .for_each(|(service, it)| {
                set_states(
                    "evenkeel_windows",
                    &service,
                    &["limited", "open"],
                    &[it.limited, it.open],
                );
                set("evenkeel_window_attempts", &service, it.attempts);
                set("evenkeel_window_parked", &service, number(it.parked));
            });
        self.gather(
            gates.bulkhead.as_ref(),
            |[limit, runs, waits]: &mut [f64; 3], it| {
                let snapshot = it.snapshot();
                *limit += f64::from(snapshot.limit);
                *runs += f64::from(snapshot.in_flight);
                *waits += number(snapshot.waiting);
            },
        )
        .for_each(|(service, [limit, runs, waits])| {
            set("evenkeel_bulkhead_limit", &service, limit);
            set("evenkeel_bulkhead_in_flight", &service, runs);
            set("evenkeel_bulkhead_waiting", &service, waits);
        });
        self.gather(gates.rate_limit.as_ref(), |waits: &mut f64, it| {
            *waits += number(it.snapshot(now).waiting);
        })
        .for_each(|(service, waits)| set("evenkeel_rate_limit_waiting", &service, waits));
        self.gather(gates.throttle.as_ref(), |share: &mut f64, it| {
            *share = share.max(it.snapshot(now).shed.normal);
        })
        .for_each(|(service, share)| set("evenkeel_throttle_shed_ratio", &service, share));
        self.gather(policies.endpoints.as_ref(), |states: &mut [u32; 4], it| {
            for endpoint in it.snapshot(now) {
                states[endpoint_state(endpoint.state)] += 1;
            }
        })
        .for_each(|(service, counts)| {
            set_states("evenkeel_endpoints", &service, &ENDPOINT_STATES, &counts);
        });
    }

    fn name(&self, key: Option<Key>) -> SharedString {
        let Some(key) = key else {
            return SharedString::const_str(NO_KEY);
        };
        match self.names.get(&key) {
            Some(name) => Arc::clone(name).into(),
            None => SharedString::const_str(OTHER),
        }
    }

    /// What there is under each name. Where a name has nothing any more, nothing is what there is.
    fn gather<P: PerKey, T: Default>(
        &self,
        scope: Option<&Scope<P>>,
        add: impl Fn(&mut T, &P),
    ) -> impl Iterator<Item = (SharedString, T)> {
        let mut sums = BTreeMap::new();
        match scope {
            None => {}
            Some(Scope::One(policy)) => add(
                sums.entry(SharedString::const_str(ALL)).or_default(),
                policy,
            ),
            Some(Scope::PerKey(policies)) => {
                let names = self.names.values().map(|name| Arc::clone(name).into());
                sums.extend(names.map(|name| (name, T::default())));
                let other = sums.entry(SharedString::const_str(OTHER)).or_default();
                add(other, policies.shared_entry());
                policies.for_each(|key, policy| {
                    add(sums.entry(self.name(Some(key))).or_default(), policy);
                });
            }
        }
        sums.into_iter()
    }
}

impl Observer for Metrics {
    fn observe(&self, event: &Event) {
        let service = self.name(event.key());
        match *event {
            Event::Changed { change, .. } => {
                let (policy, change) = name_of(change);
                counter!(
                    "evenkeel_changes_total",
                    "service" => service, "policy" => policy, "change" => change
                )
                .increment(1);
            }
            Event::Checked { end, .. } => {
                let end = name_of_end(end);
                counter!("evenkeel_checks_total", "service" => service, "end" => end).increment(1);
            }
            Event::Done {
                attempts,
                end,
                elapsed,
                parked,
                ..
            } => done(&service, attempts, end, elapsed, parked),
            Event::Injected { fault, .. } => {
                let fault = fault.as_ref().map_or("delay", name_of_fault);
                counter!("evenkeel_injected_total", "service" => service, "fault" => fault)
                    .increment(1);
            }
            Event::Parked { reason, .. } => {
                let reason = reason.to_string();
                counter!("evenkeel_parks_total", "service" => service, "reason" => reason)
                    .increment(1);
            }
            Event::Reject { reason, .. } => {
                let reason = reason.to_string();
                counter!("evenkeel_rejections_total", "service" => service, "reason" => reason)
                    .increment(1);
            }
            Event::Retry { verdict, wait, .. } => {
                let (error, reason) = (verdict.error_type().to_string(), wait.reason().to_string());
                histogram!(
                    "evenkeel_wait_seconds",
                    "service" => service.clone(), "wait" => reason.clone()
                )
                .record(wait.length());
                counter!(
                    "evenkeel_retries_total",
                    "service" => service, "error_type" => error, "wait" => reason
                )
                .increment(1);
            }
            Event::Stop { verdict, stop, .. } => {
                let (error, reason) = (verdict.error_type().to_string(), stop.to_string());
                counter!(
                    "evenkeel_stops_total",
                    "service" => service, "error_type" => error, "reason" => reason
                )
                .increment(1);
            }
            Event::WouldReject { reason, .. } => {
                let reason = reason.to_string();
                counter!(
                    "evenkeel_would_rejections_total",
                    "service" => service, "reason" => reason
                )
                .increment(1);
            }
        }
    }

    fn wants_all(&self) -> bool {
        true
    }
}

/// Tells the recorder what each metric is and what it is measured in. Once, when it was installed.
pub fn describe() {
    for (name, kind, unit, what) in ALL_METRICS {
        match kind {
            Type::Counter => ::metrics::describe_counter!(name, unit, what),
            Type::Gauge => ::metrics::describe_gauge!(name, unit, what),
            Type::Histogram => ::metrics::describe_histogram!(name, unit, what),
        }
    }
}

/// The name of every metric there is.
pub fn names() -> impl Iterator<Item = &'static str> {
    ALL_METRICS.into_iter().map(|(name, ..)| name)
}

fn done(service: &SharedString, attempts: u32, end: End, elapsed: Duration, parked: Duration) {
    let name = name_of_end(end);
    counter!("evenkeel_calls_total", "service" => service.clone(), "end" => name).increment(1);
    histogram!("evenkeel_call_seconds", "service" => service.clone(), "end" => name)
        .record(elapsed);
    let count = |which: &'static str, attempts: u32| {
        counter!("evenkeel_attempts_total", "service" => service.clone(), "attempt" => which)
            .increment(attempts.into());
    };
    if attempts > 0 {
        count("first", 1);
    }
    if attempts > 1 {
        count("retry", attempts - 1);
        if !end.is_success() {
            counter!("evenkeel_wasted_retries_total", "service" => service.clone())
                .increment((attempts - 1).into());
        }
    }
    if !parked.is_zero() {
        histogram!("evenkeel_parked_seconds", "service" => service.clone()).record(parked);
    }
}

const fn name_of_end(end: End) -> &'static str {
    match end {
        End::Deadline => "deadline",
        End::Failed(_) => "failed",
        End::Invalid => "invalid settings",
        End::Rejected(_) => "rejected",
        End::Success => "success",
    }
}

#[derive(Default)]
struct Windows {
    limited: u32,
    open: u32,
    attempts: f64,
    parked: usize,
}

impl Windows {
    fn add(&mut self, window: &window::Window) {
        let snapshot = window.snapshot();
        match snapshot.window {
            Some(attempts) => {
                self.limited += 1;
                self.attempts += attempts;
            }
            None => self.open += 1,
        }
        self.parked += snapshot.parked;
    }
}

fn set_states(name: &'static str, service: &SharedString, states: &[&'static str], counts: &[u32]) {
    for (state, count) in states.iter().zip(counts) {
        gauge!(name, "service" => service.clone(), "state" => *state).set(f64::from(*count));
    }
}

const fn breaker_state(state: breaker::State) -> usize {
    match state {
        breaker::State::Closed => 0,
        breaker::State::HalfOpen => 1,
        breaker::State::Open => 2,
    }
}

const fn name_of(change: Change) -> (&'static str, &'static str) {
    match change {
        Change::Breaker(it) => (
            "breaker",
            match it.to {
                breaker::State::Closed => "closed",
                breaker::State::HalfOpen => "half-open",
                breaker::State::Open => "open",
            },
        ),
        Change::Endpoint(it) => (
            "endpoint",
            match it {
                endpoints::Change::Ejected { .. } => "ejected",
                endpoints::Change::Probing { .. } => "probing",
                endpoints::Change::Returned { .. } => "returned",
            },
        ),
        Change::Health(it) => (
            "health",
            match it.to {
                diagnosis::Condition::Degraded => "degraded",
                diagnosis::Condition::Failing => "failing",
                diagnosis::Condition::Healthy => "healthy",
            },
        ),
        Change::Keyed(_) => ("keyed", "overflow"),
        Change::Limit(it) => (
            "limit",
            match it {
                limit::Change::Moved { .. } => "moved",
                limit::Change::Paused { .. } => "paused",
            },
        ),
        Change::Throttle(it) => (
            "throttle",
            match it {
                throttle::Change::Began { .. } => "began",
                throttle::Change::Ended => "ended",
            },
        ),
        Change::Window(it) => (
            "window",
            match it.state {
                window::State::Limited => "limited",
                window::State::Open => "open",
                window::State::Quiet => "quiet",
                window::State::Shrunk => "shrunk",
            },
        ),
    }
}

const fn name_of_fault(fault: &Fault) -> &'static str {
    match fault {
        Fault::Connect => "connect",
        Fault::Error { .. } => "error",
        Fault::Hang => "hang",
        Fault::Lost => "lost",
        Fault::Reset => "reset",
        Fault::Status { .. } => "status",
    }
}

const fn endpoint_state(state: endpoints::State) -> usize {
    match state {
        endpoints::State::Ejected { .. } => 0,
        endpoints::State::Healthy => 1,
        endpoints::State::Probing => 2,
        endpoints::State::Returning { .. } => 3,
    }
}

#[allow(clippy::cast_precision_loss)] // nothing waits in such lines
fn number(count: usize) -> f64 {
    count as f64
}

const NO_KEY: &str = "none";

const OTHER: &str = "other";

const ALL: &str = "all";

#[derive(Clone, Copy)]
enum Type {
    Counter,
    Gauge,
    Histogram,
}

const ENDPOINT_STATES: [&str; 4] = ["ejected", "healthy", "probing", "returning"];

const ALL_METRICS: [(&str, Type, Unit, &str); 26] = [
    (
        "evenkeel_attempts_total",
        Type::Counter,
        Unit::Count,
        "attempts of calls that are over, the first and retries",
    ),
    (
        "evenkeel_breakers",
        Type::Gauge,
        Unit::Count,
        "breakers by state",
    ),
    (
        "evenkeel_budget_capacity_tokens",
        Type::Gauge,
        Unit::Count,
        "how many extra attempts the budget can hold",
    ),
    (
        "evenkeel_budget_tokens",
        Type::Gauge,
        Unit::Count,
        "how many extra attempts the budget has left",
    ),
    (
        "evenkeel_bulkhead_in_flight",
        Type::Gauge,
        Unit::Count,
        "attempts that a bulkhead lets run",
    ),
    (
        "evenkeel_bulkhead_limit",
        Type::Gauge,
        Unit::Count,
        "how many attempts a bulkhead lets run at most",
    ),
    (
        "evenkeel_bulkhead_waiting",
        Type::Gauge,
        Unit::Count,
        "attempts that wait for a bulkhead",
    ),
    (
        "evenkeel_call_seconds",
        Type::Histogram,
        Unit::Seconds,
        "from a call's beginning to its end",
    ),
    (
        "evenkeel_calls_total",
        Type::Counter,
        Unit::Count,
        "calls that are over, by their end",
    ),
    (
        "evenkeel_changes_total",
        Type::Counter,
        Unit::Count,
        "changes of state of shared policies",
    ),
    (
        "evenkeel_checks_total",
        Type::Counter,
        Unit::Count,
        "active checks that are over, which are no calls",
    ),
    (
        "evenkeel_endpoints",
        Type::Gauge,
        Unit::Count,
        "endpoints by state",
    ),
    (
        "evenkeel_injected_total",
        Type::Counter,
        Unit::Count,
        "faults made to order",
    ),
    (
        "evenkeel_parked_seconds",
        Type::Histogram,
        Unit::Seconds,
        "how long a call waited in lines or for a breaker, if it did",
    ),
    (
        "evenkeel_parks_total",
        Type::Counter,
        Unit::Count,
        "attempts that began to wait in line or for a breaker",
    ),
    (
        "evenkeel_rate_limit_waiting",
        Type::Gauge,
        Unit::Count,
        "attempts that wait for a rate limit",
    ),
    (
        "evenkeel_rejections_total",
        Type::Counter,
        Unit::Count,
        "attempts that a policy refused",
    ),
    (
        "evenkeel_retries_total",
        Type::Counter,
        Unit::Count,
        "retries decided on, by what failed and whose wait is kept",
    ),
    (
        "evenkeel_stops_total",
        Type::Counter,
        Unit::Count,
        "failed attempts that no other follows",
    ),
    (
        "evenkeel_throttle_shed_ratio",
        Type::Gauge,
        Unit::Count,
        "the share of normal calls that is shed, from 0 to 1",
    ),
    (
        "evenkeel_wait_seconds",
        Type::Histogram,
        Unit::Seconds,
        "waits before retries, as planned",
    ),
    (
        "evenkeel_wasted_retries_total",
        Type::Counter,
        Unit::Count,
        "retries of calls that came to nothing",
    ),
    (
        "evenkeel_window_attempts",
        Type::Gauge,
        Unit::Count,
        "how many attempts limited congestion windows let be under way",
    ),
    (
        "evenkeel_window_parked",
        Type::Gauge,
        Unit::Count,
        "attempts that wait for a congestion window",
    ),
    (
        "evenkeel_windows",
        Type::Gauge,
        Unit::Count,
        "congestion windows by state",
    ),
    (
        "evenkeel_would_rejections_total",
        Type::Counter,
        Unit::Count,
        "attempts that a policy would have refused that only watches",
    ),
];
