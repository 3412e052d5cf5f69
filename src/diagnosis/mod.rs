//! What was the matter: why a call failed, who says so, and how long it may last.
//!
//! A 503 is said by an application that is overloaded, by a proxy whose servers are down, by a rate
//! limiter, by an operator at work, and by a gateway that waited too long; each wants something else
//! done about it, and the status tells them apart only in six cases of ten. The rest of the answer
//! tells more: what its headers say on purpose, the words and the make of its page, and when it came.
//! [`Symptoms`] hold what a client can see, a table of [`Signatures`] weighs it, and a [`Diagnosis`]
//! names the likeliest [`Cause`], or says that it is [unknown](Cause::Unknown).
//!
//! # Example
//!
//! ```
//! use evenkeel::diagnosis::{Cause, Origin, Persistence, Symptoms};
//! use http::{HeaderMap, HeaderValue, StatusCode};
//! use std::time::Duration;
//!
//! let mut headers = HeaderMap::new();
//! headers.insert("content-type", HeaderValue::from_static("text/html"));
//! headers.insert("retry-after", HeaderValue::from_static("3600"));
//! let diagnosis = Symptoms::response(StatusCode::SERVICE_UNAVAILABLE, &headers)
//!     .body(b"<h1>Down for planned maintenance</h1>")
//!     .diagnose();
//! assert_eq!(diagnosis.cause(), Cause::Maintenance);
//! assert_eq!(diagnosis.persistence(), Persistence::Announced(Duration::from_secs(3600)));
//! println!("{diagnosis}; look at {}", diagnosis.cause().checks()[0]);
//! println!("meanwhile: {}", diagnosis.cause().advice());
//! ```
//!
//! # How evidence adds up
//!
//! Each row of the table that holds adds its weight, in decibans, to the causes it speaks for: 30 for
//! what a server says on purpose, about 20 for the page of a known proxy and for plain words, less for
//! a status, 8 for a time, and up to 10 for what [`Health`] knows. A cause is named if it is twice as
//! likely as the next one and as not knowing; a tie is unknown, never a guess.
//! [`confidence`](Diagnosis::confidence) is what the odds make of it.
//!
//! # With a pipeline
//!
//! [`Http`](crate::http::Http) diagnoses each failed attempt by its headers, status, reason phrase and
//! time: [`Report::diagnosis`](crate::Report::diagnosis) has the last one, and
//! [`Event::diagnosis`](crate::Event::diagnosis) the same in few words. **It doesn't
//! read the body**: an attempt would have to wait for it. Who has the body of the answer that came back
//! asks again, with [`Symptoms::body`].
//!
//! A diagnosis is told, and decides next to nothing, for a server can say what it likes:
//!
//! - What it says can make the client wait longer or give up sooner. A `Proxy-Status` that names a
//!   mistake in a configuration or a certificate ends retries, and so do rows of one's own; see
//!   [`Http::signatures`](crate::http::Http::signatures).
//! - What [proves](crate::http::provably_not_sent) that a request was not sent makes it safe to
//!   repeat, within attempts, budget and deadline as ever.
//! - Nothing else ever adds an attempt, or time.
//!
//! # Cost
//!
//! A call that succeeds pays nothing. A failed attempt pays some microseconds and one allocation. At
//! most 4 KiB of a body are looked at, and eight values of a header of at most 1 KiB each.
//!
//! `docs/diagnosis.md` has what to check next for each cause, and how often the table is right.

mod cause;
mod health;
mod history;
mod score;
mod signature;
mod signatures;
mod symptoms;
mod text;

pub use cause::{Cause, Origin, Persistence};
pub use health::Health;
pub use history::{Change, Condition, Hints, Observation, Slowing, Snapshot, Spread};
pub use score::{Brief, Diagnosis, Evidence, Signatures};
pub use signature::{Signature, Test};
pub use symptoms::Symptoms;
