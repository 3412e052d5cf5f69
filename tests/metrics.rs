//! What the `metrics` facade is told, and what is made of it in docs/.
#![cfg(all(feature = "metrics", feature = "testing", feature = "tower"))]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use evenkeel::backoff::Backoff;
use evenkeel::chaos::{Effect, Fault};
use evenkeel::http::service_key;
use evenkeel::metrics::{Metrics, describe, names};
use evenkeel::testing::{Executor, ManualClock, Reply, Script, ScriptedService, block_on};
use evenkeel::{
    Breaker, Budget, Bulkhead, Chaos, Endpoints, Key, Keyed, Pipeline, RateLimit, Retry, Rng,
    Throttle, Window,
};
use http::Request;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tower::{Layer, ServiceExt};

const DASHBOARD: &str = include_str!("../docs/grafana-dashboard.json");
const ALERTS: &str = include_str!("../docs/alerts.yml");

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

#[test]
fn calls_attempts_waits_and_what_was_wasted_are_counted() {
    let clock = ManualClock::new();
    let found = recorded(|| {
        let metrics = Metrics::new().service(Key::of("a"), "prices");
        let pipeline = Pipeline::new()
            .retry(Retry::constant(ms(250)).max_attempts(3))
            .observer(metrics)
            .clock(clock.clock());
        let run = |script: Script<(), ()>, key| {
            let call = pipeline.run(|attempt| script.play(attempt));
            let _ = block_on(&clock, call.keyed(Key::of(key)));
        };
        let script = || Script::new(&clock);
        run(script().ok(()).after(ms(500)), "a");
        run(script().ok(()).after(ms(500)), "a");
        run(script().err(()).ok(()), "a");
        run(script().err(()).err(()).err(()), "a");
        run(script().ok(()), "b");
        // One without a key.
        block_on(&clock, pipeline.run(|_| async { Ok::<_, ()>(()) })).expect("it succeeds");
    });
    let count = |line: &str| found.get(line).map(Value::count);
    for (line, expected) in [
        ("evenkeel_calls_total service=prices end=success", 3),
        ("evenkeel_calls_total service=prices end=failed", 1),
        ("evenkeel_calls_total service=other end=success", 1),
        ("evenkeel_calls_total service=none end=success", 1),
        ("evenkeel_attempts_total service=prices attempt=first", 4),
        ("evenkeel_attempts_total service=prices attempt=retry", 3),
        ("evenkeel_attempts_total service=other attempt=first", 1),
        ("evenkeel_wasted_retries_total service=prices", 2),
        (
            "evenkeel_retries_total service=prices error_type=error wait=backoff",
            3,
        ),
        (
            "evenkeel_stops_total service=prices error_type=error reason=attempts exhausted",
            1,
        ),
    ] {
        assert_eq!(count(line), Some(expected), "{line} in {found:#?}");
    }
    assert!(!found.contains_key("evenkeel_wasted_retries_total service=other"));
    let values = |line: &str| match &found[line] {
        Value::Histogram(values) => values.clone(),
        other => panic!("{other:?}"),
    };
    let waits = values("evenkeel_wait_seconds service=prices wait=backoff");
    assert_eq!(waits, [0.25; 3]);
    let lengths = values("evenkeel_call_seconds service=prices end=success");
    assert_eq!(lengths, [0.5, 0.5, 0.25]);
    let lengths = values("evenkeel_call_seconds service=prices end=failed");
    assert_eq!(lengths, [0.5]);
}

