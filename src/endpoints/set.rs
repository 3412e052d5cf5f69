//! Which endpoint an attempt goes to, and what its outcome means for those to come. Pure.
//!
//! What does nothing, and why:
//!
//! | event | state | because |
//! |---|---|---|
//! | an outcome | picked before an ejection or a probe | it tells of another time |
//! | a probe's failure | lost meanwhile | it was counted when it was given up |
//! | a rate limit | any but healthy | it says nothing of the endpoint's health |
//! | a hint | others failed too since any last did well, or it can't be ejected | it is the service that asks |
//! | an ejection | as many are ejected as may be | it is the service then, not the endpoint |

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backoff::Progress;
use crate::deadline::later;
use crate::rng::{Draws, scale};
use crate::verdict::Kind;

use super::endpoint::{Endpoint, Id};
use super::health::{Health, Tally};
use super::load::{self, Load};
use super::report::{Change, Snapshot, State, Why};
use super::settings::Settings;

/// The endpoints, and what is known of them.
#[derive(Debug)]
pub(super) struct Set {
    slots: Vec<Slot>,
    /// Slots without an endpoint.
    free: BinaryHeap<Reverse<u32>>,
    /// Slots that are asked, in no order.
    within: Vec<u32>,
    /// Slots that are ejected or probed, in no order.
    without: Vec<u32>,
    /// When the first of them is to be looked at.
    due: Option<Instant>,
    tally: Tally,
    /// What an answer takes, in seconds.
    typical: Option<f64>,
    /// Counts answers, from 1.
    answers: u64,
    /// How many endpoints failed since any last answered.
    doubted: usize,
    generation: NonZeroU32,
    serial: NonZeroU32,
    /// The list isn't the one it began with.
    updated: bool,
}

#[derive(Debug)]
struct Slot {
    id: Id,
    endpoint: Arc<Endpoint>,
    place: Place,
    /// Its position in `within` or `without`.
    position: usize,
    /// Changes with every ejection and probe; outcomes of another one don't count.
    generation: NonZeroU32,
    load: Load,
    health: Health,
    progress: Progress,
    /// When it last came back.
    returned: Option<Instant>,
    ejections: u64,
    /// After which of the set's answers it failed last; 0: it didn't.
    doubted: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nobody's. The slot is free.
    Gone,
    /// No longer in the list, and still with attempts under way.
    Leaving,
    Out {
        until: Instant,
    },
    Probing {
        /// When the ejection was over.
        until: Instant,
        /// When the probe counts as lost.
        lapses: Instant,
    },
    Within {
        /// Since when it gets more by and by.
        ramp: Option<Instant>,
    },
}

/// The right to one attempt at one endpoint. Given back exactly once, by
/// [`record`](Set::record) or [`abandon`](Set::abandon).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) slot: u32,
    pub(super) generation: NonZeroU32,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) kind: Kind,
    pub(crate) hint: Option<Duration>,
    pub(crate) latency: Option<Duration>,
}

impl Set {
    pub(super) fn new(list: &[Arc<Endpoint>]) -> Self {
        let mut set = Self {
            slots: Vec::with_capacity(list.len()),
            free: BinaryHeap::new(),
            within: Vec::new(),
            without: Vec::new(),
            due: None,
            tally: Tally::default(),
            typical: None,
            answers: 1,
            doubted: 0,
            generation: NonZeroU32::MIN,
            serial: NonZeroU32::MIN,
            updated: false,
        };
        for endpoint in list {
            set.add(endpoint, None);
        }
        set.reserve();
        set
    }

    /// Chooses an endpoint, if there is any. `tried` are those that the call already failed on.
    pub(super) fn pick(
        &mut self,
        tried: &[Id],
        settings: &Settings,
        now: Instant,
        draws: &mut Draws,
    ) -> Option<(Ticket, Option<Change>)> {
        let mut change = None;
        let skipped = self.skipped(tried);
        // A call that already failed once is not to be risked again, unless it failed everywhere.
        let may_probe = tried.is_empty() || skipped.len() >= self.within.len();
        if may_probe && self.due.is_some_and(|due| due <= now) {
            let (probe, changed) = self.look_out(settings, now, draws);
            if let Some(slot) = probe {
                return Some((self.take(slot, now), changed));
            }
            change = changed;
        }
        let slot = self.choose(skipped, tried, settings, now, draws)?;
        Some((self.take(slot, now), change))
    }

