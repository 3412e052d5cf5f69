//! The rules against a slow model of them, laws that hold whatever comes, both sides of each edge,
//! and what the handle counts.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::controller::{Answer, Controller, Step, Ticket, late_after};
use super::{LONGEST_STRIDE, OFTEN, SELDOM, Why, Window, stride};
use crate::clock::{self, BoxSleep, Clock, Runtime};
use crate::deadline::later;
use crate::gate::{self, Ask, Gate, Outcome, Pass, Purpose};
use crate::rng::{Draws, Rng};
use crate::sync::Ordering;
use crate::throttle::Priority;
use crate::verdict::{Kind, Verdict};

// Against the model.

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn it_does_what_the_rules_say((patience, ops) in (patience(), schedule()), seed: u64) {
        let mut rig = Rig::new(seed, patience);
        let mut model = Model::new(seed);
        for op in ops {
            rig.play(&op, Some(&mut model))?;
            rig.is_as(&model)?;
        }
    }
}

// Laws.

proptest! {
    #[test]
    fn nothing_makes_it_panic_or_lose_its_numbers(ops in vec(wild(), 0..200), seed: u64) {
        let mut draws = Rng::seeded(seed).draws();
        let mut it = Controller::new();
        let zero = Instant::now();
        let mut before = zero;
        for (op, at) in ops {
            let now = later(zero, at);
            match op {
                Wild::Tally(arrived, good, parked) => {
                    it.tally(arrived, good, before, parked, now);
                }
                Wild::Ask => it.asked(now),
                Wild::Send => drop(it.send(now, &mut draws)),
                Wild::Drop(counted) => it.dropped(Ticket { epoch: it.epoch(), counted }),
                Wild::Answer(answer, parked, counted) => {
                    let ticket = Ticket { epoch: it.epoch(), counted };
                    let _ = it.answered(ticket, answer, parked, now, &mut draws);
                }
            }
            let _ = (it.next(now, Duration::MAX), it.next(now, Duration::ZERO));
            let _ = (it.guess(usize::MAX, now), it.next_send(now));
            before = now;
            for number in [it.window().unwrap_or(0.0), it.demand(), it.usual(), it.least_time()] {
                prop_assert!(number.is_finite() && number >= 0.0, "{number} in {it:?}");
            }
        }
    }

    #[test]
    fn while_answers_fail_for_ever_it_goes_on_probing(
        ops in schedule(),
        fates in vec(0..4_u8, 1..100),
        arrived in 0..200_u64,
        seed: u64,
    ) {
        for patience in [Duration::from_millis(100), Duration::from_secs(10)] {
            let mut rig = Rig::reached(seed, patience, &ops)?;
            rig.parked = true;
            trip(&mut rig);
            let mut last = rig.now.max(rig.it.quiet_end().unwrap_or(rig.now));
            let longest = secs(30.0).max(patience);
            for fate in fates.iter().cycle().take(100) {
                rig.arrive(arrived, 0);
                while let Err(at) = rig.it.next(rig.now, patience) {
                    let at = at.expect("a moment, as nothing is known to end");
                    prop_assert!(at > rig.now);
                    rig.now = at;
                }
                prop_assert!(rig.now - last <= longest, "{:?}", rig.now - last);
                last = rig.now;
                let ticket = rig.it.send(rig.now, &mut rig.draws);
                match fate {
                    0 => rig.it.dropped(ticket),
                    1 => {} // nobody ever ends it
                    2 => _ = rig.answer(ticket, Answer { late: true, ..FAILED }),
                    _ => _ = rig.answer(ticket, FAILED),
                }
            }
        }
    }

    #[test]
    fn evidence_of_before_the_last_decrease_changes_nothing(
        (before, after) in (schedule(), schedule()),
        stale in vec((any::<bool>(), any::<bool>(), 1..4_u64, any::<bool>()), 1..30),
        seed: u64,
    ) {
        let patience = Duration::from_secs(1);
        let mut rig = Rig::reached(seed, patience, &before)?;
        let mut twin = Rig::reached(seed, patience, &before)?;
        for (failed, late, ago, is_foreign) in stale {
            let epoch = rig.it.epoch().checked_sub(ago).filter(|_| !is_foreign);
            let ticket = Ticket { epoch: epoch.unwrap_or(u64::MAX), counted: false };
            let mut answer = if failed { FAILED } else { GOOD };
            (answer.late, answer.took, answer.latency) = (late, Some(3.0), Some(3.0));
            prop_assert_eq!(rig.answer(ticket, answer), None);
            if !failed {
                twin.it.saw_good(twin.now); // this much it does say
            }
        }
        rig.is_like(&twin)?;
        for op in &after {
            rig.play(op, None)?;
            twin.play(op, None)?;
            rig.is_like(&twin)?;
        }
    }

    #[test]
    fn good_answers_open_it_from_any_state(ops in schedule(), seed: u64) {
        let mut rig = Rig::reached(seed, Duration::from_secs(1), &ops)?;
        rig.parked = false;
        rig.arrive(0, 0); // nobody is
        let goal = 3.0 * rig.it.demand();
        let usual = if rig.it.usual() > 0.0 { rig.it.usual() } else { 0.1 };
        // From nothing by 30 % each, with a whole window of answers for each step; and what was
        // seen before may shrink it once more.
        let steps = 3.0 + (goal / 0.4).max(1.0).ln() / 1.3_f64.ln();
        let mut left = 2.0 * steps * (goal * usual).max(1.0).ceil() + 2.0;
        while !rig.it.is_open() {
            prop_assert!(left > 0.0);
            if let Err(at) = rig.it.next(rig.now, rig.patience) {
                rig.now = at.expect("a moment");
                continue;
            }
            left -= 1.0;
            let ticket = rig.it.send(rig.now, &mut rig.draws);
            rig.answer(ticket, GOOD);
        }
    }

    #[test]
    fn after_an_hour_of_silence_one_may_go_at_once(ops in schedule(), seed: u64) {
        let rig = Rig::reached(seed, Duration::from_secs(10), &ops)?;
        prop_assert_eq!(rig.it.next(rig.now + 60 * MINUTE, rig.patience), Ok(()));
    }

    /// The first trip comes exactly where it would come if each good answer were looked at.
    #[test]
    fn good_answers_that_are_only_counted_weigh_as_if_each_were_looked_at(
        runs in vec((prop_oneof![0..15_u64, 0..300_u64], 0..9_u32, 0..2_u64), 1..60),
    ) {
        let window = Window::new();
        let mut eager = Vec::new();
        let mut now = Instant::now();
        let many = (500, 0, 0);
        for (good, failed, passed) in std::iter::once(many).chain(runs) {
            let verdicts = (0..good).map(|_| Verdict::success());
            for verdict in verdicts.chain((0..failed).map(|_| Verdict::transient())) {
                eager.push(!verdict.is_success());
                let seen = &eager[eager.len().saturating_sub(15)..];
                let failures = seen.iter().filter(|failed| **failed).count();
                let trips = seen.len() >= 3 && failures * 10 > seen.len() * 6;
                record(&window, verdict, now);
                prop_assert_eq!(window.snapshot().window.is_some(), trips);
                if trips {
                    return Ok(());
                }
            }
            now += Duration::from_millis(passed);
        }
    }

    #[test]
    fn each_call_arrives_once(calls in vec((0..5_u8, 0..400_u64), 1..200)) {
        let window = Window::new();
        let mut now = Instant::now();
        for (nth, (fate, passed)) in (1..).zip(calls) {
            match (window.try_acquire(now), fate) {
                (Ok(permit), 0) => drop(permit),
                (Ok(permit), fate) => {
                    let (verdict, latency) = match fate {
                        1 => (Verdict::transient(), MS),
                        2 => (Verdict::success(), 1000 * MS),
                        _ => (Verdict::success(), MS),
                    };
                    let _ = permit.record(verdict, latency, now);
                }
                (Err(_), _) => {}
            }
            prop_assert_eq!(arrived(&window), nth);
            now += Duration::from_millis(passed);
        }
    }
}

// Both sides of each edge.

