//! The budget's bucket and its view of the traffic. Pure.

use std::time::{Duration, Instant};

/// One token, in the millionths that the bucket counts in.
pub(super) const TOKEN: u64 = 1_000_000;

/// How full the bucket can get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Capacity {
    /// So many millionths of a token.
    Fixed(u64),
    /// What the traffic of the last `window` earned, and at least `least` millionths.
    Traffic { window: Duration, least: u64 },
}

/// A continuous token bucket, earned by first attempts and spent by extra ones.
///
/// Deposits are only counted, by the handle, in one counter. Between two withdrawals nothing
/// but deposits can happen, so filling the bucket when somebody wants to withdraw gives the same
/// level as filling it at every deposit, and idle time costs nothing.
///
/// Tokens withdrawn for an attempt that has not begun are *reserved*: they still take up room in
/// the bucket. Otherwise deposits would fill the room, and giving the tokens back would leave
/// more than the capacity.
#[derive(Debug)]
pub(super) struct Bucket {
    /// Millionths of a token earned by one first attempt.
    ratio: u64,
    capacity: Capacity,
    traffic: Traffic,
    /// Millionths in the bucket, reserved ones included.
    level: u64,
    reserved: u64,
    /// The count of first attempts up to which `level` holds.
    seen: u64,
    /// Extra attempts begun.
    extra: u64,
}

impl Bucket {
    /// A full bucket.
    pub(super) const fn new(ratio: u64, capacity: Capacity) -> Self {
        let level = match capacity {
            Capacity::Fixed(level) => level,
            Capacity::Traffic { least, .. } => least,
        };
        Self {
            ratio,
            capacity,
            traffic: Traffic {
                mark: None,
                last: None,
                recent: 0,
            },
            level,
            reserved: 0,
            seen: 0,
            extra: 0,
        }
    }

    /// Another ratio and capacity from now on.
    ///
    /// What first attempts earned until now, they earned at the old ratio. A larger capacity is not
    /// a fuller bucket.
    pub(super) fn reconfigure(
        &mut self,
        ratio: u64,
        capacity: Capacity,
        now: Instant,
        firsts: u64,
    ) {
        self.tick(now, firsts);
        self.fill(firsts);
        if matches!(self.capacity, Capacity::Fixed(_)) {
            // The traffic until now was not watched.
            self.traffic = Traffic {
                mark: Some(Mark { at: now, firsts }),
                last: None,
                recent: 0,
            };
        }
        (self.ratio, self.capacity) = (ratio, capacity);
        self.fill(firsts);
    }

    /// Sets `cost` aside if that much is free.
    pub(super) fn reserve(&mut self, cost: u64, firsts: u64) -> bool {
        self.fill(firsts);
        // Reserved tokens are in the level, so this can't go below zero.
        if self.level - self.reserved < cost {
            return false;
        }
        self.reserved += cost;
        true
    }

    /// Spends what was set aside: the attempt begins.
    pub(super) fn commit(&mut self, cost: u64, firsts: u64) {
        self.fill(firsts);
        self.reserved -= cost;
        self.level -= cost;
        self.extra += 1;
    }

    /// Frees what was set aside: the attempt never began.
    pub(super) fn release(&mut self, cost: u64) {
        self.reserved -= cost;
    }

    /// Tells the time, so that a capacity that follows the traffic can.
    pub(super) fn tick(&mut self, now: Instant, firsts: u64) {
        if let Capacity::Traffic { window, .. } = self.capacity {
            self.traffic.tick(now, firsts, window);
        }
    }

    /// Millionths that can be had now.
    pub(super) fn free(&mut self, firsts: u64) -> u64 {
        self.fill(firsts);
        self.level - self.reserved
    }

    pub(super) const fn extra(&self) -> u64 {
        self.extra
    }

    /// Millionths the bucket can hold now.
    pub(super) fn capacity(&self) -> u64 {
        match self.capacity {
            Capacity::Fixed(capacity) => capacity,
            Capacity::Traffic { least, .. } => {
                self.traffic.recent.saturating_mul(self.ratio).max(least)
            }
        }
    }

