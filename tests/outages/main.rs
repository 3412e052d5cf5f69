//! Fleets of clients against services that fail: the real policies in a world of discrete events.
//!
//! `cargo test --release --test outages -- --ignored --nocapture` prints the table.

mod arrivals;
mod fleet;
mod goals;
mod golden;
mod measure;
mod model;
mod oracle;
mod policies;
mod random;
mod scenarios;
mod table;
mod timeline;
mod world;
