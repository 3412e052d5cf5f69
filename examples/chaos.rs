//! What a client is worth is seen when things go wrong, so here they do, to order.
//!
//! A shop asks for prices and takes payments. Faults made to order first show what a retry policy
//! saves, then find a bug: payments that are declared idempotent and aren't are taken twice, but only
//! when an answer is lost on its way back, which no test against a healthy service ever sees.
//!
//! `cargo run --example chaos --features testing`

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::time::Duration;

use evenkeel::budget::Ratio;
use evenkeel::chaos::{Chaos, Effect, Fault};
use evenkeel::testing::{ManualClock, block_on};
use evenkeel::{Budget, Pipeline, Retry, Rng};
use http::StatusCode;

fn main() {
    println!("1,000 prices, a fifth of all attempts fails, some are slow:");
    let alone = prices(1);
    let with_retries = prices(3);
    assert!(alone < 850, "a fifth is a fifth");
    // The odds of three failures in a row are one in 125; seeded, so this is so in every run.
    assert!(with_retries > 980);

    println!("100 payments of 10, while answers get lost:");
    let wrong = payments("declared idempotent, and aren't", true, false);
    assert!(wrong.taken > wrong.asked, "the bug, found");

    let once = payments("not declared idempotent", false, false);
    assert!(once.taken == once.asked && once.unsure > 0);

    let keyed = payments("idempotent by a payment's number", true, true);
    assert!(keyed.taken == keyed.asked && keyed.unsure == 0);
}

/// How many of 1,000 calls are answered, with so many attempts at most.
fn prices(attempts: u32) -> usize {
    let clock = ManualClock::new();
    let chaos = Chaos::new()
        .seed(7)
        .sometimes(Ratio::percent(12), Fault::status(StatusCode::BAD_GATEWAY))
        .sometimes(Ratio::percent(5), Fault::Connect)
        .sometimes(Ratio::percent(4), Fault::Hang)
        .sometimes(
            Ratio::percent(30),
            Effect::delay_between(Duration::from_millis(5), Duration::from_millis(200)),
        );
    let retry = Retry::exponential(Duration::from_millis(50))
        .max_attempts(attempts)
        .budget(Budget::new(Ratio::percent(50)));
    let pipeline = Pipeline::new()
        .retry(retry)
        .timeout(Duration::from_secs(1))
        .chaos(chaos.clone())
        .rng(Rng::seeded(7))
        .clock(clock.clock());

    let price = || pipeline.run(|_| async { Ok::<_, std::io::Error>(25) });
    let answered = (0..1000).filter(|_| block_on(&clock, price()).is_ok());
    let answered = answered.count();

    let did = chaos.snapshot();
    println!(
        "  {attempts} at most: {answered} answered, {} attempts; {} statuses, {} refused, {} hung, {} slow",
        did.attempts, did.statuses, did.connects, did.hangs, did.delays,
    );
    answered
}

/// In coins.
struct Books {
    asked: u32,
    taken: u32,
    /// In payments: nobody can tell whether they were taken.
    unsure: u32,
}

fn payments(kind: &str, idempotent: bool, knows_numbers: bool) -> Books {
    let clock = ManualClock::new();
    // The money is taken, and the connection breaks before the answer.
    let chaos = Chaos::new()
        .seed(7)
        .sometimes(Ratio::percent(10), Fault::Lost);
    let pipeline = Pipeline::new()
        .idempotent(idempotent)
        .retry(Retry::exponential(Duration::from_millis(50)).max_attempts(5))
        .chaos(chaos.clone())
        .rng(Rng::seeded(7))
        .clock(clock.clock());

    let (taken, seen) = (Cell::new(0), RefCell::new(HashSet::new()));
    let take = |number: u32| {
        let is_new = seen.borrow_mut().insert(number);
        if is_new || !knows_numbers {
            taken.set(taken.get() + 10);
        }
    };
    let mut unsure = 0;
    for number in 0..100 {
        let payment = pipeline.run(|_| {
            take(number);
            async { Ok::<_, std::io::Error>(()) }
        });
        unsure += u32::from(block_on(&clock, payment).is_err());
    }

    let books = Books {
        asked: 1000,
        taken: taken.get(),
        unsure,
    };
    println!(
        "  {kind}: asked for {}, took {}, {unsure} customers don't know; {} answers lost",
        books.asked,
        books.taken,
        chaos.snapshot().lost,
    );
    books
}
