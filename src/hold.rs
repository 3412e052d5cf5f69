//! What one response said holds for every call to that service.
//!
//! A `Retry-After` is about the service, not about the call that happened to be told. If only that
//! call waits, all others go on asking, are told the same, and come back at the same moment. A
//! pipeline that holds remembers the moment per key (for HTTP: host and port) and makes every
//! attempt to that key wait for it, or fail at once if its deadline doesn't allow the wait. The
//! way back is spread over as long again as the hint, at most 30 s.
//!
//! While nothing is held this costs one atomic read.
//!
//! # What it does not do
//!
//! It believes that the hint is about the service. Where it is about one replica of many, or one
//! tenant's quota behind a shared host, a single answer would silence calls that would have been
//! served: there, switch it off with [`Pipeline::hold(false)`](crate::Pipeline::hold). Either way
//! the call that was told waits.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::deadline::later;
use crate::sync::{AtomicU64, Mutex, Ordering, lock};

/// What calls have in common that go to one service.
///
/// HTTP requests have one by nature: host and port. It is kept as a keyed hash, so it is cheap to
/// copy and tells nothing.
///
/// # Examples
///
/// ```
/// use evenkeel::hold::Key;
///
/// assert_eq!(Key::of("billing"), Key::of("billing"));
/// assert_ne!(Key::of("billing"), Key::of("orders"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(u64);

impl Key {
    /// The key of anything that can be hashed, the same within one process.
    pub fn of(what: impl Hash) -> Self {
        // Keyed per process: nobody outside can make two names collide.
        static HASHER: OnceLock<RandomState> = OnceLock::new();
        Self(HASHER.get_or_init(RandomState::new).hash_one(what))
    }
}

/// The moments before which nothing goes to a key.
#[derive(Debug)]
pub(crate) struct Holds {
    /// How many keys are held, or were and nobody has looked since.
    count: AtomicU64,
    keys: Mutex<HashMap<Key, Hold>>,
}

/// One key's hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) until: Instant,
    /// How long the server asked for: the way back is spread by as much.
    pub(crate) length: Duration,
}

impl Holds {
    pub(crate) fn new() -> Self {
        Self {
            count: AtomicU64::new(0),
            keys: Mutex::new(HashMap::new()),
        }
    }

    /// Whether any key may be held.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// The key's hold, if it hasn't ended.
    pub(crate) fn get(&self, key: Key, now: Instant) -> Option<Hold> {
        let mut keys = lock(&self.keys);
        let hold = *keys.get(&key)?;
        if now < hold.until {
            return Some(hold);
        }
        keys.remove(&key);
        self.count.store(keys.len() as u64, Ordering::Relaxed);
        None
    }

    /// Holds a key for `length` from now. A longer hold stays.
    pub(crate) fn set(&self, key: Key, now: Instant, length: Duration) {
        let length = length.min(MAX_HOLD);
        let until = later(now, length);
        let mut keys = lock(&self.keys);
        if keys.len() >= MAX_KEYS && !keys.contains_key(&key) {
            keys.retain(|_, hold| now < hold.until);
            if keys.len() >= MAX_KEYS {
                // Only this key's callers are worse off: they find out one by one.
                return;
            }
        }
        let hold = keys.entry(key).or_insert(Hold { until, length });
        if hold.until < until {
            *hold = Hold { until, length };
        }
        self.count.store(keys.len() as u64, Ordering::Relaxed);
    }
}

/// As long as a hint is believed.
const MAX_HOLD: Duration = Duration::from_secs(300);

/// What a hostile number of hosts can make us keep: about half a mebibyte.
const MAX_KEYS: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_hold_ends_at_its_moment_and_is_forgotten() {
        let (holds, key, now) = (Holds::new(), Key::of(1), Instant::now());
        assert!(!holds.any());
        holds.set(key, now, SECOND);
        assert!(holds.any());
        assert!(holds.get(key, now + SECOND / 2).is_some());
        assert!(holds.get(Key::of(2), now).is_none());
        assert!(holds.get(key, now + SECOND).is_none());
        assert!(!holds.any());
    }

    #[test]
    fn a_longer_hold_stays_and_none_is_longer_than_is_believed() {
        let (holds, key, now) = (Holds::new(), Key::of(1), Instant::now());
        holds.set(key, now, 3 * SECOND);
        holds.set(key, now, SECOND);
        assert_eq!(
            holds.get(key, now).map(|hold| hold.until),
            Some(now + 3 * SECOND)
        );
        holds.set(key, now, Duration::MAX);
        assert_eq!(
            holds.get(key, now).map(|hold| hold.until),
            Some(now + MAX_HOLD)
        );
    }

    #[test]
    fn a_hostile_number_of_keys_stays_bounded_and_ended_holds_make_room() {
        let (holds, now) = (Holds::new(), Instant::now());
        for key in 0..2 * MAX_KEYS {
            holds.set(Key::of(key), now, SECOND);
        }
        assert_eq!(lock(&holds.keys).len(), MAX_KEYS);
        holds.set(Key::of("new"), now + SECOND, SECOND);
        assert_eq!(lock(&holds.keys).len(), 1);
    }
}
