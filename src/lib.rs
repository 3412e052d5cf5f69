//! Keeps a client on an even keel while the services it calls are overloaded, in maintenance or
//! down.
//!
//! A service that answers 503, 504 or 429, or not at all, is made worse by a client that asks again
//! at once, and stays down when a fleet of them does. This crate wraps any async call, any tower
//! service, and any HTTP client, so that it tries again where that helps, sends no more than the
//! service can answer, waits as long as the server asks, and is done by its deadline.
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
//! | an async call | [`Pipeline::run`], or one policy alone: [`Retry::run`], [`Breaker::run`], .. |
//! | hyper-util, anything tower | a [`Pipeline`] as a layer (see [`tower`]); [`Pipeline::http`] for HTTP |
//! | reqwest | [`send_with`](client::reqwest::SendWith), the tower layer, or reqwest-middleware |
//! | an overload to survive | [`Window`]: in [`Pipeline::http`] it is on |
//! | a service that is down for long, and callers that want to know at once | [`Breaker`] |
//! | a service that counts calls | [`RateLimit`], which learns from what the service says is left |
//! | connections, tasks and memory to protect from one slow service | [`Bulkhead`], fixed or learned |
//! | work that matters less than other work | [`Throttle`] and [`Priority`] |
//! | a service of several hosts, one of which may be bad | [`Endpoints`], which choose a healthy one for each attempt |
//! | many services behind one pipeline | [`Keyed`], one policy for each [`Key`] |
//! | a loop of your own | [`Backoff::delays`](backoff::Backoff::delays), [`Budget`], `try_acquire` of the policies above, [`http::retry_after`], [`http::server_hint`] |
//! | limits that change without a new build, or under way | `config` (feature `serde`), [`Pipeline::reload`] |
//! | a dashboard, alerts, traces | `metrics` (feature `metrics`), the spans of [`event`], an [observer](Pipeline::observer) |
//! | an outage to explain afterwards | [`incident`]: a report of it, from its events: why, who said so, and what to do |
//! | a 503 to understand: who said it, why, and for how long | [`diagnosis`]; `examples/doctor` asks any URL |
//! | a health endpoint, to ask before a user's call is risked | [`check`] |
//! | a unit test | [`testing`] |
//! | an outage to try before it happens | [`sim`]: fleets of clients with these policies, against simulated services |
//! | faults to order, in tests and staging | [`Chaos`] |
//!
//! # The order
//!
//! A pipeline has one order, outside in:
//!
//! ```text
//! total deadline ─▶ retry (backoff, server's hints, budget) ─▶ per attempt:
//!   throttle ─▶ window ─▶ rate limit ─▶ bulkhead ─▶ readiness ─▶ breaker ─▶ endpoint ─▶ timeout ─▶
//!   (chaos) ─▶ the call
//! ```
//!
//! - The **deadline** covers everything: attempts, waits, queues. A wait that would pass it is not
//!   begun; the call fails at once and says when to come back.
//! - A **[retry]** needs a failure that may pass, a request that may be repeated
//!   (idempotent, or provably not processed), attempts, time and budget.
//! - The **[budget]** ties the extra attempts of all calls to a share of the first ones.
//! - The **[throttle]** sheds calls in proportion to what the service refuses, before they stand in any
//!   line.
//! - The **[bulkhead](limit)** bounds how many attempts are under way at once.
//! - The **[window]** lets go what the service can answer, as far as its answers tell, and makes what
//!   one response asked for count for every call to that service.
//! - The **[rate limit](limit)** paces what is left, by the clock.
//! - The **[breaker]** is asked last, when nothing can delay the attempt any more. A first attempt that
//!   finds it open fails at once; a retry waits for it, if the deadline allows.
//! - The **[endpoint](endpoints)** is chosen when the attempt begins: a healthy one that is not busy, and
//!   for a retry another one than before.
//! - The **timeout** ends an attempt that hangs, so that another can be made.
//! - [**Chaos**](chaos) stands where the network would fail. There is none unless code gives one.
//!
//! [`Pipeline::http`] has deadline, retry, window and timeout. [`Pipeline::new`] has none of them. Each
//! policy is one for all calls, or [`keyed`]: one for each service.
//!
//! Each outcome is classified once, into a [`Verdict`]; see [`verdict`] for any call and [`http`]
//! for what statuses, headers and client errors mean. All policies read that verdict.
//!
//! # What comes back
//!
//! The last response or the operation's own error, unchanged, with a [`Report`] of attempts and
//! waits, and a [diagnosis](Report::diagnosis): in the response's extensions, or on the [`Error`]. Where a policy ended the call,
//! [`Error::cause`] says which, and [`Error::retry_at`] when trying again makes sense. What happens
//! on the way is an [`Event`], for an [observer](Pipeline::observer) and for `tracing`, and each attempt
//! a span with OpenTelemetry's names.
//!
//! # Features
//!
//! | feature | brings | crates beside the default tree |
//! |---|---|---|
//! | `tower` (default) | the `Layer` and `Service` door, for a pipeline and for each policy | tower-layer, tower-service |
//! | `hyper-util` | what hyper's, hyper-util's and h2's errors mean | hyper, hyper-util, h2 |
//! | `reqwest` | `send_with`, reqwest through the tower door, what its errors mean | reqwest and the above |
//! | `reqwest-middleware` | a pipeline as a middleware | reqwest-middleware and the above |
//! | `metrics` | counters, gauges and histograms of what a pipeline does (`metrics`), with a dashboard and alerts | metrics, rapidhash, rustversion |
//! | `serde` | a pipeline from a configuration of any serde format (`config`), and `Serialize` and `Deserialize` for [`Ratio`](budget::Ratio), [`Jitter`](backoff::Jitter), [`CountAs`](breaker::CountAs), [`Order`](limit::Order), [`Kind`](verdict::Kind), a breaker's [`Snapshot`](breaker::Snapshot) and the words of a [`diagnosis`]; `Serialize` for a whole one | serde, `serde_path_to_error`, humantime |
//! | `sim` | fleets of clients against simulated services, and what comes of it | libm |
//! | `testing` | manual clock, executor, scripted operation and service | none |
//! | `testing-server` | an HTTP server that misbehaves to order | hyper, hyper-util, h2, tokio's net |
//!
//! All are additive. The default tree is 18 crates.
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
pub mod chaos;
pub mod check;
#[cfg(any(feature = "hyper-util", feature = "reqwest"))]
pub mod client;
pub mod clock;
#[cfg(feature = "serde")]
pub mod config;
pub mod deadline;
pub mod diagnosis;
pub mod endpoints;
pub mod error;
pub mod event;
mod gate;
pub mod http;
pub mod incident;
pub mod keyed;
pub mod limit;
#[cfg(feature = "metrics")]
pub mod metrics;
pub mod pipeline;
pub mod report;
pub mod retry;
pub mod rng;
#[cfg(feature = "sim")]
pub mod sim;
mod span;
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
pub use chaos::Chaos;
pub use clock::Clock;
pub use deadline::Deadline;
pub use endpoints::Endpoints;
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
    feature = "serde",
    feature = "sim",
    feature = "testing-server",
    feature = "tower"
))]
#[doc = include_str!("../README.md")]
#[derive(Debug)]
pub struct Readme;
