//! The choice of an endpoint for every attempt, driven by the engine and by hand.
#![cfg(feature = "testing")]

use std::cell::Cell;
use std::collections::HashMap;
use std::future::{Future, pending, ready};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use evenkeel::backoff::Backoff;
use evenkeel::clock::Why as Sleeps;
use evenkeel::endpoints::{Change, Endpoint, Endpoints, Id, State, Why};
use evenkeel::event;
use evenkeel::testing::{Executor, ManualClock, block_on};
use evenkeel::verdict::{Hint, Kind, Verdict, by};
use evenkeel::{Attempt, Breaker, Cause, Event, Key, Keyed, Pipeline, Retry, Rng, Window};
#[cfg(feature = "tower")]
use {
    http::{HeaderValue, Request, Response, StatusCode},
    tower::{Layer, ServiceExt, service_fn},
};

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Ejected for a known time.
fn endpoints(count: u32) -> Endpoints {
    Endpoints::numbered(count).cooldown(Backoff::constant(ms(1000)))
}

fn quick() -> Retry {
    Retry::constant(ms(1)).max_attempts(4)
}

fn index(attempt: Attempt) -> usize {
    attempt.endpoint().expect("one was chosen").index()
}

/// The changes that were told, with the number of the attempt.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Line>>>);

type Line = (u32, Option<Key>, Change);

impl Told {
    fn observer(&self) -> impl Fn(&Event) + Send + Sync + 'static {
        let told = Arc::clone(&self.0);
        move |event: &Event| {
            if let Event::Changed {
                attempt,
                key,
                change: event::Change::Endpoint(change),
                ..
            } = event
            {
                told.lock().unwrap().push((*attempt, *key, *change));
            }
        }
    }

    fn take(&self) -> Vec<Line> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

#[test]
fn a_bad_endpoint_costs_three_attempts_and_then_probes() {
    let clock = ManualClock::new();
    let (set, told) = (endpoints(10), Told::default());
    let pipeline = Pipeline::new()
        .retry(quick())
        .endpoints(set.clone())
        .observer(told.observer())
        .clock(clock.clock())
        .rng(Rng::seeded(1));
    let (mut attempts, mut calls) = (0, 0);
    while clock.elapsed() < ms(10_000) {
        calls += 1;
        let got = pipeline.run(|attempt| {
            attempts += 1;
            let sleep = clock
                .clock()
                .sleep_until(clock.now() + ms(10), Sleeps::Other);
            async move {
                sleep.await;
                if index(attempt) == 0 {
                    Err("bad")
                } else {
                    Ok(())
                }
            }
        });
        block_on(&clock, got).expect("another one answers");
    }
    let told = told.take();
    let count = |wanted: fn(&Change) -> bool| told.iter().filter(|it| wanted(&it.2)).count();
    let probes = count(|it| matches!(it, Change::Probing { .. }));
    let in_a_row = |it: &Change| {
        matches!(
            it,
            Change::Ejected {
                why: Why::ConsecutiveFailures,
                ..
            }
        )
    };
    let failed = |it: &Change| {
        matches!(
            it,
            Change::Ejected {
                why: Why::ProbeFailed,
                ..
            }
        )
    };
    assert_eq!((count(in_a_row), count(failed)), (1, probes));
    assert_eq!(attempts, calls + 3 + probes);
    // It is asked so little after its first failure that the third may take seconds.
    assert!((1..=9).contains(&probes), "{probes}");
    assert!(
        told.iter()
            .all(|it| it.2.endpoint().index() == 0 && it.0 == 1 && it.1.is_none())
    );
    assert_eq!(set.snapshot(clock.now())[0].ejections, 1);
}

