//! A pipeline from a configuration file, and another one while calls go by.
//!
//! Which limits are right is known in production, not when the code is written. A [`Config`] is a
//! plain value that any self-describing serde format reads, and that makes a [`Pipeline`]; where a pipeline was made
//! [`reloadable`](Pipeline::reloadable), a later one changes it under way, and windows, budgets and
//! open times keep their state.
//!
//! # Example
//!
//! ```
//! use evenkeel::config::Config;
//!
//! let config: Config = toml::from_str(r#"
//!     deadline = "10s"
//!     timeout = "1s"
//!
//!     [retry]
//!     max_attempts = 3
//!     backoff = { kind = "exponential", first = "50ms", max_delay = "1s" }
//!     budget = { ratio = "20%", per_key = true }
//!
//!     [window]
//!     max_parked = 500
//!
//!     [rate_limit]
//!     count = 100
//!     per = "1s"
//! "#).unwrap();
//! let pipeline = config.pipeline().unwrap().reloadable();
//!
//! // Later: the file was written anew.
//! let config: Config = toml::from_str(r#"timeout = "2s""#).unwrap();
//! config.reload(&pipeline).unwrap();
//!
//! // Whatever is wrong is told with its name, and changes nothing.
//! let error = toml::from_str::<Config>("[retry]\nmax_hint = 5").unwrap_err().to_string();
//! assert!(error.contains("retry.max_hint"), "{error}");
//! let config: Config = toml::from_str("[retry]\nmax_attempts = 0").unwrap();
//! assert_eq!(config.reload(&pipeline).unwrap_err().field(), "retry.max_attempts");
//! ```
//!
//! # The fields
//!
//! They have the names of the builders' setters; those of each section are documented at its type.
//! What is left out is as in the preset (`base`), and in a section that the preset doesn't have, as
//! in its policy's `new`.
//!
//! | field | is | section off |
//! |---|---|---|
//! | `base` | the preset that is bent: `"http"` ([`Pipeline::http`], the default) or `"none"` ([`Pipeline::new`]) | |
//! | `deadline`, `timeout` | durations | `"off"` |
//! | `min_time_left`, `idempotent` | a duration, a bool; see [`Pipeline`] | |
//! | `retry` | [`Retry`], in it `backoff`, `after_rate_limit` ([`Backoff`]) and `budget` ([`Budget`]) | `"off"`, also for `retry.budget` |
//! | `throttle`, `window`, `rate_limit`, `bulkhead`, `breaker` | [`Throttle`], [`Window`], [`RateLimit`], [`Bulkhead`], [`Breaker`] | `"off"` |
//! | `endpoints` | [`Endpoints`], with its `list`; one set for all calls | |
//!
//! - Durations are strings with a unit: `"250ms"`, `"1m 30s"`. A number alone is refused.
//! - Shares are `"50%"` or `0.5`.
//! - `per_key = true` makes a policy one per service; `per_key = { capacity = 100, idle_after = "5m" }`
//!   sets its registry too.
//! - Unknown fields are refused.
//!
//! What isn't data stays in code: the classifier, clock, chance and observer of the pipeline that a
//! configuration is [applied](Config::apply) to, custom backoffs, limits of the user's own,
//! [`Keyed::with`](crate::Keyed::with), [`Budget::floor`](crate::Budget::floor). A policy that needs
//! one of those is set after `apply`. [`Pipeline::reload`] takes such a pipeline too.

mod error;
mod sections;
mod value;

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::http::Http;
use crate::pipeline::Pipeline;

pub use error::Error;
pub use sections::{
    Adaptive, Backoff, Bounds, Breaker, Budget, Bulkhead, Costs, Endpoints, Learning, RateLimit,
    Registry, Retry, Shape, SlowCalls, Throttle, Traffic, Window,
};
pub use value::{PerKey, Setting};

use value::{Plain, optional, plain};

/// A pipeline's policies as plain data; see the [module](self).
///
/// Reading it tells apart what can't be right by itself, such as an unknown field or a duration
/// without a unit; [`check`](Self::check), and whatever uses it, tell settings that make no sense.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, remote = "Self")]
#[non_exhaustive]
pub struct Config {
    /// What is bent. Default: [`Base::Http`].
    #[serde(with = "optional", skip_serializing_if = "Option::is_none")]
    pub base: Option<Base>,
    /// [`Pipeline::deadline`].
    #[serde(with = "optional", skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Setting<Duration>>,
    /// [`Pipeline::timeout`].
    #[serde(with = "optional", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Setting<Duration>>,
    /// [`Pipeline::min_time_left`].
    #[serde(with = "optional", skip_serializing_if = "Option::is_none")]
    pub min_time_left: Option<Duration>,
    /// [`Pipeline::idempotent`]. Default: what the pipeline says that it is applied to.
    #[serde(with = "optional", skip_serializing_if = "Option::is_none")]
    pub idempotent: Option<bool>,
    /// [`Pipeline::retry`].
    #[serde(with = "optional", skip_serializing_if = "Option::is_none")]
    pub retry: Option<Setting<Retry>>,
    /// [`Pipeline::throttle`].
    #[serde(with = "optional", skip_serializing_if = "Option::is_none")]
    pub throttle: Option<Setting<Throttle>>,
    /// [`Pipeline::window`].
    #[serde(with = "optional", skip_serializing_if = "Option::is_none")]
    pub window: Option<Setting<Window>>,
    /// [`Pipeline::rate_limit`].
    #[serde(with = "optional", skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<Setting<RateLimit>>,
    /// [`Pipeline::bulkhead`].
    #[serde(with = "optional", skip_serializing_if = "Option::is_none")]
    pub bulkhead: Option<Setting<Bulkhead>>,
    /// [`Pipeline::breaker`].
    #[serde(with = "optional", skip_serializing_if = "Option::is_none")]
    pub breaker: Option<Setting<Breaker>>,
    /// [`Pipeline::endpoints`]. Left out: those of the pipeline that it is applied to.
    #[serde(with = "optional", skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Endpoints>,
}

