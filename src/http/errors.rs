//! What a client's error means.
//!
//! Whether a request may have been processed is read from the types and kinds in an error's chain
//! of sources, never from its text: texts change between versions and can hold anything.

use std::error::Error as StdError;
use std::io;

use crate::chaos::Injected;
use crate::error::{Boxed, ConfigError, Elapsed, Error, Rejected};
use crate::verdict::{Kind, Label, Processed, Verdict};

/// What an error of an HTTP client means, read from its chain of sources.
///
/// Understands [`io::Error`], and with the features `hyper-util` and `reqwest` the errors of hyper,
/// hyper-util, h2 and reqwest. The first error in the chain that tells more than its source decides.
/// An error that nobody understands is transient and may have been processed.
///
/// The error of another pipeline further inside is read by what ended its call. Only if none of its
/// earlier attempts may have been processed either, the call as a whole was not.
///
/// | what happened | label | kind | processed |
/// |---|---|---|---|
/// | connection refused, unreachable, or timed out while connecting | `connect` | transient | no |
/// | the name did not resolve | `dns` | transient | no |
/// | TLS could not be agreed on | `tls` | the target's fault | no |
/// | HTTP/2 `REFUSED_STREAM`, or a `GOAWAY` that left the request out | `refused_stream`, `goaway` | transient | no |
/// | cancelled before it was written | `canceled` | transient | no |
/// | reset or closed before an answer began | `reset` | transient | maybe |
/// | timed out after it was sent, or in a pipeline inside | `timeout` | transient | maybe |
/// | broken off after the answer began | `body` | transient | yes |
/// | a pipeline inside refused to begin the attempt | `rejected` | transient | no |
/// | a fault [injected](crate::chaos) in a pipeline inside | its own | its own | its own |
/// | a pipeline inside is set up wrongly | `config` | the request's fault | no |
/// | the request itself is malformed | `request` | the request's fault | no |
/// | the request's body failed | `request` | the request's fault | maybe |
///
/// # Examples
///
/// ```
/// use evenkeel::http::classify_error;
/// use evenkeel::verdict::Processed;
/// use std::io::{Error, ErrorKind};
///
/// let refused = Error::from(ErrorKind::ConnectionRefused);
/// assert_eq!(classify_error(&refused).was_processed(), Processed::No);
/// let reset = Error::from(ErrorKind::ConnectionReset);
/// assert_eq!(classify_error(&reset).was_processed(), Processed::Maybe);
/// ```
pub fn classify_error(error: &(dyn StdError + 'static)) -> Verdict {
    let verdict = chain(error).find_map(read_one);
    let verdict = verdict.unwrap_or_else(Verdict::transient);
    let earlier = chain(error).filter_map(processed_earlier).max();
    no_less(verdict, earlier.unwrap_or(Processed::No))
}

/// A call of several attempts was processed if any of them was.
pub(super) fn no_less(verdict: Verdict, earlier: Processed) -> Verdict {
    verdict.processed(verdict.was_processed().max(earlier))
}

/// What the report of a pipeline's error proves, if the link is one.
fn processed_earlier(link: &(dyn StdError + 'static)) -> Option<Processed> {
    fn of<E: StdError + 'static>(link: &(dyn StdError + 'static)) -> Option<Processed> {
        link.downcast_ref::<Error<E>>()
            .map(Error::processed_earlier)
    }

    const ALL: &[fn(&(dyn StdError + 'static)) -> Option<Processed>] = &[
        of::<Boxed>,
        of::<io::Error>,
        #[cfg(feature = "hyper-util")]
        of::<hyper::Error>,
        #[cfg(feature = "hyper-util")]
        of::<hyper_util::client::legacy::Error>,
        #[cfg(feature = "reqwest")]
        of::<reqwest::Error>,
        #[cfg(feature = "reqwest-middleware")]
        of::<reqwest_middleware::Error>,
    ];
    ALL.iter().find_map(|of| of(link))
}

/// What one link of the chain says by itself.
fn read_one(error: &(dyn StdError + 'static)) -> Option<Verdict> {
    #[cfg(feature = "reqwest")]
    if let Some(verdict) = crate::client::reqwest::read_error(error) {
        return Some(verdict);
    }
    #[cfg(feature = "hyper-util")]
    if let Some(verdict) = crate::client::hyper_util::read_error(error) {
        return Some(verdict);
    }
    if error.is::<Rejected>() {
        return Some(unprocessed("rejected"));
    }
    if error.is::<ConfigError>() {
        let verdict = Verdict::new(Kind::RequestFault).processed(Processed::No);
        return Some(verdict.label(Label::Name("config")));
    }
    if error.is::<Elapsed>() {
        return Some(maybe("timeout"));
    }
    if let Some(injected) = error.downcast_ref::<Injected>() {
        return Some(injected.fault().verdict());
    }
    error.downcast_ref::<io::Error>().and_then(read_io)
}

/// An I/O error outside any phase that a client named.
fn read_io(error: &io::Error) -> Option<Verdict> {
    use io::ErrorKind as K;
    let verdict = match error.kind() {
        // Only connecting can be refused.
        K::ConnectionRefused => not_connected(),
        K::BrokenPipe
        | K::ConnectionAborted
        | K::ConnectionReset
        | K::NotConnected
        | K::UnexpectedEof => maybe("reset"),
        K::HostUnreachable | K::NetworkDown | K::NetworkUnreachable => maybe("unreachable"),
        K::TimedOut => maybe("timeout"),
        _ => return None,
    };
    Some(verdict)
}

/// What went wrong before there was a connection. Whatever it was, nothing was sent.
#[cfg_attr(not(feature = "hyper-util"), allow(dead_code))]
pub(crate) fn connect_verdict(error: &(dyn StdError + 'static)) -> Verdict {
    use io::ErrorKind as K;
    let io_errors = chain(error).filter_map(|link| link.downcast_ref::<io::Error>());
    // The innermost knows most: hyper-rustls wraps them once more, as of no kind.
    let Some(io) = io_errors.last() else {
        return not_connected();
    };
    match io.kind() {
        // What rustls and native-tls wrap their alerts and refusals in.
        K::InvalidData => Verdict::new(Kind::TargetFault)
            .processed(Processed::No)
            .label(Label::Name("tls")),
        K::AddrNotAvailable
        | K::BrokenPipe
        | K::ConnectionAborted
        | K::ConnectionRefused
        | K::ConnectionReset
        | K::HostUnreachable
        | K::NetworkDown
        | K::NetworkUnreachable
        | K::NotConnected
        | K::PermissionDenied
        | K::TimedOut
        | K::UnexpectedEof => not_connected(),
        // A failed look-up comes without an operating system's code and in no kind that has a
        // name; every failure of the socket itself has both.
        _ if io.raw_os_error().is_none() => unprocessed("dns"),
        _ => not_connected(),
    }
}

/// An error and all its sources. Bounded: a chain that loops doesn't hang us.
pub(crate) fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |link| inner(*link)).take(MAX_LINKS)
}

/// The next link. An `io::Error` that wraps another error names that one's source as its own, and
/// so does reqwest-middleware's, so the wrapped error itself has to be asked for.
fn inner<'a>(link: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    #[cfg(feature = "reqwest-middleware")]
    if let Some(error) = link.downcast_ref::<reqwest_middleware::Error>() {
        return Some(match error {
            reqwest_middleware::Error::Middleware(error) => &**error,
            reqwest_middleware::Error::Reqwest(error) => error,
        });
    }
    match link
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
    {
        Some(wrapped) => Some(wrapped),
        None => link.source(),
    }
}

pub(crate) const fn unprocessed(label: &'static str) -> Verdict {
    Verdict::transient()
        .processed(Processed::No)
        .label(Label::Name(label))
}

pub(crate) const fn maybe(label: &'static str) -> Verdict {
    Verdict::transient().label(Label::Name(label))
}

const fn not_connected() -> Verdict {
    unprocessed("connect")
}

/// Longer than any client's, and an end for chains that have none.
const MAX_LINKS: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("says: connection refused, refused stream, not sent")]
    struct Wrapper(#[source] io::Error);

    fn of(kind: io::ErrorKind) -> Verdict {
        classify_error(&io::Error::from(kind))
    }

    #[test]
    fn what_an_error_says_in_words_counts_for_nothing() {
        let error = Wrapper(io::Error::other("connection refused"));
        assert_eq!(classify_error(&error), Verdict::transient());
    }

    #[test]
    fn a_kind_deep_in_the_chain_counts() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let error = io::Error::other(Wrapper(refused));
        assert_eq!(classify_error(&error).was_processed(), Processed::No);
    }

    #[test]
    fn only_a_refused_connection_is_proof_without_a_phase() {
        use io::ErrorKind as K;
        assert_eq!(of(K::ConnectionRefused).was_processed(), Processed::No);
        for kind in [
            K::ConnectionReset,
            K::TimedOut,
            K::UnexpectedEof,
            K::HostUnreachable,
        ] {
            assert_eq!(of(kind).was_processed(), Processed::Maybe, "{kind:?}");
        }
    }

    #[test]
    fn whatever_fails_while_connecting_was_not_sent() {
        use io::ErrorKind as K;
        let all = [
            K::ConnectionReset,
            K::TimedOut,
            K::InvalidData,
            K::Other,
            K::Interrupted,
        ];
        for kind in all {
            let verdict = connect_verdict(&io::Error::from(kind));
            assert_eq!(verdict.was_processed(), Processed::No, "{kind:?}");
        }
        let wrapped = io::Error::other(io::Error::new(K::InvalidData, "bad certificate"));
        assert_eq!(connect_verdict(&wrapped).error_type(), Label::Name("tls"));
        let tls = connect_verdict(&io::Error::new(K::InvalidData, "bad certificate"));
        assert!(!tls.is_retryable());
    }

    #[test]
    fn what_ended_a_nested_pipelines_call_counts() {
        use crate::error::{Limit, Reason};
        use std::time::Duration;

        let rejected = classify_error(&Rejected::new(Reason::WindowFull, None));
        assert_eq!(rejected, unprocessed("rejected"));
        let config = classify_error(&ConfigError::new(
            "retry.max_attempts",
            "must be at least 1",
        ));
        assert_eq!(config.kind(), Kind::RequestFault);
        assert_eq!(config.was_processed(), Processed::No);
        assert_eq!(config.error_type(), Label::Name("config"));
        let elapsed = Elapsed::new(Limit::Attempt, Duration::from_secs(1));
        assert_eq!(classify_error(&elapsed), maybe("timeout"));
    }

    #[test]
    fn a_chain_without_end_ends() {
        #[derive(Debug)]
        struct Forever;
        impl std::fmt::Display for Forever {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("forever")
            }
        }
        impl StdError for Forever {
            fn source(&self) -> Option<&(dyn StdError + 'static)> {
                Some(self)
            }
        }
        assert_eq!(classify_error(&Forever), Verdict::transient());
    }
}
