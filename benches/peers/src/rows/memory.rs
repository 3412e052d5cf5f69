use std::future::{Future, Pending, pending};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use evenkeel::{Breaker, Key, Keyed, Rng};
use http::{Method, Request, Response};
use layered::Service as _;
use seatbelt::breaker::BreakerId;
use tower::{Layer as _, Service as _, service_fn};
use tower_resilience::circuitbreaker::CircuitBreakerLayer;

use crate::cases::http::{by_host, request};
use crate::cases::{self, done};
use crate::heap::held;
use crate::measure::{Goal, Role, Row, Unit, known};
use crate::peers::{self, fast, ready_service};
use crate::rows::breaker::{consecutive, recloser};
use crate::rows::pipeline::{self, Breakers};

pub fn breaker() -> Row {
    Row::new(
        "memory of a breaker",
        Unit::Bytes,
        Goal::AtMost(256.0),
        "The value and all it has allocated, after one call; evenkeel with its window of ten buckets. A peer that knows only the last 100 calls, \
         or how many failed in a row, needs less to know.",
    )
    .with(Role::Ours, "evenkeel", known(each(Breaker::new, drive)))
    .with(
        Role::Aside,
        "evenkeel, failures in a row",
        known(each(cases::breaker::in_a_row, drive)),
    )
    .with(
        Role::Aside,
        "evenkeel, the last 100 calls",
        known(each(cases::breaker::by_calls, drive)),
    )
    .with(
        Role::Aside,
        "recloser, the last 100 calls",
        known(each(recloser, |it| drop(it.call(|| Ok::<_, ()>(7))))),
    )
    .with(Role::Aside, "failsafe, failures in a row", {
        use failsafe::CircuitBreaker as _;
        known(each(consecutive, |it| drop(it.call(|| Ok::<_, ()>(7)))))
    })
    .with(Role::Peer, "seatbelt", {
        let clock = fast();
        let make = || peers::seatbelt_breaker(&clock, |it| it);
        known(each(make, |it| done(it.execute(7))))
    })
    .with(Role::Peer, "tower-resilience", {
        let make = || {
            let layer = CircuitBreakerLayer::builder().sliding_window_size(100);
            layer.build().expect("valid").layer(ready_service())
        };
        known(each(make, |it| done(it.call(7))))
    })
}

pub fn key() -> Row {
    Row::new(
        "memory of a key with its breaker",
        Unit::Bytes,
        Goal::AtMost(320.0),
        "10,000 keys with a breaker each, the table included. The map by hand has the last 100 calls of recloser and strings of 16 bytes \
         as its keys.",
    )
    .with(Role::Ours, "evenkeel", {
        let (now, breakers) = (Instant::now(), Keyed::new(Breaker::new()));
        known(per_key(|key| drop(breakers.get(Key::of(key), || now))))
    })
    .with(Role::Peer, "seatbelt", {
        let service = peers::seatbelt_breaker(&fast(), |it| {
            it.breaker_id(|key: &u32| BreakerId::from(u64::from(*key)))
        });
        known(per_key(|key| done(service.execute(key))))
    })
    .with(Role::Peer, "by hand", {
        let breakers = Breakers::default();
        known(per_key(|key| drop(breakers.of(&format!("{key:>16}")))))
    })
}

pub fn call() -> Row {
    Row::new(
        "memory of a waiting call, HTTP, by host",
        Unit::Bytes,
        Goal::AtMost(1024.0),
        "The case *whole pipeline, by host*, while its first attempt waits: the future and what is allocated for it, \
         the request that is kept for another attempt included. The service keeps nothing of the request.",
    )
    .with(Role::Floor, "a request", {
        known(waiting(|| Holding(request(Method::GET))))
    })
    .with(Role::Ours, "evenkeel", {
        let mut service = by_host().layer(service_fn(hang as Hang));
        known(waiting(|| service.call(request(Method::GET))))
    })
    .with(Role::Peer, "by hand, no budget", {
        let breakers = &Breakers::default();
        known(waiting(|| {
            pipeline::by_hand(breakers, request(Method::GET), hang)
        }))
    })
    .with(Role::Peer, "tower, no breaker", {
        let mut service = pipeline::tower_stack(hang as Hang);
        known(waiting(|| service.call(request(Method::GET))))
    })
    .with(Role::Peer, "seatbelt, no budget", {
        let service = &pipeline::seatbelt_stack(hang as Hang);
        known(waiting(|| service.execute(request(Method::GET))))
    })
    .with(Role::Peer, "tower-resilience, one key", {
        let mut service = pipeline::tower_resilience(service_fn(hang as Hang));
        known(waiting(|| service.call(request(Method::GET))))
    })
}

/// Keeps a request, to send it again.
struct Holding(#[allow(dead_code)] Request<String>);

impl Future for Holding {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

type Hang = fn(Request<String>) -> Pending<Result<Response<String>, io::Error>>;

fn hang(request: Request<String>) -> Pending<Result<Response<String>, io::Error>> {
    drop(request);
    pending()
}

/// The future and what is allocated once it has been polled, the request with it.
fn waiting<F: Future>(mut make: impl FnMut() -> F) -> usize {
    let mut begin = || {
        let mut call = Box::pin(make());
        let waits = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(waits.is_pending());
        call
    };
    // What is made once and for all calls is no part of a call.
    drop(begin());
    held(begin).1
}

fn each<T>(make: impl Fn() -> T, mut once: impl FnMut(&mut T)) -> usize {
    const MANY: usize = 1000;
    drop(make());
    let (all, heap) = held(|| {
        let mut all = Vec::with_capacity(MANY);
        for _ in 0..MANY {
            let mut one = make();
            once(&mut one);
            all.push(one);
        }
        all
    });
    drop(all);
    heap / MANY
}

fn per_key(mut get: impl FnMut(u32)) -> usize {
    const KEYS: u32 = 10_000;
    let ((), heap) = held(|| (0..KEYS).for_each(&mut get));
    heap / KEYS as usize
}

fn drive(breaker: &mut Breaker) {
    cases::breaker::call(breaker, Instant::now(), &Rng::default());
}
