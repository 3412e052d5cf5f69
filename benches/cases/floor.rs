//! What the other cases can't do without: bare pieces, and three of the cases written by hand with all that
//! is promised of them and nothing else.

use std::future::Future;
use std::hint::black_box;
use std::mem;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use evenkeel::http::SavedRequest;
use evenkeel::verdict::{Kind, Verdict};
use evenkeel::{Breaker, Clock, Key, Keyed, Rng};
use http::{Method, Request};

use super::http::{Answer, answer, request};
use super::retry::plenty;
use super::{Case, PendingOnce, Run, case, done, done_polling, each, within_tokio};

pub const CASES: &[Case] = &[
    case("floor", "one atomic addition", one_atomic),
    case("floor", "two atomic additions", two_atomics),
    case("floor", "one clock read", one_clock_read),
    case("floor", "two failures, by hand", two_failures),
    case("floor", "timeout, pending once, by hand", pending_once),
    case("floor", "timeout, pending once, tokio's", pending_in_tokio),
    case("floor", "http by host, by hand", by_host),
];

pub fn one_atomic() -> Run {
    let counter = AtomicU64::new(0);
    each(move || {
        black_box(counter.fetch_add(1, Ordering::Relaxed));
    })
}

pub fn two_atomics() -> Run {
    let pair = [const { AtomicU64::new(0) }; 2];
    each(move || {
        black_box(pair[0].fetch_add(1, Ordering::Relaxed));
        black_box(pair[1].fetch_add(1, Ordering::Relaxed));
    })
}

pub fn one_clock_read() -> Run {
    each(|| {
        black_box(Instant::now());
    })
}

/// Three attempts at once. Of each failure a report keeps the moment, and of the budget what the next attempt
/// takes is withdrawn, and spent when that begins.
pub fn two_failures() -> Run {
    let (budget, clock) = (plenty(), Clock::tokio());
    each(move || {
        if budget.deposit() {
            budget.tick(clock.now());
        }
        let mut report: Option<Box<Report>> = None;
        let mut began = None;
        for attempt in 1..=3 {
            let withdrawal = report.as_mut().and_then(|it| it.withdrawal.take());
            if let Some(withdrawal) = withdrawal {
                withdrawal.spend();
            }
            if black_box(attempt) == 3 {
                break;
            }
            let at = clock.now();
            let began = *began.get_or_insert(at);
            let report = report.get_or_insert_default();
            report.moments[attempt - 1] = at.saturating_duration_since(began);
            report.withdrawal = budget.withdraw(Kind::Transient, at);
        }
        black_box(&report);
    })
}

/// As large as evenkeel's, with what goes with it.
#[derive(Default)]
struct Report {
    moments: [Duration; 2],
    withdrawal: Option<evenkeel::budget::Withdrawal>,
    _more: [[u64; 24]; 3],
}

/// The attempt, and a timer once it is pending.
pub fn pending_once() -> Run {
    within_tokio(|| {
        let mut context = Context::from_waker(Waker::noop());
        let mut attempt = pin!(PendingOnce::new(Ok::<_, ()>(black_box(7))));
        let mut timer = pin!(None::<tokio::time::Sleep>);
        while black_box(&attempt.as_mut().poll(&mut context)).is_pending() {
            if timer.is_none() {
                let end = tokio::time::Instant::now() + black_box(LENGTH);
                timer.set(Some(tokio::time::sleep_until(end)));
            }
            let timer = timer.as_mut().as_pin_mut().expect("made above");
            assert!(timer.poll(&mut context).is_pending());
        }
    })
}

pub fn pending_in_tokio() -> Run {
    within_tokio(|| {
        let attempt = PendingOnce::new(Ok::<_, ()>(black_box(7)));
        done_polling(tokio::time::timeout(LENGTH, attempt));
    })
}

const LENGTH: Duration = Duration::from_secs(2);

/// A future that holds the request and the attempt. What another attempt would send is packed, the host's
/// breaker looked up, one moment read, and the breaker and the budget are told.
pub fn by_host() -> Run {
    let (model, host) = (request(Method::GET), Key::of("service:8080"));
    let (budget, rng) = (plenty(), Rng::default());
    let breakers = Keyed::new(Breaker::new());
    each(move || {
        let began = Instant::now();
        let breaker = breakers.get(host, || began).into_inner();
        let permit = breaker.try_acquire(began, &rng).expect("it is closed");
        if budget.deposit() {
            budget.tick(began);
        }
        done(Exchange {
            form: Form::Whole(model.clone()),
            attempt: None,
        });
        black_box(&permit.record(Verdict::success(), began, &rng));
    })
}

struct Exchange {
    form: Form,
    attempt: Option<Answer>,
}

enum Form {
    Whole(Request<String>),
    Saved(SavedRequest<String>),
}

impl Future for Exchange {
    type Output = <Answer as Future>::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Form::Whole(request) = &self.form else {
            unreachable!("polled once");
        };
        let saved = Form::Saved(SavedRequest::of(request));
        let Form::Whole(request) = mem::replace(&mut self.form, saved) else {
            unreachable!("it was whole");
        };
        let attempt = self.attempt.insert(answer(request));
        let answer = Pin::new(attempt).poll(cx);
        self.attempt = None;
        answer
    }
}
