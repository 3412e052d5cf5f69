use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::backoff::{Backoff, Jitter};
use crate::rng::Rng;

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn list(names: impl IntoIterator<Item = usize>) -> Vec<Arc<Endpoint>> {
    let endpoint = |name: usize| Arc::new(Endpoint::named(name.to_string()));
    names.into_iter().map(endpoint).collect()
}

fn just_before(at: Instant) -> Instant {
    at.checked_sub(Duration::from_nanos(1))
        .expect("no beginning of time")
}

/// Whose lengths are known.
fn settings() -> Settings {
    Settings {
        cooldown: Backoff::exponential(ms(1000))
            .max_delay(ms(8000))
            .jitter(Jitter::None),
        ..Settings::default()
    }
}

/// A set, its clock, and what is out.
struct Played {
    set: Set,
    settings: Settings,
    draws: Draws,
    now: Instant,
}

impl Played {
    fn of(count: usize) -> Self {
        Self {
            set: Set::new(&list(0..count)),
            settings: settings(),
            draws: Rng::seeded(7).draws(),
            now: Instant::now(),
        }
    }

    fn pick_but(&mut self, tried: &[Id]) -> (Ticket, Option<Change>) {
        let Self {
            set,
            settings,
            draws,
            now,
        } = self;
        set.pick(tried, settings, *now, draws).expect("not empty")
    }

    fn pick(&mut self) -> Ticket {
        self.pick_but(&[]).0
    }

    fn ends(&mut self, ticket: Ticket, kind: Kind, hint: Option<Duration>) -> Option<Change> {
        let ended = Ended {
            kind,
            hint,
            latency: Some(ms(10)),
        };
        let Self { set, settings, .. } = self;
        set.record(ticket, ended, settings, self.now, || Rng::seeded(1).draws())
            .0
    }

    /// One call after another of which those to `bad` fail, until one of them ejects it.
    fn eject(&mut self, bad: usize) -> Change {
        for _ in 0..1000 {
            let ticket = self.pick();
            let kind = if ticket.slot as usize == bad {
                Kind::Overloaded
            } else {
                Kind::Success
            };
            if let Some(change) = self.ends(ticket, kind, None) {
                return change;
            }
            self.now += ms(20);
        }
        panic!("never ejected");
    }

    fn state(&self, slot: usize) -> State {
        let all = self.set.snapshot(&self.settings, self.now);
        let found = all.iter().find(|it| it.id.index() == slot);
        found.expect("an endpoint in this place").state
    }

    fn in_flight(&self) -> u32 {
        let all = self.set.snapshot(&self.settings, self.now);
        all.iter().map(|it| it.in_flight).sum()
    }

    /// How often each of so many is chosen by calls one after another that take this long.
    fn shares(&mut self, calls: u32, takes: impl Fn(usize) -> Duration) -> Vec<f64> {
        let mut counts = vec![0_u32; self.set.slots.len()];
        for _ in 0..calls {
            let ticket = self.pick();
            let took = takes(ticket.slot as usize);
            counts[ticket.slot as usize] += 1;
            self.now += took;
            let ended = Ended {
                kind: Kind::Success,
                hint: None,
                latency: Some(took),
            };
            let Self { set, settings, .. } = self;
            set.record(ticket, ended, settings, self.now, || unreachable!());
        }
        let share = |count| f64::from(count) / f64::from(calls);
        counts.into_iter().map(share).collect()
    }
}

#[test]
fn equals_get_equal_shares() {
    for count in [2, 3, 10] {
        let shares = Played::of(count).shares(20_000, |_| ms(10));
        let fair = 1.0 / f64::from(u32::try_from(count).expect("few"));
        for share in shares {
            assert!((share / fair - 1.0).abs() < 0.1, "{share} of {fair}");
        }
    }
}

#[test]
fn a_little_slower_is_no_reason_to_starve() {
    let shares = Played::of(2).shares(20_000, |slot| if slot == 0 { ms(102) } else { ms(100) });
    assert!(shares[0] > 0.4, "{shares:?}");
}

#[test]
fn what_is_ten_times_slower_gets_a_tenth_of_its_share_at_most_and_not_nothing() {
    for count in [2, 10] {
        let shares =
            Played::of(count).shares(20_000, |slot| if slot == 0 { ms(100) } else { ms(10) });
        assert!(shares[0] < shares[1] / 10.0, "{shares:?}");
        assert!(shares[0] > 0.0, "{shares:?}");
    }
}

