//! nginx, `HAProxy` and Envoy themselves, in front of an application that misbehaves: is the cause
//! named right, and is the decision to repeat a request?
//!
//! Each program is looked for in a variable of its own (`EVENKEEL_NGINX`, `EVENKEEL_HAPROXY`,
//! `EVENKEEL_ENVOY`), then on the path. One that isn't there is skipped with a word, unless
//! `EVENKEEL_PROXIES` asks for it: `required` for all, or some of their names. `.ci/run` installs
//! them.
//!
//! Time and sockets are real. Waits are for something to happen, and no row depends on how long it
//! takes; a time limit that a proxy has is told by its own log.
#![cfg(unix)]

mod condition;
mod envoy;
mod haproxy;
mod nginx;
mod program;
mod upstream;

use condition::every_row;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_nginx() {
    every_row(&nginx::PROXY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_haproxy() {
    every_row(&haproxy::PROXY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_envoy() {
    every_row(&envoy::PROXY).await;
}
