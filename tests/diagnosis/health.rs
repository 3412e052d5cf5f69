//! What many outcomes say together.

use std::time::{Duration, Instant};

use evenkeel::diagnosis::Condition::{Degraded, Failing, Healthy};
use evenkeel::diagnosis::{
    Cause, Diagnosis, Health, Hints, Observation, Persistence, Slowing, Spread, Symptoms,
};
use evenkeel::{Key, Keyed};
use http::{HeaderMap, StatusCode};
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

const MS: Duration = Duration::from_millis(1);

#[test]
fn a_minute_is_remembered_and_no_more() {
    let (health, t0) = (Health::new(), Instant::now());
    health.record(&Observation::failure(Cause::Overload), t0);
    let last = t0 + 59_999 * MS;
    assert_eq!(health.snapshot(last).failed, 1);
    assert_eq!(health.snapshot(last + MS).failed, 0);
    assert_eq!(health.snapshot(last + MS).attempts, 0);
}

#[test]
fn a_service_fails_at_half_is_degraded_at_a_tenth_and_leaves_both_a_little_later() {
    let (health, now) = (Health::new(), Instant::now());
    let mut changes = Vec::new();
    let mut add = |good: u32, bad: u32| {
        for number in 0..good + bad {
            let seen = if number < good {
                Observation::success()
            } else {
                Observation::failure(Cause::UpstreamUnavailable)
            };
            let change = health.record(&seen, now);
            changes.extend(change.map(|it| (it.from, it.to, it.cause)));
        }
    };
    add(19, 2); // 2 of 21
    add(0, 1); // 3 of 22
    add(0, 16); // 19 of 38
    add(9, 0); // 19 of 47: two fifths
    add(1, 0); // 19 of 48: less
    add(332, 0); // 19 of 380: a twentieth
    add(1, 0); // less
    let cause = Cause::UpstreamUnavailable;
    assert_eq!(
        changes,
        [
            (Healthy, Degraded, cause),
            (Degraded, Failing, cause),
            (Failing, Degraded, cause),
            (Degraded, Healthy, cause),
        ]
    );
}

#[test]
fn too_few_attempts_say_nothing() {
    let (health, now) = (Health::new(), Instant::now());
    let bad = Observation::failure(Cause::Overload);
    for _ in 0..9 {
        assert_eq!(health.record(&bad, now), None);
    }
    assert!(health.record(&bad, now).is_some());
}

#[test]
fn failures_after_one_round_time_are_a_time_limit_whatever_the_status_says() {
    let (health, now) = (Health::new(), Instant::now());
    let add = |millis: u64| {
        let seen = Observation::failure(Cause::Unknown).latency(ms(millis));
        health.record(&seen, now);
        health.snapshot(now).cluster
    };
    assert_eq!(add(10_001), None);
    assert_eq!(add(10_020), None);
    assert_eq!(add(10_040), None);
    assert_eq!(add(321), None);
    assert_eq!(add(4_567), Some(10 * SECOND), "three in five");
    assert_eq!(add(6_789), None, "three in six");
}

#[test]
fn a_failure_that_came_at_another_time_is_no_time_limit_of_the_others() {
    let (health, now) = (Health::new(), Instant::now());
    let headers = HeaderMap::new();
    let seen = Symptoms::response(StatusCode::GATEWAY_TIMEOUT, &headers).body(b"too busy");
    for _ in 0..10 {
        let slow = Observation::failure(Cause::Unknown).latency(5_003 * MS);
        health.record(&slow, now);
    }
    let cause = |seen: Symptoms<'_>| {
        let mut diagnosis = seen.diagnose();
        health.refine(&mut diagnosis, now);
        diagnosis.cause()
    };
    assert_eq!(cause(seen.elapsed(5_004 * MS)), Cause::GatewayTimeout);
    assert_eq!(cause(seen.elapsed(2 * MS)), Cause::Unknown);
    // Who doesn't say when it came is told what is known of the others.
    assert_eq!(cause(seen), Cause::GatewayTimeout);
}

#[test]
fn what_an_outage_taught_is_forgotten_a_minute_after_its_last_failure_and_quiet() {
    let host = |name: &str| Key::of(name);
    let known = |quiet: Option<Duration>, after: Duration| {
        let (health, t0) = (Health::new(), Instant::now());
        let mut last = t0;
        for step in 0..5 {
            last = t0 + step * 5 * SECOND;
            let seen = Observation::failure(Cause::Unknown).latency(10 * SECOND);
            let seen = seen.host(host("down"));
            let hint = quiet.unwrap_or_default().max(SECOND);
            health.record(&seen.retry_after(hint), last);
        }
        health.snapshot(last + after)
    };
    let all = known(None, 60 * SECOND);
    assert_eq!(
        (all.cluster, all.hints),
        (Some(10 * SECOND), Hints::Constant)
    );
    let none = known(None, 62 * SECOND);
    assert_eq!((none.cluster, none.hints), (None, Hints::Unknown));
    // Who is asked to be quiet for longer can't hear of it sooner.
    let quiet = Some(120 * SECOND);
    assert_eq!(known(quiet, 180 * SECOND).hints, Hints::Constant);
    assert_eq!(known(quiet, 181 * SECOND).hints, Hints::Unknown);
    // No more than is believed.
    let (day, wild) = (24 * 3600 * SECOND, Some(Duration::from_secs(1_000_000)));
    assert_eq!(known(wild, day + 60 * SECOND).hints, Hints::Constant);
    assert_eq!(known(wild, day + 61 * SECOND).hints, Hints::Unknown);

    // The next outage begins anew.
    let (health, t0) = (Health::new(), Instant::now());
    let slow = Observation::failure(Cause::Unknown).latency(10 * SECOND);
    for _ in 0..5 {
        health.record(&slow, t0);
    }
    let later = t0 + 61 * SECOND;
    health.record(&slow, later);
    assert_eq!(health.snapshot(later).cluster, None);
}

