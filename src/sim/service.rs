//! What the clients call: hosts with workers and queues, or a service of one's own. Values only.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::budget::Ratio;
use crate::sim::Failure;
use crate::sim::draws::Stream;
use crate::sim::timeline::{Time, length, time};

/// Hosts that do one kind of work.
///
/// Each host has workers, and a queue for what finds them all busy. What finds the queue full is
/// answered 503 at once.
///
/// # Examples
///
/// ```
/// use evenkeel::sim::{Queue, Service, ServiceTime};
/// use std::time::Duration;
///
/// let service = Service::new()
///     .hosts(4)
///     .workers(8)
///     .time(ServiceTime::exponential(Duration::from_millis(20)))
///     .queue(Queue::newest_first(100).shed_after(Duration::from_millis(500)));
/// assert_eq!(service.capacity(), 1600.0); // requests per second
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Service {
    pub(super) hosts: usize,
    pub(super) workers: usize,
    pub(super) time: ServiceTime,
    pub(super) queue: Queue,
    pub(super) refusal_cost: Time,
    pub(super) errors: Ratio,
    pub(super) backend: Option<Make>,
}

impl Service {
    /// Ten hosts of ten workers, Erlang-2 of 100 ms, and room for 200 in each queue: a thousand requests
    /// per second.
    pub const fn new() -> Self {
        Self {
            hosts: 10,
            workers: 10,
            time: ServiceTime::erlang(2, Duration::from_millis(100)),
            queue: Queue::first_come(200),
            refusal_cost: 5000,
            errors: Ratio::percent(0),
            backend: None,
        }
    }

    /// How many hosts there are; at least 1. Default: 10.
    pub const fn hosts(mut self, hosts: usize) -> Self {
        self.hosts = hosts;
        self
    }

    /// How many requests a host works on at once; at least 1. Default: 10.
    pub const fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// How long a worker takes. Default: Erlang-2 with a mean of 100 ms.
    pub const fn time(mut self, time: ServiceTime) -> Self {
        self.time = time;
        self
    }

    /// What waits for a worker, per host. Default: 200, first come first served.
    pub const fn queue(mut self, queue: Queue) -> Self {
        self.queue = queue;
        self
    }

    /// What the answer of a full queue costs the host, in worker time; added to what it does next.
    /// Default: 5 ms.
    pub const fn refusal_cost(mut self, cost: Duration) -> Self {
        self.refusal_cost = time(cost);
        self
    }

    /// The share of attempts that fail with a 503 for no reason, always. Default: none.
    pub const fn errors(mut self, share: Ratio) -> Self {
        self.errors = share;
        self
    }

    /// A service of one's own in front of these hosts, made anew for every run of its seed; see
    /// [`Backend`]. Default: none.
    pub fn backend<B: Backend + 'static>(
        mut self,
        make: impl Fn(u64) -> B + Send + Sync + 'static,
    ) -> Self {
        self.backend = Some(Make(Arc::new(move |seed| Box::new(make(seed)))));
        self
    }

    /// Requests per second that all hosts can answer while nothing is wrong.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn capacity(&self) -> f64 {
        (self.hosts * self.workers) as f64 / self.time.mean().as_secs_f64()
    }
}

impl Default for Service {
    /// [`Service::new`].
    fn default() -> Self {
        Self::new()
    }
}

/// How long a worker takes for a request.
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use]
pub struct ServiceTime {
    shape: Shape,
    mean: Time,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    Constant,
    Erlang(u32),
    Pareto(f64),
}

impl ServiceTime {
    /// Always the same.
    pub const fn constant(length: Duration) -> Self {
        Self::of(Shape::Constant, length)
    }

    /// Memoryless: many short ones, some long.
    pub const fn exponential(mean: Duration) -> Self {
        Self::erlang(1, mean)
    }

    /// The sum of `phases` exponential ones; the more phases, the steadier. Zero counts as one.
    pub const fn erlang(phases: u32, mean: Duration) -> Self {
        Self::of(Shape::Erlang(phases), mean)
    }

    /// Heavy-tailed: the chance of taking longer than t falls as t to the power of -`shape`. Above 1;
    /// below 2 the spread has no bound.
    pub const fn pareto(shape: f64, mean: Duration) -> Self {
        Self::of(Shape::Pareto(shape), mean)
    }

    /// What it comes to on average.
    #[must_use]
    pub const fn mean(&self) -> Duration {
        length(self.mean)
    }

    const fn of(shape: Shape, mean: Duration) -> Self {
        let mean = time(mean);
        Self { shape, mean }
    }

    pub(super) const fn micros(&self) -> Time {
        self.mean
    }

