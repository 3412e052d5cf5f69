//! What a recorder makes of events: the edges of an incident, sums that balance, bounds, and renderings that
//! are safe.
#![cfg(feature = "testing")]

use std::time::Duration;

use evenkeel::budget::Ratio;
use evenkeel::chaos::Fault;
use evenkeel::diagnosis::{
    Cause, Diagnosis, Origin, Persistence, Signature, Signatures, Symptoms, Test,
};
use evenkeel::error::Reason;
use evenkeel::event::Observer;
use evenkeel::http::server_hint;
use evenkeel::incident::{Ending, Outlook, Recorder, Report};
use evenkeel::report::Stop;
use evenkeel::testing::{ManualClock, block_on};
use evenkeel::verdict::{self, Circumstances, Classify, Hint, Kind, Label, Verdict};
use evenkeel::{Breaker, Budget, Bulkhead, Chaos, Event, Key, Keyed, Pipeline, Retry, Rng};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use proptest::prelude::*;
use serde_json::Value;

const SECOND: Duration = Duration::from_secs(1);

/// A recorder, and calls of a keyed pipeline without retries that it listens to.
struct Stage {
    clock: ManualClock,
    recorder: Recorder,
    pipeline: Pipeline<Reading>,
}

type Reading = verdict::By<fn(Result<&(), &Verdict>) -> Verdict>;

#[test]
fn one_bad_outcome_less_is_no_incident_and_the_last_one_is() {
    let stage = Stage::new(Recorder::new());
    for number in 1..=4 {
        stage.fails("a");
        stage.clock.advance(SECOND / 10);
        assert!(stage.recorder.latest().is_none(), "{number}");
    }
    stage.fails("a");
    let report = stage.recorder.latest().expect("five");
    assert_eq!((report.failures(), report.gave_up()), (5, 5));
    assert_eq!((report.end, report.ending), (None, None));
}

#[test]
fn one_success_more_keeps_the_share_below_and_there_is_no_incident() {
    for (successes, is_one) in [(20, true), (21, false)] {
        let stage = Stage::new(Recorder::new());
        (0..successes).for_each(|_| stage.succeeds("a"));
        (0..5).for_each(|_| stage.fails("a"));
        assert_eq!(stage.recorder.latest().is_some(), is_one, "{successes}");
    }
}

#[test]
fn what_left_the_window_counts_no_more() {
    for (later, is_one) in [(SECOND * 9, true), (SECOND * 10, false)] {
        let stage = Stage::new(Recorder::new());
        (0..4).for_each(|_| stage.fails("a"));
        stage.clock.advance(later);
        stage.fails("a");
        assert_eq!(stage.recorder.latest().is_some(), is_one, "{later:?}");
    }
}

#[test]
fn a_large_service_that_is_well_does_not_hide_a_small_one_that_is_down() {
    let stage = Stage::new(Recorder::new());
    for _ in 0..5 {
        (0..100).for_each(|_| stage.succeeds("a"));
        stage.fails("b");
    }
    let report = stage.recorder.latest().expect("b is down");
    assert_eq!(report.affected[0].name, "b");
    assert!(
        report
            .markdown()
            .starts_with("# Incident 1: unknown cause at b\n")
    );
}

#[test]
fn it_is_over_when_it_was_quiet_for_long_enough_and_a_call_succeeded() {
    let stage = Stage::new(Recorder::new());
    let began = stage.clock.clock().wall();
    (0..5).for_each(|_| stage.fails("a"));
    stage.clock.advance(SECOND * 2);
    stage.fails("a");
    let last = stage.clock.clock().wall();
    stage.clock.advance(SECOND * 5);
    stage.succeeds("a");

    stage.clock.advance(just_before(SECOND * 25));
    let report = stage.recorder.latest().unwrap();
    assert_eq!(
        (report.end, report.well_again),
        (None, Some(last + SECOND * 5))
    );
    stage.clock.advance(Duration::from_nanos(1));
    let report = stage.recorder.latest().unwrap();
    assert_eq!((report.begin, report.end), (began, Some(last)));
    assert_eq!(report.ending, Some(Ending::Recovered));
    assert_eq!(report.length, SECOND * 2);
    // What came after it is no part of it.
    assert_eq!((report.failures(), report.calls()), (6, 6));
}

#[test]
fn where_nobody_calls_any_more_it_is_over_after_ten_times_as_long() {
    let stage = Stage::new(Recorder::new());
    stage.succeeds("a");
    (0..5).for_each(|_| stage.fails("a"));
    stage.clock.advance(just_before(SECOND * 300));
    assert_eq!(stage.recorder.latest().unwrap().ending, None);
    stage.clock.advance(Duration::from_nanos(1));
    assert_eq!(
        stage.recorder.latest().unwrap().ending,
        Some(Ending::Silent)
    );
}

