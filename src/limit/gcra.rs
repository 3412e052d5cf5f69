//! The generic cell rate algorithm (ITU-T I.371): a token bucket in one number. Pure.
//!
//! The number is the moment at which the bucket would be full again if nothing more were taken.
//! One token takes that moment one interval further, and may be taken while it lies at most
//! `burst` intervals ahead. All moments are nanoseconds since some epoch.

use std::time::Duration;

/// How many per how long, and how many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gcra {
    /// Nanoseconds in which one token comes.
    pub(super) interval: u64,
    /// How far ahead the bucket's moment may lie for one more to be taken.
    pub(super) tolerance: u64,
}

impl Gcra {
    /// Rounded so that never more than `count` are had `per` so long. A count of zero is one token
    /// in a lifetime.
    pub(super) fn new(count: u32, per: Duration, burst: u32) -> Self {
        let interval = per.as_nanos().div_ceil(u128::from(count.max(1)));
        let interval = match count {
            0 => FOREVER,
            _ => u64::try_from(interval).unwrap_or(FOREVER).clamp(1, FOREVER),
        };
        let tolerance = interval.saturating_mul(u64::from(burst.saturating_sub(1)));
        Self {
            interval,
            tolerance: tolerance.min(FOREVER),
        }
    }

    /// When the next token can be taken, from a bucket that is full at `full`.
    #[inline]
    pub(super) const fn earliest(self, full: u64) -> u64 {
        full.saturating_sub(self.tolerance)
    }

    /// Takes one token. The bucket's new moment, or when there will be one.
    #[inline]
    pub(super) fn take(self, full: u64, now: u64) -> Result<u64, u64> {
        let earliest = self.earliest(full);
        if now < earliest {
            return Err(earliest);
        }
        Ok(full.max(now).saturating_add(self.interval).min(LAST))
    }

    /// How much nearer the bucket's moment may come when a token is given back whose taking set it
    /// to `taken`, and since whose taking so much was given back by others.
    ///
    /// Not more than if it had never been taken: while the bucket was not full without it (until
    /// `taken`, less an interval) that is all of it; from then on it would have run over, and the
    /// longer the more. Everything that was taken since was taken before `now`, so it could have
    /// been taken all the same. What others gave back may have been taken earlier, which brings
    /// `taken` nearer; that it may have been taken later is not looked into.
    pub(super) fn worth(self, taken: u64, others: u64, now: u64) -> u64 {
        let taken = taken.saturating_sub(others);
        taken.saturating_sub(now).min(self.interval)
    }

    /// When the one with so many before it can take its token.
    pub(super) fn turn(self, full: u64, ahead: usize, now: u64) -> u64 {
        let ahead = self.interval.saturating_mul(ahead as u64);
        // If there are tokens now, they are taken now, and after them one each interval.
        full.max(now)
            .saturating_add(ahead)
            .saturating_sub(self.tolerance)
            .max(now)
            .min(LAST)
    }

    /// What the moment becomes when the quota does: whoever used so many tokens of the old one
    /// used so many of the new one.
    pub(super) fn convert(self, full: u64, to: Self, now: u64) -> u64 {
        let ahead = u128::from(full.saturating_sub(now));
        let ahead = ahead * u128::from(to.interval) / u128::from(self.interval);
        let ahead = u64::try_from(ahead).unwrap_or(LAST);
        now.saturating_add(ahead).min(LAST)
    }

    /// Whole tokens that can be taken now.
    pub(super) fn available(self, full: u64, now: u64) -> u64 {
        let room = (now.saturating_add(self.tolerance)).checked_sub(full.max(now));
        room.map_or(0, |room| room / self.interval + 1)
    }
}

/// 36 years in nanoseconds: a token that is not lived to see.
const FOREVER: u64 = 1 << 60;

