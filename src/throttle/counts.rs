//! Requests and accepts of the last moments, and what they mean for the next call. Pure.

use std::time::{Duration, Instant};

use super::Priority;
use crate::deadline::later;

/// One, in the millionths that shares are kept in.
pub(super) const WHOLE: u64 = 1_000_000;

/// The settings that decide. Shares are in millionths.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    pub(super) multiplier: u64,
    pub(super) floor: u64,
    pub(super) least: u32,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            multiplier: 2 * WHOLE,
            floor: WHOLE / 10,
            least: 3,
        }
    }
}

impl Rule {
    /// The odds that a call is shed.
    pub(super) fn odds(&self, requests: u64, accepts: u64, priority: Priority) -> Odds {
        if requests < u64::from(self.least) {
            return Odds { of: 1, shed: 0 };
        }
        let all = u128::from(requests) * u128::from(WHOLE);
        let allowed = u128::from(accepts) * u128::from(self.multiplier_of(priority));
        let of = all + u128::from(WHOLE);
        // As floor and counts are exact, so is the smaller of the two.
        let most = (u128::from(requests) + 1) * u128::from(WHOLE.saturating_sub(self.floor));
        Odds {
            of,
            shed: all.saturating_sub(allowed).min(most),
        }
    }

    fn multiplier_of(&self, priority: Priority) -> u64 {
        let above = self.multiplier.saturating_sub(WHOLE);
        match priority {
            Priority::Sheddable => self.multiplier - above / 2,
            Priority::Normal => self.multiplier,
            Priority::Critical => self.multiplier + above,
        }
    }
}

/// A probability as a fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Odds {
    shed: u128,
    of: u128,
}

impl Odds {
    pub(super) const fn are_none(self) -> bool {
        self.shed == 0
    }

    /// Whether a call with this uniform draw is shed.
    pub(super) const fn strike(self, draw: u64) -> bool {
        // draw / 2^64 < shed / of. Ten buckets of 2^32 are less than 2^36 calls, and millionths
        // less than 2^20 of each, so nothing overflows.
        (draw as u128) * self.of < self.shed << 64
    }

    /// Whether at least so many hundredths are shed.
    pub(super) const fn reach(self, hundredths: u64) -> bool {
        self.shed * 100 >= self.of * hundredths as u128
    }

    #[allow(clippy::cast_precision_loss)] // for people to read
    pub(super) const fn share(self) -> f64 {
        self.shed as f64 / self.of as f64
    }
}

/// Requests and accepts within a window that slides in tenths. Every step is O(1).
#[derive(Debug)]
pub(super) struct Counts {
    buckets: [Bucket; BUCKETS],
    /// The bucket that is filled now.
    newest: usize,
    /// When it was begun. None before the first call.
    begun: Option<Instant>,
    width: Duration,
    requests: u64,
    accepts: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    requests: u32,
    accepts: u32,
}

impl Counts {
    pub(super) fn new(window: Duration) -> Self {
        Self {
            buckets: [Bucket::default(); BUCKETS],
            newest: 0,
            begun: None,
            width: width(window),
            requests: 0,
            accepts: 0,
        }
    }

    /// Forgets what is too old at `now`. A `now` in the past changes nothing.
    pub(super) fn advance(&mut self, now: Instant) {
        let begun = *self.begun.get_or_insert(now);
        let passed = now.saturating_duration_since(begun);
        if passed < self.width {
            return;
        }
        let steps = passed.as_nanos() / self.width.as_nanos();
        for _ in 0..steps.min(BUCKETS as u128) {
            self.newest = (self.newest + 1) % BUCKETS;
            let old = std::mem::take(&mut self.buckets[self.newest]);
            self.requests -= u64::from(old.requests);
            self.accepts -= u64::from(old.accepts);
        }
        // What is left over is less than a width, so the grid stays where it was.
        let over = passed.as_nanos() % self.width.as_nanos();
        let over = Duration::from_nanos(u64::try_from(over).unwrap_or(u64::MAX));
        self.begun = Some(now.checked_sub(over).unwrap_or(now));
    }

    /// Another length from now on. What is counted keeps its tenth, counted back from now.
    pub(super) fn set_window(&mut self, window: Duration, now: Instant) {
        self.advance(now);
        self.width = width(window);
        self.begun = self.begun.max(Some(now));
    }

