//! What a door has to know of requests and responses to send one again.

use std::future::{Future, Ready};
use std::sync::Arc;

use crate::attempt::Attempt;
use crate::chaos::Imitating;
use crate::clock::Clock;
use crate::deadline::Deadline;
use crate::endpoints::Endpoint;
use crate::event::Described;
use crate::http::{HttpErrors, Packed, Quota};
use crate::keyed::Key;
use crate::pipeline::Kept;
use crate::report::Report;
use crate::throttle::Priority;
use crate::verdict::{By, EveryError};

/// Knows how requests of type `Q` are repeated and responses of type `S` are rejected.
///
/// [`Http`](crate::http::Http) implements it for HTTP requests and responses; for the crate's other
/// classifiers a request is whatever is `Clone`. A classifier of one's own that is to be used
/// through the tower door says how to copy a request and how to clear a response away; all else
/// has a default.
///
/// # Examples
///
/// ```
/// # #[cfg(feature = "tower")] {
/// use evenkeel::pipeline::{Pipeline, Protocol};
/// use evenkeel::verdict::{Classify, Kind, Verdict};
/// use evenkeel::{Key, Retry};
/// use std::future::{Ready, ready};
/// use std::time::Duration;
/// use tower::{Layer, ServiceExt, service_fn};
///
/// #[derive(Clone)]
/// struct Query {
///     shard: u8,
///     text: &'static str,
/// }
///
/// #[derive(Clone)]
/// struct Sql;
///
/// impl Classify<u32, &str> for Sql {
///     fn classify(&self, outcome: Result<&u32, &&str>) -> Verdict {
///         match outcome {
///             Ok(_) => Verdict::success(),
///             Err(&"deadlock") => Verdict::transient(),
///             Err(_) => Verdict::new(Kind::RequestFault),
///         }
///     }
/// }
///
/// impl Protocol<Query, u32> for Sql {
///     type Discard = Ready<()>;
///
///     fn copy(&self, query: &Query) -> Option<Query> {
///         Some(query.clone())
///     }
///
///     fn discard(&self, _: u32) -> Ready<()> {
///         ready(())
///     }
///
///     fn is_idempotent(&self, query: &Query) -> Option<bool> {
///         Some(query.text.starts_with("select"))
///     }
///
///     fn key(&self, query: &Query) -> Option<Key> {
///         Some(Key::of(query.shard))
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let database = service_fn(|_: Query| async { Err::<u32, _>("deadlock") });
/// let retry = Retry::constant(Duration::ZERO).max_attempts(2);
/// let service = Pipeline::new().classify(Sql).retry(retry).layer(database);
/// for (text, attempts) in [("select 1", 2), ("insert 1", 1)] {
///     let error = service.clone().oneshot(Query { shard: 1, text }).await.unwrap_err();
///     assert_eq!(error.attempts(), attempts);
/// }
/// # } main(); }
/// ```
pub trait Protocol<Q, S> {
    /// The clearing away of a rejected response.
    type Discard: Future<Output = ()>;

    /// A copy of a request that is about to be sent, to be sent in its stead if it has to be sent again; `None` if it
    /// can only be sent once. The first attempt sends the caller's own request, each further one the copy that was
    /// made before the last. Asked by [`copy_to_keep`](Self::copy_to_keep) alone, unless that is another's.
    fn copy(&self, request: &Q) -> Option<Q>;

    /// Clears a rejected response away.
    fn discard(&self, response: S) -> Self::Discard;

    /// The same, asked before every attempt that another may follow. What costs much to copy may be left in
    /// `packed` instead: the copy is given it by
    /// [`unpack`](Self::unpack) before the next attempt, and until then [`is_replayable`](Self::is_replayable)
    /// alone is asked of it. Default: a copy, and nothing is packed.
    fn copy_to_keep(&self, request: &mut Q, packed: &mut Option<Packed>) -> Option<Q> {
        let _ = packed;
        self.copy(request)
    }

    /// Gives a copy what [`copy_to_keep`](Self::copy_to_keep) left out. Default: that is nothing.
    fn unpack(&self, copy: &mut Q, packed: &Packed) {
        let _ = (copy, packed);
    }

    /// Whether this request, once sent, can be sent again. Default: it can.
    ///
    /// Where this says yes [`copy_to_keep`](Self::copy_to_keep) gives a copy.
    fn is_replayable(&self, request: &Q) -> bool {
        let _ = request;
        true
    }

    /// Whether the request says that it may be repeated. `None`, the default: the pipeline
    /// decides.
    fn is_idempotent(&self, request: &Q) -> Option<bool> {
        let _ = request;
        None
    }

    /// The deadline that came with the request. Default: none.
    fn deadline(&self, request: &Q) -> Option<Deadline> {
        let _ = request;
        None
    }

    /// How much the request matters when some have to be shed. Default: [`Priority::Normal`].
    fn priority(&self, request: &Q) -> Priority {
        let _ = request;
        Priority::Normal
    }

    /// Which service the request goes to. `None`, the default: what is kept per key passes it by.
    fn key(&self, request: &Q) -> Option<Key> {
        let _ = request;
        None
    }

