//! The work that is measured, one definition for each: by the clock (`benches/clock.rs`), in
//! instructions (`benches/instructions.rs`), in allocations (`benches/table`) and beside other
//! crates (`benches/peers`).

pub mod breaker;
pub mod diagnosis;
pub mod floor;
pub mod gates;
pub mod http;
pub mod pipeline;
pub mod retry;

use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// A piece of work that can be set up and then done any number of times.
#[derive(Clone, Copy)]
pub struct Case {
    /// The file it is in: `breaker`, `http`.
    pub concept: &'static str,
    pub name: &'static str,
    pub set_up: fn() -> Run,
}

/// Does the work this many times.
pub type Run = Box<dyn FnMut(u64)>;

pub fn all() -> Vec<Case> {
    [
        floor::CASES,
        retry::CASES,
        breaker::CASES,
        gates::CASES,
        pipeline::CASES,
        http::CASES,
        diagnosis::CASES,
    ]
    .concat()
}

const fn case(concept: &'static str, name: &'static str, set_up: fn() -> Run) -> Case {
    Case {
        concept,
        name,
        set_up,
    }
}

/// `once`, as often as asked, with nothing between.
pub fn each(mut once: impl FnMut() + 'static) -> Run {
    Box::new(move |count| {
        for _ in 0..count {
            once();
        }
    })
}

/// The same where there are timers. They are made and dropped; none of them ends.
pub fn within_tokio(mut once: impl FnMut() + 'static) -> Run {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let runtime = runtime.expect("a runtime");
    Box::new(move |count| {
        let _inside = runtime.enter();
        for _ in 0..count {
            once();
        }
    })
}

/// Polls once, for what it does and not for what it gives: all of it is ready at once.
///
/// The future stays where it is made, and what it gives where it is put: neither is moved for the
/// sake of being measured.
#[allow(clippy::inline_always)]
#[inline(always)]
pub fn done<F: Future>(future: F) {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    let polled = future.as_mut().poll(&mut context);
    assert!(black_box(&polled).is_ready(), "all of it is ready at once");
}

/// What it gives, and all of it is ready at once.
#[allow(clippy::inline_always)]
#[inline(always)]
pub fn now<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    match future.as_mut().poll(&mut context) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("all of it is ready at once"),
    }
}

/// Polls until it is ready, with nothing between.
#[allow(clippy::inline_always)]
#[inline(always)]
pub fn done_polling<F: Future>(future: F) {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    while black_box(&future.as_mut().poll(&mut context)).is_pending() {}
}

/// Pending at its first poll, ready at its second. Who polls doesn't wait to be woken.
pub struct PendingOnce<T>(Option<T>, bool);

impl<T> PendingOnce<T> {
    pub fn new(value: T) -> Self {
        Self(Some(value), false)
    }
}

impl<T: Unpin> Future for PendingOnce<T> {
    type Output = T;

    fn poll(mut self: std::pin::Pin<&mut Self>, _: &mut Context<'_>) -> Poll<T> {
        if !self.1 {
            self.1 = true;
            return Poll::Pending;
        }
        Poll::Ready(self.0.take().expect("not polled after it was ready"))
    }
}
