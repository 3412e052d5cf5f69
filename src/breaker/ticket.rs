//! The right to make one call as plain data, and what is known when the call has ended.

use std::time::Duration;

use crate::verdict::Kind;

use super::report::{Change, State, Why};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    pub(super) generation: u64,
    pub(super) role: Role,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Role {
    /// Its outcome is counted. When it began, where that will matter.
    Counted { begun: u64 },
    /// It would have been refused if the breaker did more than watch.
    Ghost { until: Option<u64> },
    /// Nobody cares.
    Idle,
    /// It decides.
    Probe { number: u32, first: bool },
}

/// What is known of a call that ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) kind: Kind,
    pub(super) hint: Option<Duration>,
    pub(super) latency: Option<Duration>,
}

impl Ticket {
    /// The change that its asking made.
    pub(crate) fn change(&self) -> Option<Change> {
        let first = matches!(self.role, Role::Probe { first: true, .. });
        first.then_some(Change {
            from: State::Open,
            to: State::HalfOpen,
            why: Why::CooldownOver,
            retry_after: None,
        })
    }

    /// Until when a watched call would have been refused, if it would have been.
    #[allow(clippy::option_option)] // whether, and until when
    pub(super) const fn would_be_refused(&self) -> Option<Option<u64>> {
        match self.role {
            Role::Ghost { until } => Some(until),
            _ => None,
        }
    }

    pub(super) const fn is_probe(&self) -> bool {
        matches!(self.role, Role::Probe { .. })
    }
}
