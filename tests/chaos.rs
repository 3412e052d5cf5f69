//! Faults to order: what they do to a call, and that nothing but their label tells them from real ones.
#![cfg(feature = "testing")]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{pending, ready};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use evenkeel::backoff::{Backoff, Jitter};
use evenkeel::budget::Ratio;
use evenkeel::chaos::{Chaos, Effect, Fault, Rule, Snapshot, imitating};
use evenkeel::clock::Why;
use evenkeel::error::Limit;
use evenkeel::http::Http;
use evenkeel::report::Stop;
use evenkeel::testing::{ManualClock, Script, block_on};
use evenkeel::verdict::{Classify, EveryError, Hint, Kind, Label, Processed, Verdict, by};
use evenkeel::{
    Breaker, Budget, Bulkhead, Cause, Error, Event, Key, Keyed, Pipeline, Retry, Rng, Throttle,
    Window,
};
use http::StatusCode;
use proptest::prelude::*;

const BUSY: StatusCode = StatusCode::SERVICE_UNAVAILABLE;

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Attempts that succeed at once, and how many there were.
#[derive(Default)]
struct Service {
    attempts: Cell<u32>,
}

impl Service {
    fn call<C>(&self, clock: &ManualClock, pipeline: &Pipeline<C>) -> Result<u32, Error<io::Error>>
    where
        C: Classify<u32, io::Error>,
    {
        block_on(
            clock,
            pipeline.run(|attempt| {
                self.attempts.set(self.attempts.get() + 1);
                async move { Ok(attempt.number()) }
            }),
        )
    }
}

fn retry(attempts: u32) -> Retry {
    let backoff = Backoff::constant(ms(1)).jitter(Jitter::None);
    Retry::new(backoff)
        .max_attempts(attempts)
        .hint_spread(ms(0))
}

// What a fault comes to.

#[test]
fn a_fault_that_nobody_can_imitate_is_the_callers_by_its_name_and_the_attempt_is_not_made() {
    let faults = [
        (Fault::Connect, Kind::Transient, Processed::No),
        (Fault::Reset, Kind::Transient, Processed::Maybe),
        (Fault::status(BUSY), Kind::Overloaded, Processed::Maybe),
        (
            Fault::error(Kind::TargetFault, Processed::Yes),
            Kind::TargetFault,
            Processed::Yes,
        ),
    ];
    for (fault, kind, processed) in faults {
        let (clock, service) = (ManualClock::new(), Service::default());
        let chaos = Chaos::new().next(1, fault);
        let pipeline = Pipeline::new().chaos(chaos).clock(clock.clock());
        let error = service.call(&clock, &pipeline).unwrap_err();

        let Cause::Injected(injected) = error.cause() else {
            panic!("{error:?}");
        };
        assert_eq!(injected.fault(), fault);
        assert!(error.to_string().starts_with("injected: "), "{error}");
        let source = std::error::Error::source(&error).expect("the fault");
        assert!(source.is::<evenkeel::chaos::Injected>());
        let verdict = error.report().failures()[0].verdict();
        assert_eq!((verdict.kind(), verdict.was_processed()), (kind, processed));
        assert_eq!(service.attempts.get(), 0);
        // The script is over.
        assert_eq!(service.call(&clock, &pipeline).unwrap(), 1);
    }
}

#[test]
fn a_label_tells_what_was_injected_and_a_status_is_its_code() {
    let label = |fault: Fault| fault.verdict().error_type();
    for fault in [
        Fault::Connect,
        Fault::Hang,
        Fault::Lost,
        Fault::Reset,
        Fault::error(Kind::Transient, Processed::No),
    ] {
        let Label::Name(name) = label(fault) else {
            panic!("{fault:?}");
        };
        assert!(name.starts_with("injected_"), "{name}");
    }
    assert_eq!(label(Fault::status(BUSY)), Label::Status(503));
}

#[test]
fn a_lost_answer_leaves_the_work_done_so_only_what_is_idempotent_is_done_twice() {
    for (idempotent, done) in [(true, 2), (false, 1)] {
        let (clock, service) = (ManualClock::new(), Service::default());
        let pipeline = Pipeline::new()
            .idempotent(idempotent)
            .retry(retry(3))
            .chaos(Chaos::new().next(1, Fault::Lost))
            .clock(clock.clock());
        let got = service.call(&clock, &pipeline);
        assert_eq!(service.attempts.get(), done);
        match got {
            Ok(attempts) => assert_eq!((attempts, idempotent), (2, true)),
            Err(error) => {
                assert!(!idempotent);
                let stop = error.report().stop();
                assert_eq!(stop, Some(Stop::NotSafe(Processed::Maybe)));
                assert!(matches!(error.cause(), Cause::Injected(it) if it.fault() == Fault::Lost));
            }
        }
    }
}

#[test]
fn an_attempt_that_fails_by_itself_has_no_answer_to_lose() {
    let clock = ManualClock::new();
    let pipeline = Pipeline::new()
        .retry(retry(2))
        .chaos(Chaos::new().next(1, Fault::Lost))
        .clock(clock.clock());
    let script = Script::new(&clock).err("own").ok(7);
    let got = block_on(&clock, pipeline.run(|attempt| script.play(attempt)));
    // Nor does the fault wait for the next attempt's.
    assert_eq!(got, Ok(7));
    assert_eq!(script.attempts()[1].previous(), Some(Verdict::transient()));
}