#[test]
fn where_nobody_tells_of_successes_quiet_is_enough() {
    let stage = Stage::new(Recorder::new());
    (0..5).for_each(|_| stage.fails("a"));
    stage.clock.advance(just_before(SECOND * 30));
    assert_eq!(stage.recorder.latest().unwrap().ending, None);
    stage.clock.advance(Duration::from_nanos(1));
    assert_eq!(
        stage.recorder.latest().unwrap().ending,
        Some(Ending::Untold)
    );
}

#[test]
fn through_a_closure_it_hears_of_failures_only_and_quiet_is_enough_as_well() {
    let clock = ManualClock::new();
    let recorder = Recorder::new().clock(clock.clock());
    let told = recorder.clone();
    let pipeline = Pipeline::new()
        .retry(Retry::constant(Duration::ZERO).max_attempts(2))
        .clock(clock.clock())
        .observer(move |event: &Event| told.observe(event));
    let works_from = |from: u32| {
        let call =
            pipeline.run(|it| async move { if it.number() >= from { Ok(()) } else { Err(()) } });
        let _ = block_on(&clock, call);
    };
    (0..100).for_each(|_| works_from(1));
    (0..5).for_each(|_| works_from(2)); // told, though they ended well
    let report = recorder.latest().expect("the number decides");
    assert_eq!((report.failures(), report.calls()), (5, 4));
    clock.advance(just_before(SECOND * 30));
    works_from(3);
    assert_eq!(recorder.latest().unwrap().failures(), 7);
    clock.advance(SECOND * 30);
    let report = recorder.latest().unwrap();
    assert_eq!((report.ending, report.calls()), (Some(Ending::Untold), 6));
}

#[test]
fn an_attempt_that_the_deadline_cut_short_is_a_failure_of_its_own() {
    let clock = ManualClock::new();
    let recorder = Recorder::new().clock(clock.clock());
    let pipeline = Pipeline::new()
        .deadline(SECOND)
        .clock(clock.clock())
        .observer(recorder.clone());
    for _ in 0..5 {
        let _ = block_on(
            &clock,
            pipeline.run(|_| std::future::pending::<Result<(), ()>>()),
        );
    }
    let report = recorder.latest().expect("an incident");
    assert_eq!(
        report.seen,
        [(Cause::OwnTimeout, Label::Name("deadline"), 5)]
    );
    assert_eq!(
        (report.out_of_time, report.gave_up(), report.first_attempts),
        (5, 5, 5)
    );
    assert!(report.markdown().contains("Gave up: deadline passed 5."));
    balances(&report);
}

#[test]
fn a_call_that_succeeds_after_retries_or_slowly_is_told_apart() {
    let clock = ManualClock::new();
    let recorder = Recorder::new().clock(clock.clock()).least(1);
    let pipeline = Pipeline::new()
        .retry(Retry::constant(SECOND).max_attempts(2))
        .clock(clock.clock())
        .observer(recorder.clone());
    for (fails, waits) in [(1, 0), (0, 999), (0, 1000), (1, 0), (2, 0)] {
        let sleeps = clock.clock();
        let call = pipeline.run(|it| {
            let until = sleeps.now() + Duration::from_millis(waits);
            let sleep = sleeps.sleep_until(until, evenkeel::clock::Why::Other);
            async move {
                sleep.await;
                if it.number() > fails { Ok(()) } else { Err(()) }
            }
        });
        let _ = block_on(&clock, call);
    }
    let report = recorder.latest().expect("an incident");
    let it = &report.affected[0];
    assert_eq!((it.name.as_str(), it.calls(), it.gave_up), ("no key", 5, 1));
    assert_eq!((it.succeeded, it.succeeded_later, it.slow), (4, 2, 3));
    assert_eq!(
        (report.first_attempts, report.retries, report.retries_failed),
        (5, 3, 1)
    );
}

#[test]
fn a_bad_outcome_before_the_quiet_is_over_makes_it_one_incident_and_one_after_it_two() {
    for (pause, incidents) in [(29, 1), (31, 2)] {
        let stage = Stage::new(Recorder::new());
        (0..5).for_each(|_| stage.fails("a"));
        stage.succeeds("a");
        stage.clock.advance(SECOND * pause);
        (0..5).for_each(|_| stage.fails("a"));
        let reports = stage.recorder.incidents();
        assert_eq!(reports.len(), incidents, "{pause}");
        assert_eq!(reports.iter().map(Report::failures).sum::<u64>(), 10);
        let numbers: Vec<_> = reports.iter().map(|it| it.number).collect();
        assert_eq!(numbers, [1, 2][..incidents]);
    }
}

#[test]
fn only_so_many_incidents_are_kept_and_their_numbers_go_on() {
    let stage = Stage::new(Recorder::new().kept(2));
    for _ in 0..5 {
        (0..5).for_each(|_| stage.fails("a"));
        stage.clock.advance(SECOND * 60);
    }
    let numbers: Vec<_> = stage
        .recorder
        .incidents()
        .iter()
        .map(|it| it.number)
        .collect();
    assert_eq!(numbers, [4, 5]);
}

