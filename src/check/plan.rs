//! When a check goes. Pure.

use std::time::{Duration, Instant};

use crate::backoff::count;
use crate::deadline::later;
use crate::rng::Draws;
use crate::window::Turn;

use super::Check;

/// What there is to see of a service.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// Its breaker is not closed: when it may let a probe through.
    pub(super) breaker: Option<Instant>,
    /// An endpoint is ejected: when it may be probed.
    pub(super) endpoint: Option<Instant>,
    /// It is not well: when an attempt ended last, and until when it asked for quiet.
    pub(super) health: Option<(Option<Instant>, Option<Instant>)>,
    /// Its window is limited.
    pub(super) window: Option<Turn>,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A check goes: at once, or in line, where its turn comes at this moment or later.
    Check(Instant),
    /// Look again at this moment.
    Sleep(Instant),
}

/// How a check ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    /// What the server asked for.
    pub(super) hint: Option<Duration>,
    /// It never came to be sent, and not because of a breaker.
    pub(super) turned_away: bool,
}

/// Decides when the next check goes.
///
/// | because of | not before |
/// |---|---|
/// | every reason | an interval after the last check ended, and what its answer asked for; a breaker that is not closed lets a probe through |
/// | a breaker that is not closed | that alone: nothing else goes there |
/// | an ejected endpoint | it may be probed |
/// | a limited window | an interval after anything went or came back well; its turn, which it waits for in line if there is one |
/// | bad health | an interval after any attempt ended, and what the server asked for |
#[derive(Debug)]
pub(super) struct Plan {
    check: Check,
    /// The interval of now: bent by chance.
    interval: Duration,
    /// No check begins before this moment.
    next: Instant,
    /// Until when the answer to the last one asked for quiet.
    quiet_until: Option<Instant>,
    turned_away: bool,
}

impl Plan {
    pub(super) fn new(check: Check, now: Instant, draws: &mut Draws) -> Self {
        let interval = check.interval(draws);
        Self {
            check,
            interval,
            next: later(now, interval),
            quiet_until: None,
            turned_away: false,
        }
    }

    /// Somebody looks. What comes of `Check` is to be told by [`ended`](Self::ended).
    pub(super) fn step(&mut self, seen: &Seen, now: Instant, draws: &mut Draws) -> Step {
        let rested = |last: Option<Instant>| last.map_or(now, |it| later(it, self.interval));
        let wanted = [
            seen.breaker,
            seen.endpoint,
            seen.health
                .map(|(last, quiet)| rested(last).max(quiet.unwrap_or(now))),
            seen.window.map(|turn| rested(turn.last)),
        ];
        let Some(wanted) = wanted.into_iter().flatten().min() else {
            // Not needed. The next look is at another distance.
            self.interval = self.check.interval(draws);
            return Step::Sleep(later(now, self.interval));
        };
        let mut at = wanted.max(self.next).max(seen.breaker.unwrap_or(wanted));
        at = at.max(self.quiet(seen).unwrap_or(at));
        if let Some(turn) = seen.window {
            if turn.has_line && at <= turn.at {
                // In line early, to be the first when it moves. One that was refused there, as by an
                // open breaker, is not to be back at once.
                let ready = self.next.max(seen.breaker.unwrap_or(now));
                return if ready <= now {
                    Step::Check(turn.at.max(now))
                } else {
                    Step::Sleep(ready)
                };
            }
            at = at.max(turn.at);
        }
        if at <= now {
            Step::Check(now)
        } else {
            Step::Sleep(at)
        }
    }

    /// The check ended.
    pub(super) fn ended(&mut self, ended: Ended, now: Instant, draws: &mut Draws) {
        self.interval = self.check.interval(draws);
        self.next = later(now, self.interval);
        let quiet = ended.hint.map(|hint| hint.min(LONGEST_HINT));
        self.quiet_until = quiet.map(|quiet| later(now, quiet));
        self.turned_away = ended.turned_away;
    }

