//! What was the matter with a failed attempt: by its diagnosis, or, where there is none, by its verdict.

use crate::diagnosis::{Brief, Cause, Evidence, Origin, Persistence};
use crate::verdict::{Hint, Kind, Label, Verdict};

/// What was the matter with a failed attempt, and who says so.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Found {
    pub(super) said: Said,
    /// In percent. `None`: there was no diagnosis.
    pub(super) confidence: Option<u8>,
    pub(super) clues: [Option<Clue>; CLUES],
}

/// What was the matter, who says so, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Said {
    pub(super) cause: Cause,
    pub(super) origin: Origin,
    pub(super) lasts: Lasts,
}

/// How long it is likely to last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lasts {
    /// Until the server is back: it said when.
    Announced,
    Momentary,
    Persistent,
    Unknown,
}

/// A piece of evidence for what was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Clue {
    pub(super) found: Cause,
    pub(super) name: &'static str,
    /// What it speaks for most, or against.
    pub(super) of: Cause,
    pub(super) weight: i8,
}

/// What was the matter with a failed attempt. `None`: it was the request's own fault, of which the
/// service has no part.
pub(super) fn of(verdict: Verdict, diagnosis: Option<&Brief>) -> Option<Found> {
    let by_verdict = by_verdict(verdict)?;
    let Some(diagnosis) = diagnosis else {
        let announced = matches!(verdict.server_hint(), Some(Hint::After(_) | Hint::At(_)));
        let lasts = if announced {
            Lasts::Announced
        } else {
            Lasts::Unknown
        };
        return Some(Found::undiagnosed(by_verdict, Origin::Unknown, lasts));
    };
    let cause = diagnosis.cause();
    let clue = |it: &Evidence| Clue {
        found: cause,
        name: it.name(),
        of: it.cause(),
        weight: it.weight(),
    };
    let mut clues = [None; CLUES];
    for (place, it) in clues.iter_mut().zip(diagnosis.evidence()) {
        *place = Some(clue(it));
    }
    Some(Found {
        said: Said {
            cause,
            origin: diagnosis.origin(),
            lasts: match diagnosis.persistence() {
                Persistence::Announced(_) => Lasts::Announced,
                Persistence::Momentary => Lasts::Momentary,
                Persistence::Persistent => Lasts::Persistent,
                Persistence::Unknown => Lasts::Unknown,
            },
        },
        confidence: Some(diagnosis.confidence()),
        clues,
    })
}

impl Found {
    pub(super) const fn undiagnosed(cause: Cause, origin: Origin, lasts: Lasts) -> Self {
        Self {
            said: Said {
                cause,
                origin,
                lasts,
            },
            confidence: None,
            clues: [None; CLUES],
        }
    }
}

fn by_verdict(verdict: Verdict) -> Option<Cause> {
    let by_name = match verdict.error_type() {
        Label::Status(status) => match status {
            429 => Some(Cause::RateLimit),
            500 => Some(Cause::ApplicationError),
            502 | 520 => Some(Cause::BadUpstreamAnswer),
            503 | 529 => Some(Cause::Overload),
            504 | 524 => Some(Cause::GatewayTimeout),
            521..=523 => Some(Cause::UpstreamUnavailable),
            _ => None,
        },
        Label::Name(name) => match name.strip_prefix("injected_").unwrap_or(name) {
            "connect" | "lost" | "reset" | "unreachable" => Some(Cause::ConnectionFailure),
            "dns" | "tls" => Some(Cause::Configuration),
            "hang" | "timeout" => Some(Cause::OwnTimeout),
            _ => None,
        },
        Label::None => None,
    };
    let by_kind = match verdict.kind() {
        Kind::RequestFault | Kind::Success => return None,
        Kind::Overloaded => Cause::Overload,
        Kind::RateLimited => Cause::RateLimit,
        Kind::TargetFault => Cause::Configuration,
        Kind::Transient => Cause::Unknown,
    };
    Some(by_name.unwrap_or(by_kind))
}

/// As many as an event carries.
pub(super) const CLUES: usize = 3;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::diagnosis::Symptoms;

    fn named(verdict: Verdict) -> Option<Cause> {
        of(verdict, None).map(|it| it.said.cause)
    }

    #[test]
    fn without_a_diagnosis_a_name_says_more_than_a_kind_and_a_requests_own_fault_has_no_cause() {
        let transient = |label| named(Verdict::transient().label(label));
        assert_eq!(transient(Label::Status(504)), Some(Cause::GatewayTimeout));
        assert_eq!(transient(Label::Name("dns")), Some(Cause::Configuration));
        assert_eq!(
            transient(Label::Name("injected_hang")),
            Some(Cause::OwnTimeout)
        );
        assert_eq!(transient(Label::Name("novel")), Some(Cause::Unknown));
        assert_eq!(named(Verdict::new(Kind::Overloaded)), Some(Cause::Overload));
        assert_eq!(
            named(Verdict::new(Kind::TargetFault)),
            Some(Cause::Configuration)
        );
        let request = Verdict::new(Kind::RequestFault).label(Label::Status(429));
        assert_eq!(named(request), None);
    }

    #[test]
    fn a_diagnosis_says_more_than_a_verdict_and_a_requests_own_fault_has_no_cause_nevertheless() {
        let timeout = Symptoms::timeout(Duration::from_secs(1)).diagnose().brief();
        let overloaded = Verdict::new(Kind::Overloaded).label(Label::Status(503));
        let found = of(overloaded, Some(&timeout)).expect("a failure");
        assert_eq!(found.said.cause, Cause::OwnTimeout);
        assert_eq!(found.said.origin, Origin::Client);
        assert_eq!(found.confidence, Some(timeout.confidence()));
        let first = found.clues[0].expect("evidence");
        assert_eq!(first.name, timeout.evidence()[0].name());
        assert_eq!(of(Verdict::new(Kind::RequestFault), Some(&timeout)), None);
    }
}
