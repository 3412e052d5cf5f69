//! One policy per key, bounded.
//!
//! What a service does to one host, shard or tenant says little about the others: if one of them
//! fails, a budget or breaker that all share stops calls that would have gone well. A registry
//! holds one policy for each key and makes it when the key is first seen.
//!
//! Keys often come from outside: a host in a redirect, a tenant in a request. So the registry is
//! bounded. Entries that nobody has used for a while make room for new ones. When there are more
//! keys in use than it may hold, all those beyond share *one* entry, which is what every key
//! would have without a registry. An entry in use is never thrown out, for then its state, such as
//! an open breaker, would be lost just when it matters.
//!
//! # Example
//!
//! ```
//! use evenkeel::keyed::Keyed;
//! use evenkeel::{Budget, Key};
//! use std::time::Instant;
//!
//! let budgets = Keyed::new(Budget::default()).capacity(100);
//! let billing = budgets.get(Key::of("billing"), Instant::now).into_inner();
//! let _ = billing.deposit();
//!
//! let again = budgets.get(Key::of("billing"), Instant::now).into_inner();
//! assert_eq!(again.snapshot().first_attempts, 1); // the same budget
//! let orders = budgets.get(Key::of("orders"), Instant::now).into_inner();
//! assert_eq!(orders.snapshot().first_attempts, 0); // another one
//! ```
//!
//! # Defaults
//!
//! | setting | default | why |
//! |---|---|---|
//! | [`capacity`](Keyed::capacity) | 10,000 keys | more services than a client talks to, and some megabytes at most |
//! | [`idle_after`](Keyed::idle_after) | 10 min | longer than any policy remembers, short enough for hosts that come and go |
//!
//! # Changes
//!
//! A lookup that got the shared entry says so ([`Entry::is_shared`]). The first of them, and after
//! it one a minute at most, carries [`Change::Overflow`], worth an event.
//!
//! [`Pipeline::reload`](crate::Pipeline::reload) gives the registry, its entries and those to come other
//! settings, but for keys that [`with`](Keyed::with) has settings for.
//!
//! # What it costs
//!
//! A lookup takes the read lock of one shard out of up to 32 and reads no clock. Every 64th lookup
//! of a key, and every new key, also looks at eight slots for idle entries, or at 32 when the
//! registry is full. Nothing is ever searched from end to end, and there is no background task.
//!
//! # What it does not do
//!
//! It doesn't evict on the minute: an idle entry goes when the hand that goes round comes by, which
//! takes lookups. If only a few of many entries are idle, a new key may share for some calls until
//! the hand meets one. It doesn't evict the least recently used entry when full, for that would
//! let a flood of new keys throw out the old ones.