    /// An attempt ended. Says what changed, and whether a hint that came with it is the endpoint's own
    /// affair: others do well, as far as is known.
    pub(super) fn record(
        &mut self,
        ticket: Ticket,
        ended: Ended,
        settings: &Settings,
        now: Instant,
        draws: impl FnOnce() -> Draws,
    ) -> (Option<Change>, bool) {
        let counts = self.end(ticket);
        let slot = &mut self.slots[ticket.slot as usize];
        let is_within = matches!(slot.place, Place::Within { .. });
        if !counts {
            return (None, !is_within);
        }
        let endpoint = slot.id;
        let fails = match ended.kind {
            // A wrong request was answered as it ought to be, only sooner perhaps.
            Kind::RequestFault | Kind::Success => false,
            Kind::RateLimited => {
                if let Place::Probing { until, .. } = slot.place {
                    slot.place = Place::Out { until };
                    self.look_again();
                } else {
                    // It is up, but others may have more to give.
                    slot.load.failed(None, now);
                }
                return (None, false);
            }
            Kind::Overloaded | Kind::TargetFault | Kind::Transient => true,
        };
        if !fails {
            self.answers += 1;
            self.doubted = 0;
            let latency = ended.latency.filter(|_| ended.kind == Kind::Success);
            slot.load.answered(latency, now);
            if let Some(latency) = latency {
                load::learn(&mut self.typical, latency);
            }
            if let Place::Within { .. } = slot.place {
                slot.health.answered(self.tally, now);
                self.tally.answered += 1;
                return (None, false);
            }
            // The probe's, even if it was given up.
            self.come_back(ticket.slot, now);
            return (Some(Change::Returned { endpoint }), false);
        }
        slot.load.failed(ended.latency, now);
        let why = match slot.place {
            Place::Within { .. } => {
                let why = slot.health.failed(self.tally, settings, now);
                self.tally.failed += 1;
                let is_odd = self.is_odd(ticket.slot);
                let count = self.within.len() + self.without.len();
                if self.without.len() >= settings.most_ejected(count) {
                    return (None, false);
                }
                let asks = ended.hint.filter(|hint| is_odd && !hint.is_zero());
                match why.or(asks.map(|_| Why::Asked)) {
                    Some(why) => why,
                    None => return (None, false),
                }
            }
            Place::Probing { .. } => Why::ProbeFailed,
            Place::Gone | Place::Leaving | Place::Out { .. } => return (None, true),
        };
        let hint = ended.hint.unwrap_or_default().min(settings.max_hint);
        let length = self.eject(ticket.slot, hint, settings, now, &mut draws());
        let change = Change::Ejected {
            endpoint,
            why,
            length,
        };
        (Some(change), true)
    }

    /// A failed one is the odd one out unless others have failed too since any last did well: two, or
    /// all there are.
    fn is_odd(&mut self, index: u32) -> bool {
        let slot = &mut self.slots[index as usize];
        if slot.doubted != self.answers {
            slot.doubted = self.answers;
            self.doubted += 1;
        }
        let all = self.within.len() + self.without.len();
        self.doubted < all.min(DOUBTED)
    }

    /// An attempt never began, or was dropped: it says nothing.
    pub(super) fn abandon(&mut self, ticket: Ticket) {
        if !self.end(ticket) {
            return;
        }
        let slot = &mut self.slots[ticket.slot as usize];
        if let Place::Probing { until, .. } = slot.place {
            slot.place = Place::Out { until };
            self.look_again();
        }
    }

