//! Unit tests for code that retries: minutes of waiting in milliseconds, the same every time.
//!
//! The first part is an application. The second is its tests: each would be a `#[test]`, and here
//! `main` calls them. Nothing sleeps, no socket is opened, and no runtime is needed.
//!
//! `cargo run --example unit_testing --all-features`

use std::future::Future;
use std::io;
use std::time::{Duration, Instant};

use evenkeel::clock::Why;
use evenkeel::http::Http;
use evenkeel::report::Stop;
use evenkeel::testing::{Executor, ManualClock, Reply, Script, ScriptedService, block_on};
use evenkeel::{Attempt, Budget, Error, Pipeline, Report, Retry, Rng};
use http::{Request, Response};
use tower::{Layer, Service, ServiceExt};

// The application.

/// How every call to the bank is made. A test puts its own clock in, and nothing else.
fn bank_policies() -> Pipeline<Http> {
    Pipeline::http().deadline(10 * MINUTE)
}

/// Asks the bank to `verb` an account. Any client that is a tower service will do.
async fn ask_bank<S, B>(bank: S, verb: &str, account: u32) -> Result<Response<B>, S::Error>
where
    S: Service<Request<String>, Response = Response<B>>,
{
    let request = Request::builder()
        .method(verb)
        .uri(format!("http://bank/accounts/{account}"))
        .body(String::new());
    bank.oneshot(request.expect("a valid request")).await
}

/// Writes the day's bookings to the archive. Nobody waits for it, so it has an hour.
async fn archive<F, Fut>(policies: &Pipeline, write: F) -> Result<String, Error<&'static str>>
where
    F: FnMut(Attempt) -> Fut,
    Fut: Future<Output = Result<u32, &'static str>>,
{
    let written = policies.run(write).await?;
    Ok(format!("{written} bookings"))
}

fn archive_policies() -> Pipeline {
    let retry = Retry::exponential(MINUTE).max_attempts(6);
    Pipeline::new().deadline(60 * MINUTE).retry(retry)
}

// Its tests.

fn a_maintenance_page_is_waited_out() {
    let clock = ManualClock::new();
    let bank = ScriptedService::new(
        &clock,
        [
            Reply::status(503).header("retry-after", 120),
            Reply::status(503).header("retry-after", 240),
            Reply::status(200),
        ],
    );
    let client = bank_policies().clock(clock.clock()).layer(bank.clone());

    let response = block_on(&clock, ask_bank(client, "GET", 7)).expect("an answer");

    assert_eq!(response.status(), 200);
    let asked: Vec<_> = bank.seen().iter().map(|request| request.at).collect();
    assert_eq!(asked.len(), 3);
    assert!(is_soon_after(2 * MINUTE, asked[1]), "{asked:?}");
    assert!(is_soon_after(asked[1] + 4 * MINUTE, asked[2]), "{asked:?}");
}

fn what_one_call_was_told_holds_for_the_others() {
    let clock = ManualClock::new();
    let closed = Reply::status(503).header("retry-after", 120);
    let bank = ScriptedService::new(&clock, [closed, Reply::status(200)]);
    let policies = bank_policies();
    let client = policies.clock(clock.clock()).layer(bank.clone());

    // The payment may have been made, so it ends here. Nobody else asks for two minutes.
    let paid = block_on(&clock, ask_bank(client.clone(), "POST", 7)).expect("an answer");
    assert_eq!(
        (paid.status().as_u16(), clock.elapsed()),
        (503, Duration::ZERO)
    );
    let seen = block_on(&clock, ask_bank(client, "GET", 8)).expect("an answer");

    assert_eq!(seen.status(), 200);
    assert!(is_soon_after(2 * MINUTE, bank.seen()[1].at));
    let report = seen.extensions().get::<Report>().expect("it had to wait");
    assert_eq!((report.attempts(), report.parked()), (1, clock.elapsed()));
}

fn a_wait_that_would_pass_the_deadline_is_not_begun() {
    let clock = ManualClock::new();
    let closed = Reply::status(503).header("retry-after", 240);
    let bank = ScriptedService::new(&clock, [closed]);
    let policies = bank_policies().deadline(3 * MINUTE);
    let client = policies.clock(clock.clock()).layer(bank.clone());

    let response = block_on(&clock, ask_bank(client, "GET", 7)).expect("an answer");

    assert_eq!(response.status(), 503);
    assert_eq!(clock.elapsed(), Duration::ZERO);
    let report = response.extensions().get::<Report>().expect("a report");
    assert_eq!(report.stop(), Some(Stop::DeadlineTooClose));
    assert_eq!(report.retry_after(), Some(4 * MINUTE));
}

fn a_payment_that_may_have_been_made_is_not_made_again() {
    let clock = ManualClock::new();
    let bank = ScriptedService::new(&clock, [Reply::reset(), Reply::status(200)]);
    let client = bank_policies().clock(clock.clock()).layer(bank.clone());

    let error = block_on(&clock, ask_bank(client, "POST", 7)).expect_err("no answer");

    let own = error.operation().map(io::Error::kind);
    assert_eq!(own, Some(io::ErrorKind::ConnectionReset));
    assert!(matches!(error.report().stop(), Some(Stop::NotSafe(_))));
    assert_eq!(bank.seen().len(), 1);
}

