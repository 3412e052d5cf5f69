//! Sheds load in proportion to what the service refuses.
//!
//! A service that is asked for more than it can do spends part of its power on saying no. If each
//! client refuses the calls that would most likely be refused anyway, that power goes into answers.
//! This is the client-side adaptive throttling of Google's *Site Reliability Engineering*, chapter
//! "Handling Overload": with `requests` made and `accepts` of them accepted within the last
//! moments, a call is refused with the probability
//!
//! ```text
//! max(0, (requests - K × accepts) / (requests + 1))
//! ```
//!
//! With K = 2 a service that accepts half of what it is sent or more gets everything. Below that
//! it gets about twice what it accepts, so that it always has more than enough and the client
//! notices at once when it can do more.
//!
//! Two things are added to that rule. However bad it is, some share of the calls goes, for
//! otherwise a client that is refused everything learns of the recovery by one call per window. And
//! a few calls say nothing yet: a quiet client's second attempt isn't refused because its first one
//! failed.
//!
//! # Example
//!
//! ```
//! use evenkeel::Rng;
//! use evenkeel::throttle::{Priority, Throttle};
//! use evenkeel::verdict::Kind;
//! use std::time::Instant;
//!
//! let (throttle, mut draws, now) = (Throttle::new(), Rng::seeded(1).draws(), Instant::now());
//! let mut sent = 0;
//! for _ in 0..1_000 {
//!     if let Ok(permit) = throttle.try_acquire(Priority::Normal, now, || draws.next_u64()) {
//!         permit.record(Kind::Overloaded, now); // the service is down
//!         sent += 1;
//!     }
//! }
//! assert!((70..150).contains(&sent)); // a tenth goes on asking
//! ```
//!
//! # Defaults
//!
//! | setting | default | why |
//! |---|---|---|
//! | [`multiplier`](Throttle::multiplier) | 2 | the book's: the service gets twice what it accepts |
//! | [`window`](Throttle::window) | 10 s | the book has two minutes; with them nothing is shed in an outage of half a minute, and after one of ten minutes the way back takes minutes |
//! | [`floor`](Throttle::floor) | 10 % of the calls | all calls go again some 16 s after an outage; by the book's rule alone it takes 30 to 60 s, and longer the busier the client |
//! | [`least`](Throttle::least) | 3 calls | one failed call and its retries prove nothing |
//!
//! The floor is a share of the client's own traffic, not a rate: a fleet of any size then sends a
//! tenth of its load to a service that is down, and so many calls per second *per client* would
//! melt it.
//!
//! # What counts
//!
//! | outcome | counts as |
//! |---|---|
//! | success, the request's own fault, the target's fault | accepted: the service took it and answered; fewer calls would not make it answer otherwise |
//! | overloaded, rate-limited | not accepted |
//! | transient: a timeout, a reset, a 502 | not accepted: that is how overload looks where nobody has the strength to say so |
//! | refused here | not accepted |
//! | dropped, or never begun | nothing |
//!
//! A call counts when it ends. If it counted when it begins, a service that takes five seconds
//! for each answer would look half dead.
//!
//! # Priorities
//!
//! All calls are counted together, and each [`Priority`] has its own K: with K = 2,
//! [`Sheddable`](Priority::Sheddable) calls are shed from the moment when a third is refused, and
//! [`Critical`](Priority::Critical) ones when two thirds are. A call is never refused where a lesser
//! one would go.
//!
//! # Changes
//!
//! [`Permit::record`] gives [`Change::Began`] when a tenth of the normal calls would be shed, and
//! [`Change::Ended`] when none would be any more.
//!
//! # What it composes with
//!
//! It looks at every attempt, first ones included, and never makes one wait. It does for first
//! attempts what a [`Budget`](crate::Budget) does for retries. Held [per key](crate::keyed), one
//! service's trouble is no other's.
//!
//! # What it does not do
//!
//! It doesn't notice that a service is slow, only that it refuses or times out. It doesn't pace:
//! what it lets through goes at once.

mod counts;

use std::fmt;
use std::time::{Duration, Instant};

