//! The sections, each with the fields that its policy's builder has, and how they are built.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::backoff::{self, Jitter};
use crate::breaker::{self, CountAs};
use crate::budget::{self, Ratio};
use crate::keyed::{self, Keyed};
use crate::limit::{self, Aimd, Gradient, Order};
use crate::pipeline::Scope;
use crate::verdict::Kind;
use crate::{endpoints, retry, throttle, window};

use super::error::{Error, below};
use super::value::{PerKey, Plain, Setting, optional, plain};

/// Fields that may all be left out. They are public and have no invariants: a configuration is
/// plain data, and is checked as a whole.
macro_rules! section {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$about])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        #[non_exhaustive]
        pub struct $name {
            $(
                $(#[$doc])*
                #[serde(with = "optional", skip_serializing_if = "Option::is_none")]
                pub $field: Option<$kind>,
            )*
        }

        plain! { $name, "a table"; }
    };
}

section! {
    /// When to try again; see [`Retry`](crate::Retry).
    Retry {
        /// [`Retry::max_attempts`](crate::Retry::max_attempts).
        max_attempts: u32,
        /// [`Retry::backoff`](crate::Retry::backoff).
        backoff: Backoff,
        /// [`Retry::after_rate_limit`](crate::Retry::after_rate_limit).
        after_rate_limit: Backoff,
        /// [`Retry::budget`](crate::Retry::budget).
        budget: Setting<Budget>,
        /// [`Retry::max_hint`](crate::Retry::max_hint).
        max_hint: Duration,
        /// [`Retry::hint_spread`](crate::Retry::hint_spread).
        hint_spread: Duration,
    }
}

section! {
    /// A schedule of delays; see [`Backoff`](crate::backoff::Backoff).
    Backoff {
        /// Its shape. Default: exponential.
        kind: Shape,
        /// The first delay; each delay of a constant schedule. It has to be there.
        first: Duration,
        /// [`Backoff::factor`](crate::backoff::Backoff::factor), of an exponential schedule.
        factor: f64,
        /// [`Backoff::max_delay`](crate::backoff::Backoff::max_delay).
        max_delay: Duration,
        /// [`Backoff::jitter`](crate::backoff::Backoff::jitter).
        jitter: Jitter,
    }
}

/// The shape of a schedule. Custom ones are code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Shape {
    /// The same delay every time.
    Constant,
    /// A factor longer each time.
    #[default]
    Exponential,
    /// The first delay times 1, 1, 2, 3, 5, ..
    Fibonacci,
}

section! {
    /// The budget of a retry policy; see [`Budget`](crate::Budget).
    Budget {
        /// What a first attempt earns. Default: the preset's, or 10 %.
        ratio: Ratio,
        /// [`Budget::capacity`](crate::Budget::capacity).
        capacity: u32,
        /// [`Budget::capacity_of`](crate::Budget::capacity_of). It and `capacity` exclude each other.
        capacity_of: Traffic,
        /// [`Budget::cost`](crate::Budget::cost) of each kind.
        costs: Costs,
        /// Whether each service has its own.
        per_key: PerKey,
    }
}

section! {
    /// A capacity that follows the traffic. Both have to be there.
    Traffic {
        /// Of how long.
        window: Duration,
        /// At least so many tokens.
        least: u32,
    }
}

section! {
    /// What an attempt costs after each kind of failure, in tokens.
    Costs {
        /// After [`Kind::Overloaded`].
        overloaded: u32,
        /// After [`Kind::RateLimited`].
        rate_limited: u32,
        /// After [`Kind::Transient`].
        transient: u32,
    }
}

section! {
    /// A registry of one policy per key; see [`Keyed`].
    #[derive(Copy, Eq)]
    Registry {
        /// [`Keyed::capacity`].
        capacity: usize,
        /// [`Keyed::idle_after`].
        idle_after: Duration,
    }
}

section! {
    /// The congestion window; see [`Window`](crate::Window).
    Window {
        /// [`Window::order`](crate::Window::order).
        order: Order,
        /// [`Window::max_parked`](crate::Window::max_parked); 0 is
        /// [`fail_fast`](crate::Window::fail_fast).
        max_parked: usize,
        /// [`Window::longest_quiet`](crate::Window::longest_quiet).
        longest_quiet: Duration,
        /// Whether each service has its own. Default: true over `http`.
        per_key: PerKey,
    }
}

