//! What is told of a call: events, spans, and attempts that others made.
#![cfg(all(feature = "testing", feature = "tower"))]

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use evenkeel::chaos::{Effect, Fault};
use evenkeel::error::Reason;
use evenkeel::event::{End, Observer};
use evenkeel::http::{ATTEMPT_COUNT, CallerAttempt, Http};
use evenkeel::report::{Stop, WaitReason};
use evenkeel::testing::{ManualClock, Reply, Script, ScriptedService, block_on};
use evenkeel::verdict::by;
use evenkeel::{
    Breaker, Bulkhead, Chaos, Deadline, Endpoints, Event, Key, Pipeline, RateLimit, Report, Retry,
    Rng, Verdict,
};
use http::{Request, StatusCode};
use proptest::prelude::*;
use tower::{Layer, ServiceExt};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Level, Metadata};

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

// --- events --------------------------------------------------------------------------------------

#[test]
fn every_call_that_did_not_simply_succeed_ends_with_one_event() {
    let _alone = alone();
    let (clock, told) = (ManualClock::new(), Told::default());
    let pipeline = Pipeline::new()
        .retry(Retry::constant(ms(10)).max_attempts(3))
        .deadline(ms(1000))
        .observer(told.some())
        .clock(clock.clock());
    let run = |script: Script<u8, u8>| {
        let call = pipeline.run(|attempt| script.play(attempt));
        let _ = block_on(&clock, call.keyed(Key::of("service")));
        told.take()
    };
    let script = || Script::new(&clock);

    // Nothing happened that anybody has to know.
    assert!(run(script().ok(1).after(ms(5))).is_empty());

    let after_a_retry = run(script().err(1).after(ms(5)).ok(2).after(ms(7)));
    let [
        Event::Retry { call: retried, .. },
        Event::Done {
            call,
            attempts,
            key,
            end,
            elapsed,
            parked,
            ..
        },
    ] = after_a_retry[..]
    else {
        panic!("{after_a_retry:?}")
    };
    assert_eq!((call, attempts, end), (retried, 2, End::Success));
    assert_eq!((elapsed, parked), (ms(22), ms(0)));
    assert_eq!(key, Some(Key::of("service")));

    let failed = run(script().err(1).err(2).err(3));
    assert!(matches!(
        failed[..],
        [
            Event::Retry { .. },
            Event::Retry { .. },
            Event::Stop {
                attempt: 3,
                stop: Stop::AttemptsExhausted,
                ..
            },
            Event::Done {
                attempts: 3,
                end: End::Failed(_),
                ..
            },
        ]
    ));
    for event in failed {
        assert_eq!(event.key(), Some(Key::of("service")), "{event:?}");
    }

    // What no other event tells: the deadline passed while an attempt ran.
    let hung = run(script().hang());
    let [Event::Done { end, elapsed, .. }] = hung[..] else {
        panic!("{hung:?}")
    };
    assert_eq!((end, elapsed), (End::Deadline, ms(1000)));
}

#[test]
fn a_call_that_was_refused_parked_late_or_impossible_says_how_it_ended() {
    let _alone = alone();
    let (clock, told) = (ManualClock::new(), Told::default());
    let base = || Pipeline::new().observer(told.some()).clock(clock.clock());
    let run = |pipeline: &Pipeline, until: Option<Duration>| {
        let mut call = pipeline.run(|_| async { Ok::<_, ()>(1) });
        if let Some(length) = until {
            call = call.until(Deadline::after(clock.now(), length));
        }
        let _ = block_on(&clock, call);
        let all = told.take();
        match all.last() {
            Some(Event::Done {
                attempts,
                end,
                parked,
                ..
            }) => Some((*attempts, *end, *parked)),
            None => None,
            other => panic!("{other:?}"),
        }
    };

    let closed = Breaker::new();
    let _ = closed.force_open(clock.now());
    let refused = (0, End::Rejected(Reason::BreakerOpen), ms(0));
    assert_eq!(run(&base().breaker(closed), None), Some(refused));

    let paced = base().rate_limit(RateLimit::per_second(10).burst(1));
    assert_eq!(run(&paced, None), None);
    assert_eq!(run(&paced, None), Some((1, End::Success, ms(100))));

    assert_eq!(
        run(&base(), Some(ms(0))),
        Some((0, End::Deadline, ms(0))),
        "late before it began"
    );

    let nonsense = base().timeout(ms(0));
    assert_eq!(run(&nonsense, None), Some((0, End::Invalid, ms(0))));
}

