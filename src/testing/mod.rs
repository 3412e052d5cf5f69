//! Testing retry behaviour without waiting for it.
//!
//! A [`ManualClock`] stands still until it is moved, [`block_on`] moves it whenever nothing else
//! can happen, a [`Script`] plays the service, and a seeded [`Rng`](crate::Rng) makes chance
//! repeatable. Nothing here needs a runtime. `ScriptedService` (feature `tower`) is a script for
//! tower stacks, and `Server` (feature `testing-server`) misbehaves over real sockets.
//! [`chaos`](crate::chaos) lets any operation fail to order, and a service that is real.
//!
//! # Example
//!
//! ```
//! use evenkeel::testing::{ManualClock, Script, block_on};
//! use evenkeel::{Pipeline, Retry, backoff::{Backoff, Jitter}};
//! use std::time::Duration;
//!
//! let clock = ManualClock::new();
//! let backoff = Backoff::exponential(Duration::from_millis(100)).jitter(Jitter::None);
//! let pipeline = Pipeline::new().retry(Retry::new(backoff)).clock(clock.clock());
//!
//! let script = Script::new(&clock).err("busy").err("still busy").ok(7);
//! let got = block_on(&clock, pipeline.run(|attempt| script.play(attempt)));
//!
//! assert_eq!(got, Ok(7));
//! assert_eq!(clock.waits(), [Duration::from_millis(100), Duration::from_millis(200)]);
//! ```

mod clock;
mod executor;
#[cfg(feature = "tower")]
mod reply;
mod script;

#[cfg(feature = "testing-server")]
mod connection;
#[cfg(feature = "testing-server")]
mod server;
#[cfg(feature = "tower")]
mod service;

pub use clock::{ManualClock, Pending};
pub use executor::{Executor, Task, block_on};
#[cfg(feature = "tower")]
pub use reply::Reply;
pub use script::{Play, Script};
#[cfg(feature = "testing-server")]
pub use server::{Received, Server};
#[cfg(feature = "tower")]
pub use service::{ScriptedBody, ScriptedService, Seen};
