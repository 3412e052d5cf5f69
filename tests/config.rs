//! Pipelines from configurations.
#![cfg(all(feature = "serde", feature = "testing"))]

use std::collections::BTreeSet;
use std::time::Duration;

use evenkeel::backoff::{self, Jitter};
use evenkeel::breaker::CountAs;
use evenkeel::budget::Ratio;
use evenkeel::config::{
    Adaptive, Backoff, Base, Bounds, Breaker, Budget, Bulkhead, Config, Costs, Endpoints, Learning,
    PerKey, RateLimit, Registry, Retry, Setting, Shape, SlowCalls, Throttle, Traffic, Window,
};
use evenkeel::limit::Order;
use evenkeel::testing::{ManualClock, Script, block_on};
use evenkeel::{Keyed, Pipeline};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Every field there is, and none at its default.
const WHOLE: &str = r#"
base = "none"
deadline = "10s"
timeout = "1s"
min_time_left = "700ms"
idempotent = false

[retry]
max_attempts = 7
max_hint = "4m"
hint_spread = "20s"
backoff = { kind = "exponential", first = "50ms", factor = 3.0, max_delay = "5s", jitter = "equal" }
after_rate_limit = { kind = "fibonacci", first = "2s", max_delay = "1m" }
[retry.budget]
ratio = "12.5%"
capacity_of = { window = "20s", least = 5 }
costs = { overloaded = 2, rate_limited = 3, transient = 4 }
per_key = false

[throttle]
multiplier = "150%"
window = "30s"
floor = 0.05
least = 9
per_key = false

[window]
order = "newest_first"
max_parked = 77
longest_quiet = "2m"
per_key = false

[rate_limit]
count = 90
per = "1m"
burst = 4
queue = 12
order = "newest_first"
max_pause = "9m"
per_key = false

[bulkhead]
adaptive = { kind = "gradient", initial = 11, bounds = { min = 2, max = 300 } }
queue = 13
order = "newest_first"
max_wait = "8s"
until_body_ends = true
per_key = false

[breaker]
failure_ratio = "40%"
slow_calls = { over = "3s", ratio = "60%" }
min_calls = 15
window = "25s"
consecutive_failures = 8
cooldown = { kind = "constant", first = "6s", max_delay = "1m", jitter = "full" }
forget_after = "3m"
max_hint = "6m"
probes = 2
close_after = 3
reopen_after = 4
probe_timeout = "11s"
ramp = "7s"
request_faults = "failure"
cancelled = "success"
per_key = false

[endpoints]
list = ["http://10.0.0.1:8080", "replica-2:8080"]
consecutive_failures = 4
failure_share = "30%"
most_ejected = "40%"
cooldown = { kind = "constant", first = "9s" }
forget_after = "4m"
max_hint = "7m"
probe_timeout = "12s"
ramp = "8s"
"#;