#[test]
fn it_comes_back_when_it_is_well_and_is_told_of() {
    let clock = ManualClock::new();
    let (set, told) = (endpoints(2), Told::default());
    let pipeline = Pipeline::new()
        .retry(quick())
        .endpoints(set.clone())
        .observer(told.observer())
        .clock(clock.clock());
    let call = |bad: Option<usize>| {
        let run = pipeline.run(|attempt| {
            let is_bad = bad == Some(index(attempt));
            ready(if is_bad { Err(()) } else { Ok(index(attempt)) })
        });
        block_on(&clock, run).expect("one of two answers")
    };
    while told.0.lock().unwrap().is_empty() {
        assert_eq!(call(Some(0)), 1);
    }
    let State::Ejected { left } = set.snapshot(clock.now())[0].state else {
        panic!("ejected");
    };
    clock.advance(left);
    assert_eq!(call(None), 0, "the probe");
    let changes: Vec<_> = told.take().iter().map(|it| it.2).collect();
    let endpoint = changes[0].endpoint();
    assert_eq!(
        changes[1..],
        [Change::Probing { endpoint }, Change::Returned { endpoint }]
    );
}

#[test]
fn a_retry_goes_to_another_endpoint() {
    let clock = ManualClock::new();
    let pipeline = Pipeline::new()
        .retry(quick())
        .endpoints(endpoints(4))
        .clock(clock.clock());
    for _ in 0..100 {
        let mut asked = Vec::new();
        let got = pipeline.run(|attempt| {
            asked.push(index(attempt));
            ready(Err::<(), _>("down"))
        });
        assert_eq!(block_on(&clock, got).unwrap_err().attempts(), 4);
        asked.sort_unstable();
        assert_eq!(asked, [0, 1, 2, 3]);
    }
}

#[test]
fn without_endpoints_there_is_none_and_none_is_wanted() {
    let clock = ManualClock::new();
    for pipeline in [
        Pipeline::new(),
        Pipeline::new().endpoints(Endpoints::none()),
        Pipeline::new().endpoints(Keyed::new(endpoints(2))),
    ] {
        let pipeline = pipeline.clock(clock.clock());
        pipeline.check().expect("nothing is wrong with it");
        let got = pipeline.run(|attempt| ready(Ok::<_, ()>(attempt.endpoint())));
        assert_eq!(block_on(&clock, got), Ok(None));
    }
}

#[test]
fn lists_and_settings_that_make_no_sense_are_refused_before_anything_is_sent() {
    use evenkeel::budget::Ratio;
    let empty: [&str; 0] = [];
    for (wrong, field) in [
        (Endpoints::new(empty), "endpoints.list"),
        (Endpoints::numbered(0), "endpoints.list"),
        (Endpoints::new(["http://a", "HTTP://A/"]), "endpoints.list"),
        (Endpoints::new(["http://a/b"]), "endpoints.list"),
        (Endpoints::new(["me:secret@a"]), "endpoints.list"),
        (
            endpoints(2).consecutive_failures(0),
            "endpoints.consecutive_failures",
        ),
        (
            endpoints(2).failure_share(Ratio::percent(0)),
            "endpoints.failure_share",
        ),
        (
            endpoints(2).failure_share(Ratio::percent(101)),
            "endpoints.failure_share",
        ),
        (
            endpoints(2).most_ejected(Ratio::percent(0)),
            "endpoints.most_ejected",
        ),
        (
            endpoints(2).most_ejected(Ratio::percent(101)),
            "endpoints.most_ejected",
        ),
        (
            endpoints(2).probe_timeout(Duration::ZERO),
            "endpoints.probe_timeout",
        ),
        (
            endpoints(2).cooldown(Backoff::custom(|| [ms(1)])),
            "endpoints.cooldown",
        ),
    ] {
        assert_eq!(wrong.check().unwrap_err().field(), field);
        let pipeline = Pipeline::new().endpoints(wrong);
        let call = pipeline.run(|_| ready(Ok::<_, ()>(())));
        let error = block_on(&ManualClock::new(), call).unwrap_err();
        assert!(matches!(error.cause(), Cause::Config(it) if it.field() == field));
        assert_eq!(error.attempts(), 0);
    }
    let set = endpoints(2);
    assert!(set.update(empty, Instant::now()).is_err());
    assert!(set.update(["a", "a"], Instant::now()).is_err());
    assert_eq!(set.len(), 2, "as it was");
}

