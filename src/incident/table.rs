//! Counts by what was counted, bounded: pure.

/// Counts of up to `N` different things. What comes after those is counted together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table<T, const N: usize> {
    rows: [Option<(T, u64)>; N],
    others: u64,
}

impl<T: Copy + PartialEq, const N: usize> Table<T, N> {
    pub(super) const fn new() -> Self {
        Self {
            rows: [None; N],
            others: 0,
        }
    }

    pub(super) fn add(&mut self, what: T, times: u64) {
        for row in &mut self.rows {
            match row {
                Some((known, count)) if *known == what => {
                    *count = count.saturating_add(times);
                    return;
                }
                Some(_) => {}
                None => {
                    *row = Some((what, times));
                    return;
                }
            }
        }
        self.others = self.others.saturating_add(times);
    }

    pub(super) fn merge<const M: usize>(&mut self, other: &Table<T, M>) {
        for (what, times) in other.iter() {
            self.add(what, times);
        }
        self.others = self.others.saturating_add(other.others);
    }

    /// In the order in which they were first seen.
    pub(super) fn iter(&self) -> impl Iterator<Item = (T, u64)> + '_ {
        self.rows.iter().map_while(|row| *row)
    }

    /// The most frequent first.
    pub(super) fn sorted(&self) -> Vec<(T, u64)> {
        let mut rows: Vec<_> = self.iter().collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.1));
        rows
    }

    pub(super) const fn others(&self) -> u64 {
        self.others
    }

    pub(super) fn total(&self) -> u64 {
        let known = self.iter().map(|(_, times)| times);
        known.fold(self.others, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_is_lost_whatever_is_counted(
            first in proptest::collection::vec((0_u8..9, 0_u64..5), 0..40),
            second in proptest::collection::vec((0_u8..9, 0_u64..5), 0..40),
        ) {
            let (mut one, mut two) = (Table::<u8, 4>::new(), Table::<u8, 6>::new());
            for (what, times) in &first {
                one.add(*what, *times);
            }
            for (what, times) in &second {
                two.add(*what, *times);
            }
            one.merge(&two);
            let all = first.iter().chain(&second).map(|(_, times)| times).sum::<u64>();
            prop_assert_eq!(one.total(), all);
            prop_assert!(one.iter().count() <= 4);
        }
    }
}