section! {
    /// Sheds in proportion to refusals; see [`Throttle`](crate::Throttle).
    Throttle {
        /// [`Throttle::multiplier`](crate::Throttle::multiplier), such as `2.0` or `"200%"`.
        multiplier: Ratio,
        /// [`Throttle::window`](crate::Throttle::window).
        window: Duration,
        /// [`Throttle::floor`](crate::Throttle::floor).
        floor: Ratio,
        /// [`Throttle::least`](crate::Throttle::least).
        least: u32,
        /// Whether each service has its own.
        per_key: PerKey,
    }
}

section! {
    /// So many per time; see [`RateLimit`](crate::RateLimit).
    RateLimit {
        /// So many. It has to be there.
        count: u32,
        /// In each stretch of this length. Default: 1 s.
        per: Duration,
        /// [`RateLimit::burst`](crate::RateLimit::burst).
        burst: u32,
        /// [`RateLimit::queue`](crate::RateLimit::queue).
        queue: usize,
        /// [`RateLimit::order`](crate::RateLimit::order).
        order: Order,
        /// [`RateLimit::max_pause`](crate::RateLimit::max_pause).
        max_pause: Duration,
        /// Whether each service has its own.
        per_key: PerKey,
    }
}

section! {
    /// So many at once; see [`Bulkhead`](crate::Bulkhead). It has either `max_concurrent` or
    /// `adaptive`.
    Bulkhead {
        /// At most so many at once: [`Bulkhead::new`](crate::Bulkhead::new).
        max_concurrent: u32,
        /// As many as is found good: [`Bulkhead::adaptive`](crate::Bulkhead::adaptive).
        adaptive: Adaptive,
        /// [`Bulkhead::queue`](crate::Bulkhead::queue).
        queue: usize,
        /// [`Bulkhead::order`](crate::Bulkhead::order).
        order: Order,
        /// [`Bulkhead::max_wait`](crate::Bulkhead::max_wait).
        max_wait: Duration,
        /// [`Bulkhead::until_body_ends`](crate::Bulkhead::until_body_ends).
        until_body_ends: bool,
        /// Whether each service has its own.
        per_key: PerKey,
    }
}

section! {
    /// A limit that learns.
    Adaptive {
        /// How. It has to be there.
        kind: Learning,
        /// Where it begins: [`Aimd::initial`], [`Gradient::initial`].
        initial: u32,
        /// The least and the most: [`Aimd::bounds`], [`Gradient::bounds`].
        bounds: Bounds,
    }
}

/// How a limit learns. Others are code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Learning {
    /// [`Aimd`].
    Aimd,
    /// [`Gradient`].
    Gradient,
}

plain! {
    Shape, "the shape of a schedule";
    Learning, "a way of learning";
}

section! {
    /// Bounds, inclusive. Both have to be there.
    #[derive(Copy, Eq)]
    Bounds {
        /// The least.
        min: u32,
        /// The most.
        max: u32,
    }
}

section! {
    /// Refuses while the service fails; see [`Breaker`](crate::Breaker).
    Breaker {
        /// [`Breaker::failure_ratio`](crate::Breaker::failure_ratio).
        failure_ratio: Setting<Ratio>,
        /// [`Breaker::slow_calls`](crate::Breaker::slow_calls).
        slow_calls: Setting<SlowCalls>,
        /// [`Breaker::min_calls`](crate::Breaker::min_calls).
        min_calls: u32,
        /// [`Breaker::window`](crate::Breaker::window).
        window: Duration,
        /// [`Breaker::window_of_calls`](crate::Breaker::window_of_calls). It and `window` exclude
        /// each other.
        window_of_calls: u32,
        /// [`Breaker::consecutive_failures`](crate::Breaker::consecutive_failures).
        consecutive_failures: Setting<u32>,
        /// [`Breaker::cooldown`](crate::Breaker::cooldown).
        cooldown: Backoff,
        /// [`Breaker::forget_after`](crate::Breaker::forget_after).
        forget_after: Duration,
        /// [`Breaker::max_hint`](crate::Breaker::max_hint).
        max_hint: Duration,
        /// [`Breaker::probes`](crate::Breaker::probes).
        probes: u32,
        /// [`Breaker::close_after`](crate::Breaker::close_after).
        close_after: u32,
        /// [`Breaker::reopen_after`](crate::Breaker::reopen_after).
        reopen_after: u32,
        /// [`Breaker::probe_timeout`](crate::Breaker::probe_timeout).
        probe_timeout: Duration,
        /// [`Breaker::ramp`](crate::Breaker::ramp).
        ramp: Duration,
        /// [`Breaker::request_faults`](crate::Breaker::request_faults).
        request_faults: CountAs,
        /// [`Breaker::cancelled`](crate::Breaker::cancelled).
        cancelled: CountAs,
        /// Whether each service has its own.
        per_key: PerKey,
    }
}