#[test]
fn a_slow_one_that_is_quick_again_gets_its_share_again() {
    let mut played = Played::of(4);
    let before = played.shares(5_000, |slot| if slot == 0 { ms(300) } else { ms(10) });
    assert!(before[0] < 0.03, "{before:?}");
    let _ = played.shares(5_000, |_| ms(10));
    let after = played.shares(5_000, |_| ms(10));
    assert!(after[0] > 0.2, "{after:?}");
}

#[test]
fn what_is_busy_is_asked_less() {
    let mut played = Played::of(10);
    for _ in 0..1000 {
        let _ = played.pick();
    }
    let all = played.set.snapshot(&played.settings, played.now);
    // A random choice leaves them 60 apart.
    assert!(
        all.iter().all(|it| (90..=110).contains(&it.in_flight)),
        "{all:?}"
    );
}

#[test]
fn of_one_endpoint_there_is_no_choice_and_no_ejection() {
    let mut played = Played::of(1);
    let mut tried = Vec::new();
    for _ in 0..100 {
        let (ticket, change) = played.pick_but(&tried);
        assert_eq!((ticket.slot, change), (0, None));
        tried = vec![played.set.id_of(ticket)];
        assert_eq!(played.ends(ticket, Kind::Transient, None), None);
    }
    assert_eq!(played.state(0), State::Healthy);
}

#[test]
fn one_of_two_may_be_ejected_and_the_other_may_not() {
    let mut played = Played::of(2);
    assert!(matches!(played.eject(0), Change::Ejected { .. }));
    for _ in 0..100 {
        let ticket = played.pick();
        assert_eq!(ticket.slot, 1);
        assert_eq!(played.ends(ticket, Kind::Overloaded, None), None);
    }
}

#[test]
fn where_all_fail_nobody_is_ejected() {
    let mut played = Played::of(10);
    // Well before, as services are.
    let _ = played.shares(1_000, |_| ms(10));
    for _ in 0..10_000 {
        let ticket = played.pick();
        assert_eq!(played.ends(ticket, Kind::Transient, None), None);
        played.now += ms(1);
    }
}

#[test]
fn half_are_ejected_at_most() {
    let mut played = Played::of(9);
    for _ in 0..20_000 {
        let ticket = played.pick();
        // All but two.
        let kind = if ticket.slot < 7 {
            Kind::Transient
        } else {
            Kind::Success
        };
        played.ends(ticket, kind, None);
        played.now += ms(1);
        assert!(played.set.without.len() <= 4);
    }
    assert!(!played.set.without.is_empty());
}

#[test]
fn three_failures_in_a_row_eject_and_what_fails_at_once_does_not_win() {
    let mut played = Played::of(10);
    let _ = played.shares(100, |_| ms(10));
    let mut failures = 0;
    for _ in 0..1_000 {
        let ticket = played.pick();
        let bad = ticket.slot == 0;
        failures += u32::from(bad);
        let kind = if bad { Kind::Overloaded } else { Kind::Success };
        let change = played.ends(ticket, kind, None);
        played.now += ms(10);
        if let Some(change) = change {
            let why = Why::ConsecutiveFailures;
            assert!(matches!(change, Change::Ejected { why: it, .. } if it == why));
            assert_eq!(failures, 3);
            return;
        }
    }
    // It was asked so little that it came to less than three.
    assert!(failures < 3);
}

#[test]
fn a_probe_goes_out_exactly_when_the_time_is_over_and_alone() {
    let mut played = Played::of(3);
    let Change::Ejected {
        length, endpoint, ..
    } = played.eject(0)
    else {
        panic!("ejected");
    };
    assert_eq!(length, ms(1000));
    let over = played.now + length;
    played.now = just_before(over);
    for _ in 0..50 {
        let ticket = played.pick();
        assert_ne!(ticket.slot, 0);
        played.set.abandon(ticket);
    }
    played.now = over;
    let (retry, none) = played.pick_but(&[Id {
        slot: 1,
        ..endpoint
    }]);
    assert!(retry.slot != 0 && none.is_none(), "a retry is no probe");
    let (probe, change) = played.pick_but(&[]);
    assert_eq!(
        (probe.slot, change),
        (0, Some(Change::Probing { endpoint }))
    );
    assert!(played.set.is_probing(probe) && !played.set.is_probing(retry));
    for _ in 0..50 {
        assert_ne!(played.pick().slot, 0, "one is enough");
    }
    assert_eq!(
        played.ends(probe, Kind::RequestFault, None),
        Some(Change::Returned { endpoint })
    );
    assert_eq!(played.state(0), State::Returning { share: LEAST_SHARE });
}

