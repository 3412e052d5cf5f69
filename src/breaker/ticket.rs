//! The right to make one call as plain data, and what is known when the call has ended.

use std::time::Duration;

use crate::backoff::count;
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
    /// From which state and why it opened, if it did so when it was asked; and for how long.
    opened: Option<(State, Why)>,
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
    pub(super) fn until(until: Option<u64>) -> Self {
        Self {
            until: until.map_or(UNKNOWN, |until| until.min(UNKNOWN - 1)),
            opened: None,
            length: 0,
        }
    }

    /// It opened just now, until then.
    pub(super) fn opened(change: Change, until: u64) -> Self {
        Self {
            until: until.min(UNKNOWN - 1),
            opened: Some((change.from, change.why)),
            length: change.retry_after.map_or(0, count),
        }
    }

    pub(super) fn known(self) -> Option<u64> {
        (self.until != UNKNOWN).then_some(self.until)
    }

    pub(super) fn change(self) -> Option<Change> {
        self.opened.map(|(from, why)| Change {
            from,
            to: State::Open,
            why,
            retry_after: Some(Duration::from_nanos(self.length)),
        })
    }
}

impl Ticket {
    /// The change that its asking made.
    pub(crate) fn change(&self) -> Option<Change> {
        match self.role {
            Role::Probe { first: true, .. } => Some(Change {
                from: State::Open,
                to: State::HalfOpen,
                why: Why::CooldownOver,
                retry_after: None,
            }),
            Role::Ghost(no) => no.change(),
            _ => None,
        }
    }

    /// What a watched call would have got, if it would have been refused.
    pub(super) const fn would_be_refused(&self) -> Option<No> {
        match self.role {
            Role::Ghost(no) => Some(no),
            _ => None,
        }
    }

    pub(super) const fn is_probe(&self) -> bool {
        matches!(self.role, Role::Probe { .. })
    }
}

const UNKNOWN: u64 = u64::MAX;
