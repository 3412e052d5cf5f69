//! What a door has to know of requests and responses to send one again.

use std::future::{Future, Ready};
use std::sync::Arc;

use crate::attempt::Attempt;
use crate::chaos::Imitating;
use crate::clock::Clock;
use crate::deadline::Deadline;
use crate::endpoints::Endpoint;
use crate::event::Described;
use crate::http::{HttpErrors, Quota};
use crate::keyed::Key;
use crate::pipeline::Kept;
use crate::report::Report;
use crate::throttle::Priority;
use crate::verdict::{By, EveryError};

/// Knows how requests of type `Q` are repeated and responses of type `S` are rejected.
///
/// [`Http`](crate::http::Http) implements it for HTTP requests and responses; for the crate's other
/// classifiers a request is whatever is `Clone`. A classifier of one's own that is to be used
/// through the tower door says how to save and restore a request and how to clear a response away; all
/// else has a default.
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
///     type Saved = Query;
///     type Discard = Ready<()>;
///
///     fn save(&self, query: &mut Query) -> Option<Query> {
///         Some(query.clone())
///     }
///
///     fn restore(&self, saved: Query) -> Query {
///         saved
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
    /// What of a request is kept while it is sent: a copy, or less that another can be made of. Most
    /// calls never need it, so to save should cost little; what restoring costs only retries pay. It is part
    /// of the call's future, which is `Send` only if it is.
    type Saved;
    /// The clearing away of a rejected response.
    type Discard: Future<Output = ()>;

    /// What it takes to send a request once more that is about to be sent; `None` if it can only be sent
    /// once. Asked before every attempt that another may follow. The first attempt sends the caller's own
    /// request, and each further one what was restored of it. The request is mutable so that parts of it can be
    /// put aside meanwhile; what isn't put back isn't sent.
    fn save(&self, request: &mut Q) -> Option<Self::Saved>;

    /// Makes the request again, for the next attempt.
    fn restore(&self, saved: Self::Saved) -> Q;

    /// Clears a rejected response away.
    fn discard(&self, response: S) -> Self::Discard;

    /// Whether a request can still be sent again, asked of what was saved whenever an attempt has failed: for a
    /// body that may be lost while it is sent. Default: what was saved can be.
    fn is_replayable(&self, saved: &Self::Saved) -> bool {
        let _ = saved;
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
    /// [`endpoints`](crate::endpoints). Asked before [`prepare`](Self::prepare), after the request was
    /// saved. Default: it goes where it goes.
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
            type Saved = Q;
            type Discard = Ready<()>;

            fn save(&self, request: &mut Q) -> Option<Q> {
                Some(request.clone())
            }

            fn restore(&self, saved: Q) -> Q {
                saved
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
            type Saved = C::Saved;
            type Discard = C::Discard;

            fn save(&self, request: &mut Q) -> Option<C::Saved> {
                C::save(self, request)
            }

            fn restore(&self, saved: C::Saved) -> Q {
                C::restore(self, saved)
            }

            fn discard(&self, response: S) -> Self::Discard {
                C::discard(self, response)
            }

            fn is_replayable(&self, saved: &C::Saved) -> bool {
                C::is_replayable(self, saved)
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