fn read(text: &str) -> Config {
    toml::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn shown(config: &Config) -> String {
    let pipeline = config.apply(Pipeline::new());
    pipeline.map_or_else(|error| error.to_string(), |it| format!("{it:?}"))
}

// --- presets ---------------------------------------------------------------------------------------

#[test]
fn nothing_said_is_the_preset() {
    let http = read("").pipeline().unwrap();
    assert_eq!(format!("{http:?}"), format!("{:?}", Pipeline::http()));
    let sections = read("[retry]\nbudget = {}\n[window]").pipeline().unwrap();
    assert_eq!(format!("{sections:?}"), format!("{:?}", Pipeline::http()));
    let none = read("base = 'none'").apply(Pipeline::new()).unwrap();
    assert_eq!(format!("{none:?}"), format!("{:?}", Pipeline::new()));
}

#[test]
fn a_section_of_no_fields_is_the_policy_as_made_by_new() {
    let sections = "base = 'none'\n[retry]\n[throttle]\n[window]\n[breaker]\n\
         [rate_limit]\ncount = 5\n[bulkhead]\nmax_concurrent = 6";
    let code = Pipeline::new()
        .retry(evenkeel::Retry::default())
        .throttle(evenkeel::Throttle::new())
        .window(evenkeel::Window::new())
        .breaker(evenkeel::Breaker::new())
        .rate_limit(evenkeel::RateLimit::per_second(5))
        .bulkhead(evenkeel::Bulkhead::new(6));
    let read = read(sections).apply(Pipeline::new()).unwrap();
    assert_eq!(format!("{read:?}"), format!("{code:?}"));
}

#[test]
fn all_that_can_be_said_is_what_the_builders_say() {
    let code = Pipeline::new()
        .deadline(secs(10))
        .timeout(secs(1))
        .min_time_left(Duration::from_millis(700))
        .idempotent(false)
        .retry(
            evenkeel::Retry::default()
                .max_attempts(7)
                .max_hint(secs(240))
                .hint_spread(secs(20))
                .backoff(
                    backoff::Backoff::exponential(Duration::from_millis(50))
                        .factor(3.0)
                        .max_delay(secs(5))
                        .jitter(Jitter::Equal),
                )
                .after_rate_limit(backoff::Backoff::fibonacci(secs(2)).max_delay(secs(60)))
                .budget(
                    evenkeel::Budget::new(Ratio::millionths(125_000))
                        .capacity_of(secs(20), 5)
                        .cost(evenkeel::verdict::Kind::Overloaded, 2)
                        .cost(evenkeel::verdict::Kind::RateLimited, 3)
                        .cost(evenkeel::verdict::Kind::Transient, 4),
                ),
        )
        .throttle(
            evenkeel::Throttle::new()
                .multiplier(Ratio::percent(150))
                .window(secs(30))
                .floor(Ratio::percent(5))
                .least(9),
        )
        .window(
            evenkeel::Window::new()
                .order(Order::NewestFirst)
                .max_parked(77)
                .longest_quiet(secs(120)),
        )
        .rate_limit(
            evenkeel::RateLimit::new(90, secs(60))
                .burst(4)
                .queue(12)
                .order(Order::NewestFirst)
                .max_pause(secs(540)),
        )
        .bulkhead(
            evenkeel::Bulkhead::adaptive(
                evenkeel::limit::Gradient::new().initial(11).bounds(2, 300),
            )
            .queue(13)
            .order(Order::NewestFirst)
            .max_wait(secs(8))
            .until_body_ends(),
        )
        .breaker(
            evenkeel::Breaker::new()
                .failure_ratio(Ratio::percent(40))
                .slow_calls(secs(3), Ratio::percent(60))
                .min_calls(15)
                .window(secs(25))
                .consecutive_failures(8)
                .cooldown(
                    backoff::Backoff::constant(secs(6))
                        .max_delay(secs(60))
                        .jitter(Jitter::Full),
                )
                .forget_after(secs(180))
                .max_hint(secs(360))
                .probes(2)
                .close_after(3)
                .reopen_after(4)
                .probe_timeout(secs(11))
                .ramp(secs(7))
                .request_faults(CountAs::Failure)
                .cancelled(CountAs::Success),
        )
        .endpoints(
            evenkeel::Endpoints::new(["http://10.0.0.1:8080", "replica-2:8080"])
                .consecutive_failures(4)
                .failure_share(Ratio::percent(30))
                .most_ejected(Ratio::percent(40))
                .cooldown(backoff::Backoff::constant(secs(9)))
                .forget_after(secs(240))
                .max_hint(secs(420))
                .probe_timeout(secs(12))
                .ramp(secs(8)),
        );
    assert_eq!(shown(&read(WHOLE)), format!("{code:?}"));
}

#[test]
fn off_switches_off() {
    let off = read(
        "deadline = 'off'\ntimeout = 'off'\nretry = 'off'\nwindow = 'off'\nthrottle = 'off'\n\
         rate_limit = 'off'\nbulkhead = 'off'\nbreaker = 'off'",
    );
    assert_eq!(
        shown(&off),
        format!("{:?}", Pipeline::new()),
        "as if there had been no preset"
    );
    let unbudgeted = read("[retry]\nbudget = 'off'").pipeline().unwrap();
    assert!(unbudgeted.budget().is_none());
    let code = Pipeline::new().breaker(
        evenkeel::Breaker::new()
            .failure_ratio(None)
            .consecutive_failures(None),
    );
    let breaker = "base = 'none'\n[breaker]\nfailure_ratio = 'off'\nconsecutive_failures = 'off'\nslow_calls = 'off'";
    assert_eq!(shown(&read(breaker)), format!("{code:?}"));
}

#[test]
fn per_key_is_a_registry_with_its_settings() {
    for section in [
        "[retry.budget]",
        "[throttle]",
        "[window]",
        "[rate_limit]\ncount = 1",
        "[bulkhead]\nmax_concurrent = 1",
        "[breaker]",
    ] {
        let keyed = |per_key: &str| {
            shown(&read(&format!(
                "base = 'none'\n{section}\nper_key = {per_key}"
            )))
        };
        let settings = "{ capacity = 123, idle_after = '77s' }";
        assert!(keyed("true").contains("Keyed { len: 0, capacity: 10000, idle_after: 600s"));
        assert!(keyed(settings).contains("Keyed { len: 0, capacity: 123, idle_after: 77s"));
        assert!(!keyed("false").contains("Keyed"), "{section}");
    }
}

#[test]
fn apply_keeps_what_is_code() {
    let clock = ManualClock::new();
    let classify = evenkeel::verdict::by(|outcome: Result<&u32, &&str>| match outcome {
        Ok(_) => evenkeel::Verdict::success(),
        Err(_) => evenkeel::Verdict::new(evenkeel::verdict::Kind::RequestFault),
    });
    let given = Pipeline::new().classify(classify).clock(clock.clock());
    let config = read("timeout = '1s'\n[retry]\nbackoff = { kind = 'constant', first = '1s' }");
    let pipeline = config.apply(given).unwrap();
    let script = Script::new(&clock).err("no").ok(1);
    let error = block_on(&clock, pipeline.run(|it| script.play(it))).unwrap_err();
    assert_eq!(
        error.attempts(),
        1,
        "its own classifier says that it is no use"
    );
    // Its own word on repeating goes, unless the configuration has one.
    for (said, attempts) in [("", 2), ("idempotent = false", 1), ("idempotent = true", 2)] {
        let text = format!(
            "base = 'none'\n{said}\n[retry]\nbackoff = {{ kind = 'constant', first = '1s' }}"
        );
        let pipeline = read(&text)
            .apply(Pipeline::new().clock(clock.clock()))
            .unwrap();
        let script = Script::new(&clock).err("no").ok(1);
        let _ = block_on(&clock, pipeline.run(|it| script.play(it)));
        assert_eq!(script.attempts().len(), attempts, "{said}");
    }
}

#[test]
fn a_live_pipeline_takes_a_configuration_whole_or_not_at_all() {
    let clock = ManualClock::new();
    let breaker =
        "[breaker]\nconsecutive_failures = 1\ncooldown = { kind = 'constant', first = '10s' }";
    let first = format!("{breaker}\nper_key = false\n[retry]\nmax_attempts = 1");
    let given = Pipeline::new().clock(clock.clock());
    let pipeline = read(&first).apply(given).unwrap();
    assert_eq!(read("").reload(&pipeline).unwrap_err().field(), "pipeline");
    let pipeline = pipeline.reloadable();
    let fails = || block_on(&clock, pipeline.run(|_| async { Err::<(), _>("no") })).unwrap_err();
    assert!(matches!(fails().cause(), evenkeel::Cause::Operation(_)));
    assert!(matches!(fails().cause(), evenkeel::Cause::Rejected(_)));

    let before = format!("{pipeline:?}");
    let bad = read("timeout = '3s'\n[retry]\nmax_attempts = 9\n[breaker]\nprobes = 0");
    let error = bad.reload(&pipeline).unwrap_err();
    assert_eq!(error.field(), "breaker.probes");
    assert_eq!(error.check().unwrap().field(), "breaker.probes");
    assert_eq!(format!("{pipeline:?}"), before);

    // Open still, for as long as it was to be; then by the new settings.
    let good = "[breaker]\nconsecutive_failures = 3\n[retry]\nmax_attempts = 2\n\
         backoff = { kind = 'constant', first = '1ms' }";
    read(good).reload(&pipeline).unwrap();
    clock.advance(Duration::from_millis(9_999));
    assert!(matches!(fails().cause(), evenkeel::Cause::Rejected(_)));
    clock.advance(Duration::from_millis(1));
    assert!(matches!(fails().cause(), evenkeel::Cause::Operation(_)));
    // Back to the preset, without a breaker.
    read("base = 'none'").reload(&pipeline).unwrap();
    assert_eq!(fails().attempts(), 1);
    assert!(matches!(fails().cause(), evenkeel::Cause::Operation(_)));
}

// --- nothing is forgotten --------------------------------------------------------------------------

#[test]
fn every_field_makes_a_difference() {
    let whole = serde_json::to_value(read(WHOLE)).unwrap();
    let with_all = shown(&read(WHOLE));
    let mut fields = Vec::new();
    collect(&whole, "", &mut fields);
    assert!(fields.len() > 60, "{fields:?}");
    for field in fields {
        // It is as in the default anyway.
        let of_kind = ["/retry/backoff/kind", "/endpoints/cooldown/jitter"];
        let is_default = of_kind.contains(&field.as_str()) || field.ends_with("/per_key");
        // With every section there, the preset has no say.
        let is_default = is_default || field == "/base";
        let mut without = whole.clone();
        let (parent, name) = field.rsplit_once('/').unwrap();
        let parent = without.pointer_mut(parent).unwrap();
        parent.as_object_mut().unwrap().remove(name).unwrap();
        let config: Config = serde_json::from_value(without).unwrap();
        assert_eq!(shown(&config) == with_all, is_default, "{field}");
    }
}

/// Paths of all fields, sections included.
fn collect(value: &Value, at: &str, fields: &mut Vec<String>) {
    for (name, value) in value.as_object().into_iter().flatten() {
        let path = format!("{at}/{name}");
        collect(value, &path, fields);
        fields.push(path);
    }
}

/// Names of a builder's setters: methods that take `self` and give it back.
fn setters(source: &str, of: &str) -> BTreeSet<String> {
    let source = source.split("\nmod tests {").next().unwrap();
    let mut names = BTreeSet::new();
    // The type's own blocks only.
    for block in source.split("\nimpl").filter(|it| {
        let head = it.lines().next().unwrap_or_default();
        head.trim_start_matches("<C>").trim_start().starts_with(of) && !head.contains(" for ")
    }) {
        let block = block.split("\n}\n").next().unwrap();
        let block = block.replace('\n', " ");
        for method in block.split("pub ").skip(1) {
            let head = method.split('{').next().unwrap();
            let head = head.strip_prefix("const ").unwrap_or(head);
            let Some(head) = head.strip_prefix("fn ") else {
                continue;
            };
            let name = head.split(['(', '<']).next().unwrap();
            let takes_self = head.contains("(self") || head.contains("(mut self");
            let takes_self =
                takes_self || head.contains("( self") || head.contains("(         self");
            if takes_self && head.contains("-> Self") {
                names.insert(name.to_owned());
            }
        }
    }
    names
}

#[test]
#[allow(clippy::too_many_lines)] // a table of builders
fn every_builders_setter_has_its_field() {
    let whole = serde_json::to_value(read(WHOLE)).unwrap();
    let check = |source: &str, of: &str, at: &str, in_code: &[&str], otherwise: &[(&str, &str)]| {
        let setters = setters(source, of);
        assert!(setters.len() > 1, "{of}: {setters:?}");
        for setter in &setters {
            if in_code.contains(&setter.as_str()) {
                continue;
            }
            let renamed = otherwise.iter().find(|(from, _)| from == setter);
            let field = renamed.map_or(setter.as_str(), |(_, to)| to);
            let path = format!("{at}/{field}");
            // Two of them exclude others that stand there.
            let excluded = ["/breaker/window_of_calls", "/retry/budget/capacity"];
            assert!(
                whole.pointer(&path).is_some() || excluded.contains(&path.as_str()),
                "{of}::{setter} has no field {path}"
            );
        }
        for name in in_code.iter().chain(otherwise.iter().map(|(from, _)| from)) {
            assert!(setters.contains(*name), "{of}::{name} is no more");
        }
    };
    check(
        include_str!("../src/pipeline/mod.rs"),
        "Pipeline<C>",
        "",
        &["chaos", "clock", "health", "observer", "rng", "no_window"],
        &[],
    );
    check(
        include_str!("../src/endpoints/mod.rs"),
        "Endpoints",
        "/endpoints",
        &[],
        &[],
    );
    check(include_str!("../src/retry.rs"), "Retry", "/retry", &[], &[]);
    check(
        include_str!("../src/backoff/mod.rs"),
        "Backoff",
        "/retry/backoff",
        &[],
        &[],
    );
    check(
        include_str!("../src/budget/mod.rs"),
        "Budget",
        "/retry/budget",
        &[],
        &[("cost", "costs")],
    );
    check(
        include_str!("../src/window/mod.rs"),
        "Window",
        "/window",
        &["fail_fast"],
        &[],
    );
    check(
        include_str!("../src/throttle/mod.rs"),
        "Throttle",
        "/throttle",
        &[],
        &[],
    );
    check(
        include_str!("../src/limit/rate.rs"),
        "RateLimit",
        "/rate_limit",
        &[],
        &[],
    );
    check(
        include_str!("../src/limit/bulkhead.rs"),
        "Bulkhead",
        "/bulkhead",
        &[],
        &[],
    );
    for learning in ["Aimd", "Gradient"] {
        let source = include_str!("../src/limit/adaptive.rs");
        check(source, learning, "/bulkhead/adaptive", &[], &[]);
    }
    check(
        include_str!("../src/breaker/mod.rs"),
        "Breaker",
        "/breaker",
        &[],
        &[],
    );
    let keyed: Value = serde_json::from_str(
        r#"{ "window": { "per_key": { "capacity": 1, "idle_after": "1s" } } }"#,
    )
    .unwrap();
    let config: Config = serde_json::from_value(keyed).unwrap();
    assert!(config.check().is_ok());
    let of_keyed = setters(include_str!("../src/keyed/mod.rs"), "<P: PerKey> Keyed<P>");
    assert_eq!(
        of_keyed,
        ["capacity", "idle_after", "with"].map(String::from).into()
    );
    let _ = Keyed::new(evenkeel::Window::new());
}

// --- what is refused -------------------------------------------------------------------------------

const UNREADABLE: &[(&str, &str, &str)] = &[
    ("retry.max_attempts = 'four'", "retry.max_attempts", "four"),
    ("retry.max_attempts = -1", "retry.max_attempts", "-1"),
    (
        "retry.max_attempts = 4294967296",
        "retry.max_attempts",
        "4294967296",
    ),
    (
        "retry.max_atempts = 4",
        "retry.max_atempts",
        "unknown field `max_atempts`",
    ),
    (
        "retries.max_attempts = 4",
        "retries",
        "unknown field `retries`",
    ),
    ("retry = 'never'", "retry", "never"),
    ("retry = true", "retry", "bool"),
    (
        "retry.backoff.first = 250",
        "retry.backoff.first",
        "a duration with its unit, such as \"250ms\"",
    ),
    (
        "retry.backoff.first = 0.25",
        "retry.backoff.first",
        "a duration with its unit",
    ),
    (
        "retry.backoff.first = '250'",
        "retry.backoff.first",
        "there is no unit",
    ),
    (
        "retry.backoff.first = '0'",
        "retry.backoff.first",
        "there is no unit",
    ),
    (
        "retry.backoff.first = '5 lightyears'",
        "retry.backoff.first",
        "lightyears",
    ),
    (
        "retry.backoff.first = 'off'",
        "retry.backoff.first",
        "a duration with its unit",
    ),
    (
        "retry.backoff.kind = 'custom'",
        "retry.backoff.kind",
        "custom",
    ),
    (
        "retry.backoff.jitter = 'some'",
        "retry.backoff.jitter",
        "some",
    ),
    (
        "retry.budget.ratio = 'half'",
        "retry.budget.ratio",
        "a share",
    ),
    (
        "retry.budget.ratio = '-1%'",
        "retry.budget.ratio",
        "must be from 0 to 1000",
    ),
    (
        "retry.budget.ratio = 1001",
        "retry.budget.ratio",
        "must be from 0 to 1000",
    ),
    (
        "retry.budget.ratio = 'nan%'",
        "retry.budget.ratio",
        "must be from 0 to 1000",
    ),
    (
        "retry.budget.costs.success = 1",
        "retry.budget.costs.success",
        "unknown field",
    ),
    ("deadline = 10", "deadline", "a duration with its unit"),
    ("deadline = 'of'", "deadline", "a duration with its unit"),
    ("base = 'grpc'", "base", "grpc"),
    (
        "window.per_key = 'yes'",
        "window.per_key",
        "true, false, or a table",
    ),
    (
        "window.per_key.capacity = -5",
        "window.per_key.capacity",
        "-5",
    ),
    (
        "window.per_key.idle = '1s'",
        "window.per_key.idle",
        "unknown field",
    ),
    ("window.order = 'random'", "window.order", "random"),
    (
        "bulkhead.adaptive.kind = 'vegas'",
        "bulkhead.adaptive.kind",
        "vegas",
    ),
    (
        "bulkhead.adaptive.bounds.min = 'few'",
        "bulkhead.adaptive.bounds.min",
        "few",
    ),
    (
        "breaker.slow_calls.over = 1",
        "breaker.slow_calls.over",
        "a duration with its unit",
    ),
    ("breaker.cancelled = 'maybe'", "breaker.cancelled", "maybe"),
    ("endpoints.list = 'a:1'", "endpoints.list", "a sequence"),
    ("breaker = []", "breaker", "\"off\" or a table"),
];

#[test]
fn what_cannot_be_read_is_named_by_its_path() {
    for &(text, path, problem) in UNREADABLE {
        let error = toml::from_str::<Config>(text).unwrap_err().to_string();
        let named = error.contains(&format!("{path}: "));
        assert!(named && error.contains(problem), "{text}: {error}");
        let value: Value = toml::from_str(text).unwrap();
        let error = serde_json::from_value::<Config>(value.clone()).unwrap_err();
        assert!(error.to_string().contains(&format!("{path}: ")), "{error}");
        let error = serde_json::from_str::<Config>(&value.to_string()).unwrap_err();
        assert!(error.to_string().contains(&format!("{path}: ")), "{error}");
    }
}

const SENSELESS: &[(&str, &str)] = &[
    ("deadline = '0s'", "deadline"),
    ("endpoints = {}", "endpoints.list"),
    ("endpoints.list = []", "endpoints.list"),
    ("endpoints.list = ['a:1', 'a:1']", "endpoints.list"),
    (
        "endpoints.list = ['http://me:secret@a:1']",
        "endpoints.list",
    ),
    (
        "endpoints = { list = ['a:1'], most_ejected = 0 }",
        "endpoints.most_ejected",
    ),
    (
        "endpoints = { list = ['a:1'], consecutive_failures = 0 }",
        "endpoints.consecutive_failures",
    ),
    (
        "endpoints = { list = ['a:1'], probe_timeout = '0s' }",
        "endpoints.probe_timeout",
    ),
    ("timeout = '0s'", "timeout"),
    ("deadline = '1s'\nmin_time_left = '1s'", "min_time_left"),
    ("retry.max_attempts = 0", "retry.max_attempts"),
    ("retry.backoff.factor = 2.0", "retry.backoff.first"),
    (
        "retry.backoff = { first = '1s', factor = 0.5 }",
        "retry.backoff.factor",
    ),
    (
        "retry.backoff = { first = '1s', factor = nan }",
        "retry.backoff.factor",
    ),
    (
        "retry.backoff = { kind = 'constant', first = '1s', factor = 2 }",
        "retry.backoff.factor",
    ),
    (
        "retry.backoff = { first = '1s', max_delay = '1ms' }",
        "retry.backoff.max_delay",
    ),
    (
        "retry.after_rate_limit = { first = '1s', max_delay = '1ms' }",
        "retry.after_rate_limit.max_delay",
    ),
    ("retry.budget.costs.transient = 0", "retry.budget.costs"),
    (
        "retry.budget = { capacity = 1, costs = { overloaded = 2 } }",
        "retry.budget.capacity",
    ),
    (
        "retry.budget.capacity_of = { window = '0s', least = 1 }",
        "retry.budget.capacity_of",
    ),
    (
        "retry.budget.capacity_of = { least = 1 }",
        "retry.budget.capacity_of.window",
    ),
    (
        "retry.budget = { capacity = 5, capacity_of = { window = '1s', least = 1 } }",
        "retry.budget.capacity_of",
    ),
    (
        "retry.budget.per_key.capacity = 0",
        "retry.budget.per_key.capacity",
    ),
    (
        "window.per_key.idle_after = '0s'",
        "window.per_key.idle_after",
    ),
    ("throttle.multiplier = '50%'", "throttle.multiplier"),
    ("throttle.window = '0s'", "throttle.window"),
    ("throttle.floor = 1.5", "throttle.floor"),
    ("rate_limit.burst = 1", "rate_limit.count"),
    ("rate_limit.count = 0", "rate_limit.count"),
    ("rate_limit = { count = 1, per = '0s' }", "rate_limit.per"),
    ("rate_limit = { count = 1, burst = 0 }", "rate_limit.burst"),
    ("bulkhead.queue = 1", "bulkhead.max_concurrent"),
    ("bulkhead.max_concurrent = 0", "bulkhead.max_concurrent"),
    (
        "bulkhead = { max_concurrent = 1, max_wait = '0s' }",
        "bulkhead.max_wait",
    ),
    (
        "bulkhead = { max_concurrent = 1, adaptive = { kind = 'aimd' } }",
        "bulkhead.adaptive",
    ),
    ("bulkhead.adaptive.initial = 5", "bulkhead.adaptive.kind"),
    (
        "bulkhead.adaptive = { kind = 'aimd', initial = 0 }",
        "bulkhead.adaptive.initial",
    ),
    (
        "bulkhead.adaptive = { kind = 'aimd', bounds = { min = 2 } }",
        "bulkhead.adaptive.bounds.max",
    ),
    (
        "bulkhead.adaptive = { kind = 'gradient', bounds = { min = 0, max = 1 } }",
        "bulkhead.adaptive.bounds",
    ),
    ("breaker.failure_ratio = 0.0", "breaker.failure_ratio"),
    (
        "breaker.slow_calls = { over = '1s', ratio = 2 }",
        "breaker.slow_calls",
    ),
    ("breaker.slow_calls.over = '1s'", "breaker.slow_calls.ratio"),
    ("breaker.min_calls = 0", "breaker.min_calls"),
    ("breaker.window = '1us'", "breaker.window"),
    ("breaker.window_of_calls = 70000", "breaker.window_of_calls"),
    (
        "breaker = { window = '1s', window_of_calls = 20 }",
        "breaker.window_of_calls",
    ),
    (
        "breaker.cooldown = { first = '1s', max_delay = '1ms' }",
        "breaker.cooldown.max_delay",
    ),
    ("breaker.probe_timeout = '0s'", "breaker.probe_timeout"),
    (
        "breaker.consecutive_failures = 0",
        "breaker.consecutive_failures",
    ),
];

#[test]
fn what_makes_no_sense_is_named_by_its_path_and_typed() {
    for &(text, path) in SENSELESS {
        let config = read(text);
        let error = config.check().unwrap_err();
        assert_eq!(error.field(), path, "{text}: {error}");
        assert_eq!(error.to_string(), format!("{path}: {}", error.problem()));
        assert!(config.pipeline().is_err());
        // And round it goes all the same: reading doesn't judge. NaN is in no JSON.
        if !text.contains("nan") {
            assert_eq!(read(&toml::to_string(&config).unwrap()), config);
        }
    }
}

// --- there and back --------------------------------------------------------------------------------

#[test]
fn the_whole_goes_there_and_back() {
    let config = read(WHOLE);
    assert_eq!(read(&toml::to_string(&config).unwrap()), config);
    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), config);
    assert_eq!(serde_json::to_string(&Config::default()).unwrap(), "{}");
    let value = serde_json::to_value(&config).unwrap();
    assert_eq!(value["min_time_left"], json!("700ms"));
    assert_eq!(value["retry"]["budget"]["ratio"], json!("12.5%"));
    assert_eq!(value["throttle"]["floor"], json!("5%"));
}

