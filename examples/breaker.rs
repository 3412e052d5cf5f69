//! What a circuit breaker does in an outage, second by second.
//!
//! A shop calls two services, `billing` and `orders`, four times a second each, and keeps a breaker
//! for each of them. Billing is down for seven seconds. The timeline shows what its breaker makes
//! of that, and that the other one doesn't care. Then come shorter scenes: probes, retries that
//! wait for a breaker, and breakers set by hand.
//!
//! Time is a manual clock and chance is seeded: it is over at once, and the same every time.
//!
//! `cargo run --example breaker --all-features`

use std::cell::Cell;
use std::time::Duration;

use evenkeel::breaker::{Snapshot, State};
use evenkeel::error::Reason;
use evenkeel::event::Change;
use evenkeel::report::Stop;
use evenkeel::testing::{Executor, ManualClock, Script, block_on};
use evenkeel::{Breaker, Cause, Error, Event, Key, Keyed, Pipeline, Retry, Rng, Verdict};

fn main() {
    an_outage();
    one_probe_at_a_time();
    a_retry_waits_for_the_breaker();
    maintenance();
    only_watching();
}

fn an_outage() {
    println!("billing is down from 2 s to 9 s    (. answered  x failed  - refused, not sent)\n");
    println!("        billing  orders   the breaker of billing");
    let clock = ManualClock::new();
    let breakers = Keyed::new(Breaker::new());
    let pipeline = shop(&clock).breaker(breakers.clone());
    let (billing, orders) = (Key::of("billing"), Key::of("orders"));
    let breaker = breakers.get(billing, || clock.now()).into_inner();

    let sent = Cell::new(0);
    let ask_billing = || async {
        sent.set(sent.get() + 1);
        let down = (2..9).contains(&clock.elapsed().as_secs());
        if down { Err("down") } else { Ok(()) }
    };
    let (mut refused, mut back) = (0, None);
    for second in 0..20 {
        let (mut of_billing, mut of_orders) = (String::new(), String::new());
        for _ in 0..4 {
            let got = block_on(&clock, pipeline.run(|_| ask_billing()).keyed(billing));
            of_billing.push(mark(&got));
            match got {
                // Refused at once, and told when to come back.
                Err(error) if is_refused(&error) => {
                    refused += 1;
                    assert_eq!((error.attempts(), error.elapsed()), (0, Duration::ZERO));
                    assert!(error.retry_at().is_some_and(|at| at > clock.now()));
                }
                Ok(()) if second >= 9 => back = back.or(Some(clock.elapsed())),
                _ => {}
            }
            let got = block_on(&clock, pipeline.run(|_| async { FINE }).keyed(orders));
            of_orders.push(mark(&got));
            clock.advance(Duration::from_millis(250));
        }
        let state = describe(&breaker.snapshot(clock.now()));
        println!("{second:>4} s  {of_billing:<9}{of_orders:<9}{state}");
        assert_eq!(of_orders, "....", "the breaker of orders is another one");
    }

    // What was refused never arrived; of the 28 calls in the outage only a few did.
    assert_eq!(sent.get() + refused, 80);
    let total = breaker.snapshot(clock.now());
    assert_eq!((total.state, total.ramp_left), (State::Closed, None));
    // Cooldowns end at 5 s, so that is the most that is lost once billing is well again.
    let back = back.expect("billing came back");
    assert!(back <= Duration::from_millis(9000 + 5000 + 250), "{back:?}");
    println!("\n{} trips; {refused} of 80 calls refused\n", total.trips);
}

fn one_probe_at_a_time() {
    println!("three calls at once, as the cooldown ends");
    let clock = ManualClock::new();
    let breaker = Breaker::new().consecutive_failures(1);
    let pipeline = shop(&clock).breaker(breaker.clone());
    let slow = Duration::from_millis(40);
    let script = Script::new(&clock).err("down").ok(()).after(slow);
    let error = block_on(&clock, pipeline.run(|it| script.play(it))).expect_err("it is down");
    assert_eq!(error.operation(), Some(&"down"));
    let snapshot = breaker.snapshot(clock.now());
    clock.advance(snapshot.retry_after.expect("it is open for a time"));

    let executor = Executor::new(&clock);
    let calls = [1, 2, 3].map(|_| {
        let (pipeline, script) = (pipeline.clone(), script.clone());
        executor.spawn(async move { pipeline.run(|it| script.play(it)).await })
    });
    executor.run_until_idle();
    assert_eq!(breaker.snapshot(clock.now()).probes, 1);
    executor.run();
    let [first, second, third] = calls.map(|call| call.take().expect("it is over"));
    for late in [second, third] {
        let error = late.expect_err("the probe's place is taken");
        // At the latest when the probe is given up.
        assert!(is_refused(&error) && error.retry_at().is_some());
    }
    assert_eq!(first, Ok(()));
    assert_eq!(script.begun().len(), 2);
    println!("    one was sent, two were refused\n");
}

