use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use evenkeel::{Breaker, Pipeline, Rng};
use failsafe::{CircuitBreaker as _, Config, backoff, failure_policy};
use layered::Service as _;
use recloser::Recloser;
use rustix::time::{ClockId, clock_gettime};
use seatbelt::breaker::BreakerId;
use tower::{Layer as _, Service as _, service_fn};
use tower_resilience::circuitbreaker::{CircuitBreakerLayer, SlidingWindowType};

use crate::cases::{self, Run, done, each, now};
use crate::measure::{Goal, Role, Row, Sampler, Unit};
use crate::peers::{self, Plain, answer, fast, precise, ready_service};

const HOUR: Duration = Duration::from_secs(3600);

pub fn closed_by_time() -> Row {
    Row::new(
        "breaker, closed, window of time",
        Unit::Nanoseconds,
        Goal::OfFloor(1.25),
        "Asked, and told of a success; the clock is read. evenkeel reads `Instant::now` once, and adds to \
         one of ten buckets of a true sliding window. failsafe keeps a moving average behind a mutex; \
         seatbelt's window starts anew when its time is up, and has a mutex; tower-resilience keeps a list of all calls of the window, \
         which is one of 10 ms here for that, behind an async mutex, and boxes the future. Seatbelt's *coarse* clock costs a fifth of `Instant::now` \
         and ticks every few milliseconds.",
    )
    .floor("clock read, one load, one addition", {
        let counters = [const { AtomicU64::new(0) }; 2];
        each(move || {
            black_box(Instant::now());
            black_box(counters[0].load(Ordering::Relaxed));
            black_box(counters[1].fetch_add(1, Ordering::Relaxed));
        })
    })
    .ours(cases::breaker::closed_by_the_clock())
    .aside("evenkeel, a pipeline of it around a ready future", {
        let pipeline = Pipeline::new().breaker(Breaker::new());
        each(move || done(pipeline.run(|_| answer(7))))
    })
    .peer("failsafe", {
        let delays = backoff::constant(HOUR);
        let policy =
            failure_policy::success_rate_over_time_window(0.5, 20, Duration::from_secs(10), delays);
        let breaker = Config::new().failure_policy(policy).build();
        each(move || drop(black_box(breaker.call(|| Ok::<_, ()>(7)))))
    })
    .peer("seatbelt", through_seatbelt(&precise()))
    .peer("seatbelt, coarse clock", through_seatbelt(&fast()))
    .peer("tower-resilience", {
        let layer = CircuitBreakerLayer::builder()
            .sliding_window_type(SlidingWindowType::TimeBased)
            .sliding_window_duration(Duration::from_millis(10))
            .minimum_number_of_calls(20);
        let mut service = layer.build().expect("valid").layer(ready_service());
        each(move || done(service.call(7)))
    })
}

pub fn closed_given_the_moment() -> Row {
    Row::new(
        "breaker, closed, window of time, moment given",
        Unit::Nanoseconds,
        Goal::OfFloor(1.25),
        "The same without a clock read, as in a pipeline that has read it already. The floor is what a coarse \
         clock, a load and an addition cost; no peer can be given the moment.",
    )
    .floor("coarse clock read, one load, one addition", {
        let counters = [const { AtomicU64::new(0) }; 2];
        each(move || {
            black_box(clock_gettime(ClockId::MonotonicCoarse));
            black_box(counters[0].load(Ordering::Relaxed));
            black_box(counters[1].fetch_add(1, Ordering::Relaxed));
        })
    })
    .ours(cases::breaker::closed_by_time())
}

pub fn closed_by_calls() -> Row {
    Row::new(
        "breaker, closed, the last 100 calls",
        Unit::Nanoseconds,
        Goal::Of("recloser", 0.6),
        "No clock is needed. recloser's ring takes a spin lock for each record and begins to judge when it is full.",
    )
    .floor("one load, one addition", addition())
    .ours(cases::breaker::closed_by_calls())
    .peer("recloser", through_recloser(recloser()))
    .peer("tower-resilience", {
        let layer = CircuitBreakerLayer::builder().sliding_window_size(100);
        let mut service = layer.build().expect("valid").layer(ready_service());
        each(move || done(service.call(7)))
    })
}

pub fn closed_in_a_row() -> Row {
    Row::new(
        "breaker, closed, failures in a row",
        Unit::Nanoseconds,
        Goal::Of("recloser", 0.6),
        "A success has to write only if there were failures before it. recloser can't count so; it is here with its last \
         100 calls because the goal names it.",
    )
    .floor("one load", {
        let counter = AtomicU64::new(0);
        each(move || {
            black_box(counter.load(Ordering::Relaxed));
        })
    })
    .ours(cases::breaker::closed_in_a_row())
    .aside("recloser", through_recloser(recloser()))
    .peer("failsafe", through_failsafe(consecutive()))
    .peer("tower-resilience", {
        let layer = CircuitBreakerLayer::builder().consecutive_failures(5);
        let mut service = layer.build().expect("valid").layer(ready_service());
        each(move || done(service.call(7)))
    })
}