/// No moment is later, so that the highest bit is free for others.
pub(super) const LAST: u64 = (1 << 63) - 1;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Of any two moments at which one was let go: not more between them, both included, than the
    /// burst and what the time brought.
    fn holds_the_law(gcra: Gcra, went: &[u64]) -> bool {
        let burst = u128::from(gcra.tolerance / gcra.interval + 1);
        (0..went.len()).all(|from| {
            (from..went.len()).all(|to| {
                let count = (to - from + 1) as u128;
                let time = u128::from(went[to] - went[from]);
                count <= burst + time / u128::from(gcra.interval)
            })
        })
    }

    /// A bucket that remembers everything: what is left of the tokens at `now` when only those in
    /// `went` were taken, counted in nanoseconds.
    fn full_at(gcra: Gcra, went: &[u64]) -> u64 {
        went.iter()
            .fold(0, |full, &at| full.max(at) + gcra.interval)
    }

    fn any_gcra() -> impl Strategy<Value = Gcra> {
        (1..30_u32, 1..100_u64, 1..12_u32)
            .prop_map(|(count, per, burst)| Gcra::new(count, Duration::from_nanos(per), burst))
    }

    proptest! {
        #[test]
        fn over_any_stretch_no_more_go_than_burst_and_rate_and_none_is_held_back_for_nothing(
            gcra in any_gcra(),
            steps in prop::collection::vec(0..40_u64, 1..200),
        ) {
            let (mut now, mut full, mut went) = (0, 0, Vec::new());
            for step in steps {
                now += step;
                let mut with_it = went.clone();
                with_it.push(now);
                match gcra.take(full, now) {
                    Ok(next) => {
                        full = next;
                        went = with_it;
                        prop_assert!(holds_the_law(gcra, &went));
                    }
                    Err(earliest) => {
                        prop_assert!(!holds_the_law(gcra, &with_it), "held back for nothing");
                        prop_assert!(gcra.take(full, earliest).is_ok());
                        prop_assert!(gcra.take(full, earliest - 1).is_err());
                    }
                }
            }
        }

        #[test]
        fn tokens_that_are_given_back_break_no_law_and_are_not_lost(
            gcra in any_gcra(),
            steps in prop::collection::vec((0..30_u64, prop::option::of(any::<prop::sample::Index>())), 1..200),
        ) {
            let (mut now, mut full, mut returned) = (0, 0, 0);
            // The moment of each, the bucket's moment after it, and what was given back before it.
            let mut went: Vec<(u64, u64, u64)> = Vec::new();
            for (step, cancel) in steps {
                now += step;
                if let (Some(index), false) = (cancel, went.is_empty()) {
                    let (_, taken, before) = went.remove(index.index(went.len()));
                    let worth = gcra.worth(taken, returned - before, now);
                    full -= worth;
                    let moments: Vec<_> = went.iter().map(|it| it.0).collect();
                    prop_assert!(full.max(now) >= full_at(gcra, &moments));
                    if returned == before && now + gcra.interval <= taken {
                        prop_assert_eq!(worth, gcra.interval);
                    }
                    returned += worth;
                } else if let Ok(next) = gcra.take(full, now) {
                    full = next;
                    went.push((now, full, returned));
                }
                let moments: Vec<_> = went.iter().map(|it| it.0).collect();
                prop_assert!(holds_the_law(gcra, &moments));
            }
        }

        #[test]
        fn given_back_before_another_is_taken_is_as_never_taken(
            gcra in any_gcra(),
            steps in prop::collection::vec((0..30_u64, prop::option::of(0..50_u64)), 1..200),
        ) {
            let (mut now, mut full, mut never) = (0, 0, 0);
            for (step, kept_for) in steps {
                now += step;
                prop_assert_eq!(gcra.take(full, now).is_ok(), gcra.take(never, now).is_ok());
                let Ok(taken) = gcra.take(full, now) else { continue };
                full = taken;
                if let Some(kept_for) = kept_for {
                    now += kept_for;
                    full -= gcra.worth(taken, 0, now);
                } else {
                    never = gcra.take(never, now).unwrap();
                }
                prop_assert_eq!(full.max(now), never.max(now));
            }
        }

        #[test]
        fn everybodys_turn_is_known_exactly(
            gcra in any_gcra(),
            used in 0..20_usize,
            now in 0..100_u64,
            ahead in 0..20_usize,
        ) {
            let mut full = (0..used).fold(0, |full, _| gcra.take(full, gcra.earliest(full)).unwrap());
            let turn = gcra.turn(full, ahead, now);
            let mut at = now;
            for _ in 0..ahead {
                at = at.max(gcra.earliest(full));
                full = gcra.take(full, at).unwrap();
            }
            prop_assert_eq!(turn, at.max(gcra.earliest(full)));
        }

        #[test]
        fn no_numbers_overflow(
            count: u32, per: Duration, burst: u32, other: u32, full: u64, taken: u64, now: u64, ahead: usize,
        ) {
            let (full, taken, now) = (full & LAST, taken & LAST, now & LAST);
            let gcra = Gcra::new(count, per, burst);
            let moments = [
                gcra.take(full, now).unwrap_or(0),
                gcra.worth(full, taken, now),
                gcra.turn(full, ahead, now),
                gcra.convert(full, Gcra::new(other, per, 1), now),
            ];
            prop_assert!(moments.iter().all(|it| *it <= LAST));
            let _ = gcra.available(full, now);
        }
    }

    #[test]
    fn a_third_of_a_second_is_rounded_so_that_no_fourth_fits_into_it() {
        let gcra = Gcra::new(3, Duration::from_secs(1), 1);
        let mut full = 0;
        for _ in 0..4 {
            full = gcra.take(full, gcra.earliest(full)).unwrap();
        }
        // The fourth went a second after the first, not sooner.
        assert!(gcra.earliest(full) - gcra.interval >= SECOND);
    }

    #[test]
    fn a_changed_quota_keeps_count_of_what_was_used() {
        let old = Gcra::new(10, Duration::from_secs(1), 10);
        let new = Gcra::new(100, Duration::from_secs(1), 5);
        let mut full = SECOND;
        for _ in 0..4 {
            full = old.take(full, SECOND).unwrap();
        }
        assert_eq!(old.available(full, SECOND), 6);
        let full = old.convert(full, new, SECOND);
        assert_eq!(new.available(full, SECOND), 1);
    }
}