    /// Makes these the endpoints. Those that stay keep what is known of them. Gives their ids, in
    /// the order of the list.
    pub(super) fn update(
        &mut self,
        list: &[Arc<Endpoint>],
        settings: &Settings,
        now: Instant,
    ) -> Vec<Id> {
        self.updated = true;
        let present = self.slots.iter().filter(|it| it.place != Place::Gone);
        let mut present: BTreeMap<_, _> = present
            .map(|slot| (slot.endpoint.name().to_owned(), slot.id.slot))
            .collect();
        // Those that go make room before others come.
        let stay: Vec<_> = list
            .iter()
            .map(|endpoint| present.remove(endpoint.name()))
            .collect();
        let mut gone: Vec<_> = present.into_values().collect();
        gone.sort_unstable();
        for slot in gone {
            self.leave(slot);
        }
        let ids = list.iter().zip(stay).map(|(endpoint, stays)| {
            let Some(slot) = stays else {
                return self.add(endpoint, Some(now));
            };
            let it = &self.slots[slot as usize];
            if it.place == Place::Leaving {
                self.doubted += usize::from(it.doubted == self.answers);
                self.enter(slot, Some(now));
            }
            self.slots[slot as usize].id
        });
        let ids = ids.collect();
        self.reserve();
        let most = settings.most_ejected(self.within.len() + self.without.len());
        while self.without.len() > most {
            let longest = self.without.iter().copied();
            let until = |slot: &u32| self.slots[*slot as usize].place.until();
            let slot = longest.min_by_key(until).expect("more than none");
            self.come_back(slot, now);
        }
        self.look_again();
        ids
    }

    /// Whether somebody gave it another list.
    pub(super) const fn is_updated(&self) -> bool {
        self.updated
    }

    /// The endpoints that are in the list, by their ids.
    pub(super) fn list(&self) -> Vec<Arc<Endpoint>> {
        let listed = self.slots.iter().filter(|slot| slot.place.is_listed());
        listed.map(|slot| Arc::clone(&slot.endpoint)).collect()
    }

    /// How many there are in the list.
    pub(super) fn len(&self) -> usize {
        self.within.len() + self.without.len()
    }

    pub(super) fn id_of(&self, ticket: Ticket) -> Id {
        self.slots[ticket.slot as usize].id
    }

    /// When an ejected endpoint may be probed, if one is ejected.
    pub(super) fn probe_at(&self) -> Option<Instant> {
        let out = self.without.iter().copied();
        let until = |slot: u32| match self.slots[slot as usize].place {
            Place::Out { until } => Some(until),
            _ => None,
        };
        out.filter_map(until).min()
    }

    pub(super) fn endpoint(&self, slot: u32) -> &Arc<Endpoint> {
        &self.slots[slot as usize].endpoint
    }

    /// The endpoint with this id, if it is still here.
    pub(super) fn get(&self, id: Id) -> Option<&Arc<Endpoint>> {
        let slot = self.slots.get(id.slot as usize)?;
        (slot.id == id && slot.place != Place::Gone).then_some(&slot.endpoint)
    }

    pub(super) fn is_probing(&self, ticket: Ticket) -> bool {
        let slot = &self.slots[ticket.slot as usize];
        slot.generation == ticket.generation && matches!(slot.place, Place::Probing { .. })
    }

    pub(super) fn snapshot(&self, settings: &Settings, now: Instant) -> Vec<Snapshot> {
        let listed = self.slots.iter().filter(|slot| slot.place.is_listed());
        let of = |slot: &Slot| {
            let (latency, failures) = slot.load.expected(None, now);
            Snapshot {
                id: slot.id,
                endpoint: Arc::clone(&slot.endpoint),
                state: match slot.place {
                    Place::Out { until } => State::Ejected {
                        left: until.saturating_duration_since(now),
                    },
                    Place::Probing { .. } => State::Probing,
                    Place::Gone | Place::Leaving | Place::Within { .. } => {
                        match slot.share(settings, now) {
                            Some(share) => State::Returning { share },
                            None => State::Healthy,
                        }
                    }
                },
                in_flight: slot.load.in_flight(),
                latency: latency.map(|it| Duration::try_from_secs_f64(it).unwrap_or(Duration::MAX)),
                failures,
                ejections: slot.ejections,
            }
        };
        listed.map(of).collect()
    }