    fn fill(&mut self, firsts: u64) {
        let new = firsts.saturating_sub(self.seen);
        self.seen = self.seen.max(firsts);
        let earned = self.level.saturating_add(new.saturating_mul(self.ratio));
        // A capacity that shrinks can't take what is reserved.
        self.level = earned.min(self.capacity().max(self.reserved));
    }
}

/// How many first attempts the last window saw, from counts taken now and then.
#[derive(Debug)]
struct Traffic {
    mark: Option<Mark>,
    last: Option<Mark>,
    recent: u64,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    firsts: u64,
}

impl Traffic {
    fn tick(&mut self, now: Instant, firsts: u64, window: Duration) {
        let mark = *self.mark.get_or_insert(Mark { at: now, firsts: 0 });
        let from = self.last.unwrap_or(mark);
        let count = firsts.saturating_sub(from.firsts);
        let elapsed = now.saturating_duration_since(from.at);
        self.recent = if elapsed <= window {
            count
        } else {
            let share = u128::from(count) * window.as_nanos() / elapsed.as_nanos();
            u64::try_from(share).unwrap_or(u64::MAX)
        };
        if now.saturating_duration_since(mark.at) >= window {
            self.last = self.mark.replace(Mark { at: now, firsts });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TENTH: u64 = TOKEN / 10;

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Commit,
        First(u64),
        Release,
        Reserve(u64),
    }

    fn any_op() -> impl Strategy<Value = Op> {
        prop_oneof![
            Just(Op::Commit),
            (0..40_u64).prop_map(Op::First),
            Just(Op::Release),
            (1..3_u64).prop_map(Op::Reserve),
        ]
    }

    /// The slow reading: filled at every deposit, reserved tokens still in the bucket.
    struct Model {
        level: u64,
        reserved: Vec<u64>,
        capacity: u64,
        ratio: u64,
    }

    impl Model {
        fn free(&self) -> u64 {
            self.level - self.reserved.iter().sum::<u64>()
        }
    }

    proptest! {
        #[test]
        fn the_bucket_is_exactly_one_that_is_filled_at_every_deposit(
            ratio in 0..2 * TOKEN,
            capacity in 0..20 * TOKEN,
            ops in prop::collection::vec(any_op(), 1..200),
        ) {
            let mut bucket = Bucket::new(ratio, Capacity::Fixed(capacity));
            let mut model = Model { level: capacity, reserved: Vec::new(), capacity, ratio };
            let mut firsts = 0;
            for op in ops {
                match op {
                    Op::Commit => if let Some(cost) = model.reserved.pop() {
                        model.level -= cost;
                        bucket.commit(cost, firsts);
                    },
                    Op::First(count) => for _ in 0..count {
                        model.level = (model.level + model.ratio).min(model.capacity);
                        firsts += 1;
                    },
                    Op::Release => if let Some(cost) = model.reserved.pop() {
                        bucket.release(cost);
                    },
                    Op::Reserve(tokens) => {
                        let cost = tokens * TOKEN;
                        let fits = model.free() >= cost;
                        prop_assert_eq!(bucket.reserve(cost, firsts), fits);
                        if fits {
                            model.reserved.push(cost);
                        }
                    },
                }
                prop_assert_eq!(bucket.free(firsts), model.free());
            }
        }

        #[test]
        fn extra_attempts_of_any_stretch_stay_within_capacity_and_share(
            ratio in 0..TOKEN,
            capacity in 0..10 * TOKEN,
            ops in prop::collection::vec(any_op(), 1..200),
        ) {
            let mut bucket = Bucket::new(ratio, Capacity::Fixed(capacity));
            let (mut firsts, mut reserved) = (0, Vec::new());
            // Before each step: first attempts and extra ones so far.
            let mut history = vec![(0, 0)];
            for op in ops {
                match op {
                    Op::Commit => if let Some(cost) = reserved.pop() {
                        bucket.commit(cost, firsts);
                    },
                    Op::First(count) => firsts += count,
                    Op::Release => if let Some(cost) = reserved.pop() {
                        bucket.release(cost);
                    },
                    Op::Reserve(tokens) => if bucket.reserve(tokens * TOKEN, firsts) {
                        reserved.push(tokens * TOKEN);
                    },
                }
                for (firsts_then, extra_then) in &history {
                    let earned = (firsts - firsts_then) * ratio;
                    let spent = (bucket.extra() - extra_then) * TOKEN;
                    prop_assert!(spent <= capacity + earned);
                }
                history.push((firsts, bucket.extra()));
            }
        }

        #[test]
        fn extra_attempts_stay_within_the_greatest_capacity_of_the_traffic_and_share(
            ratio in 0..TOKEN,
            least in 0..5 * TOKEN,
            window in 1..20_u64,
            ops in prop::collection::vec((any_op(), 0..5_u64, any::<bool>()), 1..200),
        ) {
            let window = Duration::from_secs(window);
            let mut bucket = Bucket::new(ratio, Capacity::Traffic { window, least });
            let (mut now, mut firsts, mut reserved) = (Instant::now(), 0, Vec::new());
            let mut greatest = bucket.capacity();
            let mut history = vec![(0, 0)];
            for (op, seconds, tick) in ops {
                now += Duration::from_secs(seconds);
                if tick {
                    bucket.tick(now, firsts);
                    greatest = greatest.max(bucket.capacity());
                }
                match op {
                    Op::Commit => if let Some(cost) = reserved.pop() {
                        bucket.commit(cost, firsts);
                    },
                    Op::First(count) => firsts += count,
                    Op::Release => if let Some(cost) = reserved.pop() {
                        bucket.release(cost);
                    },
                    Op::Reserve(tokens) => if bucket.reserve(tokens * TOKEN, firsts) {
                        reserved.push(tokens * TOKEN);
                    },
                }
                for (firsts_then, extra_then) in &history {
                    let earned = (firsts - firsts_then) * ratio;
                    let spent = (bucket.extra() - extra_then) * TOKEN;
                    prop_assert!(spent <= greatest + earned);
                }
                history.push((firsts, bucket.extra()));
            }
        }

        #[test]
        fn time_in_any_order_and_any_traffic_never_panics(
            steps in prop::collection::vec((0..u64::MAX / 4, 0..u64::MAX), 1..50),
            ratio: u64,
        ) {
            let start = Instant::now();
            let window = Duration::from_secs(10);
            let mut bucket = Bucket::new(ratio, Capacity::Traffic { window, least: TOKEN });
            for (nanos, firsts) in steps {
                let now = start.checked_add(Duration::from_nanos(nanos)).expect("292 years fit");
                bucket.tick(now, firsts);
                if bucket.reserve(TOKEN, firsts) {
                    bucket.commit(TOKEN, firsts);
                }
            }
        }
    }

    #[test]
    fn a_tenth_earned_ten_times_is_one_token_to_the_last_millionth() {
        let mut bucket = Bucket::new(TENTH, Capacity::Fixed(5 * TOKEN));
        for _ in 0..5 {
            assert!(bucket.reserve(TOKEN, 0));
            bucket.commit(TOKEN, 0);
        }
        assert!(!bucket.reserve(TOKEN, 9));
        assert!(bucket.reserve(TOKEN, 10));
    }

    #[test]
    fn a_capacity_that_follows_the_traffic_holds_what_ten_seconds_earn() {
        let start = Instant::now();
        let window = Duration::from_secs(10);
        let least = 3 * TOKEN;
        let mut bucket = Bucket::new(TENTH, Capacity::Traffic { window, least });
        // 100 first attempts a second for a minute: ten seconds of them earn 100 tokens.
        for second in 0..=60 {
            bucket.tick(start + Duration::from_secs(second), 1 + second * 100);
        }
        let firsts = 1 + 60 * 100;
        assert_eq!(bucket.free(firsts) / TOKEN, 100);
        // Ten seconds of silence later it has forgotten half, and later nearly all.
        bucket.tick(start + Duration::from_secs(70), firsts);
        bucket.tick(start + Duration::from_secs(90), firsts);
        bucket.tick(start + Duration::from_secs(110), firsts);
        assert_eq!(bucket.free(firsts), least);
    }

    #[test]
    fn a_young_budget_holds_what_it_earned_so_far() {
        let start = Instant::now();
        let window = Duration::from_secs(10);
        let mut bucket = Bucket::new(
            TENTH,
            Capacity::Traffic {
                window,
                least: 3 * TOKEN,
            },
        );
        bucket.tick(start, 1);
        bucket.tick(start + Duration::from_millis(10), 1000);
        assert_eq!(bucket.free(1000) / TOKEN, 100);
    }
}