#[test]
fn the_requests_own_faults_are_answers() {
    let stage = Stage::new(Recorder::new());
    let not_found = Verdict::new(Kind::RequestFault).label(Label::Status(404));
    (0..50).for_each(|_| stage.call("a", Err(not_found)));
    assert!(stage.recorder.latest().is_none());
    (0..13).for_each(|_| stage.fails("a"));
    let report = stage.recorder.latest().expect("13 of 63");
    let a = &report.affected[0];
    assert_eq!((a.failures, a.gave_up, a.request_faults), (13, 13, 50));
    assert_eq!(report.stops, [(Stop::NoRetryPolicy, 13)]);
}

#[test]
fn the_report_says_what_the_client_did() {
    let clock = ManualClock::new();
    let recorder = Recorder::new()
        .clock(clock.clock())
        .named(Key::of("a"), "a");
    let retry = Retry::constant(SECOND / 4).max_attempts(3);
    let pipeline = Pipeline::new()
        .retry(retry.budget(Budget::new(Ratio::percent(50)).capacity(10)))
        .breaker(Keyed::new(opens_after(9)))
        .classify(verdict::by(reading as fn(Result<&(), &Verdict>) -> Verdict))
        .clock(clock.clock())
        .rng(Rng::seeded(1))
        .observer(recorder.clone());
    let overload = Verdict::new(Kind::Overloaded).label(Label::Status(503));
    let hint = overload.hint(Hint::After(SECOND));
    for verdict in [overload, overload, hint, overload] {
        let call = pipeline.run(|_| async move { Err::<(), _>(verdict) });
        let _ = block_on(&clock, call.keyed(Key::of("a")));
    }
    let report = recorder.latest().expect("an incident");
    assert_eq!(
        (report.first_attempts, report.retries, report.retries_failed),
        (3, 6, 6)
    );
    assert_eq!(report.failures(), 9);
    assert_eq!(report.extra_load(), Some(3.0));
    assert_eq!(report.seen, [(Cause::Overload, Label::Status(503), 9)]);
    assert_eq!((report.hints, report.longest_hint), (3, SECOND));
    assert_eq!(report.refusals, [(Reason::BreakerOpen, 1)]);
    let opened = &report.changes[0];
    assert_eq!((opened.name.as_str(), report.changes.len()), ("a", 1));
    assert!(
        opened.words().starts_with("breaker closed → open"),
        "{}",
        opened.words()
    );
    assert!(report.least_budget.is_some_and(|left| left < 0.6));
    let waits: u64 = report.waits.iter().map(|(_, times, _)| times).sum();
    assert_eq!(waits, 6);
    let last = report.begin + SECOND * 4 + SECOND; // four waits of its own, one hint, and the second
    assert!(
        report
            .back_at
            .is_some_and(|at| at > report.begin + SECOND && at <= last)
    );
}

#[test]
fn a_change_that_came_with_the_first_failures_is_part_of_it_and_an_old_one_is_not() {
    let stage = Stage::new(Recorder::new());
    stage.recorder.observe(&change("a"));
    stage.clock.advance(SECOND);
    (0..4).for_each(|_| stage.fails("a"));
    stage.recorder.observe(&change("b"));
    stage.clock.advance(SECOND);
    stage.fails("a");
    let report = stage.recorder.latest().expect("an incident");
    let names: Vec<_> = report.changes.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["b"]);
    assert_eq!(report.changes[0].at, report.begin);
}

#[test]
fn a_drill_is_named_as_one() {
    let clock = ManualClock::new();
    let recorder = Recorder::new().clock(clock.clock());
    let pipeline = Pipeline::new()
        .chaos(Chaos::new().sometimes(Ratio::percent(100), Fault::Reset))
        .clock(clock.clock())
        .observer(recorder.clone());
    for _ in 0..5 {
        let _ = block_on(&clock, pipeline.run(|_| async { Ok::<_, ()>(()) }));
    }
    let report = recorder.latest().expect("an incident");
    assert_eq!(
        (report.injected, report.causes[0].0),
        (5, Cause::ConnectionFailure)
    );
    assert!(
        report
            .markdown()
            .contains("It was a drill, at least in part: 5 faults injected.")
    );
}