#[test]
fn a_response_that_is_given_back_though_it_is_a_failure_ends_in_failure() {
    let _alone = alone();
    let (clock, told) = (ManualClock::new(), Told::default());
    let pipeline = Pipeline::http()
        .observer(told.some())
        .clock(clock.clock())
        .rng(Rng::seeded(1));
    let service = ScriptedService::new(&clock, [Reply::status(404), Reply::status(200)]);
    let client = pipeline.layer(service);
    let ask = || {
        let request = Request::get("http://service/").body(String::new());
        block_on(&clock, client.clone().oneshot(request.expect("valid"))).expect("a response")
    };
    assert_eq!(ask().status(), StatusCode::NOT_FOUND);
    let all = told.take();
    let [Event::Stop { verdict, .. }, Event::Done { end, .. }] = all[..] else {
        panic!("{all:?}")
    };
    assert_eq!(end, End::Failed(verdict));
    assert_eq!(ask().status(), StatusCode::OK);
    assert!(told.take().is_empty());
}

#[test]
fn an_error_that_the_classifier_calls_a_success_is_one() {
    let _alone = alone();
    let (clock, told) = (ManualClock::new(), Told::default());
    let is_fine = |outcome: Result<&(), &u8>| match outcome {
        Ok(()) | Err(4) => Verdict::success(),
        Err(_) => Verdict::transient(),
    };
    let pipeline = Pipeline::new()
        .classify(by(is_fine))
        .retry(Retry::constant(ms(1)).max_attempts(2))
        .clock(clock.clock());
    let run = |pipeline: &Pipeline<_>, ends: [u8; 2]| {
        let script = Script::new(&clock).err(ends[0]).err(ends[1]);
        let call = pipeline.run(|attempt| script.play(attempt));
        let error = block_on(&clock, call).unwrap_err();
        assert!(error.operation().is_some());
        told.take()
    };
    let some = pipeline.clone().observer(told.some());
    assert!(run(&some, [4, 0]).is_empty());
    let retried = run(&some, [5, 4]);
    assert!(
        matches!(
            retried[..],
            [
                Event::Retry { .. },
                Event::Done {
                    end: End::Success,
                    ..
                }
            ]
        ),
        "{retried:?}"
    );
    let all = pipeline.observer(told.all_of_it());
    let first = run(&all, [4, 0]);
    assert!(
        matches!(
            first[..],
            [Event::Done {
                end: End::Success,
                ..
            }]
        ),
        "{first:?}"
    );
}

#[test]
fn every_observer_is_told_in_order_and_plain_successes_only_where_asked_for() {
    let _alone = alone();
    let clock = ManualClock::new();
    let (first, second) = (Told::default(), Told::default());
    let order = Arc::new(Mutex::new(String::new()));
    let mark = |mark: char| {
        let order = Arc::clone(&order);
        move |_: &Event| order.lock().unwrap().push(mark)
    };
    let pipeline = Pipeline::new()
        .retry(Retry::constant(ms(1)).max_attempts(2))
        .observer(mark('a'))
        .observer(first.some())
        .observer(mark('b'))
        .clock(clock.clock());
    let fail = || {
        let _ = block_on(&clock, pipeline.run(|_| async { Err::<(), _>(()) }));
    };
    fail();
    assert_eq!(*order.lock().unwrap(), "ababab", "a retry, a stop, the end");
    assert_eq!(first.take().len(), 3);

    let succeed = |pipeline: &Pipeline| {
        let script = Script::<_, ()>::new(&clock).ok(1).after(ms(3));
        let call = pipeline.run(|attempt| script.play(attempt));
        assert_eq!(block_on(&clock, call), Ok(1));
    };
    succeed(&pipeline);
    assert!(first.take().is_empty());
    let live = pipeline.clone().observer(second.all_of_it()).reloadable();
    // Settings are exchanged, observers stay.
    live.reload(&Pipeline::new()).expect("sound settings");
    for pipeline in [pipeline.clone().observer(second.all_of_it()), live] {
        succeed(&pipeline);
        let told = second.take();
        let [
            Event::Done {
                attempts: 1,
                end: End::Success,
                elapsed,
                ..
            },
        ] = told[..]
        else {
            panic!("{told:?}")
        };
        assert_eq!(elapsed, ms(3));
        assert_eq!(first.take().len(), 1, "all are told where one wants it");
    }

    // Time that passes before anything had to wait counts as well.
    let busy = pipeline.observer(second.all_of_it());
    let call = busy.run(|_| {
        clock.advance(ms(4));
        async { Ok::<_, ()>(1) }
    });
    assert_eq!(block_on(&clock, call), Ok(1));
    let told = second.take();
    assert!(
        matches!(told[..], [Event::Done { elapsed, .. }] if elapsed == ms(4)),
        "{told:?}"
    );
}

