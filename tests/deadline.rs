//! Deadlines and timeouts: one ledger of time for the whole call.
#![cfg(feature = "testing")]

use std::time::Duration;

use evenkeel::backoff::Backoff;
use evenkeel::error::{Cause, Limit};
use evenkeel::report::Stop;
use evenkeel::testing::{ManualClock, Script, block_on};
use evenkeel::verdict::{Hint, Kind, Verdict, by};
use evenkeel::{Deadline, Pipeline, Retry, Rng};
use proptest::prelude::*;

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// One attempt: how long it takes (`None`: forever), and whether the server then asks for a wait.
fn any_step() -> impl Strategy<Value = (Option<u64>, Option<u64>)> {
    let takes = prop_oneof![4 => (0..3_000_u64).prop_map(Some), 1 => Just(None)];
    (takes, prop::option::of(0..4_000_u64))
}

proptest! {
    #[test]
    fn the_call_never_outlives_its_deadline(
        steps in prop::collection::vec(any_step(), 20),
        deadline in 1..8_000_u64,
        timeout in prop::option::of(1..3_000_u64),
        first_delay in 0..500_u64,
        least in 0..500_u64,
        seed: u64,
    ) {
        let clock = ManualClock::new();
        let mut script = Script::new(&clock);
        for (takes, hint) in &steps {
            script = match takes {
                Some(takes) => script.err(*hint).after(ms(*takes)),
                None => script.hang(),
            };
        }
        let mut pipeline = Pipeline::new()
            .deadline(ms(deadline))
            .min_time_left(ms(least))
            .retry(Retry::exponential(ms(first_delay)).max_attempts(20))
            .clock(clock.clock())
            .rng(Rng::seeded(seed))
            .classify(by(|outcome: Result<&(), &Option<u64>>| match outcome {
                Ok(()) => Verdict::success(),
                Err(None) => Verdict::transient(),
                Err(Some(hint)) => Verdict::new(Kind::Overloaded).hint(Hint::After(ms(*hint))),
            }));
        if let Some(timeout) = timeout {
            pipeline = pipeline.timeout(ms(timeout));
        }
        let error = block_on(&clock, pipeline.run(|attempt| script.play(attempt)));
        let error = error.expect_err("no step succeeds");
        prop_assert!(clock.elapsed() <= ms(deadline), "{:?}", clock.elapsed());
        prop_assert_eq!(error.elapsed(), clock.elapsed());
        prop_assert_eq!(error.attempts() as usize, script.begun().len());
        // No attempt begins without time left, and each was told the truth about it.
        for (begun, attempt) in script.begun().iter().zip(script.attempts()) {
            prop_assert!(*begun < ms(deadline));
            prop_assert_eq!(attempt.time_left(), ms(deadline).checked_sub(*begun));
            prop_assert_eq!(attempt.elapsed(), *begun);
        }
        prop_assert!(clock.pending().is_empty(), "timers left behind");
    }
}

#[test]
fn a_wait_that_would_pass_the_deadline_is_not_begun() {
    for (deadline, attempts) in [(ms(1000), 1), (ms(1001), 2)] {
        let clock = ManualClock::new();
        let pipeline = Pipeline::new()
            .deadline(deadline)
            .retry(Retry::constant(ms(1000)))
            .clock(clock.clock());
        let script = Script::<(), _>::new(&clock).err("a").err("b");
        let error = block_on(&clock, pipeline.run(|attempt| script.play(attempt))).unwrap_err();
        assert_eq!(error.attempts(), attempts);
        assert_eq!(error.report().stop(), Some(Stop::DeadlineTooClose));
        // It failed at once, with the operation's own error and the earliest useful time.
        assert!(matches!(error.cause(), Cause::Operation(_)));
        assert_eq!(error.retry_after(), Some(ms(1000)));
        assert_eq!(error.elapsed(), ms(1000) * (attempts - 1));
    }
}

#[test]
fn a_retry_that_would_leave_too_little_time_is_not_begun() {
    for (deadline, attempts) in [(ms(300), 1), (ms(301), 2)] {
        let clock = ManualClock::new();
        let pipeline = Pipeline::new()
            .deadline(deadline)
            .min_time_left(ms(200))
            .retry(Retry::constant(ms(100)).max_attempts(2))
            .clock(clock.clock());
        let script = Script::<(), _>::new(&clock).err("a").err("b");
        let error = block_on(&clock, pipeline.run(|attempt| script.play(attempt))).unwrap_err();
        assert_eq!(error.attempts(), attempts);
    }
}