    /// One of two at random, by what an attempt there is likely to cost; none of those that the call
    /// failed on, if there are others.
    fn choose(
        &self,
        mut skipped: Skipped,
        tried: &[Id],
        settings: &Settings,
        now: Instant,
        draws: &mut Draws,
    ) -> Option<u32> {
        if skipped.len() >= self.within.len() {
            // Not the same twice in a row, at least.
            skipped = Skipped::new();
            let last = tried.last().and_then(|id| self.position_of(*id));
            skipped.extend(last.filter(|_| self.within.len() > 1));
        }
        let count = self.within.len().checked_sub(skipped.len())?;
        let last = u64::try_from(count.checked_sub(1)?).unwrap_or(u64::MAX);
        if last == 0 {
            return Some(self.within[skipped.past(0)]);
        }
        let (places, luck) = (draws.next_u64(), draws.next_u64());
        let first = scale(places & HIGH, last);
        let mut second = scale(places << 32, last - 1);
        if second >= first {
            second += 1;
        }
        let [first, second] = [first, second].map(|position| {
            let position = usize::try_from(position).expect("less than there are");
            self.within[skipped.past(position)]
        });
        let [one, two] = [first, second].map(|slot| &self.slots[slot as usize]);
        let waits = |slot: &Slot, luck: u64| {
            let share = slot.share(settings, now);
            share.is_some_and(|share| uniform(luck) >= share)
        };
        // Each decision has bits of its own.
        let chosen = match (waits(one, luck << 32), waits(two, luck << 48)) {
            (true, false) => second,
            (false, true) => first,
            _ => {
                let scores = [one, two].map(|slot| slot.load.score(self.typical, now));
                if load::prefers_first(scores[0], scores[1], uniform(luck & HIGH)) {
                    first
                } else {
                    second
                }
            }
        };
        Some(chosen)
    }

    /// Where those are that the call failed on.
    fn skipped(&self, tried: &[Id]) -> Skipped {
        let mut skipped = Skipped::new();
        for id in &tried[tried.len().saturating_sub(REMEMBERED)..] {
            skipped.extend(self.position_of(*id));
        }
        skipped
    }

    /// Looks after those that are ejected: one may be due to be probed, or its probe lost.
    #[cold]
    fn look_out(
        &mut self,
        settings: &Settings,
        now: Instant,
        draws: &mut Draws,
    ) -> (Option<u32>, Option<Change>) {
        let due = |slot: &u32| self.slots[*slot as usize].place.due();
        let first = self.without.iter().copied().min_by_key(due);
        let Some(index) = first else {
            self.due = None;
            return (None, None);
        };
        let generation = next(self.generation);
        let slot = &mut self.slots[index as usize];
        let endpoint = slot.id;
        let found = match slot.place {
            Place::Out { until } if until <= now => {
                self.generation = generation;
                slot.generation = generation;
                let lapses = later(now, settings.probe_timeout);
                slot.place = Place::Probing { until, lapses };
                (Some(index), Some(Change::Probing { endpoint }))
            }
            Place::Probing { lapses, .. } if lapses <= now => {
                let length = self.eject(index, Duration::ZERO, settings, now, draws);
                let why = Why::ProbeLost;
                let change = Change::Ejected {
                    endpoint,
                    why,
                    length,
                };
                (None, Some(change))
            }
            _ => (None, None),
        };
        self.look_again();
        found
    }

