//! Fleets of clients against services that fail: what the default policy is to reach.
//!
//! `cargo test --release --all-features --test outages -- --ignored --nocapture` prints the table.

mod goals;
mod table;