    /// Counts one call at the moment of the last [`advance`](Self::advance).
    pub(super) const fn add(&mut self, accepted: bool) {
        let bucket = &mut self.buckets[self.newest];
        if bucket.requests == u32::MAX {
            return; // Four thousand million in a tenth of a window say it all.
        }
        bucket.requests += 1;
        bucket.accepts += accepted as u32;
        self.requests += 1;
        self.accepts += accepted as u64;
    }

    pub(super) fn odds(&self, rule: &Rule, priority: Priority) -> Odds {
        rule.odds(self.requests, self.accepts, priority)
    }

    /// When the oldest bucket that isn't empty is forgotten. None if all are.
    pub(super) fn next_change(&self) -> Option<Instant> {
        let begun = self.begun?;
        let tenths = (1..).zip((1..=BUCKETS).map(|ahead| (self.newest + ahead) % BUCKETS));
        let mut filled = tenths.filter(|(_, at)| self.buckets[*at].requests > 0);
        let (tenths, _) = filled.next()?;
        Some(later(begun, self.width.saturating_mul(tenths)))
    }

    pub(super) const fn requests(&self) -> u64 {
        self.requests
    }

    pub(super) const fn accepts(&self) -> u64 {
        self.accepts
    }
}

/// Of a tenth. Zero is refused by `check`, and must not divide by zero without it.
fn width(window: Duration) -> Duration {
    (window / TENTHS).max(Duration::from_nanos(1))
}