use crate::budget::Ratio;
use crate::error::{ConfigError, Reason, Rejected};
use crate::gate::{Answer, Ask, Gate, Outcome};
use crate::keyed::{PerKey, sealed::Sealed};
use crate::sync::{Arc, Mutex, lock};
use crate::verdict::Kind;

use counts::{Counts, Rule};

/// How much a call matters when some have to be shed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(clippy::exhaustive_enums)] // finer grades could not be told apart in use
pub enum Priority {
    /// Shed first: prefetches, batch work that comes again.
    Sheddable,
    /// The default.
    #[default]
    Normal,
    /// Shed last: what a person waits for, and what keeps the service itself going.
    Critical,
}

/// A shared adaptive throttle. Clones share the counts.
///
/// The setters start with empty counts: set it up before it is cloned or used.
#[derive(Clone)]
pub struct Throttle {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
}

struct State {
    rule: Rule,
    window: Duration,
    counts: Counts,
    /// `Change::Began` was told, and `Change::Ended` not yet.
    is_shedding: bool,
}

impl Throttle {
    /// A throttle with the defaults of the [module](self#defaults).
    #[must_use]
    pub fn new() -> Self {
        Self::of(Rule::default(), WINDOW)
    }

    /// K: how many times what the service accepts it is sent. At least 1. More is more generous:
    /// shedding begins when less than one call in K is accepted. For sheddable calls the part above
    /// 1 is halved, for critical ones doubled. Default: 2.
    #[must_use]
    pub fn multiplier(self, k: Ratio) -> Self {
        self.change(|rule, _| rule.multiplier = k.in_millionths())
    }

    /// How far back outcomes count. They leave in tenths of it: what is younger than nine tenths
    /// counts, what is older than the whole doesn't. Not zero. Default: 10 s.
    #[must_use]
    pub fn window(self, length: Duration) -> Self {
        self.change(|_, window| *window = length)
    }

    /// The share of calls that goes however bad it is, of any priority, rounded to a millionth. At
    /// most 1. Zero is the book's rule: about one call per window. Default: 10 %.
    #[must_use]
    pub fn floor(self, share: Ratio) -> Self {
        self.change(|rule, _| rule.floor = share.in_millionths())
    }

    /// While fewer calls than this ended within the window, all go. Zero is the book's rule.
    /// Default: 3.
    #[must_use]
    pub fn least(self, calls: u32) -> Self {
        self.change(|rule, _| rule.least = calls)
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// A multiplier below 1, which would shed calls to a healthy service; a window of zero; or a
    /// floor above 1.
    pub fn check(&self) -> Result<(), ConfigError> {
        let (rule, window) = self.settings();
        if rule.multiplier < counts::WHOLE {
            return Err(ConfigError::new(
                "throttle.multiplier",
                "must be at least 1",
            ));
        }
        if window.is_zero() {
            return Err(ConfigError::new("throttle.window", "must not be zero"));
        }
        if rule.floor > counts::WHOLE {
            return Err(ConfigError::new("throttle.floor", "must be at most 1"));
        }
        Ok(())
    }

    /// Whether a call may go. Never waits. `draw` gives 64 uniform random bits, and is asked only
    /// if there is something to decide.
    ///
    /// # Errors
    ///
    /// The call is shed. It counts as one that was not accepted.
    pub fn try_acquire(
        &self,
        priority: Priority,
        now: Instant,
        draw: impl FnOnce() -> u64,
    ) -> Result<Permit, Rejected> {
        self.admit(priority, now, draw)?;
        let throttle = self.clone();
        Ok(Permit { throttle })
    }

    /// What it counted lately.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let mut state = lock(&self.shared.state);
        state.counts.advance(now);
        let (requests, accepts) = (state.counts.requests(), state.counts.accepts());
        let rule = state.rule;
        drop(state);
        Snapshot {
            requests,
            accepts,
            shed: Shed::of(&rule, requests, accepts),
        }
    }

