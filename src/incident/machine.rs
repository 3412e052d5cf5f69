//! What is remembered of the last seconds, of the incident that goes on, and of those before: pure.
//!
//! Moments are counted from the first one. What happened since the last trouble is kept apart: if the
//! incident turns out to be over, it is no part of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::event::Change;
use crate::incident::note::Note;
use crate::incident::rules::{Rules, SLICES};
use crate::incident::tally::{Asked, Tally};
use crate::incident::timeline::{Step, Timeline};

/// The recorder's state.
#[derive(Debug)]
pub(super) struct Machine {
    rules: Rules,
    born: Option<Instant>,
    /// Never goes back.
    latest: Duration,
    services: usize,
    /// The window, in steps; which one is where goes round.
    slices: Vec<Slice>,
    /// The number of the newest slice, counted from the first moment.
    newest: u128,
    /// Changes of the last seconds, for an incident that begins with them.
    recent: VecDeque<Stamped>,
    pub(super) open: Option<Box<Incident>>,
    /// The oldest first.
    pub(super) past: VecDeque<Arc<Incident>>,
    /// Incidents that made room for later ones.
    pub(super) forgotten: u64,
    /// Whether anybody ever told of a success that was nothing special.
    told_of_success: bool,
}

#[derive(Debug)]
struct Slice {
    tally: Tally<8>,
    step: Step,
    /// By service.
    outcomes: Vec<Outcomes>,
    back_at: Option<Duration>,
}

/// What came of the attempts and calls to one service.
#[derive(Clone, Copy, Debug, Default)]
struct Outcomes {
    bad: u64,
    good: u64,
    first_bad: Option<Duration>,
}

/// One incident.
#[derive(Clone, Debug)]
pub(super) struct Incident {
    pub(super) number: u64,
    pub(super) began: Duration,
    /// The last moment at which it was one for sure.
    pub(super) trouble: Duration,
    /// The first success after that.
    pub(super) well: Option<Duration>,
    pub(super) ended: Option<Ending>,
    /// Up to the last trouble.
    pub(super) tally: Tally<24>,
    /// After it.
    pending: Tally<8>,
    is_pending: bool,
    pub(super) timeline: Timeline,
    pub(super) changes: Changes,
    /// Until when the server asked for quiet, at the latest.
    pub(super) back_at: Option<Duration>,
    /// A moment of both clocks.
    pub(super) anchor: Option<(Duration, std::time::SystemTime)>,
}

/// How one knows that an incident is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ending {
    /// Calls succeed again.
    Recovered,
    /// Nothing was heard any more, neither good nor bad: nobody calls.
    Silent,
    /// No trouble any more. Whether calls succeed is not known: nobody tells of successes.
    Untold,
}

/// A change of a shared policy's state, its service, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamped {
    pub(super) at: Duration,
    pub(super) service: usize,
    pub(super) change: Change,
}

/// The first changes and the last ones.
#[derive(Clone, Debug)]
pub(super) struct Changes {
    pub(super) first: Vec<Stamped>,
    pub(super) last: VecDeque<Stamped>,
    /// What came between them.
    pub(super) left_out: u64,
}

impl Machine {
    pub(super) fn new(rules: Rules, services: usize) -> Self {
        let slice = |_| Slice {
            tally: Tally::new(services),
            step: Step::EMPTY,
            outcomes: vec![Outcomes::default(); services],
            back_at: None,
        };
        Self {
            rules,
            born: None,
            latest: Duration::ZERO,
            services,
            slices: (0..SLICES).map(slice).collect(),
            newest: 0,
            recent: VecDeque::with_capacity(RECENT),
            open: None,
            past: VecDeque::with_capacity(rules.kept.min(MOST_KEPT)),
            forgotten: 0,
            told_of_success: false,
        }
    }

