//! Keeps a client on an even keel while the services it calls are overloaded, in maintenance or
//! down.
//!
//! A service that answers 503, 504 or 429, or not at all, is made worse by a client that asks again
//! at once, and stays down when a fleet of them does. This crate wraps any async call, any tower
//! service, and any HTTP client, so that it tries again where that helps, waits as long as the
//! server asks, stays within a budget, and is done by its deadline.
//!
//! ```
//! use evenkeel::{Budget, Pipeline, Retry};
//! use std::time::Duration;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! # async fn query() -> Result<u32, std::io::Error> { Ok(7) }
//! let pipeline = Pipeline::new()
//!     .deadline(Duration::from_secs(10))
//!     .retry(Retry::exponential(Duration::from_millis(50)).budget(Budget::default()))
//!     .timeout(Duration::from_secs(2));
//! let rows = pipeline.run(|_attempt| query()).await;
//! # assert_eq!(rows.unwrap(), 7);
//! # }
//! ```
//!
//! # What to reach for
//!
//! | you have | reach for |
//! |---|---|
//! | an async call | [`Pipeline::run`], or [`Retry::run`] for retries alone |
//! | hyper-util, anything tower | a [`Pipeline`] as a layer (see [`tower`]); [`Pipeline::http`] for HTTP |
//! | reqwest | [`send_with`](client::reqwest::SendWith), the tower layer, or reqwest-middleware |
//! | a loop of your own | [`Backoff::delays`](backoff::Backoff::delays), [`Budget`], [`http::retry_after`], [`http::server_hint`] |
//! | a unit test | [`testing`] |
//!
//! # The order
//!
//! A pipeline has one order, outside in:
//!
//! ```text
//! total deadline ─▶ retry (backoff, server's hints, budget)
//!                     └▶ per attempt: hold ─▶ readiness ─▶ timeout ─▶ the call
//! ```
//!
//! - The **deadline** covers everything: attempts, waits, queues. A wait that would pass it is not
//!   begun; the call fails at once and says when to come back.
//! - A **[retry]** needs a failure that may pass, a request that may be repeated
//!   (idempotent, or provably not processed), attempts, time and budget.
//! - The **[budget]** ties the extra attempts of all calls to a share of the first ones.
//! - A **[hold]** makes what one response asked for count for every call to that service.
//! - The **timeout** ends an attempt that hangs, so that another can be made.
//!
//! Each outcome is classified once, into a [`Verdict`]; see [`verdict`] for any call and [`http`]
//! for what statuses, headers and client errors mean.
//!
//! # What comes back
//!
//! The last response or the operation's own error, unchanged, with a [`Report`] of attempts and
//! waits: in the response's extensions, or on the [`Error`]. Where a policy ended the call,
//! [`Error::cause`] says which, and [`Error::retry_at`] when trying again makes sense.
//!
//! # Features
//!
//! | feature | brings | crates beside the default tree |
//! |---|---|---|
//! | `tower` (default) | the `Layer` and `Service` door | tower-layer, tower-service |
//! | `hyper-util` | what hyper's, hyper-util's and h2's errors mean | hyper, hyper-util, h2 |
//! | `reqwest` | `send_with`, reqwest through the tower door, what its errors mean | reqwest and the above |
//! | `reqwest-middleware` | a pipeline as a middleware | reqwest-middleware and the above |
//! | `serde` | `Serialize` and `Deserialize` for [`Ratio`](budget::Ratio), [`Jitter`](backoff::Jitter) and [`Kind`](verdict::Kind) | serde |
//! | `testing` | manual clock, executor, scripted operation and service | none |
//! | `testing-server` | an HTTP server that misbehaves to order | hyper, hyper-util, h2, tokio's net |
//!
//! All are additive. The default tree is 23 crates.
//!
//! # Time and runtimes
//!
//! Time comes from one [`Clock`]. The default follows tokio, and `tokio::time::pause` with it;
//! another runtime plugs in through [`clock::Runtime`], and a manual clock needs none.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

pub mod attempt;
pub mod backoff;
pub mod breaker;
pub mod budget;
#[cfg(any(feature = "hyper-util", feature = "reqwest"))]
pub mod client;
pub mod clock;
pub mod deadline;
pub mod error;
pub mod event;
mod gate;
pub mod http;
pub mod keyed;
pub mod limit;
pub mod pipeline;
pub mod report;
pub mod retry;
pub mod rng;
mod sync;
#[cfg(feature = "testing")]
pub mod testing;
pub mod throttle;
#[cfg(feature = "tower")]
pub mod tower;
pub mod verdict;
pub mod window;

pub use attempt::Attempt;
pub use breaker::Breaker;
pub use budget::Budget;
pub use clock::Clock;
pub use deadline::Deadline;
pub use error::{Cause, ConfigError, Error};
pub use event::Event;
pub use keyed::{Key, Keyed};
pub use limit::{Bulkhead, RateLimit};
pub use pipeline::Pipeline;
pub use report::Report;
pub use retry::Retry;
pub use rng::Rng;
pub use throttle::{Priority, Throttle};
pub use verdict::Verdict;
pub use window::Window;

/// The README's examples, run as tests.
#[cfg(all(
    doctest,
    feature = "reqwest",
    feature = "testing-server",
    feature = "tower"
))]
#[doc = include_str!("../README.md")]
#[derive(Debug)]
pub struct Readme;