#[test]
fn a_retry_probes_only_if_the_call_failed_everywhere_else() {
    let mut played = Played::of(3);
    let endpoint = played.eject(0).endpoint();
    played.now += ms(1000);
    let others: Vec<_> = played.set.slots[1..].iter().map(|it| it.id).collect();
    for tried in [&others[..1], &others[1..], &[endpoint]] {
        let (ticket, change) = played.pick_but(tried);
        assert_eq!((change, ticket.slot == 0), (None, false));
        played.set.abandon(ticket);
    }
    let (probe, change) = played.pick_but(&others);
    assert_eq!(
        (probe.slot, change),
        (0, Some(Change::Probing { endpoint }))
    );
}

#[test]
fn each_failed_probe_ejects_for_longer_and_a_long_health_forgets_it() {
    let mut played = Played::of(3);
    played.eject(0);
    for expected in [2000, 4000, 8000, 8000] {
        played.now += ms(8000);
        let probe = played.pick();
        let change = played.ends(probe, Kind::Transient, None);
        assert!(
            matches!(change, Some(Change::Ejected { why: Why::ProbeFailed, length, .. }) if length == ms(expected)),
            "{change:?}"
        );
    }
    for (healthy, expected) in [(59_999, 8000), (60_000, 1000)] {
        played.now += ms(8000);
        let probe = played.pick();
        played.ends(probe, Kind::Success, None);
        let since = played.now;
        let at = since + ms(healthy);
        let Played { set, settings, .. } = &mut played;
        let mut draws = Rng::seeded(1).draws();
        assert_eq!(
            set.eject(0, Duration::ZERO, settings, at, &mut draws),
            ms(expected)
        );
        played.now = at;
    }
}

#[test]
fn a_servers_hint_keeps_it_out_at_least_as_long_up_to_what_is_believed() {
    for (hint, expected) in [
        (ms(10), ms(1000)),
        (ms(90_000), ms(90_000)),
        (ms(900_000), ms(300_000)),
    ] {
        let mut played = Played::of(2);
        let mut change = None;
        while change.is_none() {
            let ticket = played.pick();
            let bad = ticket.slot == 0;
            let kind = if bad { Kind::Overloaded } else { Kind::Success };
            change = played.ends(ticket, kind, bad.then_some(hint));
            played.now += ms(20);
        }
        assert!(
            matches!(change, Some(Change::Ejected { length, .. }) if length == expected),
            "{change:?}"
        );
    }
}

#[test]
fn a_dropped_probe_leaves_its_place_to_the_next_and_so_does_a_rate_limited_one() {
    let mut played = Played::of(2);
    played.eject(0);
    played.now += ms(1000);
    let probe = played.pick();
    played.set.abandon(probe);
    let probe = played.pick();
    assert_eq!(probe.slot, 0);
    assert_eq!(played.ends(probe, Kind::RateLimited, None), None);
    assert_eq!(played.pick().slot, 0);
}

#[test]
fn a_lost_probe_ejects_again_and_its_late_answer_lets_it_in() {
    let mut played = Played::of(2);
    let endpoint = played.eject(0).endpoint();
    played.now += ms(1000);
    let probe = played.pick();
    let lapses = played.now + settings().probe_timeout;
    played.now = just_before(lapses);
    assert_eq!(played.pick_but(&[]).1, None);
    played.now = lapses;
    let (other, change) = played.pick_but(&[]);
    let lost = Change::Ejected {
        endpoint,
        why: Why::ProbeLost,
        length: ms(2000),
    };
    assert_eq!((other.slot, change), (1, Some(lost)));
    let answer = played.ends(probe, Kind::Success, None);
    assert_eq!(answer, Some(Change::Returned { endpoint }));

    // The failure of a lost one was counted already.
    let mut played = Played::of(2);
    played.eject(0);
    played.now += ms(1000);
    let [early, late] = [(); 2].map(|()| {
        let probe = played.pick();
        assert!(played.set.is_probing(probe));
        played.now += settings().probe_timeout;
        let lost = played.pick_but(&[]).1.expect("lost");
        let Change::Ejected { length, .. } = lost else {
            panic!("{lost:?}");
        };
        if length == ms(2000) {
            played.now += length;
        }
        probe
    });
    assert_eq!(played.ends(late, Kind::Transient, None), None);
    assert_eq!(played.state(0), State::Ejected { left: ms(4000) });
    // And the answer of one before the last decides nothing.
    assert_eq!(played.ends(early, Kind::Success, None), None);
    assert_eq!(played.state(0), State::Ejected { left: ms(4000) });
}