pub fn open() -> Row {
    Row::new(
        "breaker, open, refuses",
        Unit::Nanoseconds,
        Goal::OfFloor(1.25),
        "The clock is read to know whether the cooldown is over. evenkeel's refusal knows when to come back.",
    )
    .floor("clock read, one load", {
        let until = AtomicU64::new(0);
        each(move || {
            black_box(Instant::now());
            black_box(until.load(Ordering::Relaxed));
        })
    })
    .ours(cases::breaker::open_by_the_clock())
    .peer("recloser", {
        let breaker = Recloser::custom().closed_len(1).open_wait(HOUR).build();
        for _ in 0..2 {
            let _ = breaker.call(|| Err::<u32, _>(()));
        }
        through_recloser(breaker)
    })
    .peer("failsafe", {
        let breaker = consecutive();
        for _ in 0..5 {
            let _ = breaker.call(|| Err::<u32, _>(()));
        }
        assert!(!breaker.is_call_permitted());
        through_failsafe(breaker)
    })
    .peer("seatbelt", refusing_seatbelt(&precise()))
    .peer("seatbelt, coarse clock", refusing_seatbelt(&fast()))
    .peer("tower-resilience", {
        let builder = CircuitBreakerLayer::builder()
            .sliding_window_size(1)
            .minimum_number_of_calls(1)
            .wait_duration_in_open(HOUR);
        let failing = service_fn(|_: u32| std::future::ready(Err::<u32, peers::Busy>(peers::Busy)));
        let mut service = builder.build().expect("valid").layer(failing);
        for _ in 0..3 {
            done(service.call(7));
        }
        assert!(service.is_open());
        each(move || done(service.call(7)))
    })
}

pub fn scattered() -> Row {
    Row::new(
        "breaker, closed, one of 10,000, scattered",
        Unit::Nanoseconds,
        Goal::AtMost(30.0),
        "Every call goes to another breaker: what counts is how many cache lines it touches. By time in evenkeel (moment \
         given), by the last 100 calls in recloser, in a row in failsafe.",
    )
    .floor("one addition each", {
        let counters: Vec<Line> = (0..10_000).map(|_| Line::default()).collect();
        let mut next = 0;
        each(move || {
            next = (next + 7_919) % counters.len();
            black_box(counters[next].0.fetch_add(1, Ordering::Relaxed));
        })
    })
    .ours(cases::breaker::one_of_ten_thousand())
    .peer("recloser", {
        let breakers: Vec<Recloser> = (0..10_000).map(|_| recloser()).collect();
        let mut next = 0;
        each(move || {
            next = (next + 7_919) % breakers.len();
            let _ = black_box(breakers[next].call(|| Ok::<_, ()>(7)));
        })
    })
    .peer("failsafe", {
        let breakers: Vec<_> = (0..10_000).map(|_| consecutive()).collect();
        let mut next = 0;
        each(move || {
            next = (next + 7_919) % breakers.len();
            let _ = black_box(breakers[next].call(|| Ok::<_, ()>(7)));
        })
    })
}

pub fn by_key() -> Row {
    Row::new(
        "breaker, closed, by one of 10,000 keys",
        Unit::Nanoseconds,
        Goal::None,
        "The breaker is looked up. evenkeel's registry is bounded and forgets idle keys; seatbelt's `breaker_id` is an unbounded \
         map behind a read lock, hashed by SipHash. Moment given in evenkeel, coarse clock in seatbelt.",
    )
    .ours(cases::breaker::one_of_ten_thousand_keys())
    .peer("seatbelt, coarse clock", {
        let service = peers::seatbelt_breaker(&fast(), |it| {
            it.breaker_id(|key: &u32| BreakerId::from(u64::from(*key)))
        });
        let mut next = 0;
        each(move || {
            next = (next + 7_919) % 10_000;
            done(service.execute(next));
        })
    })
}

