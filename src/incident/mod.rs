//! The story of an outage, from the events of it: when it began and ended, what was seen, what the
//! client did, and what to look at next.
//!
//! When a service was down, people ask the same questions: since when, why, whom did it hit, what did we see, did
//! our retries help or hurt, what do we change. The answers are in the [events](crate::Event), but
//! thousands of lines of a log are no answer. A [`Recorder`] listens, remembers the last seconds, notices
//! that an incident begins, and condenses it as it goes on into a [`Report`]: a screen of Markdown,
//! JSON, or an HTML page with a timeline. However long it lasts and however much happens, what it keeps is
//! bounded.
//!
//! # Example
//!
//! ```
//! use evenkeel::incident::Recorder;
//! use evenkeel::{Key, Pipeline, Retry};
//! # use evenkeel::Clock;
//! use std::time::Duration;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let recorder = Recorder::new().named(Key::of("billing"), "billing");
//! let pipeline = Pipeline::new()
//!     .retry(Retry::constant(Duration::ZERO).max_attempts(3))
//!     .observer(recorder.clone());
//! for _ in 0..3 {
//!     let _ = pipeline.run(|_| async { Err::<(), _>("down") }).await;
//! }
//!
//! let report = recorder.latest().expect("nine failures in a row");
//! assert_eq!(report.failures(), 9);
//! assert!(report.end.is_none()); // it goes on
//! println!("{}", report.markdown());
//! # }
//! ```
//!
//! # When it is an incident
//!
//! An attempt that failed is *bad*, unless that was the request's own fault, and so is a call that a
//! policy refused. An attempt that was answered is *good*. An incident begins when
//! within the window enough outcomes of one service were bad, and a large enough share of all of that
//! service; its begin is the first bad one within the window. Services without a name count as one. It goes on while bad outcomes come and are at least half of that share. It is
//! over when none of these came for a while, and a call succeeded; its end is then the last of them.
//! Where nothing is heard at all, it is over after ten times as long.
//!
//! # Why
//!
//! Causes are those of the [diagnoses](crate::diagnosis) that come with the events: for each the report says how
//! sure they were, who said so, how long it would last, or when the server said that it would be back, and by
//! which evidence; and how what led changed over time. A pipeline with [`Health`](crate::diagnosis::Health)
//! knows more. Where a classifier knows nothing of causes, status and kind of the verdict have to do.
//!
//! # Successes
//!
//! A share needs successes, so a recorder [wants all](Observer::wants_all) ends of calls. Where that is too
//! much, give the pipeline a closure that calls [`observe`](Observer::observe): it is told only of what went
//! wrong, the number of bad outcomes decides alone, and calls that simply succeeded are no part of the
//! report.
//!
//! # Defaults
//!
//! | setting | default | why |
//! |---|---|---|
//! | [`share`](Recorder::share) | 20 % | people notice; noise is below it |
//! | [`least`](Recorder::least) | 5 bad outcomes | one failed call with all its retries is no incident |
//! | [`window`](Recorder::window) | 10 s | |
//! | [`quiet_for`](Recorder::quiet_for) | 30 s | a service that staggers has one incident, not many |
//! | [`slow_after`](Recorder::slow_after) | 1 s | people notice |
//! | [`kept`](Recorder::kept) | 8 incidents | the last night |
//!
//! # What it costs
//!
//! An event takes a look-up of its key, a reading of the clock and a short lock. Nothing is allocated
//! but when an incident begins: some 50 KB for each that is kept. Time is kept in 120 steps, of a tenth of the
//! window at first, that become twice as long whenever they are used up. Names are for 64 services; the rest
//! share a line. The first 32 changes of policies' states are kept and the last 32. A call that simply
//! succeeds is one event, and reads the clock at its beginning and its end.
//!
//! # What is in it
//!
//! Numbers, static words (those of signatures of your own as well), and the names that you gave; no header, host, path or body. The page and the
//! Markdown are safe whatever the names are.

