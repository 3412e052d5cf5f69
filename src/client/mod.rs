//! Doors for given HTTP clients, and what only they can know of their errors.

#[cfg(feature = "hyper-util")]
pub(crate) mod hyper_util;
#[cfg(feature = "reqwest")]
pub mod reqwest;
#[cfg(feature = "reqwest-middleware")]
mod reqwest_middleware;
