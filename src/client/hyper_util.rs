//! What the errors of hyper-util's client, hyper and h2 mean.
//!
//! The client itself is a tower service and needs no door of its own.

use std::error::Error as StdError;

use h2::Reason;

use crate::http::errors::{connect_verdict, maybe, unprocessed};
use crate::verdict::{Kind, Label, Processed, Verdict};

/// What one link of a chain of errors says by itself.
pub(crate) fn read_error(error: &(dyn StdError + 'static)) -> Option<Verdict> {
    if let Some(client) = error.downcast_ref::<hyper_util::client::legacy::Error>() {
        if client.is_connect() {
            // DNS, TCP, TLS, proxy: all before there is anything to send on.
            return Some(connect_verdict(error));
        }
        if client.source().is_none() {
            // A relative URI, a method or version that can't be sent: the client refuses these
            // itself, and all its other errors that reach a caller have a source.
            let verdict = Verdict::new(Kind::RequestFault).processed(Processed::No);
            return Some(verdict.label(Label::Name("request")));
        }
        return None;
    }
    if let Some(hyper) = error.downcast_ref::<hyper::Error>() {
        return read_hyper(hyper);
    }
    error.downcast_ref::<h2::Error>().and_then(read_h2)
}

fn read_hyper(error: &hyper::Error) -> Option<Verdict> {
    if error.is_user() {
        // The request's own body failed, or its head contradicts itself.
        let verdict = Verdict::new(Kind::RequestFault);
        Some(verdict.label(Label::Name("request")))
    } else if error.is_canceled() || error.is_closed() {
        // Both are given before the request was handed to a connection: it comes back unsent.
        Some(unprocessed("canceled"))
    } else if error.is_incomplete_message() {
        Some(maybe("reset"))
    } else if error.is_parse() {
        Some(maybe("protocol"))
    } else {
        // A link further down knows more: an I/O error's kind, an HTTP/2 reason.
        None
    }
}

fn read_h2(error: &h2::Error) -> Option<Verdict> {
    if error.is_reset() && !error.is_remote() && !error.is_library() {
        // Our own side gave up on the stream: hyper does when the request's body fails, with
        // whatever reason that error carries, so this comes before what a server's reason proves.
        return Some(Verdict::new(Kind::RequestFault).label(Label::Name("request")));
    }
    if error.reason() == Some(Reason::REFUSED_STREAM) {
        // RFC 9113, 8.7: no application processing has occurred.
        return Some(unprocessed("refused_stream"));
    }
    if error.is_go_away() && error.is_remote() {
        // h2 fails a stream with the peer's GOAWAY only if its number is above the last one the
        // peer says it may have processed, or if it was never opened (RFC 9113, 6.8).
        return Some(unprocessed("goaway"));
    }
    if error.is_reset() || error.is_go_away() || error.is_io() {
        return Some(maybe("reset"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::classify_error;

    #[test]
    fn a_refused_stream_is_proof_and_other_resets_are_not() {
        let of = |reason: Reason| classify_error(&h2::Error::from(reason));
        assert_eq!(of(Reason::REFUSED_STREAM).was_processed(), Processed::No);
        for reason in [Reason::CANCEL, Reason::INTERNAL_ERROR, Reason::NO_ERROR] {
            assert_eq!(of(reason).was_processed(), Processed::Maybe, "{reason:?}");
        }
    }
}