mod advice;
mod cause;
mod dates;
mod json;
mod machine;
mod markdown;
mod note;
mod page;
mod plot;
mod report;
mod rules;
mod table;
mod tally;
mod timeline;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::budget::Ratio;
use crate::clock::{Clock, until};
use crate::error::ConfigError;
use crate::event::{Event, Observer};
use crate::keyed::Key;
use crate::sync::lock_plain;
use crate::verdict::Hint;

use machine::Machine;
use note::Note;
use rules::Rules;

pub use advice::Advice;
pub use machine::Ending;
pub use report::{Affected, Change, Clue, Finding, Moment, Outlook, Phase, Report};

/// Listens to the events of any number of pipelines, and makes reports of incidents. Clones share one.
///
/// The setters start an empty recorder: set it up before it is cloned or used.
#[derive(Clone)]
pub struct Recorder {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Clock,
    rules: Rules,
    // std's under loom too: its models don't look at reports.
    state: Mutex<State>,
}

struct State {
    names: Vec<String>,
    places: HashMap<Key, usize>,
    machine: Machine,
}

impl Recorder {
    /// A recorder with the defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Clock::tokio(), Rules::DEFAULT, Vec::new(), HashMap::new())
    }

    /// Where time comes from: the pipelines' own clock. Default: tokio's.
    #[must_use]
    pub fn clock(self, clock: Clock) -> Self {
        self.change(|it, _| *it = clock)
    }

    /// Names a service for the report; see [`name`](Self::name).
    #[must_use]
    pub fn named(self, key: Key, name: impl Into<String>) -> Self {
        self.name(key, name);
        self
    }

    /// From which share of bad outcomes within the window it is an incident, inclusive. Above 0, and at most
    /// 1. Default: 20 %.
    #[must_use]
    pub fn share(self, share: Ratio) -> Self {
        self.change(|_, it| it.share = share)
    }

    /// From how many bad outcomes within the window it is an incident, inclusive. At least 1. Default: 5.
    #[must_use]
    pub fn least(self, bad: u32) -> Self {
        self.change(|_, it| it.least = bad)
    }

    /// Over how much time outcomes are compared, to a tenth of it. Zero makes no sense. Default: 10 s.
    #[must_use]
    pub fn window(self, length: Duration) -> Self {
        self.change(|_, it| it.window = length)
    }

    /// How long after the last trouble an incident is over. At least the window. Default: 30 s.
    #[must_use]
    pub fn quiet_for(self, length: Duration) -> Self {
        self.change(|_, it| it.quiet = length)
    }

    /// From when on a call that succeeded was slow, inclusive. Zero: every call. Default: 1 s.
    #[must_use]
    pub fn slow_after(self, length: Duration) -> Self {
        self.change(|_, it| it.slow_after = length)
    }

    /// How many incidents that are over are kept; the oldest goes first. At least 1, and at most 1000 of
    /// them. Default: 8.
    #[must_use]
    pub fn kept(self, incidents: usize) -> Self {
        self.change(|_, it| it.kept = incidents)
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// A share of zero or above 1, a window of zero, a quiet that is shorter than the window, or none that
    /// are kept. A recorder that was not checked takes the nearest setting that makes sense.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.shared.rules.check()
    }

    /// Names a service for the report, from now on. A key that has a name keeps it.
    ///
    /// The first 64 services get a line of their own; all else shares the line `others`. Of a long name
    /// the first 80 characters are kept, and characters that steer a terminal or turn the direction of
    /// writing become spaces.
    pub fn name(&self, key: Key, name: impl Into<String>) {
        let name = clean(&name.into());
        let mut state = self.state();
        if state.places.contains_key(&key) || state.names.len() >= MOST_NAMED {
            return;
        }
        state.names.push(name);
        let place = state.names.len() + UNNAMED - 1;
        state.places.insert(key, place);
        state.machine.grow(place + 1);
    }

    /// The incident that goes on, or the last one. `None`: there was none.
    #[must_use]
    pub fn latest(&self) -> Option<Report> {
        self.reports(1).pop()
    }

    /// All incidents that are kept, the latest last: that one may go on.
    #[must_use]
    pub fn incidents(&self) -> Vec<Report> {
        self.reports(usize::MAX)
    }

    /// Of the last ones.
    fn reports(&self, most: usize) -> Vec<Report> {
        let clock = &self.shared.clock;
        let (now, wall) = (clock.now(), clock.wall());
        let (names, at, incidents) = {
            let mut state = self.state();
            let at = state.machine.advance(now);
            let open = state.machine.open.as_deref();
            let open = open.map(|it| Arc::new(it.clone()));
            let past = state.machine.past.iter().cloned();
            let mut all: Vec<_> = past.chain(open).collect();
            let from = all.len().saturating_sub(most);
            (state.names.clone(), at, all.split_off(from))
        };
        let reports = incidents.iter();
        reports
            .map(|incident| Report::new(incident, &names, at, wall))
            .collect()
    }

    fn take(&self, key: Option<Key>, note: &Note) {
        let clock = &self.shared.clock;
        let now = clock.now();
        let hint = match note {
            Note::Failed(failed) => match failed.hint {
                Some(Hint::After(length)) => Some(length),
                Some(Hint::At(moment)) => Some(until(moment, clock.wall())),
                Some(Hint::Never) | None => None,
            },
            _ => None,
        };
        let began = {
            let mut state = self.state();
            let service = match key {
                Some(key) => state.places.get(&key).copied().unwrap_or(OTHERS),
                None => NO_KEY,
            };
            state.machine.feed(now, service, note, hint)
        };
        if began {
            let (now, wall) = (clock.now(), clock.wall());
            let mut state = self.state();
            let at = state.machine.since_born(now);
            if let Some(open) = &mut state.machine.open {
                open.anchor.get_or_insert((at, wall));
            }
        }
    }

    fn with(clock: Clock, rules: Rules, names: Vec<String>, places: HashMap<Key, usize>) -> Self {
        let machine = Machine::new(rules, names.len() + UNNAMED);
        Self {
            shared: Arc::new(Shared {
                clock,
                rules,
                state: Mutex::new(State {
                    names,
                    places,
                    machine,
                }),
            }),
        }
    }

    fn change(self, change: impl FnOnce(&mut Clock, &mut Rules)) -> Self {
        let (mut clock, mut rules) = (self.shared.clock.clone(), self.shared.rules);
        change(&mut clock, &mut rules);
        let (names, places) = {
            let state = self.state();
            (state.names.clone(), state.places.clone())
        };
        Self::with(clock, rules, names, places)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock_plain(&self.shared.state)
    }
}

impl Observer for Recorder {
    fn observe(&self, event: &Event) {
        if let Some((key, note)) = Note::of(event) {
            self.take(key, &note);
        }
    }

    /// Yes: a share needs successes.
    fn wants_all(&self) -> bool {
        true
    }
}

impl Default for Recorder {
    /// [`Recorder::new`].
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder")
            .field("rules", &self.shared.rules)
            .finish_non_exhaustive()
    }
}

/// A name that can be shown anywhere.
fn clean(name: &str) -> String {
    let harmless = |it: char| match it {
        it if it.is_control() => ' ',
        // Line separators, and what turns the direction of writing.
        '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => ' ',
        it => it,
    };
    name.chars().take(LONGEST_NAME).map(harmless).collect()
}

/// Where calls are counted whose key has no name, and those that have no key.
const OTHERS: usize = 0;
const NO_KEY: usize = 1;
const UNNAMED: usize = 2;

/// A page with more lines helps nobody.
const MOST_NAMED: usize = 64;
const LONGEST_NAME: usize = 80;
