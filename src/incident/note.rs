//! What the recorder takes from an event: pure.

use std::time::Duration;

use crate::budget::Snapshot;
use crate::diagnosis::{Brief, Cause, Origin};
use crate::error::Reason;
use crate::event::{Change, End, Event};
use crate::incident::cause::{self, Found, Lasts};
use crate::keyed::Key;
use crate::limit;
use crate::report::{Stop, Wait, WaitReason};
use crate::verdict::{Hint, Label, Processed, Verdict};

/// What the recorder takes from an event.
#[derive(Clone, Copy, Debug)]
pub(super) enum Note {
    Changed(Change),
    /// An attempt failed.
    Failed(Failed),
    Injected,
    Parked(WaitReason, Option<Duration>),
    /// A call ended before an attempt of it was begun.
    Refused(Reason),
    /// A call ended well.
    Succeeded {
        attempts: u32,
        elapsed: Duration,
        parked: Duration,
    },
    /// A call that ended otherwise had waited in line for so long.
    Waited(Duration),
    WouldRefuse,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Failed {
    /// From 1.
    pub(super) attempt: u32,
    /// `None`: the request's own fault.
    pub(super) found: Option<Found>,
    pub(super) label: Label,
    /// What the server asked for, if it asked for anything.
    pub(super) hint: Option<Hint>,
    pub(super) next: Next,
    /// What is left in the budget, from 0 to 1.
    pub(super) budget: Option<f32>,
}

/// What follows a failure.
#[derive(Clone, Copy, Debug)]
pub(super) enum Next {
    /// The deadline passed while it ran.
    Deadline,
    Retry(Wait),
    Stop(Stop),
}

impl Note {
    /// `None`: of no interest.
    pub(super) fn of(event: &Event) -> Option<(Option<Key>, Self)> {
        Some(match *event {
            // A learned limit moves all the time. Nobody is affected by how a check ends, and what it
            // changed is told as well.
            Event::Changed {
                change: Change::Limit(limit::Change::Moved { .. }),
                ..
            }
            | Event::Checked { .. } => return None,
            Event::Changed { key, change, .. } => (key, Self::Changed(change)),
            Event::Done {
                attempts,
                key,
                end,
                elapsed,
                parked,
                ..
            } => match end {
                End::Success => (
                    key,
                    Self::Succeeded {
                        attempts,
                        elapsed,
                        parked,
                    },
                ),
                // Of this attempt nothing was told before.
                End::Deadline => (key, cut_short(attempts)),
                // Of these all else was.
                End::Failed(_) | End::Invalid | End::Rejected(_) if parked.is_zero() => {
                    return None;
                }
                End::Failed(_) | End::Invalid | End::Rejected(_) => (key, Self::Waited(parked)),
            },
            Event::Injected { key, .. } => (key, Self::Injected),
            Event::Parked {
                key, reason, wait, ..
            } => (key, Self::Parked(reason, wait)),
            Event::Reject { key, reason, .. } => (key, Self::Refused(reason)),
            Event::Retry {
                attempt,
                key,
                verdict,
                ref diagnosis,
                wait,
                budget,
                ..
            } => {
                let next = Next::Retry(wait);
                (
                    key,
                    failed(attempt, verdict, diagnosis.as_ref(), next, budget),
                )
            }
            Event::Stop {
                attempt,
                key,
                verdict,
                ref diagnosis,
                stop,
                budget,
                ..
            } => {
                let stop = match stop {
                    // Counted as one.
                    Stop::NotSafe(_) => Stop::NotSafe(Processed::Maybe),
                    stop => stop,
                };
                let next = Next::Stop(stop);
                (
                    key,
                    failed(attempt, verdict, diagnosis.as_ref(), next, budget),
                )
            }
            Event::WouldReject { key, .. } => (key, Self::WouldRefuse),
        })
    }

    /// Whether it is of those that only an observer is told of that wants all.
    pub(super) fn is_plain(&self) -> bool {
        matches!(self, Self::Succeeded { attempts: 1, parked, .. } if parked.is_zero())
    }

    /// Whether a caller, or another attempt, would be worse off for it. `None`: it says nothing of that.
    pub(super) const fn is_bad(&self) -> Option<bool> {
        match self {
            Self::Failed(failed) => Some(failed.found.is_some()),
            Self::Refused(_) => Some(true),
            Self::Succeeded { .. } => Some(false),
            Self::Changed(_)
            | Self::Injected
            | Self::Parked(..)
            | Self::Waited(_)
            | Self::WouldRefuse => None,
        }
    }
}

/// An attempt that was cut short by the deadline. One that never became ready to be made is
/// counted as one as well.
fn cut_short(attempts: u32) -> Note {
    Note::Failed(Failed {
        attempt: attempts.max(1),
        found: Some(Found::undiagnosed(
            Cause::OwnTimeout,
            Origin::Client,
            Lasts::Unknown,
        )),
        label: Label::Name("deadline"),
        hint: None,
        next: Next::Deadline,
        budget: None,
    })
}

fn failed(
    attempt: u32,
    verdict: Verdict,
    diagnosis: Option<&Brief>,
    next: Next,
    budget: Option<Snapshot>,
) -> Note {
    #[allow(clippy::cast_possible_truncation)] // for a plot
    let level = |it: Snapshot| (it.available / it.capacity).clamp(0.0, 1.0) as f32;
    Note::Failed(Failed {
        attempt,
        found: cause::of(verdict, diagnosis),
        label: verdict.error_type(),
        hint: verdict.server_hint(),
        next,
        budget: budget.map(level).filter(|level| level.is_finite()),
    })
}