proptest! {
    #[test]
    fn any_config_goes_there_and_back(config in any_config()) {
        let json = serde_json::to_string(&config).unwrap();
        let back: Config = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(&back, &config, "{}", json);
        let text = toml::to_string(&config).unwrap();
        prop_assert_eq!(toml::from_str::<Config>(&text).unwrap(), config.clone(), "{}", text);
        // What it makes is the same too, or is refused for the same reason.
        prop_assert_eq!(shown(&back), shown(&config));
    }

    #[test]
    fn nothing_that_can_be_read_panics(value in any_value()) {
        let value = json!({ "retry": value, "breaker": value, "window": value, "deadline": value });
        for section in ["retry", "breaker", "window", "deadline", "bulkhead", "rate_limit", "throttle"] {
            let one = json!({ section: value["retry"].clone() });
            if let Ok(config) = serde_json::from_value::<Config>(one.clone()) {
                let _ = config.check();
            }
            if let Ok(config) = toml::from_str::<Config>(&toml::to_string(&one).unwrap_or_default()) {
                let _ = config.check();
            }
        }
        let _ = serde_json::from_value::<Config>(value["retry"].clone()).map(|it| it.check().is_ok());
    }
}

fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn some<T: std::fmt::Debug>(of: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    prop::option::of(of)
}

