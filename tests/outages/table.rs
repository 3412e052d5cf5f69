//! The table: every scenario under every policy.

use std::time::Duration;

use evenkeel::sim::{Job, Policy, Report, Scenario, play, scenarios};

/// `OUTAGES_SEEDS=4-8`, `OUTAGES_ONLY=S2` and `OUTAGES_POLICY=even` choose. Of names the beginning
/// is enough, and several are parted by commas.
#[test]
#[ignore = "a table to look at, not a check; some minutes in release"]
fn table() {
    let seeds = seeds(&setting("SEEDS").unwrap_or("1-3".into()));
    let (only, policies) = (setting("ONLY"), setting("POLICY"));
    let all = scenarios::known().into_iter().chain(scenarios::more());
    println!("{HEAD}");
    for scenario in all.filter(|it| is_wanted(it.name(), only.as_deref())) {
        let best = |seed: &u64| scenario.oracle(*seed).expect("sound").map(|it| it.won);
        let best: Option<Vec<_>> = seeds.iter().map(best).collect();
        let policies = Policy::all()
            .into_iter()
            .filter(|it| is_wanted(it.name(), policies.as_deref()));
        for policy in policies {
            println!("{}", row(&scenario, &policy, &seeds, best.as_deref()));
        }
    }
}

#[allow(clippy::cast_precision_loss)]
fn row(scenario: &Scenario, policy: &Policy, seeds: &[u64], best: Option<&[u64]>) -> String {
    let job = |seed: &u64| Job {
        scenario: scenario.clone(),
        policy: policy.clone(),
        seed: *seed,
    };
    let jobs: Vec<_> = seeds.iter().map(job).collect();
    let runs = play(&jobs, |report| report).expect("sound");
    let digest = runs.iter().fold(0, |digest, run| digest ^ run.digest());
    // Where nobody knows what could be had: of those that asked.
    let most = |run: usize| best.map_or(runs[run].touched().arrived, |best| best[run]);
    let shares: Vec<_> = (0..runs.len())
        .map(|run| 100.0 * runs[run].touched().won as f64 / most(run) as f64)
        .collect();
    let each: Vec<_> = shares.iter().map(|share| format!("{share:.1}")).collect();
    let count = runs.len() as f64;
    let mean = |of: &dyn Fn(&Report) -> f64| runs.iter().map(of).sum::<f64>() / count;
    format!(
        "{:26} {:22} {:6.1} {:6.3} {:6.3} {:5.1} {:6.2} {:7.2} {:7.0} {:7.3} {:7.3} {:7.3} {:7.3}  {digest:016x}  {}",
        scenario.name(),
        policy.name(),
        shares.iter().sum::<f64>() / count,
        mean(&|it| it.during().share()),
        mean(&|it| it.after().share()),
        mean(&|it| it.recovery().map_or(f64::INFINITY, |it| it.as_secs_f64())),
        mean(&Report::amplification),
        mean(&Report::worst_second),
        mean(&|it| f64::from(it.busiest_after())),
        mean(&Report::wasted),
        mean(&|it| in_seconds(it.latency(0.5))),
        mean(&|it| in_seconds(it.latency(0.99))),
        mean(&|it| in_seconds(it.told(0.99))),
        each.join(" "),
    )
}

fn in_seconds(length: Option<Duration>) -> f64 {
    length.map_or(f64::NAN, |length| length.as_secs_f64())
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

/// Times are in seconds. `oracle`: in percent of what an omniscient client gets, or where nobody can know
/// that of all; `worst`: attempts per request in the worst second; `most`: attempts in the second with
/// the most of them after the fault; `told`: the 99th percentile of all ends, good or bad, of what
/// arrived in the fault; last the shares by seed.
const HEAD: &str = "\
scenario                   policy                 oracle during  after recov attpts   worst    most  wasted     p50     p99    told  digest            by seed (%)";