section! {
    /// When calls are slow, and how many are too many. Both have to be there.
    SlowCalls {
        /// From this length on.
        over: Duration,
        /// This share.
        ratio: Ratio,
    }
}

section! {
    /// A healthy host for every attempt; see [`Endpoints`](crate::Endpoints).
    Endpoints {
        /// [`Endpoints::new`](crate::Endpoints::new). It has to be there.
        list: Vec<String>,
        /// [`Endpoints::consecutive_failures`](crate::Endpoints::consecutive_failures).
        consecutive_failures: Setting<u32>,
        /// [`Endpoints::failure_share`](crate::Endpoints::failure_share).
        failure_share: Setting<Ratio>,
        /// [`Endpoints::most_ejected`](crate::Endpoints::most_ejected).
        most_ejected: Ratio,
        /// [`Endpoints::cooldown`](crate::Endpoints::cooldown).
        cooldown: Backoff,
        /// [`Endpoints::forget_after`](crate::Endpoints::forget_after).
        forget_after: Duration,
        /// [`Endpoints::max_hint`](crate::Endpoints::max_hint).
        max_hint: Duration,
        /// [`Endpoints::probe_timeout`](crate::Endpoints::probe_timeout).
        probe_timeout: Duration,
        /// [`Endpoints::ramp`](crate::Endpoints::ramp).
        ramp: Duration,
    }
}

impl Retry {
    /// What is not said is as in `preset`.
    pub(super) fn build(&self, preset: Option<&retry::Retry>) -> Result<retry::Retry, Error> {
        const AT: &str = "retry";
        let mut it = preset.cloned().unwrap_or_default();
        it = set(it, self.max_attempts, retry::Retry::max_attempts);
        it = set(it, self.max_hint, retry::Retry::max_hint);
        it = set(it, self.hint_spread, retry::Retry::hint_spread);
        if let Some(backoff) = &self.backoff {
            it = it.backoff(backoff.build(&below(AT, "backoff"))?);
        }
        if let Some(backoff) = &self.after_rate_limit {
            it = it.after_rate_limit(backoff.build(&below(AT, "after_rate_limit"))?);
        }
        match &self.budget {
            None => {}
            Some(Setting::Off) => it = it.no_budget(),
            Some(Setting::On(budget)) => {
                let budget = budget.build(it.budgets())?;
                it = it.budget(budget);
            }
        }
        it.check().map_err(|error| Error::of(AT, error))?;
        Ok(it)
    }
}

impl Backoff {
    fn build(&self, path: &str) -> Result<backoff::Backoff, Error> {
        let first = needed(self.first, path, "first")?;
        let kind = self.kind.unwrap_or_default();
        if self.factor.is_some() && kind != Shape::Exponential {
            let problem = "is for exponential schedules only";
            return Err(Error::new(below(path, "factor"), problem));
        }
        let mut it = match kind {
            Shape::Constant => backoff::Backoff::constant(first),
            Shape::Exponential => backoff::Backoff::exponential(first),
            Shape::Fibonacci => backoff::Backoff::fibonacci(first),
        };
        it = set(it, self.factor, backoff::Backoff::factor);
        it = set(it, self.max_delay, backoff::Backoff::max_delay);
        it = set(it, self.jitter, backoff::Backoff::jitter);
        it.check().map_err(|error| Error::of(path, error))?;
        Ok(it)
    }
}