#[test]
fn three_failures_trip_and_two_do_not() {
    let mut rig = Rig::busy(10);
    assert_eq!((rig.fail(), rig.fail()), (None, None));
    assert!(rig.it.is_open());
    assert_eq!(rig.fail(), Some(Step::Limited));
    assert_eq!((rig.it.epoch(), rig.it.why()), (1, Why::Failures));
}

#[test]
fn two_failures_shrink_what_is_limited_and_one_does_not() {
    let mut rig = Rig::tripped(10);
    assert_eq!((rig.fail(), rig.it.epoch()), (None, 1));
    assert_eq!((rig.fail(), rig.it.epoch()), (Some(Step::Shrunk), 2));
}

#[test]
fn sixty_percent_may_fail_and_more_may_not() {
    let mut rig = Rig::busy(10);
    rig.arrive(0, 6);
    for _ in 0..9 {
        assert_eq!(rig.fail(), None); // 9 of 15 at last
    }
    assert_eq!(rig.fail(), Some(Step::Limited)); // 10 of 15
}

#[test]
fn the_sixteenth_answer_back_no_longer_counts() {
    let mut rig = Rig::busy(10);
    rig.arrive(0, 7);
    (0..9).for_each(|_| assert_eq!(rig.fail(), None)); // 9 of 15, of 16
    assert_eq!(rig.fail(), Some(Step::Limited)); // 10 of 15, of 17
}

#[test]
fn answers_count_for_two_seconds_and_the_last_three_for_ten_minutes() {
    for (age, step) in [(2000, None), (2001, Some(Step::Limited))] {
        let mut rig = Rig::busy(10);
        rig.arrive(0, 3);
        rig.now += age * MS;
        // Two of five, or of three.
        assert_eq!((rig.fail(), rig.fail()), (None, step), "{age}");
    }
    for (age, step) in [(600_000, Some(Step::Limited)), (600_001, None)] {
        let mut rig = Rig::busy(10);
        rig.fail();
        rig.now += age * MS;
        // Three of three, or two of two.
        assert_eq!((rig.fail(), rig.fail()), (None, step), "{age}");
    }
}

#[test]
fn good_answers_that_are_counted_late_are_as_old_as_they_are() {
    for (age, step) in [(2000, None), (2001, Some(Step::Limited))] {
        let mut rig = Rig::busy(10);
        let good_at = rig.now;
        rig.now += age * MS;
        rig.it.tally(0, 3, good_at, false, rig.now);
        assert_eq!((rig.fail(), rig.fail()), (None, step), "{age}");
    }
}

#[test]
fn five_late_answers_trip_while_open_and_four_do_not() {
    let mut rig = Rig::busy(10);
    rig.arrive(0, 100); // what was in time before doesn't count
    (0..4).for_each(|_| assert_eq!(rig.late(), None));
    assert_eq!(rig.late(), Some(Step::Limited));
    assert_eq!(rig.it.why(), Why::Latency);
}

#[test]
fn each_answer_in_time_outweighs_a_late_one() {
    let mut rig = Rig::busy(10);
    for _ in 0..100 {
        (0..4).for_each(|_| assert_eq!(rig.late(), None));
        (0..2).for_each(|_| assert_eq!(rig.good(), None));
        assert_eq!(rig.fail(), None); // in time, too
        rig.arrive(0, 1);
    }
    (0..4).for_each(|_| assert_eq!(rig.late(), None));
    assert_eq!(rig.late(), Some(Step::Limited));
}

#[test]
fn late_answers_are_forgotten_in_ten_minutes_without_any() {
    for (silence, step) in [(600_000, Some(Step::Limited)), (600_001, None)] {
        let mut rig = Rig::busy(10);
        (0..4).for_each(|_| assert_eq!(rig.late(), None));
        rig.now += silence * MS;
        assert_eq!(rig.late(), step, "{silence}");
    }
}

#[test]
fn a_timeout_is_evidence_alone_where_nothing_good_came_for_twice_as_long() {
    for (ago, step) in [
        (just_below(2000 * MS), None),
        (2000 * MS, Some(Step::Limited)),
    ] {
        let mut rig = Rig::busy(10);
        rig.good();
        rig.now += ago;
        assert_eq!(rig.answer(rig.ticket(), TIMED_OUT), step, "{ago:?}");
    }
    // Good answers that were only counted may just have come.
    let mut rig = Rig::busy(10);
    rig.good();
    rig.now += MINUTE;
    rig.arrive(0, 1);
    assert_eq!(rig.answer(rig.ticket(), TIMED_OUT), None);

    let mut rig = Rig::busy(10);
    assert_eq!(rig.fail(), None); // no timeout
    rig.now += MINUTE;
    assert_eq!(rig.answer(rig.ticket(), TIMED_OUT), Some(Step::Limited));
    assert_eq!(rig.it.why(), Why::Failures);
    assert_eq!(rig.answer(rig.ticket(), TIMED_OUT), Some(Step::Shrunk));
}

#[test]
fn while_limited_a_seconds_worth_of_late_answers_shrinks_it() {
    for (demand, enough) in [(1, 2), (5, 3), (6, 4), (100, 4)] {
        let mut rig = Rig::tripped(demand); // to 55 %
        (1..enough).for_each(|_| assert_eq!(rig.late(), None, "{demand}"));
        assert_eq!(rig.late(), Some(Step::Shrunk), "{demand}");
    }
}

#[test]
fn an_answer_is_late_beyond_the_limit_and_not_at_it() {
    let second = 1_000_000_000;
    for (usual, timeout, limit) in [
        (0, None, u64::MAX),
        (0, Some(second), second / 4),
        (10_000_000, None, 50_000_000), // five times the usual
        (1_000_000, None, 20_000_000),  // the least
        (4_000_000, None, 20_000_000),  // both
        (100_000_000, Some(second), 250_000_000), // a share of the timeout
        (300_000_000, Some(second), 600_000_000), // twice the usual
        (second, Some(second), 2 * second), // which may be more than the timeout
        (u64::MAX, None, u64::MAX),
    ] {
        assert_eq!(late_after(usual, timeout), limit, "{usual} {timeout:?}");
    }
    let window = Window::new();
    for nth in 0..16 {
        assert!(
            !window.is_late(MINUTE, None),
            "the {nth} first may be the fastest"
        );
        let now = Instant::now() + nth * 1000 * MS;
        record_in(&window, Verdict::success(), 10 * MS, now);
    }
    assert!(!window.is_late(50 * MS, None));
    assert!(window.is_late(50 * MS + NANO, None));
    assert!(!window.is_late(25 * MS, Some(100 * MS)));
    assert!(window.is_late(25 * MS + NANO, Some(100 * MS)));
}

#[test]
fn retry_after_is_believed_half_a_second_after_the_last_good_answer() {
    let told = Answer {
        quiet: Some(MINUTE),
        ..FAILED
    };
    let mut rig = Rig::busy(10);
    let good = rig.now;
    rig.good();
    rig.now = good + just_below(500 * MS);
    assert_eq!(rig.answer(rig.ticket(), told), None);
    assert!(rig.it.is_open() && rig.it.quiet_end().is_none());
    rig.now = good + 500 * MS;
    assert_eq!(rig.answer(rig.ticket(), told), Some(Step::Quiet));
    assert_eq!(rig.it.quiet_end(), Some(rig.now + MINUTE));
    assert_eq!((rig.rate(), rig.it.why()), (10.0, Why::Quiet)); // the pace of its demand
}

#[test]
fn a_good_answer_told_late_takes_no_later_one_back() {
    let told = Answer {
        quiet: Some(MINUTE),
        ..FAILED
    };
    let mut rig = Rig::busy(10);
    rig.it.saw_good(rig.now + 400 * MS);
    rig.it.saw_good(rig.now);
    rig.now += 500 * MS;
    assert_eq!(rig.answer(rig.ticket(), told), None);
    assert!(rig.it.is_open());
}