#[test]
fn a_wrong_request_that_is_answered_at_once_makes_nothing_quicker() {
    let mut played = Played::of(1);
    let _ = played.shares(10, |_| ms(100));
    let latency = |played: &Played| {
        let all = played.set.snapshot(&played.settings, played.now);
        (all[0].latency, all[0].failures.to_bits())
    };
    let before = latency(&played);
    for kind in [Kind::RequestFault, Kind::RateLimited] {
        let ticket = played.pick();
        assert_eq!(played.ends(ticket, kind, None), None);
        assert_eq!(latency(&played).0, before.0);
    }
    assert!(
        latency(&played).1 > before.1,
        "who has no more to give is asked less"
    );
}

#[test]
fn what_was_sent_before_an_ejection_decides_nothing_after_it() {
    let mut played = Played::of(2);
    let mut early = Vec::new();
    while early.len() < 30 {
        let ticket = played.pick();
        if ticket.slot == 0 {
            early.push(ticket);
        } else {
            played.set.abandon(ticket);
        }
    }
    let mut draws = Rng::seeded(1).draws();
    let (set, now) = (&mut played.set, played.now);
    set.eject(0, Duration::ZERO, &settings(), now, &mut draws);
    let [success, failure] = [early.pop(), early.pop()].map(|it| it.expect("thirty"));
    assert_eq!(played.ends(success, Kind::Success, None), None);
    assert_eq!(played.ends(failure, Kind::Transient, None), None);
    assert!(matches!(played.state(0), State::Ejected { .. }));
    // Nor does it fail a probe, or once it is back.
    played.now += ms(1000);
    let probe = played.pick();
    let late = early.pop().expect("more");
    assert_eq!(played.ends(late, Kind::Transient, None), None);
    assert!(played.set.is_probing(probe));
    played.ends(probe, Kind::Success, None);
    for late in early {
        assert_eq!(played.ends(late, Kind::Transient, None), None);
    }
    assert_eq!(played.in_flight(), 0);
}

#[test]
fn who_comes_back_gets_more_by_and_by() {
    let mut played = Played::of(2);
    played.eject(0);
    played.now += ms(1000);
    let probe = played.pick();
    played.ends(probe, Kind::Success, None);
    let back = played.now;
    for (after, share) in [(0, 0.1), (1000, 0.2), (2500, 0.5), (4999, 1.0), (5000, 1.0)] {
        played.now = back + ms(after);
        let mut count = 0;
        for _ in 0..10_000 {
            let ticket = played.pick();
            count += u32::from(ticket.slot == 0);
            played.set.abandon(ticket);
        }
        let share = share / 2.0;
        let got = f64::from(count) / 10_000.0;
        assert!((got - share).abs() < 0.02, "{got} at {after}, not {share}");
    }
}

#[test]
fn a_retry_avoids_what_the_call_failed_on_as_long_as_there_is_another() {
    let mut played = Played::of(5);
    for _ in 0..200 {
        let mut tried = Vec::new();
        for _ in 0..5 {
            let ticket = played.pick_but(&tried).0;
            let id = played.set.id_of(ticket);
            assert!(!tried.contains(&id));
            tried.push(id);
            played.set.abandon(ticket);
        }
        let ticket = played.pick_but(&tried).0;
        assert_ne!(Some(&played.set.id_of(ticket)), tried.last());
        played.set.abandon(ticket);
    }
}