#[test]
fn an_attempt_timeout_shrinks_to_the_time_left() {
    let clock = ManualClock::new();
    let pipeline = Pipeline::new()
        .deadline(ms(1500))
        .timeout(ms(1000))
        .retry(Retry::constant(ms(100)))
        .clock(clock.clock());
    let script = Script::<(), &str>::new(&clock).hang().hang();
    let error = block_on(&clock, pipeline.run(|attempt| script.play(attempt))).unwrap_err();
    assert_eq!(script.begun(), [ms(0), ms(1100)]);
    assert_eq!(clock.elapsed(), ms(1500));
    let Cause::Elapsed(elapsed) = error.cause() else {
        panic!("{error:?}")
    };
    assert_eq!(
        (elapsed.limit(), elapsed.length()),
        (Limit::Deadline, ms(1500))
    );
}

#[test]
fn the_last_attempts_timeout_comes_back_as_that() {
    let clock = ManualClock::new();
    let pipeline = Pipeline::new().timeout(ms(1000)).clock(clock.clock());
    let script = Script::<(), &str>::new(&clock).hang();
    let error = block_on(&clock, pipeline.run(|attempt| script.play(attempt))).unwrap_err();
    let Cause::Elapsed(elapsed) = error.cause() else {
        panic!("{error:?}")
    };
    assert_eq!(
        (elapsed.limit(), elapsed.length()),
        (Limit::Attempt, ms(1000))
    );
    assert!(error.is_timeout());
}

#[test]
fn an_answer_that_comes_with_the_timeout_wins() {
    let clock = ManualClock::new();
    let pipeline = Pipeline::new().timeout(ms(1000)).clock(clock.clock());
    let script = Script::<_, &str>::new(&clock).ok(7).after(ms(1000));
    let got = block_on(&clock, pipeline.run(|attempt| script.play(attempt)));
    assert_eq!(got, Ok(7));
}

#[test]
fn the_callers_deadline_replaces_the_pipelines() {
    for (own, ok) in [(ms(20_000), true), (ms(5_000), false)] {
        let clock = ManualClock::new();
        let pipeline = Pipeline::new().deadline(ms(10_000)).clock(clock.clock());
        let script = Script::<_, &str>::new(&clock).ok(7).after(ms(15_000));
        let deadline = Deadline::after(clock.now(), own);
        let run = pipeline.run(|attempt| script.play(attempt)).until(deadline);
        assert_eq!(block_on(&clock, run).is_ok(), ok);
        assert_eq!(clock.elapsed(), own.min(ms(15_000)));
    }
}

#[test]
fn a_deadline_that_has_passed_begins_nothing() {
    let clock = ManualClock::new();
    let pipeline = Pipeline::new().clock(clock.clock());
    let script = Script::<(), &str>::new(&clock);
    let deadline = Deadline::at(clock.now());
    let run = pipeline.run(|attempt| script.play(attempt)).until(deadline);
    let error = block_on(&clock, run).unwrap_err();
    assert_eq!(error.attempts(), 0);
    assert!(error.is_timeout());
}

#[test]
fn time_left_is_recomputed_after_every_wait() {
    // The clock runs on by itself while the call waits, as on a machine that was asleep.
    let clock = ManualClock::new();
    let pipeline = Pipeline::new()
        .deadline(ms(1000))
        .retry(Retry::constant(ms(100)))
        .clock(clock.clock());
    let script = Script::<(), _>::new(&clock).err("a").ok(());
    let executor = evenkeel::testing::Executor::new(&clock);
    let playing = script.clone();
    let task = executor.spawn(async move { pipeline.run(|it| playing.play(it)).await });
    executor.run_until_idle();
    clock.advance(ms(5000));
    executor.run_until_idle();
    let error = task.take().expect("done").expect_err("too late");
    assert!(error.is_timeout());
    assert_eq!(error.attempts(), 1);
    assert_eq!(error.report().failures().len(), 1);
}

#[test]
fn a_length_beyond_every_clock_is_no_limit() {
    let clock = ManualClock::new();
    let pipeline = Pipeline::new()
        .deadline(Duration::MAX)
        .timeout(Duration::MAX)
        .retry(Retry::new(Backoff::constant(Duration::MAX)).max_attempts(u32::MAX))
        .clock(clock.clock());
    let script = Script::<(), _>::new(&clock).err("a").after(ms(1));
    let error = block_on(&clock, pipeline.run(|attempt| script.play(attempt))).unwrap_err();
    assert_eq!(error.report().stop(), Some(Stop::DeadlineTooClose));
}

#[tokio::test(start_paused = true)]
async fn the_default_clock_follows_tokios_pause() {
    let begun = tokio::time::Instant::now();
    let pipeline = Pipeline::new()
        .deadline(ms(60_000))
        .retry(Retry::constant(ms(20_000)))
        .timeout(ms(5_000));
    let stuck = std::future::pending::<Result<(), &str>>;
    let error = pipeline.run(|_| stuck()).await.unwrap_err();
    // 5 s, 20 s, 5 s, 20 s, 5 s: fifty-five seconds that nobody waited for.
    assert_eq!(error.attempts(), 3);
    assert!(begun.elapsed() >= ms(55_000) && begun.elapsed() < ms(55_100));
}