fn length() -> impl Strategy<Value = Duration> {
    prop_oneof![
        (any::<u64>(), 0..1_000_000_000_u32).prop_map(|(secs, nanos)| Duration::new(secs, nanos)),
        (0..100_000_u64).prop_map(Duration::from_millis),
        Just(Duration::ZERO),
        Just(Duration::MAX),
    ]
}

fn ratio() -> impl Strategy<Value = Ratio> {
    (0..=1_000_000_000_u32).prop_map(Ratio::millionths)
}

fn setting<T: std::fmt::Debug + Clone>(
    of: impl Strategy<Value = T>,
) -> impl Strategy<Value = Option<Setting<T>>> {
    some(prop_oneof![1 => Just(None), 4 => of.prop_map(Some)])
        .prop_map(|it| it.map(|it| it.map_or(Setting::Off, Setting::On)))
}

fn per_key() -> BoxedStrategy<Option<PerKey>> {
    let registry = (some(0..1000_usize), some(length())).prop_map(|(capacity, idle_after)| {
        let mut it = Registry::default();
        (it.capacity, it.idle_after) = (capacity, idle_after);
        it
    });
    some(prop_oneof![
        Just(PerKey::No),
        registry.prop_map(PerKey::Yes)
    ])
    .boxed()
}

fn order() -> impl Strategy<Value = Option<Order>> {
    some(prop_oneof![Just(Order::FirstIn), Just(Order::NewestFirst)])
}

