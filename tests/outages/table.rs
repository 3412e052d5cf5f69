//! The table: every scenario under every policy.

use std::time::Instant;

use crate::fleet;
use crate::measure::{Measures, measure};
use crate::oracle;
use crate::policies::{self, Policy};
use crate::scenarios::{self, Scenario};

/// `OUTAGES_SEEDS=4-8`, `OUTAGES_ONLY=S2` and `OUTAGES_POLICY=none` choose. Of names the beginning
/// is enough, and several are parted by commas.
#[test]
#[ignore = "a table to look at, not a check; two minutes in release"]
fn table() {
    let seeds = seeds(&setting("SEEDS").unwrap_or("1-3".into()));
    let (scenario, policy) = (setting("ONLY"), setting("POLICY"));
    let scenarios = scenarios::KNOWN.into_iter().chain(scenarios::others());
    println!("{HEAD}");
    for scenario in scenarios.filter(|it| is_wanted(it.name, scenario.as_deref())) {
        let best: Vec<_> = seeds
            .iter()
            .map(|seed| oracle::run(&scenario, *seed).0)
            .collect();
        for policy in policies::all()
            .iter()
            .filter(|it| is_wanted(it.name, policy.as_deref()))
        {
            println!("{}", row(&scenario, policy, &seeds, &best));
        }
    }
}

#[allow(clippy::cast_precision_loss)]
fn row(scenario: &Scenario, policy: &Policy, seeds: &[u64], best: &[u64]) -> String {
    let began = Instant::now();
    let mut digest = 0;
    let runs: Vec<_> = seeds
        .iter()
        .map(|seed| {
            let run = fleet::run(scenario, *seed, policy);
            digest ^= run.digest();
            measure(&run)
        })
        .collect();
    let count = runs.len() as f64;
    let time = began.elapsed().as_secs_f64() / count;
    let shares: Vec<_> = runs
        .iter()
        .zip(best)
        .map(|(run, best)| 100.0 * run.won as f64 / *best as f64)
        .collect();
    let each: Vec<_> = shares.iter().map(|share| format!("{share:.1}")).collect();
    let mean = |of: fn(&Measures) -> f64| runs.iter().map(of).sum::<f64>() / count;
    format!(
        "{:26} {:14} {:6.1} {:6.3} {:6.3} {:5.1} {:6.2} {:7.2} {:7.0} {:7.3} {:7.3} {:7.3} {:7.3}  {digest:016x} {time:5.2}  {}",
        scenario.name,
        policy.name,
        shares.iter().sum::<f64>() / count,
        mean(|it| it.during),
        mean(|it| it.after),
        mean(|it| it.recovery),
        mean(|it| it.attempts),
        mean(|it| it.worst),
        mean(|it| f64::from(it.worst_after)),
        mean(|it| it.wasted),
        mean(|it| it.p50),
        mean(|it| it.p99),
        mean(|it| it.told_p99),
        each.join(" "),
    )
}

fn setting(name: &str) -> Option<String> {
    std::env::var(format!("OUTAGES_{name}")).ok()
}

fn is_wanted(name: &str, starts: Option<&str>) -> bool {
    starts.is_none_or(|starts| starts.split(',').any(|start| name.starts_with(start)))
}

/// `7`, or `4-8`.
fn seeds(text: &str) -> Vec<u64> {
    let number = |text: &str| text.parse().expect("a seed is a number");
    match text.split_once('-') {
        Some((first, last)) => (number(first)..=number(last)).collect(),
        None => vec![number(text)],
    }
}

/// Times are in seconds. `worst`: attempts per request in the worst second; `most`: attempts in the
/// second with the most of them after the fault; `told`: the 99th percentile of all ends, good or
/// bad, of what arrived in the fault; `run`: what a run took; then the shares by seed.
const HEAD: &str = "\
scenario                   policy         oracle during  after recov attpts   worst    most  wasted     p50     p99    told  digest             run  by seed (%)";