    /// Which service gave this response, if the response itself tells, as after a redirect.
    /// `None`, the default: the one that the request went to.
    fn answered_by(&self, response: &S) -> Option<Key> {
        let _ = response;
        None
    }

    /// What the response says is left of the service's quota, if it tells; `clock` is the pipeline's.
    /// Asked where there is a rate limit, of each success too. Default: nothing.
    fn quota(&self, response: &S, clock: &Clock) -> Option<Quota> {
        let _ = (response, clock);
        None
    }

    /// How many attempts others made before on this request's behalf: those of the caller whose request
    /// it serves. They count as if they were the call's own. Default: none.
    fn earlier_attempts(&self, request: &Q) -> u32 {
        let _ = request;
        0
    }

    /// How many attempts a proxy made for the one that gave this response, beside the last. They count
    /// as if they were the call's own. Asked of rejected responses. Default: none.
    fn other_attempts(&self, response: &S) -> u32 {
        let _ = response;
        0
    }

    /// What the span of an attempt says of its request; see [`event`](crate::event#tracing). Default:
    /// nothing.
    fn describe<'a>(&self, request: &'a Q) -> Described<'a> {
        let _ = request;
        Described::new()
    }

    /// The response's status, for the span of an attempt. Default: it has none.
    fn status(&self, response: &S) -> Option<u16> {
        let _ = response;
        None
    }

    /// Readies a request for one attempt. Default: it is ready.
    fn prepare(&self, request: &mut Q, attempt: &Attempt) {
        let _ = (request, attempt);
    }

    /// Sends a request to the endpoint that was chosen for one attempt; see
    /// [`endpoints`](crate::endpoints). Asked before [`prepare`](Self::prepare), of the copy that is
    /// sent. Default: it goes where it goes.
    fn direct(&self, request: &mut Q, endpoint: &Endpoint) {
        let _ = (request, endpoint);
    }

    /// Leaves a permit with a response; see [`Bulkhead::until_body_ends`](crate::Bulkhead::until_body_ends).
    /// Default: it is given back.
    fn keep(&self, response: &mut S, kept: Kept) {
        let _ = (response, kept);
    }

    /// Attaches the report to a response on its way to the caller. Default: it goes without.
    fn attach(&self, response: &mut S, report: Report) {
        let _ = (response, report);
    }
}

macro_rules! any_clone {
    ($($generic:ident)? => $classifier:ty) => {
        impl<$($generic,)? Q: Clone, S> Protocol<Q, S> for $classifier {
            type Discard = Ready<()>;

            fn copy(&self, request: &Q) -> Option<Q> {
                Some(request.clone())
            }

            fn discard(&self, _: S) -> Ready<()> {
                std::future::ready(())
            }
        }
    };
}

any_clone!(=> EveryError);
any_clone!(=> HttpErrors);
any_clone!(F => By<F>);

macro_rules! forward {
    ($($generic:ident)? => $pointer:ty) => {
        impl<Q, S, C: Protocol<Q, S> $(, $generic)?> Protocol<Q, S> for $pointer {
            type Discard = C::Discard;

            fn copy(&self, request: &Q) -> Option<Q> {
                C::copy(self, request)
            }

            fn discard(&self, response: S) -> Self::Discard {
                C::discard(self, response)
            }

            fn copy_to_keep(&self, request: &mut Q, packed: &mut Option<Packed>) -> Option<Q> {
                C::copy_to_keep(self, request, packed)
            }

            fn unpack(&self, copy: &mut Q, packed: &Packed) {
                C::unpack(self, copy, packed);
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

            fn priority(&self, request: &Q) -> Priority {
                C::priority(self, request)
            }

            fn key(&self, request: &Q) -> Option<Key> {
                C::key(self, request)
            }

            fn answered_by(&self, response: &S) -> Option<Key> {
                C::answered_by(self, response)
            }

            fn quota(&self, response: &S, clock: &Clock) -> Option<Quota> {
                C::quota(self, response, clock)
            }

            fn earlier_attempts(&self, request: &Q) -> u32 {
                C::earlier_attempts(self, request)
            }

            fn other_attempts(&self, response: &S) -> u32 {
                C::other_attempts(self, response)
            }

            fn describe<'a>(&self, request: &'a Q) -> Described<'a> {
                C::describe(self, request)
            }

            fn status(&self, response: &S) -> Option<u16> {
                C::status(self, response)
            }

            fn prepare(&self, request: &mut Q, attempt: &Attempt) {
                C::prepare(self, request, attempt);
            }

            fn direct(&self, request: &mut Q, endpoint: &Endpoint) {
                C::direct(self, request, endpoint);
            }

            fn keep(&self, response: &mut S, kept: Kept) {
                C::keep(self, response, kept);
            }

            fn attach(&self, response: &mut S, report: Report) {
                C::attach(self, response, report);
            }
        }
    };
}

forward!(=> &C);
forward!(=> Arc<C>);
forward!(F => Imitating<C, F>);
