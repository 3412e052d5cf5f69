//! The table: a row per marker, each with its source.
//!
//! To read a row: *answers that [`by`](Signature::by) makes, [`on`](Signature::on) these statuses,
//! [`when`](Signature::when) all of this holds, [`say`](Signature::says) this much for these causes.*
//! Weights are decibans: 30 for what a server says on purpose, about 20 for the page of a known
//! proxy and for plain words, 3 to 22 for a status, 8 or 9 for a time. A page that several causes share
//! has several weights; the largest is the commonest cause, not the only one.
//!
//! A new row needs a source and a fixture: `tests/diagnosis/rows.rs` has a check for each.

mod edges;
mod explicit;
mod plain;
mod proxies;

use super::Signature;

pub(super) static TABLE: &[&[Signature]] = &[
    explicit::EXPLICIT,
    explicit::PROXY_STATUS,
    explicit::CLIENT,
    proxies::ENVOY,
    proxies::NGINX,
    proxies::HAPROXY,
    proxies::APACHE,
    proxies::VARNISH,
    proxies::SQUID,
    proxies::OTHERS,
    edges::AWS,
    edges::CLOUDFLARE,
    edges::GOOGLE,
    edges::MICROSOFT,
    edges::AKAMAI,
    proxies::KUBERNETES,
    edges::PLATFORMS,
    plain::WORDS,
    plain::MAKERS,
    plain::STATUS,
    plain::TIMES,
];

const fn row(name: &'static str, source: &'static str) -> Signature {
    Signature::new(name, source)
}

/// Time limits that people set and programs have, in milliseconds.
pub(super) const TIDY: &[u32] = &[
    500, 1_000, 2_000, 3_000, 4_000, 5_000, 8_000, 10_000, 15_000, 19_000, 20_000, 25_000, 29_000,
    30_000, 40_000, 45_000, 50_000, 60_000, 75_000, 90_000, 100_000, 120_000, 180_000, 240_000,
    300_000, 600_000,
];
