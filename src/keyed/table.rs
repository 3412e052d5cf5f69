//! One shard's entries, and the hand that goes round them to find idle ones. Pure.

use std::time::Instant;

use super::{Key, PerKey};
use crate::sync::{AtomicU32, Ordering};

/// An open-addressing table with linear probing. Keys are hashes already, so a key is its own
/// place, and a lookup meets one or two slots that lie side by side.
#[derive(Debug)]
pub(super) struct Table<P> {
    /// None at all, or a power of two of them, at most three quarters full.
    slots: Vec<Option<Slot<P>>>,
    len: usize,
    /// The slot that is swept next.
    hand: usize,
}

#[derive(Debug)]
struct Slot<P> {
    key: Key,
    policy: P,
    /// Lookups so far. The hand compares it with what it saw before, so a lookup needs no clock.
    uses: AtomicU32,
    seen: u32,
    /// When the hand saw `seen`, in nanoseconds.
    seen_at: u64,
}

/// What one step of the hand removed. It is dropped by the caller, outside the lock.
pub(super) type Evicted<P> = [Option<P>; STEP];

impl<P: PerKey> Table<P> {
    pub(super) const fn new() -> Self {
        Self {
            slots: Vec::new(),
            len: 0,
            hand: 0,
        }
    }

    /// The key's entry, looked up for use. Says too whether it is this lookup's turn to move the
    /// hand.
    #[inline]
    pub(super) fn get(&self, key: Key) -> Option<(&P, bool)> {
        let slot = self.slot(key)?;
        // Two lookups at once may count as one. They can't make the count what it was: a sweep
        // has the table to itself.
        let uses = slot.uses.load(Ordering::Relaxed).wrapping_add(1);
        slot.uses.store(uses, Ordering::Relaxed);
        Some((&slot.policy, uses % SWEEP_EVERY == 0))
    }

    /// The key's entry, looked at without counting as use.
    pub(super) fn peek(&self, key: Key) -> Option<&P> {
        Some(&self.slot(key)?.policy)
    }

    /// Adds a key that isn't there.
    pub(super) fn insert(&mut self, key: Key, policy: P, now: u64) {
        if (self.len + 1) * 4 > self.slots.len() * 3 {
            self.resize((self.slots.len() * 2).max(LEAST_SLOTS));
        }
        self.len += 1;
        self.place(Slot {
            key,
            policy,
            uses: AtomicU32::new(0),
            seen: 0,
            seen_at: now,
        });
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<P> {
        let policy = self.remove_at(self.find(key)?);
        self.shrink();
        policy
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &P)> {
        let slots = self.slots.iter().flatten();
        slots.map(|slot| (slot.key, &slot.policy))
    }

    /// Moves the hand on by a few slots, and removes what it finds unused for as long as
    /// `idle_after`.
    pub(super) fn sweep(&mut self, now: u64, moment: Instant, idle_after: u64) -> Evicted<P> {
        let mut evicted = [const { None }; STEP];
        for out in &mut evicted {
            if self.slots.is_empty() {
                break;
            }
            let at = self.hand & self.mask();
            if self.slots[at]
                .as_mut()
                .is_some_and(|slot| slot.is_over(now, moment, idle_after))
            {
                // What moves into its place is looked at next.
                *out = self.remove_at(at);
            } else {
                self.hand = at + 1;
            }
        }
        self.shrink();
        evicted
    }

    fn slot(&self, key: Key) -> Option<&Slot<P>> {
        self.slots[self.find(key)?].as_ref()
    }

    fn find(&self, key: Key) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        let mask = self.mask();
        let mut at = home(key, mask);
        loop {
            // A quarter of the slots is free, so this ends.
            if self.slots[at].as_ref()?.key == key {
                return Some(at);
            }
            at = (at + 1) & mask;
        }
    }

    fn place(&mut self, slot: Slot<P>) {
        let mask = self.mask();
        let mut at = home(slot.key, mask);
        while self.slots[at].is_some() {
            at = (at + 1) & mask;
        }
        self.slots[at] = Some(slot);
    }