    /// Takes an endpoint out, or leaves it out for longer. Gives the length.
    #[cold]
    fn eject(
        &mut self,
        index: u32,
        hint: Duration,
        settings: &Settings,
        now: Instant,
        draws: &mut Draws,
    ) -> Duration {
        let slot = &mut self.slots[index as usize];
        let healthy_for = |since| now.saturating_duration_since(since);
        if let Place::Within { .. } = slot.place {
            if slot
                .returned
                .is_some_and(|since| healthy_for(since) >= settings.forget_after)
            {
                slot.progress = Progress::new();
            }
            slot.ejections += 1;
            self.generation = next(self.generation);
            slot.generation = self.generation;
        }
        // Not that of a lost probe, whose answer is still good news.
        let length = settings.cooldown.next(&mut slot.progress, draws);
        let length = length.unwrap_or_default().max(hint);
        let was_within = matches!(slot.place, Place::Within { .. });
        slot.place = Place::Out {
            until: later(now, length),
        };
        if was_within {
            self.remove_from_within(index);
            self.push_to_without(index);
        }
        self.look_again();
        length
    }

    /// Lets an ejected endpoint in again.
    #[cold]
    fn come_back(&mut self, index: u32, now: Instant) {
        self.remove_from_without(index);
        let slot = &mut self.slots[index as usize];
        slot.returned = Some(now);
        slot.load.forgive();
        self.enter(index, Some(now));
        self.look_again();
    }

    fn enter(&mut self, index: u32, ramp: Option<Instant>) {
        let slot = &mut self.slots[index as usize];
        slot.place = Place::Within { ramp };
        slot.health = Health::new(self.tally);
        slot.position = self.within.len();
        self.within.push(index);
    }

    fn add(&mut self, endpoint: &Arc<Endpoint>, ramp: Option<Instant>) -> Id {
        let new = u32::try_from(self.slots.len()).expect("memory ends before");
        let slot = self.free.pop().map_or(new, |Reverse(slot)| slot);
        let id = Id {
            slot,
            serial: self.serial,
        };
        self.serial = next(self.serial);
        self.generation = next(self.generation);
        let new = Slot {
            id,
            endpoint: Arc::clone(endpoint),
            place: Place::Within { ramp },
            position: 0,
            generation: self.generation,
            load: Load::new(),
            health: Health::new(self.tally),
            progress: Progress::new(),
            returned: None,
            ejections: 0,
            doubted: 0,
        };
        match self.slots.get_mut(slot as usize) {
            Some(old) => *old = new,
            None => self.slots.push(new),
        }
        self.enter(slot, ramp);
        id
    }

    /// It is no longer in the list. What is under way there may end.
    fn leave(&mut self, index: u32) {
        let place = self.slots[index as usize].place;
        match place {
            Place::Within { .. } => self.remove_from_within(index),
            Place::Out { .. } | Place::Probing { .. } => self.remove_from_without(index),
            Place::Gone | Place::Leaving => {}
        }
        self.generation = next(self.generation);
        let slot = &mut self.slots[index as usize];
        if place != Place::Leaving && slot.doubted == self.answers {
            self.doubted -= 1;
        }
        slot.generation = self.generation;
        slot.place = Place::Leaving;
        self.go_if_idle(index);
    }

    fn go_if_idle(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        if slot.place == Place::Leaving && slot.load.in_flight() == 0 {
            slot.place = Place::Gone;
            self.free.push(Reverse(index));
        }
    }

    fn take(&mut self, index: u32, now: Instant) -> Ticket {
        let slot = &mut self.slots[index as usize];
        slot.load.begin(self.typical, now);
        Ticket {
            slot: index,
            generation: slot.generation,
        }
    }

    /// An attempt is no longer under way. Says whether what became of it counts.
    fn end(&mut self, ticket: Ticket) -> bool {
        let slot = &mut self.slots[ticket.slot as usize];
        slot.load.end();
        let counts = slot.generation == ticket.generation;
        if slot.place == Place::Leaving {
            self.go_if_idle(ticket.slot);
        }
        counts
    }

    fn position_of(&self, id: Id) -> Option<usize> {
        let slot = self.slots.get(id.slot as usize)?;
        let is_within = matches!(slot.place, Place::Within { .. });
        (slot.id == id && is_within).then_some(slot.position)
    }

