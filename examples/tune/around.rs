//! The default, and what becomes of it when one setting is changed.

use std::error::Error;
use std::time::Duration;

use evenkeel::backoff::{Backoff, Jitter};
use evenkeel::budget::Ratio;
use evenkeel::http::Http;
use evenkeel::limit::Order;
use evenkeel::sim::{Job, Policy, Scenario, play};
use evenkeel::{Breaker, Budget, Keyed, Pipeline, Retry, Window};

const SEEDS: [u64; 2] = [1, 2];

/// Prints a table, in the form of Markdown.
pub(crate) fn show(scenarios: &[Scenario]) -> Result<(), Box<dyn Error>> {
    let policies = policies();
    let mut jobs = Vec::new();
    for policy in &policies {
        for scenario in scenarios {
            jobs.extend(SEEDS.map(|seed| Job {
                scenario: scenario.clone(),
                policy: policy.clone(),
                seed,
            }));
        }
    }
    let shares = play(&jobs, |report| {
        let best = report.scenario().oracle(report.seed());
        let best = best.expect("it was played");
        100.0 * best.map_or(report.touched().share(), |best| report.share_of(&best))
    })?;
    print!("| percent of the attainable |");
    for scenario in scenarios {
        print!(" {} |", scenario.name());
    }
    println!("\n|---|{}", "---:|".repeat(scenarios.len()));
    let rows = shares.chunks(SEEDS.len() * scenarios.len());
    for (policy, row) in policies.iter().zip(rows) {
        print!("| {} |", policy.name());
        for cell in row.chunks(SEEDS.len()) {
            print!(" {:.1} |", cell.iter().sum::<f64>() / cell.len() as f64);
        }
        println!();
    }
    Ok(())
}

/// One change each.
fn policies() -> Vec<Policy> {
    let retry = |name: &'static str, change: fn(Retry) -> Retry| {
        Policy::of(name, move || Pipeline::http().retry(change(default())))
    };
    let pipeline = |name: &'static str, change: fn(Pipeline<Http>) -> Pipeline<Http>| {
        Policy::of(name, move || change(Pipeline::http()))
    };
    vec![
        Policy::evenkeel().named("**the default**"),
        retry("1 attempt", |it| it.max_attempts(1)),
        retry("2 attempts", |it| it.max_attempts(2)),
        retry("3 attempts", |it| it.max_attempts(3)),
        retry("8 attempts", |it| it.max_attempts(8)),
        retry("budget 10 %", |it| it.budget(percent(10))),
        retry("budget 20 %", |it| it.budget(percent(20))),
        retry("budget 100 %", |it| it.budget(percent(100))),
        retry("first delay 25 ms", |it| it.backoff(first(25))),
        retry("first delay 400 ms", |it| it.backoff(first(400))),
        retry("delays up to 10 s", |it| {
            it.backoff(first(100).max_delay(Duration::from_secs(10)))
        }),
        retry("no jitter", |it| {
            it.backoff(first(100).jitter(Jitter::None))
        }),
        retry("equal jitter", |it| {
            it.backoff(first(100).jitter(Jitter::Equal))
        }),
        pipeline("no window", Pipeline::no_window),
        Policy::of("no window, 3 attempts, budget 10 %", || {
            let retry = default().max_attempts(3).budget(percent(10));
            Pipeline::http().no_window().retry(retry)
        }),
        pipeline("window fails fast", |it| {
            it.window(Keyed::new(Window::new().fail_fast()))
        }),
        pipeline("window, newest first", |it| {
            it.window(Keyed::new(Window::new().order(Order::NewestFirst)))
        }),
        pipeline("with the default breaker", |it| {
            it.breaker(Keyed::new(Breaker::new()))
        }),
        pipeline("0.7 s left at least", |it| {
            it.min_time_left(Duration::from_millis(700))
        }),
    ]
}

/// The retry policy of [`Pipeline::http`].
fn default() -> Retry {
    Retry::default().max_attempts(4).budget(percent(50))
}

fn percent(percent: u16) -> Budget {
    Budget::new(Ratio::percent(percent))
}

fn first(millis: u64) -> Backoff {
    Backoff::exponential(Duration::from_millis(millis))
}