impl Budget {
    fn build(
        &self,
        preset: Option<&Scope<budget::Budget>>,
    ) -> Result<Scope<budget::Budget>, Error> {
        const AT: &str = "retry.budget";
        let mut it = match (self.ratio, preset) {
            (Some(ratio), _) => budget::Budget::new(ratio),
            (None, Some(Scope::One(preset))) => preset.clone(),
            (None, _) => budget::Budget::default(),
        };
        if self.capacity.is_some() && self.capacity_of.is_some() {
            return Err(Error::new(below(AT, "capacity_of"), "excludes capacity"));
        }
        it = set(it, self.capacity, budget::Budget::capacity);
        if let Some(traffic) = &self.capacity_of {
            let path = below(AT, "capacity_of");
            let window = needed(traffic.window, &path, "window")?;
            it = it.capacity_of(window, needed(traffic.least, &path, "least")?);
        }
        for (kind, cost) in self.costs.iter().flat_map(Costs::each) {
            it = set(it, cost, |it, cost| it.cost(kind, cost));
        }
        scope(it, self.per_key, false, AT)
    }
}

impl Costs {
    const fn each(&self) -> [(Kind, Option<u32>); 3] {
        [
            (Kind::Overloaded, self.overloaded),
            (Kind::RateLimited, self.rate_limited),
            (Kind::Transient, self.transient),
        ]
    }
}

impl Window {
    pub(super) fn build(
        &self,
        preset: Option<&Scope<window::Window>>,
    ) -> Result<Scope<window::Window>, Error> {
        let mut it = window::Window::new();
        it = set(it, self.order, window::Window::order);
        it = set(it, self.max_parked, window::Window::max_parked);
        it = set(it, self.longest_quiet, window::Window::longest_quiet);
        let keyed = matches!(preset, Some(Scope::PerKey(_)));
        scope(it, self.per_key, keyed, "window")
    }
}

impl Throttle {
    pub(super) fn build(&self) -> Result<Scope<throttle::Throttle>, Error> {
        let mut it = throttle::Throttle::new();
        it = set(it, self.multiplier, throttle::Throttle::multiplier);
        it = set(it, self.window, throttle::Throttle::window);
        it = set(it, self.floor, throttle::Throttle::floor);
        it = set(it, self.least, throttle::Throttle::least);
        scope(it, self.per_key, false, "throttle")
    }
}

impl RateLimit {
    pub(super) fn build(&self) -> Result<Scope<limit::RateLimit>, Error> {
        const AT: &str = "rate_limit";
        let per = self.per.unwrap_or(Duration::from_secs(1));
        let mut it = limit::RateLimit::new(needed(self.count, AT, "count")?, per);
        it = set(it, self.burst, limit::RateLimit::burst);
        it = set(it, self.queue, limit::RateLimit::queue);
        it = set(it, self.order, limit::RateLimit::order);
        it = set(it, self.max_pause, limit::RateLimit::max_pause);
        scope(it, self.per_key, false, AT)
    }
}

impl Bulkhead {
    pub(super) fn build(&self) -> Result<Scope<limit::Bulkhead>, Error> {
        const AT: &str = "bulkhead";
        let mut it = match (self.max_concurrent, &self.adaptive) {
            (Some(most), None) => limit::Bulkhead::new(most),
            (None, Some(adaptive)) => adaptive.build(&below(AT, "adaptive"))?,
            (None, None) => {
                return Err(Error::new(below(AT, "max_concurrent"), "is missing"));
            }
            (Some(_), Some(_)) => {
                return Err(Error::new(below(AT, "adaptive"), "excludes max_concurrent"));
            }
        };
        it = set(it, self.queue, limit::Bulkhead::queue);
        it = set(it, self.order, limit::Bulkhead::order);
        it = set(it, self.max_wait, limit::Bulkhead::max_wait);
        if self.until_body_ends == Some(true) {
            it = it.until_body_ends();
        }
        scope(it, self.per_key, false, AT)
    }
}

impl Adaptive {
    fn build(&self, path: &str) -> Result<limit::Bulkhead, Error> {
        let bounds = match self.bounds {
            None => None,
            Some(bounds) => {
                let path = below(path, "bounds");
                let min = needed(bounds.min, &path, "min")?;
                Some((min, needed(bounds.max, &path, "max")?))
            }
        };
        Ok(match needed(self.kind, path, "kind")? {
            Learning::Aimd => {
                let it = set(Aimd::new(), self.initial, Aimd::initial);
                let it = set(it, bounds, |it, (min, max)| it.bounds(min, max));
                limit::Bulkhead::adaptive(it)
            }
            Learning::Gradient => {
                let it = set(Gradient::new(), self.initial, Gradient::initial);
                let it = set(it, bounds, |it, (min, max)| it.bounds(min, max));
                limit::Bulkhead::adaptive(it)
            }
        })
    }
}

