//! The one order of all that happens: the world's events and the pipelines' timers.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::clock::{BoxSleep, Clock, Runtime, Why};

/// Microseconds since the beginning.
pub(super) type Time = u64;

pub(super) const MS: Time = 1000;
pub(super) const SECOND: Time = 1000 * MS;

/// In microseconds.
#[allow(clippy::cast_possible_truncation)] // checked
pub(super) const fn time(length: Duration) -> Time {
    let micros = length.as_micros();
    // 500,000 years.
    if micros > Time::MAX as u128 {
        Time::MAX
    } else {
        micros as Time
    }
}

pub(super) const fn length(time: Time) -> Duration {
    Duration::from_micros(time)
}

/// The number of the second in which this moment lies.
pub(super) fn second(at: Time) -> usize {
    usize::try_from(at / SECOND).unwrap_or(usize::MAX)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A request arrives at this client.
    Arrival(usize),
    /// A service of the user's own has the answer to this attempt.
    Decided(usize),
    /// An attempt reaches its host.
    Reaches(usize),
    /// A host is done with an attempt that it began to work on in this epoch.
    Served {
        attempt: usize,
        epoch: u32,
    },
    /// The answer to an attempt reaches its client.
    Answered(usize),
    /// A host hears that the client of this attempt has given up.
    Cancelled(usize),
    /// The fault of this number begins, or ends.
    FaultBegins(usize),
    FaultEnds(usize),
    /// A timer of a pipeline ends.
    Timer {
        slot: usize,
        generation: u32,
    },
    /// The model client's own timers.
    #[cfg(test)]
    ModelTimeout(usize),
    #[cfg(test)]
    ModelRetry(usize),
}

/// A heap of events ordered by time and insertion, and the clock that it moves.
pub(super) struct Timeline {
    start: Instant,
    now: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    events: BinaryHeap<Entry>,
    inserted: u64,
    timers: Vec<Timer>,
    free: Vec<usize>,
}

struct Entry {
    at: Time,
    number: u64,
    event: Event,
}

#[derive(Default)]
struct Timer {
    /// Of those that used this slot; events of earlier ones are void.
    generation: u32,
    ended: bool,
    waker: Option<Waker>,
}

impl Timeline {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            start: Clock::tokio().now(),
            now: AtomicU64::new(0),
            state: Mutex::default(),
        })
    }

    pub(super) fn clock(self: &Arc<Self>) -> Clock {
        Clock::custom(SimClock(Arc::clone(self)))
    }

    pub(super) fn now(&self) -> Time {
        self.now.load(Relaxed)
    }

    pub(super) fn at(&self, at: Time, event: Event) {
        self.state().insert(at, event);
    }

    pub(super) fn after(&self, length: Time, event: Event) {
        self.at(self.now().saturating_add(length), event);
    }

    /// When the next event is due.
    pub(super) fn peek(&self) -> Option<Time> {
        Some(self.state().events.peek()?.at)
    }

    /// Moves on to the next event, which is not later than `end`. Timers' ends are dealt with here.
    pub(super) fn next_before(&self, end: Time) -> Option<Event> {
        let mut state = self.state();
        loop {
            if state.events.peek()?.at > end {
                return None;
            }
            let Entry { at, event, .. } = state.events.pop()?;
            let Event::Timer { slot, generation } = event else {
                self.now.store(at, Relaxed);
                return Some(event);
            };
            let timer = &mut state.timers[slot];
            if timer.generation == generation {
                self.now.store(at, Relaxed);
                timer.ended = true;
                let waker = timer.waker.take();
                drop(state);
                if let Some(waker) = waker {
                    waker.wake();
                }
                return Some(event);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn insert(&mut self, at: Time, event: Event) {
        let number = self.inserted;
        self.inserted += 1;
        self.events.push(Entry { at, number, event });
    }
}

/// The earliest is the greatest: a `BinaryHeap` gives the greatest first.
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry {}

struct SimClock(Arc<Timeline>);

impl Runtime for SimClock {
    fn now(&self) -> Instant {
        self.0.start + Duration::from_micros(self.0.now())
    }

    fn wall(&self) -> SystemTime {
        UNIX_EPOCH + WALL_START + Duration::from_micros(self.0.now())
    }

    fn sleep_until(&self, at: Instant, _: Why) -> BoxSleep {
        let nanos = at.saturating_duration_since(self.0.start).as_nanos();
        let end = nanos.div_ceil(1000).try_into().unwrap_or(Time::MAX);
        let mut state = self.0.state();
        let slot = state.free.pop().unwrap_or_else(|| {
            state.timers.push(Timer::default());
            state.timers.len() - 1
        });
        let generation = state.timers[slot].generation;
        state.timers[slot].ended = end <= self.0.now();
        state.insert(end, Event::Timer { slot, generation });
        drop(state);
        let timeline = Arc::clone(&self.0);
        Box::pin(SimSleep { timeline, slot })
    }
}

struct SimSleep {
    timeline: Arc<Timeline>,
    slot: usize,
}

impl Future for SimSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.timeline.state();
        let timer = &mut state.timers[self.slot];
        if timer.ended {
            return Poll::Ready(());
        }
        match &mut timer.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for SimSleep {
    fn drop(&mut self) {
        let mut state = self.timeline.state();
        let timer = &mut state.timers[self.slot];
        timer.generation = timer.generation.wrapping_add(1);
        timer.waker = None;
        state.free.push(self.slot);
    }
}

/// 2026-01-01 00:00:00 UTC.
const WALL_START: Duration = Duration::from_secs(1_767_225_600);