#[test]
fn nothing_goes_before_a_quiet_ends_and_only_a_longer_one_replaces_it() {
    let mut rig = Rig::busy(1000);
    let told = |quiet| Answer {
        quiet: Some(quiet),
        ..FAILED
    };
    assert_eq!(rig.answer(rig.ticket(), told(MINUTE)), Some(Step::Quiet));
    let end = rig.now + MINUTE;
    assert_eq!(rig.answer(rig.ticket(), told(MINUTE)), None);
    assert_eq!(rig.answer(rig.ticket(), told(just_below(MINUTE))), None);
    assert_eq!((rig.it.quiet_end(), rig.it.epoch()), (Some(end), 1));
    let Err(Some(at)) = rig.it.next(rig.now + just_below(MINUTE), MINUTE) else {
        panic!("it may go within a quiet");
    };
    assert!(at >= end && at <= end + MS); // within the first pause
    assert_eq!(rig.it.next(at, MINUTE), Ok(()));
    assert_eq!(
        rig.answer(rig.ticket(), told(MINUTE + NANO)),
        Some(Step::Quiet)
    );
    assert_eq!(rig.it.epoch(), 2);
}

#[test]
fn the_threshold_is_the_demand_at_first_and_four_fifths_later() {
    let mut rig = Rig::tripped(10);
    rig.is_at(5.5);
    rig.good();
    rig.is_at(10.0); // not 22
    assert_eq!((rig.fail(), rig.fail()), (None, Some(Step::Shrunk))); // two of three
    rig.is_at(10.0 * (0.65 - 0.2 / 3.0));
    rig.good();
    rig.is_at(8.0);
    rig.good();
    rig.is_at(8.0 * 1.3);
}

#[test]
fn failures_with_nothing_good_between_leave_the_threshold() {
    let mut rig = Rig::tripped(10);
    rig.fail();
    assert_eq!(rig.fail(), Some(Step::Shrunk));
    rig.is_at(3.025);
    rig.good();
    rig.is_at(10.0);
}

#[test]
fn while_none_are_parked_it_shrinks_from_no_more_than_the_demand() {
    for (parked, rate) in [(false, 10.0), (true, 28.561)] {
        let mut rig = Rig::tripped(10);
        rig.it.learn(0.01); // a window below one
        (0..5).for_each(|_| assert_eq!(rig.good(), None));
        rig.is_at(28.561);
        rig.parked = parked;
        rig.arrive(0, 0);
        while rig.late().is_none() {}
        rig.is_at(rate * 0.65);
        rig.good();
        rig.is_at(rate * 0.8);
    }
}

#[test]
fn it_pauses_at_least_half_as_long_as_between_two_when_it_trips() {
    let mut pauses = Vec::new();
    for seed in 0..100 {
        let mut rig = Rig::busy(10);
        rig.draws = Rng::seeded(seed).draws();
        rig.fail_enough();
        let pause = rig.it.next_send(rig.now).expect("a pause") - rig.now;
        pauses.push(pause.as_secs_f64() * 5.5);
    }
    let is_any = |from: f64, to: f64| pauses.iter().any(|it| (from..to).contains(it));
    assert!(pauses.iter().all(|it| (0.5..1.5).contains(it)));
    assert!(is_any(0.5, 0.6) && is_any(1.4, 1.5));
}

#[test]
fn it_shrinks_by_a_third_or_more_and_not_below_its_floor() {
    let mut rig = Rig::busy(10);
    (0..5).for_each(|_| _ = rig.late());
    rig.is_at(6.5); // none failed
    let mut rig = Rig::tripped(10);
    for rate in [3.025, 2.0, 2.0] {
        rig.fail();
        assert_eq!(rig.fail(), Some(Step::Shrunk));
        rig.is_at(rate); // all failed
    }
}

#[test]
fn a_small_client_probes_as_often_as_it_calls_where_that_is_cheap() {
    // In attempts per second: demand, floor, and floor while failures are cheap.
    for (demand, floor, cheap) in [
        (0.25, 0.05, 0.25),
        (0.5, 0.1, 0.5),
        (1.0, 0.2, 0.8),
        (3.75, 0.75, 0.8),
        (4.0, 0.8, 0.8),
    ] {
        for (took, floor) in [(0.025, floor), (0.024_9, cheap)] {
            let mut rig = Rig::rare(demand);
            rig.it.learn(0.1);
            for _ in 0..30 {
                rig.answer(
                    rig.ticket(),
                    Answer {
                        took: Some(took),
                        ..FAILED
                    },
                );
            }
            rig.is_at(floor);
        }
    }
}

#[test]
fn a_probe_goes_every_twenty_seconds_or_five_where_that_is_cheap() {
    for (took, longest) in [(0.025, 20.0), (0.024_9, 5.0)] {
        let mut rig = Rig::busy(0);
        rig.it.learn(0.1);
        for _ in 0..3 {
            let took = Some(took);
            rig.answer(rig.ticket(), Answer { took, ..FAILED });
        }
        rig.is_at(0.0);
        rig.it.send(rig.now, &mut rig.draws);
        let pause = rig.it.next_send(rig.now).expect("a pause") - rig.now;
        assert!((0.5..1.5).contains(&(pause.as_secs_f64() / longest)));
    }
}

#[test]
fn it_grows_fourfold_and_then_by_a_third_once_a_window() {
    let mut rig = Rig::tripped(100);
    (0..4).for_each(|_| rig.fail_enough());
    rig.is_at(20.0); // a window of two
    rig.good();
    rig.is_at(20.0);
    rig.good();
    rig.is_at(80.0); // a window of eight
    (0..7).for_each(|_| _ = rig.good());
    rig.is_at(80.0);
    rig.good();
    rig.is_at(100.0);
    (0..10).for_each(|_| _ = rig.good());
    rig.is_at(130.0);
}

#[test]
fn good_answers_of_before_a_decrease_count_for_no_growth_after_it() {
    let mut rig = Rig::tripped(100);
    (0..3).for_each(|_| assert_eq!(rig.good(), None)); // of a window of five and a half
    while rig.fail().is_none() {}
    rig.is_at(55.0 * (0.65 - 0.1 * 5.0 / 8.0));
    let rate = rig.rate();
    (0..3).for_each(|_| _ = rig.good()); // of a window of more than three
    rig.is_at(rate);
    rig.good();
    rig.is_at(44.0);
}

#[test]
fn it_grows_by_at_least_four_tenths() {
    let mut rig = Rig::rare(0.5);
    rig.fail_enough();
    rig.is_at(0.275);
    for rate in [0.675, 1.075, 1.475] {
        assert_eq!(rig.good(), None);
        rig.is_at(rate);
    }
    assert_eq!(rig.good(), Some(Step::Opened)); // at 1.5, three times the demand
}

#[test]
fn it_opens_at_three_times_the_demand_and_grows_no_further_while_any_are_parked() {
    let mut rig = Rig::tripped(10);
    rig.it.learn(0.01); // a window below one
    for rate in [10.0, 13.0, 16.9, 21.97, 28.561] {
        assert_eq!(rig.good(), None);
        rig.is_at(rate);
    }
    rig.parked = true;
    (0..20).for_each(|_| assert_eq!(rig.good(), None));
    rig.is_at(30.0);
    rig.parked = false;
    assert_eq!(rig.good(), Some(Step::Opened));
    assert_eq!((rig.it.window(), rig.it.epoch()), (None, 1));

    let mut rig = Rig::tripped(10);
    rig.it.learn(0.01);
    (0..5).for_each(|_| assert_eq!(rig.good(), None));
    assert_eq!(rig.good(), Some(Step::Opened));
}

#[test]
fn a_little_less_than_three_times_the_demand_does_not_open_it() {
    let mut rig = Rig::tripped(10);
    rig.it.learn(0.01);
    rig.good();
    rig.fail_enough(); // the threshold is at eight now
    (0..6).for_each(|_| assert_eq!(rig.good(), None));
    rig.is_at(29.703_44);
    assert_eq!(rig.good(), Some(Step::Opened));
}

#[test]
fn what_was_seen_before_it_opened_is_forgotten() {
    let mut rig = Rig::tripped(10);
    while rig.good().is_none() {}
    assert_eq!((rig.fail(), rig.fail()), (None, None));
    assert_eq!(rig.fail(), Some(Step::Limited));
}

