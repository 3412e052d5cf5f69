//! A breaker and a parked service that come back without a user's call at risk.
//!
//! A ledger goes down for half a minute. Ten users a second call it all the time. Without a check the
//! breaker sends one of their calls every few seconds, to find out whether it is back; with one it sends
//! a request for a health endpoint.
//!
//! The clock is a manual one, so it takes no time.
//!
//! `cargo run --example check --features testing`

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use evenkeel::check::Check;
use evenkeel::testing::{Executor, ManualClock};
use evenkeel::{Breaker, Key, Keyed, Pipeline, Rng};

const BACK_AFTER: Duration = Duration::from_secs(30);

/// What became of the users' calls, and how many checks there were.
#[derive(Clone, Debug, Default)]
struct Outage {
    /// Calls that reached the ledger while it was down.
    at_risk: Rc<Cell<u32>>,
    /// Calls that were refused at once.
    refused: Rc<Cell<u32>>,
    /// When the first call was answered after the outage.
    well_again: Rc<RefCell<Option<Duration>>>,
    checks: Rc<Cell<u32>>,
}

fn main() {
    let without = play(None);
    let with = play(Some(Check::every(Duration::from_secs(2))));
    for (name, outage) in [("without", &without), ("with", &with)] {
        println!(
            "{name:>7} a check: {} calls at risk, {} refused, {} checks, well again after {:?}",
            outage.at_risk.get(),
            outage.refused.get(),
            outage.checks.get(),
            outage.well_again.borrow().expect("it comes back"),
        );
    }
    // The five that opened the breaker, and no other.
    assert_eq!(with.at_risk.get(), 5);
    assert!(without.at_risk.get() > 5);
    assert!(with.checks.get() > 3);
    let well_again = with.well_again.borrow().expect("it comes back");
    assert!(well_again < BACK_AFTER + Duration::from_secs(10));
}

fn play(check: Option<Check>) -> Outage {
    let clock = ManualClock::new();
    let executor = Executor::new(&clock);
    let pipeline = Pipeline::new()
        .breaker(Keyed::new(Breaker::new()))
        .timeout(Duration::from_secs(1))
        .rng(Rng::seeded(1))
        .clock(clock.clock());
    let key = Key::of("ledger");
    let outage = Outage::default();

    if let Some(check) = check {
        let (clock, count) = (clock.clone(), Rc::clone(&outage.checks));
        let healthz = move |_| {
            count.set(count.get() + 1);
            let is_back = clock.elapsed() >= BACK_AFTER;
            async move { is_back.then_some(()).ok_or("503") }
        };
        // With tokio: `tokio::spawn(pipeline.checks(key, check, healthz)?)`.
        let checks = pipeline.checks(key, check, healthz);
        let checks = checks.expect("its settings make sense");
        executor.spawn(async move { match checks.await {} });
    }
    while clock.elapsed() < BACK_AFTER * 2 {
        let (pipeline, clock_, outage) = (pipeline.clone(), clock.clone(), outage.clone());
        executor.spawn(async move {
            let call = pipeline.run(|_| {
                let is_back = clock_.elapsed() >= BACK_AFTER;
                if !is_back {
                    outage.at_risk.set(outage.at_risk.get() + 1);
                }
                async move { is_back.then_some(()).ok_or("503") }
            });
            match call.keyed(key).await {
                Ok(()) => {
                    let now = clock_.elapsed();
                    outage.well_again.borrow_mut().get_or_insert(now);
                }
                Err(error) if error.attempts() == 0 => {
                    outage.refused.set(outage.refused.get() + 1);
                }
                Err(_) => {}
            }
        });
        executor.run_until_idle();
        clock.advance(Duration::from_millis(100));
    }
    outage
}