#[test]
fn among_those_left_a_retry_chooses_evenly() {
    let mut played = Played::of(6);
    let ids: Vec<_> = played.set.slots.iter().map(|it| it.id).collect();
    let mut counts = [0_u32; 6];
    for _ in 0..12_000 {
        let ticket = played.pick_but(&[ids[1], ids[4], ids[1]]).0;
        counts[ticket.slot as usize] += 1;
        played.set.abandon(ticket);
    }
    for (slot, count) in counts.into_iter().enumerate() {
        let fair = if slot == 1 || slot == 4 {
            0..=0
        } else {
            2_800..=3_200
        };
        assert!(fair.contains(&count), "{counts:?}");
    }
}

#[test]
fn an_update_keeps_what_is_known_of_those_that_stay() {
    let mut played = Played::of(4);
    let out = played.eject(1).endpoint();
    let [kept, going] = [played.pick(), played.pick()];
    let stays = played.set.id_of(kept);
    let (settings, now) = (settings(), played.now);
    let names = [9, 1, stays.index(), 8];
    let ids = played.set.update(&list(names), &settings, now);
    assert_eq!((ids[1], ids[2]), (out, stays));
    assert!(matches!(played.state(1), State::Ejected { .. }));
    let news = [ids[0], ids[3]].map(|id| played.state(id.index()));
    assert_eq!(news, [State::Returning { share: LEAST_SHARE }; 2]);
    // A number is free again once nothing is under way there.
    let gone = played.set.id_of(going);
    played.set.abandon(going);
    played.set.abandon(kept);
    assert!(
        gone == stays
            || ids.iter().any(|id| id.index() == gone.index())
            || played.set.get(gone).is_none()
    );
    assert_eq!(played.in_flight(), 0);
}

#[test]
fn a_shrinking_list_never_leaves_more_out_than_may_be() {
    let mut played = Played::of(4);
    let (settings, now) = (settings(), played.now);
    for slot in [0, 1] {
        let draws = &mut played.draws;
        played
            .set
            .eject(slot, Duration::ZERO, &settings, now, draws);
    }
    assert_eq!(played.set.without.len(), 2);
    played.set.update(&list([0, 1]), &settings, now);
    assert_eq!((played.set.within.len(), played.set.without.len()), (1, 1));
    played.set.update(&list([1]), &settings, now);
    assert_eq!((played.set.within.len(), played.set.without.len()), (1, 0));
    let _ = played.pick();
}

/// One step of the model below.
#[derive(Clone, Debug)]
enum Step {
    Pick {
        tried: Vec<usize>,
    },
    Record {
        which: usize,
        kind: u8,
        hint: Option<u16>,
    },
    Abandon(usize),
    Advance(u16),
    Update(BTreeSet<usize>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => prop::collection::vec(0..6_usize, 1..4).prop_map(|tried| Step::Pick { tried }),
        15 => Just(Step::Pick { tried: Vec::new() }),
        18 => (0..8_usize, 0..8_u8, prop::option::weighted(0.1, 0..9000_u16))
            .prop_map(|(which, kind, hint)| Step::Record { which, kind, hint }),
        1 => (0..8_usize).prop_map(Step::Abandon),
        6 => prop_oneof![4 => 1..400_u16, 1 => 900..12_000_u16].prop_map(Step::Advance),
        1 => prop::collection::btree_set(0..7_usize, 1..6).prop_map(Step::Update),
    ];
    prop::collection::vec(step, 1..800)
}

/// What is known of an endpoint, told plainly.
#[derive(Debug)]
struct Known {
    id: Id,
    name: usize,
    listed: bool,
    place: Where,
    /// Only outcomes of attempts picked in this epoch count.
    epoch: u32,
    in_flight: u32,
    /// How often it was ejected or failed a probe since it was last forgotten.
    trips: u32,
    returned: Option<Instant>,
    /// From where in the log its failures in a row count, if there are any.
    row: Option<usize>,
    /// From where in the log its share counts, and until when.
    span: Option<(usize, Instant)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Where {
    Out(Instant),
    Probing { until: Instant, lapses: Instant },
    Within,
}

/// The same rules, without an index, a total or a cache: everything is counted anew from a log of
/// all outcomes that ever counted.
struct Model {
    settings: Settings,
    now: Instant,
    known: Vec<Known>,
    /// Whose outcome, and whether it failed.
    log: Vec<(Id, bool)>,
    /// How long the log was when any last answered.
    answered: usize,
    /// What is out: ticket, whose, and the epoch in which it was picked.
    out: Vec<(Ticket, Id, u32)>,
}

impl Model {
    fn of(&mut self, id: Id) -> &mut Known {
        let found = self.known.iter_mut().find(|it| it.id == id);
        found.expect("an endpoint that is known")
    }

