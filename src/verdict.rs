//! What an outcome means: [`Verdict`] and the [`Classify`] trait that gives it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::chaos::{Fault, Imitation};
use crate::clock::Clock;
use crate::diagnosis::Diagnosis;

/// What one outcome means for every policy.
///
/// An outcome is classified once; budget, retry and telemetry all read the same verdict.
///
/// # Examples
///
/// ```
/// use evenkeel::verdict::{Kind, Processed, Verdict};
///
/// let verdict = Verdict::new(Kind::Overloaded).processed(Processed::No);
/// assert!(verdict.is_retryable());
/// assert_eq!(verdict.was_processed(), Processed::No);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a verdict is an answer, not an action"]
pub struct Verdict {
    kind: Kind,
    processed: Processed,
    hint: Option<Hint>,
    label: Label,
}

impl Verdict {
    /// A verdict of this kind, with [`Processed::Maybe`] (for success: [`Processed::Yes`]), no
    /// hint and no label.
    pub const fn new(kind: Kind) -> Self {
        let processed = match kind {
            Kind::Success => Processed::Yes,
            _ => Processed::Maybe,
        };
        Self {
            kind,
            processed,
            hint: None,
            label: Label::None,
        }
    }

    /// The outcome is what the caller wanted.
    pub const fn success() -> Self {
        Self::new(Kind::Success)
    }

    /// A failure that another attempt may well not meet.
    pub const fn transient() -> Self {
        Self::new(Kind::Transient)
    }

    /// Says whether the server may have acted on the request.
    pub const fn processed(mut self, processed: Processed) -> Self {
        self.processed = processed;
        self
    }

    /// Adds what the server asked for.
    pub const fn hint(mut self, hint: Hint) -> Self {
        self.hint = Some(hint);
        self
    }

    /// Names the failure for telemetry. The name is static, so nothing secret can get in.
    pub const fn label(mut self, label: Label) -> Self {
        self.label = label;
        self
    }

    /// The kind of outcome.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether the server may have acted on the request.
    #[must_use]
    pub const fn was_processed(&self) -> Processed {
        self.processed
    }

    /// What the server asked for, if it asked for anything.
    #[must_use]
    pub const fn server_hint(&self) -> Option<Hint> {
        self.hint
    }

    /// The low-cardinality name of the failure, as in OpenTelemetry's `error.type`.
    #[must_use]
    pub const fn error_type(&self) -> Label {
        self.label
    }

    /// Whether the caller got what it wanted.
    #[must_use]
    pub const fn is_success(&self) -> bool {
        matches!(self.kind, Kind::Success)
    }

    /// Whether another attempt could help: the kind allows it and the server did not forbid it.
    ///
    /// Whether one is *safe* is another question: it needs an idempotent request or
    /// [`Processed::No`].
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        self.kind.is_retryable() && !matches!(self.hint, Some(Hint::Never))
    }
}

/// The kinds of outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Kind {
    /// The target has too much to do: a 503, a 529.
    Overloaded,
    /// This client, or this key, went over what it is allowed: a 429.
    RateLimited,
    /// Permanent, and the request's own fault: most 4xx. Repeating it gives the same answer.
    RequestFault,
    /// The caller got what it wanted.
    Success,
    /// Permanent, and the target's fault: a 501, a certificate that doesn't match.
    TargetFault,
    /// Likely to pass: a reset connection, a 502, a timeout.
    Transient,
}

impl Kind {
    /// Whether another attempt can turn this kind of failure into a success.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::Overloaded | Self::RateLimited | Self::Transient)
    }
}

/// Whether the server may have acted on the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(clippy::exhaustive_enums)] // these three are all there can be
pub enum Processed {
    /// Provably not: it was never sent, or the server guarantees that it did not touch it.
    No,
    /// Nobody can tell. Only an idempotent request may go again.
    Maybe,
    /// It did.
    Yes,
}

/// What the server asked the client to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hint {
    /// Not before this much time has passed, counted from the response.
    After(Duration),
    /// Not before this moment of the wall clock. Used where the response gave a date but no
    /// `Date` of its own to measure it by.
    At(SystemTime),
    /// Never again.
    Never,
}

/// A low-cardinality name of a failure: a status code or a static word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Label {
    /// A word such as `connect`, `dns` or `timeout`.
    Name(&'static str),
    /// No name.
    #[default]
    None,
    /// An HTTP status code.
    Status(u16),
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::None => f.write_str("error"),
            Self::Status(code) => write!(f, "{code}"),
        }
    }
}

/// Tells what an outcome means.
///
/// Closures qualify through [`by`]. The default of [`Pipeline::new`](crate::Pipeline::new) is
/// [`EveryError`]; HTTP's is [`Http`](crate::http::Http).
pub trait Classify<T, E> {
    /// The verdict on one outcome. Called once per attempt, on the task that runs the call.
    fn classify(&self, outcome: Result<&T, &E>) -> Verdict;

