//! What the default and the choice of endpoints reach, on seeds they were not tuned on.

use std::time::Duration;

use evenkeel::budget::Ratio;
use evenkeel::sim::{Fault, Policy, Report, Scenario, scenarios};

/// Without optimisation a run takes seconds.
const SEEDS: std::ops::RangeInclusive<u64> = if cfg!(debug_assertions) {
    41..=41
} else {
    41..=45
};

#[test]
fn in_an_outage_the_window_only_probes_and_is_back_at_once() {
    let window = Played::of(&scenarios::s1(), &Policy::evenkeel());
    assert!(window.share() >= 0.965, "{}", window.share());
    assert!(window.mean(Report::amplification) <= 0.3);
    assert!(window.worst(Report::worst_second) <= 2.0);
    assert!(window.mean(recovery) <= 2.0);
}

#[test]
fn in_an_overload_the_window_sends_what_can_be_answered() {
    let window = Played::of(&scenarios::s2(), &Policy::evenkeel());
    assert!(window.share() >= 0.92, "{}", window.share());
    assert!(window.mean(recovery) <= 3.0);
    assert!(window.mean(Report::wasted) <= 0.08);
    assert!(window.worst(Report::worst_second) <= 2.0);

    let retries = Played::of(&scenarios::s2(), &Policy::full_jitter());
    let after = retries.mean(|it| it.after().share());
    assert!(after < 0.2, "retries alone collapse for good, but: {after}");
}

#[test]
fn after_maintenance_a_fleet_comes_back_without_a_stampede() {
    let window = Played::of(&scenarios::s6(), &Policy::evenkeel());
    assert!(window.share() >= 0.99, "{}", window.share());
    assert!(window.mean(Report::amplification) <= 0.1);
    assert!(window.mean(|it| f64::from(it.busiest_after())) <= 1000.0);
}

#[test]
fn what_may_not_go_at_once_fails_at_once_and_the_rest_is_answered_soon() {
    let window = Played::of(&scenarios::s2(), &Policy::fail_fast());
    assert!(window.mean(during) >= 0.6, "{}", window.mean(during));
    let slowest = window.mean(|it| it.latency(0.99).unwrap_or(Duration::MAX).as_secs_f64());
    assert!(slowest <= 1.0, "{slowest}");
    assert!(window.worst(Report::worst_second) <= 1.1);
}

#[test]
fn in_a_long_overload_most_of_what_can_be_answered_is() {
    let seconds = Duration::from_secs;
    let slower = Fault::speed(Ratio::percent(50)).between(seconds(30), seconds(210));
    let long = Scenario::new("S2 3 minutes")
        .fault(slower)
        .until(seconds(280));
    let window = Played::of(&long, &Policy::evenkeel());
    assert!(window.share() >= 0.72, "{}", window.share());
    assert!(window.mean(|it| it.after().share()) >= 0.98);
}

#[test]
fn many_small_clients_are_held_within_bounds_as_well() {
    for (scenario, more) in [(scenarios::s1(), 0.06), (scenarios::s2(), 0.27)] {
        let many = scenario.clients(1000);
        let window = Played::of(&many, &Policy::evenkeel());
        let none = Played::of(&many, &Policy::none());
        let (window_won, none_won) = (window.share(), none.share());
        assert!(window_won > none_won + more, "{window_won} {none_won}");
        assert!(window.worst(Report::worst_second) <= 2.0);
        assert!(window.mean(recovery) <= 5.0);
    }
}

#[test]
fn clients_of_a_call_every_seven_seconds_win_more_than_without_retries() {
    for (scenario, more) in [(scenarios::s1(), 0.02), (scenarios::s2(), 0.18)] {
        let many = scenario.clients(5000);
        let window = Played::of(&many, &Policy::evenkeel());
        let none = Played::of(&many, &Policy::none());
        let (window_won, none_won) = (window.share(), none.share());
        assert!(window_won > none_won + more, "{window_won} {none_won}");
        assert!(window.mean(Report::worst_second) <= 2.0);
    }
}

#[test]
fn clients_of_a_call_a_minute_do_not_keep_an_overload_alive() {
    let rare = scenarios::named("S2 a call a minute").unwrap();
    let none = Played::of(&rare, &Policy::none()).share();
    for policy in [Policy::evenkeel(), Policy::fail_fast()] {
        let window = Played::of(&rare, &policy);
        let won = window.share();
        assert!(won > none - 0.09, "{won} {none}");
        assert!(window.mean(recovery).is_finite());
    }
}

