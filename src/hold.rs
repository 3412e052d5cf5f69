//! What responses said holds for every call to that service.
//!
//! A `Retry-After` is about the service, not about the call that happened to be told. If only the
//! calls that were told wait, all new ones go on asking, and the service, down as it is, has to
//! answer each of them. A pipeline that holds remembers the moment per key (for HTTP: host and
//! port) and makes every attempt to that key wait for it, or fail at once if its deadline doesn't
//! allow the wait. The way back is spread over as long again as the hint, at most 30 s.
//!
//! One answer proves little: it may speak for one replica of many, or for one tenant's quota. So a
//! key is held only after several such answers in a row, without a success between them and no more
//! than a minute apart, and a success lifts the hold. A call is held once at most.
//!
//! While no service asks for quiet this costs one atomic read.
//!
//! # Defaults
//!
//! | setting | default | why |
//! |---|---|---|
//! | [`hold_after`](crate::Pipeline::hold_after) | 10 answers in a row in [`Pipeline::http`](crate::Pipeline::http), else never | if half of all answers are good, ten bad ones in a row come once in a thousand |
//! | longest hold | the retry policy's `max_hint`, 5 min | a longer hint is for the call that was told |
//! | keys | 10,000 | a hostile number of hosts stays bounded |
//!
//! # What it does not do
//!
//! It doesn't probe: until a hold ends, or a call that was under way succeeds, nothing is sent. Calls
//! that arrive after its end don't wait for those that were held, so for as long as these are spread
//! the service sees up to about twice the usual load.

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

/// Which keys are held, and which are on their way there.
#[derive(Debug)]
pub(crate) struct Holds {
    /// So many answers in a row hold a key.
    after: u32,
    /// How many keys are known: those that lately asked for quiet.
    count: AtomicU64,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    keys: HashMap<Key, Entry>,
    purged: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Answers in a row that asked for quiet.
    in_row: u32,
    last: Instant,
    hold: Option<Hold>,
}

/// One key's hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) until: Instant,
    /// How long the server asked for: the way back is spread by as much.
    pub(crate) length: Duration,
}

impl Holds {
    pub(crate) fn new(after: u32) -> Self {
        Self {
            after,
            count: AtomicU64::new(0),
            known: Mutex::new(Known::default()),
        }
    }

    /// Whether any key may be held.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// The key's hold, if it has one that hasn't ended.
    pub(crate) fn get(&self, key: Key, now: Instant) -> Option<Hold> {
        let mut known = lock(&self.known);
        known.purge(now);
        let hold = known.keys.get(&key).and_then(|entry| entry.hold);
        self.count.store(known.keys.len() as u64, Ordering::Relaxed);
        hold.filter(|hold| now < hold.until)
    }

    /// The key asked for quiet of this length.
    pub(crate) fn asked(&self, key: Key, now: Instant, length: Duration) {
        let mut known = lock(&self.known);
        known.purge(now);
        if known.keys.len() < MAX_KEYS || known.keys.contains_key(&key) {
            let entry = known.keys.entry(key).or_insert(Entry::new(now));
            if entry.is_stale(now) {
                *entry = Entry::new(now);
            }
            entry.last = now;
            entry.in_row = entry.in_row.saturating_add(1);
            let until = later(now, length);
            if entry.in_row >= self.after && entry.hold.is_none_or(|hold| hold.until < until) {
                entry.hold = Some(Hold { until, length });
            }
        }
        self.count.store(known.keys.len() as u64, Ordering::Relaxed);
    }

    /// The key gave what a caller wanted.
    pub(crate) fn succeeded(&self, key: Key) {
        let mut known = lock(&self.known);
        known.keys.remove(&key);
        self.count.store(known.keys.len() as u64, Ordering::Relaxed);
    }
}

impl Known {
    /// Forgets now and then what is stale, so that the memory and the cost of looking end with the
    /// trouble.
    fn purge(&mut self, now: Instant) {
        let purged = *self.purged.get_or_insert(now);
        if now.saturating_duration_since(purged) >= IN_A_ROW {
            self.keys.retain(|_, entry| !entry.is_stale(now));
            self.purged = Some(now);
        }
    }
}

impl Entry {
    const fn new(now: Instant) -> Self {
        Self {
            in_row: 0,
            last: now,
            hold: None,
        }
    }

    /// Neither held nor lately heard of.
    fn is_stale(&self, now: Instant) -> bool {
        let until = self.hold.map_or(self.last, |hold| hold.until);
        now.saturating_duration_since(until.max(self.last)) > IN_A_ROW
    }
}

/// Answers further apart than this are not in a row.
const IN_A_ROW: Duration = Duration::from_secs(60);

/// What a hostile number of hosts can make us keep: about a mebibyte.
const MAX_KEYS: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_hold_begins_with_so_many_answers_in_a_row_and_ends_at_its_moment() {
        let (holds, key, now) = (Holds::new(3), Key::of(1), Instant::now());
        assert!(!holds.any());
        for _ in 0..2 {
            holds.asked(key, now, SECOND);
            assert!(holds.any() && holds.get(key, now).is_none());
        }
        holds.asked(key, now, SECOND);
        assert!(holds.get(key, now + SECOND / 2).is_some());
        assert!(holds.get(Key::of(2), now).is_none());
        assert!(holds.get(key, now + SECOND).is_none());
    }

    #[test]
    fn a_success_lifts_the_hold_and_breaks_the_row() {
        let (holds, key, now) = (Holds::new(2), Key::of(1), Instant::now());
        holds.asked(key, now, SECOND);
        holds.succeeded(key);
        holds.asked(key, now, SECOND);
        assert!(holds.get(key, now).is_none());
        holds.asked(key, now, SECOND);
        assert!(holds.get(key, now).is_some());
        holds.succeeded(key);
        assert!(holds.get(key, now).is_none() && !holds.any());
    }

    #[test]
    fn answers_more_than_a_minute_apart_are_not_in_a_row() {
        for (pause, held) in [(IN_A_ROW, true), (IN_A_ROW + SECOND, false)] {
            let (holds, key, now) = (Holds::new(2), Key::of(1), Instant::now());
            holds.asked(key, now, SECOND);
            holds.asked(key, now + pause, SECOND);
            assert_eq!(holds.get(key, now + pause).is_some(), held);
        }
    }

    #[test]
    fn a_longer_hold_stays() {
        let (holds, key, now) = (Holds::new(1), Key::of(1), Instant::now());
        holds.asked(key, now, 3 * SECOND);
        holds.asked(key, now, SECOND);
        let hold = holds.get(key, now).expect("held");
        assert_eq!(hold.until, now + 3 * SECOND);
    }

    #[test]
    fn a_hostile_number_of_keys_stays_bounded_and_trouble_is_forgotten() {
        let (holds, now) = (Holds::new(1), Instant::now());
        for key in 0..2 * MAX_KEYS {
            holds.asked(Key::of(key), now, SECOND);
        }
        assert_eq!(lock(&holds.known).keys.len(), MAX_KEYS);
        let later = now + 2 * IN_A_ROW + SECOND;
        assert!(holds.get(Key::of("another"), later).is_none());
        assert!(!holds.any());
    }
}