proptest! {
    /// Whatever happens to calls, what is told adds up.
    #[test]
    fn what_is_told_of_calls_adds_up(
        // How each attempt ends, call by call.
        calls in prop::collection::vec(prop::collection::vec(0..4_u8, 1..6), 1..12),
        attempts in 1..5_u32,
        room in 1..3_u32,
    ) {
        let _alone = alone();
        let (clock, told) = (ManualClock::new(), Told::default());
        let pipeline = Pipeline::new()
            .retry(Retry::constant(ms(3)).max_attempts(attempts))
            .timeout(ms(20))
            .deadline(ms(55))
            .bulkhead(Bulkhead::new(room).queue(2))
            .breaker(Breaker::new().consecutive_failures(3))
            .rng(Rng::seeded(1))
            .clock(clock.clock())
            .observer(told.all_of_it());
        let executor = evenkeel::testing::Executor::new(&clock);
        let tasks: Vec<_> = calls.into_iter().map(|ends| {
            let mut script = Script::new(&clock);
            for end in ends {
                script = match end {
                    0 => script.ok(()),
                    1 => script.err(()),
                    2 => script.err(()).after(ms(10)),
                    _ => script.hang(),
                };
            }
            // Scripts that come to their end go on by failing.
            for _ in 0..5 {
                script = script.err(());
            }
            let pipeline = pipeline.clone();
            executor.spawn(async move {
                let played = script.clone();
                let got = pipeline.run(|attempt| played.play(attempt)).await;
                (got.map_err(|error| error.report().clone()), script.begun().len())
            })
        }).collect();
        executor.run();
        let mut ends = BTreeMap::new();
        let mut counts: BTreeMap<u64, (u32, u32)> = BTreeMap::new();
        for event in told.take() {
            let (retries, last) = counts.entry(event.call()).or_default();
            match event {
                Event::Retry { .. } => *retries += 1,
                Event::Stop { .. } | Event::Reject { .. } => *last += 1,
                Event::Done { .. } => {
                    prop_assert!(ends.insert(event.call(), event).is_none(), "one end each");
                    continue;
                }
                _ => {}
            }
            prop_assert!(!ends.contains_key(&event.call()), "nothing after the end");
        }
        prop_assert_eq!(ends.len(), tasks.len());
        let mut told_attempts: Vec<_> = Vec::new();
        for (call, event) in &ends {
            let Event::Done { attempts, end, .. } = *event else { unreachable!() };
            told_attempts.push(attempts);
            let (retries, last) = counts.get(call).copied().unwrap_or_default();
            // A retry that was decided on may have been refused, or be too late, before it began.
            prop_assert!(attempts <= retries + 1 && retries <= attempts);
            prop_assert_eq!(last, u32::from(matches!(end, End::Failed(_) | End::Rejected(_))));
        }
        let mut made: Vec<_> = Vec::new();
        let mut successes = 0;
        for task in tasks {
            let (got, begun) = task.take().expect("it is over");
            made.push(u32::try_from(begun).unwrap());
            match got {
                Ok(()) => successes += 1,
                Err(report) => {
                    let Some(Event::Done { attempts, elapsed, parked, .. }) = ends.get(&report.call())
                    else { panic!("no end of {report:?}") };
                    prop_assert_eq!(*attempts, report.attempts());
                    prop_assert_eq!(*elapsed, report.elapsed());
                    prop_assert_eq!(*parked, report.parked());
                }
            }
        }
        made.sort_unstable();
        told_attempts.sort_unstable();
        prop_assert_eq!(made, told_attempts);
        let told_successes = ends.values().filter(|it| matches!(it, Event::Done { end: End::Success, .. }));
        prop_assert_eq!(told_successes.count(), successes);
    }
}

