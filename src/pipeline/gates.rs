//! What stands in front of every attempt, and what a call holds of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::breaker::Breaker;
use crate::diagnosis::Health;
use crate::error::ConfigError;
use crate::event::Change;
use crate::gate::{Answer, Ask, Gate, Outcome, Pass};
use crate::keyed::{self, Key, Keyed, PerKey};
use crate::limit::{Bulkhead, RateLimit};
use crate::report::WaitReason;
use crate::rng::Rng;
use crate::throttle::Throttle;
use crate::window::Window;

/// The policies in front of every attempt.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gates {
    pub(crate) throttle: Option<Scope<Throttle>>,
    pub(crate) bulkhead: Option<Scope<Bulkhead>>,
    pub(crate) window: Option<Scope<Window>>,
    pub(crate) rate_limit: Option<Scope<RateLimit>>,
    pub(crate) breaker: Option<Scope<Breaker>>,
    /// Stands in nobody's way: it is only told.
    pub(crate) health: Option<Scope<Health>>,
}

/// Whether one policy is for all calls of a pipeline, or each service has its own.
///
/// Made of either by `into()`; what the pipeline's setters take.
#[derive(Clone, Debug)]
#[allow(clippy::exhaustive_enums)] // one or many
pub enum Scope<P> {
    /// One for all calls.
    One(P),
    /// One per key. Calls without a key pass by.
    PerKey(Keyed<P>),
}

impl<P: PerKey> From<P> for Scope<P> {
    fn from(policy: P) -> Self {
        Self::One(policy)
    }
}

impl<P> From<Keyed<P>> for Scope<P> {
    fn from(policies: Keyed<P>) -> Self {
        Self::PerKey(policies)
    }
}

impl<P: PerKey> Scope<P> {
    #[inline]
    pub(crate) fn of(
        &self,
        key: Option<Key>,
        now: impl FnOnce() -> Instant,
    ) -> (Option<P>, Option<keyed::Change>) {
        match (self, key) {
            (Self::One(policy), _) => (Some(policy.clone()), None),
            (Self::PerKey(policies), Some(key)) => {
                let entry = policies.get(key, now);
                let change = entry.change();
                (Some(entry.into_inner()), change)
            }
            (Self::PerKey(_), None) => (None, None),
        }
    }

    /// What there is for this key, if there is anything yet. This doesn't count as use.
    pub(crate) fn peek(&self, key: Option<Key>) -> Option<P> {
        match self {
            Self::One(policy) => Some(policy.clone()),
            Self::PerKey(policies) => policies.peek(key?),
        }
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        match self {
            Self::One(policy) => policy.check(),
            Self::PerKey(policies) => policies.check(),
        }
    }
}

impl<P: PerKey> Scope<P> {
    /// What takes the place of `old` where the settings are this one's from now on: that one, with
    /// its state, or one that begins anew.
    pub(crate) fn after(&self, old: Option<&Self>, now: Instant, rng: &Rng) -> Self {
        match (old, self) {
            (Some(Self::One(old)), Self::One(new)) => Self::One(if old.reconfigure(new, now) {
                old.clone()
            } else {
                old.successor(&new.apart(), now, rng)
            }),
            (Some(Self::PerKey(old)), Self::PerKey(new)) => {
                let successor = old.reconfigure(new, now, rng);
                Self::PerKey(successor.unwrap_or_else(|| old.clone()))
            }
            (_, Self::One(new)) => Self::One(new.apart()),
            (_, Self::PerKey(new)) => Self::PerKey(new.fresh()),
        }
    }
}

impl Gates {
    /// These settings with the state of `old`, as far as there is any.
    pub(super) fn after(&self, old: &Self, now: Instant, rng: &Rng) -> Self {
        Self {
            throttle: after(self.throttle.as_ref(), old.throttle.as_ref(), now, rng),
            bulkhead: after(self.bulkhead.as_ref(), old.bulkhead.as_ref(), now, rng),
            window: after(self.window.as_ref(), old.window.as_ref(), now, rng),
            rate_limit: after(self.rate_limit.as_ref(), old.rate_limit.as_ref(), now, rng),
            breaker: after(self.breaker.as_ref(), old.breaker.as_ref(), now, rng),
            // Only code can say it.
            health: old.health.clone(),
        }
    }