const BUCKETS: usize = 10;
const TENTHS: u32 = 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOOK: Rule = Rule {
        multiplier: 2 * WHOLE,
        floor: 0,
        least: 0,
    };
    const PRIORITIES: [Priority; 3] = [Priority::Sheddable, Priority::Normal, Priority::Critical];

    /// The definition, in exact fractions: (shed, of).
    fn by_definition(k: (u64, u64), requests: u64, accepts: u64) -> (u128, u128) {
        let (k, of) = (u128::from(k.0), u128::from(k.1));
        let requests = u128::from(requests);
        let above = (requests * of).saturating_sub(k * u128::from(accepts));
        (above, (requests + 1) * of)
    }

    #[test]
    fn the_odds_are_those_of_the_book_for_all_small_counts() {
        // K of each priority as a fraction.
        let normal = [(1, 1), (3, 2), (2, 1), (4, 1)];
        let sheddable = [(1, 1), (5, 4), (3, 2), (5, 2)];
        let critical = [(1, 1), (2, 1), (3, 1), (7, 1)];
        for (at, (k, of)) in normal.into_iter().enumerate() {
            let multiplier = k * WHOLE / of;
            let rule = Rule { multiplier, ..BOOK };
            for requests in 0..80 {
                for accepts in 0..=requests {
                    for (priority, k) in
                        PRIORITIES
                            .into_iter()
                            .zip([sheddable[at], normal[at], critical[at]])
                    {
                        let odds = rule.odds(requests, accepts, priority);
                        check_at_the_edge(odds, by_definition(k, requests, accepts));
                    }
                }
            }
        }
    }

    /// Exactly the draws below `shed / of` strike.
    fn check_at_the_edge(odds: Odds, (shed, of): (u128, u128)) {
        assert_eq!(odds.are_none(), shed == 0);
        let edge = (shed << 64).div_ceil(of);
        if let Some(below) = edge.checked_sub(1) {
            assert!(odds.strike(u64::try_from(below).expect("a draw")));
        }
        if let Ok(at) = u64::try_from(edge) {
            assert!(!odds.strike(at));
        }
    }

    #[test]
    fn the_floor_goes_through_however_bad_it_is() {
        let rule = Rule {
            floor: WHOLE / 4,
            ..BOOK
        };
        for requests in 0..200 {
            let odds = rule.odds(requests, 0, Priority::Normal);
            // The book's odds up to three in four, and never more.
            let book = by_definition((2, 1), requests, 0);
            let floored = if requests < 3 { book } else { (3, 4) };
            check_at_the_edge(odds, floored);
        }
        let all = Rule {
            floor: WHOLE,
            ..BOOK
        };
        assert!(all.odds(1_000, 0, Priority::Sheddable).are_none());
    }

    #[test]
    fn a_few_calls_say_nothing() {
        let rule = Rule { least: 3, ..BOOK };
        for (requests, says) in [(0, false), (2, false), (3, true)] {
            let odds = rule.odds(requests, 0, Priority::Sheddable);
            assert_eq!(!odds.are_none(), says, "{requests}");
        }
    }

    #[test]
    fn no_count_and_no_setting_overflows() {
        let most = u64::from(u32::MAX);
        let rule = Rule {
            multiplier: 4_294 * WHOLE,
            floor: u64::MAX,
            least: 0,
        };
        for priority in PRIORITIES {
            assert!(rule.odds(10 * most, 0, priority).are_none());
            assert!(
                BOOK.odds(10 * most, 0, priority)
                    .strike(u64::MAX - (1 << 32))
            );
            assert!(BOOK.odds(10 * most, 10 * most, priority).are_none());
        }
    }

    proptest! {
        #[test]
        fn nobody_is_shed_where_a_lesser_call_would_go(
            multiplier in 0..8 * WHOLE,
            floor in 0..2 * WHOLE,
            requests in 0..1_000_u64,
            share in 0..=1_000_u64,
            draw: u64,
        ) {
            let rule = Rule { multiplier, floor, least: 3 };
            let shed = PRIORITIES.map(|it| rule.odds(requests, requests * share / 1_000, it).strike(draw));
            prop_assert!(shed[0] >= shed[1] && shed[1] >= shed[2]);
        }

        #[test]
        fn the_window_is_the_last_ten_cells_of_a_fixed_grid(
            width in 1..1_000_u64,
            calls in prop::collection::vec((0..4_000_u64, any::<bool>()), 1..200),
        ) {
            let begin = Instant::now();
            let mut counts = Counts::new(Duration::from_nanos(10 * width));
            counts.advance(begin);
            let (mut at, mut all) = (0, Vec::new());
            for (step, (gap, accepted)) in calls.into_iter().enumerate() {
                // Time stands still as often as not, and now and then jumps far.
                at += match step % 4 { 0 => gap, 1 => gap % width, _ => 0 };
                let now = begin + Duration::from_nanos(at);
                counts.advance(now);
                counts.add(accepted);
                all.push((at, accepted));
                let inside = |it: &&(u64, bool)| it.0 / width + 10 > at / width;
                let requests = all.iter().filter(inside).count() as u64;
                let accepts = all.iter().filter(inside).filter(|it| it.1).count() as u64;
                prop_assert_eq!((counts.requests(), counts.accepts()), (requests, accepts));
                // So what is younger than nine tenths counts, and what is older than all doesn't.
                let within = |age| all.iter().filter(|it| at - it.0 < age).count() as u64;
                prop_assert!(within(9 * width) <= requests && requests <= within(10 * width));
                // Next, the oldest cell that isn't empty is forgotten.
                let oldest = all.iter().find(inside).expect("this one").0;
                let forgotten = begin + Duration::from_nanos((oldest / width + 10) * width);
                prop_assert_eq!(counts.next_change(), Some(forgotten));
            }
        }
    }

    #[test]
    fn time_that_goes_back_counts_as_none_and_far_jumps_empty_the_window() {
        let now = Instant::now() + Duration::from_secs(100);
        let mut counts = Counts::new(Duration::from_secs(10));
        assert_eq!(counts.next_change(), None);
        counts.advance(now);
        counts.add(true);
        counts.advance(now.checked_sub(Duration::from_secs(50)).expect("later"));
        counts.add(false);
        counts.advance(now + Duration::from_nanos(9_999_999_999));
        assert_eq!((counts.requests(), counts.accepts()), (2, 1));
        counts.advance(now + Duration::from_secs(10));
        assert_eq!((counts.requests(), counts.accepts()), (0, 0));
        counts.add(true);
        counts.advance(later(now, Duration::MAX));
        assert_eq!(counts.requests(), 0);
    }

    #[test]
    fn windows_of_no_length_or_no_end_do_no_harm() {
        for window in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
            let mut counts = Counts::new(window);
            for seconds in [0, 1, 1 << 30] {
                counts.advance(Instant::now() + Duration::from_secs(seconds));
                counts.add(false);
            }
            assert!(counts.next_change().is_some());
        }
    }
}