#[test]
fn each_service_has_its_own_endpoints() {
    let clock = ManualClock::new();
    let (shop, other) = (Key::of("shop"), Key::of("other"));
    let own = endpoints(2);
    let given = own.clone();
    let sets = Keyed::new(Endpoints::none()).with(move |key| (key == shop).then(|| given.clone()));
    let told = Told::default();
    let pipeline = Pipeline::new()
        .retry(quick())
        .endpoints(sets)
        .observer(told.observer())
        .clock(clock.clock());
    let call = |key| {
        let run = pipeline.run(|attempt| {
            let endpoint = attempt.endpoint();
            let is_bad = endpoint.is_some_and(|it| it.index() == 0);
            ready(if is_bad { Err(()) } else { Ok(endpoint) })
        });
        block_on(&clock, run.keyed(key)).expect("one answers")
    };
    assert_eq!(call(other), None);
    while told.0.lock().unwrap().is_empty() {
        assert_eq!(call(shop).map(Id::index), Some(1));
    }
    let changes = told.take();
    assert!(changes.iter().all(|it| it.1 == Some(shop)), "{changes:?}");
}

#[test]
fn a_timeout_is_a_failure() {
    let clock = ManualClock::new();
    let set = endpoints(1);
    let pipeline = Pipeline::new()
        .timeout(ms(100))
        .endpoints(set.clone())
        .clock(clock.clock());
    block_on(&clock, pipeline.run(|_| pending::<Result<(), ()>>())).expect_err("it hangs");
    let one = &set.snapshot(clock.now())[0];
    assert_eq!((one.in_flight, one.failures > 0.0), (0, true));
}

#[test]
fn what_the_deadline_cuts_short_failed_only_if_it_took_half_of_what_there_was() {
    for (first, counts) in [(49, true), (50, true), (51, false)] {
        let clock = ManualClock::new();
        let set = endpoints(2);
        let pipeline = Pipeline::new()
            .deadline(ms(100))
            .timeout(ms(1000))
            .retry(Retry::constant(Duration::ZERO))
            .endpoints(set.clone())
            .clock(clock.clock());
        let call = pipeline.run(|attempt| {
            let length = if attempt.is_retry() { 1000 } else { first };
            let sleep = clock
                .clock()
                .sleep_until(clock.now() + ms(length), Sleeps::Other);
            async move {
                sleep.await;
                Err::<(), _>("busy")
            }
        });
        block_on(&clock, call).expect_err("cut short");
        assert_eq!(clock.elapsed(), ms(100));
        let all = set.snapshot(clock.now());
        assert!(all.iter().all(|it| it.in_flight == 0));
        let failed = all.iter().filter(|it| it.failures > 0.0).count();
        assert_eq!(failed == 2, counts, "{first} and then {}", 100 - first);
    }
}

#[test]
fn what_outcomes_mean_is_what_the_classifier_says() {
    for (kind, is_failure) in [
        (Kind::Overloaded, true),
        (Kind::TargetFault, true),
        (Kind::Transient, true),
        // Asked less, as one that fails; but see the next test.
        (Kind::RateLimited, true),
        (Kind::RequestFault, false),
    ] {
        let clock = ManualClock::new();
        let set = endpoints(1);
        let classify = by(move |outcome: Result<&(), &()>| match outcome {
            Ok(()) => Verdict::success(),
            Err(()) => Verdict::new(kind),
        });
        let pipeline = Pipeline::new().classify(classify);
        let pipeline = pipeline.endpoints(set.clone()).clock(clock.clock());
        block_on(&clock, pipeline.run(|_| ready(Err::<(), _>(())))).expect_err("as told");
        let failures = set.snapshot(clock.now())[0].failures;
        assert_eq!(failures > 0.0, is_failure, "{kind:?}");
    }
}

#[test]
fn a_quota_ejects_nobody() {
    let (set, rng, now) = (endpoints(2), Rng::seeded(1), Instant::now());
    for _ in 0..1000 {
        let pick = set.pick(&[], now, &rng).expect("two");
        let kind = if pick.id().index() == 0 {
            Kind::RateLimited
        } else {
            Kind::Success
        };
        assert_eq!(pick.record(Verdict::new(kind), ms(1), now, &rng), None);
    }
}