#[test]
fn the_state_of_every_policy_is_read_when_asked_for() {
    let clock = ManualClock::new();
    let (open, closed) = (Key::of("down"), Key::of("up"));
    let breakers = Keyed::new(Breaker::new());
    let windows = Keyed::new(Window::new());
    let metrics = Metrics::new()
        .service(open, "ledger")
        .service(closed, "ledger")
        .service(Key::of("never called"), "idle");
    let budget = Budget::default().capacity(8);
    let bulkhead = Bulkhead::new(4);
    let pipeline = Pipeline::new()
        .retry(Retry::default().budget(budget.clone()))
        .breaker(breakers.clone())
        .window(windows.clone())
        .bulkhead(bulkhead.clone())
        .clock(clock.clock());
    let found = recorded(|| {
        breakers
            .get(open, || clock.now())
            .into_inner()
            .force_open(clock.now());
        drop(breakers.get(closed, || clock.now()));
        drop(breakers.get(Key::of("foreign"), || clock.now()));
        let window = windows.get(Key::of("foreign"), || clock.now()).into_inner();
        let permit = window.try_acquire(clock.now()).expect("it is open");
        let hint = evenkeel::verdict::Hint::After(ms(1000));
        let verdict = evenkeel::Verdict::new(evenkeel::verdict::Kind::Overloaded).hint(hint);
        permit
            .record(verdict, ms(1), clock.now())
            .expect("it is quiet");
        let _place = bulkhead.try_acquire().expect("there is room");
        metrics.collect(&pipeline);
    });
    let gauge = |line: &str| found.get(line).map(Value::gauge);
    for (line, expected) in [
        ("evenkeel_budget_tokens service=all", 8.0),
        ("evenkeel_budget_capacity_tokens service=all", 8.0),
        ("evenkeel_breakers service=ledger state=open", 1.0),
        ("evenkeel_breakers service=ledger state=closed", 1.0),
        ("evenkeel_breakers service=ledger state=half-open", 0.0),
        ("evenkeel_breakers service=idle state=open", 0.0),
        ("evenkeel_breakers service=idle state=closed", 0.0),
        // Its own, and the one for keys beyond the capacity.
        ("evenkeel_breakers service=other state=closed", 2.0),
        ("evenkeel_windows service=other state=limited", 1.0),
        ("evenkeel_windows service=other state=open", 1.0),
        ("evenkeel_window_parked service=other", 0.0),
        ("evenkeel_bulkhead_limit service=all", 4.0),
        ("evenkeel_bulkhead_in_flight service=all", 1.0),
        ("evenkeel_bulkhead_waiting service=all", 0.0),
    ] {
        assert_eq!(gauge(line), Some(expected), "{line} in {found:#?}");
    }
    assert!(
        found.keys().all(|it| !it.contains("rate_limit")),
        "there is none"
    );
}

#[test]
fn a_service_that_nobody_calls_any_more_falls_to_zero() {
    let clock = ManualClock::new();
    let key = Key::of("gone");
    let breakers = Keyed::new(Breaker::new());
    let metrics = Metrics::new().service(key, "gone");
    let pipeline = Pipeline::new()
        .breaker(breakers.clone())
        .clock(clock.clock());
    let found = recorded(|| {
        breakers
            .get(key, || clock.now())
            .into_inner()
            .force_open(clock.now());
        metrics.collect(&pipeline);
        breakers.remove(key);
        metrics.collect(&pipeline);
    });
    let open = found["evenkeel_breakers service=gone state=open"].gauge();
    assert!(open.abs() < f64::EPSILON, "{open}");
}

#[test]
fn no_host_becomes_a_label_and_their_number_is_bounded() {
    let clock = ManualClock::new();
    let found = recorded(|| {
        let metrics = Metrics::new().service(service_key("known", 80), "known");
        let pipeline = Pipeline::http()
            .observer(metrics.clone())
            .rng(Rng::seeded(1))
            .clock(clock.clock());
        let service = ScriptedService::new(&clock, [Reply::status(503), Reply::status(200)]);
        let client = pipeline.clone().layer(service);
        for number in 0..200 {
            let host = if number == 100 {
                "KNOWN".into()
            } else {
                format!("secret{number}")
            };
            let request = Request::get(format!("http://{host}/")).body(String::new());
            let call = client.clone().oneshot(request.expect("valid"));
            block_on(&clock, call).expect("a response");
        }
        metrics.collect(&pipeline);
    });
    let services: BTreeSet<_> = found
        .keys()
        .filter_map(|line| line.split(" service=").nth(1)?.split(' ').next())
        .collect();
    assert_eq!(services, BTreeSet::from(["all", "known", "other"]));
    assert_eq!(
        found["evenkeel_calls_total service=known end=success"].count(),
        1
    );
    assert_eq!(
        found["evenkeel_calls_total service=other end=success"].count(),
        199
    );
    assert!(found.keys().all(|line| !line.contains("secret")));
}

/// The list is what there is: no name more, and none less.
#[test]
fn every_metric_that_is_listed_is_told_and_no_other() {
    let told = recorded(everything);
    let told: BTreeSet<_> = told
        .keys()
        .map(|line| line.split(' ').next().expect("a name").to_owned())
        .collect();
    let listed: BTreeSet<_> = names().map(str::to_owned).collect();
    assert_eq!(told, listed);
}