    /// Empties a slot, and moves up those behind it that would not be found otherwise.
    fn remove_at(&mut self, at: usize) -> Option<P> {
        let removed = self.slots[at].take()?;
        self.len -= 1;
        let mask = self.mask();
        let (mut gap, mut next) = (at, (at + 1) & mask);
        while let Some(slot) = &self.slots[next] {
            let from_home = next.wrapping_sub(home(slot.key, mask)) & mask;
            let from_gap = next.wrapping_sub(gap) & mask;
            if from_home >= from_gap {
                self.slots.swap(gap, next);
                gap = next;
            }
            next = (next + 1) & mask;
        }
        Some(removed.policy)
    }

    /// Gives memory back when a crowd has gone.
    fn shrink(&mut self) {
        let half = self.slots.len() / 2;
        if half >= LEAST_SLOTS && self.len * 4 < half {
            self.resize(half);
        }
    }

    fn resize(&mut self, slots: usize) {
        let mut new = Vec::with_capacity(slots);
        new.resize_with(slots, || None);
        let old = std::mem::replace(&mut self.slots, new);
        old.into_iter().flatten().for_each(|slot| self.place(slot));
    }

    fn mask(&self) -> usize {
        self.slots.len() - 1
    }
}

impl<P: PerKey> Slot<P> {
    /// Whether it may go. Takes note of the moment if it was used, or is in use still.
    fn is_over(&mut self, now: u64, moment: Instant, idle_after: u64) -> bool {
        let uses = self.uses.load(Ordering::Relaxed);
        if uses == self.seen {
            if now.saturating_sub(self.seen_at) < idle_after {
                return false;
            }
            if self.policy.is_idle(moment) {
                return true;
            }
        }
        self.seen = uses;
        self.seen_at = self.seen_at.max(now);
        false
    }
}

/// Where a key belongs. The other half of the hash chose the shard.
#[allow(clippy::cast_possible_truncation)] // the low bits are what is wanted
const fn home(key: Key, mask: usize) -> usize {
    key.hash() as usize & mask
}

/// Slots the hand passes in one step. A new key takes one slot and moves the hand by eight, so it
/// goes round faster than a table can fill.
pub(super) const STEP: usize = 8;

/// Lookups of one key between two moves of the hand: a clock read and an exclusive lock cost
/// little if 64 lookups share them. Without it a stable set of keys would never shed the old ones.
const SWEEP_EVERY: u32 = 64;

