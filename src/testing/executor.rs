//! A tiny executor that needs no runtime and moves a manual clock.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};

use crate::testing::ManualClock;

/// Runs `future` to its end, moving `clock` on whenever nothing else can happen.
///
/// # Panics
///
/// If nothing can run and nobody sleeps: the future would wait forever.
///
/// # Examples
///
/// See [`testing`](crate::testing).
pub fn block_on<F: Future>(clock: &ManualClock, future: F) -> F::Output {
    Executor::new(clock).block_on(future)
}

/// Runs many futures on one thread, in an order that is always the same.
///
/// Tasks run in the order in which they were spawned or woken.
///
/// # Examples
///
/// ```
/// use evenkeel::testing::{Executor, ManualClock};
/// use evenkeel::{Pipeline, Retry};
/// use std::time::Duration;
///
/// let clock = ManualClock::new();
/// let executor = Executor::new(&clock);
/// let retry = Retry::constant(Duration::from_secs(1)).max_attempts(2);
/// let pipeline = Pipeline::new().retry(retry).clock(clock.clock());
///
/// let task = executor.spawn(async move {
///     pipeline.run(|attempt| async move {
///         if attempt.is_retry() { Ok(attempt.number()) } else { Err("busy") }
///     }).await
/// });
/// executor.run_until_idle();
/// assert!(!task.is_finished()); // it waits, and nobody moves the clock
/// clock.advance(Duration::from_secs(1));
/// executor.run_until_idle();
/// assert_eq!(task.take(), Some(Ok(2)));
/// ```
pub struct Executor {
    clock: ManualClock,
    next: Cell<u64>,
    tasks: RefCell<BTreeMap<u64, LocalTask>>,
    ready: Arc<Ready>,
}

type LocalTask = Pin<Box<dyn Future<Output = ()>>>;

/// The tasks that can run, in order.
#[derive(Default)]
struct Ready(Mutex<VecDeque<u64>>);

impl Executor {
    /// An executor that moves `clock`, if it is told to.
    #[must_use]
    pub fn new(clock: &ManualClock) -> Self {
        Self {
            clock: clock.clone(),
            next: Cell::new(0),
            tasks: RefCell::default(),
            ready: Arc::default(),
        }
    }

    /// Adds a task. It runs when the executor does. Dropping the [`Task`] doesn't stop it;
    /// [`Task::cancel`] does.
    pub fn spawn<F>(&self, future: F) -> Task<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        let output = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&output);
        let id = self.next.replace(self.next.get() + 1);
        let task = Box::pin(async move {
            let value = future.await;
            *slot.borrow_mut() = Some(value);
        });
        self.tasks.borrow_mut().insert(id, task);
        self.ready.push(id);
        Task { id, output }
    }

    /// Runs what can run without moving the clock.
    pub fn run_until_idle(&self) {
        while let Some(id) = self.ready.pop() {
            self.step(id);
        }
    }

    /// Runs everything, moving the clock on whenever nothing else can happen, until all tasks are
    /// done or nobody sleeps. Says how many tasks are left.
    pub fn run(&self) -> usize {
        loop {
            self.run_until_idle();
            let left = self.tasks.borrow().len();
            if left == 0 || self.clock.advance_to_next().is_none() {
                return left;
            }
        }
    }

    /// Runs `future` and all tasks until it is done, moving the clock on whenever nothing else can
    /// happen.
    ///
    /// # Panics
    ///
    /// If nothing can run and nobody sleeps: the future would wait forever.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        // No task has this number.
        let waker = self.waker(MAIN);
        self.ready.push(MAIN);
        loop {
            while let Some(id) = self.ready.pop() {
                if id != MAIN {
                    self.step(id);
                } else if let std::task::Poll::Ready(value) =
                    future.as_mut().poll(&mut Context::from_waker(&waker))
                {
                    return value;
                }
            }
            let moved = self.clock.advance_to_next();
            assert!(moved.is_some(), "nothing can run and nobody sleeps");
        }
    }

    /// Runs one task once.
    fn step(&self, id: u64) {
        // Taken out, so that it may spawn others.
        let Some(mut task) = self.tasks.borrow_mut().remove(&id) else {
            return;
        };
        let waker = self.waker(id);
        if task
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
        {
            self.tasks.borrow_mut().insert(id, task);
        }
    }

    fn waker(&self, id: u64) -> Waker {
        let ready = Arc::clone(&self.ready);
        Waker::from(Arc::new(TaskWaker { id, ready }))
    }
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor")
            .field("tasks", &self.tasks.borrow().len())
            .finish_non_exhaustive()
    }
}

/// A task of an [`Executor`].
#[derive(Debug)]
pub struct Task<T> {
    id: u64,
    output: Rc<RefCell<Option<T>>>,
}

impl<T> Task<T> {
    /// Whether the task is done and its output not yet taken.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.output.borrow().is_some()
    }

    /// What the task returned. `None` if it isn't done, or was taken before.
    #[must_use]
    pub fn take(&self) -> Option<T> {
        self.output.borrow_mut().take()
    }

    /// Drops the task's future, wherever it waits.
    pub fn cancel(&self, executor: &Executor) {
        executor.tasks.borrow_mut().remove(&self.id);
    }
}

struct TaskWaker {
    id: u64,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.ready.push(self.id);
    }
}

impl Ready {
    fn push(&self, id: u64) {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !queue.contains(&id) {
            queue.push_back(id);
        }
    }

    fn pop(&self) -> Option<u64> {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        queue.pop_front()
    }
}

const MAIN: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Why;

    fn nap(clock: &ManualClock, seconds: u64) -> crate::clock::Sleep {
        let end = clock.now() + Duration::from_secs(seconds);
        clock.clock().sleep_until(end, Why::Other)
    }

    #[test]
    fn tasks_run_in_order_and_time_moves_when_all_wait() {
        let clock = ManualClock::new();
        let executor = Executor::new(&clock);
        let log = Rc::new(RefCell::new(Vec::new()));
        for seconds in [3, 1, 2] {
            let (clock, log) = (clock.clone(), Rc::clone(&log));
            let _ = executor.spawn(async move {
                nap(&clock, seconds).await;
                log.borrow_mut().push((seconds, clock.elapsed().as_secs()));
            });
        }
        assert_eq!(executor.run(), 0);
        assert_eq!(*log.borrow(), [(1, 1), (2, 2), (3, 3)]);
    }

    #[test]
    fn a_cancelled_task_drops_what_it_holds() {
        let clock = ManualClock::new();
        let executor = Executor::new(&clock);
        let inner = clock.clone();
        let task = executor.spawn(async move { nap(&inner, 1).await });
        executor.run_until_idle();
        assert_eq!(clock.pending().len(), 1);
        task.cancel(&executor);
        assert!(clock.pending().is_empty());
        assert_eq!(executor.run(), 0);
    }

    #[test]
    #[should_panic(expected = "nothing can run and nobody sleeps")]
    fn waiting_forever_is_told() {
        block_on(&ManualClock::new(), std::future::pending::<()>());
    }

    #[test]
    #[should_panic(expected = "nothing can run and nobody sleeps")]
    fn a_due_sleep_that_nobody_polls_is_no_reason_to_go_on() {
        let clock = ManualClock::new();
        let sleep = nap(&clock, 1);
        block_on(&clock, std::future::pending::<()>());
        drop(sleep);
    }
}