#[test]
fn thousands_of_rare_clients_come_back_from_maintenance_too() {
    let many = scenarios::named("S6 5000 clients, 900/s").unwrap();
    // One run takes seconds, and so does an omniscient client.
    let run = many
        .run(&Policy::evenkeel(), 41)
        .expect("settings that make sense");
    assert!(during(&run) >= 0.65, "{}", during(&run)); // none without retries
    assert!(run.worst_second() <= 2.0, "{}", run.worst_second());
    assert!(run.recovery().is_some());
}

#[test]
fn in_calm_weather_answers_take_as_long_as_without() {
    let with = Played::of(&scenarios::s0(), &Policy::evenkeel());
    let without = Played::of(&scenarios::s0(), &Policy::none());
    for share in [0.5, 0.99] {
        let of = |it: &Report| it.latency(share).unwrap_or_default().as_secs_f64();
        let (with, without) = (with.mean(of), without.mean(of));
        assert!((with / without - 1.0).abs() <= 0.01, "{with} {without}");
    }
}

#[test]
fn one_bad_host_of_ten_limits_nobody() {
    let window = Played::of(&scenarios::s3(), &Policy::evenkeel());
    assert!(window.mean(during) > 0.999);
}

#[test]
fn with_a_choice_of_endpoints_one_bad_host_of_ten_is_not_felt() {
    for clients in [10, 1] {
        let scenario = scenarios::s3().clients(clients);
        let chosen = Played::of(&scenario, &Policy::with_endpoints());
        let (during, attempts) = (chosen.mean(during), chosen.mean(Report::amplification));
        assert!(during >= 0.999, "{clients} clients: {during}");
        assert!(attempts <= 1.03, "{clients} clients: {attempts}");
    }
}

#[test]
fn a_choice_of_endpoints_makes_nothing_worse() {
    for scenario in [scenarios::s0(), scenarios::s1()] {
        let chosen = Played::of(&scenario, &Policy::with_endpoints());
        let window = Played::of(&scenario, &Policy::evenkeel());
        let (chosen, window) = (chosen.share(), window.share());
        assert!(
            chosen >= window - 0.002,
            "{}: {chosen} {window}",
            scenario.name()
        );
    }
    // An overload is lighter where the load is even.
    let chosen = Played::of(&scenarios::s2(), &Policy::with_endpoints()).share();
    let window = Played::of(&scenarios::s2(), &Policy::evenkeel()).share();
    assert!(chosen > window, "{chosen} {window}");
}

#[test]
fn a_service_that_became_slower_for_good_is_not_limited_for_good() {
    let slower = scenarios::named("6 x slower for good").unwrap();
    let window = Played::of(&slower, &Policy::evenkeel()).mean(during);
    let none = Played::of(&slower, &Policy::none()).mean(during);
    assert!(window > 0.8 * none, "{window} {none}");
}

#[test]
fn in_calm_weather_the_window_is_not_felt() {
    for (scenario, least) in [
        (scenarios::s0(), 1.0),
        (scenarios::s0e(), 1.0),
        (scenarios::s0p(), 0.999),
    ] {
        let share = Played::of(&scenario, &Policy::evenkeel()).share();
        assert!(share >= least, "{}: {share}", scenario.name());
    }
}

fn during(report: &Report) -> f64 {
    report.during().share()
}

/// In seconds.
fn recovery(report: &Report) -> f64 {
    let recovery = report.recovery();
    recovery.map_or(f64::INFINITY, |it| it.as_secs_f64())
}

/// A scenario under a policy, and what an omniscient client wins of it.
struct Played {
    runs: Vec<Report>,
    best: u64,
}

#[allow(clippy::cast_precision_loss)]
impl Played {
    fn of(scenario: &Scenario, policy: &Policy) -> Self {
        let run = |seed| {
            scenario
                .run(policy, seed)
                .expect("settings that make sense")
        };
        let best = |seed| {
            let best = scenario.oracle(seed).expect("settings that make sense");
            best.expect("an open loop").won
        };
        Self {
            runs: SEEDS.map(run).collect(),
            best: SEEDS.map(best).sum(),
        }
    }

    fn share(&self) -> f64 {
        let won: u64 = self.runs.iter().map(|run| run.touched().won).sum();
        won as f64 / self.best as f64
    }

    fn worst(&self, of: impl Fn(&Report) -> f64) -> f64 {
        self.runs.iter().map(of).fold(0.0, f64::max)
    }

    fn mean(&self, of: impl Fn(&Report) -> f64) -> f64 {
        self.runs.iter().map(of).sum::<f64>() / self.runs.len() as f64
    }
}