#[test]
fn the_choice_is_made_when_the_attempt_begins_not_when_it_stood_in_line() {
    let clock = ManualClock::new();
    let executor = Executor::new(&clock);
    let set = endpoints(2);
    let pipeline = Pipeline::new()
        .bulkhead(evenkeel::Bulkhead::new(1).queue(1))
        .endpoints(set.clone())
        .clock(clock.clock());
    let call = |pipeline: Pipeline, clock: ManualClock| async move {
        let sleep = || {
            clock
                .clock()
                .sleep_until(clock.now() + ms(100), Sleeps::Other)
        };
        let run = pipeline.run(|attempt| {
            let sleep = sleep();
            async move {
                sleep.await;
                Ok::<_, ()>(index(attempt))
            }
        });
        run.await
    };
    let first = executor.spawn(call(pipeline.clone(), clock.clone()));
    let second = executor.spawn(call(pipeline, clock.clone()));
    executor.run_until_idle();
    let under_way = |set: &Endpoints| {
        set.snapshot(clock.now())
            .iter()
            .map(|it| it.in_flight)
            .sum::<u32>()
    };
    assert_eq!(under_way(&set), 1, "who waits in line has chosen nothing");
    // While it waits the list becomes another.
    let ids = set.update(["new"], clock.now()).expect("a list");
    executor.run();
    assert!(first.take().expect("over").is_ok());
    assert_eq!(second.take(), Some(Ok(ids[0].index())));
    assert_eq!(set.len(), 1);
}

#[test]
fn a_call_that_a_gate_refused_chose_nothing() {
    let clock = ManualClock::new();
    let set = endpoints(1);
    let breaker = Breaker::new();
    let _ = breaker.force_open(clock.now());
    let pipeline = Pipeline::new()
        .breaker(breaker)
        .window(Window::new())
        .endpoints(set.clone())
        .clock(clock.clock());
    block_on(&clock, pipeline.run(|_| ready(Ok::<_, ()>(())))).expect_err("refused");
    let one = &set.snapshot(clock.now())[0];
    assert_eq!((one.in_flight, one.failures.to_bits()), (0, 0));
}

#[test]
fn a_panic_in_an_attempt_gives_the_endpoint_back() {
    let clock = ManualClock::new();
    let set = endpoints(2);
    let pipeline = Pipeline::new().endpoints(set.clone()).clock(clock.clock());
    for poll in [false, true] {
        let call = || {
            let run = pipeline.run(|_| {
                assert!(poll, "in the closure");
                async {
                    assert!(!poll, "in the future");
                    Ok::<_, ()>(())
                }
            });
            block_on(&clock, run)
        };
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).is_err());
        assert!(set.snapshot(clock.now()).iter().all(|it| it.in_flight == 0));
    }
}

#[test]
fn a_failed_call_gives_its_endpoint_back_before_its_future_is_dropped() {
    let clock = ManualClock::new();
    let set = endpoints(1);
    let pipeline = Pipeline::new()
        .deadline(ms(100))
        .timeout(ms(1000))
        .endpoints(set.clone())
        .clock(clock.clock());
    let mut call = pin!(pipeline.run(|_| pending::<Result<(), ()>>()));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(call.as_mut().poll(&mut cx).is_pending());
    assert_eq!(set.snapshot(clock.now())[0].in_flight, 1);
    clock.advance(ms(100));
    assert!(matches!(call.as_mut().poll(&mut cx), Poll::Ready(Err(_))));
    assert_eq!(set.snapshot(clock.now())[0].in_flight, 0);
}