#[test]
fn the_cause_that_leads_changes_with_what_is_seen() {
    let stage = Stage::new(Recorder::new());
    for (status, seconds) in [(502, 5), (503, 10), (504, 5)] {
        for _ in 0..seconds {
            let failure = Verdict::transient().label(Label::Status(status));
            (0..4).for_each(|_| stage.call("a", Err(failure)));
            stage.call("a", Err(Verdict::transient()));
            stage.clock.advance(SECOND);
        }
    }
    let report = stage.recorder.latest().unwrap();
    let phases: Vec<_> = report
        .phases
        .iter()
        .map(|it| (it.cause, it.failures, it.of))
        .collect();
    assert_eq!(
        phases,
        [
            (Cause::BadUpstreamAnswer, 20, 25),
            (Cause::Overload, 40, 50),
            (Cause::GatewayTimeout, 20, 25)
        ]
    );
    assert_eq!(report.phases[1].from, report.begin + SECOND * 5);
}

#[test]
fn the_report_says_who_said_so_for_how_long_and_by_which_evidence() {
    let stage = Diagnosed::new();
    for _ in 0..5 {
        (0..4).for_each(|_| stage.fails(503, &[("x-envoy-overloaded", "true")]));
        stage.clock.advance(SECOND);
    }
    let refused = &[("proxy-status", "edge; error=connection_refused")];
    for _ in 0..5 {
        (0..4).for_each(|_| stage.fails(502, refused));
        stage.fails(404, &[]);
        stage.clock.advance(SECOND);
    }
    let report = stage.recorder.latest().expect("an incident");
    let [first, second] = &report.findings[..] else {
        panic!("{:?}", report.findings);
    };
    assert_eq!((first.cause, first.failures), (Cause::Overload, 20));
    assert_eq!(first.said_by, [(Origin::Proxy("envoy"), 20)]);
    assert_eq!(first.outlook, Outlook::Momentary);
    let alone = Failure::new(503, &[("x-envoy-overloaded", "true")]).diagnosis();
    assert_eq!(first.confidence, Some(alone.confidence()));
    let clue = first.evidence[0];
    assert_eq!((clue.cause, clue.times), (Cause::Overload, 20));
    assert_eq!(clue.name, alone.evidence()[0].name());
    assert!(first.evidence.len() <= 4);
    assert_eq!(second.cause, Cause::UpstreamUnavailable);
    let [from, to] = &report.phases[..] else {
        panic!("{:?}", report.phases);
    };
    assert_eq!(
        (from.cause, from.origin, from.outlook),
        (Cause::Overload, Origin::Proxy("envoy"), Outlook::Momentary)
    );
    assert_eq!((to.cause, to.failures), (Cause::UpstreamUnavailable, 20));
    balances(&report);

    let markdown = report.markdown();
    assert!(markdown.contains("50 % of them by overload, said by envoy, momentary."));
    assert!(markdown.contains(&format!("20 times (+{} overload)", clue.weight)));
    for cause in [Cause::Overload, Cause::UpstreamUnavailable] {
        let check = format!("- {cause}: {}", cause.checks()[0]);
        assert!(markdown.contains(&check), "{check}");
        let on_page = cause.checks()[0].replace('\'', "&#39;");
        assert!(markdown.contains(cause.advice()) && report.page().contains(&on_page));
    }
    let json: Value = serde_json::from_str(&report.json()).expect("JSON");
    assert_eq!(json["findings"][0]["said_by"]["envoy"], 20);
    assert_eq!(json["findings"][0]["evidence"][0]["name"], clue.name);
    assert_eq!(json["phases"][0]["lasts"], "momentary");
    assert_eq!(json["causes"]["upstream_unavailable"], 20);
}

#[test]
fn an_announced_end_is_in_the_report_as_a_moment() {
    let stage = Diagnosed::new();
    for seconds in [600, 598, 596, 594, 592] {
        stage.fails(503, &[("retry-after", &seconds.to_string())]);
        stage.clock.advance(SECOND * 2);
    }
    let report = stage.recorder.latest().expect("an incident");
    let back_at = report.begin + SECOND * 600;
    assert_eq!(report.findings[0].outlook, Outlook::Until(back_at));
    assert_eq!(report.phases[0].outlook, Outlook::Until(back_at));
    assert!(report.markdown().contains("back at 00:10:00"));
    let json: Value = serde_json::from_str(&report.json()).expect("JSON");
    assert_eq!(json["findings"][0]["lasts"], "announced");
    assert_eq!(json["findings"][0]["back_at"], "2026-01-01T00:10:00Z");
}

#[test]
fn what_turns_out_to_last_is_a_phase_of_its_own_and_few_failures_are_none() {
    const PASSES: (&str, &str) = ("x-overload", "passes");
    const STAYS: (&str, &str) = ("x-overload", "stays");
    for (stays, passes, outlooks) in [
        (3, 2, &[Outlook::Momentary, Outlook::Persistent][..]),
        (3, 3, &[Outlook::Momentary]),
        (2, 1, &[Outlook::Momentary]),
    ] {
        let stage = Diagnosed::new();
        (0..5).for_each(|_| stage.fails(503, &[PASSES]));
        stage.clock.advance(SECOND);
        (0..stays).for_each(|_| stage.fails(503, &[STAYS]));
        (0..passes).for_each(|_| stage.fails(503, &[PASSES]));
        let report = stage.recorder.latest().expect("an incident");
        let told: Vec<_> = report.phases.iter().map(|it| it.outlook).collect();
        assert_eq!(told, outlooks, "{stays} {passes}");
        balances(&report);
    }
}

