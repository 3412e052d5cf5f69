//! What a call allocates, counted.
#![cfg(all(feature = "testing", feature = "tower"))]

use std::future::{Future, Ready, ready};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use evenkeel::budget::Ratio;
use evenkeel::chaos::Fault;
use evenkeel::testing::{ManualClock, block_on};
use evenkeel::{Budget, Pipeline, Retry};
use http::{Request, Response};
use tower::{Layer, Service, service_fn};

#[test]
fn a_call_that_succeeds_at_once_allocates_nothing_of_its_own() {
    let clock = ManualClock::new();
    let retry = || Retry::exponential(Duration::from_millis(50)).budget(Budget::default());

    let plain = Pipeline::new()
        .deadline(Duration::from_secs(10))
        .retry(retry())
        .timeout(Duration::from_secs(2))
        .window(evenkeel::Window::new())
        .clock(clock.clock());
    let run = || {
        let _ = now(plain.run(|_| ready(Ok::<_, ()>(7))));
    };
    assert_eq!(allocations(run), 0, "closure");
    let live = plain.clone().reloadable();
    let run = || {
        let _ = now(live.run(|_| ready(Ok::<_, ()>(7))));
    };
    assert_eq!(allocations(run), 0, "reloadable");

    // Switched off, or with nothing to inject into this attempt.
    let chaos = evenkeel::Chaos::new().sometimes(Ratio::percent(0), Fault::Reset);
    let idle = plain.clone().chaos(chaos.clone());
    let run = || {
        let _ = now(idle.run(|_| ready(Ok::<_, ()>(7))));
    };
    assert_eq!(allocations(run), 0, "chaos that leaves it alone");
    chaos.off();
    assert_eq!(allocations(run), 0, "chaos that is off");
    let chosen = plain.clone().endpoints(evenkeel::Endpoints::numbered(3));
    let run = || {
        let _ = now(chosen.run(|_| ready(Ok::<_, ()>(7))));
    };
    assert_eq!(allocations(run), 0, "closure, with endpoints");

    // An incident that goes on is kept where there is room for it already.
    let recorder = evenkeel::incident::Recorder::new().clock(clock.clock());
    let told = std::sync::Mutex::new(Vec::new());
    let told = std::sync::Arc::new(told);
    let log = std::sync::Arc::clone(&told);
    let told_of = plain
        .clone()
        .observer(move |event: &evenkeel::Event| log.lock().unwrap().push(*event));
    let _ = block_on(&clock, told_of.run(|_| ready(Err::<(), _>("down"))));
    let told = told.lock().unwrap();
    let listen = |times| {
        for _ in 0..times {
            for event in &*told {
                evenkeel::event::Observer::observe(&recorder, event);
            }
            clock.advance(Duration::from_millis(700));
        }
    };
    listen(100);
    assert!(recorder.latest().is_some());
    assert_eq!(allocations(|| listen(1000)), 0, "an incident that goes on");

    // Over HTTP the headers of a request are packed before the first attempt, for others that may follow,
    // and nothing else.
    let http = Pipeline::http().clock(clock.clock());
    let answer: fn(Request<String>) -> Answer = |_| ready(Ok(Response::new(String::new())));
    let mut repeated = http.clone().layer(service_fn(answer));
    let request = || {
        Request::get("http://service/path")
            .header("accept", "text/plain")
            .body(String::new())
            .expect("valid")
    };
    // The first call to a service makes its window.
    drop(now(repeated.call(request())));
    let (first, second) = (request(), request());
    assert_eq!(
        allocations(|| drop(now(repeated.call(first)))),
        1,
        "packed once"
    );

    let mut unrepeated = http
        .retry(retry().max_attempts(1))
        .layer(service_fn(answer));
    assert_eq!(
        allocations(|| drop(now(unrepeated.call(second)))),
        0,
        "never packed"
    );

    // What failed twice and then went well has one place for its story and both failures.
    let at_once = Retry::constant(Duration::ZERO).budget(Budget::default());
    let at_once = Pipeline::new().retry(at_once).clock(clock.clock());
    let run = || {
        let call = at_once.run(|it| ready(if it.number() < 3 { Err(()) } else { Ok(7) }));
        assert_eq!(now(call).ok(), Some(7));
    };
    assert_eq!(allocations(run), 1, "two failures, then a success");
}

type Answer = Ready<Result<Response<String>, std::io::Error>>;

fn now<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("not ready at once"),
    }
}

/// Those of this thread: what the harness does meanwhile on its own is none of it.
fn allocations(f: impl FnOnce()) -> u64 {
    allocation_counter::measure(f).count_total
}