    /// There is a service more.
    pub(super) fn grow(&mut self, services: usize) {
        let grow = |it: &mut Vec<_>| it.resize_with(services, Default::default);
        self.services = services;
        for slice in &mut self.slices {
            grow(&mut slice.tally.services);
            slice.outcomes.resize(services, Outcomes::default());
        }
        if let Some(open) = &mut self.open {
            grow(&mut open.tally.services);
            grow(&mut open.pending.services);
        }
    }

    /// Takes note. Says whether an incident began with it.
    pub(super) fn feed(
        &mut self,
        now: Instant,
        service: usize,
        note: &Note,
        hint: Option<Duration>,
    ) -> bool {
        let at = self.advance(now);
        let slow_after = self.rules.slow_after;
        let asked = hint.map(|length| Asked {
            length,
            back_at: at.saturating_add(length),
        });
        let slice = &mut self.slices[place(self.newest)];
        slice.tally.add(service, note, asked, slow_after);
        slice.step.add(note, asked);
        slice.back_at = slice.back_at.max(asked.map(|it| it.back_at));
        let outcomes = &mut slice.outcomes[service];
        match note.is_bad() {
            Some(true) => {
                outcomes.bad += 1;
                outcomes.first_bad.get_or_insert(at);
            }
            Some(false) => outcomes.good += 1,
            None => {}
        }
        self.told_of_success |= note.is_plain();
        if let &Note::Changed(change) = note {
            let stamped = Stamped {
                at,
                service,
                change,
            };
            match &mut self.open {
                Some(open) => open.changes.push(stamped),
                None => {
                    push_bounded(&mut self.recent, stamped, RECENT);
                }
            }
        }
        let (bad, good) = self.window(service);
        let is_bad = note.is_bad();
        if let Some(open) = &mut self.open {
            let trouble = is_bad == Some(true) && self.rules.goes_on(bad, good);
            open.add(at, service, note, asked, slow_after, trouble);
            return false;
        }
        let begins = is_bad == Some(true) && self.rules.begins(bad, good);
        if begins {
            self.begin(at, service);
        }
        begins
    }

    /// Time passes, and with it an incident may have come to its end.
    pub(super) fn advance(&mut self, now: Instant) -> Duration {
        let born = *self.born.get_or_insert(now);
        self.latest = self.latest.max(now.saturating_duration_since(born));
        let at = self.latest;
        if let Some(mut open) = self.open.take() {
            open.ended = self.ending(&open, at);
            if open.ended.is_some() {
                self.recent.clear();
                if self.past.len() >= self.rules.kept.clamp(1, MOST_KEPT) {
                    self.past.pop_front();
                    self.forgotten += 1;
                }
                self.past.push_back(Arc::from(open));
            } else {
                self.open = Some(open);
            }
        }
        let newest = at.as_nanos() / self.rules.slice().as_nanos();
        let passed = newest.saturating_sub(self.newest).min(u128::from(SLICES));
        for back in 0..passed {
            self.slices[place(newest - back)].clear();
        }
        self.newest = self.newest.max(newest);
        at
    }

    /// When that moment was, counted from the first.
    pub(super) fn since_born(&self, now: Instant) -> Duration {
        let born = self.born.unwrap_or(now);
        now.saturating_duration_since(born)
    }

    fn ending(&self, open: &Incident, at: Duration) -> Option<Ending> {
        let calm = at.saturating_sub(open.trouble);
        if calm < self.rules.quiet() {
            return None;
        }
        match open.well {
            Some(_) => Some(Ending::Recovered),
            None if !self.told_of_success => Some(Ending::Untold),
            None => (calm >= self.rules.silence()).then_some(Ending::Silent),
        }
    }

    /// Bad and good outcomes within the window, of one service: a large one that is well must not hide
    /// that a small one is down.
    fn window(&self, service: usize) -> (u64, u64) {
        let outcomes = self.slices.iter().map(|slice| slice.outcomes[service]);
        outcomes.fold((0, 0), |(bad, good), it| (bad + it.bad, good + it.good))
    }

