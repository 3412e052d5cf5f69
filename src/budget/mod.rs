//! One shared budget for all extra load: retries, and hedges.
//!
//! Retries are cheap when one call in a hundred fails and ruinous when all do: three retries turn
//! an overload into one four times as large, and it stays when its cause has gone. A budget ties
//! the extra attempts of all calls together to a share of the first ones, so that amplification
//! has a bound whatever fails.
//!
//! The budget is a continuous token bucket. Each first attempt earns a fraction of a token, each
//! extra attempt spends one or more, and over *any* stretch of time
//! `extra ≤ capacity + ratio × first attempts` holds exactly, on any number of threads.
//!
//! # Example
//!
//! ```
//! use evenkeel::budget::{Budget, Ratio};
//!
//! let budget = Budget::new(Ratio::percent(10)).capacity(3);
//! let shared = budget.clone(); // one bucket, two owners
//! assert_eq!(shared.snapshot().available, 3.0);
//! ```
//!
//! # Defaults
//!
//! | setting | default | why |
//! |---|---|---|
//! | ratio | 10 % of first attempts | an outage costs the server a tenth more, not four times as much; [`Pipeline::http`](crate::Pipeline::http) gives 50 %, for its [`window`](crate::window) keeps back what would do harm |
//! | capacity | what the last 10 s earned, at least 3 tokens | a blip of some seconds is bridged, and a client that has earned nothing yet may retry too |
//! | cost | 1 token for every kind of failure | |
//! | floor | none | so many retries a second *per client* is no bound for a fleet; see [`Budget::floor`] |
//!
//! # What it does not do
//!
//! It does not slow first attempts down, and it does not survive a restart.

mod bucket;

use std::fmt;
use std::mem;
use std::time::{Duration, Instant};

use crate::error::ConfigError;
use crate::keyed::{PerKey, sealed::Sealed};
use crate::sync::{Arc, AtomicU64, Mutex, Ordering, lock};
use crate::verdict::Kind;

use bucket::{Bucket, Capacity, TOKEN};

/// A shared budget for extra attempts. Clones share one bucket.
///
/// The setters start a fresh, full bucket: set it up before it is cloned or used.
#[derive(Clone)]
pub struct Budget {
    shared: Arc<Shared>,
    own: Option<Arc<Shared>>,
}

struct Shared {
    /// First attempts ever. The only thing a call that succeeds at once touches.
    firsts: AtomicU64,
    inside: Mutex<Inside>,
}

struct Inside {
    bucket: Bucket,
    settings: Settings,
}

#[derive(Clone, Debug)]
struct Settings {
    ratio: Ratio,
    capacity: Capacity,
    costs: Costs,
}

impl Budget {
    /// A budget that earns `ratio` of a token with each first attempt.
    #[must_use]
    pub fn new(ratio: Ratio) -> Self {
        Self::with(Settings {
            ratio,
            capacity: Capacity::Traffic {
                window: CAPACITY_WINDOW,
                least: u64::from(LEAST_CAPACITY) * TOKEN,
            },
            costs: Costs::default(),
        })
    }

    /// A fixed capacity in tokens; the bucket starts full. Zero means no extra attempts at all, for
    /// nothing can be saved up; otherwise at least the dearest [`cost`](Self::cost). Default: see
    /// [`capacity_of`](Self::capacity_of).
    #[must_use]
    pub fn capacity(self, tokens: u32) -> Self {
        self.change(|it| it.capacity = Capacity::Fixed(u64::from(tokens) * TOKEN))
    }

    /// A capacity that follows the traffic: what the last `window` earned, and at least `least`
    /// tokens, with which the bucket starts. Default: 10 s and 3.
    ///
    /// The traffic is counted every 32 first attempts and at every failure, so in quiet times the
    /// window stretches back further.
    #[must_use]
    pub fn capacity_of(self, window: Duration, least: u32) -> Self {
        let least = u64::from(least) * TOKEN;
        self.change(|it| it.capacity = Capacity::Traffic { window, least })
    }

    /// What an attempt after a failure of this kind costs, in tokens: at least 1. Default: 1.
    #[must_use]
    pub fn cost(self, after: Kind, tokens: u32) -> Self {
        self.change(|it| it.costs.set(after, tokens))
    }