#[test]
fn every_metric_has_a_description_and_its_kind() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        describe();
        everything();
    });
    for (key, unit, description, value) in snapshotter.snapshot().into_vec() {
        let name = key.key().name().to_owned();
        assert!(description.is_some(), "{name}");
        assert!(unit.is_some(), "{name}");
        let is_counter = matches!(value, DebugValue::Counter(_));
        assert_eq!(name.ends_with("_total"), is_counter, "{name}");
        let is_histogram = matches!(value, DebugValue::Histogram(_));
        assert_eq!(name.ends_with("_seconds"), is_histogram, "{name}");
    }
}

#[test]
fn the_dashboard_shows_every_metric_and_the_alerts_know_no_other() {
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).expect("it is JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let expressions = panels.iter().flat_map(|panel| {
        let targets = panel["targets"].as_array().into_iter().flatten();
        targets.map(|target| target["expr"].as_str().expect("an expression"))
    });
    let listed: BTreeSet<_> = names().map(str::to_owned).collect();
    let shown = expressions.flat_map(metrics_in).collect::<BTreeSet<_>>();
    assert_eq!(shown, listed);
    let alerted: BTreeSet<_> = metrics_in(ALERTS).collect();
    assert!(alerted.len() > 8, "{alerted:?}");
    let unknown: Vec<_> = alerted.difference(&listed).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

/// A selector that no series has is an alert that never comes.
#[test]
fn every_label_that_is_asked_for_is_told() {
    let told = recorded(everything);
    let mut labels: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in told.keys() {
        let (name, rest) = line.split_once(' ').expect("a label");
        // Values may have spaces, names of labels not.
        let mut label = "";
        for part in rest.split('=') {
            let next = part.rsplit(' ').next().expect("a part");
            if !label.is_empty() {
                let value = part.strip_suffix(next).unwrap_or(part).trim();
                let value = if value.is_empty() { part } else { value };
                labels
                    .entry(format!("{name} {label}"))
                    .or_default()
                    .insert(value.to_owned());
            }
            label = next;
        }
    }
    let mut checked = 0;
    for text in [DASHBOARD.replace("\\\"", "\""), ALERTS.to_owned()] {
        for (name, label, value) in selectors(&text) {
            let key = format!("{name} {label}");
            let values = labels.get(&key).unwrap_or_else(|| panic!("no label {key}"));
            if label != "service" {
                assert!(
                    values.contains(&value),
                    "{key}: {value} is none of {values:?}"
                );
                checked += 1;
            }
        }
    }
    assert!(checked > 8, "{checked}");
}

#[test]
fn alerts_are_whole() {
    let mut rules = ALERTS.split("      - alert: ");
    let head = rules.next().expect("a head");
    assert!(head.contains("groups:\n  - name: evenkeel\n    rules:\n"));
    let mut seen = BTreeSet::new();
    for rule in rules {
        let name = rule.lines().next().expect("a name");
        assert!(name.starts_with("Evenkeel") && seen.insert(name), "{name}");
        for part in [
            "        expr: ",
            "          severity: ",
            "          summary: ",
            "          description: ",
        ] {
            assert_eq!(
                rule.matches(&format!("\n{part}")).count(),
                1,
                "{name}: {part}"
            );
        }
        assert!(!rule.contains('\t'));
        for (open, close) in [('(', ')'), ('{', '}'), ('[', ']')] {
            assert_eq!(
                rule.matches(open).count(),
                rule.matches(close).count(),
                "{name}"
            );
        }
    }
    assert!(seen.len() > 8);
}

