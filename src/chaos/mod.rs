//! Faults to order, for tests and staging.
//!
//! Whether a client survives what a service can do to it is seldom known before the service does it.
//! A [`Chaos`] does it on purpose: it delays attempts, answers in the service's place, breaks
//! connections, and loses answers to requests that were carried out. That is done where the network
//! would do it, behind all other policies and within the attempt's timeout, so each of them sees
//! exactly what it would see of the real thing.
//!
//! It does nothing unless code makes one and gives it to a pipeline: no preset has one, and no file,
//! variable or header turns one on. A pipeline without one pays for a look at an empty field.
//!
//! # Example
//!
//! ```
//! use evenkeel::budget::Ratio;
//! use evenkeel::chaos::{Chaos, Fault};
//! use evenkeel::{Pipeline, Retry};
//! use http::StatusCode;
//! use std::time::Duration;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let chaos = Chaos::new()
//!     .seed(7)
//!     .sometimes(Ratio::percent(20), Fault::status(StatusCode::SERVICE_UNAVAILABLE))
//!     .sometimes(Ratio::percent(10), Fault::Reset);
//! let pipeline = Pipeline::new()
//!     .retry(Retry::constant(Duration::ZERO).max_attempts(8))
//!     .chaos(chaos.clone());
//!
//! for _ in 0..100 {
//!     assert_eq!(pipeline.run(|_| async { Ok::<_, ()>(7) }).await, Ok(7));
//! }
//! let snapshot = chaos.snapshot();
//! assert!(snapshot.statuses > 10 && snapshot.resets > 5);
//! assert_eq!(snapshot.attempts, 100 + snapshot.statuses + snapshot.resets);
//! # }
//! ```
//!
//! # What is injected
//!
//! A [`Fault`] instead of the attempt's outcome, or an [`Effect`]: a delay, with a fault after it or
//! the attempt itself. Which attempts get it:
//!
//! | said by | which |
//! |---|---|
//! | [`next`](Chaos::next), [`script`](Chaos::script), [`push`](Chaos::push) | exactly so many attempts, in this order, whatever comes by. While there is any of it the script decides alone |
//! | [`sometimes`](Chaos::sometimes) | each with this probability |
//! | [`rule`](Chaos::rule) | by a [`Rule`]: with a probability, in a stretch of time, up to a number of attempts in a call |
//!
//! Rules strike independently of each other: the delays of those that do add up, and the first fault
//! among them, in the order in which they were given, becomes of the attempt.
//!
//! [`Fault::Lost`] is the nastiest: the attempt is really made, and the client sees a connection that
//! broke before the answer. A call that is repeated after it, and should not have been, is done twice.
//!
//! # What becomes of it
//!
//! - An attempt into which a fault was injected counts as any other: for `max_attempts`, the budget
//!   and all gates. There are never more attempts than without.
//! - A delay runs within the attempt's timeout and the deadline, and a hang ends by them. Without
//!   either a hang lasts until the call is dropped.
//! - A fault is classified as the real thing would be. Where the outcome that it would really have can
//!   be made up, it is: [`Http`](crate::http::Http) makes reqwest's responses of statuses (but their
//!   `url()` is reqwest's placeholder), and [`imitating`] makes whatever you say. Else the fault's own
//!   [`verdict`](Fault::verdict) stands, with `Http`'s settings for statuses.
//! - If that was the call's last attempt, the caller gets the made-up outcome, or
//!   [`Cause::Injected`](crate::Cause::Injected).
//! - A request whose body can't be sent twice is used up by a fault as by an attempt.
//!
//! Whatever it is, nobody need mistake it for the service's doing: each injection is an
//! [`Event::Injected`](crate::Event::Injected), labels of faults other than statuses begin with
//! `injected`, and made-up responses have an [`Injected`] in their extensions.
//!
//! # Chance
//!
//! Draws come from its own [`seed`](Chaos::seed), never from the pipeline's
//! [`rng`](crate::Pipeline::rng): the n-th attempt that comes by meets the same fate in every run, and
//! no jitter is shifted. With many tasks or threads that is the n-th in the order in which they come.
//! Per key there is a stream for each; which one is settled by the order in which keys come first, for a
//! [`Key`](crate::Key) is another number in each process. Where that order may differ, and each
//! service is to meet the same fate in every run, give each a seed of its own by
//! [`Keyed::with`](crate::Keyed::with).
//!
//! # Per key
//!
//! Held [per key](crate::keyed), each service has a script, chance and counts of its own. One service
//! alone is struck like this:
//!
//! ```
//! use evenkeel::chaos::{Chaos, Fault};
//! use evenkeel::{Key, Keyed, Pipeline};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let (billing, broken) = (Key::of("billing"), Chaos::new().next(1, Fault::Reset));
//! let chaos = Keyed::new(Chaos::new()).with(move |key| (key == billing).then(|| broken.clone()));
//! let pipeline = Pipeline::new().chaos(chaos);
//!
//! let call = |key| pipeline.run(|_| async { Ok::<_, ()>(7) }).keyed(key);
//! assert!(call(Key::of("orders")).await.is_ok());
//! assert!(call(billing).await.is_err());
//! assert!(call(billing).await.is_ok()); // the script is over
//! # }
//! ```
//!
//! The switch, [`on`](Chaos::on) and [`off`](Chaos::off), is one for all that were made of the same
//! `Chaos`: one word ends it for every key. A key whose script has been played, even in part, keeps
//! its entry, for a fresh one would play it again. One that has only rules may lose it when it is long
//! idle, and comes back with another stream and counts from zero.
//!
//! # Defaults
//!
//! | setting | default | why |
//! |---|---|---|
//! | [`seed`](Chaos::seed) | 0 | the same in every run; in a staging fleet give each process another |
//! | rules and script | none | it then injects nothing |
//! | switch | on | making it and giving it to a pipeline is asking for it |
//!
//! # What it does not do
//!
//! It doesn't break a response in the middle of its body, and doesn't touch readiness, name
//! resolution or TLS: for faults on real sockets there is `testing::Server`.

