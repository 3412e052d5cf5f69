//! What a door has to know of requests and responses to send one again.

use std::future::{Future, Ready};

use crate::attempt::Attempt;
use crate::deadline::Deadline;
use crate::hold::Key;
use crate::report::Report;
use crate::verdict::{By, EveryError};

/// Knows how requests of type `Q` are repeated and responses of type `S` are rejected.
///
/// [`Http`](crate::http::Http) implements it for HTTP requests and responses; for all other
/// classifiers a request is whatever is `Clone`.
pub trait Protocol<Q, S> {
    /// The clearing away of a rejected response.
    type Discard: Future<Output = ()>;

    /// A copy to send, or `None` if the request can only be sent once.
    fn copy(&self, request: &Q) -> Option<Q>;

    /// Whether this request, once sent, can be sent again.
    fn is_replayable(&self, request: &Q) -> bool;

    /// Whether the request says that it may be repeated. `None`: the pipeline decides.
    fn is_idempotent(&self, request: &Q) -> Option<bool>;

    /// The deadline that came with the request.
    fn deadline(&self, request: &Q) -> Option<Deadline>;

    /// Which service the request goes to. `None`: it is held by nobody's hints.
    fn key(&self, request: &Q) -> Option<Key>;

    /// Which service gave this response, if the response itself tells, as after a redirect. `None`:
    /// the one that the request went to.
    fn answered_by(&self, _response: &S) -> Option<Key> {
        None
    }

    /// Readies a request for one attempt.
    fn prepare(&self, request: &mut Q, attempt: &Attempt);

    /// Clears a rejected response away.
    fn discard(&self, response: S) -> Self::Discard;

    /// Attaches the report to a response on its way to the caller.
    fn attach(&self, response: &mut S, report: Report);
}

macro_rules! any_clone {
    ($($generic:ident)? => $classifier:ty) => {
        impl<$($generic,)? Q: Clone, S> Protocol<Q, S> for $classifier {
            type Discard = Ready<()>;

            fn copy(&self, request: &Q) -> Option<Q> {
                Some(request.clone())
            }

            fn is_replayable(&self, _: &Q) -> bool {
                true
            }

            fn is_idempotent(&self, _: &Q) -> Option<bool> {
                None
            }

            fn deadline(&self, _: &Q) -> Option<Deadline> {
                None
            }

            fn key(&self, _: &Q) -> Option<Key> {
                None
            }

            fn prepare(&self, _: &mut Q, _: &Attempt) {}

            fn discard(&self, _: S) -> Ready<()> {
                std::future::ready(())
            }

            fn attach(&self, _: &mut S, _: Report) {}
        }
    };
}

any_clone!(=> EveryError);
any_clone!(F => By<F>);

impl<Q, S, C: Protocol<Q, S>> Protocol<Q, S> for &C {
    type Discard = C::Discard;

    fn copy(&self, request: &Q) -> Option<Q> {
        C::copy(self, request)
    }

    fn is_replayable(&self, request: &Q) -> bool {
        C::is_replayable(self, request)
    }

    fn is_idempotent(&self, request: &Q) -> Option<bool> {
        C::is_idempotent(self, request)
    }

    fn deadline(&self, request: &Q) -> Option<Deadline> {
        C::deadline(self, request)
    }

    fn key(&self, request: &Q) -> Option<Key> {
        C::key(self, request)
    }

    fn answered_by(&self, response: &S) -> Option<Key> {
        C::answered_by(self, response)
    }

    fn prepare(&self, request: &mut Q, attempt: &Attempt) {
        C::prepare(self, request, attempt);
    }

    fn discard(&self, response: S) -> Self::Discard {
        C::discard(self, response)
    }

    fn attach(&self, response: &mut S, report: Report) {
        C::attach(self, response, report);
    }
}