    fn ids(&self, wanted: impl Fn(Where) -> bool) -> Vec<Id> {
        let fit = self.known.iter().filter(|it| it.listed && wanted(it.place));
        fit.map(|it| it.id).collect()
    }

    fn most(&self) -> usize {
        let count = self.known.iter().filter(|it| it.listed).count();
        (count / 2).max(1).min(count - 1)
    }

    fn length(&mut self, id: Id) -> Duration {
        let known = self.of(id);
        known.trips += 1;
        ms(1000 * (1 << (known.trips - 1).min(3)))
    }

    /// What a pick changes before it chooses.
    fn expects(&mut self) -> Vec<(Option<Id>, Change)> {
        let due = |place| match place {
            Where::Out(until) => Some(until),
            Where::Probing { lapses, .. } => Some(lapses),
            Where::Within => None,
        };
        let places = self.known.iter().filter(|it| it.listed);
        let first = places.clone().filter_map(|it| due(it.place)).min();
        let now = self.now;
        let Some(first) = first.filter(|it| *it <= now) else {
            return Vec::new();
        };
        let which = places.filter(|it| due(it.place) == Some(first));
        let change = which.map(|it| {
            let endpoint = it.id;
            if let Where::Out(_) = it.place {
                return (Some(endpoint), Change::Probing { endpoint });
            }
            let length = ms(1000 * (1 << it.trips.min(3)));
            let why = Why::ProbeLost;
            (
                None,
                Change::Ejected {
                    endpoint,
                    why,
                    length,
                },
            )
        });
        change.collect()
    }

    /// Whether this failure, the last of the log, is one too many.
    fn why(&self, id: Id) -> Option<Why> {
        let known = self.known.iter().find(|it| it.id == id).expect("known");
        let count = |from: usize, own: bool, failed: bool| {
            let part = self.log[from..].iter();
            let fit = part.filter(|it| (it.0 == id) == own && it.1 == failed);
            f64::from(u32::try_from(fit.count()).expect("few"))
        };
        let row = known.row.expect("it just failed");
        let (answered, failed) = (count(row, false, false), count(row, false, true));
        let own = count(row, true, true);
        let rate = (failed + 0.1) / (answered + failed + 0.2);
        if self.settings.in_row.is_some() && own >= 3.0 && rate.powf(own) <= 1e-4 {
            return Some(Why::ConsecutiveFailures);
        }
        let (span, _) = known.span.expect("it just failed");
        let calls = count(span, true, true) + count(span, true, false);
        let (answered, failed) = (count(span, false, false), count(span, false, true));
        let others = (failed + 1.0) / (answered + failed + 2.0);
        let least = 0.25_f64.max(4.0 * (others * (1.0 - others) / calls).sqrt());
        let is_notable = calls >= 20.0 && count(span, true, true) / calls - others >= least;
        is_notable.then_some(Why::FailureShare)
    }