mod fault;
mod imitate;
mod plan;
mod rule;

use std::fmt;
use std::time::{Duration, Instant};

use crate::budget::Ratio;
use crate::error::ConfigError;
use crate::keyed::{PerKey, sealed::Sealed};
use crate::rng::Rng;
use crate::sync::{Arc, AtomicU32, AtomicU64, Mutex, Ordering, lock};

use plan::{Orders, Plan};

pub use fault::{Fault, Imitation, Injected};
pub use imitate::{Imitating, imitating};
pub use plan::Snapshot;
pub use rule::{Effect, Injection, Rule};

/// Faults to order. Clones share script, counts and switch.
///
/// The setters start anew: set it up before it is cloned or used. See the [module](self) for what it
/// does and when.
#[derive(Clone)]
#[must_use = "it does nothing until it is given to a pipeline"]
pub struct Chaos {
    shared: Arc<Shared>,
}

struct Shared {
    family: Arc<Family>,
    rng: Rng,
    plan: Mutex<Plan>,
}

/// What all that were made of one have in common.
struct Family {
    orders: Orders,
    /// How many were made.
    members: AtomicU64,
    /// One if it is on.
    switch: AtomicU32,
    /// When it was switched on, if that was said or anybody has come by since.
    since: Mutex<Option<Instant>>,
}

impl Chaos {
    /// Switched on, with nothing to inject yet.
    pub fn new() -> Self {
        Self::of(Orders::default(), true)
    }

    /// What its draws come from. Default: 0.
    pub fn seed(self, seed: u64) -> Self {
        self.change(|it| it.seed = seed)
    }

    /// Strikes every attempt with this probability. At most 1. Short for a [`rule`](Self::rule).
    pub fn sometimes(self, share: Ratio, effect: impl Into<Effect>) -> Self {
        self.rule(Rule::new(effect).share(share))
    }

    /// Adds a rule. Default: none.
    pub fn rule(self, rule: Rule) -> Self {
        self.change(|it| it.rules.push(rule))
    }

