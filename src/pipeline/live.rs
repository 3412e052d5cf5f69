//! Settings that change while calls go by.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::error::ConfigError;
use crate::pipeline::gates::after;
use crate::pipeline::{Pipeline, Policies, Scope};
use crate::retry::Retry;
use crate::sync::lock_plain;

/// Where a pipeline's policies come from.
#[derive(Clone)]
pub(crate) enum Source {
    Fixed(Arc<Policies>),
    Live(Arc<Live>),
}

impl Source {
    /// The policies of now, for one call.
    #[inline]
    pub(crate) fn hold(&self) -> Held<'_> {
        Held(match self {
            Self::Fixed(policies) => Hold::Lent(policies),
            Self::Live(live) => Hold::Own(live.load()),
        })
    }

    /// The same for a call that may outlive the pipeline.
    #[inline]
    pub(crate) fn load(&self) -> Arc<Policies> {
        match self {
            Self::Fixed(policies) => Arc::clone(policies),
            Self::Live(live) => live.load(),
        }
    }
}

/// The policies of a pipeline, held for one call. Opaque: it only shows in the types of futures.
pub struct Held<'a>(Hold<'a>);

enum Hold<'a> {
    Lent(&'a Policies),
    Own(Arc<Policies>),
}

impl Deref for Held<'_> {
    type Target = Policies;

    #[inline]
    fn deref(&self) -> &Policies {
        match &self.0 {
            Hold::Lent(policies) => policies,
            Hold::Own(policies) => policies,
        }
    }
}

impl fmt::Debug for Held<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// Policies that can be exchanged for others.
pub(crate) struct Live {
    current: RwLock<Arc<Policies>>,
    /// One change at a time: each takes over the state of the one before.
    changing: Mutex<()>,
}

impl Live {
    pub(crate) fn load(&self) -> Arc<Policies> {
        let current = self.current.read();
        Arc::clone(&current.unwrap_or_else(PoisonError::into_inner))
    }

    fn reload(&self, to: &Policies) -> Result<(), ConfigError> {
        let changing = lock_plain(&self.changing);
        let current = self.load();
        current.check_kept(to)?;
        let new = Arc::new(current.reconfigured(to));
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *current, new);
        drop(current);
        drop(changing);
        // What it held alone is dropped here, under no lock.
        drop(old);
        Ok(())
    }
}

impl Policies {
    /// Checks what isn't taken from `to`.
    fn check_kept(&self, to: &Self) -> Result<(), ConfigError> {
        let endpoints = self.endpoints.as_ref().filter(|_| to.endpoints.is_none());
        endpoints.map_or(Ok(()), Scope::check)?;
        self.chaos.as_ref().map_or(Ok(()), Scope::check)
    }

    /// The settings of `to` with the state of this one, and what only code can say of it.
    fn reconfigured(&self, to: &Self) -> Self {
        let (now, rng) = (self.clock.now(), &self.rng);
        let retry = |retry: &Retry| retry.after(self.retry.as_ref(), now, rng);
        let gates = to.gates.after(&self.gates, now, rng);
        let mut policies = Self {
            clock: self.clock.clone(),
            rng: self.rng.clone(),
            deadline: to.deadline,
            retry: to.retry.as_ref().map(retry),
            timeout: to.timeout,
            min_time_left: to.min_time_left,
            idempotent: self.idempotent,
            configured_idempotent: to.configured_idempotent,
            way: self.way,
            is_gated: self.is_gated,
            gates,
            chaos: self.chaos.clone(),
            endpoints: after(to.endpoints.as_ref(), self.endpoints.as_ref(), now, rng)
                .or_else(|| self.endpoints.clone()),
            observer: self.observer.clone(),
            wants_all: self.wants_all,
            purpose: self.purpose,
            invalid: None,
        };
        policies.note();
        policies
    }
}

impl<C> Pipeline<C> {
    /// One whose settings can be changed while calls go by: see [`reload`](Self::reload). That takes
    /// each call one read lock more.
    ///
    /// The setters still work on it, and give a pipeline of its own that isn't reloadable.
    pub fn reloadable(self) -> Self {
        if matches!(self.source, Source::Live(_)) {
            return self;
        }
        let live = Live {
            current: RwLock::new(self.source.load()),
            changing: Mutex::new(()),
        };
        Self {
            source: Source::Live(Arc::new(live)),
            classify: self.classify,
        }
    }

