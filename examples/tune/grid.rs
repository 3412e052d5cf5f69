//! A small grid of policies, what each buys and costs, and which of them are worth a look.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use evenkeel::budget::Ratio;
use evenkeel::sim::{Job, Policy, Report, Scenario, play};
use evenkeel::{Budget, Pipeline, Retry, Window};

const ATTEMPTS: [u32; 3] = [2, 4, 8];
const BUDGETS: [u16; 3] = [10, 50, 100];
const FIRST_DELAYS: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(400)];
const WINDOWS: [&str; 3] = ["no window", "fail fast", "parks"];
const SEEDS: [u64; 1] = [1];

pub(crate) fn show(scenarios: &[Scenario]) -> Result<(), Box<dyn Error>> {
    let grid = grid();
    let mut results = results(scenarios, &grid)?;
    results.sort_by(|a, b| {
        let share = b.share.total_cmp(&a.share);
        share.then(a.peak.total_cmp(&b.peak))
    });

    let (most, knee, soonest) = (0, knee(&results), soonest(&results));
    let names: Vec<_> = scenarios.iter().map(Scenario::name).collect();
    println!("{} policies, means of {}:\n", grid.len(), names.join(", "));
    println!(
        "{:44} {:>10} {:>9} {:>10} {:>7}",
        "", "attainable", "recovery", "peak load", "p99"
    );
    for (index, it) in results.iter().enumerate() {
        let notes = [(most, "most"), (knee, "knee"), (soonest, "soonest")];
        let notes = notes.iter().filter(|(at, _)| *at == index).map(|it| it.1);
        let dominated = if is_dominated(it, &results) { "" } else { "*" };
        println!(
            "{:44} {:8.1} % {:>9} {:8.1} % {:5.1} s {dominated:1} {}",
            it.policy,
            100.0 * it.share,
            it.recovery
                .map_or("never".into(), |it| format!("{it:.1} s")),
            100.0 * it.peak,
            it.p99,
            notes.collect::<Vec<_>>().join(", ")
        );
    }
    println!(
        "\nattainable: successes, in percent of an omniscient client\n\
         recovery: until what arrives succeeds again after the fault; the mean, or never in one of them\n\
         peak load: attempts in the busiest second, in percent of what the service can answer when well; the worst scenario\n\
         *: no other brings as much through with as little peak load as fast\n"
    );
    println!("most:    {}", results[most].policy);
    println!("knee:    {}", results[knee].policy);
    println!("soonest: {}", results[soonest].policy);
    Ok(())
}

/// Every combination.
fn grid() -> Vec<Policy> {
    let mut grid = Vec::new();
    for attempts in ATTEMPTS {
        for percent in BUDGETS {
            for first in FIRST_DELAYS {
                for window in WINDOWS {
                    let name = format!("{attempts} attempts, {percent} %, {first:?}, {window}");
                    grid.push(Policy::of(name, move || {
                        pipeline(attempts, percent, first, window)
                    }));
                }
            }
        }
    }
    grid
}

fn pipeline(attempts: u32, percent: u16, first: Duration, window: &str) -> Pipeline {
    let budget = Budget::new(Ratio::percent(percent));
    let retry = Retry::exponential(first)
        .max_attempts(attempts)
        .budget(budget);
    let pipeline = Pipeline::new().retry(retry);
    match window {
        "parks" => pipeline.window(Window::new()),
        "fail fast" => pipeline.window(Window::new().fail_fast()),
        _ => pipeline,
    }
}

/// What a policy came to, over all scenarios and seeds.
struct Trade {
    policy: String,
    share: f64,
    /// In seconds. `None`: never, in one of them.
    recovery: Option<f64>,
    /// As a share of the capacity.
    peak: f64,
    /// In seconds.
    p99: f64,
}

/// What is kept of a run.
struct Run {
    policy: String,
    share: f64,
    recovery: Option<f64>,
    peak: f64,
    p99: f64,
}

