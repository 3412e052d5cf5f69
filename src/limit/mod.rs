//! How many may run at once, and how many per second.
//!
//! A service that gets more work than it can do doesn't do more of it: what it can't do waits, and
//! what has waited too long is thrown away after it was done. A client that knows what a service
//! can take keeps the rest at home, where waiting costs nothing and ends by its deadline.
//!
//! - A [`Bulkhead`] bounds how many attempts run at once, so that one slow service can't take all
//!   connections, tasks and memory. The bound is fixed, or learned from the answers: see
//!   [`Limit`], [`Aimd`] and [`Gradient`].
//! - A [`RateLimit`] bounds how many attempts begin per second, for services that count. It learns
//!   from what such a service says of its own quota.
//!
//! # Example
//!
//! ```
//! use evenkeel::limit::{Bulkhead, RateLimit};
//! use std::time::{Duration, Instant};
//!
//! let bulkhead = Bulkhead::new(2).queue(0);
//! let (first, second) = (bulkhead.try_acquire(), bulkhead.try_acquire());
//! assert!(first.is_some() && second.is_some() && bulkhead.try_acquire().is_none());
//! drop(first); // dropping a permit gives it back
//! assert!(bulkhead.try_acquire().is_some());
//!
//! let (limit, now) = (RateLimit::per_second(10).burst(1), Instant::now());
//! assert!(limit.try_acquire(now).is_ok());
//! let refused = limit.try_acquire(now).unwrap_err();
//! assert_eq!(refused.retry_at(), Some(now + Duration::from_millis(100)));
//! ```
//!
//! # Waiting
//!
//! Both have a line for those that can't go at once. It is bounded, and first come, first served:
//! nobody passes one that waits. Whoever finds it full is refused, and so is, at once, whoever is
//! known to have its turn only after the last moment at which it can use it. A refusal says when
//! to come back. Only the next in line is ever woken. Dropping what waits gives up its place.
//!
//! A future that nobody polls (one held beside others in a `buffer_unordered`, say) can't take its
//! turn. When the next in line hasn't asked for 50 ms after it was woken, others go before it; it
//! keeps its place, and is the next again once it is polled. That is found out when somebody comes or
//! goes, and at a rate limit also when a turn is over; a bulkhead that is left alone has no timer.
//!
//! # Defaults
//!
//! | setting | default | why |
//! |---|---|---|
//! | [`Bulkhead::queue`] | as many as the limit begins with | those in line wait about as long as one attempt takes |
//! | [`Bulkhead::order`], [`RateLimit::order`] | first come, first served | fair, and a wait can be foretold |
//! | [`Bulkhead::max_wait`] | none | the deadline is what matters |
//! | bounds of a learned limit | from 20, 1 to 1000 | far enough for most, never nothing |
//! | [`RateLimit::burst`] | a tenth of what is allowed, at least 1 | a service that counts per period sees a tenth too many at worst |
//! | [`RateLimit::queue`] | 1000 | bounds memory; waits are bounded by deadlines |
//! | [`RateLimit::max_pause`] | 5 min | a longer hint is for the call that was told, and no answer stops everything for a day |
//!
//! # Changes
//!
//! [`Change`]: a learned limit moved, or a service made a rate limit pause, by a hint or by saying that
//! nothing is left. Ends of a pause less than 100 ms apart are one change.
//!
//! # What it does not do
//!
//! Limits are this process's own. They know nothing of other clients of the same service but what
//! the service's answers tell.

mod adaptive;
mod bulkhead;
mod gcra;
mod rate;
pub(crate) mod room;
mod turn;

use std::time::Duration;

pub use adaptive::{Aimd, Fixed, Gradient, Limit, Sample};
pub use bulkhead::{Acquire, Bulkhead, BulkheadSnapshot, Permit};
pub use rate::{AcquireRate, RateLimit, RateSnapshot};
pub use room::Order;

/// What happened to a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// A learned limit moved.
    Moved {
        /// How many could run at once before.
        from: u32,
        /// How many can now.
        to: u32,
    },
    /// The service said that its quota is used up: nothing begins for so long.
    Paused {
        /// From now on, at least: clients that were told the same moment come back a little apart.
        length: Duration,
    },
}
