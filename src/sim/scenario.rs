//! A scenario: clients, the service that they call, and what goes wrong. Values only.

use std::borrow::Cow;
use std::ops::Range;
use std::time::Duration;

use crate::budget::Ratio;
use crate::error::ConfigError;
use crate::sim::fault::{Fault, Kind};
use crate::sim::service::Service;
use crate::sim::timeline::{SECOND, Time, length, time};

/// Clients, the service that they call, and what goes wrong.
///
/// # Examples
///
/// ```
/// use evenkeel::budget::Ratio;
/// use evenkeel::sim::{Fault, Load, Policy, Scenario};
/// use std::time::Duration;
///
/// let seconds = Duration::from_secs;
/// let scenario = Scenario::new("half capacity")
///     .clients(20)
///     .load(Load::open(700.0))
///     .fault(Fault::speed(Ratio::percent(50)).between(seconds(10), seconds(20)))
///     .until(seconds(40));
/// let without = scenario.run(&Policy::none(), 1)?;
/// let with = scenario.run(&Policy::evenkeel(), 1)?;
/// assert!(with.during().share() > 1.3 * without.during().share());
/// # Ok::<(), evenkeel::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Scenario {
    pub(super) name: Cow<'static, str>,
    about: Cow<'static, str>,
    pub(super) clients: usize,
    pub(super) load: Load,
    pub(super) until: Time,
    pub(super) deadline: Time,
    pub(super) attempt_timeout: Time,
    pub(super) cancels: bool,
    pub(super) network: Time,
    pub(super) balancer: Balancer,
    pub(super) service: Service,
    pub(super) faults: Vec<Fault>,
    watch: Option<Range<Time>>,
}

/// How requests come.
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use]
pub struct Load(pub(super) Arrivals);

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Arrivals {
    /// Of all clients.
    Open { per_second: f64 },
    /// Of each client.
    Closed { users: usize, think: Time },
    /// Of each client, at the beginning.
    Once { requests: usize },
}

impl Load {
    /// So many requests per second of all clients together, whether or not earlier ones were answered:
    /// each client has Poisson arrivals of its own. Above zero.
    pub const fn open(per_second: f64) -> Self {
        Self(Arrivals::Open { per_second })
    }

    /// Each client has so many users, and each of them makes a request, waits for what becomes of it,
    /// thinks for an exponential time with this mean, but at least 1 ms, and makes the next one.
    pub const fn closed(users: usize, think: Duration) -> Self {
        let think = time(think);
        Self(Arrivals::Closed { users, think })
    }

    /// Each client makes so many requests, all at the very beginning, and no more.
    pub const fn once(requests: usize) -> Self {
        Self(Arrivals::Once { requests })
    }
}

/// How a client chooses the host of an attempt, where its policy doesn't. A retry avoids the host before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Balancer {
    /// One of those with the fewest attempts of this client under way.
    LeastLoaded,
    /// Any.
    Random,
}

