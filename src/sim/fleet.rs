//! Clients with real pipelines: a task per request, an executor of a few lines, and the world's clock.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use crate::attempt::Attempt;
use crate::clock::Clock;
use crate::endpoints::Id;
use crate::error::ConfigError;
use crate::keyed::Key;
use crate::pipeline::Pipeline;
use crate::rng::Rng;
use crate::sim::arrivals::Arrivals;
use crate::sim::draws::mix;
use crate::sim::report::{Client as Sample, Raw, Report, Request, Tally};
use crate::sim::timeline::{Event, SECOND, Time, Timeline, length};
use crate::sim::world::World;
use crate::sim::{Answer, Client, Policy, Scenario};

/// Runs a fleet.
pub(super) fn run(scenario: &Scenario, policy: &Policy, seed: u64) -> Result<Report, ConfigError> {
    scenario.check()?;
    let timeline = Timeline::new();
    let tally = Arc::new(Mutex::new(Tally::new(scenario)));
    let mut fleet = Fleet {
        clients: clients(scenario, seed, policy, &timeline, &tally)?,
        world: Rc::new(RefCell::new(World::new(scenario, seed, &timeline))),
        requests: Vec::new(),
        samples: Vec::new(),
        over: Vec::new(),
        tasks: Vec::new(),
        free: Vec::new(),
        ready: Arc::default(),
        service: Key::of("service"),
    };
    let mut arrivals = Arrivals::new(scenario, seed, &timeline);
    while let Some(due) = timeline.peek() {
        fleet.sample_until(due.min(scenario.end()));
        let Some(event) = timeline.next_before(scenario.end()) else {
            break;
        };
        match event {
            Event::Arrival(client) => {
                arrivals.arrived(client);
                fleet.arrives(client, timeline.now());
            }
            Event::Timer { .. } => {}
            event => fleet.world.borrow_mut().happens(event),
        }
        fleet.run_ready(timeline.now());
        for client in fleet.over.drain(..) {
            arrivals.over(client);
        }
    }
    fleet.tasks.clear();
    let mut tally = lock(&tally);
    let world = fleet.world.borrow();
    Ok(Report::new(Raw {
        scenario: scenario.clone(),
        policy: policy.name().to_owned(),
        seed,
        requests: std::mem::take(&mut fleet.requests),
        counts: world.counts,
        ticks: world.seconds.clone(),
        samples: std::mem::take(&mut fleet.samples),
        causes: tally.take(),
    }))
}

fn clients(
    scenario: &Scenario,
    seed: u64,
    policy: &Policy,
    timeline: &Arc<Timeline>,
    tally: &Arc<Mutex<Tally>>,
) -> Result<Vec<Rc<Client>>, ConfigError> {
    let clock = timeline.clock();
    let client = |index: usize| {
        let base = Pipeline::new()
            .classify(super::Reading)
            .deadline(length(scenario.deadline))
            .timeout(length(scenario.attempt_timeout));
        let (tally, time) = (Arc::clone(tally), Arc::clone(timeline));
        let limits = base.clone();
        let client = policy
            .apply(base, scenario, index)
            .with_limits_of(&limits)
            .clock(Clock::clone(&clock))
            .rng(Rng::seeded(mix(mix(seed) ^ index as u64)))
            .observer(move |event: &crate::Event| lock(&tally).note(event, time.now()));
        client.check()?;
        Ok(Rc::new(client))
    };
    (0..scenario.clients).map(client).collect()
}

struct Fleet {
    clients: Vec<Rc<Client>>,
    world: Rc<RefCell<World>>,
    requests: Vec<Request>,
    /// What the clients came to at the end of each second.
    samples: Vec<Sample>,
    /// The clients of requests that were over in this step.
    over: Vec<usize>,
    tasks: Vec<Task>,
    free: Vec<usize>,
    ready: Arc<Ready>,
    service: Key,
}

/// A place for a task, with the waker of all tasks that ever have this place. A waker that is used
/// late polls another task once for nothing.
struct Task {
    future: Option<Pin<Box<dyn Future<Output = bool>>>>,
    request: usize,
    client: usize,
    place: Arc<Place>,
    waker: Waker,
}

type Ready = Mutex<VecDeque<usize>>;

struct Place {
    index: usize,
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Fleet {
    fn arrives(&mut self, client: usize, now: Time) {
        let request = self.requests.len();
        self.requests.push(Request::new(now));
        let (pipeline, world) = (Rc::clone(&self.clients[client]), Rc::clone(&self.world));
        let service = self.service;
        let future = Box::pin(async move {
            let mut before = None;
            let attempt = |attempt: Attempt| {
                let chosen = attempt.endpoint().map(Id::index);
                let mut sees = world.borrow_mut();
                let number = sees.send(client, request, chosen, before);
                before = Some(sees.attempts[number].host as usize);
                let world = Rc::clone(&world);
                Sent { world, number }
            };
            pipeline.run(attempt).keyed(service).await.is_ok()
        });
        let index = self.free.pop().unwrap_or_else(|| {
            self.tasks.push(Task::new(self.tasks.len(), &self.ready));
            self.tasks.len() - 1
        });
        let task = &mut self.tasks[index];
        task.future = Some(future);
        (task.request, task.client) = (request, client);
        task.waker.wake_by_ref();
    }

    fn run_ready(&mut self, now: Time) {
        while let Some(index) = next(&self.ready) {
            let task = &mut self.tasks[index];
            task.place.queued.store(false, Relaxed);
            let Some(future) = &mut task.future else {
                continue;
            };
            let polled = future.as_mut().poll(&mut Context::from_waker(&task.waker));
            if let Poll::Ready(won) = polled {
                task.future = None;
                self.free.push(index);
                self.over.push(task.client);
                self.requests[task.request].ends(now, won);
            }
        }
    }

    /// Looks at the clients at the end of each second before `due`. It changes nothing.
    fn sample_until(&mut self, due: Time) {
        while (self.samples.len() as Time + 1) * SECOND <= due {
            let mut sample = Sample::default();
            for client in &self.clients {
                if let Some(window) = client.window_of(self.service) {
                    sample.add(&window.snapshot());
                }
            }
            self.world.borrow_mut().sample(self.samples.len());
            self.samples.push(sample);
        }
    }
}

impl Task {
    fn new(index: usize, ready: &Arc<Ready>) -> Self {
        let place = Arc::new(Place {
            index,
            queued: AtomicBool::new(false),
            ready: Arc::clone(ready),
        });
        Self {
            future: None,
            request: 0,
            client: 0,
            waker: Waker::from(Arc::clone(&place)),
            place,
        }
    }
}

impl Wake for Place {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Relaxed) {
            lock(&self.ready).push_back(self.index);
        }
    }
}

fn next(ready: &Ready) -> Option<usize> {
    lock(ready).pop_front()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One attempt, as its client sees it. Dropping it is giving up.
struct Sent {
    world: Rc<RefCell<World>>,
    number: usize,
}

impl Future for Sent {
    type Output = Answer;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let mut world = self.world.borrow_mut();
        if let Some(answer) = world.received(self.number) {
            return Poll::Ready(answer);
        }
        match &mut world.attempts[self.number].waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.world.borrow_mut().give_up(self.number);
    }
}