fn backoff_section() -> BoxedStrategy<Backoff> {
    let kind = prop_oneof![
        Just(Shape::Constant),
        Just(Shape::Exponential),
        Just(Shape::Fibonacci)
    ];
    let jitter = prop_oneof![
        Just(Jitter::Around),
        Just(Jitter::Decorrelated),
        Just(Jitter::Equal),
        Just(Jitter::Full),
        Just(Jitter::None)
    ];
    let all = (
        some(kind),
        some(length()),
        // Not every parser reads every fraction to the last bit.
        some((-80..80).prop_map(|eighths| f64::from(eighths) / 8.0)),
        some(length()),
        some(jitter),
    );
    all.prop_map(|(kind, first, factor, max_delay, jitter)| {
        let mut it = Backoff::default();
        (it.kind, it.first, it.factor) = (kind, first, factor);
        (it.max_delay, it.jitter) = (max_delay, jitter);
        it
    })
    .boxed()
}

fn retry_section() -> BoxedStrategy<Retry> {
    let traffic = (some(length()), some(any::<u32>())).prop_map(|(window, least)| {
        let mut it = Traffic::default();
        (it.window, it.least) = (window, least);
        it
    });
    let cost = || some(any::<u32>());
    let costs = (cost(), cost(), cost()).prop_map(|(overloaded, rate_limited, transient)| {
        let mut it = Costs::default();
        (it.overloaded, it.rate_limited, it.transient) = (overloaded, rate_limited, transient);
        it
    });
    let budget = (
        some(ratio()),
        some(any::<u32>()),
        some(traffic),
        some(costs),
        per_key(),
    );
    let budget = budget.prop_map(|(ratio, capacity, capacity_of, costs, per_key)| {
        let mut it = Budget::default();
        (it.ratio, it.capacity, it.capacity_of) = (ratio, capacity, capacity_of);
        (it.costs, it.per_key) = (costs, per_key);
        it
    });
    let all = (
        some(any::<u32>()),
        some(backoff_section()),
        some(backoff_section()),
        setting(budget),
        some(length()),
        some(length()),
    );
    all.prop_map(
        |(max_attempts, backoff, after_rate_limit, budget, max_hint, hint_spread)| {
            let mut it = Retry::default();
            (it.max_attempts, it.backoff) = (max_attempts, backoff);
            (it.after_rate_limit, it.budget) = (after_rate_limit, budget);
            (it.max_hint, it.hint_spread) = (max_hint, hint_spread);
            it
        },
    )
    .boxed()
}

