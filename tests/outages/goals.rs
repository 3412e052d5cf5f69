//! What the congestion window reaches, on seeds it was not tuned on.

use crate::measure::{Measures, measure};
use crate::policies::{self, Policy};
use crate::scenarios::{Fault, S0, S0E, S0P, S1, S2, S3, S6, Scenario};
use crate::timeline::SECOND;
use crate::{fleet, oracle};

/// Without optimisation a run takes seconds.
const SEEDS: std::ops::RangeInclusive<u64> = if cfg!(debug_assertions) {
    41..=41
} else {
    41..=45
};

#[test]
fn in_an_outage_the_window_only_probes_and_is_back_at_once() {
    let window = Played::of(&S1, &policies::window());
    assert!(window.share() >= 0.95, "{}", window.share());
    assert!(window.mean(|it| it.attempts) <= 0.3);
    assert!(window.mean(|it| it.recovery) <= 2.0);
}

#[test]
fn in_an_overload_the_window_sends_what_can_be_answered() {
    let window = Played::of(&S2, &policies::window());
    assert!(window.share() >= 0.91, "{}", window.share());
    assert!(window.mean(|it| it.recovery) <= 3.0);
    assert!(window.mean(|it| it.wasted) <= 0.08);
    assert!(window.mean(|it| it.worst) <= 2.0);

    let retries = Played::of(&S2, &policies::retries());
    let after = retries.mean(|it| it.after);
    assert!(after < 0.2, "retries alone collapse for good, but: {after}");
}

#[test]
fn after_maintenance_a_fleet_comes_back_without_a_stampede() {
    let window = Played::of(&S6, &policies::window());
    assert!(window.share() >= 0.99, "{}", window.share());
    assert!(window.mean(|it| it.attempts) <= 0.1);
    assert!(window.mean(|it| f64::from(it.worst_after)) <= 1000.0);
}

#[test]
fn many_small_clients_are_held_within_bounds_as_well() {
    for scenario in [S1, S2] {
        let many = scenario.clients(1000);
        let window = Played::of(&many, &policies::window());
        let none = Played::of(&many, &policies::none());
        assert!(window.share() > none.share() + 0.02);
        assert!(window.mean(|it| it.worst) <= 2.2);
        assert!(window.mean(|it| it.recovery) <= 5.0);
    }
}

#[test]
fn one_bad_host_of_ten_limits_nobody() {
    let window = Played::of(&S3, &policies::window());
    assert!(window.mean(|it| it.during) > 0.999);
}

#[test]
fn a_service_that_became_slower_for_good_is_not_limited_for_good() {
    let slower = Scenario {
        workers: 60,
        ..Scenario::faulty(
            "slower",
            Fault::Speed {
                hosts: 10,
                speed: 1.0 / 6.0,
            },
        )
    };
    let late = slower.fault_at(30 * SECOND, 120 * SECOND);
    let window = Played::of(&late, &policies::window());
    let none = Played::of(&late, &policies::none());
    let during = |it: &Played| it.mean(|it| it.during);
    assert!(
        during(&window) > 0.8 * during(&none),
        "{} {}",
        during(&window),
        during(&none)
    );
}

#[test]
fn in_calm_weather_the_window_is_not_felt() {
    for (scenario, least) in [(S0, 1.0), (S0E, 1.0), (S0P, 0.999)] {
        let share = Played::of(&scenario, &policies::window()).share();
        assert!(share >= least, "{}: {share}", scenario.name);
    }
}

/// A scenario under a policy, and what an omniscient client wins of it.
struct Played {
    runs: Vec<Measures>,
    best: u64,
}

#[allow(clippy::cast_precision_loss)]
impl Played {
    fn of(scenario: &Scenario, policy: &Policy) -> Self {
        let run = |seed| measure(&fleet::run(scenario, seed, policy));
        Self {
            runs: SEEDS.map(run).collect(),
            best: SEEDS.map(|seed| oracle::run(scenario, seed).0).sum(),
        }
    }

    fn share(&self) -> f64 {
        let won: u64 = self.runs.iter().map(|run| run.won).sum();
        won as f64 / self.best as f64
    }

    fn mean(&self, of: fn(&Measures) -> f64) -> f64 {
        self.runs.iter().map(of).sum::<f64>() / self.runs.len() as f64
    }
}