    /// An incident begins with the service's first bad outcome within the window.
    fn begin(&mut self, at: Duration, service: usize) {
        let length = self.rules.slice();
        let oldest = self.newest.saturating_sub(u128::from(SLICES - 1));
        let mut tally = Tally::new(self.services);
        let mut timeline = Timeline::new(times(length, oldest), length);
        let (mut began, mut back_at) = (None, None);
        for number in oldest..=self.newest {
            let slice = &self.slices[place(number)];
            timeline.step(times(length, number)).merge(&slice.step);
            began = began.or(slice.outcomes[service].first_bad);
            if began.is_some() {
                tally.merge(&slice.tally);
                back_at = back_at.max(slice.back_at);
            }
        }
        let began = began.unwrap_or(at);
        let mut changes = Changes::new();
        let of_it = self.recent.drain(..).filter(|it| it.at >= began);
        of_it.for_each(|it| changes.push(it));
        let past = u64::try_from(self.past.len()).unwrap_or(u64::MAX);
        self.open = Some(Box::new(Incident {
            number: self.forgotten + past + 1,
            began,
            trouble: at,
            well: None,
            ended: None,
            tally,
            pending: Tally::new(self.services),
            is_pending: false,
            timeline,
            changes,
            back_at,
            anchor: None,
        }));
    }
}

impl Slice {
    fn clear(&mut self) {
        self.tally.clear();
        self.step = Step::EMPTY;
        self.outcomes.fill(Outcomes::default());
        self.back_at = None;
    }
}

impl Incident {
    fn add(
        &mut self,
        at: Duration,
        service: usize,
        note: &Note,
        asked: Option<Asked>,
        slow_after: Duration,
        trouble: bool,
    ) {
        self.timeline.step(at).add(note, asked);
        self.back_at = self.back_at.max(asked.map(|it| it.back_at));
        if trouble {
            if self.is_pending {
                self.tally.merge(&self.pending);
                self.pending.clear();
                self.is_pending = false;
            }
            self.tally.add(service, note, asked, slow_after);
            (self.trouble, self.well) = (at, None);
            return;
        }
        self.pending.add(service, note, asked, slow_after);
        self.is_pending = true;
        if matches!(note, Note::Succeeded { .. }) {
            self.well.get_or_insert(at);
        }
    }
}

impl Changes {
    fn new() -> Self {
        Self {
            first: Vec::with_capacity(FIRST),
            last: VecDeque::with_capacity(LAST),
            left_out: 0,
        }
    }

    fn push(&mut self, change: Stamped) {
        if self.first.len() < FIRST {
            self.first.push(change);
        } else if push_bounded(&mut self.last, change, LAST) {
            self.left_out += 1;
        }
    }
}

/// Where the slice of this number is.
#[allow(clippy::cast_possible_truncation)] // below the number of slices
const fn place(number: u128) -> usize {
    (number % SLICES as u128) as usize
}

/// Whether the oldest had to go.
fn push_bounded<T>(queue: &mut VecDeque<T>, value: T, most: usize) -> bool {
    let full = queue.len() >= most;
    if full {
        queue.pop_front();
    }
    queue.push_back(value);
    full
}

/// So many times the length.
fn times(length: Duration, number: u128) -> Duration {
    let nanos = length.as_nanos().saturating_mul(number);
    let seconds = u64::try_from(nanos / 1_000_000_000).unwrap_or(u64::MAX);
    #[allow(clippy::cast_possible_truncation)] // below a second
    Duration::new(seconds, (nanos % 1_000_000_000) as u32)
}

/// What leads into an incident and out of it says more than what goes on in the middle.
const FIRST: usize = 32;
const LAST: usize = 32;

/// More changes than the policies of some services make within a window.
const RECENT: usize = 16;

/// An incident takes tens of kilobytes.
pub(super) const MOST_KEPT: usize = 1000;
