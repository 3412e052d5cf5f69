//! How evidence adds up.
//!
//! Each cause has a score in decibans; every row of the table that holds adds what it says. The
//! best cause is named if it is clearly better than the next one and than not knowing; else the
//! answer is [`Cause::Unknown`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};

use super::signature::{self, Facts, Signature};
use super::signatures::TABLE;
use super::{Cause, Origin, Persistence, Symptoms};
use crate::verdict::Processed;

/// The built-in table of signatures, and rows of one's own. Clones are cheap.
#[derive(Clone)]
#[must_use = "a table does nothing until it diagnoses"]
pub struct Signatures {
    built_in: bool,
    own: Option<Arc<Vec<Signature>>>,
}

impl Signatures {
    /// The built-in rows.
    pub const fn new() -> Self {
        Self {
            built_in: true,
            own: None,
        }
    }

    /// Adds a row. See [`Signature`] for an example.
    pub fn with(mut self, row: Signature) -> Self {
        Arc::make_mut(self.own.get_or_insert_default()).push(row);
        self
    }

    /// Takes out all rows that this says no to, of the built-in ones as well.
    pub fn keep(self, keep: impl Fn(&Signature) -> bool) -> Self {
        let kept = self.rows().filter(|row| keep(row)).copied().collect();
        Self {
            built_in: false,
            own: Some(Arc::new(kept)),
        }
    }

    /// All rows: the built-in ones, then those that were added.
    pub fn rows(&self) -> impl Iterator<Item = &Signature> {
        let built_in = if self.built_in { TABLE } else { &[] };
        let own = self.own.iter().flat_map(|it| it.iter());
        built_in.iter().copied().flatten().chain(own)
    }

    /// The rows that hold for these symptoms.
    #[must_use]
    pub fn matching<'s>(&'s self, symptoms: &Symptoms<'_>) -> Vec<&'s Signature> {
        if !symptoms.is_failure() {
            return Vec::new();
        }
        let facts = Facts::of(symptoms);
        self.rows().filter(|row| row.matches(&facts)).collect()
    }

    /// What was the matter. Bounded: at most 4 KiB of the body and eight values of 1 KiB of each header
    /// are read, whatever they hold.
    pub fn diagnose(&self, symptoms: &Symptoms<'_>) -> Diagnosis {
        let mut diagnosis = Diagnosis::new();
        diagnosis.processed = symptoms.processed();
        diagnosis.elapsed = symptoms.elapsed;
        if !symptoms.is_failure() {
            return diagnosis;
        }
        let facts = Facts::of(symptoms);
        let (mut by_rows, mut announces) = (None, true);
        self.rows()
            .filter(|row| row.matches(&facts))
            .for_each(|row| {
                by_rows = by_rows.max(row.processed);
                announces &= !row.constant_hint;
                diagnosis.add(row);
            });
        if let (Processed::Maybe, Some(by_rows)) = (diagnosis.processed, by_rows) {
            let lied = by_rows == Processed::No && symptoms.is_repeated();
            diagnosis.processed = if lied { Processed::Maybe } else { by_rows };
        }
        if let Some(length) = facts.hint.filter(|length| announces && !length.is_zero()) {
            diagnosis.announced = Some(Persistence::Announced(length));
        }
        diagnosis.conclude();
        diagnosis
    }

    /// Whether a header says what only somebody's hand can mend.
    pub(crate) fn ends_retries(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        signature::ends_retries(&mut self.rows(), status, headers)
    }
}

impl Default for Signatures {
    /// The built-in rows.
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Signatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signatures")
            .field("own", &self.own.as_ref().map_or(0, |it| it.len()))
            .finish_non_exhaustive()
    }
}

/// What was the matter, who says so, for how long, and by which evidence.
///
/// A judgement, not a measurement: see [`confidence`](Self::confidence) before you act on it.
///
/// # Examples
///
/// ```
/// use evenkeel::diagnosis::{Cause, Origin, Symptoms};
/// use evenkeel::verdict::Processed;
/// use http::{HeaderMap, HeaderValue, StatusCode};
///
/// let mut headers = HeaderMap::new();
/// headers.insert("server", HeaderValue::from_static("envoy"));
/// let seen = Symptoms::response(StatusCode::SERVICE_UNAVAILABLE, &headers);
/// let diagnosis = seen.body(b"no healthy upstream").diagnose();
/// assert_eq!(diagnosis.cause(), Cause::UpstreamUnavailable);
/// assert_eq!(diagnosis.origin(), Origin::Proxy("envoy"));
/// assert_eq!(diagnosis.processed(), Processed::No);
/// assert_eq!(
///     diagnosis.to_string(),
///     "upstream unavailable (99 %), said by envoy, persistent, not processed",
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[must_use = "a diagnosis is an answer, not an action"]
pub struct Diagnosis {
    cause: Cause,
    origin: Origin,
    #[cfg_attr(feature = "serde", serde(serialize_with = "serialize_processed"))]
    processed: Processed,
    persistence: Persistence,
    confidence: u8,
    #[cfg_attr(feature = "serde", serde(serialize_with = "serialize_evidence"))]
    evidence: Kept,
    #[cfg_attr(feature = "serde", serde(skip))]
    scores: [i16; CAUSES],
    #[cfg_attr(feature = "serde", serde(skip))]
    announced: Option<Persistence>,
    /// When it came, for those who know when others did.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(super) elapsed: Option<Duration>,
}