    /// Whether its settings can be changed by [`reload`](Self::reload).
    #[must_use]
    pub const fn is_reloadable(&self) -> bool {
        matches!(self.source, Source::Live(_))
    }

    /// The settings of `to` from now on: for this pipeline, its clones, and all services and
    /// layers made of them.
    ///
    /// Which policies there are and what they are set to comes from `to`. Classifier, clock, chance,
    /// observer, [chaos](Self::chaos), whether calls are [`idempotent`](Self::idempotent), and
    /// [endpoints](Self::endpoints) where `to` has none, stay. A call goes to its
    /// end by the deadline, timeout, retries and choice of policies it began with; policies that it
    /// shares with others change under it.
    ///
    /// State stays where it is:
    ///
    /// | policy | keeps | |
    /// |---|---|---|
    /// | budget | what is in it, up to the new capacity | what was earned before was earned at the old ratio; a larger capacity is no fuller bucket |
    /// | window | rate, quiet, what is under way and parked | |
    /// | rate limit | what was used, pauses, its line | no burst by the change; what the service said was left is forgotten if the quota is another |
    /// | bulkhead | what runs, its line, what it learned | a limit of the user's own begins anew; a smaller one waits until so many have left |
    /// | endpoints | health, ejections and probes of those that stay in the list | |
    /// | throttle | what it counted | in a window of another length each tenth is of another length |
    /// | breaker | state, open time, counts, probes | with another kind or length of window, or where slow calls begin or cease to count, a new breaker takes over mode, state, open time and trips: handles of the old one are on their own then, and what is under way counts for neither |
    ///
    /// They are the same policies as before: handles to them go on, and other pipelines that
    /// share them see the change too. [`Keyed`](crate::Keyed) entries that are there are changed as
    /// well as those to come, but for those [`Keyed::with`](crate::Keyed::with) has settings for. A
    /// line that is shortened takes nobody new until it is short enough, and drops nobody. What was
    /// set by hand (`set_limit`, `set_quota`) stays where the setting itself stays.
    ///
    /// A call takes its set of policies when its future is made. Shared policies change one after the
    /// other: a call meanwhile may meet the new settings of one and the old ones of the next. A
    /// [`Budget::floor`](crate::Budget::floor) stays, and so does what [`Keyed::with`](crate::Keyed::with)
    /// makes; that of `to` is not taken over.
    ///
    /// A policy that was off, or changes between one for all and one per key, begins anew. One that
    /// is off from now on is let go by new calls. `to` gives settings only: none of its own state
    /// is shared.
    ///
    /// # Errors
    ///
    /// Settings that make no sense, of `to` or of what stays; or a pipeline that isn't [`reloadable`](Self::reloadable).
    /// Nothing is changed then.
    ///
    /// # Examples
    ///
    /// ```
    /// use evenkeel::{Breaker, Pipeline, Retry};
    /// use std::time::Duration;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let breaker = Breaker::new();
    /// let pipeline = Pipeline::new().breaker(breaker.clone()).reloadable();
    /// let failing = || pipeline.run(|_| async { Err::<(), _>("down") });
    /// assert_eq!(failing().await.unwrap_err().attempts(), 1);
    ///
    /// let retry = Retry::constant(Duration::ZERO).max_attempts(2);
    /// let to = Pipeline::new().retry(retry).breaker(Breaker::new().consecutive_failures(9));
    /// pipeline.reload(&to).unwrap();
    /// assert_eq!(failing().await.unwrap_err().attempts(), 2);
    /// # let now = std::time::Instant::now();
    /// assert_eq!(breaker.snapshot(now).consecutive_failures, 3); // the same breaker
    /// # }
    /// ```
    pub fn reload<D>(&self, to: &Pipeline<D>) -> Result<(), ConfigError> {
        let Source::Live(live) = &self.source else {
            let problem = "must be made reloadable first";
            return Err(ConfigError::new("pipeline", problem));
        };
        let to = to.source.hold();
        if let Some(error) = to.invalid {
            return Err(error);
        }
        live.reload(&to)
    }
}