    /// What an injected fault is here: the very outcome that the real thing would have, or at least
    /// what it would mean. Asked where a [`Chaos`](crate::Chaos) injects one. Default: what
    /// [the fault itself](Fault::verdict) says.
    fn imitate(&self, fault: &Fault) -> Imitation<T, E> {
        Imitation::Verdict(fault.verdict())
    }

    /// What was the matter with a failed outcome; `seen` tells what the engine knows of it. Called
    /// once per failed attempt, after [`classify`](Self::classify). It is for reports and events, and
    /// decides nothing. Default: nothing.
    fn diagnose(&self, outcome: Result<&T, &E>, seen: Circumstances<'_>) -> Option<Diagnosis> {
        let _ = (outcome, seen);
        None
    }
}

/// What the engine knows of an outcome that the outcome itself doesn't hold.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Circumstances<'a> {
    /// From sending the request to its failure. `None`: it was over when first looked at.
    pub elapsed: Option<Duration>,
    wall: Wall<'a>,
}

/// Read only if somebody wants to know it: that takes longer than all else that most classifiers do.
#[derive(Clone, Copy, Debug)]
enum Wall<'a> {
    Known(SystemTime),
    OnAsking(&'a Clock),
}

impl<'a> Circumstances<'a> {
    /// For those who ask a classifier themselves.
    #[must_use]
    pub const fn new(elapsed: Option<Duration>, wall: SystemTime) -> Self {
        let wall = Wall::Known(wall);
        Self { elapsed, wall }
    }

    pub(crate) const fn by(elapsed: Option<Duration>, clock: &'a Clock) -> Self {
        let wall = Wall::OnAsking(clock);
        Self { elapsed, wall }
    }

    /// The wall clock.
    #[must_use]
    pub fn wall(&self) -> SystemTime {
        match self.wall {
            Wall::Known(wall) => wall,
            Wall::OnAsking(clock) => clock.wall(),
        }
    }
}

impl<T, E, C: Classify<T, E> + ?Sized> Classify<T, E> for &C {
    fn classify(&self, outcome: Result<&T, &E>) -> Verdict {
        C::classify(self, outcome)
    }

    fn imitate(&self, fault: &Fault) -> Imitation<T, E> {
        C::imitate(self, fault)
    }

    fn diagnose(&self, outcome: Result<&T, &E>, seen: Circumstances<'_>) -> Option<Diagnosis> {
        C::diagnose(self, outcome, seen)
    }
}

impl<T, E, C: Classify<T, E> + ?Sized> Classify<T, E> for Arc<C> {
    fn classify(&self, outcome: Result<&T, &E>) -> Verdict {
        C::classify(self, outcome)
    }

    fn imitate(&self, fault: &Fault) -> Imitation<T, E> {
        C::imitate(self, fault)
    }

    fn diagnose(&self, outcome: Result<&T, &E>, seen: Circumstances<'_>) -> Option<Diagnosis> {
        C::diagnose(self, outcome, seen)
    }
}

impl<T, E, C: Classify<T, E> + ?Sized> Classify<T, E> for Box<C> {
    fn classify(&self, outcome: Result<&T, &E>) -> Verdict {
        C::classify(self, outcome)
    }

    fn imitate(&self, fault: &Fault) -> Imitation<T, E> {
        C::imitate(self, fault)
    }

    fn diagnose(&self, outcome: Result<&T, &E>, seen: Circumstances<'_>) -> Option<Diagnosis> {
        C::diagnose(self, outcome, seen)
    }
}

/// `Ok` is success; every `Err` is a transient failure that the server may have processed.
#[derive(Clone, Copy, Debug, Default)]
pub struct EveryError;

impl<T, E> Classify<T, E> for EveryError {
    fn classify(&self, outcome: Result<&T, &E>) -> Verdict {
        match outcome {
            Ok(_) => Verdict::success(),
            Err(_) => Verdict::transient(),
        }
    }
}

/// A classifier made of a closure; see [`by`].
#[derive(Clone, Copy)]
pub struct By<F>(F);

/// Classifies with a closure.
///
/// # Examples
///
/// ```
/// use evenkeel::{Pipeline, verdict::{self, Kind, Verdict}};
///
/// let pipeline = Pipeline::new().classify(verdict::by(|outcome: Result<&u32, &&str>| {
///     match outcome {
///         Ok(_) => Verdict::success(),
///         Err(&"no such row") => Verdict::new(Kind::RequestFault),
///         Err(_) => Verdict::transient(),
///     }
/// }));
/// # let _ = pipeline;
/// ```
pub const fn by<T, E, F>(classify: F) -> By<F>
where
    F: Fn(Result<&T, &E>) -> Verdict,
{
    By(classify)
}

impl<T, E, F> Classify<T, E> for By<F>
where
    F: Fn(Result<&T, &E>) -> Verdict,
{
    fn classify(&self, outcome: Result<&T, &E>) -> Verdict {
        (self.0)(outcome)
    }
}

impl<F> fmt::Debug for By<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "By<{}>", std::any::type_name::<F>())
    }
}
