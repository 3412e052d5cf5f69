//! What a breaker tells: its state, its changes, its numbers.

use std::fmt;
use std::time::Duration;

/// The state a breaker is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[allow(clippy::exhaustive_enums)] // these three are all there can be
pub enum State {
    /// Calls go through. Right after half-open, perhaps only a share of them.
    #[default]
    Closed,
    /// A few probes go through, and decide.
    HalfOpen,
    /// No calls go through.
    Open,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half-open",
            Self::Open => "open",
        })
    }
}

/// Who decides over a breaker's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Mode {
    /// The breaker itself.
    #[default]
    Automatic,
    /// It is off: lets everything through and counts nothing.
    Disabled,
    /// It lets everything through, and counts.
    ForcedClosed,
    /// It lets nothing through.
    ForcedOpen,
    /// It counts and changes its state, and refuses nothing.
    WatchOnly,
}

/// A change of state, or of the mode. Exactly one caller is told of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// The state before.
    pub from: State,
    /// The state now: the same as before, perhaps, where the mode was set.
    pub to: State,
    /// Why.
    pub why: Why,
    /// In how long it lets a probe through, where it opened for a known time.
    pub retry_after: Option<Duration>,
}

/// Why a breaker changed its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Why {
    /// So many failures in a row.
    ConsecutiveFailures,
    /// The time it was to be open is over.
    CooldownOver,
    /// Too large a share of the calls failed.
    FailureRatio,
    /// Somebody set this mode.
    Manual(Mode),
    /// Probes failed.
    ProbeFailed,
    /// Enough probes succeeded.
    ProbeSucceeded,
    /// Restored from a snapshot.
    Restored,
    /// Too large a share of the calls was slow.
    SlowRatio,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConsecutiveFailures => "failures in a row",
            Self::CooldownOver => "cooldown over",
            Self::FailureRatio => "failure ratio",
            Self::Manual(_) => "set by hand",
            Self::ProbeFailed => "probe failed",
            Self::ProbeSucceeded => "probe succeeded",
            Self::Restored => "restored",
            Self::SlowRatio => "slow calls",
        })
    }
}

/// A breaker at one moment: for dashboards, and to [`restore`](super::Breaker::restore) it from.
///
/// Times are lengths, so that it means the same in another process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
#[non_exhaustive]
pub struct Snapshot {
    /// Who decides over the state.
    pub mode: Mode,
    /// The state.
    pub state: State,
    /// Calls in the window. Zero while not closed, or if no rule looks at a window.
    pub calls: u64,
    /// Failures among them.
    pub failures: u64,
    /// Slow calls among them.
    pub slow_calls: u64,
    /// Failures since the last success, where failures in a row are counted, up to the limit.
    pub consecutive_failures: u32,
    /// Probes that are out.
    pub probes: u32,
    /// While open: in how long it lets a probe through.
    pub retry_after: Option<Duration>,
    /// While it returns to full traffic: how much longer.
    pub ramp_left: Option<Duration>,
    /// How often it opened by itself, ever.
    pub trips: u32,
    /// How often of late: what the cooldown has grown by.
    pub trips_in_row: u32,
}

impl Snapshot {
    /// The share of calls that failed, from 0 to 1; `None` without calls.
    #[must_use]
    pub fn failure_ratio(&self) -> Option<f64> {
        ratio(self.failures, self.calls)
    }

    /// The share of calls that were slow, from 0 to 1; `None` without calls.
    #[must_use]
    pub fn slow_ratio(&self) -> Option<f64> {
        ratio(self.slow_calls, self.calls)
    }
}

#[allow(clippy::cast_precision_loss)] // for people to read
fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}