#[test]
fn a_host_that_nobody_asks_any_more_is_not_held_against_the_others() {
    let (health, t0) = (Health::new(), Instant::now());
    for _ in 0..5 {
        let seen = Observation::failure(Cause::UpstreamUnavailable);
        health.record(&seen.host(Key::of("gone")), t0);
    }
    let well = |at| {
        for _ in 0..5 {
            health.record(&Observation::success().host(Key::of("well")), at);
        }
        health.snapshot(at).spread
    };
    assert_eq!(well(t0 + 300 * SECOND), Spread::One);
    assert_eq!(well(t0 + 301 * SECOND), Spread::Unknown);
}

#[test]
fn the_clients_own_limit_is_no_cluster_of_the_server() {
    let (health, now) = (Health::new(), Instant::now());
    for _ in 0..20 {
        health.record(
            &Observation::failure(Cause::OwnTimeout).latency(10 * SECOND),
            now,
        );
    }
    assert_eq!(health.snapshot(now).cluster, None);
}

#[test]
fn hints_that_count_down_are_told_from_hints_that_never_change() {
    let told = |hint: fn(u32) -> Duration| {
        let (health, t0) = (Health::new(), Instant::now());
        for step in 0..5 {
            let seen = Observation::failure(Cause::Unknown).retry_after(hint(step));
            health.record(&seen, t0 + step * 5 * SECOND);
        }
        health.snapshot(t0 + 25 * SECOND).hints
    };
    assert_eq!(told(|step| (30 - 5 * step) * SECOND), Hints::CountingDown);
    assert_eq!(told(|_| 5 * SECOND), Hints::Constant);
    assert_eq!(told(|step| (30 + 7 * step) * SECOND), Hints::Unknown);
}

#[test]
fn one_bad_host_is_told_from_all() {
    let told = |bad: u64| {
        let (health, now) = (Health::new(), Instant::now());
        for number in 0..40 {
            let host = number % 4;
            let seen = if host < bad {
                Observation::failure(Cause::UpstreamUnavailable)
            } else {
                Observation::success()
            };
            health.record(&seen.host(Key::of(host)), now);
        }
        health.snapshot(now).spread
    };
    assert_eq!(told(0), Spread::Unknown);
    assert_eq!(told(1), Spread::One);
    assert_eq!(told(2), Spread::Some);
    assert_eq!(told(4), Spread::All);
}

#[test]
fn a_host_that_only_fails_is_known_sooner_for_it_is_seldom_asked_again() {
    let (health, now) = (Health::new(), Instant::now());
    for _ in 0..5 {
        health.record(&Observation::success().host(Key::of("well")), now);
    }
    let fails = Observation::failure(Cause::UpstreamUnavailable);
    for spread in [Spread::Unknown, Spread::Unknown, Spread::One] {
        health.record(&fails.host(Key::of("down")), now);
        assert_eq!(health.snapshot(now).spread, spread);
    }
    // One that answered in between is one of many that fail now and then.
    health.record(&Observation::success().host(Key::of("mixed")), now);
    for _ in 0..3 {
        health.record(&fails.host(Key::of("mixed")), now);
    }
    assert_eq!(health.snapshot(now).spread, Spread::One);
}

#[test]
fn whether_sending_less_helps_is_seen_where_the_rate_changed() {
    let told = |failed: fn(u32) -> u32, rates: [u32; 6]| {
        let (health, t0) = (Health::new(), Instant::now());
        for (bucket, rate) in rates.into_iter().enumerate() {
            let at = t0 + u32::try_from(bucket).unwrap() * 6 * SECOND;
            for number in 0..rate {
                let seen = if number < failed(rate) {
                    Observation::failure(Cause::Unknown)
                } else {
                    Observation::success()
                };
                health.record(&seen, at);
            }
        }
        health.snapshot(t0 + 36 * SECOND).slowing
    };
    let changing = [100, 20, 80, 20, 100, 20];
    // A capacity of twenty.
    assert_eq!(told(|rate| rate - rate.min(20), changing), Slowing::Helps);
    assert_eq!(told(|rate| rate / 2, changing), Slowing::MakesNoDifference);
    assert_eq!(told(|rate| rate / 2, [100; 6]), Slowing::Unknown);
    assert_eq!(told(|_| 0, changing), Slowing::Unknown);
}

