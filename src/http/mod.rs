//! What HTTP requests and responses mean to a client that may try again.
//!
//! Nothing here knows a particular client: only the types of the `http` and `http-body` crates.
//!
//! # What is retried
//!
//! | status | kind | may it have been processed? |
//! |---|---|---|
//! | 408, 500, 502, 504, 520, 522, 524, 527 | transient | maybe |
//! | 421, 425, 521, 523 | transient | no |
//! | 429 | rate-limited | maybe |
//! | 503, 529 | overloaded | maybe; no, with evidence |
//! | other 4xx | the request's own fault | |
//! | 501, 505, 511, 525, 526, other 5xx | the target's fault | |
//!
//! A 503 says that the service is *temporarily unavailable*: most servers send it instead of
//! beginning to work, but nothing makes them, so alone it proves nothing. A 504 says that a
//! gateway *gave up waiting*: the work may well have been done. Both are repeated for idempotent
//! requests; others go again only where it is proven that they were not processed: the connection
//! was never made, the stream was refused, or a known header says so (see [`provably_not_sent`]).
//!
//! Idempotent are GET, HEAD, OPTIONS, TRACE, PUT, DELETE, QUERY, and anything with an
//! `Idempotency-Key` (see [`is_idempotent`]); an [`Idempotent`] in the request's extensions
//! overrules both.
//!
//! # Sending a request twice
//!
//! A request is copied for each attempt but the last, so its body has to be `Clone`, as
//! `Full<Bytes>`, `Empty` and `String` are. [`Replay`] makes any other body so, by keeping what was
//! sent, up to a cap.
//!
//! # Retries of retries
//!
//! Where a client repeats what a proxy repeats what a server behind it repeats, three attempts each
//! are 27. One rule shrinks that: *attempts that others made for a call count as if they were its
//! own*. A call whose policy allows four makes three at most if it serves its caller's second attempt,
//! one if it serves the fifth, and never more than four. At least one is always made.
//!
//! - What an incoming request says (`x-envoy-attempt-count`) is read by [`attempts_seen`] and put into
//!   the requests it leads to as a [`CallerAttempt`]. This is the server's to do; nothing is carried over
//!   by itself.
//! - [`Http::attempt_header`] sends that number with each attempt, the caller's attempts included, and
//!   reads from rejected responses how many a proxy made.
//!
//! # Several hosts
//!
//! With [`endpoints`](crate::endpoints#http) each attempt is sent to a host of its own; all that is
//! kept per service stays that of the request's URI.
//!
//! # Rejected responses
//!
//! The body of a response that is not given to the caller is read, up to 16 KiB and for no longer
//! than 50 ms, so that the connection can be used again.

mod attempts;
mod classifier;
pub(crate) mod direct;
mod drain;
pub(crate) mod errors;
pub(crate) mod evidence;
pub(crate) mod hints;
mod idempotency;
pub(crate) mod packed;
mod permit;
mod quota;
mod replay;
mod retry_after;
mod saved;
mod status;
mod target;

pub use attempts::{ATTEMPT_COUNT, CallerAttempt, attempts_seen};
#[cfg(feature = "reqwest")]
pub(crate) use classifier::{DRAIN_LIMIT, describe};
pub use classifier::{Http, HttpErrors};
pub use drain::Drain;
pub use errors::classify_error;
pub use evidence::provably_not_sent;
pub use hints::server_hint;
pub use idempotency::{Idempotent, is_idempotent};
pub use permit::PermitBody;
pub(crate) use quota::quota_by;
pub use quota::{Quota, quota};
pub use replay::Replay;
pub use retry_after::{LONGEST_HINT, retry_after};
pub use saved::SavedRequest;
pub use status::status_verdict;
pub use target::{Target, service_key};