#[test]
fn by_hand_it_is_picked_recorded_and_dropped() {
    let (set, rng, now) = (endpoints(1), Rng::default(), Instant::now());
    let pick = set.pick(&[], now, &rng).expect("one");
    assert_eq!(
        (pick.endpoint().name(), pick.is_probe(), pick.change()),
        ("0", false, None)
    );
    assert_eq!(set.get(pick.id()).as_deref(), Some(&Endpoint::named("0")));
    let other = set.pick(&[], now, &rng).expect("the same");
    assert_eq!(set.snapshot(now)[0].in_flight, 2);
    pick.record(Verdict::success(), ms(30), now, &rng);
    drop(other);
    let after = &set.snapshot(now)[0];
    assert_eq!((after.in_flight, after.latency), (0, Some(ms(30))));
    assert!(Endpoints::none().pick(&[], now, &rng).is_none());

    // No length is too long.
    for length in [Duration::MAX, Duration::ZERO, Duration::MAX] {
        let pick = set.pick(&[], now, &rng).expect("one");
        pick.record(Verdict::success(), length, now, &rng);
        assert!(set.snapshot(now)[0].latency.is_some());
    }
}

#[test]
fn a_list_of_ones_own_is_found_by_index_whatever_comes_and_goes() {
    let (set, rng) = (Endpoints::new(["a", "b", "c"]), Rng::seeded(3));
    let mut now = Instant::now();
    let mut own: HashMap<usize, String> = HashMap::new();
    for (list, round) in [
        vec!["c", "d"],
        vec!["d", "a", "e"],
        vec!["a", "b", "c", "d"],
    ]
    .iter()
    .zip(1..)
    {
        let held = set.pick(&[], now, &rng).expect("some");
        let ids = set.update(list.iter().copied(), now).expect("a list");
        own.retain(|index, _| *index == held.id().index());
        own.extend(
            ids.iter()
                .zip(list)
                .map(|(id, name)| (id.index(), (*name).to_owned())),
        );
        for _ in 0..50 {
            now += ms(round);
            let pick = set.pick(&[], now, &rng).expect("some");
            assert_eq!(own[&pick.id().index()], pick.endpoint().name());
        }
        assert!(
            ids.iter().all(|id| id.index() < 8),
            "small numbers: {ids:?}"
        );
    }
}