    /// Until when the server asked for quiet.
    fn quiet(&self, seen: &Seen) -> Option<Instant> {
        let quiet = self.quiet_until?;
        match (seen.window, seen.breaker) {
            // It was told the same, a little before the plan. Who comes later than its turn comes after
            // others.
            (Some(turn), _) if quiet <= later(turn.at, TOLD) => None,
            // They come back at a moment of their own.
            (Some(_), _) | (_, Some(_)) => Some(quiet),
            (None, None) => {
                let spread = self.interval.saturating_sub(self.check.every);
                Some(later(quiet, spread))
            }
        }
    }

    /// Until when a breaker is to leave its probes to the check, if it is to. It outlasts the next look,
    /// and not by much: somebody has to probe if nobody polls the check any more, or what it needs
    /// beside the breaker is not to be had.
    pub(super) fn reserves(&self, step: Step, timeout: Duration) -> Option<Instant> {
        if !self.check.first || self.turned_away {
            return None;
        }
        Some(match step {
            Step::Check(at) => later(later(at, timeout), self.check.longest()),
            Step::Sleep(until) => later(until, self.check.longest()),
        })
    }
}

impl Check {
    /// An interval, bent by chance.
    fn interval(&self, draws: &mut Draws) -> Duration {
        let spread = count(self.longest().saturating_sub(self.every));
        let more = Duration::from_nanos(draws.up_to(spread));
        self.every.saturating_add(more)
    }

    /// The longest interval there can be.
    fn longest(&self) -> Duration {
        let share = u128::from(self.jitter.in_millionths());
        let nanos = self.every.as_nanos().saturating_mul(share) / 1_000_000;
        let spread = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.every.saturating_add(spread)
    }
}

/// How much later than a window the plan may have been told.
const TOLD: Duration = Duration::from_millis(100);

