//! Keeps a client on an even keel while the services it calls are overloaded, in maintenance or
//! down.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

pub mod attempt;
pub mod backoff;
pub mod budget;
#[cfg(any(feature = "hyper-util", feature = "reqwest"))]
pub mod client;
pub mod clock;
pub mod deadline;
pub mod error;
pub mod event;
pub mod hold;
pub mod http;
pub mod pipeline;
pub mod report;
pub mod retry;
pub mod rng;
mod sync;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "tower")]
pub mod tower;
pub mod verdict;

pub use attempt::Attempt;
pub use budget::Budget;
pub use clock::Clock;
pub use deadline::Deadline;
pub use error::{Cause, ConfigError, Error};
pub use event::Event;
pub use hold::Key;
pub use pipeline::Pipeline;
pub use report::Report;
pub use retry::Retry;
pub use rng::Rng;
pub use verdict::Verdict;

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