impl Breaker {
    pub(super) fn build(&self) -> Result<Scope<breaker::Breaker>, Error> {
        const AT: &str = "breaker";
        let mut it = breaker::Breaker::new();
        if let Some(ratio) = &self.failure_ratio {
            it = it.failure_ratio(ratio.as_option().copied());
        }
        if let Some(Setting::On(slow)) = &self.slow_calls {
            let path = below(AT, "slow_calls");
            let over = needed(slow.over, &path, "over")?;
            it = it.slow_calls(over, needed(slow.ratio, &path, "ratio")?);
        }
        if self.window.is_some() && self.window_of_calls.is_some() {
            return Err(Error::new(below(AT, "window_of_calls"), "excludes window"));
        }
        it = set(it, self.min_calls, breaker::Breaker::min_calls);
        it = set(it, self.window, breaker::Breaker::window);
        it = set(it, self.window_of_calls, breaker::Breaker::window_of_calls);
        if let Some(failures) = &self.consecutive_failures {
            it = it.consecutive_failures(failures.as_option().copied());
        }
        if let Some(cooldown) = &self.cooldown {
            it = it.cooldown(cooldown.build(&below(AT, "cooldown"))?);
        }
        it = set(it, self.forget_after, breaker::Breaker::forget_after);
        it = set(it, self.max_hint, breaker::Breaker::max_hint);
        it = set(it, self.probes, breaker::Breaker::probes);
        it = set(it, self.close_after, breaker::Breaker::close_after);
        it = set(it, self.reopen_after, breaker::Breaker::reopen_after);
        it = set(it, self.probe_timeout, breaker::Breaker::probe_timeout);
        it = set(it, self.ramp, breaker::Breaker::ramp);
        it = set(it, self.request_faults, breaker::Breaker::request_faults);
        it = set(it, self.cancelled, breaker::Breaker::cancelled);
        scope(it, self.per_key, false, AT)
    }
}

impl Endpoints {
    pub(super) fn build(&self) -> Result<Scope<endpoints::Endpoints>, Error> {
        const AT: &str = "endpoints";
        let list = needed(self.list.clone(), AT, "list")?;
        let mut it = endpoints::Endpoints::new(list.iter().map(String::as_str));
        if let Some(failures) = &self.consecutive_failures {
            it = it.consecutive_failures(failures.as_option().copied());
        }
        if let Some(share) = &self.failure_share {
            it = it.failure_share(share.as_option().copied());
        }
        it = set(it, self.most_ejected, endpoints::Endpoints::most_ejected);
        if let Some(cooldown) = &self.cooldown {
            it = it.cooldown(cooldown.build(&below(AT, "cooldown"))?);
        }
        it = set(it, self.forget_after, endpoints::Endpoints::forget_after);
        it = set(it, self.max_hint, endpoints::Endpoints::max_hint);
        it = set(it, self.probe_timeout, endpoints::Endpoints::probe_timeout);
        it = set(it, self.ramp, endpoints::Endpoints::ramp);
        scope(it, None, false, AT)
    }
}

/// Sets what is said.
fn set<P, T>(policy: P, value: Option<T>, set: impl FnOnce(P, T) -> P) -> P {
    match value {
        Some(value) => set(policy, value),
        None => policy,
    }
}

fn needed<T>(value: Option<T>, path: &str, name: &str) -> Result<T, Error> {
    value.ok_or_else(|| Error::new(below(path, name), "is missing"))
}

/// One policy for all, or one per key; checked.
fn scope<P: keyed::PerKey>(
    policy: P,
    per_key: Option<PerKey>,
    preset: bool,
    path: &str,
) -> Result<Scope<P>, Error> {
    let registry = match per_key {
        Some(PerKey::No) => None,
        Some(PerKey::Yes(registry)) => Some(registry),
        None => preset.then(Registry::default),
    };
    let scope = match registry {
        None => Scope::One(policy),
        Some(registry) => {
            let keyed = set(Keyed::new(policy), registry.capacity, Keyed::capacity);
            Scope::PerKey(set(keyed, registry.idle_after, Keyed::idle_after))
        }
    };
    scope.check().map_err(|error| Error::of(path, error))?;
    Ok(scope)
}
