//! What clients may do about failures: this crate's default, and what others do, built of this crate's
//! own parts.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::backoff::{Backoff, Jitter};
use crate::breaker::Breaker;
use crate::budget::{Budget, Ratio};
use crate::endpoints::Endpoints;
use crate::limit::{Aimd, Bulkhead, Gradient};
use crate::pipeline::Pipeline;
use crate::retry::Retry;
use crate::sim::world::compact;
use crate::sim::{Client, Reading, Scenario};
use crate::throttle::Throttle;
use crate::window::Window;

/// What the clients of a run do about failures: it makes the pipeline of each of them.
///
/// # Examples
///
/// ```
/// use evenkeel::sim::{Policy, Scenario, scenarios};
/// use evenkeel::{Budget, Pipeline, Retry};
/// use std::time::Duration;
///
/// // What production uses: its deadline and attempt timeout give way to those of the scenario.
/// let ours = Policy::of("ours", || Pipeline::http().no_window());
/// // Built upon a client that has a deadline and an attempt timeout, and no more.
/// let other = Policy::new("other", |client| client.retry(Retry::default().budget(Budget::default())));
///
/// let blip = scenarios::s1().until(Duration::from_secs(62));
/// for policy in [ours, other] {
///     let report = blip.run(&policy, 1)?;
///     println!("{}: {:.3}", report.policy(), report.during().share());
/// }
/// # Ok::<(), evenkeel::ConfigError>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct Policy {
    name: Cow<'static, str>,
    make: Arc<Make>,
}

type Make = dyn Fn(Client, &Scenario, usize) -> Client + Send + Sync;

impl Policy {
    /// `make` is given a client that has the deadline and the attempt timeout of the scenario, which stay
    /// whatever it does, and no policies. It is called once for each client: what it makes anew is that client's own.
    pub fn new(
        name: impl Into<Cow<'static, str>>,
        make: impl Fn(Client) -> Client + Send + Sync + 'static,
    ) -> Self {
        Self::mixed(name, move |client, _| make(client))
    }

    /// The same for a fleet whose clients differ: `make` is also given the number of the client, from 0.
    pub fn mixed(
        name: impl Into<Cow<'static, str>>,
        make: impl Fn(Client, usize) -> Client + Send + Sync + 'static,
    ) -> Self {
        Self::for_scenario(name, move |client, _, index| make(client, index))
    }