    fn remove_from_within(&mut self, index: u32) {
        let position = self.slots[index as usize].position;
        self.within.swap_remove(position);
        if let Some(moved) = self.within.get(position) {
            self.slots[*moved as usize].position = position;
        }
    }

    fn push_to_without(&mut self, index: u32) {
        self.slots[index as usize].position = self.without.len();
        self.without.push(index);
    }

    fn remove_from_without(&mut self, index: u32) {
        let position = self.slots[index as usize].position;
        self.without.swap_remove(position);
        if let Some(moved) = self.without.get(position) {
            self.slots[*moved as usize].position = position;
        }
    }

    /// Finds out anew when the first of the ejected is due.
    fn look_again(&mut self) {
        let due = |slot: &u32| self.slots[*slot as usize].place.due();
        self.due = self.without.iter().filter_map(due).min();
    }

    /// So that nothing is allocated in a call.
    fn reserve(&mut self) {
        let count = self.slots.len();
        self.free.reserve(count.saturating_sub(self.free.len()));
        for list in [&mut self.within, &mut self.without] {
            list.reserve(count.saturating_sub(list.len()));
        }
    }
}

/// When so many endpoints fail and none answers in between, it is the service.
const DOUBTED: usize = 3;

impl Slot {
    /// The part of its share that it gets, if it doesn't get all of it.
    fn share(&self, settings: &Settings, now: Instant) -> Option<f64> {
        let Place::Within { ramp: Some(since) } = self.place else {
            return None;
        };
        let passed = now.saturating_duration_since(since);
        if passed >= settings.ramp {
            return None;
        }
        let share = passed.as_secs_f64() / settings.ramp.as_secs_f64();
        Some(share.max(LEAST_SHARE))
    }
}

impl Place {
    const fn is_listed(self) -> bool {
        !matches!(self, Self::Gone | Self::Leaving)
    }

    /// When the ejection is over.
    const fn until(self) -> Option<Instant> {
        match self {
            Self::Out { until } | Self::Probing { until, .. } => Some(until),
            Self::Gone | Self::Leaving | Self::Within { .. } => None,
        }
    }

    /// When it is to be looked at.
    const fn due(self) -> Option<Instant> {
        match self {
            Self::Out { until } => Some(until),
            Self::Probing { lapses, .. } => Some(lapses),
            Self::Gone | Self::Leaving | Self::Within { .. } => None,
        }
    }
}

/// Positions that aren't to be chosen, in order and each once.
struct Skipped {
    positions: [usize; REMEMBERED],
    count: usize,
}

impl Skipped {
    const fn new() -> Self {
        Self {
            positions: [0; REMEMBERED],
            count: 0,
        }
    }

    const fn len(&self) -> usize {
        self.count
    }

    fn extend(&mut self, position: Option<usize>) {
        let Some(position) = position.filter(|_| self.count < REMEMBERED) else {
            return;
        };
        let Err(at) = self.positions[..self.count].binary_search(&position) else {
            return;
        };
        self.positions.copy_within(at..self.count, at + 1);
        self.positions[at] = position;
        self.count += 1;
    }

    /// The position of what would be at `position` if these weren't there.
    fn past(&self, mut position: usize) -> usize {
        for skipped in &self.positions[..self.count] {
            if position >= *skipped {
                position += 1;
            }
        }
        position
    }
}

fn next(number: NonZeroU32) -> NonZeroU32 {
    number.checked_add(1).unwrap_or(NonZeroU32::MIN)
}

/// The upper 32 bits of a draw as a number in 0..1.
#[allow(clippy::cast_precision_loss)]
fn uniform(draw: u64) -> f64 {
    (draw >> 32) as f64 / (1_u64 << 32) as f64
}

const HIGH: u64 = 0xFFFF_FFFF_0000_0000;

/// So many of the endpoints that a call last failed on are avoided.
pub(super) const REMEMBERED: usize = 16;

/// Whoever comes back gets at least so much of its share.
const LEAST_SHARE: f64 = 0.1;

#[cfg(test)]
mod tests;
