//! Diagnoses: against recorded answers of real proxies, row by row, and through a pipeline.

#[cfg(all(feature = "testing", feature = "tower"))]
mod engine;
mod fixtures;
mod health;
mod recordings;
mod rows;