impl Diagnosis {
    const fn new() -> Self {
        let mut scores = [0; CAUSES];
        scores[Cause::Unknown.index()] = DOUBT;
        Self {
            cause: Cause::Unknown,
            origin: Origin::Unknown,
            processed: Processed::Maybe,
            persistence: Persistence::Unknown,
            confidence: 0,
            evidence: Kept {
                all: [Evidence::NONE; EVIDENCE],
                len: 0,
            },
            scores,
            announced: None,
            elapsed: None,
        }
    }

    /// What was the matter.
    #[must_use]
    pub const fn cause(&self) -> Cause {
        self.cause
    }

    /// Who made what the client saw.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        self.origin
    }

    /// Whether the application may have acted on the request, as far as the markers tell.
    ///
    /// More than retries rely on: a [`Verdict`](crate::Verdict) goes by what is
    /// [proven](crate::http::provably_not_sent), and a proxy's error page is no proof.
    #[must_use]
    pub const fn processed(&self) -> Processed {
        self.processed
    }

    /// How long it is likely to last.
    #[must_use]
    pub const fn persistence(&self) -> Persistence {
        self.persistence
    }

    /// How sure the cause is, in percent: 0 for [`Cause::Unknown`], and never more than 99.
    #[must_use]
    pub const fn confidence(&self) -> u8 {
        self.confidence
    }

    /// What it was told by, the heaviest first; at most eight pieces are kept.
    #[must_use]
    pub fn evidence(&self) -> &[Evidence] {
        &self.evidence.all[..usize::from(self.evidence.len)]
    }

    /// The same in few words, as events carry it.
    pub fn brief(&self) -> Brief {
        let mut evidence = [Evidence::NONE; BRIEF];
        let mut len = 0;
        for (place, it) in evidence.iter_mut().zip(self.evidence()) {
            *place = *it;
            len += 1;
        }
        Brief {
            cause: self.cause,
            origin: self.origin,
            persistence: self.persistence,
            confidence: self.confidence,
            len,
            evidence,
        }
    }

    /// The score of a cause, in decibans. What isn't pointed to at all has zero.
    #[must_use]
    pub const fn score(&self, cause: Cause) -> i16 {
        self.scores[cause.index()]
    }

    /// Adds what a row says, without a conclusion.
    pub(super) fn add(&mut self, row: &Signature) {
        for (cause, weight) in row.says {
            let score = &mut self.scores[cause.index()];
            *score = score.saturating_add(i16::from(*weight));
        }
        self.evidence.keep(Evidence::of(row));
    }

    /// Draws the conclusion from all that was added.
    pub(super) fn conclude(&mut self) {
        self.cause = self.best();
        self.confidence = self.sure_of(self.cause);
        self.origin = self.heard_from();
        self.persistence = self.lasts();
    }

    fn best(&self) -> Cause {
        let mut best = (Cause::Unknown, i16::MIN);
        let mut next = i16::MIN;
        for cause in Cause::ALL {
            let score = self.score(cause);
            if score > best.1 {
                next = best.1;
                best = (cause, score);
            } else {
                next = next.max(score);
            }
        }
        if best.1.saturating_sub(next) < MARGIN {
            return Cause::Unknown;
        }
        best.0
    }

    fn sure_of(&self, cause: Cause) -> u8 {
        if cause == Cause::Unknown {
            return 0;
        }
        // Against the best, so that nothing overflows.
        let best = f64::from(self.score(cause));
        let odds = |score: &i16| 10_f64.powf((f64::from(*score) - best) / 10.0);
        let percent = 100.0 / self.scores.iter().map(odds).sum::<f64>();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // within 0 to 100
        let percent = percent as u8;
        percent.min(99)
    }

    /// Whose markers weigh most.
    fn heard_from(&self) -> Origin {
        let known = self.evidence().iter();
        let known = known.filter(|it| it.origin != Origin::Unknown);
        // The first of the heaviest: `max_by_key` would take the last.
        known
            .rev()
            .max_by_key(|it| it.weight.unsigned_abs())
            .map_or(Origin::Unknown, |it| it.origin)
    }

    fn lasts(&self) -> Persistence {
        if let Some(announced) = self.announced {
            return announced;
        }
        let mut told = self.evidence().iter().filter(|it| it.cause == self.cause);
        let told = told.find(|it| it.persistence != Persistence::Unknown);
        if let Some(told) = told {
            return told.persistence;
        }
        match self.cause {
            Cause::Overload | Cause::RateLimit => Persistence::Momentary,
            Cause::Configuration | Cause::Maintenance => Persistence::Persistent,
            _ => Persistence::Unknown,
        }
    }

    pub(super) fn set_persistence(&mut self, persistence: Persistence) {
        self.persistence = persistence;
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cause)?;
        if self.cause != Cause::Unknown {
            write!(f, " ({} %)", self.confidence)?;
        }
        if self.origin != Origin::Unknown {
            write!(f, ", said by {}", self.origin)?;
        }
        if self.persistence != Persistence::Unknown {
            write!(f, ", {}", self.persistence)?;
        }
        f.write_str(match self.processed {
            Processed::No => ", not processed",
            Processed::Maybe => ", perhaps processed",
            Processed::Yes => ", processed",
        })
    }
}