    /// A handle for one client of a shared budget, with a floor that is a share of that client's
    /// *own* traffic: it may spend `ratio` of its own first attempts (and the dearest
    /// [`cost`](Self::cost) to begin with) even while the shared bucket is empty.
    ///
    /// The bound becomes `capacity + ratio × all first attempts + Σ (cost + floor × own)`.
    #[must_use]
    pub fn floor(&self, ratio: Ratio) -> Self {
        let costs = self.shared.settings().costs;
        let settings = Settings {
            ratio,
            // Less could never pay for an attempt after the dearest kind of failure.
            capacity: Capacity::Fixed(costs.dearest().max(TOKEN)),
            costs,
        };
        Self {
            shared: Arc::clone(&self.shared),
            own: Some(Arc::new(Shared::new(settings))),
        }
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// A cost of zero, which would be no budget; a capacity window of zero; or a fixed capacity
    /// that holds something, but never the dearest cost.
    pub fn check(&self) -> Result<(), ConfigError> {
        let settings = self.shared.settings();
        if settings.costs.least() == 0 {
            return Err(ConfigError::new("budget.cost", "must be at least 1"));
        }
        match settings.capacity {
            Capacity::Traffic { window, .. } if window.is_zero() => {
                Err(ConfigError::new("budget.capacity_of", "must not be zero"))
            }
            Capacity::Fixed(capacity) if capacity > 0 && capacity < settings.costs.dearest() => {
                let problem = "must be zero or at least the dearest cost";
                Err(ConfigError::new("budget.capacity", problem))
            }
            _ => Ok(()),
        }
    }

    /// How much is left, and what was done with it. That of a handle with a [`floor`](Self::floor)
    /// includes its own bucket.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = self.shared.snapshot();
        if let Some(own) = &self.own {
            // Its first attempts are among the shared ones.
            let own = own.snapshot();
            snapshot.available += own.available;
            snapshot.capacity += own.capacity;
            snapshot.extra_attempts += own.extra_attempts;
        }
        snapshot
    }

    /// Counts one first attempt. Says whether the budget wants to be told the time.
    #[inline]
    #[must_use = "the capacity can follow the traffic only if it is told the time"]
    pub fn deposit(&self) -> bool {
        if let Some(own) = &self.own {
            own.firsts.fetch_add(1, Ordering::Relaxed);
        }
        let before = self.shared.firsts.fetch_add(1, Ordering::Relaxed);
        before % TICK_EVERY == 0
    }

    /// Tells the budget the time, if [`deposit`](Self::deposit) asked for it.
    pub fn tick(&self, now: Instant) {
        self.shared.tick(now);
    }

    /// Sets aside what an attempt after a failure of this kind costs. `None` if that much isn't
    /// there.
    ///
    /// Never waits for tokens.
    #[must_use = "dropping the withdrawal gives it back"]
    pub fn withdraw(&self, after: Kind, now: Instant) -> Option<Withdrawal> {
        let from_shared = Shared::withdraw(&self.shared, after, now);
        match &self.own {
            Some(own) if from_shared.is_none() => Shared::withdraw(own, after, now),
            _ => from_shared,
        }
    }

    fn with(settings: Settings) -> Self {
        Self {
            shared: Arc::new(Shared::new(settings)),
            own: None,
        }
    }

    fn change(self, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = self.shared.settings();
        change(&mut settings);
        let changed = Self::with(settings);
        match self.own {
            Some(own) => changed.floor(own.settings().ratio),
            None => changed,
        }
    }
}

impl Default for Budget {
    /// 10 % of first attempts.
    fn default() -> Self {
        Self::new(Ratio::percent(10))
    }
}

impl Sealed for Budget {
    /// What is in the bucket stays, up to the new capacity; what was earned until now was earned at
    /// the old ratio. A [floor](Self::floor) stays what it is.
    fn reconfigure(&self, to: &Self, now: Instant) -> bool {
        self.shared.reconfigure(to.shared.settings(), now);
        true
    }
}

impl PerKey for Budget {
    fn fresh(&self) -> Self {
        self.clone().change(|_| ())
    }

    /// Whether nobody else holds it. What it has spent doesn't keep it: the few tokens of a fresh
    /// one are earned by having been quiet.
    fn is_idle(&self, _: Instant) -> bool {
        Arc::strong_count(&self.shared) == 1
            && (self.own.as_ref()).is_none_or(|own| Arc::strong_count(own) == 1)
    }

