//! The right to make one call as plain data, and what is known when the call has ended.

use std::time::Duration;

use crate::backoff::count;
use crate::verdict::Kind;

use super::phase::{COUNTS_BY_TIME, COUNTS_CANCELLED, GENERATION_SHIFT};
use super::report::{Change, State, Why};

/// Three whole words, so that one that is given and taken back at once stays in registers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    /// Generation, what part it plays, and what asking for it opened. Of one that is counted it is
    /// the phase's word without its marks.
    word: u64,
    /// Counted: when it began, where that will matter. A probe: its number. A ghost: until when it
    /// would be refused.
    detail: u64,
    /// A ghost: for how long it opened.
    length: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Role {
    /// Its outcome is counted. When it began, where that will matter.
    Counted { begun: u64 },
    /// It would have been refused if the breaker did more than watch.
    Ghost(No),
    /// Nobody cares.
    Idle,
    /// It decides.
    Probe { number: u32, first: bool },
}

/// A refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct No {
    /// Or [`UNKNOWN`].
    until: u64,
    /// If it opened when it was asked, one more than the place in [`OPENED`]; and for how long.
    opened: u64,
    length: u64,
}

/// What is known of a call that ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) kind: Kind,
    pub(super) hint: Option<Duration>,
    pub(super) latency: Option<Duration>,
}

impl No {
    pub(super) const fn until(until: Option<u64>) -> Self {
        Self {
            until: match until {
                Some(UNKNOWN) => UNKNOWN - 1,
                Some(until) => until,
                None => UNKNOWN,
            },
            opened: 0,
            length: 0,
        }
    }

    /// It opened just now, until then.
    pub(super) fn opened(change: Change, until: u64) -> Self {
        let place = OPENED
            .iter()
            .position(|it| *it == (change.from, change.why));
        Self {
            opened: place.map_or(0, |place| place as u64 + 1),
            length: change.retry_after.map_or(0, count),
            ..Self::until(Some(until))
        }
    }

    pub(super) const fn known(self) -> Option<u64> {
        if self.until == UNKNOWN {
            return None;
        }
        Some(self.until)
    }

    #[inline]
    pub(super) fn change(self) -> Option<Change> {
        if self.opened == 0 {
            return None;
        }
        self.opening()
    }

    #[cold]
    fn opening(self) -> Option<Change> {
        let place = usize::try_from(self.opened - 1).ok()?;
        let (from, why) = *OPENED.get(place)?;
        Some(Change {
            from,
            to: State::Open,
            why,
            retry_after: Some(Duration::from_nanos(self.length)),
        })
    }
}

impl Ticket {
    /// Let through by a plain phase with this word.
    #[inline]
    pub(super) const fn plain(word: u64) -> Self {
        Self {
            word: word >> GENERATION_SHIFT << GENERATION_SHIFT,
            detail: 0,
            length: 0,
        }
    }

    pub(super) fn new(generation: u64, role: Role) -> Self {
        let (part, detail, length) = match role {
            Role::Counted { begun } => (COUNTED, begun, 0),
            Role::Ghost(no) => (GHOST | no.opened << PART_BITS, no.until, no.length),
            Role::Idle => (IDLE, 0, 0),
            Role::Probe { number, first } => {
                let part = if first { FIRST_PROBE } else { PROBE };
                (part, number.into(), 0)
            }
        };
        Self {
            word: generation << GENERATION_SHIFT | part,
            detail,
            length,
        }
    }

    pub(super) const fn generation(&self) -> u64 {
        self.word >> GENERATION_SHIFT
    }

    /// Whether it is counted, and the phase with this word is a plain one and still the same: then a
    /// success is counted, whatever else is known of it.
    #[inline]
    pub(super) const fn is_plain_in(&self, word: u64) -> bool {
        word & !(COUNTS_BY_TIME | COUNTS_CANCELLED) == self.word
    }

    #[allow(clippy::cast_possible_truncation)] // a probe's number was a `u32`
    pub(super) const fn role(&self) -> Role {
        match self.part() {
            COUNTED => Role::Counted { begun: self.detail },
            FIRST_PROBE | PROBE => Role::Probe {
                number: self.detail as u32,
                first: self.part() == FIRST_PROBE,
            },
            GHOST => Role::Ghost(self.no()),
            _ => Role::Idle,
        }
    }

    /// The change that its asking made.
    #[inline]
    pub(crate) fn change(&self) -> Option<Change> {
        match self.part() {
            FIRST_PROBE => Some(Change {
                from: State::Open,
                to: State::HalfOpen,
                why: Why::CooldownOver,
                retry_after: None,
            }),
            GHOST => self.no().change(),
            _ => None,
        }
    }

    /// What a watched call would have got, if it would have been refused.
    pub(super) const fn would_be_refused(&self) -> Option<No> {
        match self.part() {
            GHOST => Some(self.no()),
            _ => None,
        }
    }

    pub(super) const fn is_probe(&self) -> bool {
        matches!(self.part(), FIRST_PROBE | PROBE)
    }