mod table;

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::num::NonZeroU64;
use std::sync::{OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::error::ConfigError;
use crate::rng::Rng;
use crate::sync::{Arc, AtomicU64, AtomicUsize, Ordering, RwLock};

use table::Table;

/// What calls have in common that go to one service.
///
/// HTTP requests have one by nature: host and port. It is kept as a keyed hash, so it is cheap to
/// copy and tells nothing.
///
/// # Examples
///
/// ```
/// use evenkeel::Key;
///
/// assert_eq!(Key::of("billing"), Key::of("billing"));
/// assert_ne!(Key::of("billing"), Key::of("orders"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(NonZeroU64);

impl Key {
    /// The key of anything that can be hashed, the same within one process.
    pub fn of(what: impl Hash) -> Self {
        // Keyed per process: nobody outside can make two names collide.
        static HASHER: OnceLock<RandomState> = OnceLock::new();
        Self::from_hash(HASHER.get_or_init(RandomState::new).hash_one(what))
    }

    /// Two hashes share a key, and so every call has a word less to carry where it may have no key.
    const fn from_hash(hash: u64) -> Self {
        match NonZeroU64::new(hash) {
            Some(hash) => Self(hash),
            None => Self(NonZeroU64::MIN),
        }
    }

    const fn hash(self) -> u64 {
        self.0.get()
    }
}

/// A policy that can be held per key. Sealed: this crate's shared handles are the ones there are.
pub trait PerKey: Clone + Send + Sync + sealed::Sealed {
    /// The same settings, and a state of its own.
    #[must_use]
    fn fresh(&self) -> Self;

    /// Whether at this moment this handle is the only one, and a fresh policy in its place would do as
    /// well: nothing is held, and nothing is known that still protects. Asked
    /// after [`idle_after`](Keyed::idle_after), under a lock: be quick, call nothing foreign.
    #[must_use]
    fn is_idle(&self, now: Instant) -> bool;

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// Settings that make no sense.
    fn check(&self) -> Result<(), ConfigError>;
}

/// One policy per key. Clones share the entries.
///
/// The setters start an empty registry: set it up before it is cloned or used.
pub struct Keyed<P> {
    shared: Arc<Shared<P>>,
}

struct Shared<P> {
    prototype: P,
    make: Option<Make<P>>,
    capacity: AtomicUsize,
    /// In nanoseconds.
    idle_after: AtomicU64,
    /// Goes up with every change of settings. What was made before it is not put in after it.
    version: AtomicU64,
    /// What keys beyond the capacity share. Also the model of new entries.
    beyond: P,
    shards: Box<[Shard<P>]>,
    /// Entries in all shards. Written only when a key comes or goes.
    len: AtomicUsize,
    /// Steps of the hand so far, over all shards.
    steps: AtomicUsize,
    /// Moments are kept as nanoseconds since this one.
    born: OnceLock<Instant>,
    /// Before this moment overflow is no news.
    quiet_until: AtomicU64,
}

/// On a cache line of its own, so that lookups of unrelated keys don't disturb each other.
#[repr(align(64))]
struct Shard<P> {
    table: RwLock<Table<P>>,
}

struct Settings<P> {
    prototype: P,
    make: Option<Make<P>>,
    capacity: usize,
    idle_after: Duration,
}

type Make<P> = std::sync::Arc<dyn Fn(Key) -> Option<P> + Send + Sync>;

impl<P: PerKey> Keyed<P> {
    /// A registry in which every key gets a policy with the settings of `prototype`, which is no
    /// part of it itself.
    #[must_use]
    pub fn new(prototype: P) -> Self {
        Self::of(Settings {
            prototype,
            make: None,
            capacity: CAPACITY,
            idle_after: IDLE_AFTER,
        })
    }

    /// Other settings for some keys: those of the policy that `make` gives for a new key, or the
    /// prototype's where it gives none. Called with no lock held. Two callers that meet a new key at
    /// once may both call it; one of the two results is used. Default: the prototype's for all.
    ///
    /// What it gives is not checked.
    ///
    /// # Examples
    ///
    /// ```
    /// use evenkeel::budget::{Budget, Ratio};
    /// use evenkeel::{Key, keyed::Keyed};
    /// use std::time::Instant;
    ///
    /// let (batch, plenty) = (Key::of("batch"), Budget::new(Ratio::percent(50)).capacity(90));
    /// let budgets = Keyed::new(Budget::default())
    ///     .with(move |key| (key == batch).then(|| plenty.clone()));
    ///
    /// let budget = budgets.get(batch, Instant::now).into_inner();
    /// assert_eq!(budget.snapshot().available, 90.0);
    /// ```
    #[must_use]
    pub fn with(self, make: impl Fn(Key) -> Option<P> + Send + Sync + 'static) -> Self {
        self.change(|it| it.make = Some(std::sync::Arc::new(make)))
    }

    /// How many keys have an entry of their own at most. At least 1. Default: 10,000.
    #[must_use]
    pub fn capacity(self, keys: usize) -> Self {
        self.change(|it| it.capacity = keys)
    }

    /// How long an entry stays that is neither looked up nor held. Zero makes no sense. Default:
    /// 10 min.
    #[must_use]
    pub fn idle_after(self, length: Duration) -> Self {
        self.change(|it| it.idle_after = length)
    }

    /// Checks the settings, the prototype's included.
    ///
    /// # Errors
    ///
    /// Settings that make no sense; or a capacity or idle time of zero.
    pub fn check(&self) -> Result<(), ConfigError> {
        let settings = self.shared.settings();
        if settings.capacity == 0 {
            return Err(ConfigError::new("keyed.capacity", "must be at least 1"));
        }
        if settings.idle_after.is_zero() {
            return Err(ConfigError::new("keyed.idle_after", "must not be zero"));
        }
        settings.prototype.check()
    }

    /// The key's policy, made if the key is new.
    ///
    /// All callers with the same key get the same one, for as long as one of them holds it or looks
    /// it up now and then. `now` is only asked for a new key, and at every 64th lookup of an old
    /// one.
    #[inline]
    pub fn get(&self, key: Key, now: impl FnOnce() -> Instant) -> Entry<P> {
        let found = self.shared.look_up(key);
        let Some((policy, turn)) = found else {
            return self.shared.insert(key, now());
        };
        if turn {
            self.shared.sweep(now());
        }
        Entry::own(policy)
    }

    /// The key's policy if it has one of its own. This doesn't count as use.
    #[must_use]
    pub fn peek(&self, key: Key) -> Option<P> {
        let table = self.shared.shard(key).read();
        table.peek(key).cloned()
    }

    /// Forgets a key, and gives what it had. Those who hold the policy keep it; the next lookup
    /// makes another.
    #[allow(clippy::must_use_candidate)] // forgetting is the point
    pub fn remove(&self, key: Key) -> Option<P> {
        let mut table = self.shared.shard(key).write();
        let removed = table.remove(key)?;
        self.shared.len.fetch_sub(1, Ordering::Relaxed);
        Some(removed)
    }

    /// How many keys have an entry.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.len.load(Ordering::Relaxed)
    }

    /// Whether no key has an entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Shows every entry to `f`, in no order: for dashboards. This doesn't count as use.
    ///
    /// No lock is held while `f` runs. A key that comes or goes meanwhile is shown or not.
    pub fn for_each(&self, mut f: impl FnMut(Key, &P)) {
        for shard in &self.shared.shards {
            let table = shard.read();
            let mut entries = Vec::with_capacity(table.len());
            entries.extend(table.iter().map(|(key, policy)| (key, policy.clone())));
            drop(table);
            for (key, policy) in entries {
                f(key, &policy);
            }
        }
    }

    /// What keys beyond the capacity share.
    #[must_use]
    pub fn shared_entry(&self) -> &P {
        &self.shared.beyond
    }

    fn of(settings: Settings<P>) -> Self {
        let enough = settings.capacity.div_ceil(KEYS_PER_SHARD);
        let count = enough.clamp(1, MOST_SHARDS).next_power_of_two();
        let shards = (0..count).map(|_| Shard {
            table: RwLock::new(Table::new()),
        });
        let prototype = settings.prototype.apart();
        Self {
            shared: Arc::new(Shared {
                beyond: prototype.fresh(),
                shards: shards.collect(),
                len: AtomicUsize::new(0),
                steps: AtomicUsize::new(0),
                born: OnceLock::new(),
                quiet_until: AtomicU64::new(0),
                prototype,
                make: settings.make,
                capacity: AtomicUsize::new(settings.capacity),
                idle_after: AtomicU64::new(nanoseconds(settings.idle_after)),
                version: AtomicU64::new(0),
            }),
        }
    }

    fn change(self, change: impl FnOnce(&mut Settings<P>)) -> Self {
        let mut settings = self.shared.settings();
        change(&mut settings);
        Self::of(settings)
    }

    /// An empty registry with the same settings.
    pub(crate) fn fresh(&self) -> Self {
        Self::of(self.shared.settings())
    }

    /// Has the settings of `to` from now on, and so has every entry; all keep their state. Entries
    /// whose settings come from [`with`](Self::with) keep those. `None`: that is done. Otherwise
    /// it could not be, and this is the registry to take instead.
    pub(crate) fn reconfigure(&self, to: &Self, now: Instant, rng: &Rng) -> Option<Self> {
        let (shared, model) = (&self.shared, &to.shared.prototype);
        if !shared.prototype.reconfigure(model, now) {
            return Some(self.successor(to, now, rng));
        }
        shared.beyond.reconfigure(model, now);
        let capacity = to.shared.capacity.load(Ordering::Relaxed);
        shared.capacity.store(capacity, Ordering::Relaxed);
        let idle_after = to.shared.idle_after.load(Ordering::Relaxed);
        shared.idle_after.store(idle_after, Ordering::Relaxed);
        // What was made of the old settings until here is in its shard before that is looked at,
        // or not put in at all.
        shared.version.fetch_add(1, Ordering::AcqRel);
        self.for_each(|key, policy| {
            if !shared.is_special(key) {
                policy.reconfigure(model, now);
            }
        });
        None
    }

    /// A registry with the settings of `to`, and successors of all entries.
    fn successor(&self, to: &Self, now: Instant, rng: &Rng) -> Self {
        let new = Self::of(Settings {
            make: self.shared.make.clone(),
            ..to.shared.settings()
        });
        let room = new.shared.capacity();
        self.for_each(|key, policy| {
            if new.len() == room {
                return;
            }
            let successor = if self.shared.is_special(key) {
                policy.clone()
            } else {
                policy.successor(&new.shared.beyond, now, rng)
            };
            new.shared.put(key, successor, now);
        });
        new
    }
}