#[test]
fn what_lasts_is_persistent_and_what_some_get_through_is_momentary() {
    let t0 = Instant::now();
    let all = Health::new();
    for second in 0..31 {
        all.record(
            &Observation::failure(Cause::UpstreamUnavailable),
            t0 + second * SECOND,
        );
    }
    let mut diagnosis = refused();
    assert_eq!(diagnosis.persistence(), Persistence::Unknown);
    all.refine(&mut diagnosis, t0 + 29 * SECOND);
    assert_eq!(diagnosis.persistence(), Persistence::Unknown);
    all.refine(&mut diagnosis, t0 + 30 * SECOND);
    assert_eq!(diagnosis.persistence(), Persistence::Persistent);

    let some = Health::new();
    for second in 0..30 {
        let seen = if second % 3 == 0 {
            Observation::failure(Cause::UpstreamUnavailable)
        } else {
            Observation::success()
        };
        some.record(&seen, t0 + second * SECOND);
    }
    let mut diagnosis = refused();
    some.refine(&mut diagnosis, t0 + 30 * SECOND);
    assert_eq!(diagnosis.persistence(), Persistence::Momentary);
}

#[test]
fn an_announced_end_is_kept() {
    let (health, t0) = (Health::new(), Instant::now());
    for second in 0..40 {
        health.record(
            &Observation::failure(Cause::Maintenance),
            t0 + second * SECOND,
        );
    }
    let mut headers = HeaderMap::new();
    headers.insert("retry-after", "900".parse().unwrap());
    let mut diagnosis = Symptoms::response(StatusCode::SERVICE_UNAVAILABLE, &headers).diagnose();
    health.refine(&mut diagnosis, t0 + 40 * SECOND);
    assert_eq!(
        diagnosis.persistence(),
        Persistence::Announced(900 * SECOND)
    );
}

#[test]
fn an_idle_service_is_forgotten_and_a_failing_one_is_not() {
    let t0 = Instant::now();
    let services = Keyed::new(Health::new()).idle_after(SECOND).capacity(1);
    let health = services.get(Key::of(1_u64), || t0).into_inner();
    health.record(&Observation::failure(Cause::Overload), t0);
    drop(health);
    let of = |key: u64, at| services.get(Key::of(key), || at).into_inner();
    let _ = of(2, t0 + 30 * SECOND);
    assert_eq!(of(1, t0 + 30 * SECOND).snapshot(t0 + 30 * SECOND).failed, 1);
    // What nobody heard of for more than its minute makes room.
    let _ = of(2, t0 + 200 * SECOND);
    let _ = of(2, t0 + 201 * SECOND);
    assert!(services.peek(Key::of(1_u64)).is_none());
}

proptest! {
    /// The counts are those of a list of everything; nothing panics, whatever the clock does.
    #[test]
    fn counts_agree_with_a_list_of_everything(
        seen in prop::collection::vec((step(), any::<bool>(), 0..11_usize), 0..200),
    ) {
        let (health, t0) = (Health::new(), Instant::now());
        let (mut at, mut list) = (0, Vec::new());
        for (step, failed, cause) in seen {
            at += step;
            let observation = if failed {
                Observation::failure(Cause::ALL[cause])
            } else {
                Observation::success()
            };
            let observation = observation.latency(ms(step)).retry_after(ms(step));
            health.record(&observation.host(Key::of(cause)), t0 + ms(at));
            list.push((at, failed));
            // Buckets of six seconds since the first outcome, ten of them.
            let first = list[0].0;
            let newest = (at - first) / 6_000;
            let kept = list.iter().filter(|(it, _)| (it - first) / 6_000 + 10 > newest);
            let (all, bad) = kept.fold((0, 0), |(all, bad), (_, failed)| {
                (all + 1, bad + u64::from(*failed))
            });
            let known = health.snapshot(t0 + ms(at));
            prop_assert_eq!((known.attempts, known.failed), (all, bad));
        }
    }

    #[test]
    fn a_clock_that_jumps_does_no_harm(moments in prop::collection::vec(any::<u32>(), 0..100)) {
        let (health, t0) = (Health::new(), Instant::now());
        let mut diagnosis = refused();
        for moment in moments {
            let at = t0 + ms(u64::from(moment));
            health.record(&Observation::failure(Cause::Overload).retry_after(SECOND), at);
            health.refine(&mut diagnosis, at);
            let known = health.snapshot(at);
            prop_assert!(known.failed <= known.attempts);
            prop_assert!(diagnosis.confidence() <= 99);
            prop_assert!(diagnosis.evidence().len() <= 8);
        }
    }
}

/// Mostly within the minute, now and then about as long as it or past it.
fn step() -> impl Strategy<Value = u64> {
    prop_oneof![12 => 0..9_000_u64, 1 => 50_000..70_000_u64, 1 => 0..1_000_000_u64]
}

/// Varnish says only that it failed.
fn refused() -> Diagnosis {
    let headers = HeaderMap::new();
    let seen = Symptoms::response(StatusCode::SERVICE_UNAVAILABLE, &headers);
    seen.reason(b"Backend fetch failed").diagnose()
}

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}
