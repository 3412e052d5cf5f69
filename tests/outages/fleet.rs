//! Clients with real pipelines: a task per request, an executor of a few lines, and the world's
//! clock.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use evenkeel::verdict::{self, By, Hint, Kind, Label, Processed, Verdict};
use evenkeel::{Key, Pipeline, Rng};

use crate::arrivals::Arrivals;
use crate::policies::Policy;
use crate::random::mix;
use crate::scenarios::Scenario;
use crate::timeline::{Event, SECOND, Time, Timeline};
use crate::world::{Answer, Counts, Failure, World};

/// The pipeline of one client.
pub(crate) type Client = Pipeline<By<fn(Result<&(), &Failure>) -> Verdict>>;

/// What came of a run.
pub(crate) struct Run {
    pub(crate) scenario: Scenario,
    pub(crate) requests: Vec<Request>,
    pub(crate) counts: Counts,
    /// Attempts sent in each second.
    pub(crate) sent: Vec<u32>,
}

/// What came of a request.
#[derive(Clone, Copy)]
pub(crate) struct Request {
    pub(crate) arrived: Time,
    /// When its caller was told. `Time::MAX`: never.
    pub(crate) over: Time,
    pub(crate) won: bool,
}

/// Runs a fleet.
pub(crate) fn run(scenario: &Scenario, seed: u64, policy: &Policy) -> Run {
    let timeline = Timeline::new();
    let world = World::new(scenario, seed, &timeline);
    let mut fleet = Fleet {
        clients: clients(scenario, seed, policy, &timeline),
        world: Rc::new(RefCell::new(world)),
        requests: Rc::default(),
        tasks: Vec::new(),
        free: Vec::new(),
        ready: Arc::default(),
        service: Key::of("service"),
    };
    let mut arrivals = Arrivals::new(scenario, seed, &timeline);
    while let Some(event) = timeline.next(scenario.end()) {
        match event {
            Event::Arrival(client) => {
                arrivals.next(client);
                fleet.arrives(client, timeline.now());
            }
            Event::Timer { .. } => {}
            event => fleet.world.borrow_mut().happens(event),
        }
        fleet.run_ready(timeline.now());
    }
    drop(fleet.tasks);
    let requests = fleet.requests.take();
    let world = fleet.world.borrow();
    let won = requests.iter().filter(|request| request.won).count() as u64;
    let arrived = requests.len() as u64;
    Run {
        scenario: scenario.clone(),
        requests,
        counts: Counts {
            arrived,
            won,
            ..world.counts
        },
        sent: world.sent.clone(),
    }
}

fn clients(
    scenario: &Scenario,
    seed: u64,
    policy: &Policy,
    timeline: &Arc<Timeline>,
) -> Vec<Rc<Client>> {
    let client = |index: usize| {
        let base = Pipeline::new()
            .classify(verdict::by(
                classify as fn(Result<&(), &Failure>) -> Verdict,
            ))
            .clock(timeline.clock())
            .rng(Rng::seeded(mix(mix(seed) ^ index as u64)))
            .deadline(Duration::from_micros(scenario.deadline))
            .timeout(Duration::from_micros(scenario.attempt_timeout));
        let client = policy.apply(base, index);
        client.check().expect("a policy that makes sense");
        Rc::new(client)
    };
    (0..scenario.clients).map(client).collect()
}

fn classify(outcome: Result<&(), &Failure>) -> Verdict {
    let after = |length: Time| Hint::After(Duration::from_micros(length));
    match outcome {
        Ok(()) => Verdict::success(),
        Err(Failure::Connection) => Verdict::transient()
            .processed(Processed::No)
            .label(Label::Name("connect")),
        Err(Failure::Quota { retry_after }) => Verdict::new(Kind::RateLimited)
            .hint(after(*retry_after))
            .label(Label::Status(429)),
        Err(Failure::Unavailable { retry_after }) => {
            let verdict = Verdict::new(Kind::Overloaded).label(Label::Status(503));
            retry_after.map_or(verdict, |length| verdict.hint(after(length)))
        }
    }
}

struct Fleet {
    clients: Vec<Rc<Client>>,
    world: Rc<RefCell<World>>,
    requests: Rc<RefCell<Vec<Request>>>,
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
        let mut requests = self.requests.borrow_mut();
        let request = requests.len();
        requests.push(Request {
            arrived: now,
            over: Time::MAX,
            won: false,
        });
        let (pipeline, world) = (Rc::clone(&self.clients[client]), Rc::clone(&self.world));
        let service = self.service;
        let future = Box::pin(async move {
            let mut before = None;
            let attempt = |_| {
                let mut sees = world.borrow_mut();
                let attempt = sees.send(client, request, before);
                before = Some(sees.attempts[attempt].host);
                let world = Rc::clone(&world);
                Exchange { world, attempt }
            };
            pipeline.run(attempt).keyed(service).await.is_ok()
        });
        let index = self.free.pop().unwrap_or_else(|| {
            self.tasks.push(Task::new(self.tasks.len(), &self.ready));
            self.tasks.len() - 1
        });
        self.tasks[index].future = Some(future);
        self.tasks[index].request = request;
        self.tasks[index].waker.wake_by_ref();
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
                let request = &mut self.requests.borrow_mut()[task.request];
                (request.over, request.won) = (now, won);
            }
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
            let mut ready = self.ready.lock().expect("nothing panics under it");
            ready.push_back(self.index);
        }
    }
}

fn next(ready: &Ready) -> Option<usize> {
    ready.lock().expect("nothing panics under it").pop_front()
}

/// One attempt, as its client sees it. Dropping it is giving up.
struct Exchange {
    world: Rc<RefCell<World>>,
    attempt: usize,
}

impl Future for Exchange {
    type Output = Answer;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let mut world = self.world.borrow_mut();
        let attempt = &mut world.attempts[self.attempt];
        if let Some(answer) = attempt.received {
            return Poll::Ready(answer);
        }
        match &mut attempt.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.world.borrow_mut().give_up(self.attempt);
    }
}

impl Run {
    /// Tells apart runs that differ in anything.
    pub(crate) fn digest(&self) -> u64 {
        let of_request = |it: &Request| mix(it.arrived ^ mix(it.over ^ u64::from(it.won)));
        let requests = self.requests.iter().map(of_request);
        let sent = self.sent.iter().map(|count| u64::from(*count));
        let counts = &self.counts;
        let counts = [counts.attempts, counts.dead_us, counts.work_us];
        requests
            .chain(sent)
            .chain(counts)
            .fold(0, |digest, part| mix(digest ^ part))
    }

    pub(crate) fn of(&self, range: std::ops::Range<Time>) -> impl Iterator<Item = &Request> {
        let requests = self.requests.iter();
        requests.filter(move |request| range.contains(&request.arrived))
    }

    pub(crate) fn sent_in(&self, range: std::ops::Range<Time>) -> &[u32] {
        let second = |at: Time| usize::try_from(at / SECOND).expect("fits");
        &self.sent[second(range.start)..second(range.end)]
    }
}
