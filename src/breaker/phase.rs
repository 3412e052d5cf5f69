//! What everybody sees of a breaker who asks, in one word.

use super::report::{Mode, State};

/// State, mode and spell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Phase {
    pub(super) stage: Stage,
    pub(super) mode: Mode,
    /// Goes up with every change. What was let through in one generation says nothing in another.
    pub(super) generation: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Closed,
    HalfOpen,
    Open,
    /// Closed, and on the way back to full traffic.
    Ramp,
}

impl Phase {
    /// Closed and automatic is zero below the generation.
    pub(super) const fn pack(self) -> u64 {
        let stage = match self.stage {
            Stage::Closed => 0,
            Stage::HalfOpen => 1,
            Stage::Open => 2,
            Stage::Ramp => 3,
        };
        let mode = match self.mode {
            Mode::Automatic => 0,
            Mode::Disabled => 1,
            Mode::ForcedClosed => 2,
            Mode::ForcedOpen => 3,
            Mode::WatchOnly => 4,
        };
        self.generation << GENERATION_SHIFT | mode << MODE_SHIFT | stage
    }

    #[inline]
    pub(super) const fn unpack(word: u64) -> Self {
        Self {
            stage: match word & 3 {
                0 => Stage::Closed,
                1 => Stage::HalfOpen,
                2 => Stage::Open,
                _ => Stage::Ramp,
            },
            mode: match (word & MODE) >> MODE_SHIFT {
                0 => Mode::Automatic,
                1 => Mode::Disabled,
                2 => Mode::ForcedClosed,
                3 => Mode::ForcedOpen,
                _ => Mode::WatchOnly,
            },
            generation: word >> GENERATION_SHIFT,
        }
    }

    /// Whether a word is that of a closed, automatic breaker to which it doesn't matter when its
    /// calls began.
    #[inline]
    pub(super) const fn is_plain(word: u64) -> bool {
        word & (STATE | COUNTS_CANCELLED) == 0
    }

    /// Whether a word is that of an open, automatic breaker.
    #[inline]
    pub(super) const fn is_open(word: u64) -> bool {
        word & STATE == 2
    }

    /// Whether a word is that of a breaker that was told to be open.
    #[inline]
    pub(super) const fn is_forced_open(word: u64) -> bool {
        word & MODE == 3 << MODE_SHIFT
    }

    pub(super) const fn state(self) -> State {
        match (self.mode, self.stage) {
            (Mode::ForcedOpen, _) | (_, Stage::Open) => State::Open,
            (_, Stage::Closed | Stage::Ramp) => State::Closed,
            (_, Stage::HalfOpen) => State::HalfOpen,
        }
    }
}

const MODE_SHIFT: u32 = 2;
const MODE: u64 = 7 << MODE_SHIFT;
const STATE: u64 = MODE | 3;

// Of the settings, what every call has to know: here it is read together with the phase.

/// Dropped calls count, so each has to know when it began.
pub(super) const COUNTS_CANCELLED: u64 = 1 << 5;
/// Slow calls count.
pub(super) const COUNTS_SLOW: u64 = 1 << 6;
/// Some rule looks at a window of time.
pub(super) const COUNTS_BY_TIME: u64 = 1 << 7;

pub(super) const GENERATION_SHIFT: u32 = 8;