    /// The same for policies that have to know what they are for, such as how many hosts there are.
    pub fn for_scenario(
        name: impl Into<Cow<'static, str>>,
        make: impl Fn(Client, &Scenario, usize) -> Client + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            make: Arc::new(make),
        }
    }

    /// The policies of any pipeline. `make` is called once for each client; the clones of one pipeline would
    /// share their budget and their windows. Deadline, attempt timeout, classifier, clock,
    /// chance and observer are the scenario's, and calls may be repeated.
    pub fn of<C>(
        name: impl Into<Cow<'static, str>>,
        make: impl Fn() -> Pipeline<C> + Send + Sync + 'static,
    ) -> Self {
        Self::new(name, move |_| make().classify(Reading).idempotent(true))
    }

    /// One attempt.
    pub fn none() -> Self {
        Self::new("no retry", |client| client)
    }

    /// Three retries, at once.
    pub fn immediate_retries() -> Self {
        let retry = || Retry::constant(Duration::ZERO).max_attempts(4);
        Self::new("3 immediate retries", move |client| client.retry(retry()))
    }

    /// Three retries after 100, 200 and 400 ms.
    pub fn exponential() -> Self {
        Self::new("exponential, no jitter", |client| {
            let backoff = Backoff::exponential(FIRST).jitter(Jitter::None);
            client.retry(Retry::new(backoff).max_attempts(4))
        })
    }

    /// Three retries after up to 100, 200 and 400 ms.
    pub fn full_jitter() -> Self {
        Self::new("full jitter", |client| client.retry(three_retries()))
    }

    /// Three retries that come exactly when the service asked for them.
    pub fn exact_hints() -> Self {
        Self::new("exact Retry-After", |client| {
            client.retry(three_retries().hint_spread(Duration::ZERO))
        })
    }

    /// Three retries with full jitter within a budget of so many percent of first attempts.
    pub fn budget(percent: u16) -> Self {
        Self::new(format!("budget {percent} %"), move |client| {
            client.retry(three_retries().budget(Budget::new(Ratio::percent(percent))))
        })
    }

    /// A breaker as most libraries have it, behind retries with a budget of 10 %: it opens for 5 s when
    /// half of at least ten calls of the last 10 s failed.
    pub fn breaker() -> Self {
        Self::new("budget, breaker", |client| {
            let breaker = Breaker::new()
                .failure_ratio(Ratio::percent(50))
                .min_calls(10)
                .consecutive_failures(None)
                .cooldown(Backoff::constant(Duration::from_secs(5)))
                .ramp(Duration::ZERO);
            with_budget(client).breaker(breaker)
        })
    }

    /// Adaptive throttling, behind retries with a budget of 10 %.
    pub fn throttle() -> Self {
        Self::new("budget, throttle", |client| {
            with_budget(client).throttle(Throttle::new())
        })
    }

    /// A limit learned by additive increase and multiplicative decrease, behind retries with a budget of
    /// 10 %.
    pub fn aimd() -> Self {
        Self::new("budget, AIMD", |client| {
            with_budget(client)
                .bulkhead(Bulkhead::adaptive(Aimd::new()).queue(200))
                .min_time_left(LEAST)
        })
    }

    /// A limit learned from latency, behind retries with a budget of 10 %.
    pub fn gradient() -> Self {
        Self::new("budget, gradient", |client| {
            with_budget(client)
                .bulkhead(Bulkhead::adaptive(Gradient::new()).queue(200))
                .min_time_left(LEAST)
        })
    }

    /// This crate's default, [`Pipeline::http`].
    pub fn evenkeel() -> Self {
        Self::of("evenkeel", Pipeline::http)
    }

    /// The same, but what may not go at once fails at once: [`Window::fail_fast`].
    pub fn fail_fast() -> Self {
        Self::of("evenkeel, fail fast", || {
            Pipeline::http().window(Window::new().fail_fast())
        })
    }

    /// The default with a choice among the hosts of the scenario: [`Endpoints`].
    pub fn with_endpoints() -> Self {
        let default = Self::evenkeel();
        Self::for_scenario("evenkeel, endpoints", move |client, scenario, index| {
            let client = default.apply(client, scenario, index);
            client.endpoints(Endpoints::numbered(compact(scenario.service.hosts)))
        })
    }

    /// The default with the default breaker behind it.
    pub fn with_breaker() -> Self {
        Self::of("evenkeel, breaker", || {
            Pipeline::http().breaker(Breaker::new())
        })
    }

    /// All of these.
    #[must_use]
    pub fn all() -> Vec<Self> {
        vec![
            Self::none(),
            Self::immediate_retries(),
            Self::exponential(),
            Self::full_jitter(),
            Self::exact_hints(),
            Self::budget(10),
            Self::budget(20),
            Self::breaker(),
            Self::throttle(),
            Self::aimd(),
            Self::gradient(),
            Self::evenkeel(),
            Self::with_endpoints(),
            Self::fail_fast(),
            Self::with_breaker(),
        ]
    }

    /// Another name.
    pub fn named(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.name = name.into();
        self
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn apply(&self, client: Client, scenario: &Scenario, index: usize) -> Client {
        (self.make)(client, scenario, index)
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

fn three_retries() -> Retry {
    Retry::new(Backoff::exponential(FIRST)).max_attempts(4)
}

fn with_budget(client: Client) -> Client {
    client.retry(three_retries().budget(Budget::new(Ratio::percent(10))))
}

const FIRST: Duration = Duration::from_millis(100);

/// What an attempt needs to be answered, in a service of a tenth of a second.
const LEAST: Duration = Duration::from_millis(700);