    fn record(
        &mut self,
        id: Id,
        epoch: u32,
        kind: Kind,
        hint: Option<Duration>,
    ) -> (Option<Change>, bool) {
        let (now, at, most) = (self.now, self.log.len(), self.most());
        let out = self.ids(|place| place != Where::Within).len();
        let known = self.of(id);
        known.in_flight -= 1;
        if known.epoch != epoch {
            return (None, known.place != Where::Within || !known.listed);
        }
        let failed = match kind {
            Kind::RateLimited => {
                if let Where::Probing { until, .. } = known.place {
                    known.place = Where::Out(until);
                }
                return (None, false);
            }
            Kind::RequestFault | Kind::Success => false,
            _ => true,
        };
        let endpoint = id;
        let why = match (known.place, failed) {
            (Where::Within, _) => {
                if known.span.is_none_or(|(_, ends)| now >= ends) {
                    known.span = Some((at, now + ms(10_000)));
                }
                known.row = failed.then(|| known.row.unwrap_or(at));
                self.log.push((id, failed));
                if !failed {
                    self.answered = self.log.len();
                    return (None, false);
                }
                let is_odd = self.failed_since().len() < self.ids(|_| true).len().min(3);
                if out >= most {
                    return (None, false);
                }
                let asks = hint.is_some_and(|it| !it.is_zero()) && is_odd;
                match self.why(id) {
                    Some(why) => why,
                    None if asks => Why::Asked,
                    None => return (None, false),
                }
            }
            (Where::Out(_) | Where::Probing { .. }, false) => {
                self.comes_back(id);
                self.answered = self.log.len();
                return (Some(Change::Returned { endpoint }), false);
            }
            (Where::Probing { .. }, true) => Why::ProbeFailed,
            (Where::Out(_), true) => return (None, true),
        };
        let known = self.of(id);
        if known.place == Where::Within {
            known.epoch += 1;
            if known.returned.is_some_and(|it| now - it >= ms(60_000)) {
                known.trips = 0;
            }
        }
        let length = self.length(id).max(hint.unwrap_or_default());
        self.of(id).place = Where::Out(now + length);
        let change = Change::Ejected {
            endpoint,
            why,
            length,
        };
        (Some(change), true)
    }

    /// Those that are in the list and failed since any last answered.
    fn failed_since(&self) -> BTreeSet<u32> {
        let since = self.log[self.answered..].iter();
        let listed = |id: &Id| self.known.iter().any(|it| it.id == *id && it.listed);
        let failed = since.filter(|(id, failed)| *failed && listed(id));
        failed.map(|(id, _)| id.slot).collect()
    }