/// A preset that a configuration bends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Base {
    /// [`Pipeline::http`].
    #[default]
    Http,
    /// [`Pipeline::new`]: no policies.
    None,
}

plain! { Base, "a preset"; }

impl Config {
    /// The pipeline for HTTP with these policies.
    ///
    /// # Errors
    ///
    /// The first setting that makes no sense, with its path.
    pub fn pipeline(&self) -> Result<Pipeline<Http>, Error> {
        self.apply(Pipeline::http())
    }

    /// The pipeline with these policies, instead of those that it has, and with its own classifier,
    /// clock, chance and observer. State begins anew, and it isn't
    /// [`reloadable`](Pipeline::reloadable) yet.
    ///
    /// # Errors
    ///
    /// The first setting that makes no sense, with its path.
    ///
    /// # Examples
    ///
    /// ```
    /// use evenkeel::Pipeline;
    /// use evenkeel::config::Config;
    ///
    /// let config: Config = serde_json::from_str(r#"{ "base": "none", "timeout": "2s" }"#).unwrap();
    /// let pipeline = config.apply(Pipeline::new()).unwrap();
    /// assert!(pipeline.check().is_ok());
    /// ```
    pub fn apply<C>(&self, pipeline: Pipeline<C>) -> Result<Pipeline<C>, Error> {
        let preset = match self.base.unwrap_or_default() {
            Base::Http => Pipeline::http().source.load(),
            Base::None => Pipeline::new().source.load(),
        };
        let gates = &preset.gates;
        let retry = build(self.retry.as_ref(), preset.retry.as_ref(), |it| {
            it.build(preset.retry.as_ref())
        })?;
        let throttle = build(
            self.throttle.as_ref(),
            gates.throttle.as_ref(),
            Throttle::build,
        )?;
        let window = build(self.window.as_ref(), gates.window.as_ref(), |it| {
            it.build(gates.window.as_ref())
        })?;
        let rate_limit = build(
            self.rate_limit.as_ref(),
            gates.rate_limit.as_ref(),
            RateLimit::build,
        )?;
        let bulkhead = build(
            self.bulkhead.as_ref(),
            gates.bulkhead.as_ref(),
            Bulkhead::build,
        )?;
        let breaker = build(
            self.breaker.as_ref(),
            gates.breaker.as_ref(),
            Breaker::build,
        )?;
        let endpoints = self.endpoints.as_ref().map(Endpoints::build).transpose()?;
        let pipeline = pipeline.change(|it| {
            it.deadline = length(self.deadline, preset.deadline);
            it.timeout = length(self.timeout, preset.timeout);
            it.min_time_left = self.min_time_left.unwrap_or(preset.min_time_left);
            it.configured_idempotent = self.idempotent;
            it.retry = retry;
            it.gates.throttle = throttle;
            it.gates.window = window;
            it.gates.rate_limit = rate_limit;
            it.gates.bulkhead = bulkhead;
            it.gates.breaker = breaker;
            if endpoints.is_some() {
                it.endpoints = endpoints;
            }
        });
        pipeline.check().map_err(|error| Error::of("", error))?;
        Ok(pipeline)
    }

    /// Gives these policies to a pipeline that calls go through, which keeps its state: see
    /// [`Pipeline::reload`].
    ///
    /// # Errors
    ///
    /// The first setting that makes no sense, with its path; or the pipeline isn't
    /// [`reloadable`](Pipeline::reloadable). Nothing is changed then.
    pub fn reload<C>(&self, pipeline: &Pipeline<C>) -> Result<(), Error> {
        let to = self.apply(Pipeline::new())?;
        let reloaded = pipeline.reload(&to);
        reloaded.map_err(|error| Error::new(error.field(), error.problem()))
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// The first setting that makes no sense, with its path.
    pub fn check(&self) -> Result<(), Error> {
        self.apply(Pipeline::new()).map(drop)
    }
}

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        /// Read without naming the place of an error.
        struct Unnamed(Config);

        impl<'de> Deserialize<'de> for Unnamed {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                Config::deserialize(from).map(Self)
            }
        }

        let read = serde_path_to_error::deserialize::<_, Unnamed>(from);
        let config = read.map_err(|error| {
            let (path, error) = (error.path().to_string(), error.into_inner());
            serde::de::Error::custom(format_args!("{path}: {error}"))
        })?;
        Ok(config.0)
    }
}

impl Serialize for Config {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, to)
    }
}

/// What the configuration says, or else the preset's.
fn build<S, P: Clone>(
    section: Option<&Setting<S>>,
    preset: Option<&P>,
    build: impl FnOnce(&S) -> Result<P, Error>,
) -> Result<Option<P>, Error> {
    match section {
        None => Ok(preset.cloned()),
        Some(Setting::Off) => Ok(None),
        Some(Setting::On(section)) => build(section).map(Some),
    }
}

fn length(setting: Option<Setting<Duration>>, preset: Option<Duration>) -> Option<Duration> {
    match setting {
        None => preset,
        Some(setting) => setting.as_option().copied(),
    }
}