impl<P> Clone for Keyed<P> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<P> fmt::Debug for Keyed<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = &self.shared;
        let idle_after = shared.idle_after.load(Ordering::Relaxed);
        f.debug_struct("Keyed")
            .field("len", &shared.len.load(Ordering::Relaxed))
            .field("capacity", &shared.capacity.load(Ordering::Relaxed))
            .field("idle_after", &Duration::from_nanos(idle_after))
            .finish_non_exhaustive()
    }
}

impl<P: PerKey> Shared<P> {
    #[allow(clippy::cast_possible_truncation)] // 32 bits are plenty for so few shards
    fn shard(&self, key: Key) -> &Shard<P> {
        let mask = self.shards.len() - 1; // their number is a power of two
        &self.shards[(key.hash() >> 32) as usize & mask]
    }

    #[inline]
    fn look_up(&self, key: Key) -> Option<(P, bool)> {
        let table = self.shard(key).read();
        table.get(key).map(|(policy, turn)| (policy.clone(), turn))
    }

    /// A key that wasn't there a moment ago.
    #[cold]
    fn insert(&self, key: Key, now: Instant) -> Entry<P> {
        let is_full = || self.len.load(Ordering::Relaxed) >= self.capacity();
        self.sweep(now);
        for _ in 1..STEPS_WHEN_FULL {
            if is_full() {
                self.sweep(now);
            }
        }
        let now = self.nanoseconds(now);
        if is_full() {
            // Somebody may have added the key since, and filled the registry by that.
            return match self.look_up(key) {
                Some((policy, _)) => Entry::own(policy),
                None => self.overflow(now),
            };
        }
        // Foreign code runs and fresh policies are dropped while no lock is held.
        let mut version = self.version.load(Ordering::Acquire);
        let mut fresh = self.make(key);
        let mut table = self.shard(key).write();
        loop {
            let current = self.version.load(Ordering::Acquire);
            if current == version {
                break;
            }
            // The settings changed meanwhile.
            drop(table);
            (version, fresh) = (current, self.make(key));
            table = self.shard(key).write();
        }
        if let Some((policy, _)) = table.get(key) {
            let policy = policy.clone();
            drop(table);
            return Entry::own(policy);
        }
        let has_room = |len| (len < self.capacity()).then_some(len + 1);
        let grown = (self.len).fetch_update(Ordering::Relaxed, Ordering::Relaxed, has_room);
        if grown.is_err() {
            drop(table);
            return self.overflow(now);
        }
        table.insert(key, fresh.clone(), now);
        drop(table);
        Entry::own(fresh)
    }