    fn check(&self) -> Result<(), ConfigError> {
        Self::check(self)
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget")
            .field("settings", &self.shared.settings())
            .field("snapshot", &self.snapshot())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn new(settings: Settings) -> Self {
        Self {
            firsts: AtomicU64::new(0),
            inside: Mutex::new(Inside {
                bucket: Bucket::new(settings.ratio.millionths, settings.capacity),
                settings,
            }),
        }
    }

    fn settings(&self) -> Settings {
        lock(&self.inside).settings.clone()
    }

    fn reconfigure(&self, settings: Settings, now: Instant) {
        let mut inside = lock(&self.inside);
        let firsts = self.firsts.load(Ordering::Relaxed);
        let (ratio, capacity) = (settings.ratio.millionths, settings.capacity);
        inside.bucket.reconfigure(ratio, capacity, now, firsts);
        inside.settings = settings;
    }

    fn withdraw(shared: &Arc<Self>, after: Kind, now: Instant) -> Option<Withdrawal> {
        let mut inside = lock(&shared.inside);
        let cost = inside.settings.costs.of(after);
        let firsts = shared.firsts.load(Ordering::Relaxed);
        inside.bucket.tick(now, firsts);
        let reserved = inside.bucket.reserve(cost, firsts);
        drop(inside);
        reserved.then(|| Withdrawal {
            from: Arc::clone(shared),
            cost,
        })
    }

    fn tick(&self, now: Instant) {
        let bucket = &mut lock(&self.inside).bucket;
        bucket.tick(now, self.firsts.load(Ordering::Relaxed));
    }

    fn snapshot(&self) -> Snapshot {
        let bucket = &mut lock(&self.inside).bucket;
        let first_attempts = self.firsts.load(Ordering::Relaxed);
        Snapshot {
            available: tokens(bucket.free(first_attempts)),
            capacity: tokens(bucket.capacity()),
            extra_attempts: bucket.extra(),
            first_attempts,
        }
    }
}

/// Tokens set aside for one extra attempt.
///
/// Dropping it gives them back exactly; [`spend`](Self::spend) spends them.
#[derive(Debug)]
#[must_use = "dropping the withdrawal gives it back"]
pub struct Withdrawal {
    from: Arc<Shared>,
    /// Nothing once it is spent.
    cost: u64,
}

impl Withdrawal {
    /// The attempt begins: the tokens are gone.
    pub fn spend(mut self) {
        let cost = mem::take(&mut self.cost);
        let bucket = &mut lock(&self.from.inside).bucket;
        bucket.commit(cost, self.from.firsts.load(Ordering::Relaxed));
    }
}

impl Drop for Withdrawal {
    fn drop(&mut self) {
        if self.cost > 0 {
            lock(&self.from.inside).bucket.release(self.cost);
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// A budget at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Tokens that can be had now.
    pub available: f64,
    /// Tokens the bucket can hold now.
    pub capacity: f64,
    /// Extra attempts begun so far.
    pub extra_attempts: u64,
    /// First attempts counted so far.
    pub first_attempts: u64,
}

/// A share, exact to a millionth.
///
/// # Examples
///
/// ```
/// use evenkeel::budget::Ratio;
///
/// assert_eq!(Ratio::try_from(0.1).unwrap(), Ratio::percent(10));
/// assert!(Ratio::try_from(f64::NAN).is_err());
/// assert!(Ratio::try_from(-0.1).is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "f64", into = "f64"))]
pub struct Ratio {
    millionths: u64,
}

impl Ratio {
    /// So many hundredths. More than 100 is more extra attempts than first ones.
    #[must_use]
    pub const fn percent(percent: u16) -> Self {
        Self {
            millionths: percent as u64 * 10_000,
        }
    }

    pub(crate) const fn in_millionths(self) -> u64 {
        self.millionths
    }

    /// So many millionths.
    #[must_use]
    pub const fn millionths(millionths: u32) -> Self {
        Self {
            millionths: millionths as u64,
        }
    }
}

impl TryFrom<f64> for Ratio {
    type Error = ConfigError;

    /// The nearest millionth.
    ///
    /// # Errors
    ///
    /// Anything but a number from 0 to 1000.
    fn try_from(ratio: f64) -> Result<Self, ConfigError> {
        // Written so that NaN fails too.
        if !(0.0..=1000.0).contains(&ratio) {
            return Err(ConfigError::new("ratio", "must be from 0 to 1000"));
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // checked above
        let millionths = (ratio * 1e6).round() as u64;
        Ok(Self { millionths })
    }
}

impl From<Ratio> for f64 {
    fn from(ratio: Ratio) -> Self {
        tokens(ratio.millionths)
    }
}

/// What an attempt costs after each kind of failure, in tokens.
#[derive(Clone, Copy, Debug)]
struct Costs {
    overloaded: u32,
    rate_limited: u32,
    transient: u32,
}

impl Costs {
    fn set(&mut self, after: Kind, tokens: u32) {
        match after {
            Kind::Overloaded => self.overloaded = tokens,
            Kind::RateLimited => self.rate_limited = tokens,
            Kind::Transient => self.transient = tokens,
            // Nothing follows these kinds.
            Kind::RequestFault | Kind::Success | Kind::TargetFault => {}
        }
    }

    fn of(self, after: Kind) -> u64 {
        let tokens = match after {
            Kind::Overloaded => self.overloaded,
            Kind::RateLimited => self.rate_limited,
            _ => self.transient,
        };
        u64::from(tokens) * TOKEN
    }

    /// In millionths.
    fn dearest(self) -> u64 {
        let tokens = self.overloaded.max(self.rate_limited).max(self.transient);
        u64::from(tokens) * TOKEN
    }

    fn least(self) -> u32 {
        self.overloaded.min(self.rate_limited).min(self.transient)
    }
}

impl Default for Costs {
    fn default() -> Self {
        Self {
            overloaded: 1,
            rate_limited: 1,
            transient: 1,
        }
    }
}

#[allow(clippy::cast_precision_loss)] // for people to read
fn tokens(millionths: u64) -> f64 {
    millionths as f64 / 1e6
}

/// A blip of some seconds is bridged; an outage isn't fed with what an hour has earned.
const CAPACITY_WINDOW: Duration = Duration::from_secs(10);

/// A quiet client may retry its first failures; after them it lives on what it earns.
const LEAST_CAPACITY: u32 = 3;

/// Often enough for a capacity of ten seconds' traffic, seldom enough not to be felt.
const TICK_EVERY: u64 = 32;
