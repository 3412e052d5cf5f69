//! What the congestion window reaches, on seeds it was not tuned on.

use crate::measure::{Measures, measure};
use crate::policies::{self, Policy};
use crate::scenarios::{S0, S0E, S0P, S1, S2, S3, S6, Scenario};
use crate::{fleet, oracle};

/// Without optimisation a run takes seconds.
const SEEDS: std::ops::RangeInclusive<u64> = if cfg!(debug_assertions) {
    41..=41
} else {
    41..=45
};

#[test]
fn in_an_outage_the_window_only_probes_and_is_back_at_once() {
    let (share, mean) = played(&S1, &policies::window());
    assert!(share > 0.93, "{share}");
    assert!(mean(|it| it.attempts) <= 0.3);
    assert!(mean(|it| it.recovery) <= 2.0);
}

#[test]
fn in_an_overload_the_window_sends_what_can_be_answered() {
    let (share, mean) = played(&S2, &policies::window());
    assert!(share > 0.91, "{share}");
    assert!(mean(|it| it.recovery) <= 3.0);
    assert!(mean(|it| it.wasted) <= 0.08);
    assert!(mean(|it| it.worst) <= 2.0);

    let (_, retries) = played(&S2, &policies::retries());
    assert!(
        retries(|it| it.after) < 0.2,
        "retries alone collapse for good"
    );
}

#[test]
fn after_maintenance_a_fleet_comes_back_without_a_stampede() {
    let (share, mean) = played(&S6, &policies::window());
    assert!(share > 0.95, "{share}");
    assert!(mean(|it| it.attempts) <= 0.1);
}

#[test]
fn one_bad_host_of_ten_limits_nobody() {
    let (_, mean) = played(&S3, &policies::window());
    assert!(mean(|it| it.during) > 0.999);
}

#[test]
fn in_calm_weather_the_window_is_not_felt() {
    for (scenario, least) in [(S0, 1.0), (S0E, 1.0), (S0P, 0.999)] {
        let (share, _) = played(&scenario, &policies::window());
        assert!(share >= least, "{}: {share}", scenario.name);
    }
}

/// The share of what an omniscient client wins, and means over the seeds.
#[allow(clippy::cast_precision_loss)]
fn played(
    scenario: &Scenario,
    policy: &Policy,
) -> (f64, impl Fn(fn(&Measures) -> f64) -> f64 + use<>) {
    let seeds: Vec<u64> = SEEDS.collect();
    let runs: Vec<Measures> = seeds
        .iter()
        .map(|seed| measure(&fleet::run(scenario, *seed, policy)))
        .collect();
    let best: u64 = seeds
        .iter()
        .map(|seed| oracle::run(scenario, *seed).0)
        .sum();
    let won: u64 = runs.iter().map(|run| run.won).sum();
    let count = runs.len() as f64;
    let mean = move |of: fn(&Measures) -> f64| runs.iter().map(of).sum::<f64>() / count;
    (won as f64 / best as f64, mean)
}