#[test]
fn a_late_good_answer_grows_nothing() {
    let mut rig = Rig::tripped(10);
    rig.late();
    rig.is_at(5.5);
    rig.good();
    rig.is_at(10.0);
}

#[test]
fn the_usual_is_a_mean_at_first_and_learned_slowly_later() {
    let mut rig = Rig::busy(10);
    for (latency, mean) in [(0.1, 0.1), (0.2, 0.15), (0.6, 0.3)] {
        rig.took(latency, 0.1); // whatever is believable
        near(rig.it.usual(), mean);
    }
    let mut rig = Rig::knowing(10, 100);
    rig.took(0.2, 0.1);
    near(rig.it.usual(), 0.102);
}

#[test]
fn a_late_answer_while_open_counts_as_one_of_all() {
    let answer = |late, took| Answer {
        late,
        took: Some(took),
        latency: Some(took),
        ..GOOD
    };
    for (late, weight) in [(false, 0.02), (true, 1.0 / 200.0)] {
        let mut rig = Rig::knowing(10, 199);
        rig.answer(rig.ticket(), answer(late, 1.1));
        near(rig.it.usual(), 0.1 + weight);
    }
}

#[test]
fn the_usual_is_known_after_sixteen_answers() {
    let mut rig = Rig::knowing(10, 15);
    assert_eq!((rig.it.known_usual(), rig.it.usual() > 0.0), (0.0, true));
    rig.it.learn(0.1);
    near(rig.it.known_usual(), 0.1);
}

#[test]
fn latency_is_learned_fast_while_probing() {
    let mut rig = Rig::tripped(10);
    rig.fail_enough();
    rig.is_at(3.025); // less than twice the floor
    rig.parked = true;
    rig.took(0.1, f64::INFINITY);
    near(rig.it.usual(), 0.1);
    let mut rig = Rig::knowing(10, 100);
    rig.fail_enough();
    rig.fail_enough();
    rig.took(1.1, 0.1);
    near(rig.it.usual(), 0.2);
}

#[test]
fn latency_is_learned_within_bounds_while_limited() {
    let mut rig = Rig::knowing(10, 99);
    rig.fail_enough(); // to 5.5, more than twice the floor
    rig.parked = true;
    rig.took(5.0, 0.35);
    near(rig.it.usual(), 0.1 + 0.25 / 100.0); // no time has passed: a hundredth of the mean
    let usual = rig.it.usual();
    rig.now += 1000 * MS;
    rig.took(5.0, 0.35);
    near(rig.it.usual(), usual + (0.35 - usual) / 21.0);
    let usual = rig.it.usual();
    rig.now += MINUTE;
    rig.took(5.0, 0.0);
    near(rig.it.usual(), usual); // what is usual is believable
    rig.now += MINUTE; // counts as a second
    rig.took(5.0, usual + 2.1);
    near(rig.it.usual(), usual + 0.1);
}

#[test]
fn a_timer_that_is_late_by_five_milliseconds_slows_nothing() {
    for (late, credit) in [(0, 0), (4, 4), (5, 5), (6, 5), (1000, 5)] {
        let mut rig = Rig::tripped(10); // to 5.5 per second: pauses of 91 to 273 ms
        let seed = &mut Rng::seeded(2).draws();
        rig.it.send(rig.now, &mut Rng::seeded(3).draws());
        let due = rig.it.next_send(rig.now).expect("a pause");
        rig.now = due + late * MS;
        rig.it.send(rig.now, seed);
        let next = rig.it.next_send(rig.now).expect("a pause");

        let mut punctual = Rig::tripped(10);
        let now = punctual.now;
        punctual.it.send(now, &mut Rng::seeded(3).draws());
        let due = punctual.it.next_send(now).expect("a pause");
        punctual.it.send(due, &mut Rng::seeded(2).draws());
        let pause = punctual.it.next_send(due).expect("a pause") - due;
        assert_eq!(next + credit * MS, rig.now + pause, "{late}");
    }
}

#[test]
fn while_limited_a_hint_no_longer_than_the_pause_is_a_failure() {
    let told = |quiet| Answer {
        quiet: Some(quiet),
        ..FAILED
    };
    let gap = secs(1.0 / (10.0 * (0.65 - 0.1)));
    let mut rig = Rig::tripped(10);
    assert_eq!(rig.answer(rig.ticket(), told(gap)), None);
    assert_eq!(rig.answer(rig.ticket(), told(gap)), Some(Step::Shrunk));
    let mut rig = Rig::tripped(10);
    assert_eq!(
        rig.answer(rig.ticket(), told(gap + NANO)),
        Some(Step::Quiet)
    );
    let mut rig = Rig::busy(10);
    assert_eq!(rig.answer(rig.ticket(), told(NANO)), Some(Step::Quiet));
}

#[test]
fn a_quiet_while_limited_leaves_the_rate() {
    let mut rig = Rig::tripped(10);
    let told = Answer {
        quiet: Some(MINUTE),
        ..FAILED
    };
    assert_eq!(rig.answer(rig.ticket(), told), Some(Step::Quiet));
    rig.is_at(5.5);
    rig.good();
    rig.is_at(10.0); // and the threshold
}

#[test]
fn while_any_are_parked_no_less_is_wanted_than_when_it_was_limited() {
    let mut rig = Rig::tripped(10);
    rig.now += 10_000 * MS;
    rig.arrive(0, 0);
    assert!(rig.it.demand() < 10.0);
    rig.parked = true;
    rig.arrive(0, 0);
    near(rig.it.demand(), 10.0);
    rig.now += 10_000 * MS;
    rig.arrive(10_000, 0); // more is more
    assert!(rig.it.demand() > 10.0);
    let mut rig = Rig::busy(10);
    rig.parked = true;
    rig.now += 10_000 * MS;
    rig.arrive(0, 0);
    assert!(rig.it.demand() < 10.0, "it is open");
}

#[test]
fn demand_is_young_again_after_twenty_seconds_of_silence() {
    // For a second after it, the demand is a mean of what came since.
    for (silence, is_young) in [(20_000, false), (20_001, true)] {
        let mut rig = Rig::busy(10);
        rig.now += MINUTE / 4;
        rig.arrive(150, 0);
        rig.now += silence * MS;
        rig.arrive(0, 0);
        rig.now += 1000 * MS;
        rig.arrive(40, 0);
        assert_eq!((rig.it.demand() - 40.0).abs() < 1e-9, is_young, "{silence}");
    }
}

#[test]
fn after_ten_minutes_of_silence_it_begins_anew_when_asked() {
    let minutes = 10 * MINUTE;
    for (silence, reopens) in [(minutes, false), (minutes + NANO, true)] {
        // Since it was limited; since it sent; since a quiet ended.
        let mut rigs = [Rig::tripped(10), Rig::tripped(10), Rig::tripped(10)];
        rigs[1].now += MINUTE;
        let (now, draws) = (rigs[1].now, &mut Rng::seeded(1).draws());
        let ticket = rigs[1].it.send(now, draws);
        rigs[1].it.dropped(ticket);
        let told = Answer {
            quiet: Some(MINUTE),
            ..FAILED
        };
        rigs[2].answer(rigs[2].ticket(), told);
        rigs[2].now += MINUTE;
        for mut rig in rigs {
            let epoch = rig.it.epoch();
            rig.fail(); // is forgotten
            rig.now += silence;
            rig.it.asked(rig.now);
            assert_eq!(rig.it.is_open(), reopens, "{silence:?}");
            assert_eq!(rig.it.epoch(), epoch + u64::from(reopens));
        }
    }
    let mut rig = Rig::tripped(10);
    rig.it.send(rig.now, &mut Rng::seeded(1).draws());
    rig.it.asked(rig.now + YEAR);
    assert!(!rig.it.is_open(), "one is under way");
}

#[test]
fn a_refusal_is_a_good_answer_that_teaches_no_latency() {
    let (window, now) = (Window::new(), Instant::now());
    let refused = Verdict::new(Kind::RequestFault);
    record(&window, refused, now);
    assert_eq!(window.snapshot().usual, Duration::ZERO);
    record(&window, refused, now);
    for _ in 0..3 {
        record(&window, Verdict::transient(), now); // three of five
    }
    assert_eq!(window.snapshot().window, None);
    record(&window, Verdict::success(), now + MINUTE);
    assert_eq!(window.snapshot().usual, MS);
}