fn breaker_section() -> BoxedStrategy<Breaker> {
    let count = || some(any::<u32>());
    let count_as = || {
        some(prop_oneof![
            Just(CountAs::Failure),
            Just(CountAs::Nothing),
            Just(CountAs::Success)
        ])
    };
    let slow = (some(length()), some(ratio())).prop_map(|(over, ratio)| {
        let mut it = SlowCalls::default();
        (it.over, it.ratio) = (over, ratio);
        it
    });
    let rules = (
        setting(ratio()),
        setting(slow),
        count(),
        some(length()),
        some(0..70_000_u32),
        setting(any::<u32>()),
    );
    let lengths = (
        some(length()),
        some(length()),
        some(length()),
        some(length()),
    );
    let rest = (
        some(backoff_section()),
        lengths,
        (count(), count(), count()),
        count_as(),
        count_as(),
        per_key(),
    );
    (rules, rest)
        .prop_map(|(rules, rest)| {
            let mut it = Breaker::default();
            (it.failure_ratio, it.slow_calls, it.min_calls) = (rules.0, rules.1, rules.2);
            (it.window, it.window_of_calls, it.consecutive_failures) = (rules.3, rules.4, rules.5);
            it.cooldown = rest.0;
            (it.forget_after, it.max_hint, it.probe_timeout, it.ramp) = rest.1;
            (it.probes, it.close_after, it.reopen_after) = rest.2;
            (it.request_faults, it.cancelled, it.per_key) = (rest.3, rest.4, rest.5);
            it
        })
        .boxed()
}