// --- spans ---------------------------------------------------------------------------------------

#[test]
fn each_attempt_is_a_span_with_the_names_of_opentelemetry() {
    let _alone = alone();
    let clock = ManualClock::new();
    let pipeline = Pipeline::http()
        .retry(Retry::constant(ms(5)).max_attempts(3))
        .clock(clock.clock())
        .rng(Rng::seeded(1));
    let replies = [
        Reply::status(503).after(ms(1)),
        Reply::reset(),
        Reply::status(200),
    ];
    let client = pipeline.layer(ScriptedService::new(&clock, replies));
    let spans = Spans::new(Level::DEBUG);
    tracing::subscriber::with_default(spans.clone(), || {
        let request = Request::put("https://user:pass@Prices.internal/path?query");
        let request = request.body(String::new()).expect("valid");
        let response = block_on(&clock, client.oneshot(request)).expect("a response");
        let report = response.extensions().get::<Report>().expect("a report");
        assert!(report.call() > 0);
        for span in spans.all() {
            assert_eq!(span.fields["call"], report.call().to_string());
        }
    });
    let all = spans.all();
    assert_eq!(all.len(), 3);
    for span in &all {
        assert_eq!((span.name, span.target), ("attempt", "evenkeel::attempt"));
        for (field, value) in [
            ("otel.name", "PUT"),
            ("otel.kind", "client"),
            ("http.request.method", "PUT"),
            ("url.scheme", "https"),
            ("server.port", "443"),
        ] {
            assert_eq!(span.fields[field], value);
        }
        let host = &span.fields["server.address"];
        assert!(host.eq_ignore_ascii_case("prices.internal"), "{host}");
        assert!(span.closed, "it ends with the attempt");
        assert_eq!(span.depth, 0, "it is left as often as it is entered");
        assert!(span.entered > 0);
    }
    let field = |index: usize, name| all[index].fields.get(name).map(String::as_str);
    let column = |name| [0, 1, 2].map(|index| field(index, name));
    assert_eq!(
        column("http.request.resend_count"),
        [None, Some("1"), Some("2")]
    );
    assert_eq!(
        column("http.response.status_code"),
        [Some("503"), None, Some("200")]
    );
    assert_eq!(column("error.type"), [Some("503"), Some("reset"), None]);
    assert_eq!(
        column("otel.status_code"),
        [Some("ERROR"), Some("ERROR"), None]
    );
}

#[test]
fn a_span_is_current_while_its_attempt_is_made_and_never_else() {
    let _alone = alone();
    let clock = ManualClock::new();
    let pipeline = Pipeline::new()
        .retry(Retry::constant(ms(5)).max_attempts(2))
        .clock(clock.clock());
    let spans = Spans::new(Level::DEBUG);
    tracing::subscriber::with_default(spans.clone(), || {
        let (script, seen) = (Script::new(&clock).err(1).after(ms(3)).ok(2), &spans);
        let call = pipeline.run(|attempt| {
            let begun_in = seen.current();
            let played = script.play(attempt);
            async move {
                assert_eq!(seen.current(), begun_in);
                let got = played.await;
                // After a wait it is entered again.
                assert_eq!(seen.current(), begun_in);
                assert_eq!(seen.current(), Some(attempt.number() as usize - 1));
                got
            }
        });
        assert_eq!(block_on(&clock, call), Ok(2));
        assert_eq!(spans.current(), None);
    });
    let all = spans.all();
    assert_eq!(all.len(), 2);
    // A closure doesn't say what it asks whom for.
    assert_eq!(all[0].fields["otel.name"], "attempt");
    assert!(!all[0].fields.contains_key("server.address"));
    assert_eq!(all[0].fields["error.type"], "error");
    assert!(all.iter().all(|it| it.closed));
}