#[test]
fn a_cause_that_leads_with_few_failures_for_long_is_a_phase_and_one_that_does_now_and_then_is_none()
{
    let unavailable = Verdict::transient().label(Label::Status(502));
    for (statuses, phases) in [
        (&[504, 504, 504, 504][..], 2),
        (&[504, 504, 502, 504, 504], 1),
        (&[504, 504], 1),
        (&[504, 503, 504, 503], 1),
    ] {
        let stage = Stage::new(Recorder::new());
        (0..5).for_each(|_| stage.call("a", Err(unavailable)));
        for status in statuses {
            stage.clock.advance(SECOND);
            let failure = Verdict::transient().label(Label::Status(*status));
            stage.call("a", Err(failure));
        }
        let report = stage.recorder.latest().expect("an incident");
        assert_eq!(report.phases.len(), phases, "{statuses:?}");
        if let [_, last] = &report.phases[..] {
            assert_eq!((last.cause, last.failures), (Cause::GatewayTimeout, 4));
            assert_eq!(last.from, report.begin + SECOND);
        }
        balances(&report);
    }
}

#[test]
fn a_last_word_that_says_when_it_is_back_is_a_phase_and_one_in_between_is_none() {
    let overloaded = &[("x-envoy-overloaded", "true")][..];
    for (last, phases) in [
        (&[&[("retry-after", "900")][..]][..], 2),
        (&[&[]], 1),
        (&[&[("retry-after", "900")], overloaded], 1),
    ] {
        let stage = Diagnosed::new();
        (0..5).for_each(|_| stage.fails(503, overloaded));
        for headers in last {
            stage.clock.advance(SECOND);
            stage.fails(503, headers);
        }
        let report = stage.recorder.latest().expect("an incident");
        assert_eq!(report.phases.len(), phases, "{last:?}");
        if let [_, last] = &report.phases[..] {
            assert!(matches!(last.outlook, Outlook::Until(_)));
        }
        balances(&report);
    }
}

#[test]
fn a_flood_of_evidence_is_bounded() {
    let stage = Diagnosed::new();
    for number in 0..200_usize {
        let cause = Cause::ALL[number % Cause::ALL.len()];
        let says: &'static [(Cause, i8)] = vec![(cause, 30)].leak();
        let name = format!("row {number}").leak();
        let row = Signature::new(name, "a test")
            .on(&[599])
            .by(Origin::Proxy(name))
            .says(says);
        let symptoms = Signatures::new().keep(|_| false).with(row);
        stage.call(Failure {
            table: symptoms,
            ..Failure::new(599, &[])
        });
        stage.clock.advance(SECOND / 20);
    }
    let report = stage.recorder.latest().expect("an incident");
    assert!(report.findings.len() <= Cause::ALL.len());
    let said: usize = report.findings.iter().map(|it| it.said_by.len()).sum();
    assert!(said <= 16, "{said}");
    assert!(report.findings.iter().all(|it| it.evidence.len() <= 4));
    assert_eq!(report.failures(), 200);
    balances(&report);
}

#[test]
fn names_of_signatures_mean_nothing_to_any_reader() {
    const HOSTILE: &str = "<script>|`*_[a](b)\"";
    const ROW: Signature = Signature::new(HOSTILE, "a test")
        .on(&[599])
        .by(Origin::Proxy(HOSTILE))
        .says(&[(Cause::Overload, 30)]);
    let stage = Diagnosed::new();
    for (seconds, status) in [(0, 599), (1, 502)] {
        stage.clock.advance(SECOND * seconds);
        (0..5).for_each(|_| {
            stage.call(Failure {
                table: Signatures::new().with(ROW),
                ..Failure::new(status, &[])
            });
        });
    }
    let report = stage.recorder.latest().expect("an incident");
    assert_eq!(report.phases[0].origin, Origin::Proxy(HOSTILE));
    let (markdown, page) = (report.markdown(), report.page());
    assert!(!page.contains("<script") && page.contains("&lt;script&gt;"));
    assert!(!markdown.contains("<script") && !markdown.contains("_[a](b)"));
    let json: Value = serde_json::from_str(&report.json()).expect("JSON");
    assert_eq!(json["findings"][0]["evidence"][0]["name"], HOSTILE);
}