    fn admit(
        &self,
        priority: Priority,
        now: Instant,
        draw: impl FnOnce() -> u64,
    ) -> Result<(), Rejected> {
        let mut state = lock(&self.shared.state);
        state.counts.advance(now);
        let odds = state.counts.odds(&state.rule, priority);
        drop(state);
        if odds.are_none() || !odds.strike(draw()) {
            return Ok(());
        }
        let mut state = lock(&self.shared.state);
        state.counts.add(false);
        let retry_at = state.counts.next_change();
        Err(Rejected::new(Reason::Throttled, retry_at))
    }

    fn record(&self, kind: Kind, now: Instant) -> Option<Change> {
        let accepted = match kind {
            Kind::RequestFault | Kind::Success | Kind::TargetFault => true,
            Kind::Overloaded | Kind::RateLimited | Kind::Transient => false,
        };
        let mut state = lock(&self.shared.state);
        state.counts.advance(now);
        state.counts.add(accepted);
        let odds = state.counts.odds(&state.rule, Priority::Normal);
        let tells = if state.is_shedding {
            odds.are_none()
        } else {
            odds.reach(TOLD_FROM)
        };
        if !tells {
            return None;
        }
        state.is_shedding = !state.is_shedding;
        Some(if state.is_shedding {
            Change::Began {
                requests: state.counts.requests(),
                accepts: state.counts.accepts(),
            }
        } else {
            Change::Ended
        })
    }

    fn of(rule: Rule, window: Duration) -> Self {
        let state = State {
            rule,
            window,
            counts: Counts::new(window),
            is_shedding: false,
        };
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
            }),
        }
    }

    fn change(self, change: impl FnOnce(&mut Rule, &mut Duration)) -> Self {
        let (mut rule, mut window) = self.settings();
        change(&mut rule, &mut window);
        Self::of(rule, window)
    }

    fn settings(&self) -> (Rule, Duration) {
        let state = lock(&self.shared.state);
        (state.rule, state.window)
    }
}

impl Default for Throttle {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rule, window) = self.settings();
        f.debug_struct("Throttle")
            .field("rule", &rule)
            .field("window", &window)
            .finish_non_exhaustive()
    }
}

impl Sealed for Throttle {
    /// What was counted goes on counting. In a window of another length its tenths are of another
    /// length.
    fn reconfigure(&self, to: &Self, now: Instant) -> bool {
        let (rule, window) = to.settings();
        let mut state = lock(&self.shared.state);
        if window != state.window {
            state.counts.set_window(window, now);
        }
        (state.rule, state.window) = (rule, window);
        true
    }
}

impl PerKey for Throttle {
    fn fresh(&self) -> Self {
        self.clone().change(|_, _| ())
    }

    /// Whether nobody else holds it: what it counted is out of date long before.
    fn is_idle(&self, _: Instant) -> bool {
        Arc::strong_count(&self.shared) == 1
    }

    fn check(&self) -> Result<(), ConfigError> {
        Self::check(self)
    }
}

impl Gate for Throttle {
    /// Nothing is held: a call counts when it ends.
    type Ticket = ();

    fn ask(&self, _: &mut Option<u64>, ask: &mut Ask<'_>) -> Answer<()> {
        let now = ask.now();
        match self.admit(ask.priority, now, || ask.rng.draws().next_u64()) {
            Ok(()) => Answer::Go(()),
            Err(refused) => Answer::Refuse(Rejected {
                reason: Reason::Throttled,
                retry_at: refused.retry_at,
            }),
        }
    }

    fn leave(&self, _: u64) {}

    fn settle(&self, (): (), outcome: &mut Outcome<'_>) -> Option<crate::event::Change> {
        let change = self.record(outcome.verdict.kind(), outcome.now());
        change.map(crate::event::Change::Throttle)
    }

    fn abandon(&self, (): ()) {}
}

/// Leave to make one call.
///
/// Dropping it counts as nothing.
#[derive(Debug)]
#[must_use = "a call that isn't recorded counts as nothing"]
pub struct Permit {
    throttle: Throttle,
}

impl Permit {
    /// The call ended like this; see [what counts](self#what-counts). Says whether shedding began
    /// or ended by that.
    #[allow(clippy::must_use_candidate)] // the change is for those who tell it
    pub fn record(self, kind: Kind, now: Instant) -> Option<Change> {
        self.throttle.record(kind, now)
    }
}