    /// Whether there is nothing to ask.
    pub(super) fn is_empty(&self) -> bool {
        self.throttle.is_none()
            && self.bulkhead.is_none()
            && self.window.is_none()
            && self.rate_limit.is_none()
            && self.breaker.is_none()
            && self.health.is_none()
    }

    /// Whether there is no other than a window and a breaker, which let most calls go at once.
    pub(super) fn are_plain(&self) -> bool {
        self.throttle.is_none()
            && self.bulkhead.is_none()
            && self.rate_limit.is_none()
            && self.health.is_none()
    }

    /// The window of another service than the one that was called.
    pub(super) fn window_of(&self, key: Key, now: impl FnOnce() -> Instant) -> Option<Window> {
        match self.window.as_ref()? {
            // It isn't this service's.
            Scope::One(_) => None,
            Scope::PerKey(windows) => Some(windows.get(key, now).into_inner()),
        }
    }

    /// The window of a service, for those who only look.
    #[cfg(feature = "sim")]
    pub(super) fn peek_window(&self, key: Key) -> Option<Window> {
        match self.window.as_ref()? {
            Scope::One(window) => Some(window.clone()),
            Scope::PerKey(windows) => windows.peek(key),
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        check(self.throttle.as_ref())?;
        check(self.bulkhead.as_ref())?;
        check(self.window.as_ref())?;
        check(self.rate_limit.as_ref())?;
        check(self.breaker.as_ref())
    }
}

pub(super) fn after<P: PerKey>(
    new: Option<&Scope<P>>,
    old: Option<&Scope<P>>,
    now: Instant,
    rng: &Rng,
) -> Option<Scope<P>> {
    new.map(|new| new.after(old, now, rng))
}

fn check<P: PerKey>(scope: Option<&Scope<P>>) -> Result<(), ConfigError> {
    scope.map_or(Ok(()), Scope::check)
}

/// What one call holds of the gates.
#[derive(Debug)]
pub(super) struct Passes {
    pub(super) key: Option<Key>,
    throttle: Option<Pass<Throttle>>,
    bulkhead: Option<Pass<Bulkhead>>,
    pub(super) window: Option<Pass<Window>>,
    rate_limit: Option<Pass<RateLimit>>,
    pub(super) breaker: Option<Pass<Breaker>>,
    pub(super) health: Option<Health>,
}

impl Passes {
    /// Of a call with this key, still without gates.
    pub(super) const fn none(key: Option<Key>) -> Self {
        Self {
            key,
            throttle: None,
            bulkhead: None,
            window: None,
            rate_limit: None,
            breaker: None,
            health: None,
        }
    }

    /// Looks the gates up that stand in front of calls with its key. There may be more keys than a
    /// registry holds, and this be the call to tell of it.
    #[inline]
    pub(super) fn fill(
        &mut self,
        gates: &Gates,
        mut now: impl FnMut() -> Instant,
    ) -> Option<keyed::Change> {
        let (key, now, mut overflow) = (self.key, &mut now, None);
        let of = &mut overflow;
        fill(&mut self.throttle, gates.throttle.as_ref(), key, now, of);
        fill(&mut self.bulkhead, gates.bulkhead.as_ref(), key, now, of);
        fill(&mut self.window, gates.window.as_ref(), key, now, of);
        fill(
            &mut self.rate_limit,
            gates.rate_limit.as_ref(),
            key,
            now,
            of,
        );
        fill(&mut self.breaker, gates.breaker.as_ref(), key, now, of);
        if let Some(scope) = &gates.health {
            let (health, change) = scope.of(key, now);
            self.health = health;
            overflow = overflow.or(change);
        }
        overflow
    }

    /// Whether there is anything to ask but the breaker.
    #[inline]
    pub(super) const fn are_many(&self) -> bool {
        self.throttle.is_some()
            || self.window.is_some()
            || self.rate_limit.is_some()
            || self.bulkhead.is_some()
    }