pub fn two_threads() -> Row {
    let moment = Instant::now();
    Row::new(
        "breaker, two threads on one",
        Unit::Times,
        Goal::AtLeast(1.6),
        "Calls a second of two threads on one breaker, by those of one thread: 2 would be perfect, below 1 two threads do \
         less than one. Windows of time where there are; the last 100 calls in recloser.",
    )
    .with(Role::Floor, "an own cache line each", {
        let lines: [Line; 2] = Default::default();
        threads(move |thread, count| {
            for _ in 0..count {
                black_box(lines[thread].0.fetch_add(1, Ordering::Relaxed));
            }
        })
    })
    .with(Role::Aside, "one shared counter", {
        let line = Line::default();
        threads(move |_, count| {
            for _ in 0..count {
                black_box(line.0.fetch_add(1, Ordering::Relaxed));
            }
        })
    })
    .with(Role::Ours, "evenkeel", {
        let (breaker, rng) = (Breaker::new(), Rng::default());
        threads(move |_, count| {
            for _ in 0..count {
                cases::breaker::call(&breaker, moment, &rng);
            }
        })
    })
    .with(Role::Aside, "evenkeel, reads the clock", {
        let (breaker, rng) = (Breaker::new(), Rng::default());
        threads(move |_, count| {
            for _ in 0..count {
                cases::breaker::call(&breaker, Instant::now(), &rng);
            }
        })
    })
    .with(Role::Peer, "recloser", {
        let breaker = recloser();
        threads(move |_, count| {
            for _ in 0..count {
                let _ = black_box(breaker.call(|| Ok::<_, ()>(7)));
            }
        })
    })
    .with(Role::Peer, "failsafe", {
        let breaker = consecutive();
        threads(move |_, count| {
            for _ in 0..count {
                let _ = black_box(breaker.call(|| Ok::<_, ()>(7)));
            }
        })
    })
    .with(Role::Peer, "seatbelt, coarse clock", {
        let service = peers::seatbelt_breaker(&fast(), |it| it);
        threads(move |_, count| {
            for _ in 0..count {
                done(service.execute(7));
            }
        })
    })
}

/// A cache line, and the one that is fetched with it.
#[derive(Default)]
#[repr(align(128))]
struct Line(AtomicU64);

/// What two threads get done in a time, by what one does.
fn threads(run: impl Fn(usize, u64) + Send + Sync + 'static) -> Sampler {
    const LENGTH: Duration = Duration::from_millis(2);
    let run = Arc::new(run);
    let mut count = 10_000;
    Box::new(move || {
        let alone = loop {
            let begun = Instant::now();
            run(0, count);
            let alone = begun.elapsed();
            if alone >= LENGTH {
                break alone;
            }
            // So long that the time in which threads begin is nothing.
            count *= 2;
        };
        let gate = std::sync::Barrier::new(2);
        let together = std::thread::scope(|scope| {
            let workers = [0, 1].map(|thread| {
                let (run, gate) = (&run, &gate);
                scope.spawn(move || {
                    gate.wait();
                    let begun = Instant::now();
                    run(thread, count);
                    (begun, Instant::now())
                })
            });
            let [a, b] = workers.map(|it| it.join().expect("no panic"));
            a.1.max(b.1) - a.0.min(b.0)
        });
        2.0 * alone.as_secs_f64() / together.as_secs_f64()
    })
}

fn addition() -> Run {
    let counters = [const { AtomicU64::new(0) }; 2];
    each(move || {
        black_box(counters[0].load(Ordering::Relaxed));
        black_box(counters[1].fetch_add(1, Ordering::Relaxed));
    })
}

pub fn recloser() -> Recloser {
    Recloser::custom()
        .error_rate(0.5)
        .closed_len(100)
        .half_open_len(1)
        .open_wait(HOUR)
        .build()
}

fn through_recloser(breaker: Recloser) -> Run {
    each(move || drop(black_box(breaker.call(|| Ok::<_, ()>(7)))))
}

pub type Failsafe =
    failsafe::StateMachine<failure_policy::ConsecutiveFailures<backoff::Constant>, ()>;

pub fn consecutive() -> Failsafe {
    let policy = failure_policy::consecutive_failures(5, backoff::constant(HOUR));
    Config::new().failure_policy(policy).build()
}

fn through_failsafe(breaker: Failsafe) -> Run {
    each(move || drop(black_box(breaker.call(|| Ok::<_, ()>(7)))))
}

fn through_seatbelt(clock: &tick::Clock) -> Run {
    let service = peers::seatbelt_breaker(clock, |it| it);
    each(move || done(service.execute(7)))
}

fn refusing_seatbelt(clock: &tick::Clock) -> Run {
    let service = peers::seatbelt_breaker(clock, |it: peers::BreakerLayer| {
        it.min_throughput(1).break_duration(HOUR)
    });
    // An odd number fails.
    for _ in 0..200 {
        let _: Plain = now(service.execute(peers::FAIL));
    }
    assert!(now(service.execute(7)).is_err(), "it is open");
    each(move || done(service.execute(7)))
}