    /// Adds to the script: the next attempts get these, one each. [`Effect::none`] leaves one alone.
    /// Default: no script.
    pub fn script<I>(self, effects: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<Effect>,
    {
        let turns = effects.into_iter().map(|effect| (1, effect.into()));
        self.change(|it| it.script.extend(turns))
    }

    /// Adds to the script: so many attempts get this. Zero adds nothing.
    pub fn next(self, attempts: u32, effect: impl Into<Effect>) -> Self {
        self.change(|it| it.script.push_back((attempts, effect.into())))
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// A share above 1; a stretch that is over when it starts; a delay whose least is above its most; a
    /// fault that is none: [`Kind::Success`](crate::verdict::Kind::Success), or a status below 400.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.shared.family.orders.check()
    }

    /// Adds to the script while it is in use: so many attempts get this, when all that was said
    /// before has been played. Zero adds nothing.
    ///
    /// # Errors
    ///
    /// An effect that makes no sense; see [`check`](Self::check). Nothing is added.
    pub fn push(&self, attempts: u32, effect: impl Into<Effect>) -> Result<(), ConfigError> {
        let effect = effect.into();
        effect.check()?;
        lock(&self.shared.plan).push((attempts, effect));
        Ok(())
    }

    /// Switches it on, and all that were made of the same one. [Stretches](Rule::during) are counted
    /// from `now` again; where this is never said, from the first attempt that came by.
    pub fn on(&self, now: Instant) {
        let family = &self.shared.family;
        *lock(&family.since) = Some(now);
        family.switch.store(1, Ordering::Release);
    }

    /// Switches it off, and all that were made of the same one: nothing more is injected, and the script
    /// rests. What was injected before goes on: a delay, a hang.
    pub fn off(&self) {
        self.shared.family.switch.store(0, Ordering::Release);
    }

    /// Whether it is on.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.shared.family.switch.load(Ordering::Acquire) == 1
    }

    /// What an attempt that begins now gets, for a loop of one's own; `attempt` is its number in its
    /// call, from 1. Every answer is one turn of the script. `now` is only asked while it is on.
    #[must_use]
    pub fn decide(&self, attempt: u32, now: impl FnOnce() -> Instant) -> Injection {
        if !self.is_on() {
            return Injection::default();
        }
        let Shared { family, rng, plan } = &*self.shared;
        let elapsed = family.elapsed(now());
        let mut draws = rng.draws();
        lock(plan).decide(&family.orders, attempt, elapsed, &mut draws)
    }

    /// What it injected, and how much is left of the script.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        lock(&self.shared.plan).snapshot()
    }

    fn of(orders: Orders, is_on: bool) -> Self {
        let family = Family {
            orders,
            members: AtomicU64::new(0),
            switch: AtomicU32::new(is_on.into()),
            since: Mutex::new(None),
        };
        Self::member(Arc::new(family))
    }

    fn member(family: Arc<Family>) -> Self {
        let number = family.members.fetch_add(1, Ordering::Relaxed);
        // Another odd factor than that of the streams of one member.
        let seed = family.orders.seed ^ number.wrapping_mul(0x9E6C_63D0_876A_9A47);
        let shared = Shared {
            rng: Rng::seeded(seed),
            plan: Mutex::new(Plan::new(&family.orders)),
            family,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    fn change(self, change: impl FnOnce(&mut Orders)) -> Self {
        let mut orders = self.shared.family.orders.clone();
        change(&mut orders);
        Self::of(orders, self.is_on())
    }
}

impl Family {
    fn elapsed(&self, now: Instant) -> Duration {
        let since = *lock(&self.since).get_or_insert(now);
        now.saturating_duration_since(since)
    }
}

impl Default for Chaos {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Chaos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let orders = &self.shared.family.orders;
        f.debug_struct("Chaos")
            .field("is_on", &self.is_on())
            .field("seed", &orders.seed)
            .field("rules", &orders.rules)
            .field("snapshot", &self.snapshot())
            .finish_non_exhaustive()
    }
}

impl Sealed for Chaos {}

impl PerKey for Chaos {
    /// The switch is the same one.
    fn fresh(&self) -> Self {
        Self::member(Arc::clone(&self.shared.family))
    }

    /// Whether nobody else holds it, and a fresh one would go on as it does.
    fn is_idle(&self, _: Instant) -> bool {
        let plan = lock(&self.shared.plan);
        Arc::strong_count(&self.shared) == 1 && plan.is_as_new(&self.shared.family.orders)
    }

    fn check(&self) -> Result<(), ConfigError> {
        Self::check(self)
    }
}
