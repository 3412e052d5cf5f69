//! What is wrong with a configuration, and where.

use std::fmt;

use crate::error::ConfigError;

/// A configuration that makes no sense, and which of its fields it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    field: String,
    problem: String,
    check: Option<ConfigError>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

impl std::error::Error for Error {}

impl Error {
    pub(super) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
            check: None,
        }
    }

    /// A policy's own check failed that is configured at `path`.
    pub(super) fn of(path: &str, check: ConfigError) -> Self {
        let (policy, name) = check
            .field()
            .rsplit_once('.')
            .unwrap_or(("", check.field()));
        let name = match (policy, name) {
            ("budget", "cost") => "costs",
            ("bulkhead", "limit") => "max_concurrent",
            ("keyed", "capacity") => "per_key.capacity",
            ("keyed", "idle_after") => "per_key.idle_after",
            ("limit", "bounds") => "adaptive.bounds",
            ("limit", "initial") => "adaptive.initial",
            (_, name) => name,
        };
        Self {
            field: below(path, name),
            problem: check.problem().to_owned(),
            check: Some(check),
        }
    }

    /// The field's whole path, such as `retry.backoff.first`.
    #[must_use]
    pub fn field(&self) -> &str {
        &self.field
    }

    /// What is wrong with it, such as `must be at least 1`.
    #[must_use]
    pub fn problem(&self) -> &str {
        &self.problem
    }

    /// The policy's own word, if a policy's check refused it.
    #[must_use]
    pub const fn check(&self) -> Option<ConfigError> {
        self.check
    }
}

/// The path of a field in the section at `path`.
pub(super) fn below(path: &str, name: impl fmt::Display) -> String {
    if path.is_empty() {
        name.to_string()
    } else {
        format!("{path}.{name}")
    }
}