#[test]
fn a_flood_of_keys_statuses_and_changes_is_bounded_and_nothing_is_lost() {
    let stage = Stage::new(Recorder::new());
    for name in 0..1000 {
        stage
            .recorder
            .name(Key::of(name), format!("service {name}"));
    }
    for name in 0..2000_u32 {
        let status = 500 + u16::try_from(name % 99).unwrap();
        let failure = Verdict::transient().label(Label::Status(status));
        let call = stage.pipeline.run(|_| async move { Err(failure) });
        let _ = block_on(&stage.clock, call.keyed(Key::of(name)));
        // A breaker per key that opens at once, and a long time.
        stage.recorder.observe(&change(name));
        stage.clock.advance(SECOND * (1 + name / 100));
    }
    let report = stage.recorder.latest().unwrap();
    assert!(report.affected.len() <= 66);
    assert!(report.seen.len() <= 24 && report.timeline.len() <= 120);
    assert_eq!(report.changes.len(), 64);
    assert!(report.changes_left_out > 1500);
    let others = report
        .affected
        .iter()
        .find(|it| it.name == "others")
        .unwrap();
    assert!(others.failures > 1800);
    balances(&report);
}

#[test]
fn hostile_names_mean_nothing_to_any_reader() {
    let hostile = "</title><script>alert('x')</script>\"|`*_[a](javascript:b)\n# \u{202e}\u{0}&";
    let clock = ManualClock::new();
    let recorder = Recorder::new()
        .clock(clock.clock())
        .named(Key::of("a"), hostile);
    let stage = Stage::with(clock, recorder);
    (0..5).for_each(|_| stage.fails("a"));
    stage.recorder.observe(&change("a"));
    let report = stage.recorder.latest().unwrap();

    let page = report.page();
    assert!(!page.contains("<script") && !page.contains("</title><script"));
    assert_eq!(page.matches("<title>Incident 1").count(), 1);
    assert!(!page.contains(['\u{202e}', '\u{0}']));
    let markdown = report.markdown();
    for active in ["<script", "*_", "`*", "[a]", "](", "\n# \u{20}", "\"|"] {
        assert!(!markdown.contains(active), "{active} in {markdown}");
    }
    let json: Value = serde_json::from_str(&report.json()).expect("JSON");
    let name = json["affected"][0]["service"].as_str().expect("a name");
    assert!(name.starts_with("</title><script>"));
    assert!(!report.json().contains('<'));
}

#[test]
fn long_names_are_cut_and_a_key_keeps_its_first_name() {
    let recorder = Recorder::new()
        .named(Key::of("a"), "ä".repeat(200))
        .named(Key::of("a"), "b");
    let clock = ManualClock::new();
    let stage = Stage::with(clock.clone(), recorder.clock(clock.clock()));
    (0..5).for_each(|_| stage.fails("a"));
    let report = stage.recorder.latest().unwrap();
    assert_eq!(report.affected[0].name, "ä".repeat(80));
}