impl Run {
    fn of(report: &Report) -> Self {
        let best = report.scenario().oracle(report.seed());
        let best = best.expect("it was played");
        Self {
            policy: report.policy().into(),
            share: best.map_or(report.touched().share(), |best| report.share_of(&best)),
            recovery: report.recovery().map(|it| it.as_secs_f64()),
            peak: f64::from(report.busiest()) / report.scenario().capacity(),
            p99: (report.latency(0.99)).map_or(f64::INFINITY, |it| it.as_secs_f64()),
        }
    }
}

fn results(scenarios: &[Scenario], grid: &[Policy]) -> Result<Vec<Trade>, Box<dyn Error>> {
    let mut jobs = Vec::new();
    for scenario in scenarios {
        for policy in grid {
            jobs.extend(SEEDS.map(|seed| Job {
                scenario: scenario.clone(),
                policy: policy.clone(),
                seed,
            }));
        }
    }
    let done = AtomicUsize::new(0);
    let runs = play(&jobs, |report| {
        let done = done.fetch_add(1, Ordering::Relaxed) + 1;
        eprint!("\r\x1b[K[{done}/{}]", jobs.len());
        Run::of(&report)
    })?;
    eprintln!("\r\x1b[K");
    let mut by_policy: BTreeMap<String, Vec<Run>> = BTreeMap::new();
    for run in runs {
        by_policy.entry(run.policy.clone()).or_default().push(run);
    }
    let results = by_policy.into_iter().map(|(policy, runs)| {
        let count = runs.len() as f64;
        let mean = |of: &dyn Fn(&Run) -> f64| runs.iter().map(of).sum::<f64>() / count;
        let recoveries: Option<Vec<f64>> = runs.iter().map(|it| it.recovery).collect();
        let peak = runs.iter().map(|it| it.peak).fold(0.0, f64::max);
        Trade {
            policy,
            share: mean(&|it| it.share),
            recovery: recoveries.map(|it| it.iter().sum::<f64>() / count),
            peak,
            p99: mean(&|it| it.p99),
        }
    });
    Ok(results.collect())
}

/// Whether another is better in something and worse in nothing.
fn is_dominated(it: &Trade, all: &[Trade]) -> bool {
    let as_good =
        |other: &Trade| other.share >= it.share && other.peak <= it.peak && other.p99 <= it.p99;
    let better =
        |other: &Trade| other.share > it.share || other.peak < it.peak || other.p99 < it.p99;
    all.iter().any(|other| as_good(other) && better(other))
}

/// Of those for which more success costs more load, the one farthest above the line from the first to
/// the last.
fn knee(all: &[Trade]) -> usize {
    let beaten = |it: &Trade| {
        let better = |other: &Trade| {
            other.share >= it.share
                && other.peak <= it.peak
                && (other.share > it.share || other.peak < it.peak)
        };
        all.iter().any(better)
    };
    let front: Vec<_> = (0..all.len()).filter(|it| !beaten(&all[*it])).collect();
    let extreme = |of: fn(&Trade) -> f64, pick: fn(f64, f64) -> f64| {
        front
            .iter()
            .map(|it| of(&all[*it]))
            .reduce(pick)
            .unwrap_or(0.0)
    };
    let (low, high) = (
        extreme(|it| it.peak, f64::min),
        extreme(|it| it.peak, f64::max),
    );
    let (poor, rich) = (
        extreme(|it| it.share, f64::min),
        extreme(|it| it.share, f64::max),
    );
    let above = |it: &Trade| {
        let load = (it.peak - low) / (high - low).max(1e-9);
        (it.share - poor) / (rich - poor).max(1e-9) - load
    };
    let farthest = front
        .iter()
        .max_by(|a, b| above(&all[**a]).total_cmp(&above(&all[**b])));
    farthest.copied().unwrap_or(0)
}

/// Of those that recover and bring nearly as much through as the best, the one with the least p99.
fn soonest(all: &[Trade]) -> usize {
    let good = |it: &Trade| it.recovery.is_some() && it.share >= all[0].share - 0.15;
    let fit = (0..all.len()).filter(|it| good(&all[*it]));
    fit.min_by(|a, b| all[*a].p99.total_cmp(&all[*b].p99))
        .unwrap_or(0)
}