fn limits() -> BoxedStrategy<(Bulkhead, RateLimit, Window, Throttle)> {
    let count = || some(any::<u32>());
    let queue = || some(0..usize::MAX >> 1);
    let bounds = (count(), count()).prop_map(|(min, max)| {
        let mut it = Bounds::default();
        (it.min, it.max) = (min, max);
        it
    });
    let kind = prop_oneof![Just(Learning::Aimd), Just(Learning::Gradient)];
    let adaptive = (some(kind), count(), some(bounds)).prop_map(|(kind, initial, bounds)| {
        let mut it = Adaptive::default();
        (it.kind, it.initial, it.bounds) = (kind, initial, bounds);
        it
    });
    let bulkhead = (
        count(),
        some(adaptive),
        queue(),
        order(),
        some(length()),
        some(any::<bool>()),
        per_key(),
    );
    let rate = (
        count(),
        some(length()),
        count(),
        queue(),
        order(),
        some(length()),
        per_key(),
    );
    let window = (order(), queue(), some(length()), per_key());
    let throttle = (
        some(ratio()),
        some(length()),
        some(ratio()),
        count(),
        per_key(),
    );
    (bulkhead, rate, window, throttle)
        .prop_map(|(of_bulkhead, of_rate, of_window, of_throttle)| {
            let mut bulkhead = Bulkhead::default();
            (bulkhead.max_concurrent, bulkhead.adaptive) = (of_bulkhead.0, of_bulkhead.1);
            (bulkhead.queue, bulkhead.order, bulkhead.max_wait) =
                (of_bulkhead.2, of_bulkhead.3, of_bulkhead.4);
            (bulkhead.until_body_ends, bulkhead.per_key) = (of_bulkhead.5, of_bulkhead.6);
            let mut rate = RateLimit::default();
            (rate.count, rate.per, rate.burst) = (of_rate.0, of_rate.1, of_rate.2);
            (rate.queue, rate.order, rate.max_pause) = (of_rate.3, of_rate.4, of_rate.5);
            rate.per_key = of_rate.6;
            let mut window = Window::default();
            (window.order, window.max_parked) = (of_window.0, of_window.1);
            (window.longest_quiet, window.per_key) = (of_window.2, of_window.3);
            let mut throttle = Throttle::default();
            (throttle.multiplier, throttle.window) = (of_throttle.0, of_throttle.1);
            (throttle.floor, throttle.least) = (of_throttle.2, of_throttle.3);
            throttle.per_key = of_throttle.4;
            (bulkhead, rate, window, throttle)
        })
        .boxed()
}

