//! Any async call under a pipeline. No HTTP, no server, no feature.
//!
//! A shop asks its warehouse for prices. The pipeline repeats what can pass, leaves alone what
//! can't, ends each call in time, and lets all calls together make only so many extra attempts.
//!
//! `cargo run --example plain`

use std::time::Duration;

use evenkeel::budget::Ratio;
use evenkeel::report::Stop;
use evenkeel::verdict::{self, Kind, Verdict};
use evenkeel::{Attempt, Budget, Pipeline, Retry};

#[derive(Debug, PartialEq, thiserror::Error)]
enum Refusal {
    #[error("the warehouse is busy")]
    Busy,
    #[error("there is no such item")]
    NoSuchItem,
}

/// Stands for a database, a queue, a device: anything that is slow, busy or wrong now and then.
async fn price(item: &str, attempt: Attempt) -> Result<u32, Refusal> {
    match item {
        "lamp" if attempt.number() < 3 => Err(Refusal::Busy),
        "lamp" => Ok(25),
        "rug" => Err(Refusal::Busy),
        "safe" => std::future::pending().await,
        _ => Err(Refusal::NoSuchItem),
    }
}

/// What an outcome means is the one thing the pipeline can't know by itself.
fn meaning(outcome: Result<&u32, &Refusal>) -> Verdict {
    match outcome {
        Ok(_) => Verdict::success(),
        Err(Refusal::Busy) => Verdict::new(Kind::Overloaded),
        Err(Refusal::NoSuchItem) => Verdict::new(Kind::RequestFault),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let budget = Budget::new(Ratio::percent(20)).capacity(10);
    let retry = Retry::exponential(Duration::from_millis(5)).budget(budget.clone());
    let pipeline = Pipeline::new()
        .deadline(Duration::from_millis(200))
        .retry(retry)
        .timeout(Duration::from_millis(80))
        .classify(verdict::by(meaning));

    println!("full at first:       {}", gauge(&budget));

    // Busy twice, then it answers. The caller sees only the answer.
    let lamp = pipeline.run(|attempt| price("lamp", attempt)).await;
    assert_eq!(lamp, Ok(25));
    println!("lamp: 25             {}", gauge(&budget));

    // Asking again would get the same answer, so nobody does.
    let error = pipeline.run(|attempt| price("sofa", attempt)).await;
    let error = error.expect_err("there is no sofa");
    assert_eq!(error.report().stop(), Some(Stop::NotRetryable));
    assert_eq!(error.operation(), Some(&Refusal::NoSuchItem));
    println!("sofa: {error}");

    // It hangs. Each attempt has 80 ms, and all of them together 200.
    let error = pipeline.run(|attempt| price("safe", attempt)).await;
    let error = error.expect_err("nobody can open it");
    assert!(error.is_timeout());
    println!("safe: {error}");
    println!("                     {}", gauge(&budget));

    // An outage: every attempt fails. The budget lets the first calls try again; then it is empty
    // and earns one extra attempt for every five calls.
    let mut stopped_by_budget = 0;
    for call in 1..=30 {
        let error = pipeline.run(|attempt| price("rug", attempt)).await;
        let error = error.expect_err("the outage lasts");
        if error.report().stop() == Some(Stop::BudgetExhausted) {
            stopped_by_budget += 1;
        }
        if call % 6 == 0 {
            println!("outage, call {call:>2}:     {}", gauge(&budget));
        }
    }

    let total = budget.snapshot();
    println!(
        "{} calls made {} extra attempts; the budget refused another {stopped_by_budget} times",
        total.first_attempts, total.extra_attempts,
    );
    // 10 to begin with, and 20 % of what was asked for: never more, whatever fails.
    assert!(total.extra_attempts <= 10 + total.first_attempts / 5);
}

/// A full bucket is ten marks long.
fn gauge(budget: &Budget) -> String {
    let left = budget.snapshot().available;
    let marks = (1..=10).map(|mark| if f64::from(mark) <= left { '#' } else { '.' });
    format!("budget {} {left:.1}", marks.collect::<String>())
}