/// Makes all happen that can be told.
fn everything() {
    let clock = ManualClock::new();
    let metrics = Metrics::new().service(Key::of("a"), "a");
    let base = || {
        Pipeline::new()
            .observer(metrics.clone())
            .rng(Rng::seeded(1))
            .clock(clock.clock())
    };
    let outcomes = |pipeline: &Pipeline, outcomes: &[bool]| {
        let script = outcomes.iter().fold(Script::new(&clock), |script, good| {
            if *good { script.ok(()) } else { script.err(()) }
        });
        let call = pipeline.run(|attempt| script.play(attempt));
        let _ = block_on(&clock, call.keyed(Key::of("a")));
    };
    let retry = Retry::constant(ms(10))
        .max_attempts(3)
        .budget(Budget::default());
    let touchy = || {
        Breaker::new()
            .consecutive_failures(1)
            .cooldown(Backoff::constant(ms(50)))
    };
    // Retried, in vain; opened, waited for, probed; refused.
    let broken = base().retry(retry.clone()).breaker(touchy());
    outcomes(&broken, &[false, false, false]);
    outcomes(&broken, &[true]);
    outcomes(
        &base().breaker({
            let watched = touchy();
            watched.force_open(clock.now());
            watched
        }),
        &[true],
    );
    let watched = touchy();
    watched.watch_only(clock.now());
    let watched = base().breaker(watched);
    outcomes(&watched, &[false]);
    outcomes(&watched, &[true]);
    // In line.
    let limited = base()
        .bulkhead(Bulkhead::new(1).queue(3))
        .rate_limit(RateLimit::per_second(1000));
    let executor = Executor::new(&clock);
    for _ in 0..3 {
        let (pipeline, script) = (limited.clone(), Script::<(), ()>::new(&clock));
        let script = script.ok(()).after(ms(20));
        executor.spawn(async move { pipeline.run(|attempt| script.play(attempt)).await.is_ok() });
    }
    assert_eq!(executor.run(), 0);
    // Faults.
    let chaos = Chaos::new().script([Effect::from(Fault::Reset)]);
    outcomes(&base().chaos(chaos), &[true]);
    // A check.
    let checked = base().breaker(touchy());
    outcomes(&checked, &[false]);
    let check = evenkeel::check::Check::every(ms(10));
    let checks = checked.checks(Key::of("a"), check, |_| async { Ok::<_, ()>(()) });
    let checks = checks.expect("it makes sense");
    let task = executor.spawn(async move { match checks.await {} });
    for _ in 0..20 {
        executor.run_until_idle();
        clock.advance(ms(10));
    }
    task.cancel(&executor);
    // More keys than there is room for.
    let crowded = Keyed::new(Bulkhead::new(5)).capacity(1);
    let _held = crowded.get(Key::of("other"), || clock.now());
    outcomes(&base().bulkhead(crowded), &[true]);

    let all = limited
        .retry(retry)
        .breaker(touchy())
        .window(Keyed::new(Window::new()))
        .throttle(Throttle::new())
        .endpoints(Endpoints::numbered(2));
    metrics.collect(&all);
}

#[derive(Debug)]
enum Value {
    Counter(u64),
    Gauge(f64),
    Histogram(Vec<f64>),
}

impl Value {
    #[track_caller]
    fn count(&self) -> u64 {
        match self {
            Self::Counter(count) => *count,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn gauge(&self) -> f64 {
        match self {
            Self::Gauge(value) => *value,
            other => panic!("{other:?}"),
        }
    }
}

/// What the facade was told while `f` ran: each name with its labels.
fn recorded(f: impl FnOnce()) -> BTreeMap<String, Value> {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, f);
    found(&snapshotter)
}

fn found(snapshotter: &Snapshotter) -> BTreeMap<String, Value> {
    let all = snapshotter.snapshot().into_vec().into_iter();
    all.map(|(key, _, _, value)| {
        let key = key.key();
        let labels = key
            .labels()
            .map(|it| format!(" {}={}", it.key(), it.value()));
        let line = key.name().to_owned() + &labels.collect::<String>();
        let value = match value {
            DebugValue::Counter(count) => Value::Counter(count),
            DebugValue::Gauge(value) => Value::Gauge(value.into_inner()),
            DebugValue::Histogram(values) => {
                Value::Histogram(values.into_iter().map(|it| *it).collect())
            }
        };
        (line, value)
    })
    .collect()
}

/// The names in a text, without what Prometheus adds to those of histograms.
fn metrics_in(text: &str) -> impl Iterator<Item = String> {
    text.match_indices("evenkeel_").map(|(at, _)| {
        let end = |it: char| !(it.is_ascii_lowercase() || it == '_');
        let rest = &text[at..];
        let name = &rest[..rest.find(end).unwrap_or(rest.len())];
        let name = name
            .strip_suffix("_sum")
            .or_else(|| name.strip_suffix("_count"));
        let whole = &rest[..rest.find(end).unwrap_or(rest.len())];
        name.unwrap_or(whole).to_owned()
    })
}

/// Every metric, label and value that a text selects by.
fn selectors(text: &str) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("evenkeel_") {
        let name = metrics_in(&text[at..]).next().expect("it begins with one");
        let rest = text[at..].trim_start_matches(|it: char| it.is_ascii_lowercase() || it == '_');
        let Some((inside, _)) = rest.strip_prefix('{').and_then(|it| it.split_once('}')) else {
            continue;
        };
        for matcher in inside.split(',') {
            let (label, value) = matcher.split_once('=').expect("a matcher");
            let value = value.trim_start_matches('~').trim_matches('"');
            let label = label.trim().trim_end_matches('!');
            found.push((name.clone(), label.to_owned(), value.to_owned()));
        }
    }
    found
}