fn any_config() -> BoxedStrategy<Config> {
    let plain = (
        some(prop_oneof![Just(Base::Http), Just(Base::None)]),
        setting(length()),
        setting(length()),
        some(length()),
        some(any::<bool>()),
    );
    let sections = (
        setting(retry_section()),
        setting(breaker_section()),
        limits(),
        any::<[u8; 4]>(),
    );
    (plain, sections)
        .prop_map(|(plain, (retry, breaker, limits, on))| {
            let mut it = Config::default();
            (it.base, it.deadline, it.timeout) = (plain.0, plain.1, plain.2);
            (it.min_time_left, it.idempotent) = (plain.3, plain.4);
            (it.retry, it.breaker) = (retry, breaker);
            let [bulkhead, rate_limit, window, throttle] = on;
            let has_endpoints = window % 2 == 0;
            it.bulkhead = sometimes(bulkhead, limits.0);
            it.rate_limit = sometimes(rate_limit, limits.1);
            it.window = sometimes(window, limits.2);
            it.throttle = sometimes(throttle, limits.3);
            if has_endpoints {
                let mut endpoints = Endpoints::default();
                endpoints.list = Some(vec!["a:1".into(), "https://b".into()]);
                endpoints.ramp = Some(Duration::from_millis(u64::from(throttle)));
                it.endpoints = Some(endpoints);
            }
            it
        })
        .boxed()
}

fn sometimes<T>(chance: u8, value: T) -> Option<Setting<T>> {
    match chance % 4 {
        0 => None,
        1 => Some(Setting::Off),
        _ => Some(Setting::On(value)),
    }
}

/// Values with names that mean something, in places where they mean nothing.
fn any_value() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        Just("off".to_owned()),
        Just("1s".to_owned()),
        Just("50%".to_owned()),
        Just("constant".to_owned()),
        ".{0,6}",
        "[0-9]{1,22}[a-zµ]{0,3}",
        "-?[0-9e.]{1,9} ?%",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    let name = prop::sample::select(vec![
        "retry",
        "backoff",
        "budget",
        "first",
        "factor",
        "kind",
        "max_delay",
        "jitter",
        "window",
        "ratio",
        "per_key",
        "capacity",
        "capacity_of",
        "least",
        "count",
        "per",
        "max_concurrent",
        "adaptive",
        "bounds",
        "min",
        "max",
        "queue",
        "order",
        "cooldown",
        "slow_calls",
        "over",
        "nonsense",
    ]);
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}