    fn make(&self, key: Key) -> P {
        let special = self.make.as_ref().and_then(|make| make(key));
        special.as_ref().unwrap_or(&self.beyond).fresh()
    }

    /// Whether the key's settings aren't the prototype's.
    fn is_special(&self, key: Key) -> bool {
        let special = self.make.as_ref().and_then(|make| make(key));
        special.is_some()
    }

    /// Puts in what was made for a key that isn't there.
    fn put(&self, key: Key, policy: P, now: Instant) {
        let now = self.nanoseconds(now);
        self.len.fetch_add(1, Ordering::Relaxed);
        self.shard(key).write().insert(key, policy, now);
    }

    fn capacity(&self) -> usize {
        self.capacity.load(Ordering::Relaxed)
    }

    fn settings(&self) -> Settings<P> {
        Settings {
            prototype: self.prototype.clone(),
            make: self.make.clone(),
            capacity: self.capacity(),
            idle_after: Duration::from_nanos(self.idle_after.load(Ordering::Relaxed)),
        }
    }

    fn overflow(&self, now: u64) -> Entry<P> {
        let due = self.quiet_until.load(Ordering::Relaxed);
        let tells = now >= due
            && (self.quiet_until)
                .compare_exchange(
                    due,
                    now.saturating_add(nanoseconds(OVERFLOW_TOLD_EVERY)),
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                )
                .is_ok();
        let keys = self.capacity();
        Entry {
            policy: self.beyond.clone(),
            is_shared: true,
            change: tells.then_some(Change::Overflow { keys }),
        }
    }