/// What is believed of a server that asks for more.
const LONGEST_HINT: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::budget::Ratio;
    use crate::rng::Rng;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn before(moment: Instant) -> Instant {
        moment
            .checked_sub(Duration::from_nanos(1))
            .expect("a later moment")
    }

    fn draws() -> Draws {
        Rng::seeded(1).draws()
    }

    /// A plan whose first interval is over.
    fn plan(now: Instant) -> Plan {
        let check = Check::every(ms(1000)).jitter(Ratio::percent(0));
        let mut plan = Plan::new(check, now, &mut draws());
        plan.next = now;
        plan
    }

    fn step(plan: &mut Plan, seen: Seen, now: Instant) -> Step {
        plan.step(&seen, now, &mut draws())
    }

    const WELL: Seen = Seen {
        breaker: None,
        endpoint: None,
        health: None,
        window: None,
    };

    const GONE: Ended = Ended {
        hint: None,
        turned_away: false,
    };

    #[test]
    fn a_breaker_is_probed_when_it_lets_a_probe_through_and_not_before() {
        let t0 = Instant::now();
        let until = t0 + ms(700);
        let seen = Seen {
            breaker: Some(until),
            ..WELL
        };
        let mut plan = plan(t0);
        assert_eq!(step(&mut plan, seen, t0), Step::Sleep(until));
        assert_eq!(step(&mut plan, seen, before(until)), Step::Sleep(until));
        assert_eq!(step(&mut plan, seen, until), Step::Check(until));
    }

    #[test]
    fn another_check_goes_an_interval_after_the_last_one_ended_and_not_before() {
        let t0 = Instant::now();
        let mut plan = plan(t0);
        let seen = |now| Seen {
            breaker: Some(now),
            ..WELL
        };
        plan.ended(GONE, t0, &mut draws());
        let due = t0 + ms(1000);
        let early = before(due);
        assert_eq!(step(&mut plan, seen(early), early), Step::Sleep(due));
        assert_eq!(step(&mut plan, seen(due), due), Step::Check(due));
    }

    #[test]
    fn calls_postpone_checks_for_bad_health_and_a_limited_window() {
        let t0 = Instant::now();
        let last = t0 + ms(300);
        let due = last + ms(1000);
        for seen in [
            Seen {
                health: Some((Some(last), None)),
                ..WELL
            },
            Seen {
                window: Some(Turn {
                    at: last,
                    last: Some(last),
                    has_line: true,
                }),
                ..WELL
            },
        ] {
            let mut plan = plan(t0);
            let early = before(due);
            assert_eq!(step(&mut plan, seen, early), Step::Sleep(due));
            assert_eq!(step(&mut plan, seen, due), Step::Check(due));
        }
    }

    #[test]
    fn in_a_quiet_it_is_in_line_before_it_ends_but_only_once_the_breaker_would_let_it() {
        let t0 = Instant::now();
        let end = t0 + ms(60_000);
        let seen = |has_line, breaker| Seen {
            breaker,
            window: Some(Turn {
                at: end,
                last: Some(t0),
                has_line,
            }),
            ..WELL
        };
        let mut plan = plan(t0);
        assert_eq!(step(&mut plan, seen(true, None), t0), Step::Check(end));
        assert_eq!(step(&mut plan, seen(false, None), t0), Step::Sleep(end));
        let half = t0 + ms(30_000);
        let open = seen(true, Some(half));
        assert_eq!(step(&mut plan, open, t0), Step::Sleep(half));
        assert_eq!(step(&mut plan, open, half), Step::Check(end));
        // One that was refused in line comes back after an interval.
        plan.ended(GONE, half, &mut draws());
        let back = half + ms(1000);
        assert_eq!(step(&mut plan, seen(true, None), half), Step::Sleep(back));
        assert_eq!(step(&mut plan, seen(true, None), back), Step::Check(end));
    }

    #[test]
    fn what_the_server_asked_for_is_waited_for_up_to_what_is_believed() {
        let t0 = Instant::now();
        for (asked, believed) in [
            (ms(9000), ms(9000)),
            (ms(10), ms(1000)),
            (LONGEST_HINT, LONGEST_HINT),
            (Duration::MAX, LONGEST_HINT),
        ] {
            let mut plan = plan(t0);
            let ended = Ended {
                hint: Some(asked),
                ..GONE
            };
            plan.ended(ended, t0, &mut draws());
            let seen = |now| Seen {
                endpoint: Some(now),
                ..WELL
            };
            let due = t0 + believed;
            let early = before(due);
            assert_eq!(step(&mut plan, seen(early), early), Step::Sleep(due));
            assert_eq!(step(&mut plan, seen(due), due), Step::Check(due));
        }
    }

    #[test]
    fn what_a_window_was_told_as_well_is_left_to_it() {
        let t0 = Instant::now();
        let mut plan = plan(t0);
        let ended = Ended {
            hint: Some(ms(9000)),
            ..GONE
        };
        // The plan is told a little later.
        plan.ended(ended, t0 + ms(3), &mut draws());
        let turn = |at| Seen {
            window: Some(Turn {
                at,
                last: None,
                has_line: true,
            }),
            ..WELL
        };
        let now = t0 + ms(1003);
        let told = t0 + ms(9000);
        assert_eq!(step(&mut plan, turn(told), now), Step::Check(told));
        // One that wasn't told, or didn't believe it.
        let quiet = told + ms(3);
        assert_eq!(step(&mut plan, turn(now), now), Step::Sleep(quiet));
    }

    #[test]
    fn probes_are_reserved_past_the_next_look_unless_it_was_turned_away() {
        let t0 = Instant::now();
        let mut plan = plan(t0);
        let [look, turn] = [ms(400), ms(900)].map(|it| t0 + it);
        let reserved = |plan: &Plan, step| plan.reserves(step, ms(50));
        assert_eq!(reserved(&plan, Step::Sleep(look)), Some(look + ms(1000)));
        assert_eq!(reserved(&plan, Step::Check(turn)), Some(turn + ms(1050)));
        let ended = Ended {
            turned_away: true,
            ..GONE
        };
        plan.ended(ended, t0, &mut draws());
        assert_eq!(reserved(&plan, Step::Sleep(look)), None);
        plan.ended(GONE, t0, &mut draws());
        assert!(reserved(&plan, Step::Sleep(look)).is_some());
        plan.check = plan.check.share_probes();
        assert_eq!(reserved(&plan, Step::Sleep(look)), None);
    }

    fn moment() -> impl Strategy<Value = Option<u64>> {
        proptest::option::of(0_u64..20_000)
    }

    /// In milliseconds; what a look sees, how long until the next, and what becomes of a check.
    type Look = (
        [Option<u64>; 4],
        Option<(u64, Option<u64>, bool)>,
        u64,
        (Option<u64>, bool),
    );

    fn look() -> impl Strategy<Value = Look> {
        (
            [moment(), moment(), moment(), moment()],
            proptest::option::of((0_u64..20_000, moment(), any::<bool>())),
            0_u64..5000,
            (proptest::option::of(any::<u64>()), any::<bool>()),
        )
    }

    proptest! {
        #[test]
        fn whatever_it_sees_it_keeps_its_distance(
            every in prop_oneof![1_u64..5000, any::<u64>()],
            jitter: u16,
            looks in proptest::collection::vec(look(), 0..60),
            seed: u64,
        ) {
            let t0 = Instant::now();
            let every = Duration::from_millis(every);
            let check = Check::every(every).jitter(Ratio::percent(jitter));
            let mut draws = Rng::seeded(seed).draws();
            let mut plan = Plan::new(check, t0, &mut draws);
            let at = |millis: u64| later(t0, ms(millis));
            let (mut now, mut ended, mut asked) = (t0, t0, None::<Instant>);
            for ([breaker, endpoint, last, quiet], window, on, (hint, turned_away)) in looks {
                now = later(now, ms(on));
                // The past is over: what lets through does so from now on.
                let from_now = |it: Option<u64>| it.map(|it| at(it).max(now));
                let past = |it: Option<u64>| it.map(|it| at(it).min(now));
                let seen = Seen {
                    breaker: from_now(breaker),
                    endpoint: from_now(endpoint),
                    health: last.map(|_| (past(last), quiet.map(at))),
                    window: window.map(|(turn, last, has_line)| Turn {
                        at: at(turn).max(now),
                        last: past(last),
                        has_line,
                    }),
                };
                let longest = check.longest();
                let interval = |it: Duration| it >= every && it <= longest;
                prop_assert!(interval(plan.interval));
                match plan.step(&seen, now, &mut draws) {
                    Step::Check(turn) => {
                        // Never unasked, too soon, or where it would be refused at once.
                        let needed = seen.breaker.is_some()
                            || seen.endpoint.is_some()
                            || seen.health.is_some()
                            || seen.window.is_some();
                        prop_assert!(needed && turn >= now);
                        prop_assert!(now >= later(ended, every));
                        prop_assert!(seen.breaker.is_none_or(|it| it <= now));
                        let told = seen.window.is_some_and(|it| later(it.at, TOLD) >= asked.unwrap_or(t0));
                        prop_assert!(asked.is_none_or(|it| it <= now || told));
                        if seen.breaker.is_none() && seen.endpoint.is_none() && seen.window.is_none() {
                            let (last, quiet) = seen.health.expect("it is needed");
                            prop_assert!(last.is_none_or(|it| now >= later(it, every)));
                            prop_assert!(quiet.is_none_or(|it| it <= now));
                        }
                        if seen.window.is_some_and(|it| !it.has_line) {
                            prop_assert_eq!(turn, now);
                        }
                        let hint = hint.map(Duration::from_millis);
                        asked = hint.map(|it| later(now, it.min(LONGEST_HINT)));
                        plan.ended(Ended { hint, turned_away }, now, &mut draws);
                        ended = now;
                    }
                    Step::Sleep(until) => {
                        prop_assert!(until > now, "it would not sleep");
                        let unneeded = seen.breaker.is_none()
                            && seen.endpoint.is_none()
                            && seen.health.is_none()
                            && seen.window.is_none();
                        if unneeded {
                            prop_assert_eq!(until, later(now, plan.interval));
                        }
                    }
                }
            }
        }
    }
}
