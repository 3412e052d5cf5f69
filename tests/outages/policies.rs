//! What clients may do about failures.

use std::time::Duration;

use evenkeel::backoff::Backoff;
use evenkeel::budget::Ratio;
use evenkeel::limit::{Aimd, Gradient};
use evenkeel::{Breaker, Budget, Bulkhead, Retry, Throttle, Window};

use crate::fleet::Client;

/// Turns a client that has a deadline and an attempt timeout into one with a policy.
pub(crate) struct Policy {
    pub(crate) name: &'static str,
    make: Box<dyn Fn(Client, usize) -> Client>,
}

impl Policy {
    /// `make` is given the client, and its number.
    pub(crate) fn new(
        name: &'static str,
        make: impl Fn(Client, usize) -> Client + 'static,
    ) -> Self {
        let make = Box::new(make);
        Self { name, make }
    }

    pub(crate) fn apply(&self, client: Client, index: usize) -> Client {
        (self.make)(client, index)
    }
}

pub(crate) fn none() -> Policy {
    Policy::new("none", |client, _| client)
}

/// Three retries with full jitter.
pub(crate) fn retries() -> Policy {
    Policy::new("retries", |client, _| client.retry(three_retries()))
}

/// The same within a budget.
pub(crate) fn budget(percent: u16) -> Policy {
    let name = match percent {
        10 => "budget 10 %",
        20 => "budget 20 %",
        _ => "budget",
    };
    Policy::new(name, move |client, _| {
        let budget = Budget::new(Ratio::percent(percent));
        client.retry(three_retries().budget(budget))
    })
}

/// Retries that come exactly when they were asked for.
pub(crate) fn exact_hints() -> Policy {
    Policy::new("exact hints", |client, _| {
        client.retry(three_retries().hint_spread(Duration::ZERO))
    })
}

/// The default: a congestion window, and a budget behind it.
pub(crate) fn window() -> Policy {
    Policy::new("window", |client, _| with_window(client, Window::new()))
}

/// What may not go at once fails at once.
pub(crate) fn fail_fast() -> Policy {
    Policy::new("window, fail fast", |client, _| {
        with_window(client, Window::new().fail_fast())
    })
}

fn with_window(client: Client, window: Window) -> Client {
    let budget = Budget::new(Ratio::percent(50));
    client.retry(three_retries().budget(budget)).window(window)
}

/// A breaker as most libraries have it, and a budget.
pub(crate) fn breaker() -> Policy {
    Policy::new("budget, breaker", |client, _| {
        let breaker = Breaker::new()
            .failure_ratio(Ratio::percent(50))
            .min_calls(10)
            .consecutive_failures(None)
            .cooldown(Backoff::constant(Duration::from_secs(5)))
            .ramp(Duration::ZERO);
        with_budget(client).breaker(breaker)
    })
}

/// The default breaker behind the default window.
pub(crate) fn window_and_breaker() -> Policy {
    Policy::new("window, breaker", |client, _| {
        with_window(client, Window::new()).breaker(Breaker::new())
    })
}

/// Adaptive throttling, and a budget.
pub(crate) fn throttle() -> Policy {
    Policy::new("budget, throttle", |client, _| {
        with_budget(client).throttle(Throttle::new())
    })
}

/// A limit learned by additive increase and multiplicative decrease, and a budget.
pub(crate) fn aimd() -> Policy {
    Policy::new("budget, AIMD", |client, _| {
        with_budget(client)
            .bulkhead(Bulkhead::adaptive(Aimd::new()).queue(200))
            .min_time_left(Duration::from_millis(700))
    })
}

/// A limit learned from latency, and a budget.
pub(crate) fn gradient() -> Policy {
    Policy::new("budget, gradient", |client, _| {
        with_budget(client)
            .bulkhead(Bulkhead::adaptive(Gradient::new()).queue(200))
            .min_time_left(Duration::from_millis(700))
    })
}

fn with_budget(client: Client) -> Client {
    client.retry(three_retries().budget(Budget::new(Ratio::percent(10))))
}

/// What the table compares.
pub(crate) fn all() -> Vec<Policy> {
    vec![
        none(),
        retries(),
        exact_hints(),
        budget(10),
        budget(20),
        breaker(),
        throttle(),
        aimd(),
        gradient(),
        window(),
        fail_fast(),
        window_and_breaker(),
    ]
}

fn three_retries() -> Retry {
    Retry::new(Backoff::exponential(Duration::from_millis(100))).max_attempts(4)
}