    /// Asks all but the breaker, in order. If one of them doesn't let go, says why, and what it
    /// answers. What was had before stays held while a later one lets wait.
    #[inline]
    pub(super) fn enter(&mut self, ask: &mut Ask<'_>) -> Option<(WaitReason, Answer<()>)> {
        // Sheds first: nothing that will be shed is to wait in line.
        if let Some(answer) = enter(self.throttle.as_mut(), ask) {
            return Some((WaitReason::Bulkhead, answer));
        }
        if let Some(answer) = enter(self.window.as_mut(), ask) {
            // It may have got past once, and have to wait here after all.
            give_back(self.rate_limit.as_mut());
            give_back(self.bulkhead.as_mut());
            return Some((WaitReason::Window, answer));
        }
        if let Some(answer) = enter(self.rate_limit.as_mut(), ask) {
            return Some((WaitReason::RateLimit, answer));
        }
        // Last of those that can take time: what waits for one service is not to hold the permits
        // that others share.
        let answer = enter(self.bulkhead.as_mut(), ask)?;
        Some((WaitReason::Bulkhead, answer))
    }

    /// The same of a first attempt, where there is no other gate than the window.
    #[inline]
    pub(super) fn enter_plainly(&mut self) -> bool {
        let window = self.window.as_mut();
        window.is_none_or(Pass::ask_plainly)
    }

    /// Whether what let a first attempt go still holds, and the breaker lets it go at once.
    #[inline]
    pub(super) fn pass_breaker_plainly(&mut self) -> bool {
        let is_stale = self.are_stale();
        let breaker = self.breaker.as_mut();
        !is_stale && breaker.is_none_or(Pass::ask_plainly)
    }

    /// Whether the attempt has to enter again: what let it go may hold no more.
    #[inline]
    pub(super) fn are_stale(&self) -> bool {
        self.window.as_ref().is_some_and(Pass::is_stale)
    }

    /// The attempt begins.
    #[inline]
    pub(super) fn begin(&mut self) {
        // The others make no difference between had and used.
        if let Some(rate_limit) = &mut self.rate_limit {
            rate_limit.begin();
        }
    }

    pub(super) const fn learns_quota(&self) -> bool {
        self.rate_limit.is_some()
    }

    /// Tells each gate that has a ticket out how the attempt ended. No change, no allocation.
    #[inline]
    pub(super) fn settle(&mut self, outcome: &mut Outcome<'_>, changes: &mut Vec<Change>) {
        settle(self.throttle.as_mut(), outcome, changes);
        match &mut self.bulkhead {
            Some(bulkhead) if bulkhead.gate().holds_bodies() => {
                changes.extend(bulkhead.note(outcome));
            }
            bulkhead => settle(bulkhead.as_mut(), outcome, changes),
        }
        settle(self.window.as_mut(), outcome, changes);
        settle(self.rate_limit.as_mut(), outcome, changes);
        settle(self.breaker.as_mut(), outcome, changes);
    }

    /// The same of a success, where that is only counted by all of them. If not, those that haven't counted it
    /// are still to be told.
    #[inline]
    pub(super) fn settle_plainly(&mut self, outcome: &mut Outcome<'_>) -> bool {
        let window = self.window.as_mut();
        let breaker = self.breaker.as_mut();
        window.is_none_or(|it| it.settle_plainly(outcome))
            && breaker.is_none_or(|it| it.settle_plainly(outcome))
    }

    /// The failure came from another service than the one that was asked, as after a redirect: it is one
    /// for what all services share, and says nothing of the one that was asked.
    pub(super) fn settle_elsewhere(
        &mut self,
        gates: &Gates,
        outcome: &mut Outcome<'_>,
        changes: &mut Vec<Change>,
    ) {
        let mut of = (outcome, changes);
        elsewhere(gates.throttle.as_ref(), self.throttle.as_mut(), &mut of);
        elsewhere(gates.bulkhead.as_ref(), self.bulkhead.as_mut(), &mut of);
        elsewhere(gates.window.as_ref(), self.window.as_mut(), &mut of);
        elsewhere(gates.rate_limit.as_ref(), self.rate_limit.as_mut(), &mut of);
        elsewhere(gates.breaker.as_ref(), self.breaker.as_mut(), &mut of);
    }