    /// As a share of the mean.
    pub(super) fn draw(&self, draws: &mut Stream) -> f64 {
        match self.shape {
            Shape::Constant => 1.0,
            Shape::Erlang(phases) => draws.erlang(phases),
            Shape::Pareto(shape) => draws.pareto(shape),
        }
    }

    pub(super) fn is_sound(&self) -> bool {
        let tail = match self.shape {
            Shape::Pareto(shape) => shape.is_finite() && shape > 1.0,
            Shape::Constant | Shape::Erlang(_) => true,
        };
        tail && self.mean > 0
    }
}

/// What waits at a host for a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Queue {
    pub(super) capacity: usize,
    pub(super) newest_first: bool,
    pub(super) shed_after: Option<Time>,
}

impl Queue {
    /// First come, first served; at most so many wait. Zero: what finds no free worker is refused.
    pub const fn first_come(capacity: usize) -> Self {
        Self {
            capacity,
            newest_first: false,
            shed_after: None,
        }
    }

    /// The newest is served first; at most so many wait.
    pub const fn newest_first(capacity: usize) -> Self {
        Self {
            newest_first: true,
            ..Self::first_come(capacity)
        }
    }

    /// What has waited longer than this when its turn comes is answered 503 instead of served. Default:
    /// it is served however long it waited.
    pub const fn shed_after(mut self, wait: Duration) -> Self {
        self.shed_after = Some(time(wait));
        self
    }
}

/// A service of one's own: a rule for every attempt that arrives.
///
/// It is asked before the hosts are, and may leave the attempt to them. The faults of the scenario come
/// before it, and lose nothing that it has in hand.
///
/// # Examples
///
/// A service that answers the first request of each client after a second, and leaves the others to the
/// hosts:
///
/// ```
/// use evenkeel::sim::{Arrival, Backend, Failure, Handling, Load, Policy, Scenario, Service};
/// use std::collections::HashSet;
/// use std::time::Duration;
///
/// #[derive(Default)]
/// struct ColdCache(HashSet<usize>);
///
/// impl Backend for ColdCache {
///     fn arrives(&mut self, attempt: &Arrival) -> Handling {
///         if self.0.insert(attempt.client()) {
///             Handling::After(Duration::from_secs(1))
///         } else {
///             Handling::Hosts
///         }
///     }
/// }
///
/// let scenario = Scenario::new("cold cache")
///     .service(Service::new().backend(|_| ColdCache::default()))
///     .clients(3)
///     .load(Load::open(30.0))
///     .attempt_timeout(Duration::from_secs(3))
///     .until(Duration::from_secs(10));
/// let report = scenario.run(&Policy::none(), 1)?;
/// let slow = |it: &&evenkeel::sim::Request| it.latency() > Some(Duration::from_secs(1));
/// assert_eq!(report.requests().iter().filter(slow).count(), 3);
/// # Ok::<(), evenkeel::ConfigError>(())
/// ```
pub trait Backend {
    /// An attempt arrives: what becomes of it?
    fn arrives(&mut self, attempt: &Arrival) -> Handling;

    /// What the attempt is answered, now that the time is over that [`Handling::After`] named.
    /// Default: a success.
    ///
    /// # Errors
    ///
    /// The failure that the client gets.
    fn answers(&mut self, attempt: &Arrival) -> Result<(), Failure> {
        let _ = attempt;
        Ok(())
    }
}

/// What becomes of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)] // these three are all there can be
pub enum Handling {
    /// It is answered so much later, with what [`Backend::answers`] says then.
    After(Duration),
    /// It goes to a host, with its workers and its queue.
    Hosts,
    /// It is never answered.
    Never,
}

/// An attempt, as a service sees it.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub(super) now: Time,
    pub(super) number: usize,
    pub(super) client: usize,
    pub(super) host: usize,
}

impl Arrival {
    /// Since the beginning.
    #[must_use]
    pub const fn now(&self) -> Duration {
        length(self.now)
    }

    /// The attempt's number in this run, from 0, in the order in which they were sent.
    #[must_use]
    pub const fn number(&self) -> usize {
        self.number
    }

    /// Whose it is, from 0.
    #[must_use]
    pub const fn client(&self) -> usize {
        self.client
    }

    /// Where it was sent, from 0.
    #[must_use]
    pub const fn host(&self) -> usize {
        self.host
    }
}

/// Makes a service of the user's own, for every run anew.
#[derive(Clone)]
pub(super) struct Make(Arc<dyn Fn(u64) -> Box<dyn Backend> + Send + Sync>);

impl Make {
    pub(super) fn make(&self, seed: u64) -> Box<dyn Backend> {
        (self.0)(seed)
    }
}

impl fmt::Debug for Make {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Backend")
    }
}
