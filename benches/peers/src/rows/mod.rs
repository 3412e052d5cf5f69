//! The rows, a file for each concept.

mod breaker;
mod limits;
mod loopback;
mod memory;
mod pipeline;
mod retry;

use crate::measure::Row;

/// All of them, set up one at a time: what one row holds doesn't sit in another's caches.
pub const ROWS: &[fn() -> Row] = &[
    breaker::closed_by_time,
    breaker::closed_given_the_moment,
    breaker::closed_by_calls,
    breaker::closed_in_a_row,
    breaker::open,
    breaker::scattered,
    breaker::by_key,
    breaker::two_threads,
    retry::first_try,
    retry::two_failures,
    retry::one_delay,
    limits::timeout_ready,
    limits::timeout_pending,
    limits::bulkhead,
    limits::rate_limit,
    pipeline::plain,
    pipeline::http,
    pipeline::preset,
    pipeline::seconds,
    pipeline::date,
    loopback::hyper_util,
    loopback::reqwest,
    memory::breaker,
    memory::key,
    memory::call,
];