fn a_payment_that_never_left_is_made_again() {
    let clock = ManualClock::new();
    let bank = ScriptedService::new(&clock, [Reply::refuse_stream(), Reply::status(200)]);
    let client = bank_policies().clock(clock.clock()).layer(bank.clone());

    let response = block_on(&clock, ask_bank(client, "POST", 7)).expect("an answer");

    assert_eq!(response.status(), 200);
    assert_eq!(bank.seen().len(), 2);
}

fn the_archive_is_written_within_the_hour() {
    let clock = ManualClock::new();
    let script = Script::new(&clock)
        .err("locked")
        .err("locked")
        .ok(1204)
        .after(5 * MINUTE);
    let policies = archive_policies().clock(clock.clock()).rng(Rng::seeded(1));

    let written = block_on(&clock, archive(&policies, |attempt| script.play(attempt)));

    assert_eq!(written.as_deref(), Ok("1204 bookings"));
    let waits = clock.waits();
    assert!(waits[0] <= MINUTE && waits[1] <= MINUTE, "{waits:?}");
    assert_eq!(clock.elapsed(), waits[0] + waits[1] + 5 * MINUTE);
}

fn the_same_seed_gives_the_same_waits() {
    let waits_with = |seed| {
        let clock = ManualClock::new();
        let policies = archive_policies().clock(clock.clock());
        let policies = policies.rng(Rng::seeded(seed));
        let locked = archive(&policies, |_| async { Err("locked") });
        let error = block_on(&clock, locked).expect_err("it stays locked");
        assert_eq!(error.attempts(), 6);
        clock.waits()
    };

    assert_eq!(waits_with(1).len(), 5);
    assert_eq!(waits_with(1), waits_with(1));
    assert_ne!(waits_with(1), waits_with(2));
}

fn a_write_that_hangs_is_cut_off() {
    let clock = ManualClock::new();
    let policies = archive_policies()
        .timeout(10 * MINUTE)
        .retry(Retry::constant(MINUTE))
        .clock(clock.clock());
    let script = Script::new(&clock).hang().ok(1204);
    let executor = Executor::new(&clock);
    let play = script.clone();
    let task =
        executor.spawn(async move { archive(&policies, |attempt| play.play(attempt)).await });

    // By hand: one step, and a look at what everybody waits for.
    executor.run_until_idle();
    let pending = clock.pending();
    assert_eq!(pending.len(), 1);
    assert_eq!(pending[0].why, Why::AttemptTimeout);
    clock.advance(10 * MINUTE);
    executor.run_until_idle();
    assert!(!task.is_finished());
    assert_eq!(clock.pending()[0].why, Why::Backoff);
    clock.advance(MINUTE);
    executor.run_until_idle();

    assert_eq!(task.take(), Some(Ok("1204 bookings".to_owned())));
    assert_eq!(script.begun(), [Duration::ZERO, 11 * MINUTE]);
}

fn a_hundred_calls_in_an_outage_make_at_most_thirteen_extra_attempts() {
    let clock = ManualClock::new();
    let budget = Budget::default().capacity(3);
    let retry = Retry::exponential(Duration::from_secs(1)).budget(budget.clone());
    let policies = Pipeline::new().retry(retry).clock(clock.clock());
    let executor = Executor::new(&clock);
    for _ in 0..100 {
        let policies = policies.clone();
        let down = |_: Attempt| async { Err::<(), _>("down") };
        drop(executor.spawn(async move { policies.run(down).await }));
    }

    let left = executor.run();

    assert_eq!(left, 0, "all calls came to an end");
    // Three to begin with, and one for every ten calls.
    assert!(budget.snapshot().extra_attempts <= 3 + 10);
}

fn main() {
    let began = Instant::now();
    prove(a_maintenance_page_is_waited_out);
    prove(what_one_call_was_told_holds_for_the_others);
    prove(a_wait_that_would_pass_the_deadline_is_not_begun);
    prove(a_payment_that_may_have_been_made_is_not_made_again);
    prove(a_payment_that_never_left_is_made_again);
    prove(the_archive_is_written_within_the_hour);
    prove(the_same_seed_gives_the_same_waits);
    prove(a_write_that_hangs_is_cut_off);
    prove(a_hundred_calls_in_an_outage_make_at_most_thirteen_extra_attempts);
    println!("in {:.1?}", began.elapsed());
}

/// Never before the server wants it, and then soon: each client begins at a moment of its own, for a
/// fleet is not to come back as one.
fn is_soon_after(wanted: Duration, at: Duration) -> bool {
    (wanted..=wanted + MINUTE).contains(&at)
}

/// Runs a test. Its name is the sentence it proves.
fn prove<T: Fn()>(test: T) {
    test();
    let path = std::any::type_name::<T>();
    let name = path.rsplit("::").next().unwrap_or(path);
    println!("proved: {}", name.replace('_', " "));
}

const MINUTE: Duration = Duration::from_secs(60);