#[test]
fn a_refused_connection_goes_again_whatever_it_is_and_a_reset_does_not() {
    for (fault, goes_again) in [
        (Fault::Connect, true),
        (Fault::Reset, false),
        (Fault::status(BUSY), false),
        (Fault::status(StatusCode::TOO_EARLY), true),
        (Fault::error(Kind::Transient, Processed::No), true),
        (Fault::error(Kind::RequestFault, Processed::No), false),
    ] {
        let (clock, service) = (ManualClock::new(), Service::default());
        let pipeline = Pipeline::new()
            .idempotent(false)
            .retry(retry(2))
            .chaos(Chaos::new().next(1, fault))
            .clock(clock.clock());
        assert_eq!(
            service.call(&clock, &pipeline).is_ok(),
            goes_again,
            "{fault:?}"
        );
    }
}

#[test]
fn a_classifier_of_ones_own_makes_the_very_outcome_of_a_fault() {
    let (clock, service) = (ManualClock::new(), Service::default());
    let classify = imitating(EveryError, |fault: &Fault| match fault {
        Fault::Reset => Some(Err(io::ErrorKind::ConnectionReset.into())),
        Fault::Lost => Some(Ok(99)),
        _ => None,
    });
    let script = [Fault::Reset, Fault::Lost, Fault::Connect];
    let pipeline = Pipeline::new()
        .classify(classify)
        .chaos(Chaos::new().script(script))
        .clock(clock.clock());
    let error = service.call(&clock, &pipeline).unwrap_err();
    let own = error.operation().expect("the caller's own type");
    assert_eq!(own.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(service.call(&clock, &pipeline).unwrap(), 99);
    let error = service.call(&clock, &pipeline).unwrap_err();
    assert!(matches!(error.cause(), Cause::Injected(_)), "{error:?}");
}

#[test]
fn what_is_made_of_a_status_follows_https_settings() {
    let http = Http::new()
        .treat(StatusCode::CONFLICT, Kind::Transient)
        .adjust(|status, _, verdict| match status.as_u16() {
            418 => Verdict::new(Kind::Overloaded),
            _ => verdict,
        });
    for (code, attempts) in [(409, 2), (418, 2), (404, 1)] {
        let clock = ManualClock::new();
        let status = StatusCode::from_u16(code).unwrap();
        let pipeline = Pipeline::http()
            .classify(http.clone())
            .idempotent(true)
            .retry(retry(2))
            .chaos(Chaos::new().next(2, Fault::status(status)))
            .clock(clock.clock());
        let answer = |_| async { Ok::<_, io::Error>(http::Response::new("a body")) };
        let error = block_on(&clock, pipeline.run(answer)).unwrap_err();
        assert_eq!(error.attempts(), attempts, "{code}");
    }
}

#[test]
fn an_injected_retry_after_is_a_lower_bound_as_any_other() {
    let (clock, service) = (ManualClock::new(), Service::default());
    let fault = Fault::status(BUSY).retry_after(ms(2500));
    assert_eq!(fault.verdict().server_hint(), Some(Hint::After(ms(3000))));
    let pipeline = Pipeline::new()
        .retry(retry(2))
        .chaos(Chaos::new().next(1, fault))
        .clock(clock.clock());
    assert_eq!(service.call(&clock, &pipeline).unwrap(), 2);
    assert_eq!(clock.waits(), [ms(3000)]);
}

#[test]
fn a_fault_in_a_pipeline_inside_is_read_by_the_one_outside() {
    for (fault, attempts) in [(Fault::Connect, 2), (Fault::Reset, 1)] {
        let clock = ManualClock::new();
        let inner = Pipeline::new().chaos(Chaos::new().next(9, fault));
        // A POST, for all it knows.
        let outer = Pipeline::http()
            .classify(Http::new().errors_only())
            .retry(retry(2))
            .clock(clock.clock());
        let call = outer.run(|_| inner.run(|_| async { Ok::<_, io::Error>(7) }));
        let error = block_on(&clock, call).unwrap_err();
        assert_eq!(error.attempts(), attempts, "{fault:?}");
        assert!(matches!(error.flatten().cause(), Cause::Injected(_)));
    }
}

// Bounds.

#[test]
fn there_are_never_more_attempts_than_without() {
    let (clock, service) = (ManualClock::new(), Service::default());
    let budget = Budget::new(Ratio::percent(0)).capacity(5);
    let always = Rule::new(Effect::delay(ms(1)).then(Fault::Reset));
    let chaos = Chaos::new().rule(always);
    let pipeline = Pipeline::new()
        .retry(retry(4).budget(budget.clone()))
        .chaos(chaos.clone())
        .clock(clock.clock());
    let attempts: Vec<_> = (0..4)
        .map(|_| service.call(&clock, &pipeline).unwrap_err().attempts())
        .collect();
    assert_eq!(attempts, [4, 3, 1, 1], "three retries, then what is left");
    assert_eq!(budget.snapshot().extra_attempts, 5);
    assert_eq!(budget.snapshot().first_attempts, 4);
    assert_eq!(chaos.snapshot().injected, 9);
    assert_eq!(service.attempts.get(), 0);
}

#[test]
fn a_delay_comes_before_the_attempt_and_runs_within_its_timeout() {
    // Just before the timeout, at it, and after it; and how long the attempt itself takes then.
    for (delay, takes, ends, is_ok, begins) in [
        (0, 10, 10, true, true),
        (90, 9, 99, true, true),
        (90, 11, 100, false, true),
        (99, 0, 99, true, true),
        (100, 0, 100, true, true), // what is ready wins, as with a real attempt
        (100, 1, 100, false, true),
        (101, 0, 100, false, false),
    ] {
        let clock = ManualClock::new();
        let pipeline = Pipeline::new()
            .timeout(ms(100))
            .chaos(Chaos::new().next(1, Effect::delay(ms(delay))))
            .clock(clock.clock());
        let script = Script::<_, ()>::new(&clock).ok(7).after(ms(takes));
        let got = block_on(&clock, pipeline.run(|attempt| script.play(attempt)));
        let context = format!("{delay} and {takes}");
        assert_eq!(got.is_ok(), is_ok, "{context}");
        assert!(got.is_ok() || got.unwrap_err().is_timeout(), "{context}");
        assert_eq!(clock.elapsed(), ms(ends), "{context}");
        let begun: &[_] = if begins { &[ms(delay)] } else { &[] };
        assert_eq!(script.begun(), begun, "{context}");
        assert!(clock.pending().is_empty(), "{context}");
    }
}

#[test]
fn a_hang_ends_by_the_timeout_or_the_deadline() {
    let (clock, service) = (ManualClock::new(), Service::default());
    let pipeline = Pipeline::new()
        .deadline(ms(250))
        .timeout(ms(100))
        .retry(retry(9))
        .chaos(Chaos::new().rule(Rule::new(Fault::Hang)))
        .clock(clock.clock());
    let error = service.call(&clock, &pipeline).unwrap_err();
    assert!(matches!(error.cause(), Cause::Elapsed(it) if it.limit() == Limit::Deadline));
    assert_eq!((error.attempts(), error.elapsed()), (3, ms(250)));
    assert_eq!(clock.elapsed(), ms(250));

    let once = pipeline.retry(retry(1));
    let error = service.call(&clock, &once).unwrap_err();
    assert!(matches!(error.cause(), Cause::Elapsed(it) if it.limit() == Limit::Attempt));
    let verdict = error.report().failures()[0].verdict();
    assert_eq!(verdict.error_type(), Label::Name("timeout"));
    assert_eq!(service.attempts.get(), 0);
}

#[test]
fn a_hang_without_a_limit_lasts_until_it_is_dropped() {
    use std::task::{Context, Poll, Waker};

    let clock = ManualClock::new();
    let hang = Chaos::new().next(1, Effect::delay(ms(10)).then(Fault::Hang));
    let pipeline = Pipeline::new().chaos(hang).clock(clock.clock());
    let mut call = Box::pin(pipeline.run(|_| async { Ok::<_, ()>(7) }));
    let mut poll = || call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert_eq!(poll(), Poll::Pending);
    assert_eq!(clock.pending()[0].why, Why::Injected);
    assert_eq!(clock.advance_to_next(), Some(ms(10)));
    assert_eq!(poll(), Poll::Pending);
    assert!(clock.pending().is_empty(), "nothing to wake it");
    drop(call);
    assert!(block_on(&clock, pipeline.run(|_| async { Ok::<_, ()>(7) })).is_ok());
}

#[test]
fn the_deadline_bounds_an_injected_delay() {
    for (delay, is_ok) in [(99, true), (100, true), (101, false)] {
        let (clock, service) = (ManualClock::new(), Service::default());
        let pipeline = Pipeline::new()
            .deadline(ms(100))
            .chaos(Chaos::new().next(1, Effect::delay(ms(delay))))
            .clock(clock.clock());
        let got = service.call(&clock, &pipeline);
        assert_eq!(got.is_ok(), is_ok, "{delay}");
        assert_eq!(clock.elapsed(), ms(delay.min(100)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_timer_that_is_coarser_than_the_delay_neither_cuts_it_short_nor_spins() {
    // Tokio's is good to a millisecond.
    for (micros, is_ok) in [(1, true), (1500, true), (9_999, true), (10_001, false)] {
        let delay = Duration::from_micros(micros);
        let pipeline = Pipeline::new()
            .timeout(ms(10))
            .chaos(Chaos::new().next(1, Effect::delay(delay)));
        let began = tokio::time::Instant::now();
        let got = pipeline.run(|_| async { Ok::<_, ()>(7) }).await;
        let took = began.elapsed();
        assert_eq!(got.is_ok(), is_ok, "{micros}");
        let least = delay.min(ms(10));
        assert!((least..least + ms(2)).contains(&took), "{micros}: {took:?}");
    }
}

#[test]
fn settings_that_make_no_sense_fail_every_call_by_their_name() {
    let (clock, service) = (ManualClock::new(), Service::default());
    let over = Ratio::millionths(1_000_001);
    for (chaos, field) in [
        (Chaos::new().sometimes(over, Fault::Reset), "chaos.share"),
        (
            Chaos::new().next(1, Fault::status(StatusCode::OK)),
            "chaos.fault",
        ),
        (
            Chaos::new().script([Effect::none(), Effect::delay_between(ms(2), ms(1))]),
            "chaos.delay",
        ),
        (
            Chaos::new().rule(Rule::new(Fault::Reset).during(ms(1)..ms(1))),
            "chaos.during",
        ),
    ] {
        let one = Pipeline::new().chaos(chaos.clone());
        let keyed = Pipeline::new().chaos(Keyed::new(chaos));
        for pipeline in [one, keyed] {
            assert_eq!(pipeline.check().unwrap_err().field(), field);
            let error = service.call(&clock, &pipeline).unwrap_err();
            assert!(matches!(error.cause(), Cause::Config(_)), "{error:?}");
        }
    }
    assert_eq!(service.attempts.get(), 0);
    let chaos = Chaos::new();
    let refused = chaos.push(1, Fault::error(Kind::Success, Processed::Yes));
    assert_eq!(refused.unwrap_err().field(), "chaos.fault");
    assert_eq!(chaos.snapshot().scripted, 0);
}

#[test]
fn a_status_that_is_taken_for_a_success_is_still_no_value() {
    // Checked nowhere: what `Keyed::with` gives, and what a classifier thinks.
    let (clock, service) = (ManualClock::new(), Service::default());
    let odd = Chaos::new().next(1, Fault::status(StatusCode::OK));
    let chaos = Keyed::new(Chaos::new()).with(move |_| Some(odd.clone()));
    let pipeline = Pipeline::new().chaos(chaos).clock(clock.clock());
    let call = pipeline.run(|_| async { Ok::<_, ()>(7) }).keyed(Key::of(1));
    let error = block_on(&clock, call).unwrap_err();
    assert!(matches!(error.cause(), Cause::Injected(_)), "{error:?}");
    assert_eq!(service.attempts.get(), 0);
}

// Which attempts are struck.

#[test]
fn probabilities_of_0_and_100_percent_are_exact_and_others_near() {
    let (clock, service) = (ManualClock::new(), Service::default());
    for (percent, least, most) in [(0, 0, 0), (20, 150, 250), (100, 1000, 1000)] {
        let chaos = Chaos::new().sometimes(Ratio::percent(percent), Fault::Reset);
        let pipeline = Pipeline::new().chaos(chaos.clone()).clock(clock.clock());
        let failed = (0..1000).filter(|_| service.call(&clock, &pipeline).is_err());
        let failed = failed.count() as u64;
        assert!((least..=most).contains(&failed), "{percent}: {failed}");
        assert_eq!(chaos.snapshot().resets, failed);
        assert_eq!(chaos.snapshot().attempts, 1000);
    }
}

#[test]
fn the_same_seed_is_the_same_run_and_another_is_another() {
    let run = |seed| {
        let (clock, service) = (ManualClock::new(), Service::default());
        let delay = Effect::delay_between(ms(0), ms(50));
        let chaos = Chaos::new()
            .seed(seed)
            .sometimes(Ratio::percent(50), delay)
            .sometimes(Ratio::percent(30), Fault::Reset);
        let pipeline = Pipeline::new().chaos(chaos).clock(clock.clock());
        let call = |_| (service.call(&clock, &pipeline).is_ok(), clock.elapsed());
        (0..50).map(call).collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn a_delay_shifts_no_jitter() {
    let waits = |chaos: Option<Chaos>| {
        let clock = ManualClock::new();
        let backoff = Backoff::exponential(ms(100)).jitter(Jitter::Full);
        let pipeline = Pipeline::new()
            .retry(Retry::new(backoff).max_attempts(4))
            .rng(Rng::seeded(5))
            .clock(clock.clock());
        let pipeline = match chaos {
            Some(chaos) => pipeline.chaos(chaos),
            None => pipeline,
        };
        let mut waits = Vec::new();
        for call in 0..10 {
            // Half of the calls succeed at once, and draw nothing.
            let error = block_on(
                &clock,
                pipeline.run(|_| async move { if call % 2 == 0 { Ok(()) } else { Err("down") } }),
            );
            let failures = error.err().map(|it| it.report().failures().to_vec());
            let lengths = failures.into_iter().flatten().filter_map(|it| it.wait());
            waits.extend(lengths.map(|wait| wait.length()));
        }
        waits
    };
    let slow = Chaos::new().sometimes(Ratio::percent(50), Effect::delay_between(ms(1), ms(9)));
    let with = waits(Some(slow));
    assert_eq!(with.len(), 15);
    assert_eq!(with, waits(None));
}

#[test]
fn a_script_is_played_by_attempts_in_the_order_in_which_they_come() {
    let (clock, service) = (ManualClock::new(), Service::default());
    let chaos = Chaos::new()
        .sometimes(Ratio::percent(100), Fault::Connect)
        .script([Effect::none(), Fault::Reset.into()])
        .next(2, Fault::status(BUSY));
    chaos.push(1, Effect::none()).unwrap();
    let pipeline = Pipeline::new()
        .retry(retry(4))
        .chaos(chaos.clone())
        .clock(clock.clock());
    assert_eq!(service.call(&clock, &pipeline).unwrap(), 1);
    assert_eq!(chaos.snapshot().scripted, 4);
    assert_eq!(service.call(&clock, &pipeline).unwrap(), 4);
    assert_eq!(chaos.snapshot().scripted, 0);
    // Nothing is left of the script, so the rule strikes.
    assert_eq!(service.call(&clock, &pipeline).unwrap_err().attempts(), 4);
    let Snapshot {
        attempts,
        injected,
        connects,
        resets,
        statuses,
        ..
    } = chaos.snapshot();
    assert_eq!((attempts, injected), (9, 7));
    assert_eq!((connects, resets, statuses), (4, 1, 2));
}

#[test]
fn a_stretch_is_counted_from_the_switching_on() {
    let (clock, service) = (ManualClock::new(), Service::default());
    let chaos = Chaos::new().rule(Rule::new(Fault::Reset).during(ms(10)..ms(20)));
    let pipeline = Pipeline::new().chaos(chaos.clone()).clock(clock.clock());
    let fails = || service.call(&clock, &pipeline).is_err();
    clock.advance(ms(1000));
    for _ in 0..2 {
        // The first time it begins with the first attempt, then with `on`.
        let mut seen = Vec::new();
        for _ in 0..5 {
            seen.push(fails());
            clock.advance(ms(5));
        }
        assert_eq!(seen, [false, false, true, true, false]);
        clock.advance(ms(7));
        chaos.on(clock.now());
    }
}

#[test]
fn switched_off_it_does_nothing_and_its_script_rests() {
    let (clock, service) = (ManualClock::new(), Service::default());
    let chaos = Chaos::new().next(2, Fault::Reset);
    let pipeline = Pipeline::new().chaos(chaos.clone()).clock(clock.clock());
    assert!(chaos.is_on());
    assert!(service.call(&clock, &pipeline).is_err());
    chaos.off();
    assert!(!chaos.is_on());
    assert!(service.call(&clock, &pipeline).is_ok());
    assert_eq!(chaos.snapshot().attempts, 1, "what it doesn't look at");
    assert!(!chaos.clone().seed(1).is_on(), "no setter switches it on");
    chaos.on(clock.now());
    assert!(service.call(&clock, &pipeline).is_err());
    assert!(service.call(&clock, &pipeline).is_ok());
}

#[test]
fn keys_have_scripts_and_chance_of_their_own_and_one_switch() {
    let clock = ManualClock::new();
    let chaos = Chaos::new()
        .next(2, Fault::Reset)
        .sometimes(Ratio::percent(50), Fault::Connect);
    let all = Keyed::new(chaos.clone());
    let pipeline = Pipeline::new().chaos(all.clone()).clock(clock.clock());
    let fails = |key| {
        let call = pipeline.run(|_| async { Ok::<_, ()>(7) });
        let call = match key {
            Some(key) => call.keyed(Key::of(key)),
            None => call,
        };
        let failed = block_on(&clock, call).err()?;
        match failed.into_cause() {
            Cause::Injected(injected) => Some(injected.fault()),
            cause => panic!("{cause:?}"),
        }
    };
    // Taken in turns, so that one's turn is not the other's.
    let fates: Vec<_> = (0..40)
        .map(|_| (fails(Some("a")), fails(Some("b"))))
        .collect();
    let reset = Some(Fault::Reset);
    assert_eq!(fates[..2], [(reset, reset); 2], "each has the whole script");
    assert!(
        fates[2..].iter().any(|(a, b)| a != b),
        "and luck of its own"
    );
    assert_eq!(fails(None), None, "without a key it is passed by");
    assert_eq!(chaos.snapshot().attempts, 0, "the prototype is a model");
    let entry = |key| all.peek(Key::of(key)).expect("seen").snapshot();
    assert_eq!((entry("a").attempts, entry("a").resets), (40, 2));

    chaos.off();
    assert!((0..40).all(|_| fails(Some("a")).is_none() && fails(Some("c")).is_none()));
    chaos.on(clock.now());
    assert_eq!(fails(Some("c")), reset);
}

#[test]
fn with_seeds_of_their_own_keys_meet_the_same_fates_in_whatever_order_they_come() {
    let clock = ManualClock::new();
    let keys = [Key::of("a"), Key::of("b")];
    let fates = |order: [usize; 2]| {
        let seeded = move |key| {
            let seed = keys.iter().position(|it| *it == key)?;
            let chaos = Chaos::new().seed(u64::try_from(seed).ok()?);
            Some(chaos.sometimes(Ratio::percent(50), Fault::Reset))
        };
        let pipeline = Pipeline::new()
            .chaos(Keyed::new(Chaos::new()).with(seeded))
            .clock(clock.clock());
        let call = |at: usize| {
            let run = pipeline.run(|_| ready(Ok::<_, ()>(1))).keyed(keys[at]);
            block_on(&clock, run).is_ok()
        };
        let mut fates = [Vec::new(), Vec::new()];
        for _ in 0..64 {
            for at in order {
                fates[at].push(call(at));
            }
        }
        fates
    };
    let got = fates([0, 1]);
    assert_eq!(got, fates([1, 0]));
    assert_ne!(got[0], got[1]);
}

#[test]
fn a_key_that_is_not_chosen_is_left_alone() {
    let clock = ManualClock::new();
    let broken = Chaos::new().sometimes(Ratio::percent(100), Fault::Reset);
    let (bad, given) = (Key::of("bad"), broken.clone());
    let chaos = Keyed::new(Chaos::new()).with(move |key| (key == bad).then(|| given.clone()));
    let pipeline = Pipeline::new().chaos(chaos).clock(clock.clock());
    let fails = |key| {
        let call = pipeline.run(|_| async { Ok::<_, ()>(7) }).keyed(key);
        block_on(&clock, call).is_err()
    };
    assert!(fails(bad) && !fails(Key::of("good")));
    broken.off();
    assert!(!fails(bad), "the one that was given switches it");
}

#[test]
fn a_played_script_is_not_forgotten_with_its_key() {
    use evenkeel::keyed::PerKey;

    let now = Instant::now();
    let scripted = Chaos::new().next(2, Fault::Reset);
    assert!(scripted.is_idle(now));
    let _ = scripted.decide(1, || now);
    assert!(!scripted.is_idle(now), "a fresh one would play it again");
    let chance = Chaos::new().sometimes(Ratio::percent(50), Fault::Reset);
    let _ = chance.decide(1, || now);
    assert!(chance.is_idle(now));
    let held = chance.clone();
    assert!(!chance.is_idle(now));
    drop(held);
    chance.push(1, Fault::Reset).unwrap();
    assert!(!chance.is_idle(now), "it has something to do yet");
}

#[test]
fn n_scripted_faults_are_exactly_n_on_real_threads() {
    const THREADS: u64 = 8;
    const CALLS: u64 = 500;
    let chaos = Chaos::new()
        .next(700, Fault::Reset)
        .script(std::iter::repeat_n(Fault::Connect, 300))
        .next(50, Effect::none());
    let pipeline = Pipeline::new().chaos(chaos.clone());
    let (resets, connects) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let clock = ManualClock::new();
                for _ in 0..CALLS {
                    let call = pipeline.run(|_| async { Ok::<_, ()>(7) });
                    match block_on(&clock, call).map_err(Error::into_cause) {
                        Ok(7) => continue,
                        Err(Cause::Injected(it)) if it.fault() == Fault::Reset => &resets,
                        Err(Cause::Injected(it)) if it.fault() == Fault::Connect => &connects,
                        other => panic!("{other:?}"),
                    }
                    .fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(resets.into_inner(), 700);
    assert_eq!(connects.into_inner(), 300);
    let snapshot = chaos.snapshot();
    assert_eq!(snapshot.attempts, THREADS * CALLS);
    assert_eq!((snapshot.injected, snapshot.scripted), (1000, 0));
}

#[test]
fn too_many_keys_share_one_chaos_and_that_is_told() {
    let clock = ManualClock::new();
    let told = Arc::<Mutex<Vec<_>>>::default();
    let sink = Arc::clone(&told);
    let all = Keyed::new(Chaos::new().next(1, Fault::Reset)).capacity(1);
    let pipeline = Pipeline::new()
        .observer(move |event: &Event| match event {
            Event::Changed { change, .. } => sink.lock().unwrap().push(format!("{change:?}")),
            Event::Injected { key, .. } => sink.lock().unwrap().push(format!("{key:?}")),
            _ => {}
        })
        .chaos(all)
        .clock(clock.clock());
    for key in 0..4 {
        let call = pipeline.run(|_| async { Ok::<_, ()>(7) });
        let _ = block_on(&clock, call.keyed(Key::of(key)));
    }
    let struck = |key| format!("{:?}", Some(Key::of(key)));
    let overflow = String::from("Keyed(Overflow { keys: 1 })");
    // One entry of its own, and one that the others share.
    assert_eq!(*told.lock().unwrap(), [struck(0), overflow, struck(1)]);
}

// What is told.

#[test]
fn a_pipelines_debug_shows_that_it_has_chaos() {
    let chaos = Chaos::new().next(1, Fault::Reset);
    assert!(!format!("{:?}", Pipeline::http()).contains("Chaos"));
    let text = format!("{:?}", Pipeline::http().chaos(chaos));
    assert!(text.contains("Chaos { is_on: true"), "{text}");
}

#[test]
fn each_injection_is_one_event_with_its_numbers() {
    let (clock, service) = (ManualClock::new(), Service::default());
    let told = Arc::<Mutex<Vec<_>>>::default();
    let sink = Arc::clone(&told);
    let fault = Fault::status(BUSY);
    let pipeline = Pipeline::new()
        .observer(move |event: &Event| {
            if let Event::Injected {
                call,
                attempt,
                key,
                delay,
                fault,
            } = *event
            {
                assert_eq!((event.call(), event.attempt()), (call, attempt));
                assert_eq!(event.verdict(), None);
                sink.lock().unwrap().push((attempt, key, delay, fault));
            }
        })
        .retry(retry(9))
        .chaos(Chaos::new().script([
            Effect::from(fault),
            Effect::none(),
            Effect::delay(ms(5)),
            Effect::delay(ms(2)).then(Fault::Lost),
        ]))
        .clock(clock.clock());
    for _ in 0..4 {
        service.call(&clock, &pipeline).unwrap();
    }
    let expected = [
        (1, None, ms(0), Some(fault)),
        (1, None, ms(5), None),
        (1, None, ms(2), Some(Fault::Lost)),
    ];
    assert_eq!(*told.lock().unwrap(), expected);
}

// The real thing.

/// What one attempt is to come to.
type Step = (u64, Option<Fault>);

fn step() -> impl Strategy<Value = Step> {
    let fault = prop_oneof![
        3 => Just(None),
        1 => Just(Some(Fault::Connect)),
        1 => Just(Some(Fault::Hang)),
        1 => Just(Some(Fault::Lost)),
        1 => Just(Some(Fault::Reset)),
        1 => Just(Some(Fault::status(BUSY))),
        1 => Just(Some(Fault::status(BUSY).retry_after(ms(1000)))),
        1 => Just(Some(Fault::status(StatusCode::NOT_FOUND))),
        1 => Just(Some(Fault::error(Kind::RateLimited, Processed::No))),
    ];
    let delay = prop_oneof![2 => Just(0_u64), 1 => 1_u64..130, 1 => Just(100)];
    (delay, fault)
}

/// Every policy there is, and what becomes of calls under them.
struct World {
    clock: ManualClock,
    pipeline: Pipeline<Classifier>,
    budget: Budget,
    breaker: Breaker,
    bulkhead: Bulkhead,
    throttle: Throttle,
    window: Window,
    events: Arc<Mutex<Vec<String>>>,
}

fn read(outcome: Result<&(), &Fault>) -> Verdict {
    outcome.map_or_else(Fault::verdict, |()| Verdict::success())
}

impl World {
    fn new(idempotent: bool) -> Self {
        let clock = ManualClock::new();
        let budget = Budget::new(Ratio::percent(50)).capacity(4);
        let breaker = Breaker::new()
            .consecutive_failures(4)
            .slow_calls(ms(50), Ratio::percent(90));
        let (bulkhead, throttle) = (Bulkhead::new(3), Throttle::new());
        let window = Window::new();
        let events = Arc::<Mutex<Vec<_>>>::default();
        let sink = Arc::clone(&events);
        let backoff = Backoff::exponential(ms(20)).jitter(Jitter::Full);
        let pipeline = Pipeline::new()
            .deadline(ms(2000))
            .timeout(ms(100))
            .idempotent(idempotent)
            .retry(Retry::new(backoff).max_attempts(4).budget(budget.clone()))
            .throttle(throttle.clone())
            .bulkhead(bulkhead.clone())
            .window(window.clone())
            .breaker(breaker.clone())
            .rng(Rng::seeded(9))
            .clock(clock.clock())
            .observer(move |event: &Event| {
                if !matches!(event, Event::Injected { .. }) {
                    let call = format!("call: {}", event.call());
                    let text = format!("{event:?}").replace(&call, "call");
                    sink.lock().unwrap().push(text);
                }
            })
            .classify(by(read as Meaning));
        Self {
            clock,
            pipeline,
            budget,
            breaker,
            bulkhead,
            throttle,
            window,
            events,
        }
    }

    /// All that can be seen of it from outside.
    fn look(&self, got: Result<(), Error<Fault>>) -> String {
        let now = self.clock.now();
        let told = std::mem::take(&mut *self.events.lock().unwrap());
        let got = got.map_err(|error| {
            let report = error.report();
            let seen = format!(
                "{:?} {:?} {:?} {:?} {:?} {}",
                report.failures(),
                report.stop(),
                report.parked(),
                report.retry_after(),
                report.elapsed(),
                report.attempts(),
            );
            let cause = match error.into_cause() {
                // All that is to tell them apart.
                Cause::Operation(fault) => format!("{fault:?}"),
                Cause::Injected(injected) => format!("{:?}", injected.fault()),
                Cause::Rejected(rejected) => format!("{:?}", rejected.reason()),
                cause => format!("{cause:?}"),
            };
            (cause, seen)
        });
        let (breaker, window) = (self.breaker.snapshot(now), self.window.snapshot());
        let quiet = window
            .quiet_until
            .map(|end| end.saturating_duration_since(now));
        format!(
            "{got:?}\n{told:#?}\n{:?}\n{:?} {:?}\n{:?}\n{:?}\n{:?}\n{:?} {quiet:?} {:?} {:?}",
            self.clock.elapsed(),
            breaker.state,
            breaker.probes,
            self.budget.snapshot(),
            self.bulkhead.snapshot(),
            self.throttle.snapshot(now),
            (window.window, window.why),
            (window.in_flight, window.parked),
            (window.demand, window.usual),
        )
    }
}

/// The same steps, injected and real, call by call.
fn check_against_the_real_thing(steps: &[Step], idempotent: bool, through_tower: bool) {
    let (injected, real) = (World::new(idempotent), World::new(idempotent));
    let script = steps.iter().map(|(delay, fault)| {
        let effect = Effect::delay(ms(*delay));
        fault.map_or(effect, |fault| effect.then(fault))
    });
    let chaos = Chaos::new().script(script);
    let with_chaos = injected.pipeline.clone().chaos(chaos.clone());
    let left = RefCell::new(steps.iter().copied().collect::<VecDeque<_>>());
    let sleeps = real.clock.clone();
    let attempt = || {
        let (delay, fault) = left.borrow_mut().pop_front().unwrap_or_default();
        let end = sleeps.now() + ms(delay);
        let sleep = (delay > 0).then(|| sleeps.clock().sleep_until(end, Why::Other));
        async move {
            if let Some(sleep) = sleep {
                sleep.await;
            }
            match fault {
                None => Ok(()),
                Some(Fault::Hang) => pending().await,
                Some(fault) => Err(fault),
            }
        }
    };
    for call in 0..6 {
        let (a, b) = run_both(&injected, &with_chaos, &real, &attempt, through_tower);
        let (a, b) = (injected.look(a), real.look(b));
        assert_eq!(a, b, "call {call} of {steps:?}");
        assert!(injected.clock.pending().is_empty());
        let scripted = chaos.snapshot().scripted;
        assert_eq!(scripted, left.borrow().len() as u64, "attempts");
        injected.clock.advance(ms(30));
        real.clock.advance(ms(30));
    }
}

type Got = Result<(), Error<Fault>>;
type Meaning = fn(Result<&(), &Fault>) -> Verdict;
type Classifier = evenkeel::verdict::By<Meaning>;

fn run_both<F>(
    injected: &World,
    with_chaos: &Pipeline<Classifier>,
    real: &World,
    attempt: &impl Fn() -> F,
    through_tower: bool,
) -> (Got, Got)
where
    F: Future<Output = Result<(), Fault>>,
{
    #[cfg(feature = "tower")]
    if through_tower {
        use tower::{Layer, ServiceExt, service_fn};
        let service = with_chaos.layer(service_fn(|()| async { Ok(()) }));
        let a = block_on(&injected.clock, service.oneshot(()));
        let service = real.pipeline.layer(service_fn(|()| attempt()));
        return (a, block_on(&real.clock, service.oneshot(())));
    }
    let _ = through_tower;
    let a = block_on(&injected.clock, with_chaos.run(|_| async { Ok(()) }));
    let b = block_on(&real.clock, real.pipeline.run(|_| attempt()));
    (a, b)
}

proptest! {
    #[test]
    fn every_policy_sees_of_a_fault_what_it_would_see_of_the_real_thing(
        steps in prop::collection::vec(step(), 0..16),
        idempotent: bool,
        through_tower: bool,
    ) {
        check_against_the_real_thing(&steps, idempotent, through_tower);
    }
}

#[cfg(feature = "tower")]
mod through_tower {
    use std::future::{Ready, ready};

    use evenkeel::chaos::Injected;
    use evenkeel::pipeline::Protocol;
    use evenkeel::report::Report;
    use http::{Request, Response};
    use tower::limit::ConcurrencyLimit;
    use tower::{Layer, ServiceExt, service_fn};

    use super::*;

    #[test]
    fn a_status_becomes_a_response_of_the_body_that_the_caller_names() {
        let clock = ManualClock::new();
        let http = imitating(Http::new(), |fault: &Fault| {
            let response = fault.response()?.map(|()| String::from("made up"));
            Some(Ok::<_, io::Error>(response))
        });
        let fault = Fault::status(BUSY).retry_after(ms(1000));
        let service = Pipeline::http()
            .classify(http)
            .retry(retry(2))
            .chaos(Chaos::new().script([fault.into(), Effect::none(), fault.into(), fault.into()]))
            .clock(clock.clock())
            .layer(service_fn(|_: Request<String>| async {
                Ok::<_, io::Error>(Response::new(String::from("real")))
            }));
        let get = || {
            let request = Request::get("http://service/").body(String::new()).unwrap();
            block_on(&clock, service.clone().oneshot(request)).unwrap()
        };
        let response = get();
        assert_eq!(
            (response.status().as_u16(), response.body().as_str()),
            (200, "real")
        );
        assert!(
            clock.waits().iter().any(|it| *it >= ms(1000)),
            "it was asked to wait"
        );
        assert!(response.extensions().get::<Injected>().is_none());

        let response = get();
        assert_eq!(response.status(), BUSY);
        assert_eq!(response.body(), "made up");
        assert_eq!(response.headers()["retry-after"], "1");
        let marker = response.extensions().get::<Injected>();
        assert_eq!(marker.expect("nobody mistakes it").fault(), fault);
        let report = response.extensions().get::<Report>().expect("as on any");
        assert_eq!(report.attempts(), 2);
    }

    #[test]
    fn without_a_body_to_make_the_caller_gets_the_fault() {
        let clock = ManualClock::new();
        let service = Pipeline::http()
            .retry(retry(2))
            .chaos(Chaos::new().next(2, Fault::status(BUSY)))
            .clock(clock.clock())
            .layer(service_fn(|_: Request<String>| async {
                Ok::<_, io::Error>(Response::new(String::new()))
            }));
        let request = Request::get("http://service/").body(String::new()).unwrap();
        let error = block_on(&clock, service.oneshot(request)).unwrap_err();
        assert_eq!(error.attempts(), 2);
        assert!(matches!(error.cause(), Cause::Injected(_)));
    }

    /// Requests that can be sent once, and whose copies are counted.
    #[derive(Clone)]
    struct Once(Arc<AtomicU64>);

    impl Classify<(), Fault> for Once {
        fn classify(&self, outcome: Result<&(), &Fault>) -> Verdict {
            read(outcome)
        }
    }

    impl Protocol<u8, ()> for Once {
        type Saved = u8;
        type Discard = Ready<()>;

        fn save(&self, _: &mut u8) -> Option<u8> {
            self.0.fetch_add(1, Ordering::Relaxed);
            None
        }

        fn restore(&self, saved: u8) -> u8 {
            saved
        }

        fn discard(&self, (): ()) -> Ready<()> {
            ready(())
        }
    }

    #[test]
    fn a_fault_uses_up_a_request_that_can_be_sent_once_as_an_attempt_does() {
        for fault in [Fault::Connect, Fault::Reset, Fault::Hang] {
            let mut seen = Vec::new();
            for chaos in [Chaos::new().next(1, fault), Chaos::new()] {
                let (clock, copies) = (ManualClock::new(), Arc::default());
                let service = Pipeline::new()
                    .classify(Once(Arc::clone(&copies)))
                    .timeout(ms(10))
                    .retry(retry(3))
                    .chaos(chaos)
                    .clock(clock.clock())
                    .layer(service_fn(move |_: u8| async move {
                        match fault {
                            Fault::Hang => pending().await,
                            fault => Err::<(), _>(fault),
                        }
                    }));
                let error = block_on(&clock, service.oneshot(7)).unwrap_err();
                let stop = error.report().stop();
                assert_eq!(stop, Some(Stop::NotReplayable), "{fault:?}");
                seen.push((error.attempts(), copies.load(Ordering::Relaxed)));
            }
            assert_eq!(seen[0], seen[1], "{fault:?}");
        }
    }

    #[test]
    fn an_injected_attempt_holds_readiness_as_a_real_one_and_a_wait_holds_none() {
        use std::task::{Context, Waker};

        let clock = ManualClock::new();
        let inner = service_fn(|()| async { Ok::<_, ()>(()) });
        let permits = Arc::new(tokio::sync::Semaphore::new(1));
        let limit = ConcurrencyLimit::with_semaphore(inner, Arc::clone(&permits));
        let pipeline = Pipeline::new()
            .retry(retry(2))
            .timeout(ms(100))
            .chaos(Chaos::new().next(1, Fault::Hang))
            .clock(clock.clock());
        let mut call = Box::pin(pipeline.layer(limit).oneshot(()));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(call.as_mut().poll(&mut cx).is_pending());
        assert_eq!(permits.available_permits(), 0, "it hangs");
        clock.advance(ms(100));
        assert!(call.as_mut().poll(&mut cx).is_pending());
        assert_eq!(permits.available_permits(), 1, "it waits to try again");
        clock.advance(ms(1));
        assert!(call.as_mut().poll(&mut cx).is_ready());
        assert_eq!(permits.available_permits(), 1);
    }

    #[test]
    fn alone_it_is_a_layer() {
        let clock = ManualClock::new();
        let service = Chaos::new()
            .next(1, Fault::Reset)
            .layer(service_fn(|n: u8| async move { Ok::<_, ()>(n) }));
        let first = block_on(&clock, service.clone().oneshot(7)).unwrap_err();
        assert!(matches!(first.cause(), Cause::Injected(_)));
        assert_eq!(block_on(&clock, service.oneshot(7)).unwrap(), 7);
    }
}