const LEAST_SLOTS: usize = 4;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::sealed::Sealed;
    use super::*;
    use crate::error::ConfigError;

    #[derive(Clone, Debug)]
    struct Toy(Arc<u32>);

    impl Sealed for Toy {
        fn reconfigure(&self, _: &Self, _: Instant) -> bool {
            true
        }
    }

    impl PerKey for Toy {
        fn fresh(&self) -> Self {
            Self(Arc::new(0))
        }

        fn is_idle(&self, _: Instant) -> bool {
            Arc::strong_count(&self.0) == 1
        }

        fn check(&self) -> Result<(), ConfigError> {
            Ok(())
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Get(u64),
        Hold(u64),
        Insert(u64),
        Pass(u64),
        Release(usize),
        Remove(u64),
        Sweep,
    }

    fn any_op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => any_key().prop_map(Op::Get),
            1 => any_key().prop_map(Op::Hold),
            4 => any_key().prop_map(Op::Insert),
            2 => (0..2 * IDLE).prop_map(Op::Pass),
            1 => (0..8_usize).prop_map(Op::Release),
            2 => any_key().prop_map(Op::Remove),
            2 => Just(Op::Sweep),
        ]
    }

    /// Few homes, so that runs of slots are long and wrap around.
    fn any_key() -> impl Strategy<Value = u64> {
        (0..60_u64).prop_map(|it| (it << 32) | (0xFFFF_FFFF - it % 5))
    }

    proptest! {
        #[test]
        fn a_table_is_a_map_that_loses_only_what_was_unused_for_long_and_is_not_held(
            ops in prop::collection::vec(any_op(), 1..400),
        ) {
            let mut table: Table<Toy> = Table::new();
            let mut model: HashMap<u64, (u32, u64)> = HashMap::new();
            let (mut now, mut made, mut held) = (0, 0, Vec::new());
            for op in ops {
                match op {
                    Op::Get(key) => {
                        let got = table.get(Key::from_hash(key)).map(|(toy, _)| *toy.0);
                        let entry = model.get_mut(&key);
                        prop_assert_eq!(got, entry.as_ref().map(|it| it.0));
                        if let Some(entry) = entry {
                            entry.1 = now;
                        }
                    }
                    Op::Hold(key) => held.extend(table.peek(Key::from_hash(key)).cloned()),
                    Op::Insert(key) if !model.contains_key(&key) => {
                        made += 1;
                        table.insert(Key::from_hash(key), Toy(Arc::new(made)), now);
                        model.insert(key, (made, now));
                    }
                    Op::Pass(time) => now += time,
                    Op::Release(at) if at < held.len() => drop(held.swap_remove(at)),
                    Op::Insert(_) | Op::Release(_) => {}
                    Op::Remove(key) => {
                        let removed = table.remove(Key::from_hash(key)).map(|toy| *toy.0);
                        prop_assert_eq!(removed, model.remove(&key).map(|it| it.0));
                    }
                    Op::Sweep => {
                        let evicted = table.sweep(now, Instant::now(), IDLE);
                        for toy in evicted.iter().flatten() {
                            let key = *model.iter().find(|it| it.1.0 == *toy.0).expect("known").0;
                            let (_, used) = model.remove(&key).expect("known");
                            prop_assert!(now - used >= IDLE);
                            prop_assert!(!held.iter().any(|it: &Toy| it.0 == toy.0));
                        }
                    }
                }
                prop_assert_eq!(table.len(), model.len());
                prop_assert_eq!(table.iter().count(), model.len());
                for (key, (id, _)) in &model {
                    prop_assert_eq!(table.peek(Key::from_hash(*key)).map(|toy| *toy.0), Some(*id));
                }
                prop_assert!(table.len * 4 <= table.slots.len() * 3);
            }
            // Once round to take note of the last uses, and once more when they are long ago.
            go_round(&mut table, now);
            go_round(&mut table, now + IDLE);
            let mut left: Vec<u32> = table.iter().map(|(_, toy)| *toy.0).collect();
            let mut kept: Vec<u32> = held.iter().map(|toy| *toy.0).collect();
            kept.retain(|id| model.values().any(|it| it.0 == *id));
            left.sort_unstable();
            kept.sort_unstable();
            kept.dedup();
            prop_assert_eq!(left, kept);
            prop_assert!(table.slots.len() <= (8 * table.len).max(LEAST_SLOTS));
        }
    }

    #[test]
    fn an_entry_goes_exactly_at_its_time_and_not_before() {
        for (now, gone) in [(IDLE - 1, false), (IDLE, true), (u64::MAX, true)] {
            let mut table = Table::new();
            table.insert(Key::from_hash(1), Toy(Arc::new(1)), 0);
            go_round(&mut table, now);
            assert_eq!(table.len() == 0, gone, "at {now}");
        }
    }

    #[test]
    fn time_that_goes_back_evicts_nothing_and_forgets_no_use() {
        let mut table = Table::new();
        table.insert(Key::from_hash(1), Toy(Arc::new(1)), 5 * IDLE);
        go_round(&mut table, 0);
        assert!(table.get(Key::from_hash(1)).is_some());
        go_round(&mut table, 0);
        go_round(&mut table, 6 * IDLE - 1);
        assert_eq!(table.len(), 1);
        go_round(&mut table, 6 * IDLE);
        assert_eq!(table.len(), 0);
    }

    fn go_round(table: &mut Table<Toy>, now: u64) {
        for _ in 0..=table.slots.len() {
            table.sweep(now, Instant::now(), IDLE);
        }
    }

    const IDLE: u64 = 100;
}