#[test]
fn the_page_needs_nothing_else_and_the_json_says_what_the_report_says() {
    let stage = Stage::new(Recorder::new());
    (0..7).for_each(|_| stage.fails("a"));
    stage.clock.advance(SECOND);
    stage.succeeds("b");
    stage.fails("a");
    let report = stage.recorder.latest().unwrap();
    let page = report.page();
    for outside in ["http:", "https:", "src=", "@import", "<script", "<link"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(
        page.contains("<svg")
            && page.contains("prefers-color-scheme: dark")
            && page.contains("@media print")
    );
    let json: Value = serde_json::from_str(&report.json()).expect("JSON");
    assert_eq!(json["failures"], 8);
    assert_eq!(json["begin"], "2026-01-01T00:00:00Z");
    assert_eq!(json["end"], Value::Null);
    assert_eq!(json["causes"]["unknown"], 8);
    assert_eq!(json["affected"].as_array().map(Vec::len), Some(2));
    assert_eq!(json["timeline"].as_array().map(Vec::len), Some(2));
    assert!(report.markdown().lines().count() < 60);
}

#[test]
fn settings_that_make_no_sense_are_refused_and_harmless() {
    let zero = Recorder::new()
        .window(Duration::ZERO)
        .quiet_for(Duration::ZERO)
        .kept(0)
        .least(0);
    assert_eq!(zero.check().unwrap_err().field(), "incident.least");
    let clock = ManualClock::new();
    let stage = Stage::with(clock.clone(), zero.clock(clock.clock()));
    (0..50).for_each(|_| {
        stage.fails("a");
        stage.clock.advance(SECOND);
    });
    let _ = stage
        .recorder
        .latest()
        .map(|it| (it.page(), it.json(), it.markdown()));
    let long = Recorder::new()
        .window(Duration::MAX)
        .quiet_for(Duration::MAX);
    assert!(long.check().is_ok());
    let clock = ManualClock::new();
    let stage = Stage::with(clock.clone(), long.clock(clock.clock()));
    (0..50).for_each(|_| stage.fails("a"));
    assert!(
        stage
            .recorder
            .latest()
            .is_some_and(|it| it.page().contains("<svg"))
    );
}

#[test]
fn a_hint_of_forever_is_harmless() {
    let stage = Stage::new(Recorder::new());
    let verdict = Verdict::new(Kind::Overloaded).hint(Hint::After(Duration::MAX));
    (0..5).for_each(|_| stage.call("a", Err(verdict)));
    let report = stage.recorder.latest().unwrap();
    assert_eq!((report.hints, report.back_at), (5, None));
    let _ = (report.page(), report.markdown());
    serde_json::from_str::<Value>(&report.json()).expect("JSON");
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Call(u8, u8),
    Change(u8),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..4_u8, 0..8_u8).prop_map(|(key, what)| Step::Call(key, what)),
        1 => (0..4_u8).prop_map(Step::Change),
        3 => (0..3000_u64).prop_map(Step::Wait),
        1 => (0..600_000_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_sums_balance_and_incidents_follow_each_other(
        steps in proptest::collection::vec(step(), 0..300),
        share in 1..100_u16,
        least in 1..8_u32,
    ) {
        let stage = Stage::new(Recorder::new().share(Ratio::percent(share)).least(least).kept(1000));
        let mut bad = 0;
        for step in steps {
            match step {
                Step::Call(key, 0 | 1) => stage.succeeds(["a", "b", "c", "d"][usize::from(key)]),
                Step::Call(key, what) => {
                    let status = [200, 200, 404, 500, 502, 503, 504, 429][usize::from(what)];
                    let kind = if what == 2 { Kind::RequestFault } else { Kind::Transient };
                    bad += u64::from(what > 2);
                    let failure = Verdict::new(kind).label(Label::Status(status));
                    stage.call(["a", "b", "c", "d"][usize::from(key)], Err(failure));
                }
                Step::Change(key) => stage.recorder.observe(&change(["a", "b", "c", "d"][usize::from(key)])),
                Step::Wait(millis) => stage.clock.advance(Duration::from_millis(millis)),
            }
        }
        let reports = stage.recorder.incidents();
        prop_assert!(reports.iter().map(Report::failures).sum::<u64>() <= bad);
        for report in &reports {
            balances(report);
            prop_assert!(report.failures() + report.refused() >= u64::from(least));
            serde_json::from_str::<Value>(&report.json()).expect("JSON");
        }
        for pair in reports.windows(2) {
            let end = pair[0].end.expect("over");
            prop_assert!(pair[0].begin <= end && end <= pair[1].begin);
            prop_assert_eq!(pair[0].number + 1, pair[1].number);
        }
    }
}

/// What is counted in one way is what is counted in another.
fn balances(report: &Report) {
    let sum =
        |of: fn(&evenkeel::incident::Affected) -> u64| report.affected.iter().map(of).sum::<u64>();
    let causes: u64 = report.causes.iter().map(|it| it.1).sum();
    let seen: u64 = report.seen.iter().map(|it| it.2).sum();
    assert_eq!(causes + report.seen_otherwise, report.failures());
    assert_eq!(seen + report.seen_otherwise, report.failures());
    let found = report.findings.iter().map(|it| (it.cause, it.failures));
    assert_eq!(found.collect::<Vec<_>>(), report.causes);
    for it in &report.findings {
        assert!(it.said_by.iter().map(|it| it.1).sum::<u64>() <= it.failures);
        assert!(it.evidence.iter().all(|clue| clue.times <= it.failures));
    }
    let stops: u64 = report.stops.iter().map(|it| it.1).sum();
    assert_eq!(stops + report.out_of_time, report.gave_up());
    assert_eq!(
        report.refusals.iter().map(|it| it.1).sum::<u64>(),
        report.refused()
    );
    // Every attempt failed, was answered with a fault of the request's, or succeeded.
    let attempts = report.failures() + sum(|it| it.request_faults) + sum(|it| it.succeeded);
    assert_eq!(report.first_attempts + report.retries, attempts);
    // The timeline has the incident, and a little before and after.
    let moments = report.timeline.iter();
    let plotted: u64 = moments
        .map(|it| it.failed_otherwise + it.failures.iter().map(|it| it.1).sum::<u64>())
        .sum();
    assert!(
        plotted >= report.failures(),
        "{plotted} of {}",
        report.failures()
    );
    let led: u64 = report.phases.iter().map(|it| it.of).sum();
    assert!(led >= report.failures() && report.timeline.len() <= 120);
}

/// A recorder, and calls that it listens to whose failures are diagnosed.
struct Diagnosed {
    clock: ManualClock,
    recorder: Recorder,
    pipeline: Pipeline<Diagnosing>,
}

/// An answer, and the table that it is diagnosed by.
struct Failure {
    status: StatusCode,
    headers: HeaderMap,
    table: Signatures,
}

struct Diagnosing;

impl Classify<(), Failure> for Diagnosing {
    fn classify(&self, outcome: Result<&(), &Failure>) -> Verdict {
        let Err(failure) = outcome else {
            return Verdict::success();
        };
        let verdict = match failure.status {
            StatusCode::NOT_FOUND => Verdict::new(Kind::RequestFault),
            _ => Verdict::transient(),
        };
        let verdict = verdict.label(Label::Status(failure.status.as_u16()));
        match server_hint(failure.status, &failure.headers) {
            Some(hint) => verdict.hint(hint),
            None => verdict,
        }
    }

    fn diagnose(&self, outcome: Result<&(), &Failure>, _: Circumstances) -> Option<Diagnosis> {
        outcome.err().map(Failure::diagnosis)
    }
}

impl Failure {
    fn new(status: u16, headers: &[(&'static str, &str)]) -> Self {
        let mut table = Signatures::new();
        for (value, persistence) in [
            ("passes", Persistence::Momentary),
            ("stays", Persistence::Persistent),
        ] {
            let is: &'static [Test] = vec![Test::HeaderIs("x-overload", value)].leak();
            let row = Signature::new(value, "a test").on(&[503]).when(is);
            table = table.with(row.says(&[(Cause::Overload, 30)]).lasts(persistence));
        }
        let headers = headers.iter();
        let headers = headers.map(|(name, value)| {
            let value = HeaderValue::from_str(value).expect("valid");
            (HeaderName::from_static(name), value)
        });
        Self {
            status: StatusCode::from_u16(status).expect("valid"),
            headers: headers.collect(),
            table,
        }
    }

    fn diagnosis(&self) -> Diagnosis {
        let seen = Symptoms::response(self.status, &self.headers);
        self.table.diagnose(&seen)
    }
}

impl Diagnosed {
    fn new() -> Self {
        let clock = ManualClock::new();
        let recorder = Recorder::new().clock(clock.clock());
        let pipeline = Pipeline::new()
            .classify(Diagnosing)
            .clock(clock.clock())
            .observer(recorder.clone());
        Self {
            clock,
            recorder,
            pipeline,
        }
    }

    fn fails(&self, status: u16, headers: &[(&'static str, &str)]) {
        self.call(Failure::new(status, headers));
    }

    fn call(&self, failure: Failure) {
        let mut failure = Some(failure);
        let call = self.pipeline.run(|_| {
            let failure = failure.take().expect("one attempt");
            async move { Err::<(), _>(failure) }
        });
        let _ = block_on(&self.clock, call);
    }
}

impl Stage {
    fn new(recorder: Recorder) -> Self {
        let clock = ManualClock::new();
        let recorder = recorder.clock(clock.clock());
        let recorder = recorder.named(Key::of("a"), "a").named(Key::of("b"), "b");
        Self::with(clock, recorder)
    }

    fn with(clock: ManualClock, recorder: Recorder) -> Self {
        // A policy per key, so that events have one.
        let pipeline = Pipeline::new()
            .bulkhead(Keyed::new(Bulkhead::new(10)))
            .classify(verdict::by(reading as fn(Result<&(), &Verdict>) -> Verdict))
            .clock(clock.clock())
            .observer(recorder.clone());
        Self {
            clock,
            recorder,
            pipeline,
        }
    }

    fn call(&self, key: &str, outcome: Result<(), Verdict>) {
        let call = self.pipeline.run(|_| async move { outcome });
        let _ = block_on(&self.clock, call.keyed(Key::of(key)));
    }

    fn fails(&self, key: &str) {
        self.call(key, Err(Verdict::transient()));
    }

    fn succeeds(&self, key: &str) {
        self.call(key, Ok(()));
    }
}

fn just_before(length: Duration) -> Duration {
    length.saturating_sub(Duration::from_nanos(1))
}

fn opens_after(failures: u32) -> Breaker {
    Breaker::new()
        .failure_ratio(None)
        .consecutive_failures(failures)
}

fn reading(outcome: Result<&(), &Verdict>) -> Verdict {
    match outcome {
        Ok(()) => Verdict::success(),
        Err(verdict) => *verdict,
    }
}

/// A breaker of this key opens: as a pipeline tells of it.
fn change(key: impl std::hash::Hash) -> Event {
    use std::sync::{Arc, Mutex};

    let clock = ManualClock::new();
    let key = Key::of(key);
    let last = Arc::new(Mutex::new(None));
    let log = Arc::clone(&last);
    let pipeline = Pipeline::new()
        .breaker(Keyed::new(opens_after(1)))
        .clock(clock.clock())
        .observer(move |event: &Event| {
            if let Event::Changed { .. } = event {
                *log.lock().unwrap() = Some(*event);
            }
        });
    let _ = block_on(
        &clock,
        pipeline.run(|_| async { Err::<(), _>(()) }).keyed(key),
    );
    let event = last.lock().unwrap().take();
    event.expect("it opens")
}