    fn comes_back(&mut self, id: Id) {
        let now = self.now;
        let known = self.of(id);
        known.returned = Some(now);
        known.place = Where::Within;
        (known.row, known.span) = (None, None);
    }
}

proptest! {
    #[test]
    fn a_set_does_what_its_rules_say_step_by_step(
        steps in steps(),
        count in 1..6_usize,
        in_row in prop::option::of(Just(3)),
        seed: u64,
    ) {
        let mut set = Set::new(&list(0..count));
        let mut draws = Rng::seeded(seed).draws();
        let known = |set: &Set, id: Id| Known {
            id,
            name: set.get(id).expect("here").name().parse().expect("a number"),
            listed: true,
            place: Where::Within,
            epoch: 0,
            in_flight: 0,
            trips: 0,
            returned: None,
            row: None,
            span: None,
        };
        let mut model = Model {
            settings: Settings { in_row, ..settings() },
            now: Instant::now(),
            known: set.slots.iter().map(|it| known(&set, it.id)).collect(),
            log: Vec::new(),
            answered: 0,
            out: Vec::new(),
        };
        for step in steps {
            let now = model.now;
            match step {
                Step::Advance(length) => model.now += ms(u64::from(length)),
                Step::Pick { tried } => {
                    let tried: Vec<_> = tried.iter().filter_map(|it| model.known.get(*it)).map(|it| it.id).collect();
                    let within = model.ids(|place| place == Where::Within);
                    let may_probe = tried.is_empty() || within.iter().all(|it| tried.contains(it));
                    let expected = if may_probe { model.expects() } else { Vec::new() };
                    let (ticket, change) = set.pick(&tried, &model.settings, now, &mut draws).expect("not empty");
                    let id = set.id_of(ticket);
                    match change {
                        None => prop_assert!(expected.is_empty(), "{expected:?}"),
                        Some(change) => {
                            let found = expected.iter().find(|it| it.1 == change);
                            prop_assert!(found.is_some(), "{change:?} of {expected:?}");
                            let whose = change.endpoint();
                            if let Some(&(Some(probed), _)) = found {
                                prop_assert_eq!(probed, id);
                                let lapses = now + model.settings.probe_timeout;
                                let known = model.of(whose);
                                let Where::Out(until) = known.place else { panic!("out") };
                                known.place = Where::Probing { until, lapses };
                                known.epoch += 1;
                            } else {
                                let length = model.length(whose);
                                model.of(whose).place = Where::Out(now + length);
                            }
                        }
                    }
                    if change.is_none_or(|change| !matches!(change, Change::Probing { .. })) {
                        prop_assert!(within.contains(&id));
                        let others = within.iter().any(|it| !tried.contains(it));
                        prop_assert!(!(others && tried.contains(&id)), "{id:?} of {within:?} but {tried:?}");
                    }
                    let known = model.of(id);
                    known.in_flight += 1;
                    let epoch = known.epoch;
                    model.out.push((ticket, id, epoch));
                }
                Step::Record { which, kind, hint } => {
                    if model.out.is_empty() {
                        continue;
                    }
                    let which = which % model.out.len();
                    let (ticket, id, epoch) = model.out.remove(which);
                    // The first fails mostly, the others seldom.
                    let kind = match (kind, id.slot) {
                        (0, _) | (1..=5, 1..) => Kind::Success,
                        (1, 0) => Kind::RequestFault,
                        (2, 0) | (6, _) => Kind::RateLimited,
                        (3, _) => Kind::TargetFault,
                        (4, _) => Kind::Overloaded,
                        _ => Kind::Transient,
                    };
                    let hint = hint.map(|hint| ms(u64::from(hint)));
                    let ended = Ended { kind, hint, latency: Some(ms(u64::from(id.slot) * 7)) };
                    let change = set.record(ticket, ended, &model.settings, now, || Rng::seeded(1).draws());
                    prop_assert_eq!(change, model.record(id, epoch, kind, hint));
                }
                Step::Abandon(which) => {
                    if model.out.is_empty() {
                        continue;
                    }
                    let which = which % model.out.len();
                    let (ticket, id, epoch) = model.out.remove(which);
                    set.abandon(ticket);
                    let known = model.of(id);
                    known.in_flight -= 1;
                    if let (Where::Probing { until, .. }, true) = (known.place, known.epoch == epoch) {
                        known.place = Where::Out(until);
                    }
                }
                Step::Update(names) => {
                    let ids = set.update(&list(names.iter().copied()), &model.settings, now);
                    model.known.retain(|it| (it.listed && names.contains(&it.name)) || it.in_flight > 0);
                    for known in &mut model.known {
                        let is_named = names.contains(&known.name);
                        if known.listed && !is_named {
                            known.epoch += 1;
                            known.place = Where::Within;
                        }
                        if is_named && !known.listed {
                            (known.row, known.span) = (None, None);
                        }
                        known.listed = is_named;
                    }
                    for (id, name) in ids.iter().zip(&names) {
                        match model.known.iter().find(|it| it.name == *name) {
                            Some(stays) => prop_assert_eq!(stays.id, *id),
                            None => model.known.push(known(&set, *id)),
                        }
                    }
                    while model.ids(|place| place != Where::Within).len() > model.most() {
                        let until = |id: &Id| match model.known.iter().find(|it| it.id == *id).expect("known").place {
                            Where::Out(until) | Where::Probing { until, .. } => until,
                            Where::Within => unreachable!(),
                        };
                        let out = model.ids(|place| place != Where::Within);
                        let first = out.iter().map(until).min();
                        // Of several it may be any; the set says which.
                        let back = out.iter().find(|id| Some(until(id)) == first && matches!(set.slots[id.index()].place, Place::Within { .. }));
                        prop_assert!(back.is_some());
                        model.comes_back(*back.expect("seen above"));
                    }
                }
            }
            // Nothing is lost, nothing is there twice, and both agree on everything.
            let snapshot = set.snapshot(&model.settings, model.now);
            prop_assert_eq!(snapshot.len(), model.known.iter().filter(|it| it.listed).count());
            for seen in snapshot {
                let known = model.of(seen.id);
                prop_assert_eq!(seen.in_flight, known.in_flight);
                let agree = match (seen.state, known.place) {
                    (State::Ejected { left }, Where::Out(until)) => left == until.saturating_duration_since(model.now),
                    (State::Probing, Where::Probing { .. })
                    | (State::Healthy | State::Returning { .. }, Where::Within) => true,
                    _ => false,
                };
                prop_assert!(agree, "{:?}", seen);
            }
            for (list, is_within) in [(&set.within, true), (&set.without, false)] {
                for (position, slot) in list.iter().enumerate() {
                    let slot = &set.slots[*slot as usize];
                    prop_assert_eq!(slot.position, position);
                    prop_assert_eq!(matches!(slot.place, Place::Within { .. }), is_within);
                }
            }
            prop_assert_eq!(set.len(), set.within.len() + set.without.len());
            prop_assert!(!set.within.is_empty());
        }
    }
}