impl Scenario {
    /// A hundred clients with 700 requests per second in all, for 150 s, of the service that
    /// [`Service::new`] is. Calls have 5 s and attempts 1 s, the network takes 1 ms each way, and nothing
    /// goes wrong.
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self {
            name: name.into(),
            about: Cow::Borrowed(""),
            clients: 100,
            load: Load::open(700.0),
            until: 150 * SECOND,
            deadline: 5 * SECOND,
            attempt_timeout: SECOND,
            cancels: false,
            network: 1000,
            balancer: Balancer::Random,
            service: Service::new(),
            faults: Vec::new(),
            watch: None,
        }
    }

    /// Another name.
    pub fn named(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.name = name.into();
        self
    }

    /// What happens, in a few words. Default: none.
    pub fn about(mut self, words: impl Into<Cow<'static, str>>) -> Self {
        self.about = words.into();
        self
    }

    /// How many clients there are, each with a pipeline of its own; at least 1. Default: 100.
    pub const fn clients(mut self, clients: usize) -> Self {
        self.clients = clients;
        self
    }

    /// How requests come. Default: 700 per second in all.
    pub const fn load(mut self, load: Load) -> Self {
        self.load = load;
        self
    }

    /// Until when requests come, since the beginning. Default: 150 s. The run goes on for as long as a
    /// call may take.
    pub const fn until(mut self, until: Duration) -> Self {
        self.until = time(until);
        self
    }

    /// How long a call may take in all. Default: 5 s.
    pub const fn deadline(mut self, length: Duration) -> Self {
        self.deadline = time(length);
        self
    }

    /// How long an attempt may take. Default: 1 s.
    pub const fn attempt_timeout(mut self, length: Duration) -> Self {
        self.attempt_timeout = time(length);
        self
    }

    /// Hosts hear of it when a client gives up, and drop what it no longer waits for. Default: they never
    /// do, and work for nobody.
    pub const fn cancels(mut self, cancels: bool) -> Self {
        self.cancels = cancels;
        self
    }

    /// How long the network takes, one way. Default: 1 ms.
    pub const fn network(mut self, one_way: Duration) -> Self {
        self.network = time(one_way);
        self
    }

    /// How a client chooses the host of an attempt, where its policy doesn't. Default:
    /// [`Balancer::Random`].
    pub const fn balancer(mut self, balancer: Balancer) -> Self {
        self.balancer = balancer;
        self
    }

    /// What is called. Default: [`Service::new`].
    pub fn service(mut self, service: Service) -> Self {
        self.service = service;
        self
    }

    /// The same, changed a little.
    pub fn with_service(mut self, change: impl FnOnce(Service) -> Service) -> Self {
        self.service = change(self.service);
        self
    }

    /// Something goes wrong, in addition to what goes wrong already. Default: nothing does.
    pub fn fault(mut self, fault: Fault) -> Self {
        self.faults.push(fault);
        self
    }

    /// From when to when the report looks closely. Default: from the beginning of the first fault to the
    /// end of the last, and without faults all the time in which requests come.
    pub const fn watch(mut self, from: Duration, to: Duration) -> Self {
        self.watch = Some(time(from)..time(to));
        self
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What happens, in a few words.
    #[must_use]
    pub fn description(&self) -> &str {
        &self.about
    }

    /// From when to when the report looks closely: where the fault is.
    #[must_use]
    pub fn watched(&self) -> Range<Duration> {
        let Range { start, end } = self.stretch();
        length(start)..length(end)
    }

    /// Requests per second that the service can answer while nothing is wrong.
    #[must_use]
    pub fn capacity(&self) -> f64 {
        self.service.capacity()
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// The first one that makes no sense: no clients, hosts or workers; a load, a service time or a speed
    /// that is zero or not a number; a time limit of zero; a stretch that ends before it begins, or
    /// in which requests no longer come.
    pub fn check(&self) -> Result<(), ConfigError> {
        let service = &self.service;
        let load = match self.load.0 {
            Arrivals::Open { per_second } => per_second.is_finite() && per_second > 0.0,
            Arrivals::Closed { users, .. } => users > 0,
            Arrivals::Once { requests } => requests > 0,
        };
        let speed = |fault: &Fault| fault.kind != Kind::Speed(Ratio::percent(0));
        let in_order = |it: &Range<Time>| it.start < it.end;
        let stretches = self.faults.iter().map(|it| it.from..it.to);
        let sound = [
            (self.clients > 0, "scenario.clients", "must be at least 1"),
            (load, "scenario.load", "must be above zero"),
            (self.deadline > 0, "scenario.deadline", "must not be zero"),
            (
                self.attempt_timeout > 0,
                "scenario.attempt_timeout",
                "must not be zero",
            ),
            (service.hosts > 0, "service.hosts", "must be at least 1"),
            (service.workers > 0, "service.workers", "must be at least 1"),
            (
                service.time.is_sound(),
                "service.time",
                "must be above zero, with a shape above 1",
            ),
            (
                self.faults.iter().all(speed),
                "fault.speed",
                "must be above zero",
            ),
            (
                stretches.clone().all(|it| in_order(&it)),
                "fault.between",
                "must end after it begins",
            ),
            (
                in_order(&self.stretch()) && self.stretch().start < self.until,
                "scenario.watch",
                "must begin while requests come, and end later",
            ),
            (
                self.until < FOREVER && self.deadline < FOREVER,
                "scenario.until",
                "must be less than a century",
            ),
        ];
        match sound.into_iter().find(|(is_sound, ..)| !is_sound) {
            Some((_, field, problem)) => Err(ConfigError::new(field, problem)),
            None => Ok(()),
        }
    }

    pub(super) fn stretch(&self) -> Range<Time> {
        if let Some(watch) = &self.watch {
            return watch.clone();
        }
        let from = self.faults.iter().map(|it| it.from).min();
        let to = self.faults.iter().map(|it| it.to).max();
        from.unwrap_or(0)..to.unwrap_or(self.until)
    }

    /// Requests that arrive in this range are those that a fault may have touched.
    pub(super) fn touched(&self) -> Range<Time> {
        let Range { start, end } = self.stretch();
        start..(end.saturating_add(AFTERMATH)).min(self.until)
    }

    /// By then every request is over.
    pub(super) const fn end(&self) -> Time {
        self.until.saturating_add(self.deadline)
    }
}

/// What a fault does to those that come after it.
const AFTERMATH: Time = 30 * SECOND;

const FOREVER: Time = 100 * 365 * 24 * 3600 * SECOND;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::ServiceTime;

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let service = |service: Service| Scenario::new("it").service(service);
        let it = || Scenario::new("it");
        for (scenario, field) in [
            (it().clients(0), "scenario.clients"),
            (it().load(Load::open(0.0)), "scenario.load"),
            (it().load(Load::open(f64::NAN)), "scenario.load"),
            (it().load(Load::open(f64::INFINITY)), "scenario.load"),
            (it().load(Load::closed(0, seconds(1))), "scenario.load"),
            (it().load(Load::once(0)), "scenario.load"),
            (it().deadline(Duration::ZERO), "scenario.deadline"),
            (
                it().attempt_timeout(Duration::ZERO),
                "scenario.attempt_timeout",
            ),
            (it().until(Duration::MAX), "scenario.until"),
            (service(Service::new().hosts(0)), "service.hosts"),
            (service(Service::new().workers(0)), "service.workers"),
            (
                service(Service::new().time(ServiceTime::pareto(1.0, seconds(1)))),
                "service.time",
            ),
            (
                service(Service::new().time(ServiceTime::constant(Duration::ZERO))),
                "service.time",
            ),
            (it().fault(Fault::speed(Ratio::percent(0))), "fault.speed"),
            (
                it().fault(Fault::outage().between(seconds(2), seconds(2))),
                "fault.between",
            ),
            (it().watch(seconds(2), seconds(1)), "scenario.watch"),
            (
                it().fault(Fault::outage()).until(seconds(30)),
                "scenario.watch",
            ),
        ] {
            assert_eq!(scenario.check().unwrap_err().field(), field);
        }
        assert_eq!(it().fault(Fault::outage()).check(), Ok(()));
    }

    #[test]
    fn the_watched_stretch_is_that_of_the_faults() {
        let it = Scenario::new("it").fault(Fault::outage());
        assert_eq!(it.watched(), seconds(30)..seconds(60));
        let it = it.fault(Fault::stall().between(seconds(50), seconds(70)));
        assert_eq!(it.watched(), seconds(30)..seconds(70));
        assert_eq!(
            it.watch(seconds(1), seconds(2)).watched(),
            seconds(1)..seconds(2)
        );
    }
}