#[test]
fn no_more_are_under_way_than_the_window_or_one() {
    let mut rig = Rig::tripped(100);
    rig.it.learn(0.054_4);
    near(rig.it.window().unwrap(), 2.992);
    let longest_pause = secs(0.028);
    for _ in 0..2 {
        rig.now += longest_pause;
        assert_eq!(rig.it.next(rig.now, MINUTE), Ok(()));
        rig.it.send(rig.now, &mut rig.draws);
    }
    let lost = rig.now + MINUTE;
    for now in [rig.now + longest_pause, rig.now + just_below(MINUTE)] {
        assert_eq!(rig.it.next(now, MINUTE), Err(Some(lost)));
    }
    assert_eq!(rig.it.next(lost, MINUTE), Ok(()));
}

#[test]
fn good_answers_are_looked_at_a_few_times_in_a_tenth_of_a_second() {
    assert_eq!(stride(4, None), 1);
    assert_eq!(stride(4, Some(just_below(OFTEN))), 8);
    assert_eq!(stride(4, Some(OFTEN)), 4);
    assert_eq!(stride(4, Some(just_below(SELDOM))), 4);
    assert_eq!(stride(4, Some(SELDOM)), 1);
    assert_eq!(stride(LONGEST_STRIDE, Some(Duration::ZERO)), LONGEST_STRIDE);

    let (window, now) = (Window::new(), Instant::now());
    let looked_at = |window: &Window| window.shared.room.with(None, |limiter| limiter.good);
    (0..1000).for_each(|_| record(&window, Verdict::success(), now));
    assert!(looked_at(&window) < 1000 && looked_at(&window) + LONGEST_STRIDE >= 1000);
    record(&window, Verdict::transient(), now);
    assert_eq!(looked_at(&window), 1000);
}

#[test]
fn a_clock_that_panics_while_an_answer_is_looked_at_counts_no_call_twice() {
    let window = Window::new();
    let counted = || {
        let of = |it: &crate::sync::AtomicU64| it.load(Ordering::Relaxed);
        of(&window.shared.good) + of(&window.shared.arrived)
    };
    let (clock, rng, verdict) = (Clock::custom(Stopped), Rng::seeded(1), Verdict::success());
    let mut pass = Pass::new(window.clone());
    let mut ask = Ask {
        clock: &clock,
        moment: None,
        rng: &rng,
        waker: Waker::noop(),
        latest: None,
        attempt: 1,
        timeout: None,
        priority: Priority::Normal,
        purpose: Purpose::Call,
        news: None,
    };
    assert!(matches!(pass.ask(&mut ask), gate::Answer::Go(())));
    let settled = catch_unwind(AssertUnwindSafe(|| {
        pass.settle(&mut Outcome {
            verdict: &verdict,
            hint: None,
            latency: None,
            quota: None,
            timed_out: false,
            timeout: None,
            clock: &clock,
            moment: None,
            rng: &rng,
        })
    }));
    assert!(settled.is_err(), "the first answer is looked at");
    assert_eq!(counted(), 1);
    drop(pass);
    assert_eq!(counted(), 1);
    record(&window, Verdict::success(), Instant::now());
    assert_eq!(counted(), 2);
}

/// A clock of which nothing is to be had.
struct Stopped;

impl Runtime for Stopped {
    fn now(&self) -> Instant {
        panic!("it has stopped")
    }

    fn wall(&self) -> SystemTime {
        panic!("it has stopped")
    }

    fn sleep_until(&self, _: Instant, _: clock::Why) -> BoxSleep {
        panic!("it has stopped")
    }
}

// The scene.

/// A controller, and what it sent that has not ended.
struct Rig {
    it: Controller,
    draws: Draws,
    zero: Instant,
    now: Instant,
    patience: Duration,
    parked: bool,
    sent: Vec<Ticket>,
}

impl Rig {
    fn new(seed: u64, patience: Duration) -> Self {
        let zero = Instant::now();
        Self {
            it: Controller::new(),
            draws: Rng::seeded(seed).draws(),
            zero,
            now: zero,
            patience,
            parked: false,
            sent: Vec::new(),
        }
    }

    /// After this schedule.
    fn reached(seed: u64, patience: Duration, ops: &[Op]) -> Result<Self, TestCaseError> {
        let mut rig = Self::new(seed, patience);
        ops.iter().try_for_each(|op| rig.play(op, None))?;
        Ok(rig)
    }

    /// Open, and asked so often per second.
    fn busy(demand: u64) -> Self {
        let mut rig = Self::new(1, MINUTE);
        rig.arrive(demand, 0);
        rig
    }

    /// The same, for quarters.
    fn rare(demand: f64) -> Self {
        let mut rig = Self::new(1, MINUTE);
        rig.arrive(0, 0);
        rig.now += 4000 * MS;
        let quarters = (0..16).filter(|nth| f64::from(*nth) < 4.0 * demand);
        rig.arrive(quarters.map(|_| 1).sum(), 0);
        near(rig.it.demand(), demand);
        rig
    }

    /// The same, after so many answers that took 100 ms.
    fn knowing(demand: u64, lessons: u32) -> Self {
        let mut rig = Self::busy(demand);
        (0..lessons).for_each(|_| rig.it.learn(0.1));
        rig
    }

    /// Limited to 55 % of the demand.
    fn tripped(demand: u64) -> Self {
        let mut rig = Self::busy(demand);
        rig.fail_enough();
        rig
    }

    fn arrive(&mut self, arrived: u64, good: u64) {
        let (parked, now) = (self.parked, self.now);
        self.it.tally(arrived, good, now, parked, now);
    }

    fn ticket(&self) -> Ticket {
        let (epoch, counted) = (self.it.epoch(), false);
        Ticket { epoch, counted }
    }

    fn answer(&mut self, ticket: Ticket, answer: Answer) -> Option<Step> {
        let draws = &mut self.draws;
        self.it
            .answered(ticket, answer, self.parked, self.now, draws)
    }

    fn good(&mut self) -> Option<Step> {
        self.answer(self.ticket(), GOOD)
    }

    fn fail(&mut self) -> Option<Step> {
        self.answer(self.ticket(), FAILED)
    }

    fn late(&mut self) -> Option<Step> {
        let late = Answer { late: true, ..GOOD };
        self.answer(self.ticket(), late)
    }

    fn fail_enough(&mut self) {
        let enough = if self.it.is_open() { 3 } else { 2 };
        (1..enough).for_each(|_| assert_eq!(self.fail(), None));
        assert!(self.fail().is_some());
    }

    /// A good answer.
    fn took(&mut self, latency: f64, believable: f64) {
        let latency = Some(latency);
        let answer = Answer {
            took: latency,
            latency,
            believable,
            ..GOOD
        };
        self.answer(self.ticket(), answer);
    }

    /// In attempts per second.
    fn rate(&self) -> f64 {
        let usual = Some(self.it.usual()).filter(|usual| *usual > 0.0);
        self.it.window().expect("it is limited") / usual.unwrap_or(0.1)
    }

    #[track_caller]
    fn is_at(&self, rate: f64) {
        near(self.rate(), rate);
    }

