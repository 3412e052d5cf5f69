//! What can go wrong to order, and what it means. Pure.

use std::fmt;
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderValue, Response, StatusCode};

use crate::error::ConfigError;
use crate::http::{server_hint, status_verdict};
use crate::verdict::{Kind, Label, Processed, Verdict};

/// What becomes of an attempt instead of what it would have come to.
///
/// | fault | the attempt is really made | means | label |
/// |---|---|---|---|
/// | [`Connect`](Self::Connect) | no | transient, not processed | `injected_connect` |
/// | [`Error`](Self::Error) | no | what it says | `injected_error` |
/// | [`Hang`](Self::Hang) | no | ends by the attempt's timeout or the deadline, or not at all | `timeout` |
/// | [`Lost`](Self::Lost) | **yes** | transient, maybe processed | `injected_lost` |
/// | [`Reset`](Self::Reset) | no | transient, maybe processed | `injected_reset` |
/// | [`Status`](Self::Status) | no | as [`status_verdict`] and the classifier say | the code |
///
/// # Examples
///
/// ```
/// use evenkeel::chaos::Fault;
/// use evenkeel::verdict::{Hint, Kind, Processed};
/// use http::StatusCode;
/// use std::time::Duration;
///
/// let busy = Fault::status(StatusCode::SERVICE_UNAVAILABLE).retry_after(Duration::from_secs(7));
/// assert_eq!(busy.verdict().kind(), Kind::Overloaded);
/// assert_eq!(busy.verdict().server_hint(), Some(Hint::After(Duration::from_secs(7))));
/// assert_eq!(Fault::Connect.verdict().was_processed(), Processed::No);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// No connection could be made: provably not processed.
    Connect,
    /// A failure that means just this. Not [`Kind::Success`].
    Error {
        /// Its kind.
        kind: Kind,
        /// Whether the server may have acted on the request.
        processed: Processed,
    },
    /// Nothing ever comes back.
    Hang,
    /// The attempt is really made, and its answer is lost on the way back: the service acted, and the
    /// client can't know. An attempt that fails without an answer, by an `Err`, fails as it did.
    Lost,
    /// The connection breaks before an answer: maybe processed, as far as the client can tell.
    Reset,
    /// An answer with this status.
    Status {
        /// The status, from 400.
        status: StatusCode,
        /// What its `Retry-After` says, in whole seconds, rounded up.
        retry_after: Option<Duration>,
    },
}

impl Fault {
    /// An answer with this status, from 400, and no `Retry-After`.
    #[must_use]
    pub const fn status(status: StatusCode) -> Self {
        let retry_after = None;
        Self::Status {
            status,
            retry_after,
        }
    }

    /// Adds a `Retry-After` to a status; other faults stay as they are. In whole seconds, rounded up.
    #[must_use]
    pub const fn retry_after(self, length: Duration) -> Self {
        match self {
            Self::Status { status, .. } => Self::Status {
                status,
                retry_after: Some(length),
            },
            other => other,
        }
    }

    /// A failure of this kind, that the server may have acted on or not.
    #[must_use]
    pub const fn error(kind: Kind, processed: Processed) -> Self {
        Self::Error { kind, processed }
    }

    /// What it means to a classifier that knows no better.
    pub fn verdict(&self) -> Verdict {
        let maybe = |name| Verdict::transient().label(Label::Name(name));
        match *self {
            Self::Connect => maybe("injected_connect").processed(Processed::No),
            Self::Error { kind, processed } => Verdict::new(kind)
                .processed(processed)
                .label(Label::Name("injected_error")),
            Self::Hang => maybe("injected_hang"),
            Self::Lost => maybe("injected_lost"),
            Self::Reset => maybe("injected_reset"),
            Self::Status { status, .. } => {
                let verdict = status_verdict(status);
                let hint = self
                    .response()
                    .filter(|_| verdict.is_retryable())
                    .and_then(|it| server_hint(it.status(), it.headers()));
                match hint {
                    Some(hint) => verdict.hint(hint),
                    None => verdict,
                }
            }
        }
    }

