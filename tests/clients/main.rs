//! What hyper-util's client and reqwest do under a pipeline, over real sockets: through every door,
//! over HTTP/1.1 and HTTP/2, against a server that misbehaves on cue.
//!
//! Clocks and sockets are real, so waits are a few milliseconds and nothing depends on their
//! length: only on order, and on what a server asked for as a lower bound.
#![cfg(all(feature = "reqwest-middleware", feature = "testing-server"))]

mod answers;
mod bodies;
mod chaos;
mod check;
mod connections;
mod diagnosis;
mod doors;
mod drain;
mod endpoints;
mod errors;
mod goaway;
mod outcome;
mod support;
mod time;