/// A throttle at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Calls within the window that ended or were shed.
    pub requests: u64,
    /// Those that the service accepted.
    pub accepts: u64,
    /// What is shed now.
    pub shed: Shed,
}

/// The share of calls that is shed, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Shed {
    /// Of [`Priority::Sheddable`] calls.
    pub sheddable: f64,
    /// Of [`Priority::Normal`] calls.
    pub normal: f64,
    /// Of [`Priority::Critical`] calls.
    pub critical: f64,
}

impl Shed {
    fn of(rule: &Rule, requests: u64, accepts: u64) -> Self {
        let share = |priority| rule.odds(requests, accepts, priority).share();
        Self {
            sheddable: share(Priority::Sheddable),
            normal: share(Priority::Normal),
            critical: share(Priority::Critical),
        }
    }
}

/// A throttle's change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// A tenth or more of the normal calls is shed from now on.
    Began {
        /// Calls within the window that ended or were shed.
        requests: u64,
        /// Those that the service accepted.
        accepts: u64,
    },
    /// No normal call is shed any more.
    Ended,
}

/// Short enough to feel an outage of some seconds and to be done with it soon.
const WINDOW: Duration = Duration::from_secs(10);

/// A few shed calls come and go at the edge and are no news. In hundredths.
const TOLD_FROM: u64 = 10;

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::Clock;
    use crate::gate::{Pass, Purpose};
    use crate::rng::Rng;
    use crate::verdict::Verdict;

    /// Settles one call, if it may go.
    fn call(
        throttle: &Throttle,
        kind: Kind,
        rng: &Rng,
    ) -> (Answer<()>, Option<crate::event::Change>) {
        let (clock, mut pass) = (Clock::tokio(), Pass::new(throttle.clone()));
        let answer = pass.ask(&mut Ask {
            clock: &clock,
            moment: None,
            rng,
            waker: Waker::noop(),
            latest: None,
            attempt: 1,
            timeout: None,
            priority: Priority::Normal,
            purpose: Purpose::Call,
            news: None,
        });
        let change = pass.settle(&mut Outcome {
            verdict: &Verdict::new(kind),
            quota: None,
            hint: None,
            latency: None,
            timed_out: false,
            timeout: None,
            clock: &clock,
            moment: None,
            rng,
        });
        (answer, change)
    }

    #[test]
    fn a_gate_counts_what_is_settled_refuses_with_its_reason_and_never_waits() {
        let (throttle, rng) = (Throttle::new().window(Duration::MAX), Rng::seeded(1));
        for _ in 0..2 {
            assert_eq!(
                call(&throttle, Kind::Transient, &rng),
                (Answer::Go(()), None)
            );
        }
        let (_, change) = call(&throttle, Kind::Transient, &rng);
        let began = Change::Began {
            requests: 3,
            accepts: 0,
        };
        assert_eq!(change, Some(crate::event::Change::Throttle(began)));
        let refused = (0..100).find_map(|_| match call(&throttle, Kind::Overloaded, &rng).0 {
            Answer::Refuse(refusal) => Some(refusal),
            answer => {
                assert_eq!(answer, Answer::Go(()));
                None
            }
        });
        let refusal = refused.expect("three in four are");
        assert_eq!(refusal.reason, Reason::Throttled);
        assert!(refusal.retry_at.is_some());
    }

    #[test]
    fn a_pass_that_is_dropped_counts_as_nothing() {
        let throttle = Throttle::new();
        let mut pass = Pass::new(throttle.clone());
        let answer = pass.ask(&mut Ask {
            clock: &Clock::tokio(),
            moment: None,
            rng: &Rng::seeded(1),
            waker: Waker::noop(),
            latest: None,
            attempt: 1,
            timeout: None,
            priority: Priority::Normal,
            purpose: Purpose::Call,
            news: None,
        });
        assert_eq!(answer, Answer::Go(()));
        assert!(!throttle.is_idle(Instant::now()), "a pass holds it");
        drop(pass);
        assert_eq!(throttle.snapshot(Instant::now()).requests, 0);
        assert!(throttle.is_idle(Instant::now()));
    }
}