    /// A status as a response without a body, with its `Retry-After`, and an [`Injected`] in its
    /// extensions. `None` for all else.
    #[must_use]
    pub fn response(&self) -> Option<Response<()>> {
        let Self::Status {
            status,
            retry_after,
        } = *self
        else {
            return None;
        };
        let mut response = Response::new(());
        *response.status_mut() = status;
        if let Some(length) = retry_after {
            let part = u64::from(length.subsec_nanos() > 0);
            let seconds = HeaderValue::from(length.as_secs().saturating_add(part));
            response.headers_mut().insert(RETRY_AFTER, seconds);
        }
        response.extensions_mut().insert(Injected::new(*self));
        Some(response)
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        match self {
            Self::Error { kind, .. } if *kind == Kind::Success => {
                Err(ConfigError::new("chaos.fault", "must not be a success"))
            }
            Self::Status { status, .. } if status.as_u16() < 400 => {
                let problem = "must not be a status below 400";
                Err(ConfigError::new("chaos.fault", problem))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect => f.write_str("no connection"),
            Self::Error { .. } => f.write_str("error"),
            Self::Hang => f.write_str("no answer"),
            Self::Lost => f.write_str("answer lost"),
            Self::Reset => f.write_str("connection reset"),
            Self::Status { status, .. } => write!(f, "status {}", status.as_u16()),
        }
    }
}

/// A fault that was made to order, and not by the service.
///
/// It ends a call whose last attempt met it ([`Cause::Injected`](crate::Cause::Injected)), and is in
/// the extensions of a [response](Fault::response) that was made up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Injected {
    fault: Fault,
}

impl fmt::Display for Injected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "injected: {}", self.fault)
    }
}

impl std::error::Error for Injected {}

impl Injected {
    pub(crate) const fn new(fault: Fault) -> Self {
        Self { fault }
    }

    /// Which fault it was.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        self.fault
    }
}

/// What an injected fault is to a classifier; see [`Classify::imitate`](crate::verdict::Classify::imitate).
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(clippy::exhaustive_enums)] // the real thing, or what it would mean
pub enum Imitation<T, E> {
    /// The very outcome that the real thing would have. It is classified, cleared away and given to
    /// the caller as any other.
    Outcome(Result<T, E>),
    /// There is no such value to be had, but this is what it would mean. If it is the call's last
    /// word the caller gets [`Cause::Injected`](crate::Cause::Injected).
    Verdict(Verdict),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Hint;

    #[test]
    fn a_status_means_what_the_table_says_of_it() {
        for code in 400..=999 {
            let status = StatusCode::from_u16(code).expect("a status");
            assert_eq!(Fault::status(status).verdict(), status_verdict(status));
            assert_eq!(Fault::status(status).check(), Ok(()));
        }
        for code in 100..400 {
            let status = StatusCode::from_u16(code).expect("a status");
            assert!(Fault::status(status).check().is_err(), "{code}");
        }
    }

    #[test]
    fn a_retry_after_is_whole_seconds_rounded_up_and_counts_where_a_retry_may_help() {
        let hint = |status, millis| {
            let fault = Fault::status(status).retry_after(Duration::from_millis(millis));
            fault.verdict().server_hint()
        };
        let seconds = |count| Some(Hint::After(Duration::from_secs(count)));
        let busy = StatusCode::SERVICE_UNAVAILABLE;
        assert_eq!(hint(busy, 2000), seconds(2));
        assert_eq!(hint(busy, 2001), seconds(3));
        assert_eq!(hint(StatusCode::NOT_FOUND, 2000), None);
        let longest = Fault::status(busy).retry_after(Duration::MAX);
        assert!(longest.response().is_some(), "and no overflow");
        assert_eq!(
            Fault::Reset.retry_after(Duration::from_secs(1)),
            Fault::Reset
        );
    }

    #[test]
    fn only_a_failure_is_a_fault() {
        assert!(Fault::error(Kind::Success, Processed::Yes).check().is_err());
        for fault in [Fault::Connect, Fault::Hang, Fault::Lost, Fault::Reset] {
            assert_eq!(fault.check(), Ok(()));
            assert!(fault.verdict().is_retryable());
        }
    }
}