    /// Plays one step, with the model if there is one, and checks what always holds.
    fn play(&mut self, op: &Op, mut model: Option<&mut Model>) -> Result<(), TestCaseError> {
        let epoch = self.it.epoch();
        match op {
            Op::Arrive(arrived, good) => {
                self.arrive(*arrived, *good);
                if let Some(it) = model {
                    it.tally(*arrived, *good, self.parked, self.now);
                }
            }
            Op::Look(took) => {
                self.it.saw_good(self.now);
                self.it.learn(*took);
                if let Some(it) = model {
                    it.look(*took, self.now);
                }
            }
            Op::Send => self.send(model)?,
            Op::SendNext => {
                if let Err(Some(at)) = self.it.next(self.now, self.patience) {
                    self.now = at;
                }
                self.send(model)?;
            }
            Op::Answer(which, answer) => {
                let Some(ticket) = self.take(*which) else {
                    return Ok(());
                };
                let step = self.answer(ticket, *answer);
                if let Some(it) = &mut model {
                    let expected = it.answered(ticket, *answer, self.parked, self.now);
                    prop_assert_eq!(step, expected);
                }
            }
            Op::Drop(which) => {
                let Some(ticket) = self.take(*which) else {
                    return Ok(());
                };
                self.it.dropped(ticket);
                if let Some(it) = model {
                    it.dropped(ticket);
                }
            }
            Op::Park(parked) => self.parked = *parked,
            Op::Ask => {
                self.it.asked(self.now);
                if let Some(it) = model {
                    it.asked(self.now);
                }
            }
            Op::Wait(length) => self.now += *length,
        }
        prop_assert!(self.it.epoch() >= epoch);
        if let Some(until) = self.it.quiet_until(self.now) {
            let next = self.it.next(self.now, self.patience);
            prop_assert!(
                matches!(next, Err(Some(at)) if at >= until),
                "{next:?} {until:?}"
            );
        }
        Ok(())
    }

    fn send(&mut self, model: Option<&mut Model>) -> Result<(), TestCaseError> {
        if self.it.next(self.now, self.patience).is_err() {
            return Ok(());
        }
        let lost = model.as_ref().map(|it| it.last_sent);
        let ticket = self.it.send(self.now, &mut self.draws);
        self.sent.push(ticket);
        if let Some(it) = model {
            prop_assert_eq!(ticket, it.send(self.now));
        }
        if let (Some(lost), Some(window)) = (lost, self.it.window()) {
            let most = window.floor().max(1.0);
            let has_lost = lost.is_some_and(|sent| sent + self.patience <= self.now);
            prop_assert!(has_lost || f64::from(self.it.in_flight()) <= most);
        }
        Ok(())
    }

    fn take(&mut self, which: Index) -> Option<Ticket> {
        let count = self.sent.len();
        (count > 0).then(|| self.sent.swap_remove(which.index(count)))
    }

    fn is_as(&self, model: &Model) -> Result<(), TestCaseError> {
        let it = &self.it;
        prop_assert_eq!((it.is_open(), it.epoch()), (model.open, model.epoch));
        prop_assert_eq!(it.in_flight(), model.in_flight);
        prop_assert_eq!(it.window(), (!model.open).then(|| model.window()));
        let times = (it.usual(), it.known_usual(), it.least_time());
        let usual = model.usual.unwrap_or(0.0);
        let known = if model.lessons < 16 { 0.0 } else { usual };
        prop_assert_eq!(times, (usual, known, model.least_time()));
        prop_assert_eq!(Some(it.demand()), Some(model.demand()));
        prop_assert_eq!(it.quiet_end(), model.quiet_until);
        prop_assert!(it.is_open() || it.why() == model.why);
        for ahead in [0, 1, 100, 3000] {
            let now = self.now + ahead * MS;
            let next = it.next(now, self.patience);
            prop_assert_eq!(next, model.next(now, self.patience));
        }
        Ok(())
    }