    /// Moves the hand on by one step, in one shard.
    #[cold]
    fn sweep(&self, now: Instant) {
        let step = self.steps.fetch_add(1, Ordering::Relaxed);
        let Some(mut table) = self.shards[step & (self.shards.len() - 1)].try_write() else {
            return; // Somebody is busy there. The hand comes by again.
        };
        let idle_after = self.idle_after.load(Ordering::Relaxed);
        let evicted = table.sweep(self.nanoseconds(now), now, idle_after);
        let count = evicted.iter().flatten().count();
        if count > 0 {
            self.len.fetch_sub(count, Ordering::Relaxed);
        }
        drop(table);
        drop(evicted);
    }

    /// A `now` before the first one counts as the first one.
    fn nanoseconds(&self, now: Instant) -> u64 {
        let born = *self.born.get_or_init(|| now);
        nanoseconds(now.saturating_duration_since(born))
    }
}

impl<P> Shard<P> {
    // A poisoned lock is recovered: see `sync::lock`.
    #[inline]
    fn read(&self) -> impl std::ops::Deref<Target = Table<P>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> impl std::ops::DerefMut<Target = Table<P>> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_write(&self) -> Option<impl std::ops::DerefMut<Target = Table<P>>> {
        match self.table.try_write() {
            Ok(table) => Some(table),
            Err(std::sync::TryLockError::Poisoned(error)) => Some(error.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => None,
        }
    }
}

/// What a lookup gives.
#[derive(Clone, Copy, Debug)]
#[must_use = "an entry nobody uses is idle"]
pub struct Entry<P> {
    policy: P,
    is_shared: bool,
    change: Option<Change>,
}

impl<P> Entry<P> {
    const fn own(policy: P) -> Self {
        Self {
            policy,
            is_shared: false,
            change: None,
        }
    }

    /// The policy.
    pub const fn policy(&self) -> &P {
        &self.policy
    }

    /// The policy, by value.
    pub fn into_inner(self) -> P {
        self.policy
    }

    /// Whether it is the one that all keys beyond the capacity share.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// What is worth telling, if anything is.
    #[must_use]
    pub const fn change(&self) -> Option<Change> {
        self.change
    }
}

/// What happened to a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// More keys are in use than it may hold, and those beyond share one entry. Told at most once
    /// a minute.
    Overflow {
        /// The keys with an entry of their own: the capacity.
        keys: usize,
    },
}

pub(crate) mod sealed {
    #[allow(unreachable_pub)] // it is the seal
    pub trait Sealed: Clone {
        /// Has the settings of `to` from now on, and keeps its state. `false`: that can't be, and
        /// nothing is changed, as by default.
        fn reconfigure(&self, to: &Self, now: std::time::Instant) -> bool {
            let _ = (to, now);
            false
        }

        /// One with the same settings, a state of its own, and nothing in common: what becomes of
        /// the settings of one is nothing to the other.
        #[must_use]
        fn apart(&self) -> Self
        where
            Self: super::PerKey,
        {
            self.fresh()
        }

        /// One with the settings of `to`, and of this one's state what can be carried over; for
        /// those that can't be [reconfigured](Self::reconfigure).
        #[must_use]
        fn successor(&self, to: &Self, now: std::time::Instant, rng: &crate::rng::Rng) -> Self {
            let _ = (now, rng);
            to.clone()
        }
    }
}

fn nanoseconds(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)
}

/// More services than a client talks to. With the richest policies it is some megabytes.
const CAPACITY: usize = 10_000;

/// Longer than any policy's memory, so that nothing learnt is missed.
const IDLE_AFTER: Duration = Duration::from_secs(600);

/// Overflow lasts, and every call meets it.
const OVERFLOW_TOLD_EVERY: Duration = Duration::from_secs(60);

/// One step may meet empty slots only. Four hardly ever do, if there is much to evict.
const STEPS_WHEN_FULL: u32 = 4;

/// Two threads with keys of their own meet in one shard in a thirtieth of all cases, and an empty
/// registry is two kibibytes.
const MOST_SHARDS: usize = 32;

/// Fewer keys than this need no second shard: one step of the hand should meet some of them.
const KEYS_PER_SHARD: usize = 16;