    /// The deadline cut the attempt short, after a long time or not.
    pub(super) fn cut_short(
        &mut self,
        outcome: &mut Outcome<'_>,
        long: bool,
        changes: &mut Vec<Change>,
    ) {
        if let Some(window) = &mut self.window {
            // It knows what is long here.
            let latency = outcome.latency.unwrap_or_default();
            if window.gate().is_late(latency, outcome.timeout) {
                changes.extend(window.settle(outcome));
            }
        }
        if long {
            settle(self.throttle.as_mut(), outcome, changes);
            settle(self.bulkhead.as_mut(), outcome, changes);
            settle(self.breaker.as_mut(), outcome, changes);
        }
    }

    /// The permit that goes on with a response's body.
    pub(super) fn take_kept(&mut self) -> Option<Kept> {
        let pass = self.bulkhead.take_if(|bulkhead| bulkhead.has_ticket())?;
        Some(Kept {
            _pass: Arc::new(pass),
        })
    }

    /// Gives back whatever is held.
    pub(super) fn give_back(&mut self) {
        give_back(self.breaker.as_mut());
        give_back(self.rate_limit.as_mut());
        give_back(self.window.as_mut());
        give_back(self.bulkhead.as_mut());
        give_back(self.throttle.as_mut());
    }

    /// With less time than this left an attempt isn't worth beginning.
    pub(super) fn least_time(&self, timeout: Option<Duration>) -> Duration {
        let window = self.window.as_ref();
        window.map_or(Duration::ZERO, |it| it.gate().least_time(timeout))
    }

    /// For how long asking again is of no use, and who says so.
    pub(super) fn closed(&self, now: Instant) -> Option<(Duration, WaitReason)> {
        let of =
            |until: Option<Instant>, reason| Some((until?.saturating_duration_since(now), reason));
        let breaker = self.breaker.as_ref();
        let window = self.window.as_ref();
        let rate_limit = self.rate_limit.as_ref();
        let closed = [
            of(
                breaker.and_then(|it| it.gate().closed_until(now)),
                WaitReason::Breaker,
            ),
            of(
                window.and_then(|it| it.gate().closed_until(now)),
                WaitReason::Window,
            ),
            of(
                rate_limit.and_then(|it| it.gate().closed_until(now)),
                WaitReason::RateLimit,
            ),
        ];
        closed
            .into_iter()
            .flatten()
            .max_by_key(|(length, _)| *length)
    }
}

/// A permit on its way with a response; see
/// [`Bulkhead::until_body_ends`]. Dropping the last clone gives it back.
#[derive(Clone, Debug)]
pub struct Kept {
    _pass: Arc<Pass<Bulkhead>>,
}

#[inline]
fn fill<P: Gate + PerKey>(
    pass: &mut Option<Pass<P>>,
    scope: Option<&Scope<P>>,
    key: Option<Key>,
    now: &mut impl FnMut() -> Instant,
    overflow: &mut Option<keyed::Change>,
) {
    if let Some(scope) = scope {
        let (policy, change) = scope.of(key, now);
        *pass = policy.map(Pass::new);
        *overflow = overflow.or(change);
    }
}

#[inline]
fn enter<G: Gate>(pass: Option<&mut Pass<G>>, ask: &mut Ask<'_>) -> Option<Answer<()>> {
    match pass?.ask(ask) {
        Answer::Go(()) => None,
        answer => Some(answer),
    }
}

#[inline]
fn settle<G: Gate>(
    pass: Option<&mut Pass<G>>,
    outcome: &mut Outcome<'_>,
    changes: &mut Vec<Change>,
) {
    if let Some(change) = pass.and_then(|pass| pass.settle(outcome)) {
        changes.push(change);
    }
}

fn elsewhere<G: Gate>(
    scope: Option<&Scope<G>>,
    pass: Option<&mut Pass<G>>,
    (outcome, changes): &mut (&mut Outcome<'_>, &mut Vec<Change>),
) {
    match scope {
        Some(Scope::One(_)) => settle(pass, outcome, changes),
        _ => give_back(pass),
    }
}

fn give_back<G: Gate>(pass: Option<&mut Pass<G>>) {
    if let Some(pass) = pass {
        pass.give_back();
    }
}