#[test]
fn threads_that_pick_record_drop_and_update_lose_nothing() {
    const THREADS: u64 = 4;
    let (set, start) = (endpoints(5), Instant::now());
    let done = AtomicU64::new(0);
    thread::scope(|scope| {
        for seed in 0..THREADS {
            let (set, done) = (set.clone(), &done);
            scope.spawn(move || {
                let rng = Rng::default();
                let mut draws = Rng::seeded(seed).draws();
                let mut held = Vec::new();
                for step in 0..20_000_u64 {
                    let now = start + ms(step);
                    held.push(set.pick(&[], now, &rng).expect("never empty"));
                    if draws.up_to(3) > 0 {
                        let at = draws.up_to(held.len() as u64 - 1);
                        let pick = held.swap_remove(usize::try_from(at).expect("few"));
                        let verdict = if pick.id().index() == 0 {
                            Verdict::transient()
                        } else {
                            Verdict::success()
                        };
                        match draws.up_to(9) {
                            0 => drop(pick),
                            _ => drop(pick.record(verdict, ms(draws.up_to(50)), now, &rng)),
                        }
                    }
                    if held.len() > 20 {
                        held.clear();
                    }
                    if seed == 0 && step % 100 == 0 {
                        let names =
                            (0..5).map(|it| Endpoint::named((it + step / 100 % 3).to_string()));
                        set.update(names, now).expect("a list");
                    }
                }
                drop(held);
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    assert_eq!(done.load(Ordering::Relaxed), THREADS);
    let all = set.snapshot(start + ms(20_000));
    assert_eq!(all.len(), 5);
    assert!(all.iter().all(|it| it.in_flight == 0), "{all:?}");
    // Those that went are forgotten, so there is room for five and no more.
    let ids = set
        .update((10..15).map(|it| it.to_string()), start)
        .expect("a list");
    let most = ids.iter().map(|it| it.index()).max();
    assert!(most < Some(16), "{most:?}");
}

#[cfg(feature = "tower")]
mod tower_door {
    use std::io;

    use evenkeel::http::Http;
    use http::{Request, Response, StatusCode};
    use tower::{Layer, ServiceExt, service_fn};

    use super::*;

    type Seen = Arc<Mutex<Vec<(String, Option<String>)>>>;

    /// A service that notes where requests go and what their `Host` is; host `a` is bad.
    fn ask(pipeline: &Pipeline<Http>, clock: &ManualClock, uri: &str) -> (Response<String>, Seen) {
        let seen = Seen::default();
        let notes = Arc::clone(&seen);
        let service = service_fn(move |request: Request<String>| {
            let host = request.headers().get("host");
            let host = host.map(|host| host.to_str().unwrap().to_owned());
            notes
                .lock()
                .unwrap()
                .push((request.uri().to_string(), host));
            let status = match request.uri().host() {
                Some("a") => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::OK,
            };
            let mut response = Response::new(String::new());
            *response.status_mut() = status;
            ready(Ok::<_, io::Error>(response))
        });
        let request = Request::get(uri).body(String::new()).unwrap();
        let call = pipeline.layer(service).oneshot(request);
        (block_on(clock, call).unwrap(), seen)
    }

    #[test]
    fn each_attempt_of_a_request_goes_to_its_endpoint_and_host_is_the_services() {
        let clock = ManualClock::new();
        let set = Endpoints::new(["http://a:1", "http://b:2"]);
        let pipeline = Pipeline::http().endpoints(set).clock(clock.clock());
        let mut both = 0;
        for _ in 0..20 {
            let (response, seen) = ask(&pipeline, &clock, "http://shop/x?y=z");
            assert_eq!(response.status(), 200);
            let seen = seen.lock().unwrap().clone();
            let host = Some("shop".to_owned());
            let last = ("http://b:2/x?y=z".to_owned(), host.clone());
            assert_eq!(seen.last(), Some(&last));
            if seen.len() == 2 {
                assert_eq!(seen[0], ("http://a:1/x?y=z".to_owned(), host));
                both += 1;
            }
        }
        assert!((1..=5).contains(&both), "{both}");
    }

    #[test]
    fn the_request_of_the_last_attempt_is_directed_too_and_keys_stay_the_services() {
        let clock = ManualClock::new();
        let windows = Keyed::new(Window::new());
        let pipeline = Pipeline::http()
            .retry(Retry::default().max_attempts(1))
            .window(windows.clone())
            .endpoints(Endpoints::new(["b", "c"]))
            .clock(clock.clock());
        for _ in 0..20 {
            let (_, seen) = ask(&pipeline, &clock, "http://shop/");
            let uri = &seen.lock().unwrap()[0].0;
            assert!(["http://b/", "http://c/"].contains(&uri.as_str()), "{uri}");
        }
        assert_eq!(
            windows.len(),
            1,
            "one window for the service, none per host"
        );
    }

    #[test]
    fn host_follows_where_it_is_asked_to() {
        let clock = ManualClock::new();
        let pipeline = Pipeline::http()
            .classify(Http::new().endpoint_host(true))
            .endpoints(Endpoints::new(["b"]))
            .clock(clock.clock());
        let (_, seen) = ask(&pipeline, &clock, "http://shop/");
        assert_eq!(seen.lock().unwrap()[0], ("http://b/".to_owned(), None));
    }

    /// Ready once, and answers 503.
    #[derive(Clone, Default)]
    struct ReadyOnce(Arc<AtomicU64>);

    impl tower::Service<Request<String>> for ReadyOnce {
        type Response = Response<String>;
        type Error = io::Error;
        type Future = std::future::Ready<io::Result<Response<String>>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            match self.0.fetch_add(1, Ordering::Relaxed) {
                0 => Poll::Ready(Ok(())),
                _ => Poll::Ready(Err(io::Error::other("closed"))),
            }
        }

        fn call(&mut self, _: Request<String>) -> Self::Future {
            let mut response = Response::new(String::new());
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            ready(Ok(response))
        }
    }

    #[test]
    fn readiness_that_fails_says_nothing_of_an_endpoint() {
        let clock = ManualClock::new();
        let set = Endpoints::new(["a", "b"]);
        let pipeline = Pipeline::http()
            .retry(Retry::constant(ms(1)).max_attempts(2))
            .endpoints(set.clone())
            .clock(clock.clock());
        let request = Request::get("http://shop/").body(String::new()).unwrap();
        let call = pipeline.layer(ReadyOnce::default()).oneshot(request);
        let error = block_on(&clock, call).expect_err("closed");
        assert_eq!(error.attempts(), 2);
        let all = set.snapshot(clock.now());
        let failed = all.iter().filter(|it| it.failures > 0.0).count();
        assert_eq!(failed, 1, "the one that answered 503");
        assert!(all.iter().all(|it| it.in_flight == 0));
    }
}

// --- hints -------------------------------------------------------------------------------------

/// Ten hosts of which the first so many are closed, and answer with `Retry-After: 120`. How many of so
/// many calls, one each `gap`, fail, and how long the slowest takes.
#[cfg(feature = "tower")]
fn hinted(closed: u32, gap: Duration, calls: u32) -> (u32, Duration) {
    let clock = ManualClock::new();
    let pipeline = Pipeline::http()
        .endpoints(Endpoints::new(
            (0..10).map(|host| format!("http://h{host}:1")),
        ))
        .rng(Rng::seeded(1))
        .clock(clock.clock());
    let service = service_fn(move |request: Request<String>| {
        let host = request.uri().host().and_then(|it| it[1..].parse().ok());
        let mut response = Response::new(String::new());
        if host.is_some_and(|host: u32| host < closed) {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            let hint = HeaderValue::from_static("120");
            response.headers_mut().insert("retry-after", hint);
        }
        ready(Ok::<_, std::io::Error>(response))
    });
    let (mut failed, mut slowest) = (0, Duration::ZERO);
    for _ in 0..calls {
        clock.advance(gap);
        let (began, request) = (clock.now(), Request::get("http://shop/"));
        let call = pipeline.layer(service);
        let call = call.oneshot(request.body(String::new()).unwrap());
        let went_well = block_on(&clock, call).is_ok_and(|it| it.status() == 200);
        failed += u32::from(!went_well);
        slowest = slowest.max(clock.now() - began);
    }
    (failed, slowest)
}

#[cfg(feature = "tower")]
#[test]
fn what_one_host_asks_for_silences_nobody_but_itself() {
    for gap in [20, 100, 300, 600, 1000, 3000].map(Duration::from_millis) {
        let (failed, slowest) = hinted(1, gap, 300);
        assert_eq!(failed, 0, "a call each {gap:?}");
        assert!(slowest < Duration::from_secs(3), "{slowest:?}");
    }
}

#[test]
fn what_all_hosts_ask_for_is_asked_by_the_service() {
    let clock = ManualClock::new();
    let window = Window::new();
    let pipeline = Pipeline::http()
        .deadline(Duration::from_secs(10))
        .window(window.clone())
        .endpoints(Endpoints::numbered(10))
        .rng(Rng::seeded(1))
        .idempotent(true)
        .clock(clock.clock())
        .classify(by(|_: Result<&(), &()>| {
            Verdict::new(Kind::Overloaded).hint(Hint::After(Duration::from_secs(120)))
        }));
    let asked = Cell::new(0);
    for _ in 0..20 {
        clock.advance(Duration::from_secs(1));
        let call = pipeline.run(|_| {
            asked.set(asked.get() + 1);
            ready(Err::<(), _>(()))
        });
        let _ = block_on(&clock, call).unwrap_err();
    }
    // The third of them speaks for all.
    assert_eq!(asked.get(), 3);
    assert!(window.snapshot().quiet_until.is_some());
}

#[test]
fn what_is_no_address_is_refused_and_not_taken_for_another() {
    for text in [
        "10.0.0.1:99999",
        "http://10.0.0.1:99999",
        "10.0.0.1:",
        "tcp://a:1",
        "10.0.0.1:8080/",
        "10.0.0.1:8080/api",
        "http:/a",
    ] {
        let error = Endpoints::new([text]).check().unwrap_err();
        assert_eq!(error.field(), "endpoints.list", "{text}");
    }
    for text in [
        "10.0.0.1:0",
        "[::1]:65535",
        "https://a",
        "http://a:1/",
        "replica 1",
    ] {
        assert_eq!(Endpoints::new([text]).check(), Ok(()), "{text}");
    }
}