/// A [`Diagnosis`] in few words, as [events](crate::Event) carry it: small, and nothing is allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a diagnosis is an answer, not an action"]
pub struct Brief {
    cause: Cause,
    origin: Origin,
    persistence: Persistence,
    confidence: u8,
    len: u8,
    evidence: [Evidence; BRIEF],
}

impl Brief {
    /// What was the matter.
    #[must_use]
    pub const fn cause(&self) -> Cause {
        self.cause
    }

    /// Who made what the client saw.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        self.origin
    }

    /// How long it is likely to last.
    #[must_use]
    pub const fn persistence(&self) -> Persistence {
        self.persistence
    }

    /// How sure the cause is, in percent: 0 for [`Cause::Unknown`], and never more than 99.
    #[must_use]
    pub const fn confidence(&self) -> u8 {
        self.confidence
    }

    /// The heaviest pieces of evidence, at most three.
    #[must_use]
    pub fn evidence(&self) -> &[Evidence] {
        &self.evidence[..usize::from(self.len)]
    }
}

/// One piece of evidence: the name of a row of the table, and how much it weighs.
///
/// Static words and a number: no header value and nothing of a body gets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Evidence {
    name: &'static str,
    source: &'static str,
    cause: Cause,
    weight: i8,
    #[cfg_attr(feature = "serde", serde(skip))]
    origin: Origin,
    #[cfg_attr(feature = "serde", serde(skip))]
    persistence: Persistence,
}

impl Evidence {
    const NONE: Self = Self {
        name: "",
        source: "",
        cause: Cause::Unknown,
        weight: 0,
        origin: Origin::Unknown,
        persistence: Persistence::Unknown,
    };

    fn of(row: &Signature) -> Self {
        // The first of the strongest: `max_by_key` would take the last.
        let all = row.says.iter().rev();
        let strongest = all.max_by_key(|(_, weight)| weight.unsigned_abs());
        let (cause, weight) = strongest.copied().unwrap_or_default();
        Self {
            name: row.name,
            source: row.source,
            cause,
            weight,
            origin: row.origin,
            persistence: row.persistence,
        }
    }

    /// The name of the row.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Where the row is known from.
    #[must_use]
    pub const fn source(&self) -> &'static str {
        self.source
    }

    /// The cause that it speaks for most, or against.
    #[must_use]
    pub const fn cause(&self) -> Cause {
        self.cause
    }

    /// How much, in decibans: 10 make it ten times as likely; negative speaks against.
    #[must_use]
    pub const fn weight(&self) -> i8 {
        self.weight
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:+} {})", self.name, self.weight, self.cause)
    }
}

/// The heaviest pieces, in order.
#[derive(Clone, PartialEq, Eq)]
struct Kept {
    all: [Evidence; EVIDENCE],
    len: u8,
}

impl Kept {
    fn keep(&mut self, new: Evidence) {
        let len = usize::from(self.len);
        let heavier = |it: &Evidence| it.weight.unsigned_abs() >= new.weight.unsigned_abs();
        let place = self.all[..len].iter().take_while(|it| heavier(it)).count();
        if place == EVIDENCE {
            return;
        }
        let end = (len + 1).min(EVIDENCE);
        self.all[place..end].rotate_right(1);
        self.all[place] = new;
        self.len = u8::try_from(end).expect("a few");
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(&self.all[..usize::from(self.len)])
            .finish()
    }
}

#[cfg(feature = "serde")]
#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks for it
fn serialize_processed<S: serde::Serializer>(it: &Processed, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(match it {
        Processed::No => "no",
        Processed::Maybe => "maybe",
        Processed::Yes => "yes",
    })
}

#[cfg(feature = "serde")]
fn serialize_evidence<S: serde::Serializer>(it: &Kept, to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(&it.all[..usize::from(it.len)])
}

const CAUSES: usize = Cause::ALL.len();

/// More pieces than any answer needs to be understood.
const EVIDENCE: usize = 8;

/// As many as a line has room for.
const BRIEF: usize = 3;

/// The score of not knowing. What weighs less isn't named.
const DOUBT: i16 = 8;

/// A cause has to be twice as likely as the next to be named.
const MARGIN: i16 = 3;
