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
        self.generation << GENERATION_SHIFT | mode << 2 | stage
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
            mode: match (word >> 2) & 7 {
                0 => Mode::Automatic,
                1 => Mode::Disabled,
                2 => Mode::ForcedClosed,
                3 => Mode::ForcedOpen,
                _ => Mode::WatchOnly,
            },
            generation: word >> GENERATION_SHIFT,
        }
    }

    /// Whether a word is that of a closed, automatic breaker.
    #[inline]
    pub(super) const fn is_plain(word: u64) -> bool {
        word & ((1 << GENERATION_SHIFT) - 1) == 0
    }

    /// Whether a word is that of an open, automatic breaker.
    #[inline]
    pub(super) const fn is_open(word: u64) -> bool {
        word & ((1 << GENERATION_SHIFT) - 1) == 2
    }

    pub(super) const fn state(self) -> State {
        match (self.mode, self.stage) {
            (Mode::ForcedOpen, _) | (_, Stage::Open) => State::Open,
            (_, Stage::Closed | Stage::Ramp) => State::Closed,
            (_, Stage::HalfOpen) => State::HalfOpen,
        }
    }
}

pub(super) const GENERATION_SHIFT: u32 = 5;