    const fn part(&self) -> u64 {
        self.word & PART
    }

    /// Of a ghost.
    const fn no(&self) -> No {
        No {
            until: self.detail,
            opened: (self.word & (COUNTS_BY_TIME - 1)) >> PART_BITS,
            length: self.length,
        }
    }
}

/// From which states a breaker opens when it is asked, and why.
const OPENED: [(State, Why); 4] = [
    (State::Closed, Why::ConsecutiveFailures),
    (State::Closed, Why::FailureRatio),
    (State::Closed, Why::SlowRatio),
    (State::HalfOpen, Why::ProbeFailed),
];

const PART_BITS: u32 = 3;
/// Those that aren't counted have a bit that [`Ticket::is_plain_in`] finds in no phase's word.
const PART: u64 = COUNTS_BY_TIME | ((1 << PART_BITS) - 1);
const COUNTED: u64 = 0;
const GHOST: u64 = COUNTS_BY_TIME;
const IDLE: u64 = COUNTS_BY_TIME | 1;
const FIRST_PROBE: u64 = COUNTS_BY_TIME | 2;
const PROBE: u64 = COUNTS_BY_TIME | 3;

// What asking opened has its place between the two.
const _: () = assert!((OPENED.len() as u64) << PART_BITS < COUNTS_BY_TIME);

const UNKNOWN: u64 = u64::MAX;

#[cfg(all(test, not(evenkeel_loom)))]
mod tests {
    use super::*;
    use crate::breaker::phase::{COUNTS_SLOW, Phase, Stage};
    use crate::breaker::report::Mode;

    #[test]
    fn only_one_that_is_counted_is_plain_and_only_in_its_own_closed_spell() {
        let stages = [Stage::Closed, Stage::HalfOpen, Stage::Open, Stage::Ramp];
        let modes = [
            Mode::Automatic,
            Mode::Disabled,
            Mode::ForcedClosed,
            Mode::ForcedOpen,
            Mode::WatchOnly,
        ];
        for (stage, mode) in stages
            .into_iter()
            .flat_map(|it| modes.map(|mode| (it, mode)))
        {
            for (marks, generation) in (0..8).flat_map(|it| [(it, 6), (it, 7), (it, 8)]) {
                let phase = Phase {
                    stage,
                    mode,
                    generation,
                };
                let word = phase.pack() | marks << COUNTS_CANCELLED.trailing_zeros();
                assert_eq!(Phase::unpack(word), phase);
                let is_plain = stage == Stage::Closed
                    && mode == Mode::Automatic
                    && generation == 7
                    && word & COUNTS_SLOW == 0;
                for (role, is_counted) in roles() {
                    let ticket = Ticket::new(7, role);
                    let expected = is_plain && is_counted;
                    assert_eq!(ticket.is_plain_in(word), expected, "{phase:?} {role:?}");
                }
            }
        }
    }

    #[test]
    fn a_ticket_is_what_it_was_made_of() {
        for (role, _) in roles() {
            let ticket = Ticket::new(1 << 40, role);
            assert_eq!(ticket.generation(), 1 << 40);
            assert_eq!(format!("{:?}", ticket.role()), format!("{role:?}"));
        }
        let word = Phase {
            stage: Stage::Closed,
            mode: Mode::Automatic,
            generation: 9,
        };
        let plain = Ticket::plain(word.pack() | COUNTS_BY_TIME);
        assert_eq!(plain.generation(), 9);
        assert!(matches!(plain.role(), Role::Counted { begun: 0 }));
    }

    #[test]
    fn a_refusal_tells_all_of_the_change_that_it_made() {
        for (from, why) in OPENED {
            for length in [Duration::ZERO, Duration::from_nanos(u64::MAX)] {
                let change = Change {
                    from,
                    to: State::Open,
                    why,
                    retry_after: Some(length),
                };
                let no = No::opened(change, 5);
                assert_eq!((no.known(), no.change()), (Some(5), Some(change)));
                let ghost = Ticket::new(3, Role::Ghost(no));
                assert_eq!(ghost.would_be_refused(), Some(no));
                assert_eq!(ghost.change(), Some(change));
            }
        }
        assert_eq!(No::until(None).known(), None);
        assert_eq!(No::until(Some(u64::MAX)).known(), Some(u64::MAX - 1));
        assert_eq!(No::until(Some(7)).change(), None);
    }

    fn roles() -> Vec<(Role, bool)> {
        let counted = [0, 1, u64::MAX].map(|begun| (Role::Counted { begun }, true));
        let probes = [(0, true), (u32::MAX, false)]
            .map(|(number, first)| (Role::Probe { number, first }, false));
        let ghosts = (0..=OPENED.len() as u64).map(|opened| {
            let no = No {
                until: 5,
                opened,
                length: 9,
            };
            (Role::Ghost(no), false)
        });
        let others = [(Role::Idle, false)];
        (counted.into_iter().chain(probes))
            .chain(ghosts)
            .chain(others)
            .collect()
    }
}