/// Wants spans of this name alone, and says so of each anew.
struct Named(&'static str, Spans);

impl tracing::Subscriber for Named {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> tracing::subscriber::Interest {
        tracing::subscriber::Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.1.enabled(metadata)
            && metadata.name() == self.0
            && metadata.fields().field("server.address").is_some()
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        self.1.max_level_hint()
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        self.1.new_span(attributes)
    }

    fn record(&self, id: &Id, values: &Record<'_>) {
        self.1.record(id, values);
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &tracing::Event<'_>) {}

    fn enter(&self, id: &Id) {
        self.1.enter(id);
    }

    fn exit(&self, id: &Id) {
        self.1.exit(id);
    }

    fn try_close(&self, id: Id) -> bool {
        self.1.try_close(id)
    }
}

#[test]
fn who_wants_spans_of_this_name_alone_gets_them_and_who_wants_others_gets_none() {
    let _alone = alone();
    let pipeline = Pipeline::new();
    for (name, wanted) in [("attempt", 1), ("request", 0)] {
        let spans = Spans::new(Level::DEBUG);
        tracing::subscriber::with_default(Named(name, spans.clone()), || {
            let clock = ManualClock::new();
            let call = pipeline.run(|_| async { Ok::<_, ()>(7) });
            assert_eq!(block_on(&clock, call), Ok(7));
        });
        assert_eq!(spans.all().len(), wanted, "{name}");
    }
}

#[test]
fn a_check_is_a_span_around_its_attempt_and_never_else_current() {
    let _alone = alone();
    let clock = ManualClock::new();
    let breaker = evenkeel::Breaker::new().consecutive_failures(1);
    let pipeline = Pipeline::new().breaker(breaker).clock(clock.clock());
    let executor = evenkeel::testing::Executor::new(&clock);
    let spans = Spans::new(Level::DEBUG);
    tracing::subscriber::with_default(spans.clone(), || {
        let failed = block_on(&clock, pipeline.run(|_| async { Err::<(), _>(()) }));
        assert!(failed.is_err());
        let check = evenkeel::check::Check::every(ms(100));
        let (script, seen) = (Script::<_, ()>::new(&clock), spans.clone());
        let script = script.ok(()).after(ms(3));
        let checks = pipeline.checks(None, check, move |attempt| {
            assert_eq!(seen.current(), Some(2), "in the attempt, in the check");
            script.play(attempt)
        });
        let checks = checks.expect("it makes sense");
        let task = executor.spawn(async move { match checks.await {} });
        for _ in 0..2_000 {
            executor.run_until_idle();
            assert_eq!(spans.current(), None);
            clock.advance(ms(1));
        }
        task.cancel(&executor);
    });
    let all = spans.all();
    let [_, check, attempt] = &all[..] else {
        panic!("{}", all.len());
    };
    assert_eq!((check.name, check.target), ("check", "evenkeel"));
    assert_eq!(attempt.name, "attempt");
    assert!(check.entered > 1 && attempt.entered > 1, "over a wait");
    assert!(check.closed && attempt.closed);
}

#[test]
fn the_span_says_which_endpoint_was_asked_and_which_limit_ended_it() {
    let _alone = alone();
    let clock = ManualClock::new();
    let endpoints = Endpoints::new(["http://10.0.0.1:8080"]);
    let spans = Spans::new(Level::DEBUG);
    tracing::subscriber::with_default(spans.clone(), || {
        // A window would take the first for evidence, and begin no second one.
        let pipeline = Pipeline::http()
            .no_window()
            .endpoints(endpoints)
            .retry(Retry::constant(ms(5)).max_attempts(2))
            .timeout(ms(30))
            .deadline(ms(50))
            .clock(clock.clock())
            .rng(Rng::seeded(1));
        let client = pipeline.layer(ScriptedService::new(&clock, [Reply::stall()]));
        let request = Request::get("https://prices/").body(String::new());
        let error = block_on(&clock, client.oneshot(request.expect("valid"))).unwrap_err();
        assert!(error.is_timeout());
    });
    let all = spans.all();
    // The first by its own limit, the second by the deadline.
    assert_eq!(all.len(), 2);
    for span in all {
        assert_eq!(span.fields["server.address"], "10.0.0.1");
        assert_eq!(span.fields["server.port"], "8080");
        assert_eq!(span.fields["url.scheme"], "http");
        assert_eq!(span.fields["error.type"], "timeout");
        assert!(span.closed);
    }
}

#[test]
fn an_injected_fault_has_a_span_and_a_refused_attempt_has_none() {
    let _alone = alone();
    let clock = ManualClock::new();
    let spans = Spans::new(Level::DEBUG);
    tracing::subscriber::with_default(spans.clone(), || {
        let chaos = Chaos::new().script([Effect::from(Fault::Reset)]);
        let pipeline = Pipeline::new().chaos(chaos).clock(clock.clock());
        let run = |pipeline: &Pipeline| {
            let call = pipeline.run(|_| async { Ok::<_, ()>(()) });
            block_on(&clock, call).unwrap_err()
        };
        run(&pipeline);
        assert_eq!(spans.all().len(), 1);
        let breaker = Breaker::new();
        let _ = breaker.force_open(clock.now());
        run(&Pipeline::new().breaker(breaker).clock(clock.clock()));
        assert_eq!(spans.all().len(), 1);
    });
    assert_eq!(spans.all()[0].fields["error.type"], "injected_reset");
}

#[test]
fn a_call_dropped_after_any_poll_leaves_no_span_open() {
    let _alone = alone();
    for polls in 0.. {
        let clock = ManualClock::new();
        let pipeline = Pipeline::http()
            .retry(Retry::constant(ms(5)).max_attempts(3))
            .timeout(ms(20))
            .clock(clock.clock())
            .rng(Rng::seeded(1));
        let replies = [
            Reply::status(503).after(ms(1)),
            Reply::stall(),
            Reply::status(200).after(ms(1)),
        ];
        let client = pipeline.layer(ScriptedService::new(&clock, replies));
        let spans = Spans::new(Level::DEBUG);
        let over = tracing::subscriber::with_default(spans.clone(), || {
            let request = Request::get("http://service/").body(String::new());
            let mut call = Box::pin(client.oneshot(request.expect("valid")));
            let mut context = Context::from_waker(Waker::noop());
            (0..polls).any(|_| {
                let over = call.as_mut().poll(&mut context).is_ready();
                let open = spans.all().iter().filter(|it| !it.closed).count();
                assert!(open <= 1, "one attempt at a time");
                assert_eq!(spans.current(), None);
                clock.advance_to_next();
                over
            })
        });
        for span in spans.all() {
            assert!(span.closed && span.depth == 0);
        }
        if over {
            assert_eq!(spans.all().len(), 3);
            assert!(polls > 5, "{polls}");
            break;
        }
    }
}

#[test]
fn a_dropped_call_leaves_no_span_open_and_a_deaf_subscriber_has_none() {
    let _alone = alone();
    let clock = ManualClock::new();
    let pipeline = Pipeline::new().clock(clock.clock());
    let spans = Spans::new(Level::DEBUG);
    tracing::subscriber::with_default(spans.clone(), || {
        let script = Script::<(), ()>::new(&clock).hang();
        let mut call = Box::pin(pipeline.run(|attempt| script.play(attempt)));
        let mut context = Context::from_waker(Waker::noop());
        assert!(call.as_mut().poll(&mut context).is_pending());
        assert!(!spans.all()[0].closed);
        drop(call);
        assert!(spans.all()[0].closed);
        assert_eq!(spans.all()[0].depth, 0);
    });
    let deaf = Spans::new(Level::INFO);
    tracing::subscriber::with_default(deaf.clone(), || {
        let call = pipeline.run(|_| async { Ok::<_, ()>(()) });
        assert_eq!(block_on(&clock, call), Ok(()));
    });
    assert!(deaf.all().is_empty());
}

#[test]
fn methods_of_ones_own_are_other() {
    let _alone = alone();
    let clock = ManualClock::new();
    let spans = Spans::new(Level::DEBUG);
    tracing::subscriber::with_default(spans.clone(), || {
        let pipeline = Pipeline::http().clock(clock.clock());
        let client = pipeline.layer(ScriptedService::new(&clock, [Reply::status(200)]));
        let request = Request::builder()
            .method("MYSECRET")
            .uri("http://[::1]:81/");
        let request = request.body(String::new()).expect("valid");
        block_on(&clock, client.oneshot(request)).expect("a response");
    });
    let fields = &spans.all()[0].fields;
    assert_eq!(fields["http.request.method"], "_OTHER");
    assert_eq!(
        (&*fields["server.port"], &*fields["otel.name"]),
        ("81", "_OTHER")
    );
}

// --- attempts that others made --------------------------------------------------------------------

#[test]
fn each_attempt_says_which_it_is_with_those_of_the_caller_before_it() {
    let _alone = alone();
    for (caller, sent) in [
        (None, vec!["1", "2", "3", "4"]),
        (Some(0), vec!["1", "2", "3", "4"]),
        (Some(1), vec!["1", "2", "3", "4"]),
        (Some(2), vec!["2", "3", "4"]),
        (Some(4), vec!["4"]),
        // At least one is made.
        (Some(5), vec!["5"]),
        (Some(u32::MAX), vec!["4294967295"]),
    ] {
        let clock = ManualClock::new();
        let told = Told::default();
        let service = ScriptedService::new(&clock, [Reply::status(503)]);
        let client = shrinking(&clock)
            .observer(told.some())
            .layer(service.clone());
        let mut request = Request::get("http://service/")
            .body(String::new())
            .expect("valid");
        if let Some(number) = caller {
            request.extensions_mut().insert(CallerAttempt(number));
        }
        // Whatever the caller wrote there is not its own attempt.
        request.headers_mut().insert(&ATTEMPT_COUNT, 99.into());
        let response = block_on(&clock, client.oneshot(request)).expect("a response");
        let report = response.extensions().get::<Report>().expect("a report");
        assert_eq!(report.attempts() as usize, sent.len());
        assert_eq!(report.stop(), Some(Stop::AttemptsExhausted));
        let seen = service.seen();
        let seen = seen
            .iter()
            .map(|it| it.headers[&ATTEMPT_COUNT].to_str().expect("digits"));
        assert_eq!(seen.collect::<Vec<_>>(), sent, "{caller:?}");
    }
}

#[test]
fn what_a_proxy_tried_counts_as_if_the_call_had() {
    let _alone = alone();
    for (answers, attempts) in [
        (vec!["1", "1", "1", "1"], 4),
        (vec!["2", "1", "1", "1"], 3),
        (vec!["1", "3", "1", "1"], 2),
        (vec!["4"], 1),
        (vec!["4294967295"], 1),
        (vec!["nonsense", "0", "-1", ""], 4),
    ] {
        let clock = ManualClock::new();
        let replies = answers
            .iter()
            .map(|count| Reply::status(503).header(ATTEMPT_COUNT.as_str(), *count));
        let client =
            shrinking(&clock).layer(ScriptedService::new(&clock, replies.collect::<Vec<_>>()));
        let request = Request::get("http://service/").body(String::new());
        let response =
            block_on(&clock, client.oneshot(request.expect("valid"))).expect("a response");
        let report = response.extensions().get::<Report>().expect("a report");
        assert_eq!(report.attempts(), attempts, "{answers:?}");
        assert_eq!(report.stop(), Some(Stop::AttemptsExhausted));
    }
}

#[test]
fn nobody_who_did_not_ask_sends_or_reads_the_header() {
    let _alone = alone();
    let clock = ManualClock::new();
    let reply = Reply::status(503).header(ATTEMPT_COUNT.as_str(), "9");
    let service = ScriptedService::new(&clock, [reply]);
    let client = shrinking(&clock)
        .classify(Http::new())
        .layer(service.clone());
    let request = Request::get("http://service/").body(String::new());
    let response = block_on(&clock, client.oneshot(request.expect("valid"))).expect("a response");
    let report = response.extensions().get::<Report>().expect("a report");
    assert_eq!(report.attempts(), 4);
    assert!(
        service
            .seen()
            .iter()
            .all(|it| !it.headers.contains_key(&ATTEMPT_COUNT))
    );
}

proptest! {
    #[test]
    fn never_more_than_the_policy_allows_and_at_least_one(most in 1..6_u32, caller in any::<u32>()) {
        let _alone = alone();
        for caller in [caller, caller % 8] {
            let clock = ManualClock::new();
            let pipeline = Pipeline::new()
                .retry(Retry::constant(ms(1)).max_attempts(most))
                .clock(clock.clock());
            let mut totals = Vec::new();
            let call = pipeline.run(|attempt| {
                totals.push(attempt.total());
                async { Err::<(), _>(()) }
            });
            let error = block_on(&clock, call.caller_attempt(caller)).unwrap_err();
            let earlier = caller.saturating_sub(1);
            prop_assert_eq!(error.attempts(), most.saturating_sub(earlier).max(1));
            for (total, number) in totals.into_iter().zip(1_u32..) {
                prop_assert_eq!(total, number.saturating_add(earlier));
            }
        }
    }
}

/// Four attempts, whose number is sent and read.
fn shrinking(clock: &ManualClock) -> Pipeline<Http> {
    Pipeline::http()
        .classify(Http::new().attempt_header(ATTEMPT_COUNT.clone()))
        .no_window()
        .retry(Retry::constant(ms(1)).max_attempts(4))
        .clock(clock.clock())
        .rng(Rng::seeded(1))
}

/// All that was told since it was taken last.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Event>>>);

struct All(Told);

impl Told {
    fn some(&self) -> impl Fn(&Event) + Send + Sync + 'static {
        let told = Arc::clone(&self.0);
        move |event: &Event| told.lock().unwrap().push(*event)
    }

    fn all_of_it(&self) -> All {
        All(self.clone())
    }

    fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Observer for All {
    fn observe(&self, event: &Event) {
        self.0.0.lock().unwrap().push(*event);
    }

    fn wants_all(&self) -> bool {
        true
    }
}

/// A subscriber that keeps spans and drops events.
#[derive(Clone)]
struct Spans {
    level: Level,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    spans: Vec<Span>,
    stack: Vec<usize>,
}

#[derive(Clone)]
struct Span {
    name: &'static str,
    target: &'static str,
    fields: BTreeMap<&'static str, String>,
    entered: u32,
    depth: i32,
    closed: bool,
}

impl Spans {
    fn new(level: Level) -> Self {
        let shared = Arc::default();
        Self { level, shared }
    }

    fn all(&self) -> Vec<Span> {
        self.shared.lock().unwrap().spans.clone()
    }

    /// Which span this is in.
    fn current(&self) -> Option<usize> {
        self.shared.lock().unwrap().stack.last().copied()
    }

    fn change(&self, id: &Id, change: impl FnOnce(&mut Shared, usize)) {
        let index = usize::try_from(id.into_u64() - 1).unwrap();
        change(&mut self.shared.lock().unwrap(), index);
    }
}

impl tracing::Subscriber for Spans {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(self.level.into())
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let metadata = attributes.metadata();
        let mut span = Span {
            name: metadata.name(),
            target: metadata.target(),
            fields: BTreeMap::new(),
            entered: 0,
            depth: 0,
            closed: false,
        };
        attributes.record(&mut span);
        let mut shared = self.shared.lock().unwrap();
        shared.spans.push(span);
        Id::from_u64(shared.spans.len() as u64)
    }

    fn record(&self, id: &Id, values: &Record<'_>) {
        self.change(id, |shared, index| values.record(&mut shared.spans[index]));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &tracing::Event<'_>) {}

    fn enter(&self, id: &Id) {
        self.change(id, |shared, index| {
            let span = &mut shared.spans[index];
            assert!(!span.closed);
            (span.entered, span.depth) = (span.entered + 1, span.depth + 1);
            shared.stack.push(index);
        });
    }

    fn exit(&self, id: &Id) {
        self.change(id, |shared, index| {
            shared.spans[index].depth -= 1;
            assert_eq!(shared.stack.pop(), Some(index));
        });
    }

    fn try_close(&self, id: Id) -> bool {
        self.change(&id, |shared, index| shared.spans[index].closed = true);
        true
    }
}

impl Visit for Span {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }
}

#[test]
fn the_words_of_waits_and_ends_are_those_of_the_docs() {
    let _alone = alone();
    assert_eq!(WaitReason::ServerHint.to_string(), "server hint");
    for (end, word) in [
        (End::Deadline, "deadline"),
        (End::Invalid, "invalid settings"),
        (End::Rejected(Reason::QueueFull), "rejected"),
        (End::Success, "success"),
    ] {
        assert_eq!(end.to_string(), word);
        assert_eq!(end.is_success(), end == End::Success);
    }
}

/// One test at a time: whether anybody listens at a place is remembered for the whole process, and a test
/// that runs beside one that listens can make it forget.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