    fn is_like(&self, other: &Self) -> Result<(), TestCaseError> {
        let tell = |rig: &Self| {
            let (it, since) = (&rig.it, |at: Instant| at - rig.zero);
            let next = it.next(rig.now, rig.patience).map_err(|at| at.map(since));
            let numbers = [
                it.window().unwrap_or(0.0),
                it.usual(),
                it.least_time(),
                it.demand(),
            ];
            (
                it.is_open(),
                it.epoch(),
                it.in_flight(),
                it.why(),
                next,
                numbers,
            )
        };
        prop_assert_eq!(tell(self), tell(other));
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Op {
    /// So many arrived, and so many good answers came unseen.
    Arrive(u64, u64),
    /// A good answer is looked at.
    Look(f64),
    Send,
    /// As soon as one may go.
    SendNext,
    Answer(Index, Answer),
    Drop(Index),
    Park(bool),
    Ask,
    Wait(Duration),
}

/// Up to 200 steps, in stretches of better and worse times.
fn schedule() -> impl Strategy<Value = Vec<Op>> {
    let share = || prop_oneof![3 => Just(0.0), 1 => Just(1.0), 1 => 0.0..=1.0];
    let stretch = (share(), share()).prop_flat_map(|(bad, slow)| vec(op(bad, slow), 10..=40));
    vec(stretch, 1..=5).prop_map(|stretches| stretches.concat())
}

fn op(bad: f64, slow: f64) -> impl Strategy<Value = Op> {
    let edges = [NANO, just_below(500 * MS), 500 * MS, 1000 * MS, 2000 * MS];
    let wait = prop_oneof![
        8 => (0..200_u32).prop_map(|ms| ms * MS),
        3 => (0..4000_u32).prop_map(|ms| ms * MS),
        2 => prop::sample::select(edges.to_vec()),
        1 => (0..7200_u32).prop_map(|seconds| seconds * 1000 * MS),
        1 => Just(100 * 24 * 60 * MINUTE),
    ];
    let good = prop_oneof![4 => Just(0), 1 => 0..20_u64];
    prop_oneof![
        2 => (0..100_u64, good).prop_map(|(arrived, good)| Op::Arrive(arrived, good)),
        1 => (0.0..2.0).prop_map(Op::Look),
        6 => Just(Op::Send),
        16 => Just(Op::SendNext),
        20 => (any::<Index>(), answer(bad, slow)).prop_map(|(which, it)| Op::Answer(which, it)),
        1 => any::<Index>().prop_map(Op::Drop),
        1 => any::<bool>().prop_map(Op::Park),
        1 => Just(Op::Ask),
        2 => wait.prop_map(Op::Wait),
    ]
}

fn answer(bad: f64, slow: f64) -> impl Strategy<Value = Answer> {
    let quiet = prop_oneof![
        20 => Just(None),
        1 => (1..300_000_u32).prop_map(|ms| Some(ms * MS)),
        1 => (1..6000_u32).prop_map(|ms| Some(ms * MS)),
    ];
    let took = prop::option::of(prop_oneof![0.0..0.2, 0.0..3.0]);
    let believable = prop_oneof![Just(f64::INFINITY), Just(0.35), Just(0.0)];
    let is = prop::bool::weighted;
    (is(bad), is(slow), took, believable, quiet).prop_map(
        |(failed, late, took, believable, quiet)| Answer {
            failed,
            late,
            took,
            latency: took.filter(|_| !failed),
            believable,
            quiet: quiet.filter(|_| failed),
        },
    )
}

fn patience() -> impl Strategy<Value = Duration> {
    prop::sample::select(std::vec![100 * MS, 1000 * MS, 10_000 * MS])
}

/// Anything, in any order, at any time.
#[derive(Clone, Debug)]
enum Wild {
    Tally(u64, u64, bool),
    Ask,
    Send,
    Drop(bool),
    Answer(Answer, bool, bool),
}

fn wild() -> impl Strategy<Value = (Wild, Duration)> {
    let count = || prop_oneof![0..3_u64, Just(u64::MAX)];
    let seconds = || {
        prop_oneof![
            Just(0.0),
            Just(f64::MIN_POSITIVE),
            0.0..10.0,
            Just(Duration::MAX.as_secs_f64())
        ]
    };
    let quiet = prop_oneof![0..600_u64, Just(u64::MAX)].prop_map(Duration::from_secs);
    let answer = (
        any::<(bool, bool)>(),
        prop::option::of(seconds()),
        seconds(),
        prop::option::of(quiet),
    );
    let answer = answer.prop_map(|((failed, late), took, believable, quiet)| Answer {
        failed,
        late,
        took,
        latency: took,
        believable,
        quiet,
    });
    let op = prop_oneof![
        (count(), count(), any::<bool>())
            .prop_map(|(arrived, good, parked)| Wild::Tally(arrived, good, parked)),
        Just(Wild::Ask),
        Just(Wild::Send),
        any::<bool>().prop_map(Wild::Drop),
        (answer, any::<bool>(), any::<bool>())
            .prop_map(|(it, parked, counted)| Wild::Answer(it, parked, counted)),
    ];
    let at = prop_oneof![
        (0..10_000_u64).prop_map(Duration::from_millis),
        (0..1_000_000_000_u64).prop_map(Duration::from_secs),
        Just(Duration::MAX),
    ];
    (op, at)
}

fn trip(rig: &mut Rig) {
    let epoch = rig.it.epoch();
    while rig.it.is_open() || rig.it.epoch() == epoch {
        rig.fail();
    }
}

fn record(window: &Window, verdict: Verdict, now: Instant) {
    record_in(window, verdict, MS, now);
}

fn record_in(window: &Window, verdict: Verdict, latency: Duration, now: Instant) {
    let permit = window.try_acquire(now).expect("it is open");
    let _ = permit.record(verdict, latency, now);
}

/// Calls that have been counted.
fn arrived(window: &Window) -> u64 {
    let shared = &window.shared;
    shared.good.load(Ordering::Relaxed) + shared.arrived.load(Ordering::Relaxed)
}

#[track_caller]
fn near(is: f64, should_be: f64) {
    assert!(
        (is - should_be).abs() <= 1e-9 * should_be,
        "{is}, not {should_be}"
    );
}

fn just_below(length: Duration) -> Duration {
    length.saturating_sub(NANO)
}

fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

const GOOD: Answer = Answer {
    failed: false,
    late: false,
    took: None,
    latency: None,
    believable: f64::INFINITY,
    quiet: None,
};
const FAILED: Answer = Answer {
    failed: true,
    ..GOOD
};
const TIMED_OUT: Answer = Answer {
    late: true,
    took: Some(1.0),
    ..FAILED
};

const NANO: Duration = Duration::from_nanos(1);
const MS: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

// The model.

/// The rules, slowly: it keeps all that ever happened, and works out from it what holds now.
#[allow(clippy::struct_excessive_bools)] // as the rules have them
struct Model {
    open: bool,
    why: Why,
    epoch: u64,
    rate: f64,
    threshold: f64,
    /// Good answers since the rate last grew.
    grown: u32,
    any_good: bool,
    answers: Vec<Seen>,
    /// How many answers there were when it last forgot them all.
    forgotten: usize,
    arrivals: Vec<(Instant, u64)>,
    /// The demand when it was last limited from open.
    wanted: f64,
    parked: bool,
    limited_at: Option<Instant>,
    last_good: Option<Instant>,
    /// Of those that were only counted the moment isn't known.
    perhaps_good: Option<Instant>,
    usual: Option<f64>,
    lessons: u32,
    recent: Option<f64>,
    learned: Option<Instant>,
    cheap: bool,
    in_flight: u32,
    last_sent: Option<Instant>,
    pause: Option<(Instant, f64)>,
    quiet_until: Option<Instant>,
    draws: Draws,
}

#[derive(Clone, Copy)]
struct Seen {
    at: Instant,
    failed: bool,
    late: bool,
}

impl Model {
    fn new(seed: u64) -> Self {
        Self {
            open: true,
            why: Why::Failures,
            epoch: 0,
            rate: 0.0,
            threshold: 0.0,
            grown: 0,
            any_good: false,
            answers: Vec::new(),
            forgotten: 0,
            arrivals: Vec::new(),
            wanted: 0.0,
            parked: false,
            limited_at: None,
            last_good: None,
            perhaps_good: None,
            usual: None,
            lessons: 0,
            recent: None,
            learned: None,
            cheap: false,
            in_flight: 0,
            last_sent: None,
            pause: None,
            quiet_until: None,
            draws: Rng::seeded(seed).draws(),
        }
    }

    /// The answers that are evidence: the last 15 since it forgot them, and of those older than two
    /// seconds only the last three, for ten minutes.
    fn evidence(&self) -> Vec<Seen> {
        let Some((first, last)) = self.answers.first().zip(self.answers.last()) else {
            return Vec::new();
        };
        let millis = |seen: &Seen| (seen.at - first.at).as_millis();
        let mut evidence = self.answers[self.forgotten..].to_vec();
        evidence.reverse();
        evidence.truncate(15);
        let mut back = 0..;
        evidence.retain(|seen| {
            let longest = if back.next() < Some(3) { 600_000 } else { 2000 };
            millis(last) - millis(seen) <= longest
        });
        evidence
    }

    /// How many more were late than in time, since they last were as many, and since the last silence
    /// of ten minutes.
    fn late(&self) -> usize {
        let Some(first) = self.answers.first() else {
            return 0;
        };
        let millis = |seen: &Seen| (seen.at - first.at).as_millis();
        let (mut late, mut last) = (0_usize, None);
        for seen in &self.answers[self.forgotten..] {
            if last.is_some_and(|last| millis(seen) - last > 600_000) {
                late = 0;
            }
            late = if seen.late {
                late + 1
            } else {
                late.saturating_sub(1)
            };
            last = Some(millis(seen));
        }
        late
    }

    /// Who waits in line wants no less than before.
    fn demand(&self) -> f64 {
        let is_held = self.parked && !self.open;
        self.arriving().max(if is_held { self.wanted } else { 0.0 })
    }

    /// A mean that forgets in twenty seconds. One younger than that is a plain one, also after a
    /// longer silence.
    #[allow(clippy::cast_precision_loss)]
    fn arriving(&self) -> f64 {
        let Some(&(mut began, _)) = self.arrivals.first() else {
            return 0.0;
        };
        let (mut rate, mut last, mut fresh) = (0.0, began, 0);
        for &(at, arrived) in &self.arrivals {
            fresh += arrived;
            let (passed, age) = ((at - last).as_secs_f64(), (at - began).as_secs_f64());
            if passed == 0.0 && rate == 0.0 {
                rate = fresh as f64;
            } else if passed >= 0.1 || rate == 0.0 {
                let weight = f64::max(passed / (passed + 20.0), passed / age.max(1.0));
                rate += weight * (fresh as f64 / passed - rate);
            } else {
                continue;
            }
            if passed > 20.0 {
                began = at;
            }
            (last, fresh) = (at, 0);
        }
        rate
    }

    /// A fifth of the demand; for small clients all of it, if failures are cheap.
    fn floor(&self) -> f64 {
        let demand = self.demand();
        let cheap = f64::min(demand, 0.8);
        f64::max(demand * 0.2, if self.cheap { cheap } else { 0.0 })
    }

    fn window(&self) -> f64 {
        self.rate * self.usual.unwrap_or(0.1)
    }

    fn least_time(&self) -> f64 {
        let usual = self.usual.unwrap_or(0.0);
        2.0 * self.recent.unwrap_or(usual).max(usual)
    }

    fn gap(&self, share: f64) -> Duration {
        let (gap, most) = (share / self.rate, if self.cheap { 5.0 } else { 20.0 });
        secs(if gap < most { gap } else { most })
    }

    fn turn(&self) -> Option<Instant> {
        let (began, share) = self.pause?;
        Some(began + self.gap(share))
    }

    fn next(&self, now: Instant, patience: Duration) -> Result<(), Option<Instant>> {
        let earliest = self.turn().max(self.quiet_until);
        let lost = self.last_sent.map(|sent| sent + patience);
        let is_full = f64::from(self.in_flight) >= self.window().floor().max(1.0);
        match (earliest, lost) {
            _ if self.open => Ok(()),
            (Some(earliest), _) if now < earliest => Err(Some(earliest)),
            (_, Some(lost)) if is_full && now < lost => Err(Some(lost)),
            _ => Ok(()),
        }
    }

    fn send(&mut self, now: Instant) -> Ticket {
        let (epoch, counted) = (self.epoch, !self.open);
        if counted {
            self.in_flight += 1;
            self.last_sent = Some(now);
            let credit = self.turn().map_or(Duration::ZERO, |due| now - due);
            let began = now.checked_sub(credit.min(5 * MS)).expect("it began");
            self.pause = Some((began, 0.5 + self.fraction()));
        }
        Ticket { epoch, counted }
    }

    fn dropped(&mut self, ticket: Ticket) {
        self.in_flight -= u32::from(ticket.counted);
    }

    fn tally(&mut self, arrived: u64, good: u64, parked: bool, at: Instant) {
        self.parked = parked;
        self.arrivals.push((at, arrived));
        let (failed, late) = (false, false);
        (0..good).for_each(|_| self.answers.push(Seen { at, failed, late }));
        if good > 0 {
            self.perhaps_good = Some(at);
        }
    }

    fn look(&mut self, took: f64, now: Instant) {
        self.last_good = Some(now);
        self.perhaps_good = Some(now);
        self.learn(0.02, took);
    }

    fn learn(&mut self, weight: f64, latency: f64) {
        self.lessons += 1;
        let weight = weight.max(1.0 / f64::from(self.lessons));
        let usual = self.usual.unwrap_or(latency);
        self.usual = Some(usual + weight * (latency - usual));
    }

    fn answered(&mut self, ticket: Ticket, it: Answer, parked: bool, at: Instant) -> Option<Step> {
        self.dropped(ticket);
        let others_are_good = self.last_good.is_some_and(|good| at - good < 500 * MS);
        let heard = it.quiet.filter(|quiet| self.open || *quiet > self.gap(1.0));
        if let (Some(quiet), false) = (heard, others_are_good) {
            let is_news = self
                .quiet_until
                .is_none_or(|until| until <= at || until < at + quiet);
            return is_news.then(|| self.be_quiet(at, at + quiet));
        }
        if !it.failed {
            self.last_good = Some(at);
            self.perhaps_good = Some(at);
        }
        if ticket.epoch != self.epoch {
            return None;
        }
        let (failed, late) = (it.failed, it.late);
        self.answers.push(Seen { at, failed, late });
        if let (Some(took), true) = (it.took, late || !failed) {
            let recent = self.recent.or(self.usual).unwrap_or(0.0);
            self.recent = Some(recent + 0.2 * (took - recent));
        }
        if failed {
            let usual = self.usual.unwrap_or(0.0);
            self.cheap = !late && it.took.is_some_and(|took| took < usual / 4.0);
        }
        if let Some(latency) = it.latency {
            self.learn_from(latency, late, it.believable, at);
        }
        let evidence = self.evidence();
        let count = evidence.len();
        let failures = evidence.iter().filter(|seen| seen.failed).count();
        let enough = if self.open {
            5.0
        } else {
            self.rate.clamp(2.0, 4.0)
        };
        let least = if self.open { 3 } else { 2 };
        let is_alone = |took: f64| {
            self.perhaps_good
                .is_none_or(|good| (at - good).as_secs_f64() >= 2.0 * took)
        };
        let is_lost = failed && late && it.took.is_some_and(is_alone);
        if count >= least && failures * 10 > count * 6 || is_lost {
            Some(self.decrease(Why::Failures, failures, count, at))
        } else if short(self.late()) >= enough {
            Some(self.decrease(Why::Latency, failures, count, at))
        } else if failed || late || self.open {
            None
        } else {
            self.grow(parked)
        }
    }

    fn learn_from(&mut self, latency: f64, late: bool, believable: f64, at: Instant) {
        let last = self.learned.unwrap_or(at);
        self.learned = Some(at);
        match self.usual {
            _ if self.open => self.learn(if late { 0.0 } else { 0.02 }, latency),
            Some(usual) if self.rate > 2.0 * self.floor() => {
                let passed = (at - last).as_secs_f64().min(1.0);
                self.learn(passed / (passed + 20.0), latency.min(believable.max(usual)));
            }
            _ => self.learn(0.1, latency),
        }
    }

    fn be_quiet(&mut self, at: Instant, until: Instant) -> Step {
        if self.open {
            self.wanted = self.arriving();
            self.rate = self.wanted.max(self.floor());
            self.threshold = 0.8 * self.rate;
        }
        self.limited_at = Some(at);
        (self.open, self.why) = (false, Why::Quiet);
        self.quiet_until = Some(until);
        self.pause = Some((until, self.fraction()));
        self.begin_epoch();
        Step::Quiet
    }

    fn decrease(&mut self, why: Why, failures: usize, count: usize, at: Instant) -> Step {
        let was_open = self.open;
        self.limited_at = Some(at);
        if was_open {
            self.open = false;
            self.wanted = self.arriving();
            self.rate = self.wanted;
            self.threshold = self.rate;
            self.pause = Some((at, 0.5 + self.fraction()));
        } else {
            if !self.parked {
                self.rate = self.rate.min(self.arriving());
            }
            if self.any_good {
                self.threshold = 0.8 * self.rate;
            }
        }
        let share = short(failures) / short(count);
        self.rate = f64::max(self.rate * (0.65 - 0.1 * share), self.floor());
        (self.open, self.why, self.any_good) = (false, why, false);
        self.begin_epoch();
        if was_open {
            Step::Limited
        } else {
            Step::Shrunk
        }
    }

    /// Ten minutes after all that it knows of, it begins anew.
    fn asked(&mut self, at: Instant) {
        let last = self.limited_at.max(self.last_sent).max(self.quiet_until);
        let is_old = last.is_some_and(|last| at > last + 10 * MINUTE);
        if !self.open && self.in_flight == 0 && is_old {
            self.open = true;
            self.begin_epoch();
        }
    }

    fn begin_epoch(&mut self) {
        self.epoch += 1;
        self.grown = 0;
        self.forgotten = self.answers.len();
    }

    fn grow(&mut self, parked: bool) -> Option<Step> {
        self.any_good = true;
        self.grown += 1;
        if f64::from(self.grown) >= self.window().max(1.0) {
            self.grown = 0;
            let grown = if self.rate < self.threshold {
                f64::min(4.0 * self.rate, self.threshold)
            } else {
                1.3 * self.rate
            };
            self.rate = f64::max(grown, self.rate + 0.4);
        }
        self.rate = self.rate.min(f64::max(3.0 * self.demand(), self.floor()));
        if parked || self.rate < 3.0 * self.demand() {
            return None;
        }
        self.open = true;
        self.recent = None;
        self.forgotten = self.answers.len();
        Some(Step::Opened)
    }

    /// Uniform in 0 to 1.
    #[allow(clippy::cast_precision_loss)]
    fn fraction(&mut self) -> f64 {
        (self.draws.next_u64() >> 11) as f64 / 2_f64.powi(53)
    }
}

fn short(count: usize) -> f64 {
    u16::try_from(count).expect("it is short").into()
}

#[test]
fn a_check_in_line_is_no_demand_and_nobody_parked() {
    let (window, now) = (Window::new(), Instant::now());
    for _ in 0..3 {
        let permit = window.try_acquire(now).expect("it is open");
        let _ = permit.record(Verdict::transient(), Duration::from_millis(80), now);
    }
    let (clock, rng) = (Clock::tokio(), Rng::seeded(1));
    let mut ask = Ask {
        clock: &clock,
        moment: Some(now),
        rng: &rng,
        waker: Waker::noop(),
        latest: None,
        attempt: 1,
        timeout: None,
        priority: Priority::Normal,
        purpose: Purpose::Check { first: true },
        news: None,
    };
    let limiter = |of: fn(&super::Limiter) -> bool| window.shared.room.look(of);
    let arrived = || window.shared.arrived.load(Ordering::Relaxed);
    let before = arrived();
    let (mut check, mut call, mut other) = (None, None, None);
    assert!(matches!(
        window.ask(&mut check, &mut ask),
        gate::Answer::Wait(_)
    ));
    assert_eq!(arrived(), before);
    assert!(!limiter(|it| it.parked), "a check is nobody");

    ask.purpose = Purpose::Call;
    assert!(matches!(
        window.ask(&mut call, &mut ask),
        gate::Answer::Wait(_)
    ));
    assert_eq!(arrived(), before + 1);
    assert!(limiter(|it| it.parked));
    // One that doesn't go first stands where it came, and counts for as little.
    ask.purpose = Purpose::Check { first: false };
    assert!(matches!(
        window.ask(&mut other, &mut ask),
        gate::Answer::Wait(_)
    ));
    assert_eq!(arrived(), before + 1);
    window.leave(other.expect("it is in line"));
    window.leave(call.expect("it is in line"));
    assert!(!limiter(|it| it.parked), "only the check is left");
    window.leave(check.expect("it is in line"));
    assert_eq!(window.snapshot().parked, 0);
}