fn a_retry_waits_for_the_breaker() {
    for (deadline, in_time) in [(10_000, true), (500, false)] {
        println!("a call with retries, and {deadline} ms to its deadline");
        let clock = ManualClock::new();
        let breaker = Breaker::new().consecutive_failures(2);
        let pipeline = shop(&clock)
            .deadline(Duration::from_millis(deadline))
            .retry(Retry::constant(Duration::from_millis(100)).max_attempts(4))
            .breaker(breaker.clone());
        let script = Script::new(&clock).err("down").err("down").ok(());
        let got = block_on(&clock, pipeline.run(|it| script.play(it)));
        if in_time {
            assert_eq!(got, Ok(()));
            assert_eq!(breaker.snapshot(clock.now()).state, State::Closed);
        } else {
            // No use in waiting: it fails now, with its own error, and says when to come back.
            let error = got.expect_err("there is no time");
            assert_eq!(error.report().stop(), Some(Stop::DeadlineTooClose));
            assert_eq!(error.elapsed(), Duration::from_millis(100));
            let open_for = breaker.snapshot(clock.now()).retry_after;
            assert_eq!(error.retry_after(), open_for);
        }
        let attempts: Vec<_> = script.begun().into_iter().map(seconds).collect();
        println!("    attempts at {}\n", attempts.join(", "));
    }
}

fn maintenance() {
    println!("an operator takes billing out for maintenance");
    let clock = ManualClock::new();
    let breaker = Breaker::new();
    let pipeline = shop(&clock).breaker(breaker.clone());
    let script = Script::<_, &str>::new(&clock).ok(());

    let change = breaker.force_open(clock.now()).expect("it was closed");
    println!("    {} -> {} ({})", change.from, change.to, change.why);
    clock.advance(Duration::from_secs(3600));
    let error = block_on(&clock, pipeline.run(|it| script.play(it))).expect_err("it is open");
    // How long it takes only the operator knows.
    assert!(is_refused(&error) && error.retry_at().is_none());
    println!("    an hour later: {error}");

    breaker.automatic(clock.now());
    assert_eq!(block_on(&clock, pipeline.run(|it| script.play(it))), Ok(()));
    println!("    set to automatic: answered\n");
}

fn only_watching() {
    println!("before it is trusted, a breaker may only watch");
    let clock = ManualClock::new();
    let breaker = Breaker::new();
    breaker.watch_only(clock.now());
    let pipeline = shop(&clock).breaker(breaker.clone());
    let sent = Cell::new(0);
    for _ in 0..8 {
        let call = pipeline.run(|_| async {
            sent.set(sent.get() + 1);
            Err::<(), _>("down")
        });
        let error = block_on(&clock, call).expect_err("it is down");
        assert!(!is_refused(&error));
    }
    assert_eq!(sent.get(), 8);

    let permit = breaker.try_acquire(clock.now(), &Rng::seeded(5));
    let permit = permit.expect("it refuses nothing");
    let refused = permit.would_refuse().expect("but would have");
    let wait = refused.retry_at().expect("it is open for a time") - clock.now();
    let wait = seconds(wait);
    println!("    8 of 8 sent; it would refuse the next, for {wait}");
    permit.record(Verdict::success(), clock.now(), &Rng::seeded(5));
}

/// No retries, a manual clock, seeded chance, and changes of breakers are printed.
fn shop(clock: &ManualClock) -> Pipeline {
    let now = clock.clone();
    let pipeline = Pipeline::new().clock(clock.clock()).rng(Rng::seeded(5));
    pipeline.observer(move |event: &Event| {
        let at = now.elapsed().as_secs_f64();
        match event {
            Event::Changed {
                change: Change::Breaker(it),
                ..
            } => {
                print!("{at:>6.2} s  {} -> {}: {}", it.from, it.to, it.why);
                let wait = it.retry_after.map(seconds);
                println!("{}", wait.map_or(String::new(), |it| format!(", for {it}")));
            }
            Event::Retry { wait, .. } => {
                let (length, reason) = (seconds(wait.length()), wait.reason());
                println!("{at:>6.2} s  waits {length} ({reason})");
            }
            _ => {}
        }
    })
}

fn is_refused<E>(error: &Error<E>) -> bool {
    matches!(error.cause(), Cause::Rejected(it) if it.reason() == Reason::BreakerOpen)
}

fn mark<E>(got: &Result<(), Error<E>>) -> char {
    match got {
        Ok(()) => '.',
        Err(error) if is_refused(error) => '-',
        Err(_) => 'x',
    }
}

/// A line of a dashboard.
fn describe(it: &Snapshot) -> String {
    match (it.state, it.ramp_left, it.retry_after) {
        (State::Closed, Some(left), _) => format!("closed, all calls in {}", seconds(left)),
        (State::Closed, None, _) => format!("closed, {} of {} calls failed", it.failures, it.calls),
        (state, _, Some(left)) => format!("{state}, a probe in {}", seconds(left)),
        (state, ..) => state.to_string(),
    }
}

fn seconds(length: Duration) -> String {
    format!("{:.1} s", length.as_secs_f64())
}

const FINE: Result<(), &str> = Ok(());
